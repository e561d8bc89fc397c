//! Active checks of servers.

mod proxy_support;

use proxy_support::client::Client;
use proxy_support::server::{Manner, Server};
use proxy_support::{Proxy, listener, replica, served};

const ANSWERED: &str = "pgvane_checks_total{cluster=\"main\",result=\"answered\"}";

fn answers(target: &str) -> String {
    format!("pgvane_target_answers{{cluster=\"main\",target=\"{target}\"}}")
}

#[tokio::test]
async fn a_silent_server_is_passed_over_until_it_answers_again() {
    let (cluster, _server) = served().await;
    let (two, three) = (Server::start("pg2", Manner::Serve).await, Server::start("pg3", Manner::Serve).await);
    cluster.member("pg2", &replica(two.address)).await;
    cluster.member("pg3", &replica(three.address)).await;
    let checks =
        "checks = { when = \"always\", interval = \"20ms\", timeout = \"100ms\", rise = 2, fall = 2 }";
    let proxy = Proxy::start(&cluster, checks, &[listener("replica", "answer_timeout = \"20s\"")]);
    proxy.until_serving().await;
    proxy.until_metric(&answers("pg2"), 1.0).await;
    let (mut open, name) = Client::enter(proxy.addresses[0]).await;
    // One that hangs: connections are taken and nothing is said.
    let silent = if name == "pg2" { &two } else { &three };
    silent.behave(Manner::Silent);
    proxy.until_metric(&answers(&name), 0.0).await;
    for _ in 0..4 {
        assert_ne!(Client::enter(proxy.addresses[0]).await.1, name);
    }
    open.echo(b"a session is not cut for it").await;
    silent.behave(Manner::Serve);
    proxy.until_metric(&answers(&name), 1.0).await;
    let mut names = vec![];
    for _ in 0..2 {
        names.push(Client::enter(proxy.addresses[0]).await.1);
    }
    names.sort();
    assert_eq!(names, ["pg2", "pg3"], "in turn again");
}

#[tokio::test]
async fn nobody_is_checked_while_the_store_answers() {
    let (cluster, server) = served().await;
    let two = Server::start("pg2", Manner::Serve).await;
    cluster.member("pg2", &replica(two.address)).await;
    let checks = "checks = { interval = \"20ms\", timeout = \"100ms\", fall = 1 }";
    let proxy = Proxy::start(&cluster, checks, &[listener("primary", ""), listener("replica", "")]);
    proxy.until_serving().await;
    // Twenty intervals at least; each re-read of the store is one that it answered.
    let reads = "pgvane_store_reads_total{cluster=\"main\"}";
    let before = proxy.metric(reads).await;
    proxy_support::soon("re-reads", async {
        while proxy.metric(reads).await < before + 3.0 {
            tokio::time::sleep(std::time::Duration::from_millis(10)).await;
        }
    })
    .await;
    assert_eq!((*server.met.borrow(), *two.met.borrow()), (0, 0));
    assert!(proxy.metric(ANSWERED).await.abs() < f64::EPSILON);

    cluster.proxy_side.set_available(false);
    proxy.until_topology("the store is down", |t| t["clusters"][0]["store_up"] == false).await;
    proxy_support::soon("checks", async {
        while proxy.metric(ANSWERED).await < 2.0 {
            tokio::time::sleep(std::time::Duration::from_millis(10)).await;
        }
    })
    .await;
    // It dies, and nobody tells.
    two.leave().await;
    proxy.until_metric(&answers("pg2"), 0.0).await;
    cluster.proxy_side.set_available(true);
    proxy.until_metric(&answers("pg2"), 1.0).await;
}

#[tokio::test]
async fn a_primary_out_of_reach_is_told_of_until_it_answers_again() {
    let (cluster, server) = served().await;
    let admin = "[admin]\nlisten = [\"127.0.0.1:0\"]\nready_grace = \"300ms\"\n".to_owned();
    let checks = "checks = { interval = \"20ms\", timeout = \"100ms\" }";
    let proxy = Proxy::start(&cluster, checks, &[admin, listener("primary", "hold_timeout = \"50ms\"")]);
    proxy.until_serving().await;
    let address = server.leave().await;
    assert_eq!(proxy.get("/readyz").await.0, 200, "nobody has found out");
    // Told while it waits: the grace runs out without an event.
    let told = proxy.get("/readyz?wait=20s");
    let client = async {
        let mut client = Client::connect(proxy.addresses[0]).await;
        client.say_hello().await;
        client.welcome().await;
    };
    let ((status, why), ()) = proxy_support::soon("the answer", async { tokio::join!(told, client) }).await;
    assert_eq!(status, 503);
    assert!(why.starts_with("cluster main: the primary pg1 cannot be reached from here (for "), "{why}");
    // It is back, and no client comes to find out.
    let _back = Server::start_at("pg1", Manner::Serve, address).await;
    proxy.until_metric("pgvane_ready", 1.0).await;
}
