//! When this node's keys are written: at once when what they say changes, slowly while only positions move.

use std::time::Duration;

use pgvane_cluster::clock::Tick;
use pgvane_cluster::ids::LeaseId;
use pgvane_cluster::records::MemberRecord;
use pgvane_cluster::store::StoreError;
use tracing::{info, warn};

use crate::decide::announce;

/// Time between writes while only WAL positions change.
const POSITIONS_EVERY: Duration = Duration::from_secs(1);

/// Pause after a write that failed.
const RETRY: Duration = Duration::from_millis(200);

/// How often it is told that the store takes no writes.
const TELL_EVERY: Duration = Duration::from_mins(1);

/// A store that is full: leases are renewed and nothing else is written. Noticed by the record, which is written at least
/// once a second.
#[derive(Debug, Default)]
pub struct Fullness {
    since: Option<Tick>,
    told_at: Option<Tick>,
    refusals: u64,
}

impl Fullness {
    /// Takes in how a write of the record ended, and tells what has changed.
    pub fn note<T>(&mut self, now: Tick, result: &Result<T, StoreError>) {
        match result {
            Err(error @ StoreError::Full(_)) => {
                self.refusals += 1;
                self.since.get_or_insert(now);
                if self.told_at.is_none_or(|told| now.since(told) >= TELL_EVERY) {
                    self.told_at = Some(now);
                    warn!(%error, "nobody can take over until there is room: compact, defragment, disarm the alarm");
                }
            }
            Ok(_) => {
                if let Some(since) = self.since.take() {
                    self.told_at = None;
                    info!(after = ?now.since(since), "the store takes writes again");
                }
            }
            // Whoever does not answer says nothing of its room.
            Err(_) => {}
        }
    }

    /// Whether it is.
    pub fn lasts(&self) -> bool {
        self.since.is_some()
    }

    /// Records that were refused since this process began.
    pub fn refusals(&self) -> u64 {
        self.refusals
    }
}

/// Decides when to write the member record. One write at a time, always of the newest record.
#[derive(Debug, Default)]
pub struct Publisher {
    written: Option<(MemberRecord, LeaseId)>,
    writing: bool,
    not_before: Tick,
}

impl Publisher {
    /// Whether `record` is to be written under `lease` now. `Some` marks the write as begun.
    pub fn due(&mut self, now: Tick, record: &MemberRecord, lease: LeaseId) -> bool {
        if self.writing {
            return false;
        }
        let due = match &self.written {
            None => now >= self.not_before,
            Some((_, under)) if *under != lease => true,
            Some((old, _)) if old == record => false,
            Some((old, _)) => announce::is_urgent(old, record) || now >= self.not_before,
        };
        self.writing = due;
        due
    }

    /// Notes how a write ended.
    pub fn ended(&mut self, now: Tick, result: Result<(MemberRecord, LeaseId), StoreError>) {
        self.writing = false;
        let pause = match &result {
            // Nobody makes room within an instant.
            Ok(_) | Err(StoreError::Full(_)) => POSITIONS_EVERY,
            Err(_) => RETRY,
        };
        self.written = result.ok();
        self.not_before = now + pause;
    }

    /// The store does not show our record although we wrote it: write it again.
    pub fn forget(&mut self) {
        if !self.writing {
            self.written = None;
        }
    }

    /// Whether the store has had the time to show what was last written.
    pub fn is_settled(&self, now: Tick) -> bool {
        !self.writing && now >= self.not_before
    }
}

#[cfg(test)]
mod tests {
    use pgvane_cluster::ids::Lsn;
    use pgvane_cluster::records::{MemberRole, MemberState};

    use super::*;

    #[test]
    fn changes_go_out_at_once_and_positions_slowly() {
        let lease = LeaseId(7);
        let mut record = MemberRecord::new(MemberState::Running, MemberRole::Replica);
        let mut publisher = Publisher::default();
        let t = Tick::from_millis;
        assert!(publisher.due(t(1000), &record, lease));
        assert!(!publisher.due(t(1001), &record, lease), "one write at a time");
        publisher.ended(t(1002), Ok((record.clone(), lease)));
        record.xlog_location = Some(Lsn(5));
        assert!(!publisher.due(t(1500), &record, lease));
        assert!(publisher.due(t(2100), &record, lease));
        publisher.ended(t(2101), Ok((record.clone(), lease)));
        record.state = MemberState::Stopping;
        assert!(publisher.due(t(2102), &record, lease));
        publisher.ended(t(2103), Err(StoreError::Unavailable(String::new())));
        assert!(!publisher.due(t(2104), &record, lease), "a failed write is repeated after a pause");
        assert!(publisher.due(t(2400), &record, lease));
        publisher.ended(t(2401), Ok((record.clone(), lease)));
        assert!(publisher.due(t(2402), &record, LeaseId(8)), "a new lease needs the record under it");
    }
    #[test]
    fn a_full_store_is_noticed_counted_and_asked_less_often() {
        let lease = LeaseId(7);
        let record = MemberRecord::new(MemberState::Running, MemberRole::Replica);
        let (mut publisher, mut fullness) = (Publisher::default(), Fullness::default());
        let t = Tick::from_millis;
        let full: Result<(MemberRecord, LeaseId), _> = Err(StoreError::Full("no space".to_owned()));
        assert!(publisher.due(t(1000), &record, lease));
        fullness.note(t(1001), &full);
        publisher.ended(t(1001), full.clone());
        assert!(!publisher.due(t(1900), &record, lease) && publisher.due(t(2001), &record, lease));
        fullness.note(t(2002), &full);
        fullness.note(t(2003), &Err::<(), _>(StoreError::Unavailable(String::new())));
        assert!(fullness.lasts() && fullness.refusals() == 2, "{fullness:?}");
        fullness.note(t(2004), &Ok(()));
        assert!(!fullness.lasts() && fullness.refusals() == 2, "{fullness:?}");
    }
}
