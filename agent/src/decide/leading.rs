//! We hold the leader key: become primary, stay primary, or hand over. Keeps S3.

use pgvane_cluster::view::{ClusterView, LeaderKey};

use super::action::{Action, Decision, Reason};
use super::world::{DataDir, Dcs, Guard, LocalRole, Process, World};
use super::{hand_over, restart as wished, sync};

/// How often PostgreSQL may end while it starts before another member leads.
const FAILED_STARTS: u32 = 2;

/// The step of a leader.
pub(super) fn decide(world: &World, view: &ClusterView, key: &LeaderKey) -> Decision {
    let Some(authority) = world.authority().filter(|a| !a.is_late(world.now)) else {
        // The renewal decides within moments: it succeeds, or the store says the lease is gone.
        return world.wait_briefly(Reason::RenewalLate);
    };
    if let Some(vouch) = &world.memory.vouch {
        // A campaign whose answer was lost may win after we promised another leader to stand aside.
        return world.wait_until(vouch.until, Reason::WeVouchedFor(vouch.leader.clone()));
    }
    if let Some(decision) = hand_over::check(world, view, key) {
        return decision;
    }
    if let Some(decision) = super::unfit::step_down(world, view, key) {
        return decision;
    }
    match world.local.process {
        Process::Absent => restart(world, key),
        Process::Starting { since } => {
            let limit = wished::start_limit(world).unwrap_or(world.settings.primary_start_timeout);
            let spent = world.now.since(since) > limit && !limit.is_zero();
            if spent && hand_over::somebody_else(world, view) {
                let how = super::StopMode::Immediate;
                return world.act(Action::Stop { how }, Reason::StartTimeout);
            }
            world.wait(Reason::Starting)
        }
        Process::Stopping => world.wait(Reason::Busy(super::Slot::Postgres)),
        Process::Running => match world.local.role {
            LocalRole::Standby => sync::before_serving(world, view, key).unwrap_or_else(|| {
                world.guarded(authority.epoch, Action::Promote { epoch: key.epoch }, Reason::WonKey)
            }),
            LocalRole::Unknown => world.wait_briefly(Reason::PositionUnknown),
            LocalRole::Primary => serve(world, view, key),
        },
    }
}

/// Our name under a lease we do not hold: a predecessor's key. One transaction makes it ours or shows that it
/// is not.
pub(super) fn take_over(world: &World) -> Decision {
    match world.lease {
        super::world::OwnLease::None => world.wait_briefly(Reason::NoLease),
        super::world::OwnLease::Held { .. } => world.act(Action::TakeOverKey, Reason::KeyUnderOldLease),
    }
}

fn serve(world: &World, view: &ClusterView, key: &LeaderKey) -> Decision {
    if world.local.guard != (Guard::Armed { epoch: key.epoch }) {
        return world.act(Action::ArmGuard { epoch: key.epoch }, Reason::GuardNotArmed);
    }
    if view.config.is_none() {
        return world.act(Action::WriteConfig, Reason::ConfigMissing);
    }
    if let Some(decision) = wished::of_primary(world) {
        return decision;
    }
    let reason =
        if hand_over::waits_for_others(world, view) { Reason::CandidatesBound } else { Reason::Leading };
    sync::keep(world, view, key).unwrap_or_else(|| world.wait(reason))
}

/// PostgreSQL does not run and we hold the key. Handing over now would lose what the standbys have not
/// received, so it is restarted in place until primary_start_timeout is spent (0: hand over at once). In
/// synchronous mode a standby may be known to hold everything: then it takes over at once.
fn restart(world: &World, key: &LeaderKey) -> Decision {
    if !world.free(super::Slot::Postgres) {
        return world.wait(Reason::Busy(super::Slot::Postgres));
    }
    let limit = world.settings.primary_start_timeout;
    let down_for_long = || world.memory.down_since.is_some_and(|since| world.now.since(since) >= limit);
    let restarts = wished::is_spent(world);
    let spent = restarts.unwrap_or_else(down_for_long);
    let others = match &world.dcs {
        // The first leader of a new cluster has nothing to hand over: it would only win the key again.
        Dcs::Known(view) => !super::data::is_virgin(view) && hand_over::somebody_else(world, view),
        Dcs::Unknown { .. } => false,
    };
    if spent && others {
        let reason = if restarts.is_some() { Reason::RestartFailed } else { Reason::StartTimeout };
        let optime = wished::shutdown_lsn(world);
        return world.act(Action::Release { epoch: key.epoch, optime }, reason);
    }
    // What ended while it started would most likely do so again, for as long as there is time.
    if world.memory.failed_starts >= FAILED_STARTS && others {
        return world.act(Action::Release { epoch: key.epoch, optime: None }, Reason::StartFailed);
    }
    if let Some(decision) = hand_over::after_crash(world, key) {
        return decision;
    }
    match &world.local.data {
        DataDir::Present(control) if !control.standby => {
            match &world.dcs {
                Dcs::Known(view) => {
                    if let Some(decision) = sync::before_serving(world, view, key) {
                        return decision;
                    }
                }
                Dcs::Unknown { .. } if !sync::is_in_order(world, key) => {
                    return world.wait(Reason::StoreAway);
                }
                Dcs::Unknown { .. } => {}
            }
            let crashed = world.memory.crashed_at.is_some();
            let reason = if crashed { Reason::Crashed } else { Reason::NotRunning };
            world.guarded(key.epoch, Action::StartPrimary, reason)
        }
        DataDir::Present(_) => match world.stale_guard() {
            Some(decision) => decision,
            None => world.act(Action::StartStandby { upstream: None }, Reason::NotRunning),
        },
        DataDir::Absent | DataDir::Spoiled | DataDir::Unreadable(_) => world.wait(Reason::CannotServe),
    }
}

/// The same while the store is away but our right to lead is not: only PostgreSQL itself is looked after.
pub(super) fn keep_serving(world: &World, key: &LeaderKey) -> Decision {
    match world.local.process {
        Process::Absent => restart(world, key),
        Process::Starting { .. } => world.wait(Reason::Starting),
        Process::Stopping => world.wait(Reason::Busy(super::Slot::Postgres)),
        Process::Running => match world.local.role {
            // A guard that died is replaced at once; nothing about arming it needs the store.
            LocalRole::Primary => world.guarded(key.epoch, Action::Wait, Reason::Vouched),
            LocalRole::Standby | LocalRole::Unknown => world.wait(Reason::Vouched),
        },
    }
}
