//! pgvane: a TCP proxy that knows which PostgreSQL server to trust at this moment.
//!
//! It follows a cluster's keys in etcd ([`pgvane_cluster`]) or asks its members ([`sources`]), derives who takes
//! sessions ([`topology`]), accepts clients, finds each a server (`listen`, `open`, [`route`]) and moves bytes
//! ([`splice`]). It decides nothing about PostgreSQL and writes nothing to etcd.
//!
//! Arrows point one way: `operate` -> `doors` -> `listen` -> `session` -> { `open`, `splice`, `close` }; `open` -> {
//! `route`, `dial`, `conn`, `refusal`, `pgwire` }; `topology::feed` -> { `pgvane_cluster`, `topology::derive` };
//! `sources` -> `topology::feed`; `admin` -> { `roster`, `topology` }; `splice` -> { `socket`, tokio's traits }.

mod acceptor;
pub mod access;
mod admin;
mod agents;
pub mod bind;
pub mod certificates;
mod checks;
pub mod close;
pub mod config;
mod conn;
pub mod control;
mod cut;
mod dial;
mod doors;
pub mod endpoint;
pub mod inherit;
mod listen;
pub mod metrics;
mod newcomer;
mod open;
mod operate;
pub mod pgwire;
pub mod proxy_protocol;
mod refusal;
mod roster;
pub mod route;
mod seats;
mod session;
pub mod shutdown;
mod socket;
pub mod sources;
pub mod splice;
pub mod takeover;
pub mod telemetry;
pub mod tls;
pub mod topology;
mod workers;

use std::collections::BTreeMap;
use std::io;
use std::sync::Arc;
use std::sync::atomic::AtomicU64;
use std::time::{Duration, Instant};

use pgvane_cluster::follow::{FollowOptions, follow};
use pgvane_cluster::keyspace::Keyspace;
use pgvane_cluster::store::Store;
use tokio::sync::watch;
use tokio::time::{sleep, timeout};
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;
use tracing::{info, warn};

use crate::admin::Admin;
use crate::bind::Bound;
pub use crate::bind::bind;
use crate::config::Config;
use crate::control::Control;
use crate::doors::{Doors, House};
use crate::listen::Port;
use crate::metrics::Metrics;
use crate::operate::Operated;
use crate::shutdown::{Lifecycle, Phase, Shutdown};
use crate::topology::TopologyRx;
use crate::topology::feed::{Driving, FeedInput, Source, feed};
use crate::topology::timeline::Timeline;
use crate::workers::Workers;

/// Time that cut sessions have to close their sockets.
const CUT_GRACE: Duration = Duration::from_secs(5);

/// Runs a proxy until `shutdown` asks it to stop, or another process has taken over, and it has stopped. `stores` has
/// one store per cluster of the settings that is told of by etcd, by name. An error means that the system has no
/// threads or descriptors to run it with.
pub async fn run<S: Store>(
    config: Config,
    bound: Bound,
    stores: BTreeMap<String, Arc<S>>,
    shutdown: Shutdown,
    control: Control,
) -> io::Result<()> {
    let life = Lifecycle::new();
    let metrics = Arc::new(Metrics::new());
    // What runs for the proxy itself; ends last, so that the end can be watched.
    let house = TaskTracker::new();
    let house_stop = CancellationToken::new();
    let timeline = Arc::new(Timeline::default());
    let clusters = follow_clusters(&config, stores, &metrics, &timeline, &house, &house_stop);
    if let Some(predecessor) = &bound.predecessor {
        newcomer::prepare(&clusters, &predecessor.offer).await;
    }
    let sessions = TaskTracker::new();
    let shared = House {
        clusters: clusters.clone(),
        metrics: Arc::clone(&metrics),
        workers: Arc::new(Workers::start(config.workers)?),
        sessions: sessions.clone(),
        stop: life.stop_accepting.clone(),
        roster: Arc::clone(&life.roster),
        numbers: Arc::new(AtomicU64::new(1)),
    };
    let doors = Doors::open(shared, &config, bound.listeners).map_err(io::Error::other)?;
    let ports = doors.ports();
    // Ends before the house does, when somebody else answers in our place.
    let admin_stop = house_stop.child_token();
    let admin = Arc::new(Admin {
        started: Instant::now(),
        phase: life.phase(),
        clusters: clusters.clone(),
        ports: doors.ports(),
        roster: Arc::clone(&life.roster),
        ready_grace: config.admin.ready_grace,
        metrics: Arc::clone(&metrics),
        token: config.admin.token.clone(),
        control: control.ask.clone(),
        timeline,
        streams: Arc::default(),
        stop: admin_stop.clone(),
    });
    let mut admin_sockets = Vec::new();
    for (endpoint, socket) in bound.admin {
        admin_sockets.push((endpoint, socket.try_clone()?));
        admin::serve(&admin, socket, &house)?;
    }
    house.spawn(admin::upkeep(admin, house_stop.clone()));
    info!(version = env!("CARGO_PKG_VERSION"), pid = std::process::id(), "pgvane runs");
    if let Some(predecessor) = bound.predecessor {
        house.spawn(newcomer::relieve(predecessor));
    }

    let mut operated = Operated::new(config, doors, metrics, clusters, admin_sockets, control);
    let successor = tokio::select! {
        () = shutdown.drain.cancelled() => None,
        successor = operated.until_relieved() => Some(successor),
    };
    let Operated { config, doors, .. } = operated;
    let end = End { drain: config.drain, life, sessions, ports, shutdown };
    match successor {
        None => end.after_notice().await,
        Some(successor) => {
            admin_stop.cancel();
            end.life.enter(Phase::Draining);
            doors.closed().await;
            successor.let_go();
            end.after_handing_over().await;
        }
    }
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
    timeline: &Arc<Timeline>,
    house: &TaskTracker,
    stop: &CancellationToken,
) -> BTreeMap<String, TopologyRx> {
    let mut clusters = BTreeMap::new();
    for (name, cluster) in &config.clusters {
        let trust = cluster.agents.as_ref().and_then(|agents| match tls::load_for_rest(agents) {
            Ok(trust) => Some(trust),
            Err(error) => {
                warn!(cluster = name, %error, "agents that speak TLS cannot be asked");
                None
            }
        });
        let (source, driving) = match &cluster.source {
            config::Source::Etcd(etcd) => {
                let Some(store) = stores.remove(name) else { continue };
                follow_etcd(store, etcd)
            }
            config::Source::PatroniRest(rest) => sources::ask_patroni(rest, &trust),
            config::Source::Probe(probe) => sources::ask_postgres(probe),
        };
        let scope = match &cluster.source {
            config::Source::Etcd(etcd) => &etcd.scope,
            config::Source::PatroniRest(_) | config::Source::Probe(_) => name,
        };
        let metrics = metrics.cluster(name, scope, source.origin);
        let input = FeedInput {
            cluster: name.as_str().into(),
            on_store_loss: cluster.on_store_loss,
            source,
            agents: trust,
            metrics: Arc::clone(&metrics),
            timeline: Arc::clone(timeline),
        };
        let (topology, feeding) = feed(input, stop.clone());
        house.spawn(stop.clone().run_until_cancelled_owned(driving));
        house.spawn(feeding);
        if let Some(settings) = cluster.checks {
            let checking = checks::check(topology.clone(), settings, config.tcp, metrics);
            house.spawn(stop.clone().run_until_cancelled_owned(checking));
        }
        clusters.insert(name.clone(), topology);
    }
    clusters
}

fn follow_etcd<S: Store>(store: Arc<S>, etcd: &config::Etcd) -> (Source, Driving) {
    let options = FollowOptions {
        reread_every: etcd.reread_interval,
        retry_first: Duration::from_millis(50),
        retry_max: Duration::from_secs(1),
        ask_leader_lease: true,
    };
    let (follower, following) = follow(store, Keyspace::new(&etcd.namespace, &etcd.scope), options);
    (follower.into(), Box::pin(async { match following.await {} }))
}

/// The end of a proxy: sessions may finish, the rest are cut.
struct End {
    drain: config::Drain,
    life: Lifecycle,
    sessions: TaskTracker,
    ports: watch::Receiver<Vec<Arc<Port>>>,
    shutdown: Shutdown,
}

impl End {
    /// Says so first, so that clients go elsewhere, and stops accepting.
    async fn after_notice(self) {
        self.life.enter(Phase::LameDuck);
        let notice = self.drain.notice;
        if !notice.is_zero() {
            info!(?notice, "stopping: not ready from now on");
            timeout(notice, self.shutdown.now.cancelled()).await.ok();
        }
        self.life.enter(Phase::Draining);
        self.finish(self.drain.timeout).await;
    }

    /// Somebody else accepts already, so that nobody waits for us, until we are told to stop as well.
    async fn after_handing_over(self) {
        self.sessions.close();
        info!(sessions = self.open(), timeout = ?self.drain.handed_over, "draining: handed over");
        tokio::select! {
            () = self.sessions.wait() => {}
            () = sleep(self.drain.handed_over) => self.finish(Duration::ZERO).await,
            () = self.shutdown.drain.cancelled() => self.finish(self.drain.timeout).await,
        }
    }

    async fn finish(&self, patience: Duration) {
        self.sessions.close();
        info!(sessions = self.open(), timeout = ?patience, "draining: no new connections");
        tokio::select! {
            () = self.sessions.wait() => return,
            () = sleep(patience) => {}
            () = self.shutdown.now.cancelled() => {}
        }
        warn!(sessions = self.open(), "cutting the sessions that are left");
        self.life.enter(Phase::Cut);
        if timeout(CUT_GRACE, self.sessions.wait()).await.is_err() {
            warn!(sessions = self.open(), "sessions did not end in time");
        }
    }

    fn open(&self) -> usize {
        self.ports.borrow().iter().map(|port| port.open_sessions()).sum()
    }
}
