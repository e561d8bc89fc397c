//! The settings of one proxy, all valid. Built only by `check` from what `raw` read.

mod check;
mod cluster;
mod default;
mod listener;
mod problem;
mod raw;
mod tls;

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::path::PathBuf;
use std::time::Duration;

use ipnet::IpNet;
use pgvane_cluster::settings_file::Secret;
use pgvane_cluster::store::etcd::{EtcdOptions, EtcdTls};

pub use self::check::{load, parse, schema};
use crate::access::Networks;
use crate::agents::Api;
use crate::endpoint::Endpoint;
use crate::route::Rules;
use crate::sources::Rhythm;
use crate::sources::probe::Login;
use crate::tls::{Originate, Terminate};
use crate::topology::Address;
use crate::topology::freshness::OnStoreLoss;

/// Everything a proxy is told.
#[derive(Clone, PartialEq, Debug)]
pub struct Config {
    /// How to log.
    pub log: Log,
    /// Where `/metrics` and the health checks are.
    pub admin: Admin,
    /// Threads that run sessions.
    pub workers: usize,
    /// How to stop.
    pub drain: Drain,
    /// Socket options of both sides of every session.
    pub tcp: Tcp,
    /// The clusters, by name.
    pub clusters: BTreeMap<String, Cluster>,
    /// The ports clients connect to.
    pub listeners: Vec<Listener>,
}

/// How to log.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Log {
    /// One line of text or one JSON object per event.
    pub format: LogFormat,
    /// A level, or directives such as `info,pgvane=debug`.
    pub level: String,
}

/// The shape of a log line.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum LogFormat {
    /// For people and journald.
    Text,
    /// For collectors.
    Json,
}

/// The HTTP side.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Admin {
    /// Where it listens.
    pub listen: Vec<SocketAddr>,
    /// How long a primary may be missing, or the store silent, before `/readyz` says 503.
    pub ready_grace: Duration,
    /// The Unix socket for `pgvanectl proxy` and for the next version of this program; `None`: there is none.
    pub socket: Option<PathBuf>,
    /// What allows to change something over HTTP; `None`: nobody may.
    pub token: Option<Secret>,
}

/// How to stop.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Drain {
    /// Time between `/readyz` saying 503 and new connections being refused.
    pub notice: Duration,
    /// Time that open sessions then have to end by themselves.
    pub timeout: Duration,
    /// The same when another process has taken over the ports.
    pub handed_over: Duration,
}

/// Socket options. `TCP_NODELAY` is always on.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Tcp {
    /// Idle time before the first keepalive probe.
    pub keepalive_idle: Duration,
    /// Time between probes.
    pub keepalive_interval: Duration,
    /// Unanswered probes that end the connection.
    pub keepalive_count: u32,
    /// How long sent bytes may stay unacknowledged; zero leaves it to the kernel.
    pub user_timeout: Duration,
}

/// One cluster and who tells of it.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Cluster {
    /// Who tells of it.
    pub source: Source,
    /// What to do with the last leader when its source no longer proves it.
    pub on_store_loss: OnStoreLoss,
    /// How servers are checked; `None`: not at all, or the source asks them already.
    pub checks: Option<Checks>,
    /// Whom agents that speak TLS are trusted by; `None`: they are not asked.
    pub agents: Option<Originate>,
}

/// How servers are checked.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Checks {
    /// In which circumstances.
    pub when: When,
    /// How often, and what counts.
    pub rhythm: Rhythm,
}

/// In which circumstances servers are checked.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum When {
    /// While the store does not answer.
    StoreDown,
    /// At all times.
    Always,
}

/// Where the truth about a cluster comes from.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Source {
    /// Patroni's keys in etcd.
    Etcd(Etcd),
    /// The members' own Patroni.
    PatroniRest(PatroniRest),
    /// The PostgreSQL servers themselves.
    Probe(Probe),
}

/// Which keys in which etcd, and how to reach it.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Etcd {
    /// Patroni's namespace.
    pub namespace: String,
    /// Patroni's scope.
    pub scope: String,
    /// Client URLs.
    pub endpoints: Vec<String>,
    /// User and password, where authentication is on.
    pub login: Option<(String, Secret)>,
    /// CA certificates that sign etcd's, PEM; the system's where absent.
    pub cacert: Option<PathBuf>,
    /// Our certificate and key, PEM, where etcd asks for one.
    pub identity: Option<(PathBuf, PathBuf)>,
    /// Time between linearizable reads that confirm the watch.
    pub reread_interval: Duration,
}

/// Which REST APIs to ask.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct PatroniRest {
    /// Where they listen.
    pub members: Vec<Api>,
    /// How often they are asked.
    pub rhythm: Rhythm,
}

/// Which servers to ask, and as whom.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Probe {
    /// Where they listen, for us and for sessions.
    pub servers: Vec<Address>,
    /// How to log in.
    pub login: Login,
    /// How often they are asked.
    pub rhythm: Rhythm,
}

impl Etcd {
    /// As the store wants it.
    pub fn options(&self) -> EtcdOptions {
        let mut options = EtcdOptions::new(self.endpoints.clone());
        options.user =
            self.login.as_ref().map(|(user, password)| (user.clone(), password.expose().to_owned()));
        if self.endpoints.iter().any(|url| url.starts_with("https:")) {
            let (ca, identity) = (self.cacert.clone(), self.identity.clone());
            options.tls = Some(EtcdTls { ca, identity, server_name: None });
        }
        options
    }
}

/// One port, or several that count as one.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Listener {
    /// Its name in logs and metrics.
    pub name: String,
    /// The cluster it serves.
    pub cluster: String,
    /// How it chooses servers.
    pub rules: Rules,
    /// Where it listens.
    pub listen: Vec<Endpoint>,
    /// Permissions of its Unix sockets.
    pub unix_mode: u32,
    /// Most client connections at once.
    pub max_sessions: usize,
    /// Most of them from one address; `None`: as many as there may be at all.
    pub max_sessions_per_address: Option<usize>,
    /// Where clients may come from.
    pub networks: Networks,
    /// Whether clients' addresses are told by, or to, others.
    pub proxy_protocol: ProxyProtocol,
    /// Most of them waiting for somebody to serve.
    pub hold_limit: usize,
    /// Longest wait.
    pub hold_timeout: Duration,
    /// Longest wait for a server that has as many sessions as it may.
    pub queue_timeout: Duration,
    /// Longest TCP connect to one server.
    pub connect_timeout: Duration,
    /// Longest silence of a replica after the startup packet before the next one is tried.
    pub answer_timeout: Duration,
    /// Time a client has to send its first packet.
    pub startup_timeout: Duration,
    /// How clients' TLS is ended here; `None`: it is passed on to the server.
    pub tls: Option<Terminate>,
    /// How TLS is spoken with servers; `None`: as the client does, or not at all where its TLS ends here.
    pub server_tls: Option<Originate>,
}

/// The PROXY protocol on one listener.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct ProxyProtocol {
    /// Whose connections begin with a header that tells the client's address. All of theirs must.
    pub from: Vec<IpNet>,
    /// Whether connections to servers begin with one (version 2).
    pub send: bool,
}
