//! A machine whose processes end and whose network is gone a moment later, as where a hypervisor ends it: replicas see
//! their streams closed at once, and whoever connects to it waits, for nobody refuses. At a `ttl` so long that they ask
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

#[test]
fn the_next_leader_does_not_wait_for_it() {
    if let Some(why) = network::missing() {
        eprintln!("SKIPPED: no dead machine without network namespaces: {why}");
        return;
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
        playground.power_off(&dead).await?;
        let next = successor(&playground, &dead).await;
        Ok::<_, PlaygroundError>((playground.log(&next), playground.log_tails(80)))
    });
    let (log, tails) = played.expect("a thread").unwrap_or_else(|error| panic!("{error}"));
    let (before, after) = log.rsplit_once("campaigned for the leader key won=true").expect("it won");
    let (until_promoted, _) = after.split_once(" promoted epoch=").expect("it was promoted");
    assert!(before.contains("PostgreSQL cannot stream from the leader"), "it did not ask\n{tails}");
    assert!(!until_promoted.contains("an effect on PostgreSQL failed"), "it waited\n{tails}");
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
