//! Effects on PostgreSQL, as `enact::server` has them.

use std::time::Duration;

use pgvane_agent::decide::world::{LocalRole, Process, Slot, Upstream};
use pgvane_agent::decide::{Outcome, Request, action};
use pgvane_agent::event::ServerEvent;
use pgvane_agent::postgres::lineage::Course;
use pgvane_cluster::clock::Tick;
use pgvane_cluster::ids::{Epoch, Lsn};
use pgvane_cluster::keyspace::Key;
use pgvane_cluster::records::{HistoryRecord, MemberState};
use pgvane_cluster::store::{Txn, Write};

use crate::agent::{self, tell};
use crate::chores::{self, server_event};
use crate::effects::{Ctx, Order};
use crate::etcd::node_of;
use crate::fact::Fact;
use crate::network::End;
use crate::postgres::{Data, State, Stop};
use crate::runtime::MS;
use crate::server;
use crate::world::{Mutation, World};

/// As in production.
const PROMOTE_LIMIT: Duration = Duration::from_mins(1);
const HAND_OVER_LIMIT: Duration = Duration::from_mins(1);
const ANNOUNCE_LIMIT: Duration = Duration::from_millis(500);
const ANNOUNCE_LEAD: Duration = Duration::from_millis(10);

/// An effect on PostgreSQL that did not come about.
pub(crate) struct Failed;

pub(crate) type Done<T = ()> = Result<T, Failed>;

impl Ctx<'_> {
    /// The end of an effect that may have changed the data directory.
    pub(crate) fn ended(&self, done: Done) -> Vec<Outcome> {
        let data = self.sim.w().nodes[self.n].pg.look();
        tell(self.sim, self.n, self.proc, |agent, _| agent.server.data = data);
        outcome(done)
    }

    pub(crate) async fn bootstrap(&self) -> Vec<Outcome> {
        self.pause(500 * MS, 2_000 * MS).await;
        self.sim.w().nodes[self.n].pg.initialize();
        self.ended(Ok(()))
    }

    /// Whether the server of `node` can be asked from here.
    pub(crate) fn reaches(&self, node: usize) -> bool {
        let w = self.sim.w();
        let server = w.nodes[node].pg.server.as_ref();
        let there = w.nodes[node].powered
            && server.is_some_and(|s| s.ready && !s.stopping && !self.sim.is_frozen(s.proc));
        there && w.net.replicates(self.n, node) && !w.net.is_cut(End::Node(self.n), End::Node(node))
    }

    pub(crate) async fn clone_from(&self, from: &Upstream) -> Done {
        let source = node_of(from.name.as_str());
        self.sim.w().nodes[self.n].pg.data = Data::Absent;
        self.pause(300 * MS, 1_500 * MS).await;
        if !self.reaches(source) {
            return Err(Failed);
        }
        let mut w = self.sim.w();
        w.count.clones += 1;
        take_over(&mut w, self.n, source);
        w.fact(Fact::Cloned { node: self.n });
        drop(w);
        self.tell_descent();
        Ok(())
    }

    pub(crate) async fn start(
        &self,
        as_primary: bool,
        upstream: Option<&Upstream>,
        until: Option<Tick>,
    ) -> Done {
        self.pause(5 * MS, 30 * MS).await;
        self.in_time(until)?;
        if !as_primary {
            let mut w = self.sim.w();
            let descent = w.nodes[self.n].pg.descent();
            w.nodes[self.n].pg.keep(descent);
            drop(w);
            self.hold(None);
        }
        let upstream = upstream.map(|u| node_of(u.name.as_str()));
        let pid = server::start(self.sim, self.n, as_primary, upstream).ok_or(Failed)?;
        let now = self.sim.tick(self.n);
        tell(self.sim, self.n, self.proc, |agent, _| {
            agent.server.process = Process::Starting { since: now };
            agent.server.pid = Some(pid);
            agent.server.role = if as_primary { LocalRole::Primary } else { LocalRole::Standby };
            agent.server.view = None;
        });
        chores::watch_server(self.sim, self.n, self.proc, pid);
        agent::hurry(self.sim, self.n);
        let changed = self.sim.w().nodes[self.n].pg.changed.clone();
        let state = || {
            let w = self.sim.w();
            let server = w.nodes[self.n].pg.server.as_ref().filter(|s| s.pid == pid);
            server.map(|s| s.ready && !s.stopping)
        };
        self.sim.until(&changed, || state() != Some(false)).await;
        if state().is_none() {
            return Err(Failed);
        }
        self.pause(MS, 10 * MS).await;
        server_event(self.sim, self.n, self.proc, &ServerEvent::Ready, None);
        self.ask().await;
        Ok(())
    }

    /// Whether the right to lead that an effect was decided on still lasts.
    fn in_time(&self, until: Option<Tick>) -> Done {
        if until.is_some_and(|until| self.sim.tick(self.n) >= until) { Err(Failed) } else { Ok(()) }
    }

    async fn ask(&self) {
        self.pause(MS / 2, 3 * MS).await;
        chores::probe(self.sim, self.n, self.proc);
    }

    /// Stops the server and proves that nothing of it is left; the position of a clean end.
    pub(crate) async fn stop(&self, how: Stop, limit: Duration) -> Done<Option<Lsn>> {
        self.pause(MS / 2, 3 * MS).await;
        let Some(pid) = self.sim.w().nodes[self.n].pg.pid() else { return Ok(None) };
        server_event(self.sim, self.n, self.proc, &ServerEvent::Stopping, None);
        server::signal(self.sim, self.n, pid, how);
        let changed = self.sim.w().nodes[self.n].pg.changed.clone();
        let ended = || self.sim.until(&changed, || self.sim.w().nodes[self.n].pg.pid() != Some(pid));
        if self.sim.timeout(self.proc, limit, ended()).await.is_none() {
            server::signal(self.sim, self.n, pid, Stop::Immediate);
            if self.sim.timeout(self.proc, Duration::from_millis(300), ended()).await.is_none() {
                server::signal(self.sim, self.n, pid, Stop::Kill);
            }
        }
        self.pause(2 * MS, 15 * MS).await;
        let (data, lsn) = {
            let w = self.sim.w();
            let pg = &w.nodes[self.n].pg;
            let clean = matches!(pg.state, State::ShutDown | State::ShutDownInRecovery);
            (pg.look(), clean.then(|| pg.control().checkpoint))
        };
        server_event(self.sim, self.n, self.proc, &ServerEvent::Gone { pid }, Some(data));
        Ok(lsn)
    }

    /// Stops, compares, rewinds or clones where the histories parted, starts as a standby of the leader.
    pub(crate) async fn rejoin(&self, leader: &Upstream, order: &Order) -> Done {
        let source = node_of(leader.name.as_str());
        self.pause(5 * MS, 30 * MS).await;
        if !self.reaches(source) {
            return Err(Failed);
        }
        let theirs = {
            let w = self.sim.w();
            let pg = &w.nodes[source].pg;
            if pg.server.as_ref().is_none_or(|s| s.in_recovery) {
                return Err(Failed);
            }
            pg.history()
        };
        if self.sim.w().nodes[self.n].pg.server.is_some() {
            self.stop(Stop::Fast, HAND_OVER_LIMIT).await?;
        }
        match self.judge(source, &theirs, order) {
            Course::Follow => {}
            Course::Rewind => self.reunite(leader, source, order.settings.postgresql.use_pg_rewind).await?,
            Course::Clone(_) => self.clone_from(leader).await?,
        }
        self.note_reign(order);
        self.start(false, Some(leader), None).await
    }

    async fn reunite(&self, leader: &Upstream, source: usize, use_rewind: bool) -> Done {
        if !use_rewind {
            return self.clone_from(leader).await;
        }
        self.pause(20 * MS, 100 * MS).await;
        if !self.reaches(source) {
            return Err(Failed);
        }
        {
            // As `checkpoint_leader` does where it must.
            let mut w = self.sim.w();
            w.nodes[source].pg.write_checkpoint();
            w.nodes[self.n].pg.data = Data::Spoiled;
        }
        self.pause(100 * MS, 800 * MS).await;
        let fails = self.sim.w().rng.chance(50);
        if fails || !self.reaches(source) {
            return self.clone_from(leader).await;
        }
        let mut w = self.sim.w();
        w.count.rewinds += 1;
        take_over(&mut w, self.n, source);
        drop(w);
        self.tell_descent();
        Ok(())
    }

    pub(crate) async fn follow(&self, upstream: &Upstream, order: &Order) -> Vec<Outcome> {
        if let Some(epoch) = self.parted(upstream, order).await {
            return vec![Outcome::Done(Slot::Postgres), Outcome::Parted(epoch)];
        }
        self.note_reign(order);
        server::point(&mut self.sim.w(), self.n, node_of(upstream.name.as_str()));
        self.sim.sleep(self.proc, Duration::from_millis(100)).await;
        self.ask().await;
        outcome(Ok(()))
    }

    pub(crate) async fn promote(&self, epoch: Epoch, until: Option<Tick>) -> Vec<Outcome> {
        server_event(self.sim, self.n, self.proc, &ServerEvent::Promoting, None);
        self.promise(epoch).await;
        let Some(pid) = self.sim.w().nodes[self.n].pg.pid() else { return outcome(Err(Failed)) };
        if self.in_time(until).is_err() || !server::promote(self.sim, self.n) {
            return outcome(Err(Failed));
        }
        let changed = self.sim.w().nodes[self.n].pg.changed.clone();
        let state = || {
            let w = self.sim.w();
            w.nodes[self.n].pg.server.as_ref().filter(|s| s.pid == pid).map(|s| !s.in_recovery)
        };
        let done = self.sim.until(&changed, || state() != Some(false));
        if self.sim.timeout(self.proc, PROMOTE_LIMIT, done).await.is_none() || state().is_none() {
            return outcome(Err(Failed));
        }
        self.sim.w().count.promotions += 1;
        self.tell_descent();
        self.ask().await;
        let (inner, n, proc) = (self.sim.clone(), self.n, self.proc);
        self.sim.spawn(proc, async move {
            after_promotion(&Ctx::new(&inner, n, proc, action::PROMOTE), epoch).await;
        });
        outcome(Ok(()))
    }

    pub(crate) async fn checkpoint(&self, request: Request) -> Vec<Outcome> {
        self.pause(5 * MS, 200 * MS).await;
        let mut w = self.sim.w();
        let pg = &mut w.nodes[self.n].pg;
        if pg.server.as_ref().is_none_or(|s| !s.ready || s.stopping) {
            return outcome(Err(Failed));
        }
        pg.write_checkpoint();
        vec![Outcome::Checkpointed(request), Outcome::Done(Slot::Postgres)]
    }

    /// Waits until the member record tells what comes.
    async fn announced(&self, state: &MemberState) {
        let signal = agent::changed(&self.sim.w(), self.n);
        let announced = self.sim.until(&signal, || {
            let w = self.sim.w();
            let record = w.nodes[self.n].agent.as_ref().and_then(|a| a.published.as_ref());
            record.is_some_and(|r| r.state == *state)
        });
        if self.sim.timeout(self.proc, ANNOUNCE_LIMIT, announced).await.is_some() {
            self.sim.sleep(self.proc, ANNOUNCE_LEAD).await;
        }
    }

    pub(crate) async fn stop_to_restart(&self, id: u64) -> Vec<Outcome> {
        self.announced(&MemberState::Restarting).await;
        match self.stop(Stop::Fast, HAND_OVER_LIMIT).await {
            Ok(shutdown_lsn) => {
                vec![Outcome::StoppedToRestart { id, shutdown_lsn }, Outcome::Done(Slot::Postgres)]
            }
            Err(Failed) => vec![Outcome::NotRestarted(id), Outcome::Failed(Slot::Postgres)],
        }
    }

    pub(crate) async fn stop_to_hand_over(&self, request: Request) -> Vec<Outcome> {
        self.announced(&MemberState::Stopping).await;
        if self.sim.w().mutation == Some(Mutation::EarlyRelease) {
            let position = self.sim.w().nodes[self.n].pg.wal.end;
            let pid = self.sim.w().nodes[self.n].pg.pid().unwrap_or(0);
            server_event(self.sim, self.n, self.proc, &ServerEvent::Gone { pid }, None);
            let stopped = Outcome::StoppedToHandOver { request, shutdown_lsn: Some(Lsn(position)) };
            return vec![stopped, Outcome::Done(Slot::Postgres)];
        }
        match self.stop(Stop::Fast, HAND_OVER_LIMIT).await {
            Ok(shutdown_lsn) => {
                self.sim.w().count.hand_overs += 1;
                vec![Outcome::StoppedToHandOver { request, shutdown_lsn }, Outcome::Done(Slot::Postgres)]
            }
            Err(Failed) => outcome(Err(Failed)),
        }
    }
}

/// The data of `n` become what `source` has.
fn take_over(w: &mut World, n: usize, source: usize) {
    let pg = &w.nodes[source].pg;
    let (wal, file, known) = (pg.wal.clone(), pg.file.clone(), pg.descent());
    let pg = &mut w.nodes[n].pg;
    pg.copy(&wal, file);
    pg.keep(known);
}

#[expect(clippy::needless_pass_by_value, reason = "as every effect ends")]
fn outcome(done: Done) -> Vec<Outcome> {
    match done {
        Ok(()) => vec![Outcome::Done(Slot::Postgres)],
        Err(Failed) => vec![Outcome::Failed(Slot::Postgres)],
    }
}

async fn after_promotion(ctx: &Ctx<'_>, epoch: Epoch) {
    ctx.pause(MS, 10 * MS).await;
    let entries = {
        let w = ctx.sim.w();
        let pg = &w.nodes[ctx.n].pg;
        if pg.server.as_ref().is_none_or(|s| s.in_recovery) {
            return;
        }
        pg.entries()
    };
    let key = ctx.path(&Key::History);
    let then = vec![Write::Put(key, HistoryRecord(entries).to_json(), None)];
    let _ = ctx.txn(Txn { when: ctx.reign(epoch), then }).await;
    ctx.pause(20 * MS, 500 * MS).await;
    {
        let mut w = ctx.sim.w();
        let pg = &mut w.nodes[ctx.n].pg;
        if pg.server.as_ref().is_none_or(|s| s.in_recovery || s.stopping) {
            return;
        }
        pg.write_checkpoint();
    }
    ctx.ask().await;
}
