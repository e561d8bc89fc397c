//! The race: who may lead, in which order, and how long each waits for those before it.

use pgvane_agent::decide::action::{Action, Reason};
use pgvane_agent::decide::candidate::{Verdict, has_diverged, judge};
use pgvane_agent::decide::world::{Peer, Peers, Slot, World};
use pgvane_cluster::clock::Tick;
use pgvane_cluster::ids::{Lsn, NodeName, Timeline};
use pgvane_cluster::records::{MemberRecord, MemberRole, MemberState, SyncRecord, Tags};
use pgvane_cluster::settings::SynchronousMode;
use pgvane_cluster::view::{Member, Versioned};

use crate::decide_support::{
    HEAD, ME, NOW, OTHER_LEASE, busy, check, check_wait, consent, edit, ended_at, leaderless, leading,
    member, ms, nofailover, request, standby_at, view, vouch,
};

fn verdict(world: &World) -> Verdict {
    judge(world, world.dcs.last_view().expect("has one"))
}

/// What is waited for until the next look in any case.
fn never(world: &World, reason: Reason) -> Verdict {
    Verdict::Wait(reason, world.now + world.timing.renew_interval)
}

/// The same world `millis` after the leader was gone.
fn gone_for(millis: u64) -> World {
    let mut world = leaderless();
    world.memory.leaderless_since = Some(NOW - ms(millis));
    world.peers.asked_at = NOW - ms(millis.min(10));
    world
}

fn priority(n: i64) -> Tags {
    Tags([("failover_priority".to_owned(), n.into())].into())
}

fn answer(world: &mut World, timeline: Option<u32>, position: Lsn, tags: Tags) {
    let timeline = timeline.map(Timeline);
    let answer = Peer::Answered { is_primary: false, running: true, timeline, position, fresh: true, tags };
    world.peers.answers = [("pg3".into(), answer)].into();
}

fn synced(world: &mut World, leader: Option<&str>, standbys: &str) {
    let value =
        SyncRecord { leader: leader.map(Into::into), quorum: 0, sync_standby: Some(standbys.to_owned()) };
    let mod_revision = pgvane_cluster::ids::Revision(5);
    edit(world, |view| view.sync = Some(Versioned { value, mod_revision }));
}

/// pg1 stopped cleanly at HEAD and gave the key back `millis` ago; nobody was asked.
fn released(millis: u64) -> World {
    let mut world = gone_for(millis);
    world.peers = Peers::default();
    let record = MemberRecord::new(MemberState::Stopped, MemberRole::Demoted);
    edit(&mut world, |view| {
        view.members.insert("pg1".into(), Member { record, lease: Some(OTHER_LEASE) });
    });
    world
}

// What keeps a node from the race.

#[test]
fn a_promise_to_another_leader_comes_first() {
    let mut world = leaderless();
    world.memory.vouch = Some(vouch(&world, "pg1"));
    request(&mut world, None, Some(ME));
    assert_eq!(verdict(&world), Verdict::Wait(Reason::WeVouchedFor("pg1".into()), NOW + ms(1000)));
}

#[test]
fn a_server_that_does_not_answer_does_not_race() {
    let mut world = leaderless();
    world.local.sql = None;
    assert_eq!(verdict(&world), Verdict::Wait(Reason::PositionUnknown, NOW + ms(20)));
}

#[test]
fn a_position_from_before_the_loss_is_waited_out_for_a_moment() {
    let mut world = gone_for(299);
    world.local.sql.as_mut().expect("answers").asked_at = NOW - ms(300);
    assert_eq!(verdict(&world), Verdict::Wait(Reason::PositionUnknown, NOW + ms(20)));
    let mut world = gone_for(300);
    world.local.sql.as_mut().expect("answers").asked_at = NOW - ms(301);
    assert_eq!(verdict(&world), Verdict::Campaign);
}

#[test]
fn a_primary_that_all_others_vouch_for_renews_its_key() {
    let mut world = leading();
    edit(&mut world, |view| view.leader = None);
    world.memory.consent = Some(consent(&world, ms(100)));
    world.tags = nofailover();
    assert_eq!(verdict(&world), Verdict::Campaign);
}

#[test]
fn tags_keep_a_node_out() {
    for tags in [nofailover(), priority(0), priority(-1)] {
        let mut world = leaderless();
        world.tags = tags;
        request(&mut world, None, Some(ME));
        assert_eq!(verdict(&world), never(&world, Reason::NoFailoverTag));
    }
}

#[test]
fn who_is_not_on_the_failsafe_list_stays_out() {
    let mut world = leaderless();
    edit(&mut world, |view| drop(view.failsafe.as_mut().expect("a list").0.remove(&ME.into())));
    // The mode is off, and the last leader may not know it yet.
    assert_eq!(verdict(&world), never(&world, Reason::NotInFailsafe));
    world.memory.led_by_patroni = true;
    assert_eq!(verdict(&world), Verdict::Campaign);
    world.settings.failsafe_mode = true;
    assert_eq!(verdict(&world), never(&world, Reason::NotInFailsafe));
    edit(&mut world, |view| view.failsafe.as_mut().expect("a list").0.clear());
    assert_eq!(verdict(&world), Verdict::Campaign);
    edit(&mut world, |view| view.failsafe = None);
    assert_eq!(verdict(&world), Verdict::Campaign);
}

#[test]
fn who_did_not_confirm_commits_stays_out_in_synchronous_mode() {
    let mut world = leaderless();
    synced(&mut world, Some("pg1"), "pg3");
    assert_eq!(verdict(&world), Verdict::Campaign);
    world.settings.synchronous_mode = SynchronousMode::On;
    assert_eq!(verdict(&world), never(&world, Reason::NotSynchronous));
    for (leader, standbys) in [(Some("pg1"), "pg3,PG2"), (Some(ME), ""), (None, "pg3")] {
        synced(&mut world, leader, standbys);
        assert_eq!(verdict(&world), Verdict::Campaign, "{leader:?} {standbys:?}");
    }
    edit(&mut world, |view| view.sync = None);
    assert_eq!(verdict(&world), Verdict::Campaign);
}

#[test]
fn a_history_of_its_own_keeps_a_node_out() {
    let mut world = leaderless();
    ended_at(&mut world, Lsn(HEAD.0 - 1));
    assert_eq!(verdict(&world), never(&world, Reason::Diverged));
    ended_at(&mut world, HEAD);
    assert_eq!(verdict(&world), Verdict::Campaign);
}

#[test]
fn a_server_diverged_when_it_went_past_the_end_of_its_timeline() {
    let mut world = leaderless();
    ended_at(&mut world, Lsn(100));
    let view_of = |world: &World| world.dcs.last_view().expect("has one").clone();
    let known = view_of(&world);
    assert!(!has_diverged(&known, Timeline(1), Lsn(100)));
    assert!(has_diverged(&known, Timeline(1), Lsn(101)));
    assert!(!has_diverged(&known, Timeline(2), Lsn(101)));
    assert!(!has_diverged(&view(), Timeline(1), Lsn(u64::MAX)), "an unknown history proves nothing");
}

#[test]
fn a_timeline_that_is_no_longer_listed_ended_before_the_next_one_did() {
    let mut world = leaderless();
    ended_at(&mut world, Lsn(100));
    edit(&mut world, |view| view.history.as_mut().expect("known").0[0].timeline = Timeline(4));
    let known = world.dcs.last_view().expect("has one");
    assert!(has_diverged(known, Timeline(3), Lsn(101)));
    assert!(!has_diverged(known, Timeline(3), Lsn(100)));
    assert!(!has_diverged(known, Timeline(5), Lsn(101)));
}

#[test]
fn the_lag_limit_is_counted_from_the_last_word_of_the_leader() {
    let mut world = leaderless();
    world.settings.maximum_lag_on_failover = 10;
    world.local.sql.as_mut().expect("answers").position = Lsn(HEAD.0 - 10);
    world.peers.answers.clear();
    assert_eq!(verdict(&world), Verdict::Campaign);
    world.local.sql.as_mut().expect("answers").position = Lsn(HEAD.0 - 11);
    assert_eq!(verdict(&world), never(&world, Reason::TooFarBehind));
    edit(&mut world, |view| view.status = None);
    assert_eq!(verdict(&world), Verdict::Campaign);
}

// The operator's word.

#[test]
fn the_named_candidate_campaigns_whatever_the_others_hold() {
    let mut world = leaderless();
    request(&mut world, Some("pg1"), Some(ME));
    world.peers = Peers::default();
    world.local.sql.as_mut().expect("answers").position = Lsn(1);
    assert_eq!(verdict(&world), Verdict::Campaign);
}

#[test]
fn the_named_candidate_is_waited_for() {
    let named = Reason::CandidateNamed("pg3".into());
    let mut world = gone_for(2999);
    request(&mut world, Some("pg1"), Some("pg3"));
    assert_eq!(verdict(&world), Verdict::Wait(named, NOW + ms(1)));
    let mut world = gone_for(3000);
    request(&mut world, Some("pg1"), Some("pg3"));
    assert_eq!(verdict(&world), Verdict::Campaign);
}

#[test]
fn the_leader_that_was_to_be_replaced_lets_the_others_go_first() {
    let named = Reason::CandidateNamed(ME.into());
    let mut world = gone_for(500);
    request(&mut world, Some(ME), None);
    assert_eq!(verdict(&world), Verdict::Wait(named, NOW + ms(2500)));
    let mut world = gone_for(3000);
    request(&mut world, Some(ME), None);
    assert_eq!(verdict(&world), Verdict::Campaign);
}

#[test]
fn a_request_for_later_names_nobody_yet() {
    let mut world = leaderless();
    request(&mut world, Some("pg1"), Some("pg3"));
    edit(&mut world, |view| {
        view.failover.as_mut().expect("a request").value.scheduled_at = Some("2030-01-01T00:00Z".to_owned());
    });
    assert_eq!(verdict(&world), Verdict::Campaign);
}

// The answers.

#[test]
fn answers_from_before_the_loss_or_too_old_are_asked_for_again() {
    let mut world = leaderless();
    world.peers.asked_at = NOW - ms(501);
    assert_eq!(verdict(&world), Verdict::Ask);
    let mut world = gone_for(5000);
    world.peers.asked_at = NOW - ms(1001);
    assert_eq!(verdict(&world), Verdict::Ask);
    world.peers.asked_at = NOW - ms(1000);
    assert_eq!(verdict(&world), Verdict::Campaign);
    world.peers.asked_at = Tick::ZERO;
    assert_eq!(verdict(&world), Verdict::Ask);
}

#[test]
fn a_primary_that_still_answers_must_step_down_first() {
    let mut world = gone_for(60_000);
    let primary = Peer::Answered {
        is_primary: true,
        running: true,
        timeline: Some(Timeline(1)),
        position: Lsn(1),
        fresh: true,
        tags: nofailover(),
    };
    world.peers.answers = [("pg3".into(), primary)].into();
    let alive = Verdict::Wait(Reason::PrimaryAlive("pg3".into()), NOW + ms(190));
    assert_eq!(verdict(&world), alive);
    world.peers.asked_at = NOW - ms(200);
    assert_eq!(verdict(&world), Verdict::Ask);
    busy(&mut world, Slot::Peers, "poll_peers");
    assert_eq!(verdict(&world), Verdict::Wait(Reason::PrimaryAlive("pg3".into()), NOW));
}

#[test]
fn a_member_that_is_ahead_goes_first() {
    let behind = Verdict::Wait(Reason::BehindPeer("pg3".into()), NOW + ms(190));
    let mut world = gone_for(50);
    answer(&mut world, Some(1), Lsn(HEAD.0 + 1), Tags::default());
    assert_eq!(verdict(&world), behind);
    answer(&mut world, Some(2), Lsn(1), Tags::default());
    assert_eq!(verdict(&world), behind, "a newer timeline outweighs more WAL");
    answer(&mut world, None, Lsn(HEAD.0 + 1), Tags::default());
    assert_eq!(verdict(&world), behind, "one that tells no timeline counts as on ours");
    answer(&mut world, Some(1), Lsn(HEAD.0 + 1), priority(1));
    world.tags = priority(9);
    assert_eq!(verdict(&world), behind, "more WAL outweighs a priority");
}

#[test]
fn a_member_that_is_ahead_does_not_block_the_others_for_ever() {
    let mut world = gone_for(3000);
    answer(&mut world, Some(1), Lsn(HEAD.0 + 1), Tags::default());
    assert_eq!(verdict(&world), Verdict::Campaign);
    let mut world = gone_for(2999);
    answer(&mut world, Some(1), Lsn(HEAD.0 + 1), Tags::default());
    assert_eq!(verdict(&world), Verdict::Wait(Reason::BehindPeer("pg3".into()), NOW + ms(190)));
}

#[test]
fn who_is_ahead_goes_at_once() {
    let mut world = gone_for(0);
    for (timeline, position) in [(1, Lsn(HEAD.0 - 1)), (0, Lsn(HEAD.0 + 1))] {
        answer(&mut world, Some(timeline), position, priority(9));
        assert_eq!(verdict(&world), Verdict::Campaign);
    }
}

/// This node is another than it was.
fn rename(world: &mut World, name: &str) {
    world.me = name.into();
    edit(world, |view| view.failsafe = None);
}

#[test]
fn equals_go_by_priority_then_by_name() {
    let after = Verdict::Wait(Reason::AfterPeer("pg3".into()), NOW + ms(50));
    let mut world = gone_for(50);
    answer(&mut world, Some(1), HEAD, Tags::default());
    assert_eq!(verdict(&world), Verdict::Campaign, "pg2 goes before pg3");
    answer(&mut world, Some(1), HEAD, priority(2));
    assert_eq!(verdict(&world), after);
    world.tags = priority(2);
    assert_eq!(verdict(&world), Verdict::Campaign);
    rename(&mut world, "pg4");
    assert_eq!(verdict(&world), after);
    answer(&mut world, Some(1), HEAD, priority(1));
    assert_eq!(verdict(&world), Verdict::Campaign);
}

#[test]
fn each_equal_is_waited_for_a_tenth_of_a_second() {
    let mut world = gone_for(199);
    rename(&mut world, "pg5");
    world.peers.answers = [("pg3".into(), standby_at(HEAD)), ("pg4".into(), standby_at(HEAD))].into();
    assert_eq!(verdict(&world), Verdict::Wait(Reason::AfterPeer("pg3".into()), NOW + ms(1)));
    world.memory.leaderless_since = Some(NOW - ms(200));
    assert_eq!(verdict(&world), Verdict::Campaign);
}

#[test]
fn who_cannot_lead_is_not_waited_for() {
    let mut world = gone_for(50);
    answer(&mut world, Some(2), Lsn(HEAD.0 + 1), nofailover());
    assert_eq!(verdict(&world), Verdict::Campaign);
    let down = Peer::Answered {
        is_primary: false,
        running: false,
        timeline: Some(Timeline(2)),
        position: Lsn(HEAD.0 + 1),
        fresh: true,
        tags: Tags::default(),
    };
    world.peers.answers = [("pg3".into(), down), ("pg1".into(), Peer::Unreachable)].into();
    assert_eq!(verdict(&world), Verdict::Campaign);
}

#[test]
fn our_own_answer_is_passed_over() {
    let mut world = gone_for(50);
    world.peers.answers.insert(ME.into(), standby_at(Lsn(HEAD.0 + 1)));
    assert_eq!(verdict(&world), Verdict::Campaign);
}

// After a clean release.

#[test]
fn after_a_clean_release_nobody_needs_to_be_asked() {
    assert_eq!(verdict(&released(0)), Verdict::Campaign);
}

#[test]
fn after_a_clean_release_equals_go_by_their_records() {
    let after = Verdict::Wait(Reason::AfterPeer("pg3".into()), NOW + ms(100));
    let mut world = released(0);
    member(&mut world, "pg3", |record| record.tags = priority(2));
    assert_eq!(verdict(&world), after);
    let mut later = released(100);
    member(&mut later, "pg3", |record| record.tags = priority(2));
    assert_eq!(verdict(&later), Verdict::Campaign);
    member(&mut world, "pg3", |record| record.state = MemberState::Starting);
    assert_eq!(verdict(&world), Verdict::Campaign);
    member(&mut world, "pg3", |record| {
        record.state = MemberState::Running;
        record.tags = nofailover();
    });
    assert_eq!(verdict(&world), Verdict::Campaign);
}

#[test]
fn a_release_is_clean_only_when_we_hold_all_the_leader_wrote() {
    let mut world = released(0);
    world.local.sql.as_mut().expect("answers").position = Lsn(HEAD.0 - 1);
    assert_eq!(verdict(&world), Verdict::Ask);
    let mut world = released(0);
    member(&mut world, "pg1", |record| record.state = MemberState::Crashed);
    assert_eq!(verdict(&world), Verdict::Ask);
    let mut world = released(0);
    edit(&mut world, |view| view.status.as_mut().expect("known").optime = Lsn(0));
    assert_eq!(verdict(&world), Verdict::Ask);
    let mut world = released(0);
    world.memory.last_leader = None;
    assert_eq!(verdict(&world), Verdict::Ask);
    let mut world = released(0);
    world.memory.last_leader = Some(ME.into());
    assert_eq!(verdict(&world), Verdict::Ask);
}

#[test]
fn more_wal_of_an_older_timeline_is_not_what_the_leader_wrote() {
    let mut world = released(0);
    member(&mut world, "pg3", |record| record.timeline = Some(Timeline(2)));
    assert_eq!(verdict(&world), Verdict::Ask);
    let mut world = released(0);
    ended_at(&mut world, HEAD);
    assert_eq!(verdict(&world), Verdict::Ask);
    world.local.sql.as_mut().expect("answers").timeline = Timeline(2);
    assert_eq!(verdict(&world), Verdict::Campaign);
}

/// Trap 16: a failover is the operator's word over lag, timeline and synchronous commit; a switchover is not over the
/// last. Neither makes a leader of a server whose history parted from the cluster's.
#[test]
fn a_failover_names_whoever_it_names() {
    let lacking = || {
        let mut world = leaderless();
        ended_at(&mut world, HEAD);
        world.settings.synchronous_mode = SynchronousMode::On;
        synced(&mut world, Some("pg1"), "pg3");
        world.settings.check_timeline = true;
        edit(&mut world, |view| view.status.as_mut().expect("known").optime = Lsn(u64::MAX));
        world
    };
    let mut failover = lacking();
    request(&mut failover, None, Some(ME));
    check(&failover, &Action::Campaign, &Reason::BestCandidate);
    let mut switchover = lacking();
    request(&mut switchover, Some("pg1"), Some(ME));
    check_wait(&switchover, &Reason::NotSynchronous);
    ended_at(&mut failover, Lsn(5));
    check_wait(&failover, &Reason::Diverged);
    ended_at(&mut failover, HEAD);
    // What the others' promises rest on is nobody's to waive.
    failover.settings.failsafe_mode = true;
    edit(&mut failover, |view| drop(view.failsafe.as_mut().expect("a list").0.remove(&NodeName::from(ME))));
    check_wait(&failover, &Reason::NotInFailsafe);
}

/// Trap 3.
#[test]
fn a_node_that_missed_a_promotion_does_not_lead_where_that_counts() {
    let mut world = leaderless();
    ended_at(&mut world, HEAD);
    check(&world, &Action::Campaign, &Reason::BestCandidate);
    world.settings.check_timeline = true;
    check_wait(&world, &Reason::OlderTimeline);
    world.local.sql.as_mut().expect("answers").timeline = Timeline(2);
    check(&world, &Action::Campaign, &Reason::BestCandidate);
}

#[test]
fn wal_that_still_comes_is_waited_for() {
    let mut world = leaderless();
    world.settings.primary_race_backoff = ms(2000);
    check(&world, &Action::Campaign, &Reason::BestCandidate);
    world.local.sql.as_mut().expect("answers").streaming = true;
    // It is not known yet whether it grows.
    let decision = check_wait(&world, &Reason::WalStillComes);
    assert_eq!(decision.wake_at, NOW + ms(200));
    world.memory.wal_grew = Some((HEAD, NOW - ms(100)));
    check_wait(&world, &Reason::WalStillComes);
    world.memory.leaderless_since = Some(NOW - ms(2000));
    check(&world, &Action::Campaign, &Reason::BestCandidate);
    world.memory.leaderless_since = Some(NOW - ms(1000));
    world.memory.wal_grew = Some((HEAD, NOW - ms(800)));
    check(&world, &Action::Campaign, &Reason::BestCandidate);
}

/// One that does not tell its timeline is on that of its record, else on ours: it is waited for if it has more.
#[test]
fn a_peer_without_a_timeline_counts_by_its_record_and_else_as_on_ours() {
    let mut world = leaderless();
    let ahead = |position| Peer::Answered {
        is_primary: false,
        running: true,
        timeline: None,
        position,
        fresh: true,
        tags: Tags::default(),
    };
    world.peers.answers = [("pg3".into(), ahead(Lsn(HEAD.0 + 1)))].into();
    check_wait(&world, &Reason::BehindPeer("pg3".into()));
    member(&mut world, "pg3", |record| record.timeline = None);
    check_wait(&world, &Reason::BehindPeer("pg3".into()));
    world.peers.answers = [("pg3".into(), ahead(Lsn(HEAD.0 - 1)))].into();
    check(&world, &Action::Campaign, &Reason::BestCandidate);
    member(&mut world, "pg3", |record| record.timeline = Some(Timeline(2)));
    check_wait(&world, &Reason::BehindPeer("pg3".into()));
}
