//! What may accept writes without the right to is stopped, before anything else is thought of.

use pgvane_agent::decide::action::{Action, Reason, StopMode};
use pgvane_agent::decide::world::{DataDir, Dcs, Guard, LocalRole, OwnLease, Process, Slot};

use crate::decide_support::{
    EPOCH, ME, NOW, OTHER_LEASE, busy, check, check_wait, claimed, consent, edit, empty, following, lead,
    leading, ms, renewed, store_away,
};

const AT_ONCE: Action = Action::Stop { how: StopMode::Immediate };
const CLEANLY: Action = Action::Stop { how: StopMode::Fast };

#[test]
fn another_leader_stops_a_primary_at_once() {
    let mut world = leading();
    edit(&mut world, |view| lead(view, "pg3", OTHER_LEASE));
    check(&world, &AT_ONCE, &Reason::LostKeyTo("pg3".into()));
}

#[test]
fn another_leader_outweighs_the_promise_of_all_others() {
    let mut world = leading();
    edit(&mut world, |view| lead(view, "pg3", OTHER_LEASE));
    world.memory.consent = Some(consent(&world, ms(100)));
    check(&world, &AT_ONCE, &Reason::LostKeyTo("pg3".into()));
}

#[test]
fn a_key_that_vanished_stops_a_primary_at_once() {
    let mut world = leading();
    edit(&mut world, |view| view.leader = None);
    check(&world, &AT_ONCE, &Reason::KeyVanished);
}

#[test]
fn a_key_that_vanished_is_won_back_while_all_others_vouch() {
    let mut world = leading();
    edit(&mut world, |view| view.leader = None);
    world.memory.consent = Some(consent(&world, ms(100)));
    check(&world, &Action::Campaign, &Reason::BestCandidate);
    world.memory.consent = Some(consent(&world, ms(2620)));
    check(&world, &AT_ONCE, &Reason::KeyVanished);
}

#[test]
fn our_name_under_a_lease_of_somebody_else_is_no_right() {
    for guard in [Guard::Absent, Guard::Idle, Guard::Outdated] {
        let mut world = leading();
        edit(&mut world, |view| lead(view, ME, OTHER_LEASE));
        world.local.guard = guard;
        check(&world, &AT_ONCE, &Reason::NoAuthority);
    }
}

#[test]
fn a_running_primary_is_adopted_while_the_guard_holds_its_deadline() {
    let mut world = leading();
    edit(&mut world, |view| lead(view, ME, OTHER_LEASE));
    check(&world, &Action::TakeOverKey, &Reason::KeyUnderOldLease);
    world.lease = OwnLease::None;
    check_wait(&world, &Reason::NoLease);
}

#[test]
fn the_guard_covers_nothing_but_our_own_name() {
    let mut world = leading();
    edit(&mut world, |view| view.leader = None);
    world.local.guard = Guard::Armed { epoch: EPOCH };
    check(&world, &AT_ONCE, &Reason::KeyVanished);
}

#[test]
fn a_late_renewal_stops_a_primary_cleanly_in_time() {
    let mut world = leading();
    renewed(&mut world, ms(2119));
    check_wait(&world, &Reason::Leading);
    renewed(&mut world, ms(2120));
    check(&world, &CLEANLY, &Reason::RenewalLate);
    renewed(&mut world, ms(2619));
    check(&world, &CLEANLY, &Reason::RenewalLate);
}

#[test]
fn past_the_deadline_of_the_guard_a_primary_is_stopped_at_once() {
    let mut world = leading();
    renewed(&mut world, ms(2620));
    check(&world, &AT_ONCE, &Reason::NoAuthority);
}

#[test]
fn a_store_that_is_away_changes_no_deadline() {
    let mut world = leading();
    store_away(&mut world);
    renewed(&mut world, ms(2119));
    check_wait(&world, &Reason::Vouched);
    renewed(&mut world, ms(2120));
    check(&world, &CLEANLY, &Reason::RenewalLate);
    renewed(&mut world, ms(2620));
    check(&world, &AT_ONCE, &Reason::NoAuthority);
}

#[test]
fn a_store_that_never_answered_gives_no_right() {
    let mut world = leading();
    world.dcs = Dcs::Unknown { since: NOW, last: None };
    world.local.guard = Guard::Outdated;
    check(&world, &AT_ONCE, &Reason::NoAuthority);
}

#[test]
fn before_the_first_word_of_the_store_the_guard_covers_a_running_primary() {
    let mut world = leading();
    world.dcs = Dcs::Unknown { since: NOW, last: None };
    check_wait(&world, &Reason::StoreAway);
}

#[test]
fn a_clean_stop_under_way_is_waited_for_until_the_deadline() {
    let mut world = leading();
    world.local.process = Process::Stopping;
    busy(&mut world, Slot::Postgres, "stop");
    renewed(&mut world, ms(2200));
    check_wait(&world, &Reason::RenewalLate);
    renewed(&mut world, ms(2620));
    check(&world, &AT_ONCE, &Reason::NoAuthority);
}

#[test]
fn a_stop_goes_through_whatever_is_under_way() {
    for what in ["checkpoint", "promote", "follow", "clone"] {
        let mut world = leading();
        busy(&mut world, Slot::Postgres, what);
        world.memory.pauses.insert(
            Slot::Postgres,
            pgvane_agent::decide::memory::Pause { until: NOW + ms(1000), failures: 3 },
        );
        edit(&mut world, |view| lead(view, "pg3", OTHER_LEASE));
        check(&world, &AT_ONCE, &Reason::LostKeyTo("pg3".into()));
    }
}

#[test]
fn a_server_of_unknown_role_counts_as_a_primary() {
    let mut world = following();
    world.local.role = LocalRole::Unknown;
    check(&world, &AT_ONCE, &Reason::LostKeyTo("pg1".into()));
}

#[test]
fn a_primary_that_only_starts_counts_as_one() {
    let mut world = leading();
    world.local.process = Process::Starting { since: NOW - ms(10) };
    edit(&mut world, |view| view.leader = None);
    check(&world, &AT_ONCE, &Reason::KeyVanished);
}

#[test]
fn a_standby_has_nothing_to_lose() {
    let mut world = following();
    world.lease = OwnLease::None;
    check_wait(&world, &Reason::Following);
}

#[test]
fn the_first_start_of_a_bootstrap_is_private() {
    let mut world = empty();
    claimed(&mut world, 9);
    world.local.data = DataDir::Absent;
    world.local.process = Process::Running;
    world.local.role = LocalRole::Primary;
    busy(&mut world, Slot::Postgres, "bootstrap");
    check_wait(&world, &Reason::Busy(Slot::Postgres));
    busy(&mut world, Slot::Postgres, "clone");
    check(&world, &AT_ONCE, &Reason::KeyVanished);
}

#[test]
fn pause_stops_nothing() {
    let mut world = leading();
    world.settings.pause = true;
    world.local.guard = Guard::Idle;
    edit(&mut world, |view| lead(view, "pg3", OTHER_LEASE));
    check_wait(&world, &Reason::Paused);
}

#[test]
fn the_others_are_asked_to_vouch_before_the_renewal_is_too_late() {
    let mut world = leading();
    let ask = Action::AskFailsafe { epoch: EPOCH };
    renewed(&mut world, ms(751));
    check_wait(&world, &Reason::Leading);
    world.settings.failsafe_mode = true;
    check(&world, &ask, &Reason::NeedConsent);
    store_away(&mut world);
    check(&world, &ask, &Reason::NeedConsent);
    renewed(&mut world, ms(750));
    check_wait(&world, &Reason::Vouched);
}

#[test]
fn the_others_are_asked_once_per_renewal_interval() {
    let mut world = leading();
    world.settings.failsafe_mode = true;
    renewed(&mut world, ms(1500));
    world.memory.consent_asked_at = Some(NOW - ms(499));
    check_wait(&world, &Reason::Leading);
    world.memory.consent_asked_at = Some(NOW - ms(500));
    check(&world, &Action::AskFailsafe { epoch: EPOCH }, &Reason::NeedConsent);
    busy(&mut world, Slot::Failsafe, "ask_failsafe");
    check_wait(&world, &Reason::Leading);
}

#[test]
fn the_word_of_all_others_moves_the_deadlines() {
    let mut world = leading();
    store_away(&mut world);
    renewed(&mut world, ms(60_000));
    world.memory.consent = Some(consent(&world, ms(2119)));
    check_wait(&world, &Reason::Vouched);
    world.memory.consent = Some(consent(&world, ms(2120)));
    check(&world, &CLEANLY, &Reason::RenewalLate);
    world.memory.consent = Some(consent(&world, ms(2620)));
    check(&world, &AT_ONCE, &Reason::NoAuthority);
}
