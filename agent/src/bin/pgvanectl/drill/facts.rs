//! What a guide has to know of a cluster.

use std::time::Duration;

use pgvane_cluster::records::host_port;
use pgvane_cluster::settings::SynchronousMode;
use pgvane_cluster::view::ClusterView;

/// A member and its host.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Node {
    pub(super) name: String,
    pub(super) host: String,
}

/// A cluster as it is now.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Facts {
    pub(super) scope: String,
    pub(super) leader: Node,
    pub(super) replicas: Vec<Node>,
    pub(super) ttl: Duration,
    pub(super) synchronous: bool,
    pub(super) failsafe: bool,
    /// Hosts and ports of etcd.
    pub(super) etcd: Vec<(String, u16)>,
}

impl Facts {
    /// Of this cluster, whose etcd is asked at `endpoints`.
    pub(super) fn of(view: &ClusterView, scope: &str, endpoints: &[String]) -> Facts {
        let host =
            |address: Option<(String, u16)>| address.map_or_else(|| "HOST".to_owned(), |(host, _)| host);
        let leader = view.leader.as_ref().map(|leader| &leader.name);
        let nodes = view.members.iter().map(|(name, member)| {
            let node = Node { name: name.to_string(), host: host(member.record.postgres_address()) };
            (Some(name) == leader, node)
        });
        let (led, others): (Vec<_>, Vec<_>) = nodes.partition(|(leads, _)| *leads);
        let settings = view.settings();
        let nobody = Node { name: "the leader".to_owned(), host: "LEADER".to_owned() };
        Facts {
            scope: scope.to_owned(),
            leader: led.into_iter().next().map_or(nobody, |(_, node)| node),
            replicas: others.into_iter().map(|(_, node)| node).collect(),
            ttl: settings.ttl,
            synchronous: settings.synchronous_mode != SynchronousMode::Off,
            failsafe: settings.failsafe_mode,
            etcd: endpoints.iter().filter_map(|url| host_port(url, 2379)).collect(),
        }
    }
}
