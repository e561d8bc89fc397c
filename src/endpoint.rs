//! Where a listener listens, the socket that does, and who connects to it: TCP or a Unix socket.

use std::fmt;
use std::io;
use std::net::{IpAddr, SocketAddr, TcpListener};
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd, RawFd};
use std::os::unix::net::UnixListener;
use std::path::PathBuf;
use std::str::FromStr;

use rustix::net::sockopt;

use crate::config::Tcp;
use crate::socket;

/// Where something listens, as the settings write it.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Debug)]
pub enum Endpoint {
    /// An address and a port.
    Tcp(SocketAddr),
    /// A path in the file system.
    Unix(PathBuf),
}

impl Endpoint {
    /// Whether this is every address of IPv6.
    pub(crate) fn is_any_v6(&self) -> bool {
        matches!(self, Endpoint::Tcp(address) if address.is_ipv6() && address.ip().is_unspecified())
    }
}

impl fmt::Display for Endpoint {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Endpoint::Tcp(address) => address.fmt(f),
            Endpoint::Unix(path) => write!(f, "unix:{}", path.display()),
        }
    }
}

/// The text is neither `ADDRESS:PORT` nor `unix:/PATH`.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct NotAnEndpoint;

impl FromStr for Endpoint {
    type Err = NotAnEndpoint;

    fn from_str(text: &str) -> Result<Endpoint, NotAnEndpoint> {
        match text.strip_prefix("unix:") {
            Some(path) if path.starts_with('/') => Ok(Endpoint::Unix(path.into())),
            Some(_) => Err(NotAnEndpoint),
            None => text.parse().map(Endpoint::Tcp).map_err(|_| NotAnEndpoint),
        }
    }
}

/// A socket that listens and does not block.
#[derive(Debug)]
pub enum Socket {
    /// For TCP.
    Tcp(TcpListener),
    /// In the file system.
    Unix(UnixListener),
}

impl Socket {
    /// Binds and listens.
    pub(crate) fn bind(endpoint: &Endpoint, tcp: &Tcp, unix_mode: u32) -> io::Result<Socket> {
        match endpoint {
            Endpoint::Tcp(address) => socket::listen(*address, tcp).map(Socket::Tcp),
            Endpoint::Unix(path) => socket::listen_at(path, unix_mode).map(Socket::Unix),
        }
    }

    /// Takes over a socket that somebody else has bound and listens on.
    pub(crate) fn adopt(fd: OwnedFd, tcp: &Tcp) -> io::Result<Socket> {
        if !sockopt::socket_acceptconn(&fd)? {
            return Err(io::Error::new(io::ErrorKind::InvalidInput, "it does not listen"));
        }
        let unix = sockopt::socket_domain(&fd)? == rustix::net::AddressFamily::UNIX;
        let adopted = if unix { Socket::Unix(fd.into()) } else { Socket::Tcp(fd.into()) };
        match &adopted {
            Socket::Tcp(listener) => {
                listener.set_nonblocking(true)?;
                socket::set_options(&listener.into(), tcp)?;
            }
            Socket::Unix(listener) => listener.set_nonblocking(true)?,
        }
        Ok(adopted)
    }

    /// Where it listens, with the port that the kernel chose.
    pub fn endpoint(&self) -> io::Result<Endpoint> {
        match self {
            Socket::Tcp(listener) => listener.local_addr().map(Endpoint::Tcp),
            Socket::Unix(listener) => {
                let path = listener.local_addr()?.as_pathname().map(PathBuf::from);
                path.map(Endpoint::Unix).ok_or_else(|| io::ErrorKind::AddrNotAvailable.into())
            }
        }
    }

    /// The same socket once more.
    pub(crate) fn try_clone(&self) -> io::Result<Socket> {
        match self {
            Socket::Tcp(listener) => listener.try_clone().map(Socket::Tcp),
            Socket::Unix(listener) => listener.try_clone().map(Socket::Unix),
        }
    }
}

impl From<Socket> for OwnedFd {
    fn from(socket: Socket) -> OwnedFd {
        match socket {
            Socket::Tcp(listener) => listener.into(),
            Socket::Unix(listener) => listener.into(),
        }
    }
}

impl AsFd for Socket {
    fn as_fd(&self) -> BorrowedFd<'_> {
        match self {
            Socket::Tcp(listener) => listener.as_fd(),
            Socket::Unix(listener) => listener.as_fd(),
        }
    }
}

impl AsRawFd for Socket {
    fn as_raw_fd(&self) -> RawFd {
        self.as_fd().as_raw_fd()
    }
}

/// Who connects.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Peer {
    /// From an address.
    Remote(SocketAddr),
    /// By a Unix socket of this machine.
    Local,
}

impl Peer {
    /// The address, where there is one.
    pub(crate) fn address(self) -> Option<SocketAddr> {
        match self {
            Peer::Remote(address) => Some(address),
            Peer::Local => None,
        }
    }

    pub(crate) fn ip(self) -> Option<IpAddr> {
        self.address().map(|address| address.ip())
    }
}

impl fmt::Display for Peer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Peer::Remote(address) => address.fmt(f),
            Peer::Local => f.write_str("local"),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn endpoints_read_as_they_are_written() {
        for text in ["0.0.0.0:5432", "[::]:5432", "unix:/run/pgvane/.s.PGSQL.5432"] {
            assert_eq!(text.parse::<Endpoint>().expect(text).to_string(), text);
        }
        for text in ["5432", "unix:", "unix:relative", "/no/scheme", "host:5432", ""] {
            assert_eq!(text.parse::<Endpoint>(), Err(NotAnEndpoint), "{text}");
        }
    }
}
