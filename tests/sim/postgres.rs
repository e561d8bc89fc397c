//! One node's PostgreSQL: its data directory, and what a running server tells of itself.
//!
//! A timeline is known to PostgreSQL by its number only. The model also gives each promotion a `branch` of its
//! own, so that the checker can tell two timelines of one number apart.

use pgvane_agent::decide::world::{Control, DataDir};
use pgvane_agent::postgres::controldata::ControlData;
use pgvane_agent::postgres::probe::{SqlView, Walsender};
use pgvane_agent::postgres::rewind::LeaderHistory;
use pgvane_cluster::clock::Tick;
use pgvane_cluster::ids::{Lsn, Timeline};
use pgvane_cluster::records::HistoryEntry;
use pgvane_cluster::reigns::{Descent, Reign};

use crate::replication::{Names, Sender};
use crate::runtime::{Proc, Signal, SignalMaker};
use crate::wal::{CHECKPOINT, COMMIT, FIRST, Past, Wal};

/// The system identifier of the cluster's first data.
pub(crate) const SYSTEM: &str = "7300000000000000001";

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

/// How a server is told to stop.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Stop {
    Fast,
    Immediate,
    Kill,
}

/// The server that a standby streams from.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) struct Stream {
    pub(crate) from: usize,
    pub(crate) pid: i32,
    /// When something last came.
    pub(crate) last: u64,
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
    /// How many faults have its processes stopped.
    pub(crate) frozen: u32,
    pub(crate) upstream: Option<usize>,
    pub(crate) stream: Option<Stream>,
    /// Standby: how far it has replayed, and whether it has streamed since it started.
    pub(crate) replayed: u64,
    pub(crate) has_streamed: bool,
    /// Who streams from here.
    pub(crate) senders: Vec<Sender>,
    /// What its backends know of `synchronous_standby_names`.
    pub(crate) names: Names,
    /// Up to where the named standbys have confirmed.
    pub(crate) confirmed: u64,
}

/// One node's PostgreSQL.
pub(crate) struct Postgres {
    pub(crate) data: Data,
    pub(crate) state: State,
    pub(crate) standby_signal: bool,
    /// What was written. A standby's disk may have less of it.
    pub(crate) wal: Wal,
    /// Up to where the WAL outlives a loss of power.
    pub(crate) flushed: u64,
    /// The last checkpoint.
    pub(crate) checkpoint: u64,
    pub(crate) checkpoint_timeline: u32,
    pub(crate) min_recovery: u64,
    /// `synchronous_standby_names` as it stands in the file.
    pub(crate) file: String,
    /// The same as the postmaster has read it.
    pub(crate) in_force: String,
    pub(crate) server: Option<Server>,
    /// Raised whenever the server changes.
    pub(crate) changed: Signal,
    /// Raised whenever commits may have been confirmed.
    pub(crate) acknowledged: Signal,
    pub(crate) pids: i32,
    /// What is known of the timelines, as the agent's file in the data directory says.
    pub(crate) descent: Descent,
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
            wal: Wal::first(),
            flushed: FIRST,
            checkpoint: FIRST - CHECKPOINT,
            checkpoint_timeline: 1,
            min_recovery: FIRST,
            file: String::new(),
            in_force: String::new(),
            server: None,
            changed: maker.make(),
            acknowledged: maker.make(),
            pids: 100,
            descent: Descent::default(),
            promising: None,
        }
    }

    pub(crate) fn pid(&self) -> Option<i32> {
        self.server.as_ref().map(|s| s.pid)
    }

    /// The running server `pid`.
    pub(crate) fn running(&mut self, pid: i32) -> Option<&mut Server> {
        self.server.as_mut().filter(|s| s.pid == pid)
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
        let standby = |lsn: u64| server.in_recovery.then_some(Lsn(lsn));
        Some(SqlView {
            asked_at,
            in_recovery: server.in_recovery,
            timeline: Timeline(self.wal.timeline),
            checkpoint_timeline: Some(Timeline(self.checkpoint_timeline)),
            receives: None,
            flushed: (!server.in_recovery).then_some(Lsn(self.wal.end)),
            received: standby(self.flushed).filter(|_| server.has_streamed),
            replayed: standby(server.replayed),
            replayed_at: None,
            replay_paused: false,
            streaming: server.stream.is_some(),
            upstream: server.upstream.filter(|_| server.in_recovery).map(|n| (host(n), 5432)),
            started_at: String::new(),
            started_epoch: 0.0,
            version: 150_006,
            held: vec![],
            latest_end: None,
            restores: false,
            replication: self.walsenders(server),
            standby_names: self.in_force.clone(),
            synchronous_commit: "on".to_owned(),
            slots: vec![],
        })
    }

    fn walsenders(&self, server: &Server) -> Vec<Walsender> {
        let names = Names::read(&self.in_force);
        let row = |s: &Sender| Walsender {
            usename: "replicator".to_owned(),
            application_name: host(s.node),
            client_addr: None,
            state: if s.streams { "streaming" } else { "catchup" }.to_owned(),
            sync_state: names.state_of(s, &server.senders).to_owned(),
            sync_priority: s.names.priority(s.node),
            pid: i32::try_from(s.node).unwrap_or(0),
            connected_epoch: 0.0,
            written: Lsn(s.flushed.unwrap_or(0)),
            flushed: Lsn(s.flushed.unwrap_or(0)),
            replayed: Lsn(s.flushed.unwrap_or(0)),
        };
        server.senders.iter().map(row).collect()
    }

    /// Makes this data what a server with this WAL and configuration has.
    pub(crate) fn copy(&mut self, source: &Wal, file: String) {
        self.file = file;
        self.data = Data::Present;
        self.state = State::Recovery;
        self.standby_signal = true;
        self.wal = source.clone();
        self.flushed = source.end;
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

    /// A commit that is on the disk here; where it is in the WAL.
    pub(crate) fn commit(&mut self) -> Option<(u64, u64)> {
        self.server.as_ref().filter(|s| s.writable)?;
        self.wal.end += COMMIT;
        self.flushed = self.wal.end;
        Some((self.wal.branch, self.wal.end))
    }

    pub(crate) fn write_checkpoint(&mut self) {
        self.checkpoint = self.wal.end;
        self.checkpoint_timeline = self.wal.timeline;
        if self.server.as_ref().is_some_and(|s| !s.in_recovery) {
            self.wal.end += CHECKPOINT;
            self.flushed = self.wal.end;
        }
    }

    /// What the disk still has after a loss of power.
    pub(crate) fn lose_power(&mut self) {
        self.wal.cut(self.flushed);
        self.min_recovery = self.min_recovery.min(self.wal.end);
    }
}

/// The host of a node.
pub(crate) fn host(n: usize) -> String {
    format!("pg{}", n + 1)
}
