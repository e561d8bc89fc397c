//! What `enact` does: each action an effect of several steps, in the order and with the bounds of production.

use std::cell::Cell;
use std::collections::BTreeMap;
use std::future::Future;
use std::pin::Pin;
use std::sync::Arc;
use std::time::Duration;

use pgvane_agent::decide::memory::Consent;
use pgvane_agent::decide::world::{Guard, Peer, Peers, Slot};
use pgvane_agent::decide::{Action, Outcome, StopMode};
use pgvane_agent::guard::core::{Event as GuardEvent, Watch};
use pgvane_cluster::clock::Tick;
use pgvane_cluster::ids::{Epoch, LeaseId, Lsn, NodeName, Revision};
use pgvane_cluster::keyspace::Key;
use pgvane_cluster::records::{FailoverRecord, MemberRecord, StatusRecord};
use pgvane_cluster::settings::ClusterSettings;
use pgvane_cluster::store::{Compare, StoreError, Txn, TxnOutcome, Write};
use pgvane_cluster::view::ClusterView;

use crate::agent::{self, name, tell};
use crate::chores;
use crate::etcd::{self, node_of, of_agent};
use crate::fact::Fact;
use crate::guard;
use crate::network::{End, MAX_NODES};
use crate::postgres::Stop;
use crate::runtime::{MS, Proc, Sim};
use crate::trap;
use crate::world::{Mutation, World};

/// As in production.
const SEEN_WITHIN: Duration = Duration::from_millis(500);
const MET_WITHIN: Duration = Duration::from_millis(20);
const POLL_LIMIT: Duration = Duration::from_millis(250);
const VOUCH_LIMIT: Duration = Duration::from_millis(800);

/// What one effect works with.
pub(crate) struct Order {
    pub(crate) action: Action,
    pub(crate) ttl: Duration,
    pub(crate) stop_budget: Duration,
    pub(crate) settings: ClusterSettings,
    pub(crate) view: Option<Arc<ClusterView>>,
    pub(crate) lease: Option<LeaseId>,
    /// What must still be true of the store when the key is created.
    pub(crate) raced_on: Option<Compare>,
    pub(crate) record: MemberRecord,
    pub(crate) right_until: Option<Tick>,
    pub(crate) arming: Option<Watch>,
    pub(crate) voters: Option<BTreeMap<NodeName, String>>,
}

/// Where an effect runs.
pub(crate) struct Ctx<'a> {
    pub(crate) sim: &'a Sim,
    pub(crate) n: usize,
    pub(crate) proc: Proc,
    /// The effect, and its next step.
    label: &'static str,
    next: Cell<u32>,
}

/// Carries out one step.
pub(crate) async fn perform(sim: &Sim, n: usize, proc: Proc, order: Order) -> Vec<Outcome> {
    let ctx = Ctx::new(sim, n, proc, order.action.label());
    match &order.action {
        Action::Wait | Action::Exit | Action::Halt => vec![],
        Action::RaceInitialize => ctx.race_initialize().await,
        Action::SetInitialize { system_identifier } => ctx.set_initialize(system_identifier).await,
        Action::WriteConfig => {
            let config = sim.w().config.to_string().into_bytes();
            ctx.create(Key::Config, config, None, None).await.0
        }
        Action::Campaign => ctx.campaign(order.lease, order.raced_on).await,
        Action::TakeOverKey => ctx.take_over(order.lease, order.arming).await,
        Action::Release { epoch, optime } => ctx.release(&order, *epoch, *optime).await,
        Action::ClearRequest { revision } => ctx.clear_request(*revision).await,
        Action::WriteSyncKey { epoch, record, over } => ctx.write_sync_key(*epoch, record, *over).await,
        Action::DeleteSyncKey { epoch, revision } => ctx.delete_sync_key(*epoch, *revision).await,
        Action::SetStandbyNames { names, epoch, prove } => {
            ctx.set_standby_names(names.as_deref(), *epoch, *prove).await
        }
        Action::ArmGuard { epoch } => ctx.arm(*epoch, order.arming).await,
        Action::DisarmGuard => ctx.disarm().await,
        Action::PollPeers => ctx.poll(order.view.as_deref()).await,
        Action::AskFailsafe { epoch } => ctx.ask_failsafe(*epoch, &order).await,
        Action::Bootstrap => ctx.bootstrap().await,
        Action::Clone { from } => {
            let done = ctx.clone_from(from).await;
            let cloned = done.is_ok().then_some(Outcome::Cloned);
            cloned.into_iter().chain(ctx.ended(done)).collect()
        }
        // No node here has a backup to be made from.
        Action::CloneAlone => vec![Outcome::Failed(Slot::Postgres)],
        Action::StartPrimary => {
            ctx.hold_to_start(&order);
            let done = ctx.start(true, None, order.right_until).await;
            ctx.ended(done)
        }
        Action::StartStandby { upstream } => {
            if upstream.is_some() {
                ctx.note_reign(&order);
            }
            let done = ctx.start(false, upstream.as_ref(), None).await;
            ctx.ended(done)
        }
        Action::Rejoin { leader } => {
            let done = ctx.rejoin(leader, &order).await;
            ctx.ended(done)
        }
        Action::Follow { upstream } => ctx.follow(upstream, &order).await,
        // No logical slots are simulated.
        Action::CopySlots { .. } => vec![Outcome::Done(Slot::Postgres)],
        Action::Promote { epoch } => ctx.promote(*epoch, order.right_until).await,
        Action::Checkpoint { request } => ctx.checkpoint(*request).await,
        Action::StopToHandOver { request } => ctx.stop_to_hand_over(*request).await,
        Action::StopToRestart { id } => ctx.stop_to_restart(*id).await,
        Action::RequestNow { revision } => ctx.request_now(&order, *revision).await,
        Action::Stop { how } => {
            let how = match how {
                StopMode::Fast => (Stop::Fast, order.stop_budget.max(Duration::from_millis(200))),
                StopMode::Immediate => (Stop::Immediate, Duration::from_millis(200)),
            };
            let done = ctx.stop(how.0, how.1).await.map(drop);
            ctx.ended(done)
        }
    }
}

/// A question to another node's agent.
type Calling<'a> = Pin<Box<dyn Future<Output = Option<Option<Peer>>> + 'a>>;

fn store_failed() -> Vec<Outcome> {
    vec![Outcome::Failed(Slot::Store)]
}

impl Ctx<'_> {
    /// The place of an effect that begins.
    pub(crate) fn new<'a>(sim: &'a Sim, n: usize, proc: Proc, label: &'static str) -> Ctx<'a> {
        Ctx { sim, n, proc, label, next: Cell::new(0) }
    }

    /// Between two steps, where an agent may be struck.
    pub(crate) async fn step(&self) {
        let number = self.next.get();
        self.next.set(number + 1);
        trap::step(self.sim, self.n, self.proc, self.label, number).await;
    }

    pub(crate) fn path(&self, key: &Key) -> String {
        self.sim.w().etcd.space.path(key)
    }

    pub(crate) async fn txn(&self, txn: Txn) -> Result<TxnOutcome, StoreError> {
        self.step().await;
        let answer = etcd::txn(self.sim, self.proc, End::Node(self.n), txn).await;
        self.step().await;
        answer
    }

    pub(crate) async fn pause(&self, low: u64, high: u64) {
        self.step().await;
        let takes = self.sim.w().rng.range(low, high);
        self.sim.sleep(self.proc, Duration::from_nanos(takes)).await;
        self.step().await;
    }

    /// Waits until the view shows a transaction of ours.
    pub(crate) async fn seen(&self, txn: TxnOutcome) {
        if !txn.succeeded {
            self.sim.sleep(self.proc, MET_WITHIN).await;
            return;
        }
        let signal = agent::changed(&self.sim.w(), self.n);
        let reached = self
            .sim
            .until(&signal, || self.sim.w().etcd.followers[of_agent(self.n)].revision() >= txn.revision);
        self.sim.timeout(self.proc, SEEN_WITHIN, reached).await;
    }

    async fn create(
        &self,
        key: Key,
        value: Vec<u8>,
        lease: Option<LeaseId>,
        also: Option<Compare>,
    ) -> (Vec<Outcome>, bool) {
        let key = self.path(&key);
        let mut when = vec![Compare::Absent(key.clone())];
        when.extend(also);
        if self.sim.w().mutation == Some(Mutation::StealingCampaign) {
            when.clear();
        }
        match self.txn(Txn { when, then: vec![Write::Put(key, value, lease)] }).await {
            Ok(outcome) => {
                self.seen(outcome).await;
                (vec![Outcome::Done(Slot::Store)], outcome.succeeded)
            }
            Err(_) => (store_failed(), false),
        }
    }

    async fn race_initialize(&self) -> Vec<Outcome> {
        let key = self.path(&Key::Initialize);
        let when = vec![Compare::Absent(key.clone())];
        let claim = Write::Put(self.path(&Key::Bootstrap), self.me(), None);
        match self.txn(Txn { when, then: vec![Write::Put(key, vec![], None), claim] }).await {
            Ok(outcome) => {
                self.seen(outcome).await;
                vec![Outcome::Done(Slot::Store)]
            }
            Err(_) => store_failed(),
        }
    }

    async fn set_initialize(&self, identifier: &str) -> Vec<Outcome> {
        let (key, claim) = (self.path(&Key::Initialize), self.path(&Key::Bootstrap));
        let empty = || Compare::ValueIs(key.clone(), vec![]);
        for when in [
            vec![empty(), Compare::ValueIs(claim.clone(), self.me())],
            vec![empty(), Compare::ValueIs(self.path(&Key::Leader), self.me())],
            vec![Compare::Absent(key.clone())],
        ] {
            let put = Write::Put(key.clone(), identifier.as_bytes().to_vec(), None);
            match self.txn(Txn { when, then: vec![put, Write::Delete(claim.clone())] }).await {
                Ok(outcome) if outcome.succeeded => {
                    self.seen(outcome).await;
                    break;
                }
                Ok(_) => {}
                Err(_) => return store_failed(),
            }
        }
        vec![Outcome::Done(Slot::Store)]
    }

    fn me(&self) -> Vec<u8> {
        name(self.n).as_str().as_bytes().to_vec()
    }

    async fn campaign(&self, lease: Option<LeaseId>, raced_on: Option<Compare>) -> Vec<Outcome> {
        let Some(lease) = lease else { return store_failed() };
        self.sim.w().count.campaigns += 1;
        self.create(Key::Leader, self.me(), Some(lease), raced_on).await.0
    }

    async fn take_over(&self, lease: Option<LeaseId>, arming: Option<Watch>) -> Vec<Outcome> {
        let Some(lease) = lease else { return store_failed() };
        if let Some(watch) = arming {
            let armed = self.arm(watch.epoch, Some(watch)).await;
            if !armed.contains(&Outcome::Done(Slot::Guard)) {
                return store_failed();
            }
        }
        let key = self.path(&Key::Leader);
        let when = vec![Compare::ValueIs(key.clone(), self.me())];
        match self.txn(Txn { when, then: vec![Write::Put(key, self.me(), Some(lease))] }).await {
            Ok(outcome) => {
                self.sim.w().count.take_overs += u64::from(outcome.succeeded);
                self.seen(outcome).await;
                vec![Outcome::Done(Slot::Store)]
            }
            Err(_) => store_failed(),
        }
    }

    pub(crate) fn reign(&self, epoch: Epoch) -> Vec<Compare> {
        reign(&self.sim.w(), self.n, epoch)
    }

    async fn release(&self, order: &Order, epoch: Epoch, optime: Option<Lsn>) -> Vec<Outcome> {
        let mut then = Vec::new();
        if let Some(optime) = optime {
            let before = order.view.as_ref().and_then(|v| v.status.clone()).unwrap_or_default();
            let status = StatusRecord { optime, ..before };
            then.push(Write::Put(self.path(&Key::Status), status.to_json(), None));
        }
        if let Some(lease) = order.lease {
            let key = self.path(&Key::Member(name(self.n)));
            then.push(Write::Put(key, order.record.to_json(), Some(lease)));
        }
        then.push(Write::Delete(self.path(&Key::Leader)));
        match self.txn(Txn { when: self.reign(epoch), then }).await {
            Ok(outcome) => {
                self.sim.w().count.releases += u64::from(outcome.succeeded);
                self.seen(outcome).await;
                vec![Outcome::Released, Outcome::Done(Slot::Store)]
            }
            Err(_) => store_failed(),
        }
    }

    async fn clear_request(&self, revision: Revision) -> Vec<Outcome> {
        let key = self.path(&Key::Failover);
        let when = vec![Compare::ModRevisionIs(key.clone(), revision)];
        let then = vec![Write::Put(key, FailoverRecord::default().to_json(), None)];
        match self.txn(Txn { when, then }).await {
            Ok(outcome) => {
                self.seen(outcome).await;
                vec![Outcome::RequestCleared, Outcome::Done(Slot::Store)]
            }
            Err(_) => store_failed(),
        }
    }

    async fn request_now(&self, order: &Order, revision: Revision) -> Vec<Outcome> {
        let pending = order.view.as_ref().and_then(|v| v.failover.as_ref());
        let Some(request) = pending.filter(|f| f.mod_revision == revision) else { return store_failed() };
        let key = self.path(&Key::Failover);
        let now = FailoverRecord { scheduled_at: None, ..request.value.clone() };
        let when = vec![Compare::ModRevisionIs(key.clone(), revision)];
        match self.txn(Txn { when, then: vec![Write::Put(key, now.to_json(), None)] }).await {
            Ok(outcome) => {
                self.seen(outcome).await;
                vec![Outcome::Done(Slot::Store)]
            }
            Err(_) => store_failed(),
        }
    }

    async fn arm(&self, epoch: Epoch, arming: Option<Watch>) -> Vec<Outcome> {
        let Some(watch) = arming else { return vec![Outcome::Failed(Slot::Guard)] };
        self.pause(MS / 10, 2 * MS).await;
        let off = matches!(self.sim.w().mutation, Some(Mutation::NoGuard | Mutation::DeafAgent));
        let done = if off { Ok(()) } else { guard::arm(self.sim, self.n, watch) };
        if done == Err(guard::SILENT) {
            chores::guard_is_silent(self.sim, self.n, self.proc);
        }
        if done.is_err() {
            let spent = self.sim.w().nodes[self.n].guard.as_ref().and_then(|g| g.state.spent);
            let ignores = self.sim.w().mutation == Some(Mutation::RenewsSpentLease);
            if spent == Some(watch.lease) && !ignores {
                tell(self.sim, self.n, self.proc, |agent, _| agent.spent = spent);
            }
            return vec![Outcome::Failed(Slot::Guard)];
        }
        self.pause(MS / 10, MS).await;
        tell(self.sim, self.n, self.proc, |agent, _| {
            agent.guard = Guard::Armed { epoch };
            agent.guard_lease = Some(watch.lease);
            agent.guard_sent = watch.deadline;
        });
        vec![Outcome::Done(Slot::Guard)]
    }

    async fn disarm(&self) -> Vec<Outcome> {
        self.pause(MS / 10, 2 * MS).await;
        let done = guard::tell(self.sim, self.n, GuardEvent::Disarm);
        if done == Err(guard::SILENT) {
            chores::guard_is_silent(self.sim, self.n, self.proc);
        }
        if done.is_err() {
            return vec![Outcome::Failed(Slot::Guard)];
        }
        tell(self.sim, self.n, self.proc, |agent, _| agent.guard = Guard::Idle);
        vec![Outcome::Done(Slot::Guard)]
    }

    /// Asks another node's agent through its API; `None` when no answer came in time.
    fn call(&self, to: usize, limit: Duration, vouch: Option<Duration>) -> Calling<'_> {
        let (answer, wait) = self.sim.oneshot();
        let (from, end) = (End::Node(self.n), End::Node(to));
        let way = hop(&mut self.sim.w(), from, end);
        if let Some(way) = way {
            let leader = self.n;
            self.sim.after(way, move |sim| {
                let Some(proc) = sim.w().nodes[to].agent_proc else { return };
                let inner = sim.clone();
                sim.spawn(proc, async move {
                    let told = if let Some(ttl) = vouch {
                        if !chores::vouch_for(&inner, to, proc, leader, ttl).await {
                            return;
                        }
                        None
                    } else {
                        Some(chores::tell_position(&inner, to, proc).await)
                    };
                    let back = hop(&mut inner.w(), end, from);
                    if let Some(back) = back {
                        inner.after(back, move |_| answer.send(told));
                    }
                });
            });
        }
        Box::pin(self.sim.timeout(self.proc, limit, wait))
    }

    async fn poll(&self, view: Option<&ClusterView>) -> Vec<Outcome> {
        self.step().await;
        let asked_at = self.sim.tick(self.n);
        let others = view.iter().flat_map(|v| v.members.keys()).map(|m| node_of(m.as_str()));
        let others: Vec<usize> = others.filter(|m| *m != self.n).collect();
        let asked = others.iter().map(|m| self.call(*m, POLL_LIMIT, None)).collect();
        let answers = self.sim.all(asked).await.into_iter().map(|a| a.flatten().unwrap_or(Peer::Unreachable));
        let answers = others.iter().map(|m| name(*m)).zip(answers).collect();
        self.step().await;
        let peers = Peers { asked_at, answers };
        tell(self.sim, self.n, self.proc, |agent, _| agent.peers = peers);
        vec![Outcome::Done(Slot::Peers)]
    }

    async fn ask_failsafe(&self, epoch: Epoch, order: &Order) -> Vec<Outcome> {
        let refused = vec![Outcome::NotConsented, Outcome::Done(Slot::Failsafe)];
        let Some(voters) = &order.voters else { return refused };
        self.step().await;
        let others = voters.keys().map(|m| node_of(m.as_str()));
        let asked_at = self.sim.tick(self.n);
        let asked = others.map(|m| self.call(m, VOUCH_LIMIT, Some(order.ttl))).collect();
        if self.sim.all(asked).await.iter().any(Option::is_none) {
            return refused;
        }
        self.step().await;
        let until = self.sim.clock(self.n).true_time(asked_at + order.ttl);
        let mut listed = [false; MAX_NODES];
        voters.keys().for_each(|m| listed[node_of(m.as_str())] = true);
        {
            let mut w = self.sim.w();
            w.count.consents += 1;
            w.fact(Fact::Consented { node: self.n, epoch: epoch.0, until, listed });
        }
        let consent = Consent { asked_at, ttl: order.ttl, epoch };
        vec![Outcome::Consented(consent), Outcome::Done(Slot::Failsafe)]
    }
}

fn hop(w: &mut World, from: End, to: End) -> Option<u64> {
    let World { net, rng, .. } = w;
    net.hop(rng, from, to)
}

fn reign(w: &World, n: usize, epoch: Epoch) -> Vec<Compare> {
    let leader = w.etcd.space.path(&Key::Leader);
    vec![
        Compare::ValueIs(leader.clone(), name(n).as_str().as_bytes().to_vec()),
        Compare::CreateRevisionIs(leader, Revision(epoch.0)),
    ]
}

/// Writes a leader's key beside the loop, only while the leader key is still that of `epoch`.
pub(crate) fn write_as_leader(
    sim: &Sim,
    n: usize,
    proc: Proc,
    epoch: Epoch,
    key: &Key,
    value: Vec<u8>,
    done: impl FnOnce() + 'static,
) {
    let txn = {
        let w = sim.w();
        let then = vec![Write::Put(w.etcd.space.path(key), value, None)];
        Txn { when: reign(&w, n, epoch), then }
    };
    let inner = sim.clone();
    sim.spawn(proc, async move {
        let _ = etcd::txn(&inner, proc, End::Node(n), txn).await;
        done();
    });
}
