//! An agent that was told to stop hands over if it leads, stops PostgreSQL, and ends.

use pgvane_agent::decide::action::{Action, Reason, Request, StopMode};
use pgvane_agent::decide::memory::HandOver;
use pgvane_agent::decide::world::{DataDir, Guard, Peers, Process, Slot, World};
use pgvane_cluster::ids::Lsn;

use crate::decide_support::{
    EPOCH, HEAD, ME, NOW, OTHER_LEASE, REQUESTED, busy, check, check_wait, control, edit, following,
    handed_over, lead, leaderless, leading, ms, request, standby_at, stopped, store_away,
};

const SHUTDOWN: Request = Request::Shutdown;
const FAST: Action = Action::Stop { how: StopMode::Fast };

fn leader() -> World {
    let mut world = leading();
    world.memory.shutdown = true;
    world.peers = Peers { asked_at: NOW - ms(100), answers: [("pg3".into(), standby_at(HEAD))].into() };
    world
}

fn stopped_leader(age: u64, lsn: Option<Lsn>) -> World {
    let mut world = leader();
    stopped(&mut world, DataDir::Present(control(false, true)));
    world.memory.hand_over = Some(handed_over(&world, SHUTDOWN, ms(age), lsn));
    world
}

fn standby() -> World {
    let mut world = following();
    world.memory.shutdown = true;
    world
}

fn gone() -> World {
    let mut world = standby();
    stopped(&mut world, DataDir::Present(control(true, true)));
    world
}

#[test]
fn a_leader_first_asks_who_can_take_over() {
    let mut world = leader();
    world.peers.asked_at = NOW - ms(1001);
    check(&world, &Action::PollPeers, &Reason::RequestedBy(SHUTDOWN));
}

#[test]
fn a_leader_writes_a_checkpoint_before_it_stops() {
    check(&leader(), &Action::Checkpoint { request: SHUTDOWN }, &Reason::RequestedBy(SHUTDOWN));
}

#[test]
fn a_leader_stops_after_the_checkpoint() {
    let mut world = leader();
    world.memory.hand_over = Some(HandOver { request: SHUTDOWN, checkpointed: true, stopped: None });
    check(&world, &Action::StopToHandOver { request: SHUTDOWN }, &Reason::RequestedBy(SHUTDOWN));
}

#[test]
fn a_leader_that_nobody_can_follow_stops_as_cleanly() {
    let mut world = leader();
    world.peers.answers.clear();
    check(&world, &Action::StopToHandOver { request: SHUTDOWN }, &Reason::Shutdown);
}

#[test]
fn the_request_of_an_operator_gives_way_to_the_end_of_the_agent() {
    let mut world = leader();
    request(&mut world, Some(ME), Some("pg1"));
    check(&world, &Action::Checkpoint { request: SHUTDOWN }, &Reason::RequestedBy(SHUTDOWN));
}

#[test]
fn after_the_stop_the_key_goes_to_who_has_it_all() {
    let mut world = stopped_leader(200, Some(HEAD));
    let release = Action::Release { epoch: EPOCH, optime: Some(HEAD) };
    check(&world, &release, &Reason::CandidateReady("pg3".into()));
    world.peers.asked_at = NOW - ms(201);
    check(&world, &Action::PollPeers, &Reason::RequestedBy(SHUTDOWN));
}

#[test]
fn after_the_stop_the_key_goes_even_when_nobody_confirms() {
    let mut world = stopped_leader(2001, Some(HEAD));
    world.peers.answers.clear();
    let release = Action::Release { epoch: EPOCH, optime: Some(HEAD) };
    check(&world, &release, &Reason::HandOverTimeout);
}

#[test]
fn an_unclean_stop_gives_the_key_back_without_a_position() {
    let release = Action::Release { epoch: EPOCH, optime: None };
    check(&stopped_leader(10, None), &release, &Reason::HandOverTimeout);
}

#[test]
fn an_agent_that_stops_does_not_start_again_what_an_operator_had_it_stop() {
    let mut world = stopped_leader(2001, Some(HEAD));
    let by = Request::Operator(REQUESTED);
    world.memory.hand_over = Some(handed_over(&world, by, ms(2001), Some(HEAD)));
    world.peers.answers.clear();
    let release = Action::Release { epoch: EPOCH, optime: Some(HEAD) };
    check(&world, &release, &Reason::HandOverTimeout);
}

#[test]
fn a_leader_without_a_server_gives_the_key_back() {
    let mut world = leader();
    stopped(&mut world, DataDir::Present(control(false, true)));
    check(&world, &Action::Release { epoch: EPOCH, optime: None }, &Reason::Shutdown);
}

#[test]
fn the_key_is_kept_while_the_start_of_a_primary_may_still_succeed() {
    let mut world = leader();
    stopped(&mut world, DataDir::Present(control(false, true)));
    busy(&mut world, Slot::Postgres, "start_primary");
    check_wait(&world, &Reason::Busy(Slot::Postgres));
}

#[test]
fn a_leader_that_still_starts_is_stopped() {
    let mut world = leader();
    world.local.process = Process::Starting { since: NOW };
    check(&world, &FAST, &Reason::Shutdown);
}

#[test]
fn a_standby_is_stopped() {
    check(&standby(), &FAST, &Reason::Shutdown);
    let mut world = standby();
    world.local.process = Process::Starting { since: NOW };
    check(&world, &FAST, &Reason::Shutdown);
    world.local.process = Process::Stopping;
    check_wait(&world, &Reason::Busy(Slot::Postgres));
}

#[test]
fn a_store_that_is_away_does_not_keep_a_server_from_its_stop() {
    let mut world = leader();
    store_away(&mut world);
    check(&world, &FAST, &Reason::Shutdown);
    let mut world = gone();
    store_away(&mut world);
    check(&world, &Action::Exit, &Reason::Shutdown);
}

#[test]
fn a_key_under_an_old_lease_is_left_to_end_by_itself() {
    let mut world = leader();
    stopped(&mut world, DataDir::Present(control(false, true)));
    edit(&mut world, |view| lead(view, ME, OTHER_LEASE));
    world.local.guard = Guard::Idle;
    check(&world, &Action::Exit, &Reason::Shutdown);
}

#[test]
fn nothing_is_raced_for_at_the_end() {
    let mut world = leaderless();
    world.memory.shutdown = true;
    check(&world, &FAST, &Reason::Shutdown);
}

#[test]
fn the_agent_ends_once_nothing_runs() {
    check(&gone(), &Action::Exit, &Reason::Shutdown);
}

#[test]
fn the_agent_takes_the_deadline_from_the_guard_before_it_ends() {
    for guard in [Guard::Armed { epoch: EPOCH }, Guard::Outdated] {
        let mut world = gone();
        world.local.guard = guard;
        check(&world, &Action::DisarmGuard, &Reason::GuardNotNeeded);
    }
}

#[test]
fn the_agent_waits_for_what_it_began() {
    for slot in [Slot::Postgres, Slot::Store] {
        let mut world = gone();
        busy(&mut world, slot, "x");
        check_wait(&world, &Reason::Shutdown);
    }
}

#[test]
fn in_pause_the_agent_ends_and_leaves_the_server_running() {
    let mut world = leader();
    world.settings.pause = true;
    check(&world, &Action::DisarmGuard, &Reason::GuardNotNeeded);
    world.local.guard = Guard::Idle;
    check(&world, &Action::Exit, &Reason::Shutdown);
}
