//! Another member leads: run as its standby.

use std::time::Duration;

use pgvane_cluster::view::{ClusterView, LeaderKey};

use super::action::{Action, Decision, Reason};
use super::candidate;
use super::world::{Process, Sql, Upstream, World};

/// How long a standby may go without streaming from a serving leader before its history is compared.
const STARVED_LIMIT: Duration = Duration::from_secs(5);

/// The step of a follower.
pub(super) fn decide(world: &World, view: &ClusterView, key: &LeaderKey) -> Decision {
    let leader_serves = view.leader_member().is_some_and(|m| m.record.is_serving_primary());
    let not_serving = || world.wait(Reason::LeaderNotServing(key.name.clone()));
    let Some(leader) = world.upstream(&key.name) else { return not_serving() };
    if let Some(decision) = world.stale_guard() {
        return decision;
    }
    match world.local.process {
        Process::Absent if leader_serves => world.act(Action::Rejoin { leader }, Reason::NotRunning),
        // A standby of a leader that is not ready yet can already serve reads; a former primary has to wait,
        // its history can only be compared with a leader that serves.
        Process::Absent if super::data::is_stopped_primary(world) => not_serving(),
        Process::Absent => world.act(Action::StartStandby { upstream: Some(leader) }, Reason::NotRunning),
        Process::Starting { .. } => world.wait(Reason::Starting),
        Process::Stopping => world.wait(Reason::Busy(super::Slot::Postgres)),
        Process::Running => match &world.local.sql {
            None => world.wait_briefly(Reason::PositionUnknown),
            Some(sql) => follow(world, view, sql, &leader, leader_serves),
        },
    }
}

fn follow(world: &World, view: &ClusterView, sql: &Sql, leader: &Upstream, leader_serves: bool) -> Decision {
    if leader_serves && candidate::has_diverged(view, sql.timeline, sql.position) {
        return world.act(Action::Rejoin { leader: leader.clone() }, Reason::Diverged);
    }
    let upstream = wanted_upstream(world, view, leader);
    if sql.upstream.as_ref() != Some(&(upstream.host.clone(), upstream.port)) {
        return world.act(Action::Follow { upstream }, Reason::WrongUpstream);
    }
    let limit = STARVED_LIMIT + leaders_loop(world, view);
    let starved = world.memory.not_streaming_since.is_some_and(|since| world.now.since(since) > limit);
    if starved && leader_serves {
        return world.act(Action::Rejoin { leader: leader.clone() }, Reason::CannotStream);
    }
    world.wait(Reason::Following)
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
