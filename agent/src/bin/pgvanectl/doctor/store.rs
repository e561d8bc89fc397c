//! etcd: how long it takes, and the lease time that this allows.

use std::time::{Duration, Instant};

use pgvane_agent::timing::{Timing, TimingOverrides};
use pgvane_cluster::store::etcd::EtcdHealth;
use pgvane_cluster::store::{Store, StoreError};
use pgvane_cluster::units::show_duration;

use super::finding::Finding;
use crate::target::Target;

/// How often each is measured.
const ROUNDS: usize = 20;

/// A renewal may be this many times slower than the slowest that was seen.
const RESERVE: u32 = 3;

/// The lease times that are tried, in seconds.
const TTLS: std::ops::RangeInclusive<u64> = 2..=300;

/// The slowest answers.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) struct Latency {
    /// To a read that etcd's members agree on.
    pub(super) read: Duration,
    /// To a change that is on the disks of most of them.
    pub(super) write: Duration,
}

/// Measures. What is changed is a lease of its own: nobody's keys are touched.
pub(super) async fn measure(target: &Target) -> Result<Latency, StoreError> {
    let mut latency = Latency { read: Duration::ZERO, write: Duration::ZERO };
    for _ in 0..ROUNDS {
        let began = Instant::now();
        target.store.snapshot(target.space.prefix()).await?;
        latency.read = latency.read.max(began.elapsed());
        let began = Instant::now();
        let lease = target.store.grant(Duration::from_mins(1)).await?;
        latency.write = latency.write.max(began.elapsed());
        target.store.revoke(lease.id).await?;
    }
    Ok(latency)
}

/// How large etcd's database is, and whether it has raised an alarm.
pub(super) fn health(health: &EtcdHealth) -> Finding {
    const WHAT: &str = "etcd's database";
    let found = format!("{} kB, etcd {}", health.db_size / 1024, health.version);
    if health.alarms.is_empty() {
        return Finding::good(WHAT, found);
    }
    let advice = if health.alarms.iter().any(|alarm| alarm.contains("NOSPACE")) {
        MAKE_ROOM
    } else {
        "see etcd's logs, and etcdctl alarm list"
    };
    Finding::critical(WHAT, format!("{found}: {}", health.alarms.join(", ")), advice)
}

/// An etcd that takes no writes and does not say more.
pub(super) fn full(error: &StoreError) -> Finding {
    Finding::critical("etcd's database", error.to_string(), MAKE_ROOM)
}

/// What to do then.
const MAKE_ROOM: &str =
    "nobody can take over until there is room: etcdctl compact, defrag, alarm disarm (docs/etcd.md)";

/// The shortest lease time with which a renewal that is slower by [`RESERVE`] than any seen spoils nothing.
fn smallest_ttl(latency: Latency, set: &TimingOverrides) -> Option<u64> {
    let slow = latency.read.max(latency.write) * RESERVE;
    TTLS.into_iter().find(|ttl| {
        Timing::derive(Duration::from_secs(*ttl), set).is_ok_and(|timing| timing.request_slack >= slow)
    })
}

/// Whether the lease time in force is long enough for an etcd as fast as this one.
pub(super) fn judge(latency: Latency, ttl: Duration, set: &TimingOverrides) -> Finding {
    const WHAT: &str = "etcd's latency";
    let found = format!(
        "slowest of {ROUNDS}: read {}, write {}",
        show_duration(latency.read),
        show_duration(latency.write)
    );
    match smallest_ttl(latency, set) {
        Some(smallest) if Duration::from_secs(smallest) <= ttl => Finding::good(
            WHAT,
            format!("{found}; the smallest safe ttl is {smallest} s, it is {}", show_duration(ttl)),
        ),
        Some(smallest) => Finding::critical(
            WHAT,
            format!("{found}; ttl is {}", show_duration(ttl)),
            format!(
                "set ttl to {smallest} or more (pgvanectl edit-config --set ttl={smallest}), or give etcd faster disks"
            ),
        ),
        None => Finding::critical(
            WHAT,
            found,
            "no lease time is safe with an etcd this slow: give it faster disks",
        ),
    }
}

#[cfg(test)]
mod tests {
    use super::super::finding::Level;
    use super::*;

    fn judged(write: u64, ttl: u64) -> Finding {
        let latency = Latency { read: Duration::from_millis(2), write: Duration::from_millis(write) };
        judge(latency, Duration::from_secs(ttl), &TimingOverrides::default())
    }

    #[test]
    fn an_alarm_is_critical() {
        let mut well = EtcdHealth { version: "3.5.16".to_owned(), db_size: 20480, alarms: vec![] };
        assert_eq!((health(&well).level, health(&well).found.as_str()), (Level::Good, "20 kB, etcd 3.5.16"));
        well.alarms.push("memberID:1 alarm:NOSPACE ".to_owned());
        let full = health(&well);
        assert!(full.level == Level::Critical && full.advice.contains("defrag"), "{full:?}");
    }

    #[test]
    fn a_slow_disk_needs_a_longer_lease() {
        assert_eq!(judged(5, 3).level, Level::Good);
        assert!(judged(5, 30).found.contains("smallest safe ttl is 2 s"), "{:?}", judged(5, 30));
        let slow = judged(200, 3);
        assert!(slow.level == Level::Critical && slow.advice.contains("ttl to 6 "), "{slow:?}");
        assert_eq!(judged(200, 6).level, Level::Good);
        assert!(judged(5000, 300).advice.starts_with("no lease time"));
    }
}
