//! `/events`: the document of `/topology` as a stream of server-sent events (HTML standard, section 9.2).

use std::future::pending;
use std::sync::Arc;
use std::time::Duration;

use axum::extract::State;
use axum::http::{StatusCode, header};
use axum::response::sse::{Event, Sse};
use axum::response::{IntoResponse, Response};
use futures_util::future::select_all;
use futures_util::{StreamExt, stream};
use tokio::sync::watch;
use tokio::time::{Instant, sleep_until, timeout_at};

use super::Admin;
use super::status::Status;
use crate::seats::Seat;
use crate::shutdown::Phase;
use crate::topology::TopologyRx;

/// Streams at the same time: what watches the proxy must not become its load.
const STREAMS: usize = 32;

/// Time between two events while nothing happens but numbers.
const EVERY: Duration = Duration::from_secs(1);

/// Least time between two events, whatever happens.
const LEAST: Duration = Duration::from_millis(100);

/// Sends the document at once, at every new picture, and otherwise every second, until the admin side stops.
pub(super) async fn events(State(admin): State<Arc<Admin>>) -> Response {
    let Some(seat) = admin.streams.take(STREAMS) else {
        let text = format!("{STREAMS} pages are open already; close one of them\n");
        return (StatusCode::SERVICE_UNAVAILABLE, [(header::RETRY_AFTER, "10")], text).into_response();
    };
    let stop = admin.stop.clone();
    let live = Live {
        clusters: admin.clusters.values().cloned().collect(),
        phase: admin.phase.clone(),
        sent: None,
        admin,
        _seat: seat,
    };
    let events = stream::unfold(live, Live::next).take_until(stop.cancelled_owned());
    Sse::new(events).into_response()
}

/// One stream.
struct Live {
    admin: Arc<Admin>,
    clusters: Vec<TopologyRx>,
    phase: watch::Receiver<Phase>,
    sent: Option<Instant>,
    _seat: Seat,
}

impl Live {
    async fn next(mut self) -> Option<(Result<Event, axum::Error>, Live)> {
        if let Some(sent) = self.sent {
            sleep_until(sent + LEAST).await;
            // Without news, the time is the reason.
            let _ = timeout_at(sent + EVERY, self.news()).await;
        }
        self.sent = Some(Instant::now());
        // Seen before it is shown: what comes between is shown twice rather than late.
        self.phase.mark_unchanged();
        for cluster in &mut self.clusters {
            cluster.see();
        }
        let event = Event::default().json_data(Status::of(&self.admin));
        Some((event, self))
    }

    async fn news(&mut self) {
        let mut pictures: Vec<_> =
            self.clusters.iter_mut().map(|cluster| Box::pin(cluster.changed())).collect();
        let picture = async {
            if pictures.is_empty() {
                pending::<()>().await;
            }
            select_all(&mut pictures).await;
        };
        let phase = async {
            if self.phase.changed().await.is_err() {
                pending::<()>().await;
            }
        };
        tokio::select! {
            () = picture => {}
            () = phase => {}
        }
    }
}
