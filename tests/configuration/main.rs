//! docs/configuration.md and the schemas in packaging/schema are what the code says, and so are the examples.

mod defaults;
mod dynamic;
mod examples;
mod fragments;
mod reference;

use std::fs;
use std::path::{Path, PathBuf};

use serde_json::Value;
use xtask::docs::WRITE;

/// Files of settings: their name, their schema, where that is kept, the example.
fn files() -> [(&'static str, Value, &'static str, &'static str); 2] {
    [
        (
            "proxy.toml",
            pgvane::config::schema(),
            "packaging/schema/proxy.schema.json",
            include_str!("../../proxy.toml.example"),
        ),
        (
            "agent.toml",
            pgvane_agent::config::schema(),
            "packaging/schema/agent.schema.json",
            include_str!("../../agent/agent.toml.example"),
        ),
    ]
}

fn root(file: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join(file)
}

/// Compares a file with what it should say, or writes it where that was asked for.
fn is_up_to_date(file: &str, text: &str) {
    let path = root(file);
    if std::env::var_os(WRITE).is_some() {
        fs::write(&path, text).unwrap_or_else(|error| panic!("{file}: {error}"));
    }
    let is = fs::read_to_string(&path).unwrap_or_default();
    let differs = is.lines().zip(text.lines()).find(|(is, should)| is != should);
    assert!(
        is == text,
        "{file} is not what the code says: `cargo xtask docs` writes it anew; the first line that differs: {differs:?}"
    );
}

#[test]
fn the_reference_is_what_the_code_says() {
    let file = "docs/configuration.md";
    let before = fs::read_to_string(root(file)).expect("is there");
    is_up_to_date(file, &reference::renewed(&before));
}

#[test]
fn the_schemas_are_what_the_code_says() {
    for (_, schema, file, _) in files() {
        let text = serde_json::to_string_pretty(&schema).expect("JSON");
        is_up_to_date(file, &format!("{text}\n"));
        assert!(jsonschema::meta::is_valid(&schema), "{file} is no JSON schema");
    }
}
