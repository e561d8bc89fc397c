//! The table of contract 6.1, line by line.

use serde_json::json;

use super::super::fixture::{NOW, PAIR, leader, replica, view};
use super::*;

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
}
