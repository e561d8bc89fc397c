//! `[bootstrap]`.

use std::collections::BTreeMap;
use std::ops::Range;

use pgvane_cluster::settings::ClusterSettings;
use pgvane_cluster::settings_file::{Secret, Spanned};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use serde_json::{Map, Value};

use super::super::check::Preset;
use super::super::default;
use super::{RawValues, exposed};

/// How a new cluster begins; of no effect once it exists.
#[derive(Deserialize, Serialize, Default, JsonSchema)]
#[serde(deny_unknown_fields)]
pub(in crate::config) struct RawBootstrap {
    /// Deadlines of the whole cluster: the first dynamic configuration, below.
    #[schemars(extend("enum" = Preset::ALL.map(|(name, _)| name), "default" = "normal"))]
    pub(in crate::config) preset: Option<Spanned<String>>,
    /// The first dynamic configuration: keys here replace the preset's. Afterwards it is changed with
    /// `pgvanectl edit-config`.
    #[schemars(with = "Option<ClusterSettings>")]
    pub(in crate::config) dcs: Option<Spanned<Map<String, Value>>>,
    /// initdb's options, without their dashes.
    #[schemars(extend("default" = default::INITDB))]
    pub(in crate::config) initdb: Option<Vec<Spanned<String>>>,
    /// Roles to create, by name.
    #[serde(default)]
    pub(in crate::config) users: BTreeMap<String, RawUser>,
    /// A command run once on the first primary; a connection URL is appended as its last argument.
    pub(in crate::config) post_bootstrap: Option<Spanned<String>>,
    pub(in crate::config) method: Option<RawMethod>,
    /// Lines for the `pg_hba.conf` of the new cluster, where `postgresql.pg_hba` does not replace the file.
    #[serde(default)]
    pub(in crate::config) pg_hba: Vec<String>,
    /// Where the values of `dcs` stand, by dotted path; only of YAML.
    #[serde(skip)]
    pub(in crate::config) places: BTreeMap<String, Range<usize>>,
    /// Whether this node may begin a cluster; one that may not waits until another has.
    #[schemars(extend("default" = true))]
    pub(in crate::config) allowed: Option<bool>,
}

/// A role to create.
#[derive(Deserialize, Serialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub(in crate::config) struct RawUser {
    /// Its password.
    #[serde(serialize_with = "exposed")]
    pub(in crate::config) password: Option<Secret>,
    /// Options of CREATE ROLE: `createdb`, `superuser`, `replication` and their like, in any case.
    #[serde(default)]
    pub(in crate::config) options: Vec<Spanned<String>>,
}

/// Something else than initdb that makes the first data directory, such as the restore of a backup.
#[derive(Deserialize, Serialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub(in crate::config) struct RawMethod {
    /// Its name, for the log.
    pub(in crate::config) name: Spanned<String>,
    /// The command. It gets `--scope` and `--datadir`, and `parameters`.
    pub(in crate::config) command: Spanned<String>,
    /// Whether it gets neither `--scope` nor `--datadir`.
    #[serde(default)]
    pub(in crate::config) no_params: bool,
    /// Whether the recovery settings that it leaves are kept; `recovery_conf` replaces them otherwise.
    #[serde(default)]
    pub(in crate::config) keep_existing_recovery_conf: bool,
    /// Recovery parameters for the first start; a recovery target may be among them.
    #[serde(default)]
    pub(in crate::config) recovery_conf: RawValues,
    /// Further arguments, each as `--name=value`.
    #[serde(default)]
    pub(in crate::config) parameters: RawValues,
}
