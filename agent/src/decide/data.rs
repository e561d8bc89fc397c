//! The data directory comes before any role: whose it is, whether it is there, whether it is whole.

use pgvane_cluster::ids::NodeName;
use pgvane_cluster::view::ClusterView;

use super::action::{Action, Decision, Reason, StopMode};
use super::world::{Control, DataDir, Holder, Process, Slot, Upstream, World};

/// A step about the data directory, when it needs one before anything else.
pub(super) fn check(world: &World, view: &ClusterView) -> Option<Decision> {
    match &world.local.data {
        DataDir::Unreadable(why) => Some(world.act(Action::Halt, Reason::DataUnreadable(why.clone()))),
        DataDir::Absent => Some(create(world, view, Reason::NoData)),
        DataDir::Spoiled => Some(create(world, view, Reason::DataSpoiled)),
        DataDir::Present(control) => belongs(world, view, control),
    }
}

/// Nothing to run yet: bootstrap a new cluster, or clone the leader.
fn create(world: &World, view: &ClusterView, reason: Reason) -> Decision {
    if world.local.process != Process::Absent {
        // Its directory was removed below it: it has to end, whatever it is.
        let how = StopMode::Immediate;
        return if world.free(Slot::Postgres) && world.local.process != Process::Stopping {
            world.act(Action::Stop { how }, Reason::NoData)
        } else {
            world.wait(Reason::Busy(Slot::Postgres))
        };
    }
    match world.holder(view) {
        // A leader without data cannot serve: let somebody who has it lead.
        Holder::Me(key) => world.act(Action::Release { epoch: key.epoch, optime: None }, Reason::CannotServe),
        Holder::MyName(_) => world.wait(Reason::KeyUnderOldLease),
        Holder::Other(key) => match clone_source(world, view) {
            Some(from) => world.act(Action::Clone { from }, reason),
            None => world.wait(Reason::LeaderNotServing(key.name.clone())),
        },
        Holder::Nobody => match view.initialize.as_deref() {
            None if !world.tags.may_lead() => world.wait(Reason::NoFailoverTag),
            None if world.abilities.begins_nothing => world.wait(Reason::WaitForFirstLeader),
            None if world.abilities.watchdog_failed => world.wait(Reason::WatchdogFailed),
            None => world.act(Action::RaceInitialize, Reason::NewCluster),
            Some("") if may_bootstrap(world, view) => world.act(Action::Bootstrap, Reason::NewCluster),
            Some("") => world.wait(Reason::WaitForFirstLeader),
            // A backup may stand in for a member to copy from.
            Some(_) if world.abilities.clones_alone => world.act(Action::CloneAlone, reason),
            Some(_) => world.wait(Reason::WaitForFirstLeader),
        },
    }
}

/// Whether this node won the race for `initialize`. The store knows it even where the answer was lost, or the agent
/// that raced has died.
fn may_bootstrap(world: &World, view: &ClusterView) -> bool {
    let claim = view.bootstrapper().filter(|claim| claim.value == world.me);
    claim.is_some_and(|claim| claim.mod_revision > world.memory.gave_up_bootstrap)
}

/// Any of the running members tagged for cloning unless an operator wants it from the leader, else the leader, once
/// that one serves.
pub(super) fn clone_source(world: &World, view: &ClusterView) -> Option<Upstream> {
    let leader = view.leader.as_ref()?;
    let serving = super::standby_leader::serves(world, view);
    if !serving {
        return None;
    }
    let from_leader = world.memory.reinit.is_some_and(|r| r.from_leader);
    let tagged = view.members.iter().filter(|(name, m)| {
        !from_leader
            && **name != world.me
            && **name != leader.name
            && m.record.tags.clone_from()
            && m.record.state == pgvane_cluster::records::MemberState::Running
    });
    let mut all: Vec<&NodeName> = tagged.map(|(name, _)| name).collect();
    // Not all that are made at once from the same one.
    let spread = usize::try_from(view.revision.0).unwrap_or(0) + sum(&world.me);
    let chosen = if all.is_empty() { &leader.name } else { all.swap_remove(spread % all.len()) };
    world.upstream(chosen)
}

fn sum(name: &NodeName) -> usize {
    name.as_str().bytes().map(usize::from).sum()
}

/// The system identifier must be the cluster's; a missing one is written by whoever may.
fn belongs(world: &World, view: &ClusterView, control: &Control) -> Option<Decision> {
    match view.system_identifier() {
        Some(cluster) if cluster != control.system_identifier => {
            let reason =
                Reason::ForeignData { cluster: cluster.to_owned(), ours: control.system_identifier.clone() };
            Some(world.act(Action::Halt, reason))
        }
        Some(_) => None,
        None => initialize(world, view, control),
    }
}

/// `initialize` is missing, or was left empty by a bootstrap. Trap 14: a standby must not re-create it.
fn initialize(world: &World, view: &ClusterView, control: &Control) -> Option<Decision> {
    let set = || {
        let action = Action::SetInitialize { system_identifier: control.system_identifier.clone() };
        Some(world.act(action, Reason::InitializeMissing))
    };
    match world.holder(view) {
        Holder::Me(_) => set(),
        Holder::MyName(_) | Holder::Other(_) => None,
        Holder::Nobody => match view.initialize.as_deref() {
            Some("") if may_bootstrap(world, view) => set(),
            Some(_) => Some(world.wait(Reason::WaitForFirstLeader)),
            None if control.standby => Some(world.wait(Reason::StandbyMayNotBeFirst)),
            // All keys were removed under the leader. It takes its key back first: while `initialize` is missing
            // no standby races, and none of them need have all that was acknowledged here.
            None if is_virgin(view) && led_last(world) => None,
            None => set(),
        },
    }
}

fn led_last(world: &World) -> bool {
    world.memory.last_leader.as_ref() == Some(&world.me)
}

/// Whether nobody has ever led this cluster, so that the bootstrapped data is all there is.
pub(super) fn is_virgin(view: &ClusterView) -> bool {
    view.status.is_none() && view.history.is_none()
}

/// Whether the directory is a primary's and no server runs on it.
pub(super) fn is_stopped_primary(world: &World) -> bool {
    matches!(&world.local.data, DataDir::Present(control) if !control.standby)
        && world.local.process == Process::Absent
}
