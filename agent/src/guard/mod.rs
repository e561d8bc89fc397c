//! The guard: a small process of its own that stops PostgreSQL when its agent cannot (invariant S1).
//!
//! The agent tells it, ahead of time, until when this node may be primary; nothing but a renewal moves that
//! deadline. So a frozen agent, a killed one or one cut off from the store never leaves a writable primary
//! behind. The guard outlives its agent and is adopted by the next one; when agent and PostgreSQL are both dead
//! it kills what is left of PostgreSQL and gives the lease back, so that failover need not wait for it.
//!
//! What its user must keep to: **arm before PostgreSQL is started or promoted as primary, again whenever its
//! postmaster changes, and disarm only once it is stopped or read-only.** After the guard has acted (its report
//! says `fenced`), no process of the data directory may run until the agent disarms, or arms under a new lease.
//! The guard must not be stopped with the agent: in a systemd unit, `KillMode=mixed` or `process`.
//!
//! [`core`] decides, `run` is the loop around it, [`protocol`] what is said to it, [`client`] the agent's end.

use std::fs::{self, File};
use std::io;
use std::os::unix::net::UnixListener;
use std::path::{Path, PathBuf};
use std::process::ExitCode;

use rustix::fs::{FlockOperation, Mode, flock};
use rustix::process::umask;

pub mod client;
pub mod core;
mod log;
pub mod protocol;
mod revoke;
mod run;
mod server;

/// The longest path of a Unix socket (`sun_path` less its closing zero).
pub const MAX_SOCKET_PATH: usize = 107;

/// Arguments of the hidden subcommand that runs a guard.
#[derive(Clone, Debug, clap::Args)]
pub struct GuardArgs {
    /// Unix socket to listen on.
    #[arg(long)]
    pub socket: PathBuf,
    /// Data directory to watch over.
    #[arg(long)]
    pub data_dir: PathBuf,
    /// Write log lines in Patroni's form.
    #[arg(long)]
    pub patroni_lines: bool,
}

/// Where the guard of `data_dir` listens unless told otherwise: beside the directory, in `NAME.guard.sock`.
pub fn default_socket(data_dir: &Path) -> PathBuf {
    let name = data_dir.file_name().unwrap_or_default().to_string_lossy();
    data_dir.with_file_name(format!("{name}.guard.sock"))
}

/// Whether `path` fits into a socket address; the text says what does not.
pub fn check_socket_path(path: &Path) -> Result<(), String> {
    let len = path.as_os_str().len();
    if len <= MAX_SOCKET_PATH {
        return Ok(());
    }
    Err(format!("{} is {len} bytes long; a Unix socket path has at most {MAX_SOCKET_PATH}", path.display()))
}

/// Runs a guard until it has nothing left to guard.
pub fn main(args: &GuardArgs) -> ExitCode {
    let log = log::Log::start(args.patroni_lines);
    // Of its own session, so that a signal to the agent's terminal does not reach it.
    let _ = rustix::process::setsid();
    harden();
    let result = lock(&args.socket).and_then(|lock| {
        let guard = run::Guard::new(listen(&args.socket)?, args.data_dir.clone(), log.clone())?;
        Ok((lock, guard))
    });
    match result {
        Ok((lock, guard)) => {
            log.say(format_args!("watching over {}", args.data_dir.display()));
            guard.run();
            // The socket goes while the lock is still held, so that it cannot be a successor's.
            let _ = fs::remove_file(&args.socket);
            drop(lock);
            ExitCode::SUCCESS
        }
        Err(e) => {
            eprintln!("pgvane guard: {}: {e}", args.socket.display());
            ExitCode::FAILURE
        }
    }
}

/// What helps to run on time where it is permitted; the guard does without where it is not.
fn harden() {
    let _ = rustix::process::setpriority_process(None, -20);
    let _ = fs::write("/proc/self/oom_score_adj", "-1000");
    let _ = rustix::mm::mlockall(rustix::mm::MlockAllFlags::CURRENT);
}

/// One guard per socket: the lock goes with its process, whatever ends it.
fn lock(socket: &Path) -> io::Result<File> {
    check_socket_path(socket).map_err(io::Error::other)?;
    let mut name = socket.as_os_str().to_owned();
    name.push(".lock");
    let file = File::options().create(true).truncate(false).write(true).open(&name)?;
    match flock(&file, FlockOperation::NonBlockingLockExclusive) {
        Ok(()) => Ok(file),
        Err(rustix::io::Errno::WOULDBLOCK) => Err(io::Error::other("another guard runs already")),
        Err(e) => Err(e.into()),
    }
}

fn listen(socket: &Path) -> io::Result<UnixListener> {
    match fs::remove_file(socket) {
        Err(e) if e.kind() != io::ErrorKind::NotFound => return Err(e),
        _ => {}
    }
    // Only this user may connect, from the first instant on.
    let before = umask(Mode::from_raw_mode(0o177));
    let listener = UnixListener::bind(socket);
    umask(before);
    listener
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_socket_stands_beside_the_data_directory() {
        let socket = default_socket(Path::new("/var/lib/postgresql/15/main"));
        assert_eq!(socket, Path::new("/var/lib/postgresql/15/main.guard.sock"));
    }

    #[test]
    fn long_socket_paths_are_refused_with_their_length() {
        let long = format!("/{}", "x".repeat(107));
        let message = check_socket_path(Path::new(&long)).expect_err("too long");
        assert!(message.ends_with("is 108 bytes long; a Unix socket path has at most 107"), "{message}");
        assert!(check_socket_path(Path::new(&long[..107])).is_ok());
    }
}
