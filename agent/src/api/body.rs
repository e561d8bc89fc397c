//! Bodies of the read-only answers (contract 6.2, 6.3), from one snapshot. Pure.

use jiff::Timestamp;
use pgvane_cluster::clock::Tick;
use pgvane_cluster::ids::{Lsn, NodeName};
use pgvane_cluster::records::{MemberRole, MemberState, PATRONI_VERSION};
use pgvane_cluster::settings::SynchronousMode;
use pgvane_cluster::view::{ClusterView, Member};
use serde_json::{Map, Value, json};

use super::snapshot::{ApiSnapshot, Wal};

/// The body of GET `/patroni` and of health checks.
pub(super) fn patroni(s: &ApiSnapshot, now: Tick) -> Value {
    let mut body = Map::new();
    let silent = s.local.answer.is_none() && s.local.state == MemberState::Running;
    let state = if silent { "unknown" } else { s.local.state.as_str() };
    body.insert("state".to_owned(), state.into());
    body.insert("role".to_owned(), s.local.effective_role().as_str().into());
    if let Some(answer) = &s.local.answer {
        if let Some(started) = &answer.postmaster_start_time {
            body.insert("postmaster_start_time".to_owned(), patroni_time(started).into());
        }
        body.insert("server_version".to_owned(), answer.server_version.into());
        body.insert("timeline".to_owned(), answer.timeline.map_or(0, |t| t.0).into());
        body.insert("xlog".to_owned(), xlog(&answer.wal));
        if let Wal::Standby { replication_state: Some(state), .. } = &answer.wal {
            body.insert("replication_state".to_owned(), state.clone().into());
        }
        if !answer.replication.is_empty() {
            body.insert("replication".to_owned(), json!(answer.replication));
        }
    }
    let view = s.view();
    if *s.local.effective_role() == MemberRole::Replica
        && let Some(kind) = view.and_then(|v| listed(v, &s.name))
    {
        body.insert(format!("{kind}_standby"), true.into());
    }
    let unlocked = view.is_none_or(|v| v.leader.is_none());
    for (field, on) in [
        ("pause", s.is_paused()),
        ("cluster_unlocked", unlocked),
        ("failsafe_mode_is_active", s.failsafe_active),
        ("pending_restart", s.pending_restart.is_some()),
        ("watchdog_failed", s.watchdog_failed),
    ] {
        if on {
            body.insert(field.to_owned(), true.into());
        }
    }
    if let Some(reason) = &s.pending_restart {
        body.insert("pending_restart_reason".to_owned(), reason.clone());
    }
    if let Some(Value::Object(mut restart)) = s.operations.scheduled_restart.clone() {
        // Of use to the agent alone.
        restart.remove("postmaster_start_time");
        body.insert("scheduled_restart".to_owned(), restart.into());
    }
    if !s.tags.0.is_empty() {
        body.insert("tags".to_owned(), json!(s.tags));
    }
    body.insert("dcs_last_seen".to_owned(), s.dcs_last_seen.into());
    if let Some(id) = &s.local.system_identifier {
        body.insert("database_system_identifier".to_owned(), id.clone().into());
    }
    let (name, scope) = (s.name.as_str(), s.scope.as_str());
    body.insert("patroni".to_owned(), json!({"version": PATRONI_VERSION, "scope": scope, "name": name}));
    let decided = s.operations.decided.as_ref();
    body.insert(
        "pgvane".to_owned(),
        json!({
            "version": env!("CARGO_PKG_VERSION"),
            "is_leader": s.is_leader(now),
            "leader_for_ms": s.leader_until.map(|until| u64::try_from(now.until(until).as_millis()).unwrap_or(0)),
            "decided": decided.map(|(action, why)| json!({"action": action, "reason": why.to_string()})),
        }),
    );
    Value::Object(body)
}

fn xlog(wal: &Wal) -> Value {
    match wal {
        Wal::Primary { location } => json!({"location": location}),
        Wal::Standby { received, replayed, replayed_timestamp, paused, .. } => json!({
            "received_location": received,
            "replayed_location": replayed,
            "replayed_timestamp": replayed_timestamp.as_deref().map(patroni_time),
            "paused": paused,
        }),
    }
}

/// PostgreSQL's text of an instant as Patroni shows it: microseconds, zone with minutes. Text that is no
/// instant stays as it is.
pub(crate) fn patroni_time(text: &str) -> String {
    instant(text).map_or_else(|| text.to_owned(), |t| t.strftime("%Y-%m-%d %H:%M:%S%.6f+00:00").to_string())
}

/// An instant in PostgreSQL's text form, whose zone may lack minutes.
pub(super) fn instant(text: &str) -> Option<Timestamp> {
    text.parse().ok()
}

/// Whether commits wait for `name`: `sync` by name, `quorum` as one of several, `None` not at all.
pub fn listed(view: &ClusterView, name: &NodeName) -> Option<&'static str> {
    let sync = view.sync.as_ref().map(|v| &v.value).filter(|r| r.leader.is_some())?;
    let named = sync.has_standby(name);
    let kind = match view.settings().synchronous_mode {
        SynchronousMode::Off => return None,
        SynchronousMode::On => "sync",
        SynchronousMode::Quorum => "quorum",
    };
    named.then_some(kind)
}

/// What a member is in the eyes of an operator.
pub fn shown_role(view: &ClusterView, name: &NodeName, member: &Member) -> &'static str {
    if view.leader.as_ref().is_some_and(|l| l.name == *name) {
        if member.record.role == MemberRole::StandbyLeader || view.settings().standby_cluster.is_some() {
            "standby_leader"
        } else {
            "leader"
        }
    } else {
        match listed(view, name) {
            Some("quorum") => "quorum_standby",
            Some(_) => "sync_standby",
            None => "replica",
        }
    }
}

/// What a member does in the eyes of an operator: how it replicates says more than that it runs.
pub fn shown_state<'a>(view: &ClusterView, name: &NodeName, member: &'a Member) -> &'a str {
    let leads = shown_role(view, name, member) == "leader";
    let replication = member.record.replication_state.as_deref().filter(|_| !leads);
    replication.unwrap_or(member.record.state.as_str())
}

/// The body of GET `/cluster`.
pub fn cluster(view: &ClusterView, scope: &str) -> Value {
    let members: Vec<Value> = view.members.iter().map(|(name, m)| member(view, name, m)).collect();
    let mut body = Map::new();
    body.insert("members".to_owned(), members.into());
    body.insert("scope".to_owned(), scope.into());
    if view.settings().pause {
        body.insert("pause".to_owned(), true.into());
    }
    if let Some(request) = view.failover.as_ref().map(|f| &f.value)
        && let Some(at) = &request.scheduled_at
    {
        let mut scheduled = Map::new();
        scheduled.insert("at".to_owned(), at.clone().into());
        scheduled.extend(request.leader.iter().map(|l| ("from".to_owned(), l.as_str().into())));
        scheduled.extend(request.member.iter().map(|m| ("to".to_owned(), m.as_str().into())));
        body.insert("scheduled_switchover".to_owned(), scheduled.into());
    }
    Value::Object(body)
}

fn member(view: &ClusterView, name: &NodeName, m: &Member) -> Value {
    let r = &m.record;
    let mut body = Map::new();
    let mut set = |field: &str, value: Value| {
        body.insert(field.to_owned(), value);
    };
    set("name", name.as_str().into());
    set("role", shown_role(view, name, m).into());
    set("state", shown_state(view, name, m).into());
    if let Some(url) = &r.api_url {
        set("api_url", url.clone().into());
    }
    if let Some((host, port)) = r.postgres_address() {
        set("host", host.into());
        set("port", port.into());
    }
    if let Some(timeline) = r.timeline {
        set("timeline", timeline.0.into());
    }
    if let Some(pending) = r.pending_restart {
        set("pending_restart", pending.into());
    }
    if let Some(reason) = &r.pending_restart_reason {
        set("pending_restart_reason", reason.clone());
    }
    if let Some(restart) = &r.scheduled_restart {
        set("scheduled_restart", restart.clone());
    }
    if !r.tags.0.is_empty() {
        set("tags", json!(r.tags));
    }
    if view.leader.as_ref().is_none_or(|l| l.name != *name) {
        let optime = view.status.as_ref().map(|s| s.optime);
        for (lsn_field, lag_field, at) in [
            ("receive_lsn", "receive_lag", r.receive_lsn),
            ("replay_lsn", "replay_lag", r.replay_lsn),
            ("lsn", "lag", r.xlog_location),
        ] {
            let at = at.filter(|lsn| lsn.0 > 0);
            set(lsn_field, at.map_or_else(|| "unknown".into(), |lsn| lsn.to_string().into()));
            set(lag_field, lag(optime, at).map_or_else(|| "unknown".into(), Value::from));
        }
    }
    Value::Object(body)
}

/// Bytes behind the leader, where both positions are known.
pub fn lag(optime: Option<Lsn>, at: Option<Lsn>) -> Option<u64> {
    Some(optime?.bytes_since(at?))
}

/// The body of GET `/history`.
pub(super) fn history(view: &ClusterView) -> Value {
    let bytes = view.history.as_ref().map(pgvane_cluster::records::HistoryRecord::to_json);
    bytes.and_then(|b| serde_json::from_slice(&b).ok()).unwrap_or_else(|| json!([]))
}

/// JSON as Patroni writes it in bodies: a blank after each comma and colon outside of strings.
pub(super) fn spaced(value: &Value) -> String {
    let compact = value.to_string();
    let mut text = String::with_capacity(compact.len() + compact.len() / 8);
    let (mut in_string, mut escaped) = (false, false);
    for c in compact.chars() {
        text.push(c);
        match c {
            _ if escaped => escaped = false,
            '\\' => escaped = in_string,
            '"' => in_string = !in_string,
            ',' | ':' if !in_string => text.push(' '),
            _ => {}
        }
    }
    text
}

#[cfg(test)]
#[path = "body_tests.rs"]
mod tests;
