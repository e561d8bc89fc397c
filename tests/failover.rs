//! The drills of the demo as tests: real etcd, real PostgreSQL, the real programs, clients writing all the while.
//!
//! What is asserted is safety and what must not depend on the machine's speed; the figures belong to the demo.

use xtask::drill::{self, Drill, Plan, Report};
use xtask::install;
use xtask::playground::{Options, Playground};
use xtask::programs;

/// Plays drills one after the other on one cluster.
async fn play(ttl: u32, drills: &[Drill]) -> Vec<Report> {
    let servers = install::servers().expect("PostgreSQL and etcd");
    let programs = programs::built().expect("the programs are built");
    let options = Options { ttl, ..Options::default() };
    let say = |line: &str| eprintln!("  {line}");
    let mut playground = Playground::start(&options, &programs, &servers, &say).await.expect("a cluster");
    let plan = Plan { etcd_away: std::time::Duration::from_secs(15) };
    let mut reports = Vec::new();
    for drill in drills {
        match drill::run(&mut playground, *drill, plan, &say).await {
            Ok(report) => {
                eprintln!("{report:?}");
                assert!(report.dual_primary_ms <= 0.0, "two primaries: {report:?}");
                assert_eq!(report.read_only_refusals, 0, "sessions on a read-only server: {report:?}");
                reports.push(report);
            }
            Err(error) => panic!("{drill:?}: {error}\n{}", playground.log_tails(60)),
        }
    }
    reports
}

#[tokio::test(flavor = "multi_thread")]
async fn planned_changes_lose_nothing_and_refuse_nobody() {
    // Twice: the second time the former primary takes over on a third timeline.
    for report in play(30, &[Drill::Switchover, Drill::Switchover, Drill::StopAgent]).await {
        assert_eq!(report.lost_rows, 0, "{report:?}");
        assert_eq!(report.failed_connects, 0, "{report:?}");
        assert_eq!(report.read_errors, 0, "{report:?}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn crashes_are_answered_long_before_the_lease_ends() {
    let drills = [Drill::KillPostgres, Drill::KillAgentAndPostgres, Drill::KillReplica];
    for report in play(30, &drills).await {
        assert_eq!(report.failed_connects, 0, "{report:?}");
        // Nobody waits for the lease: its end would be at least 20 s away.
        assert!(report.outage_ms < 15_000.0, "{report:?}");
        match report.drill {
            // In place, so that nothing is lost; a replica's death loses nothing either.
            Drill::KillPostgres => assert_eq!(report.lost_rows, 0, "{report:?}"),
            Drill::KillReplica => assert_eq!((report.lost_rows, report.client_errors), (0, 0), "{report:?}"),
            _ => {}
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_frozen_agent_never_makes_two_primaries() {
    for report in play(3, &[Drill::FreezeAgent, Drill::FreezeAgent]).await {
        assert_eq!(report.failed_connects, 0, "{report:?}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn an_outage_of_etcd_is_not_noticed_by_clients() {
    for report in play(5, &[Drill::EtcdOutage]).await {
        let failed = (report.client_errors, report.failed_connects, report.read_errors, report.lost_rows);
        assert_eq!(failed, (0, 0, 0, 0), "{report:?}");
    }
}
