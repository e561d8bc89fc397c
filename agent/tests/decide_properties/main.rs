//! Properties of the decision core over worlds of every kind, likely or not.

#[path = "../decide_support/mod.rs"]
mod decide_support;
mod race;
mod worlds;

use std::collections::BTreeSet;

use decide_support::{ME, consent, control, identity, ms, stopped, store_away};
use pgvane_agent::decide::action::{Action, Decision, StopMode};
use pgvane_agent::decide::memory::{Outcome, Vouch};
use pgvane_agent::decide::world::{DataDir, Dcs, Guard, OwnLease, Process, Slot, World};
use pgvane_agent::decide::{announce, consent as consents, decide};
use pgvane_cluster::ids::{Epoch, NodeName, Revision};
use pgvane_cluster::view::LeaderKey;
use proptest::option::of;
use proptest::prelude::*;
use proptest::sample::select;
use proptest::test_runner::{TestRng, TestRunner};
use worlds::{LABELS, SLOTS, a_request, lsn, world};

/// Cases of each property.
const CASES: u32 = 6000;

// What must hold, spelled apart from the code under test.

fn leader_key(world: &World) -> Option<&LeaderKey> {
    world.dcs.last_view()?.leader.as_ref()
}

/// The reigns this node has a right to at this instant: before the guard's deadline, or (`in_time`) while a
/// clean stop need not have begun.
fn rights(world: &World, in_time: bool) -> BTreeSet<Epoch> {
    let end = |sent_at, ttl| {
        if in_time {
            world.timing.step_down_at(sent_at, ttl)
        } else {
            world.timing.guard_deadline(sent_at, ttl)
        }
    };
    let key = leader_key(world);
    if world.dcs.last_view().is_none() || key.is_some_and(|k| k.name != world.me) {
        return BTreeSet::new();
    }
    let by_lease = match (key, world.lease) {
        (Some(key), OwnLease::Held { id, sent_at, ttl })
            if key.lease == Some(id) && world.now < end(sent_at, ttl) =>
        {
            Some(key.epoch)
        }
        (Some(_) | None, _) => None,
    };
    let by_consent = world
        .memory
        .consent
        .filter(|c| world.now < end(c.asked_at, c.ttl) && key.is_none_or(|k| k.epoch == c.epoch))
        .map(|c| c.epoch);
    by_lease.into_iter().chain(by_consent).collect()
}

fn bootstraps(world: &World) -> bool {
    world.local.ongoing.get(&Slot::Postgres).is_some_and(|o| o.what == "bootstrap")
}

fn does(world: &World, slot: Slot, what: &str) -> bool {
    world.local.ongoing.get(&slot).is_some_and(|o| o.what == what)
}

/// Whether `action` seeks leadership or makes the server a primary.
fn seeks_to_lead(action: &Action) -> bool {
    matches!(action, Action::Campaign | Action::Promote { .. } | Action::StartPrimary)
}

/// Every step at least once, so that no property holds for want of worlds to break it.
#[test]
fn the_worlds_reach_every_step() {
    let mut runner = TestRunner::new_with_rng(
        ProptestConfig::default(),
        TestRng::deterministic_rng(proptest::test_runner::RngAlgorithm::ChaCha),
    );
    let worlds = world();
    let mut reached = BTreeSet::new();
    for _ in 0..CASES {
        let world = worlds.new_tree(&mut runner).expect("generates").current();
        reached.insert(decide(&world).action.label());
    }
    let missing: Vec<_> = LABELS.iter().filter(|label| !reached.contains(*label)).collect();
    assert!(missing.is_empty(), "never decided: {missing:?}");
}

proptest! {
    #![proptest_config(ProptestConfig { cases: CASES, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn a_decision_is_one_step_in_a_free_slot_and_is_taken_again_in_time(world in world()) {
        let decision = decide(&world);
        let Decision { action, wake_at, .. } = &decision;
        prop_assert!(*wake_at >= world.now && *wake_at <= world.now + world.timing.renew_interval);
        if let Some(slot) = action.slot() && !matches!(action, Action::Stop { .. }) {
            prop_assert!(world.free(slot), "{decision:?}");
            prop_assert!(world.memory.paused_until(world.now, slot).is_none(), "{decision:?}");
        }
        prop_assert_eq!(decide(&world.clone()), decision);
        // What is announced beside it is total as well.
        announce::member(&world, &identity(ME));
        let serves = announce::serving_epoch(&world);
        prop_assert!(serves.is_none() || leader_key(&world).is_some_and(|key| key.name == world.me));
        announce::status(&world);
        announce::failsafe(&world);
    }

    /// S3.
    #[test]
    fn nothing_becomes_primary_without_the_key_a_live_right_and_the_guard(world in world()) {
        let decision = decide(&world);
        let (epoch, guarded) = match (&decision.action, world.local.guard) {
            (Action::Promote { epoch }, Guard::Armed { epoch: armed }) => (Some(*epoch), Some(armed)),
            (Action::Promote { epoch }, _) => (Some(*epoch), None),
            (Action::StartPrimary, Guard::Armed { epoch: armed }) => (None, Some(armed)),
            (Action::StartPrimary, _) => (None, None),
            _ => return Ok(()),
        };
        prop_assert!(world.settings.standby_cluster.is_none(), "in a standby cluster: {decision:?}");
        let key = leader_key(&world).filter(|key| key.name == world.me);
        prop_assert!(key.is_some(), "without the key: {decision:?}");
        let reign = key.map(|key| key.epoch).unwrap_or_default();
        prop_assert!(epoch.is_none_or(|e| e == reign), "for another reign: {decision:?}");
        prop_assert!(rights(&world, true).contains(&reign), "without a right: {decision:?}");
        prop_assert!(world.settings.pause || guarded == Some(reign), "unguarded: {decision:?}");
        prop_assert!(world.settings.pause || !does(&world, Slot::Guard, "disarm_guard"), "{decision:?}");
        let vouch = world.memory.vouch.as_ref().filter(|v| v.until > world.now && v.leader != world.me);
        prop_assert!(vouch.is_none(), "against our word: {decision:?}");
        prop_assert!(!does(&world, Slot::Store, "release"), "the key is being given back: {decision:?}");
    }

    /// S1.
    #[test]
    fn a_server_that_may_write_without_a_right_is_stopped(world in world()) {
        if !world.may_write() || world.settings.pause || bootstraps(&world) {
            return Ok(());
        }
        let decision = decide(&world);
        // A new agent that has not read the store yet, or has not put the key under its own lease yet.
        let adoptable = match &world.dcs {
            Dcs::Unknown { last, .. } => last.is_none(),
            Dcs::Known(view) => view.leader.as_ref().is_some_and(|key| {
                let ours = matches!(world.lease, OwnLease::Held { id, .. } if key.lease == Some(id));
                key.name == world.me && !ours
            }),
        };
        let adopting = adoptable && matches!(world.local.guard, Guard::Armed { .. });
        if rights(&world, false).is_empty() {
            let stops = decision.action == Action::Stop { how: StopMode::Immediate };
            prop_assert!(stops || adopting, "{decision:?}");
        } else if rights(&world, true).is_empty() {
            let stops = matches!(decision.action, Action::Stop { .. });
            let is_stopping = world.local.process == Process::Stopping && decision.action == Action::Wait;
            prop_assert!(stops || is_stopping || adopting, "{decision:?}");
        }
    }

    /// S1: the key invites the next leader, so it goes only once nothing here can accept writes; and the guard
    /// stays for as long as something can.
    #[test]
    fn the_key_and_the_guard_are_let_go_only_once_nothing_can_write(world in world()) {
        let decision = decide(&world);
        if let Action::Release { epoch, .. } = &decision.action {
            prop_assert!(!world.may_write(), "{decision:?}");
            prop_assert!(world.free(Slot::Postgres), "{decision:?}");
            prop_assert_eq!(leader_key(&world).map(|key| key.epoch), Some(*epoch));
        }
        if decision.action == Action::DisarmGuard && !world.settings.pause {
            prop_assert!(!world.may_write() && world.free(Slot::Postgres), "{decision:?}");
        }
        if decision.action == Action::Exit {
            prop_assert!(world.settings.pause || world.local.process == Process::Absent, "{decision:?}");
        }
    }

    /// A check before the promotion that failed, or a required watchdog that cannot be used.
    #[test]
    fn what_forbids_to_lead_is_obeyed(mut world in world(), by_watchdog in any::<bool>()) {
        if by_watchdog {
            world.abilities.watchdog_failed = true;
        } else {
            world.memory.pre_promote_failed = Some(world.now);
            world.settings.ttl = ms(3000);
        }
        let knows = matches!(world.dcs, Dcs::Known(_));
        if world.settings.pause || !knows || world.may_write() {
            return Ok(());
        }
        let decision = decide(&world);
        prop_assert!(!seeks_to_lead(&decision.action), "{decision:?}");
    }

    #[test]
    fn a_store_that_does_not_answer_is_not_written_to(mut world in world()) {
        store_away(&mut world);
        let decision = decide(&world);
        prop_assert!(decision.action.slot() != Some(Slot::Store), "{decision:?}");
    }

    #[test]
    fn who_vouched_for_another_does_not_lead_before_the_promise_ends(
        mut world in world(),
        leader in select(vec!["pg1", "pg3"]),
        left in 1_u64..3000,
    ) {
        world.memory.vouch = Some(Vouch { leader: leader.into(), until: world.now + ms(left) });
        let decision = decide(&world);
        prop_assert!(!seeks_to_lead(&decision.action), "{decision:?}");
    }

    /// A promise given at any instant binds every decision up to its end, and is given by nobody who is about
    /// to lead.
    #[test]
    fn a_promise_that_was_given_is_kept(
        mut world in world(),
        leader in select(vec!["pg1", "pg3"]),
        after in 0_u64..3000,
    ) {
        let leader = NodeName::from(leader);
        if consents::judge(&world, &leader).is_err() {
            return Ok(());
        }
        prop_assert!(!world.may_write());
        prop_assert!(!does(&world, Slot::Postgres, "promote") && !does(&world, Slot::Postgres, "start_primary"));
        prop_assert!(!does(&world, Slot::Store, "campaign") && !does(&world, Slot::Store, "take_over_key"));
        world.memory.promise(world.now, leader, ms(3000));
        world.now = world.now + ms(after);
        let (now, dcs, local) = (world.now, world.dcs.clone(), world.local.clone());
        let me = world.me.clone();
        world.memory.note(now, &dcs, &local, &me);
        let decision = decide(&world);
        prop_assert!(!seeks_to_lead(&decision.action), "{decision:?}");
    }

    /// S2: what a planned change stops at is where it is confirmed; a server that ran again stands elsewhere.
    #[test]
    fn a_server_that_runs_again_is_never_handed_over_at_its_old_position(mut world in world()) {
        let (now, dcs, local) = (world.now, world.dcs.clone(), world.local.clone());
        let me = world.me.clone();
        world.memory.note(now, &dcs, &local, &me);
        if !matches!(world.local.process, Process::Running | Process::Starting { .. }) {
            return Ok(());
        }
        stopped(&mut world, DataDir::Present(control(false, false)));
        let decision = decide(&world);
        let promised = matches!(&decision.action, Action::Release { optime: Some(_), .. });
        prop_assert!(!promised, "{decision:?}");
    }

    #[test]
    fn memory_takes_in_anything(mut world in world(), slot in select(&SLOTS[..]), by in a_request(), lsn in of(lsn())) {
        let outcomes = [
            Outcome::Done(slot),
            Outcome::Failed(slot),
            Outcome::LostInitialize(Revision(7)),
            Outcome::Checkpointed(by),
            Outcome::StoppedToHandOver { request: by, shutdown_lsn: lsn },
            Outcome::Released,
            Outcome::Consented(consent(&world, ms(0))),
            Outcome::NotConsented,
            Outcome::PostgresEnded,
            Outcome::RequestCleared,
        ];
        for outcome in &outcomes {
            world.memory.absorb(world.now, outcome);
            let (now, dcs, local) = (world.now, world.dcs.clone(), world.local.clone());
            let me = world.me.clone();
            world.memory.note(now, &dcs, &local, &me);
            let noted = world.memory.clone();
            world.memory.note(now, &dcs, &local, &me);
            prop_assert_eq!(&world.memory, &noted);
            prop_assert!(world.memory.vouch.as_ref().is_none_or(|v| v.until > world.now));
            decide(&world);
        }
    }
}
