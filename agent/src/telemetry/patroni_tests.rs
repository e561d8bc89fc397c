//! The texts that operators look for, and when they are said.

use pgvane_cluster::ids::{Epoch, Revision};

use super::*;
use crate::decide::StopMode;
use crate::decide::world::Upstream;

fn scene(owner: Option<&str>) -> Scene {
    Scene { me: "pg1".into(), owner: owner.map(Into::into), paused: false, primary: false, wish: None }
}

fn wish(leader: Option<&str>) -> Option<Wish> {
    Some(Wish { leader: leader.map(Into::into), scheduled_at: Some("2030-01-01T00:00:00+00:00".to_owned()) })
}

fn decision(action: Action, reason: Reason) -> Decision {
    Decision { action, reason, wake_at: Tick::ZERO }
}

fn upstream(name: &str) -> Upstream {
    Upstream { name: name.into(), host: "h".to_owned(), port: 5432 }
}

/// All that a new narrator says of one decision.
fn said(scene: &Scene, action: Action, reason: Reason) -> Vec<String> {
    let said = Narrator::default().decided(scene, &decision(action, reason), Tick::ZERO, None);
    said.into_iter().map(|said| said.text).collect()
}

#[test]
fn every_text_that_is_looked_for_is_said() {
    let operator = Request::Operator(Revision(7));
    let (promote, stop) = (Action::Promote { epoch: Epoch(3) }, Action::Stop { how: StopMode::Fast });
    let clear = Action::ClearRequest { revision: Revision(7) };
    let switchover = Scene { wish: wish(Some("pg9")), ..scene(Some("pg1")) };
    let failover = Scene { wish: wish(None), ..scene(Some("pg1")) };
    let (ours, theirs, nobodys) = (scene(Some("pg1")), scene(Some("pg2")), scene(None));
    let cases: Vec<(&Scene, Action, Reason, &[&str])> = vec![
        (
            &ours,
            promote,
            Reason::WonKey,
            &["Lock owner: pg1; I am pg1", "promoted self to leader because I had the session lock"],
        ),
        (&ours, Action::Wait, Reason::Leading, &["no action. I am (pg1), the leader with the lock"]),
        (
            &theirs,
            Action::Wait,
            Reason::Following,
            &["no action. I am (pg1), a secondary, and following a leader (pg2)"],
        ),
        (
            &nobodys,
            stop.clone(),
            Reason::RenewalLate,
            &["demoting self because DCS is not accessible and I was a leader"],
        ),
        (
            &theirs,
            stop.clone(),
            Reason::LostKeyTo("pg2".into()),
            &["Lock owner: pg2; I am pg1", "demoting self because I do not have the lock and I was a leader"],
        ),
        (
            &nobodys,
            stop,
            Reason::KeyVanished,
            &[
                "Lock owner: None; I am pg1",
                "failed to update leader lock",
                "demoted self because failed to update leader lock in DCS",
            ],
        ),
        (
            &nobodys,
            Action::Wait,
            Reason::BehindPeer("pg2".into()),
            &[
                "Lock owner: None; I am pg1",
                "Wal position of pg2 is ahead of my wal position",
                "following a different leader because i am not the healthiest node",
            ],
        ),
        (
            &nobodys,
            Action::Wait,
            Reason::PrimaryAlive("pg2".into()),
            &["Lock owner: None; I am pg1", "Primary (pg2) is still alive", LOST],
        ),
        (
            &theirs,
            Action::StartStandby { upstream: None },
            Reason::NotRunning,
            &["Lock owner: pg2; I am pg1", "starting as a secondary"],
        ),
        (
            &ours,
            Action::StartStandby { upstream: None },
            Reason::NotRunning,
            &["Lock owner: pg1; I am pg1", "starting as readonly because i had the session lock"],
        ),
        (
            &failover,
            Action::Checkpoint { request: operator },
            Reason::RequestedBy(operator),
            &["Lock owner: pg1; I am pg1", "manual failover: demoting myself"],
        ),
        (
            &switchover,
            Action::StopToHandOver { request: operator },
            Reason::RequestedBy(operator),
            &["Lock owner: pg1; I am pg1", "switchover: demoting myself"],
        ),
        (
            &failover,
            clear.clone(),
            Reason::NoCandidate,
            &[
                "manual failover: no healthy members found, failover is not possible",
                "Cleaning up failover key",
            ],
        ),
        (
            &switchover,
            clear.clone(),
            Reason::RequestForAnotherLeader,
            &["switchover: leader name does not match: pg9 != pg1", "Cleaning up failover key"],
        ),
        (
            &switchover,
            clear,
            Reason::ScheduleIsStale,
            &[
                "Found a stale switchover value, cleaning up: 2030-01-01T00:00:00+00:00",
                "Cleaning up failover key",
            ],
        ),
        (
            &nobodys,
            Action::Bootstrap,
            Reason::NewCluster,
            &["Lock owner: None; I am pg1", "trying to bootstrap a new cluster"],
        ),
        (
            &theirs,
            Action::Clone { from: upstream("pg2") },
            Reason::NoData,
            &["Lock owner: pg2; I am pg1", "trying to bootstrap from leader 'pg2'"],
        ),
        (
            &theirs,
            Action::Clone { from: upstream("pg3") },
            Reason::NoData,
            &["Lock owner: pg2; I am pg1", "trying to bootstrap from replica 'pg3'"],
        ),
        (
            &ours,
            Action::StartPrimary,
            Reason::Crashed,
            &["Lock owner: pg1; I am pg1", "starting primary after failure"],
        ),
        (
            &nobodys,
            Action::Wait,
            Reason::StoreAway,
            &["Lock owner: None; I am pg1", "Error communicating with DCS", "DCS is not accessible"],
        ),
        (
            &nobodys,
            Action::Wait,
            Reason::WaitForFirstLeader,
            &["Lock owner: None; I am pg1", "waiting for leader to bootstrap"],
        ),
        (
            &nobodys,
            Action::Halt,
            Reason::ForeignData { cluster: "1".to_owned(), ours: "2".to_owned() },
            &["system ID mismatch, node pg1 belongs to a different cluster: 1 != 2"],
        ),
        // What Patroni has no words for is said in ours.
        (&nobodys, Action::RaceInitialize, Reason::NewCluster, &["race_initialize: the cluster is new"]),
    ];
    for (scene, action, reason, expected) in cases {
        assert_eq!(said(scene, action.clone(), reason.clone()), expected, "{action:?}, {reason:?}");
    }
}

#[test]
fn pause_is_said_in_front() {
    let paused = |owner| Scene { paused: true, ..scene(owner) };
    let leading = said(&paused(Some("pg1")), Action::Wait, Reason::Paused);
    assert_eq!(leading, ["PAUSE: no action. I am (pg1), the leader with the lock"]);
    let following = said(&paused(Some("pg2")), Action::Wait, Reason::Paused);
    assert_eq!(following, ["PAUSE: no action. I am (pg1), a secondary, and following a leader (pg2)"]);
    let alone = Scene { primary: true, ..paused(None) };
    let alone = said(&alone, Action::Wait, Reason::Paused);
    assert_eq!(alone, ["Lock owner: None; I am pg1", "PAUSE: continue to run as primary without lock"]);
}

#[test]
fn a_heartbeat_is_said_once_per_loop_wait_and_at_once_when_it_is_another() {
    let (leading, following) = (scene(Some("pg1")), scene(Some("pg2")));
    let every = Some(Duration::from_secs(10));
    let mut narrator = Narrator::default();
    let mut count = |scene: &Scene, reason: Reason, at: u64, every| {
        let decision = decision(Action::Wait, reason);
        narrator.decided(scene, &decision, Tick::from_millis(at), every).len()
    };
    assert_eq!(count(&leading, Reason::Leading, 0, every), 1);
    assert_eq!(count(&leading, Reason::Leading, 9_999, every), 0);
    assert_eq!(count(&leading, Reason::Busy(Slot::Store), 10_000, every), 0);
    assert_eq!(count(&leading, Reason::Leading, 10_000, every), 1);
    assert_eq!(count(&following, Reason::Following, 10_001, every), 1);
    // Told to leave out what is nothing new.
    assert_eq!(count(&following, Reason::Following, 90_000, None), 0);
    assert_eq!(count(&leading, Reason::Leading, 90_001, None), 1);
}

#[test]
fn how_the_key_was_won_is_said() {
    let mut narrator = Narrator::default();
    let mut texts = |scene: &Scene, action: Action, reason: Reason| {
        let said = narrator.decided(scene, &decision(action, reason), Tick::ZERO, None);
        said.last().map(|said| said.text.clone()).unwrap_or_default()
    };
    texts(&scene(None), Action::Campaign, Reason::BestCandidate);
    texts(&scene(Some("pg1")), Action::ArmGuard { epoch: Epoch(3) }, Reason::GuardNotArmed);
    let promoted = texts(&scene(Some("pg1")), Action::Promote { epoch: Epoch(3) }, Reason::WonKey);
    assert_eq!(promoted, "promoted self to leader by acquiring session lock");
    texts(&scene(None), Action::Campaign, Reason::BestCandidate);
    let kept = texts(&scene(Some("pg1")), Action::Wait, Reason::Leading);
    assert_eq!(kept, "acquired session lock as a leader");
    let after = texts(&scene(Some("pg1")), Action::Wait, Reason::Leading);
    assert_eq!(after, "no action. I am (pg1), the leader with the lock");
}

#[test]
fn ends_are_said_of_what_was_begun() {
    let done = [Outcome::Done(Slot::Postgres)];
    let failed = [Outcome::Failed(Slot::Postgres)];
    let texts = |said: Vec<Said>| said.into_iter().map(|said| said.text).collect::<Vec<_>>();
    let begin = |narrator: &mut Narrator, action: Action, reason: Reason| {
        narrator.decided(&scene(Some("pg2")), &decision(action, reason), Tick::ZERO, None);
    };
    let mut narrator = Narrator::default();
    begin(&mut narrator, Action::Clone { from: upstream("pg2") }, Reason::NoData);
    assert_eq!(texts(narrator.ended(Slot::Store, &[])), Vec::<String>::new());
    assert_eq!(texts(narrator.ended(Slot::Postgres, &done)), ["bootstrapped from leader 'pg2'"]);
    assert_eq!(texts(narrator.ended(Slot::Postgres, &done)), Vec::<String>::new());
    begin(&mut narrator, Action::Clone { from: upstream("pg3") }, Reason::NoData);
    assert_eq!(texts(narrator.ended(Slot::Postgres, &failed)), ["failed to bootstrap from replica 'pg3'"]);
    begin(&mut narrator, Action::Stop { how: StopMode::Fast }, Reason::StoreAway);
    let demoted = texts(narrator.ended(Slot::Postgres, &done));
    assert_eq!(demoted, ["demoted self because DCS is not accessible and I was a leader"]);
    let bootstrapped = [Outcome::Bootstrapped, Outcome::Done(Slot::Postgres)];
    assert_eq!(texts(narrator.ended(Slot::Postgres, &bootstrapped)), ["initialized a new cluster"]);
}
