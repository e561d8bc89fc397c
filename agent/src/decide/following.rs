//! Another member leads: run as its standby.

use std::collections::BTreeSet;
use std::time::Duration;

use pgvane_cluster::clock::Tick;
use pgvane_cluster::ids::NodeName;
use pgvane_cluster::records::MemberState;
use pgvane_cluster::reigns::Lineage;
use pgvane_cluster::view::{ClusterView, LeaderKey};

use super::action::{Action, Decision, Reason, StopMode};
use super::reign::{self, Word};
use super::world::{DataDir, Process, Sql, Upstream, World};
use super::{candidate, reinit, restart, route, standby_leader, sync};

/// How long a standby may go without streaming from a serving leader before its history is compared.
pub(super) const STARVED_LIMIT: Duration = Duration::from_secs(5);

/// The step of a follower.
pub(super) fn decide(world: &World, view: &ClusterView, key: &LeaderKey) -> Decision {
    let leader_serves = standby_leader::serves(world, view);
    let not_serving = || world.wait(Reason::LeaderNotServing(key.name.clone()));
    if let Some(decision) = reinit::check(world, view) {
        return decision;
    }
    let Some(leader) = world.upstream(&key.name) else { return not_serving() };
    if let Some(decision) = world.stale_guard() {
        return decision;
    }
    if let Some(decision) = restart::start_standby(world, known_upstream(world, view, key)) {
        return decision;
    }
    let is_still = matches!(world.local.process, Process::Absent | Process::Running);
    if world.memory.rewind && leader_serves && is_still {
        return rejoin(world, view, key, leader, Reason::RewindRequested);
    }
    match world.local.process {
        Process::Absent if leader_serves => rejoin(world, view, key, leader, Reason::NotRunning),
        // A standby can serve reads already; a former primary has to wait, its history can only be compared with a
        // leader that serves. Of nobody at first: which timelines a stopped server has WAL of shows when it runs.
        Process::Absent if super::data::is_stopped_primary(world) => not_serving(),
        Process::Absent => world.act(Action::StartStandby { upstream: None }, Reason::NotRunning),
        Process::Starting { since }
            if leader_serves
                && lacks_wal(world, since, [&leader, &wanted_upstream(world, view, key, &leader)]) =>
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
    let is_right = world.memory.pointed_at.as_ref().is_some_and(|(upstream, _)| right.contains(&upstream));
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
    let parted = parted(world, view, key, sql);
    if leader_serves && parted {
        return rejoin(world, view, key, leader.clone(), Reason::Diverged);
    }
    let upstream = wanted_upstream(world, view, key, leader);
    if points_elsewhere(world, sql, &upstream) {
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
    if starved && leader_serves && !world.tags.no_stream() {
        return rejoin(world, view, key, leader.clone(), Reason::CannotStream);
    }
    if let Some(decision) = sync::stand_by(world, view, sql) {
        return decision;
    }
    if let Some(names) = slots_to_copy(world, view, sql).filter(|_| leader_serves) {
        // Commits must not wait for one that is about to stop (contract 8.8).
        let since = world.memory.slots_missing_since.unwrap_or_default();
        let until = since + world.settings.loop_wait * 2;
        if restart::is_waited_for(world, view) && world.now < until {
            return world.wait_until(until, Reason::LeavingSync);
        }
        let action = Action::CopySlots { leader: leader.clone(), upstream, names };
        return world.act(action, Reason::SlotsMissing);
    }
    world.wait(Reason::Following)
}

/// Whether our running standby is on another history than the leader's.
fn parted(world: &World, view: &ClusterView, key: &LeaderKey, sql: &Sql) -> bool {
    let told = reign::word(&world.settings, view, key);
    // The history of a standby cluster is the remote cluster's, not the one that the key tells.
    let diverged =
        world.settings.standby_cluster.is_none() && candidate::has_diverged(view, sql.timeline, sql.position);
    matches!(reign::lineage(&world.memory.descent, sql.timeline, told), Lineage::Parted(_))
        || world.memory.parted == Some(key.epoch)
        || diverged
}

/// Whether a running standby is configured to follow another than `upstream`; one that takes no stream follows
/// nobody.
fn points_elsewhere(world: &World, sql: &Sql, upstream: &Upstream) -> bool {
    let wanted = (!world.tags.no_stream()).then(|| (upstream.host.clone(), upstream.port));
    sql.upstream != wanted
}

/// Logical slots to be copied now: it takes a restart, so not while another member comes or goes.
pub(super) fn slots_to_copy(world: &World, view: &ClusterView, sql: &Sql) -> Option<BTreeSet<String>> {
    let settled = |state: &MemberState| {
        ![MemberState::Starting, MemberState::Stopping, MemberState::Restarting, MemberState::CreatingReplica]
            .contains(state)
    };
    let all = view.members.iter().filter(|(name, _)| **name != world.me);
    let calm = all.into_iter().all(|(_, m)| settled(&m.record.state));
    let names = &world.memory.slots_to_copy;
    (calm && sql.streaming && !names.is_empty()).then(|| names.clone())
}

/// Whom to follow while another member leads; `None` where its record tells no address.
pub(super) fn upstream_of(world: &World, view: &ClusterView) -> Option<Upstream> {
    let key = view.leader.as_ref()?;
    Some(wanted_upstream(world, view, key, &world.upstream(&key.name)?))
}

/// The same for a server that is started again, if it is surely on the leader's history.
pub(super) fn known_upstream(world: &World, view: &ClusterView, key: &LeaderKey) -> Option<Upstream> {
    let DataDir::Present(control) = &world.local.data else { return None };
    let ours = &world.memory.descent;
    let newest = ours.known.0.keys().next_back().copied().unwrap_or_default().max(control.timeline);
    let told = reign::word(&world.settings, view, key);
    let lineage = reign::lineage(ours, newest, told);
    upstream_of(world, view).filter(|upstream| match lineage {
        Lineage::Same => true,
        Lineage::Parted(_) => false,
        // What was found right for this reign still is.
        Lineage::Unknown => was_pointed_at(world, key, upstream),
    })
}

/// Whether this agent pointed our server there in the reign of `key`.
fn was_pointed_at(world: &World, key: &LeaderKey, upstream: &Upstream) -> bool {
    let reign = world.memory.leader_since.filter(|(epoch, _)| *epoch == key.epoch);
    let pointed = world.memory.pointed_at.as_ref().filter(|(to, _)| to == upstream);
    reign.zip(pointed).is_some_and(|((_, since), (_, at))| *at >= since)
}

/// Whether a running standby points elsewhere than it should.
pub(super) fn wrong_upstream(world: &World, view: &ClusterView) -> Option<Decision> {
    let sql = world.local.sql.as_ref().filter(|sql| sql.in_recovery)?;
    let (upstream, key) = (upstream_of(world, view)?, view.leader.as_ref()?);
    let told = reign::word(&world.settings, view, key);
    let may = !parted(world, view, key, sql) && told != Word::Expected && standby_leader::serves(world, view);
    (may && points_elsewhere(world, sql, &upstream))
        .then(|| world.act(Action::Follow { upstream }, Reason::WrongUpstream))
}

/// How long the leader may take to see us: a Patroni daemon makes our slot in its next loop.
fn leaders_loop(world: &World, view: &ClusterView) -> Duration {
    let is_patroni = view.leader_member().is_some_and(|leader| !leader.record.is_native());
    if is_patroni { world.settings.loop_wait } else { Duration::ZERO }
}

/// The leader, or the member that our tags name while it runs, is on the leader's history, and takes its own WAL from
/// elsewhere than us.
fn wanted_upstream(world: &World, view: &ClusterView, key: &LeaderKey, leader: &Upstream) -> Upstream {
    let told = reign::word(&world.settings, view, key);
    let runs =
        |name: &NodeName| view.members.get(name).is_some_and(|m| m.record.state == MemberState::Running);
    route::wanted(view, &world.me, &world.tags)
        .filter(|name| runs(name) && reign::is_on_line(view, name, told))
        .and_then(|name| world.upstream(&name))
        .unwrap_or_else(|| leader.clone())
}
