//! The playground's directory: programs, settings, data and logs, owned by the servers' user.

use std::fs::{self, Permissions};
use std::io::Read;
use std::os::unix::fs::{MetadataExt, PermissionsExt};
use std::path::{Path, PathBuf};

use rustix::fs::{Gid, Uid, chown};

use super::PlaygroundError;
use super::account::Account;
use super::janitor::{self, Janitor};
use super::process::tail;

/// Longer directories leave no room for the Unix sockets of guards (107 bytes).
const MAX_BASE: usize = 60;

/// The directory and who owns it. Dropping it ends every process in it and removes it.
#[derive(Debug)]
pub struct Home {
    dir: PathBuf,
    account: Option<Account>,
    keep: bool,
    /// After `drop` has cleaned up, this field's own drop lets the janitor go.
    _janitor: Janitor,
}

impl Home {
    /// Makes the directory, with copies of `programs`; `xtask` is the janitor's program.
    pub(crate) fn create(
        account: Option<Account>,
        xtask: &Path,
        programs: &[&Path],
        keep: bool,
    ) -> Result<Home, PlaygroundError> {
        let base = base(account.is_some());
        let describe = |what: &str| format!("{what} in {}", base.display());
        let mut builder = tempfile::Builder::new();
        builder.prefix("pgvane-").permissions(Permissions::from_mode(0o711));
        let dir = builder.tempdir_in(&base).map_err(PlaygroundError::io(describe("no directory")))?.keep();
        let marked = fs::write(dir.join(janitor::MARK), "").and_then(|()| dir.canonicalize());
        let dir = marked.map_err(PlaygroundError::io(describe("cannot write")))?;
        let janitor = Janitor::start(xtask, &dir, keep);
        let janitor = janitor.map_err(|error| {
            let _ = janitor::clean(&dir, false);
            PlaygroundError::Io("cannot start the janitor".to_owned(), error)
        })?;
        let home = Home { dir, account, keep, _janitor: janitor };
        home.own(&home.dir)?;
        home.create_dir("logs")?;
        home.create_dir("bin")?;
        // Copies, because the checkout may lie where the servers' user cannot reach (below /root), and so that
        // a build meanwhile does not replace what runs here.
        for program in programs {
            let copy = home.program(program);
            fs::copy(program, &copy)
                .map_err(PlaygroundError::io(format!("cannot copy {}", program.display())))?;
        }
        Ok(home)
    }

    /// The directory.
    pub fn dir(&self) -> &Path {
        &self.dir
    }

    pub(super) fn account(&self) -> Option<&Account> {
        self.account.as_ref()
    }

    /// Where a program's copy lies.
    pub(crate) fn program(&self, original: &Path) -> PathBuf {
        self.dir.join("bin").join(original.file_name().unwrap_or_default())
    }

    pub(crate) fn log(&self, name: &str) -> PathBuf {
        self.dir.join("logs").join(format!("{name}.log"))
    }

    /// A directory for the servers' user alone.
    pub(crate) fn create_dir(&self, name: &str) -> Result<PathBuf, PlaygroundError> {
        let dir = self.dir.join(name);
        fs::create_dir(&dir).map_err(PlaygroundError::io(dir.display().to_string()))?;
        let mode = if name == "bin" || name == "logs" { 0o755 } else { 0o700 };
        fs::set_permissions(&dir, Permissions::from_mode(mode))
            .map_err(PlaygroundError::io(dir.display().to_string()))?;
        self.own(&dir)?;
        Ok(dir)
    }

    /// A settings file that only the servers' user may read.
    pub(crate) fn write(&self, path: &Path, text: &str) -> Result<(), PlaygroundError> {
        let written =
            fs::write(path, text).and_then(|()| fs::set_permissions(path, Permissions::from_mode(0o600)));
        written.map_err(PlaygroundError::io(path.display().to_string()))?;
        self.own(path)
    }

    pub(super) fn own(&self, path: &Path) -> Result<(), PlaygroundError> {
        let Some(account) = &self.account else { return Ok(()) };
        chown(path, Some(Uid::from_raw(account.uid)), Some(Gid::from_raw(account.gid)))
            .map_err(|e| PlaygroundError::Io(format!("cannot give away {}", path.display()), e.into()))
    }

    pub(super) fn log_tails(&self, lines: usize) -> String {
        let entries = fs::read_dir(self.dir.join("logs")).into_iter().flatten().flatten();
        let mut logs: Vec<_> = entries.map(|entry| entry.path()).collect();
        logs.sort();
        logs.iter().map(|log| format!("==> {} <==\n{}", log.display(), tail(log, lines))).collect()
    }
}

impl Drop for Home {
    fn drop(&mut self) {
        // What fails here is tried again by the janitor, whose pipe closes next.
        if let Err(error) = janitor::clean(&self.dir, self.keep) {
            eprintln!("{}: {error}", self.dir.display());
        }
    }
}

/// Where the directory is made: the usual place, or /tmp where that is too long or not open to other users.
fn base(for_others: bool) -> PathBuf {
    let usual = std::env::temp_dir();
    let is_open =
        || usual.ancestors().all(|dir| fs::metadata(dir).is_ok_and(|meta| meta.mode() & 0o001 != 0));
    if usual.as_os_str().len() <= MAX_BASE && usual.is_absolute() && (!for_others || is_open()) {
        usual
    } else {
        PathBuf::from("/tmp")
    }
}

/// A password nobody can guess.
pub(super) fn secret() -> Result<String, PlaygroundError> {
    let mut bytes = [0; 16];
    let read = fs::File::open("/dev/urandom").and_then(|mut file| file.read_exact(&mut bytes));
    read.map_err(PlaygroundError::io("/dev/urandom"))?;
    Ok(bytes.iter().fold(String::new(), |text, byte| format!("{text}{byte:02x}")))
}
