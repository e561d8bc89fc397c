//! Reaps processes that lost their parent and became ours: a dead postmaster that stays a zombie would look
//! alive to whoever checks its process id.

use std::fs;
use std::time::Duration;

use rustix::process::{Pid, WaitOptions, getpgrp, getpid, waitpid};
use tokio::signal::unix::{SignalKind, signal};
use tokio::task::JoinHandle;

use super::process::awaited;

/// Children can end in one burst, for which there is only one signal.
const LOOK_AGAIN: Duration = Duration::from_secs(1);

/// Reaps orphans at once until the task is aborted.
pub(crate) fn reap() -> JoinHandle<()> {
    tokio::spawn(async {
        let Ok(mut child_ended) = signal(SignalKind::child()) else { return };
        loop {
            reap_now();
            let _ = tokio::time::timeout(LOOK_AGAIN, child_ended.recv()).await;
        }
    })
}

/// Reaps every orphan that has ended. Processes started here are left to those who wait for them: those on the
/// list, and all of our own process group (cargo and the like).
pub(super) fn reap_now() {
    let (me, group) = (getpid(), getpgrp());
    let awaited = awaited();
    for (pid, stat) in all_processes() {
        if stat.is_zombie()
            && stat.parent == me.as_raw_nonzero().get()
            && stat.group != group.as_raw_nonzero().get()
            && !awaited.contains(&pid.as_raw_nonzero().get().unsigned_abs())
        {
            let _ = waitpid(Some(pid), WaitOptions::NOHANG);
        }
    }
}

/// What the kernel says of one process.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct Stat {
    state: char,
    pub(super) parent: i32,
    pub(crate) group: i32,
}

impl Stat {
    pub(crate) fn is_zombie(&self) -> bool {
        matches!(self.state, 'Z' | 'X')
    }
}

/// All processes of the machine with their state.
pub(crate) fn all_processes() -> Vec<(Pid, Stat)> {
    let Ok(entries) = fs::read_dir("/proc") else { return Vec::new() };
    let pids = entries.filter_map(|entry| entry.ok()?.file_name().to_str()?.parse().ok());
    pids.filter_map(|pid: i32| {
        let stat = fs::read_to_string(format!("/proc/{pid}/stat")).ok()?;
        Some((Pid::from_raw(pid)?, parse(&stat)?))
    })
    .collect()
}

fn parse(stat: &str) -> Option<Stat> {
    // The name in parentheses may itself hold parentheses and blanks.
    let mut fields = stat.rsplit_once(") ")?.1.split(' ');
    Some(Stat {
        state: fields.next()?.chars().next()?,
        parent: fields.next()?.parse().ok()?,
        group: fields.next()?.parse().ok()?,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_with_blanks_and_parentheses_do_not_confuse() {
        let stat = parse("71 (a (b) c) Z 7 70 70 0 -1").expect("parses");
        assert_eq!(stat, Stat { state: 'Z', parent: 7, group: 70 });
        assert!(stat.is_zombie());
        assert_eq!(parse("71 (sh"), None);
    }
}
