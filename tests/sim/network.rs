//! What lies between two machines: delays, losses, partitions that may go one way only.

use crate::rng::Rng;
use crate::runtime::MS;

/// The most nodes of PostgreSQL in a run.
pub(crate) const MAX_NODES: usize = 5;
/// The most proxies in a run.
pub(crate) const MAX_PROXIES: usize = 3;
/// Everything that may have an address.
pub(crate) const ENDS: usize = MAX_NODES + 1 + MAX_PROXIES;

/// Somebody with an address.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum End {
    Node(usize),
    Etcd,
    Proxy(usize),
}

impl End {
    pub(crate) fn index(self) -> usize {
        match self {
            End::Node(n) => n,
            End::Etcd => MAX_NODES,
            End::Proxy(p) => MAX_NODES + 1 + p,
        }
    }

    pub(crate) fn of(index: usize) -> End {
        match index {
            n if n < MAX_NODES => End::Node(n),
            MAX_NODES => End::Etcd,
            p => End::Proxy(p - MAX_NODES - 1),
        }
    }
}

/// How a run's network behaves.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Weather {
    /// Shortest and longest way of a message, in nanoseconds.
    pub(crate) delay: (u64, u64),
    /// Messages of a thousand that are lost and sent again by TCP.
    pub(crate) loss: u64,
    /// The longest time WAL takes to a standby.
    pub(crate) replication: u64,
}

/// How many messages of a thousand are lost to and from an end with a bad cable, and the longest extra way to and
/// from a slow one.
const LOSSY: u64 = 300;
const SLOW: u64 = 900 * MS;

/// What faults do to one end now: how many of each.
#[derive(Clone, Copy, Default, Debug)]
struct Trouble {
    lossy: u32,
    slow: u32,
}

/// The network.
#[derive(Debug)]
pub(crate) struct Network {
    pub(crate) weather: Weather,
    /// How many faults cut this way now: agents, store and clients.
    cut: [[u32; ENDS]; ENDS],
    /// The same for streaming replication, from a standby to its upstream.
    replication_cut: [[u32; MAX_NODES]; MAX_NODES],
    trouble: [Trouble; ENDS],
}

fn count(count: &mut u32, on: bool) {
    *count = if on { *count + 1 } else { *count - 1 };
}

impl Network {
    pub(crate) fn new(weather: Weather) -> Network {
        Network {
            weather,
            cut: [[0; ENDS]; ENDS],
            replication_cut: [[0; MAX_NODES]; MAX_NODES],
            trouble: [Trouble::default(); ENDS],
        }
    }

    /// Cuts one way, or takes one cut away.
    pub(crate) fn cut(&mut self, from: End, to: End, on: bool) {
        count(&mut self.cut[from.index()][to.index()], on);
    }

    /// The same for the replication connections between two nodes, both ways.
    pub(crate) fn cut_replication(&mut self, a: usize, b: usize, on: bool) {
        for (x, y) in [(a, b), (b, a)] {
            count(&mut self.replication_cut[x][y], on);
        }
    }

    /// All that an end sends and gets is late, or is not any more.
    pub(crate) fn slow(&mut self, end: End, on: bool) {
        count(&mut self.trouble[end.index()].slow, on);
    }

    /// Much of what an end sends and gets is lost, or is not any more.
    pub(crate) fn lossy(&mut self, end: End, on: bool) {
        count(&mut self.trouble[end.index()].lossy, on);
    }

    pub(crate) fn is_cut(&self, from: End, to: End) -> bool {
        self.cut[from.index()][to.index()] > 0
    }

    pub(crate) fn replicates(&self, a: usize, b: usize) -> bool {
        self.replication_cut[a][b] == 0
    }

    /// How long a message takes; `None`: it never arrives.
    pub(crate) fn hop(&self, rng: &mut Rng, from: End, to: End) -> Option<u64> {
        if self.is_cut(from, to) {
            return None;
        }
        let (low, high) = self.weather.delay;
        let mut way = rng.range(low, high);
        let (a, b) = (self.trouble[from.index()], self.trouble[to.index()]);
        if a.slow + b.slow > 0 {
            way += rng.range(0, SLOW);
        }
        let loss = if a.lossy + b.lossy > 0 { LOSSY } else { self.weather.loss };
        if !rng.chance(loss) {
            return Some(way);
        }
        // Mostly TCP sends it again; sometimes the connection is lost with it.
        (!rng.chance(100)).then(|| way + rng.range(200, 450) * MS)
    }
}
