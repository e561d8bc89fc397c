//! The documentation says only what is so: links lead somewhere, and the files, tests and commands it names exist.

mod commands;
mod links;
mod names;

use std::fs;
use std::path::{Path, PathBuf};

/// A page of the documentation.
struct Page {
    /// Its path from the root.
    file: PathBuf,
    text: String,
}

impl Page {
    /// The lines outside of blocks of code.
    fn prose(&self) -> impl Iterator<Item = &str> {
        let mut in_code = false;
        self.text.lines().filter(move |line| {
            let fence = line.trim_start().starts_with("```");
            in_code ^= fence;
            !fence && !in_code
        })
    }

    /// What stands in backticks in the prose.
    fn quoted(&self) -> impl Iterator<Item = &str> {
        self.prose().flat_map(|line| line.split('`').skip(1).step_by(2))
    }

    /// The lines of blocks of code that are in a shell's language.
    fn shell(&self) -> impl Iterator<Item = &str> {
        let mut language = None;
        self.text.lines().filter(move |line| match line.trim_start().strip_prefix("```") {
            Some(rest) => {
                language = if language.is_some() { None } else { Some(rest.trim().to_owned()) };
                false
            }
            None => language.as_deref() == Some("sh"),
        })
    }
}

fn root() -> &'static Path {
    Path::new(env!("CARGO_MANIFEST_DIR"))
}

/// All pages, in the order of their paths.
fn pages() -> Vec<Page> {
    let mut files: Vec<PathBuf> = [
        "README.md",
        "ARCHITECTURE.md",
        "CONTRIBUTING.md",
        "CHANGELOG.md",
        "packaging/README.md",
        "benches/README.md",
    ]
    .map(PathBuf::from)
    .to_vec();
    for entry in fs::read_dir(root().join("docs")).expect("docs") {
        let name = entry.expect("an entry").file_name();
        if Path::new(&name).extension().is_some_and(|ending| ending == "md") {
            files.push(Path::new("docs").join(name));
        }
    }
    files.sort();
    let read = |file: PathBuf| {
        let text =
            fs::read_to_string(root().join(&file)).unwrap_or_else(|e| panic!("{}: {e}", file.display()));
        Page { file, text }
    };
    files.into_iter().map(read).collect()
}
