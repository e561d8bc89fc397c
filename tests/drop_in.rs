//! Agents run from the patroni.yml that is there, and from the environment; settings that are read again, well and
//! badly; the log that operators know; and no password anywhere.

mod cluster_support;

use std::fs;
use std::path::Path;
use std::process::Command;
use std::time::Duration;

use hyper::Method;
use rustix::process::Signal;
use serde_json::Value;
use tokio_postgres::NoTls;
use xtask::playground::node::AgentSettings;
use xtask::playground::{Options, Playground, http};
use xtask::{install, programs};

use crate::cluster_support::until;

/// Bound on one question.
const SOON: Duration = Duration::from_secs(5);

/// Secrets that stand in the files themselves.
const OPERATORS: &str = "opensesame-2025";

#[tokio::test(flavor = "multi_thread")]
async fn a_patroni_yml_is_enough() {
    let servers = install::servers().expect("PostgreSQL and etcd");
    let programs = programs::built().expect("the programs are built");
    let say = |line: &str| eprintln!("  {line}");
    let options =
        Options { proxies: 1, settings: AgentSettings::PatronisAndEnvironment, ..Options::default() };
    let mut playground = Playground::start(&options, &programs, &servers, &say).await.expect("a cluster");
    first_words(&playground).await;
    no_password_is_shown(&playground);

    taken(&mut playground).await;
    refused(&mut playground).await;
    operators_hands(&playground, &programs.ctl).await;
    no_password_is_shown(&playground);
    every_line_has_patronis_form(&playground);
}

/// What each member says of its beginning.
async fn first_words(playground: &Playground) {
    let expected: [(&str, &[&str]); 3] = [
        (
            "pg1",
            &[
                "INFO: trying to bootstrap a new cluster",
                "INFO: initialized a new cluster",
                "INFO: Lock owner: None; I am pg1",
                "INFO: no action. I am (pg1), the leader with the lock",
            ],
        ),
        (
            "pg2",
            &[
                "INFO: trying to bootstrap from leader 'pg1'",
                "INFO: replica has been created using basebackup",
                "INFO: bootstrapped from leader 'pg1'",
                "INFO: no action. I am (pg2), a secondary, and following a leader (pg1)",
            ],
        ),
        ("pg3", &["INFO: no action. I am (pg3), a secondary, and following a leader (pg1)"]),
    ];
    for (name, lines) in expected {
        for line in lines {
            until(playground, line, async || playground.log(name).contains(line)).await;
        }
    }
    // Once per loop_wait, although the loop turns many times a second.
    let heartbeat = "no action. I am (pg1), the leader with the lock";
    let beats = || playground.log("pg1").matches(heartbeat).count();
    let before = beats();
    until(playground, "a second heartbeat", async || beats() > before).await;
    assert!(beats() < 30, "{} heartbeats", beats());
}

/// Changes a node's settings file and tells its agent.
fn change(playground: &mut Playground, name: &str, change: impl Fn(&str) -> String) {
    let file = playground.node(name).patroni_config();
    let before = fs::read_to_string(&file).expect("reads");
    let after = change(&before);
    assert_ne!(before, after, "nothing was changed");
    // In one step, and with the permissions that it has.
    fs::write(&file, after).expect("writes");
    playground.node_mut(name).signal_agent(Signal::HUP);
}

async fn metric(playground: &Playground, name: &str, series: &str) -> Option<u64> {
    let rest = playground.node(name).rest();
    let (_, page) = http::request(Method::GET, rest, "/metrics", String::new(), SOON).await.ok()?;
    let page = String::from_utf8_lossy(&page).into_owned();
    let line = page.lines().find(|line| line.starts_with(&format!("{series}{{")))?;
    line.rsplit(' ').next()?.parse().ok()
}

/// What the node's server has this parameter set to.
async fn shown(playground: &Playground, name: &str, parameter: &str) -> Option<String> {
    let (client, connection) = playground.node(name).superuser().connect(NoTls).await.ok()?;
    let driver = tokio::spawn(connection);
    let row = client.query_one(&format!("SHOW {parameter}"), &[]).await;
    driver.abort();
    Some(row.ok()?.get(0))
}

/// A tag, a parameter, the API's login, a callback and the place of the log come into force in a running agent.
async fn taken(playground: &mut Playground) {
    let rest = playground.node("pg2").rest();
    let notes = playground.dir().join("pg2/callbacks");
    let told =
        format!("sh -c 'echo \"$0 $1 $2 ${{PATRONI_SUPERUSER_PASSWORD-none}}\" >>{}'", notes.display());
    let logs = playground.dir().join("pg2");
    let more =
        format!("tags:\n  dc: east\n  noloadbalance: yes\nlog:\n  level: DEBUG\n  dir: {}\n", logs.display());
    change(playground, "pg2", |text| {
        let text = text.replace(
            "  parameters:\n    shared_buffers",
            &format!(
                "  callbacks:\n    on_reload: {told}\n  parameters:\n    work_mem: 8MB\n    shared_buffers"
            ),
        );
        let login = format!("restapi:\n  authentication:\n    username: admin\n    password: {OPERATORS}\n");
        text.replace("restapi:\n", &login) + &more
    });
    until(playground, "the tags", async || {
        let cluster: Result<Value, _> = http::get(rest, "/cluster", SOON).await;
        let Ok(cluster) = cluster else { return false };
        let members = cluster["members"].as_array().cloned().unwrap_or_default();
        members
            .iter()
            .any(|m| m["name"] == "pg2" && m["tags"]["dc"] == "east" && m["tags"]["noloadbalance"] == true)
    })
    .await;
    until(playground, "the parameter", async || {
        shown(playground, "pg2", "work_mem").await.as_deref() == Some("8MB")
    })
    .await;
    assert_eq!(metric(playground, "pg2", "pgvane_agent_reloads_total").await, Some(1));
    let changed = "the settings were read again changed=\"restapi.authentication.username, \
                   restapi.authentication.password, ctl.authentication.username, ctl.authentication.password, \
                   postgresql.parameters.work_mem, postgresql.callbacks, tags.dc, tags.noloadbalance, log.level, \
                   log.dir\"";
    let log = || fs::read_to_string(logs.join("patroni.log")).unwrap_or_default();
    until(playground, "the log's new place", async || log().contains(changed)).await;
    until(playground, "the callback", async || {
        fs::read_to_string(&notes).is_ok_and(|told| told.contains("on_reload replica demo none"))
    })
    .await;
    until(playground, "debug lines", async || log().contains(" DEBUG: ")).await;

    // Whoever wants to change something needs the login from now on; a reload by request is one of these.
    let refused = http::request(Method::POST, rest, "/reload", String::new(), SOON).await.expect("answers");
    assert_eq!(refused.0.as_u16(), 401, "{}", playground.log_tails(30));
}

/// What is wrong in a file leaves all as it was, is named with its place, and counted; what needs a restart is named.
async fn refused(playground: &mut Playground) {
    let log = playground.dir().join("pg2/patroni.log");
    let log = || fs::read_to_string(&log).unwrap_or_default();
    change(playground, "pg2", |text| {
        text.replace("work_mem: 8MB", "work_mem: 9MB").replace("noloadbalance: yes", "nofailover: maybe")
    });
    let failures = "pgvane_agent_reload_failures_total";
    until(playground, "the failure", async || metric(playground, "pg2", failures).await == Some(1)).await;
    let file = playground.node("pg2").patroni_config();
    let lines = fs::read_to_string(&file).expect("reads");
    let line = lines.lines().position(|line| line.contains("maybe")).expect("it is there") + 1;
    let said = format!(
        " ERROR: the settings are wrong, and the last good ones stay in force: {}:{line}:15: tags.nofailover: \
         true or false is expected, not \"maybe\"",
        file.display()
    );
    assert!(log().contains(&said), "{said}\n{}", log());
    assert_eq!(shown(playground, "pg2", "work_mem").await.as_deref(), Some("8MB"));

    change(playground, "pg2", |text| {
        let text = text.replace("nofailover: maybe", "noloadbalance: yes");
        let text = text.replace("name: pg2", "name: other").replace("etcd3:\n", "loop_wait: 10\netcd3:\n");
        text.replace("restapi:\n", "restapi:\n  lisen: x\n")
    });
    until(playground, "the corrected parameter", async || {
        shown(playground, "pg2", "work_mem").await.as_deref() == Some("9MB")
    })
    .await;
    for said in [
        "restapi.lisen is unknown and ignored; did you mean restapi.listen?",
        "loop_wait is ignored: it belongs to the dynamic configuration",
        "changed, but taken only when the agent is restarted; the old values stay in force settings=name\n",
    ] {
        assert!(log().contains(said), "{said}\n{}", log());
    }
    assert_eq!(metric(playground, "pg2", failures).await, Some(1));
}

/// pgvanectl works with the same file, and a switchover is told in the words that operators know.
async fn operators_hands(playground: &Playground, pgvanectl: &Path) {
    let ctl = async |args: &[&str]| {
        let (program, file) = (pgvanectl.to_owned(), playground.node("pg1").patroni_config());
        let args: Vec<String> = args.iter().map(|arg| (*arg).to_owned()).collect();
        let run = move || Command::new(program).arg("-c").arg(file).args(args).output();
        let output = tokio::task::spawn_blocking(run).await.expect("no panic").expect("starts");
        let said = String::from_utf8_lossy(&[output.stdout, output.stderr].concat()).into_owned();
        assert!(output.status.success(), "{said}\n{}", playground.log_tails(60));
        said
    };
    let list = ctl(&["list"]).await;
    assert!(["pg1", "pg2", "pg3"].iter().all(|name| list.contains(name)), "{list}");
    ctl(&["switchover", "--candidate", "pg3", "--force"]).await;
    for (name, line) in [
        ("pg1", "INFO: switchover: demoting myself"),
        ("pg1", "INFO: Leader key released"),
        ("pg1", "INFO: starting as a secondary"),
        ("pg1", "INFO: no action. I am (pg1), a secondary, and following a leader (pg3)"),
        ("pg3", "INFO: promoted self to leader by acquiring session lock"),
        ("pg3", "INFO: no action. I am (pg3), the leader with the lock"),
    ] {
        until(playground, line, async || playground.log(name).contains(line)).await;
    }
    ctl(&["pause"]).await;
    let paused = "INFO: PAUSE: no action. I am (pg3), the leader with the lock";
    until(playground, paused, async || playground.log("pg3").contains(paused)).await;
    ctl(&["resume"]).await;
}

/// No log, no command line and no process's environment holds a password, nor does anything that agents start get
/// the variables they were told by.
fn no_password_is_shown(playground: &Playground) {
    let secrets: Vec<String> = playground
        .node("pg1")
        .passwords()
        .map(str::to_owned)
        .into_iter()
        .chain([OPERATORS.to_owned()])
        .collect();
    let holds = |bytes: &[u8]| {
        let text = String::from_utf8_lossy(bytes);
        secrets.iter().any(|secret| text.contains(secret.as_str()))
    };
    let dir = playground.dir();
    let mut seen = 0;
    for entry in fs::read_dir("/proc").expect("reads").flatten() {
        let of = |what: &str| fs::read(entry.path().join(what)).unwrap_or_default();
        let command = of("cmdline");
        let shown = String::from_utf8_lossy(&command).replace('\0', " ");
        if !shown.contains(&dir.display().to_string()) {
            continue;
        }
        seen += 1;
        assert!(!holds(&command), "{shown}");
        let environment = of("environ");
        assert!(!holds(&environment), "the environment of {shown}");
        assert!(!String::from_utf8_lossy(&environment).contains("PATRONI_"), "{shown} has variables of ours");
    }
    // Agents, guards and servers at least.
    assert!(seen >= 9, "only {seen} processes of {} were found", dir.display());
    let logs = fs::read_dir(dir.join("logs")).expect("reads").flatten().map(|entry| entry.path());
    for log in logs.chain([dir.join("pg2/patroni.log")]) {
        assert!(!holds(&fs::read(&log).unwrap_or_default()), "{}", log.display());
    }
}

/// `YYYY-MM-DD HH:MM:SS,mmm LEVEL: text`, every line of every agent and guard.
fn every_line_has_patronis_form(playground: &Playground) {
    let moved = fs::read_to_string(playground.dir().join("pg2/patroni.log")).expect("reads");
    let all = ["pg1", "pg2", "pg3"].map(|name| playground.log(name)).concat() + &moved;
    for line in all.lines() {
        let digits: String =
            line.chars().take(23).map(|c| if c.is_ascii_digit() { '0' } else { c }).collect();
        let level = line.get(23..).and_then(|rest| rest.strip_prefix(' ')?.split_once(": "));
        let levels = ["DEBUG", "INFO", "WARNING", "ERROR"];
        let good = digits == "0000-00-00 00:00:00,000"
            && level.is_some_and(|(level, text)| levels.contains(&level) && !text.is_empty());
        assert!(good, "{line:?}");
    }
    assert!(all.lines().count() > 50, "{all}");
}
