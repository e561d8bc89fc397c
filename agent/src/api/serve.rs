//! Which method and path go where (contract 6.1). As with Patroni, the method and the first part of the path decide;
//! any other path is a question of health to GET, HEAD and OPTIONS, and unknown to the rest.

use std::collections::HashMap;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use http_body_util::{BodyExt, Limited};
use hyper::body::{Body as _, Incoming};
use hyper::{HeaderMap, Method, Request, StatusCode};
use jiff::Timestamp;
use pgvane_cluster::clock::Tick;
use pgvane_cluster::keyspace::Keyspace;
use pgvane_cluster::store::Store;
use serde_json::{Map, Value};
use tokio::sync::{mpsc, oneshot, watch};
use tokio::time::timeout;

use super::access::{Client, Members};
use super::answer::{Refused, Reply, bare, json, text};
use super::document::{self, Change};
use super::health::{self, Query};
use super::settings::{Means, Settings};
use super::snapshot::{ApiSnapshot, Command, FailsafeAsk, RestartAnswer};
use super::switchover::{self, Kind};
use super::{body, restart};
use crate::decide::consent::Refusal;
use crate::metrics;
use crate::namesake::instance;
use crate::peers::Caller;
use crate::timing::TimingOverrides;

/// How long the loop may take to answer what it has only to judge; the asker waits no longer.
const JUDGED_WITHIN: Duration = Duration::from_secs(2);

/// How long an answer about now may take before one from memory has to do.
const FRESH_WITHIN: Duration = Duration::from_millis(100);

/// How long the store may take to show the cluster as it is.
const READ_WITHIN: Duration = Duration::from_secs(3);

/// The longest body that is read, and how long it may take to come.
const MAX_BODY: usize = 1 << 20;
const BODY_WITHIN: Duration = Duration::from_secs(10);

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
    /// Who may change things, and how answers are sent.
    pub settings: watch::Receiver<Arc<Settings>>,
    /// How candidates are asked.
    pub caller: Arc<Caller>,
    /// Deadlines set by hand: a new lease time must leave room for them.
    pub timing: TimingOverrides,
}

/// A request in its parts.
struct Call {
    client: Client,
    settings: Arc<Settings>,
    headers: HeaderMap,
    body: Incoming,
}

impl<S: Store> Api<S> {
    /// Answers one request.
    pub(super) async fn answer(&self, client: Client, request: Request<Incoming>) -> Reply {
        let (head, body) = request.into_parts();
        let settings = Arc::clone(&self.settings.borrow());
        let extra = settings.headers.clone();
        let call = Call { client, settings, headers: head.headers, body };
        let path = head.uri.path();
        let query = query(head.uri.query().unwrap_or_default());
        let mut reply = match head.method {
            Method::GET => self.get(path, &query).await,
            Method::HEAD | Method::OPTIONS => bare(self.health(path, &query)),
            method => self.change(&method, path, call).await.unwrap_or_else(Refused::into_reply),
        };
        for (name, value) in &extra {
            reply.headers_mut().insert(name, value.clone());
        }
        reply
    }

    async fn get(&self, path: &str, query: &Query) -> Reply {
        let s = self.snapshot();
        match first(path) {
            "patroni" => self.patroni(query).await,
            "cluster" => self.cluster().await.unwrap_or_else(Refused::into_reply),
            "history" => s.view().map_or_else(no_view, |view| json(StatusCode::OK, &body::history(view))),
            "liveness" => bare(status_of(health::is_live(&s, Tick::now()))),
            "readiness" => bare(status_of(health::is_ready(query, &s, Tick::now()))),
            "metrics" => {
                let tls = self.settings.borrow().tls.clone();
                let expires = match tls {
                    Some(tls) => tls.current().await.expires,
                    None => None,
                };
                text(StatusCode::OK, metrics::render(&s, expires, Tick::now()))
            }
            "instance" => text(StatusCode::OK, instance()),
            "reach" => {
                let caller = self.means().caller;
                super::reach::answer(&caller, s.view(), query).await.unwrap_or_else(Refused::into_reply)
            }
            "config" => match s.view().and_then(|v| v.config.as_ref()) {
                Some(config) => json(StatusCode::OK, &config.value.json),
                None => text(StatusCode::BAD_GATEWAY, "there is no configuration"),
            },
            "failsafe" => match s.view().and_then(|v| v.failsafe.as_ref()) {
                Some(list) => json(StatusCode::OK, &serde_json::json!(list)),
                None => text(StatusCode::BAD_GATEWAY, "there is no failsafe list"),
            },
            _ => json(self.health(path, query), &body::patroni(&s, Tick::now())),
        }
    }

    fn health(&self, path: &str, query: &Query) -> StatusCode {
        status_of(health::is_healthy(path, query, &self.snapshot(), Tick::now()))
    }

    async fn change(&self, method: &Method, path: &str, call: Call) -> Result<Reply, Refused> {
        let known = [
            ("PATCH", "config"),
            ("PUT", "config"),
            ("POST", "failsafe"),
            ("POST", "switchover"),
            ("DELETE", "switchover"),
            ("POST", "failover"),
            ("POST", "restart"),
            ("DELETE", "restart"),
            ("POST", "reload"),
            ("POST", "reinitialize"),
            ("POST", "rewind"),
            ("POST", "sigterm"),
            ("POST", "citus"),
            ("POST", "mpp"),
        ];
        let route = (method.as_str(), first(path));
        if !known.contains(&route) {
            return Err(Refused::new(StatusCode::NOT_IMPLEMENTED, format!("{method} {path} is not known")));
        }
        let members = if route.1 == "failsafe" { Members::DoNot } else { Members::Count };
        let doorkeeper = &call.settings.doorkeeper;
        doorkeeper.admit(call.client, &call.headers, self.snapshot().view(), members).await?;
        match route {
            ("PATCH", _) => self.change_config(Change::Patch(object(call).await?.into())).await,
            ("PUT", _) => self.change_config(Change::Put(object(call).await?.into())).await,
            (_, "failsafe") => self.vouch(&read(call).await?).await,
            ("DELETE", "switchover") => {
                let done = switchover::withdraw(self.store.as_ref(), &self.space).await?;
                self.wake();
                Ok(text(StatusCode::OK, done))
            }
            (_, "switchover") => self.change_leader(Kind::Switchover, object(call).await?).await,
            (_, "failover") => self.change_leader(Kind::Failover, object(call).await?).await,
            ("DELETE", _) => self.unschedule().await,
            (_, "restart") => self.restart(&optional(call).await?).await,
            (_, "reinitialize") => self.reinitialize(&optional(call).await?).await,
            (_, "rewind") => self.rewind().await,
            (_, "reload") => {
                self.tell(Command::Reload).await?;
                Ok(text(StatusCode::ACCEPTED, "reload scheduled"))
            }
            // Patroni ends itself only in its tests on Windows.
            (_, "sigterm") => Ok(text(StatusCode::ACCEPTED, "shutdown scheduled")),
            // News of a Citus coordinator; there is none.
            _ => Ok(text(StatusCode::OK, "OK")),
        }
    }

    /// Those of the newest settings.
    fn means(&self) -> Means {
        let newest = self.settings.borrow().means.clone();
        newest.unwrap_or_else(|| Means { caller: Arc::clone(&self.caller), timing: self.timing })
    }

    fn snapshot(&self) -> Arc<ApiSnapshot> {
        Arc::clone(&self.snapshots.borrow())
    }

    fn wake(&self) {
        // A loop with a full queue is awake already.
        let _ = self.commands.try_send(Command::Wake);
    }

    async fn tell(&self, command: Command) -> Result<(), Refused> {
        let told = timeout(JUDGED_WITHIN, self.commands.send(command)).await;
        if matches!(told, Ok(Ok(()))) { Ok(()) } else { Err(silent()) }
    }

    /// Asks the loop for what it answers at once.
    async fn judged<T>(&self, command: Command, answer: oneshot::Receiver<T>) -> Result<T, Refused> {
        self.tell(command).await?;
        timeout(JUDGED_WITHIN, answer).await.ok().and_then(Result::ok).ok_or_else(silent)
    }

    /// `?fresh`: the server is asked first, for a member that compares positions. Its answer is waited for briefly;
    /// what is older then is told as `"stale": true`, for it is no vote.
    async fn patroni(&self, query: &Query) -> Reply {
        let now = Tick::now();
        let is_fresh = |s: &Arc<ApiSnapshot>| s.local.asked_at.is_none_or(|at| at >= now);
        let wanted = query.contains_key("fresh");
        if wanted && self.commands.try_send(Command::Refresh).is_ok() {
            let mut snapshots = self.snapshots.clone();
            let _ = timeout(FRESH_WITHIN, snapshots.wait_for(is_fresh)).await;
        }
        let snapshot = self.snapshot();
        let mut body = body::patroni(&snapshot, Tick::now());
        if wanted && !is_fresh(&snapshot) {
            body["stale"] = true.into();
        }
        json(StatusCode::OK, &body)
    }

    /// The cluster as the store has it at this moment.
    async fn cluster(&self) -> Result<Reply, Refused> {
        let read = timeout(READ_WITHIN, document::read(self.store.as_ref(), &self.space)).await;
        let late = || Refused::new(StatusCode::SERVICE_UNAVAILABLE, "the store does not answer");
        let view = read.map_err(|_| late())??;
        Ok(json(StatusCode::OK, &body::cluster(&view, &self.snapshot().scope)))
    }

    async fn change_config(&self, change: Change) -> Result<Reply, Refused> {
        let timing = self.means().timing;
        let document = document::change(self.store.as_ref(), &self.space, &timing, change).await?;
        self.wake();
        Ok(json(StatusCode::OK, &document))
    }

    async fn change_leader(&self, kind: Kind, body: Map<String, Value>) -> Result<Reply, Refused> {
        let body = Value::Object(body);
        tracing::info!(?kind, %body, "another leader is asked for");
        let means = self.means();
        let tools = switchover::Tools {
            store: self.store.as_ref(),
            space: &self.space,
            caller: &means.caller,
            now: Timestamp::now(),
        };
        let done = switchover::perform(tools, self.snapshots.clone(), kind, &body, || self.wake()).await;
        tracing::info!(?kind, end = ?done, "the request for another leader ended");
        done.map(|(status, done)| text(status, done))
    }

    async fn vouch(&self, body: &Bytes) -> Result<Reply, Refused> {
        let ask: FailsafeAsk = serde_json::from_slice(body).map_err(|e| {
            Refused::new(StatusCode::BAD_REQUEST, format!("the body is not what /failsafe takes: {e}"))
        })?;
        let (reply, answer) = oneshot::channel();
        match self.judged(Command::Failsafe { ask, reply }, answer).await? {
            Ok(position) => {
                let mut reply = text(StatusCode::OK, "Accepted");
                reply.headers_mut().insert("lsn", position.0.into());
                Ok(reply)
            }
            // The first two in Patroni's words (contract 6.1); to it every status but 200 is a no.
            Err(Refusal::IAmPrimary) => {
                Err(Refused::new(StatusCode::INTERNAL_SERVER_ERROR, "Running as a leader"))
            }
            Err(refusal @ Refusal::ModeIsOff) => {
                Err(Refused::new(StatusCode::BAD_GATEWAY, refusal.to_string()))
            }
            Err(refusal) => Err(Refused::new(StatusCode::SERVICE_UNAVAILABLE, refusal.to_string())),
        }
    }

    /// Waits as long as the restart takes: the loop answers in any case.
    async fn restart(&self, body: &Map<String, Value>) -> Result<Reply, Refused> {
        let ask = restart::parse(body, Timestamp::now(), self.snapshot().is_paused())?;
        let (reply, answer) = oneshot::channel();
        self.tell(Command::Restart { ask, reply }).await?;
        let answer =
            answer.await.unwrap_or_else(|_| RestartAnswer::NotDone("the agent is stopping".to_owned()));
        Ok(match answer {
            RestartAnswer::Restarted => text(StatusCode::OK, "restarted successfully"),
            RestartAnswer::Scheduled => text(StatusCode::ACCEPTED, "Restart scheduled"),
            RestartAnswer::AlreadyScheduled => {
                text(StatusCode::CONFLICT, "Another restart is already scheduled")
            }
            RestartAnswer::NotDone(why) => text(StatusCode::SERVICE_UNAVAILABLE, why),
        })
    }

    /// Waits as long as a rewind or a copy takes: the loop answers in any case. Patroni has no such path.
    async fn rewind(&self) -> Result<Reply, Refused> {
        let (reply, answer) = oneshot::channel();
        self.tell(Command::Rewind { reply }).await?;
        let answer = answer.await.unwrap_or_else(|_| Err("the agent is stopping".to_owned()));
        Ok(match answer {
            Ok(done) => text(StatusCode::OK, done),
            Err(why) => text(StatusCode::SERVICE_UNAVAILABLE, why),
        })
    }

    async fn unschedule(&self) -> Result<Reply, Refused> {
        let (reply, answer) = oneshot::channel();
        Ok(if self.judged(Command::Unschedule { reply }, answer).await? {
            text(StatusCode::OK, "scheduled restart deleted")
        } else {
            text(StatusCode::NOT_FOUND, "no restarts are scheduled")
        })
    }

    async fn reinitialize(&self, body: &Map<String, Value>) -> Result<Reply, Refused> {
        let flag = |key: &str| match body.get(key) {
            Some(Value::Bool(on)) => *on,
            Some(Value::String(text)) => pgvane_cluster::units::parse_bool(text).unwrap_or(false),
            Some(_) | None => false,
        };
        let (reply, answer) = oneshot::channel();
        let (force, from_leader) = (flag("force"), flag("from_leader"));
        Ok(match self.judged(Command::Reinitialize { force, from_leader, reply }, answer).await? {
            Ok(()) => text(StatusCode::OK, "reinitialize started"),
            Err(why) => text(StatusCode::SERVICE_UNAVAILABLE, why),
        })
    }
}

fn silent() -> Refused {
    Refused::new(StatusCode::SERVICE_UNAVAILABLE, "the agent's loop did not answer")
}

fn status_of(good: bool) -> StatusCode {
    if good { StatusCode::OK } else { StatusCode::SERVICE_UNAVAILABLE }
}

fn no_view() -> Reply {
    text(StatusCode::BAD_GATEWAY, "the store has not answered yet")
}

/// The first part of a path.
fn first(path: &str) -> &str {
    path.trim_start_matches('/').split('/').next().unwrap_or_default()
}

/// The arguments of a request; of several of one name the first counts.
fn query(text: &str) -> Query {
    let mut query = HashMap::new();
    for pair in text.split('&').filter(|pair| !pair.is_empty()) {
        let (key, value) = pair.split_once('=').unwrap_or((pair, ""));
        query.entry(decoded(key)).or_insert_with(|| decoded(value));
    }
    query
}

/// Percent signs and plus signs of a query (application/x-www-form-urlencoded).
fn decoded(text: &str) -> String {
    let mut bytes = Vec::with_capacity(text.len());
    let mut rest = text.as_bytes();
    while let [byte, tail @ ..] = rest {
        rest = tail;
        let hex = |b: u8| char::from(b).to_digit(16).and_then(|d| u8::try_from(d).ok());
        match (byte, tail) {
            (b'+', _) => bytes.push(b' '),
            (b'%', [high, low, after @ ..]) if let (Some(high), Some(low)) = (hex(*high), hex(*low)) => {
                bytes.push(high * 16 + low);
                rest = after;
            }
            _ => bytes.push(*byte),
        }
    }
    String::from_utf8_lossy(&bytes).into_owned()
}

/// A body as it came; one that must be there and is not is told by 411.
async fn read(call: Call) -> Result<Bytes, Refused> {
    if call.body.is_end_stream() {
        return Err(Refused::new(StatusCode::LENGTH_REQUIRED, "this call needs a body"));
    }
    whole(call.body).await
}

async fn whole(body: Incoming) -> Result<Bytes, Refused> {
    let bad = |why: String| Refused::new(StatusCode::BAD_REQUEST, why);
    match timeout(BODY_WITHIN, Limited::new(body, MAX_BODY).collect()).await {
        Ok(Ok(body)) => Ok(body.to_bytes()),
        Ok(Err(error)) => Err(bad(format!("the body was not read: {error}"))),
        Err(_) => Err(bad(format!("the body did not come within {BODY_WITHIN:?}"))),
    }
}

/// A non-empty JSON object, as all changes need one.
async fn object(call: Call) -> Result<Map<String, Value>, Refused> {
    let map = parse(&read(call).await?)?;
    if map.is_empty() {
        return Err(not_an_object());
    }
    Ok(map)
}

/// A JSON object that may be left out.
async fn optional(call: Call) -> Result<Map<String, Value>, Refused> {
    let body = whole(call.body).await?;
    if body.iter().all(u8::is_ascii_whitespace) { Ok(Map::new()) } else { parse(&body) }
}

fn parse(body: &Bytes) -> Result<Map<String, Value>, Refused> {
    match serde_json::from_slice::<Value>(body) {
        Ok(Value::Object(map)) => Ok(map),
        Ok(_) => Err(not_an_object()),
        Err(e) => Err(Refused::new(StatusCode::BAD_REQUEST, format!("the body is not JSON: {e}"))),
    }
}

fn not_an_object() -> Refused {
    Refused::new(StatusCode::BAD_REQUEST, "the body must be a JSON object that says something")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn queries_are_read_as_forms_are() {
        let query = query("lag=10%20MB&tag_zone=eu+west&fresh&tag_x=%zz&lag=1&%7C=%");
        let expected =
            [("lag", "10 MB"), ("tag_zone", "eu west"), ("fresh", ""), ("tag_x", "%zz"), ("|", "%")];
        let expected = expected.map(|(k, v)| (k.to_owned(), v.to_owned()));
        assert_eq!(query, expected.into());
    }

    #[test]
    fn the_first_part_of_a_path_decides() {
        for (path, expected) in
            [("/", ""), ("/patroni", "patroni"), ("/config/x", "config"), ("//x", "x"), ("", "")]
        {
            assert_eq!(first(path), expected);
        }
    }
}
