//! Accepts connections that belong to no runtime yet: tokio's own listener would register each with the runtime
//! that accepts, and it would have to be taken out again for the worker that serves it.

use std::io;
use std::net::SocketAddr;

use rustix::net::{SocketFlags, acceptfrom_with};
use tokio::io::Interest;
use tokio::io::unix::AsyncFd;

use crate::conn::Accepted;
use crate::endpoint::{Peer, Socket};

/// A listening socket that is accepted from.
#[derive(Debug)]
pub(crate) struct Acceptor(AsyncFd<Socket>);

impl Acceptor {
    /// Takes over a listener that does not block. Must be called within a runtime.
    pub(crate) fn new(listener: Socket) -> io::Result<Acceptor> {
        // SAFETY: the listener is owned by the `AsyncFd` until it is dropped, nothing here takes it out or gives
        // out a mutable reference to it, and its descriptor never changes.
        #[expect(
            unsafe_code,
            reason = "the safe constructor is deprecated; a standard listener keeps its promise"
        )]
        let listener = unsafe { AsyncFd::register_with_interest(listener, Interest::READABLE) }?;
        Ok(Acceptor(listener))
    }

    /// The socket itself.
    pub(crate) fn socket(&self) -> &Socket {
        self.0.get_ref()
    }

    /// The next connection, without a wait while there is one. It does not block.
    pub(crate) async fn accept(&self) -> io::Result<(Accepted, Peer)> {
        let flags = SocketFlags::CLOEXEC | SocketFlags::NONBLOCK;
        let accept = |listener: &Socket| Ok(acceptfrom_with(listener, flags)?);
        let (socket, peer) = self.0.async_io(Interest::READABLE, accept).await?;
        match self.socket() {
            Socket::Unix(_) => Ok((Accepted::Unix(socket.into()), Peer::Local)),
            Socket::Tcp(_) => {
                let peer = peer.and_then(|peer| SocketAddr::try_from(peer).ok());
                let peer = peer.ok_or(io::ErrorKind::AddrNotAvailable)?;
                Ok((Accepted::Tcp(socket.into()), Peer::Remote(peer)))
            }
        }
    }
}
