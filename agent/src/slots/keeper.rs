//! Looks after the slots of this node: a chore beside the loop. What needs the server stopped it only asks for.

use std::collections::BTreeSet;
use std::sync::Arc;
use std::time::Duration;

use pgvane_cluster::ids::{Lsn, NodeName};
use pgvane_cluster::records::StatusRecord;
use pgvane_cluster::store::Store;
use pgvane_cluster::view::ClusterView;
use tokio::time::timeout;
use tracing::{debug, warn};

use super::names::{collisions, slot_name};
use super::plan::{self, Existing, Plan, Stand};
use super::retain::Retention;
use super::wanted::{self, Basis, Wanted};
use crate::chore::Chore;
use crate::config::HostPort;
use crate::decide::world::{Dcs, Holder, LocalRole, Process, Slot as Occupied, World};
use crate::decide::{Outcome, route};
use crate::enact::Context;
use crate::event::Event;
use crate::postgres::probe::SqlView;
use crate::postgres::{rewind, slots as server, wal};

/// Time between two looks at slots that are as they should be.
const EVERY: Duration = Duration::from_secs(2);

/// Longest time for one: a leader that has stopped answering must not keep us from the slots of the next one, which may be
/// this node.
const LONGEST: Duration = Duration::from_secs(10);

/// What is remembered between two looks.
#[derive(Debug, Default)]
pub struct SlotKeeper {
    chore: Chore,
    retention: Retention,
    last: Wanted,
    /// What an operator was told of names, so that it is told once.
    told: BTreeSet<String>,
}

impl SlotKeeper {
    /// The part of `status` that is about slots; `position` is the leader's own.
    pub fn status(&self, world: &World, sql: Option<&SqlView>, status: StatusRecord) -> StatusRecord {
        if !world.settings.postgresql.use_slots {
            return status;
        }
        let there = sql.map(|sql| sql.slots.as_slice()).unwrap_or_default();
        let slots = wanted::published(there, &self.last, &world.settings, &world.me, status.optime);
        let permanent = &world.settings.slots;
        let kept = self.retention.names().filter(|name| !permanent.contains_key(*name)).cloned().collect();
        let retain_slots = (!world.settings.member_slots_ttl.is_zero()).then_some(kept);
        StatusRecord { slots: Some(slots), retain_slots, ..status }
    }

    /// Does what is due.
    pub fn turn<S: Store>(&mut self, ctx: &Arc<Context<S>>, world: &World) {
        let Dcs::Known(view) = &world.dcs else { return };
        let holder = world.holder(view);
        let primary = world.local.role == LocalRole::Primary;
        let leads = match holder {
            Holder::Me(_) => primary || world.settings.standby_cluster.is_some(),
            // A primary that does not lead is about to be none.
            Holder::MyName(_) | Holder::Nobody | Holder::Other(_) if primary => return,
            Holder::MyName(_) | Holder::Nobody | Holder::Other(_) => false,
        };
        if leads {
            self.retention.note(world.now, view, &world.me, world.settings.member_slots_ttl);
        } else {
            self.retention.clear();
        }
        let ready =
            world.local.process == Process::Running && world.local.sql.is_some() && view.config.is_some();
        if !ready || !world.free(Occupied::Postgres) || !world.settings.postgresql.use_slots {
            return;
        }
        let basis = Basis {
            me: &world.me,
            tags: &world.tags,
            leads,
            view,
            settings: &world.settings,
            retained: &self.retained(view, leads),
            descent: &world.memory.descent,
        };
        let wanted = basis.wanted();
        self.tell(view, &basis.misnamed());
        if !wanted.keys().eq(self.last.keys()) {
            self.chore.hurry();
        } else if !self.chore.is_due(world.now) {
            self.last = wanted;
            return;
        }
        let Some(done) = self.chore.begin(world.now, EVERY) else { return };
        self.last.clone_from(&wanted);
        let look = Look::of(world, view, primary, wanted);
        let ctx = Arc::clone(ctx);
        tokio::spawn(async move {
            let _done = done;
            match timeout(LONGEST, look.take(&ctx)).await {
                Ok(Ok(())) => {}
                Ok(Err(error)) => debug!(%error, "slots were not looked after"),
                Err(_) => warn!("slots could not be looked after within {LONGEST:?}; trying again"),
            }
        });
    }

    fn retained(&self, view: &ClusterView, leads: bool) -> BTreeSet<String> {
        if leads {
            return self.retention.names().cloned().collect();
        }
        view.status.iter().flat_map(|s| s.retain_slots.iter().flatten()).cloned().collect()
    }

    fn tell(&mut self, view: &ClusterView, misnamed: &[String]) {
        for (slot, members) in collisions(view.members.keys()) {
            if self.told.insert(slot.clone()) {
                let members = members.iter().map(ToString::to_string).collect::<Vec<_>>().join(", ");
                warn!(slot, members, "members share the name of their replication slot: only one can stream");
            }
        }
        for slot in misnamed {
            if self.told.insert(slot.clone()) {
                warn!(
                    slot,
                    "a logical slot of the configuration has the name of a member's slot; it is not made"
                );
            }
        }
    }
}

/// One look, with all that it needs to know.
struct Look {
    wanted: Wanted,
    primary: bool,
    replayed: Option<Lsn>,
    led: bool,
    paused: bool,
    ignored: Vec<pgvane_cluster::settings::SlotMatcher>,
    /// Standby: where the primary is, and the slot on it that our demands come through.
    source: Option<(HostPort, String)>,
}

impl Look {
    fn of(world: &World, view: &ClusterView, primary: bool, wanted: Wanted) -> Look {
        let leader = view.leader.as_ref().filter(|key| key.name != world.me && !primary);
        let serves = view.leader_member().is_some_and(|m| m.record.is_serving_primary());
        let source = leader.filter(|_| serves).and_then(|key| world.upstream(&key.name)).map(|up| {
            let nearest: NodeName = route::wanted(view, &world.me, &world.tags).map_or_else(
                || world.me.clone(),
                |first| {
                    // The last one before the leader.
                    let way = route::upstreams(view, &first);
                    let leads = |name: &NodeName| leader.is_some_and(|key| key.name == *name);
                    let mut way = [first].into_iter().chain(way).filter(|name| !leads(name));
                    way.next_back().unwrap_or_else(|| world.me.clone())
                },
            );
            (HostPort { host: up.host, port: up.port }, slot_name(&nearest))
        });
        Look {
            wanted,
            primary,
            replayed: world.local.sql.as_ref().and_then(|sql| sql.replayed),
            led: view.leader.is_some(),
            paused: world.settings.pause,
            ignored: world.settings.ignore_slots.clone(),
            source,
        }
    }

    async fn take<S: Store>(self, ctx: &Context<S>) -> Result<(), crate::postgres::PostgresError> {
        let existing = server::existing(&ctx.instance).await?;
        let stand = Stand {
            primary: self.primary,
            replayed: self.replayed,
            led: self.led,
            paused: self.paused,
            ignored: &self.ignored,
        };
        let Plan { steps, to_copy } = plan::plan(&self.wanted, &existing, stand);
        server::perform(&ctx.instance, &steps).await?;
        if self.primary {
            ctx.report(Event::Meanwhile(Outcome::Slots {
                to_copy: BTreeSet::new(),
                unproven: BTreeSet::new(),
            }));
            return Ok(());
        }
        let held = |slot: &&Existing| {
            slot.logical.is_some()
                && matches!(self.wanted.get(&slot.name), Some(wanted::Slot::Logical { .. }))
        };
        let held: Vec<&Existing> = existing.iter().filter(held).collect();
        let Some((source, ours)) = self.source.filter(|_| !to_copy.is_empty() || !held.is_empty()) else {
            return Ok(());
        };
        let client = rewind::connect(&ctx.instance, &source).await?;
        let there = server::catalog_xmins(&client).await?;
        let is_proven = |slot: &&&Existing| {
            let (primary, own) = (there.get(&slot.name), slot.catalog_xmin);
            primary.zip(own).is_some_and(|(p, own)| plan::is_proven(*p, there.get(&ours).copied(), own))
        };
        let unproven = held.iter().filter(|slot| !is_proven(slot)).map(|slot| slot.name.clone()).collect();
        let to_copy = if to_copy.is_empty() {
            to_copy
        } else {
            // Without the WAL that decoding begins at a copy is of no use; the primary's moves on.
            let pg_wal = ctx.instance.data_dir.join("pg_wal");
            let copies = server::states(&client, &to_copy).await?;
            copies.into_iter().filter(|copy| wal::has(&pg_wal, copy.restart)).map(|copy| copy.name).collect()
        };
        ctx.report(Event::Meanwhile(Outcome::Slots { to_copy, unproven }));
        Ok(())
    }
}
