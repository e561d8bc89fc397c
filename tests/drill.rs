//! A short random drill: every part of a real cluster in a network namespace of its own, faults from a fixed seed, and
//! the checker that counts lost rows and second primaries. `cargo xtask drill` plays the same for as long as one likes.

use std::time::Duration;

use xtask::drill::fault::Kind;
use xtask::drill::play::{self, Plan, Sync};
use xtask::playground::network;
use xtask::{install, programs};

/// One of each sort: dead, frozen, cut off and cut off in one direction; nodes, etcd, proxies and disks.
const KINDS: &[Kind] = &[
    Kind::KillNode,
    Kind::FreezeAgent,
    Kind::CutNodeEtcd,
    Kind::CutProxyEtcd,
    Kind::KillEtcd,
    Kind::StallDisk,
];

#[test]
fn faults_at_random_lose_nothing_that_may_not_be_lost_and_never_make_two_primaries() {
    if let Some(why) = network::missing() {
        eprintln!("SKIPPED: no drill without network namespaces: {why}");
        return;
    }
    let servers = install::servers().expect("PostgreSQL and etcd");
    let programs = programs::built().expect("the programs are built");
    let plan = Plan {
        seed: 5,
        duration: Duration::from_secs(75),
        incidents: Some(6),
        kinds: KINDS.to_vec(),
        sync: Sync::Off,
        ttl: 3,
        keep: false,
    };
    let report = play::run(plan, &programs, &servers, Box::new(|line| eprintln!("  {line}")));
    let report = report.unwrap_or_else(|error| panic!("{error}"));
    eprintln!("{}", report.table());
    assert_eq!(report.violations, [] as [&str; 0]);
    assert_eq!((report.dual_primary_ms, report.intrusions.len()), (0.0, 0));
    // It was a drill: something was struck, and clients were at work all the while.
    let struck = report.incidents.iter().map(|incident| incident.faults.len()).sum::<usize>();
    assert!(struck >= 3 && report.acknowledged > 500 && report.reads > 100, "{}", report.table());
}
