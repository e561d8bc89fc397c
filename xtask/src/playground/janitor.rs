//! A process that outlives a killed program and cleans up after it.
//!
//! It holds the reading end of a pipe. When the pipe closes, whatever the reason, it ends every process of the
//! playground's directory and removes the directory.

use std::fs;
use std::io::{self, Read};
use std::path::{Path, PathBuf};
use std::process::{Child, ChildStdin, Command, Stdio};

use super::process::awaited;
use super::{clock, disk, network, sweep};

/// Marks directories that a janitor may remove.
pub(super) const MARK: &str = ".pgvane-playground";

/// The hidden subcommand's name.
pub const SUBCOMMAND: &str = "janitor";

/// A running janitor.
#[derive(Debug)]
pub struct Janitor {
    child: Child,
    pipe: Option<ChildStdin>,
}

impl Janitor {
    /// Starts the janitor of `dir`; `program` is xtask itself.
    pub fn start(program: &Path, dir: &Path, keep: bool) -> io::Result<Janitor> {
        let mut command = Command::new(program);
        command.arg(SUBCOMMAND).arg(dir).args(keep.then_some("--keep"));
        command.stdin(Stdio::piped()).stdout(Stdio::null()).stderr(Stdio::null());
        let mut awaited = awaited();
        let mut child = command.spawn()?;
        awaited.insert(child.id());
        let pipe = child.stdin.take();
        Ok(Janitor { child, pipe })
    }
}

impl Drop for Janitor {
    fn drop(&mut self) {
        self.pipe.take();
        let _ = self.child.wait();
        awaited().remove(&self.child.id());
    }
}

/// The janitor's whole life. Errors have nobody to go to but the exit code.
pub fn main(dir: &Path, keep: bool) -> io::Result<()> {
    // Of its own session: a terminal's Ctrl-C or hang-up is not for the janitor.
    let _ = rustix::process::setsid();
    // Held from before the first process is started, so reading ends when the program has ended.
    io::stdin().read_to_end(&mut Vec::new())?;
    clean(dir, keep)
}

/// Ends the processes of `dir` and, unless `keep`, removes it. A directory without our mark is not touched.
pub(super) fn clean(dir: &Path, keep: bool) -> io::Result<()> {
    if !dir.join(MARK).exists() {
        return Ok(());
    }
    let dir: PathBuf = dir.canonicalize()?;
    disk::go_on_below(&dir);
    sweep::end_everything(&dir).map_err(io::Error::other)?;
    disk::unmount_below(&dir);
    network::remove(&dir.file_name().unwrap_or_default().to_string_lossy());
    clock::forget(&dir);
    if keep { Ok(()) } else { fs::remove_dir_all(&dir) }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_marked_directories_are_removed() {
        let dir = tempfile::tempdir().expect("a temporary directory");
        let precious = dir.path().join("precious");
        let ours = dir.path().join("ours");
        for d in [&precious, &ours] {
            fs::create_dir(d).expect("creates");
        }
        fs::write(ours.join(MARK), "").expect("writes");
        clean(&precious, false).expect("passes over it");
        clean(&ours, true).expect("keeps it");
        assert!(precious.exists() && ours.exists());
        clean(&ours, false).expect("removes it");
        assert!(!ours.exists());
    }
}
