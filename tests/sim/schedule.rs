//! What happens in one run, all drawn from its seed: swarm options first, then the faults and their times.
//!
//! Each seed draws which kinds of faults exist at all and how often; so some runs have nothing but freezes, some
//! only partitions, some everything. Whatever begins also ends, and at the end everything is healed.

use std::time::Duration;

use crate::clock::Clock;
use crate::network::{ENDS, End, NODES, PROXIES, Weather};
use crate::rng::Rng;
use crate::runtime::{MS, SEC};

/// What goes wrong, or what an operator does.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Fault {
    /// SIGSTOP of an agent, SIGCONT at the end.
    AgentFreeze(usize),
    /// SIGKILL of an agent, started again at the end.
    AgentCrash(usize),
    /// SIGTERM of an agent, started again at the end.
    AgentStop(usize),
    /// SIGKILL of the guard; its agent is well.
    GuardKill(usize),
    /// SIGKILL of the postmaster.
    PostgresCrash(usize),
    /// Agent and postmaster are killed together.
    BothCrash(usize),
    /// The machine is suspended with all that runs on it.
    NodeFreeze(usize),
    /// Power off; on again at the end.
    NodeDeath(usize),
    /// The store answers nobody.
    EtcdDown,
    /// Another etcd member leads: a moment of silence, then all leases have their full time again.
    EtcdElection,
    /// Messages from one to the other are lost.
    CutOneWay(End, End),
    /// The same both ways.
    Cut(End, End),
    /// Standbys of these nodes cannot stream from each other.
    CutReplication(usize, usize),
    /// A node is unplugged.
    Isolate(usize),
    /// A proxy is stopped and goes on.
    ProxyFreeze(usize),
    /// A watch loses what it should tell next (agents first, then proxies).
    WatchLoss(usize),
    /// The operator wants another leader, named or not.
    Switchover(Option<usize>),
    /// The operator suspends automatic failover.
    Pause,
    /// The operator sets another lease time for good.
    SetTtl(Duration),
}

/// A fault with its time.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Planned {
    pub(crate) fault: Fault,
    pub(crate) begins: u64,
    pub(crate) ends: u64,
}

/// What kind of run this is: it decides which promises hold.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Class {
    /// Operators at work, nothing breaks: no commit may be lost, nothing may stop unasked.
    Planned,
    /// The same with pause, and crashes of PostgreSQL.
    Paused,
    /// Anything.
    Storm,
}

/// One run.
#[derive(Clone, Debug)]
pub(crate) struct Plan {
    pub(crate) class: Class,
    pub(crate) ttl: Duration,
    pub(crate) failsafe: bool,
    pub(crate) primary_start_timeout: Duration,
    pub(crate) use_rewind: bool,
    /// Whether the cluster begins with no data at all.
    pub(crate) from_nothing: bool,
    /// Nodes, etcd, proxies.
    pub(crate) clocks: Vec<Clock>,
    pub(crate) weather: Weather,
    /// Time between two commits of a client.
    pub(crate) write_every: u64,
    /// Whether the proxies hold the last leader while its agent vouches.
    pub(crate) proxies_hold: bool,
    /// How long a fast stop takes, at the least and at most.
    pub(crate) stop: (u64, u64),
    /// How long a promotion takes.
    pub(crate) promote: (u64, u64),
    /// How long a start takes.
    pub(crate) start: (u64, u64),
    pub(crate) faults: Vec<Planned>,
    /// When everything is healed.
    pub(crate) heal_at: u64,
}

/// Two machines' rates differ by less than the bound that `Timing` assumes, 10,000 ppm.
const MAX_PPM: u64 = 4_900;

/// A kind of several faults at once: every node is cut off from the store.
const STORE_UNPLUGGED: usize = 19;

/// The longest lease time in the draw, so that a run's length is bounded.
const TTLS: [u64; 12] = [2, 2, 3, 3, 3, 4, 5, 6, 8, 10, 15, 30];

impl Plan {
    /// The run of `seed`.
    pub(crate) fn draw(seed: u64) -> Plan {
        let rng = &mut Rng::new(seed);
        let class = match rng.below(20) {
            0 | 1 => Class::Planned,
            2 => Class::Paused,
            _ => Class::Storm,
        };
        let ttl = Duration::from_secs(rng.pick(&TTLS));
        let clock = |rng: &mut Rng| Clock {
            ppm: i64::try_from(rng.range(0, 2 * MAX_PPM)).expect("small")
                - i64::try_from(MAX_PPM).expect("small"),
            boot: i64::try_from(rng.range(5, 1000) * SEC).expect("small"),
            lost: 0,
        };
        let mut plan = Plan {
            class,
            ttl,
            failsafe: rng.chance(500),
            primary_start_timeout: Duration::from_secs(rng.pick(&[0, 1, 5, 300])),
            use_rewind: rng.chance(800),
            from_nothing: rng.chance(100),
            clocks: (0..ENDS).map(|_| clock(rng)).collect(),
            weather: Weather {
                delay: rng.pick(&[(50_000, MS), (100_000, 5 * MS), (MS, 40 * MS)]),
                loss: rng.pick(&[0, 0, 0, 5, 20]),
                replication: rng.pick(&[20, 50, 150]) * MS,
            },
            write_every: rng.pick(&[150, 400, 1_000, 3_000]) * MS,
            proxies_hold: rng.chance(600),
            stop: rng.pick(&[(20 * MS, 80 * MS), (50 * MS, 400 * MS), (200 * MS, 3 * SEC)]),
            promote: rng.pick(&[(20 * MS, 60 * MS), (50 * MS, 500 * MS), (100 * MS, 2 * SEC)]),
            start: rng.pick(&[(50 * MS, 200 * MS), (100 * MS, 1_500 * MS)]),
            faults: vec![],
            heal_at: 0,
        };
        if plan.from_nothing {
            // The answer to whoever wins the right to bootstrap must not be lost: the key it wrote says nothing of
            // who wrote it, so nobody would ever know.
            plan.weather.loss = 0;
        }
        if class == Class::Planned {
            // Longer than any start takes, so that nothing may end one; and with the shortest leases two lost
            // messages are an outage.
            plan.primary_start_timeout = Duration::from_mins(5);
            plan.weather.loss = 0;
        }
        plan.draw_faults(rng);
        plan
    }

    fn ttl_ns(&self) -> u64 {
        u64::try_from(self.ttl.as_nanos()).expect("small")
    }

    fn draw_faults(&mut self, rng: &mut Rng) {
        let kinds = self.kinds(rng);
        let ttl = self.ttl_ns();
        // Nothing goes wrong before the cluster has come up, and again for some time after each fault.
        let calm = self.class != Class::Storm;
        let least = if calm { 2 * ttl + 6 * SEC } else { rng.pick(&[100 * MS, SEC, ttl, 2 * ttl]) };
        let overlap = !calm && rng.chance(500);
        let rush = if calm { 0 } else { rng.pick(&[0, 300, 700]) };
        let count = if calm { rng.range(2, 4) } else { rng.range(2, 7) };
        let mut at = if self.from_nothing { 12 * SEC } else { rng.range(3, 8) * SEC };
        for _ in 0..count {
            let kind = rng.pick(&kinds);
            let mut lasts = 0;
            if kind == STORE_UNPLUGGED {
                // The store lives on and its leases end; each node finds it again at a time of its own.
                for n in 0..NODES {
                    let fault = Fault::Cut(End::Node(n), End::Etcd);
                    let each = self.length(rng, fault);
                    self.faults.push(Planned { fault, begins: at, ends: at + each });
                    lasts = lasts.max(each);
                }
            } else {
                let fault = Plan::draw_fault(rng, kind);
                lasts = self.length(rng, fault);
                self.faults.push(Planned { fault, begins: at, ends: at + lasts });
            }
            if rng.chance(rush) {
                // What hurts most is what happens while the last thing is still being dealt with.
                at += if rng.chance(500) { lasts } else { 0 };
                at += rng.range(0, 1_500) * MS;
                continue;
            }
            at += if overlap { rng.range(0, lasts) } else { lasts };
            at += least + rng.range(0, least);
        }
        let end = self.faults.iter().map(|f| f.ends).max().unwrap_or(at);
        self.heal_at = end + rng.range(0, SEC);
    }

    /// Which kinds exist in this run: each is a number for [`Plan::draw_fault`].
    fn kinds(&self, rng: &mut Rng) -> Vec<usize> {
        let all: &[usize] = match self.class {
            Class::Planned => &[16, 16, 16, 2, 9, 18],
            Class::Paused => &[17, 17, 4, 16, 2],
            Class::Storm => &[0, 1, 2, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15, 16, 18, STORE_UNPLUGGED],
        };
        let share = rng.pick(&[150, 300, 600, 1000]);
        let mut kinds: Vec<usize> = all.iter().copied().filter(|_| rng.chance(share)).collect();
        if kinds.is_empty() {
            kinds.push(rng.pick(all));
        }
        // A guard that dies while its agent cannot start another is two faults at once, which nothing covers.
        if self.class == Class::Storm && kinds.iter().all(|k| ![0, 1, 2, 5, 6, 7].contains(k)) {
            kinds.push(3);
        }
        kinds
    }

    fn draw_fault(rng: &mut Rng, kind: usize) -> Fault {
        let n = rng.below(NODES);
        let other = (n + 1 + rng.below(NODES - 1)) % NODES;
        // A cut that matters: somebody from the store, two nodes, a proxy from a node.
        let ends = match rng.below(4) {
            0 | 1 => (End::Node(n), End::Etcd),
            2 => (End::Node(n), End::Node(other)),
            _ => (End::Proxy(rng.below(PROXIES)), rng.pick(&[End::Etcd, End::Node(n)])),
        };
        let ends = if rng.chance(500) { ends } else { (ends.1, ends.0) };
        match kind {
            0 => Fault::AgentFreeze(n),
            1 => Fault::AgentCrash(n),
            2 => Fault::AgentStop(n),
            3 => Fault::GuardKill(n),
            4 => Fault::PostgresCrash(n),
            5 => Fault::BothCrash(n),
            6 => Fault::NodeFreeze(n),
            7 => Fault::NodeDeath(n),
            8 => Fault::EtcdDown,
            9 => Fault::EtcdElection,
            10 => Fault::CutOneWay(ends.0, ends.1),
            11 => Fault::Cut(ends.0, ends.1),
            12 => Fault::CutReplication(n, other),
            13 => Fault::Isolate(n),
            14 => Fault::ProxyFreeze(rng.below(PROXIES)),
            15 => Fault::WatchLoss(rng.below(NODES + PROXIES)),
            16 => Fault::Switchover(rng.chance(500).then_some(n)),
            17 => Fault::Pause,
            _ => Fault::SetTtl(Duration::from_secs(rng.pick(&TTLS[..11]))),
        }
    }

    /// How long a fault lasts: from a moment to well past the lease.
    fn length(&self, rng: &mut Rng, fault: Fault) -> u64 {
        let ttl = self.ttl_ns();
        match fault {
            Fault::GuardKill(_) | Fault::PostgresCrash(_) | Fault::WatchLoss(_) => 0,
            Fault::Switchover(_) | Fault::SetTtl(_) => SEC,
            // A short one is no fault: the next renewal is in time.
            Fault::EtcdElection if self.class == Class::Planned => rng.range(20, 250) * MS,
            Fault::EtcdElection => rng.range(50, 1_500) * MS,
            Fault::AgentStop(_) | Fault::Pause => rng.range(1, 6) * SEC,
            _ => match rng.below(4) {
                0 => rng.range(10, 500) * MS,
                1 => rng.range(ttl / 2, ttl),
                2 => rng.range(ttl, ttl * 3 / 2),
                _ => rng.range(ttl / 4, ttl * 5 / 2),
            },
        }
    }
}
