//! Ends every process of one directory and removes what such processes leave elsewhere.
//!
//! Works from /proc alone, so that a janitor can do it for a program that was killed.

use std::ffi::OsStr;
use std::fs;
use std::os::fd::OwnedFd;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use rustix::process::{Pid, PidfdFlags, Signal, pidfd_open, pidfd_send_signal};

use super::orphans::{all_processes, reap_now};

/// Time PostgreSQL has to end by itself: only then does it give back its shared memory.
const STOP_WITHIN: Duration = Duration::from_secs(3);

/// Time a killed process has to disappear; the kernel may be busy with its memory.
const GONE_WITHIN: Duration = Duration::from_secs(10);

/// Programs that belong to a playground when they work in its directory, though they lie elsewhere. Others,
/// such as a shell or `tail` that somebody started there, are not ours to end.
const SERVERS: &[&str] = &[
    "etcd",
    "initdb",
    "keepalived",
    "pg_basebackup",
    "pg_controldata",
    "pg_ctl",
    "pg_rewind",
    "pg_waldump",
    "postgres",
    "prometheus",
];

/// Something that could not be ended.
#[derive(Debug, thiserror::Error)]
#[error("processes {0:?} do not end")]
pub struct StillRunning(pub Vec<i32>);

struct Found {
    pid: Pid,
    /// Names the process for good: a later one with the same id is not meant.
    handle: OwnedFd,
    program: PathBuf,
}

impl Found {
    fn signal(&self, signal: Signal) {
        let _ = pidfd_send_signal(&self.handle, signal);
    }
}

/// Ends every process that belongs to `dir`: PostgreSQL by its immediate stop, all else and what remains by
/// SIGKILL. Returns when none is left.
pub fn end_everything(dir: &Path) -> Result<(), StillRunning> {
    let started = Instant::now();
    let shared_memory = data_directories(dir);
    let mut asked = Vec::new();
    loop {
        reap_now();
        let found = processes_of(dir);
        if found.is_empty() {
            remove_shared_memory(&shared_memory);
            return Ok(());
        }
        if started.elapsed() > STOP_WITHIN + GONE_WITHIN {
            return Err(StillRunning(found.iter().map(|f| f.pid.as_raw_nonzero().get()).collect()));
        }
        let patient = started.elapsed() < STOP_WITHIN;
        for process in &found {
            if patient && process.program.file_name() == Some(OsStr::new("postgres")) {
                if !asked.contains(&process.pid) && is_postmaster(process.pid, dir) {
                    asked.push(process.pid);
                    process.signal(Signal::QUIT);
                    process.signal(Signal::CONT);
                }
            } else {
                process.signal(Signal::KILL);
            }
        }
        std::thread::sleep(Duration::from_millis(5));
    }
}

fn processes_of(dir: &Path) -> Vec<Found> {
    let all = all_processes().into_iter();
    all.filter(|(_, stat)| !stat.is_zombie())
        .filter_map(|(pid, _)| {
            // The handle first: what is read afterwards is true of the process it names, or it has ended.
            let handle = pidfd_open(pid, PidfdFlags::empty()).ok()?;
            let program = belongs(pid, dir)?;
            Some(Found { pid, handle, program })
        })
        .collect()
}

/// The program of a process that belongs to `dir`.
fn belongs(pid: Pid, dir: &Path) -> Option<PathBuf> {
    let proc = PathBuf::from(format!("/proc/{}", pid.as_raw_nonzero()));
    let program = fs::read_link(proc.join("exe")).ok()?;
    // A program whose file was replaced reads "... (deleted)".
    let program = PathBuf::from(program.to_string_lossy().trim_end_matches(" (deleted)"));
    if program.starts_with(dir) {
        return Some(program);
    }
    if !program.file_name().is_some_and(|name| SERVERS.iter().any(|s| name == *s)) {
        return None;
    }
    let works_there = fs::read_link(proc.join("cwd")).is_ok_and(|cwd| cwd.starts_with(dir));
    let named_there = || {
        let line = fs::read(proc.join("cmdline")).unwrap_or_default();
        line.split(|b| *b == 0).any(|arg| Path::new(OsStr::from_bytes(arg)).starts_with(dir))
    };
    (works_there || named_there()).then_some(program)
}

/// Directories below `dir` that may be data directories: `dir/NODE/data`.
fn data_directories(dir: &Path) -> Vec<(u32, u32)> {
    let nodes = fs::read_dir(dir).into_iter().flatten().flatten();
    let data = nodes.filter_map(|node| fs::metadata(node.path().join("data")).ok());
    #[expect(clippy::cast_possible_truncation, reason = "PostgreSQL truncates the inode to make its key")]
    data.map(|meta| (meta.ino() as u32, meta.uid())).collect()
}

fn is_postmaster(pid: Pid, dir: &Path) -> bool {
    let nodes = fs::read_dir(dir).into_iter().flatten().flatten();
    nodes.map(|node| node.path().join("data")).any(|data| postmaster_pid(&data) == Some(pid))
}

/// The process id in a data directory's `postmaster.pid`.
pub(super) fn postmaster_pid(data_dir: &Path) -> Option<Pid> {
    let file = fs::read_to_string(data_dir.join("postmaster.pid")).ok()?;
    // That of a single-user run is negative.
    Pid::from_raw(file.lines().next()?.trim().parse::<i32>().ok().filter(|pid| *pid > 0)?)
}

/// Keys that a postmaster tries when the first is taken: two file systems may have one inode number.
const KEYS_TRIED: u32 = 8;

/// Removes System V segments that killed postmasters left: their key is the data directory's inode number, or one of
/// the next.
fn remove_shared_memory(data: &[(u32, u32)]) {
    let table = fs::read_to_string("/proc/sysvipc/shm").unwrap_or_default();
    for segment in table.lines().filter_map(segment) {
        let is_of = |(inode, owner): &(u32, u32)| {
            segment.key.wrapping_sub(*inode) < KEYS_TRIED && segment.owner == *owner
        };
        if segment.attached == 0 && data.iter().any(is_of) {
            let mut remove = Command::new("ipcrm");
            remove.args(["-m", &segment.id.to_string()]).stdout(Stdio::null()).stderr(Stdio::null());
            let _ = remove.status();
        }
    }
}

#[derive(Debug, PartialEq, Eq)]
struct Segment {
    key: u32,
    id: u32,
    attached: u32,
    owner: u32,
}

/// A line of /proc/sysvipc/shm: key shmid perms size cpid lpid nattch uid ...
fn segment(line: &str) -> Option<Segment> {
    let fields: Vec<_> = line.split_whitespace().collect();
    #[expect(
        clippy::cast_possible_truncation,
        clippy::cast_sign_loss,
        reason = "the key is 32 bits, shown signed"
    )]
    Some(Segment {
        key: fields.first()?.parse::<i64>().ok()? as u32,
        id: fields.get(1)?.parse().ok()?,
        attached: fields.get(6)?.parse().ok()?,
        owner: fields.get(7)?.parse().ok()?,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A copy of `sleep` inside `dir`, running.
    fn sleeper(dir: &Path) -> std::process::Child {
        let program = dir.join("server");
        fs::copy("/bin/sleep", &program).expect("copies");
        Command::new(program).arg("600").spawn().expect("starts")
    }

    #[test]
    fn programs_of_the_directory_end_and_bystanders_stay() {
        let dir = tempfile::tempdir().expect("a temporary directory");
        let mut ours = sleeper(dir.path());
        // A shell or pager that somebody started there.
        let mut bystander =
            Command::new("/bin/sleep").arg("600").current_dir(dir.path()).spawn().expect("starts");
        let waiter = std::thread::spawn(move || ours.wait().expect("waits"));
        end_everything(dir.path()).expect("ends");
        assert!(!waiter.join().expect("no panic").success());
        assert!(bystander.try_wait().expect("asks").is_none(), "a bystander was killed");
        bystander.kill().expect("kills");
        bystander.wait().expect("waits");
    }

    #[test]
    fn shared_memory_is_found_by_the_inode_of_the_data_directory() {
        let line =
            "   -559038737      32769   600       56  4711  4711      0   101   104   101   104 1 0 1 4096 0";
        let expected = Segment { key: 0xdead_beef, id: 32769, attached: 0, owner: 101 };
        assert_eq!(segment(line), Some(expected));
        assert_eq!(segment("       key      shmid perms       size"), None);
    }
}
