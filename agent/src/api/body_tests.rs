//! Bodies as other members, patronictl and exporters read them.

use serde_json::json;

use super::super::fixture::{NOW, PAIR, leader, replica, view};
use super::*;
use crate::decide::Reason;

#[test]
fn a_leader_tells_everything() {
    let mut s = leader(view(PAIR));
    s.pending_restart = Some(json!({"max_connections": {"old_value": "100", "new_value": "200"}}));
    s.tags.0.insert("clonefrom".to_owned(), json!(true));
    s.operations.scheduled_restart = Some(
        json!({"schedule": "2027-01-01T00:00:00+00:00", "postmaster_start_time": "x", "role": "primary"}),
    );
    let mut body = patroni(&s, NOW);
    body.as_object_mut().expect("an object").remove("pgvane");
    assert_eq!(
        body,
        json!({
            "state": "running", "role": "primary",
            "postmaster_start_time": "2026-11-24 10:00:00.500000+00:00",
            "server_version": 150_006, "timeline": 3, "xlog": {"location": 1000},
            "replication": [{"usename": "replicator", "application_name": "b", "client_addr": "10.0.0.2",
                "state": "streaming", "sync_state": "async", "sync_priority": 0}],
            "pending_restart": true,
            "pending_restart_reason": {"max_connections": {"old_value": "100", "new_value": "200"}},
            "scheduled_restart": {"schedule": "2027-01-01T00:00:00+00:00", "role": "primary"},
            "tags": {"clonefrom": true},
            "dcs_last_seen": 1_764_000_000,
            "database_system_identifier": "7300000000000000000",
            "patroni": {"version": "4.1.4", "scope": "demo", "name": "a"},
        })
    );
}

#[test]
fn an_agent_tells_what_it_does_and_why() {
    let mut s = leader(view(PAIR));
    assert_eq!(patroni(&s, NOW)["pgvane"]["decided"], json!(null));
    s.operations.decided = Some(("wait", Reason::Leading));
    assert_eq!(patroni(&s, NOW)["pgvane"]["decided"], json!({"action": "wait", "reason": "leading"}));
}

#[test]
fn a_replica_tells_its_positions() {
    let body = patroni(&replica(view(PAIR)), NOW);
    assert_eq!(body["role"], "replica");
    assert_eq!(body["replication_state"], "streaming");
    assert_eq!(
        body["xlog"],
        json!({"received_location": 900, "replayed_location": 800,
            "replayed_timestamp": "2026-11-24 10:00:01.250000+00:00", "paused": false})
    );
}

#[test]
fn a_silent_server_is_unknown_and_tells_no_position() {
    let mut s = leader(view(PAIR));
    s.local.answer = None;
    let body = patroni(&s, NOW);
    assert_eq!((&body["state"], &body["role"]), (&json!("unknown"), &json!("primary")));
    assert_eq!(body.get("xlog"), None);
    s.local.state = MemberState::Stopped;
    assert_eq!(patroni(&s, NOW)["state"], "stopped");
}

#[test]
fn the_cluster_as_a_list() {
    let mut keys = PAIR.to_vec();
    keys.push(("members/c", r#"{"state":"creating replica","role":"uninitialized"}"#));
    keys.push(("failover", r#"{"leader":"a","member":"b","scheduled_at":"2027-01-01T00:00:00+00:00"}"#));
    let body = cluster(&view(&keys), "demo");
    assert_eq!(body["scope"], "demo");
    assert_eq!(
        body["scheduled_switchover"],
        json!({"at": "2027-01-01T00:00:00+00:00", "from": "a", "to": "b"})
    );
    assert_eq!(
        body["members"],
        json!([
            {"name": "a", "role": "leader", "state": "running", "api_url": "http://10.0.0.1:8008/patroni",
                "host": "10.0.0.1", "port": 5432, "timeline": 3},
            {"name": "b", "role": "replica", "state": "streaming", "api_url": "http://10.0.0.2:8008/patroni",
                "host": "10.0.0.2", "port": 5433, "timeline": 3,
                "receive_lsn": "0/384", "receive_lag": 100, "replay_lsn": "0/320", "replay_lag": 200,
                "lsn": "0/384", "lag": 100},
            {"name": "c", "role": "replica", "state": "creating replica",
                "receive_lsn": "unknown", "receive_lag": "unknown", "replay_lsn": "unknown",
                "replay_lag": "unknown", "lsn": "unknown", "lag": "unknown"},
        ])
    );
}

#[test]
fn history_is_an_array_always() {
    assert_eq!(history(&view(PAIR))[1][2], "y");
    assert_eq!(history(&view(&[])), json!([]));
}

#[test]
fn json_is_spaced_outside_of_strings_only() {
    let value = json!({"a": [1, "x,y:z\\\" , \\"], "b": {}});
    let text = spaced(&value);
    assert_eq!(text, r#"{"a": [1, "x,y:z\\\" , \\"], "b": {}}"#);
    assert_eq!(serde_json::from_str::<Value>(&text).expect("is JSON"), value);
}
