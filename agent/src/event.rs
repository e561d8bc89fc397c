//! What wakes the loop besides the store, the clock and the API.

use pgvane_cluster::clock::Tick;
use pgvane_cluster::ids::{Epoch, LeaseId};
use pgvane_cluster::records::MemberRecord;
use pgvane_cluster::reigns::Descent;
use pgvane_cluster::store::StoreError;
use tokio::sync::oneshot;

use crate::api::{FailsafeAnswer, FailsafeAsk};
use crate::decide::Outcome;
use crate::decide::world::{DataDir, Peers, Slot};
use crate::postgres::probe::{ProbeError, SqlView};
use crate::postgres::process::Postmaster;

/// Something that happened.
#[derive(Debug)]
pub enum Event {
    /// An effect ended.
    EffectEnded {
        /// What it occupied.
        slot: Slot,
        /// Which it was.
        number: u64,
        /// What it came to.
        outcomes: Vec<Outcome>,
    },
    /// The server changed.
    Server(ServerEvent),
    /// The data directory was looked at.
    Data(DataDir),
    /// What is known of the timelines of our data.
    Descent(Descent),
    /// The server was asked.
    Probed(Box<Result<SqlView, ProbeError>>),
    /// The other members were asked.
    Peers(Peers),
    /// The guard holds our deadline for this reign and lease.
    GuardArmed {
        /// The reign.
        epoch: Epoch,
        /// The lease.
        lease: LeaseId,
        /// The deadline it was given.
        deadline: Tick,
    },
    /// The guard holds no deadline.
    GuardIdle,
    /// The guard will not hold one for this lease again.
    LeaseSpent(LeaseId),
    /// Whether another member of our name lives, and where.
    Namesake(Option<String>),
    /// The guard is gone.
    GuardGone(String),
    /// A new guard answers.
    GuardBack(Box<crate::guard::client::Found>),
    /// Something that decisions need to know before its effect ends.
    Meanwhile(Outcome),
    /// The watchdog was armed, or why not.
    WatchdogArmed(Result<crate::watchdog::Plan, String>),
    /// The settings were read again, or why not.
    Reloaded(Box<Result<crate::reload::Reloaded, String>>),
    /// The store left a question unanswered that was sent at `asked_at`, because a leader wants us to vouch.
    StoreSilent {
        /// When.
        asked_at: Tick,
        /// Who wants it.
        ask: FailsafeAsk,
        /// Where the answer goes.
        reply: oneshot::Sender<FailsafeAnswer>,
    },
    /// Our member record was written, or not.
    Published(Box<Result<(MemberRecord, LeaseId), StoreError>>),
}

/// A change of the server.
#[derive(Debug)]
pub enum ServerEvent {
    /// A postmaster was started.
    Spawned {
        /// Its process.
        postmaster: Postmaster,
        /// Whether as a primary.
        as_primary: bool,
    },
    /// It accepts connections.
    Ready,
    /// It was told to promote: from here on it may accept writes.
    Promoting,
    /// It was told to stop.
    Stopping,
    /// It ended; no process of the data directory is left.
    Gone {
        /// Which one.
        pid: i32,
    },
}
