//! The dynamic configuration: every key of the reference is read, and has the default that is told.

use pgvane_cluster::settings::ClusterSettings;
use serde_json::{Value, json};

use super::reference::sections;

/// The schema of the dynamic configuration, which is a part of that of agent.toml.
pub(crate) fn schema(agent: &Value) -> Value {
    let mut schema = agent["definitions"]["ClusterSettings"].clone();
    schema["definitions"] = agent["definitions"].clone();
    schema
}

/// A document with one value.
fn document(path: &[String], key: &str, value: &Value) -> Value {
    let innermost = json!({ key: value });
    path.iter().rev().fold(innermost, |inner, section| json!({ section: inner }))
}

#[test]
fn every_key_is_read_and_has_the_default_that_is_told() {
    let [_, (_, agent, ..)] = super::files();
    let mut keys = 0;
    for section in sections(&schema(&agent)) {
        for key in &section.keys {
            let name = [section.path.join("."), key.name.clone()].join(".");
            // One of these is wrong for whatever it is.
            let wrong =
                [json!([[]]), json!({ "x": [] })].map(|value| document(&section.path, &key.name, &value));
            let told = |document| {
                let (_, warnings) = ClusterSettings::from_json(document);
                warnings.iter().any(|warning| warning.key.contains(&key.name))
            };
            assert!(wrong.iter().any(told), "{name} is not read");
            if let Some(default) = &key.default {
                let (settings, warnings) =
                    ClusterSettings::from_json(&document(&section.path, &key.name, default));
                assert_eq!((settings, warnings), (ClusterSettings::default(), vec![]), "{name} = {default}");
            }
            keys += 1;
        }
    }
    assert!(keys > 30, "{keys} keys");
}
