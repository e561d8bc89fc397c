//! Settings as written: every key, none checked beyond its type. agent.toml is read right into this, with unknown
//! keys refused; a patroni.yml is converted to it, and can be written from it as an agent.toml.

mod bootstrap;
mod postgresql;
mod restapi;

use std::collections::BTreeMap;
use std::path::PathBuf;

use pgvane_cluster::settings_file::{Interval, Secret};
use serde::{Deserialize, Serialize, Serializer};
use serde_json::Value;
use toml::Spanned;

pub(super) use self::bootstrap::{RawBootstrap, RawMethod, RawUser};
pub(super) use self::postgresql::{RawCallbacks, RawPostgresql, RawReplicaMethod, RawRole};
pub(super) use self::restapi::{RawCtl, RawRestapi};

/// Writes a secret as it is: agent.toml is where it belongs.
#[expect(clippy::ref_option, reason = "serde calls it so")]
fn exposed<S: Serializer>(secret: &Option<Secret>, to: S) -> Result<S::Ok, S::Error> {
    secret.as_ref().map(Secret::expose).serialize(to)
}

/// The same of one that knows where it stood.
#[expect(clippy::ref_option, reason = "serde calls it so")]
fn exposed_at<S: Serializer>(secret: &Option<Spanned<Secret>>, to: S) -> Result<S::Ok, S::Error> {
    secret.as_ref().map(|secret| secret.get_ref().expose()).serialize(to)
}

/// Values of any kind by name.
pub(super) type RawValues = BTreeMap<String, Spanned<Value>>;

/// The whole file.
#[derive(Deserialize, Serialize)]
#[serde(deny_unknown_fields)]
pub(super) struct RawConfig {
    pub(super) name: Spanned<String>,
    pub(super) scope: Spanned<String>,
    pub(super) namespace: Option<Spanned<String>>,
    pub(super) etcd: RawEtcd,
    #[serde(default)]
    pub(super) restapi: RawRestapi,
    #[serde(default)]
    pub(super) ctl: RawCtl,
    pub(super) postgresql: RawPostgresql,
    #[serde(default)]
    pub(super) bootstrap: RawBootstrap,
    #[serde(default)]
    pub(super) tags: RawValues,
    #[serde(default)]
    pub(super) timing: RawTiming,
    #[serde(default)]
    pub(super) guard: RawGuard,
    #[serde(default)]
    pub(super) watchdog: RawWatchdog,
    #[serde(default)]
    pub(super) log: RawLog,
}

#[derive(Deserialize, Serialize)]
#[serde(deny_unknown_fields)]
pub(super) struct RawEtcd {
    pub(super) endpoints: Spanned<Vec<Spanned<String>>>,
    pub(super) cacert: Option<Spanned<PathBuf>>,
    pub(super) cert: Option<Spanned<PathBuf>>,
    pub(super) key: Option<Spanned<PathBuf>>,
    pub(super) username: Option<Spanned<String>>,
    #[serde(serialize_with = "exposed_at")]
    pub(super) password: Option<Spanned<Secret>>,
    /// Whether etcd's other members are used too; a patroni.yml often names one of them.
    #[serde(default)]
    pub(super) discover: bool,
}

#[derive(Deserialize, Serialize, Default)]
#[serde(deny_unknown_fields)]
pub(super) struct RawTiming {
    pub(super) renew_interval: Option<Spanned<Interval>>,
    pub(super) stop_budget: Option<Spanned<Interval>>,
    pub(super) guard_budget: Option<Spanned<Interval>>,
    pub(super) clock_drift_ppm: Option<Spanned<u32>>,
}

#[derive(Deserialize, Serialize, Default)]
#[serde(deny_unknown_fields)]
pub(super) struct RawGuard {
    pub(super) socket: Option<Spanned<PathBuf>>,
    pub(super) log: Option<Spanned<PathBuf>>,
}

#[derive(Deserialize, Serialize, Default)]
#[serde(deny_unknown_fields)]
pub(super) struct RawWatchdog {
    pub(super) mode: Option<Spanned<String>>,
    pub(super) device: Option<Spanned<PathBuf>>,
    /// Seconds as text or number, or -1.
    pub(super) safety_margin: Option<Spanned<Value>>,
    pub(super) driver: Option<Spanned<String>>,
}

#[derive(Deserialize, Serialize, Default)]
#[serde(deny_unknown_fields)]
pub(super) struct RawLog {
    pub(super) format: Option<Spanned<String>>,
    pub(super) level: Option<Spanned<String>>,
    /// A line with placeholders, or a list of fields.
    pub(super) line_format: Option<Spanned<Value>>,
    pub(super) date_format: Option<Spanned<String>>,
    #[serde(default)]
    pub(super) static_fields: RawValues,
    pub(super) dir: Option<Spanned<PathBuf>>,
    pub(super) file_num: Option<Spanned<u32>>,
    pub(super) file_size: Option<Spanned<Value>>,
    pub(super) mode: Option<Spanned<Value>>,
    pub(super) deduplicate_heartbeats: Option<Spanned<bool>>,
}
