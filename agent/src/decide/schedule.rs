//! What is to happen at a time of the wall clock (contract 3.6): whether it is due, when to wake for it, and when it
//! is too late to mean it still.

use std::time::Duration;

use jiff::Timestamp;
use pgvane_cluster::clock::Tick;
use pgvane_cluster::records::FailoverRecord;
use pgvane_cluster::view::{ClusterView, Versioned};

use super::action::{Action, Decision, Reason};
use super::restart;
use super::world::{Dcs, Holder, World};

/// The wall clock as it stood at an instant of the clock that decisions use. Read anew at every turn: operators set
/// wall clocks, and what is scheduled follows them.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Wall {
    /// The instant.
    pub at: Tick,
    /// Milliseconds since 1970.
    pub millis: i64,
}

/// Where a scheduled time lies.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum When {
    /// Ahead.
    Later(Tick),
    /// Now, or a moment ago.
    Now,
    /// So long ago that nobody may count on it any more.
    Stale,
    /// It cannot be read as a time with a zone.
    Unreadable,
    /// The wall clock was not read.
    Unknown,
}

/// Where `text` (ISO 8601 with zone) lies.
pub fn when(world: &World, text: &str) -> When {
    let Some(wall) = world.memory.wall else { return When::Unknown };
    let Ok(scheduled) = text.trim().parse::<Timestamp>() else { return When::Unreadable };
    let now = wall.millis.saturating_add(millis(world.now.since(wall.at)));
    let ahead = scheduled.as_millisecond().saturating_sub(now);
    match u64::try_from(ahead) {
        Ok(0) => When::Now,
        Ok(ahead) => When::Later(world.now + Duration::from_millis(ahead).min(FAR)),
        Err(_) if ahead.unsigned_abs() > late_limit(world) => When::Stale,
        Err(_) => When::Now,
    }
}

/// Farther ahead nobody has to know exactly; sums of instants must not overflow.
const FAR: Duration = Duration::from_hours(24 * 36_525);

/// Milliseconds past its time within which a scheduled step is still taken.
fn late_limit(world: &World) -> u64 {
    u64::try_from((world.settings.loop_wait * 3 / 2).as_millis()).unwrap_or(u64::MAX)
}

fn millis(duration: Duration) -> i64 {
    i64::try_from(duration.as_millis()).unwrap_or(i64::MAX)
}

/// The leader's step for a scheduled request: when its time has come it becomes a request for now, in the store, so
/// that all members and proxies see one and the same; a time that has passed is cleared. Nothing in pause.
pub(super) fn switchover(world: &World, request: &Versioned<FailoverRecord>) -> Option<Decision> {
    let text = request.value.scheduled_at.as_deref().filter(|_| !world.settings.pause)?;
    let revision = request.mod_revision;
    match when(world, text) {
        When::Now => Some(world.act(Action::RequestNow { revision }, Reason::ScheduleIsDue)),
        When::Stale => Some(world.act(Action::ClearRequest { revision }, Reason::ScheduleIsStale)),
        When::Unreadable => Some(world.act(Action::ClearRequest { revision }, Reason::ScheduleIsUnreadable)),
        When::Later(_) | When::Unknown => None,
    }
}

/// Wakes the loop for what comes next, to the millisecond.
pub(super) fn wake(world: &World, decision: Decision) -> Decision {
    let next = [switchover_at(world), restart::scheduled_at(world), restart::gives_up_at(world)];
    let next = next.into_iter().flatten().filter(|at| *at > world.now).min();
    Decision { wake_at: next.map_or(decision.wake_at, |at| decision.wake_at.min(at)), ..decision }
}

fn switchover_at(world: &World) -> Option<Tick> {
    let Dcs::Known(view) = &world.dcs else { return None };
    later(world, leads(world, view)?.value.scheduled_at.as_deref()?)
}

/// The request that is ours to carry out.
fn leads<'a>(world: &World, view: &'a ClusterView) -> Option<&'a Versioned<FailoverRecord>> {
    matches!(world.holder(view), Holder::Me(_)).then_some(view.failover.as_ref()?)
}

/// The instant of `text`, where it lies ahead and counts.
pub(super) fn later(world: &World, text: &str) -> Option<Tick> {
    match when(world, text) {
        When::Later(at) if !world.settings.pause => Some(at),
        When::Later(_) | When::Now | When::Stale | When::Unreadable | When::Unknown => None,
    }
}
