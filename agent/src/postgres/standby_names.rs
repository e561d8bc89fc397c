//! `synchronous_standby_names`: kept in the generated configuration through every rewrite, and seen to be in force.
//!
//! When is a value in force? A walsender confirms by the value that it has read itself, and backends wait at all
//! once the checkpointer has read that there is one. The postmaster reads its configuration, signals all its
//! children, and only then accepts the next connection: so a connection that was made after the reload and has the
//! new value proves that every walsender was signalled. One that goes on confirming by the old value has replies in
//! its hands, to WAL that it had sent before; all of that lies before the flush position that the new connection
//! then reads. Whether backends wait is proved by a commit of ours that is seen to.

use std::path::Path;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;
use std::{fs, io};

use pgvane_cluster::clock::Tick;
use pgvane_cluster::ids::Lsn;
use pgvane_cluster::settings::PostgresqlSettings;
use tokio::time::{sleep, timeout};
use tokio_postgres::Client;

use super::files::{self, Files};
use super::process::Postmaster;
use super::settings::{ordinary, quote, replace};
use super::{Instance, PostgresError, control, probe};

/// The parameter.
pub(super) const NAME: &str = "synchronous_standby_names";

/// How long a changed value may take to be in force.
const IN_FORCE_WITHIN: Duration = Duration::from_secs(2);

/// How long it may take to see a commit wait.
const SEEN_WITHIN: Duration = Duration::from_secs(1);

/// Pause between two connections that look for the value.
const LOOK_AGAIN: Duration = Duration::from_millis(3);

/// The value that the agent holds in the configuration; shared by all that write it.
#[derive(Clone, Debug, Default)]
pub struct HeldNames(Arc<Mutex<Held>>);

#[derive(Clone, PartialEq, Eq, Debug, Default)]
enum Held {
    /// What the configuration says that was found.
    #[default]
    Unread,
    /// What the parameters say.
    Parameters,
    /// This.
    Value(String),
}

/// The right to write the configuration: one at a time.
pub(super) struct Writing<'a>(MutexGuard<'a, Held>);

impl HeldNames {
    /// Waits for the right to write `conf`.
    pub(super) fn write(&self, conf: &Path) -> Writing<'_> {
        let mut held = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        if *held == Held::Unread {
            let text = fs::read_to_string(conf).unwrap_or_default();
            *held = text.lines().rev().find_map(value).map_or(Held::Parameters, Held::Value);
        }
        Writing(held)
    }
}

impl Writing<'_> {
    /// The value held; `None`: that of the parameters.
    pub(super) fn held(&self) -> Option<&str> {
        match &*self.0 {
            Held::Value(value) => Some(value),
            Held::Unread | Held::Parameters => None,
        }
    }
}

/// The value in a line of a configuration file that sets it.
fn value(line: &str) -> Option<String> {
    let rest = line.trim_start().strip_prefix(NAME)?.trim_start();
    let rest = rest.strip_prefix('=').unwrap_or(rest).trim();
    let Some(quoted) = rest.strip_prefix('\'') else {
        return Some(rest.split([' ', '#']).next().unwrap_or_default().to_owned());
    };
    let mut text = String::new();
    let mut letters = quoted.chars();
    while let Some(letter) = letters.next() {
        match letter {
            '\\' => text.extend(letters.next()),
            '\'' if letters.as_str().starts_with('\'') => text.extend(letters.next()),
            '\'' => break,
            other => text.push(other),
        }
    }
    Some(text)
}

/// The value that the configuration has.
pub fn configured(instance: &Instance) -> String {
    instance.standby_names.write(&Files::of(instance).conf).held().unwrap_or_default().to_owned()
}

/// Holds `names` in the configuration from now on, the running server's included once it reads it; `None` hands it
/// back to the parameters. Answers whether the file changed.
pub fn hold(
    instance: &Instance,
    dynamic: &PostgresqlSettings,
    names: Option<&str>,
) -> Result<bool, PostgresError> {
    // What the operator's file says of it stays there.
    files::keep_base(instance)?;
    let conf = Files::of(instance).conf;
    let mut writing = instance.standby_names.write(&conf);
    *writing.0 = names.map_or(Held::Parameters, |names| Held::Value(names.to_owned()));
    let value_now = match names {
        Some(names) => Some(names.to_owned()),
        None => instance.vetted.accepted(instance, &ordinary(instance, dynamic)).remove(NAME),
    };
    let text = match fs::read_to_string(&conf) {
        Ok(text) => text,
        // It is written before the server starts.
        Err(error) if error.kind() == io::ErrorKind::NotFound => String::new(),
        Err(error) => return Err(PostgresError::Io { what: conf.display().to_string(), error }),
    };
    replace(&conf, with_value(&text, value_now.as_deref()), 0o600)
}

/// `text` with the parameter set to `names` where it was set before, or at the end.
fn with_value(text: &str, names: Option<&str>) -> String {
    let mut line = names.map(|names| format!("{NAME} = {}", quote(names)));
    let mut lines = Vec::new();
    for old in text.lines() {
        if value(old).is_none() {
            lines.push(old.to_owned());
        } else {
            lines.extend(line.take());
        }
    }
    lines.extend(line);
    lines.join("\n") + "\n"
}

/// Makes the running server read its configuration; its flush position once `names` is in force in all of it
/// (`None` in recovery). `prove`: commits have to be seen to wait; a standby has to have read it everywhere.
pub async fn put_in_force(
    instance: &Instance,
    names: Option<&str>,
    prove: bool,
) -> Result<Option<Lsn>, PostgresError> {
    let found = Postmaster::find(&instance.data_dir).map_err(PostgresError::io("postmaster.pid"))?;
    let Some(postmaster) = found else {
        return Err(PostgresError::Other("PostgreSQL does not run".to_owned()));
    };
    control::reload(&postmaster)?;
    let deadline = Tick::now() + IN_FORCE_WITHIN;
    let (client, flushed) = loop {
        let client = probe::connect(instance).await.map_err(|e| PostgresError::Sql(e.to_string()))?;
        let (value, flushed) = look(&client).await?;
        if names.is_none_or(|names| names == value) {
            break (client, flushed);
        }
        if Tick::now() >= deadline {
            let why = format!("{NAME} is still '{value}'; ALTER SYSTEM or the command line may override it");
            return Err(PostgresError::Other(why));
        }
        sleep(LOOK_AGAIN).await;
    };
    match (prove, flushed) {
        (false, _) => Ok(flushed),
        (true, Some(_)) => {
            see_a_commit_wait(instance, &client).await?;
            look(&client).await.map(|(_, flushed)| flushed)
        }
        (true, None) => {
            // The checkpointer reads its configuration before it begins.
            control::checkpoint(instance).await?;
            Ok(None)
        }
    }
}

async fn look(client: &Client) -> Result<(String, Option<Lsn>), PostgresError> {
    const LOOK: &str = "SELECT current_setting('synchronous_standby_names'), \
                        CASE WHEN pg_is_in_recovery() THEN NULL ELSE pg_current_wal_flush_lsn()::text END";
    let row = client.query_one(LOOK, &[]).await?;
    let flushed: Option<&str> = row.get(1);
    Ok((row.get(0), flushed.and_then(|text| text.parse().ok())))
}

/// Commits until one is seen to wait. It is let go then, whether it was confirmed or not.
async fn see_a_commit_wait(instance: &Instance, watcher: &Client) -> Result<(), PostgresError> {
    const WAITS: &str = "SELECT wait_event = 'SyncRep' FROM pg_stat_activity WHERE pid = $1";
    let writer = probe::connect(instance).await.map_err(|e| PostgresError::Sql(e.to_string()))?;
    writer.batch_execute("SET synchronous_commit = remote_apply").await?;
    let pid: i32 = writer.query_one("SELECT pg_backend_pid()", &[]).await?.get(0);
    let waits = watcher.prepare(WAITS).await?;
    let about: [&(dyn tokio_postgres::types::ToSql + Sync); 1] = [&pid];
    let seen = async {
        loop {
            // Transactional, so that it commits something.
            let commit = writer.batch_execute("SELECT pg_logical_emit_message(true, 'pgvane', '')");
            tokio::pin!(commit);
            loop {
                tokio::select! {
                    biased;
                    row = watcher.query_opt(&waits, &about) => {
                        if row?.and_then(|row| row.get::<_, Option<bool>>(0)) == Some(true) {
                            return Ok(());
                        }
                    }
                    done = &mut commit => {
                        done?;
                        break;
                    }
                }
            }
        }
    };
    let seen = timeout(SEEN_WITHIN, seen).await;
    watcher.execute("SELECT pg_cancel_backend($1)", &about).await?;
    seen.unwrap_or_else(|_| Err(PostgresError::Other("no commit was seen to wait for a standby".to_owned())))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::postgres::settings::tests::instance;
    use crate::postgres::settings::{self, Following};

    #[test]
    fn the_parameter_is_found_and_replaced() {
        assert_eq!(value("synchronous_standby_names = '2 (\"a-b\",c)'"), Some("2 (\"a-b\",c)".to_owned()));
        assert_eq!(value("  synchronous_standby_names='it''s' # x"), Some("it's".to_owned()));
        assert_eq!(value("synchronous_standby_names pg1 # x"), Some("pg1".to_owned()));
        assert_eq!(value("#synchronous_standby_names = ''"), None);
        let text = "a = '1'\nsynchronous_standby_names = 'x'\nb = '2'\n";
        assert_eq!(with_value(text, Some("y'z")), "a = '1'\nsynchronous_standby_names = 'y''z'\nb = '2'\n");
        assert_eq!(with_value(text, None), "a = '1'\nb = '2'\n");
        assert_eq!(with_value("a = '1'\n", Some("y")), "a = '1'\nsynchronous_standby_names = 'y'\n");
    }

    #[test]
    fn the_value_stays_through_every_rewrite_until_it_is_handed_back() {
        let dir = tempfile::tempdir().expect("a temporary directory");
        let i = instance(dir.path());
        fs::create_dir(&i.data_dir).expect("creates");
        let conf = i.data_dir.join("postgresql.conf");
        fs::write(&conf, "# initdb's\n").expect("writes");
        let mut dynamic = pgvane_cluster::settings::ClusterSettings::default().postgresql;
        dynamic.parameters.insert(NAME.to_owned(), "operators".to_owned());
        let has = || fs::read_to_string(&conf).expect("reads").lines().filter_map(value).collect::<Vec<_>>();

        settings::write(&i, &dynamic, None).expect("writes");
        assert_eq!(has(), ["operators"], "the parameter counts while the agent holds nothing");
        assert!(hold(&i, &dynamic, Some("2 (a,b)")).expect("writes"));
        assert!(!hold(&i, &dynamic, Some("2 (a,b)")).expect("writes"));
        settings::write(&i, &dynamic, None).expect("writes");
        let nobody = Following::default();
        settings::write(&i, &dynamic, Some(&nobody)).expect("writes");
        assert_eq!(has(), ["2 (a,b)"]);

        let next_agent = Instance { standby_names: HeldNames::default(), ..i.clone() };
        assert_eq!(configured(&next_agent), "2 (a,b)");
        settings::write(&next_agent, &dynamic, None).expect("writes");
        assert_eq!(has(), ["2 (a,b)"], "the next agent finds it");
        hold(&next_agent, &dynamic, None).expect("writes");
        assert_eq!(has(), ["operators"]);
        settings::write(&next_agent, &dynamic, None).expect("writes");
        assert_eq!(has(), ["operators"]);
    }

    #[test]
    fn the_file_is_the_one_that_the_server_reads() {
        let dir = tempfile::tempdir().expect("a temporary directory");
        let etc = dir.path().join("etc");
        let mut i = instance(dir.path());
        i.config_dir = Some(etc.clone());
        fs::create_dir(&i.data_dir).expect("creates");
        fs::create_dir(&etc).expect("creates");
        fs::write(etc.join("postgresql.conf"), "# the operator's\nsynchronous_standby_names = 'x'\n")
            .expect("writes");
        let dynamic = pgvane_cluster::settings::ClusterSettings::default().postgresql;
        assert!(hold(&i, &dynamic, Some("2 (a,b)")).expect("writes"));
        let read = |name: &str| fs::read_to_string(etc.join(name)).expect("reads");
        assert_eq!(
            value(read("postgresql.conf").lines().last().expect("a line")),
            Some("2 (a,b)".to_owned())
        );
        assert!(
            read("postgresql.base.conf").ends_with("synchronous_standby_names = 'x'\n"),
            "theirs is kept"
        );
        assert!(!i.data_dir.join("postgresql.conf").exists());
        assert_eq!(configured(&Instance { standby_names: HeldNames::default(), ..i.clone() }), "2 (a,b)");
    }
}
