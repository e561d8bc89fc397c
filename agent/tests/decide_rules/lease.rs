//! Until when this node may lead, and by which right.

use pgvane_agent::decide::lease::{Authority, renewal_is_late, store_is_away};
use pgvane_agent::decide::memory::Released;
use pgvane_agent::decide::world::{Dcs, OwnLease, World};
use pgvane_cluster::ids::Epoch;

use crate::decide_support::{
    EPOCH, LEASE, ME, NOW, OTHER_LEASE, consent, edit, following, lead, leading, ms, renewed, store_away,
};

fn right(world: &World) -> Authority {
    world.authority().expect("a right")
}

#[test]
fn the_key_under_our_own_lease_is_a_right_until_the_deadline_of_the_guard() {
    let mut world = leading();
    let expected = Authority {
        epoch: EPOCH,
        step_down_at: NOW - ms(100) + ms(2120),
        guard_deadline: NOW - ms(100) + ms(2620),
        by_consent: false,
    };
    assert_eq!(world.authority(), Some(expected));
    store_away(&mut world);
    assert_eq!(world.authority(), Some(expected));
    renewed(&mut world, ms(2619));
    assert!(right(&world).is_late(NOW));
    renewed(&mut world, ms(2620));
    assert_eq!(world.authority(), None);
}

/// The deletion may have happened although nobody said so.
#[test]
fn a_reign_that_was_given_up_is_no_right_whether_or_not_that_was_answered() {
    for done in [false, true] {
        let mut world = leading();
        world.memory.released = Some(Released { epoch: EPOCH, done });
        assert_eq!(world.authority(), None, "by the lease, done: {done}");
        world.memory.consent = Some(consent(&world, ms(100)));
        assert_eq!(world.authority(), None, "by the word of the others, done: {done}");
        world.memory.released = Some(Released { epoch: Epoch(EPOCH.0 - 1), done });
        assert!(world.authority().is_some(), "of an earlier reign, done: {done}");
    }
}

#[test]
fn a_right_is_late_from_the_instant_of_the_step_down_on() {
    let authority = right(&leading());
    assert!(!authority.is_late(authority.step_down_at - std::time::Duration::from_nanos(1)));
    assert!(authority.is_late(authority.step_down_at));
}

#[test]
fn no_other_key_is_a_right() {
    let mut world = leading();
    edit(&mut world, |view| lead(view, "pg3", LEASE));
    assert_eq!(world.authority(), None);
    edit(&mut world, |view| lead(view, ME, OTHER_LEASE));
    assert_eq!(world.authority(), None);
    edit(&mut world, |view| view.leader = None);
    assert_eq!(world.authority(), None);
    let mut world = leading();
    edit(&mut world, |view| view.leader.as_mut().expect("leads").lease = None);
    assert_eq!(world.authority(), None);
    let mut world = leading();
    world.lease = OwnLease::None;
    assert_eq!(world.authority(), None);
    world.dcs = Dcs::Unknown { since: NOW, last: None };
    assert_eq!(world.authority(), None);
}

#[test]
fn the_word_of_all_others_is_a_right_while_no_other_leader_is_seen() {
    let mut world = leading();
    world.lease = OwnLease::None;
    world.memory.consent = Some(consent(&world, ms(200)));
    let expected = Authority {
        epoch: EPOCH,
        step_down_at: NOW - ms(200) + ms(2120),
        guard_deadline: NOW - ms(200) + ms(2620),
        by_consent: true,
    };
    assert_eq!(world.authority(), Some(expected));
    edit(&mut world, |view| view.leader = None);
    assert_eq!(world.authority(), Some(expected));
    edit(&mut world, |view| lead(view, "pg3", OTHER_LEASE));
    assert_eq!(world.authority(), None);
}

#[test]
fn the_later_of_lease_and_word_counts() {
    let mut world = leading();
    world.memory.consent = Some(consent(&world, ms(101)));
    assert!(!right(&world).by_consent);
    world.memory.consent = Some(consent(&world, ms(99)));
    assert!(right(&world).by_consent);
}

#[test]
fn a_word_for_another_reign_is_no_right_to_this_one() {
    let mut world = leading();
    let mut other = consent(&world, ms(0));
    other.epoch = Epoch(EPOCH.0 - 1);
    world.memory.consent = Some(other);
    assert_eq!(right(&world).epoch, EPOCH);
    assert!(!right(&world).by_consent);
    edit(&mut world, |view| lead(view, ME, OTHER_LEASE));
    assert_eq!(world.authority(), None);
}

#[test]
fn a_renewal_is_late_after_one_and_a_half_intervals() {
    let mut world = following();
    renewed(&mut world, ms(750));
    assert!(!renewal_is_late(&world));
    renewed(&mut world, ms(751));
    assert!(renewal_is_late(&world));
    // One of before ttl was lowered: renewed every 5 s, and just now asked for anew.
    if let OwnLease::Held { ttl, .. } = &mut world.lease {
        *ttl = ms(30_000);
    }
    assert!(!renewal_is_late(&world));
    world.lease = OwnLease::None;
    assert!(renewal_is_late(&world));
}

#[test]
fn the_store_is_away_when_it_does_not_answer() {
    let mut world = following();
    assert!(!store_is_away(&world));
    store_away(&mut world);
    assert!(store_is_away(&world));
}
