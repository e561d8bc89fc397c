//! Why leadership changed, as the leader that gives it up says and as the next one saw it; and for how long nobody
//! served.

use pgvane_agent::decide::action::{Reason, Request};
use pgvane_agent::decide::memory::Outcome;
use pgvane_agent::decide::vacancy::{self, Vacancy};
use pgvane_agent::decide::world::{DataDir, Process, World};
use pgvane_cluster::changes::{Cause, Change, Farewell, Since};
use pgvane_cluster::ids::{Epoch, Lsn, NodeName, Timeline};
use pgvane_cluster::records::HistoryEntry;

use crate::decide_support::{
    EPOCH, HEAD, NOW, OTHER_LEASE, REQUESTED, control, edit, following, handed_over, lead, leading, member,
    ms, request, stopped,
};

/// What this node says when it gives its reign up in `world`.
fn farewell(world: &World, reason: &Reason) -> Farewell {
    vacancy::farewell(world, EPOCH, reason)
}

fn note(world: &mut World) {
    let (now, dcs, local, me) = (world.now, world.dcs.clone(), world.local.clone(), world.me.clone());
    world.memory.note(now, &dcs, &local, &me);
}

/// We lead, and our server has been down for 70 ms.
fn down() -> World {
    let mut world = leading();
    stopped(&mut world, DataDir::Present(control(false, true)));
    note(&mut world);
    world.now = NOW + ms(70);
    world
}

/// pg1, seen to lead, is gone half a second later as `end` has it.
fn vacant(before: impl FnOnce(&mut World), end: impl FnOnce(&mut World)) -> Option<Vacancy> {
    let mut world = following();
    before(&mut world);
    note(&mut world);
    world.now = NOW + ms(500);
    end(&mut world);
    edit(&mut world, |view| view.leader = None);
    note(&mut world);
    world.memory.witness.vacancy
}

fn lease_ends(world: &mut World) {
    edit(world, |view| drop(view.members.remove(&NodeName::from("pg1"))));
}

fn patroni(world: &mut World) {
    member(world, "pg1", |record| record.pgvane = None);
}

fn starves(world: &mut World) {
    world.local.sql.as_mut().expect("answers").streaming = false;
}

/// The change when the promotion ended 40 ms after that.
fn change(vacancy: Option<&Vacancy>, farewell: Option<&Farewell>) -> Change {
    let entry = HistoryEntry {
        timeline: Timeline(4),
        switch_lsn: Lsn(77),
        reason: String::new(),
        timestamp: None,
        new_leader: None,
    };
    vacancy::change(vacancy, farewell, NOW + ms(540), &entry)
}

fn last_words(epoch: Epoch, down_ms: Option<u64>) -> Farewell {
    Farewell { epoch, cause: Cause::AgentStopped, detail: None, down_ms }
}

#[test]
fn who_gives_leadership_up_says_why_and_how_long_it_was_down() {
    let mut world = down();
    let operator = Request::Operator(REQUESTED);
    world.memory.hand_over = Some(handed_over(&world, operator, ms(30), Some(HEAD)));
    request(&mut world, Some("pg2"), Some("pg3"));
    let said = farewell(&world, &Reason::CandidateReady("pg3".into()));
    let expected = Farewell { epoch: EPOCH, cause: Cause::Switchover, detail: None, down_ms: Some(70) };
    assert_eq!(said, expected);
    request(&mut world, None, Some("pg3"));
    assert_eq!(farewell(&world, &Reason::CandidateReady("pg3".into())).cause, Cause::Failover);
    world.memory.hand_over = Some(handed_over(&world, Request::Shutdown, ms(30), None));
    assert_eq!(farewell(&world, &Reason::HandOverTimeout).cause, Cause::AgentStopped);

    for (reason, cause) in [
        (Reason::Shutdown, Cause::AgentStopped),
        (Reason::StartTimeout, Cause::StartTimeout),
        (Reason::RestartFailed, Cause::RestartFailed),
        (Reason::StartFailed, Cause::StartFailed),
    ] {
        assert_eq!(farewell(&down(), &reason).cause, cause, "{reason}");
    }
    let mut world = down();
    world.memory.absorb(NOW, &Outcome::PostgresEnded);
    assert_eq!(farewell(&world, &Reason::HoldsAll("pg3".into())).cause, Cause::PostgresCrashed);
    let other = farewell(&leading(), &Reason::WatchdogFailed);
    assert_eq!((other.cause, other.down_ms), (Cause::GaveUp, None), "it serves");
    assert_eq!(other.detail.as_deref(), Some("a watchdog is required and cannot be used"));
}

#[test]
fn the_end_of_a_lease_a_deleted_key_and_patronis_silence_are_told_apart() {
    let cause = |vacancy: Option<Vacancy>| change(vacancy.as_ref(), None).cause;
    assert_eq!(cause(vacant(|_| {}, lease_ends)), Some(Cause::LeaseEnded));
    assert_eq!(cause(vacant(patroni, lease_ends)), Some(Cause::LeaseEnded));
    assert_eq!(cause(vacant(|_| {}, |_| {})), Some(Cause::KeyDeleted));
    assert_eq!(cause(vacant(patroni, |_| {})), None);
    let asked = |leader: Option<&'static str>| move |world: &mut World| request(world, leader, Some("pg2"));
    assert_eq!(cause(vacant(patroni, asked(Some("pg1")))), Some(Cause::Switchover));
    assert_eq!(cause(vacant(patroni, asked(None))), Some(Cause::Failover));
}

#[test]
fn the_words_of_the_reign_that_ended_count_and_no_others() {
    let vacancy = vacant(|_| {}, |_| {});
    let told = change(vacancy.as_ref(), Some(&last_words(EPOCH, Some(25))));
    assert_eq!((told.from, told.cause), (Some("pg1".into()), Some(Cause::AgentStopped)));
    assert_eq!((told.timeline, told.switch_lsn, told.down_ms), (Timeline(4), Lsn(77), Some(25)));
    let earlier = change(vacancy.as_ref(), Some(&last_words(Epoch(EPOCH.0 - 1), Some(25))));
    assert_eq!((earlier.cause, earlier.down_ms), (Some(Cause::KeyDeleted), None));
    // An agent that has just begun saw nobody lead.
    let unseen = change(None, Some(&last_words(EPOCH, Some(25))));
    assert_eq!((unseen.from.as_ref(), unseen.cause.as_ref(), unseen.outage()), (None, None, None));
}

#[test]
fn an_outage_is_measured_from_the_first_sign_of_it() {
    let outage = |vacancy: Option<Vacancy>, down| {
        let said = last_words(EPOCH, down);
        change(vacancy.as_ref(), Some(&said)).outage()
    };
    assert_eq!(outage(vacant(|_| {}, lease_ends), Some(25)), Some((ms(65), Since::PrimaryStopped)));
    assert_eq!(outage(vacant(|_| {}, lease_ends), None), Some((ms(40), Since::KeyGone)));
    assert_eq!(outage(vacant(starves, lease_ends), None), Some((ms(540), Since::StreamEnded)));
    // A stream from another member says nothing of the leader, nor does one of a server that does not run.
    let cascading = |world: &mut World| {
        starves(world);
        world.local.sql.as_mut().expect("answers").upstream = Some(("pg3".to_owned(), 5432));
    };
    assert_eq!(outage(vacant(cascading, lease_ends), None), Some((ms(40), Since::KeyGone)));
    let starting = |world: &mut World| {
        starves(world);
        world.local.process = Process::Starting { since: NOW };
    };
    assert_eq!(outage(vacant(starting, lease_ends), None), Some((ms(40), Since::KeyGone)));
}

#[test]
fn a_stream_that_came_back_had_not_ended_and_a_new_reign_begins_anew() {
    let mut world = following();
    starves(&mut world);
    note(&mut world);
    world.local.sql.as_mut().expect("answers").streaming = true;
    note(&mut world);
    edit(&mut world, |view| view.leader = None);
    note(&mut world);
    let vacancy = world.memory.witness.vacancy.clone().expect("nobody leads");
    assert_eq!(change(Some(&vacancy), None).unfed_ms, None);
    // Ours is still the same vacancy; another leader's reign is the end of it.
    edit(&mut world, |view| lead(view, "pg2", OTHER_LEASE));
    note(&mut world);
    assert_eq!(world.memory.witness.vacancy.as_ref(), Some(&vacancy));
    edit(&mut world, |view| lead(view, "pg3", OTHER_LEASE));
    note(&mut world);
    assert_eq!(world.memory.witness.vacancy, None);
}
