//! Everything known of one cluster at one revision.

use std::collections::BTreeMap;

use serde_json::Value;

use crate::changes::{Changes, Farewell};
use crate::ids::{Epoch, LeaseId, NodeName, Revision, Timeline};
use crate::records::{FailoverRecord, FailsafeRecord, HistoryRecord, MemberRecord, StatusRecord, SyncRecord};
use crate::reigns::PublishedReigns;
use crate::settings::ClusterSettings;

/// The leader key: who leads, since which revision, under which lease.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct LeaderKey {
    /// The leader's name.
    pub name: NodeName,
    /// The key's create revision: one reign.
    pub epoch: Epoch,
    /// The lease the key hangs on; `None` for a key written without one.
    pub lease: Option<LeaseId>,
}

/// A member and the lease its record hangs on.
#[derive(Clone, PartialEq, Debug)]
pub struct Member {
    /// What it says of itself.
    pub record: MemberRecord,
    /// The lease of the record.
    pub lease: Option<LeaseId>,
}

/// A value with the revision to compare when it is replaced.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Versioned<T> {
    /// The value.
    pub value: T,
    /// The key's modification revision.
    pub mod_revision: Revision,
}

/// The dynamic configuration as it stands in the store and as it was understood.
#[derive(Clone, PartialEq, Debug)]
pub struct ConfigDocument {
    /// The document.
    pub json: Value,
    /// Its typed reading.
    pub settings: ClusterSettings,
}

/// Why nobody leads, where no leader key says who does: the members themselves were asked.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Unled {
    /// Nobody says that it leads.
    NoClaim,
    /// Several do, on the same timeline.
    Disputed(Vec<NodeName>, Timeline),
    /// One does on an older timeline than one that was seen: it missed a promotion.
    Outdated {
        /// Who.
        claimant: NodeName,
        /// On which timeline.
        timeline: Timeline,
        /// The newest one seen.
        newest: Timeline,
    },
    /// They are servers of different clusters: their system identifiers differ.
    Strangers(Vec<(NodeName, String)>),
}

/// One cluster at one revision. Absent keys are `None`; unreadable ones are left out and named in
/// [`ClusterView::malformed`].
#[derive(Clone, PartialEq, Debug, Default)]
pub struct ClusterView {
    /// The store revision the view is complete up to.
    pub revision: Revision,
    /// The era of the store that the revision counts in ([`crate::store::Snapshot::era`]).
    pub era: u64,
    /// `Some("")` while a bootstrap runs, then the system identifier.
    pub initialize: Option<String>,
    /// When `initialize` was last written.
    pub initialize_revision: Option<Revision>,
    /// Who claims to have created `initialize`.
    pub bootstrap: Option<Versioned<NodeName>>,
    /// The dynamic configuration; the last readable one when the key was overwritten with garbage.
    pub config: Option<Versioned<ConfigDocument>>,
    /// Who leads.
    pub leader: Option<LeaderKey>,
    /// Why nobody does, where there is no leader key to say so.
    pub unled: Option<Unled>,
    /// The newest reign seen in this era of the store; the leader's never is an older one.
    pub newest_epoch: Epoch,
    /// All members with a readable record.
    pub members: BTreeMap<NodeName, Member>,
    /// How far the leader's WAL has come: what the key `status` says; only where that key does not exist, what
    /// `optime/leader` says.
    pub status: Option<StatusRecord>,
    /// What `optime/leader` says, the key of leaders of old.
    pub optime_leader: Option<StatusRecord>,
    /// Whether the key `status` exists, readable or not.
    pub has_status_key: bool,
    /// The timelines so far; `None` is unknown, not "none ended".
    pub history: Option<HistoryRecord>,
    /// An operator's pending request; empty requests are `None`.
    pub failover: Option<Versioned<FailoverRecord>>,
    /// The revision of the failover key, also when it holds no request.
    pub failover_revision: Option<Revision>,
    /// Who must confirm a commit.
    pub sync: Option<Versioned<SyncRecord>>,
    /// Who must vouch for the leader.
    pub failsafe: Option<FailsafeRecord>,
    /// Who began the timelines of the leader that wrote it last.
    pub reigns: Option<PublishedReigns>,
    /// Why the last leader that said so gave leadership up.
    pub farewell: Option<Farewell>,
    /// The changes of leader, as far as our agents know of them.
    pub changes: Option<Changes>,
    /// Keys whose values could not be read, with the reason.
    pub malformed: BTreeMap<String, String>,
}

impl ClusterView {
    /// The dynamic configuration, or the defaults where there is none.
    pub fn settings(&self) -> ClusterSettings {
        self.config.as_ref().map(|c| c.value.settings.clone()).unwrap_or_default()
    }

    /// The leader's own record, where it has one.
    pub fn leader_member(&self) -> Option<&Member> {
        self.members.get(&self.leader.as_ref()?.name)
    }

    /// The system identifier, once bootstrap has finished.
    pub fn system_identifier(&self) -> Option<&str> {
        self.initialize.as_deref().filter(|s| !s.is_empty())
    }

    /// Who may bootstrap, and the revision at which it won that right: the claim was written together with the
    /// empty `initialize` that still stands. A claim of another time says nothing, for Patroni leaves it behind.
    pub fn bootstrapper(&self) -> Option<&Versioned<NodeName>> {
        let empty = self.initialize.as_deref() == Some("");
        let claim = self.bootstrap.as_ref().filter(|_| empty)?;
        (self.initialize_revision == Some(claim.mod_revision)).then_some(claim)
    }

    /// The timeline the cluster is on, from `history`; `None` when unknown.
    pub fn cluster_timeline(&self) -> Option<Timeline> {
        self.history.as_ref().map(HistoryRecord::cluster_timeline)
    }

    /// Whether a Patroni daemon is a member (its record lacks our extra field).
    pub fn has_patroni_member(&self) -> bool {
        self.members.values().any(|m| !m.record.is_native())
    }

    /// Whether an operator wants the current leader replaced now: a request without a schedule.
    pub fn switchover_is_due(&self) -> bool {
        self.failover.as_ref().is_some_and(|f| f.value.scheduled_at.is_none())
    }
}
