//! The HTTP side: which method and path go where, who may change things.

use std::future::Future;
use std::sync::Arc;
use std::time::Duration;

use axum::Router;
use axum::body::Bytes;
use axum::extract::{Query as QueryOf, State};
use axum::http::{HeaderMap, Method, StatusCode, Uri, header};
use axum::response::{IntoResponse, Response};
use axum::routing::{get, post};
use pgvane_cluster::clock::Tick;
use pgvane_cluster::keyspace::Keyspace;
use pgvane_cluster::store::Store;
use serde_json::Value;
use tokio::net::TcpListener;
use tokio::sync::{mpsc, oneshot, watch};

use super::answer::{Refused, json, text};
use super::body;
use super::document::{self, Change};
use super::health::{self, Query};
use super::snapshot::{ApiSnapshot, Command, FailsafeAnswer, FailsafeAsk};
use super::switchover::{self, Kind};
use crate::config::Login;
use crate::metrics;
use crate::peers::basic;
use crate::timing::TimingOverrides;

/// How long the loop may take to decide whether to vouch; the asker waits no longer.
const FAILSAFE_WITHIN: Duration = Duration::from_secs(2);

/// What the API works with.
pub struct Api<S> {
    /// The store, for wishes.
    pub store: Arc<S>,
    /// The cluster's keys.
    pub space: Keyspace,
    /// What the loop last published.
    pub snapshots: watch::Receiver<Arc<ApiSnapshot>>,
    /// The loop.
    pub commands: mpsc::Sender<Command>,
    /// Who may change things; anybody where absent.
    pub login: Option<Login>,
    /// Deadlines set by hand: a new lease time must leave room for them.
    pub timing: TimingOverrides,
}

/// Answers on `listener` until `shutdown`.
pub async fn serve<S: Store>(
    listener: TcpListener,
    api: Api<S>,
    shutdown: impl Future<Output = ()> + Send + 'static,
) -> std::io::Result<()> {
    axum::serve(listener, router(api)).with_graceful_shutdown(shutdown).await
}

/// How long an answer about now may take before one from memory has to do.
const FRESH_WITHIN: Duration = Duration::from_millis(100);

fn router<S: Store>(api: Api<S>) -> Router {
    Router::new()
        .route("/patroni", get(patroni))
        .route("/cluster", get(cluster))
        .route("/history", get(history))
        .route("/liveness", get(liveness))
        .route("/readiness", get(readiness))
        .route("/metrics", get(show_metrics))
        .route("/config", get(config).patch(patch_config).put(put_config))
        .route("/failsafe", get(failsafe).post(vouch))
        .route("/switchover", post(switch_over).delete(withdraw))
        .route("/failover", post(fail_over))
        .route("/reload", post(reload))
        .route("/restart", post(restart).delete(restart))
        .route("/reinitialize", post(reinitialize))
        .fallback(health_check)
        .with_state(Arc::new(api))
}

type Shared<S> = State<Arc<Api<S>>>;

impl<S> Api<S> {
    fn snapshot(&self) -> Arc<ApiSnapshot> {
        Arc::clone(&self.snapshots.borrow())
    }

    fn wake(&self) {
        // A loop with a full queue is awake already.
        let _ = self.commands.try_send(Command::Wake);
    }

    /// Lets a change through, or says why not.
    fn authorize(&self, headers: &HeaderMap) -> Result<(), Refused> {
        let Some(login) = &self.login else { return Ok(()) };
        let given = headers.get(header::AUTHORIZATION).map_or(&b""[..], |v| v.as_bytes());
        if same(given, basic(login).as_bytes()) {
            Ok(())
        } else {
            Err(Refused::new(
                StatusCode::UNAUTHORIZED,
                "this call needs the user name and password of the REST API",
            ))
        }
    }
}

/// Compares without telling by its duration where the texts differ.
fn same(a: &[u8], b: &[u8]) -> bool {
    a.len() == b.len() && a.iter().zip(b).fold(0, |differences, (x, y)| differences | (x ^ y)) == 0
}

async fn health_check<S: Store>(
    State(api): Shared<S>,
    method: Method,
    uri: Uri,
    QueryOf(query): QueryOf<Query>,
) -> Response {
    if !matches!(method, Method::GET | Method::HEAD | Method::OPTIONS) {
        return text(StatusCode::NOT_IMPLEMENTED, format!("{method} {} is not known", uri.path()));
    }
    let (s, now) = (api.snapshot(), Tick::now());
    let status = status_of(health::is_healthy(uri.path(), &query, &s, now));
    if method == Method::GET { json(status, &body::patroni(&s, now)) } else { status.into_response() }
}

fn status_of(good: bool) -> StatusCode {
    if good { StatusCode::OK } else { StatusCode::SERVICE_UNAVAILABLE }
}

/// `?fresh`: the server is asked first, for a member that compares positions; its answer is waited for briefly.
async fn patroni<S: Store>(State(api): Shared<S>, QueryOf(query): QueryOf<Query>) -> Response {
    let now = Tick::now();
    if query.contains_key("fresh") && api.commands.try_send(Command::Refresh).is_ok() {
        let mut snapshots = api.snapshots.clone();
        let asked = snapshots.wait_for(|s| s.local.asked_at.is_none_or(|at| at >= now));
        let _ = tokio::time::timeout(FRESH_WITHIN, asked).await;
    }
    json(StatusCode::OK, &body::patroni(&api.snapshot(), Tick::now()))
}

async fn liveness<S: Store>(State(api): Shared<S>) -> StatusCode {
    status_of(health::is_live(&api.snapshot(), Tick::now()))
}

async fn readiness<S: Store>(State(api): Shared<S>, QueryOf(query): QueryOf<Query>) -> StatusCode {
    status_of(health::is_ready(&query, &api.snapshot(), Tick::now()))
}

async fn show_metrics<S: Store>(State(api): Shared<S>) -> Response {
    text(StatusCode::OK, metrics::render(&api.snapshot(), Tick::now()))
}

fn no_view() -> Response {
    text(StatusCode::BAD_GATEWAY, "the store has not answered yet")
}

async fn cluster<S: Store>(State(api): Shared<S>) -> Response {
    let s = api.snapshot();
    s.view().map_or_else(no_view, |view| json(StatusCode::OK, &body::cluster(view, &s.scope)))
}

async fn history<S: Store>(State(api): Shared<S>) -> Response {
    api.snapshot().view().map_or_else(no_view, |view| json(StatusCode::OK, &body::history(view)))
}

async fn config<S: Store>(State(api): Shared<S>) -> Response {
    match api.snapshot().view().and_then(|v| v.config.as_ref()) {
        Some(config) => json(StatusCode::OK, &config.value.json),
        None => text(StatusCode::BAD_GATEWAY, "there is no configuration"),
    }
}

async fn failsafe<S: Store>(State(api): Shared<S>) -> Response {
    match api.snapshot().view().and_then(|v| v.failsafe.as_ref()) {
        Some(list) => json(StatusCode::OK, &serde_json::json!(list)),
        None => text(StatusCode::BAD_GATEWAY, "there is no failsafe list"),
    }
}

/// A non-empty JSON object, as all changes need one.
fn object(body: &Bytes) -> Result<Value, Refused> {
    match serde_json::from_slice::<Value>(body) {
        Ok(Value::Object(map)) if !map.is_empty() => Ok(Value::Object(map)),
        Ok(_) => {
            Err(Refused::new(StatusCode::BAD_REQUEST, "the body must be a JSON object that says something"))
        }
        Err(e) => Err(Refused::new(StatusCode::BAD_REQUEST, format!("the body is not JSON: {e}"))),
    }
}

async fn patch_config<S: Store>(api: Shared<S>, headers: HeaderMap, body: Bytes) -> Response {
    change_config(&api, &headers, &body, Change::Patch).await.unwrap_or_else(Refused::into_response)
}

async fn put_config<S: Store>(api: Shared<S>, headers: HeaderMap, body: Bytes) -> Response {
    change_config(&api, &headers, &body, Change::Put).await.unwrap_or_else(Refused::into_response)
}

async fn change_config<S: Store>(
    api: &Api<S>,
    headers: &HeaderMap,
    body: &Bytes,
    how: impl FnOnce(Value) -> Change,
) -> Result<Response, Refused> {
    api.authorize(headers)?;
    let change = how(object(body)?);
    let document = document::change(api.store.as_ref(), &api.space, &api.timing, change).await?;
    api.wake();
    Ok(json(StatusCode::OK, &document))
}

async fn switch_over<S: Store>(api: Shared<S>, headers: HeaderMap, body: Bytes) -> Response {
    change_leader(&api, &headers, &body, Kind::Switchover).await.unwrap_or_else(Refused::into_response)
}

async fn fail_over<S: Store>(api: Shared<S>, headers: HeaderMap, body: Bytes) -> Response {
    change_leader(&api, &headers, &body, Kind::Failover).await.unwrap_or_else(Refused::into_response)
}

async fn change_leader<S: Store>(
    api: &Api<S>,
    headers: &HeaderMap,
    body: &Bytes,
    kind: Kind,
) -> Result<Response, Refused> {
    api.authorize(headers)?;
    let body = object(body)?;
    tracing::info!(?kind, %body, "another leader is asked for");
    let snapshots = api.snapshots.clone();
    let done =
        switchover::perform(api.store.as_ref(), &api.space, snapshots, kind, &body, || api.wake()).await;
    tracing::info!(?kind, end = ?done, "the request for another leader ended");
    Ok(text(StatusCode::OK, done?))
}

async fn withdraw<S: Store>(State(api): Shared<S>, headers: HeaderMap) -> Response {
    let done = async {
        api.authorize(&headers)?;
        switchover::withdraw(api.store.as_ref(), &api.space).await
    };
    done.await.map_or_else(Refused::into_response, |done| text(StatusCode::OK, done))
}

async fn vouch<S: Store>(State(api): Shared<S>, headers: HeaderMap, body: Bytes) -> Response {
    ask_loop(&api, &headers, &body).await.unwrap_or_else(Refused::into_response)
}

async fn ask_loop<S: Store>(api: &Api<S>, headers: &HeaderMap, body: &Bytes) -> Result<Response, Refused> {
    api.authorize(headers)?;
    let ask: FailsafeAsk = serde_json::from_slice(body).map_err(|e| {
        Refused::new(StatusCode::BAD_REQUEST, format!("the body is not what /failsafe takes: {e}"))
    })?;
    let (reply, answer) = oneshot::channel();
    let asked = async {
        api.commands.send(Command::Failsafe { ask, reply }).await.ok()?;
        answer.await.ok()
    };
    let silent = || Refused::new(StatusCode::SERVICE_UNAVAILABLE, "the agent's loop did not answer");
    match tokio::time::timeout(FAILSAFE_WITHIN, asked).await.ok().flatten().ok_or_else(silent)? {
        FailsafeAnswer::Accepted { position } => {
            Ok((StatusCode::OK, [("lsn", position.0.to_string())], "Accepted").into_response())
        }
        FailsafeAnswer::RunningPrimary => {
            Err(Refused::new(StatusCode::INTERNAL_SERVER_ERROR, "Running as a leader"))
        }
        FailsafeAnswer::Disabled => Err(Refused::new(StatusCode::BAD_GATEWAY, "failsafe_mode is off")),
    }
}

async fn reload<S: Store>(State(api): Shared<S>, headers: HeaderMap) -> Response {
    not_yet(&api, &headers, "settings of agent.toml take effect when the agent is restarted")
}

async fn restart<S: Store>(State(api): Shared<S>, headers: HeaderMap) -> Response {
    not_yet(&api, &headers, "this agent does not restart PostgreSQL on request yet")
}

async fn reinitialize<S: Store>(State(api): Shared<S>, headers: HeaderMap) -> Response {
    not_yet(&api, &headers, "this agent does not reinitialize on request yet")
}

fn not_yet<S: Store>(api: &Api<S>, headers: &HeaderMap, what: &str) -> Response {
    match api.authorize(headers) {
        Ok(()) => text(StatusCode::NOT_IMPLEMENTED, what),
        Err(refused) => refused.into_response(),
    }
}
