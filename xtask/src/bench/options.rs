//! What may be asked of `cargo xtask bench`.

use clap::ValueEnum;
use serde::Serialize;

/// Measurement windows: short ones for `--quick`, in seconds.
const SECONDS: u32 = 5;
const QUICK_SECONDS: u32 = 1;

/// Rounds; the median of fewer than three says little.
const ROUNDS: u32 = 3;
const QUICK_ROUNDS: u32 = 2;

/// What stands between the clients and the server.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug, Serialize, ValueEnum)]
#[serde(rename_all = "kebab-case")]
pub enum Peer {
    /// Nothing.
    Direct,
    /// HAProxy in TCP mode.
    Haproxy,
    /// The same with `option splice-auto`; for bulk only.
    HaproxySplice,
    /// nginx with its stream module.
    Nginx,
    /// PgBouncer with a session each.
    Pgbouncer,
    /// Ours.
    Pgvane,
    /// Another build of ours, named by `PGVANE_BASE`: what a change is compared with.
    PgvaneBase,
}

impl Peer {
    pub(super) const ALL: &[Peer] = &[
        Peer::Direct,
        Peer::Haproxy,
        Peer::HaproxySplice,
        Peer::Nginx,
        Peer::Pgbouncer,
        Peer::PgvaneBase,
        Peer::Pgvane,
    ];

    pub(super) fn name(self) -> &'static str {
        match self {
            Peer::Direct => "direct",
            Peer::Haproxy => "haproxy",
            Peer::HaproxySplice => "haproxy-splice",
            Peer::Nginx => "nginx",
            Peer::Pgbouncer => "pgbouncer",
            Peer::Pgvane => "pgvane",
            Peer::PgvaneBase => "pgvane-base",
        }
    }

    /// Whether it follows a cluster in etcd.
    pub(super) fn is_ours(self) -> bool {
        matches!(self, Peer::Pgvane | Peer::PgvaneBase)
    }

    /// Whether it is one to be beaten.
    pub(super) fn is_rival(self) -> bool {
        !matches!(self, Peer::Direct | Peer::Pgvane | Peer::PgvaneBase)
    }
}

/// The arguments.
#[derive(Clone, Debug, clap::Args)]
pub struct Options {
    /// Short windows and few rounds: under five minutes once everything is built.
    #[arg(long)]
    quick: bool,
    /// Only workloads whose names start so: `pgbench-prepared-16`, `bulk`, `pingpong`, ...
    #[arg(long, value_name = "WORKLOAD", value_delimiter = ',')]
    pub only: Vec<String>,
    /// Only these.
    #[arg(long, value_name = "PEER", value_delimiter = ',')]
    pub peers: Vec<Peer>,
    /// How often everything is measured.
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u32).range(1..=100))]
    rounds: Option<u32>,
    /// How long each measurement lasts.
    #[arg(long, value_name = "S", value_parser = clap::value_parser!(u32).range(1..=600))]
    seconds: Option<u32>,
    /// Print one JSON object on standard output, and nothing else there.
    #[arg(long)]
    pub json: bool,
}

impl Options {
    pub(super) fn rounds(&self) -> u32 {
        self.rounds.unwrap_or(if self.quick { QUICK_ROUNDS } else { ROUNDS })
    }

    pub(super) fn seconds(&self) -> u32 {
        self.seconds.unwrap_or(if self.quick { QUICK_SECONDS } else { SECONDS })
    }

    pub(super) fn wants(&self, peer: Peer) -> bool {
        self.peers.is_empty() || self.peers.contains(&peer)
    }
}
