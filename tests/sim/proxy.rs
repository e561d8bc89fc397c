//! Proxies with a client each: the real fold, `derive`, `judge`, `succeed` and `Reign`, put together as the feed does.

use std::sync::Arc;
use std::time::Duration;

use pgvane::topology::Reign;
use pgvane::topology::derive::{Plan, derive};
use pgvane::topology::freshness::{Evidence, Judgement, OnStoreLoss, Policy, Standing, judge};
use pgvane::topology::succession::succeed;
use pgvane_cluster::clock::Tick;
use pgvane_cluster::ids::{Epoch, NodeName};
use pgvane_cluster::view::ClusterView;

use crate::etcd::{self, FollowOptions, node_of, of_proxy};
use crate::fact::{Fact, Shown};
use crate::network::End;
use crate::replication::{self, Returned};
use crate::runtime::{Proc, SEC, Sim};
use crate::world::{Mutation, World};

/// As in `topology::feed`.
const TICK: Duration = Duration::from_secs(1);
const FROZEN: Duration = Duration::from_millis(500);
const ASK_EVERY: Duration = Duration::from_secs(1);
const REFRESH_EVERY: Duration = Duration::from_millis(100);

/// Time between two commits of a client while nothing is going on.
const QUIET: u64 = 2 * SEC;

/// How long a client waits for an answer.
const CLIENT_PATIENCE: Duration = Duration::from_secs(3);

/// One proxy.
pub(crate) struct Proxy {
    pub(crate) proc: Proc,
    /// How many faults have it stopped, and how many keep it from being started.
    pub(crate) frozen: u32,
    down: u32,
    pub(crate) plan: Option<Plan>,
    pub(crate) reign: Option<(NodeName, Arc<Reign>)>,
    newest: Epoch,
    evidence: Evidence,
    evidence_of: Option<(NodeName, Epoch)>,
    next_ask: Tick,
    next_refresh: Tick,
    asking: bool,
    due: Tick,
    seen: u64,
    shown: Option<Shown>,
    /// What the plan was derived from.
    derived_from: Option<(Option<Arc<ClusterView>>, Standing, Epoch)>,
    pub(crate) session: Option<Session>,
    sessions: u64,
}

/// The client's session on the primary.
#[derive(Clone)]
pub(crate) struct Session {
    id: u64,
    node: usize,
    pid: i32,
    reign: Arc<Reign>,
}

impl Proxy {
    pub(crate) fn new() -> Proxy {
        Proxy {
            proc: usize::MAX,
            frozen: 0,
            down: 0,
            plan: None,
            reign: None,
            newest: Epoch(0),
            evidence: Evidence::default(),
            evidence_of: None,
            next_ask: Tick::ZERO,
            next_refresh: Tick::ZERO,
            asking: false,
            due: Tick::ZERO,
            seen: 0,
            shown: None,
            derived_from: None,
            session: None,
            sessions: 0,
        }
    }
}

impl Proxy {
    /// Whether there is a process.
    pub(crate) fn runs(&self) -> bool {
        self.proc != usize::MAX
    }
}

fn clock(p: usize) -> usize {
    End::Proxy(p).index()
}

/// Starts a proxy and its client.
pub(crate) fn start(sim: &Sim, p: usize) {
    start_process(sim, p);
    let client = sim.new_proc(clock(p));
    let inner = sim.clone();
    sim.spawn(client, async move { write_for_ever(&inner, p, client).await });
}

/// The proxy is killed: its sessions end with it.
pub(crate) fn end(sim: &Sim, p: usize) {
    let proc = {
        let mut w = sim.w();
        let proxy = &mut w.proxies[p];
        proxy.down += 1;
        proxy.frozen = 0;
        let ran = proxy.runs();
        let session = proxy.session.take();
        let proc = std::mem::replace(&mut proxy.proc, usize::MAX);
        if let Some(session) = session {
            w.fact(Fact::SessionClosed { proxy: p, id: session.id });
        }
        w.fact(Fact::ProxyFrozen { proxy: p, on: false });
        w.etcd.followers[of_proxy(p)].forget(Tick::ZERO);
        ran.then_some(proc)
    };
    if let Some(proc) = proc {
        sim.kill(proc);
    }
}

/// One reason less for a proxy not to run.
pub(crate) fn start_again(sim: &Sim, p: usize) {
    {
        let mut w = sim.w();
        let proxy = &mut w.proxies[p];
        proxy.down -= 1;
        if proxy.down > 0 {
            return;
        }
        // Sessions are counted on, for the checker.
        *proxy = Proxy { sessions: proxy.sessions, ..Proxy::new() };
    }
    start_process(sim, p);
}

fn start_process(sim: &Sim, p: usize) {
    let proc = sim.new_proc(clock(p));
    sim.w().proxies[p].proc = proc;
    sim.w().proxies[p].due = sim.tick(clock(p)) + TICK;
    let options = FollowOptions {
        reread_every: Duration::from_secs(2),
        retry_first: Duration::from_millis(50),
        ask_leader_lease: true,
    };
    sim.spawn(proc, etcd::follow(sim.clone(), of_proxy(p), proc, options));
    let inner = sim.clone();
    sim.spawn(proc, async move { turn_for_ever(&inner, p, proc).await });
}

async fn turn_for_ever(sim: &Sim, p: usize, proc: Proc) {
    loop {
        let now = sim.tick(clock(p));
        let judgement = turn(sim, p, now);
        let signal = {
            let mut w = sim.w();
            let hold = w.plan.proxies_hold;
            let follower = &mut w.etcd.followers[of_proxy(p)];
            let (hurry, changed) = (follower.hurry.clone(), follower.changed.clone());
            let refresh = judgement.refresh && now >= w.proxies[p].next_refresh;
            if refresh {
                w.etcd.followers[of_proxy(p)].hurried = true;
                w.proxies[p].next_refresh = now + REFRESH_EVERY;
                hurry.raise();
            }
            let ask = judgement.ask && hold && !w.proxies[p].asking && now >= w.proxies[p].next_ask;
            drop(w);
            if ask {
                question(sim, p, proc, now);
            }
            changed
        };
        let due = {
            let mut w = sim.w();
            let proxy = &mut w.proxies[p];
            proxy.due = now + TICK;
            for earlier in judgement.wake_at.into_iter().chain(judgement.ask.then_some(proxy.next_ask)) {
                if earlier > now {
                    proxy.due = proxy.due.min(earlier);
                }
            }
            proxy.due
        };
        let woken = sim.until(&signal, || {
            let w = sim.w();
            w.proxies[p].seen != w.etcd.followers[of_proxy(p)].version()
        });
        let wait = now.until(due) + Duration::from_nanos(1);
        sim.race(sim.sleep(proc, wait), woken).await;
    }
}

/// One turn of the feed.
fn turn(sim: &Sim, p: usize, now: Tick) -> Judgement {
    let mut w = sim.w();
    w.count.proxy_turns += 1;
    let on_store_loss = if w.plan.proxies_hold { OnStoreLoss::Hold } else { OnStoreLoss::Fence };
    let keeps = w.mutation == Some(Mutation::ProxyKeepsSessions);
    let follower = &w.etcd.followers[of_proxy(p)];
    let (version, view) = (follower.version(), follower.view.clone());
    let (confirmed_at, lease, down) = (follower.confirmed_at, follower.leader_lease, follower.down.is_some());
    let leader = view.as_ref().and_then(|v| v.leader.as_ref()).map(|l| (l.name.clone(), l.epoch));
    let proxy = &mut w.proxies[p];
    proxy.seen = version;
    proxy.newest = proxy.newest.max(leader.as_ref().map_or(proxy.newest, |(_, epoch)| *epoch));
    if now > proxy.due + FROZEN {
        proxy.evidence.resumed_at = Some(now);
    }
    if proxy.evidence_of != leader {
        proxy.evidence_of.clone_from(&leader);
        proxy.evidence = Evidence { resumed_at: proxy.evidence.resumed_at, ..Evidence::default() };
        proxy.next_ask = now;
    }
    let ttl = view.as_ref().map(|v| v.settings()).unwrap_or_default().ttl;
    proxy.evidence.confirmed_at = view.as_ref().map(|_| confirmed_at);
    proxy.evidence.lease_until =
        view.as_ref().map(|_| lease.map_or(confirmed_at + ttl, |lease| lease.lives_until));
    let policy = Policy { on_store_loss, ttl };
    proxy.evidence.note_expiry(&policy, now);
    let mut judgement = judge(&proxy.evidence, &policy, down, now);
    if leader.is_none() {
        judgement = Judgement { wake_at: None, ask: false, refresh: false, ..judgement };
    }
    let from = (view.clone(), judgement.standing, proxy.newest);
    let same = |before: &(Option<Arc<ClusterView>>, Standing, Epoch)| {
        before.0.as_ref().map(Arc::as_ptr) == from.0.as_ref().map(Arc::as_ptr)
            && (before.1, before.2) == (from.1, from.2)
    };
    let plan = match proxy.plan.take() {
        // Of the same it derives the same.
        Some(plan) if proxy.derived_from.as_ref().is_some_and(same) => plan,
        Some(_) | None => derive(view.as_deref(), judgement.standing, proxy.newest),
    };
    proxy.derived_from = Some(from);
    let ended = succeed(&mut proxy.reign, &plan, leader.as_ref(), judgement).filter(|_| !keeps);
    let shown = Shown::of(view.as_deref());
    let news = (proxy.shown.as_ref() != Some(&shown)).then(|| shown.clone());
    proxy.shown = Some(shown);
    proxy.plan = Some(plan);
    let began = proxy.reign.as_ref().map(|(_, reign)| reign.epoch().0);
    if let Some(shown) = news {
        w.fact(Fact::ProxySees { proxy: p, shown });
    }
    if let Some(epoch) = began {
        w.fact(Fact::ProxyReign { proxy: p, epoch });
    }
    if let Some((reign, reason)) = ended {
        reign.end(reason);
        let proc = w.proxies[p].proc;
        drop(w);
        close_soon(sim, p, proc);
    }
    judgement
}

/// The sessions of a reign that ended wake up and close.
fn close_soon(sim: &Sim, p: usize, proc: Proc) {
    let inner = sim.clone();
    sim.spawn(proc, async move {
        let takes = inner.w().rng.range(20, 2_000) * 1_000;
        inner.sleep(proc, Duration::from_nanos(takes)).await;
        let mut w = inner.w();
        let gone = w.proxies[p].session.take_if(|s| s.reign.has_ended());
        if let Some(session) = gone {
            w.fact(Fact::SessionClosed { proxy: p, id: session.id });
        }
    });
}

/// Asks the leader's agent whether it leads.
fn question(sim: &Sim, p: usize, proc: Proc, now: Tick) {
    let mut w = sim.w();
    let Some(about) = w.proxies[p].evidence_of.clone() else { return };
    w.proxies[p].next_ask = now + ASK_EVERY;
    w.proxies[p].asking = true;
    let limit = Policy { on_store_loss: OnStoreLoss::Hold, ttl: w.etcd.truth().settings().ttl }.ask_lead();
    let node = node_of(about.0.as_str());
    let (from, to) = (End::Proxy(p), End::Node(node));
    let (answer, wait) = sim.oneshot();
    let way = hop(&mut w, from, to);
    drop(w);
    if let Some(way) = way {
        sim.after(way, move |sim| {
            let Some(agent) = sim.w().nodes[node].agent_proc else { return };
            let inner = sim.clone();
            // As a task of the agent: a frozen one does not answer.
            sim.spawn(agent, async move {
                let leads = {
                    let w = inner.w();
                    let until = w.nodes[node].agent.as_ref().and_then(|a| a.leader_until);
                    until.is_some_and(|until| inner.tick(node) < until)
                };
                let back = hop(&mut inner.w(), to, from);
                if let Some(back) = back {
                    inner.after(back, move |_| answer.send(leads));
                }
            });
        });
    }
    let inner = sim.clone();
    sim.spawn(proc, async move {
        let leads = inner.timeout(proc, limit, wait).await;
        let mut w = inner.w();
        let proxy = &mut w.proxies[p];
        proxy.asking = false;
        if proxy.evidence_of.as_ref() == Some(&about) {
            match leads {
                Some(true) => proxy.evidence.vouched_at = Some(now),
                Some(false) => proxy.evidence.refused_at = Some(now),
                None => {}
            }
        }
        // The loop looks again.
        proxy.seen = u64::MAX;
        w.etcd.followers[of_proxy(p)].changed.raise();
    });
}

fn hop(w: &mut World, from: End, to: End) -> Option<u64> {
    let World { net, rng, .. } = w;
    net.hop(rng, from, to)
}

/// The client: opens a session where there is none, commits on it, again and again.
async fn write_for_ever(sim: &Sim, p: usize, client: Proc) {
    loop {
        let pause = {
            let mut w = sim.w();
            let every = w.plan.write_every;
            let every = if w.now < w.busy_until { every } else { every.max(QUIET) };
            w.rng.range(every / 2, every * 3 / 2)
        };
        sim.sleep(client, Duration::from_nanos(pause)).await;
        let (proc, open, runs) = {
            let w = sim.w();
            let proxy = &w.proxies[p];
            (proxy.proc, proxy.session.is_some(), proxy.runs())
        };
        if !runs {
            continue;
        }
        let (done, wait) = sim.oneshot();
        let inner = sim.clone();
        // What the proxy does for its client; it does nothing while it is frozen.
        sim.spawn(proc, async move {
            if open {
                commit(&inner, p, proc).await;
            } else {
                connect(&inner, p, proc).await;
            }
            done.send(());
        });
        sim.timeout(client, CLIENT_PATIENCE, wait).await;
    }
}

/// Whether a server at the other end of this connection would take part.
fn answers(sim: &Sim, w: &World, p: usize, node: usize) -> Option<i32> {
    let (from, to) = (End::Proxy(p), End::Node(node));
    if w.net.is_cut(from, to) || w.net.is_cut(to, from) || !w.nodes[node].powered {
        return None;
    }
    let server = w.nodes[node].pg.server.as_ref()?;
    (server.ready && !server.stopping && !sim.is_frozen(server.proc)).then_some(server.pid)
}

async fn connect(sim: &Sim, p: usize, proc: Proc) {
    let takes = sim.w().rng.range(500, 5_000) * 1_000;
    let (target, epoch, reign) = {
        let w = sim.w();
        let stale = w.mutation == Some(Mutation::ProxyRoutesStale);
        let proxy = &w.proxies[p];
        let Some(plan) = &proxy.plan else { return };
        let Some((name, reign)) = &proxy.reign else { return };
        let target = match &plan.primary {
            Ok(primary) => node_of(primary.name.as_str()),
            // As a proxy would that did not look at the member record.
            Err(_) if stale => node_of(name.as_str()),
            Err(_) => return,
        };
        (target, reign.epoch().0, Arc::clone(reign))
    };
    sim.w().fact(Fact::SessionOpens { proxy: p, node: target, epoch });
    sim.sleep(proc, Duration::from_nanos(takes)).await;
    let mut w = sim.w();
    let Some(pid) = answers(sim, &w, p, target) else { return };
    if reign.has_ended() || w.proxies[p].session.is_some() {
        return;
    }
    let proxy = &mut w.proxies[p];
    proxy.sessions += 1;
    let id = proxy.sessions;
    proxy.session = Some(Session { id, node: target, pid, reign });
    w.fact(Fact::SessionOpened { proxy: p, id, node: target, epoch });
}

async fn commit(sim: &Sim, p: usize, proc: Proc) {
    let now = sim.tick(clock(p));
    let Some(session) = sim.w().proxies[p].session.clone() else { return };
    let ignores = sim.w().mutation == Some(Mutation::ProxyKeepsSessions);
    if !session.reign.is_open(now) && !ignores {
        return;
    }
    let way = hop(&mut sim.w(), End::Proxy(p), End::Node(session.node));
    let Some(way) = way else { return };
    let (answer, wait) = sim.oneshot();
    let (node, pid) = (session.node, session.pid);
    sim.after(way, move |sim| {
        let server = {
            let w = sim.w();
            w.nodes[node].pg.server.as_ref().filter(|s| s.pid == pid).map(|s| s.proc)
        };
        // A machine without power says nothing; one without that server resets the connection.
        let Some(server) = server else {
            if sim.w().nodes[node].powered {
                answer.send(None);
            }
            return;
        };
        let inner = sim.clone();
        sim.spawn(server, async move {
            let takes = inner.w().rng.range(100, 3_000) * 1_000;
            inner.sleep(server, Duration::from_nanos(takes)).await;
            let committed = {
                let mut w = inner.w();
                let committed = w.nodes[node].pg.commit();
                if let Some((branch, end)) = committed {
                    w.fact(Fact::Committed { node, branch, end });
                    w.wal_grew.raise();
                }
                committed
            };
            let Some((branch, end)) = committed else {
                answer.send(None);
                return;
            };
            let returned = replication::wait_for_standbys(&inner, node, pid, end).await;
            if returned == Returned::Never {
                answer.send(None);
                return;
            }
            let mut w = inner.w();
            let promised = is_promised(&w, node);
            let back = hop(&mut w, End::Node(node), End::Proxy(p));
            drop(w);
            if let Some(back) = back {
                inner.after(back, move |_| answer.send(Some((branch, end, promised))));
            }
        });
    });
    let result = sim.timeout(proc, CLIENT_PATIENCE, wait).await.flatten();
    let now = sim.tick(clock(p));
    let mut w = sim.w();
    let ours = w.proxies[p].session.as_ref().is_some_and(|s| s.id == session.id);
    match result {
        // Nothing is forwarded past the reign's deadline: the client never hears of it.
        Some((branch, end, promised)) if ours && (session.reign.is_open(now) || ignores) => {
            w.fact(Fact::Acknowledged { proxy: p, node, branch, end, promised });
        }
        None if ours => {
            w.proxies[p].session = None;
            w.fact(Fact::SessionClosed { proxy: p, id: session.id });
        }
        Some(_) | None => {}
    }
}

/// Whether what `node` acknowledges now has to be on whoever leads next: the store says who that may be besides.
fn is_promised(w: &World, node: usize) -> bool {
    let view = w.etcd.truth();
    let sync = view.sync.as_ref().filter(|_| view.settings().synchronous_mode.is_on()).map(|s| &s.value);
    sync.is_some_and(|sync| {
        sync.leader.as_ref().is_some_and(|leader| etcd::node_of(leader.as_str()) == node)
            && sync.standbys().next().is_some()
    })
}
