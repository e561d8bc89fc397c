//! PostgreSQL outlives its agent, and the next agent takes it over as it runs: nobody who writes notices.

use std::time::Duration;

use rustix::process::Signal;
use xtask::drill::clients::Clients;
use xtask::drill::create_table;
use xtask::playground::{HEALTHY_WITHIN, Options, Playground};
use xtask::{install, programs};

#[tokio::test(flavor = "multi_thread")]
async fn a_new_agent_adopts_a_running_primary() {
    let servers = install::servers().expect("PostgreSQL and etcd");
    let programs = programs::built().expect("the programs are built");
    let say = |line: &str| eprintln!("  {line}");
    let options = Options { nodes: 2, proxies: 1, ttl: 20, ..Options::default() };
    let mut playground = Playground::start(&options, &programs, &servers, &say).await.expect("a cluster");
    create_table(&playground).await.expect("a table");
    let clients = Clients::start(&playground);
    let before = reign(&playground).await;

    // A crash of the agent, and the way in which a package brings a new version in.
    for signal in [Signal::KILL, Signal::USR1] {
        let node = playground.node_mut("pg1");
        node.signal_agent(signal);
        assert!(
            node.agent_ended_within(Duration::from_secs(5)).await,
            "the agent does not end on {signal:?}"
        );
        playground.restart_agent("pg1").expect("starts");
        playground.until_healthy(HEALTHY_WITHIN).await.unwrap_or_else(|error| {
            panic!("after {signal:?}: {error}\n{}", playground.log_tails(60));
        });
        assert_eq!(reign(&playground).await, before, "after {signal:?}: {}", playground.log_tails(60));
    }
    let written = clients.acknowledged();
    let started = std::time::Instant::now();
    while clients.acknowledged() < written + 100 {
        assert!(started.elapsed() < HEALTHY_WITHIN, "the writer is stuck: {}", playground.log_tails(60));
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
    assert_eq!(clients.sessions(), 1, "the writer's session was cut: {}", playground.log_tails(60));
    let ledger = clients.stop().await;
    assert_eq!(ledger.client_errors, 0, "{:?}", ledger.errors);
}

/// The postmaster of pg1 and the epoch it serves in.
async fn reign(playground: &Playground) -> (Option<i32>, Option<i64>) {
    let postmaster = playground.node("pg1").postmaster().map(|pid| pid.as_raw_nonzero().get());
    (postmaster, playground.look().await.epoch())
}
