//! What holds for every step, whichever rule wants it: busy slots, back-off, promises, old deadlines.

use pgvane_agent::decide::action::{Action, Reason, StopMode};
use pgvane_agent::decide::memory::Pause;
use pgvane_agent::decide::world::{DataDir, Guard, LocalRole, Slot};

use crate::decide_support::{
    EPOCH, NOW, OTHER_LEASE, busy, check, check_wait, consent, control, edit, empty, following, lead,
    leaderless, leading, ms, renewed, stopped, vouch,
};

#[test]
fn a_step_waits_for_what_occupies_its_slot() {
    let mut world = leaderless();
    busy(&mut world, Slot::Store, "write_config");
    check_wait(&world, &Reason::Busy(Slot::Store));

    let mut world = leaderless();
    world.peers.answers.clear();
    world.peers.asked_at = NOW - ms(600);
    busy(&mut world, Slot::Peers, "poll_peers");
    check_wait(&world, &Reason::Busy(Slot::Peers));

    let mut world = leading();
    world.local.guard = Guard::Idle;
    busy(&mut world, Slot::Guard, "arm_guard");
    check_wait(&world, &Reason::Busy(Slot::Guard));

    let mut world = following();
    stopped(&mut world, DataDir::Present(control(true, true)));
    busy(&mut world, Slot::Postgres, "rejoin");
    check_wait(&world, &Reason::Busy(Slot::Postgres));
}

#[test]
fn a_step_does_not_wait_for_another_slot() {
    let mut world = leaderless();
    for slot in [Slot::Postgres, Slot::Peers, Slot::Failsafe, Slot::Guard] {
        busy(&mut world, slot, "x");
    }
    check(&world, &Action::Campaign, &Reason::BestCandidate);
}

#[test]
fn a_slot_that_failed_is_left_alone_until_its_pause_ends() {
    let mut world = leaderless();
    world.memory.pauses.insert(Slot::Store, Pause { until: NOW + ms(120), failures: 1 });
    let decision = check_wait(&world, &Reason::BackOff);
    assert_eq!(decision.wake_at, NOW + ms(120));
    world.memory.pauses.insert(Slot::Store, Pause { until: NOW + ms(9000), failures: 7 });
    let decision = check_wait(&world, &Reason::BackOff);
    assert_eq!(decision.wake_at, NOW + ms(500));
    world.memory.pauses.insert(Slot::Store, Pause { until: NOW, failures: 1 });
    check(&world, &Action::Campaign, &Reason::BestCandidate);
}

#[test]
fn a_stop_waits_for_nothing() {
    let mut world = leading();
    renewed(&mut world, ms(2200));
    busy(&mut world, Slot::Postgres, "checkpoint");
    world.memory.pauses.insert(Slot::Postgres, Pause { until: NOW + ms(9000), failures: 7 });
    check(&world, &Action::Stop { how: StopMode::Fast }, &Reason::RenewalLate);
}

#[test]
fn a_step_is_thought_over_within_a_renewal_interval() {
    let decision = check(&empty(), &Action::RaceInitialize, &Reason::NewCluster);
    assert_eq!(decision.wake_at, NOW + ms(500));
}

#[test]
fn a_promise_to_another_leader_ends_every_way_to_lead() {
    let waits = Reason::WeVouchedFor("pg1".into());
    let mut world = leaderless();
    world.memory.vouch = Some(vouch(&world, "pg1"));
    check_wait(&world, &waits);
    // A primary that all others vouch for is bound by its own word as well.
    let mut world = leading();
    edit(&mut world, |view| view.leader = None);
    world.memory.consent = Some(consent(&world, ms(0)));
    world.memory.vouch = Some(vouch(&world, "pg1"));
    check_wait(&world, &waits);
    world.settings.pause = true;
    world.local.guard = Guard::Idle;
    check_wait(&world, &waits);
}

#[test]
fn a_promise_to_another_leader_ends_no_way_to_follow() {
    let mut world = leaderless();
    world.memory.vouch = Some(vouch(&world, "pg1"));
    stopped(&mut world, DataDir::Present(control(true, true)));
    check(&world, &Action::StartStandby { upstream: None }, &Reason::NotRunning);
}

#[test]
fn an_old_deadline_is_kept_while_something_can_write() {
    let mut world = leading();
    edit(&mut world, |view| lead(view, "pg3", OTHER_LEASE));
    world.local.guard = Guard::Outdated;
    check(&world, &Action::Stop { how: StopMode::Immediate }, &Reason::LostKeyTo("pg3".into()));
    let mut world = leaderless();
    world.local.guard = Guard::Armed { epoch: EPOCH };
    world.local.role = LocalRole::Unknown;
    world.memory.consent = Some(consent(&world, ms(0)));
    check(&world, &Action::Campaign, &Reason::BestCandidate);
}

#[test]
fn an_idle_or_absent_guard_has_nothing_to_give_back() {
    for guard in [Guard::Idle, Guard::Absent] {
        let mut world = following();
        world.local.guard = guard;
        check_wait(&world, &Reason::Following);
    }
}
