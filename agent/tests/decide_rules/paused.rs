//! In pause nothing happens by itself; the operator's named wishes do.

use pgvane_agent::decide::action::{Action, Reason, Request};
use pgvane_agent::decide::memory::Outcome;
use pgvane_agent::decide::world::{DataDir, Guard, LocalRole, OwnLease, Peers, Process, Slot, World};
use pgvane_cluster::ids::Epoch;
use pgvane_cluster::records::MemberRole;

use crate::decide_support::{
    EPOCH, HEAD, LEASE, ME, NOW, OTHER_LEASE, REQUESTED, SYSTEM, busy, check, check_wait, control, edit,
    following, handed_over, lead, leaderless, leading, member, ms, renewed, request, standby_at, stopped,
    store_away, upstream, vouch,
};

const RELEASE: Action = Action::Release { epoch: EPOCH, optime: None };

fn pause(mut world: World) -> World {
    world.settings.pause = true;
    world.local.guard = Guard::Idle;
    world
}

/// A standby that holds the key and was named by the operator.
fn named() -> World {
    let mut world = pause(following());
    edit(&mut world, |view| lead(view, ME, LEASE));
    request(&mut world, None, Some(ME));
    world
}

#[test]
fn the_guard_is_disarmed_while_an_operator_is_at_work() {
    for guard in [Guard::Armed { epoch: EPOCH }, Guard::Outdated] {
        let mut world = pause(leading());
        world.local.guard = guard;
        check(&world, &Action::DisarmGuard, &Reason::Paused);
    }
}

#[test]
fn leaders_and_standbys_go_on_as_they_are() {
    check_wait(&pause(leading()), &Reason::Paused);
    check_wait(&pause(following()), &Reason::Paused);
}

#[test]
fn a_late_renewal_stops_nothing() {
    let mut world = pause(leading());
    renewed(&mut world, ms(60_000));
    check_wait(&world, &Reason::Paused);
}

#[test]
fn a_store_that_is_away_is_waited_for() {
    let mut world = pause(leading());
    store_away(&mut world);
    check_wait(&world, &Reason::Paused);
}

#[test]
fn a_server_that_was_stopped_is_not_started() {
    let mut world = pause(following());
    stopped(&mut world, DataDir::Present(control(true, true)));
    check_wait(&world, &Reason::Paused);
}

#[test]
fn our_key_under_an_old_lease_is_taken_over() {
    let mut world = pause(leading());
    edit(&mut world, |view| lead(view, ME, OTHER_LEASE));
    check(&world, &Action::TakeOverKey, &Reason::KeyUnderOldLease);
}

#[test]
fn a_leader_without_a_primary_gives_the_key_back() {
    let mut world = pause(leading());
    stopped(&mut world, DataDir::Present(control(false, true)));
    check(&world, &RELEASE, &Reason::CannotServe);
    let mut world = named();
    edit(&mut world, |view| view.failover = None);
    check(&world, &RELEASE, &Reason::CannotServe);
}

#[test]
fn the_key_is_kept_while_the_server_may_accept_writes() {
    let mut world = pause(leading());
    world.local.role = LocalRole::Unknown;
    check_wait(&world, &Reason::Paused);
    world.local.role = LocalRole::Primary;
    for process in [Process::Starting { since: NOW }, Process::Stopping] {
        world.local.process = process;
        check_wait(&world, &Reason::Paused);
    }
}

#[test]
fn the_key_is_kept_while_an_effect_works_on_the_server() {
    let mut world = pause(leading());
    stopped(&mut world, DataDir::Present(control(false, true)));
    busy(&mut world, Slot::Postgres, "start_primary");
    check_wait(&world, &Reason::Busy(Slot::Postgres));
}

#[test]
fn the_standby_an_operator_named_is_promoted_once_it_holds_the_key() {
    check(&named(), &Action::Promote { epoch: EPOCH }, &Reason::WonKey);
}

#[test]
fn a_named_standby_is_not_promoted_under_a_lease_that_may_end() {
    let mut world = named();
    renewed(&mut world, ms(2120));
    check_wait(&world, &Reason::RenewalLate);
    renewed(&mut world, ms(60_000));
    check_wait(&world, &Reason::RenewalLate);
}

#[test]
fn a_named_standby_that_vouched_for_another_waits() {
    let mut world = named();
    world.memory.vouch = Some(vouch(&world, "pg1"));
    check_wait(&world, &Reason::WeVouchedFor("pg1".into()));
    edit(&mut world, |view| view.leader = None);
    check_wait(&world, &Reason::WeVouchedFor("pg1".into()));
}

#[test]
fn a_named_standby_whose_server_ended_gives_the_key_back() {
    let mut world = named();
    world.local.process = Process::Absent;
    check(&world, &RELEASE, &Reason::CannotServe);
}

#[test]
fn a_request_for_later_is_for_later() {
    let mut world = named();
    let later = |view: &mut pgvane_cluster::view::ClusterView| {
        view.failover.as_mut().expect("a request").value.scheduled_at = Some("2030-01-01T00:00Z".to_owned());
    };
    edit(&mut world, later);
    check(&world, &RELEASE, &Reason::CannotServe);
    edit(&mut world, |view| view.leader = None);
    check_wait(&world, &Reason::Paused);
}

#[test]
fn a_running_primary_keeps_the_key_alive() {
    let mut world = pause(leading());
    edit(&mut world, |view| view.leader = None);
    check(&world, &Action::Campaign, &Reason::Paused);
    edit(&mut world, |view| view.initialize = None);
    check(&world, &Action::Campaign, &Reason::Paused);
}

#[test]
fn a_primary_of_another_cluster_or_without_data_does_not() {
    let mut world = pause(leading());
    edit(&mut world, |view| {
        view.leader = None;
        view.initialize = Some("1".to_owned());
    });
    let foreign = Reason::ForeignData { cluster: "1".to_owned(), ours: SYSTEM.to_owned() };
    check_wait(&world, &foreign);
    // Nor does it keep the key once nothing can be written here.
    edit(&mut world, |view| lead(view, ME, LEASE));
    check_wait(&world, &foreign);
    stopped(&mut world, DataDir::Present(control(false, true)));
    check(&world, &RELEASE, &foreign);
    edit(&mut world, |view| view.leader = None);
    for data in [DataDir::Absent, DataDir::Spoiled, DataDir::Unreadable(String::new())] {
        world.local.data = data;
        check_wait(&world, &Reason::Paused);
    }
}

#[test]
fn a_primary_without_a_lease_waits_for_one() {
    let mut world = pause(leading());
    edit(&mut world, |view| view.leader = None);
    world.lease = OwnLease::None;
    check_wait(&world, &Reason::Paused);
}

#[test]
fn a_standby_races_only_when_it_was_named() {
    let mut world = pause(leaderless());
    check_wait(&world, &Reason::Paused);
    request(&mut world, None, Some("pg3"));
    check_wait(&world, &Reason::Paused);
    request(&mut world, None, Some(ME));
    check(&world, &Action::Campaign, &Reason::Paused);
    world.local.process = Process::Starting { since: NOW };
    check_wait(&world, &Reason::Paused);
}

/// The leader, in pause, with a request for pg3 and its answer.
fn asked_to_hand_over() -> World {
    let mut world = pause(leading());
    request(&mut world, Some(ME), Some("pg3"));
    world.peers = Peers { asked_at: NOW - ms(100), answers: [("pg3".into(), standby_at(HEAD))].into() };
    world
}

#[test]
fn a_switchover_to_a_named_candidate_works() {
    let by = Request::Operator(REQUESTED);
    let mut world = asked_to_hand_over();
    check(&world, &Action::Checkpoint { request: by }, &Reason::RequestedBy(by));
    world.memory.absorb(NOW, &Outcome::Checkpointed(by));
    check(&world, &Action::StopToHandOver { request: by }, &Reason::RequestedBy(by));
    stopped(&mut world, DataDir::Present(control(false, true)));
    world.memory.absorb(NOW - ms(150), &Outcome::StoppedToHandOver { request: by, shutdown_lsn: Some(HEAD) });
    let release = Action::Release { epoch: EPOCH, optime: Some(HEAD) };
    check(&world, &release, &Reason::CandidateReady("pg3".into()));
    // It follows whom it handed over to: that is a part of the wish.
    world.memory.begin(NOW, &release);
    world.memory.absorb(NOW, &Outcome::Released);
    edit(&mut world, |view| {
        lead(view, "pg3", OTHER_LEASE);
        view.leader.as_mut().expect("a leader").epoch = Epoch(EPOCH.0 + 1);
    });
    check_wait(&world, &Reason::LeaderNotServing("pg3".into()));
    member(&mut world, "pg3", |record| record.role = MemberRole::Primary);
    check(&world, &Action::Rejoin { leader: upstream("pg3") }, &Reason::NotRunning);
}

#[test]
fn a_switchover_that_nobody_confirmed_starts_again_without_a_guard() {
    let by = Request::Operator(REQUESTED);
    let mut world = asked_to_hand_over();
    stopped(&mut world, DataDir::Present(control(false, true)));
    world.memory.hand_over = Some(handed_over(&world, by, ms(2500), Some(HEAD)));
    world.peers = Peers::default();
    check(&world, &Action::StartPrimary, &Reason::HandOverTimeout);
    renewed(&mut world, ms(2200));
    check_wait(&world, &Reason::RenewalLate);
}

#[test]
fn a_switchover_to_nobody_in_particular_is_refused() {
    let mut world = asked_to_hand_over();
    request(&mut world, Some(ME), None);
    check(&world, &Action::ClearRequest { revision: REQUESTED }, &Reason::PausedWithoutCandidate);
}

#[test]
fn a_running_standby_is_pointed_to_the_new_leader() {
    let mut world = pause(following());
    edit(&mut world, |view| lead(view, "pg3", OTHER_LEASE));
    // What it is going to write may not be what this server has.
    check_wait(&world, &Reason::Paused);
    member(&mut world, "pg3", |record| record.role = MemberRole::Primary);
    check(&world, &Action::Follow { upstream: upstream("pg3") }, &Reason::WrongUpstream);
}

#[test]
fn another_leader_is_left_alone() {
    let mut world = pause(leading());
    edit(&mut world, |view| lead(view, "pg3", OTHER_LEASE));
    check_wait(&world, &Reason::Paused);
}
