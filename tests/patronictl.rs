//! Patroni's own operator tool against a cluster of our agents: it must not notice the difference. Every verb, on one
//! cluster, while a client writes through a proxy.

mod cluster_support;

use std::fs;
use std::path::PathBuf;
use std::process::{Command, Output, Stdio};
use std::time::{Duration, Instant};

use hyper::Method;
use jiff::{SignedDuration, Timestamp};
use rustix::process::Pid;
use serde_json::{Value, json};
use xtask::playground::{CLIENT_ROLE, HEALTHY_WITHIN, Playground, SCOPE, http};
use xtask::{install, programs};

use self::cluster_support::writer::{Habit, Writer};
use self::cluster_support::{SOON, add_proxy, cluster, healthy, rows, until};

/// `patronictl`, installed once beside the programs.
fn patronictl() -> PathBuf {
    let programs = programs::built().expect("the programs are built");
    install::patroni::patroni(&programs).expect("Patroni").ctl
}

fn text(output: &Output) -> String {
    format!("{}{}", String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr))
}

/// The tool, its cluster and a client of that.
struct Stage {
    program: PathBuf,
    config: PathBuf,
    playground: Playground,
    writer: Writer,
}

impl Stage {
    async fn set() -> Stage {
        let program = tokio::task::spawn_blocking(patronictl).await.expect("no panic");
        let mut playground = cluster(3, 30, vec![]).await;
        let etcd = playground.etcd.client();
        add_proxy(&mut playground, etcd, "", "");
        healthy(&mut playground).await;
        let config = playground.dir().join("patronictl.yml");
        fs::write(&config, format!("scope: {SCOPE}\netcd3:\n  host: {etcd}\n")).expect("writes");
        let writer = Writer::start(playground.proxies[0].options().primary, Habit::Renews);
        Stage { program, config, playground, writer }
    }

    /// Runs a command to its end with this typed into it, off the runtime's threads.
    async fn answers(&self, args: &[&str], typed: &'static str) -> Output {
        let mut command = Command::new(&self.program);
        command.arg("-c").arg(&self.config).args(args).env("LC_ALL", "C.UTF-8");
        command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped());
        let run = move || {
            let mut child = command.spawn()?;
            let mut stdin = child.stdin.take().expect("piped");
            std::io::Write::write_all(&mut stdin, typed.as_bytes())?;
            drop(stdin);
            child.wait_with_output()
        };
        tokio::task::spawn_blocking(run).await.expect("no panic").expect("runs")
    }

    async fn run(&self, args: &[&str]) -> String {
        let output = self.answers(args, "").await;
        let said = text(&output);
        let logs = || self.playground.log_tails(40);
        assert!(output.status.success(), "patronictl {args:?}: {}\n{said}\n{}", output.status, logs());
        said
    }

    /// Runs a command that must say this.
    async fn says(&self, args: &[&str], expected: &str) -> String {
        let said = self.run(args).await;
        assert!(
            said.contains(expected),
            "{args:?}: no {expected:?} in\n{said}\n{}",
            self.playground.log_tails(60)
        );
        said
    }

    async fn members(&self) -> Vec<Value> {
        let listed = self.run(&["list", "-e", "--format", "json"]).await;
        let members: Value = serde_json::from_str(&listed).unwrap_or_else(|e| panic!("{e} in {listed}"));
        members.as_array().expect("a list").clone()
    }

    async fn leader(&self) -> String {
        let members = self.members().await;
        match role(&members, "Leader")[..] {
            [leader] => leader.to_owned(),
            _ => panic!("no leader in {members:?}\n{}", self.playground.log_tails(40)),
        }
    }

    async fn healthy(&mut self) {
        healthy(&mut self.playground).await;
    }

    fn postmaster(&self, name: &str) -> Pid {
        self.playground.node(name).postmaster().expect("PostgreSQL runs")
    }

    /// What one server answers, as superuser.
    async fn ask(&self, name: &str, question: &str) -> String {
        let config = self.playground.node(name).superuser();
        let (client, connection) = config.connect(tokio_postgres::NoTls).await.expect("connects");
        let driver = tokio::spawn(connection);
        let row = client.query_one(question, &[]).await.expect("answers");
        driver.abort();
        row.get(0)
    }

    /// Waits until a server shows this value of a setting.
    async fn until_set(&self, name: &str, setting: &str, value: &str) {
        let what = format!("{setting} of {name} is {value}");
        until(&self.playground, &what, async || self.ask(name, &format!("SHOW {setting}")).await == value)
            .await;
    }

    /// A request to a member's REST API: what patronictl asks for only after it has looked itself.
    async fn rest(&self, name: &str, path: &str, body: Value) -> (u16, String) {
        let agent = self.playground.node(name).rest();
        let answer = http::request(Method::POST, agent, path, body.to_string(), SOON).await.expect("answers");
        (answer.0.as_u16(), String::from_utf8_lossy(&answer.1).into_owned())
    }

    /// Waits for a write that was sent after this call.
    async fn until_written(&self) {
        let since = Instant::now();
        until(&self.playground, "a write", async || self.writer.journal().acknowledged_since(since)).await;
    }

    /// The client saw no more than its session cut, at the most, since the last call: nobody was refused.
    async fn nobody_was_refused(&self, step: &str) {
        self.until_written().await;
        let failures = std::mem::take(&mut self.writer.journal().failures);
        // A write that is under way when its session is cut hears of it before the reason comes.
        let is_cut = |code: &str, text: &str| code == "57P01" || text == "connection closed";
        let cut = failures.iter().all(|failure| is_cut(&failure.code, &failure.text));
        assert!(cut && failures.len() < 3, "{step}: {failures:?}\n{}", self.playground.log_tails(60));
    }
}

fn role<'a>(members: &'a [Value], role: &str) -> Vec<&'a str> {
    let named = members.iter().filter(|m| m["Role"] == role);
    named.map(|m| m["Member"].as_str().expect("a name")).collect()
}

/// What a column shows; empty ones are left out.
fn shown<'a>(member: &'a Value, column: &str) -> &'a str {
    member[column].as_str().unwrap_or_default()
}

fn in_seconds(seconds: i64) -> String {
    (Timestamp::now() + SignedDuration::from_secs(seconds))
        .strftime("%Y-%m-%dT%H:%M:%S%.6f+00:00")
        .to_string()
}

#[tokio::test(flavor = "multi_thread")]
async fn patronictl_works_in_full() {
    let mut stage = Stage::set().await;
    let mut began = Instant::now();
    let mut step = |name: &str| {
        eprintln!("  {name} ({:.1} s)", began.elapsed().as_secs_f64());
        began = Instant::now();
    };
    shows(&stage).await;
    step("list, topology, dsn, query, version");
    changes_leader(&mut stage).await;
    step("switchover, failover, history");
    changes_settings(&stage).await;
    step("edit-config, show-config, reload");
    restarts(&mut stage).await;
    step("restart");
    raises_a_limit(&mut stage).await;
    step("restart --pending");
    schedules(&mut stage).await;
    step("scheduled restart and switchover, flush");
    pauses(&mut stage).await;
    step("pause, resume");
    reinitializes(&mut stage).await;
    step("reinit");
    survives_a_start_that_fails(&mut stage).await;
    step("a restart that fails");
    removes(&mut stage).await;
    step("remove");
}

async fn shows(stage: &Stage) {
    let members = stage.members().await;
    assert_eq!(role(&members, "Leader"), ["pg1"], "{members:?}");
    assert_eq!(role(&members, "Replica"), ["pg2", "pg3"], "{members:?}");
    for member in &members {
        let expected = if member["Role"] == "Leader" { "running" } else { "streaming" };
        assert_eq!((shown(member, "State"), member["TL"].as_i64()), (expected, Some(1)), "{member}");
        assert_eq!(shown(member, "Pending restart"), "", "{member}");
    }
    stage.says(&["list"], &format!("Cluster: {SCOPE} (7")).await;
    stage.says(&["topology", SCOPE], "| + pg2 ").await;
    let leader = stage.playground.node("pg1").postgres();
    stage
        .says(&["dsn", SCOPE, "-r", "leader"], &format!("host={} port={}", leader.ip(), leader.port()))
        .await;
    let asks = ["query", SCOPE, "-U", CLIENT_ROLE, "-d", "postgres", "--format", "json"];
    for (of, expected) in [("primary", "false"), ("replica", "true")] {
        let question = [&asks[..], &["-r", of, "-c", "SELECT pg_is_in_recovery()::text AS standby"]].concat();
        let said = stage.run(&question).await;
        let rows: Value = serde_json::from_str(&said).unwrap_or_else(|e| panic!("{e} in {said}"));
        assert_eq!(rows[0]["standby"], expected, "{said}");
    }
    stage.says(&["version", SCOPE], "pg2: Patroni 4.1.4").await;
}

async fn changes_leader(stage: &mut Stage) {
    let switchover = ["switchover", "--leader", "pg1", "--candidate", "pg3", "--force", SCOPE];
    stage.says(&switchover, "Successfully switched over to \"pg3\"").await;
    stage.healthy().await;
    let members = stage.members().await;
    assert_eq!(role(&members, "Leader"), ["pg3"], "{members:?}");
    let history: Value =
        serde_json::from_str(&stage.run(&["history", "--format", "json"]).await).expect("JSON");
    assert_eq!(history[0]["New Leader"], "pg3", "{history}");
    stage.nobody_was_refused("switchover").await;
    stage.says(&["failover", "--candidate", "pg1", "--force", SCOPE], "\"pg1\"").await;
    stage.healthy().await;
    assert_eq!(stage.leader().await, "pg1");
    stage.nobody_was_refused("failover").await;
}

async fn changes_settings(stage: &Stage) {
    // The parameter that does not exist is left out; without that no server would read any of them again.
    let edit = ["edit-config", "--force", "-s", "loop_wait=7", "-p", "work_mem=6MB", "-p", "no_such_thing=1"];
    stage.says(&[&edit[..], &[SCOPE]].concat(), "Configuration changed").await;
    let shown = stage.run(&["show-config", SCOPE]).await;
    assert!(shown.contains("loop_wait: 7") && shown.contains("work_mem: 6MB"), "{shown}");
    for name in ["pg1", "pg2", "pg3"] {
        stage.until_set(name, "work_mem", "6MB").await;
    }
    stage.says(&["edit-config", "--force", "-p", "no_such_thing=null", SCOPE], "Configuration changed").await;
    stage.says(&["reload", SCOPE, "--force"], "Reload request received for member pg1").await;
}

async fn restarts(stage: &mut Stage) {
    stage.nobody_was_refused("what came before").await;
    let timeline = stage.ask("pg1", "SELECT timeline_id::text FROM pg_control_checkpoint()").await;
    for name in ["pg2", "pg1"] {
        let before = stage.postmaster(name);
        stage.says(&["restart", SCOPE, name, "--force"], &format!("Success: restart on member {name}")).await;
        assert_ne!(stage.postmaster(name), before, "{name} was not restarted");
        stage.healthy().await;
    }
    // The leader kept its key and its timeline, and who came meanwhile waited at the proxy.
    assert_eq!(stage.leader().await, "pg1");
    assert_eq!(stage.ask("pg1", "SELECT timeline_id::text FROM pg_control_checkpoint()").await, timeline);
    stage.nobody_was_refused("restart of the leader").await;
    let before = stage.postmaster("pg2");
    let old = ["restart", SCOPE, "pg2", "--force", "--pg-version", "9.6.24"];
    stage.says(&old, "status code=503, (restart conditions are not satisfied)").await;
    let as_primary = stage.rest("pg2", "/restart", json!({"role": "primary"})).await;
    assert_eq!(as_primary, (503, "restart conditions are not satisfied".to_owned()));
    let what = stage.rest("pg2", "/restart", json!({"whenever": true})).await;
    assert_eq!(what, (400, "Unknown filter for the scheduled restart: whenever".to_owned()));
    assert_eq!(stage.postmaster("pg2"), before);
}

/// A limit that standbys must not have lower than the primary, raised in the wrong order: the standbys' recovery
/// pauses, and they are started again with the new value by themselves.
async fn raises_a_limit(stage: &mut Stage) {
    stage
        .says(&["edit-config", "--force", "-p", "max_connections=117", SCOPE], "Configuration changed")
        .await;
    let pending = |members: &[Value], name: &str| {
        let member = members.iter().find(|m| m["Member"] == name).expect("a member");
        (shown(member, "Pending restart") == "*").then(|| shown(member, "Pending restart reason").to_owned())
    };
    until(&stage.playground, "all want a restart", async || {
        let members = stage.members().await;
        ["pg1", "pg2", "pg3"].iter().all(|name| pending(&members, name).is_some())
    })
    .await;
    let members = stage.members().await;
    assert_eq!(pending(&members, "pg2").as_deref(), Some("max_connections: 100->117"), "{members:?}");
    let leader = ["restart", SCOPE, "-r", "leader", "--pending", "--force"];
    stage.says(&leader, "Success: restart on member pg1").await;
    for name in ["pg1", "pg2", "pg3"] {
        let what = format!("{name} has the new limit");
        until(&stage.playground, &what, async || {
            let config = stage.playground.node(name).superuser();
            let Ok((client, connection)) = config.connect(tokio_postgres::NoTls).await else { return false };
            let driver = tokio::spawn(connection);
            let row = client.query_one("SHOW max_connections", &[]).await;
            driver.abort();
            row.is_ok_and(|row| row.get::<_, String>(0) == "117")
        })
        .await;
    }
    stage.healthy().await;
    until(&stage.playground, "nobody wants a restart", async || {
        let members = stage.members().await;
        members.iter().all(|m| shown(m, "Pending restart").is_empty())
    })
    .await;
    stage.nobody_was_refused("restart --pending of the leader").await;
}

async fn schedules(stage: &mut Stage) {
    // Far ahead, to be shown, kept over the end of an agent, and withdrawn.
    let (later, before) = (in_seconds(3600), stage.postmaster("pg2"));
    let scheduled = ["restart", SCOPE, "pg2", "--force", "--scheduled", &later];
    stage.says(&scheduled, "Success: restart scheduled on member pg2").await;
    let again = stage.rest("pg2", "/restart", json!({"schedule": later})).await;
    assert_eq!(again, (409, "Another restart is already scheduled".to_owned()));
    let of_pg2 = async |stage: &Stage| {
        let members = stage.members().await;
        let member = members.iter().find(|m| m["Member"] == "pg2").expect("a member").clone();
        shown(&member, "Scheduled restart").to_owned()
    };
    let day = &later[..10];
    until(&stage.playground, "the restart is listed", async || of_pg2(stage).await.contains(day)).await;
    let node = stage.playground.node_mut("pg2");
    node.kill_agent(SOON).await;
    stage.playground.restart_agent("pg2").expect("starts");
    stage.healthy().await;
    assert!(of_pg2(stage).await.contains(day), "forgotten by the next agent");
    stage
        .says(&["flush", SCOPE, "restart", "--force"], "Success: flush scheduled restart for member pg2")
        .await;
    until(&stage.playground, "the restart is withdrawn", async || of_pg2(stage).await.is_empty()).await;
    assert_eq!(stage.postmaster("pg2"), before, "adopted, not restarted");

    let switchover = |at: &str| {
        let args =
            ["switchover", SCOPE, "--leader", "pg1", "--candidate", "pg2", "--force", "--scheduled", at];
        args.map(str::to_owned)
    };
    let args = switchover(&later);
    stage.says(&args.each_ref().map(String::as_str), "Switchover scheduled").await;
    stage.says(&["list"], "Switchover scheduled at: ").await;
    stage.says(&["flush", SCOPE, "switchover", "--force"], "scheduled switchover deleted").await;
    stage.says(&["flush", SCOPE, "switchover", "--force"], "No pending scheduled switchover").await;

    // Soon, and done to the second.
    let at = Instant::now() + Duration::from_secs(4);
    stage.says(&["restart", SCOPE, "pg3", "--force", "--scheduled", &in_seconds(4)], "Success").await;
    let args = switchover(&in_seconds(4));
    let before = stage.postmaster("pg3");
    stage.says(&args.each_ref().map(String::as_str), "Switchover scheduled").await;
    assert!(Instant::now() < at, "patronictl took too long for this test");
    until(&stage.playground, "pg2 leads", async || {
        stage.playground.look().await.leader().is_ok_and(|leader| leader == "pg2")
    })
    .await;
    let late = Instant::now().saturating_duration_since(at);
    assert!(Instant::now() >= at && late < Duration::from_secs(4), "{late:?} late");
    until(&stage.playground, "pg3 was restarted", async || {
        stage.playground.node("pg3").postmaster().is_some_and(|pid| pid != before)
    })
    .await;
    stage.healthy().await;
    stage.nobody_was_refused("scheduled switchover").await;
    until(&stage.playground, "nothing is scheduled any more", async || {
        let listed = stage.run(&["list", "-e"]).await;
        let scheduled = stage.members().await.iter().any(|m| !shown(m, "Scheduled restart").is_empty());
        !listed.contains("Switchover scheduled") && !scheduled
    })
    .await;
}

async fn pauses(stage: &mut Stage) {
    stage.says(&["pause", SCOPE, "--wait"], "Success: cluster management is paused").await;
    stage.says(&["list"], "Maintenance mode: on").await;
    let refused =
        stage.answers(&["restart", SCOPE, "pg1", "--force", "--scheduled", &in_seconds(3600)], "").await;
    assert!(text(&refused).contains("Can't schedule restart in the paused state"), "{}", text(&refused));
    for name in ["pg3", "pg2"] {
        let before = stage.postmaster(name);
        stage.says(&["restart", SCOPE, name, "--force"], &format!("Success: restart on member {name}")).await;
        assert_ne!(stage.postmaster(name), before, "{name} was not restarted");
    }
    stage.nobody_was_refused("restart of the leader in pause").await;
    // What ends by itself stays so, until the operator says otherwise.
    let killed = stage.playground.node("pg3").kill_postmaster().expect("runs");
    until(&stage.playground, "pg3 is seen to be down", async || {
        let members = stage.members().await;
        members.iter().any(|m| m["Member"] == "pg3" && m["State"] == "stopped")
    })
    .await;
    assert_eq!(stage.playground.node("pg3").postmaster(), None);
    stage.says(&["restart", SCOPE, "pg3", "--force"], "Success: restart on member pg3").await;
    assert_ne!(stage.postmaster("pg3"), killed);
    // An agent that ends leaves its server and its key; the next one goes on with both.
    let before = stage.postmaster("pg2");
    assert!(stage.playground.node_mut("pg2").stop_agent(SOON).await, "the agent ends");
    stage.until_written().await;
    stage.playground.restart_agent("pg2").expect("starts");
    stage.healthy().await;
    assert_eq!((stage.postmaster("pg2"), stage.leader().await), (before, "pg2".to_owned()));
    let nobody = stage.rest("pg2", "/switchover", json!({"leader": "pg2"})).await;
    let text = "Switchover is possible only to a specific candidate in a paused state";
    assert_eq!(nobody, (400, text.to_owned()));
    let switchover = ["switchover", SCOPE, "--leader", "pg2", "--candidate", "pg1", "--force"];
    stage.says(&switchover, "Successfully switched over to \"pg1\"").await;
    stage.healthy().await;
    stage.nobody_was_refused("switchover in pause").await;
    stage.says(&["resume", SCOPE, "--wait"], "Success: cluster management is resumed").await;
    stage.healthy().await;
    assert_eq!(stage.leader().await, "pg1");
}

async fn reinitializes(stage: &mut Stage) {
    let created = |stage: &Stage| {
        let file = stage.playground.dir().join("pg2/data/PG_VERSION");
        fs::metadata(file).and_then(|m| m.modified()).expect("a data directory")
    };
    let leader = stage.rest("pg1", "/reinitialize", json!({"force": true})).await;
    assert_eq!(leader, (503, "I am the leader, can not reinitialize".to_owned()));
    let before = created(stage);
    let reinit = ["reinit", SCOPE, "pg2", "--force", "--wait"];
    stage.says(&reinit, "Reinitialize is completed on: pg2").await;
    stage.healthy().await;
    assert_ne!(created(stage), before, "the data is the same");
    // Twice at once: the second is told of the first, unless it insists.
    let from_leader = json!({"from_leader": true});
    let started = (200, "reinitialize started".to_owned());
    assert_eq!(stage.rest("pg3", "/reinitialize", from_leader.clone()).await, started);
    let again = stage.rest("pg3", "/reinitialize", from_leader.clone()).await;
    assert!(again.0 == 503 && again.1.ends_with(" already in progress"), "{again:?}");
    let insists = json!({"from_leader": true, "force": true});
    assert_eq!(stage.rest("pg3", "/reinitialize", insists).await, started);
    stage.healthy().await;
    stage.nobody_was_refused("reinit").await;
}

/// A setting that keeps the server from starting: the key goes to a member that runs, and no row is lost.
async fn survives_a_start_that_fails(stage: &mut Stage) {
    let broken = ["edit-config", "--force", "-p", "shared_preload_libraries=there_is_no_such_thing", SCOPE];
    stage.says(&broken, "Configuration changed").await;
    until(&stage.playground, "pg1 wants a restart", async || {
        stage.members().await.iter().any(|m| m["Member"] == "pg1" && m["Pending restart"] == "*")
    })
    .await;
    stage.says(&["restart", SCOPE, "pg1", "--force"], "status code=503, (restart failed)").await;
    stage.until_written().await;
    assert_ne!(stage.leader().await, "pg1");
    let mended = ["edit-config", "--force", "-p", "shared_preload_libraries=null", SCOPE];
    stage.says(&mended, "Configuration changed").await;
    stage.healthy().await;
    stage.nobody_was_refused("a restart that failed").await;
}

/// The cluster's keys go while it runs: the leader's server comes back as what it was, with the configuration that was
/// in force, and no standby takes the chance.
async fn removes(stage: &mut Stage) {
    let leader = stage.leader().await;
    let before = stage.run(&["show-config", SCOPE]).await;
    let answers: &'static str = match leader.as_str() {
        "pg2" => "demo\nYes I am aware\npg2\n",
        "pg3" => "demo\nYes I am aware\npg3\n",
        other => panic!("{other} leads"),
    };
    let output = stage.answers(&["remove", SCOPE], answers).await;
    assert!(output.status.success(), "{}", text(&output));
    stage.until_written().await;
    stage.playground.until_healthy(HEALTHY_WITHIN).await.expect("healthy after the keys were removed");
    assert_eq!(stage.leader().await, leader);
    assert_eq!(stage.run(&["show-config", SCOPE]).await, before);
    stage.until_written().await;
    // First what was acknowledged: the writer goes on.
    let journal = stage.writer.journal().clone();
    let kept = rows(stage.playground.node(&leader).postgres()).await;
    let lost: Vec<i64> =
        journal.writes.iter().map(|write| write.id).filter(|id| !kept.contains(id)).collect();
    assert_eq!(lost, Vec::<i64>::new(), "of {} acknowledged rows", journal.writes.len());
}
