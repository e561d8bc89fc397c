//! Traps: what strikes an agent between two steps of what it does, at every place there is in the course of many
//! runs.

use std::collections::BTreeSet;
use std::future::poll_fn;
use std::task::Poll;

#[cfg(test)]
use pgvane_agent::decide::sync::Over;
use pgvane_agent::decide::world::Upstream;
use pgvane_agent::decide::{Action, Request, StopMode, action};
use pgvane_cluster::ids::{Epoch, Revision};

use crate::faults;
use crate::runtime::{Proc, Sim};
use crate::schedule::{Fault, Planned};

/// What strikes.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug)]
pub(crate) enum Harm {
    /// The agent is killed.
    Kill,
    /// The agent is stopped for some time.
    Freeze,
    /// Agent and postmaster are killed.
    KillBoth,
    /// The machine loses power.
    PowerOff,
    /// The machine is suspended.
    Suspend,
}

impl Harm {
    pub(crate) const ALL: [Harm; 7] =
        [Harm::Kill, Harm::Kill, Harm::Kill, Harm::Freeze, Harm::KillBoth, Harm::PowerOff, Harm::Suspend];

    fn fault(self, n: usize) -> Fault {
        match self {
            Harm::Kill => Fault::AgentCrash(n),
            Harm::Freeze => Fault::AgentFreeze(n),
            Harm::KillBoth => Fault::BothCrash(n),
            Harm::PowerOff => Fault::NodeDeath(n),
            Harm::Suspend => Fault::NodeFreeze(n),
        }
    }
}

/// A trap: the agent that comes to the step after `skip` others of effects with this label is struck.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) struct Trap {
    pub(crate) label: &'static str,
    pub(crate) skip: u32,
    pub(crate) harm: Harm,
    /// When it is taken away if nobody came.
    pub(crate) until: u64,
    /// How long the harm lasts.
    pub(crate) lasts: u64,
}

/// The renewal of the lease, the promise to another leader, and the keys that an agent writes beside its loop.
pub(crate) const LEASE: &str = "lease";
pub(crate) const VOUCH: &str = "vouch";
pub(crate) const PUBLISH: &str = "publish";

/// Where traps are set, by what makes agents come there. Together that is every effect, and what an agent does
/// beside its loop.
pub(crate) const AT_BOOTSTRAP: &[&str] =
    &["race_initialize", "bootstrap", "set_initialize", "write_config", "campaign", action::CLONE, PUBLISH];
pub(crate) const AT_SWITCHOVER: &[&str] = &[
    "poll_peers",
    "clear_request",
    action::CHECKPOINT,
    action::STOP_TO_HAND_OVER,
    action::RELEASE,
    "campaign",
    "arm_guard",
    action::PROMOTE,
    action::PROMOTE,
    "disarm_guard",
    action::REJOIN,
    action::FOLLOW,
    "write_sync_key",
    "set_standby_names",
];
pub(crate) const AT_RESTART: &[&str] =
    &["arm_guard", "start_primary", "start_standby", action::REJOIN, "write_sync_key", "set_standby_names"];
pub(crate) const AT_FAILOVER: &[&str] = &[
    "poll_peers",
    "campaign",
    "arm_guard",
    action::PROMOTE,
    action::PROMOTE,
    action::REJOIN,
    action::CLONE,
    action::FOLLOW,
    "start_standby",
    "write_sync_key",
    "set_standby_names",
];
pub(crate) const AT_SYNC: &[&str] =
    &["write_sync_key", "write_sync_key", "delete_sync_key", "set_standby_names", "set_standby_names"];
pub(crate) const AT_STORE_LOSS: &[&str] =
    &["ask_failsafe", VOUCH, action::STOP, "campaign", "take_over_key", LEASE, action::RELEASE];
pub(crate) const AT_SHUTDOWN: &[&str] =
    &[action::STOP_TO_HAND_OVER, action::RELEASE, action::STOP, "disarm_guard", "campaign", action::PROMOTE];
pub(crate) const AT_TAKE_OVER: &[&str] = &["take_over_key", "arm_guard", LEASE, PUBLISH];

/// All of them.
pub(crate) fn labels() -> BTreeSet<&'static str> {
    let all = [
        AT_BOOTSTRAP,
        AT_SWITCHOVER,
        AT_RESTART,
        AT_FAILOVER,
        AT_SYNC,
        AT_STORE_LOSS,
        AT_SHUTDOWN,
        AT_TAKE_OVER,
    ];
    all.into_iter().flatten().copied().collect()
}

/// Passes a step of what the agent `proc` of node `n` does; whoever is killed in it does not come back from here.
pub(crate) async fn step(sim: &Sim, n: usize, proc: Proc, label: &'static str, number: u32) {
    let Some(trap) = sprung(sim, n, proc, label, number) else { return };
    let planned = Planned { fault: trap.harm.fault(n), begins: sim.now(), ends: sim.now() + trap.lasts };
    faults::begin(sim, planned);
    sim.after(trap.lasts, move |sim| faults::end(sim, planned.fault));
    // Whoever was stopped goes on from here, whoever was killed never does.
    let mut passed = false;
    poll_fn(|_| {
        if std::mem::replace(&mut passed, true) {
            return Poll::Ready(());
        }
        sim.again();
        Poll::Pending
    })
    .await;
}

fn sprung(sim: &Sim, n: usize, proc: Proc, label: &'static str, number: u32) -> Option<Trap> {
    let mut w = sim.w();
    if w.traps.is_empty() || w.nodes[n].agent_proc != Some(proc) {
        return None;
    }
    let at = w.traps.iter().position(|t| t.label == label)?;
    if w.traps[at].skip > 0 {
        w.traps[at].skip -= 1;
        return None;
    }
    let trap = w.traps.remove(at);
    *w.struck.entry((label, number, trap.harm)).or_default() += 1;
    Some(trap)
}

/// The labels of all effects, by an exhaustive match: a new one must find its place above.
#[test]
fn traps_cover_every_effect() {
    let upstream = || Upstream { name: "pg1".into(), host: String::new(), port: 0 };
    let request = Request::Shutdown;
    let epoch = Epoch(1);
    let next = |action: &Action| match action {
        Action::Wait => Some(Action::RaceInitialize),
        Action::RaceInitialize => Some(Action::Bootstrap),
        Action::Bootstrap => Some(Action::SetInitialize { system_identifier: String::new() }),
        Action::SetInitialize { .. } => Some(Action::WriteConfig),
        Action::WriteConfig => Some(Action::Clone { from: upstream() }),
        Action::Clone { .. } => Some(Action::CloneAlone),
        Action::CloneAlone => Some(Action::StartPrimary),
        Action::StartPrimary => Some(Action::StartStandby { upstream: None }),
        Action::StartStandby { .. } => Some(Action::Rejoin { leader: upstream() }),
        Action::Rejoin { .. } => Some(Action::Follow { upstream: upstream() }),
        Action::Follow { .. } => Some(Action::PollPeers),
        Action::PollPeers => Some(Action::Campaign),
        Action::Campaign => Some(Action::TakeOverKey),
        Action::TakeOverKey => Some(Action::ArmGuard { epoch }),
        Action::ArmGuard { .. } => Some(Action::DisarmGuard),
        Action::DisarmGuard => Some(Action::Promote { epoch }),
        Action::Promote { .. } => Some(Action::Checkpoint { request }),
        Action::Checkpoint { .. } => Some(Action::StopToHandOver { request }),
        Action::StopToHandOver { .. } => Some(Action::StopToRestart { id: 1 }),
        Action::StopToRestart { .. } => Some(Action::RequestNow { revision: Revision(1) }),
        Action::RequestNow { .. } => Some(Action::Stop { how: StopMode::Fast }),
        Action::Stop { .. } => Some(Action::Release { epoch, optime: None }),
        Action::Release { .. } => Some(Action::AskFailsafe { epoch }),
        Action::AskFailsafe { .. } => Some(Action::ClearRequest { revision: Revision(1) }),
        Action::ClearRequest { .. } => Some(Action::Exit),
        Action::Exit => Some(Action::Halt),
        Action::Halt => {
            let record = pgvane_cluster::records::SyncRecord::default();
            Some(Action::WriteSyncKey { epoch, record, over: Over::Nothing })
        }
        Action::WriteSyncKey { .. } => Some(Action::DeleteSyncKey { epoch, revision: Revision(1) }),
        Action::DeleteSyncKey { .. } => {
            Some(Action::SetStandbyNames { names: None, epoch: None, prove: false })
        }
        // Nobody wants logical slots.
        Action::SetStandbyNames { .. } | Action::CopySlots { .. } => None,
    };
    let all = std::iter::successors(Some(Action::Wait), next);
    // Nobody here has a backup to be made from, or asks for a restart or for something later.
    let never = |a: &Action| {
        matches!(a, Action::CloneAlone | Action::StopToRestart { .. } | Action::RequestNow { .. })
    };
    for action in all.filter(|a| a.slot().is_some() && !never(a)) {
        assert!(labels().contains(action.label()), "nobody is ever struck at {}", action.label());
    }
}
