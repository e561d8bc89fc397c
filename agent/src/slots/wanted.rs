//! Which slots a node should have, by the members there are and the dynamic configuration.

use std::collections::{BTreeMap, BTreeSet};

use pgvane_cluster::ids::{Lsn, NodeName};
use pgvane_cluster::records::{MemberRecord, Tags};
use pgvane_cluster::reigns::Descent;
use pgvane_cluster::settings::{ClusterSettings, SlotKind, SlotsOn};
use pgvane_cluster::view::ClusterView;

use super::names::slot_name;
use crate::decide::route;

/// What the slots of a node follow from.
#[derive(Clone, Copy, Debug)]
pub struct Basis<'a> {
    /// This node.
    pub me: &'a NodeName,
    /// Its tags.
    pub tags: &'a Tags,
    /// Whether others of the cluster stream from it in the end: a primary, or the leader of a standby cluster.
    pub leads: bool,
    /// The cluster.
    pub view: &'a ClusterView,
    /// The dynamic configuration in force.
    pub settings: &'a ClusterSettings,
    /// Slots of members, present or not, that are to be kept.
    pub retained: &'a BTreeSet<String>,
    /// What is known of our own timelines.
    pub descent: &'a Descent,
}

/// The slots that a node should have, by name.
pub type Wanted = BTreeMap<String, Slot>;

/// A slot that should be there.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Slot {
    /// It keeps WAL for a standby or a receiver.
    Physical {
        /// Whether its member streams from this node; `None` where that is not for the cluster to know.
        active: Option<bool>,
        /// While nobody uses it: the place it may be moved to.
        place: Option<Lsn>,
        /// Whether it is created where it is missing.
        create: bool,
    },
    /// It keeps WAL and catalog rows for a subscriber.
    Logical {
        /// Its database.
        database: String,
        /// Its output plugin.
        plugin: String,
        /// On a replica: the place that the primary's has.
        place: Option<Lsn>,
    },
}

impl Basis<'_> {
    /// All of them.
    pub fn wanted(&self) -> Wanted {
        let mut all = self.members();
        let own = slot_name(self.me);
        for (name, slot) in self.permanent().filter(|(name, _)| *name != own) {
            match (all.get(&name), &slot) {
                // A member's slot is physical, whatever the configuration wants of that name.
                (Some(_), Slot::Logical { .. }) => {}
                (Some(Slot::Physical { active, .. }), Slot::Physical { place, .. }) => {
                    let both = Slot::Physical { active: *active, place: *place, create: true };
                    all.insert(name, both);
                }
                (Some(Slot::Logical { .. }) | None, _) => {
                    all.insert(name, slot);
                }
            }
        }
        all
    }

    /// Names that the configuration gives to a logical slot although they are those of members' slots.
    pub fn misnamed(&self) -> Vec<String> {
        let members: BTreeSet<String> = self.view.members.keys().map(slot_name).collect();
        let logical =
            self.settings.slots.iter().filter(|(_, slot)| matches!(slot.kind, SlotKind::Logical { .. }));
        logical.map(|(name, _)| name.clone()).filter(|name| members.contains(name)).collect()
    }

    fn others(&self) -> impl Iterator<Item = (&NodeName, &MemberRecord)> {
        let all = self.view.members.iter().map(|(name, m)| (name, &m.record));
        all.filter(|(name, record)| *name != self.me && !record.tags.no_stream())
    }

    fn members(&self) -> Wanted {
        let mut all = Wanted::new();
        if !self.settings.postgresql.use_slots {
            return all;
        }
        let keeps_all = !self.settings.member_slots_ttl.is_zero();
        for (name, record) in self.others() {
            let from_us = self.streams_from_us(name);
            let wanted = if keeps_all && (self.leads || self.tags.may_lead()) { true } else { from_us };
            if wanted {
                let create = !self.parted(record);
                let slot = Slot::Physical { active: Some(from_us), place: self.place(name, record), create };
                all.insert(slot_name(name), slot);
            }
        }
        if keeps_all && (self.leads || self.tags.may_lead()) {
            let own = slot_name(self.me);
            for name in self.retained.iter().filter(|name| **name != own) {
                let place = if self.leads { None } else { self.status(name) };
                let absent = Slot::Physical { active: None, place, create: true };
                all.entry(name.clone()).or_insert(absent);
            }
        }
        all
    }

    /// Whether a member takes its WAL from this node.
    fn streams_from_us(&self, name: &NodeName) -> bool {
        match route::upstream_of(self.view, name) {
            Some(upstream) => upstream == *self.me,
            None => self.leads,
        }
    }

    /// A member that is on another history would stream from here without noticing: without a slot it cannot.
    fn parted(&self, record: &MemberRecord) -> bool {
        let theirs = record.pgvane.as_ref().and_then(|native| native.reign.as_ref());
        let ours = record.timeline.and_then(|timeline| self.descent.known.0.get(&timeline));
        theirs.is_some_and(|theirs| ours.is_some_and(|ours| ours != theirs))
    }

    /// Where an unused slot of a member may be moved to. One that takes its WAL elsewhere needs none from before
    /// what it has.
    fn place(&self, name: &NodeName, record: &MemberRecord) -> Option<Lsn> {
        let elsewhere = route::upstream_of(self.view, name).is_some_and(|upstream| upstream != *self.me);
        let its_own = record.xlog_location.filter(|_| elsewhere);
        if self.leads { its_own } else { self.status(&slot_name(name)).max(its_own) }
    }

    /// Where the leader's slot of that name is.
    fn status(&self, name: &str) -> Option<Lsn> {
        self.view.status.as_ref()?.slots.as_ref()?.get(name).copied()
    }

    fn permanent(&self) -> impl Iterator<Item = (String, Slot)> {
        let standby_cluster = self.settings.standby_cluster.is_some();
        let may = self.settings.postgresql.use_slots && (self.leads || self.tags.may_lead());
        let here = move |on: SlotsOn| match on {
            SlotsOn::Any => true,
            SlotsOn::Primary => !standby_cluster,
            SlotsOn::Standby => standby_cluster,
        };
        let logical = !standby_cluster && !route::is_off_stream(self.view, self.me, self.tags);
        let all = self.settings.slots.iter().filter(move |(_, slot)| may && here(slot.on));
        all.filter_map(move |(name, slot)| {
            let place = if self.leads { None } else { self.status(name) };
            let slot = match &slot.kind {
                SlotKind::Physical => Slot::Physical { active: None, place, create: true },
                SlotKind::Logical { database, plugin } if logical => {
                    Slot::Logical { database: database.clone(), plugin: plugin.clone(), place }
                }
                SlotKind::Logical { .. } => return None,
            };
            Some((name.clone(), slot))
        })
    }
}

/// What the key `status` tells of the leader's slots: those that are wanted, and the leader's own name.
pub fn published(
    there: &[(String, Option<Lsn>)],
    wanted: &Wanted,
    settings: &ClusterSettings,
    me: &NodeName,
    position: Lsn,
) -> BTreeMap<String, Lsn> {
    let permanent_only = settings.member_slots_ttl.is_zero();
    let told =
        |name: &String| wanted.contains_key(name) && (!permanent_only || settings.slots.contains_key(name));
    let mut slots: BTreeMap<String, Lsn> = there
        .iter()
        .filter(|(name, _)| told(name))
        .filter_map(|(name, at)| Some((name.clone(), (*at)?)))
        .collect();
    slots.insert(slot_name(me), position);
    slots
}

/// Whether this node must tell its upstream what its oldest snapshot needs (`hot_standby_feedback`): it will hold
/// logical slots, or a node that will takes its WAL from it.
pub fn wants_feedback(view: &ClusterView, settings: &ClusterSettings, me: &NodeName, tags: &Tags) -> bool {
    let logical = settings.slots.values().any(|slot| matches!(slot.kind, SlotKind::Logical { .. }));
    if !logical || !settings.postgresql.use_slots || settings.standby_cluster.is_some() {
        return false;
    }
    let holds = |name: &NodeName, tags: &Tags| tags.may_lead() && !route::is_off_stream(view, name, tags);
    let below = view.members.iter().filter(|(name, m)| *name != me && holds(name, &m.record.tags));
    holds(me, tags) || below.into_iter().any(|(name, _)| route::upstreams(view, name).contains(me))
}

#[cfg(test)]
#[path = "wanted_tests.rs"]
mod tests;
