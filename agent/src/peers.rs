//! Questions to the other members' REST APIs: all at once, one short deadline, an answer of some kind for each.
//!
//! Works against pgvane agents and Patroni daemons alike (contract 3.3, 6.1, 6.2). It judges nobody: whether an
//! answer allows a promotion is for `decide`.

use std::collections::BTreeMap;
use std::net::Ipv4Addr;
use std::sync::{Arc, PoisonError, RwLock};
use std::time::Duration;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD as BASE64;
use bytes::Bytes;
use futures_util::future::join_all;
use http_body_util::{BodyExt, Full, Limited};
use hyper::header::{AUTHORIZATION, CONTENT_TYPE, HOST};
use hyper::{Method, Request, StatusCode};
use hyper_util::rt::TokioIo;
use pgvane_cluster::ids::{Lsn, NodeName, Timeline};
use pgvane_cluster::records::{MemberRole, MemberState, Tags, host_port};
use rustls::ClientConfig;
use rustls::pki_types::ServerName;
use serde_json::Value;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::TcpStream;
use tokio::time::timeout;
use tokio_rustls::TlsConnector;

use crate::api::FailsafeAsk;
use crate::config::{Ctl, Login};
use crate::tls::{self, Watched};

/// The longest answer that is read.
const MAX_BODY: usize = 1 << 20;

/// What came of asking one member.
#[derive(Clone, PartialEq, Debug)]
pub enum PeerAnswer {
    /// It told its status.
    Answered(Box<PeerStatus>),
    /// It did not answer in time, or not with a status; the text says why.
    Unreachable(String),
}

/// What a member says of itself at GET `/patroni`.
#[derive(Clone, PartialEq, Debug)]
pub struct PeerStatus {
    /// Its role.
    pub role: MemberRole,
    /// What its PostgreSQL is doing.
    pub state: MemberState,
    /// Whether it says it is a primary.
    pub is_primary: bool,
    /// Whether its PostgreSQL accepts connections.
    pub running: bool,
    /// Its timeline, where it told.
    pub timeline: Option<Timeline>,
    /// Primary: flushed WAL; standby: the larger of received and replayed.
    pub position: Lsn,
    /// Whether it says that its position is from before it was asked (`GET /patroni?fresh`). A Patroni daemon asks its
    /// server each time.
    pub stale: bool,
    /// Its tags.
    pub tags: Tags,
    /// Whether its watchdog keeps it from leading.
    pub watchdog_failed: bool,
    /// Whether it leads on the other members' word alone.
    pub failsafe_active: bool,
}

impl PeerStatus {
    /// Why the member cannot take over, as an operator is told (contract 3.6); `None`: it can.
    pub fn limitation(&self) -> Option<&'static str> {
        if !self.tags.may_lead() {
            Some("not allowed to promote")
        } else if self.watchdog_failed {
            Some("not watchdog capable")
        } else {
            None
        }
    }

    fn read(body: &[u8]) -> Result<PeerStatus, String> {
        let body: Value = serde_json::from_slice(body).map_err(|e| format!("its answer is not JSON: {e}"))?;
        let wal = body.get("xlog").or_else(|| body.get("wal")).filter(|w| w.is_object());
        let wal = wal.ok_or("it tells no WAL position")?;
        let number = |field: &str| wal.get(field).and_then(Value::as_u64);
        let text = |field: &str| body.get(field).and_then(Value::as_str).unwrap_or_default().to_owned();
        let (role, state) = (MemberRole::from(text("role")), MemberState::from(text("state")));
        let tags = body.get("tags").and_then(|t| serde_json::from_value(t.clone()).ok()).unwrap_or_default();
        let timeline = body.get("timeline").and_then(Value::as_u64).and_then(|t| u32::try_from(t).ok());
        let flag = |field: &str| body.get(field) == Some(&Value::Bool(true));
        Ok(PeerStatus {
            is_primary: number("location").is_some() || role == MemberRole::Primary,
            running: state == MemberState::Running,
            timeline: timeline.filter(|t| *t > 0).map(Timeline),
            position: Lsn(number("location")
                .or(number("received_location").max(number("replayed_location")))
                .unwrap_or(0)),
            tags,
            stale: flag("stale"),
            watchdog_failed: flag("watchdog_failed"),
            failsafe_active: flag("failsafe_mode_is_active"),
            role,
            state,
        })
    }
}

/// Asks other members: with our login where they want one, over TLS where their address says so.
#[derive(Debug)]
pub struct Caller(RwLock<Arc<Means>>);

#[derive(Debug)]
struct Means {
    login: Option<Login>,
    /// The error is why nobody can be asked over TLS.
    tls: Result<Arc<Watched<ClientConfig>>, String>,
}

impl Caller {
    /// One that has `ctl`. What keeps it from speaking TLS is said when it is to.
    pub fn new(ctl: &Ctl) -> Caller {
        Caller(RwLock::new(Arc::new(Means::new(ctl))))
    }

    /// One without a login that speaks no TLS.
    pub fn plain() -> Caller {
        Caller::new(&Ctl::default())
    }

    /// Why nobody can be asked over TLS; `None`: it can be spoken.
    pub fn lacks_tls(&self) -> Option<String> {
        self.0.read().unwrap_or_else(PoisonError::into_inner).tls.as_ref().err().cloned()
    }

    /// Takes other means: the settings were read again.
    pub fn replace(&self, ctl: &Ctl) {
        let means = Arc::new(Means::new(ctl));
        *self.0.write().unwrap_or_else(PoisonError::into_inner) = means;
    }

    /// Asks every member (name and api_url) for its status, all within `limit`.
    pub async fn ask_all(
        &self,
        members: &[(NodeName, String)],
        limit: Duration,
    ) -> BTreeMap<NodeName, PeerAnswer> {
        let asked = members.iter().map(|(name, url)| async move {
            let answer = match timeout(limit, self.request(Method::GET, url, None)).await {
                Ok(Ok(answer)) => PeerStatus::read(&answer.body).map(Box::new),
                Ok(Err(why)) => Err(why),
                Err(_) => Err(format!("no answer within {limit:?}")),
            };
            (name.clone(), answer.map_or_else(PeerAnswer::Unreachable, PeerAnswer::Answered))
        });
        join_all(asked).await.into_iter().collect()
    }

    /// Asks every member (name to api_url) to vouch for us, all within `limit`. Returns those that did not, with
    /// the reason; empty: all do.
    pub async fn vouch_all(
        &self,
        members: &BTreeMap<NodeName, String>,
        ask: &FailsafeAsk,
        limit: Duration,
    ) -> BTreeMap<NodeName, String> {
        let body = serde_json::to_value(ask).unwrap_or_default();
        let asked = members.iter().map(|(name, url)| {
            let (url, body) = (at(url, "/failsafe"), &body);
            async move {
                let refusal = match timeout(limit, self.request(Method::POST, &url, Some(body))).await {
                    Ok(Ok(answer))
                        if answer.status == StatusCode::OK && answer.body.as_ref() == b"Accepted" =>
                    {
                        None
                    }
                    Ok(Ok(answer)) => Some(format!("{} {}", answer.status.as_u16(), answer.text())),
                    Ok(Err(why)) => Some(why),
                    Err(_) => Some(format!("no answer within {limit:?}")),
                };
                refusal.map(|why| (name.clone(), why))
            }
        });
        join_all(asked).await.into_iter().flatten().collect()
    }

    /// One request over a connection of its own; not bounded in time. The login goes with what may change something.
    /// The error is a text for people.
    pub async fn request(&self, method: Method, url: &str, body: Option<&Value>) -> Result<Answer, String> {
        let means = Arc::clone(&self.0.read().unwrap_or_else(PoisonError::into_inner));
        let login = means.login.as_ref().filter(|_| !method.is_safe());
        let call = Call { method, url, body, login };
        let Some(host_port) = call.host_port() else {
            return Err(format!("{url} is not an address of a REST API (http:// or https://)"));
        };
        let authority = call.authority();
        let failed = |e: std::io::Error| format!("{authority}: {e}");
        let tls = match &means.tls {
            _ if !call.is_tls() => None,
            Ok(tls) => Some(tls.current().await),
            Err(why) => return Err(format!("{authority}: {why}")),
        };
        let stream = TcpStream::connect((host_port.0.as_str(), host_port.1)).await.map_err(failed)?;
        // A request is one small packet and waits for nobody.
        let _ = stream.set_nodelay(true);
        let Some(tls) = tls else { return call.exchange(stream).await };
        // Names are not verified; what is no name of the kind stands for itself by an address.
        let name = ServerName::try_from(host_port.0).unwrap_or(ServerName::from(Ipv4Addr::LOCALHOST));
        let stream = TlsConnector::from(tls).connect(name, stream).await.map_err(failed)?;
        call.exchange(stream).await
    }
}

impl Means {
    fn new(ctl: &Ctl) -> Means {
        Means { login: ctl.login.clone(), tls: tls::client(ctl) }
    }
}

/// The same server as `api_url`, another path.
pub fn at(api_url: &str, path: &str) -> String {
    let start = api_url.find("://").map_or(0, |n| n + 3);
    let end = api_url[start..].find('/').map_or(api_url.len(), |n| start + n);
    format!("{}{path}", &api_url[..end])
}

/// An answer of a REST API, whatever its status.
#[derive(Clone, Debug)]
pub struct Answer {
    /// The status.
    pub status: StatusCode,
    /// The body.
    pub body: Bytes,
}

impl Answer {
    /// The body as text.
    pub fn text(&self) -> String {
        String::from_utf8_lossy(&self.body).trim().to_owned()
    }
}

struct Call<'a> {
    method: Method,
    url: &'a str,
    body: Option<&'a Value>,
    login: Option<&'a Login>,
}

impl Call<'_> {
    fn is_tls(&self) -> bool {
        self.url.starts_with("https://")
    }

    fn rest(&self) -> Option<&str> {
        self.url.strip_prefix("http://").or_else(|| self.url.strip_prefix("https://"))
    }

    fn host_port(&self) -> Option<(String, u16)> {
        self.rest()?;
        host_port(self.url, if self.is_tls() { 443 } else { 80 })
    }

    fn authority(&self) -> &str {
        let rest = self.rest().unwrap_or(self.url);
        &rest[..rest.find('/').unwrap_or(rest.len())]
    }

    async fn exchange<T>(self, stream: T) -> Result<Answer, String>
    where
        T: AsyncRead + AsyncWrite + Unpin + Send + 'static,
    {
        let Call { url, body, login, .. } = self;
        let authority = self.authority();
        let rest = self.rest().unwrap_or_default();
        let path = rest.find('/').map_or("/", |n| &rest[n..]);
        let failed = |e: hyper::Error| format!("{authority}: {e}");
        let (mut sender, connection) =
            hyper::client::conn::http1::handshake(TokioIo::new(stream)).await.map_err(failed)?;
        // Ends with the request: the sender is dropped below.
        tokio::spawn(connection);
        let mut request = Request::builder().method(&self.method).uri(path).header(HOST, authority);
        if let Some(login) = login {
            request = request.header(AUTHORIZATION, basic(login));
        }
        let body = match body {
            Some(json) => {
                request = request.header(CONTENT_TYPE, "application/json");
                Bytes::from(json.to_string())
            }
            None => Bytes::new(),
        };
        let request = request.body(Full::new(body)).map_err(|e| format!("{url}: {e}"))?;
        let answer = sender.send_request(request).await.map_err(failed)?;
        let status = answer.status();
        let body = Limited::new(answer.into_body(), MAX_BODY).collect().await;
        Ok(Answer { status, body: body.map_err(|e| format!("{authority}: {e}"))?.to_bytes() })
    }
}

/// The value of an `Authorization` header for `login`.
pub(crate) fn basic(login: &Login) -> String {
    format!("Basic {}", BASE64.encode(format!("{}:{}", login.username, login.password.expose())))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::Secret;

    #[test]
    fn a_login_is_written_as_the_rfc_has_it() {
        // RFC 7617, section 2.
        let login = Login { username: "Aladdin".to_owned(), password: Secret::new("open sesame") };
        assert_eq!(basic(&login), "Basic QWxhZGRpbjpvcGVuIHNlc2FtZQ==");
    }

    #[test]
    fn paths_replace_paths() {
        assert_eq!(at("http://a:8008/patroni", "/failsafe"), "http://a:8008/failsafe");
        assert_eq!(at("http://[::1]:8008", "/x"), "http://[::1]:8008/x");
    }

    #[test]
    fn statuses_of_a_patroni_primary_and_standby() {
        let primary =
            br#"{"state": "running", "role": "master", "xlog": {"location": 67108960}, "timeline": 2,
            "tags": {"nofailover": true}}"#;
        let status = PeerStatus::read(primary).expect("reads");
        assert!(status.is_primary && status.running);
        assert_eq!((status.timeline, status.position), (Some(Timeline(2)), Lsn(67_108_960)));
        assert_eq!(status.limitation(), Some("not allowed to promote"));

        let standby = br#"{"state": "running", "role": "replica", "watchdog_failed": true,
            "xlog": {"received_location": 10, "replayed_location": 12, "paused": false}}"#;
        let status = PeerStatus::read(standby).expect("reads");
        assert!(!status.is_primary);
        assert_eq!((status.timeline, status.position), (None, Lsn(12)));
        assert_eq!(status.limitation(), Some("not watchdog capable"));
    }

    #[test]
    fn a_member_that_tells_no_position_counts_as_unreachable() {
        for body in [&br#"{"state": "stopped", "role": "replica"}"#[..], b"[]", b"x", br#"{"xlog": 5}"#] {
            assert!(PeerStatus::read(body).is_err(), "{}", String::from_utf8_lossy(body));
        }
    }
}
