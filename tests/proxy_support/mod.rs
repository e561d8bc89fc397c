//! A proxy under test between scripted servers and the store in memory; real sockets on free ports.
//!
//! Every wait is bounded by [`SOON`], which only a broken proxy reaches.

#![allow(dead_code, reason = "each test file uses a part of it")]

pub(crate) mod browser;
pub(crate) mod client;
pub(crate) mod server;
pub(crate) mod shown;

use std::collections::BTreeMap;
use std::future::Future;
use std::net::SocketAddr;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use pgvane::config::{self, Config};
use pgvane::control::{Control, Request};
use pgvane::inherit::Inherited;
use pgvane::shutdown::Shutdown;
use pgvane_cluster::ids::{Epoch, LeaseId, NodeName};
use pgvane_cluster::keyspace::{Key, Keyspace};
use pgvane_cluster::records::{MemberRecord, MemberRole, MemberState};
use pgvane_cluster::settings_file::SettingsError;
use pgvane_cluster::store::model::ModelStore;
use pgvane_cluster::store::{Store, Txn, Write};
use serde_json::Value;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::sync::{mpsc, oneshot};
use tokio::task::JoinHandle;
use tokio::time::timeout;

use self::server::{Manner, Server};

/// Bound on every wait.
pub(crate) const SOON: Duration = Duration::from_secs(20);

/// Waits for `what`, or fails with its name.
pub(crate) async fn soon<T>(what: &str, wait: impl Future<Output = T>) -> T {
    timeout(SOON, wait).await.unwrap_or_else(|_| panic!("waited {SOON:?} in vain: {what}"))
}

/// The cluster as its agents would write it.
pub(crate) struct Cluster {
    /// The writer's client; the proxy has another, so that its faults are its own.
    writer: ModelStore,
    pub(crate) proxy_side: ModelStore,
    space: Keyspace,
}

impl Cluster {
    pub(crate) async fn new() -> Cluster {
        let writer = ModelStore::new();
        let cluster =
            Cluster { proxy_side: writer.another_client(), writer, space: Keyspace::new("service", "main") };
        cluster
            .put(Key::Config, r#"{"ttl":2,"loop_wait":1,"retry_timeout":3}"#.as_bytes().to_vec(), None)
            .await;
        cluster
    }

    async fn put(&self, key: Key, value: Vec<u8>, lease: Option<LeaseId>) -> i64 {
        let txn = Txn::put(self.space.path(&key), value, lease);
        self.writer.txn(txn).await.expect("the model answers").revision.0
    }

    async fn delete(&self, key: Key) {
        let txn = Txn { when: vec![], then: vec![Write::Delete(self.space.path(&key))] };
        self.writer.txn(txn).await.expect("the model answers");
    }

    pub(crate) async fn member(&self, name: &str, record: &MemberRecord) {
        self.put(Key::Member(NodeName::from(name)), record.to_json(), None).await;
    }

    pub(crate) async fn raw_member(&self, name: &str, value: &str) {
        self.put(Key::Member(NodeName::from(name)), value.as_bytes().to_vec(), None).await;
    }

    pub(crate) async fn forget_member(&self, name: &str) {
        self.delete(Key::Member(NodeName::from(name))).await;
    }

    pub(crate) async fn optime(&self, lsn: u64) {
        self.put(Key::Status, format!(r#"{{"optime":{lsn}}}"#).into_bytes(), None).await;
    }

    /// The leader key, without a lease: it stays until it is deleted.
    pub(crate) async fn lead(&self, name: &str) -> Epoch {
        self.delete(Key::Leader).await;
        Epoch(self.put(Key::Leader, name.as_bytes().to_vec(), None).await)
    }

    /// The leader key under a lease of `ttl` that nobody renews.
    pub(crate) async fn lead_for(&self, name: &str, ttl: Duration) {
        let lease = self.writer.grant(ttl).await.expect("the model answers").id;
        self.put(Key::Leader, name.as_bytes().to_vec(), Some(lease)).await;
    }

    pub(crate) async fn nobody_leads(&self) {
        self.delete(Key::Leader).await;
    }
}

/// A record of a member whose PostgreSQL is at `address`.
pub(crate) fn record(address: SocketAddr, role: MemberRole, state: MemberState) -> MemberRecord {
    let conn_url = Some(format!("postgres://{address}/postgres"));
    MemberRecord { conn_url, ..MemberRecord::new(state, role) }
}

/// A running primary.
pub(crate) fn primary(address: SocketAddr) -> MemberRecord {
    record(address, MemberRole::Primary, MemberState::Running)
}

/// A running replica that streams.
pub(crate) fn replica(address: SocketAddr) -> MemberRecord {
    let replication_state = Some("streaming".to_owned());
    MemberRecord { replication_state, ..record(address, MemberRole::Replica, MemberState::Running) }
}

/// A cluster of one primary that serves, and its server.
pub(crate) async fn served() -> (Cluster, Server) {
    let cluster = Cluster::new().await;
    let server = Server::start("pg1", Manner::Serve).await;
    cluster.member("pg1", &primary(server.address)).await;
    cluster.lead("pg1").await;
    (cluster, server)
}

/// The series that counts sessions of the primary port by why they ended.
pub(crate) fn ends(reason: &str) -> String {
    format!("pgvane_session_ends_total{{listener=\"primary\",reason=\"{reason}\"}}")
}

/// A listener section with one free port and `more` keys.
pub(crate) fn listener(role: &str, more: &str) -> String {
    format!("[[listener]]\nrole = \"{role}\"\nlisten = [\"127.0.0.1:0\"]\n{more}\n")
}

/// An admin section with a token.
pub(crate) const TOKEN: &str = "[admin]\nlisten = [\"127.0.0.1:0\"]\ntoken = \"a token for this test\"\n";

fn settings(cluster_keys: &str, sections: &[String]) -> Result<Config, SettingsError> {
    let has_admin = sections.iter().any(|section| section.starts_with("[admin]"));
    let admin = if has_admin { "" } else { "[admin]\nlisten = [\"127.0.0.1:0\"]\n" };
    let text = format!(
        "{admin}{}\n\
         [cluster.main]\nreread_interval = \"200ms\"\n{cluster_keys}\n\
         [cluster.main.etcd]\nendpoints = [\"http://127.0.0.1:1\"]\n",
        sections.join("\n")
    );
    config::parse("proxy.toml", &text)
}

/// A proxy that runs in this process.
pub(crate) struct Proxy {
    pub(crate) addresses: Vec<SocketAddr>,
    pub(crate) admin: SocketAddr,
    pub(crate) shutdown: Shutdown,
    pub(crate) ended: JoinHandle<std::io::Result<()>>,
    /// What it reads when it is asked to reload.
    file: Arc<Mutex<Result<Config, String>>>,
    control: mpsc::Sender<Request>,
}

impl Drop for Proxy {
    fn drop(&mut self) {
        self.shutdown.drain.cancel();
        self.shutdown.now.cancel();
    }
}

impl Proxy {
    /// Starts one with these listener sections; `cluster_keys` go into the cluster's section.
    pub(crate) fn start(cluster: &Cluster, cluster_keys: &str, sections: &[String]) -> Proxy {
        let config = settings(cluster_keys, sections).unwrap_or_else(|error| panic!("{error}"));
        let stores = BTreeMap::from([("main".to_owned(), Arc::new(cluster.proxy_side.clone()))]);
        Proxy::run(config, stores)
    }

    /// Starts one whose clusters are told of by their members: `text` is all that the settings say.
    pub(crate) fn without_store(text: &str) -> Proxy {
        let config = config::parse("proxy.toml", text).unwrap_or_else(|error| panic!("{error}"));
        Proxy::run(config, BTreeMap::new())
    }

    fn run(config: Config, stores: BTreeMap<String, Arc<ModelStore>>) -> Proxy {
        let count = config.listeners.len();
        let bound = pgvane::bind(&config, Inherited::default()).expect("free ports");
        let addresses = (0..count).map(|index| bound.addresses(index)[0]).collect();
        let admin = bound.admin_addresses()[0];
        let shutdown = Shutdown::default();
        let file = Arc::new(Mutex::new(Err("nothing was written".to_owned())));
        let read = Arc::clone(&file);
        let control = Control::new(move || read.lock().expect("nobody panics with it").clone());
        let operator = control.ask.clone();
        let ended = tokio::spawn(pgvane::run(config, bound, stores, shutdown.clone(), control));
        Proxy { addresses, admin, shutdown, ended, file, control: operator }
    }

    /// Reads settings again, as SIGHUP does; answers whether they are applied.
    pub(crate) async fn reload(&self, cluster_keys: &str, sections: &[String]) -> Result<String, String> {
        let read = settings(cluster_keys, sections).map_err(|error| error.to_string());
        *self.file.lock().expect("nobody panics with it") = read;
        let (answer, heard) = oneshot::channel();
        self.control.send(Request::Reload(Some(answer))).await.expect("the proxy runs");
        soon("a reload", heard).await.expect("an answer")
    }

    /// One with a primary port only.
    pub(crate) fn for_writes(cluster: &Cluster, listener_keys: &str) -> Proxy {
        Proxy::start(cluster, "", &[listener("primary", listener_keys)])
    }

    /// One with a replica port only.
    pub(crate) fn for_reads(cluster: &Cluster, listener_keys: &str) -> Proxy {
        Proxy::start(cluster, "", &[listener("replica", listener_keys)])
    }

    /// Status and body of one admin page.
    pub(crate) async fn get(&self, path: &str) -> (u16, String) {
        self.ask("GET", path, "").await
    }

    /// The same as an operator, with the token of [`TOKEN`].
    pub(crate) async fn with_token(&self, method: &str, path: &str) -> (u16, String) {
        self.ask(method, path, "Authorization: Bearer a token for this test\r\n").await
    }

    /// The same with `headers`.
    pub(crate) async fn ask(&self, method: &str, path: &str, headers: &str) -> (u16, String) {
        let mut stream = TcpStream::connect(self.admin).await.expect("the admin port answers");
        let request = format!("{method} {path} HTTP/1.0\r\nHost: x\r\n{headers}\r\n");
        stream.write_all(request.as_bytes()).await.expect("write");
        let mut answer = String::new();
        soon("an admin page", stream.read_to_string(&mut answer)).await.expect("read");
        let (head, body) = answer.split_once("\r\n\r\n").expect("a whole answer");
        let status = head.split(' ').nth(1).and_then(|code| code.parse().ok()).expect("a status");
        (status, body.to_owned())
    }

    pub(crate) async fn topology(&self) -> Value {
        serde_json::from_str(&self.get("/topology").await.1).expect("JSON")
    }

    /// The value of one line of `/metrics`.
    pub(crate) async fn metric(&self, series: &str) -> f64 {
        let text = self.get("/metrics").await.1;
        let line = text.lines().find_map(|l| l.strip_prefix(series)?.strip_prefix(' '));
        line.unwrap_or_else(|| panic!("no {series} in\n{text}")).parse().expect("a number")
    }

    /// Waits until a line of `/metrics` has this value. Nothing outside tells of it, so it is asked again.
    pub(crate) async fn until_metric(&self, series: &str, value: f64) {
        soon(&format!("{series} {value}"), async {
            while (self.metric(series).await - value).abs() > f64::EPSILON {
                tokio::time::sleep(Duration::from_millis(2)).await;
            }
        })
        .await;
    }

    /// Waits until `/topology` satisfies `holds`.
    pub(crate) async fn until_topology(&self, what: &str, holds: impl Fn(&Value) -> bool) {
        soon(what, async {
            while !holds(&self.topology().await) {
                tokio::time::sleep(Duration::from_millis(2)).await;
            }
        })
        .await;
    }

    /// Waits until a primary serves.
    pub(crate) async fn until_serving(&self) {
        self.until_topology("a serving primary", |t| !t["clusters"][0]["primary"].is_null()).await;
    }
}
