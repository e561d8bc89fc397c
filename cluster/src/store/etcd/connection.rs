//! One connection at a time, to one endpoint; the next endpoint after a failure.

use std::future::Future;
use std::sync::Mutex as StdMutex;
use std::time::Duration;

use etcd_client::{Certificate, Client, ConnectOptions, Error, Identity, ResponseHeader, TlsOptions};
use tokio::sync::Mutex;
use tokio::time::{Instant, timeout};
use tracing::{debug, info};

use super::EtcdOptions;
use crate::store::StoreError;

/// HTTP/2 pings: a peer that vanished is noticed within interval plus timeout.
const PING_EVERY: Duration = Duration::from_secs(2);
const PING_TIMEOUT: Duration = Duration::from_secs(2);

/// The least time one endpoint gets before the next is tried.
const LEAST_SHARE: Duration = Duration::from_millis(300);

/// Whether a call may be made again on another endpoint.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(super) enum Retry {
    /// Doing it twice is the same as once.
    Always,
    /// Only when it surely never left this machine.
    UnlessSent,
}

pub(super) struct Connections {
    options: EtcdOptions,
    current: Mutex<Current>,
    /// Cluster id and the highest raft term an answer of it carried.
    newest: StdMutex<(u64, u64)>,
}

#[derive(Default)]
struct Current {
    endpoint: usize,
    generation: u64,
    client: Option<Client>,
}

impl Connections {
    pub(super) fn new(options: EtcdOptions) -> Connections {
        Connections { options, current: Mutex::default(), newest: StdMutex::default() }
    }

    /// Runs a call that keeps nothing between attempts.
    pub(super) async fn call<T, F>(
        &self,
        retry: Retry,
        mut call: impl FnMut(Client) -> F,
    ) -> Result<T, StoreError>
    where
        F: Future<Output = Result<(Option<ResponseHeader>, T), Error>>,
    {
        self.call_with(retry, None, |client, _, _: Option<()>| call(client)).await
    }

    /// Runs `call` on the current connection, on others after failures that allow it, within the request
    /// timeout. `kept` is handed to the first attempt only, with the generation of the connection.
    pub(super) async fn call_with<T, K, F>(
        &self,
        retry: Retry,
        mut kept: Option<K>,
        mut call: impl FnMut(Client, u64, Option<K>) -> F,
    ) -> Result<T, StoreError>
    where
        F: Future<Output = Result<(Option<ResponseHeader>, T), Error>>,
    {
        let end = Instant::now() + self.options.request_timeout;
        let endpoints = u32::try_from(self.options.endpoints.len()).unwrap_or(1).max(1);
        let share = (self.options.request_timeout / endpoints).max(LEAST_SHARE);
        let mut last = StoreError::Unavailable("no endpoint is configured".to_owned());
        // Once per endpoint, and once more for a connection that had died unnoticed.
        for _ in 0..=endpoints {
            let left = end.saturating_duration_since(Instant::now());
            if left.is_zero() {
                break;
            }
            let limit = share.min(left);
            let (client, generation) = match timeout(limit, self.get()).await {
                Ok(Ok(connected)) => connected,
                Ok(Err(error)) => {
                    last = error;
                    continue;
                }
                Err(_) => {
                    self.rotate_unconnected().await;
                    last = StoreError::Unavailable(format!("no connection within {limit:?}"));
                    continue;
                }
            };
            let limit = share.min(end.saturating_duration_since(Instant::now()));
            let (error, sent) = match timeout(limit, call(client, generation, kept.take())).await {
                Ok(Ok((header, value))) => match self.check_term(header.as_ref()) {
                    Ok(()) => return Ok(value),
                    Err(stale) => (stale, true),
                },
                Ok(Err(error)) => {
                    let sent = !never_left(&error);
                    let error = classify(&error);
                    if matches!(error, StoreError::LeaseNotFound | StoreError::Compacted(_)) {
                        return Err(error);
                    }
                    (error, sent)
                }
                Err(_) => (StoreError::Unavailable(format!("no answer within {limit:?}")), true),
            };
            debug!(%error, "a call to etcd failed; trying the next endpoint");
            self.failed(generation).await;
            last = error;
            if sent && retry == Retry::UnlessSent {
                break;
            }
        }
        Err(last)
    }

    /// The current connection, made now if there is none.
    async fn get(&self) -> Result<(Client, u64), StoreError> {
        let mut current = self.current.lock().await;
        if let Some(client) = &current.client {
            return Ok((client.clone(), current.generation));
        }
        let endpoint = &self.options.endpoints[current.endpoint % self.options.endpoints.len()];
        let connected = match self.connect_options() {
            Ok(options) => Client::connect([endpoint], Some(options)).await.map_err(|e| classify(&e)),
            Err(error) => Err(error),
        };
        match connected {
            Ok(client) => {
                current.generation += 1;
                current.client = Some(client.clone());
                Ok((client, current.generation))
            }
            Err(error) => {
                current.endpoint += 1;
                Err(error)
            }
        }
    }

    /// Drops the connection of `generation`, unless another took its place meanwhile.
    pub(super) async fn failed(&self, generation: u64) {
        let mut current = self.current.lock().await;
        if current.generation == generation && current.client.take().is_some() {
            current.endpoint += 1;
        }
    }

    async fn rotate_unconnected(&self) {
        let mut current = self.current.lock().await;
        if current.client.is_none() {
            current.endpoint += 1;
        }
    }

    fn connect_options(&self) -> Result<ConnectOptions, StoreError> {
        let mut options = ConnectOptions::new()
            .with_keep_alive(PING_EVERY, PING_TIMEOUT)
            .with_keep_alive_while_idle(true)
            .with_connect_timeout(self.options.connect_timeout)
            .with_tcp_keepalive(Duration::from_secs(5))
            .with_require_leader(true)
            .with_auto_token_refresh(true);
        if let Some((user, password)) = &self.options.user {
            options = options.with_user(user, password);
        }
        if let Some(tls) = &self.options.tls {
            let read = |path: &std::path::Path| {
                std::fs::read(path).map_err(|e| StoreError::Denied(format!("{}: {e}", path.display())))
            };
            let mut config = TlsOptions::new();
            if let Some(ca) = &tls.ca {
                config = config.ca_certificate(Certificate::from_pem(read(ca)?));
            }
            if let Some((cert, key)) = &tls.identity {
                config = config.identity(Identity::from_pem(read(cert)?, read(key)?));
            }
            if let Some(name) = &tls.server_name {
                config = config.domain_name(name.clone());
            }
            options = options.with_tls(config);
        }
        Ok(options)
    }

    /// Refuses an answer from an older raft term than one seen before: its sender is cut off or stale.
    pub(super) fn check_term(&self, header: Option<&ResponseHeader>) -> Result<(), StoreError> {
        let Some(header) = header else { return Ok(()) };
        let (cluster, got) = (header.cluster_id(), header.raft_term());
        let mut newest = self.newest.lock().unwrap_or_else(std::sync::PoisonError::into_inner);
        if newest.0 != cluster {
            if newest.0 != 0 {
                info!(before = newest.0, now = cluster, "the etcd cluster is another one now");
            }
            *newest = (cluster, got);
            return Ok(());
        }
        if got < newest.1 {
            return Err(StoreError::StaleMember { got, seen: newest.1 });
        }
        newest.1 = got;
        Ok(())
    }
}

/// Whether the request surely never left: the connection could not be made.
fn never_left(error: &Error) -> bool {
    match error {
        Error::GRpcStatus(status) => {
            let text = status.message();
            text.contains("tcp connect error")
                || text.contains("dns error")
                || text.contains("error trying to connect")
        }
        Error::TransportError(_) => true,
        _ => false,
    }
}

/// What may be concluded. Only what etcd says in so many words is proof (trap 13).
pub(super) fn classify(error: &Error) -> StoreError {
    let text = error.to_string();
    let lower = text.to_ascii_lowercase();
    if lower.contains("requested lease not found") || lower.contains("lease not found") {
        return StoreError::LeaseNotFound;
    }
    let denied = [
        "invalid auth token",
        "authentication failed",
        "permission denied",
        "user name is empty",
        "user name not found",
        "old auth revision",
        "invalid peer certificate",
    ];
    if denied.iter().any(|d| lower.contains(d)) {
        return StoreError::Denied(text);
    }
    StoreError::Unavailable(text)
}

/// The error for a stream that ended where an answer was due.
pub(super) fn stream_ended() -> Error {
    Error::WatchError("the stream ended".to_owned())
}
