//! Where the local PostgreSQL is and how its programs are run.

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::process::Stdio;
use std::time::Duration;

use pgvane_cluster::ids::NodeName;
use rustix::process::{Pid, Signal, kill_process};
use tokio::process::Command;

use super::settings;
use crate::config::{BootstrapMethod, HostPort, NewUser, ReplicaMethod, Role, Script};

/// The local PostgreSQL: paths, addresses, credentials.
#[derive(Clone, Debug)]
pub struct Instance {
    /// This member's name: its application_name as a replica.
    pub member: NodeName,
    /// The cluster's name.
    pub scope: String,
    /// The data directory; absolute.
    pub data_dir: PathBuf,
    /// PostgreSQL's programs.
    pub bin_dir: PathBuf,
    /// `listen_addresses`.
    pub listen_addresses: String,
    /// `port`.
    pub port: u16,
    /// Where clients and members reach it.
    pub connect_address: HostPort,
    /// The database the agent connects to.
    pub database: String,
    /// Who the agent is.
    pub superuser: Role,
    /// Who replicas are.
    pub replication: Role,
    /// Who pg_rewind is.
    pub rewind: Role,
    /// The password file of replicas and tools.
    pub pgpass: PathBuf,
    /// Directory of the Unix socket; TCP is used where absent.
    pub socket_dir: Option<PathBuf>,
    /// Local parameters.
    pub parameters: BTreeMap<String, String>,
    /// Local pg_hba lines; none: the file is left alone.
    pub pg_hba: Vec<String>,
    /// Which parameters the server accepts.
    pub vetted: super::vetted::Vetted,
    /// Whom commits wait for, as the configuration says.
    pub standby_names: super::standby_names::HeldNames,
    /// initdb options, with their dashes.
    pub initdb: Vec<String>,
    /// Roles of a new cluster.
    pub users: Vec<NewUser>,
    /// Command run once for a new cluster.
    pub post_bootstrap: Option<String>,
    /// Where the data of a new cluster come from.
    pub bootstrap_method: BootstrapMethod,
    /// Lines for the pg_hba.conf of a new cluster.
    pub bootstrap_pg_hba: Vec<String>,
    /// Lines of pg_ident.conf; none: the file is left alone.
    pub pg_ident: Vec<String>,
    /// Local recovery parameters.
    pub recovery_conf: BTreeMap<String, String>,
    /// Where the configuration files are; the data directory where absent.
    pub config_dir: Option<PathBuf>,
    /// `NAME.conf` is generated, `NAME.base.conf` is the operator's.
    pub config_base_name: String,
    /// Included instead of the base file.
    pub custom_conf: Option<PathBuf>,
    /// Programs that go by another name.
    pub bin_names: BTreeMap<String, String>,
    /// Whether our own replication connections go through the Unix socket.
    pub use_unix_socket_repl: bool,
    /// The service name of Kerberos.
    pub krbsrvname: Option<String>,
    /// How replicas are made, in order.
    pub replica_methods: Vec<ReplicaMethod>,
    /// Options of pg_basebackup, with their dashes.
    pub basebackup: Vec<String>,
    /// Options of pg_rewind, with their dashes.
    pub rewind_options: Vec<String>,
    /// Run before a promotion; one that fails forbids it.
    pub pre_promote: Option<Script>,
    /// Run before the server is stopped.
    pub before_stop: Option<Script>,
    /// How long a start or stop may take where nothing else bounds it.
    pub pg_ctl_timeout: Duration,
    /// What is set here about histories that parted; the dynamic configuration decides the rest.
    pub on_divergence: OnDivergence,
}

/// What to do when this node's history parted from the leader's. `None`: as the dynamic configuration says.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct OnDivergence {
    /// Whether to rewind.
    pub use_pg_rewind: Option<bool>,
    /// Whether to clone again after a rewind that failed.
    pub clone_on_rewind_failure: Option<bool>,
    /// Whether to clone again where no rewind can be tried.
    pub clone_on_divergence: Option<bool>,
}

/// Why something could not be done to PostgreSQL.
#[derive(Debug, thiserror::Error)]
pub enum PostgresError {
    /// A file or process.
    #[error("{what}: {error}")]
    Io {
        /// What was attempted.
        what: String,
        /// The system's answer.
        error: std::io::Error,
    },
    /// A program of PostgreSQL failed.
    #[error("{program} failed: {output}")]
    Program {
        /// Which.
        program: &'static str,
        /// The end of what it printed.
        output: String,
    },
    /// SQL failed.
    #[error("SQL: {0}")]
    Sql(String),
    /// It took too long.
    #[error("{0} took too long")]
    TimedOut(&'static str),
    /// The server ended while it was starting.
    #[error("PostgreSQL did not start; the end of its log:\n{0}")]
    DidNotStart(String),
    /// Another server was asked for longer than the reign lasted that it was asked in.
    #[error("the leader changed meanwhile")]
    ReignOver,
    /// Anything else, in words.
    #[error("{0}")]
    Other(String),
}

impl PostgresError {
    pub(super) fn io(what: impl Into<String>) -> impl FnOnce(std::io::Error) -> PostgresError {
        let what = what.into();
        move |error| PostgresError::Io { what, error }
    }
}

impl From<tokio_postgres::Error> for PostgresError {
    fn from(error: tokio_postgres::Error) -> PostgresError {
        PostgresError::Sql(error.as_db_error().map_or_else(|| error.to_string(), ToString::to_string))
    }
}

impl From<super::tls::ConnectError> for PostgresError {
    fn from(error: super::tls::ConnectError) -> PostgresError {
        match error {
            super::tls::ConnectError::Settings(why) => PostgresError::Other(why),
            super::tls::ConnectError::Postgres(error) => error.into(),
        }
    }
}

impl From<crate::script::ScriptError> for PostgresError {
    fn from(error: crate::script::ScriptError) -> PostgresError {
        PostgresError::Other(error.to_string())
    }
}

impl Instance {
    /// The path of a PostgreSQL program.
    pub fn program(&self, name: &str) -> PathBuf {
        self.bin_dir.join(self.bin_names.get(name).map_or(name, String::as_str))
    }

    /// The server's own log, beside the data directory: it outlives a clone.
    pub fn log_file(&self) -> PathBuf {
        let name = self.data_dir.file_name().unwrap_or_default().to_string_lossy();
        self.data_dir.with_file_name(format!("{name}.log"))
    }

    /// A program of PostgreSQL with its environment set: plain messages, our password file, nothing of
    /// systemd's. It is ended when its future is dropped.
    pub fn command(&self, name: &str) -> Command {
        let mut command = Command::new(self.program(name));
        command
            .env("LC_ALL", "C")
            .env("PGPASSFILE", &self.pgpass)
            .env("PGCONNECT_TIMEOUT", "5")
            .env_remove("NOTIFY_SOCKET")
            .stdin(Stdio::null())
            .kill_on_drop(true);
        if settings::has_services(self) {
            command.env("PGSERVICEFILE", settings::service_file(self));
        }
        command
    }

    /// Runs a program to its end; its output when it succeeded, the end of it as the error when not.
    pub async fn run(&self, program: &'static str, command: Command) -> Result<String, PostgresError> {
        self.run_until(program, command, std::future::pending()).await
    }

    /// As [`Instance::run`], and ends it when `over` completes: what it has said by then is the error.
    pub async fn run_until(
        &self,
        program: &'static str,
        mut command: Command,
        over: impl Future<Output = ()>,
    ) -> Result<String, PostgresError> {
        let not_run = || {
            PostgresError::io(format!("{} cannot be run; is bin_dir right?", self.program(program).display()))
        };
        let child = command.stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().map_err(not_run())?;
        // Its number is its own until it is waited for to the end, as is done here alone.
        let pid = child.id().and_then(|id| i32::try_from(id).ok()).and_then(Pid::from_raw);
        let mut ended = Box::pin(child.wait_with_output());
        let output = tokio::select! {
            biased;
            output = &mut ended => output,
            () = over => {
                if let Some(pid) = pid {
                    let _ = kill_process(pid, Signal::KILL);
                }
                ended.await
            }
        };
        let output = output.map_err(not_run())?;
        let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
        if output.status.success() {
            Ok(text(&output.stdout))
        } else {
            let all = format!("{}{}", text(&output.stdout), text(&output.stderr));
            Err(PostgresError::Program { program, output: tail(&all, 20) })
        }
    }

    /// Connection settings for the local server as the superuser.
    pub fn local(&self) -> tokio_postgres::Config {
        let mut config = tokio_postgres::Config::new();
        match &self.socket_dir {
            Some(dir) => config.host_path(dir),
            None => config.host(self.local_host()),
        };
        config
            .port(self.port)
            .user(&self.superuser.username)
            .dbname(&self.database)
            .application_name("pgvane agent")
            .connect_timeout(std::time::Duration::from_secs(3));
        if let Some(password) = &self.superuser.password {
            config.password(password.expose());
        }
        config
    }

    pub(super) fn local_host(&self) -> &str {
        let first = self.listen_addresses.split(',').map(str::trim).find(|a| !a.is_empty());
        match first {
            None | Some("*" | "0.0.0.0") => "127.0.0.1",
            Some("::") => "::1",
            Some(address) => address,
        }
    }
}

/// The last `lines` lines of `text`.
pub(super) fn tail(text: &str, lines: usize) -> String {
    let all: Vec<&str> = text.lines().collect();
    all[all.len().saturating_sub(lines)..].join("\n")
}

#[cfg(test)]
mod tests {
    use std::fs;
    use std::os::unix::fs::PermissionsExt;

    use tokio::time::{sleep, timeout};

    use super::*;
    use crate::postgres::settings::tests::instance;

    #[tokio::test]
    async fn a_program_that_is_ended_has_said_how_far_it_came() {
        let root = tempfile::tempdir().expect("a directory");
        let mut i = instance(root.path());
        i.bin_dir = root.path().to_owned();
        let (program, begun) = (root.path().join("pg_rewind"), root.path().join("begun"));
        let script = format!("#!/bin/sh\necho need to copy >&2\ntouch {}\nexec sleep 600\n", begun.display());
        fs::write(&program, script).expect("writes");
        fs::set_permissions(&program, fs::Permissions::from_mode(0o755)).expect("an owner may");
        let over = async {
            while !begun.exists() {
                sleep(Duration::from_millis(2)).await;
            }
        };
        let run = i.run_until("pg_rewind", i.command("pg_rewind"), over);
        let error = timeout(Duration::from_secs(20), run).await.expect("it is ended").expect_err("it failed");
        assert!(error.to_string().contains("need to copy"), "{error}");
    }
}
