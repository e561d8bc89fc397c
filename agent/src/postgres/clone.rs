//! A new replica's data (contract 8.2): by the methods of the settings, in their order, until one works.
//!
//! While a method works on the data directory it is marked as unusable; so is what a method that failed left there.
//! A copy by pg_basebackup is made beside the old data and takes its place when it is whole, wherever there is
//! room for both.

use std::ffi::OsString;
use std::fs;
use std::time::Duration;

use tokio::time::sleep;
use tracing::{info, warn};

use super::{Instance, PostgresError, data_dir, files, settings};
use crate::config::{HostPort, ReplicaMethod, Script};
use crate::script;
use crate::telemetry::patroni::patroni_info;

/// How often pg_basebackup is tried, and the time between.
const BASEBACKUP_TRIES: u32 = 2;
const BASEBACKUP_PAUSE: Duration = Duration::from_secs(5);

/// Fills the data directory, replacing what is there, from the server at `source`; without one by the methods that
/// need none. It stays marked as unusable: the caller makes it a standby's first.
pub async fn create(instance: &Instance, source: Option<&HostPort>) -> Result<(), PostgresError> {
    let mut last = None;
    for method in instance.replica_methods.iter().filter(|m| source.is_some() || m.no_leader) {
        info!(method = method.name, "making a replica");
        let made = match (&method.command, source) {
            (Some(command), source) => by_command(instance, method, command, source).await,
            (None, Some(source)) => basebackup(instance, source).await,
            (None, None) => continue,
        };
        match made.and_then(|()| finish(instance, method)) {
            Ok(()) => {
                info!(method = method.name, "the replica's data are there");
                patroni_info!("replica has been created using {}", method.name);
                return Ok(());
            }
            Err(error) => {
                warn!(method = method.name, %error, "a method to make a replica failed");
                last = Some(error);
            }
        }
    }
    let none = "none of create_replica_methods can work without a member to copy from";
    Err(last.unwrap_or_else(|| PostgresError::Other(none.to_owned())))
}

/// Removes what a copy left beside the old data that nobody will finish.
pub fn give_up(instance: &Instance) {
    let fresh = data_dir::with_suffix(&instance.data_dir, "new");
    if let Err(error) = data_dir::remove(&fresh) {
        warn!(%error, "an unfinished copy is left behind; the next one takes it away");
    }
}

/// What every method's result is brought to: configuration files in place, nothing left that promotes or recovers.
fn finish(instance: &Instance, method: &ReplicaMethod) -> Result<(), PostgresError> {
    if !instance.data_dir.join("PG_VERSION").exists() {
        let text = format!("the method {} left no database in {}", method.name, instance.data_dir.display());
        return Err(PostgresError::Other(text));
    }
    files::restore(instance)?;
    files::forget_trigger(instance)?;
    files::forget_signals(instance)?;
    files::sanitize_auto_conf(instance)
}

async fn by_command(
    instance: &Instance,
    method: &ReplicaMethod,
    command: &Script,
    source: Option<&HostPort>,
) -> Result<(), PostgresError> {
    settings::write_pgpass(instance)?;
    data_dir::mark(instance)?;
    if !method.keep_data {
        data_dir::remove(&instance.data_dir)?;
    } else if !instance.data_dir.exists() {
        make(instance)?;
    }
    let connection = source
        .map(|source| settings::tool_connection(instance, &instance.replication, source, "replica_method"));
    let arguments = arguments(instance, method, &connection.unwrap_or_default());
    let done = script::run(command, &arguments, &environment(instance)).await;
    if done.is_err() && !method.keep_data {
        data_dir::remove(&instance.data_dir)?;
    }
    Ok(done?)
}

/// What a method's command is given.
fn arguments(instance: &Instance, method: &ReplicaMethod, connection: &str) -> Vec<String> {
    let ours = [
        format!("--scope={}", instance.scope),
        "--role=replica".to_owned(),
        format!("--datadir={}", instance.data_dir.display()),
        format!("--connstring={connection}"),
    ];
    let ours = ours.into_iter().filter(|_| !method.no_params);
    ours.chain(method.parameters.iter().map(|(name, value)| format!("--{name}={value}"))).collect()
}

/// What a command that talks to a server needs.
pub(super) fn environment(instance: &Instance) -> Vec<(&'static str, OsString)> {
    let mut env = vec![("PGPASSFILE", instance.pgpass.clone().into_os_string())];
    if settings::has_services(instance) {
        env.push(("PGSERVICEFILE", settings::service_file(instance).into_os_string()));
    }
    env
}

fn make(instance: &Instance) -> Result<(), PostgresError> {
    use std::os::unix::fs::DirBuilderExt;
    let made = fs::DirBuilder::new().mode(0o700).create(&instance.data_dir);
    made.map_err(PostgresError::io(instance.data_dir.display().to_string()))
}

async fn basebackup(instance: &Instance, source: &HostPort) -> Result<(), PostgresError> {
    settings::write_pgpass(instance)?;
    let dir = instance.data_dir.clone();
    let moves_wal = instance.basebackup.iter().any(|o| o.starts_with("--waldir"));
    let is_good = !data_dir::is_marked(instance) && !data_dir::is_empty(&dir) && !moves_wal;
    // The size of a large directory is not looked up in a moment.
    let beside = is_good
        && tokio::task::spawn_blocking(move || data_dir::has_room_beside(&dir)).await.unwrap_or(false);
    let mut tries = 0;
    loop {
        tries += 1;
        let copied =
            if beside { copy_beside(instance, source).await } else { copy_within(instance, source).await };
        match copied {
            Err(error) if tries < BASEBACKUP_TRIES => {
                warn!(%error, again_in = ?BASEBACKUP_PAUSE, "pg_basebackup failed; trying again");
                sleep(BASEBACKUP_PAUSE).await;
            }
            ended => return ended,
        }
    }
}

async fn copy_beside(instance: &Instance, source: &HostPort) -> Result<(), PostgresError> {
    let (fresh, old) =
        (data_dir::with_suffix(&instance.data_dir, "new"), data_dir::with_suffix(&instance.data_dir, "old"));
    data_dir::remove(&fresh)?;
    data_dir::remove(&old)?;
    if let Err(error) = pg_basebackup(instance, source, &fresh).await {
        data_dir::remove(&fresh)?;
        return Err(error);
    }
    data_dir::mark(instance)?;
    fs::rename(&instance.data_dir, &old).map_err(PostgresError::io("the old data directory"))?;
    fs::rename(&fresh, &instance.data_dir).map_err(PostgresError::io("the new data directory"))?;
    data_dir::remove(&old)
}

async fn copy_within(instance: &Instance, source: &HostPort) -> Result<(), PostgresError> {
    data_dir::mark(instance)?;
    for suffix in ["new", "old"] {
        data_dir::remove(&data_dir::with_suffix(&instance.data_dir, suffix))?;
    }
    data_dir::remove(&instance.data_dir)?;
    let copied = pg_basebackup(instance, source, &instance.data_dir).await;
    if copied.is_err() {
        data_dir::remove(&instance.data_dir)?;
    }
    copied
}

async fn pg_basebackup(
    instance: &Instance,
    source: &HostPort,
    target: &std::path::Path,
) -> Result<(), PostgresError> {
    let mut command = instance.command("pg_basebackup");
    command.arg("--pgdata").arg(target).args(["--wal-method=stream", "--no-password"]);
    if !instance.basebackup.iter().any(|o| o.starts_with("--checkpoint")) {
        command.arg("--checkpoint=fast");
    }
    // Not the member's name: a copy that streams under it would count as that standby.
    let connection = settings::tool_connection(instance, &instance.replication, source, "pg_basebackup");
    command.arg(format!("--dbname={connection}")).args(&instance.basebackup);
    instance.run("pg_basebackup", command).await.map(drop)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::postgres::settings::tests::instance;
    use crate::script::tests::shell;

    fn method(name: &str, text: &str) -> ReplicaMethod {
        ReplicaMethod {
            name: name.to_owned(),
            command: Some(shell(text)),
            parameters: vec![("threads".to_owned(), "4".to_owned())],
            ..ReplicaMethod::basebackup()
        }
    }

    /// Makes what looks like a database, as tools leave it, and notes its arguments.
    const MAKES: &str = r#"for a in "$@"; do case $a in --datadir=*) d=${a#--datadir=};; esac; done
        mkdir "$d" && echo 15 >"$d/PG_VERSION" && touch "$d/recovery.signal" && printf '%s\n' "$@" >"$d/args"
        echo "restore_command = 'x'" >"$d/postgresql.auto.conf""#;

    fn source() -> HostPort {
        HostPort { host: "10.0.0.1".to_owned(), port: 5433 }
    }

    #[tokio::test]
    async fn methods_are_tried_in_their_order_until_one_works() {
        let root = tempfile::tempdir().expect("a directory");
        let mut i = instance(root.path());
        let lies = method("lies", "exit 0");
        let fails = method("fails", r#"mkdir "${3#--datadir=}" && exit 1"#);
        i.replica_methods = vec![lies, fails, method("makes", MAKES), method("never", "exit 1")];
        create(&i, Some(&source())).await.expect("the third one works");
        assert!(data_dir::is_marked(&i), "the caller says when it may be started");
        let args = fs::read_to_string(i.data_dir.join("args")).expect("reads");
        let args: Vec<_> = args.lines().collect();
        let datadir = format!("--datadir={}", i.data_dir.display());
        assert_eq!(args[..3], ["--scope=demo", "--role=replica", datadir.as_str()]);
        assert!(
            args[3].starts_with("--connstring=user='rep' ") && args[3].contains("host='10.0.0.1'"),
            "{args:?}"
        );
        assert_eq!(args[4], "--threads=4");
        assert!(!i.data_dir.join("recovery.signal").exists());
        assert_eq!(fs::read_to_string(i.data_dir.join("postgresql.auto.conf")).expect("reads"), "");
        let pgpass = fs::read_to_string(&i.pgpass).expect("reads");
        assert!(pgpass.contains("rep"), "{pgpass}");
    }

    #[tokio::test]
    async fn what_a_failed_method_leaves_is_never_a_database() {
        let root = tempfile::tempdir().expect("a directory");
        let mut i = instance(root.path());
        fs::create_dir(&i.data_dir).expect("creates");
        fs::write(i.data_dir.join("mine"), "").expect("writes");
        let delta = ReplicaMethod {
            keep_data: true,
            no_params: true,
            ..method("delta", r#"test "$*" = --threads=4 || exit 9; exit 1"#)
        };
        i.replica_methods = vec![delta];
        let error = create(&i, Some(&source())).await.expect_err("fails");
        assert!(error.to_string().ends_with("exit status: 1"), "{error}");
        assert!(data_dir::is_marked(&i) && i.data_dir.join("mine").exists(), "kept for the next attempt");
        i.replica_methods = vec![method("wipes", "exit 1")];
        create(&i, Some(&source())).await.expect_err("fails");
        assert!(data_dir::is_marked(&i) && !i.data_dir.exists());
    }

    #[tokio::test]
    async fn without_a_member_to_copy_from_only_some_methods_work() {
        let root = tempfile::tempdir().expect("a directory");
        let mut i = instance(root.path());
        i.replica_methods.push(method("needs one", "exit 1"));
        let error = create(&i, None).await.expect_err("none");
        assert!(error.to_string().starts_with("none of create_replica_methods"), "{error}");
        i.replica_methods.push(ReplicaMethod { no_leader: true, ..method("archive", MAKES) });
        create(&i, None).await.expect("works");
        let args = fs::read_to_string(i.data_dir.join("args")).expect("reads");
        assert!(args.lines().any(|a| a == "--connstring="), "{args}");
    }
}
