//! A leader keeps `sync` and `synchronous_standby_names` as they should be.

use pgvane_cluster::clock::Tick;
use pgvane_cluster::records::SyncRecord;
use pgvane_cluster::settings::SynchronousMode;
use pgvane_cluster::view::{ClusterView, LeaderKey, Versioned};

use super::choose::{self, Aim};
use super::machine::{self, Held, Now, Step};
use super::names::{Names, StandbyNames};
use super::{Over, mode, over};
use crate::decide::action::{Action, Decision, Reason};
use crate::decide::world::{Slot, Sql, World};

/// How soon to look again while a standby is waited for.
pub(super) const LOOK_AGAIN: std::time::Duration = std::time::Duration::from_millis(25);

/// The next step of a serving leader; `None` when there is nothing to do, or to know, for now.
pub(in crate::decide) fn keep(world: &World, view: &ClusterView, key: &LeaderKey) -> Option<Decision> {
    let sql = world.local.sql.as_ref().filter(|sql| !sql.in_recovery)?;
    let memory = &world.memory.sync;
    let is_busy = !world.free(Slot::SyncKey) || !world.free(Slot::StandbyNames);
    // What was asked before our last change tells nothing of it, and neither does a view from before our last write.
    let is_stale = memory.names_at.is_some_and(|at| sql.asked_at < at);
    let seen = view.sync.as_ref().map(|s| s.mod_revision);
    let is_behind = memory.settled.is_some_and(|(epoch, at)| epoch == key.epoch && Some(at) > seen);
    if is_busy || is_stale || is_behind {
        return None;
    }
    if mode(&world.settings) == SynchronousMode::Off {
        return wind_up(world, view, key, sql);
    }
    let Some(sync) = view.sync.as_ref().filter(|s| s.value.leader.as_ref() == Some(&world.me)) else {
        // From here on only we may lead; whoever else confirms commits is added.
        return Some(write(world, view, key, &Held::default()));
    };
    let held = Held::of(&sync.value);
    let in_force = StandbyNames::parse(&sql.replication.names);
    let aim = choose::aim(view, &world.me, &world.settings, &sql.replication, sql.position, &held);
    let now = Now {
        held: &held,
        settled: memory.settled == Some((key.epoch, sync.mod_revision)),
        in_force: &in_force,
        noted: noted(world, key, sql),
    };
    match machine::step(now, &aim, |name| sql.replication.confirmed(name)) {
        Step::Write(rule) => Some(write(world, view, key, &rule)),
        Step::Set(names) => Some(set(world, key, &in_force, &names)),
        Step::Await(names) => Some(look_again(world, sql, Reason::StandbysCatchUp(listed(&names)))),
        Step::Done => blocked(world, sql, &in_force, &aim),
    }
}

/// Where the WAL ended when the value in force was set in this reign.
fn noted(world: &World, key: &LeaderKey, sql: &Sql) -> Option<pgvane_cluster::ids::Lsn> {
    let known = world.memory.sync.names.as_ref()?;
    let is_same = known.names.as_ref() == Some(&sql.replication.names);
    known.noted.filter(|(epoch, _)| is_same && *epoch == key.epoch).map(|(_, at)| at)
}

/// All is as it should be and yet nobody confirms: the operator is told, and who comes back is noticed at once.
fn blocked(world: &World, sql: &Sql, in_force: &StandbyNames, aim: &Aim) -> Option<Decision> {
    let is_blocked = !sql.replication.can_confirm(in_force);
    is_blocked.then(|| look_again(world, sql, Reason::NobodyConfirms(listed(&aim.wait_for.of))))
}

/// The mode is off: nobody's right to lead depends on the key any more, so it goes before the server's value.
fn wind_up(world: &World, view: &ClusterView, key: &LeaderKey, sql: &Sql) -> Option<Decision> {
    if let Some(Versioned { mod_revision, .. }) = &view.sync {
        let action = Action::DeleteSyncKey { epoch: key.epoch, revision: *mod_revision };
        return Some(world.act(action, Reason::SyncIsOff));
    }
    super::duty::hand_back(world, sql, Some(key.epoch))
}

/// Writes a rule to `sync`.
pub(super) fn write(world: &World, view: &ClusterView, key: &LeaderKey, rule: &Held) -> Decision {
    let over = over(view);
    let action = Action::WriteSyncKey { epoch: key.epoch, record: record(world, rule), over };
    let reason = match over {
        Over::Nothing | Over::Garbage => Reason::SyncBegins,
        Over::Revision(_) => Reason::SyncChanges,
    };
    world.act(action, reason)
}

fn record(world: &World, rule: &Held) -> SyncRecord {
    SyncRecord {
        leader: Some(world.me.clone()),
        quorum: u32::try_from(rule.quorum).unwrap_or(u32::MAX),
        sync_standby: rule.voters.to_list(),
    }
}

fn set(world: &World, key: &LeaderKey, in_force: &StandbyNames, names: &StandbyNames) -> Decision {
    // Until commits were seen to wait, they may not although the value is in force.
    let wait = in_force.waits() && world.memory.sync.waits == Some(key.epoch);
    let action = Action::SetStandbyNames {
        names: Some(names.to_string()),
        epoch: Some(key.epoch),
        prove: names.waits() && !wait,
    };
    world.act(action, Reason::SyncChanges)
}

fn look_again(world: &World, sql: &Sql, reason: Reason) -> Decision {
    world.wait_until(sql.asked_at + LOOK_AGAIN, reason)
}

/// Whether an answer of the server is to be asked for again while a standby is waited for.
pub fn is_old(now: Tick, sql: &Sql) -> bool {
    now >= sql.asked_at + LOOK_AGAIN
}

fn listed(names: &Names) -> String {
    names.iter().collect::<Vec<_>>().join(", ")
}
