//! One turn of the loop: observe, decide, enact, show.

use std::time::Duration;

use pgvane_agent::decide::world::{Abilities, Dcs, Guard, Ongoing, OwnLease, Peer, Slot, World as Snapshot};
use pgvane_agent::decide::{Action, Decision, Outcome, Reason, decide};
use pgvane_agent::decide::{announce, sync};
use pgvane_agent::guard::core::{Event as GuardEvent, Watch};
use pgvane_agent::timing::{Timing, TimingOverrides};
use pgvane_cluster::clock::Tick;
use pgvane_cluster::keyspace::Key;
use pgvane_cluster::records::{MemberRole, MemberState, NativeMember};
use pgvane_cluster::store::{StoreError, Txn};

use super::{Running, hurry, name, tell};
use crate::chores;
use crate::effects::{self, Order};
use crate::etcd::{self, Follower, of_agent};
use crate::fact::Fact;
use crate::guard;
use crate::lineage;
use crate::network::End;
use crate::runtime::{Proc, Sim};
use crate::trap;
use crate::world::{Mutation, World};

/// One turn of the loop; `None` when the agent ends.
pub(super) fn turn(sim: &Sim, n: usize, proc: Proc, now: Tick) -> Option<Decision> {
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
    lineage::learn(sim, n, proc, &world);
    extend_guard(sim, n, proc, &world);
    Some(decision)
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
    let tags = w.nodes[n].tags.clone();
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
        tags,
        timing: agent.timing_in_force(),
        abilities: Abilities::default(),
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
        let raced_on = sync::raced_on(world, &w.etcd.space);
        let blindly = w.mutation == Some(Mutation::ActsBlindly);
        let moves_first = w.mutation == Some(Mutation::MovesKeyFirst);
        let agent = w.nodes[n].agent.as_mut().expect("its loop runs");
        agent.memory.begin(world.now, &decision.action);
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
        let mut record = announce::member(world, &agent.identity);
        if let Action::Release { .. } = decision.action {
            record.pgvane = record.pgvane.map(|p| NativeMember { serving_epoch: None, ..p });
        }
        let lease = match agent.lease {
            OwnLease::Held { id, .. } => Some(id),
            OwnLease::None => None,
        };
        agent.started += 1;
        let seen = world.dcs.last_view().and_then(|view| view.failsafe.as_ref());
        let voters = agent.voters.to_ask(&world.me, seen);
        let order = Order {
            action: decision.action.clone(),
            ttl: agent.timing.ttl,
            stop_budget: agent.timing.stop_budget,
            settings: agent.settings.clone(),
            view,
            lease,
            raced_on,
            record,
            right_until: world.authority().map(|a| a.guard_deadline).filter(|_| !blindly),
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
        if guard::tell(&inner, n, GuardEvent::Extend { lease, deadline }) == Err(guard::SILENT) {
            chores::guard_is_silent(&inner, n, proc);
        }
    });
}

/// Writes the keys this node owns, and shows itself to whoever asks.
fn show(sim: &Sim, n: usize, proc: Proc, world: &Snapshot) {
    let (record, due, status, failsafe, reigns) = {
        let mut w = sim.w();
        let agent = w.nodes[n].agent.as_mut().expect("its loop runs");
        let record = announce::member(world, &agent.identity);
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
            is_primary: !sql.in_recovery || record.role == MemberRole::Primary,
            running: record.state == MemberState::Running,
            timeline: Some(sql.timeline).filter(|t| t.0 > 0),
            position: sql.position,
            fresh: false,
            tags: world.tags.clone(),
        });
        let reigns = announce::reigns(world).filter(|_| world.now >= agent.reigns_next);
        if reigns.is_some() {
            agent.reigns_next = world.now + Duration::from_millis(200);
        }
        (record, due, status, failsafe, reigns)
    };
    if let Some(lease) = due {
        let inner = sim.clone();
        sim.spawn(proc, async move {
            let key = inner.w().etcd.space.path(&Key::Member(name(n)));
            let put = Txn::put(key, record.to_json(), Some(lease));
            trap::step(&inner, n, proc, trap::PUBLISH, 0).await;
            let done = etcd::txn(&inner, proc, End::Node(n), put).await.is_ok();
            tell(&inner, n, proc, |agent, now| {
                agent.published = done.then(|| record.clone());
                let written = done.then_some((record, lease));
                let silent = || StoreError::Unavailable(String::new());
                agent.publisher.ended(now, written.ok_or_else(silent));
            });
        });
    }
    if let Some((epoch, status)) = status {
        effects::write_as_leader(sim, n, proc, epoch, &Key::Status, status.to_json(), || {});
    }
    if let Some((epoch, list)) = reigns {
        effects::write_as_leader(sim, n, proc, epoch, &Key::Reigns, list.to_json(), || {});
    }
    if let Some((epoch, list)) = failsafe {
        let inner = sim.clone();
        let done = move || {
            tell(&inner, n, proc, |agent, _| agent.failsafe_busy = false);
        };
        effects::write_as_leader(sim, n, proc, epoch, &Key::Failsafe, list.to_json(), done);
    }
}
