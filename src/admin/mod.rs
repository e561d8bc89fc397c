//! The admin side, HTTP over TCP and over a Unix socket: the status page, `/livez`, `/readyz`, `/metrics`, `/topology`,
//! `/events` for everybody; what shows clients or changes something for those who may.

mod command;
mod health;
mod live;
mod news;
mod page;
mod readiness;
mod socket;
mod status;

use std::collections::BTreeMap;
use std::io;
use std::sync::Arc;
use std::time::{Duration, Instant};

use axum::Router;
use axum::extract::{Request, State};
use axum::http::{HeaderValue, StatusCode, header};
use axum::middleware::{self, Next};
use axum::response::{IntoResponse, Json, Response};
use axum::routing::{get, post};
use pgvane_cluster::clock::Tick;
use pgvane_cluster::settings_file::Secret;
use socket2::SockRef;
use tokio::net::{TcpListener, UnixListener};
use tokio::sync::{mpsc, watch};
use tokio::time::{MissedTickBehavior, interval, sleep};
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

use self::status::{SessionStatus, Status};
use crate::control::Request as Control;
use crate::endpoint::Socket;
use crate::listen::Port;
use crate::metrics::Metrics;
use crate::roster::Roster;
use crate::seats::Seats;
use crate::shutdown::Phase;
use crate::topology::TopologyRx;
use crate::topology::timeline::Timeline;

/// How often the readiness gauge is set and histogram samples are folded.
const UPKEEP_EVERY: Duration = Duration::from_secs(5);

/// Time that answers have to be sent whole when the admin side stops. A page that does not read must not hold it up.
const LAST_ANSWERS: Duration = Duration::from_secs(1);

/// How long what was sent to a peer may stay unconfirmed: a page that is gone without a word gives its place back.
const PEER_PATIENCE: Duration = Duration::from_secs(30);

/// What the endpoints read, and whom they tell.
#[derive(Debug)]
pub(crate) struct Admin {
    pub(crate) started: Instant,
    pub(crate) phase: watch::Receiver<Phase>,
    pub(crate) clusters: BTreeMap<String, TopologyRx>,
    pub(crate) ports: watch::Receiver<Vec<Arc<Port>>>,
    pub(crate) roster: Arc<Roster>,
    pub(crate) ready_grace: Duration,
    pub(crate) metrics: Arc<Metrics>,
    /// What allows to change something over TCP.
    pub(crate) token: Option<Secret>,
    /// What changes the proxy as a whole.
    pub(crate) control: mpsc::Sender<Control>,
    /// What happened last.
    pub(crate) timeline: Arc<Timeline>,
    /// Streams of `/events` now.
    pub(crate) streams: Arc<Seats>,
    /// Ends the admin side.
    pub(crate) stop: CancellationToken,
}

/// Answers on a socket until the admin side stops, within `tasks`.
pub(crate) fn serve(admin: &Arc<Admin>, socket: Socket, tasks: &TaskTracker) -> io::Result<()> {
    let (admin, stop) = (Arc::clone(admin), admin.stop.clone());
    match socket {
        Socket::Tcp(listener) => {
            // Those who are accepted have it from the listener.
            SockRef::from(&listener).set_tcp_user_timeout(Some(PEER_PATIENCE))?;
            tasks.spawn(serve_tcp(admin, TcpListener::from_std(listener)?, stop));
        }
        Socket::Unix(listener) => {
            tasks.spawn(socket::serve(admin, UnixListener::from_std(listener)?, stop));
        }
    }
    Ok(())
}

async fn serve_tcp(admin: Arc<Admin>, listener: TcpListener, stop: CancellationToken) {
    let may = middleware::from_fn_with_state(Arc::clone(&admin), only_with_token);
    let routes = open_routes().merge(guarded_routes().route_layer(may)).with_state(admin);
    let served = axum::serve(listener, routes).with_graceful_shutdown(stop.clone().cancelled_owned());
    let late = async {
        stop.cancelled().await;
        sleep(LAST_ANSWERS).await;
    };
    tokio::select! {
        served = served.into_future() => if let Err(error) = served {
            tracing::warn!(%error, "the admin listener ended");
        },
        () = late => {}
    }
}

/// What everybody may see.
fn open_routes() -> Router<Arc<Admin>> {
    Router::new()
        .route("/livez", get(health::livez))
        .route("/readyz", get(health::readyz))
        .route("/metrics", get(metrics))
        .route("/topology", get(topology))
        .route("/events", get(live::events))
        .merge(page::routes())
}

/// What shows who the clients are, or changes something.
fn guarded_routes() -> Router<Arc<Admin>> {
    Router::new()
        .route("/sessions", get(sessions))
        .route("/sessions/{number}/kill", post(command::kill))
        .route("/clusters/{cluster}/targets/{target}/{admission}", post(command::admit))
        .route("/reload", post(command::reload))
        .route("/upgrade", post(command::upgrade))
}

/// Lets requests through that bring the token (RFC 6750).
async fn only_with_token(State(admin): State<Arc<Admin>>, request: Request, next: Next) -> Response {
    let Some(token) = &admin.token else {
        let why = "nobody may do this over HTTP: [admin] token is not set; pgvanectl proxy may\n";
        return (StatusCode::FORBIDDEN, why).into_response();
    };
    let brought = request.headers().get(header::AUTHORIZATION).map(HeaderValue::as_bytes);
    let brought = brought.and_then(|value| value.strip_prefix(b"Bearer ")).unwrap_or_default();
    if !are_equal(brought, token.expose().as_bytes()) {
        let challenge = [(header::WWW_AUTHENTICATE, "Bearer")];
        return (StatusCode::UNAUTHORIZED, challenge, "this needs the token of [admin]\n").into_response();
    }
    next.run(request).await
}

/// Whether both are the same, in a time that does not tell where they differ.
fn are_equal(one: &[u8], other: &[u8]) -> bool {
    one.len() == other.len() && one.iter().zip(other).fold(0, |sum, (a, b)| sum | (a ^ b)) == 0
}

/// Keeps what is computed on a schedule current until `stop`.
pub(crate) async fn upkeep(admin: Arc<Admin>, stop: CancellationToken) {
    let mut every = interval(UPKEEP_EVERY);
    every.set_missed_tick_behavior(MissedTickBehavior::Delay);
    loop {
        tokio::select! {
            () = stop.cancelled() => return,
            _ = every.tick() => {}
        }
        admin.refresh();
        admin.metrics.upkeep();
    }
}

async fn metrics(State(admin): State<Arc<Admin>>) -> Response {
    admin.refresh();
    let kind = [(header::CONTENT_TYPE, "text/plain; version=0.0.4; charset=utf-8")];
    (kind, admin.metrics.render()).into_response()
}

async fn topology(State(admin): State<Arc<Admin>>) -> Json<Status> {
    Json(Status::of(&admin))
}

async fn sessions(State(admin): State<Arc<Admin>>) -> Json<Vec<SessionStatus>> {
    Json(admin.roster.all().iter().map(|ticket| SessionStatus::of(ticket)).collect())
}

impl Admin {
    /// Sets what is measured when it is asked for.
    fn refresh(&self) {
        self.metrics.set_ready(self.readiness().is_ok());
        self.clusters.values().for_each(|cluster| self.metrics.set_targets(&cluster.current()));
    }

    fn readiness(&self) -> Result<(), String> {
        let now = Tick::now();
        let phase = *self.phase.borrow();
        if phase > Phase::Serving {
            return Err(format!("the proxy is {phase}"));
        }
        self.clusters.values().try_for_each(|cluster| {
            let topology = cluster.current();
            let writes = self.ports.borrow().iter().any(|p| {
                *p.settings.cluster == *topology.cluster && !p.settings.rules.role.is_for_replicas()
            });
            readiness::readiness(&topology, writes, self.ready_grace, now)
        })
    }
}

#[cfg(test)]
mod tests {
    use super::are_equal;

    #[test]
    fn tokens_are_equal_as_a_whole() {
        assert!(are_equal(b"secret", b"secret") && are_equal(b"", b""));
        for other in [&b"secreT"[..], b"secre", b"secrets", b""] {
            assert!(!are_equal(b"secret", other));
        }
    }
}
