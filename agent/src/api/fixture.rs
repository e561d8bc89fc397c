//! Snapshots for the API's tests.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use pgvane_cluster::clock::Tick;
use pgvane_cluster::fold;
use pgvane_cluster::follow::{Contact, Observation};
use pgvane_cluster::ids::{LeaseId, Lsn, Revision, Timeline};
use pgvane_cluster::keyspace::Keyspace;
use pgvane_cluster::records::{MemberRole, MemberState, Tags};
use pgvane_cluster::store::{KeyValue, Snapshot};
use pgvane_cluster::view::ClusterView;

use super::snapshot::{ApiSnapshot, LocalPostgres, Operations, ServerAnswer, Wal, Walsender};

/// The instant at which fixtures were confirmed and turned.
pub(crate) const NOW: Tick = Tick::from_millis(1_000_000);

/// The view of keys (without the prefix) and their values.
pub(crate) fn view(keys: &[(&str, &str)]) -> ClusterView {
    let space = Keyspace::new("service", "demo");
    let keys = keys.iter().zip(1..).map(|((key, value), n)| KeyValue {
        key: format!("{}{key}", space.prefix()).into_bytes(),
        value: value.as_bytes().to_vec(),
        create_revision: Revision(n),
        mod_revision: Revision(n),
        lease: Some(LeaseId(1)),
    });
    let snapshot = Snapshot { revision: Revision(100), keys: keys.collect(), asked_at: NOW, era: 0 };
    let view = fold::from_snapshot(&space, &snapshot, None);
    assert!(view.malformed.is_empty(), "{:?}", view.malformed);
    view
}

/// Leader `a`, replica `b` 100 bytes behind, both running.
pub(crate) const PAIR: &[(&str, &str)] = &[
    ("config", r#"{"ttl":30,"loop_wait":10}"#),
    ("leader", "a"),
    (
        "members/a",
        r#"{"state":"running","role":"primary","conn_url":"postgres://10.0.0.1:5432/postgres","api_url":"http://10.0.0.1:8008/patroni","timeline":3,"xlog_location":1000}"#,
    ),
    (
        "members/b",
        r#"{"state":"running","role":"replica","conn_url":"postgres://10.0.0.2:5433/postgres","api_url":"http://10.0.0.2:8008/patroni","timeline":3,"xlog_location":900,"receive_lsn":900,"replay_lsn":800,"replication_state":"streaming"}"#,
    ),
    ("status", r#"{"optime":1000}"#),
    ("history", r#"[[1,25,"x"],[2,50,"y","2026-01-01T00:00:00+00:00","a"]]"#),
];

/// The snapshot of leader `a`.
pub(crate) fn leader(view: ClusterView) -> ApiSnapshot {
    ApiSnapshot {
        name: "a".into(),
        scope: "demo".to_owned(),
        tags: Tags::default(),
        observation: Observation {
            view: Some(Arc::new(view)),
            confirmed_at: NOW,
            contact: Contact::Up,
            leader_lease: None,
        },
        leader_until: Some(NOW + Duration::from_secs(20)),
        renewed_at: Some(NOW - Duration::from_secs(2)),
        local: LocalPostgres {
            state: MemberState::Running,
            role: MemberRole::Primary,
            answer: Some(ServerAnswer {
                server_version: 150_006,
                postmaster_start_time: Some("2026-11-24 10:00:00.5+00".to_owned()),
                timeline: Some(Timeline(3)),
                wal: Wal::Primary { location: Lsn(1000) },
                replication: vec![Walsender {
                    usename: Some("replicator".to_owned()),
                    application_name: "b".to_owned(),
                    client_addr: Some("10.0.0.2".to_owned()),
                    state: Some("streaming".to_owned()),
                    sync_state: Some("async".to_owned()),
                    sync_priority: Some(0),
                }],
            }),
            system_identifier: Some("7300000000000000000".to_owned()),
            asked_at: None,
        },
        failsafe_active: false,
        pending_restart: None,
        operations: Operations::default(),
        watchdog_failed: false,
        turned_at: NOW,
        ttl: Duration::from_secs(30),
        dcs_last_seen: 1_764_000_000,
        turns: 7,
        decisions: BTreeMap::from([("wait", 6), ("promote", 1)]),
    }
}

/// The snapshot of replica `b`.
pub(crate) fn replica(view: ClusterView) -> ApiSnapshot {
    let mut s = leader(view);
    s.name = "b".into();
    s.leader_until = None;
    s.local.role = MemberRole::Replica;
    if let Some(answer) = &mut s.local.answer {
        answer.replication.clear();
        answer.wal = Wal::Standby {
            received: Lsn(900),
            replayed: Lsn(800),
            replayed_timestamp: Some("2026-11-24 10:00:01.25+00".to_owned()),
            paused: false,
            replication_state: Some("streaming".to_owned()),
            latest_end: None,
        };
    }
    s
}
