//! What a node says of itself in the keys it owns.

use pgvane_agent::decide::announce::{failsafe, is_urgent, role, serving_epoch, state, status};
use pgvane_agent::decide::world::{DataDir, Guard, LocalRole, Process, Slot, World};
use pgvane_cluster::ids::{Epoch, Lsn, Timeline};
use pgvane_cluster::records::{FailsafeRecord, MemberRole, MemberState, PATRONI_VERSION};

use crate::decide_support::{
    EPOCH, HEAD, ME, NOW, OTHER_LEASE, announced, busy, control, edit, following, identity, lead, leading,
    member, ms, nofailover, renewed, stopped, store_away,
};

fn down(standby: bool) -> World {
    let mut world = following();
    stopped(&mut world, DataDir::Present(control(standby, true)));
    world
}

#[test]
fn a_standby_tells_how_far_it_is() {
    let mut world = following();
    world.tags = nofailover();
    world.local.sql.as_mut().expect("answers").replayed = Some(Lsn(5));
    let record = announced(&world);
    assert_eq!((record.state.clone(), record.role.clone()), (MemberState::Running, MemberRole::Replica));
    assert_eq!(record.conn_url, Some(identity(ME).conn_url));
    assert_eq!(record.api_url, Some(identity(ME).api_url));
    assert_eq!(record.version.as_deref(), Some(PATRONI_VERSION));
    assert_eq!(record.xlog_location, Some(HEAD));
    assert_eq!((record.receive_lsn, record.replay_lsn), (Some(HEAD), Some(Lsn(5))));
    assert_eq!(record.timeline, Some(Timeline(1)));
    assert_eq!(record.replication_state.as_deref(), Some("streaming"));
    assert_eq!((record.pause, record.checkpoint_after_promote), (None, None));
    assert_eq!(record.tags, nofailover());
    assert_eq!(record.pgvane.expect("native").serving_epoch, None);
}

#[test]
fn a_standby_that_does_not_stream_does_not_say_so() {
    let mut world = following();
    world.local.sql.as_mut().expect("answers").streaming = false;
    world.local.sql.as_mut().expect("answers").timeline = Timeline(0);
    let record = announced(&world);
    assert_eq!((record.replication_state, record.timeline), (None, None));
}

#[test]
fn a_leader_tells_its_reign() {
    let record = announced(&leading());
    assert!(record.is_serving_primary());
    assert_eq!(record.xlog_location, Some(HEAD));
    assert_eq!((record.receive_lsn, record.replay_lsn, record.replication_state), (None, None, None));
    assert_eq!(record.pgvane.expect("native").serving_epoch, Some(EPOCH.0));
}

#[test]
fn a_leader_says_when_it_is_no_source_for_rewinds_yet() {
    let mut world = leading();
    world.local.sql.as_mut().expect("answers").timeline = Timeline(2);
    assert_eq!(announced(&world).checkpoint_after_promote, Some(false));
    world.local.sql.as_mut().expect("answers").checkpointed = Some(Timeline(2));
    assert_eq!(announced(&world).checkpoint_after_promote, None);
}

#[test]
fn pause_is_told() {
    let mut world = following();
    world.settings.pause = true;
    assert_eq!(announced(&world).pause, Some(true));
}

#[test]
fn a_server_that_does_not_run_tells_no_position() {
    let mut world = following();
    world.local.process = Process::Stopping;
    let record = announced(&world);
    assert_eq!((record.xlog_location, record.timeline), (None, None));
}

#[test]
fn states_follow_the_process() {
    let mut world = following();
    assert_eq!(state(&world), MemberState::Running);
    world.local.process = Process::Starting { since: NOW };
    assert_eq!(state(&world), MemberState::Starting);
    world.local.process = Process::Stopping;
    assert_eq!(state(&world), MemberState::Stopping);
    world.local.process = Process::Absent;
    assert_eq!(state(&world), MemberState::Stopped);
    world.memory.crashed_at = Some(NOW);
    assert_eq!(state(&world), MemberState::Crashed);
}

#[test]
fn states_follow_what_is_done_to_the_server() {
    for (what, process, expected) in [
        ("bootstrap", Process::Running, MemberState::Initializing),
        ("bootstrap", Process::Absent, MemberState::Initializing),
        ("clone", Process::Absent, MemberState::CreatingReplica),
        ("rejoin", Process::Absent, MemberState::CreatingReplica),
        ("rejoin", Process::Running, MemberState::Running),
        ("stop", Process::Running, MemberState::Stopping),
        ("stop_to_hand_over", Process::Running, MemberState::Stopping),
        ("checkpoint", Process::Running, MemberState::Running),
        ("start_standby", Process::Absent, MemberState::Stopped),
    ] {
        let mut world = following();
        world.local.process = process;
        busy(&mut world, Slot::Postgres, what);
        assert_eq!(state(&world), expected, "{what} {process:?}");
    }
}

#[test]
fn roles_follow_the_data_and_the_process() {
    assert_eq!(role(&following()), MemberRole::Replica);
    assert_eq!(role(&leading()), MemberRole::Primary);
    assert_eq!(role(&down(true)), MemberRole::Replica);
    assert_eq!(role(&down(false)), MemberRole::Demoted);
    for data in [DataDir::Absent, DataDir::Spoiled] {
        let mut world = following();
        stopped(&mut world, data);
        assert_eq!(role(&world), MemberRole::Uninitialized);
    }
    let mut world = leading();
    world.local.process = Process::Starting { since: NOW };
    assert_eq!(role(&world), MemberRole::Primary);
    world.local.process = Process::Stopping;
    assert_eq!(role(&world), MemberRole::Demoted);
    world.local.process = Process::Running;
    world.local.role = LocalRole::Unknown;
    assert_eq!(role(&world), MemberRole::Replica);
}

#[test]
fn a_promotion_under_way_is_not_a_primary_yet() {
    let mut world = leading();
    busy(&mut world, Slot::Postgres, "promote");
    assert_eq!(role(&world), MemberRole::Promoted);
    assert_eq!(serving_epoch(&world), None);
    let mut world = leading();
    world.local.sql.as_mut().expect("answers").in_recovery = true;
    assert_eq!(role(&world), MemberRole::Promoted);
}

#[test]
fn a_reign_is_served_while_key_lease_guard_and_server_agree() {
    assert_eq!(serving_epoch(&leading()), Some(EPOCH));
    let mut world = leading();
    store_away(&mut world);
    assert_eq!(serving_epoch(&world), Some(EPOCH));

    assert_eq!(serving_epoch(&following()), None);
    for guard in [Guard::Idle, Guard::Absent, Guard::Outdated, Guard::Armed { epoch: Epoch(1) }] {
        let mut world = leading();
        world.local.guard = guard;
        assert_eq!(serving_epoch(&world), None);
        world.settings.pause = true;
        assert_eq!(serving_epoch(&world), Some(EPOCH));
    }
    let mut world = leading();
    edit(&mut world, |view| lead(view, ME, OTHER_LEASE));
    assert_eq!(serving_epoch(&world), None);
    let mut world = leading();
    edit(&mut world, |view| view.leader = None);
    assert_eq!(serving_epoch(&world), None);
    let mut world = leading();
    busy(&mut world, Slot::Postgres, "stop_to_hand_over");
    assert_eq!(serving_epoch(&world), None);
}

#[test]
fn only_a_leader_that_serves_writes_its_status() {
    let (epoch, record) = status(&leading()).expect("serves");
    assert_eq!((epoch, record.optime), (EPOCH, HEAD));
    assert_eq!((record.slots, record.retain_slots), (None, None));
    assert_eq!(status(&following()), None);
    let mut world = leading();
    world.local.sql = None;
    assert_eq!(status(&world), None);
}

#[test]
fn the_failsafe_list_is_written_when_it_differs() {
    let mut world = leading();
    world.settings.failsafe_mode = true;
    assert_eq!(failsafe(&world), None, "it is as it should be");
    member(&mut world, "pg3", |record| record.api_url = None);
    let (epoch, list) = failsafe(&world).expect("differs");
    assert_eq!(epoch, EPOCH);
    assert_eq!(list, FailsafeRecord(["pg1", ME].map(|n| (n.into(), identity(n).api_url)).into()));
    edit(&mut world, |view| view.failsafe = None);
    assert!(failsafe(&world).is_some());
    store_away(&mut world);
    assert_eq!(failsafe(&world), None);
    let mut world = following();
    world.settings.failsafe_mode = true;
    edit(&mut world, |view| view.failsafe = None);
    assert_eq!(failsafe(&world), None);
}

/// Whom the list leaves out may not race.
#[test]
fn a_leader_writes_no_failsafe_list_without_itself() {
    let mut world = leading();
    world.settings.failsafe_mode = true;
    edit(&mut world, |view| {
        view.failsafe = None;
        view.members.retain(|name, _| name.as_str() != ME);
    });
    assert_eq!(failsafe(&world), None);
    let mut world = leading();
    world.settings.failsafe_mode = true;
    edit(&mut world, |view| view.failsafe = None);
    assert!(failsafe(&world).is_some());
}

#[test]
fn the_failsafe_list_is_emptied_once_the_mode_is_off() {
    let mut world = leading();
    assert_eq!(failsafe(&world), Some((EPOCH, FailsafeRecord::default())));
    for gone in [Some(FailsafeRecord::default()), None] {
        edit(&mut world, |view| view.failsafe = gone);
        assert_eq!(failsafe(&world), None);
    }
    assert_eq!(failsafe(&following()), None);
}

#[test]
fn positions_that_move_on_are_not_urgent_and_anything_else_is() {
    let before = announced(&following());
    let mut world = following();
    let sql = world.local.sql.as_mut().expect("answers");
    (sql.position, sql.received, sql.replayed) = (Lsn(9), Some(Lsn(9)), Some(Lsn(9)));
    assert!(!is_urgent(&before, &announced(&world)));
    world.local.sql.as_mut().expect("answers").streaming = false;
    assert!(is_urgent(&before, &announced(&world)));
    assert!(is_urgent(&before, &announced(&down(true))));
    let mut late = following();
    renewed(&mut late, ms(9000));
    assert!(!is_urgent(&before, &announced(&late)));
}
