//! The PostgreSQL of one data directory as the guard sees it: through /proc alone.
//!
//! Nothing here may touch the data directory's own file system: on a hung disk that would hang the guard.

use std::fs;
use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::path::Path;

use rustix::process::{Pid, PidfdFlags, Signal, kill_process, pidfd_open, pidfd_send_signal};

use crate::postgres::process::processes_of;

/// A postmaster that is being watched.
pub(super) struct Postmaster {
    pidfd: OwnedFd,
}

impl Postmaster {
    /// Watches process `pid`; an error means it has ended already (or cannot be watched).
    pub(super) fn watch(pid: Pid) -> io::Result<Postmaster> {
        Ok(Postmaster { pidfd: pidfd_open(pid, PidfdFlags::empty())? })
    }

    /// Finds the postmaster among the processes of `data_dir`: the one whose parent is not among them.
    pub(super) fn find(data_dir: &Path) -> Option<Postmaster> {
        roots(data_dir).into_iter().find_map(|pid| Postmaster::watch(pid).ok())
    }

    /// Readable once the process has ended.
    pub(super) fn fd(&self) -> BorrowedFd<'_> {
        self.pidfd.as_fd()
    }
}

/// Orders an immediate shutdown: SIGQUIT to the postmaster, or, while it is not known, to every process of the
/// data directory that has no parent among the others.
pub(super) fn stop_immediate(postmaster: Option<&Postmaster>, data_dir: &Path) {
    // A process that has ended meanwhile needs no signal; one that cannot be told is killed a moment later.
    match postmaster {
        Some(postmaster) => {
            let _ = pidfd_send_signal(&postmaster.pidfd, Signal::QUIT);
        }
        None => {
            for pid in roots(data_dir) {
                let _ = kill_process(pid, Signal::QUIT);
            }
        }
    }
}

fn roots(data_dir: &Path) -> Vec<Pid> {
    let all = processes_of(data_dir).unwrap_or_default();
    all.iter().copied().filter(|pid| parent_of(*pid).is_none_or(|parent| !all.contains(&parent))).collect()
}

fn parent_of(pid: Pid) -> Option<Pid> {
    let stat = fs::read_to_string(format!("/proc/{}/stat", pid.as_raw_nonzero())).ok()?;
    parent_in_stat(&stat)
}

/// The fourth field. The second, the command in parentheses, may itself hold blanks and parentheses.
fn parent_in_stat(stat: &str) -> Option<Pid> {
    let after_command = stat.rsplit_once(')')?.1;
    Pid::from_raw(after_command.split_whitespace().nth(1)?.parse().ok()?)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_parent_is_found_behind_any_command_name() {
        let parent = parent_in_stat("12 (a) b (c) S 34 12 12 0 -1 4194304").expect("has a parent");
        assert_eq!(parent.as_raw_nonzero().get(), 34);
        assert_eq!(parent_in_stat("1 (init) S 0 1 1"), None);
        assert_eq!(parent_in_stat(""), None);
    }

    #[test]
    fn our_own_parent_is_known() {
        assert_eq!(parent_of(rustix::process::getpid()), rustix::process::getppid());
    }
}
