//! Free ports on loopback.

use std::collections::BTreeSet;
use std::fs;
use std::io;
use std::net::{Ipv4Addr, SocketAddr, TcpListener};
use std::sync::{Mutex, PoisonError};

use super::PlaygroundError;

/// The lowest port handed out.
const LOWEST: u16 = 15_000;

/// What was handed out in this process, whoever asked: a port is free until its server listens.
static GIVEN: Mutex<BTreeSet<u16>> = Mutex::new(BTreeSet::new());

/// Hands out ports that nobody listens on.
///
/// They lie below the range that the kernel takes for outgoing connections, so that a server finds its port
/// free again when it is restarted.
#[derive(Debug)]
pub struct Ports {
    next: u16,
    highest: u16,
}

impl Ports {
    /// Starts somewhere of its own, so that two playgrounds seldom try the same ports.
    #[expect(clippy::new_without_default, reason = "reads the machine's state; not a neutral value")]
    pub fn new() -> Ports {
        let range = fs::read_to_string("/proc/sys/net/ipv4/ip_local_port_range").unwrap_or_default();
        let outgoing: u16 =
            range.split_whitespace().next().and_then(|low| low.parse().ok()).unwrap_or(32_768);
        let highest = if outgoing > LOWEST + 1000 { outgoing - 1 } else { u16::MAX };
        let span = u32::from(highest - LOWEST);
        let offset = (std::process::id().wrapping_mul(2_654_435_761) >> 8) % span;
        Ports { next: LOWEST + u16::try_from(offset).unwrap_or(0), highest }
    }

    /// A free port.
    pub fn free(&mut self) -> Result<SocketAddr, PlaygroundError> {
        for _ in LOWEST..self.highest {
            let port = self.next;
            self.next = if port >= self.highest { LOWEST } else { port + 1 };
            if Ports::take(port) {
                return Ok((Ipv4Addr::LOCALHOST, port).into());
            }
        }
        Err(PlaygroundError::Io("no port is free on 127.0.0.1".to_owned(), io::ErrorKind::AddrInUse.into()))
    }

    /// `port` if it is free, else another; 0 stands for any.
    pub fn prefer(&mut self, port: u16) -> Result<SocketAddr, PlaygroundError> {
        if port != 0 && Ports::take(port) { Ok((Ipv4Addr::LOCALHOST, port).into()) } else { self.free() }
    }

    fn take(port: u16) -> bool {
        let mut given = GIVEN.lock().unwrap_or_else(PoisonError::into_inner);
        let is_free = !given.contains(&port) && TcpListener::bind((Ipv4Addr::LOCALHOST, port)).is_ok();
        is_free && given.insert(port)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_port_is_given_once_and_never_a_taken_one() {
        let mut ports = Ports::new();
        let first = ports.free().expect("a free port");
        let held = TcpListener::bind(first).expect("it is free");
        assert_ne!(ports.prefer(first.port()).expect("another"), first);
        drop(held);
        assert_ne!(Ports::new().prefer(first.port()).expect("another"), first, "it was given before");

        let listener = TcpListener::bind("127.0.0.1:0").expect("a port");
        let taken = listener.local_addr().expect("its address");
        assert_ne!(Ports::new().prefer(taken.port()).expect("another"), taken);
    }
}
