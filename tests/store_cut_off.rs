//! What a proxy does with the primary when it cannot ask etcd, on real servers: it may go on (`hold`) or stop
//! (`fence`), but it must never keep sending writes to a primary that was demoted.
//!
//! Each cluster has two proxies, one per policy, with two writers each: one that keeps its session, and one that
//! takes a new one for every write.

mod cluster_support;

use std::collections::HashSet;
use std::time::{Duration, Instant};

use cluster_support::relay::{Manner, Relay};
use cluster_support::writer::{Failure, Habit, Journal, Write, Writer};
use cluster_support::{
    LOOK_EVERY, SOON, add_proxy, cluster, healthy, promotion, rows, switchover, topology, until,
    until_standing,
};
use rustix::process::Signal;
use xtask::playground::Playground;

/// The shortest that leaves room for all deadlines on a busy machine.
const TTL_S: u32 = 3;
const TTL: Duration = Duration::from_secs(TTL_S as u64);

/// What a busy machine may add to a deadline.
const SLACK: Duration = Duration::from_millis(1500);

const ADMIN_SHUTDOWN: &str = "57P01";
const CANNOT_CONNECT_NOW: &str = "57P03";
const READ_ONLY: &str = "25006";

/// A proxy, its way to etcd, and who writes through it.
struct Way {
    proxy: usize,
    relay: Relay,
    keeps: Writer,
    renews: Writer,
}

impl Way {
    async fn open(playground: &mut Playground, policy: &str, of_port: &str) -> Way {
        let relay = Relay::to(playground.etcd.client()).await;
        let policy = format!("on_store_loss = \"{policy}\"");
        let proxy = add_proxy(playground, relay.address, &policy, of_port);
        healthy(playground).await;
        let port = playground.proxies[proxy].options().primary;
        let (keeps, renews) = (Writer::start(port, Habit::Keeps), Writer::start(port, Habit::Renews));
        let way = Way { proxy, relay, keeps, renews };
        way.serves_since(playground, Instant::now()).await;
        way
    }

    fn writers(&self) -> [&Writer; 2] {
        [&self.keeps, &self.renews]
    }

    /// Waits until writes that were sent after `since` are acknowledged to both writers.
    async fn serves_since(&self, playground: &Playground, since: Instant) {
        let what = format!("writes through proxy {}", self.proxy);
        until(playground, &what, async || {
            self.writers().iter().all(|writer| writer.journal().acknowledged_since(since))
        })
        .await;
    }

    fn journals(self) -> [Journal; 2] {
        self.writers().map(|writer| writer.journal().clone())
    }
}

/// Both ways to one cluster.
struct Scene {
    playground: Playground,
    hold: Way,
    fence: Way,
}

impl Scene {
    async fn new(nodes: usize, of_fencing_port: &str) -> Scene {
        let mut playground = cluster(nodes, TTL_S, vec![]).await;
        let hold = Way::open(&mut playground, "hold", "").await;
        let fence = Way::open(&mut playground, "fence", of_fencing_port).await;
        Scene { playground, hold, fence }
    }

    /// Waits until both serve what is sent from now on.
    async fn both_serve(&self) {
        let now = Instant::now();
        self.hold.serves_since(&self.playground, now).await;
        self.fence.serves_since(&self.playground, now).await;
    }

    /// Ends the writers; answers what they saw, and the acknowledged writes that `primary` does not have.
    async fn settle(self, primary: &str) -> (Vec<Journal>, Vec<Write>) {
        let journals: Vec<_> = self.hold.journals().into_iter().chain(self.fence.journals()).collect();
        let there: HashSet<_> = rows(self.playground.node(primary).postgres()).await.into_iter().collect();
        let all = journals.iter().flat_map(|journal| &journal.writes);
        let lost = all.filter(|write| !there.contains(&write.id)).copied().collect();
        (journals, lost)
    }
}

/// Waits until the writer failed with this SQLSTATE later than `since`.
async fn failure(playground: &Playground, writer: &Writer, code: &str, since: Instant) -> Failure {
    let started = Instant::now();
    loop {
        let journal = writer.journal().clone();
        if let Some(failure) = journal.failed_with(code, since) {
            return failure;
        }
        let is_in_time = started.elapsed() < SOON;
        let others = journal.failures;
        assert!(is_in_time, "no {code} since {since:?}, but {others:?}\n{}", playground.log_tails(60));
        tokio::time::sleep(LOOK_EVERY).await;
    }
}

/// etcd does not answer for three lease times, to nobody; `strike` and `heal` say how.
async fn outage(strike: impl AsyncFnOnce(&mut Playground), heal: impl FnOnce(&mut Playground)) {
    let mut scene = Scene::new(1, "hold_timeout = \"500ms\"").await;
    let lost = Instant::now();
    strike(&mut scene.playground).await;
    let playground = &scene.playground;

    // Who fences cuts the session in time, says why, and takes nobody in.
    let cut = failure(playground, &scene.fence.keeps, ADMIN_SHUTDOWN, lost).await;
    assert_eq!(
        cut.text,
        "pgvane: cluster demo: nobody can prove any more that pg1 is the primary; connect again"
    );
    let after = cut.at - lost;
    assert!(after < TTL + SLACK, "cut after {after:?}\n{}", playground.log_tails(60));
    let refused = failure(playground, &scene.fence.renews, CANNOT_CONNECT_NOW, lost).await.text;
    let why =
        "cluster demo: nobody proves any more that the last leader pg1 leads; etcd does not answer (for ";
    assert!(refused.contains(why) && refused.ends_with("; gave up after 500ms"), "{refused}");

    // Who holds goes on, longer than any lease lives, with the sessions there are and with new ones.
    until_standing(playground, scene.hold.proxy, "vouched").await;
    scene.hold.serves_since(playground, lost + 3 * TTL).await;
    for writer in scene.hold.writers() {
        let journal = writer.journal();
        assert!(journal.failures.is_empty(), "{:?}\n{}", journal.failures, playground.log_tails(60));
    }
    assert_eq!(scene.hold.keeps.journal().sessions, 1);
    let fenced = [&scene.fence.keeps, &scene.fence.renews].map(|writer| writer.journal().writes.len());

    heal(&mut scene.playground);
    scene.both_serve().await;
    let (journals, lost) = scene.settle("pg1").await;
    eprintln!(
        "cut after {after:?}; sessions that hold: {}, {:?}",
        journals[0].sessions, journals[0].failures
    );
    assert!(lost.is_empty(), "{lost:?}");
    for (journal, before) in journals[2..].iter().zip(fenced) {
        let late = journal.writes[..before].iter().filter(|write| write.sent > cut.at).count();
        assert_eq!(late, 0, "writes went on after the cut");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn etcd_that_is_gone_cuts_who_fences_and_nobody_else() {
    let heal = |playground: &mut Playground| playground.restart_etcd().expect("etcd starts");
    outage(async |playground| playground.etcd.kill().await, heal).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn etcd_that_is_frozen_cuts_who_fences_and_nobody_else() {
    let heal = |playground: &mut Playground| playground.etcd.signal(Signal::CONT);
    outage(async |playground| playground.etcd.signal(Signal::STOP), heal).await;
}

/// Waits until both writers wait, and no server has a session of theirs.
async fn until_held(playground: &Playground, way: &Way) {
    until(playground, "both writers are held", async || {
        let topology = topology(playground, way.proxy).await;
        let members = topology["clusters"][0]["members"].as_array().cloned().unwrap_or_default();
        let on_servers = members.iter().any(|member| member["sessions"] != 0);
        topology["listeners"][0]["held"] == 2 && !members.is_empty() && !on_servers
    })
    .await;
}

/// How the primary is lost while the proxies do not see it.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Fall {
    /// It is told to hand over, and comes back as a replica.
    Switchover,
    /// Agent and postmaster are killed; once there is another primary it comes back as a replica.
    Killed,
    /// The agent is frozen, so that its guard kills PostgreSQL.
    Frozen,
}

/// The proxies, and nobody else, lose etcd; then pg2 takes over. The one that holds was long vouched for by then, the
/// one that fences believes in a lease that has just been proven.
async fn failover_unseen(fall: Fall, manner: Manner) {
    let mut scene = Scene::new(2, "").await;
    let [old, new] = ["pg1", "pg2"].map(|name| scene.playground.node(name).postgres());
    scene.hold.relay.turn(manner);
    until_standing(&scene.playground, scene.hold.proxy, "vouched").await;
    scene.hold.serves_since(&scene.playground, Instant::now()).await;
    let sessions = scene.hold.keeps.journal().sessions;
    assert_eq!(sessions, 1, "cut although its agent vouched\n{}", scene.playground.log_tails(60));
    scene.fence.relay.turn(manner);
    let promoted = tokio::spawn(promotion(new));
    let node = scene.playground.node_mut("pg1");
    match fall {
        Fall::Switchover => switchover(&scene.playground, "pg1").await,
        Fall::Frozen => node.signal_agent(Signal::STOP),
        Fall::Killed => {
            node.signal_agent(Signal::KILL);
            node.kill_postmaster();
            node.kill_agent(Duration::from_secs(10)).await;
        }
    }
    let promoted_us = tokio::time::timeout(SOON, promoted).await;
    let promoted_us = promoted_us
        .unwrap_or_else(|_| panic!("pg2 is not promoted\n{}", scene.playground.log_tails(60)))
        .expect("pg2 answers");
    let promoted = Instant::now();
    if fall == Fall::Killed {
        scene.playground.restart_agent("pg1").expect("the agent starts");
    }

    // Both lose their faith by themselves and hold all writers, those too whose sessions the server has left open.
    for way in [&scene.hold, &scene.fence] {
        until_standing(&scene.playground, way.proxy, "lost").await;
        until_held(&scene.playground, way).await;
        let late = promoted.elapsed();
        eprintln!("proxy {} holds all {} ms after the promotion", way.proxy, late.as_millis());
    }
    if fall == Fall::Switchover {
        let logs = scene.playground.log_tails(1000);
        assert!(logs.contains("answer=No(503)"), "only its agent could tell who holds so early\n{logs}");
    }
    for way in [&scene.hold, &scene.fence] {
        way.relay.turn(Manner::Pass);
    }
    scene.both_serve().await;
    if fall == Fall::Frozen {
        scene.playground.node_mut("pg1").signal_agent(Signal::CONT);
    }
    healthy(&mut scene.playground).await;
    let (journals, lost) = scene.settle("pg2").await;
    // A replica that is not synchronous may miss what was written right before a crash, and nothing else.
    let may_be_lost = |write: &Write| fall != Fall::Switchover && write.server == old.port();
    assert!(lost.iter().all(may_be_lost), "{lost:?}");
    for journal in journals {
        let by_old: Vec<_> = journal.writes.iter().filter(|write| write.server == old.port()).collect();
        let after: Vec<_> = by_old.iter().filter(|write| write.done_us >= promoted_us).collect();
        assert!(after.is_empty(), "acknowledged by pg1 after pg2 was promoted: {after:?}");
        assert_eq!(journal.writes.last().map(|write| write.server), Some(new.port()));
        let refused = journal.failures.iter().filter(|failure| failure.code == READ_ONLY).count();
        let counts = (by_old.len(), journal.writes.len() - by_old.len(), refused, lost.len());
        eprintln!("writes by pg1, by pg2, refused as read-only, lost by all: {counts:?}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_switchover_behind_a_proxys_back_leaves_no_writes_on_the_old_primary() {
    failover_unseen(Fall::Switchover, Manner::Swallow).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_crash_behind_a_proxys_back_leaves_no_writes_on_the_old_primary() {
    failover_unseen(Fall::Killed, Manner::Refuse).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_frozen_agent_behind_a_proxys_back_leaves_no_writes_on_the_old_primary() {
    failover_unseen(Fall::Frozen, Manner::Swallow).await;
}

/// A primary in good health that the proxy can reach while it reaches nobody who could vouch for it.
#[tokio::test(flavor = "multi_thread")]
async fn a_primary_that_nobody_can_vouch_for_is_left() {
    let api = Relay::start().await;
    let mut playground = cluster(1, TTL_S, vec![api.address]).await;
    api.leads_to(playground.node("pg1").rest());
    let hold = Way::open(&mut playground, "hold", "").await;
    hold.relay.turn(Manner::Swallow);
    until_standing(&playground, hold.proxy, "vouched").await;
    hold.serves_since(&playground, Instant::now()).await;
    assert_eq!(hold.keeps.journal().sessions, 1, "cut although its agent vouched");
    let silenced = Instant::now();
    api.turn(Manner::Swallow);
    until_standing(&playground, hold.proxy, "lost").await;
    let after = silenced.elapsed();
    assert!(after < TTL + SLACK, "given up after {after:?}\n{}", playground.log_tails(60));
    failure(&playground, &hold.keeps, ADMIN_SHUTDOWN, silenced).await;
    until_held(&playground, &hold).await;
    // Nothing is known to be wrong with it: one word of its agent is enough.
    api.turn(Manner::Pass);
    until_standing(&playground, hold.proxy, "vouched").await;
    hold.serves_since(&playground, Instant::now()).await;
    hold.relay.turn(Manner::Pass);
    until_standing(&playground, hold.proxy, "proven").await;
    hold.serves_since(&playground, Instant::now()).await;
}
