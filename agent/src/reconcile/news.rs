//! What happened, taken in: the lease, effects, PostgreSQL, operators and signals.

use pgvane_cluster::clock::Tick;
use pgvane_cluster::store::Store;
use tracing::{debug, info, warn};

use super::{Reconciler, Wish};
use crate::api::Command;
use crate::decide::Outcome;
use crate::decide::action;
use crate::decide::world::{OwnLease, Process, Slot};
use crate::enact::postmaster;
use crate::event::{Event, ServerEvent};
use crate::keepalive::LeaseNews;
use crate::telemetry::patroni;

impl<S: Store> Reconciler<S> {
    pub(super) fn lease_news(&mut self, news: LeaseNews) {
        self.lease = match news {
            LeaseNews::Is(lease) => lease,
            LeaseNews::Gone => OwnLease::None,
        };
    }

    pub(super) fn event(&mut self, event: Event) {
        let now = Tick::now();
        match event {
            Event::EffectEnded { slot, number, outcomes } => {
                if self.effects.ended(slot, number) {
                    for outcome in &outcomes {
                        self.memory.absorb(now, outcome);
                        if let Outcome::Rejoined(answer) = outcome {
                            self.operator.rejoined(&mut self.memory, answer.clone());
                        }
                    }
                    patroni::tell(self.narrator.ended(slot, &outcomes));
                    self.sinks.hurry.notify_one();
                }
            }
            Event::Server(change) => self.server_changed(now, &change),
            Event::Data(data) => self.server.data = data,
            Event::Descent(descent) => self.memory.descent = descent,
            Event::Probed(answer) => {
                let promoting = self.effects.what(Slot::Postgres) == Some(action::PROMOTE);
                self.server.probed(*answer, promoting);
                self.watch_walsenders();
            }
            Event::Peers(peers) => self.peers = peers,
            Event::GuardArmed { epoch, lease, deadline } => self.guarding.armed(epoch, lease, deadline),
            Event::GuardIdle => self.guarding.idle(),
            Event::Meanwhile(outcome) => self.memory.absorb(now, &outcome),
            Event::WatchdogArmed(answer) => self.watch.armed(now, &answer),
            Event::LeaseSpent(lease) => self.sinks.pulse.spend(lease),
            Event::Namesake(found) => self.namesake.ended(found),
            Event::GuardGone(why) => self.guarding.gone(&why, &self.ctx.events),
            Event::StoreSilent { asked_at, ask, reply } => {
                self.store_silent_at = Some(asked_at);
                self.vouch_for(ask, reply, Some(asked_at));
            }
            Event::GuardBack(found) => self.guarding.back(*found),
            Event::Reloaded(result) => self.reloaded(*result),
            Event::Published(result) => {
                if let Err(error) = &*result {
                    debug!(%error, "the member record was not written");
                }
                self.fullness.note(now, &result);
                self.ctx.published.send_replace(result.as_ref().as_ref().ok().map(|(r, _)| r.clone()));
                self.publisher.ended(now, *result);
            }
        }
        self.sinks.probe.send_if_modified(|wanted| {
            let want = matches!(self.server.process, Process::Running | Process::Starting { .. });
            std::mem::replace(wanted, want) != want
        });
    }

    /// While commits wait for standbys, the end of one is an event.
    fn watch_walsenders(&mut self) {
        let waits = self.settings.synchronous_mode.is_on();
        match self.server.view.as_ref().filter(|view| waits && !view.in_recovery) {
            Some(view) => self.walsenders.watch(&view.replication, &self.sinks.hurry),
            None => self.walsenders.forget(),
        }
    }

    fn server_changed(&mut self, now: Tick, change: &ServerEvent) {
        if let ServerEvent::Spawned { postmaster, .. } = change {
            postmaster::watch(&self.ctx, postmaster);
        }
        if let ServerEvent::Stopping = change {
            self.told.stopping();
        }
        let ended = self.server.absorb(now, change);
        if ended {
            self.guarding.postmaster_ended();
        }
        let expected = self.effects.what(Slot::Postgres).is_some_and(|what| !action::SERVING.contains(&what));
        if ended && !expected {
            warn!("PostgreSQL ended unasked");
            self.memory.absorb(now, &Outcome::PostgresEnded);
        }
    }

    pub(super) fn command(&mut self, command: Command) {
        match command {
            Command::Failsafe { ask, reply } => self.vouch_for(ask, reply, None),
            Command::Reload => self.read_settings_again(),
            Command::Wake => {}
            Command::Refresh => self.sinks.hurry.notify_one(),
            Command::Restart { ask, reply } => {
                let world = self.observe(Tick::now());
                let facts = self.facts(&world);
                self.operator.restart(&mut self.memory, &world, &facts, ask, reply);
            }
            Command::Unschedule { reply } => {
                let was = self.memory.scheduled_restart.take();
                let _ = reply.send(was.is_some());
            }
            Command::Rewind { reply } => {
                let world = self.observe(Tick::now());
                self.operator.rewind(&mut self.memory, &world, reply);
            }
            Command::Reinitialize { force, from_leader, reply } => {
                let world = self.observe(Tick::now());
                let judged = self.operator.reinitialize(&mut self.memory, &world, force, from_leader);
                let _ = reply.send(judged);
            }
        }
    }

    pub(super) fn wish(&mut self, wish: Wish) {
        match wish {
            Wish::Stop => {
                info!("stopping");
                self.memory.shutdown = true;
            }
            Wish::Detach => {
                info!("leaving PostgreSQL, the guard and the lease to the next agent");
                self.detach = true;
            }
            Wish::Reload => self.read_settings_again(),
        }
    }
}
