//! While nobody leads a node takes part in the race or stands aside.

use pgvane_agent::decide::action::{Action, Reason};
use pgvane_agent::decide::world::{DataDir, Guard, OwnLease, Peers, Process, Slot, World};
use pgvane_cluster::ids::{Epoch, Lsn};

use crate::decide_support::{
    HEAD, ME, NOW, check, check_wait, control, edit, leaderless, member, ms, nofailover, standby_at, stopped,
    vouch,
};

/// A stopped primary's data in a cluster that nobody has led yet.
fn fresh() -> World {
    let mut world = leaderless();
    stopped(&mut world, DataDir::Present(control(false, true)));
    edit(&mut world, |view| view.status = None);
    world
}

/// We led until half a second ago and stopped.
fn stepped_down() -> World {
    let mut world = leaderless();
    stopped(&mut world, DataDir::Present(control(false, true)));
    world.memory.last_leader = Some(ME.into());
    world
}

#[test]
fn an_old_deadline_is_taken_from_the_guard_first() {
    for guard in [Guard::Armed { epoch: Epoch(3) }, Guard::Outdated] {
        let mut world = leaderless();
        world.local.guard = guard;
        check(&world, &Action::DisarmGuard, &Reason::GuardNotNeeded);
    }
}

#[test]
fn without_a_lease_nobody_races() {
    let mut world = leaderless();
    world.lease = OwnLease::None;
    let decision = check_wait(&world, &Reason::NoLease);
    assert_eq!(decision.wake_at, NOW + ms(20));
}

#[test]
fn the_first_leader_campaigns_before_it_starts() {
    check(&fresh(), &Action::Campaign, &Reason::NewCluster);
}

#[test]
fn who_may_not_lead_is_not_the_first_leader_either() {
    let mut world = fresh();
    world.tags = nofailover();
    check(&world, &Action::StartStandby { upstream: None }, &Reason::NotRunning);
}

#[test]
fn the_first_leader_keeps_its_word_to_another() {
    let mut world = fresh();
    world.memory.vouch = Some(vouch(&world, "pg1"));
    check_wait(&world, &Reason::WeVouchedFor("pg1".into()));
}

#[test]
fn a_cluster_with_a_past_is_not_a_new_one() {
    let mut world = fresh();
    crate::decide_support::ended_at(&mut world, HEAD);
    check(&world, &Action::StartStandby { upstream: None }, &Reason::NotRunning);
}

#[test]
fn a_leader_that_stepped_down_leaves_the_disk_to_the_next() {
    check_wait(&stepped_down(), &Reason::LetOthersLead);
}

#[test]
fn a_leader_that_stepped_down_comes_back_when_nobody_takes_over() {
    let start = Action::StartStandby { upstream: None };
    let mut world = stepped_down();
    world.memory.leaderless_since = Some(NOW - ms(3000));
    check(&world, &start, &Reason::NotRunning);
    let mut world = stepped_down();
    member(&mut world, "pg3", |record| record.tags = nofailover());
    check(&world, &start, &Reason::NotRunning);
    let mut world = stepped_down();
    world.memory.last_leader = Some("pg1".into());
    check(&world, &start, &Reason::NotRunning);
    let mut world = stepped_down();
    stopped(&mut world, DataDir::Present(control(true, true)));
    check(&world, &start, &Reason::NotRunning);
}

#[test]
fn a_server_that_starts_or_stops_is_waited_for() {
    let mut world = leaderless();
    world.local.process = Process::Starting { since: NOW };
    check_wait(&world, &Reason::Starting);
    world.local.process = Process::Stopping;
    check_wait(&world, &Reason::Busy(Slot::Postgres));
}

#[test]
fn the_best_campaigns() {
    check(&leaderless(), &Action::Campaign, &Reason::BestCandidate);
}

#[test]
fn the_others_are_asked_before_anybody_campaigns() {
    let mut world = leaderless();
    world.peers = Peers::default();
    check(&world, &Action::PollPeers, &Reason::RaceNeedsAnswers);
}

#[test]
fn who_is_behind_waits() {
    let mut world = leaderless();
    world.peers.asked_at = NOW;
    world.peers.answers.insert("pg3".into(), standby_at(Lsn(HEAD.0 + 1)));
    let decision = check_wait(&world, &Reason::BehindPeer("pg3".into()));
    assert_eq!(decision.wake_at, NOW + ms(200));
}
