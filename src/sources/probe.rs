//! Asks one PostgreSQL server what it is, over one connection that is kept.
//!
//! Any role that may log in is enough. To know whether a standby streams, and on which timeline, it has to be a
//! member of `pg_monitor` (or `pg_read_all_stats`): to others `pg_stat_wal_receiver` shows nothing but a process id,
//! and the standby counts as one that does not say (it takes reads while it is less than one segment behind).

use std::time::Duration;

use pgvane_cluster::ids::{Lsn, Timeline};
use pgvane_cluster::records::{MemberRecord, MemberRole, MemberState};
use pgvane_cluster::settings_file::Secret;
use tokio::task::JoinHandle;
use tokio_postgres::error::SqlState;
use tokio_postgres::{Client, NoTls, Row};

use super::census::{Answer, NoReport, Report};
use super::poll::Ask;
use super::{label, url};
use crate::topology::Address;

/// All in one question, so that role, timeline and positions are of one moment. PostgreSQL 10 and newer.
const QUESTION: &str = "
SELECT r.in_recovery,
       CASE WHEN r.in_recovery THEN greatest(w.received_tli, c.timeline_id)
            ELSE ('x' || substr(pg_walfile_name(pg_current_wal_lsn()), 1, 8))::bit(32)::int END AS timeline,
       CASE WHEN r.in_recovery THEN NULL ELSE pg_current_wal_flush_lsn() END::text AS written,
       CASE WHEN r.in_recovery THEN pg_last_wal_receive_lsn() END::text AS received,
       CASE WHEN r.in_recovery THEN pg_last_wal_replay_lsn() END::text AS replayed,
       w.pid IS NOT NULL AS has_receiver, w.status AS receiver,
       s.system_identifier::text AS identity
FROM (SELECT pg_is_in_recovery() AS in_recovery) r
CROSS JOIN pg_control_checkpoint() c
CROSS JOIN pg_control_system() s
LEFT JOIN (SELECT pid, status, received_tli FROM pg_stat_wal_receiver LIMIT 1) w ON true";

/// How to log in to all servers.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Login {
    /// The role.
    pub user: String,
    /// Its password, where the server asks for one.
    pub password: Option<Secret>,
    /// The database.
    pub database: String,
}

/// A server and the connection to it.
#[derive(Debug)]
pub struct ProbedServer {
    address: Address,
    config: tokio_postgres::Config,
    kept: Option<Kept>,
}

#[derive(Debug)]
struct Kept {
    client: Client,
    driver: JoinHandle<()>,
}

impl Drop for Kept {
    fn drop(&mut self) {
        self.driver.abort();
    }
}

impl ProbedServer {
    /// The server at `address`; a connection that takes longer than `timeout` is given up.
    pub fn new(address: Address, login: &Login, timeout: Duration) -> ProbedServer {
        let mut config = tokio_postgres::Config::new();
        config.host(&address.0).port(address.1).connect_timeout(timeout);
        config.user(&login.user).dbname(&login.database).application_name("pgvane probe");
        if let Some(password) = &login.password {
            config.password(password.expose());
        }
        ProbedServer { address, config, kept: None }
    }

    async fn connect(&self) -> Result<Kept, tokio_postgres::Error> {
        let (client, connection) = self.config.connect(NoTls).await?;
        let driver = tokio::spawn(async move {
            // Who asks next is told that it is gone.
            let _ = connection.await;
        });
        Ok(Kept { client, driver })
    }
}

impl Ask for ProbedServer {
    async fn ask(&mut self) -> Answer {
        // Taken, so that a connection which keeps silent until the timeout is not asked again.
        let kept = match self.kept.take().filter(|kept| !kept.client.is_closed()) {
            Some(kept) => kept,
            None => self.connect().await.map_err(|error| judged(&error))?,
        };
        let row = kept.client.query_one(QUESTION, &[]).await.map_err(|error| judged(&error))?;
        let report = report(&row, &self.address)?;
        self.kept = Some(kept);
        Ok(report)
    }

    async fn lost(&mut self) {
        let Some(kept) = &mut self.kept else { return std::future::pending().await };
        // Only its end matters.
        let _ = (&mut kept.driver).await;
        self.kept = None;
    }
}

/// What an error says of the server: one that nobody listens for, or that says itself that it takes no sessions, is
/// gone. It may come back as another than it was, so nobody is to be sent there meanwhile.
fn judged(error: &tokio_postgres::Error) -> NoReport {
    let cause = std::error::Error::source(error);
    if let Some(said) = error.as_db_error() {
        let why = format!("{} ({})", said.message(), said.code().code());
        let ends = [SqlState::ADMIN_SHUTDOWN, SqlState::CRASH_SHUTDOWN, SqlState::CANNOT_CONNECT_NOW];
        return if ends.contains(said.code()) { NoReport::Gone(why) } else { NoReport::Silent(why) };
    }
    // The library's own words say only that there was an error.
    let why = cause.map_or_else(|| error.to_string(), ToString::to_string);
    let refused = cause
        .and_then(|cause| cause.downcast_ref::<std::io::Error>())
        .is_some_and(|error| error.kind() == std::io::ErrorKind::ConnectionRefused);
    if refused { NoReport::Gone(why) } else { NoReport::Silent(why) }
}

fn report(row: &Row, address: &Address) -> Answer {
    let strange = |error: tokio_postgres::Error| format!("its answer is strange: {error}");
    let text = |column: &str| row.try_get::<_, Option<String>>(column).map_err(strange);
    let lsn = |column: &str| text(column).map(|text| text.and_then(|text| text.parse::<Lsn>().ok()));
    let in_recovery: bool = row.try_get("in_recovery").map_err(strange)?;
    let timeline: Option<i32> = row.try_get("timeline").map_err(strange)?;
    let has_receiver: bool = row.try_get("has_receiver").map_err(strange)?;
    let (received, replayed) = (lsn("received")?, lsn("replayed")?);
    let role = if in_recovery { MemberRole::Replica } else { MemberRole::Primary };
    let record = MemberRecord {
        conn_url: Some(url(address)),
        xlog_location: lsn("written")?.or(received.max(replayed)),
        receive_lsn: received,
        replay_lsn: replayed,
        // A receiver without a status is one that we may not look at.
        replication_state: match (text("receiver")?, has_receiver) {
            _ if !in_recovery => None,
            (None, true) => None,
            (None, false) => Some("in archive recovery".to_owned()),
            (status, _) => status,
        },
        timeline: timeline.map(|timeline| Timeline(timeline.cast_unsigned())),
        ..MemberRecord::new(MemberState::Running, role)
    };
    let name = label(address);
    Ok(Report { name, record, leads: !in_recovery, is_sync: false, identity: text("identity")? })
}
