//! What this node says of itself in the keys it owns; pure, from the same world as the decision.

use pgvane_cluster::ids::{Epoch, Timeline};
use pgvane_cluster::records::{
    FailsafeRecord, MemberRecord, MemberRole, MemberState, NativeMember, PATRONI_VERSION, StatusRecord,
};
use pgvane_cluster::reigns::PublishedReigns;
use pgvane_cluster::view::ClusterView;

use super::action::{self, Action};
use super::bootstrap::Progress;
use super::sync;
use super::world::{DataDir, Dcs, Guard, Holder, LocalRole, Process, Slot, World};
use super::{reinit, restart};

/// What never changes while the agent runs.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Identity {
    /// `postgres://host:port/database`, without credentials.
    pub conn_url: String,
    /// `http://host:port/patroni`.
    pub api_url: String,
    /// The agent's own version.
    pub version: String,
    /// The same as `conn_url` for a pooler on this node.
    pub proxy_url: Option<String>,
}

/// This node's member record.
pub fn member(world: &World, identity: &Identity) -> MemberRecord {
    let mut record = MemberRecord::new(state(world), role(world));
    record.conn_url = Some(identity.conn_url.clone());
    record.api_url = Some(identity.api_url.clone());
    record.proxy_url.clone_from(&identity.proxy_url);
    record.version = Some(PATRONI_VERSION.to_owned());
    record.tags = sync::shown_tags(world);
    record.pause = world.settings.pause.then_some(true);
    // A record of texts and numbers cannot fail to become JSON.
    record.scheduled_restart =
        world.memory.scheduled_restart.as_ref().and_then(|s| serde_json::to_value(s).ok());
    record.pgvane = Some(NativeMember {
        version: identity.version.clone(),
        serving_epoch: serving_epoch(world).map(|e| e.0),
        reign: world
            .local
            .sql
            .as_ref()
            .and_then(|sql| world.memory.descent.known.0.get(&sql.timeline))
            .cloned(),
    });
    if let (Process::Running, Some(sql)) = (world.local.process, &world.local.sql) {
        record.xlog_location = Some(sql.position);
        record.timeline = Some(sql.timeline).filter(|t| *t > Timeline(0));
        if sql.in_recovery {
            record.receive_lsn = sql.received;
            record.replay_lsn = sql.replayed;
            record.replication_state = sql.streaming.then(|| "streaming".to_owned());
        } else if sql.checkpointed.is_some_and(|t| t < sql.timeline) {
            record.checkpoint_after_promote = Some(false);
        }
    }
    record
}

/// What PostgreSQL is doing, in the contract's words.
pub fn state(world: &World) -> MemberState {
    let ongoing = world.local.ongoing.get(&Slot::Postgres).map(|o| o.what);
    let doing = |action: &str| ongoing == Some(action);
    if doing(Action::Bootstrap.label()) || world.memory.bootstrap.is_some() {
        return world.memory.bootstrap.map_or(MemberState::Initializing, Progress::state);
    }
    if reinit::is_wanted(world) {
        return MemberState::CreatingReplica;
    }
    if let Some(state) = restart::state(world) {
        return state;
    }
    if doing(action::CLONE) || doing(action::REJOIN) && world.local.process == Process::Absent {
        return MemberState::CreatingReplica;
    }
    match world.local.process {
        Process::Running if doing(action::STOP_TO_HAND_OVER) || doing(action::STOP) => MemberState::Stopping,
        Process::Running => MemberState::Running,
        Process::Starting { .. } => MemberState::Starting,
        Process::Stopping => MemberState::Stopping,
        Process::Absent if world.memory.failed_starts > 0 => MemberState::StartFailed,
        Process::Absent if world.memory.crashed_at.is_some() => MemberState::Crashed,
        Process::Absent => MemberState::Stopped,
    }
}

/// What this node is, in the contract's words.
pub fn role(world: &World) -> MemberRole {
    if matches!(world.local.data, DataDir::Absent | DataDir::Spoiled) {
        return MemberRole::Uninitialized;
    }
    match (world.local.process, world.local.role) {
        (Process::Stopping, LocalRole::Primary) if restart::keeps_role(world) => MemberRole::Primary,
        (Process::Absent, _) if super::data::is_stopped_primary(world) && restart::keeps_role(world) => {
            MemberRole::Primary
        }
        (Process::Running, LocalRole::Primary) if promotes(world) => MemberRole::Promoted,
        (Process::Running | Process::Starting { .. }, LocalRole::Primary) => MemberRole::Primary,
        (Process::Stopping, LocalRole::Primary) => MemberRole::Demoted,
        (Process::Absent, _) if super::data::is_stopped_primary(world) => MemberRole::Demoted,
        _ if super::standby_leader::epoch(world).is_some() => MemberRole::StandbyLeader,
        _ => MemberRole::Replica,
    }
}

fn promotes(world: &World) -> bool {
    world.local.ongoing.get(&Slot::Postgres).is_some_and(|o| o.what == action::PROMOTE)
        || world.local.sql.as_ref().is_some_and(|sql| sql.in_recovery)
}

/// The reign this node serves writes in, when it does: key, lease, guard and PostgreSQL all agree.
pub fn serving_epoch(world: &World) -> Option<Epoch> {
    let view = world.dcs.last_view()?;
    let epoch = match world.holder(view) {
        Holder::Me(key) => key.epoch,
        Holder::MyName(_) | Holder::Nobody | Holder::Other(_) => return None,
    };
    let guarded = world.settings.pause || world.local.guard == (Guard::Armed { epoch });
    let serving = state(world) == MemberState::Running && role(world) == MemberRole::Primary;
    (guarded && serving).then_some(epoch)
}

/// The leader's `status`, when this node leads and knows its position. Slots are filled in by the caller.
pub fn status(world: &World) -> Option<(Epoch, StatusRecord)> {
    let standby = super::standby_leader::epoch(world);
    let epoch = serving_epoch(world).or(standby)?;
    let optime = world.local.sql.as_ref().filter(|sql| sql.in_recovery == standby.is_some())?.position;
    Some((epoch, StatusRecord { optime, slots: None, retain_slots: None }))
}

/// The failsafe list as it should be, when this node leads and the key says otherwise: every member with an API
/// address, or nobody once failsafe_mode is off. Not before our own record is back: whom the list leaves out may not
/// race, and if we were the only one that may lead, nobody ever would.
pub fn failsafe(world: &World) -> Option<(Epoch, FailsafeRecord)> {
    let Dcs::Known(view) = &world.dcs else { return None };
    let epoch = serving_epoch(world)?;
    let seen = view.failsafe.as_ref();
    if world.settings.failsafe_mode {
        let list = failsafe_list(view);
        let differs = seen != Some(&list) && list.0.contains_key(&world.me);
        return differs.then_some((epoch, list));
    }
    seen.is_some_and(|list| !list.0.is_empty()).then(|| (epoch, FailsafeRecord::default()))
}

/// The leader's list of reigns, when this node leads and the key says otherwise.
pub fn reigns(world: &World) -> Option<(Epoch, PublishedReigns)> {
    let Dcs::Known(view) = &world.dcs else { return None };
    let epoch = serving_epoch(world)?;
    let timeline = world.local.sql.as_ref().filter(|sql| !sql.in_recovery)?.timeline;
    let list = PublishedReigns { epoch, timelines: world.memory.descent.known.up_to(timeline) };
    (view.reigns.as_ref() != Some(&list)).then_some((epoch, list))
}

fn failsafe_list(view: &ClusterView) -> FailsafeRecord {
    let members = view.members.iter();
    FailsafeRecord(members.filter_map(|(name, m)| Some((name.clone(), m.record.api_url.clone()?))).collect())
}

/// Whether `new` must be written at once: everything but positions that merely moved on.
pub fn is_urgent(old: &MemberRecord, new: &MemberRecord) -> bool {
    let moved_on = MemberRecord {
        xlog_location: new.xlog_location,
        receive_lsn: new.receive_lsn,
        replay_lsn: new.replay_lsn,
        ..old.clone()
    };
    moved_on != *new
}
