//! What keeps a node from leading although its data would do: its own check before a promotion, or a watchdog that
//! is required and cannot be used (contract 3.2 b and i, 3.5).

use pgvane_cluster::view::{ClusterView, LeaderKey};

use super::action::{Action, Decision, Reason, StopMode};
use super::world::{LocalRole, Process, Slot, World};

/// Why this node may not become primary now, if so.
pub(super) fn reason(world: &World) -> Option<Reason> {
    if world.abilities.watchdog_failed {
        return Some(Reason::WatchdogFailed);
    }
    let forbidden =
        world.memory.pre_promote_failed.is_some_and(|at| world.now.since(at) < world.settings.ttl);
    forbidden.then_some(Reason::PrePromoteFailed)
}

/// What a leader that may not serve does: it gives the key back, once nothing here can accept writes. A request that
/// brought the key here has had its answer: the next leader would hand over to us once more.
pub(super) fn step_down(world: &World, view: &ClusterView, key: &LeaderKey) -> Option<Decision> {
    let reason = reason(world)?;
    let request = view.failover.as_ref().filter(|f| f.value.scheduled_at.is_none());
    let release = || {
        let action = match request {
            Some(request) => Action::ClearRequest { revision: request.mod_revision },
            None => Action::Release { epoch: key.epoch, optime: None },
        };
        Some(world.act(action, reason.clone()))
    };
    match (world.local.process, world.local.role) {
        (Process::Absent, _) | (Process::Starting { .. } | Process::Running, LocalRole::Standby) => release(),
        (Process::Stopping, _) => Some(world.wait(Reason::Busy(Slot::Postgres))),
        // A check before a promotion says nothing about a server that serves already.
        (Process::Starting { .. } | Process::Running, _) if reason == Reason::PrePromoteFailed => None,
        (Process::Starting { .. } | Process::Running, LocalRole::Unknown | LocalRole::Primary) => {
            Some(world.act(Action::Stop { how: StopMode::Fast }, reason))
        }
    }
}
