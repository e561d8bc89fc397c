//! Before a server accepts writes: `sync` is its own, and nothing is acknowledged that `sync` does not cover.

use pgvane_cluster::ids::{Epoch, NodeName};
use pgvane_cluster::records::SyncRecord;
use pgvane_cluster::settings::{ClusterSettings, SynchronousMode};
use pgvane_cluster::view::{ClusterView, LeaderKey, Versioned};

use super::choose::kept;
use super::machine::{Held, is_covered};
use super::names::{Method, Names, StandbyNames};
use super::{mode, record, upkeep};
use crate::decide::action::{Action, Decision, Reason};
use crate::decide::world::{Guard, LocalRole, Process, Slot, World};

/// What has to be done before our server may accept writes in the reign of `key`; `None`: it may.
pub(in crate::decide) fn before_serving(
    world: &World,
    view: &ClusterView,
    key: &LeaderKey,
) -> Option<Decision> {
    if mode(&world.settings) == SynchronousMode::Off {
        return wind_up_first(world, view, key);
    }
    if !world.free(Slot::SyncKey) || !world.free(Slot::StandbyNames) {
        // The guard need not wait for it.
        let is_armed = world.local.guard == (Guard::Armed { epoch: key.epoch });
        return Some(if is_armed || !world.free(Slot::Guard) {
            world.wait_briefly(Reason::SyncFirst)
        } else {
            world.act(Action::ArmGuard { epoch: key.epoch }, Reason::GuardNotArmed)
        });
    }
    let Some(ours) = ours(world, view, key.epoch) else {
        if !may_succeed(world, view) {
            let release = Action::Release { epoch: key.epoch, optime: None };
            return Some(world.act(release, Reason::NotSynchronous));
        }
        let (rule, _) = heritage(view, &world.me, &world.settings, Some(key.epoch));
        return Some(upkeep::write(world, view, key, &rule));
    };
    if world.memory.sync.settled != Some((key.epoch, ours.mod_revision)) {
        // A write of ours, or of our predecessor's, may still happen: this one settles what is.
        return Some(upkeep::write(world, view, key, &Held::of(&ours.value)));
    }
    names_first(world, view, key)
}

/// The mode was switched off while nobody led: what is acknowledged from now on is on nobody that `sync` still names,
/// and the mode may be switched on again before a leader that serves would delete the key.
fn wind_up_first(world: &World, view: &ClusterView, key: &LeaderKey) -> Option<Decision> {
    let left = record(view)?;
    Some(if world.free(Slot::SyncKey) {
        let action = Action::DeleteSyncKey { epoch: key.epoch, revision: left.mod_revision };
        world.act(action, Reason::SyncIsOff)
    } else {
        world.wait_briefly(Reason::SyncFirst)
    })
}

/// A standby that is to be promoted has to have the right value in force; one that is to be started is started
/// with it ([`names_to_start`]).
fn names_first(world: &World, view: &ClusterView, key: &LeaderKey) -> Option<Decision> {
    let is_standby = world.local.process == Process::Running && world.local.role == LocalRole::Standby;
    if !is_standby {
        return None;
    }
    let Some(sql) = &world.local.sql else { return Some(world.wait_briefly(Reason::PositionUnknown)) };
    if world.memory.sync.names_at.is_some_and(|at| sql.asked_at < at) {
        return Some(world.wait_briefly(Reason::SyncFirst));
    }
    let (rule, wait_for) = heritage(view, &world.me, &world.settings, Some(key.epoch));
    let in_force = StandbyNames::parse(&sql.replication.names);
    if protects(&in_force, &rule, &world.settings) {
        return None;
    }
    let prove = wait_for.waits() && !in_force.waits();
    let action = Action::SetStandbyNames { names: Some(wait_for.to_string()), epoch: None, prove };
    Some(world.act(action, Reason::SyncFirst))
}

/// Whether a server with this value in force acknowledges nothing that it must not.
fn protects(in_force: &StandbyNames, rule: &Held, settings: &ClusterSettings) -> bool {
    is_covered(in_force, rule) && (in_force.waits() || !settings.synchronous_mode_strict)
}

/// The record as this reign has written it.
fn ours<'a>(world: &World, view: &'a ClusterView, epoch: Epoch) -> Option<&'a Versioned<SyncRecord>> {
    record(view).filter(|s| s.value.leader.as_ref() == Some(&world.me) && s.mod_revision.0 > epoch.0)
}

/// Whether `sync` is in order for a server that served in the reign of `key` already, the store being away.
pub(in crate::decide) fn is_in_order(world: &World, key: &LeaderKey) -> bool {
    let view = world.dcs.last_view();
    mode(&world.settings) == SynchronousMode::Off || view.is_some_and(|v| ours(world, v, key.epoch).is_some())
}

/// Whether the rule that we are about to replace lets us lead. The key was won while it said so; a key that came
/// to us in another way proves nothing.
fn may_succeed(world: &World, view: &ClusterView) -> bool {
    let Some(before) = record(view) else { return true };
    let is_named = view
        .failover
        .as_ref()
        .is_some_and(|f| f.value.leader.is_none() && f.value.member.as_ref() == Some(&world.me));
    // In quorum mode the votes were counted before the race; a member without a voice may win it as well.
    let needs_name = world.settings.synchronous_mode == SynchronousMode::On;
    is_named || before.value.names(&world.me) || !needs_name
}

/// What `me` writes to `sync` when it wins the key, and whom its commits wait for then (contract 3.5). `reign`:
/// the reign that it has begun, whose own record stays as it is.
pub(super) fn heritage(
    view: &ClusterView,
    me: &NodeName,
    settings: &ClusterSettings,
    reign: Option<Epoch>,
) -> (Held, StandbyNames) {
    let wanted = usize::try_from(settings.synchronous_node_count).unwrap_or(usize::MAX).max(1);
    let method = match settings.synchronous_mode {
        SynchronousMode::Quorum => Method::Any,
        SynchronousMode::On | SynchronousMode::Off => Method::First,
    };
    let own: Names = [me.as_str()].into_iter().collect();
    let rule = match record(view) {
        None => Held::default(),
        Some(s) if s.value.leader.as_ref() == Some(me) && reign.is_some_and(|r| s.mod_revision.0 > r.0) => {
            Held::of(&s.value)
        }
        Some(s) => {
            let before = Held::of(&s.value);
            match method {
                // Whoever confirmed all for our predecessor still has it, but waiting for it is for strict mode.
                Method::First if settings.synchronous_mode_strict => {
                    Held { voters: before.voters.without(&own), ..before }
                }
                Method::First => Held { voters: Names::default(), ..before },
                // The former leader has it all; it takes our place among the voters.
                Method::Any => {
                    let former: Names = s.value.leader.iter().map(NodeName::as_str).collect();
                    let voters = before.voters.or(&former).without(&own);
                    let spare = voters.len().saturating_sub(wanted.min(voters.len()));
                    Held { quorum: before.quorum.max(spare), voters }
                }
            }
        }
    };
    let wait_for = if rule.voters.is_empty() && !settings.synchronous_mode_strict {
        StandbyNames::nobody(method)
    } else {
        kept(&rule, method, wanted).wait_for
    };
    (rule, wait_for)
}

/// With which `synchronous_standby_names` a server is started as the primary it was; `None`: that of the
/// parameters. `now`: the value that its configuration has.
pub fn names_to_start(
    view: &ClusterView,
    me: &NodeName,
    settings: &ClusterSettings,
    now: &str,
) -> Option<String> {
    if mode(settings) == SynchronousMode::Off {
        return None;
    }
    let reign = view.leader.as_ref().map(|key| key.epoch);
    let (rule, wait_for) = heritage(view, me, settings, reign);
    if protects(&StandbyNames::parse(now), &rule, settings) {
        return Some(now.to_owned());
    }
    Some(wait_for.to_string())
}
