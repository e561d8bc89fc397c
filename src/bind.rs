//! Getting all ports before anything else is started, so that one that is taken ends the program with one message.

use std::io;
use std::net::SocketAddr;

use tracing::warn;

use crate::config::{self, Config};
use crate::endpoint::{Endpoint, Socket};
use crate::inherit::Inherited;
use crate::socket;
use crate::takeover::Predecessor;

/// Permissions of the admin socket: who may write to it may do everything.
const ADMIN_MODE: u32 = 0o600;

/// A port that cannot be had.
#[derive(Debug, thiserror::Error)]
#[error("cannot listen on {address} ({whose}): {error}")]
pub struct BindError {
    /// Where.
    pub address: Endpoint,
    /// Which part of the settings asks for it.
    pub whose: String,
    /// What the kernel says.
    pub error: io::Error,
}

/// Sockets that listen but are not accepted from yet.
#[derive(Debug)]
pub struct Bound {
    /// Per listener of the settings, in their order: what the settings say, and the socket.
    pub(crate) listeners: Vec<Vec<(Endpoint, Socket)>>,
    pub(crate) admin: Vec<(Endpoint, Socket)>,
    /// Who had them before.
    pub(crate) predecessor: Option<Predecessor>,
}

impl Bound {
    /// The addresses of one listener, with the ports the kernel chose where the settings said 0.
    pub fn addresses(&self, listener: usize) -> Vec<SocketAddr> {
        let sockets = self.listeners.get(listener).map(Vec::as_slice).unwrap_or_default();
        addresses(sockets)
    }

    /// The addresses of the HTTP side.
    pub fn admin_addresses(&self) -> Vec<SocketAddr> {
        addresses(&self.admin)
    }
}

fn addresses(sockets: &[(Endpoint, Socket)]) -> Vec<SocketAddr> {
    let address = |socket: &Socket| match socket.endpoint() {
        Ok(Endpoint::Tcp(address)) => Some(address),
        _ => None,
    };
    sockets.iter().filter_map(|(_, socket)| address(socket)).collect()
}

/// Gets all ports of the settings: those that are `inherited`, and binds the rest.
pub fn bind(config: &Config, mut inherited: Inherited) -> Result<Bound, BindError> {
    let mut binder = Binder { tcp: &config.tcp, inherited: &mut inherited };
    let mut listeners = Vec::new();
    for listener in &config.listeners {
        let whose = format!("listener {}", listener.name);
        listeners.push(binder.bind(&listener.listen, |_| false, listener.unix_mode, &whose)?);
    }
    let addresses = config.admin.listen.iter().copied().map(Endpoint::Tcp);
    let paths = config.admin.socket.iter().cloned().map(Endpoint::Unix);
    let admin: Vec<_> = addresses.chain(paths).collect();
    let admin = binder.bind(&admin, |_| false, ADMIN_MODE, "admin")?;
    inherited.close_rest();
    Ok(Bound { listeners, admin, predecessor: inherited.predecessor })
}

/// Gets one socket after the other.
pub(crate) struct Binder<'a> {
    pub(crate) tcp: &'a config::Tcp,
    pub(crate) inherited: &'a mut Inherited,
}

impl Binder<'_> {
    /// Those of a listener's endpoints that it does not have yet.
    pub(crate) fn bind(
        &mut self,
        endpoints: &[Endpoint],
        has: impl Fn(&Endpoint) -> bool,
        unix_mode: u32,
        whose: &str,
    ) -> Result<Vec<(Endpoint, Socket)>, BindError> {
        let mut sockets = Vec::new();
        for endpoint in endpoints.iter().filter(|endpoint| !has(endpoint)) {
            match self.one(endpoint, unix_mode) {
                Ok(socket) => sockets.push((endpoint.clone(), socket)),
                // `[::]` means "IPv6 too"; on a host without IPv6 there is nothing to add.
                Err(error) if endpoint.is_any_v6() && socket::lacks_v6(&error) && endpoints.len() > 1 => {
                    warn!(address = %endpoint, whose, "this host has no IPv6; not listening there");
                }
                Err(error) => {
                    return Err(BindError { address: endpoint.clone(), whose: whose.to_owned(), error });
                }
            }
        }
        Ok(sockets)
    }

    fn one(&mut self, endpoint: &Endpoint, unix_mode: u32) -> io::Result<Socket> {
        match self.inherited.take(endpoint, self.tcp)? {
            Some(socket) => Ok(socket),
            None => Socket::bind(endpoint, self.tcp, unix_mode),
        }
    }
}
