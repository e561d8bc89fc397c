//! The settings of one agent, all valid. Built only by `check` from what `raw` read.

mod check;
mod raw;

use std::collections::BTreeMap;
use std::fmt;
use std::net::SocketAddr;
use std::path::PathBuf;

use pgvane_cluster::ids::NodeName;
use pgvane_cluster::keyspace::Keyspace;
use pgvane_cluster::records::Tags;
pub use pgvane_cluster::settings_file::{Secret, SettingsError};
use pgvane_cluster::store::etcd::EtcdOptions;
use serde_json::Value;

pub use self::check::{CONTROLLED_PARAMETERS, Loaded, Preset, etcd_url, load, parse};
use crate::guard::protocol::StoreAccess;
use crate::timing::TimingOverrides;

/// Everything an agent is told by its file.
#[derive(Clone, PartialEq, Debug)]
pub struct Config {
    /// This node's name, unique in its cluster.
    pub name: NodeName,
    /// The cluster.
    pub scope: String,
    /// The part of the key space it lives in.
    pub namespace: String,
    /// How to reach etcd.
    pub etcd: Etcd,
    /// The REST API.
    pub restapi: Restapi,
    /// The local PostgreSQL.
    pub postgresql: Postgresql,
    /// How a new cluster begins.
    pub bootstrap: Bootstrap,
    /// This node's tags.
    pub tags: Tags,
    /// Deadlines set by hand.
    pub timing: TimingOverrides,
    /// The guard process.
    pub guard: Guard,
    /// How to log.
    pub log: Log,
}

impl Config {
    /// The prefix of the cluster's keys.
    pub fn keyspace(&self) -> Keyspace {
        Keyspace::new(&self.namespace, &self.scope)
    }

    /// The address of our REST API as members publish it: `http://host:port/patroni`.
    pub fn api_url(&self) -> String {
        format!("http://{}/patroni", self.restapi.connect_address)
    }

    /// The address of our PostgreSQL as members publish it: `postgres://host:port/database`.
    pub fn conn_url(&self) -> String {
        format!("postgres://{}/{}", self.postgresql.connect_address, self.postgresql.database)
    }
}

/// How to reach etcd.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Etcd {
    /// Client URLs, at least one.
    pub endpoints: Vec<String>,
    /// Certificates that sign etcd's; TLS is on where an endpoint says `https`.
    pub cacert: Option<PathBuf>,
    /// Our certificate and its key.
    pub client_cert: Option<(PathBuf, PathBuf)>,
    /// User and password.
    pub login: Option<Login>,
}

impl Etcd {
    /// How our own store connects.
    pub fn options(&self) -> EtcdOptions {
        self.access().etcd_options()
    }

    /// The same in the form the guard is told.
    pub fn access(&self) -> StoreAccess {
        let (cert, key) = self.client_cert.clone().unzip();
        StoreAccess {
            endpoints: self.endpoints.clone(),
            cacert: self.cacert.clone(),
            cert,
            key,
            username: self.login.as_ref().map(|l| l.username.clone()),
            password: self.login.as_ref().map(|l| l.password.expose().to_owned()),
        }
    }
}

/// A user name with its password.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Login {
    /// The name.
    pub username: String,
    /// The password.
    pub password: Secret,
}

/// A host (name, IPv4 or IPv6 without brackets) and a port.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct HostPort {
    /// The host.
    pub host: String,
    /// The port.
    pub port: u16,
}

impl fmt::Display for HostPort {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.host.contains(':') {
            write!(f, "[{}]:{}", self.host, self.port)
        } else {
            write!(f, "{}:{}", self.host, self.port)
        }
    }
}

/// The REST API.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Restapi {
    /// Where it listens.
    pub listen: SocketAddr,
    /// Where the others reach it.
    pub connect_address: HostPort,
    /// Who may change things; anybody where absent.
    pub login: Option<Login>,
}

/// A PostgreSQL role.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Role {
    /// Its name.
    pub username: String,
    /// Its password; absent where pg_hba lets it in without.
    pub password: Option<Secret>,
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
}

/// How a new cluster begins; of no effect once it exists.
#[derive(Clone, PartialEq, Debug)]
pub struct Bootstrap {
    /// The first dynamic configuration.
    pub dcs: Value,
    /// initdb options, each with its dashes.
    pub initdb: Vec<String>,
    /// Roles to create beside ours.
    pub users: Vec<NewUser>,
    /// A command run once the first primary accepts connections; its last argument is a connection URL.
    pub post_bootstrap: Option<String>,
}

/// A role to create.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct NewUser {
    /// Its name.
    pub name: String,
    /// Its password.
    pub password: Option<Secret>,
    /// Options of CREATE ROLE, in upper case; LOGIN always.
    pub options: Vec<String>,
}

/// The guard process.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Guard {
    /// Its socket.
    pub socket: PathBuf,
    /// Its log file; the agent's standard error unless set.
    pub log: Option<PathBuf>,
}

/// How to log.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Log {
    /// The shape of a line.
    pub format: LogFormat,
    /// A level, or directives such as `info,pgvane_agent=debug`.
    pub level: String,
}

/// The shape of a log line.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum LogFormat {
    /// For people and journald.
    Text,
    /// One JSON object, for collectors.
    Json,
}
