//! What happens in one run, and when.
//!
//! Each seed draws which kinds of faults exist at all and how often; so some runs have nothing but freezes, some
//! only partitions, some everything. Whatever begins also ends, and at the end everything is healed.

use std::time::Duration;

use crate::network::End;
use crate::plan::{Class, Plan, Sync, draw_maximum_lag, draw_start_timeout, draw_sync, draw_ttl};
use crate::rng::Rng;
use crate::runtime::{MS, SEC};
use crate::trap::{self, Harm, Trap};

/// What goes wrong, or what an operator does.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Fault {
    /// SIGSTOP of an agent, SIGCONT at the end.
    AgentFreeze(usize),
    /// SIGKILL of an agent, started again at the end.
    AgentCrash(usize),
    /// SIGTERM of an agent, started again at the end.
    AgentStop(usize),
    /// The agent leaves everything to the next one, which starts at the end.
    AgentDetach(usize),
    /// SIGKILL of the guard; its agent is well.
    GuardKill(usize),
    /// SIGSTOP of the guard; its agent is well.
    GuardFreeze(usize),
    /// SIGKILL of the postmaster.
    PostgresCrash(usize),
    /// SIGSTOP of every process of PostgreSQL.
    PostgresFreeze(usize),
    /// Agent and postmaster are killed together.
    BothCrash(usize),
    /// The machine is suspended with all that runs on it.
    NodeFreeze(usize),
    /// Power off; on again at the end.
    NodeDeath(usize),
    /// The store answers nobody.
    EtcdDown,
    /// Another etcd member leads: a moment of silence, then all leases have their full time again.
    EtcdElection,
    /// Messages from one to the other are lost.
    CutOneWay(End, End),
    /// The same both ways.
    Cut(End, End),
    /// Standbys of these nodes cannot stream from each other.
    CutReplication(usize, usize),
    /// A node is unplugged.
    Isolate(usize),
    /// All that somebody sends and gets takes long.
    Slow(End),
    /// Much of what somebody sends and gets is lost.
    Lossy(End),
    /// A proxy is stopped and goes on.
    ProxyFreeze(usize),
    /// A proxy is killed, and started at the end.
    ProxyCrash(usize),
    /// A watch loses what it should tell next (agents first, then proxies).
    WatchLoss(usize),
    /// The next time that an agent comes to a certain step of a certain effect, something happens to it.
    AtStep(Trap),
    /// The operator wants another leader, named or not.
    Switchover(Option<usize>),
    /// The operator wants this leader, whoever leads or nobody.
    Failover(usize),
    /// The operator suspends automatic failover.
    Pause,
    /// The operator sets another lease time for good.
    SetTtl(Duration),
    /// The same for `failsafe_mode`.
    SetFailsafe(bool),
    /// The same for `primary_start_timeout`, in seconds.
    SetStartTimeout(u64),
    /// The same for `maximum_lag_on_failover`.
    SetMaximumLag(u64),
    /// The same for what commits wait for.
    SetSync(Sync),
}

impl Fault {
    /// A word for the summary.
    pub(crate) fn word(self) -> &'static str {
        match self {
            Fault::AgentFreeze(_) => "agent frozen",
            Fault::AgentCrash(_) => "agent killed",
            Fault::AgentStop(_) => "agent restarted",
            Fault::AgentDetach(_) => "agent detached",
            Fault::GuardKill(_) => "guard killed",
            Fault::GuardFreeze(_) => "guard frozen",
            Fault::PostgresCrash(_) => "postgres killed",
            Fault::PostgresFreeze(_) => "postgres frozen",
            Fault::BothCrash(_) => "agent and postgres killed",
            Fault::NodeFreeze(_) => "machine suspended",
            Fault::NodeDeath(_) => "machine off",
            Fault::EtcdDown => "etcd silent",
            Fault::EtcdElection => "etcd election",
            Fault::CutOneWay(..) => "partition one way",
            Fault::Cut(..) => "partition",
            Fault::CutReplication(..) => "replication cut",
            Fault::Isolate(_) => "node unplugged",
            Fault::Slow(_) => "slow network",
            Fault::Lossy(_) => "lossy network",
            Fault::ProxyFreeze(_) => "proxy frozen",
            Fault::ProxyCrash(_) => "proxy killed",
            Fault::WatchLoss(_) => "watch event lost",
            Fault::AtStep(_) => "trap at a step",
            Fault::Switchover(_) => "switchover asked for",
            Fault::Failover(_) => "failover asked for",
            Fault::Pause => "pause",
            Fault::SetTtl(_) => "ttl set",
            Fault::SetFailsafe(_) => "failsafe_mode set",
            Fault::SetStartTimeout(_) => "primary_start_timeout set",
            Fault::SetMaximumLag(_) => "maximum_lag_on_failover set",
            Fault::SetSync(_) => "synchronous_mode set",
        }
    }

    /// Whether it is over with its beginning.
    pub(crate) fn is_momentary(self) -> bool {
        match self {
            Fault::GuardKill(_)
            | Fault::PostgresCrash(_)
            | Fault::WatchLoss(_)
            | Fault::Switchover(_)
            | Fault::Failover(_)
            | Fault::SetTtl(_)
            | Fault::SetFailsafe(_)
            | Fault::SetStartTimeout(_)
            | Fault::SetMaximumLag(_)
            | Fault::SetSync(_) => true,
            Fault::AgentFreeze(_)
            | Fault::AgentCrash(_)
            | Fault::AgentStop(_)
            | Fault::AgentDetach(_)
            | Fault::GuardFreeze(_)
            | Fault::PostgresFreeze(_)
            | Fault::BothCrash(_)
            | Fault::NodeFreeze(_)
            | Fault::NodeDeath(_)
            | Fault::EtcdDown
            | Fault::EtcdElection
            | Fault::CutOneWay(..)
            | Fault::Cut(..)
            | Fault::CutReplication(..)
            | Fault::Isolate(_)
            | Fault::Slow(_)
            | Fault::Lossy(_)
            | Fault::ProxyFreeze(_)
            | Fault::ProxyCrash(_)
            | Fault::AtStep(_)
            | Fault::Pause => false,
        }
    }
}

/// A fault with its time.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Planned {
    pub(crate) fault: Fault,
    pub(crate) begins: u64,
    pub(crate) ends: u64,
}

/// A kind of fault, as the swarm switches them on and off.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Kind {
    AgentFreeze,
    AgentCrash,
    AgentStop,
    AgentDetach,
    GuardKill,
    GuardFreeze,
    PostgresCrash,
    PostgresFreeze,
    BothCrash,
    NodeFreeze,
    NodeDeath,
    EtcdDown,
    EtcdElection,
    CutOneWay,
    Cut,
    CutReplication,
    Isolate,
    /// Several at once: every node is cut off from the store.
    StoreUnplugged,
    Slow,
    Lossy,
    ProxyFreeze,
    ProxyCrash,
    WatchLoss,
    AtStep,
    Switchover,
    Failover,
    Pause,
    SetTtl,
    SetFailsafe,
    SetStartTimeout,
    SetMaximumLag,
    SetSync,
}

const PLANNED: &[Kind] = &[
    Kind::Switchover,
    Kind::Switchover,
    Kind::Switchover,
    Kind::AgentStop,
    Kind::AgentDetach,
    Kind::EtcdElection,
    Kind::ProxyCrash,
    Kind::SetTtl,
    Kind::SetFailsafe,
    Kind::SetMaximumLag,
    Kind::SetSync,
];

const PAUSED: &[Kind] = &[
    Kind::Pause,
    Kind::Pause,
    Kind::PostgresCrash,
    Kind::Switchover,
    Kind::Failover,
    Kind::AgentStop,
    Kind::AgentDetach,
    Kind::SetTtl,
    Kind::SetSync,
];

const STORM: &[Kind] = &[
    Kind::AgentFreeze,
    Kind::AgentCrash,
    Kind::AgentStop,
    Kind::AgentDetach,
    Kind::PostgresCrash,
    Kind::PostgresFreeze,
    Kind::BothCrash,
    Kind::NodeFreeze,
    Kind::NodeDeath,
    Kind::EtcdDown,
    Kind::EtcdElection,
    Kind::CutOneWay,
    Kind::Cut,
    Kind::CutReplication,
    Kind::Isolate,
    Kind::StoreUnplugged,
    Kind::Slow,
    Kind::Lossy,
    Kind::ProxyFreeze,
    Kind::ProxyCrash,
    Kind::WatchLoss,
    Kind::AtStep,
    Kind::AtStep,
    Kind::Switchover,
    Kind::Failover,
    Kind::SetTtl,
    Kind::SetFailsafe,
    Kind::SetStartTimeout,
    Kind::SetMaximumLag,
    Kind::SetSync,
];

/// After these an agent cannot start another guard at once. With the death of the guard that would be two faults
/// at once, which nothing covers: a run has the ones or the other.
const AGENT_HELD: &[Kind] = &[
    Kind::AgentFreeze,
    Kind::AgentCrash,
    Kind::AgentStop,
    Kind::AgentDetach,
    Kind::BothCrash,
    Kind::NodeFreeze,
    Kind::NodeDeath,
    Kind::AtStep,
];

/// What makes agents do what they then may be struck in.
const CAUSES: &[(Kind, &[&str])] = &[
    (Kind::Switchover, trap::AT_SWITCHOVER),
    (Kind::Switchover, trap::AT_SWITCHOVER),
    (Kind::PostgresCrash, trap::AT_RESTART),
    (Kind::BothCrash, trap::AT_FAILOVER),
    (Kind::NodeDeath, trap::AT_FAILOVER),
    (Kind::StoreUnplugged, trap::AT_STORE_LOSS),
    (Kind::EtcdDown, trap::AT_STORE_LOSS),
    (Kind::AgentStop, trap::AT_SHUTDOWN),
    (Kind::AgentDetach, trap::AT_TAKE_OVER),
    (Kind::SetTtl, trap::AT_TAKE_OVER),
    (Kind::SetSync, trap::AT_SYNC),
    (Kind::CutReplication, trap::AT_SYNC),
];

fn draw_trap(plan: &Plan, rng: &mut Rng, labels: &[&'static str], at: u64) -> Trap {
    Trap {
        label: rng.pick(labels),
        skip: u32::try_from(rng.below(4)).expect("small"),
        harm: rng.pick(&Harm::ALL),
        until: at + rng.range(SEC, 2 * plan.ttl_ns() + SEC),
        lasts: rng.range(plan.ttl_ns() / 4, plan.ttl_ns() * 2),
    }
}

/// Draws the faults of a run into its plan.
pub(crate) fn draw(plan: &mut Plan, rng: &mut Rng) {
    let kinds = kinds(plan, rng);
    let ttl = plan.ttl_ns();
    // Nothing goes wrong before the cluster has come up, and again for some time after each fault.
    let calm = plan.class != Class::Storm;
    let least = if calm { ttl + 6 * SEC } else { rng.pick(&[100 * MS, SEC, ttl / 2, ttl, 2 * ttl]) };
    let overlap = !calm && rng.chance(500);
    let rush = if calm { 0 } else { rng.pick(&[0, 300, 700]) };
    let count = if calm { rng.range(2, 4) } else { rng.range(2, 7) };
    let mut at = match (plan.from_nothing, calm) {
        (true, _) => 10 * SEC,
        (false, true) => rng.range(6, 8) * SEC,
        (false, false) => rng.range(2, 6) * SEC,
    };
    if plan.from_nothing && kinds.contains(&Kind::AtStep) {
        let trap = draw_trap(plan, rng, trap::AT_BOOTSTRAP, 0);
        let trap = Trap { until: 10 * SEC, ..trap };
        plan.faults.push(Planned { fault: Fault::AtStep(trap), begins: 0, ends: trap.until + trap.lasts });
        at = trap.until + trap.lasts;
    }
    for _ in 0..count {
        let kind = rng.pick(&kinds);
        let lasts = add(plan, rng, kind, at);
        if rng.chance(rush) {
            // What hurts most is what happens while the last thing is still being dealt with.
            at += if rng.chance(500) { lasts } else { 0 };
            at += rng.range(0, 1_500) * MS;
            continue;
        }
        at += if overlap { rng.range(0, lasts) } else { lasts };
        at += least + rng.range(0, if calm { 2 * SEC } else { least });
    }
    let end = plan.faults.iter().map(|f| f.ends).max().unwrap_or(at);
    plan.heal_at = end + rng.range(0, SEC);
}

/// Which kinds exist in this run.
fn kinds(plan: &Plan, rng: &mut Rng) -> Vec<Kind> {
    let all = match plan.class {
        Class::Planned => PLANNED,
        Class::Paused => PAUSED,
        Class::Storm => STORM,
    };
    let possible = |kind: &Kind| *kind != Kind::SetSync || plan.may_sync;
    let share = rng.pick(&[100, 250, 500, 1000]);
    let mut kinds: Vec<Kind> = all.iter().copied().filter(|k| rng.chance(share) && possible(k)).collect();
    if kinds.is_empty() {
        kinds.push(rng.pick(&all[..4]));
    }
    if plan.class == Class::Storm && kinds.iter().all(|k| !AGENT_HELD.contains(k)) {
        kinds.extend([Kind::GuardKill, Kind::GuardFreeze]);
    }
    kinds
}

/// Adds what `kind` means this time; how long it lasts.
fn add(plan: &mut Plan, rng: &mut Rng, kind: Kind, at: u64) -> u64 {
    match kind {
        Kind::StoreUnplugged => {
            // The store lives on and its leases end; each node finds it again at a time of its own.
            let mut longest = 0;
            for n in 0..plan.nodes {
                let fault = Fault::Cut(End::Node(n), End::Etcd);
                let lasts = length(plan, rng, fault);
                plan.faults.push(Planned { fault, begins: at, ends: at + lasts });
                longest = longest.max(lasts);
            }
            longest
        }
        Kind::AtStep => {
            let (cause, labels) = match rng.pick(CAUSES) {
                (Kind::SetSync, _) if !plan.may_sync => (Kind::Switchover, trap::AT_SWITCHOVER),
                drawn => drawn,
            };
            let trap = draw_trap(plan, rng, labels, at);
            let lasts = trap.until + trap.lasts - at;
            plan.faults.push(Planned { fault: Fault::AtStep(trap), begins: at, ends: at + lasts });
            let at = at + rng.range(1, 200) * MS;
            add(plan, rng, cause, at).max(lasts)
        }
        _ => {
            let fault = draw_fault(plan, rng, kind);
            let lasts = length(plan, rng, fault);
            plan.faults.push(Planned { fault, begins: at, ends: at + lasts });
            lasts
        }
    }
}

/// A cut that matters: somebody from the store, two nodes, a proxy from a node.
fn draw_ends(plan: &Plan, rng: &mut Rng) -> (End, End) {
    let n = rng.below(plan.nodes);
    let other = (n + 1 + rng.below(plan.nodes - 1)) % plan.nodes;
    let ends = match rng.below(4) {
        0 | 1 => (End::Node(n), End::Etcd),
        2 => (End::Node(n), End::Node(other)),
        _ => (End::Proxy(rng.below(plan.proxies)), rng.pick(&[End::Etcd, End::Node(n)])),
    };
    if rng.chance(500) { ends } else { (ends.1, ends.0) }
}

fn draw_fault(plan: &Plan, rng: &mut Rng, kind: Kind) -> Fault {
    let n = rng.below(plan.nodes);
    let p = rng.below(plan.proxies);
    let other = (n + 1 + rng.below(plan.nodes - 1)) % plan.nodes;
    let ends = draw_ends(plan, rng);
    let end = rng.pick(&[End::Node(n), End::Node(n), End::Etcd, End::Proxy(p)]);
    match kind {
        Kind::AgentFreeze => Fault::AgentFreeze(n),
        Kind::AgentCrash => Fault::AgentCrash(n),
        Kind::AgentStop => Fault::AgentStop(n),
        Kind::AgentDetach => Fault::AgentDetach(n),
        Kind::GuardKill => Fault::GuardKill(n),
        Kind::GuardFreeze => Fault::GuardFreeze(n),
        Kind::PostgresCrash => Fault::PostgresCrash(n),
        Kind::PostgresFreeze => Fault::PostgresFreeze(n),
        Kind::BothCrash => Fault::BothCrash(n),
        Kind::NodeFreeze => Fault::NodeFreeze(n),
        Kind::NodeDeath => Fault::NodeDeath(n),
        Kind::EtcdDown | Kind::StoreUnplugged => Fault::EtcdDown,
        Kind::EtcdElection => Fault::EtcdElection,
        Kind::CutOneWay => Fault::CutOneWay(ends.0, ends.1),
        Kind::Cut => Fault::Cut(ends.0, ends.1),
        Kind::CutReplication => Fault::CutReplication(n, other),
        Kind::Isolate => Fault::Isolate(n),
        Kind::Slow => Fault::Slow(end),
        Kind::Lossy => Fault::Lossy(end),
        Kind::ProxyFreeze => Fault::ProxyFreeze(p),
        Kind::ProxyCrash => Fault::ProxyCrash(p),
        Kind::WatchLoss => Fault::WatchLoss(rng.below(plan.nodes + plan.proxies)),
        Kind::Switchover | Kind::AtStep => Fault::Switchover(rng.chance(500).then_some(n)),
        Kind::Failover => Fault::Failover(n),
        Kind::Pause => Fault::Pause,
        Kind::SetTtl => Fault::SetTtl(draw_ttl(rng)),
        Kind::SetFailsafe => Fault::SetFailsafe(rng.chance(500)),
        Kind::SetStartTimeout => Fault::SetStartTimeout(draw_start_timeout(rng)),
        Kind::SetMaximumLag => Fault::SetMaximumLag(draw_maximum_lag(rng)),
        Kind::SetSync => Fault::SetSync(draw_sync(rng)),
    }
}

/// How long a fault lasts: from a moment to well past the lease.
fn length(plan: &Plan, rng: &mut Rng, fault: Fault) -> u64 {
    let ttl = plan.ttl_ns();
    let planned = plan.class == Class::Planned;
    match fault {
        Fault::GuardKill(_) | Fault::PostgresCrash(_) | Fault::WatchLoss(_) => 0,
        _ if fault.is_momentary() => SEC,
        // A short one is no fault: the next renewal is in time.
        Fault::EtcdElection if planned => rng.range(20, 250) * MS,
        Fault::EtcdElection => rng.range(50, 1_500) * MS,
        Fault::AgentDetach(_) if planned => rng.range(10, 150) * MS,
        Fault::AgentStop(_) | Fault::Pause => rng.range(1, 6) * SEC,
        _ => match rng.below(4) {
            0 => rng.range(10, 500) * MS,
            1 => rng.range(ttl / 2, ttl),
            2 => rng.range(ttl, ttl * 3 / 2),
            _ => rng.range(ttl / 4, ttl * 5 / 2),
        },
    }
}
