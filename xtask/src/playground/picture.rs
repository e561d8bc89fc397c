//! What agents and proxies say of the cluster, and whether that is health.

use std::net::SocketAddr;
use std::time::Duration;

use futures_util::future::join_all;
use serde::Deserialize;

use super::http::{self, HttpError};

/// How long an answer may take; a frozen agent gives none.
const ANSWER_WITHIN: Duration = Duration::from_millis(500);

/// Where one agent answers.
#[derive(Clone, Debug)]
pub struct NodeSite {
    /// The member's name.
    pub name: String,
    /// Its REST API.
    pub rest: SocketAddr,
}

/// Where one proxy answers.
#[derive(Clone, Debug)]
pub struct ProxySite {
    /// Its name.
    pub name: String,
    /// Its admin listener.
    pub admin: SocketAddr,
}

/// Where everybody answers.
#[derive(Clone, Debug)]
pub struct Sites {
    /// Agents.
    pub nodes: Vec<NodeSite>,
    /// Proxies.
    pub proxies: Vec<ProxySite>,
}

/// One look at everybody.
#[derive(Debug, Default)]
pub struct Picture {
    /// Agents by name; an error where one does not answer.
    pub nodes: Vec<(String, Result<Agent, HttpError>)>,
    /// Proxies by name.
    pub proxies: Vec<(String, Result<Topology, HttpError>)>,
}

/// An agent's `/patroni`.
#[derive(Clone, Debug, Deserialize)]
pub struct Agent {
    /// What PostgreSQL does.
    pub state: String,
    /// What the member is.
    pub role: String,
    /// Its timeline.
    pub timeline: Option<u64>,
    /// `streaming` on a healthy replica.
    pub replication_state: Option<String>,
    /// Positions in the WAL.
    pub xlog: Option<Xlog>,
    /// What pgvane's agents add; a Patroni daemon has none.
    pub pgvane: Option<Own>,
}

/// Positions in the WAL, by role.
#[derive(Clone, Copy, Debug, Deserialize)]
pub struct Xlog {
    location: Option<u64>,
    received_location: Option<u64>,
    replayed_location: Option<u64>,
}

/// The part of `/patroni` that only pgvane's agents have.
#[derive(Clone, Copy, Debug, Deserialize)]
pub struct Own {
    /// Whether it holds the leader key.
    pub is_leader: bool,
    /// Time until it must stop writes unless it renews.
    pub leader_for_ms: Option<u64>,
}

impl Agent {
    /// A primary's flushed position, a replica's received or replayed one.
    pub fn position(&self) -> Option<u64> {
        let xlog = self.xlog?;
        xlog.location.or_else(|| xlog.received_location.max(xlog.replayed_location))
    }

    /// Patroni does not say here whether it holds the key; what it runs as a primary it holds the key for.
    fn leads(&self) -> bool {
        let is_leader = ["primary", "standby_leader"].contains(&self.role.as_str());
        self.pgvane.is_none_or(|own| own.is_leader) && is_leader && self.state == "running"
    }

    /// Whether it is a replica that streams.
    pub fn streams(&self) -> bool {
        self.role == "replica"
            && self.state == "running"
            && self.replication_state.as_deref() == Some("streaming")
    }
}

/// A proxy's `/topology`.
#[derive(Clone, Debug, Deserialize)]
pub struct Topology {
    /// One entry: ours.
    pub clusters: Vec<Cluster>,
    /// Its ports.
    pub listeners: Vec<Listener>,
}

/// What a proxy makes of the cluster.
#[derive(Clone, Debug, Deserialize)]
pub struct Cluster {
    /// Who holds the leader key.
    pub leader: Option<String>,
    /// Its epoch.
    pub epoch: Option<i64>,
    /// Where writes go.
    pub primary: Option<Target>,
    /// Why they go nowhere.
    pub no_primary: Option<String>,
    /// How long the last absence of a primary was.
    pub last_outage_ms: Option<u64>,
    /// Members with what they take.
    pub members: Vec<Member>,
    /// Whether etcd answers.
    pub store_up: bool,
    /// Who proves the leader.
    pub standing: String,
}

/// A server that takes sessions.
#[derive(Clone, Debug, Deserialize)]
pub struct Target {
    /// The member's name.
    pub name: String,
}

/// A member as a proxy sees it.
#[derive(Clone, Debug, Deserialize)]
pub struct Member {
    /// The member's name.
    pub name: String,
    /// Bytes behind the leader.
    pub lag_bytes: Option<u64>,
    /// Whether it takes new sessions as a replica.
    pub takes_reads: bool,
    /// Sessions on it now.
    pub sessions: u64,
}

/// A port of a proxy.
#[derive(Clone, Debug, Deserialize)]
pub struct Listener {
    /// Its name.
    pub name: String,
    /// Sessions now.
    pub sessions: u64,
    /// Clients that wait for a server.
    pub held: u64,
}

impl Sites {
    /// Asks everybody at once.
    pub async fn look(&self) -> Picture {
        let nodes = self
            .nodes
            .iter()
            .map(async |site| (site.name.clone(), http::get(site.rest, "/patroni", ANSWER_WITHIN).await));
        let proxies = self
            .proxies
            .iter()
            .map(async |site| (site.name.clone(), http::get(site.admin, "/topology", ANSWER_WITHIN).await));
        let (nodes, proxies) = tokio::join!(join_all(nodes), join_all(proxies));
        Picture { nodes, proxies }
    }
}

impl Picture {
    /// The one member that leads and runs as primary, or as leader of a standby cluster; or why there is none.
    pub fn leader(&self) -> Result<String, String> {
        let leaders: Vec<_> = self
            .nodes
            .iter()
            .filter(|(_, agent)| agent.as_ref().is_ok_and(Agent::leads))
            .map(|(name, _)| name.as_str())
            .collect();
        match leaders[..] {
            [leader] => Ok(leader.to_owned()),
            [] => Err(format!("nobody leads ({})", self.states())),
            _ => Err(format!("several say they lead: {}", leaders.join(", "))),
        }
    }

    /// The newest epoch that a proxy knows.
    pub fn epoch(&self) -> Option<i64> {
        let topologies = self.proxies.iter().filter_map(|(_, topology)| topology.as_ref().ok());
        topologies.flat_map(|t| &t.clusters).filter_map(|c| c.epoch).max()
    }

    /// `Ok` if one member leads, all others stream, and every proxy sends writes to the leader and reads to all
    /// others; else what is missing.
    pub fn health(&self) -> Result<(), String> {
        let leader = self.leader()?;
        for (name, agent) in &self.nodes {
            match agent {
                Ok(agent) if *name == leader || agent.streams() => {}
                Ok(_) => return Err(format!("{name} does not stream ({})", self.states())),
                Err(error) => return Err(format!("the agent of {name}: {error}")),
            }
        }
        for (name, topology) in &self.proxies {
            let cluster = match topology {
                Ok(topology) => {
                    topology.clusters.first().ok_or_else(|| format!("{name} knows no cluster"))?
                }
                Err(error) => return Err(format!("{name}: {error}")),
            };
            if !cluster.store_up {
                return Err(format!("{name} does not reach etcd"));
            }
            if cluster.primary.as_ref().is_none_or(|target| target.name != leader) {
                let why = cluster.no_primary.as_deref().unwrap_or("another primary");
                return Err(format!("{name} sends no writes to {leader}: {why}"));
            }
            if cluster.members.iter().filter(|m| m.takes_reads).count() + 1 < self.nodes.len() {
                return Err(format!("{name} does not send reads to every replica"));
            }
        }
        Ok(())
    }

    fn states(&self) -> String {
        let one = |(name, agent): &(String, Result<Agent, HttpError>)| match agent {
            Ok(agent) => {
                let replication = agent.replication_state.as_deref().map(|r| format!(", {r}"));
                format!("{name}: {} {}{}", agent.role, agent.state, replication.unwrap_or_default())
            }
            Err(error) => format!("{name}: {error}"),
        };
        self.nodes.iter().map(one).collect::<Vec<_>>().join("; ")
    }
}

#[cfg(test)]
pub(crate) mod tests {
    use serde_json::json;

    use super::*;

    pub(crate) fn agent(role: &str, is_leader: bool) -> Agent {
        serde_json::from_value(json!({
            "state": "running", "role": role, "timeline": 3,
            "replication_state": if is_leader { None } else { Some("streaming") },
            "xlog": if is_leader { json!({"location": 0x0300_0148}) } else { json!({"received_location": 7, "replayed_location": 9}) },
            "pgvane": {"is_leader": is_leader, "leader_for_ms": if is_leader { Some(8200) } else { None }},
            "unknown": true,
        }))
        .expect("an agent")
    }

    pub(crate) fn topology(primary: Option<&str>) -> Topology {
        let members = ["pg1", "pg2", "pg3"].map(
            |name| json!({"name": name, "lag_bytes": 0, "takes_reads": Some(name) != primary, "sessions": 1}),
        );
        serde_json::from_value(json!({
            "clusters": [{
                "leader": primary, "epoch": 12, "primary": primary.map(|name| json!({"name": name})),
                "no_primary": null, "last_outage_ms": 143, "store_up": true, "standing": "proven",
                "members": members,
            }],
            "listeners": [{"name": "primary", "sessions": 1, "held": 0}, {"name": "replica", "sessions": 2, "held": 0}],
        }))
        .expect("a topology")
    }

    pub(crate) fn healthy() -> Picture {
        let node = |name: &str, role| (name.to_owned(), Ok(agent(role, role == "primary")));
        Picture {
            nodes: vec![node("pg1", "primary"), node("pg2", "replica"), node("pg3", "replica")],
            proxies: vec![("proxy1".to_owned(), Ok(topology(Some("pg1"))))],
        }
    }

    #[test]
    fn health_needs_one_leader_streams_and_routes() {
        assert_eq!(healthy().health(), Ok(()));
        let sick = |change: fn(&mut Picture)| {
            let mut picture = healthy();
            change(&mut picture);
            picture.health().expect_err("not healthy")
        };
        assert!(sick(|p| p.nodes[0].1 = Ok(agent("replica", false))).starts_with("nobody leads"));
        assert!(sick(|p| p.nodes[1].1 = Ok(agent("primary", true))).starts_with("several say they lead"));
        assert!(
            sick(|p| p.nodes[2].1.as_mut().expect("answers").replication_state = None).starts_with("pg3")
        );
        assert!(sick(|p| p.nodes[2].1 = Err(HttpError::Broken("refused".to_owned()))).contains("refused"));
        assert!(sick(|p| p.proxies[0].1 = Ok(topology(Some("pg2")))).contains("no writes to pg1"));
        assert!(
            sick(|p| p.proxies[0].1.as_mut().expect("answers").clusters[0].store_up = false).contains("etcd")
        );
        let none = sick(|p| {
            p.proxies[0].1.as_mut().expect("answers").clusters[0].members[1].takes_reads = false;
        });
        assert!(none.contains("reads"), "{none}");
    }

    #[test]
    fn a_replica_is_where_it_received_or_replayed() {
        assert_eq!(agent("primary", true).position(), Some(0x0300_0148));
        assert_eq!(agent("replica", false).position(), Some(9));
    }
}
