//! One connection at a time, to one endpoint; the next endpoint after a failure.

use std::future::Future;
use std::path::Path;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use etcd_client::{Certificate, Client, ConnectOptions, Error, Identity, ResponseHeader, TlsOptions};
use tokio::sync::watch;
use tokio::time::{Instant, timeout};
use tracing::{debug, info};

use super::errors::{auth_is_off, classify, did_nothing};
use super::terms::Terms;
use super::{EtcdOptions, EtcdTls};
use crate::store::StoreError;

/// HTTP/2 pings on an otherwise silent connection. etcd closes connections that ping more often than every 5 s.
const PING_EVERY: Duration = Duration::from_secs(6);
const PING_TIMEOUT: Duration = Duration::from_secs(2);

/// The least time one endpoint gets before the next is tried.
const LEAST_SHARE: Duration = Duration::from_millis(300);

/// Where systems keep the certificates they trust.
const SYSTEM_ROOTS: &[&str] =
    &["/etc/ssl/certs/ca-certificates.crt", "/etc/pki/tls/certs/ca-bundle.crt", "/etc/ssl/ca-bundle.pem"];

/// Whether a call may be made again on another endpoint.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(super) enum Retry {
    /// Doing it twice is the same as once.
    Always,
    /// Only when it surely changed nothing.
    UnlessSent,
}

pub(super) struct Connections {
    /// All but the endpoints, which may change.
    options: EtcdOptions,
    endpoints: Mutex<Vec<String>>,
    current: Mutex<Current>,
    pub(super) terms: Terms,
}

#[derive(Default)]
struct Current {
    /// Index of the endpoint in use; counts on past the last one.
    endpoint: usize,
    /// Number of the connection, so that a late failure of an old one does not end a new one.
    generation: u64,
    /// The connection and its URL.
    client: Option<(Client, String)>,
    /// The attempt to connect that is under way.
    attempt: Option<watch::Receiver<Option<Attempt>>>,
    /// Attempts in a row that failed.
    failures: u32,
    /// The URL that answered last, so that only a change is told.
    answering: Option<String>,
}

/// How an attempt to connect ended.
type Attempt = Result<Connection, StoreError>;

/// A connection in use.
#[derive(Clone)]
pub(super) struct Connection {
    pub(super) client: Client,
    pub(super) generation: u64,
    url: String,
}

/// An answer, and the era it belongs to.
pub(super) struct Answered<T> {
    pub(super) value: T,
    pub(super) era: u64,
}

impl Connections {
    pub(super) fn new(options: EtcdOptions) -> Connections {
        let endpoints = Mutex::new(options.endpoints.clone());
        Connections { options, endpoints, current: Mutex::default(), terms: Terms::default() }
    }

    pub(super) fn use_endpoints(&self, endpoints: Vec<String>) {
        *self.endpoints() = endpoints;
    }

    fn endpoints(&self) -> MutexGuard<'_, Vec<String>> {
        self.endpoints.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Runs `call` on the current connection, on others after failures that allow it, within the request
    /// timeout. `kept` is handed to the first attempt only.
    pub(super) async fn call<T, K, F>(
        self: &Arc<Self>,
        retry: Retry,
        mut kept: Option<K>,
        mut call: impl FnMut(Connection, Option<K>) -> F,
    ) -> Result<Answered<T>, StoreError>
    where
        F: Future<Output = Result<(Option<ResponseHeader>, T), Error>>,
    {
        let end = Instant::now() + self.options.request_timeout;
        let mut last = StoreError::Unavailable("no endpoint is configured".to_owned());
        // Once per endpoint, and once more for a connection that had died unnoticed.
        let tries = 0..=self.endpoints().len();
        for _ in tries {
            let connection = match self.get(self.share().min(left(end))).await {
                Ok(connection) => connection,
                Err(error) => {
                    last = error;
                    continue;
                }
            };
            let (generation, endpoint) = (connection.generation, connection.url.clone());
            let limit = self.share().min(left(end));
            if limit.is_zero() {
                break;
            }
            let (error, may_have_happened) = match timeout(limit, call(connection, kept.take())).await {
                Ok(Ok((header, value))) => match self.terms.check(header.as_ref()) {
                    Ok(era) => {
                        self.answered(&endpoint);
                        return Ok(Answered { value, era });
                    }
                    Err(stale) => (stale, true),
                },
                Ok(Err(error)) => match classify(&endpoint, &error) {
                    // Said by an etcd in good health: another connection would be told the same.
                    proof @ (StoreError::LeaseNotFound | StoreError::Compacted(_) | StoreError::Full(_)) => {
                        return Err(proof);
                    }
                    other => (other, !did_nothing(&error)),
                },
                Err(_) => (StoreError::Unavailable(format!("{endpoint}: no answer within {limit:?}")), true),
            };
            debug!(%error, endpoint, "a call to etcd failed");
            self.failed(generation);
            last = error;
            if may_have_happened && retry == Retry::UnlessSent {
                break;
            }
        }
        Err(last)
    }

    /// The time one endpoint gets.
    fn share(&self) -> Duration {
        let endpoints = u32::try_from(self.endpoints().len()).unwrap_or(u32::MAX).max(1);
        (self.options.request_timeout / endpoints).max(LEAST_SHARE)
    }

    fn url(&self, endpoint: usize) -> String {
        let endpoints = self.endpoints();
        endpoints.get(endpoint % endpoints.len().max(1)).cloned().unwrap_or_default()
    }

    fn lock(&self) -> MutexGuard<'_, Current> {
        self.current.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The current connection, or one that is made within `limit`. What takes longer goes on for whoever asks next: a login
    /// of a busy etcd can take longer than anybody waits, and would be begun again and again.
    async fn get(self: &Arc<Self>, limit: Duration) -> Result<Connection, StoreError> {
        if limit.is_zero() {
            return Err(StoreError::Unavailable("no endpoint answered in time".to_owned()));
        }
        let mut attempt = {
            let mut current = self.lock();
            if let Some((client, url)) = current.client.clone() {
                return Ok(Connection { client, generation: current.generation, url });
            }
            let attempt = current.attempt.take().unwrap_or_else(|| {
                let (done, attempt) = watch::channel(None);
                tokio::spawn(Arc::clone(self).attempt(current.endpoint, current.failures, done));
                attempt
            });
            current.attempt = Some(attempt.clone());
            attempt
        };
        match timeout(limit, attempt.wait_for(Option::is_some)).await {
            Ok(Ok(ended)) => ended.clone().unwrap_or_else(|| Err(given_up())),
            Ok(Err(_)) => {
                // Its task ended with the runtime that it ran on.
                self.lock().attempt = None;
                Err(given_up())
            }
            Err(_) => Err(StoreError::Unavailable(format!("no connection within {limit:?}"))),
        }
    }

    /// Connects once, for all who wait. After each round without success an endpoint gets more time.
    async fn attempt(self: Arc<Self>, endpoint: usize, failures: u32, done: watch::Sender<Option<Attempt>>) {
        let url = self.url(endpoint);
        let rounds = failures / u32::try_from(self.endpoints().len()).unwrap_or(u32::MAX).max(1);
        let limit = self.share().saturating_mul(rounds.saturating_add(1)).min(self.options.request_timeout);
        let connected = match timeout(limit, self.connect(&url)).await {
            Ok(connected) => connected,
            Err(_) => Err(StoreError::Unavailable(format!("{url}: no connection within {limit:?}"))),
        };
        let ended = {
            let mut current = self.lock();
            current.attempt = None;
            match connected {
                Ok(client) => {
                    current.failures = 0;
                    current.generation += 1;
                    current.client = Some((client.clone(), url.clone()));
                    Ok(Connection { client, generation: current.generation, url })
                }
                Err(error) => {
                    current.failures = failures.saturating_add(1);
                    current.endpoint += 1;
                    Err(error)
                }
            }
        };
        done.send_replace(Some(ended));
    }

    /// Tells when another endpoint than before answers. A connection alone says nothing: it is made lazily.
    fn answered(&self, url: &str) {
        let mut current = self.lock();
        if current.answering.as_deref() != Some(url) && current.answering.replace(url.to_owned()).is_some() {
            info!(endpoint = url, "another etcd endpoint answers now");
        }
    }

    /// Drops the connection of `generation`, unless another took its place meanwhile.
    pub(super) fn failed(&self, generation: u64) {
        let mut current = self.lock();
        if current.generation == generation && current.client.take().is_some() {
            current.endpoint += 1;
        }
    }

    async fn connect(&self, url: &str) -> Result<Client, StoreError> {
        let options = self.connect_options(url)?;
        let Some((user, password)) = &self.options.user else {
            return Client::connect([url], Some(options)).await.map_err(|e| classify(url, &e));
        };
        let with_user = options.clone().with_user(user, password);
        match Client::connect([url], Some(with_user)).await {
            // Settings may name a user before authentication is switched on.
            Err(error) if auth_is_off(&error) => {
                Client::connect([url], Some(options)).await.map_err(|e| classify(url, &e))
            }
            connected => connected.map_err(|e| classify(url, &e)),
        }
    }

    fn connect_options(&self, url: &str) -> Result<ConnectOptions, StoreError> {
        // A host that swallows packets must leave time for the next one.
        let connect_timeout = self.options.connect_timeout.min(self.share() * 3 / 4);
        let options = ConnectOptions::new()
            .with_keep_alive(PING_EVERY, PING_TIMEOUT)
            .with_keep_alive_while_idle(false)
            .with_connect_timeout(connect_timeout)
            .with_tcp_keepalive(Duration::from_secs(5))
            .with_require_leader(true)
            .with_auto_token_refresh(true);
        // The library refuses TLS options for plain endpoints, and takes bare ones for TLS when it has them.
        match &self.options.tls {
            _ if url.starts_with("http://") => Ok(options),
            Some(tls) => Ok(options.with_tls(tls_options(tls)?)),
            None if url.starts_with("https://") => Ok(options.with_tls(tls_options(&EtcdTls::default())?)),
            None => Ok(options),
        }
    }
}

fn given_up() -> StoreError {
    StoreError::Unavailable("connecting was given up".to_owned())
}

fn left(end: Instant) -> Duration {
    end.saturating_duration_since(Instant::now())
}

/// Read for each connection, so that renewed certificates are used without a restart.
fn tls_options(tls: &EtcdTls) -> Result<TlsOptions, StoreError> {
    let read = |path: &Path| {
        std::fs::read(path).map_err(|e| StoreError::Unavailable(format!("{}: {e}", path.display())))
    };
    let system = || SYSTEM_ROOTS.iter().map(Path::new).find(|p| p.exists());
    let mut options = TlsOptions::new();
    if let Some(ca) = tls.ca.as_deref().or_else(system) {
        options = options.ca_certificate(Certificate::from_pem(read(ca)?));
    }
    if let Some((cert, key)) = &tls.identity {
        options = options.identity(Identity::from_pem(read(cert)?, read(key)?));
    }
    if let Some(name) = &tls.server_name {
        options = options.domain_name(name.clone());
    }
    Ok(options)
}
