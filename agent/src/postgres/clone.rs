//! A copy of another member's data. It is made beside the data directory and moved into place when it is
//! whole: half a copy never looks like one.

use std::fs;
use std::path::PathBuf;

use super::{Instance, PostgresError};
use crate::config::HostPort;

/// Copies the data of the server at `source` into the data directory, replacing what is there.
pub async fn basebackup(instance: &Instance, source: &HostPort) -> Result<(), PostgresError> {
    let fresh = beside(instance, "new");
    remove(&fresh)?;
    super::settings::write_pgpass(instance)?;
    let mut command = instance.command("pg_basebackup");
    command
        .arg("--pgdata")
        .arg(&fresh)
        .args(["--wal-method=stream", "--checkpoint=fast", "--no-password"])
        .args(["--host", &source.host, "--port", &source.port.to_string()])
        .args(["--username", &instance.replication.username]);
    let copied = instance.run("pg_basebackup", command).await;
    if let Err(error) = copied {
        remove(&fresh)?;
        return Err(error);
    }
    // The source's configuration is not ours.
    for name in ["postgresql.auto.conf", "standby.signal", "recovery.signal"] {
        let _ = fs::remove_file(fresh.join(name));
    }
    let old = beside(instance, "old");
    remove(&old)?;
    if instance.data_dir.exists() {
        fs::rename(&instance.data_dir, &old).map_err(PostgresError::io("the old data directory"))?;
    }
    fs::rename(&fresh, &instance.data_dir).map_err(PostgresError::io("the new data directory"))?;
    remove(&old)
}

fn beside(instance: &Instance, suffix: &str) -> PathBuf {
    let mut path = instance.data_dir.as_os_str().to_owned();
    path.push(".");
    path.push(suffix);
    path.into()
}

fn remove(dir: &std::path::Path) -> Result<(), PostgresError> {
    match fs::remove_dir_all(dir) {
        Err(e) if e.kind() != std::io::ErrorKind::NotFound => {
            Err(PostgresError::Io { what: format!("{} cannot be removed", dir.display()), error: e })
        }
        _ => Ok(()),
    }
}
