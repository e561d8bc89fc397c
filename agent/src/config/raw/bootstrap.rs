//! `[bootstrap]`.

use std::collections::BTreeMap;
use std::ops::Range;

use pgvane_cluster::settings_file::Secret;
use serde::{Deserialize, Serialize};
use serde_json::{Map, Value};
use toml::Spanned;

use super::{RawValues, exposed};

#[derive(Deserialize, Serialize, Default)]
#[serde(deny_unknown_fields)]
pub(in crate::config) struct RawBootstrap {
    pub(in crate::config) preset: Option<Spanned<String>>,
    pub(in crate::config) dcs: Option<Spanned<Map<String, Value>>>,
    pub(in crate::config) initdb: Option<Vec<Spanned<String>>>,
    #[serde(default)]
    pub(in crate::config) users: BTreeMap<String, RawUser>,
    pub(in crate::config) post_bootstrap: Option<Spanned<String>>,
    pub(in crate::config) method: Option<RawMethod>,
    #[serde(default)]
    pub(in crate::config) pg_hba: Vec<String>,
    /// Where the values of `dcs` stand, by dotted path; only of YAML.
    #[serde(skip)]
    pub(in crate::config) places: BTreeMap<String, Range<usize>>,
    /// Whether this node may begin a cluster; a patroni.yml without such a section forbids it.
    pub(in crate::config) allowed: Option<bool>,
}

#[derive(Deserialize, Serialize)]
#[serde(deny_unknown_fields)]
pub(in crate::config) struct RawUser {
    #[serde(serialize_with = "exposed")]
    pub(in crate::config) password: Option<Secret>,
    #[serde(default)]
    pub(in crate::config) options: Vec<Spanned<String>>,
}

/// Something else than initdb that makes the first data directory.
#[derive(Deserialize, Serialize)]
#[serde(deny_unknown_fields)]
pub(in crate::config) struct RawMethod {
    pub(in crate::config) name: Spanned<String>,
    pub(in crate::config) command: Spanned<String>,
    #[serde(default)]
    pub(in crate::config) no_params: bool,
    #[serde(default)]
    pub(in crate::config) keep_existing_recovery_conf: bool,
    #[serde(default)]
    pub(in crate::config) recovery_conf: RawValues,
    #[serde(default)]
    pub(in crate::config) parameters: RawValues,
}
