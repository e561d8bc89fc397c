//! One primary at one epoch, as its sessions see it: may they still forward, and has it ended, why.

use std::sync::OnceLock;
use std::sync::atomic::{AtomicU64, Ordering};

use pgvane_cluster::clock::Tick;
use pgvane_cluster::ids::Epoch;
use tokio::sync::Notify;

use crate::close::CloseReason;
use crate::cut::{Cut, Made};

/// Shared by the targets and the sessions of one epoch. Only the feed extends and ends it.
#[derive(Debug)]
pub struct Reign {
    epoch: Epoch,
    /// Nanoseconds since boot up to which the reign is proven.
    valid_until: AtomicU64,
    reopened: Notify,
    ended: Cut,
    reason: OnceLock<CloseReason>,
}

impl Reign {
    /// A reign proven until `valid_until`.
    pub fn new(epoch: Epoch, valid_until: Tick) -> Reign {
        Reign {
            epoch,
            valid_until: AtomicU64::new(valid_until.as_nanos()),
            reopened: Notify::new(),
            ended: Cut::default(),
            reason: OnceLock::new(),
        }
    }

    /// Which reign.
    pub fn epoch(&self) -> Epoch {
        self.epoch
    }

    /// Whether a byte may be forwarded at `now`. One atomic load: it is asked before every chunk, so that a
    /// proxy that slept through the deadline forwards nothing when it wakes.
    pub fn is_open(&self, now: Tick) -> bool {
        now.as_nanos() < self.valid_until.load(Ordering::Relaxed)
    }

    /// Waits until bytes may be forwarded again. Race it against [`Reign::ended`].
    pub async fn opened(&self) {
        loop {
            let reopened = self.reopened.notified();
            if self.is_open(Tick::now()) {
                return;
            }
            reopened.await;
        }
    }

    /// Waits for the end; answers why.
    pub async fn ended(&self) -> CloseReason {
        self.cut().await;
        self.reason()
    }

    /// The end itself.
    pub(crate) fn cut(&self) -> Made<'_> {
        self.ended.made()
    }

    /// Why it ended, once it has.
    pub(crate) fn reason(&self) -> CloseReason {
        self.reason.get().copied().unwrap_or(CloseReason::EpochEnded)
    }

    /// Whether it has ended.
    pub fn has_ended(&self) -> bool {
        self.ended.is_made()
    }

    /// Moves the deadline of a reign that has not ended. Sessions that found the gate shut go on when it
    /// opens.
    pub fn extend(&self, valid_until: Tick) {
        self.valid_until.store(valid_until.as_nanos(), Ordering::Relaxed);
        self.reopened.notify_waiters();
    }

    /// Ends the reign: every session on it wakes up and closes. The first reason stays.
    pub fn end(&self, reason: CloseReason) {
        self.valid_until.store(0, Ordering::Relaxed);
        self.reason.get_or_init(|| reason);
        self.ended.make();
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;
    use std::time::Duration;

    use tokio::time::timeout;

    use super::*;

    const SOON: Duration = Duration::from_secs(20);

    #[tokio::test]
    async fn a_shut_gate_opens_when_the_reign_is_proven_again() {
        let reign = Arc::new(Reign::new(Epoch(7), Tick::ZERO));
        assert!(!reign.is_open(Tick::now()));
        let waiting = tokio::spawn({
            let reign = Arc::clone(&reign);
            async move { reign.opened().await }
        });
        tokio::task::yield_now().await;
        reign.extend(Tick::now() + Duration::from_mins(1));
        timeout(SOON, waiting).await.expect("opens").expect("does not panic");
    }

    #[tokio::test]
    async fn an_ended_reign_is_shut_and_keeps_its_first_reason() {
        let reign = Reign::new(Epoch(7), Tick::now() + Duration::from_mins(1));
        assert!(reign.is_open(Tick::now()));
        reign.end(CloseReason::StoreLost);
        reign.end(CloseReason::EpochEnded);
        assert!(!reign.is_open(Tick::now()) && reign.has_ended());
        assert_eq!(timeout(SOON, reign.ended()).await, Ok(CloseReason::StoreLost));
    }
}
