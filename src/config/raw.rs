//! proxy.toml as written: every key, none checked beyond its type. Unknown keys are refused here.

use std::collections::BTreeMap;
use std::path::PathBuf;

use pgvane_cluster::settings_file::{Interval, Secret, Size};
use serde::Deserialize;
use toml::Spanned;

/// The whole file.
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct RawConfig {
    #[serde(default)]
    pub(super) log: RawLog,
    #[serde(default)]
    pub(super) admin: RawAdmin,
    #[serde(default)]
    pub(super) process: RawProcess,
    #[serde(default)]
    pub(super) drain: RawDrain,
    #[serde(default)]
    pub(super) tcp: RawTcp,
    #[serde(default)]
    pub(super) cluster: BTreeMap<Spanned<String>, RawCluster>,
    pub(super) listener: Option<Vec<RawListener>>,
}

#[derive(Deserialize, Default)]
#[serde(deny_unknown_fields)]
pub(super) struct RawLog {
    pub(super) format: Option<RawLogFormat>,
    pub(super) level: Option<Spanned<String>>,
}

#[derive(Deserialize)]
#[serde(rename_all = "snake_case")]
pub(super) enum RawLogFormat {
    Text,
    Json,
}

#[derive(Deserialize, Default)]
#[serde(deny_unknown_fields)]
pub(super) struct RawAdmin {
    pub(super) listen: Option<Vec<Spanned<String>>>,
    pub(super) ready_grace: Option<Interval>,
    pub(super) socket: Option<Spanned<PathBuf>>,
    pub(super) token: Option<Spanned<Secret>>,
}

#[derive(Deserialize, Default)]
#[serde(deny_unknown_fields)]
pub(super) struct RawProcess {
    pub(super) workers: Option<Spanned<usize>>,
}

#[derive(Deserialize, Default)]
#[serde(deny_unknown_fields)]
pub(super) struct RawDrain {
    pub(super) notice: Option<Interval>,
    pub(super) timeout: Option<Interval>,
    pub(super) handed_over: Option<Interval>,
}

#[derive(Deserialize, Default)]
#[serde(deny_unknown_fields)]
pub(super) struct RawTcp {
    pub(super) keepalive_idle: Option<Spanned<Interval>>,
    pub(super) keepalive_interval: Option<Spanned<Interval>>,
    pub(super) keepalive_count: Option<Spanned<u32>>,
    pub(super) user_timeout: Option<Interval>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct RawCluster {
    pub(super) scope: Option<Spanned<String>>,
    pub(super) namespace: Option<Spanned<String>>,
    pub(super) on_store_loss: Option<Spanned<RawOnStoreLoss>>,
    pub(super) reread_interval: Option<Spanned<Interval>>,
    pub(super) etcd: Option<Spanned<RawEtcd>>,
    pub(super) patroni_rest: Option<Spanned<RawPatroniRest>>,
    pub(super) probe: Option<Spanned<RawProbe>>,
    pub(super) checks: Option<Spanned<RawChecks>>,
    pub(super) agents: Option<Spanned<RawAgents>>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct RawAgents {
    pub(super) cacert: Option<Spanned<PathBuf>>,
    pub(super) cert: Option<Spanned<PathBuf>>,
    pub(super) key: Option<Spanned<PathBuf>>,
    pub(super) verify: Option<Spanned<RawVerify>>,
}

#[derive(Deserialize, Default)]
#[serde(deny_unknown_fields)]
pub(super) struct RawChecks {
    pub(super) when: Option<RawWhen>,
    pub(super) interval: Option<Spanned<Interval>>,
    pub(super) timeout: Option<Spanned<Interval>>,
    pub(super) rise: Option<Spanned<u32>>,
    pub(super) fall: Option<Spanned<u32>>,
}

#[derive(Clone, Copy, Deserialize)]
#[serde(rename_all = "snake_case")]
pub(super) enum RawWhen {
    StoreDown,
    Always,
    Never,
}

#[derive(Deserialize)]
#[serde(rename_all = "snake_case")]
pub(super) enum RawOnStoreLoss {
    Hold,
    Fence,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct RawEtcd {
    pub(super) endpoints: Spanned<Vec<Spanned<String>>>,
    pub(super) username: Option<Spanned<String>>,
    pub(super) password: Option<Spanned<Secret>>,
    pub(super) cacert: Option<Spanned<PathBuf>>,
    pub(super) cert: Option<Spanned<PathBuf>>,
    pub(super) key: Option<Spanned<PathBuf>>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct RawPatroniRest {
    pub(super) members: Spanned<Vec<Spanned<String>>>,
    pub(super) interval: Option<Spanned<Interval>>,
    pub(super) timeout: Option<Spanned<Interval>>,
    pub(super) rise: Option<Spanned<u32>>,
    pub(super) fall: Option<Spanned<u32>>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct RawProbe {
    pub(super) servers: Spanned<Vec<Spanned<String>>>,
    pub(super) user: Spanned<String>,
    pub(super) password: Option<Secret>,
    pub(super) database: Option<String>,
    pub(super) interval: Option<Spanned<Interval>>,
    pub(super) timeout: Option<Spanned<Interval>>,
    pub(super) rise: Option<Spanned<u32>>,
    pub(super) fall: Option<Spanned<u32>>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct RawListener {
    pub(super) name: Option<Spanned<String>>,
    pub(super) cluster: Option<Spanned<String>>,
    pub(super) role: Spanned<RawRole>,
    pub(super) listen: Spanned<Vec<Spanned<String>>>,
    pub(super) unix_mode: Option<Spanned<String>>,
    pub(super) balance: Option<Spanned<RawBalance>>,
    pub(super) fallback: Option<Spanned<RawFallback>>,
    pub(super) max_lag: Option<Size>,
    pub(super) max_sessions: Option<Spanned<usize>>,
    pub(super) max_sessions_per_address: Option<Spanned<usize>>,
    pub(super) max_sessions_per_target: Option<Spanned<usize>>,
    pub(super) allow: Option<Vec<Spanned<String>>>,
    pub(super) deny: Option<Vec<Spanned<String>>>,
    pub(super) proxy_protocol_from: Option<Vec<Spanned<String>>>,
    pub(super) send_proxy_protocol: Option<bool>,
    pub(super) hold_limit: Option<usize>,
    pub(super) hold_timeout: Option<Spanned<Interval>>,
    pub(super) queue_timeout: Option<Spanned<Interval>>,
    pub(super) connect_timeout: Option<Spanned<Interval>>,
    pub(super) answer_timeout: Option<Spanned<Interval>>,
    pub(super) startup_timeout: Option<Spanned<Interval>>,
    pub(super) tls: Option<RawTls>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct RawTls {
    pub(super) mode: Spanned<RawTlsMode>,
    pub(super) cert: Option<Spanned<PathBuf>>,
    pub(super) key: Option<Spanned<PathBuf>>,
    pub(super) client_ca: Option<Spanned<PathBuf>>,
    pub(super) min_version: Option<Spanned<RawTlsVersion>>,
    pub(super) required: Option<Spanned<bool>>,
    pub(super) sni: Option<Vec<RawSni>>,
    pub(super) server_verify: Option<Spanned<RawVerify>>,
    pub(super) server_ca: Option<Spanned<PathBuf>>,
    pub(super) server_cert: Option<Spanned<PathBuf>>,
    pub(super) server_key: Option<Spanned<PathBuf>>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct RawSni {
    pub(super) names: Spanned<Vec<Spanned<String>>>,
    pub(super) cert: Spanned<PathBuf>,
    pub(super) key: Spanned<PathBuf>,
}

#[derive(Clone, Copy, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "snake_case")]
pub(super) enum RawVerify {
    Full,
    Ca,
    None,
}

#[derive(Clone, Copy, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "snake_case")]
pub(super) enum RawTlsMode {
    Passthrough,
    Terminate,
    Reencrypt,
}

#[derive(Clone, Copy, Deserialize)]
pub(super) enum RawTlsVersion {
    #[serde(rename = "1.2")]
    Tls12,
    #[serde(rename = "1.3")]
    Tls13,
}

#[derive(Clone, Copy, Deserialize)]
#[serde(rename_all = "snake_case")]
pub(super) enum RawRole {
    Primary,
    Replica,
    Sync,
    Async,
    Any,
}

#[derive(Clone, Copy, Deserialize)]
#[serde(rename_all = "snake_case")]
pub(super) enum RawBalance {
    RoundRobin,
    LeastConnections,
    LagWeighted,
}

#[derive(Clone, Copy, Deserialize)]
#[serde(rename_all = "snake_case")]
pub(super) enum RawFallback {
    None,
    Primary,
}
