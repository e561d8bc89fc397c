//! How far the bootstrap of a new cluster is (contract 8.1), and what follows when it failed.

use std::time::Duration;

use pgvane_cluster::clock::Tick;
use pgvane_cluster::records::MemberState;

use super::action::{Action, Decision, Reason};
use super::world::{Process, Slot, World};

/// How long a failed bootstrap is shown before the agent ends.
const SHOWN_FOR: Duration = Duration::from_secs(1);

/// How far a bootstrap is.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Progress {
    /// initdb runs, or the first start after it.
    Initdb,
    /// The command of a custom method runs.
    Command,
    /// The server recovers what the command left.
    Recovery,
    /// It failed; whether by initdb, and when.
    Failed {
        /// Whether the method was a command.
        custom: bool,
        /// When.
        at: Tick,
    },
}

impl Progress {
    /// In the contract's words.
    pub fn state(self) -> MemberState {
        match self {
            Progress::Initdb => MemberState::Initializing,
            Progress::Command => MemberState::CustomBootstrap,
            Progress::Recovery => MemberState::StartingAfterCustomBootstrap,
            Progress::Failed { custom: true, .. } => MemberState::CustomBootstrapFailed,
            Progress::Failed { custom: false, .. } => MemberState::InitdbFailed,
        }
    }
}

/// After a bootstrap that failed the agent ends: what was tried would fail again, and another node may try.
pub(super) fn failed(world: &World) -> Option<Decision> {
    let Some(Progress::Failed { at, .. }) = world.memory.bootstrap else { return None };
    if world.local.process != Process::Absent {
        return None;
    }
    let until = at + SHOWN_FOR;
    if world.now < until || !world.free(Slot::Postgres) || !world.free(Slot::Store) {
        return Some(world.wait_until(until.max(world.now + super::SOON), Reason::BootstrapFailed));
    }
    Some(world.act(Action::Exit, Reason::BootstrapFailed))
}
