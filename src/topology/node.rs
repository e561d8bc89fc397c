//! What outlives a picture of the cluster: what sessions and operators note of one node.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU8, AtomicU64, AtomicUsize, Ordering};
use std::time::Duration;

use pgvane_cluster::clock::Tick;
use tokio::sync::Notify;

use super::Target;

/// How long a node that refused a connection is passed over while others can be asked.
const SHUN_FOR: Duration = Duration::from_secs(1);

/// Least time between two retries of a node that refused, over all sessions that wait for it: thousands of
/// held clients must not keep a starting server busy refusing them.
const PROBE_EVERY: Duration = Duration::from_millis(5);

/// What outlives a picture: counted and marked by sessions and operators, per node and cluster.
#[derive(Debug, Default)]
pub struct Node {
    sessions: AtomicUsize,
    shunned_until: AtomicU64,
    next_probe: AtomicU64,
    /// The first of the failures since it answered last, and the latest one, in nanoseconds of [`Tick`]; 0: none.
    failing_since: AtomicU64,
    failed_last: AtomicU64,
    recovered: Notify,
    /// Sessions that wait for a place here.
    waiting: AtomicUsize,
    freed: Notify,
    admission: AtomicU8,
    /// Whether checks get no answer from it.
    is_silent: AtomicBool,
}

/// What an operator lets a node take.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default, serde::Serialize, serde::Deserialize)]
#[serde(rename_all = "snake_case")]
#[repr(u8)]
pub enum Admission {
    /// New sessions, when the cluster says it may.
    #[default]
    Enabled,
    /// No new sessions; those it has go on.
    Draining,
    /// No sessions: those it had were cut.
    Disabled,
}

impl Admission {
    /// The word in commands, `/topology` and metrics.
    pub const fn label(self) -> &'static str {
        match self {
            Admission::Enabled => "enabled",
            Admission::Draining => "draining",
            Admission::Disabled => "disabled",
        }
    }
}

impl Node {
    /// Sessions open on this node now.
    pub fn sessions(&self) -> usize {
        self.sessions.load(Ordering::Relaxed)
    }

    /// What the operator lets it take.
    pub fn admission(&self) -> Admission {
        match self.admission.load(Ordering::Relaxed) {
            1 => Admission::Draining,
            2 => Admission::Disabled,
            _ => Admission::Enabled,
        }
    }

    /// Sets what it may take. `TopologyRx::reconsider` tells those who wait.
    pub fn admit(&self, admission: Admission) {
        self.admission.store(admission as u8, Ordering::Relaxed);
    }

    /// Whether there is no place for one more session within `limit`. Those who wait already go first.
    pub fn is_full(&self, limit: Option<usize>, is_waiting: bool) -> bool {
        let others_wait = !is_waiting && self.waiting.load(Ordering::SeqCst) > 0;
        limit.is_some_and(|limit| others_wait || self.sessions.load(Ordering::SeqCst) >= limit)
    }

    /// Completes when a session leaves the node. One who waits is told of one that leaves.
    pub async fn freed(&self) {
        self.freed.notified().await;
    }

    /// Notes what checks have found.
    pub fn set_answers(&self, answers: bool) {
        self.is_silent.store(!answers, Ordering::Relaxed);
    }

    /// Whether checks get answers from it, where there are checks.
    pub fn answers(&self) -> bool {
        !self.is_silent.load(Ordering::Relaxed)
    }

    /// Whether it refused a moment ago.
    pub fn is_shunned(&self, now: Tick) -> bool {
        now.as_nanos() < self.shunned_until.load(Ordering::Relaxed)
    }

    /// Notes that it refused or did not answer.
    pub fn shun(&self, now: Tick) {
        let nanos = now.as_nanos();
        self.shunned_until.store((now + SHUN_FOR).as_nanos(), Ordering::Relaxed);
        // Whoever is first to fail has it.
        let _ = self.failing_since.compare_exchange(0, nanos, Ordering::Relaxed, Ordering::Relaxed);
        self.failed_last.store(nanos, Ordering::Relaxed);
    }

    /// How long nobody has reached it, if somebody has tried, and again within the last `fresh`.
    pub fn unreached_for(&self, now: Tick, fresh: Duration) -> Option<Duration> {
        let (since, last) =
            (self.failing_since.load(Ordering::Relaxed), self.failed_last.load(Ordering::Relaxed));
        let ago = |nanos| Duration::from_nanos(now.as_nanos().saturating_sub(nanos));
        (since != 0 && ago(last) <= fresh).then(|| ago(since))
    }

    /// Whether the last who tried did not reach it.
    pub fn is_unreached(&self) -> bool {
        self.failing_since.load(Ordering::Relaxed) != 0
    }

    /// Notes that it answered, and tells those who wait for that.
    pub fn welcome(&self) {
        // Read first: this is done for every session, and it is seldom anything but zero.
        if self.failing_since.load(Ordering::Relaxed) != 0 {
            self.failing_since.store(0, Ordering::Relaxed);
        }
        if self.shunned_until.swap(0, Ordering::Relaxed) != 0 {
            self.recovered.notify_waiters();
        }
    }

    /// Completes when the node answers somebody after it refused.
    pub async fn recovered(&self) {
        self.recovered.notified().await;
    }

    /// Whether a session that was refused may ask again now. Only one may at a time.
    pub fn may_probe(&self, now: Tick) -> bool {
        let next = self.next_probe.load(Ordering::Relaxed);
        let later = (now + PROBE_EVERY).as_nanos();
        !self.is_shunned(now)
            || now.as_nanos() >= next
                && self.next_probe.compare_exchange(next, later, Ordering::Relaxed, Ordering::Relaxed).is_ok()
    }
}

/// Counts one session on a node until it is dropped.
#[derive(Debug)]
pub struct OnNode(Arc<Node>);

impl OnNode {
    /// Counts, unless the node has `limit` sessions already.
    pub fn claim(target: &Target, limit: Option<usize>) -> Option<OnNode> {
        let one_more = |sessions| limit.is_none_or(|limit| sessions < limit).then_some(sessions + 1);
        target.node.sessions.fetch_update(Ordering::SeqCst, Ordering::SeqCst, one_more).ok()?;
        Some(OnNode(Arc::clone(&target.node)))
    }
}

impl Drop for OnNode {
    fn drop(&mut self) {
        self.0.sessions.fetch_sub(1, Ordering::SeqCst);
        if self.0.waiting.load(Ordering::SeqCst) > 0 {
            self.0.freed.notify_one();
        }
    }
}

/// A place in the queue of these nodes, until it is dropped. Look again once it is taken: a session that left before
/// has told nobody.
#[derive(Debug)]
pub struct Queueing(Vec<Arc<Node>>);

impl Queueing {
    /// Queues.
    pub fn at(targets: &[Arc<Target>]) -> Queueing {
        let nodes: Vec<_> = targets.iter().map(|target| Arc::clone(&target.node)).collect();
        nodes.iter().for_each(|node| {
            node.waiting.fetch_add(1, Ordering::SeqCst);
        });
        Queueing(nodes)
    }
}

impl Drop for Queueing {
    fn drop(&mut self) {
        for node in &self.0 {
            node.waiting.fetch_sub(1, Ordering::SeqCst);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn it_is_unreached_from_the_first_failure_until_somebody_reaches_it_or_nobody_tries() {
        let (node, fresh, second) = (Node::default(), Duration::from_secs(30), Duration::from_secs(1));
        let first = Tick::now() + 1000 * second;
        assert_eq!((node.unreached_for(first, fresh), node.is_unreached()), (None, false));
        node.shun(first);
        node.shun(first + 10 * second);
        assert_eq!(node.unreached_for(first + 11 * second, fresh), Some(11 * second));
        assert_eq!(node.unreached_for(first + 41 * second, fresh), None, "that is not known any more");
        assert!(node.is_unreached());
        node.welcome();
        assert_eq!((node.unreached_for(first + 11 * second, fresh), node.is_unreached()), (None, false));
    }
}
