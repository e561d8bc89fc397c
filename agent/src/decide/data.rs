//! The data directory comes before any role: whose it is, whether it is there, whether it is whole.

use pgvane_cluster::view::ClusterView;

use super::action::{Action, Decision, Reason};
use super::world::{Control, DataDir, Holder, Process, Upstream, World};

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
    match world.holder(view) {
        // A leader without data cannot serve: let somebody who has it lead.
        // One that still writes to a directory that is gone ends by itself; only then may another lead.
        Holder::Me(_) if world.may_write() => world.wait(Reason::CannotServe),
        Holder::Me(key) => world.act(Action::Release { epoch: key.epoch, optime: None }, Reason::CannotServe),
        Holder::MyName(_) => world.wait(Reason::KeyUnderOldLease),
        Holder::Other(key) => match clone_source(world, view) {
            Some(from) => world.act(Action::Clone { from }, reason),
            None => world.wait(Reason::LeaderNotServing(key.name.clone())),
        },
        Holder::Nobody => match view.initialize.as_deref() {
            None if !world.tags.may_lead() => world.wait(Reason::NoFailoverTag),
            None => world.act(Action::RaceInitialize, Reason::NewCluster),
            Some("") if may_bootstrap(world, view) => world.act(Action::Bootstrap, Reason::NewCluster),
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

/// The serving leader, or a running member tagged for cloning.
fn clone_source(world: &World, view: &ClusterView) -> Option<Upstream> {
    let leader = view.leader.as_ref()?;
    let serving = view.leader_member().is_some_and(|m| m.record.is_serving_primary());
    let tagged = view.members.iter().find(|(name, m)| {
        **name != world.me
            && **name != leader.name
            && m.record.tags.clone_from()
            && m.record.state == pgvane_cluster::records::MemberState::Running
    });
    match tagged {
        Some((name, _)) if serving => world.upstream(name),
        Some(_) | None if serving => world.upstream(&leader.name),
        Some(_) | None => None,
    }
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
            None => set(),
        },
    }
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
