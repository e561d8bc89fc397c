//! Patroni's own operator tool against a cluster of our agents: it must not notice the difference.

use std::fs;
use std::path::PathBuf;
use std::process::{Command, Output};

use serde_json::Value;
use xtask::playground::{HEALTHY_WITHIN, Options, Playground, SCOPE};
use xtask::{install, programs};

/// `patronictl`, installed once beside the programs.
fn patronictl() -> PathBuf {
    let programs = programs::built().expect("the programs are built");
    install::patroni::patroni(&programs).expect("Patroni").ctl
}

fn text(output: &Output) -> String {
    format!("{}{}", String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr))
}

struct Ctl {
    program: PathBuf,
    config: PathBuf,
}

impl Ctl {
    /// Runs a command to its end, off the runtime's threads.
    async fn run(&self, args: &[&str]) -> String {
        let mut command = Command::new(&self.program);
        command.arg("-c").arg(&self.config).args(args);
        let output = tokio::task::spawn_blocking(move || command.output()).await.expect("no panic");
        let output = output.expect("runs");
        let said = text(&output);
        assert!(output.status.success(), "patronictl {args:?} ended with {}:\n{said}", output.status);
        said
    }

    async fn members(&self) -> Vec<Value> {
        let listed = self.run(&["list", "--format", "json"]).await;
        let members: Value = serde_json::from_str(&listed).unwrap_or_else(|e| panic!("{e} in {listed}"));
        members.as_array().expect("a list").clone()
    }
}

fn role<'a>(members: &'a [Value], role: &str) -> Vec<&'a str> {
    let named = members.iter().filter(|m| m["Role"] == role);
    named.map(|m| m["Member"].as_str().expect("a name")).collect()
}

#[tokio::test(flavor = "multi_thread")]
async fn patronictl_lists_switches_over_and_edits() {
    let servers = install::servers().expect("PostgreSQL and etcd");
    let programs = programs::built().expect("the programs are built");
    let program = tokio::task::spawn_blocking(patronictl).await.expect("no panic");
    let say = |line: &str| eprintln!("  {line}");
    let options = Options { ttl: 30, proxies: 1, ..Options::default() };
    let mut playground = Playground::start(&options, &programs, &servers, &say).await.expect("a cluster");
    let config = playground.dir().join("patronictl.yml");
    let yaml = format!("scope: {SCOPE}\netcd3:\n  host: {}\n", playground.etcd.client());
    fs::write(&config, yaml).expect("writes");
    let ctl = Ctl { program, config };

    let members = ctl.members().await;
    assert_eq!(role(&members, "Leader"), ["pg1"], "{members:?}");
    assert_eq!(role(&members, "Replica"), ["pg2", "pg3"], "{members:?}");
    for member in &members {
        let (state, timeline) = (&member["State"], &member["TL"]);
        let expected = if member["Role"] == "Leader" { "running" } else { "streaming" };
        assert_eq!((state.as_str(), timeline.as_i64()), (Some(expected), Some(1)), "{member}");
    }
    let table = ctl.run(&["list"]).await;
    assert!(table.contains(&format!("Cluster: {SCOPE} (7")), "no system identifier in\n{table}");

    let said = ctl.run(&["switchover", "--leader", "pg1", "--candidate", "pg3", "--force", SCOPE]).await;
    assert!(said.contains("Successfully switched over to \"pg3\""), "{said}");
    playground.until_healthy(HEALTHY_WITHIN).await.expect("healthy after the switchover");
    let members = ctl.members().await;
    assert_eq!(role(&members, "Leader"), ["pg3"], "{members:?}");
    let history = ctl.run(&["history", "--format", "json"]).await;
    let history: Value = serde_json::from_str(&history).expect("JSON");
    assert_eq!(history[0]["New Leader"], "pg3", "{history}");

    // The parameter that does not exist is left out; without that no server would read any of them again.
    let edit = ["edit-config", "--force", "-s", "loop_wait=7", "-p", "work_mem=6MB", "-p", "no_such_thing=1"];
    let said = ctl.run(&[&edit[..], &[SCOPE]].concat()).await;
    assert!(said.contains("Configuration changed"), "{said}");
    let shown = ctl.run(&["show-config", SCOPE]).await;
    assert!(shown.contains("loop_wait: 7") && shown.contains("work_mem: 6MB"), "{shown}");
    work_mem_is(&mut playground, "6MB").await;

    let said = ctl.run(&["failover", "--candidate", "pg1", "--force", SCOPE]).await;
    assert!(said.contains("\"pg1\""), "{said}");
    playground.until_healthy(HEALTHY_WITHIN).await.expect("healthy after the failover");
    assert_eq!(playground.look().await.leader(), Ok("pg1".to_owned()));
    let versions = ctl.run(&["version", SCOPE]).await;
    assert!(versions.contains("pg2: Patroni 4.1.4"), "{versions}");
}

/// Every server has read the changed configuration.
async fn work_mem_is(playground: &mut Playground, expected: &str) {
    for node in &playground.nodes {
        let started = std::time::Instant::now();
        loop {
            let (client, connection) =
                node.superuser().connect(tokio_postgres::NoTls).await.expect("connects");
            let driver = tokio::spawn(connection);
            let row = client.query_one("SHOW work_mem", &[]).await.expect("answers");
            driver.abort();
            let value: String = row.get(0);
            if value == expected {
                break;
            }
            assert!(started.elapsed() < HEALTHY_WITHIN, "{} still has work_mem {value}", node.name);
            tokio::time::sleep(std::time::Duration::from_millis(50)).await;
        }
    }
}
