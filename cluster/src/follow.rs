//! Keeps one [`ClusterView`] current: snapshot, watch, fold, re-read; one task per cluster and process.
//!
//! A watch alone is not safe (lost deletes, stale members, streams that hang), so the view is confirmed by a
//! linearizable read every few seconds and after every lost stream, and carries the time of that proof.
//! Who reads an [`Observation`] decides what an old proof means; nothing here forgets the last view.

use std::sync::Arc;
use std::time::Duration;

use tokio::sync::watch;

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
