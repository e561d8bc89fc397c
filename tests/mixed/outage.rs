//! etcd away for longer than the lease, with failsafe_mode: the leader stays primary by the word of all others,
//! whichever kind leads (contract 3.7, trap 15).

use std::time::Duration;

use rustix::process::Signal;
use xtask::playground::node::Daemon;

use crate::cluster::{Mixed, TTL};

/// How etcd goes away.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Away {
    /// Its connections are reset: everybody knows at once. It comes back with every lease renewed.
    Killed,
    /// It answers no more: who has the shorter patience knows first. It comes back with every lease run out.
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
    outage(&mut cluster, "pg2", Away::Frozen).await;
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
    match away {
        Away::Killed => cluster.playground.etcd.kill().await,
        Away::Frozen => cluster.playground.etcd.signal(Signal::STOP),
    }
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
    assert_eq!((ledger.client_errors, ledger.failed_connects, lost), (0, 0, 0), "{:?}", ledger.errors);
}

const TIMELINE: &str = "SELECT substr(pg_walfile_name(pg_current_wal_lsn()), 1, 8)";
