//! Why a client gets no session, and what it is told. Values only; `session` says it and closes.

use crate::close::CloseReason;
use crate::config::Listener;
use crate::pgwire;

/// Why there is no session.
#[derive(Debug)]
pub(crate) struct Refusal {
    pub(crate) reason: CloseReason,
    /// SQLSTATE and text for the client, where there is one to hear it.
    pub(crate) message: Option<(&'static str, String)>,
    /// Whether the client asked for encryption and waits for yes or no.
    pub(crate) asked_for_encryption: bool,
}

impl Refusal {
    pub(crate) fn silent(reason: CloseReason) -> Refusal {
        Refusal { reason, message: None, asked_for_encryption: false }
    }

    pub(crate) fn violation(why: &str) -> Refusal {
        let text = format!("{why}; this port speaks PostgreSQL");
        Refusal::with(CloseReason::ProtocolViolation, pgwire::PROTOCOL_VIOLATION, text)
    }

    pub(crate) fn with(reason: CloseReason, sqlstate: &'static str, text: String) -> Refusal {
        Refusal { reason, message: Some((sqlstate, text)), asked_for_encryption: false }
    }
}

/// Why a client is turned away before anything is asked of a server.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum TurnedAway {
    /// The listener has as many sessions as it may.
    SessionLimit,
    /// The client's address has.
    SourceLimit,
    /// It comes from a network from which nobody is taken.
    NotAllowed,
}

impl TurnedAway {
    pub(crate) const fn reason(self) -> CloseReason {
        match self {
            TurnedAway::SessionLimit => CloseReason::SessionLimit,
            TurnedAway::SourceLimit => CloseReason::SourceLimit,
            TurnedAway::NotAllowed => CloseReason::NotAllowed,
        }
    }

    pub(crate) fn refusal(self, settings: &Listener) -> Refusal {
        let name = &settings.name;
        let (sqlstate, text) = match self {
            TurnedAway::SessionLimit => (
                pgwire::TOO_MANY_CONNECTIONS,
                format!("listener {name} has its limit of {} sessions (max_sessions)", settings.max_sessions),
            ),
            TurnedAway::SourceLimit => (
                pgwire::TOO_MANY_CONNECTIONS,
                format!(
                    "this address has its limit of sessions on listener {name} (max_sessions_per_address)"
                ),
            ),
            TurnedAway::NotAllowed => {
                (pgwire::NOT_ALLOWED, format!("listener {name} takes nobody from this address (allow, deny)"))
            }
        };
        Refusal::with(self.reason(), sqlstate, text)
    }
}
