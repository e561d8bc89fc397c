//! The REST API over real sockets, with a store in memory and a snapshot that the test publishes.

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use hyper::Method;
use pgvane_agent::api::{
    Api, ApiSnapshot, Command, FailsafeAsk, LocalPostgres, Operations, RestartAnswer, RestartAsk, Settings,
    serve,
};
use pgvane_agent::config::{
    Access, Ctl, HostPort, Login, Restapi, Secret, ServerTls, ServerTokens, VerifyClient,
};
use pgvane_agent::decide::consent::Refusal;
use pgvane_agent::decide::restart::Filters;
use pgvane_agent::peers::{self, Caller, PeerAnswer};
use pgvane_agent::reach;
use pgvane_agent::timing::TimingOverrides;
use pgvane_cluster::clock::Tick;
use pgvane_cluster::fold;
use pgvane_cluster::follow::{Contact, Observation};
use pgvane_cluster::ids::Lsn;
use pgvane_cluster::keyspace::{Key, Keyspace};
use pgvane_cluster::records::{MemberRole, MemberState, Tags};
use pgvane_cluster::store::model::ModelStore;
use pgvane_cluster::store::{Store, Txn};
use rcgen::{BasicConstraints, CertificateParams, CertifiedIssuer, IsCa, KeyPair};
use serde_json::{Value, json};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpListener;
use tokio::sync::{mpsc, watch};

/// One request without TLS.
async fn request(
    method: Method,
    url: &str,
    body: Option<&Value>,
    login: Option<&Login>,
) -> Result<peers::Answer, String> {
    let ctl = Ctl { login: login.cloned(), ..Ctl::default() };
    peers::Caller::new(&ctl).request(method, url, body).await
}

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
        watchdog_failed: false,
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
        renewed_at: None,
        local: LocalPostgres {
            state: MemberState::Running,
            role: MemberRole::Primary,
            answer: None,
            system_identifier: None,
            asked_at: None,
        },
        failsafe_active: false,
        pending_restart: None,
        operations: Operations::default(),
        turned_at: Tick::now(),
        ttl: Duration::from_secs(30),
        dcs_last_seen: 0,
        turns: 0,
        decisions: BTreeMap::new(),
    }
}

impl Node {
    async fn start(auth: Option<Login>) -> Node {
        Node::with(Settings::plain(auth)).await
    }

    async fn with(settings: Settings) -> Node {
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
            settings: watch::channel(Arc::new(settings)).1,
            caller: Arc::new(Caller::plain()),
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
        let answer = request(method, &self.url(path), body.as_ref(), auth).await.expect("answers");
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
    assert_eq!(node.call(Method::GET, "/history", None, None).await.0, 502);
    assert_eq!(node.call(Method::DELETE, "/primary", None, None).await.0, 501);
    // Only GET has more to say of these paths; to the other methods they are questions of health.
    for path in ["/liveness", "/readiness", "/patroni", "/config", "/metrics"] {
        assert_eq!(node.call(Method::HEAD, path, None, None).await, (503, String::new()), "{path}");
    }
    for path in ["/liveness", "/readiness"] {
        assert_eq!(node.call(Method::GET, path, None, None).await, (200, String::new()), "{path}");
    }
    assert_eq!(node.call(Method::GET, "/patroni/x?y=1", None, None).await.0, 200, "its first part decides");
    assert!(node.call(Method::GET, "/metrics", None, None).await.1.contains("\npatroni_primary{"));
}

#[tokio::test]
async fn only_members_are_tried_at_the_addresses_they_publish() {
    let node = Node::start(None).await;
    let (status, said) = node.call(Method::GET, "/reach?member=b", None, None).await;
    assert_eq!(status, 503, "{said}");
    let listener = TcpListener::bind("127.0.0.1:0").await.expect("a free port");
    let free = TcpListener::bind("127.0.0.1:0").await.expect("a free port").local_addr().expect("bound");
    let (rest, postgres) = (node.address, listener.local_addr().expect("bound"));
    let record = |rest: SocketAddr| {
        json!({
            "state": "running", "role": "replica",
            "api_url": format!("http://{rest}/patroni"), "conn_url": format!("postgres://{postgres}/postgres"),
        })
    };
    node.put(Key::Member("b".into()), &record(rest).to_string()).await;
    node.put(Key::Member("c d".into()), &record(free).to_string()).await;
    node.observe().await;
    tokio::spawn(async move {
        while let Ok((mut client, _)) = listener.accept().await {
            let mut packet = [0; 8];
            client.read_exact(&mut packet).await.expect("asks for TLS");
            client.write_all(b"N").await.expect("answers");
        }
    });
    for (query, status) in
        [("", 400), ("?member=", 400), ("?member=127.0.0.1:22", 404), ("?member=e", 404), ("?member=b", 200)]
    {
        let (answered, said) = node.call(Method::GET, &format!("/reach{query}"), None, None).await;
        assert_eq!(answered, status, "{query}: {said}");
    }
    let (_, said) = node.call(Method::GET, "/reach?member=b", None, None).await;
    let reached: Value = serde_json::from_str(&said).expect("JSON");
    let wanted = json!({
        "member": "b",
        "rest": {"at": format!("http://{rest}/patroni")},
        "postgresql": {"at": format!("postgres://{postgres}/postgres")},
    });
    assert_eq!(reached, wanted);
    let (_, said) = node.call(Method::GET, &reach::path(&"c d".into()), None, None).await;
    let reached: Value = serde_json::from_str(&said).expect("JSON");
    assert!(reached["rest"]["error"].as_str().is_some_and(|why| why.contains("refused")), "{reached}");
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
        (Method::DELETE, "/restart"),
        (Method::POST, "/reinitialize"),
        (Method::POST, "/sigterm"),
        (Method::POST, "/citus"),
        (Method::POST, "/mpp"),
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
    for (method, path) in
        [(Method::PATCH, "/config"), (Method::POST, "/switchover"), (Method::POST, "/failsafe")]
    {
        assert_eq!(node.call(method, path, None, None).await.0, 411, "{path} needs a body");
    }
    for (method, path) in [(Method::DELETE, "/failover"), (Method::POST, "/x"), (Method::PUT, "/restart")] {
        assert_eq!(node.call(method, path, None, None).await.0, 501, "{path}");
    }
}

#[tokio::test]
async fn the_cluster_is_read_from_the_store_when_it_is_asked_for() {
    let node = Node::start(None).await;
    node.put(Key::Leader, "a").await;
    node.put(Key::Member("a".into()), r#"{"state":"running","role":"primary"}"#).await;
    let (status, body) = node.call(Method::GET, "/cluster", None, None).await;
    assert_eq!(status, 200);
    assert!(body.contains(r#""name": "a", "role": "leader""#), "{body}");
    node.store.set_available(false);
    let (status, text) = node.call(Method::GET, "/cluster", None, None).await;
    assert_eq!(status, 503, "{text}");
}

/// What operators ask of the loop, and what they are told.
#[tokio::test]
async fn restarts_and_the_like_are_the_loops_business() {
    let mut node = Node::start(None).await;
    let url = node.url("");
    let call = |method: Method, path: &'static str, body: Option<Value>| {
        let url = format!("{url}{path}");
        async move {
            let answer = request(method, &url, body.as_ref(), None).await.expect("answers");
            (answer.status.as_u16(), answer.text())
        }
    };
    let say = |text: &str| text.to_owned();
    let body = json!({"role": "replica", "timeout": 5, "restart_pending": true});
    let filters = Filters { role: Some(say("replica")), restart_pending: Some(true), ..Filters::default() };
    let wanted = RestartAsk { schedule: None, filters, timeout: Some(5) };
    for (body, wanted, answer, told) in [
        (None, RestartAsk::default(), RestartAnswer::Restarted, (200, say("restarted successfully"))),
        (Some(body), wanted, RestartAnswer::NotDone(say("restart failed")), (503, say("restart failed"))),
        (None, RestartAsk::default(), RestartAnswer::Scheduled, (202, say("Restart scheduled"))),
        (
            Some(json!({})),
            RestartAsk::default(),
            RestartAnswer::AlreadyScheduled,
            (409, say("Another restart is already scheduled")),
        ),
    ] {
        let asked = tokio::spawn(call(Method::POST, "/restart", body));
        let Some(Command::Restart { ask, reply }) = node.commands.recv().await else { panic!("a restart") };
        assert_eq!(ask, wanted);
        reply.send(answer).expect("somebody waits");
        assert_eq!(asked.await.expect("no panic"), told);
    }
    assert_eq!(call(Method::POST, "/restart", Some(json!({"x": 1}))).await.0, 400);
    for (was, told) in
        [(true, (200, "scheduled restart deleted")), (false, (404, "no restarts are scheduled"))]
    {
        let asked = tokio::spawn(call(Method::DELETE, "/restart", None));
        let Some(Command::Unschedule { reply }) = node.commands.recv().await else { panic!("a withdrawal") };
        reply.send(was).expect("somebody waits");
        assert_eq!(asked.await.expect("no panic"), (told.0, say(told.1)));
    }
    for (body, flags, judged, told) in [
        (None, (false, false), Ok(()), (200, say("reinitialize started"))),
        (
            Some(json!({"force": true, "from_leader": "on"})),
            (true, true),
            Err(say("clone already in progress")),
            (503, say("clone already in progress")),
        ),
    ] {
        let asked = tokio::spawn(call(Method::POST, "/reinitialize", body));
        let Some(Command::Reinitialize { force, from_leader, reply }) = node.commands.recv().await else {
            panic!("a reinitialization")
        };
        assert_eq!((force, from_leader), flags);
        reply.send(judged).expect("somebody waits");
        assert_eq!(asked.await.expect("no panic"), told);
    }
    assert_eq!(call(Method::POST, "/reload", None).await, (202, say("reload scheduled")));
    assert!(matches!(node.commands.recv().await, Some(Command::Reload)));
    assert_eq!(call(Method::POST, "/sigterm", None).await, (202, say("shutdown scheduled")));
    assert_eq!(call(Method::POST, "/citus", None).await.0, 200);
    // A loop that ends answers nobody any more.
    let asked = tokio::spawn(call(Method::POST, "/restart", None));
    let Some(Command::Restart { reply, .. }) = node.commands.recv().await else { panic!("a restart") };
    drop(reply);
    assert_eq!(asked.await.expect("no panic"), (503, say("the agent is stopping")));
}

#[tokio::test]
async fn a_scheduled_switchover_is_written_and_withdrawn() {
    let node = Node::start(None).await;
    node.put(Key::Leader, "a").await;
    let body = json!({"leader": "a", "candidate": "b", "scheduled_at": "2100-01-01T00:00:00+00:00"});
    let scheduled = node.call(Method::POST, "/switchover", Some(body), None).await;
    assert_eq!(scheduled, (202, "Switchover scheduled".to_owned()));
    let stored = node.store.snapshot(space().prefix()).await.expect("reads");
    let request = fold::from_snapshot(&space(), &stored, None).failover.expect("a request").value;
    assert_eq!(request.scheduled_at.as_deref(), Some("2100-01-01T00:00:00+00:00"));
    let shown = node.call(Method::GET, "/cluster", None, None).await.1;
    let expected = r#""scheduled_switchover": {"at": "2100-01-01T00:00:00+00:00", "from": "a", "to": "b"}"#;
    assert!(shown.contains(expected), "{shown}");
    let withdraw = || node.call(Method::DELETE, "/switchover", None, None);
    assert_eq!(withdraw().await, (200, "scheduled switchover deleted".to_owned()));
    assert_eq!(withdraw().await.0, 404);
}

// TLS.

/// A directory of certificates that one authority signed.
struct Files(tempfile::TempDir);

impl Files {
    fn new() -> (Files, CertifiedIssuer<'static, KeyPair>) {
        let mut params = CertificateParams::new(vec![]).expect("no names");
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        let issuer = CertifiedIssuer::self_signed(params, KeyPair::generate().expect("a key")).expect("a CA");
        let files = Files(tempfile::tempdir().expect("a directory"));
        files.write("ca.pem", &issuer.pem());
        (files, issuer)
    }

    fn write(&self, name: &str, text: &str) -> PathBuf {
        let path = self.0.path().join(name);
        std::fs::write(&path, text).expect("writes");
        path
    }

    /// A certificate and its key for `name`, which need not be that of who shows it.
    fn sign(&self, issuer: &CertifiedIssuer<'static, KeyPair>, name: &str) -> (PathBuf, PathBuf) {
        let key = KeyPair::generate().expect("a key");
        let params = CertificateParams::new(vec![name.to_owned()]).expect("a name");
        let cert = params.signed_by(&key, issuer).expect("signs").pem();
        (self.write(&format!("{name}.crt"), &cert), self.write(&format!("{name}.key"), &key.serialize_pem()))
    }

    fn settings(&self, verify_client: VerifyClient, login: Option<Login>) -> Settings {
        let path = |name: &str| self.0.path().join(name);
        let tls = ServerTls {
            certfile: path("server.crt"),
            keyfile: path("server.key"),
            keyfile_password: None,
            cafile: Some(path("ca.pem")),
            verify_client,
        };
        let restapi = Restapi {
            listen: ([127, 0, 0, 1], 0).into(),
            connect_address: HostPort { host: "127.0.0.1".to_owned(), port: 1 },
            login,
            tls: Some(tls),
            access: Access::default(),
            http_extra_headers: vec![],
            https_extra_headers: vec![],
            server_tokens: ServerTokens::Minimal,
        };
        Settings::new(&restapi).expect("good settings")
    }

    fn ctl(&self, client_cert: Option<(PathBuf, PathBuf)>) -> Ctl {
        Ctl {
            login: Some(login()),
            cafile: Some(self.0.path().join("ca.pem")),
            client_cert,
            ..Ctl::default()
        }
    }
}

#[tokio::test]
async fn over_tls_a_certificate_is_asked_of_whom_the_settings_say() {
    let (files, issuer) = Files::new();
    files.sign(&issuer, "server");
    let own = files.sign(&issuer, "client");
    let (other_files, other) = Files::new();
    let foreign = other_files.sign(&other, "client");
    let (nobody, known) = (Caller::new(&files.ctl(None)), Caller::new(&files.ctl(Some(own))));
    let stranger = Caller::new(&files.ctl(Some(foreign)));
    for (verify, of_nobody, of_stranger) in [
        (VerifyClient::None, (Some(200), Some(202)), (Some(200), Some(202))),
        (VerifyClient::Optional, (Some(200), Some(403)), (None, None)),
        (VerifyClient::Required, (None, None), (None, None)),
    ] {
        let node = Node::with(files.settings(verify, Some(login()))).await;
        let ask = async |caller: &Caller| {
            let url = |path: &str| format!("https://{}{path}", node.address);
            let status = |answer: Result<peers::Answer, String>| answer.ok().map(|a| a.status.as_u16());
            let read = caller.request(Method::GET, &url("/primary"), None).await;
            let change = caller.request(Method::POST, &url("/reload"), None).await;
            (status(read), status(change))
        };
        assert_eq!(ask(&known).await, (Some(200), Some(202)), "{verify:?}");
        assert_eq!(ask(&nobody).await, of_nobody, "{verify:?}");
        assert_eq!(ask(&stranger).await, of_stranger, "{verify:?}");
        // Who signed the server's certificate is asked for; what name it bears is not.
        let untrusting = Caller::new(&other_files.ctl(None));
        assert_eq!(ask(&untrusting).await.0, None, "{verify:?}");
        let plain = node.url("/primary");
        assert!(request(Method::GET, &plain, None, None).await.is_err(), "no TLS is no answer");
    }
    let why = Caller::plain().request(Method::GET, "https://127.0.0.1:1/x", None).await.expect_err("refused");
    assert!(why.contains("set ctl.cacert"), "{why}");
}

#[tokio::test]
async fn a_renewed_certificate_is_shown_without_a_restart() {
    let (files, issuer) = Files::new();
    files.sign(&issuer, "server");
    let node = Node::with(files.settings(VerifyClient::None, None)).await;
    let (renewed, authority) = Files::new();
    let caller = Caller::new(&renewed.ctl(None));
    let url = format!("https://{}/primary", node.address);
    let ask = || caller.request(Method::GET, &url, None);
    assert!(ask().await.is_err(), "signed by the authority of before");
    let (cert, key) = renewed.sign(&authority, "server");
    for (from, to) in [(key, "server.key"), (cert, "server.crt")] {
        std::fs::copy(from, files.0.path().join(to)).expect("copies");
    }
    let shown = async {
        while ask().await.is_err() {
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
    };
    tokio::time::timeout(Duration::from_secs(20), shown).await.expect("the new one is shown");
}

/// What Patroni is blamed for: a client that does not finish its handshake, or says nothing, and all the others
/// wait.
#[tokio::test]
async fn who_says_nothing_holds_up_nobody() {
    let (files, issuer) = Files::new();
    files.sign(&issuer, "server");
    let node = Node::with(files.settings(VerifyClient::None, None)).await;
    let mut silent = Vec::new();
    // More than one address may have, so that the last ones are turned away.
    for _ in 0..140 {
        silent.push(tokio::net::TcpStream::connect(node.address).await.expect("connects"));
    }
    let caller = Caller::new(&files.ctl(None));
    let url = format!("https://{}/primary", node.address);
    let served = async {
        while caller.request(Method::GET, &url, None).await.is_err() {
            tokio::time::sleep(Duration::from_millis(100)).await;
        }
    };
    // Their handshakes run out, and their places are free again; another address would not even have to wait.
    tokio::time::timeout(Duration::from_secs(20), served).await.expect("served beside them");
    let plain = Node::start(None).await;
    for _ in 0..100 {
        silent.push(tokio::net::TcpStream::connect(plain.address).await.expect("connects"));
    }
    let answer =
        tokio::time::timeout(Duration::from_secs(2), plain.call(Method::GET, "/primary", None, None));
    assert_eq!(answer.await.expect("at once").0, 200);
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
        request(Method::POST, &url, Some(&body), None).await.expect("answers")
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
            Ok(Lsn(77)),
            Err(Refusal::IAmPrimary),
            Err(Refusal::ModeIsOff),
            Err(Refusal::StoreAnswersHere),
            Err(Refusal::VouchedFor("z".into())),
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
    let caller = Caller::new(&Ctl { login: Some(login), ..Ctl::default() });
    let vouch = || caller.vouch_all(&members, &ask, Duration::from_secs(5));
    assert_eq!(vouch().await, BTreeMap::new());
    assert_eq!(vouch().await[&"a".into()], "500 Running as a leader");
    assert_eq!(vouch().await[&"a".into()], "502 failsafe_mode is off");
    assert_eq!(vouch().await[&"a".into()], "503 the store answers this node");
    assert_eq!(vouch().await[&"a".into()], "503 this node vouched for z");
    loop_task.await.expect("the loop was asked as often");
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
    let answers = Caller::plain().ask_all(&members, limit).await;
    let took = Tick::now().since(before);
    assert!(took < limit * 2, "asked one after the other: {took:?}");
    assert_eq!(answers.len(), 3);
    assert_eq!(answers[&"a".into()], PeerAnswer::Unreachable("it tells no WAL position".to_owned()));
}
