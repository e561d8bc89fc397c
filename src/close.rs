//! Why a session ended: one closed list for the log, the metric label and the tests.

use std::fmt;
use std::io;

/// Which end of a session.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Side {
    /// Who connected to us.
    Client,
    /// The PostgreSQL server we connected to.
    Server,
}

/// Why a session ended. Every variant has a label; [`CloseReason::ALL`] lists them for the metrics.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum CloseReason {
    /// The client closed first, in order.
    ClientClosed,
    /// The server closed first, in order.
    ServerClosed,
    /// The client's connection was reset.
    ClientReset,
    /// The server's connection was reset.
    ServerReset,
    /// The client's connection timed out: keepalive or user timeout.
    ClientTimedOut,
    /// The server's connection timed out: keepalive or user timeout.
    ServerTimedOut,
    /// The reign of the primary this session was on ended.
    EpochEnded,
    /// Nobody could prove any more that the primary still leads.
    StoreLost,
    /// The proxy is stopping and the drain time ran out.
    Drained,
    /// The operator ended this session.
    Killed,
    /// The operator disabled the server it was on.
    TargetDisabled,
    /// Nobody served for the whole hold time.
    HoldTimeout,
    /// Too many connections were waiting already.
    HoldLimit,
    /// Every server that would have taken it was full for the whole queue time.
    QueueTimeout,
    /// The listener has as many sessions as it may.
    SessionLimit,
    /// The client's address has as many sessions as it may.
    SourceLimit,
    /// The listener does not take clients from this network.
    NotAllowed,
    /// The client left before its session was open.
    ClientLeftEarly,
    /// The client did not send its first packet in time.
    FirstPacketTimeout,
    /// The client's first packet was not PostgreSQL's.
    ProtocolViolation,
    /// A PROXY header was expected and did not come.
    ProxyHeader,
    /// The TLS handshake with the client failed.
    TlsFailed,
    /// The listener takes TLS only, and the client did not ask for it.
    TlsRequired,
    /// A cancel request, passed on.
    CancelForwarded,
    /// A cancel request that no server could be asked with.
    CancelUnrouted,
}

impl CloseReason {
    /// All reasons, in the order of the enum.
    pub const ALL: [CloseReason; 25] = [
        CloseReason::ClientClosed,
        CloseReason::ServerClosed,
        CloseReason::ClientReset,
        CloseReason::ServerReset,
        CloseReason::ClientTimedOut,
        CloseReason::ServerTimedOut,
        CloseReason::EpochEnded,
        CloseReason::StoreLost,
        CloseReason::Drained,
        CloseReason::Killed,
        CloseReason::TargetDisabled,
        CloseReason::HoldTimeout,
        CloseReason::HoldLimit,
        CloseReason::QueueTimeout,
        CloseReason::SessionLimit,
        CloseReason::SourceLimit,
        CloseReason::NotAllowed,
        CloseReason::ClientLeftEarly,
        CloseReason::FirstPacketTimeout,
        CloseReason::ProtocolViolation,
        CloseReason::ProxyHeader,
        CloseReason::TlsFailed,
        CloseReason::TlsRequired,
        CloseReason::CancelForwarded,
        CloseReason::CancelUnrouted,
    ];

    /// The word in logs and metric labels.
    pub const fn label(self) -> &'static str {
        match self {
            CloseReason::ClientClosed => "client_closed",
            CloseReason::ServerClosed => "server_closed",
            CloseReason::ClientReset => "client_reset",
            CloseReason::ServerReset => "server_reset",
            CloseReason::ClientTimedOut => "client_timed_out",
            CloseReason::ServerTimedOut => "server_timed_out",
            CloseReason::EpochEnded => "epoch_ended",
            CloseReason::StoreLost => "store_lost",
            CloseReason::Drained => "drained",
            CloseReason::Killed => "killed",
            CloseReason::TargetDisabled => "target_disabled",
            CloseReason::HoldTimeout => "hold_timeout",
            CloseReason::HoldLimit => "hold_limit",
            CloseReason::QueueTimeout => "queue_timeout",
            CloseReason::SessionLimit => "session_limit",
            CloseReason::SourceLimit => "source_limit",
            CloseReason::NotAllowed => "not_allowed",
            CloseReason::ClientLeftEarly => "client_left_early",
            CloseReason::FirstPacketTimeout => "first_packet_timeout",
            CloseReason::ProtocolViolation => "protocol_violation",
            CloseReason::ProxyHeader => "proxy_header",
            CloseReason::TlsFailed => "tls_failed",
            CloseReason::TlsRequired => "tls_required",
            CloseReason::CancelForwarded => "cancel_forwarded",
            CloseReason::CancelUnrouted => "cancel_unrouted",
        }
    }

    /// Whether the session ended as sessions do; such ends are logged at debug level only.
    pub const fn is_normal(self) -> bool {
        matches!(
            self,
            CloseReason::ClientClosed | CloseReason::CancelForwarded | CloseReason::ClientLeftEarly
        )
    }

    /// The reason for an error on one side's socket.
    pub fn of_error(side: Side, error: &io::Error) -> CloseReason {
        let timed_out = matches!(
            error.kind(),
            io::ErrorKind::TimedOut | io::ErrorKind::HostUnreachable | io::ErrorKind::NetworkUnreachable
        );
        match (side, timed_out) {
            (Side::Client, false) => CloseReason::ClientReset,
            (Side::Client, true) => CloseReason::ClientTimedOut,
            (Side::Server, false) => CloseReason::ServerReset,
            (Side::Server, true) => CloseReason::ServerTimedOut,
        }
    }

    /// The place of this reason in [`CloseReason::ALL`].
    pub(crate) const fn index(self) -> usize {
        self as usize
    }
}

impl fmt::Display for CloseReason {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(self.label())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_list_is_whole_and_in_order() {
        for (index, reason) in CloseReason::ALL.into_iter().enumerate() {
            assert_eq!(reason.index(), index, "{reason}");
        }
        let last = CloseReason::CancelUnrouted;
        assert_eq!(last.index() + 1, CloseReason::ALL.len(), "the last variant is the last of the list");
    }

    #[test]
    fn errors_name_the_side_and_the_kind() {
        let timed_out = io::Error::from(io::ErrorKind::TimedOut);
        let reset = io::Error::from(io::ErrorKind::ConnectionReset);
        assert_eq!(CloseReason::of_error(Side::Server, &timed_out), CloseReason::ServerTimedOut);
        assert_eq!(CloseReason::of_error(Side::Client, &reset), CloseReason::ClientReset);
    }
}
