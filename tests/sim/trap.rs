//! Traps: what strikes an agent between two steps of what it does, at every place there is in the course of many
//! runs.

use std::future::poll_fn;
use std::task::Poll;

use pgvane_agent::decide::Action;
use pgvane_agent::decide::action;

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
    pub(crate) const ALL: [Harm; 7] = [
        Harm::Kill,
        Harm::Kill,
        Harm::Kill,
        Harm::Freeze,
        Harm::KillBoth,
        Harm::PowerOff,
        Harm::Suspend,
    ];

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

/// Where traps are set: every effect, and what an agent does beside its loop.
pub(crate) const LABELS: &[&str] = &[
    "race_initialize",
    "bootstrap",
    "set_initialize",
    "write_config",
    action::CLONE,
    "start_primary",
    "start_primary",
    "start_standby",
    action::REJOIN,
    action::REJOIN,
    action::FOLLOW,
    "poll_peers",
    "campaign",
    "campaign",
    "take_over_key",
    "take_over_key",
    "arm_guard",
    "arm_guard",
    "disarm_guard",
    action::PROMOTE,
    action::PROMOTE,
    action::PROMOTE,
    action::CHECKPOINT,
    action::STOP_TO_HAND_OVER,
    action::STOP_TO_HAND_OVER,
    action::STOP,
    action::RELEASE,
    action::RELEASE,
    "ask_failsafe",
    "clear_request",
    LEASE,
    VOUCH,
    PUBLISH,
];

/// Passes a step of what the agent `proc` of node `n` does; whoever is killed in it does not come back from here.
pub(crate) async fn step(sim: &Sim, n: usize, proc: Proc, label: &'static str, number: u32) {
    let Some(trap) = sprung(sim, n, proc, label, number) else { return };
    let planned =
        Planned { fault: trap.harm.fault(n), begins: sim.now(), ends: sim.now() + trap.lasts };
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

/// Whether there is a label for every effect.
#[test]
fn traps_cover_every_effect() {
    let all = [
        Action::RaceInitialize.label(),
        Action::Bootstrap.label(),
        Action::WriteConfig.label(),
        Action::StartPrimary.label(),
        Action::PollPeers.label(),
        Action::Campaign.label(),
        Action::TakeOverKey.label(),
        Action::DisarmGuard.label(),
    ];
    assert!(all.iter().all(|label| LABELS.contains(label)));
}
