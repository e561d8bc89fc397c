//! One standing connection to the local server, one query that tells everything decisions and the API need.

use std::time::Duration;

use pgvane_cluster::clock::Tick;
use pgvane_cluster::ids::{Lsn, Timeline};
use tokio_postgres::{Client, Row};

use super::pending::Held;
use super::tls::{self, ConnectError};
use super::{Instance, identify};

/// Bound on one answer (trap 12: slow SQL is not a dead primary; the last answer counts on).
const ANSWER_WITHIN: Duration = Duration::from_secs(2);

/// The server's answer.
#[derive(Clone, PartialEq, Debug)]
pub struct SqlView {
    /// When it was asked.
    pub asked_at: Tick,
    /// Whether it is in recovery.
    pub in_recovery: bool,
    /// The timeline it is on.
    pub timeline: Timeline,
    /// The timeline of its last checkpoint.
    pub checkpoint_timeline: Option<Timeline>,
    /// Standby: the timeline its WAL receiver is connected on.
    pub receives: Option<Timeline>,
    /// Primary: flushed WAL.
    pub flushed: Option<Lsn>,
    /// Standby: received WAL.
    pub received: Option<Lsn>,
    /// Standby: replayed WAL.
    pub replayed: Option<Lsn>,
    /// Standby: commit time of the last replayed transaction, as text with zone.
    pub replayed_at: Option<String>,
    /// Standby: whether replay is paused.
    pub replay_paused: bool,
    /// Standby: whether it streams.
    pub streaming: bool,
    /// Standby: host and port in primary_conninfo.
    pub upstream: Option<(String, u16)>,
    /// When the postmaster started, as text with zone.
    pub started_at: String,
    /// The same in seconds since 1970.
    pub started_epoch: f64,
    /// `server_version_num`.
    pub version: i32,
    /// Settings that wait for a restart by the server's own word, and those on its command line.
    pub held: Vec<Held>,
    /// Standby: the end of the upstream's WAL as it last told.
    pub latest_end: Option<Lsn>,
    /// Standby: whether WAL may come from an archive.
    pub restores: bool,
    /// `synchronous_standby_names` in force.
    pub standby_names: String,
    /// `synchronous_commit`.
    pub synchronous_commit: String,
    /// Who streams from here.
    pub replication: Vec<Walsender>,
    /// Replication slots: their names with the WAL that they keep from, or that a logical one's subscriber has.
    pub slots: Vec<(String, Option<Lsn>)>,
}

/// A row of pg_stat_replication.
#[derive(Clone, PartialEq, Debug)]
pub struct Walsender {
    /// The user.
    pub usename: String,
    /// The name the standby gave.
    pub application_name: String,
    /// Its address; absent over a Unix socket.
    pub client_addr: Option<String>,
    /// `streaming`, `catchup` and so on.
    pub state: String,
    /// `async`, `sync` and so on.
    pub sync_state: String,
    /// Its priority as a synchronous standby.
    pub sync_priority: i32,
    /// The walsender's process.
    pub pid: i32,
    /// When the standby connected, in seconds since 1970.
    pub connected_epoch: f64,
    /// What the standby has written.
    pub written: Lsn,
    /// What the standby has flushed.
    pub flushed: Lsn,
    /// What the standby has replayed.
    pub replayed: Lsn,
}

impl SqlView {
    /// Primary: flushed WAL; standby: the larger of received and replayed.
    pub fn position(&self) -> Lsn {
        if self.in_recovery { self.received.max(self.replayed) } else { self.flushed }.unwrap_or_default()
    }
}

/// Why there is no answer.
#[derive(Clone, PartialEq, Eq, Debug, thiserror::Error)]
pub enum ProbeError {
    /// It runs and refuses connections for now (SQLSTATE 57P03).
    #[error("PostgreSQL does not accept connections yet: {0}")]
    NotYet(String),
    /// Nobody listens.
    #[error("nobody listens: {0}")]
    Refused(String),
    /// No answer in time.
    #[error("no answer within {0:?}")]
    TimedOut(Duration),
    /// Anything else.
    #[error("{0}")]
    Other(String),
}

/// The standing connection.
#[derive(Default)]
pub struct Probe {
    client: Option<Client>,
    replays: Option<Replays>,
}

/// The timeline that a standby replays, as far as it was told. A standby changes it only through a receiver,
/// which shows, or while it replays WAL that lies there already.
struct Replays {
    started_at: String,
    timeline: Timeline,
    /// For what was not told by a receiver: how far it had replayed.
    at: Option<Lsn>,
}

/// `to_jsonb` keeps the row narrow; columns of views that a version lacks are simply absent there.
const QUERY: &str = "
SELECT r.in_recovery,
       CASE WHEN r.in_recovery THEN 0
            ELSE ('x' || substr(pg_walfile_name(pg_current_wal_lsn()), 1, 8))::bit(32)::int END AS wal_timeline,
       c.timeline_id AS checkpoint_timeline,
       (SELECT min_recovery_end_timeline FROM pg_control_recovery()) AS recovery_timeline,
       CASE WHEN r.in_recovery THEN NULL ELSE pg_current_wal_flush_lsn()::text END AS flushed,
       CASE WHEN r.in_recovery THEN pg_last_wal_receive_lsn()::text END AS received,
       CASE WHEN r.in_recovery THEN pg_last_wal_replay_lsn()::text END AS replayed,
       CASE WHEN r.in_recovery THEN pg_last_xact_replay_timestamp()::text END AS replayed_at,
       CASE WHEN r.in_recovery THEN pg_is_wal_replay_paused() ELSE false END AS replay_paused,
       w.status AS receiver, w.received_tli AS receiver_timeline, w.written_lsn::text AS written,
       current_setting('primary_conninfo', true) AS conninfo,
       pg_postmaster_start_time()::text AS started_at,
       extract(epoch FROM pg_postmaster_start_time())::float8 AS started_epoch,
       current_setting('server_version_num')::int AS version,
       (SELECT coalesce(jsonb_agg(jsonb_build_object('name', name, 'shown', current_setting(name),
                   'setting', setting, 'unit', unit, 'pending', pending_restart)), '[]')::text
            FROM pg_settings WHERE pending_restart OR name IN ('max_connections', 'max_locks_per_transaction',
                'max_worker_processes', 'max_prepared_transactions', 'wal_level', 'track_commit_timestamp',
                'max_wal_senders', 'max_replication_slots', 'wal_log_hints')) AS held,
       w.latest_end_lsn::text AS latest_end,
       coalesce(current_setting('restore_command', true), '') <> '' AS restores,
       current_setting('synchronous_standby_names') AS standby_names,
       current_setting('synchronous_commit') AS synchronous_commit,
       (SELECT coalesce(jsonb_agg(to_jsonb(s)), '[]')::text FROM (
            SELECT usename, application_name, client_addr::text, state, sync_state, sync_priority, pid,
                   extract(epoch FROM backend_start)::float8 AS connected_epoch,
                   write_lsn::text, flush_lsn::text, replay_lsn::text
            FROM pg_stat_replication) s) AS replication,
       (SELECT coalesce(jsonb_agg(jsonb_build_array(slot_name, coalesce(confirmed_flush_lsn, restart_lsn)::text)), '[]')::text
            FROM pg_replication_slots WHERE NOT temporary) AS slots
FROM (SELECT pg_is_in_recovery() AS in_recovery) r
CROSS JOIN pg_control_checkpoint() c
LEFT JOIN (SELECT status, received_tli, written_lsn, latest_end_lsn FROM pg_stat_wal_receiver LIMIT 1) w ON true";

impl Probe {
    /// One that has its connection already.
    pub fn with(client: Client) -> Probe {
        Probe { client: Some(client), replays: None }
    }

    /// Asks the server; connects first where needed.
    pub async fn ask(&mut self, instance: &Instance) -> Result<SqlView, ProbeError> {
        let answer = tokio::time::timeout(ANSWER_WITHIN, self.try_ask(instance)).await;
        let answer = answer.unwrap_or(Err(ProbeError::TimedOut(ANSWER_WITHIN)));
        if answer.is_err() {
            self.client = None;
        }
        answer
    }

    async fn try_ask(&mut self, instance: &Instance) -> Result<SqlView, ProbeError> {
        let client = match self.client.take().filter(|c| !c.is_closed()) {
            Some(client) => client,
            None => connect(instance).await?,
        };
        let asked_at = Tick::now();
        let row = client.query_one(QUERY, &[]).await.map_err(|e| error(&e))?;
        self.client = Some(client);
        let mut view = view(&row, asked_at).map_err(|e| ProbeError::Other(e.to_string()))?;
        if view.in_recovery {
            self.settle_timeline(instance, &mut view).await;
        }
        Ok(view)
    }

    /// Finds out what a standby replays: what its receiver says or said, else what the server itself says.
    async fn settle_timeline(&mut self, instance: &Instance, view: &mut SqlView) {
        let told = match (view.receives, &self.replays) {
            (Some(timeline), _) => Some((timeline, None)),
            (None, Some(known)) if known.started_at == view.started_at => {
                (known.at.is_none() || known.at == view.replayed).then_some((known.timeline, known.at))
            }
            (None, _) => None,
        };
        let told = match told {
            Some(told) => Some(told),
            None => match identify::timeline(instance).await {
                Ok(timeline) => Some((timeline, view.replayed)),
                Err(error) => {
                    tracing::debug!(%error, "the server does not tell its timeline");
                    None
                }
            },
        };
        if let Some((timeline, at)) = told {
            view.timeline = view.timeline.max(timeline);
            self.replays = Some(Replays { started_at: view.started_at.clone(), timeline, at });
        }
    }
}

/// A connection to the local server with short statements; its driver ends with it.
pub async fn connect(instance: &Instance) -> Result<Client, ProbeError> {
    let mut config = instance.local();
    config.options("-c statement_timeout=2s -c search_path=pg_catalog");
    tls::connect(&config, &instance.superuser).await.map_err(|e| match e {
        ConnectError::Settings(why) => ProbeError::Other(why),
        ConnectError::Postgres(e) => error(&e),
    })
}

fn error(e: &tokio_postgres::Error) -> ProbeError {
    if let Some(db) = e.as_db_error() {
        return if *db.code() == tokio_postgres::error::SqlState::CANNOT_CONNECT_NOW {
            ProbeError::NotYet(db.message().to_owned())
        } else {
            ProbeError::Other(db.to_string())
        };
    }
    let source = std::error::Error::source(e).map_or_else(|| e.to_string(), |s| format!("{e}: {s}"));
    let refused =
        std::error::Error::source(e).and_then(|s| s.downcast_ref::<std::io::Error>()).is_some_and(|io| {
            matches!(io.kind(), std::io::ErrorKind::ConnectionRefused | std::io::ErrorKind::NotFound)
        });
    if refused { ProbeError::Refused(source) } else { ProbeError::Other(source) }
}

fn view(row: &Row, asked_at: Tick) -> Result<SqlView, tokio_postgres::Error> {
    let lsn = |column: &str| -> Result<Option<Lsn>, tokio_postgres::Error> {
        Ok(row.try_get::<_, Option<&str>>(column)?.and_then(|text| text.parse().ok()))
    };
    let in_recovery: bool = row.try_get("in_recovery")?;
    let number = |n: i32| Timeline(u32::try_from(n).unwrap_or(0));
    let checkpoint_timeline = number(row.try_get("checkpoint_timeline")?);
    let receives = row.try_get::<_, Option<i32>>("receiver_timeline")?.map(number);
    let timeline = if in_recovery {
        checkpoint_timeline.max(number(row.try_get("recovery_timeline")?))
    } else {
        number(row.try_get("wal_timeline")?)
    };
    let written = lsn("written")?;
    Ok(SqlView {
        asked_at,
        in_recovery,
        timeline,
        checkpoint_timeline: Some(checkpoint_timeline),
        receives,
        flushed: lsn("flushed")?,
        received: lsn("received")?.max(written),
        replayed: lsn("replayed")?,
        replayed_at: row.try_get("replayed_at")?,
        replay_paused: row.try_get("replay_paused")?,
        streaming: row.try_get::<_, Option<&str>>("receiver")? == Some("streaming"),
        upstream: row.try_get::<_, Option<&str>>("conninfo")?.and_then(conninfo_address),
        started_at: row.try_get("started_at")?,
        started_epoch: row.try_get("started_epoch")?,
        version: row.try_get("version")?,
        held: serde_json::from_str(row.try_get("held")?).unwrap_or_default(),
        latest_end: lsn("latest_end")?,
        restores: row.try_get("restores")?,
        standby_names: row.try_get("standby_names")?,
        synchronous_commit: row.try_get("synchronous_commit")?,
        replication: walsenders(row.try_get("replication")?),
        slots: slots(row.try_get("slots")?),
    })
}

fn walsenders(json: &str) -> Vec<Walsender> {
    let rows: Vec<serde_json::Value> = serde_json::from_str(json).unwrap_or_default();
    let text = |v: &serde_json::Value, key: &str| v[key].as_str().unwrap_or_default().to_owned();
    let number = |v: &serde_json::Value, key: &str| v[key].as_i64().and_then(|n| i32::try_from(n).ok());
    let lsn =
        |v: &serde_json::Value, key: &str| v[key].as_str().and_then(|l| l.parse().ok()).unwrap_or_default();
    rows.iter()
        .map(|v| Walsender {
            usename: text(v, "usename"),
            application_name: text(v, "application_name"),
            client_addr: v["client_addr"].as_str().map(str::to_owned),
            state: text(v, "state"),
            sync_state: text(v, "sync_state"),
            sync_priority: number(v, "sync_priority").unwrap_or(0),
            pid: number(v, "pid").unwrap_or(0),
            connected_epoch: v["connected_epoch"].as_f64().unwrap_or(0.0),
            written: lsn(v, "write_lsn"),
            flushed: lsn(v, "flush_lsn"),
            replayed: lsn(v, "replay_lsn"),
        })
        .collect()
}

fn slots(json: &str) -> Vec<(String, Option<Lsn>)> {
    let rows: Vec<(String, Option<String>)> = serde_json::from_str(json).unwrap_or_default();
    rows.into_iter().map(|(name, lsn)| (name, lsn.and_then(|l| l.parse().ok()))).collect()
}

/// Host and port of a conninfo string as this agent writes it.
fn conninfo_address(conninfo: &str) -> Option<(String, u16)> {
    let value = |key: &str| {
        let start = conninfo.find(&format!("{key}="))? + key.len() + 1;
        let rest = &conninfo[start..];
        match rest.strip_prefix('\'') {
            Some(quoted) => quoted.split('\'').next(),
            None => rest.split_whitespace().next(),
        }
    };
    Some((value("host")?.to_owned(), value("port")?.parse().ok()?))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn addresses_in_conninfo() {
        let ours = "user='rep' host='10.0.0.1' port='5433' application_name='b'";
        assert_eq!(conninfo_address(ours), Some(("10.0.0.1".to_owned(), 5433)));
        assert_eq!(conninfo_address("host=db port=5432 user=x"), Some(("db".to_owned(), 5432)));
        assert_eq!(conninfo_address(""), None);
    }
}
