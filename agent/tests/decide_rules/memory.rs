//! What is remembered between decisions: outcomes, sightings, promises, pauses.

use std::time::Duration;

use pgvane_agent::decide::action::{Action, Request};
use pgvane_agent::decide::memory::{HandOver, Memory, Outcome, Pause};
use pgvane_agent::decide::world::{DataDir, Process, Slot, World};
use pgvane_cluster::clock::Tick;
use pgvane_cluster::ids::{Epoch, Revision};
use pgvane_cluster::view::ClusterView;

use crate::decide_support::{
    EPOCH, HEAD, LEASE, ME, NOW, OTHER_LEASE, REQUESTED, consent, control, edit, following, handed_over,
    lead, leaderless, leading, member, ms, stopped, store_away, upstream, vouch,
};

const OPERATOR: Request = Request::Operator(REQUESTED);

fn note(world: &mut World) {
    let (now, dcs, local) = (world.now, world.dcs.clone(), world.local.clone());
    let me = world.me.clone();
    world.memory.note(now, &dcs, &local, &me);
}

fn absorbed(outcome: &Outcome) -> Memory {
    let mut memory = Memory::default();
    memory.absorb(NOW, outcome);
    memory
}

// Outcomes.

#[test]
fn pauses_double_up_to_ten_seconds_and_end_with_a_success() {
    let mut memory = Memory::default();
    let mut lengths = Vec::new();
    for failures in 1..=40 {
        memory.absorb(NOW, &Outcome::Failed(Slot::Store));
        let pause = memory.pauses[&Slot::Store];
        assert_eq!(pause.failures, failures);
        lengths.push(pause.until.since(NOW));
    }
    assert_eq!(lengths[..7], [250, 500, 1000, 2000, 4000, 8000, 10_000].map(ms));
    assert_eq!(lengths[39], ms(10_000));
    memory.absorb(NOW, &Outcome::Done(Slot::Peers));
    assert_eq!(memory.paused_until(NOW, Slot::Store), Some(NOW + ms(10_000)));
    memory.absorb(NOW, &Outcome::Done(Slot::Store));
    assert_eq!(memory.paused_until(NOW, Slot::Store), None);
    memory.absorb(NOW, &Outcome::Failed(Slot::Store));
    assert_eq!(memory.paused_until(NOW, Slot::Store), Some(NOW + ms(250)));
}

fn fails_to_rejoin(world: &mut World) {
    world.memory.begin(world.now, &Action::Rejoin { leader: upstream("pg1") });
    world.memory.absorb(world.now, &Outcome::Failed(Slot::Postgres));
}

/// How long PostgreSQL is left alone from now on.
fn pause(world: &World) -> Option<Duration> {
    world.memory.paused_until(world.now, Slot::Postgres).map(|until| until.since(world.now))
}

/// The epoch after [`EPOCH`].
fn we_won(view: &mut ClusterView) {
    lead(view, ME, LEASE);
    view.leader.as_mut().expect("we").epoch = Epoch(EPOCH.0 + 1);
}

/// A replica asks a leader that is gone for its history, again and again; then it is to lead.
#[test]
fn another_leader_ends_the_pause_of_postgres_but_failures_are_counted_on() {
    let mut world = following();
    note(&mut world);
    for _ in 0..5 {
        fails_to_rejoin(&mut world);
    }
    world.memory.absorb(world.now, &Outcome::Failed(Slot::Peers));
    note(&mut world);
    assert_eq!(pause(&world), Some(ms(4000)), "the same leader, seen again");
    edit(&mut world, |view| view.leader = None);
    note(&mut world);
    assert_eq!(pause(&world), None, "nobody leads");
    assert!(world.memory.paused_until(world.now, Slot::Peers).is_some(), "the others are the same");
    fails_to_rejoin(&mut world);
    note(&mut world);
    assert_eq!(pause(&world), Some(ms(8000)), "one attempt");
    edit(&mut world, we_won);
    note(&mut world);
    assert_eq!(pause(&world), None, "we lead");
}

#[test]
fn a_step_that_fails_when_its_leader_has_gone_keeps_nothing_waiting() {
    let mut world = following();
    note(&mut world);
    world.memory.begin(world.now, &Action::Rejoin { leader: upstream("pg1") });
    edit(&mut world, we_won);
    note(&mut world);
    world.memory.absorb(world.now, &Outcome::Failed(Slot::Postgres));
    assert_eq!(pause(&world), None);
    fails_to_rejoin(&mut world);
    assert_eq!(pause(&world), Some(ms(500)));
}

#[test]
fn a_pause_ends_by_itself() {
    let mut memory = Memory::default();
    memory.pauses.insert(Slot::Guard, Pause { until: NOW, failures: 1 });
    assert_eq!(memory.paused_until(NOW, Slot::Guard), None);
    assert_eq!(memory.paused_until(NOW - ms(1), Slot::Guard), Some(NOW));
    assert_eq!(memory.paused_until(NOW - ms(1), Slot::Peers), None);
}

#[test]
fn a_right_to_bootstrap_that_was_given_back_is_over() {
    let mut memory = absorbed(&Outcome::LostInitialize(Revision(7)));
    memory.absorb(NOW, &Outcome::LostInitialize(Revision(5)));
    assert_eq!(memory.gave_up_bootstrap, Revision(7));
    assert!(memory.paused_until(NOW, Slot::Store).is_some(), "another node gets the first chance");
}

#[test]
fn a_hand_over_is_remembered_step_by_step() {
    let mut memory = absorbed(&Outcome::Checkpointed(OPERATOR));
    let mut expected = HandOver { request: OPERATOR, checkpointed: true, stopped: None };
    assert_eq!(memory.hand_over, Some(expected));
    let stopped = Outcome::StoppedToHandOver { request: OPERATOR, shutdown_lsn: Some(HEAD) };
    memory.absorb(NOW, &stopped);
    expected.stopped = Some((NOW, Some(HEAD)));
    assert_eq!(memory.hand_over, Some(expected));
    for end in [Outcome::Released, Outcome::RequestCleared] {
        let mut memory = memory.clone();
        memory.absorb(NOW, &end);
        assert_eq!(memory.hand_over, None);
    }
}

/// In pause a former leader follows only where it was asked to hand over; the next leader may be seen before the answer
/// of the store that our key is gone.
#[test]
fn a_hand_over_was_asked_for_whichever_is_heard_first() {
    for is_seen_first in [true, false] {
        for (request, follows) in [(OPERATOR, true), (Request::Shutdown, false)] {
            let mut world = leading();
            stopped(&mut world, DataDir::Present(control(false, true)));
            world.memory.hand_over = Some(handed_over(&world, request, ms(10), Some(HEAD)));
            edit(&mut world, |view| lead(view, "pg3", OTHER_LEASE));
            if is_seen_first {
                note(&mut world);
                world.memory.absorb(NOW, &Outcome::Released);
            } else {
                world.memory.absorb(NOW, &Outcome::Released);
                note(&mut world);
            }
            assert_eq!(world.memory.handed_over, follows, "{request:?}, seen first: {is_seen_first}");
            assert_eq!(world.memory.hand_over, None);
            world.local.process = Process::Running;
            note(&mut world);
            assert!(!world.memory.handed_over, "it follows");
        }
    }
}

#[test]
fn a_refusal_does_not_end_a_promise_already_given() {
    let promise = consent(&following(), ms(0));
    let mut memory = absorbed(&Outcome::Consented(promise));
    memory.absorb(NOW, &Outcome::NotConsented);
    assert_eq!(memory.consent, Some(promise));
}

#[test]
fn the_first_crash_counts() {
    let mut memory = absorbed(&Outcome::PostgresEnded);
    memory.absorb(NOW + ms(10), &Outcome::PostgresEnded);
    assert_eq!(memory.crashed_at, Some(NOW));
}

// Sightings.

#[test]
fn the_loss_of_the_leader_is_counted_from_when_it_was_seen() {
    let mut world = leaderless();
    world.memory.leaderless_since = None;
    note(&mut world);
    assert_eq!(world.memory.leaderless_since, Some(NOW));
    world.now = NOW + ms(10);
    note(&mut world);
    assert_eq!(world.memory.leaderless_since, Some(NOW));
    assert_eq!(world.memory.last_leader, Some("pg1".into()));
    edit(&mut world, |view| lead(view, "pg3", OTHER_LEASE));
    note(&mut world);
    assert_eq!(world.memory.leaderless_since, None);
    assert_eq!(world.memory.last_leader, Some("pg3".into()));
}

#[test]
fn a_store_that_is_away_says_nothing_about_the_leader() {
    let mut world = following();
    world.memory.last_leader = None;
    store_away(&mut world);
    note(&mut world);
    assert_eq!((world.memory.leaderless_since, world.memory.last_leader), (None, None));
}

#[test]
fn another_leader_ends_what_belonged_to_our_reign() {
    let mut world = following();
    stopped(&mut world, pgvane_agent::decide::world::DataDir::Absent);
    world.memory.crashed_at = Some(NOW);
    world.memory.consent = Some(consent(&world, ms(0)));
    world.memory.hand_over = Some(handed_over(&world, OPERATOR, ms(10), Some(HEAD)));
    let ours = world.memory.clone();
    edit(&mut world, |view| lead(view, ME, OTHER_LEASE));
    note(&mut world);
    assert_eq!(
        (world.memory.crashed_at, world.memory.consent, world.memory.hand_over),
        (ours.crashed_at, ours.consent, ours.hand_over)
    );
    edit(&mut world, |view| lead(view, "pg3", OTHER_LEASE));
    note(&mut world);
    assert_eq!((world.memory.crashed_at, world.memory.consent, world.memory.hand_over), (None, None, None));
}

#[test]
fn a_server_that_runs_has_not_crashed() {
    let mut world = leading();
    world.memory.crashed_at = Some(NOW);
    world.local.process = Process::Starting { since: NOW };
    note(&mut world);
    assert_eq!(world.memory.crashed_at, Some(NOW));
    world.local.process = Process::Running;
    note(&mut world);
    assert_eq!(world.memory.crashed_at, None);
}

#[test]
fn a_leader_without_a_server_counts_the_time() {
    let mut world = leading();
    world.local.process = Process::Starting { since: NOW };
    note(&mut world);
    assert_eq!(world.memory.down_since, Some(NOW));
    world.now = NOW + ms(10);
    note(&mut world);
    assert_eq!(world.memory.down_since, Some(NOW));
    let mut running = world.clone();
    running.local.process = Process::Running;
    note(&mut running);
    assert_eq!(running.memory.down_since, None);
    edit(&mut world, |view| lead(view, "pg3", OTHER_LEASE));
    note(&mut world);
    assert_eq!(world.memory.down_since, None);
}

#[test]
fn a_server_that_starts_again_may_write_past_where_it_stopped() {
    for process in [Process::Starting { since: NOW }, Process::Running] {
        let mut world = leading();
        world.memory.hand_over = Some(handed_over(&world, OPERATOR, ms(10), Some(HEAD)));
        for before in [Process::Stopping, Process::Absent] {
            world.local.process = before;
            note(&mut world);
            let kept = world.memory.hand_over.expect("kept").stopped;
            assert_eq!(kept, Some((NOW - ms(10), Some(HEAD))));
        }
        world.local.process = process;
        note(&mut world);
        assert_eq!(world.memory.hand_over.expect("kept").stopped, Some((NOW - ms(10), None)));
    }
}

#[test]
fn a_standby_starves_from_when_it_was_first_seen_not_to_stream() {
    let mut world = following();
    note(&mut world);
    assert_eq!(world.memory.not_streaming_since, None);
    world.local.sql.as_mut().expect("answers").streaming = false;
    note(&mut world);
    world.now = NOW + ms(10);
    note(&mut world);
    assert_eq!(world.memory.not_streaming_since, Some(NOW));
    world.local.sql.as_mut().expect("answers").streaming = true;
    note(&mut world);
    assert_eq!(world.memory.not_streaming_since, None);
    world.local.sql.as_mut().expect("answers").streaming = false;
    world.local.process = Process::Starting { since: NOW };
    note(&mut world);
    assert_eq!(world.memory.not_streaming_since, None);
    let mut primary = leading();
    note(&mut primary);
    assert_eq!(primary.memory.not_streaming_since, None);
}

#[test]
fn a_promise_of_ours_lasts_exactly_as_long_as_promised() {
    let mut world = following();
    let promised = world.memory.promise(NOW, "pg1".into(), ms(1000)).clone();
    assert_eq!(promised, vouch(&world, "pg1"));
    world.now = NOW + Duration::from_nanos(999_999_999);
    note(&mut world);
    assert_eq!(world.memory.vouch, Some(promised));
    world.now = NOW + ms(1000);
    note(&mut world);
    assert_eq!(world.memory.vouch, None);
}

#[test]
fn nothing_is_remembered_at_first() {
    let memory = Memory::default();
    assert_eq!(memory.paused_until(Tick::ZERO, Slot::Store), None);
    assert!(!memory.shutdown && memory.gave_up_bootstrap == Revision(0));
}

#[test]
fn whether_a_patroni_daemon_led_outlives_its_record() {
    let mut world = following();
    note(&mut world);
    assert!(!world.memory.led_by_patroni);
    member(&mut world, "pg1", |record| record.pgvane = None);
    note(&mut world);
    assert!(world.memory.led_by_patroni);
    edit(&mut world, |view| {
        view.leader = None;
        view.members.clear();
    });
    note(&mut world);
    assert!(world.memory.led_by_patroni);
}
