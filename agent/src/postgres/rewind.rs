//! Did our history part from the leader's, and if so: pg_rewind (contract 8.3).

use std::path::PathBuf;
use std::time::Duration;

use pgvane_cluster::ids::{Lsn, Timeline};
use pgvane_cluster::records::HistoryEntry;

use super::controldata::ControlData;
use super::files::Files;
use super::{Instance, PostgresError, data_dir, identify, patience, recovery, settings, tls};
use crate::config::HostPort;
use crate::history;

/// The version of pg_rewind from which on it can be told where the configuration is.
const CONFIG_FILE_SINCE: u32 = 15;

/// What is compared.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct LeaderHistory {
    /// The timeline it writes.
    pub timeline: Timeline,
    /// The timeline its last checkpoint was on; below `timeline` pg_rewind would be fooled (trap 10).
    pub checkpointed: Timeline,
    /// The timelines before.
    pub ended: Vec<HistoryEntry>,
}

impl LeaderHistory {
    /// Where a timeline before its own ended.
    pub fn end_of(&self, timeline: Timeline) -> Option<Lsn> {
        self.ended.iter().find(|e| e.timeline == timeline).map(|e| e.switch_lsn)
    }
}

/// What the comparison says.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Verdict {
    /// Our WAL is part of the leader's history.
    CanFollow,
    /// It is not, or cannot be known to be.
    NeedsRewind,
}

/// What pg_rewind came to.
#[derive(Debug)]
pub enum Rewound {
    /// The data follow the leader's history.
    Done,
    /// It cannot be tried here; the text says why.
    Impossible(String),
    /// It failed before it changed anything.
    Untouched(PostgresError),
    /// It failed; the directory may be unusable.
    Failed(PostgresError),
}

/// Compares a stopped server's pg_control with the leader's history.
///
/// A server that was shut down cleanly as a primary has nothing after its shutdown checkpoint, so it can follow
/// when the leader's history goes past the start of that record. A standby can when it has replayed no further
/// than the point where its timeline ended. One that crashed as a primary may have WAL beyond what pg_control
/// tells, so it never can without a look at its WAL, which is pg_rewind's job.
///
/// Timelines are told apart by number here; [`super::lineage::judge`] knows better.
pub fn compare(local: &ControlData, leader: &LeaderHistory) -> Verdict {
    let is_standby = is_standby(local);
    let (timeline, position) = reached(local);
    if timeline == leader.timeline {
        return Verdict::CanFollow;
    }
    match leader.end_of(timeline) {
        Some(switch) if is_standby && position <= switch => Verdict::CanFollow,
        Some(switch) if local.is_clean() && !is_standby && switch > position => Verdict::CanFollow,
        Some(_) | None => Verdict::NeedsRewind,
    }
}

/// Whether a stopped server was a standby.
pub fn is_standby(local: &ControlData) -> bool {
    local.state.ends_with("recovery") && local.state != "in crash recovery"
}

/// The timeline and place that a stopped server's data surely reach: a standby's least recovery, a primary's last
/// checkpoint record. The end of a promotion is noted as a least recovery too, until the first checkpoint after it.
pub fn reached(local: &ControlData) -> (Timeline, Lsn) {
    if local.min_recovery > Lsn(0) && (is_standby(local) || local.min_recovery_timeline > local.timeline) {
        (local.min_recovery_timeline.max(local.timeline), local.min_recovery)
    } else {
        (local.timeline, local.checkpoint)
    }
}

/// What a server answers that may be a primary.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Source {
    /// It must be one.
    Primary,
    /// In a standby cluster WAL comes from standbys, too.
    Any,
}

/// Asks the leader for its history, as the rewind user: the functions it needs are those pg_rewind needs.
pub async fn leader_history(
    instance: &Instance,
    leader: &HostPort,
    source: Source,
) -> Result<LeaderHistory, PostgresError> {
    let client = connect(instance, leader).await?;
    let row = client
        .query_one(
            "SELECT pg_is_in_recovery(), timeline_id,
                    CASE WHEN pg_is_in_recovery() THEN 0
                         ELSE ('x' || substr(pg_walfile_name(pg_current_wal_lsn()), 1, 8))::bit(32)::int END
             FROM pg_control_checkpoint()",
            &[],
        )
        .await?;
    let in_recovery: bool = row.get(0);
    if in_recovery && source == Source::Primary {
        return Err(PostgresError::Other(format!("{leader} is in recovery; it is no primary yet")));
    }
    let timeline = |n: i32| Timeline(u32::try_from(n).unwrap_or(0));
    let (mut checkpointed, mut current) = (timeline(row.get(1)), timeline(row.get(2)));
    if in_recovery {
        // SQL tells late which timeline a standby replays.
        let replays = identify::timeline_at(&instance.replication, &leader.host, leader.port).await;
        current = replays.map_err(PostgresError::io(format!("IDENTIFY_SYSTEM on {leader}")))?;
        // It cannot be told to write a checkpoint.
        checkpointed = current;
    }
    let mut ended = Vec::new();
    if current > Timeline(1) {
        let file = format!("pg_wal/{:08X}.history", current.0);
        let row = client.query_one("SELECT pg_read_binary_file($1)", &[&file]).await?;
        ended = history::parse_file(&String::from_utf8_lossy(row.get(0)));
    }
    Ok(LeaderHistory { timeline: current, checkpointed, ended })
}

/// Makes the leader write a checkpoint on its new timeline, so that pg_rewind sees it.
pub async fn checkpoint_leader(instance: &Instance, leader: &HostPort) -> Result<(), PostgresError> {
    let client = connect(instance, leader).await?;
    Ok(client.batch_execute("CHECKPOINT").await?)
}

/// A connection to another member as the rewind user.
pub async fn connect(
    instance: &Instance,
    leader: &HostPort,
) -> Result<tokio_postgres::Client, PostgresError> {
    let mut config = tokio_postgres::Config::new();
    config
        .host(&leader.host)
        .port(leader.port)
        .user(&instance.rewind.username)
        .dbname(&instance.database)
        .application_name("pgvane rewind check")
        .connect_timeout(Duration::from_secs(3));
    patience::set(&mut config);
    if let Some(password) = &instance.rewind.password {
        config.password(password.expose());
    }
    Ok(tls::connect(&config, &instance.rewind).await?)
}

/// Rewinds the stopped server to the leader's history.
/// `restores`: missing WAL can be fetched with the server's own restore_command. It is given up when `over` completes.
pub async fn run(
    instance: &Instance,
    local: &ControlData,
    leader: &HostPort,
    (enabled, restores): (bool, bool),
    over: impl Future<Output = ()>,
) -> Rewound {
    if !enabled {
        return Rewound::Impossible("use_pg_rewind is off".to_owned());
    }
    if !local.checksums && !local.wal_log_hints {
        return Rewound::Impossible("neither data checksums nor wal_log_hints are on".to_owned());
    }
    // It may be in a directory that is emptied at every boot: /tmp/pgpass0 is in most patroni.yml.
    if let Err(error) = settings::write_pgpass(instance) {
        return Rewound::Untouched(error);
    }
    if let Err(error) = data_dir::mark(instance) {
        return Rewound::Failed(error);
    }
    let mut source = settings::tool_connection(instance, &instance.rewind, leader, "pgvane_rewind");
    source.push_str(&format!(" dbname={}", quote(&instance.database)));
    let mut command = instance.command("pg_rewind");
    command.arg("--target-pgdata").arg(&instance.data_dir).arg("--source-server").arg(source);
    if !Files::are_in_place(instance) && recovery::version(instance).is_some_and(|v| v >= CONFIG_FILE_SINCE) {
        command.arg("--config-file").arg(Files::of(instance).conf);
    }
    command.arg("--progress");
    if restores {
        command.arg("--restore-target-wal");
    }
    command.args(&instance.rewind_options);
    match instance.run_until("pg_rewind", command, over).await {
        Ok(_) => match data_dir::unmark(instance) {
            Ok(()) => Rewound::Done,
            Err(error) => Rewound::Failed(error),
        },
        Err(error) if began_to_copy(&error.to_string()) => Rewound::Failed(error),
        Err(error) => match data_dir::unmark(instance) {
            Ok(()) => Rewound::Untouched(error),
            Err(unmarked) => Rewound::Failed(unmarked),
        },
    }
}

fn quote(value: &str) -> String {
    format!("'{}'", value.replace('\\', "\\\\").replace('\'', "\\'"))
}

/// Present while pg_rewind runs or a copy is made; left behind, what is in the directory is half of something and
/// must be cloned again.
pub fn marker(instance: &Instance) -> PathBuf {
    let mut path = instance.data_dir.as_os_str().to_owned();
    path.push(".rewinding");
    path.into()
}

/// Whether pg_rewind, by the end of what it said, got to the point where it changes files.
fn began_to_copy(said: &str) -> bool {
    said.contains("need to copy") || said.contains("copied")
}

#[cfg(test)]
pub(super) mod tests {
    use super::*;

    pub(in crate::postgres) fn local(
        state: &str,
        timeline: u32,
        checkpoint: u64,
        min_recovery: u64,
    ) -> ControlData {
        ControlData {
            system_identifier: "7".to_owned(),
            state: state.to_owned(),
            checkpoint: Lsn(checkpoint),
            timeline: Timeline(timeline),
            min_recovery: Lsn(min_recovery),
            min_recovery_timeline: Timeline(timeline),
            checksums: true,
            wal_log_hints: true,
            floors: vec![],
        }
    }

    fn leader(timeline: u32, switch: u64) -> LeaderHistory {
        let ended = HistoryEntry {
            timeline: Timeline(timeline - 1),
            switch_lsn: Lsn(switch),
            reason: String::new(),
            timestamp: None,
            new_leader: None,
        };
        LeaderHistory { timeline: Timeline(timeline), checkpointed: Timeline(timeline), ended: vec![ended] }
    }

    #[test]
    fn a_clean_former_primary_follows_when_its_last_record_is_in_the_history() {
        assert_eq!(compare(&local("shut down", 1, 100, 0), &leader(2, 220)), Verdict::CanFollow);
        assert_eq!(compare(&local("shut down", 1, 100, 0), &leader(2, 100)), Verdict::NeedsRewind);
        assert_eq!(compare(&local("shut down", 1, 100, 0), &leader(2, 50)), Verdict::NeedsRewind);
    }

    #[test]
    fn a_crashed_primary_is_never_taken_on_trust() {
        assert_eq!(compare(&local("in production", 1, 100, 0), &leader(2, 220)), Verdict::NeedsRewind);
    }

    #[test]
    fn a_standby_follows_up_to_the_switch() {
        let state = "shut down in recovery";
        assert_eq!(compare(&local(state, 1, 100, 220), &leader(2, 220)), Verdict::CanFollow);
        assert_eq!(compare(&local(state, 1, 100, 221), &leader(2, 220)), Verdict::NeedsRewind);
        assert_eq!(compare(&local("in archive recovery", 2, 100, 300), &leader(2, 220)), Verdict::CanFollow);
    }

    #[test]
    fn a_timeline_the_leader_never_had_needs_a_rewind() {
        assert_eq!(compare(&local("shut down", 3, 100, 0), &leader(2, 220)), Verdict::NeedsRewind);
    }

    #[test]
    fn what_pg_rewind_said_tells_whether_it_changed_anything() {
        let early = "pg_rewind: connected to server\npg_rewind: fatal: could not find previous WAL record";
        assert!(!began_to_copy(early));
        assert!(!began_to_copy("pg_rewind: error: connection to server at \"a\" failed"));
        assert!(began_to_copy("pg_rewind: need to copy 53 MB (total source directory size is 76 MB)\nfatal"));
        assert!(began_to_copy("12288/54321 kB (22%) copied\npg_rewind: fatal: connection lost"));
    }
}
