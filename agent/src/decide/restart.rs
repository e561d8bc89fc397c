//! A restart of PostgreSQL that an operator asked for, now or for later (contract 6.1, `POST /restart`).
//!
//! It is a stop; what starts the server again are the same rules as ever, so that a primary comes back only as
//! [`Action::StartPrimary`], with our key, our lease and the guard armed (S1, S3). The leader keeps its key, writes a
//! checkpoint while it still serves, and says `restarting` before it stops, so that proxies hold who comes.

use std::time::Duration;

use pgvane_cluster::clock::Tick;
use pgvane_cluster::ids::Lsn;
use pgvane_cluster::records::MemberState;
use pgvane_cluster::view::ClusterView;
use serde::{Deserialize, Serialize};

use super::action::{self, Action, Decision, Reason, Request};
use super::following;
use super::schedule::{self, When};
use super::world::{DataDir, Dcs, Holder, Process, Slot, Upstream, World};

/// How long a restart may wait for its beginning: while nobody leads, or while the store is away, no server is
/// stopped at an operator's wish.
const BEGIN_LIMIT: Duration = Duration::from_secs(30);

/// How long the server may take to come up where `primary_start_timeout` is 0: that is about crashes, and this is
/// none.
const START_LIMIT: Duration = Duration::from_mins(1);

/// A restart under way.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Restart {
    /// Which one.
    pub id: u64,
    /// When it was asked for.
    pub asked_at: Tick,
    /// How long the server may take to come up; the cluster's `primary_start_timeout` where absent.
    pub timeout: Option<Duration>,
    /// Whether the checkpoint that shortens the stop was made.
    pub checkpointed: bool,
    /// When the server had stopped, and where its WAL ended; `None` for the position after an unclean stop, and once
    /// it has started again.
    pub stopped: Option<(Tick, Option<Lsn>)>,
    /// Whether the stop or the start failed.
    pub failed: bool,
}

/// Which servers are to be restarted; all conditions must hold.
#[derive(Clone, PartialEq, Eq, Debug, Default, Serialize, Deserialize)]
pub struct Filters {
    /// Only one of this role: `primary`, `standby_leader`, `replica`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub role: Option<String>,
    /// Only one that runs a version below this one, such as `15.2`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub postgres_version: Option<String>,
    /// Only one with a setting that waits for a restart. Patroni looks only for the key, not at its value.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub restart_pending: Option<bool>,
}

/// A restart for later, in the form of our member record.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct ScheduledRestart {
    /// When: ISO 8601 with zone.
    pub schedule: String,
    /// When the server started that is to be restarted: another start makes this one needless.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub postmaster_start_time: Option<String>,
    /// Judged when the time has come.
    #[serde(flatten)]
    pub filters: Filters,
    /// Seconds that the server may take to come up.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub timeout: Option<u64>,
}

/// What filters are compared with.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct Facts {
    /// Our role, in the words of the member record.
    pub role: String,
    /// The server's version, such as 150006; 0 while it is not known.
    pub server_version: u32,
    /// Whether a setting waits for a restart.
    pub pending: bool,
    /// When the server started, in the form of the member record; `None` while it does not run.
    pub started_at: Option<String>,
}

/// How a restart stands.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Progress {
    /// It goes on.
    UnderWay,
    /// The server runs again.
    Done,
    /// The server did not stop, or did not start.
    Failed,
    /// The server still starts after its time.
    StillStarting,
    /// It could not even begin.
    NotBegun,
}

/// What to do about a scheduled restart.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Scheduled {
    /// Nothing yet.
    Keep,
    /// Its time has come.
    Begin,
    /// It is no longer to be done; why.
    Drop(&'static str),
}

impl Filters {
    /// Whether the server is one of those meant.
    pub fn match_facts(&self, facts: &Facts) -> bool {
        let role = self.role.as_ref().is_none_or(|role| *role == facts.role);
        let limit = self.postgres_version.as_deref().and_then(version_number);
        let version = self.postgres_version.is_none() || limit.is_some_and(|v| facts.server_version < v);
        role && version && (self.restart_pending.is_none() || facts.pending)
    }
}

/// `15.2` as 150002, `9.6.3` as 90603.
pub fn version_number(text: &str) -> Option<u32> {
    let parts: Vec<u32> = text.split('.').map(|part| part.parse().ok()).collect::<Option<_>>()?;
    let small = |n: &u32| *n < 100;
    match parts.as_slice() {
        [major @ 10..100, minor] if *minor < 10_000 => Some(major * 10_000 + minor),
        [major @ 1..10, minor, patch] if small(minor) && small(patch) => {
            Some(major * 10_000 + minor * 100 + patch)
        }
        _ => None,
    }
}

/// Whether a restart may begin at all; the error is the text for the operator.
pub fn judge(world: &World, filters: &Filters, facts: &Facts) -> Result<(), String> {
    if !filters.match_facts(facts) {
        return Err("restart conditions are not satisfied".to_owned());
    }
    if world.memory.shutdown {
        return Err("the agent is stopping".to_owned());
    }
    if world.memory.restart.is_some_and(|r| !r.failed) {
        return Err("restart already in progress".to_owned());
    }
    if world.memory.reinit.is_some() {
        return Err("reinitialize already in progress".to_owned());
    }
    let long = world.local.ongoing.get(&Slot::Postgres).filter(|o| !BRIEF.contains(&o.what));
    if let Some(ongoing) = long {
        return Err(format!("{} already in progress", ongoing.what));
    }
    match &world.local.data {
        DataDir::Present(_) => {}
        DataDir::Absent | DataDir::Spoiled | DataDir::Unreadable(_) => {
            return Err("there is no data to start PostgreSQL on".to_owned());
        }
    }
    let elsewhere = world.dcs.last_view().and_then(|v| v.leader.as_ref()).filter(|key| key.name != world.me);
    match elsewhere {
        // It could be stopped but never started again.
        Some(key) if is_primary(world) => Err(format!("this server is a primary, and {} leads", key.name)),
        Some(_) | None => Ok(()),
    }
}

/// What a restart only has to wait for.
const BRIEF: [&str; 2] = [action::FOLLOW, action::CHECKPOINT];

fn is_primary(world: &World) -> bool {
    world.may_write() || super::data::is_stopped_primary(world)
}

impl Restart {
    /// One that begins now.
    pub fn new(world: &World, id: u64, timeout: Option<Duration>) -> Restart {
        // One that does not run has only to be started.
        let stopped = (world.local.process == Process::Absent).then_some((world.now, None));
        Restart { id, asked_at: world.now, timeout, checkpointed: false, stopped, failed: false }
    }
}

/// How the restart `id` stands.
pub fn progress(world: &World, id: u64) -> Progress {
    let Some(restart) = world.memory.restart.filter(|r| r.id == id) else { return Progress::Done };
    match restart.stopped {
        _ if restart.failed => Progress::Failed,
        Some(_) if is_late(world) => Progress::StillStarting,
        None if is_late(world) => Progress::NotBegun,
        Some(_) | None => Progress::UnderWay,
    }
}

fn is_late(world: &World) -> bool {
    gives_up_at(world).is_some_and(|at| world.now >= at)
}

/// When the operator is told that it did not come about in time.
pub(super) fn gives_up_at(world: &World) -> Option<Tick> {
    let restart = world.memory.restart.filter(|r| !r.failed)?;
    let stops = world.local.ongoing.get(&Slot::Postgres).is_some_and(|o| o.what == action::STOP_TO_RESTART);
    match restart.stopped {
        Some((at, _)) => Some(at + start_limit(world)?),
        // The stop itself takes as long as it takes.
        None if stops => None,
        None => Some(restart.asked_at + BEGIN_LIMIT),
    }
}

/// How long the start of a restart may take; `None`: none is under way.
pub(super) fn start_limit(world: &World) -> Option<Duration> {
    let restart = world.memory.restart.filter(|r| r.stopped.is_some())?;
    let general = Some(world.settings.primary_start_timeout).filter(|limit| !limit.is_zero());
    Some(restart.timeout.or(general).unwrap_or(START_LIMIT))
}

/// Whether the server came not up again, or not in time, so that another should lead. `None`: no restart has stopped
/// it.
pub(super) fn is_spent(world: &World) -> Option<bool> {
    let restart = world.memory.restart?;
    let (at, _) = restart.stopped?;
    Some(restart.failed || world.now.since(at) >= start_limit(world)?)
}

/// Where the WAL ended, when a clean stop for a restart was the last thing that happened to it.
pub(super) fn shutdown_lsn(world: &World) -> Option<Lsn> {
    world.memory.restart.and_then(|r| r.stopped).and_then(|(_, lsn)| lsn)
}

/// What a restart shows itself as.
pub(super) fn state(world: &World) -> Option<MemberState> {
    let restart = world.memory.restart?;
    let stops = world.local.ongoing.get(&Slot::Postgres).is_some_and(|o| o.what == action::STOP_TO_RESTART);
    match world.local.process {
        _ if stops => Some(MemberState::Restarting),
        Process::Running => None,
        Process::Absent if restart.failed && restart.stopped.is_some() => Some(MemberState::RestartFailed),
        Process::Absent | Process::Starting { .. } | Process::Stopping => {
            restart.stopped.map(|_| MemberState::Restarting)
        }
    }
}

/// Whether a primary is only away for a moment, with its key.
pub(super) fn keeps_role(world: &World) -> bool {
    let leads = world.dcs.last_view().is_some_and(|view| matches!(world.holder(view), Holder::Me(_)));
    leads && state(world) == Some(MemberState::Restarting)
}

fn wanted(world: &World) -> Option<Restart> {
    world.memory.restart.filter(|r| r.stopped.is_none() && !r.failed)
}

/// The steps of the serving leader up to the stop.
pub(super) fn of_primary(world: &World) -> Option<Decision> {
    let restart = wanted(world)?;
    let request = Request::Restart(restart.id);
    let action = if restart.checkpointed {
        Action::StopToRestart { id: restart.id }
    } else {
        Action::Checkpoint { request }
    };
    Some(world.act(action, Reason::RequestedBy(request)))
}

/// The steps of a standby: commits must not wait for one that is about to go (contract 8.8).
pub(super) fn of_standby(world: &World, view: &ClusterView) -> Option<Decision> {
    let restart = wanted(world)?;
    let until = restart.asked_at + world.settings.loop_wait * 2;
    if is_waited_for(world, view) && world.now < until {
        return Some(world.wait_until(until, Reason::LeavingSync));
    }
    let request = Request::Restart(restart.id);
    Some(world.act(Action::StopToRestart { id: restart.id }, Reason::RequestedBy(request)))
}

/// Whether this standby has to leave `sync` first, and so calls itself `nosync`.
pub(super) fn leaves_sync(world: &World) -> bool {
    let Dcs::Known(view) = &world.dcs else { return false };
    let ongoing = world.local.ongoing.get(&Slot::Postgres);
    let stops = ongoing.is_some_and(|o| [action::STOP_TO_RESTART, action::COPY_SLOTS].contains(&o.what));
    let follows = matches!(world.holder(view), Holder::Other(_)) && world.settings.synchronous_mode.is_on();
    let copies = || world.local.sql.as_ref().and_then(|sql| following::slots_to_copy(world, view, sql));
    follows && (stops || wanted(world).is_some() || copies().is_some())
}

/// Whether commits may wait for this standby.
pub(super) fn is_waited_for(world: &World, view: &ClusterView) -> bool {
    let sync = view.sync.as_ref().map(|s| &s.value).filter(|s| s.leader.is_some());
    world.settings.synchronous_mode.is_on() && sync.is_some_and(|s| s.has_standby(&world.me))
}

/// The start of a standby that was stopped to be restarted.
pub(super) fn start_standby(world: &World, upstream: Option<Upstream>) -> Option<Decision> {
    let restart = world.memory.restart.filter(|r| r.stopped.is_some() && !r.failed)?;
    let standby = matches!(&world.local.data, DataDir::Present(control) if control.standby);
    let starts = world.local.process == Process::Absent && standby;
    let reason = Reason::RequestedBy(Request::Restart(restart.id));
    starts.then(|| world.act(Action::StartStandby { upstream }, reason))
}

/// The start of a stopped primary in pause, where no other rule starts anything: under our key, which is taken first
/// where nobody has it.
pub(super) fn start_primary_in_pause(world: &World, view: &ClusterView) -> Option<Decision> {
    let restart = world.memory.restart.filter(|r| r.stopped.is_some() && !r.failed)?;
    if !super::data::is_stopped_primary(world) {
        return None;
    }
    let reason = Reason::RequestedBy(Request::Restart(restart.id));
    match world.holder(view) {
        Holder::Me(_) => Some(world.act(Action::StartPrimary, reason)),
        Holder::Nobody => Some(world.act(Action::Campaign, reason)),
        Holder::MyName(_) | Holder::Other(_) => None,
    }
}

/// When the scheduled restart is due, where that lies ahead.
pub(super) fn scheduled_at(world: &World) -> Option<Tick> {
    schedule::later(world, &world.memory.scheduled_restart.as_ref()?.schedule)
}

/// What to do about the scheduled restart. `started_at`: when the server started; `None` while it does not run.
pub fn scheduled(world: &World, facts: &Facts) -> Option<Scheduled> {
    let restart = world.memory.scheduled_restart.as_ref()?;
    let before = restart.postmaster_start_time.as_ref();
    if let (Some(now), Some(before)) = (&facts.started_at, before)
        && now != before
    {
        return Some(Scheduled::Drop("PostgreSQL was restarted since"));
    }
    if world.settings.pause {
        return Some(Scheduled::Keep);
    }
    Some(match schedule::when(world, &restart.schedule) {
        When::Later(_) | When::Unknown => Scheduled::Keep,
        When::Stale => Scheduled::Drop("its time has passed"),
        When::Unreadable => Scheduled::Drop("its time cannot be read"),
        When::Now if !world.free(Slot::Postgres) => Scheduled::Keep,
        When::Now => Scheduled::Begin,
    })
}
