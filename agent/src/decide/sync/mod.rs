//! Synchronous replication (contract 8.8): who confirms commits, who may lead next, and the way from one answer to
//! the other. Keeps S2: with synchronous mode on, no acknowledged commit is missing from the next primary.
//!
//! `machine` has the argument and the steps, `choose` the wish, `names` the value of the server's setting; `upkeep`
//! turns them into the decisions of a leader, `succession` puts all in order before a server accepts writes,
//! `race` says who may race, and `duty` what a standby does about it.

pub mod choose;
mod duty;
pub mod machine;
pub mod names;
mod race;
mod succession;
mod upkeep;

use pgvane_cluster::clock::Tick;
use pgvane_cluster::ids::{Epoch, Lsn, Revision};
use pgvane_cluster::records::SyncRecord;
use pgvane_cluster::settings::{ClusterSettings, SynchronousMode};
use pgvane_cluster::view::{ClusterView, Versioned};

pub use choose::Replication;
pub use duty::shown_tags;
pub(super) use duty::{leave, stand_by};
pub use race::raced_on;
pub(super) use race::{Rule, heir};
pub use succession::names_to_start;
pub(super) use succession::{before_serving, is_in_order};
pub use upkeep::is_old;
pub(super) use upkeep::keep;

/// What a write of `sync` replaces.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Over {
    /// Nothing: the key does not exist.
    Nothing,
    /// The value of this revision.
    Revision(Revision),
    /// Something that cannot be read.
    Garbage,
}

/// What is remembered of the writes of this agent.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct Memory {
    /// The revision that our last write of `sync` made, and the reign it was written in. It proves that no earlier
    /// write of ours can still happen; gone while one has no answer.
    pub settled: Option<(Epoch, Revision)>,
    /// The value that the server was last seen to have in force; gone while a change of it has not succeeded.
    pub names: Option<InForce>,
    /// When the last change of the server's value ended; answers from before tell nothing of it.
    pub names_at: Option<Tick>,
    /// The reign in which commits were seen to wait, as long as they do.
    pub waits: Option<Epoch>,
    /// When a server was last started as a primary.
    pub started_at: Option<Tick>,
    /// Since when this agent has wanted to end.
    pub leaving_since: Option<Tick>,
}

/// A value of `synchronous_standby_names` that all of the server has in force.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct InForce {
    /// The value; `None`: that of the parameters.
    pub names: Option<String>,
    /// The reign, and where the WAL ended when it was in force; `None` on a standby.
    pub noted: Option<(Epoch, Lsn)>,
}

fn waits(names: Option<&str>) -> bool {
    names.is_some_and(|names| names::StandbyNames::parse(names).waits())
}

impl Memory {
    /// The server's value is about to become `names`: whether it has or not, a process of the server that has read
    /// a value that waits for nobody goes on by it until it was seen to have read another.
    pub(super) fn names_change(&mut self, names: Option<&str>) {
        self.names = None;
        self.waits = self.waits.filter(|_| waits(names));
    }

    /// The server has `value` in force.
    pub(super) fn names_are(&mut self, now: Tick, value: &InForce) {
        let waits = waits(value.names.as_deref());
        self.waits = value.noted.map(|(epoch, _)| epoch).filter(|_| waits);
        self.names_at = Some(now);
        self.names = Some(value.clone());
    }
}

/// The mode in force. A standby cluster has none: its leader acknowledges nothing.
fn mode(settings: &ClusterSettings) -> SynchronousMode {
    if settings.standby_cluster.is_some() { SynchronousMode::Off } else { settings.synchronous_mode }
}

/// The record, where it counts.
fn record(view: &ClusterView) -> Option<&Versioned<SyncRecord>> {
    view.sync.as_ref().filter(|s| s.value.leader.as_ref().is_some_and(|l| !l.as_str().is_empty()))
}

/// What a write of `sync` on top of `view` replaces.
fn over(view: &ClusterView) -> Over {
    match &view.sync {
        Some(sync) => Over::Revision(sync.mod_revision),
        None if is_garbage(view) => Over::Garbage,
        None => Over::Nothing,
    }
}

fn is_garbage(view: &ClusterView) -> bool {
    view.malformed.keys().any(|key| key.ends_with("/sync") && !key.ends_with("/members/sync"))
}
