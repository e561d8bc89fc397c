//! Pause (contract 8.9): nothing starts, stops, promotes or demotes by itself; the operator's named wishes do.

use super::action::{Action, Decision, Reason};
use super::leading;
use super::world::{DataDir, Dcs, Guard, Holder, LocalRole, OwnLease, Process, World};

/// The step of a paused node.
pub(super) fn decide(world: &World) -> Decision {
    // The guard must not act while an operator is at work.
    if matches!(world.local.guard, Guard::Armed { .. } | Guard::Outdated) {
        return world.act(Action::DisarmGuard, Reason::Paused);
    }
    let Dcs::Known(view) = &world.dcs else { return world.wait(Reason::Paused) };
    let primary = world.local.process == Process::Running && world.local.role == LocalRole::Primary;
    match world.holder(view) {
        Holder::MyName(_) => leading::take_over(world),
        Holder::Me(key) if !primary && world.free(super::Slot::Postgres) => {
            let named = view.failover.as_ref().and_then(|f| f.value.member.as_ref());
            if named == Some(&world.me) && world.local.role == LocalRole::Standby {
                return world.act(Action::Promote { epoch: key.epoch }, Reason::WonKey);
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
            let named = view.failover.as_ref().and_then(|f| f.value.member.as_ref()) == Some(&world.me);
            if ours && (primary || (named && world.local.role == LocalRole::Standby)) {
                return world.act(Action::Campaign, Reason::Paused);
            }
            world.wait(Reason::Paused)
        }
        Holder::Me(_) | Holder::Nobody | Holder::Other(_) => world.wait(Reason::Paused),
    }
}
