//! A restart that an operator asked for: a stop that the ordinary rules follow up, safe for a primary as any start.

use std::time::Duration;

use pgvane_agent::decide::action::{Action, Reason, Request, StopMode};
use pgvane_agent::decide::memory::Outcome;
use pgvane_agent::decide::restart::{Facts, Filters, Progress, Restart, ScheduledRestart, judge, progress};
use pgvane_agent::decide::world::{DataDir, Guard, LocalRole, Process, Slot, World};
use pgvane_cluster::ids::Revision;
use pgvane_cluster::records::{MemberRole, MemberState, SyncRecord};
use pgvane_cluster::settings::SynchronousMode;
use pgvane_cluster::view::Versioned;

use crate::decide_support::{
    EPOCH, HEAD, ME, NOW, OTHER_LEASE, a_restart, announced, busy, check, check_wait, control, edit,
    following, lead, leaderless, leading, ms, renewed, stopped, store_away, upstream,
};

const BY: Request = Request::Restart(1);
const STOP: Action = Action::StopToRestart { id: 1 };

fn asked() -> Reason {
    Reason::RequestedBy(BY)
}

fn wanted(mut world: World) -> World {
    world.memory.restart = Some(a_restart());
    world
}

/// Stopped cleanly for the restart 20 ms ago.
fn down(mut world: World) -> World {
    let standby = world.local.role == LocalRole::Standby;
    stopped(&mut world, DataDir::Present(control(standby, true)));
    let after = Restart { checkpointed: true, stopped: Some((NOW - ms(20), Some(HEAD))), ..a_restart() };
    world.memory.restart = Some(after);
    world
}

fn paused(mut world: World) -> World {
    world.settings.pause = true;
    world.local.guard = Guard::Idle;
    world
}

fn facts(role: &str) -> Facts {
    Facts { role: role.to_owned(), server_version: 150_006, pending: false, started_at: None }
}

// The leader.

#[test]
fn a_leader_writes_a_checkpoint_while_it_serves_and_then_stops_with_its_key() {
    let mut world = wanted(leading());
    check(&world, &Action::Checkpoint { request: BY }, &asked());
    world.memory.absorb(NOW, &Outcome::Checkpointed(BY));
    check(&world, &STOP, &asked());
    assert_eq!(world.memory.hand_over, None, "nothing is handed over");
}

#[test]
fn a_leader_whose_guard_is_not_armed_is_not_restarted() {
    let mut world = wanted(leading());
    world.local.guard = Guard::Idle;
    check(&world, &Action::ArmGuard { epoch: EPOCH }, &Reason::GuardNotArmed);
}

#[test]
fn a_leader_comes_back_as_a_primary_only_under_an_armed_guard() {
    let mut world = down(leading());
    world.local.guard = Guard::Outdated;
    check(&world, &Action::ArmGuard { epoch: EPOCH }, &Reason::GuardNotArmed);
    world.local.guard = Guard::Armed { epoch: EPOCH };
    check(&world, &Action::StartPrimary, &Reason::NotRunning);
}

#[test]
fn a_leader_whose_lease_may_end_is_not_started_as_a_primary() {
    let mut world = down(leading());
    renewed(&mut world, ms(2200));
    check_wait(&world, &Reason::RenewalLate);
}

#[test]
fn a_leader_whose_key_went_while_it_was_down_comes_back_as_a_standby() {
    let mut world = down(leading());
    edit(&mut world, |view| lead(view, "pg3", OTHER_LEASE));
    world.local.guard = Guard::Idle;
    edit(&mut world, |view| {
        let pg3 = &mut view.members.get_mut(&"pg3".into()).expect("a member").record;
        pg3.role = MemberRole::Primary;
    });
    check(&world, &Action::Rejoin { leader: upstream("pg3") }, &Reason::NotRunning);
    edit(&mut world, |view| view.leader = None);
    world.memory.leaderless_since = Some(NOW - ms(5000));
    check(&world, &Action::StartStandby { upstream: None }, &Reason::NotRunning);
}

#[test]
fn a_restart_is_no_crash_that_fails_over_at_once() {
    let mut world = down(leading());
    world.settings.primary_start_timeout = Duration::ZERO;
    world.memory.down_since = Some(NOW - ms(20));
    check(&world, &Action::StartPrimary, &Reason::NotRunning);
}

#[test]
fn a_server_that_does_not_start_again_gives_the_key_to_others() {
    let release = Action::Release { epoch: EPOCH, optime: Some(HEAD) };
    let mut world = down(leading());
    world.memory.absorb(NOW, &Outcome::Failed(Slot::Postgres));
    assert_eq!(progress(&world, 1), Progress::Failed);
    check(&world, &release, &Reason::RestartFailed);
    // Or not in its own time.
    let mut world = down(leading());
    let restart = world.memory.restart.as_mut().expect("one");
    restart.timeout = Some(ms(20));
    check(&world, &release, &Reason::RestartFailed);
    world.local.process = Process::Starting { since: NOW - ms(30) };
    world.local.role = LocalRole::Primary;
    check(&world, &Action::Stop { how: StopMode::Immediate }, &Reason::StartTimeout);
    // Where nobody else could lead it is tried for ever.
    let mut world = down(leading());
    world.memory.restart.as_mut().expect("one").failed = true;
    edit(&mut world, |view| view.members.retain(|name, _| name.as_str() == ME));
    check(&world, &Action::StartPrimary, &Reason::NotRunning);
}

#[test]
fn a_start_that_failed_tells_where_the_wal_ended_only_while_that_is_sure() {
    let mut world = down(leading());
    world.local.process = Process::Starting { since: NOW };
    let (dcs, local, me) = (world.dcs.clone(), world.local.clone(), world.me.clone());
    world.memory.note(NOW, &dcs, &local, &me);
    let restart = world.memory.restart.expect("it goes on");
    assert_eq!(restart.stopped.map(|(_, lsn)| lsn), Some(None));
}

#[test]
fn a_restart_is_over_once_the_server_runs() {
    let mut world = down(leading());
    assert_eq!(progress(&world, 1), Progress::UnderWay);
    world.local.process = Process::Running;
    let (dcs, local, me) = (world.dcs.clone(), world.local.clone(), world.me.clone());
    world.memory.note(NOW, &dcs, &local, &me);
    assert_eq!(world.memory.restart, None);
    assert_eq!(progress(&world, 1), Progress::Done);
}

#[test]
fn proxies_are_told_before_the_stop_and_hold_whom_they_have() {
    let mut world = wanted(leading());
    let shown = |world: &World| {
        let record = announced(world);
        (record.state, record.role)
    };
    busy(&mut world, Slot::Postgres, "checkpoint");
    assert_eq!(shown(&world), (MemberState::Running, MemberRole::Primary));
    busy(&mut world, Slot::Postgres, "stop_to_restart");
    for process in [Process::Running, Process::Stopping] {
        world.local.process = process;
        assert_eq!(shown(&world), (MemberState::Restarting, MemberRole::Primary), "{process:?}");
        assert_eq!(announced(&world).pgvane.and_then(|p| p.serving_epoch), None);
    }
    let mut world = down(leading());
    assert_eq!(shown(&world), (MemberState::Restarting, MemberRole::Primary));
    world.local.process = Process::Starting { since: NOW };
    world.local.role = LocalRole::Primary;
    assert_eq!(shown(&world), (MemberState::Restarting, MemberRole::Primary));
    let mut world = down(leading());
    world.memory.restart.as_mut().expect("one").failed = true;
    assert_eq!(shown(&world), (MemberState::RestartFailed, MemberRole::Demoted));
}

#[test]
fn while_the_store_is_away_no_server_is_stopped_and_one_that_was_is_started() {
    let mut world = wanted(leading());
    store_away(&mut world);
    check_wait(&world, &Reason::Vouched);
    let mut world = down(leading());
    store_away(&mut world);
    check(&world, &Action::StartPrimary, &Reason::NotRunning);
}

#[test]
fn a_restart_that_cannot_begin_is_given_up() {
    let mut world = wanted(leaderless());
    world.peers.asked_at = NOW - ms(5);
    world.memory.restart.as_mut().expect("one").asked_at = NOW - ms(29_999);
    assert_eq!(progress(&world, 1), Progress::UnderWay);
    world.memory.restart.as_mut().expect("one").asked_at = NOW - ms(30_000);
    assert_eq!(progress(&world, 1), Progress::NotBegun);
    busy(&mut world, Slot::Postgres, "stop_to_restart");
    assert_eq!(progress(&world, 1), Progress::UnderWay, "the stop takes as long as it takes");
}

// A replica.

#[test]
fn a_replica_stops_and_starts_as_it_was() {
    let mut world = wanted(following());
    check(&world, &STOP, &asked());
    busy(&mut world, Slot::Postgres, "stop_to_restart");
    assert_eq!(announced(&world).state, MemberState::Restarting);
    let world = down(following());
    check(&world, &Action::StartStandby { upstream: Some(upstream("pg1")) }, &asked());
    assert_eq!(
        (announced(&world).state, announced(&world).role),
        (MemberState::Restarting, MemberRole::Replica)
    );
}

#[test]
fn a_replica_that_does_not_start_is_tried_by_the_ordinary_rules() {
    let mut world = down(following());
    world.memory.absorb(NOW, &Outcome::Failed(Slot::Postgres));
    world.memory.pauses.clear();
    check(&world, &Action::Rejoin { leader: upstream("pg1") }, &Reason::NotRunning);
    assert_eq!(announced(&world).state, MemberState::RestartFailed);
}

#[test]
fn a_synchronous_standby_leaves_before_it_stops() {
    let mut world = wanted(following());
    world.settings.synchronous_mode = SynchronousMode::On;
    let value =
        SyncRecord { leader: Some("pg1".into()), quorum: 0, sync_standby: Some(ME.to_ascii_uppercase()) };
    edit(&mut world, |view| view.sync = Some(Versioned { value, mod_revision: Revision(5) }));
    check_wait(&world, &Reason::LeavingSync);
    let tags = announced(&world).tags.0;
    assert_eq!((tags.get("nosync"), tags.get("sync_priority")), (Some(&true.into()), Some(&0.into())));
    // For two loops and no longer.
    world.memory.restart.as_mut().expect("one").asked_at = NOW - ms(20_000);
    check(&world, &STOP, &asked());
    edit(&mut world, |view| view.sync = None);
    world.memory.restart = Some(a_restart());
    check(&world, &STOP, &asked());
}

#[test]
fn while_nobody_leads_no_candidate_is_restarted() {
    check(&wanted(leaderless()), &Action::Campaign, &Reason::BestCandidate);
}

// Pause.

#[test]
fn in_pause_a_restart_is_one_of_the_wishes_that_come_true() {
    let mut world = paused(wanted(leading()));
    check(&world, &Action::Checkpoint { request: BY }, &asked());
    world.memory.restart.as_mut().expect("one").checkpointed = true;
    check(&world, &STOP, &asked());
    check(&paused(down(leading())), &Action::StartPrimary, &asked());
    check(&paused(wanted(following())), &STOP, &asked());
    let again = Action::StartStandby { upstream: Some(upstream("pg1")) };
    check(&paused(down(following())), &again, &asked());
}

#[test]
fn in_pause_a_primary_starts_only_with_the_key_and_a_live_lease() {
    let mut world = paused(down(leading()));
    edit(&mut world, |view| view.leader = None);
    check(&world, &Action::Campaign, &asked());
    edit(&mut world, |view| lead(view, "pg3", OTHER_LEASE));
    check_wait(&world, &Reason::Paused);
    let mut world = paused(down(leading()));
    renewed(&mut world, ms(2200));
    check_wait(&world, &Reason::RenewalLate);
    store_away(&mut world);
    check_wait(&world, &Reason::Paused);
}

#[test]
fn in_pause_a_start_that_failed_is_not_repeated() {
    let mut world = paused(down(leading()));
    world.memory.restart.as_mut().expect("one").failed = true;
    check(&world, &Action::Release { epoch: EPOCH, optime: None }, &Reason::CannotServe);
    let mut world = paused(down(following()));
    world.memory.restart.as_mut().expect("one").failed = true;
    check_wait(&world, &Reason::Paused);
}

// Whether at all.

#[test]
fn filters_choose_the_servers() {
    let filter = |role: Option<&str>, version: Option<&str>, pending: Option<bool>| Filters {
        role: role.map(str::to_owned),
        postgres_version: version.map(str::to_owned),
        restart_pending: pending,
    };
    let facts = facts("replica");
    for (filters, expected) in [
        (filter(None, None, None), true),
        (filter(Some("replica"), None, None), true),
        (filter(Some("primary"), None, None), false),
        (filter(None, Some("15.7"), None), true),
        (filter(None, Some("15.6"), None), false),
        (filter(None, Some("16.0"), None), true),
        (filter(None, Some("9.6.24"), None), false),
        (filter(None, None, Some(true)), false),
    ] {
        assert_eq!(filters.match_facts(&facts), expected, "{filters:?}");
        let judged = judge(&following(), &filters, &facts);
        let refusal = (!expected).then(|| "restart conditions are not satisfied".to_owned());
        assert_eq!(judged.err(), refusal, "{filters:?}");
    }
    let pending = Facts { pending: true, ..facts };
    assert!(filter(None, None, Some(true)).match_facts(&pending));
}

#[test]
fn one_long_step_at_a_time() {
    let go = |world: &World| judge(world, &Filters::default(), &facts("replica"));
    assert_eq!(go(&following()), Ok(()));
    for (what, refusal) in [
        ("clone", Some("clone already in progress")),
        ("promote", Some("promote already in progress")),
        ("follow", None),
    ] {
        let mut world = following();
        busy(&mut world, Slot::Postgres, what);
        assert_eq!(go(&world).err().as_deref(), refusal);
    }
    assert_eq!(go(&wanted(following())).err().as_deref(), Some("restart already in progress"));
    let mut world = following();
    world.memory.shutdown = true;
    assert_eq!(go(&world).err().as_deref(), Some("the agent is stopping"));
    let mut world = following();
    stopped(&mut world, DataDir::Absent);
    assert_eq!(go(&world).err().as_deref(), Some("there is no data to start PostgreSQL on"));
    let mut world = paused(leading());
    edit(&mut world, |view| lead(view, "pg3", OTHER_LEASE));
    assert_eq!(go(&world).err().as_deref(), Some("this server is a primary, and pg3 leads"));
}

#[test]
fn a_server_that_does_not_run_has_only_to_be_started() {
    let mut world = paused(following());
    stopped(&mut world, DataDir::Present(control(true, true)));
    world.memory.restart = Some(Restart::new(&world, 1, None));
    check(&world, &Action::StartStandby { upstream: Some(upstream("pg1")) }, &asked());
}

#[test]
fn a_scheduled_one_stands_in_the_member_record() {
    let mut world = following();
    world.memory.scheduled_restart = Some(ScheduledRestart {
        schedule: "2027-01-01T00:00:00+00:00".to_owned(),
        postmaster_start_time: Some("2026-12-31 12:00:00.000000+00:00".to_owned()),
        filters: Filters { restart_pending: Some(true), ..Filters::default() },
        timeout: Some(30),
    });
    let shown = announced(&world).scheduled_restart.expect("shown");
    let expected = serde_json::json!({"schedule": "2027-01-01T00:00:00+00:00",
        "postmaster_start_time": "2026-12-31 12:00:00.000000+00:00", "restart_pending": true, "timeout": 30});
    assert_eq!(shown, expected);
    let read: ScheduledRestart = serde_json::from_value(shown).expect("reads");
    assert_eq!(Some(read), world.memory.scheduled_restart);
}
