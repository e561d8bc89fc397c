//! `/events`: the document of `/topology` as a stream of server-sent events (HTML standard, section 9.2).

use std::sync::Arc;
use std::time::Duration;

use axum::extract::State;
use axum::http::{StatusCode, header};
use axum::response::sse::{Event, Sse};
use axum::response::{IntoResponse, Response};
use futures_util::{StreamExt, stream};
use tokio::time::{Instant, sleep_until, timeout_at};

use super::Admin;
use super::news::News;
use super::status::Status;
use crate::seats::Seat;

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
    let live = Live { news: News::of(&admin), sent: None, admin, _seat: seat };
    let events = stream::unfold(live, Live::next).take_until(stop.cancelled_owned());
    Sse::new(events).into_response()
}

/// One stream.
struct Live {
    admin: Arc<Admin>,
    news: News,
    sent: Option<Instant>,
    _seat: Seat,
}

impl Live {
    async fn next(mut self) -> Option<(Result<Event, axum::Error>, Live)> {
        if let Some(sent) = self.sent {
            sleep_until(sent + LEAST).await;
            // Without news, the time is the reason.
            let _ = timeout_at(sent + EVERY, self.news.come()).await;
        }
        self.sent = Some(Instant::now());
        self.news.see();
        let event = Event::default().json_data(Status::of(&self.admin));
        Some((event, self))
    }
}
