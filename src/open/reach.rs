//! A connection to one server, up to where the client's first packet may be sent: TCP, the PROXY header, TLS.

use std::fmt;
use std::io;
use std::sync::Arc;
use std::time::Duration;

use pgvane_cluster::units::show_duration;
use rustls::ClientConfig;
use rustls::pki_types::ServerName;
use tokio::io::AsyncReadExt;
use tokio::time::{Instant, timeout_at};

use crate::conn::Conn;
use crate::dial::{DialError, dial};
use crate::metrics::ConnectFailure;
use crate::pgwire;
use crate::proxy_protocol;
use crate::roster::Ticket;
use crate::topology::Target;

/// Why a server cannot be used.
#[derive(Debug)]
pub(super) enum ReachError {
    Dial(DialError),
    /// It broke before TLS was agreed on, or while it was.
    Lost(io::Error),
    /// It does not offer TLS.
    NoTls,
    /// The handshake failed.
    Handshake(io::Error),
    TimedOut(Duration),
}

impl ReachError {
    /// The metric's word for it.
    pub(super) fn cause(&self) -> ConnectFailure {
        match self {
            ReachError::Dial(error) => error.cause(),
            ReachError::Lost(_) => ConnectFailure::Other,
            ReachError::NoTls | ReachError::Handshake(_) => ConnectFailure::Tls,
            ReachError::TimedOut(_) => ConnectFailure::TimedOut,
        }
    }
}

impl fmt::Display for ReachError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            ReachError::Dial(error) => error.fmt(f),
            ReachError::Lost(error) => error.fmt(f),
            ReachError::NoTls => f.write_str("it does not offer TLS"),
            ReachError::Handshake(error) => write!(f, "TLS: {error}"),
            ReachError::TimedOut(limit) => write!(f, "no TLS within {}", show_duration(*limit)),
        }
    }
}

/// Connects to `target` for the client of `ticket`, within the time for a connection.
pub(super) async fn reach(ticket: &Ticket, client: &Conn, target: &Target) -> Result<Conn, ReachError> {
    let port = &ticket.port;
    let limit = port.settings.connect_timeout;
    let deadline = Instant::now() + limit;
    let stream = dial(&target.address, &port.tcp, limit).await.map_err(ReachError::Dial)?;
    let mut server = Conn::Tcp(stream);
    if port.settings.proxy_protocol.send {
        let source = ticket.client().address();
        let destination = client.tcp().and_then(|tcp| tcp.local_addr().ok());
        server.send(&proxy_protocol::v2(source, destination)).await.map_err(ReachError::Lost)?;
    }
    if let Some(tls) = &port.server_tls {
        let host = &target.address.0;
        let agreed = timeout_at(deadline, encrypt(&mut server, Arc::clone(tls), host)).await;
        let agreed = agreed.unwrap_or(Err(ReachError::TimedOut(limit)));
        port.metrics.server_handshake(agreed.is_ok());
        agreed?;
    }
    Ok(server)
}

/// Asks for TLS as libpq does and shakes hands (PostgreSQL protocol, "SSL Session Encryption").
async fn encrypt(server: &mut Conn, tls: Arc<ClientConfig>, host: &str) -> Result<(), ReachError> {
    let name = ServerName::try_from(host.to_owned());
    let name = name.map_err(|error| ReachError::Handshake(io::Error::other(error)))?;
    server.send(&pgwire::SSL_REQUEST_PACKET).await.map_err(ReachError::Lost)?;
    // One byte and no more: what follows it in plain text is not from the one who shakes hands (CVE-2021-23222).
    match server.read_u8().await.map_err(ReachError::Lost)? {
        b'S' => server.connect_tls(tls, name).await.map_err(ReachError::Handshake),
        _ => Err(ReachError::NoTls),
    }
}
