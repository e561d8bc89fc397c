//! Accepts clients for one configured listener, within its limits.

use std::io;
use std::net::IpAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};
use std::time::Duration;

use rustls::{ClientConfig, ServerConfig};
use tokio::sync::watch;
use tokio::time::sleep;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;
use tracing::warn;

use crate::acceptor::Acceptor;
use crate::access::{FromSource, Sources, within};
use crate::config::{Listener, Tcp};
use crate::conn::Accepted;
use crate::endpoint::Peer;
use crate::metrics::ListenerMetrics;
use crate::refusal::TurnedAway;
use crate::roster::{Roster, Ticket};
use crate::seats::{Seat, Seats};
use crate::session;
use crate::topology::TopologyRx;
use crate::workers::Workers;

/// Clients beyond the session limit that are told so at the same time; more are closed without a word.
const TURNED_AWAY_AT_ONCE: usize = 64;

/// Pauses after an accept that failed for want of descriptors or memory.
const BACKOFF_FIRST: Duration = Duration::from_millis(5);
const BACKOFF_MAX: Duration = Duration::from_secs(1);

/// What all sessions share that came by one listener with the same settings.
#[derive(Debug)]
pub(crate) struct Port {
    pub(crate) settings: Listener,
    pub(crate) tcp: Tcp,
    pub(crate) topology: TopologyRx,
    pub(crate) metrics: Arc<ListenerMetrics>,
    /// Where clients' TLS ends here.
    pub(crate) tls: Option<Arc<ServerConfig>>,
    /// Where TLS to servers begins here.
    pub(crate) server_tls: Option<Arc<ClientConfig>>,
    /// All sessions of the proxy.
    pub(crate) roster: Arc<Roster>,
    pub(crate) counts: Arc<Counts>,
    /// Tells sessions of the whole proxy apart.
    pub(crate) numbers: Arc<AtomicU64>,
}

/// A session's place, given back when it is dropped.
#[derive(Debug)]
pub(crate) struct Room {
    _seat: Seat,
    /// Boxed: sessions without such a limit shall not have room for it.
    from_source: Option<Box<FromSource>>,
}

/// What goes on when a listener's settings change.
#[derive(Debug, Default)]
pub(crate) struct Counts {
    pub(crate) sessions: Arc<Seats>,
    pub(crate) held: Arc<Seats>,
    pub(crate) turned_away: Arc<Seats>,
    pub(crate) sources: Arc<Sources>,
    pub(crate) cursor: AtomicUsize,
}

impl Port {
    /// Whether sessions in plain text are turned away.
    pub(crate) fn tls_is_required(&self) -> bool {
        self.settings.tls.as_ref().is_some_and(|tls| tls.required)
    }

    /// Room for a session of `peer`, kept until it is dropped. Of one who tells later who the client is, all but
    /// that is looked at.
    fn room_for(&self, peer: Peer) -> Result<Room, TurnedAway> {
        let source = peer.ip().filter(|_| !self.is_told_by(peer));
        if source.is_some_and(|source| !self.settings.networks.admit(source)) {
            return Err(TurnedAway::NotAllowed);
        }
        let seat = self.counts.sessions.take(self.settings.max_sessions).ok_or(TurnedAway::SessionLimit)?;
        let mut room = Room { _seat: seat, from_source: None };
        if let Some(source) = source {
            self.add_source(&mut room, source)?;
        }
        Ok(room)
    }

    /// Looks at the address that a PROXY header told.
    pub(crate) fn admit_told(&self, room: &mut Room, source: IpAddr) -> Result<(), TurnedAway> {
        if !self.settings.networks.admit(source) {
            return Err(TurnedAway::NotAllowed);
        }
        self.add_source(room, source)
    }

    fn add_source(&self, room: &mut Room, source: IpAddr) -> Result<(), TurnedAway> {
        if let Some(limit) = self.settings.max_sessions_per_address {
            let entered = self.counts.sources.enter(source, limit).ok_or(TurnedAway::SourceLimit)?;
            room.from_source = Some(Box::new(entered));
        }
        Ok(())
    }

    /// Whether connections of this peer begin with a PROXY header.
    pub(crate) fn is_told_by(&self, peer: Peer) -> bool {
        peer.ip().is_some_and(|ip| within(&self.settings.proxy_protocol.from, ip))
    }

    /// Sessions that are open or opening.
    pub(crate) fn open_sessions(&self) -> usize {
        self.counts.sessions.taken()
    }

    /// Sessions that wait for somebody to serve.
    pub(crate) fn held(&self) -> usize {
        self.counts.held.taken()
    }

    /// The place of the next session in the round.
    pub(crate) fn next_cursor(&self) -> usize {
        self.counts.cursor.fetch_add(1, Ordering::Relaxed)
    }
}

/// Accepts until `stop`, each client for the port of the moment; every session runs on one of `workers` and in
/// `tracker`.
pub(crate) async fn accept(
    port: watch::Receiver<Arc<Port>>,
    acceptor: Arc<Acceptor>,
    stop: CancellationToken,
    tracker: TaskTracker,
    workers: Arc<Workers>,
) {
    let mut backoff = BACKOFF_FIRST;
    loop {
        let accepted = tokio::select! {
            accepted = acceptor.accept() => accepted,
            () = stop.cancelled() => return,
        };
        match accepted {
            Ok((client, peer)) => {
                backoff = BACKOFF_FIRST;
                let port = Arc::clone(&port.borrow());
                admit(&port, client, peer, &tracker, &workers);
            }
            Err(error) => {
                let port = Arc::clone(&port.borrow());
                port.metrics.accept_error();
                if is_of_the_client(&error) {
                    continue;
                }
                warn!(listener = port.settings.name, %error, pause = ?backoff, "accept failed");
                tokio::select! {
                    () = sleep(backoff) => {}
                    () = stop.cancelled() => return,
                }
                backoff = (backoff * 2).min(BACKOFF_MAX);
            }
        }
    }
}

/// Starts the session of an accepted client, or turns it away.
fn admit(port: &Arc<Port>, client: Accepted, peer: Peer, tracker: &TaskTracker, workers: &Workers) {
    let number = port.numbers.fetch_add(1, Ordering::Relaxed);
    let (handle, on_worker) = workers.place();
    let ticket = Ticket::new(number, Arc::clone(port), peer);
    match port.room_for(peer) {
        Ok(room) => {
            // Not wrapped in another future: a future that is handed to one is kept twice.
            tracker.spawn_on(session::serve(Roster::enrol(ticket), client, room, on_worker), handle);
        }
        Err(why) => {
            port.metrics.refused();
            let Some(seat) = port.counts.turned_away.take(TURNED_AWAY_AT_ONCE) else {
                return port.metrics.ended(why.reason());
            };
            let refusal = async move {
                session::turn_away(ticket, client, why).await;
                drop((seat, on_worker));
            };
            tracker.spawn_on(refusal, handle);
        }
    }
}

/// Whether the error is the client's, who was gone before it was accepted, and not ours.
fn is_of_the_client(error: &io::Error) -> bool {
    matches!(
        error.kind(),
        io::ErrorKind::ConnectionAborted | io::ErrorKind::ConnectionReset | io::ErrorKind::Interrupted
    )
}
