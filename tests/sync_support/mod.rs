//! Three nodes under a writer, and somebody who compares the store with the primary all the while.

use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use hyper::Method;
use pgvane_agent::decide::sync::machine::{Held, is_covered};
use pgvane_agent::decide::sync::names::StandbyNames;
use pgvane_cluster::keyspace::{Key, Keyspace};
use pgvane_cluster::records::SyncRecord;
use pgvane_cluster::store::Store;
use pgvane_cluster::store::etcd::{EtcdOptions, EtcdStore};
use serde_json::{Value, json};
use tokio::task::JoinSet;
use tokio_postgres::NoTls;
use xtask::playground::{HEALTHY_WITHIN, Options, Playground, SCOPE, http};
use xtask::{drill, install, programs};

use crate::cluster_support::writer::{Habit, Writer};
use crate::cluster_support::{SOON, add_proxy, healthy, kill_node, rows, until};

/// Time between two comparisons.
const COMPARE_EVERY: Duration = Duration::from_millis(5);

/// A cluster in some synchronous mode, a writer, and what the comparison found.
pub(crate) struct Stage {
    pub(crate) playground: Playground,
    writer: Writer,
    store: Arc<EtcdStore>,
    space: Keyspace,
    settings: Value,
    wrong: Arc<Mutex<Vec<String>>>,
    _watch: JoinSet<()>,
}

impl Stage {
    pub(crate) async fn open(ttl: u32, dcs: &str) -> Stage {
        let servers = install::servers().expect("PostgreSQL and etcd");
        let programs = programs::built().expect("the programs are built");
        let options = Options { proxies: 0, ttl, dcs: dcs.to_owned(), ..Options::default() };
        let say = |line: &str| eprintln!("  {line}");
        let playground = Playground::start(&options, &programs, &servers, &say).await.expect("a cluster");
        Stage::on(playground).await
    }

    /// The same on a cluster that is there, without a proxy.
    pub(crate) async fn on(mut playground: Playground) -> Stage {
        drill::create_table(&playground).await.expect("a table");
        let etcd = playground.etcd.client();
        let proxy = add_proxy(&mut playground, etcd, "", "");
        healthy(&mut playground).await;
        let writer = Writer::start(playground.proxies[proxy].options().primary, Habit::Keeps);
        let store = Arc::new(EtcdStore::new(EtcdOptions::new(vec![format!("http://{etcd}")])));
        let space = Keyspace::new("service", SCOPE);
        let wrong = Arc::new(Mutex::new(Vec::new()));
        let mut watch = JoinSet::new();
        let servers = playground.nodes.iter().map(|n| (n.name.clone(), n.superuser())).collect();
        watch.spawn(compare(Arc::clone(&store), space.clone(), servers, Arc::clone(&wrong)));
        let settings = json!({});
        let mut stage = Stage { playground, writer, store, space, settings, wrong, _watch: watch };
        stage.settings = stage.config().await;
        stage.serves("the cluster is new").await;
        stage
    }

    async fn config(&self) -> Value {
        let agent = self.playground.node("pg1").rest();
        http::get(agent, "/config", SOON).await.expect("a configuration")
    }

    pub(crate) fn tails(&self) -> String {
        self.playground.log_tails(80)
    }

    /// The member that serves.
    pub(crate) async fn leader(&self) -> String {
        let mut leader = None;
        until(&self.playground, "somebody leads", async || {
            leader = self.playground.look().await.leader().ok();
            leader.is_some()
        })
        .await;
        leader.expect("waited for")
    }

    /// What `sync` says.
    pub(crate) async fn rule(&self) -> Option<SyncRecord> {
        let snapshot = self.store.snapshot(self.space.prefix()).await.expect("etcd answers");
        sync_of(&self.space, &snapshot).map(|(record, _)| record)
    }

    /// The standbys in `sync`.
    pub(crate) async fn standbys(&self) -> Vec<String> {
        let rule = self.rule().await.unwrap_or_default();
        rule.standbys().map(str::to_owned).collect()
    }

    /// `synchronous_standby_names` of the primary.
    pub(crate) async fn names(&self) -> String {
        let leader = self.leader().await;
        names_of(&self.playground.node(&leader).superuser()).await.map(|(names, _)| names).unwrap_or_default()
    }

    /// Mode and wanted number, as configured.
    pub(crate) fn mode(&self) -> (String, usize) {
        let text = self.settings["synchronous_mode"].as_str().unwrap_or("off").to_owned();
        let count = self.settings["synchronous_node_count"].as_u64().unwrap_or(1);
        (text, usize::try_from(count).expect("small"))
    }

    /// Waits until so many standbys are in `sync` and the primary waits for exactly them; their names.
    pub(crate) async fn in_sync(&self, count: usize) -> Vec<String> {
        let what = format!("{count} standbys are in sync, by {:?}", self.mode());
        let mut standbys = Vec::new();
        until(&self.playground, &what, async || {
            let Some(rule) = self.rule().await else { return false };
            let (held, names) = (Held::of(&rule), StandbyNames::parse(&self.names().await));
            standbys = rule.standbys().map(str::to_owned).collect();
            let (mode, needed) = self.mode();
            let is_any = names.method == pgvane_agent::decide::sync::names::Method::Any;
            let quorum = if mode == "quorum" { count - needed.min(count) } else { 0 };
            held.voters.len() == count
                && held.quorum == quorum
                && held.voters == names.of
                && is_any == (mode == "quorum")
        })
        .await;
        standbys
    }

    /// Waits until writes are acknowledged that were sent from now on; says how long nothing was.
    pub(crate) async fn serves(&self, what: &str) {
        let since = Instant::now();
        until(&self.playground, &format!("rows are written ({what})"), async || {
            self.writer.journal().acknowledged_since(since)
        })
        .await;
        let journal = self.writer.journal();
        let recent = journal.writes.windows(2).filter(|pair| pair[1].sent + Duration::from_secs(20) > since);
        let gap = recent.map(|pair| (pair[1].sent - pair[0].sent, pair[1].sent)).max();
        if let Some((gap, _)) = gap {
            eprintln!("  {what}: longest pause of late {gap:?}");
        }
    }

    pub(crate) fn acknowledged_since(&self, since: Instant) -> bool {
        self.writer.journal().acknowledged_since(since)
    }

    /// SIGKILL to a node's agent and postmaster; and to its guard, so that only the lease ends its reign.
    pub(crate) async fn kill_node(&mut self, name: &str, guard: bool) {
        kill_node(&mut self.playground, name, guard).await;
    }

    pub(crate) async fn revive(&mut self) {
        self.playground.revive().expect("starts");
        if let Err(error) = self.playground.until_healthy(HEALTHY_WITHIN).await {
            panic!("{error}\n{}", self.tails());
        }
    }

    /// Changes the dynamic configuration.
    pub(crate) async fn configure(&mut self, change: Value) {
        let agent = self.playground.node(&self.leader().await).rest();
        let answer = http::request(Method::PATCH, agent, "/config", change.to_string(), SOON).await;
        let (status, body) = answer.expect("the agent answers");
        assert!(status.is_success(), "{change}: {status} {}", String::from_utf8_lossy(&body));
        self.settings = serde_json::from_slice(&body).expect("the new document");
    }

    /// Asks until it is done: who led before may not be back yet.
    pub(crate) async fn switchover(&self, leader: &str, candidate: &str) {
        let agent = self.playground.node(leader).rest();
        let body = json!({"leader": leader, "candidate": candidate}).to_string();
        let began = std::time::Instant::now();
        loop {
            let answer = http::request(Method::POST, agent, "/switchover", body.clone(), SOON).await;
            if answer.as_ref().is_ok_and(|(status, _)| status.is_success()) {
                return;
            }
            assert!(began.elapsed() < SOON, "the switchover: {answer:?}\n{}", self.tails());
            tokio::time::sleep(std::time::Duration::from_millis(200)).await;
        }
    }

    /// Every row that was acknowledged before now is on the primary.
    pub(crate) async fn nothing_is_lost(&self) {
        let acknowledged: Vec<i64> = self.writer.journal().writes.iter().map(|w| w.id).collect();
        let leader = self.leader().await;
        let there: std::collections::HashSet<i64> =
            rows(self.playground.node(&leader).postgres()).await.into_iter().collect();
        let lost: Vec<_> = acknowledged.iter().filter(|id| !there.contains(id)).collect();
        assert!(lost.is_empty(), "{leader} lacks {lost:?}\n{}", self.tails());
    }

    /// What the comparison found all the while, and the last count of rows.
    pub(crate) async fn close(self) {
        self.nothing_is_lost().await;
        let wrong = self.wrong.lock().unwrap_or_else(PoisonError::into_inner).clone();
        assert!(wrong.is_empty(), "{wrong:#?}\n{}", self.tails());
        eprintln!("  {} rows acknowledged, none lost", self.writer.journal().writes.len());
    }
}

fn sync_of(space: &Keyspace, snapshot: &pgvane_cluster::store::Snapshot) -> Option<(SyncRecord, i64)> {
    let key = space.path(&Key::Sync);
    let found = snapshot.keys.iter().find(|kv| kv.key == key.as_bytes())?;
    Some((SyncRecord::parse(&found.value).expect("a rule"), found.mod_revision.0))
}

/// The value in force on a server, and whether it accepts writes.
async fn names_of(server: &tokio_postgres::Config) -> Option<(String, bool)> {
    let (client, connection) = server.connect(NoTls).await.ok()?;
    let driver = tokio::spawn(connection);
    let row =
        client.query_one("SELECT current_setting('synchronous_standby_names'), pg_is_in_recovery()", &[]);
    let row = row.await.ok();
    driver.abort();
    row.map(|row| (row.get(0), !row.get::<_, bool>(1)))
}

/// Whenever `sync` was the same before and after a look at the leader's server, its value must have covered it.
async fn compare(
    store: Arc<EtcdStore>,
    space: Keyspace,
    servers: Vec<(String, tokio_postgres::Config)>,
    wrong: Arc<Mutex<Vec<String>>>,
) {
    loop {
        if let Some(what) = compare_once(&store, &space, &servers).await {
            wrong.lock().unwrap_or_else(PoisonError::into_inner).push(what);
        }
        tokio::time::sleep(COMPARE_EVERY).await;
    }
}

async fn compare_once(
    store: &EtcdStore,
    space: &Keyspace,
    servers: &[(String, tokio_postgres::Config)],
) -> Option<String> {
    let look = async || {
        let snapshot = store.snapshot(space.prefix()).await.ok()?;
        let leader = snapshot.keys.iter().find(|kv| kv.key == space.path(&Key::Leader).as_bytes())?;
        let leader = (String::from_utf8_lossy(&leader.value).into_owned(), leader.create_revision);
        Some((leader, sync_of(space, &snapshot)?))
    };
    let before = look().await?;
    let ((leader, _), (rule, _)) = &before;
    let (_, server) = servers.iter().find(|(name, _)| name == leader)?;
    let (names, accepts_writes) = names_of(server).await?;
    if look().await? != before || !accepts_writes {
        return None;
    }
    let is_ours = rule.leader.as_ref().is_some_and(|name| name.as_str() == leader);
    let is_right = is_ours && is_covered(&StandbyNames::parse(&names), &Held::of(rule));
    (!is_right).then(|| format!("{leader} waits for '{names}' while sync says {rule:?}"))
}
