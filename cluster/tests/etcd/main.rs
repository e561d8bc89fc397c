//! The store and the follower against real etcd processes.

mod server;

use std::sync::Arc;
use std::time::{Duration, Instant};

use pgvane_cluster::clock::Tick;
use pgvane_cluster::follow::{Contact, FollowOptions, Follower, Observation, follow};
use pgvane_cluster::ids::{LeaseId, Revision};
use pgvane_cluster::keyspace::{Key, Keyspace};
use pgvane_cluster::store::etcd::{EtcdOptions, EtcdStore, EtcdTls};
use pgvane_cluster::store::{
    Compare, KeepAlive, KeyEvent, Store, StoreError, Txn, WatchMessage, WatchStream, Write,
};
use pgvane_cluster::view::ClusterView;
use server::{Certificates, Etcd, free_ports};
use tokio::task::JoinHandle;
use tokio::time::timeout;

const S: Duration = Duration::from_secs(1);
/// The bound of a call in these tests.
const CALL: Duration = Duration::from_millis(1500);

fn options(endpoints: Vec<String>) -> EtcdOptions {
    EtcdOptions { request_timeout: CALL, ..EtcdOptions::new(endpoints) }
}

fn store(etcd: &Etcd) -> EtcdStore {
    EtcdStore::new(options(vec![etcd.url()]))
}

fn put(key: &str, value: &str, lease: Option<LeaseId>) -> Txn {
    Txn::put(key.to_owned(), value.as_bytes().to_vec(), lease)
}

/// Tries until it works, for what comes back by itself.
async fn eventually<T>(what: &str, mut attempt: impl AsyncFnMut() -> Result<T, StoreError>) -> T {
    let end = Instant::now() + 20 * S;
    loop {
        match attempt().await {
            Ok(value) => return value,
            Err(error) if Instant::now() > end => panic!("{what}: {error}"),
            Err(_) => tokio::time::sleep(Duration::from_millis(20)).await,
        }
    }
}

/// The next events, over progress messages.
async fn events(watch: &mut impl WatchStream) -> Vec<KeyEvent> {
    loop {
        match timeout(10 * S, watch.next()).await.expect("a watch is never silent") {
            Ok(WatchMessage::Events(events)) => return events,
            Ok(WatchMessage::Progress(_)) => {}
            Err(error) => panic!("the watch ended: {error}"),
        }
    }
}

/// Waits for a watch to end, and tells how.
async fn end(watch: &mut impl WatchStream) -> StoreError {
    let until_end = async {
        loop {
            if let Err(error) = watch.next().await {
                return error;
            }
        }
    };
    timeout(15 * S, until_end).await.expect("the loss of a watch is noticed")
}

#[tokio::test]
async fn transactions() {
    let etcd = Etcd::start();
    let store = store(&etcd);
    let first = store.txn(put("/s/a", "1", None)).await.expect("runs");
    assert!(first.succeeded);
    let run = async |when: Compare, then: Write| {
        store.txn(Txn { when: vec![when], then: vec![then] }).await.expect("runs").succeeded
    };
    let again = || Write::Put("/s/a".into(), b"2".to_vec(), None);
    assert!(!run(Compare::Absent("/s/a".into()), again()).await);
    assert!(!run(Compare::ValueIs("/s/a".into(), b"x".to_vec()), again()).await);
    assert!(!run(Compare::ModRevisionIs("/s/a".into(), Revision(first.revision.0 - 1)), again()).await);
    assert!(run(Compare::ValueIs("/s/a".into(), b"1".to_vec()), again()).await);
    assert!(
        run(Compare::CreateRevisionIs("/s/a".into(), first.revision), Write::Delete("/s/b".into())).await
    );

    let before = Tick::now();
    store.txn(put("/other/a", "1", None)).await.expect("runs");
    let snapshot = store.snapshot("/s/").await.expect("reads");
    assert!(snapshot.asked_at >= before && snapshot.asked_at <= Tick::now());
    let [kv] = &snapshot.keys[..] else { panic!("one key is under the prefix: {snapshot:?}") };
    assert_eq!((&kv.key[..], &kv.value[..], kv.lease), (&b"/s/a"[..], &b"2"[..], None));
    assert_eq!((kv.create_revision, kv.mod_revision.0), (first.revision, first.revision.0 + 1));
    assert_eq!(snapshot.revision.0, first.revision.0 + 2);
}

#[tokio::test]
async fn leases() {
    let etcd = Etcd::start();
    let store = store(&etcd);
    let lease = store.grant(Duration::from_millis(3500)).await.expect("granted");
    assert_eq!(lease.ttl, 4 * S);
    store.txn(put("/s/leader", "a", Some(lease.id))).await.expect("runs");
    for _ in 0..3 {
        assert_eq!(store.keep_alive(lease.id).await, Ok(KeepAlive::Renewed { ttl: 4 * S }));
    }
    let left = store.time_to_live(lease.id).await.expect("answers").expect("it lives");
    assert!(left <= 4 * S && left >= 2 * S, "{left:?}");
    assert_eq!(store.snapshot("/s/").await.expect("reads").keys[0].lease, Some(lease.id));

    let revision = store.snapshot("/s/").await.expect("reads").revision;
    let mut watch = store.watch("/s/", Revision(revision.0 + 1)).await.expect("opens");
    store.revoke(lease.id).await.expect("revoked");
    let gone = events(&mut watch).await;
    assert!(matches!(&gone[..], [KeyEvent::Delete { key, .. }] if key == b"/s/leader"), "{gone:?}");
    assert_eq!(store.revoke(lease.id).await, Ok(()), "twice is no error");
    assert_eq!(store.keep_alive(lease.id).await, Ok(KeepAlive::Gone));
    assert_eq!(store.keep_alive(LeaseId(4711)).await, Ok(KeepAlive::Gone));
    assert_eq!(store.time_to_live(lease.id).await, Ok(None));
    assert_eq!(store.txn(put("/s/leader", "a", Some(lease.id))).await, Err(StoreError::LeaseNotFound));

    let short = store.grant(2 * S).await.expect("granted");
    let granted = Instant::now();
    store.txn(put("/s/leader", "b", Some(short.id))).await.expect("runs");
    assert!(matches!(&events(&mut watch).await[..], [KeyEvent::Put(_)]));
    assert!(matches!(&events(&mut watch).await[..], [KeyEvent::Delete { .. }]));
    assert!(granted.elapsed() >= short.ttl, "{:?}", granted.elapsed());
}

#[tokio::test]
async fn watches() {
    let etcd = Etcd::start();
    let store = store(&etcd);
    let first = store.txn(put("/s/a", "1", None)).await.expect("runs").revision;
    store.txn(put("/t/a", "other", None)).await.expect("runs");
    let both = vec![Write::Put("/s/b".into(), vec![], None), Write::Delete("/s/a".into())];
    let last = store.txn(Txn { when: vec![], then: both }).await.expect("runs").revision;

    let mut watch = store.watch("/s/", first).await.expect("opens");
    let mut seen = events(&mut watch).await;
    while seen.last().is_some_and(|e| e.revision() < last) {
        seen.extend(events(&mut watch).await);
    }
    let seen: Vec<_> = seen.iter().map(|e| (e.revision(), e.key())).collect();
    assert_eq!(seen, [(first, &b"/s/a"[..]), (last, &b"/s/b"[..]), (last, &b"/s/a"[..])]);
    let quiet = timeout(3 * S, watch.next()).await.expect("a quiet watch tells that it lives");
    assert_eq!(quiet, Ok(WatchMessage::Progress(last)));

    etcd.post("/v3/kv/compaction", &format!(r#"{{"revision":"{last}"}}"#));
    // etcd may confirm such a watch first and refuse it a moment later.
    let refused = match store.watch("/s/", first).await {
        Ok(mut watch) => end(&mut watch).await,
        Err(refused) => refused,
    };
    assert_eq!(refused, StoreError::Compacted(last));
    let mut watch = store.watch("/s/", Revision(last.0 + 1)).await.expect("the rest is there");
    store.txn(put("/s/c", "", None)).await.expect("runs");
    assert_eq!(events(&mut watch).await[0].key(), b"/s/c");
}

#[tokio::test]
async fn a_frozen_etcd_is_noticed_and_every_call_is_bounded() {
    let etcd = Etcd::start();
    let store = store(&etcd);
    let lease = store.grant(60 * S).await.expect("granted");
    store.keep_alive(lease.id).await.expect("renewed");
    let mut watch = store.watch("/s/", Revision(1)).await.expect("opens");
    etcd.freeze();
    let frozen = Instant::now();
    let slack = Duration::from_millis(500);
    let bounded = async |what: &str, error: Option<StoreError>, began: Instant| {
        assert!(matches!(error, Some(StoreError::Unavailable(_))), "{what}: {error:?}");
        assert!(began.elapsed() < CALL + slack, "{what}: {:?}", began.elapsed());
    };
    let began = Instant::now();
    bounded("keep_alive", store.keep_alive(lease.id).await.err(), began).await;
    let began = Instant::now();
    bounded("snapshot", store.snapshot("/s/").await.err(), began).await;
    let began = Instant::now();
    bounded("txn", store.txn(put("/s/a", "1", None)).await.err(), began).await;
    let lost = end(&mut watch).await;
    assert!(matches!(lost, StoreError::Unavailable(_)), "{lost}");
    assert!(frozen.elapsed() < 8 * S, "{:?}", frozen.elapsed());

    etcd.thaw();
    eventually("reads again", async || store.snapshot("/s/").await).await;
    assert_eq!(store.keep_alive(lease.id).await, Ok(KeepAlive::Renewed { ttl: 60 * S }));
}

#[tokio::test]
async fn dead_and_frozen_endpoints_cost_little() {
    let (etcd, frozen) = (Etcd::start(), Etcd::start());
    let [nobody] = free_ports();
    let dead = format!("127.0.0.1:{nobody}");
    let live = etcd.url().replace("http://", "");

    let store = EtcdStore::new(options(vec![dead.clone(), live.clone()]));
    let began = Instant::now();
    let wrote =
        store.txn(put("/s/a", "1", None)).await.expect("a write that was never sent goes on to the next");
    assert!(wrote.succeeded && began.elapsed() < CALL / 2, "{:?}", began.elapsed());

    frozen.freeze();
    let store = EtcdStore::new(options(vec![frozen.url(), dead, live]));
    let began = Instant::now();
    let written = store.txn(put("/s/a", "2", None)).await;
    assert!(
        matches!(written, Err(StoreError::Unavailable(_))),
        "nobody knows whether it happened: {written:?}"
    );
    let read = store.snapshot("/s/").await.expect("reads go on to the next");
    assert!(began.elapsed() < CALL, "{:?}", began.elapsed());
    assert_eq!(read.keys[0].value, b"1");
    let began = Instant::now();
    store.txn(put("/s/a", "3", None)).await.expect("the endpoint that worked is remembered");
    assert!(began.elapsed() < CALL / 3, "{:?}", began.elapsed());
}

/// A follower driven until dropped.
struct Followed {
    follower: Follower,
    task: JoinHandle<std::convert::Infallible>,
}

impl Drop for Followed {
    fn drop(&mut self) {
        self.task.abort();
    }
}

impl Followed {
    fn new(store: EtcdStore) -> Followed {
        let reread_every = Duration::from_millis(500);
        let options = FollowOptions { reread_every, ..FollowOptions::default() };
        let (follower, task) = follow(Arc::new(store), Keyspace::new("service", "demo"), options);
        Followed { follower, task: tokio::spawn(task) }
    }

    async fn until(&self, what: &str, wish: impl Fn(&Observation) -> bool) -> Observation {
        let mut seen = self.follower.observation();
        let found = timeout(30 * S, seen.wait_for(wish)).await.ok().map(|o| o.expect("it runs").clone());
        found.unwrap_or_else(|| panic!("{what} was not seen: {:?}", self.follower.observation().borrow()))
    }

    async fn until_leader(&self, name: Option<&str>) -> Observation {
        let leads = |v: &ClusterView| v.leader.as_ref().map(|l| l.name.as_str().to_owned());
        let wish = |o: &Observation| o.view.as_ref().is_some_and(|v| leads(v).as_deref() == name);
        self.until(&format!("leader {name:?}"), wish).await
    }
}

fn key(key: &Key) -> String {
    Keyspace::new("service", "demo").path(key)
}

#[tokio::test]
async fn a_follower_survives_a_restart_and_leases_do_too() {
    let mut etcd = Etcd::start();
    let store = store(&etcd);
    let lease = store.grant(60 * S).await.expect("granted");
    store.txn(put(&key(&Key::Leader), "a", Some(lease.id))).await.expect("runs");
    let followed = Followed::new(self::store(&etcd));
    followed.until_leader(Some("a")).await;
    let known = followed.until("the lease", |o| o.leader_lease.is_some_and(|l| l.lease == lease.id)).await;
    assert!(known.leader_lease.is_some_and(|l| l.lives_until > Tick::now() + 50 * S), "{known:?}");

    etcd.kill();
    let down = followed.until("the outage", |o| o.contact != Contact::Up).await;
    assert!(down.view.is_some_and(|v| v.leader.is_some()), "the last view stays");
    etcd.run();
    etcd.wait_ready();
    let back = Instant::now();
    followed.until("the return", |o| o.contact == Contact::Up).await;
    assert!(back.elapsed() < 3 * S, "{:?}", back.elapsed());
    eventually("renews", async || store.keep_alive(lease.id).await).await;
    assert_eq!(store.keep_alive(lease.id).await, Ok(KeepAlive::Renewed { ttl: 60 * S }));
    store.revoke(lease.id).await.expect("revoked");
    followed.until_leader(None).await;
}

#[tokio::test]
async fn a_follower_misses_nothing_of_a_busy_store() {
    let etcd = Etcd::start();
    let (store, followed) = (store(&etcd), Followed::new(store(&etcd)));
    followed.until("a view", |o| o.view.is_some()).await;
    let mut last = Revision(0);
    for n in 0..300 {
        let then = match n % 5 {
            0 => Write::Delete(key(&Key::Leader)),
            1 => Write::Put(key(&Key::Leader), b"a".to_vec(), None),
            2 => Write::Put("/elsewhere".to_owned(), vec![], None),
            _ => Write::Put(key(&Key::Status), format!(r#"{{"optime":{n}}}"#).into_bytes(), None),
        };
        last = store.txn(Txn { when: vec![], then: vec![then] }).await.expect("runs").revision;
    }
    let seen =
        followed.until("the last write", |o| o.view.as_ref().is_some_and(|v| v.revision >= last)).await;
    let snapshot = store.snapshot("/service/demo/").await.expect("reads");
    let view = seen.view.expect("a view");
    let read = pgvane_cluster::fold::from_snapshot(&Keyspace::new("service", "demo"), &snapshot, Some(&view));
    assert_eq!(*view, read);
    let stats = followed.follower.stats();
    assert_eq!((stats.missed, stats.failures, stats.watches), (0, 0, 1), "{stats:?}");
}

#[tokio::test]
async fn a_member_of_three_may_freeze_and_a_minority_serves_nobody() {
    let etcds = Etcd::start_three();
    let endpoints: Vec<_> = etcds.iter().map(Etcd::url).collect();
    let store = EtcdStore::new(options(endpoints.clone()));
    let followed = Followed::new(EtcdStore::new(options(endpoints.clone())));
    eventually("writes", async || store.txn(put(&key(&Key::Leader), "a", None)).await).await;
    followed.until_leader(Some("a")).await;
    // One of them is enough to learn of the others.
    let one = EtcdStore::new(options(vec![endpoints[1].clone()]));
    let mut members = one.members().await.expect("answers");
    members.sort();
    let mut all = endpoints.clone();
    all.sort();
    assert_eq!(members, all);

    // Both stores are on the first endpoint, which may also be the raft leader.
    etcds[0].freeze();
    let frozen = Instant::now();
    eventually("writes without it", async || store.txn(put(&key(&Key::Leader), "b", None)).await).await;
    followed.until_leader(Some("b")).await;
    assert!(frozen.elapsed() < 10 * S, "{:?}", frozen.elapsed());
    followed.until("contact", |o| o.contact == Contact::Up).await;

    etcds[1].freeze();
    let lonely = EtcdStore::new(options(vec![endpoints[2].clone()]));
    followed.until("the loss", |o| o.contact != Contact::Up).await;
    let read = lonely.snapshot("/service/demo/").await;
    assert!(matches!(read, Err(StoreError::Unavailable(_))), "a minority must not answer: {read:?}");
    etcds[0].thaw();
    etcds[1].thaw();
    eventually("writes again", async || store.txn(put(&key(&Key::Leader), "c", None)).await).await;
    followed.until_leader(Some("c")).await;
}

#[tokio::test]
async fn users_and_tokens() {
    let mut etcd = Etcd::start();
    let with_user = |password: &str| {
        let user = Some(("pgvane".to_owned(), password.to_owned()));
        EtcdStore::new(EtcdOptions { user, ..options(vec![etcd.url()]) })
    };
    let store = with_user("right");
    store.txn(put("/s/a", "1", None)).await.expect("a user is no hindrance before authentication is on");
    for (path, body) in [
        ("user/add", r#"{"name":"root","password":"r"}"#),
        ("role/add", r#"{"name":"root"}"#),
        ("user/grant", r#"{"user":"root","role":"root"}"#),
        ("user/add", r#"{"name":"pgvane","password":"right"}"#),
        ("role/add", r#"{"name":"pgvane"}"#),
        // From /s/ to /s0 in base 64.
        (
            "role/grant",
            r#"{"name":"pgvane","perm":{"permType":"READWRITE","key":"L3Mv","range_end":"L3Mw"}}"#,
        ),
        ("user/grant", r#"{"user":"pgvane","role":"pgvane"}"#),
        ("enable", "{}"),
    ] {
        etcd.post(&format!("/v3/auth/{path}"), body);
    }
    let wrong = with_user("wrong");
    let nobody = self::store(&etcd);
    for refused in [nobody.snapshot("/s/").await.err(), wrong.snapshot("/s/").await.err()] {
        assert!(matches!(refused, Some(StoreError::Denied(_))), "{refused:?}");
    }
    let foreign = store.snapshot("/t/").await;
    assert!(matches!(foreign, Err(StoreError::Denied(_))), "{foreign:?}");
    store.txn(put("/s/a", "2", None)).await.expect("logs in by itself");
    let lease = store.grant(60 * S).await.expect("granted");
    assert_eq!(store.keep_alive(lease.id).await, Ok(KeepAlive::Renewed { ttl: 60 * S }));
    let mut watch = store.watch("/s/", Revision(1)).await.expect("opens");
    events(&mut watch).await;

    // Tokens live in memory only.
    etcd.kill();
    etcd.run();
    etcd.wait_ready();
    end(&mut watch).await;
    let revision = eventually("reads", async || store.snapshot("/s/").await).await.revision;
    store.txn(put("/s/a", "3", None)).await.expect("writes with a new token");
    let mut watch = store.watch("/s/", Revision(revision.0 + 1)).await.expect("opens with a new token");
    assert_eq!(events(&mut watch).await[0].key(), b"/s/a");
    assert_eq!(store.keep_alive(lease.id).await, Ok(KeepAlive::Renewed { ttl: 60 * S }));
}

#[tokio::test]
async fn tls_with_client_certificates() {
    let (certificates, strangers) = (Certificates::new(), Certificates::new());
    let etcd = Etcd::start_tls(&certificates);
    let with = |ca: &Certificates, identity: bool| {
        let identity = identity.then(|| (certificates.path("client.crt"), certificates.path("client.key")));
        let tls = EtcdTls { ca: Some(ca.path("ca.crt")), identity, server_name: None };
        EtcdStore::new(EtcdOptions { tls: Some(tls), ..options(vec![etcd.url()]) })
    };
    let store = with(&certificates, true);
    store.txn(put("/s/a", "1", None)).await.expect("runs");
    let mut watch = store.watch("/s/", Revision(1)).await.expect("opens");
    assert_eq!(events(&mut watch).await[0].key(), b"/s/a");
    let bare = EtcdStore::new(EtcdOptions {
        tls: Some(EtcdTls {
            ca: Some(certificates.path("ca.crt")),
            identity: Some((certificates.path("client.crt"), certificates.path("client.key"))),
            server_name: Some("127.0.0.1".to_owned()),
        }),
        ..options(vec![format!("127.0.0.1:{}", etcd.port)])
    });
    assert_eq!(bare.snapshot("/s/").await.expect("reads").keys.len(), 1);

    let stranger = with(&strangers, true).snapshot("/s/").await;
    assert!(matches!(stranger, Err(StoreError::Denied(_))), "{stranger:?}");
    let anonymous = with(&certificates, false).snapshot("/s/").await;
    assert!(anonymous.is_err(), "{anonymous:?}");
    let by_system = EtcdStore::new(options(vec![etcd.url()])).snapshot("/s/").await;
    assert!(matches!(by_system, Err(StoreError::Denied(_))), "{by_system:?}");
    let missing = EtcdTls { ca: Some("/nowhere/ca.crt".into()), ..EtcdTls::default() };
    let missing = EtcdStore::new(EtcdOptions { tls: Some(missing), ..options(vec![etcd.url()]) });
    let error = missing.snapshot("/s/").await.expect_err("there is no such file").to_string();
    assert!(error.contains("/nowhere/ca.crt"), "{error}");
}
