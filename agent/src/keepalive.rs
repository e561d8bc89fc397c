//! Renews this agent's lease, and only while the decision loop lives.
//!
//! A library's background keep-alive would make a frozen agent an immortal leader (trap 1). Here nothing can
//! delay a renewal, yet none is sent unless the loop has just turned. Every answer is reported with the time
//! its request was *sent*.

use std::sync::Arc;
use std::sync::atomic::{AtomicI64, AtomicU64, Ordering};
use std::time::Duration;

use pgvane_cluster::clock::Tick;
use pgvane_cluster::ids::LeaseId;
use pgvane_cluster::store::{KeepAlive, Store};
use tokio::sync::{mpsc, watch};
use tracing::{info, warn};

use crate::decide::world::OwnLease;
use crate::timing::Timing;

/// What the lease task must know of the decision loop: that it lives, by the time of its last turn, and which
/// lease is of no use to it any more.
#[derive(Debug, Default)]
pub struct Pulse {
    last: AtomicU64,
    spent: AtomicI64,
}

impl Pulse {
    /// Called by the loop at each turn.
    pub fn beat(&self, now: Tick) {
        self.last.store(now.as_nanos(), Ordering::Release);
    }

    /// When the loop last turned.
    pub fn last(&self) -> Tick {
        Tick::from_nanos(self.last.load(Ordering::Acquire))
    }

    /// Whether the loop turned within the last `limit`.
    pub fn is_fresh(&self, now: Tick, limit: Duration) -> bool {
        now.since(self.last()) <= limit
    }

    /// The guard began to give `lease` back and will never hold a deadline for it again. Where the store did not
    /// hear of it the lease would be renewed for ever and nobody could serve under it: another is asked for, and
    /// the leader key, where it is ours, is taken over to that one.
    pub fn spend(&self, lease: LeaseId) {
        self.spent.store(lease.0, Ordering::Release);
    }

    /// Whether `lease` is to be renewed no more.
    pub fn is_spent(&self, lease: LeaseId) -> bool {
        self.spent.load(Ordering::Acquire) == lease.0
    }
}

/// What the lease task tells the loop.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum LeaseNews {
    /// Granted or renewed.
    Is(OwnLease),
    /// The store said it is gone; a new one is asked for.
    Gone,
}

/// Pause after a question that was not answered: short, for the deadline does not wait.
const RETRY: Duration = Duration::from_millis(200);

/// Turns without a pulse that are tolerated, in renewal intervals: the loop turns at least once in each.
const PULSE_TURNS: u32 = 2;

/// How often one trouble is told while it lasts.
const TELL_EVERY: Duration = Duration::from_secs(10);

/// Renewals that fail in a row: an outage of the store must not fill the log.
#[derive(Default)]
struct Trouble {
    since: Option<Tick>,
    told_at: Option<Tick>,
}

impl Trouble {
    fn is_worth_telling(&mut self, now: Tick) -> bool {
        self.since.get_or_insert(now);
        let due = self.told_at.is_none_or(|told| now.since(told) >= TELL_EVERY);
        if due {
            self.told_at = Some(now);
        }
        due
    }

    /// Since when there was trouble that has ended now.
    fn over(&mut self) -> Option<Tick> {
        std::mem::take(self).since
    }
}

/// Keeps a lease for ever. `adopted` is a predecessor's lease that may still live.
pub async fn keep<S: Store>(
    store: Arc<S>,
    mut timings: watch::Receiver<Timing>,
    pulse: Arc<Pulse>,
    adopted: OwnLease,
    news: mpsc::UnboundedSender<LeaseNews>,
) -> std::convert::Infallible {
    let mut lease = adopted;
    let mut troubled = Trouble::default();
    let mut asked_ttl = match adopted {
        OwnLease::Held { ttl, .. } => ttl,
        OwnLease::None => Duration::ZERO,
    };
    loop {
        let timing = *timings.borrow_and_update();
        let now = Tick::now();
        if !pulse.is_fresh(now, timing.renew_interval * PULSE_TURNS) {
            warn!(since = ?pulse.last(), "the decision loop does not turn; the lease is not renewed");
            tokio::time::sleep(RETRY).await;
            continue;
        }
        // A changed ttl needs a lease of its own, and so does whoever's guard gave the lease back; the old one is
        // left to expire (contract section 2).
        let answer = match lease {
            OwnLease::Held { id, .. } if asked_ttl == timing.ttl && !pulse.is_spent(id) => {
                renew(&*store, id, now, &timing).await
            }
            OwnLease::Held { .. } | OwnLease::None => grant(&*store, now, &timing).await,
        };
        match answer {
            Ok(held @ OwnLease::Held { .. }) => {
                if let Some(since) = troubled.over() {
                    info!(after = ?now.since(since), "the lease is renewed again");
                }
                lease = held;
                asked_ttl = timing.ttl;
                if news.send(LeaseNews::Is(held)).is_err() {
                    return std::future::pending().await;
                }
                tokio::select! {
                    () = tokio::time::sleep(Tick::now().until(now + pace(&timing, held))) => {}
                    // The lease of a changed ttl is asked for at once.
                    Ok(()) = timings.changed() => {}
                }
            }
            Ok(OwnLease::None) => {
                info!("the lease is gone; asking for a new one");
                lease = OwnLease::None;
                if news.send(LeaseNews::Gone).is_err() {
                    return std::future::pending().await;
                }
            }
            Err(error) => {
                if troubled.is_worth_telling(now) {
                    warn!(%error, "the lease could not be renewed; trying again");
                }
                tokio::time::sleep(RETRY.min(timing.renew_interval)).await;
            }
        }
    }
}

/// Time until the next renewal: as the deadlines in force have it, and no longer than suits the lease itself. An
/// adopted one may be shorter than a new agent, which has not read the configuration yet, takes it for.
pub fn pace(timing: &Timing, lease: OwnLease) -> Duration {
    match lease {
        OwnLease::Held { ttl, .. } if ttl < timing.ttl => timing.renew_interval.min(ttl / 6),
        OwnLease::Held { .. } | OwnLease::None => timing.renew_interval,
    }
}

async fn renew<S: Store>(store: &S, id: LeaseId, sent_at: Tick, timing: &Timing) -> Result<OwnLease, String> {
    let limit = timing.renew_interval.max(Duration::from_millis(500));
    match tokio::time::timeout(limit, store.keep_alive(id)).await {
        Ok(Ok(KeepAlive::Renewed { ttl })) => Ok(OwnLease::Held { id, sent_at, ttl: ttl.min(timing.ttl) }),
        Ok(Ok(KeepAlive::Gone)) => Ok(OwnLease::None),
        Ok(Err(error)) => Err(error.to_string()),
        Err(_) => Err(format!("no answer within {limit:?}")),
    }
}

async fn grant<S: Store>(store: &S, sent_at: Tick, timing: &Timing) -> Result<OwnLease, String> {
    let limit = Duration::from_secs(2);
    match tokio::time::timeout(limit, store.grant(timing.ttl)).await {
        Ok(Ok(lease)) => Ok(OwnLease::Held { id: lease.id, sent_at, ttl: lease.ttl.min(timing.ttl) }),
        Ok(Err(error)) => Err(error.to_string()),
        Err(_) => Err(format!("no answer within {limit:?}")),
    }
}

#[cfg(test)]
mod tests {
    use pgvane_cluster::store::model::ModelStore;
    use tokio::time::timeout;

    use super::*;
    use crate::timing::TimingOverrides;

    /// The old lease would be renewed after 5 s only.
    #[tokio::test]
    async fn a_lease_of_a_changed_ttl_is_asked_for_at_once() {
        let derive = |s| Timing::derive(Duration::from_secs(s), &TimingOverrides::default()).expect("fits");
        let (timing, timings) = watch::channel(derive(30));
        let pulse = Arc::new(Pulse::default());
        pulse.beat(Tick::now());
        let (news, mut told) = mpsc::unbounded_channel();
        let keeping = tokio::spawn(keep(Arc::new(ModelStore::new()), timings, pulse, OwnLease::None, news));
        let mut next = async || timeout(Duration::from_secs(2), told.recv()).await.expect("in time");
        let ttl = |news| match news {
            Some(LeaseNews::Is(OwnLease::Held { ttl, .. })) => ttl.as_secs(),
            other => panic!("a lease is expected, not {other:?}"),
        };
        assert_eq!(ttl(next().await), 30);
        timing.send_replace(derive(10));
        assert_eq!(ttl(next().await), 10);
        keeping.abort();
    }

    #[test]
    fn a_lease_that_is_shorter_than_thought_is_renewed_in_time() {
        let ttl = Duration::from_secs(30);
        let timing = Timing::derive(ttl, &TimingOverrides::default()).expect("fits");
        let held = |ttl| OwnLease::Held { id: LeaseId(1), sent_at: Tick::ZERO, ttl };
        assert_eq!(pace(&timing, held(ttl)), timing.renew_interval);
        assert_eq!(pace(&timing, held(Duration::from_secs(3))), Duration::from_millis(500));
    }

    #[test]
    fn a_long_outage_is_told_now_and_then() {
        let mut trouble = Trouble::default();
        let at = |seconds| Tick::ZERO + Duration::from_secs(seconds);
        assert_eq!(trouble.over(), None);
        let told: Vec<u64> = (1..=25).filter(|s| trouble.is_worth_telling(at(*s))).collect();
        assert_eq!(told, [1, 11, 21]);
        assert_eq!(trouble.over(), Some(at(1)));
        assert!(trouble.is_worth_telling(at(26)));
    }
}
