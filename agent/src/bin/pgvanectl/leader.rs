//! `switchover` and `failover`: check, say what will happen, ask, let an agent do it, show how it goes.

use std::time::Duration;

use clap::Args;
use hyper::Method;
use jiff::ZonedDateTime;
use pgvane_agent::api::lag;
use pgvane_cluster::clock::Tick;
use pgvane_cluster::ids::NodeName;
use pgvane_cluster::settings::SynchronousMode;
use pgvane_cluster::view::ClusterView;
use serde_json::{Value, json};

use crate::following::Following;
use crate::members::names;
use crate::prompt::confirm;
use crate::target::Target;
use crate::{Failed, at, call, fail, list, say};

/// Longer than an agent waits for the end before it answers that it does not know.
const ANSWER_WITHIN: Duration = Duration::from_secs(150);

/// What `switchover` takes.
#[derive(Args)]
pub(crate) struct SwitchoverArgs {
    /// Who must lead now, lest somebody else was faster.
    #[arg(long, alias = "primary")]
    leader: Option<String>,
    /// Who shall lead; the best placed member unless given.
    #[arg(long)]
    candidate: Option<String>,
    /// When: with a zone, in this host's time, or `now`.
    #[arg(long, value_name = "TIME")]
    scheduled: Option<String>,
    /// Only say what would happen, and whether it could.
    #[arg(long)]
    dry_run: bool,
    /// Do not ask.
    #[arg(long)]
    force: bool,
}

impl SwitchoverArgs {
    /// Now, to whoever is best placed.
    pub(crate) fn to_anybody(force: bool) -> SwitchoverArgs {
        SwitchoverArgs { leader: None, candidate: None, scheduled: None, dry_run: false, force }
    }
}

pub(crate) async fn switchover(target: &Target, args: SwitchoverArgs) -> Result<(), Failed> {
    let scheduled = match &args.scheduled {
        Some(text) => at::parse(text, &ZonedDateTime::now())?,
        None => None,
    };
    let view = target.view().await?;
    let Some(current) = view.leader.as_ref().map(|l| l.name.clone()) else {
        return fail("this cluster has no leader; `failover --candidate` makes a member leader");
    };
    if let Some(expected) = args.leader
        && expected != current.as_str()
    {
        return fail(format!("{expected} is not the leader of {}: {current} is", target.scope));
    }
    let able = candidates(&view);
    if able.is_empty() {
        return fail("no member could take over: there is none beside the leader that may lead");
    }
    let candidate = args.candidate.map(|name| check_candidate(&target.scope, &view, &name)).transpose()?;
    if candidate.is_none() && view.settings().pause {
        return fail("while paused a switchover needs --candidate");
    }
    if !args.force || args.dry_run {
        say(&list::pretty(target, &view))?;
        let when = scheduled.as_deref().unwrap_or("now");
        say(&plan(&view, &target.scope, &current, candidate.as_ref(), when))?;
    }
    if args.dry_run {
        return say("Nothing was changed (--dry-run)\n");
    }
    if !args.force {
        confirm(if scheduled.is_some() { "Schedule it?" } else { "Switch over?" })?;
    }
    let mut body = json!({"leader": current});
    if let Some(candidate) = &candidate {
        body["candidate"] = candidate.as_str().into();
    }
    if let Some(at) = scheduled {
        body["scheduled_at"] = at.into();
        let answer =
            call::ask(target, &view, &current, (Method::POST, "/switchover", Some(&body)), ANSWER_WITHIN);
        return say(&format!("{}\n", call::text_of(&answer.await?)?));
    }
    carry_out(target, &view, &current, "/switchover", &body).await
}

pub(crate) async fn failover(target: &Target, candidate: &str, force: bool) -> Result<(), Failed> {
    let view = target.view().await?;
    let candidate = check_candidate(&target.scope, &view, candidate)?;
    let current = view.leader.as_ref().map(|l| l.name.clone());
    if !force {
        say(&list::pretty(target, &view))?;
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

/// What a switchover will do, in sentences.
fn plan(
    view: &ClusterView,
    scope: &str,
    current: &NodeName,
    candidate: Option<&NodeName>,
    when: &str,
) -> String {
    let optime = view.status.as_ref().map(|s| s.optime);
    let behind = |name: &NodeName| {
        let at = view.members.get(name).and_then(|m| m.record.xlog_location);
        lag(optime, at).map_or("at an unknown position".to_owned(), |bytes| format!("{bytes} B behind"))
    };
    let able = candidates(view);
    let to = match candidate {
        Some(name) => format!("{name} ({})", behind(name)),
        None => {
            let each: Vec<_> = able.iter().map(|name| format!("{name} ({})", behind(name))).collect();
            format!("the best placed of {}", each.join(", "))
        }
    };
    let waits = match view.settings().synchronous_mode {
        SynchronousMode::Off => "",
        SynchronousMode::On | SynchronousMode::Quorum => " Only synchronous standbys are candidates.",
    };
    format!(
        "Leadership of {scope} goes from {current} to {to}, {when}.\n\
         {current} writes a checkpoint while it serves, then stops: sessions on it end, new ones wait for the new \
         leader.\nIt hands over once the candidate has all of its WAL, else it starts again: no acknowledged commit \
         is lost.{waits}\n"
    )
}

fn candidates(view: &ClusterView) -> Vec<&NodeName> {
    let leader = view.leader.as_ref().map(|l| &l.name);
    view.members
        .iter()
        .filter(|(n, m)| Some(*n) != leader && m.record.tags.may_lead())
        .map(|(n, _)| n)
        .collect()
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
    let others = if able.is_empty() { "none".to_owned() } else { names(able) };
    fail(format!("{name:?} {why}; members that could take over: {others}"))
}

/// Asks the agent of `member`, shows what happens meanwhile and how it ended.
async fn carry_out(
    target: &Target,
    view: &ClusterView,
    member: &NodeName,
    path: &str,
    body: &Value,
) -> Result<(), Failed> {
    let began = Tick::now();
    let asked = call::ask(target, view, member, (Method::POST, path, Some(body)), ANSWER_WITHIN);
    let mut following = Following::begin(target);
    let mut last = String::new();
    let show = async {
        loop {
            let Ok(seen) = following.next().await else { return std::future::pending().await };
            let Some(view) = &seen.view else { continue };
            let now = stage(view);
            if !last.is_empty() && last != now {
                eprintln!("{:>7.2} s  {now}", Tick::now().since(began).as_secs_f64());
            }
            last = now;
        }
    };
    let answer = tokio::select! {
        answer = asked => answer?,
        never = show => never,
        never = tell_waits(target, view, member, began) => never,
    };
    let took = Tick::now().since(began).as_secs_f64();
    // The answer may be faster than the watch.
    if answer.status.is_success()
        && let Ok(view) = target.view().await
        && stage(&view) != last
    {
        eprintln!("{took:>7.2} s  {}", stage(&view));
    }
    say(&format!("{} ({took:.2} s)\n", call::text_of(&answer)?))
}

/// Tells what `member` waits for, whenever that changes. It is asked on: a hand-over that is not over in a second waits for
/// something.
async fn tell_waits(target: &Target, view: &ClusterView, member: &NodeName, began: Tick) -> ! {
    let mut told = None;
    loop {
        tokio::time::sleep(Duration::from_secs(1)).await;
        let waits = call::waits_for(target, view, member).await;
        if waits != told
            && let Some(why) = &waits
        {
            eprintln!("{:>7.2} s  {member} waits: {why}", Tick::now().since(began).as_secs_f64());
        }
        told = waits;
    }
}

/// Where a change of leadership stands, in words.
pub(crate) fn stage(view: &ClusterView) -> String {
    let Some(leader) = view.leader.as_ref().map(|l| &l.name) else { return "nobody leads".to_owned() };
    match view.leader_member().map(|m| &m.record) {
        Some(record) if record.is_serving_primary() => format!("{leader} serves as primary"),
        Some(record) => format!("{leader} holds the leader key ({}, {})", record.role, record.state),
        None => format!("{leader} holds the leader key"),
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

    #[tokio::test]
    async fn the_plan_names_who_is_how_far_behind() {
        let view = view(PAIR).await;
        let text = plan(&view, "demo", &"pg1".into(), None, "now");
        let first = "Leadership of demo goes from pg1 to the best placed of pg2 (0 B behind), pg3 (at an unknown position), now.";
        assert_eq!(text.lines().next(), Some(first));
        assert_eq!(stage(&view), "pg1 serves as primary");
    }
}
