//! The guard's rules, by example and over random histories.

use proptest::prelude::*;

use super::*;

const LEASE: LeaseId = LeaseId(7);

fn at(ms: u64) -> Tick {
    Tick::from_millis(ms)
}

fn watch(deadline_ms: u64) -> Watch {
    Watch {
        epoch: Epoch(1),
        lease: LEASE,
        ttl: Duration::from_secs(3),
        deadline: at(deadline_ms),
        budget: Duration::from_millis(300),
    }
}

fn arm_event(deadline_ms: u64) -> Event {
    Event::Arm { watch: watch(deadline_ms), server: Server::Alive }
}

/// A guard armed at 1 s with a deadline at 3 s.
fn armed() -> State {
    let mut s = State::new(at(0));
    assert_eq!(step(&mut s, arm_event(3000), at(1000)), (Command::Nothing, None));
    s
}

fn go(s: &mut State, event: Event, ms: u64) -> Command {
    step(s, event, at(ms)).0
}

#[test]
fn the_deadline_stops_postgres_then_kills_then_revokes_then_stays_up() {
    let mut s = armed();
    assert_eq!(s.wake_at(), Some(at(3000)));
    assert_eq!(go(&mut s, Event::Tick, 2999), Command::Nothing);
    assert_eq!(go(&mut s, Event::Tick, 3000), Command::StopImmediate);
    assert_eq!(s.wake_at(), Some(at(3100)));
    assert_eq!(go(&mut s, Event::Tick, 3099), Command::Nothing);
    assert_eq!(go(&mut s, Event::Tick, 3100), Command::KillAll);
    assert_eq!(go(&mut s, Event::ProcessesLeft, 3101), Command::Nothing);
    assert_eq!(go(&mut s, Event::Tick, 3120), Command::KillAll);
    assert_eq!(go(&mut s, Event::ProcessesGone, 3121), Command::RevokeLease(LEASE));
    assert_eq!(go(&mut s, Event::Revoked(LEASE), 3130), Command::Nothing);
    // The frozen agent may wake with an old plan: the fence stays.
    assert_eq!(go(&mut s, Event::Tick, 100_000), Command::KillAll);
}

#[test]
fn a_postmaster_that_obeys_leaves_stragglers_to_the_next_sweep() {
    let mut s = armed();
    assert_eq!(go(&mut s, Event::Tick, 3000), Command::StopImmediate);
    assert_eq!(go(&mut s, Event::PostgresGone, 3010), Command::KillAll);
}

#[test]
fn woken_long_after_the_deadline_it_kills_at_once() {
    let mut s = armed();
    let late = step(&mut s, Event::Extend { lease: LEASE, deadline: at(60_000) }, at(50_000));
    assert_eq!(late, (Command::KillAll, Some(Refusal::Stopped)));
}

#[test]
fn extensions_only_move_forward_and_never_past_the_lease() {
    let mut s = armed();
    let mut extend = |ms, to| step(&mut s, Event::Extend { lease: LEASE, deadline: at(to) }, at(ms)).1;
    assert_eq!(extend(1500, 3500), None);
    assert_eq!(extend(1600, 100), None);
    assert_eq!(extend(1700, 900_000), None);
    assert_eq!(s.wake_at(), Some(at(4700)));
    for other in [LEASE.0 - 1, LEASE.0 + 1].map(LeaseId) {
        let other = Event::Extend { lease: other, deadline: at(4750) };
        assert_eq!(step(&mut s, other, at(1800)).1, Some(Refusal::NotWatched));
    }
    assert_eq!(s.wake_at(), Some(at(4700)));
}

#[test]
fn arming_again_keeps_the_later_deadline_only_under_the_same_lease() {
    let mut s = armed();
    assert_eq!(go(&mut s, arm_event(2500), 1500), Command::Nothing);
    assert_eq!(s.wake_at(), Some(at(3000)));
    let shorter = Watch { lease: LeaseId(8), deadline: at(2500), ..watch(0) };
    assert_eq!(go(&mut s, Event::Arm { watch: shorter, server: Server::Alive }, 1600), Command::Nothing);
    assert_eq!(s.wake_at(), Some(at(2500)));
}

#[test]
fn arming_too_late_stops_postgres_and_says_so() {
    let mut s = State::new(at(0));
    let answer = step(&mut s, arm_event(900), at(1000));
    assert_eq!(answer, (Command::KillAll, Some(Refusal::DeadlinePassed)));
}

#[test]
fn a_dead_agent_alone_changes_nothing_before_the_deadline() {
    let mut s = armed();
    assert_eq!(go(&mut s, Event::AgentGone, 1200), Command::Nothing);
    assert_eq!(s.wake_at(), Some(at(3000)));
    assert_eq!(go(&mut s, Event::AgentPresent, 1300), Command::Nothing);
    assert_eq!(step(&mut s, Event::Extend { lease: LEASE, deadline: at(4000) }, at(1400)).1, None);
}

#[test]
fn a_dead_postmaster_alone_is_the_agents_business() {
    let mut s = armed();
    assert_eq!(go(&mut s, Event::PostgresGone, 1200), Command::Nothing);
    assert_eq!(s.wake_at(), Some(at(3000)));
}

#[test]
fn both_dead_kills_the_stragglers_and_gives_the_lease_back() {
    for (first, second) in [(Event::AgentGone, Event::PostgresGone), (Event::PostgresGone, Event::AgentGone)]
    {
        let mut s = armed();
        assert_eq!(go(&mut s, first, 1200), Command::Nothing);
        assert_eq!(go(&mut s, second, 1201), Command::KillAll);
        assert_eq!(go(&mut s, Event::ProcessesGone, 1202), Command::RevokeLease(LEASE));
        assert_eq!(go(&mut s, Event::RevokeFailed(LEASE), 1210), Command::Nothing);
        // Before it asks again it looks again.
        assert_eq!(go(&mut s, Event::Tick, 1310), Command::KillAll);
        assert_eq!(go(&mut s, Event::ProcessesGone, 1311), Command::RevokeLease(LEASE));
        assert_eq!(go(&mut s, Event::Revoked(LEASE), 1320), Command::Nothing);
        assert_eq!(go(&mut s, Event::Tick, 4201), Command::KillAll);
        assert_eq!(go(&mut s, Event::Tick, 4203), Command::Exit);
    }
}

#[test]
fn a_server_the_dead_agent_had_just_started_is_waited_for() {
    let mut s = State::new(at(0));
    let awaited = Event::Arm { watch: watch(3000), server: Server::Awaited };
    assert_eq!(go(&mut s, awaited, 1000), Command::Nothing);
    assert_eq!(go(&mut s, Event::AgentGone, 1100), Command::Nothing);
    assert_eq!(s.wake_at(), Some(at(2100)));
    let mut found = s.clone();
    assert_eq!(go(&mut found, Event::PostgresFound, 1500), Command::Nothing);
    assert_eq!(go(&mut found, Event::Tick, 2500), Command::Nothing);
    assert_eq!(go(&mut s, Event::Tick, 2100), Command::KillAll);
}

#[test]
fn an_agent_that_comes_back_among_the_stragglers_keeps_its_lease() {
    let mut s = armed();
    go(&mut s, Event::PostgresGone, 1200);
    assert_eq!(go(&mut s, Event::AgentGone, 1201), Command::KillAll);
    assert_eq!(go(&mut s, Event::AgentPresent, 1202), Command::Nothing);
    assert_eq!(go(&mut s, Event::ProcessesGone, 1203), Command::Nothing);
    assert!(matches!(s.phase, Phase::Armed { server: Server::Gone, .. }));
    assert_eq!(s.spent, None);
}

#[test]
fn a_lease_that_is_being_given_back_cannot_be_armed_again() {
    let mut s = armed();
    go(&mut s, Event::Tick, 3200);
    assert_eq!(go(&mut s, Event::ProcessesGone, 3210), Command::RevokeLease(LEASE));
    assert_eq!(step(&mut s, arm_event(6000), at(3300)).1, Some(Refusal::LeaseSpent));
    assert_eq!(step(&mut s, Event::Disarm, at(3400)), (Command::Nothing, None));
    assert_eq!(step(&mut s, arm_event(6000), at(3500)).1, Some(Refusal::LeaseSpent));
    let next = Watch { lease: LeaseId(9), epoch: Epoch(2), ..watch(6000) };
    assert_eq!(step(&mut s, Event::Arm { watch: next, server: Server::Awaited }, at(3600)).1, None);
}

#[test]
fn an_idle_guard_leaves_with_its_agent_and_does_not_wait_for_ever_for_the_first() {
    let mut s = armed();
    assert_eq!(go(&mut s, Event::Disarm, 1500), Command::Nothing);
    assert_eq!(s.wake_at(), None);
    assert_eq!(go(&mut s, Event::AgentGone, 1600), Command::Exit);
    let mut fresh = State::new(at(0));
    assert_eq!(go(&mut fresh, Event::Tick, 9_999), Command::Nothing);
    assert_eq!(go(&mut fresh, Event::Tick, 10_000), Command::Exit);
}

fn any_event() -> impl Strategy<Value = Event> {
    let server = prop_oneof![Just(Server::Awaited), Just(Server::Alive)];
    let lease = 1_i64..4;
    prop_oneof![
        Just(Event::AgentPresent),
        Just(Event::AgentGone),
        (1_i64..3, 1_u32..4, 500_u64..20_000, server).prop_map(|(epoch, lease, deadline, server)| {
            Event::Arm {
                watch: Watch {
                    epoch: Epoch(epoch),
                    lease: LeaseId(lease.into()),
                    // A lease has one lease time for life.
                    ttl: Duration::from_secs(1) * lease,
                    deadline: at(deadline),
                    budget: Duration::from_millis(300),
                },
                server,
            }
        }),
        (lease.clone(), 500_u64..20_000)
            .prop_map(|(lease, to)| Event::Extend { lease: LeaseId(lease), deadline: at(to) }),
        Just(Event::Disarm),
        Just(Event::PostgresFound),
        Just(Event::PostgresGone),
        Just(Event::ProcessesGone),
        Just(Event::ProcessesLeft),
        lease.clone().prop_map(|l| Event::Revoked(LeaseId(l))),
        lease.prop_map(|l| Event::RevokeFailed(LeaseId(l))),
        Just(Event::Tick),
        Just(Event::Tick),
        Just(Event::Tick),
    ]
}

proptest! {
    #[test]
    fn the_rules_hold_over_any_history(
        events in proptest::collection::vec((any_event(), 0_u64..700), 1..80)
    ) {
        let mut s = State::new(at(0));
        let mut now = at(0);
        for (event, wait_ms) in events {
            now = now + Duration::from_millis(wait_ms);
            let before = s.clone();
            let (command, refusal) = step(&mut s, event, now);

            // 1: never armed at or after the deadline, and woken by then.
            if let Phase::Armed { watch, .. } = s.phase {
                prop_assert!(now < watch.deadline, "armed past its deadline after {event:?}");
                prop_assert!(s.wake_at().is_some_and(|at| at <= watch.deadline));
                prop_assert!(watch.deadline <= now + watch.ttl);
                prop_assert!(command != Command::Exit);
            }
            if let (Phase::Armed { watch: old, .. }, Phase::Armed { watch: new, .. }) = (before.phase, s.phase) {
                prop_assert!(now < old.deadline, "{event:?} saved a deadline that had passed");
                // 2
                if (old.epoch, old.lease) == (new.epoch, new.lease) {
                    prop_assert!(new.deadline >= old.deadline);
                }
            }
            // 3
            if let Command::RevokeLease(lease) = command {
                prop_assert_eq!(event, Event::ProcessesGone);
                prop_assert_eq!(s.spent, Some(lease));
            }
            if let Event::Arm { watch, .. } = event
                && before.spent == Some(watch.lease)
            {
                prop_assert!(refusal.is_some());
            }
            // 4: only the agent's word leaves the acting phases. (Stragglers of a dead postmaster are not a fence.)
            let fenced = |p: Phase| match p {
                Phase::Stopping { .. } | Phase::Killing { cause: Cause::Deadline, .. } | Phase::Fenced { .. } => true,
                Phase::Idle | Phase::Armed { .. } | Phase::Killing { cause: Cause::BothDead, .. } => false,
            };
            if fenced(before.phase) && !fenced(s.phase) {
                prop_assert!(matches!(event, Event::Disarm | Event::Arm { .. }), "{event:?} lowered the fence");
            }
            if command == Command::Exit {
                prop_assert!(s.agent_gone_since.is_some());
                return Ok(());
            }
        }
    }
}
