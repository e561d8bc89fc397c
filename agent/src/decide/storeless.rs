//! The store does not answer. Nothing may be concluded from its silence; what runs rightfully goes on.

use super::action::{Action, Decision, Reason};
use super::leading;
use super::world::{DataDir, Process, World};

/// The step of a node that cannot reach the store.
pub(super) fn decide(world: &World) -> Decision {
    if let DataDir::Unreadable(why) = &world.local.data {
        return world.act(Action::Halt, Reason::DataUnreadable(why.clone()));
    }
    let led = world.dcs.last_view().and_then(|v| v.leader.as_ref()).filter(|key| key.name == world.me);
    match (world.authority(), led) {
        (Some(authority), Some(key)) if !authority.is_late(world.now) => leading::keep_serving(world, key),
        _ => stand_by(world),
    }
}

/// A standby whose server ended serves reads again; of nobody, until the store tells whom to follow.
fn stand_by(world: &World) -> Decision {
    let is_standby = matches!(&world.local.data, DataDir::Present(control) if control.standby);
    if world.local.process == Process::Absent && is_standby {
        if let Some(decision) = world.stale_guard() {
            return decision;
        }
        let upstream = world
            .dcs
            .last_view()
            .and_then(|v| v.leader.as_ref())
            .filter(|key| key.name != world.me)
            .and_then(|key| world.upstream(&key.name));
        return world.act(Action::StartStandby { upstream }, Reason::NotRunning);
    }
    world.wait(Reason::StoreAway)
}
