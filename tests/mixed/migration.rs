//! From Patroni to our agent and back, node by node (contract section 9), while clients write: nobody notices. Both are
//! run from one `patroni.yml`, which stays as it is.

use std::collections::BTreeMap;
use std::fs;
use std::os::unix::fs::MetadataExt;

use xtask::playground::node::{AgentSettings, Daemon};

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
    let mut cluster = Mixed::start_from(&[Daemon::Patroni; 3], AgentSettings::Patronis).await;
    for name in NODES {
        // So that there is nothing else to run from.
        fs::remove_file(cluster.playground.node(name).config()).expect("removes");
    }
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
