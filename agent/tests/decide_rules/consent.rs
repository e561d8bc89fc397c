//! Whether this node vouches for a leader that cannot reach the store.

use pgvane_agent::decide::consent::{Refusal, judge};
use pgvane_agent::decide::world::{DataDir, Dcs, OwnLease, Slot, World};
use pgvane_cluster::ids::NodeName;

use crate::decide_support::{
    NOW, busy, control, edit, following, leading, ms, renewed, stopped, store_away, vouch,
};

fn pg1() -> NodeName {
    "pg1".into()
}

fn away() -> World {
    let mut world = following();
    world.settings.failsafe_mode = true;
    store_away(&mut world);
    world
}

#[test]
fn a_follower_without_a_store_vouches_for_the_last_leader() {
    assert_eq!(judge(&away(), &pg1()), Ok(()));
}

#[test]
fn nobody_vouches_while_the_mode_is_off() {
    let mut world = away();
    world.settings.failsafe_mode = false;
    assert_eq!(judge(&world, &pg1()), Err(Refusal::ModeIsOff));
}

#[test]
fn who_could_accept_writes_does_not_vouch() {
    let mut world = leading();
    world.settings.failsafe_mode = true;
    store_away(&mut world);
    assert_eq!(judge(&world, &pg1()), Err(Refusal::IAmPrimary));
}

#[test]
fn who_is_about_to_accept_writes_does_not_vouch() {
    for what in ["promote", "start_primary"] {
        let mut world = away();
        stopped(&mut world, DataDir::Present(control(false, true)));
        edit(&mut world, |view| view.leader = None);
        busy(&mut world, Slot::Postgres, what);
        assert_eq!(judge(&world, &pg1()), Err(Refusal::IAmPrimary));
    }
    let mut world = away();
    busy(&mut world, Slot::Postgres, "start_standby");
    assert_eq!(judge(&world, &pg1()), Ok(()));
}

#[test]
fn who_campaigns_does_not_vouch() {
    for what in ["campaign", "take_over_key"] {
        let mut world = away();
        busy(&mut world, Slot::Store, what);
        assert_eq!(judge(&world, &pg1()), Err(Refusal::IAmCampaigning));
    }
    let mut world = away();
    busy(&mut world, Slot::Store, "release");
    assert_eq!(judge(&world, &pg1()), Ok(()));
}

#[test]
fn a_leader_that_is_cut_off_alone_gets_no_word() {
    let mut world = following();
    world.settings.failsafe_mode = true;
    assert_eq!(judge(&world, &pg1()), Err(Refusal::StoreAnswersHere));
    renewed(&mut world, ms(750));
    assert_eq!(judge(&world, &pg1()), Err(Refusal::StoreAnswersHere));
}

#[test]
fn a_renewal_that_is_late_is_a_store_that_is_away() {
    let mut world = following();
    world.settings.failsafe_mode = true;
    renewed(&mut world, ms(751));
    assert_eq!(judge(&world, &pg1()), Ok(()));
    world.lease = OwnLease::None;
    assert_eq!(judge(&world, &pg1()), Ok(()));
}

#[test]
fn a_word_is_given_to_one_leader_at_a_time() {
    let mut world = away();
    world.memory.vouch = Some(vouch(&world, "pg3"));
    assert_eq!(judge(&world, &pg1()), Err(Refusal::VouchedFor("pg3".into())));
    world.memory.vouch.as_mut().expect("vouched").until = NOW;
    assert_eq!(judge(&world, &pg1()), Ok(()));
    world.memory.vouch = Some(vouch(&world, "pg1"));
    assert_eq!(judge(&world, &pg1()), Ok(()));
}

#[test]
fn only_the_last_known_leader_gets_a_word() {
    let world = away();
    assert_eq!(judge(&world, &"pg3".into()), Err(Refusal::AnotherLeads("pg1".into())));
}

#[test]
fn a_node_that_knows_no_leader_vouches_for_who_says_it_leads() {
    let mut world = away();
    edit(&mut world, |view| view.leader = None);
    assert_eq!(judge(&world, &"pg3".into()), Ok(()));
    world.dcs = Dcs::Unknown { since: NOW, last: None };
    assert_eq!(judge(&world, &"pg3".into()), Ok(()));
}

#[test]
fn refusals_say_why() {
    let all = [
        Refusal::IAmPrimary,
        Refusal::IAmCampaigning,
        Refusal::StoreAnswersHere,
        Refusal::VouchedFor("pg3".into()),
        Refusal::AnotherLeads("pg3".into()),
        Refusal::ModeIsOff,
    ];
    let texts: std::collections::BTreeSet<String> = all.iter().map(ToString::to_string).collect();
    assert_eq!(texts.len(), all.len());
}
