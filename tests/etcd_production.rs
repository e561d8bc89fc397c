//! etcd as it is in production: three members with the settings, users and roles of packaging/etcd, TLS everywhere. What
//! happens to it must not reach a client that writes through the proxy: no session cut, no row lost, the same primary.
//!
//! Agents log in by password, so that they have tokens to lose; the proxy is known by its certificate.

mod cluster_support;

use std::collections::HashSet;
use std::process::Output;
use std::time::{Duration, Instant};

use hyper::Method;
use rustix::process::Signal;
use tokio::process::Command;
use xtask::checks::LONG;
use xtask::install::{self, Servers, versions};
use xtask::playground::etcd::{EtcdOptions, Member};
use xtask::playground::node::MoreOfNode;
use xtask::playground::{Options, Playground, SCOPE, http};
use xtask::{drill, programs};

use self::cluster_support::writer::{Habit, Writer};
use self::cluster_support::{SOON, healthy, rows, switchover, until};

/// The lease time, as it is unless set.
const TTL_S: u32 = 10;

/// Writes that must be acknowledged after each event.
const SETTLED: usize = 50;

/// A cluster and who writes to it.
struct Stage {
    playground: Playground,
    writer: Writer,
    primary: String,
}

impl Stage {
    async fn set(servers: &Servers, more: &[(&str, &str)]) -> Stage {
        let programs = programs::built().expect("the programs are built");
        // A login would cost a tenth of a second of a processor, and the tests run side by side.
        let more = [&[("bcrypt-cost", "4")], more].concat();
        let more = more.iter().map(|(key, value)| ((*key).to_owned(), (*value).to_owned())).collect();
        let discover = MoreOfNode { etcd: "discover = true\n".to_owned(), ..MoreOfNode::default() };
        let options = Options {
            nodes: 2,
            proxies: 1,
            ttl: TTL_S,
            etcds: 3,
            etcd: EtcdOptions { guarded: true, more },
            more: vec![discover.clone(), discover],
            ..Options::default()
        };
        let say = |line: &str| eprintln!("  {line}");
        let playground = Playground::start(&options, &programs, servers, &say).await.expect("a cluster");
        drill::create_table(&playground).await.expect("a table");
        let primary = playground.look().await.leader().expect("one leads");
        let writer = Writer::start(playground.proxies[0].options().primary, Habit::Keeps);
        let stage = Stage { playground, writer, primary };
        stage.settle("the writer", Instant::now()).await;
        stage
    }

    /// Waits until enough writes that were sent later than `since` are acknowledged.
    async fn settle(&self, what: &str, since: Instant) {
        let later = || self.writer.journal().writes.iter().rev().take_while(|w| w.sent > since).count();
        until(&self.playground, &format!("writes after {what}"), async || later() >= SETTLED).await;
    }

    /// After something that began at `since` and must not have reached the writer.
    async fn unharmed(&self, what: &str, since: Instant) {
        self.settle(what, Instant::now()).await;
        let journal = self.writer.journal().clone();
        let logs = || self.playground.log_tails(60);
        assert!(journal.failures.is_empty(), "{what}: {:?}\n{}", journal.failures, logs());
        assert_eq!(journal.sessions, 1, "{what}");
        let sent: Vec<_> = journal.writes.iter().map(|w| w.sent).filter(|at| *at >= since).collect();
        let gap = sent.windows(2).map(|pair| pair[1] - pair[0]).max().unwrap_or_default();
        eprintln!("{what}: longest gap {} ms of {} ms", gap.as_millis(), since.elapsed().as_millis());
        let primary = self.playground.look().await.leader();
        assert_eq!(primary.as_ref(), Ok(&self.primary), "{what}\n{}", logs());
    }

    /// Everything that was acknowledged is there in the end.
    async fn lost_nothing(self) {
        let acknowledged: HashSet<_> = self.writer.journal().writes.iter().map(|write| write.id).collect();
        let primary = self.playground.look().await.leader().expect("one leads");
        let there: HashSet<_> = rows(self.playground.node(&primary).postgres()).await.into_iter().collect();
        let lost: Vec<_> = acknowledged.difference(&there).collect();
        assert!(lost.is_empty(), "lost: {lost:?}");
    }

    /// What etcd's tool says to its operator.
    async fn etcdctl(&mut self, args: &[&str]) -> String {
        let said = self.playground.etcd.ctl(args).await;
        said.unwrap_or_else(|error| panic!("{error}\n{}", self.playground.log_tails(40)))
    }

    async fn etcd_leader(&self) -> String {
        let mut leader = None;
        until(&self.playground, "a leader of etcd", async || {
            leader = self.playground.etcd.leader().await;
            leader.is_some()
        })
        .await;
        leader.expect("one leads")
    }

    async fn follower(&self) -> String {
        let leader = self.etcd_leader().await;
        let names = self.playground.etcd.names();
        names.into_iter().find(|name| *name != leader).expect("three members")
    }

    async fn kill(&mut self, member: &str) {
        self.playground.etcd.member_mut(member).kill().await;
    }

    /// Starts what was killed, and waits until all members are well.
    async fn restart_etcd(&mut self) {
        self.playground.restart_etcd().expect("starts");
        let observed: Vec<_> = self.playground.etcd.members().iter().map(Member::observe).collect();
        until(&self.playground, "all members of etcd", async || {
            for address in &observed {
                let health = http::get::<serde_json::Value>(*address, "/health", SOON).await;
                if !health.is_ok_and(|health| health["health"] == "true") {
                    return false;
                }
            }
            true
        })
        .await;
    }

    /// The value of a gauge of the agent of `node`.
    async fn gauge(&self, node: &str, name: &str) -> Option<String> {
        let address = self.playground.node(node).rest();
        let answer = http::request(Method::GET, address, "/metrics", String::new(), SOON).await.ok()?;
        let text = String::from_utf8_lossy(&answer.1).into_owned();
        let line = text.lines().find(|line| line.starts_with(&format!("{name}{{")))?;
        Some(line.rsplit_once(' ')?.1.to_owned())
    }

    /// Ends the agent of `name` and starts another one, which takes PostgreSQL, guard and lease over.
    async fn replace_agent(&mut self, name: &str) {
        let node = self.playground.node_mut(name);
        node.signal_agent(Signal::USR1);
        assert!(node.agent_ended_within(SOON).await, "the agent of {name} does not end");
        self.playground.restart_agent(name).expect("starts");
    }

    /// `pgvanectl` as a user of etcd that its certificate names.
    async fn pgvanectl(&self, user: &str, args: &[&str]) -> Output {
        let access = self.playground.etcd.access(user, false);
        let tls = access.tls.as_ref().expect("TLS");
        let mut command = Command::new(programs::built().expect("built").ctl);
        command.args(["--scope", SCOPE, "--endpoints"]).arg(access.urls().join(","));
        command.arg("--cacert").arg(&tls.cacert).arg("--cert").arg(&tls.cert).arg("--key").arg(&tls.key);
        command.args(args).env_remove("PGVANECTL_CONFIG").kill_on_drop(true);
        tokio::time::timeout(SOON, command.output()).await.expect("ends").expect("runs")
    }
}

fn text(output: &Output) -> String {
    format!("{}{}", String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr))
}

/// The newest revision, from what etcdctl says of all members.
fn revision(said: &str) -> String {
    let json: serde_json::Value = serde_json::from_str(said).expect("JSON");
    let revisions = json.as_array().into_iter().flatten();
    let newest = revisions.filter_map(|member| member["Status"]["header"]["revision"].as_u64()).max();
    newest.expect("a revision").to_string()
}

#[tokio::test(flavor = "multi_thread")]
async fn members_come_and_go() {
    let mut stage = Stage::set(&install::servers().expect("PostgreSQL and etcd"), &[]).await;

    let since = Instant::now();
    let follower = stage.follower().await;
    stage.kill(&follower).await;
    stage.settle("the loss of a follower", Instant::now()).await;
    stage.restart_etcd().await;
    stage.unharmed("a follower of etcd killed, and back", since).await;

    let since = Instant::now();
    let leader = stage.etcd_leader().await;
    stage.kill(&leader).await;
    let next = stage.etcd_leader().await;
    assert_ne!(leader, next);
    stage.settle("the loss of etcd's leader", Instant::now()).await;
    stage.restart_etcd().await;
    stage.unharmed("the leader of etcd killed, and back", since).await;

    let since = Instant::now();
    let (leader, heir) = (stage.etcd_leader().await, stage.follower().await);
    let listed = stage.etcdctl(&["member", "list"]).await;
    let id = listed.lines().find(|line| line.contains(&format!(" {heir},"))).expect("it is listed");
    let id = id.split(',').next().expect("an id");
    stage.playground.etcd.ctl_at(&leader, &["move-leader", id]).await.expect("moves");
    assert_eq!(stage.etcd_leader().await, heir);
    stage.unharmed("the leadership of etcd moved", since).await;

    // Whoever watches from a revision that is gone has to read anew.
    let since = Instant::now();
    for round in 0..20 {
        stage.etcdctl(&["put", "/other/key", &round.to_string()]).await;
    }
    let now = revision(&stage.etcdctl(&["endpoint", "status", "-w", "json"]).await);
    stage.etcdctl(&["compact", "--physical", &now]).await;
    stage.kill(&heir).await;
    stage.restart_etcd().await;
    stage.etcdctl(&["defrag"]).await;
    stage.unharmed("compacted to the newest revision, a member restarted, defragmented", since).await;

    let since = Instant::now();
    let old = stage.follower().await;
    let new = stage.playground.replace_etcd(&old).await.expect("a new member");
    stage.unharmed("a member of etcd replaced by one at another address", since).await;
    // Now the new one is needed for a majority.
    let since = Instant::now();
    let another = stage.playground.etcd.members()[0].name().to_owned();
    stage.kill(&another).await;
    stage.settle("the loss of an old member", Instant::now()).await;
    stage.restart_etcd().await;
    stage.unharmed("another member killed after that, and back", since).await;
    // The agents learn of it by themselves; with none but the new one left that they were not told of, they go on.
    let url = stage.playground.etcd.access("agent", true).urls().pop().expect("the newest");
    until(&stage.playground, &format!("the agents know {new}"), async || {
        ["pg1", "pg2"].iter().all(|name| {
            let log = stage.playground.log(name);
            log.lines().any(|line| line.contains("etcd has these members") && line.contains(&url))
        })
    })
    .await;
    let primary = stage.primary.clone();
    let since = Instant::now();
    stage.replace_agent(&primary).await;
    healthy(&mut stage.playground).await;
    stage.unharmed("the agent of the primary started anew", since).await;
    stage.lost_nothing().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_full_database_stops_no_primary_and_is_told() {
    let quota = [("quota-backend-bytes", "4194304")];
    let mut stage = Stage::set(&install::servers().expect("PostgreSQL and etcd"), &quota).await;
    let primary = stage.primary.clone();
    let since = Instant::now();
    let filling = "x".repeat(100_000);
    loop {
        let put = stage.playground.etcd.ctl(&["put", "/filling", &filling]).await;
        if put.is_err_and(|error| error.to_string().contains("database space exceeded")) {
            break;
        }
        assert!(since.elapsed() < SOON, "not full in {SOON:?}\n{}", stage.playground.log_tails(20));
    }
    until(&stage.playground, "the agents say so", async || {
        stage.gauge("pg1", "pgvane_agent_store_full").await.as_deref() == Some("1")
            && stage.gauge("pg2", "pgvane_agent_store_full").await.as_deref() == Some("1")
    })
    .await;
    // For longer than any lease lives: it is renewed all the while.
    stage.settle("a lease time", Instant::now() + Duration::from_secs(u64::from(TTL_S) + 1)).await;
    stage.unharmed("etcd full for longer than a lease lives", since).await;
    let check = stage.pgvanectl("reader", &["check"]).await;
    assert_eq!(check.status.code(), Some(2), "{}", text(&check));
    assert!(text(&check).contains("alarm:NOSPACE"), "{}", text(&check));
    let mut doctor = Command::new(programs::built().expect("built").ctl);
    doctor.arg("-c").arg(stage.playground.node(&primary).config()).args(["doctor", "-f", "json"]);
    let doctor = doctor.output().await.expect("runs");
    assert_eq!(doctor.status.code(), Some(2), "{}", text(&doctor));
    assert!(text(&doctor).contains("etcdctl compact, defrag, alarm disarm"), "{}", text(&doctor));
    let log = stage.playground.log(&primary);
    assert!(log.contains("nobody can take over until there is room"), "{log}");
    let refused = stage.pgvanectl("operator", &["switchover", "--force"]).await;
    assert!(!refused.status.success(), "{}", text(&refused));
    eprintln!("a switchover then: {}", text(&refused).trim());
    stage.unharmed("a switchover that is refused", since).await;

    // As docs/etcd.md has it.
    let since = Instant::now();
    let now = revision(&stage.etcdctl(&["endpoint", "status", "-w", "json"]).await);
    stage.etcdctl(&["compact", "--physical", &now]).await;
    stage.etcdctl(&["defrag"]).await;
    stage.etcdctl(&["alarm", "disarm"]).await;
    until(&stage.playground, "the agents say that there is room", async || {
        stage.gauge("pg1", "pgvane_agent_store_full").await.as_deref() == Some("0")
            && stage.gauge("pg2", "pgvane_agent_store_full").await.as_deref() == Some("0")
    })
    .await;
    stage.unharmed("room made in etcd", since).await;
    let check = stage.pgvanectl("reader", &["check"]).await;
    assert_eq!(check.status.code(), Some(0), "{}", text(&check));
    switchover(&stage.playground, &primary).await;
    stage.settle("the switchover", Instant::now()).await;
    stage.lost_nothing().await;
}

/// One of the long tests.
#[tokio::test(flavor = "multi_thread")]
async fn users_may_do_what_they_need_and_changes_of_them_cut_nobody() {
    if std::env::var_os(LONG).is_none() {
        return;
    }
    let mut stage = Stage::set(&install::servers().expect("PostgreSQL and etcd"), &[]).await;
    stage.playground.etcd.authorise("demo2").await.expect("another cluster's users");
    stage.etcdctl(&["put", "/service/demo2/leader", "somebody"]).await;
    let prefix = format!("/service/{SCOPE}/");
    let key = |name: &str| format!("{prefix}{name}");
    let user = |name: &str| format!("pgvane-{SCOPE}-{name}");

    let etcd = &mut stage.playground.etcd;
    for (name, config, leader) in
        [("agent", true, true), ("proxy", false, false), ("reader", false, false), ("operator", true, false)]
    {
        let user = user(name);
        let read = etcd.ctl_as(&user, &["get", "--prefix", &prefix]).await.expect("all read their cluster");
        assert!(read.contains(&key("leader")), "{name}: {read}");
        for (what, may) in [("config", config), ("leader", leader), ("x", leader)] {
            // Never changes anything: the key would have to be absent.
            let path = key(what);
            let written = etcd.ctl_as(&user, &["del", &format!("{path}.no-such-key")]).await;
            assert_eq!(written.is_ok(), leader, "{name} {path}: {written:?}");
            let value = etcd.ctl_as(&user, &["get", "--print-value-only", &path]).await.expect("reads");
            if what != "leader" {
                let written = etcd.ctl_as(&user, &["put", &path, value.trim()]).await;
                assert_eq!(written.is_ok(), may, "{name} {path}: {written:?}");
            }
        }
        for args in
            [&["get", "/service/demo2/leader"][..], &["put", "/service/demo2/x", "y"], &["user", "list"]]
        {
            let foreign = etcd.ctl_as(&user, args).await.expect_err("nothing of others").to_string();
            assert!(foreign.contains("permission denied"), "{name} {args:?}: {foreign}");
        }
    }
    etcd.ctl_as(&user("agent"), &["del", &key("x")]).await.expect("deletes");
    let listed = stage.pgvanectl("reader", &["list"]).await;
    assert!(listed.status.success() && text(&listed).contains("pg1"), "{}", text(&listed));
    for (name, code) in [("reader", Some(1)), ("operator", Some(0))] {
        let edited = stage.pgvanectl(name, &["edit-config", "--force", "--set", "loop_wait=2"]).await;
        assert_eq!(edited.status.code(), code, "{name}: {}", text(&edited));
    }

    // Patroni's own tool comes through etcd's gateway, where only a password counts.
    let program = tokio::task::spawn_blocking(|| {
        install::patroni::patroni(&programs::built().expect("built")).expect("Patroni").ctl
    });
    let program = program.await.expect("no panic");
    let file = stage.playground.dir().join("patronictl.yml");
    let access = stage.playground.etcd.access("operator", true);
    std::fs::write(&file, format!("scope: {SCOPE}\netcd3:\n{}", access.yaml())).expect("writes");
    let mut patronictl = Command::new(program);
    patronictl.arg("-c").arg(&file).args(["edit-config", "--force", "--set", "loop_wait=3"]);
    let edited = patronictl.output().await.expect("runs");
    assert!(edited.status.success() && text(&edited).contains("Configuration changed"), "{}", text(&edited));

    // The tokens of all that log in by password end with a change of their user.
    let since = Instant::now();
    for _ in 0..3 {
        stage.playground.etcd.authorise(SCOPE).await.expect("again");
        stage.settle("new passwords", Instant::now()).await;
    }
    stage.unharmed("all users set anew three times", since).await;

    let since = Instant::now();
    let lives = Instant::now() + Duration::from_secs(u64::from(TTL_S));
    stage.etcdctl(&["auth", "disable"]).await;
    stage.settle("authentication off", Instant::now()).await;
    stage.etcdctl(&["auth", "enable"]).await;
    stage.settle("a lease time", lives).await;
    stage.unharmed("authentication off and on", since).await;

    let since = Instant::now();
    stage.playground.renew_etcd_certificates().expect("writes");
    for name in ["etcd1", "etcd2", "etcd3"] {
        stage.kill(name).await;
        stage.restart_etcd().await;
    }
    stage.unharmed("all certificates replaced, all members restarted one by one", since).await;

    // Two users, one after the other: there is no moment at which the agents know a password that is not good.
    let since = Instant::now();
    let next = format!("{}2", user("agent"));
    stage.etcdctl(&["user", "add", &format!("{next}:another")]).await;
    stage.etcdctl(&["user", "grant-role", &next, &user("agent")]).await;
    for name in ["pg1", "pg2"] {
        let file = stage.playground.node(name).config();
        let settings = std::fs::read_to_string(&file).expect("reads");
        let password = settings.lines().find(|line| line.starts_with("password = ")).expect("one of etcd's");
        let settings = settings.replacen(password, "password = \"another\"", 1);
        let settings = settings.replacen(&format!("{:?}", user("agent")), &format!("{next:?}"), 1);
        std::fs::write(&file, settings).expect("writes");
        stage.replace_agent(name).await;
        healthy(&mut stage.playground).await;
    }
    stage.etcdctl(&["user", "delete", &user("agent")]).await;
    stage.settle("a lease time", Instant::now() + Duration::from_secs(u64::from(TTL_S))).await;
    stage.unharmed("agents that log in as another user, the old one deleted", since).await;
    stage.lost_nothing().await;
}

/// Tokens end every two seconds, which etcd can be told from 3.5 on.
#[tokio::test(flavor = "multi_thread")]
async fn tokens_end_and_an_etcd_3_5_does_as_well() {
    let edition = tokio::task::spawn_blocking(|| versions::ETCD_3_5_1.programs()).await.expect("no panic");
    let etcd = edition.expect("etcd 3.5").join("etcd");
    let servers = Servers { etcd, ..install::servers().expect("PostgreSQL") };
    let mut stage = Stage::set(&servers, &[("auth-token-ttl", "2")]).await;
    let since = Instant::now();
    stage.settle("tokens that end", Instant::now() + Duration::from_secs(5)).await;
    let leader = stage.etcd_leader().await;
    stage.kill(&leader).await;
    stage.etcd_leader().await;
    stage.restart_etcd().await;
    stage.unharmed("tokens of two seconds, and etcd's leader killed", since).await;
    let primary = stage.primary.clone();
    switchover(&stage.playground, &primary).await;
    healthy(&mut stage.playground).await;
    stage.settle("the switchover", Instant::now()).await;
    stage.lost_nothing().await;
}
