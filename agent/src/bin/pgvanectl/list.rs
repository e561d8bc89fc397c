//! `list` and `topology`: the members as a table in patronictl's columns (contract section 7).

use std::collections::BTreeMap;
use std::fmt::Write as _;

use pgvane_agent::api::cluster_body;
use pgvane_cluster::ids::NodeName;
use pgvane_cluster::view::ClusterView;
use serde_json::{Map, Value};

use crate::output::{Cell, Column, Format, Paper, Sheet};
use crate::target::Target;
use crate::terminal::Colour;
use crate::{Failed, say};

/// What a list shows.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub(crate) struct Shape {
    /// All columns, also those that say nothing.
    pub(crate) extended: bool,
    /// Members below those they replicate from.
    pub(crate) tree: bool,
}

/// Shows the list once.
pub(crate) async fn once(target: &Target, format: Format, shape: Shape) -> Result<(), Failed> {
    let view = target.view().await?;
    say(&show(&view, &target.scope, format, shape, Paper::stdout()))
}

/// The list as text, with a newline at its end.
pub(crate) fn show(view: &ClusterView, scope: &str, format: Format, shape: Shape, paper: Paper) -> String {
    sheet(view, scope, format, shape).show(format, paper)
}

/// The list for people, as questions show it.
pub(crate) fn pretty(target: &Target, view: &ClusterView) -> String {
    show(view, &target.scope, Format::Pretty, Shape::default(), Paper::stdout())
}

fn sheet(view: &ClusterView, scope: &str, format: Format, shape: Shape) -> Sheet {
    let body = cluster_body(view, scope);
    let members: BTreeMap<String, &Map<String, Value>> = body["members"]
        .as_array()
        .into_iter()
        .flatten()
        .filter_map(Value::as_object)
        .map(|m| (plain(&m["name"]), m))
        .collect();
    let order = if shape.tree { tree(view) } else { members.keys().map(|name| (0, name.clone())).collect() };
    let said = |field: &str| members.values().any(|m| m.contains_key(field));
    let mut columns = COLUMNS.to_vec();
    columns.extend(MORE.iter().filter(|(_, field)| shape.extended || said(field)).map(|(column, _)| *column));
    if format != Format::Pretty {
        columns.insert(0, Column::text("Cluster"));
    }
    let with_port = ports_matter(&members);
    let row = |(depth, name): &(usize, String)| {
        let member = members.get(name)?;
        let cell = |column: &Column| match column.name {
            "Cluster" => Cell::text(scope),
            "Member" if *depth > 0 && format == Format::Pretty => {
                Cell::text(format!("{}+ {name}", "  ".repeat(depth - 1)))
            }
            column => cell(member, column, with_port),
        };
        Some(columns.iter().map(cell).collect())
    };
    Sheet {
        title: Some(title(view, scope)),
        rows: order.iter().filter_map(row).collect(),
        footer: footer(&body),
        columns,
    }
}

const STATE: Column = Column {
    colour: |state| match state {
        "" | "State" => None,
        "running" | "streaming" => Some(Colour::Green),
        "stopped" | "crashed" => Some(Colour::Red),
        failed if failed.ends_with("failed") => Some(Colour::Red),
        _ => Some(Colour::Yellow),
    },
    ..Column::text("State")
};

const ROLE: Column = Column {
    colour: |role| ["Leader", "Standby Leader"].contains(&role).then_some(Colour::Bold),
    ..Column::text("Role")
};

const COLUMNS: [Column; 9] = [
    Column::text("Member"),
    Column::text("Host"),
    ROLE,
    STATE,
    Column::number("TL"),
    Column::text("Receive LSN"),
    Column { shown: "Lag", ..Column::number("Receive Lag") },
    Column::text("Replay LSN"),
    Column { shown: "Lag", ..Column::number("Replay Lag") },
];

/// Columns that are there when a member has the field.
const MORE: [(Column, &str); 4] = [
    (
        Column { colour: |mark| (mark == "*").then_some(Colour::Yellow), ..Column::text("Pending restart") },
        "pending_restart",
    ),
    (Column::text("Pending restart reason"), "pending_restart_reason"),
    (Column::text("Scheduled restart"), "scheduled_restart"),
    (Column::text("Tags"), "tags"),
];

/// Members with their depth: each below the one it replicates from, the leader first.
fn tree(view: &ClusterView) -> Vec<(usize, String)> {
    let leader = view.leader.as_ref().map(|l| &l.name).filter(|name| view.members.contains_key(*name));
    let parent = |name: &NodeName| {
        let named = view.members[name].record.tags.replicate_from();
        let named = named.filter(|up| view.members.contains_key(up) && up != name);
        named.or_else(|| leader.cloned()).filter(|_| Some(name) != leader)
    };
    let parents: BTreeMap<&NodeName, Option<NodeName>> =
        view.members.keys().map(|name| (name, parent(name))).collect();
    let mut shown = Vec::new();
    let mut next: Vec<(usize, &NodeName)> =
        parents.iter().rev().filter(|(_, up)| up.is_none()).map(|(name, _)| (0, *name)).collect();
    while let Some((depth, name)) = next.pop() {
        shown.push((depth, name.to_string()));
        let below = parents.iter().rev().filter(|(_, up)| up.as_ref() == Some(name));
        next.extend(below.map(|(name, _)| (depth + 1, *name)));
    }
    // Members that replicate from each other in a circle have no place; they are shown all the same.
    let lost = parents.keys().map(ToString::to_string);
    let lost: Vec<_> = lost.filter(|name| !shown.iter().any(|(_, s)| s == name)).collect();
    shown.extend(lost.into_iter().map(|name| (0, name)));
    shown
}

/// Hosts need their ports when one is not PostgreSQL's own or two members share a host.
fn ports_matter(members: &BTreeMap<String, &Map<String, Value>>) -> bool {
    let mut hosts: Vec<&Value> = members.values().filter_map(|m| m.get("host")).collect();
    let all = hosts.len();
    hosts.sort_by_key(ToString::to_string);
    hosts.dedup();
    hosts.len() < all || members.values().any(|m| m.get("port").is_some_and(|p| *p != 5432))
}

fn cell(m: &Map<String, Value>, column: &str, with_port: bool) -> Cell {
    let field = |name: &str| m.get(name).unwrap_or(&Value::Null);
    match column {
        "Member" => Cell::text(plain(field("name"))),
        "Host" if with_port && m.contains_key("port") => {
            Cell::text(format!("{}:{}", plain(field("host")), plain(field("port"))))
        }
        "Host" => Cell::text(plain(field("host"))),
        "Role" => Cell::text(words(&plain(field("role")))),
        "State" => Cell::text(plain(field("state"))),
        "TL" => Cell::number(field("timeline").as_u64()),
        "Receive LSN" => Cell::text(plain(field("receive_lsn"))),
        "Receive Lag" => megabytes(field("receive_lag")),
        "Replay LSN" => Cell::text(plain(field("replay_lsn"))),
        "Replay Lag" => megabytes(field("replay_lag")),
        "Pending restart" if field("pending_restart") == &Value::Bool(true) => Cell::text("*"),
        "Pending restart reason" => Cell::text(reasons(field("pending_restart_reason"))),
        "Scheduled restart" => Cell::text(plain(&field("scheduled_restart")["schedule"])),
        "Tags" => Cell {
            text: lines(field("tags"), |k, v| format!("{k}: {}", plain(v))),
            value: field("tags").clone(),
        },
        _ => Cell::default(),
    }
}

/// A value as text; nothing for null.
pub(crate) fn plain(value: &Value) -> String {
    match value {
        Value::Null => String::new(),
        Value::String(s) => s.clone(),
        other => other.to_string(),
    }
}

/// `sync_standby` as `Sync Standby`.
fn words(role: &str) -> String {
    let words = role.split('_').map(|w| {
        let mut chars = w.chars();
        chars.next().map_or_else(String::new, |c| c.to_uppercase().chain(chars).collect::<String>())
    });
    words.collect::<Vec<_>>().join(" ")
}

/// A lag in whole MB; what is not known stays empty.
fn megabytes(bytes: &Value) -> Cell {
    const MB: u64 = 1 << 20;
    Cell::number(bytes.as_u64().map(|b| (b + MB / 2) / MB))
}

fn reasons(value: &Value) -> String {
    lines(value, |name, v| {
        let full = format!("{name}: {}->{}", plain(&v["old_value"]), plain(&v["new_value"]));
        if full.chars().count() > 50 { format!("{name}: [hidden - too long]") } else { full }
    })
}

fn lines(value: &Value, line: impl Fn(&str, &Value) -> String) -> String {
    let pairs = value.as_object().into_iter().flatten();
    pairs.map(|(k, v)| line(k, v)).collect::<Vec<_>>().join("\n")
}

/// What a table of this cluster is headed with.
pub(crate) fn title(view: &ClusterView, scope: &str) -> String {
    let identity = match view.initialize.as_deref() {
        None => "uninitialized",
        Some("") => "initializing",
        Some(id) => id,
    };
    format!(" Cluster: {scope} ({identity}) ")
}

fn footer(body: &Value) -> String {
    let mut text = String::new();
    if body["pause"] == Value::Bool(true) {
        text.push_str(" Maintenance mode: on\n");
    }
    if let Some(scheduled) = body["scheduled_switchover"].as_object() {
        let _ = writeln!(text, " Switchover scheduled at: {}", plain(&scheduled["at"]));
        for name in ["from", "to"] {
            if let Some(member) = scheduled.get(name) {
                let _ = writeln!(text, "{name:>24}: {}", plain(member));
            }
        }
    }
    text
}

#[cfg(test)]
#[path = "list_tests.rs"]
pub(crate) mod tests;
