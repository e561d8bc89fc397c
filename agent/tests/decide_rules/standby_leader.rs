//! A cluster that follows another one as a whole has a leader, and no primary.

use pgvane_agent::decide::action::{Action, Reason, StopMode};
use pgvane_agent::decide::announce;
use pgvane_agent::decide::standby_leader::REMOTE;
use pgvane_agent::decide::world::{DataDir, Guard, LocalRole, Peer, Peers, Upstream, World};
use pgvane_cluster::ids::{Lsn, NodeName};
use pgvane_cluster::records::{MemberRole, StatusRecord};
use pgvane_cluster::settings::{StandbyCluster, SynchronousMode};

use crate::decide_support::{
    EPOCH, HEAD, LEASE, ME, NOW, REQUESTED, announced, check, check_wait, control, edit, ended_at, following,
    lead, leaderless, leading, member, ms, request, standby_at, stopped, upstream,
};

fn section(world: &mut World) {
    let section = StandbyCluster {
        host: Some("far".to_owned()),
        port: Some("5433".to_owned()),
        ..StandbyCluster::default()
    };
    world.settings.standby_cluster = Some(section);
}

fn remote() -> Upstream {
    Upstream { name: NodeName::from(REMOTE), host: "far".to_owned(), port: 5433 }
}

/// We hold the key and stream from the remote cluster.
fn standby_leader() -> World {
    let mut world = following();
    section(&mut world);
    world.local.sql.as_mut().expect("answers").upstream = Some(("far".to_owned(), 5433));
    world.memory.last_leader = Some(ME.into());
    edit(&mut world, |view| lead(view, ME, LEASE));
    member(&mut world, "pg1", |record| record.role = MemberRole::Replica);
    world
}

#[test]
fn it_follows_the_remote_cluster_and_never_promotes() {
    check_wait(&standby_leader(), &Reason::StandbyLeading);
    let mut world = standby_leader();
    world.local.sql.as_mut().expect("answers").upstream = Some(("pg1".to_owned(), 5432));
    check(&world, &Action::Follow { upstream: remote() }, &Reason::WrongUpstream);
    let mut world = standby_leader();
    world.memory.not_streaming_since = Some(NOW - ms(5001));
    check(&world, &Action::Rejoin { leader: remote() }, &Reason::CannotStream);
    stopped(&mut world, DataDir::Present(control(true, true)));
    check(&world, &Action::StartStandby { upstream: Some(remote()) }, &Reason::NotRunning);
    stopped(&mut world, DataDir::Present(control(false, true)));
    check(&world, &Action::Rejoin { leader: remote() }, &Reason::StandbyCluster);
}

#[test]
fn an_archive_alone_is_followed_without_a_connection() {
    let mut world = standby_leader();
    let restore_command = Some("cp /a/%f %p".to_owned());
    world.settings.standby_cluster = Some(StandbyCluster { restore_command, ..StandbyCluster::default() });
    check(&world, &Action::Stop { how: StopMode::Fast }, &Reason::WrongUpstream);
    let sql = world.local.sql.as_mut().expect("answers");
    (sql.upstream, sql.streaming) = (None, false);
    world.memory.not_streaming_since = Some(NOW - ms(60_000));
    check_wait(&world, &Reason::StandbyLeading);
}

#[test]
fn it_says_what_it_is() {
    let world = standby_leader();
    let record = announced(&world);
    assert_eq!(record.role, MemberRole::StandbyLeader);
    assert!(record.is_serving_leader() && !record.is_serving_primary());
    assert_eq!(record.pgvane.expect("native").serving_epoch, None);
    let status = StatusRecord { optime: HEAD, ..StatusRecord::default() };
    assert_eq!(announce::status(&world), Some((EPOCH, status)));
    assert_eq!(announce::reigns(&world), None);
}

#[test]
fn the_section_demotes_the_primary_and_its_absence_promotes_the_holder_of_the_key() {
    let mut world = leading();
    section(&mut world);
    check(&world, &Action::Stop { how: StopMode::Fast }, &Reason::StandbyCluster);
    let mut world = standby_leader();
    world.settings.standby_cluster = None;
    check(&world, &Action::ArmGuard { epoch: EPOCH }, &Reason::GuardNotArmed);
    world.local.guard = Guard::Armed { epoch: EPOCH };
    check(&world, &Action::Promote { epoch: EPOCH }, &Reason::WonKey);
}

#[test]
fn the_guard_holds_no_deadline_for_it() {
    let mut world = standby_leader();
    world.local.guard = Guard::Armed { epoch: EPOCH };
    check(&world, &Action::DisarmGuard, &Reason::GuardNotNeeded);
}

#[test]
fn whatever_may_be_a_primary_is_no_standby_leader() {
    let mut world = standby_leader();
    world.local.role = LocalRole::Unknown;
    check_wait(&world, &Reason::PositionUnknown);
    assert_eq!(announce::status(&world), None);
}

#[test]
fn the_others_follow_it() {
    let mut world = following();
    section(&mut world);
    // What the key tells of timelines is of the time when the cluster had its own.
    ended_at(&mut world, Lsn(5));
    check_wait(&world, &Reason::Following);
    world.local.sql.as_mut().expect("answers").upstream = None;
    member(&mut world, "pg1", |record| record.role = MemberRole::StandbyLeader);
    check(&world, &Action::Follow { upstream: upstream("pg1") }, &Reason::WrongUpstream);
    stopped(&mut world, DataDir::Present(control(true, true)));
    check(&world, &Action::Rejoin { leader: upstream("pg1") }, &Reason::NotRunning);
}

#[test]
fn the_race_needs_no_timeline_and_no_synchronous_commit() {
    let mut world = leaderless();
    section(&mut world);
    ended_at(&mut world, Lsn(5));
    world.settings.check_timeline = true;
    world.settings.synchronous_mode = SynchronousMode::On;
    check(&world, &Action::Campaign, &Reason::BestCandidate);
}

#[test]
fn a_switchover_gives_the_key_away_without_a_stop() {
    let mut world = standby_leader();
    request(&mut world, Some(ME), Some("pg3"));
    check(&world, &Action::PollPeers, &Reason::RaceNeedsAnswers);
    world.peers = Peers { asked_at: NOW - ms(100), answers: [("pg3".into(), standby_at(HEAD))].into() };
    let release = Action::Release { epoch: EPOCH, optime: Some(HEAD) };
    check(&world, &release, &Reason::CandidateReady("pg3".into()));
    world.peers.answers.insert("pg3".into(), Peer::Unreachable);
    check(&world, &Action::ClearRequest { revision: REQUESTED }, &Reason::NoCandidate);
    request(&mut world, Some("pg1"), None);
    check(&world, &Action::ClearRequest { revision: REQUESTED }, &Reason::RequestForAnotherLeader);
    request(&mut world, None, Some(ME));
    check(&world, &Action::ClearRequest { revision: REQUESTED }, &Reason::RequestForLeader);
}

#[test]
fn in_pause_it_keeps_the_key() {
    let mut world = standby_leader();
    world.settings.pause = true;
    check_wait(&world, &Reason::Paused);
}
