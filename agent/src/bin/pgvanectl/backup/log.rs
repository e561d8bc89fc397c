//! The log of a directory of backups: one line of JSON for each run, also for one that came to nothing.

use std::fs::File;
use std::io::Write;
use std::path::Path;

use jiff::Timestamp;
use pgvane_agent::backup::record::Record;
use serde_json::{Value, json};

use crate::Failed;

/// Its name in the directory.
const FILE: &str = "backups.log";

/// Adds the line of one run.
pub(super) fn append(
    dir: &Path,
    began: Timestamp,
    scope: &str,
    made: &Result<Record, Failed>,
) -> Result<(), String> {
    let path = dir.join(FILE);
    let line = format!("{}\n", line(began, Timestamp::now(), scope, made));
    let written = File::options().create(true).append(true).open(&path);
    let written = written.and_then(|mut file| file.write_all(line.as_bytes()));
    match (written, made) {
        (Ok(()), _) => Ok(()),
        // Why there is no backup is the greater news.
        (Err(error), Err(Failed(why))) => Err(format!("{why}\nand {}: {error}", path.display())),
        (Err(error), Ok(_)) => Err(format!("the backup is there, but {}: {error}", path.display())),
    }
}

fn line(began: Timestamp, ended: Timestamp, scope: &str, made: &Result<Record, Failed>) -> Value {
    let seconds = ended.duration_since(began).as_secs_f64();
    let at = format!("{ended:.0}");
    match made {
        Ok(record) => json!({
            "at": at,
            "outcome": "done",
            "scope": scope,
            "backup": record.name,
            "member": record.member,
            "role": record.role,
            "timeline": record.timeline,
            "start_lsn": record.start_lsn,
            "stop_lsn": record.stop_lsn,
            "bytes": record.size(),
            "seconds": seconds,
        }),
        Err(Failed(why)) => {
            json!({"at": at, "outcome": "failed", "scope": scope, "why": why, "seconds": seconds})
        }
    }
}
