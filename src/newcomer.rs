//! The start of a process that takes over from another: it knows the clusters before it accepts, keeps what operators
//! have set aside, and only then relieves its predecessor.

use std::collections::BTreeMap;
use std::time::Duration;

use pgvane_cluster::ids::NodeName;
use tokio::task::spawn_blocking;
use tokio::time::timeout;
use tracing::{info, warn};

use crate::takeover::{Offer, Predecessor};
use crate::topology::TopologyRx;
use crate::topology::freshness::Standing;

/// How long the store may take to answer. The predecessor may have no better picture than we, so that without one we
/// take over all the same.
const STORE_PATIENCE: Duration = Duration::from_secs(10);

/// Waits until the clusters are known.
pub(crate) async fn prepare(clusters: &BTreeMap<String, TopologyRx>, offer: &Offer) {
    info!(version = offer.version, pid = offer.pid, "taking over");
    let known = async {
        for cluster in clusters.values() {
            let mut cluster = cluster.clone();
            while cluster.see().standing == Standing::NeverSeen {
                cluster.changed().await;
            }
        }
    };
    if timeout(STORE_PATIENCE, known).await.is_err() {
        warn!("taking over without a picture of every cluster: the store has not answered");
    }
    for set_aside in &offer.set_aside {
        let (cluster, target) = (&set_aside.cluster, &set_aside.target);
        let topology = clusters.get(cluster);
        let node = topology
            .and_then(|topology| topology.current().nodes.get(&NodeName::from(target.as_str())).cloned());
        match (topology, node) {
            (Some(topology), Some(node)) => {
                node.admit(set_aside.admission);
                topology.reconsider();
                info!(cluster, target, admission = set_aside.admission.label(), "still set aside");
            }
            _ => warn!(cluster, target, "was set aside by an operator and is no member now"),
        }
    }
}

/// Tells the predecessor that we serve.
pub(crate) async fn relieve(predecessor: Predecessor) {
    let pid = predecessor.offer.pid;
    match spawn_blocking(move || predecessor.relieve()).await {
        Ok(Ok(())) => info!(pid, "taken over; the process before drains"),
        Ok(Err(error)) => {
            warn!(pid, %error, "taken over, but the process before has not said that it drains");
        }
        Err(error) => warn!(pid, %error, "taken over"),
    }
}
