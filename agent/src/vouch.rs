//! Our promise not to race, kept on disk so that it survives this agent (invariant S1).
//!
//! A member that vouched for a leader and forgot it in a restart could become a second primary. Instants are
//! `CLOCK_BOOTTIME`; after a reboot the promise is taken to begin anew, which can only make it longer.

use std::fs::{self, File};
use std::io::{self, Write};
use std::path::{Path, PathBuf};
use std::time::Duration;

use pgvane_cluster::clock::Tick;
use pgvane_cluster::ids::NodeName;
use serde::{Deserialize, Serialize};

use crate::decide::memory::Vouch;

#[derive(Serialize, Deserialize)]
struct OnDisk {
    leader: NodeName,
    until_ns: u64,
    ttl_ms: u64,
    boot: String,
}

/// Where the promise of the node with `data_dir` is kept: beside the directory, for a clone empties it.
pub fn path(data_dir: &Path) -> PathBuf {
    let name = data_dir.file_name().unwrap_or_default().to_string_lossy();
    data_dir.with_file_name(format!("{name}.vouch.json"))
}

/// Makes a promise durable. It may be answered for only after this returned.
pub fn save(path: &Path, vouch: &Vouch, ttl: Duration) -> io::Result<()> {
    let record = OnDisk {
        leader: vouch.leader.clone(),
        until_ns: vouch.until.as_nanos(),
        ttl_ms: u64::try_from(ttl.as_millis()).unwrap_or(u64::MAX),
        boot: boot_id()?,
    };
    let fresh = path.with_extension("json.new");
    let mut file = File::create(&fresh)?;
    file.write_all(&serde_json::to_vec(&record)?)?;
    file.sync_all()?;
    fs::rename(&fresh, path)?;
    File::open(path.parent().unwrap_or(Path::new(".")))?.sync_all()
}

/// The promise that still holds at `now`, if any. One that cannot be read is an error: the caller must not
/// race on a guess.
pub fn load(path: &Path, now: Tick) -> io::Result<Option<Vouch>> {
    let bytes = match fs::read(path) {
        Ok(bytes) => bytes,
        Err(e) if e.kind() == io::ErrorKind::NotFound => return Ok(None),
        Err(e) => return Err(e),
    };
    let record: OnDisk = serde_json::from_slice(&bytes)?;
    let until = if record.boot == boot_id()? {
        Tick::from_nanos(record.until_ns)
    } else {
        now + Duration::from_millis(record.ttl_ms)
    };
    Ok((until > now).then_some(Vouch { leader: record.leader, until }))
}

fn boot_id() -> io::Result<String> {
    Ok(fs::read_to_string("/proc/sys/kernel/random/boot_id")?.trim().to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_promise_survives_and_ends() {
        let dir = tempfile::tempdir().expect("a temporary directory");
        let file = path(&dir.path().join("data"));
        let now = Tick::now();
        assert_eq!(load(&file, now).expect("no file is no promise"), None);
        let vouch = Vouch { leader: "pg1".into(), until: now + Duration::from_secs(30) };
        save(&file, &vouch, Duration::from_secs(30)).expect("saves");
        assert_eq!(load(&file, now).expect("reads"), Some(vouch));
        assert_eq!(load(&file, now + Duration::from_secs(31)).expect("reads"), None);
    }

    #[test]
    fn after_a_reboot_it_begins_anew_and_garbage_is_an_error() {
        let dir = tempfile::tempdir().expect("a temporary directory");
        let file = path(&dir.path().join("data"));
        let other = r#"{"leader":"pg1","until_ns":1,"ttl_ms":30000,"boot":"another"}"#;
        fs::write(&file, other).expect("writes");
        let now = Tick::now();
        let vouch = load(&file, now).expect("reads").expect("holds");
        assert_eq!(vouch.until, now + Duration::from_secs(30));
        fs::write(&file, "{").expect("writes");
        assert!(load(&file, now).is_err());
    }
}
