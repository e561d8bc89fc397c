//! A new cluster (contract 8.1): initdb or a command, a first private start, roles, a clean stop.
//!
//! The first start listens on a Unix socket in a directory of its own, so that nobody can write to a server
//! that no leader key covers yet.

use std::collections::BTreeMap;
use std::ffi::OsString;
use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::Path;
use std::time::Duration;

use pgvane_cluster::settings::PostgresqlSettings;
use tokio::time::{Instant, sleep, timeout};
use tracing::{info, warn};

use super::control::{self, Shutdown};
use super::controldata::ControlData;
use super::probe::{self, ProbeError};
use super::process::Postmaster;
use super::{Instance, PostgresError, clone, data_dir, files, roles, settings};
use crate::config::{BootstrapMethod, Script};
use crate::script;

/// Options of initdb that are ours to give.
const FORBIDDEN: [&str; 5] = ["--pgdata", "--nosync", "--no-sync", "--pwfile", "--sync-only"];

/// Time between two looks at a server that recovers.
const LOOK_EVERY: Duration = Duration::from_millis(50);

/// Time between two words about a recovery that goes on.
const TELL_EVERY: Duration = Duration::from_secs(30);

/// How far a bootstrap is.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Stage {
    /// initdb, and the first start after it.
    Initdb,
    /// The command of a custom method.
    Command,
    /// The first start of what the command left.
    Recovery,
}

/// Creates the cluster and leaves it stopped; its system identifier. `tell` is told how far it is. What fails is
/// moved to `<dir>.failed`.
pub async fn create(
    instance: &Instance,
    dynamic: &PostgresqlSettings,
    tell: &(dyn Fn(Stage) + Sync),
) -> Result<String, PostgresError> {
    if data_dir::is_marked(instance) {
        // Half a copy, of a cluster that is no more.
        data_dir::remove(&instance.data_dir)?;
    }
    // An agent that ends half way must not take for a cluster what it finds when it is back.
    data_dir::mark(instance)?;
    let made = try_create(instance, dynamic, tell).await;
    if made.is_ok() || data_dir::set_aside(instance)? {
        data_dir::unmark(instance)?;
    }
    made
}

async fn try_create(
    instance: &Instance,
    dynamic: &PostgresqlSettings,
    tell: &(dyn Fn(Stage) + Sync),
) -> Result<String, PostgresError> {
    let plan = match &instance.bootstrap_method {
        BootstrapMethod::Initdb => {
            tell(Stage::Initdb);
            initdb(instance).await?;
            Plan::plain()
        }
        BootstrapMethod::Custom {
            name,
            command,
            no_params,
            keep_existing_recovery_conf,
            recovery_conf,
            parameters,
        } => {
            tell(Stage::Command);
            info!(method = name, command = command.text, "running custom bootstrap script");
            let arguments = arguments(instance, *no_params, parameters);
            script::run(command, &arguments, &[]).await?;
            tell(Stage::Recovery);
            Plan::after_command(instance, recovery_conf, *keep_existing_recovery_conf)?
        }
    };
    files::append_hba(instance, &instance.bootstrap_pg_hba)?;
    first_start(instance, dynamic, &plan).await?;
    files::forget_signals(instance)?;
    files::sanitize_auto_conf(instance)?;
    settings::write(instance, dynamic, None)?;
    files::save(instance)?;
    Ok(ControlData::read(instance).await?.system_identifier)
}

async fn initdb(instance: &Instance) -> Result<(), PostgresError> {
    if let Some(bad) = instance.initdb.iter().find(|o| FORBIDDEN.iter().any(|f| o.starts_with(f))) {
        return Err(PostgresError::Other(format!("the initdb option {bad} is the agent's to give")));
    }
    let mut command = instance.command("initdb");
    command.arg("--pgdata").arg(&instance.data_dir).arg("--username").arg(&instance.superuser.username);
    if !instance.initdb.iter().any(|o| o.starts_with("--auth")) {
        command.args(["--auth-local=trust", "--auth-host=scram-sha-256"]);
    }
    command.args(&instance.initdb);
    instance.run("initdb", command).await.map(drop)
}

/// What the command of a custom method is given.
fn arguments(instance: &Instance, no_params: bool, parameters: &[(String, String)]) -> Vec<String> {
    let ours = [format!("--scope={}", instance.scope), format!("--datadir={}", instance.data_dir.display())];
    let more = parameters.iter().map(|(name, value)| format!("--{name}={value}"));
    ours.into_iter().filter(|_| !no_params).chain(more).collect()
}

/// How the first start goes.
struct Plan {
    /// Lines for the generated configuration file.
    recovery: String,
    /// Further arguments of the server.
    arguments: Vec<String>,
    /// Whether it recovers first, for as long as that takes.
    recovers: bool,
}

impl Plan {
    fn plain() -> Plan {
        Plan { recovery: String::new(), arguments: vec![], recovers: false }
    }

    /// Prepares what a command left: whether and how it is recovered.
    fn after_command(
        instance: &Instance,
        recovery_conf: &BTreeMap<String, String>,
        keep_existing: bool,
    ) -> Result<Plan, PostgresError> {
        if !instance.data_dir.join("PG_VERSION").exists() {
            let text = format!("the command left no database in {}", instance.data_dir.display());
            return Err(PostgresError::Other(text));
        }
        files::restore(instance)?;
        files::forget_trigger(instance)?;
        if !keep_existing || !recovery_conf.is_empty() {
            files::forget_signals(instance)?;
            files::sanitize_auto_conf(instance)?;
        }
        if !recovery_conf.is_empty() {
            let signal = instance.data_dir.join("recovery.signal");
            settings::replace(&signal, "", 0o600)?;
        }
        let mut arguments = Vec::new();
        if recovery_conf.get("recovery_target_action").is_some_and(|action| action == "promote") {
            // Nobody needs to look in before; and the restored settings may be too small for a hot standby.
            arguments.extend(["-c".to_owned(), "hot_standby=off".to_owned()]);
        }
        Ok(Plan { recovery: settings::lines(recovery_conf), arguments, recovers: true })
    }
}

/// Starts the server where only this user can reach it, waits until it is a primary, fills it and stops it.
async fn first_start(
    instance: &Instance,
    dynamic: &PostgresqlSettings,
    plan: &Plan,
) -> Result<(), PostgresError> {
    let accepted = instance.vetted.accepted(instance, &settings::ordinary(instance, dynamic));
    let conf = settings::postgresql_conf(instance, &accepted, None) + &plan.recovery;
    settings::write_files(instance, dynamic, &conf)?;
    let private = tempfile::Builder::new()
        .prefix("pgvane-init-")
        .permissions(fs::Permissions::from_mode(0o700))
        .tempdir()
        .map_err(PostgresError::io("a directory for the first start"))?;
    let mut first = Instance { socket_dir: Some(private.path().to_owned()), ..instance.clone() };
    first.superuser.password = None;
    // A server that recovers must not have less than the one whose WAL it reads.
    let floors = if plan.recovers { ControlData::read(instance).await?.floors } else { vec![] };
    let mut arguments = settings::arguments(&first, dynamic, &floors);
    for (name, value) in [
        ("listen_addresses", String::new()),
        ("unix_socket_directories", private.path().display().to_string()),
        ("hba_file", local_trust(private.path())?),
        ("synchronous_standby_names", String::new()),
    ] {
        arguments.extend(["-c".to_owned(), format!("{name}={value}")]);
    }
    arguments.extend(plan.arguments.iter().cloned());
    let postmaster = control::start(&first, &arguments, None).await?;
    let done = async {
        until_primary(&first, &postmaster, plan.recovers).await?;
        roles::set_superuser(&first, &instance.superuser).await?;
        post_bootstrap(&first).await?;
        roles::create(&first, instance).await
    };
    let done = done.await;
    let stopped = control::stop(&first, &postmaster, Shutdown::Fast, instance.pg_ctl_timeout).await;
    done?;
    stopped.map(drop)
}

/// Waits until the server is a primary: as long as a recovery takes, for that is as much WAL as there is. One that
/// waits for somebody at its target is waited for as well.
async fn until_primary(
    first: &Instance,
    postmaster: &Postmaster,
    recovers: bool,
) -> Result<(), PostgresError> {
    let (began, mut told, mut trouble) = (Instant::now(), Instant::now(), None);
    let is_primary = async {
        loop {
            match probe::connect(first).await {
                Ok(client) => {
                    trouble = None;
                    let sql = "SELECT pg_is_in_recovery(), pg_is_in_recovery() AND pg_is_wal_replay_paused()";
                    let row = client.query_one(sql, &[]).await?;
                    if !row.get::<_, bool>(0) {
                        return Ok(());
                    }
                    if row.get(1) && told.elapsed() > TELL_EVERY {
                        told = Instant::now();
                        let socket = first.socket_dir.as_deref().unwrap_or(Path::new("")).display();
                        warn!(
                            %socket,
                            port = first.port,
                            "recovery has reached its target and waits; look at the data through this socket \
                             and end the wait with SELECT pg_wal_replay_resume()"
                        );
                    }
                }
                Err(ProbeError::NotYet(_)) => trouble = None,
                // A server that knows nobody of that name, for instance, will not learn it.
                Err(error @ (ProbeError::Refused(_) | ProbeError::TimedOut(_) | ProbeError::Other(_))) => {
                    let since = *trouble.get_or_insert_with(Instant::now);
                    if since.elapsed() > first.pg_ctl_timeout {
                        return Err(PostgresError::Sql(error.to_string()));
                    }
                }
            }
            if recovers && told.elapsed() > TELL_EVERY {
                told = Instant::now();
                info!(since = ?began.elapsed(), "waiting for end of recovery after bootstrap");
            }
            sleep(LOOK_EVERY).await;
        }
    };
    let primary = async {
        tokio::select! {
            ready = is_primary => ready,
            _ = postmaster.ended() => Err(PostgresError::DidNotStart(control::log_tail(first))),
        }
    };
    if recovers {
        return primary.await;
    }
    timeout(first.pg_ctl_timeout, primary).await.unwrap_or(Err(PostgresError::TimedOut("the first start")))
}

/// An hba file for the private start: whoever can enter the directory may connect.
fn local_trust(dir: &Path) -> Result<String, PostgresError> {
    let file = dir.join("hba");
    fs::write(&file, "local all all trust\n").map_err(PostgresError::io("a temporary hba file"))?;
    Ok(file.display().to_string())
}

/// Runs the operator's command with the way to the server as its last argument. It may take its time.
async fn post_bootstrap(first: &Instance) -> Result<(), PostgresError> {
    let Some(text) = &first.post_bootstrap else { return Ok(()) };
    let socket = first.socket_dir.as_ref().map(|d| d.display().to_string()).unwrap_or_default();
    let url = format!(
        "postgres://{}@/{}?host={socket}&port={}&options=-c%20synchronous_commit%3Dlocal",
        first.superuser.username, first.database, first.port
    );
    let words = ["sh".to_owned(), "-c".to_owned(), format!("{text} \"$1\""), "post_bootstrap".to_owned()];
    let script = Script { text: text.clone(), words: words.to_vec() };
    let mut env = clone::environment(first);
    env.push(("PGOPTIONS", OsString::from("-c synchronous_commit=local -c statement_timeout=0")));
    info!(command = text, "running post_bootstrap");
    Ok(script::run(&script, &[url], &env).await?)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::postgres::settings::tests::instance;

    #[tokio::test]
    async fn our_own_initdb_options_are_refused() {
        let mut i = instance(Path::new("/x"));
        i.initdb = vec!["--pgdata=/y".to_owned()];
        let error = initdb(&i).await.expect_err("refused");
        assert!(error.to_string().contains("--pgdata=/y"), "{error}");
    }

    #[test]
    fn a_command_is_told_where_and_for_whom() {
        let i = instance(Path::new("/x"));
        let more = [("stanza".to_owned(), "main".to_owned())];
        let all = ["--scope=demo", "--datadir=/x/data", "--stanza=main"];
        assert_eq!(arguments(&i, false, &more), all);
        assert_eq!(arguments(&i, true, &more), all[2..]);
    }

    #[test]
    fn what_a_command_leaves_is_recovered_as_the_settings_say() {
        let root = tempfile::tempdir().expect("a directory");
        let i = instance(root.path());
        let none = BTreeMap::new();
        fs::create_dir(&i.data_dir).expect("creates");
        let error = Plan::after_command(&i, &none, false).err().expect("no database");
        assert!(error.to_string().contains("left no database"), "{error}");
        let leave = |name: &str, text: &str| fs::write(i.data_dir.join(name), text).expect("writes");
        leave("PG_VERSION", "15\n");
        let has = |name: &str| i.data_dir.join(name).exists();
        let auto = || fs::read_to_string(i.data_dir.join("postgresql.auto.conf")).expect("reads");
        leave("postgresql.auto.conf", "restore_command = 'tool'\n");
        leave("recovery.signal", "");

        let plan = Plan::after_command(&i, &none, true).expect("keeps it");
        assert!(has("recovery.signal") && auto().contains("tool") && plan.arguments.is_empty());

        let wanted = [("recovery_target_action", "promote"), ("restore_command", "cp x %p")];
        let wanted = wanted.map(|(k, v)| (k.to_owned(), v.to_owned())).into();
        let plan = Plan::after_command(&i, &wanted, false).expect("replaces it");
        assert!(has("recovery.signal") && auto().is_empty());
        assert_eq!(plan.recovery, "recovery_target_action = 'promote'\nrestore_command = 'cp x %p'\n");
        assert_eq!(plan.arguments, ["-c", "hot_standby=off"]);

        Plan::after_command(&i, &none, false).expect("starts as it is");
        assert!(!has("recovery.signal"));
    }
}
