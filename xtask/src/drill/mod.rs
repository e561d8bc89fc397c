//! Drills: faults on a running cluster, with clients that write and read all the while, and what they cost.
//!
//! Here: one fault at a time, on any playground. [`rows`] measures each several times, and [`play`] strikes at random,
//! both on a cluster in namespaces: [`fault`] -> [`schedule`] -> `strike` -> [`story`].

pub mod clients;
pub mod command;
pub mod fault;
pub mod ledger;
pub mod pair;
pub mod play;
pub mod reigns;
pub mod rows;
pub mod schedule;
pub mod story;
mod strike;

use std::collections::HashSet;
use std::time::{Duration, Instant};

use hyper::{Method, StatusCode};
use rustix::process::Signal;
use serde::Serialize;
use serde_json::json;
use tokio_postgres::NoTls;

use self::clients::Clients;
use self::story::ms;
use crate::playground::node::Node;
use crate::playground::{HEALTHY_WITHIN, Playground, PlaygroundError, http};

/// Writes that must be acknowledged before the fault, and again after it.
const SETTLED: usize = 100;

/// How long clients may go without service before a drill is given up.
const SERVED_WITHIN: Duration = Duration::from_mins(3);

/// How long the world is watched after the fault was repaired.
const WATCHED_FOR: Duration = Duration::from_secs(1);

/// How long a killed process may take to be gone.
const GONE_WITHIN: Duration = Duration::from_secs(10);

/// What is done to the cluster.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Serialize, clap::ValueEnum)]
#[serde(rename_all = "kebab-case")]
pub enum Drill {
    /// The operator asks for another leader.
    Switchover,
    /// The primary's postmaster is killed; its agent lives.
    KillPostgres,
    /// The primary's agent and postmaster are killed; its machine lives.
    KillAgentAndPostgres,
    /// The primary's agent is stopped by SIGSTOP; continued once another serves.
    FreezeAgent,
    /// The primary's agent is told to stop, as a service manager would.
    StopAgent,
    /// etcd is killed and stays away for a minute.
    EtcdOutage,
    /// The agent and the postmaster of a replica are killed.
    KillReplica,
    /// The primary's machine dies: silence, and nothing runs any more. In namespaces only.
    KillNode,
    /// The primary's cable is pulled. In namespaces only.
    UnplugNode,
    /// Nothing passes between the primary's machine and etcd. In namespaces only.
    CutFromEtcd,
    /// A replica's cable is pulled. In namespaces only.
    UnplugReplica,
}

impl Drill {
    /// Whether it breaks what loopback does not have.
    pub fn needs_network(self) -> bool {
        match self {
            Drill::KillNode | Drill::UnplugNode | Drill::CutFromEtcd | Drill::UnplugReplica => true,
            Drill::Switchover
            | Drill::KillPostgres
            | Drill::KillAgentAndPostgres
            | Drill::FreezeAgent
            | Drill::StopAgent
            | Drill::EtcdOutage
            | Drill::KillReplica => false,
        }
    }
}

/// What a drill came to. Times in milliseconds.
#[derive(Clone, PartialEq, Debug, Serialize)]
pub struct Report {
    /// Which one.
    pub drill: Drill,
    /// The cluster's lease time.
    pub ttl_s: u32,
    /// The longest gap between two acknowledged writes, from the fault on.
    pub outage_ms: f64,
    /// Statements of the writer that failed: their outcome was unknown, or an error.
    pub client_errors: u64,
    /// Connections of the writer that failed.
    pub failed_connects: u64,
    /// Of the failed statements, those refused because the server was read-only.
    pub read_only_refusals: u64,
    /// Reads through the replica port, each on a connection of its own, that failed.
    pub read_errors: u64,
    /// The longest gap between two answered reads, from the fault on.
    pub read_outage_ms: f64,
    /// Acknowledged writes that the last primary does not have.
    pub lost_rows: u64,
    /// How long two servers said at the same time that they accept writes.
    pub dual_primary_ms: f64,
    /// Proofs of a second primary that need not last.
    pub intrusions: Vec<String>,
    /// Acknowledged writes in all.
    pub acknowledged: u64,
}

/// How drills are played.
#[derive(Clone, Copy, Debug)]
pub struct Plan {
    /// How long etcd stays away.
    pub etcd_away: Duration,
}

impl Default for Plan {
    fn default() -> Plan {
        Plan { etcd_away: Duration::from_mins(1) }
    }
}

/// Plays one drill on a healthy cluster and leaves it healthy. `say` is told the steps.
pub async fn run(
    playground: &mut Playground,
    drill: Drill,
    plan: Plan,
    say: &(dyn Fn(&str) + Sync),
) -> Result<Report, PlaygroundError> {
    playground.until_healthy(HEALTHY_WITHIN).await?;
    create_table(playground).await?;
    let clients = Clients::start(playground);
    served(playground, &clients, SETTLED).await?;

    let leader = playground.look().await.leader().map_err(late)?;
    let sessions = clients.sessions();
    let fault_at = Instant::now();
    strike(playground, drill, &leader, say).await?;
    match drill {
        Drill::EtcdOutage => tokio::time::sleep(plan.etcd_away).await,
        Drill::KillReplica => tokio::time::sleep(Duration::from_secs(3)).await,
        // Longer than anybody may take to notice.
        Drill::UnplugReplica => tokio::time::sleep(Duration::from_secs(10)).await,
        Drill::Switchover
        | Drill::KillPostgres
        | Drill::KillAgentAndPostgres
        | Drill::FreezeAgent
        | Drill::KillNode
        | Drill::UnplugNode
        | Drill::CutFromEtcd
        | Drill::StopAgent => reconnected(playground, &clients, sessions).await?,
    }
    served(playground, &clients, clients.acknowledged() + SETTLED).await?;

    for done in playground.revive()? {
        say(&done);
    }
    playground.until_healthy(HEALTHY_WITHIN).await?;
    tokio::time::sleep(WATCHED_FOR).await;
    let ledger = clients.stop().await;
    for (error, count) in &ledger.errors {
        say(&format!("{count}x {error}"));
    }

    let survivors = survivors(playground, 0).await?;
    Ok(Report {
        drill,
        ttl_s: playground.ttl,
        outage_ms: ms(ledger.longest_gap(0, fault_at)),
        client_errors: ledger.client_errors,
        failed_connects: ledger.failed_connects,
        read_only_refusals: ledger.read_only_refusals,
        read_errors: ledger.read_errors,
        read_outage_ms: ms(ledger.longest_read_gap(fault_at)),
        lost_rows: ledger.lost(&survivors),
        dual_primary_ms: ms(ledger.dual_primary()),
        intrusions: ledger.intrusions(None),
        acknowledged: ledger.acknowledged(),
    })
}

/// Does what the drill is named after.
pub async fn strike(
    playground: &mut Playground,
    drill: Drill,
    leader: &str,
    say: &(dyn Fn(&str) + Sync),
) -> Result<(), PlaygroundError> {
    match drill {
        Drill::Switchover => {
            say(&format!("asking {leader} to hand over"));
            let node = playground.node(leader).rest();
            switchover(node, leader).await?;
        }
        Drill::KillPostgres => {
            say(&format!("killing the postmaster of {leader}"));
            playground.node(leader).kill_postmaster();
        }
        Drill::KillAgentAndPostgres => {
            say(&format!("killing agent and postmaster of {leader}"));
            playground.node_mut(leader).signal_agent(Signal::KILL);
            playground.node(leader).kill_postmaster();
            playground.node_mut(leader).kill_agent(GONE_WITHIN).await;
        }
        Drill::FreezeAgent => {
            say(&format!("freezing the agent of {leader}"));
            playground.node_mut(leader).signal_agent(Signal::STOP);
        }
        Drill::StopAgent => {
            say(&format!("stopping the agent of {leader}"));
            let node = playground.node_mut(leader);
            if !node.stop_agent(HEALTHY_WITHIN).await {
                return Err(PlaygroundError::Refused(format!("the agent of {leader} does not stop")));
            }
        }
        Drill::EtcdOutage => {
            say("killing etcd");
            playground.etcd.kill().await;
        }
        Drill::KillReplica => {
            let replica = playground.nodes.iter().map(|n| n.name.clone()).find(|name| name != leader);
            let Some(replica) = replica else { return Ok(()) };
            say(&format!("killing agent and postmaster of {replica}"));
            playground.node_mut(&replica).signal_agent(Signal::KILL);
            playground.node(&replica).kill_postmaster();
            playground.node_mut(&replica).kill_agent(GONE_WITHIN).await;
        }
        Drill::KillNode => {
            say(&format!("cutting the power of {leader}"));
            playground.power_off(leader).await?;
        }
        Drill::UnplugNode => {
            say(&format!("pulling the cable of {leader}"));
            playground.network()?.plug(leader, false).map_err(PlaygroundError::Refused)?;
        }
        Drill::CutFromEtcd => {
            say(&format!("cutting {leader} from etcd"));
            let etcds = playground.etcd.names();
            cut_from(playground, leader, &etcds)?;
        }
        Drill::UnplugReplica => {
            let replica = playground.nodes.iter().map(|n| n.name.clone()).find(|name| name != leader);
            let Some(replica) = replica else { return Ok(()) };
            say(&format!("pulling the cable of {replica}"));
            playground.network()?.plug(&replica, false).map_err(PlaygroundError::Refused)?;
        }
    }
    Ok(())
}

/// Cuts `part` from all of `others`, in both directions.
fn cut_from(playground: &mut Playground, part: &str, others: &[String]) -> Result<(), PlaygroundError> {
    let network = playground.network()?;
    for other in others {
        network.cut(part, other).map_err(PlaygroundError::Refused)?;
        network.cut(other, part).map_err(PlaygroundError::Refused)?;
    }
    Ok(())
}

/// Asks the leader's agent; answered when the new leader serves.
async fn switchover(agent: std::net::SocketAddr, leader: &str) -> Result<(), PlaygroundError> {
    let body = json!({ "leader": leader }).to_string();
    let answer = http::request(Method::POST, agent, "/switchover", body, HEALTHY_WITHIN).await;
    match answer {
        Ok((StatusCode::OK, _)) => Ok(()),
        Ok((status, body)) => {
            let text = String::from_utf8_lossy(&body);
            Err(PlaygroundError::Refused(format!("the switchover was answered with {status}: {text}")))
        }
        Err(error) => Err(PlaygroundError::Refused(format!("the switchover was not answered: {error}"))),
    }
}

/// Waits until `count` writes are acknowledged.
async fn served(playground: &Playground, clients: &Clients, count: usize) -> Result<(), PlaygroundError> {
    waited(playground, "clients can write", || clients.acknowledged() >= count).await
}

/// Waits until the writer has a new session.
async fn reconnected(playground: &Playground, clients: &Clients, before: u64) -> Result<(), PlaygroundError> {
    waited(playground, "the writer has a new session", || clients.sessions() > before).await
}

async fn waited(
    playground: &Playground,
    what: &str,
    mut done: impl FnMut() -> bool,
) -> Result<(), PlaygroundError> {
    let started = Instant::now();
    while !done() {
        if started.elapsed() > SERVED_WITHIN {
            let missing =
                playground.look().await.health().err().unwrap_or_else(|| "all looks well".to_owned());
            return Err(PlaygroundError::Late {
                waited: SERVED_WITHIN,
                why: format!("until {what}; the cluster: {missing}"),
            });
        }
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
    Ok(())
}

fn late(why: String) -> PlaygroundError {
    PlaygroundError::Late { waited: Duration::ZERO, why }
}

/// A new, empty table for the writer, and everywhere for the reader.
pub async fn create_table(playground: &Playground) -> Result<(), PlaygroundError> {
    on_primary(playground, async |client| {
        client.batch_execute(clients::TABLE).await.map_err(|e| PlaygroundError::Sql("cannot make a table", e))
    })
    .await?;
    for node in &playground.nodes {
        let config = clients::config(node.postgres());
        let started = Instant::now();
        while let Err(error) = clients::read_once(&config).await {
            if started.elapsed() > HEALTHY_WITHIN {
                return Err(PlaygroundError::Sql("a replica does not show the table", error));
            }
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    }
    Ok(())
}

/// The writes that the present primary has, from number `lowest` on.
async fn survivors(playground: &Playground, lowest: i64) -> Result<HashSet<i64>, PlaygroundError> {
    let leader = playground.look().await.leader().map_err(late)?;
    rows_of(playground.node(&leader), lowest).await
}

/// The writes that a node has, from number `lowest` on.
async fn rows_of(node: &Node, lowest: i64) -> Result<HashSet<i64>, PlaygroundError> {
    on_node(node, async |client| {
        let rows = client.query(clients::SURVIVORS, &[&lowest]).await;
        let rows = rows.map_err(|e| PlaygroundError::Sql("cannot read the table", e))?;
        Ok(rows.iter().map(|row| row.get(0)).collect())
    })
    .await
}

async fn on_primary<T>(
    playground: &Playground,
    work: impl AsyncFnOnce(&tokio_postgres::Client) -> Result<T, PlaygroundError>,
) -> Result<T, PlaygroundError> {
    let leader = playground.look().await.leader().map_err(late)?;
    on_node(playground.node(&leader), work).await
}

async fn on_node<T>(
    node: &Node,
    work: impl AsyncFnOnce(&tokio_postgres::Client) -> Result<T, PlaygroundError>,
) -> Result<T, PlaygroundError> {
    let config = clients::config(node.postgres());
    let (client, connection) =
        config.connect(NoTls).await.map_err(|e| PlaygroundError::Sql("cannot connect to a node", e))?;
    let driver = tokio::spawn(connection);
    let done = work(&client).await;
    driver.abort();
    done
}
