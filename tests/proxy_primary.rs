//! The primary port: who is let in where, who is held, who is cut, who is told why not.

mod proxy_support;

use std::time::{Duration, Instant};

use pgvane_cluster::records::{MemberRecord, MemberRole, MemberState, NativeMember};
use proxy_support::client::{CANCEL_REQUEST, Client, GSSENC_REQUEST, SSL_REQUEST, Welcome, packet};
use proxy_support::server::{Manner, Seen, Server};
use proxy_support::{Cluster, Proxy, ends, primary, record, replica, soon};

/// Far above the goal of 10 ms for the slowest machine that runs tests, far below any poll interval.
const AT_ONCE: Duration = Duration::from_millis(500);

const HELD: &str = "pgvane_held{listener=\"primary\"}";

#[tokio::test]
async fn clients_reach_the_serving_leader() {
    let cluster = Cluster::new().await;
    let (one, two) = (Server::start("pg1", Manner::Serve).await, Server::start("pg2", Manner::Serve).await);
    cluster.member("pg1", &replica(one.address)).await;
    cluster.member("pg2", &primary(two.address)).await;
    cluster.lead("pg2").await;
    let proxy = Proxy::for_writes(&cluster, "");
    for _ in 0..3 {
        let (mut client, name) = Client::enter(proxy.addresses[0]).await;
        assert_eq!(name, "pg2");
        client.echo(&vec![7; 300_000]).await;
    }
}

#[tokio::test]
async fn a_held_client_goes_on_when_a_leader_serves() {
    let cluster = Cluster::new().await;
    let server = Server::start("pg1", Manner::Serve).await;
    cluster.member("pg1", &record(server.address, MemberRole::Promoted, MemberState::Running)).await;
    let proxy = Proxy::for_writes(&cluster, "");
    let mut client = Client::connect(proxy.addresses[0]).await;
    client.say_hello().await;
    proxy.until_metric(HELD, 1.0).await;
    cluster.lead("pg1").await;
    proxy.until_topology("a leader that does not serve", |t| t["clusters"][0]["leader"] == "pg1").await;
    assert!((proxy.metric(HELD).await - 1.0).abs() < f64::EPSILON, "holding the key is not serving");
    let told = Instant::now();
    cluster.member("pg1", &primary(server.address)).await;
    assert_eq!(client.welcome().await, Welcome::In("pg1".to_owned()));
    assert!(told.elapsed() < AT_ONCE, "{:?}", told.elapsed());
    proxy.until_metric(HELD, 0.0).await;
    assert!(proxy.metric("pgvane_hold_seconds_count{listener=\"primary\"}").await >= 1.0);
}

#[tokio::test]
async fn the_end_of_an_epoch_cuts_its_sessions_and_holds_new_ones() {
    let cluster = Cluster::new().await;
    let mut old = Server::start("pg1", Manner::Serve).await;
    let new = Server::start("pg2", Manner::Serve).await;
    cluster.member("pg1", &primary(old.address)).await;
    cluster.member("pg2", &replica(new.address)).await;
    cluster.lead("pg1").await;
    let proxy = Proxy::for_writes(&cluster, "");
    let (mut session, _) = Client::enter(proxy.addresses[0]).await;
    session.echo(b"before").await;
    assert_eq!(old.sees().await, Seen::LetIn);
    let deleted = Instant::now();
    cluster.nobody_leads().await;
    // What it has echoed is the beginning of a long message; nothing may be put into that.
    assert_eq!(session.rest().await, b"");
    assert!(deleted.elapsed() < AT_ONCE, "{:?}", deleted.elapsed());
    assert_eq!(old.sees().await, Seen::Reset, "the old primary shall drop the backend at once");
    proxy.until_metric(&ends("epoch_ended"), 1.0).await;

    let mut held = Client::connect(proxy.addresses[0]).await;
    held.say_hello().await;
    proxy.until_metric(HELD, 1.0).await;
    cluster.member("pg2", &primary(new.address)).await;
    let epoch = cluster.lead("pg2").await;
    assert_eq!(held.welcome().await, Welcome::In("pg2".to_owned()));
    #[expect(clippy::cast_precision_loss, reason = "a small number")]
    proxy.until_metric("pgvane_epoch{cluster=\"main\"}", epoch.0 as f64).await;
    assert!(proxy.metric("pgvane_last_outage_seconds{cluster=\"main\"}").await > 0.0);
    assert_eq!(*old.met.borrow(), 1, "nobody was sent to the old primary again");
}

#[tokio::test]
async fn the_same_leader_in_a_new_epoch_is_a_new_primary() {
    let cluster = Cluster::new().await;
    let server = Server::start("pg1", Manner::Serve).await;
    cluster.member("pg1", &primary(server.address)).await;
    cluster.lead("pg1").await;
    let proxy = Proxy::for_writes(&cluster, "");
    let (mut session, _) = Client::enter(proxy.addresses[0]).await;
    cluster.lead("pg1").await;
    assert!(session.is_cut().await.contains("cluster main: pg1 is not the primary any more"));
    Client::enter(proxy.addresses[0]).await;
}

#[tokio::test]
async fn a_leader_that_stops_takes_no_new_clients_and_keeps_the_old() {
    let cluster = Cluster::new().await;
    let server = Server::start("pg1", Manner::Serve).await;
    cluster.member("pg1", &primary(server.address)).await;
    cluster.lead("pg1").await;
    let proxy = Proxy::for_writes(&cluster, "");
    let (mut session, _) = Client::enter(proxy.addresses[0]).await;
    cluster.member("pg1", &record(server.address, MemberRole::Primary, MemberState::Stopping)).await;
    proxy.until_topology("no primary", |t| t["clusters"][0]["primary"].is_null()).await;
    let mut held = Client::connect(proxy.addresses[0]).await;
    held.say_hello().await;
    proxy.until_metric(HELD, 1.0).await;
    session.echo(b"still here").await;
    cluster.member("pg1", &primary(server.address)).await;
    assert_eq!(held.welcome().await, Welcome::In("pg1".to_owned()));
}

#[tokio::test]
async fn a_record_of_an_earlier_reign_is_not_serving() {
    let cluster = Cluster::new().await;
    let server = Server::start("pg1", Manner::Serve).await;
    let epoch = cluster.lead("pg1").await;
    let serving = |epoch| MemberRecord {
        pgvane: Some(NativeMember { serving_epoch: Some(epoch), ..NativeMember::default() }),
        ..primary(server.address)
    };
    cluster.member("pg1", &serving(epoch.0 - 1)).await;
    let proxy = Proxy::for_writes(&cluster, "");
    let mut client = Client::connect(proxy.addresses[0]).await;
    client.say_hello().await;
    proxy.until_metric(HELD, 1.0).await;
    assert_eq!(*server.met.borrow(), 0);
    cluster.member("pg1", &serving(epoch.0)).await;
    assert_eq!(client.welcome().await, Welcome::In("pg1".to_owned()));
}

/// Whatever a primary does before its first answer is kept from the client and tried again.
#[tokio::test]
async fn a_primary_that_is_not_there_yet_is_asked_again() {
    for manner in [Manner::NotNow, Manner::GoesDown, Manner::HangsUp] {
        let cluster = Cluster::new().await;
        let mut server = Server::start("pg1", manner).await;
        cluster.member("pg1", &primary(server.address)).await;
        cluster.lead("pg1").await;
        let proxy = Proxy::for_writes(&cluster, "");
        let mut client = Client::connect(proxy.addresses[0]).await;
        client.say_hello().await;
        server.until_met(3).await;
        server.behave(Manner::Serve);
        assert_eq!(client.welcome().await, Welcome::In("pg1".to_owned()), "{manner:?}");
        client.echo(b"select 1").await;
    }
}

#[tokio::test]
async fn a_primary_whose_port_is_closed_is_asked_again() {
    let cluster = Cluster::new().await;
    let address = Server::start("pg1", Manner::Serve).await.leave().await;
    cluster.member("pg1", &primary(address)).await;
    cluster.lead("pg1").await;
    let proxy = Proxy::for_writes(&cluster, "");
    proxy.until_serving().await;
    let mut client = Client::connect(proxy.addresses[0]).await;
    client.say_hello().await;
    proxy.until_metric(HELD, 1.0).await;
    let _server = Server::start_at("pg1", Manner::Serve, address).await;
    assert_eq!(client.welcome().await, Welcome::In("pg1".to_owned()));
    let refused = "pgvane_connect_failures_total{listener=\"primary\",cause=\"refused\"}";
    assert!(proxy.metric(refused).await >= 1.0);
}

/// A connect that hangs must not keep a client from the next leader.
#[tokio::test]
async fn a_connect_under_way_is_given_up_when_the_epoch_ends() {
    let cluster = Cluster::new().await;
    let full = socket2::Socket::new(socket2::Domain::IPV4, socket2::Type::STREAM, None).expect("a socket");
    let any: std::net::SocketAddr = "127.0.0.1:0".parse().expect("an address");
    full.bind(&any.into()).expect("bind");
    full.listen(0).expect("listen");
    let address = full.local_addr().expect("bound").as_socket().expect("an IP address");
    // The queue of connections nobody accepts is full: the kernel drops what comes next.
    let _queued = Client::connect(address).await;
    let hangs =
        tokio::time::timeout(Duration::from_millis(100), tokio::net::TcpStream::connect(address)).await;
    assert!(hangs.is_err(), "a full queue lets a connect hang");
    let two = Server::start("pg2", Manner::Serve).await;
    cluster.member("pg1", &primary(address)).await;
    cluster.member("pg2", &primary(two.address)).await;
    cluster.lead("pg1").await;
    let proxy = Proxy::for_writes(&cluster, "connect_timeout = \"1min\"");
    proxy.until_serving().await;
    let mut client = Client::connect(proxy.addresses[0]).await;
    client.say_hello().await;
    proxy.until_metric("pgvane_sessions{listener=\"primary\"}", 1.0).await;
    let changed = Instant::now();
    cluster.lead("pg2").await;
    assert_eq!(client.welcome().await, Welcome::In("pg2".to_owned()));
    assert!(changed.elapsed() < AT_ONCE, "{:?}", changed.elapsed());
}

/// Many held clients must not keep a server that starts busy with refusing them.
#[tokio::test]
async fn held_clients_share_their_questions() {
    let cluster = Cluster::new().await;
    let mut server = Server::start("pg1", Manner::NotNow).await;
    cluster.member("pg1", &primary(server.address)).await;
    cluster.lead("pg1").await;
    let proxy = Proxy::for_writes(&cluster, "");
    proxy.until_serving().await;
    let mut clients = vec![];
    for _ in 0..100 {
        let mut client = Client::connect(proxy.addresses[0]).await;
        client.say_hello().await;
        clients.push(client);
    }
    // Each asks once when it comes; from then on they take turns.
    server.until_met(100).await;
    let (asked, began) = (*server.met.borrow(), Instant::now());
    server.until_met(asked + 20).await;
    let least = Duration::from_millis(5) * 20 / 2;
    assert!(began.elapsed() >= least, "20 more questions within {:?}", began.elapsed());
    server.behave(Manner::Serve);
    for client in &mut clients {
        assert_eq!(client.welcome().await, Welcome::In("pg1".to_owned()));
    }
}

#[tokio::test]
async fn who_waited_too_long_is_told_why() {
    let cluster = Cluster::new().await;
    let proxy = Proxy::for_writes(&cluster, "hold_timeout = \"50ms\"");
    for asks in [vec![], vec![SSL_REQUEST], vec![GSSENC_REQUEST, SSL_REQUEST]] {
        let mut client = Client::connect(proxy.addresses[0]).await;
        for code in &asks {
            assert_eq!(client.ask_for(*code).await, b'N');
        }
        client.say_hello().await;
        let Welcome::Error(code, message) = client.welcome().await else { panic!("no error after {asks:?}") };
        assert_eq!(code, "57P03");
        assert!(message.starts_with("pgvane: cluster main: nobody holds the leader key (for "), "{message}");
        assert!(message.ends_with("gave up after 50ms"), "{message}");
    }
    proxy.until_metric(&ends("hold_timeout"), 3.0).await;
    proxy.until_metric(HELD, 0.0).await;
}

#[tokio::test]
async fn a_server_that_never_answers_is_named() {
    let cluster = Cluster::new().await;
    let server = Server::start("pg1", Manner::NotNow).await;
    cluster.member("pg1", &primary(server.address)).await;
    cluster.lead("pg1").await;
    let proxy = Proxy::for_writes(&cluster, "hold_timeout = \"200ms\"");
    let mut client = Client::connect(proxy.addresses[0]).await;
    client.say_hello().await;
    let Welcome::Error(code, message) = client.welcome().await else { panic!("no error") };
    assert_eq!(code, "57P03");
    assert!(message.contains("pg1: it says: the database system is starting up"), "{message}");
}

#[tokio::test]
async fn only_so_many_may_wait() {
    let cluster = Cluster::new().await;
    let proxy = Proxy::for_writes(&cluster, "hold_limit = 1");
    let mut first = Client::connect(proxy.addresses[0]).await;
    first.say_hello().await;
    proxy.until_metric(HELD, 1.0).await;
    let mut second = Client::connect(proxy.addresses[0]).await;
    second.say_hello().await;
    let Welcome::Error(code, message) = second.welcome().await else { panic!("no error") };
    assert_eq!(code, "57P03");
    assert!(message.contains("1 connections are waiting already"), "{message}");
    drop(first);
    proxy.until_metric(HELD, 0.0).await;
    proxy.until_metric(&ends("client_left_early"), 1.0).await;
}

#[tokio::test]
async fn beyond_the_session_limit_only_cancel_requests_pass() {
    let cluster = Cluster::new().await;
    let mut server = Server::start("pg1", Manner::Serve).await;
    cluster.member("pg1", &primary(server.address)).await;
    cluster.lead("pg1").await;
    let proxy = Proxy::for_writes(&cluster, "max_sessions = 1");
    let (_session, _) = Client::enter(proxy.addresses[0]).await;
    let mut second = Client::connect(proxy.addresses[0]).await;
    second.say_hello().await;
    let Welcome::Error(code, message) = second.welcome().await else { panic!("no error") };
    assert_eq!(code, "53300", "{message}");
    assert_eq!(server.sees().await, Seen::LetIn);
    let mut cancel = Client::connect(proxy.addresses[0]).await;
    cancel.send(&packet(CANCEL_REQUEST, &[1, 2, 3, 4, 5, 6, 7, 8])).await;
    assert_eq!(server.sees().await, Seen::Cancel(vec![1, 2, 3, 4, 5, 6, 7, 8]));
    assert_eq!(cancel.rest().await, b"");
    proxy.until_metric(&ends("session_limit"), 1.0).await;
    proxy.until_metric(&ends("cancel_forwarded"), 1.0).await;
}

#[tokio::test]
async fn encryption_is_the_servers_to_grant() {
    let cluster = Cluster::new().await;
    let mut server = Server::start("pg1", Manner::Serve).await;
    cluster.member("pg1", &primary(server.address)).await;
    cluster.lead("pg1").await;
    let proxy = Proxy::for_writes(&cluster, "");
    let mut plain = Client::connect(proxy.addresses[0]).await;
    assert_eq!(plain.ask_for(GSSENC_REQUEST).await, b'N');
    assert_eq!(plain.ask_for(SSL_REQUEST).await, b'N');
    plain.say_hello().await;
    assert_eq!(plain.welcome().await, Welcome::In("pg1".to_owned()));
    assert_eq!(*server.met.borrow_and_update(), 1, "one connection for all three packets");
    server.behave(Manner::Tls);
    let mut opaque = Client::connect(proxy.addresses[0]).await;
    assert_eq!(opaque.ask_for(SSL_REQUEST).await, b'S');
    opaque.echo(b"\x16\x03\x01 this is not for the proxy to read").await;
}

/// A client that was told "no encryption" by one server can still be held and sent to another.
#[tokio::test]
async fn a_leader_may_change_between_the_no_and_the_startup_packet() {
    let cluster = Cluster::new().await;
    let (one, two) = (Server::start("pg1", Manner::Serve).await, Server::start("pg2", Manner::Serve).await);
    cluster.member("pg1", &primary(one.address)).await;
    cluster.member("pg2", &primary(two.address)).await;
    cluster.lead("pg1").await;
    let proxy = Proxy::for_writes(&cluster, "");
    let mut client = Client::connect(proxy.addresses[0]).await;
    assert_eq!(client.ask_for(SSL_REQUEST).await, b'N');
    cluster.lead("pg2").await;
    proxy.until_topology("pg2 leads", |t| t["clusters"][0]["primary"]["name"] == "pg2").await;
    client.say_hello().await;
    assert_eq!(client.welcome().await, Welcome::In("pg2".to_owned()));
}

#[tokio::test]
async fn who_does_not_speak_postgresql_is_told_so() {
    let cluster = Cluster::new().await;
    let proxy = Proxy::for_writes(&cluster, "startup_timeout = \"50ms\"");
    let mut web = Client::connect(proxy.addresses[0]).await;
    web.send(b"GET / HTTP/1.1\r\nHost: x\r\n\r\n").await;
    let Welcome::Error(code, message) = web.welcome().await else { panic!("no error") };
    assert_eq!(code, "08P01", "{message}");
    let mut silent = Client::connect(proxy.addresses[0]).await;
    assert_eq!(silent.rest().await, b"");
    proxy.until_metric(&ends("protocol_violation"), 1.0).await;
    proxy.until_metric(&ends("first_packet_timeout"), 1.0).await;
}

#[tokio::test]
async fn a_client_may_close_its_half_and_hear_the_rest() {
    use tokio::io::AsyncWriteExt;
    let cluster = Cluster::new().await;
    let mut server = Server::start("pg1", Manner::Serve).await;
    cluster.member("pg1", &primary(server.address)).await;
    cluster.lead("pg1").await;
    let proxy = Proxy::for_writes(&cluster, "");
    let (mut client, _) = Client::enter(proxy.addresses[0]).await;
    assert_eq!(server.sees().await, Seen::LetIn);
    let question = vec![5; 100_000];
    client.send(&question).await;
    soon("a half-close", client.0.shutdown()).await.expect("shutdown");
    assert!(client.rest().await == question, "all of the echo arrives");
    assert_eq!(server.sees().await, Seen::Closed);
    proxy.until_metric(&ends("client_closed"), 1.0).await;
    proxy.until_metric("pgvane_bytes_total{listener=\"primary\",direction=\"to_server\"}", 100_000.0).await;
    proxy.until_metric("pgvane_sessions{listener=\"primary\"}", 0.0).await;
}
