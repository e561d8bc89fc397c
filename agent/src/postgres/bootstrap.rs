//! A new cluster: initdb, a first private start, roles, a clean stop.
//!
//! The first start listens on a Unix socket in a directory of its own, so that nobody can write to a server
//! that no leader key covers yet.

use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::time::Duration;

use pgvane_cluster::settings::PostgresqlSettings;
use tokio::time::timeout;

use super::control::{self, Shutdown};
use super::controldata::ControlData;
use super::{Instance, PostgresError, rewind, settings};
use crate::config::{NewUser, Role};

/// Bound on the first start.
const START_LIMIT: Duration = Duration::from_mins(1);

/// Options of initdb that are ours to give.
const FORBIDDEN: [&str; 5] = ["--pgdata", "--nosync", "--no-sync", "--pwfile", "--sync-only"];

/// Creates the cluster and leaves it stopped; its system identifier. What fails is moved to `<dir>.failed`, and so is
/// what an agent left that died in the middle.
pub async fn create(instance: &Instance, dynamic: &PostgresqlSettings) -> Result<String, PostgresError> {
    let marker = rewind::marker(instance);
    if marker.exists() {
        set_aside(instance)?;
    }
    if let Some(parent) = marker.parent() {
        fs::create_dir_all(parent).map_err(PostgresError::io("the directory of the data directory"))?;
    }
    fs::write(&marker, "").map_err(PostgresError::io("the mark of an unfinished data directory"))?;
    let made = try_create(instance, dynamic).await;
    if made.is_err() {
        set_aside(instance)?;
    }
    fs::remove_file(&marker).map_err(PostgresError::io("the mark of an unfinished data directory"))?;
    made
}

fn set_aside(instance: &Instance) -> Result<(), PostgresError> {
    if !instance.data_dir.exists() {
        return Ok(());
    }
    let mut failed = instance.data_dir.as_os_str().to_owned();
    failed.push(".failed");
    let _ = fs::remove_dir_all(&failed);
    fs::rename(&instance.data_dir, &failed).map_err(PostgresError::io("the failed data directory"))
}

async fn try_create(instance: &Instance, dynamic: &PostgresqlSettings) -> Result<String, PostgresError> {
    initdb(instance).await?;
    settings::write(instance, dynamic, None)?;
    let private = tempfile::Builder::new()
        .prefix("pgvane-init-")
        .permissions(fs::Permissions::from_mode(0o700))
        .tempdir()
        .map_err(PostgresError::io("a directory for the first start"))?;
    let mut first = Instance { socket_dir: Some(private.path().to_owned()), ..instance.clone() };
    first.superuser.password = None;
    let mut arguments = settings::arguments(&first, dynamic, &[]);
    for (name, value) in [
        ("listen_addresses", String::new()),
        ("unix_socket_directories", private.path().display().to_string()),
        ("hba_file", local_trust(private.path())?),
        ("synchronous_standby_names", String::new()),
    ] {
        arguments.extend(["-c".to_owned(), format!("{name}={value}")]);
    }
    let postmaster = control::start(&first, &arguments, None).await?;
    let done = async {
        control::wait_ready(&first, &postmaster).await?;
        create_roles(&first, instance).await?;
        post_bootstrap(&first).await
    };
    let done = timeout(START_LIMIT, done).await.unwrap_or(Err(PostgresError::TimedOut("the first start")));
    let stopped = control::stop(&first, &postmaster, Shutdown::Fast, START_LIMIT).await;
    done?;
    stopped?;
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

/// An hba file for the private start: whoever can enter the directory may connect.
fn local_trust(dir: &std::path::Path) -> Result<String, PostgresError> {
    let file = dir.join("hba");
    fs::write(&file, "local all all trust\n").map_err(PostgresError::io("a temporary hba file"))?;
    Ok(file.display().to_string())
}

async fn create_roles(first: &Instance, instance: &Instance) -> Result<(), PostgresError> {
    let client = super::probe::connect(first).await.map_err(|e| PostgresError::Sql(e.to_string()))?;
    // Passwords must not reach the server's log.
    client
        .batch_execute(
            "SET synchronous_commit = local; SET log_statement = 'none'; SET log_min_duration_statement = -1; \
             SET log_min_error_statement = 'panic'; SET statement_timeout = 0",
        )
        .await?;
    let superuser = &instance.superuser;
    if let Some(password) = &superuser.password {
        let sql =
            format!("ALTER ROLE {} PASSWORD {}", ident(&superuser.username), literal(password.expose()));
        client.batch_execute(&sql).await?;
    }
    for sql in role_statements(instance) {
        client.batch_execute(&sql).await?;
    }
    Ok(())
}

/// The roles of a new cluster, beside the superuser.
fn role_statements(instance: &Instance) -> Vec<String> {
    let mut statements = Vec::new();
    let superuser = &instance.superuser.username;
    let create = |role: &Role, options: &str| create_role(&role.username, role.password.as_ref(), options);
    if instance.replication.username != *superuser {
        statements.push(create(&instance.replication, "REPLICATION"));
    }
    let rewind = &instance.rewind;
    if rewind.username != *superuser {
        if rewind.username != instance.replication.username {
            statements.push(create(rewind, ""));
        }
        let name = ident(&rewind.username);
        for function in [
            "pg_ls_dir(text, boolean, boolean)",
            "pg_stat_file(text, boolean)",
            "pg_read_binary_file(text)",
            "pg_read_binary_file(text, bigint, bigint, boolean)",
        ] {
            statements.push(format!("GRANT EXECUTE ON FUNCTION pg_catalog.{function} TO {name}"));
        }
    }
    let listed = |user: &NewUser| create_role(&user.name, user.password.as_ref(), &user.options.join(" "));
    statements.extend(instance.users.iter().map(listed));
    statements
}

fn create_role(name: &str, password: Option<&crate::config::Secret>, options: &str) -> String {
    let password = password.map_or(String::new(), |p| format!(" PASSWORD {}", literal(p.expose())));
    format!("CREATE ROLE {} LOGIN {options}{password}", ident(name))
}

fn ident(name: &str) -> String {
    format!("\"{}\"", name.replace('"', "\"\""))
}

fn literal(text: &str) -> String {
    let quoted = text.replace('\'', "''");
    if quoted.contains('\\') { format!("E'{}'", quoted.replace('\\', "\\\\")) } else { format!("'{quoted}'") }
}

async fn post_bootstrap(first: &Instance) -> Result<(), PostgresError> {
    let Some(script) = &first.post_bootstrap else { return Ok(()) };
    let socket = first.socket_dir.as_ref().map(|d| d.display().to_string()).unwrap_or_default();
    let url = format!(
        "postgres://{}@/{}?host={socket}&port={}&options=-c%20synchronous_commit%3Dlocal",
        first.superuser.username, first.database, first.port
    );
    let mut command = tokio::process::Command::new("sh");
    command.arg("-c").arg(format!("{script} \"$1\"")).arg("post_bootstrap").arg(url).kill_on_drop(true);
    let output = command.output().await.map_err(PostgresError::io("post_bootstrap"))?;
    if output.status.success() {
        return Ok(());
    }
    let text = String::from_utf8_lossy(&output.stderr);
    Err(PostgresError::Other(format!("post_bootstrap ended with {}: {}", output.status, text.trim_end())))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::postgres::settings::tests::instance;

    #[test]
    fn roles_are_quoted() {
        let i = instance(std::path::Path::new("/x"));
        let all = role_statements(&i);
        assert_eq!(all[0], r#"CREATE ROLE "rep" LOGIN REPLICATION PASSWORD E'p:w''d\\'"#);
        assert!(
            all.iter().any(|s| s.ends_with(r#"pg_ls_dir(text, boolean, boolean) TO "rewind""#)),
            "{all:?}"
        );
        assert_eq!(ident("a\"b"), "\"a\"\"b\"");
    }

    #[tokio::test]
    async fn our_own_initdb_options_are_refused() {
        let mut i = instance(std::path::Path::new("/x"));
        i.initdb = vec!["--pgdata=/y".to_owned()];
        let error = initdb(&i).await.expect_err("refused");
        assert!(error.to_string().contains("--pgdata=/y"), "{error}");
    }
}
