//! Who takes sessions now: an immutable picture, replaced whole by the feed and read once per connection.

pub mod derive;
pub mod feed;
pub mod freshness;
mod reign;
pub mod succession;
pub mod timeline;
mod vouch;

use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicU8, AtomicU64, AtomicUsize, Ordering};
use std::time::Duration;

use pgvane_cluster::clock::Tick;
use pgvane_cluster::ids::{Epoch, NodeName, Revision};
use tokio::sync::{Notify, watch};

pub use self::derive::{Address, MemberPlan, NoPrimary};
use self::freshness::{OnStoreLoss, Standing};
pub use self::reign::Reign;

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
    recovered: Notify,
    /// Sessions that wait for a place here.
    waiting: AtomicUsize,
    freed: Notify,
    admission: AtomicU8,
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

    /// Sets what it may take. [`TopologyRx::reconsider`] tells those who wait.
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

    /// Whether it refused a moment ago.
    pub fn is_shunned(&self, now: Tick) -> bool {
        now.as_nanos() < self.shunned_until.load(Ordering::Relaxed)
    }

    /// Notes that it refused or did not answer.
    pub fn shun(&self, now: Tick) {
        self.shunned_until.store((now + SHUN_FOR).as_nanos(), Ordering::Relaxed);
    }

    /// Notes that it answered, and tells those who wait for that.
    pub fn welcome(&self) {
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

/// A server that sessions may be opened to.
#[derive(Debug)]
pub struct Target {
    /// Who.
    pub name: NodeName,
    /// Where.
    pub address: Address,
    /// The reign its sessions live and die with. `None` for replicas: their sessions end only when their
    /// connections do, so that neither lag, nor a lost store, nor a promotion kills a running query.
    pub reign: Option<Arc<Reign>>,
    /// Bytes of WAL behind the leader, where known.
    pub lag: Option<u64>,
    /// Whether it is a synchronous standby.
    pub is_sync: bool,
    /// The node behind it.
    pub node: Arc<Node>,
}

/// One cluster at one revision.
#[derive(Debug)]
pub struct Topology {
    /// The cluster's name in the settings.
    pub cluster: Arc<str>,
    /// The revision it was derived from.
    pub revision: Revision,
    /// The leader key.
    pub leader: Option<(NodeName, Epoch)>,
    /// Where new sessions of the primary port go.
    pub primary: Result<Arc<Target>, NoPrimary>,
    /// Where new sessions of a replica port may go.
    pub replicas: Vec<Arc<Target>>,
    /// All members and why they take reads or do not.
    pub members: Vec<MemberPlan>,
    /// Whether the leader is proven.
    pub standing: Standing,
    /// What happens past the deadline.
    pub on_store_loss: OnStoreLoss,
    /// When the view was last proven true.
    pub confirmed_at: Tick,
    /// Since when the store does not answer, and the last error; `None` while it does.
    pub store_down: Option<(Tick, String)>,
    /// Since when nobody takes writes; `None` while somebody does.
    pub missing_since: Option<Tick>,
    /// How long the last change of primary left nobody serving.
    pub last_outage: Option<Duration>,
    /// Whether anybody has served since the proxy started.
    pub has_served: bool,
    /// All nodes that are members, still have sessions, or were set aside.
    pub nodes: BTreeMap<NodeName, Arc<Node>>,
    /// Keys of the cluster that cannot be read: path and reason.
    pub malformed: Vec<(String, String)>,
}

/// The current picture, and the news when it is replaced.
#[derive(Clone, Debug)]
pub struct TopologyRx {
    pictures: watch::Receiver<Arc<Topology>>,
    reconsider: Arc<Notify>,
}

impl TopologyRx {
    /// Has a new picture made: an operator has changed what is not in the store.
    pub fn reconsider(&self) {
        self.reconsider.notify_one();
    }

    /// The current picture.
    pub fn current(&self) -> Arc<Topology> {
        Arc::clone(&self.pictures.borrow())
    }

    /// The current picture, remembered as seen: [`TopologyRx::changed`] waits for a later one.
    pub fn see(&mut self) -> Arc<Topology> {
        Arc::clone(&self.pictures.borrow_and_update())
    }

    /// Waits for a picture later than the one last seen; for ever when the feed has ended.
    pub async fn changed(&mut self) {
        if self.pictures.changed().await.is_err() {
            std::future::pending::<()>().await;
        }
    }
}

#[cfg(test)]
pub(crate) mod fixture {
    //! Pictures for the tests of other rooms.

    use super::*;

    pub(crate) fn replica(name: &str, lag: Option<u64>) -> Arc<Target> {
        let address = ("127.0.0.1".to_owned(), 1);
        Arc::new(Target {
            name: name.into(),
            address,
            reign: None,
            lag,
            is_sync: false,
            node: Arc::default(),
        })
    }

    pub(crate) fn primary(name: &str, epoch: i64) -> Arc<Target> {
        let reign = Reign::new(Epoch(epoch), Tick::now() + Duration::from_hours(1));
        let address = ("127.0.0.1".to_owned(), 1);
        Arc::new(Target {
            name: name.into(),
            address,
            reign: Some(Arc::new(reign)),
            lag: None,
            is_sync: false,
            node: Arc::default(),
        })
    }

    pub(crate) fn topology(primary: Option<Arc<Target>>, replicas: Vec<Arc<Target>>) -> Topology {
        let leader = primary.as_ref().and_then(|p| Some((p.name.clone(), p.reign.as_ref()?.epoch())));
        Topology {
            cluster: "main".into(),
            revision: Revision(1),
            leader,
            primary: primary.ok_or(NoPrimary::NoLeader),
            replicas,
            members: vec![],
            standing: Standing::Proven,
            on_store_loss: OnStoreLoss::Hold,
            confirmed_at: Tick::now(),
            store_down: None,
            missing_since: None,
            last_outage: None,
            has_served: false,
            nodes: BTreeMap::new(),
            malformed: vec![],
        }
    }
}
