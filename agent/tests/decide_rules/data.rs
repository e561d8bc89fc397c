//! The data directory before any role: whose it is, whether it is there, whether it is whole.

use pgvane_agent::decide::action::{Action, Reason, StopMode};
use pgvane_agent::decide::world::{DataDir, Guard, LocalRole, OwnLease, Process, Slot, World};
use pgvane_cluster::ids::Revision;
use pgvane_cluster::records::{MemberRole, MemberState, Tags};
use pgvane_cluster::view::ClusterView;

use crate::decide_support::{
    EPOCH, LEASE, ME, OTHER_LEASE, SYSTEM, busy, check, check_wait, claimed, control, edit, empty, following,
    lead, leaderless, leading, member, nofailover, stopped, upstream,
};

fn without_data(data: DataDir) -> World {
    let mut world = following();
    stopped(&mut world, data);
    world
}

fn clone_friendly() -> Tags {
    Tags([("clonefrom".to_owned(), true.into())].into())
}

fn set_initialize() -> Action {
    Action::SetInitialize { system_identifier: SYSTEM.to_owned() }
}

#[test]
fn a_directory_that_cannot_be_read_is_for_the_operator() {
    let why = "no permission".to_owned();
    let world = without_data(DataDir::Unreadable(why.clone()));
    check(&world, &Action::Halt, &Reason::DataUnreadable(why));
}

#[test]
fn the_data_of_another_cluster_is_for_the_operator() {
    let mut world = following();
    edit(&mut world, |view| view.initialize = Some("1".to_owned()));
    let reason = Reason::ForeignData { cluster: "1".to_owned(), ours: SYSTEM.to_owned() };
    check(&world, &Action::Halt, &reason);
}

#[test]
fn a_new_cluster_begins_with_a_race() {
    check(&empty(), &Action::RaceInitialize, &Reason::NewCluster);
}

#[test]
fn who_may_not_lead_does_not_begin_a_cluster() {
    let mut world = empty();
    world.tags = nofailover();
    check_wait(&world, &Reason::NoFailoverTag);
}

#[test]
fn whose_settings_have_no_bootstrap_waits_for_another_to_begin() {
    let mut world = empty();
    world.abilities.begins_nothing = true;
    check_wait(&world, &Reason::WaitForFirstLeader);
}

#[test]
fn the_winner_of_the_race_bootstraps_and_the_others_wait() {
    let mut world = empty();
    edit(&mut world, |view| view.initialize = Some(String::new()));
    check_wait(&world, &Reason::WaitForFirstLeader);
    claimed(&mut world, 9);
    check(&world, &Action::Bootstrap, &Reason::NewCluster);
}

#[test]
fn the_store_tells_who_won_the_race() {
    let mut world = empty();
    claimed(&mut world, 9);
    world.memory.gave_up_bootstrap = Revision(9);
    check_wait(&world, &Reason::WaitForFirstLeader);
    world.memory.gave_up_bootstrap = Revision(8);
    check(&world, &Action::Bootstrap, &Reason::NewCluster);
    edit(&mut world, |view| view.initialize_revision = Some(Revision(11)));
    check_wait(&world, &Reason::WaitForFirstLeader);
    claimed(&mut world, 9);
    edit(&mut world, |view| view.bootstrap.iter_mut().for_each(|claim| claim.value = "pg1".into()));
    check_wait(&world, &Reason::WaitForFirstLeader);
}

#[test]
fn an_initialized_cluster_without_a_leader_is_waited_for() {
    let mut world = empty();
    claimed(&mut world, 9);
    edit(&mut world, |view| view.initialize = Some(SYSTEM.to_owned()));
    check_wait(&world, &Reason::WaitForFirstLeader);
}

#[test]
fn a_node_without_data_clones_the_leader() {
    let clone = Action::Clone { from: upstream("pg1") };
    check(&without_data(DataDir::Absent), &clone, &Reason::NoData);
    check(&without_data(DataDir::Spoiled), &clone, &Reason::DataSpoiled);
}

#[test]
fn a_member_tagged_for_it_is_cloned_instead_while_the_leader_serves() {
    let mut world = without_data(DataDir::Absent);
    member(&mut world, "pg3", |record| record.tags = clone_friendly());
    check(&world, &Action::Clone { from: upstream("pg3") }, &Reason::NoData);
    member(&mut world, "pg3", |record| record.state = MemberState::Starting);
    check(&world, &Action::Clone { from: upstream("pg1") }, &Reason::NoData);
    member(&mut world, "pg3", |record| record.state = MemberState::Running);
    member(&mut world, "pg1", |record| record.role = MemberRole::Promoted);
    check_wait(&world, &Reason::LeaderNotServing("pg1".into()));
}

#[test]
fn nobody_is_cloned_before_the_leader_serves() {
    let mut world = without_data(DataDir::Absent);
    member(&mut world, "pg1", |record| record.state = MemberState::Starting);
    check_wait(&world, &Reason::LeaderNotServing("pg1".into()));
    member(&mut world, "pg1", |record| {
        record.state = MemberState::Running;
        record.conn_url = None;
    });
    check_wait(&world, &Reason::LeaderNotServing("pg1".into()));
}

#[test]
fn a_leader_without_data_gives_the_key_back() {
    for data in [DataDir::Absent, DataDir::Spoiled] {
        let mut world = leading();
        stopped(&mut world, data);
        check(&world, &Action::Release { epoch: EPOCH, optime: None }, &Reason::CannotServe);
        edit(&mut world, |view| lead(view, ME, OTHER_LEASE));
        check_wait(&world, &Reason::KeyUnderOldLease);
    }
}

#[test]
fn a_leader_whose_directory_is_gone_keeps_the_key_while_its_server_runs() {
    let mut world = leading();
    world.local.data = DataDir::Absent;
    check(&world, &Action::Stop { how: StopMode::Immediate }, &Reason::NoData);
    world.local.process = Process::Stopping;
    check_wait(&world, &Reason::Busy(Slot::Postgres));
}

#[test]
fn a_leader_writes_a_missing_initialize() {
    for missing in [None, Some(String::new())] {
        let mut world = leading();
        edit(&mut world, |view| view.initialize = missing);
        check(&world, &set_initialize(), &Reason::InitializeMissing);
    }
}

#[test]
fn a_follower_leaves_a_missing_initialize_to_the_leader() {
    let mut world = following();
    edit(&mut world, |view| view.initialize = None);
    check_wait(&world, &Reason::Following);
}

#[test]
fn a_standby_does_not_begin_a_cluster_from_its_copy() {
    let mut world = leaderless();
    edit(&mut world, |view| view.initialize = None);
    check_wait(&world, &Reason::StandbyMayNotBeFirst);
    // However well its copy was left.
    stopped(&mut world, DataDir::Present(control(true, true)));
    check_wait(&world, &Reason::StandbyMayNotBeFirst);
}

#[test]
fn a_former_primary_writes_a_missing_initialize() {
    let mut world = leaderless();
    stopped(&mut world, DataDir::Present(control(false, true)));
    edit(&mut world, |view| view.initialize = None);
    check(&world, &set_initialize(), &Reason::InitializeMissing);
}

/// `patronictl remove` while the cluster runs (trap 14).
#[test]
fn a_leader_whose_keys_were_all_removed_takes_its_key_before_anybody_races() {
    let mut world = leaderless();
    stopped(&mut world, DataDir::Present(control(false, true)));
    world.memory.last_leader = Some(ME.into());
    edit(&mut world, |view| *view = ClusterView { revision: view.revision, ..ClusterView::default() });
    check(&world, &Action::Campaign, &Reason::NewCluster);
    edit(&mut world, |view| lead(view, ME, LEASE));
    check(&world, &set_initialize(), &Reason::InitializeMissing);
    edit(&mut world, |view| view.initialize = Some(SYSTEM.to_owned()));
    world.local.guard = Guard::Armed { epoch: EPOCH };
    check(&world, &Action::StartPrimary, &Reason::NotRunning);
    // A standby of it waits meanwhile, and a former primary that did not lead last begins as ever.
    let mut standby = leaderless();
    edit(&mut standby, |view| *view = ClusterView { revision: view.revision, ..ClusterView::default() });
    check_wait(&standby, &Reason::StandbyMayNotBeFirst);
    stopped(&mut standby, DataDir::Present(control(false, true)));
    check(&standby, &set_initialize(), &Reason::InitializeMissing);
}

#[test]
fn an_initialize_left_empty_is_filled_by_who_created_it() {
    let mut world = leaderless();
    stopped(&mut world, DataDir::Present(control(false, true)));
    edit(&mut world, |view| view.initialize = Some(String::new()));
    check_wait(&world, &Reason::WaitForFirstLeader);
    claimed(&mut world, 9);
    check(&world, &set_initialize(), &Reason::InitializeMissing);
}

#[test]
fn the_key_is_not_given_back_under_an_effect_on_the_server() {
    let mut world = leading();
    stopped(&mut world, DataDir::Absent);
    busy(&mut world, Slot::Postgres, "bootstrap");
    check_wait(&world, &Reason::Busy(Slot::Postgres));
}

#[test]
fn the_data_is_looked_at_before_the_role() {
    let mut world = following();
    world.local.role = LocalRole::Standby;
    world.local.guard = Guard::Armed { epoch: EPOCH };
    world.lease = OwnLease::None;
    edit(&mut world, |view| view.initialize = Some("1".to_owned()));
    let reason = Reason::ForeignData { cluster: "1".to_owned(), ours: SYSTEM.to_owned() };
    check(&world, &Action::Halt, &reason);
}
