//! The documents of the admin side: `/topology`, which `/events` repeats, and `/sessions`.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use pgvane_cluster::clock::Tick;
use serde::Serialize;

use super::Admin;
use crate::listen::Port;
use crate::roster::Ticket;
use crate::topology::freshness::Standing;
use crate::topology::timeline::{Entry, milliseconds};
use crate::topology::{Admission, Topology};

/// The document at `/topology`.
#[derive(Serialize)]
pub(super) struct Status {
    version: &'static str,
    pid: u32,
    /// By the wall clock: milliseconds since 1970.
    now_ms: u64,
    /// Time since this process began to serve.
    uptime_ms: u64,
    phase: String,
    ready: bool,
    not_ready: Option<String>,
    clusters: Vec<ClusterStatus>,
    listeners: Vec<ListenerStatus>,
    /// What happened last, the oldest first.
    timeline: Vec<Entry>,
    /// Whether there is a token by which something can be changed over TCP.
    takes_commands: bool,
}

#[derive(Serialize)]
struct ClusterStatus {
    name: String,
    /// What tells of the cluster.
    source: &'static str,
    /// Time between two questions to each member; absent where changes are told as they happen.
    poll_interval_ms: Option<u64>,
    revision: i64,
    leader: Option<String>,
    epoch: Option<i64>,
    /// Where new sessions of a primary port go.
    primary: Option<TargetStatus>,
    no_primary: Option<String>,
    no_primary_for_ms: Option<u64>,
    last_outage_ms: Option<u64>,
    members: Vec<MemberStatus>,
    /// Whether the leader is proven, and by whom.
    standing: &'static str,
    on_store_loss: &'static str,
    /// Time since the picture was last proven true.
    age_ms: Option<u64>,
    store_up: bool,
    store_down_for_ms: Option<u64>,
    store_error: Option<String>,
    malformed: Vec<MalformedStatus>,
}

#[derive(Serialize)]
struct TargetStatus {
    name: String,
    host: String,
    port: u16,
}

#[derive(Serialize)]
struct MemberStatus {
    name: String,
    role: String,
    state: String,
    host: Option<String>,
    port: Option<u16>,
    lag_bytes: Option<u64>,
    /// Whether it is a synchronous standby.
    is_sync: bool,
    /// Whether it takes new sessions as a replica.
    takes_reads: bool,
    no_reads: Option<String>,
    sessions: usize,
    /// What an operator lets it take: "enabled", "draining", "disabled".
    admission: &'static str,
    /// Whether it refused a session a moment ago.
    refused: bool,
    /// Whether checks get answers from it, where there are checks.
    answers: bool,
}

#[derive(Serialize)]
struct MalformedStatus {
    key: String,
    reason: String,
}

#[derive(Serialize)]
struct ListenerStatus {
    name: String,
    cluster: String,
    role: &'static str,
    listen: Vec<String>,
    sessions: usize,
    max_sessions: usize,
    held: usize,
    /// Since this process began to serve, as all totals.
    sessions_total: u64,
    /// Counted once a megabyte and at a session's end, as all bytes.
    to_client_bytes: u64,
    to_server_bytes: u64,
    /// Sessions ended, by reason; reasons that have not come up are left out.
    ends: BTreeMap<&'static str, u64>,
}

impl Status {
    pub(super) fn of(admin: &Admin) -> Status {
        let now = Tick::now();
        let readiness = admin.readiness();
        Status {
            version: env!("CARGO_PKG_VERSION"),
            pid: std::process::id(),
            now_ms: milliseconds(SystemTime::now()),
            uptime_ms: millis(admin.started.elapsed()),
            phase: admin.phase.borrow().to_string(),
            ready: readiness.is_ok(),
            not_ready: readiness.err(),
            clusters: admin.clusters.values().map(|c| ClusterStatus::of(&c.current(), now)).collect(),
            listeners: admin.ports.borrow().iter().map(|p| ListenerStatus::of(p)).collect(),
            timeline: admin.timeline.entries(),
            takes_commands: admin.token.is_some(),
        }
    }
}

impl ClusterStatus {
    fn of(t: &Topology, now: Tick) -> ClusterStatus {
        let ms_since = |since: Tick| millis(now.since(since));
        let target = |t: &Arc<crate::topology::Target>| TargetStatus {
            name: t.name.to_string(),
            host: t.address.0.clone(),
            port: t.address.1,
        };
        let member = |m: &crate::topology::MemberPlan| MemberStatus {
            name: m.name.to_string(),
            role: m.role.to_string(),
            state: m.state.to_string(),
            host: m.address.as_ref().map(|(host, _)| host.clone()),
            port: m.address.as_ref().map(|(_, port)| *port),
            lag_bytes: m.lag,
            is_sync: m.is_sync,
            takes_reads: m.reads.is_ok(),
            no_reads: m.reads.as_ref().err().map(ToString::to_string),
            sessions: t.nodes.get(&m.name).map_or(0, |node| node.sessions()),
            admission: t.nodes.get(&m.name).map_or(Admission::default(), |node| node.admission()).label(),
            answers: t.nodes.get(&m.name).is_none_or(|node| node.answers()),
            refused: t.nodes.get(&m.name).is_some_and(|node| node.is_shunned(now)),
        };
        ClusterStatus {
            name: t.cluster.to_string(),
            source: t.origin.label(),
            poll_interval_ms: t.origin.polls_every().map(millis),
            revision: t.revision.0,
            leader: t.leader.as_ref().map(|(name, _)| name.to_string()),
            epoch: t.leader.as_ref().map(|(_, epoch)| epoch.0),
            primary: t.primary.as_ref().ok().map(target),
            no_primary: t.primary.as_ref().err().map(ToString::to_string),
            no_primary_for_ms: t.missing_since.map(ms_since),
            last_outage_ms: t.last_outage.map(millis),
            members: t.members.iter().map(member).collect(),
            standing: t.standing.label(),
            on_store_loss: t.on_store_loss.label(),
            age_ms: (t.standing != Standing::NeverSeen).then(|| ms_since(t.confirmed_at)),
            store_up: t.standing != Standing::NeverSeen && t.store_down.is_none(),
            store_down_for_ms: t.store_down.as_ref().map(|(since, _)| ms_since(*since)),
            store_error: t.store_down.as_ref().map(|(_, why)| why.clone()),
            malformed: t
                .malformed
                .iter()
                .map(|(key, reason)| MalformedStatus { key: key.clone(), reason: reason.clone() })
                .collect(),
        }
    }
}

impl ListenerStatus {
    fn of(port: &Port) -> ListenerStatus {
        let totals = port.metrics.totals();
        ListenerStatus {
            name: port.settings.name.clone(),
            cluster: port.settings.cluster.clone(),
            role: port.settings.rules.role.label(),
            listen: port.settings.listen.iter().map(ToString::to_string).collect(),
            sessions: port.open_sessions(),
            max_sessions: port.settings.max_sessions,
            held: port.held(),
            sessions_total: totals.sessions,
            to_client_bytes: totals.to_client,
            to_server_bytes: totals.to_server,
            ends: totals.ends.into_iter().map(|(reason, count)| (reason.label(), count)).collect(),
        }
    }
}

/// One entry of `/sessions`.
#[derive(Serialize)]
pub(super) struct SessionStatus {
    session: u64,
    client: String,
    listener: String,
    cluster: String,
    state: &'static str,
    target: Option<String>,
    epoch: Option<i64>,
    age_ms: u64,
}

impl SessionStatus {
    pub(super) fn of(ticket: &Ticket) -> SessionStatus {
        let target = ticket.target();
        SessionStatus {
            session: ticket.number,
            client: ticket.client().to_string(),
            listener: ticket.port.settings.name.clone(),
            cluster: ticket.port.settings.cluster.clone(),
            state: ticket.stage().label(),
            target: target.map(|target| target.name.to_string()),
            epoch: target.and_then(|target| Some(target.reign.as_ref()?.epoch().0)),
            age_ms: millis(ticket.started.elapsed()),
        }
    }
}

fn millis(d: Duration) -> u64 {
    u64::try_from(d.as_millis()).unwrap_or(u64::MAX)
}
