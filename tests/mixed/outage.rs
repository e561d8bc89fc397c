//! etcd away for longer than the lease, with failsafe_mode: the leader stays primary by the word of all others,
//! whichever kind leads (contract 3.7, trap 15).

use std::collections::BTreeSet;
use std::time::{Duration, Instant};

use rustix::process::Signal;
use xtask::playground::node::Daemon;

use crate::cluster::{Mixed, TTL};

/// How etcd goes away.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Away {
    /// Its connections are reset: everybody knows at once. It comes back with every lease renewed.
    Killed,
    /// It answers no more: who has the shorter patience knows first. It comes back with every lease run out, so
    /// that the leader has to take its key anew, before anybody else.
    Frozen,
}

#[tokio::test(flavor = "multi_thread")]
async fn the_leader_outlives_an_outage_of_etcd() {
    let mut cluster = Mixed::start(&[Daemon::Patroni, Daemon::Pgvane, Daemon::Pgvane]).await;
    cluster.patronictl(&["edit-config", "--force", "-s", "failsafe_mode=true"]).await;
    outage(&mut cluster, "pg1", Away::Frozen).await;
    outage(&mut cluster, "pg1", Away::Killed).await;
    cluster.patronictl(&["switchover", "--leader", "pg1", "--candidate", "pg2", "--force"]).await;
    cluster.healthy().await;
    our_leader_keeps_step(&cluster).await;
    outage(&mut cluster, "pg2", Away::Frozen).await;
}

/// Each write of `status` makes the loops of Patroni replicas turn: no more of them than their leader would write.
async fn our_leader_keeps_step(cluster: &Mixed) {
    cluster.patronictl(&["edit-config", "--force", "-s", "loop_wait=4"]).await;
    let clients = cluster.clients().await;
    let (mut seen, until) = (BTreeSet::new(), Instant::now() + Duration::from_secs(8));
    while Instant::now() < until {
        seen.insert(cluster.view().await.status.map(|status| status.optime));
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
    assert!((2..=4).contains(&seen.len()), "{} writes in 8 s", seen.len());
    drop(clients);
    cluster.patronictl(&["edit-config", "--force", "-s", "loop_wait=1"]).await;
}

async fn outage(cluster: &mut Mixed, leader: &str, away: Away) {
    eprintln!("  etcd {away:?} while {leader} leads");
    cluster.lists(leader).await;
    cluster
        .until("everybody is in the failsafe list", async || {
            cluster.view().await.failsafe.is_some_and(|list| list.0.len() == 3)
        })
        .await;
    let timeline = cluster.sql(leader, TIMELINE).await;
    let clients = cluster.clients().await;
    // Whoever asks while etcd answers us is cut off alone: the others must be free to go on without it.
    assert_eq!(cluster.vouches("pg3", leader).await.0, 503);
    match away {
        Away::Killed => cluster.playground.etcd.kill().await,
        Away::Frozen => cluster.playground.etcd.signal(Signal::STOP),
    }
    // Its threads stop one by one, and may have answered meanwhile.
    cluster.until("etcd is silent", async || cluster.store_is_silent().await).await;
    // At once, whether or not this member has noticed: Patroni asks once its own patience has ended, and never again.
    assert_eq!(cluster.vouches("pg3", leader).await, (200, "Accepted".to_owned()));
    tokio::time::sleep(Duration::from_secs(u64::from(TTL) + 5)).await;
    // Still, and not only until what was promised first ran out.
    assert_eq!(cluster.status(leader, "/primary").await, 200, "{}", cluster.playground.log_tails(80));
    assert_eq!(cluster.get(leader, "/patroni").await["failsafe_mode_is_active"], true);
    cluster.written(&clients, 100).await;
    match away {
        Away::Killed => cluster.playground.restart_etcd().expect("starts"),
        Away::Frozen => cluster.playground.etcd.signal(Signal::CONT),
    }
    let (ledger, lost) = cluster.finish(clients).await;
    cluster.lists(leader).await;
    assert_eq!(cluster.sql(leader, TIMELINE).await, timeline, "somebody was promoted");
    // A key that ran out ends the sessions at the proxy: until it is back, anybody could have it.
    let errors = ledger.client_errors - if away == Away::Frozen { ledger.client_errors.min(1) } else { 0 };
    assert_eq!((errors, ledger.failed_connects, lost), (0, 0, 0), "{:?}", ledger.errors);
}

const TIMELINE: &str = "SELECT substr(pg_walfile_name(pg_current_wal_lsn()), 1, 8)";
