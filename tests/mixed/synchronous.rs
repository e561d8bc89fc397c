//! Commits wait for standbys of both kinds, under leaders of both kinds: leadership goes both ways, planned and because
//! the leader died, and no acknowledged row is lost. Who compares `sync` with what the primary waits for finds it
//! covered all the while.

use std::time::Instant;

use rustix::process::Signal;
use serde_json::json;
use xtask::playground::node::Daemon;
use xtask::playground::{Options, Playground};
use xtask::{install, programs};

use crate::cluster::TTL;
use crate::sync_support::Stage;

/// The one node that runs our agent; the others run Patroni.
const OURS: &str = "pg2";

#[tokio::test(flavor = "multi_thread")]
async fn no_acknowledged_row_is_lost_whichever_kind_leads() {
    let began = Instant::now();
    let mut stage = Stage::on(playground().await).await;
    stage.configure(json!({"synchronous_mode": true, "synchronous_node_count": 2})).await;
    stage.in_sync(2).await;

    for (from, to) in [("pg1", OURS), (OURS, "pg3"), ("pg3", OURS)] {
        stage.switchover(from, to).await;
        stage.serves(&format!("{from} handed over to {to}")).await;
        assert_eq!(stage.leader().await, to);
        stage.nothing_is_lost().await;
        stage.in_sync(2).await;
    }

    // Ours dies: a Patroni daemon takes over. Its guard lives, so nobody waits for the lease.
    let sync = stage.rule().await.expect("a rule");
    stage.kill_node(OURS, false).await;
    stage.serves(&format!("{OURS} is dead, {sync:?} was in sync")).await;
    let patroni = stage.leader().await;
    assert!(patroni != OURS && sync.has_standby(&patroni.as_str().into()), "{patroni}: {sync:?}");
    stage.nothing_is_lost().await;
    stage.revive().await;
    stage.in_sync(2).await;

    // Patroni's dies: ours takes over, for the other daemon is frozen. Its lease has to run out.
    let sync = stage.rule().await.expect("a rule");
    let frozen = if patroni == "pg1" { "pg3" } else { "pg1" };
    stage.playground.node_mut(frozen).signal_agent(Signal::STOP);
    stage.kill_node(&patroni, false).await;
    stage.serves(&format!("{patroni} is dead, {sync:?} was in sync")).await;
    assert_eq!(stage.leader().await, OURS, "{}", stage.tails());
    stage.nothing_is_lost().await;
    stage.playground.node_mut(frozen).signal_agent(Signal::CONT);
    stage.revive().await;
    stage.in_sync(2).await;
    stage.close().await;
    eprintln!("  {:?} in all", began.elapsed());
}

/// Patroni, ours, Patroni.
async fn playground() -> Playground {
    let servers = install::servers().expect("PostgreSQL and etcd");
    let programs = programs::built().expect("the programs are built");
    let found = programs.clone();
    let patroni = tokio::task::spawn_blocking(move || install::patroni::patroni(&found));
    let options = Options {
        proxies: 0,
        ttl: TTL,
        patroni: Some(patroni.await.expect("no panic").expect("Patroni")),
        daemons: vec![Daemon::Patroni, Daemon::Pgvane, Daemon::Patroni],
        ..Options::default()
    };
    let say = |line: &str| eprintln!("  {line}");
    Playground::start(&options, &programs, &servers, &say).await.expect("a cluster")
}
