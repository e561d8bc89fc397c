//! Keeps one [`ClusterView`] current: snapshot, watch, fold, re-read; one task per cluster and process.
//!
//! A watch alone is not safe (lost deletes, stale members, streams that hang), so the view is confirmed by a
//! linearizable read every few seconds and after every lost stream, and carries the time of that proof.
//! Who reads an [`Observation`] decides what an old proof means; nothing here forgets the last view.

mod task;

use std::convert::Infallible;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use tokio::sync::{Notify, watch};

use self::task::Task;
use crate::clock::Tick;
use crate::ids::LeaseId;
use crate::keyspace::Keyspace;
use crate::store::Store;
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
) -> (Follower, impl Future<Output = Infallible> + Send + use<S>) {
    let contact = Contact::Down { since: Tick::now(), why: "not asked yet".to_owned() };
    let first = Observation { view: None, confirmed_at: Tick::ZERO, contact, leader_lease: None };
    let (publish, observation) = watch::channel(first);
    let shared = Arc::new(Shared::default());
    let task = Task::new(store, space, options, publish, Arc::clone(&shared));
    (Follower { observation, shared }, task.run())
}

#[cfg(all(test, feature = "model"))]
mod tests;
