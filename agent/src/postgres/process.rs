//! PostgreSQL's processes: found by their working directory, ended with proof. Blocking, no runtime needed:
//! the guard uses it too.
//!
//! Backends make process groups of their own and can outlive a killed postmaster for a moment, still
//! confirming commits; so "PostgreSQL is dead" means that no process of the data directory is left.

use std::fs;
use std::io;
use std::os::fd::OwnedFd;
use std::os::unix::ffi::OsStrExt;
use std::path::Path;
use std::time::Duration;

use pgvane_cluster::clock::Tick;
use rustix::process::{Pid, PidfdFlags, Signal, kill_process, pidfd_open};

/// Processes were left when the time for killing them was over.
#[derive(Debug, thiserror::Error)]
#[error("processes {0:?} of the data directory are still alive")]
pub struct StillAlive(pub Vec<i32>);

/// A postmaster that is being watched through a pidfd: never mistaken for another process with its number.
#[derive(Debug)]
pub struct Postmaster {
    pid: Pid,
    fd: OwnedFd,
}

impl Postmaster {
    /// The postmaster that runs on `data_dir`, if one does.
    pub fn find(data_dir: &Path) -> io::Result<Option<Postmaster>> {
        let Some(pid) = postmaster(data_dir)? else { return Ok(None) };
        match pidfd_open(pid, PidfdFlags::empty()) {
            // Verified again: the number may have changed hands before the pidfd was opened.
            Ok(fd) if belongs(pid, data_dir) => Ok(Some(Postmaster { pid, fd })),
            Ok(_) | Err(rustix::io::Errno::SRCH) => Ok(None),
            Err(e) => Err(e.into()),
        }
    }

    /// Watches a process that was just started.
    pub fn watch(pid: u32) -> io::Result<Postmaster> {
        let pid = i32::try_from(pid).ok().and_then(Pid::from_raw).ok_or(io::ErrorKind::InvalidInput)?;
        Ok(Postmaster { pid, fd: pidfd_open(pid, PidfdFlags::empty())? })
    }

    /// Its process id.
    pub fn pid(&self) -> i32 {
        self.pid.as_raw_nonzero().get()
    }

    /// Its process id, as the guard wants it.
    pub fn raw(&self) -> Pid {
        self.pid
    }

    /// Sends a signal; a process that is gone already is no error.
    pub fn signal(&self, signal: Signal) -> io::Result<()> {
        match rustix::process::pidfd_send_signal(&self.fd, signal) {
            Ok(()) | Err(rustix::io::Errno::SRCH) => Ok(()),
            Err(e) => Err(e.into()),
        }
    }

    /// Another handle on the same process.
    pub fn try_clone(&self) -> io::Result<Postmaster> {
        Ok(Postmaster { pid: self.pid, fd: self.fd.try_clone()? })
    }

    /// Waits until it has ended.
    pub async fn ended(&self) -> io::Result<()> {
        super::pidfd::ended(&self.fd).await
    }
}

/// The pid in postmaster.pid, when it is a live postgres process of this directory.
pub fn postmaster(data_dir: &Path) -> io::Result<Option<Pid>> {
    let text = match fs::read_to_string(data_dir.join("postmaster.pid")) {
        Ok(text) => text,
        Err(e) if e.kind() == io::ErrorKind::NotFound => return Ok(None),
        Err(e) => return Err(e),
    };
    // That of a single-user run is negative: it is no postmaster, and ends by itself.
    let pid = text.lines().next().and_then(|l| l.trim().parse().ok()).filter(|pid: &i32| *pid > 0);
    let pid = pid.and_then(Pid::from_raw);
    Ok(pid.filter(|pid| belongs(*pid, data_dir)))
}

/// Every process of the data directory: its working directory is there and its program is postgres.
pub fn processes_of(data_dir: &Path) -> io::Result<Vec<Pid>> {
    let mut found = Vec::new();
    for entry in fs::read_dir("/proc")? {
        let Ok(entry) = entry else { continue };
        let pid = entry.file_name().to_str().and_then(|n| n.parse().ok()).and_then(Pid::from_raw);
        if let Some(pid) = pid.filter(|pid| belongs(*pid, data_dir)) {
            found.push(pid);
        }
    }
    Ok(found)
}

/// Whether process `pid` is postgres and works in `data_dir`.
pub fn belongs(pid: Pid, data_dir: &Path) -> bool {
    let proc = format!("/proc/{}", pid.as_raw_nonzero());
    let ours = match fs::read_link(format!("{proc}/cwd")) {
        Ok(cwd) => is_at(&cwd, data_dir) || fs::canonicalize(data_dir).is_ok_and(|real| is_at(&cwd, &real)),
        // On its way out it has no directory any more, and nobody can tell whose it was: it is waited for.
        Err(e) => e.kind() == io::ErrorKind::NotFound,
    };
    ours && fs::read_to_string(format!("{proc}/comm"))
        .is_ok_and(|comm| comm.trim_end().starts_with("postgres"))
        && !is_zombie(&proc)
}

/// Whether `cwd`, as /proc tells it, is `dir`: also one that was removed below the process, which serves on.
fn is_at(cwd: &Path, dir: &Path) -> bool {
    let (cwd, dir) = (cwd.as_os_str().as_bytes(), dir.as_os_str().as_bytes());
    cwd.strip_prefix(dir).is_some_and(|rest| rest.is_empty() || rest == b" (deleted)")
}

/// A zombie runs nothing any more; it only waits to be reaped.
fn is_zombie(proc: &str) -> bool {
    fs::read_to_string(format!("{proc}/stat"))
        .ok()
        .and_then(|stat| stat.rsplit_once(") ").map(|(_, rest)| rest.starts_with(['Z', 'X'])))
        .unwrap_or(true)
}

/// SIGKILLs every process of the data directory until none is left. `Ok` is the proof.
pub fn kill_everything(data_dir: &Path, deadline: Tick) -> Result<(), StillAlive> {
    loop {
        let left = processes_of(data_dir).unwrap_or_default();
        if left.is_empty() {
            return Ok(());
        }
        for pid in &left {
            // Gone already is as good as killed.
            let _ = kill_process(*pid, Signal::KILL);
        }
        if Tick::now() >= deadline {
            return Err(StillAlive(left.iter().map(|pid| pid.as_raw_nonzero().get()).collect()));
        }
        std::thread::sleep(Duration::from_millis(2));
    }
}

/// Ends whatever outlived a postmaster, off the runtime's threads.
pub async fn sweep(data_dir: std::path::PathBuf, limit: Duration) -> Result<(), StillAlive> {
    let deadline = Tick::now() + limit;
    tokio::task::spawn_blocking(move || kill_everything(&data_dir, deadline))
        .await
        .unwrap_or_else(|_| Err(StillAlive(vec![])))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_directory_without_a_server_has_no_processes() {
        let dir = tempfile::tempdir().expect("a temporary directory");
        assert!(postmaster(dir.path()).expect("reads").is_none());
        assert!(processes_of(dir.path()).expect("reads /proc").is_empty());
        kill_everything(dir.path(), Tick::now()).expect("nothing to kill");
    }

    #[test]
    fn a_directory_that_was_removed_below_a_server_still_tells_whose_it_is() {
        let is_at = |cwd: &str| is_at(Path::new(cwd), Path::new("/pg/data"));
        assert!(is_at("/pg/data") && is_at("/pg/data (deleted)"));
        assert!(
            !is_at("/pg/data2")
                && !is_at("/pg/data/base")
                && !is_at("/pg")
                && !is_at("/pg/data (deleted) (deleted)")
        );
    }

    #[test]
    fn a_recycled_pid_is_not_ours() {
        let dir = tempfile::tempdir().expect("a temporary directory");
        let file = format!("{}\n{}\n", std::process::id(), dir.path().display());
        fs::write(dir.path().join("postmaster.pid"), file).expect("writes");
        assert!(postmaster(dir.path()).expect("reads").is_none());
    }

    #[test]
    fn a_single_user_run_is_no_postmaster() {
        let dir = tempfile::tempdir().expect("a temporary directory");
        fs::write(dir.path().join("postmaster.pid"), "-17\n").expect("writes");
        assert!(postmaster(dir.path()).expect("reads").is_none());
    }
}
