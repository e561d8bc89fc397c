//! The table of contract 6.1, line by line.

use serde_json::json;

use super::super::fixture::{NOW, PAIR, leader, replica, view};
use super::*;
use crate::api::ServerAnswer;

fn healthy(url: &str, s: &ApiSnapshot) -> bool {
    let (path, query) = url.split_once('?').unwrap_or((url, ""));
    let query = query.split('&').filter_map(|kv| kv.split_once('='));
    is_healthy(path, &query.map(|(k, v)| (k.to_owned(), v.to_owned())).collect(), s, NOW)
}

fn expect(s: &ApiSnapshot, good: &[&str], bad: &[&str]) {
    for url in good {
        assert!(healthy(url, s), "{url} should be 200");
    }
    for url in bad {
        assert!(!healthy(url, s), "{url} should be 503");
    }
}

fn with(extra: &[(&str, &str)]) -> ClusterView {
    view(&PAIR.iter().chain(extra).copied().collect::<Vec<_>>())
}

#[test]
fn a_leader() {
    let s = leader(view(PAIR));
    expect(
        &s,
        &["/", "/primary", "/master", "/read-write", "/leader", "/read-only", "/health", "/primary?lag=1"],
        &["/replica", "/standby-leader", "/sync", "/async", "/nonsense", "/patroni"],
    );
}

#[test]
fn a_replica() {
    let s = replica(view(PAIR));
    expect(
        &s,
        &[
            "/replica",
            "/read-only",
            "/health",
            "/async",
            "/asynchronous",
            "/replica?lag=200",
            "/replica?lag=1kB",
            "/replica?replication_state=streaming",
        ],
        &[
            "/",
            "/primary",
            "/leader",
            "/sync",
            "/quorum",
            "/replica?lag=199",
            "/replica?lag=much",
            "/replica?replication_state=x",
        ],
    );
}

#[test]
fn the_lock_counts_by_our_own_clock_only() {
    let mut s = leader(view(PAIR));
    s.leader_until = Some(NOW);
    expect(&s, &["/health"], &["/", "/primary", "/leader", "/read-only"]);
}

#[test]
fn a_leader_that_stops_still_answers_for_the_lock() {
    let mut s = leader(view(PAIR));
    s.local.state = MemberState::Stopping;
    s.local.answer = None;
    expect(&s, &["/primary"], &["/health"]);
}

/// Every row of the table and every state that tells rows apart.
#[test]
fn the_whole_table() {
    const LEADER: &[&str] = &["/leader", "/leader/x", "/the-leader"];
    const PRIMARY: &[&str] = &["/", "/primary", "/master", "/read-write", "/primary/anything", "/xmasterx"];
    const STANDBY_LEADER: &[&str] = &["/standby_leader", "/standby-leader", "/x/standby-leader"];
    const REPLICA: &[&str] = &["/replica", "/replica/x"];
    const READ_ONLY: &[&str] = &["/read-only", "/read-only/x"];
    const HEALTH: &[&str] = &["/health", "/healthz"];
    const SYNC: &[&str] = &["/sync", "/synchronous"];
    const QUORUM: &[&str] = &["/quorum"];
    const ASYNC: &[&str] = &["/async", "/asynchronous"];
    const READ_ONLY_SYNC: &[&str] = &["/read-only-sync", "/read-only-synchronous"];
    const READ_ONLY_QUORUM: &[&str] = &["/read-only-quorum"];
    const NEVER: &[&str] =
        &["/x", "/sync/x", "/quorum/x", "/async/x", "/read-only-sync/x", "/patroni", "/liveness"];
    let all: Vec<&[&str]> = vec![
        LEADER,
        PRIMARY,
        STANDBY_LEADER,
        REPLICA,
        READ_ONLY,
        HEALTH,
        SYNC,
        QUORUM,
        ASYNC,
        READ_ONLY_SYNC,
        READ_ONLY_QUORUM,
        NEVER,
    ];
    let key = ("sync", r#"{"leader":"a","quorum":0,"sync_standby":"b"}"#);
    let on = with(&[("config", r#"{"synchronous_mode":"on"}"#), key]);
    let quorum = with(&[("config", r#"{"synchronous_mode":"quorum"}"#), key]);
    let standby = with(&[("config", r#"{"standby_cluster":{"host":"x"}}"#)]);
    let mut standby_leader = replica(standby);
    standby_leader.leader_until = Some(NOW + standby_leader.ttl);
    standby_leader.local.role = MemberRole::StandbyLeader;
    let mut stopped = replica(view(PAIR));
    (stopped.local.state, stopped.local.answer) = (MemberState::Stopped, None);
    let mut aside = replica(view(PAIR));
    aside.tags.0.insert("noloadbalance".to_owned(), json!(true));
    let mut unseen = replica(on.clone());
    unseen.observation.confirmed_at = NOW - unseen.ttl;
    let mut unseen_leader = leader(view(PAIR));
    unseen_leader.observation.confirmed_at = NOW - unseen_leader.ttl;
    let paused = |mut s: ApiSnapshot| {
        (s.leader_until, s.observation.confirmed_at) = (None, NOW - s.ttl);
        s
    };
    let pause = || with(&[("config", r#"{"pause":true}"#)]);
    let leads: &[&[&str]] = &[LEADER, PRIMARY, READ_ONLY, HEALTH, READ_ONLY_SYNC, READ_ONLY_QUORUM];
    let follows: &[&[&str]] = &[REPLICA, READ_ONLY, HEALTH, ASYNC];
    for (case, s, good) in [
        ("the leader", leader(view(PAIR)), leads),
        ("a replica", replica(view(PAIR)), follows),
        ("a synchronous one", replica(on), &[REPLICA, READ_ONLY, HEALTH, SYNC, READ_ONLY_SYNC]),
        ("one of a quorum", replica(quorum), &[REPLICA, READ_ONLY, HEALTH, QUORUM, READ_ONLY_QUORUM]),
        (
            "the leader of a standby cluster",
            standby_leader,
            &[LEADER, STANDBY_LEADER, READ_ONLY, HEALTH, READ_ONLY_SYNC, READ_ONLY_QUORUM],
        ),
        ("a stopped one", stopped, &[]),
        ("one without reads", aside, &[HEALTH]),
        ("a replica that has not seen the store", unseen, &[REPLICA, READ_ONLY, HEALTH]),
        ("a leader that has not", unseen_leader, &[LEADER, PRIMARY, READ_ONLY, HEALTH]),
        ("a primary in pause without it", paused(leader(pause())), &[LEADER, PRIMARY, READ_ONLY, HEALTH]),
        ("a replica in pause without it", paused(replica(pause())), &[REPLICA, READ_ONLY, HEALTH]),
    ] {
        for urls in &all {
            for url in *urls {
                assert_eq!(healthy(url, &s), good.contains(urls), "{url} of {case}");
            }
        }
    }
}

#[test]
fn tags_are_asked_of_all_but_leaders() {
    let mut s = leader(view(PAIR));
    s.tags.0.insert("zone".to_owned(), json!("eu"));
    expect(
        &s,
        &["/primary?tag_zone=us", "/?tag_zone=us", "/leader?tag_zone=us", "/health?tag_zone=eu"],
        &["/health?tag_zone=us", "/read-only?tag_zone=us"],
    );
}

#[test]
fn tags_of_the_node_and_of_the_request() {
    let mut s = replica(view(PAIR));
    s.tags.0.insert("clonefrom".to_owned(), json!(true));
    s.tags.0.insert("zone".to_owned(), json!("eu"));
    let bad = &["/replica?tag_zone=us", "/replica?tag_other=1", "/replica?tag_clonefrom=false"];
    expect(&s, &["/replica?tag_zone=eu&tag_clonefrom=true", "/replica?tag_clonefrom=True"], bad);
    s.tags.0.insert("noloadbalance".to_owned(), json!(true));
    expect(&s, &["/health"], &["/replica", "/read-only"]);
}

#[test]
fn synchronous_standbys() {
    let sync = ("sync", r#"{"leader":"a","quorum":0,"sync_standby":"B"}"#);
    let s = replica(with(&[("config", r#"{"synchronous_mode":true}"#), sync]));
    expect(&s, &["/sync", "/synchronous", "/read-only-sync"], &["/async", "/quorum", "/read-only-quorum"]);
    let s = replica(with(&[("config", r#"{"synchronous_mode":"quorum"}"#), sync]));
    expect(&s, &["/quorum", "/read-only-quorum"], &["/async", "/sync"]);
    let mut old = s.clone();
    old.observation.confirmed_at = NOW - old.ttl;
    expect(&old, &["/replica"], &["/quorum", "/async", "/sync"]);
}

#[test]
fn a_standby_cluster_has_no_primary() {
    let standby = ("config", r#"{"standby_cluster":{"host":"x"}}"#);
    let mut s = replica(with(&[standby]));
    s.leader_until = Some(NOW + s.ttl);
    s.local.role = MemberRole::StandbyLeader;
    expect(&s, &["/standby-leader", "/standby_leader", "/leader", "/read-only"], &["/primary", "/"]);
}

#[test]
fn liveness_is_the_loops() {
    let mut s = leader(view(PAIR));
    // loop_wait 10 s + ttl 30 s
    s.turned_at = NOW - Duration::from_secs(39);
    assert!(is_live(&s, NOW));
    s.turned_at = NOW - Duration::from_secs(41);
    assert!(!is_live(&s, NOW));
    let mut s = replica(view(PAIR));
    s.turned_at = NOW - Duration::from_secs(41);
    assert!(is_live(&s, NOW));
    let mut s = leader(with(&[("config", r#"{"pause":true}"#)]));
    s.turned_at = Tick::ZERO;
    assert!(is_live(&s, NOW), "paused");
}

#[test]
fn readiness_of_a_replica_is_its_lag() {
    let query =
        |text: &str| text.split_once('=').map(|(k, v)| (k.to_owned(), v.to_owned())).into_iter().collect();
    let s = replica(view(PAIR));
    assert!(is_ready(&query(""), &s, NOW));
    assert!(is_ready(&query("lag=200"), &s, NOW));
    assert!(!is_ready(&query("lag=150"), &s, NOW));
    let write: Query = [("lag", "150"), ("mode", "write")].map(|(k, v)| (k.to_owned(), v.to_owned())).into();
    assert!(is_ready(&write, &s, NOW));
    assert!(is_ready(&query("lag=0"), &leader(view(PAIR)), NOW));
    let mut silent = s.clone();
    silent.local.answer = None;
    assert!(!is_ready(&query(""), &silent, NOW));
    // Without the store the upstream's own word has to do, or that the leader is vouched for.
    let mut unseen = s;
    unseen.observation.confirmed_at = NOW - unseen.ttl;
    assert!(!is_ready(&query(""), &unseen, NOW));
    unseen.failsafe_active = true;
    assert!(is_ready(&query(""), &unseen, NOW));
    unseen.failsafe_active = false;
    if let Some(ServerAnswer { wal: Wal::Standby { latest_end, .. }, .. }) = &mut unseen.local.answer {
        *latest_end = Some(Lsn(1_100));
    }
    assert!(is_ready(&query("lag=300"), &unseen, NOW));
    assert!(!is_ready(&query("lag=299"), &unseen, NOW), "the later of both ends counts");
}
