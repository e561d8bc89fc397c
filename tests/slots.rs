//! Histories and slots on real servers: what follows whom, what is kept for whom, and what is found out in time.

mod cluster_support;

use std::collections::BTreeSet;
use std::time::{Duration, Instant};

use cluster_support::{SOON, ask, cluster, healthy, rows, switchover, until};
use hyper::Method;
use serde_json::{Value, json};
use tokio_postgres::NoTls;
use xtask::playground::{Playground, http};

/// The slots of a server.
const SLOTS: &str = "SELECT slot_name::text FROM pg_replication_slots ORDER BY 1";

/// Those of them that keep WAL.
const SLOTS_IN_USE: &str =
    "SELECT slot_name::text FROM pg_replication_slots WHERE restart_lsn IS NOT NULL ORDER BY 1";

/// Changes the dynamic configuration, by way of the leader.
async fn configure(playground: &Playground, leader: &str, patch: &Value) {
    let agent = playground.node(leader).rest();
    let answer = http::request(Method::PATCH, agent, "/config", patch.to_string(), SOON).await;
    assert!(answer.as_ref().is_ok_and(|(status, _)| status.is_success()), "{answer:?}");
}

/// Writes rows on the server of `name`.
async fn write(playground: &Playground, name: &str, ids: std::ops::Range<i64>) {
    let (client, connection) = playground.node(name).superuser().connect(NoTls).await.expect("connects");
    let driver = tokio::spawn(connection);
    let sql = "INSERT INTO demo.writes (id) SELECT * FROM generate_series($1::bigint, $2::bigint)";
    client.execute(sql, &[&ids.start, &(ids.end - 1)]).await.expect("writes");
    driver.abort();
}

/// Ends the agent and the server of `name` without a word.
async fn fell(playground: &mut Playground, name: &str) {
    playground.node_mut(name).kill_agent(SOON).await;
    playground.node(name).kill_postmaster();
}

async fn until_leads(playground: &Playground, name: &str) {
    let what = format!("{name} leads");
    until(playground, &what, async || playground.look().await.leader().as_deref() == Ok(name)).await;
}

async fn timeline(playground: &Playground, name: &str) -> Vec<String> {
    ask(playground, name, "SELECT timeline_id::text FROM pg_control_checkpoint()").await
}

/// Two servers are promoted one after the other and never hear of each other: both begin timeline 2, most likely at
/// the same place. PostgreSQL and pg_rewind see no difference; the rows of the one that comes back would be mixed with
/// the other's.
#[tokio::test(flavor = "multi_thread")]
async fn one_timeline_number_begun_twice_is_two_histories() {
    let mut playground = cluster(3, 5, vec![]).await;
    let patch = json!({
        // The last one left shall lead, whoever vouched for whom before.
        "failsafe_mode": false,
        "postgresql": {
            "use_pg_rewind": true,
            "remove_data_directory_on_rewind_failure": true,
            "remove_data_directory_on_diverged_timelines": true,
        },
    });
    configure(&playground, "pg1", &patch).await;
    healthy(&mut playground).await;
    write(&playground, "pg1", 1..10).await;
    until(&playground, "pg3 has the rows", async || rows(playground.node("pg3").postgres()).await.len() == 9)
        .await;

    fell(&mut playground, "pg3").await;
    fell(&mut playground, "pg1").await;
    until_leads(&playground, "pg2").await;
    write(&playground, "pg2", 20..30).await;
    fell(&mut playground, "pg2").await;
    playground.restart_agent("pg3").expect("starts");
    until_leads(&playground, "pg3").await;
    write(&playground, "pg3", 40..50).await;

    playground.restart_agent("pg2").expect("starts");
    playground.restart_agent("pg1").expect("starts");
    healthy(&mut playground).await;
    let expected: BTreeSet<i64> = (1..10).chain(40..50).collect();
    for name in ["pg1", "pg2", "pg3"] {
        until(&playground, "everybody has what pg3 has, and nothing else", async || {
            rows(playground.node(name).postgres()).await.into_iter().collect::<BTreeSet<_>>() == expected
        })
        .await;
    }
    assert_eq!(timeline(&playground, "pg3").await, ["2"], "it knows of no other timeline 2");
    let log = playground.log("pg2");
    assert!(log.contains("was begun by pg2") && log.contains("cloning again"), "{log}");
}

/// A member that is gone keeps its slot for a while, and misses a promotion; then it is the last one left.
#[tokio::test(flavor = "multi_thread")]
async fn who_was_away_keeps_its_slot_for_a_while_and_does_not_lead_with_an_old_timeline() {
    const KEPT_FOR: Duration = Duration::from_secs(6);
    let mut playground = cluster(3, 5, vec![]).await;
    let patch = json!({
        "check_timeline": true,
        "failsafe_mode": false,
        "member_slots_ttl": format!("{}s", KEPT_FOR.as_secs()),
    });
    configure(&playground, "pg1", &patch).await;
    healthy(&mut playground).await;
    until(&playground, "all slots are there", async || {
        ask(&playground, "pg1", SLOTS).await == ["pg2", "pg3"]
    })
    .await;

    fell(&mut playground, "pg3").await;
    let mut last_listed = Instant::now();
    until(&playground, "pg3 is no member any more", async || {
        let asked = Instant::now();
        let listed = is_listed(&playground, "pg1", "pg3").await;
        if listed {
            last_listed = asked;
        }
        !listed
    })
    .await;
    for holder in ["pg1", "pg2"] {
        let what = format!("its slot is gone from {holder}");
        until(&playground, &what, async || {
            let slots = ask(&playground, holder, SLOTS).await;
            !slots.is_empty() && !slots.contains(&"pg3".to_owned())
        })
        .await;
        // The agent counts from when it looked last, which may be a little earlier.
        let away = last_listed.elapsed() + Duration::from_secs(1);
        assert!(away >= KEPT_FOR, "gone from {holder} after {:?}", last_listed.elapsed());
    }

    switchover(&playground, "pg1").await;
    until_leads(&playground, "pg2").await;
    write(&playground, "pg2", 1..10).await;
    until(&playground, "the promotion is in the history", async || {
        let agent = playground.node("pg1").rest();
        http::get::<Vec<Value>>(agent, "/history", SOON).await.is_ok_and(|history| !history.is_empty())
    })
    .await;
    fell(&mut playground, "pg1").await;
    fell(&mut playground, "pg2").await;
    playground.restart_agent("pg3").expect("starts");
    let why = "on an older timeline than the cluster (check_timeline)";
    until(&playground, "pg3 says why it does not lead", async || playground.log("pg3").contains(why)).await;
    assert!(playground.look().await.leader().is_err(), "{}", playground.log_tails(40));
    assert_eq!(ask(&playground, "pg3", "SELECT pg_is_in_recovery()::text").await, ["true"]);
    configure(&playground, "pg3", &json!({ "check_timeline": false })).await;
    until_leads(&playground, "pg3").await;
}

/// Whether the agent of `asked` lists `name` as a member.
async fn is_listed(playground: &Playground, asked: &str, name: &str) -> bool {
    let agent = playground.node(asked).rest();
    let cluster: Value = http::get(agent, "/cluster", SOON).await.expect("an answer");
    cluster["members"].as_array().expect("a list").iter().any(|member| member["name"] == name)
}

/// Slots of members and of the configuration, through a switchover and a failover.
#[tokio::test(flavor = "multi_thread")]
async fn slots_are_kept_for_members_and_subscribers() {
    let mut playground = cluster(3, 5, vec![]).await;
    let patch = json!({
        "member_slots_ttl": "1min",
        "ignore_slots": [{"name": "mine"}],
        "slots": {
            "sub": {"type": "logical", "database": "postgres", "plugin": "test_decoding"},
            "keep": {"type": "physical"},
        },
        "postgresql": {"parameters": {"wal_level": "logical"}},
    });
    configure(&playground, "pg1", &patch).await;
    for name in ["pg2", "pg3", "pg1"] {
        let agent = playground.node(name).rest();
        let answer = http::request(Method::POST, agent, "/restart", String::new(), SOON).await;
        assert!(answer.as_ref().is_ok_and(|(status, _)| status.is_success()), "{name}: {answer:?}");
        healthy(&mut playground).await;
    }
    for (name, expected) in [
        ("pg1", ["keep", "pg2", "pg3", "sub"]),
        ("pg2", ["keep", "pg1", "pg3", "sub"]),
        ("pg3", ["keep", "pg1", "pg2", "sub"]),
    ] {
        let what = format!("{name} has its slots");
        until(&playground, &what, async || ask(&playground, name, SLOTS).await == expected).await;
    }
    let feedback = ask(&playground, "pg2", "SHOW hot_standby_feedback").await;
    assert_eq!(feedback, ["on"]);

    // What nobody knows goes, unless it is to be ignored.
    for slot in ["mine", "nobodys"] {
        ask(&playground, "pg1", &format!("SELECT pg_create_physical_replication_slot('{slot}')::text")).await;
    }
    let kept = ["keep", "mine", "pg2", "pg3", "sub"];
    until(&playground, "the unknown slot is gone", async || ask(&playground, "pg1", SLOTS).await == kept)
        .await;

    let mut read = Vec::new();
    write(&playground, "pg1", 1..10).await;
    consume(&playground, "pg1", &mut read).await;
    caught_up(&playground, "pg1", &["pg2", "pg3"]).await;
    write(&playground, "pg1", 10..20).await;
    switchover(&playground, "pg1").await;
    healthy(&mut playground).await;
    let second = playground.look().await.leader().expect("a leader");
    consume(&playground, &second, &mut read).await;
    write(&playground, &second, 20..30).await;
    consume(&playground, &second, &mut read).await;
    let others: Vec<&str> = ["pg1", "pg2", "pg3"].into_iter().filter(|name| *name != second).collect();
    caught_up(&playground, &second, &others).await;
    write(&playground, &second, 30..40).await;
    until(&playground, "a replica has the rows", async || {
        rows(playground.node(others[0]).postgres()).await.len() == 39
            && rows(playground.node(others[1]).postgres()).await.len() == 39
    })
    .await;
    fell(&mut playground, &second).await;
    until(&playground, "another leads", async || {
        playground.look().await.leader().is_ok_and(|leader| leader != second)
    })
    .await;
    let third = playground.look().await.leader().expect("a leader");
    consume(&playground, &third, &mut read).await;
    let all: BTreeSet<i64> = read.iter().copied().collect();
    assert_eq!(all, (1..40).collect(), "nothing may be missing: {read:?}");
    assert!(
        read.len() <= 39 + 10,
        "no more may be repeated than came after the last position told: {read:?}"
    );

    // Who led before is a member like the others again, and what is to be kept is kept everywhere.
    playground.restart_agent(&second).expect("starts");
    healthy(&mut playground).await;
    for name in ["pg1", "pg2", "pg3"] {
        let mut expected: Vec<&str> =
            ["pg1", "pg2", "pg3"].into_iter().filter(|other| *other != name).collect();
        expected.extend(["keep", "sub"]);
        let what = format!("{name} has its slots again");
        until(&playground, &what, async || {
            let slots = ask(&playground, name, SLOTS_IN_USE).await;
            slots.iter().map(String::as_str).filter(|slot| *slot != "mine").collect::<BTreeSet<_>>()
                == expected.iter().copied().collect()
        })
        .await;
    }
    caught_up(&playground, &third, &[&second]).await;
}

/// Takes what the subscriber of `sub` gets on the primary `name`, once it is there.
async fn consume(playground: &Playground, name: &str, read: &mut Vec<i64>) {
    let changes = "SELECT data FROM pg_logical_slot_get_changes('sub', NULL, NULL)";
    until(playground, "the slot decodes", async || {
        let lines = ask(playground, name, changes).await;
        let id = |line: &String| line.split("id[bigint]:").nth(1)?.split_whitespace().next()?.parse().ok();
        let ids: Vec<i64> = lines.iter().filter_map(id).collect();
        read.extend(&ids);
        !ids.is_empty()
    })
    .await;
}

/// Waits until replicas hold the subscriber's position.
async fn caught_up(playground: &Playground, primary: &str, replicas: &[&str]) {
    let position = "SELECT confirmed_flush_lsn::text FROM pg_replication_slots WHERE slot_name = 'sub'";
    for replica in replicas {
        until(playground, "the subscriber's position is known to a replica", async || {
            let (there, here) =
                (ask(playground, primary, position).await, ask(playground, replica, position).await);
            !here.is_empty() && here == there
        })
        .await;
    }
}
