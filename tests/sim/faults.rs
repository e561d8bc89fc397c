//! How faults begin and end.

use crate::agent;
use crate::clock::Clock;
use crate::fact::Fact;
use crate::guard;
use crate::network::{ENDS, End, MAX_NODES};
use crate::operator;
use crate::proxy;
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
    sim.w().nodes[n].pg.lose_power();
}

fn isolate(w: &mut World, n: usize, on: bool) {
    for other in (0..ENDS).filter(|i| *i != End::Node(n).index()).map(End::of) {
        w.net.cut(End::Node(n), other, on);
        w.net.cut(other, End::Node(n), on);
        if let End::Node(m) = other
            && m < MAX_NODES
        {
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
            tell(sim, n, |agent| agent.memory.shutdown = true);
        }
        Fault::AgentDetach(n) => {
            sim.w().nodes[n].held_down += 1;
            tell(sim, n, |agent| agent.detach = true);
        }
        Fault::GuardKill(n) => guard::end(sim, n),
        Fault::GuardFreeze(n) => guard::freeze(sim, n, true),
        Fault::PostgresCrash(n) => crash(sim, n),
        Fault::PostgresFreeze(n) => freeze_postgres(sim, n),
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
        Fault::Slow(end) => sim.w().net.slow(end, true),
        Fault::Lossy(end) => sim.w().net.lossy(end, true),
        Fault::ProxyFreeze(p) => {
            let proc = sim.w().proxies[p].proc;
            if sim.w().proxies[p].runs() {
                sim.w().proxies[p].frozen += 1;
                sim.w().fact(Fact::ProxyFrozen { proxy: p, on: true });
                sim.freeze(proc);
            }
        }
        Fault::ProxyCrash(p) => proxy::end(sim, p),
        Fault::WatchLoss(who) => {
            let mut w = sim.w();
            let nodes = w.nodes.len();
            let who = if who < nodes { who } else { who - nodes + MAX_NODES };
            w.etcd.followers[who].to_lose += 1;
        }
        Fault::AtStep(trap) => {
            sim.w().traps.push(trap);
            sim.at(trap.until, move |sim| sim.w().traps.retain(|t| t.until > sim.now()));
        }
        Fault::Switchover(_)
        | Fault::Failover(_)
        | Fault::Pause
        | Fault::SetTtl(_)
        | Fault::SetFailsafe(_)
        | Fault::SetStartTimeout(_)
        | Fault::SetMaximumLag(_)
        | Fault::SetSync(_) => operator::begin(sim, planned.fault),
    }
}

fn tell(sim: &Sim, n: usize, f: impl FnOnce(&mut agent::Agent)) {
    let proc = sim.w().nodes[n].agent_proc;
    if let Some(proc) = proc {
        agent::tell(sim, n, proc, |agent, _| f(agent));
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

/// Stops all processes of PostgreSQL. They go on by [`thaw_postgres`] unless they were killed meanwhile.
fn freeze_postgres(sim: &Sim, n: usize) {
    let mut w = sim.w();
    if let Some(server) = w.nodes[n].pg.server.as_mut() {
        server.frozen += 1;
        sim.freeze(server.proc);
    }
}

fn thaw_postgres(sim: &Sim, n: usize) {
    let mut w = sim.w();
    if let Some(server) = w.nodes[n].pg.server.as_mut().filter(|s| s.frozen > 0) {
        server.frozen -= 1;
        sim.thaw(server.proc);
    }
}

/// A fault ends.
pub(crate) fn end(sim: &Sim, fault: Fault) {
    if fault.is_momentary() {
        return;
    }
    sim.w().fact(Fact::Ends(fault));
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
        Fault::AgentCrash(n) | Fault::AgentStop(n) | Fault::AgentDetach(n) | Fault::BothCrash(n) => {
            let_up(sim, n);
        }
        Fault::GuardFreeze(n) => guard::freeze(sim, n, false),
        Fault::PostgresFreeze(n) => thaw_postgres(sim, n),
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
        Fault::Slow(end) => sim.w().net.slow(end, false),
        Fault::Lossy(end) => sim.w().net.lossy(end, false),
        Fault::ProxyFreeze(p) => {
            let (proc, thaws) = {
                let mut w = sim.w();
                let proxy = &mut w.proxies[p];
                // Whoever was frozen may have been killed meanwhile.
                let thaws = proxy.frozen > 0;
                proxy.frozen = proxy.frozen.saturating_sub(1);
                (proxy.proc, thaws)
            };
            if thaws {
                sim.thaw(proc);
                let frozen = sim.is_frozen(proc);
                sim.w().fact(Fact::ProxyFrozen { proxy: p, on: frozen });
            }
        }
        Fault::ProxyCrash(p) => proxy::start_again(sim, p),
        Fault::Pause => operator::end_pause(sim),
        Fault::AtStep(_)
        | Fault::GuardKill(_)
        | Fault::PostgresCrash(_)
        | Fault::WatchLoss(_)
        | Fault::Switchover(_)
        | Fault::Failover(_)
        | Fault::SetTtl(_)
        | Fault::SetFailsafe(_)
        | Fault::SetStartTimeout(_)
        | Fault::SetMaximumLag(_)
        | Fault::SetSync(_) => {}
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

/// The end of all faults. An agent that was told to stop and has not yet is started when it has.
pub(crate) fn heal(sim: &Sim) {
    sim.w().fact(Fact::Healed);
    sim.after(0, revive);
}

fn revive(sim: &Sim) {
    let nodes = sim.w().nodes.len();
    for n in 0..nodes {
        let down = sim.w().nodes[n].agent_proc.is_none();
        if down {
            agent::start(sim, n);
        }
    }
    sim.after(SEC / 2, revive);
}
