//! Backups of a real cluster while it is written to, what becomes of runs that die, and the clusters that are made of
//! backups: as they were, and as they were at a moment.

mod cluster_support;

use std::collections::BTreeSet;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Output;

use rustix::process::{Pid, Signal, kill_process};
use serde_json::Value;
use tokio::process::Child;
use tokio::time::timeout;
use xtask::playground::Playground;
use xtask::playground::node::MoreOfNode;
use xtask::playground::ports::Ports;
use xtask::{drill, programs};

use self::cluster_support::desk::{Desk, as_servers};
use self::cluster_support::writer::{Habit, Writer};
use self::cluster_support::{SOON, ask, cluster_with, healthy, rows, until};

/// A copy so slow that it can be interrupted at leisure.
const SLOW: &[&str] = &["--from-primary", "--compress", "none", "--max-rate", "1M"];

/// Programs and directories, and the cluster that is backed up.
struct Bench {
    desk: Desk,
    ctl: PathBuf,
    backups: PathBuf,
    archive: PathBuf,
}

impl Bench {
    fn new() -> Bench {
        let desk = Desk::new();
        let ctl = desk.program(&programs::built().expect("the programs are built").ctl);
        let (backups, archive) = (desk.dir("backups"), desk.dir("archive"));
        Bench { desk, ctl, backups, archive }
    }

    /// Every member archives to one directory.
    fn archives(&self) -> MoreOfNode {
        let command = format!("{} archive-wal %p {}", self.ctl.display(), self.archive.display());
        let parameters = format!("archive_mode = \"on\"\narchive_command = \"{command}\"\n");
        MoreOfNode { parameters, ..MoreOfNode::default() }
    }

    /// `pgvanectl` with the settings of pg1, as the servers' user.
    fn start(&self, playground: &Playground, args: &[&str]) -> Child {
        let mut command = as_servers(&self.ctl);
        command.arg("-c").arg(playground.node("pg1").config()).args(args);
        command.spawn().expect("starts")
    }

    fn backup(&self, playground: &Playground, args: &[&str]) -> Child {
        let dir = self.backups.display().to_string();
        self.start(playground, &[&["backup", &dir], args].concat())
    }

    async fn made(&self, playground: &Playground, args: &[&str]) -> String {
        let output = ended(self.backup(playground, args)).await;
        assert!(output.status.success(), "{args:?}: {output:?}\n{}", playground.log_tails(40));
        String::from_utf8(output.stdout).expect("UTF-8")
    }

    /// What `backups` says of each.
    async fn listed(&self, args: &[&str]) -> Vec<Value> {
        let mut command = as_servers(&self.ctl);
        command.arg("backups").arg(&self.backups).args(["--format", "json"]).args(args);
        let output = ended(command.spawn().expect("starts")).await;
        let rows: Value =
            serde_json::from_slice(&output.stdout).unwrap_or_else(|e| panic!("{e}: {output:?}"));
        rows.as_array().expect("a list").clone()
    }

    fn names(&self) -> BTreeSet<String> {
        let entries = fs::read_dir(&self.backups).expect("lists");
        entries.map(|entry| entry.expect("an entry").file_name().into_string().expect("text")).collect()
    }

    /// What is being copied now, once it grows.
    async fn under_way(&self, playground: &Playground) -> PathBuf {
        let mut found = None;
        until(playground, "a copy is under way", async || {
            let holder = self.names().into_iter().find(|name| name.ends_with(".unfinished"));
            found = holder.map(|name| self.backups.join(name));
            let file = found.as_ref().map(|holder| holder.join("backup/base.tar"));
            file.and_then(|file| fs::metadata(file).ok()).is_some_and(|meta| meta.len() > 0)
        })
        .await;
        found.expect("it was seen")
    }

    /// The last line of the log.
    fn logged(&self) -> Value {
        let text = fs::read_to_string(self.backups.join("backups.log")).expect("a log");
        serde_json::from_str(text.lines().last().expect("a line")).expect("JSON")
    }

    /// A cluster of one node that begins with a backup; recovered as told, if at all.
    async fn restored(&self, recovery_conf: &[(&str, &str)], parameters: &str) -> Playground {
        let command = format!("{} restore {}", self.ctl.display(), self.backups.display());
        let fetch = format!("{} restore-wal {} %f %p", self.ctl.display(), self.archive.display());
        let pairs: Vec<_> = recovery_conf.iter().map(|(key, value)| format!("{key} = \"{value}\"")).collect();
        let recovery = if pairs.is_empty() {
            String::new()
        } else {
            format!(
                "recovery_conf = {{ restore_command = \"{fetch}\", recovery_target_action = \"promote\", {} }}\n",
                pairs.join(", ")
            )
        };
        let tables = format!(
            "[bootstrap.method]\nname = \"backup\"\ncommand = \"{command}\"\nparameters = {{ {parameters} }}\n{recovery}"
        );
        cluster_with(1, vec![MoreOfNode { tables, ..MoreOfNode::default() }]).await
    }
}

async fn ended(child: Child) -> Output {
    timeout(SOON, child.wait_with_output()).await.expect("ends").expect("can be waited for")
}

fn signal(child: &Child, signal: Signal) {
    let pid = child.id().and_then(|id| Pid::from_raw(i32::try_from(id).ok()?)).expect("it runs");
    kill_process(pid, signal).expect("it runs");
}

fn ids(rows: &[i64]) -> BTreeSet<i64> {
    rows.iter().copied().collect()
}

#[tokio::test(flavor = "multi_thread")]
async fn backups_of_a_cluster_that_is_written_to_become_clusters_again() {
    let bench = Bench::new();
    let playground = cluster_with(3, (0..3).map(|_| bench.archives()).collect()).await;
    let p = &playground;
    drill::create_table(p).await.expect("a table");
    let primary = p.node("pg1").postgres();
    let writer = Writer::start(primary, Habit::Keeps);
    until(p, "rows are written", async || writer.journal().writes.len() > 20).await;

    // From a replica unless told otherwise, in every form that this PostgreSQL has.
    let first = bench.made(p, &[]).await;
    assert!(first.contains(" (replica), timeline 1, ") && first.ends_with(", verified\n"), "{first}");
    let second = bench.made(p, &["--from-primary", "--compress", "client-lz4"]).await;
    assert!(second.contains(": pg1 (primary), "), "{second}");
    let third = bench.made(p, &["--from", "pg3", "--compress", "server-zstd", "--quiet"]).await;
    assert_eq!(third, "", "it was told to be quiet");
    let listed = bench.listed(&["--verify"]).await;
    let stated: Vec<_> = listed.iter().map(|row| (row["Role"].as_str(), row["State"].as_str())).collect();
    let expected = ["replica", "primary", "replica"].map(|role| (Some(role), Some("verified")));
    assert_eq!(stated, expected, "{listed:?}");
    assert_eq!(
        (bench.logged()["outcome"].as_str(), bench.logged()["member"].as_str()),
        (Some("done"), Some("pg3"))
    );

    runs_that_die_leave_nothing(&bench, p).await;

    // What is acknowledged before a backup begins is in it; of the others two stay.
    let acknowledged: Vec<i64> = writer.journal().writes.iter().map(|write| write.id).collect();
    let archive = bench.archive.display().to_string();
    bench.made(p, &["--keep", "2", "--prune-archive", &archive]).await;
    let kept = bench.listed(&[]).await;
    assert_eq!(kept.len(), 2, "{kept:?}");
    assert_eq!(kept[0]["Backup"], listed[2]["Backup"], "the older of the two");

    // A moment between two writes, its position, and its archive.
    drop(writer);
    let sql = "CREATE TABLE marks (word text); INSERT INTO marks VALUES ('before')";
    execute(p, sql).await;
    let all = ids(&rows(primary).await);
    let moment = ask(p, "pg1", "SELECT clock_timestamp()::text").await.remove(0);
    let position = ask(p, "pg1", "SELECT pg_current_wal_insert_lsn()::text").await.remove(0);
    execute(p, "INSERT INTO marks VALUES ('after')").await;
    let last = ask(p, "pg1", "SELECT pg_walfile_name(pg_switch_wal())").await.remove(0);
    until(p, "the last WAL is archived", async || bench.archive.join(&last).exists()).await;

    let (time, position) =
        ([("recovery_target_time", moment.as_str())], [("recovery_target_lsn", position.as_str())]);
    let before = format!("before = \"{moment}\"");
    let (as_it_was, at_a_time, at_a_position) = tokio::join!(
        bench.restored(&[], "of = \"demo\""),
        bench.restored(&time, &before),
        bench.restored(&position, ""),
    );
    let restored = ids(&rows(as_it_was.node("pg1").postgres()).await);
    let lacking: Vec<_> = acknowledged.iter().filter(|id| !restored.contains(id)).collect();
    assert!(lacking.is_empty() && restored.is_subset(&all), "{lacking:?} are not in the backup");
    assert!(!acknowledged.is_empty());
    for playground in [&at_a_time, &at_a_position] {
        assert_eq!(ids(&rows(playground.node("pg1").postgres()).await), all, "every row, and none more");
        assert_eq!(ask(playground, "pg1", "SELECT word FROM marks").await, ["before"]);
        let timeline = "SELECT timeline_id::text FROM pg_control_checkpoint()";
        assert_eq!(ask(playground, "pg1", timeline).await, ["2"], "a history of its own");
    }
}

/// Killed, told to stop, or not the only one: what is there stays as it was.
async fn runs_that_die_leave_nothing(bench: &Bench, p: &Playground) {
    let before = bench.listed(&[]).await;
    let mut killed = bench.backup(p, SLOW);
    let holder = bench.under_way(p).await;
    let other = ended(bench.backup(p, &[])).await;
    let why = String::from_utf8_lossy(&other.stderr).into_owned();
    assert!(other.status.code() == Some(1) && why.contains("works on"), "{why}");
    signal(&killed, Signal::KILL);
    killed.wait().await.expect("it is ours");
    assert!(holder.exists(), "nobody could remove it");
    assert_eq!(bench.listed(&[]).await, before);

    // The next one removes what the dead one left, and all of its own when it is told to stop.
    let told = bench.backup(p, SLOW);
    until(p, "what was left is gone", async || !holder.exists()).await;
    bench.under_way(p).await;
    signal(&told, Signal::TERM);
    let output = ended(told).await;
    let said = String::from_utf8_lossy(&output.stderr).into_owned();
    assert!(output.status.code() == Some(1) && said.contains("interrupted"), "{said}");
    assert!(said.contains("which a run that died had left"), "{said}");
    assert_eq!(bench.names().into_iter().find(|name| name.ends_with(".unfinished")), None);
    assert_eq!(bench.listed(&[]).await, before);
    let logged = bench.logged();
    assert_eq!((logged["outcome"].as_str(), logged["why"].as_str()), (Some("failed"), Some("interrupted")));
}

async fn execute(playground: &Playground, sql: &str) {
    let (client, connection) =
        playground.node("pg1").superuser().connect(tokio_postgres::NoTls).await.expect("the server");
    let driver = tokio::spawn(connection);
    client.batch_execute(sql).await.unwrap_or_else(|e| panic!("{sql}: {e}"));
    driver.abort();
}

#[tokio::test(flavor = "multi_thread")]
async fn one_more_node_joins_and_a_drill_says_what_it_cost() {
    let bench = Bench::new();
    let mut playground = cluster_with(2, vec![]).await;
    healthy(&mut playground).await;
    let p = &playground;
    let (postgres, rest) = {
        let mut ports = Ports::new();
        (ports.free().expect("a port"), ports.free().expect("a port"))
    };
    let (address, port) = (postgres.to_string(), rest.port().to_string());
    let file = bench.desk.dir("pg3").join("agent.toml");
    let output = file.display().to_string();
    let add = |name: &'static str| ["add-node", name].map(str::to_owned);
    let args = |name| {
        let more =
            [address.clone(), "--rest-port".to_owned(), port.clone(), "--output".to_owned(), output.clone()];
        [add(name).to_vec(), more.to_vec()].concat()
    };
    let text = |args: &[String]| args.iter().map(String::as_str).collect::<Vec<_>>().join("\n");
    let run = |args: Vec<String>| {
        let joined = text(&args);
        bench.start(p, &joined.split('\n').collect::<Vec<_>>())
    };

    let taken = ended(run(args("pg2"))).await;
    let why = String::from_utf8_lossy(&taken.stderr).into_owned();
    assert!(taken.status.code() == Some(1) && why.contains("pg2 is a member already"), "{why}");
    assert!(!file.exists());
    let waiting = run([args("pg3"), vec!["--wait".to_owned(), "40".to_owned()]].concat());
    until(p, "the settings are written", async || file.exists()).await;
    let agent = Agent::start(p, &file);
    let output = ended(waiting).await;
    let said = String::from_utf8_lossy(&output.stdout).into_owned();
    assert!(output.status.success(), "{output:?}\n{}\n{}", agent.log(), p.log_tails(40));
    assert!(said.contains("pg3 is a member and streams") && said.contains("What pg3 needs"), "{said}");
    assert!(!said.contains(p.node("pg1").passwords()[0]), "passwords are in the file alone");

    // A drill carries nothing out but a switchover, and measures that.
    let guide = ended(bench.start(p, &["drill", "kill-node"])).await;
    let guide = String::from_utf8_lossy(&guide.stdout).into_owned();
    assert!(guide.contains("On pg1 (127.0.0.1)") && guide.contains("costs its lease: 10 s"), "{guide}");
    let refused = ended(bench.start(p, &["drill", "kill-node", "--perform"])).await;
    assert_eq!(refused.status.code(), Some(1), "{refused:?}");
    let performed =
        bench.start(p, &["drill", "switchover", "--perform", "--force", "--watch", "--limit", "30"]);
    let performed = ended(performed).await;
    let said = String::from_utf8_lossy(&performed.stdout).into_owned();
    assert!(performed.status.success(), "{performed:?}\n{}", p.log_tails(40));
    let told = said
        .split("Longest time without a leader that serves: ")
        .nth(1)
        .and_then(|rest| rest.split(' ').next());
    let seconds: f64 = told.and_then(|seconds| seconds.parse().ok()).unwrap_or_else(|| panic!("{said}"));
    assert!(seconds > 0.0 && seconds < SOON.as_secs_f64(), "{said}");
    assert!(
        said.contains("as many replicas stream as before") && said.contains("switchover by the operator"),
        "{said}"
    );
    eprintln!("{said}");
}

/// The agent of a node that the playground does not know.
struct Agent {
    child: Child,
    dir: PathBuf,
}

impl Agent {
    fn start(playground: &Playground, settings: &Path) -> Agent {
        let dir = settings.parent().expect("a directory").to_owned();
        let mut command = as_servers(&playground.dir().join("bin/pgvane-agent"));
        let log = fs::File::create(dir.join("agent.log")).expect("creates");
        command.arg(settings).stdout(log.try_clone().expect("clones")).stderr(log);
        Agent { child: command.spawn().expect("starts"), dir }
    }

    fn log(&self) -> String {
        fs::read_to_string(self.dir.join("agent.log")).unwrap_or_default()
    }
}

impl Drop for Agent {
    /// With its PostgreSQL, as a service manager would stop it.
    fn drop(&mut self) {
        signal(&self.child, Signal::TERM);
        let began = std::time::Instant::now();
        while began.elapsed() < SOON && !matches!(self.child.try_wait(), Ok(Some(_))) {
            std::thread::sleep(std::time::Duration::from_millis(20));
        }
    }
}
