//! The loop of a follower: read, watch, read again, and never believe that silence means no change.

use std::collections::BTreeMap;
use std::convert::Infallible;
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use tokio::sync::watch;
use tokio::time::{Instant, sleep, sleep_until};
use tracing::{debug, info, warn};

use super::{Contact, FollowOptions, LeaderLease, Observation, Shared};
use crate::clock::Tick;
use crate::fold;
use crate::ids::{Epoch, LeaseId, Revision};
use crate::keyspace::Keyspace;
use crate::store::{KeyEvent, Snapshot, Store, StoreError, WatchMessage, WatchStream};
use crate::view::ClusterView;

/// How long a watch may lag behind a read before it counts as having lost something.
const LAG_ALLOWED: Duration = Duration::from_secs(1);

pub(super) struct Task<S> {
    store: Arc<S>,
    space: Keyspace,
    options: FollowOptions,
    publish: watch::Sender<Observation>,
    shared: Arc<Shared>,
    base: Base,
    /// Changes the watch told since the last read was taken in; those after it are not in `base`.
    tail: Vec<KeyEvent>,
    debts: Debts,
    /// Since when reads show revisions older than `base`.
    backwards: Option<Instant>,
    /// Unreadable keys that were logged, with the reason.
    told: BTreeMap<String, String>,
}

/// A store whose revisions went back is believed to have been restored from a backup after this long; until
/// then it may be a member that answers from the past.
const RESTORED_AFTER: Duration = Duration::from_secs(10);

/// What the last read showed: every key with the revision that changed it last.
#[derive(Default)]
struct Base {
    era: u64,
    revision: Revision,
    keys: BTreeMap<Vec<u8>, Revision>,
}

/// Changes that a read showed and the watch has not told yet.
#[derive(Default)]
struct Debts {
    /// The least revision of the change to come, by key.
    keys: BTreeMap<Vec<u8>, Revision>,
    due: Option<Instant>,
}

/// What is asked beside the watch.
type Question = Pin<Box<dyn Future<Output = (Tick, Result<Answer, StoreError>)> + Send>>;

enum Answer {
    Keys(Snapshot),
    /// How long a lease lives from when it was asked about; `None` when it is gone.
    Lease(LeaseId, Option<Duration>),
}

/// Why following stopped: since when, and what happened.
type Lost = (Tick, StoreError);

/// What to do with a watch after a read.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Trust {
    Keep,
    Reopen,
}

impl<S: Store> Task<S> {
    pub(super) fn new(
        store: Arc<S>,
        space: Keyspace,
        options: FollowOptions,
        publish: watch::Sender<Observation>,
        shared: Arc<Shared>,
    ) -> Task<S> {
        Task {
            store,
            space,
            options,
            publish,
            shared,
            base: Base::default(),
            tail: Vec::new(),
            debts: Debts::default(),
            backwards: None,
            told: BTreeMap::new(),
        }
    }

    pub(super) async fn run(mut self) -> Infallible {
        let mut pause = Duration::ZERO;
        loop {
            sleep(pause).await;
            let began = Instant::now();
            let Err((since, error)) = self.follow().await;
            match error {
                StoreError::Compacted(revision) => {
                    info!(%revision, "the watch fell behind the history; reading again");
                }
                error => self.down(since, &error),
            }
            // Following that lasted is taken up again at once; failures in a row wait longer and longer.
            pause = if began.elapsed() > self.options.retry_max {
                Duration::ZERO
            } else {
                (pause * 2).clamp(self.options.retry_first, self.options.retry_max)
            };
        }
    }

    fn down(&self, since: Tick, error: &StoreError) {
        count(&self.shared.failures, 1);
        self.publish.send_if_modified(|observation| match &mut observation.contact {
            Contact::Up => {
                warn!(%error, "the store does not answer");
                observation.contact = Contact::Down { since, why: error.to_string() };
                true
            }
            Contact::Down { why, .. } => {
                debug!(%error, "the store still does not answer");
                *why = error.to_string();
                false
            }
        });
    }

    /// Reads, watches and reads again until something fails.
    async fn follow(&mut self) -> Result<Infallible, Lost> {
        let (asked_at, answer) = self.keys_after(Duration::ZERO).await;
        self.take_in(asked_at, answer)?;
        loop {
            self.debts = Debts::default();
            // Changes told by the stream before this one come again.
            self.tail.clear();
            let asked_at = Tick::now();
            let next = Revision(self.base.revision.0 + 1);
            let opened = self.store.watch(self.space.prefix(), next).await;
            let mut stream = opened.map_err(|e| (asked_at, e))?;
            count(&self.shared.watches, 1);
            self.watch(&mut stream).await?;
        }
    }

    /// Folds what the stream tells until a read shows that it cannot be trusted.
    async fn watch(&mut self, stream: &mut S::Watch) -> Result<(), Lost> {
        let mut question = self.next_question(self.leader_lease());
        loop {
            let due = self.debts.due;
            tokio::select! {
                message = stream.next() => match message.map_err(|e| (Tick::now(), e))? {
                    WatchMessage::Events(events) => self.fold(events),
                    // The revision of a progress message may run ahead of changes that are still under way
                    // (etcd issue 15220), so it is no proof of anything but that the stream lives.
                    WatchMessage::Progress(_) => {}
                },
                (asked_at, answer) = &mut question => {
                    let was_keys = matches!(answer, Ok(Answer::Keys(_)));
                    if self.take_in(asked_at, answer)? == Trust::Reopen {
                        return Ok(());
                    }
                    question = self.next_question(self.leader_lease().filter(|_| was_keys));
                }
                () = sleep_until(due.unwrap_or_else(Instant::now)), if due.is_some() => {
                    count(&self.shared.missed, 1);
                    let lost: Vec<_> = self.debts.keys.keys().map(|k| String::from_utf8_lossy(k)).collect();
                    warn!(keys = ?lost, "the watch did not tell of changes that a read showed; watching anew");
                    return Ok(());
                }
            }
        }
    }

    /// The leader's lease, where its life is to be asked about.
    fn leader_lease(&self) -> Option<LeaseId> {
        let observation = self.publish.borrow();
        let leader = observation.view.as_ref()?.leader.as_ref()?;
        leader.lease.filter(|_| self.options.ask_leader_lease)
    }

    fn next_question(&self, lease: Option<LeaseId>) -> Question {
        let Some(lease) = lease else { return self.keys_after(self.options.reread_every) };
        let store = Arc::clone(&self.store);
        Box::pin(async move {
            let asked_at = Tick::now();
            (asked_at, store.time_to_live(lease).await.map(|left| Answer::Lease(lease, left)))
        })
    }

    /// Reads all keys after a rest, which [`super::Follower::refresh`] cuts short.
    fn keys_after(&self, rest: Duration) -> Question {
        let (store, shared, prefix) =
            (Arc::clone(&self.store), Arc::clone(&self.shared), self.space.prefix().to_owned());
        Box::pin(async move {
            tokio::select! {
                () = sleep(rest) => {}
                () = shared.hurry.notified() => {}
            }
            let asked_at = Tick::now();
            (asked_at, store.snapshot(&prefix).await.map(Answer::Keys))
        })
    }

    fn take_in(&mut self, asked_at: Tick, answer: Result<Answer, StoreError>) -> Result<Trust, Lost> {
        match answer.map_err(|e| (asked_at, e))? {
            Answer::Keys(snapshot) => {
                count(&self.shared.reads, 1);
                let restored = self.is_restored(&snapshot).map_err(|e| (asked_at, e))?;
                self.confirm(&snapshot, restored);
                Ok(if restored { Trust::Reopen } else { Trust::Keep })
            }
            Answer::Lease(lease, left) => {
                self.lease_answered(lease, left.map(|left| asked_at + left));
                Ok(Trust::Keep)
            }
        }
    }

    fn fold(&mut self, events: Vec<KeyEvent>) {
        count(&self.shared.events, u64::try_from(events.len()).unwrap_or(0));
        events.iter().for_each(|event| self.debts.pay(event));
        let current = self.publish.borrow().view.clone();
        let Some(current) = current else { return };
        let mut view = ClusterView::clone(&current);
        fold::apply_all(&mut view, &self.space, &events);
        self.tail.extend(events);
        if view == *current {
            return;
        }
        if view.leader != current.leader && self.options.ask_leader_lease {
            self.shared.hurry.notify_one();
        }
        self.tell_malformed(&view);
        self.publish.send_modify(|observation| {
            observation.view = Some(Arc::new(view));
            forget_foreign_lease(observation);
        });
    }

    /// Whether the store's revisions are not those of the last read any more; an error while that is doubtful.
    fn is_restored(&mut self, snapshot: &Snapshot) -> Result<bool, StoreError> {
        let (base, now) = (self.base.revision, snapshot.revision);
        if base == Revision(0) || (snapshot.era == self.base.era && now >= base) {
            self.backwards = None;
            return Ok(false);
        }
        let since = *self.backwards.get_or_insert_with(Instant::now);
        if snapshot.era == self.base.era && since.elapsed() < RESTORED_AFTER {
            return Err(StoreError::Unavailable(format!(
                "it answered from revision {now}, older than {base}"
            )));
        }
        self.backwards = None;
        Ok(true)
    }

    /// Takes in what a linearizable read showed. It and the watch may each be ahead of the other.
    fn confirm(&mut self, snapshot: &Snapshot, restored: bool) {
        let before = self.publish.borrow().view.clone();
        if restored {
            warn!(before = %self.base.revision, now = %snapshot.revision,
                "the store's history is another one now: it was replaced or restored from a backup");
            self.tail.clear();
        } else {
            self.debts.note(&self.base, &self.tail, snapshot);
            self.tail.retain(|event| event.revision() > snapshot.revision);
        }
        let keys = snapshot.keys.iter().map(|kv| (kv.key.clone(), kv.mod_revision)).collect();
        self.base = Base { era: snapshot.era, revision: snapshot.revision, keys };

        let mut past = before.as_deref().cloned();
        if let Some(past) = past.as_mut().filter(|_| restored) {
            past.newest_epoch = Epoch(0);
        }
        let mut view = fold::from_snapshot(&self.space, snapshot, past.as_ref());
        fold::apply_all(&mut view, &self.space, &self.tail);
        self.tell_malformed(&view);
        self.publish.send_modify(|observation| {
            if observation.view.as_deref() != Some(&view) {
                observation.view = Some(Arc::new(view));
                forget_foreign_lease(observation);
            }
            observation.confirmed_at = observation.confirmed_at.max(snapshot.asked_at);
            if observation.contact != Contact::Up {
                info!(revision = %snapshot.revision, "the store answers");
                observation.contact = Contact::Up;
            }
        });
    }

    fn lease_answered(&self, lease: LeaseId, lives_until: Option<Tick>) {
        self.publish.send_if_modified(|observation| {
            let known = lives_until.map(|lives_until| LeaderLease { lease, lives_until });
            let changed = observation.leader_lease != known;
            observation.leader_lease = known;
            forget_foreign_lease(observation);
            changed
        });
    }

    /// Logs each unreadable value once.
    fn tell_malformed(&mut self, view: &ClusterView) {
        self.told.retain(|key, _| view.malformed.contains_key(key));
        for (key, why) in &view.malformed {
            if self.told.get(key) != Some(why) {
                warn!(key, why, "a value in the store cannot be read and is left out");
                self.told.insert(key.clone(), why.clone());
            }
        }
    }
}

impl Debts {
    /// Notes what `snapshot` shows and neither the read before it nor the watch has told.
    fn note(&mut self, base: &Base, told: &[KeyEvent], snapshot: &Snapshot) {
        let mut known = base.keys.clone();
        for event in told.iter().filter(|e| e.revision() > base.revision && e.revision() <= snapshot.revision)
        {
            match event {
                KeyEvent::Put(kv) => known.insert(kv.key.clone(), kv.mod_revision),
                KeyEvent::Delete { key, .. } => known.remove(key),
            };
        }
        for kv in &snapshot.keys {
            if known.remove(&kv.key) != Some(kv.mod_revision) {
                self.keys.insert(kv.key.clone(), kv.mod_revision);
            }
        }
        // What is left was deleted.
        for (key, revision) in known {
            self.keys.insert(key, Revision(revision.0 + 1));
        }
        self.settle();
    }

    fn pay(&mut self, event: &KeyEvent) {
        if self.keys.get(event.key()).is_some_and(|revision| event.revision() >= *revision) {
            self.keys.remove(event.key());
            self.settle();
        }
    }

    fn settle(&mut self) {
        if self.keys.is_empty() {
            self.due = None;
        } else {
            self.due.get_or_insert_with(|| Instant::now() + LAG_ALLOWED);
        }
    }
}

/// A lease that is not the leader's says nothing about the leader.
fn forget_foreign_lease(observation: &mut Observation) {
    let leads = observation.view.as_ref().and_then(|v| v.leader.as_ref()).and_then(|l| l.lease);
    if observation.leader_lease.is_some_and(|known| Some(known.lease) != leads) {
        observation.leader_lease = None;
    }
}

fn count(counter: &AtomicU64, by: u64) {
    counter.fetch_add(by, Ordering::Relaxed);
}
