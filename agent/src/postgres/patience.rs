//! How long a server that has died is waited for. The kernel's own patience is two hours where nothing is under way, and a
//! quarter of an hour where something was not acknowledged.

use std::time::Duration;

use tokio_postgres::Config;

const IDLE: Duration = Duration::from_secs(5);
const INTERVAL: Duration = Duration::from_secs(2);
const PROBES: u32 = 3;
/// The same for what was sent to it.
const UNACKNOWLEDGED: Duration = Duration::from_secs(11);

/// For a standby. Of what it sends, it waits for answers itself (`wal_receiver_timeout`).
pub(super) fn of_standby() -> [(&'static str, String); 3] {
    [
        ("keepalives_idle", IDLE.as_secs().to_string()),
        ("keepalives_interval", INTERVAL.as_secs().to_string()),
        ("keepalives_count", PROBES.to_string()),
    ]
}

/// For a program.
pub(super) fn of_program() -> impl Iterator<Item = (&'static str, String)> {
    of_standby().into_iter().chain([("tcp_user_timeout", UNACKNOWLEDGED.as_millis().to_string())])
}

/// The same for a connection of our own.
pub(super) fn set(config: &mut Config) {
    config
        .keepalives_idle(IDLE)
        .keepalives_interval(INTERVAL)
        .keepalives_retries(PROBES)
        .tcp_user_timeout(UNACKNOWLEDGED);
}
