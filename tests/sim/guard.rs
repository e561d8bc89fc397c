//! A guard process around the real state machine: what `guard::run` does, over the simulated machine.

use std::time::Duration;

use pgvane_agent::guard::client::Doing;
use pgvane_agent::guard::core::{Command, Event, Phase, Refusal, Server, State, Watch, step};
use pgvane_cluster::ids::LeaseId;

use crate::agent;
use crate::etcd;
use crate::fact::Fact;
use crate::network::End;
use crate::postgres::{Data, Stop};
use crate::runtime::{MS, Proc, Signal, Sim};
use crate::server;
use crate::world::{Mutation, World};

/// The longest sleep while a server is looked for, and the bound on one attempt to revoke, as in production.
const GLANCE_EVERY: Duration = Duration::from_millis(100);
const ATTEMPT: Duration = Duration::from_secs(1);

/// One guard process.
pub(crate) struct Guard {
    pub(crate) proc: Proc,
    pub(crate) state: State,
    /// The agent's process.
    agent: Option<Proc>,
    /// The postmaster it watches.
    postmaster: Option<i32>,
    /// What the agent was last told.
    told: Doing,
    kicked: bool,
    kick: Signal,
    /// How many faults have it stopped.
    frozen: u32,
}

/// What is said of a guard that does not answer.
pub(crate) const SILENT: &str = "silent";

/// What an agent finds that connects.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Report {
    pub(crate) proc: Proc,
    pub(crate) doing: Doing,
    pub(crate) watch: Option<Watch>,
}

/// Starts a guard on a node that has none.
pub(crate) fn start(sim: &Sim, n: usize) {
    let proc = sim.new_proc(n);
    let now = sim.tick(n);
    let (kick, frozen) = (sim.signal(), sim.w().nodes[n].suspended > 0);
    if frozen {
        sim.freeze(proc);
    }
    let guard = Guard {
        proc,
        state: State::new(now),
        agent: None,
        postmaster: None,
        told: Doing::Idle,
        kicked: false,
        kick,
        frozen: 0,
    };
    sim.w().nodes[n].guard = Some(guard);
    let inner = sim.clone();
    sim.spawn(proc, async move { run(&inner, n, proc).await });
}

/// The guard's process ends, by itself or by a signal.
pub(crate) fn end(sim: &Sim, n: usize) {
    let proc = {
        let mut w = sim.w();
        let Some(guard) = w.nodes[n].guard.take() else { return };
        w.nodes[n].changed.raise();
        guard.proc
    };
    sim.kill(proc);
}

/// Stops a guard's process, or lets it go on.
pub(crate) fn freeze(sim: &Sim, n: usize, on: bool) {
    let mut w = sim.w();
    // Whoever was frozen may have been killed meanwhile.
    let Some(guard) = w.nodes[n].guard.as_mut().filter(|g| on || g.frozen > 0) else { return };
    if on {
        guard.frozen += 1;
        sim.freeze(guard.proc);
    } else {
        guard.frozen -= 1;
        sim.thaw(guard.proc);
    }
}

/// Whether nobody answers.
fn is_silent(sim: &Sim, n: usize) -> bool {
    sim.w().nodes[n].guard.as_ref().is_some_and(|g| sim.is_frozen(g.proc))
}

async fn run(sim: &Sim, n: usize, proc: Proc) {
    loop {
        feed(sim, n, Event::Tick);
        look_for_server(sim, n);
        let now = sim.tick(n);
        let (at, kick) = {
            let mut w = sim.w();
            let Some(guard) = w.nodes[n].guard.as_mut().filter(|g| g.proc == proc) else { return };
            let far = now + Duration::from_hours(1);
            // Everything told so far is taken in.
            guard.kicked = false;
            // In between nothing changes that it would not be told of.
            let awaits = matches!(guard.state.phase, Phase::Armed { server: Server::Awaited, .. });
            let glance = if awaits { now + GLANCE_EVERY } else { far };
            (guard.state.wake_at().unwrap_or(far).min(glance), guard.kick.clone())
        };
        let kicked = sim.until(&kick, || {
            let mut w = sim.w();
            w.nodes[n].guard.as_mut().is_none_or(|g| std::mem::take(&mut g.kicked))
        });
        sim.race(sim.sleep_until_boottime(proc, at), kicked).await;
        // A timer is never quite on time.
        let late = sim.w().rng.range(0, 2) * MS / 2;
        sim.sleep(proc, Duration::from_nanos(late)).await;
    }
}

/// Feeds one event and carries out what follows.
fn feed(sim: &Sim, n: usize, event: Event) -> Option<Refusal> {
    let now = sim.tick(n);
    let mut next = Some(event);
    let mut refusal = None;
    let mut first = true;
    while let Some(event) = next.take() {
        let command = {
            let mut w = sim.w();
            let guard = w.nodes[n].guard.as_mut()?;
            let before = Doing::from(guard.state.phase);
            let (command, refused) = step(&mut guard.state, event, now);
            let after = Doing::from(guard.state.phase);
            if std::mem::take(&mut first) {
                refusal = refused;
            }
            if after == Doing::Idle {
                guard.postmaster = None;
            }
            guard.kicked = true;
            guard.kick.raise();
            if before != after {
                w.fact(Fact::Guard { node: n, doing: after });
            }
            command
        };
        next = enact(sim, n, command);
    }
    note(sim, n);
    refusal
}

/// Tells the agent when the guard has acted.
fn note(sim: &Sim, n: usize) {
    let (agent, acted) = {
        let mut w = sim.w();
        let Some(guard) = w.nodes[n].guard.as_mut() else { return };
        let now = Doing::from(guard.state.phase);
        let acted = std::mem::replace(&mut guard.told, now) != now;
        (guard.agent, acted && matches!(now, Doing::Stopping | Doing::Fenced))
    };
    let Some(agent) = agent.filter(|_| acted) else { return };
    let inner = sim.clone();
    sim.spawn(agent, async move {
        if inner.w().mutation == Some(Mutation::IgnoresFence) {
            return;
        }
        let reached = agent::reached(&inner.w(), Doing::Stopping);
        agent::tell(&inner, n, agent, |agent, _| agent.guard = reached);
    });
}

fn enact(sim: &Sim, n: usize, command: Command) -> Option<Event> {
    match command {
        Command::Nothing => None,
        Command::StopImmediate => {
            let pid = sim.w().nodes[n].pg.pid();
            if let Some(pid) = pid {
                server::signal(sim, n, pid, Stop::Immediate);
            }
            None
        }
        Command::KillAll => {
            let pid = sim.w().nodes[n].pg.pid();
            let Some(pid) = pid else { return Some(Event::ProcessesGone) };
            let slow = sim.w().rng.chance(100);
            if slow {
                // In the middle of a disk write: it dies when that has ended.
                let after = sim.w().rng.range(5, 30) * MS;
                sim.after(after, move |sim| server::signal(sim, n, pid, Stop::Kill));
                return Some(Event::ProcessesLeft);
            }
            server::signal(sim, n, pid, Stop::Kill);
            Some(Event::ProcessesGone)
        }
        Command::RevokeLease(lease) => {
            revoke(sim, n, lease);
            None
        }
        Command::Exit => {
            end(sim, n);
            None
        }
    }
}

fn revoke(sim: &Sim, n: usize, lease: LeaseId) {
    let Some(proc) = sim.w().nodes[n].guard.as_ref().map(|g| g.proc) else { return };
    let inner = sim.clone();
    sim.spawn(proc, async move {
        let answer = etcd::ask(&inner, proc, End::Node(n), ATTEMPT, move |m, _| m.revoke(lease)).await;
        if answer.is_some() {
            inner.w().fact(Fact::LeaseRevoked { node: n, lease: lease.0 });
        }
        let event = if answer.is_some() { Event::Revoked(lease) } else { Event::RevokeFailed(lease) };
        feed(&inner, n, event);
    });
}

fn look_for_server(sim: &Sim, n: usize) {
    let found = {
        let mut w = sim.w();
        let World { nodes, .. } = &mut *w;
        let node = &mut nodes[n];
        let Some(guard) = node.guard.as_mut() else { return };
        let awaited = matches!(guard.state.phase, Phase::Armed { server: Server::Awaited, .. });
        match node.pg.pid().filter(|_| awaited && guard.postmaster.is_none()) {
            Some(pid) => {
                guard.postmaster = Some(pid);
                (guard.proc, pid)
            }
            None => return,
        }
    };
    let (proc, pid) = found;
    feed(sim, n, Event::PostgresFound);
    let inner = sim.clone();
    sim.spawn(proc, async move {
        let changed = inner.w().nodes[n].pg.changed.clone();
        inner.until(&changed, || inner.w().nodes[n].pg.pid() != Some(pid)).await;
        let watched = {
            let mut w = inner.w();
            w.nodes[n].guard.as_mut().is_some_and(|g| g.postmaster.take_if(|p| *p == pid).is_some())
        };
        if watched {
            feed(&inner, n, Event::PostgresGone);
        }
    });
}

/// What an agent finds that connects. As in `GuardClient`, it takes down the fence that it finds.
pub(crate) fn reach(sim: &Sim, n: usize, agent: Proc) -> Option<Report> {
    let report = hello(sim, n, agent)?;
    if report.doing == Doing::Fenced {
        tell(sim, n, Event::Disarm).ok()?;
    }
    Some(report)
}

/// What an agent is told that says hello.
fn hello(sim: &Sim, n: usize, agent: Proc) -> Option<Report> {
    if is_silent(sim, n) {
        return None;
    }
    let proc = {
        let mut w = sim.w();
        let guard = w.nodes[n].guard.as_mut()?;
        guard.agent = Some(agent);
        guard.proc
    };
    let before = sim.w().nodes[n].guard.as_ref().map(|g| g.state.clone())?;
    feed(sim, n, Event::AgentPresent);
    let inner = sim.clone();
    sim.spawn(proc, async move {
        let changed = inner.w().nodes[n].changed.clone();
        inner.until(&changed, || !inner.is_alive(agent)).await;
        let ours = {
            let mut w = inner.w();
            w.nodes[n].guard.as_mut().is_some_and(|g| g.agent.take_if(|a| *a == agent).is_some())
        };
        if ours {
            feed(&inner, n, Event::AgentGone);
        }
    });
    Some(Report { proc, doing: Doing::from(before.phase), watch: before.watch() })
}

/// The agent's wish; `Err`: refused, or nobody there.
pub(crate) fn arm(sim: &Sim, n: usize, watch: Watch) -> Result<(), &'static str> {
    if is_silent(sim, n) {
        return Err(SILENT);
    }
    {
        let mut w = sim.w();
        let node = &mut w.nodes[n];
        let Some(guard) = node.guard.as_mut() else { return Err("gone") };
        if Doing::from(guard.state.phase) == Doing::Stopping || node.pg.data == Data::Absent {
            return Err("refused");
        }
        guard.postmaster = None;
    }
    let refused = feed(sim, n, Event::Arm { watch, server: Server::Awaited });
    look_for_server(sim, n);
    if refused.is_some() { Err("refused") } else { Ok(()) }
}

/// The agent's wish to move the deadline, or to take it away.
pub(crate) fn tell(sim: &Sim, n: usize, event: Event) -> Result<(), &'static str> {
    if sim.w().nodes[n].guard.is_none() {
        return Err("gone");
    }
    if is_silent(sim, n) {
        return Err(SILENT);
    }
    if feed(sim, n, event).is_some() { Err("refused") } else { Ok(()) }
}
