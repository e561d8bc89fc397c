use std::time::Duration;

use proptest::prelude::*;

use super::*;
use crate::clock::Tick;
use crate::ids::{LeaseId, Revision};
use crate::store::{Compare, KeepAlive, KeyEvent, Store, StoreError, Txn, WatchMessage, WatchStream, Write};

const TTL: Duration = Duration::from_secs(5);

fn put(key: &str, lease: Option<LeaseId>) -> Txn {
    Txn::put(key.to_owned(), b"v".to_vec(), lease)
}

fn at(seconds: u64) -> Tick {
    Tick::from_millis(seconds * 1000)
}

#[test]
fn revisions_count_writes_that_change_something() {
    let mut m = Model::new();
    let first = m.txn(&put("/a", None)).expect("runs");
    assert_eq!((first.succeeded, first.revision), (true, Revision(2)));
    let nothing = Txn { when: vec![], then: vec![Write::Delete("/none".into())] };
    assert_eq!(m.txn(&nothing).expect("runs").revision, Revision(2));
    let both =
        Txn { when: vec![], then: vec![Write::Delete("/a".into()), Write::Put("/b".into(), vec![], None)] };
    assert_eq!(m.txn(&both).expect("runs").revision, Revision(3));
    let events = m.events_since("/", Revision(3)).expect("not compacted");
    assert_eq!(events.iter().map(KeyEvent::revision).collect::<Vec<_>>(), [Revision(3), Revision(3)]);
    let twice =
        Txn { when: vec![], then: vec![Write::Delete("/b".into()), Write::Put("/b".into(), vec![], None)] };
    assert!(matches!(m.txn(&twice), Err(StoreError::Denied(_))));
}

#[test]
fn comparisons_are_those_of_etcd() {
    let mut m = Model::new();
    m.txn(&put("/a", None)).expect("runs");
    m.txn(&put("/a", None)).expect("runs");
    let holds =
        |m: &Model, when| m.clone().txn(&Txn { when: vec![when], then: vec![] }).expect("runs").succeeded;
    assert!(holds(&m, Compare::CreateRevisionIs("/a".into(), Revision(2))));
    assert!(holds(&m, Compare::ModRevisionIs("/a".into(), Revision(3))));
    assert!(!holds(&m, Compare::ModRevisionIs("/a".into(), Revision(2))));
    assert!(holds(&m, Compare::ModRevisionIs("/b".into(), Revision(0))));
    assert!(holds(&m, Compare::ValueIs("/a".into(), b"v".to_vec())));
    assert!(!holds(&m, Compare::ValueIs("/b".into(), vec![])));
    assert!(holds(&m, Compare::Absent("/b".into())) && !holds(&m, Compare::Absent("/a".into())));
}

#[test]
fn leases_end_when_told_to_look_and_take_their_keys_along() {
    let mut m = Model::new();
    let lease = m.grant(Duration::from_millis(4500), at(0));
    assert_eq!(lease.ttl, TTL);
    assert_eq!(m.grant(Duration::from_millis(1), at(0)).ttl, Duration::from_secs(2));
    m.txn(&put("/a", Some(lease.id))).expect("runs");
    m.txn(&put("/b", Some(lease.id))).expect("runs");
    m.txn(&put("/b", None)).expect("runs");
    assert_eq!(m.keep_alive(lease.id, at(4)), KeepAlive::Renewed { ttl: TTL });
    assert_eq!(m.time_to_live(lease.id, at(6)), Some(Duration::from_secs(3)));
    assert_eq!(m.expire(at(8)), vec![LeaseId(2)]);
    assert_eq!(m.next_expiry(), Some(at(9)));
    assert!(m.get("/a").is_some(), "a due lease lives until somebody looks");
    let before = m.revision();
    assert_eq!(m.expire(at(9)), vec![lease.id]);
    assert!(m.get("/a").is_none() && m.get("/b").is_some());
    assert_eq!(m.revision().0, before.0 + 1);
    assert_eq!(m.keep_alive(lease.id, at(9)), KeepAlive::Gone);
    assert_eq!(m.txn(&put("/c", Some(lease.id))), Err(StoreError::LeaseNotFound));
}

#[test]
fn a_due_lease_cannot_be_renewed_and_a_new_leader_restarts_the_others() {
    let mut m = Model::new();
    let (a, b) = (m.grant(TTL, at(0)).id, m.grant(TTL, at(0)).id);
    m.txn(&put("/a", Some(a))).expect("runs");
    assert_eq!(m.keep_alive(a, at(5)), KeepAlive::Gone);
    assert!(m.get("/a").is_none());
    m.restart_leases(at(5));
    assert_eq!(m.time_to_live(b, at(5)), Some(TTL));
}

#[test]
fn compacted_history_is_refused() {
    let mut m = Model::new();
    for _ in 0..5 {
        m.txn(&put("/a", None)).expect("runs");
    }
    m.compact(Revision(4));
    assert_eq!(m.events_since("/", Revision(4)), Err(Compacted(Revision(4))));
    assert_eq!(m.events_since("/", Revision(5)).expect("there").len(), 2);
    assert_eq!(m.events_since("/", Revision(7)).expect("the future is empty").len(), 0);
}

#[derive(Clone, Debug)]
enum Step {
    Txn(Vec<(u8, Option<usize>)>, Option<u8>),
    Grant(u64),
    KeepAlive(usize),
    Revoke(usize),
    Pass(u64),
    Compact(i64),
}

fn steps() -> impl Strategy<Value = Vec<Step>> {
    let write = (0..5_u8, proptest::option::of(0..4_usize));
    let step = prop_oneof![
        6 => (proptest::collection::vec(write, 0..4), proptest::option::of(0..5_u8)).prop_map(|(w, a)| Step::Txn(w, a)),
        1 => (1..8_u64).prop_map(Step::Grant),
        2 => (0..4_usize).prop_map(Step::KeepAlive),
        1 => (0..4_usize).prop_map(Step::Revoke),
        2 => (1..4_u64).prop_map(Step::Pass),
        1 => (0..4_i64).prop_map(Step::Compact),
    ];
    proptest::collection::vec(step, 0..60)
}

/// Runs the steps and hands the model before and after each to `check`, with whether a transaction failed.
fn run(steps: &[Step], mut check: impl FnMut(&Model, &Model, bool)) {
    let mut m = Model::new();
    let mut now = Tick::ZERO;
    let lease = |n: &usize| LeaseId(i64::try_from(*n).expect("small") + 1);
    for step in steps {
        let before = m.clone();
        let mut refused = false;
        match step {
            Step::Txn(writes, absent) => {
                let then = writes.iter().map(|(key, l)| match l {
                    Some(3) => Write::Delete(format!("/{key}")),
                    l => Write::Put(format!("/{key}"), vec![*key], l.as_ref().map(lease)),
                });
                let when = absent.iter().map(|key| Compare::Absent(format!("/{key}"))).collect();
                refused = !m.txn(&Txn { when, then: then.collect() }).is_ok_and(|o| o.succeeded);
            }
            Step::Grant(seconds) => drop(m.grant(Duration::from_secs(*seconds), now)),
            Step::KeepAlive(n) => drop(m.keep_alive(lease(n), now)),
            Step::Revoke(n) => drop(m.revoke(lease(n))),
            Step::Pass(seconds) => {
                now = now + Duration::from_secs(*seconds);
                m.expire(now);
            }
            Step::Compact(back) => m.compact(Revision(m.revision().0 - back)),
        }
        check(&before, &m, refused);
    }
}

proptest! {
    #[test]
    fn revisions_grow_and_every_change_is_an_event(steps in steps()) {
        run(&steps, |before, after, refused| {
            assert!(after.revision() >= before.revision());
            let (old, new) = (before.snapshot("/", Tick::ZERO), after.snapshot("/", Tick::ZERO));
            if refused || after.revision() == before.revision() {
                assert_eq!(old, new, "a refused transaction or an unchanged revision changes nothing");
                return;
            }
            let mut keys: std::collections::BTreeMap<_, _> = old.keys.into_iter().map(|kv| (kv.key.clone(), kv)).collect();
            let next = Revision(before.revision().0 + 1);
            let events = after.events_since("/", next).expect("compaction makes no revision");
            assert!(events.is_sorted_by_key(KeyEvent::revision));
            let mut revisions: Vec<_> = events.iter().map(KeyEvent::revision).collect();
            revisions.dedup();
            let expected: Vec<_> = (next.0..=after.revision().0).map(Revision).collect();
            assert_eq!(revisions, expected, "each revision has its events");
            for event in events {
                match event {
                    KeyEvent::Put(kv) => drop(keys.insert(kv.key.clone(), kv)),
                    KeyEvent::Delete { key, .. } => assert!(keys.remove(&key).is_some(), "deleted twice"),
                }
            }
            assert_eq!(keys.into_values().collect::<Vec<_>>(), new.keys);
        });
    }

    #[test]
    fn keys_hang_on_living_leases_only(steps in steps()) {
        run(&steps, |_, after, _| {
            let leases: Vec<_> = after.leases().collect();
            for kv in after.snapshot("/", Tick::ZERO).keys {
                assert!(kv.lease.is_none_or(|l| leases.contains(&l)), "{kv:?}");
                assert!(kv.create_revision <= kv.mod_revision && kv.mod_revision <= after.revision());
            }
        });
    }
}

async fn next(watch: &mut impl WatchStream) -> Result<WatchMessage, StoreError> {
    tokio::time::timeout(Duration::from_secs(30), watch.next()).await.expect("the watch tells something")
}

#[tokio::test(start_paused = true)]
async fn a_client_watches_and_its_faults_are_its_own() {
    let store = ModelStore::new();
    let other = store.another_client();
    let mut watch = store.watch("/a/", Revision(2)).await.expect("opens");
    assert_eq!(next(&mut watch).await, Ok(WatchMessage::Progress(Revision(1))));
    other.txn(put("/a/x", None)).await.expect("runs");
    let Ok(WatchMessage::Events(events)) = next(&mut watch).await else { panic!("an event is due") };
    assert_eq!((events.len(), events[0].key()), (1, &b"/a/x"[..]));
    store.lose_next_event();
    other.txn(put("/a/lost", None)).await.expect("runs");
    other.txn(put("/a/seen", None)).await.expect("runs");
    let Ok(WatchMessage::Events(events)) = next(&mut watch).await else { panic!("an event is due") };
    assert_eq!((events.len(), events[0].key()), (1, &b"/a/seen"[..]));
    store.set_available(false);
    assert!(next(&mut watch).await.is_err() && store.snapshot("/").await.is_err());
    assert!(other.snapshot("/").await.is_ok());
    store.set_available(true);
    assert!(store.snapshot("/").await.is_ok());
    store.drop_watches();
    assert!(next(&mut watch).await.is_err());
}

#[tokio::test(start_paused = true)]
async fn time_alone_ends_leases() {
    let store = ModelStore::new();
    let lease = store.grant(TTL).await.expect("granted");
    store.txn(put("/a", Some(lease.id))).await.expect("runs");
    let mut watch = store.watch("/", Revision(3)).await.expect("opens");
    let began = tokio::time::Instant::now();
    while !matches!(next(&mut watch).await.expect("lives"), WatchMessage::Events(_)) {}
    let took = began.elapsed();
    assert!(took >= TTL && took <= TTL + Duration::from_secs(1), "{took:?}");
    assert_eq!(store.time_to_live(lease.id).await, Ok(None));
    assert_eq!(store.keep_alive(lease.id).await, Ok(KeepAlive::Gone));
    assert_eq!(store.revoke(lease.id).await, Ok(()));
}
