//! The files that are shipped for Prometheus and Grafana, and the names in them.

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};

use serde_json::Value;
use xtask::playground::SCOPE;

/// A file of the checkout.
pub(crate) fn file(path: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join(path)
}

/// What it says.
pub(crate) fn text(path: &str) -> String {
    fs::read_to_string(file(path)).unwrap_or_else(|error| panic!("{path}: {error}"))
}

/// The dashboard.
pub(crate) fn dashboard() -> Value {
    serde_json::from_str(&text("packaging/grafana/pgvane.json")).expect("JSON")
}

/// The members of an array.
pub(crate) fn each(array: &Value) -> impl Iterator<Item = &Value> {
    array.as_array().expect("an array").iter()
}

/// An expression or a query of the dashboard as Grafana sends it for the cluster of a playground.
pub(crate) fn sent(expression: &str) -> String {
    let sent = expression.replace("$__rate_interval", "1m");
    let sent = sent.replace("$cluster", SCOPE).replace("$scope", SCOPE);
    assert!(!sent.contains('$'), "the dashboard has no such variable: {sent}");
    sent
}

/// All expressions of the dashboard's panels, each with the title of its panel.
pub(crate) fn panel_expressions() -> Vec<(String, String)> {
    let dashboard = dashboard();
    let panels = each(&dashboard["panels"]).filter(|panel| panel["type"] != "row");
    panels
        .flat_map(|panel| {
            let title = panel["title"].as_str().expect("a title").to_owned();
            let expression = |target: &Value| sent(target["expr"].as_str().expect("an expression"));
            each(&panel["targets"]).map(|target| (title.clone(), expression(target))).collect::<Vec<_>>()
        })
        .collect()
}

/// The series of ours that an expression names, each as a query of its own: the name with what is in its braces.
pub(crate) fn our_series(expression: &str) -> Vec<&str> {
    let is_of_name = |c: char| c.is_ascii_alphanumeric() || c == '_';
    let mut found = vec![];
    let mut rest = expression;
    while let Some(start) = rest.find(is_of_name) {
        rest = &rest[start..];
        let end = rest.find(|c| !is_of_name(c)).unwrap_or(rest.len());
        let (name, after) = rest.split_at(end);
        let selected = match after.strip_prefix('{') {
            Some(labels) => end + labels.find('}').expect("a closing brace") + 2,
            None => end,
        };
        if name.starts_with("pgvane_") || name.starts_with("patroni_") || name == "up" {
            found.push(&rest[..selected]);
        }
        rest = &rest[selected..];
    }
    found
}

/// The names and kinds in a section of the reference.
pub(crate) fn documented(section: &str) -> BTreeMap<String, String> {
    let reference = text("docs/metrics.md");
    let section = reference.split("\n## ").find(|part| part.starts_with(section)).expect("a section");
    let rows = section.lines().filter_map(|line| line.strip_prefix("| `")?.split_once("` | "));
    rows.map(|(name, rest)| (name.to_owned(), rest.split(' ').next().unwrap_or_default().to_owned()))
        .collect()
}

/// The names and kinds on a page of metrics.
pub(crate) fn exported(page: &str) -> BTreeMap<String, String> {
    let types = page.lines().filter_map(|line| line.strip_prefix("# TYPE ")?.split_once(' '));
    types.map(|(name, kind)| (name.to_owned(), kind.to_owned())).collect()
}
