//! Who may connect, and how many.

mod proxy_support;

use proxy_support::client::{CANCEL_REQUEST, Client, Welcome, packet};
use proxy_support::server::{Manner, Seen, Server};
use proxy_support::{Proxy, ends, replica, served};

async fn refused(proxy: &Proxy) -> (String, String) {
    let mut client = Client::connect(proxy.addresses[0]).await;
    client.say_hello().await;
    match client.welcome().await {
        Welcome::Error(code, text) => (code, text),
        other => panic!("not refused: {other:?}"),
    }
}

#[tokio::test]
async fn clients_of_other_networks_are_told_so_and_reach_no_server() {
    let (cluster, server) = served().await;
    for keys in ["deny = [\"127.0.0.0/8\"]", "allow = [\"192.0.2.0/24\"]"] {
        let proxy = Proxy::for_writes(&cluster, keys);
        let (code, text) = refused(&proxy).await;
        assert_eq!(code, "28000", "{text}");
        assert!(text.contains("takes nobody from this address"), "{text}");
        let mut cancel = Client::connect(proxy.addresses[0]).await;
        cancel.send(&packet(CANCEL_REQUEST, &[7; 8])).await;
        cancel.rest().await;
        proxy.until_metric(&ends("not_allowed"), 2.0).await;
    }
    assert_eq!(*server.met.borrow(), 0);
    let proxy = Proxy::for_writes(&cluster, "allow = [\"127.0.0.1\"]\ndeny = [\"127.0.0.2\"]");
    assert_eq!(Client::enter(proxy.addresses[0]).await.1, "pg1");
}

#[tokio::test]
async fn one_address_cannot_take_all_sessions() {
    let (cluster, mut server) = served().await;
    let proxy = Proxy::for_writes(&cluster, "max_sessions_per_address = 2");
    let (first, _) = Client::enter(proxy.addresses[0]).await;
    let (_second, _) = Client::enter(proxy.addresses[0]).await;
    let (code, text) = refused(&proxy).await;
    assert_eq!(code, "53300");
    assert!(text.contains("max_sessions_per_address"), "{text}");
    proxy.until_metric(&ends("source_limit"), 1.0).await;
    drop(first);
    while server.sees().await != Seen::Closed {}
    proxy.until_metric("pgvane_sessions{listener=\"primary\"}", 1.0).await;
    assert_eq!(Client::enter(proxy.addresses[0]).await.1, "pg1");
}

#[tokio::test]
async fn new_sessions_go_where_the_fewest_are() {
    let (cluster, _server) = served().await;
    let (two, three) = (Server::start("pg2", Manner::Serve).await, Server::start("pg3", Manner::Serve).await);
    cluster.member("pg2", &replica(two.address)).await;
    cluster.member("pg3", &replica(three.address)).await;
    let proxy = Proxy::for_reads(&cluster, "balance = \"least_connections\"");
    let mut open = vec![];
    for _ in 0..4 {
        open.push(Client::enter(proxy.addresses[0]).await);
    }
    let on = |name: &str, open: &[(Client, String)]| open.iter().filter(|(_, n)| n == name).count();
    assert_eq!((on("pg2", &open), on("pg3", &open)), (2, 2));
    open.retain(|(_, name)| name == "pg2");
    proxy.until_metric("pgvane_sessions{listener=\"replica\"}", 2.0).await;
    for _ in 0..2 {
        assert_eq!(Client::enter(proxy.addresses[0]).await.1, "pg3");
    }
}
