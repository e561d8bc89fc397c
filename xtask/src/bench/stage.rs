//! What all measurements share: a directory, one etcd, one PostgreSQL with data, and the programs.

use std::ffi::OsString;
use std::fs;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use rustix::process::{
    Pid, Resource, Rlimit, Signal, getrlimit, kill_process_group, set_child_subreaper, setrlimit,
};

use super::meter::members;
use super::rivals::Rivals;
use super::wire;
use crate::install::Servers;
use crate::playground::account::Account;
use crate::playground::etcd::Etcd;
use crate::playground::home::Home;
use crate::playground::orphans;
use crate::playground::ports::Ports;
use crate::playground::process::Running;

/// Rows are 100,000 times this; all of them fit into the shared buffers.
const SCALE: &str = "10";

/// How long the server may take to be set up, and any process to answer or to go.
const SET_UP_WITHIN: Duration = Duration::from_mins(2);
const READY_WITHIN: Duration = Duration::from_secs(20);
const GONE_WITHIN: Duration = Duration::from_secs(10);

/// Sessions that a proxy is told to take; each takes two descriptors of it.
const SESSIONS: u64 = 20_000;
const SPARE_DESCRIPTORS: u64 = 1000;

/// PostgreSQL's settings: nothing that would make one run differ from the next.
const SETTINGS: &[&str] = &[
    "listen_addresses=127.0.0.1",
    "unix_socket_directories=",
    "max_connections=300",
    "shared_buffers=256MB",
    "fsync=off",
    "autovacuum=off",
    "wal_level=minimal",
    "max_wal_senders=0",
    "max_wal_size=4GB",
    "checkpoint_timeout=1h",
];

/// A process and its process group, ended when this is dropped.
#[derive(Debug)]
pub(super) struct Held(Running);

impl Held {
    /// The process group: all it started, as long as that does not leave.
    pub(super) fn group(&self) -> Pid {
        self.0.pid()
    }

    /// Fails if it has ended, with the end of its log.
    pub(super) fn check(&mut self) -> Result<(), String> {
        self.0.check().map_err(|e| e.to_string())
    }

    /// Ends it and waits until the group is gone: its sockets and its CPU time are nobody else's then.
    pub(super) async fn stop(mut self) {
        self.kill();
        self.0.ended_within(GONE_WITHIN).await;
        let started = Instant::now();
        while members(Some(self.group())).next().is_some() && started.elapsed() < GONE_WITHIN {
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    }

    fn kill(&mut self) {
        // Not reaped yet, so the id cannot be another's.
        if self.0.is_running() {
            let _ = kill_process_group(self.0.pid(), Signal::KILL);
        }
    }
}

impl Drop for Held {
    fn drop(&mut self) {
        self.kill();
    }
}

/// Everything that lives as long as the whole bench.
#[derive(Debug)]
pub(super) struct Stage {
    pub(super) etcd: SocketAddr,
    /// The real server.
    pub(super) postgres: SocketAddr,
    /// The rows of the largest table as COPY writes them.
    pub(super) rows: PathBuf,
    pub(super) rivals: Rivals,
    pub(super) cores: usize,
    /// Sessions that fit into the limit of open files.
    pub(super) sessions: u64,
    proxy: PathBuf,
    xtask: PathBuf,
    pgbench: PathBuf,
    psql: PathBuf,
    ports: Ports,
    started: u32,
    /// Ended with the directory, by the stop that lets it give back its shared memory.
    _server: Running,
    _store: Etcd,
    reaper: tokio::task::JoinHandle<()>,
    home: Home,
}

impl Drop for Stage {
    fn drop(&mut self) {
        self.reaper.abort();
    }
}

impl Stage {
    /// Starts etcd and PostgreSQL and fills it. `proxy` is ours, built for release.
    pub(super) async fn set_up(
        servers: &Servers,
        rivals: Rivals,
        proxy: &Path,
        say: &(dyn Fn(&str) + Sync),
    ) -> Result<Stage, String> {
        // nginx's workers become ours when their master is killed, and must be reaped.
        set_child_subreaper(Pid::from_raw(1)).map_err(|e| format!("cannot adopt orphans: {e}"))?;
        let sessions = SESSIONS.min(raise_descriptor_limit().saturating_sub(SPARE_DESCRIPTORS) / 2);
        let xtask = std::env::current_exe().map_err(|e| format!("this program's path: {e}"))?;
        let (pgbench, psql) = (servers.postgres.join("pgbench"), servers.postgres.join("psql"));
        let mut copies = vec![proxy, &xtask, &pgbench, &psql];
        copies.extend(rivals.programs());
        let home = Home::create(Account::for_servers(), &xtask, &copies, false).map_err(|e| e.to_string())?;
        say(&format!("{} holds data and logs", home.dir().display()));
        let reaper = orphans::reap();
        let mut ports = Ports::new();
        let store = Etcd::start(&home, &servers.etcd, &mut ports).await.map_err(|e| e.to_string())?;
        let address = ports.free().map_err(|e| e.to_string())?;
        let server = start_postgres(&home, servers, address).await?;
        let mut stage = Stage {
            etcd: store.client(),
            postgres: address,
            rows: home.dir().join("rows.copy"),
            rivals,
            cores: std::thread::available_parallelism().map_or(1, std::num::NonZero::get),
            sessions,
            proxy: home.program(proxy),
            xtask: home.program(&xtask),
            pgbench: home.program(&pgbench),
            psql: home.program(&psql),
            ports,
            started: 0,
            _server: server,
            _store: store,
            reaper,
            home,
        };
        stage.until_ready(address, None).await?;
        stage.fill().await?;
        say(&format!("etcd answers on {}, PostgreSQL on {address}", stage.etcd));
        Ok(stage)
    }

    async fn fill(&mut self) -> Result<(), String> {
        let postgres = self.postgres;
        self.pgbench(postgres, false, SET_UP_WITHIN, &["--initialize", "--quiet", "--scale", SCALE]).await?;
        let out = format!("COPY pgbench_accounts TO '{}'", self.rows.display());
        let table = "CREATE UNLOGGED TABLE copied (LIKE pgbench_accounts)";
        self.psql(postgres, SET_UP_WITHIN, &[&out, table, "CHECKPOINT"]).await
    }

    /// Runs pgbench to its end; returns what it said.
    pub(super) async fn pgbench(
        &mut self,
        at: SocketAddr,
        encrypted: bool,
        limit: Duration,
        args: &[&str],
    ) -> Result<String, String> {
        let mut all = connection(at);
        all.extend(args.iter().map(OsString::from));
        let sslmode = if encrypted { "require" } else { "disable" };
        all.push(format!("dbname=postgres sslmode={sslmode}").into());
        let program = self.pgbench.clone();
        self.run("pgbench", &program, all, limit).await
    }

    /// Runs statements (or psql's commands), each a transaction of its own. Rows go nowhere.
    pub(super) async fn psql(
        &mut self,
        at: SocketAddr,
        limit: Duration,
        commands: &[&str],
    ) -> Result<(), String> {
        let mut args = connection(at);
        args.extend(
            ["-X", "-q", "-o", "/dev/null", "-v", "ON_ERROR_STOP=1", "-d", "postgres"].map(OsString::from),
        );
        args.extend(commands.iter().flat_map(|command| ["-c".into(), OsString::from(command)]));
        let program = self.psql.clone();
        self.run("psql", &program, args, limit).await.map(drop)
    }

    async fn run(
        &mut self,
        kind: &str,
        program: &Path,
        args: Vec<OsString>,
        limit: Duration,
    ) -> Result<String, String> {
        let name = self.name(kind);
        let process = Running::start(&self.home, &name, program, args).map_err(|e| e.to_string())?;
        // Held, so that giving up ends it.
        let mut held = Held(process);
        held.0.succeeds_within(limit).await.map_err(|e| e.to_string())?;
        let log = self.home.log(&name);
        fs::read_to_string(&log).map_err(|e| format!("{}: {e}", log.display()))
    }

    /// Starts a server that runs until it is dropped.
    pub(super) fn start(&mut self, kind: &str, program: &Path, args: &[&str]) -> Result<Held, String> {
        let name = self.name(kind);
        let started = Running::start(&self.home, &name, program, args.iter().map(OsString::from));
        started.map(Held).map_err(|e| e.to_string())
    }

    /// Our own program among the copies.
    pub(super) fn proxy(&self) -> PathBuf {
        self.proxy.clone()
    }

    /// Starts a stub server.
    pub(super) async fn stub(&mut self, id: u32) -> Result<(SocketAddr, Held), String> {
        let (address, program) = (self.port()?, self.xtask.clone());
        let args = [super::stub::SUBCOMMAND, &address.to_string(), &id.to_string()];
        let mut held = self.start("stub", &program, &args)?;
        self.until_ready(address, Some(&mut held)).await?;
        Ok((address, held))
    }

    /// Waits until a whole session can be opened at `address`; `held` must not end meanwhile.
    pub(super) async fn until_ready(
        &self,
        address: SocketAddr,
        held: Option<&mut Held>,
    ) -> Result<(), String> {
        self.until(held, address, move || wire::open(address, "postgres").map(drop)).await
    }

    /// Waits until `attempt` succeeds; `held` must not end meanwhile.
    pub(super) async fn until(
        &self,
        mut held: Option<&mut Held>,
        address: SocketAddr,
        attempt: impl Fn() -> std::io::Result<()> + Clone + Send + 'static,
    ) -> Result<(), String> {
        let started = Instant::now();
        loop {
            let why = match tokio::task::spawn_blocking(attempt.clone()).await {
                Ok(Ok(())) => return Ok(()),
                Ok(Err(error)) => error.to_string(),
                Err(error) => error.to_string(),
            };
            if let Some(held) = &mut held {
                held.check()?;
            }
            if started.elapsed() > READY_WITHIN {
                return Err(format!("{address} is not ready: {why}"));
            }
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    }

    pub(super) fn port(&mut self) -> Result<SocketAddr, String> {
        self.ports.free().map_err(|e| e.to_string())
    }

    pub(super) fn dir(&self) -> &Path {
        self.home.dir()
    }

    /// Where a rival's copy lies.
    pub(super) fn copy_of(&self, program: &Path) -> PathBuf {
        self.home.program(program)
    }

    /// A settings file.
    pub(super) fn write(&mut self, kind: &str, text: &str) -> Result<String, String> {
        let name = self.name(kind);
        let path = self.home.dir().join(format!("{name}.conf"));
        self.home.write(&path, text).map_err(|e| e.to_string())?;
        Ok(path.display().to_string())
    }

    /// An empty directory that the servers' account may write to.
    pub(super) fn directory(&mut self, kind: &str) -> Result<PathBuf, String> {
        let name = self.name(kind);
        self.home.create_dir(&name).map_err(|e| e.to_string())
    }

    /// A name of its own, for each process and file.
    fn name(&mut self, kind: &str) -> String {
        self.started += 1;
        format!("{kind}-{}", self.started)
    }
}

fn connection(at: SocketAddr) -> Vec<OsString> {
    let (host, port) = (at.ip().to_string(), at.port().to_string());
    ["-h", &host, "-p", &port, "-U", wire::ROLE].map(OsString::from).to_vec()
}

async fn start_postgres(home: &Home, servers: &Servers, address: SocketAddr) -> Result<Running, String> {
    let data = home.create_dir("pg").map_err(|e| e.to_string())?.join("data");
    let place = [OsString::from("-D"), data.clone().into_os_string()];
    let more =
        ["-U", wire::ROLE, "-A", "trust", "-E", "UTF8", "--no-locale", "--no-sync"].map(OsString::from);
    let args = place.clone().into_iter().chain(more);
    let initdb = Running::start(home, "initdb", &servers.postgres.join("initdb"), args);
    initdb.map_err(|e| e.to_string())?.succeeds_within(SET_UP_WITHIN).await.map_err(|e| e.to_string())?;
    let port = format!("port={}", address.port());
    let settings = SETTINGS.iter().copied().chain([port.as_str()]);
    let args = place.into_iter().chain(settings.flat_map(|setting| ["-c".into(), OsString::from(setting)]));
    let started = Running::start(home, "postgres", &servers.postgres.join("postgres"), args);
    started.map_err(|e| e.to_string())
}

/// Lets us and what we start open as many files as we may; returns the limit.
fn raise_descriptor_limit() -> u64 {
    let wanted = SESSIONS * 2 + SPARE_DESCRIPTORS;
    let Rlimit { current, maximum } = getrlimit(Resource::Nofile);
    // Root may raise the hard limit as well, unless it runs in a container that forbids it.
    let most = maximum.map_or(wanted, |maximum| maximum.min(wanted));
    for (current, maximum) in [(wanted, maximum.map(|maximum| maximum.max(wanted))), (most, maximum)] {
        if setrlimit(Resource::Nofile, Rlimit { current: Some(current), maximum }).is_ok() {
            return current;
        }
    }
    current.unwrap_or(wanted)
}
