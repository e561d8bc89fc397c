//! What a decision is made from: one snapshot of the store, of the local PostgreSQL, of the peers and of time.
//!
//! Plain data. Absence is spelled: "the store does not answer" and "the store says nobody leads" are different
//! variants everywhere.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use pgvane_cluster::clock::Tick;
use pgvane_cluster::ids::{Epoch, LeaseId, Lsn, NodeName, Timeline};
use pgvane_cluster::records::Tags;
use pgvane_cluster::settings::ClusterSettings;
use pgvane_cluster::view::{ClusterView, LeaderKey};

use super::lease::Authority;
use super::memory::Memory;
use super::sync::Replication;
use crate::timing::Timing;

/// Everything one decision may look at.
#[derive(Clone, Debug)]
pub struct World {
    /// The instant of the decision.
    pub now: Tick,
    /// This node.
    pub me: NodeName,
    /// What the store says.
    pub dcs: Dcs,
    /// This agent's lease.
    pub lease: OwnLease,
    /// What PostgreSQL here is and does.
    pub local: Local,
    /// The last round of questions to the other members.
    pub peers: Peers,
    /// What is remembered between decisions.
    pub memory: Memory,
    /// The dynamic configuration in force: the last one read, also while the store is away.
    pub settings: ClusterSettings,
    /// This node's tags.
    pub tags: Tags,
    /// The deadlines in force.
    pub timing: Timing,
    /// What this node can do besides what its data allow.
    pub abilities: Abilities,
}

/// What a node can do, and cannot, besides what its data allow.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct Abilities {
    /// Whether this node waits for another to begin the cluster (contract 8.1).
    pub begins_nothing: bool,
    /// Whether a replica can be made here without anybody to copy from (contract 8.2, `no_leader`).
    pub clones_alone: bool,
    /// Whether a watchdog is required and cannot be used.
    pub watchdog_failed: bool,
}

/// What the store says.
#[derive(Clone, Debug)]
pub enum Dcs {
    /// It does not answer. `last` is the view before it went away; nothing may be concluded from it but what
    /// a live lease covers.
    Unknown {
        /// Since when.
        since: Tick,
        /// The last view.
        last: Option<Arc<ClusterView>>,
    },
    /// It answers, and this is the newest view.
    Known(Arc<ClusterView>),
}

impl Dcs {
    /// The newest view, however old.
    pub fn last_view(&self) -> Option<&ClusterView> {
        match self {
            Dcs::Unknown { last, .. } => last.as_deref(),
            Dcs::Known(view) => Some(view),
        }
    }
}

/// This agent's lease, as far as its answers prove.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum OwnLease {
    /// None yet, or the store said it is gone.
    None,
    /// Granted or renewed.
    Held {
        /// The lease.
        id: LeaseId,
        /// When the last answered request was *sent*.
        sent_at: Tick,
        /// The time it was granted for.
        ttl: Duration,
    },
}

/// The local PostgreSQL.
#[derive(Clone, PartialEq, Debug)]
pub struct Local {
    /// The data directory.
    pub data: DataDir,
    /// The server process.
    pub process: Process,
    /// Whether it may accept writes, by the last proof either way.
    pub role: LocalRole,
    /// The last answer of the server.
    pub sql: Option<Sql>,
    /// Effects still running, by what they occupy.
    pub ongoing: BTreeMap<Slot, Ongoing>,
    /// The guard process.
    pub guard: Guard,
}

/// The data directory.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum DataDir {
    /// Missing or empty.
    Absent,
    /// Holds a cluster.
    Present(Control),
    /// Left unusable by a rewind, clone or bootstrap that died half way: it can only be made anew.
    Spoiled,
    /// Cannot be read; the text says why.
    Unreadable(String),
}

/// What pg_control says, read when no server runs or when it started.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Control {
    /// The system identifier, decimal.
    pub system_identifier: String,
    /// Whether the server was shut down cleanly.
    pub clean: bool,
    /// Whether the directory is set up as a standby (`standby.signal`).
    pub standby: bool,
    /// Timeline of the last checkpoint.
    pub timeline: Timeline,
    /// Position of the last checkpoint; for a clean shutdown the shutdown checkpoint itself.
    pub checkpoint: Lsn,
}

/// The server process.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Process {
    /// No process of the data directory runs.
    Absent,
    /// Started; does not accept connections yet.
    Starting {
        /// Since when.
        since: Tick,
    },
    /// Accepts connections.
    Running,
    /// Was told to stop.
    Stopping,
}

/// Whether the local server may accept writes.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum LocalRole {
    /// It is a primary, was started as one, or was told to promote.
    Primary,
    /// It answered that it is in recovery, or was started as a standby, and nobody told it to promote.
    Standby,
    /// Not known: counts as a primary wherever safety is concerned.
    Unknown,
}

/// The last answer of the server.
#[derive(Clone, PartialEq, Debug)]
pub struct Sql {
    /// When it was asked.
    pub asked_at: Tick,
    /// Whether it is in recovery.
    pub in_recovery: bool,
    /// Its timeline.
    pub timeline: Timeline,
    /// Primary: flushed WAL; standby: the larger of received and replayed.
    pub position: Lsn,
    /// Standby: received WAL.
    pub received: Option<Lsn>,
    /// Standby: replayed WAL.
    pub replayed: Option<Lsn>,
    /// Primary: the timeline of its last checkpoint; below `timeline` it is no safe rewind source yet.
    pub checkpointed: Option<Timeline>,
    /// Standby: whether it streams.
    pub streaming: bool,
    /// Standby: the member its primary_conninfo points to, as host and port.
    pub upstream: Option<(String, u16)>,
    /// What it says of synchronous replication.
    pub replication: Replication,
}

/// What an effect occupies: at most one per slot runs.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub enum Slot {
    /// The server and its data directory.
    Postgres,
    /// A write to the store.
    Store,
    /// Questions to the other members.
    Peers,
    /// The failsafe question.
    Failsafe,
    /// Arming or disarming the guard.
    Guard,
    /// A write of `sync`.
    SyncKey,
    /// A change of `synchronous_standby_names`.
    StandbyNames,
}

/// An effect still running.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Ongoing {
    /// What it does.
    pub what: &'static str,
    /// Since when.
    pub since: Tick,
}

/// The guard process, as the agent knows it.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Guard {
    /// Not connected.
    Absent,
    /// Connected, holds no deadline.
    Idle,
    /// Holds a deadline for a server or a lease that is not ours any more, or acted on one.
    Outdated,
    /// Holds the deadline of this reign.
    Armed {
        /// The reign.
        epoch: Epoch,
    },
}

/// The last round of questions to the other members.
#[derive(Clone, PartialEq, Debug, Default)]
pub struct Peers {
    /// When the round began; [`Tick::ZERO`] when there was none.
    pub asked_at: Tick,
    /// Each member's answer.
    pub answers: BTreeMap<NodeName, Peer>,
}

/// One member's answer.
#[derive(Clone, PartialEq, Debug)]
pub enum Peer {
    /// None in time.
    Unreachable,
    /// It answered.
    Answered {
        /// Whether it says it is a primary.
        is_primary: bool,
        /// Whether its PostgreSQL runs.
        running: bool,
        /// Its timeline, where it told.
        timeline: Option<Timeline>,
        /// Its position.
        position: Lsn,
        /// Whether it read its position after it was asked. An older one may lack what the member has confirmed since.
        fresh: bool,
        /// Its tags.
        tags: Tags,
    },
}

/// A server to follow or to clone from.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Upstream {
    /// Its name.
    pub name: NodeName,
    /// Its host.
    pub host: String,
    /// Its port.
    pub port: u16,
}

/// Who holds the leader key, as the newest view says.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Holder<'a> {
    /// Nobody.
    Nobody,
    /// This node, under the lease this agent holds.
    Me(&'a LeaderKey),
    /// This node's name, under a lease this agent does not hold.
    MyName(&'a LeaderKey),
    /// Another member.
    Other(&'a LeaderKey),
}

impl World {
    /// Who holds the leader key in `view`.
    pub fn holder<'a>(&self, view: &'a ClusterView) -> Holder<'a> {
        match &view.leader {
            None => Holder::Nobody,
            Some(key) if key.name != self.me => Holder::Other(key),
            Some(key) => match self.lease {
                OwnLease::Held { id, .. } if key.lease == Some(id) => Holder::Me(key),
                OwnLease::Held { .. } | OwnLease::None => Holder::MyName(key),
            },
        }
    }

    /// Until when this node may lead, and by which right.
    pub fn authority(&self) -> Option<Authority> {
        Authority::of(self)
    }

    /// Whether the local server may accept writes now.
    pub fn may_write(&self) -> bool {
        match (self.local.process, self.local.role) {
            (Process::Absent, _) | (_, LocalRole::Standby) => false,
            (_, LocalRole::Primary | LocalRole::Unknown) => true,
        }
    }

    /// Whether `slot` is free for a new effect.
    pub fn free(&self, slot: Slot) -> bool {
        !self.local.ongoing.contains_key(&slot)
    }

    /// The member named `name` as a server to follow, where its record tells an address.
    pub fn upstream(&self, name: &NodeName) -> Option<Upstream> {
        let (host, port) = self.dcs.last_view()?.members.get(name)?.record.postgres_address()?;
        Some(Upstream { name: name.clone(), host, port })
    }
}
