//! A [`Model`] behind the [`Store`] trait, with switches for what goes wrong with a real one.

use std::collections::BTreeSet;
use std::fmt;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use tokio::sync::watch;
use tokio::time::{Instant, sleep_until};

use super::Model;
use crate::clock::Tick;
use crate::ids::{LeaseId, Revision};
use crate::store::{
    KeepAlive, KeyEvent, Lease, Snapshot, Store, StoreError, Txn, TxnOutcome, WatchMessage, WatchStream,
};

/// A quiet watch reports progress this often.
const PROGRESS_EVERY: Duration = Duration::from_secs(1);

/// Where a [`ModelStore`] reads the time.
pub type Clock = Arc<dyn Fn() -> Tick + Send + Sync>;

/// A store in memory. Clones serve the same one. Calls answer at once; watches wait on tokio's timers.
#[derive(Clone)]
pub struct ModelStore {
    served: Arc<Served>,
}

struct Served {
    state: Mutex<State>,
    /// Counts what watches have to look at.
    changed: watch::Sender<u64>,
    clock: Clock,
}

#[derive(Default)]
struct State {
    model: Model,
    unavailable: bool,
    /// Watches of an older generation have ended.
    generation: u64,
    lose_next: bool,
    lost: BTreeSet<Revision>,
}

impl Default for ModelStore {
    fn default() -> ModelStore {
        ModelStore::new(Arc::new(Tick::now))
    }
}

impl ModelStore {
    /// An empty store on `clock`. After moving a clock that does not run by itself, call [`ModelStore::poke`].
    pub fn new(clock: Clock) -> ModelStore {
        let state = Mutex::default();
        ModelStore { served: Arc::new(Served { state, changed: watch::Sender::new(0), clock }) }
    }

    /// Works on the model directly, whatever the switches say; watches see the changes.
    pub fn with<R>(&self, work: impl FnOnce(&mut Model, Tick) -> R) -> R {
        self.served.run(|state, now| work(&mut state.model, now))
    }

    /// Ends the leases that are due now.
    pub fn poke(&self) {
        self.with(Model::expire);
    }

    /// While `unavailable`, every call fails; open watches end.
    pub fn set_unavailable(&self, unavailable: bool) {
        self.served.run(|state, _| {
            state.unavailable = unavailable;
            state.generation += u64::from(unavailable);
        });
    }

    /// Ends all open watches.
    pub fn drop_watches(&self) {
        self.served.run(|state, _| state.generation += 1);
    }

    /// Keeps the changes of the next revision from the watches that are open then.
    pub fn lose_next_event(&self) {
        self.served.run(|state, _| state.lose_next = true);
    }

    fn call<R>(&self, work: impl FnOnce(&mut Model, Tick) -> R) -> Result<R, StoreError> {
        self.served.run(
            |state, now| {
                if state.unavailable { Err(off()) } else { Ok(work(&mut state.model, now)) }
            },
        )
    }
}

fn off() -> StoreError {
    StoreError::Unavailable("the store is switched off".to_owned())
}

impl Served {
    /// Does `work` after ending the leases that are due, and wakes the watches.
    fn run<R>(&self, work: impl FnOnce(&mut State, Tick) -> R) -> R {
        let mut state = self.lock();
        let now = (self.clock)();
        let (revision, generation) = (state.model.revision(), state.generation);
        state.model.expire(now);
        let result = work(&mut state, now);
        if state.model.revision() > revision && state.lose_next {
            state.lose_next = false;
            state.lost.insert(Revision(revision.0 + 1));
        }
        if state.model.revision() > revision || state.generation > generation {
            self.changed.send_modify(|n| *n += 1);
        }
        result
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Store for ModelStore {
    type Watch = ModelWatch;

    async fn snapshot(&self, prefix: &str) -> Result<Snapshot, StoreError> {
        self.call(|model, now| model.snapshot(prefix, now))
    }

    async fn watch(&self, prefix: &str, from: Revision) -> Result<ModelWatch, StoreError> {
        let changed = self.served.changed.subscribe();
        self.served.run(|state, _| {
            if state.unavailable {
                return Err(off());
            }
            Ok(ModelWatch {
                served: Arc::clone(&self.served),
                changed,
                prefix: prefix.to_owned(),
                opened_at: state.model.revision(),
                generation: state.generation,
                next: from,
                progress_at: Instant::now() + PROGRESS_EVERY,
            })
        })
    }

    async fn txn(&self, txn: Txn) -> Result<TxnOutcome, StoreError> {
        self.call(|model, now| model.txn(now, txn))?
    }

    async fn grant(&self, ttl: Duration) -> Result<Lease, StoreError> {
        self.call(|model, now| model.grant(now, ttl))
    }

    async fn keep_alive(&self, lease: LeaseId) -> Result<KeepAlive, StoreError> {
        self.call(|model, now| model.keep_alive(now, lease))
    }

    async fn time_to_live(&self, lease: LeaseId) -> Result<Option<Duration>, StoreError> {
        self.call(|model, now| model.time_to_live(now, lease))
    }

    async fn revoke(&self, lease: LeaseId) -> Result<(), StoreError> {
        self.call(|model, now| model.revoke(now, lease))
    }
}

impl fmt::Debug for ModelStore {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let state = self.served.lock();
        f.debug_struct("ModelStore")
            .field("model", &state.model)
            .field("unavailable", &state.unavailable)
            .finish_non_exhaustive()
    }
}

/// A watch on a [`ModelStore`].
pub struct ModelWatch {
    served: Arc<Served>,
    changed: watch::Receiver<u64>,
    prefix: String,
    opened_at: Revision,
    generation: u64,
    next: Revision,
    progress_at: Instant,
}

impl ModelWatch {
    /// What is to be delivered now, if anything, and when the next lease is due.
    fn look(&mut self) -> Result<(Vec<KeyEvent>, Option<Duration>), StoreError> {
        let opened_at = self.opened_at;
        let (events, revision, expiry) = self.served.run(|state, now| {
            if state.generation > self.generation {
                return Err(StoreError::Unavailable("the watch ended".to_owned()));
            }
            let mut events = state.model.events_since(&self.prefix, self.next)?;
            events.retain(|e| e.revision() <= opened_at || !state.lost.contains(&e.revision()));
            Ok((events, state.model.revision(), state.model.next_expiry().map(|at| now.until(at))))
        })?;
        self.next = self.next.max(Revision(revision.0 + 1));
        Ok((events, expiry))
    }
}

impl WatchStream for ModelWatch {
    async fn next(&mut self) -> Result<WatchMessage, StoreError> {
        loop {
            self.changed.mark_unchanged();
            let (events, expiry) = self.look()?;
            if !events.is_empty() {
                self.progress_at = Instant::now() + PROGRESS_EVERY;
                return Ok(WatchMessage::Events(events));
            }
            if Instant::now() >= self.progress_at {
                self.progress_at = Instant::now() + PROGRESS_EVERY;
                return Ok(WatchMessage::Progress(Revision(self.next.0 - 1)));
            }
            // A due lease ends when somebody looks: the millisecond is for clocks coarser than timers.
            let wake_at = expiry.map(|left| Instant::now() + left + Duration::from_millis(1));
            let wake_at = wake_at.map_or(self.progress_at, |at| at.min(self.progress_at));
            tokio::select! {
                // The sender lives in `served`.
                _ = self.changed.changed() => {}
                () = sleep_until(wake_at) => {}
            }
        }
    }
}
