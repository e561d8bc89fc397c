//! Changes under load on real servers: no reload and no new version costs a client anything.

mod cluster_support;

use std::path::Path;
use std::time::Duration;

use cluster_support::small;
use cluster_support::tools::{operate, tool};
use tokio::time::{sleep, timeout};
use tokio_postgres::NoTls;
use xtask::playground::CLIENT_ROLE;

const RELOADS: usize = 20;
const UPGRADES: usize = 5;

/// Bound on every wait.
const SOON: Duration = Duration::from_mins(1);

/// Who answers now.
async fn pid(socket: &Path) -> u64 {
    let status = operate(socket, &["status", "--format", "json"]).await.expect("a status");
    let status: serde_json::Value = serde_json::from_str(&status).expect("JSON");
    status["pid"].as_u64().expect("a process id")
}

#[tokio::test(flavor = "multi_thread")]
async fn twenty_reloads_and_five_new_versions_cost_no_client_anything() {
    let mut playground = small().await;
    let site = playground.proxies[0].options().clone();
    let (file, socket) = (playground.proxies[0].file().to_owned(), playground.proxies[0].socket().to_owned());
    let port = site.primary.port().to_string();

    // One who stays, and many who come and go.
    let url = format!("host=127.0.0.1 port={port} user={CLIENT_ROLE} dbname=postgres");
    let (stays, connection) = tokio_postgres::connect(&url, NoTls).await.expect("let in");
    tokio::spawn(connection);
    let script = file.with_file_name("select.sql");
    std::fs::write(&script, "SELECT 1;\n").expect("write");
    let script = script.display().to_string();
    let args = ["-n", "-C", "-c", "4", "-T", "20", "-h", "127.0.0.1", "-p", &port, "-U", CLIENT_ROLE];
    let mut pgbench = tool("pgbench", &[&args[..], &["-f", &script, "postgres"]].concat());
    let pgbench = pgbench.spawn().expect("pgbench starts");
    let load = tokio::spawn(pgbench.wait_with_output());

    let settings = std::fs::read_to_string(&file).expect("its settings");
    let mut pids = vec![pid(&socket).await];
    for round in 1..=RELOADS {
        let changed = format!("{settings}max_sessions = {}\n", 1000 + round);
        std::fs::write(&file, changed).expect("write");
        let said = operate(&socket, &["reload"]).await.expect("reloaded");
        assert_eq!(said, "settings reloaded\n");
        if round % (RELOADS / UPGRADES) == 0 {
            let said = operate(&socket, &["upgrade"]).await.expect("upgraded");
            assert!(said.starts_with("handed over to process "), "{said}");
            pids.push(pid(&socket).await);
        }
        sleep(Duration::from_millis(100)).await;
        assert!(!load.is_finished(), "the load ended before the changes did");
    }
    let distinct: std::collections::BTreeSet<_> = pids.iter().collect();
    assert_eq!(distinct.len(), UPGRADES + 1, "another process each time: {pids:?}");
    stays.simple_query("SELECT 1").await.expect("five versions later it is still there");
    assert!(playground.proxies[0].is_running(), "the first process drains while a session is on it");

    let output = timeout(SOON, load).await.expect("in time").expect("no panic").expect("pgbench ends");
    let (said, complained) =
        (String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr));
    assert!(output.status.success() && complained.is_empty(), "{said}\n{complained}");
    assert!(said.contains("number of failed transactions: 0 (0.000%)"), "{said}");
    eprintln!("{said}");

    // It has nothing left to wait for now.
    drop(stays);
    timeout(SOON, async {
        while playground.proxies[0].is_running() {
            sleep(Duration::from_millis(10)).await;
        }
    })
    .await
    .expect("the first process ends");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_new_version_that_cannot_start_changes_nothing() {
    let playground = small().await;
    let one = &playground.proxies[0];
    let before = pid(one.socket()).await;
    let settings = std::fs::read_to_string(one.file()).expect("its settings");
    std::fs::write(one.file(), format!("{settings}max_sesions = 1\n")).expect("write");
    let why = operate(one.socket(), &["reload"]).await.expect_err("refused");
    assert!(
        why.contains("unknown key `max_sesions`") && why.contains("did you mean `max_sessions`?"),
        "{why}"
    );
    let why = operate(one.socket(), &["upgrade"]).await.expect_err("refused");
    assert!(why.contains("the next version ended before it served (exit status: 64)"), "{why}");
    assert_eq!(pid(one.socket()).await, before);
    let url =
        format!("host=127.0.0.1 port={} user={CLIENT_ROLE} dbname=postgres", one.options().primary.port());
    let (client, connection) = tokio_postgres::connect(&url, NoTls).await.expect("let in");
    let connection = tokio::spawn(connection);
    client.simple_query("SELECT 1").await.expect("it serves as before");

    // What an operator sees and does.
    let sessions = operate(one.socket(), &["sessions"]).await.expect("a list");
    let row = sessions.lines().find(|line| line.contains("pg1")).expect("one session");
    let number = row.split('|').nth(1).expect("a column").trim();
    let said = operate(one.socket(), &["drain", "pg1"]).await.expect("drained");
    assert_eq!(said, "pg1 is draining; sessions that go on: 1\n");
    let status = operate(one.socket(), &["status"]).await.expect("a status");
    assert!(status.lines().any(|line| line.contains("pg1") && line.contains("draining")), "{status}");
    client.simple_query("SELECT 1").await.expect("its sessions go on");
    let said = operate(one.socket(), &["kill", number]).await.expect("killed");
    assert_eq!(said, format!("session {number} is ended\n"));
    let error = timeout(SOON, connection).await.expect("in time").expect("no panic").expect_err("cut");
    assert_eq!(error.code().map(tokio_postgres::error::SqlState::code), Some("57P01"), "{error}");
    let said = operate(one.socket(), &["enable", "pg1"]).await.expect("enabled");
    assert_eq!(said, "pg1 is enabled\n");
    let _again = tokio_postgres::connect(&url, NoTls).await.expect("let in again");
    let why = operate(one.socket(), &["drain", "pg9"]).await.expect_err("no such member");
    assert!(why.contains("cluster demo has no member \"pg9\"; it has: pg1"), "{why}");
}
