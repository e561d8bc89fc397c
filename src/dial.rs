//! Opens a TCP connection to one server within a time limit.

use std::fmt;
use std::io;
use std::net::{IpAddr, SocketAddr};
use std::time::Duration;

use tokio::net::{TcpStream, lookup_host};
use tokio::time::timeout;

use crate::config::Tcp;
use crate::metrics::ConnectFailure;
use crate::socket;
use crate::topology::Address;

/// Why a server could not be reached.
#[derive(Debug)]
pub(crate) enum DialError {
    /// The name has no address.
    Unresolved(io::Error),
    /// The connection was refused, or failed otherwise.
    Failed(io::Error),
    /// Nothing happened in time.
    TimedOut(Duration),
}

impl DialError {
    /// The metric's word for it.
    pub(crate) fn cause(&self) -> ConnectFailure {
        match self {
            DialError::Unresolved(_) => ConnectFailure::Unresolved,
            DialError::TimedOut(_) => ConnectFailure::TimedOut,
            DialError::Failed(e) if e.kind() == io::ErrorKind::ConnectionRefused => ConnectFailure::Refused,
            DialError::Failed(e) if e.kind() == io::ErrorKind::TimedOut => ConnectFailure::TimedOut,
            DialError::Failed(_) => ConnectFailure::Other,
        }
    }
}

impl fmt::Display for DialError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            DialError::Unresolved(e) => write!(f, "its name cannot be resolved: {e}"),
            DialError::Failed(e) => e.fmt(f),
            DialError::TimedOut(limit) => write!(f, "no connection within {limit:?}"),
        }
    }
}

/// Connects; all addresses of a name share the limit.
pub(crate) async fn dial(address: &Address, tcp: &Tcp, limit: Duration) -> Result<TcpStream, DialError> {
    let stream = timeout(limit, connect(address)).await.map_err(|_| DialError::TimedOut(limit))??;
    socket::tune(&stream, tcp).map_err(DialError::Failed)?;
    Ok(stream)
}

async fn connect((host, port): &Address) -> Result<TcpStream, DialError> {
    if let Ok(ip) = host.parse::<IpAddr>() {
        return TcpStream::connect(SocketAddr::new(ip, *port)).await.map_err(DialError::Failed);
    }
    let mut last = io::Error::from(io::ErrorKind::NotFound);
    let addresses = lookup_host((host.as_str(), *port)).await.map_err(DialError::Unresolved)?;
    let mut found = false;
    for address in addresses {
        found = true;
        match TcpStream::connect(address).await {
            Ok(stream) => return Ok(stream),
            Err(error) => last = error,
        }
    }
    Err(if found { DialError::Failed(last) } else { DialError::Unresolved(last) })
}

#[cfg(test)]
mod tests {
    use super::*;

    const TCP: Tcp = Tcp {
        keepalive_idle: Duration::from_secs(10),
        keepalive_interval: Duration::from_secs(5),
        keepalive_count: 3,
        user_timeout: Duration::ZERO,
    };

    #[tokio::test]
    async fn names_and_numbers() {
        let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.expect("bind");
        let port = listener.local_addr().expect("bound").port();
        for host in ["127.0.0.1", "localhost"] {
            let stream = dial(&(host.to_owned(), port), &TCP, Duration::from_secs(20)).await;
            assert!(stream.is_ok(), "{host}: {stream:?}");
        }
        drop(listener);
        let error = dial(&("127.0.0.1".to_owned(), port), &TCP, Duration::from_secs(20)).await;
        let error = error.expect_err("nobody listens");
        assert_eq!(error.cause(), ConnectFailure::Refused, "{error}");
    }
}
