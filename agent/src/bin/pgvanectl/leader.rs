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
use crate::{Failed, fail, say};

/// An agent that lives answers a simple question in this time.
const ALIVE_WITHIN: Duration = Duration::from_secs(3);

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
    let candidate = candidate.map(|name| check_candidate(&target.scope, &view, &name)).transpose()?;
    if !force {
        say(&list::show(&view, &target.scope, Format::Pretty, false))?;
        let to = match &candidate {
            Some(name) => name.to_string(),
            None => format!("the best placed of {}", names(&able)),
        };
        say(&format!(
            "Leadership of {} goes from {current} to {to}. {current} writes a checkpoint, then stops: sessions on \
             it end, new ones wait for the new leader. No acknowledged commit is lost.\n",
            target.scope
        ))?;
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
    let candidate = check_candidate(&target.scope, &view, candidate)?;
    let current = view.leader.as_ref().map(|l| l.name.clone());
    if !force {
        say(&list::show(&view, &target.scope, Format::Pretty, false))?;
        let who = match &current {
            Some(leader) => format!("{leader} stops leading {} and {candidate} takes over", target.scope),
            None => format!("{candidate} becomes leader of {}", target.scope),
        };
        say(&format!("{who}, even if it lacks commits that were acknowledged: those are lost.\n"))?;
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

fn check_candidate(scope: &str, view: &ClusterView, name: &str) -> Result<NodeName, Failed> {
    let wanted = NodeName::from(name);
    let able = candidates(view);
    if able.contains(&&wanted) {
        return Ok(wanted);
    }
    if view.leader.as_ref().is_some_and(|l| l.name == wanted) {
        return fail(format!("{name} is already the leader of {scope}"));
    }
    let why = if view.members.contains_key(&wanted) { "may not lead (tag)" } else { "is not a member" };
    let others = if able.is_empty() { "none".to_owned() } else { names(&able) };
    fail(format!("{name:?} {why}; members that could take over: {others}"))
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
    // The wish itself may take long to be answered; an agent that hangs is better found now.
    let alive = at(url, "/liveness");
    match tokio::time::timeout(ALIVE_WITHIN, request(Method::GET, &alive, None, None)).await {
        Ok(Ok(_)) => {}
        Ok(Err(why)) => return fail(format!("the agent of {member} was not reached: {why}")),
        Err(_) => return fail(format!("the agent of {member} does not answer at {url}")),
    }
    let before = Tick::now();
    let url = at(url, path);
    let asked = request(Method::POST, &url, Some(body), target.login.as_ref());
    let answer = match tokio::time::timeout(ANSWER_WITHIN, asked).await {
        Ok(Ok(answer)) => answer,
        Ok(Err(why)) => {
            return fail(format!(
                "the agent of {member} did not answer: {why}; see `list` for what came of it"
            ));
        }
        Err(_) => {
            return fail(format!(
                "the agent of {member} did not answer within {ANSWER_WITHIN:?}; see `list` for what came of it"
            ));
        }
    };
    if answer.status.is_success() {
        say(&format!("{} ({:.2} s)\n", answer.text(), Tick::now().since(before).as_secs_f64()))
    } else {
        fail(format!("{} (status {})", answer.text(), answer.status.as_u16()))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::list::tests::{PAIR, view};

    #[tokio::test]
    async fn a_candidate_is_a_member_that_may_lead_and_does_not() {
        let mut keys = PAIR.to_vec();
        keys.push(("members/pg4", r#"{"state":"running","role":"replica","tags":{"nofailover":true}}"#));
        let view = view(&keys).await;
        let check = |name: &str| check_candidate("demo", &view, name).map_err(|Failed(why)| why);
        assert_eq!(check("pg2"), Ok(NodeName::from("pg2")));
        assert_eq!(check("pg1"), Err("pg1 is already the leader of demo".to_owned()));
        for (name, why) in [("pg4", "\"pg4\" may not lead (tag)"), ("", "\"\" is not a member")] {
            assert_eq!(check(name), Err(format!("{why}; members that could take over: pg2, pg3")));
        }
    }
}
