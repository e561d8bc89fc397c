//! Leadership goes from Patroni to our agent and back: planned, and because the leader died.

use std::collections::BTreeMap;
use std::fs;
use std::time::{Duration, Instant};

use pgvane_cluster::changes::Cause;
use pgvane_cluster::ids::NodeName;
use pgvane_cluster::keyspace::Key;
use pgvane_cluster::view::ClusterView;
use rustix::process::{Pid, Signal, kill_process};
use xtask::playground::node::Daemon;

use crate::cluster::{Mixed, TTL};

/// More rounds, for medians.
fn rounds() -> usize {
    if std::env::var_os(xtask::checks::LONG).is_some() { 5 } else { 1 }
}

#[tokio::test(flavor = "multi_thread")]
async fn leadership_goes_both_ways() {
    let mut cluster = Mixed::start(&[Daemon::Patroni, Daemon::Pgvane, Daemon::Pgvane]).await;
    cluster.lists("pg1").await;
    let begun = cluster.position().await;
    cluster.keeps_slots_from(&begun).await;

    let clients = cluster.clients().await;
    let mut outages: BTreeMap<&str, Vec<Duration>> = BTreeMap::new();
    for _ in 0..rounds() {
        for (tool, from, to) in [
            ("patronictl", "pg1", "pg2"),
            ("pgvanectl", "pg2", "pg1"),
            ("pgvanectl", "pg1", "pg3"),
            ("patronictl", "pg3", "pg1"),
        ] {
            cluster.written(&clients, 50).await;
            let asked = Instant::now();
            switchover(&cluster, tool, from, to).await;
            cluster.written(&clients, 50).await;
            let outage = clients.look(|ledger| ledger.longest_gap(0, asked));
            eprintln!("  {tool}: {from} -> {to}: {} ms without writes", outage.as_millis());
            outages.entry(if to == "pg1" { "to Patroni" } else { "to pgvane" }).or_default().push(outage);
            settled(&mut cluster, to).await;
        }
    }
    for (direction, mut all) in outages {
        all.sort();
        eprintln!("  switchover {direction}: median {} ms of {}", all[all.len() / 2].as_millis(), all.len());
    }
    whoever_wrote_the_line_says_why(&cluster).await;
    let at = cluster.position().await;
    cluster.written(&clients, 20).await;
    cluster.keeps_slots_from(&at).await;
    missing_keys_are_written_again(&cluster).await;
    a_changed_ttl_is_everybodys(&cluster).await;
    a_lost_leader_key_is_its_holders(&cluster).await;
    a_frozen_server_does_not_silence_its_agent(&cluster, "pg2").await;
    let (ledger, lost) = cluster.finish(clients).await;
    assert_eq!((lost, ledger.read_only_refusals), (0, 0), "{:?}", ledger.errors);

    // The leader's machine dies under Patroni: nobody gives its lease back, so it has to run out.
    let clients = cluster.clients().await;
    died(&mut cluster, "pg1", Daemon::Patroni).await;
    let (ledger, lost) = cluster.finish(clients).await;
    eprintln!("  Patroni died: {lost} of {} rows lost", ledger.acknowledged());
    missing_keys_are_written_again(&cluster).await;
    a_changed_ttl_is_everybodys(&cluster).await;
    let leader = cluster.leader().await;
    switchover(&cluster, "patronictl", &leader, "pg1").await;
    settled(&mut cluster, "pg1").await;
    a_stale_primary_stands_aside(&mut cluster).await;

    // All others run Patroni now, so that one of them has to take over.
    let leader = cluster.leader().await;
    for name in ["pg2", "pg3"].into_iter().filter(|name| *name != leader) {
        cluster.stop_daemon(name).await;
        cluster.playground.start_daemon(name, Daemon::Patroni).expect("starts");
    }
    cluster.healthy().await;
    cluster.lists(&leader).await;
    let clients = cluster.clients().await;
    died(&mut cluster, &leader, Daemon::Pgvane).await;
    let (ledger, lost) = cluster.finish(clients).await;
    eprintln!("  pgvane died: {lost} of {} rows lost", ledger.acknowledged());
    let at = cluster.position().await;
    cluster.sql(&cluster.leader().await, "SELECT pg_switch_wal()::text").await;
    cluster.keeps_slots_from(&at).await;
}

async fn switchover(cluster: &Mixed, tool: &str, from: &str, to: &str) {
    let args = ["switchover", "--leader", from, "--candidate", to, "--force"];
    let said = match tool {
        "patronictl" => cluster.patronictl(&args).await,
        _ => cluster.pgvanectl(&args).await,
    };
    assert!(said.contains(&format!("over to \"{to}\"")), "{said}");
}

/// Our agents say why they took over, also from Patroni; of changes that Patroni wrote down it is not known.
async fn whoever_wrote_the_line_says_why(cluster: &Mixed) {
    let history = cluster.pgvanectl(&["history", "--format", "json"]).await;
    let lines: Vec<serde_json::Value> = serde_json::from_str(&history).expect("a list");
    let mut counts = BTreeMap::new();
    for line in &lines {
        let by_patroni = line["New Leader"] == "pg1";
        let why = if by_patroni { "unknown" } else { Cause::Switchover.explain() };
        assert_eq!((&line["Why"], line["Outage Seconds"].is_null()), (&why.into(), by_patroni), "{line}");
        *counts.entry(by_patroni).or_insert(0) += 1;
    }
    assert_eq!(counts[&true], counts[&false], "{history}");
}

/// Waits until `leader` leads in everybody's eyes, and what it wrote of that is complete.
async fn settled(cluster: &mut Mixed, leader: &str) {
    cluster.healthy().await;
    cluster.lists(leader).await;
    let what = format!("the history tells of {leader}");
    cluster
        .until(&what, async || {
            let view = cluster.view().await;
            let newest = view.history.as_ref().and_then(|h| h.0.last());
            let tells =
                newest.is_some_and(|e| e.timestamp.is_some() && e.new_leader == Some(NodeName::from(leader)));
            let timeline = view.leader_member().and_then(|m| m.record.timeline);
            tells && view.cluster_timeline() == timeline && view.failover.is_none()
        })
        .await;
    // The other kind reads the same.
    let history = cluster.patronictl(&["history", "--format", "json"]).await;
    assert!(history.contains(&format!("\"New Leader\": \"{leader}\"")), "{history}");
    assert!(cluster.pgvanectl(&["list"]).await.contains(leader));
}

/// Kills a leader's daemon and PostgreSQL; another takes over, and the dead one comes back as its replica.
async fn died(cluster: &mut Mixed, leader: &str, daemon: Daemon) {
    let began = Instant::now();
    cluster.crash(leader).await;
    leads_instead_of(cluster, leader).await;
    let next = cluster.leader().await;
    eprintln!("  {daemon:?} {leader} died; {next} serves after {} ms", began.elapsed().as_millis());
    cluster.playground.restart_agent(leader).expect("starts");
    settled(cluster, &next).await;
}

/// Waits until another serves as primary.
async fn leads_instead_of(cluster: &Mixed, leader: &str) {
    let what = format!("another than {leader} leads");
    cluster
        .until(&what, async || {
            let view = cluster.view().await;
            let serves = view.leader_member().is_some_and(|m| m.record.is_serving_primary());
            serves && view.leader.as_ref().is_some_and(|key| key.name != NodeName::from(leader))
        })
        .await;
}

/// Trap 14: only the leader writes what was deleted, and it writes what was there.
async fn missing_keys_are_written_again(cluster: &Mixed) {
    let before = cluster.view().await;
    for key in [Key::Initialize, Key::Config] {
        cluster.delete(&key).await;
    }
    cluster
        .until("the leader has written the keys again", async || {
            let now = cluster.view().await;
            let config = |view: &ClusterView| view.config.as_ref().map(|c| c.value.json.clone());
            now.initialize == before.initialize && config(&now) == config(&before)
        })
        .await;
}

/// Trap 18: a new ttl is a new lease for everybody, and the leader's two keys go to it together.
async fn a_changed_ttl_is_everybodys(cluster: &Mixed) {
    let leases = |view: &ClusterView| {
        let members = view.members.iter().map(|(name, member)| (name.to_string(), member.lease));
        members.collect::<BTreeMap<_, _>>()
    };
    for ttl in [TTL + 2, TTL] {
        let before = cluster.view().await;
        cluster.patronictl(&["edit-config", "--force", "-s", &format!("ttl={ttl}")]).await;
        cluster
            .until("everybody has a new lease, the leader one for both keys", async || {
                let view = cluster.view().await;
                let (old, new) = (leases(&before), leases(&view));
                let of_leader = view.leader_member().and_then(|member| member.lease);
                new.len() == old.len()
                    && new.iter().all(|(name, lease)| *lease != old[name])
                    && view.leader.as_ref().map(|key| key.lease) == Some(of_leader)
            })
            .await;
        let key = |view: &ClusterView| view.leader.as_ref().map(|key| (key.name.clone(), key.epoch));
        assert_eq!(key(&cluster.view().await), key(&before), "it is another reign");
    }
}

/// Trap 4: while the old primary is alive nobody else takes a key that was lost; its holder does.
async fn a_lost_leader_key_is_its_holders(cluster: &Mixed) {
    let before = cluster.view().await;
    let replicas = ["pg2", "pg3"];
    let mut receivers = vec![];
    for name in replicas {
        receivers.push(cluster.sql(name, RECEIVER).await);
    }
    cluster.delete(&Key::Leader).await;
    cluster
        .until("the leader has its key again", async || {
            let now = cluster.view().await;
            now.leader.as_ref().map(|key| &key.name) == before.leader.as_ref().map(|key| &key.name)
                && now.leader.as_ref().map(|key| key.epoch) > before.leader.as_ref().map(|key| key.epoch)
                && now.leader_member().is_some_and(|m| m.record.is_serving_primary())
        })
        .await;
    assert_eq!(cluster.view().await.cluster_timeline(), before.cluster_timeline(), "somebody was promoted");
    for (name, receiver) in replicas.iter().zip(receivers) {
        assert_eq!(cluster.sql(name, RECEIVER).await, receiver, "{name} left the old primary");
    }
}

/// Who streams, since when, and from where.
const RECEIVER: &str = "SELECT concat_ws(' ', w.pid, w.sender_port, a.backend_start)
                        FROM pg_stat_wal_receiver w JOIN pg_stat_activity a USING (pid)";

/// Trap 3: Patroni's node is frozen as a primary and wakes when nobody holds the key. What our leader wrote of its
/// own promotion tells it that it was left behind, so it neither leads nor keeps another from it.
async fn a_stale_primary_stands_aside(cluster: &mut Mixed) {
    let before = cluster.view().await.cluster_timeline();
    let frozen = Frozen::freeze(cluster.playground.node("pg1").postmaster().expect("runs"));
    cluster.playground.node_mut("pg1").signal_agent(Signal::STOP);
    leads_instead_of(cluster, "pg1").await;
    cluster
        .until("the others are on its timeline", async || {
            let view = cluster.view().await;
            let timeline =
                |name: &str| view.members.get(&NodeName::from(name)).and_then(|m| m.record.timeline);
            // Else two of them would begin a timeline of the same number, and one be left behind for good.
            view.cluster_timeline() > before
                && ["pg2", "pg3"].map(timeline).iter().all(|t| *t == view.cluster_timeline())
        })
        .await;
    cluster.delete(&Key::Leader).await;
    drop(frozen);
    cluster.playground.node_mut("pg1").signal_agent(Signal::CONT);
    leads_instead_of(cluster, "pg1").await;
    let leader = cluster.leader().await;
    settled(cluster, &leader).await;
}

/// Trap 18: peers get an answer that they can use within the 2 s that they wait.
async fn a_frozen_server_does_not_silence_its_agent(cluster: &Mixed, name: &str) {
    let frozen = Frozen::freeze(cluster.playground.node(name).postmaster().expect("runs"));
    let until = Instant::now() + Duration::from_secs(5);
    while Instant::now() < until {
        let asked = Instant::now();
        let body = cluster.get(name, "/patroni").await;
        assert!(asked.elapsed() < Duration::from_secs(1), "after {:?}", asked.elapsed());
        assert!(body["xlog"]["received_location"].is_u64(), "{body}");
        tokio::time::sleep(Duration::from_millis(100)).await;
    }
    drop(frozen);
}

/// A server all of whose processes are stopped, until it is dropped.
struct Frozen(Vec<Pid>);

impl Frozen {
    fn freeze(postmaster: Pid) -> Frozen {
        let of = |pid: Pid| format!("/proc/{0}/task/{0}/children", pid.as_raw_nonzero());
        let children = fs::read_to_string(of(postmaster)).expect("the kernel tells");
        let children = children.split_whitespace().filter_map(|pid| Pid::from_raw(pid.parse().ok()?));
        let all: Vec<Pid> = std::iter::once(postmaster).chain(children).collect();
        for pid in &all {
            let _ = kill_process(*pid, Signal::STOP);
        }
        Frozen(all)
    }
}

impl Drop for Frozen {
    fn drop(&mut self) {
        for pid in &self.0 {
            let _ = kill_process(*pid, Signal::CONT);
        }
    }
}
