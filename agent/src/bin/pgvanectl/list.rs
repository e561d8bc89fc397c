//! `list`: the members as a table in patronictl's columns (contract section 7), or as JSON.

use std::fmt::Write as _;
use std::io::{self, IsTerminal};
use std::sync::Arc;
use std::time::Duration;

use comfy_table::{CellAlignment, ContentArrangement, ContentLineStyle, LineStyle, Table, TableStyle};
use pgvane_agent::api::cluster_body;
use pgvane_cluster::follow::{self, Contact, FollowOptions};
use pgvane_cluster::store::etcd::EtcdStore;
use pgvane_cluster::view::ClusterView;
use serde_json::{Map, Value};

use crate::target::Target;
use crate::{Failed, fail, say};

/// How to show the list.
#[derive(Clone, Copy, PartialEq, Eq, Debug, clap::ValueEnum)]
pub(crate) enum Format {
    /// A table.
    Pretty,
    /// An array of objects.
    Json,
}

/// Shows the list once.
pub(crate) async fn once(target: &Target, format: Format, extended: bool) -> Result<(), Failed> {
    let view = target.view().await?;
    say(&show(&view, &target.scope, format, extended))
}

/// Shows the list at every change, until interrupted.
pub(crate) async fn follow(target: &Target, format: Format, extended: bool) -> Result<(), Failed> {
    let options = FollowOptions {
        reread_every: Duration::from_secs(5),
        retry_first: Duration::from_millis(100),
        retry_max: Duration::from_secs(2),
        ask_leader_lease: false,
    };
    // A store that is away or a cluster that is not there is told at once, as it is without --watch.
    target.view().await?;
    let store = Arc::new(EtcdStore::new(target.options.clone()));
    let (follower, task) = follow::follow(store, target.space.clone(), options);
    let task = tokio::spawn(task);
    let mut seen = follower.observation();
    let mut last = String::new();
    while seen.changed().await.is_ok() {
        let observation = seen.borrow_and_update().clone();
        let mut text = match &observation.view {
            Some(view) => show(view, &target.scope, format, extended),
            None => String::new(),
        };
        if let Contact::Down { why, .. } = &observation.contact {
            let _ = writeln!(text, "the store does not answer: {why}");
        }
        if text != last {
            // Clear the screen, cursor to the corner.
            let clear = if io::stdout().is_terminal() { "\x1b[2J\x1b[H" } else { "" };
            say(&format!("{clear}{text}"))?;
            last = text;
        }
    }
    task.abort();
    fail("the store is not followed any more")
}

/// The list as text, with a newline at its end.
pub(crate) fn show(view: &ClusterView, scope: &str, format: Format, extended: bool) -> String {
    let body = cluster_body(view, scope);
    let members: Vec<&Map<String, Value>> =
        body["members"].as_array().into_iter().flatten().filter_map(Value::as_object).collect();
    let columns = columns(&members, extended);
    let with_port = ports_matter(&members);
    let rows: Vec<Vec<String>> =
        members.iter().map(|m| columns.iter().map(|c| cell(m, c, with_port)).collect()).collect();
    match format {
        Format::Json => json(scope, &members, &columns, &rows),
        Format::Pretty => pretty(view, scope, &body, &columns, rows),
    }
}

const COLUMNS: [&str; 9] =
    ["Member", "Host", "Role", "State", "TL", "Receive LSN", "Receive Lag", "Replay LSN", "Replay Lag"];

fn columns(members: &[&Map<String, Value>], extended: bool) -> Vec<&'static str> {
    let more = [
        ("Pending restart", "pending_restart"),
        ("Pending restart reason", "pending_restart_reason"),
        ("Scheduled restart", "scheduled_restart"),
        ("Tags", "tags"),
    ];
    let said = |field: &str| members.iter().any(|m| m.contains_key(field));
    let more = more.into_iter().filter(|(_, field)| extended || said(field)).map(|(column, _)| column);
    COLUMNS.into_iter().chain(more).collect()
}

/// Hosts need their ports when one is not PostgreSQL's own or two members share a host.
fn ports_matter(members: &[&Map<String, Value>]) -> bool {
    let mut hosts: Vec<&Value> = members.iter().filter_map(|m| m.get("host")).collect();
    let all = hosts.len();
    hosts.sort_by_key(ToString::to_string);
    hosts.dedup();
    hosts.len() < all || members.iter().any(|m| m.get("port").is_some_and(|p| *p != 5432))
}

fn cell(m: &Map<String, Value>, column: &str, with_port: bool) -> String {
    let field = |name: &str| m.get(name).unwrap_or(&Value::Null);
    match column {
        "Member" => plain(field("name")),
        "Host" if with_port && m.contains_key("port") => {
            format!("{}:{}", plain(field("host")), plain(field("port")))
        }
        "Host" => plain(field("host")),
        "Role" => title(&plain(field("role"))),
        "State" => plain(field("state")),
        "TL" => plain(field("timeline")),
        "Receive LSN" => plain(field("receive_lsn")),
        "Receive Lag" => megabytes(field("receive_lag")),
        "Replay LSN" => plain(field("replay_lsn")),
        "Replay Lag" => megabytes(field("replay_lag")),
        "Pending restart" => if field("pending_restart") == &Value::Bool(true) { "*" } else { "" }.to_owned(),
        "Pending restart reason" => reasons(field("pending_restart_reason")),
        "Scheduled restart" => plain(&field("scheduled_restart")["schedule"]),
        "Tags" => lines(field("tags"), |k, v| format!("{k}: {}", plain(v))),
        _ => String::new(),
    }
}

fn plain(value: &Value) -> String {
    match value {
        Value::Null => String::new(),
        Value::String(s) => s.clone(),
        other => other.to_string(),
    }
}

/// `sync_standby` as `Sync Standby`.
fn title(role: &str) -> String {
    let words = role.split('_').map(|w| {
        let mut chars = w.chars();
        chars.next().map_or_else(String::new, |c| c.to_uppercase().chain(chars).collect::<String>())
    });
    words.collect::<Vec<_>>().join(" ")
}

/// A lag in whole MB; what is not known stays empty.
fn megabytes(bytes: &Value) -> String {
    const MB: u64 = 1 << 20;
    bytes.as_u64().map_or_else(String::new, |b| ((b + MB / 2) / MB).to_string())
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

fn json(scope: &str, members: &[&Map<String, Value>], columns: &[&str], rows: &[Vec<String>]) -> String {
    let row = |(member, cells): (&&Map<String, Value>, &Vec<String>)| {
        let mut object = Map::new();
        object.insert("Cluster".to_owned(), scope.into());
        for (column, text) in columns.iter().zip(cells).filter(|(_, text)| !text.is_empty()) {
            let value = match *column {
                "Tags" => member.get("tags").cloned().unwrap_or_default(),
                "TL" | "Receive Lag" | "Replay Lag" => {
                    text.parse::<u64>().map_or_else(|_| text.clone().into(), Value::from)
                }
                _ => text.clone().into(),
            };
            object.insert((*column).to_owned(), value);
        }
        Value::Object(object)
    };
    let rows: Vec<Value> = members.iter().zip(rows).map(row).collect();
    format!("{}\n", Value::from(rows))
}

/// A table in prettytable's look: rules of dashes; between rows only when some are `tall`er than one line.
pub(crate) fn table<'a>(header: impl IntoIterator<Item = &'a str>, tall: bool) -> Table {
    let mut table = Table::new();
    let (rule, cells) = (LineStyle::new('+', '-', '+', '+'), ContentLineStyle::new('|', '|', '|'));
    let style = TableStyle::new().top_border(rule).header_separator(rule).bottom_border(rule);
    let style = style.header_lines(cells).content_lines(cells);
    table.load_style(if tall { style.row_separator(rule) } else { style });
    table.set_content_arrangement(ContentArrangement::Disabled);
    table.set_header(header);
    table
}

fn pretty(view: &ClusterView, scope: &str, body: &Value, columns: &[&str], rows: Vec<Vec<String>>) -> String {
    let identity = match view.initialize.as_deref() {
        None => "uninitialized",
        Some("") => "initializing",
        Some(id) => id,
    };
    let tall = rows.iter().flatten().any(|cell| cell.contains('\n'));
    let mut table = table(columns.iter().map(|c| if c.ends_with(" Lag") { "Lag" } else { c }), tall);
    for row in rows {
        table.add_row(row);
    }
    for (index, column) in columns.iter().enumerate() {
        if (*column == "TL" || column.ends_with(" Lag"))
            && let Some(column) = table.column_mut(index)
        {
            column.set_cell_alignment(CellAlignment::Right);
        }
    }
    let drawn = table.to_string();
    let mut text = with_title(&drawn, &format!(" Cluster: {scope} ({identity}) "));
    text.push('\n');
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

/// The table with `title` written over its first rule.
fn with_title(table: &str, title: &str) -> String {
    let (first, rest) = table.split_once('\n').unwrap_or((table, ""));
    let room = first.chars().count().saturating_sub(2);
    let title: String = title.chars().take(room).collect();
    let rule: String = first.chars().skip(1 + title.chars().count()).collect();
    format!("+{title}{rule}\n{rest}")
}

#[cfg(test)]
#[path = "list_tests.rs"]
pub(crate) mod tests;
