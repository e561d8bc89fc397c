//! An operator wants a member to follow: who has to do something, and that it is done at once.

use pgvane_agent::decide::action::{Action, Reason};
use pgvane_agent::decide::memory::Outcome;
use pgvane_agent::decide::rewind::{Standing, settled, standing};
use pgvane_agent::decide::world::{DataDir, Slot, World};
use pgvane_cluster::records::MemberState;

use crate::decide_support::{
    EPOCH, LEASE, ME, NOW, busy, check, check_wait, control, edit, following, lead, leading, member, stopped,
    store_away, upstream,
};

fn rejoin() -> Action {
    Action::Rejoin { leader: upstream("pg1") }
}

/// A former primary that does not run.
fn former_primary() -> World {
    let mut world = following();
    stopped(&mut world, DataDir::Present(control(false, false)));
    world
}

fn starved() -> World {
    let mut world = following();
    world.local.sql.as_mut().expect("answers").streaming = false;
    world
}

#[test]
fn who_stands_where() {
    let with = |change: fn(&mut World)| {
        let mut world = following();
        change(&mut world);
        standing(&world)
    };
    assert_eq!(standing(&following()), Standing::Follows("pg1".into()));
    assert_eq!(standing(&leading()), Standing::Leads);
    assert_eq!(with(store_away), Standing::StoreAway);
    assert_eq!(with(|world| world.settings.pause = true), Standing::Paused);
    assert_eq!(with(|world| edit(world, |view| view.leader = None)), Standing::NobodyServes);
    let stops = |world: &mut World| member(world, "pg1", |leader| leader.state = MemberState::Stopping);
    assert_eq!(with(stops), Standing::NobodyServes);
    assert_eq!(standing(&former_primary()), Standing::Apart);
    assert_eq!(standing(&starved()), Standing::Apart);
    assert_eq!(with(|world| world.memory.parted = Some(EPOCH)), Standing::Apart);
    let elsewhere = |world: &mut World| {
        world.local.sql.as_mut().expect("answers").upstream = Some(("pg3".to_owned(), 5432));
    };
    assert_eq!(with(elsewhere), Standing::Apart);
    let elsewhere_by_name = |world: &mut World| edit(world, |view| lead(view, ME, LEASE));
    assert_eq!(with(elsewhere_by_name), Standing::Leads);
}

#[test]
fn only_who_stands_apart_has_something_to_do() {
    assert_eq!(settled(&Standing::Apart), None);
    assert!(settled(&Standing::Follows("pg1".into())).is_some_and(|answer| answer.is_ok()));
    for standing in [Standing::Leads, Standing::Paused, Standing::StoreAway, Standing::NobodyServes] {
        assert!(settled(&standing).is_some_and(|answer| answer.is_err()), "{standing:?}");
    }
}

#[test]
fn a_wish_is_carried_out_at_once_and_once() {
    let mut world = starved();
    world.memory.not_streaming_since = Some(NOW);
    check_wait(&world, &Reason::Following);
    world.memory.rewind = true;
    check(&world, &rejoin(), &Reason::RewindRequested);
    let mut down = former_primary();
    check(&down, &rejoin(), &Reason::NotRunning);
    down.memory.rewind = true;
    check(&down, &rejoin(), &Reason::RewindRequested);
    busy(&mut down, Slot::Postgres, "rejoin");
    check_wait(&down, &Reason::Busy(Slot::Postgres));
    for end in [Ok(String::new()), Err(String::new())] {
        let mut memory = world.memory.clone();
        memory.absorb(NOW, &Outcome::Rejoined(end));
        assert!(!memory.rewind);
    }
}
