//! Another member leads: run as its standby.

use std::time::Duration;

use pgvane_cluster::clock::Tick;
use pgvane_cluster::reigns::Lineage;
use pgvane_cluster::view::{ClusterView, LeaderKey};

use super::action::{Action, Decision, Reason, StopMode};
use super::reign::{self, Word};
use super::world::{Process, Sql, Upstream, World};
use super::{candidate, reinit, restart, sync};

/// How long a standby may go without streaming from a serving leader before its history is compared.
const STARVED_LIMIT: Duration = Duration::from_secs(5);

/// The step of a follower.
pub(super) fn decide(world: &World, view: &ClusterView, key: &LeaderKey) -> Decision {
    let leader_serves = view.leader_member().is_some_and(|m| m.record.is_serving_primary());
    let not_serving = || world.wait(Reason::LeaderNotServing(key.name.clone()));
    if let Some(decision) = reinit::check(world, view) {
        return decision;
    }
    let Some(leader) = world.upstream(&key.name) else { return not_serving() };
    if let Some(decision) = world.stale_guard() {
        return decision;
    }
    if let Some(decision) = restart::start_standby(world, upstream_of(world, view)) {
        return decision;
    }
    match world.local.process {
        Process::Absent if leader_serves => rejoin(world, view, key, leader, Reason::NotRunning),
        // A standby can serve reads already; a former primary has to wait, its history can only be compared with a
        // leader that serves. Of nobody at first: which timelines a stopped server has WAL of shows when it runs.
        Process::Absent if super::data::is_stopped_primary(world) => not_serving(),
        Process::Absent => world.act(Action::StartStandby { upstream: None }, Reason::NotRunning),
        Process::Starting { since }
            if leader_serves
                && lacks_wal(world, since, [&leader, &wanted_upstream(world, view, &leader)]) =>
        {
            world.act(Action::Stop { how: StopMode::Fast }, Reason::StartsOfNobody)
        }
        Process::Starting { .. } => world.wait(Reason::Starting),
        Process::Stopping => world.wait(Reason::Busy(super::Slot::Postgres)),
        Process::Running => restart::of_standby(world, view).unwrap_or_else(|| match &world.local.sql {
            None => world.wait_briefly(Reason::PositionUnknown),
            Some(sql) => follow(world, view, key, sql, &leader, leader_serves),
        }),
    }
}

/// Whether a server that starts may never come to answer: the data of a copy or of a rewind are not consistent
/// before it has WAL that only a leader has, and it was not pointed at one of `right` by this agent. It is stopped
/// once, and rejoins.
fn lacks_wal(world: &World, since: Tick, right: [&Upstream; 2]) -> bool {
    let is_right = world.memory.pointed_at.as_ref().is_some_and(|upstream| right.contains(&upstream));
    world.now.since(since) > STARVED_LIMIT && !is_right
}

/// Compares histories with the leader, once it has told its own.
fn rejoin(world: &World, view: &ClusterView, key: &LeaderKey, leader: Upstream, reason: Reason) -> Decision {
    match reign::word(&world.settings, view, key) {
        Word::Expected => world.wait_briefly(Reason::HistoryExpected(key.name.clone())),
        Word::Told(_) | Word::None => world.act(Action::Rejoin { leader }, reason),
    }
}

fn follow(
    world: &World,
    view: &ClusterView,
    key: &LeaderKey,
    sql: &Sql,
    leader: &Upstream,
    leader_serves: bool,
) -> Decision {
    let told = reign::word(&world.settings, view, key);
    let ours = &world.memory.descent;
    let parted = matches!(reign::lineage(ours, sql.timeline, told), Lineage::Parted(_))
        || world.memory.parted == Some(key.epoch)
        || candidate::has_diverged(view, sql.timeline, sql.position);
    if leader_serves && parted {
        return rejoin(world, view, key, leader.clone(), Reason::Diverged);
    }
    let upstream = wanted_upstream(world, view, leader);
    if sql.upstream.as_ref() != Some(&(upstream.host.clone(), upstream.port)) {
        if parted || !leader_serves && !reign::may_follow_early(view, ours, sql.timeline, &key.name) {
            return world.wait(Reason::LeaderNotServing(key.name.clone()));
        }
        if leader_serves && told == Word::Expected {
            return world.wait_briefly(Reason::HistoryExpected(key.name.clone()));
        }
        return world.act(Action::Follow { upstream }, Reason::WrongUpstream);
    }
    let limit = STARVED_LIMIT + leaders_loop(world, view);
    let starved = world.memory.not_streaming_since.is_some_and(|since| world.now.since(since) > limit);
    if starved && leader_serves {
        return rejoin(world, view, key, leader.clone(), Reason::CannotStream);
    }
    sync::stand_by(world, view, sql).unwrap_or_else(|| world.wait(Reason::Following))
}

/// Whom to follow while another member leads; `None` where its record tells no address.
pub(super) fn upstream_of(world: &World, view: &ClusterView) -> Option<Upstream> {
    let leader = world.upstream(&view.leader.as_ref()?.name)?;
    Some(wanted_upstream(world, view, &leader))
}

/// Whether a running standby points elsewhere than it should.
pub(super) fn wrong_upstream(world: &World, view: &ClusterView) -> Option<Decision> {
    let sql = world.local.sql.as_ref().filter(|sql| sql.in_recovery)?;
    let upstream = upstream_of(world, view)?;
    let right = sql.upstream.as_ref() == Some(&(upstream.host.clone(), upstream.port));
    (!right).then(|| world.act(Action::Follow { upstream }, Reason::WrongUpstream))
}

/// How long the leader may take to see us: a Patroni daemon makes our slot in its next loop.
fn leaders_loop(world: &World, view: &ClusterView) -> Duration {
    let is_patroni = view.leader_member().is_some_and(|leader| !leader.record.is_native());
    if is_patroni { world.settings.loop_wait } else { Duration::ZERO }
}

/// The leader, or the member that our tags name, while it exists and is not ourselves.
fn wanted_upstream(world: &World, view: &ClusterView, leader: &Upstream) -> Upstream {
    world
        .tags
        .replicate_from()
        .filter(|name| *name != world.me && view.members.contains_key(name))
        .and_then(|name| world.upstream(&name))
        .unwrap_or_else(|| leader.clone())
}
