//! What the guard does, as a pure state machine: no I/O, no clock, so that a simulation runs the very same code.
//!
//! Keeps S1 when everything else fails: armed, it lets no instant pass `deadline` without ordering PostgreSQL to
//! be stopped. The rules it never breaks (the property test below checks them over random histories):
//! 1. An event handled at or after the deadline finds the guard acting, whatever the event asks.
//! 2. Under one epoch and lease the deadline never moves back, and never past what the lease can last.
//! 3. A lease is revoked only right after no process of the data directory was found, and a lease it began
//!    to revoke is never armed again.
//! 4. Once it acted, nothing but the agent's word (`Disarm`, or `Arm` with another lease) lets PostgreSQL run.

use std::time::Duration;

use pgvane_cluster::clock::Tick;
use pgvane_cluster::ids::{Epoch, LeaseId};

/// Pause between two sweeps that found processes still there.
const KILL_EVERY: Duration = Duration::from_millis(20);

/// Pause between two looks for processes that should not be, soon after the fence went up and later.
const SWEEP_SOON: Duration = Duration::from_millis(50);
const SWEEP_LATER: Duration = Duration::from_secs(1);

/// How long a fence is swept closely, and how long it stays up after its agent died: a server that the agent
/// had just begun to start appears late.
const LINGER: Duration = Duration::from_secs(3);

/// Pause between attempts to revoke a lease.
const REVOKE_EVERY: Duration = Duration::from_millis(100);

/// How long an armed guard whose agent died waits for a server that the agent may just have started.
const SETTLE: Duration = Duration::from_secs(1);

/// How long a new guard waits for its first agent.
const FIRST_AGENT_WITHIN: Duration = Duration::from_secs(10);

/// What the guard watches over: one reign under one lease.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Watch {
    /// The reign.
    pub epoch: Epoch,
    /// The lease that backs it.
    pub lease: LeaseId,
    /// The time the lease is granted for: no deadline may lie further ahead.
    pub ttl: Duration,
    /// When PostgreSQL must be stopped hard.
    pub deadline: Tick,
    /// How long after the deadline the last process must be dead.
    pub budget: Duration,
}

impl Watch {
    /// When a polite (immediate) stop has had its share of the budget.
    fn kill_at(&self) -> Tick {
        self.deadline + self.budget / 3
    }
}

/// What is known of the server of an armed guard.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Server {
    /// The agent is about to start it, or did not name its postmaster.
    Awaited,
    /// Its postmaster lives.
    Alive,
    /// Its postmaster died.
    Gone,
}

/// Why PostgreSQL was stopped.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Cause {
    /// The deadline passed.
    Deadline,
    /// Agent and postmaster are both dead: orphan processes may still confirm commits.
    BothDead,
}

/// How far giving the lease back has come.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Revocation {
    /// To be asked for at this time.
    Due(Tick),
    /// Asked for, not answered.
    InFlight,
    /// The store confirmed it.
    Done,
    /// The lease must have ended by itself.
    Moot,
}

/// What the guard is doing.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Phase {
    /// Nothing: this node is not primary.
    Idle,
    /// Holding the deadline.
    Armed {
        /// What is watched.
        watch: Watch,
        /// Its server.
        server: Server,
    },
    /// The postmaster was told to stop at once.
    Stopping {
        /// What was watched.
        watch: Watch,
    },
    /// Every process of the data directory is being killed.
    Killing {
        /// What was watched.
        watch: Watch,
        /// Why.
        cause: Cause,
        /// When to sweep again.
        again_at: Tick,
    },
    /// No process of the data directory runs, and none may.
    Fenced {
        /// What was watched.
        watch: Watch,
        /// Since when.
        since: Tick,
        /// When to look again.
        sweep_at: Tick,
        /// The lease.
        revocation: Revocation,
    },
}

/// The guard's whole memory.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct State {
    /// What it is doing.
    pub phase: Phase,
    /// The last lease it began to revoke.
    pub spent: Option<LeaseId>,
    /// Since when there has been no agent; `None` while one is connected or at least alive.
    pub agent_gone_since: Option<Tick>,
    had_agent: bool,
}

impl State {
    /// A guard just started, waiting for its first agent.
    pub fn new(now: Tick) -> State {
        State { phase: Phase::Idle, spent: None, agent_gone_since: Some(now), had_agent: false }
    }

    /// What the guard watches or watched.
    pub fn watch(&self) -> Option<Watch> {
        match self.phase {
            Phase::Idle => None,
            Phase::Armed { watch, .. }
            | Phase::Stopping { watch }
            | Phase::Killing { watch, .. }
            | Phase::Fenced { watch, .. } => Some(watch),
        }
    }

    /// When [`Event::Tick`] is due at the latest; `None`: only an event can change anything.
    pub fn wake_at(&self) -> Option<Tick> {
        match self.phase {
            Phase::Idle => self.agent_gone_since.map(|gone| gone + FIRST_AGENT_WITHIN),
            Phase::Armed { watch, server } => Some(match (server, self.agent_gone_since) {
                (Server::Awaited, Some(gone)) => watch.deadline.min(gone + SETTLE),
                _ => watch.deadline,
            }),
            Phase::Stopping { watch } => Some(watch.kill_at()),
            Phase::Killing { again_at, .. } => Some(again_at),
            Phase::Fenced { since, sweep_at, revocation, .. } => {
                let mut at = sweep_at;
                if let Revocation::Due(due) = revocation {
                    at = at.min(due);
                }
                if self.may_leave(revocation) {
                    at = at.min(since + LINGER);
                }
                Some(at)
            }
        }
    }

    fn may_leave(&self, revocation: Revocation) -> bool {
        self.agent_gone_since.is_some() && matches!(revocation, Revocation::Done | Revocation::Moot)
    }
}

/// What happened.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Event {
    /// An agent said hello.
    AgentPresent,
    /// The agent's process ended, or it closed its connection to a guard that holds nothing.
    AgentGone,
    /// The agent wants this reign watched.
    Arm {
        /// What to watch.
        watch: Watch,
        /// Whether the postmaster is known and runs; else it is awaited.
        server: Server,
    },
    /// The lease was renewed, or every member vouched.
    Extend {
        /// The lease.
        lease: LeaseId,
        /// The new deadline.
        deadline: Tick,
    },
    /// The agent vouches that PostgreSQL is stopped or cannot accept writes.
    Disarm,
    /// The awaited postmaster was found.
    PostgresFound,
    /// The postmaster ended.
    PostgresGone,
    /// A sweep found no process of the data directory.
    ProcessesGone,
    /// A sweep found processes, killed them, and they have not all ended.
    ProcessesLeft,
    /// The store confirmed that the lease is gone.
    Revoked(LeaseId),
    /// The store did not.
    RevokeFailed(LeaseId),
    /// Time passed.
    Tick,
}

/// What to do now.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Command {
    /// Nothing.
    Nothing,
    /// Tell the postmaster to stop at once (SIGQUIT).
    StopImmediate,
    /// SIGKILL every process of the data directory; answer [`Event::ProcessesGone`] or
    /// [`Event::ProcessesLeft`].
    KillAll,
    /// Revoke this lease without delay; answer [`Event::Revoked`] or [`Event::RevokeFailed`].
    RevokeLease(LeaseId),
    /// End the guard.
    Exit,
}

/// Why the agent's wish was not granted.
#[derive(Clone, Copy, PartialEq, Eq, Debug, thiserror::Error)]
pub enum Refusal {
    /// Too late: PostgreSQL is being stopped or was stopped.
    #[error("PostgreSQL is being stopped or was stopped by the guard")]
    Stopped,
    /// The deadline asked for has passed already; PostgreSQL is being stopped.
    #[error("the deadline has passed already")]
    DeadlinePassed,
    /// The guard has begun to give this lease back.
    #[error("the guard gave this lease back")]
    LeaseSpent,
    /// The guard watches over another lease or over none.
    #[error("the guard does not watch over this lease")]
    NotWatched,
}

/// Handles one event: changes `state`, says what to do, and whether the agent's wish was refused.
pub fn step(state: &mut State, event: Event, now: Tick) -> (Command, Option<Refusal>) {
    // Time first: no wish of the agent can be younger than a deadline that has passed (rule 1).
    if let Phase::Armed { watch, .. } = state.phase
        && now >= watch.deadline
        && event != Event::Disarm
    {
        note_agent(state, event, now);
        let refusal = match event {
            Event::Arm { .. } | Event::Extend { .. } => Some(Refusal::Stopped),
            _ => None,
        };
        return (fire(state, watch, now), refusal);
    }
    note_agent(state, event, now);
    match event {
        Event::Arm { watch, server } => arm(state, watch, server, now),
        Event::Extend { lease, deadline } => (Command::Nothing, extend(state, lease, deadline, now)),
        Event::Disarm => {
            state.phase = Phase::Idle;
            (Command::Nothing, None)
        }
        Event::AgentPresent | Event::AgentGone | Event::PostgresFound | Event::PostgresGone | Event::Tick => {
            (advance(state, event, now), None)
        }
        Event::ProcessesGone | Event::ProcessesLeft => {
            (swept(state, event == Event::ProcessesGone, now), None)
        }
        Event::Revoked(lease) | Event::RevokeFailed(lease) => {
            revoke_answered(state, lease, matches!(event, Event::Revoked(_)), now);
            (advance(state, event, now), None)
        }
    }
}

fn note_agent(state: &mut State, event: Event, now: Tick) {
    match event {
        Event::AgentPresent | Event::Arm { .. } | Event::Extend { .. } | Event::Disarm => {
            state.agent_gone_since = None;
            state.had_agent = true;
        }
        Event::AgentGone => {
            state.agent_gone_since.get_or_insert(now);
        }
        _ => {}
    }
}

fn fire(state: &mut State, watch: Watch, now: Tick) -> Command {
    // Woken too late (a suspended machine): politeness would only lengthen the time of two primaries.
    if now >= watch.kill_at() {
        kill(state, watch, Cause::Deadline, now)
    } else {
        state.phase = Phase::Stopping { watch };
        Command::StopImmediate
    }
}

fn kill(state: &mut State, watch: Watch, cause: Cause, now: Tick) -> Command {
    state.phase = Phase::Killing { watch, cause, again_at: now + KILL_EVERY };
    Command::KillAll
}

fn arm(state: &mut State, asked: Watch, server: Server, now: Tick) -> (Command, Option<Refusal>) {
    let mut watch = Watch { deadline: asked.deadline.min(now + asked.ttl), ..asked };
    match state.phase {
        Phase::Stopping { .. } | Phase::Killing { .. } => return (Command::Nothing, Some(Refusal::Stopped)),
        Phase::Armed { watch: held, .. } if held.epoch == asked.epoch && held.lease == asked.lease => {
            watch.deadline = watch.deadline.max(held.deadline);
        }
        Phase::Idle | Phase::Armed { .. } | Phase::Fenced { .. } => {}
    }
    if state.spent == Some(asked.lease) {
        return (Command::Nothing, Some(Refusal::LeaseSpent));
    }
    if now >= watch.deadline {
        return (fire(state, watch, now), Some(Refusal::DeadlinePassed));
    }
    state.phase = Phase::Armed { watch, server };
    (Command::Nothing, None)
}

fn extend(state: &mut State, lease: LeaseId, deadline: Tick, now: Tick) -> Option<Refusal> {
    match &mut state.phase {
        Phase::Armed { watch, .. } if watch.lease == lease => {
            watch.deadline = watch.deadline.max(deadline.min(now + watch.ttl));
            None
        }
        Phase::Armed { .. } | Phase::Idle => Some(Refusal::NotWatched),
        Phase::Stopping { .. } | Phase::Killing { .. } | Phase::Fenced { .. } => Some(Refusal::Stopped),
    }
}

/// What follows from the state alone, for every event that is not a wish or an answer to a sweep.
fn advance(state: &mut State, event: Event, now: Tick) -> Command {
    match state.phase {
        Phase::Idle => match state.agent_gone_since {
            Some(_) if state.had_agent => Command::Exit,
            Some(gone) if now >= gone + FIRST_AGENT_WITHIN => Command::Exit,
            _ => Command::Nothing,
        },
        Phase::Armed { watch, server } => {
            let server = match event {
                Event::PostgresFound => Server::Alive,
                Event::PostgresGone => Server::Gone,
                _ => server,
            };
            state.phase = Phase::Armed { watch, server };
            match (server, state.agent_gone_since) {
                (Server::Gone, Some(_)) => kill(state, watch, Cause::BothDead, now),
                (Server::Awaited, Some(gone)) if now >= gone + SETTLE => {
                    kill(state, watch, Cause::BothDead, now)
                }
                _ => Command::Nothing,
            }
        }
        Phase::Stopping { watch } if event == Event::PostgresGone || now >= watch.kill_at() => {
            kill(state, watch, Cause::Deadline, now)
        }
        Phase::Killing { watch, cause, again_at } if now >= again_at => kill(state, watch, cause, now),
        Phase::Stopping { .. } | Phase::Killing { .. } => Command::Nothing,
        Phase::Fenced { watch, since, sweep_at, mut revocation } => {
            if let Revocation::Due(_) = revocation
                && now >= since + watch.ttl
            {
                revocation = Revocation::Moot;
            }
            let due = now >= sweep_at || matches!(revocation, Revocation::Due(at) if now >= at);
            let leave = state.may_leave(revocation) && now >= since + LINGER;
            let sweep_at = if due { now + sweep_pause(since, now) } else { sweep_at };
            state.phase = Phase::Fenced { watch, since, sweep_at, revocation };
            if leave {
                Command::Exit
            } else if due {
                Command::KillAll
            } else {
                Command::Nothing
            }
        }
    }
}

fn sweep_pause(since: Tick, now: Tick) -> Duration {
    if now < since + LINGER { SWEEP_SOON } else { SWEEP_LATER }
}

/// What follows from the answer to a sweep.
fn swept(state: &mut State, clean: bool, now: Tick) -> Command {
    match state.phase {
        // The agent came back before the last process was gone and watches over its server again.
        Phase::Killing { watch, cause: Cause::BothDead, .. } if clean && state.agent_gone_since.is_none() => {
            state.phase = Phase::Armed { watch, server: Server::Gone };
            if now >= watch.deadline { fire(state, watch, now) } else { Command::Nothing }
        }
        Phase::Killing { watch, .. } if clean => fence_and_revoke(state, watch, now, now + SWEEP_SOON),
        Phase::Fenced { watch, since, sweep_at, revocation: Revocation::Due(at) } if clean && now >= at => {
            fence_and_revoke(state, watch, since, sweep_at)
        }
        Phase::Killing { .. }
        | Phase::Fenced { .. }
        | Phase::Idle
        | Phase::Armed { .. }
        | Phase::Stopping { .. } => Command::Nothing,
    }
}

fn fence_and_revoke(state: &mut State, watch: Watch, since: Tick, sweep_at: Tick) -> Command {
    state.phase = Phase::Fenced { watch, since, sweep_at, revocation: Revocation::InFlight };
    state.spent = Some(watch.lease);
    Command::RevokeLease(watch.lease)
}

fn revoke_answered(state: &mut State, lease: LeaseId, done: bool, now: Tick) {
    if let Phase::Fenced { watch, revocation, .. } = &mut state.phase
        && watch.lease == lease
    {
        *revocation = if done { Revocation::Done } else { Revocation::Due(now + REVOKE_EVERY) };
    }
}

#[cfg(test)]
#[path = "core_tests.rs"]
mod tests;
