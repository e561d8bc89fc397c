//! A cluster of both kinds of agent, its operators' tools, and what they must show.

use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::{Duration, Instant};

use hyper::Method;
use pgvane_agent::config::{Ctl, Login, Secret};
use pgvane_agent::peers::Caller;
use pgvane_cluster::fold;
use pgvane_cluster::ids::NodeName;
use pgvane_cluster::keyspace::{Key, Keyspace};
use pgvane_cluster::store::etcd::{EtcdOptions, EtcdStore};
use pgvane_cluster::store::{Store, Txn, Write};
use pgvane_cluster::view::ClusterView;
use rustix::process::Signal;
use serde_json::{Value, json};
use tokio_postgres::NoTls;
use xtask::drill::clients::Clients;
use xtask::drill::ledger::Ledger;
use xtask::playground::node::{AgentSettings, Daemon};
use xtask::playground::{Options, Playground, SCOPE, http};
use xtask::{drill, install, programs};

use crate::cluster_support::{rows, until};

/// The shortest lease that Patroni has.
pub(crate) const TTL: u32 = 20;

/// Bound on a wait of several loops, a rewind and a start; only something broken reaches it.
pub(crate) const LATER: Duration = Duration::from_mins(2);

/// User and password of all APIs.
const LOGIN: (&str, &str) = ("operator", "opensesame");

/// What a Patroni daemon says of what it did not expect, and our agent of what it cannot read.
const CONFUSED: [&str; 7] = [
    "Unexpected exception",
    "report it as a BUG",
    "TypeError",
    "KeyError",
    "AttributeError",
    "cannot be read and is left out",
    "panicked",
];

/// What is kept of a run: a cluster and its tools.
pub(crate) struct Mixed {
    pub(crate) playground: Playground,
    patronictl: PathBuf,
    pgvanectl: PathBuf,
    settings: PathBuf,
    store: EtcdStore,
    space: Keyspace,
}

impl Mixed {
    /// One node for each of `daemons`, the first of which bootstraps, and a proxy.
    pub(crate) async fn start(daemons: &[Daemon]) -> Mixed {
        Mixed::start_from(daemons, AgentSettings::Own).await
    }

    /// The same with these settings for our agents.
    pub(crate) async fn start_from(daemons: &[Daemon], settings: AgentSettings) -> Mixed {
        let servers = install::servers().expect("PostgreSQL and etcd");
        let programs = programs::built().expect("the programs are built");
        let found = programs.clone();
        let patroni = tokio::task::spawn_blocking(move || install::patroni::patroni(&found));
        let patroni = patroni.await.expect("no panic").expect("Patroni");
        let options = Options {
            nodes: daemons.len(),
            proxies: 1,
            ttl: TTL,
            patroni: Some(patroni.clone()),
            daemons: daemons.to_vec(),
            login: Some((LOGIN.0.to_owned(), LOGIN.1.to_owned())),
            settings,
            ..Options::default()
        };
        let say = |line: &str| eprintln!("  {line}");
        let playground = Playground::start(&options, &programs, &servers, &say).await.expect("a cluster");
        let etcd = playground.etcd.client();
        let of_tool = format!(
            "scope: {SCOPE}\netcd3:\n  host: {etcd}\n\
             restapi:\n  authentication:\n    username: {}\n    password: {}\n",
            LOGIN.0, LOGIN.1
        );
        let settings = playground.write("patronictl.yml", &of_tool).expect("writes");
        Mixed {
            patronictl: patroni.ctl,
            pgvanectl: programs.ctl,
            settings,
            store: EtcdStore::new(EtcdOptions::new(vec![format!("http://{etcd}")])),
            space: Keyspace::new("service", SCOPE),
            playground,
        }
    }

    /// Runs `patronictl` to its end, which must be good.
    pub(crate) async fn patronictl(&self, args: &[&str]) -> String {
        self.tool(&self.patronictl, &self.settings, args).await
    }

    /// Runs `pgvanectl` to its end, which must be good.
    pub(crate) async fn pgvanectl(&self, args: &[&str]) -> String {
        self.tool(&self.pgvanectl, &self.playground.node("pg1").agent_config(), args).await
    }

    /// Runs `pgvanectl import`, which needs no cluster, to its end, which must be good.
    pub(crate) async fn import(&self, args: &[&str]) -> String {
        self.ended(Command::new(&self.pgvanectl), &[&["import"], args].concat()).await
    }

    async fn tool(&self, program: &Path, settings: &Path, args: &[&str]) -> String {
        let mut command = Command::new(program);
        command.arg("-c").arg(settings);
        self.ended(command, args).await
    }

    async fn ended(&self, mut command: Command, args: &[&str]) -> String {
        command.args(args);
        let program = command.get_program().to_owned();
        let output = tokio::task::spawn_blocking(move || command.output()).await.expect("no panic");
        let output = output.expect("runs");
        let [said, complained] = [&output.stdout, &output.stderr].map(|text| String::from_utf8_lossy(text));
        let logs = if output.status.success() { String::new() } else { self.playground.log_tails(60) };
        assert!(
            output.status.success(),
            "{} {args:?} ended with {}:\n{said}{complained}\n{logs}",
            program.to_string_lossy(),
            output.status
        );
        format!("{said}{complained}")
    }

    /// Waits for `what`.
    pub(crate) async fn until(&self, what: &str, is_so: impl AsyncFnMut() -> bool) {
        until(&self.playground, what, is_so).await;
    }

    /// Waits until somebody leads, the others stream and the proxy routes to them.
    pub(crate) async fn healthy(&mut self) {
        if let Err(error) = self.playground.until_healthy(LATER).await {
            panic!("{error}\n{}", self.playground.log_tails(80));
        }
    }

    /// The cluster as the store has it now.
    pub(crate) async fn view(&self) -> ClusterView {
        let snapshot = self.store.snapshot(self.space.prefix()).await.expect("etcd answers");
        fold::from_snapshot(&self.space, &snapshot, None)
    }

    /// Whether the store leaves a question unanswered.
    pub(crate) async fn store_is_silent(&self) -> bool {
        let answer = self.store.snapshot(self.space.prefix());
        !matches!(tokio::time::timeout(Duration::from_millis(200), answer).await, Ok(Ok(_)))
    }

    /// Who holds the leader key.
    pub(crate) async fn leader(&self) -> String {
        self.view().await.leader.map(|key| key.name.to_string()).unwrap_or_default()
    }

    /// Deletes a key.
    pub(crate) async fn delete(&self, key: &Key) {
        let then = vec![Write::Delete(self.space.path(key))];
        self.store.txn(Txn { when: vec![], then }).await.expect("etcd answers");
    }

    /// What Patroni's own tool says of the members.
    pub(crate) async fn list(&self) -> Vec<Value> {
        let listed = self.patronictl(&["list", "--format", "json"]).await;
        serde_json::from_str(&listed).unwrap_or_else(|e| panic!("{e} in {listed}"))
    }

    /// Waits until `patronictl list` shows this leader and all others streaming on its timeline.
    pub(crate) async fn lists(&self, leader: &str) {
        let mut members = vec![];
        let (started, count) = (Instant::now(), self.playground.nodes.len());
        loop {
            let is_so = members.len() == count && members.iter().all(|m| is_right(m, leader, &members[0]));
            if is_so {
                return;
            }
            let logs = || self.playground.log_tails(60);
            assert!(started.elapsed() < LATER, "{leader} is to lead: {members:#?}\n{}", logs());
            members = self.list().await;
        }
    }

    /// The answer of PostgreSQL on `name`, as text.
    pub(crate) async fn sql(&self, name: &str, query: &str) -> String {
        let failed = |error: tokio_postgres::Error| -> String {
            format!("{name} {query}: {error:?}\n{}", self.playground.log_tails(80))
        };
        let connected = self.playground.node(name).superuser().connect(NoTls).await;
        let (client, connection) = connected.unwrap_or_else(|error| panic!("{}", failed(error)));
        let driver = tokio::spawn(connection);
        let answer = client.query_one(query, &[]).await;
        let row = answer.unwrap_or_else(|error| panic!("{}", failed(error)));
        driver.abort();
        row.get(0)
    }

    /// GET of a daemon's API, of whatever status.
    pub(crate) async fn get(&self, name: &str, path: &str) -> Value {
        let rest = self.playground.node(name).rest();
        http::get(rest, path, Duration::from_secs(2)).await.unwrap_or_else(|error| {
            panic!("{name} {path}: {error}\n{}", self.playground.log_tails(60));
        })
    }

    /// The status of GET.
    pub(crate) async fn status(&self, name: &str, path: &str) -> u16 {
        let rest = self.playground.node(name).rest();
        let limit = Duration::from_secs(2);
        let answer = http::request(Method::GET, rest, path, String::new(), limit).await;
        answer.map_or(0, |(status, _)| status.as_u16())
    }

    /// How `name` answers when `leader` asks it to vouch, as Patroni asks.
    pub(crate) async fn vouches(&self, name: &str, leader: &str) -> (u16, String) {
        let of = |name: &str| self.playground.node(name);
        let body = json!({
            "name": leader,
            "conn_url": format!("postgres://{}/postgres", of(leader).postgres()),
            "api_url": format!("http://{}/patroni", of(leader).rest()),
            "slots": {leader: 50_331_648},
        });
        let url = format!("http://{}/failsafe", of(name).rest());
        let login = Login { username: LOGIN.0.to_owned(), password: Secret::new(LOGIN.1) };
        let agents = Caller::new(&Ctl { login: Some(login), ..Ctl::default() });
        let asked = agents.request(Method::POST, &url, Some(&body));
        let answer = tokio::time::timeout(Duration::from_secs(2), asked).await;
        let answer = answer.unwrap_or_else(|_| panic!("no answer\n{}", self.playground.log_tails(60)));
        answer.map(|answer| (answer.status.as_u16(), answer.text())).expect("an answer")
    }

    /// An empty table, and clients that write to it through the proxy.
    pub(crate) async fn clients(&self) -> Clients {
        drill::create_table(&self.playground).await.expect("a table");
        let clients = Clients::start(&self.playground);
        self.written(&clients, 100).await;
        clients
    }

    /// Waits until so many more writes are acknowledged.
    pub(crate) async fn written(&self, clients: &Clients, more: usize) {
        let enough = clients.acknowledged() + more;
        self.until("clients can write", async || clients.acknowledged() >= enough).await;
    }

    /// Ends the clients. Never were there two primaries; answers the ledger and how many acknowledged rows the
    /// leader lacks.
    pub(crate) async fn finish(&mut self, clients: Clients) -> (Ledger, u64) {
        self.written(&clients, 100).await;
        self.healthy().await;
        let ledger = clients.stop().await;
        assert_eq!(ledger.dual_primary(), Duration::ZERO, "{:?}", ledger.errors);
        self.nobody_is_confused();
        let leader = self.leader().await;
        let lost = ledger.lost(&rows(self.playground.node(&leader).postgres()).await.into_iter().collect());
        (ledger, lost)
    }

    /// Nobody met what it cannot read or did not expect.
    fn nobody_is_confused(&self) {
        for node in &self.playground.nodes {
            for log in [node.name.clone(), format!("{}-patroni", node.name)] {
                let text = self.playground.log(&log);
                let odd = text.lines().find(|line| CONFUSED.iter().any(|word| line.contains(word)));
                assert!(odd.is_none(), "{log}: {odd:?}\n{}", self.playground.log_tails(60));
            }
        }
    }

    /// A node's daemon is told to end, and does.
    pub(crate) async fn stop_daemon(&mut self, name: &str) {
        let ended = self.playground.node_mut(name).stop_agent(LATER).await;
        assert!(ended, "the daemon of {name} does not end\n{}", self.playground.log_tails(60));
    }

    /// Kills a node's daemon and PostgreSQL at once.
    pub(crate) async fn crash(&mut self, name: &str) {
        self.playground.node_mut(name).signal_agent(Signal::KILL);
        self.playground.node(name).kill_postmaster().expect("PostgreSQL runs");
        self.playground.node_mut(name).kill_agent(LATER).await;
    }

    /// The member slots that a node keeps, one per line, with the position that each keeps WAL from.
    pub(crate) async fn slots(&self, name: &str) -> Vec<(String, String)> {
        let query =
            "SELECT coalesce(string_agg(slot_name || ' ' || coalesce(restart_lsn::text, '-'), ','), '')
                     FROM pg_replication_slots WHERE slot_type = 'physical' AND NOT temporary";
        let text = self.sql(name, query).await;
        text.split(',').filter_map(|slot| slot.split_once(' ')).map(own).collect()
    }

    /// Waits until every node keeps a slot for every other one, from `lsn` or later, and the leader's `status`
    /// tells of all of them.
    pub(crate) async fn keeps_slots_from(&self, lsn: &str) {
        let names: Vec<String> = self.playground.nodes.iter().map(|n| n.name.clone()).collect();
        for node in &names {
            let what = format!("{node} keeps the slots of all others, from {lsn}");
            self.until(&what, async || {
                let slots = self.slots(node).await;
                let kept = |other: &String| {
                    slots.iter().any(|(name, at)| name == other && position(at) >= position(lsn))
                };
                names.iter().all(|other| other == node || kept(other))
            })
            .await;
        }
        self.until("status tells of all slots", async || {
            let slots = self.view().await.status.and_then(|status| status.slots).unwrap_or_default();
            names.iter().all(|name| slots.contains_key(name))
        })
        .await;
    }

    /// Where the leader's WAL is.
    pub(crate) async fn position(&self) -> String {
        self.sql(&self.leader().await, "SELECT pg_current_wal_lsn()::text").await
    }

    /// What a member says of itself in the store.
    pub(crate) async fn record(&self, name: &str) -> pgvane_cluster::records::MemberRecord {
        let mut view = self.view().await;
        view.members.remove(&NodeName::from(name)).expect("a member").record
    }
}

fn own((name, at): (&str, &str)) -> (String, String) {
    (name.to_owned(), at.to_owned())
}

fn position(lsn: &str) -> pgvane_cluster::ids::Lsn {
    lsn.parse().unwrap_or_default()
}

/// Whether the member is shown as it must be while `leader` leads.
fn is_right(member: &Value, leader: &str, first: &Value) -> bool {
    let leads = member["Member"] == leader;
    let (role, state) = if leads { ("Leader", "running") } else { ("Replica", "streaming") };
    member["Role"] == role && member["State"] == state && member["TL"] == first["TL"]
}
