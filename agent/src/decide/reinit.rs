//! A replica that an operator wants made anew from the leader's data (contract 6.1, `POST /reinitialize`).
//!
//! Its server is stopped and its data replaced once the copy is whole; then the ordinary rules start it. Until then
//! the data it had stays: an agent that dies on the way leaves a replica as it was.

use pgvane_cluster::clock::Tick;
use pgvane_cluster::view::ClusterView;

use super::action::{Action, Decision, Reason, StopMode};
use super::world::{Holder, Process, Slot, World};
use super::{data, following};

/// A replica being made anew.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Reinit {
    /// When it was asked for. What was under way on the server before is given up.
    pub asked_at: Tick,
    /// Whether the copy comes from the leader and from nobody else.
    pub from_leader: bool,
    /// Whether the data was replaced; what is left is the start.
    pub cloned: bool,
}

/// Whether this node may be made anew; the error is the text for the operator. patronictl offers to force what ends
/// in `already in progress`.
pub fn judge(world: &World, force: bool) -> Result<(), String> {
    let refuse = |text: &str| Err(text.to_owned());
    let Some(key) = world.dcs.last_view().and_then(|view| view.leader.as_ref()) else {
        return refuse("Cluster has no leader, can not reinitialize");
    };
    if key.name == world.me {
        return refuse("I am the leader, can not reinitialize");
    }
    if world.may_write() {
        return refuse("I run as a primary, can not reinitialize");
    }
    if world.memory.shutdown {
        return refuse("the agent is stopping");
    }
    if force {
        return Ok(());
    }
    let restarts = world.memory.restart.is_some_and(|r| !r.failed).then_some("restart");
    let again = world.memory.reinit.is_some().then_some("reinitialize");
    let ongoing = world.local.ongoing.get(&Slot::Postgres).map(|o| o.what);
    match again.or(restarts).or(ongoing) {
        Some(what) => Err(format!("{what} already in progress")),
        None => Ok(()),
    }
}

/// Whether the data is still to be replaced.
pub(super) fn is_wanted(world: &World) -> bool {
    world.memory.reinit.is_some_and(|r| !r.cloned)
}

/// The next step, when another member leads and this node is to be made anew.
pub(super) fn check(world: &World, view: &ClusterView) -> Option<Decision> {
    let reinit = world.memory.reinit.filter(|r| !r.cloned)?;
    let Holder::Other(key) = world.holder(view) else { return None };
    let stop = || Some(world.act(Action::Stop { how: StopMode::Immediate }, Reason::Reinitialize));
    if let Some(ongoing) = world.local.ongoing.get(&Slot::Postgres) {
        return if ongoing.since < reinit.asked_at {
            stop()
        } else {
            Some(world.wait(Reason::Busy(Slot::Postgres)))
        };
    }
    match world.local.process {
        Process::Absent => match data::clone_source(world, view) {
            None => Some(world.wait(Reason::LeaderNotServing(key.name.clone()))),
            Some(from) => {
                let clone = world.act(Action::Clone { from }, Reason::Reinitialize);
                Some(world.stale_guard().unwrap_or(clone))
            }
        },
        Process::Starting { .. } | Process::Running | Process::Stopping => stop(),
    }
}

/// The start after the copy in pause, where no other rule starts anything.
pub(super) fn start_in_pause(world: &World, view: &ClusterView) -> Option<Decision> {
    world.memory.reinit.filter(|r| r.cloned && world.local.process == Process::Absent)?;
    let upstream = following::upstream_of(world, view);
    Some(world.act(Action::StartStandby { upstream }, Reason::Reinitialize))
}
