//! proxy.toml as written: every key, none checked beyond its type. Unknown keys are refused here. What is said of the
//! keys becomes docs/configuration.md and the schema in packaging/schema.

use std::collections::BTreeMap;
use std::path::PathBuf;

use pgvane_cluster::settings_file::{Interval, Secret, Size, Spanned};
use schemars::JsonSchema;
use serde::Deserialize;

use super::check::{MAX_WORKERS, MIN_TOKEN};
use super::cluster::MOST_IN_A_ROW;
use super::default::{self, shown};

/// The settings of one proxy. Only one `[cluster.NAME]` that says who tells of it is needed.
#[derive(Deserialize, JsonSchema)]
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
    #[schemars(with = "BTreeMap<String, RawCluster>")]
    pub(super) cluster: BTreeMap<Spanned<String>, RawCluster>,
    pub(super) listener: Option<Vec<RawListener>>,
}

/// The log, on standard error.
#[derive(Deserialize, Default, JsonSchema)]
#[serde(deny_unknown_fields)]
pub(super) struct RawLog {
    /// How a line looks.
    #[schemars(extend("default" = "text", "x-restart" = true))]
    pub(super) format: Option<RawLogFormat>,
    /// `error`, `warn`, `info`, `debug`, `trace`, or directives such as `info,pgvane=debug`. A session that ends
    /// normally is logged at `debug`, any other at `info` with the reason.
    #[schemars(extend("default" = default::LOG_LEVEL))]
    pub(super) level: Option<Spanned<String>>,
}

#[derive(Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub(super) enum RawLogFormat {
    /// one line per event, for people and journald
    Text,
    /// one object per event, for collectors
    Json,
}

/// The HTTP port (`/metrics`, `/livez`, `/readyz`, `/topology`, the status page) and the socket of `pgvanectl proxy`.
#[derive(Deserialize, Default, JsonSchema)]
#[serde(deny_unknown_fields)]
#[schemars(extend("x-restart" = true))]
pub(super) struct RawAdmin {
    /// Addresses and ports of HTTP. Reading needs no authentication.
    #[schemars(extend("default" = [format!("127.0.0.1:{}", default::ADMIN_PORT)]))]
    pub(super) listen: Option<Vec<Spanned<String>>>,
    /// How long a primary may be missing, or the store silent, before `/readyz` says 503. A failover is shorter, and
    /// moving a virtual address because of it would only cut more sessions.
    #[schemars(extend("default" = shown(default::READY_GRACE)))]
    pub(super) ready_grace: Option<Interval>,
    /// A Unix socket (an absolute path) for `pgvanectl proxy`, and for the next version of the program, which takes
    /// the ports over by it. Who may write to it (mode 0600) may do all that can be done there. There is none unless
    /// set.
    pub(super) socket: Option<Spanned<PathBuf>>,
    /// What the status page asks for before it drains or enables a server, 16 characters and more. Without it nobody
    /// may change anything over HTTP.
    #[schemars(with = "Option<Secret>", extend("minLength" = MIN_TOKEN))]
    pub(super) token: Option<Spanned<Secret>>,
}

/// The process.
#[derive(Deserialize, Default, JsonSchema)]
#[serde(deny_unknown_fields)]
#[schemars(extend("x-restart" = true))]
pub(super) struct RawProcess {
    /// Threads that run sessions. A session stays on the thread that had the fewest when it came. One more thread
    /// follows etcd, accepts connections and answers HTTP.
    #[schemars(range(min = 1, max = MAX_WORKERS), extend("x-default" = "as many as there are cores"))]
    pub(super) workers: Option<Spanned<usize>>,
}

/// How the proxy stops.
#[derive(Deserialize, Default, JsonSchema)]
#[serde(deny_unknown_fields)]
pub(super) struct RawDrain {
    /// On SIGTERM: time between `/readyz` saying 503 and new connections being refused. Longer than the interval of
    /// the check that moves the virtual address, so that clients have gone elsewhere by then.
    #[schemars(extend("default" = shown(default::DRAIN_NOTICE)))]
    pub(super) notice: Option<Interval>,
    /// Time that open sessions then have to end by themselves before they are cut. A second SIGTERM cuts at once.
    #[schemars(extend("default" = shown(default::DRAIN_TIMEOUT)))]
    pub(super) timeout: Option<Interval>,
    /// The same when another process has taken over the ports: nobody waits for it then.
    #[schemars(extend("default" = shown(default::DRAIN_HANDED_OVER)))]
    pub(super) handed_over: Option<Interval>,
}

/// Socket options of both sides of every session. `TCP_NODELAY` is always on.
#[derive(Deserialize, Default, JsonSchema)]
#[serde(deny_unknown_fields)]
pub(super) struct RawTcp {
    /// Idle time before the first keepalive probe, in whole seconds from 1.
    #[schemars(extend("default" = shown(default::KEEPALIVE_IDLE)))]
    pub(super) keepalive_idle: Option<Spanned<Interval>>,
    /// Time between two probes, in whole seconds from 1.
    #[schemars(extend("default" = shown(default::KEEPALIVE_INTERVAL)))]
    pub(super) keepalive_interval: Option<Spanned<Interval>>,
    /// Unanswered probes that end the connection.
    #[schemars(range(min = 1, max = 127), extend("default" = default::KEEPALIVE_COUNT))]
    pub(super) keepalive_count: Option<Spanned<u32>>,
    /// How long sent bytes may stay unacknowledged before the connection ends; 0 leaves it to the kernel.
    #[schemars(extend("default" = shown(default::USER_TIMEOUT)))]
    pub(super) user_timeout: Option<Interval>,
}

/// One section per cluster; the name is the one in logs and metrics: letters, digits, `-`, `_` and `.`. Exactly one of
/// the sections `etcd`, `patroni_rest` and `probe` in it says who tells of the cluster.
#[derive(Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
#[schemars(extend("x-restart" = true))]
pub(super) struct RawCluster {
    /// Patroni's scope. Only with `etcd`.
    #[schemars(extend("x-default" = "the section's name"))]
    pub(super) scope: Option<Spanned<String>>,
    /// Patroni's namespace. Only with `etcd`.
    #[schemars(extend("default" = default::NAMESPACE))]
    pub(super) namespace: Option<Spanned<String>>,
    /// What happens to the primary's sessions when etcd no longer proves the leader, whose lease may have run out. New
    /// sessions follow the same rule; those on replicas are never cut for this. Only with `etcd`.
    #[schemars(extend("default" = "hold"))]
    pub(super) on_store_loss: Option<Spanned<RawOnStoreLoss>>,
    /// Time between linearizable reads that confirm the watch. Only with `etcd`.
    #[schemars(extend("default" = shown(default::REREAD_INTERVAL)))]
    pub(super) reread_interval: Option<Spanned<Interval>>,
    pub(super) etcd: Option<Spanned<RawEtcd>>,
    pub(super) patroni_rest: Option<Spanned<RawPatroniRest>>,
    pub(super) probe: Option<Spanned<RawProbe>>,
    pub(super) checks: Option<Spanned<RawChecks>>,
    pub(super) agents: Option<Spanned<RawAgents>>,
}

/// Whom the REST APIs of agents are trusted by, where their `api_url`, or the URL in `members`, is https. Without this
/// section they are not asked: for `on_store_loss = "hold"` such an agent is silent. Only with `etcd` and
/// `patroni_rest`.
#[derive(Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub(super) struct RawAgents {
    /// CA certificates, PEM. Required unless `verify` is `"none"`.
    pub(super) cacert: Option<Spanned<PathBuf>>,
    /// Our own certificate, where the agents ask for one.
    pub(super) cert: Option<Spanned<PathBuf>>,
    /// The key of `cert`.
    pub(super) key: Option<Spanned<PathBuf>>,
    /// What of an agent's certificate is checked.
    #[schemars(extend("default" = "full"))]
    pub(super) verify: Option<Spanned<RawVerify>>,
}

/// Checks of servers: whether PostgreSQL answers at its port. A server that does not is passed over while another
/// does; no session is cut for it. Changes of role come from the store and need no check. Only with `etcd`.
#[derive(Deserialize, Default, JsonSchema)]
#[serde(deny_unknown_fields)]
pub(super) struct RawChecks {
    /// When servers are checked.
    #[schemars(extend("default" = "store_down"))]
    pub(super) when: Option<RawWhen>,
    /// Time between two checks of a server.
    #[schemars(extend("default" = shown(default::CHECK_INTERVAL)))]
    pub(super) interval: Option<Spanned<Interval>>,
    /// Longest wait for an answer.
    #[schemars(extend("default" = shown(default::CHECK_TIMEOUT)))]
    pub(super) timeout: Option<Spanned<Interval>>,
    /// Answers in a row after which it is back.
    #[schemars(range(min = 1, max = MOST_IN_A_ROW), extend("default" = default::RISE))]
    pub(super) rise: Option<Spanned<u32>>,
    /// Failures in a row after which it is passed over.
    #[schemars(range(min = 1, max = MOST_IN_A_ROW), extend("default" = default::FALL))]
    pub(super) fall: Option<Spanned<u32>>,
}

#[derive(Clone, Copy, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub(super) enum RawWhen {
    /// while etcd does not answer, when nobody tells that a replica has died
    StoreDown,
    /// at all times
    Always,
    /// not at all
    Never,
}

#[derive(Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub(super) enum RawOnStoreLoss {
    /// they are kept while the leader's own agent vouches for it (`GET /primary`), and cut when it says no, or is
    /// silent for the cluster's ttl
    Hold,
    /// they are cut when the lease may have run out, whoever vouches
    Fence,
}

/// Patroni's keys in etcd tell of the cluster, at once: the usual source.
#[derive(Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub(super) struct RawEtcd {
    /// Client URLs of all members, http or https.
    #[schemars(length(min = 1))]
    pub(super) endpoints: Spanned<Vec<Spanned<String>>>,
    /// User, where etcd has authentication on.
    pub(super) username: Option<Spanned<String>>,
    /// Password of `username`.
    pub(super) password: Option<Spanned<Secret>>,
    /// CA certificates of etcd's, for https.
    #[schemars(extend("x-default" = "the system's"))]
    pub(super) cacert: Option<Spanned<PathBuf>>,
    /// Our own certificate, where etcd asks for one.
    pub(super) cert: Option<Spanned<PathBuf>>,
    /// The key of `cert`.
    pub(super) key: Option<Spanned<PathBuf>>,
}

/// In place of etcd, where there is no access to it: the REST API of every member's Patroni, or pgvane agent. One `GET
/// /primary` per member and interval serves all listeners. The leader is who answers 200; of two who do so, who is on
/// the higher timeline; on equal timelines neither, until one says no.
#[derive(Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub(super) struct RawPatroniRest {
    /// URLs of all members; for https the section `agents` is needed too. Who is not listed is not known. Where their
    /// PostgreSQL listens they say themselves (`GET /cluster`).
    #[schemars(length(min = 1))]
    pub(super) members: Spanned<Vec<Spanned<String>>>,
    /// Time between two questions to one member.
    #[schemars(extend("default" = shown(default::CHECK_INTERVAL)))]
    pub(super) interval: Option<Spanned<Interval>>,
    /// Longest wait for an answer.
    #[schemars(extend("default" = shown(default::CHECK_TIMEOUT)))]
    pub(super) timeout: Option<Spanned<Interval>>,
    /// Answers in a row after which a member that was down is up again.
    #[schemars(range(min = 1, max = MOST_IN_A_ROW), extend("default" = default::RISE))]
    pub(super) rise: Option<Spanned<u32>>,
    /// Failures in a row after which a silent member is down and gets no new sessions. (One that says it is no primary
    /// loses that role at once.) A primary's sessions are cut when it has been silent for `fall` × L + `timeout` +
    /// L / 2, where L is the longer of `interval` and `timeout`: 4.5 s with the defaults.
    #[schemars(range(min = 1, max = MOST_IN_A_ROW), extend("default" = default::FALL))]
    pub(super) fall: Option<Spanned<u32>>,
}

/// In place of etcd: a fixed list of PostgreSQL servers, version 10 or newer, whoever manages them, each asked over
/// one connection that is kept, in plain text. The primary is who is not in recovery; of two, who is on the higher
/// timeline; on equal timelines neither. A primary on an older timeline than the newest seen is refused. No lease
/// stands behind this: a proxy that cannot reach the new primary goes on with the old one as long as that one answers.
/// Listeners for the role `sync` find nobody here.
#[derive(Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub(super) struct RawProbe {
    /// Host and port of all servers, for the questions and for clients.
    #[schemars(length(min = 1))]
    pub(super) servers: Spanned<Vec<Spanned<String>>>,
    /// A role that may log in to all of them. `pg_monitor` lets it see whether a standby streams; without it a standby
    /// takes reads while it is less than 16MB behind.
    #[schemars(length(min = 1))]
    pub(super) user: Spanned<String>,
    /// Its password.
    pub(super) password: Option<Secret>,
    /// The database to connect to.
    #[schemars(extend("default" = default::DATABASE))]
    pub(super) database: Option<String>,
    /// Time between two questions to one server.
    #[schemars(extend("default" = shown(default::CHECK_INTERVAL)))]
    pub(super) interval: Option<Spanned<Interval>>,
    /// Longest wait for an answer.
    #[schemars(extend("default" = shown(default::CHECK_TIMEOUT)))]
    pub(super) timeout: Option<Spanned<Interval>>,
    /// Answers in a row after which a server that was down is up again.
    #[schemars(range(min = 1, max = MOST_IN_A_ROW), extend("default" = default::RISE))]
    pub(super) rise: Option<Spanned<u32>>,
    /// Failures in a row after which a silent server is down, as in `patroni_rest`.
    #[schemars(range(min = 1, max = MOST_IN_A_ROW), extend("default" = default::FALL))]
    pub(super) fall: Option<Spanned<u32>>,
}

/// A port for clients. Without any there are two, `primary` on 5432 and `replica` on 5433, on all addresses of IPv4
/// and IPv6.
#[derive(Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub(super) struct RawListener {
    /// Its name in logs and metrics.
    #[schemars(extend("x-default" = "the role"))]
    pub(super) name: Option<Spanned<String>>,
    /// Which cluster it serves; needed when there are several.
    #[schemars(extend("x-default" = "the only one"))]
    pub(super) cluster: Option<Spanned<String>>,
    /// Which servers its sessions go to.
    pub(super) role: Spanned<RawRole>,
    /// Addresses and ports (`"0.0.0.0:5432"`, `"[::]:5432"`), and paths of Unix sockets
    /// (`"unix:/run/pgvane/.s.PGSQL.5432"`). IPv6 sockets take IPv6 only; on a host without IPv6, `[::]` is left out.
    #[schemars(length(min = 1))]
    pub(super) listen: Spanned<Vec<Spanned<String>>>,
    /// Permissions of its Unix sockets, in octal. As with PostgreSQL's, it is the server that asks who the client is.
    #[schemars(extend("default" = format!("{:04o}", default::UNIX_MODE)))]
    pub(super) unix_mode: Option<Spanned<String>>,
    /// How sessions are shared out. Not with the role `primary`.
    #[schemars(extend("default" = "round_robin"))]
    pub(super) balance: Option<Spanned<RawBalance>>,
    /// Where reads go when no replica takes them. Only with the roles `replica`, `sync` and `async`.
    #[schemars(extend("default" = "none"))]
    pub(super) fallback: Option<Spanned<RawFallback>>,
    /// New sessions avoid replicas that are known to be further behind. It never ends a session. No limit unless set.
    pub(super) max_lag: Option<Size>,
    /// Client connections at once; more get the error 53300. Each needs two file descriptors.
    #[schemars(range(min = 1), extend("default" = default::MAX_SESSIONS))]
    pub(super) max_sessions: Option<Spanned<usize>>,
    /// The same per client address. No limit unless set.
    #[schemars(range(min = 1))]
    pub(super) max_sessions_per_address: Option<Spanned<usize>>,
    /// Sessions on one server at once, those of this proxy's other listeners included; who comes after them waits in a
    /// queue and counts for `hold_limit`. No limit unless set.
    #[schemars(range(min = 1))]
    pub(super) max_sessions_per_target: Option<Spanned<usize>>,
    /// Networks that clients may come from, from anywhere unless set; others get the error 28000.
    pub(super) allow: Option<Vec<Spanned<String>>>,
    /// Networks that they may not come from in spite of that.
    pub(super) deny: Option<Vec<Spanned<String>>>,
    /// Proxies whose connections begin with a PROXY header (version 1 or 2): `allow`, `deny`, the limit per address
    /// and the log go by the client's address in it, or by the proxy's own where it names nobody. A connection from
    /// them without one is refused. Nobody is believed unless set.
    pub(super) proxy_protocol_from: Option<Vec<Spanned<String>>>,
    /// Whether connections to servers begin with such a header (version 2). PostgreSQL itself does not understand it.
    #[schemars(extend("default" = false))]
    pub(super) send_proxy_protocol: Option<bool>,
    /// How many clients may wait while nobody serves; more get the error 57P03. 0 lets nobody wait.
    #[schemars(extend("default" = default::HOLD_LIMIT))]
    pub(super) hold_limit: Option<usize>,
    /// How long a client waits for a server's answer, from its first packet on, before it gets the error 57P03.
    #[schemars(extend("default" = shown(default::HOLD_TIMEOUT)))]
    pub(super) hold_timeout: Option<Spanned<Interval>>,
    /// How long a client waits in the queue of a full server before it gets the error 53300.
    #[schemars(extend("x-default" = "`hold_timeout`"))]
    pub(super) queue_timeout: Option<Spanned<Interval>>,
    /// Time for a TCP connection to one server.
    #[schemars(extend("default" = shown(default::CONNECT_TIMEOUT)))]
    pub(super) connect_timeout: Option<Spanned<Interval>>,
    /// Time a replica has to answer the first packet before the next one is tried.
    #[schemars(extend("default" = shown(default::ANSWER_TIMEOUT)))]
    pub(super) answer_timeout: Option<Spanned<Interval>>,
    /// Time a client has to send its first packet, and to shake hands where TLS ends here.
    #[schemars(extend("default" = shown(default::STARTUP_TIMEOUT)))]
    pub(super) startup_timeout: Option<Spanned<Interval>>,
    pub(super) tls: Option<RawTls>,
}

/// TLS of this listener's clients. Without this section it is passed on, and the server's certificate is shown. There
/// is no TLS by Unix sockets. The files are read again at a reload.
#[derive(Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub(super) struct RawTls {
    /// Where clients' TLS ends.
    pub(super) mode: Spanned<RawTlsMode>,
    /// Our certificate with those that lead to its root, PEM. Required where TLS ends here.
    pub(super) cert: Option<Spanned<PathBuf>>,
    /// Its key without a passphrase, PEM.
    pub(super) key: Option<Spanned<PathBuf>>,
    /// Clients over TLS must show a certificate that one of these has signed. Nobody is asked for one unless set.
    pub(super) client_ca: Option<Spanned<PathBuf>>,
    /// The oldest version that is spoken, with clients and with servers.
    #[schemars(extend("default" = "1.2"))]
    pub(super) min_version: Option<Spanned<RawTlsVersion>>,
    /// Whether sessions in plain text are turned away (error 28000).
    #[schemars(extend("default" = false))]
    pub(super) required: Option<Spanned<bool>>,
    pub(super) sni: Option<Vec<RawSni>>,
    /// With `reencrypt`: what of a server's certificate is checked.
    #[schemars(extend("default" = "full"))]
    pub(super) server_verify: Option<Spanned<RawVerify>>,
    /// With `reencrypt`: the CA certificates of servers. Required unless `server_verify` is `"none"`.
    pub(super) server_ca: Option<Spanned<PathBuf>>,
    /// With `reencrypt`: our certificate for servers that ask for one.
    pub(super) server_cert: Option<Spanned<PathBuf>>,
    /// The key of `server_cert`.
    pub(super) server_key: Option<Spanned<PathBuf>>,
}

/// Another certificate, for clients that ask for one of these names.
#[derive(Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub(super) struct RawSni {
    /// Names of hosts; `*.` stands for one label.
    #[schemars(length(min = 1))]
    pub(super) names: Spanned<Vec<Spanned<String>>>,
    /// The certificate, PEM.
    pub(super) cert: Spanned<PathBuf>,
    /// Its key, PEM.
    pub(super) key: Spanned<PathBuf>,
}

#[derive(Clone, Copy, PartialEq, Eq, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub(super) enum RawVerify {
    /// that the CA has signed it and that it names the host
    Full,
    /// that the CA has signed it
    Ca,
    /// nothing
    None,
}

#[derive(Clone, Copy, PartialEq, Eq, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub(super) enum RawTlsMode {
    /// at the server, as without this section
    Passthrough,
    /// here; sessions go on in plain text, and `pg_hba.conf` takes them for that
    Terminate,
    /// here; all sessions go on to the server over TLS of our own
    Reencrypt,
}

#[derive(Clone, Copy, Deserialize, JsonSchema)]
pub(super) enum RawTlsVersion {
    #[serde(rename = "1.2")]
    Tls12,
    #[serde(rename = "1.3")]
    Tls13,
}

#[derive(Clone, Copy, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub(super) enum RawRole {
    /// the serving leader
    Primary,
    /// replicas
    Replica,
    /// replicas that are synchronous standbys, by Patroni's `sync` key
    Sync,
    /// replicas that are not
    Async,
    /// replicas and the primary
    Any,
}

#[derive(Clone, Copy, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub(super) enum RawBalance {
    /// to each in turn
    RoundRobin,
    /// to the one with the fewest of ours
    LeastConnections,
    /// the same, but a replica gets the fewer the further it is behind
    LagWeighted,
}

#[derive(Clone, Copy, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub(super) enum RawFallback {
    /// they wait
    None,
    /// to the primary
    Primary,
}
