//! Decisions in Patroni's words: what operators, their alerts and their habits look for in the log (texts of 4.1).
//!
//! Patroni says one line each time its loop turns; this agent's turns are many and short, so that a line is said when
//! there is something new, and once per `loop_wait` while there is not.

use std::time::Duration;

use pgvane_cluster::clock::Tick;
use pgvane_cluster::ids::NodeName;

use crate::decide::world::{LocalRole, Slot, World};
use crate::decide::{Action, Decision, Outcome, Reason, Request};

/// A line for the log.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Said {
    /// How bad it is.
    pub level: Level,
    /// What is said.
    pub text: String,
}

/// How bad a line is.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Level {
    /// As it should be.
    Info,
    /// Worth a look.
    Warning,
    /// Wrong.
    Error,
}

/// What the words depend on besides the decision.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Scene {
    /// This member.
    pub me: NodeName,
    /// Who holds the leader key.
    pub owner: Option<NodeName>,
    /// Whether pause is on.
    pub paused: bool,
    /// Whether the local server is a primary.
    pub primary: bool,
    /// What an operator has asked for.
    pub wish: Option<Wish>,
}

/// What an operator has asked for.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Wish {
    /// Who leads now, as far as the operator knew; absent for a failover.
    pub leader: Option<NodeName>,
    /// When.
    pub scheduled_at: Option<String>,
}

impl Scene {
    /// The scene of a world.
    pub fn of(world: &World) -> Scene {
        let view = world.dcs.last_view();
        let wish = view.and_then(|view| view.failover.as_ref()).map(|request| Wish {
            leader: request.value.leader.clone(),
            scheduled_at: request.value.scheduled_at.clone(),
        });
        Scene {
            me: world.me.clone(),
            owner: view.and_then(|view| view.leader.as_ref()).map(|leader| leader.name.clone()),
            paused: world.settings.pause,
            primary: world.local.role == LocalRole::Primary,
            wish,
        }
    }

    fn leads(&self) -> bool {
        self.owner.as_ref() == Some(&self.me)
    }

    fn wish(&self) -> &'static str {
        let switchover = self.wish.as_ref().is_some_and(|wish| wish.leader.is_some());
        if switchover { "switchover" } else { "manual failover" }
    }

    /// The same without "manual".
    fn bare_wish(&self) -> &'static str {
        self.wish().trim_start_matches("manual ")
    }

    fn demoting(&self) -> Words {
        Words::result(format!("{}: demoting myself", self.wish()))
    }

    /// "Nothing to do", which is said again and again.
    fn heartbeat(&self) -> Words {
        let me = &self.me;
        Words::result(match (&self.owner, self.leads(), self.primary) {
            (_, true, _) => format!("no action. I am ({me}), the leader with the lock"),
            (None, false, true) if self.paused => "continue to run as primary without lock".to_owned(),
            (None, false, _) => format!("no action. I am ({me})"),
            (Some(owner), false, _) => {
                format!("no action. I am ({me}), a secondary, and following a leader ({owner})")
            }
        })
    }
}

/// What a decision is called: how it came to it, and the result of the turn.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
struct Words {
    before: Vec<Said>,
    result: Option<String>,
}

impl Words {
    fn result(text: impl Into<String>) -> Words {
        Words { before: vec![], result: Some(text.into()) }
    }

    fn first(level: Level, text: impl Into<String>) -> Words {
        Words { before: vec![Said { level, text: text.into() }], result: None }
    }

    fn then(self, result: impl Into<String>) -> Words {
        Words { result: Some(result.into()), ..self }
    }
}

const LOST: &str = "following a different leader because i am not the healthiest node";
const NO_STORE: &str = "demoting self because DCS is not accessible and I was a leader";
const NO_LOCK: &str = "demoting self because I do not have the lock and I was a leader";

/// The words for a decision; `None`: Patroni has none for it. `fresh`: the leader key was won just now.
fn words(scene: &Scene, action: &Action, reason: &Reason, fresh: bool) -> Option<Words> {
    match action {
        Action::Wait => waiting(scene, reason, fresh),
        Action::Bootstrap => Some(Words::result("trying to bootstrap a new cluster")),
        Action::Clone { from } => {
            Some(Words::result(format!("trying to bootstrap {}", source(scene, Some(&from.name)))))
        }
        Action::CloneAlone => Some(Words::result(format!("trying to bootstrap {}", source(scene, None)))),
        Action::StartPrimary => Some(Words::result("starting primary after failure")),
        Action::StartStandby { .. } | Action::Rejoin { .. } if scene.leads() => {
            Some(Words::result("starting as readonly because i had the session lock"))
        }
        Action::StartStandby { .. } => Some(Words::result("starting as a secondary")),
        Action::Rejoin { .. } => match reason {
            Reason::NotRunning => Some(Words::result("starting as a secondary")),
            _ => None,
        },
        Action::Follow { .. } if scene.leads() => {
            Some(Words::result("promoted self to a standby leader because i had the session lock"))
        }
        Action::Follow { .. } => Some(Words::result(LOST)),
        Action::Promote { .. } => Some(Words::result(if fresh {
            "promoted self to leader by acquiring session lock"
        } else {
            "promoted self to leader because I had the session lock"
        })),
        Action::Checkpoint { request } | Action::StopToHandOver { request } => match request {
            Request::Operator(_) => Some(scene.demoting()),
            Request::Restart(_) => Some(Words::result("restart in progress")),
            Request::Shutdown => None,
        },
        Action::StopToRestart { .. } => Some(Words::result("restart in progress")),
        Action::Stop { .. } => stopping(reason),
        Action::Release { .. } => Some(match reason {
            Reason::CannotServe => {
                Words::result("removed leader key after trying and failing to start postgres")
            }
            Reason::PrePromoteFailed => Words::first(
                Level::Warning,
                "Releasing the leader key voluntarily because the pre-promote script failed",
            )
            .then("Promotion cancelled because the pre-promote script failed"),
            Reason::WatchdogFailed => {
                Words::result("Not promoting self because watchdog could not be activated")
            }
            _ => Words::first(Level::Info, "Leader key released"),
        }),
        Action::ClearRequest { .. } => Some(clearing(scene, reason)),
        Action::RequestNow { .. } => {
            let at = scene.wish.as_ref().and_then(|wish| wish.scheduled_at.as_deref()).unwrap_or("now");
            let text = format!("Manual scheduled {} at {at}", scene.bare_wish());
            Some(Words::first(Level::Info, text))
        }
        Action::SetStandbyNames { names: Some(names), .. } => {
            let text = format!("Assigning synchronous standby status to {names}");
            Some(Words::first(Level::Info, text))
        }
        Action::SetStandbyNames { names: None, .. } | Action::DeleteSyncKey { .. } => {
            Some(Words::first(Level::Info, "Disabled synchronous replication"))
        }
        Action::WriteSyncKey { record, .. } => {
            let names = record.sync_standby.as_deref().unwrap_or_default();
            Some(Words::first(Level::Info, format!("Synchronous standby status assigned to [{names}]")))
        }
        Action::Halt => halting(scene, reason),
        // Steps on the way to something that has a line of its own.
        Action::RaceInitialize
        | Action::SetInitialize { .. }
        | Action::WriteConfig
        | Action::CopySlots { .. }
        | Action::PollPeers
        | Action::Campaign
        | Action::TakeOverKey
        | Action::ArmGuard { .. }
        | Action::DisarmGuard
        | Action::AskFailsafe { .. }
        | Action::Exit => None,
    }
}

/// Where a copy comes from.
fn source(scene: &Scene, from: Option<&NodeName>) -> String {
    match from {
        None => "(without leader)".to_owned(),
        Some(name) if scene.owner.as_ref() == Some(name) => format!("from leader '{name}'"),
        Some(name) => format!("from replica '{name}'"),
    }
}

#[expect(clippy::too_many_lines, reason = "a table")]
fn waiting(scene: &Scene, reason: &Reason, fresh: bool) -> Option<Words> {
    let lost = || Words::result(LOST);
    Some(match reason {
        // A server that was a primary already has nothing to be promoted to.
        Reason::Leading if fresh => Words::result("acquired session lock as a leader"),
        Reason::Leading
        | Reason::CandidatesBound
        | Reason::Following
        | Reason::LeaderNotServing(_)
        | Reason::HistoryExpected(_)
        | Reason::Paused => scene.heartbeat(),
        Reason::StandbyLeading => {
            Words::result(format!("no action. I am ({}), the standby leader with the lock", scene.me))
        }
        Reason::OlderTimeline => {
            Words::first(Level::Info, "My timeline is behind the timeline of the cluster").then(LOST)
        }
        Reason::StoreAway => {
            Words::first(Level::Error, "Error communicating with DCS").then("DCS is not accessible")
        }
        Reason::Vouched => Words::result(
            "continue to run as a leader because failsafe mode is enabled and all members are accessible",
        ),
        Reason::WaitForFirstLeader => Words::result("waiting for leader to bootstrap"),
        Reason::Starting if scene.leads() => Words::result("PostgreSQL is still starting up"),
        Reason::Starting => Words::first(Level::Info, "Still starting up as a standby."),
        Reason::DataUnreadable(why) => Words::result(format!("data directory is not accessible: {why}")),
        Reason::PrimaryAlive(name) => {
            Words::first(Level::Warning, format!("Primary ({name}) is still alive")).then(LOST)
        }
        Reason::BehindPeer(name) => {
            let text = format!("Wal position of {name} is ahead of my wal position");
            Words::first(Level::Info, text).then(LOST)
        }
        Reason::TooFarBehind => {
            Words::first(Level::Info, "My wal position exceeds maximum replication lag").then(LOST)
        }
        Reason::PrePromoteFailed => Words::first(
            Level::Info,
            "backoff: skip leader race after pre_promote script failure and releasing the lock voluntarily",
        )
        .then(LOST),
        Reason::WatchdogFailed => Words::first(Level::Warning, "Watchdog device is not usable").then(LOST),
        Reason::NoFailoverTag => {
            Words::result("following a different leader because I am not allowed to promote")
        }
        Reason::AfterPeer(_)
        | Reason::CandidateNamed(_)
        | Reason::Diverged
        | Reason::NotSynchronous
        | Reason::NotInFailsafe
        | Reason::PositionUnknown
        | Reason::LetOthersLead => lost(),
        Reason::PausedWithoutCandidate => clearing(scene, reason),
        Reason::Busy(_)
        | Reason::NoLease
        | Reason::LostKeyTo(_)
        | Reason::KeyVanished
        | Reason::NoAuthority
        | Reason::RenewalLate
        | Reason::NeedConsent
        | Reason::WeVouchedFor(_)
        | Reason::KeyUnderOldLease
        | Reason::Crashed
        | Reason::StartTimeout
        | Reason::GuardNotArmed
        | Reason::GuardNotNeeded
        | Reason::WonKey
        | Reason::RequestedBy(_)
        | Reason::RequestForAnotherLeader
        | Reason::RequestForLeader
        | Reason::NoCandidate
        | Reason::CandidateReady(_)
        | Reason::HandOverTimeout
        | Reason::Shutdown
        | Reason::NewCluster
        | Reason::NoData
        | Reason::DataSpoiled
        | Reason::ForeignData { .. }
        | Reason::StandbyMayNotBeFirst
        | Reason::InitializeMissing
        | Reason::ConfigMissing
        | Reason::NotRunning
        | Reason::WrongUpstream
        | Reason::CannotStream
        | Reason::StartsOfNobody
        | Reason::BackOff
        | Reason::RaceNeedsAnswers
        | Reason::BestCandidate
        | Reason::CannotServe
        | Reason::Reinitialize
        | Reason::RewindRequested
        | Reason::ScheduleIsDue
        | Reason::ScheduleIsStale
        | Reason::ScheduleIsUnreadable
        | Reason::LeavingSync
        | Reason::SyncBegins
        | Reason::SyncChanges
        | Reason::SyncIsOff
        | Reason::SyncFirst
        | Reason::StandbysCatchUp(_)
        | Reason::NobodyConfirms(_)
        | Reason::HoldsAll(_)
        | Reason::VotesMissing { .. }
        | Reason::SlotsMissing
        | Reason::WalStillComes
        | Reason::StandbyCluster
        | Reason::RestartFailed
        | Reason::StartFailed
        | Reason::BootstrapFailed => return None,
    })
}

fn stopping(reason: &Reason) -> Option<Words> {
    Some(match reason {
        Reason::LostKeyTo(_) | Reason::NoAuthority => Words::result(NO_LOCK),
        Reason::KeyVanished => Words::first(Level::Error, "failed to update leader lock")
            .then("demoted self because failed to update leader lock in DCS"),
        Reason::RenewalLate | Reason::StoreAway | Reason::NeedConsent => Words::first(Level::Info, NO_STORE),
        Reason::StartTimeout => {
            Words::first(Level::Info, "Demoting self because primary startup is taking too long")
                .then("stopped PostgreSQL because of startup timeout")
        }
        Reason::WatchdogFailed => Words::result("Demoting self because watchdog could not be activated"),
        _ => return None,
    })
}

fn clearing(scene: &Scene, reason: &Reason) -> Words {
    let (wish, bare) = (scene.wish(), scene.bare_wish());
    let warning = match reason {
        Reason::NoCandidate => Some(format!("{wish}: no healthy members found, {bare} is not possible")),
        Reason::RequestForLeader => Some(format!("{wish}: I am already the leader, no need to {bare}")),
        Reason::RequestForAnotherLeader => {
            let named = scene.wish.as_ref().and_then(|wish| wish.leader.as_ref());
            let named = named.map_or_else(String::new, ToString::to_string);
            Some(format!("{wish}: leader name does not match: {named} != {}", scene.me))
        }
        Reason::PausedWithoutCandidate => {
            let title: String = match wish {
                "switchover" => "Switchover".to_owned(),
                _ => "Manual Failover".to_owned(),
            };
            Some(format!("{title} is possible only to a specific candidate in a paused state"))
        }
        Reason::ScheduleIsStale => {
            let at = scene.wish.as_ref().and_then(|wish| wish.scheduled_at.as_deref()).unwrap_or_default();
            Some(format!("Found a stale {bare} value, cleaning up: {at}"))
        }
        Reason::ScheduleIsUnreadable => {
            let at = scene.wish.as_ref().and_then(|wish| wish.scheduled_at.as_deref()).unwrap_or_default();
            Some(format!("Incorrect value of scheduled_at: {at}"))
        }
        _ => None,
    };
    let cleaning = if scene.leads() && matches!(reason, Reason::WonKey) {
        "Cleaning up failover key after acquiring leader lock..."
    } else {
        "Cleaning up failover key"
    };
    let warning = warning.map(|text| Said { level: Level::Warning, text });
    let cleaning = Said { level: Level::Info, text: cleaning.to_owned() };
    Words { before: warning.into_iter().chain([cleaning]).collect(), result: None }
}

fn halting(scene: &Scene, reason: &Reason) -> Option<Words> {
    match reason {
        Reason::ForeignData { cluster, ours } => Some(Words::first(
            Level::Error,
            format!(
                "system ID mismatch, node {} belongs to a different cluster: {cluster} != {ours}",
                scene.me
            ),
        )),
        Reason::StandbyMayNotBeFirst => {
            let texts = [
                "No initialize key in DCS and PostgreSQL is running as replica, aborting start",
                "Please first start Patroni on the node running as primary",
            ];
            let error = |text: &str| Said { level: Level::Error, text: text.to_owned() };
            Some(Words { before: texts.map(error).to_vec(), result: None })
        }
        _ => None,
    }
}

/// Says what happens, each thing once.
#[derive(Debug, Default)]
pub struct Narrator {
    /// Whether the leader key was last won by a race, and nothing was said of it yet.
    fresh: bool,
    /// The decision that was told last.
    last: Option<(&'static str, Reason)>,
    /// The heartbeat that was told last, and when.
    heartbeat: Option<(String, Tick)>,
    /// Where the copy under way comes from.
    copying: Option<String>,
    /// Whether the stop under way is because the store is away.
    without_store: bool,
}

impl Narrator {
    /// What is to be said of a decision. A heartbeat is said again after `every`; `None`: only when it is another.
    pub fn decided(
        &mut self,
        scene: &Scene,
        decision: &Decision,
        now: Tick,
        every: Option<Duration>,
    ) -> Vec<Said> {
        let Decision { action, reason, .. } = decision;
        // Waiting for an effect says nothing new.
        if matches!(reason, Reason::Busy(_)) {
            return vec![];
        }
        let key = (action.label(), reason.clone());
        let is_new = self.last.as_ref() != Some(&key);
        let words = words(scene, action, reason, self.fresh);
        self.note(scene, action, reason);
        let Some(words) = words else {
            if !is_new {
                return vec![];
            }
            self.last = Some(key);
            let level = if matches!(action, Action::Halt) { Level::Error } else { Level::Info };
            return vec![Said { level, text: format!("{}: {reason}", action.label()) }];
        };
        let result = words.result.map(|text| if scene.paused { format!("PAUSE: {text}") } else { text });
        let beats = result
            .as_deref()
            .is_some_and(|text| text.trim_start_matches("PAUSE: ").starts_with("no action. "));
        if beats {
            self.last = Some(key);
            return self.beat(result, now, every);
        }
        if !is_new {
            return vec![];
        }
        self.last = Some(key);
        self.heartbeat = None;
        let owner = scene.owner.as_ref().map_or_else(|| "None".to_owned(), ToString::to_string);
        let lock = result.is_some().then(|| format!("Lock owner: {owner}; I am {}", scene.me));
        let info = |text| Said { level: Level::Info, text };
        lock.map(info).into_iter().chain(words.before).chain(result.map(info)).collect()
    }

    fn beat(&mut self, text: Option<String>, now: Tick, every: Option<Duration>) -> Vec<Said> {
        let Some(text) = text else { return vec![] };
        let is_due = match &self.heartbeat {
            Some((before, at)) if *before == text => every.is_some_and(|every| now.since(*at) >= every),
            Some(_) | None => true,
        };
        if !is_due {
            return vec![];
        }
        self.heartbeat = Some((text.clone(), now));
        vec![Said { level: Level::Info, text }]
    }

    fn note(&mut self, scene: &Scene, action: &Action, reason: &Reason) {
        match action {
            Action::Campaign => self.fresh = true,
            Action::Promote { .. } => self.fresh = false,
            Action::Wait if matches!(reason, Reason::Leading | Reason::Following) => self.fresh = false,
            Action::Clone { from } => self.copying = Some(source(scene, Some(&from.name))),
            Action::CloneAlone => self.copying = Some(source(scene, None)),
            Action::Stop { .. } => {
                let away = [Reason::RenewalLate, Reason::StoreAway, Reason::NeedConsent];
                self.without_store = away.contains(reason);
            }
            _ => {}
        }
    }

    /// What is to be said of the end of an effect.
    pub fn ended(&mut self, slot: Slot, outcomes: &[Outcome]) -> Vec<Said> {
        let info = |text: &str| Said { level: Level::Info, text: text.to_owned() };
        let mut said = Vec::new();
        if outcomes.contains(&Outcome::Bootstrapped) {
            said.push(info("initialized a new cluster"));
        }
        if slot != Slot::Postgres {
            return said;
        }
        let done = outcomes.contains(&Outcome::Done(Slot::Postgres));
        if let Some(source) = self.copying.take() {
            said.push(if done {
                info(&format!("bootstrapped {source}"))
            } else {
                Said { level: Level::Error, text: format!("failed to bootstrap {source}") }
            });
        }
        if std::mem::take(&mut self.without_store) && done {
            said.push(info("demoted self because DCS is not accessible and I was a leader"));
        }
        said
    }
}

/// A log line of Patroni's own from within an effect.
macro_rules! patroni_info {
    ($($said:tt)+) => {
        ::tracing::info!(target: $crate::telemetry::PATRONI, $($said)+)
    };
}
pub(crate) use patroni_info;

/// Writes lines to the log; formats other than Patroni's leave them out.
pub fn tell(said: Vec<Said>) {
    for Said { level, text } in said {
        match level {
            Level::Info => tracing::info!(target: super::PATRONI, "{text}"),
            Level::Warning => tracing::warn!(target: super::PATRONI, "{text}"),
            Level::Error => tracing::error!(target: super::PATRONI, "{text}"),
        }
    }
}

#[cfg(test)]
#[path = "patroni_tests.rs"]
mod tests;
