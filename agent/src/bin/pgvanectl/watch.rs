//! `watch`: what happens in the cluster, one line per change, as it happens. On a terminal with the list above.

use std::collections::{BTreeSet, VecDeque};
use std::io::IsTerminal;

use jiff::ZonedDateTime;
use pgvane_agent::api::listed;
use pgvane_cluster::follow::Contact;
use pgvane_cluster::ids::NodeName;
use pgvane_cluster::records::MemberRecord;
use pgvane_cluster::view::ClusterView;

use crate::following::Following;
use crate::list::{self, Shape};
use crate::output::{Format, Paper};
use crate::target::Target;
use crate::{Failed, say};

/// Changes that stay in view below the list.
const KEPT: usize = 15;

/// Clears the screen, cursor to the corner (ECMA-48).
const CLEAR: &str = "\x1b[2J\x1b[H";

/// Shows each change, until interrupted; the list alone with `only_list`.
pub(crate) async fn run(
    target: &Target,
    format: Format,
    shape: Shape,
    only_list: bool,
) -> Result<(), Failed> {
    // A store that is away or a cluster that is not there is told at once.
    let mut known = target.view().await?;
    let mut following = Following::begin(target);
    let live = std::io::stdout().is_terminal();
    let mut happened: VecDeque<String> = VecDeque::new();
    let mut silent = None;
    let mut last = String::new();
    loop {
        let seen = following.next().await?;
        let mut changes = Vec::new();
        let why = match &seen.contact {
            Contact::Up => None,
            Contact::Down { why, .. } => Some(why.clone()),
        };
        if silent != why && (seen.view.is_some() || why.is_none()) {
            changes.push(match &why {
                Some(why) => format!("the store does not answer: {why}"),
                None if silent.is_some() => "the store answers again".to_owned(),
                None => String::new(),
            });
            silent = why;
        }
        if let Some(view) = &seen.view {
            changes.extend(differences(&known, view));
            known = (**view).clone();
        }
        let at = ZonedDateTime::now().strftime("%H:%M:%S%.3f").to_string();
        let lines: Vec<String> =
            changes.iter().filter(|c| !c.is_empty()).map(|change| format!("{at}  {change}\n")).collect();
        if only_list || live {
            happened.extend(lines);
            happened.drain(..happened.len().saturating_sub(KEPT));
            let mut text = list::show(&known, &target.scope, format, shape, Paper::stdout());
            if let Some(why) = silent.as_ref().filter(|_| only_list) {
                text.push_str(&format!("the store does not answer: {why}\n"));
            }
            if !only_list {
                text.push('\n');
                text.extend(happened.iter().map(String::as_str));
            }
            if text != last {
                say(&format!("{}{text}", if live { CLEAR } else { "" }))?;
                last = text;
            }
        } else {
            say(&lines.concat())?;
        }
    }
}

/// What is different, in sentences; positions that merely moved on are not.
fn differences(before: &ClusterView, after: &ClusterView) -> Vec<String> {
    let mut said = Vec::new();
    let leads = |view: &ClusterView| view.leader.as_ref().map(|l| (l.name.clone(), l.epoch));
    match (leads(before), leads(after)) {
        (a, b) if a == b => {}
        (Some((old, _)), None) => said.push(format!("{old} does not lead any more; nobody leads")),
        (None, Some((new, epoch))) => said.push(format!("{new} leads (epoch {epoch})")),
        (Some((old, _)), Some((new, epoch))) if old != new => {
            said.push(format!("{new} leads instead of {old} (epoch {epoch})"));
        }
        (_, Some((new, epoch))) => said.push(format!("{new} leads anew (epoch {epoch})")),
        (None, None) => {}
    }
    let names: BTreeSet<&NodeName> = before.members.keys().chain(after.members.keys()).collect();
    for name in names {
        let record = |view: &ClusterView| view.members.get(name).map(|m| m.record.clone());
        match (record(before), record(after)) {
            (None, Some(new)) => said.push(format!("{name} is a member: {}", summary(&new))),
            (Some(_), None) => said.push(format!("{name} is no member any more: its lease ended")),
            (Some(old), Some(new)) => {
                let (old, new) = (summary(&old), summary(&new));
                if old != new {
                    said.push(format!("{name}: {old} -> {new}"));
                }
            }
            (None, None) => {}
        }
        let (was, is) = (listed(before, name), listed(after, name));
        if was != is {
            let rule =
                |kind: Option<&str>| kind.map_or("asynchronous".to_owned(), |k| format!("{k} standby"));
            said.push(format!("{name}: {} -> {}", rule(was), rule(is)));
        }
    }
    if before.config.as_ref().map(|c| &c.value.json) != after.config.as_ref().map(|c| &c.value.json) {
        said.push("the dynamic configuration changed".to_owned());
    }
    match (before.failover.as_ref().map(|f| &f.value), after.failover.as_ref().map(|f| &f.value)) {
        (a, b) if a == b => {}
        (_, None) => said.push("no switchover is asked for any more".to_owned()),
        (_, Some(request)) => {
            let name = |n: &Option<NodeName>| n.as_ref().map_or("anybody".to_owned(), ToString::to_string);
            let when = request.scheduled_at.as_deref().map(|at| format!(" at {at}")).unwrap_or_default();
            said.push(format!("asked for: {} to {}{when}", name(&request.leader), name(&request.member)));
        }
    }
    said
}

/// What a member is and does, with what an operator would act on.
fn summary(record: &MemberRecord) -> String {
    let mut text =
        format!("{} {}", record.role, record.replication_state.as_deref().unwrap_or(record.state.as_str()));
    if let Some(timeline) = record.timeline {
        text.push_str(&format!(", timeline {timeline}"));
    }
    for (on, what) in [
        (record.pending_restart == Some(true), "restart pending"),
        (record.pause == Some(true), "paused"),
        (record.scheduled_restart.is_some(), "restart scheduled"),
    ] {
        if on {
            text.push_str(&format!(", {what}"));
        }
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::list::tests::{PAIR, view};

    #[tokio::test]
    async fn changes_are_told_and_positions_are_not() {
        let before = view(PAIR).await;
        assert_eq!(differences(&before, &before), Vec::<String>::new());
        let mut keys = PAIR.to_vec();
        keys[1] = ("leader", "pg2");
        keys[4] = (
            "members/pg2",
            r#"{"state":"running","role":"primary","conn_url":"postgres://10.0.0.2:5432/postgres","timeline":6,"xlog_location":93886080}"#,
        );
        keys.pop();
        keys.push(("failover", r#"{"member":"pg1"}"#));
        let said = differences(&before, &view(&keys).await).join("\n");
        assert!(said.starts_with("pg2 leads instead of pg1 (epoch "), "{said}");
        let rest = "pg2: replica streaming, timeline 5 -> primary running, timeline 6\n\
                    pg3 is no member any more: its lease ended\nasked for: anybody to pg1";
        assert!(said.ends_with(rest), "{said}");
    }
}
