//! `[postgresql]`.

use std::collections::BTreeMap;
use std::path::PathBuf;

use pgvane_cluster::settings_file::{Interval, Secret, Spanned};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::super::default;
use super::{RawValues, exposed, exposed_at};

/// The local PostgreSQL.
#[derive(Deserialize, Serialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub(in crate::config) struct RawPostgresql {
    /// Data directory; created when it is missing. Its parent must be writable for the agent: the guard's socket, the
    /// password file and a promise to other members are kept beside it.
    #[schemars(extend("x-restart" = true))]
    pub(in crate::config) data_dir: Spanned<PathBuf>,
    /// Server programs.
    #[schemars(extend("x-default" = "`/usr/lib/postgresql/VERSION/bin` of the data directory's version, else the \
        newest there, else the first on PATH with a `postgres`"))]
    pub(in crate::config) bin_dir: Option<Spanned<PathBuf>>,
    /// `listen_addresses` (several with commas) and `port`.
    #[schemars(extend(
        "x-default" = format!(
            "`{}:` and the port that `connect_address` names, else {}", default::LISTEN_ADDRESSES, default::PORT
        ),
        "x-restart" = true
    ))]
    pub(in crate::config) listen: Option<Spanned<String>>,
    /// Where clients and the other members reach it, host or host:port. Needed unless `listen` names one address.
    #[schemars(extend("x-default" = "`listen`, where that is one address"))]
    pub(in crate::config) connect_address: Option<Spanned<String>>,
    /// Address of a pooler on this node, which members publish beside ours (`proxy_url`).
    pub(in crate::config) proxy_address: Option<Spanned<String>>,
    /// Database the agent connects to.
    #[schemars(extend("default" = default::DATABASE))]
    pub(in crate::config) database: Option<String>,
    /// The agent's own role, a superuser; `username` is `postgres` unless set. A password is needed unless `pg_hba` or
    /// `keep_pg_hba` is set.
    #[serde(default)]
    pub(in crate::config) superuser: RawRole,
    /// The role of replicas; `username` is `replicator` unless set. A password is needed unless `pg_hba` or
    /// `keep_pg_hba` is set.
    #[serde(default)]
    pub(in crate::config) replication: RawRole,
    /// The role of `pg_rewind`; the superuser unless set.
    pub(in crate::config) rewind: Option<RawRole>,
    /// Password file the agent writes for replicas and tools.
    #[schemars(extend("x-default" = "beside the data directory, `NAME.pgpass`"))]
    pub(in crate::config) pgpass: Option<Spanned<PathBuf>>,
    /// Directory for the Unix socket; the agent connects through it where set, else over TCP.
    #[schemars(extend("x-restart" = true))]
    pub(in crate::config) use_unix_socket: Option<Spanned<PathBuf>>,
    /// Whether replication connections of the agent itself go through it too.
    #[schemars(extend("default" = false))]
    pub(in crate::config) use_unix_socket_repl: Option<bool>,
    /// Service name of Kerberos.
    pub(in crate::config) krbsrvname: Option<String>,
    /// Parameters of this node alone. What must be the same on all nodes (`max_connections` and the like) is refused
    /// here: set it with `pgvanectl edit-config`, or under `bootstrap.dcs`.
    #[serde(default)]
    pub(in crate::config) parameters: RawValues,
    /// Lines of `pg_hba.conf`; all of them. The default lets everybody in who has a password.
    #[schemars(extend("default" = default::PG_HBA))]
    pub(in crate::config) pg_hba: Option<Spanned<Vec<String>>>,
    /// Whether `pg_hba.conf` is left as it is instead; a new cluster's is initdb's with the lines of
    /// `bootstrap.pg_hba`.
    #[schemars(extend("default" = false))]
    pub(in crate::config) keep_pg_hba: Option<bool>,
    /// Lines of `pg_ident.conf`; the file is left alone where there are none.
    #[serde(default)]
    pub(in crate::config) pg_ident: Vec<String>,
    /// Recovery parameters of a standby, such as `restore_command`; recovery targets and the upstream are the agent's
    /// own.
    #[serde(default)]
    pub(in crate::config) recovery_conf: RawValues,
    /// Where the configuration files are.
    #[schemars(extend("x-default" = "the data directory", "x-restart" = true))]
    pub(in crate::config) config_dir: Option<Spanned<PathBuf>>,
    /// `NAME.base.conf` is yours, `NAME.conf` is generated and includes it.
    #[schemars(extend("default" = default::CONFIG_BASE_NAME, "x-restart" = true))]
    pub(in crate::config) config_base_name: Option<Spanned<String>>,
    /// Included in place of the base file.
    pub(in crate::config) custom_conf: Option<Spanned<PathBuf>>,
    /// Programs of PostgreSQL that go by another name here: `pg_ctl = "pg_ctl-15"`.
    #[serde(default)]
    pub(in crate::config) bin_names: BTreeMap<String, Spanned<String>>,
    pub(in crate::config) replica_methods: Option<Vec<RawReplicaMethod>>,
    /// Options of `pg_basebackup`, without their dashes.
    #[serde(default)]
    pub(in crate::config) basebackup: Vec<Spanned<String>>,
    #[serde(default)]
    pub(in crate::config) callbacks: RawCallbacks,
    /// A command run before a promotion; one that fails forbids it.
    pub(in crate::config) pre_promote: Option<Spanned<String>>,
    /// A command run before the server is stopped.
    pub(in crate::config) before_stop: Option<Spanned<String>>,
    /// How long a start or stop may take where nothing else bounds it.
    #[schemars(extend("default" = Interval(default::PG_CTL_TIMEOUT)))]
    pub(in crate::config) pg_ctl_timeout: Option<Spanned<Interval>>,
    /// Replaces the dynamic configuration's on this node.
    pub(in crate::config) use_pg_rewind: Option<bool>,
    /// Replaces the dynamic configuration's on this node.
    pub(in crate::config) remove_data_directory_on_rewind_failure: Option<bool>,
    /// Replaces the dynamic configuration's on this node.
    pub(in crate::config) remove_data_directory_on_diverged_timelines: Option<bool>,
    /// Options of `pg_rewind`, without their dashes.
    #[serde(default)]
    pub(in crate::config) rewind_options: Vec<Spanned<String>>,
}

/// A role of PostgreSQL, and how libpq connects as it.
#[derive(Deserialize, Serialize, Default, JsonSchema)]
#[serde(deny_unknown_fields)]
pub(in crate::config) struct RawRole {
    /// Its name.
    pub(in crate::config) username: Option<Spanned<String>>,
    /// Its password.
    #[serde(serialize_with = "exposed")]
    pub(in crate::config) password: Option<Secret>,
    /// As libpq knows it, as all the following.
    #[schemars(extend("enum" = ["disable", "allow", "prefer", "require", "verify-ca", "verify-full"]))]
    pub(in crate::config) sslmode: Option<Spanned<String>>,
    /// Client certificate.
    pub(in crate::config) sslcert: Option<Spanned<String>>,
    /// Its key.
    pub(in crate::config) sslkey: Option<Spanned<String>>,
    /// Password of an encrypted key.
    #[serde(serialize_with = "exposed_at")]
    #[schemars(with = "Option<Secret>")]
    pub(in crate::config) sslpassword: Option<Spanned<Secret>>,
    /// Certificates that sign the servers'.
    pub(in crate::config) sslrootcert: Option<Spanned<String>>,
    /// Certificates that were revoked.
    pub(in crate::config) sslcrl: Option<Spanned<String>>,
    /// Directory of them.
    pub(in crate::config) sslcrldir: Option<Spanned<String>>,
    /// Encryption by GSSAPI.
    #[schemars(extend("enum" = ["disable", "prefer", "require"]))]
    pub(in crate::config) gssencmode: Option<Spanned<String>>,
    /// Binding of the login to the TLS connection.
    #[schemars(extend("enum" = ["disable", "prefer", "require"]))]
    pub(in crate::config) channel_binding: Option<Spanned<String>>,
    /// How TLS begins.
    #[schemars(extend("enum" = ["postgres", "direct"]))]
    pub(in crate::config) sslnegotiation: Option<Spanned<String>>,
}

/// Commands told of what happens: each gets the action, the role and the cluster's name as arguments.
#[derive(Deserialize, Serialize, Default, JsonSchema)]
#[serde(deny_unknown_fields)]
#[expect(clippy::struct_field_names, reason = "these are the keys")]
pub(in crate::config) struct RawCallbacks {
    /// The server accepts connections.
    pub(in crate::config) on_start: Option<Spanned<String>>,
    /// It was stopped.
    pub(in crate::config) on_stop: Option<Spanned<String>>,
    /// It was restarted.
    pub(in crate::config) on_restart: Option<Spanned<String>>,
    /// Its configuration was read again.
    pub(in crate::config) on_reload: Option<Spanned<String>>,
    /// It was promoted or demoted.
    pub(in crate::config) on_role_change: Option<Spanned<String>>,
}

/// Ways to make a replica, tried in this order; `basebackup` is built in, and the only one unless others are named.
#[derive(Deserialize, Serialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub(in crate::config) struct RawReplicaMethod {
    /// Its name.
    pub(in crate::config) name: Spanned<String>,
    /// The command. It gets `--scope`, `--role`, `--datadir` and `--connstring`, and `parameters`.
    #[schemars(extend("x-default" = "`name`"))]
    pub(in crate::config) command: Option<Spanned<String>>,
    /// Whether the data directory is left in place for it.
    #[serde(default)]
    pub(in crate::config) keep_data: bool,
    /// Whether it gets no argument but `parameters`.
    #[serde(default)]
    pub(in crate::config) no_params: bool,
    /// Whether it works without anybody to copy from.
    #[serde(default)]
    pub(in crate::config) no_leader: bool,
    /// Further arguments, each as `--name=value`.
    #[serde(default)]
    pub(in crate::config) parameters: RawValues,
}
