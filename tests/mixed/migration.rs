//! From Patroni to our agent and back, node by node (contract section 9), while clients write: nobody notices. Both are
//! run from one `patroni.yml`, which stays as it is; or our agent from the agent.toml that `pgvanectl import` makes of it,
//! and the proxy from the proxy.toml that it makes of a haproxy.cfg.

use std::collections::BTreeMap;
use std::fs;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::process::Command;

use xtask::playground::node::{AgentSettings, Daemon};
use xtask::programs;

use crate::cluster::{LATER, Mixed};

const NODES: [&str; 3] = ["pg1", "pg2", "pg3"];

/// Files that the one kind leaves and the other needs, beside those that only a standby has.
const KEPT: [&str; 6] = [
    "patroni.yml",
    "data/postgresql.base.conf",
    "data/postgresql.conf",
    "data/postgresql.conf.backup",
    "data/pg_hba.conf.backup",
    "data/patroni.dynamic.json",
];

#[tokio::test(flavor = "multi_thread")]
async fn nodes_change_hands_under_a_running_writer() {
    let cluster = Mixed::start_from(&[Daemon::Patroni; 3], AgentSettings::Patronis).await;
    for name in NODES {
        // So that there is nothing else to run from.
        fs::remove_file(cluster.playground.node(name).config()).expect("removes");
    }
    Box::pin(there_and_back(cluster)).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn nodes_change_hands_with_imported_settings() {
    let mut cluster = Mixed::start_from(&[Daemon::Patroni; 3], AgentSettings::Own).await;
    for name in NODES {
        // In place of the playground's own, whose owner and mode stay.
        let made = import(&cluster, name, &[]).await.join("agent.toml");
        let config = cluster.playground.node(name).config();
        fs::write(&config, fs::read(made).expect("an agent.toml")).expect("writes");
        check(&programs::built().expect("built").agent, &config);
    }
    imported_proxy(&mut cluster).await;
    Box::pin(there_and_back(cluster)).await;
}

/// The proxy is started from what `pgvanectl import` makes of the HAProxy that would have stood in its place.
async fn imported_proxy(cluster: &mut Mixed) {
    let options = cluster.playground.proxies[0].options();
    let servers: String = NODES
        .map(|name| {
            let node = cluster.playground.node(name);
            format!("  server {name} {} maxconn 100 check port {}\n", node.postgres(), node.rest().port())
        })
        .concat();
    let port = |name: &str, at, path: &str| {
        format!(
            "listen {name}\n  bind {at}\n  option httpchk OPTIONS {path}\n  http-check expect status 200\n  \
             default-server inter 3s fall 3 rise 2 on-marked-down shutdown-sessions\n{servers}\n"
        )
    };
    let text = format!(
        "global\n  maxconn 500\n\ndefaults\n  mode tcp\n  retries 2\n  timeout client 30m\n  timeout connect 4s\n  \
         timeout server 30m\n  timeout check 5s\n\n\
         listen stats\n  mode http\n  bind {}\n  stats enable\n  stats uri /\n\n{}{}",
        options.admin,
        port("write", options.primary, "/primary"),
        port("read", options.replica, "/replica"),
    );
    let haproxy = cluster.playground.write("haproxy.cfg", &text).expect("writes");
    let made = import(cluster, "pg1", &["--haproxy", &haproxy.display().to_string()]).await;
    let proxy = fs::read_to_string(made.join("proxy.toml")).expect("a proxy.toml");
    // The unit's directory is not there without systemd.
    let socket = cluster.playground.proxies[0].socket().display().to_string();
    assert!(proxy.contains("/run/pgvane/admin.sock"), "{proxy}");
    let proxy = proxy.replace("/run/pgvane/admin.sock", &socket);
    let running = &mut cluster.playground.proxies[0];
    assert!(running.kill(LATER).await, "the playground's proxy ends");
    fs::write(running.file(), proxy).expect("writes");
    check(&programs::built().expect("built").proxy, running.file());
    cluster.playground.restart_proxy(0).expect("starts");
    cluster.healthy().await;
}

/// What `pgvanectl import` makes of a node's patroni.yml and of these files; answers its directory.
async fn import(cluster: &Mixed, name: &str, more: &[&str]) -> PathBuf {
    let node = cluster.playground.node(name);
    let (patroni, output) = (node.dir().join("patroni.yml"), node.dir().join("imported"));
    let [from, to] = [&patroni, &output].map(|path| path.display().to_string());
    let said = cluster.import(&[&["--patroni", &from, "--output", &to, "--force"], more].concat()).await;
    assert!(said.contains("Written: "), "{said}");
    output
}

/// The program takes the file.
fn check(program: &Path, file: &Path) {
    let run = Command::new(program).arg("--check").arg(file).output().expect("runs");
    let said = String::from_utf8_lossy(&run.stderr);
    assert!(run.status.success(), "{}: {said}", file.display());
}

/// All nodes to our agent and back to Patroni, with a writer that notices nothing.
async fn there_and_back(mut cluster: Mixed) {
    cluster.lists("pg1").await;
    let clients = cluster.clients().await;
    let started = start_times(&cluster).await;

    // Replicas first, the primary last; then back with the primary first, so that each kind leads each mixture.
    for (daemon, order) in [(Daemon::Pgvane, ["pg3", "pg2", "pg1"]), (Daemon::Patroni, ["pg1", "pg2", "pg3"])]
    {
        for name in order {
            move_to(&mut cluster, name, daemon).await;
            assert_eq!(
                start_times(&cluster).await,
                started,
                "{name} -> {daemon:?}: PostgreSQL was restarted"
            );
            let at = cluster.position().await;
            cluster.written(&clients, 20).await;
            cluster.keeps_slots_from(&at).await;
        }
    }
    assert_eq!(clients.sessions(), 1, "the writer's session was cut\n{}", cluster.playground.log_tails(60));
    let (ledger, lost) = cluster.finish(clients).await;
    assert_eq!((ledger.client_errors, ledger.failed_connects, lost), (0, 0, 0), "{:?}", ledger.errors);
    eprintln!("{} rows were written meanwhile", ledger.acknowledged());
}

/// The procedure of the contract for one node.
async fn move_to(cluster: &mut Mixed, name: &str, daemon: Daemon) {
    eprintln!("  {name} -> {daemon:?}");
    let files = files(cluster, name);
    // Who operates what is being left uses its tool.
    match daemon {
        Daemon::Pgvane => cluster.patronictl(&["pause", "--wait"]).await,
        Daemon::Patroni => cluster.pgvanectl(&["pause", "--wait"]).await,
    };
    paused(cluster, true).await;
    let node = cluster.playground.node_mut(name);
    node.signal_agent(rustix::process::Signal::TERM);
    assert!(node.agent_ended_within(LATER).await, "{}", cluster.playground.log_tails(60));
    assert!(cluster.playground.node(name).postmaster().is_some(), "PostgreSQL ended with its daemon");

    cluster.playground.start_daemon(name, daemon).expect("starts");
    cluster
        .until("the new daemon shows itself", async || {
            let record = cluster.record(name).await;
            record.is_native() == (daemon == Daemon::Pgvane) && record.pause == Some(true)
        })
        .await;
    cluster.lists("pg1").await;
    cluster.healthy().await;
    paused(cluster, true).await;
    for (file, (inode, text)) in files {
        let path = cluster.playground.node(name).dir().join(&file);
        let now = fs::read_to_string(&path).unwrap_or_else(|e| panic!("{file} is gone: {e}"));
        // What the operator wrote is nobody's to change; Patroni copies the others at each start.
        if ["data/postgresql.base.conf", "patroni.yml"].contains(&file.as_str()) {
            assert_eq!(
                (fs::metadata(&path).expect("is there").ino(), &now),
                (inode, &text),
                "{file} changed"
            );
        }
    }
    match daemon {
        Daemon::Pgvane => cluster.pgvanectl(&["resume", "--wait"]).await,
        Daemon::Patroni => cluster.patronictl(&["resume", "--wait"]).await,
    };
    paused(cluster, false).await;
    cluster.lists("pg1").await;
    cluster.healthy().await;
    assert_eq!(cluster.view().await.leader_member().and_then(|m| m.record.timeline).map(|t| t.0), Some(1));
}

/// Waits until every member and both tools say that it is paused, or that it is not.
async fn paused(cluster: &Mixed, on: bool) {
    cluster
        .until("pause is seen by all", async || {
            let view = cluster.view().await;
            view.settings().pause == on && view.members.values().all(|m| m.record.pause == on.then_some(true))
        })
        .await;
    for tool in [cluster.patronictl(&["list"]).await, cluster.pgvanectl(&["list"]).await] {
        assert_eq!(tool.to_lowercase().contains("maintenance mode: on"), on, "{tool}");
    }
}

async fn start_times(cluster: &Mixed) -> BTreeMap<&'static str, String> {
    let mut times = BTreeMap::new();
    for name in NODES {
        times.insert(name, cluster.sql(name, "SELECT pg_postmaster_start_time()::text").await);
    }
    times
}

/// The files that must outlive a change of hands: inode and text by name.
fn files(cluster: &Mixed, name: &str) -> BTreeMap<String, (u64, String)> {
    let dir = cluster.playground.node(name).dir();
    let of_standby = if name == "pg1" { &[][..] } else { &["data/standby.signal", "pgpass"] };
    let names = KEPT.iter().chain(of_standby);
    names
        .map(|file| {
            let path = dir.join(file);
            let text = fs::read_to_string(&path).unwrap_or_else(|e| panic!("{file}: {e}"));
            ((*file).to_owned(), (fs::metadata(&path).expect("is there").ino(), text))
        })
        .collect()
}
