//! agent.toml as written: every key, none checked beyond its type. Unknown keys are refused here.

use std::collections::BTreeMap;
use std::path::PathBuf;

use pgvane_cluster::settings_file::{Interval, Secret};
use serde::Deserialize;
use toml::Spanned;

/// The whole file.
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct RawConfig {
    pub(super) name: Spanned<String>,
    pub(super) scope: Spanned<String>,
    pub(super) namespace: Option<Spanned<String>>,
    pub(super) etcd: RawEtcd,
    #[serde(default)]
    pub(super) restapi: RawRestapi,
    pub(super) postgresql: RawPostgresql,
    #[serde(default)]
    pub(super) bootstrap: RawBootstrap,
    #[serde(default)]
    pub(super) tags: BTreeMap<String, Spanned<toml::Value>>,
    #[serde(default)]
    pub(super) timing: RawTiming,
    #[serde(default)]
    pub(super) guard: RawGuard,
    #[serde(default)]
    pub(super) log: RawLog,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct RawEtcd {
    pub(super) endpoints: Spanned<Vec<Spanned<String>>>,
    pub(super) cacert: Option<Spanned<PathBuf>>,
    pub(super) cert: Option<Spanned<PathBuf>>,
    pub(super) key: Option<Spanned<PathBuf>>,
    pub(super) username: Option<Spanned<String>>,
    pub(super) password: Option<Spanned<Secret>>,
}

#[derive(Deserialize, Default)]
#[serde(deny_unknown_fields)]
pub(super) struct RawRestapi {
    pub(super) listen: Option<Spanned<String>>,
    pub(super) connect_address: Option<Spanned<String>>,
    pub(super) username: Option<Spanned<String>>,
    pub(super) password: Option<Spanned<Secret>>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct RawPostgresql {
    pub(super) data_dir: Spanned<PathBuf>,
    pub(super) bin_dir: Option<Spanned<PathBuf>>,
    pub(super) listen: Option<Spanned<String>>,
    pub(super) connect_address: Option<Spanned<String>>,
    pub(super) database: Option<String>,
    #[serde(default)]
    pub(super) superuser: RawRole,
    #[serde(default)]
    pub(super) replication: RawRole,
    pub(super) rewind: Option<RawRole>,
    pub(super) pgpass: Option<Spanned<PathBuf>>,
    pub(super) use_unix_socket: Option<Spanned<PathBuf>>,
    #[serde(default)]
    pub(super) parameters: BTreeMap<String, Spanned<toml::Value>>,
    pub(super) pg_hba: Option<Spanned<Vec<String>>>,
}

#[derive(Deserialize, Default)]
#[serde(deny_unknown_fields)]
pub(super) struct RawRole {
    pub(super) username: Option<Spanned<String>>,
    pub(super) password: Option<Secret>,
}

#[derive(Deserialize, Default)]
#[serde(deny_unknown_fields)]
pub(super) struct RawBootstrap {
    pub(super) preset: Option<Spanned<String>>,
    pub(super) dcs: Option<Spanned<toml::Table>>,
    pub(super) initdb: Option<Vec<Spanned<String>>>,
    #[serde(default)]
    pub(super) users: BTreeMap<String, RawUser>,
    pub(super) post_bootstrap: Option<Spanned<String>>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct RawUser {
    pub(super) password: Option<Secret>,
    #[serde(default)]
    pub(super) options: Vec<Spanned<String>>,
}

#[derive(Deserialize, Default)]
#[serde(deny_unknown_fields)]
pub(super) struct RawTiming {
    pub(super) renew_interval: Option<Spanned<Interval>>,
    pub(super) stop_budget: Option<Spanned<Interval>>,
    pub(super) guard_budget: Option<Spanned<Interval>>,
    pub(super) clock_drift_ppm: Option<Spanned<u32>>,
}

#[derive(Deserialize, Default)]
#[serde(deny_unknown_fields)]
pub(super) struct RawGuard {
    pub(super) socket: Option<Spanned<PathBuf>>,
    pub(super) log: Option<Spanned<PathBuf>>,
}

#[derive(Deserialize, Default)]
#[serde(deny_unknown_fields)]
pub(super) struct RawLog {
    pub(super) format: Option<Spanned<String>>,
    pub(super) level: Option<Spanned<String>>,
}
