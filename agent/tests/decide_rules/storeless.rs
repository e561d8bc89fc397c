//! While the store is away nothing is concluded from its silence, and what runs rightfully goes on.

use pgvane_agent::decide::action::{Action, Reason};
use pgvane_agent::decide::world::{DataDir, Dcs, Guard, LocalRole, Process, Slot, World};

use crate::decide_support::{
    EPOCH, ME, NOW, OTHER_LEASE, check, check_wait, consent, control, edit, empty, following, lead,
    leaderless, leading, ms, renewed, stopped, store_away, upstream, vouch,
};

fn away(mut world: World) -> World {
    store_away(&mut world);
    world
}

fn crashed() -> World {
    let mut world = away(leading());
    stopped(&mut world, DataDir::Present(control(false, false)));
    world.memory.crashed_at = Some(NOW - ms(100));
    world
}

#[test]
fn an_unreadable_directory_is_for_the_operator() {
    let mut world = away(following());
    stopped(&mut world, DataDir::Unreadable("torn".to_owned()));
    check(&world, &Action::Halt, &Reason::DataUnreadable("torn".to_owned()));
}

#[test]
fn a_leader_serves_on_within_its_right() {
    check_wait(&away(leading()), &Reason::Vouched);
}

#[test]
fn a_leader_replaces_its_guard_without_the_store() {
    for guard in [Guard::Absent, Guard::Idle, Guard::Outdated] {
        let mut world = away(leading());
        world.local.guard = guard;
        check(&world, &Action::ArmGuard { epoch: EPOCH }, &Reason::GuardNotArmed);
    }
}

#[test]
fn a_leader_restarts_what_crashed_within_its_right() {
    check(&crashed(), &Action::StartPrimary, &Reason::Crashed);
    let mut world = crashed();
    world.local.guard = Guard::Outdated;
    check(&world, &Action::ArmGuard { epoch: EPOCH }, &Reason::GuardNotArmed);
}

#[test]
fn a_leader_restarts_on_the_word_of_all_others() {
    let mut world = crashed();
    renewed(&mut world, ms(60_000));
    check_wait(&world, &Reason::StoreAway);
    world.memory.consent = Some(consent(&world, ms(100)));
    check(&world, &Action::StartPrimary, &Reason::Crashed);
    edit(&mut world, |view| lead(view, ME, OTHER_LEASE));
    check(&world, &Action::StartPrimary, &Reason::Crashed);
}

#[test]
fn the_word_given_for_another_reign_restarts_nothing() {
    let mut world = crashed();
    renewed(&mut world, ms(60_000));
    world.memory.consent = Some(consent(&world, ms(100)));
    edit(&mut world, |view| view.leader.as_mut().expect("leads").epoch.0 += 1);
    check_wait(&world, &Reason::StoreAway);
}

#[test]
fn a_leader_whose_right_runs_out_restarts_nothing() {
    let mut world = crashed();
    renewed(&mut world, ms(2120));
    check_wait(&world, &Reason::StoreAway);
}

#[test]
fn a_leader_that_vouched_for_another_restarts_nothing() {
    let mut world = crashed();
    world.memory.vouch = Some(vouch(&world, "pg1"));
    let decision = check_wait(&world, &Reason::WeVouchedFor("pg1".into()));
    assert_eq!(decision.wake_at, NOW + world.timing.renew_interval);
}

#[test]
fn the_key_is_not_given_back_to_a_store_that_is_away() {
    let mut world = crashed();
    world.settings.primary_start_timeout = ms(0);
    check(&world, &Action::StartPrimary, &Reason::Crashed);
}

#[test]
fn a_leader_waits_for_a_server_that_starts_or_stops() {
    let mut world = away(leading());
    world.local.process = Process::Starting { since: NOW };
    check_wait(&world, &Reason::Starting);
    world.local.process = Process::Stopping;
    check_wait(&world, &Reason::Busy(Slot::Postgres));
}

#[test]
fn a_standby_goes_on_and_is_never_promoted() {
    check_wait(&away(following()), &Reason::StoreAway);
    check_wait(&away(leaderless()), &Reason::StoreAway);
    let mut won = following();
    edit(&mut won, |view| lead(view, ME, crate::decide_support::LEASE));
    won.local.guard = Guard::Armed { epoch: EPOCH };
    assert_eq!(won.local.role, LocalRole::Standby);
    check_wait(&away(won), &Reason::Vouched);
}

#[test]
fn a_standby_that_ended_serves_reads_again() {
    let mut world = away(following());
    stopped(&mut world, DataDir::Present(control(true, false)));
    let upstream = Some(upstream("pg1"));
    check(&world, &Action::StartStandby { upstream }, &Reason::NotRunning);
    edit(&mut world, |view| view.leader = None);
    check(&world, &Action::StartStandby { upstream: None }, &Reason::NotRunning);
    world.dcs = Dcs::Unknown { since: NOW, last: None };
    check(&world, &Action::StartStandby { upstream: None }, &Reason::NotRunning);
}

#[test]
fn a_standby_that_ended_is_first_freed_of_an_old_deadline() {
    let mut world = away(following());
    stopped(&mut world, DataDir::Present(control(true, false)));
    world.local.guard = Guard::Outdated;
    check(&world, &Action::DisarmGuard, &Reason::GuardNotNeeded);
}

#[test]
fn a_former_primary_stays_down() {
    let mut world = away(following());
    stopped(&mut world, DataDir::Present(control(false, false)));
    check_wait(&world, &Reason::StoreAway);
}

#[test]
fn nothing_is_created_or_cloned() {
    check_wait(&away(empty()), &Reason::StoreAway);
    let mut world = away(following());
    stopped(&mut world, DataDir::Absent);
    check_wait(&world, &Reason::StoreAway);
}
