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
            Some("") if world.memory.may_bootstrap => world.act(Action::Bootstrap, Reason::NewCluster),
            Some(_) => world.wait(Reason::WaitForFirstLeader),
        },
    }
}

/// The serving leader, or a running member tagged for cloning unless an operator wants it from the leader.
pub(super) fn clone_source(world: &World, view: &ClusterView) -> Option<Upstream> {
    let leader = view.leader.as_ref()?;
    let serving = view.leader_member().is_some_and(|m| m.record.is_serving_primary());
    let from_leader = world.memory.reinit.is_some_and(|r| r.from_leader);
    let tagged = view.members.iter().find(|(name, m)| {
        !from_leader
            && **name != world.me
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
            Some("") if world.memory.may_bootstrap => set(),
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
