//! The agent was told to stop: hand over if we lead, stop PostgreSQL, end.

use super::action::{Action, Decision, Reason, Request, StopMode};
use super::world::{Dcs, Guard, Holder, LocalRole, Process, Slot, World};
use super::{hand_over, sync};

/// The next step towards the end.
pub(super) fn decide(world: &World) -> Decision {
    if world.settings.pause {
        return exit(world);
    }
    if let Dcs::Known(view) = &world.dcs
        && let Holder::Me(key) = world.holder(view)
    {
        if let Some(decision) = hand_over::check(world, view, key) {
            return decision;
        }
        let serving = world.local.process == Process::Running && world.local.role == LocalRole::Primary;
        if serving {
            // With nobody to hand over to the stop is clean all the same.
            let alone = |_| stop_serving(world);
            return hand_over::prepare(world, view, Request::Shutdown, None, alone);
        }
        if world.local.process == Process::Absent {
            return world.act(Action::Release { epoch: key.epoch, optime: None }, Reason::Shutdown);
        }
    }
    if let Dcs::Known(view) = &world.dcs
        && let Some(decision) = sync::leave(world, view)
    {
        return decision;
    }
    match world.local.process {
        Process::Absent => exit(world),
        Process::Running | Process::Starting { .. } => {
            world.act(Action::Stop { how: StopMode::Fast }, Reason::Shutdown)
        }
        Process::Stopping => world.wait(Reason::Busy(Slot::Postgres)),
    }
}

fn stop_serving(world: &World) -> Decision {
    world.act(Action::StopToHandOver { request: Request::Shutdown }, Reason::Shutdown)
}

fn exit(world: &World) -> Decision {
    if !world.free(Slot::Postgres) || !world.free(Slot::Store) {
        return world.wait_briefly(Reason::Shutdown);
    }
    match world.local.guard {
        Guard::Armed { .. } | Guard::Outdated => world.act(Action::DisarmGuard, Reason::GuardNotNeeded),
        Guard::Idle | Guard::Absent => world.act(Action::Exit, Reason::Shutdown),
    }
}
