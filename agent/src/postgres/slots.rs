//! Replication slots on the server: what there is, the steps of a plan, and the copy of a logical slot's state.

use std::collections::{BTreeMap, BTreeSet};
use std::fs::{self, DirBuilder, File};
use std::io::{self, Write};
use std::os::unix::fs::{DirBuilderExt, OpenOptionsExt};
use std::path::Path;
use std::time::Duration;

use pgvane_cluster::ids::Lsn;
use serde_json::Value;
use tokio_postgres::{Client, NoTls};

use super::{Instance, PostgresError, probe};
pub use crate::slots::names::slot_name;
use crate::slots::plan::{Existing, Step};

/// Bound on a step that reads WAL: it is taken up again the next time from where it got.
const ADVANCE_WITHIN: Duration = Duration::from_mins(1);

/// The slots there are, without temporary ones. Columns that a version lacks are simply absent.
pub async fn existing(instance: &Instance) -> Result<Vec<Existing>, PostgresError> {
    let client = probe::connect(instance).await.map_err(|e| PostgresError::Sql(e.to_string()))?;
    let sql = "SELECT to_jsonb(s)::text FROM pg_replication_slots s WHERE NOT temporary";
    let rows = client.query(sql, &[]).await?;
    Ok(rows.iter().filter_map(|row| serde_json::from_str(row.get(0)).ok()).map(|row| read(&row)).collect())
}

fn read(row: &Value) -> Existing {
    let text = |key: &str| row[key].as_str().map(str::to_owned);
    let lsn = |key: &str| row[key].as_str().and_then(|t| t.parse::<Lsn>().ok());
    let flag = |key: &str| row[key] == Value::Bool(true);
    let number = |key: &str| row[key].as_str().and_then(|t| t.parse().ok());
    let logical = (row["slot_type"] == "logical")
        .then(|| (text("database").unwrap_or_default(), text("plugin").unwrap_or_default()));
    Existing {
        name: text("slot_name").unwrap_or_default(),
        active: flag("active"),
        restart: lsn("restart_lsn"),
        confirmed: lsn("confirmed_flush_lsn"),
        holds_rows: !row["xmin"].is_null() || !row["catalog_xmin"].is_null(),
        catalog_xmin: number("catalog_xmin"),
        invalid: row["wal_status"] == "lost" || flag("conflicting") || !row["invalidation_reason"].is_null(),
        own_failover: logical.is_some() && (flag("failover") || flag("synced")),
        logical,
    }
}

/// Takes the steps. One that fails (a slot in use meanwhile) is left for the next round.
pub async fn perform(instance: &Instance, steps: &[Step]) -> Result<(), PostgresError> {
    if steps.is_empty() {
        return Ok(());
    }
    let client = probe::connect(instance).await.map_err(|e| PostgresError::Sql(e.to_string()))?;
    for step in steps {
        match take(instance, &client, step).await {
            Ok(()) => told(step),
            Err(error) => tracing::warn!(?step, %error, "a replication slot could not be changed"),
        }
    }
    Ok(())
}

fn told(step: &Step) {
    match step {
        Step::Create(name) | Step::CreateLogical { name, .. } => {
            tracing::info!(slot = name, "created a replication slot");
        }
        Step::Drop(name, why) => tracing::info!(slot = name, why, "dropped a replication slot"),
        Step::Advance(..) | Step::AdvanceLogical { .. } => {}
    }
}

async fn take(instance: &Instance, client: &Client, step: &Step) -> Result<(), PostgresError> {
    let advance = "SELECT pg_replication_slot_advance($1, $2::text::pg_lsn)";
    match step {
        Step::Create(name) => {
            client.execute("SELECT pg_create_physical_replication_slot($1, true)", &[name]).await?;
        }
        Step::CreateLogical { name, database, plugin } => {
            let there = in_database(instance, database).await?;
            let sql = "SELECT pg_create_logical_replication_slot($1, $2)";
            there.execute(sql, &[name, plugin]).await?;
        }
        Step::Drop(name, _) => {
            client.execute("SELECT pg_drop_replication_slot($1)", &[name]).await?;
        }
        Step::Advance(name, to) => {
            client.execute(advance, &[name, &to.to_string()]).await?;
        }
        Step::AdvanceLogical { name, database, to } => {
            let there = in_database(instance, database).await?;
            there.execute(advance, &[name, &to.to_string()]).await?;
        }
    }
    Ok(())
}

/// Logical slots can only be worked on from their own database.
async fn in_database(instance: &Instance, database: &str) -> Result<Client, PostgresError> {
    let mut config = instance.local();
    config.dbname(database).options(format!("-c statement_timeout={}", ADVANCE_WITHIN.as_millis()));
    let (client, driver) = config.connect(NoTls).await?;
    tokio::spawn(async move {
        // The client sees the same error.
        let _ = driver.await;
    });
    Ok(client)
}

/// The state of a logical slot, as the primary keeps it on disk.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Copied {
    /// Its name.
    pub name: String,
    /// The WAL that decoding begins at.
    pub restart: Lsn,
    /// The bytes of its file.
    pub state: Vec<u8>,
}

/// Reads the state of the logical slots `names` on the server behind `source`, as a user that may read its files.
pub async fn states(source: &Client, names: &BTreeSet<String>) -> Result<Vec<Copied>, PostgresError> {
    let names: Vec<&String> = names.iter().collect();
    let sql = "SELECT slot_name::text, restart_lsn::text,
                      pg_read_binary_file('pg_replslot/' || slot_name || '/state')
               FROM pg_replication_slots
               WHERE slot_type = 'logical' AND NOT temporary AND restart_lsn IS NOT NULL
                 AND slot_name = ANY($1) AND NOT pg_is_in_recovery()";
    let rows = source.query(sql, &[&names]).await?;
    let one = |row: &tokio_postgres::Row| {
        let restart = row.get::<_, &str>(1).parse().ok()?;
        Some(Copied { name: row.get(0), restart, state: row.get(2) })
    };
    Ok(rows.iter().filter_map(one).collect())
}

/// `catalog_xmin` of slots on the server behind `source`.
pub async fn catalog_xmins(source: &Client) -> Result<BTreeMap<String, u32>, PostgresError> {
    let sql =
        "SELECT slot_name::text, catalog_xmin::text FROM pg_replication_slots WHERE catalog_xmin IS NOT NULL";
    let rows = source.query(sql, &[]).await?;
    Ok(rows.iter().filter_map(|row| Some((row.get(0), row.get::<_, &str>(1).parse().ok()?))).collect())
}

/// Writes a slot of the stopped server, durably.
///
/// # Errors
/// When the files cannot be written.
pub fn write(data_dir: &Path, slot: &Copied) -> Result<(), PostgresError> {
    let all = data_dir.join("pg_replslot");
    let dir = all.join(&slot.name);
    let attempt = || -> io::Result<()> {
        match fs::remove_dir_all(&dir) {
            Err(e) if e.kind() != io::ErrorKind::NotFound => return Err(e),
            _ => {}
        }
        DirBuilder::new().mode(0o700).create(&dir)?;
        let mut file = File::options().create_new(true).write(true).mode(0o600).open(dir.join("state"))?;
        file.write_all(&slot.state)?;
        file.sync_all()?;
        File::open(&dir)?.sync_all()?;
        File::open(&all)?.sync_all()
    };
    attempt().map_err(PostgresError::io(format!("{}", dir.display())))
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn rows_are_read_as_every_version_shows_them() {
        let row = json!({"slot_name": "b", "slot_type": "physical", "active": true, "restart_lsn": "0/3000028",
            "xmin": null, "catalog_xmin": "731", "wal_status": "reserved"});
        let slot = read(&row);
        assert_eq!((slot.name.as_str(), slot.active, slot.restart), ("b", true, Some(Lsn(0x300_0028))));
        assert!(slot.holds_rows && !slot.invalid && slot.logical.is_none() && !slot.own_failover);
        let row = json!({"slot_name": "s", "slot_type": "logical", "database": "d", "plugin": "p",
            "active": false, "restart_lsn": null, "confirmed_flush_lsn": "0/4", "catalog_xmin": "9",
            "wal_status": "lost", "conflicting": false, "failover": true});
        let slot = read(&row);
        assert_eq!(slot.logical, Some(("d".to_owned(), "p".to_owned())));
        assert_eq!((slot.confirmed, slot.catalog_xmin), (Some(Lsn(4)), Some(9)));
        assert!(slot.invalid && slot.own_failover);
    }

    #[test]
    fn a_copied_slot_replaces_what_was_there() {
        let dir = tempfile::tempdir().expect("a temporary directory");
        fs::create_dir_all(dir.path().join("pg_replslot/s/snap")).expect("creates");
        let slot = Copied { name: "s".to_owned(), restart: Lsn(5), state: vec![1, 2, 3] };
        write(dir.path(), &slot).expect("writes");
        let there = dir.path().join("pg_replslot/s");
        assert_eq!(fs::read(there.join("state")).expect("reads"), [1, 2, 3]);
        assert_eq!(fs::read_dir(&there).expect("reads").count(), 1);
    }
}
