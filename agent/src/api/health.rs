//! Health checks: which answer a path gets from one snapshot (contract 6.1). Pure.

use std::collections::HashMap;
use std::time::Duration;

use pgvane_cluster::clock::Tick;
use pgvane_cluster::ids::Lsn;
use pgvane_cluster::records::{MemberRole, MemberState};
use pgvane_cluster::units;
use pgvane_cluster::view::ClusterView;
use serde_json::Value;

use super::body::listed;
use super::snapshot::{ApiSnapshot, Wal};

/// The arguments of a request.
pub(super) type Query = HashMap<String, String>;

/// Whether `path` is healthy at `now`. Unknown paths never are.
pub(super) fn is_healthy(path: &str, query: &Query, s: &ApiSnapshot, now: Tick) -> bool {
    let check = Check { s, query, now };
    let has = |word: &str| path.contains(word);
    let healthy = match path {
        _ if has("standby_leader") || has("standby-leader") => check.standby_leader(),
        _ if has("leader") => check.holds_lock(),
        "/" => check.primary(),
        _ if has("master") || has("primary") || has("read-write") => check.primary(),
        _ if has("replica") => check.replica(),
        _ if has("read-only") && !has("sync") && !has("quorum") => check.any_leader() || check.replica(),
        _ if has("health") => s.local.state == MemberState::Running,
        "/sync" | "/synchronous" => check.replica_listed(Some("sync")),
        "/quorum" => check.replica_listed(Some("quorum")),
        "/async" | "/asynchronous" => check.replica_listed(None),
        "/read-only-sync" | "/read-only-synchronous" => {
            check.any_leader_known() || check.replica_listed(Some("sync"))
        }
        "/read-only-quorum" => check.any_leader_known() || check.replica_listed(Some("quorum")),
        _ => false,
    };
    // Who asks for the leader gets it whatever its tags.
    let of_leader = path == "/" || ["leader", "master", "primary", "read-write"].into_iter().any(has);
    healthy && (of_leader || check.tags_fit())
}

/// Whether the agent's loop turns as it should.
pub(super) fn is_live(s: &ApiSnapshot, now: Tick) -> bool {
    let role = s.local.effective_role();
    let primary = *role == MemberRole::Primary && s.local.state == MemberState::Running;
    let allowed = if primary { s.ttl } else { s.ttl * 2 };
    s.is_paused() || now.since(s.turned_at) < allowed + loop_wait(s)
}

fn loop_wait(s: &ApiSnapshot) -> Duration {
    s.view().map(|v| v.settings().loop_wait).unwrap_or_default()
}

/// Whether the node does what is asked of it: leads, or streams closely enough.
pub(super) fn is_ready(query: &Query, s: &ApiSnapshot, now: Tick) -> bool {
    if s.is_leader(now) {
        return true;
    }
    let Some(Wal::Standby { received, replayed, replication_state, latest_end, .. }) =
        s.local.answer.as_ref().map(|a| &a.wal)
    else {
        return false;
    };
    let known_end = s.fresh_view(now).is_some() || s.failsafe_active || latest_end.is_some();
    if s.local.state != MemberState::Running
        || replication_state.as_deref() != Some("streaming")
        || !known_end
    {
        return false;
    }
    let position = if query.get("mode").is_some_and(|m| m == "write") { received } else { replayed };
    let allowed = match query.get("lag") {
        Some(text) => units::parse_size(text),
        None => Some(s.view().map(ClusterView::settings).unwrap_or_default().maximum_lag_on_failover),
    };
    allowed.is_some_and(|allowed| leader_position(s, *latest_end).bytes_since(*position) <= allowed)
}

/// How far the leader's WAL has come: by what it wrote to the store, or by what the upstream told.
pub(crate) fn leader_position(s: &ApiSnapshot, latest_end: Option<Lsn>) -> Lsn {
    let optime = s.view().and_then(|v| v.status.as_ref()).map_or(Lsn(0), |status| status.optime);
    optime.max(latest_end.unwrap_or_default())
}

struct Check<'a> {
    s: &'a ApiSnapshot,
    query: &'a Query,
    now: Tick,
}

impl Check<'_> {
    /// Whether this node leads: by its own clock; in pause, without a word of the store, by what it runs as.
    fn holds_lock(&self) -> bool {
        let role = self.s.local.effective_role();
        let alone = self.s.is_paused() && self.s.fresh_view(self.now).is_none();
        let leads = matches!(role, MemberRole::Primary | MemberRole::StandbyLeader);
        self.s.is_leader(self.now) || alone && leads
    }

    fn in_standby_cluster(&self) -> bool {
        self.s.view().is_some_and(|v| v.settings().standby_cluster.is_some())
    }

    fn primary(&self) -> bool {
        self.holds_lock() && !self.in_standby_cluster()
    }

    fn standby_leader(&self) -> bool {
        let role = self.s.local.effective_role();
        self.holds_lock()
            && self.in_standby_cluster()
            && matches!(role, MemberRole::Replica | MemberRole::StandbyLeader)
    }

    fn any_leader(&self) -> bool {
        self.primary() || self.standby_leader()
    }

    /// The same for those checks that need to know the cluster.
    fn any_leader_known(&self) -> bool {
        self.s.fresh_view(self.now).is_some() && self.any_leader()
    }

    /// A running replica that may take reads, close enough and tagged as asked.
    fn replica(&self) -> bool {
        let s = self.s;
        *s.local.effective_role() == MemberRole::Replica
            && s.local.state == MemberState::Running
            && !s.tags.no_load_balance()
            && self.lag_fits()
            && self.state_fits()
    }

    fn lag_fits(&self) -> bool {
        let Some(text) = self.query.get("lag") else { return true };
        let Some(Wal::Standby { replayed, latest_end, .. }) = self.s.local.answer.as_ref().map(|a| &a.wal)
        else {
            return false;
        };
        let lag = leader_position(self.s, *latest_end).bytes_since(*replayed);
        units::parse_size(text).is_some_and(|allowed| lag <= allowed)
    }

    fn state_fits(&self) -> bool {
        let Some(wanted) = self.query.get("replication_state") else { return true };
        match self.s.local.answer.as_ref().map(|a| &a.wal) {
            Some(Wal::Standby { replication_state, .. }) => replication_state.as_ref() == Some(wanted),
            _ => false,
        }
    }

    fn tags_fit(&self) -> bool {
        let wanted = self.query.iter().filter_map(|(k, v)| Some((k.strip_prefix("tag_")?, v)));
        wanted.into_iter().all(|(tag, value)| match self.s.tags.0.get(tag) {
            Some(Value::String(text)) => text == value,
            Some(other) => other.to_string().eq_ignore_ascii_case(value),
            None => false,
        })
    }

    /// Whether this node is a replica that may take reads and stands in `sync` as `wanted`: `sync`, `quorum`,
    /// or `None` for those commits do not wait for. A view too old to tell says no.
    fn replica_listed(&self, wanted: Option<&str>) -> bool {
        let view = self.s.fresh_view(self.now).filter(|_| self.replica());
        view.is_some_and(|view| listed(view, &self.s.name) == wanted)
    }
}

#[cfg(test)]
#[path = "health_tests.rs"]
mod tests;
