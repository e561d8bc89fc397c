//! A client of a [`Model`], with switches for what goes wrong on the way.

use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use tokio::sync::watch;
use tokio::time::{Instant, sleep, timeout};

use super::Model;
use crate::clock::Tick;
use crate::ids::{LeaseId, Revision};
use crate::store::{
    KeepAlive, Lease, Snapshot, Store, StoreError, Txn, TxnOutcome, WatchMessage, WatchStream,
};

/// A quiet watch tells so this often.
const PROGRESS_EVERY: Duration = Duration::from_secs(1);

/// How often due leases are looked for, as in etcd.
const EXPIRY_EVERY: Duration = Duration::from_millis(500);

type Clock = Arc<dyn Fn() -> Tick + Send + Sync>;

/// A client of one model. Clones are the same client; [`ModelStore::another_client`] is one that shares the
/// store but not the faults.
#[derive(Clone)]
pub struct ModelStore {
    server: Arc<Server>,
    link: Arc<Link>,
}

struct Server {
    model: Mutex<Model>,
    clock: Clock,
    /// Told after every change.
    changed: watch::Sender<()>,
}

/// What lies between one client and the store.
#[derive(Default)]
struct Link {
    down: AtomicBool,
    /// Watches opened before the last change of this number are dead.
    dropped: AtomicU64,
    lose: AtomicU64,
    delay_ms: AtomicU64,
}

impl Default for ModelStore {
    fn default() -> ModelStore {
        ModelStore::new()
    }
}

impl ModelStore {
    /// An empty store whose time is tokio's, so that it stands still while a test has it paused.
    pub fn new() -> ModelStore {
        let (start, began) = (Tick::now(), Instant::now());
        ModelStore::with_clock(Model::new(), move || start + began.elapsed())
    }

    /// A store with a time of its own.
    pub fn with_clock(model: Model, clock: impl Fn() -> Tick + Send + Sync + 'static) -> ModelStore {
        let server =
            Server { model: Mutex::new(model), clock: Arc::new(clock), changed: watch::Sender::new(()) };
        ModelStore { server: Arc::new(server), link: Arc::default() }
    }

    /// Another client of the same store, without faults.
    #[must_use]
    pub fn another_client(&self) -> ModelStore {
        ModelStore { server: Arc::clone(&self.server), link: Arc::default() }
    }

    /// Changes the store behind the back of its clients; watches tell of it.
    pub fn with_model<T>(&self, change: impl FnOnce(&mut Model, Tick) -> T) -> T {
        let now = (self.server.clock)();
        let result = change(&mut self.server.lock(), now);
        self.server.changed.send_replace(());
        result
    }

    /// Whether calls are answered. While not, all fail at once and watches end.
    pub fn set_available(&self, available: bool) {
        self.link.down.store(!available, Ordering::SeqCst);
        self.server.changed.send_replace(());
    }

    /// Ends the watches that are open.
    pub fn drop_watches(&self) {
        self.link.dropped.fetch_add(1, Ordering::SeqCst);
        self.server.changed.send_replace(());
    }

    /// The next event that a watch of this client should deliver is not delivered.
    pub fn lose_next_event(&self) {
        self.link.lose.fetch_add(1, Ordering::SeqCst);
    }

    /// Every call but the waiting of a watch takes this long from now on.
    pub fn set_delay(&self, delay: Duration) {
        self.link.delay_ms.store(u64::try_from(delay.as_millis()).unwrap_or(u64::MAX), Ordering::SeqCst);
    }

    async fn ask<T>(&self, call: impl FnOnce(&mut Model, Tick) -> T) -> Result<T, StoreError> {
        self.link.check()?;
        let delay = Duration::from_millis(self.link.delay_ms.load(Ordering::SeqCst));
        if !delay.is_zero() {
            sleep(delay).await;
        }
        self.call(call)
    }

    /// Runs `call` on the store after the leases that are due have ended.
    fn call<T>(&self, call: impl FnOnce(&mut Model, Tick) -> T) -> Result<T, StoreError> {
        self.link.check()?;
        let now = (self.server.clock)();
        let mut model = self.server.lock();
        let before = model.revision();
        model.expire(now);
        let result = call(&mut model, now);
        if model.revision() != before {
            self.server.changed.send_replace(());
        }
        Ok(result)
    }
}

impl Server {
    fn lock(&self) -> MutexGuard<'_, Model> {
        self.model.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Link {
    fn check(&self) -> Result<(), StoreError> {
        if self.down.load(Ordering::SeqCst) {
            return Err(StoreError::Unavailable("the model is switched off".to_owned()));
        }
        Ok(())
    }
}

/// A watch on the model.
pub struct ModelWatch {
    store: ModelStore,
    prefix: String,
    next: Revision,
    dropped: u64,
    changed: watch::Receiver<()>,
}

impl ModelWatch {
    fn take(&mut self) -> Result<Option<WatchMessage>, StoreError> {
        if self.store.link.dropped.load(Ordering::SeqCst) != self.dropped {
            return Err(StoreError::Unavailable("the stream was dropped".to_owned()));
        }
        let (prefix, next) = (&self.prefix, self.next);
        let (events, revision) = self.store.call(|m, _| (m.events_since(prefix, next), m.revision()))?;
        let mut events = events?;
        self.next = Revision(revision.0 + 1);
        let lose = &self.store.link.lose;
        while !events.is_empty() && lose.load(Ordering::SeqCst) > 0 {
            lose.fetch_sub(1, Ordering::SeqCst);
            events.remove(0);
        }
        Ok((!events.is_empty()).then_some(WatchMessage::Events(events)))
    }
}

impl WatchStream for ModelWatch {
    async fn next(&mut self) -> Result<WatchMessage, StoreError> {
        let quiet_until = Instant::now() + PROGRESS_EVERY;
        loop {
            self.changed.mark_unchanged();
            if let Some(message) = self.take()? {
                return Ok(message);
            }
            if Instant::now() >= quiet_until {
                return Ok(WatchMessage::Progress(Revision(self.next.0 - 1)));
            }
            // The sender lives in the store this holds; a timeout only means: look for due leases.
            let _ = timeout(EXPIRY_EVERY, self.changed.changed()).await;
        }
    }
}

impl Store for ModelStore {
    type Watch = ModelWatch;

    async fn snapshot(&self, prefix: &str) -> Result<Snapshot, StoreError> {
        let asked_at = (self.server.clock)();
        self.ask(|m, _| m.snapshot(prefix, asked_at)).await
    }

    async fn watch(&self, prefix: &str, from: Revision) -> Result<ModelWatch, StoreError> {
        self.ask(|m, _| m.events_since(prefix, from).map(drop)).await??;
        Ok(ModelWatch {
            store: self.clone(),
            prefix: prefix.to_owned(),
            next: from,
            dropped: self.link.dropped.load(Ordering::SeqCst),
            changed: self.server.changed.subscribe(),
        })
    }

    async fn txn(&self, txn: Txn) -> Result<TxnOutcome, StoreError> {
        self.ask(|m, _| m.txn(&txn)).await?
    }

    async fn grant(&self, ttl: Duration) -> Result<Lease, StoreError> {
        self.ask(|m, now| m.grant(ttl, now)).await
    }

    async fn keep_alive(&self, lease: LeaseId) -> Result<KeepAlive, StoreError> {
        self.ask(|m, now| m.keep_alive(lease, now)).await
    }

    async fn time_to_live(&self, lease: LeaseId) -> Result<Option<Duration>, StoreError> {
        self.ask(|m, now| m.time_to_live(lease, now)).await
    }

    async fn revoke(&self, lease: LeaseId) -> Result<(), StoreError> {
        self.ask(|m, _| m.revoke(lease)).await.map(drop)
    }
}
