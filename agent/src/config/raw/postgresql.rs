//! `[postgresql]`.

use std::collections::BTreeMap;
use std::path::PathBuf;

use pgvane_cluster::settings_file::{Interval, Secret};
use serde::{Deserialize, Serialize};
use toml::Spanned;

use super::{RawValues, exposed, exposed_at};

#[derive(Deserialize, Serialize)]
#[serde(deny_unknown_fields)]
pub(in crate::config) struct RawPostgresql {
    pub(in crate::config) data_dir: Spanned<PathBuf>,
    pub(in crate::config) bin_dir: Option<Spanned<PathBuf>>,
    pub(in crate::config) listen: Option<Spanned<String>>,
    pub(in crate::config) connect_address: Option<Spanned<String>>,
    pub(in crate::config) proxy_address: Option<Spanned<String>>,
    pub(in crate::config) database: Option<String>,
    #[serde(default)]
    pub(in crate::config) superuser: RawRole,
    #[serde(default)]
    pub(in crate::config) replication: RawRole,
    pub(in crate::config) rewind: Option<RawRole>,
    pub(in crate::config) pgpass: Option<Spanned<PathBuf>>,
    pub(in crate::config) use_unix_socket: Option<Spanned<PathBuf>>,
    pub(in crate::config) use_unix_socket_repl: Option<bool>,
    pub(in crate::config) krbsrvname: Option<String>,
    #[serde(default)]
    pub(in crate::config) parameters: RawValues,
    pub(in crate::config) pg_hba: Option<Spanned<Vec<String>>>,
    pub(in crate::config) keep_pg_hba: Option<bool>,
    #[serde(default)]
    pub(in crate::config) pg_ident: Vec<String>,
    #[serde(default)]
    pub(in crate::config) recovery_conf: RawValues,
    pub(in crate::config) config_dir: Option<Spanned<PathBuf>>,
    pub(in crate::config) config_base_name: Option<Spanned<String>>,
    pub(in crate::config) custom_conf: Option<Spanned<PathBuf>>,
    #[serde(default)]
    pub(in crate::config) bin_names: BTreeMap<String, Spanned<String>>,
    pub(in crate::config) replica_methods: Option<Vec<RawReplicaMethod>>,
    #[serde(default)]
    pub(in crate::config) basebackup: Vec<Spanned<String>>,
    #[serde(default)]
    pub(in crate::config) callbacks: RawCallbacks,
    pub(in crate::config) pre_promote: Option<Spanned<String>>,
    pub(in crate::config) before_stop: Option<Spanned<String>>,
    pub(in crate::config) pg_ctl_timeout: Option<Spanned<Interval>>,
    pub(in crate::config) use_pg_rewind: Option<bool>,
    pub(in crate::config) remove_data_directory_on_rewind_failure: Option<bool>,
    pub(in crate::config) remove_data_directory_on_diverged_timelines: Option<bool>,
    #[serde(default)]
    pub(in crate::config) rewind_options: Vec<Spanned<String>>,
}

/// A role and how libpq connects as it.
#[derive(Deserialize, Serialize, Default)]
#[serde(deny_unknown_fields)]
pub(in crate::config) struct RawRole {
    pub(in crate::config) username: Option<Spanned<String>>,
    #[serde(serialize_with = "exposed")]
    pub(in crate::config) password: Option<Secret>,
    pub(in crate::config) sslmode: Option<Spanned<String>>,
    pub(in crate::config) sslcert: Option<Spanned<String>>,
    pub(in crate::config) sslkey: Option<Spanned<String>>,
    #[serde(serialize_with = "exposed_at")]
    pub(in crate::config) sslpassword: Option<Spanned<Secret>>,
    pub(in crate::config) sslrootcert: Option<Spanned<String>>,
    pub(in crate::config) sslcrl: Option<Spanned<String>>,
    pub(in crate::config) sslcrldir: Option<Spanned<String>>,
    pub(in crate::config) gssencmode: Option<Spanned<String>>,
    pub(in crate::config) channel_binding: Option<Spanned<String>>,
    pub(in crate::config) sslnegotiation: Option<Spanned<String>>,
}

#[derive(Deserialize, Serialize, Default)]
#[serde(deny_unknown_fields)]
#[expect(clippy::struct_field_names, reason = "these are the keys")]
pub(in crate::config) struct RawCallbacks {
    pub(in crate::config) on_start: Option<Spanned<String>>,
    pub(in crate::config) on_stop: Option<Spanned<String>>,
    pub(in crate::config) on_restart: Option<Spanned<String>>,
    pub(in crate::config) on_reload: Option<Spanned<String>>,
    pub(in crate::config) on_role_change: Option<Spanned<String>>,
}

#[derive(Deserialize, Serialize)]
#[serde(deny_unknown_fields)]
pub(in crate::config) struct RawReplicaMethod {
    pub(in crate::config) name: Spanned<String>,
    pub(in crate::config) command: Option<Spanned<String>>,
    #[serde(default)]
    pub(in crate::config) keep_data: bool,
    #[serde(default)]
    pub(in crate::config) no_params: bool,
    #[serde(default)]
    pub(in crate::config) no_leader: bool,
    #[serde(default)]
    pub(in crate::config) parameters: RawValues,
}
