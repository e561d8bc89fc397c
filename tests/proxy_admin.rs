//! What an operator does to a running proxy over HTTP.

mod proxy_support;

use proxy_support::client::{Client, Welcome};
use proxy_support::server::{Manner, Server};
use proxy_support::{Proxy, TOKEN, ends, listener, replica, served};

#[tokio::test]
async fn only_who_has_the_token_changes_anything_or_sees_clients() {
    let (cluster, _server) = served().await;
    let proxy = Proxy::start(&cluster, "", &[TOKEN.to_owned(), listener("primary", "")]);
    proxy.until_serving().await;
    let drain = "/clusters/main/targets/pg1/drain";
    for headers in ["", "Authorization: Bearer a wrong token....\r\n", "Authorization: Basic YTpi\r\n"] {
        assert_eq!(proxy.ask("POST", drain, headers).await.0, 401, "{headers}");
        assert_eq!(proxy.ask("GET", "/sessions", headers).await.0, 401, "{headers}");
    }
    assert_eq!(proxy.topology().await["clusters"][0]["members"][0]["admission"], "enabled");
    assert_eq!(proxy.with_token("POST", drain).await.0, 200);
    assert_eq!(proxy.with_token("GET", drain).await.0, 405, "reading changes nothing");
    let without = Proxy::for_writes(&cluster, "");
    let (status, why) = without.with_token("POST", drain).await;
    assert_eq!(status, 403, "{why}");
    assert!(why.contains("[admin] token is not set"), "{why}");
}

#[tokio::test]
async fn a_drained_primary_holds_who_comes_and_keeps_who_is_there() {
    let (cluster, _server) = served().await;
    let sections = [TOKEN.to_owned(), listener("primary", "hold_timeout = \"20s\"")];
    let proxy = Proxy::start(&cluster, "", &sections);
    let (mut session, _) = Client::enter(proxy.addresses[0]).await;
    let (status, said) = proxy.with_token("POST", "/clusters/main/targets/pg1/drain").await;
    assert_eq!((status, said.as_str()), (200, "pg1 is draining; sessions that go on: 1\n"));
    let mut held = Client::connect(proxy.addresses[0]).await;
    held.say_hello().await;
    proxy.until_metric("pgvane_held{listener=\"primary\"}", 1.0).await;
    // A message, so that what follows it can be told.
    session.echo(b"D\0\0\0\x05x").await;
    assert_eq!(proxy.with_token("POST", "/clusters/main/targets/pg1/enable").await.0, 200);
    assert_eq!(held.welcome().await, Welcome::In("pg1".to_owned()), "let in at once");

    let (_, said) = proxy.with_token("POST", "/clusters/main/targets/pg1/disable").await;
    assert_eq!(said, "pg1 is disabled; sessions cut: 2\n");
    for mut cut in [session, held] {
        assert!(cut.is_cut().await.contains("an operator has disabled pg1; connect again"));
    }
    proxy.until_metric(&ends("target_disabled"), 2.0).await;
    let reload = [TOKEN.to_owned(), listener("primary", "hold_timeout = \"50ms\"")];
    proxy.reload("", &reload).await.expect("applied");
    let mut refused = Client::connect(proxy.addresses[0]).await;
    refused.say_hello().await;
    let Welcome::Error(code, text) = refused.welcome().await else { panic!("let in") };
    assert_eq!(code, "57P03");
    assert!(text.contains("the primary pg1 is disabled by an operator; gave up after 50ms"), "{text}");
}

#[tokio::test]
async fn reads_go_round_a_drained_replica_and_what_is_unknown_is_told() {
    let (cluster, _server) = served().await;
    let (two, three) = (Server::start("pg2", Manner::Serve).await, Server::start("pg3", Manner::Serve).await);
    cluster.member("pg2", &replica(two.address)).await;
    cluster.member("pg3", &replica(three.address)).await;
    let proxy = Proxy::start(&cluster, "", &[TOKEN.to_owned(), listener("replica", "")]);
    proxy.until_serving().await;
    assert_eq!(proxy.with_token("POST", "/clusters/main/targets/pg2/drain").await.0, 200);
    for _ in 0..4 {
        assert_eq!(Client::enter(proxy.addresses[0]).await.1, "pg3");
    }
    for (path, part) in [
        ("/clusters/other/targets/pg2/drain", "there is no cluster \"other\"; there are: main"),
        ("/clusters/main/targets/pg9/drain", "has no member \"pg9\"; it has: pg1, pg2, pg3"),
        ("/clusters/main/targets/pg2/promote", "allowed: drain, disable, enable"),
        ("/sessions/4711/kill", "there is no session 4711"),
    ] {
        let (status, why) = proxy.with_token("POST", path).await;
        assert_eq!(status, 404, "{path}");
        assert!(why.contains(part), "{path}: {why}");
    }
    let (status, why) = proxy.with_token("POST", "/upgrade").await;
    assert_eq!(status, 409);
    assert!(why.contains("[admin] socket, which is not set"), "{why}");
}
