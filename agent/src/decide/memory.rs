//! What is remembered between decisions: promises, failures, the steps of a hand-over. Changed only here.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use pgvane_cluster::clock::Tick;
use pgvane_cluster::ids::{Epoch, Lsn, NodeName, Revision};
use pgvane_cluster::reigns::Descent;

use super::action::{Action, Request};
use super::bootstrap::Progress;
use super::reinit::Reinit;
use super::restart::{Restart, ScheduledRestart};
use super::schedule::Wall;
use super::sync;
use super::vacancy::Witness;
use super::world::{Dcs, Local, Process, Slot, Upstream};

/// The other members' promise to us: nobody of them races for `ttl` from their answer on.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Consent {
    /// When the question was sent, earlier than any of the promises began.
    pub asked_at: Tick,
    /// How long each promised.
    pub ttl: Duration,
    /// The reign it was asked for.
    pub epoch: Epoch,
}

/// Our promise to a leader: we do not race before `until`. Kept on disk, so that it survives this agent.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Vouch {
    /// Whom we vouched for.
    pub leader: NodeName,
    /// Until when.
    pub until: Tick,
}

/// A hand-over in its steps.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct HandOver {
    /// What asked for it.
    pub request: Request,
    /// Whether the checkpoint that shortens the stop was made.
    pub checkpointed: bool,
    /// When PostgreSQL had stopped, and where its WAL ended; `None` for the position after an unclean stop, and
    /// once it has started again.
    pub stopped: Option<(Tick, Option<Lsn>)>,
}

/// A reign whose key we asked the store to delete.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Released {
    /// The reign.
    pub epoch: Epoch,
    /// Whether the store said that the key is gone. Until then it may be gone all the same, or go at any moment.
    pub done: bool,
}

/// When a slot may be used again after failures.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Pause {
    /// Not before.
    pub until: Tick,
    /// Failures in a row.
    pub failures: u32,
}

/// What is remembered between decisions.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct Memory {
    /// The promise of the others.
    pub consent: Option<Consent>,
    /// When they were last asked for it.
    pub consent_asked_at: Option<Tick>,
    /// Our promise.
    pub vouch: Option<Vouch>,
    /// Since when the store has said that nobody leads.
    pub leaderless_since: Option<Tick>,
    /// Who led last, as far as this agent saw.
    pub last_leader: Option<NodeName>,
    /// What was seen of other leaders, and of their end.
    pub witness: Witness,
    /// Whether that was a Patroni daemon.
    pub led_by_patroni: bool,
    /// When PostgreSQL ended unasked while we led; cleared when it serves again.
    pub crashed_at: Option<Tick>,
    /// Since when we have held the leader key without a server that accepts connections.
    pub down_since: Option<Tick>,
    /// The hand-over under way.
    pub hand_over: Option<HandOver>,
    /// The last reign we gave up: it is over for us, whatever the view still shows.
    pub released: Option<Released>,
    /// Whether the agent was told to stop.
    pub shutdown: bool,
    /// Up to which revision a right to bootstrap was given back, whatever the view still shows.
    pub gave_up_bootstrap: Revision,
    /// Since when a running standby has not streamed although a leader is there.
    pub not_streaming_since: Option<Tick>,
    /// Whom this agent last started our server to follow, or pointed it at, and when.
    pub pointed_at: Option<(Upstream, Tick)>,
    /// How far the bootstrap of a new cluster is, while one is under way here and after it failed.
    pub bootstrap: Option<Progress>,
    /// When the command that is run before a promotion last forbade it.
    pub pre_promote_failed: Option<Tick>,
    /// How often in a row PostgreSQL ended while it was started as the primary.
    pub failed_starts: u32,
    /// What is known of the timelines of our data. Kept with the data, so that it survives this agent.
    pub descent: Descent,
    /// The reign whose leader our running server was found to have parted from, until something is done about it.
    pub parted: Option<Epoch>,
    /// The last reign that was seen, and since when.
    pub leader_since: Option<(Epoch, Tick)>,
    /// Logical replication slots of the primary that this standby lacks.
    pub slots_to_copy: BTreeSet<String>,
    /// Since when there are any.
    pub slots_missing_since: Option<Tick>,
    /// Logical replication slots of ours that were copied and may lack what they need.
    pub unproven_slots: BTreeSet<String>,
    /// The furthest position that was seen of our standby, and when it was first seen there.
    pub wal_grew: Option<(Lsn, Tick)>,
    /// Slots that failed and may not be used for a while.
    pub pauses: BTreeMap<Slot, Pause>,
    /// Under whom the last step on PostgreSQL was begun; `None` where nobody led.
    pub begun_under: Option<Epoch>,
    /// The restart under way.
    pub restart: Option<Restart>,
    /// The restart for later; our member record keeps it over the end of an agent.
    pub scheduled_restart: Option<ScheduledRestart>,
    /// The wish that this replica be made anew.
    pub reinit: Option<Reinit>,
    /// Whether an operator waits for this member to follow.
    pub rewind: bool,
    /// Whether we handed over at an operator's request and have to follow, in pause as well.
    pub handed_over: bool,
    /// The wall clock, as last read.
    pub wall: Option<Wall>,
    /// What was done about synchronous replication.
    pub sync: sync::Memory,
}

/// What an effect came to, as far as later decisions need it.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Outcome {
    /// It did what it was for.
    Done(Slot),
    /// It did not.
    Failed(Slot),
    /// `initialize` was given back at this revision after a bootstrap that failed.
    LostInitialize(Revision),
    /// The checkpoint before a hand-over was made.
    Checkpointed(Request),
    /// PostgreSQL stopped for a hand-over.
    StoppedToHandOver {
        /// What it was for.
        request: Request,
        /// Where the WAL ended, when the stop was clean.
        shutdown_lsn: Option<Lsn>,
    },
    /// PostgreSQL stopped to be restarted.
    StoppedToRestart {
        /// The restart it was for.
        id: u64,
        /// Where the WAL ended, when the stop was clean.
        shutdown_lsn: Option<Lsn>,
    },
    /// PostgreSQL could not be stopped for this restart.
    NotRestarted(u64),
    /// The data directory was replaced by a whole copy.
    Cloned,
    /// The way back to the leader ended so, as an operator is told.
    Rejoined(Result<String, String>),
    /// The leader key of our reign is gone, or another's: the hand-over is complete.
    Released,
    /// All members vouch for us.
    Consented(Consent),
    /// Some member does not, or did not answer.
    NotConsented,
    /// PostgreSQL ended unasked.
    PostgresEnded,
    /// The operator's request was cleared.
    RequestCleared,
    /// The bootstrap of a new cluster is this far.
    Bootstrapping(Progress),
    /// It ended well.
    Bootstrapped,
    /// The command that is run before a promotion forbade it.
    PrePromoteFailed,
    /// PostgreSQL ended while it was started as the primary.
    StartFailed,
    /// Our WAL was compared with that of the leader of this reign: it is another.
    Parted(Epoch),
    /// `sync` was written, at this revision.
    SyncKeyWritten {
        /// The reign it was written in.
        epoch: Epoch,
        /// Its revision.
        revision: Revision,
    },
    /// `synchronous_standby_names` is in force in all of the server.
    StandbyNamesSet(sync::InForce),
    /// It may be, or not.
    StandbyNamesUnknown,
    /// The replication slots of this standby were looked at.
    Slots {
        /// Those of the primary that it lacks and could copy.
        to_copy: BTreeSet<String>,
        /// Those that it copied and that may lack what they need.
        unproven: BTreeSet<String>,
    },
}

/// First pause after a failure; doubles up to [`LONGEST_PAUSE`].
const FIRST_PAUSE: Duration = Duration::from_millis(250);
const LONGEST_PAUSE: Duration = Duration::from_secs(10);

impl Memory {
    /// Notes a step that is about to be taken.
    pub fn begin(&mut self, now: Tick, action: &Action) {
        if action.slot() == Some(Slot::Postgres) {
            self.begun_under = self.reign();
        }
        match action {
            Action::AskFailsafe { .. } => self.consent_asked_at = Some(now),
            Action::Release { epoch, .. } => self.released = Some(Released { epoch: *epoch, done: false }),
            Action::WriteSyncKey { .. } | Action::DeleteSyncKey { .. } => self.sync.settled = None,
            Action::SetStandbyNames { names, .. } => self.sync.names_change(names.as_deref()),
            Action::StartPrimary => self.sync.started_at = Some(now),
            Action::StartStandby { upstream } => self.pointed_at = upstream.clone().map(|u| (u, now)),
            Action::Rejoin { leader: upstream }
            | Action::Follow { upstream }
            | Action::CopySlots { upstream, .. } => {
                self.pointed_at = Some((upstream.clone(), now));
            }
            Action::Wait
            | Action::RaceInitialize
            | Action::Bootstrap
            | Action::SetInitialize { .. }
            | Action::WriteConfig
            | Action::Clone { .. }
            | Action::CloneAlone
            | Action::PollPeers
            | Action::Campaign
            | Action::TakeOverKey
            | Action::ArmGuard { .. }
            | Action::DisarmGuard
            | Action::Promote { .. }
            | Action::Checkpoint { .. }
            | Action::StopToHandOver { .. }
            | Action::StopToRestart { .. }
            | Action::Stop { .. }
            | Action::ClearRequest { .. }
            | Action::RequestNow { .. }
            | Action::Exit
            | Action::Halt => {}
        }
    }

    /// Whether we asked the store to delete the key of `epoch`.
    pub fn gave_up(&self, epoch: Epoch) -> bool {
        self.released.is_some_and(|released| released.epoch == epoch)
    }

    /// Takes in what an effect came to.
    pub fn absorb(&mut self, now: Tick, outcome: &Outcome) {
        match outcome {
            Outcome::Done(slot) => {
                self.pauses.remove(slot);
                if *slot == Slot::Postgres {
                    self.parted = None;
                }
            }
            Outcome::Failed(slot) => {
                self.pause(now, *slot);
                if let Some(restart) = self.restart.as_mut().filter(|_| *slot == Slot::Postgres) {
                    restart.failed |= restart.stopped.is_some();
                }
            }
            Outcome::LostInitialize(revision) => {
                self.gave_up_bootstrap = self.gave_up_bootstrap.max(*revision);
                // Somebody else gets the first chance now.
                self.pause(now, Slot::Store);
            }
            Outcome::Checkpointed(Request::Restart(id)) => {
                if let Some(restart) = self.restart.as_mut().filter(|r| r.id == *id) {
                    restart.checkpointed = true;
                }
            }
            Outcome::StoppedToRestart { id, shutdown_lsn } => {
                if let Some(restart) = self.restart.as_mut().filter(|r| r.id == *id) {
                    restart.stopped = Some((now, *shutdown_lsn));
                }
            }
            Outcome::NotRestarted(id) => {
                if let Some(restart) = self.restart.as_mut().filter(|r| r.id == *id) {
                    restart.failed = true;
                }
            }
            Outcome::Cloned => {
                if let Some(reinit) = &mut self.reinit {
                    reinit.cloned = true;
                }
            }
            Outcome::Checkpointed(request) => {
                self.hand_over = Some(HandOver { request: *request, checkpointed: true, stopped: None });
            }
            Outcome::StoppedToHandOver { request, shutdown_lsn } => {
                let stopped = Some((now, *shutdown_lsn));
                self.hand_over = Some(HandOver { request: *request, checkpointed: true, stopped });
            }
            Outcome::Rejoined(_) => self.rewind = false,
            Outcome::Released => {
                self.end_hand_over();
                self.released = self.released.map(|r| Released { done: true, ..r });
            }
            Outcome::RequestCleared => self.hand_over = None,
            Outcome::Parted(epoch) => self.parted = Some(*epoch),
            Outcome::Slots { to_copy, unproven } => {
                self.slots_to_copy.clone_from(to_copy);
                let since = self.slots_missing_since.or(Some(now));
                self.slots_missing_since = since.filter(|_| !to_copy.is_empty());
                self.unproven_slots.clone_from(unproven);
            }
            Outcome::Consented(consent) => self.consent = Some(*consent),
            // Promises already given stay valid until their own end.
            Outcome::NotConsented => {}
            Outcome::PostgresEnded => self.crashed_at = self.crashed_at.or(Some(now)),
            Outcome::Bootstrapping(progress) => self.bootstrap = Some(*progress),
            Outcome::Bootstrapped => self.bootstrap = None,
            Outcome::PrePromoteFailed => self.pre_promote_failed = Some(now),
            Outcome::StartFailed => self.failed_starts = self.failed_starts.saturating_add(1),
            Outcome::SyncKeyWritten { epoch, revision } => self.sync.settled = Some((*epoch, *revision)),
            Outcome::StandbyNamesSet(value) => self.sync.names_are(now, value),
            Outcome::StandbyNamesUnknown => self.sync.names_at = Some(now),
        }
    }

    /// Whoever asked for it wants us to follow now.
    fn end_hand_over(&mut self) {
        let planned = |h: HandOver| matches!(h.request, Request::Operator(_));
        self.handed_over |= self.hand_over.take().is_some_and(planned);
    }

    fn pause(&mut self, now: Tick, slot: Slot) {
        let failures = self.pauses.get(&slot).map_or(0, |p| p.failures) + 1;
        let length = FIRST_PAUSE.saturating_mul(1 << (failures - 1).min(10)).min(LONGEST_PAUSE);
        let is_over = slot == Slot::Postgres && self.begun_under != self.reign();
        let until = if is_over { now } else { now + length };
        self.pauses.insert(slot, Pause { until, failures });
    }

    /// Ends the pause of PostgreSQL, for the leader is another: that our server could not follow the last one is no
    /// reason to keep a promotion waiting. One attempt at once: failures are counted on.
    fn try_again(&mut self, now: Tick) {
        if let Some(pause) = self.pauses.get_mut(&Slot::Postgres) {
            pause.until = pause.until.min(now);
        }
    }

    /// Who leads, as last seen; `None` while nobody does.
    fn reign(&self) -> Option<Epoch> {
        self.leader_since.map(|(epoch, _)| epoch).filter(|_| self.leaderless_since.is_none())
    }

    /// Takes in what is seen: who leads, whether a standby streams, whether PostgreSQL is back.
    pub fn note(&mut self, now: Tick, dcs: &Dcs, local: &Local, me: &NodeName) {
        if let Dcs::Known(view) = dcs {
            let before = self.reign();
            self.witness.note(now, view, local, me);
            match &view.leader {
                Some(key) => {
                    self.leaderless_since = None;
                    self.last_leader = Some(key.name.clone());
                    if let Some(member) = view.leader_member() {
                        self.led_by_patroni = !member.record.is_native();
                    }
                    if self.leader_since.is_none_or(|(epoch, _)| epoch != key.epoch) {
                        self.leader_since = Some((key.epoch, now));
                    }
                    if key.name != *me {
                        // The next leader may be seen before we hear that our key is gone.
                        self.end_hand_over();
                        self.crashed_at = None;
                        self.consent = None;
                    }
                }
                None => self.leaderless_since = self.leaderless_since.or(Some(now)),
            }
            if self.reign() != before {
                self.try_again(now);
            }
        }
        self.note_wishes(dcs, local, me);
        if local.process == Process::Running {
            self.crashed_at = None;
            self.down_since = None;
            self.handed_over = false;
            self.failed_starts = 0;
        } else if let Dcs::Known(view) = dcs {
            let leads = view.leader.as_ref().is_some_and(|key| key.name == *me);
            self.down_since = if leads { self.down_since.or(Some(now)) } else { None };
        }
        let is_up = matches!(local.process, Process::Starting { .. } | Process::Running);
        if let Some(HandOver { stopped: Some((_, shutdown_lsn)), .. }) = &mut self.hand_over
            && is_up
        {
            // It may write past the position that a candidate would be held to.
            *shutdown_lsn = None;
        }
        if self.shutdown {
            self.sync.leaving_since = self.sync.leaving_since.or(Some(now));
        }
        if let Some(sql) = local.sql.as_ref().filter(|sql| sql.in_recovery)
            && self.wal_grew.is_none_or(|(position, _)| position != sql.position)
        {
            self.wal_grew = Some((sql.position, now));
        }
        let starved = local.process == Process::Running
            && local.sql.as_ref().is_some_and(|sql| sql.in_recovery && !sql.streaming);
        self.not_streaming_since = if starved { self.not_streaming_since.or(Some(now)) } else { None };
        if self.vouch.as_ref().is_some_and(|v| v.until <= now) {
            self.vouch = None;
        }
    }

    /// Ends wishes that have come true, or that have nobody left to be for.
    fn note_wishes(&mut self, dcs: &Dcs, local: &Local, me: &NodeName) {
        let runs = local.process == Process::Running;
        let is_up = runs || matches!(local.process, Process::Starting { .. });
        if runs {
            self.restart = self.restart.filter(|r| r.stopped.is_none());
            self.reinit = self.reinit.filter(|r| !r.cloned);
        }
        if let Some(Restart { stopped: Some((_, shutdown_lsn)), .. }) = &mut self.restart
            && is_up
        {
            // It may write past this position.
            *shutdown_lsn = None;
        }
        if let Dcs::Known(view) = dcs
            && view.leader.as_ref().is_some_and(|key| key.name == *me)
        {
            // The leader's data is what the others are copied from.
            self.reinit = None;
        }
    }

    /// Promises `leader` not to race for `ttl` from now on. A longer promise to it stays as long as it was: its
    /// guard may still count on that one.
    pub fn promise(&mut self, now: Tick, leader: NodeName, ttl: Duration) -> &Vouch {
        let before = self.vouch.take().filter(|v| v.leader == leader).map_or(now, |v| v.until);
        self.vouch.insert(Vouch { leader, until: before.max(now + ttl) })
    }

    /// When `slot` may be used again; `None` when it may be used now.
    pub fn paused_until(&self, now: Tick, slot: Slot) -> Option<Tick> {
        self.pauses.get(&slot).map(|p| p.until).filter(|until| *until > now)
    }
}
