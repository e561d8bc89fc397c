//! pgvane: a TCP proxy that knows which PostgreSQL server to trust at this moment.
//!
//! It follows a cluster's keys in etcd ([`pgvane_cluster`]), derives who takes sessions ([`topology`]),
//! accepts clients, finds each a server (`listen`, `open`, [`route`]) and moves bytes ([`splice`]). It
//! decides nothing about PostgreSQL and writes nothing to etcd.
//!
//! Arrows point one way: `session` -> { `open`, `splice`, `close` }; `open` -> { `route`, `dial`, `pgwire` };
//! `topology::feed` -> { `pgvane_cluster`, `topology::derive` }; `splice` -> tokio's traits.

mod acceptor;
mod admin;
mod client;
pub mod close;
pub mod config;
mod cut;
mod dial;
mod listen;
pub mod metrics;
mod open;
pub mod pgwire;
pub mod route;
mod session;
pub mod shutdown;
mod socket;
pub mod splice;
pub mod telemetry;
pub mod tls;
pub mod topology;
mod workers;

use std::collections::BTreeMap;
use std::io;
use std::net::{SocketAddr, TcpListener};
use std::sync::Arc;
use std::sync::atomic::AtomicU64;
use std::time::Duration;

use pgvane_cluster::follow::{FollowOptions, follow};
use pgvane_cluster::keyspace::Keyspace;
use pgvane_cluster::store::Store;
use tokio::time::timeout;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;
use tracing::{info, warn};

use crate::acceptor::Acceptor;
use crate::admin::Admin;
use crate::config::Config;
use crate::listen::Port;
use crate::metrics::Metrics;
use crate::shutdown::{Lifecycle, Phase, Shutdown};
use crate::topology::TopologyRx;
use crate::topology::feed::{FeedInput, feed};
use crate::workers::Workers;

/// Time that cut sessions have to close their sockets.
const CUT_GRACE: Duration = Duration::from_secs(5);

/// A port that cannot be had.
#[derive(Debug, thiserror::Error)]
#[error("cannot listen on {address} ({whose}): {error}")]
pub struct BindError {
    /// The address.
    pub address: SocketAddr,
    /// Which part of the settings asks for it.
    pub whose: String,
    /// What the kernel says.
    pub error: io::Error,
}

/// Sockets that listen but are not accepted from yet; bound before anything else is started, so that a port
/// that is taken ends the program with one message.
#[derive(Debug)]
pub struct Bound {
    /// Per listener of the settings, in their order.
    listeners: Vec<Vec<TcpListener>>,
    admin: Vec<TcpListener>,
}

impl Bound {
    /// The addresses of one listener, with the ports the kernel chose where the settings said 0.
    pub fn addresses(&self, listener: usize) -> Vec<SocketAddr> {
        let sockets = self.listeners.get(listener).map(Vec::as_slice).unwrap_or_default();
        sockets.iter().filter_map(|socket| socket.local_addr().ok()).collect()
    }

    /// The addresses of the HTTP side.
    pub fn admin_addresses(&self) -> Vec<SocketAddr> {
        self.admin.iter().filter_map(|socket| socket.local_addr().ok()).collect()
    }
}

/// Binds all ports of the settings.
pub fn bind(config: &Config) -> Result<Bound, BindError> {
    let listener = |l: &config::Listener| bind_all(&l.listen, &config.tcp, &format!("listener {}", l.name));
    Ok(Bound {
        listeners: config.listeners.iter().map(listener).collect::<Result<_, _>>()?,
        admin: bind_all(&config.admin.listen, &config.tcp, "admin")?,
    })
}

fn bind_all(addresses: &[SocketAddr], tcp: &config::Tcp, whose: &str) -> Result<Vec<TcpListener>, BindError> {
    let mut sockets = Vec::new();
    for address in addresses {
        match socket::listen(*address, tcp) {
            Ok(socket) => sockets.push(socket),
            // `[::]` means "IPv6 too"; on a host without IPv6 there is nothing to add.
            Err(error) if addresses.len() > 1 && socket::is_any_v6(address) && socket::lacks_v6(&error) => {
                warn!(%address, whose, "this host has no IPv6; not listening there");
            }
            Err(error) => return Err(BindError { address: *address, whose: whose.to_owned(), error }),
        }
    }
    Ok(sockets)
}

/// Runs a proxy until `shutdown` asks it to stop and it has stopped. `stores` has one store per cluster of
/// the settings, by name. An error means that the system has no threads or descriptors to run it with.
pub async fn run<S: Store>(
    config: Config,
    bound: Bound,
    stores: BTreeMap<String, Arc<S>>,
    shutdown: Shutdown,
) -> io::Result<()> {
    let workers = Arc::new(Workers::start(config.workers)?);
    let life = Lifecycle::new();
    let metrics = Arc::new(Metrics::new());
    // What runs for the proxy itself; ends last, so that the end can be watched.
    let house = TaskTracker::new();
    let house_stop = CancellationToken::new();
    let clusters = follow_clusters(&config, stores, &metrics, &house, &house_stop);
    let sessions = TaskTracker::new();
    let ports = open_ports(&config, bound.listeners, &clusters, &metrics, &life, &sessions, &workers)?;
    let admin = Arc::new(Admin {
        phase: life.phase(),
        clusters: clusters.into_values().collect(),
        ports: ports.clone(),
        ready_grace: config.admin.ready_grace,
        metrics,
    });
    for listener in bound.admin {
        let listener = tokio::net::TcpListener::from_std(listener)?;
        house.spawn(admin::serve(Arc::clone(&admin), listener, house_stop.clone()));
    }
    house.spawn(admin::upkeep(admin, house_stop.clone()));
    info!(version = env!("CARGO_PKG_VERSION"), "pgvane runs");

    shutdown.drain.cancelled().await;
    stop(&config, &life, &sessions, &ports, &shutdown).await;
    house_stop.cancel();
    house.close();
    if timeout(CUT_GRACE, house.wait()).await.is_err() {
        warn!("some tasks did not end in time");
    }
    info!("pgvane has stopped");
    Ok(())
}

fn follow_clusters<S: Store>(
    config: &Config,
    mut stores: BTreeMap<String, Arc<S>>,
    metrics: &Metrics,
    house: &TaskTracker,
    stop: &CancellationToken,
) -> BTreeMap<String, TopologyRx> {
    let mut clusters = BTreeMap::new();
    for (name, cluster) in &config.clusters {
        let Some(store) = stores.remove(name) else { continue };
        let options = FollowOptions {
            reread_every: cluster.reread_interval,
            retry_first: Duration::from_millis(50),
            retry_max: Duration::from_secs(1),
            ask_leader_lease: true,
        };
        let keyspace = Keyspace::new(&cluster.namespace, &cluster.scope);
        let (follower, following) = follow(store, keyspace, options);
        let input = FeedInput {
            cluster: name.as_str().into(),
            on_store_loss: cluster.on_store_loss,
            source: follower.into(),
            metrics: metrics.cluster(name),
        };
        let (topology, feeding) = feed(input, stop.clone());
        house.spawn(stop.clone().run_until_cancelled_owned(following));
        house.spawn(feeding);
        clusters.insert(name.clone(), topology);
    }
    clusters
}

fn open_ports(
    config: &Config,
    listeners: Vec<Vec<TcpListener>>,
    clusters: &BTreeMap<String, TopologyRx>,
    metrics: &Metrics,
    life: &Lifecycle,
    sessions: &TaskTracker,
    workers: &Arc<Workers>,
) -> io::Result<Vec<Arc<Port>>> {
    let numbers = Arc::new(AtomicU64::new(1));
    let mut ports = Vec::new();
    for (settings, sockets) in config.listeners.iter().zip(listeners) {
        let Some(topology) = clusters.get(&settings.cluster) else { continue };
        let port = Arc::new(Port::new(
            settings.clone(),
            config.tcp,
            topology.clone(),
            metrics.listener(&settings.name),
            settings.tls.as_ref().map(tls::load).transpose().map_err(io::Error::other)?,
            Arc::clone(&life.cut),
            Arc::clone(&numbers),
        ));
        for socket in sockets {
            if let Ok(address) = socket.local_addr() {
                let role = settings.rules.role.label();
                info!(listener = settings.name, cluster = settings.cluster, role, %address, "listening");
            }
            // On a worker, so that half of what it accepts needs no other thread; on each one in turn.
            let worker = workers.place().0.clone();
            let _within = worker.enter();
            let accepting = listen::accept(
                Arc::clone(&port),
                Acceptor::new(socket)?,
                life.stop_accepting.clone(),
                sessions.clone(),
                Arc::clone(workers),
            );
            sessions.spawn_on(accepting, &worker);
        }
        ports.push(port);
    }
    Ok(ports)
}

/// Says so, stops accepting, lets sessions finish, cuts the rest.
async fn stop(
    config: &Config,
    life: &Lifecycle,
    sessions: &TaskTracker,
    ports: &[Arc<Port>],
    shutdown: &Shutdown,
) {
    let open = || ports.iter().map(|port| port.open_sessions()).sum::<usize>();
    life.enter(Phase::LameDuck);
    if !config.drain.notice.is_zero() {
        info!(notice = ?config.drain.notice, "stopping: not ready from now on");
        timeout(config.drain.notice, shutdown.now.cancelled()).await.ok();
    }
    life.enter(Phase::Draining);
    sessions.close();
    info!(sessions = open(), timeout = ?config.drain.timeout, "draining: no new connections");
    tokio::select! {
        () = sessions.wait() => return,
        () = tokio::time::sleep(config.drain.timeout) => {}
        () = shutdown.now.cancelled() => {}
    }
    warn!(sessions = open(), "cutting the sessions that are left");
    life.enter(Phase::Cut);
    if timeout(CUT_GRACE, sessions.wait()).await.is_err() {
        warn!(sessions = open(), "sessions did not end in time");
    }
}
