//! Bytes both ways between two streams: order kept, half-close passed on, errors told apart by side.
//!
//! It knows bytes and tokio's traits, not PostgreSQL, not topology. Whether forwarding is allowed at this
//! moment is asked of a [`Host`] before every chunk. Writers that buffer (TLS) are flushed before every wait.

mod direction;
mod pipe;

use std::io;
use std::task::{Context, Poll};

use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::TcpStream;

use self::direction::{Direction, Fault, Stage};
use crate::close::Side;

/// Who moves bytes through a [`Duplex`] on whose behalf.
pub trait Host {
    /// Whether a byte may be forwarded now. Asked before every chunk, so it must be cheap.
    fn may_forward(&self) -> bool;

    /// `bytes` more have been written to `side`. Called about once a megabyte and at the end.
    fn moved(&mut self, side: Side, bytes: u64);

    /// These bytes have been written to `side`; `None`: some that nobody here has seen. Called for every chunk.
    fn wrote(&mut self, side: Side, bytes: Option<&[u8]>);
}

/// One end of a session.
pub trait Stream: AsyncRead + AsyncWrite + Unpin {
    /// The socket that bytes may be moved from and to by the kernel itself; `None`: they must be copied.
    fn socket(&self) -> Option<&TcpStream>;
}

impl Stream for TcpStream {
    fn socket(&self) -> Option<&TcpStream> {
        Some(self)
    }
}

/// What [`Duplex::poll`] stopped for.
#[derive(Debug)]
pub enum Event {
    /// [`Host::may_forward`] said no. Nothing is lost: poll again when it says yes.
    Shut,
    /// This side has sent its last byte and the other has been told; bytes may still flow the other way.
    /// Told once per side; poll again to go on.
    HalfClosed(Side),
    /// Both sides have closed in order; this one was first, and the other one has been told. This one is told by
    /// the close of its socket.
    Closed(Side),
    /// This side's socket failed. What could still be delivered to the other has been.
    Failed(Side, io::Error),
}

/// Both directions of one session. It holds no buffer while nothing is stuck in it.
#[derive(Debug)]
pub struct Duplex {
    to_server: Direction,
    to_client: Direction,
    first_closed: Option<Side>,
    told: [bool; 2],
}

impl Default for Duplex {
    fn default() -> Duplex {
        Duplex::with_pending(vec![], vec![])
    }
}

impl Duplex {
    /// A session in which these bytes have been read already and come first.
    pub fn with_pending(to_client: Vec<u8>, to_server: Vec<u8>) -> Duplex {
        Duplex {
            to_client: Direction::new(Side::Client, to_client),
            to_server: Direction::new(Side::Server, to_server),
            first_closed: None,
            told: [false; 2],
        }
    }

    /// Moves what can be moved. Tries before it waits; when it returns `Pending` a wake-up is armed on
    /// whatever it waits for in each direction.
    pub fn poll<C, S>(
        &mut self,
        cx: &mut Context<'_>,
        client: &mut C,
        server: &mut S,
        host: &mut impl Host,
    ) -> Poll<Event>
    where
        C: Stream,
        S: Stream,
    {
        let to_server = self.to_server.poll(cx, client, server, host, self.to_client.is_closed());
        let to_client = self.to_client.poll(cx, server, client, host, self.to_server.is_closed());
        let mut shut = false;
        for (step, source) in [(to_server, Side::Client), (to_client, Side::Server)] {
            match step {
                Poll::Pending => {}
                Poll::Ready(direction::Step::Shut) => shut = true,
                Poll::Ready(direction::Step::Ended) => {
                    self.first_closed.get_or_insert(source);
                }
            }
        }
        if let Some(event) = self.ending() {
            return Poll::Ready(event);
        }
        if shut {
            return Poll::Ready(Event::Shut);
        }
        for (index, side) in [Side::Client, Side::Server].into_iter().enumerate() {
            if self.from(side).is_closed() && !self.told[index] {
                self.told[index] = true;
                return Poll::Ready(Event::HalfClosed(side));
            }
        }
        Poll::Pending
    }

    fn from(&self, side: Side) -> &Direction {
        match side {
            Side::Client => &self.to_server,
            Side::Server => &self.to_client,
        }
    }

    /// The end of the session, when there is nothing left to do.
    fn ending(&mut self) -> Option<Event> {
        for source in [Side::Client, Side::Server] {
            let other = match source {
                Side::Client => Side::Server,
                Side::Server => Side::Client,
            };
            let back_is_over = self.from(other).is_over();
            let back_closed = self.from(other).is_closed();
            let direction = match source {
                Side::Client => &mut self.to_server,
                Side::Server => &mut self.to_client,
            };
            match direction.fault().map(|f| f.stage) {
                // Who we read from is gone: there is nobody to deliver to either.
                Some(Stage::Read) => {}
                // Who we write to is gone. What it sent before it went is delivered first.
                Some(Stage::Write) if back_is_over => {}
                Some(Stage::Write) | None => continue,
            }
            let Some(Fault { stage, error }) = direction.take_fault() else { continue };
            return Some(match stage {
                Stage::Read => Event::Failed(source, error),
                // It had closed in order and merely does not listen any more.
                Stage::Write if back_closed => Event::Closed(other),
                Stage::Write => Event::Failed(other, error),
            });
        }
        let closed = self.to_server.is_closed() && self.to_client.is_closed();
        closed.then(|| Event::Closed(self.first_closed.unwrap_or(Side::Client)))
    }

    /// Bytes written to each side so far: to the client, to the server.
    pub fn totals(&self) -> (u64, u64) {
        (self.to_client.total(), self.to_server.total())
    }

    /// Reports what [`Host::moved`] has not been told yet. Call it once, at the end.
    pub fn settle(&mut self, host: &mut impl Host) {
        self.to_client.report(host);
        self.to_server.report(host);
    }
}

#[cfg(test)]
mod tests;
