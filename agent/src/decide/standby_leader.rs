//! We hold the leader key of a standby cluster (contract 8.7): follow what the cluster follows, and let the others
//! follow us.
//!
//! A standby leader never accepts writes. What makes a server a primary is held back wherever a rule should want it
//! while the cluster is a standby cluster ([`super::decide`]), so S1 needs neither guard nor lease here. When the
//! section goes, the holder of the key promotes as every leader does, under its own lease and with the guard armed
//! (S3). When the section comes, the primary stops and keeps the key.

use pgvane_cluster::ids::{Epoch, Lsn, NodeName};
use pgvane_cluster::records::{MemberRole, MemberState};
use pgvane_cluster::view::{ClusterView, LeaderKey};

use super::action::{Action, Decision, Reason, StopMode};
use super::following::STARVED_LIMIT;
use super::world::{DataDir, Dcs, Holder, LocalRole, Process, Slot, Upstream, World};
use super::{hand_over, restart};

/// The name of what the cluster follows: no member can have it.
pub const REMOTE: &str = "standby_cluster/remote";

/// The port that is written where none, or a list, is given.
const SEVERAL: u16 = 0;
const USUAL: u16 = 5432;

/// Whether the leader of the view does what the cluster needs of one: serve as its primary, or lead a standby cluster.
pub(super) fn serves(world: &World, view: &ClusterView) -> bool {
    view.leader_member().is_some_and(|m| match world.settings.standby_cluster {
        None => m.record.is_serving_primary(),
        Some(_) => m.record.role == MemberRole::StandbyLeader && m.record.state == MemberState::Running,
    })
}

/// The reign in which this node leads a standby cluster with a running standby.
pub fn epoch(world: &World) -> Option<Epoch> {
    world.settings.standby_cluster.as_ref()?;
    let Holder::Me(key) = world.holder(world.dcs.last_view()?) else { return None };
    let runs = world.local.process == Process::Running && world.local.role == LocalRole::Standby;
    runs.then_some(key.epoch)
}

/// What the cluster follows, as the server's configuration names it; `None` where WAL comes by archive alone.
pub fn remote(world: &World) -> Option<Upstream> {
    let section = world.settings.standby_cluster.as_ref()?;
    if section.host.is_none() && section.port.is_none() {
        return None;
    }
    let port = match section.port.as_deref().map(str::trim) {
        None => USUAL,
        Some(port) => port.parse().unwrap_or(SEVERAL),
    };
    let host = section.host.clone().unwrap_or_else(|| "localhost".to_owned());
    Some(Upstream { name: NodeName::from(REMOTE), host, port })
}

/// The step of the leader of a standby cluster.
pub(super) fn decide(world: &World, view: &ClusterView, key: &LeaderKey) -> Decision {
    match (world.local.process, world.local.role) {
        (Process::Running | Process::Starting { .. }, LocalRole::Primary) => {
            return world.act(Action::Stop { how: StopMode::Fast }, Reason::StandbyCluster);
        }
        (Process::Running, LocalRole::Unknown) => return world.wait_briefly(Reason::PositionUnknown),
        (Process::Starting { .. } | Process::Running | Process::Stopping | Process::Absent, _) => {}
    }
    if let Some(decision) = world.stale_guard() {
        return decision;
    }
    if let Some(decision) = hand_on(world, view, key) {
        return decision;
    }
    match world.local.process {
        Process::Absent => start(world),
        Process::Starting { .. } => world.wait(Reason::Starting),
        Process::Stopping => world.wait(Reason::Busy(Slot::Postgres)),
        Process::Running => restart::of_standby(world, view).unwrap_or_else(|| follow(world, view)),
    }
}

fn start(world: &World) -> Decision {
    if !world.free(Slot::Postgres) {
        return world.wait(Reason::Busy(Slot::Postgres));
    }
    match (&world.local.data, remote(world)) {
        (DataDir::Absent | DataDir::Spoiled | DataDir::Unreadable(_), _) => world.wait(Reason::CannotServe),
        // A primary's data may have parted from what the cluster follows now.
        (DataDir::Present(control), Some(leader)) if !control.standby => {
            world.act(Action::Rejoin { leader }, Reason::StandbyCluster)
        }
        (DataDir::Present(_), upstream) => world.act(Action::StartStandby { upstream }, Reason::NotRunning),
    }
}

fn follow(world: &World, view: &ClusterView) -> Decision {
    let Some(sql) = &world.local.sql else { return world.wait_briefly(Reason::PositionUnknown) };
    if view.config.is_none() {
        return world.act(Action::WriteConfig, Reason::ConfigMissing);
    }
    let remote = remote(world);
    let wanted = remote.as_ref().map(|remote| (remote.host.clone(), remote.port));
    match remote {
        Some(upstream) if sql.upstream != wanted => {
            world.act(Action::Follow { upstream }, Reason::WrongUpstream)
        }
        // The way to follow an archive alone leads through a start.
        None if sql.upstream.is_some() => {
            world.act(Action::Stop { how: StopMode::Fast }, Reason::WrongUpstream)
        }
        Some(leader) if is_starved(world) => world.act(Action::Rejoin { leader }, Reason::CannotStream),
        Some(_) | None => world.wait(Reason::StandbyLeading),
    }
}

fn is_starved(world: &World) -> bool {
    world.memory.not_streaming_since.is_some_and(|since| world.now.since(since) > STARVED_LIMIT)
}

/// A switchover: there is nothing to stop and nothing to lose, the candidate has only to run and not to be far behind.
fn hand_on(world: &World, view: &ClusterView, key: &LeaderKey) -> Option<Decision> {
    let request = view.failover.as_ref().filter(|f| f.value.scheduled_at.is_none())?;
    let clear = |reason| Some(world.act(Action::ClearRequest { revision: request.mod_revision }, reason));
    if request.value.leader.as_ref().is_some_and(|leader| *leader != world.me) {
        return clear(Reason::RequestForAnotherLeader);
    }
    if request.value.member.as_ref() == Some(&world.me) {
        return clear(Reason::RequestForLeader);
    }
    let position = world.local.sql.as_ref()?.position;
    if !hand_over::answers_are_fresh(world) {
        return Some(world.act(Action::PollPeers, Reason::RaceNeedsAnswers));
    }
    let floor = Lsn(position.0.saturating_sub(world.settings.maximum_lag_on_failover));
    match hand_over::ready(world, view, request.value.member.as_ref(), floor) {
        None => clear(Reason::NoCandidate),
        Some(candidate) => {
            let release = Action::Release { epoch: key.epoch, optime: Some(position) };
            Some(world.act(release, Reason::CandidateReady(candidate.clone())))
        }
    }
}

/// Whether this node, in pause, holds the key of a standby cluster rightfully.
pub(super) fn holds_in_pause(world: &World) -> bool {
    world.settings.standby_cluster.is_some() && !world.may_write() && matches!(world.dcs, Dcs::Known(_))
}
