//! Settings as written: every key, none checked beyond its type. agent.toml is read right into this, with unknown
//! keys refused; a patroni.yml is converted to it, and can be written from it as an agent.toml. What is said of the keys
//! becomes docs/configuration.md and the schema in packaging/schema.

mod bootstrap;
mod postgresql;
mod restapi;

use std::collections::BTreeMap;
use std::path::PathBuf;

use pgvane_cluster::settings_file::{Interval, Secret, Size, Spanned};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize, Serializer};
use serde_json::Value;

pub(super) use self::bootstrap::{RawBootstrap, RawMethod, RawUser};
pub(super) use self::postgresql::{RawCallbacks, RawPostgresql, RawReplicaMethod, RawRole};
pub(super) use self::restapi::{RawCtl, RawRestapi};
use super::default;
use crate::timing::{DEFAULT_CLOCK_DRIFT_PPM, MAX_CLOCK_DRIFT_PPM};

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

/// The settings of one node. Relative paths are taken from the file's directory.
#[derive(Deserialize, Serialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub(super) struct RawConfig {
    /// Name of this node, unique in its cluster.
    #[schemars(extend("x-restart" = true))]
    pub(super) name: Spanned<String>,
    /// Name of the cluster, the same on all its nodes.
    #[schemars(extend("x-restart" = true))]
    pub(super) scope: Spanned<String>,
    /// Part of etcd's key space the cluster lives in.
    #[schemars(extend("default" = default::NAMESPACE, "x-restart" = true))]
    pub(super) namespace: Option<Spanned<String>>,
    pub(super) etcd: RawEtcd,
    #[serde(default)]
    pub(super) restapi: RawRestapi,
    #[serde(default)]
    pub(super) ctl: RawCtl,
    pub(super) postgresql: RawPostgresql,
    #[serde(default)]
    pub(super) bootstrap: RawBootstrap,
    /// What this node is willing to do: `nofailover`, `noloadbalance`, `clonefrom`, `nosync`, `nostream` (true or
    /// false), `failover_priority`, `sync_priority` (whole numbers), `replicatefrom` (the name of a member). Other
    /// keys are published as they are.
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

/// How to reach etcd, API version 3.
#[derive(Deserialize, Serialize, JsonSchema)]
#[serde(deny_unknown_fields)]
#[schemars(extend("x-restart" = true))]
pub(super) struct RawEtcd {
    /// Client URLs of the etcd members; without a scheme http is meant, https where a certificate is given.
    #[schemars(length(min = 1))]
    pub(super) endpoints: Spanned<Vec<Spanned<String>>>,
    /// Certificates that sign etcd's, PEM.
    pub(super) cacert: Option<Spanned<PathBuf>>,
    /// Our own certificate, where etcd asks for one.
    pub(super) cert: Option<Spanned<PathBuf>>,
    /// The key of `cert`.
    pub(super) key: Option<Spanned<PathBuf>>,
    /// User, where etcd's authentication is on.
    pub(super) username: Option<Spanned<String>>,
    /// Password of `username`.
    #[serde(serialize_with = "exposed_at")]
    #[schemars(with = "Option<Secret>")]
    pub(super) password: Option<Spanned<Secret>>,
    /// Whether etcd's other members are used too, as etcd lists them; a patroni.yml often names one of them.
    #[serde(default)]
    pub(super) discover: bool,
}

/// Deadlines of this node; each is derived from the cluster's `ttl` unless set. `ttl` must exceed 2 × `renew_interval`
/// + request slack (`ttl` / 10) + `stop_budget` + `guard_budget` + margin (`ttl` × drift + 50ms).
#[derive(Deserialize, Serialize, Default, JsonSchema)]
#[serde(deny_unknown_fields)]
pub(super) struct RawTiming {
    /// Time between renewals of the lease, at least 10ms.
    #[schemars(extend("x-default" = "`ttl` / 6, between 250ms and 5s"))]
    pub(super) renew_interval: Option<Spanned<Interval>>,
    /// Time for a clean stop before the guard acts, at least 10ms.
    #[schemars(extend("x-default" = "`ttl` / 6, between 200ms and 5s"))]
    pub(super) stop_budget: Option<Spanned<Interval>>,
    /// Time the guard has to end every PostgreSQL process, at least 10ms.
    #[schemars(extend("default" = Interval(default::GUARD_BUDGET)))]
    pub(super) guard_budget: Option<Spanned<Interval>>,
    /// Bound on the difference of clock rates between this node and etcd, in parts per million.
    #[schemars(range(max = MAX_CLOCK_DRIFT_PPM), extend("default" = DEFAULT_CLOCK_DRIFT_PPM))]
    pub(super) clock_drift_ppm: Option<Spanned<u32>>,
}

/// The process that stops PostgreSQL when the agent cannot.
#[derive(Deserialize, Serialize, Default, JsonSchema)]
#[serde(deny_unknown_fields)]
#[schemars(extend("x-restart" = true))]
pub(super) struct RawGuard {
    /// Its Unix socket, at most 107 bytes.
    #[schemars(extend("x-default" = "beside the data directory, `NAME.guard.sock`"))]
    pub(super) socket: Option<Spanned<PathBuf>>,
    /// Its log file.
    #[schemars(extend("x-default" = "the agent's standard error"))]
    pub(super) log: Option<Spanned<PathBuf>>,
}

/// The kernel's watchdog: it resets the machine when nobody tells it that all is well.
#[derive(Deserialize, Serialize, Default, JsonSchema)]
#[serde(deny_unknown_fields)]
pub(super) struct RawWatchdog {
    /// `off`; `automatic`: where it can be used; `required`: a node that cannot use it does not lead.
    #[schemars(extend("enum" = ["off", "automatic", "required"], "default" = "off"))]
    pub(super) mode: Option<Spanned<String>>,
    /// The device.
    #[schemars(extend("default" = default::WATCHDOG_DEVICE))]
    pub(super) device: Option<Spanned<PathBuf>>,
    /// How long before the end of the lease it fires: a duration, or -1 for half of `ttl`.
    #[schemars(extend("default" = default::WATCHDOG_MARGIN.as_secs()))]
    pub(super) safety_margin: Option<Spanned<Value>>,
    /// `testing`: the device is a named pipe.
    #[schemars(extend("enum" = ["default", "testing"], "default" = "default"))]
    pub(super) driver: Option<Spanned<String>>,
}

/// The log.
#[derive(Deserialize, Serialize, Default, JsonSchema)]
#[serde(deny_unknown_fields)]
pub(super) struct RawLog {
    /// `text`, `json`, or Patroni's: `patroni` (`YYYY-MM-DD HH:MM:SS,mmm LEVEL: text`, with the texts that Patroni's
    /// operators look for) and `patroni-json`.
    #[schemars(extend("enum" = ["text", "json", "patroni", "patroni-json"], "default" = "text"))]
    pub(super) format: Option<Spanned<String>>,
    /// `error`, `warn`, `info`, `debug`, `trace`, or directives such as `info,pgvane_agent=debug`; Python's words do
    /// as well.
    #[schemars(extend("default" = default::LOG_LEVEL))]
    pub(super) level: Option<Spanned<String>>,
    /// What a line of Patroni's formats looks like: text with the placeholders `asctime`, `levelname`, `levelno`,
    /// `message`, `name`, `module`, `pathname`, `filename`, `lineno`, `process`, `created`, `msecs`; for
    /// `patroni-json` a list of them, each a name or `{ name = "shown as" }`.
    #[schemars(extend("default" = "%(asctime)s %(levelname)s: %(message)s"))]
    pub(super) line_format: Option<Spanned<Value>>,
    /// The time in it, as strftime has it.
    pub(super) date_format: Option<Spanned<String>>,
    /// For `patroni-json`: fields that are the same in every line.
    #[serde(default)]
    pub(super) static_fields: RawValues,
    /// An existing directory for log files.
    #[schemars(extend("x-default" = "standard error"))]
    pub(super) dir: Option<Spanned<PathBuf>>,
    /// How many older files are kept in `dir`.
    #[schemars(extend("default" = default::LOG_FILES))]
    pub(super) file_num: Option<Spanned<u32>>,
    /// The size at which a file is turned; 0 for no limit.
    #[schemars(with = "Option<Size>", extend("default" = default::LOG_FILE_SIZE))]
    pub(super) file_size: Option<Spanned<Value>>,
    /// Permissions of the files, in octal: `"0640"`.
    #[schemars(extend("x-default" = "the umask's"))]
    pub(super) mode: Option<Spanned<Value>>,
    /// Whether `no action` lines that say nothing new are left out of Patroni's formats.
    #[schemars(extend("default" = false))]
    pub(super) deduplicate_heartbeats: Option<Spanned<bool>>,
}
