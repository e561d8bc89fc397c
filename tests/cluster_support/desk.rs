//! A directory outside of every playground, for what outlives one: backups, archives, programs.

use std::fs::{self, Permissions};
use std::os::unix::fs::PermissionsExt;
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::Stdio;

use rustix::fs::{Gid, Uid, chown};
use tokio::process::Command;
use xtask::playground::account::Account;

/// The directory; it goes when this is dropped.
pub(crate) struct Desk(tempfile::TempDir);

impl Desk {
    pub(crate) fn new() -> Desk {
        let dir = tempfile::Builder::new().prefix("pgvane-desk-").tempdir_in("/tmp").expect("a directory");
        fs::set_permissions(dir.path(), Permissions::from_mode(0o755)).expect("opens it");
        own(dir.path());
        Desk(dir)
    }

    pub(crate) fn path(&self, name: &str) -> PathBuf {
        self.0.path().join(name)
    }

    /// A directory of the servers' user.
    pub(crate) fn dir(&self, name: &str) -> PathBuf {
        let path = self.path(name);
        fs::create_dir(&path).expect("creates");
        own(&path);
        path
    }

    /// A file that only the servers' user may read.
    pub(crate) fn file(&self, name: &str, text: &str) -> PathBuf {
        let path = self.path(name);
        fs::write(&path, text).expect("writes");
        fs::set_permissions(&path, Permissions::from_mode(0o600)).expect("closes it");
        own(&path);
        path
    }

    /// A copy of a program that the servers' user reaches.
    pub(crate) fn program(&self, original: &Path) -> PathBuf {
        let path = self.path(&original.file_name().expect("a name").to_string_lossy());
        fs::copy(original, &path).expect("copies");
        path
    }
}

fn own(path: &Path) {
    if let Some(account) = Account::for_servers() {
        let (uid, gid) = (Uid::from_raw(account.uid), Gid::from_raw(account.gid));
        chown(path, Some(uid), Some(gid)).expect("gives it away");
    }
}

/// A command of the servers' user, with both of its outputs to be read.
pub(crate) fn as_servers(program: &Path) -> Command {
    let mut command = std::process::Command::new(program);
    if let Some(account) = Account::for_servers() {
        command.uid(account.uid).gid(account.gid);
    }
    command.current_dir("/").env_remove("PGVANECTL_CONFIG").stdin(Stdio::null());
    let mut command = Command::from(command);
    command.stdout(Stdio::piped()).stderr(Stdio::piped()).kill_on_drop(true);
    command
}
