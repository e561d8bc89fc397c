use std::time::Duration;

use proptest::prelude::*;

use super::*;
use crate::clock::Tick;
use crate::ids::{LeaseId, Lsn};
use crate::store::model::Model;
use crate::store::{Txn, Write};

fn space() -> Keyspace {
    Keyspace::new("service", "demo")
}

/// Keys of ours and of others, with values that can be read and some that cannot.
const VALUES: &[(&str, &[&str])] = &[
    ("initialize", &["", "7312345678901234567"]),
    ("bootstrap", &["a", "\u{fffd}"]),
    ("config", &[r#"{"ttl":20}"#, r#"{"pause":true}"#, "[]", "{"]),
    ("leader", &["a", "b", "", "\u{fffd}"]),
    ("members/a", &[r#"{"state":"running","role":"primary"}"#, "{", "17"]),
    ("members/b", &[r#"{"state":"running","role":"replica","timeline":3}"#, "null"]),
    ("status", &[r#"{"optime":5}"#, "6", "{}", "nonsense"]),
    ("optime/leader", &["7", "8", "x"]),
    ("history", &["[]", r#"[[1,5,"x"]]"#, "{}"]),
    ("failover", &["{}", r#"{"leader":"a"}"#, "[1]"]),
    ("sync", &[r#"{"leader":"a","sync_standby":"b"}"#, "5"]),
    ("failsafe", &[r#"{"a":"http://a:8008/patroni"}"#, "1"]),
    ("pgvane/farewell", &[r#"{"epoch":5,"cause":"guard"}"#, "[]"]),
    ("pgvane/changes", &["[]", r#"[{"timeline":1,"switch_lsn":5}]"#, "{"]),
    ("0/leader", &["citus"]),
    ("members/a/b", &["?"]),
    ("unheard-of", &["1", "2"]),
];

#[derive(Clone, Debug)]
enum Op {
    Put(usize, usize, Option<usize>),
    Delete(usize),
    /// Several at one revision.
    Both(usize, usize),
    Pass(u64),
}

fn ops() -> impl Strategy<Value = Vec<Op>> {
    let key = 0..VALUES.len();
    let op = prop_oneof![
        6 => (key.clone(), 0..4_usize, proptest::option::of(0..2_usize)).prop_map(|(k, v, l)| Op::Put(k, v, l)),
        3 => key.clone().prop_map(Op::Delete),
        1 => (key.clone(), key).prop_map(|(a, b)| Op::Both(a, b)),
        1 => (1..4_u64).prop_map(Op::Pass),
    ];
    proptest::collection::vec(op, 0..80)
}

fn path(key: usize) -> String {
    format!("{}{}", space().prefix(), VALUES[key].0)
}

fn value(key: usize, n: usize) -> Vec<u8> {
    let values = VALUES[key].1;
    values[n % values.len()].as_bytes().to_vec()
}

/// A store and the time in it.
struct Store {
    model: Model,
    now: Tick,
    leases: [LeaseId; 2],
}

impl Store {
    fn new() -> Store {
        let mut model = Model::new();
        let leases = [3, 5].map(|s| model.grant(Duration::from_secs(s), Tick::ZERO).id);
        Store { model, now: Tick::ZERO, leases }
    }

    fn run(&mut self, op: &Op) {
        let then = match op {
            Op::Put(key, n, lease) => {
                vec![Write::Put(path(*key), value(*key, *n), lease.map(|l| self.leases[l]))]
            }
            Op::Delete(key) => vec![Write::Delete(path(*key))],
            Op::Both(a, b) => vec![Write::Delete(path(*a)), Write::Put(path(*b), value(*b, 0), None)],
            Op::Pass(seconds) => {
                self.now = self.now + Duration::from_secs(*seconds);
                self.model.expire(self.now);
                return;
            }
        };
        // A lease that is gone refuses the put, as it should.
        let _ = self.model.txn(&Txn { when: vec![], then });
    }

    fn events_since(&self, revision: Revision) -> Vec<KeyEvent> {
        self.model.events_since(space().prefix(), Revision(revision.0 + 1)).expect("never compacted")
    }
}

proptest! {
    #[test]
    fn folding_changes_ends_where_a_snapshot_begins(ops in ops(), batch in 1..7_usize) {
        let mut store = Store::new();
        let mut view = from_snapshot(&space(), &store.model.snapshot("/service/demo/", Tick::ZERO), None);
        for ops in ops.chunks(batch) {
            ops.iter().for_each(|op| store.run(op));
            let events = store.events_since(view.revision);
            apply_all(&mut view, &space(), &events);
            // Writes elsewhere make revisions too.
            progress(&mut view, store.model.revision());
            let snapshot = store.model.snapshot("/service/demo/", Tick::ZERO);
            prop_assert_eq!(&view, &from_snapshot(&space(), &snapshot, Some(&view)));
        }
    }

    #[test]
    fn what_was_seen_changes_nothing(ops in ops(), from in 0..80_usize, len in 0..80_usize) {
        let mut store = Store::new();
        ops.iter().for_each(|op| store.run(op));
        let events = store.events_since(Revision(1));
        let mut view = ClusterView::default();
        apply_all(&mut view, &space(), &events);
        let before = view.clone();
        let from = from.min(events.len());
        let again = &events[from..(from + len).min(events.len())];
        apply_all(&mut view, &space(), again);
        again.iter().for_each(|event| apply(&mut view, &space(), event));
        prop_assert_eq!(view, before);
    }

    #[test]
    fn no_order_panics_and_no_reign_goes_back(
        ops in ops(), order in proptest::collection::vec((0..100_usize, 1..5_usize), 0..60)
    ) {
        let mut store = Store::new();
        ops.iter().for_each(|op| store.run(op));
        let events = store.events_since(Revision(1));
        let mut view = ClusterView::default();
        let mut newest = Epoch(0);
        for (from, len) in order {
            let mut batch: Vec<_> = events.iter().cycle().skip(from).take(len.min(events.len())).cloned().collect();
            if from % 3 == 0 {
                batch.reverse();
            }
            let revision = view.revision;
            apply_all(&mut view, &space(), &batch);
            prop_assert!(view.revision >= revision);
            if let Some(leader) = &view.leader {
                prop_assert!(leader.epoch >= newest, "{:?} after {newest}", leader.epoch);
                newest = leader.epoch;
            }
        }
    }

    #[test]
    fn a_malformed_value_touches_its_own_key_only(ops in ops(), key in 0..VALUES.len(), garbage: Vec<u8>) {
        let mut store = Store::new();
        ops.iter().for_each(|op| store.run(op));
        let snapshot = store.model.snapshot("/service/demo/", Tick::ZERO);
        let mut view = from_snapshot(&space(), &snapshot, None);
        let mut without = snapshot.clone();
        without.keys.retain(|kv| kv.key != path(key).as_bytes());
        let mut expected = from_snapshot(&space(), &without, None);

        let revision = Revision(store.model.revision().0 + 1);
        let kv = KeyValue { key: path(key).into_bytes(), value: garbage, create_revision: revision, mod_revision: revision, lease: None };
        apply(&mut view, &space(), &KeyEvent::Put(kv.clone()));
        if view.malformed.contains_key(&path(key)) {
            view.malformed.remove(&path(key));
            expected.revision = revision;
            expected.newest_epoch = view.newest_epoch;
            expected.has_status_key = view.has_status_key;
            match VALUES[key].0 {
                "config" => expected.config.clone_from(&view.config),
                "status" => expected.status = None,
                _ => {}
            }
        } else {
            // It can be read after all, or is nobody's business.
            apply(&mut expected, &space(), &KeyEvent::Put(kv));
        }
        prop_assert_eq!(view, expected);
    }
}

fn event(key: &str, value: &str, create: i64, revision: i64) -> KeyEvent {
    KeyEvent::Put(KeyValue {
        key: format!("/service/demo/{key}").into_bytes(),
        value: value.as_bytes().to_vec(),
        create_revision: Revision(create),
        mod_revision: Revision(revision),
        lease: None,
    })
}

fn gone(key: &str, revision: i64) -> KeyEvent {
    KeyEvent::Delete { key: format!("/service/demo/{key}").into_bytes(), revision: Revision(revision) }
}

#[test]
fn status_wins_only_while_it_exists() {
    let mut view = ClusterView::default();
    let optime = |view: &ClusterView| view.status.as_ref().map(|s| s.optime);
    let mut run = |event| {
        apply(&mut view, &space(), &event);
        optime(&view)
    };
    assert_eq!(run(event("optime/leader", "10", 1, 1)), Some(Lsn(10)));
    assert_eq!(run(event("optime/leader", "11", 1, 2)), Some(Lsn(11)), "a leader of old is followed");
    assert_eq!(run(event("status", r#"{"optime":20}"#, 3, 3)), Some(Lsn(20)));
    assert_eq!(run(event("optime/leader", "12", 1, 4)), Some(Lsn(20)));
    assert_eq!(run(event("status", "garbage", 3, 5)), None, "the old key does not speak for the new one");
    assert_eq!(run(gone("status", 6)), Some(Lsn(12)));
    assert_eq!(run(gone("optime/leader", 7)), None);
    assert_eq!(run(event("status", r#"{"optime":21}"#, 8, 8)), Some(Lsn(21)));
    assert_eq!(run(gone("optime/leader", 9)), Some(Lsn(21)));
}

#[test]
fn a_claim_to_bootstrap_counts_with_the_initialize_it_was_written_with() {
    let mut view = ClusterView::default();
    let won = |view: &ClusterView| view.bootstrapper().map(|claim| claim.value.to_string());
    apply_all(&mut view, &space(), &[event("initialize", "", 5, 5), event("bootstrap", "a", 5, 5)]);
    assert_eq!(won(&view).as_deref(), Some("a"));
    apply(&mut view, &space(), &gone("initialize", 6));
    assert_eq!(won(&view), None);
    // A Patroni daemon creates it anew and leaves the claim as it is.
    apply(&mut view, &space(), &event("initialize", "", 7, 7));
    assert_eq!(won(&view), None);
    apply_all(&mut view, &space(), &[event("initialize", "", 7, 8), event("bootstrap", "b", 5, 8)]);
    assert_eq!(won(&view).as_deref(), Some("b"));
    apply(&mut view, &space(), &event("initialize", "7312345678901234567", 7, 9));
    assert_eq!(won(&view), None);
}

#[test]
fn a_reign_that_ended_does_not_come_back() {
    let mut view = ClusterView::default();
    apply_all(
        &mut view,
        &space(),
        &[event("leader", "a", 5, 5), gone("leader", 6), event("leader", "b", 7, 7)],
    );
    apply(&mut view, &space(), &gone("leader", 8));
    apply(&mut view, &space(), &event("leader", "a", 5, 9));
    assert_eq!(view.leader, None);
    assert_eq!(view.malformed["/service/demo/leader"], "the leader key is of reign 5, older than 7");
    apply(&mut view, &space(), &event("leader", "c", 10, 10));
    assert_eq!(view.leader.as_ref().map(|l| l.epoch), Some(Epoch(10)));
    assert!(view.malformed.is_empty());

    let stale = Snapshot {
        revision: Revision(11),
        keys: vec![match event("leader", "a", 5, 5) {
            KeyEvent::Put(kv) => kv,
            KeyEvent::Delete { .. } => unreachable!("it is a put"),
        }],
        asked_at: Tick::ZERO,
        era: 0,
    };
    assert_eq!(from_snapshot(&space(), &stale, Some(&view)).leader, None);
    let restored = Snapshot { era: 1, ..stale };
    assert_eq!(from_snapshot(&space(), &restored, Some(&view)).leader.map(|l| l.epoch), Some(Epoch(5)));
}

#[test]
fn garbage_keeps_the_last_good_configuration() {
    let mut view = ClusterView::default();
    apply(&mut view, &space(), &event("config", r#"{"ttl":20}"#, 1, 1));
    apply(&mut view, &space(), &event("config", "{", 1, 2));
    assert_eq!(view.settings().ttl, Duration::from_secs(20));
    assert!(view.malformed.contains_key("/service/demo/config"));
    apply(&mut view, &space(), &gone("config", 3));
    assert_eq!((view.config.as_ref(), view.malformed.len()), (None, 0));
}
