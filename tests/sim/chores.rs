//! What an agent does beside its loop: keeps the lease, asks the server, watches processes, vouches.

use std::time::Duration;

use pgvane_agent::api::FailsafeAsk;
use pgvane_agent::decide::Outcome;
use pgvane_agent::decide::action;
use pgvane_agent::decide::consent;
use pgvane_agent::decide::world::{DataDir, Guard, OwnLease, Peer, Process, Slot};
use pgvane_agent::event::ServerEvent;
use pgvane_agent::keepalive::pace;
use pgvane_agent::postgres::probe::ProbeError;
use pgvane_cluster::store::KeepAlive;

use crate::agent::{hurry, name, observe, reached, tell};
use crate::etcd::{self, of_agent};
use crate::fact::Fact;
use crate::guard;
use crate::network::End;
use crate::replication;
use crate::runtime::{MS, Proc, Sim};
use crate::trap;
use crate::world::{Mutation, Promise};

/// As in `keepalive` and `prober`.
const RETRY: Duration = Duration::from_millis(200);
const ASK_EVERY: Duration = Duration::from_millis(250);

/// Waits for the end of the guard it is connected to, and starts another.
pub(crate) fn watch_guard(sim: &Sim, n: usize, proc: Proc, watched: Proc) {
    let inner = sim.clone();
    sim.spawn(proc, async move {
        let sim = &inner;
        let changed = sim.w().nodes[n].changed.clone();
        sim.until(&changed, || sim.w().nodes[n].guard.as_ref().is_none_or(|g| g.proc != watched)).await;
        tell(sim, n, proc, |agent, _| {
            agent.guard = Guard::Absent;
            agent.guard_proc = None;
        });
        loop {
            sim.sleep(proc, Duration::from_millis(20)).await;
            if sim.w().nodes[n].guard.is_none() {
                guard::start(sim, n);
            }
            sim.sleep(proc, Duration::from_millis(5)).await;
            if let Some(report) = guard::reach(sim, n, proc) {
                let guard = reached(&sim.w(), report.doing);
                tell(sim, n, proc, |agent, _| {
                    agent.guard = guard;
                    agent.guard_proc = Some(report.proc);
                });
                watch_guard(sim, n, proc, report.proc);
                return;
            }
        }
    });
}

/// The guard it is connected to does not answer: it counts as gone, and another is looked for until one answers.
pub(crate) fn guard_is_silent(sim: &Sim, n: usize, proc: Proc) {
    let lost = tell(sim, n, proc, |agent, _| {
        agent.guard = Guard::Absent;
        agent.guard_proc.take().is_some()
    });
    if lost != Some(true) {
        return;
    }
    let inner = sim.clone();
    sim.spawn(proc, async move {
        loop {
            inner.sleep(proc, RETRY).await;
            if inner.w().nodes[n].agent.as_ref().is_none_or(|a| a.guard_proc.is_some()) {
                return;
            }
            if let Some(report) = guard::reach(&inner, n, proc) {
                let guard = reached(&inner.w(), report.doing);
                tell(&inner, n, proc, |agent, _| {
                    agent.guard = guard;
                    agent.guard_proc = Some(report.proc);
                });
                return;
            }
        }
    });
}

/// Reports the end of a postmaster, with the data directory looked at first.
pub(crate) fn watch_server(sim: &Sim, n: usize, proc: Proc, pid: i32) {
    let inner = sim.clone();
    sim.spawn(proc, async move {
        let sim = &inner;
        let changed = sim.w().nodes[n].pg.changed.clone();
        sim.until(&changed, || sim.w().nodes[n].pg.pid() != Some(pid)).await;
        sim.sleep(proc, Duration::from_millis(3)).await;
        let data = sim.w().nodes[n].pg.look();
        server_event(sim, n, proc, &ServerEvent::Gone { pid }, Some(data));
    });
}

/// What `Reconciler::server_changed` does.
pub(crate) fn server_event(sim: &Sim, n: usize, proc: Proc, change: &ServerEvent, data: Option<DataDir>) {
    tell(sim, n, proc, |agent, now| {
        if let Some(data) = data {
            agent.server.data = data;
        }
        let ended = agent.server.absorb(now, change);
        if ended && matches!(agent.guard, Guard::Armed { .. }) {
            agent.guard = Guard::Outdated;
        }
        let expected = agent.doing(Slot::Postgres).is_some_and(|what| !action::SERVING.contains(&what));
        if ended && !expected {
            agent.memory.absorb(now, &Outcome::PostgresEnded);
        }
    });
    // Whether the server is to be asked may have changed.
    hurry(sim, n);
}

/// Asks the server once and tells the loop. An answer that says nothing new does not wake it: what a decision
/// waits for it gets at its own time.
pub(crate) fn probe(sim: &Sim, n: usize, proc: Proc) {
    let asked_at = sim.tick(n);
    let mut w = sim.w();
    if w.plan.may_sync {
        replication::prune(&mut w, n);
    }
    let silent = w.nodes[n].pg.server.as_ref().is_some_and(|s| sim.is_frozen(s.proc));
    let answer = w.nodes[n].pg.sql(asked_at).filter(|_| !silent);
    let Some(agent) = w.nodes[n].agent.as_mut().filter(|a| a.proc == proc) else { return };
    let promoting = agent.doing(Slot::Postgres) == Some(action::PROMOTE);
    let answer = answer.ok_or_else(|| ProbeError::Refused("the simulated server".to_owned()));
    let before = (agent.server.role, agent.server.process);
    let same = match (&agent.server.view, &answer) {
        (Some(old), Ok(new)) => {
            old.asked_at + Duration::from_millis(600) > asked_at
                && (old.timeline, old.position(), old.streaming, old.in_recovery, &old.upstream)
                    == (new.timeline, new.position(), new.streaming, new.in_recovery, &new.upstream)
        }
        (_, Err(_)) => true,
        (None, Ok(_)) => false,
    };
    agent.server.probed(answer, promoting);
    if same && before == (agent.server.role, agent.server.process) {
        return;
    }
    agent.woken = true;
    w.etcd.followers[of_agent(n)].changed.raise();
}

/// What an agent answers that is asked for its position: its server is asked first.
pub(crate) async fn tell_position(sim: &Sim, n: usize, proc: Proc) -> Peer {
    let came = sim.tick(n);
    let takes = sim.w().rng.range(MS / 2, 3 * MS);
    sim.sleep(proc, Duration::from_nanos(takes)).await;
    let stale = sim.w().mutation == Some(Mutation::StaleVotes);
    if !stale {
        probe(sim, n, proc);
    }
    let w = sim.w();
    let Some(agent) = w.nodes[n].agent.as_ref().filter(|a| a.proc == proc) else { return Peer::Unreachable };
    let live = agent.server.view.as_ref().filter(|view| stale || view.asked_at >= came);
    match (agent.shown.clone(), live) {
        (Some(Peer::Answered { is_primary, running, tags, .. }), Some(view)) => Peer::Answered {
            is_primary: is_primary || !view.in_recovery,
            running,
            timeline: Some(view.timeline).filter(|t| t.0 > 0),
            position: view.position(),
            fresh: true,
            tags,
        },
        (shown, _) => shown.unwrap_or(Peer::Unreachable),
    }
}

pub(crate) async fn ask_for_ever(sim: Sim, n: usize, proc: Proc) {
    let signal = sim.w().nodes[n].hurry.clone();
    loop {
        let wanted = || {
            let w = sim.w();
            let process = w.nodes[n].agent.as_ref().map(|a| a.server.process);
            matches!(process, Some(Process::Running | Process::Starting { .. }))
        };
        sim.until(&signal, wanted).await;
        let takes = sim.w().rng.range(300, 3_000) * 1_000;
        sim.sleep(proc, Duration::from_nanos(takes)).await;
        probe(&sim, n, proc);
        let hurried = sim.until(&signal, || {
            let mut w = sim.w();
            w.nodes[n].agent.as_mut().is_some_and(|a| std::mem::take(&mut a.hurry))
        });
        sim.timeout(proc, ASK_EVERY, hurried).await;
    }
}

/// What `keepalive::keep` does.
pub(crate) async fn keep_lease(sim: Sim, n: usize, proc: Proc, adopted: OwnLease) {
    let mut lease = adopted;
    let mut asked_ttl = match adopted {
        OwnLease::Held { ttl, .. } => ttl,
        OwnLease::None => Duration::ZERO,
    };
    loop {
        let now = sim.tick(n);
        let agent = sim.w().nodes[n].agent.as_ref().map(|a| (a.timing, a.pulse, a.spent));
        let Some((timing, pulse, spent)) = agent else { return };
        if now.since(pulse) > timing.renew_interval * 2 {
            sim.sleep(proc, RETRY).await;
            continue;
        }
        trap::step(&sim, n, proc, trap::LEASE, 0).await;
        let answer = match lease {
            OwnLease::Held { id, .. } if asked_ttl == timing.ttl && spent != Some(id) => {
                let limit = timing.renew_interval.max(Duration::from_millis(500));
                let answer = etcd::ask(&sim, proc, End::Node(n), limit, move |m, now| m.keep_alive(id, now));
                answer.await.map(|answer| match answer {
                    KeepAlive::Renewed { ttl } => {
                        OwnLease::Held { id, sent_at: now, ttl: ttl.min(timing.ttl) }
                    }
                    KeepAlive::Gone => OwnLease::None,
                })
            }
            OwnLease::Held { .. } | OwnLease::None => {
                let ttl = timing.ttl;
                let answer =
                    etcd::ask(&sim, proc, End::Node(n), etcd::CALL_LIMIT, move |m, now| m.grant(ttl, now));
                answer.await.map(|granted| OwnLease::Held {
                    id: granted.id,
                    sent_at: now,
                    ttl: granted.ttl.min(timing.ttl),
                })
            }
        };
        trap::step(&sim, n, proc, trap::LEASE, 1).await;
        match answer {
            Some(held @ OwnLease::Held { .. }) => {
                (lease, asked_ttl) = (held, timing.ttl);
                tell(&sim, n, proc, |agent, _| agent.lease = held);
                let next = now + pace(&timing, held);
                sim.sleep(proc, sim.tick(n).until(next)).await;
            }
            Some(OwnLease::None) => {
                lease = OwnLease::None;
                tell(&sim, n, proc, |agent, _| agent.lease = OwnLease::None);
            }
            None => sim.sleep(proc, RETRY.min(timing.renew_interval)).await,
        }
    }
}

/// A leader asks this node to vouch, through its API. The promise is answered once it is on disk.
pub(crate) async fn vouch_for(sim: &Sim, n: usize, proc: Proc, leader: usize, asked: Duration) -> bool {
    let now = sim.tick(n);
    let vouch = {
        let mut w = sim.w();
        if w.nodes[n].agent.as_ref().is_none_or(|a| a.proc != proc) {
            return false;
        }
        let world = observe(&mut w, n, now);
        if consent::judge(&world, &name(leader)).is_err() {
            return false;
        }
        let mutation = w.mutation;
        let asked = if mutation == Some(Mutation::PromisesOwnTtl) { None } else { Some(asked) };
        let ask = FailsafeAsk {
            name: name(leader),
            conn_url: String::new(),
            api_url: String::new(),
            slots: None,
            ttl_ms: asked.and_then(|ttl| u64::try_from(ttl.as_millis()).ok()),
        };
        let agent = w.nodes[n].agent.as_mut().expect("looked at above");
        let vouch = agent.memory.promise(now, name(leader), ask.promise_for(agent.timing.ttl)).clone();
        let until = sim.clock(n).true_time(vouch.until);
        if mutation == Some(Mutation::ForgottenVouch) {
            agent.memory.vouch = None;
        }
        w.fact(Fact::Vouched { node: n, leader, until });
        vouch
    };
    trap::step(sim, n, proc, trap::VOUCH, 0).await;
    sim.sleep(proc, Duration::from_millis(3)).await;
    {
        let mut w = sim.w();
        let node = &mut w.nodes[n];
        node.promise = Some(Promise { ttl: now.until(vouch.until), vouch, boot: node.boot });
    }
    trap::step(sim, n, proc, trap::VOUCH, 1).await;
    true
}
