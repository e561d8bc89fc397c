//! One agent: what `run` and `reconcile` do, around the real `decide`, memory, timing, records and publisher.

use std::collections::BTreeMap;
use std::time::Duration;

use pgvane_agent::decide::announce::{self, Identity};
use pgvane_agent::decide::consent::Voters;
use pgvane_agent::decide::memory::{Memory, Vouch};
use pgvane_agent::decide::world::{
    Dcs, Guard, LocalRole, Ongoing, OwnLease, Peer, Peers, Process, Slot, World as Snapshot,
};
use pgvane_agent::decide::{Action, Decision, Outcome, Reason, StopMode, decide};
use pgvane_agent::guard::core::{Event as GuardEvent, Watch};
use pgvane_agent::publish::Publisher;
use pgvane_agent::reconcile::deadline_is_in_force;
use pgvane_agent::server::ServerState;
use pgvane_agent::timing::{Timing, TimingOverrides};
use pgvane_cluster::clock::Tick;
use pgvane_cluster::ids::{LeaseId, NodeName};
use pgvane_cluster::keyspace::Key;
use pgvane_cluster::records::{MemberRecord, MemberState, NativeMember, StatusRecord, Tags};
use pgvane_cluster::settings::ClusterSettings;
use pgvane_cluster::store::Txn;

use crate::chores;
use crate::effects::{self, Order};
use crate::etcd::{self, FollowOptions, Follower, of_agent};
use crate::fact::Fact;
use crate::guard::{self, Doing};
use crate::network::End;
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
}

/// As `reconcile` sees a guard that it reaches, or that acted.
pub(crate) fn reached(w: &World, doing: Doing) -> Guard {
    match doing {
        Doing::Armed | Doing::Stopping if w.mutation == Some(Mutation::IgnoresFence) => Guard::Idle,
        Doing::Idle | Doing::Fenced => Guard::Idle,
        Doing::Armed | Doing::Stopping => Guard::Outdated,
    }
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
        if let Some(report) = guard::hello(sim, n, proc) {
            break report;
        }
        sim.sleep(proc, Duration::from_millis(20)).await;
        if sim.w().nodes[n].guard.is_none() {
            guard::start(sim, n);
        }
    };
    if report.doing == Doing::Fenced {
        let _ = guard::tell(sim, n, GuardEvent::Disarm);
    }
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
            memory: Memory { vouch, ..Memory::default() },
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
            failsafe_busy: false,
            voters: Voters::default(),
            shown: None,
            leader_until: None,
            pulse: now,
            woken: false,
            seen: 0,
            hurry: false,
            last: None,
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
        let Some(decision) = turn(sim, n, proc, now) else {
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

/// One turn of the loop; `None` when the agent ends.
fn turn(sim: &Sim, n: usize, proc: Proc, now: Tick) -> Option<Decision> {
    let (mut world, decision) = {
        let mut w = sim.w();
        w.count.turns += 1;
        take_settings(&mut w, n, now);
        let world = observe(&mut w, n, now);
        let decision = decide(&world);
        let agent = w.nodes[n].agent.as_mut().expect("its loop runs");
        agent.pulse = now;
        let label = decision.action.label();
        let key = (label, decision.reason.clone());
        if !matches!(decision.reason, Reason::Busy(_)) && agent.last.as_ref() != Some(&key) {
            agent.last = Some(key);
            w.fact(Fact::Decided { node: n, action: label, reason: decision.reason.clone() });
        }
        (world, decision)
    };
    if matches!(decision.action, Action::Exit | Action::Halt) {
        return None;
    }
    enact(sim, n, proc, &world, &decision);
    {
        let w = sim.w();
        let agent = w.nodes[n].agent.as_ref().expect("its loop runs");
        world.local.ongoing = agent.ongoing();
    }
    show(sim, n, proc, &world);
    extend_guard(sim, n, proc, &world);
    Some(decision)
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
            OwnLease::Held { ttl, .. } if ttl < self.timing.ttl => {
                Timing::derive(ttl, &TimingOverrides::default()).unwrap_or(self.timing)
            }
            OwnLease::Held { .. } | OwnLease::None => self.timing,
        }
    }
}

fn take_settings(w: &mut World, n: usize, _now: Tick) {
    let Some(view) = w.etcd.followers[of_agent(n)].view.clone() else { return };
    let Some(config) = &view.config else { return };
    let agent = w.nodes[n].agent.as_mut().expect("its loop runs");
    if agent.settings != config.value.settings {
        agent.settings = config.value.settings.clone();
    }
    if agent.settings.ttl != agent.timing.ttl {
        agent.timing = Timing::derive(agent.settings.ttl, &TimingOverrides::default()).expect("drawn to fit");
    }
}

fn dcs(follower: &Follower, now: Tick) -> Dcs {
    match (follower.down, follower.view.clone()) {
        (None, Some(view)) => Dcs::Known(view),
        (None, None) => Dcs::Unknown { since: now, last: None },
        (Some(since), last) => Dcs::Unknown { since, last },
    }
}

/// The world as the agent sees it now.
pub(crate) fn observe(w: &mut World, n: usize, now: Tick) -> Snapshot {
    let dcs = dcs(&w.etcd.followers[of_agent(n)], now);
    let version = w.etcd.followers[of_agent(n)].version();
    let deaf = w.mutation == Some(Mutation::DeafAgent);
    let agent = w.nodes[n].agent.as_mut().expect("its loop runs");
    agent.seen = version;
    let local = agent.server.local(agent.effective_guard(n, &dcs), agent.ongoing());
    let led = agent.memory.leaderless_since.is_none();
    let me = name(n);
    agent.memory.note(now, &dcs, &local, &me);
    agent.hurry |= led && agent.memory.leaderless_since.is_some();
    let lease = match agent.lease {
        OwnLease::Held { id, ttl, .. } if deaf => OwnLease::Held { id, ttl, sent_at: now },
        lease => lease,
    };
    let hurry = agent.hurry;
    let world = Snapshot {
        now,
        me,
        dcs,
        lease,
        local,
        peers: agent.peers.clone(),
        memory: agent.memory.clone(),
        settings: agent.settings.clone(),
        tags: Tags::default(),
        timing: agent.timing_in_force(),
    };
    if hurry {
        w.nodes[n].hurry.raise();
    }
    world
}

fn enact(sim: &Sim, n: usize, proc: Proc, world: &Snapshot, decision: &Decision) {
    let (number, slot, before, order) = {
        let mut w = sim.w();
        let view = w.etcd.followers[of_agent(n)].view.clone();
        let only_seen = w.mutation == Some(Mutation::AsksSeenList);
        let unaware = w.mutation == Some(Mutation::ForgetsRelease);
        let moves_first = w.mutation == Some(Mutation::MovesKeyFirst);
        let agent = w.nodes[n].agent.as_mut().expect("its loop runs");
        agent.memory.begin(world.now, &decision.action);
        if unaware {
            agent.memory.released = None;
        }
        let Some(slot) = decision.action.slot() else { return };
        if let Action::Stop { how } = decision.action {
            if agent.doing(slot) == Some(decision.action.label()) && agent.stop_mode >= how {
                return;
            }
            agent.stop_mode = how;
        }
        let arming = match (&decision.action, world.authority(), agent.lease) {
            (Action::ArmGuard { epoch }, Some(authority), OwnLease::Held { id, ttl, .. }) => Some(Watch {
                epoch: *epoch,
                lease: id,
                ttl,
                deadline: authority.guard_deadline,
                budget: world.timing.guard_budget,
            }),
            (Action::TakeOverKey, ..) if !moves_first => agent.arming_to_move(world),
            _ => None,
        };
        let mut record = announce::member(world, &identity(n));
        if let Action::Release { .. } = decision.action {
            record.pgvane = record.pgvane.map(|p| NativeMember { serving_epoch: None, ..p });
        }
        let lease = match agent.lease {
            OwnLease::Held { id, .. } => Some(id),
            OwnLease::None => None,
        };
        agent.started += 1;
        let seen = world.dcs.last_view().and_then(|view| view.failsafe.as_ref());
        let none = Voters::default();
        let voters = if only_seen { &none } else { &agent.voters }.to_ask(&world.me, seen);
        let order = Order {
            action: decision.action.clone(),
            ttl: agent.timing.ttl,
            stop_budget: agent.timing.stop_budget,
            use_rewind: agent.settings.postgresql.use_pg_rewind,
            view,
            lease,
            record,
            arming: arming.filter(|_| agent.guard_proc.is_some()),
            voters,
        };
        (agent.started, slot, agent.running.remove(&slot), order)
    };
    if let Some(before) = before {
        sim.abort(before.task);
    }
    let inner = sim.clone();
    let what = decision.action.label();
    let task = sim.spawn(proc, async move {
        let outcomes = effects::perform(&inner, n, proc, order).await;
        effect_ended(&inner, n, proc, slot, number, &outcomes);
    });
    let ongoing = Ongoing { what, since: world.now };
    let mut w = sim.w();
    let agent = w.nodes[n].agent.as_mut().expect("its loop runs");
    agent.running.insert(slot, Running { ongoing, number, task });
}

fn effect_ended(sim: &Sim, n: usize, proc: Proc, slot: Slot, number: u64, outcomes: &[Outcome]) {
    tell(sim, n, proc, |agent, now| {
        if agent.running.get(&slot).is_some_and(|r| r.number == number) {
            agent.running.remove(&slot);
            for outcome in outcomes {
                agent.memory.absorb(now, outcome);
            }
            agent.hurry = true;
        }
    });
    hurry(sim, n);
    for outcome in outcomes {
        if let Outcome::Failed(slot) = outcome {
            sim.w().fact(Fact::EffectFailed { node: n, slot: *slot });
        }
    }
}

/// Asks the server at once.
pub(crate) fn hurry(sim: &Sim, n: usize) {
    let signal = sim.w().nodes[n].hurry.clone();
    signal.raise();
}

fn extend_guard(sim: &Sim, n: usize, proc: Proc, world: &Snapshot) {
    let (lease, deadline) = {
        let mut w = sim.w();
        let agent = w.nodes[n].agent.as_mut().expect("its loop runs");
        let (Some(authority), Some(lease), Guard::Armed { epoch }) =
            (world.authority(), agent.guard_lease, agent.guard)
        else {
            return;
        };
        if epoch != authority.epoch || authority.guard_deadline <= agent.guard_sent {
            return;
        }
        agent.guard_sent = authority.guard_deadline;
        if agent.guard_proc.is_none() {
            return;
        }
        (lease, authority.guard_deadline)
    };
    let inner = sim.clone();
    sim.spawn(proc, async move {
        let way = inner.w().rng.range(50, 800) * 1_000;
        inner.sleep(proc, Duration::from_nanos(way)).await;
        if inner.w().mutation == Some(Mutation::NoGuard) || inner.w().mutation == Some(Mutation::DeafAgent) {
            return;
        }
        // A refusal is only logged, as in production.
        let _ = guard::tell(&inner, n, GuardEvent::Extend { lease, deadline });
    });
}

/// Writes the keys this node owns, and shows itself to whoever asks.
fn show(sim: &Sim, n: usize, proc: Proc, world: &Snapshot) {
    let record = announce::member(world, &identity(n));
    let (due, status, failsafe) = {
        let mut w = sim.w();
        let agent = w.nodes[n].agent.as_mut().expect("its loop runs");
        let mut due = None;
        if let (OwnLease::Held { id, .. }, Dcs::Known(view)) = (agent.lease, &world.dcs) {
            let shown = view.members.get(&world.me);
            if shown.is_none_or(|m| m.lease != Some(id)) && agent.publisher.is_settled(world.now) {
                agent.publisher.forget();
            }
            if agent.publisher.due(world.now, &record, id) {
                due = Some(id);
            }
        }
        let status = announce::status(world).filter(|(_, s)| {
            matches!(world.dcs, Dcs::Known(_))
                && agent.written.as_ref() != Some(s)
                && world.now >= agent.status_next
        });
        if let Some((_, status)) = &status {
            agent.written = Some(status.clone());
            agent.status_next = world.now + world.timing.renew_interval.min(Duration::from_secs(1));
        }
        if let Dcs::Known(view) = &world.dcs
            && !agent.failsafe_busy
        {
            agent.voters.see(view);
        }
        let failsafe =
            announce::failsafe(world).filter(|_| world.now >= agent.failsafe_next && !agent.failsafe_busy);
        if let Some((epoch, list)) = &failsafe {
            agent.failsafe_next = world.now + Duration::from_millis(500);
            agent.failsafe_busy = true;
            agent.voters.write(*epoch, list);
        }
        agent.leader_until = world.authority().map(|a| a.guard_deadline);
        agent.shown = world.local.sql.as_ref().map(|sql| Peer::Answered {
            is_primary: !sql.in_recovery || record.role == pgvane_cluster::records::MemberRole::Primary,
            running: record.state == MemberState::Running,
            timeline: Some(sql.timeline).filter(|t| t.0 > 0),
            position: sql.position,
            tags: Tags::default(),
        });
        (due, status, failsafe)
    };
    if let Some(lease) = due {
        let inner = sim.clone();
        sim.spawn(proc, async move {
            let key = inner.w().etcd.space.path(&Key::Member(name(n)));
            let put = Txn::put(key, record.to_json(), Some(lease));
            let done = etcd::txn(&inner, proc, End::Node(n), put).await.is_ok();
            tell(&inner, n, proc, |agent, now| {
                agent.published = done.then(|| record.clone());
                agent.publisher.ended(now, done.then_some((record, lease)));
            });
        });
    }
    if let Some((epoch, status)) = status {
        effects::write_as_leader(sim, n, proc, epoch, &Key::Status, status.to_json(), || {});
    }
    if let Some((epoch, list)) = failsafe {
        let inner = sim.clone();
        let done = move || {
            tell(&inner, n, proc, |agent, _| agent.failsafe_busy = false);
        };
        effects::write_as_leader(sim, n, proc, epoch, &Key::Failsafe, list.to_json(), done);
    }
}

/// Where an agent's signal comes from that its node gives to all waiting for it.
pub(crate) fn changed(w: &World, n: usize) -> Signal {
    w.etcd.followers[of_agent(n)].changed.clone()
}
