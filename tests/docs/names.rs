//! Files and tests that are named.

use std::fs;
use std::path::{Path, PathBuf};

use super::{pages, root};

/// Directories of the repository whose files are named by their path from the root.
const DIRECTORIES: [&str; 10] =
    ["agent/", "benches/", "cluster/", "docs/", "fuzz/", "manual/", "packaging/", "src/", "tests/", "xtask/"];

#[test]
fn files_that_are_named_exist() {
    let mut named = 0;
    for page in pages() {
        for quoted in page.quoted() {
            let is_path = DIRECTORIES.iter().any(|dir| quoted.starts_with(dir));
            // Patterns, commands and placeholders.
            if !is_path || quoted.contains([' ', '*', '{', '<', '$']) || quoted.contains("TARGET") {
                continue;
            }
            let file = quoted.trim_end_matches('/');
            let there =
                [root().join(file), root().join(page.file.parent().unwrap_or(Path::new(""))).join(file)];
            assert!(there.iter().any(|file| file.exists()), "{} names {quoted}", page.file.display());
            named += 1;
        }
    }
    assert!(named > 30, "{named} files");
}

/// The sources of an integration test: one file, or all in a directory.
fn sources(test: &str) -> Vec<PathBuf> {
    let file = root().join(format!("tests/{test}.rs"));
    if file.is_file() {
        return vec![file];
    }
    let entries = fs::read_dir(root().join("tests").join(test)).into_iter().flatten().flatten();
    entries.map(|entry| entry.path()).filter(|path| path.extension().is_some_and(|e| e == "rs")).collect()
}

/// Whether it is written as the name of a test, of a file of tests that there is.
fn is_test(quoted: &str) -> bool {
    let word = |text: &str| {
        !text.is_empty() && text.chars().all(|c| c.is_ascii_lowercase() || c.is_ascii_digit() || c == '_')
    };
    let parts = quoted.split_once("::").filter(|(file, function)| word(file) && word(function));
    // Modules of the programs are named so too, in ARCHITECTURE.md: they have no file of tests.
    parts.is_some_and(|(file, _)| file != "postgres")
}

#[test]
fn tests_that_are_named_exist() {
    let mut named = 0;
    for page in pages() {
        for test in page.quoted().filter(|quoted| is_test(quoted)) {
            let (file, function) = test.split_once("::").expect("was looked at");
            let sources = sources(file);
            let has = |path: &PathBuf| {
                let source = fs::read_to_string(path).expect("reads");
                source.contains(&format!("fn {function}()"))
            };
            assert!(sources.iter().any(has), "{} names the test {test}", page.file.display());
            named += 1;
        }
    }
    assert!(named > 60, "{named} tests");
}

#[test]
fn every_feature_names_a_test() {
    let page = pages().into_iter().find(|page| page.file == Path::new("docs/features.md")).expect("is there");
    let tables = page.text.split("\n## Worth knowing\n").next().expect("the tables");
    let rows = tables.lines().filter(|line| line.starts_with("| ") && !line.starts_with("| what "));
    let mut features = 0;
    for row in rows {
        let shown_by = row.trim_end_matches(" |").rsplit(" | ").next().expect("a last column");
        assert!(shown_by.split('`').skip(1).step_by(2).any(is_test), "nothing shows: {row}");
        features += 1;
    }
    assert!(features > 40, "{features} features");
}
