//! While another member leads this node runs as its standby.

use pgvane_agent::decide::action::{Action, Reason, StopMode};
use pgvane_agent::decide::world::{DataDir, Guard, Process, Slot, Upstream, World};
use pgvane_cluster::ids::{Epoch, Lsn, Timeline};
use pgvane_cluster::records::{MemberRole, Tags};

use crate::decide_support::{
    HEAD, NOW, busy, check, check_wait, control, edit, ended_at, following, member, ms, stopped, upstream,
};

fn rejoin() -> Action {
    Action::Rejoin { leader: upstream("pg1") }
}

fn not_serving(world: &mut World) {
    member(world, "pg1", |record| record.role = MemberRole::Promoted);
}

fn replicate_from(name: &str) -> Tags {
    Tags([("replicatefrom".to_owned(), name.into())].into())
}

#[test]
fn a_standby_that_streams_is_left_alone() {
    check_wait(&following(), &Reason::Following);
}

#[test]
fn a_leader_without_an_address_is_waited_for() {
    let mut world = following();
    member(&mut world, "pg1", |record| record.conn_url = None);
    check_wait(&world, &Reason::LeaderNotServing("pg1".into()));
    edit(&mut world, |view| drop(view.members.remove(&"pg1".into())));
    check_wait(&world, &Reason::LeaderNotServing("pg1".into()));
}

#[test]
fn an_old_deadline_is_taken_from_the_guard() {
    for guard in [Guard::Armed { epoch: Epoch(3) }, Guard::Outdated] {
        let mut world = following();
        world.local.guard = guard;
        check(&world, &Action::DisarmGuard, &Reason::GuardNotNeeded);
    }
}

#[test]
fn an_old_deadline_stays_while_an_effect_works_on_the_server() {
    let mut world = following();
    world.local.guard = Guard::Outdated;
    busy(&mut world, Slot::Postgres, "stop");
    check_wait(&world, &Reason::Following);
}

#[test]
fn a_server_that_ended_rejoins_a_leader_that_serves() {
    for standby in [true, false] {
        let mut world = following();
        stopped(&mut world, DataDir::Present(control(standby, false)));
        check(&world, &rejoin(), &Reason::NotRunning);
    }
}

#[test]
fn before_the_leader_serves_a_standby_serves_reads_and_a_former_primary_waits() {
    let mut world = following();
    not_serving(&mut world);
    stopped(&mut world, DataDir::Present(control(true, false)));
    // Of nobody: which timelines it has WAL of shows when it runs.
    check(&world, &Action::StartStandby { upstream: None }, &Reason::NotRunning);
    stopped(&mut world, DataDir::Present(control(false, false)));
    check_wait(&world, &Reason::LeaderNotServing("pg1".into()));
}

#[test]
fn a_server_that_starts_or_stops_is_waited_for() {
    let mut world = following();
    world.local.process = Process::Starting { since: NOW };
    check_wait(&world, &Reason::Starting);
    world.local.process = Process::Stopping;
    check_wait(&world, &Reason::Busy(Slot::Postgres));
}

/// A copy or a rewound server that was started before a leader was known never comes to answer by itself.
#[test]
fn a_server_that_starts_for_long_and_follows_no_leader_is_stopped_to_rejoin() {
    let stop = Action::Stop { how: StopMode::Fast };
    let mut world = following();
    world.local.process = Process::Starting { since: NOW - ms(5001) };
    check(&world, &stop, &Reason::StartsOfNobody);
    let leader = world.upstream(&"pg1".into()).expect("an address");
    let other = Upstream { name: "pg3".into(), ..leader.clone() };
    for (action, is_right) in [
        (Action::StartStandby { upstream: None }, false),
        (Action::Rejoin { leader: other.clone() }, false),
        (Action::Follow { upstream: other }, false),
        (Action::StartStandby { upstream: Some(leader.clone()) }, true),
        (Action::Rejoin { leader: leader.clone() }, true),
        (Action::Follow { upstream: leader }, true),
    ] {
        world.memory.begin(NOW, &action);
        if is_right {
            check_wait(&world, &Reason::Starting);
        } else {
            check(&world, &stop, &Reason::StartsOfNobody);
        }
    }
    world.memory.begin(NOW, &Action::StartStandby { upstream: None });
    world.local.process = Process::Starting { since: NOW - ms(5000) };
    check_wait(&world, &Reason::Starting);
    world.local.process = Process::Starting { since: NOW - ms(60_000) };
    not_serving(&mut world);
    check_wait(&world, &Reason::Starting);
}

#[test]
fn a_server_that_has_not_answered_yet_is_asked_again_soon() {
    let mut world = following();
    world.local.sql = None;
    let decision = check_wait(&world, &Reason::PositionUnknown);
    assert_eq!(decision.wake_at, NOW + ms(20));
}

#[test]
fn a_server_past_the_end_of_its_timeline_rejoins_once_the_leader_serves() {
    let mut world = following();
    ended_at(&mut world, HEAD);
    check_wait(&world, &Reason::Following);
    ended_at(&mut world, Lsn(HEAD.0 - 1));
    check(&world, &rejoin(), &Reason::Diverged);
    not_serving(&mut world);
    check_wait(&world, &Reason::Following);
}

#[test]
fn a_server_on_a_timeline_that_is_no_longer_listed_rejoins_too() {
    let mut world = following();
    ended_at(&mut world, Lsn(HEAD.0 - 1));
    edit(&mut world, |view| view.history.as_mut().expect("known").0[0].timeline = Timeline(2));
    check(&world, &rejoin(), &Reason::Diverged);
}

#[test]
fn a_standby_of_another_server_is_pointed_at_the_leader() {
    let follow = Action::Follow { upstream: upstream("pg1") };
    for before in [None, Some(("pg3".to_owned(), 5432)), Some(("pg1".to_owned(), 5433))] {
        let mut world = following();
        world.local.sql.as_mut().expect("answers").upstream = before;
        check(&world, &follow, &Reason::WrongUpstream);
    }
}

#[test]
fn the_tag_names_the_server_to_follow_while_it_is_a_member() {
    let mut world = following();
    world.tags = replicate_from("pg3");
    check(&world, &Action::Follow { upstream: upstream("pg3") }, &Reason::WrongUpstream);
    for name in ["pg9", "pg2", "pg1", ""] {
        world.tags = replicate_from(name);
        check_wait(&world, &Reason::Following);
    }
}

#[test]
fn a_standby_that_starves_although_the_leader_serves_rejoins() {
    let mut world = following();
    world.memory.not_streaming_since = Some(NOW - ms(5000));
    check_wait(&world, &Reason::Following);
    world.memory.not_streaming_since = Some(NOW - ms(5001));
    check(&world, &rejoin(), &Reason::CannotStream);
    not_serving(&mut world);
    check_wait(&world, &Reason::Following);
}

#[test]
fn a_patroni_leader_gets_a_loop_to_make_our_slot() {
    let mut world = following();
    let loop_wait = world.settings.loop_wait;
    member(&mut world, "pg1", |record| record.pgvane = None);
    world.memory.not_streaming_since = Some(NOW - ms(5000) - loop_wait);
    check_wait(&world, &Reason::Following);
    world.memory.not_streaming_since = Some(NOW - ms(5001) - loop_wait);
    check(&world, &rejoin(), &Reason::CannotStream);
}
