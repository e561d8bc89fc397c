//! The operator's tool on a real cluster: every verb, in every form.

mod cluster_support;

use std::collections::BTreeSet;
use std::process::{Output, Stdio};

use serde_json::{Value, json};
use tokio::io::{AsyncBufReadExt, BufReader};
use tokio::process::Command;
use tokio::time::timeout;
use xtask::playground::{CLIENT_ROLE, Playground, SCOPE};
use xtask::programs;

use self::cluster_support::{SOON, cluster, healthy};

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

    // A switchover is looked at first, then watched.
    let plan = said(p, &["switchover", "--candidate", "pg3", "--dry-run"]).await;
    assert!(
        plan.contains(&format!("Leadership of {SCOPE} goes from pg1 to pg3 (0 B behind), now.")),
        "{plan}"
    );
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
