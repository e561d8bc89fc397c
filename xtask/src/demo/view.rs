//! What is shown, as plain data: from one look at the cluster and what the clients saw.

use std::time::{Duration, Instant};

use super::control::Control;
use crate::drill::clients::Clients;
use crate::drill::ledger::Ledger;
use crate::playground::picture::{Agent, Picture, Topology};

/// Everything on the screen.
#[derive(Clone, Debug, Default, PartialEq)]
pub(super) struct Frame {
    pub(super) ttl: u32,
    pub(super) members: Vec<Member>,
    pub(super) proxies: Vec<Proxy>,
    pub(super) clients: ClientsLine,
    pub(super) events: Vec<String>,
}

/// One line of the members' table.
#[derive(Clone, Debug, Default, PartialEq)]
pub(super) struct Member {
    pub(super) name: String,
    pub(super) role: String,
    pub(super) state: String,
    pub(super) timeline: String,
    pub(super) lag: String,
    pub(super) lease: String,
    pub(super) sessions: u64,
    pub(super) leads: bool,
}

/// One line of the proxies' table.
#[derive(Clone, Debug, Default, PartialEq)]
pub(super) struct Proxy {
    pub(super) name: String,
    pub(super) primary: String,
    pub(super) reads: String,
    pub(super) sessions: u64,
    pub(super) held: u64,
    pub(super) outage: String,
    pub(super) proof: String,
}

/// What the clients saw.
#[derive(Clone, Debug, Default, PartialEq)]
pub(super) struct ClientsLine {
    pub(super) writes_per_s: u64,
    pub(super) acknowledged: u64,
    pub(super) errors: u64,
    pub(super) read_errors: u64,
    pub(super) last_outage: Option<Duration>,
    pub(super) waiting: Option<Duration>,
}

/// Silence of the writer that is shown as an outage under way.
const NOTICED: Duration = Duration::from_millis(100);

pub(super) fn frame(picture: &Picture, clients: &Clients, control: &Control) -> Frame {
    let topologies: Vec<&Topology> = picture.proxies.iter().filter_map(|(_, t)| t.as_ref().ok()).collect();
    let newest = |f: fn(&Agent) -> Option<u64>| {
        picture.nodes.iter().filter_map(|(_, a)| a.as_ref().ok().and_then(f)).max()
    };
    let head = newest(Agent::position);
    let members = picture.nodes.iter().map(|(name, agent)| {
        let sessions = topologies.iter().flat_map(|t| &t.clusters).flat_map(|c| &c.members);
        let sessions = sessions.filter(|m| m.name == *name).map(|m| m.sessions).sum();
        let shown = match agent {
            Ok(agent) => described(agent, head),
            Err(error) => Member { role: "?".to_owned(), state: error.to_string(), ..Member::default() },
        };
        Member { name: name.clone(), sessions, ..shown }
    });
    Frame {
        ttl: control.ttl,
        members: members.collect(),
        proxies: picture.proxies.iter().map(|(name, t)| proxy(name, t.as_ref().ok())).collect(),
        clients: clients.look(|ledger| seen(ledger, Instant::now())),
        events: control.events().map(str::to_owned).collect(),
    }
}

fn described(agent: &Agent, head: Option<u64>) -> Member {
    let dash = || "-".to_owned();
    let state = match (&agent.replication_state, agent.state.as_str()) {
        (Some(replication), "running") => replication.clone(),
        (_, state) => state.to_owned(),
    };
    let lag = match (agent.role.as_str(), agent.position(), head) {
        ("primary", ..) | (_, None, _) | (.., None) => dash(),
        (_, Some(at), Some(head)) => bytes(head.saturating_sub(at)),
    };
    let seconds = |ms: u64| format!("{}.{} s left", ms / 1000, ms % 1000 / 100);
    let own = agent.pgvane;
    Member {
        role: agent.role.clone(),
        state,
        timeline: agent.timeline.map_or_else(dash, |t| t.to_string()),
        lag,
        lease: own.filter(|own| own.is_leader).and_then(|own| own.leader_for_ms).map_or_else(dash, seconds),
        leads: own.is_some_and(|own| own.is_leader),
        ..Member::default()
    }
}

fn proxy(name: &str, topology: Option<&Topology>) -> Proxy {
    let Some((topology, cluster)) = topology.and_then(|t| Some((t, t.clusters.first()?))) else {
        return Proxy { name: name.to_owned(), primary: "does not answer".to_owned(), ..Proxy::default() };
    };
    let nobody = || format!("nobody: {}", cluster.no_primary.as_deref().unwrap_or("unknown"));
    let reads: Vec<_> = cluster.members.iter().filter(|m| m.takes_reads).map(|m| m.name.as_str()).collect();
    Proxy {
        name: name.to_owned(),
        primary: cluster.primary.as_ref().map_or_else(nobody, |target| target.name.clone()),
        reads: if reads.is_empty() { "nobody".to_owned() } else { reads.join(" ") },
        sessions: topology.listeners.iter().map(|l| l.sessions).sum(),
        held: topology.listeners.iter().map(|l| l.held).sum(),
        outage: cluster.last_outage_ms.map_or_else(|| "-".to_owned(), |ms| format!("{ms} ms")),
        proof: if cluster.store_up { "etcd".to_owned() } else { format!("etcd away: {}", cluster.standing) },
    }
}

fn seen(ledger: &Ledger, now: Instant) -> ClientsLine {
    ClientsLine {
        writes_per_s: now
            .checked_sub(Duration::from_secs(1))
            .map_or(0, |then| ledger.acknowledged_since(then)),
        acknowledged: ledger.acknowledged(),
        errors: ledger.client_errors + ledger.failed_connects,
        read_errors: ledger.read_errors,
        last_outage: ledger.last_outage(NOTICED),
        waiting: ledger.last().map(|last| now - last).filter(|silence| *silence >= NOTICED),
    }
}

fn bytes(n: u64) -> String {
    match n {
        0..1024 => format!("{n} B"),
        1024..1_048_576 => format!("{} kB", n / 1024),
        _ => format!("{} MB", n / 1_048_576),
    }
}

/// How the writer fares, in words.
pub(super) fn fare(clients: &ClientsLine) -> String {
    let ms = |d: Duration| format!("{} ms", d.as_millis());
    let outage = match (clients.waiting, clients.last_outage) {
        (Some(waiting), _) => format!("waiting for {}", ms(waiting)),
        (None, Some(outage)) => format!("last outage {}", ms(outage)),
        (None, None) => "no outage yet".to_owned(),
    };
    format!(
        "{} writes/s, {} acknowledged, {outage}, {} errors, {} failed reads",
        clients.writes_per_s, clients.acknowledged, clients.errors, clients.read_errors
    )
}

/// All of it in one line.
pub(super) fn line(frame: &Frame) -> String {
    let members = frame.members.iter().map(|m| format!("{} {} {}", m.name, m.role, m.state));
    let newest = frame.events.first().map(|e| format!("; {}", e.trim())).unwrap_or_default();
    format!("{}; {}{newest}", members.collect::<Vec<_>>().join(", "), fare(&frame.clients))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::playground::picture::tests::{agent, topology};

    #[test]
    fn a_replica_shows_its_lag_and_a_leader_its_lease() {
        let replica = described(&agent("replica", false), Some(9 + 2048));
        assert_eq!(
            (replica.state.as_str(), replica.lag.as_str(), replica.lease.as_str()),
            ("streaming", "2 kB", "-")
        );
        let leader = described(&agent("primary", true), Some(9));
        assert_eq!((leader.lag.as_str(), leader.lease.as_str(), leader.leads), ("-", "8.2 s left", true));
    }

    #[test]
    fn a_proxy_says_where_it_sends_whom() {
        let shown = proxy("proxy1", Some(&topology(Some("pg1"))));
        assert_eq!((shown.primary.as_str(), shown.reads.as_str(), shown.sessions), ("pg1", "pg2 pg3", 3));
        assert_eq!(shown.outage, "143 ms");
        assert!(proxy("proxy1", Some(&topology(None))).primary.starts_with("nobody"));
        assert_eq!(proxy("proxy1", None).primary, "does not answer");
    }

    #[test]
    fn silence_is_an_outage_under_way() {
        let start = Instant::now();
        let now = start + Duration::from_millis(900);
        let mut ledger = Ledger::default();
        ledger.acknowledge(1, start);
        ledger.acknowledge(2, start + Duration::from_millis(500));
        let shown = seen(&ledger, now);
        assert_eq!((shown.writes_per_s, shown.last_outage), (2, Some(Duration::from_millis(500))));
        assert_eq!(fare(&shown), "2 writes/s, 2 acknowledged, waiting for 400 ms, 0 errors, 0 failed reads");
    }
}
