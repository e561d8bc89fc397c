//! A PostgreSQL: WAL as positions on timelines, a server that starts, stops, promotes, crashes, streams.
//!
//! A timeline is known to PostgreSQL by its number only. The model also gives each promotion a `branch` of its
//! own, so that the checker can tell two timelines of one number apart.

use pgvane_agent::decide::world::{Control, DataDir};
use pgvane_agent::postgres::controldata::ControlData;
use pgvane_agent::postgres::probe::SqlView;
use pgvane_agent::postgres::rewind::LeaderHistory;
use pgvane_cluster::clock::Tick;
use pgvane_cluster::ids::{Lsn, Timeline};
use pgvane_cluster::records::HistoryEntry;
use pgvane_cluster::reigns::{Reign, Reigns};

use crate::runtime::{Proc, Signal, SignalMaker};

/// The system identifier of the cluster's first data.
pub(crate) const SYSTEM: &str = "7300000000000000001";

/// Bytes of one commit, and of a checkpoint record.
pub(crate) const COMMIT: u64 = 100;
const CHECKPOINT: u64 = 112;

/// What pg_control says of the last run.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum State {
    Production,
    ShutDown,
    Recovery,
    ShutDownInRecovery,
}

/// Whether there is a data directory.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Data {
    Absent,
    Spoiled,
    Present,
}

/// A timeline that ended, and where.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) struct Past {
    pub(crate) timeline: u32,
    pub(crate) branch: u64,
    pub(crate) end: u64,
}

/// The WAL that a data directory holds.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(crate) struct Wal {
    pub(crate) past: Vec<Past>,
    pub(crate) timeline: u32,
    pub(crate) branch: u64,
    pub(crate) end: u64,
}

impl Wal {
    /// Whether WAL up to `at` of `branch` is part of this.
    pub(crate) fn holds(&self, branch: u64, at: u64) -> bool {
        let past = self.past.iter().find(|p| p.branch == branch).map(|p| p.end);
        past.or((self.branch == branch).then_some(self.end)).is_some_and(|end| at <= end)
    }

    /// Whether PostgreSQL would stream this to a standby that has `theirs`: it compares numbers.
    pub(crate) fn can_feed(&self, theirs: &Wal) -> bool {
        if theirs.timeline == self.timeline {
            return theirs.end <= self.end;
        }
        self.past.iter().any(|p| p.timeline == theirs.timeline && theirs.end <= p.end)
    }
}

/// How a server is told to stop.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Stop {
    Fast,
    Immediate,
    Kill,
}

/// A running server.
pub(crate) struct Server {
    pub(crate) pid: i32,
    pub(crate) proc: Proc,
    /// Accepts connections.
    pub(crate) ready: bool,
    pub(crate) in_recovery: bool,
    /// A clean stop is under way: nobody gets in any more.
    pub(crate) stopping: bool,
    pub(crate) writable: bool,
    pub(crate) promoting: bool,
    pub(crate) upstream: Option<usize>,
    /// The server this one streams from, and when something last came.
    pub(crate) streams: Option<(usize, i32, u64)>,
}

/// One node's PostgreSQL.
pub(crate) struct Postgres {
    pub(crate) data: Data,
    pub(crate) state: State,
    pub(crate) standby_signal: bool,
    pub(crate) wal: Wal,
    /// The last checkpoint.
    pub(crate) checkpoint: u64,
    pub(crate) checkpoint_timeline: u32,
    pub(crate) min_recovery: u64,
    pub(crate) server: Option<Server>,
    /// Raised whenever the server changes.
    pub(crate) changed: Signal,
    pub(crate) pids: i32,
    /// Who began the timelines, as the agent's file in the data directory says.
    pub(crate) known: Reigns,
    /// A promotion that was noted, and the timeline it is to end.
    pub(crate) promising: Option<(Reign, u32)>,
}

impl Postgres {
    /// Data of the first cluster, never started; or none.
    pub(crate) fn new(maker: &SignalMaker, data: Data, standby: bool) -> Postgres {
        Postgres {
            data,
            state: if standby { State::ShutDownInRecovery } else { State::ShutDown },
            standby_signal: standby,
            wal: Wal { past: vec![], timeline: 1, branch: 1, end: 0x300_0000 },
            checkpoint: 0x300_0000 - CHECKPOINT,
            checkpoint_timeline: 1,
            min_recovery: 0x300_0000,
            server: None,
            changed: maker.make(),
            pids: 100,
            known: Reigns::default(),
            promising: None,
        }
    }

    pub(crate) fn pid(&self) -> Option<i32> {
        self.server.as_ref().map(|s| s.pid)
    }

    /// What an agent finds that looks at the directory.
    pub(crate) fn look(&self) -> DataDir {
        match self.data {
            Data::Absent => DataDir::Absent,
            Data::Spoiled => DataDir::Spoiled,
            Data::Present => DataDir::Present(Control {
                system_identifier: SYSTEM.to_owned(),
                clean: matches!(self.state, State::ShutDown | State::ShutDownInRecovery),
                standby: self.standby_signal,
                timeline: Timeline(self.checkpoint_timeline),
                checkpoint: Lsn(self.checkpoint),
            }),
        }
    }

    /// pg_control, as far as a comparison of histories needs it.
    pub(crate) fn control(&self) -> ControlData {
        let state = match self.state {
            State::Production => "in production",
            State::ShutDown => "shut down",
            State::Recovery => "in archive recovery",
            State::ShutDownInRecovery => "shut down in recovery",
        };
        let standby = matches!(self.state, State::Recovery | State::ShutDownInRecovery);
        ControlData {
            system_identifier: SYSTEM.to_owned(),
            state: state.to_owned(),
            checkpoint: Lsn(self.checkpoint),
            timeline: Timeline(self.checkpoint_timeline),
            min_recovery: Lsn(if standby { self.min_recovery } else { 0 }),
            min_recovery_timeline: Timeline(if standby { self.wal.timeline } else { 0 }),
            checksums: true,
            wal_log_hints: true,
            floors: vec![],
        }
    }

    /// What a leader tells of its history.
    pub(crate) fn history(&self) -> LeaderHistory {
        LeaderHistory {
            timeline: Timeline(self.wal.timeline),
            checkpointed: Timeline(self.checkpoint_timeline),
            ended: self.entries(),
        }
    }

    pub(crate) fn entries(&self) -> Vec<HistoryEntry> {
        let entry = |p: &Past| HistoryEntry {
            timeline: Timeline(p.timeline),
            switch_lsn: Lsn(p.end),
            reason: String::new(),
            timestamp: None,
            new_leader: None,
        };
        self.wal.past.iter().map(entry).collect()
    }

    /// The server's answer to the probe; `None` while it accepts no connections.
    pub(crate) fn sql(&self, asked_at: Tick) -> Option<SqlView> {
        let server = self.server.as_ref().filter(|s| s.ready && !s.stopping)?;
        let standby = server.in_recovery.then_some(Lsn(self.wal.end));
        Some(SqlView {
            asked_at,
            in_recovery: server.in_recovery,
            timeline: Timeline(self.wal.timeline),
            checkpoint_timeline: Some(Timeline(self.checkpoint_timeline)),
            receives: None,
            flushed: (!server.in_recovery).then_some(Lsn(self.wal.end)),
            received: standby,
            replayed: standby,
            replayed_at: None,
            replay_paused: false,
            streaming: server.streams.is_some(),
            upstream: server.upstream.filter(|_| server.in_recovery).map(|n| (host(n), 5432)),
            started_at: String::new(),
            started_epoch: 0.0,
            version: 150_006,
            held: vec![],
            latest_end: None,
            restores: false,
            replication: vec![],
            slots: vec![],
        })
    }

    /// Makes this data what `source` has.
    pub(crate) fn copy(&mut self, source: &Wal) {
        self.data = Data::Present;
        self.state = State::Recovery;
        self.standby_signal = true;
        self.wal = source.clone();
        self.min_recovery = source.end;
        self.checkpoint = source.end - CHECKPOINT;
        self.checkpoint_timeline = source.timeline;
    }

    /// Makes this data a new cluster.
    pub(crate) fn initialize(&mut self) {
        self.data = Data::Present;
        self.state = State::ShutDown;
        self.standby_signal = false;
    }

    /// One commit; where it is in the WAL.
    pub(crate) fn commit(&mut self) -> Option<(u64, u64)> {
        let server = self.server.as_ref().filter(|s| s.writable)?;
        let _ = server;
        self.wal.end += COMMIT;
        Some((self.wal.branch, self.wal.end))
    }

    pub(crate) fn write_checkpoint(&mut self) {
        self.checkpoint = self.wal.end;
        self.checkpoint_timeline = self.wal.timeline;
        if self.server.as_ref().is_some_and(|s| !s.in_recovery) {
            self.wal.end += CHECKPOINT;
        }
    }
}

/// The host of a node.
pub(crate) fn host(n: usize) -> String {
    format!("pg{}", n + 1)
}
