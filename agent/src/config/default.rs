//! What holds where agent.toml says nothing: for the checks, and for the reference that is made of `raw`.

use std::time::Duration;

pub(super) use crate::timing::DEFAULT_GUARD_BUDGET as GUARD_BUDGET;

pub(super) const NAMESPACE: &str = "service";
pub(super) const REST_ADDRESS: ([u8; 4], u16) = ([0, 0, 0, 0], 8008);
pub(super) const LISTEN_ADDRESSES: &str = "*";
pub(super) const PORT: u16 = 5432;
pub(super) const DATABASE: &str = "postgres";
pub(super) const SUPERUSER: &str = "postgres";
pub(super) const REPLICATION: &str = "replicator";
pub(super) const CONFIG_BASE_NAME: &str = "postgresql";
pub(super) const PG_CTL_TIMEOUT: Duration = Duration::from_mins(1);
/// Everybody with a password, from anywhere; who should be let in more narrowly is the operator's to say.
pub(super) const PG_HBA: [&str; 3] = [
    "local all all scram-sha-256",
    "host all all all scram-sha-256",
    "host replication all all scram-sha-256",
];
/// Options of initdb, without their dashes.
pub(super) const INITDB: [&str; 2] = ["data-checksums", "encoding=UTF8"];
pub(super) const WATCHDOG_DEVICE: &str = "/dev/watchdog";
pub(super) const WATCHDOG_MARGIN: Duration = Duration::from_secs(5);
pub(super) const LOG_LEVEL: &str = "info";
pub(super) const LOG_FILES: u32 = 4;
pub(super) const LOG_FILE_SIZE: u64 = 25_000_000;
