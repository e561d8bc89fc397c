//! Which answers are believed: those of the newest raft term of one etcd cluster.
//!
//! A member that was cut off or frozen answers with an old term; to believe it is to believe the past.

use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use etcd_client::ResponseHeader;
use tokio::time::Instant;
use tracing::warn;

use crate::store::StoreError;

/// When nothing but old terms, or another cluster, was heard for this long, the store was replaced or restored
/// from a backup. A stale member cannot keep that up: it loses its leader within an election timeout.
const REPLACED_AFTER: Duration = Duration::from_secs(10);

/// The newest term heard.
#[derive(Debug, Default)]
pub(super) struct Terms(Mutex<Newest>);

#[derive(Debug, Default)]
struct Newest {
    cluster: u64,
    term: u64,
    era: u64,
    /// Since when no answer was as new as the newest.
    doubted_since: Option<Instant>,
}

impl Terms {
    /// The era an answer belongs to ([`crate::store::Snapshot::era`]), or why it is not believed.
    pub(super) fn check(&self, header: Option<&ResponseHeader>) -> Result<u64, StoreError> {
        let mut newest = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        match header {
            Some(header) => newest.hear(header.cluster_id(), header.raft_term(), Instant::now()),
            None => Ok(newest.era),
        }
    }
}

impl Newest {
    fn hear(&mut self, cluster: u64, term: u64, now: Instant) -> Result<u64, StoreError> {
        if self.cluster == 0 || (cluster == self.cluster && term >= self.term) {
            (self.cluster, self.term, self.doubted_since) = (cluster, term, None);
            return Ok(self.era);
        }
        let since = *self.doubted_since.get_or_insert(now);
        if now.duration_since(since) < REPLACED_AFTER {
            return Err(if cluster == self.cluster {
                StoreError::StaleMember { got: term, seen: self.term }
            } else {
                StoreError::Unavailable(format!(
                    "answered from etcd cluster {cluster:x}, not {:x}",
                    self.cluster
                ))
            });
        }
        warn!(cluster, term, before = self.cluster, term_before = self.term, "etcd was replaced or restored");
        *self = Newest { cluster, term, era: self.era + 1, doubted_since: None };
        Ok(self.era)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn older_terms_are_refused_until_nothing_else_is_heard_for_long() {
        let (mut n, t) = (Newest::default(), Instant::now());
        let s = Duration::from_secs(1);
        assert_eq!(n.hear(7, 3, t), Ok(0));
        assert_eq!(n.hear(7, 5, t), Ok(0));
        assert_eq!(n.hear(7, 4, t), Err(StoreError::StaleMember { got: 4, seen: 5 }));
        assert_eq!(n.hear(7, 5, t + 9 * s), Ok(0), "the newest is heard again");
        assert!(n.hear(7, 4, t + 11 * s).is_err(), "the doubt begins anew");
        assert!(n.hear(7, 4, t + 20 * s).is_err());
        assert_eq!(n.hear(7, 4, t + 21 * s), Ok(1));
        assert_eq!(n.hear(7, 4, t + 21 * s), Ok(1));
    }

    #[test]
    fn another_cluster_is_refused_at_first() {
        let (mut n, t) = (Newest::default(), Instant::now());
        assert_eq!(n.hear(7, 3, t), Ok(0));
        assert!(matches!(n.hear(8, 9, t), Err(StoreError::Unavailable(_))));
        assert_eq!(n.hear(8, 9, t + REPLACED_AFTER), Ok(1));
        assert!(n.hear(7, 3, t + REPLACED_AFTER).is_err());
    }
}
