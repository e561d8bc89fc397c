//! The tables of docs/configuration.md, made of the schemas.

use std::fmt::Write;

use pgvane_agent::config::Preset;
use serde_json::{Map, Value};

/// A table of a settings file: `[listener.tls]`, say.
pub(crate) struct Section {
    /// Its keys from the top, `NAME` where any may stand; empty for the top itself.
    pub(crate) path: Vec<String>,
    /// Whether there may be several: `[[listener]]`.
    pub(crate) is_list: bool,
    /// What is said of it.
    about: String,
    /// The definition it is made of, where it has one: sections of the same kind are told once.
    definition: Option<String>,
    pub(crate) keys: Vec<Key>,
}

/// One line of a table.
pub(crate) struct Key {
    pub(crate) name: String,
    kind: String,
    pub(crate) default: Option<Value>,
    shown_default: String,
    pub(crate) needs_restart: bool,
    about: String,
    /// Whether any key may stand below it.
    pub(crate) is_open: bool,
}

impl Section {
    /// Whether both are made of the same definition.
    pub(crate) fn is_like(&self, other: &Section) -> bool {
        self.path == other.path || (self.definition.is_some() && self.definition == other.definition)
    }
}

/// The text with all that is between markers made anew.
pub(crate) fn renewed(text: &str) -> String {
    let [(_, proxy, ..), (_, agent, ..)] = super::files();
    let dynamic = super::dynamic::schema(&agent);
    let mut text = text.to_owned();
    for (name, generated) in [
        ("proxy.toml", tables(&sections(&proxy), true)),
        ("agent.toml", tables(&sections(&agent), true)),
        ("dynamic", tables(&sections(&dynamic), false)),
        ("presets", presets()),
    ] {
        let (begin, end) = (format!("<!-- begin {name} -->\n"), format!("<!-- end {name} -->"));
        let from = text.find(&begin).unwrap_or_else(|| panic!("no {begin}")) + begin.len();
        let to = text.find(&end).unwrap_or_else(|| panic!("no {end}"));
        text.replace_range(from..to, &format!("\n{generated}\n"));
    }
    text
}

/// All tables of a schema, outer ones first.
pub(crate) fn sections(schema: &Value) -> Vec<Section> {
    let mut sections = Vec::new();
    let top = Section { path: vec![], is_list: false, about: String::new(), definition: None, keys: vec![] };
    walk(schema, schema, top, false, &mut sections);
    sections
}

fn walk(root: &Value, schema: &Value, mut section: Section, restart: bool, into: &mut Vec<Section>) {
    let restart = restart || schema["x-restart"] == true;
    let required: Vec<&str> =
        schema["required"].as_array().into_iter().flatten().filter_map(Value::as_str).collect();
    let mut below = Vec::new();
    for (name, written) in schema["properties"].as_object().into_iter().flatten() {
        let (property, definition) = resolved(root, written);
        let mut path = section.path.clone();
        path.push(name.clone());
        let item = |part: &str| property.get(part).map(|item| resolved(root, item));
        let about = || text_of(&property);
        if definition.as_deref() != Some("ClusterSettings") && !property.contains_key("x-kind") {
            if property.contains_key("properties") {
                let section = Section { path, is_list: false, about: about(), definition, keys: vec![] };
                below.push((Value::Object(property), section));
                continue;
            }
            if let Some((item, definition)) =
                item("items").filter(|(item, _)| item.contains_key("properties"))
            {
                let section =
                    Section { path, is_list: true, about: text_of(&item), definition, keys: vec![] };
                below.push((Value::Object(item), section));
                continue;
            }
            if let Some((item, definition)) =
                item("additionalProperties").filter(|(item, _)| item.contains_key("properties"))
            {
                path.push("NAME".to_owned());
                let section =
                    Section { path, is_list: false, about: text_of(&item), definition, keys: vec![] };
                below.push((Value::Object(item), section));
                continue;
            }
        }
        section.keys.push(key(name, &property, required.contains(&name.as_str()), restart));
    }
    into.push(section);
    for (schema, section) in below {
        walk(root, &schema, section, restart, into);
    }
}

/// A schema without its reference: what the reference says, and what stands beside it.
fn resolved(root: &Value, schema: &Value) -> (Map<String, Value>, Option<String>) {
    let mut own = schema.as_object().cloned().unwrap_or_default();
    let through = own.remove("allOf").and_then(|all| all.get(0).cloned());
    let reference = own.remove("$ref").or_else(|| through?.get("$ref").cloned());
    let Some(reference) = reference.as_ref().and_then(Value::as_str) else { return (own, None) };
    let name = reference.rsplit('/').next().unwrap_or_default().to_owned();
    let mut whole = root["definitions"][&name].as_object().cloned().unwrap_or_default();
    whole.extend(own);
    (whole, Some(name))
}

fn text_of(schema: &Map<String, Value>) -> String {
    schema.get("description").and_then(Value::as_str).unwrap_or_default().replace('\n', " ")
}

fn key(name: &str, schema: &Map<String, Value>, is_required: bool, restart: bool) -> Key {
    let default = schema.get("default").cloned();
    let shown_default = match (&default, schema.get("x-default").and_then(Value::as_str)) {
        _ if is_required => "**required**".to_owned(),
        (_, Some(words)) => words.to_owned(),
        (Some(value), None) if value.as_object().is_some_and(Map::is_empty) => String::new(),
        (Some(value), None) => format!("`{value}`"),
        (None, None) => String::new(),
    };
    let words = schema.get("oneOf").and_then(Value::as_array);
    let mut about = text_of(schema);
    for word in words.into_iter().flatten() {
        let meaning = word["description"].as_str().unwrap_or_default().replace('\n', " ");
        let _ = write!(about, "<br>`{}`: {meaning}", word["const"]);
    }
    Key {
        name: name.to_owned(),
        kind: kind(schema),
        default,
        shown_default,
        needs_restart: restart || schema.get("x-restart").is_some_and(|needs| needs == true),
        about,
        is_open: schema.get("type").is_some_and(|kind| kind == "object") || schema.contains_key("properties"),
    }
}

fn kind(schema: &Map<String, Value>) -> String {
    let text = |key: &str| schema.get(key).and_then(Value::as_str);
    if let Some(kind) = text("x-kind") {
        return kind.to_owned();
    }
    let quoted = |values: &[Value]| values.iter().map(|v| format!("`{v}`")).collect::<Vec<_>>().join(", ");
    if let Some(words) = schema.get("enum").and_then(Value::as_array) {
        return quoted(words);
    }
    if let Some(words) = schema.get("oneOf").and_then(Value::as_array) {
        return quoted(&words.iter().map(|word| word["const"].clone()).collect::<Vec<_>>());
    }
    match text("type") {
        Some("string") => "text".to_owned(),
        Some("boolean") => "boolean".to_owned(),
        Some("integer") => match (schema.get("minimum"), schema.get("maximum")) {
            (Some(least), Some(most)) => format!("number, {least} to {most}"),
            (Some(least), None) if *least != 0 => format!("number from {least}"),
            _ => "number".to_owned(),
        },
        Some("array") => "list".to_owned(),
        Some("object") => "table".to_owned(),
        _ => "any".to_owned(),
    }
}

fn heading(section: &Section) -> String {
    let path = section.path.join(".");
    if section.is_list { format!("`[[{path}]]`") } else { format!("`[{path}]`") }
}

/// The sections in Markdown. Where `changes` is set there is a column for what a change needs.
fn tables(sections: &[Section], changes: bool) -> String {
    let mut out = String::new();
    let mut told: Vec<&String> = Vec::new();
    for section in sections {
        if let Some(definition) = &section.definition {
            if told.contains(&definition) {
                continue;
            }
            told.push(definition);
        }
        let same = |other: &&Section| section.definition.is_some() && other.definition == section.definition;
        let alike: Vec<&Section> = sections.iter().filter(same).collect();
        let alike = if alike.is_empty() { vec![section] } else { alike };
        if !section.path.is_empty() {
            let headings: Vec<String> = alike.iter().map(|section| heading(section)).collect();
            let _ = writeln!(out, "### {}\n", headings.join(", "));
            for one in &alike {
                let name =
                    if alike.len() > 1 { format!("`{}`: ", one.path.join(".")) } else { String::new() };
                let _ = writeln!(out, "{name}{}\n", one.about);
            }
        }
        if section.keys.is_empty() {
            continue;
        }
        let column = if changes { ("| a change needs ", "|---") } else { ("", "") };
        let _ = writeln!(out, "| key | type | default {}| what |\n|---|---|---{}|---|", column.0, column.1);
        for key in &section.keys {
            let needs = match (changes, key.needs_restart) {
                (false, _) => "",
                (true, true) => " restart |",
                (true, false) => " reload |",
            };
            let Key { name, kind, shown_default, about, .. } = key;
            let about = if name == "dcs" {
                format!("{about} See [Dynamic configuration](#dynamic-configuration).")
            } else {
                about.clone()
            };
            let _ = writeln!(out, "| `{name}` | {kind} | {shown_default} |{needs} {about} |");
        }
        out.push('\n');
    }
    out.trim_end().to_owned() + "\n"
}

/// What the named presets stand for.
fn presets() -> String {
    let documents = Preset::ALL.map(|(name, preset)| (name, preset.document()));
    let mut out = String::from("| key |");
    for (name, _) in &documents {
        let _ = write!(out, " `{name}` |");
    }
    out.push_str("\n|---|---|---|---|---|\n");
    let (_, first) = &documents[0];
    let top = first.as_object().into_iter().flatten().filter(|(_, value)| !value.is_object());
    let below = first["postgresql"].as_object().into_iter().flatten();
    let keys =
        top.map(|(key, _)| format!("/{key}")).chain(below.map(|(key, _)| format!("/postgresql/{key}")));
    for pointer in keys {
        let _ = write!(out, "| `{}` |", pointer[1..].replace('/', "."));
        for (_, document) in &documents {
            let _ = write!(out, " {} |", document.pointer(&pointer).unwrap_or(&Value::Null));
        }
        out.push('\n');
    }
    out
}
