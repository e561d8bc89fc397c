//! What a node keeps in order besides its role: the leader's keys, the members' slots, changed settings.
//!
//! Nothing here is urgent or decides anything; each chore runs at most once at a time, beside the loop.

use std::sync::Arc;
use std::time::Duration;

use pgvane_cluster::ids::Timeline;
use pgvane_cluster::keyspace::Key;
use pgvane_cluster::records::StatusRecord;
use pgvane_cluster::store::Store;
use tracing::{info, warn};

use crate::chore::Chore;
use crate::config::HostPort;
use crate::decide::announce;
use crate::decide::consent::Voters;
use crate::decide::reign;
use crate::decide::world::{Dcs, LocalRole, Process, Slot, World};
use crate::enact::{Context, store, upstream};
use crate::event::Event;
use crate::postgres::probe::SqlView;
use crate::postgres::process::Postmaster;
use crate::postgres::settings;
use crate::postgres::{control, descent, outgrown};
use crate::slots::keeper::SlotKeeper;
use crate::walsenders;

/// Time between two looks at a replay that is paused.
const OUTGROWN_EVERY: Duration = Duration::from_secs(5);

/// The chores, and when each was last done.
#[derive(Debug, Default)]
pub struct Keeper {
    status: Chore,
    failsafe: Chore,
    voters: Voters,
    slots: SlotKeeper,
    reigns: Chore,
    learning: Chore,
    /// The timeline whose beginning was looked up on disk.
    settled: Option<Timeline>,
    settings: Chore,
    outgrown: Chore,
    left_behind: Chore,
    written: Option<StatusRecord>,
    feedback: bool,
    settings_are_new: bool,
}

impl Keeper {
    /// The dynamic configuration changed: the files follow at the next occasion.
    pub fn settings_changed(&mut self) {
        self.settings_are_new = true;
    }

    /// Does what is due.
    pub fn turn<S: Store>(&mut self, ctx: &Arc<Context<S>>, world: &World, sql: Option<&SqlView>) {
        self.write_status(ctx, world, sql);
        self.write_failsafe(ctx, world);
        self.write_reigns(ctx, world);
        self.learn_reigns(ctx, world);
        self.slots.turn(ctx, world);
        self.apply_settings(ctx, world);
        self.resume_outgrown(ctx, world, sql);
        self.end_left_behind(ctx, world, sql);
    }

    /// A standby that waits for larger values is made to stop, so that it can be started with them.
    fn resume_outgrown<S: Store>(&mut self, ctx: &Arc<Context<S>>, world: &World, sql: Option<&SqlView>) {
        let idle = world.free(Slot::Postgres) && world.local.process == Process::Running;
        let paused = sql.filter(|s| s.in_recovery && s.replay_paused && s.version >= outgrown::SINCE);
        let Some(sql) = paused.filter(|_| idle && !world.settings.pause) else { return };
        let Some(done) = self.outgrown.begin(world.now, OUTGROWN_EVERY) else { return };
        let (ctx, held) = (Arc::clone(ctx), sql.held.clone());
        tokio::spawn(async move {
            let _done = done;
            match outgrown::resume(&ctx.instance, &held).await {
                Ok(true) => {
                    info!("the primary has larger settings; this server stops to be started with them");
                }
                Ok(false) => {}
                Err(error) => warn!(%error, "a replay that waits for larger settings was not resumed"),
            }
        });
    }

    /// A walsender that a standby has left behind keeps commits waiting.
    fn end_left_behind<S: Store>(&mut self, ctx: &Arc<Context<S>>, world: &World, sql: Option<&SqlView>) {
        if !world.settings.synchronous_mode.is_on() || announce::serving_epoch(world).is_none() {
            return;
        }
        let (Some(sql), Some(view)) = (sql, world.dcs.last_view()) else { return };
        let pids = walsenders::left_behind(&sql.replication, &view.members.keys().collect::<Vec<_>>());
        if pids.is_empty() {
            return;
        }
        let Some(done) = self.left_behind.begin(world.now, Duration::from_millis(500)) else { return };
        let ctx = Arc::clone(ctx);
        tokio::spawn(async move {
            let _done = done;
            info!(?pids, "ending connections that their standbys have replaced");
            if let Err(error) = control::end_backends(&ctx.instance, &pids).await {
                warn!(%error, "connections that their standbys have replaced were not ended");
            }
        });
    }

    fn write_status<S: Store>(&mut self, ctx: &Arc<Context<S>>, world: &World, sql: Option<&SqlView>) {
        let Some((epoch, status)) = announce::status(world) else { return };
        let Dcs::Known(view) = &world.dcs else { return };
        let status = self.slots.status(world, sql, status);
        if self.written.as_ref() == Some(&status) {
            return;
        }
        // Each write makes a Patroni replica's loop turn: that is how they keep step with their leader.
        let every = if view.has_patroni_member() {
            world.settings.loop_wait
        } else {
            world.timing.renew_interval.min(Duration::from_secs(1))
        };
        let Some(done) = self.status.begin(world.now, every) else { return };
        self.written = Some(status.clone());
        let ctx = Arc::clone(ctx);
        tokio::spawn(async move {
            let _done = done;
            if let Err(error) = store::write_as_leader(&ctx, epoch, Key::Status, status.to_json()).await {
                tracing::debug!(%error, "status was not written");
            }
        });
    }

    /// Who must vouch for us.
    pub fn voters(&self) -> &Voters {
        &self.voters
    }

    fn write_failsafe<S: Store>(&mut self, ctx: &Arc<Context<S>>, world: &World) {
        if let Dcs::Known(view) = &world.dcs
            && !self.failsafe.is_busy()
        {
            self.voters.see(view);
        }
        let Some((epoch, list)) = announce::failsafe(world) else { return };
        let Some(done) = self.failsafe.begin(world.now, Duration::from_millis(500)) else { return };
        self.voters.write(epoch, &list);
        let ctx = Arc::clone(ctx);
        tokio::spawn(async move {
            let _done = done;
            if let Err(error) = store::write_as_leader(&ctx, epoch, Key::Failsafe, list.to_json()).await {
                warn!(%error, "the failsafe list was not written");
            }
        });
    }

    /// The leader's list: with it nobody takes another timeline of the same number for the leader's.
    fn write_reigns<S: Store>(&mut self, ctx: &Arc<Context<S>>, world: &World) {
        let Some((epoch, list)) = announce::reigns(world) else { return };
        let Some(done) = self.reigns.begin(world.now, Duration::from_millis(200)) else { return };
        let ctx = Arc::clone(ctx);
        tokio::spawn(async move {
            let _done = done;
            if let Err(error) = store::write_as_leader(&ctx, epoch, Key::Reigns, list.to_json()).await {
                warn!(%error, "the list of reigns was not written");
            }
        });
    }

    /// What a standby learned of its timelines, and what became of a promotion that an earlier agent noted.
    fn learn_reigns<S: Store>(&mut self, ctx: &Arc<Context<S>>, world: &World) {
        let learned = reign::learned(world);
        let promoted = reign::unsettled(world).filter(|t| learned.is_none() && self.settled != Some(*t));
        if learned.is_none() && promoted.is_none() {
            return;
        }
        let Some(done) = self.learning.begin(world.now, Duration::from_millis(500)) else { return };
        self.settled = promoted.or(self.settled);
        let ctx = Arc::clone(ctx);
        tokio::task::spawn_blocking(move || {
            let _done = done;
            let kept = match (learned, promoted) {
                (Some(descent), _) => descent::save(&ctx.instance, &descent).map(|()| descent),
                (None, Some(timeline)) => descent::keep(&ctx.instance, timeline),
                (None, None) => return,
            };
            match kept {
                Ok(descent) => ctx.report(Event::Descent(descent)),
                Err(error) => warn!(%error, "who began our timelines was not kept"),
            }
        });
    }

    fn apply_settings<S: Store>(&mut self, ctx: &Arc<Context<S>>, world: &World) {
        let idle = world.free(Slot::Postgres) && world.local.process == Process::Running;
        let following = match (world.local.role, &world.local.sql) {
            (LocalRole::Primary, Some(sql)) if !sql.in_recovery => None,
            (LocalRole::Standby, Some(sql)) => {
                let upstream = sql.upstream.clone().map(|(host, port)| HostPort { host, port });
                Some(upstream::following(
                    world.dcs.last_view(),
                    &world.settings,
                    &world.me,
                    &world.tags,
                    upstream,
                ))
            }
            _ => return,
        };
        let feedback = following.as_ref().is_some_and(|following| following.feedback);
        let changed = std::mem::replace(&mut self.feedback, feedback) != feedback;
        self.settings_are_new |= changed;
        if !self.settings_are_new || !idle {
            return;
        }
        let Some(done) = self.settings.begin(world.now, Duration::from_millis(500)) else { return };
        self.settings_are_new = false;
        let (ctx, dynamic, role) =
            (Arc::clone(ctx), world.settings.postgresql.clone(), crate::callbacks::role(world));
        tokio::spawn(async move {
            let _done = done;
            match settings::write(&ctx.instance, &dynamic, following.as_ref()) {
                Ok(false) => {}
                Ok(true) => match Postmaster::find(&ctx.instance.data_dir) {
                    Ok(Some(postmaster)) => match control::reload(&postmaster) {
                        Ok(()) => {
                            info!("PostgreSQL reads its changed configuration");
                            ctx.callbacks.reloaded(role);
                        }
                        Err(error) => warn!(%error, "PostgreSQL was not told of its changed configuration"),
                    },
                    Ok(None) => {}
                    Err(error) => warn!(%error, "PostgreSQL was not found"),
                },
                Err(error) => warn!(%error, "the configuration was not written"),
            }
        });
    }
}
