//! What the loop publishes for the API, and what the API asks of the loop. Plain data.

use std::collections::BTreeMap;
use std::time::Duration;

use pgvane_cluster::clock::Tick;
use pgvane_cluster::follow::Observation;
use pgvane_cluster::ids::{Lsn, NodeName, Timeline};
use pgvane_cluster::records::{MemberRole, MemberState, Tags};
use pgvane_cluster::view::ClusterView;
use serde::{Deserialize, Serialize};
use serde_json::Value;
use tokio::sync::oneshot;

use crate::decide::Reason;
use crate::decide::consent::Refusal;
use crate::decide::restart::Filters;

/// Everything the API answers from: whole, replaced at every turn of the loop.
#[derive(Clone, Debug)]
pub struct ApiSnapshot {
    /// This node.
    pub name: NodeName,
    /// The cluster.
    pub scope: String,
    /// This node's effective tags.
    pub tags: Tags,
    /// The store's view and how fresh it is.
    pub observation: Observation,
    /// Until when this node holds the leader key (or is vouched for), by its own clock; `None`: it does not.
    pub leader_until: Option<Tick>,
    /// When the last renewal of this node's lease that was answered was sent; `None`: it has no lease.
    pub renewed_at: Option<Tick>,
    /// The local PostgreSQL.
    pub local: LocalPostgres,
    /// Whether leadership rests on the other members' word, the store being away.
    pub failsafe_active: bool,
    /// Settings that need a restart: name to `{old_value, new_value}`; `None` when none does.
    pub pending_restart: Option<Value>,
    /// What the loop does beside leading and following.
    pub operations: Operations,
    /// Whether a watchdog is required here and cannot be used.
    pub watchdog_failed: bool,
    /// When the loop last turned.
    pub turned_at: Tick,
    /// The lease time in force.
    pub ttl: Duration,
    /// Seconds since 1970 when the store last answered.
    pub dcs_last_seen: i64,
    /// How often the loop turned, and how often it did what: decision label to count.
    pub turns: u64,
    /// Decisions taken since the start, by label.
    pub decisions: BTreeMap<&'static str, u64>,
}

/// What the loop does beside leading and following.
#[derive(Clone, PartialEq, Debug, Default)]
pub struct Operations {
    /// The last step that was decided, and why.
    pub decided: Option<(&'static str, Reason)>,
    /// The restart for later, as the member record has it.
    pub scheduled_restart: Option<Value>,
    /// Whether the guard holds a deadline.
    pub guard_armed: bool,
    /// How often the lease was renewed later than it should.
    pub renewals_late: u64,
    /// Whether the store takes no writes.
    pub store_is_full: bool,
    /// Member records that it refused for that.
    pub store_refusals: u64,
    /// How often the settings were read again, and how often they were not taken.
    pub reloads: crate::reload::Counts,
}

/// The local PostgreSQL as the loop knows it.
#[derive(Clone, PartialEq, Debug)]
pub struct LocalPostgres {
    /// What it is doing.
    pub state: MemberState,
    /// What it is, when it cannot tell by itself.
    pub role: MemberRole,
    /// Its last answer, while it is not older than its process; `None`: it did not answer.
    pub answer: Option<ServerAnswer>,
    /// The system identifier of the data directory.
    pub system_identifier: Option<String>,
    /// When the server was last asked; `None` while it does not run.
    pub asked_at: Option<Tick>,
}

/// What the server said of itself.
#[derive(Clone, PartialEq, Debug)]
pub struct ServerAnswer {
    /// `server_version_num`, such as 150006.
    pub server_version: u32,
    /// `pg_postmaster_start_time()` as `YYYY-MM-DD HH:MM:SS.ffffff+00:00`.
    pub postmaster_start_time: Option<String>,
    /// The timeline it is on.
    pub timeline: Option<Timeline>,
    /// Primary or standby, with what only that one has.
    pub wal: Wal,
    /// Its walsenders.
    pub replication: Vec<Walsender>,
}

/// Where the WAL stands.
#[derive(Clone, PartialEq, Debug)]
pub enum Wal {
    /// Not in recovery.
    Primary {
        /// Flushed.
        location: Lsn,
    },
    /// In recovery.
    Standby {
        /// Received and flushed.
        received: Lsn,
        /// Replayed.
        replayed: Lsn,
        /// Commit time of the last transaction replayed, in PostgreSQL's own form.
        replayed_timestamp: Option<String>,
        /// Whether replay is paused.
        paused: bool,
        /// `streaming`, `in archive recovery`, or neither.
        replication_state: Option<String>,
        /// The end of the upstream's WAL as it last told.
        latest_end: Option<Lsn>,
    },
}

/// One line of `pg_stat_replication`.
#[derive(Clone, PartialEq, Eq, Debug, Serialize)]
pub struct Walsender {
    /// The role it logged in as.
    pub usename: Option<String>,
    /// The member's name.
    pub application_name: String,
    /// From where.
    pub client_addr: Option<String>,
    /// `streaming`, `catchup`...
    pub state: Option<String>,
    /// `async`, `sync`, `quorum`, `potential`.
    pub sync_state: Option<String>,
    /// Its place in `synchronous_standby_names`.
    pub sync_priority: Option<i32>,
}

impl ApiSnapshot {
    /// The newest view of the cluster, however old.
    pub fn view(&self) -> Option<&ClusterView> {
        self.observation.view.as_deref()
    }

    /// Whether this node holds the leader key at `now`, by its own clock.
    pub fn is_leader(&self, now: Tick) -> bool {
        self.leader_until.is_some_and(|until| now < until)
    }

    /// The view, while it is not older than a lease lives; what an older one says of others counts no more.
    pub fn fresh_view(&self, now: Tick) -> Option<&ClusterView> {
        self.view().filter(|_| now.since(self.observation.confirmed_at) < self.ttl)
    }

    /// Whether the operator suspended automatic failover.
    pub fn is_paused(&self) -> bool {
        self.view().is_some_and(|v| v.settings().pause)
    }
}

impl LocalPostgres {
    /// What it is: by its own answer where it gave one.
    pub fn effective_role(&self) -> &MemberRole {
        match (&self.answer, &self.role) {
            (Some(ServerAnswer { wal: Wal::Primary { .. }, .. }), _) => &MemberRole::Primary,
            (Some(ServerAnswer { wal: Wal::Standby { .. }, .. }), MemberRole::StandbyLeader) => &self.role,
            (Some(ServerAnswer { wal: Wal::Standby { .. }, .. }), _) => &MemberRole::Replica,
            (None, role) => role,
        }
    }
}

/// What the API asks of the loop.
#[derive(Debug)]
pub enum Command {
    /// A leader without a store asks this node to vouch for it.
    Failsafe {
        /// Who asks.
        ask: FailsafeAsk,
        /// Where the answer goes; dropped unanswered counts as no.
        reply: oneshot::Sender<FailsafeAnswer>,
    },
    /// Read the settings file again.
    Reload,
    /// Something changed in the store that is worth an early look.
    Wake,
    /// Ask the server at once: somebody compares positions.
    Refresh,
    /// Restart PostgreSQL, now or later.
    Restart {
        /// What is wanted.
        ask: RestartAsk,
        /// Where the end is told.
        reply: oneshot::Sender<RestartAnswer>,
    },
    /// Forget the restart for later.
    Unschedule {
        /// Whether there was one.
        reply: oneshot::Sender<bool>,
    },
    /// Have this member follow its leader.
    Rewind {
        /// Where the end is told, in words for the operator; dropped: the agent ends.
        reply: oneshot::Sender<Result<String, String>>,
    },
    /// Make this replica anew.
    Reinitialize {
        /// Also while something else is done with its server.
        force: bool,
        /// From the leader and from nobody else.
        from_leader: bool,
        /// Whether it begins; the error is the text for the operator.
        reply: oneshot::Sender<Result<(), String>>,
    },
}

/// The body of POST `/restart` (contract 6.1), checked.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct RestartAsk {
    /// When: ISO 8601 with zone; now where absent.
    pub schedule: Option<String>,
    /// Which servers are meant.
    pub filters: Filters,
    /// Seconds that the server may take to come up.
    pub timeout: Option<u64>,
}

/// What the loop says to [`RestartAsk`].
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum RestartAnswer {
    /// The server runs again.
    Restarted,
    /// It will be restarted.
    Scheduled,
    /// Another restart is scheduled.
    AlreadyScheduled,
    /// It was not, or not in time; why.
    NotDone(String),
}

/// The body of POST `/failsafe` (contract 6.1).
#[derive(Clone, PartialEq, Debug, Serialize, Deserialize)]
pub struct FailsafeAsk {
    /// The leader's name.
    pub name: NodeName,
    /// Its PostgreSQL.
    pub conn_url: String,
    /// Its REST API.
    pub api_url: String,
    /// Slot name to position, for replicas that keep slots.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub slots: Option<BTreeMap<String, Lsn>>,
    /// For how long it will count on the promise; Patroni neither sends nor reads it. A lease time that was just
    /// changed may not have reached both.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub ttl_ms: Option<u64>,
}

impl FailsafeAsk {
    /// For how long a member whose own lease time is `own` has to promise.
    pub fn promise_for(&self, own: Duration) -> Duration {
        own.max(Duration::from_millis(self.ttl_ms.unwrap_or(0)))
    }
}

/// What the loop says to [`FailsafeAsk`]. `Ok`: this node treats the asker as leader for [`FailsafeAsk::promise_for`] from
/// when the question arrived; its own position.
pub type FailsafeAnswer = Result<Lsn, Refusal>;
