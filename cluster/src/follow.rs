//! Keeps one [`ClusterView`] current: snapshot, watch, fold, re-read; one task per cluster and process.
//!
//! A watch alone is not safe (lost deletes, stale members, streams that hang), so the view is confirmed by a
//! linearizable read every few seconds and after every lost stream, and carries the time of that proof.
//! Who reads an [`Observation`] decides what an old proof means; nothing here forgets the last view.

use std::collections::BTreeMap;
use std::convert::Infallible;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use tokio::sync::{Notify, watch};
use tokio::time::{Instant, sleep, sleep_until};
use tracing::{debug, info, warn};

use crate::clock::Tick;
use crate::fold;
use crate::ids::{LeaseId, Revision};
use crate::keyspace::Keyspace;
use crate::store::{Snapshot, Store, StoreError, WatchMessage, WatchStream};
use crate::view::ClusterView;

/// How closely to follow.
#[derive(Clone, Debug)]
pub struct FollowOptions {
    /// Time between linearizable re-reads while the watch is quiet.
    pub reread_every: Duration,
    /// First pause after a failure; doubles up to `retry_max`.
    pub retry_first: Duration,
    /// Longest pause between attempts.
    pub retry_max: Duration,
    /// Whether each confirmation also asks how long the leader's lease lives.
    pub ask_leader_lease: bool,
}

impl Default for FollowOptions {
    fn default() -> FollowOptions {
        FollowOptions {
            reread_every: Duration::from_secs(2),
            retry_first: Duration::from_millis(50),
            retry_max: Duration::from_secs(1),
            ask_leader_lease: true,
        }
    }
}

/// How long the leader's lease is known to live.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct LeaderLease {
    /// The lease asked about.
    pub lease: LeaseId,
    /// It lives at least until here: the time the question was sent plus the answer.
    pub lives_until: Tick,
}

/// Whether the store answers.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Contact {
    /// The last thing asked was answered.
    Up,
    /// It has not answered since `since`.
    Down {
        /// When the first unanswered question was sent.
        since: Tick,
        /// What the last attempt ended with.
        why: String,
    },
}

/// What is known of the cluster and how fresh it is.
#[derive(Clone, Debug)]
pub struct Observation {
    /// The last view; `None` until the store answered for the first time.
    pub view: Option<Arc<ClusterView>>,
    /// The view is proven true at this time or later: when the last confirming question was *sent*.
    pub confirmed_at: Tick,
    /// Whether the store answers now.
    pub contact: Contact,
    /// The leader's lease, where asked for and known; always of the leader in `view`.
    pub leader_lease: Option<LeaderLease>,
}

/// Counters of one follower, for metrics.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct FollowStats {
    /// Snapshots read.
    pub reads: u64,
    /// Watches opened.
    pub watches: u64,
    /// Changes folded.
    pub events: u64,
    /// Times a re-read showed what the watch had not told.
    pub missed: u64,
    /// Questions that failed.
    pub failures: u64,
}

/// A handle on a follower: what it sees, what it counted, and a way to hurry it.
#[derive(Clone, Debug)]
pub struct Follower {
    observation: watch::Receiver<Observation>,
    shared: Arc<Shared>,
}

#[derive(Debug, Default)]
struct Shared {
    hurry: Notify,
    reads: AtomicU64,
    watches: AtomicU64,
    events: AtomicU64,
    missed: AtomicU64,
    failures: AtomicU64,
}

impl Follower {
    /// What is known now, and a way to wait for changes.
    pub fn observation(&self) -> watch::Receiver<Observation> {
        self.observation.clone()
    }

    /// Asks for a linearizable read at once.
    pub fn refresh(&self) {
        self.shared.hurry.notify_one();
    }

    /// What was counted since the start.
    pub fn stats(&self) -> FollowStats {
        let read = |counter: &AtomicU64| counter.load(Ordering::Relaxed);
        FollowStats {
            reads: read(&self.shared.reads),
            watches: read(&self.shared.watches),
            events: read(&self.shared.events),
            missed: read(&self.shared.missed),
            failures: read(&self.shared.failures),
        }
    }
}

/// A follower of the cluster in `space`, and the task that drives it: its owner spawns the task and ends it by
/// dropping it. The task never ends by itself.
pub fn follow<S: Store>(
    store: Arc<S>,
    space: Keyspace,
    options: FollowOptions,
) -> (Follower, impl Future<Output = Infallible> + Send) {
    let contact = Contact::Down { since: Tick::now(), why: "not asked yet".to_owned() };
    let first = Observation { view: None, confirmed_at: Tick::ZERO, contact, leader_lease: None };
    let (publish, observation) = watch::channel(first);
    let shared = Arc::new(Shared::default());
    let task = Task { store, space, options, publish, shared: Arc::clone(&shared), told: Mutex::default() };
    (Follower { observation, shared }, async move { task.run().await })
}

struct Task<S> {
    store: Arc<S>,
    space: Keyspace,
    options: FollowOptions,
    publish: watch::Sender<Observation>,
    shared: Arc<Shared>,
    /// Malformed keys that were logged, with the reason.
    told: Mutex<BTreeMap<String, String>>,
}

impl<S: Store> Task<S> {
    async fn run(&self) -> Infallible {
        let mut pause = Duration::ZERO;
        loop {
            sleep(pause).await;
            let asked_at = Tick::now();
            let before = Instant::now();
            let Err(error) = self.follow_once().await;
            self.down(asked_at, before, &error);
            // A stream that lasted is followed by an immediate attempt; failures in a row wait longer.
            pause = if before.elapsed() > self.options.retry_max {
                Duration::ZERO
            } else {
                (pause * 2).clamp(self.options.retry_first, self.options.retry_max)
            };
        }
    }

    fn down(&self, asked_at: Tick, _since: Instant, error: &StoreError) {
        self.shared.failures.fetch_add(1, Ordering::Relaxed);
        self.publish.send_if_modified(|observation| match &mut observation.contact {
            Contact::Up => {
                warn!(%error, "the store does not answer");
                observation.contact =
                    Contact::Down { since: asked_at.max(observation.confirmed_at), why: error.to_string() };
                true
            }
            Contact::Down { why, .. } => {
                debug!(%error, "the store still does not answer");
                *why = error.to_string();
                false
            }
        });
    }

    /// Reads, watches and re-reads until something fails.
    async fn follow_once(&self) -> Result<Infallible, StoreError> {
        let snapshot = self.read().await?;
        let mut next = Revision(snapshot.revision.0 + 1);
        self.confirm(&snapshot, false);
        self.confirm_lease().await?;
        loop {
            let mut stream = self.store.watch(self.space.prefix(), next).await?;
            self.shared.watches.fetch_add(1, Ordering::Relaxed);
            next = self.watch(&mut stream).await?;
        }
    }

    async fn read(&self) -> Result<Snapshot, StoreError> {
        let snapshot = self.store.snapshot(self.space.prefix()).await?;
        self.shared.reads.fetch_add(1, Ordering::Relaxed);
        Ok(snapshot)
    }

    /// Folds what the watch delivers. Returns when a re-read showed that the watch missed something, with the
    /// revision to watch from.
    async fn watch(&self, stream: &mut S::Watch) -> Result<Revision, StoreError> {
        let mut read_at = Instant::now() + self.options.reread_every;
        loop {
            let at = read_at;
            let read = async {
                tokio::select! {
                    () = sleep_until(at) => {}
                    () = self.shared.hurry.notified() => {}
                }
                let snapshot = self.read().await?;
                Ok::<_, StoreError>(snapshot)
            };
            tokio::pin!(read);
            let snapshot = loop {
                tokio::select! {
                    biased;
                    message = stream.next() => match message? {
                        WatchMessage::Events(events) => self.fold(&events),
                        // The revision of a progress message may run ahead of events still under way
                        // (etcd issue 15220): it proves that the stream lives, nothing else.
                        WatchMessage::Progress(_) => {}
                    },
                    snapshot = &mut read => break snapshot?,
                }
            };
            read_at = Instant::now() + self.options.reread_every;
            if self.confirm(&snapshot, true) {
                return Ok(Revision(snapshot.revision.0 + 1));
            }
            self.confirm_lease().await?;
        }
    }

    fn fold(&self, events: &[crate::store::KeyEvent]) {
        let count = u64::try_from(events.len()).unwrap_or(0);
        self.shared.events.fetch_add(count, Ordering::Relaxed);
        self.publish.send_if_modified(|observation| {
            let Some(current) = &observation.view else { return false };
            let mut view = ClusterView::clone(current);
            fold::apply_all(&mut view, &self.space, events);
            let changed = view != **current;
            if changed {
                self.tell_malformed(&view);
                if self.options.ask_leader_lease && view.leader != current.leader {
                    self.shared.hurry.notify_one();
                }
                observation.view = Some(Arc::new(view));
                forget_foreign_lease(observation);
            }
            changed
        });
    }

    /// Takes in a linearizable read. Answers whether it showed what the watch had not told although it had
    /// the time to: then the watch is not to be trusted any further.
    fn confirm(&self, snapshot: &Snapshot, watching: bool) -> bool {
        let mut missed = false;
        self.publish.send_if_modified(|observation| {
            let before = observation.view.clone();
            // The watch may have run ahead of a read that was under way.
            let behind = before.as_ref().is_some_and(|b| watching && b.revision > snapshot.revision);
            if !behind {
                let view = fold::from_snapshot(&self.space, snapshot, before.as_deref());
                missed = watching && before.as_ref().is_some_and(|b| !same_content(b, &view));
                self.tell_malformed(&view);
                observation.view = Some(Arc::new(view));
                forget_foreign_lease(observation);
            }
            observation.confirmed_at = observation.confirmed_at.max(snapshot.asked_at);
            if observation.contact != Contact::Up {
                info!(revision = %snapshot.revision, "the store answers");
            }
            observation.contact = Contact::Up;
            true
        });
        if missed {
            self.shared.missed.fetch_add(1, Ordering::Relaxed);
            debug!("a read was ahead of the watch");
        }
        missed
    }

    /// Asks how long the leader's lease lives, where that is wanted.
    async fn confirm_lease(&self) -> Result<(), StoreError> {
        if !self.options.ask_leader_lease {
            return Ok(());
        }
        let lease = {
            let observation = self.publish.borrow();
            observation.view.as_ref().and_then(|v| v.leader.as_ref()).and_then(|l| l.lease)
        };
        let Some(lease) = lease else { return Ok(()) };
        let asked_at = Tick::now();
        let left = self.store.time_to_live(lease).await?;
        self.publish.send_if_modified(|observation| {
            let leads = observation.view.as_ref().and_then(|v| v.leader.as_ref()).and_then(|l| l.lease);
            let Some(left) = left.filter(|_| leads == Some(lease)) else { return false };
            observation.leader_lease = Some(LeaderLease { lease, lives_until: asked_at + left });
            true
        });
        Ok(())
    }

    /// Each unreadable value is logged once.
    fn tell_malformed(&self, view: &ClusterView) {
        let mut told = self.told.lock().unwrap_or_else(PoisonError::into_inner);
        for (key, why) in &view.malformed {
            if told.get(key) != Some(why) {
                warn!(key, why, "a value in the store cannot be read and is left out");
                told.insert(key.clone(), why.clone());
            }
        }
        told.retain(|key, _| view.malformed.contains_key(key));
    }
}

/// A lease that is not the leader's says nothing about the leader.
fn forget_foreign_lease(observation: &mut Observation) {
    let leads = observation.view.as_ref().and_then(|v| v.leader.as_ref()).and_then(|l| l.lease);
    if observation.leader_lease.is_some_and(|known| Some(known.lease) != leads) {
        observation.leader_lease = None;
    }
}

/// Whether two views say the same, whatever their revisions.
fn same_content(a: &ClusterView, b: &ClusterView) -> bool {
    ClusterView { revision: Revision(0), ..a.clone() } == ClusterView { revision: Revision(0), ..b.clone() }
}
