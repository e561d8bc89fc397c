//! The REST API over real sockets, with a store in memory and a snapshot that the test publishes.

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use hyper::Method;
use pgvane_agent::api::{Api, ApiSnapshot, Command, FailsafeAnswer, FailsafeAsk, LocalPostgres, serve};
use pgvane_agent::config::{Login, Secret};
use pgvane_agent::peers::{self, PeerAnswer};
use pgvane_agent::timing::TimingOverrides;
use pgvane_cluster::clock::Tick;
use pgvane_cluster::fold;
use pgvane_cluster::follow::{Contact, Observation};
use pgvane_cluster::ids::Lsn;
use pgvane_cluster::keyspace::{Key, Keyspace};
use pgvane_cluster::records::{MemberRole, MemberState, Tags};
use pgvane_cluster::store::model::ModelStore;
use pgvane_cluster::store::{Store, Txn};
use serde_json::{Value, json};
use tokio::net::TcpListener;
use tokio::sync::{mpsc, watch};

struct Node {
    address: SocketAddr,
    store: Arc<ModelStore>,
    publish: watch::Sender<Arc<ApiSnapshot>>,
    commands: mpsc::Receiver<Command>,
}

fn space() -> Keyspace {
    Keyspace::new("service", "demo")
}

fn login() -> Login {
    Login { username: "admin".to_owned(), password: Secret::new("s3cret:with colon") }
}

fn snapshot() -> ApiSnapshot {
    ApiSnapshot {
        name: "a".into(),
        scope: "demo".to_owned(),
        tags: Tags::default(),
        observation: Observation {
            view: None,
            confirmed_at: Tick::now(),
            contact: Contact::Up,
            leader_lease: None,
        },
        leader_until: Some(Tick::now() + Duration::from_mins(1)),
        local: LocalPostgres {
            state: MemberState::Running,
            role: MemberRole::Primary,
            answer: None,
            system_identifier: None,
            asked_at: None,
        },
        failsafe_active: false,
        pending_restart: None,
        turned_at: Tick::now(),
        ttl: Duration::from_secs(30),
        dcs_last_seen: 0,
        turns: 0,
        decisions: BTreeMap::new(),
    }
}

impl Node {
    async fn start(auth: Option<Login>) -> Node {
        let listener = TcpListener::bind("127.0.0.1:0").await.expect("a free port");
        let address = listener.local_addr().expect("an address");
        let store = Arc::new(ModelStore::new());
        let (publish, snapshots) = watch::channel(Arc::new(snapshot()));
        let (send, commands) = mpsc::channel(16);
        let api = Api {
            store: Arc::clone(&store),
            space: space(),
            snapshots,
            commands: send,
            login: auth,
            timing: TimingOverrides::default(),
        };
        tokio::spawn(serve(listener, api, std::future::pending()));
        Node { address, store, publish, commands }
    }

    fn url(&self, path: &str) -> String {
        format!("http://{}{path}", self.address)
    }

    async fn put(&self, key: Key, value: &str) {
        let put = Txn::put(space().path(&key), value.as_bytes().to_vec(), None);
        self.store.txn(put).await.expect("puts");
    }

    /// Publishes what the store holds, as the loop does.
    async fn observe(&self) {
        let stored = self.store.snapshot(space().prefix()).await.expect("reads");
        let view = Arc::new(fold::from_snapshot(&space(), &stored, None));
        let mut s = snapshot();
        s.observation.view = Some(view);
        self.publish.send_replace(Arc::new(s));
    }

    async fn call(
        &self,
        method: Method,
        path: &str,
        body: Option<Value>,
        auth: Option<&Login>,
    ) -> (u16, String) {
        let answer = peers::request(method, &self.url(path), body.as_ref(), auth).await.expect("answers");
        (answer.status.as_u16(), answer.text())
    }
}

#[tokio::test]
async fn health_checks_by_method() {
    let node = Node::start(Some(login())).await;
    let (status, body) = node.call(Method::GET, "/primary", None, None).await;
    assert_eq!(status, 200);
    assert!(body.contains("\"role\": \"primary\", \"state\": \"unknown\""), "{body}");
    for method in [Method::HEAD, Method::OPTIONS] {
        assert_eq!(node.call(method.clone(), "/primary", None, None).await, (200, String::new()), "{method}");
        assert_eq!(node.call(method.clone(), "/replica", None, None).await, (503, String::new()), "{method}");
    }
    assert_eq!(node.call(Method::GET, "/liveness", None, None).await.0, 200);
    assert_eq!(node.call(Method::GET, "/readiness", None, None).await.0, 200);
    assert_eq!(node.call(Method::GET, "/cluster", None, None).await.0, 502);
    assert_eq!(node.call(Method::DELETE, "/primary", None, None).await.0, 501);
    assert!(node.call(Method::GET, "/metrics", None, None).await.1.contains("\npatroni_primary{"));
}

#[tokio::test]
async fn unsafe_calls_need_the_login_and_safe_ones_do_not() {
    let node = Node::start(Some(login())).await;
    node.put(Key::Config, r#"{"ttl":30}"#).await;
    node.observe().await;
    let wrong = Login { password: Secret::new("guess"), ..login() };
    let patch = || Some(json!({"ttl": 20}));
    for (method, path) in [
        (Method::PATCH, "/config"),
        (Method::PUT, "/config"),
        (Method::POST, "/switchover"),
        (Method::DELETE, "/switchover"),
        (Method::POST, "/failover"),
        (Method::POST, "/failsafe"),
        (Method::POST, "/reload"),
        (Method::POST, "/restart"),
        (Method::POST, "/reinitialize"),
    ] {
        for auth in [None, Some(&wrong)] {
            let (status, _) = node.call(method.clone(), path, patch(), auth).await;
            assert_eq!(status, 401, "{method} {path} {auth:?}");
        }
    }
    assert_eq!(node.call(Method::GET, "/config", None, None).await, (200, r#"{"ttl": 30}"#.to_owned()));
    let changed = node.call(Method::PATCH, "/config", patch(), Some(&login())).await;
    assert_eq!(changed, (200, r#"{"ttl": 20}"#.to_owned()));
}

#[tokio::test]
async fn bodies_that_are_no_wishes_are_refused() {
    let node = Node::start(None).await;
    for body in [json!([]), json!({}), json!("x")] {
        assert_eq!(node.call(Method::PATCH, "/config", Some(body.clone()), None).await.0, 400, "{body}");
        assert_eq!(node.call(Method::POST, "/switchover", Some(body), None).await.0, 400);
    }
    assert_eq!(node.call(Method::POST, "/failsafe", Some(json!({"name": "x"})), None).await.0, 400);
}

#[tokio::test]
async fn an_absent_store_is_said_and_waited_for_by_nobody() {
    let node = Node::start(None).await;
    node.store.set_available(false);
    let (status, text) = node.call(Method::PATCH, "/config", Some(json!({"ttl": 20})), None).await;
    assert_eq!(status, 503);
    assert!(text.contains("the store did not answer"), "{text}");
    assert_eq!(node.call(Method::GET, "/primary", None, None).await.0, 200);
}

#[tokio::test]
async fn a_switchover_is_answered_when_the_new_leader_serves() {
    let mut node = Node::start(None).await;
    // The candidate's API: any node that tells a position will do.
    let candidate = Node::start(None).await;
    let mut standby = snapshot();
    standby.local.answer = Some(pgvane_agent::api::ServerAnswer {
        server_version: 150_000,
        postmaster_start_time: None,
        timeline: None,
        wal: pgvane_agent::api::Wal::Primary { location: Lsn(1) },
        replication: vec![],
    });
    candidate.publish.send_replace(Arc::new(standby));
    node.put(Key::Leader, "a").await;
    let member =
        |role: &str, url: String| json!({"state": "running", "role": role, "api_url": url}).to_string();
    node.put(Key::Member("a".into()), &member("primary", node.url("/patroni"))).await;
    node.put(Key::Member("b".into()), &member("replica", candidate.url("/patroni"))).await;
    node.observe().await;

    let url = node.url("/switchover");
    let asked = tokio::spawn(async move {
        let body = json!({"leader": "a", "candidate": "b"});
        peers::request(Method::POST, &url, Some(&body), None).await.expect("answers")
    });
    // The wish is in the store before the loop is woken.
    let woken = tokio::time::timeout(Duration::from_secs(5), node.commands.recv()).await.expect("in time");
    assert!(matches!(woken, Some(Command::Wake)), "{woken:?}");
    let stored = node.store.snapshot(space().prefix()).await.expect("reads");
    let view = fold::from_snapshot(&space(), &stored, None);
    assert_eq!(view.failover.expect("a request").value.member, Some("b".into()));

    node.observe().await;
    node.put(Key::Leader, "b").await;
    node.put(Key::Failover, "{}").await;
    node.observe().await;
    assert!(!asked.is_finished(), "answered before the new leader serves");
    node.put(Key::Member("b".into()), &member("primary", candidate.url("/patroni"))).await;
    node.observe().await;
    let answer =
        tokio::time::timeout(Duration::from_secs(5), asked).await.expect("in time").expect("no panic");
    assert_eq!(
        (answer.status.as_u16(), answer.text().as_str()),
        (200, "Successfully switched over to \"b\"")
    );
}

#[tokio::test]
async fn a_candidate_that_does_not_answer_is_no_candidate() {
    let node = Node::start(None).await;
    let silent = TcpListener::bind("127.0.0.1:0").await.expect("a port").local_addr().expect("an address");
    node.put(Key::Leader, "a").await;
    let member =
        json!({"state": "running", "role": "replica", "api_url": format!("http://{silent}/patroni")});
    node.put(Key::Member("b".into()), &member.to_string()).await;
    let refused = node.call(Method::POST, "/switchover", Some(json!({"leader": "a"})), None).await;
    assert_eq!(refused, (412, "switchover is not possible: no good candidates have been found".to_owned()));
    let withdrawn = node.call(Method::DELETE, "/switchover", None, None).await;
    assert_eq!(withdrawn, (404, "no switchover is scheduled".to_owned()));
}

#[tokio::test]
async fn members_vouch_through_the_loop() {
    let mut node = Node::start(Some(login())).await;
    let members = BTreeMap::from([("a".into(), node.url("/patroni"))]);
    let login = login();
    let loop_task = tokio::spawn(async move {
        for answer in [
            FailsafeAnswer::Accepted { position: Lsn(77) },
            FailsafeAnswer::RunningPrimary,
            FailsafeAnswer::Disabled,
        ] {
            let Some(Command::Failsafe { ask, reply }) = node.commands.recv().await else {
                panic!("a question is expected")
            };
            assert_eq!(ask.name, "x".into());
            reply.send(answer).expect("somebody waits");
        }
    });
    let ask = FailsafeAsk {
        name: "x".into(),
        conn_url: "c".to_owned(),
        api_url: "u".to_owned(),
        slots: None,
        ttl_ms: None,
    };
    let vouch = || peers::vouch_all_as(&members, &ask, Some(&login), Duration::from_secs(5));
    assert_eq!(vouch().await, BTreeMap::new());
    assert_eq!(vouch().await[&"a".into()], "500 Running as a leader");
    assert_eq!(vouch().await[&"a".into()], "502 failsafe_mode is off");
    loop_task.await.expect("the loop was asked three times");
}

#[tokio::test]
async fn members_are_asked_in_parallel_with_one_deadline() {
    let node = Node::start(None).await;
    // Accepts connections (the kernel does) and never answers.
    let hung = TcpListener::bind("127.0.0.1:0").await.expect("a port");
    let hung = format!("http://{}/patroni", hung.local_addr().expect("an address"));
    let members = [("a".into(), node.url("/patroni")), ("b".into(), hung.clone()), ("c".into(), hung)];
    let limit = Duration::from_millis(300);
    let before = Tick::now();
    let answers = peers::ask_all(&members, limit).await;
    let took = Tick::now().since(before);
    assert!(took < limit * 2, "asked one after the other: {took:?}");
    assert_eq!(answers.len(), 3);
    assert_eq!(answers[&"a".into()], PeerAnswer::Unreachable("it tells no WAL position".to_owned()));
}
