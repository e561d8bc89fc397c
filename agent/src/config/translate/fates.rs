//! What became of every setting of a patroni.yml.

use std::ops::Range;

use toml::{Table, Value};

use super::super::check::{Remark, native_key};
use super::super::raw::RawConfig;
use super::super::sources::Sources;
use super::super::yaml::{Leaf, Shape};
use super::native::{carried, find};
use super::{Fate, Setting};

/// Names of methods: their settings stand in sections of these names.
pub(super) struct Methods {
    replica: Vec<String>,
    bootstrap: Option<String>,
}

impl Methods {
    pub(super) fn of(raw: &RawConfig) -> Methods {
        let replica = raw.postgresql.replica_methods.iter().flatten();
        Methods {
            replica: replica.map(|method| method.name.get_ref().clone()).collect(),
            bootstrap: raw.bootstrap.method.as_ref().map(|method| method.name.get_ref().clone()),
        }
    }
}

/// What became of each of the leaves.
pub(super) fn of(
    leaves: &[Leaf],
    remarks: &[Remark],
    table: &Table,
    methods: &Methods,
    sources: &Sources,
) -> Vec<Setting> {
    let mut settings = Vec::new();
    let mut passed: Option<&str> = None;
    let is_v2 = !leaves.iter().any(|leaf| leaf.path == "etcd3");
    for leaf in leaves {
        if passed.is_some_and(|section| is_within(&leaf.path, section)) {
            continue;
        }
        let said = said_of(leaf, remarks);
        let fate = match (&leaf.shape, said) {
            (Shape::Section, None) => continue,
            (Shape::Section, Some(said)) if leaf.path == "etcd" && is_v2 => {
                Fate::Changed { to: "etcd".to_owned(), why: said.text.clone() }
            }
            (Shape::List, Some(said))
                if said.at.as_ref() != Some(&leaf.at) && said.at.as_ref() != Some(&leaf.key) =>
            {
                Fate::Changed { to: to(leaf, methods), why: reason(leaf, said) }
            }
            (_, Some(said)) => {
                passed = Some(&leaf.path);
                Fate::Left { why: reason(leaf, said) }
            }
            (Shape::Empty, None) => Fate::Left { why: "it says nothing".to_owned() },
            (Shape::Value(_) | Shape::List, None) => fate(leaf, table, methods),
        };
        let place = sources.place(leaf.key.clone()).unwrap_or_default();
        settings.push(Setting { place, name: leaf.path.clone(), fate });
    }
    settings
}

/// What was found of the file as a whole: a name that it does not set.
pub(super) fn of_no_line(file: &str, remarks: &[Remark]) -> Vec<Setting> {
    let whole = remarks.iter().filter(|remark| remark.at.is_none());
    let setting = |remark: &Remark| Setting {
        place: file.to_owned(),
        name: "name".to_owned(),
        fate: Fate::Changed { to: "name".to_owned(), why: remark.text.clone() },
    };
    whole.map(setting).collect()
}

/// A default of Patroni that is not ours, and so is said.
pub(super) fn written_out(key: &str) -> Setting {
    let why = "not set there: agent.toml says what Patroni does then, because its own default is another";
    unset(key, why)
}

/// A default of ours that is not Patroni's, and stays.
pub(super) fn default_of_ours(key: &str) -> Setting {
    let why = match key {
        "postgresql.pgpass" => {
            "not set there: the file is kept beside the data directory, Patroni's in the home directory"
        }
        _ => "what it means here is not quite what it meant there",
    };
    unset(key, why)
}

fn unset(key: &str, why: &str) -> Setting {
    let fate = Fate::Changed { to: key.to_owned(), why: why.to_owned() };
    Setting { place: "agent.toml".to_owned(), name: key.to_owned(), fate }
}

fn is_within(path: &str, section: &str) -> bool {
    path.strip_prefix(section).is_some_and(|rest| rest.starts_with('.'))
}

/// The remark upon a setting, or upon a part of its list.
fn said_of<'a>(leaf: &Leaf, remarks: &'a [Remark]) -> Option<&'a Remark> {
    let upon = |at: &Range<usize>| remarks.iter().find(|remark| remark.at.as_ref() == Some(at));
    let within = || match leaf.shape {
        Shape::List => remarks.iter().find(|remark| {
            remark
                .at
                .as_ref()
                .is_some_and(|at| at.start >= leaf.at.start && at.end <= leaf.at.end && !at.is_empty())
        }),
        Shape::Empty | Shape::Value(_) | Shape::Section => None,
    };
    // The place of a section is where it begins, without a length.
    let has_place = !leaf.at.is_empty() || matches!(leaf.shape, Shape::Section);
    upon(&leaf.key).or_else(|| upon(&leaf.at).filter(|_| has_place)).or_else(within)
}

/// A remark without what the report says already.
fn reason(leaf: &Leaf, said: &Remark) -> String {
    let text = said.text.strip_prefix(&leaf.path).unwrap_or(&said.text);
    let text = text.strip_suffix("; it is ignored").unwrap_or(text);
    let text =
        text.strip_prefix(" is unknown and ignored").map_or(text.to_owned(), |rest| format!("unknown{rest}"));
    text.trim_start_matches(" is ignored").trim_start_matches([':', ' ']).to_owned()
}

/// Where a setting that nothing was said of went.
fn fate(leaf: &Leaf, table: &Table, methods: &Methods) -> Fate {
    let key = to(leaf, methods);
    let Some(value) = find(table, &key) else {
        return Fate::Left { why: "agent.toml need not say it: this is what happens anyway".to_owned() };
    };
    let why = match leaf.path.as_str() {
        "postgresql.use_unix_socket" => "agent.toml names the directory of the socket",
        "postgresql.listen" if value.as_str() != text(leaf) => "agent.toml names the port too",
        "watchdog.mode" if value.as_str() != text(leaf) => "another word for the same",
        path if path.starts_with("log.loggers.") => "the levels of all loggers are one text",
        _ if key == "etcd.endpoints" && ["protocol", "port"].contains(&last(leaf)) => {
            "it is part of the URLs"
        }
        _ if last(leaf) == "use_proxies" => "it says the opposite",
        _ if is_moved_path(leaf, value) => "a relative path is written out",
        _ => return carried(&key),
    };
    Fate::Changed { to: key, why: why.to_owned() }
}

/// The last part of its path.
fn last(leaf: &Leaf) -> &str {
    leaf.path.rsplit('.').next().unwrap_or(&leaf.path)
}

fn text(leaf: &Leaf) -> Option<&str> {
    match &leaf.shape {
        Shape::Value(text) => Some(text),
        Shape::Empty | Shape::List | Shape::Section => None,
    }
}

/// Whether a relative path became absolute.
fn is_moved_path(leaf: &Leaf, value: &Value) -> bool {
    match (text(leaf), value.as_str()) {
        (Some(before), Some(after)) => {
            after.starts_with('/') && !before.starts_with('/') && after.ends_with(&format!("/{before}"))
        }
        _ => false,
    }
}

/// The key of agent.toml that a setting goes to.
fn to(leaf: &Leaf, methods: &Methods) -> String {
    let path = leaf.path.as_str();
    if let Some(rest) = path.strip_prefix("etcd3.").or_else(|| path.strip_prefix("etcd.")) {
        return match rest {
            "hosts" | "host" | "url" | "proxy" | "protocol" | "port" => "etcd.endpoints".to_owned(),
            "use_proxies" => "etcd.discover".to_owned(),
            other => format!("etcd.{other}"),
        };
    }
    let own = |section: &str, name: &String| {
        let rest = path.strip_prefix(section)?.strip_prefix(name.as_str())?;
        rest.starts_with('.').then_some(())
    };
    if methods.replica.iter().any(|name| own("postgresql.", name).is_some()) {
        return "postgresql.replica_methods".to_owned();
    }
    if methods.bootstrap.iter().any(|name| own("bootstrap.", name).is_some()) {
        return "bootstrap.method".to_owned();
    }
    match path {
        "restapi.auth" => "restapi.username".to_owned(),
        "ctl.auth" => "ctl.username".to_owned(),
        "postgresql.name" => "name".to_owned(),
        "postgresql.create_replica_method" => "postgresql.replica_methods".to_owned(),
        "bootstrap.post_init" => "bootstrap.post_bootstrap".to_owned(),
        _ if path.starts_with("log.loggers.") => "log.level".to_owned(),
        _ => match path.strip_prefix("postgresql.pg_rewind.") {
            Some(rest) => format!("postgresql.superuser.{rest}"),
            None => native_key(path).into_owned(),
        },
    }
}
