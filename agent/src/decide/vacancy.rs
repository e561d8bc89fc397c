//! Why leadership changes: what a leader says when it gives it up, and what the next one saw of the one before.
//! For people; no rule looks at it.

use std::time::Duration;

use pgvane_cluster::changes::{Cause, Change, Farewell};
use pgvane_cluster::clock::Tick;
use pgvane_cluster::ids::{Epoch, NodeName};
use pgvane_cluster::records::{FailoverRecord, HistoryEntry};
use pgvane_cluster::view::ClusterView;

use super::action::{Reason, Request};
use super::world::{Local, Process, World};

/// What this node sees of leaders that are others.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct Witness {
    leader: Option<Led>,
    /// The last time that nobody led: until another one does, also while we do.
    pub vacancy: Option<Vacancy>,
}

/// A reign of another member, as it was last seen.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Led {
    /// Who leads.
    pub by: NodeName,
    /// In which reign.
    pub epoch: Epoch,
    /// Whether its agent is ours.
    pub is_native: bool,
    address: Option<(String, u16)>,
    /// Since when our server, that is to stream from there, has not.
    unfed_since: Option<Tick>,
}

/// The end of a reign.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Vacancy {
    /// When the key was seen to be gone.
    pub since: Tick,
    /// The reign.
    pub of: Led,
    /// Whether the member's own record outlived its key: its lease had not ended.
    pub still_a_member: bool,
    /// What an operator had asked for.
    pub request: Option<FailoverRecord>,
}

impl Witness {
    /// Takes in what is seen.
    pub(super) fn note(&mut self, now: Tick, view: &ClusterView, local: &Local, me: &NodeName) {
        match &view.leader {
            Some(key) if key.name == *me => self.leader = None,
            Some(key) => {
                let before = self.leader.take().filter(|led| led.epoch == key.epoch);
                let member = view.leader_member();
                let mut led = Led {
                    by: key.name.clone(),
                    epoch: key.epoch,
                    is_native: member.map_or_else(
                        || before.as_ref().is_some_and(|led| led.is_native),
                        |m| m.record.is_native(),
                    ),
                    address: member
                        .and_then(|m| m.record.postgres_address())
                        .or_else(|| before.as_ref().and_then(|led| led.address.clone())),
                    unfed_since: None,
                };
                led.unfed_since = unfed_since(local, &led, before.and_then(|led| led.unfed_since));
                self.leader = Some(led);
                self.vacancy = None;
            }
            None => {
                if let Some(of) = self.leader.take() {
                    let still_a_member = view.members.contains_key(&of.by);
                    let request = view.failover.as_ref().map(|f| f.value.clone());
                    self.vacancy = Some(Vacancy { since: now, of, still_a_member, request });
                }
            }
        }
    }
}

fn unfed_since(local: &Local, led: &Led, before: Option<Tick>) -> Option<Tick> {
    let sql = local.sql.as_ref().filter(|sql| local.process == Process::Running && sql.in_recovery)?;
    let is_unfed = !sql.streaming && sql.upstream.is_some() && sql.upstream == led.address;
    is_unfed.then(|| before.unwrap_or(sql.asked_at))
}

impl Vacancy {
    /// Why the leader leads no more, as far as that can be told without a word from it.
    fn cause(&self) -> Option<Cause> {
        if !self.still_a_member {
            return Some(Cause::LeaseEnded);
        }
        if self.of.is_native {
            return Some(Cause::KeyDeleted);
        }
        // Patroni says why in its log alone; but it gives its key up where it was asked to.
        let asked = self.request.as_ref().filter(|request| request.scheduled_at.is_none())?;
        Some(requested(asked))
    }
}

fn requested(request: &FailoverRecord) -> Cause {
    if request.leader.is_some() { Cause::Switchover } else { Cause::Failover }
}

/// What a leader leaves behind that gives up its reign of `epoch` for this reason.
pub fn farewell(world: &World, epoch: Epoch, reason: &Reason) -> Farewell {
    let cause = why(world, reason);
    Farewell {
        epoch,
        detail: (cause == Cause::GaveUp).then(|| reason.to_string()),
        cause,
        down_ms: world.memory.down_since.map(|since| millis(world.now.since(since))),
    }
}

fn why(world: &World, reason: &Reason) -> Cause {
    let asked = world.memory.hand_over.map(|hand_over| hand_over.request);
    match (asked, reason) {
        (Some(Request::Operator(revision)), _) => {
            let view = world.dcs.last_view();
            let request = view.and_then(|view| view.failover.as_ref());
            let request = request.filter(|request| request.mod_revision == revision);
            request.map_or(Cause::Switchover, |request| requested(&request.value))
        }
        (Some(Request::Shutdown), _) | (None, Reason::Shutdown) => Cause::AgentStopped,
        (_, Reason::StartTimeout) => Cause::StartTimeout,
        (_, Reason::RestartFailed) => Cause::RestartFailed,
        (_, Reason::StartFailed) => Cause::StartFailed,
        (_, Reason::HoldsAll(_)) if world.memory.crashed_at.is_some() => Cause::PostgresCrashed,
        (_, _) => Cause::GaveUp,
    }
}

/// The change of leader that a promotion completed at `promoted`; `entry` is the line of `history` that it began,
/// `farewell` the last word of any leader.
pub fn change(
    vacancy: Option<&Vacancy>,
    farewell: Option<&Farewell>,
    promoted: Tick,
    entry: &HistoryEntry,
) -> Change {
    let farewell = farewell.filter(|f| vacancy.is_some_and(|vacancy| vacancy.of.epoch == f.epoch));
    let cause = farewell.map(|f| f.cause.clone()).or_else(|| vacancy.and_then(Vacancy::cause));
    let unfed = vacancy.and_then(|v| v.of.unfed_since.map(|since| v.since.since(since)));
    Change {
        timeline: entry.timeline,
        switch_lsn: entry.switch_lsn,
        from: vacancy.map(|v| v.of.by.clone()),
        cause,
        detail: farewell.and_then(|f| f.detail.clone()),
        down_ms: farewell.and_then(|f| f.down_ms),
        unfed_ms: unfed.map(millis),
        leaderless_ms: vacancy.map(|v| millis(promoted.since(v.since))),
    }
}

fn millis(length: Duration) -> u64 {
    u64::try_from(length.as_millis()).unwrap_or(u64::MAX)
}
