//! Synchronous replication on real servers: a writer's journal says what was acknowledged, the store and the primary
//! say who confirms, and neither may ever disagree with the other, whoever is killed and whatever is switched.

mod cluster_support;
mod sync_support;

use std::time::{Duration, Instant};

use cluster_support::{SOON, until};
use serde_json::json;
use sync_support::Stage;

/// Short, so that a machine's death is over soon.
const TTL_S: u32 = 3;

const QUORUM: &str = "synchronous_mode = \"quorum\"\n";

const STRICT: &str = "synchronous_mode = true\nsynchronous_mode_strict = true\n";

#[tokio::test(flavor = "multi_thread")]
async fn strict_mode_loses_no_acknowledged_row_and_says_when_it_cannot_write() {
    // From the first moment on: the first standby has to be made while nobody can confirm a commit.
    let mut stage = Stage::open(TTL_S, STRICT).await;
    stage.in_sync(1).await;

    // The whole node of the primary, again and again: agent and server, and the guard once.
    for round in 0..3 {
        let before = stage.leader().await;
        let sync = stage.rule().await.expect("a rule");
        stage.kill_node(&before, round == 1).await;
        stage.serves(&format!("{before} is dead, {sync:?} was in sync")).await;
        let next = stage.leader().await;
        assert!(sync.names(&next.as_str().into()), "{next} was not in sync: {sync:?}");
        stage.nothing_is_lost().await;
        stage.revive().await;
        stage.in_sync(1).await;
    }

    // The synchronous standby: the other takes its place, and commits that wait for it are let go.
    let first = stage.standbys().await.remove(0);
    stage.kill_node(&first, false).await;
    stage.serves(&format!("the synchronous standby {first} is dead")).await;
    let second = stage.in_sync(1).await.remove(0);
    assert_ne!(first, second);

    // Both: nothing is acknowledged any more, and the operator can read why.
    stage.kill_node(&second, false).await;
    let leader = stage.leader().await;
    until(&stage.playground, "the agent says why nobody can write", async || {
        stage.playground.log(&leader).contains("commits are not acknowledged")
    })
    .await;
    let since = Instant::now();
    tokio::time::sleep(Duration::from_millis(1500)).await;
    assert!(!stage.acknowledged_since(since), "nobody confirmed that: {}", stage.tails());
    assert_eq!(stage.standbys().await, std::slice::from_ref(&second), "strict mode keeps whom it had");

    // Not strict: it goes on alone, and only it may lead.
    stage.configure(json!({"synchronous_mode_strict": false})).await;
    stage.serves("strict mode is off").await;
    assert_eq!(stage.names().await, "");
    assert!(stage.standbys().await.is_empty());
    stage.revive().await;
    stage.in_sync(1).await;

    // PostgreSQL alone: a standby that holds everything takes over at once.
    let before = stage.leader().await;
    stage.playground.node(&before).kill_postmaster().expect("it runs");
    stage.serves(&format!("the postmaster of {before} is dead")).await;
    assert_ne!(stage.leader().await, before, "{}", stage.tails());
    stage.nothing_is_lost().await;
    stage.close().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn modes_change_under_load_and_every_step_is_covered() {
    let mut stage = Stage::open(TTL_S, "").await;
    assert_eq!(stage.rule().await, None);

    for (change, names) in [
        (json!({"synchronous_mode": "on"}), 1),
        (json!({"synchronous_node_count": 2}), 2),
        (json!({"synchronous_mode": "quorum"}), 2),
        (json!({"synchronous_node_count": 1}), 2),
        (json!({"synchronous_mode": "on"}), 1),
        (json!({"synchronous_mode": "quorum", "synchronous_mode_strict": true}), 2),
    ] {
        stage.configure(change.clone()).await;
        let standbys = stage.in_sync(names).await;
        let all = standbys.join(",");
        let mode = stage.mode();
        let expected = match (mode.0.as_str(), mode.1) {
            ("quorum", needed) => (format!("ANY {needed} ({all})"), standbys.len() - needed),
            (_, 1) => (all, 0),
            (_, needed) => (format!("{needed} ({all})"), 0),
        };
        let rule = stage.rule().await.expect("a rule");
        let now = (stage.names().await, usize::try_from(rule.quorum).expect("small"));
        assert_eq!(now, expected, "after {change}: {rule:?}\n{}", stage.tails());
        stage.serves(&format!("after {change}")).await;
    }

    // A planned stop: the standby leaves first, and no commit waits for it.
    let leaving = stage.standbys().await.remove(0);
    assert!(stage.playground.node_mut(&leaving).stop_agent(SOON).await, "{}", stage.tails());
    let rule = stage.rule().await.expect("a rule");
    assert!(!rule.names(&leaving.as_str().into()), "{leaving} has stopped: {rule:?}");
    stage.serves(&format!("{leaving} was stopped")).await;
    stage.revive().await;
    stage.in_sync(2).await;

    // A new agent goes on where the other ended.
    let leader = stage.leader().await;
    let names = stage.names().await;
    stage.playground.node_mut(&leader).kill_agent(SOON).await;
    stage.revive().await;
    assert_eq!((stage.leader().await, stage.names().await), (leader.clone(), names));
    stage.configure(json!({"synchronous_node_count": 2})).await;
    until(&stage.playground, "the new agent changes what is confirmed", async || {
        stage.names().await.starts_with("ANY 2 (")
    })
    .await;

    // Off: the key goes, and the setting is the parameters' again.
    let parameters = json!({"synchronous_standby_names": ""});
    stage.configure(json!({"synchronous_mode": "off", "postgresql": {"parameters": parameters}})).await;
    until(&stage.playground, "synchronous mode has ended", async || {
        stage.rule().await.is_none() && stage.names().await.is_empty()
    })
    .await;
    stage.serves("synchronous mode is off").await;
    stage.close().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn quorum_mode_loses_no_acknowledged_row() {
    let mut stage = Stage::open(TTL_S, QUORUM).await;
    for round in 0..2 {
        stage.in_sync(2).await;
        let before = stage.leader().await;
        stage.kill_node(&before, round == 1).await;
        stage.serves(&format!("{before} is dead, any one of two had confirmed")).await;
        assert_ne!(stage.leader().await, before);
        stage.nothing_is_lost().await;
        stage.revive().await;
    }

    // One of two: the other confirms, and nobody waits for a change of the setting.
    let lost = stage.in_sync(2).await.remove(0);
    stage.kill_node(&lost, false).await;
    stage.serves(&format!("{lost} is dead, one of two confirmed")).await;
    stage.in_sync(1).await;
    stage.revive().await;
    stage.in_sync(2).await;

    // A planned change to a named candidate, and back.
    for _ in 0..2 {
        let (before, next) = (stage.leader().await, stage.standbys().await.remove(0));
        stage.switchover(&before, &next).await;
        stage.serves(&format!("{next} was asked to lead")).await;
        assert_eq!(stage.leader().await, next);
        stage.nothing_is_lost().await;
        stage.in_sync(2).await;
    }
    stage.close().await;
}
