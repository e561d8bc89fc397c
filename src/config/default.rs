//! What holds where proxy.toml says nothing: for the checks, and for the reference that is made of `raw`.

use std::time::Duration;

use pgvane_cluster::settings_file::Interval;

const SECOND: Duration = Duration::from_secs(1);

pub(super) const LOG_LEVEL: &str = "info";
pub(super) const ADMIN_PORT: u16 = 8009;
pub(super) const READY_GRACE: Duration = Duration::from_secs(30);
pub(super) const DRAIN_NOTICE: Duration = Duration::ZERO;
pub(super) const DRAIN_TIMEOUT: Duration = Duration::from_secs(30);
pub(super) const DRAIN_HANDED_OVER: Duration = Duration::from_mins(10);
pub(super) const KEEPALIVE_IDLE: Duration = Duration::from_secs(10);
pub(super) const KEEPALIVE_INTERVAL: Duration = Duration::from_secs(5);
pub(super) const KEEPALIVE_COUNT: u32 = 3;
pub(super) const USER_TIMEOUT: Duration = Duration::from_secs(20);
pub(super) const NAMESPACE: &str = "service";
pub(super) const REREAD_INTERVAL: Duration = SECOND;
pub(super) const CHECK_INTERVAL: Duration = SECOND;
pub(super) const CHECK_TIMEOUT: Duration = SECOND;
pub(super) const RISE: u32 = 1;
pub(super) const FALL: u32 = 3;
pub(super) const DATABASE: &str = "postgres";
pub(super) const MAX_SESSIONS: usize = 10_000;
pub(super) const HOLD_LIMIT: usize = 5_000;
pub(super) const HOLD_TIMEOUT: Duration = Duration::from_mins(1);
pub(super) const CONNECT_TIMEOUT: Duration = SECOND;
pub(super) const ANSWER_TIMEOUT: Duration = Duration::from_secs(3);
pub(super) const STARTUP_TIMEOUT: Duration = Duration::from_secs(10);
/// As PostgreSQL's `unix_socket_permissions`: who may connect is decided by the server, as on the network.
pub(super) const UNIX_MODE: u32 = 0o777;

/// As the file would have it.
pub(super) fn shown(duration: Duration) -> Interval {
    Interval(duration)
}
