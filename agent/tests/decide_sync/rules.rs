//! Rules, case by case: a healthy world in synchronous mode, one thing changed, the step and its reason.

use pgvane_agent::decide::action::{Action, Reason, Request, StopMode};
use pgvane_agent::decide::candidate::{Verdict, judge};
use pgvane_agent::decide::memory::Outcome;
use pgvane_agent::decide::sync::choose::{Aim, Confirms, Standby, SyncState, aim};
use pgvane_agent::decide::sync::machine::Held;
use pgvane_agent::decide::sync::names::{Method, Names, PLACEHOLDER, StandbyNames};
use pgvane_agent::decide::sync::{InForce, Over, names_to_start};
use pgvane_agent::decide::world::{DataDir, Guard, OwnLease, Peer, Peers, Slot, World};
use pgvane_cluster::ids::{Epoch, Lsn, NodeName, Revision, Timeline};
use pgvane_cluster::records::{MemberState, SyncRecord, Tags};
use pgvane_cluster::settings::SynchronousMode;
use pgvane_cluster::view::Versioned;

use crate::decide_support::{
    EPOCH, HEAD, LEASE, ME, NOW, announced, busy, check, check_wait, control, edit, following, lead,
    leaderless, leading, member, ms, nofailover, request, standby_at, stopped, store_away,
};

/// When `sync` was written in this reign, and when before it.
const WRITTEN: Revision = Revision(EPOCH.0 + 5);
const BEFORE: Revision = Revision(EPOCH.0 - 5);

fn tags(pairs: &[(&str, serde_json::Value)]) -> Tags {
    Tags(pairs.iter().map(|(key, value)| ((*key).to_owned(), value.clone())).collect())
}

fn names(list: &[&str]) -> Names {
    list.iter().copied().collect()
}

fn rule(world: &mut World, leader: &str, quorum: u32, standbys: &str, revision: Revision) {
    let sync_standby = Some(standbys.to_owned()).filter(|s| !s.is_empty());
    let value = SyncRecord { leader: Some(leader.into()), quorum, sync_standby };
    edit(world, |view| view.sync = Some(Versioned { value, mod_revision: revision }));
}

fn written(leader: &str, quorum: u32, standbys: Option<&str>) -> SyncRecord {
    SyncRecord { leader: Some(leader.into()), quorum, sync_standby: standbys.map(str::to_owned) }
}

fn write(quorum: u32, standbys: Option<&str>, over: Revision) -> Action {
    Action::WriteSyncKey { epoch: EPOCH, record: written(ME, quorum, standbys), over: Over::Revision(over) }
}

fn standby(name: &str, sync: SyncState, flush: Lsn) -> Standby {
    Standby { name: name.to_owned(), streaming: true, sync, write: flush, flush, replay: flush }
}

/// pg2 leads in mode `on`; pg1 confirms, pg3 streams; all is settled.
fn confirmed() -> World {
    let mut world = leading();
    world.settings.synchronous_mode = SynchronousMode::On;
    rule(&mut world, ME, 0, "pg1", WRITTEN);
    world.memory.sync.settled = Some((EPOCH, WRITTEN));
    in_force(&mut world, "pg1");
    standbys(&mut world, vec![standby("pg1", SyncState::Sync, HEAD), standby("pg3", SyncState::Async, HEAD)]);
    world
}

/// The value that the server has in force, set by us when the WAL ended at HEAD.
fn in_force(world: &mut World, names: &str) {
    world.local.sql.as_mut().expect("answers").replication.names.replace_range(.., names);
    let value = InForce { names: Some(names.to_owned()), noted: Some((EPOCH, HEAD)) };
    world.memory.sync.names = Some(value);
    world.memory.sync.waits = (!names.is_empty()).then_some(EPOCH);
}

fn standbys(world: &mut World, all: Vec<Standby>) {
    world.local.sql.as_mut().expect("answers").replication.standbys = all;
}

fn set(names: &str) -> Action {
    Action::SetStandbyNames { names: Some(names.to_owned()), epoch: Some(EPOCH), prove: false }
}

// A leader.

#[test]
fn a_settled_leader_leads() {
    check_wait(&confirmed(), &Reason::Leading);
}

#[test]
fn the_mode_begins_with_a_key_that_lets_only_the_leader_lead() {
    let mut world = confirmed();
    edit(&mut world, |view| view.sync = None);
    world.memory.sync = pgvane_agent::decide::sync::Memory::default();
    let over_nothing = |over| Action::WriteSyncKey { epoch: EPOCH, record: written(ME, 0, None), over };
    check(&world, &over_nothing(Over::Nothing), &Reason::SyncBegins);
    edit(&mut world, |view| {
        view.malformed.insert("/service/demo/sync".to_owned(), "nonsense".to_owned());
    });
    check(&world, &over_nothing(Over::Garbage), &Reason::SyncBegins);
    rule(&mut world, "pg1", 0, "pg2", WRITTEN);
    check(&world, &write(0, None, WRITTEN), &Reason::SyncChanges);
}

#[test]
fn a_standby_is_added_to_the_server_first_and_to_the_key_once_it_has_caught_up() {
    let mut world = confirmed();
    rule(&mut world, ME, 0, "", WRITTEN);
    in_force(&mut world, "");
    let first = Action::SetStandbyNames { names: Some("pg1".to_owned()), epoch: Some(EPOCH), prove: true };
    check(&world, &first, &Reason::SyncChanges);
    in_force(&mut world, "pg1");
    let waits = Reason::StandbysCatchUp("pg1".to_owned());
    for not_yet in [
        vec![standby("pg1", SyncState::Sync, Lsn(HEAD.0 - 1))],
        vec![standby("pg1", SyncState::Async, HEAD)],
        vec![
            Standby { streaming: false, ..standby("pg1", SyncState::Sync, HEAD) },
            standby("pg1", SyncState::Sync, HEAD),
        ],
        vec![standby("pg1", SyncState::Sync, Lsn(HEAD.0 - 1)), standby("PG1", SyncState::Sync, HEAD)],
    ] {
        standbys(&mut world, not_yet);
        let decision = check_wait(&world, &waits);
        assert_eq!(decision.wake_at, NOW + ms(25));
    }
    standbys(&mut world, vec![standby("PG1", SyncState::Sync, HEAD)]);
    check(&world, &write(0, Some("pg1"), WRITTEN), &Reason::SyncChanges);
}

#[test]
fn a_standby_is_not_added_on_a_value_that_this_agent_did_not_set() {
    let mut world = confirmed();
    rule(&mut world, ME, 0, "", WRITTEN);
    world.memory.sync.names = None;
    check(&world, &set("pg1"), &Reason::SyncChanges);
    in_force(&mut world, "pg1");
    world.memory.sync.names.as_mut().expect("set").noted = Some((Epoch(EPOCH.0 - 1), HEAD));
    check(&world, &set("pg1"), &Reason::SyncChanges);
    world.memory.sync.names.as_mut().expect("set").noted = None;
    check(&world, &set("pg1"), &Reason::SyncChanges);
}

#[test]
fn a_dead_standby_leaves_the_key_first() {
    let mut world = confirmed();
    member(&mut world, "pg1", |record| record.state = MemberState::Stopped);
    check(&world, &write(0, None, WRITTEN), &Reason::SyncChanges);
    rule(&mut world, ME, 0, "", WRITTEN);
    check(&world, &set("pg3"), &Reason::SyncChanges);
    // Without a record, without a connection: the same.
    for silent in [vec![standby("pg3", SyncState::Async, HEAD)], vec![]] {
        let mut world = confirmed();
        standbys(&mut world, silent);
        check(&world, &write(0, None, WRITTEN), &Reason::SyncChanges);
    }
}

#[test]
fn a_write_without_an_answer_is_settled_before_the_server_changes() {
    let mut world = confirmed();
    rule(&mut world, ME, 0, "", WRITTEN);
    world.memory.begin(NOW, &write(0, Some("pg1"), WRITTEN));
    member(&mut world, "pg1", |record| record.state = MemberState::Stopped);
    check(&world, &write(0, None, WRITTEN), &Reason::SyncChanges);
    world.memory.absorb(NOW, &Outcome::SyncKeyWritten { epoch: EPOCH, revision: Revision(WRITTEN.0 + 1) });
    check_wait(&world, &Reason::Leading);
    rule(&mut world, ME, 0, "", Revision(WRITTEN.0 + 1));
    check(&world, &set("pg3"), &Reason::SyncChanges);
}

#[test]
fn answers_from_before_the_last_change_say_nothing_of_it() {
    let mut world = confirmed();
    world.memory.absorb(NOW, &Outcome::StandbyNamesUnknown);
    world.memory.sync.names_at = Some(NOW + ms(1));
    check_wait(&world, &Reason::Leading);
    world.memory.begin(NOW, &set("pg1"));
    world.memory.sync.names_at = Some(NOW);
    check(&world, &set("pg1"), &Reason::SyncChanges);
    busy(&mut world, Slot::StandbyNames, "set_standby_names");
    check_wait(&world, &Reason::Leading);
}

#[test]
fn a_value_that_somebody_else_set_takes_the_right_to_lead_from_those_it_does_not_cover() {
    for names in ["", "*", "pg3", "ANY 1 (pg1,pg3)"] {
        let mut world = confirmed();
        world.local.sql.as_mut().expect("answers").replication.names = names.to_owned();
        check(&world, &write(0, None, WRITTEN), &Reason::SyncChanges);
    }
    let mut world = confirmed();
    world.local.sql.as_mut().expect("answers").replication.names = "2 (pg1,pg3)".to_owned();
    check(&world, &set("pg1"), &Reason::SyncChanges);
}

#[test]
fn who_is_to_confirm_and_does_not_is_told() {
    let mut world = confirmed();
    world.settings.synchronous_mode_strict = true;
    standbys(&mut world, vec![]);
    let decision = check_wait(&world, &Reason::NobodyConfirms("pg1".to_owned()));
    assert_eq!(decision.wake_at, NOW + ms(25));
    rule(&mut world, ME, 0, "", WRITTEN);
    in_force(&mut world, PLACEHOLDER);
    check_wait(&world, &Reason::NobodyConfirms(PLACEHOLDER.to_owned()));
    in_force(&mut world, "");
    let placeholder =
        Action::SetStandbyNames { names: Some(PLACEHOLDER.to_owned()), epoch: Some(EPOCH), prove: true };
    check(&world, &placeholder, &Reason::SyncChanges);
}

#[test]
fn quorum_mode_counts() {
    let mut world = confirmed();
    world.settings.synchronous_mode = SynchronousMode::Quorum;
    check(&world, &write(1, Some("pg1"), WRITTEN), &Reason::SyncChanges);
    rule(&mut world, ME, 1, "pg1", WRITTEN);
    check(&world, &set("ANY 1 (pg1,pg3)"), &Reason::SyncChanges);
    in_force(&mut world, "ANY 1 (pg1,pg3)");
    standbys(
        &mut world,
        vec![standby("pg1", SyncState::Quorum, HEAD), standby("pg3", SyncState::Quorum, Lsn(1))],
    );
    check(&world, &write(1, Some("pg1,pg3"), WRITTEN), &Reason::SyncChanges);
    rule(&mut world, ME, 1, "pg1,pg3", WRITTEN);
    check_wait(&world, &Reason::Leading);
    // The one that confirmed is gone: the other may lead once it has caught up.
    standbys(&mut world, vec![standby("pg3", SyncState::Quorum, Lsn(1))]);
    check(&world, &set("ANY 1 (pg3)"), &Reason::SyncChanges);
    in_force(&mut world, "ANY 1 (pg3)");
    check(&world, &write(1, Some("pg3"), WRITTEN), &Reason::SyncChanges);
    rule(&mut world, ME, 1, "pg3", WRITTEN);
    check_wait(&world, &Reason::StandbysCatchUp("pg3".to_owned()));
    standbys(&mut world, vec![standby("pg3", SyncState::Quorum, HEAD)]);
    check(&world, &write(0, Some("pg3"), WRITTEN), &Reason::SyncChanges);
}

#[test]
fn the_end_of_the_mode_deletes_the_key_and_hands_the_setting_back() {
    let mut world = confirmed();
    world.settings.synchronous_mode = SynchronousMode::Off;
    check(&world, &Action::DeleteSyncKey { epoch: EPOCH, revision: WRITTEN }, &Reason::SyncIsOff);
    edit(&mut world, |view| view.sync = None);
    world.memory.sync.settled = None;
    let back = Action::SetStandbyNames { names: None, epoch: Some(EPOCH), prove: false };
    check(&world, &back, &Reason::SyncIsOff);
    world.memory.sync.names = Some(InForce { names: None, noted: None });
    check_wait(&world, &Reason::Leading);
    world.memory.sync.names = None;
    let parameters = &mut world.settings.postgresql.parameters;
    parameters.insert("synchronous_standby_names".to_owned(), "pg1".to_owned());
    check_wait(&world, &Reason::Leading);
}

#[test]
fn a_leader_keeps_it_up_while_paused() {
    let mut world = confirmed();
    world.settings.pause = true;
    world.local.guard = Guard::Idle;
    check_wait(&world, &Reason::Paused);
    standbys(&mut world, vec![standby("pg3", SyncState::Async, HEAD)]);
    check(&world, &write(0, None, WRITTEN), &Reason::SyncChanges);
}

// Whom commits should wait for.

fn aimed(world: &World) -> Aim {
    let view = world.dcs.last_view().expect("known");
    let held = view.sync.as_ref().map(|s| Held::of(&s.value)).unwrap_or_default();
    let replication = &world.local.sql.as_ref().expect("answers").replication;
    aim(view, &world.me, &world.settings, replication, HEAD, &held)
}

/// pg2 leads; pg1, pg3 and pg4 stream.
fn three() -> World {
    let mut world = confirmed();
    edit(&mut world, |view| {
        let record = view.members[&NodeName::from("pg3")].clone();
        view.members.insert("pg4".into(), record);
    });
    rule(&mut world, ME, 0, "", WRITTEN);
    let all = ["pg1", "pg3", "pg4"].map(|name| standby(name, SyncState::Async, HEAD));
    standbys(&mut world, all.into());
    world
}

fn first(world: &World) -> String {
    let aim = aimed(world);
    assert_eq!((aim.quorum, &aim.voters), (0, &aim.wait_for.of));
    aim.wait_for.to_string()
}

#[test]
fn the_best_come_first() {
    let mut world = three();
    assert_eq!(first(&world), "pg1", "all are equal: by name");
    let rows = |world: &mut World, change: fn(&mut Vec<Standby>)| {
        change(&mut world.local.sql.as_mut().expect("answers").replication.standbys);
    };
    rows(&mut world, |all| all[2].flush = Lsn(HEAD.0 + 1));
    assert_eq!(first(&world), "pg4", "further on");
    rows(&mut world, |all| all[1].sync = SyncState::Potential);
    assert_eq!(first(&world), "pg3", "the one that confirms or would be next stays");
    rows(&mut world, |all| all[0].sync = SyncState::Sync);
    assert_eq!(first(&world), "pg1");
    member(&mut world, "pg4", |record| record.tags = tags(&[("sync_priority", 2.into())]));
    assert_eq!(first(&world), "pg4", "preferred");
    member(&mut world, "pg4", |record| {
        record.tags = tags(&[("sync_priority", 2.into()), ("nofailover", true.into())]);
    });
    assert_eq!(first(&world), "pg1", "who cannot lead comes last");
    world.settings.synchronous_node_count = 2;
    assert_eq!(first(&world), "2 (pg1,pg3)");
    world.settings.synchronous_node_count = 9;
    assert_eq!(first(&world), "3 (pg1,pg3,pg4)");
}

#[test]
fn the_column_that_confirms_is_compared() {
    let mut world = three();
    let replication = &mut world.local.sql.as_mut().expect("answers").replication;
    replication.standbys[1].write = Lsn(HEAD.0 + 9);
    replication.standbys[2].replay = Lsn(HEAD.0 + 9);
    for (level, best) in [("on", "pg1"), ("remote_write", "pg3"), ("remote_apply", "pg4"), ("local", "pg1")] {
        world.local.sql.as_mut().expect("answers").replication.confirms = Confirms::by(level);
        assert_eq!(first(&world), best, "{level}");
    }
}

#[test]
fn who_may_not_confirm_is_passed_over() {
    let mut world = three();
    for excluded in [
        tags(&[("nosync", true.into())]),
        tags(&[("nosync", "on".into()), ("sync_priority", 5.into())]),
        tags(&[("sync_priority", 0.into())]),
        tags(&[("sync_priority", (-1).into())]),
        tags(&[("replicatefrom", "pg3".into())]),
    ] {
        member(&mut world, "pg1", |record| record.tags = excluded.clone());
        assert_eq!(first(&world), "pg3", "{excluded:?}");
    }
    for allowed in [
        tags(&[("nosync", false.into()), ("sync_priority", 0.into())]),
        tags(&[("replicatefrom", ME.into())]),
        tags(&[("replicatefrom", "nobody".into())]),
    ] {
        member(&mut world, "pg1", |record| record.tags = allowed.clone());
        assert_eq!(first(&world), "pg1", "{allowed:?}");
    }
    edit(&mut world, |view| drop(view.members.remove(&NodeName::from("pg1"))));
    assert_eq!(first(&world), "pg3", "a stranger with a member's name once");
    standbys(&mut world, vec![standby(ME, SyncState::Async, HEAD)]);
    assert_eq!(first(&world), "", "our own name on another's connection");
}

#[test]
fn a_standby_too_far_behind_is_replaced() {
    let mut world = three();
    world.settings.maximum_lag_on_syncnode = Some(10);
    let at = |behind| standby("pg1", SyncState::Sync, Lsn(HEAD.0 - behind));
    for (behind, best) in [(10, "pg1"), (11, "pg3")] {
        standbys(&mut world, vec![at(behind), standby("pg3", SyncState::Async, HEAD)]);
        assert_eq!(first(&world), best);
    }
    for (behind, best) in [(10, "pg1"), (11, "")] {
        standbys(&mut world, vec![at(behind)]);
        assert_eq!(first(&world), best, "one alone is compared with the primary");
    }
    world.settings.maximum_lag_on_syncnode = None;
    assert_eq!(first(&world), "pg1");
}

#[test]
fn quorum_mode_takes_all_that_could_lead() {
    let mut world = three();
    world.settings.synchronous_mode = SynchronousMode::Quorum;
    let shown = |world: &World| {
        let aim = aimed(world);
        (aim.wait_for.to_string(), aim.quorum)
    };
    assert_eq!(shown(&world), ("ANY 1 (pg1,pg3,pg4)".to_owned(), 2));
    world.settings.synchronous_node_count = 2;
    assert_eq!(shown(&world), ("ANY 2 (pg1,pg3,pg4)".to_owned(), 1));
    member(&mut world, "pg1", |record| record.tags = nofailover());
    assert_eq!(shown(&world), ("ANY 2 (pg3,pg4)".to_owned(), 0));
    world.settings.synchronous_node_count = 3;
    assert_eq!(shown(&world), ("ANY 3 (pg1,pg3,pg4)".to_owned(), 0), "it is needed");
    standbys(&mut world, vec![]);
    assert_eq!(shown(&world), (String::new(), 0));
    world.settings.synchronous_mode_strict = true;
    assert_eq!(shown(&world), (format!("ANY 1 ({PLACEHOLDER})"), 0));
    rule(&mut world, ME, 1, "pg1,pg3", WRITTEN);
    world.settings.synchronous_node_count = 1;
    assert_eq!(shown(&world), ("ANY 1 (pg1,pg3)".to_owned(), 1), "those that did so last");
}

// Before a server accepts writes.

/// pg2 has won the key of pg1's cluster, and is a standby yet.
fn won(mode: SynchronousMode) -> World {
    let mut world = following();
    edit(&mut world, |view| lead(view, ME, LEASE));
    world.local.guard = Guard::Armed { epoch: EPOCH };
    world.settings.synchronous_mode = mode;
    rule(&mut world, "pg1", 0, "pg2,pg3", BEFORE);
    world
}

/// The winner's rule was written, and its server has this value in force.
fn took(world: &mut World, quorum: u32, standbys: &str, names: &str) {
    rule(world, ME, quorum, standbys, WRITTEN);
    world.memory.sync.settled = Some((EPOCH, WRITTEN));
    world.local.sql.as_mut().expect("answers").replication.names.replace_range(.., names);
}

fn ready(names: &str, prove: bool) -> Action {
    Action::SetStandbyNames { names: Some(names.to_owned()), epoch: None, prove }
}

const PROMOTE: Action = Action::Promote { epoch: EPOCH };

#[test]
fn the_winner_writes_the_key_before_it_is_promoted() {
    let mut world = won(SynchronousMode::On);
    check(&world, &write(0, None, BEFORE), &Reason::SyncChanges);
    busy(&mut world, Slot::SyncKey, "write_sync_key");
    check_wait(&world, &Reason::SyncFirst);
    world.local.guard = Guard::Idle;
    check(&world, &Action::ArmGuard { epoch: EPOCH }, &Reason::GuardNotArmed);
    let mut world = won(SynchronousMode::On);
    took(&mut world, 0, "", "");
    check(&world, &PROMOTE, &Reason::WonKey);
    world.memory.sync.settled = None;
    check(&world, &write(0, None, WRITTEN), &Reason::SyncChanges);
    world.memory.sync.settled = Some((Epoch(EPOCH.0 - 1), WRITTEN));
    check(&world, &write(0, None, WRITTEN), &Reason::SyncChanges);
}

#[test]
fn in_strict_mode_the_first_commit_waits_already() {
    let mut world = won(SynchronousMode::On);
    world.settings.synchronous_mode_strict = true;
    check(&world, &write(0, Some("pg3"), BEFORE), &Reason::SyncChanges);
    took(&mut world, 0, "pg3", "");
    check(&world, &ready("pg3", true), &Reason::SyncFirst);
    took(&mut world, 0, "pg3", PLACEHOLDER);
    check(&world, &ready("pg3", false), &Reason::SyncFirst);
    took(&mut world, 0, "pg3", "pg3");
    check(&world, &PROMOTE, &Reason::WonKey);
    took(&mut world, 0, "", "");
    check(&world, &ready(PLACEHOLDER, true), &Reason::SyncFirst);
    took(&mut world, 0, "", PLACEHOLDER);
    check(&world, &PROMOTE, &Reason::WonKey);
    world.memory.sync.names_at = Some(NOW + ms(1));
    check_wait(&world, &Reason::SyncFirst);
}

#[test]
fn in_quorum_mode_the_former_leader_becomes_a_voter() {
    let mut world = won(SynchronousMode::Quorum);
    rule(&mut world, "pg1", 1, "pg2,pg3", BEFORE);
    check(&world, &write(1, Some("pg1,pg3"), BEFORE), &Reason::SyncChanges);
    took(&mut world, 1, "pg1,pg3", "");
    check(&world, &ready("ANY 1 (pg1,pg3)", true), &Reason::SyncFirst);
    took(&mut world, 1, "pg1,pg3", "ANY 1 (pg1,pg3)");
    check(&world, &PROMOTE, &Reason::WonKey);
}

#[test]
fn who_is_not_in_the_key_gives_the_leadership_back() {
    let mut world = won(SynchronousMode::On);
    rule(&mut world, "pg1", 0, "pg3", BEFORE);
    check(&world, &Action::Release { epoch: EPOCH, optime: None }, &Reason::NotSynchronous);
    request(&mut world, Some("pg1"), Some(ME));
    check(&world, &Action::Release { epoch: EPOCH, optime: None }, &Reason::NotSynchronous);
    request(&mut world, None, Some(ME));
    check(&world, &write(0, None, BEFORE), &Reason::SyncChanges);
}

#[test]
fn a_standby_has_the_value_ready_that_it_would_serve_with() {
    let ready_of = |strict, mode| {
        let mut world = following();
        world.settings.synchronous_mode = mode;
        world.settings.synchronous_mode_strict = strict;
        rule(&mut world, "pg1", 1, "pg2,pg3", WRITTEN);
        pgvane_agent::decide::decide(&world).action
    };
    assert_eq!(ready_of(false, SynchronousMode::On), Action::Wait);
    assert_eq!(ready_of(true, SynchronousMode::On), ready("pg3", false));
    assert_eq!(ready_of(false, SynchronousMode::Quorum), ready("ANY 1 (pg1,pg3)", false));
    let mut world = following();
    world.local.sql.as_mut().expect("answers").replication.names = "pg3".to_owned();
    let back = Action::SetStandbyNames { names: None, epoch: None, prove: false };
    check(&world, &back, &Reason::SyncIsOff);
    world.memory.absorb(NOW, &Outcome::Failed(Slot::StandbyNames));
    check_wait(&world, &Reason::Following);
}

#[test]
fn a_primary_is_started_with_what_its_key_says() {
    let mut world = confirmed();
    let started = |world: &World, now: &str| {
        names_to_start(world.dcs.last_view().expect("known"), &world.me, &world.settings, now)
    };
    assert_eq!(started(&world, "pg1"), Some("pg1".to_owned()));
    assert_eq!(started(&world, "2 (pg1,pg3)"), Some("2 (pg1,pg3)".to_owned()), "more than enough");
    assert_eq!(started(&world, ""), Some("pg1".to_owned()));
    assert_eq!(started(&world, "pg3"), Some("pg1".to_owned()));
    rule(&mut world, ME, 0, "", WRITTEN);
    assert_eq!(started(&world, ""), Some(String::new()));
    world.settings.synchronous_mode_strict = true;
    assert_eq!(started(&world, ""), Some(PLACEHOLDER.to_owned()));
    edit(&mut world, |view| view.sync = None);
    assert_eq!(started(&world, ""), Some(PLACEHOLDER.to_owned()));
    world.settings.synchronous_mode = SynchronousMode::Off;
    assert_eq!(started(&world, "pg1"), None);
}

#[test]
fn without_the_store_only_what_was_in_order_is_started_again() {
    let mut world = confirmed();
    stopped(&mut world, DataDir::Present(control(false, false)));
    world.memory.crashed_at = Some(NOW - ms(50));
    store_away(&mut world);
    check(&world, &Action::StartPrimary, &Reason::Crashed);
    rule(&mut world, "pg1", 0, "pg2", BEFORE);
    check_wait(&world, &Reason::StoreAway);
}

// The race.

fn verdict(world: &World) -> Verdict {
    judge(world, world.dcs.last_view().expect("has one"))
}

/// pg1 led until half a second ago; pg3 is at HEAD.
fn race(mode: SynchronousMode, quorum: u32, standbys: &str) -> World {
    let mut world = leaderless();
    world.settings.synchronous_mode = mode;
    rule(&mut world, "pg1", quorum, standbys, BEFORE);
    world
}

fn peer(world: &mut World, name: &str, answer: Peer) {
    world.peers.answers.insert(name.into(), answer);
}

fn votes_missing(votes: usize, needed: usize) -> Verdict {
    Verdict::Wait(Reason::VotesMissing { votes, needed }, NOW + ms(100))
}

#[test]
fn who_confirms_needs_not_wait_for_those_who_do_not() {
    let mut world = race(SynchronousMode::On, 0, "pg2");
    peer(&mut world, "pg3", standby_at(Lsn(HEAD.0 + 9)));
    assert_eq!(verdict(&world), Verdict::Campaign);
    rule(&mut world, "pg1", 0, "pg2,pg3", BEFORE);
    assert!(matches!(verdict(&world), Verdict::Wait(Reason::BehindPeer(_), _)));
    peer(&mut world, "pg3", standby_at(HEAD));
    peer(&mut world, "pg1", standby_at(Lsn(HEAD.0 + 9)));
    assert_eq!(verdict(&world), Verdict::Campaign, "the former leader may have what nobody was told of");
}

#[test]
fn in_quorum_mode_votes_are_counted() {
    let mut world = race(SynchronousMode::Quorum, 1, "pg2,pg3");
    assert_eq!(verdict(&world), Verdict::Campaign);
    for answer in [Peer::Unreachable, standby_at(Lsn(0))] {
        peer(&mut world, "pg3", answer);
        assert_eq!(verdict(&world), votes_missing(0, 1));
    }
    peer(&mut world, "pg1", standby_at(HEAD));
    assert_eq!(verdict(&world), Verdict::Campaign, "the former leader has a vote");
    peer(&mut world, "pg1", standby_at(Lsn(HEAD.0 + 1)));
    assert_eq!(verdict(&world), votes_missing(0, 1), "not for whom it is ahead of");
    peer(&mut world, "pg4", standby_at(HEAD));
    assert_eq!(verdict(&world), votes_missing(0, 1), "a stranger has none");
    peer(
        &mut world,
        "pg3",
        Peer::Answered {
            is_primary: false,
            running: true,
            timeline: Some(Timeline(1)),
            position: Lsn(HEAD.0 - 1),
            fresh: true,
            tags: nofailover(),
        },
    );
    assert_eq!(verdict(&world), Verdict::Campaign, "who cannot lead votes");
    let told = world.peers.answers.clone();
    if let Some(Peer::Answered { fresh, .. }) = world.peers.answers.get_mut(&NodeName::from("pg3")) {
        *fresh = false;
    }
    assert_eq!(verdict(&world), votes_missing(0, 1), "it may have confirmed more since");
    world.peers.answers = told;
    rule(&mut world, "pg1", 1, "pg3,pg4", BEFORE);
    assert_eq!(verdict(&world), Verdict::Campaign, "two votes make up for a voice of one's own");
    rule(&mut world, "pg1", 1, "pg3", BEFORE);
    assert_eq!(verdict(&world), votes_missing(1, 2));
    // Nobody leads itself while another is ahead.
    world.peers.answers.remove(&NodeName::from("pg1"));
    rule(&mut world, ME, 2, "pg3", BEFORE);
    assert_eq!(verdict(&world), Verdict::Campaign, "the former leader itself has it all");
    rule(&mut world, "pg1", 2, "pg2,pg3", BEFORE);
    world.settings.synchronous_mode = SynchronousMode::On;
    assert_eq!(verdict(&world), votes_missing(1, 2), "the votes count until the rule of names is written");
}

#[test]
fn a_failover_overrides_and_a_switchover_does_not() {
    let mut world = race(SynchronousMode::On, 0, "pg3");
    request(&mut world, Some("pg1"), Some(ME));
    assert!(matches!(verdict(&world), Verdict::Wait(Reason::NotSynchronous, _)));
    request(&mut world, None, Some(ME));
    assert_eq!(verdict(&world), Verdict::Campaign);
    let mut world = race(SynchronousMode::Quorum, 1, "pg2,pg3");
    peer(&mut world, "pg3", Peer::Unreachable);
    request(&mut world, Some("pg1"), Some(ME));
    assert_eq!(verdict(&world), votes_missing(0, 1));
    peer(&mut world, "pg3", standby_at(HEAD));
    world.me = "pg4".into();
    edit(&mut world, |view| view.failsafe = None);
    rule(&mut world, "pg1", 1, "pg4,pg3", BEFORE);
    request(&mut world, Some("pg1"), Some("pg4"));
    world.memory.leaderless_since = Some(NOW);
    world.peers.asked_at = NOW;
    assert_eq!(verdict(&world), Verdict::Campaign, "the named one does not wait for its turn");
    request(&mut world, None, Some("pg4"));
    world.peers.answers.clear();
    assert_eq!(verdict(&world), Verdict::Campaign);
}

#[test]
fn a_rule_of_the_mode_that_is_off_binds_nobody() {
    let world = race(SynchronousMode::Off, 9, "pg3");
    assert_eq!(verdict(&world), Verdict::Campaign);
}

// Handing over.

#[test]
fn a_crash_hands_over_to_who_surely_holds_all() {
    let mut world = confirmed();
    stopped(&mut world, DataDir::Present(control(false, false)));
    world.memory.crashed_at = Some(NOW - ms(50));
    check(&world, &Action::PollPeers, &Reason::Crashed);
    let release = Action::Release { epoch: EPOCH, optime: None };
    world.peers = Peers { asked_at: NOW, answers: [("pg1".into(), standby_at(Lsn(1)))].into() };
    check(&world, &release, &Reason::HoldsAll("pg1".into()));
    world.peers = Peers { asked_at: NOW, answers: [("pg3".into(), standby_at(HEAD))].into() };
    check(&world, &Action::StartPrimary, &Reason::Crashed);
    world.memory.begin(NOW, &Action::StartPrimary);
    world.memory.sync.started_at = Some(NOW + ms(1));
    check(&world, &Action::PollPeers, &Reason::Crashed);
    world.memory.sync.started_at = None;
    world.settings.synchronous_mode = SynchronousMode::Off;
    edit(&mut world, |view| view.sync = None);
    check(&world, &Action::StartPrimary, &Reason::Crashed);
}

/// It would give the key back at once, and win it again.
#[test]
fn a_new_cluster_whose_first_leader_wrote_its_rule_is_that_leaders() {
    let mut world = leaderless();
    stopped(&mut world, DataDir::Present(control(false, true)));
    edit(&mut world, |view| (view.status, view.history) = (None, None));
    world.settings.synchronous_mode = SynchronousMode::On;
    check(&world, &Action::Campaign, &Reason::NewCluster);
    rule(&mut world, "pg1", 0, "", BEFORE);
    check(&world, &Action::StartStandby { upstream: None }, &Reason::NotRunning);
    rule(&mut world, ME, 0, "", BEFORE);
    check(&world, &Action::Campaign, &Reason::NewCluster);
}

/// Else it would name somebody who lacks what is acknowledged without him, and the mode may come back.
#[test]
fn a_mode_that_was_switched_off_ends_before_the_next_primary_serves() {
    let mut started = confirmed();
    stopped(&mut started, DataDir::Present(control(false, false)));
    let mut promoted = won(SynchronousMode::On);
    for world in [&mut started, &mut promoted] {
        world.settings.synchronous_mode = SynchronousMode::Off;
        let revision = world.dcs.last_view().and_then(|v| v.sync.as_ref()).expect("a rule").mod_revision;
        check(world, &Action::DeleteSyncKey { epoch: EPOCH, revision }, &Reason::SyncIsOff);
        busy(world, Slot::SyncKey, "delete_sync_key");
        check(world, &Action::Wait, &Reason::SyncFirst);
        world.local.ongoing.clear();
        edit(world, |view| view.sync = None);
    }
    check(&started, &Action::StartPrimary, &Reason::NotRunning);
    check(&promoted, &Action::Promote { epoch: EPOCH }, &Reason::WonKey);
}

/// A process of the server that has read the empty value lets commits go until it is seen to have read another.
#[test]
fn a_change_to_nobody_that_may_have_happened_has_to_be_proven_undone() {
    let mut memory = confirmed().memory;
    assert_eq!(memory.sync.waits, Some(EPOCH));
    memory.begin(NOW, &set("pg3"));
    memory.absorb(NOW, &Outcome::StandbyNamesUnknown);
    assert_eq!(memory.sync.waits, Some(EPOCH), "both values wait");
    memory.begin(NOW, &set(""));
    memory.absorb(NOW, &Outcome::StandbyNamesUnknown);
    assert_eq!(memory.sync.waits, None);
    // Whatever is said to be in force.
    let mut world = confirmed();
    rule(&mut world, ME, 0, "", WRITTEN);
    world.memory.sync.waits = None;
    world.memory.sync.names = None;
    let proven = Action::SetStandbyNames { names: Some("pg1".to_owned()), epoch: Some(EPOCH), prove: true };
    check(&world, &proven, &Reason::SyncChanges);
}

#[test]
fn in_quorum_mode_a_crash_hands_over_when_enough_answer() {
    let mut world = confirmed();
    stopped(&mut world, DataDir::Present(control(false, false)));
    world.settings.synchronous_mode = SynchronousMode::Quorum;
    rule(&mut world, ME, 1, "pg1,pg3", WRITTEN);
    world.memory.crashed_at = Some(NOW - ms(50));
    world.peers = Peers { asked_at: NOW, answers: [("pg1".into(), standby_at(HEAD))].into() };
    check(&world, &Action::StartPrimary, &Reason::Crashed);
    peer(&mut world, "pg3", standby_at(Lsn(HEAD.0 + 1)));
    let release = Action::Release { epoch: EPOCH, optime: None };
    check(&world, &release, &Reason::HoldsAll("pg3".into()));
}

#[test]
fn a_hand_over_looks_for_candidates_in_the_key_unless_it_is_a_failover() {
    let mut world = confirmed();
    let answers = |name: &str| Peers { asked_at: NOW, answers: [(name.into(), standby_at(HEAD))].into() };
    let asked = Request::Operator(crate::decide_support::REQUESTED);
    let checkpoint = Action::Checkpoint { request: asked };
    request(&mut world, Some(ME), None);
    world.peers = answers("pg1");
    check(&world, &checkpoint, &Reason::RequestedBy(asked));
    world.peers = answers("pg3");
    let clear = Action::ClearRequest { revision: crate::decide_support::REQUESTED };
    check(&world, &clear, &Reason::NoCandidate);
    request(&mut world, Some(ME), Some("pg3"));
    check(&world, &clear, &Reason::NoCandidate);
    request(&mut world, None, Some("pg3"));
    check(&world, &checkpoint, &Reason::RequestedBy(asked));
    // In quorum mode the votes must be there.
    world.settings.synchronous_mode = SynchronousMode::Quorum;
    rule(&mut world, ME, 1, "pg1,pg3", WRITTEN);
    request(&mut world, Some(ME), None);
    check(&world, &clear, &Reason::NoCandidate);
    peer(&mut world, "pg1", standby_at(HEAD));
    check(&world, &checkpoint, &Reason::RequestedBy(asked));
}

#[test]
fn a_stop_that_was_made_harder_hands_over_to_who_holds_all() {
    let mut world = confirmed();
    let asked = Request::Operator(crate::decide_support::REQUESTED);
    request(&mut world, Some(ME), None);
    stopped(&mut world, DataDir::Present(control(false, false)));
    world.memory.hand_over = Some(crate::decide_support::handed_over(&world, asked, ms(50), None));
    check(&world, &Action::PollPeers, &Reason::Crashed);
    world.peers = Peers { asked_at: NOW, answers: [("pg1".into(), standby_at(HEAD))].into() };
    let release = Action::Release { epoch: EPOCH, optime: None };
    check(&world, &release, &Reason::HoldsAll("pg1".into()));
    world.peers.answers.clear();
    check(&world, &Action::StartPrimary, &Reason::HandOverTimeout);
}

// Leaving.

#[test]
fn a_standby_leaves_before_it_stops() {
    let mut world = following();
    world.settings.synchronous_mode = SynchronousMode::On;
    rule(&mut world, "pg1", 0, "PG2", WRITTEN);
    world.memory.shutdown = true;
    world.memory.sync.leaving_since = Some(NOW - ms(100));
    check_wait(&world, &Reason::LeavingSync);
    let shown = announced(&world).tags;
    assert_eq!((shown.may_confirm(), shown.0.len()), (false, 2), "{shown:?}");
    world.memory.sync.leaving_since = Some(NOW - ms(20_000));
    let stop = Action::Stop { how: StopMode::Fast };
    check(&world, &stop, &Reason::Shutdown);
    world.memory.sync.leaving_since = Some(NOW);
    rule(&mut world, "pg1", 0, "pg3", WRITTEN);
    check(&world, &stop, &Reason::Shutdown);
    rule(&mut world, "pg1", 0, "pg2", WRITTEN);
    world.settings.synchronous_mode = SynchronousMode::Off;
    check(&world, &stop, &Reason::Shutdown);
}

#[test]
fn who_leads_says_nothing_of_leaving() {
    let mut world = confirmed();
    world.memory.shutdown = true;
    assert!(announced(&world).tags.0.is_empty());
    let mut world = following();
    assert!(announced(&world).tags.0.is_empty());
    world.lease = OwnLease::None;
    world.memory.shutdown = true;
    assert!(!announced(&world).tags.may_confirm());
}

#[test]
fn values_of_no_use_are_alike() {
    assert!(StandbyNames::nobody(Method::Any).is_like(&StandbyNames::nobody(Method::First)));
    assert!(!StandbyNames::all(names(&["a"])).is_like(&StandbyNames::any(1, names(&["a"]))));
}
