//! One server process: started as the right user with its log in a file, signalled, watched.

use std::collections::BTreeSet;
use std::ffi::OsString;
use std::fs::File;
use std::io;
use std::path::{Path, PathBuf};
use std::process::Stdio;
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use rustix::process::{Pid, Signal, kill_process, kill_process_group};
use tokio::process::Child;

use super::PlaygroundError;
use super::home::Home;
use super::place::Place;

/// Lines of a log shown when its process ended unexpectedly.
const TAIL: usize = 15;

/// Processes that somebody in this program waits for; orphans are all others.
static AWAITED: Mutex<BTreeSet<u32>> = Mutex::new(BTreeSet::new());

/// Locks the list of awaited processes: while it is held, no new one appears.
pub(super) fn awaited() -> MutexGuard<'static, BTreeSet<u32>> {
    AWAITED.lock().unwrap_or_else(PoisonError::into_inner)
}

/// A process of the playground.
#[derive(Debug)]
pub struct Running {
    name: String,
    log: PathBuf,
    child: Child,
    pid: Pid,
}

impl Running {
    /// Starts `program` in the playground's directory, in a process group of its own (a terminal's Ctrl-C is
    /// for us to act on). Its output is appended to the log named after it.
    pub fn start(
        home: &Home,
        name: &str,
        program: &Path,
        args: impl IntoIterator<Item = OsString>,
    ) -> Result<Running, PlaygroundError> {
        Running::start_at(home, &Place::default(), name, program, args, [])
    }

    /// The same, at `place`, with more in its environment.
    pub(crate) fn start_at(
        home: &Home,
        place: &Place,
        name: &str,
        program: &Path,
        args: impl IntoIterator<Item = OsString>,
        environment: impl IntoIterator<Item = (&'static str, OsString)>,
    ) -> Result<Running, PlaygroundError> {
        let log = home.log(name);
        let output = File::options()
            .create(true)
            .append(true)
            .open(&log)
            .map_err(PlaygroundError::io(log.display().to_string()))?;
        let errors = output.try_clone().map_err(PlaygroundError::io("cannot share a log"))?;
        let mut command = place.command(program, home.account());
        command.args(args).current_dir(home.dir()).process_group(0);
        command.stdin(Stdio::null()).stdout(output).stderr(errors);
        // Nothing of the caller's environment (PGHOST, ETCD_NAME, NOTIFY_SOCKET, ...) may reach the servers.
        let kept = ["PATH", "LD_LIBRARY_PATH", "PGVANE_LOG"].map(|key| (key, std::env::var_os(key)));
        command.env_clear().envs(kept.into_iter().filter_map(|(key, value)| Some((key, value?))));
        command.env("HOME", home.dir()).env("LC_ALL", "C.UTF-8").envs(environment);
        if cfg!(target_arch = "aarch64") {
            // etcd 3.4 refuses to run there unless told so.
            command.env("ETCD_UNSUPPORTED_ARCH", "arm64");
        }
        let mut awaited = awaited();
        let started = command.spawn().and_then(|child| {
            let raw = child.id().and_then(|id| i32::try_from(id).ok());
            Ok((raw.and_then(Pid::from_raw).ok_or(io::ErrorKind::NotFound)?, child))
        });
        let (pid, child) =
            started.map_err(PlaygroundError::io(format!("cannot start {}", program.display())))?;
        awaited.insert(pid.as_raw_nonzero().get().unsigned_abs());
        Ok(Running { name: name.to_owned(), log, child, pid })
    }

    /// Whether it has not ended.
    pub fn is_running(&mut self) -> bool {
        matches!(self.child.try_wait(), Ok(None))
    }

    /// Fails if it ended, with the end of its log.
    pub fn check(&mut self) -> Result<(), PlaygroundError> {
        match self.child.try_wait() {
            Ok(None) => Ok(()),
            Ok(Some(status)) => Err(PlaygroundError::Ended {
                name: self.name.clone(),
                status: status.to_string(),
                log: tail(&self.log, TAIL),
            }),
            Err(error) => Err(PlaygroundError::Io(format!("cannot wait for {}", self.name), error)),
        }
    }

    /// Sends `signal`; a process that has ended gets none.
    pub fn signal(&mut self, signal: Signal) {
        // Not reaped yet, so the id cannot be another's.
        if self.is_running() {
            let _ = kill_process(self.pid, signal);
        }
    }

    /// Sends `signal` to it and to all it started that are still of its process group.
    pub(super) fn signal_group(&mut self, signal: Signal) {
        if self.is_running() {
            let _ = kill_process_group(self.pid, signal);
        }
    }

    /// Waits for its end; `false`: it still runs after `limit`.
    pub async fn ended_within(&mut self, limit: Duration) -> bool {
        tokio::time::timeout(limit, self.child.wait()).await.is_ok()
    }

    /// Waits for an end without complaint. What is late is killed.
    pub(crate) async fn succeeds_within(&mut self, limit: Duration) -> Result<(), PlaygroundError> {
        match tokio::time::timeout(limit, self.child.wait()).await {
            Ok(Ok(status)) if status.success() => Ok(()),
            Ok(_) => self.check(),
            Err(_) => {
                self.signal(Signal::KILL);
                Err(PlaygroundError::Late { waited: limit, why: format!("{} still runs", self.name) })
            }
        }
    }

    /// Its process id.
    pub fn pid(&self) -> Pid {
        self.pid
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        // From now on whoever finds it dead may reap it.
        awaited().remove(&self.pid.as_raw_nonzero().get().unsigned_abs());
    }
}

/// The last `lines` lines of a file.
pub(super) fn tail(path: &Path, lines: usize) -> String {
    let text = std::fs::read(path).unwrap_or_default();
    let text = String::from_utf8_lossy(&text);
    let all: Vec<_> = text.lines().collect();
    all[all.len().saturating_sub(lines)..].iter().map(|line| format!("  {line}\n")).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_tail_is_the_end_and_a_missing_file_is_empty() {
        let dir = tempfile::tempdir().expect("a temporary directory");
        let path = dir.path().join("log");
        assert_eq!(tail(&path, 2), "");
        std::fs::write(&path, "a\nb\nc\n").expect("writes");
        assert_eq!(tail(&path, 2), "  b\n  c\n");
        assert_eq!(tail(&path, 9), "  a\n  b\n  c\n");
    }
}
