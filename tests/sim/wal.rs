//! WAL as positions on timelines.
//!
//! A timeline is known to PostgreSQL by its number only. The model also gives each promotion a `branch` of its
//! own, so that the checker can tell two timelines of one number apart.

use std::rc::Rc;

/// Bytes of one commit, and of a checkpoint record.
pub(crate) const COMMIT: u64 = 100;
pub(crate) const CHECKPOINT: u64 = 112;

/// Where the first WAL ends.
pub(crate) const FIRST: u64 = 0x300_0000;

/// A timeline that ended, and where.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) struct Past {
    pub(crate) timeline: u32,
    pub(crate) branch: u64,
    pub(crate) end: u64,
}

/// The WAL that a data directory holds.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(crate) struct Wal {
    pub(crate) past: Rc<Vec<Past>>,
    pub(crate) timeline: u32,
    pub(crate) branch: u64,
    pub(crate) end: u64,
}

impl Wal {
    /// That of a cluster that has just been made.
    pub(crate) fn first() -> Wal {
        Wal { past: Rc::default(), timeline: 1, branch: 1, end: FIRST }
    }

    /// Whether WAL up to `at` of `branch` is part of this.
    pub(crate) fn holds(&self, branch: u64, at: u64) -> bool {
        let past = self.past.iter().find(|p| p.branch == branch).map(|p| p.end);
        past.or((self.branch == branch).then_some(self.end)).is_some_and(|end| at <= end)
    }

    /// Whether PostgreSQL would stream this to a standby that has `theirs`: it compares numbers.
    pub(crate) fn can_feed(&self, theirs: &Wal) -> bool {
        if theirs.timeline == self.timeline {
            return theirs.end <= self.end;
        }
        self.past.iter().any(|p| p.timeline == theirs.timeline && theirs.end <= p.end)
    }

    /// Whether another has the same WAL.
    pub(crate) fn is(&self, other: &Wal) -> bool {
        (self.branch, self.end) == (other.branch, other.end)
    }

    /// A new timeline from here on.
    pub(crate) fn fork(&mut self, timeline: u32, branch: u64) {
        let ended = Past { timeline: self.timeline, branch: self.branch, end: self.end };
        Rc::make_mut(&mut self.past).push(ended);
        (self.timeline, self.branch) = (timeline, branch);
        self.end += COMMIT;
    }

    /// What is left when all beyond `end` is lost.
    pub(crate) fn cut(&mut self, end: u64) {
        while let Some(last) = self.past.last().copied()
            && end <= last.end
        {
            (self.timeline, self.branch) = (last.timeline, last.branch);
            Rc::make_mut(&mut self.past).pop();
        }
        self.end = self.end.min(end);
    }
}

#[test]
fn a_cut_goes_back_over_timelines() {
    let mut wal = Wal::first();
    wal.end += COMMIT;
    let fork = wal.end;
    wal.fork(2, 7);
    wal.end += COMMIT;
    let mut short = wal.clone();
    short.cut(fork + COMMIT);
    assert_eq!((short.timeline, short.end, short.past.len()), (2, fork + COMMIT, 1));
    wal.cut(fork);
    assert_eq!((wal.timeline, wal.branch, wal.end, wal.past.len()), (1, 1, fork, 0));
    wal.cut(FIRST);
    assert!(wal.is(&Wal::first()));
}
