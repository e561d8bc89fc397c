//! pgvane: a TCP proxy that knows which PostgreSQL server to trust at this moment.
//!
//! It follows a cluster's keys in etcd ([`pgvane_cluster`]), derives who takes sessions ([`topology`]),
//! accepts clients, finds each a server (`listen`, `open`, [`route`]) and moves bytes ([`splice`]). It
//! decides nothing about PostgreSQL and writes nothing to etcd.
//!
//! Arrows point one way: `doors` -> `listen` -> `session` -> { `open`, `splice`, `close` }; `open` -> { `route`,
//! `dial`, `client`, `refusal`, `pgwire` }; `topology::feed` -> { `pgvane_cluster`, `topology::derive` };
//! `splice` -> { `socket`, tokio's traits }.

mod acceptor;
pub mod access;
mod admin;
mod client;
pub mod close;
pub mod config;
mod cut;
mod dial;
mod doors;
mod listen;
pub mod metrics;
mod open;
pub mod pgwire;
pub mod proxy_protocol;
mod refusal;
pub mod route;
mod seats;
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
use tokio::sync::{mpsc, watch};
use tokio::time::timeout;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;
use tracing::{error, info, warn};

use crate::admin::Admin;
use crate::config::Config;
use crate::doors::{Doors, House};
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
    /// Per listener of the settings, in their order: what the settings say, and the socket.
    listeners: Vec<Vec<(SocketAddr, TcpListener)>>,
    admin: Vec<(SocketAddr, TcpListener)>,
}

impl Bound {
    /// The addresses of one listener, with the ports the kernel chose where the settings said 0.
    pub fn addresses(&self, listener: usize) -> Vec<SocketAddr> {
        let sockets = self.listeners.get(listener).map(Vec::as_slice).unwrap_or_default();
        sockets.iter().filter_map(|(_, socket)| socket.local_addr().ok()).collect()
    }

    /// The addresses of the HTTP side.
    pub fn admin_addresses(&self) -> Vec<SocketAddr> {
        self.admin.iter().filter_map(|(_, socket)| socket.local_addr().ok()).collect()
    }
}

/// Binds all ports of the settings.
pub fn bind(config: &Config) -> Result<Bound, BindError> {
    let listener =
        |l: &config::Listener| bind_all(&l.listen, |_| false, &config.tcp, &format!("listener {}", l.name));
    Ok(Bound {
        listeners: config.listeners.iter().map(listener).collect::<Result<_, _>>()?,
        admin: bind_all(&config.admin.listen, |_| false, &config.tcp, "admin")?,
    })
}

/// Binds those of a listener's addresses that it does not listen on yet.
fn bind_all(
    addresses: &[SocketAddr],
    has: impl Fn(&SocketAddr) -> bool,
    tcp: &config::Tcp,
    whose: &str,
) -> Result<Vec<(SocketAddr, TcpListener)>, BindError> {
    let mut sockets = Vec::new();
    for address in addresses.iter().filter(|address| !has(address)) {
        match socket::listen(*address, tcp) {
            Ok(socket) => sockets.push((*address, socket)),
            // `[::]` means "IPv6 too"; on a host without IPv6 there is nothing to add.
            Err(error) if addresses.len() > 1 && socket::is_any_v6(address) && socket::lacks_v6(&error) => {
                warn!(%address, whose, "this host has no IPv6; not listening there");
            }
            Err(error) => return Err(BindError { address: *address, whose: whose.to_owned(), error }),
        }
    }
    Ok(sockets)
}

/// Settings to change to, or why they cannot be read.
pub type Reload = Result<Config, String>;

/// Runs a proxy until `shutdown` asks it to stop and it has stopped. `stores` has one store per cluster of
/// the settings, by name. What comes by `reloads` is changed to, wholly or not at all. An error means that the
/// system has no threads or descriptors to run it with.
pub async fn run<S: Store>(
    mut config: Config,
    bound: Bound,
    stores: BTreeMap<String, Arc<S>>,
    shutdown: Shutdown,
    mut reloads: mpsc::Receiver<Reload>,
) -> io::Result<()> {
    let life = Lifecycle::new();
    let metrics = Arc::new(Metrics::new());
    // What runs for the proxy itself; ends last, so that the end can be watched.
    let house = TaskTracker::new();
    let house_stop = CancellationToken::new();
    let clusters = follow_clusters(&config, stores, &metrics, &house, &house_stop);
    let sessions = TaskTracker::new();
    let shared = House {
        clusters: clusters.clone(),
        metrics: Arc::clone(&metrics),
        workers: Arc::new(Workers::start(config.workers)?),
        sessions: sessions.clone(),
        stop: life.stop_accepting.clone(),
        cut: Arc::clone(&life.cut),
        numbers: Arc::new(AtomicU64::new(1)),
    };
    let mut doors = Doors::open(shared, &config, bound.listeners).map_err(io::Error::other)?;
    let admin = Arc::new(Admin {
        phase: life.phase(),
        clusters: clusters.into_values().collect(),
        ports: doors.ports(),
        ready_grace: config.admin.ready_grace,
        metrics: Arc::clone(&metrics),
    });
    for (_, listener) in bound.admin {
        let listener = tokio::net::TcpListener::from_std(listener)?;
        house.spawn(admin::serve(Arc::clone(&admin), listener, house_stop.clone()));
    }
    house.spawn(admin::upkeep(admin, house_stop.clone()));
    info!(version = env!("CARGO_PKG_VERSION"), "pgvane runs");

    loop {
        tokio::select! {
            () = shutdown.drain.cancelled() => break,
            Some(reload) = reloads.recv() => {
                let outcome = reload.and_then(|new| change(&mut doors, &mut config, new));
                metrics.reloaded(outcome.is_ok());
                match outcome {
                    Ok(()) => info!("settings reloaded"),
                    Err(why) => error!(%why, "settings not reloaded; nothing was changed"),
                }
            }
        }
    }
    stop(&config, &life, &sessions, &doors.ports(), &shutdown).await;
    house_stop.cancel();
    house.close();
    if timeout(CUT_GRACE, house.wait()).await.is_err() {
        warn!("some tasks did not end in time");
    }
    info!("pgvane has stopped");
    Ok(())
}

/// Changes to `new`, or says why nothing was changed.
fn change(doors: &mut Doors, config: &mut Config, new: Config) -> Result<(), String> {
    let fixed = doors::needs_restart(config, &new);
    if !fixed.is_empty() {
        return Err(format!("{} can only be changed by a restart", fixed.join(", ")));
    }
    doors.change(&new).map_err(|error| error.to_string())?;
    telemetry::set_level(&new.log.level);
    *config = new;
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

/// Says so, stops accepting, lets sessions finish, cuts the rest.
async fn stop(
    config: &Config,
    life: &Lifecycle,
    sessions: &TaskTracker,
    ports: &watch::Receiver<Vec<Arc<Port>>>,
    shutdown: &Shutdown,
) {
    let open = || ports.borrow().iter().map(|port| port.open_sessions()).sum::<usize>();
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
