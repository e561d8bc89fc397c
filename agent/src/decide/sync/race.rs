//! Who may race, in synchronous mode: whoever surely holds every acknowledged commit (contract 3.2, 3.3).

use pgvane_cluster::clock::Tick;
use pgvane_cluster::ids::{Lsn, NodeName, Timeline};
use pgvane_cluster::keyspace::{Key, Keyspace};
use pgvane_cluster::records::SyncRecord;
use pgvane_cluster::settings::SynchronousMode;
use pgvane_cluster::store::Compare;
use pgvane_cluster::view::{ClusterView, LeaderKey};

use super::{is_garbage, mode, record};
use crate::decide::world::{Peer, World};

/// The rule that the race is run under.
#[derive(Clone, Copy, Debug)]
pub(in crate::decide) struct Rule<'a> {
    record: Option<&'a SyncRecord>,
    by_name: bool,
}

impl<'a> Rule<'a> {
    /// The rule of `view`.
    pub(in crate::decide) fn of(world: &World, view: &'a ClusterView) -> Rule<'a> {
        let mode = mode(&world.settings);
        let record = record(view).filter(|_| mode.is_on()).map(|s| &s.value);
        Rule { record, by_name: mode == SynchronousMode::On }
    }

    /// Whether `name` may race at all.
    pub(in crate::decide) fn admits(&self, name: &NodeName) -> bool {
        self.record.is_none_or(|record| !self.by_name || record.names(name))
    }

    /// Whether `name` has led last: it may have more than anybody needs, and keeps nobody from the race.
    pub(in crate::decide) fn was_led_by(&self, name: &NodeName) -> bool {
        self.record.is_some_and(|record| is(record.leader.as_ref(), name))
    }

    /// How many votes a voter needs besides its own.
    pub(in crate::decide) fn quorum(&self) -> usize {
        self.record.map_or(0, |record| usize::try_from(record.quorum).unwrap_or(usize::MAX))
    }

    /// Whether not being behind `name` counts for a racer.
    pub(in crate::decide) fn is_voter(&self, name: &NodeName) -> bool {
        self.record.is_some_and(|record| record.names(name))
    }

    /// How many voters must be found not to be ahead of `me`; nobody who led itself lacks anything.
    pub(in crate::decide) fn votes_needed(&self, me: &NodeName) -> usize {
        match self.record {
            Some(record) if !self.was_led_by(me) => {
                let without_voice = usize::from(!self.by_name && !record.names(me));
                self.quorum().saturating_add(without_voice)
            }
            Some(_) | None => 0,
        }
    }
}

fn is(one: Option<&NodeName>, other: &NodeName) -> bool {
    one.is_some_and(|one| one.as_str().eq_ignore_ascii_case(other.as_str()))
}

/// What must still be true of the store when the key is created: the rule that we judged ourselves by is the last
/// one of the reign that ended.
pub fn raced_on(world: &World, space: &Keyspace) -> Option<Compare> {
    let view = world.dcs.last_view().filter(|view| mode(&world.settings).is_on() && !is_garbage(view))?;
    let key = space.path(&Key::Sync);
    Some(match &view.sync {
        Some(sync) => Compare::ModRevisionIs(key, sync.mod_revision),
        None => Compare::Absent(key),
    })
}

/// A member that surely holds everything our ended server has acknowledged, and may lead; by answers that were
/// asked for after `ended`.
pub(in crate::decide) fn heir<'a>(
    world: &'a World,
    view: &ClusterView,
    key: &LeaderKey,
    ended: Tick,
) -> Option<&'a NodeName> {
    let sync = record(view).filter(|_| mode(&world.settings).is_on() && world.peers.asked_at >= ended)?;
    let is_ours = is(sync.value.leader.as_ref(), &world.me) && sync.mod_revision.0 > key.epoch.0;
    let answers = world.peers.answers.iter();
    let running = answers.filter_map(|(name, answer)| match answer {
        Peer::Answered { is_primary: false, running: true, timeline, position, fresh: true, tags }
            if is_ours && *name != world.me && sync.value.names(name) && *position > Lsn(0) =>
        {
            Some((name, (timeline.unwrap_or(Timeline(0)), *position), tags.may_lead()))
        }
        Peer::Answered { .. } | Peer::Unreachable => None,
    });
    let running: Vec<_> = running.collect();
    let best = running
        .iter()
        .filter(|(_, _, may_lead)| *may_lead)
        .max_by_key(|(name, place, _)| (*place, std::cmp::Reverse(*name)))?;
    let followers = running.iter().filter(|(name, place, _)| *name != best.0 && *place <= best.1).count();
    (followers >= usize::try_from(sync.value.quorum).unwrap_or(usize::MAX)).then_some(best.0)
}
