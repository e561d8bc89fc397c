//! Clusters that are told of by their members: Patroni's REST API or PostgreSQL itself, scripted and real.

mod proxy_support;

use std::net::SocketAddr;
use std::process::Stdio;
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use proxy_support::client::{Client, Welcome};
use proxy_support::server::{Manner, Server};
use proxy_support::{Proxy, ends, listener};
use serde_json::{Value, json};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio::task::JoinHandle;
use tokio_postgres::NoTls;
use tokio_postgres::error::SqlState;
use xtask::playground::node::Node;
use xtask::playground::{CLIENT_ROLE, HEALTHY_WITHIN, Options, Playground};
use xtask::{install, programs};

/// A member's REST API with answers that a test chooses.
struct Api {
    address: SocketAddr,
    name: &'static str,
    script: Arc<Mutex<Script>>,
    serving: JoinHandle<()>,
}

#[derive(Default)]
struct Script {
    /// The answer to GET `/primary`; without one it keeps silent.
    primary: Option<(u16, Value)>,
    /// What /cluster lists: name and address of PostgreSQL.
    cluster: Value,
    /// How often GET `/primary` was asked.
    asked: u32,
}

impl Drop for Api {
    fn drop(&mut self) {
        self.serving.abort();
    }
}

impl Api {
    /// The API of the member whose PostgreSQL is `server`.
    async fn start(name: &'static str, server: &Server) -> Api {
        let (host, port) = (server.address.ip().to_string(), server.address.port());
        let cluster = json!({"members": [{"name": name, "host": host, "port": port}]});
        let script = Arc::new(Mutex::new(Script { cluster, ..Script::default() }));
        let listener = TcpListener::bind("127.0.0.1:0").await.expect("bind");
        let address = listener.local_addr().expect("bound");
        let serving = tokio::spawn(answer(listener, Arc::clone(&script)));
        Api { address, name, script, serving }
    }

    fn says(&self, status: u16, role: &str, timeline: u32) {
        let body = json!({
            "state": "running", "role": role, "timeline": timeline, "replication_state": "streaming",
            "xlog": {"location": 100}, "patroni": {"version": "4.1.4", "scope": "any", "name": self.name},
        });
        self.script.lock().expect("nobody panics with it").primary = Some((status, body));
    }

    /// Holds the lock and runs as primary.
    fn leads(&self, timeline: u32) {
        self.says(200, "primary", timeline);
    }

    fn follows(&self, timeline: u32) {
        self.says(503, "replica", timeline);
    }

    fn keeps_silent(&self) {
        self.script.lock().expect("nobody panics with it").primary = None;
    }

    fn asked(&self) -> u32 {
        self.script.lock().expect("nobody panics with it").asked
    }
}

async fn answer(listener: TcpListener, script: Arc<Mutex<Script>>) {
    let mut silent = Vec::new();
    loop {
        let (mut stream, _) = listener.accept().await.expect("accept");
        let mut request = vec![];
        while !request.ends_with(b"\r\n\r\n") && stream.read_buf(&mut request).await.is_ok_and(|n| n > 0) {}
        let answer = {
            let mut script = script.lock().expect("nobody panics with it");
            if request.starts_with(b"GET /cluster ") {
                Some((200, script.cluster.clone()))
            } else {
                assert!(request.starts_with(b"GET /primary "), "{}", String::from_utf8_lossy(&request));
                script.asked += 1;
                script.primary.clone()
            }
        };
        match answer {
            // As Patroni does: no length, closed at the end.
            Some((status, body)) => {
                let text = format!("HTTP/1.0 {status} x\r\nContent-Type: application/json\r\n\r\n{body}");
                stream.write_all(text.as_bytes()).await.ok();
            }
            None => silent.push(stream),
        }
    }
}

/// Two members with their servers; pg1 leads on timeline 1.
async fn pair() -> [(Api, Server); 2] {
    let servers = [Server::start("pg1", Manner::Serve).await, Server::start("pg2", Manner::Serve).await];
    let [one, two] = servers;
    let apis = (Api::start("pg1", &one).await, Api::start("pg2", &two).await);
    apis.0.leads(1);
    apis.1.follows(1);
    [(apis.0, one), (apis.1, two)]
}

/// A proxy with a primary and a replica port.
fn asking(section: &str, members: &[SocketAddr], keys: &str) -> Proxy {
    let list = if section == "probe" { "servers" } else { "members" };
    let members: Vec<_> = members.iter().map(|address| format!("\"{address}\"")).collect();
    Proxy::without_store(&format!(
        "[admin]\nlisten = [\"127.0.0.1:0\"]\n\n[cluster.main.{section}]\n{list} = [{}]\n{keys}\n\n{}{}",
        members.join(", "),
        listener("primary", ""),
        listener("replica", ""),
    ))
}

/// A proxy that asks the members of a [`pair`] ten times a second.
fn asking_often(pair: &[(Api, Server); 2]) -> Proxy {
    asking("patroni_rest", &[pair[0].0.address, pair[1].0.address], "interval = \"100ms\"")
}

#[tokio::test]
async fn the_higher_timeline_takes_over_from_a_primary_that_does_not_know() {
    let pair = pair().await;
    let proxy = asking_often(&pair);
    let (mut session, name) = Client::enter(proxy.addresses[0]).await;
    assert_eq!(name, "pg1");
    assert_eq!(Client::enter(proxy.addresses[1]).await.1, "pg2");
    let topology = proxy.topology().await;
    let cluster = &topology["clusters"][0];
    assert_eq!((&cluster["source"], &cluster["poll_interval_ms"]), (&json!("patroni_rest"), &json!(100)));
    assert_eq!((&cluster["epoch"], &cluster["standing"]), (&json!(1000), &json!("proven")));

    pair[1].0.leads(2);
    assert!(session.is_cut().await.contains("cluster main: pg1 is not the primary any more"));
    assert_eq!(Client::enter(proxy.addresses[0]).await.1, "pg2");
    proxy.until_metric("pgvane_epoch{cluster=\"main\"}", 2000.0).await;
    proxy.until_metric(&ends("epoch_ended"), 1.0).await;
}

#[tokio::test]
async fn of_two_primaries_on_one_timeline_neither_gets_clients() {
    let pair = pair().await;
    let proxy = asking_often(&pair);
    let (mut session, _) = Client::enter(proxy.addresses[0]).await;
    pair[1].0.leads(1);
    session.is_cut().await;
    let why = "pg1, pg2 all say that they are the primary, on the same timeline 1";
    proxy.until_topology("a reason that names both", |t| t["clusters"][0]["no_primary"] == why).await;
    let mut held = Client::connect(proxy.addresses[0]).await;
    held.say_hello().await;
    proxy.until_metric("pgvane_held{listener=\"primary\"}", 1.0).await;
    pair[1].0.follows(1);
    assert_eq!(held.welcome().await, Welcome::In("pg1".to_owned()), "one of them has given in");
}

#[tokio::test]
async fn a_primary_whose_api_falls_silent_is_given_up_and_may_come_back() {
    let pair = pair().await;
    let proxy = asking_often(&pair);
    let (mut session, _) = Client::enter(proxy.addresses[0]).await;
    pair[0].0.keeps_silent();
    assert!(session.is_cut().await.contains("nobody can prove any more that pg1 is the primary"));
    proxy.until_metric(&ends("store_lost"), 1.0).await;
    let (status, why) = proxy.get("/readyz").await;
    let expected = "cluster main: nobody proves any more that the last leader pg1 leads\n";
    assert_eq!((status, why.as_str()), (503, expected));
    assert_eq!(Client::enter(proxy.addresses[1]).await.1, "pg2", "reads go on");
    pair[0].0.leads(1);
    assert_eq!(Client::enter(proxy.addresses[0]).await.1, "pg1");
}

#[tokio::test]
async fn one_question_serves_all_listeners() {
    let pair = pair().await;
    let members = [pair[0].0.address, pair[1].0.address];
    let proxy = asking("patroni_rest", &members, "interval = \"1h\"\ntimeout = \"10s\"");
    for _ in 0..3 {
        assert_eq!(Client::enter(proxy.addresses[0]).await.1, "pg1");
        assert_eq!(Client::enter(proxy.addresses[1]).await.1, "pg2");
    }
    assert_eq!((pair[0].0.asked(), pair[1].0.asked()), (1, 1));
}

/// A session of PostgreSQL's own protocol through a proxy.
struct Session {
    client: tokio_postgres::Client,
    ended: JoinHandle<Option<tokio_postgres::Error>>,
}

impl Session {
    async fn open(address: SocketAddr) -> Result<Session, tokio_postgres::Error> {
        let (client, connection) = tokio_postgres::Config::new()
            .host(address.ip().to_string())
            .port(address.port())
            .user(CLIENT_ROLE)
            .dbname("postgres")
            .connect(NoTls)
            .await?;
        Ok(Session { client, ended: tokio::spawn(async { connection.await.err() }) })
    }

    /// The port of the server behind it.
    async fn server(&self) -> Result<u16, tokio_postgres::Error> {
        let row = self.client.query_one("SELECT inet_server_port()", &[]).await?;
        Ok(u16::try_from(row.get::<_, i32>(0)).expect("a port"))
    }

    async fn write(&self) -> Result<u64, tokio_postgres::Error> {
        let statement = format!("INSERT INTO {CLIENT_ROLE}.written VALUES (inet_server_port())");
        self.client.execute(&statement, &[]).await
    }

    /// Waits until it is over; what the other side said last.
    async fn end(self) -> Option<tokio_postgres::Error> {
        tokio::time::timeout(HEALTHY_WITHIN, self.ended).await.expect("it ends").expect("no panic")
    }
}

/// Real servers with their agents, and a role that may ask them; no proxy, for the tests bring their own.
async fn playground(nodes: usize) -> Playground {
    let servers = install::servers().expect("PostgreSQL and etcd");
    let programs = programs::built().expect("the programs are built");
    let say = |line: &str| eprintln!("  {line}");
    let options = Options { nodes, proxies: 0, ttl: 20, ..Options::default() };
    let playground = Playground::start(&options, &programs, &servers, &say).await.expect("a cluster");
    sql(
        &playground,
        "pg1",
        &format!(
            "CREATE ROLE watcher LOGIN PASSWORD 'seen'; GRANT pg_monitor TO watcher;
             CREATE TABLE {CLIENT_ROLE}.written (port int); ALTER TABLE {CLIENT_ROLE}.written OWNER TO {CLIENT_ROLE}"
        ),
    )
    .await;
    playground
}

async fn sql(playground: &Playground, node: &str, statement: &str) {
    let (client, connection) = playground.node(node).superuser().connect(NoTls).await.expect("connects");
    let driver = tokio::spawn(connection);
    client.batch_execute(statement).await.unwrap_or_else(|error| panic!("{statement}: {error}"));
    driver.abort();
}

/// A proxy that asks the servers once per `interval`, with this login.
fn probing_every(interval: &str, playground: &Playground, login: &str) -> Proxy {
    let servers: Vec<_> = playground.nodes.iter().map(Node::postgres).collect();
    asking("probe", &servers, &format!("{login}\ninterval = \"{interval}\""))
}

fn probing(playground: &Playground, login: &str) -> Proxy {
    probing_every("100ms", playground, login)
}

const WATCHER: &str = "user = \"watcher\"\npassword = \"seen\"";

/// A member in `/topology`.
fn member<'a>(topology: &'a Value, name: &str) -> Option<&'a Value> {
    topology["clusters"][0]["members"].as_array()?.iter().find(|member| member["name"] == name)
}

/// Waits until writes go to `node` and reads to `replicas` others.
async fn until_routed(proxy: &Proxy, playground: &Playground, node: &str, replicas: usize) {
    let port = playground.node(node).postgres().port();
    let routed = |t: &Value| {
        let cluster = &t["clusters"][0];
        let reads = cluster["members"].as_array().into_iter().flatten().filter(|m| m["takes_reads"] == true);
        cluster["primary"]["port"] == port && reads.count() == replicas
    };
    let started = Instant::now();
    loop {
        let topology = proxy.topology().await;
        if routed(&topology) {
            return;
        }
        assert!(started.elapsed() < HEALTHY_WITHIN, "{topology:#}\n{}", playground.log_tails(40));
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
}

/// Opens a session and does something in it; answers the port of the server that it was done on. Tried again: until
/// the members are asked the next time, a session may meet the old primary as a standby, and what was just written may
/// not have come to a standby yet.
async fn until_served(address: SocketAddr, writes: bool) -> u16 {
    let started = Instant::now();
    loop {
        let served = async {
            let session = Session::open(address).await?;
            if writes {
                session.write().await?;
            }
            session.server().await
        };
        match served.await {
            Ok(port) => return port,
            Err(error) => assert!(started.elapsed() < HEALTHY_WITHIN, "no session gets through: {error:?}"),
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn writes_follow_a_switchover_whoever_tells_of_it() {
    let mut playground = playground(2).await;
    let apis: Vec<_> = playground.nodes.iter().map(Node::rest).collect();
    let proxies = [asking("patroni_rest", &apis, "interval = \"100ms\""), probing(&playground, WATCHER)];
    let ports = ["pg1", "pg2"].map(|name| playground.node(name).postgres().port());
    let mut sessions = Vec::new();
    for proxy in &proxies {
        until_routed(proxy, &playground, "pg1", 1).await;
        let session = Session::open(proxy.addresses[0]).await.expect("let in");
        session.write().await.expect("writes");
        assert_eq!(session.server().await.expect("answers"), ports[0]);
        assert_eq!(until_served(proxy.addresses[1], false).await, ports[1]);
        sessions.push(session);
    }
    assert!(member(&proxies[0].topology().await, "pg1").is_some(), "Patroni's names");
    let address = playground.node("pg1").postgres().to_string();
    assert!(member(&proxies[1].topology().await, &address).is_some(), "servers have no other name");

    let programs = programs::built().expect("the programs are built");
    let mut switchover = tokio::process::Command::new(programs.ctl);
    switchover.arg("-c").arg(playground.node("pg1").config()).args(["switchover", "--force"]);
    let output = switchover.stdin(Stdio::null()).output().await.expect("runs");
    assert!(output.status.success(), "{output:?}\n{}", playground.log_tails(40));

    for session in sessions {
        session.end().await;
    }
    for proxy in &proxies {
        assert_eq!(until_served(proxy.addresses[0], true).await, ports[1]);
        until_routed(proxy, &playground, "pg2", 1).await;
        assert_eq!(until_served(proxy.addresses[1], false).await, ports[0]);
    }
    playground.until_healthy(HEALTHY_WITHIN).await.expect("healthy");
}

/// Standbys that somebody promotes by hand, while the old primary goes on.
#[tokio::test(flavor = "multi_thread")]
async fn of_real_primaries_the_highest_timeline_leads_and_two_on_it_lead_neither() {
    let mut playground = playground(3).await;
    let proxy = probing(&playground, WATCHER);
    until_routed(&proxy, &playground, "pg1", 2).await;
    // A role without any right tells as much of who is what.
    let least = probing(&playground, &format!("user = \"{CLIENT_ROLE}\""));
    until_routed(&least, &playground, "pg1", 2).await;
    let session = Session::open(proxy.addresses[0]).await.expect("let in");
    session.write().await.expect("writes");
    for name in ["pg2", "pg3"] {
        playground.node_mut(name).kill_agent(Duration::from_secs(10)).await;
    }

    sql(&playground, "pg2", "SELECT pg_promote()").await;
    let told = session.end().await.expect("a reason");
    assert_eq!(told.code(), Some(&SqlState::ADMIN_SHUTDOWN), "{told:?}");
    let message = told.as_db_error().map(|error| error.message().to_owned()).unwrap_or_default();
    assert!(message.contains("is not the primary any more"), "{message}");
    assert_eq!(until_served(proxy.addresses[0], true).await, playground.node("pg2").postgres().port());

    let session = Session::open(proxy.addresses[0]).await.expect("let in");
    sql(&playground, "pg3", "SELECT pg_promote()").await;
    session.end().await.expect("a reason");
    let [two, three] = ["pg2", "pg3"].map(|name| playground.node(name).postgres().to_string());
    let mut both = [two, three];
    both.sort();
    let why = format!("{} all say that they are the primary, on the same timeline 2", both.join(", "));
    proxy.until_topology(&why, |t| t["clusters"][0]["no_primary"] == *why).await;
    // The old primary still runs and still takes writes from whoever asks it; nobody is sent there.
    assert!(TcpStream::connect(playground.node("pg1").postgres()).await.is_ok());
    proxy.until_metric(&ends("epoch_ended"), 2.0).await;
}

/// The next question is an hour away.
#[tokio::test(flavor = "multi_thread")]
async fn a_server_that_ends_is_asked_at_once() {
    let mut playground = playground(2).await;
    // Its one question is to find the role on the standby.
    until_routed(&probing(&playground, WATCHER), &playground, "pg1", 1).await;
    let proxy = probing_every("1h", &playground, &format!("{WATCHER}\ntimeout = \"20s\""));
    until_routed(&proxy, &playground, "pg1", 1).await;
    playground.node_mut("pg2").kill_agent(Duration::from_secs(10)).await;
    playground.node("pg2").kill_postmaster().expect("it runs");
    let two = playground.node("pg2").postgres().to_string();
    let gone = |t: &Value| {
        let member = member(t, &two).expect("it is listed");
        let silent = member["state"].as_str().is_some_and(|state| state.starts_with("silent"));
        member["takes_reads"] == false && silent
    };
    proxy.until_topology("the standby that was killed is gone", gone).await;
}
