//! The core: `decide(&World) -> Decision`. No I/O, no async, no clock, no logging, no randomness.
//!
//! The order of the rules is the safety argument. First whatever may accept writes without the right to is
//! stopped (S1); then the agent's own end and pause; then, by who holds the leader key, `leading`,
//! `following` or `unlocked`. Promotion happens in one place, under our own lease, at that epoch, with
//! the guard armed (S3). `decide` asserts that on the way out.

pub mod action;
pub mod announce;
pub mod bootstrap;
pub mod candidate;
pub mod consent;
mod data;
mod following;
mod hand_over;
mod leading;
pub mod lease;
pub mod memory;
mod paused;
pub mod reign;
pub mod reinit;
pub mod restart;
pub mod rewind;
pub mod route;
mod safety;
pub mod schedule;
pub mod standby_leader;
mod stopping;
mod storeless;
pub mod sync;
mod unfit;
mod unlocked;
pub mod vacancy;
pub mod world;

use std::time::Duration;

pub use action::{Action, Decision, Reason, Request, StopMode};
pub use memory::{Memory, Outcome};
use pgvane_cluster::clock::Tick;
use world::{Dcs, Guard, Holder, Slot, World};

/// How soon to look again while something is expected within milliseconds.
const SOON: Duration = Duration::from_millis(20);

/// Decides the one next step.
pub fn decide(world: &World) -> Decision {
    let decision = schedule::wake(world, settle(world, choose(world)));
    debug_assert!(promotes_safely(world, &decision), "S3 broken by {decision:?} in {world:?}");
    decision
}

fn choose(world: &World) -> Decision {
    if let Some(decision) = safety::check(world) {
        return decision;
    }
    if let Some(decision) = hand_over::given_up(world) {
        return decision;
    }
    if let Some(decision) = bootstrap::failed(world) {
        return decision;
    }
    if world.memory.shutdown {
        return stopping::decide(world);
    }
    if world.settings.pause {
        return paused::decide(world);
    }
    match &world.dcs {
        Dcs::Unknown { .. } => storeless::decide(world),
        Dcs::Known(view) => {
            if let Some(decision) = data::check(world, view) {
                return decision;
            }
            match world.holder(view) {
                Holder::Me(key) if world.settings.standby_cluster.is_some() => {
                    standby_leader::decide(world, view, key)
                }
                Holder::Me(key) => leading::decide(world, view, key),
                Holder::MyName(_) => leading::take_over(world),
                Holder::Other(key) => following::decide(world, view, key),
                Holder::Nobody => unlocked::decide(world, view),
            }
        }
    }
}

/// Holds back a step whose slot is taken or failed a moment ago. A stop goes through whatever is under way.
fn settle(world: &World, decision: Decision) -> Decision {
    let Some(slot) = decision.action.slot() else { return decision };
    if matches!(decision.action, Action::Stop { .. }) {
        return decision;
    }
    if let Some(decision) = held_back(world, &decision.action) {
        return decision;
    }
    if !world.free(slot) {
        return Decision { action: Action::Wait, reason: Reason::Busy(slot), wake_at: decision.wake_at };
    }
    match world.memory.paused_until(world.now, slot) {
        Some(until) => {
            Decision { action: Action::Wait, reason: Reason::BackOff, wake_at: decision.wake_at.min(until) }
        }
        None => decision,
    }
}

/// What our promise or another effect forbids for now, whichever rule wants it. Two steps that are right one by
/// one may be wrong together.
fn held_back(world: &World, action: &Action) -> Option<Decision> {
    let serves = matches!(action, Action::Promote { .. } | Action::StartPrimary);
    let leads = serves || matches!(action, Action::Campaign);
    if serves && world.settings.standby_cluster.is_some() {
        // Nobody accepts writes here (S1 of the cluster that this one follows).
        return Some(world.wait(Reason::StandbyCluster));
    }
    if let Some(vouch) = world.memory.vouch.as_ref().filter(|_| leads) {
        // The leader we vouched for may accept writes until the promise ends.
        return Some(world.wait_until(vouch.until, Reason::WeVouchedFor(vouch.leader.clone())));
    }
    let gives_key_back = world.local.ongoing.get(&Slot::Store).is_some_and(|o| o.what == action::RELEASE);
    if serves && gives_key_back {
        // The next leader may be on its way already.
        return Some(world.wait(Reason::Busy(Slot::Store)));
    }
    if serves && !world.free(Slot::Guard) {
        // A guard that is being disarmed still looks armed.
        return Some(world.wait(Reason::Busy(Slot::Guard)));
    }
    if matches!(action, Action::Release { .. }) && !world.free(Slot::Postgres) {
        // What is under way may be the start of a primary.
        return Some(world.wait(Reason::Busy(Slot::Postgres)));
    }
    None
}

/// S3: a step that can make this server accept writes needs our key under our own live lease at that epoch,
/// and the guard armed for it.
fn promotes_safely(world: &World, decision: &Decision) -> bool {
    let epoch = match &decision.action {
        Action::Promote { epoch } => Some(*epoch),
        Action::StartPrimary => None,
        _ => return true,
    };
    let Some(authority) = world.authority() else { return false };
    if world.memory.vouch.is_some() && !world.may_write() {
        return false;
    }
    let guarded = world.settings.pause || world.local.guard == Guard::Armed { epoch: authority.epoch };
    guarded && !authority.is_late(world.now) && epoch.is_none_or(|e| e == authority.epoch)
}

impl World {
    /// A step now; think again within a renewal interval in any case.
    fn act(&self, action: Action, reason: Reason) -> Decision {
        Decision { action, reason, wake_at: self.now + self.timing.renew_interval }
    }

    /// Nothing now.
    fn wait(&self, reason: Reason) -> Decision {
        self.act(Action::Wait, reason)
    }

    /// Nothing before `at`, unless something changes.
    fn wait_until(&self, at: Tick, reason: Reason) -> Decision {
        let latest = self.now + self.timing.renew_interval;
        Decision { action: Action::Wait, reason, wake_at: at.clamp(self.now, latest) }
    }

    /// Nothing for a moment.
    fn wait_briefly(&self, reason: Reason) -> Decision {
        self.wait_until(self.now + SOON, reason)
    }

    /// `action`, once the guard holds the deadline of `authority`'s reign; in pause there is no guard.
    fn guarded(&self, epoch: pgvane_cluster::ids::Epoch, action: Action, reason: Reason) -> Decision {
        if self.settings.pause || self.local.guard == (Guard::Armed { epoch }) {
            self.act(action, reason)
        } else {
            self.act(Action::ArmGuard { epoch }, Reason::GuardNotArmed)
        }
    }

    /// Takes the deadline from a guard that holds one for a reign that is over, before PostgreSQL is started
    /// as anything but that reign's primary: an old deadline must not stop a healthy standby.
    fn stale_guard(&self) -> Option<Decision> {
        match self.local.guard {
            Guard::Armed { .. } | Guard::Outdated if !self.may_write() && self.free(Slot::Postgres) => {
                Some(self.act(Action::DisarmGuard, Reason::GuardNotNeeded))
            }
            Guard::Armed { .. } | Guard::Outdated | Guard::Idle | Guard::Absent => None,
        }
    }
}
