//! Two proxies behind a virtual address, with a real Keepalived that runs from the shipped files, each on a host of its
//! own. `cargo xtask drill --pair` plays the same, and more, as often as one likes.

use xtask::drill::pair::{self, PairEvent, PairPlan};
use xtask::playground::network;
use xtask::{install, programs};

/// A client of the address is served again sooner than this after the proxy that had it was killed, whatever else the
/// machine does; `cargo xtask drill --pair` tells how soon.
const SOON_MS: f64 = 6000.0;

#[test]
fn the_address_moves_away_from_a_proxy_that_fails_and_no_write_reaches_a_wrong_primary() {
    if let Some(why) = network::missing() {
        eprintln!("SKIPPED: no pair without network namespaces: {why}");
        return;
    }
    let keepalived = install::keepalived().expect("Keepalived");
    let servers = install::servers().expect("PostgreSQL and etcd");
    let programs = programs::built().expect("the programs are built");
    let events = [PairEvent::Kill, PairEvent::Freeze, PairEvent::Disagree, PairEvent::Drain];
    let plan = PairPlan { events: events.to_vec(), runs: 1, ttl: 3, keep: false };
    let report = pair::run(plan, &programs, &servers, &keepalived, |line| eprintln!("  {line}"));
    let report = report.unwrap_or_else(|error| panic!("{error}"));
    eprintln!("{}", report.table());
    assert_eq!(report.intrusions, [] as [&str; 0]);
    assert_eq!((report.lost_rows, report.dual_primary_ms), (0, 0.0));
    // Somebody wrote all the while, and everything happened.
    assert!(report.acknowledged > 500, "{}", report.table());
    assert_eq!(report.moves.iter().map(|moved| moved.event).collect::<Vec<_>>(), events);
    let killed = &report.moves[0];
    assert!(killed.outage_ms < SOON_MS, "{}", report.table());
}
