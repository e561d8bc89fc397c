//! The list of workloads, who takes part in each, and how one is run.

use std::time::Duration;

use super::encryption;
use super::figures::Sample;
use super::line::Line;
use super::load::bulk::{self, Direction};
use super::load::pgbench::{self, Talk};
use super::load::{churn, copy, leader, memory, ping_pong};
use super::options::{Options, Peer};
use super::stage::Stage;

/// Threads that connect and close.
const CHURNING: u32 = 8;

/// What every step beyond the measurement itself may take in all.
const MARGIN: Duration = Duration::from_mins(3);

/// One kind of load.
#[derive(Clone, Copy, Debug)]
pub(super) struct Workload {
    pub(super) name: &'static str,
    pub(super) title: &'static str,
    load: Load,
}

#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Load {
    Pgbench(Talk),
    Churn,
    TlsChurn,
    Bulk(Direction, u32),
    TlsBulk(Direction, u32),
    Copy(Direction),
    PingPong(usize),
    Memory,
    Leader,
}

const fn pgbench(mode: &'static str, clients: u32) -> Load {
    Load::Pgbench(Talk { mode, clients, reconnect: false, encrypted: false })
}

const fn workload(name: &'static str, title: &'static str, load: Load) -> Workload {
    Workload { name, title, load }
}

/// All of them, in the order of the report.
pub(super) const ALL: &[Workload] = &[
    workload("pgbench-prepared-1", "pgbench -S -M prepared, 1 client", pgbench("prepared", 1)),
    workload("pgbench-prepared-8", "pgbench -S -M prepared, 8 clients", pgbench("prepared", 8)),
    workload("pgbench-prepared-16", "pgbench -S -M prepared, 16 clients", pgbench("prepared", 16)),
    workload("pgbench-prepared-64", "pgbench -S -M prepared, 64 clients", pgbench("prepared", 64)),
    workload("pgbench-simple-16", "pgbench -S -M simple, 16 clients", pgbench("simple", 16)),
    workload(
        "reconnect",
        "pgbench -S -C, 8 clients: a connection per transaction",
        Load::Pgbench(Talk { mode: "simple", clients: 8, reconnect: true, encrypted: false }),
    ),
    workload("churn", "connect, start, terminate on the stub, 8 threads", Load::Churn),
    workload("bulk-out-1", "bulk from the stub, 1 stream", Load::Bulk(Direction::Out, 1)),
    workload("bulk-out-4", "bulk from the stub, 4 streams", Load::Bulk(Direction::Out, 4)),
    workload("bulk-in-1", "bulk to the stub, 1 stream", Load::Bulk(Direction::In, 1)),
    workload("bulk-in-4", "bulk to the stub, 4 streams", Load::Bulk(Direction::In, 4)),
    workload("copy-out", "COPY TO STDOUT of PostgreSQL, 1 stream", Load::Copy(Direction::Out)),
    workload("copy-in", "COPY FROM STDIN of PostgreSQL, 1 stream", Load::Copy(Direction::In)),
    workload("pingpong-1", "100 bytes there and back, 1 session", Load::PingPong(1)),
    workload("pingpong-8", "100 bytes there and back, 8 sessions", Load::PingPong(8)),
    workload("pingpong-64", "100 bytes there and back, 64 sessions", Load::PingPong(64)),
    workload("tls-churn", "TLS ends in the peer: handshake, start, terminate, 8 threads", Load::TlsChurn),
    workload(
        "tls-bulk-out-1",
        "TLS ends in the peer: bulk from the stub, 1 stream",
        Load::TlsBulk(Direction::Out, 1),
    ),
    workload(
        "tls-bulk-in-1",
        "TLS ends in the peer: bulk to the stub, 1 stream",
        Load::TlsBulk(Direction::In, 1),
    ),
    workload(
        "tls-pgbench-16",
        "TLS ends in the peer: pgbench -S -M prepared, 16 clients",
        Load::Pgbench(Talk { mode: "prepared", clients: 16, reconnect: false, encrypted: true }),
    ),
    workload(
        "memory",
        "idle sessions on the stub: user memory of the peer, TCP memory of the kernel",
        Load::Memory,
    ),
    workload("leader", "the leader changes, 5,000 sessions open", Load::Leader),
];

impl Workload {
    pub(super) fn is_wanted(&self, options: &Options) -> bool {
        options.only.is_empty() || options.only.iter().any(|prefix| self.name.starts_with(prefix.as_str()))
    }

    /// Whether `peer` can do it, and would be used for it.
    pub(super) fn suits(&self, peer: Peer) -> bool {
        let is_real = matches!(self.load, Load::Pgbench(_) | Load::Copy(_));
        if self.ends_tls() {
            return match peer {
                Peer::Pgvane | Peer::PgvaneBase => true,
                // It cannot be asked for TLS as PostgreSQL's clients of today ask.
                Peer::Haproxy => !is_real,
                Peer::Pgbouncer => is_real,
                // The server would end TLS, or nobody would.
                Peer::Direct | Peer::HaproxySplice | Peer::Nginx => false,
            };
        }
        match peer {
            Peer::Pgvane | Peer::PgvaneBase | Peer::Haproxy => true,
            Peer::Direct | Peer::Nginx => self.load != Load::Leader,
            Peer::HaproxySplice => matches!(self.load, Load::Bulk(..) | Load::Copy(_)),
            // The stub is no server that a pooler would keep connections to.
            Peer::Pgbouncer => is_real,
        }
    }

    fn ends_tls(&self) -> bool {
        match self.load {
            Load::TlsChurn | Load::TlsBulk(..) => true,
            Load::Pgbench(talk) => talk.encrypted,
            _ => false,
        }
    }

    /// Runs it once through `peer`.
    pub(super) async fn run(
        &self,
        stage: &mut Stage,
        peer: Peer,
        length: Duration,
    ) -> Result<Sample, String> {
        let limit = length + MARGIN;
        let done = tokio::time::timeout(limit, self.run_unbounded(stage, peer, length)).await;
        done.unwrap_or_else(|_| Err(format!("not done after {} s", limit.as_secs())))
    }

    async fn run_unbounded(&self, stage: &mut Stage, peer: Peer, length: Duration) -> Result<Sample, String> {
        if self.load == Load::Leader {
            return leader::run(stage, peer).await;
        }
        let stub = match self.load {
            Load::Pgbench(_) | Load::Copy(_) => None,
            _ => Some(stage.stub(1).await?),
        };
        let server = stub.as_ref().map_or(stage.postgres, |(address, _)| *address);
        let tls = if self.ends_tls() { Some(encryption::make(stage)?) } else { None };
        let line = Line::start(stage, peer, server, tls.as_ref()).await?;
        let encryption = tls.map(|(_, encryption)| encryption);
        let (address, meter) = (line.address, line.meter());
        let sample = match self.load {
            Load::Pgbench(talk) => pgbench::run(stage, address, meter, talk, length).await,
            Load::Churn | Load::TlsChurn => churn::run(address, meter, CHURNING, encryption, length).await,
            Load::Bulk(direction, streams) | Load::TlsBulk(direction, streams) => {
                bulk::run(address, meter, direction, streams, encryption, length).await
            }
            Load::Copy(direction) => copy::run(stage, address, meter, direction, length).await,
            Load::PingPong(sessions) => ping_pong::run(address, meter, sessions, length).await,
            Load::Memory => memory::run(address, meter, peer != Peer::Direct).await,
            Load::Leader => Err("has two servers".to_owned()),
        };
        line.stop().await;
        if let Some((_, held)) = stub {
            held.stop().await;
        }
        sample
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use super::*;

    #[test]
    fn names_are_unique_and_ours_takes_part_in_all() {
        let names: BTreeSet<_> = ALL.iter().map(|workload| workload.name).collect();
        assert_eq!(names.len(), ALL.len());
        assert!(ALL.iter().all(|workload| workload.suits(Peer::Pgvane)));
    }
}
