//! A whole cluster: etcd, some PostgreSQL nodes with their agents, some proxies; on loopback, or each part in a
//! network namespace of its own ([`Prepared`]).
//!
//! Everything lives below one directory and is started as one user. Dropping a [`Playground`] ends every process
//! of the directory and removes it; when this program is killed outright, a janitor process does the same.

pub mod account;
pub mod certificates;
pub mod clock;
pub mod disk;
pub mod etcd;
mod ground;
pub mod home;
pub mod http;
pub mod janitor;
pub mod network;
pub mod node;
pub mod orphans;
pub mod parts;
pub mod patroni;
pub mod picture;
pub mod place;
pub mod ports;
pub mod process;
pub mod proxy;
pub mod sweep;
pub mod vip;

use std::io;
use std::net::SocketAddr;
use std::path::PathBuf;
use std::time::{Duration, Instant};

use rustix::process::{Signal, set_child_subreaper};

use self::account::Account;
use self::etcd::access::EtcdAccess;
use self::etcd::{Etcd, EtcdOptions};
pub use self::ground::{Equipment, Prepared, Wanted};
use self::ground::{Ground, NodeGround, ProxyGround};
use self::home::Home;
use self::network::Network;
use self::node::{AgentSettings, Daemon, MoreOfNode, Node, NodeOptions};
use self::patroni::Patroni;
use self::picture::{Picture, Sites};
use self::place::Place;
use self::ports::Ports;
use self::proxy::{MoreSettings, Proxy, ProxyOptions};
use crate::install::{self, Servers};
use crate::programs::Programs;

/// How long a cluster may take from nothing to healthy, and back to health after a fault.
pub const HEALTHY_WITHIN: Duration = Duration::from_mins(2);

/// The cluster's name in the store.
pub const SCOPE: &str = "demo";

/// The role and schema of clients; it needs no password from loopback and owns nothing but its schema.
pub const CLIENT_ROLE: &str = "demo";

/// How large a playground is, and how its members are told to behave.
#[derive(Clone, Debug)]
pub struct Options {
    /// PostgreSQL nodes, named `pg1`, `pg2`, ...
    pub nodes: usize,
    /// Proxies; the first one takes ports 5432 and 5433 where they are free.
    pub proxies: usize,
    /// The lease time, in seconds.
    pub ttl: u32,
    /// Whether the directory stays when the playground ends.
    pub keep: bool,
    /// Where the member records say that the agents' APIs are, `pg1` first; where the agents listen unless given.
    pub apis: Vec<SocketAddr>,
    /// PostgreSQL's `max_connections`.
    pub max_connections: u32,
    /// Patroni, where a node is to run it.
    pub patroni: Option<install::patroni::Patroni>,
    /// What runs each node, `pg1` first; our agent unless given.
    pub daemons: Vec<Daemon>,
    /// User and password of the daemons' APIs; open to everybody unless given.
    pub login: Option<(String, String)>,
    /// Members of etcd.
    pub etcds: usize,
    /// How etcd is set up.
    pub etcd: EtcdOptions,
    /// More keys of the dynamic configuration, as `[bootstrap.dcs]` has them.
    pub dcs: String,
    /// What our agents are run from.
    pub settings: AgentSettings,
    /// What each node's agent is told besides, `pg1` first.
    pub more: Vec<MoreOfNode>,
    /// What the proxies are told besides.
    pub proxy: MoreSettings,
    /// What the cluster begins as a standby cluster of.
    pub follows: Option<Followed>,
}

/// Another cluster, to be followed.
#[derive(Clone, Debug)]
pub struct Followed {
    /// Its servers; of several the primary is followed.
    pub servers: Vec<SocketAddr>,
    /// The permanent slot there.
    pub slot: Option<String>,
    /// The passwords of its roles, which a copy of it has as well: the superuser's, and that of replicas.
    pub passwords: [String; 2],
}

impl Followed {
    /// The cluster of `playground`, by all of its nodes.
    pub fn cluster(playground: &Playground, slot: Option<&str>) -> Followed {
        Followed {
            servers: playground.nodes.iter().map(Node::postgres).collect(),
            slot: slot.map(str::to_owned),
            passwords: playground.nodes[0].passwords().map(str::to_owned),
        }
    }

    /// The hosts and the ports, as `standby_cluster` has them.
    pub fn addresses(&self) -> (String, String) {
        let hosts: Vec<_> = self.servers.iter().map(|server| server.ip().to_string()).collect();
        let ports: Vec<_> = self.servers.iter().map(|server| server.port().to_string()).collect();
        (hosts.join(","), ports.join(","))
    }

    fn settings(&self) -> String {
        let (hosts, ports) = self.addresses();
        let slot =
            self.slot.as_ref().map(|slot| format!(", primary_slot_name = \"{slot}\"")).unwrap_or_default();
        format!("standby_cluster = {{ host = \"{hosts}\", port = \"{ports}\"{slot} }}\n")
    }
}

impl Default for Options {
    fn default() -> Options {
        Options {
            nodes: 3,
            proxies: 2,
            ttl: 10,
            keep: false,
            apis: vec![],
            max_connections: 100,
            patroni: None,
            daemons: vec![],
            login: None,
            etcds: 1,
            etcd: EtcdOptions::default(),
            dcs: String::new(),
            settings: AgentSettings::default(),
            more: vec![],
            proxy: MoreSettings::default(),
            follows: None,
        }
    }
}

/// Why there is no playground, or why it is not healthy.
#[derive(Debug, thiserror::Error)]
pub enum PlaygroundError {
    /// The operating system refused something.
    #[error("{0}: {1}")]
    Io(String, io::Error),
    /// A process ended that should run.
    #[error("{name} ended ({status}); its log says:\n{log}")]
    Ended {
        /// Which one.
        name: String,
        /// Its exit status.
        status: String,
        /// The end of its log.
        log: String,
    },
    /// The cluster did not become what was waited for.
    #[error("waited {} s in vain: {why}", waited.as_secs())]
    Late {
        /// How long.
        waited: Duration,
        /// What was missing last.
        why: String,
    },
    /// The server refused a statement.
    #[error("{0}: {1}")]
    Sql(&'static str, #[source] tokio_postgres::Error),
    /// An agent refused a request.
    #[error("{0}")]
    Refused(String),
}

impl PlaygroundError {
    pub(crate) fn io(what: impl Into<String>) -> impl FnOnce(io::Error) -> PlaygroundError {
        let what = what.into();
        move |error| PlaygroundError::Io(what, error)
    }
}

/// A running cluster. The fields are public so that faults can be injected into each part.
#[derive(Debug)]
pub struct Playground {
    /// The store.
    pub etcd: Etcd,
    /// The nodes, `pg1` first.
    pub nodes: Vec<Node>,
    /// The proxies.
    pub proxies: Vec<Proxy>,
    /// The lease time, in seconds.
    pub ttl: u32,
    patroni: Option<Patroni>,
    /// Its network, and what the nodes have of their own; `None` on loopback.
    pub network: Option<(Network, Equipment)>,
    reaper: tokio::task::JoinHandle<()>,
    home: Home,
}

impl Drop for Playground {
    fn drop(&mut self) {
        self.reaper.abort();
    }
}

impl Playground {
    /// Starts everything and waits until the cluster is healthy. `say` is told each step once it is done.
    ///
    /// Must be called within a tokio runtime. A failure half way leaves nothing behind.
    pub async fn start(
        options: &Options,
        programs: &Programs,
        servers: &Servers,
        say: &(dyn Fn(&str) + Sync),
    ) -> Result<Playground, PlaygroundError> {
        let copies = [&programs.agent, &programs.proxy, &programs.ctl].map(PathBuf::as_path);
        let home = Home::create(Account::for_servers(), &programs.xtask, &copies, options.keep)?;
        Playground::start_on(Ground::Loopback(Ports::new()), home, options, servers, say).await
    }

    /// The same in namespaces; to be called within [`Prepared::run`], with the options it was made for.
    pub async fn start_prepared(
        prepared: Prepared,
        options: &Options,
        servers: &Servers,
        say: &(dyn Fn(&str) + Sync),
    ) -> Result<Playground, PlaygroundError> {
        let Prepared { home, network, equipment } = prepared;
        Playground::start_on(Ground::Network(network, equipment), home, options, servers, say).await
    }

    async fn start_on(
        mut ground: Ground,
        home: Home,
        options: &Options,
        servers: &Servers,
        say: &(dyn Fn(&str) + Sync),
    ) -> Result<Playground, PlaygroundError> {
        // Whoever loses its parent (guards, postmasters) becomes our child: found at the end, and reaped.
        set_child_subreaper(rustix::process::Pid::from_raw(1))
            .map_err(|e| PlaygroundError::Io("cannot adopt orphans".to_owned(), e.into()))?;
        say(&format!("{} holds data and logs", home.dir().display()));
        let reaper = orphans::reap();

        let etcd = Etcd::start_members(&home, &servers.etcd, ground.etcd(options.etcds)?, &options.etcd);
        let etcd = etcd.await?;
        say(&format!("etcd answers on {}", etcd.client()));
        let patroni =
            options.patroni.as_ref().map(|installed| Patroni::copy(&home, installed)).transpose()?;
        let mut playground = Playground {
            etcd,
            nodes: Vec::new(),
            proxies: Vec::new(),
            ttl: options.ttl,
            patroni,
            network: None,
            reaper,
            home,
        };
        playground.start_proxies(options, &mut ground)?;
        playground.start_nodes(options, servers, &mut ground, say).await?;
        playground.until_healthy(HEALTHY_WITHIN).await?;
        playground.network = match ground {
            Ground::Loopback(_) => None,
            Ground::Network(network, equipment) => Some((network, equipment)),
        };
        say("replicas stream, proxies route");
        if options.follows.is_none() {
            playground.create_client_role().await?;
        }
        Ok(playground)
    }

    fn start_proxies(&mut self, options: &Options, ground: &mut Ground) -> Result<(), PlaygroundError> {
        for number in 1..=options.proxies {
            let ProxyGround { primary, replica, admin, place } = ground.proxy(number)?;
            let more = options.proxy.clone();
            let options = ProxyOptions {
                name: format!("proxy{number}"),
                etcd: self.etcd.access("proxy", false),
                primary,
                replica,
                admin,
                more,
                place,
            };
            self.proxies.push(Proxy::start(&self.home, options)?);
        }
        Ok(())
    }

    /// Starts one more proxy, that finds etcd at `etcd`; answers its place in `proxies`.
    pub fn add_proxy(
        &mut self,
        etcd: impl Into<EtcdAccess>,
        more: MoreSettings,
    ) -> Result<usize, PlaygroundError> {
        let place = self.proxies.len();
        let mut ports = Ports::new();
        let options = ProxyOptions {
            name: format!("proxy{}", place + 1),
            etcd: etcd.into(),
            primary: ports.free()?,
            replica: ports.free()?,
            admin: ports.free()?,
            more,
            place: Place::default(),
        };
        self.proxies.push(Proxy::start(&self.home, options)?);
        Ok(place)
    }

    async fn start_nodes(
        &mut self,
        options: &Options,
        servers: &Servers,
        ground: &mut Ground,
        say: &(dyn Fn(&str) + Sync),
    ) -> Result<(), PlaygroundError> {
        let [superuser_password, replication_password] = match &options.follows {
            Some(followed) => followed.passwords.clone(),
            None => [home::secret()?, home::secret()?],
        };
        let follows = options.follows.as_ref().map(Followed::settings).unwrap_or_default();
        // What Patroni's rules make of such a ttl; our agent derives its deadlines from ttl alone. Patroni itself
        // turns often and is patient, to bear a busy machine.
        let slow = (options.ttl / 3).max(1);
        let (loop_wait, retry_timeout) = if options.daemons.contains(&Daemon::Patroni) {
            (1, (options.ttl.saturating_sub(1) / 2).max(3))
        } else {
            (slow, slow)
        };
        for number in 1..=options.nodes {
            let name = format!("pg{number}");
            let NodeGround { rest, postgres, place, dir } = ground.node(&name, &self.home)?;
            let node = NodeOptions {
                name,
                // By password, for that is all that a Patroni daemon knows.
                etcd: self.etcd.access("agent", true),
                bin_dir: servers.postgres.clone(),
                rest,
                max_connections: options.max_connections,
                rest_shown: options.apis.get(number - 1).copied().unwrap_or(rest),
                postgres,
                superuser_password: superuser_password.clone(),
                replication_password: replication_password.clone(),
                ttl: options.ttl,
                loop_wait,
                retry_timeout,
                login: options.login.clone(),
                network: ground.clients(),
                dcs: format!("{follows}{}", options.dcs),
                place,
                settings: options.settings,
                more: options.more.get(number - 1).cloned().unwrap_or_default(),
            };
            let daemon = options.daemons.get(number - 1).copied().unwrap_or_default();
            let mut node = match dir {
                Some(dir) => Node::prepare_in(&self.home, dir, node, daemon)?,
                None => Node::prepare(&self.home, node, daemon)?,
            };
            node.start_agent(&self.home, self.patroni.as_ref())?;
            self.nodes.push(node);
            if number == 1 {
                self.until(HEALTHY_WITHIN, |picture| picture.leader().map(drop)).await?;
                say("pg1 is initialised and leads");
            }
        }
        Ok(())
    }

    /// The role that clients use, with a schema of its own; a cluster made of a backup has both.
    async fn create_client_role(&self) -> Result<(), PlaygroundError> {
        let picture = self.look().await;
        let leader = picture.leader().map_err(|why| PlaygroundError::Late { waited: Duration::ZERO, why })?;
        let node = self.node(&leader);
        let (client, connection) = node
            .superuser()
            .connect(tokio_postgres::NoTls)
            .await
            .map_err(|e| PlaygroundError::Sql("cannot connect as superuser", e))?;
        let driver = tokio::spawn(connection);
        let created = client
            .batch_execute(&format!(
                "DO $$ BEGIN CREATE ROLE {CLIENT_ROLE} LOGIN; EXCEPTION WHEN duplicate_object THEN NULL; END $$; \
                 CREATE SCHEMA IF NOT EXISTS {CLIENT_ROLE} AUTHORIZATION {CLIENT_ROLE};"
            ))
            .await;
        driver.abort();
        created.map_err(|e| PlaygroundError::Sql("cannot create the role of clients", e))
    }

    /// Where everything can be asked; stays valid while parts are stopped and started again.
    pub fn sites(&self) -> Sites {
        Sites {
            nodes: self.nodes.iter().map(Node::site).collect(),
            proxies: self.proxies.iter().map(Proxy::site).collect(),
        }
    }

    /// What agents and proxies say now.
    pub async fn look(&self) -> Picture {
        self.sites().look().await
    }

    /// The directory of data and logs.
    pub fn dir(&self) -> PathBuf {
        self.home.dir().to_owned()
    }

    /// The node of that name.
    ///
    /// # Panics
    /// If there is none: names come from the cluster itself.
    pub fn node(&self, name: &str) -> &Node {
        self.nodes.iter().find(|n| n.name == name).expect("a member of this playground")
    }

    /// See [`Playground::node`].
    pub fn node_mut(&mut self, name: &str) -> &mut Node {
        self.nodes.iter_mut().find(|n| n.name == name).expect("a member of this playground")
    }

    /// Starts the agent of `name` again.
    pub fn restart_agent(&mut self, name: &str) -> Result<(), PlaygroundError> {
        let node = self.nodes.iter_mut().find(|n| n.name == name).expect("a member of this playground");
        node.start_agent(&self.home, self.patroni.as_ref())
    }

    /// Starts `daemon` on the node `name`, whose last one has ended, and from now on.
    pub fn start_daemon(&mut self, name: &str, daemon: Daemon) -> Result<(), PlaygroundError> {
        self.node_mut(name).daemon = daemon;
        self.restart_agent(name)
    }

    /// Starts the proxy at this place again, if it does not run.
    pub fn restart_proxy(&mut self, place: usize) -> Result<(), PlaygroundError> {
        self.proxies[place].restart(&self.home)
    }

    /// Starts etcd again on the same data, every member that does not run.
    pub fn restart_etcd(&mut self) -> Result<(), PlaygroundError> {
        self.etcd.restart(&self.home)
    }

    /// Removes a member of etcd for good, and starts another one in its place; answers its name.
    pub async fn replace_etcd(&mut self, name: &str) -> Result<String, PlaygroundError> {
        self.etcd.replace(&self.home, &mut Ports::new(), name).await
    }

    /// Writes new certificates for all members and clients of etcd over the old ones.
    pub fn renew_etcd_certificates(&self) -> Result<(), PlaygroundError> {
        self.etcd.renew_certificates(&self.home)
    }

    /// Starts what is dead and continues what is frozen; returns what was done.
    pub fn revive(&mut self) -> Result<Vec<String>, PlaygroundError> {
        self.mend()?;
        let mut done = Vec::new();
        if self.network.is_some() {
            for proxy in &mut self.proxies {
                proxy.restart(&self.home)?;
            }
        }
        if !self.etcd.is_running() {
            self.etcd.restart(&self.home)?;
            done.push("etcd started".to_owned());
        }
        for node in &mut self.nodes {
            if node.agent_runs() {
                if node.is_frozen() {
                    node.signal_agent(Signal::CONT);
                    done.push(format!("{} continued", node.name));
                }
            } else {
                node.start_agent(&self.home, self.patroni.as_ref())?;
                done.push(format!("agent of {} started", node.name));
            }
        }
        Ok(done)
    }

    /// Asks until `missing` names nothing any more.
    pub async fn until<T>(
        &mut self,
        limit: Duration,
        ready: impl Fn(&Picture) -> Result<T, String>,
    ) -> Result<T, PlaygroundError> {
        let started = Instant::now();
        loop {
            let why = match ready(&self.look().await) {
                Ok(found) => return Ok(found),
                Err(why) => why,
            };
            self.check_processes()?;
            if started.elapsed() > limit {
                return Err(PlaygroundError::Late { waited: limit, why });
            }
            tokio::time::sleep(Duration::from_millis(25)).await;
        }
    }

    /// Waits until one member leads, the others stream from it and all proxies route to them.
    pub async fn until_healthy(&mut self, limit: Duration) -> Result<(), PlaygroundError> {
        self.until(limit, Picture::health).await
    }

    /// Fails when a process ended that nobody stopped.
    fn check_processes(&mut self) -> Result<(), PlaygroundError> {
        self.etcd.check()?;
        self.proxies.iter_mut().try_for_each(Proxy::check)?;
        self.nodes.iter_mut().try_for_each(Node::check)
    }

    /// Writes a file that only the servers' user may read, such as a key; answers where.
    pub fn write(&self, name: &str, text: &str) -> Result<PathBuf, PlaygroundError> {
        let path = self.home.dir().join(name);
        self.home.write(&path, text)?;
        Ok(path)
    }

    /// All that the process of that name has said.
    pub fn log(&self, name: &str) -> String {
        let text = std::fs::read(self.home.log(name)).unwrap_or_default();
        String::from_utf8_lossy(&text).into_owned()
    }

    /// The ends of all logs, for a failure's report.
    pub fn log_tails(&self, lines: usize) -> String {
        self.home.log_tails(lines)
    }
}
