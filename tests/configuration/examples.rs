//! The example files name the keys of the reference, all of them and no others, and their schemas accept them.

use std::collections::BTreeSet;

use serde_json::{Value, json};
use toml::{Table, Value as Toml};

use super::reference::{Section, sections};

/// The keys that a file shows, as `section.key`: those in force, and those that are commented out.
fn shown(example: &str) -> BTreeSet<Vec<String>> {
    let mut keys = BTreeSet::new();
    let mut section: Vec<String> = Vec::new();
    for line in example.lines() {
        let line = line.trim_start_matches(['#', ' ']);
        if let Some(header) = line.strip_prefix('[').and_then(|rest| rest.strip_suffix(']')) {
            let header = header.trim_matches(['[', ']']);
            if header.chars().all(|c| c.is_ascii_alphanumeric() || "_.".contains(c)) {
                section = header.split('.').map(str::to_owned).collect();
                continue;
            }
        }
        let Some((key, value)) = line.split_once(" = ") else { continue };
        if !key.chars().all(|c| c.is_ascii_lowercase() || c.is_ascii_digit() || "_.".contains(c)) {
            continue;
        }
        let path: Vec<String> = section.iter().cloned().chain(key.split('.').map(str::to_owned)).collect();
        // What stands in braces is keys as well.
        if let Ok(Some(Toml::Array(list))) =
            format!("v = {value}").parse::<Table>().map(|mut table| table.remove("v"))
            && let Some(Toml::Table(first)) = list.first()
        {
            keys.extend(first.keys().map(|key| [path.as_slice(), std::slice::from_ref(key)].concat()));
        }
        keys.insert(path);
    }
    keys
}

/// Whether `path` is the key `name` of `section`, or below it where it is open.
fn is_key(path: &[String], section: &Section, name: &str, is_open: bool) -> bool {
    let of_section = section.path.iter().zip(path).all(|(key, shown)| key == "NAME" || key == shown);
    let at = section.path.len();
    of_section && path.get(at).is_some_and(|key| key == name) && (path.len() == at + 1 || is_open)
}

#[test]
fn they_show_the_keys_of_the_reference_and_no_others() {
    for (file, schema, _, example) in super::files() {
        let shown = shown(example);
        let sections = sections(&schema);
        let is_section = |path: &[String]| {
            sections.iter().any(|section| {
                section.path.len() == path.len()
                    && section.path.iter().zip(path).all(|(key, shown)| key == "NAME" || key == shown)
            })
        };
        for path in &shown {
            let known = sections
                .iter()
                .any(|section| section.keys.iter().any(|key| is_key(path, section, &key.name, key.is_open)));
            assert!(known || is_section(path), "{file}.example shows {path:?}, which there is not");
        }
        for section in &sections {
            for key in &section.keys {
                // A role of PostgreSQL is shown whole once.
                let alike = sections.iter().filter(|other| other.is_like(section));
                let is_shown = alike
                    .flat_map(|section| shown.iter().map(move |path| (section, path)))
                    .any(|(section, path)| is_key(path, section, &key.name, key.is_open));
                let is_table = shown.iter().any(|path| {
                    path.len() > section.path.len()
                        && is_key(&path[..=section.path.len()], section, &key.name, true)
                });
                assert!(
                    is_shown || is_table,
                    "{file}.example does not show {}.{}",
                    section.path.join("."),
                    key.name
                );
            }
        }
    }
}

/// A file as its schema sees it.
fn as_json(text: &str) -> Value {
    let table: Table = text.parse().unwrap_or_else(|error| panic!("{error}"));
    serde_json::to_value(table).expect("JSON")
}

#[test]
fn their_schemas_accept_them_and_refuse_what_is_wrong() {
    for (file, schema, _, example) in super::files() {
        let validator = jsonschema::validator_for(&schema).expect("a schema");
        let whole = as_json(example);
        let errors: Vec<String> = validator
            .iter_errors(&whole)
            .map(|error| format!("{}: {error}", error.instance_path()))
            .collect();
        assert!(errors.is_empty(), "{file}.example: {errors:#?}");
        let mut wrong = whole.clone();
        wrong["log"]["levle"] = json!("info");
        assert!(!validator.is_valid(&wrong), "{file}: an unknown key");
        let mut wrong = whole.clone();
        wrong["log"]["format"] = json!("prose");
        assert!(!validator.is_valid(&wrong), "{file}: an unknown word");
        let mut wrong = whole;
        wrong["log"]["level"] = json!(5);
        assert!(!validator.is_valid(&wrong), "{file}: a number for a text");
    }
}
