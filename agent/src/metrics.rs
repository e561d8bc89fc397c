//! What `/metrics` shows: Patroni's names (contract 6.5), so that dashboards and alerts keep working, and a few
//! of our own (`pgvane_agent_*`). The only file that spells a metric's name.

use std::fmt::Write as _;

use jiff::Timestamp;
use pgvane_cluster::clock::Tick;
use pgvane_cluster::follow::Contact;
use pgvane_cluster::ids::Lsn;
use pgvane_cluster::records::{MemberRole, MemberState, PATRONI_VERSION};
use pgvane_cluster::view::ClusterView;

use crate::api::{ApiSnapshot, Wal};

/// The exposition, one snapshot at `now`; `expires` is when the REST API's certificate does, in seconds since 1970.
pub fn render(s: &ApiSnapshot, expires: Option<i64>, now: Tick) -> String {
    let mut page = Page { text: String::new(), labels: labels(s) };
    let answer = s.local.answer.as_ref();
    let role = s.local.effective_role();
    let view = s.view();
    let (location, received, replayed, replayed_at, paused, replication) = match answer.map(|a| &a.wal) {
        Some(Wal::Primary { location }) => (*location, Lsn(0), Lsn(0), None, false, None),
        Some(Wal::Standby { received, replayed, replayed_timestamp, paused, replication_state, .. }) => (
            Lsn(0),
            *received,
            *replayed,
            replayed_timestamp.as_deref(),
            *paused,
            replication_state.as_deref(),
        ),
        None => (Lsn(0), Lsn(0), Lsn(0), None, false, None),
    };
    let listed = view.filter(|_| *role == MemberRole::Replica).and_then(|v| crate::api::listed(v, &s.name));
    let started = answer.and_then(|a| a.postmaster_start_time.as_deref());
    let on = u64::from;

    page.gauge("patroni_version", "Patroni version spoken, two digits per component.", version_digits());
    page.gauge(
        "patroni_postgres_running",
        "1 if PostgreSQL runs.",
        on(s.local.state == MemberState::Running),
    );
    page.gauge("patroni_postmaster_start_time", "Epoch seconds since PostgreSQL started.", epoch(started));
    page.gauge("patroni_primary", "1 if this node is a primary.", on(*role == MemberRole::Primary));
    page.counter("patroni_xlog_location", "Flushed WAL position, 0 if not a primary.", location.0);
    page.gauge(
        "patroni_standby_leader",
        "1 if this node leads a standby cluster.",
        on(*role == MemberRole::StandbyLeader),
    );
    page.gauge("patroni_replica", "1 if this node is a replica.", on(*role == MemberRole::Replica));
    page.gauge(
        "patroni_sync_standby",
        "1 if commits wait for this node by name.",
        on(listed == Some("sync")),
    );
    page.gauge(
        "patroni_quorum_standby",
        "1 if commits may wait for this node.",
        on(listed == Some("quorum")),
    );
    page.counter("patroni_xlog_received_location", "Received WAL position, 0 if not a replica.", received.0);
    page.counter("patroni_xlog_replayed_location", "Replayed WAL position, 0 if not a replica.", replayed.0);
    page.gauge(
        "patroni_xlog_replayed_timestamp",
        "Epoch seconds of the last transaction replayed, 0 if none.",
        epoch(replayed_at),
    );
    page.gauge("patroni_xlog_paused", "1 if replay is paused.", on(paused));
    page.gauge("patroni_postgres_streaming", "1 if WAL is streamed.", on(replication == Some("streaming")));
    page.gauge(
        "patroni_postgres_in_archive_recovery",
        "1 if WAL comes from the archive.",
        on(replication == Some("in archive recovery")),
    );
    page.gauge(
        "patroni_postgres_server_version",
        "Version of PostgreSQL, 0 if it does not answer.",
        answer.map_or(0, |a| a.server_version),
    );
    page.gauge(
        "patroni_cluster_unlocked",
        "1 if nobody holds the leader key.",
        on(view.is_none_or(|v| v.leader.is_none())),
    );
    page.gauge(
        "patroni_failsafe_mode_is_active",
        "1 if the leader stays on the other members' word.",
        on(s.failsafe_active),
    );
    page.gauge(
        "patroni_postgres_timeline",
        "Timeline of this node, 0 if unknown.",
        answer.and_then(|a| a.timeline).map_or(0, |t| t.0),
    );
    page.gauge("patroni_dcs_last_seen", "Epoch seconds when the store last answered.", s.dcs_last_seen);
    page.gauge("patroni_pending_restart", "1 if a setting needs a restart.", on(s.pending_restart.is_some()));
    page.gauge("patroni_is_paused", "1 if automatic failover is off.", on(s.is_paused()));
    page.gauge("patroni_postgres_state", "State as a number.", state_number(s));
    failover(&mut page, s);
    exporters(&mut page, s, role, (received, replayed));
    own(&mut page, s, view, now);
    page.gauge(
        "pgvane_agent_certificate_expiry_timestamp_seconds",
        "Epoch seconds at which the first certificate that the REST API shows expires, 0 without TLS.",
        expires.unwrap_or_default(),
    );
    page.text
}

/// What decides whether this node may lead, and goes on leading without the store.
fn failover(page: &mut Page, s: &ApiSnapshot) {
    let (view, on) = (s.view(), u64::from);
    let settings = view.map(ClusterView::settings).unwrap_or_default();
    page.gauge(
        "patroni_failsafe_mode_enabled",
        "1 if failsafe_mode is on.",
        on(view.is_some() && settings.failsafe_mode),
    );
    page.gauge(
        "patroni_failsafe_member",
        "1 if this node is in the failsafe list.",
        on(view.and_then(|v| v.failsafe.as_ref()).is_some_and(|list| list.0.contains_key(&s.name))),
    );
    page.gauge(
        "patroni_failover_priority",
        "Priority of this node in the leader race, 0 if it may not lead.",
        s.tags.failover_priority().max(0),
    );
}

/// Names that alerts written for exporters of Patroni look for.
fn exporters(page: &mut Page, s: &ApiSnapshot, role: &MemberRole, (received, replayed): (Lsn, Lsn)) {
    let view = s.view();
    let number = match role {
        MemberRole::Primary | MemberRole::Promoted => 1,
        MemberRole::StandbyLeader => 2,
        MemberRole::Replica => 0,
        MemberRole::Demoted | MemberRole::Uninitialized | MemberRole::Other(_) => -1,
    };
    page.gauge(
        "patroni_postgresql_role",
        "Role as a number: 1 primary, 2 leader of a standby cluster, 0 replica, -1 none now.",
        number,
    );
    page.gauge("patroni_postgresql_state", "The same as patroni_postgres_state.", state_number(s));
    let last = view.and_then(|v| v.history.as_ref()).and_then(|h| h.0.last());
    page.gauge(
        "patroni_postgresql_last_failover_timestamp_seconds",
        "Epoch seconds of the last change of the leader, 0 if unknown.",
        epoch(last.and_then(|entry| entry.timestamp.as_deref())),
    );
    // A primary is behind nobody; nor is who cannot tell.
    let behind = |at: Lsn| match s.local.answer.as_ref().map(|a| &a.wal) {
        Some(Wal::Standby { latest_end, .. }) => crate::api::leader_position(s, *latest_end).bytes_since(at),
        Some(Wal::Primary { .. }) | None => 0,
    };
    page.gauge(
        "patroni_postgresql_replication_lag_bytes",
        "Bytes of WAL that the leader has and this replica has not replayed.",
        behind(replayed),
    );
    page.gauge(
        "patroni_postgresql_last_wal_receive_lsn_offset",
        "Bytes of WAL that the leader has and this replica has not received.",
        behind(received),
    );
}

fn own(page: &mut Page, s: &ApiSnapshot, view: Option<&ClusterView>, now: Tick) {
    page.gauge(
        "pgvane_agent_is_leader",
        "1 while this node holds the leader key.",
        u64::from(s.is_leader(now)),
    );
    page.gauge(
        "pgvane_agent_lease_left_seconds",
        "Time until this node must stop writes unless it renews, 0 if it does not lead.",
        s.leader_until.map_or(0.0, |until| now.until(until).as_secs_f64()),
    );
    page.gauge(
        "pgvane_agent_lease_renewal_age_seconds",
        "Time since the last answered renewal of this node's lease was sent, -1 without a lease.",
        s.renewed_at.map_or(-1.0, |at| now.since(at).as_secs_f64()),
    );
    page.gauge("pgvane_agent_ttl_seconds", "Lease time in force.", s.ttl.as_secs_f64());
    page.gauge(
        "pgvane_agent_epoch",
        "Create revision of the leader key, 0 if there is none.",
        view.and_then(|v| v.leader.as_ref()).map_or(0, |l| l.epoch.0),
    );
    page.gauge(
        "pgvane_agent_store_up",
        "1 if the store answers.",
        u64::from(matches!(s.observation.contact, Contact::Up) && view.is_some()),
    );
    page.gauge(
        "pgvane_agent_store_full",
        "1 while the store refuses writes because its database is full: nobody can take over.",
        u64::from(s.operations.store_is_full),
    );
    page.counter(
        "pgvane_agent_store_refusals_total",
        "Member records that the store refused because its database is full.",
        s.operations.store_refusals,
    );
    page.gauge(
        "pgvane_agent_view_age_seconds",
        "Time since the store last confirmed what this node knows.",
        now.since(s.observation.confirmed_at).as_secs_f64(),
    );
    page.counter("pgvane_agent_reloads_total", "Settings read again and taken.", s.operations.reloads.taken);
    page.counter(
        "pgvane_agent_reload_failures_total",
        "Settings read again and not taken: something in them is wrong.",
        s.operations.reloads.failed,
    );
    page.gauge(
        "pgvane_agent_guard_armed",
        "1 while the guard holds a deadline for PostgreSQL.",
        u64::from(s.operations.guard_armed),
    );
    page.counter(
        "pgvane_agent_renewals_late_total",
        "Times that the lease was not renewed in one and a half renewal intervals.",
        s.operations.renewals_late,
    );
    page.counter("pgvane_agent_loop_turns_total", "Turns of the decision loop.", s.turns);
    page.head("pgvane_agent_decisions_total", "Decisions taken, by action.", "counter");
    for (action, count) in &s.decisions {
        let labels = format!("{},action=\"{}\"", page.labels, escape(action));
        page.sample("pgvane_agent_decisions_total", &labels, count);
    }
}

struct Page {
    text: String,
    labels: String,
}

impl Page {
    fn gauge(&mut self, name: &str, help: &str, value: impl std::fmt::Display) {
        self.one(name, help, "gauge", value);
    }

    fn counter(&mut self, name: &str, help: &str, value: impl std::fmt::Display) {
        self.one(name, help, "counter", value);
    }

    fn one(&mut self, name: &str, help: &str, kind: &str, value: impl std::fmt::Display) {
        self.head(name, help, kind);
        let labels = self.labels.clone();
        self.sample(name, &labels, value);
    }

    fn head(&mut self, name: &str, help: &str, kind: &str) {
        // Writing to a String cannot fail.
        let _ = write!(self.text, "# HELP {name} {help}\n# TYPE {name} {kind}\n");
    }

    fn sample(&mut self, name: &str, labels: &str, value: impl std::fmt::Display) {
        let _ = writeln!(self.text, "{name}{{{labels}}} {value}");
    }
}

fn labels(s: &ApiSnapshot) -> String {
    format!("scope=\"{}\",name=\"{}\"", escape(&s.scope), escape(s.name.as_str()))
}

fn escape(label: &str) -> String {
    label.replace('\\', "\\\\").replace('"', "\\\"").replace('\n', "\\n")
}

fn version_digits() -> String {
    PATRONI_VERSION.split('.').map(|part| format!("{part:0>2}")).collect()
}

fn state_number(s: &ApiSnapshot) -> i8 {
    if s.local.answer.is_none() && s.local.state == MemberState::Running {
        -1
    } else {
        s.local.state.number()
    }
}

fn epoch(text: Option<&str>) -> f64 {
    text.and_then(|t| t.parse::<Timestamp>().ok()).map_or(0.0, |t| t.as_duration().as_secs_f64())
}

#[cfg(test)]
#[path = "metrics_tests.rs"]
mod tests;
