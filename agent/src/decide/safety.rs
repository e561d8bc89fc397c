//! First of all rules: what may accept writes without the right to is stopped. Keeps S1.

use super::action::{Action, Decision, Reason, StopMode};
use super::lease::renewal_is_late;
use super::world::{Dcs, Guard, Holder, Process, Slot, World};

/// A stop, when one is due.
pub(super) fn check(world: &World) -> Option<Decision> {
    if !world.may_write() || world.settings.pause || is_private_bootstrap(world) {
        return None;
    }
    match &world.dcs {
        // A proven loss needs no deadline.
        Dcs::Known(view) => match world.holder(view) {
            Holder::Other(key) => {
                return Some(stop(world, StopMode::Immediate, Reason::LostKeyTo(key.name.clone())));
            }
            // Nobody holds the key, so anybody may create it at any moment; only the promise of all others
            // makes it safe to go on.
            Holder::Nobody if world.authority().is_none() => {
                return Some(stop(world, StopMode::Immediate, Reason::KeyVanished));
            }
            // A promise of the others that runs out here is no worse than none.
            Holder::MyName(_)
                if world.authority().is_none_or(|a| a.is_late(world.now)) && is_covered_by_guard(world) =>
            {
                return None;
            }
            Holder::Nobody | Holder::Me(_) | Holder::MyName(_) => {}
        },
        // A new agent that has not heard from the store yet: who leads will be known in a moment.
        Dcs::Unknown { last: None, .. } if is_covered_by_guard(world) => return None,
        Dcs::Unknown { .. } => {}
    }
    match world.authority() {
        None => Some(stop(world, StopMode::Immediate, Reason::NoAuthority)),
        Some(authority) if authority.is_late(world.now) => {
            Some(stop(world, StopMode::Fast, Reason::RenewalLate))
        }
        Some(_) => ask_the_others(world),
    }
}

/// Before the renewal is too late the members are asked to vouch, so that an outage of the store alone does
/// not end a healthy reign.
fn ask_the_others(world: &World) -> Option<Decision> {
    let authority = world.authority()?;
    let due = world
        .memory
        .consent_asked_at
        .is_none_or(|asked| world.now.since(asked) >= world.timing.renew_interval);
    let wanted = world.settings.failsafe_mode && renewal_is_late(world) && due && world.free(Slot::Failsafe);
    wanted.then(|| world.act(Action::AskFailsafe { epoch: authority.epoch }, Reason::NeedConsent))
}

/// initdb's first start happens behind a local socket, before the cluster has a leader or a system
/// identifier: no client can reach it.
fn is_private_bootstrap(world: &World) -> bool {
    world.local.ongoing.get(&Slot::Postgres).is_some_and(|o| o.what == Action::Bootstrap.label())
}

/// A new agent that finds a running primary and the guard holding the deadline that its predecessor set: the
/// guard bounds the time it takes to read the store, and to put the key under a lease of our own.
fn is_covered_by_guard(world: &World) -> bool {
    matches!(world.local.guard, Guard::Armed { .. })
}

fn stop(world: &World, how: StopMode, reason: Reason) -> Decision {
    let already = world.local.process == Process::Stopping && how == StopMode::Fast;
    if already { world.wait_briefly(reason) } else { world.act(Action::Stop { how }, reason) }
}
