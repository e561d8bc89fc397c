//! Effects of synchronous replication, as `enact::sync` and `postgres::standby_names` have them.

use std::time::Duration;

use pgvane_agent::decide::Outcome;
use pgvane_agent::decide::sync::{InForce, Over, names_to_start};
use pgvane_agent::decide::world::Slot;
use pgvane_cluster::ids::{Epoch, Lsn, Revision};
use pgvane_cluster::keyspace::Key;
use pgvane_cluster::records::SyncRecord;
use pgvane_cluster::store::{Compare, Txn, Write};

use crate::agent::tell;
use crate::effects::{Ctx, Order};
use crate::pg_effects::{Done, Failed};
use crate::replication::{self, Names};
use crate::runtime::MS;

/// As in production.
const IN_FORCE_WITHIN: Duration = Duration::from_secs(2);
const SEEN_WITHIN: Duration = Duration::from_secs(1);

impl Ctx<'_> {
    pub(crate) async fn write_sync_key(&self, epoch: Epoch, record: &SyncRecord, over: Over) -> Vec<Outcome> {
        let key = self.path(&Key::Sync);
        let mut when = self.reign(epoch);
        match over {
            Over::Nothing => when.push(Compare::Absent(key.clone())),
            Over::Revision(revision) => when.push(Compare::ModRevisionIs(key.clone(), revision)),
            Over::Garbage => {}
        }
        let done = self.change(Txn { when, then: vec![Write::Put(key, record.to_json(), None)] }).await;
        let written = done.map(|revision| Outcome::SyncKeyWritten { epoch, revision });
        ended(written)
    }

    pub(crate) async fn delete_sync_key(&self, epoch: Epoch, revision: Revision) -> Vec<Outcome> {
        let key = self.path(&Key::Sync);
        let mut when = self.reign(epoch);
        when.push(Compare::ModRevisionIs(key.clone(), revision));
        match self.change(Txn { when, then: vec![Write::Delete(key)] }).await {
            Some(_) => vec![Outcome::Done(Slot::SyncKey)],
            None => ended(None),
        }
    }

    async fn change(&self, txn: Txn) -> Option<Revision> {
        let outcome = self.txn(txn).await.ok()?;
        self.seen(outcome).await;
        outcome.succeeded.then_some(outcome.revision)
    }

    pub(crate) async fn set_standby_names(
        &self,
        names: Option<&str>,
        epoch: Option<Epoch>,
        prove: bool,
    ) -> Vec<Outcome> {
        match self.put_in_force(names.unwrap_or_default(), prove).await {
            Ok(flushed) => {
                let value = InForce { names: names.map(str::to_owned), noted: epoch.zip(flushed) };
                vec![Outcome::StandbyNamesSet(value), Outcome::Done(Slot::StandbyNames)]
            }
            Err(Failed) => vec![Outcome::StandbyNamesUnknown, Outcome::Failed(Slot::StandbyNames)],
        }
    }

    async fn put_in_force(&self, names: &str, prove: bool) -> Done<Option<Lsn>> {
        self.hold(Some(names));
        self.pause(MS / 5, 2 * MS).await;
        let pid = self.sim.w().nodes[self.n].pg.pid().ok_or(Failed)?;
        replication::reload(self.sim, self.n, pid);
        self.await_server(pid, IN_FORCE_WITHIN, |pg| pg.in_force == names).await?;
        // The new connection.
        self.pause(MS / 5, 3 * MS).await;
        let flushed = self.flushed(pid)?;
        if !prove {
            return Ok(flushed);
        }
        // A commit that waits, or in recovery a checkpointer that has read its configuration.
        let read = Names::read(names);
        let has_read = |server: &Names| {
            if flushed.is_some() { !server.is_empty() } else { *server == read }
        };
        let is_proved =
            |pg: &crate::postgres::Postgres| pg.server.as_ref().is_some_and(|s| has_read(&s.names));
        self.await_server(pid, SEEN_WITHIN, is_proved).await?;
        self.pause(MS / 5, 3 * MS).await;
        self.flushed(pid)
    }

    /// Waits for something of the server `pid`.
    async fn await_server(
        &self,
        pid: i32,
        limit: Duration,
        is_so: impl Fn(&crate::postgres::Postgres) -> bool,
    ) -> Done {
        let signal = self.sim.w().nodes[self.n].pg.acknowledged.clone();
        let reached = self.sim.until(&signal, || is_so(&self.sim.w().nodes[self.n].pg));
        self.sim.timeout(self.proc, limit, reached).await.ok_or(Failed)?;
        (self.sim.w().nodes[self.n].pg.pid() == Some(pid)).then_some(()).ok_or(Failed)
    }

    /// Where the WAL of a primary ends, by its word.
    fn flushed(&self, pid: i32) -> Done<Option<Lsn>> {
        let w = self.sim.w();
        let pg = &w.nodes[self.n].pg;
        let server = pg.server.as_ref().filter(|s| s.pid == pid && s.ready && !s.stopping);
        let frozen = server.is_some_and(|s| self.sim.is_frozen(s.proc));
        let server = server.filter(|_| !frozen).ok_or(Failed)?;
        Ok((!server.in_recovery).then_some(Lsn(pg.flushed)))
    }

    /// The value in the file, from now on `names`; `None`: what this agent holds, or finds.
    pub(crate) fn hold(&self, names: Option<&str>) {
        let file = self.sim.w().nodes[self.n].pg.file.clone();
        let held = tell(self.sim, self.n, self.proc, |agent, _| {
            if let Some(names) = names {
                agent.held_names = Some(names.to_owned());
            }
            agent.held_names.get_or_insert(file).clone()
        });
        if let Some(held) = held {
            self.sim.w().nodes[self.n].pg.file = held;
        }
    }

    /// The configuration of a server that is about to be started as a primary has the value that its first commit
    /// must find.
    pub(crate) fn hold_to_start(&self, order: &Order) {
        self.hold(None);
        let Some(view) = order.view.as_ref() else { return };
        let now = self.sim.w().nodes[self.n].pg.file.clone();
        let me = crate::agent::name(self.n);
        let names = names_to_start(view, &me, &order.settings, &now).unwrap_or_default();
        self.hold(Some(&names));
    }
}

fn ended(written: Option<Outcome>) -> Vec<Outcome> {
    match written {
        Some(written) => vec![written, Outcome::Done(Slot::SyncKey)],
        None => vec![Outcome::Failed(Slot::SyncKey)],
    }
}
