//! Commands and the options of PostgreSQL's programs.

use pgvane_cluster::settings_file::Spanned;
use serde_json::Value;

use super::super::Script;
use super::super::raw::RawValues;
use super::{Check, Checked};

/// A command line, split as a shell would.
pub(super) fn script(raw: &Spanned<String>, key: &str, cx: &Check<'_>) -> Checked<Script> {
    let text = raw.get_ref().trim();
    match shlex::split(text).filter(|words| words.first().is_some_and(|program| !program.is_empty())) {
        Some(words) => Ok(Script { text: text.to_owned(), words }),
        None => cx.wrong(
            raw,
            key,
            format!("{text:?} is not a command: it is empty, or a quote in it is not closed"),
        ),
    }
}

pub(super) fn optional_script(
    raw: Option<Spanned<String>>,
    key: &str,
    cx: &Check<'_>,
) -> Checked<Option<Script>> {
    // `on_start:` without a value means none.
    match raw.filter(|text| !text.get_ref().trim().is_empty()) {
        Some(text) => script(&text, key, cx).map(Some),
        None => Ok(None),
    }
}

/// Options of a program, each with its dashes; `forbidden` are those that are the agent's own business.
pub(super) fn options(
    raw: &[Spanned<String>],
    key: &str,
    forbidden: &[&str],
    cx: &mut Check<'_>,
) -> Checked<Vec<String>> {
    let mut options = Vec::new();
    for option in raw {
        let text = option.get_ref().trim_start_matches('-');
        let name = text.split('=').next().unwrap_or(text);
        if name.is_empty() || forbidden.contains(&name) {
            cx.leave_out(option, key, &format!("{text:?} is set by the agent itself or means nothing"))?;
            continue;
        }
        options.push(format!("--{text}"));
    }
    Ok(options)
}

/// Values as text, as PostgreSQL's configuration takes them.
pub(super) fn text(value: &Value) -> Option<String> {
    match value {
        Value::String(s) => Some(s.clone()),
        Value::Bool(b) => Some(if *b { "on" } else { "off" }.to_owned()),
        Value::Number(n) => Some(n.to_string()),
        Value::Null | Value::Array(_) | Value::Object(_) => None,
    }
}

/// Further arguments of a command: each becomes `--name=value`.
pub(super) fn arguments(raw: RawValues, key: &str, cx: &Check<'_>) -> Checked<Vec<(String, String)>> {
    let mut arguments = Vec::new();
    for (name, value) in raw {
        let written = match value.get_ref() {
            // As Python prints them, for the scripts that were written for it.
            Value::Bool(b) if cx.is_patroni() => Some(if *b { "True" } else { "False" }.to_owned()),
            Value::Bool(b) => Some(b.to_string()),
            other => text(other),
        };
        match written {
            Some(text) => arguments.push((name, text)),
            None => return cx.wrong(&value, &format!("{key}.{name}"), "text or a number is expected"),
        }
    }
    Ok(arguments)
}
