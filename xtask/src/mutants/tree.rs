//! A copy of the workspace, kept from run to run: what has not changed is not built again.

use std::fs;
use std::io;
use std::path::{Path, PathBuf};

use super::list::Mutant;
use super::place;
use crate::programs::root;

/// What cargo and the tests in question need of the workspace.
const PARTS: &[&str] = &[
    ".cargo",
    "Cargo.toml",
    "Cargo.lock",
    "rust-toolchain.toml",
    "clippy.toml",
    "agent",
    "benches",
    "cluster",
    "src",
    "tests",
    "tools",
    "xtask",
];

/// The copy.
pub(super) struct Tree {
    root: PathBuf,
}

impl Tree {
    /// The workspace as it is now, at `to`.
    pub(super) fn new(to: PathBuf) -> io::Result<Tree> {
        for part in PARTS {
            copy(&root().join(part), &to.join(part))?;
        }
        Ok(Tree { root: to })
    }

    pub(super) fn root(&self) -> &Path {
        &self.root
    }

    /// Plants a bug.
    pub(super) fn plant(&self, mutant: &Mutant) -> Result<(), String> {
        self.change(mutant, |text| {
            let lines: Vec<&str> = text.lines().collect();
            let mut at = lines.iter().enumerate().filter(|(_, line)| line.trim() == mutant.before);
            let (Some((place, line)), None) = (at.next(), at.next()) else {
                return Err(format!("its line is not there once: {}", mutant.before));
            };
            let indentation = &line[..line.len() - line.trim_start().len()];
            let after = format!("{indentation}{}", mutant.after);
            let mut lines: Vec<&str> = lines.clone();
            lines[place] = &after;
            Ok(lines.join("\n") + "\n")
        })
    }

    /// Takes it out again.
    pub(super) fn restore(&self, mutant: &Mutant) -> Result<(), String> {
        let original = root().join(mutant.file);
        let text = fs::read_to_string(&original).map_err(|e| format!("{}: {e}", original.display()))?;
        self.change(mutant, |_| Ok(text))
    }

    fn change(
        &self,
        mutant: &Mutant,
        edit: impl FnOnce(&str) -> Result<String, String>,
    ) -> Result<(), String> {
        let path = place(self, mutant);
        let failed = |e: io::Error| format!("{}: {e}", path.display());
        let text = fs::read_to_string(&path).map_err(failed)?;
        fs::write(&path, edit(&text)?).map_err(failed)
    }
}

/// Makes `to` what `from` is; what is the same already keeps its times.
fn copy(from: &Path, to: &Path) -> io::Result<()> {
    if !from.is_dir() {
        let text = fs::read(from)?;
        if fs::read(to).ok().as_ref() != Some(&text) {
            fs::write(to, text)?;
            fs::set_permissions(to, fs::metadata(from)?.permissions())?;
        }
        return Ok(());
    }
    fs::create_dir_all(to)?;
    let mut names = Vec::new();
    for entry in fs::read_dir(from)? {
        let name = entry?.file_name();
        copy(&from.join(&name), &to.join(&name))?;
        names.push(name);
    }
    for entry in fs::read_dir(to)? {
        let entry = entry?;
        if !names.contains(&entry.file_name()) {
            if entry.file_type()?.is_dir() {
                fs::remove_dir_all(entry.path())?;
            } else {
                fs::remove_file(entry.path())?;
            }
        }
    }
    Ok(())
}
