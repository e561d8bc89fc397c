//! How a new cluster begins.

use std::collections::BTreeMap;

use serde_json::Value;

use super::{Script, Secret};

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
    /// Where the first data directory comes from.
    pub method: BootstrapMethod,
    /// Lines for the pg_hba.conf of a new cluster, where `postgresql.pg_hba` does not replace the file.
    pub pg_hba: Vec<String>,
    /// Whether this node may begin a cluster (contract 8.1: a patroni.yml without the section waits for another).
    pub allowed: bool,
}

/// Where the first data directory comes from (contract 8.1).
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub enum BootstrapMethod {
    /// initdb.
    #[default]
    Initdb,
    /// A command, such as the restore of a backup.
    Custom {
        /// Its name.
        name: String,
        /// What to run.
        command: Script,
        /// Whether it gets no argument of ours.
        no_params: bool,
        /// Whether the recovery settings that the command leaves are kept.
        keep_existing_recovery_conf: bool,
        /// Recovery settings of the first start, as text; with a target, or with what PostgreSQL does by itself.
        recovery_conf: BTreeMap<String, String>,
        /// Further arguments: each as `--name=value`.
        parameters: Vec<(String, String)>,
    },
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
