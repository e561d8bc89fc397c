//! The phases of the end: say so, stop accepting, let sessions finish, cut the rest.

use std::fmt;
use std::sync::Arc;

use tokio::sync::watch;
use tokio_util::sync::CancellationToken;

use crate::close::CloseReason;
use crate::roster::Roster;

/// What asks a proxy to stop.
#[derive(Clone, Debug, Default)]
pub struct Shutdown {
    /// Stop in order: drain first.
    pub drain: CancellationToken,
    /// Do not wait any longer for anything.
    pub now: CancellationToken,
}

/// Where a proxy is in its life. Only moves forward.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug)]
pub enum Phase {
    /// Accepts and serves.
    Serving,
    /// Accepts and serves, and `/readyz` says that it will not for long.
    LameDuck,
    /// Accepts no more; open sessions may finish.
    Draining,
    /// Open sessions are cut.
    Cut,
}

impl fmt::Display for Phase {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(match self {
            Phase::Serving => "serving",
            Phase::LameDuck => "about to drain",
            Phase::Draining => "draining",
            Phase::Cut => "cutting sessions",
        })
    }
}

/// The phase and the tokens that go with it. Only `run` moves it.
#[derive(Debug)]
pub(crate) struct Lifecycle {
    phase: watch::Sender<Phase>,
    /// Ends the accepting of connections.
    pub(crate) stop_accepting: CancellationToken,
    /// All sessions.
    pub(crate) roster: Arc<Roster>,
}

impl Lifecycle {
    pub(crate) fn new() -> Lifecycle {
        Lifecycle {
            phase: watch::Sender::new(Phase::Serving),
            stop_accepting: CancellationToken::new(),
            roster: Arc::default(),
        }
    }

    /// Read by the health checks.
    pub(crate) fn phase(&self) -> watch::Receiver<Phase> {
        self.phase.subscribe()
    }

    /// Moves on to `phase`, unless it is past it.
    pub(crate) fn enter(&self, phase: Phase) {
        self.phase.send_if_modified(|now| {
            let later = phase > *now;
            *now = phase.max(*now);
            later
        });
        if phase >= Phase::Draining {
            self.stop_accepting.cancel();
        }
        if phase >= Phase::Cut {
            self.roster.close(CloseReason::Drained);
        }
    }
}
