//! The real etcd behind [`Store`]. Only this folder names the etcd client.
//!
//! The client library's defaults leave every timeout off and recover neither watches nor leases, so all of
//! that is here: one connection at a time, the next endpoint after any failure, every call bounded, answers of
//! stale members refused by raft term.

mod connection;
mod errors;
mod terms;
mod watch;

use std::collections::HashMap;
use std::path::PathBuf;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use etcd_client::{
    Client, Compare as EtcdCompare, CompareOp, DeleteOptions, GetOptions, LeaseKeepAliveStream, LeaseKeeper,
    PutOptions, ResponseHeader, Txn as EtcdTxn, TxnOp,
};

use self::connection::{Connection, Connections, Retry};
use self::errors::stream_ended;
pub use self::watch::EtcdWatch;
use super::{Compare, KeepAlive, KeyValue, Lease, Snapshot, Store, StoreError, Txn, TxnOutcome, Write};
use crate::clock::Tick;
use crate::ids::{LeaseId, Revision};

/// How to reach etcd.
#[derive(Clone)]
pub struct EtcdOptions {
    /// `http://host:port`, `https://host:port` or `host:port` of each member.
    pub endpoints: Vec<String>,
    /// TLS, for https endpoints.
    pub tls: Option<EtcdTls>,
    /// User and password.
    pub user: Option<(String, String)>,
    /// Bound on a TCP and TLS handshake.
    pub connect_timeout: Duration,
    /// Bound on one call over all endpoints it tries.
    pub request_timeout: Duration,
}

/// Certificates for etcd.
#[derive(Clone, Debug, Default)]
pub struct EtcdTls {
    /// CA certificate file, PEM; the system's roots where absent.
    pub ca: Option<PathBuf>,
    /// Client certificate and key files, PEM.
    pub identity: Option<(PathBuf, PathBuf)>,
    /// The name to verify instead of the endpoint's host.
    pub server_name: Option<String>,
}

/// How an etcd is, by one of its members.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct EtcdHealth {
    /// The member's version.
    pub version: String,
    /// Bytes of its database on disk, which the quota is about.
    pub db_size: u64,
    /// What is wrong, in etcd's words: the alarms of all members, such as `memberID:... alarm:NOSPACE`.
    pub alarms: Vec<String>,
}

impl EtcdOptions {
    /// Options with the default bounds: 1 s to connect, 2 s for a call.
    pub fn new(endpoints: Vec<String>) -> EtcdOptions {
        EtcdOptions {
            endpoints,
            tls: None,
            user: None,
            connect_timeout: Duration::from_secs(1),
            request_timeout: Duration::from_secs(2),
        }
    }
}

impl std::fmt::Debug for EtcdOptions {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("EtcdOptions")
            .field("endpoints", &self.endpoints)
            .field("tls", &self.tls)
            .field("user", &self.user.as_ref().map(|(name, _)| name))
            .finish_non_exhaustive()
    }
}

/// etcd. Cheap to create: it connects when it is first asked something.
pub struct EtcdStore {
    connections: Arc<Connections>,
    keepers: Mutex<HashMap<LeaseId, Keeper>>,
}

/// The open keep-alive stream of one lease, and the connection it belongs to.
struct Keeper {
    generation: u64,
    ask: LeaseKeeper,
    answers: LeaseKeepAliveStream,
}

impl EtcdStore {
    /// Does not connect yet, so it cannot fail; certificate files are read at each connection.
    pub fn new(options: EtcdOptions) -> EtcdStore {
        EtcdStore { connections: Arc::new(Connections::new(options)), keepers: Mutex::default() }
    }

    /// The client URLs of all its members, as etcd itself lists them.
    pub async fn members(&self) -> Result<Vec<String>, StoreError> {
        self.call(Retry::Always, |mut client| async move {
            let mut answer = client.member_list().await?;
            let urls = answer.members().iter().flat_map(|member| member.client_urls().to_vec()).collect();
            Ok((answer.take_header(), urls))
        })
        .await
    }

    /// Has it use these endpoints from now on. The connection there is stays as long as its member answers.
    pub fn use_endpoints(&self, endpoints: Vec<String>) {
        self.connections.use_endpoints(endpoints);
    }

    /// What the member that is asked says of itself and of the cluster's alarms.
    pub async fn health(&self) -> Result<EtcdHealth, StoreError> {
        self.call(Retry::Always, |mut client| async move {
            let mut answer = client.status().await?;
            let bytes = |size: i64| u64::try_from(size).unwrap_or(0);
            let health = EtcdHealth {
                version: answer.version().to_owned(),
                db_size: bytes(answer.db_size()),
                alarms: answer.errors().to_vec(),
            };
            Ok((answer.take_header(), health))
        })
        .await
    }

    /// Runs a call that keeps nothing between attempts.
    async fn call<T, F>(&self, retry: Retry, mut call: impl FnMut(Client) -> F) -> Result<T, StoreError>
    where
        F: Future<Output = Result<(Option<ResponseHeader>, T), etcd_client::Error>>,
    {
        let call = |connection: Connection, _: Option<()>| call(connection.client);
        self.connections.call(retry, None, call).await.map(|answered| answered.value)
    }

    fn keepers(&self) -> MutexGuard<'_, HashMap<LeaseId, Keeper>> {
        self.keepers.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Renews over the open stream of the lease, or a new one.
    async fn renew(&self, lease: LeaseId) -> Result<(Duration, Keeper), StoreError> {
        // A stream is taken out while it is used: one that fails or is cancelled half way is never used again.
        let known = self.keepers().remove(&lease);
        let renew = |connection: Connection, known: Option<Keeper>| async move {
            let generation = connection.generation;
            let mut keeper = match known.filter(|k| k.generation == generation) {
                Some(keeper) => keeper,
                None => {
                    let (ask, answers) = connection.client.lease_client().keep_alive(lease.0).await?;
                    Keeper { generation, ask, answers }
                }
            };
            keeper.ask.keep_alive().await?;
            let mut answer = keeper.answers.message().await?.ok_or_else(stream_ended)?;
            Ok((answer.take_header(), (seconds(answer.ttl()), keeper)))
        };
        self.connections.call(Retry::Always, known, renew).await.map(|answered| answered.value)
    }
}

impl Store for EtcdStore {
    type Watch = EtcdWatch;

    async fn snapshot(&self, prefix: &str) -> Result<Snapshot, StoreError> {
        let read = |connection: Connection, _: Option<()>| async move {
            let asked_at = Tick::now();
            let mut client = connection.client;
            let mut answer = client.get(prefix, Some(GetOptions::new().with_prefix())).await?;
            let header = answer.take_header();
            let keys = answer.kvs().iter().map(key_value).collect();
            let snapshot = Snapshot { revision: revision(header.as_ref()), keys, asked_at, era: 0 };
            Ok((header, snapshot))
        };
        let answered = self.connections.call(Retry::Always, None, read).await?;
        Ok(Snapshot { era: answered.era, ..answered.value })
    }

    async fn watch(&self, prefix: &str, from: Revision) -> Result<EtcdWatch, StoreError> {
        watch::open(&self.connections, prefix, from).await
    }

    async fn txn(&self, txn: Txn) -> Result<TxnOutcome, StoreError> {
        let txn = etcd_txn(txn);
        self.call(Retry::UnlessSent, |mut client| {
            let txn = txn.clone();
            async move {
                let mut answer = client.txn(txn).await?;
                let header = answer.take_header();
                let outcome =
                    TxnOutcome { succeeded: answer.succeeded(), revision: revision(header.as_ref()) };
                Ok((header, outcome))
            }
        })
        .await
    }

    async fn grant(&self, ttl: Duration) -> Result<Lease, StoreError> {
        let asked = i64::try_from(ttl.as_millis().div_ceil(1000)).unwrap_or(i64::MAX);
        self.call(Retry::UnlessSent, |mut client| async move {
            let mut answer = client.lease_grant(asked, None).await?;
            Ok((answer.take_header(), Lease { id: LeaseId(answer.id()), ttl: seconds(answer.ttl()) }))
        })
        .await
    }

    async fn keep_alive(&self, lease: LeaseId) -> Result<KeepAlive, StoreError> {
        match self.renew(lease).await {
            Ok((ttl, _)) if ttl.is_zero() => Ok(KeepAlive::Gone),
            Ok((ttl, keeper)) => {
                self.keepers().insert(lease, keeper);
                Ok(KeepAlive::Renewed { ttl })
            }
            // The library swallows the term of this answer, so a stale member may have given it: ask again.
            Err(StoreError::LeaseNotFound) => match self.time_to_live(lease).await? {
                None => Ok(KeepAlive::Gone),
                Some(_) => {
                    Err(StoreError::Unavailable("a member does not know a lease that lives".to_owned()))
                }
            },
            Err(error) => Err(error),
        }
    }

    async fn time_to_live(&self, lease: LeaseId) -> Result<Option<Duration>, StoreError> {
        let asked = self.call(Retry::Always, |mut client| async move {
            let mut answer = client.lease_time_to_live(lease.0, None).await?;
            // A lease that is due but not yet ended has a time of nothing or less; one that is gone was granted none.
            let left = (answer.granted_ttl() > 0).then(|| seconds(answer.ttl()));
            Ok((answer.take_header(), left))
        });
        match asked.await {
            Err(StoreError::LeaseNotFound) => Ok(None),
            other => other,
        }
    }

    async fn revoke(&self, lease: LeaseId) -> Result<(), StoreError> {
        self.keepers().remove(&lease);
        let asked = self.call(Retry::Always, |mut client| async move {
            let mut answer = client.lease_revoke(lease.0).await?;
            Ok((answer.take_header(), ()))
        });
        match asked.await {
            Err(StoreError::LeaseNotFound) => Ok(()),
            other => other,
        }
    }
}

/// Seconds as etcd counts them; what is negative is nothing.
fn seconds(n: i64) -> Duration {
    Duration::from_secs(u64::try_from(n).unwrap_or(0))
}

fn revision(header: Option<&ResponseHeader>) -> Revision {
    Revision(header.map_or(0, ResponseHeader::revision))
}

fn key_value(kv: &etcd_client::KeyValue) -> KeyValue {
    KeyValue {
        key: kv.key().to_vec(),
        value: kv.value().to_vec(),
        create_revision: Revision(kv.create_revision()),
        mod_revision: Revision(kv.mod_revision()),
        lease: (kv.lease() != 0).then(|| LeaseId(kv.lease())),
    }
}

fn etcd_txn(txn: Txn) -> EtcdTxn {
    let when: Vec<EtcdCompare> = txn
        .when
        .into_iter()
        .map(|compare| match compare {
            Compare::Absent(key) => EtcdCompare::create_revision(key, CompareOp::Equal, 0),
            Compare::ValueIs(key, value) => EtcdCompare::value(key, CompareOp::Equal, value),
            Compare::ModRevisionIs(key, r) => EtcdCompare::mod_revision(key, CompareOp::Equal, r.0),
            Compare::CreateRevisionIs(key, r) => EtcdCompare::create_revision(key, CompareOp::Equal, r.0),
        })
        .collect();
    let then: Vec<TxnOp> = txn
        .then
        .into_iter()
        .map(|write| match write {
            Write::Put(key, value, lease) => {
                let options = lease.map(|lease| PutOptions::new().with_lease(lease.0));
                TxnOp::put(key, value, options)
            }
            Write::Delete(key) => TxnOp::delete(key, Some(DeleteOptions::new())),
        })
        .collect();
    EtcdTxn::new().when(when).and_then(then)
}
