//! Opens a TCP connection to one server within a time limit.

use std::fmt;
use std::io;
use std::net::{IpAddr, SocketAddr};
use std::time::Duration;

use tokio::net::{TcpSocket, TcpStream, lookup_host};
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
    timeout(limit, connect(address, tcp)).await.map_err(|_| DialError::TimedOut(limit))?
}

async fn connect((host, port): &Address, tcp: &Tcp) -> Result<TcpStream, DialError> {
    if let Ok(ip) = host.parse::<IpAddr>() {
        return connect_to(SocketAddr::new(ip, *port), tcp).await.map_err(DialError::Failed);
    }
    let mut last = io::Error::from(io::ErrorKind::NotFound);
    let addresses = lookup_host((host.as_str(), *port)).await.map_err(DialError::Unresolved)?;
    let mut found = false;
    for address in addresses {
        found = true;
        match connect_to(address, tcp).await {
            Ok(stream) => return Ok(stream),
            Err(error) => last = error,
        }
    }
    Err(if found { DialError::Failed(last) } else { DialError::Unresolved(last) })
}

async fn connect_to(address: SocketAddr, tcp: &Tcp) -> io::Result<TcpStream> {
    let socket = if address.is_ipv4() { TcpSocket::new_v4() } else { TcpSocket::new_v6() }?;
    socket::tune(&socket, tcp)?;
    socket.connect(address).await
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
