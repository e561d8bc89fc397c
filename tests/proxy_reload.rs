//! Settings change under open sessions: wholly or not at all, and nobody is cut.

mod proxy_support;

use std::net::{SocketAddr, TcpListener};

use proxy_support::client::{Client, Welcome};
use proxy_support::server::{Manner, Server};
use proxy_support::shown::shown;
use proxy_support::{Cluster, Proxy, listener, primary, replica};
use xtask::playground::ports::Ports;

async fn served() -> (Cluster, Server, Server) {
    let cluster = Cluster::new().await;
    let (one, two) = (Server::start("pg1", Manner::Serve).await, Server::start("pg2", Manner::Serve).await);
    cluster.member("pg1", &primary(one.address)).await;
    cluster.member("pg2", &replica(two.address)).await;
    cluster.lead("pg1").await;
    (cluster, one, two)
}

/// A port that stays free.
fn free() -> SocketAddr {
    Ports::new().free().expect("a free port")
}

/// A listener of its own name at `address`.
fn listener_at(name: &str, role: &str, address: SocketAddr) -> String {
    format!("[[listener]]\nname = \"{name}\"\nrole = \"{role}\"\nlisten = [\"{address}\"]\n")
}

async fn refusal(address: SocketAddr) -> String {
    let mut client = Client::connect(address).await;
    client.say_hello().await;
    match client.welcome().await {
        Welcome::Error(code, _) => code,
        other => panic!("not refused: {other:?}"),
    }
}

#[tokio::test]
async fn new_limits_are_for_new_clients_and_count_those_who_are_there() {
    let (cluster, _one, _two) = served().await;
    let proxy = Proxy::for_writes(&cluster, "");
    let (mut session, _) = Client::enter(proxy.addresses[0]).await;
    proxy.reload("", &[listener("primary", "max_sessions = 1")]).await.expect("applied");
    assert_eq!(refusal(proxy.addresses[0]).await, "53300");
    session.echo(b"nobody was cut").await;
    proxy.reload("", &[listener("primary", "deny = [\"127.0.0.0/8\"]")]).await.expect("applied");
    assert_eq!(refusal(proxy.addresses[0]).await, "28000");
    proxy.reload("", &[listener("primary", "")]).await.expect("applied");
    Client::enter(proxy.addresses[0]).await;
    session.echo(b"still").await;
    assert!(proxy.metric("pgvane_sessions_total{listener=\"primary\"}").await >= 4.0, "counted on");
}

#[tokio::test]
async fn what_cannot_be_had_changes_nothing() {
    let (cluster, _one, _two) = served().await;
    let proxy = Proxy::for_writes(&cluster, "");
    let (mut session, _) = Client::enter(proxy.addresses[0]).await;
    let holder = TcpListener::bind("127.0.0.1:0").expect("a port");
    let taken = listener_at("more", "replica", holder.local_addr().expect("bound"));
    let denies = listener("primary", "deny = [\"127.0.0.0/8\"]");
    for (what, keys, sections) in [
        ("a port that is taken", "", vec![denies.clone(), taken]),
        ("a cluster that changes", "scope = \"other\"", vec![denies.clone()]),
        ("settings that are wrong", "", vec!["[drian]".to_owned()]),
        (
            "a file that is gone",
            "",
            vec![listener(
                "primary",
                "[listener.tls]\nmode = \"terminate\"\ncert = \"gone\"\nkey = \"gone\"",
            )],
        ),
    ] {
        assert!(proxy.reload(keys, &sections).await.is_err(), "{what}");
        session.echo(what.as_bytes()).await;
        Client::enter(proxy.addresses[0]).await;
    }
    drop(holder);
}

#[tokio::test]
async fn listeners_come_and_go_and_their_sessions_stay() {
    let (cluster, _one, _two) = served().await;
    let proxy = Proxy::for_writes(&cluster, "");
    let (reads, moved) = (free(), free());
    let both = [listener("primary", ""), listener_at("reads", "replica", reads)];
    proxy.reload("", &both).await.expect("applied");
    let (mut on_replica, name) = Client::enter(reads).await;
    assert_eq!(name, "pg2");

    let elsewhere = [listener("primary", ""), listener_at("reads", "replica", moved)];
    proxy.reload("", &elsewhere).await.expect("applied");
    assert_eq!(Client::enter(moved).await.1, "pg2");
    let gone = async |address: SocketAddr| {
        // The socket closes when the task that accepted has ended.
        while tokio::net::TcpStream::connect(address).await.is_ok() {
            tokio::time::sleep(std::time::Duration::from_millis(2)).await;
        }
    };
    proxy_support::soon("the old address refuses", gone(reads)).await;
    on_replica.echo(b"a moved listener keeps its sessions").await;

    proxy.reload("", &[listener("primary", "")]).await.expect("applied");
    proxy_support::soon("the removed listener refuses", gone(moved)).await;
    on_replica.echo(b"a removed one as well").await;
    Client::enter(proxy.addresses[0]).await;
}

/// Clients come and go all the while, and none of them is refused, cut or kept waiting for long.
#[tokio::test]
async fn twenty_reloads_under_load_are_noticed_by_nobody() {
    let (cluster, _one, _two) = served().await;
    let proxy = Proxy::for_writes(&cluster, "");
    let address = proxy.addresses[0];
    let (stop, stopped) = tokio::sync::watch::channel(false);
    let clients: Vec<_> = (0..8)
        .map(|_| {
            let stopped = stopped.clone();
            tokio::spawn(async move {
                let mut sessions = 0;
                while !*stopped.borrow() {
                    let (mut client, name) = Client::enter(address).await;
                    assert_eq!(name, "pg1");
                    client.echo(b"there and back").await;
                    sessions += 1;
                }
                sessions
            })
        })
        .collect();
    let reads = free();
    for round in 0..20 {
        let mut sections = vec![listener("primary", &format!("hold_limit = {}", 100 + round))];
        if round % 2 == 0 {
            sections.push(listener_at("reads", "replica", reads));
        }
        proxy.reload("", &sections).await.expect("applied");
        let seen = proxy.metric("pgvane_sessions_total{listener=\"primary\"}").await;
        proxy_support::soon("clients between two reloads", async {
            while proxy.metric("pgvane_sessions_total{listener=\"primary\"}").await < seen + 8.0 {
                tokio::time::sleep(std::time::Duration::from_millis(1)).await;
            }
        })
        .await;
    }
    stop.send_replace(true);
    for client in clients {
        assert!(client.await.expect("no client was turned away") > 0);
    }
}

#[tokio::test]
async fn a_certificate_is_replaced_without_a_restart() {
    let (cluster, _one, _two) = served().await;
    let dir = tempfile::tempdir().expect("a directory");
    let write = || {
        let made = rcgen::generate_simple_self_signed(["localhost".to_owned()]).expect("a certificate");
        std::fs::write(dir.path().join("crt"), made.cert.pem()).expect("write");
        std::fs::write(dir.path().join("key"), made.signing_key.serialize_pem()).expect("write");
        made.cert.der().to_vec()
    };
    let first = write();
    let path = dir.path().display();
    let tls = format!("[listener.tls]\nmode = \"terminate\"\ncert = \"{path}/crt\"\nkey = \"{path}/key\"");
    let proxy = Proxy::for_writes(&cluster, &tls);
    assert_eq!(shown(proxy.addresses[0]).await, first);
    let second = write();
    assert_eq!(shown(proxy.addresses[0]).await, first, "files are read when told to");
    proxy.reload("", &[listener("primary", &tls)]).await.expect("applied");
    assert_eq!(shown(proxy.addresses[0]).await, second);
    std::fs::write(dir.path().join("key"), "no key").expect("write");
    assert!(proxy.reload("", &[listener("primary", &tls)]).await.is_err());
    assert_eq!(shown(proxy.addresses[0]).await, second, "the last good one stays");
}
