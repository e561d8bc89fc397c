//! The operator's tool on a real cluster: every verb, in every form.

mod cluster_support;

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::process::{Output, Stdio};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use pgvane_cluster::changes::{Cause, Since};
use rustix::process::Signal;
use serde_json::{Value, json};
use tokio::io::{AsyncBufReadExt, BufReader};
use tokio::process::Command;
use tokio::task::JoinSet;
use tokio::time::timeout;
use xtask::playground::{CLIENT_ROLE, Playground, SCOPE};
use xtask::programs;

use self::cluster_support::writer::config;
use self::cluster_support::{SOON, cluster, healthy, kill_node, until};

/// The tool, told which cluster.
fn pgvanectl(playground: &Playground, args: &[&str]) -> Command {
    let mut command = Command::new(programs::built().expect("the programs are built").ctl);
    let etcd = playground.etcd.client().to_string();
    command.args(["--endpoints", &etcd, "--scope", SCOPE]).args(args).env_remove("PGVANECTL_CONFIG");
    command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped()).kill_on_drop(true);
    command
}

async fn ended(playground: &Playground, args: &[&str]) -> Output {
    let child = pgvanectl(playground, args).spawn().expect("starts");
    timeout(SOON, child.wait_with_output()).await.expect("ends").expect("can be waited for")
}

/// What it says; it must succeed.
async fn said(playground: &Playground, args: &[&str]) -> String {
    let output = ended(playground, args).await;
    let errors = String::from_utf8_lossy(&output.stderr);
    let failed = format!("pgvanectl {args:?} {}: {errors}\n{}", output.status, playground.log_tails(40));
    assert!(output.status.success(), "{failed}");
    String::from_utf8(output.stdout).expect("UTF-8")
}

/// What it complains of; it must fail with this exit code.
async fn refused(playground: &Playground, args: &[&str], code: i32) -> String {
    let output = ended(playground, args).await;
    assert_eq!(output.status.code(), Some(code), "{args:?}: {output:?}");
    String::from_utf8(output.stderr).expect("UTF-8")
}

async fn members(playground: &Playground) -> Vec<Value> {
    let listed = said(playground, &["list", "--format", "json"]).await;
    serde_json::from_str::<Value>(&listed).expect("JSON").as_array().expect("a list").clone()
}

/// What `doctor` says of a node, by what was looked at, and its exit code.
async fn examine(playground: &Playground, name: &str) -> (Option<i32>, BTreeMap<String, Row>) {
    let mut command = Command::new(programs::built().expect("the programs are built").ctl);
    command.arg("-c").arg(playground.node(name).config()).args(["doctor", "-f", "json"]);
    let output = timeout(SOON, command.env_remove("PGVANECTL_CONFIG").output()).await;
    let output = output.expect("ends").expect("starts");
    let said = String::from_utf8_lossy(&output.stdout).into_owned();
    let rows: Vec<Row> = serde_json::from_str(&said).unwrap_or_else(|e| panic!("{e}: {output:?}"));
    (output.status.code(), rows.into_iter().map(|row| (row["What"].clone(), row)).collect())
}

/// A line of its table.
type Row = BTreeMap<String, String>;

/// Examines the node of pg1: what is well, and a file with passwords that others may read.
async fn examined(playground: &Playground) {
    let file = playground.node("pg1").config();
    fs::set_permissions(&file, fs::Permissions::from_mode(0o600)).expect("its owner may");
    let (_, rows) = examine(playground, "pg1").await;
    // How fast etcd is here and now is not for a test to say.
    assert!(rows["etcd's latency"]["Found"].starts_with("slowest of 20: read "), "{rows:?}");
    let secrets = format!("permissions of {}", file.display());
    for what in [
        &secrets,
        "REST API of pg2",
        "REST API of pg3",
        "PostgreSQL of pg2",
        "our REST API, from pg2",
        "our REST API, from pg3",
        "our PostgreSQL, from pg3",
        "PostgreSQL's programs",
        "PostgreSQL's settings",
    ] {
        assert_eq!(rows[what]["Level"], "ok", "{what}: {rows:?}");
        assert!(!rows[what].contains_key("Do"), "{rows:?}");
    }
    fs::set_permissions(&file, fs::Permissions::from_mode(0o644)).expect("its owner may");
    let (code, rows) = examine(playground, "pg1").await;
    assert_eq!((rows[&secrets]["Level"].as_str(), rows[&secrets]["Do"].as_str()), ("critical", "chmod 600"));
    assert_eq!(code, Some(2));
    fs::set_permissions(&file, fs::Permissions::from_mode(0o600)).expect("its owner may");
}

/// A member that publishes an address at which nobody reaches it: only the others can tell, and do.
async fn out_of_reach(playground: &mut Playground) {
    let file = playground.node("pg3").config();
    let settings = fs::read_to_string(&file).expect("its settings");
    let rest = playground.node("pg3").rest().to_string();
    let unused = std::net::TcpListener::bind("127.0.0.1:0").expect("a free port");
    let wrong = unused.local_addr().expect("bound").to_string();
    drop(unused);
    let shown = format!("connect_address = \"{rest}\"");
    assert!(settings.contains(&shown), "{settings}");
    let restart = async |playground: &mut Playground, settings: &str| {
        fs::write(&file, settings).expect("writes");
        // As a new version is brought in: lease and server are the next agent's.
        let node = playground.node_mut("pg3");
        node.signal_agent(Signal::USR1);
        assert!(node.agent_ended_within(SOON).await, "{}", playground.log_tails(40));
        playground.restart_agent("pg3").expect("starts");
    };
    restart(playground, &settings.replace(&shown, &format!("connect_address = \"{wrong}\""))).await;
    let p = &*playground;
    until(p, "pg3 publishes the wrong address", async || {
        let (_, rows) = examine(p, "pg1").await;
        let found = format!("http://{wrong}/patroni: ");
        rows.get("REST API of pg3").is_some_and(|row| row["Found"].starts_with(&found))
    })
    .await;
    let (code, rows) = examine(p, "pg3").await;
    assert_eq!(code, Some(2), "{rows:?}");
    for from in ["pg1", "pg2"] {
        let row = &rows[&format!("our REST API, from {from}")];
        let found = format!("http://{wrong}/patroni: ");
        assert!(row["Level"] == "critical" && row["Found"].starts_with(&found), "{row:?}");
        assert!(row["Do"].contains("restapi.connect_address"), "{row:?}");
        assert_eq!(rows[&format!("our PostgreSQL, from {from}")]["Level"], "ok", "{rows:?}");
        assert_eq!(rows[&format!("REST API of {from}")]["Level"], "ok", "{rows:?}");
    }
    restart(playground, &settings).await;
    let p = &*playground;
    until(p, "pg3 is reached again", async || {
        let (_, rows) = examine(p, "pg3").await;
        rows.get("our REST API, from pg1").is_some_and(|row| row["Level"] == "ok")
    })
    .await;
}

async fn leader(playground: &Playground) -> String {
    let members = members(playground).await;
    let leader = members.iter().find(|m| m["Role"] == "Leader").expect("a leader");
    leader["Member"].as_str().expect("a name").to_owned()
}

#[tokio::test(flavor = "multi_thread")]
async fn it_shows_the_cluster_and_changes_its_leader() {
    let mut playground = cluster(3, 10, vec![]).await;
    healthy(&mut playground).await;
    let p = &playground;

    // One table in its four forms.
    let listed = members(p).await;
    let names: Vec<_> = listed.iter().map(|m| m["Member"].clone()).collect();
    assert_eq!(names, ["pg1", "pg2", "pg3"], "{listed:?}");
    let table = said(p, &["list"]).await;
    assert!(table.starts_with(&format!("+ Cluster: {SCOPE} (7")) && !table.contains('\x1b'), "{table}");
    let tsv = said(p, &["list", "-f", "tsv"]).await;
    assert!(tsv.starts_with("Cluster\tMember\tHost\tRole\tState\tTL\t") && tsv.lines().count() == 4, "{tsv}");
    let yaml = said(p, &["list", "-f", "yaml"]).await;
    assert!(yaml.contains("Member: pg1") && yaml.contains("Role: Leader"), "{yaml}");
    let topology = said(p, &["topology"]).await;
    assert!(topology.contains("| pg1 ") && topology.contains("| + pg2 "), "{topology}");

    // Whether it is well, as monitoring systems ask.
    until(p, "it is well", async || ended(p, &["check", "--replicas", "2"]).await.status.success()).await;
    let line = said(p, &["check", "--replicas", "2"]).await;
    assert!(line.starts_with(&format!("PGVANE OK - pg1 leads {SCOPE}, 2 of 2 replicas stream")), "{line}");
    let few = ended(p, &["check", "--critical-replicas", "3"]).await;
    assert_eq!(few.status.code(), Some(2), "{few:?}");
    let mut nowhere = Command::new(programs::built().expect("the programs are built").ctl);
    nowhere.args(["--endpoints", "127.0.0.1:1", "--scope", SCOPE, "check", "--timeout", "2"]);
    let nowhere = timeout(SOON, nowhere.output()).await.expect("ends").expect("starts");
    let line = String::from_utf8_lossy(&nowhere.stdout).into_owned();
    assert!(nowhere.status.code() == Some(3) && line.starts_with("PGVANE UNKNOWN - "), "{line}");

    examined(p).await;
    out_of_reach(&mut playground).await;
    healthy(&mut playground).await;
    let p = &playground;

    // Where the servers are, and a question to one.
    let address = p.node("pg1").postgres();
    let dsn = said(p, &["dsn", "--member", "pg1"]).await;
    assert_eq!(dsn, format!("host={} port={}\n", address.ip(), address.port()));
    let sql = "SELECT pg_is_in_recovery() AS standby, 1 AS one";
    let rows = said(p, &["query", "-r", "replica", "--command", sql, "-U", CLIENT_ROLE]).await;
    assert_eq!(rows, "standby\tone\nt\t1\n");
    let versions: Value = serde_json::from_str(&said(p, &["version", "-f", "json"]).await).expect("JSON");
    let agent = versions[0]["Agent"].as_str().expect("an agent");
    assert!(agent.starts_with("pgvane ") && agent.ends_with("(speaks Patroni 4.1.4)"), "{versions}");

    // A switchover is looked at first, then watched. Members tell their positions now and then.
    let first = format!("Leadership of {SCOPE} goes from pg1 to pg3 (0 B behind), now.");
    until(p, "the plan says that pg3 has it all", async || {
        said(p, &["switchover", "--candidate", "pg3", "--dry-run"]).await.contains(&first)
    })
    .await;
    assert_eq!(leader(p).await, "pg1");
    let mut watching = pgvanectl(p, &["watch"]).spawn().expect("starts");
    let mut changes = BufReader::new(watching.stdout.take().expect("piped")).lines();
    let done = ended(p, &["switchover", "--leader", "pg1", "--candidate", "pg3", "--force"]).await;
    let (out, progress) = (String::from_utf8_lossy(&done.stdout), String::from_utf8_lossy(&done.stderr));
    assert!(out.contains("Successfully switched over to \"pg3\""), "{out}{progress}");
    assert!(progress.contains(" s  pg3 serves as primary"), "{progress}");
    let mut wanted: BTreeSet<&str> =
        BTreeSet::from(["asked for: pg1 to pg3", "pg3 leads", "pg1: primary running"]);
    while !wanted.is_empty() {
        let line =
            timeout(SOON, changes.next_line()).await.unwrap_or_else(|_| panic!("never said: {wanted:?}"));
        let line = line.expect("UTF-8").expect("it watches");
        wanted.retain(|change| !line.contains(change));
    }
    watching.kill().await.expect("ends");
    healthy(&mut playground).await;
    let p = &playground;
    let history: Value = serde_json::from_str(&said(p, &["history", "-f", "json"]).await).expect("JSON");
    assert_eq!((&history[0]["TL"], &history[0]["New Leader"]), (&json!(1), &json!("pg3")), "{history}");

    // Maintenance mode is on when every member says so.
    said(p, &["pause", "--wait"]).await;
    assert!(said(p, &["list"]).await.contains(" Maintenance mode: on"));
    assert!(refused(p, &["pause"], 1).await.contains("paused already"));
    assert!(refused(p, &["switchover", "--force"], 1).await.contains("needs --candidate"));
    said(p, &["resume", "--wait"]).await;
    assert_eq!(said(p, &["flush", "switchover"]).await, "No switchover is scheduled\n");

    // What cannot be meant is refused, and nobody is asked where nobody can answer.
    assert!(refused(p, &["switchover", "--candidate", "pg9", "--force"], 1).await.contains("pg9"));
    assert!(refused(p, &["failover", "--candidate", "pg1"], 1).await.contains("--force does not ask"));
    assert!(refused(p, &["switchover", "--scheduled", "soon"], 1).await.contains("is not a time"));
    refused(p, &["failover"], 2).await;
    assert_eq!(leader(p).await, "pg3");
}

/// What the test itself saw of a change of leader.
struct Seen {
    began: Instant,
    /// When the old primary's postmaster was first seen to be gone.
    gone: Option<Instant>,
    /// When each other server was last seen to be a standby.
    standby: BTreeMap<String, Instant>,
}

impl Seen {
    /// The longest stretch without a primary that this proves, while `next` took over.
    fn at_least(&self, next: &str) -> Duration {
        let last = self.standby.get(next).copied();
        last.zip(self.gone).map_or(Duration::ZERO, |(last, gone)| last.saturating_duration_since(gone))
    }
}

/// Asks a server until it is no standby any more, and notes when it was last seen to be one.
async fn watch_standby(
    name: String,
    server: std::net::SocketAddr,
    seen: Arc<Mutex<BTreeMap<String, Instant>>>,
) {
    let (client, connection) = config(server).connect(tokio_postgres::NoTls).await.expect("a standby");
    let driver = tokio::spawn(connection);
    loop {
        let asked = Instant::now();
        let answer = client.query_one("SELECT pg_is_in_recovery()", &[]).await;
        if !answer.is_ok_and(|row| row.get(0)) {
            break;
        }
        seen.lock().unwrap_or_else(PoisonError::into_inner).insert(name.clone(), asked);
        tokio::time::sleep(Duration::from_millis(2)).await;
    }
    driver.abort();
}

/// Does something that makes another than `leader` lead; answers the new line of the history, and what was seen.
async fn changes_leader(
    playground: &mut Playground,
    leader: &str,
    what: impl AsyncFnOnce(&mut Playground),
) -> (Value, Seen) {
    let postmaster = playground.node(leader).postmaster().expect("it runs");
    let (seen, mut watching) = (Arc::new(Mutex::new(BTreeMap::new())), JoinSet::new());
    for node in playground.nodes.iter().filter(|node| node.name != leader) {
        watching.spawn(watch_standby(node.name.clone(), node.postgres(), Arc::clone(&seen)));
    }
    let gone = tokio::spawn(async move {
        let process = format!("/proc/{}", postmaster.as_raw_nonzero());
        while std::fs::metadata(&process).is_ok() {
            tokio::time::sleep(Duration::from_millis(2)).await;
        }
        Instant::now()
    });
    let before = history(playground).await.len();
    let began = Instant::now();
    what(playground).await;
    let mut lines = Vec::new();
    until(playground, "the change is in the history", async || {
        lines = history(playground).await;
        lines.len() > before
    })
    .await;
    assert_eq!(lines.len(), before + 1, "one change: {lines:?}\n{}", playground.log_tails(60));
    let gone = gone.await.ok();
    watching.abort_all();
    let standby = seen.lock().unwrap_or_else(PoisonError::into_inner).clone();
    (lines.pop().expect("not empty"), Seen { began, gone, standby })
}

async fn history(playground: &Playground) -> Vec<Value> {
    serde_json::from_str(&said(playground, &["history", "-f", "json"]).await).expect("a list")
}

/// The line says this of the end of `leader`, and its outage lies within what the test saw. Answers who leads now.
fn tells(line: &Value, leader: &str, cause: &Cause, since: Since, at_least: Duration, seen: &Seen) -> String {
    let said = (&line["Old Leader"], &line["Why"], &line["Outage Since"]);
    assert_eq!(said, (&json!(leader), &json!(cause.explain()), &json!(since.explain())), "{line}");
    let outage = Duration::from_secs_f64(line["Outage Seconds"].as_f64().expect("measured"));
    let at_most = seen.began.elapsed();
    eprintln!("  {cause}: {outage:?} since {}, seen {at_least:?} to {at_most:?}", since.explain());
    // Two lengths of it are told in whole milliseconds.
    assert!(outage + Duration::from_millis(2) >= at_least, "{outage:?}, but {at_least:?} were seen: {line}");
    assert!(outage <= at_most, "{outage:?} within {at_most:?}: {line}");
    line["New Leader"].as_str().expect("a name").to_owned()
}

#[tokio::test(flavor = "multi_thread")]
async fn it_says_why_each_leader_went_and_how_long_nobody_served() {
    let mut playground = cluster(3, 3, vec![]).await;
    healthy(&mut playground).await;
    let set = async |p: &Playground, pair: &str| said(p, &["edit-config", "--force", "--set", pair]).await;

    let (line, seen) = changes_leader(&mut playground, "pg1", async |p| {
        drop(said(p, &["switchover", "--leader", "pg1", "--candidate", "pg2", "--force"]).await);
    })
    .await;
    let proven = seen.at_least("pg2");
    let leader = tells(&line, "pg1", &Cause::Switchover, Since::PrimaryStopped, proven, &seen);
    assert_eq!(leader, "pg2");
    healthy(&mut playground).await;

    let (line, seen) = changes_leader(&mut playground, &leader, async |p| {
        assert!(p.node_mut("pg2").stop_agent(SOON).await, "{}", p.log_tails(60));
    })
    .await;
    let proven = seen.at_least(line["New Leader"].as_str().unwrap_or_default());
    let leader = tells(&line, &leader, &Cause::AgentStopped, Since::PrimaryStopped, proven, &seen);
    playground.revive().expect("starts");
    healthy(&mut playground).await;

    // A postmaster that is killed: handed over because nobody is to wait for its start, then because a standby holds
    // everything. Its processes outlive it, and only the agent knows for how long.
    set(&playground, "primary_start_timeout=0").await;
    let kill = async |p: &mut Playground, leader: &str| {
        p.node(leader).kill_postmaster().expect("it runs");
    };
    let (line, seen) = changes_leader(&mut playground, &leader, async |p| kill(p, &leader).await).await;
    let leader = tells(&line, &leader, &Cause::StartTimeout, Since::PrimaryStopped, Duration::ZERO, &seen);
    healthy(&mut playground).await;
    set(&playground, "primary_start_timeout=").await;
    set(&playground, "synchronous_mode=true").await;
    until(&playground, "a standby is synchronous", async || {
        members(&playground).await.iter().any(|m| m["Role"] == "Sync Standby")
    })
    .await;
    let (line, seen) = changes_leader(&mut playground, &leader, async |p| kill(p, &leader).await).await;
    let leader = tells(&line, &leader, &Cause::PostgresCrashed, Since::PrimaryStopped, Duration::ZERO, &seen);
    healthy(&mut playground).await;
    set(&playground, "synchronous_mode=").await;

    // Agent and server die; the guard gives the lease back. It has no clock of the server's.
    let (line, seen) =
        changes_leader(&mut playground, &leader, async |p| kill_node(p, &leader, false).await).await;
    let fed = line["Outage Since"] == Since::KeyGone.explain();
    let since = if fed { Since::KeyGone } else { Since::StreamEnded };
    let leader = tells(&line, &leader, &Cause::Guard, since, Duration::ZERO, &seen);
    playground.revive().expect("starts");
    healthy(&mut playground).await;

    // The whole node dies. Its stream ended at once, and was seen to within the time of a look at the server; most of
    // the outage is the lease.
    let (line, seen) =
        changes_leader(&mut playground, &leader, async |p| kill_node(p, &leader, true).await).await;
    let proven = seen.at_least(line["New Leader"].as_str().unwrap_or_default());
    assert!(proven > Duration::from_secs(1), "the lease ended after {proven:?}");
    tells(&line, &leader, &Cause::LeaseEnded, Since::StreamEnded, proven / 2, &seen);

    // In its other forms, and Patroni's part of it is what it was.
    let tsv = said(&playground, &["history", "-f", "tsv"]).await;
    assert!(tsv.starts_with("TL\tLSN\tReason\tTimestamp\tNew Leader\t") && tsv.lines().count() == 7, "{tsv}");
    let yaml = said(&playground, &["history", "-f", "yaml"]).await;
    assert!(yaml.contains("Why: switchover by the operator"), "{yaml}");
    let table = said(&playground, &["history"]).await;
    assert!(table.contains("| switchover by the operator "), "{table}");
    eprintln!("{table}");
}

/// A former primary that went on alone for a while, and whose agent is not allowed to throw that away.
#[tokio::test(flavor = "multi_thread")]
async fn it_brings_a_former_primary_back_behind_the_leader() {
    let mut playground = cluster(2, 3, vec![]).await;
    healthy(&mut playground).await;
    let forbidden = "postgresql.remove_data_directory_on_diverged_timelines=false";
    let set = ["edit-config", "--force", "--set", "postgresql.use_pg_rewind=false", "--set", forbidden];
    drop(said(&playground, &set).await);
    kill_node(&mut playground, "pg1", true).await;
    until(&playground, "pg2 leads", async || {
        members(&playground).await.iter().any(|m| m["Member"] == "pg2" && m["Role"] == "Leader")
    })
    .await;
    write_alone(&playground, "pg1").await;

    // A monitoring system hears of it in one line.
    let well = ended(&playground, &["check"]).await;
    let line = String::from_utf8_lossy(&well.stdout).into_owned();
    assert!(line.starts_with("PGVANE WARNING - 0 of ") && line.lines().count() == 1, "{line}");
    assert_eq!(well.status.code(), Some(1), "{line}");

    playground.restart_agent("pg1").expect("starts");
    until(&playground, "pg1 is not started", async || {
        playground.log("pg1").contains("parted from the leader's and will not be started")
    })
    .await;
    let why = refused(&playground, &["rewind", "pg1", "--force"], 1).await;
    assert!(why.contains("use_pg_rewind is off") && why.contains("rewind failed on pg1"), "{why}");
    assert_eq!(playground.node("pg1").postmaster(), None);

    let why = refused(&playground, &["rewind", "pg2", "--force"], 1).await;
    assert!(why.contains("pg2 leads"), "{why}");
    drop(said(&playground, &["pause", "--wait"]).await);
    let why = refused(&playground, &["rewind", "pg1", "--force"], 1).await;
    assert!(why.contains("pause is on"), "{why}");
    // In pause nothing tries by itself, so that it is this command that does it.
    drop(said(&playground, &["edit-config", "--force", "--set", "postgresql.use_pg_rewind=true"]).await);
    // As after a reboot, where it stands in /tmp.
    std::fs::remove_file(playground.node("pg1").dir().join("data.pgpass")).expect("a password file");
    drop(said(&playground, &["resume", "--wait"]).await);
    let done = said(&playground, &["rewind", "pg1", "--force"]).await;
    assert!(done.contains("follows pg2") || done.contains("streams from pg2"), "{done}");
    healthy(&mut playground).await;
    assert!(
        playground.log("pg1").contains("rewound to the leader's history"),
        "{}",
        playground.log_tails(60)
    );
    let (there, expected) = (alone(&playground, "pg1").await, alone(&playground, "pg2").await);
    assert_eq!((there, expected), (false, false), "what pg1 wrote alone is gone");
    let done = said(&playground, &["rewind", "pg1", "--force"]).await;
    assert!(done.contains("streams from pg2; there is nothing to rewind"), "{done}");
}

/// Runs a killed primary without its agent, as one that was cut off would have gone on, and has it make a table.
async fn write_alone(playground: &Playground, name: &str) {
    let node = playground.node(name);
    let bin = xtask::install::servers().expect("PostgreSQL").postgres;
    let data = node.dir().join("data");
    let owner = std::fs::metadata(&data).expect("there is data");
    let run = async |args: &[&str], input: &str| {
        use std::os::unix::fs::MetadataExt;
        let mut command = Command::new(bin.join("postgres"));
        command.args(args).arg("-D").arg(&data).arg("postgres");
        command.uid(owner.uid()).gid(owner.gid()).current_dir("/");
        command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped()).kill_on_drop(true);
        let mut child = command.spawn().expect("starts");
        let mut stdin = child.stdin.take().expect("piped");
        tokio::io::AsyncWriteExt::write_all(&mut stdin, input.as_bytes()).await.expect("reads");
        drop(stdin);
        let output = timeout(SOON, child.wait_with_output()).await.expect("ends").expect("can be waited for");
        assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    };
    // What a killed server leaves is recovered first; then the WAL goes on where the next leader's began anew.
    run(&["--single"], "CREATE TABLE alone AS SELECT generate_series(1, 1000) AS id;\nCHECKPOINT;\n").await;
}

/// Whether a server has the table of [`write_alone`].
async fn alone(playground: &Playground, name: &str) -> bool {
    let config = playground.node(name).superuser();
    let (client, connection) = config.connect(tokio_postgres::NoTls).await.expect("connects");
    let driver = tokio::spawn(connection);
    let row = client.query_one("SELECT to_regclass('alone') IS NOT NULL", &[]).await.expect("answers");
    driver.abort();
    row.get(0)
}
