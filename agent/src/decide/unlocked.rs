//! Nobody holds the leader key: take part in the race, or stand aside.

use std::time::Duration;

use pgvane_cluster::view::ClusterView;

use super::action::{Action, Decision, Reason};
use super::candidate::{self, Verdict};
use super::data;
use super::hand_over;
use super::sync::Rule;
use super::world::{OwnLease, Process, World};

/// How long a leader that stepped down gives way to the others.
const GIVE_WAY: Duration = Duration::from_secs(3);

/// The step of a node while nobody leads.
pub(super) fn decide(world: &World, view: &ClusterView) -> Decision {
    if let Some(decision) = world.stale_guard() {
        return decision;
    }
    if world.lease == OwnLease::None {
        return world.wait_briefly(Reason::NoLease);
    }
    match world.local.process {
        // The first leader of a new cluster starts its data as it is, on the first timeline.
        Process::Absent
            if data::is_virgin(view)
                && data::is_stopped_primary(world)
                && world.tags.may_lead()
                && world.settings.standby_cluster.is_none()
                // A first leader may have come as far as its rule: what it led is its own then.
                && Rule::of(world, view).admits(&world.me) =>
        {
            match super::unfit::reason(world) {
                Some(reason) => world.wait(reason),
                None => world.act(Action::Campaign, Reason::NewCluster),
            }
        }
        // A leader that has just stepped down leaves disk and race to the one that takes over; it follows as
        // soon as that one serves.
        Process::Absent if gives_way(world, view) => world.wait(Reason::LetOthersLead),
        // Whatever it was, it comes up as a standby and races by its position.
        Process::Absent => world.act(Action::StartStandby { upstream: None }, Reason::NotRunning),
        Process::Starting { .. } => world.wait(Reason::Starting),
        Process::Stopping => world.wait(Reason::Busy(super::Slot::Postgres)),
        Process::Running => race(world, view),
    }
}

fn gives_way(world: &World, view: &ClusterView) -> bool {
    let recent = world.memory.leaderless_since.is_some_and(|since| world.now.since(since) < GIVE_WAY);
    let led = world.memory.last_leader.as_ref() == Some(&world.me);
    recent && led && data::is_stopped_primary(world) && hand_over::somebody_else(world, view)
}

fn race(world: &World, view: &ClusterView) -> Decision {
    match candidate::judge(world, view) {
        Verdict::Campaign => world.act(Action::Campaign, Reason::BestCandidate),
        Verdict::Ask => world.act(Action::PollPeers, Reason::RaceNeedsAnswers),
        Verdict::Wait(reason, until) => world.wait_until(until, reason),
    }
}
