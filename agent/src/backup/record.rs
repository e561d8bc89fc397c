//! `backup.json`: what a backup is, written once it is known to be whole.

use std::collections::BTreeMap;
use std::fs;
use std::path::Path;

use jiff::Timestamp;
use pgvane_cluster::ids::Timeline;
use serde::{Deserialize, Serialize};

use super::BackupError;

/// Its name in a backup.
pub const FILE: &str = "backup.json";

/// What a backup is.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Record {
    /// The backup's name.
    pub name: String,
    /// The cluster.
    pub scope: String,
    /// Its identity, as PostgreSQL has it.
    pub system_identifier: String,
    /// The member it was taken from.
    pub member: String,
    /// What that was: `primary` or `replica`.
    pub role: String,
    /// When it was begun.
    pub started: Timestamp,
    /// When the copy had ended: a recovery can end at any later time.
    pub finished: Timestamp,
    /// When it was found to be whole.
    pub verified: Timestamp,
    /// The timeline it ends on.
    pub timeline: Timeline,
    /// The first WAL it needs, `X/X`.
    pub start_lsn: String,
    /// Where it becomes consistent, `X/X`.
    pub stop_lsn: String,
    /// The oldest WAL file that is in it.
    pub first_wal: String,
    /// PostgreSQL's major version.
    pub postgres: String,
    /// How it is compressed, as pg_basebackup was told.
    pub compress: String,
    /// Its files, with their sizes in bytes.
    pub files: BTreeMap<String, u64>,
    /// Bytes of all files, unpacked.
    pub unpacked: u64,
}

impl Record {
    /// Reads that of the backup in `dir`.
    pub fn load(dir: &Path) -> Result<Record, BackupError> {
        let path = dir.join(FILE);
        let bytes = fs::read(&path).map_err(BackupError::io(&path))?;
        serde_json::from_slice(&bytes)
            .map_err(|e| BackupError::Other(format!("{}: line {}: {e}", path.display(), e.line())))
    }

    /// As it is written.
    pub fn text(&self) -> String {
        // Maps of text and numbers have a form in JSON.
        serde_json::to_string_pretty(self).unwrap_or_default() + "\n"
    }

    /// Bytes on the disk.
    pub fn size(&self) -> u64 {
        self.files.values().sum()
    }

    /// What is wrong at first sight with the backup in `dir`: files that are gone, or have another size.
    pub fn missing(&self, dir: &Path) -> Option<String> {
        self.files.iter().find_map(|(name, size)| match fs::metadata(dir.join(name)) {
            Ok(found) if found.len() == *size => None,
            Ok(found) => Some(format!("{name} has {} bytes, not {size}", found.len())),
            Err(error) => Some(format!("{name}: {error}")),
        })
    }
}

#[cfg(test)]
pub(super) mod tests {
    use super::*;

    pub(in super::super) fn record(name: &str, finished: &str) -> Record {
        let finished: Timestamp = finished.parse().expect("a time");
        Record {
            name: name.to_owned(),
            scope: "demo".to_owned(),
            system_identifier: "42".to_owned(),
            member: "pg2".to_owned(),
            role: "replica".to_owned(),
            started: finished,
            finished,
            verified: finished,
            timeline: Timeline(1),
            start_lsn: "0/5000028".to_owned(),
            stop_lsn: "0/50000F8".to_owned(),
            first_wal: "000000010000000000000005".to_owned(),
            postgres: "15".to_owned(),
            compress: "gzip".to_owned(),
            files: BTreeMap::from([("base.tar.gz".to_owned(), 3)]),
            unpacked: 10,
        }
    }

    #[test]
    fn it_is_read_back_and_notices_what_is_gone() {
        let dir = tempfile::tempdir().expect("a directory");
        let record = record("x", "2026-01-01T00:00:00Z");
        fs::write(dir.path().join(FILE), record.text()).expect("writes");
        assert_eq!(Record::load(dir.path()).expect("reads"), record);
        assert!(record.missing(dir.path()).expect("gone").starts_with("base.tar.gz: No such file"));
        fs::write(dir.path().join("base.tar.gz"), "ab").expect("writes");
        assert_eq!(record.missing(dir.path()).as_deref(), Some("base.tar.gz has 2 bytes, not 3"));
        fs::write(dir.path().join("base.tar.gz"), "abc").expect("writes");
        assert_eq!(record.missing(dir.path()), None);
        assert_eq!(record.size(), 3);
        fs::write(dir.path().join(FILE), "{").expect("writes");
        assert!(Record::load(dir.path()).expect_err("half").to_string().contains("backup.json: line 1: "));
    }
}
