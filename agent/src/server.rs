//! What is known of the local PostgreSQL between two looks at it: the facts a decision is made from.

use std::collections::BTreeMap;

use pgvane_cluster::clock::Tick;
use pgvane_cluster::records::{MemberRecord, MemberRole};
use pgvane_cluster::settings::PostgresqlSettings;
use serde_json::Value;

use crate::api::{LocalPostgres, ServerAnswer, Wal, Walsender, patroni_time};
use crate::decide::restart::Facts;
use crate::decide::sync::choose::{Confirms, Replication, Standby, SyncState};
use crate::decide::world::{DataDir, Guard, Local, LocalRole, Ongoing, Process, Slot, Sql};
use crate::event::ServerEvent;
use crate::postgres::probe::{self, ProbeError, SqlView};
use crate::postgres::{Instance, pending};

/// The facts.
#[derive(Debug)]
pub struct ServerState {
    /// The data directory.
    pub data: DataDir,
    /// The process.
    pub process: Process,
    /// Its id, while one runs.
    pub pid: Option<i32>,
    /// Whether it may accept writes.
    pub role: LocalRole,
    /// The last answer of the running server.
    pub view: Option<SqlView>,
}

impl ServerState {
    /// No server; `data` as found.
    pub fn absent(data: DataDir) -> ServerState {
        ServerState { data, process: Process::Absent, pid: None, role: LocalRole::Unknown, view: None }
    }

    /// Whether it may accept writes, as far as is known.
    pub fn may_write(&self) -> bool {
        self.process != Process::Absent && self.role != LocalRole::Standby
    }

    /// Takes in a change of the process. Answers whether the server ended.
    pub fn absorb(&mut self, now: Tick, event: &ServerEvent) -> bool {
        match event {
            ServerEvent::Spawned { postmaster, as_primary } => {
                self.process = Process::Starting { since: now };
                self.pid = Some(postmaster.pid());
                self.role = if *as_primary { LocalRole::Primary } else { LocalRole::Standby };
                self.view = None;
            }
            ServerEvent::Ready => {
                if let Process::Starting { .. } = self.process {
                    self.process = Process::Running;
                }
            }
            // From here on it may accept writes, whatever it answers.
            ServerEvent::Promoting => self.role = LocalRole::Primary,
            ServerEvent::Stopping => {
                if self.process != Process::Absent {
                    self.process = Process::Stopping;
                }
            }
            ServerEvent::Gone { pid } => {
                if self.pid != Some(*pid) {
                    return false;
                }
                *self = ServerState::absent(self.data.clone());
                return true;
            }
        }
        false
    }

    /// Takes in an answer. A server that does not answer keeps the role it had (trap 12: slow SQL is not a
    /// dead primary); one that was told to promote counts as a primary until its effect has ended, and not before:
    /// `pre_promote` may still forbid it.
    pub fn probed(&mut self, answer: Result<SqlView, ProbeError>, promoting: bool) {
        let Ok(view) = answer else { return };
        if let Process::Starting { .. } = self.process {
            self.process = Process::Running;
        }
        if self.process == Process::Absent {
            return;
        }
        self.role = role_by(view.in_recovery, promoting, self.role);
        self.view = Some(view);
    }

    /// The facts as a decision wants them.
    pub fn local(&self, guard: Guard, ongoing: BTreeMap<Slot, Ongoing>) -> Local {
        let running = self.process == Process::Running;
        let sql = self.view.as_ref().filter(|_| running).map(|view| Sql {
            asked_at: view.asked_at,
            in_recovery: view.in_recovery,
            timeline: view.timeline,
            position: view.position(),
            received: view.received,
            replayed: view.replayed,
            checkpointed: view.checkpoint_timeline,
            streaming: view.streaming,
            upstream: view.upstream.clone(),
            replication: replication(view),
        });
        Local { data: self.data.clone(), process: self.process, role: self.role, sql, ongoing, guard }
    }

    /// The facts as the API shows them.
    pub fn api(&self, record: &MemberRecord) -> LocalPostgres {
        let system_identifier = match &self.data {
            DataDir::Present(control) => Some(control.system_identifier.clone()),
            DataDir::Absent | DataDir::Spoiled | DataDir::Unreadable(_) => None,
        };
        let answer = self.view.as_ref().filter(|_| self.process == Process::Running).map(server_answer);
        LocalPostgres {
            state: record.state.clone(),
            role: record.role.clone(),
            asked_at: self.view.as_ref().filter(|_| answer.is_some()).map(|v| v.asked_at),
            answer,
            system_identifier,
        }
    }

    /// Settings that wait for a restart, as the contract shows them.
    pub fn pending_restart(&self, instance: &Instance, dynamic: &PostgresqlSettings) -> Option<Value> {
        let view = self.view.as_ref().filter(|_| self.process == Process::Running)?;
        let changes = pending::changes(&view.held, instance, dynamic);
        // A map of texts cannot fail to become JSON.
        (!changes.is_empty()).then(|| serde_json::to_value(&changes).ok())?
    }

    /// What conditions of a restart are compared with.
    pub fn facts(&self, role: &MemberRole, pending: bool) -> Facts {
        let view = self.view.as_ref().filter(|_| self.process == Process::Running);
        Facts {
            role: role.as_str().to_owned(),
            server_version: view.and_then(|v| u32::try_from(v.version).ok()).unwrap_or(0),
            pending,
            started_at: view.map(|v| patroni_time(&v.started_at)),
        }
    }

    /// How a standby gets its WAL, in the contract's words.
    pub fn replication_state(&self) -> Option<&'static str> {
        replication_state(self.view.as_ref()?)
    }
}

fn role_by(in_recovery: bool, promoting: bool, before: LocalRole) -> LocalRole {
    match (in_recovery, promoting) {
        (false, _) => LocalRole::Primary,
        // Standby, until it is about to be told.
        (true, true) if before == LocalRole::Primary => LocalRole::Primary,
        (true, _) => LocalRole::Standby,
    }
}

fn replication_state(view: &SqlView) -> Option<&'static str> {
    match (view.in_recovery, view.streaming, view.restores) {
        (true, true, _) => Some("streaming"),
        (true, false, true) => Some("in archive recovery"),
        (true, false, false) | (false, ..) => None,
    }
}

fn replication(view: &SqlView) -> Replication {
    let standby = |w: &probe::Walsender| Standby {
        name: w.application_name.clone(),
        streaming: w.state == "streaming",
        sync: SyncState::by(&w.sync_state),
        write: w.written,
        flush: w.flushed,
        replay: w.replayed,
    };
    Replication {
        names: view.standby_names.clone(),
        confirms: Confirms::by(&view.synchronous_commit),
        standbys: view.replication.iter().map(standby).collect(),
    }
}

fn server_answer(view: &SqlView) -> ServerAnswer {
    let wal = if view.in_recovery {
        Wal::Standby {
            received: view.received.unwrap_or_default(),
            replayed: view.replayed.unwrap_or_default(),
            replayed_timestamp: view.replayed_at.clone(),
            paused: view.replay_paused,
            replication_state: replication_state(view).map(str::to_owned),
            latest_end: view.latest_end,
        }
    } else {
        Wal::Primary { location: view.flushed.unwrap_or_default() }
    };
    let walsender = |w: &probe::Walsender| Walsender {
        usename: Some(w.usename.clone()),
        application_name: w.application_name.clone(),
        client_addr: w.client_addr.clone(),
        state: Some(w.state.clone()),
        sync_state: Some(w.sync_state.clone()),
        sync_priority: Some(w.sync_priority),
    };
    ServerAnswer {
        server_version: u32::try_from(view.version).unwrap_or(0),
        postmaster_start_time: Some(view.started_at.clone()),
        timeline: Some(view.timeline),
        wal,
        replication: view.replication.iter().map(walsender).collect(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_standby_is_one_until_it_is_told_to_promote() {
        use LocalRole::{Primary, Standby, Unknown};
        for before in [Primary, Standby, Unknown] {
            assert_eq!(role_by(false, false, before), Primary);
            assert_eq!(role_by(false, true, before), Primary);
            assert_eq!(role_by(true, false, before), Standby);
        }
        assert_eq!(role_by(true, true, Standby), Standby, "pre_promote runs");
        assert_eq!(role_by(true, true, Unknown), Standby);
        assert_eq!(role_by(true, true, Primary), Primary, "the order is out");
    }
}
