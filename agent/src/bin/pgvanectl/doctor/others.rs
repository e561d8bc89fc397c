//! The other members: whether we reach them, and whether they reach us. Without REST APIs nobody is asked to vouch, or for
//! its position; without PostgreSQL nobody replicates.

use hyper::Method;
use hyper::StatusCode;
use pgvane_agent::config::Config;
use pgvane_agent::peers::at;
use pgvane_agent::reach::{self, Attempt, Reach, reach};
use pgvane_cluster::ids::NodeName;
use pgvane_cluster::view::{ClusterView, Member};
use tokio::time::timeout;

use super::finding::Finding;
use crate::call::ALIVE_WITHIN;
use crate::target::Target;

/// Tries every other member from here, and has it try us where we are a member.
pub(super) async fn look(target: &Target, config: &Config, view: &ClusterView) -> Vec<Finding> {
    let mut findings = Vec::new();
    let is_member = view.members.contains_key(&config.name);
    for (name, member) in view.members.iter().filter(|(name, _)| **name != config.name) {
        let reached = reach(&target.agents, name, &member.record).await;
        findings.push(match reached.rest.error {
            None => alive(target, name, member).await,
            Some(_) => judge(format!("REST API of {name}"), &reached.rest, REST_THERE),
        });
        findings.push(judge(format!("PostgreSQL of {name}"), &reached.postgresql, POSTGRESQL_THERE));
        if is_member {
            findings.extend(back(target, config, name, member).await);
        }
    }
    findings
}

const REST_THERE: &str =
    "open the port between the nodes, and see that restapi.connect_address is right there";
const POSTGRESQL_THERE: &str = "see that PostgreSQL runs there, open the port between the nodes, and see that postgresql.connect_address is right";
const REST_HERE: &str = "open the port to that node, and see that restapi.connect_address is right here";
const POSTGRESQL_HERE: &str =
    "open the port to that node, and see that postgresql.connect_address and listen are right here";

/// How an agent that is reached says that it is.
async fn alive(target: &Target, name: &NodeName, member: &Member) -> Finding {
    let what = format!("REST API of {name}");
    let url = member.record.api_url.as_deref().unwrap_or_default();
    let alive = at(url, "/liveness");
    let asked = timeout(ALIVE_WITHIN, target.agents.request(Method::GET, &alive, None));
    match asked.await {
        Ok(Ok(answer)) if answer.status.is_success() => Finding::good(what, url),
        Ok(Ok(answer)) => {
            Finding::warning(what, format!("{url}: status {}", answer.status), "see that agent's log")
        }
        Ok(Err(why)) => Finding::critical(what, format!("{url}: {why}"), REST_THERE),
        Err(_) => Finding::critical(what, format!("{url}: no answer"), REST_THERE),
    }
}

fn judge(what: String, attempt: &Attempt, advice: &str) -> Finding {
    match &attempt.error {
        None => Finding::good(what, &attempt.at),
        Some(why) if attempt.at.is_empty() => Finding::critical(what, why, advice),
        Some(why) => Finding::critical(what, format!("{}: {why}", attempt.at), advice),
    }
}

/// What the agent of `name` reaches of us.
async fn back(target: &Target, config: &Config, name: &NodeName, member: &Member) -> Vec<Finding> {
    let what = format!("this node, from {name}");
    let cannot = |why: String| {
        let advice = format!("try from {name}: curl http://{}/liveness", config.restapi.connect_address);
        vec![Finding::warning(what.clone(), format!("cannot be asked: {why}"), advice)]
    };
    if !member.record.is_native() {
        // Patroni has no such question; that it cannot be asked says nothing of the cluster's health.
        return vec![Finding::good(what, "cannot be asked: a Patroni daemon does not answer this")];
    }
    let Some(url) = member.record.api_url.as_deref() else { return vec![] };
    let url = at(url, &reach::path(&config.name));
    let limit = reach::WITHIN + ALIVE_WITHIN;
    let Ok(Ok(answer)) = timeout(limit, target.agents.request(Method::GET, &url, None)).await else {
        // That it is not reached from here is told already.
        return vec![];
    };
    if answer.status != StatusCode::OK && answer.status != StatusCode::SERVICE_UNAVAILABLE {
        return cannot(format!("status {}: {}", answer.status.as_u16(), answer.text()));
    }
    let Ok(reached) = serde_json::from_slice::<Reach>(&answer.body) else {
        // An agent that does not know the question takes it for one of health.
        return cannot("its agent is older, or busy".to_owned());
    };
    vec![
        judge(format!("our REST API, from {name}"), &reached.rest, REST_HERE),
        judge(format!("our PostgreSQL, from {name}"), &reached.postgresql, POSTGRESQL_HERE),
    ]
}
