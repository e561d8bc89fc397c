//! Pause (contract 8.9): nothing starts, stops, promotes or demotes by itself; the operator's named wishes do.

use pgvane_cluster::view::{ClusterView, LeaderKey};

use super::action::{Action, Decision, Reason};
use super::world::{DataDir, Dcs, Guard, Holder, LocalRole, OwnLease, Process, World};
use super::{following, hand_over, leading, reinit, restart, standby_leader, sync};

/// The step of a paused node.
pub(super) fn decide(world: &World) -> Decision {
    // The guard must not act while an operator is at work.
    if matches!(world.local.guard, Guard::Armed { .. } | Guard::Outdated) {
        return world.act(Action::DisarmGuard, Reason::Paused);
    }
    let Dcs::Known(view) = &world.dcs else { return world.wait(Reason::Paused) };
    match world.holder(view) {
        Holder::MyName(_) => leading::take_over(world),
        Holder::Me(key) => leader(world, view, key),
        Holder::Other(key) => follower(world, view, key),
        Holder::Nobody if world.lease != OwnLease::None => unlocked(world, view),
        Holder::Nobody => world.wait(Reason::Paused),
    }
}

fn leader(world: &World, view: &ClusterView, key: &LeaderKey) -> Decision {
    let release = |reason| world.act(Action::Release { epoch: key.epoch, optime: None }, reason);
    // The key invites the next leader: it goes only once nothing here can accept writes.
    match foreign(world, view) {
        Some(reason) if world.may_write() => return world.wait(reason),
        Some(reason) => return release(reason),
        None => {}
    }
    if let Some(decision) = hand_over::check(world, view, key) {
        return in_time(world, view, key, decision);
    }
    if runs_as(world, LocalRole::Primary) {
        return restart::of_primary(world)
            .or_else(|| sync::keep(world, view, key))
            .unwrap_or_else(|| world.wait(Reason::Paused));
    }
    if world.may_write() {
        return world.wait(Reason::Paused);
    }
    if let Some(decision) = restart::start_primary_in_pause(world, view) {
        return in_time(world, view, key, decision);
    }
    if standby_leader::holds_in_pause(world) {
        return world.wait(Reason::Paused);
    }
    if is_named(world, view) {
        return in_time(world, view, key, world.act(Action::Promote { epoch: key.epoch }, Reason::WonKey));
    }
    release(Reason::CannotServe)
}

/// S3 holds in pause as well: what makes this server a primary needs a lease that surely lives. So does S2: who
/// confirms commits is in order before the first one.
fn in_time(world: &World, view: &ClusterView, key: &LeaderKey, decision: Decision) -> Decision {
    if !matches!(decision.action, Action::Promote { .. } | Action::StartPrimary) {
        return decision;
    }
    if world.authority().is_none_or(|authority| authority.is_late(world.now)) {
        return world.wait_briefly(Reason::RenewalLate);
    }
    sync::before_serving(world, view, key).unwrap_or(decision)
}

fn follower(world: &World, view: &ClusterView, key: &LeaderKey) -> Decision {
    let upstream = following::known_upstream(world, view, key);
    let wish = reinit::check(world, view)
        .or_else(|| reinit::start_in_pause(world, view))
        .or_else(|| restart::start_standby(world, upstream));
    if let Some(decision) = wish {
        return decision;
    }
    match world.local.process {
        // Who handed over at an operator's request follows in the end: that is a part of it.
        Process::Absent if world.memory.handed_over => {
            let serves = standby_leader::serves(world, view);
            match world.upstream(&key.name).filter(|_| serves) {
                Some(leader) => world.act(Action::Rejoin { leader }, Reason::NotRunning),
                None => world.wait(Reason::LeaderNotServing(key.name.clone())),
            }
        }
        // Pointing a standby elsewhere stops and starts nothing.
        Process::Running if world.local.role == LocalRole::Standby => restart::of_standby(world, view)
            .or_else(|| following::wrong_upstream(world, view))
            .unwrap_or_else(|| world.wait(Reason::Paused)),
        Process::Absent | Process::Starting { .. } | Process::Running | Process::Stopping => {
            world.wait(Reason::Paused)
        }
    }
}

/// Nobody leads: a primary that runs takes the key, or the standby that the operator named.
fn unlocked(world: &World, view: &ClusterView) -> Decision {
    if let Some(reason) = foreign(world, view) {
        return world.wait(reason);
    }
    if !matches!(world.local.data, DataDir::Present(_)) {
        return world.wait(Reason::Paused);
    }
    if runs_as(world, LocalRole::Primary) || is_named(world, view) {
        return world.act(Action::Campaign, Reason::Paused);
    }
    restart::start_primary_in_pause(world, view)
        .or_else(|| restart::start_standby(world, None))
        .unwrap_or_else(|| world.wait(Reason::Paused))
}

fn runs_as(world: &World, role: LocalRole) -> bool {
    world.local.process == Process::Running && world.local.role == role
}

/// Whether we are the standby that the operator wants to lead.
fn is_named(world: &World, view: &ClusterView) -> bool {
    let due = view.failover.as_ref().filter(|f| f.value.scheduled_at.is_none());
    due.and_then(|f| f.value.member.as_ref()) == Some(&world.me) && runs_as(world, LocalRole::Standby)
}

/// The data belongs to another cluster: whatever runs on it must not lead this one.
fn foreign(world: &World, view: &ClusterView) -> Option<Reason> {
    let DataDir::Present(control) = &world.local.data else { return None };
    let ours = &control.system_identifier;
    let cluster = view.system_identifier().filter(|id| id != ours)?;
    Some(Reason::ForeignData { cluster: cluster.to_owned(), ours: ours.clone() })
}
