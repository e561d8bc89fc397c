//! What a proxy does when etcd is gone, late or wrong.

mod proxy_support;

use std::sync::Arc;
use std::sync::atomic::{AtomicU16, Ordering};
use std::time::{Duration, Instant};

use pgvane_cluster::records::MemberRecord;
use proxy_support::client::{Client, Welcome};
use proxy_support::server::{Manner, Server};
use proxy_support::{Cluster, Proxy, listener, primary, replica};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpListener;

const HELD: &str = "pgvane_held{listener=\"primary\"}";
const STORE_LOST: &str = "pgvane_session_ends_total{listener=\"primary\",reason=\"store_lost\"}";

/// The ttl of [`Cluster::new`].
const TTL: Duration = Duration::from_secs(2);

/// An agent whose answer to `GET /primary` is `status`; answers its port.
async fn agent(status: Arc<AtomicU16>) -> u16 {
    let listener = TcpListener::bind("127.0.0.1:0").await.expect("bind");
    let port = listener.local_addr().expect("bound").port();
    tokio::spawn(async move {
        loop {
            let (mut stream, _) = listener.accept().await.expect("accept");
            let mut request = vec![];
            while !request.ends_with(b"\r\n\r\n") && stream.read_buf(&mut request).await.is_ok_and(|n| n > 0)
            {
            }
            let answer = format!("HTTP/1.0 {} x\r\n\r\n", status.load(Ordering::SeqCst));
            stream.write_all(answer.as_bytes()).await.ok();
        }
    });
    port
}

async fn led_by(server: &Server, agent: u16) -> Cluster {
    let cluster = Cluster::new().await;
    let api_url = Some(format!("http://127.0.0.1:{agent}/patroni"));
    cluster.member("pg1", &MemberRecord { api_url, ..primary(server.address) }).await;
    cluster.lead("pg1").await;
    cluster
}

#[tokio::test]
async fn etcd_unreachable_at_the_start_is_waited_for() {
    let server = Server::start("pg1", Manner::Serve).await;
    let cluster = led_by(&server, 1).await;
    cluster.proxy_side.set_available(false);
    let proxy = Proxy::for_writes(&cluster, "");
    proxy.until_topology("the error", |t| t["clusters"][0]["store_error"] != "not asked yet").await;
    let (status, why) = proxy.get("/readyz").await;
    assert_eq!(status, 503);
    assert!(why.starts_with("cluster main: etcd has not answered yet: "), "{why}");
    assert_eq!(proxy.get("/livez").await.0, 200);
    let mut client = Client::connect(proxy.addresses[0]).await;
    client.say_hello().await;
    proxy.until_metric(HELD, 1.0).await;
    cluster.proxy_side.set_available(true);
    assert_eq!(client.welcome().await, Welcome::In("pg1".to_owned()));
    assert_eq!(proxy.get("/readyz").await, (200, "ready\n".to_owned()));
}

#[tokio::test]
async fn fence_cuts_the_primary_when_the_lease_may_have_run_out() {
    let server = Server::start("pg1", Manner::Serve).await;
    let read_server = Server::start("pg2", Manner::Serve).await;
    let cluster = led_by(&server, 1).await;
    cluster.member("pg2", &replica(read_server.address)).await;
    let ports = [listener("primary", ""), listener("replica", "")];
    let proxy = Proxy::start(&cluster, "on_store_loss = \"fence\"", &ports);
    let (mut writes, _) = Client::enter(proxy.addresses[0]).await;
    let (mut reads, _) = Client::enter(proxy.addresses[1]).await;
    let lost = Instant::now();
    cluster.proxy_side.set_available(false);
    assert!(writes.is_cut().await.contains("nobody can prove any more that pg1 is the primary"));
    let cut_after = lost.elapsed();
    assert!(cut_after < TTL + Duration::from_millis(300), "{cut_after:?}");
    proxy.until_metric(STORE_LOST, 1.0).await;
    assert_eq!(proxy.get("/readyz").await.0, 503);
    reads.echo(b"replicas are not fenced").await;
    let mut held = Client::connect(proxy.addresses[0]).await;
    held.say_hello().await;
    proxy.until_metric(HELD, 1.0).await;
    cluster.proxy_side.set_available(true);
    assert_eq!(held.welcome().await, Welcome::In("pg1".to_owned()));
}

#[tokio::test]
async fn hold_keeps_the_primary_while_its_agent_vouches() {
    let server = Server::start("pg1", Manner::Serve).await;
    let says = Arc::new(AtomicU16::new(200));
    let cluster = led_by(&server, agent(Arc::clone(&says)).await).await;
    let proxy = Proxy::for_writes(&cluster, "");
    let (mut session, _) = Client::enter(proxy.addresses[0]).await;
    cluster.proxy_side.set_available(false);
    proxy.until_topology("an agent that vouches", |t| t["clusters"][0]["standing"] == "vouched").await;
    session.echo(b"still here").await;
    Client::enter(proxy.addresses[0]).await.0.echo(b"and new ones come in").await;
    says.store(503, Ordering::SeqCst);
    assert_eq!(session.rest().await, b"", "an agent that does not vouch ends it");
    proxy.until_topology("nobody vouches", |t| t["clusters"][0]["standing"] == "lost").await;
    cluster.proxy_side.set_available(true);
    Client::enter(proxy.addresses[0]).await;
}

/// A leader that stops renewing: the proxy does not wait for etcd to delete the key.
#[tokio::test]
async fn a_lease_that_runs_out_is_not_outlived() {
    let server = Server::start("pg1", Manner::Serve).await;
    let cluster = Cluster::new().await;
    cluster.member("pg1", &primary(server.address)).await;
    let leased = Instant::now();
    cluster.lead_for("pg1", Duration::from_secs(2)).await;
    let proxy = Proxy::for_writes(&cluster, "");
    let (mut session, _) = Client::enter(proxy.addresses[0]).await;
    session.is_cut().await;
    let lasted = leased.elapsed();
    assert!(lasted < Duration::from_millis(2500), "{lasted:?}");
}

#[tokio::test]
async fn an_event_the_watch_lost_is_found_by_reading() {
    let server = Server::start("pg1", Manner::Serve).await;
    let cluster = led_by(&server, 1).await;
    let proxy = Proxy::for_writes(&cluster, "");
    let (mut session, _) = Client::enter(proxy.addresses[0]).await;
    session.echo(b"before").await;
    cluster.proxy_side.lose_next_event();
    cluster.nobody_leads().await;
    assert_eq!(session.rest().await, b"");
    proxy.until_metric("pgvane_store_missed_events_total{cluster=\"main\"}", 1.0).await;
}

#[tokio::test]
async fn a_watch_that_breaks_cuts_nobody() {
    let server = Server::start("pg1", Manner::Serve).await;
    let cluster = led_by(&server, 1).await;
    let proxy = Proxy::for_writes(&cluster, "");
    let (mut session, _) = Client::enter(proxy.addresses[0]).await;
    let watches = "pgvane_store_watches_total{cluster=\"main\"}";
    for count in 1..=3 {
        proxy.until_metric(watches, f64::from(count)).await;
        cluster.proxy_side.drop_watches();
    }
    session.echo(b"still here").await;
}
