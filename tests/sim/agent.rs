//! One agent: what `run` and `reconcile` do, around the real `decide`, memory, timing, records and publisher.

mod turn;

use std::collections::BTreeMap;
use std::time::Duration;

use pgvane_agent::decide::announce::Identity;
use pgvane_agent::decide::consent::Voters;
use pgvane_agent::decide::memory::{Memory, Vouch};
use pgvane_agent::decide::world::{
    Dcs, Guard, LocalRole, Ongoing, OwnLease, Peer, Peers, Process, Slot, World as Snapshot,
};
use pgvane_agent::decide::{Reason, StopMode};
use pgvane_agent::guard::client::Doing;
use pgvane_agent::guard::core::Watch;
use pgvane_agent::publish::Publisher;
use pgvane_agent::reconcile::{deadline_is_in_force, guard_reached};
use pgvane_agent::server::ServerState;
use pgvane_agent::timing::{Timing, TimingOverrides};
use pgvane_cluster::clock::Tick;
use pgvane_cluster::ids::{LeaseId, NodeName};
use pgvane_cluster::records::{MemberRecord, StatusRecord};
use pgvane_cluster::settings::ClusterSettings;

pub(crate) use self::turn::observe;
use self::turn::turn;
use crate::chores;
use crate::etcd::{self, FollowOptions, of_agent};
use crate::fact::Fact;
use crate::guard;
use crate::runtime::{MS, Proc, Signal, Sim, TaskId};
use crate::world::{Mutation, World};

/// As in `reconcile`.
const SHORTEST_TURN: Duration = Duration::from_millis(1);

struct Running {
    ongoing: Ongoing,
    number: u64,
    task: TaskId,
}

/// The state that `Reconciler` owns.
pub(crate) struct Agent {
    pub(crate) proc: Proc,
    pub(crate) server: ServerState,
    pub(crate) lease: OwnLease,
    pub(crate) peers: Peers,
    pub(crate) memory: Memory,
    pub(crate) guard: Guard,
    pub(crate) guard_lease: Option<LeaseId>,
    /// The guard it is connected to.
    pub(crate) guard_proc: Option<Proc>,
    pub(crate) guard_sent: Tick,
    /// The lease that the guard refused because it began to give it back.
    pub(crate) spent: Option<LeaseId>,
    stop_mode: StopMode,
    pub(crate) settings: ClusterSettings,
    pub(crate) timing: Timing,
    running: BTreeMap<Slot, Running>,
    started: u64,
    pub(crate) publisher: Publisher,
    pub(crate) published: Option<MemberRecord>,
    written: Option<StatusRecord>,
    status_next: Tick,
    failsafe_next: Tick,
    reigns_next: Tick,
    failsafe_busy: bool,
    voters: Voters,
    /// What others are told that ask, as of the last turn.
    pub(crate) shown: Option<Peer>,
    pub(crate) leader_until: Option<Tick>,
    pub(crate) pulse: Tick,
    pub(crate) woken: bool,
    seen: u64,
    pub(crate) hurry: bool,
    last: Option<(&'static str, Reason)>,
    identity: Identity,
    /// `synchronous_standby_names` as it keeps it in the file; `None`: as it was found.
    pub(crate) held_names: Option<String>,
    /// Whether it was told to leave everything to the next agent.
    pub(crate) detach: bool,
}

/// As `reconcile` sees a guard that it reaches, or that acted.
pub(crate) fn reached(w: &World, doing: Doing) -> Guard {
    if w.mutation == Some(Mutation::IgnoresFence) { Guard::Idle } else { guard_reached(doing) }
}

/// The name of a node.
pub(crate) fn name(n: usize) -> NodeName {
    NodeName::new(crate::postgres::host(n))
}

fn identity(n: usize) -> Identity {
    let host = crate::postgres::host(n);
    Identity {
        conn_url: format!("postgres://{host}:5432/postgres"),
        api_url: format!("http://{host}:8008/patroni"),
        version: "sim".to_owned(),
        proxy_url: None,
    }
}

/// Changes the agent behind `proc`, and wakes its loop; nothing when another has taken its place.
pub(crate) fn tell<T>(sim: &Sim, n: usize, proc: Proc, f: impl FnOnce(&mut Agent, Tick) -> T) -> Option<T> {
    let now = sim.tick(n);
    let mut w = sim.w();
    let result = {
        let agent = w.nodes[n].agent.as_mut().filter(|a| a.proc == proc)?;
        agent.woken = true;
        f(agent, now)
    };
    w.etcd.followers[of_agent(n)].changed.raise();
    Some(result)
}

/// Starts an agent on a node.
pub(crate) fn start(sim: &Sim, n: usize) {
    let proc = sim.new_proc(n);
    {
        let mut w = sim.w();
        if w.nodes[n].agent_proc.is_some() {
            return;
        }
        if w.nodes[n].suspended > 0 {
            sim.freeze(proc);
        }
        w.nodes[n].agent_proc = Some(proc);
        w.nodes[n].agent_frozen = 0;
        let now = sim.tick(n);
        w.etcd.followers[of_agent(n)].forget(now);
        w.fact(Fact::AgentStarts { node: n });
    }
    let inner = sim.clone();
    sim.spawn(proc, async move { run(&inner, n, proc).await });
}

/// The agent's process ends, for whatever reason.
pub(crate) fn end(sim: &Sim, n: usize) {
    let proc = {
        let mut w = sim.w();
        let Some(proc) = w.nodes[n].agent_proc.take() else { return };
        w.nodes[n].agent = None;
        proc
    };
    sim.kill(proc);
    let changed = sim.w().nodes[n].changed.clone();
    changed.raise();
}

async fn run(sim: &Sim, n: usize, proc: Proc) {
    let start = sim.w().rng.range(10, 60) * MS;
    sim.sleep(proc, Duration::from_nanos(start)).await;
    let vouch = {
        let now = sim.tick(n);
        let w = sim.w();
        let node = &w.nodes[n];
        let promise = node
            .promise
            .clone()
            .map(|p| if p.boot == node.boot { p.vouch } else { Vouch { until: now + p.ttl, ..p.vouch } });
        promise.filter(|v| v.until > now)
    };
    let report = loop {
        if let Some(report) = guard::reach(sim, n, proc) {
            break report;
        }
        sim.sleep(proc, Duration::from_millis(20)).await;
        if sim.w().nodes[n].guard.is_none() {
            guard::start(sim, n);
        }
    };
    let ttl = sim.w().plan.ttl;
    let timing = Timing::derive(ttl, &TimingOverrides::default()).expect("drawn lease times fit");
    let lease = match (report.doing, report.watch) {
        (Doing::Armed, Some(watch)) => {
            OwnLease::Held { id: watch.lease, sent_at: watch.deadline - timing.ttl, ttl: timing.ttl }
        }
        _ => OwnLease::None,
    };
    let now = sim.tick(n);
    let agent = {
        let w = sim.w();
        let pg = &w.nodes[n].pg;
        let mut server = ServerState::absent(pg.look());
        if let Some(pid) = pg.pid() {
            server.process = Process::Starting { since: now };
            server.pid = Some(pid);
            server.role = if pg.standby_signal { LocalRole::Standby } else { LocalRole::Unknown };
        }
        Agent {
            proc,
            server,
            lease,
            peers: Peers::default(),
            memory: Memory { vouch, descent: pg.descent(), ..Memory::default() },
            guard: match (report.doing, report.watch) {
                (Doing::Armed, Some(watch)) => Guard::Armed { epoch: watch.epoch },
                (doing, _) => reached(&w, doing),
            },
            guard_lease: report.watch.map(|w| w.lease),
            guard_proc: Some(report.proc),
            guard_sent: report.watch.map_or(Tick::ZERO, |w| w.deadline),
            spent: None,
            stop_mode: StopMode::Fast,
            settings: ClusterSettings::default(),
            timing,
            running: BTreeMap::new(),
            started: 0,
            publisher: Publisher::default(),
            published: None,
            written: None,
            status_next: Tick::ZERO,
            failsafe_next: Tick::ZERO,
            reigns_next: Tick::ZERO,
            failsafe_busy: false,
            voters: Voters::default(),
            shown: None,
            leader_until: None,
            pulse: now,
            woken: false,
            seen: 0,
            hurry: false,
            last: None,
            identity: identity(n),
            held_names: None,
            detach: false,
        }
    };
    let pid = agent.server.pid;
    sim.w().nodes[n].agent = Some(agent);
    let options = FollowOptions {
        reread_every: timing.renew_interval.min(Duration::from_secs(2)),
        retry_first: Duration::from_millis(100),
        ask_leader_lease: false,
    };
    sim.spawn(proc, etcd::follow(sim.clone(), of_agent(n), proc, options));
    sim.spawn(proc, chores::keep_lease(sim.clone(), n, proc, lease));
    sim.spawn(proc, chores::ask_for_ever(sim.clone(), n, proc));
    chores::watch_guard(sim, n, proc, report.proc);
    if let Some(pid) = pid {
        chores::watch_server(sim, n, proc, pid);
    }
    turn_for_ever(sim, n, proc).await;
}

async fn turn_for_ever(sim: &Sim, n: usize, proc: Proc) {
    loop {
        let now = sim.tick(n);
        let detached = sim.w().nodes[n].agent.as_ref().is_none_or(|a| a.detach);
        let decision = if detached { None } else { turn(sim, n, proc, now) };
        let Some(decision) = decision else {
            end(sim, n);
            return;
        };
        let wake = decision.wake_at.max(now + SHORTEST_TURN);
        let signal = sim.w().etcd.followers[of_agent(n)].changed.clone();
        let woken = sim.until(&signal, || {
            let mut w = sim.w();
            let version = w.etcd.followers[of_agent(n)].version();
            let agent = w.nodes[n].agent.as_mut().expect("its loop runs");
            std::mem::take(&mut agent.woken) || agent.seen != version
        });
        sim.race(sim.sleep(proc, now.until(wake)), woken).await;
    }
}

impl Agent {
    fn ongoing(&self) -> BTreeMap<Slot, Ongoing> {
        self.running.iter().map(|(slot, r)| (*slot, r.ongoing)).collect()
    }

    pub(crate) fn doing(&self, slot: Slot) -> Option<&'static str> {
        self.running.get(&slot).map(|r| r.ongoing.what)
    }

    fn effective_guard(&self, n: usize, dcs: &Dcs) -> Guard {
        let key = dcs.last_view().and_then(|view| view.leader.as_ref());
        let key_lease = key.filter(|key| etcd::node_of(key.name.as_str()) == n).and_then(|key| key.lease);
        match self.guard {
            Guard::Armed { .. } if !deadline_is_in_force(self.guard_lease, self.lease, key_lease) => {
                Guard::Outdated
            }
            guard => guard,
        }
    }

    /// As `Reconciler::arming_to_move`.
    fn arming_to_move(&self, world: &Snapshot) -> Option<Watch> {
        let Guard::Armed { epoch } = self.guard else { return None };
        let OwnLease::Held { id, sent_at, ttl } = self.lease else { return None };
        if self.guard_lease == Some(id) {
            return None;
        }
        let deadline = world.timing.guard_deadline(sent_at, ttl).min(self.guard_sent);
        Some(Watch { epoch, lease: id, ttl, deadline, budget: world.timing.guard_budget })
    }

    fn timing_in_force(&self) -> Timing {
        match self.lease {
            OwnLease::Held { ttl, .. } => self.timing.of_lease(ttl, &TimingOverrides::default()),
            OwnLease::None => self.timing,
        }
    }
}

/// Asks the server at once.
pub(crate) fn hurry(sim: &Sim, n: usize) {
    let signal = sim.w().nodes[n].hurry.clone();
    signal.raise();
}

/// Where an agent's signal comes from that its node gives to all waiting for it.
pub(crate) fn changed(w: &World, n: usize) -> Signal {
    w.etcd.followers[of_agent(n)].changed.clone()
}
