//! What is to happen at a time of the wall clock.

use pgvane_agent::decide::action::{Action, Reason};
use pgvane_agent::decide::restart::{Facts, Filters, Scheduled, ScheduledRestart, scheduled};
use pgvane_agent::decide::schedule::{Wall, When, when};
use pgvane_agent::decide::world::{Guard, Slot, World};

use crate::decide_support::{
    ME, NOW, REQUESTED, SCHEDULED, WALL, busy, check, check_wait, edit, following, leading, ms, request,
};

/// The scheduled time lies so many milliseconds ahead.
fn ahead(mut world: World, millis: i64) -> World {
    world.memory.wall = Some(Wall { at: NOW, millis: WALL - millis });
    world
}

fn scheduled_switchover(ahead_by: i64, at: &str) -> World {
    let mut world = ahead(leading(), ahead_by);
    request(&mut world, Some(ME), Some("pg3"));
    edit(&mut world, |view| {
        view.failover.as_mut().expect("a request").value.scheduled_at = Some(at.to_owned());
    });
    world
}

#[test]
fn times_are_told_apart() {
    let at = |millis, text: &str| when(&ahead(following(), millis), text);
    assert_eq!(at(2500, SCHEDULED), When::Later(NOW + ms(2500)));
    assert_eq!(at(0, SCHEDULED), When::Now);
    // A loop and a half of 10 s.
    assert_eq!(at(-15_000, SCHEDULED), When::Now);
    assert_eq!(at(-15_001, SCHEDULED), When::Stale);
    assert_eq!(at(0, "2027-01-01T01:00:00+01:00"), When::Now);
    assert_eq!(at(0, "2027-01-01 01:00:00.000000+01:00"), When::Now);
    for text in ["tomorrow", "2027-01-01T00:00:00", ""] {
        assert_eq!(at(0, text), When::Unreadable, "{text}");
    }
    assert_eq!(when(&following(), SCHEDULED), When::Unknown);
    let mut later = ahead(following(), 100);
    later.now = NOW + ms(60);
    assert_eq!(when(&later, SCHEDULED), When::Later(NOW + ms(100)), "the wall clock goes on with the other");
}

#[test]
fn the_leader_wakes_at_the_instant_and_makes_it_a_request_for_now() {
    let decision = check_wait(&scheduled_switchover(130, SCHEDULED), &Reason::Leading);
    assert_eq!(decision.wake_at, NOW + ms(130));
    let now = Action::RequestNow { revision: REQUESTED };
    check(&scheduled_switchover(0, SCHEDULED), &now, &Reason::ScheduleIsDue);
    check(&scheduled_switchover(-15_000, SCHEDULED), &now, &Reason::ScheduleIsDue);
}

#[test]
fn a_time_that_has_passed_or_cannot_be_read_is_cleared() {
    let clear = Action::ClearRequest { revision: REQUESTED };
    check(&scheduled_switchover(-15_001, SCHEDULED), &clear, &Reason::ScheduleIsStale);
    check(&scheduled_switchover(0, "soon"), &clear, &Reason::ScheduleIsUnreadable);
}

#[test]
fn in_pause_nothing_scheduled_happens() {
    for millis in [0, -60_000] {
        let mut world = scheduled_switchover(millis, SCHEDULED);
        world.settings.pause = true;
        world.local.guard = Guard::Idle;
        check_wait(&world, &Reason::Paused);
        world.memory.scheduled_restart = Some(a_scheduled_restart());
        assert_eq!(scheduled(&world, &Facts::default()), Some(Scheduled::Keep));
    }
}

fn a_scheduled_restart() -> ScheduledRestart {
    ScheduledRestart {
        schedule: SCHEDULED.to_owned(),
        postmaster_start_time: Some("then".to_owned()),
        filters: Filters::default(),
        timeout: None,
    }
}

#[test]
fn a_scheduled_restart_is_of_the_server_that_ran_then() {
    let facts = |started: Option<&str>| Facts { started_at: started.map(str::to_owned), ..Facts::default() };
    let mut world = ahead(following(), 70);
    assert_eq!(scheduled(&world, &facts(None)), None);
    world.memory.scheduled_restart = Some(a_scheduled_restart());
    for started in [None, Some("then")] {
        assert_eq!(scheduled(&world, &facts(started)), Some(Scheduled::Keep));
    }
    assert_eq!(
        scheduled(&world, &facts(Some("since"))),
        Some(Scheduled::Drop("PostgreSQL was restarted since"))
    );
    assert_eq!(check_wait(&world, &Reason::Following).wake_at, NOW + ms(70));
    world = ahead(world, 0);
    assert_eq!(scheduled(&world, &facts(Some("then"))), Some(Scheduled::Begin));
    busy(&mut world, Slot::Postgres, "follow");
    assert_eq!(scheduled(&world, &facts(Some("then"))), Some(Scheduled::Keep));
    world.local.ongoing.clear();
    world = ahead(world, -15_001);
    assert_eq!(scheduled(&world, &facts(Some("then"))), Some(Scheduled::Drop("its time has passed")));
}
