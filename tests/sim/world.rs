//! The world of one run: machines, store, network, proxies; how faults begin and end; when all is well.

use std::time::Duration;

use pgvane_agent::decide::memory::Vouch;
use pgvane_agent::guard::client::Doing;
use pgvane_cluster::keyspace::Key;
use pgvane_cluster::records::Tags;
use pgvane_cluster::store::Txn;
use pgvane_cluster::view::ClusterView;
use serde_json::Value;

use crate::agent::{self, Agent};
use crate::check::{Checker, Violation};
use crate::clock::Clock;
use crate::counts::{Counts, Struck, Summary};
use crate::etcd::{self, Etcd};
use crate::fact::{Fact, seconds};
use crate::faults;
use crate::guard::Guard;
use crate::network::{End, Network};
use crate::plan::{Plan, Sync};
use crate::postgres::{self, Data, Postgres, SYSTEM};
use crate::proxy::{self, Proxy};
use crate::replication::Names;
use crate::rng::Rng;
use crate::runtime::{MS, Proc, SEC, Signal, SignalMaker, Sim};
use crate::trap::Trap;

/// A way to break the product, to see that the checker notices.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Mutation {
    /// The agent believes that its lease was renewed just now, and the guard holds nothing.
    DeafAgent,
    /// The guard holds nothing.
    NoGuard,
    /// Whoever vouches forgets it at once.
    ForgottenVouch,
    /// The hand-over does not stop PostgreSQL.
    EarlyRelease,
    /// A campaign does not look whether the key exists.
    StealingCampaign,
    /// The proxy ignores that reigns end.
    ProxyKeepsSessions,
    /// The proxy does not look at the leader's record.
    ProxyRoutesStale,
    /// A lease that the guard began to give back is renewed for ever.
    RenewsSpentLease,
    /// A guard that is found stopping PostgreSQL, or that stops it later, is taken for an idle one.
    IgnoresFence,
    /// The key moves to a shorter lease while the guard holds the deadline of the longer one.
    MovesKeyFirst,
    /// What was decided is done however late.
    ActsBlindly,
    /// Timelines are told apart by their numbers alone.
    SharedTimelines,
    /// A promise lasts the voucher's own lease time, not the asker's.
    PromisesOwnTtl,
    /// Whoever is asked for a position tells what it read before, and that it is new.
    StaleVotes,
    /// Commits return at once, whomever the server should wait for.
    CommitsDoNotWait,
}

/// A promise as it lies on disk.
#[derive(Clone, Debug)]
pub(crate) struct Promise {
    pub(crate) vouch: Vouch,
    pub(crate) ttl: Duration,
    pub(crate) boot: u32,
}

/// One machine with PostgreSQL.
pub(crate) struct Node {
    pub(crate) powered: bool,
    /// How many faults have the machine suspended.
    pub(crate) suspended: u32,
    /// When it was last suspended.
    pub(crate) suspended_at: u64,
    /// How many faults have its agent stopped.
    pub(crate) agent_frozen: u32,
    /// How many faults keep its agent, or the machine, from being started.
    pub(crate) held_down: u32,
    pub(crate) boot: u32,
    pub(crate) tags: Tags,
    pub(crate) pg: Postgres,
    pub(crate) guard: Option<Guard>,
    pub(crate) agent: Option<Agent>,
    pub(crate) agent_proc: Option<Proc>,
    pub(crate) promise: Option<Promise>,
    /// Raised when a process of ours ends.
    pub(crate) changed: Signal,
    /// Raised to ask the server at once.
    pub(crate) hurry: Signal,
}

/// Everything there is.
pub(crate) struct World {
    pub(crate) now: u64,
    pub(crate) plan: Plan,
    pub(crate) mutation: Option<Mutation>,
    pub(crate) rng: Rng,
    pub(crate) net: Network,
    pub(crate) etcd: Etcd,
    pub(crate) nodes: Vec<Node>,
    pub(crate) proxies: Vec<Proxy>,
    /// The dynamic configuration that the cluster begins with.
    pub(crate) config: Value,
    pub(crate) branches: u64,
    /// Raised when some server's WAL has grown.
    pub(crate) wal_grew: Signal,
    pub(crate) traps: Vec<Trap>,
    pub(crate) struck: Struck,
    pub(crate) count: Counts,
    pub(crate) check: Checker,
    /// Until when clients write often: something is going on.
    pub(crate) busy_until: u64,
    /// Whom a client was last told by, when that was, that its commit is there; for each proxy.
    pub(crate) told_at: Vec<u64>,
    /// Since when no server has accepted writes, after the first that did; and how long that was in all.
    headless_since: Option<u64>,
    headless: u64,
    /// Whether each fact is printed.
    loud: bool,
}

/// Campaigns in one run beyond which nodes win and give up the key in turns.
const MOST_CAMPAIGNS: u64 = 200;

/// How often it is looked whether all is well.
const LOOK_EVERY: u64 = 20 * MS;

/// How a run ended.
pub(crate) struct Outcome {
    pub(crate) violation: Option<Violation>,
    pub(crate) summary: Summary,
}

/// How long clients go on writing often after something has happened.
const BUSY: u64 = 3 * SEC;

impl World {
    fn new(seed: u64, plan: Plan, mutation: Option<Mutation>, loud: bool, maker: &SignalMaker) -> World {
        let node = |n: usize| Node {
            powered: true,
            suspended: 0,
            suspended_at: 0,
            agent_frozen: 0,
            held_down: 0,
            boot: 1,
            pg: Postgres::new(maker, if plan.from_nothing { Data::Absent } else { Data::Present }, n > 0),
            guard: None,
            agent: None,
            agent_proc: None,
            promise: None,
            tags: plan.tags[n].clone(),
            changed: maker.make(),
            hurry: maker.make(),
        };
        World {
            now: 0,
            mutation,
            // Not the stream that drew the plan, so that a plan can be edited and the rest stays.
            rng: Rng::new(seed ^ 0x5eed),
            net: Network::new(plan.weather),
            etcd: Etcd::new(maker),
            nodes: (0..plan.nodes).map(node).collect(),
            proxies: (0..plan.proxies).map(|_| Proxy::new()).collect(),
            config: plan.config(),
            branches: 1,
            wal_grew: maker.make(),
            traps: vec![],
            struck: Struck::new(),
            busy_until: 0,
            told_at: vec![0; plan.proxies],
            headless_since: None,
            headless: 0,
            count: Counts::default(),
            check: Checker::new(plan.class),
            loud,
            plan,
        }
    }

    /// Notes something that happened.
    #[expect(clippy::needless_pass_by_value, reason = "it is told once and over with")]
    pub(crate) fn fact(&mut self, fact: Fact) {
        if self.loud && fact.is_shown() {
            println!("{:9.4} {fact}", seconds(self.now));
        }
        match &fact {
            Fact::Guard { doing: Doing::Stopping, .. } => self.count.guard_stops += 1,
            Fact::LeaseRevoked { .. } => self.count.revocations += 1,
            Fact::Promote { restart: true, .. } => self.count.restarts += 1,
            Fact::Acknowledged { proxy, .. } => {
                self.count.commits += 1;
                self.told_at[*proxy] = self.now;
            }
            Fact::SessionOpened { .. } => self.count.sessions += 1,
            Fact::Begins(_) | Fact::Ends(_) | Fact::Key { .. } | Fact::Writable { .. } => {
                self.busy_until = self.now + BUSY;
            }
            _ => {}
        }
        self.check.see(self.now, &fact);
    }

    /// A server begins to accept writes, or no longer does.
    pub(crate) fn accepts_writes(&mut self, n: usize, on: bool) {
        if on {
            if let Some(since) = self.headless_since.take() {
                self.headless += self.now - since;
                self.count.outages += 1;
            }
        } else if self.nodes.iter().all(|n| n.pg.server.as_ref().is_none_or(|s| !s.writable)) {
            self.headless_since.get_or_insert(self.now);
        }
        let wal = self.nodes[n].pg.wal.clone();
        self.fact(Fact::Writable { node: n, on, wal });
    }

    /// What was told of the run.
    fn summary(&self) -> Summary {
        let mut summary = Summary {
            runs: 1,
            count: self.count,
            struck: self.struck.clone(),
            time: self.now,
            without_primary: self.headless,
            recovery: self.now.saturating_sub(self.plan.heal_at),
            ..Summary::default()
        };
        for planned in &self.plan.faults {
            *summary.faults.entry(planned.fault.word()).or_default() += 1;
        }
        summary
    }

    /// The process behind an address.
    pub(crate) fn proc_of(&self, end: End) -> Option<Proc> {
        match end {
            End::Node(n) => self.nodes[n].agent_proc,
            End::Proxy(p) => Some(self.proxies[p].proc),
            End::Etcd => None,
        }
    }

    /// What keeps the cluster from being healthy; `None` when nothing does.
    fn ailment(&self) -> Option<Ailment> {
        let truth = self.etcd.truth();
        let Some(key) = &truth.leader else { return Some(Ailment::NoLeader) };
        let leader = etcd::node_of(key.name.as_str());
        if self.nodes[leader].pg.server.as_ref().is_none_or(|s| !s.writable) {
            return Some(Ailment::DoesNotServe(leader));
        }
        for (p, proxy) in self.proxies.iter().enumerate() {
            let primary = proxy.plan.as_ref().and_then(|plan| plan.primary.as_ref().ok());
            if primary.is_none_or(|primary| primary.epoch != key.epoch) {
                return Some(Ailment::NotRouted(p));
            }
            if self.told_at[p] < self.plan.heal_at {
                return Some(Ailment::NothingCommitted(p));
            }
        }
        (0..self.nodes.len())
            .filter(|n| *n != leader)
            .find_map(|n| {
                let pg = &self.nodes[n].pg;
                let streams = pg.server.as_ref().and_then(|s| s.stream).is_some_and(|s| s.from == leader);
                let follows = streams && pg.wal.branch == self.nodes[leader].pg.wal.branch;
                (!follows).then_some(Ailment::DoesNotFollow(n))
            })
            .or_else(|| self.sync_ailment(truth, leader))
    }

    /// Once everybody streams, standbys confirm commits; without the mode nobody is asked.
    fn sync_ailment(&self, truth: &ClusterView, leader: usize) -> Option<Ailment> {
        let names = Names::read(&self.nodes[leader].pg.in_force);
        if !truth.settings().synchronous_mode.is_on() {
            return (truth.sync.is_some() || !names.is_empty()).then_some(Ailment::SyncIsLeft);
        }
        let sync = truth.sync.as_ref().map(|s| &s.value);
        let leads = sync.and_then(|s| s.leader.as_ref()).is_some_and(|l| etcd::node_of(l.as_str()) == leader);
        let anybody = sync.is_some_and(|s| s.standbys().next().is_some()) && !names.is_empty();
        (!leads || !anybody).then_some(Ailment::NobodyConfirms)
    }
}

/// What is wrong with a cluster.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Ailment {
    NoLeader,
    DoesNotServe(usize),
    NotRouted(usize),
    NothingCommitted(usize),
    DoesNotFollow(usize),
    NobodyConfirms,
    SyncIsLeft,
}

impl std::fmt::Display for Ailment {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Ailment::NoLeader => f.write_str("nobody holds the leader key"),
            Ailment::DoesNotServe(n) => write!(f, "{} holds the key and does not serve", postgres::host(*n)),
            Ailment::NotRouted(p) => write!(f, "proxy{p} does not route to the leader"),
            Ailment::NothingCommitted(p) => write!(f, "nothing was committed through proxy{p}"),
            Ailment::NobodyConfirms => f.write_str("all stream and no standby is synchronous"),
            Ailment::SyncIsLeft => f.write_str("synchronous mode is off and something is left of it"),
            Ailment::DoesNotFollow(n) => write!(f, "{} does not follow the leader", postgres::host(*n)),
        }
    }
}

/// The whole run of one seed.
pub(crate) fn run(seed: u64, mutation: Option<Mutation>, loud: bool) -> Outcome {
    let plan = Plan::draw(seed);
    if loud {
        println!("{plan:#?}");
    }
    let (heal_at, planned) = (plan.heal_at, plan.faults.clone());
    let mut clocks = plan.clocks.clone();
    // One more, without error, for the machinery of the simulation itself.
    clocks.push(Clock::default());
    let sim = Sim::new(clocks, |maker| World::new(seed, plan, mutation, loud, maker));
    begin(&sim);
    for planned in planned {
        sim.at(planned.begins, move |sim| faults::begin(sim, planned));
        sim.at(planned.ends, move |sim| faults::end(sim, planned.fault));
    }
    let broken = |sim: &Sim| sim.w().check.violation.is_some();
    sim.run(heal_at, broken);
    if !broken(&sim) {
        faults::heal(&sim);
        let limit = healthy_within(&sim);
        let (mut well_since, mut next) = (None, heal_at);
        sim.run(heal_at + limit, |sim| {
            let w = sim.w();
            if w.check.violation.is_some() {
                return true;
            }
            let now = w.now;
            if now < next {
                return false;
            }
            next = now + LOOK_EVERY;
            well_since = if w.ailment().is_none() { well_since.or(Some(now)) } else { None };
            well_since.is_some_and(|since| now > since + SEC)
        });
        let mut w = sim.w();
        let now = w.now;
        if let Some(why) = w.ailment()
            && w.check.violation.is_none()
        {
            w.check.not_healthy(now, heal_at, &why.to_string());
        }
        let leader = w.etcd.truth().leader.as_ref().map(|l| etcd::node_of(l.name.as_str()));
        if let Some(leader) = leader {
            let World { check, nodes, .. } = &mut *w;
            check.finish(now, leader, &nodes[leader].pg.wal);
        }
        if w.count.campaigns > MOST_CAMPAIGNS {
            let what = format!("{} campaigns", w.count.campaigns);
            w.check.spins(now, &what);
        }
    }
    sim.clear();
    let w = sim.w();
    Outcome { violation: w.check.violation.clone(), summary: w.summary() }
}

/// L1: how long after all faults have ended everything serves again.
fn healthy_within(sim: &Sim) -> u64 {
    let w = sim.w();
    let ttl = w.etcd.truth().settings().ttl.max(w.plan.ttl);
    u64::try_from(ttl.as_nanos()).expect("small") * 2 + 30 * SEC
}

fn begin(sim: &Sim) {
    {
        let (config, from_nothing) = {
            let w = sim.w();
            (w.config.to_string().into_bytes(), w.plan.from_nothing)
        };
        if !from_nothing {
            let path = |key: &Key| sim.w().etcd.space.path(key);
            let (initialize, key) = (path(&Key::Initialize), path(&Key::Config));
            etcd::put_now(sim, &Txn::put(initialize, SYSTEM.as_bytes().to_vec(), None));
            etcd::put_now(sim, &Txn::put(key, config, None));
        }
    }
    let first = sim.w().rng.range(0, SEC / 2);
    sim.at(first, etcd::expire_for_ever);
    let (nodes, proxies, synchronous) = {
        let w = sim.w();
        (w.nodes.len(), w.proxies.len(), w.plan.sync != Sync::Off)
    };
    sim.w().fact(Fact::Synchronous { on: synchronous });
    for n in 0..nodes {
        // The first to have data starts first: the others would wait for it.
        let at = sim.w().rng.range(0, SEC);
        sim.at(at, move |sim| agent::start(sim, n));
    }
    for p in 0..proxies {
        proxy::start(sim, p);
    }
}
