//! `/livez` and `/readyz`, with `?wait=` for who wants to know at once when the answer turns bad.

use std::sync::Arc;
use std::time::Duration;

use axum::extract::{Query, State};
use axum::http::StatusCode;
use axum::response::{IntoResponse, Response};
use pgvane_cluster::settings_file::Interval;
use serde::Deserialize;
use tokio::time::{Instant, sleep, sleep_until};

use super::Admin;
use super::news::News;

/// The longest time that a good answer is held back.
const LONGEST: Duration = Duration::from_mins(1);

/// Time between two looks while one waits: a grace that runs out is no event.
const LOOK_EVERY: Duration = Duration::from_millis(100);

/// What may follow the question mark.
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Question {
    /// How long a good answer is held back, to be replaced by a bad one the moment there is a reason for it.
    wait: Option<Interval>,
}

impl Question {
    fn until(&self) -> Instant {
        Instant::now() + self.wait.map_or(Duration::ZERO, |Interval(wait)| wait.min(LONGEST))
    }
}

/// `GET /livez[?wait=TIME]`: 200 while the process lives. Whoever waits learns of its death by the connection's end.
pub(super) async fn livez(State(admin): State<Arc<Admin>>, Query(question): Query<Question>) -> Response {
    tokio::select! {
        () = sleep_until(question.until()) => "alive\n".into_response(),
        () = admin.stop.cancelled() => {
            (StatusCode::SERVICE_UNAVAILABLE, "the proxy stops\n").into_response()
        }
    }
}

/// `GET /readyz[?wait=TIME]`: 200 while clients should be sent here, else 503 and why not.
pub(super) async fn readyz(State(admin): State<Arc<Admin>>, Query(question): Query<Question>) -> Response {
    let (until, mut news) = (question.until(), News::of(&admin));
    loop {
        news.see();
        if let Err(why) = admin.readiness() {
            return (StatusCode::SERVICE_UNAVAILABLE, format!("{why}\n")).into_response();
        }
        if Instant::now() >= until || admin.stop.is_cancelled() {
            return "ready\n".into_response();
        }
        tokio::select! {
            () = sleep_until(until) => {}
            () = news.come() => {}
            () = admin.stop.cancelled() => {}
            () = sleep(LOOK_EVERY) => {}
        }
    }
}
