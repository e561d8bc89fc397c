//! Real clusters for tests, and what tests do to them and ask of them.
//!
//! Every wait is bounded by [`SOON`], which only a broken program reaches; what fails says how the logs end.

#![allow(dead_code, reason = "each test file uses a part of it")]

pub(crate) mod desk;
pub(crate) mod raw;
pub(crate) mod relay;
pub(crate) mod tools;
pub(crate) mod writer;

use std::net::SocketAddr;
use std::time::{Duration, Instant};

use hyper::Method;
use rustix::process::{Pid, Signal, kill_process};
use serde_json::{Value, json};
use xtask::playground::etcd::access::EtcdAccess;
use xtask::playground::node::MoreOfNode;
use xtask::playground::ports::Ports;
use xtask::playground::proxy::MoreSettings;
use xtask::playground::{Options, Playground, http};
use xtask::{drill, install, programs};

use self::writer::config;

/// Bound on every wait.
pub(crate) const SOON: Duration = Duration::from_secs(40);

/// Time between two looks at what is waited for.
pub(crate) const LOOK_EVERY: Duration = Duration::from_millis(10);

/// A cluster without proxies.
pub(crate) async fn cluster(nodes: usize, ttl: u32, apis: Vec<SocketAddr>) -> Playground {
    let playground = started(&Options { nodes, proxies: 0, ttl, apis, ..Options::default() }).await;
    drill::create_table(&playground).await.expect("a table");
    playground
}

/// A cluster without proxies whose agents are told more, `pg1` first; it has no table of writers yet.
pub(crate) async fn cluster_with(nodes: usize, more: Vec<MoreOfNode>) -> Playground {
    started(&Options { nodes, proxies: 0, ttl: 10, more, ..Options::default() }).await
}

async fn started(options: &Options) -> Playground {
    let servers = install::servers().expect("PostgreSQL and etcd");
    let programs = programs::built().expect("the programs are built");
    let say = |line: &str| eprintln!("  {line}");
    let started = Playground::start(options, &programs, &servers, &say).await;
    started.unwrap_or_else(|error| panic!("{error}"))
}

/// One node that leads, and a proxy.
pub(crate) async fn small() -> Playground {
    let mut playground = cluster(1, 10, vec![]).await;
    let etcd = playground.etcd.client();
    add_proxy(&mut playground, etcd, "", "");
    healthy(&mut playground).await;
    playground
}

/// Adds a proxy that finds etcd at `etcd`; answers its place.
pub(crate) fn add_proxy(
    playground: &mut Playground,
    etcd: impl Into<EtcdAccess>,
    of_cluster: &str,
    of_port: &str,
) -> usize {
    let more = MoreSettings {
        cluster: of_cluster.to_owned(),
        primary: of_port.to_owned(),
        ..MoreSettings::default()
    };
    playground.add_proxy(etcd, more).expect("the proxy starts")
}

/// Where one more port of a proxy will be, and the section for [`add_proxy`] that opens it.
pub(crate) fn one_more_port(name: &str, keys: &str) -> (SocketAddr, String) {
    let address = Ports::new().free().expect("a port");
    let cluster = if keys.contains("cluster =") { "" } else { "cluster = \"demo\"\n" };
    (address, format!("[[listener]]\nname = \"{name}\"\nlisten = [\"{address}\"]\n{cluster}{keys}\n"))
}

/// A proxy with a port of each of these names and keys, besides the usual two.
pub(crate) async fn with_ports<const N: usize>(
    playground: &mut Playground,
    ports: [(&str, impl AsRef<str>); N],
) -> (usize, [SocketAddr; N]) {
    let ports = ports.map(|(name, keys)| one_more_port(name, keys.as_ref()));
    let sections: String = ports.iter().map(|(_, section)| section.as_str()).collect();
    let etcd = playground.etcd.client();
    let proxy = add_proxy(playground, etcd, "", &sections);
    healthy(playground).await;
    (proxy, ports.map(|(address, _)| address))
}

/// Waits until the cluster is whole and every proxy routes to it.
pub(crate) async fn healthy(playground: &mut Playground) {
    if let Err(error) = playground.until_healthy(SOON).await {
        panic!("{error}\n{}", playground.log_tails(60));
    }
}

/// Waits for `what`.
pub(crate) async fn until(playground: &Playground, what: &str, mut is_so: impl AsyncFnMut() -> bool) {
    let started = Instant::now();
    while !is_so().await {
        let is_in_time = started.elapsed() < SOON;
        assert!(is_in_time, "waited {SOON:?} in vain: {what}\n{}", playground.log_tails(60));
        tokio::time::sleep(LOOK_EVERY).await;
    }
}

/// What the proxy at this place makes of the cluster; `null` while it does not answer.
pub(crate) async fn topology(playground: &Playground, proxy: usize) -> Value {
    let admin = playground.proxies[proxy].options().admin;
    http::get(admin, "/topology", Duration::from_secs(2)).await.unwrap_or_default()
}

/// What the proxy at this place makes of one member.
pub(crate) async fn member(playground: &Playground, proxy: usize, name: &str) -> Value {
    let topology = topology(playground, proxy).await;
    let mut members = topology["clusters"][0]["members"].as_array().into_iter().flatten();
    members.find(|member| member["name"] == name).cloned().unwrap_or_default()
}

/// The sum of the series of the proxy at this place whose lines begin so.
pub(crate) async fn metric(playground: &Playground, proxy: usize, series: &str) -> usize {
    let admin = playground.proxies[proxy].options().admin;
    let answer = http::request(Method::GET, admin, "/metrics", String::new(), SOON).await.expect("metrics");
    let text = String::from_utf8_lossy(&answer.1).into_owned();
    let lines = text.lines().filter(|line| line.starts_with(series));
    lines.filter_map(|line| line.rsplit_once(' ')?.1.parse::<usize>().ok()).sum()
}

/// Waits until the proxy at this place says this of its proof of the leader.
pub(crate) async fn until_standing(playground: &Playground, proxy: usize, standing: &str) {
    let what = format!("proxy {proxy} says {standing}");
    until(playground, &what, async || {
        topology(playground, proxy).await["clusters"][0]["standing"] == standing
    })
    .await;
}

/// Asks the leader to hand over; answered when the next one serves.
pub(crate) async fn switchover(playground: &Playground, leader: &str) {
    let (agent, body) = (playground.node(leader).rest(), json!({ "leader": leader }).to_string());
    let answer = http::request(Method::POST, agent, "/switchover", body, SOON).await;
    let is_done = answer.as_ref().is_ok_and(|(status, _)| status.is_success());
    assert!(is_done, "the switchover: {answer:?}\n{}", playground.log_tails(60));
}

/// SIGKILL to a node's agent and postmaster; and to its guard, so that only the lease ends its reign.
pub(crate) async fn kill_node(playground: &mut Playground, name: &str, guard: bool) {
    if guard {
        kill_guard(playground, name);
    }
    playground.node_mut(name).signal_agent(Signal::KILL);
    playground.node(name).kill_postmaster();
    playground.node_mut(name).kill_agent(SOON).await;
}

/// The guard is the agent's program run as such on this node's data.
fn kill_guard(playground: &Playground, name: &str) {
    let data = playground.dir().join(name).join("data").display().to_string();
    for entry in std::fs::read_dir("/proc").expect("/proc").flatten() {
        let command = std::fs::read(entry.path().join("cmdline")).unwrap_or_default();
        let command = String::from_utf8_lossy(&command).into_owned();
        let pid = entry.file_name().to_str().and_then(|n| n.parse().ok());
        if command.contains("\0guard\0") && command.contains(&data) {
            let pid = pid.and_then(Pid::from_raw).expect("a pid");
            kill_process(pid, Signal::KILL).expect("it runs");
            return;
        }
    }
    panic!("no guard of {name} runs");
}

/// Waits until the server takes writes; answers when it was first seen to, by its clock, in microseconds since 1970.
pub(crate) async fn promotion(server: SocketAddr) -> i64 {
    const QUESTION: &str =
        "SELECT pg_is_in_recovery(), (extract(epoch FROM clock_timestamp()) * 1000000)::bigint";
    let (client, connection) = config(server).connect(tokio_postgres::NoTls).await.expect("a replica to ask");
    let driver = tokio::spawn(connection);
    loop {
        let row = client.query_one(QUESTION, &[]).await.expect("an answer");
        if !row.get::<_, bool>(0) {
            driver.abort();
            return row.get(1);
        }
        tokio::time::sleep(Duration::from_millis(2)).await;
    }
}

/// The first column of a statement on the server of `name`, as its superuser; none while it does not answer.
pub(crate) async fn ask(playground: &Playground, name: &str, sql: &str) -> Vec<String> {
    let Ok((client, connection)) = playground.node(name).superuser().connect(tokio_postgres::NoTls).await
    else {
        return vec![];
    };
    let driver = tokio::spawn(connection);
    let rows = client.query(sql, &[]).await.unwrap_or_default();
    driver.abort();
    rows.iter().map(|row| row.get(0)).collect()
}

/// The rows that a server has.
pub(crate) async fn rows(server: SocketAddr) -> Vec<i64> {
    let (client, connection) = config(server).connect(tokio_postgres::NoTls).await.expect("the server");
    let driver = tokio::spawn(connection);
    let rows = client.query("SELECT id FROM writes", &[]).await.expect("the table");
    driver.abort();
    rows.iter().map(|row| row.get(0)).collect()
}
