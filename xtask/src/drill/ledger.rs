//! What clients saw, and the figures drawn from it; no I/O.

use std::collections::{BTreeMap, HashSet};
use std::fmt::Write as _;
use std::time::{Duration, Instant};

use tokio_postgres::Error;
use tokio_postgres::error::SqlState;

/// Gaps between looks at a server longer than this (microseconds) end its time as primary: it may have stopped
/// in between.
const BLIND_US: u64 = 250_000;

/// What clients saw.
#[derive(Clone, Debug, Default)]
pub struct Ledger {
    acknowledged: Vec<(i64, Instant)>,
    /// Statements that failed.
    pub client_errors: u64,
    /// Connections that failed.
    pub failed_connects: u64,
    /// Statements refused by a read-only server.
    pub read_only_refusals: u64,
    /// Reads that failed.
    pub read_errors: u64,
    /// Reads that were answered.
    pub reads: u64,
    /// What was said when something failed, and how often.
    pub errors: BTreeMap<String, u64>,
    /// Per server: times during which it accepted writes, oldest first.
    primaries: BTreeMap<String, Vec<Span>>,
}

/// Microseconds by the clock of the machine that all servers run on.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
struct Span {
    from: u64,
    to: u64,
    /// Whether it has not said since that it does not.
    open: bool,
}

impl Ledger {
    /// Notes a write that was acknowledged at `at`.
    pub fn acknowledge(&mut self, id: i64, at: Instant) {
        self.acknowledged.push((id, at));
    }

    /// Notes a statement of the writer that failed.
    pub fn write_failed(&mut self, error: &Error) {
        self.client_errors += 1;
        if error.code() == Some(&SqlState::READ_ONLY_SQL_TRANSACTION) {
            self.read_only_refusals += 1;
        }
        self.note("write", error);
    }

    /// Notes a connection of the writer that failed.
    pub fn connect_failed(&mut self, error: &Error) {
        self.failed_connects += 1;
        self.note("connect", error);
    }

    /// Notes a read that failed.
    pub fn read_failed(&mut self, error: &Error) {
        self.read_errors += 1;
        self.note("read", error);
    }

    fn note(&mut self, what: &str, error: &Error) {
        let mut text = format!("{what}: {error}");
        let mut source = std::error::Error::source(error);
        while let Some(cause) = source {
            let _ = write!(text, ": {cause}");
            source = cause.source();
        }
        *self.errors.entry(text).or_default() += 1;
    }

    /// Notes that `server` said that at `at_us` it accepted writes, or that it did not.
    pub fn primary(&mut self, server: &str, accepts_writes: bool, at_us: u64) {
        let spans = self.primaries.entry(server.to_owned()).or_default();
        match spans.last_mut() {
            Some(last) if accepts_writes && last.open && at_us <= last.to + BLIND_US => last.to = at_us,
            Some(last) if !accepts_writes => last.open = false,
            None if !accepts_writes => {}
            Some(_) | None => spans.push(Span { from: at_us, to: at_us, open: true }),
        }
    }

    /// How many writes were acknowledged.
    pub fn acknowledged(&self) -> u64 {
        self.acknowledged.len() as u64
    }

    /// When the last write was acknowledged.
    pub fn last(&self) -> Option<Instant> {
        self.acknowledged.last().map(|(_, at)| *at)
    }

    /// How many writes were acknowledged after `since`.
    pub fn acknowledged_since(&self, since: Instant) -> u64 {
        self.acknowledged.iter().rev().take_while(|(_, at)| *at > since).count() as u64
    }

    /// The last time without an acknowledged write that was at least `noticed` long and is over.
    pub fn last_outage(&self, noticed: Duration) -> Option<Duration> {
        let gaps = self.acknowledged.windows(2).rev().map(|pair| pair[1].1 - pair[0].1);
        gaps.into_iter().find(|gap| *gap >= noticed)
    }

    /// The longest time without an acknowledged write that ended after `since`.
    pub fn longest_gap(&self, since: Instant) -> Duration {
        let pairs = self.acknowledged.windows(2).filter(|pair| pair[1].1 >= since);
        pairs.map(|pair| pair[1].1 - pair[0].1).max().unwrap_or_default()
    }

    /// Acknowledged writes that are not among `survivors`.
    pub fn lost(&self, survivors: &[i64]) -> u64 {
        let there: HashSet<_> = survivors.iter().collect();
        self.acknowledged.iter().filter(|(id, _)| !there.contains(id)).count() as u64
    }

    /// How long two servers accepted writes at the same time.
    pub fn dual_primary(&self) -> Duration {
        let spans = self.primaries.values().flatten();
        let mut edges: Vec<_> = spans.flat_map(|span| [(span.from, 1), (span.to, -1)]).collect();
        // Ends before beginnings: one that takes over at the very instant is not a second one.
        edges.sort_unstable();
        let (mut now, mut total, mut before) = (0, 0, 0);
        for (at, change) in edges {
            if now > 1 {
                total += at - before;
            }
            now += change;
            before = at;
        }
        Duration::from_micros(total)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const MS: Duration = Duration::from_millis(1);

    #[test]
    fn the_longest_gap_counts_from_the_fault_on() {
        let t = Instant::now();
        let mut ledger = Ledger::default();
        for (id, ms) in [(1, 0), (2, 500), (3, 505), (4, 705), (5, 710)] {
            ledger.acknowledge(id, t + ms * MS);
        }
        assert_eq!(ledger.longest_gap(t + 506 * MS), 200 * MS);
        assert_eq!(ledger.longest_gap(t), 500 * MS);
        assert_eq!(ledger.longest_gap(t + 900 * MS), Duration::ZERO);
        assert_eq!(ledger.lost(&[5, 1, 3, 9]), 2);
    }

    #[test]
    fn two_primaries_are_seen_and_one_after_the_other_are_not() {
        let mut ledger = Ledger::default();
        let mut ask = |server: &str, at_ms: u64, yes| {
            ledger.primary(server, yes, at_ms * 1000);
            ledger.dual_primary()
        };
        for at in (0..100).step_by(5) {
            ask("a", at, true);
            ask("b", at, false);
        }
        assert_eq!(ask("b", 100, true), Duration::ZERO);
        for at in (105..200).step_by(5) {
            ask("b", at, true);
        }
        // "a" accepts writes once more after 45 ms of silence: within what a busy machine explains.
        assert_eq!(ask("a", 140, true), 40 * MS);
    }

    #[test]
    fn a_long_silence_or_a_no_ends_a_reign() {
        let mut ledger = Ledger::default();
        for (server, at_ms, yes) in [
            ("a", 0, true),
            ("a", 10, true),
            ("b", 100, true),
            ("b", 300, true),
            ("a", 400, true),
            ("c", 700, true),
            ("c", 710, true),
            ("c", 711, false),
            ("d", 712, true),
            ("d", 719, true),
            ("c", 720, true),
        ] {
            ledger.primary(server, yes, at_ms * 1000);
        }
        assert_eq!(ledger.dual_primary(), Duration::ZERO);
    }
}
