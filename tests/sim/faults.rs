//! How faults begin and end, and what an operator does.

use pgvane_cluster::keyspace::Key;
use pgvane_cluster::records::FailoverRecord;
use pgvane_cluster::store::Txn;
use serde_json::Value;

use crate::agent;
use crate::clock::Clock;
use crate::etcd;
use crate::fact::Fact;
use crate::guard;
use crate::network::{ENDS, End, NODES};
use crate::runtime::{Proc, SEC, Sim};
use crate::schedule::{Fault, Planned};
use crate::server;
use crate::world::World;

fn suspend(sim: &Sim, n: usize, on: bool) {
    let procs = {
        let mut w = sim.w();
        let now = w.now;
        let node = &mut w.nodes[n];
        node.suspended = if on { node.suspended + 1 } else { node.suspended - 1 };
        if node.suspended != u32::from(on) {
            return;
        }
        let guard = node.guard.as_ref().map(|g| g.proc);
        let server = node.pg.server.as_ref().map(|s| s.proc);
        let procs: Vec<Proc> = [guard, node.agent_proc, server].into_iter().flatten().collect();
        if on {
            node.suspended_at = now;
        }
        let since = node.suspended_at;
        if !on {
            // CLOCK_MONOTONIC stood still.
            let clock = sim.clock(n);
            sim.set_clock(n, Clock { lost: clock.lost + (now - since), ..clock });
        }
        w.fact(Fact::Suspended { node: n, on });
        procs
    };
    for proc in procs {
        if on { sim.freeze(proc) } else { sim.thaw(proc) }
    }
}

/// Power off: everything is gone at once; on again: a boot later.
fn power(sim: &Sim, n: usize, on: bool) {
    {
        let mut w = sim.w();
        w.nodes[n].powered = on;
    }
    if on {
        let now = sim.now();
        {
            let mut w = sim.w();
            let clock = sim.clock(n);
            let began = i64::try_from(now).expect("small");
            let boot = 5 * i64::try_from(SEC).expect("small") - began - began / 1_000_000 * clock.ppm;
            sim.set_clock(n, Clock { boot, lost: 0, ..clock });
            w.nodes[n].boot += 1;
        }
        agent::start(sim, n);
        return;
    }
    agent::end(sim, n);
    guard::end(sim, n);
    let pid = sim.w().nodes[n].pg.pid();
    if let Some(pid) = pid {
        server::gone(sim, n, pid);
    }
}

fn isolate(w: &mut World, n: usize, on: bool) {
    for other in (0..ENDS).filter(|i| *i != End::Node(n).index()).map(End::of) {
        w.net.cut(End::Node(n), other, on);
        w.net.cut(other, End::Node(n), on);
        if let End::Node(m) = other {
            w.net.cut_replication(n, m, on);
        }
    }
}

/// A fault, or a wish of the operator, begins.
pub(crate) fn begin(sim: &Sim, planned: Planned) {
    sim.w().fact(Fact::Begins(planned.fault));
    match planned.fault {
        Fault::AgentFreeze(n) => {
            let proc = sim.w().nodes[n].agent_proc;
            if let Some(proc) = proc {
                sim.w().nodes[n].agent_frozen += 1;
                sim.freeze(proc);
            }
        }
        Fault::AgentCrash(n) => {
            sim.w().nodes[n].held_down += 1;
            agent::end(sim, n);
        }
        Fault::AgentStop(n) => {
            sim.w().nodes[n].held_down += 1;
            let proc = sim.w().nodes[n].agent_proc;
            if let Some(proc) = proc {
                agent::tell(sim, n, proc, |agent, _| agent.memory.shutdown = true);
            }
        }
        Fault::GuardKill(n) => guard::end(sim, n),
        Fault::PostgresCrash(n) => crash(sim, n),
        Fault::BothCrash(n) => {
            sim.w().nodes[n].held_down += 1;
            agent::end(sim, n);
            crash(sim, n);
        }
        Fault::NodeFreeze(n) => suspend(sim, n, true),
        Fault::NodeDeath(n) => {
            sim.w().nodes[n].held_down += 1;
            power(sim, n, false);
        }
        Fault::EtcdDown | Fault::EtcdElection => {
            let mut w = sim.w();
            w.etcd.down += 1;
            if planned.fault == Fault::EtcdElection {
                w.etcd.drop_streams();
            }
        }
        Fault::CutOneWay(from, to) => sim.w().net.cut(from, to, true),
        Fault::Cut(a, b) => {
            let mut w = sim.w();
            w.net.cut(a, b, true);
            w.net.cut(b, a, true);
        }
        Fault::CutReplication(a, b) => sim.w().net.cut_replication(a, b, true),
        Fault::Isolate(n) => isolate(&mut sim.w(), n, true),
        Fault::ProxyFreeze(p) => {
            let proc = sim.w().proxies[p].proc;
            sim.w().fact(Fact::ProxyFrozen { proxy: p, on: true });
            sim.freeze(proc);
        }
        Fault::WatchLoss(who) => sim.w().etcd.followers[who].to_lose += 1,
        Fault::Switchover(named) => switch_over(sim, named),
        Fault::Pause => configure(sim, "pause", true.into()),
        Fault::SetTtl(ttl) => configure(sim, "ttl", ttl.as_secs().into()),
    }
}

fn crash(sim: &Sim, n: usize) {
    let pid = sim.w().nodes[n].pg.pid();
    if let Some(pid) = pid
        && sim.w().nodes[n].suspended == 0
    {
        server::gone(sim, n, pid);
    }
}

/// A fault ends.
pub(crate) fn end(sim: &Sim, fault: Fault) {
    match fault {
        Fault::GuardKill(_)
        | Fault::PostgresCrash(_)
        | Fault::WatchLoss(_)
        | Fault::Switchover(_)
        | Fault::SetTtl(_) => return,
        _ => sim.w().fact(Fact::Ends(fault)),
    }
    match fault {
        Fault::AgentFreeze(n) => {
            let proc = {
                let mut w = sim.w();
                let node = &mut w.nodes[n];
                // Whoever was frozen may have been killed meanwhile.
                let proc = node.agent_proc.filter(|_| node.agent_frozen > 0);
                node.agent_frozen = node.agent_frozen.saturating_sub(1);
                proc
            };
            if let Some(proc) = proc {
                sim.thaw(proc);
            }
        }
        Fault::AgentCrash(n) | Fault::AgentStop(n) | Fault::BothCrash(n) => let_up(sim, n),
        Fault::NodeFreeze(n) => suspend(sim, n, false),
        Fault::NodeDeath(n) => {
            if sim.w().nodes[n].powered {
                let_up(sim, n);
            } else {
                sim.w().nodes[n].held_down -= 1;
                power(sim, n, true);
            }
        }
        Fault::EtcdDown | Fault::EtcdElection => {
            let now = sim.tick(End::Etcd.index());
            let mut w = sim.w();
            w.etcd.down -= 1;
            if w.etcd.down == 0 {
                // Whoever leads now gives every lease its full time.
                w.etcd.model.restart_leases(now);
            }
        }
        Fault::CutOneWay(from, to) => sim.w().net.cut(from, to, false),
        Fault::Cut(a, b) => {
            let mut w = sim.w();
            w.net.cut(a, b, false);
            w.net.cut(b, a, false);
        }
        Fault::CutReplication(a, b) => sim.w().net.cut_replication(a, b, false),
        Fault::Isolate(n) => isolate(&mut sim.w(), n, false),
        Fault::ProxyFreeze(p) => {
            let proc = sim.w().proxies[p].proc;
            sim.thaw(proc);
            let frozen = sim.is_frozen(proc);
            sim.w().fact(Fact::ProxyFrozen { proxy: p, on: frozen });
        }
        Fault::Pause => configure(sim, "pause", false.into()),
        Fault::GuardKill(_)
        | Fault::PostgresCrash(_)
        | Fault::WatchLoss(_)
        | Fault::Switchover(_)
        | Fault::SetTtl(_) => {}
    }
}

/// One reason less for a node's agent not to run.
fn let_up(sim: &Sim, n: usize) {
    sim.w().nodes[n].held_down -= 1;
    restart(sim, n);
}

/// Starts the agent of a node that nothing holds down, once the one before it has ended.
fn restart(sim: &Sim, n: usize) {
    let (wanted, running) = {
        let w = sim.w();
        let node = &w.nodes[n];
        (node.held_down == 0 && node.powered, node.agent_proc.is_some())
    };
    if wanted && running {
        sim.after(SEC / 5, move |sim| restart(sim, n));
    } else if wanted {
        agent::start(sim, n);
    }
}

/// What an agent's API writes for an operator.
fn switch_over(sim: &Sim, named: Option<usize>) {
    let put = {
        let w = sim.w();
        let truth = w.etcd.truth();
        let Some(leader) = truth.leader.as_ref().filter(|_| w.etcd.down == 0) else { return };
        let member = named.map(agent::name);
        let record = FailoverRecord { leader: Some(leader.name.clone()), member, scheduled_at: None };
        Txn::put(w.etcd.space.path(&Key::Failover), record.to_json(), None)
    };
    etcd::put_now(sim, &put);
}

fn configure(sim: &Sim, key: &str, value: Value) {
    let put = {
        let w = sim.w();
        let Some(config) = &w.etcd.truth().config else { return };
        let mut document = config.value.json.clone();
        document[key] = value;
        Txn::put(w.etcd.space.path(&Key::Config), document.to_string().into_bytes(), None)
    };
    etcd::put_now(sim, &put);
}

/// The end of all faults. An agent that was told to stop and has not yet is started when it has.
pub(crate) fn heal(sim: &Sim) {
    sim.w().fact(Fact::Healed);
    sim.after(0, revive);
}

fn revive(sim: &Sim) {
    for n in 0..NODES {
        let down = sim.w().nodes[n].agent_proc.is_none();
        if down {
            agent::start(sim, n);
        }
    }
    sim.after(SEC / 2, revive);
}
