//! The README says only what is so: every test that it names exists.

use std::collections::BTreeSet;
use std::fs;
use std::path::Path;

#[test]
fn every_feature_names_a_test_that_exists() {
    let root = Path::new(env!("CARGO_MANIFEST_DIR"));
    let readme = fs::read_to_string(root.join("README.md")).expect("reads");
    let section = readme.split("\n## What the proxy does\n").nth(1).expect("the section");
    let section = section.split("\n## ").next().expect("its end");
    let rows: Vec<_> = section.lines().filter(|line| line.starts_with("| ")).skip(1).collect();
    assert!(rows.len() > 20, "{} rows", rows.len());
    let mut named = BTreeSet::new();
    for row in rows {
        let shown_by = row.trim_end_matches(" |").rsplit(" | ").next().expect("a last column");
        let tests: Vec<_> = shown_by.split('`').skip(1).step_by(2).collect();
        assert!(!tests.is_empty(), "nothing shows: {row}");
        named.extend(tests);
    }
    for test in named {
        let (file, function) = test.split_once("::").unwrap_or_else(|| panic!("not FILE::FUNCTION: {test}"));
        let source = fs::read_to_string(root.join("tests").join(format!("{file}.rs")));
        let source = source.unwrap_or_else(|error| panic!("tests/{file}.rs: {error}"));
        assert!(source.contains(&format!("fn {function}()")), "tests/{file}.rs has no {function}");
    }
}
