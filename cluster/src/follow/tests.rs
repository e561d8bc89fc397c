use std::sync::Arc;
use std::time::Duration;

use tokio::task::JoinHandle;
use tokio::time::{Instant, timeout};

use super::*;
use crate::ids::{Epoch, Revision};
use crate::keyspace::Key;
use crate::store::model::{Model, ModelStore};
use crate::store::{Txn, Write};

const TTL: Duration = Duration::from_secs(10);

/// A follower of a model, driven until dropped.
struct Scene {
    store: ModelStore,
    /// Another client, whose faults are not the follower's.
    other: ModelStore,
    space: Keyspace,
    follower: Follower,
    seen: watch::Receiver<Observation>,
    task: JoinHandle<Infallible>,
}

impl Drop for Scene {
    fn drop(&mut self) {
        self.task.abort();
    }
}

impl Scene {
    fn new(options: FollowOptions) -> Scene {
        let store = ModelStore::new();
        let space = Keyspace::new("service", "demo");
        let (follower, task) = follow(Arc::new(store.clone()), space.clone(), options);
        let (other, seen) = (store.another_client(), follower.observation());
        Scene { store, other, space, follower, seen, task: tokio::spawn(task) }
    }

    async fn put(&self, key: Key, value: &str) -> Revision {
        self.put_under(key, value, None).await
    }

    async fn put_under(&self, key: Key, value: &str, lease: Option<LeaseId>) -> Revision {
        let txn = Txn::put(self.space.path(&key), value.as_bytes().to_vec(), lease);
        self.other.txn(txn).await.expect("the other client reaches the store").revision
    }

    async fn delete(&self, key: Key) {
        let txn = Txn { when: vec![], then: vec![Write::Delete(self.space.path(&key))] };
        self.other.txn(txn).await.expect("the other client reaches the store");
    }

    /// Waits for an observation that fulfils `wish`; tells what was last seen when none comes.
    async fn until(&mut self, what: &str, wish: impl Fn(&Observation) -> bool) -> Observation {
        let seen = timeout(Duration::from_mins(1), self.seen.wait_for(&wish)).await;
        let seen = seen.ok().map(|seen| seen.expect("the follower runs").clone());
        seen.unwrap_or_else(|| panic!("{what} was not seen: {:?}", self.follower.observation().borrow()))
    }

    async fn until_leader(&mut self, name: Option<&str>) -> Observation {
        let wish = |o: &Observation| o.view.as_ref().is_some_and(|v| leader(v) == name);
        self.until(&format!("leader {name:?}"), wish).await
    }
}

fn leader(view: &ClusterView) -> Option<&str> {
    view.leader.as_ref().map(|l| l.name.as_str())
}

#[tokio::test(start_paused = true)]
async fn the_first_read_and_each_change_are_published_at_once() {
    let mut scene = Scene::new(FollowOptions::default());
    assert!(matches!(scene.seen.borrow().contact, Contact::Down { .. }));
    let first = scene.until("a view", |o| o.view.is_some()).await;
    assert_eq!((first.contact, first.view.map(|v| v.revision)), (Contact::Up, Some(Revision(1))));
    assert!(first.confirmed_at > Tick::ZERO);

    let began = Instant::now();
    let revision = scene.put(Key::Leader, "a").await;
    let seen = scene.until_leader(Some("a")).await;
    assert_eq!(began.elapsed(), Duration::ZERO, "the watch told, not a read");
    assert_eq!(seen.view.expect("a view").revision, revision);
    scene.delete(Key::Leader).await;
    scene.until_leader(None).await;
    assert_eq!(began.elapsed(), Duration::ZERO);
    let stats = scene.follower.stats();
    assert_eq!((stats.watches, stats.events, stats.missed, stats.failures), (1, 2, 0, 0));
}

#[tokio::test(start_paused = true)]
async fn a_quiet_store_is_confirmed_again_and_again() {
    let mut scene = Scene::new(FollowOptions { ask_leader_lease: false, ..FollowOptions::default() });
    let mut confirmed = scene.until("a view", |o| o.view.is_some()).await.confirmed_at;
    for _ in 0..3 {
        let later = scene.until("a confirmation", |o| o.confirmed_at > confirmed).await;
        assert_eq!(later.confirmed_at.since(confirmed), Duration::from_secs(2));
        confirmed = later.confirmed_at;
    }
    assert_eq!(scene.follower.stats().reads, 4);
    tokio::time::sleep(Duration::from_millis(300)).await;
    scene.follower.refresh();
    let hurried = scene.until("a confirmation", |o| o.confirmed_at > confirmed).await.confirmed_at;
    assert_eq!(hurried.since(confirmed), Duration::from_millis(300));
}

#[tokio::test(start_paused = true)]
async fn a_lost_stream_is_opened_again() {
    let mut scene = Scene::new(FollowOptions::default());
    scene.until("a view", |o| o.view.is_some()).await;
    tokio::time::sleep(Duration::from_secs(5)).await;
    let began = Instant::now();
    scene.store.drop_watches();
    scene.put(Key::Leader, "a").await;
    scene.until_leader(Some("a")).await;
    assert!(
        began.elapsed() < Duration::from_millis(10),
        "the first attempt is immediate: {:?}",
        began.elapsed()
    );
    assert_eq!((scene.follower.stats().watches, scene.follower.stats().failures), (2, 1));
}

#[tokio::test(start_paused = true)]
async fn what_the_watch_lost_is_found_by_the_next_read() {
    let mut scene = Scene::new(FollowOptions { ask_leader_lease: false, ..FollowOptions::default() });
    scene.put(Key::Leader, "a").await;
    scene.until_leader(Some("a")).await;
    scene.store.lose_next_event();
    let began = Instant::now();
    scene.delete(Key::Leader).await;
    scene.until_leader(None).await;
    assert!(began.elapsed() <= Duration::from_secs(2), "{:?}", began.elapsed());
    assert_eq!(scene.follower.stats().missed, 0, "the watch may be a little late");
    // The stream did not tell within the time allowed: it is not used any longer.
    tokio::time::sleep(Duration::from_secs(2)).await;
    let stats = scene.follower.stats();
    assert_eq!((stats.missed, stats.watches, stats.failures), (1, 2, 0));
    scene.put(Key::Leader, "b").await;
    scene.until_leader(Some("b")).await;
}

#[tokio::test(start_paused = true)]
async fn a_slow_read_does_not_hold_up_the_watch() {
    let mut scene = Scene::new(FollowOptions { ask_leader_lease: false, ..FollowOptions::default() });
    scene.until("a view", |o| o.view.is_some()).await;
    scene.store.set_delay(Duration::from_millis(700));
    let confirmed = scene.seen.borrow().confirmed_at;
    scene.follower.refresh();
    tokio::time::sleep(Duration::from_millis(300)).await;
    let began = Instant::now();
    scene.put(Key::Leader, "a").await;
    scene.until_leader(Some("a")).await;
    assert_eq!(began.elapsed(), Duration::ZERO);
    scene.until("the read", |o| o.confirmed_at > confirmed).await;
    assert_eq!(leader(scene.seen.borrow().view.as_ref().expect("a view")), Some("a"));
    assert_eq!(scene.follower.stats().missed, 0);
}

#[tokio::test(start_paused = true)]
async fn a_store_that_goes_and_comes_back() {
    let mut scene = Scene::new(FollowOptions::default());
    scene.put(Key::Leader, "a").await;
    let known = scene.until_leader(Some("a")).await;
    scene.store.set_available(false);
    let down = scene.until("the outage", |o| o.contact != Contact::Up).await;
    assert_eq!(down.view, known.view, "the last view stays");
    tokio::time::sleep(Duration::from_mins(1)).await;
    let failures = scene.follower.stats().failures;
    assert!((60..70).contains(&failures), "about one attempt per second: {failures}");
    assert_eq!(scene.seen.borrow().confirmed_at, down.confirmed_at);
    scene.delete(Key::Leader).await;
    scene.put(Key::Leader, "b").await;
    scene.store.set_available(true);
    let began = Instant::now();
    let up = scene.until("the end of the outage", |o| o.contact == Contact::Up).await;
    assert!(began.elapsed() <= Duration::from_secs(1), "{:?}", began.elapsed());
    assert_eq!(leader(up.view.as_ref().expect("a view")), Some("b"), "never up with an old view");
    assert!(up.confirmed_at > down.confirmed_at);
}

#[tokio::test(start_paused = true)]
async fn a_compacted_history_is_no_outage() {
    let mut scene = Scene::new(FollowOptions::default());
    scene.until("a view", |o| o.view.is_some()).await;
    scene.store.set_available(false);
    scene.until("the outage", |o| o.contact != Contact::Up).await;
    for _ in 0..5 {
        scene.put(Key::Leader, "a").await;
    }
    scene.store.with_model(|model, _| model.compact(model.revision()));
    scene.store.set_available(true);
    scene.until_leader(Some("a")).await;
    scene.put(Key::Initialize, "7").await;
    scene.until("a later change", |o| o.view.as_ref().is_some_and(|v| v.initialize.is_some())).await;
}

#[tokio::test(start_paused = true)]
async fn a_stream_that_falls_behind_a_compaction_reads_again() {
    let mut scene = Scene::new(FollowOptions::default());
    scene.until("a view", |o| o.view.is_some()).await;
    // Written and compacted before the stream has a chance to run.
    scene.store.with_model(|model, _| {
        for name in ["a", "b"] {
            let txn = Txn::put("/service/demo/leader".to_owned(), name.as_bytes().to_vec(), None);
            model.txn(&txn).expect("runs");
        }
        model.compact(model.revision());
    });
    let seen = scene.until_leader(Some("b")).await;
    assert_eq!(seen.contact, Contact::Up);
    assert_eq!(scene.follower.stats().failures, 0);
}

#[tokio::test(start_paused = true)]
async fn the_leaders_lease_is_asked_about_at_once_and_again() {
    let mut scene = Scene::new(FollowOptions::default());
    scene.until("a view", |o| o.view.is_some()).await;
    let (a, b) =
        (scene.other.grant(TTL).await.expect("granted"), scene.other.grant(TTL).await.expect("granted"));
    let began = Instant::now();
    scene.put_under(Key::Leader, "a", Some(a.id)).await;
    let of = |lease: LeaseId| move |o: &Observation| o.leader_lease.is_some_and(|l| l.lease == lease);
    scene.until("the first lease", of(a.id)).await;
    scene.put_under(Key::Leader, "a", Some(b.id)).await;
    assert_eq!(scene.until("the second lease", of(b.id)).await.leader_lease.map(|l| l.lease), Some(b.id));
    assert_eq!(began.elapsed(), Duration::ZERO);
    // Nobody renews it: the known end does not move away, and goes with the key.
    let ended = scene.until("its end", |o| o.view.as_ref().is_some_and(|v| v.leader.is_none())).await;
    assert_eq!(ended.leader_lease, None);
    assert!(began.elapsed() <= TTL + Duration::from_secs(1), "{:?}", began.elapsed());
}

#[tokio::test(start_paused = true)]
async fn a_store_that_went_back_is_believed_only_after_a_while() {
    let mut scene = Scene::new(FollowOptions::default());
    scene.put(Key::Leader, "a").await;
    let backup: Model = scene.store.with_model(|model, _| model.clone());
    scene.delete(Key::Leader).await;
    scene.put(Key::Leader, "b").await;
    scene.until_leader(Some("b")).await;
    tokio::time::sleep(Duration::from_secs(5)).await;
    scene.store.with_model(|model, _| *model = backup);
    let began = Instant::now();
    scene.until("the doubt", |o| o.contact != Contact::Up).await;
    let seen = scene.until_leader(Some("a")).await;
    assert!(began.elapsed() >= Duration::from_secs(10), "{:?}", began.elapsed());
    assert_eq!(seen.view.and_then(|v| v.leader.as_ref().map(|l| l.epoch)), Some(Epoch(2)));
    scene.put(Key::Initialize, "7").await;
    scene.until("a change after it", |o| o.view.as_ref().is_some_and(|v| v.initialize.is_some())).await;
}

#[tokio::test(start_paused = true)]
async fn unreadable_values_are_named_and_the_rest_goes_on() {
    let mut scene = Scene::new(FollowOptions::default());
    scene.put(Key::Member("a".into()), "{").await;
    scene.put(Key::Leader, "a").await;
    let seen = scene.until_leader(Some("a")).await;
    let malformed = seen.view.expect("a view").malformed.clone();
    assert_eq!(malformed.keys().collect::<Vec<_>>(), ["/service/demo/members/a"]);
}
