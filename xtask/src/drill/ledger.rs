//! What clients saw, and the figures drawn from it; no I/O.

use std::collections::{BTreeMap, HashSet};
use std::fmt::Write as _;
use std::time::{Duration, Instant};

use tokio_postgres::Error;
use tokio_postgres::error::SqlState;

use super::reigns::{Moment, Reigns};

/// A write that was acknowledged.
#[derive(Clone, Copy, Debug)]
pub struct Write {
    /// The row's number.
    pub id: i64,
    /// Number of the client.
    pub client: usize,
    /// When the server did it, as far as is known.
    pub done: Moment,
    /// When the client knew.
    pub at: Instant,
    /// Number of the server that did it.
    pub server: usize,
    /// The timeline it was written on.
    pub timeline: u32,
}

/// What clients saw.
#[derive(Clone, Debug, Default)]
pub struct Ledger {
    /// In the order in which they were acknowledged.
    writes: Vec<Write>,
    reads: Vec<Instant>,
    /// Servers by number, as they were first heard of.
    servers: Vec<String>,
    /// Statements that failed.
    pub client_errors: u64,
    /// Of those, the ones that may have been done nevertheless.
    pub unknown: u64,
    /// Statements that were not answered until the client gave up.
    pub hung: u64,
    /// Connections that failed.
    pub failed_connects: u64,
    /// Statements refused by a read-only server.
    pub read_only_refusals: u64,
    /// Reads that failed.
    pub read_errors: u64,
    /// What was said when something failed, and how often.
    pub errors: BTreeMap<String, u64>,
    /// Who accepted writes when, by what servers said.
    pub reigns: Reigns,
}

impl Ledger {
    /// The number of the server of this name.
    pub fn server(&mut self, name: &str) -> usize {
        self.servers.iter().position(|server| server == name).unwrap_or_else(|| {
            self.servers.push(name.to_owned());
            self.servers.len() - 1
        })
    }

    /// The name of a server.
    pub fn name(&self, server: usize) -> &str {
        self.servers.get(server).map_or("?", String::as_str)
    }

    /// Notes a write that was acknowledged now.
    pub fn acknowledge(&mut self, write: Write) {
        self.writes.push(write);
    }

    /// Notes a statement of a writer that failed.
    pub fn write_failed(&mut self, error: &Error) {
        self.client_errors += 1;
        let code = error.code();
        if code == Some(&SqlState::READ_ONLY_SQL_TRANSACTION) {
            self.read_only_refusals += 1;
        }
        // Class 57: the server ends, or says that it may have committed here and nowhere else.
        if code.is_none_or(|code| code.code().starts_with("57")) {
            self.unknown += 1;
        }
        self.note("write", error);
    }

    /// Notes a statement that was given up without an answer.
    pub fn write_hung(&mut self) {
        self.client_errors += 1;
        self.unknown += 1;
        self.hung += 1;
        *self.errors.entry("write: no answer".to_owned()).or_default() += 1;
    }

    /// Notes a connection of a writer that failed.
    pub fn connect_failed(&mut self, error: &Error) {
        self.failed_connects += 1;
        self.note("connect", error);
    }

    /// Notes a read that was answered now.
    pub fn read_done(&mut self, at: Instant) {
        self.reads.push(at);
    }

    /// Notes a read that failed.
    pub fn read_failed(&mut self, error: &Error) {
        self.read_errors += 1;
        self.note("read", error);
    }

    /// Notes a read that was given up without an answer.
    pub fn read_hung(&mut self) {
        self.read_errors += 1;
        *self.errors.entry("read: no answer".to_owned()).or_default() += 1;
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

    /// How many writes were acknowledged.
    pub fn acknowledged(&self) -> u64 {
        self.writes.len() as u64
    }

    /// How many reads were answered.
    pub fn reads(&self) -> u64 {
        self.reads.len() as u64
    }

    /// When the last write was acknowledged.
    pub fn last(&self) -> Option<Instant> {
        self.writes.last().map(|write| write.at)
    }

    /// How many writes were acknowledged after `since`.
    pub fn acknowledged_since(&self, since: Instant) -> u64 {
        self.since(since).len() as u64
    }

    fn since(&self, since: Instant) -> &[Write] {
        &self.writes[self.writes.partition_point(|write| write.at <= since)..]
    }

    /// The last time without an acknowledged write that was at least `noticed` long and is over.
    pub fn last_outage(&self, noticed: Duration) -> Option<Duration> {
        let gaps = self.writes.windows(2).rev().map(|pair| pair[1].at - pair[0].at);
        gaps.into_iter().find(|gap| *gap >= noticed)
    }

    /// The longest time that a client was without an acknowledged write, of those times that ended after `since`.
    pub fn longest_gap(&self, client: usize, since: Instant) -> Duration {
        let begun = self.writes.partition_point(|write| write.at <= since);
        let before = self.writes[..begun].iter().rev().find(|write| write.client == client);
        let after = self.writes[begun..].iter().filter(|write| write.client == client);
        longest(before.into_iter().chain(after).map(|write| write.at))
    }

    /// The same for reads, of all readers together.
    pub fn longest_read_gap(&self, since: Instant) -> Duration {
        let begun = self.reads.partition_point(|at| *at <= since);
        longest(self.reads[begun.saturating_sub(1)..].iter().copied())
    }

    /// The numbers of the writes acknowledged after `since` and until `until`.
    pub fn part(&self, since: Instant, until: Instant) -> Vec<i64> {
        let writes = self.since(since).iter().take_while(|write| write.at <= until);
        writes.map(|write| write.id).collect()
    }

    /// Whether each of the first `clients` writers has had a write acknowledged that was begun after `since`.
    pub fn all_served(&self, clients: usize, since: Instant) -> bool {
        (0..clients).all(|client| self.is_served(client, since))
    }

    /// Whether this writer has had a write acknowledged that was begun after `since`.
    pub fn is_served(&self, client: usize, since: Instant) -> bool {
        let writes = self.writes.iter().rev().take_while(|write| write.at > since);
        writes.into_iter().any(|write| write.client == client && write.done.from > since)
    }

    /// Acknowledged writes that are not among `survivors`.
    pub fn lost(&self, survivors: &HashSet<i64>) -> u64 {
        self.writes.iter().filter(|write| !survivors.contains(&write.id)).count() as u64
    }

    /// How long two servers said that they accept writes at the same time.
    pub fn dual_primary(&self) -> Duration {
        self.reigns.overlap()
    }

    /// Proofs of a second primary after `since` that need not last: an answer of one server amid the reign of another;
    /// a write accepted amid the reign of another; a write begun after another was acknowledged on a later timeline, or
    /// on the same one by another server.
    pub fn intrusions(&self, since: Option<Instant>) -> Vec<String> {
        let amid = self.reigns.intrusions(since).map(|(server, _, rival)| {
            format!(
                "{} said that it accepts writes amid the reign of {}",
                self.name(server),
                self.name(rival)
            )
        });
        // For each timeline: when it was first seen to take writes, and of whom.
        let mut firsts: BTreeMap<u32, (Instant, usize)> = BTreeMap::new();
        for write in &self.writes {
            firsts.entry(write.timeline).or_insert((write.at, write.server));
        }
        let writes = since.map_or(&self.writes[..], |since| self.since(since));
        let writes = writes.iter().filter_map(|write| {
            let Write { id, server, timeline, .. } = *write;
            let mut later = firsts.range(timeline + 1..).filter(|(_, (first, _))| *first < write.done.from);
            let why = if let Some(rival) = self.reigns.rival(server, write.done) {
                format!("amid the reign of {}", self.name(rival))
            } else if let Some((later, _)) = later.next() {
                format!("after timeline {later} was seen")
            } else {
                let (_, first) = firsts.get(&timeline).filter(|(_, first)| *first != server)?;
                format!("which was that of {}", self.name(*first))
            };
            Some(format!("row {id} was accepted by {} on timeline {timeline}, {why}", self.name(server)))
        });
        amid.chain(writes).collect()
    }
}

fn longest(times: impl Iterator<Item = Instant>) -> Duration {
    let mut before = None;
    let gaps = times.filter_map(|at| before.replace(at).map(|before| at - before));
    gaps.max().unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use super::*;

    const MS: Duration = Duration::from_millis(1);

    fn write(id: i64, client: usize, at: Instant, server: usize, timeline: u32) -> Write {
        Write { id, client, done: Moment { from: at, to: at }, at, server, timeline }
    }

    #[test]
    fn the_longest_gap_is_of_one_client_and_counts_from_the_fault_on() {
        let t = Instant::now();
        let mut ledger = Ledger::default();
        for (id, client, ms) in [(1, 0, 0), (2, 0, 500), (3, 0, 505), (7, 1, 600), (4, 0, 705), (5, 0, 710)] {
            ledger.acknowledge(write(id, client, t + ms * MS, 0, 1));
        }
        assert_eq!(ledger.longest_gap(0, t + 506 * MS), 200 * MS);
        assert_eq!(ledger.longest_gap(0, t + MS), 500 * MS);
        assert_eq!(ledger.longest_gap(0, t + 900 * MS), Duration::ZERO);
        assert_eq!(ledger.longest_gap(1, t), Duration::ZERO);
        let survivors = HashSet::from([5, 1, 3, 9]);
        assert_eq!(ledger.lost(&survivors), 3);
        assert_eq!(ledger.part(t + 500 * MS, t + 705 * MS), [3, 7, 4]);
        assert!(ledger.all_served(2, t + 599 * MS) && !ledger.all_served(2, t + 600 * MS));
    }

    #[test]
    fn reads_have_gaps_of_their_own() {
        let t = Instant::now();
        let mut ledger = Ledger::default();
        for ms in [0, 10, 400, 410] {
            ledger.read_done(t + ms * MS);
        }
        assert_eq!(ledger.longest_read_gap(t + 200 * MS), 390 * MS);
        assert_eq!(ledger.longest_read_gap(t + 405 * MS), 10 * MS);
        assert_eq!(ledger.longest_read_gap(t + 900 * MS), Duration::ZERO);
    }

    #[test]
    fn a_write_on_an_older_timeline_or_by_another_server_is_an_intrusion() {
        let t = Instant::now();
        let mut ledger = Ledger::default();
        ledger.acknowledge(write(1, 0, t, 0, 1));
        ledger.acknowledge(write(2, 0, t + 10 * MS, 1, 2));
        // Begun before the next timeline was known to take writes.
        let begun = Moment { from: t + 5 * MS, to: t + 20 * MS };
        ledger.acknowledge(Write { done: begun, ..write(3, 0, t + 20 * MS, 0, 1) });
        assert_eq!(ledger.intrusions(None), [] as [&str; 0]);
        ledger.acknowledge(write(4, 0, t + 30 * MS, 0, 1));
        assert_eq!(
            ledger.intrusions(None),
            ["row 4 was accepted by ? on timeline 1, after timeline 2 was seen"]
        );
        ledger.acknowledge(write(5, 0, t + 40 * MS, 0, 2));
        assert_eq!(ledger.intrusions(None).len(), 2);
        assert_eq!(ledger.intrusions(Some(t + 30 * MS)).len(), 1);
    }

    #[test]
    fn a_write_amid_the_reign_of_another_is_an_intrusion() {
        let t = Instant::now();
        let mut ledger = Ledger::default();
        for at in (0..50).step_by(10) {
            ledger.reigns.note(0, true, Moment { from: t + at * MS, to: t + at * MS });
        }
        ledger.acknowledge(write(1, 0, t + 20 * MS, 1, 1));
        ledger.acknowledge(write(2, 0, t + 25 * MS, 0, 1));
        ledger.acknowledge(write(3, 0, t + 60 * MS, 1, 1));
        // The first, and the second: its timeline is that of the other server.
        assert_eq!(ledger.intrusions(None).len(), 2);
    }
}
