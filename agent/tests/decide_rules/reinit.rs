//! A replica that an operator wants made anew.

use pgvane_agent::decide::action::{Action, Reason, StopMode};
use pgvane_agent::decide::memory::Outcome;
use pgvane_agent::decide::reinit::{Reinit, judge};
use pgvane_agent::decide::world::{DataDir, Guard, LocalRole, Process, Slot, World};
use pgvane_cluster::records::{MemberState, Tags};

use crate::decide_support::{
    ME, NOW, OTHER_LEASE, a_restart, announced, busy, check, check_wait, control, edit, following, lead,
    leaderless, leading, member, ms, stopped, upstream,
};

const STOP: Action = Action::Stop { how: StopMode::Immediate };

fn wanted() -> World {
    let mut world = following();
    world.memory.reinit = Some(Reinit { asked_at: NOW - ms(20), from_leader: false, cloned: false });
    world
}

fn down() -> World {
    let mut world = wanted();
    stopped(&mut world, DataDir::Present(control(true, false)));
    world
}

#[test]
fn a_replica_is_stopped_copied_and_started() {
    let mut world = wanted();
    check(&world, &STOP, &Reason::Reinitialize);
    assert_eq!(announced(&world).state, MemberState::CreatingReplica, "from the first moment on");
    world = down();
    check(&world, &Action::Clone { from: upstream("pg1") }, &Reason::Reinitialize);
    busy(&mut world, Slot::Postgres, "clone");
    check_wait_for_clone(&world);
    world.local.ongoing.clear();
    world.memory.absorb(NOW, &Outcome::Cloned);
    check(&world, &Action::Rejoin { leader: upstream("pg1") }, &Reason::NotRunning);
    assert_eq!(announced(&world).state, MemberState::Stopped);
    world.local.process = Process::Running;
    let (dcs, local, me) = (world.dcs.clone(), world.local.clone(), world.me.clone());
    world.memory.note(NOW, &dcs, &local, &me);
    assert_eq!(world.memory.reinit, None);
}

fn check_wait_for_clone(world: &World) {
    let mut world = world.clone();
    let ongoing = world.local.ongoing.get_mut(&Slot::Postgres).expect("busy");
    ongoing.since = NOW - ms(10);
    check_wait(&world, &Reason::Busy(Slot::Postgres));
}

#[test]
fn what_was_under_way_before_is_given_up() {
    for what in ["rejoin", "clone", "start_standby", "stop_to_restart"] {
        let mut world = wanted();
        busy(&mut world, Slot::Postgres, what);
        check(&world, &STOP, &Reason::Reinitialize);
        stopped(&mut world, DataDir::Spoiled);
        world.memory.reinit.as_mut().expect("wanted").asked_at = NOW - ms(60);
        check_wait(&world, &Reason::Busy(Slot::Postgres));
    }
}

#[test]
fn the_copy_comes_from_the_leader_where_it_must() {
    let mut world = down();
    member(&mut world, "pg3", |record| record.tags = Tags([("clonefrom".to_owned(), true.into())].into()));
    check(&world, &Action::Clone { from: upstream("pg3") }, &Reason::Reinitialize);
    world.memory.reinit.as_mut().expect("wanted").from_leader = true;
    check(&world, &Action::Clone { from: upstream("pg1") }, &Reason::Reinitialize);
    member(&mut world, "pg1", |record| record.state = MemberState::Stopping);
    check_wait(&world, &Reason::LeaderNotServing("pg1".into()));
}

#[test]
fn without_a_leader_the_old_data_is_still_good() {
    let mut world = leaderless();
    world.memory.reinit = Some(Reinit { asked_at: NOW, from_leader: false, cloned: false });
    check(&world, &Action::Campaign, &Reason::BestCandidate);
    edit(&mut world, |view| lead(view, ME, OTHER_LEASE));
    let (dcs, local, me) = (world.dcs.clone(), world.local.clone(), world.me.clone());
    world.memory.note(NOW, &dcs, &local, &me);
    assert_eq!(world.memory.reinit, None, "a leader's data is what others are copied from");
}

#[test]
fn in_pause_it_comes_true_to_the_end() {
    let pause = |mut world: World| {
        world.settings.pause = true;
        world.local.guard = Guard::Idle;
        world
    };
    check(&pause(wanted()), &STOP, &Reason::Reinitialize);
    let mut world = pause(down());
    check(&world, &Action::Clone { from: upstream("pg1") }, &Reason::Reinitialize);
    world.memory.absorb(NOW, &Outcome::Cloned);
    check(&world, &Action::StartStandby { upstream: Some(upstream("pg1")) }, &Reason::Reinitialize);
}

#[test]
fn who_may_be_made_anew() {
    let refused = |world: &World, force: bool| judge(world, force).err();
    let says = |text: &str| Some(text.to_owned());
    assert_eq!(refused(&following(), false), None);
    let mut alone = following();
    edit(&mut alone, |view| view.leader = None);
    assert_eq!(refused(&alone, true), says("Cluster has no leader, can not reinitialize"));
    assert_eq!(refused(&leading(), true), says("I am the leader, can not reinitialize"));
    let mut stray = following();
    stray.local.role = LocalRole::Primary;
    assert_eq!(refused(&stray, true), says("I run as a primary, can not reinitialize"));
    let mut cloning = following();
    busy(&mut cloning, Slot::Postgres, "clone");
    assert_eq!(refused(&cloning, false), says("clone already in progress"));
    assert_eq!(refused(&cloning, true), None);
    assert_eq!(refused(&wanted(), false), says("reinitialize already in progress"));
    assert_eq!(refused(&wanted(), true), None);
    let mut restarting = following();
    restarting.memory.restart = Some(a_restart());
    assert_eq!(refused(&restarting, false), says("restart already in progress"));
}
