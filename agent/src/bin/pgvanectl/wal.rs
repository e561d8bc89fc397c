//! `archive-wal` and `restore-wal`: PostgreSQL's archive_command and restore_command, for an archive in a directory.

use std::path::{Path, PathBuf};
use std::process::ExitCode;

use clap::Args;
use pgvane_agent::backup::wal_archive;

use crate::Failed;

/// PostgreSQL gives a recovery up where its command ends with more than 125, and goes on without the file below that.
const GIVE_UP: u8 = 200;

/// There in a data directory whose server follows another one.
const STANDBY: &str = "standby.signal";

/// What `archive-wal` takes.
#[derive(Args)]
pub(crate) struct ArchiveArgs {
    /// The file: %p.
    file: PathBuf,
    /// The archive: a directory that every member reaches, of this cluster alone.
    archive: PathBuf,
}

/// What `restore-wal` takes.
#[derive(Args)]
pub(crate) struct FetchArgs {
    /// The archive.
    archive: PathBuf,
    /// The name of the file: %f.
    name: String,
    /// Where it is wanted: %p.
    target: PathBuf,
}

/// Ends well only when the file is on the archive's disk.
pub(crate) fn archive(args: &ArchiveArgs) -> Result<ExitCode, Failed> {
    wal_archive::store(&args.file, &args.archive)?;
    Ok(ExitCode::SUCCESS)
}

/// 0: it is there; 1: there is no such file; 200: the archive cannot be read.
pub(crate) fn fetch(args: &FetchArgs) -> ExitCode {
    match wal_archive::fetch(&args.archive, &args.name, &args.target) {
        Ok(true) => ExitCode::SUCCESS,
        Ok(false) => ExitCode::FAILURE,
        Err(error) => {
            eprintln!("Error: {error}");
            // A standby can stream instead. The server runs its commands in its data directory.
            if Path::new(STANDBY).exists() { ExitCode::FAILURE } else { ExitCode::from(GIVE_UP) }
        }
    }
}
