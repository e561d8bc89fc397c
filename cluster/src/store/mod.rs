//! What the rest of pgvane asks of the store, whichever store it is.
//!
//! Keys are full paths ([`crate::keyspace::Keyspace::path`]). The real one is [`etcd`], the one for tests
//! `model`; both count revisions, leases and compactions the way etcd 3 does.

use std::future::Future;
use std::time::Duration;

use crate::clock::Tick;
use crate::ids::{LeaseId, Revision};

#[cfg(feature = "etcd")]
pub mod etcd;
#[cfg(feature = "model")]
pub mod model;

/// One key with its value and its versions.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct KeyValue {
    /// Full path.
    pub key: Vec<u8>,
    /// The value.
    pub value: Vec<u8>,
    /// The revision that created the key.
    pub create_revision: Revision,
    /// The revision that last changed it.
    pub mod_revision: Revision,
    /// The lease it hangs on.
    pub lease: Option<LeaseId>,
}

/// One change of one key.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum KeyEvent {
    /// Created or overwritten.
    Put(KeyValue),
    /// Deleted, or gone with its lease.
    Delete {
        /// Full path.
        key: Vec<u8>,
        /// The revision of the deletion.
        revision: Revision,
    },
}

impl KeyEvent {
    /// The revision of the change.
    pub fn revision(&self) -> Revision {
        match self {
            KeyEvent::Put(kv) => kv.mod_revision,
            KeyEvent::Delete { revision, .. } => *revision,
        }
    }

    /// The full path of the key that changed.
    pub fn key(&self) -> &[u8] {
        match self {
            KeyEvent::Put(kv) => &kv.key,
            KeyEvent::Delete { key, .. } => key,
        }
    }
}

/// All keys under a prefix at one revision, read linearizably.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Snapshot {
    /// The store's revision when it was read.
    pub revision: Revision,
    /// The keys, in key order.
    pub keys: Vec<KeyValue>,
    /// When the request was *sent*: what the snapshot says was true no earlier than this.
    pub asked_at: Tick,
    /// Which history the revisions count in: another number than before means that the store was replaced or
    /// restored from a backup, and its revisions cannot be compared with earlier ones.
    pub era: u64,
}

/// What a watch delivers.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum WatchMessage {
    /// Changes in revision order, all of one response; never empty.
    Events(Vec<KeyEvent>),
    /// Nothing changed up to this revision.
    Progress(Revision),
}

/// A condition of a transaction.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Compare {
    /// The key does not exist.
    Absent(String),
    /// The key exists with this value.
    ValueIs(String, Vec<u8>),
    /// The key was last changed at this revision.
    ModRevisionIs(String, Revision),
    /// The key was created at this revision.
    CreateRevisionIs(String, Revision),
}

/// A write of a transaction.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Write {
    /// Puts a value, under a lease or none.
    Put(String, Vec<u8>, Option<LeaseId>),
    /// Deletes a key.
    Delete(String),
}

/// All comparisons hold: all writes happen, at one revision. Otherwise nothing does.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct Txn {
    /// All must hold; none always holds.
    pub when: Vec<Compare>,
    /// Done when they do.
    pub then: Vec<Write>,
}

impl Txn {
    /// A plain put.
    pub fn put(key: String, value: Vec<u8>, lease: Option<LeaseId>) -> Txn {
        Txn { when: vec![], then: vec![Write::Put(key, value, lease)] }
    }
}

/// How a transaction ended.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct TxnOutcome {
    /// Whether the comparisons held and the writes were done.
    pub succeeded: bool,
    /// The store's revision after it: of the writes, when they were done.
    pub revision: Revision,
}

/// A lease as granted.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Lease {
    /// Its number.
    pub id: LeaseId,
    /// The time the store granted, which may be longer than asked.
    pub ttl: Duration,
}

/// How the store answered a keep-alive.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum KeepAlive {
    /// The lease lives for another `ttl`, counted from when the store handled the request.
    Renewed {
        /// The time granted.
        ttl: Duration,
    },
    /// The store does not know the lease: it has expired or was revoked. This is proof, not a guess.
    Gone,
}

/// Why the store could not do what was asked, sorted by what the caller may conclude.
#[derive(Clone, PartialEq, Eq, Debug, thiserror::Error)]
pub enum StoreError {
    /// No answer, or none that proves anything: a write may or may not have happened.
    #[error("the store did not answer: {0}")]
    Unavailable(String),
    /// The lease of a put does not exist; nothing was written.
    #[error("the lease is gone")]
    LeaseNotFound,
    /// The watch asked for revisions that were compacted away; read again from a snapshot.
    #[error("revisions up to {0} were compacted away")]
    Compacted(Revision),
    /// An answer came from a server with an older raft term than one seen before: it is cut off or stale.
    #[error("an etcd member answered from raft term {got}, older than {seen}")]
    StaleMember {
        /// The term of the answer.
        got: u64,
        /// The highest term seen.
        seen: u64,
    },
    /// The store reads, renews and deletes, and takes no new value until somebody makes room; nothing was written.
    #[error("the store takes no writes: {0}")]
    Full(String),
    /// User, password, token or certificate was refused.
    #[error("the store refused us: {0}")]
    Denied(String),
}

/// An ordered stream of changes. Dropping it ends the watch.
pub trait WatchStream: Send {
    /// The next message. An error ends the stream; the caller reads a snapshot and watches again. Safe to
    /// cancel: a message is never lost by dropping the future.
    fn next(&mut self) -> impl Future<Output = Result<WatchMessage, StoreError>> + Send;
}

/// A store with etcd's meaning. Every call is bounded in time by the implementation; none retries a write.
pub trait Store: Send + Sync + 'static {
    /// The stream that [`Store::watch`] opens.
    type Watch: WatchStream + 'static;

    /// All keys under `prefix`, read linearizably.
    fn snapshot(&self, prefix: &str) -> impl Future<Output = Result<Snapshot, StoreError>> + Send;

    /// Changes under `prefix` from `from` on (inclusive), with progress messages while nothing changes.
    /// That `from` was compacted away may be told by this call or by the first message.
    fn watch(
        &self,
        prefix: &str,
        from: Revision,
    ) -> impl Future<Output = Result<Self::Watch, StoreError>> + Send;

    /// Runs a transaction once.
    fn txn(&self, txn: Txn) -> impl Future<Output = Result<TxnOutcome, StoreError>> + Send;

    /// Grants a lease.
    fn grant(&self, ttl: Duration) -> impl Future<Output = Result<Lease, StoreError>> + Send;

    /// Renews a lease once.
    fn keep_alive(&self, lease: LeaseId) -> impl Future<Output = Result<KeepAlive, StoreError>> + Send;

    /// Time the lease still has, as the store sees it; `None` when it is gone.
    fn time_to_live(
        &self,
        lease: LeaseId,
    ) -> impl Future<Output = Result<Option<Duration>, StoreError>> + Send;

    /// Ends a lease and deletes its keys. A lease that is gone already is no error.
    fn revoke(&self, lease: LeaseId) -> impl Future<Output = Result<(), StoreError>> + Send;
}
