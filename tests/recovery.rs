//! A replica whose data mean nothing without more WAL comes up whenever its agent was started.

mod cluster_support;

use std::fs;
use std::os::unix::process::CommandExt;
use std::process::Command;

use cluster_support::{SOON, cluster, healthy};
use xtask::install;
use xtask::playground::account::Account;

/// The agent starts its server before the store has told who leads; the data are a copy without its WAL.
#[tokio::test(flavor = "multi_thread")]
async fn a_copy_without_its_wal_comes_up_although_its_server_is_started_before_a_leader_is_known() {
    let mut playground = cluster(2, 20, vec![]).await;
    healthy(&mut playground).await;
    let leader = playground.look().await.leader().expect("one leads");
    let replica = if leader == "pg1" { "pg2" } else { "pg1" };
    assert!(playground.node_mut(replica).stop_agent(SOON).await, "the agent stops");

    let data = playground.node(replica).dir().join("data");
    fs::remove_dir_all(&data).expect("removes");
    let source = playground.node(&leader);
    let postgres = install::servers().expect("PostgreSQL").postgres;
    let mut copy = Command::new(postgres.join("pg_basebackup"));
    copy.arg("-D").arg(&data).args(["-X", "none", "-c", "fast", "-U", "postgres", "-R", "-h"]);
    copy.arg(source.postgres().ip().to_string()).arg("-p").arg(source.postgres().port().to_string());
    copy.env("PGPASSWORD", source.passwords()[0]).current_dir("/");
    if let Some(account) = Account::for_servers() {
        copy.uid(account.uid).gid(account.gid);
    }
    let copied = tokio::task::block_in_place(|| copy.output()).expect("runs");
    assert!(copied.status.success(), "{}", String::from_utf8_lossy(&copied.stderr));

    playground.restart_agent(replica).expect("starts");
    healthy(&mut playground).await;
}
