//! Sockets that somebody else has bound for us: systemd, or the process that ran before.

use std::io;

use listenfd::ListenFd;
use tracing::{info, warn};

use crate::config::Tcp;
use crate::endpoint::{Endpoint, Socket};
use crate::takeover::{Passed, Predecessor};

/// What is there to be used instead of a bind.
#[derive(Debug, Default)]
pub struct Inherited {
    sockets: Passed,
    /// Who had them before and waits to hear that we serve.
    pub(crate) predecessor: Option<Predecessor>,
}

impl Inherited {
    /// What systemd has passed (sd_listen_fds(3)); nothing where it has not.
    pub fn from_systemd() -> io::Result<Inherited> {
        let mut passed = ListenFd::from_env();
        let mut sockets = Vec::new();
        for index in 0..passed.len() {
            let socket = match passed.take_tcp_listener(index) {
                Ok(socket) => socket.map(Socket::Tcp),
                Err(_) => passed.take_unix_listener(index)?.map(Socket::Unix),
            };
            if let Some(socket) = socket {
                sockets.push((socket.endpoint()?, socket.into()));
            }
        }
        Ok(Inherited { sockets, predecessor: None })
    }

    /// What a process before us hands over.
    pub fn from_predecessor(predecessor: Predecessor, sockets: Passed) -> Inherited {
        Inherited { sockets, predecessor: Some(predecessor) }
    }

    /// The socket that listens at `endpoint`, if there is one.
    pub(crate) fn take(&mut self, endpoint: &Endpoint, tcp: &Tcp) -> io::Result<Option<Socket>> {
        let Some(index) = self.sockets.iter().position(|(at, _)| at == endpoint) else { return Ok(None) };
        let (_, fd) = self.sockets.swap_remove(index);
        info!(address = %endpoint, "listening on a socket that was passed on");
        Socket::adopt(fd, tcp).map(Some)
    }

    /// Says what nobody wanted, and closes it.
    pub(crate) fn close_rest(&mut self) {
        for (endpoint, _) in self.sockets.drain(..) {
            warn!(address = %endpoint, "a socket was passed on that no listener is set to use; closed");
        }
    }
}
