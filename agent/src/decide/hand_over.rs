//! Handing leadership over without losing a row: check, checkpoint, stop, confirm, release.
//!
//! The key is kept until a candidate is known to hold the shutdown checkpoint; if none does in time,
//! PostgreSQL starts again here and the request is dropped. So a planned change never loses a commit (S2).

use std::time::Duration;

use pgvane_cluster::ids::{Lsn, NodeName};
use pgvane_cluster::records::FailoverRecord;
use pgvane_cluster::view::{ClusterView, LeaderKey, Versioned};

use super::action::{Action, Decision, Reason, Request};
use super::memory::HandOver;
use super::schedule;
use super::sync::{self, Rule};
use super::world::{Dcs, Holder, LocalRole, Peer, Process, Slot, World};

/// How old the answers of the others may be when a hand-over begins.
const ANSWERS_MAX_AGE: Duration = Duration::from_secs(1);

/// How long the candidates get to confirm the shutdown checkpoint.
const CONFIRM_LIMIT: Duration = Duration::from_secs(2);

/// The next step of a hand-over, when one is wanted or under way.
pub(super) fn check(world: &World, view: &ClusterView, key: &LeaderKey) -> Option<Decision> {
    if let Some(HandOver { request, stopped: Some((at, lsn)), .. }) = world.memory.hand_over
        && world.local.process == Process::Absent
    {
        return Some(finish(world, view, key, request, (at, lsn)));
    }
    if world.memory.shutdown {
        return None;
    }
    let serving = world.local.process == Process::Running && world.local.role == LocalRole::Primary;
    if !serving {
        return None;
    }
    if let Some(HandOver { request: Request::Operator(revision), stopped: Some(_), .. }) =
        world.memory.hand_over
    {
        // It stopped for this request and had to start again: once more would be one more outage for nothing.
        return Some(world.act(Action::ClearRequest { revision }, Reason::HandOverTimeout));
    }
    let wanted = view.failover.as_ref()?;
    if wanted.value.scheduled_at.is_some() {
        return schedule::switchover(world, wanted);
    }
    if waits_for_others(world, view) {
        return None;
    }
    Some(begin(world, view, key, wanted))
}

/// Whether a hand-over is wanted now and will begin when the others may lead.
pub(super) fn waits_for_others(world: &World, view: &ClusterView) -> bool {
    let is_wanted = view.failover.as_ref().is_some_and(|wanted| wanted.value.scheduled_at.is_none());
    is_wanted && others_may_be_bound(world)
}

/// Whether a member may still be bound by a promise not to race, given to us in an outage of the store that has just ended:
/// it could not take over, whatever it holds. To serve on until then costs nobody anything.
fn others_may_be_bound(world: &World) -> bool {
    // Who answers late promises from then on.
    let longest = world.settings.ttl + world.timing.renew_interval;
    world.memory.consent_asked_at.is_some_and(|asked| world.now.since(asked) < longest)
}

/// The key of a reign that we gave up still shows. Its deletion was not answered, so it is asked for again; or it
/// was, and the view is late. To act on the key would be to act without it.
pub(super) fn given_up(world: &World) -> Option<Decision> {
    let Dcs::Known(view) = &world.dcs else { return None };
    let Holder::Me(key) = world.holder(view) else { return None };
    let released = world.memory.released.filter(|released| released.epoch == key.epoch)?;
    // While the server could still write (an operator's pause lets it) the key is left alone: whatever else stops
    // the server comes first.
    if released.done || world.may_write() {
        return Some(world.wait_briefly(Reason::LetOthersLead));
    }
    let optime = world.memory.hand_over.and_then(|h| h.stopped).and_then(|(_, lsn)| lsn);
    Some(world.act(Action::Release { epoch: key.epoch, optime }, Reason::LetOthersLead))
}

/// Judges the operator's request and takes its next step.
fn begin(
    world: &World,
    view: &ClusterView,
    key: &LeaderKey,
    request: &Versioned<FailoverRecord>,
) -> Decision {
    let record = &request.value;
    let clear = |reason| world.act(Action::ClearRequest { revision: request.mod_revision }, reason);
    if record.leader.as_ref().is_some_and(|leader| *leader != world.me) {
        return clear(Reason::RequestForAnotherLeader);
    }
    if record.leader.is_some() && request.mod_revision.0 < key.epoch.0 {
        // It was about an earlier reign of ours, which was given up for it, and nobody else wanted the key.
        return clear(Reason::HandOverTimeout);
    }
    if record.member.as_ref() == Some(&world.me) {
        return clear(Reason::RequestForLeader);
    }
    if world.settings.pause && record.member.is_none() {
        return clear(Reason::PausedWithoutCandidate);
    }
    prepare(world, view, Request::Operator(request.mod_revision), record.member.as_ref(), clear)
}

/// The steps before the stop, the same for an operator's request and for the agent's own end.
pub(super) fn prepare(
    world: &World,
    view: &ClusterView,
    request: Request,
    named: Option<&NodeName>,
    give_up: impl Fn(Reason) -> Decision,
) -> Decision {
    let prepared = world.memory.hand_over.filter(|h| h.request == request).is_some_and(|h| h.checkpointed);
    if prepared {
        return world.act(Action::StopToHandOver { request }, Reason::RequestedBy(request));
    }
    if world.now.since(world.peers.asked_at) > ANSWERS_MAX_AGE {
        return world.act(Action::PollPeers, Reason::RequestedBy(request));
    }
    let floor = Lsn(view
        .status
        .as_ref()
        .map_or(0, |s| s.optime.0)
        .saturating_sub(world.settings.maximum_lag_on_failover));
    if ready(world, view, named, floor).is_none() || (named.is_none() && !has_votes(world, view)) {
        return give_up(Reason::NoCandidate);
    }
    world.act(Action::Checkpoint { request }, Reason::RequestedBy(request))
}

/// After the stop: release once a candidate has everything, start again when none has in time.
fn finish(
    world: &World,
    view: &ClusterView,
    key: &LeaderKey,
    request: Request,
    (stopped_at, shutdown_lsn): (pgvane_cluster::clock::Tick, Option<Lsn>),
) -> Decision {
    let named = match request {
        Request::Operator(_) => view.failover.as_ref().and_then(|f| f.value.member.clone()),
        Request::Shutdown | Request::Restart(_) => None,
    };
    let confirmed = (world.peers.asked_at >= stopped_at)
        .then_some(shutdown_lsn)
        .flatten()
        .and_then(|lsn| ready(world, view, named.as_ref(), lsn));
    if let Some(candidate) = confirmed {
        let release = Action::Release { epoch: key.epoch, optime: shutdown_lsn };
        return world.act(release, Reason::CandidateReady(candidate.clone()));
    }
    if shutdown_lsn.is_none()
        && let Some(decision) = to_heir(world, view, key, stopped_at)
    {
        return decision;
    }
    let late = shutdown_lsn.is_none() || world.now.since(stopped_at) > CONFIRM_LIMIT;
    if late {
        return match request {
            // Nobody has it all: serving on loses nothing.
            Request::Operator(_) if !world.memory.shutdown && super::unfit::reason(world).is_none() => {
                world.guarded(key.epoch, Action::StartPrimary, Reason::HandOverTimeout)
            }
            Request::Operator(_) | Request::Shutdown | Request::Restart(_) => {
                let release = Action::Release { epoch: key.epoch, optime: shutdown_lsn };
                world.act(release, Reason::HandOverTimeout)
            }
        };
    }
    if !world.free(Slot::Peers) {
        return world.wait_briefly(Reason::Busy(Slot::Peers));
    }
    let ask_again = world.peers.asked_at + super::SOON;
    if world.peers.asked_at >= stopped_at && world.now < ask_again {
        // Where nobody is left to ask, or all refuse, a round is over at once.
        return world.wait_until(ask_again, Reason::RequestedBy(request));
    }
    world.act(Action::PollPeers, Reason::RequestedBy(request))
}

/// The named candidate, or the best of all, among those that may lead and have WAL up to `floor`.
pub(super) fn ready<'a>(
    world: &'a World,
    view: &ClusterView,
    named: Option<&NodeName>,
    floor: Lsn,
) -> Option<&'a NodeName> {
    let rule = Rule::of(world, view);
    // A failover, unlike a switchover, is the operator's override (trap 16).
    let overrides = named.is_some()
        && view
            .failover
            .as_ref()
            .is_some_and(|f| f.value.leader.is_none() && f.value.member.as_ref() == named);
    let in_sync = |name: &NodeName| overrides || rule.admits(name);
    world
        .peers
        .answers
        .iter()
        .filter(|(name, _)| **name != world.me && named.is_none_or(|n| n == *name) && in_sync(name))
        .filter_map(|(name, answer)| match answer {
            Peer::Answered { is_primary: false, running: true, position, tags, .. }
                if tags.may_lead() && *position >= floor =>
            {
                Some((name, *position))
            }
            Peer::Answered { .. } | Peer::Unreachable => None,
        })
        .max_by_key(|(name, position)| (*position, std::cmp::Reverse(*name)))
        .map(|(name, _)| name)
}

/// Whether whoever takes over will find the votes it needs.
fn has_votes(world: &World, view: &ClusterView) -> bool {
    let rule = Rule::of(world, view);
    let answers = world.peers.answers.iter().filter(|(name, _)| **name != world.me && rule.is_voter(name));
    let running = answers
        .filter(|(_, answer)| matches!(answer, Peer::Answered { is_primary: false, running: true, .. }));
    // One of them is the one that takes over.
    running.count() > rule.quorum() || rule.quorum() == 0
}

/// PostgreSQL ended unasked under us: in synchronous mode the others are asked once, and one that surely holds all
/// that was acknowledged takes over; otherwise it is started again in place.
pub(super) fn after_crash(world: &World, key: &LeaderKey) -> Option<Decision> {
    let Dcs::Known(view) = &world.dcs else { return None };
    to_heir(world, view, key, world.memory.crashed_at?)
}

/// Our server ended at `ended`, and its WAL may not have reached anybody: hand over to a member that holds what
/// matters all the same.
fn to_heir(
    world: &World,
    view: &ClusterView,
    key: &LeaderKey,
    ended: pgvane_cluster::clock::Tick,
) -> Option<Decision> {
    let rule = Rule::of(world, view);
    let somebody = view.members.keys().any(|name| *name != world.me && rule.is_voter(name));
    if !somebody || !rule.was_led_by(&world.me) {
        return None;
    }
    // A start that failed may have acknowledged something, too.
    let ended = world.memory.sync.started_at.map_or(ended, |at| at.max(ended));
    if world.peers.asked_at < ended {
        return Some(world.act(Action::PollPeers, Reason::Crashed));
    }
    let heir = sync::heir(world, view, key, ended)?;
    let release = Action::Release { epoch: key.epoch, optime: None };
    Some(world.act(release, Reason::HoldsAll(heir.clone())))
}

/// Whether any other member could lead at all, by the records.
pub(super) fn somebody_else(world: &World, view: &ClusterView) -> bool {
    let rule = Rule::of(world, view);
    view.members.iter().any(|(name, m)| {
        *name != world.me
            && rule.admits(name)
            && m.record.tags.may_lead()
            && m.record.state == pgvane_cluster::records::MemberState::Running
    })
}

/// Whether the others told recently enough where they are.
pub(super) fn answers_are_fresh(world: &World) -> bool {
    world.now.since(world.peers.asked_at) <= ANSWERS_MAX_AGE
}
