//! The replica port: in turn, past those that fail, and never cut for what happens to the leader.

mod proxy_support;

use std::time::Duration;

use pgvane_cluster::ids::Lsn;
use pgvane_cluster::records::{MemberRecord, Tags};
use proxy_support::client::{CANCEL_REQUEST, Client, Welcome, packet};
use proxy_support::server::{Manner, Seen, Server};
use proxy_support::{Cluster, Proxy, primary, replica};
use serde_json::Value;

fn failures(cause: &str) -> String {
    format!("pgvane_connect_failures_total{{listener=\"replica\",cause=\"{cause}\"}}")
}

fn readers(topology: &Value) -> Vec<&str> {
    let members = topology["clusters"][0]["members"].as_array().expect("a list");
    members.iter().filter(|m| m["takes_reads"] == true).filter_map(|m| m["name"].as_str()).collect()
}

/// pg1 leads; pg2 and pg3 are replicas.
struct Three {
    cluster: Cluster,
    pg1: Server,
    pg2: Server,
    pg3: Server,
}

async fn three() -> Three {
    let cluster = Cluster::new().await;
    let pg1 = Server::start("pg1", Manner::Serve).await;
    let pg2 = Server::start("pg2", Manner::Serve).await;
    let pg3 = Server::start("pg3", Manner::Serve).await;
    cluster.member("pg1", &primary(pg1.address)).await;
    cluster.member("pg2", &replica(pg2.address)).await;
    cluster.member("pg3", &replica(pg3.address)).await;
    cluster.lead("pg1").await;
    Three { cluster, pg1, pg2, pg3 }
}

async fn enter(proxy: &Proxy, times: usize) -> Vec<String> {
    let mut names = vec![];
    for _ in 0..times {
        names.push(Client::enter(proxy.addresses[0]).await.1);
    }
    names.sort();
    names
}

#[tokio::test]
async fn replicas_take_turns() {
    let t = three().await;
    let proxy = Proxy::for_reads(&t.cluster, "");
    assert_eq!(enter(&proxy, 6).await, ["pg2", "pg2", "pg2", "pg3", "pg3", "pg3"]);
}

#[tokio::test]
async fn a_replica_that_fails_before_its_answer_costs_the_client_nothing() {
    for (manner, cause) in [
        (Manner::NotNow, "not_now"),
        (Manner::GoesDown, "not_now"),
        (Manner::HangsUp, "no_answer"),
        (Manner::Silent, "no_answer"),
    ] {
        let t = three().await;
        t.pg2.behave(manner);
        let proxy = Proxy::for_reads(&t.cluster, "answer_timeout = \"100ms\"");
        assert_eq!(enter(&proxy, 4).await, ["pg3"; 4], "{manner:?}");
        assert!(proxy.metric(&failures(cause)).await >= 1.0, "{manner:?}");
    }
}

#[tokio::test]
async fn a_replica_whose_port_is_closed_is_passed_over() {
    let t = three().await;
    t.pg2.leave().await;
    let proxy = Proxy::for_reads(&t.cluster, "");
    assert_eq!(enter(&proxy, 4).await, ["pg3"; 4]);
    let refused = proxy.metric(&failures("refused")).await;
    assert!((1.0..4.0).contains(&refused), "it is not asked for every client: {refused}");
}

#[tokio::test]
async fn an_unreadable_record_leaves_out_that_member_and_nothing_else() {
    let t = three().await;
    let proxy = Proxy::for_reads(&t.cluster, "");
    proxy.until_topology("two replicas", |t| readers(t) == ["pg2", "pg3"]).await;
    t.cluster.raw_member("pg2", "{\"conn_url\": 7").await;
    proxy.until_topology("one replica", |t| readers(t) == ["pg3"]).await;
    assert_eq!(enter(&proxy, 2).await, ["pg3"; 2]);
    proxy.until_metric("pgvane_malformed_keys{cluster=\"main\"}", 1.0).await;
    let topology = proxy.topology().await;
    assert_eq!(topology["clusters"][0]["malformed"][0]["key"], "/service/main/members/pg2");
    t.cluster.member("pg2", &replica(t.pg2.address)).await;
    proxy.until_topology("two replicas", |t| readers(t) == ["pg2", "pg3"]).await;
    proxy.until_metric("pgvane_malformed_keys{cluster=\"main\"}", 0.0).await;
}

#[tokio::test]
async fn tags_and_lag_keep_new_sessions_away() {
    let t = three().await;
    t.cluster.optime(1 << 30).await;
    let at = |lag: u64| MemberRecord { replay_lsn: Some(Lsn((1 << 30) - lag)), ..replica(t.pg2.address) };
    let tagged = MemberRecord {
        tags: Tags([("noloadbalance".to_owned(), true.into())].into()),
        ..replica(t.pg3.address)
    };
    t.cluster.member("pg2", &at(1000)).await;
    t.cluster.member("pg3", &tagged).await;
    let proxy = Proxy::for_reads(&t.cluster, "max_lag = \"1kB\"\nhold_timeout = \"50ms\"");
    proxy.until_topology("one replica", |t| readers(t) == ["pg2"]).await;
    let (mut session, name) = Client::enter(proxy.addresses[0]).await;
    assert_eq!(name, "pg2");
    t.cluster.member("pg2", &at(5000)).await;
    proxy.until_topology("more lag", |t| t["clusters"][0]["members"][1]["lag_bytes"] == 5000).await;
    let mut late = Client::connect(proxy.addresses[0]).await;
    late.say_hello().await;
    let Welcome::Error(code, message) = late.welcome().await else { panic!("no error") };
    assert_eq!(code, "57P03");
    for part in ["pg1: role primary", "pg2: 5000 bytes behind", "pg3: tag noloadbalance"] {
        assert!(message.contains(part), "{message}");
    }
    session.echo(b"lag is no reason to end a session").await;
}

#[tokio::test]
async fn reads_fall_back_to_the_primary_only_where_that_is_set() {
    let t = three().await;
    for name in ["pg2", "pg3"] {
        t.cluster.forget_member(name).await;
    }
    let proxy = Proxy::for_reads(&t.cluster, "fallback = \"primary\"");
    assert_eq!(enter(&proxy, 1).await, ["pg1"]);
    let waits = Proxy::for_reads(&t.cluster, "");
    let mut client = Client::connect(waits.addresses[0]).await;
    client.say_hello().await;
    waits.until_metric("pgvane_held{listener=\"replica\"}", 1.0).await;
    t.cluster.member("pg3", &replica(t.pg3.address)).await;
    assert_eq!(client.welcome().await, Welcome::In("pg3".to_owned()));
    assert_eq!(enter(&proxy, 1).await, ["pg3"], "the primary is the last resort");
}

/// A session that fell back to the primary is one of its reign, whatever port it came by.
#[tokio::test]
async fn a_read_session_on_the_primary_ends_with_the_epoch_and_others_do_not() {
    let t = three().await;
    t.cluster.forget_member("pg3").await;
    let reads = Proxy::for_reads(&t.cluster, "");
    let (mut on_replica, name) = Client::enter(reads.addresses[0]).await;
    assert_eq!(name, "pg2");
    t.cluster.forget_member("pg2").await;
    let falls = Proxy::for_reads(&t.cluster, "fallback = \"primary\"");
    let (mut on_primary, name) = Client::enter(falls.addresses[0]).await;
    assert_eq!(name, "pg1");
    t.cluster.nobody_leads().await;
    assert!(on_primary.is_cut().await.contains("pg1 is not the primary any more"));
    reads.until_topology("no leader", |t| t["clusters"][0]["leader"].is_null()).await;
    on_replica.echo(b"neither a gone record nor a gone leader ends this").await;
}

#[tokio::test]
async fn any_port_includes_the_primary() {
    let t = three().await;
    let proxy = Proxy::start(&t.cluster, "", &[proxy_support::listener("any", "")]);
    assert_eq!(enter(&proxy, 3).await, ["pg1", "pg2", "pg3"]);
}

#[tokio::test]
async fn a_cancel_request_reaches_every_replica() {
    let mut t = three().await;
    let proxy = Proxy::for_reads(&t.cluster, "");
    proxy.until_topology("two replicas", |t| readers(t).len() == 2).await;
    let key = vec![9, 8, 7, 6, 5, 4, 3, 2];
    let mut cancel = Client::connect(proxy.addresses[0]).await;
    cancel.send(&packet(CANCEL_REQUEST, &key)).await;
    assert_eq!(t.pg2.sees().await, Seen::Cancel(key.clone()));
    assert_eq!(t.pg3.sees().await, Seen::Cancel(key));
    assert_eq!(cancel.rest().await, b"");
    assert_eq!(*t.pg1.met.borrow(), 0, "not the primary");
}

/// All replicas refuse: the client is held and asks again, each target once per round.
#[tokio::test]
async fn when_all_refuse_the_client_waits_for_the_first_that_does_not() {
    let mut t = three().await;
    t.pg2.behave(Manner::NotNow);
    t.pg3.behave(Manner::NotNow);
    let proxy = Proxy::for_reads(&t.cluster, "");
    let mut client = Client::connect(proxy.addresses[0]).await;
    client.say_hello().await;
    t.pg2.until_met(2).await;
    t.pg3.until_met(2).await;
    t.pg3.behave(Manner::Serve);
    assert_eq!(client.welcome().await, Welcome::In("pg3".to_owned()));
    assert!(
        proxy.metric("pgvane_hold_seconds_sum{listener=\"replica\"}").await
            < Duration::from_secs(10).as_secs_f64()
    );
}
