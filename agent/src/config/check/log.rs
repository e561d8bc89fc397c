//! `[log]`.

use pgvane_cluster::settings_file::Spanned;
use pgvane_cluster::units;
use serde_json::{Map, Value};
use tracing_subscriber::EnvFilter;

use super::super::default;
use super::super::raw::{RawLog, RawValues};
use super::super::{Line, Log, LogField, LogFile, LogFormat, Piece};
use super::context::missing;
use super::{Check, Checked};

pub(super) fn check(raw: RawLog, cx: &mut Check<'_>) -> Checked<Log> {
    let (format, json) = match raw.format.as_ref().map(|text| text.get_ref().as_str()) {
        None if cx.is_patroni() => (LogFormat::Patroni, false),
        None | Some("text") => (LogFormat::Text, false),
        Some("json") => (LogFormat::Json, false),
        Some("patroni") => (LogFormat::Patroni, false),
        Some("patroni-json") => (LogFormat::Patroni, true),
        Some(other) => {
            let why = format!("{other:?} is not one of text, json, patroni, patroni-json");
            return match &raw.format {
                Some(text) => cx.wrong(text, "log.format", why),
                None => missing(why),
            };
        }
    };
    let line = if json {
        json_line(raw.line_format.as_ref(), raw.static_fields, cx)?
    } else {
        if let Some(value) = raw.static_fields.values().next() {
            cx.leave_out(value, "log.static_fields", "only lines of JSON have such fields")?;
        }
        plain_line(raw.line_format.as_ref(), cx)?
    };
    let name = if format == LogFormat::Patroni { "patroni.log" } else { "pgvane-agent.log" };
    let file = match &raw.dir {
        None => None,
        Some(dir) => {
            let path = cx.path(dir);
            if cx.is_here() && !path.is_dir() {
                return cx.wrong(dir, "log.dir", format!("{} is not a directory", path.display()));
            }
            Some(LogFile {
                path: path.join(name),
                keep: raw.file_num.map_or(default::LOG_FILES, Spanned::into_inner),
                size: size(raw.file_size.as_ref(), cx)?,
                mode: mode(raw.mode.as_ref(), cx)?,
            })
        }
    };
    Ok(Log {
        format,
        level: level(raw.level, cx)?,
        line,
        date_format: date_format(raw.date_format, cx)?,
        deduplicate_heartbeats: raw.deduplicate_heartbeats.is_some_and(Spanned::into_inner),
        file,
    })
}

/// The level of a Python word.
pub(in crate::config) fn python_level(word: &str) -> Option<&'static str> {
    match word.to_ascii_uppercase().as_str() {
        "CRITICAL" | "FATAL" | "ERROR" => Some("error"),
        "WARNING" | "WARN" => Some("warn"),
        "INFO" => Some("info"),
        "DEBUG" => Some("debug"),
        "NOTSET" => Some("trace"),
        _ => None,
    }
}

fn level(raw: Option<Spanned<String>>, cx: &Check<'_>) -> Checked<String> {
    let Some(text) = raw else { return Ok(default::LOG_LEVEL.to_owned()) };
    if let Some(level) = python_level(text.get_ref()) {
        return Ok(level.to_owned());
    }
    match text.get_ref().parse::<EnvFilter>() {
        Ok(_) => Ok(text.into_inner()),
        Err(e) => {
            let why = format!(
                "{:?} is neither a level (error, warn, info, debug, trace) nor directives: {e}",
                text.get_ref()
            );
            cx.wrong(&text, "log.level", why)
        }
    }
}

/// `%(asctime)s %(levelname)-8s %(message)s` and its like.
fn plain_line(raw: Option<&Spanned<Value>>, cx: &mut Check<'_>) -> Checked<Line> {
    let Some(raw) = raw else { return Ok(Line::usual()) };
    let Value::String(text) = raw.get_ref() else {
        let why = "a plain line's format is text such as \"%(asctime)s %(levelname)s: %(message)s\"";
        cx.leave_out(raw, "log.line_format", why)?;
        return Ok(Line::usual());
    };
    let mut pieces = Vec::new();
    let mut rest = text.as_str();
    while let Some(at) = rest.find('%') {
        push_text(&mut pieces, &rest[..at]);
        rest = &rest[at + 1..];
        if let Some(after) = rest.strip_prefix('%') {
            push_text(&mut pieces, "%");
            rest = after;
            continue;
        }
        let Some((name, spec, after)) = placeholder(rest) else {
            let why = format!("{text:?} has a % that does not begin a placeholder such as %(message)s");
            return cx.wrong(raw, "log.line_format", why);
        };
        rest = after;
        match LogField::named(name) {
            Some(field) => pieces.push(Piece::Field { field, width: spec.0, left: spec.1 }),
            None => cx.leave_out(raw, "log.line_format", &unknown(name))?,
        }
    }
    push_text(&mut pieces, rest);
    Ok(Line::Plain(pieces))
}

fn push_text(pieces: &mut Vec<Piece>, text: &str) {
    match pieces.last_mut() {
        _ if text.is_empty() => {}
        Some(Piece::Text(before)) => before.push_str(text),
        Some(Piece::Field { .. }) | None => pieces.push(Piece::Text(text.to_owned())),
    }
}

fn unknown(name: &str) -> String {
    let known: Vec<&str> = LogField::ALL.iter().map(|(name, _)| *name).collect();
    format!("%({name})s is not known; known: {}", known.join(", "))
}

/// The widest a field may be padded to.
const WIDEST: usize = 200;

/// `(name)-8s...` after its `%`: the name, the width and whether the spaces follow, what comes after.
fn placeholder(text: &str) -> Option<(&str, (usize, bool), &str)> {
    let (name, rest) = text.strip_prefix('(')?.split_once(')')?;
    let end = rest.find(|c: char| c.is_ascii_alphabetic())?;
    let (spec, rest) = rest.split_at(end);
    let rest = rest.strip_prefix(['s', 'd', 'f', 'i'])?;
    // A precision cuts numbers, which nobody needs of these.
    let spec = spec.split('.').next().unwrap_or(spec);
    let (width, left) = match spec.strip_prefix('-') {
        Some(width) => (width, true),
        None => (spec, false),
    };
    let width = if width.is_empty() { 0 } else { width.parse().ok().filter(|width| *width <= WIDEST)? };
    Some((name, (width, left), rest))
}

/// Fields as a list of names and `{name: shown as}`, or the placeholders of a plain line.
fn json_line(raw: Option<&Spanned<Value>>, static_fields: RawValues, cx: &mut Check<'_>) -> Checked<Line> {
    let mut names: Vec<(String, String)> = Vec::new();
    match raw.map(Spanned::get_ref) {
        None => {}
        Some(Value::String(text)) => {
            let mut rest = text.as_str();
            while let Some((name, after)) = rest.split_once("%(").and_then(|(_, r)| r.split_once(')')) {
                names.push((name.to_owned(), name.to_owned()));
                rest = after;
            }
        }
        Some(Value::Array(items)) => {
            for item in items {
                match item {
                    Value::String(name) => names.push((name.clone(), name.clone())),
                    Value::Object(renamed) => {
                        let text = |(name, shown): (&String, &Value)| {
                            shown.as_str().map(|shown| (name.clone(), shown.to_owned()))
                        };
                        names.extend(renamed.iter().filter_map(text));
                    }
                    Value::Null | Value::Bool(_) | Value::Number(_) | Value::Array(_) => {}
                }
            }
        }
        Some(Value::Null | Value::Bool(_) | Value::Number(_) | Value::Object(_)) => {
            if let Some(raw) = raw {
                cx.leave_out(raw, "log.line_format", "text or a list of fields is expected")?;
            }
        }
    }
    let mut fields = Vec::new();
    for (name, shown) in names {
        match (LogField::named(&name), raw) {
            (Some(field), _) => fields.push((field, shown)),
            (None, Some(raw)) => cx.leave_out(raw, "log.line_format", &unknown(&name))?,
            (None, None) => {}
        }
    }
    if fields.is_empty() {
        let usual = [LogField::Asctime, LogField::Levelname, LogField::Message];
        let as_it_is =
            |(name, field): &(&str, LogField)| usual.contains(field).then(|| (*field, (*name).to_owned()));
        fields = LogField::ALL.iter().filter_map(as_it_is).collect();
    }
    let static_fields: Map<String, Value> =
        static_fields.into_iter().map(|(name, value)| (name, value.into_inner())).collect();
    Ok(Line::Json { fields, static_fields })
}

fn date_format(raw: Option<Spanned<String>>, cx: &Check<'_>) -> Checked<Option<String>> {
    let Some(raw) = raw.filter(|text| !text.get_ref().is_empty()) else { return Ok(None) };
    let some_time = jiff::Timestamp::UNIX_EPOCH.to_zoned_datetime(jiff::tz::TimeZone::UTC);
    match jiff::fmt::strtime::format(raw.get_ref(), &some_time) {
        Ok(_) => Ok(Some(raw.into_inner())),
        Err(e) => {
            let why = format!("{:?} is not a format of strftime: {e}", raw.get_ref());
            cx.wrong(&raw, "log.date_format", why)
        }
    }
}

fn size(raw: Option<&Spanned<Value>>, cx: &Check<'_>) -> Checked<u64> {
    let Some(raw) = raw else { return Ok(default::LOG_FILE_SIZE) };
    let bytes = match raw.get_ref() {
        Value::Number(n) => n.as_u64(),
        Value::String(text) => units::parse_size(text),
        Value::Null | Value::Bool(_) | Value::Array(_) | Value::Object(_) => None,
    };
    match bytes {
        Some(bytes) => Ok(bytes),
        None => cx.wrong(raw, "log.file_size", "a size such as \"25MB\" is expected; 0 for no limit"),
    }
}

/// Permissions: an octal number such as `0644`, as text, or as the number that it is.
fn mode(raw: Option<&Spanned<Value>>, cx: &Check<'_>) -> Checked<Option<u32>> {
    let Some(raw) = raw else { return Ok(None) };
    let mode = match raw.get_ref() {
        Value::Number(n) => n.as_u64().and_then(|n| u32::try_from(n).ok()),
        Value::String(text) => u32::from_str_radix(text.trim_start_matches("0o"), 8).ok(),
        Value::Null | Value::Bool(_) | Value::Array(_) | Value::Object(_) => None,
    };
    match mode.filter(|mode| *mode <= 0o7777) {
        Some(mode) => Ok(Some(mode)),
        None => cx.wrong(raw, "log.mode", "permissions such as \"0644\" are expected"),
    }
}
