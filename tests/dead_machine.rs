//! A primary all of whose processes end: replicas see their streams closed at once. At a `ttl` so long that they ask
//! the dead leader for its history before its lease ends.

mod cluster_support;

use std::fs;
use std::time::{Duration, Instant};

use cluster_support::{SOON, ask, until};
use hyper::Method;
use rustix::process::Signal;
use xtask::playground::parts::Role;
use xtask::playground::picture::Agent;
use xtask::playground::{Options, Playground, PlaygroundError, Prepared, Wanted, http, network};
use xtask::{install, programs};

/// Replicas that get no WAL ask after 5 s, and have an answer or none 3 s later.
const TTL_S: u32 = 10;

/// Where nothing has to come before the lease ends.
const SHORT_TTL_S: u32 = 3;

/// What is left of the primary's machine.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Left {
    /// Nothing, as where a hypervisor ends it: whoever connects to it waits.
    Nothing,
    /// Its kernel, as where a container ends: whoever connects to it is refused.
    Kernel,
}

/// Plays `story` with a cluster whose parts are on networks of their own; `None` where this machine cannot.
fn play<T: Send + 'static>(
    ttl: u32,
    story: impl AsyncFnOnce(&mut Playground) -> Result<T, PlaygroundError> + Send + 'static,
) -> Option<T> {
    if let Some(why) = network::missing() {
        eprintln!("SKIPPED: no dead machine without network namespaces: {why}");
        return None;
    }
    let servers = install::servers().expect("PostgreSQL and etcd");
    let programs = programs::built().expect("the programs are built");
    let options = Options { ttl, ..Options::default() };
    let prepared = Prepared::create(&options, &Wanted::default(), &programs).expect("namespaces");
    let played = prepared.run(async move |prepared| {
        let say = |line: &str| eprintln!("  {line}");
        let mut playground = Playground::start_prepared(prepared, &options, &servers, &say).await?;
        playground.until_healthy(SOON).await?;
        story(&mut playground).await
    });
    Some(played.expect("a thread").unwrap_or_else(|error| panic!("{error}")))
}

/// Ends the leader's machine; answers its name.
async fn die(playground: &mut Playground, left: Left) -> Result<String, PlaygroundError> {
    let dead = playground.look().await.leader().expect("somebody leads");
    // Until they are gone: then what they say at their end is on its way.
    while playground.signal_part(&dead, Role::Any, Signal::KILL)? > 0 {
        tokio::time::sleep(Duration::from_millis(1)).await;
    }
    if left == Left::Nothing {
        playground.power_off(&dead).await?;
    }
    Ok(dead)
}

/// The next leader's log, before it won and from there to its promotion; `None` where this machine cannot tell.
fn log_of_the_next_leader(left: Left) -> Option<[String; 2]> {
    let (log, tails) = play(TTL_S, async move |playground| {
        let dead = die(playground, left).await?;
        let next = successor(playground, &dead).await;
        Ok((playground.log(&next), playground.log_tails(80)))
    })?;
    let (before, after) = log.rsplit_once("campaigned for the leader key won=true").expect("it won");
    let (until_promoted, _) = after.split_once(" promoted epoch=").expect("it was promoted");
    assert!(before.contains("PostgreSQL cannot stream from the leader"), "it did not ask\n{tails}");
    Some([before, until_promoted].map(str::to_owned))
}

#[test]
fn the_next_leader_does_not_wait_for_an_answer() {
    if let Some([_, until_promoted]) = log_of_the_next_leader(Left::Nothing) {
        assert!(!until_promoted.contains("an effect on PostgreSQL failed"), "{until_promoted}");
    }
}

#[test]
fn the_next_leader_does_not_wait_until_it_would_ask_again() {
    if let Some([before, until_promoted]) = log_of_the_next_leader(Left::Kernel) {
        assert!(before.matches("an effect on PostgreSQL failed").count() > 3, "refused\n{before}");
        assert!(!until_promoted.contains("the last attempt failed"), "{until_promoted}");
    }
}

/// A copy that would take hours hangs on a connection that nobody closes.
#[test]
fn a_copy_of_it_gives_way_to_one_of_the_next_leader() {
    let copied = play(SHORT_TTL_S, async |playground| {
        let file = playground.node("pg3").config();
        let settings = fs::read_to_string(&file).expect("its settings");
        let slow = settings.replacen("[postgresql]\n", "[postgresql]\nbasebackup = [\"max-rate=32k\"]\n", 1);
        assert_ne!(slow, settings, "it has that section");
        fs::write(&file, slow).expect("writes");
        post(playground, "/reload", "").await;
        post(playground, "/reinitialize", r#"{"force": true, "from-leader": true}"#).await;
        let copies = "SELECT pid::text FROM pg_stat_replication \
                      WHERE application_name = 'pg_basebackup' AND state = 'backup'";
        until(playground, "the copy", async || !ask(playground, "pg1", copies).await.is_empty()).await;
        fs::write(&file, settings).expect("writes");
        post(playground, "/reload", "").await;
        let dead = die(playground, Left::Nothing).await?;
        assert_eq!(dead, "pg1");
        assert_eq!(successor(playground, &dead).await, "pg2");
        let began = Instant::now();
        until(playground, "pg3 follows", async || streams(playground, "pg3").await).await;
        eprintln!("  pg3 follows {:?} after the promotion", began.elapsed());
        Ok((playground.log("pg3"), playground.log_tails(80)))
    });
    if let Some((log, tails)) = copied {
        assert!(log.contains("given up: the leader changed meanwhile what=\"clone\""), "{tails}");
        assert!(log.contains("cloned the data directory source=\"pg2\""), "{tails}");
    }
}

async fn streams(playground: &Playground, name: &str) -> bool {
    let agents = playground.look().await.nodes;
    agents.iter().any(|(n, agent)| n == name && agent.as_ref().is_ok_and(Agent::streams))
}

/// A request to pg3's agent, which accepts it.
async fn post(playground: &Playground, path: &str, body: &str) {
    let agent = playground.node("pg3").rest();
    let answer = http::request(Method::POST, agent, path, body.to_owned(), SOON).await.expect("answers");
    assert!(answer.0.is_success(), "{path}: {answer:?}");
}

/// Waits until another node than `dead` serves as the leader.
async fn successor(playground: &Playground, dead: &str) -> String {
    let mut next = None;
    until(playground, "a successor", async || {
        next = playground.look().await.leader().ok().filter(|leader| leader != dead);
        next.is_some()
    })
    .await;
    next.expect("it was waited for")
}
