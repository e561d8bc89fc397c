//! What the life cycle of PostgreSQL adds to who leads: bootstraps that fail, checks before a promotion, watchdogs,
//! starts that fail, directories that vanish, replicas made from a backup.

use pgvane_agent::decide::action::{Action, Reason, Request, StopMode};
use pgvane_agent::decide::announce::{self, Identity};
use pgvane_agent::decide::bootstrap::Progress;
use pgvane_agent::decide::memory::{Memory, Outcome};
use pgvane_agent::decide::world::{DataDir, Guard, LocalRole, Process, Slot, World};
use pgvane_cluster::records::{MemberState, Tags};

use crate::decide_support::{
    EPOCH, HEAD, LEASE, ME, NOW, REQUESTED, TTL, announced, busy, check, check_wait, control, edit, empty,
    following, handed_over, lead, leaderless, leading, member, ms, nofailover, stopped, upstream,
};

const RELEASE: Action = Action::Release { epoch: EPOCH, optime: None };

/// A standby that has just won the key, the guard armed for it.
fn won() -> World {
    let mut world = following();
    edit(&mut world, |view| lead(view, ME, LEASE));
    world.local.guard = Guard::Armed { epoch: EPOCH };
    world
}

fn crashed() -> World {
    let mut world = leading();
    stopped(&mut world, DataDir::Present(control(false, false)));
    world.memory.crashed_at = Some(NOW - ms(100));
    world.memory.down_since = Some(NOW - ms(100));
    world
}

fn absorbed(outcome: &Outcome) -> Memory {
    let mut memory = Memory::default();
    memory.absorb(NOW, outcome);
    memory
}

// Bootstrap.

#[test]
fn a_bootstrap_is_shown_as_far_as_it_is() {
    let mut world = empty();
    busy(&mut world, Slot::Postgres, "bootstrap");
    assert_eq!(announced(&world).state, MemberState::Initializing);
    for (progress, state) in [
        (Progress::Initdb, MemberState::Initializing),
        (Progress::Command, MemberState::CustomBootstrap),
        (Progress::Recovery, MemberState::StartingAfterCustomBootstrap),
    ] {
        world.memory = absorbed(&Outcome::Bootstrapping(progress));
        assert_eq!(announced(&world).state, state);
    }
    world.memory.absorb(NOW, &Outcome::Bootstrapped);
    assert_eq!(world.memory.bootstrap, None);
}

#[test]
fn after_a_bootstrap_that_failed_the_agent_ends_once_it_was_seen() {
    for (custom, state) in [(false, MemberState::InitdbFailed), (true, MemberState::CustomBootstrapFailed)] {
        let mut world = empty();
        world.memory = absorbed(&Outcome::Bootstrapping(Progress::Failed { custom, at: NOW }));
        assert_eq!(announced(&world).state, state);
        check_wait(&world, &Reason::BootstrapFailed);
        world.now = NOW + ms(1000);
        check(&world, &Action::Exit, &Reason::BootstrapFailed);
        busy(&mut world, Slot::Store, "race_initialize");
        check_wait(&world, &Reason::BootstrapFailed);
    }
}

// Replicas.

#[test]
fn a_backup_stands_in_for_a_leader_that_is_not_there() {
    let mut world = leaderless();
    stopped(&mut world, DataDir::Absent);
    check_wait(&world, &Reason::WaitForFirstLeader);
    world.abilities.clones_alone = true;
    check(&world, &Action::CloneAlone, &Reason::NoData);
    world.local.data = DataDir::Spoiled;
    check(&world, &Action::CloneAlone, &Reason::DataSpoiled);
    busy(&mut world, Slot::Postgres, Action::CloneAlone.label());
    assert_eq!(announced(&world).state, MemberState::CreatingReplica);
}

#[test]
fn a_backup_is_no_cluster() {
    let mut world = empty();
    world.abilities.clones_alone = true;
    check(&world, &Action::RaceInitialize, &Reason::NewCluster);
    edit(&mut world, |view| view.initialize = Some(String::new()));
    check_wait(&world, &Reason::WaitForFirstLeader);
}

#[test]
fn with_a_leader_there_is_somebody_to_copy_from() {
    let mut world = following();
    stopped(&mut world, DataDir::Absent);
    world.abilities.clones_alone = true;
    check(&world, &Action::Clone { from: upstream("pg1") }, &Reason::NoData);
}

#[test]
fn members_tagged_for_cloning_take_turns() {
    let mut world = following();
    stopped(&mut world, DataDir::Absent);
    for name in ["pg1", "pg3"] {
        member(&mut world, name, |record| record.tags = Tags([("clonefrom".to_owned(), true.into())].into()));
    }
    edit(&mut world, |view| {
        let fourth = view.members[&"pg3".into()].clone();
        view.members.insert("pg4".into(), fourth);
    });
    member(&mut world, "pg4", |record| record.conn_url = Some("postgres://pg4:5432/postgres".to_owned()));
    let mut seen = std::collections::BTreeSet::new();
    for revision in 90..100 {
        edit(&mut world, |view| view.revision.0 = revision);
        let decision = pgvane_agent::decide::decide(&world);
        let Action::Clone { from } = decision.action else { panic!("{decision:?}") };
        seen.insert(from.name.to_string());
    }
    assert_eq!(seen.into_iter().collect::<Vec<_>>(), ["pg3", "pg4"], "never the leader itself");
}

#[test]
fn a_server_whose_directory_is_gone_is_stopped_first() {
    let stop = Action::Stop { how: StopMode::Immediate };
    for mut world in [leading(), following(), leaderless()] {
        world.local.data = DataDir::Absent;
        check(&world, &stop, &Reason::NoData);
        busy(&mut world, Slot::Postgres, "follow");
        check_wait(&world, &Reason::Busy(Slot::Postgres));
    }
    let mut world = leading();
    stopped(&mut world, DataDir::Absent);
    check(&world, &RELEASE, &Reason::CannotServe);
}

// Starts that fail.

#[test]
fn a_primary_that_does_not_start_lets_others_lead_after_the_second_attempt() {
    let mut world = crashed();
    world.memory.absorb(NOW, &Outcome::StartFailed);
    check(&world, &Action::StartPrimary, &Reason::Crashed);
    assert_eq!(announced(&world).state, MemberState::StartFailed);
    world.memory.absorb(NOW, &Outcome::StartFailed);
    check(&world, &RELEASE, &Reason::StartFailed);
    for name in ["pg1", "pg3"] {
        member(&mut world, name, |record| record.tags = nofailover());
    }
    check(&world, &Action::StartPrimary, &Reason::Crashed);
}

#[test]
fn a_server_that_runs_has_started() {
    let mut world = leading();
    world.memory.failed_starts = 2;
    let (now, dcs, local, me) = (world.now, world.dcs.clone(), world.local.clone(), world.me.clone());
    world.memory.note(now, &dcs, &local, &me);
    assert_eq!(world.memory.failed_starts, 0);
}

// Checks before a promotion.

#[test]
fn a_check_that_forbids_the_promotion_gives_the_key_back() {
    let mut world = won();
    world.memory.absorb(NOW, &Outcome::PrePromoteFailed);
    check(&world, &RELEASE, &Reason::PrePromoteFailed);
    world.now = NOW + TTL;
    crate::decide_support::renewed(&mut world, ms(100));
    check(&world, &Action::Promote { epoch: EPOCH }, &Reason::WonKey);
}

#[test]
fn a_request_that_the_check_forbids_is_over() {
    let mut world = won();
    crate::decide_support::request(&mut world, Some("pg1"), Some(ME));
    world.memory.absorb(NOW, &Outcome::PrePromoteFailed);
    check(&world, &Action::ClearRequest { revision: REQUESTED }, &Reason::PrePromoteFailed);
}

#[test]
fn a_pooler_is_told_of_beside_the_server() {
    let url = "postgres://pg2:6432/postgres".to_owned();
    let identity = Identity { proxy_url: Some(url.clone()), ..crate::decide_support::identity(ME) };
    assert_eq!(announce::member(&following(), &identity).proxy_url, Some(url));
    assert_eq!(announced(&following()).proxy_url, None);
}

#[test]
fn whom_the_check_forbade_to_lead_leaves_the_race_for_the_time_of_a_lease() {
    let mut world = leaderless();
    world.memory.absorb(NOW, &Outcome::PrePromoteFailed);
    check_wait(&world, &Reason::PrePromoteFailed);
    world.now = NOW + TTL;
    world.memory.leaderless_since = Some(world.now - ms(500));
    world.local.sql.as_mut().expect("answers").asked_at = world.now;
    world.peers.asked_at = world.now;
    crate::decide_support::renewed(&mut world, ms(100));
    check(&world, &Action::Campaign, &Reason::BestCandidate);
}

#[test]
fn a_named_candidate_is_no_exception() {
    let mut world = leaderless();
    crate::decide_support::request(&mut world, Some("pg1"), Some(ME));
    world.memory.absorb(NOW, &Outcome::PrePromoteFailed);
    check_wait(&world, &Reason::PrePromoteFailed);
}

#[test]
fn a_check_before_a_promotion_says_nothing_of_who_serves() {
    let mut world = leading();
    world.memory.absorb(NOW, &Outcome::PrePromoteFailed);
    check_wait(&world, &Reason::Leading);
}

// A watchdog that is required and cannot be used.

fn without_watchdog(mut world: World) -> World {
    world.abilities.watchdog_failed = true;
    world
}

#[test]
fn without_its_watchdog_a_node_neither_races_nor_promotes_nor_begins_a_cluster() {
    check_wait(&without_watchdog(leaderless()), &Reason::WatchdogFailed);
    check(&without_watchdog(won()), &RELEASE, &Reason::WatchdogFailed);
    check_wait(&without_watchdog(empty()), &Reason::WatchdogFailed);
    let mut world = leaderless();
    stopped(&mut world, DataDir::Present(control(false, true)));
    edit(&mut world, |view| view.status = None);
    check(&world, &Action::Campaign, &Reason::NewCluster);
    check_wait(&without_watchdog(world), &Reason::WatchdogFailed);
}

#[test]
fn a_primary_without_its_watchdog_stops_and_lets_others_lead() {
    let stop = Action::Stop { how: StopMode::Fast };
    check(&without_watchdog(leading()), &stop, &Reason::WatchdogFailed);
    let mut starting = without_watchdog(crashed());
    check(&starting, &RELEASE, &Reason::WatchdogFailed);
    starting.local.process = Process::Starting { since: NOW };
    starting.local.role = LocalRole::Primary;
    check(&starting, &stop, &Reason::WatchdogFailed);
    starting.local.process = Process::Stopping;
    check_wait(&starting, &Reason::Busy(Slot::Postgres));
}

#[test]
fn a_hand_over_that_nobody_confirms_does_not_bring_it_back() {
    let mut world = without_watchdog(crashed());
    let operator = Request::Operator(REQUESTED);
    world.memory.hand_over = Some(handed_over(&world, operator, ms(2500), Some(HEAD)));
    let release = Action::Release { epoch: EPOCH, optime: Some(HEAD) };
    check(&world, &release, &Reason::HandOverTimeout);
}

#[test]
fn a_standby_needs_no_watchdog() {
    check_wait(&without_watchdog(following()), &Reason::Following);
}
