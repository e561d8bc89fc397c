//! Cancel requests on real servers: through the round-robin port, and through the other proxy of a pair.

use std::net::SocketAddr;
use std::time::Duration;

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::time::timeout;
use xtask::drill;
use xtask::install;
use xtask::playground::{CLIENT_ROLE, Options, Playground};
use xtask::programs;

/// Bound on every wait; a query that is not cancelled would sleep longer.
const SOON: Duration = Duration::from_secs(20);

/// Says that it runs, then sleeps: a request that comes before the query has begun would be ignored by the server.
const SLEEP: &str = "DO $$ BEGIN RAISE NOTICE 'running'; PERFORM pg_sleep(300); END $$";

/// As much of a client as a cancel request needs: its server's process id and secret.
struct Session {
    stream: TcpStream,
    key: Vec<u8>,
}

fn packet(kind: Option<u8>, parts: &[&[u8]]) -> Vec<u8> {
    let body = parts.concat();
    let length = u32::try_from(body.len() + 4).expect("short").to_be_bytes();
    kind.into_iter().chain(length).chain(body).collect()
}

impl Session {
    async fn open(address: SocketAddr) -> Session {
        let stream = TcpStream::connect(address).await.expect("the proxy accepts");
        let mut session = Session { stream, key: vec![] };
        let names = [&b"user\0"[..], CLIENT_ROLE.as_bytes(), b"\0database\0postgres\0\0"];
        session.send(packet(None, &[&196_608_u32.to_be_bytes()[..], &names.concat()[..]])).await;
        session.until(b'Z').await;
        session
    }

    async fn send(&mut self, packet: Vec<u8>) {
        self.stream.write_all(&packet).await.expect("write");
    }

    /// Reads messages up to one of this kind; answers its body.
    async fn until(&mut self, wanted: u8) -> Vec<u8> {
        let read = async {
            loop {
                let kind = self.stream.read_u8().await.expect("a message");
                let length = self.stream.read_u32().await.expect("a length");
                let mut body = vec![0; length as usize - 4];
                self.stream.read_exact(&mut body).await.expect("a body");
                if kind == b'K' {
                    self.key.clone_from(&body);
                }
                if kind == wanted {
                    return body;
                }
                assert_ne!(kind, b'E', "{}", String::from_utf8_lossy(&body));
            }
        };
        timeout(SOON, read).await.unwrap_or_else(|_| panic!("no message of kind {:?}", char::from(wanted)))
    }
}

async fn cancel(address: SocketAddr, key: &[u8]) {
    let mut stream = TcpStream::connect(address).await.expect("the proxy accepts");
    stream.write_all(&packet(None, &[&80_877_102_u32.to_be_bytes()[..], key])).await.expect("write");
    // As libpq does: the request is done when the connection closes.
    let _ = timeout(SOON, stream.read(&mut [0; 1])).await.expect("the proxy closes");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_hundred_of_a_hundred_queries_are_cancelled_through_either_proxy() {
    let servers = install::servers().expect("PostgreSQL and etcd");
    let programs = programs::built().expect("the programs are built");
    let options = Options { nodes: 4, proxies: 2, ..Options::default() };
    let playground = Playground::start(&options, &programs, &servers, &|line| eprintln!("  {line}"))
        .await
        .expect("a cluster");
    // The role and its table, seen by every replica.
    drill::create_table(&playground).await.expect("a role for clients");
    let ports = |number: usize| {
        let proxy = playground.proxies[number].options();
        (proxy.replica, proxy.primary)
    };
    for round in 0..100 {
        // Every tenth on the primary; the request through the other proxy every second time.
        let (reads, writes) = ports(0);
        let (other_reads, other_writes) = ports(round % 2);
        let (port, other) = if round % 10 == 9 { (writes, other_writes) } else { (reads, other_reads) };
        let mut session = Session::open(port).await;
        session.send(packet(Some(b'Q'), &[SLEEP.as_bytes(), b"\0"])).await;
        session.until(b'N').await;
        cancel(other, &session.key).await;
        let error = session.until(b'E').await;
        let text = String::from_utf8_lossy(&error);
        assert!(text.split('\0').any(|field| field == "C57014"), "round {round}: {text}");
    }
}
