//! The local PostgreSQL: where it is, how it is reached, which commands are run around it.

use std::collections::BTreeMap;
use std::fmt;
use std::path::PathBuf;
use std::time::Duration;

use pgvane_cluster::settings_file::is_secret;

use super::{HostPort, Secret};

/// A PostgreSQL role.
#[derive(Clone, PartialEq, Eq)]
pub struct Role {
    /// Its name.
    pub username: String,
    /// Its password; absent where pg_hba lets it in without.
    pub password: Option<Secret>,
    /// Connection parameters of libpq beside these: `sslmode`, `sslcert`, `gssencmode` and their like, by name.
    pub connection: BTreeMap<String, String>,
}

impl fmt::Debug for Role {
    /// `sslpassword` is among the parameters.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let shown = |(name, value): (&String, &String)| {
            (name.clone(), if is_secret(name) { "***".to_owned() } else { value.clone() })
        };
        let connection: BTreeMap<String, String> = self.connection.iter().map(shown).collect();
        f.debug_struct("Role")
            .field("username", &self.username)
            .field("password", &self.password)
            .field("connection", &connection)
            .finish()
    }
}

/// The local PostgreSQL.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Postgresql {
    /// Its data directory; absolute.
    pub data_dir: PathBuf,
    /// Its programs.
    pub bin_dir: PathBuf,
    /// `listen_addresses`.
    pub listen_addresses: String,
    /// `port`.
    pub port: u16,
    /// Where clients and the other members reach it.
    pub connect_address: HostPort,
    /// The database the agent connects to and members publish.
    pub database: String,
    /// Who the agent is.
    pub superuser: Role,
    /// Who replicas are.
    pub replication: Role,
    /// Who pg_rewind is; the superuser unless set.
    pub rewind: Role,
    /// The password file the agent writes for replicas and tools.
    pub pgpass: PathBuf,
    /// Directory of the Unix socket; the agent connects through it where set, else over TCP.
    pub socket_dir: Option<PathBuf>,
    /// Local parameters, as text.
    pub parameters: BTreeMap<String, String>,
    /// Lines of pg_hba.conf.
    pub pg_hba: Vec<String>,
    /// Lines of pg_ident.conf; none: the file is left alone.
    pub pg_ident: Vec<String>,
    /// Recovery parameters, as text.
    pub recovery_conf: BTreeMap<String, String>,
    /// Address of a pooler on this node, published beside ours.
    pub proxy_address: Option<HostPort>,
    /// Where the configuration files are; the data directory where absent.
    pub config_dir: Option<PathBuf>,
    /// Programs that go by another name: `pg_ctl` and its like to what they are called here.
    pub bin_names: BTreeMap<String, String>,
    /// `NAME.conf` is generated, `NAME.base.conf` is the operator's.
    pub config_base_name: String,
    /// Included instead of the base file, where set.
    pub custom_conf: Option<PathBuf>,
    /// Whether the agent's own replication connections go through the Unix socket.
    pub use_unix_socket_repl: bool,
    /// The service name of Kerberos.
    pub krbsrvname: Option<String>,
    /// How replicas are made: tried in order until one works.
    pub replica_methods: Vec<ReplicaMethod>,
    /// Options of pg_basebackup, each with its dashes.
    pub basebackup: Vec<String>,
    /// Commands told of what happens.
    pub callbacks: Callbacks,
    /// Run before a promotion; one that fails forbids it.
    pub pre_promote: Option<Script>,
    /// Run before the server is stopped.
    pub before_stop: Option<Script>,
    /// How long a start or stop may take where nothing else bounds it.
    pub pg_ctl_timeout: Duration,
    /// Replaces the dynamic configuration's where set.
    pub use_pg_rewind: Option<bool>,
    /// Replaces the dynamic configuration's where set.
    pub remove_data_directory_on_rewind_failure: Option<bool>,
    /// Replaces the dynamic configuration's where set.
    pub remove_data_directory_on_diverged_timelines: Option<bool>,
    /// Options of pg_rewind, each with its dashes.
    pub rewind_options: Vec<String>,
}

/// A command line, split as a shell would (contract 8.10): the program and its first arguments.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Script {
    /// As written, for messages.
    pub text: String,
    /// The words; at least one.
    pub words: Vec<String>,
}

/// Commands told of what happens: each gets action, role and scope as further arguments (contract 8.10).
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct Callbacks {
    /// The server accepts connections.
    pub on_start: Option<Script>,
    /// It was stopped.
    pub on_stop: Option<Script>,
    /// It was restarted.
    pub on_restart: Option<Script>,
    /// Its configuration was read again.
    pub on_reload: Option<Script>,
    /// It was promoted or demoted.
    pub on_role_change: Option<Script>,
}

/// A way to make a replica (contract 8.2).
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct ReplicaMethod {
    /// Its name; `basebackup` is built in.
    pub name: String,
    /// What to run; `None` for `basebackup`.
    pub command: Option<Script>,
    /// Whether the data directory is left in place for it.
    pub keep_data: bool,
    /// Whether it gets no argument of ours.
    pub no_params: bool,
    /// Whether it works without anybody to copy from.
    pub no_leader: bool,
    /// Further arguments: each as `--name=value`.
    pub parameters: Vec<(String, String)>,
}

impl ReplicaMethod {
    /// A copy over the replication protocol.
    pub fn basebackup() -> ReplicaMethod {
        ReplicaMethod {
            name: "basebackup".to_owned(),
            command: None,
            keep_data: false,
            no_params: false,
            no_leader: false,
            parameters: vec![],
        }
    }
}
