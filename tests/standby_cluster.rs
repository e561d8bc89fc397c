//! Two real clusters, one of which follows the other as a whole: as it begins, through failovers on both sides, and
//! when the two change places.

mod cluster_support;

use std::collections::BTreeSet;
use std::net::SocketAddr;
use std::process::Stdio;

use cluster_support::{SOON, ask, cluster, healthy, switchover, until};
use hyper::Method;
use serde_json::{Value, json};
use tokio::process::Command;
use tokio::time::timeout;
use tokio_postgres::NoTls;
use xtask::playground::{Followed, Options, Playground, SCOPE, http};
use xtask::{install, programs};

/// The slot by which one cluster keeps WAL for the other.
const SLOT: &str = "other_site";

/// What an operator may change the places of clusters with.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Tool {
    Ours,
    Patronis,
}

/// Runs an operator's tool on the cluster of `playground`; it must succeed.
async fn operate(playground: &Playground, tool: Tool, args: &[&str]) {
    let programs = programs::built().expect("the programs are built");
    let etcd = playground.etcd.client().to_string();
    let mut command = match tool {
        Tool::Ours => {
            let mut command = Command::new(programs.ctl);
            command.args(["--endpoints", &etcd, "--scope", SCOPE]).env_remove("PGVANECTL_CONFIG");
            command
        }
        Tool::Patronis => {
            let found = tokio::task::spawn_blocking(move || install::patroni::patroni(&programs));
            let mut command = Command::new(found.await.expect("no panic").expect("Patroni").ctl);
            let settings = format!("scope: {SCOPE}\netcd3:\n  host: {etcd}\n");
            command.arg("-c").arg(playground.write("patronictl.yml", &settings).expect("writes"));
            command.env("LC_ALL", "C.UTF-8");
            command
        }
    };
    command.args(args);
    command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped()).kill_on_drop(true);
    let output = timeout(SOON, command.output()).await.expect("ends").expect("starts");
    assert!(output.status.success(), "{tool:?} {args:?}: {output:?}\n{}", playground.log_tails(60));
}

/// Makes the cluster of `here` follow that of `there`.
async fn demote(here: &Playground, there: &Playground, tool: Tool) {
    let leader = there.look().await.leader().expect("a leader");
    let server = there.node(&leader).postgres();
    let (host, port) = (server.ip().to_string(), server.port().to_string());
    operate(here, tool, &["demote-cluster", "--host", &host, "--port", &port, "--force"]).await;
}

/// Writes rows through the primary of `playground`, and notes them.
async fn write(playground: &Playground, written: &mut BTreeSet<i64>, ids: std::ops::Range<i64>) {
    let leader = playground.look().await.leader().expect("a leader");
    let (client, connection) = playground.node(&leader).superuser().connect(NoTls).await.expect("connects");
    let driver = tokio::spawn(connection);
    let sql = "INSERT INTO demo.writes (id) SELECT * FROM generate_series($1::bigint, $2::bigint)";
    client.execute(sql, &[&ids.start, &(ids.end - 1)]).await.expect("writes");
    driver.abort();
    written.extend(ids);
}

/// Waits until every server of `playground` has what was written and nothing else.
async fn until_all_have(playground: &Playground, written: &BTreeSet<i64>) {
    for node in &playground.nodes {
        let what = format!("{} has all that was written", node.name);
        until(playground, &what, async || {
            let rows = ask(playground, &node.name, "SELECT id::text FROM demo.writes").await;
            rows.iter().filter_map(|id| id.parse().ok()).collect::<BTreeSet<i64>>() == *written
        })
        .await;
    }
}

async fn status(agent: SocketAddr, path: &str) -> u16 {
    let answer = http::request(Method::GET, agent, path, String::new(), SOON).await;
    answer.map_or(0, |(status, _)| status.as_u16())
}

/// Waits until the cluster is led by a standby that follows one of `servers`, with all others behind it, and nobody
/// takes writes.
async fn until_follows(playground: &mut Playground, servers: &[SocketAddr]) {
    healthy(playground).await;
    let playground = &*playground;
    until(playground, "the standby leader streams from the other cluster, the others from it", async || {
        let Ok(leader) = playground.look().await.leader() else { return false };
        let sender = "SELECT sender_port::text FROM pg_stat_wal_receiver WHERE status = 'streaming'";
        let from = ask(playground, &leader, sender).await;
        if !servers.iter().any(|server| from == [server.port().to_string()]) {
            return false;
        }
        let ours = playground.node(&leader).postgres().port().to_string();
        for node in playground.nodes.iter().filter(|node| node.name != leader) {
            if ask(playground, &node.name, sender).await != [ours.clone()] {
                return false;
            }
        }
        true
    })
    .await;
    let leader = playground.look().await.leader().expect("a leader");
    for node in &playground.nodes {
        assert_eq!(ask(playground, &node.name, "SELECT pg_is_in_recovery()::text").await, ["true"]);
        let agent = node.rest();
        assert_eq!(status(agent, "/primary").await, 503, "{}", node.name);
        let leads = node.name == leader;
        assert_eq!(status(agent, "/standby_leader").await, if leads { 200 } else { 503 }, "{}", node.name);
        let body: Value = http::get(agent, "/patroni", SOON).await.expect("an answer");
        assert_eq!(body["role"], if leads { "standby_leader" } else { "replica" }, "{body}");
    }
}

async fn until_serves(playground: &mut Playground) {
    healthy(playground).await;
    let leader = playground.look().await.leader().expect("a leader");
    let playground = &*playground;
    until(playground, "the leader takes writes", async || {
        status(playground.node(&leader).rest(), "/primary").await == 200
            && ask(playground, &leader, "SELECT pg_is_in_recovery()::text").await == ["false"]
    })
    .await;
}

/// Ends the agent and the server of the leader without a word, and waits for the next; answers who it was.
async fn fell_leader(playground: &mut Playground) -> String {
    let name = playground.look().await.leader().expect("a leader");
    playground.node_mut(&name).kill_agent(SOON).await;
    playground.node(&name).kill_postmaster();
    until(playground, "another leads", async || {
        playground.look().await.leader().is_ok_and(|leader| leader != name)
    })
    .await;
    name
}

fn servers(playground: &Playground) -> Vec<SocketAddr> {
    Followed::cluster(playground, None).servers
}

async fn keep_slot(playground: &Playground, also: &Value) {
    let leader = playground.look().await.leader().expect("a leader");
    let mut patch = json!({ "slots": { SLOT: { "type": "physical" } } });
    patch.as_object_mut().expect("an object").extend(also.as_object().expect("an object").clone());
    let agent = playground.node(&leader).rest();
    let answer = http::request(Method::PATCH, agent, "/config", patch.to_string(), SOON).await;
    assert!(answer.as_ref().is_ok_and(|(status, _)| status.is_success()), "{answer:?}");
}

async fn until_slot_is_used(playground: &Playground) {
    until(playground, "the other cluster streams by its slot", async || {
        let Ok(leader) = playground.look().await.leader() else { return false };
        let sql = format!("SELECT active::text FROM pg_replication_slots WHERE slot_name = '{SLOT}'");
        ask(playground, &leader, &sql).await == ["true"]
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_cluster_follows_another_and_changes_places_with_it() {
    let mut first = cluster(2, 5, vec![]).await;
    // A member that parted from what the cluster follows may be made anew.
    let rewind = json!({ "postgresql": { "use_pg_rewind": true } });
    keep_slot(&first, &rewind).await;
    healthy(&mut first).await;
    let mut written = BTreeSet::new();
    write(&first, &mut written, 1..10).await;

    // It begins as a copy, whose leader streams from the primary, found among two servers, by the permanent slot.
    let followed = Followed::cluster(&first, Some(SLOT));
    let options = Options { nodes: 2, proxies: 0, ttl: 5, follows: Some(followed), ..Options::default() };
    let (installed, built) = (install::servers().expect("servers"), programs::built().expect("built"));
    let say = |line: &str| eprintln!("  second: {line}");
    let mut second = Playground::start(&options, &built, &installed, &say).await.expect("a standby cluster");
    until_follows(&mut second, &servers(&first)).await;
    until_slot_is_used(&first).await;
    write(&first, &mut written, 10..20).await;
    until_all_have(&second, &written).await;

    // Its leader dies: another leads, from the same source. The dead one comes back behind it.
    let dead = fell_leader(&mut second).await;
    write(&first, &mut written, 20..30).await;
    second.restart_agent(&dead).expect("starts");
    until_follows(&mut second, &servers(&first)).await;
    until_all_have(&second, &written).await;

    // What it follows changes its leader, and so its timeline; the slot is there before.
    let old = first.look().await.leader().expect("a leader");
    switchover(&first, &old).await;
    until_serves(&mut first).await;
    until_follows(&mut second, &servers(&first)).await;
    until_slot_is_used(&first).await;
    write(&first, &mut written, 30..40).await;
    until_all_have(&second, &written).await;

    // The two change places, and back: who accepted writes stops first, and what it wrote is there.
    demote(&first, &second, Tool::Ours).await;
    until_follows(&mut first, &servers(&second)).await;
    operate(&second, Tool::Ours, &["promote-cluster", "--force"]).await;
    until_serves(&mut second).await;
    write(&second, &mut written, 40..50).await;
    until_follows(&mut first, &servers(&second)).await;
    until_all_have(&first, &written).await;
    until_all_have(&second, &written).await;

    // The same with Patroni's own tool.
    demote(&second, &first, Tool::Patronis).await;
    operate(&first, Tool::Patronis, &["promote-cluster", "--force"]).await;
    until_serves(&mut first).await;
    write(&first, &mut written, 50..60).await;
    until_follows(&mut second, &servers(&first)).await;
    until_all_have(&second, &written).await;
    until_all_have(&first, &written).await;
}
