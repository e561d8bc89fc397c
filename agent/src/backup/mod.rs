//! Base backups in a directory: what is in one, whether it is whole, which of them are kept, and the way back into a
//! data directory. `pgvanectl` runs the programs around it.
//!
//! A backup is what `pg_basebackup --format=tar` writes, and beside it `backup.json`, which says what it is. It has its
//! name only once it is complete, verified and on the disk: until then it lies in a [`holder`](shelf) of another name.

pub mod manifest;
pub mod read;
pub mod record;
pub mod restore;
pub mod retention;
pub mod shelf;
pub mod source;
pub mod tars;
pub mod wal_archive;
pub mod wal_check;

use std::io;
use std::path::Path;

/// Why there is no backup, or why one is not trusted.
#[derive(Debug, thiserror::Error)]
pub enum BackupError {
    /// The operating system refused something.
    #[error("{0}: {1}")]
    Io(String, #[source] io::Error),
    /// The backup is not what its manifest says; one line for each thing that is wrong.
    #[error("the backup is damaged: {}", .0.join("; "))]
    Damaged(Vec<String>),
    /// Somebody else works in the directory.
    #[error("{0}")]
    Busy(String),
    /// Whoever asked for it does not want it any more.
    #[error("interrupted")]
    Interrupted,
    /// Anything else.
    #[error("{0}")]
    Other(String),
}

impl BackupError {
    /// For `map_err`: what was done, to which path.
    pub fn io(path: &Path) -> impl FnOnce(io::Error) -> BackupError {
        let path = path.display().to_string();
        move |error| BackupError::Io(path, error)
    }

    pub(crate) fn damaged(what: impl Into<String>) -> BackupError {
        BackupError::Damaged(vec![what.into()])
    }
}
