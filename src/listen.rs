//! Accepts clients for one configured listener, within its limits.

use std::io;
use std::net::{SocketAddr, TcpStream};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};
use std::time::Duration;

use rustls::ServerConfig;
use tokio::sync::Semaphore;
use tokio::time::sleep;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;
use tracing::warn;

use crate::acceptor::Acceptor;
use crate::close::CloseReason;
use crate::config::{Listener, Tcp};
use crate::cut::Cut;
use crate::metrics::ListenerMetrics;
use crate::session;
use crate::topology::TopologyRx;
use crate::workers::Workers;

/// Clients beyond the session limit that are told so at the same time; more are closed without a word.
const TURNED_AWAY_AT_ONCE: usize = 64;

/// Pauses after an accept that failed for want of descriptors or memory.
const BACKOFF_FIRST: Duration = Duration::from_millis(5);
const BACKOFF_MAX: Duration = Duration::from_secs(1);

/// What all sessions of one listener share.
#[derive(Debug)]
pub(crate) struct Port {
    pub(crate) settings: Listener,
    pub(crate) tcp: Tcp,
    pub(crate) topology: TopologyRx,
    pub(crate) metrics: Arc<ListenerMetrics>,
    /// Where clients' TLS ends here.
    pub(crate) tls: Option<Arc<ServerConfig>>,
    /// Permits to wait for somebody to serve.
    pub(crate) holds: Semaphore,
    /// Ends every session when the drain time is over.
    pub(crate) cut: Arc<Cut>,
    sessions: Arc<Semaphore>,
    turned_away: Arc<Semaphore>,
    cursor: AtomicUsize,
    numbers: Arc<AtomicU64>,
}

impl Port {
    pub(crate) fn new(
        settings: Listener,
        tcp: Tcp,
        topology: TopologyRx,
        metrics: Arc<ListenerMetrics>,
        tls: Option<Arc<ServerConfig>>,
        cut: Arc<Cut>,
        numbers: Arc<AtomicU64>,
    ) -> Port {
        Port {
            holds: Semaphore::new(settings.hold_limit.min(Semaphore::MAX_PERMITS)),
            sessions: Arc::new(Semaphore::new(settings.max_sessions.min(Semaphore::MAX_PERMITS))),
            turned_away: Arc::new(Semaphore::new(TURNED_AWAY_AT_ONCE)),
            cursor: AtomicUsize::new(0),
            settings,
            tcp,
            topology,
            metrics,
            tls,
            cut,
            numbers,
        }
    }

    /// Whether sessions in plain text are turned away.
    pub(crate) fn tls_is_required(&self) -> bool {
        self.settings.tls.as_ref().is_some_and(|tls| tls.required)
    }

    /// The place of the next session in the round.
    pub(crate) fn next_cursor(&self) -> usize {
        self.cursor.fetch_add(1, Ordering::Relaxed)
    }

    /// Sessions that are open or opening.
    pub(crate) fn open_sessions(&self) -> usize {
        self.settings.max_sessions.saturating_sub(self.sessions.available_permits())
    }

    /// Sessions that wait for somebody to serve.
    pub(crate) fn held(&self) -> usize {
        self.settings.hold_limit.saturating_sub(self.holds.available_permits())
    }
}

/// Accepts until `stop`; every session runs on one of `workers` and in `tracker`.
pub(crate) async fn accept(
    port: Arc<Port>,
    acceptor: Acceptor,
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
                admit(&port, client, peer, &tracker, &workers);
            }
            Err(error) => {
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
fn admit(port: &Arc<Port>, client: TcpStream, peer: SocketAddr, tracker: &TaskTracker, workers: &Workers) {
    let number = port.numbers.fetch_add(1, Ordering::Relaxed);
    let (handle, on_worker) = workers.place();
    if let Ok(permit) = Arc::clone(&port.sessions).try_acquire_owned() {
        let port = Arc::clone(port);
        let session = async move {
            session::serve(port, client, peer, number).await;
            drop((permit, on_worker));
        };
        tracker.spawn_on(session, handle);
        return;
    }
    port.metrics.refused();
    if let Ok(permit) = Arc::clone(&port.turned_away).try_acquire_owned() {
        let port = Arc::clone(port);
        let refusal = async move {
            session::turn_away(port, client, peer, number).await;
            drop((permit, on_worker));
        };
        tracker.spawn_on(refusal, handle);
    } else {
        port.metrics.ended(CloseReason::SessionLimit);
    }
}

/// Whether the error is the client's, who was gone before it was accepted, and not ours.
fn is_of_the_client(error: &io::Error) -> bool {
    matches!(
        error.kind(),
        io::ErrorKind::ConnectionAborted | io::ErrorKind::ConnectionReset | io::ErrorKind::Interrupted
    )
}
