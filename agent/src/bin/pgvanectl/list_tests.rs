//! Tables as patronictl prints them.

use pgvane_cluster::clock::Tick;
use pgvane_cluster::fold;
use pgvane_cluster::ids::Revision;
use pgvane_cluster::keyspace::Keyspace;
use pgvane_cluster::store::model::ModelStore;
use pgvane_cluster::store::{Store, Txn};

use super::*;

pub(crate) async fn view(keys: &[(&str, &str)]) -> ClusterView {
    let store = ModelStore::new();
    let space = Keyspace::new("service", "demo");
    for (key, value) in keys {
        let put = Txn::put(format!("{}{key}", space.prefix()), value.as_bytes().to_vec(), None);
        store.txn(put).await.expect("puts");
    }
    let snapshot = store.snapshot(space.prefix()).await.expect("reads");
    assert!(snapshot.revision > Revision(0) && snapshot.asked_at <= Tick::now());
    fold::from_snapshot(&space, &snapshot, None)
}

pub(crate) const PAIR: &[(&str, &str)] = &[
    ("initialize", "7277694203142172922"),
    ("leader", "pg1"),
    ("status", r#"{"optime":83886080}"#),
    (
        "members/pg1",
        r#"{"state":"running","role":"primary","conn_url":"postgres://10.0.0.1:5432/postgres","timeline":5}"#,
    ),
    (
        "members/pg2",
        r#"{"state":"running","role":"replica","conn_url":"postgres://10.0.0.2:5432/postgres","timeline":5,"replication_state":"streaming","xlog_location":83886080,"receive_lsn":83886080,"replay_lsn":67108864}"#,
    ),
    (
        "members/pg3",
        r#"{"state":"creating replica","role":"uninitialized","conn_url":"postgres://10.0.0.3:5432/postgres"}"#,
    ),
];

fn drawn(view: &ClusterView, format: Format) -> String {
    show(view, "demo", format, Shape::default(), Paper::default())
}

#[tokio::test]
async fn the_tree_hangs_members_below_their_upstreams() {
    let replica =
        |from: &str| format!(r#"{{"state":"running","role":"replica","tags":{{"replicatefrom":"{from}"}}}}"#);
    let (below, beside, circle) = (replica("pg2"), replica("nobody"), replica("pg6"));
    let mut keys = PAIR[..5].to_vec();
    keys.extend([("members/pg3", below.as_str()), ("members/pg4", beside.as_str())]);
    keys.extend([
        ("members/pg5", circle.as_str()),
        ("members/pg6", r#"{"state":"running","role":"replica","tags":{"replicatefrom":"pg5"}}"#),
    ]);
    let names: Vec<(usize, String)> = tree(&view(&keys).await);
    let expected = [(0, "pg1"), (1, "pg2"), (2, "pg3"), (1, "pg4"), (0, "pg5"), (0, "pg6")];
    assert_eq!(names, expected.map(|(depth, name)| (depth, name.to_owned())));
    let shape = Shape { tree: true, extended: false };
    let shown = show(&view(&keys).await, "demo", Format::Pretty, shape, Paper::default());
    assert!(shown.contains("| + pg2 ") && shown.contains("|   + pg3 "), "{shown}");
}

#[tokio::test]
async fn the_table() {
    let shown = drawn(&view(PAIR).await, Format::Pretty);
    assert_eq!(
        shown,
        "\
+ Cluster: demo (7277694203142172922) -----------+----+-------------+-----+------------+-----+
| Member | Host     | Role    | State            | TL | Receive LSN | Lag | Replay LSN | Lag |
+--------+----------+---------+------------------+----+-------------+-----+------------+-----+
| pg1    | 10.0.0.1 | Leader  | running          |  5 |             |     |            |     |
| pg2    | 10.0.0.2 | Replica | streaming        |  5 | 0/5000000   |   0 | 0/4000000  |  16 |
| pg3    | 10.0.0.3 | Replica | creating replica |    | unknown     |     | unknown    |     |
+--------+----------+---------+------------------+----+-------------+-----+------------+-----+
"
    );
}

#[tokio::test]
async fn the_table_with_everything() {
    let mut keys = PAIR[..4].to_vec();
    keys.extend([
        ("config", r#"{"pause":true,"synchronous_mode":true}"#),
        ("sync", r#"{"leader":"pg1","sync_standby":"pg2"}"#),
        ("failover", r#"{"leader":"pg1","member":"pg2","scheduled_at":"2027-01-01T00:00:00+00:00"}"#),
        ("members/pg2", r#"{"state":"running","role":"replica","conn_url":"postgres://10.0.0.1:5433/postgres","tags":{"clonefrom":true,"nosync":false},"pending_restart":true,"pending_restart_reason":{"max_connections":{"old_value":"100","new_value":"200"}}}"#),
    ]);
    let shown = drawn(&view(&keys).await, Format::Pretty);
    for expected in [
        "| 10.0.0.1:5433 | Sync Standby |",
        "| Pending restart | Pending restart reason    | Tags            |",
        "| *               | max_connections: 100->200 | clonefrom: true |",
        "|                 |                           | nosync: false   |",
        "\n Maintenance mode: on\n Switchover scheduled at: 2027-01-01T00:00:00+00:00\n                    from: pg1\n",
    ] {
        assert!(shown.contains(expected), "{expected}\nis missing in\n{shown}");
    }
}

#[tokio::test]
async fn json_keeps_the_full_names() {
    let shown = drawn(&view(PAIR).await, Format::Json);
    let rows: Vec<Value> = serde_json::from_str(&shown).expect("is JSON");
    assert_eq!(
        rows[1],
        serde_json::json!({"Cluster": "demo", "Member": "pg2", "Host": "10.0.0.2", "Role": "Replica",
            "State": "streaming", "TL": 5, "Receive LSN": "0/5000000", "Receive Lag": 0,
            "Replay LSN": "0/4000000", "Replay Lag": 16})
    );
}
