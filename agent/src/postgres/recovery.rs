//! Recovery of a server that did not shut down cleanly, before its data are rewound (contract 8.3, 8.6).
//!
//! pg_rewind wants a clean shutdown. It could see to it by itself, but only where the server is no standby, and its
//! run may recycle the very WAL in which pg_rewind then looks for what changed. So the server's single-user mode
//! runs here, told to archive and unable to: no segment goes.

use std::fs;

use pgvane_cluster::settings::PostgresqlSettings;
use tracing::info;

use super::controldata::ControlData;
use super::{Instance, PostgresError, files, process, settings};

/// How long processes that outlived their postmaster get to vanish.
const SWEEP_LIMIT: std::time::Duration = std::time::Duration::from_secs(5);

/// The version from which on a `backup_label` can only mean a copy that was never started: recovery without its
/// archive would end too early.
const NO_EXCLUSIVE_BACKUPS: u32 = 15;

/// Whether single-user recovery is needed, and right, before the data are rewound.
pub fn is_due(instance: &Instance, control: &ControlData) -> bool {
    let crashed = ["in production", "shutting down", "in crash recovery", "in archive recovery"];
    let labelled = instance.data_dir.join("backup_label").exists();
    let old = version(instance).is_some_and(|v| v < NO_EXCLUSIVE_BACKUPS);
    crashed.contains(&control.state.as_str()) && (!labelled || old)
}

/// The major version of the data directory.
pub fn version(instance: &Instance) -> Option<u32> {
    let text = fs::read_to_string(instance.data_dir.join("PG_VERSION")).ok()?;
    text.trim().split('.').next()?.parse().ok()
}

/// Recovers the stopped server and shuts it down cleanly. It is no standby any more after it.
pub async fn run(instance: &Instance, dynamic: &PostgresqlSettings) -> Result<(), PostgresError> {
    info!("recovering the server in single-user mode, for it was not shut down cleanly");
    process::sweep(instance.data_dir.clone(), SWEEP_LIMIT)
        .await
        .map_err(|e| PostgresError::Other(e.to_string()))?;
    // Single-user mode knows no standbys.
    files::forget_signals(instance)?;
    forget_archived(instance)?;
    let mut command = instance.command("postgres");
    command.arg("--single").arg("-D").arg(&instance.data_dir);
    command.args(settings::arguments(instance, dynamic, &[]));
    command.args(["-c", "archive_mode=on", "-c", "archive_command=false", "-c", "restore_command="]);
    command.arg(&instance.database);
    instance.run("postgres", command).await?;
    let control = ControlData::read(instance).await?;
    if control.is_clean() {
        Ok(())
    } else {
        Err(PostgresError::Other(format!("after single-user recovery the server is {:?}", control.state)))
    }
}

/// What is known to be archived may be recycled: nothing is known any more.
fn forget_archived(instance: &Instance) -> Result<(), PostgresError> {
    let dir = instance.data_dir.join("pg_wal/archive_status");
    for entry in fs::read_dir(&dir).into_iter().flatten().flatten() {
        fs::remove_file(entry.path()).map_err(PostgresError::io(entry.path().display().to_string()))?;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::postgres::rewind::tests::local;
    use crate::postgres::settings::tests::instance;

    #[test]
    fn what_was_shut_down_or_never_started_needs_none() {
        let root = tempfile::tempdir().expect("a directory");
        let i = instance(root.path());
        fs::create_dir(&i.data_dir).expect("creates");
        fs::write(i.data_dir.join("PG_VERSION"), "15\n").expect("writes");
        let due = |state: &str| is_due(&i, &local(state, 1, 100, 0));
        for state in ["in production", "shutting down", "in crash recovery", "in archive recovery"] {
            assert!(due(state), "{state}");
        }
        assert!(!due("shut down") && !due("shut down in recovery"));
        fs::write(i.data_dir.join("backup_label"), "").expect("writes");
        assert!(!due("in production"), "a copy that was never started");
        fs::write(i.data_dir.join("PG_VERSION"), "14\n").expect("writes");
        assert!(due("in production"), "a primary that crashed during a backup");
    }

    #[test]
    fn nothing_counts_as_archived() {
        let root = tempfile::tempdir().expect("a directory");
        let i = instance(root.path());
        let status = i.data_dir.join("pg_wal/archive_status");
        fs::create_dir_all(&status).expect("creates");
        fs::write(status.join("000000010000000000000001.done"), "").expect("writes");
        forget_archived(&i).expect("removes");
        assert!(crate::postgres::data_dir::is_empty(&status));
    }
}
