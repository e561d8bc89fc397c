//! How clients come in: by a Unix socket, and behind another proxy that tells their address.

mod proxy_support;

use std::net::SocketAddr;
use std::path::Path;

use pgvane::proxy_protocol::v2;
use proxy_support::client::{CANCEL_REQUEST, Client, SSL_REQUEST, Welcome, packet};
use proxy_support::server::{Manner, Seen, Server};
use proxy_support::{Cluster, Proxy, TOKEN, ends, listener, primary, served, soon};
use tokio::net::UnixStream;

const TOLD: &str = "proxy_protocol_from = [\"127.0.0.1\"]";

fn source(text: &str) -> SocketAddr {
    text.parse().expect("an address")
}

async fn by_path(path: &Path) -> Client<UnixStream> {
    Client(soon("a connection", UnixStream::connect(path)).await.expect("the proxy accepts"))
}

#[tokio::test]
async fn a_unix_socket_is_as_good_as_a_port() {
    let (cluster, mut server) = served().await;
    let dir = tempfile::tempdir().expect("a directory");
    let path = dir.path().join("s");
    let both = format!(
        "[[listener]]\nrole = \"primary\"\nlisten = [\"127.0.0.1:0\", \"unix:{}\"]\nmax_sessions_per_address = 1\n",
        path.display()
    );
    let _proxy = Proxy::start(&cluster, "", &[both]);
    // The limit per address is for addresses.
    let mut clients = vec![];
    for _ in 0..2 {
        let mut client = by_path(&path).await;
        assert_eq!(client.ask_for(SSL_REQUEST).await, b'N');
        assert_eq!(client.be_let_in().await, "pg1");
        // A message, so that what follows it can be told.
        client.echo(&[b"D\0\x2d\xc6\xc0".to_vec(), vec![7; 0x2d_c6bc]].concat()).await;
        clients.push(client);
    }
    by_path(&path).await.send(&packet(CANCEL_REQUEST, &[5; 8])).await;
    while server.sees().await != Seen::Cancel(vec![5; 8]) {}
    cluster.nobody_leads().await;
    for mut client in clients {
        assert!(client.is_cut().await.contains("pg1 is not the primary any more"));
    }
}

#[tokio::test]
async fn an_announced_client_is_the_one_that_counts() {
    let (cluster, _server) = served().await;
    let keys = format!("{TOLD}\nallow = [\"192.0.2.0/24\"]\nmax_sessions_per_address = 1");
    let proxy = Proxy::start(&cluster, "", &[TOKEN.to_owned(), listener("primary", &keys)]);
    let enter = async |header: &[u8]| {
        let mut client = Client::connect(proxy.addresses[0]).await;
        client.send(header).await;
        client.say_hello().await;
        (client.welcome().await, client)
    };
    let (welcome, _first) = enter(b"PROXY TCP4 192.0.2.7 198.51.100.1 5555 5432\r\n").await;
    assert_eq!(welcome, Welcome::In("pg1".to_owned()));
    // The same address by the other version: it has one session already.
    let (welcome, _) = enter(&v2(Some(source("192.0.2.7:6666")), Some(source("198.51.100.1:5432")))).await;
    assert!(matches!(welcome, Welcome::Error(code, _) if code == "53300"));
    let (welcome, _second) = enter(&v2(Some(source("192.0.2.8:6666")), None)).await;
    assert_eq!(welcome, Welcome::In("pg1".to_owned()));
    let (welcome, _) = enter(b"PROXY TCP4 203.0.113.1 198.51.100.1 5555 5432\r\n").await;
    assert!(matches!(welcome, Welcome::Error(code, _) if code == "28000"));

    let (status, sessions) = proxy.with_token("GET", "/sessions").await;
    assert_eq!(status, 200);
    assert!(sessions.contains("\"client\":\"192.0.2.7:5555\""), "{sessions}");
    assert!(!sessions.contains("127.0.0.1:"), "{sessions}");

    // A header that names nobody: who sends it counts, and is not within `allow`.
    for nobody in [v2(None, None), b"PROXY UNKNOWN\r\n".to_vec()] {
        let (welcome, _) = enter(&nobody).await;
        assert!(matches!(welcome, Welcome::Error(code, _) if code == "28000"));
    }
}

#[tokio::test]
async fn a_header_in_pieces_is_read_and_none_is_refused() {
    let (cluster, _server) = served().await;
    let proxy = Proxy::for_writes(&cluster, TOLD);
    let mut client = Client::connect(proxy.addresses[0]).await;
    let header = v2(Some(source("[2001:db8::7]:5555")), Some(source("[2001:db8::1]:5432")));
    for piece in header.chunks(5) {
        client.send(piece).await;
        tokio::task::yield_now().await;
    }
    assert_eq!(client.be_let_in().await, "pg1");
    // Without it, with half of it, and from where none is expected.
    let mut client = Client::connect(proxy.addresses[0]).await;
    client.say_hello().await;
    let Welcome::Error(code, text) = client.welcome().await else { panic!("let in") };
    assert_eq!(code, "08P01");
    assert!(text.contains("PROXY header that is expected from this address"), "{text}");
    proxy.until_metric(&ends("proxy_header"), 1.0).await;
    let mut client = Client::connect(proxy.addresses[0]).await;
    client.send(&header[..20]).await;
    drop(client);
    proxy.until_metric(&ends("client_left_early"), 1.0).await;
    let proxy = Proxy::for_writes(&cluster, "proxy_protocol_from = [\"192.0.2.1\"]");
    let mut client = Client::connect(proxy.addresses[0]).await;
    client.send(b"PROXY TCP4 192.0.2.7 198.51.100.1 5555 5432\r\n").await;
    client.rest().await;
    proxy.until_metric(&ends("protocol_violation"), 1.0).await;
}

#[tokio::test]
async fn one_proxy_tells_the_next_who_the_client_is() {
    let (cluster, mut server) = served().await;
    let inner = Proxy::start(&cluster, "", &[TOKEN.to_owned(), listener("primary", TOLD)]);
    // To the outer proxy, the inner one is the primary.
    let outside = Cluster::new().await;
    outside.member("inner", &primary(inner.addresses[0])).await;
    outside.lead("inner").await;
    let outer = Proxy::start(&outside, "", &[listener("primary", "send_proxy_protocol = true")]);
    let (mut client, name) = Client::enter(outer.addresses[0]).await;
    assert_eq!(name, "pg1");
    client.echo(&vec![9; 1_000_000]).await;
    let mine = client.0.local_addr().expect("connected").to_string();
    let sessions = inner.with_token("GET", "/sessions").await.1;
    assert!(sessions.contains(&format!("\"client\":\"{mine}\"")), "{mine} {sessions}");
    // Cancel requests carry it as well.
    let mut cancel = Client::connect(outer.addresses[0]).await;
    cancel.send(&packet(CANCEL_REQUEST, &[3; 8])).await;
    while server.sees().await != Seen::Cancel(vec![3; 8]) {}
}

#[tokio::test]
async fn a_queue_is_served_in_turn() {
    let (cluster, _server) = served().await;
    let proxy = Proxy::for_writes(&cluster, "max_sessions_per_target = 2");
    let (first, _) = Client::enter(proxy.addresses[0]).await;
    let (second, _) = Client::enter(proxy.addresses[0]).await;
    let mut queued = vec![];
    for waiting in 1_u8..=3 {
        let mut client = Client::connect(proxy.addresses[0]).await;
        client.say_hello().await;
        proxy.until_metric("pgvane_held{listener=\"primary\"}", f64::from(waiting)).await;
        queued.push(client);
    }
    // Kept: whoever leaves makes room for one more.
    let mut let_in = vec![];
    for (left, mine) in [first, second].into_iter().zip(0_u8..) {
        drop(left);
        let mut next = queued.remove(0);
        assert_eq!(next.welcome().await, Welcome::In("pg1".to_owned()), "number {mine}");
        let_in.push(next);
        proxy.until_metric("pgvane_held{listener=\"primary\"}", f64::from(2 - mine)).await;
    }
}

#[tokio::test]
async fn patience_in_the_queue_ends_with_the_reason() {
    let (cluster, _server) = served().await;
    let keys = "max_sessions_per_target = 1\nqueue_timeout = \"100ms\"\nhold_limit = 1";
    let proxy = Proxy::for_writes(&cluster, keys);
    let (_first, _) = Client::enter(proxy.addresses[0]).await;
    let mut queued = Client::connect(proxy.addresses[0]).await;
    queued.say_hello().await;
    let Welcome::Error(code, text) = queued.welcome().await else { panic!("let in") };
    assert_eq!(code, "53300");
    assert!(
        text.contains("cluster main: every server for this session has its limit of 1 sessions"),
        "{text}"
    );
    assert!(text.contains("gave up after 100ms"), "{text}");
    proxy.until_metric(&ends("queue_timeout"), 1.0).await;
    let patient = Proxy::for_writes(&cluster, "max_sessions_per_target = 1\nhold_limit = 1");
    let (_first, _) = Client::enter(patient.addresses[0]).await;
    let mut queued = Client::connect(patient.addresses[0]).await;
    queued.say_hello().await;
    patient.until_metric("pgvane_held{listener=\"primary\"}", 1.0).await;
    let mut refused = Client::connect(patient.addresses[0]).await;
    refused.say_hello().await;
    assert!(matches!(refused.welcome().await, Welcome::Error(code, _) if code == "57P03"));
    // Who waits goes to the next primary, whatever the old one holds.
    let next = Server::start("pg2", Manner::Serve).await;
    cluster.member("pg2", &primary(next.address)).await;
    cluster.lead("pg2").await;
    assert_eq!(queued.welcome().await, Welcome::In("pg2".to_owned()));
}
