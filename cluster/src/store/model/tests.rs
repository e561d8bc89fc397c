use proptest::prelude::*;

use super::*;
use crate::store::{Store, WatchMessage, WatchStream};

const S: Duration = Duration::from_secs(1);

fn put(model: &mut Model, now: Tick, key: &str, value: &str, lease: Option<LeaseId>) -> TxnOutcome {
    let txn = Txn::put(key.to_owned(), value.as_bytes().to_vec(), lease);
    model.txn(now, txn).expect("a put without conditions")
}

#[test]
fn revisions_as_in_etcd() {
    let (mut m, now) = (Model::new(), Tick::from_millis(0));
    assert_eq!(m.revision(), Revision(1));
    assert_eq!(put(&mut m, now, "/a", "1", None), TxnOutcome { succeeded: true, revision: Revision(2) });
    assert_eq!(put(&mut m, now, "/a", "2", None).revision, Revision(3));
    let kv = m.get("/a").expect("was put");
    assert_eq!((kv.create_revision, kv.mod_revision), (Revision(2), Revision(3)));
    // Neither an unmet condition nor a delete of nothing takes a revision.
    let unmet =
        Txn { when: vec![Compare::Absent("/a".to_owned())], then: vec![Write::Delete("/a".to_owned())] };
    assert_eq!(m.txn(now, unmet), Ok(TxnOutcome { succeeded: false, revision: Revision(3) }));
    let nothing = Txn { when: vec![], then: vec![Write::Delete("/b".to_owned())] };
    assert_eq!(m.txn(now, nothing), Ok(TxnOutcome { succeeded: true, revision: Revision(3) }));
    let both = Txn {
        when: vec![Compare::ValueIs("/a".to_owned(), b"2".to_vec())],
        then: vec![Write::Delete("/a".to_owned()), Write::Put("/c".to_owned(), vec![], None)],
    };
    assert_eq!(m.txn(now, both), Ok(TxnOutcome { succeeded: true, revision: Revision(4) }));
    assert_eq!(m.events_since("/", Revision(4)).map(|e| e.len()), Ok(2));
    // Created anew: a new create revision.
    put(&mut m, now, "/a", "3", None);
    assert_eq!(m.get("/a").map(|kv| kv.create_revision), Some(Revision(5)));
}

#[test]
fn a_key_named_twice_or_an_unknown_lease_writes_nothing() {
    let (mut m, now) = (Model::new(), Tick::from_millis(0));
    let twice =
        Txn { when: vec![], then: vec![Write::Put("/a".into(), vec![], None), Write::Delete("/a".into())] };
    assert!(matches!(m.txn(now, twice), Err(StoreError::Unavailable(_))));
    let then = vec![Write::Put("/b".into(), vec![], None), Write::Put("/a".into(), vec![], Some(LeaseId(9)))];
    assert_eq!(m.txn(now, Txn { when: vec![], then: then.clone() }), Err(StoreError::LeaseNotFound));
    // The lease is looked at only when the conditions hold.
    let unmet = Txn { when: vec![Compare::ModRevisionIs("/a".into(), Revision(7))], then };
    assert_eq!(m.txn(now, unmet), Ok(TxnOutcome { succeeded: false, revision: Revision(1) }));
    assert_eq!(m, Model::new());
}

#[test]
fn leases_end_with_their_keys() {
    let (mut m, t0) = (Model::new(), Tick::from_millis(1000));
    let lease = m.grant(t0, Duration::from_millis(2500));
    assert_eq!(lease.ttl, 3 * S);
    assert_eq!(m.grant(t0, Duration::ZERO).ttl, LEAST_TTL);
    put(&mut m, t0, "/a", "x", Some(lease.id));
    put(&mut m, t0, "/b", "x", Some(lease.id));
    // A put without the lease takes the key off it.
    put(&mut m, t0, "/c", "x", Some(lease.id));
    put(&mut m, t0, "/c", "y", None);
    let late = t0 + Duration::from_millis(1500);
    assert_eq!(m.time_to_live(late, lease.id), Some(S));
    assert_eq!(m.keep_alive(late, lease.id), KeepAlive::Renewed { ttl: 3 * S });
    m.expire(t0 + 3 * S);
    assert!(m.get("/a").is_some(), "renewed");
    assert_eq!(m.next_expiry(), Some(late + 3 * S));
    m.expire(late + 3 * S);
    assert_eq!(m.snapshot("/", late).keys.len(), 1, "only /c is left");
    assert_eq!(m.revision(), Revision(6), "one revision for both keys");
    assert_eq!(m.keep_alive(late, lease.id), KeepAlive::Gone);
    assert_eq!(m.time_to_live(late, lease.id), None);
    m.revoke(late, lease.id);
}

#[test]
fn a_new_etcd_leader_gives_leases_their_full_time() {
    let (mut m, t0) = (Model::new(), Tick::from_millis(0));
    let lease = m.grant(t0, 10 * S);
    put(&mut m, t0, "/a", "x", Some(lease.id));
    m.restart_leases(t0 + 15 * S);
    assert_eq!(m.time_to_live(t0 + 20 * S, lease.id), Some(5 * S));
    assert_eq!(m.time_to_live(t0 + 25 * S, lease.id), None);
    assert!(m.get("/a").is_none());
}

#[test]
fn compaction_takes_the_past() {
    let (mut m, now) = (Model::new(), Tick::from_millis(0));
    for i in 0..4 {
        put(&mut m, now, "/a", &i.to_string(), None);
    }
    m.compact(Revision(4));
    assert_eq!(m.events_since("/", Revision(3)), Err(StoreError::Compacted(Revision(4))));
    assert_eq!(m.events_since("/", Revision(4)).map(|e| e.len()), Ok(2));
    m.compact(Revision(2));
    m.compact(Revision(100));
    assert_eq!(m.events_since("/", Revision(4)), Err(StoreError::Compacted(Revision(5))));
    assert_eq!(m.get("/a").map(|kv| kv.value.clone()), Some(b"3".to_vec()));
}

/// One call; small numbers pick keys, values, leases and conditions.
#[derive(Clone, Debug)]
enum Call {
    Txn { when: Option<(u8, u8)>, then: Vec<(u8, u8)> },
    Grant(u8),
    KeepAlive(u8),
    Revoke(u8),
    Restart,
    Wait(u16),
}

fn calls() -> impl Strategy<Value = Vec<Call>> {
    let call = prop_oneof![
        6 => (proptest::option::of((0..5_u8, 0..4_u8)), proptest::collection::vec((0..5_u8, 0..6_u8), 0..3))
            .prop_map(|(when, then)| Call::Txn { when, then }),
        2 => (0..9_u8).prop_map(Call::Grant),
        2 => (0..6_u8).prop_map(Call::KeepAlive),
        1 => (0..6_u8).prop_map(Call::Revoke),
        1 => Just(Call::Restart),
        3 => (0..4000_u16).prop_map(Call::Wait),
    ];
    proptest::collection::vec(call, 0..60)
}

fn key(n: u8) -> String {
    ["/a/x", "/a/y", "/b", "/ab", "/a"][usize::from(n)].to_owned()
}

fn make_txn(model: &Model, when: Option<(u8, u8)>, then: &[(u8, u8)]) -> Txn {
    let when = when.map(|(k, kind)| match kind {
        0 => Compare::Absent(key(k)),
        1 => Compare::ValueIs(key(k), vec![1]),
        2 => Compare::ModRevisionIs(key(k), model.get(&key(k)).map_or(Revision(0), |kv| kv.mod_revision)),
        _ => Compare::CreateRevisionIs(key(k), Revision(2)),
    });
    let then = then.iter().map(|(k, kind)| match kind {
        0 | 1 => Write::Put(key(*k), vec![*kind], None),
        2..5 => Write::Put(key(*k), vec![*kind], Some(LeaseId(i64::from(*kind) - 1))),
        _ => Write::Delete(key(*k)),
    });
    Txn { when: when.into_iter().collect(), then: then.collect() }
}

/// Makes the call; answers the revisions it took.
fn make(model: &mut Model, now: &mut Tick, call: &Call) {
    let lease = |n: u8| LeaseId(i64::from(n));
    match call {
        Call::Txn { when, then } => {
            let txn = make_txn(model, *when, then);
            model.expire(*now);
            let before = model.clone();
            match model.txn(*now, txn) {
                Ok(TxnOutcome { succeeded: true, revision }) => {
                    assert!(revision.0 - before.revision().0 <= 1, "{call:?} took several revisions");
                    assert_eq!(revision, model.revision());
                }
                Ok(_) | Err(_) => assert_eq!(before, *model, "{call:?} failed and wrote"),
            }
        }
        Call::Grant(seconds) => {
            model.grant(*now, Duration::from_secs(u64::from(*seconds)));
        }
        Call::KeepAlive(n) => {
            let alive = model.time_to_live(*now, lease(*n)).is_some();
            assert_eq!(alive, model.keep_alive(*now, lease(*n)) != KeepAlive::Gone);
        }
        Call::Revoke(n) => {
            model.revoke(*now, lease(*n));
            assert_eq!(model.time_to_live(*now, lease(*n)), None);
        }
        Call::Restart => model.restart_leases(*now),
        Call::Wait(ms) => *now = *now + Duration::from_millis(u64::from(*ms)),
    }
}

proptest! {
    /// What a watch delivers from the start, applied to nothing, is what a read shows: at any time.
    #[test]
    fn history_explains_the_keys(calls in calls(), prefix in prop_oneof![Just("/"), Just("/a"), Just("/a/")]) {
        let (mut m, mut now) = (Model::new(), Tick::from_millis(0));
        let mut seen: BTreeMap<Vec<u8>, KeyValue> = BTreeMap::new();
        let mut next = Revision(1);
        for call in &calls {
            make(&mut m, &mut now, call);
            let events = m.events_since(prefix, next).expect("nothing was compacted");
            prop_assert!(events.iter().all(|e| e.revision() >= next && e.revision() <= m.revision()));
            prop_assert!(events.is_sorted_by_key(KeyEvent::revision));
            next = Revision(m.revision().0 + 1);
            for event in events {
                match event {
                    KeyEvent::Put(kv) => { seen.insert(kv.key.clone(), kv); }
                    KeyEvent::Delete { key, .. } => {
                        prop_assert!(seen.remove(&key).is_some(), "a delete of nothing");
                    }
                }
            }
            let shown: Vec<KeyValue> = seen.values().cloned().collect();
            prop_assert_eq!(&m.snapshot(prefix, now).keys, &shown);
        }
    }

    /// A key lives no longer than its lease, a lease never ends early, and keys and leases agree.
    #[test]
    fn keys_and_leases_agree(calls in calls()) {
        let (mut m, mut now) = (Model::new(), Tick::from_millis(0));
        for call in &calls {
            let revision = m.revision();
            make(&mut m, &mut now, call);
            prop_assert!(m.revision() >= revision);
            for kv in m.snapshot("", now).keys {
                prop_assert!(kv.create_revision <= kv.mod_revision && kv.mod_revision <= m.revision());
                if let Some(id) = kv.lease {
                    prop_assert!(m.leases.get(&id).is_some_and(|g| g.keys.contains(&kv.key)), "{kv:?} {m:?}");
                }
            }
            for (id, granted) in &m.leases {
                prop_assert!(granted.due <= now + granted.ttl);
                for key in &granted.keys {
                    prop_assert_eq!(m.keys.get(key).and_then(|kv| kv.lease), Some(*id));
                }
            }
            let mut later = m.clone();
            later.expire(now);
            prop_assert!(later.next_expiry().is_none_or(|at| at > now));
        }
        if let Some(at) = m.next_expiry() {
            let mut early = m.clone();
            early.expire(Tick::from_nanos(at.as_nanos() - 1));
            prop_assert_eq!(&early, &m);
            early.expire(at);
            prop_assert!(early.leases.len() < m.leases.len());
        }
    }
}

/// A store whose leases run on tokio's clock, which tests pause.
fn paused() -> ModelStore {
    let start = tokio::time::Instant::now();
    ModelStore::new(std::sync::Arc::new(move || Tick::from_millis(1000) + start.elapsed()))
}

async fn put_in(store: &ModelStore, key: &str, lease: Option<LeaseId>) {
    let txn = Txn::put(key.to_owned(), b"x".to_vec(), lease);
    store.txn(txn).await.expect("the store is up");
}

async fn next_events(watch: &mut ModelWatch) -> Vec<KeyEvent> {
    loop {
        match watch.next().await.expect("the watch lives") {
            WatchMessage::Events(events) => return events,
            WatchMessage::Progress(_) => {}
        }
    }
}

#[tokio::test(start_paused = true)]
async fn a_watch_delivers_past_and_future_and_progress() {
    let store = paused();
    put_in(&store, "/a", None).await;
    put_in(&store, "/b", None).await;
    let mut watch = store.watch("/a", Revision(2)).await.expect("opens");
    assert_eq!(next_events(&mut watch).await[0].revision(), Revision(2));
    assert_eq!(watch.next().await, Ok(WatchMessage::Progress(Revision(3))));
    let (events, ()) = tokio::join!(next_events(&mut watch), put_in(&store, "/a2", None));
    assert_eq!(events[0].key(), b"/a2");
}

#[tokio::test(start_paused = true)]
async fn a_watch_sees_a_lease_end_although_nobody_asks() {
    let store = paused();
    let lease = store.grant(4 * S).await.expect("up");
    put_in(&store, "/a", Some(lease.id)).await;
    let mut watch = store.watch("/", Revision(3)).await.expect("opens");
    let start = tokio::time::Instant::now();
    let events = next_events(&mut watch).await;
    assert_eq!(events, [KeyEvent::Delete { key: b"/a".to_vec(), revision: Revision(3) }]);
    assert!((4 * S..5 * S).contains(&start.elapsed()), "{:?}", start.elapsed());
    assert_eq!(store.keep_alive(lease.id).await, Ok(KeepAlive::Gone));
}

#[tokio::test(start_paused = true)]
async fn the_switches() {
    let store = paused();
    let mut watch = store.watch("/", Revision(1)).await.expect("opens");
    store.lose_next_event();
    put_in(&store, "/lost", None).await;
    put_in(&store, "/seen", None).await;
    assert_eq!(next_events(&mut watch).await.iter().map(KeyEvent::key).collect::<Vec<_>>(), [b"/seen"]);
    let mut later = store.watch("/", Revision(1)).await.expect("opens");
    assert_eq!(next_events(&mut later).await.len(), 2, "only the open watch lost it");

    store.drop_watches();
    assert!(matches!(watch.next().await, Err(StoreError::Unavailable(_))));
    let mut watch = store.watch("/", Revision(4)).await.expect("opens");
    let (ended, ()) = tokio::join!(watch.next(), async { store.set_unavailable(true) });
    assert!(matches!(ended, Err(StoreError::Unavailable(_))), "{ended:?}");
    assert!(matches!(store.snapshot("/").await, Err(StoreError::Unavailable(_))));
    assert!(matches!(store.grant(S).await, Err(StoreError::Unavailable(_))));
    assert!(store.watch("/", Revision(1)).await.is_err());
    store.set_unavailable(false);
    assert_eq!(store.snapshot("/").await.map(|s| s.keys.len()), Ok(2));
    store.with(|model, _| model.compact(Revision(3)));
    let mut old = store.watch("/", Revision(2)).await.expect("opens");
    assert_eq!(old.next().await, Err(StoreError::Compacted(Revision(3))));
}
