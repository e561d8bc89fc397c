//! May this node lead, and is it the best? A total order without ties, over live positions.
//!
//! Order: the newer timeline, then the newer promotion to it, then the further position, then the higher priority,
//! then the smaller name.
//! Timelines come first because a server that never followed the last promotion may hold a longer history
//! that was never acknowledged to anybody (trap 3).

use std::cmp::Reverse;
use std::time::Duration;

use pgvane_cluster::clock::Tick;
use pgvane_cluster::ids::{Epoch, Lsn, NodeName, Timeline};
use pgvane_cluster::records::MemberState;
use pgvane_cluster::view::ClusterView;

use super::action::Reason;
use super::reign;
use super::sync::Rule;
use super::world::{Peer, Slot, Sql, World};

/// How old the others' answers may be when a node campaigns on them.
const ANSWERS_MAX_AGE: Duration = Duration::from_secs(1);

/// How long an equal candidate waits for each one that goes before it, so that one transaction is enough.
const RANK_DELAY: Duration = Duration::from_millis(100);

/// How long the candidate an operator named is waited for.
const NAMED_PATIENCE: Duration = Duration::from_secs(3);

/// How often the others are asked again while one of them is waited for.
const ASK_AGAIN: Duration = Duration::from_millis(200);

/// How long a candidate waits for its own position of after the leader was gone.
const FRESH_WITHIN: Duration = Duration::from_millis(300);

/// How soon WAL that is still being received shows.
const WAL_GROWS_WITHIN: Duration = Duration::from_millis(700);

/// What a node concludes about itself while nobody leads.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Verdict {
    /// Create the leader key.
    Campaign,
    /// The others' positions are needed first.
    Ask,
    /// Not now; judge again at this time.
    Wait(Reason, Tick),
}

/// Judges this node, a running standby (or a primary that all others vouch for).
pub fn judge(world: &World, view: &ClusterView) -> Verdict {
    let now = world.now;
    let since = world.memory.leaderless_since.unwrap_or(now);
    let never = now + world.timing.renew_interval;
    if let Some(vouch) = &world.memory.vouch {
        return Verdict::Wait(Reason::WeVouchedFor(vouch.leader.clone()), vouch.until);
    }
    let Some(sql) = &world.local.sql else {
        return Verdict::Wait(Reason::PositionUnknown, now + super::SOON);
    };
    if sql.asked_at < since && now < since + FRESH_WITHIN {
        return Verdict::Wait(Reason::PositionUnknown, now + super::SOON);
    }
    if world.may_write() {
        // All others vouch for us (safety would have stopped us otherwise): the key is ours to renew.
        return Verdict::Campaign;
    }
    let request = view.failover.as_ref().map(|f| &f.value).filter(|r| r.scheduled_at.is_none());
    let named = request.and_then(|r| r.member.as_ref());
    let is_named = named == Some(&world.me);
    // A failover, unlike a switchover, overrides synchronous replication and a missed promotion (trap 16).
    let overrides = is_named && request.is_some_and(|r| r.leader.is_none());
    if let Some(reason) = unable(world, view).or_else(|| unsuited(world, view, sql, overrides)) {
        return Verdict::Wait(reason, never);
    }
    let rule = Rule::of(world, view);
    let needs_votes = rule.votes_needed(&world.me) > 0;
    if is_named && (overrides || !needs_votes) {
        // The operator's word, and a leader that handed over has seen that we hold everything.
        return Verdict::Campaign;
    }
    let patience = since + NAMED_PATIENCE;
    if is_named {
        return match votes(world, view, sql, since) {
            // All others wait for the one that the operator named.
            Verdict::Wait(Reason::AfterPeer(_), _) => Verdict::Campaign,
            verdict => verdict,
        };
    }
    let was_leader = request.and_then(|r| r.leader.as_ref()) == Some(&world.me);
    if now < patience && (named.is_some() || was_leader) {
        let who = named.cloned().unwrap_or_else(|| world.me.clone());
        return Verdict::Wait(Reason::CandidateNamed(who), patience);
    }
    if is_too_far_behind(world, view, sql) {
        return Verdict::Wait(Reason::TooFarBehind, never);
    }
    if is_of_older_timeline(world, view, sql) {
        return Verdict::Wait(Reason::OlderTimeline, never);
    }
    // The word of a leader that may have been stopped is no vote.
    if let Some(leader) = released_cleanly(world, view, sql).filter(|_| !needs_votes) {
        return after_release(world, view, &leader, since);
    }
    if let Some(until) = waits_for_wal(world, sql, since).filter(|_| request.is_none()) {
        return Verdict::Wait(Reason::WalStillComes, until);
    }
    votes(world, view, sql, since)
}

/// By the answers of the others, once they have been asked.
fn votes(world: &World, view: &ClusterView, sql: &Sql, since: Tick) -> Verdict {
    if world.peers.asked_at < since || world.now.since(world.peers.asked_at) > ANSWERS_MAX_AGE {
        return Verdict::Ask;
    }
    compare(world, view, sql, since)
}

/// What no wish of an operator changes: tags, the watchdog, and what the others' promises rest on (S1).
fn unable(world: &World, view: &ClusterView) -> Option<Reason> {
    if !world.tags.may_lead() {
        return Some(Reason::NoFailoverTag);
    }
    if let Some(reason) = super::unfit::reason(world) {
        return Some(reason);
    }
    let listed = |f: &pgvane_cluster::records::FailsafeRecord| f.0.is_empty() || f.0.contains_key(&world.me);
    // A leader that is cut off may not know yet that the mode was switched off, and lead on by the word of those on
    // its list. It empties the list when it knows; a Patroni daemon leaves it as it is.
    let in_force = world.settings.failsafe_mode || !world.memory.led_by_patroni;
    (in_force && !view.failsafe.as_ref().is_none_or(listed)).then_some(Reason::NotInFailsafe)
}

/// What would lose commits if this node led.
fn unsuited(world: &World, view: &ClusterView, sql: &Sql, overrides: bool) -> Option<Reason> {
    if world.settings.standby_cluster.is_some() {
        // Its timelines and commits are another cluster's.
        return None;
    }
    if !overrides && !Rule::of(world, view).admits(&world.me) {
        return Some(Reason::NotSynchronous);
    }
    let parted = reign::parted_from_cluster(view, &world.memory.descent, sql.timeline);
    (parted || has_diverged(view, sql.timeline, sql.position)).then_some(Reason::Diverged)
}

/// Whether the cluster was on a newer timeline already (trap 3), where that counts.
fn is_of_older_timeline(world: &World, view: &ClusterView, sql: &Sql) -> bool {
    let counts = world.settings.check_timeline && world.settings.standby_cluster.is_none();
    counts && view.cluster_timeline().is_some_and(|cluster| sql.timeline < cluster)
}

/// Until when to wait because the old primary still sends WAL, at most `primary_race_backoff`.
fn waits_for_wal(world: &World, sql: &Sql, since: Tick) -> Option<Tick> {
    let end = since + world.settings.primary_race_backoff;
    let counts = sql.streaming && world.now < end && world.settings.standby_cluster.is_none();
    // In the beginning nobody can tell whether it still grows.
    let grew = world.memory.wal_grew.map_or(since, |(_, at)| at.max(since));
    let until = (grew + WAL_GROWS_WITHIN).min(end);
    (counts && world.now < until).then_some(until)
}

fn is_too_far_behind(world: &World, view: &ClusterView, sql: &Sql) -> bool {
    let lag = view.status.as_ref().map_or(0, |s| s.optime.bytes_since(sql.position));
    lag > world.settings.maximum_lag_on_failover
}

/// Whether a server at `position` of `timeline` holds WAL that the cluster's history does not: it went past
/// the point where the next timeline began.
pub fn has_diverged(view: &ClusterView, timeline: Timeline, position: Lsn) -> bool {
    // Where its own line is no longer listed, it ended before the next one did.
    let ended = view.history.as_ref().and_then(|h| h.0.iter().find(|e| e.timeline >= timeline));
    ended.is_some_and(|entry| position > entry.switch_lsn)
}

/// The leader that released the key after a clean stop, when we hold everything it wrote: nobody can be ahead.
fn released_cleanly(world: &World, view: &ClusterView, sql: &Sql) -> Option<NodeName> {
    let leader = world.memory.last_leader.clone().filter(|l| *l != world.me)?;
    let record = &view.members.get(&leader)?.record;
    let optime = view.status.as_ref()?.optime;
    // A server that missed the last promotion may hold more WAL and still not what the leader wrote.
    let newest = view.members.values().filter_map(|m| m.record.timeline).max().max(view.cluster_timeline());
    if newest.is_some_and(|timeline| sql.timeline < timeline) {
        return None;
    }
    (record.state == MemberState::Stopped && optime > Lsn(0) && sql.position >= optime).then_some(leader)
}

/// All of equal standing by their records: each waits for those with a higher priority or a smaller name.
fn after_release(world: &World, view: &ClusterView, leader: &NodeName, since: Tick) -> Verdict {
    let mine = (Reverse(world.tags.failover_priority()), &world.me);
    let before: Vec<&NodeName> = view
        .members
        .iter()
        .filter(|(name, m)| **name != world.me && *name != leader && m.record.tags.may_lead())
        .filter(|(_, m)| m.record.state == MemberState::Running)
        .filter(|(name, m)| (Reverse(m.record.tags.failover_priority()), *name) < mine)
        .map(|(name, _)| name)
        .collect();
    wait_for_turn(world, since, &before)
}

fn wait_for_turn(world: &World, since: Tick, before: &[&NodeName]) -> Verdict {
    let turn = since + RANK_DELAY * u32::try_from(before.len()).unwrap_or(u32::MAX);
    match before.first() {
        Some(first) if world.now < turn => Verdict::Wait(Reason::AfterPeer((*first).clone()), turn),
        Some(_) | None => Verdict::Campaign,
    }
}

/// Compares our live position with the others'. In synchronous mode only with those that may race too, and their
/// votes are counted.
fn compare(world: &World, view: &ClusterView, sql: &Sql, since: Tick) -> Verdict {
    let rule = Rule::of(world, view);
    let mut votes = 0;
    let ask_again = world.peers.asked_at + ASK_AGAIN;
    let again = |reason| {
        if world.now >= ask_again && world.free(Slot::Peers) {
            Verdict::Ask
        } else {
            Verdict::Wait(reason, ask_again)
        }
    };
    let mut before = Vec::new();
    for (name, answer) in world.peers.answers.iter().filter(|(name, _)| **name != world.me) {
        let Peer::Answered { is_primary, running, timeline, position, fresh, tags } = answer else {
            continue;
        };
        if *is_primary {
            return again(Reason::PrimaryAlive(name.clone()));
        }
        let timeline = timeline_of(view, name, *timeline, sql);
        let (our_epoch, their_epoch) = epochs(world, view, name, timeline, sql);
        let theirs = (timeline, their_epoch, *position);
        let ours = (sql.timeline, our_epoch, sql.position);
        if rule.is_voter(name) && *running && *fresh && *position > Lsn(0) && theirs <= ours {
            votes += 1;
        }
        if !running || !tags.may_lead() || !rule.admits(name) || (theirs > ours && rule.was_led_by(name)) {
            continue;
        }
        if theirs > ours {
            // Never for ever: a member that is ahead but cannot reach the store would block everybody.
            if world.now.since(since) < world.settings.ttl {
                return again(Reason::BehindPeer(name.clone()));
            }
        } else if theirs == ours
            && (Reverse(tags.failover_priority()), name)
                < (Reverse(world.tags.failover_priority()), &world.me)
        {
            before.push(name);
        }
    }
    let needed = rule.votes_needed(&world.me);
    if votes < needed {
        return again(Reason::VotesMissing { votes, needed });
    }
    wait_for_turn(world, since, &before)
}

/// The timeline of a peer that answered. One that does not tell counts as what its record says, else as ours: it is
/// waited for if it holds more WAL, which may have been acknowledged, and it holds nobody up for longer than that.
fn timeline_of(view: &ClusterView, name: &NodeName, told: Option<Timeline>, sql: &Sql) -> Timeline {
    told.or_else(|| view.members.get(name)?.record.timeline).unwrap_or(sql.timeline)
}

/// Which promotions began our and a peer's timeline, where both are known and the number is one: the WAL of the later
/// reign is the cluster's, however far the other got. Else the numbers decide alone.
fn epochs(
    world: &World,
    view: &ClusterView,
    name: &NodeName,
    timeline: Timeline,
    sql: &Sql,
) -> (Option<Epoch>, Option<Epoch>) {
    let is_of_record = view.members.get(name).is_some_and(|m| m.record.timeline == Some(timeline));
    let theirs = reign::told(view, name).filter(|_| is_of_record && timeline == sql.timeline);
    match (world.memory.descent.known.0.get(&sql.timeline), theirs) {
        (Some(ours), Some(theirs)) => (Some(ours.epoch), Some(theirs.epoch)),
        (Some(_) | None, _) => (None, None),
    }
}
