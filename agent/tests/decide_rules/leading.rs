//! Who holds the leader key becomes primary and stays it.

use pgvane_agent::decide::action::{Action, Reason, StopMode};
use pgvane_agent::decide::world::{DataDir, Guard, LocalRole, OwnLease, Process, Slot, World};
use pgvane_cluster::ids::Epoch;

use crate::decide_support::{
    EPOCH, LEASE, ME, NOW, OTHER_LEASE, busy, check, check_wait, consent, control, edit, following, lead,
    leading, ms, nofailover, renewed, stopped, vouch,
};

const RELEASE: Action = Action::Release { epoch: EPOCH, optime: None };
const PROMOTE: Action = Action::Promote { epoch: EPOCH };
const ARM: Action = Action::ArmGuard { epoch: EPOCH };

/// A standby that has just won the key, the guard armed for it.
fn won() -> World {
    let mut world = following();
    edit(&mut world, |view| lead(view, ME, LEASE));
    world.local.guard = Guard::Armed { epoch: EPOCH };
    world
}

fn crashed() -> World {
    let mut world = leading();
    stopped(&mut world, DataDir::Present(control(false, false)));
    world.memory.crashed_at = Some(NOW - ms(100));
    world.memory.down_since = Some(NOW - ms(100));
    world
}

fn alone(world: &mut World) {
    for name in ["pg1", "pg3"] {
        crate::decide_support::member(world, name, |record| record.tags = nofailover());
    }
}

#[test]
fn the_winner_is_promoted_for_its_reign() {
    check(&won(), &PROMOTE, &Reason::WonKey);
}

#[test]
fn the_winner_arms_the_guard_first() {
    let another = Guard::Armed { epoch: Epoch(EPOCH.0 - 1) };
    for guard in [Guard::Absent, Guard::Idle, Guard::Outdated, another] {
        let mut world = won();
        world.local.guard = guard;
        check(&world, &ARM, &Reason::GuardNotArmed);
    }
}

#[test]
fn the_winner_waits_while_the_guard_changes_hands() {
    let mut world = won();
    busy(&mut world, Slot::Guard, "disarm_guard");
    check_wait(&world, &Reason::Busy(Slot::Guard));
}

#[test]
fn the_winner_is_not_promoted_while_its_key_is_given_back() {
    let mut world = won();
    busy(&mut world, Slot::Store, "release");
    check_wait(&world, &Reason::Busy(Slot::Store));
    busy(&mut world, Slot::Store, "write_config");
    check(&world, &PROMOTE, &Reason::WonKey);
}

#[test]
fn the_winner_is_not_promoted_under_a_lease_that_may_end() {
    let mut world = won();
    renewed(&mut world, ms(2119));
    check(&world, &PROMOTE, &Reason::WonKey);
    renewed(&mut world, ms(2120));
    let decision = check_wait(&world, &Reason::RenewalLate);
    assert_eq!(decision.wake_at, NOW + ms(20));
}

#[test]
fn the_winner_keeps_its_word_to_another_leader() {
    let mut world = won();
    world.memory.vouch = Some(vouch(&world, "pg1"));
    world.memory.vouch.as_mut().expect("vouched").until = NOW + ms(300);
    let decision = check_wait(&world, &Reason::WeVouchedFor("pg1".into()));
    assert_eq!(decision.wake_at, NOW + ms(300));
}

#[test]
fn the_word_of_the_others_for_an_earlier_reign_changes_nothing() {
    let mut world = won();
    renewed(&mut world, ms(500));
    let mut earlier = consent(&world, ms(100));
    earlier.epoch = Epoch(EPOCH.0 - 1);
    world.memory.consent = Some(earlier);
    check(&world, &PROMOTE, &Reason::WonKey);
}

#[test]
fn a_leader_serves() {
    let decision = check_wait(&leading(), &Reason::Leading);
    assert_eq!(decision.wake_at, NOW + ms(500));
}

#[test]
fn a_leader_replaces_its_guard() {
    for guard in [Guard::Absent, Guard::Idle, Guard::Outdated] {
        let mut world = leading();
        world.local.guard = guard;
        check(&world, &ARM, &Reason::GuardNotArmed);
    }
}

#[test]
fn a_leader_writes_a_missing_configuration() {
    let mut world = leading();
    edit(&mut world, |view| view.config = None);
    check(&world, &Action::WriteConfig, &Reason::ConfigMissing);
}

#[test]
fn a_leader_of_unknown_role_is_asked_again_soon() {
    let mut world = leading();
    world.local.role = LocalRole::Unknown;
    let decision = check_wait(&world, &Reason::PositionUnknown);
    assert_eq!(decision.wake_at, NOW + ms(20));
}

#[test]
fn a_leader_restarts_what_crashed_in_place() {
    check(&crashed(), &Action::StartPrimary, &Reason::Crashed);
    let mut world = crashed();
    world.memory.crashed_at = None;
    check(&world, &Action::StartPrimary, &Reason::NotRunning);
}

#[test]
fn a_restart_needs_the_guard() {
    let mut world = crashed();
    world.local.guard = Guard::Outdated;
    check(&world, &ARM, &Reason::GuardNotArmed);
}

#[test]
fn a_restart_waits_for_what_works_on_the_server() {
    let mut world = crashed();
    busy(&mut world, Slot::Postgres, "stop");
    check_wait(&world, &Reason::Busy(Slot::Postgres));
}

#[test]
fn a_restart_waits_while_the_key_is_given_back() {
    let mut world = crashed();
    busy(&mut world, Slot::Store, "release");
    check_wait(&world, &Reason::Busy(Slot::Store));
}

#[test]
fn others_may_lead_once_the_time_for_a_restart_is_spent() {
    let mut world = crashed();
    world.settings.primary_start_timeout = ms(101);
    check(&world, &Action::StartPrimary, &Reason::Crashed);
    world.settings.primary_start_timeout = ms(100);
    check(&world, &RELEASE, &Reason::StartTimeout);
    alone(&mut world);
    check(&world, &Action::StartPrimary, &Reason::Crashed);
}

#[test]
fn the_time_counts_for_a_server_that_never_came_up_too() {
    let mut world = crashed();
    world.memory.crashed_at = None;
    world.settings.primary_start_timeout = ms(100);
    check(&world, &RELEASE, &Reason::StartTimeout);
}

#[test]
fn with_no_time_for_a_restart_others_lead_at_once() {
    let mut world = crashed();
    world.memory.down_since = Some(NOW);
    world.settings.primary_start_timeout = ms(0);
    check(&world, &RELEASE, &Reason::StartTimeout);
}

#[test]
fn a_start_is_waited_for_within_its_time() {
    let mut world = leading();
    world.settings.primary_start_timeout = ms(1000);
    world.local.process = Process::Starting { since: NOW - ms(1000) };
    check_wait(&world, &Reason::Starting);
    world.local.process = Process::Starting { since: NOW - ms(1001) };
    check(&world, &Action::Stop { how: StopMode::Immediate }, &Reason::StartTimeout);
    alone(&mut world);
    check_wait(&world, &Reason::Starting);
}

#[test]
fn a_start_without_a_time_limit_is_not_stopped() {
    let mut world = leading();
    world.settings.primary_start_timeout = ms(0);
    world.local.process = Process::Starting { since: NOW - ms(60_000) };
    check_wait(&world, &Reason::Starting);
}

#[test]
fn a_stop_under_way_is_waited_for() {
    let mut world = leading();
    world.local.process = Process::Stopping;
    check_wait(&world, &Reason::Busy(Slot::Postgres));
}

#[test]
fn a_leader_on_the_data_of_a_standby_starts_it_before_the_promotion() {
    let mut world = won();
    stopped(&mut world, DataDir::Present(control(true, true)));
    check(&world, &Action::DisarmGuard, &Reason::GuardNotNeeded);
    world.local.guard = Guard::Idle;
    check(&world, &Action::StartStandby { upstream: None }, &Reason::NotRunning);
}

#[test]
fn the_key_of_a_predecessor_is_taken_over() {
    let mut world = following();
    edit(&mut world, |view| lead(view, ME, OTHER_LEASE));
    check(&world, &Action::TakeOverKey, &Reason::KeyUnderOldLease);
    world.lease = OwnLease::None;
    check_wait(&world, &Reason::NoLease);
}
