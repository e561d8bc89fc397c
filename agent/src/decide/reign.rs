//! Is our history the leader's? Timelines of one number may have been begun by two promotions that never heard of
//! each other; PostgreSQL compares the numbers, and a standby would stream on from the wrong one.

use pgvane_cluster::ids::{NodeName, Timeline};
use pgvane_cluster::reigns::{Lineage, Reign, Reigns};
use pgvane_cluster::settings::ClusterSettings;
use pgvane_cluster::view::{ClusterView, LeaderKey};

use super::world::{Dcs, Holder, Slot, Sql, World};

/// What the leader has told of its timelines.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Word<'a> {
    /// Its list.
    Told(&'a Reigns),
    /// It will publish one as soon as it serves: nothing may be concluded before.
    Expected,
    /// It keeps none.
    None,
}

/// What the holder of `key` has told.
pub fn word<'a>(settings: &ClusterSettings, view: &'a ClusterView, key: &LeaderKey) -> Word<'a> {
    if settings.standby_cluster.is_some() {
        // Its timelines are the remote cluster's.
        return Word::None;
    }
    match view.reigns.as_ref().filter(|published| published.epoch == key.epoch) {
        Some(published) => Word::Told(&published.timelines),
        None if view.members.get(&key.name).is_some_and(|m| m.record.is_native()) => Word::Expected,
        None => Word::None,
    }
}

/// How a server on `timeline` with the list `ours` relates to the leader that gave `word`.
pub fn lineage(ours: &Reigns, timeline: Timeline, word: Word<'_>) -> Lineage {
    match word {
        Word::Told(theirs) => ours.compare(timeline, theirs),
        Word::Expected | Word::None => Lineage::Unknown,
    }
}

/// Whether what was published last says that a server on `timeline` with the list `ours` parted from the cluster,
/// while nobody leads. A list from before the newest reign that was seen may be outdated.
pub fn parted_from_cluster(view: &ClusterView, ours: &Reigns, timeline: Timeline) -> bool {
    let newest = view.reigns.as_ref().filter(|published| published.epoch >= view.newest_epoch);
    newest.is_some_and(|p| matches!(ours.compare(timeline, &p.timelines), Lineage::Parted(_)))
}

/// Whether a running standby on `timeline` may be pointed at the new leader `name` before that one serves. Not while
/// it is on a timeline that the leader may be about to begin once more.
pub fn may_follow_early(view: &ClusterView, ours: &Reigns, timeline: Timeline, name: &NodeName) -> bool {
    let Some(theirs) = view.members.get(name).and_then(|m| m.record.timeline) else { return false };
    match timeline.cmp(&theirs) {
        std::cmp::Ordering::Less => true,
        // Who does not know of a promotion has not followed it.
        std::cmp::Ordering::Equal => ours.0.get(&timeline) == told(view, name),
        std::cmp::Ordering::Greater => false,
    }
}

/// Whether the records alone show that a server on `timeline` with the list `ours` is on the line of `name`.
pub fn is_same_by_record(view: &ClusterView, ours: &Reigns, timeline: Timeline, name: &NodeName) -> bool {
    let theirs = view.members.get(name).and_then(|m| m.record.timeline);
    let known = ours.0.get(&timeline);
    timeline <= Timeline(1) || (theirs == Some(timeline) && known.is_some() && known == told(view, name))
}

/// Who began the timeline that `name` is on, by its record.
pub fn told<'a>(view: &'a ClusterView, name: &NodeName) -> Option<&'a Reign> {
    view.members.get(name)?.record.pgvane.as_ref()?.reign.as_ref()
}

/// Whether a member is on the leader's history, as far as its record tells, so that it may be followed instead.
pub fn is_on_line(view: &ClusterView, name: &NodeName, word: Word<'_>) -> bool {
    let Word::Told(leader) = word else { return true };
    let timeline = view.members.get(name).and_then(|m| m.record.timeline);
    match (timeline.and_then(|t| leader.0.get(&t)), told(view, name)) {
        (Some(leader), Some(theirs)) => leader == theirs,
        // One of Patroni's keeps no list.
        (Some(_) | None, _) => true,
    }
}

/// What this standby learned of its own timelines by streaming from the leader, if it is news to be kept.
pub fn learned(world: &World) -> Option<Reigns> {
    let Dcs::Known(view) = &world.dcs else { return None };
    let Holder::Other(key) = world.holder(view) else { return None };
    let Word::Told(leader) = word(&world.settings, view, key) else { return None };
    let sql = world.local.sql.as_ref().filter(|sql| is_fed_by(world, view, key, sql))?;
    let ours = &world.memory.reigns;
    if matches!(ours.compare(sql.timeline, leader), Lineage::Parted(_))
        || world.memory.parted == Some(key.epoch)
    {
        return None;
    }
    let mut known = ours.up_to(sql.timeline);
    known.0.extend(leader.up_to(sql.timeline).0);
    (known != *ours).then_some(known)
}

/// Whether `sql` shows a standby that streams from the holder of `key`, or from a member of its line. An answer from
/// before the leader was seen may tell of the one before.
fn is_fed_by(world: &World, view: &ClusterView, key: &LeaderKey, sql: &Sql) -> bool {
    let is_fresh =
        world.memory.leader_since.is_some_and(|(epoch, at)| epoch == key.epoch && sql.asked_at > at);
    let from = |name: &NodeName| {
        world.upstream(name).is_some_and(|up| sql.upstream.as_ref() == Some(&(up.host, up.port)))
    };
    let told = word(&world.settings, view, key);
    let is_ours = from(&key.name)
        || view.members.keys().any(|name| *name != world.me && from(name) && is_on_line(view, name, told));
    is_fresh && sql.in_recovery && sql.streaming && is_ours
}

/// The timeline of a primary of ours that nothing is known of: an earlier agent may have noted its promotion.
pub fn unsettled(world: &World) -> Option<Timeline> {
    let sql = world.local.sql.as_ref().filter(|sql| !sql.in_recovery)?;
    let is_known = sql.timeline <= Timeline(1) || world.memory.reigns.0.contains_key(&sql.timeline);
    (!is_known && world.free(Slot::Postgres)).then_some(sql.timeline)
}
