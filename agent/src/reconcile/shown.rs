//! What others see of this node: the keys it owns, and its API.

use std::sync::Arc;

use pgvane_cluster::clock::Tick;
use pgvane_cluster::records::MemberRecord;
use pgvane_cluster::store::Store;

use super::Reconciler;
use crate::api::{ApiSnapshot, Operations};
use crate::decide::announce;
use crate::decide::lease::renewal_is_late;
use crate::decide::restart::Facts;
use crate::decide::world::{DataDir, Dcs, Guard, OwnLease, Slot, World};
use crate::enact;
use crate::event::Event;

impl<S: Store> Reconciler<S> {
    /// Writes the keys this node owns, and shows itself to the API.
    pub(super) fn announce(&mut self, now: Tick) {
        let world = self.observe(now);
        let record = self.record(&world);
        let (known, held) = (matches!(world.dcs, Dcs::Known(_)), matches!(self.lease, OwnLease::Held { .. }));
        let late = known && held && renewal_is_late(&world);
        self.renewals_late += u64::from(late && !self.renewal_is_late);
        self.renewal_is_late = late;
        if let (OwnLease::Held { id, .. }, Dcs::Known(view)) = (self.lease, &world.dcs)
            && self.operator.has_adopted()
        {
            let shown = view.members.get(&self.ctx.me);
            if shown.is_none_or(|m| m.lease != Some(id)) && self.publisher.is_settled(now) {
                self.publisher.forget();
            }
            if self.publisher.due(now, &record, id) {
                let (ctx, record) = (Arc::clone(&self.ctx), record.clone());
                tokio::spawn(async move {
                    let result = enact::store::publish(&ctx, &record, id).await;
                    let result = result.map(|()| (record, id));
                    ctx.report(Event::Published(Box::new(result)));
                });
            }
        }
        self.keeper.turn(&self.ctx, &world, self.server.view.as_ref());
        if let Some(config) = world.dcs.last_view().and_then(|view| view.config.as_ref()) {
            let settled = matches!(world.local.data, DataDir::Present(_)) && world.free(Slot::Postgres);
            self.ctx.known_config.note(&config.value.json, settled);
        }
        let snapshot = self.snapshot(&world, &record);
        self.sinks.api.send_replace(Arc::new(snapshot));
    }

    fn snapshot(&self, world: &World, record: &MemberRecord) -> ApiSnapshot {
        let authority = world.authority();
        ApiSnapshot {
            name: self.ctx.me.clone(),
            scope: self.ctx.instance.scope.clone(),
            tags: self.tags.clone(),
            observation: self.sources.observation.borrow().clone(),
            leader_until: authority.map(|a| a.guard_deadline),
            renewed_at: match self.lease {
                OwnLease::Held { sent_at, .. } => Some(sent_at),
                OwnLease::None => None,
            },
            local: self.server.api(record),
            failsafe_active: authority.is_some_and(|a| a.by_consent),
            pending_restart: record.pending_restart_reason.clone(),
            operations: Operations {
                decided: self.last.clone(),
                scheduled_restart: record.scheduled_restart.clone(),
                guard_armed: matches!(world.local.guard, Guard::Armed { .. }),
                renewals_late: self.renewals_late,
                store_is_full: self.fullness.lasts(),
                store_refusals: self.fullness.refusals(),
                reloads: self.reload.counts,
            },
            watchdog_failed: world.abilities.watchdog_failed,
            turned_at: world.now,
            ttl: self.timing.ttl,
            dcs_last_seen: self.dcs_last_seen,
            turns: self.turns,
            decisions: self.counts.clone(),
        }
    }

    pub(super) fn facts(&self, world: &World) -> Facts {
        let pending = self.server.pending_restart(&self.ctx.instance, &self.settings.postgresql);
        self.server.facts(&announce::role(world), pending.is_some())
    }

    /// Our member record: what decisions know, and what only the server does.
    pub(super) fn record(&self, world: &World) -> MemberRecord {
        let mut record = announce::member(world, &self.identity);
        record.pending_restart_reason =
            self.server.pending_restart(&self.ctx.instance, &self.settings.postgresql);
        record.pending_restart = record.pending_restart_reason.is_some().then_some(true);
        let in_recovery = world.local.sql.as_ref().is_some_and(|sql| sql.in_recovery);
        record.replication_state = self.server.replication_state().filter(|_| in_recovery).map(str::to_owned);
        record
    }
}
