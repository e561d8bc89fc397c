//! Who takes sessions now: an immutable picture, replaced whole by the feed and read once per connection.

pub mod derive;
pub mod feed;
pub mod freshness;
mod node;
pub mod origin;
mod reign;
pub mod rise_fall;
pub mod succession;
pub mod timeline;
mod vouch;

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use pgvane_cluster::clock::Tick;
use pgvane_cluster::ids::{Epoch, NodeName, Revision};
use tokio::sync::{Notify, watch};

pub use self::derive::{Address, MemberPlan, NoPrimary};
use self::freshness::{OnStoreLoss, Standing};
pub use self::node::{Admission, Node, OnNode, Queueing};
use self::origin::Origin;
pub use self::reign::Reign;

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
    /// What tells of it.
    pub origin: Origin,
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
    /// Since when the source does not answer, and the last error; `None` while it does.
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
            origin: Origin::Etcd,
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
