//! `switchover` and `failover`: check, say what will happen, ask, let an agent do it.

use std::time::Duration;

use hyper::Method;
use pgvane_agent::peers::{at, request};
use pgvane_cluster::clock::Tick;
use pgvane_cluster::ids::NodeName;
use pgvane_cluster::view::ClusterView;
use serde_json::{Value, json};

use crate::list::{self, Format};
use crate::prompt::confirm;
use crate::target::Target;
use crate::{Failed, fail};

/// Longer than an agent waits for the end before it answers that it does not know.
const ANSWER_WITHIN: Duration = Duration::from_secs(150);

pub(crate) async fn switchover(
    target: &Target,
    leader: Option<String>,
    candidate: Option<String>,
    force: bool,
) -> Result<(), Failed> {
    let view = target.view().await?;
    let Some(current) = view.leader.as_ref().map(|l| l.name.clone()) else {
        return fail("this cluster has no leader; `failover --candidate` makes a member leader");
    };
    if let Some(expected) = leader
        && expected != current.as_str()
    {
        return fail(format!("{expected} is not the leader of {}: {current} is", target.scope));
    }
    let able = candidates(&view);
    if able.is_empty() {
        return fail("no member could take over: there is none beside the leader that may lead");
    }
    let candidate = candidate.map(|name| check_candidate(target, &view, &name)).transpose()?;
    if !force {
        print!("{}", list::show(&view, &target.scope, Format::Pretty, false));
        let to = match &candidate {
            Some(name) => name.to_string(),
            None => format!("the best placed of {}", names(&able)),
        };
        println!(
            "Leadership of {} goes from {current} to {to}. {current} writes a checkpoint, then stops: sessions on \
             it end, new ones wait for the new leader. No acknowledged commit is lost.",
            target.scope
        );
        confirm("Switch over?")?;
    }
    let mut body = json!({"leader": current});
    if let Some(candidate) = &candidate {
        body["candidate"] = candidate.as_str().into();
    }
    carry_out(target, &view, &current, "/switchover", &body).await
}

pub(crate) async fn failover(target: &Target, candidate: &str, force: bool) -> Result<(), Failed> {
    let view = target.view().await?;
    let candidate = check_candidate(target, &view, candidate)?;
    let current = view.leader.as_ref().map(|l| l.name.clone());
    if !force {
        print!("{}", list::show(&view, &target.scope, Format::Pretty, false));
        let who = match &current {
            Some(leader) => format!("{leader} stops leading {} and {candidate} takes over", target.scope),
            None => format!("{candidate} becomes leader of {}", target.scope),
        };
        println!("{who}, even if it lacks commits that were acknowledged: those are lost.");
        confirm("Fail over?")?;
    }
    let asked = current.unwrap_or_else(|| candidate.clone());
    carry_out(target, &view, &asked, "/failover", &json!({"candidate": candidate})).await
}

fn candidates(view: &ClusterView) -> Vec<&NodeName> {
    let leader = view.leader.as_ref().map(|l| &l.name);
    view.members
        .iter()
        .filter(|(n, m)| Some(*n) != leader && m.record.tags.may_lead())
        .map(|(n, _)| n)
        .collect()
}

fn names(members: &[&NodeName]) -> String {
    members.iter().map(|n| n.as_str()).collect::<Vec<_>>().join(", ")
}

fn check_candidate(target: &Target, view: &ClusterView, name: &str) -> Result<NodeName, Failed> {
    let wanted = NodeName::from(name);
    let able = candidates(view);
    if able.contains(&&wanted) {
        return Ok(wanted);
    }
    if view.leader.as_ref().is_some_and(|l| l.name == wanted) {
        return fail(format!("{name} is already the leader of {}", target.scope));
    }
    let why = if view.members.contains_key(&wanted) { "may not lead (tag)" } else { "is not a member" };
    fail(format!("{name} {why}; members that could take over: {}", names(&able)))
}

/// Asks the agent of `member` and tells how it ended.
async fn carry_out(
    target: &Target,
    view: &ClusterView,
    member: &NodeName,
    path: &str,
    body: &Value,
) -> Result<(), Failed> {
    let url = view.members.get(member).and_then(|m| m.record.api_url.as_deref());
    let Some(url) = url else {
        return fail(format!("{member} tells no address of its REST API; is its agent alive?"));
    };
    let before = Tick::now();
    let url = at(url, path);
    let asked = request(Method::POST, &url, Some(body), target.login.as_ref());
    let answer = match tokio::time::timeout(ANSWER_WITHIN, asked).await {
        Ok(Ok(answer)) => answer,
        Ok(Err(why)) => {
            return fail(format!("the agent of {member} was not reached or did not answer: {why}"));
        }
        Err(_) => return fail(format!("the agent of {member} did not answer within {ANSWER_WITHIN:?}")),
    };
    if answer.status.is_success() {
        println!("{} ({:.2} s)", answer.text(), Tick::now().since(before).as_secs_f64());
        Ok(())
    } else {
        fail(format!("{} (status {})", answer.text(), answer.status.as_u16()))
    }
}
