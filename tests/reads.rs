//! Where real clients' reads go on real replicas: shared out by rule, lag, tag and the `sync` key, while replicas die,
//! and in a proxy that knows two clusters.

mod cluster_support;

use std::collections::BTreeMap;
use std::fs::OpenOptions;
use std::io::Write as _;
use std::net::SocketAddr;

use cluster_support::tools::{Dialogue, libpq, printed, psql};
use cluster_support::writer::config;
use cluster_support::{
    SOON, add_proxy, cluster, healthy, member, one_more_port, switchover, topology, until, with_ports,
};
use hyper::Method;
use rustix::process::Signal;
use serde_json::json;
use tokio_postgres::{Client, NoTls};
use xtask::playground::{Playground, http};

/// Who answers.
const WHO: &[&str] = &["-c", "SELECT inet_server_port()"];

/// How often each server answered, by its port.
type Answers = BTreeMap<u16, usize>;

/// Where PostgreSQL of this member listens.
fn port_of(playground: &Playground, name: &str) -> u16 {
    playground.node(name).postgres().port()
}

/// Who answers one psql.
async fn who(port: SocketAddr) -> u16 {
    printed(psql(&libpq(port), WHO)).await.trim().parse().expect("a port")
}

/// Who answers so many calls of psql, one after the other.
async fn asked(port: SocketAddr, calls: usize) -> Answers {
    let mut answers = Answers::new();
    for _ in 0..calls {
        *answers.entry(who(port).await).or_default() += 1;
    }
    answers
}

/// A session that is kept, and who serves it.
async fn session(port: SocketAddr) -> (Client, u16) {
    let (client, connection) = config(port).connect(NoTls).await.expect("a session");
    tokio::spawn(connection);
    let row = client.query_one("SELECT inet_server_port()", &[]).await.expect("an answer");
    (client, u16::try_from(row.get::<_, i32>(0)).expect("a port"))
}

/// Waits until the proxy counts so many sessions on a member.
async fn until_sessions(playground: &Playground, proxy: usize, name: &str, sessions: usize) {
    let what = format!("proxy {proxy} has {sessions} sessions on {name}");
    until(playground, &what, async || member(playground, proxy, name).await["sessions"] == sessions).await;
}

/// Does this on a member as superuser.
async fn on(playground: &Playground, name: &str, sql: &str) {
    tried(playground, name, sql).await.unwrap_or_else(|e| panic!("{sql}: {e}"));
}

async fn tried(playground: &Playground, name: &str, sql: &str) -> Result<(), tokio_postgres::Error> {
    let (client, connection) = playground.node(name).superuser().connect(NoTls).await.expect("a superuser");
    let driver = tokio::spawn(connection);
    let done = client.batch_execute(sql).await;
    driver.abort();
    done
}

#[tokio::test(flavor = "multi_thread")]
async fn reads_are_shared_out_as_each_port_is_told() {
    let mut playground = cluster(3, 10, vec![]).await;
    let (proxy, [fewest, any, sync, other]) = with_ports(
        &mut playground,
        [
            ("fewest", "role = \"replica\"\nbalance = \"least_connections\""),
            ("any", "role = \"any\""),
            ("sync", "role = \"sync\""),
            ("async", "role = \"async\""),
        ],
    )
    .await;
    let replica = playground.proxies[proxy].options().replica;
    let [primary, two, three] = ["pg1", "pg2", "pg3"].map(|name| port_of(&playground, name));

    assert_eq!(asked(replica, 10).await, [(two, 5), (three, 5)].into(), "in turn");
    assert_eq!(asked(any, 9).await, [(primary, 3), (two, 3), (three, 3)].into(), "the primary as well");

    for name in ["pg2", "pg3"] {
        until_sessions(&playground, proxy, name, 0).await;
    }
    let (kept, busy) = session(fewest).await;
    let idle = if busy == two { "pg3" } else { "pg2" };
    for _ in 0..4 {
        assert_eq!(who(fewest).await, port_of(&playground, idle), "there is a session on the other one");
        until_sessions(&playground, proxy, idle, 0).await;
    }
    drop(kept);

    the_sync_key_tells_synchronous_standbys_apart(&playground, proxy, [sync, other]).await;
    a_member_tagged_noloadbalance_takes_no_reads(&mut playground, proxy).await;
}

async fn the_sync_key_tells_synchronous_standbys_apart(
    playground: &Playground,
    proxy: usize,
    [sync, other]: [SocketAddr; 2],
) {
    let [two, three] = ["pg2", "pg3"].map(|name| port_of(playground, name));
    // Without the key none is synchronous, so who asks for one waits until there is.
    let waiting = tokio::spawn(printed(psql(&libpq(sync), WHO)));
    until(playground, "psql is held", async || {
        let topology = topology(playground, proxy).await;
        let listeners = topology["listeners"].as_array().cloned().unwrap_or_default();
        listeners.iter().any(|listener| listener["name"] == "sync" && listener["held"] == 1)
    })
    .await;
    assert_eq!(asked(other, 4).await, [(two, 2), (three, 2)].into());

    synchronous_mode(playground, true).await;
    let first = waiting.await.expect("no panic").trim().parse().expect("a port");
    let second = if first == two { three } else { two };
    assert!([two, three].contains(&first), "who waited is served by {first}");
    assert_eq!(asked(sync, 4).await, [(first, 4)].into());
    assert_eq!(asked(other, 4).await, [(second, 4)].into());

    synchronous_mode(playground, false).await;
    until(playground, "none is synchronous any more", async || who(other).await == first).await;
}

/// Has commits wait for one of the replicas, or for none.
async fn synchronous_mode(playground: &Playground, on: bool) {
    let body = json!({ "synchronous_mode": on }).to_string();
    let answer = http::request(Method::PATCH, playground.node("pg1").rest(), "/config", body, SOON).await;
    assert!(answer.as_ref().is_ok_and(|(status, _)| status.is_success()), "{answer:?}");
}

async fn a_member_tagged_noloadbalance_takes_no_reads(playground: &mut Playground, proxy: usize) {
    let replica = playground.proxies[proxy].options().replica;
    let [two, three] = ["pg2", "pg3"].map(|name| port_of(playground, name));
    let mut open = vec![session(replica).await, session(replica).await];
    open.retain(|(_, server)| *server == two);
    // The next agent adopts PostgreSQL as it runs, sessions and all.
    let mut settings =
        OpenOptions::new().append(true).open(playground.node("pg2").config()).expect("settings");
    settings.write_all(b"\n[tags]\nnoloadbalance = true\n").expect("writes");
    playground.node_mut("pg2").kill_agent(SOON).await;
    playground.restart_agent("pg2").expect("the agent starts");
    until(playground, "pg2 takes no reads", async || {
        member(playground, proxy, "pg2").await["no_reads"] == "tag noloadbalance"
    })
    .await;
    assert_eq!(asked(replica, 6).await, [(three, 6)].into());
    let kept = open[0].0.query_one("SELECT inet_server_port()", &[]).await.expect("it goes on");
    assert_eq!(kept.get::<_, i32>(0), i32::from(two), "a session is not ended for it");
}

/// Writes so many bytes of WAL.
async fn write_wal(playground: &Playground, bytes: usize) {
    let sql = format!("SELECT pg_logical_emit_message(true, 'test', repeat('x', {bytes}))");
    on(playground, "pg1", &sql).await;
}

/// Waits until the proxy knows that the member is at least, or at most, so many bytes behind.
async fn until_lag(playground: &Playground, proxy: usize, name: &str, fits: impl Fn(u64) -> bool) {
    until(playground, &format!("the lag of {name}"), async || {
        member(playground, proxy, name).await["lag_bytes"].as_u64().is_some_and(&fits)
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn reads_avoid_a_replica_that_lags_and_come_back_to_it() {
    let mut playground = cluster(3, 10, vec![]).await;
    let (proxy, [weighted, limited]) = with_ports(
        &mut playground,
        [
            ("weighted", "role = \"replica\"\nbalance = \"lag_weighted\""),
            ("limited", "role = \"replica\"\nmax_lag = \"1MB\""),
        ],
    )
    .await;
    let [two, three] = ["pg2", "pg3"].map(|name| port_of(&playground, name));
    for name in ["pg2", "pg3"] {
        until_lag(&playground, proxy, name, |lag| lag < 1 << 20).await;
    }
    let before = [session(limited).await, session(limited).await];
    assert_eq!(before.iter().map(|(_, server)| *server).filter(|server| *server == three).count(), 1);

    on(&playground, "pg3", "SELECT pg_wal_replay_pause()").await;
    // It is only asked for until then: what comes meanwhile is replayed.
    let paused = "DO $$ BEGIN ASSERT pg_get_wal_replay_pause_state() = 'paused'; END $$";
    until(&playground, "replay is paused", async || tried(&playground, "pg3", paused).await.is_ok()).await;
    write_wal(&playground, 4 << 20).await;
    until_lag(&playground, proxy, "pg3", |lag| lag >= 4 << 20).await;
    until_lag(&playground, proxy, "pg2", |lag| lag < 1 << 10).await;

    assert_eq!(asked(limited, 6).await, [(two, 6)].into(), "new sessions avoid it");
    for (client, server) in &before {
        let row = client.query_one("SELECT inet_server_port()", &[]).await.expect("open sessions go on");
        assert_eq!(row.get::<_, i32>(0), i32::from(*server));
    }
    drop(before);
    for name in ["pg2", "pg3"] {
        until_sessions(&playground, proxy, name, 0).await;
    }
    let mut open = vec![];
    for _ in 0..12 {
        open.push(session(weighted).await);
    }
    let on_lagging = open.iter().filter(|(_, server)| *server == three).count();
    // Four MiB behind count as five times the sessions: one in six.
    assert!((1..=2).contains(&on_lagging), "{on_lagging} of 12 on the one that lags");

    on(&playground, "pg3", "SELECT pg_wal_replay_resume()").await;
    until_lag(&playground, proxy, "pg3", |lag| lag < 1 << 10).await;
    let missing = 12 - 2 * on_lagging;
    for _ in 0..missing {
        open.push(session(weighted).await);
    }
    let on_recovered = open.iter().filter(|(_, server)| *server == three).count();
    assert_eq!(on_recovered, on_lagging + missing, "it has to catch up on sessions");
    assert_eq!(asked(limited, 6).await, [(two, 3), (three, 3)].into(), "and it is asked in turn again");
}

#[tokio::test(flavor = "multi_thread")]
async fn reads_survive_the_end_of_replicas() {
    let mut playground = cluster(3, 10, vec![]).await;
    let (proxy, [falls_back]) =
        with_ports(&mut playground, [("falls_back", "role = \"replica\"\nfallback = \"primary\"")]).await;
    let replica = playground.proxies[proxy].options().replica;
    let [primary, two, three] = ["pg1", "pg2", "pg3"].map(|name| port_of(&playground, name));

    // Nobody is left to say that it is dead: its member record stays until its lease ends.
    let mut answers = Answers::new();
    for call in 0..50 {
        if call == 10 {
            playground.node_mut("pg3").signal_agent(Signal::STOP);
            assert!(playground.node("pg3").kill_postmaster().is_some(), "it runs");
        }
        *answers.entry(who(replica).await).or_default() += 1;
    }
    assert_eq!(answers, [(two, 45), (three, 5)].into(), "the other one takes all, and nobody is refused");
    assert_eq!(asked(falls_back, 2).await, [(two, 2)].into(), "one replica is enough");
    playground.node_mut("pg3").signal_agent(Signal::CONT);
    healthy(&mut playground).await;

    for name in ["pg2", "pg3"] {
        assert!(playground.node_mut(name).stop_agent(SOON).await, "the agent stops");
    }
    assert_eq!(asked(falls_back, 4).await, [(primary, 4)].into(), "no replica is left");
    let waiting = tokio::spawn(printed(psql(&libpq(replica), WHO)));
    until(&playground, "psql is held at the port that does not fall back", async || {
        let topology = topology(&playground, proxy).await;
        let listeners = topology["listeners"].as_array().cloned().unwrap_or_default();
        listeners.iter().any(|listener| listener["name"] == "replica" && listener["held"] == 1)
    })
    .await;
    for name in ["pg2", "pg3"] {
        playground.restart_agent(name).expect("the agent starts");
    }
    let served = waiting.await.expect("no panic").trim().parse().expect("a port");
    assert!([two, three].contains(&served), "{served}");
    healthy(&mut playground).await;
    // Who refused the held session while it started is passed over for a moment.
    for name in ["pg2", "pg3"] {
        let what = format!("{name} is asked again");
        until(&playground, &what, async || member(&playground, proxy, name).await["refused"] == false).await;
    }
    assert_eq!(asked(falls_back, 4).await, [(two, 2), (three, 2)].into(), "reads return");
}

/// Presses Ctrl-C while psql sleeps on this member; answers what psql says.
async fn cancelled(playground: &Playground, name: &str, mut session: Dialogue) -> String {
    const ASLEEP: &str = "SELECT count(*) FROM pg_stat_activity WHERE query LIKE 'SELECT pg_sleep(300)%'";
    session.say("SELECT pg_sleep(300);").await;
    let server = libpq(playground.node(name).postgres());
    until(playground, "the query runs", async || printed(psql(&server, &["-c", ASLEEP])).await == "1\n")
        .await;
    session.interrupt();
    session.complaint().await
}

#[tokio::test(flavor = "multi_thread")]
async fn psql_cancels_reads_also_after_a_switchover() {
    let mut playground = cluster(3, 10, vec![]).await;
    let etcd = playground.etcd.client();
    let proxy = add_proxy(&mut playground, etcd, "", "");
    healthy(&mut playground).await;
    let replica = libpq(playground.proxies[proxy].options().replica);
    let mut on_three = vec![];
    while on_three.len() < 2 {
        let mut session = Dialogue::open(&replica).await;
        session.say("SELECT inet_server_port();").await;
        if session.line().await.trim() == port_of(&playground, "pg3").to_string() {
            on_three.push(session);
        }
    }
    let why = cancelled(&playground, "pg3", on_three.remove(0)).await;
    assert!(why.contains("57014: canceling statement due to user request"), "{why}");

    // Of equals the first by name takes over.
    switchover(&playground, "pg1").await;
    healthy(&mut playground).await;
    let leader = topology(&playground, proxy).await["clusters"][0]["leader"].clone();
    assert_eq!(leader, "pg2", "pg3 was to stay a replica");
    let why = cancelled(&playground, "pg3", on_three.remove(0)).await;
    assert!(why.contains("57014: canceling statement due to user request"), "{why}");
}

#[tokio::test(flavor = "multi_thread")]
async fn each_port_reaches_its_own_cluster() {
    const SYSTEM: &str = "SELECT system_identifier FROM pg_control_system()";
    let (one, mut two) = tokio::join!(cluster(1, 10, vec![]), cluster(1, 10, vec![]));
    let mut one = one;
    let (other, section) = one_more_port("other", "cluster = \"other\"\nrole = \"primary\"");
    let section = format!(
        "{section}[cluster.other]\nscope = \"demo\"\n[cluster.other.etcd]\nendpoints = [\"http://{}\"]\n",
        two.etcd.client()
    );
    let etcd = one.etcd.client();
    let proxy = add_proxy(&mut one, etcd, "", &section);
    healthy(&mut one).await;
    let ports = [one.proxies[proxy].options().primary, other];
    let direct = [one.node("pg1").postgres(), two.node("pg1").postgres()];
    let mut systems = vec![];
    for (port, server) in ports.into_iter().zip(direct) {
        let through = printed(psql(&libpq(port), &["-c", SYSTEM])).await;
        assert_eq!(through, printed(psql(&libpq(server), &["-c", SYSTEM])).await);
        systems.push(through);
    }
    assert_ne!(systems[0], systems[1], "two clusters");

    // What happens to one of them is none of the other's business.
    let mut sessions = [Dialogue::open(&libpq(ports[0])).await, Dialogue::open(&libpq(ports[1])).await];
    assert!(two.node_mut("pg1").stop_agent(SOON).await, "the agent stops");
    until(&one, "the other cluster has no primary", async || {
        topology(&one, proxy).await["clusters"][1]["primary"].is_null()
    })
    .await;
    sessions[0].say("SELECT 'still';").await;
    assert_eq!(sessions[0].line().await, "still\n");
    assert_eq!(printed(psql(&libpq(ports[0]), &["-c", SYSTEM])).await, systems[0]);
    let [_, second] = sessions;
    let told = second.last("SELECT 'too late';").await;
    // Told by the server that stopped or by the proxy, whoever is first.
    assert!(told.contains("FATAL:  57P01: "), "{told}");
}
