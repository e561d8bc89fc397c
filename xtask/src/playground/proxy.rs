//! One `pgvane` between clients and nodes.

use std::net::{Ipv4Addr, SocketAddr};
use std::path::{Path, PathBuf};
use std::time::Duration;

use rustix::process::Signal;

use super::etcd::access::EtcdAccess;
use super::home::Home;
use super::picture::ProxySite;
use super::place::Place;
use super::process::Running;
use super::{PlaygroundError, SCOPE};

/// What a proxy is started with.
#[derive(Clone, Debug)]
pub struct ProxyOptions {
    /// Its name in logs and pictures.
    pub name: String,
    /// How it reaches etcd.
    pub etcd: EtcdAccess,
    /// Port for writes.
    pub primary: SocketAddr,
    /// Port for reads.
    pub replica: SocketAddr,
    /// Port of `/topology` and `/metrics`.
    pub admin: SocketAddr,
    /// What else its settings say.
    pub more: MoreSettings,
    /// Where it runs.
    pub place: Place,
}

/// What a proxy is told beyond addresses; nothing unless given.
#[derive(Clone, Debug, Default)]
pub struct MoreSettings {
    /// Keys of `[admin]`, then whole tables.
    pub admin: String,
    /// Keys of the cluster's section.
    pub cluster: String,
    /// Keys of the section of the port for writes, then tables below it.
    pub primary: String,
}

/// A running proxy.
#[derive(Debug)]
pub struct Proxy {
    options: ProxyOptions,
    file: PathBuf,
    socket: PathBuf,
    process: Running,
}

impl Proxy {
    pub(super) fn start(home: &Home, options: ProxyOptions) -> Result<Proxy, PlaygroundError> {
        let file = home.dir().join(format!("{}.toml", options.name));
        let socket = home.dir().join(format!("{}.sock", options.name));
        home.write(&file, &settings(&options, &socket))?;
        let process = Proxy::run(home, &options, &file)?;
        Ok(Proxy { options, file, socket, process })
    }

    fn run(home: &Home, options: &ProxyOptions, file: &Path) -> Result<Running, PlaygroundError> {
        let program = home.program(Path::new("pgvane"));
        Running::start_at(home, &options.place, &options.name, &program, [file.as_os_str().to_owned()], [])
    }

    /// Starts it again, if it does not run.
    pub(super) fn restart(&mut self, home: &Home) -> Result<(), PlaygroundError> {
        if !self.is_running() {
            self.process = Proxy::run(home, &self.options, &self.file)?;
        }
        Ok(())
    }

    /// Kills it, as its machine's death would.
    pub async fn kill(&mut self, limit: Duration) -> bool {
        self.process.signal(Signal::KILL);
        self.process.ended_within(limit).await
    }

    /// Waits for its end; `false`: it still runs after `limit`.
    pub async fn ended_within(&mut self, limit: Duration) -> bool {
        self.process.ended_within(limit).await
    }

    /// What it was started with.
    pub fn options(&self) -> &ProxyOptions {
        &self.options
    }

    /// Its settings.
    pub fn file(&self) -> &Path {
        &self.file
    }

    /// What `pgvanectl proxy` asks.
    pub fn socket(&self) -> &Path {
        &self.socket
    }

    /// Whether the process that was started first has not ended.
    pub fn is_running(&mut self) -> bool {
        self.process.is_running()
    }

    /// Sends it a signal, such as the one that has it read its settings again.
    pub fn signal(&mut self, signal: Signal) {
        self.process.signal(signal);
    }

    pub(super) fn site(&self) -> ProxySite {
        ProxySite { name: self.options.name.clone(), admin: self.options.admin }
    }

    pub(super) fn check(&mut self) -> Result<(), PlaygroundError> {
        self.process.check()
    }
}

fn settings(options: &ProxyOptions, socket: &Path) -> String {
    let socket = socket.display();
    let ProxyOptions { etcd, primary, replica, admin, more, .. } = options;
    let MoreSettings { admin: of_admin, cluster: of_cluster, primary: of_primary } = more;
    // On a host of its own everywhere, as by default: the address of a pair comes and goes.
    let here = |address: &SocketAddr| match options.place.namespace() {
        Some(_) => SocketAddr::from((Ipv4Addr::UNSPECIFIED, address.port())),
        None => *address,
    };
    let [primary, replica, admin] = [primary, replica, admin].map(here);
    let etcd = etcd.toml();
    format!(
        "[admin]\nlisten = [\"{admin}\"]\nsocket = \"{socket}\"\n{of_admin}\n\
         [cluster.{SCOPE}]\n{of_cluster}\n[cluster.{SCOPE}.etcd]\n{etcd}\n\
         [[listener]]\nrole = \"primary\"\ncluster = \"{SCOPE}\"\nlisten = [\"{primary}\"]\n{of_primary}\n\
         [[listener]]\nrole = \"replica\"\ncluster = \"{SCOPE}\"\nlisten = [\"{replica}\"]\n"
    )
}
