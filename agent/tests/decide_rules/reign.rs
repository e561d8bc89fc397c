//! Timelines of one number that were begun by two promotions are two timelines.

use pgvane_agent::decide::action::{Action, Reason};
use pgvane_agent::decide::memory::Outcome;
use pgvane_agent::decide::world::{DataDir, Peer, Slot, World};
use pgvane_agent::decide::{announce, reign};
use pgvane_cluster::ids::{Epoch, Lsn, NodeName, Timeline};
use pgvane_cluster::records::{MemberRole, Tags};
use pgvane_cluster::reigns::{PublishedReigns, Reign, Reigns};

use crate::decide_support::{
    EPOCH, HEAD, NOW, announced, check, check_wait, control, edit, following, leaderless, leading, member,
    ms, standby_at, stopped, upstream,
};

fn begun(epoch: i64, leader: &str) -> Reign {
    Reign { epoch: Epoch(epoch), leader: leader.into() }
}

fn list(list: &[(u32, i64, &str)]) -> Reigns {
    Reigns(list.iter().map(|(t, epoch, leader)| (Timeline(*t), begun(*epoch, leader))).collect())
}

fn publish(world: &mut World, epoch: Epoch, timelines: Reigns) {
    edit(world, |view| view.reigns = Some(PublishedReigns { epoch, timelines }));
}

fn on(world: &mut World, timeline: u32) {
    world.local.sql.as_mut().expect("answers").timeline = Timeline(timeline);
}

fn tells(world: &mut World, name: &str, timeline: u32, reign: Option<Reign>) {
    member(world, name, |record| {
        record.timeline = Some(Timeline(timeline));
        record.pgvane.as_mut().expect("native").reign = reign;
    });
}

fn rejoin() -> Action {
    Action::Rejoin { leader: upstream("pg1") }
}

/// On timeline 2 that pg3 began, streaming from nobody; pg1 leads on a timeline 2 of its own.
fn parted() -> World {
    let mut world = following();
    on(&mut world, 2);
    world.local.sql.as_mut().expect("answers").upstream = None;
    world.memory.reigns = list(&[(2, 39, "pg3")]);
    publish(&mut world, EPOCH, list(&[(2, EPOCH.0, "pg1")]));
    tells(&mut world, "pg1", 2, Some(begun(EPOCH.0, "pg1")));
    world
}

#[test]
fn another_timeline_of_the_same_number_is_not_followed() {
    check(&parted(), &rejoin(), &Reason::Diverged);
    let mut same = parted();
    same.memory.reigns = list(&[(2, EPOCH.0, "pg1")]);
    check(&same, &Action::Follow { upstream: upstream("pg1") }, &Reason::WrongUpstream);
}

#[test]
fn nobody_goes_by_numbers_before_the_leader_has_told() {
    let expected = Reason::HistoryExpected("pg1".into());
    let mut world = parted();
    publish(&mut world, Epoch(EPOCH.0 - 1), Reigns::default());
    let decision = check_wait(&world, &expected);
    assert_eq!(decision.wake_at, NOW + ms(20));
    stopped(&mut world, DataDir::Present(control(true, false)));
    check_wait(&world, &expected);
    // One of Patroni's tells nothing; the WAL itself is compared on the way.
    let mut world = parted();
    edit(&mut world, |view| view.reigns = None);
    member(&mut world, "pg1", |record| record.pgvane = None);
    check(&world, &Action::Follow { upstream: upstream("pg1") }, &Reason::WrongUpstream);
}

#[test]
fn a_leader_that_does_not_serve_yet_is_followed_on_a_line_that_is_surely_its_own() {
    let follow = Action::Follow { upstream: upstream("pg1") };
    for (ours, known, theirs, told, follows) in [
        (1, list(&[]), 1, None, true),
        (2, list(&[(2, 39, "pg3")]), 2, Some(begun(39, "pg3")), true),
        (2, list(&[(2, 39, "pg3")]), 2, Some(begun(38, "pg3")), false),
        (2, list(&[(2, 39, "pg3")]), 2, None, false),
        (2, list(&[]), 2, None, true),
        // It may be about to begin a timeline 2 of its own.
        (2, list(&[(2, 39, "pg3")]), 1, None, false),
        (1, list(&[]), 2, Some(begun(39, "pg3")), true),
    ] {
        let mut world = parted();
        on(&mut world, ours);
        world.memory.reigns = known;
        publish(&mut world, Epoch(39), Reigns::default());
        tells(&mut world, "pg1", theirs, told.clone());
        member(&mut world, "pg1", |record| record.role = MemberRole::Replica);
        if follows {
            check(&world, &follow, &Reason::WrongUpstream);
        } else {
            check_wait(&world, &Reason::LeaderNotServing("pg1".into()));
        }
    }
}

#[test]
fn what_a_look_at_the_wal_showed_counts_for_that_leader() {
    let mut world = following();
    world.local.sql.as_mut().expect("answers").upstream = None;
    world.memory.absorb(NOW, &Outcome::Parted(EPOCH));
    check(&world, &rejoin(), &Reason::Diverged);
    world.memory.absorb(NOW, &Outcome::Done(Slot::Postgres));
    check(&world, &Action::Follow { upstream: upstream("pg1") }, &Reason::WrongUpstream);
    world.memory.absorb(NOW, &Outcome::Parted(Epoch(EPOCH.0 - 1)));
    check(&world, &Action::Follow { upstream: upstream("pg1") }, &Reason::WrongUpstream);
}

#[test]
fn a_standby_learns_whose_timelines_it_streams() {
    let streaming = |seen_at: u64| {
        let mut world = following();
        on(&mut world, 2);
        publish(&mut world, EPOCH, list(&[(2, 39, "pg3"), (3, EPOCH.0, "pg1")]));
        world.memory.leader_since = Some((EPOCH, NOW - ms(seen_at)));
        world
    };
    assert_eq!(reign::learned(&streaming(10)), Some(list(&[(2, 39, "pg3")])));
    let none = |change: fn(&mut World)| {
        let mut world = streaming(10);
        change(&mut world);
        assert_eq!(reign::learned(&world), None, "{world:#?}");
    };
    none(|w| w.memory.reigns = list(&[(2, 39, "pg3")]));
    none(|w| w.memory.reigns = list(&[(2, 38, "pg3")]));
    none(|w| w.memory.parted = Some(EPOCH));
    // The answer may tell of the leader before.
    none(|w| w.memory.leader_since = Some((EPOCH, NOW)));
    none(|w| w.memory.leader_since = None);
    none(|w| w.local.sql.as_mut().expect("answers").streaming = false);
    none(|w| w.local.sql.as_mut().expect("answers").upstream = Some(("pg9".to_owned(), 5432)));
    none(|w| publish(w, Epoch(EPOCH.0 - 1), list(&[(2, 39, "pg3")])));
    // Of timelines that were left behind nothing is kept.
    let mut back = streaming(10);
    back.memory.reigns = list(&[(2, 39, "pg3"), (7, 38, "pg2")]);
    assert_eq!(reign::learned(&back), Some(list(&[(2, 39, "pg3")])));
}

#[test]
fn a_standby_learns_through_another_only_if_that_one_is_on_the_line() {
    let mut world = following();
    on(&mut world, 2);
    world.local.sql.as_mut().expect("answers").upstream = Some(("pg3".to_owned(), 5432));
    publish(&mut world, EPOCH, list(&[(2, 39, "pg1")]));
    world.memory.leader_since = Some((EPOCH, NOW - ms(10)));
    tells(&mut world, "pg3", 2, Some(begun(39, "pg1")));
    assert_eq!(reign::learned(&world), Some(list(&[(2, 39, "pg1")])));
    tells(&mut world, "pg3", 2, Some(begun(38, "pg3")));
    assert_eq!(reign::learned(&world), None);
}

#[test]
fn a_leader_publishes_the_timelines_of_its_reign_once() {
    let mut world = leading();
    on(&mut world, 3);
    world.memory.reigns = list(&[(2, 39, "pg3"), (3, EPOCH.0, "pg2"), (4, 1, "pg9")]);
    let expected = list(&[(2, 39, "pg3"), (3, EPOCH.0, "pg2")]);
    let record = PublishedReigns { epoch: EPOCH, timelines: expected.clone() };
    assert_eq!(announce::reigns(&world), Some((EPOCH, record)));
    publish(&mut world, EPOCH, expected);
    assert_eq!(announce::reigns(&world), None);
    assert_eq!(announced(&world).pgvane.expect("native").reign, Some(begun(EPOCH.0, "pg2")));
    assert_eq!(announce::reigns(&following()), None);
}

#[test]
fn a_promotion_that_was_only_noted_is_looked_up() {
    let mut world = leading();
    assert_eq!(reign::unsettled(&world), None);
    on(&mut world, 2);
    assert_eq!(reign::unsettled(&world), Some(Timeline(2)));
    world.memory.reigns = list(&[(2, EPOCH.0, "pg2")]);
    assert_eq!(reign::unsettled(&world), None);
}

/// We and pg3 are on timeline 2, each on one of its own.
fn race(ours: i64, theirs: i64, their_position: Lsn) -> World {
    let mut world = leaderless();
    on(&mut world, 2);
    world.memory.reigns = list(&[(2, ours, "pg2")]);
    edit(&mut world, |view| view.reigns = None);
    tells(&mut world, "pg3", 2, Some(begun(theirs, "pg3")));
    let Peer::Answered { timeline, .. } = world.peers.answers.get_mut(&NodeName::from("pg3")).expect("pg3")
    else {
        unreachable!("it answered")
    };
    *timeline = Some(Timeline(2));
    if let Some(Peer::Answered { position, .. }) = world.peers.answers.get_mut(&NodeName::from("pg3")) {
        *position = their_position;
    }
    world
}

#[test]
fn of_two_timelines_of_one_number_the_later_reign_leads_however_far_the_other_got() {
    check_wait(&race(38, 39, Lsn(5)), &Reason::BehindPeer("pg3".into()));
    check(&race(39, 38, Lsn(HEAD.0 + 1000)), &Action::Campaign, &Reason::BestCandidate);
    // The same one: as ever, the further position.
    let mut world = race(39, 39, Lsn(HEAD.0 + 1));
    tells(&mut world, "pg3", 2, Some(begun(39, "pg2")));
    check_wait(&world, &Reason::BehindPeer("pg3".into()));
    // A record that tells of another timeline says nothing of this one.
    let mut world = race(39, 38, Lsn(HEAD.0 + 1));
    tells(&mut world, "pg3", 1, Some(begun(38, "pg3")));
    check_wait(&world, &Reason::BehindPeer("pg3".into()));
}

#[test]
fn who_parted_from_the_last_list_does_not_lead() {
    let mut world = race(38, 38, Lsn(5));
    world.peers.answers = [("pg3".into(), standby_at(Lsn(5)))].into();
    publish(&mut world, EPOCH, list(&[(2, 39, "pg1")]));
    check_wait(&world, &Reason::Diverged);
    // A list from before the newest reign says nothing.
    publish(&mut world, Epoch(EPOCH.0 - 1), list(&[(2, 39, "pg1")]));
    check(&world, &Action::Campaign, &Reason::BestCandidate);
    world.tags = Tags::default();
}
