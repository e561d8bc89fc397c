//! Pause (contract 8.9): nothing starts, stops, promotes or demotes by itself; the operator's named wishes do.

use super::action::{Action, Decision, Reason};
use super::world::{DataDir, Dcs, Guard, Holder, LocalRole, OwnLease, Process, World};
use super::{leading, sync};

/// The step of a paused node.
pub(super) fn decide(world: &World) -> Decision {
    // The guard must not act while an operator is at work.
    if matches!(world.local.guard, Guard::Armed { .. } | Guard::Outdated) {
        return world.act(Action::DisarmGuard, Reason::Paused);
    }
    let Dcs::Known(view) = &world.dcs else { return world.wait(Reason::Paused) };
    let runs_as = |role| world.local.process == Process::Running && world.local.role == role;
    let primary = runs_as(LocalRole::Primary);
    let due = view.failover.as_ref().filter(|f| f.value.scheduled_at.is_none());
    let named = due.and_then(|f| f.value.member.as_ref()) == Some(&world.me) && runs_as(LocalRole::Standby);
    match world.holder(view) {
        Holder::MyName(_) => leading::take_over(world),
        // The key invites the next leader: it goes only once nothing here can accept writes.
        Holder::Me(key) if !world.may_write() => {
            if named {
                // S3 holds in pause as well.
                return match world.authority().filter(|a| !a.is_late(world.now)) {
                    Some(_) => sync::before_serving(world, view, key)
                        .unwrap_or_else(|| world.act(Action::Promote { epoch: key.epoch }, Reason::WonKey)),
                    None => world.wait_briefly(Reason::RenewalLate),
                };
            }
            world.act(Action::Release { epoch: key.epoch, optime: None }, Reason::CannotServe)
        }
        Holder::Nobody if world.lease != OwnLease::None => {
            let ours = match &world.local.data {
                DataDir::Present(control) => {
                    view.system_identifier().is_none_or(|id| id == control.system_identifier)
                }
                DataDir::Absent | DataDir::Spoiled | DataDir::Unreadable(_) => false,
            };
            if ours && (primary || named) {
                return world.act(Action::Campaign, Reason::Paused);
            }
            world.wait(Reason::Paused)
        }
        Holder::Me(key) if primary => {
            sync::keep(world, view, key).unwrap_or_else(|| world.wait(Reason::Paused))
        }
        Holder::Me(_) | Holder::Nobody | Holder::Other(_) => world.wait(Reason::Paused),
    }
}
