//! The messages of serde and the TOML parser in our words: key, section, value seen, what is allowed.

use std::ops::Range;

use toml::de::{DeTable, DeValue};

use super::{SettingsError, Source, nearest};

/// The error of reading `source`.
pub(super) fn explain(source: &Source, error: &toml::de::Error) -> SettingsError {
    let message = error.message().trim();
    let Some(span) = error.span() else {
        return source.error(message.to_owned(), None);
    };
    let Ok(document) = DeTable::parse(&source.text) else {
        let message = format!("this is not TOML: {}", message.replace('\n', ", "));
        return source.error_at(span, message, None);
    };
    if span == document.span() {
        let (text, help) = said(message, &[]);
        return source.error(text, help);
    }
    let path = locate(document.get_ref(), &span);
    let (text, help) = said(message, &path);
    source.error_at(span, text, help)
}

/// Keys from the root to what a span covers.
type Path = Vec<String>;

fn said(message: &str, path: &[String]) -> (String, Option<String>) {
    if let Some((key, allowed)) = quoted_then_list(message, "unknown field `") {
        let place = section(path.split_last().map_or(&[][..], |(_, parents)| parents));
        return (format!("unknown key `{key}` {place}"), Some(choices(key, &allowed)));
    }
    if let Some((word, allowed)) = quoted_then_list(message, "unknown variant `") {
        return (format!("unknown value `{word}` for {}", name(path)), Some(choices(word, &allowed)));
    }
    if let Some(key) = message.strip_prefix("missing field `").and_then(|m| m.strip_suffix('`')) {
        return (format!("the key `{key}` is missing {}", section(path)), None);
    }
    for prefix in ["invalid type: ", "invalid value: "] {
        if let Some((seen, expected)) = message.strip_prefix(prefix).and_then(|m| m.split_once(", expected "))
        {
            let text = format!("{} cannot be {}", name(path), seen.replace('`', ""));
            return (text, Some(format!("allowed: {}", allowed(expected))));
        }
    }
    (format!("{}: {message}", name(path)), None)
}

fn name(path: &[String]) -> String {
    match path.split_last() {
        None => "this".to_owned(),
        Some((key, [])) => format!("`{key}`"),
        Some((key, parents)) => format!("`{key}` {}", section(parents)),
    }
}

fn section(path: &[String]) -> String {
    if path.is_empty() { "at the top level".to_owned() } else { format!("in [{}]", path.join(".")) }
}

fn choices(word: &str, allowed: &[&str]) -> String {
    let list = match allowed {
        [] => return "nothing is allowed here".to_owned(),
        list => list.join(", "),
    };
    match nearest(word, allowed.iter().copied()) {
        Some(near) => format!("did you mean `{near}`? allowed: {list}"),
        None => format!("allowed: {list}"),
    }
}

/// Splits serde's "unknown field `x`, expected one of `a`, `b`".
fn quoted_then_list<'a>(message: &'a str, prefix: &str) -> Option<(&'a str, Vec<&'a str>)> {
    let (word, rest) = message
        .strip_prefix(prefix)?
        .rsplit_once("`, expected ")
        .or_else(|| message.strip_prefix(prefix)?.rsplit_once("`, there are no"))?;
    Some((word, rest.split('`').skip(1).step_by(2).collect()))
}

/// Serde's names of types in words of a settings file.
fn allowed(expected: &str) -> String {
    let whole = |from: &str, to: &str| format!("a whole number from {from} to {to}");
    match expected {
        "u8" => whole("0", &u8::MAX.to_string()),
        "u16" => whole("0", &u16::MAX.to_string()),
        "u32" => whole("0", &u32::MAX.to_string()),
        "u64" | "usize" => "a whole number, not negative".to_owned(),
        "i8" | "i16" | "i32" | "i64" | "isize" => "a whole number".to_owned(),
        "f32" | "f64" => "a number".to_owned(),
        "a boolean" => "true or false".to_owned(),
        "a string" | "a borrowed string" => "text in quotes".to_owned(),
        "path string" => "a path in quotes".to_owned(),
        "a sequence" => "a list in brackets".to_owned(),
        "a map" => "a table".to_owned(),
        other if other.starts_with("struct ") => "a table".to_owned(),
        other => other.to_owned(),
    }
}

/// The keys that lead to the smallest part of the document that covers `span`.
fn locate(table: &DeTable<'_>, span: &Range<usize>) -> Path {
    let mut best = (usize::MAX, Path::new());
    search(table, span, &mut Path::new(), &mut best);
    best.1
}

fn search(table: &DeTable<'_>, span: &Range<usize>, path: &mut Path, best: &mut (usize, Path)) {
    for (key, value) in table {
        path.push(key.get_ref().to_string());
        note(key.span(), span, path, best);
        note(value.span(), span, path, best);
        descend(value.get_ref(), span, path, best);
        path.pop();
    }
}

fn descend(value: &DeValue<'_>, span: &Range<usize>, path: &mut Path, best: &mut (usize, Path)) {
    match value {
        DeValue::Table(table) => search(table, span, path, best),
        DeValue::Array(array) => {
            for item in array {
                note(item.span(), span, path, best);
                descend(item.get_ref(), span, path, best);
            }
        }
        _ => {}
    }
}

fn note(covering: Range<usize>, span: &Range<usize>, path: &Path, best: &mut (usize, Path)) {
    let covers = covering.start <= span.start && span.end <= covering.end;
    if covers && covering.len() < best.0 {
        *best = (covering.len(), path.clone());
    }
}
