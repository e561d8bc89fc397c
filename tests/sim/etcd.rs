//! The store: the in-memory etcd of the cluster crate behind a network, and the followers of its changes.
//!
//! Changes are folded by the real fold, once for all who saw the same ones; a follower that missed something
//! folds on its own until a read puts it right, as in production.

use std::future::Future;
use std::sync::Arc;
use std::time::Duration;

use pgvane_cluster::clock::Tick;
use pgvane_cluster::fold;
use pgvane_cluster::follow::LeaderLease;
use pgvane_cluster::ids::Revision;
use pgvane_cluster::keyspace::Keyspace;
use pgvane_cluster::store::model::Model;
use pgvane_cluster::store::{StoreError, Txn, TxnOutcome};
use pgvane_cluster::view::ClusterView;

use crate::fact::Fact;
use crate::network::{End, MAX_NODES, MAX_PROXIES};
use crate::runtime::{MS, Proc, SEC, Signal, SignalMaker, Sim};
use crate::world::World;

/// The bound that production puts on one call.
pub(crate) const CALL_LIMIT: Duration = Duration::from_secs(2);

/// How often etcd looks for leases that are due.
const EXPIRY_EVERY: u64 = 500 * MS;

/// The store.
pub(crate) struct Etcd {
    pub(crate) model: Model,
    pub(crate) space: Keyspace,
    /// How many faults keep it from answering.
    pub(crate) down: u32,
    /// The newest view: the truth.
    truth: Arc<ClusterView>,
    pub(crate) followers: Vec<Follower>,
    streams: u64,
}

/// One process' picture of the store.
pub(crate) struct Follower {
    pub(crate) end: End,
    pub(crate) view: Option<Arc<ClusterView>>,
    pub(crate) confirmed_at: Tick,
    /// Since when the store has not answered; `None` while it does.
    pub(crate) down: Option<Tick>,
    pub(crate) leader_lease: Option<LeaderLease>,
    /// Raised whenever any of this changes.
    pub(crate) changed: Signal,
    /// Raised, with the flag, to read at once.
    pub(crate) hurry: Signal,
    pub(crate) hurried: bool,
    stream: Option<u64>,
    /// When the last message of the stream arrives: it keeps its order.
    arrives: u64,
    /// Whether the view is the one that everybody has at its revision.
    in_step: bool,
    /// Messages of the watch still to be lost.
    pub(crate) to_lose: u32,
    version: u64,
}

impl Follower {
    fn new(end: End, maker: &SignalMaker) -> Follower {
        Follower {
            end,
            view: None,
            confirmed_at: Tick::ZERO,
            down: Some(Tick::ZERO),
            leader_lease: None,
            changed: maker.make(),
            hurry: maker.make(),
            hurried: false,
            stream: None,
            arrives: 0,
            in_step: true,
            to_lose: 0,
            version: 0,
        }
    }

    /// Grows with every change.
    pub(crate) fn version(&self) -> u64 {
        self.version
    }

    fn tell(&mut self) {
        self.version += 1;
        self.changed.raise();
    }

    /// What a process knows that has just begun.
    pub(crate) fn forget(&mut self, now: Tick) {
        self.view = None;
        self.confirmed_at = Tick::ZERO;
        self.down = Some(now);
        self.leader_lease = None;
        self.stream = None;
        self.in_step = true;
    }

    /// The revision seen.
    pub(crate) fn revision(&self) -> Revision {
        self.view.as_ref().map_or(Revision(0), |v| v.revision)
    }

    fn forget_foreign_lease(&mut self) {
        let leads = self.view.as_ref().and_then(|v| v.leader.as_ref()).and_then(|l| l.lease);
        if self.leader_lease.is_some_and(|known| Some(known.lease) != leads) {
            self.leader_lease = None;
        }
    }
}

impl Etcd {
    pub(crate) fn new(maker: &SignalMaker) -> Etcd {
        let nodes = (0..MAX_NODES).map(End::Node);
        let ends = nodes.chain((0..MAX_PROXIES).map(End::Proxy));
        Etcd {
            model: Model::new(),
            space: Keyspace::new("service", "sim"),
            down: 0,
            truth: Arc::new(ClusterView { revision: Revision(1), ..ClusterView::default() }),
            followers: ends.map(|end| Follower::new(end, maker)).collect(),
            streams: 0,
        }
    }

    /// The newest view: the truth.
    pub(crate) fn truth(&self) -> &Arc<ClusterView> {
        &self.truth
    }

    /// Ends every watch, as an etcd member does that loses its leader.
    pub(crate) fn drop_streams(&mut self) {
        self.followers.iter_mut().for_each(|f| f.stream = None);
    }
}

/// The follower of a node's agent.
pub(crate) fn of_agent(n: usize) -> usize {
    n
}

/// The follower of a proxy.
pub(crate) fn of_proxy(p: usize) -> usize {
    MAX_NODES + p
}

/// Asks the store; `None` when no answer came within `limit`, whether or not it was done.
pub(crate) fn ask<T: 'static, F: FnOnce(&mut Model, Tick) -> T + 'static>(
    sim: &Sim,
    proc: Proc,
    from: End,
    limit: Duration,
    call: F,
) -> impl Future<Output = Option<T>> + use<T, F> {
    ask_all(sim, proc, from, limit, |etcd, now| call(&mut etcd.model, now))
}

fn ask_all<T: 'static, F: FnOnce(&mut Etcd, Tick) -> T + 'static>(
    sim: &Sim,
    proc: Proc,
    from: End,
    limit: Duration,
    call: F,
) -> impl Future<Output = Option<T>> + use<T, F> {
    let (answer, wait) = sim.oneshot();
    let way = {
        let mut w = sim.w();
        let World { net, rng, .. } = &mut *w;
        net.hop(rng, from, End::Etcd)
    };
    if let Some(way) = way {
        sim.after(way, move |sim| {
            let now = sim.tick(End::Etcd.index());
            let result = {
                let mut w = sim.w();
                if w.etcd.down > 0 {
                    return;
                }
                call(&mut w.etcd, now)
            };
            changed(sim);
            let back = {
                let mut w = sim.w();
                let World { net, rng, .. } = &mut *w;
                net.hop(rng, End::Etcd, from)
            };
            if let Some(back) = back {
                sim.after(back, move |_| answer.send(result));
            }
        });
    }
    let sim = sim.clone();
    async move { sim.timeout(proc, limit, wait).await }
}

/// A transaction, as the agent's store client runs it.
pub(crate) async fn txn(sim: &Sim, proc: Proc, from: End, txn: Txn) -> Result<TxnOutcome, StoreError> {
    let answer = ask(sim, proc, from, CALL_LIMIT, move |m, _| m.txn(&txn)).await;
    answer.unwrap_or_else(|| Err(StoreError::Unavailable("the simulated network".to_owned())))
}

/// A transaction of somebody beside the cluster, an operator: at once.
pub(crate) fn put_now(sim: &Sim, txn: &Txn) {
    let result = sim.w().etcd.model.txn(txn);
    result.expect("an operator's write is valid");
    changed(sim);
}

/// Folds what is new and sends it to every open watch.
pub(crate) fn changed(sim: &Sim) {
    let mut sent = Vec::new();
    {
        let mut w = sim.w();
        let from = Revision(w.etcd.truth().revision.0 + 1);
        if w.etcd.model.revision() < from {
            return;
        }
        let events = w.etcd.model.events_since(w.etcd.space.prefix(), from).expect("never compacted");
        let mut view = ClusterView::clone(w.etcd.truth());
        fold::apply_all(&mut view, &w.etcd.space, &events);
        view.revision = w.etcd.model.revision();
        let changed = w.etcd.truth().leader != view.leader;
        let leader = view.leader.as_ref().map(|l| (node_of(l.name.as_str()), l.epoch.0));
        let lease = view.leader.as_ref().and_then(|l| l.lease).map_or(0, |l| l.0);
        w.etcd.truth = Arc::new(view);
        if changed {
            w.fact(Fact::Key { leader, lease });
        }
        let World { etcd, net, rng, now, .. } = &mut *w;
        for (who, follower) in etcd.followers.iter_mut().enumerate() {
            let Some(stream) = follower.stream else { continue };
            let way = net.hop(rng, End::Etcd, follower.end).unwrap_or(200 * MS);
            follower.arrives = follower.arrives.max(*now + way);
            sent.push((who, stream, follower.arrives, Arc::clone(&etcd.truth)));
        }
    }
    for (who, stream, at, view) in sent {
        sim.at(at, move |sim| deliver(sim, who, stream, view));
    }
}

/// The number in a node's name.
pub(crate) fn node_of(name: &str) -> usize {
    let number: usize = name.trim_start_matches("pg").parse().expect("nodes are pg1, pg2 and so on");
    number - 1
}

/// A message of a watch arrives, unless its stream has ended; TCP tries again while the way is cut.
fn deliver(sim: &Sim, who: usize, stream: u64, view: Arc<ClusterView>) {
    let proc = {
        let w = sim.w();
        let follower = &w.etcd.followers[who];
        if follower.stream != Some(stream) {
            return;
        }
        if w.net.is_cut(End::Etcd, follower.end) {
            drop(w);
            sim.after(200 * MS, move |sim| deliver(sim, who, stream, view));
            return;
        }
        w.proc_of(follower.end)
    };
    let Some(proc) = proc else { return };
    let inner = sim.clone();
    // As a task: a frozen process takes it in when it goes on.
    sim.spawn(proc, async move {
        let mut w = inner.w();
        take_events(&mut w.etcd, who, stream, view);
    });
}

fn take_events(etcd: &mut Etcd, who: usize, stream: u64, shared: Arc<ClusterView>) {
    let revision = shared.revision;
    let follower = &mut etcd.followers[who];
    if follower.stream != Some(stream) || follower.revision() >= revision {
        return;
    }
    if follower.to_lose > 0 {
        follower.to_lose -= 1;
        follower.in_step = false;
        return;
    }
    if follower.in_step {
        follower.view = Some(shared);
    } else if let Some(view) = &follower.view {
        // The watch goes on behind the message that was lost.
        let events = etcd.model.events_since(etcd.space.prefix(), revision).expect("never compacted");
        let now: Vec<_> = events.into_iter().filter(|e| e.revision() == revision).collect();
        let mut view = ClusterView::clone(view);
        fold::apply_all(&mut view, &etcd.space, &now);
        follower.view = Some(Arc::new(view));
    }
    follower.forget_foreign_lease();
    follower.tell();
}

/// How closely a follower follows.
#[derive(Clone, Copy)]
pub(crate) struct FollowOptions {
    pub(crate) reread_every: Duration,
    pub(crate) retry_first: Duration,
    pub(crate) ask_leader_lease: bool,
}

const RETRY_MAX: Duration = Duration::from_secs(1);

/// What `cluster::follow` does: read, watch, read again; a store that does not answer is noted as down.
pub(crate) async fn follow(sim: Sim, who: usize, proc: Proc, options: FollowOptions) {
    let mut pause = Duration::ZERO;
    loop {
        sim.sleep(proc, pause).await;
        let began = sim.now();
        let since = follow_once(&sim, who, proc, options).await;
        {
            let mut w = sim.w();
            let follower = &mut w.etcd.followers[who];
            follower.stream = None;
            if follower.down.is_none() {
                follower.down = Some(since);
                follower.tell();
            }
        }
        let lasted = sim.now() - began > SEC;
        pause = if lasted { Duration::ZERO } else { (pause * 2).clamp(options.retry_first, RETRY_MAX) };
    }
}

/// Answers when the question was sent that was not answered.
async fn follow_once(sim: &Sim, who: usize, proc: Proc, options: FollowOptions) -> Tick {
    let end = sim.w().etcd.followers[who].end;
    if let Err(since) = read(sim, who, proc).await {
        return since;
    }
    let asked_at = sim.tick(end.index());
    if ask(sim, proc, end, CALL_LIMIT, |_, _| ()).await.is_none() {
        return asked_at;
    }
    let stream = {
        let mut w = sim.w();
        w.etcd.streams += 1;
        let stream = w.etcd.streams;
        w.etcd.followers[who].stream = Some(stream);
        stream
    };
    // What changed while the watch was being opened is its first message.
    let view = Arc::clone(sim.w().etcd.truth());
    deliver(sim, who, stream, view);
    loop {
        if options.ask_leader_lease {
            let lease = {
                let w = sim.w();
                let view = w.etcd.followers[who].view.clone();
                view.and_then(|v| v.leader.as_ref().and_then(|l| l.lease))
            };
            if let Some(lease) = lease {
                let asked_at = sim.tick(end.index());
                let left = ask(sim, proc, end, CALL_LIMIT, move |m, now| m.time_to_live(lease, now)).await;
                let Some(left) = left else { return asked_at };
                let mut w = sim.w();
                let follower = &mut w.etcd.followers[who];
                follower.leader_lease = left.map(|left| LeaderLease { lease, lives_until: asked_at + left });
                follower.forget_foreign_lease();
                follower.tell();
            }
        }
        let hurry = sim.w().etcd.followers[who].hurry.clone();
        let hurried = sim.until(&hurry, || std::mem::take(&mut sim.w().etcd.followers[who].hurried));
        sim.timeout(proc, options.reread_every, hurried).await;
        if sim.w().etcd.followers[who].stream != Some(stream) {
            return sim.tick(end.index());
        }
        if let Err(since) = read(sim, who, proc).await {
            return since;
        }
    }
}

/// A linearizable read of everything.
async fn read(sim: &Sim, who: usize, proc: Proc) -> Result<(), Tick> {
    let end = sim.w().etcd.followers[who].end;
    let asked_at = sim.tick(end.index());
    let shared = ask_all(sim, proc, end, CALL_LIMIT, |etcd, _| Arc::clone(&etcd.truth));
    let shared = shared.await.ok_or(asked_at)?;
    let revision = shared.revision;
    let mut w = sim.w();
    let follower = &mut w.etcd.followers[who];
    // An agent decides nothing by how fresh its view is.
    let mut news = follower.down.is_some() || who >= MAX_NODES;
    if follower.view.is_none() || follower.revision() < revision || !follower.in_step {
        // A view that missed something may be ahead of the read; the next read will not be behind it.
        if follower.revision() <= revision {
            follower.view = Some(shared);
            follower.in_step = true;
            follower.forget_foreign_lease();
            news = true;
        }
    }
    follower.confirmed_at = follower.confirmed_at.max(asked_at);
    follower.down = None;
    if news {
        follower.tell();
    }
    Ok(())
}

/// Looks for leases that are due, twice a second by etcd's own clock.
pub(crate) fn expire_for_ever(sim: &Sim) {
    let ended = {
        let now = sim.tick(End::Etcd.index());
        let mut w = sim.w();
        if w.etcd.down > 0 { vec![] } else { w.etcd.model.expire(now) }
    };
    for lease in ended {
        sim.w().fact(Fact::LeaseExpired { lease: lease.0 });
    }
    changed(sim);
    sim.after(EXPIRY_EVERY, expire_for_ever);
}
