//! A primary all of whose processes end: replicas see their streams closed at once. At a `ttl` so long that they ask
//! the dead leader for its history before its lease ends.

use std::time::{Duration, Instant};

use rustix::process::Signal;
use xtask::playground::parts::Role;
use xtask::playground::{Options, Playground, PlaygroundError, Prepared, Wanted, network};
use xtask::{install, programs};

/// Replicas that get no WAL ask after 5 s, and have an answer or none 3 s later.
const TTL_S: u32 = 10;

/// Bound on a start and a failover; only something broken reaches it.
const SOON: Duration = Duration::from_mins(1);

/// What is left of the primary's machine.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Left {
    /// Nothing, as where a hypervisor ends it: whoever connects to it waits.
    Nothing,
    /// Its kernel, as where a container ends: whoever connects to it is refused.
    Kernel,
}

/// The next leader's log, before it won and from there to its promotion; `None` where this machine cannot tell.
fn log_of_the_next_leader(left: Left) -> Option<[String; 2]> {
    if let Some(why) = network::missing() {
        eprintln!("SKIPPED: no dead machine without network namespaces: {why}");
        return None;
    }
    let servers = install::servers().expect("PostgreSQL and etcd");
    let programs = programs::built().expect("the programs are built");
    let options = Options { ttl: TTL_S, ..Options::default() };
    let prepared = Prepared::create(&options, &Wanted::default(), &programs).expect("namespaces");
    let played = prepared.run(async move |prepared| {
        let say = |line: &str| eprintln!("  {line}");
        let mut playground = Playground::start_prepared(prepared, &options, &servers, &say).await?;
        playground.until_healthy(SOON).await?;
        let dead = playground.look().await.leader().expect("somebody leads");
        // Until they are gone: then what they say at their end is on its way.
        while playground.signal_part(&dead, Role::Any, Signal::KILL)? > 0 {
            tokio::time::sleep(Duration::from_millis(1)).await;
        }
        if left == Left::Nothing {
            playground.power_off(&dead).await?;
        }
        let next = successor(&playground, &dead).await;
        Ok::<_, PlaygroundError>((playground.log(&next), playground.log_tails(80)))
    });
    let (log, tails) = played.expect("a thread").unwrap_or_else(|error| panic!("{error}"));
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

/// Waits until another node than `dead` serves as the leader.
async fn successor(playground: &Playground, dead: &str) -> String {
    let started = Instant::now();
    loop {
        if let Ok(leader) = playground.look().await.leader()
            && leader != dead
        {
            return leader;
        }
        assert!(started.elapsed() < SOON, "nobody takes over\n{}", playground.log_tails(80));
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
}
