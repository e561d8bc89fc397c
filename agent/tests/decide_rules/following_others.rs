//! Standbys that do not take their WAL from the leader, and logical slots that they copy from it.

use std::collections::BTreeSet;

use pgvane_agent::decide::action::{Action, Reason};
use pgvane_agent::decide::world::World;
use pgvane_cluster::ids::Revision;
use pgvane_cluster::records::{MemberState, SyncRecord, Tags};
use pgvane_cluster::settings::SynchronousMode;
use pgvane_cluster::view::Versioned;
use serde_json::Value;

use crate::decide_support::{
    ME, NOW, announced, check, check_wait, edit, following, leaderless, member, ms, upstream,
};

fn tag(name: &str, value: impl Into<Value>) -> Tags {
    Tags([(name.to_owned(), value.into())].into())
}

fn follows(world: &mut World, name: Option<&str>) {
    world.local.sql.as_mut().expect("answers").upstream = name.map(|name| (name.to_owned(), 5432));
}

/// Behind pg3, which runs.
fn behind() -> World {
    let mut world = following();
    world.tags = tag("replicatefrom", "pg3");
    member(&mut world, "pg2", |record| record.tags = tag("replicatefrom", "pg3"));
    follows(&mut world, Some("pg3"));
    world
}

#[test]
fn a_member_is_followed_while_it_runs_and_does_not_follow_us() {
    check_wait(&behind(), &Reason::Following);
    let leader = Action::Follow { upstream: upstream("pg1") };
    let mut gone = behind();
    member(&mut gone, "pg3", |record| record.state = MemberState::Stopped);
    check(&gone, &leader, &Reason::WrongUpstream);
    let mut circle = behind();
    member(&mut circle, "pg3", |record| record.tags = tag("replicatefrom", "pg2"));
    check(&circle, &leader, &Reason::WrongUpstream);
}

#[test]
fn one_that_takes_no_stream_follows_nobody_and_does_not_starve() {
    let mut world = following();
    world.tags = tag("nostream", true);
    let sql = world.local.sql.as_mut().expect("answers");
    sql.streaming = false;
    check(&world, &Action::Follow { upstream: upstream("pg1") }, &Reason::WrongUpstream);
    follows(&mut world, None);
    world.memory.not_streaming_since = Some(NOW - ms(60_000));
    check_wait(&world, &Reason::Following);
}

/// Trap 4: who has nobody to follow keeps the upstream it has; the old primary may still send what it has.
#[test]
fn while_nobody_leads_a_running_standby_keeps_its_upstream() {
    let mut world = leaderless();
    world.tags = tag("nofailover", true);
    check_wait(&world, &Reason::NoFailoverTag);
    assert_eq!(world.local.sql.expect("answers").upstream, Some(("pg1".to_owned(), 5432)));
}

#[test]
fn logical_slots_are_copied_while_all_is_calm() {
    let names: BTreeSet<String> = ["sub".to_owned()].into();
    let mut world = following();
    world.memory.slots_to_copy = names.clone();
    let copy = Action::CopySlots { leader: upstream("pg1"), upstream: upstream("pg1"), names: names.clone() };
    check(&world, &copy, &Reason::SlotsMissing);
    let of_leader = copy;
    let mut other = behind();
    other.memory.slots_to_copy = names.clone();
    let copy = Action::CopySlots { leader: upstream("pg1"), upstream: upstream("pg3"), names };
    check(&other, &copy, &Reason::SlotsMissing);
    // Commits do not wait for one that is about to stop.
    world.settings.synchronous_mode = SynchronousMode::On;
    let rule = SyncRecord { leader: Some("pg1".into()), quorum: 0, sync_standby: Some(ME.to_owned()) };
    world.memory.sync.names_at = Some(NOW);
    edit(&mut world, |view| view.sync = Some(Versioned { value: rule, mod_revision: Revision(9) }));
    world.memory.slots_missing_since = Some(NOW - ms(100));
    check_wait(&world, &Reason::LeavingSync);
    assert_eq!(announced(&world).tags.0.get("nosync"), Some(&true.into()));
    world.memory.slots_missing_since = Some(NOW - world.settings.loop_wait * 2);
    check(&world, &of_leader, &Reason::SlotsMissing);
    world.settings.synchronous_mode = SynchronousMode::Off;
    // Two that restart at once would leave nobody to read from.
    member(&mut world, "pg3", |record| record.state = MemberState::Starting);
    check_wait(&world, &Reason::Following);
    member(&mut world, "pg3", |record| record.state = MemberState::Running);
    world.local.sql.as_mut().expect("answers").streaming = false;
    check_wait(&world, &Reason::Following);
}
