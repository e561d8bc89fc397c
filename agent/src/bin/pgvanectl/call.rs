//! Requests to the members' REST APIs.

use std::time::Duration;

use hyper::{Method, StatusCode};
use pgvane_agent::decide::Reason;
use pgvane_agent::peers::{Answer, at};
use pgvane_cluster::ids::NodeName;
use pgvane_cluster::view::ClusterView;
use serde_json::Value;

use crate::target::Target;
use crate::{Failed, fail};

/// An agent that lives answers a simple question in this time.
pub(crate) const ALIVE_WITHIN: Duration = Duration::from_secs(3);

/// Asks the agent of `member`. An agent that hangs is found out before anything is asked of it that may take long.
pub(crate) async fn ask(
    target: &Target,
    view: &ClusterView,
    member: &NodeName,
    (method, path, body): (Method, &str, Option<&Value>),
    limit: Duration,
) -> Result<Answer, Failed> {
    let url = view.members.get(member).and_then(|m| m.record.api_url.as_deref());
    let Some(url) = url else {
        return fail(format!("{member} tells no address of its REST API; is its agent alive?"));
    };
    let alive = at(url, "/liveness");
    match tokio::time::timeout(ALIVE_WITHIN, target.agents.request(Method::GET, &alive, None)).await {
        Ok(Ok(_)) => {}
        Ok(Err(why)) => return fail(format!("the agent of {member} was not reached: {why}")),
        Err(_) => return fail(format!("the agent of {member} does not answer at {url}")),
    }
    let url = at(url, path);
    let asked = target.agents.request(method, &url, body);
    match tokio::time::timeout(limit, asked).await {
        Ok(Ok(answer)) => Ok(answer),
        Ok(Err(why)) => {
            fail(format!("the agent of {member} did not answer: {why}; see `list` for what came of it"))
        }
        Err(_) => fail(format!(
            "the agent of {member} did not answer within {limit:?}; see `list` for what came of it"
        )),
    }
}

/// What `member`'s agent says it waits for; `None` where it does something, or says nothing, as a Patroni daemon.
pub(crate) async fn waits_for(target: &Target, view: &ClusterView, member: &NodeName) -> Option<String> {
    let url = at(view.members.get(member)?.record.api_url.as_deref()?, "/patroni");
    let asked = target.agents.request(Method::GET, &url, None);
    let answer = tokio::time::timeout(ALIVE_WITHIN, asked).await.ok()?.ok()?;
    let body: Value = serde_json::from_slice(&answer.body).ok()?;
    let decided = &body["pgvane"]["decided"];
    let waits = decided["action"] == "wait";
    let rests = |why: &&str| [Reason::Leading, Reason::Following].iter().any(|r| r.to_string() == **why);
    decided["reason"].as_str().filter(|why| waits && !rests(why)).map(str::to_owned)
}

/// What an answer says to an operator; anything but success is a failure.
pub(crate) fn text_of(answer: &Answer) -> Result<String, Failed> {
    if answer.status.is_success() {
        return Ok(answer.text());
    }
    let hint = match answer.status {
        StatusCode::UNAUTHORIZED => {
            "; a login is needed: restapi.username in the settings, or --rest-username"
        }
        StatusCode::FORBIDDEN => "; this host may not change things there (allowlist or client certificate)",
        _ => "",
    };
    fail(format!("{} (status {}{hint})", answer.text(), answer.status.as_u16()))
}
