//! What a standby does about synchronous replication: it keeps ready the value it would serve with, and asks to be
//! relieved before it stops.

use pgvane_cluster::ids::Epoch;
use pgvane_cluster::records::Tags;
use pgvane_cluster::settings::SynchronousMode;
use pgvane_cluster::view::ClusterView;

use super::names::StandbyNames;
use super::succession::heritage;
use super::{mode, record};
use crate::decide::action::{Action, Decision, Reason};
use crate::decide::restart;
use crate::decide::world::{LocalRole, Process, Slot, Sql, World};

/// A standby's server has in force what commits would have to wait for if it were promoted now, so that a promotion
/// need not wait for it.
pub(in crate::decide) fn stand_by(world: &World, view: &ClusterView, sql: &Sql) -> Option<Decision> {
    let memory = &world.memory.sync;
    let is_paused = world.memory.paused_until(world.now, Slot::StandbyNames).is_some();
    if !world.free(Slot::StandbyNames) || is_paused || memory.names_at.is_some_and(|at| sql.asked_at < at) {
        return None;
    }
    if mode(&world.settings) == SynchronousMode::Off {
        return hand_back(world, sql, None);
    }
    let (_, wait_for) = heritage(view, &world.me, &world.settings, None);
    if wait_for.is_like(&StandbyNames::parse(&sql.replication.names)) {
        return None;
    }
    let action = Action::SetStandbyNames { names: Some(wait_for.to_string()), epoch: None, prove: false };
    Some(world.act(action, Reason::SyncChanges))
}

/// The mode is off: the value is the parameters' again.
pub(super) fn hand_back(world: &World, sql: &Sql, epoch: Option<Epoch>) -> Option<Decision> {
    let parameters = &world.settings.postgresql.parameters;
    let theirs = parameters.get("synchronous_standby_names").map_or("", String::as_str);
    // A parameter of this node alone may say something else, so it is handed back once at most.
    let is_done = world.memory.sync.names.as_ref().is_some_and(|known| known.names.is_none());
    let action = Action::SetStandbyNames { names: None, epoch, prove: false };
    (sql.replication.names != theirs && !is_done).then(|| world.act(action, Reason::SyncIsOff))
}

/// Before a standby stops it leaves `sync`, so that no commit waits for it in vain: the wait, while there is reason
/// to hope (contract 8.8).
pub(in crate::decide) fn leave(world: &World, view: &ClusterView) -> Option<Decision> {
    if !serves_as_standby(world, view) || mode(&world.settings) == SynchronousMode::Off {
        return None;
    }
    let is_listed = record(view)?.value.has_standby(&world.me);
    let until = world.memory.sync.leaving_since? + world.settings.loop_wait * 2;
    (is_listed && world.now < until).then(|| world.wait_until(until, Reason::LeavingSync))
}

/// The tags that this node publishes: while its server is about to stop, that it must not be waited for.
pub fn shown_tags(world: &World) -> Tags {
    let mut tags = world.tags.clone();
    let is_leaving = world.memory.shutdown && !world.settings.pause;
    let ends = is_leaving && world.dcs.last_view().is_some_and(|view| serves_as_standby(world, view));
    if ends || restart::leaves_sync(world) {
        tags.0.insert("nosync".to_owned(), true.into());
        tags.0.insert("sync_priority".to_owned(), 0.into());
    }
    tags
}

fn serves_as_standby(world: &World, view: &ClusterView) -> bool {
    let follows = view.leader.as_ref().is_some_and(|key| key.name != world.me);
    follows && world.local.process == Process::Running && world.local.role == LocalRole::Standby
}
