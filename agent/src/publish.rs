//! When this node's keys are written: at once when what they say changes, slowly while only positions move.

use std::time::Duration;

use pgvane_cluster::clock::Tick;
use pgvane_cluster::ids::LeaseId;
use pgvane_cluster::records::MemberRecord;

use crate::decide::announce;

/// Time between writes while only WAL positions change.
const POSITIONS_EVERY: Duration = Duration::from_secs(1);

/// Pause after a write that failed.
const RETRY: Duration = Duration::from_millis(200);

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
    pub fn ended(&mut self, now: Tick, result: Option<(MemberRecord, LeaseId)>) {
        self.writing = false;
        match result {
            Some(written) => {
                self.written = Some(written);
                self.not_before = now + POSITIONS_EVERY;
            }
            None => {
                self.written = None;
                self.not_before = now + RETRY;
            }
        }
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
        publisher.ended(t(1002), Some((record.clone(), lease)));
        record.xlog_location = Some(Lsn(5));
        assert!(!publisher.due(t(1500), &record, lease));
        assert!(publisher.due(t(2100), &record, lease));
        publisher.ended(t(2101), Some((record.clone(), lease)));
        record.state = MemberState::Stopping;
        assert!(publisher.due(t(2102), &record, lease));
        publisher.ended(t(2103), None);
        assert!(!publisher.due(t(2104), &record, lease), "a failed write is repeated after a pause");
        assert!(publisher.due(t(2400), &record, lease));
        publisher.ended(t(2401), Some((record.clone(), lease)));
        assert!(publisher.due(t(2402), &record, LeaseId(8)), "a new lease needs the record under it");
    }
}
