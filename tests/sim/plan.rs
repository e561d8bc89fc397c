//! The conditions of one run: who takes part, how the cluster is set up, how the machines and the network are.

use std::time::Duration;

use pgvane_cluster::records::Tags;
use serde_json::{Value, json};

use crate::clock::Clock;
use crate::network::{ENDS, Weather};
use crate::rng::Rng;
use crate::runtime::{MS, SEC};
use crate::schedule::{self, Planned};

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

/// What commits wait for.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Sync {
    Off,
    On,
    Strict,
    Quorum,
}

impl Sync {
    /// Its words in the dynamic configuration.
    pub(crate) fn settings(self) -> [(&'static str, Value); 2] {
        let mode: Value = match self {
            Sync::Off => false.into(),
            Sync::On | Sync::Strict => true.into(),
            Sync::Quorum => "quorum".into(),
        };
        [("synchronous_mode", mode), ("synchronous_mode_strict", (self == Sync::Strict).into())]
    }
}

/// One run.
#[derive(Clone, Debug)]
pub(crate) struct Plan {
    pub(crate) class: Class,
    pub(crate) nodes: usize,
    pub(crate) proxies: usize,
    pub(crate) tags: Vec<Tags>,
    pub(crate) ttl: Duration,
    pub(crate) failsafe: bool,
    pub(crate) primary_start_timeout: Duration,
    pub(crate) maximum_lag: u64,
    pub(crate) use_rewind: bool,
    pub(crate) sync: Sync,
    /// Whether synchronous replication plays a part at any time of the run.
    pub(crate) may_sync: bool,
    pub(crate) sync_count: u64,
    /// Whether the cluster begins with no data at all.
    pub(crate) from_nothing: bool,
    /// Nodes, etcd, proxies.
    pub(crate) clocks: Vec<Clock>,
    pub(crate) weather: Weather,
    /// Time between two commits of a client while something is going on.
    pub(crate) write_every: u64,
    /// Whether the proxies hold the last leader while its agent vouches.
    pub(crate) proxies_hold: bool,
    /// How long a fast stop takes, at the least and at most.
    pub(crate) stop: (u64, u64),
    /// How long a promotion takes.
    pub(crate) promote: (u64, u64),
    /// How long a start takes.
    pub(crate) start: (u64, u64),
    /// How long a standby that accepts connections goes on replaying the WAL it has.
    pub(crate) replay: (u64, u64),
    /// How long WAL takes to the disk of a standby.
    pub(crate) flush: (u64, u64),
    pub(crate) faults: Vec<Planned>,
    /// When everything is healed.
    pub(crate) heal_at: u64,
}

/// Two machines' rates differ by less than the bound that `Timing` assumes, 10,000 ppm.
const MAX_PPM: u64 = 4_900;

/// Lease times. The work of a run grows with them and what can go wrong hardly does: long ones are rare.
const TTLS: [u64; 16] = [2, 2, 2, 2, 3, 3, 3, 3, 3, 4, 4, 4, 5, 5, 6, 8];
const LONG_TTLS: [u64; 3] = [10, 15, 30];

/// A lease time.
pub(crate) fn draw_ttl(rng: &mut Rng) -> Duration {
    let long = rng.chance(15);
    Duration::from_secs(if long { rng.pick(&LONG_TTLS) } else { rng.pick(&TTLS) })
}

/// A value of `primary_start_timeout`, in seconds.
pub(crate) fn draw_start_timeout(rng: &mut Rng) -> u64 {
    rng.pick(&[0, 1, 5, 300])
}

/// A value of `maximum_lag_on_failover`: some commits, or more than is ever written.
pub(crate) fn draw_maximum_lag(rng: &mut Rng) -> u64 {
    rng.pick(&[400, 2_000, 1_048_576, 1_048_576])
}

/// What commits wait for, in a run that may have them wait.
pub(crate) fn draw_sync(rng: &mut Rng) -> Sync {
    rng.pick(&[Sync::Off, Sync::On, Sync::On, Sync::Strict, Sync::Quorum, Sync::Quorum])
}

fn draw_clock(rng: &mut Rng) -> Clock {
    let ppm = i64::try_from(rng.range(0, 2 * MAX_PPM)).expect("small");
    Clock {
        ppm: ppm - i64::try_from(MAX_PPM).expect("small"),
        boot: i64::try_from(rng.range(5, 1000) * SEC).expect("small"),
        lost: 0,
    }
}

/// Tags that decide who leads. One node at least may always lead: the one that has the data at first.
fn draw_tags(rng: &mut Rng, nodes: usize) -> Vec<Tags> {
    let tagged = rng.chance(300);
    let free = 0;
    let mut draw = |n: usize| {
        let mut tags = Tags::default();
        match rng.below(4) {
            0 if n != free => tags.0.insert("nofailover".to_owned(), true.into()),
            1 if n != free => tags.0.insert("failover_priority".to_owned(), rng.range(0, 1).into()),
            1 | 2 => tags.0.insert("failover_priority".to_owned(), rng.range(1, 3).into()),
            _ => None,
        };
        tags
    };
    (0..nodes).map(|n| if tagged { draw(n) } else { Tags::default() }).collect()
}

impl Plan {
    /// The run of `seed`.
    pub(crate) fn draw(seed: u64) -> Plan {
        let rng = &mut Rng::new(seed);
        let class = match rng.below(100) {
            0..8 => Class::Planned,
            8..12 => Class::Paused,
            _ => Class::Storm,
        };
        let nodes = rng.pick(&[2, 2, 3, 3, 3, 3, 3, 3, 3, 4, 5]);
        let proxies = rng.pick(&[1, 1, 1, 2, 2, 3]);
        let may_sync = rng.chance(500);
        let mut plan = Plan {
            class,
            nodes,
            proxies,
            tags: draw_tags(rng, nodes),
            ttl: draw_ttl(rng),
            failsafe: rng.chance(500),
            primary_start_timeout: Duration::from_secs(draw_start_timeout(rng)),
            maximum_lag: draw_maximum_lag(rng),
            use_rewind: rng.chance(800),
            sync: if may_sync { draw_sync(rng) } else { Sync::Off },
            may_sync,
            sync_count: rng.pick(&[1, 1, 1, 2]),
            from_nothing: rng.chance(100),
            clocks: (0..ENDS).map(|_| draw_clock(rng)).collect(),
            weather: Weather {
                delay: rng.pick(&[(50_000, MS), (100_000, 5 * MS), (MS, 40 * MS)]),
                loss: rng.pick(&[0, 0, 0, 5, 20]),
                replication: rng.pick(&[20, 50, 150]) * MS,
            },
            write_every: rng.pick(&[100, 250, 600, 2_000]) * MS,
            proxies_hold: rng.chance(600),
            stop: rng.pick(&[(20 * MS, 80 * MS), (50 * MS, 400 * MS), (200 * MS, 3 * SEC)]),
            promote: rng.pick(&[(20 * MS, 60 * MS), (50 * MS, 500 * MS), (100 * MS, 2 * SEC)]),
            start: rng.pick(&[(50 * MS, 200 * MS), (100 * MS, 1_500 * MS)]),
            replay: rng.pick(&[(0, 0), (0, 100 * MS), (0, 2 * SEC)]),
            flush: rng.pick(&[(MS / 5, MS), (MS, 10 * MS), (5 * MS, 200 * MS)]),
            faults: vec![],
            heal_at: 0,
        };
        if class == Class::Planned {
            // Longer than any start takes, so that nothing may end one; and with the shortest leases two lost
            // messages are an outage.
            plan.primary_start_timeout = Duration::from_mins(5);
            plan.weather.loss = 0;
        }
        schedule::draw(&mut plan, rng);
        plan
    }

    /// The lease time in nanoseconds.
    pub(crate) fn ttl_ns(&self) -> u64 {
        u64::try_from(self.ttl.as_nanos()).expect("small")
    }

    /// The dynamic configuration that the cluster begins with.
    pub(crate) fn config(&self) -> Value {
        let mut config = json!({
            "ttl": self.ttl.as_secs(),
            "failsafe_mode": self.failsafe,
            "primary_start_timeout": self.primary_start_timeout.as_secs(),
            "maximum_lag_on_failover": self.maximum_lag,
            "synchronous_node_count": self.sync_count,
            "postgresql": {
                "use_slots": false,
                "use_pg_rewind": self.use_rewind,
                "remove_data_directory_on_rewind_failure": true,
                "remove_data_directory_on_diverged_timelines": true,
            },
        });
        for (key, value) in self.sync.settings() {
            config[key] = value;
        }
        config
    }
}
