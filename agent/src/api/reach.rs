//! `GET /reach?member=NAME`: what this host reaches of another member. Only members that the store names are tried, at
//! the addresses that they publish, one at a time and a few in a second: nobody scans ports with it.

use std::time::Duration;

use hyper::StatusCode;
use pgvane_cluster::ids::NodeName;
use pgvane_cluster::view::ClusterView;
use serde_json::Value;
use tokio::sync::Semaphore;
use tokio::time::{sleep, timeout};

use super::answer::{Refused, Reply, json};
use super::health::Query;
use crate::peers::Caller;
use crate::reach::reach;

/// One attempt at a time, whoever asks.
static TURN: Semaphore = Semaphore::const_new(1);

/// How long somebody waits for the turn.
const WAIT: Duration = Duration::from_secs(2);

/// How long after an attempt the next one may begin: each has a server start a process.
const PAUSE: Duration = Duration::from_millis(100);

pub(super) async fn answer(
    caller: &Caller,
    view: Option<&ClusterView>,
    query: &Query,
) -> Result<Reply, Refused> {
    let refused = |status, why: String| Err(Refused::new(status, why));
    let Some(name) = query.get("member").filter(|name| !name.is_empty()) else {
        return refused(StatusCode::BAD_REQUEST, "whom to reach is missing: /reach?member=NAME".to_owned());
    };
    let Some(view) = view else {
        return refused(StatusCode::SERVICE_UNAVAILABLE, "the store has not answered yet".to_owned());
    };
    let name = NodeName::from(name.as_str());
    let Some(member) = view.members.get(&name) else {
        return refused(StatusCode::NOT_FOUND, format!("{name} is not a member of this cluster"));
    };
    let Ok(Ok(turn)) = timeout(WAIT, TURN.acquire()).await else {
        return refused(StatusCode::SERVICE_UNAVAILABLE, "others ask for the same; try again".to_owned());
    };
    let reached = reach(caller, &name, &member.record).await;
    tokio::spawn(async move {
        sleep(PAUSE).await;
        drop(turn);
    });
    // Made of texts alone: this cannot fail.
    Ok(json(StatusCode::OK, &serde_json::to_value(reached).unwrap_or(Value::Null)))
}
