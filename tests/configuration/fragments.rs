//! Pieces of settings in the documentation: a block of code in the language `toml proxy` or `toml agent` is a part of
//! such a file that its schema accepts.

use std::fs;

use serde_json::Value;

use super::{files, root};

/// A schema that asks for nothing: what is there must be right.
fn of_a_part(mut schema: Value) -> Value {
    fn relax(value: &mut Value) {
        match value {
            Value::Object(map) => {
                // A key of that name is none of those lists.
                if map.get("required").is_some_and(Value::is_array) {
                    map.remove("required");
                }
                map.values_mut().for_each(relax);
            }
            Value::Array(list) => list.iter_mut().for_each(relax),
            _ => {}
        }
    }
    relax(&mut schema);
    schema
}

/// The blocks of code of a page in this language, and the lines they begin at.
fn blocks<'p>(page: &'p str, language: &str) -> Vec<(usize, String)> {
    let mut blocks = Vec::new();
    let mut lines = page.lines().enumerate();
    while let Some((at, line)) = lines.next() {
        // It may stand in a list.
        if line.trim_start().strip_prefix("```").is_some_and(|of| of == language) {
            let inside: Vec<&'p str> =
                lines.by_ref().map(|(_, line)| line.trim_start()).take_while(|line| *line != "```").collect();
            blocks.push((at + 1, inside.join("\n")));
        }
    }
    blocks
}

#[test]
fn they_are_accepted() {
    let [(_, proxy, ..), (_, agent, ..)] = files();
    let mut seen = 0;
    for (language, schema) in [("toml proxy", proxy), ("toml agent", agent)] {
        let validator = jsonschema::validator_for(&of_a_part(schema)).expect("a schema");
        let docs = fs::read_dir(root("docs")).expect("docs").map(|entry| entry.expect("an entry").path());
        for file in docs.filter(|file| file.extension().is_some_and(|ending| ending == "md")) {
            let page = fs::read_to_string(&file).expect("reads");
            for (line, block) in blocks(&page, language) {
                let place = format!("{}:{line}", file.display());
                let table: toml::Table = block.parse().unwrap_or_else(|error| panic!("{place}: {error}"));
                let value = serde_json::to_value(table).expect("JSON");
                let errors: Vec<String> = validator
                    .iter_errors(&value)
                    .map(|error| format!("{}: {error}", error.instance_path()))
                    .collect();
                assert!(errors.is_empty(), "{place}: {errors:#?}");
                seen += 1;
            }
        }
    }
    assert!(seen > 3, "{seen} pieces");
}
