//! The settings of one agent, all valid. Built only by `check` from what `raw` holds: agent.toml is read into it,
//! `yaml` converts a patroni.yml to it. `load` knows which is which.

mod bootstrap;
mod check;
mod default;
mod environment;
mod load;
mod log;
mod postgresql;
mod raw;
mod restapi;
mod sources;
mod translate;
mod watchdog;
mod yaml;

use std::fmt;
use std::path::PathBuf;

use pgvane_cluster::ids::NodeName;
use pgvane_cluster::keyspace::Keyspace;
use pgvane_cluster::records::Tags;
pub use pgvane_cluster::settings_file::{Secret, SettingsError};
use pgvane_cluster::store::etcd::EtcdOptions;

pub use self::bootstrap::{Bootstrap, BootstrapMethod, NewUser};
pub use self::check::{CONTROLLED_PARAMETERS, Preset, etcd_url};
pub use self::environment::Environment;
pub use self::load::{Loaded, Origin, Reach, load, parse, parse_yaml, reach, read, schema};
pub use self::log::{Line, Log, LogField, LogFile, LogFormat, Piece};
pub use self::postgresql::{Callbacks, Postgresql, ReplicaMethod, Role, Script};
pub use self::restapi::{Access, Ctl, Restapi, ServerTls, ServerTokens, VerifyClient};
pub use self::translate::{Fate, Setting, Translated, translate};
pub use self::watchdog::{Watchdog, WatchdogMode};
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
    /// How to reach the REST API of others.
    pub ctl: Ctl,
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
    /// The kernel's watchdog.
    pub watchdog: Watchdog,
    /// How to log.
    pub log: Log,
}

impl Config {
    /// The prefix of the cluster's keys.
    pub fn keyspace(&self) -> Keyspace {
        Keyspace::new(&self.namespace, &self.scope)
    }

    /// The address of our REST API as members publish it: `http(s)://host:port/patroni`.
    pub fn api_url(&self) -> String {
        let scheme = if self.restapi.tls.is_some() { "https" } else { "http" };
        format!("{scheme}://{}/patroni", self.restapi.connect_address)
    }

    /// The address of our PostgreSQL as members publish it: `postgres://host:port/database`.
    pub fn conn_url(&self) -> String {
        format!("postgres://{}/{}", self.postgresql.connect_address, self.postgresql.database)
    }

    /// The same for the pooler on this node, where there is one.
    pub fn proxy_url(&self) -> Option<String> {
        let address = self.postgresql.proxy_address.as_ref()?;
        Some(format!("postgres://{address}/{}", self.postgresql.database))
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
    /// Whether etcd's other members are used too, as etcd lists them (contract section 2).
    pub discover: bool,
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

/// The guard process.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Guard {
    /// Its socket.
    pub socket: PathBuf,
    /// Its log file; the agent's standard error unless set.
    pub log: Option<PathBuf>,
}
