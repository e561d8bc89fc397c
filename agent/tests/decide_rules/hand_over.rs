//! A planned change of the leader, step by step, and both ways to give it up.

use pgvane_agent::decide::action::{Action, Reason, Request};
use pgvane_agent::decide::memory::HandOver;
use pgvane_agent::decide::world::{DataDir, Guard, Peer, Peers, Process, Slot, World};
use pgvane_cluster::ids::{Lsn, Revision, Timeline};
use pgvane_cluster::records::{SyncRecord, Tags};
use pgvane_cluster::settings::SynchronousMode;
use pgvane_cluster::view::Versioned;

use crate::decide_support::{
    EPOCH, HEAD, ME, NOW, REQUESTED, busy, check, check_wait, control, edit, handed_over, leading, ms,
    nofailover, request, standby_at, stopped, vouch,
};

const OPERATOR: Request = Request::Operator(REQUESTED);
const CLEAR: Action = Action::ClearRequest { revision: REQUESTED };
const CHECKPOINT: Action = Action::Checkpoint { request: OPERATOR };

fn asked() -> Reason {
    Reason::RequestedBy(OPERATOR)
}

/// We lead, the operator wants another leader, pg1 and pg3 answered a moment ago that they have it all.
fn wanted() -> World {
    let mut world = leading();
    request(&mut world, Some(ME), None);
    let answers = [("pg1".into(), standby_at(HEAD)), ("pg3".into(), standby_at(HEAD))];
    world.peers = Peers { asked_at: NOW - ms(100), answers: answers.into() };
    world
}

/// The same, `age` milliseconds after the stop at `lsn`.
fn down(age: u64, lsn: Option<Lsn>) -> World {
    let mut world = wanted();
    stopped(&mut world, DataDir::Present(control(false, true)));
    world.memory.hand_over = Some(handed_over(&world, OPERATOR, ms(age), lsn));
    world
}

fn release() -> Action {
    Action::Release { epoch: EPOCH, optime: Some(HEAD) }
}

fn synchronous(world: &mut World, standbys: &str) {
    world.settings.synchronous_mode = SynchronousMode::On;
    let value = SyncRecord { leader: Some(ME.into()), quorum: 0, sync_standby: Some(standbys.to_owned()) };
    edit(world, |view| view.sync = Some(Versioned { value, mod_revision: Revision(5) }));
}

// The request.

#[test]
fn a_request_that_names_another_leader_is_cleared() {
    let mut world = wanted();
    request(&mut world, Some("pg1"), Some("pg3"));
    check(&world, &CLEAR, &Reason::RequestForAnotherLeader);
}

#[test]
fn nobody_is_asked_to_take_over_while_it_may_be_bound_by_a_promise_to_us() {
    let mut world = wanted();
    let longest = world.settings.ttl + world.timing.renew_interval;
    world.memory.consent_asked_at = Some(NOW - longest + ms(1));
    check_wait(&world, &Reason::CandidatesBound);
    world.memory.hand_over = Some(HandOver { request: OPERATOR, checkpointed: true, stopped: None });
    check_wait(&world, &Reason::CandidatesBound);
    world.memory.consent_asked_at = Some(NOW - longest);
    check(&world, &Action::StopToHandOver { request: OPERATOR }, &asked());
}

/// Given up for it once and won again, the leader would go down for it again and again.
#[test]
fn a_request_from_before_this_reign_is_cleared() {
    let mut world = wanted();
    edit(&mut world, |view| {
        view.failover.as_mut().expect("a request").mod_revision = Revision(EPOCH.0 - 1);
    });
    check(&world, &Action::ClearRequest { revision: Revision(EPOCH.0 - 1) }, &Reason::HandOverTimeout);
    // Whom to fail over to may be said while nobody leads.
    edit(&mut world, |view| {
        let request = view.failover.as_mut().expect("a request");
        (request.value.leader, request.value.member) = (None, Some("pg3".into()));
    });
    let request = Request::Operator(Revision(EPOCH.0 - 1));
    check(&world, &Action::Checkpoint { request }, &Reason::RequestedBy(request));
}

#[test]
fn a_request_that_names_the_leader_itself_is_cleared() {
    let mut world = wanted();
    request(&mut world, None, Some(ME));
    check(&world, &CLEAR, &Reason::RequestForLeader);
}

#[test]
fn a_request_for_later_waits() {
    let mut world = wanted();
    edit(&mut world, |view| {
        view.failover.as_mut().expect("a request").value.scheduled_at = Some("2030-01-01T00:00Z".to_owned());
    });
    check_wait(&world, &Reason::Leading);
}

#[test]
fn a_leader_that_does_not_serve_has_nothing_to_hand_over() {
    let mut world = wanted();
    world.local.process = Process::Starting { since: NOW };
    check_wait(&world, &Reason::Starting);
    stopped(&mut world, DataDir::Present(control(false, false)));
    check(&world, &Action::StartPrimary, &Reason::NotRunning);
}

#[test]
fn a_request_without_a_leader_is_as_good() {
    let mut world = wanted();
    request(&mut world, None, Some("pg3"));
    check(&world, &CHECKPOINT, &asked());
}

// Before the stop.

#[test]
fn the_candidates_are_asked_first() {
    let mut world = wanted();
    world.peers.asked_at = NOW - ms(1001);
    check(&world, &Action::PollPeers, &asked());
}

#[test]
fn a_checkpoint_shortens_the_stop() {
    check(&wanted(), &CHECKPOINT, &asked());
}

#[test]
fn the_request_is_dropped_when_nobody_can_take_over() {
    let mut world = wanted();
    world.peers.answers.clear();
    check(&world, &CLEAR, &Reason::NoCandidate);
    let answer = |is_primary, running, tags| Peer::Answered {
        is_primary,
        running,
        timeline: Some(Timeline(1)),
        position: HEAD,
        fresh: true,
        tags,
    };
    let useless = [
        Peer::Unreachable,
        answer(true, true, Tags::default()),
        answer(false, false, Tags::default()),
        answer(false, true, nofailover()),
        standby_at(Lsn(HEAD.0 - 1_048_577)),
    ];
    for peer in useless {
        world.peers.answers = [("pg3".into(), peer)].into();
        check(&world, &CLEAR, &Reason::NoCandidate);
    }
    world.peers.answers = [("pg3".into(), standby_at(Lsn(HEAD.0 - 1_048_576)))].into();
    check(&world, &CHECKPOINT, &asked());
    world.peers.answers = [(ME.into(), standby_at(HEAD))].into();
    check(&world, &CLEAR, &Reason::NoCandidate);
}

#[test]
fn only_the_named_candidate_counts() {
    let mut world = wanted();
    request(&mut world, Some(ME), Some("pg3"));
    check(&world, &CHECKPOINT, &asked());
    world.peers.answers.remove(&"pg3".into());
    check(&world, &CLEAR, &Reason::NoCandidate);
}

#[test]
fn in_synchronous_mode_only_who_confirms_commits_counts() {
    let mut world = wanted();
    synchronous(&mut world, "pg3");
    check(&world, &CHECKPOINT, &asked());
    synchronous(&mut world, "pg9");
    check(&world, &CLEAR, &Reason::NoCandidate);
}

#[test]
fn the_stop_follows_the_checkpoint_of_this_request() {
    let mut world = wanted();
    world.memory.hand_over = Some(HandOver { request: OPERATOR, checkpointed: true, stopped: None });
    check(&world, &Action::StopToHandOver { request: OPERATOR }, &asked());
    let earlier = Request::Operator(Revision(REQUESTED.0 - 1));
    world.memory.hand_over = Some(HandOver { request: earlier, checkpointed: true, stopped: None });
    check(&world, &CHECKPOINT, &asked());
}

#[test]
fn a_step_that_failed_is_tried_again_later() {
    let mut world = wanted();
    busy(&mut world, Slot::Postgres, "checkpoint");
    check_wait(&world, &Reason::Busy(Slot::Postgres));
}

#[test]
fn a_promise_to_another_leader_comes_before_a_hand_over() {
    let mut world = down(200, Some(HEAD));
    world.memory.vouch = Some(vouch(&world, "pg1"));
    check_wait(&world, &Reason::WeVouchedFor("pg1".into()));
}

// After the stop.

#[test]
fn the_candidates_are_asked_again_after_the_stop() {
    let mut world = down(50, Some(HEAD));
    check(&world, &Action::PollPeers, &asked());
    busy(&mut world, Slot::Peers, "poll_peers");
    let decision = check_wait(&world, &Reason::Busy(Slot::Peers));
    assert_eq!(decision.wake_at, NOW + ms(20));
}

#[test]
fn the_key_goes_once_a_candidate_has_it_all() {
    check(&down(100, Some(HEAD)), &release(), &Reason::CandidateReady("pg1".into()));
}

#[test]
fn the_candidate_that_is_furthest_counts() {
    let mut world = down(100, Some(HEAD));
    world.peers.answers.insert("pg3".into(), standby_at(Lsn(HEAD.0 + 8)));
    check(&world, &release(), &Reason::CandidateReady("pg3".into()));
}

#[test]
fn the_key_stays_until_the_named_candidate_has_it_all() {
    let mut world = down(100, Some(HEAD));
    request(&mut world, Some(ME), Some("pg3"));
    check(&world, &release(), &Reason::CandidateReady("pg3".into()));
    world.peers.answers.insert("pg3".into(), standby_at(Lsn(HEAD.0 - 1)));
    check(&world, &Action::PollPeers, &asked());
}

#[test]
fn the_key_stays_until_a_synchronous_candidate_has_it_all() {
    let mut world = down(100, Some(HEAD));
    synchronous(&mut world, "pg3");
    check(&world, &release(), &Reason::CandidateReady("pg3".into()));
    synchronous(&mut world, "pg9");
    check(&world, &Action::PollPeers, &asked());
}

#[test]
fn the_key_is_not_given_back_while_the_server_is_started_again() {
    let mut world = down(2100, Some(HEAD));
    busy(&mut world, Slot::Postgres, "start_primary");
    check_wait(&world, &Reason::Busy(Slot::Postgres));
}

#[test]
fn the_server_is_not_started_again_while_the_key_is_given_back() {
    let mut world = down(2100, Some(HEAD));
    world.peers.answers.clear();
    busy(&mut world, Slot::Store, "release");
    check_wait(&world, &Reason::Busy(Slot::Store));
}

#[test]
fn who_is_not_confirmed_in_time_serves_on() {
    let mut world = down(2000, Some(HEAD));
    world.peers.answers.clear();
    check(&world, &Action::PollPeers, &asked());
    let mut world = down(2001, Some(HEAD));
    world.peers.answers.clear();
    check(&world, &Action::StartPrimary, &Reason::HandOverTimeout);
    world.local.guard = Guard::Outdated;
    check(&world, &Action::ArmGuard { epoch: EPOCH }, &Reason::GuardNotArmed);
}

#[test]
fn an_unclean_stop_is_given_up_at_once() {
    check(&down(100, None), &Action::StartPrimary, &Reason::HandOverTimeout);
}

#[test]
fn once_it_serves_again_the_request_is_dropped() {
    let mut world = wanted();
    world.memory.hand_over = Some(handed_over(&world, OPERATOR, ms(2100), Some(HEAD)));
    check(&world, &CLEAR, &Reason::HandOverTimeout);
    edit(&mut world, |view| view.failover = None);
    check(&world, &CLEAR, &Reason::HandOverTimeout);
}

#[test]
fn a_crash_after_a_hand_over_was_given_up_is_not_handed_over_at_the_old_position() {
    let mut world = wanted();
    world.memory.hand_over = Some(handed_over(&world, OPERATOR, ms(2100), Some(HEAD)));
    let (dcs, local, me) = (world.dcs.clone(), world.local.clone(), world.me.clone());
    world.memory.note(NOW, &dcs, &local, &me);
    stopped(&mut world, DataDir::Present(control(false, false)));
    check(&world, &Action::StartPrimary, &Reason::HandOverTimeout);
}
