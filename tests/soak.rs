//! Thousands of sessions, everything that ends them, and nothing left of them: no session, descriptor or memory.
//!
//! Always played for a short while with few; `cargo xtask test --long` plays 2,000 sessions for 20 minutes.

mod cluster_support;

use std::fmt;
use std::fs;
use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use cluster_support::SOON;
use cluster_support::tools::operate;
use cluster_support::writer::config;
use rustix::process::Signal;
use serde_json::Value;
use tokio::task::JoinSet;
use tokio::time::{sleep, timeout};
use tokio_postgres::NoTls;
use xtask::checks::LONG;
use xtask::playground::{Options, Playground};
use xtask::{drill, install, programs};

/// How much is played.
struct Scale {
    sessions: usize,
    lasts: Duration,
    /// Time between two disturbances.
    pause: Duration,
}

impl Scale {
    fn of_this_run() -> Scale {
        if std::env::var_os(LONG).is_some() {
            Scale { sessions: 2000, lasts: Duration::from_mins(20), pause: Duration::from_secs(3) }
        } else {
            Scale { sessions: 60, lasts: Duration::from_secs(15), pause: Duration::from_millis(400) }
        }
    }
}

/// A small generator; the seed is told, so that a run can be played again.
struct Dice(u64);

impl Dice {
    fn roll(&mut self, below: usize) -> usize {
        self.0 = self.0.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        usize::try_from(self.0 >> 33).expect("31 bits") % below.max(1)
    }
}

/// What the clients did.
#[derive(Default)]
struct Done {
    queries: AtomicU64,
    opened: AtomicU64,
    cut: AtomicU64,
    refused: AtomicU64,
    vanished: AtomicU64,
}

impl fmt::Display for Done {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let of = |count: &AtomicU64| count.load(Ordering::Relaxed);
        write!(
            f,
            "{} queries, {} sessions opened, {} cut, {} vanished in a query, {} refused",
            of(&self.queries),
            of(&self.opened),
            of(&self.cut),
            of(&self.vanished),
            of(&self.refused)
        )
    }
}

/// One client: asks now and then, comes back when it is cut, and sometimes vanishes in the middle of a query.
async fn client(at: SocketAddr, seed: u64, done: Arc<Done>) {
    let mut dice = Dice(seed);
    loop {
        sleep(Duration::from_millis(dice.roll(500) as u64)).await;
        let Ok((client, connection)) = config(at).connect(NoTls).await else {
            done.refused.fetch_add(1, Ordering::Relaxed);
            continue;
        };
        done.opened.fetch_add(1, Ordering::Relaxed);
        let driver = tokio::spawn(connection);
        loop {
            sleep(Duration::from_millis(500 + dice.roll(2500) as u64)).await;
            if dice.roll(60) == 0 {
                // The connection goes with a query on the way.
                let asked = timeout(Duration::from_millis(1), client.simple_query("SELECT pg_sleep(0.2)"));
                let _ = asked.await;
                done.vanished.fetch_add(1, Ordering::Relaxed);
                break;
            }
            let query = match dice.roll(20) {
                // Enough for the kernel's way through a pipe.
                0 => "SELECT repeat('x', 2000000)",
                _ => "SELECT repeat('x', 100)",
            };
            if client.simple_query(query).await.is_err() {
                done.cut.fetch_add(1, Ordering::Relaxed);
                break;
            }
            done.queries.fetch_add(1, Ordering::Relaxed);
        }
        driver.abort();
    }
}

/// What the process holds.
#[derive(Clone, Copy, Debug)]
struct Held {
    descriptors: usize,
    resident_kib: u64,
}

fn held(pid: u64) -> Held {
    let status = fs::read_to_string(format!("/proc/{pid}/status")).expect("the proxy runs");
    let resident = status.lines().find_map(|line| line.strip_prefix("VmRSS:")).expect("its memory");
    Held {
        descriptors: fs::read_dir(format!("/proc/{pid}/fd")).expect("its descriptors").count(),
        resident_kib: resident.trim().trim_end_matches(" kB").parse().expect("a number"),
    }
}

/// Whom to disturb.
struct Scene {
    playground: Playground,
    settings: String,
}

impl Scene {
    async fn operate(&self, arguments: &[&str]) -> String {
        operate(self.playground.proxies[0].socket(), arguments).await.unwrap_or_default()
    }

    async fn status(&self) -> Value {
        serde_json::from_str(&self.operate(&["status", "--format", "json"]).await).expect("a status")
    }

    async fn sessions(&self) -> usize {
        let listeners = self.status().await["listeners"].as_array().cloned().unwrap_or_default();
        let count = |listener: &Value| {
            usize::try_from(listener["sessions"].as_u64().expect("a count")).expect("small")
        };
        listeners.iter().map(count).sum()
    }

    async fn disturb(&mut self, dice: &mut Dice, round: usize) -> &'static str {
        // Changes of primary are rare, as they cut half of all sessions.
        if round % 40 == 20 {
            let leader = self.playground.look().await.leader();
            if let Ok(leader) = leader {
                let agent = self.playground.node(&leader).rest();
                let body = serde_json::json!({ "leader": leader }).to_string();
                let _ =
                    xtask::playground::http::request(hyper::Method::POST, agent, "/switchover", body, SOON)
                        .await;
            }
            return "a switchover";
        }
        if round.is_multiple_of(40) {
            if let Ok(leader) = self.playground.look().await.leader() {
                self.playground.node(&leader).kill_postmaster();
            }
            return "a killed primary";
        }
        match dice.roll(6) {
            0 | 1 => {
                let sessions: Value =
                    serde_json::from_str(&self.operate(&["sessions", "--format", "json"]).await)
                        .expect("a list");
                let all = sessions.as_array().map(Vec::as_slice).unwrap_or_default();
                for _ in 0..5 {
                    if let Some(number) = all.get(dice.roll(all.len())).map(|one| one["session"].to_string())
                    {
                        self.operate(&["kill", &number]).await;
                    }
                }
                "sessions killed"
            }
            2 => {
                let limit = 5000 + round;
                let settings = format!("{}max_sessions = {limit}\n", self.settings);
                fs::write(self.playground.proxies[0].file(), settings).expect("writes");
                assert_eq!(self.operate(&["reload"]).await, "settings reloaded\n");
                "a reload"
            }
            3 => {
                let node = ["pg1", "pg2", "pg3"][dice.roll(3)];
                self.operate(&["disable", node]).await;
                sleep(Duration::from_millis(200)).await;
                self.operate(&["enable", node]).await;
                "a server disabled and enabled"
            }
            4 => {
                self.playground.etcd.signal(Signal::STOP);
                sleep(Duration::from_millis(500)).await;
                self.playground.etcd.signal(Signal::CONT);
                "the store frozen for a moment"
            }
            _ => {
                let node = ["pg1", "pg2", "pg3"][dice.roll(3)];
                if let Ok((client, connection)) = self.playground.node(node).superuser().connect(NoTls).await
                {
                    let driver = tokio::spawn(connection);
                    let some = "SELECT pg_terminate_backend(pid) FROM pg_stat_activity \
                                WHERE backend_type = 'client backend' AND pid <> pg_backend_pid() AND random() < 0.05";
                    let _ = client.simple_query(some).await;
                    driver.abort();
                }
                "backends terminated"
            }
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn nothing_is_left_of_sessions_whatever_ends_them() {
    let scale = Scale::of_this_run();
    let servers = install::servers().expect("PostgreSQL and etcd");
    let programs = programs::built().expect("the programs are built");
    let max_connections = u32::try_from(scale.sessions).expect("some thousands") + 50;
    let options = Options { nodes: 3, proxies: 1, ttl: 10, max_connections, ..Options::default() };
    let say = |line: &str| eprintln!("  {line}");
    let playground = Playground::start(&options, &programs, &servers, &say).await.expect("a cluster");
    drill::create_table(&playground).await.expect("a table");
    let settings = fs::read_to_string(playground.proxies[0].file()).expect("its settings");
    let mut scene = Scene { playground, settings };
    let site = scene.playground.proxies[0].options().clone();
    let pid = scene.status().await["pid"].as_u64().expect("a process id");
    let before = held(pid);

    let seed = u64::from(std::process::id());
    eprintln!("seed {seed}, {} sessions for {:?}", scale.sessions, scale.lasts);
    let (done, mut clients) = (Arc::new(Done::default()), JoinSet::new());
    for number in 0..scale.sessions {
        // Writes on a third of them.
        let at = if number % 3 == 0 { site.primary } else { site.replica };
        clients.spawn(client(at, seed + number as u64, Arc::clone(&done)));
    }
    let started = Instant::now();
    // Everything that is allocated once is by then.
    let warm_up = scale.lasts / 8;
    let (mut dice, mut round, mut warm) = (Dice(seed), 0, None);
    while started.elapsed() < scale.lasts {
        sleep(scale.pause).await;
        round += 1;
        let what = scene.disturb(&mut dice, round).await;
        let now = held(pid);
        if warm.is_none() && started.elapsed() > warm_up {
            warm = Some(now);
        }
        eprintln!(
            "{:>5.0} s: {what}; {} sessions, {now:?}",
            started.elapsed().as_secs_f64(),
            scene.sessions().await
        );
    }
    eprintln!("{done}");
    let busy = held(pid);

    // Everybody leaves.
    clients.shutdown().await;
    let deadline = Instant::now() + SOON;
    while scene.sessions().await > 0 {
        assert!(Instant::now() < deadline, "{} sessions are left", scene.sessions().await);
        sleep(Duration::from_millis(100)).await;
    }
    let status = scene.status().await;
    for member in status["clusters"][0]["members"].as_array().expect("members") {
        assert_eq!(member["sessions"], 0, "{member}");
    }
    let after = held(pid);
    let warm = warm.expect("it lasted longer than the warm-up");
    eprintln!("before {before:?}, warm {warm:?}, at the end {busy:?}, after all have left {after:?}");
    // Each worker keeps up to 16 pipes for reuse; who asks for the status is a connection itself.
    let kept = std::thread::available_parallelism().map_or(1, std::num::NonZero::get) * 16 * 2;
    assert!(after.descriptors <= before.descriptors + kept + 4, "descriptors: {before:?}, {after:?}");
    let grown = busy.resident_kib.saturating_sub(warm.resident_kib);
    assert!(grown < warm.resident_kib / 4 + 4096, "memory grew by {grown} KiB: {warm:?}, {busy:?}");
    assert!(done.queries.load(Ordering::Relaxed) > 0 && done.cut.load(Ordering::Relaxed) > 0, "{done}");
}
