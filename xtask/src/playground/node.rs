//! One PostgreSQL node: its agent (ours, or a Patroni daemon), and through the agent its server and guard.

use std::ffi::OsString;
use std::fs;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::time::Duration;

use rustix::process::{Pid, Signal, kill_process};

use super::etcd::access::EtcdAccess;
use super::home::Home;
use super::patroni::{self, Patroni};
use super::picture::NodeSite;
use super::place::Place;
use super::process::Running;
use super::sweep::postmaster_pid;
use super::{CLIENT_ROLE, PlaygroundError, SCOPE, clock};

/// What a node is made of.
#[derive(Clone, Debug)]
pub struct NodeOptions {
    /// Its name in the cluster.
    pub name: String,
    /// How it reaches etcd.
    pub etcd: EtcdAccess,
    /// PostgreSQL's programs.
    pub bin_dir: PathBuf,
    /// The agent's REST API.
    pub rest: SocketAddr,
    /// Where its member record says that the API is.
    pub rest_shown: SocketAddr,
    /// PostgreSQL itself.
    pub postgres: SocketAddr,
    /// The same on all nodes.
    pub superuser_password: String,
    /// The same on all nodes.
    pub replication_password: String,
    /// The lease time in seconds; counts on the node that bootstraps.
    pub ttl: u32,
    /// PostgreSQL's `max_connections`; counts on the node that bootstraps.
    pub max_connections: u32,
    /// Seconds; counts on the node that bootstraps.
    pub loop_wait: u32,
    /// Seconds; counts on the node that bootstraps.
    pub retry_timeout: u32,
    /// User and password of the API, where it wants them.
    pub login: Option<(String, String)>,
    /// Where clients and other nodes come from, as pg_hba.conf has it.
    pub network: String,
    /// More keys of the dynamic configuration; count on the node that bootstraps.
    pub dcs: String,
    /// Where it runs.
    pub place: Place,
    /// What our agent is run from.
    pub settings: AgentSettings,
    /// What our agent is told besides.
    pub more: MoreOfNode,
}

/// What our agent is run from.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub enum AgentSettings {
    /// Its own `agent.toml`.
    #[default]
    Own,
    /// The `patroni.yml` that Patroni is run from on the same node.
    Patronis,
    /// That without the passwords, which come through the environment.
    PatronisAndEnvironment,
}

/// Further settings of our agent on a node, as TOML.
#[derive(Clone, Debug, Default)]
pub struct MoreOfNode {
    /// Keys of `[etcd]`, whole lines.
    pub etcd: String,
    /// Keys of `[postgresql]`.
    pub postgresql: String,
    /// Keys of the replication role, each behind a comma.
    pub replication: String,
    /// Lines of pg_hba.conf, before the usual ones.
    pub pg_hba: Vec<String>,
    /// Keys of `[postgresql.parameters]`.
    pub parameters: String,
    /// Keys of `[bootstrap]`.
    pub bootstrap: String,
    /// Whole tables.
    pub tables: String,
}

/// What runs a node.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub enum Daemon {
    /// Our agent.
    #[default]
    Pgvane,
    /// Patroni.
    Patroni,
}

/// A node whose agent can be stopped, killed, frozen and started again.
#[derive(Debug)]
pub struct Node {
    /// Its name in the cluster.
    pub name: String,
    options: NodeOptions,
    dir: PathBuf,
    agent: Option<Running>,
    pub(super) daemon: Daemon,
}

impl Node {
    pub(super) fn prepare(
        home: &Home,
        options: NodeOptions,
        daemon: Daemon,
    ) -> Result<Node, PlaygroundError> {
        let dir = home.create_dir(&options.name)?;
        Node::prepare_in(home, dir, options, daemon)
    }

    /// The same in a directory that is there.
    pub(super) fn prepare_in(
        home: &Home,
        dir: PathBuf,
        options: NodeOptions,
        daemon: Daemon,
    ) -> Result<Node, PlaygroundError> {
        home.write(&dir.join("agent.toml"), &settings(&options))?;
        let mut patroni = patroni::settings(&options, &dir);
        if options.settings == AgentSettings::PatronisAndEnvironment {
            patroni = patroni::without_passwords(&patroni);
        }
        home.write(&dir.join("patroni.yml"), &patroni)?;
        Ok(Node { name: options.name.clone(), options, dir, agent: None, daemon })
    }

    /// Starts the agent; what it finds of its predecessor it adopts.
    pub(super) fn start_agent(
        &mut self,
        home: &Home,
        patroni: Option<&Patroni>,
    ) -> Result<(), PlaygroundError> {
        let place = &self.options.place;
        let agent = match (self.daemon, patroni) {
            (Daemon::Pgvane, _) => {
                let program = home.program(Path::new("pgvane-agent"));
                let args = [self.agent_config().into_os_string()];
                let passwords = match self.options.settings {
                    AgentSettings::PatronisAndEnvironment => self.passwords_in_environment().to_vec(),
                    AgentSettings::Own | AgentSettings::Patronis => vec![],
                };
                Running::start_at(home, place, &self.name, &program, args, passwords)?
            }
            (Daemon::Patroni, Some(patroni)) => {
                let log = format!("{}-patroni", self.name);
                let args = Patroni::args(&self.patroni_config());
                Running::start_at(home, place, &log, patroni.program(), args, patroni.environment())?
            }
            (Daemon::Patroni, None) => {
                let why = format!("{} is to run Patroni, which was not given", self.name);
                return Err(PlaygroundError::Refused(why));
            }
        };
        if place.has_environment() {
            clock::note(home.dir(), agent.pid()).map_err(PlaygroundError::io("cannot note a clock"))?;
        }
        self.agent = Some(agent);
        Ok(())
    }

    /// What runs it.
    pub fn daemon(&self) -> Daemon {
        self.daemon
    }

    /// Its directory: settings, data, passwords.
    pub fn dir(&self) -> &Path {
        &self.dir
    }

    /// The passwords of its roles: the superuser's, and that of replicas.
    pub fn passwords(&self) -> [&str; 2] {
        [&self.options.superuser_password, &self.options.replication_password]
    }

    fn passwords_in_environment(&self) -> [(&'static str, OsString); 2] {
        let [superuser, replication] = self.passwords();
        [
            ("PATRONI_SUPERUSER_PASSWORD", superuser.into()),
            ("PATRONI_REPLICATION_PASSWORD", replication.into()),
        ]
    }

    /// Patroni's settings file.
    pub fn patroni_config(&self) -> PathBuf {
        self.dir.join("patroni.yml")
    }

    /// What our agent is run from here.
    pub fn agent_config(&self) -> PathBuf {
        match self.options.settings {
            AgentSettings::Own => self.config(),
            AgentSettings::Patronis | AgentSettings::PatronisAndEnvironment => self.patroni_config(),
        }
    }

    /// The agent's own settings file, for `pgvanectl -c`.
    pub fn config(&self) -> PathBuf {
        self.dir.join("agent.toml")
    }

    /// Where the agent's REST API listens.
    pub fn rest(&self) -> SocketAddr {
        self.options.rest
    }

    /// Where PostgreSQL listens.
    pub fn postgres(&self) -> SocketAddr {
        self.options.postgres
    }

    /// Where it runs.
    pub fn place(&self) -> &Place {
        &self.options.place
    }

    pub(super) fn site(&self) -> NodeSite {
        NodeSite { name: self.name.clone(), rest: self.options.rest }
    }

    /// How to connect to PostgreSQL as superuser.
    pub fn superuser(&self) -> tokio_postgres::Config {
        let mut config = tokio_postgres::Config::new();
        config.host(self.options.postgres.ip().to_string()).port(self.options.postgres.port());
        config.user("postgres").password(&self.options.superuser_password).dbname("postgres");
        config.connect_timeout(Duration::from_secs(5)).application_name("playground");
        config
    }

    /// Whether the agent's process exists.
    pub fn agent_runs(&mut self) -> bool {
        self.agent.as_mut().is_some_and(Running::is_running)
    }

    /// Whether the agent is stopped by SIGSTOP.
    pub fn is_frozen(&self) -> bool {
        self.agent.as_ref().is_some_and(|agent| {
            let stat = fs::read_to_string(format!("/proc/{}/stat", agent.pid().as_raw_nonzero()));
            stat.is_ok_and(|stat| stat.rsplit_once(") ").is_some_and(|(_, rest)| rest.starts_with('T')))
        })
    }

    /// Sends a signal to the agent alone; its guard and PostgreSQL get none.
    pub fn signal_agent(&mut self, signal: Signal) {
        if let Some(agent) = &mut self.agent {
            agent.signal(signal);
        }
    }

    /// Waits until the agent has ended; `false`: it still runs.
    pub async fn agent_ended_within(&mut self, limit: Duration) -> bool {
        match &mut self.agent {
            Some(agent) => agent.ended_within(limit).await,
            None => true,
        }
    }

    /// Kills the agent, and waits until it is gone.
    pub async fn kill_agent(&mut self, limit: Duration) {
        if let Some(mut agent) = self.agent.take() {
            agent.signal(Signal::KILL);
            agent.ended_within(limit).await;
        }
    }

    /// Stops the agent as a service manager would, and waits for its end. `false`: it still runs.
    pub async fn stop_agent(&mut self, limit: Duration) -> bool {
        let Some(mut agent) = self.agent.take() else { return true };
        agent.signal(Signal::TERM);
        let ended = agent.ended_within(limit).await;
        if !ended {
            self.agent = Some(agent);
        }
        ended
    }

    /// The running postmaster.
    pub fn postmaster(&self) -> Option<Pid> {
        let pid = postmaster_pid(&self.dir.join("data"))?;
        fs::metadata(format!("/proc/{}", pid.as_raw_nonzero())).ok().map(|_| pid)
    }

    /// SIGKILLs the postmaster; `None`: there is none.
    pub fn kill_postmaster(&self) -> Option<Pid> {
        let pid = self.postmaster()?;
        kill_process(pid, Signal::KILL).ok().map(|()| pid)
    }

    /// Fails if the agent ended without being stopped from here.
    pub(super) fn check(&mut self) -> Result<(), PlaygroundError> {
        self.agent.as_mut().map_or(Ok(()), Running::check)
    }
}

fn settings(options: &NodeOptions) -> String {
    let NodeOptions { name, etcd, rest, rest_shown, postgres, .. } = options;
    let NodeOptions { superuser_password, replication_password, ttl, max_connections, .. } = options;
    let NodeOptions { loop_wait, retry_timeout, login, network, dcs, .. } = options;
    let etcd = etcd.toml();
    let bin_dir = options.bin_dir.display();
    let more = &options.more;
    let hba: String = more.pg_hba.iter().map(|line| format!("  {line:?},\n")).collect();
    let login = login.as_ref().map_or(String::new(), |(user, password)| {
        format!("username = \"{user}\"\npassword = \"{password}\"\n")
    });
    format!(
        r#"name = "{name}"
scope = "{SCOPE}"

[etcd]
{etcd}{}
[restapi]
listen = "{rest}"
connect_address = "{rest_shown}"
{login}
[postgresql]
data_dir = "data"
bin_dir = "{bin_dir}"
listen = "{postgres}"
connect_address = "{postgres}"
superuser = {{ username = "postgres", password = "{superuser_password}" }}
replication = {{ username = "replicator", password = "{replication_password}"{} }}
{}
pg_hba = [
{hba}  "host all {CLIENT_ROLE} {network} trust",
  "host all all {network} scram-sha-256",
  "host replication all {network} scram-sha-256",
]

[postgresql.parameters]
shared_buffers = "16MB"
max_wal_size = "256MB"
# In the data directory, so that a killed server leaves nothing in /dev/shm.
dynamic_shared_memory_type = "mmap"
# No Unix socket outside of this directory.
unix_socket_directories = ""
{}

[bootstrap]
initdb = ["encoding=UTF8", "data-checksums"]
{}

[bootstrap.dcs]
ttl = {ttl}
loop_wait = {loop_wait}
retry_timeout = {retry_timeout}
{dcs}
[bootstrap.dcs.postgresql.parameters]
max_connections = {max_connections}

{}
"#,
        more.etcd, more.replication, more.postgresql, more.parameters, more.bootstrap, more.tables
    )
}
