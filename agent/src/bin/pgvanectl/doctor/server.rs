//! PostgreSQL on this node, where it runs: settings with which a failover does not work, or loses what was confirmed.

use std::collections::BTreeMap;

use pgvane_agent::config::Config;
use pgvane_agent::postgres::tls::{ConnectError, connect};
use tokio_postgres::SimpleQueryMessage;

use super::finding::Finding;

/// The oldest version that the agent runs.
const OLDEST: u32 = 13;

const ASKED: &str = "SELECT name, setting FROM pg_settings WHERE name IN ('server_version_num', 'fsync', \
                     'full_page_writes', 'wal_level', 'wal_log_hints', 'data_checksums', 'hot_standby', \
                     'max_wal_senders', 'max_replication_slots', 'synchronous_commit', 'archive_mode')";

/// Asks the server as the agent would; `members` is how many the cluster has.
pub(super) async fn look(config: &Config, members: usize) -> Vec<Finding> {
    match settings(config).await {
        Ok(settings) => judge(&settings, members),
        Err(why) => vec![Finding::warning(
            "PostgreSQL's settings",
            format!("could not be asked: {why}"),
            "run this again once PostgreSQL runs, as the user that the agent runs as",
        )],
    }
}

async fn settings(config: &Config) -> Result<BTreeMap<String, String>, String> {
    let postgresql = &config.postgresql;
    let mut client = tokio_postgres::Config::new();
    client.host(&postgresql.connect_address.host).port(postgresql.connect_address.port);
    client.user(&postgresql.superuser.username).dbname(&postgresql.database).application_name("pgvanectl");
    client.connect_timeout(std::time::Duration::from_secs(3));
    if let Some(password) = &postgresql.superuser.password {
        client.password(password.expose());
    }
    let why = |e: tokio_postgres::Error| e.as_db_error().map_or_else(|| e.to_string(), ToString::to_string);
    let client = connect(&client, &postgresql.superuser).await.map_err(|e| match e {
        ConnectError::Settings(text) => text,
        ConnectError::Postgres(e) => why(e),
    })?;
    let answer = client.simple_query(ASKED).await.map_err(why)?;
    let rows = answer.iter().filter_map(|message| match message {
        SimpleQueryMessage::Row(row) => Some((row.get(0)?.to_owned(), row.get(1)?.to_owned())),
        _ => None,
    });
    Ok(rows.collect())
}

fn judge(settings: &BTreeMap<String, String>, members: usize) -> Vec<Finding> {
    let get = |name: &str| settings.get(name).map_or("", String::as_str);
    let number = |name: &str| get(name).parse::<u64>().unwrap_or_default();
    let mut findings = Vec::new();
    let version = number("server_version_num") / 10_000;
    if version < u64::from(OLDEST) {
        let advice = format!("upgrade to {OLDEST} or newer");
        findings.push(Finding::critical("PostgreSQL's version", version.to_string(), advice));
    }
    for (name, why) in [
        ("fsync", "a crash loses what was confirmed, and may leave data that no server can read"),
        ("full_page_writes", "a crash may leave torn pages"),
        ("hot_standby", "a replica takes no reads, and the agent cannot ask it where it is"),
    ] {
        if get(name) == "off" {
            let set = format!("set {name} to on (pgvanectl edit-config --pg {name}=on)");
            findings.push(Finding::critical(name, format!("off: {why}"), set));
        }
    }
    if get("wal_level") == "minimal" {
        findings.push(Finding::critical(
            "wal_level",
            "minimal: nobody can replicate",
            "set it to replica or logical",
        ));
    }
    if get("wal_log_hints") == "off" && get("data_checksums") == "off" {
        findings.push(Finding::warning(
            "pg_rewind",
            "impossible: neither wal_log_hints nor data checksums are on",
            "set wal_log_hints to on (then restart), else a former primary is copied anew",
        ));
    }
    if get("synchronous_commit") == "off" {
        findings.push(Finding::warning(
            "synchronous_commit",
            "off: a crash loses commits that clients were told of, in synchronous mode too",
            "set it to on, and to off only for transactions that may be lost",
        ));
    }
    // Each member streams from any other after a failover, and a copy takes two connections.
    let wanted = members as u64 + 1;
    for name in ["max_wal_senders", "max_replication_slots"] {
        if number(name) < wanted {
            let found = format!("{}, for {members} members", number(name));
            findings.push(Finding::critical(
                name,
                found,
                format!("set it to {wanted} or more, then restart"),
            ));
        }
    }
    if findings.is_empty() {
        findings.push(Finding::good(
            "PostgreSQL's settings",
            format!("version {version}, nothing stands in the way"),
        ));
    }
    findings
}

#[cfg(test)]
mod tests {
    use super::super::finding::Level;
    use super::*;

    fn with(changes: &[(&str, &str)]) -> Vec<Finding> {
        let sound = [
            ("server_version_num", "150006"),
            ("fsync", "on"),
            ("full_page_writes", "on"),
            ("wal_level", "replica"),
            ("wal_log_hints", "on"),
            ("data_checksums", "off"),
            ("hot_standby", "on"),
            ("max_wal_senders", "10"),
            ("max_replication_slots", "10"),
            ("synchronous_commit", "on"),
        ];
        let all = sound.iter().chain(changes).map(|(name, value)| ((*name).to_owned(), (*value).to_owned()));
        judge(&all.collect(), 3)
    }

    #[test]
    fn sound_settings_are_good() {
        let findings = with(&[]);
        assert_eq!((findings.len(), findings[0].level), (1, Level::Good), "{findings:?}");
        assert_eq!(with(&[("wal_log_hints", "off"), ("data_checksums", "on")])[0].level, Level::Good);
    }

    #[test]
    fn each_setting_that_breaks_a_failover_is_named_with_what_to_do() {
        for (name, value, level) in [
            ("fsync", "off", Level::Critical),
            ("full_page_writes", "off", Level::Critical),
            ("hot_standby", "off", Level::Critical),
            ("wal_level", "minimal", Level::Critical),
            ("max_wal_senders", "3", Level::Critical),
            ("max_replication_slots", "2", Level::Critical),
            ("server_version_num", "120010", Level::Critical),
            ("wal_log_hints", "off", Level::Warning),
            ("synchronous_commit", "off", Level::Warning),
        ] {
            let findings = with(&[(name, value)]);
            assert_eq!(findings.len(), 1, "{name}: {findings:?}");
            assert!(findings[0].level == level && !findings[0].advice.is_empty(), "{name}: {findings:?}");
        }
    }
}
