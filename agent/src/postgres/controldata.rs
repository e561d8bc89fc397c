//! pg_control, through pg_controldata.

use pgvane_cluster::ids::{Lsn, Timeline};

use super::{Instance, PostgresError};

/// What pg_control says.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct ControlData {
    /// The system identifier, decimal.
    pub system_identifier: String,
    /// The cluster state, as printed.
    pub state: String,
    /// Position of the latest checkpoint.
    pub checkpoint: Lsn,
    /// Its timeline.
    pub timeline: Timeline,
    /// Minimum recovery ending location; zero for a primary.
    pub min_recovery: Lsn,
    /// Its timeline; zero for a primary.
    pub min_recovery_timeline: Timeline,
    /// Whether pages carry checksums.
    pub checksums: bool,
    /// `wal_log_hints`.
    pub wal_log_hints: bool,
    /// The settings that a standby must not have lower, by name.
    pub floors: Vec<(&'static str, u64)>,
}

/// Settings recorded in pg_control, with their labels there.
const FLOORS: [(&str, &str); 5] = [
    ("max_connections", "max_connections setting"),
    ("max_worker_processes", "max_worker_processes setting"),
    ("max_wal_senders", "max_wal_senders setting"),
    ("max_prepared_transactions", "max_prepared_xacts setting"),
    ("max_locks_per_transaction", "max_locks_per_xact setting"),
];

impl ControlData {
    /// Reads pg_control of `instance`.
    pub async fn read(instance: &Instance) -> Result<ControlData, PostgresError> {
        let mut command = instance.command("pg_controldata");
        command.arg(&instance.data_dir);
        ControlData::parse(&instance.run("pg_controldata", command).await?)
    }

    /// Reads what pg_controldata printed in the C locale.
    pub fn parse(text: &str) -> Result<ControlData, PostgresError> {
        let value = |label: &str| {
            text.lines()
                .find_map(|l| l.strip_prefix(label)?.strip_prefix(':'))
                .map(str::trim)
                .ok_or_else(|| PostgresError::Other(format!("pg_controldata does not tell `{label}`")))
        };
        let wrong = |label: &str, value: &str| {
            PostgresError::Other(format!("pg_controldata tells `{value}` as `{label}`"))
        };
        let lsn = |label: &str| value(label).and_then(|v| v.parse().map_err(|_| wrong(label, v)));
        let number = |label: &str| value(label).and_then(|v| v.parse::<u64>().map_err(|_| wrong(label, v)));
        let timeline = |label: &str| number(label).map(|n| Timeline(u32::try_from(n).unwrap_or(u32::MAX)));
        Ok(ControlData {
            system_identifier: value("Database system identifier")?.to_owned(),
            state: value("Database cluster state")?.to_owned(),
            checkpoint: lsn("Latest checkpoint location")?,
            timeline: timeline("Latest checkpoint's TimeLineID")?,
            min_recovery: lsn("Minimum recovery ending location")?,
            min_recovery_timeline: timeline("Min recovery ending loc's timeline")?,
            checksums: number("Data page checksum version")? > 0,
            wal_log_hints: value("wal_log_hints setting")? == "on",
            floors: FLOORS
                .iter()
                .map(|(name, label)| number(label).map(|n| (*name, n)))
                .collect::<Result<_, _>>()?,
        })
    }

    /// Whether the server was shut down cleanly.
    pub fn is_clean(&self) -> bool {
        self.state == "shut down" || self.state == "shut down in recovery"
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const SAMPLE: &str = "\
pg_control version number:            1300
Database system identifier:           7421234567890123456
Database cluster state:               shut down
Latest checkpoint location:           0/3000028
Latest checkpoint's REDO location:    0/3000028
Latest checkpoint's TimeLineID:       2
Minimum recovery ending location:     0/0
Min recovery ending loc's timeline:   0
wal_level setting:                    replica
wal_log_hints setting:                on
max_connections setting:              100
max_worker_processes setting:         8
max_wal_senders setting:              10
max_prepared_xacts setting:           0
max_locks_per_xact setting:           64
Data page checksum version:           1
";

    #[test]
    fn reads_what_pg_controldata_prints() {
        let c = ControlData::parse(SAMPLE).expect("reads");
        assert_eq!(c.system_identifier, "7421234567890123456");
        assert!(c.is_clean() && c.checksums && c.wal_log_hints);
        assert_eq!((c.checkpoint, c.timeline), (Lsn(0x300_0028), Timeline(2)));
        assert!(c.floors.contains(&("max_locks_per_transaction", 64)));
    }

    #[test]
    fn names_what_is_missing_or_wrong() {
        let e = ControlData::parse("garbage").expect_err("an error");
        assert!(e.to_string().contains("Database system identifier"), "{e}");
        let e = ControlData::parse(&SAMPLE.replace("0/3000028", "soon")).expect_err("an error");
        assert!(e.to_string().contains("`soon`"), "{e}");
    }
}
