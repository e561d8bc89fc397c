//! What lies between two machines: delays, losses, partitions that may go one way only.

use crate::rng::Rng;
use crate::runtime::MS;

/// Nodes of PostgreSQL.
pub(crate) const NODES: usize = 3;
/// Proxies.
pub(crate) const PROXIES: usize = 2;
/// Everything with an address.
pub(crate) const ENDS: usize = NODES + 1 + PROXIES;

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
            End::Etcd => NODES,
            End::Proxy(p) => NODES + 1 + p,
        }
    }

    pub(crate) fn of(index: usize) -> End {
        match index {
            n if n < NODES => End::Node(n),
            NODES => End::Etcd,
            p => End::Proxy(p - NODES - 1),
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
    /// Time between two looks of a standby at its upstream's WAL.
    pub(crate) replication: u64,
}

/// The network.
#[derive(Debug)]
pub(crate) struct Network {
    pub(crate) weather: Weather,
    /// How many faults cut this way now: agents, store and clients.
    cut: [[u32; ENDS]; ENDS],
    /// The same for streaming replication, from a standby to its upstream.
    replication_cut: [[u32; NODES]; NODES],
}

impl Network {
    pub(crate) fn new(weather: Weather) -> Network {
        Network { weather, cut: [[0; ENDS]; ENDS], replication_cut: [[0; NODES]; NODES] }
    }

    /// Cuts one way, or takes one cut away.
    pub(crate) fn cut(&mut self, from: End, to: End, on: bool) {
        let count = &mut self.cut[from.index()][to.index()];
        *count = if on { *count + 1 } else { *count - 1 };
    }

    /// The same for the replication connections between two nodes, both ways.
    pub(crate) fn cut_replication(&mut self, a: usize, b: usize, on: bool) {
        for (x, y) in [(a, b), (b, a)] {
            let count = &mut self.replication_cut[x][y];
            *count = if on { *count + 1 } else { *count - 1 };
        }
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
        let way = rng.range(low, high);
        if !rng.chance(self.weather.loss) {
            return Some(way);
        }
        // Mostly TCP sends it again; sometimes the connection is lost with it.
        (!rng.chance(100)).then(|| way + rng.range(200, 450) * MS)
    }
}
