//! What is done now and then beside the loop: one at a time, and not again too soon.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use pgvane_cluster::clock::Tick;

/// One kind of work.
#[derive(Debug, Default)]
pub(crate) struct Chore {
    busy: Arc<AtomicBool>,
    next: Tick,
}

impl Chore {
    /// Whether to do it now; it may not be done again before `every` has passed.
    pub(crate) fn begin(&mut self, now: Tick, every: Duration) -> Option<Done> {
        if !self.is_due(now) || self.busy.swap(true, Ordering::AcqRel) {
            return None;
        }
        self.next = now + every;
        Some(Done(Arc::clone(&self.busy)))
    }

    /// Whether enough time has passed.
    pub(crate) fn is_due(&self, now: Tick) -> bool {
        now >= self.next
    }

    /// It need not wait any longer.
    pub(crate) fn hurry(&mut self) {
        self.next = Tick::ZERO;
    }

    /// Whether it is being done.
    pub(crate) fn is_busy(&self) -> bool {
        self.busy.load(Ordering::Acquire)
    }
}

/// Ends a chore when dropped, however its task ends.
pub(crate) struct Done(Arc<AtomicBool>);

impl Drop for Done {
    fn drop(&mut self) {
        self.0.store(false, Ordering::Release);
    }
}
