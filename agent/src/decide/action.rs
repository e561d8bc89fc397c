//! What may be decided, and why.

use std::collections::BTreeSet;
use std::fmt;

use pgvane_cluster::clock::Tick;
use pgvane_cluster::ids::{Epoch, Lsn, NodeName, Revision};
use pgvane_cluster::records::SyncRecord;

use super::sync::Over;
use super::world::{Slot, Upstream};

/// One step. Each is an effect of its own; the world is observed again after it.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Action {
    /// Nothing until something changes or the decision's time comes.
    Wait,
    /// Create `initialize` empty: whoever creates it may bootstrap.
    RaceInitialize,
    /// initdb, first start, users; then `initialize`, `config` and the leader key.
    Bootstrap,
    /// Write the system identifier where `initialize` is missing or was left empty.
    SetInitialize {
        /// The identifier of this node's data.
        system_identifier: String,
    },
    /// Write the dynamic configuration where the key is missing.
    WriteConfig,
    /// Clone the data directory.
    Clone {
        /// From whom.
        from: Upstream,
    },
    /// Make the data directory by a method that needs nobody to copy from.
    CloneAlone,
    /// Start PostgreSQL as the primary it was (crash recovery in place, no new timeline).
    StartPrimary,
    /// Start PostgreSQL as a standby, of nobody where no upstream is known.
    StartStandby {
        /// Whom to follow.
        upstream: Option<Upstream>,
    },
    /// Stop if needed, compare timelines with the leader, rewind or clone again where they parted, start.
    Rejoin {
        /// The leader.
        leader: Upstream,
    },
    /// Point a running standby elsewhere.
    Follow {
        /// Whom to follow.
        upstream: Upstream,
    },
    /// Restart a standby with copies of the primary's logical replication slots.
    CopySlots {
        /// The primary.
        leader: Upstream,
        /// Whom to follow afterwards.
        upstream: Upstream,
        /// Which slots.
        names: BTreeSet<String>,
    },
    /// Ask the other members where they are.
    PollPeers,
    /// Create the leader key under our lease, if it does not exist.
    Campaign,
    /// Put the leader key that carries our name under our lease.
    TakeOverKey,
    /// Give the guard our deadline.
    ArmGuard {
        /// The reign it is for.
        epoch: Epoch,
    },
    /// Take the deadline from the guard.
    DisarmGuard,
    /// Promote the local standby.
    Promote {
        /// The reign it is for.
        epoch: Epoch,
    },
    /// CHECKPOINT while serving, so that the stop that follows is short.
    Checkpoint {
        /// The request it prepares.
        request: Request,
    },
    /// Announce that we stop, then stop cleanly while keeping the leader key.
    StopToHandOver {
        /// The request it serves.
        request: Request,
    },
    /// Announce a restart, then stop cleanly while keeping the leader key; the ordinary rules start the server again.
    StopToRestart {
        /// The restart it serves.
        id: u64,
    },
    /// Stop PostgreSQL.
    Stop {
        /// How.
        how: StopMode,
    },
    /// Delete the leader key of our reign, with the last position for the next leader.
    Release {
        /// Our reign.
        epoch: Epoch,
        /// Where our WAL ended, when it is known.
        optime: Option<Lsn>,
    },
    /// Ask every member of the failsafe list to vouch for us.
    AskFailsafe {
        /// Our reign.
        epoch: Epoch,
    },
    /// Clear the operator's request, which cannot or need not be carried out.
    ClearRequest {
        /// The revision of the request that was judged.
        revision: Revision,
    },
    /// Make the operator's scheduled request one for now.
    RequestNow {
        /// The revision of the request whose time has come.
        revision: Revision,
    },
    /// Write `sync`, if it still is what is replaced.
    WriteSyncKey {
        /// Our reign.
        epoch: Epoch,
        /// The new rule.
        record: SyncRecord,
        /// What it replaces.
        over: Over,
    },
    /// Delete `sync`.
    DeleteSyncKey {
        /// Our reign.
        epoch: Epoch,
        /// The revision of the rule that was judged.
        revision: Revision,
    },
    /// Set `synchronous_standby_names` and see all of the server have it in force.
    SetStandbyNames {
        /// The value; `None`: that of the parameters.
        names: Option<String>,
        /// Our reign, where the position is to be noted from which on commits wait for it.
        epoch: Option<Epoch>,
        /// Whether it is to be proved that commits wait at all.
        prove: bool,
    },
    /// End the agent: it has nothing left to do.
    Exit,
    /// End the agent with an error: only an operator can resolve this; nothing was touched.
    Halt,
}

/// How to stop.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub enum StopMode {
    /// Clients are cut, WAL is shipped, a checkpoint is written.
    Fast,
    /// At once, with crash recovery later.
    Immediate,
}

/// Why leadership is being handed over, or the server restarted.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub enum Request {
    /// The operator's request at this revision.
    Operator(Revision),
    /// The agent is stopping.
    Shutdown,
    /// This restart was asked for.
    Restart(u64),
}

// Labels by which other rules recognise what is under way: spelled once, for a promotion that is not recognised
// would be a promise broken.

/// Label of [`Action::Clone`] and [`Action::CloneAlone`].
pub const CLONE: &str = "clone";
/// Label of [`Action::Rejoin`].
pub const REJOIN: &str = "rejoin";
/// Label of [`Action::Follow`].
pub const FOLLOW: &str = "follow";
/// Label of [`Action::Promote`].
pub const PROMOTE: &str = "promote";
/// Label of [`Action::Checkpoint`].
pub const CHECKPOINT: &str = "checkpoint";
/// Label of [`Action::StopToHandOver`].
pub const STOP_TO_HAND_OVER: &str = "stop_to_hand_over";
/// Label of [`Action::StopToRestart`].
pub const STOP_TO_RESTART: &str = "stop_to_restart";

/// Label of [`Action::CopySlots`].
pub const COPY_SLOTS: &str = "copy_slots";
/// Label of [`Action::Stop`].
pub const STOP: &str = "stop";
/// Label of [`Action::Release`].
pub const RELEASE: &str = "release";
/// Those during which the server is supposed to serve: an end of it is a crash.
pub const SERVING: [&str; 3] = [PROMOTE, CHECKPOINT, FOLLOW];

impl Action {
    /// What the effect occupies; `None` for those that do not run on.
    pub fn slot(&self) -> Option<Slot> {
        match self {
            Action::Wait | Action::Exit | Action::Halt => None,
            Action::Bootstrap
            | Action::Clone { .. }
            | Action::CloneAlone
            | Action::StartPrimary
            | Action::StartStandby { .. }
            | Action::Rejoin { .. }
            | Action::Follow { .. }
            | Action::CopySlots { .. }
            | Action::Promote { .. }
            | Action::Checkpoint { .. }
            | Action::StopToHandOver { .. }
            | Action::StopToRestart { .. }
            | Action::Stop { .. } => Some(Slot::Postgres),
            Action::RaceInitialize
            | Action::SetInitialize { .. }
            | Action::WriteConfig
            | Action::Campaign
            | Action::TakeOverKey
            | Action::Release { .. }
            | Action::ClearRequest { .. }
            | Action::RequestNow { .. } => Some(Slot::Store),
            Action::PollPeers => Some(Slot::Peers),
            Action::WriteSyncKey { .. } | Action::DeleteSyncKey { .. } => Some(Slot::SyncKey),
            Action::SetStandbyNames { .. } => Some(Slot::StandbyNames),
            Action::AskFailsafe { .. } => Some(Slot::Failsafe),
            Action::ArmGuard { .. } | Action::DisarmGuard => Some(Slot::Guard),
        }
    }

    /// A fixed word for logs and metrics.
    pub fn label(&self) -> &'static str {
        match self {
            Action::Wait => "wait",
            Action::RaceInitialize => "race_initialize",
            Action::Bootstrap => "bootstrap",
            Action::SetInitialize { .. } => "set_initialize",
            Action::WriteConfig => "write_config",
            Action::Clone { .. } | Action::CloneAlone => CLONE,
            Action::StartPrimary => "start_primary",
            Action::StartStandby { .. } => "start_standby",
            Action::Rejoin { .. } => REJOIN,
            Action::Follow { .. } => FOLLOW,
            Action::CopySlots { .. } => COPY_SLOTS,
            Action::PollPeers => "poll_peers",
            Action::Campaign => "campaign",
            Action::TakeOverKey => "take_over_key",
            Action::ArmGuard { .. } => "arm_guard",
            Action::DisarmGuard => "disarm_guard",
            Action::Promote { .. } => PROMOTE,
            Action::Checkpoint { .. } => CHECKPOINT,
            Action::StopToHandOver { .. } => STOP_TO_HAND_OVER,
            Action::StopToRestart { .. } => STOP_TO_RESTART,
            Action::Stop { .. } => STOP,
            Action::Release { .. } => RELEASE,
            Action::AskFailsafe { .. } => "ask_failsafe",
            Action::ClearRequest { .. } => "clear_request",
            Action::RequestNow { .. } => "request_now",
            Action::WriteSyncKey { .. } => "write_sync_key",
            Action::DeleteSyncKey { .. } => "delete_sync_key",
            Action::SetStandbyNames { .. } => "set_standby_names",
            Action::Exit => "exit",
            Action::Halt => "halt",
        }
    }
}

/// Why: the log field, the metric label and the expectation of the tests.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Reason {
    /// An effect has to end first.
    Busy(Slot),
    /// We lead and serve.
    Leading,
    /// We lead and serve, and will hand over once the others may lead.
    CandidatesBound,
    /// We follow the leader and stream.
    Following,
    /// Pause is on.
    Paused,
    /// The store does not answer and nothing may be concluded.
    StoreAway,
    /// We have no lease yet.
    NoLease,
    /// Another member's key appeared while we could accept writes.
    LostKeyTo(NodeName),
    /// The leader key vanished while we could accept writes.
    KeyVanished,
    /// We could accept writes without any right to.
    NoAuthority,
    /// The lease was not renewed in time.
    RenewalLate,
    /// The store is away, and our lease or the word of all others still covers us.
    Vouched,
    /// The store is away: the members are asked to vouch.
    NeedConsent,
    /// We vouched for a leader; its time has not ended.
    WeVouchedFor(NodeName),
    /// Our name stands in the leader key under a lease that is not ours.
    KeyUnderOldLease,
    /// PostgreSQL was a primary here and ended by itself.
    Crashed,
    /// PostgreSQL does not come up within primary_start_timeout.
    StartTimeout,
    /// The guard must hold our deadline first.
    GuardNotArmed,
    /// The guard holds a deadline that nobody needs.
    GuardNotNeeded,
    /// We hold the leader key: become primary.
    WonKey,
    /// The operator wants another leader.
    RequestedBy(Request),
    /// The operator's request names another leader than the one there is.
    RequestForAnotherLeader,
    /// The operator's request names the leader itself.
    RequestForLeader,
    /// No candidate can take over now.
    NoCandidate,
    /// The candidate has all of our WAL.
    CandidateReady(NodeName),
    /// No candidate confirmed all of our WAL in time.
    HandOverTimeout,
    /// The agent is stopping.
    Shutdown,
    /// The data directory is missing and the cluster was never initialized.
    NewCluster,
    /// Another node bootstraps, or nobody leads yet who could be cloned.
    WaitForFirstLeader,
    /// The data directory is missing.
    NoData,
    /// A rewind, clone or bootstrap died half way.
    DataSpoiled,
    /// The data directory cannot be read.
    DataUnreadable(String),
    /// The data belongs to another cluster.
    ForeignData {
        /// The cluster's identifier.
        cluster: String,
        /// The data directory's.
        ours: String,
    },
    /// `initialize` is missing and our data is a standby's: the former primary must come first.
    StandbyMayNotBeFirst,
    /// `initialize` is missing or empty and we lead.
    InitializeMissing,
    /// `config` is missing and we lead.
    ConfigMissing,
    /// The leader does not serve yet.
    LeaderNotServing(NodeName),
    /// The leader has not told yet who began its timelines.
    HistoryExpected(NodeName),
    /// PostgreSQL does not run here.
    NotRunning,
    /// It starts.
    Starting,
    /// It follows another server than it should.
    WrongUpstream,
    /// It lacks logical replication slots that the primary has.
    SlotsMissing,
    /// WAL is still being received although nobody leads (`primary_race_backoff`).
    WalStillComes,
    /// It is on an older timeline than the cluster (`check_timeline`).
    OlderTimeline,
    /// The cluster follows another one as a whole.
    StandbyCluster,
    /// We lead a standby cluster and follow what it follows.
    StandbyLeading,
    /// It has not streamed for too long although the leader serves, or its history parted from the leader's.
    CannotStream,
    /// PostgreSQL has been starting for long as a standby of nobody, or of somebody who leads no more.
    StartsOfNobody,
    /// Something failed a moment ago; it is tried again later.
    BackOff,
    /// Nobody leads; the others' positions are needed.
    RaceNeedsAnswers,
    /// A member that is a primary answered: it must step down first.
    PrimaryAlive(NodeName),
    /// A member is ahead of us.
    BehindPeer(NodeName),
    /// An equal member goes first.
    AfterPeer(NodeName),
    /// The operator named another candidate.
    CandidateNamed(NodeName),
    /// Our tags forbid it.
    NoFailoverTag,
    /// We are further behind the last leader than maximum_lag_on_failover.
    TooFarBehind,
    /// Our history parted from the cluster's.
    Diverged,
    /// Our name is not in `sync`.
    NotSynchronous,
    /// Our name is not in `failsafe`.
    NotInFailsafe,
    /// Our server does not tell its position.
    PositionUnknown,
    /// Nobody leads and nobody is better placed.
    BestCandidate,
    /// We stepped down a moment ago: another takes over.
    LetOthersLead,
    /// We hold the key and cannot serve.
    CannotServe,
    /// The operator wants the replica made anew.
    Reinitialize,
    /// The operator waits for the member to follow.
    RewindRequested,
    /// The time of the operator's scheduled request has come.
    ScheduleIsDue,
    /// The time of the operator's scheduled request passed long ago.
    ScheduleIsStale,
    /// The time of the operator's scheduled request cannot be read.
    ScheduleIsUnreadable,
    /// Commits wait for this standby until it has left `sync`.
    LeavingSync,
    /// In pause leadership goes only to a candidate that the operator names.
    PausedWithoutCandidate,
    /// PostgreSQL did not come up again after a restart.
    RestartFailed,
    /// PostgreSQL ended again and again while it started.
    StartFailed,
    /// The bootstrap of the new cluster failed.
    BootstrapFailed,
    /// The command that is run before a promotion forbade it.
    PrePromoteFailed,
    /// A watchdog is required and cannot be used.
    WatchdogFailed,
    /// Synchronous mode is on and has no rule yet.
    SyncBegins,
    /// Who confirms commits, or may lead next, changes.
    SyncChanges,
    /// Synchronous mode is off.
    SyncIsOff,
    /// `sync` and the server's setting come before the first write.
    SyncFirst,
    /// These standbys have to catch up before they may lead.
    StandbysCatchUp(String),
    /// Commits wait: none of these standbys streams.
    NobodyConfirms(String),
    /// This member holds every acknowledged commit.
    HoldsAll(NodeName),
    /// Too few voters are known not to be ahead of us.
    VotesMissing {
        /// How many there are.
        votes: usize,
        /// How many are needed.
        needed: usize,
    },
}

impl fmt::Display for Reason {
    #[expect(clippy::too_many_lines, reason = "a table")]
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Reason::Busy(slot) => write!(f, "an effect on {slot:?} has not ended"),
            Reason::Leading => f.write_str("leading"),
            Reason::CandidatesBound => f.write_str(
                "a switchover is requested; the others have promised not to lead while etcd was away, for up to ttl and a renewal",
            ),
            Reason::Following => f.write_str("following the leader"),
            Reason::Paused => f.write_str("pause is on"),
            Reason::StoreAway => f.write_str("the store does not answer"),
            Reason::NoLease => f.write_str("no lease yet"),
            Reason::LostKeyTo(other) => write!(f, "the leader key belongs to {other}"),
            Reason::KeyVanished => f.write_str("the leader key vanished"),
            Reason::NoAuthority => f.write_str("writes would be accepted without holding the leader key"),
            Reason::RenewalLate => f.write_str("the lease was not renewed in time"),
            Reason::Vouched => f.write_str("the store is away; our right to lead has not run out"),
            Reason::NeedConsent => f.write_str("the store is away; asking all members to vouch"),
            Reason::WeVouchedFor(leader) => write!(f, "we vouched for {leader}"),
            Reason::KeyUnderOldLease => f.write_str("the leader key carries our name under an older lease"),
            Reason::Crashed => f.write_str("PostgreSQL ended unasked; restarting it in place"),
            Reason::StartTimeout => f.write_str("PostgreSQL did not start within primary_start_timeout"),
            Reason::GuardNotArmed => f.write_str("the guard does not hold our deadline yet"),
            Reason::GuardNotNeeded => f.write_str("the guard's deadline is not needed"),
            Reason::WonKey => f.write_str("we hold the leader key"),
            Reason::RequestedBy(Request::Operator(revision)) => {
                write!(f, "switchover requested (revision {revision})")
            }
            Reason::RequestedBy(Request::Shutdown) | Reason::Shutdown => f.write_str("the agent is stopping"),
            Reason::RequestedBy(Request::Restart(number)) => write!(f, "restart requested (number {number})"),
            Reason::RequestForAnotherLeader => f.write_str("the request names another leader"),
            Reason::RequestForLeader => f.write_str("the request names the leader itself as candidate"),
            Reason::NoCandidate => f.write_str("no member can take over now"),
            Reason::CandidateReady(name) => write!(f, "{name} has all of our WAL"),
            Reason::HandOverTimeout => f.write_str("no candidate confirmed all of our WAL in time"),
            Reason::NewCluster => f.write_str("the cluster is new"),
            Reason::WaitForFirstLeader => f.write_str("waiting for the first leader"),
            Reason::NoData => f.write_str("the data directory is empty"),
            Reason::DataSpoiled => f.write_str("a rewind, a clone or a bootstrap died half way"),
            Reason::DataUnreadable(why) => write!(f, "the data directory cannot be read: {why}"),
            Reason::ForeignData { cluster, ours } => write!(
                f,
                "the data directory belongs to another cluster: its system identifier is {ours}, the cluster's is {cluster}"
            ),
            Reason::StandbyMayNotBeFirst => f.write_str(
                "the cluster is not initialized and this is a standby's data; start the former primary first",
            ),
            Reason::InitializeMissing => f.write_str("the initialize key is missing"),
            Reason::ConfigMissing => f.write_str("the config key is missing"),
            Reason::LeaderNotServing(name) => write!(f, "the leader {name} does not serve yet"),
            Reason::HistoryExpected(name) => write!(f, "the leader {name} has not told its history yet"),
            Reason::NotRunning => f.write_str("PostgreSQL does not run"),
            Reason::Starting => f.write_str("PostgreSQL starts"),
            Reason::WrongUpstream => f.write_str("PostgreSQL follows another server than it should"),
            Reason::SlotsMissing => f.write_str("logical replication slots of the primary are missing here"),
            Reason::WalStillComes => f.write_str("WAL is still being received (primary_race_backoff)"),
            Reason::OlderTimeline => f.write_str("on an older timeline than the cluster (check_timeline)"),
            Reason::StandbyCluster => f.write_str("the cluster follows another one (standby_cluster)"),
            Reason::StandbyLeading => f.write_str("leading a standby cluster"),
            Reason::CannotStream => f.write_str("PostgreSQL cannot stream from the leader"),
            Reason::StartsOfNobody => {
                f.write_str("PostgreSQL has been starting for long and may need WAL of the leader, whom it does not follow")
            }
            Reason::BackOff => f.write_str("the last attempt failed; trying again shortly"),
            Reason::RaceNeedsAnswers => f.write_str("nobody leads; asking the others for their positions"),
            Reason::PrimaryAlive(name) => write!(f, "{name} still answers as a primary"),
            Reason::BehindPeer(name) => write!(f, "{name} is ahead"),
            Reason::AfterPeer(name) => write!(f, "{name} goes first"),
            Reason::CandidateNamed(name) => write!(f, "the operator named {name}"),
            Reason::NoFailoverTag => f.write_str("the tags forbid this node to lead"),
            Reason::TooFarBehind => f.write_str("too far behind the last leader (maximum_lag_on_failover)"),
            Reason::Diverged => f.write_str("the local history parted from the cluster's"),
            Reason::NotSynchronous => f.write_str("not among the synchronous standbys"),
            Reason::NotInFailsafe => f.write_str("not in the failsafe list"),
            Reason::PositionUnknown => f.write_str("PostgreSQL does not tell its position"),
            Reason::BestCandidate => f.write_str("nobody leads and nobody is better placed"),
            Reason::LetOthersLead => f.write_str("stepped down; another member takes over"),
            Reason::CannotServe => f.write_str("the leader key is held and PostgreSQL cannot serve"),
            Reason::Reinitialize => f.write_str("reinitialize requested"),
            Reason::RewindRequested => f.write_str("rewind requested"),
            Reason::ScheduleIsDue => f.write_str("the time of the scheduled switchover has come"),
            Reason::ScheduleIsStale => f.write_str("the time of the scheduled switchover has passed"),
            Reason::ScheduleIsUnreadable => {
                f.write_str("the time of the scheduled switchover cannot be read")
            }
            Reason::LeavingSync => {
                f.write_str("commits wait for this standby until it has left the sync key")
            }
            Reason::PausedWithoutCandidate => f.write_str("pause is on and the request names no candidate"),
            Reason::RestartFailed => f.write_str("PostgreSQL did not come up again after the restart"),
            Reason::StartFailed => f.write_str("PostgreSQL ended again and again while it started"),
            Reason::BootstrapFailed => f.write_str(
                "the new cluster could not be made; what was left of it stands beside the data directory, as `.failed`",
            ),
            Reason::PrePromoteFailed => f.write_str("pre_promote failed; not promoting for the time of a lease"),
            Reason::WatchdogFailed => f.write_str("a watchdog is required and cannot be used"),
            Reason::SyncBegins => f.write_str("synchronous mode is on; nobody but this node may lead yet"),
            Reason::SyncChanges => f.write_str("who confirms commits changes"),
            Reason::SyncIsOff => f.write_str("synchronous mode is off"),
            Reason::SyncFirst => {
                f.write_str("synchronous replication is put in order before the first write")
            }
            Reason::StandbysCatchUp(names) => {
                write!(f, "commits wait for {names}, which must catch up to be in sync")
            }
            Reason::NobodyConfirms(names) => {
                write!(f, "commits are not acknowledged: too few of {names} stream from here")
            }
            Reason::HoldsAll(name) => write!(f, "{name} holds everything that was acknowledged"),
            Reason::VotesMissing { votes, needed } => {
                write!(f, "{votes} of {needed} synchronous members are known not to be ahead of this node")
            }
        }
    }
}

/// What to do, why, and when to think again if nothing happens before.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Decision {
    /// The step.
    pub action: Action,
    /// Why.
    pub reason: Reason,
    /// When to decide again at the latest.
    pub wake_at: Tick,
}
