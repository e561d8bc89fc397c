//! The listeners that run, and how they become others without losing a session.
//!
//! A session keeps the [`Port`] it came by. A change makes new ports, which those who accept look up for every
//! client; what counts sessions is handed on. Nothing is changed before all of it is known to work.

use std::collections::BTreeMap;
use std::io;
use std::sync::atomic::AtomicU64;
use std::sync::{Arc, Weak};

use tokio::sync::watch;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;
use tracing::info;

use crate::acceptor::Acceptor;
use crate::bind::{BindError, Binder};
use crate::config::{Config, Listener};
use crate::endpoint::{Endpoint, Socket};
use crate::inherit::Inherited;
use crate::listen::{self, Port};
use crate::metrics::Metrics;
use crate::roster::Roster;
use crate::tls::{self, Shown};
use crate::topology::TopologyRx;
use crate::workers::Workers;

/// What all listeners of a proxy share.
#[derive(Debug)]
pub(crate) struct House {
    pub(crate) clusters: BTreeMap<String, TopologyRx>,
    pub(crate) metrics: Arc<Metrics>,
    pub(crate) workers: Arc<Workers>,
    pub(crate) sessions: TaskTracker,
    /// Ends all accepting.
    pub(crate) stop: CancellationToken,
    pub(crate) roster: Arc<Roster>,
    pub(crate) numbers: Arc<AtomicU64>,
}

/// One listener that runs.
#[derive(Debug)]
struct Door {
    port: watch::Sender<Arc<Port>>,
    /// What is accepted from, by where it listens as the settings write it.
    sockets: BTreeMap<Endpoint, Accepting>,
}

/// One socket that is accepted from.
#[derive(Debug)]
struct Accepting {
    stop: CancellationToken,
    /// Weak: who accepts alone keeps it open.
    acceptor: Weak<Acceptor>,
}

/// All of them, by name.
#[derive(Debug)]
pub(crate) struct Doors {
    house: House,
    open: BTreeMap<String, Door>,
    ports: watch::Sender<Vec<Arc<Port>>>,
    /// Those who accept.
    accepting: TaskTracker,
}

/// Why the listeners stay as they are.
#[derive(Debug, thiserror::Error)]
pub(crate) enum DoorError {
    #[error(transparent)]
    Bind(#[from] BindError),
    #[error("listener {0}: {1}")]
    Tls(String, tls::TlsError),
    #[error("the system: {0}")]
    System(#[from] io::Error),
}

/// A listener that is ready to take the place of another, or to be opened.
struct Ready {
    port: Arc<Port>,
    /// What its clients are shown.
    shown: Vec<Shown>,
    /// Those of its sockets that are new.
    sockets: Vec<(Endpoint, Acceptor, tokio::runtime::Handle)>,
}

impl Doors {
    /// Opens the listeners of the settings on sockets that are bound already, in their order.
    pub(crate) fn open(
        house: House,
        config: &Config,
        sockets: Vec<Vec<(Endpoint, Socket)>>,
    ) -> Result<Doors, DoorError> {
        let (ports, accepting) = (watch::Sender::new(vec![]), TaskTracker::new());
        let mut doors = Doors { house, open: BTreeMap::new(), ports, accepting };
        let ready = config
            .listeners
            .iter()
            .zip(sockets)
            .filter_map(|(listener, sockets)| doors.prepare(listener, config, sockets).transpose())
            .collect::<Result<Vec<_>, _>>()?;
        doors.put(ready);
        Ok(doors)
    }

    /// The ports of the moment.
    pub(crate) fn ports(&self) -> watch::Receiver<Vec<Arc<Port>>> {
        self.ports.subscribe()
    }

    /// All sockets that are accepted from, once more.
    pub(crate) fn sockets(&self) -> io::Result<Vec<(Endpoint, Socket)>> {
        let all = self.open.values().flat_map(|door| &door.sockets);
        let live = all.filter_map(|(endpoint, accepting)| Some((endpoint, accepting.acceptor.upgrade()?)));
        live.map(|(endpoint, acceptor)| Ok((endpoint.clone(), acceptor.socket().try_clone()?))).collect()
    }

    /// Completes when nothing is accepted from any more; for after `stop`.
    pub(crate) async fn closed(&self) {
        self.accepting.close();
        self.accepting.wait().await;
    }

    /// Makes the listeners those of `config`, or changes nothing and says why.
    pub(crate) fn change(&mut self, config: &Config) -> Result<(), DoorError> {
        let mut ready = Vec::new();
        for listener in &config.listeners {
            let door = self.open.get(&listener.name);
            let has = |address: &Endpoint| door.is_some_and(|door| door.sockets.contains_key(address));
            let whose = format!("listener {}", listener.name);
            let mut binder = Binder { tcp: &config.tcp, inherited: &mut Inherited::default() };
            let sockets = binder.bind(&listener.listen, has, listener.unix_mode, &whose)?;
            ready.extend(self.prepare(listener, config, sockets)?);
        }
        self.put(ready);
        Ok(())
    }

    /// `None` for a listener of a cluster that nobody follows.
    fn prepare(
        &self,
        listener: &Listener,
        config: &Config,
        sockets: Vec<(Endpoint, Socket)>,
    ) -> Result<Option<Ready>, DoorError> {
        let house = &self.house;
        let Some(topology) = house.clusters.get(&listener.cluster) else { return Ok(None) };
        let bad_tls = |error| DoorError::Tls(listener.name.clone(), error);
        let tls = listener.tls.as_ref().map(tls::load_terminate).transpose().map_err(bad_tls)?;
        let (tls, shown) = tls.map(|tls| (tls.config, tls.shown)).unzip();
        let server_tls = listener.server_tls.as_ref().map(tls::load_originate).transpose();
        let server_tls = server_tls.map_err(bad_tls)?;
        let before = self.open.get(&listener.name).map(|door| Arc::clone(&door.port.borrow()));
        let port = Port {
            settings: listener.clone(),
            tcp: config.tcp,
            topology: topology.clone(),
            metrics: match &before {
                Some(before) => Arc::clone(&before.metrics),
                None => house.metrics.listener(&listener.name),
            },
            tls,
            server_tls,
            roster: Arc::clone(&house.roster),
            counts: before.map_or_else(Arc::default, |before| Arc::clone(&before.counts)),
            numbers: Arc::clone(&house.numbers),
        };
        let register = |(address, socket): (Endpoint, Socket)| {
            // On a worker, so that half of what it accepts needs no other thread; on each one in turn.
            let worker = house.workers.place().0.clone();
            let _within = worker.enter();
            Ok((address, Acceptor::new(socket)?, worker.clone()))
        };
        let sockets = sockets.into_iter().map(register).collect::<io::Result<_>>()?;
        Ok(Some(Ready { port: Arc::new(port), shown: shown.unwrap_or_default(), sockets }))
    }

    /// Nothing of this can fail.
    fn put(&mut self, ready: Vec<Ready>) {
        let house = &self.house;
        let mut before = std::mem::take(&mut self.open);
        let mut certificates = BTreeMap::new();
        for Ready { port, shown, sockets } in ready {
            let settings = &port.settings;
            certificates.insert(settings.name.clone(), shown);
            let mut door = before.remove(&settings.name).unwrap_or_else(|| Door {
                port: watch::Sender::new(Arc::clone(&port)),
                sockets: BTreeMap::new(),
            });
            door.port.send_replace(Arc::clone(&port));
            door.sockets.retain(|address, accepting| {
                let stays = settings.listen.contains(address);
                if !stays {
                    info!(listener = settings.name, %address, "not listening any more");
                    accepting.stop.cancel();
                }
                stays
            });
            for (address, acceptor, worker) in sockets {
                let role = settings.rules.role.label();
                let at = acceptor.socket().endpoint().unwrap_or_else(|_| address.clone());
                info!(listener = settings.name, cluster = settings.cluster, role, address = %at, "listening");
                let stop = house.stop.child_token();
                let (sessions, workers) = (house.sessions.clone(), Arc::clone(&house.workers));
                let acceptor = Arc::new(acceptor);
                door.sockets
                    .insert(address, Accepting { stop: stop.clone(), acceptor: Arc::downgrade(&acceptor) });
                let accepting = listen::accept(door.port.subscribe(), acceptor, stop, sessions, workers);
                house.sessions.spawn_on(self.accepting.track_future(accepting), &worker);
            }
            self.open.insert(settings.name.clone(), door);
        }
        for (name, door) in before {
            info!(listener = name, "listener removed; its sessions go on");
            door.sockets.values().for_each(|accepting| accepting.stop.cancel());
        }
        let rules = |(name, door): (&String, &Door)| {
            let settings = &door.port.borrow().settings;
            [name, &settings.cluster, settings.rules.role.label()].map(str::to_owned)
        };
        self.house.metrics.set_listeners(&self.open.iter().map(rules).collect());
        house.metrics.set_certificates(&certificates);
        self.ports.send_replace(self.open.values().map(|door| Arc::clone(&door.port.borrow())).collect());
    }
}

/// What of `new` cannot be had without a restart.
pub(crate) fn needs_restart(old: &Config, new: &Config) -> Vec<&'static str> {
    let differs = [
        ("[cluster.*]", old.clusters != new.clusters),
        ("[admin]", old.admin != new.admin),
        ("[process]", old.workers != new.workers),
        ("[log] format", old.log.format != new.log.format),
    ];
    differs.into_iter().filter(|(_, differs)| *differs).map(|(name, _)| name).collect()
}
