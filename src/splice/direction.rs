//! One direction of a session: read, write, remember only what did not fit.

use std::cell::RefCell;
use std::io;
use std::pin::Pin;
use std::task::{Context, Poll, ready};

use tokio::io::{AsyncWrite, Interest, ReadBuf};
use tokio::net::TcpStream;

use super::pipe::Pipe;
use super::{Host, Stream};
use crate::close::Side;
use crate::socket;

/// Bytes read at once. One such buffer per worker thread, none per session.
const CHUNK: usize = 64 * 1024;

/// Full reads in a row that make a direction bulk: from then on bytes go through a pipe.
const BULK_AFTER: u8 = 4;

/// Moves in a row of less than [`SMALL`] that end it.
const CHATTY_AFTER: u8 = 8;
const SMALL: usize = 16 * 1024;

/// Bytes moved before the counters hear of it.
const REPORT_EVERY: u64 = 1024 * 1024;

thread_local! {
    static SCRATCH: RefCell<Box<[u8]>> = RefCell::new(vec![0; CHUNK].into_boxed_slice());
}

/// Where a socket failed.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Stage {
    Read,
    Write,
}

/// A socket error and where it happened.
#[derive(Debug)]
pub(super) struct Fault {
    pub(super) stage: Stage,
    pub(super) error: io::Error,
}

/// Only moves forward: Running, Delivering, Closing, Closed; or Failed from any.
#[derive(Debug)]
enum State {
    Running,
    /// The end, or an error, has been read; what was read before it is to be written first.
    Delivering(Option<io::Error>),
    /// The end has been read; the other side is to be told.
    Closing,
    /// The other side has been told.
    Closed,
    Failed(Fault),
    /// Failed, and the fault has been taken away.
    Over,
}

/// What polling came to.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Step {
    /// Forwarding is not allowed now.
    Shut,
    /// Closed or failed.
    Ended,
}

#[derive(Debug)]
pub(super) struct Direction {
    /// Who is written to.
    to: Side,
    state: State,
    /// Read but not written yet; there is none unless the writer is slower than the reader.
    leftover: Option<Box<Leftover>>,
    total: u64,
    unreported: u64,
    /// Present while the direction is bulk.
    pipe: Option<Box<Pipe>>,
    /// Consecutive full reads without a pipe, or small ones with it.
    streak: u8,
}

#[derive(Debug)]
struct Leftover {
    bytes: Vec<u8>,
    written: usize,
}

impl Leftover {
    fn of(bytes: Vec<u8>) -> Option<Box<Leftover>> {
        (!bytes.is_empty()).then(|| Box::new(Leftover { bytes, written: 0 }))
    }
}

impl Direction {
    pub(super) fn new(to: Side, leftover: Vec<u8>) -> Direction {
        Direction {
            to,
            state: State::Running,
            leftover: Leftover::of(leftover),
            total: 0,
            unreported: 0,
            pipe: None,
            streak: 0,
        }
    }

    /// `is_last`: the other direction has ended, so both sockets will be closed as soon as this one has.
    pub(super) fn poll<R, W>(
        &mut self,
        cx: &mut Context<'_>,
        from: &mut R,
        to: &mut W,
        host: &mut impl Host,
        is_last: bool,
    ) -> Poll<Step>
    where
        R: Stream,
        W: Stream,
    {
        loop {
            match self.state {
                State::Running => match ready!(self.poll_some(cx, from, to, host)) {
                    Ok(Chunk::Moved) => {}
                    Ok(Chunk::End) => self.state = State::Closing,
                    Ok(Chunk::Shut) => return Poll::Ready(Step::Shut),
                    Err(fault) => self.state = State::Failed(fault),
                },
                State::Delivering(ref mut error) => {
                    let error = error.take();
                    let delivered = self.poll_leftover(cx, to, host);
                    self.state = match (delivered, error) {
                        (Poll::Ready(Ok(true)), None) => State::Closing,
                        (Poll::Ready(Ok(true)), Some(error)) => {
                            State::Failed(Fault { stage: Stage::Read, error })
                        }
                        (Poll::Ready(Err(fault)), _) => State::Failed(fault),
                        (Poll::Ready(Ok(false)), error) => {
                            self.state = State::Delivering(error);
                            return Poll::Ready(Step::Shut);
                        }
                        (Poll::Pending, error) => {
                            self.state = State::Delivering(error);
                            return Poll::Pending;
                        }
                    };
                }
                State::Closing => {
                    let to = Pin::new(&mut *to);
                    // The close that follows tells the end as well, and spares a call.
                    let told = if is_last { to.poll_flush(cx) } else { to.poll_shutdown(cx) };
                    self.state = match ready!(told) {
                        Ok(()) => State::Closed,
                        Err(error) => State::Failed(Fault { stage: Stage::Write, error }),
                    };
                }
                State::Closed | State::Failed(_) | State::Over => return Poll::Ready(Step::Ended),
            }
        }
    }

    /// One step by the way that suits the traffic; the way changes only while nothing is stuck in it.
    fn poll_some<R, W>(
        &mut self,
        cx: &mut Context<'_>,
        from: &mut R,
        to: &mut W,
        host: &mut impl Host,
    ) -> Poll<Result<Chunk, Fault>>
    where
        R: Stream,
        W: Stream,
    {
        if self.pipe.is_none() && self.streak >= BULK_AFTER && self.leftover.is_none() {
            self.streak = 0;
            self.pipe = from.socket().and(to.socket()).and_then(|_| Pipe::take()).map(Box::new);
        }
        match (self.pipe.take(), from.socket(), to.socket()) {
            (Some(mut pipe), Some(source), Some(sink)) => {
                let step = self.poll_pipe(cx, &mut pipe, source, sink, host);
                let is_over = self.streak >= CHATTY_AFTER || matches!(step, Poll::Ready(Ok(Chunk::End)));
                if is_over && pipe.is_empty() {
                    self.streak = 0;
                    pipe.give_back();
                } else {
                    self.pipe = Some(pipe);
                }
                step
            }
            _ => self.poll_chunk(cx, from, to, host),
        }
    }

    /// Empties the pipe, then fills it once.
    fn poll_pipe(
        &mut self,
        cx: &mut Context<'_>,
        pipe: &mut Pipe,
        from: &TcpStream,
        to: &TcpStream,
        host: &mut impl Host,
    ) -> Poll<Result<Chunk, Fault>> {
        while !pipe.is_empty() {
            if !host.may_forward() {
                return Poll::Ready(Ok(Chunk::Shut));
            }
            let n = match ready!(pipe.poll_drain(cx, to)) {
                Ok(0) => Err(io::ErrorKind::WriteZero.into()),
                other => other,
            };
            let n = n.map_err(|error| Fault { stage: Stage::Write, error })?;
            host.wrote(self.to, None);
            self.count(n, host);
        }
        if self.streak >= CHATTY_AFTER {
            return Poll::Ready(Ok(Chunk::Moved));
        }
        if !host.may_forward() {
            return Poll::Ready(Ok(Chunk::Shut));
        }
        let n = ready!(pipe.poll_fill(cx, from)).map_err(|error| Fault { stage: Stage::Read, error })?;
        self.streak = if n < SMALL { self.streak + 1 } else { 0 };
        Poll::Ready(Ok(if n == 0 { Chunk::End } else { Chunk::Moved }))
    }

    /// Writes what is left over; `false`: forwarding is not allowed now.
    fn poll_leftover<W: Stream>(
        &mut self,
        cx: &mut Context<'_>,
        to: &mut W,
        host: &mut impl Host,
    ) -> Poll<Result<bool, Fault>> {
        while let Some(leftover) = &mut self.leftover {
            if !host.may_forward() {
                return Poll::Ready(Ok(false));
            }
            let rest = &leftover.bytes[leftover.written..];
            let n = ready!(poll_write(cx, to, rest))?;
            host.wrote(self.to, Some(&rest[..n]));
            leftover.written += n;
            if leftover.written == leftover.bytes.len() {
                self.leftover = None;
            }
            self.count(n, host);
        }
        Poll::Ready(Ok(true))
    }

    /// Reads what there is and writes it. Never returns `Pending` with bytes in the shared buffer.
    fn poll_chunk<R, W>(
        &mut self,
        cx: &mut Context<'_>,
        from: &mut R,
        to: &mut W,
        host: &mut impl Host,
    ) -> Poll<Result<Chunk, Fault>>
    where
        R: Stream,
        W: Stream,
    {
        if !(ready!(self.poll_leftover(cx, to, host))? && host.may_forward()) {
            return Poll::Ready(Ok(Chunk::Shut));
        }
        SCRATCH.with_borrow_mut(|scratch| {
            let mut buffer = ReadBuf::new(scratch);
            let after = poll_read(cx, from, &mut buffer);
            let bytes = buffer.filled();
            self.streak = if bytes.len() == CHUNK { self.streak.saturating_add(1) } else { 0 };
            let is_end = matches!(after, After::End);
            let mut sent = 0;
            while sent < bytes.len() {
                let rest = &bytes[sent..];
                let written = match to.socket() {
                    // The end goes out with the last bytes, in one packet.
                    Some(socket) if is_end => poll_send_before_end(cx, socket, rest),
                    _ => poll_write(cx, to, rest),
                };
                match written {
                    Poll::Ready(n) => {
                        let n = n?;
                        host.wrote(self.to, Some(&rest[..n]));
                        sent += n;
                        self.count(n, host);
                    }
                    Poll::Pending => {
                        self.leftover = Leftover::of(rest.to_vec());
                        match after {
                            After::More | After::Wait => {}
                            After::End => self.state = State::Delivering(None),
                            After::Failed(error) => self.state = State::Delivering(Some(error)),
                        }
                        return Poll::Pending;
                    }
                }
            }
            match after {
                After::More => Poll::Ready(Ok(Chunk::Moved)),
                // What the writer keeps back must be on its way before we sleep.
                After::Wait => match Pin::new(to).poll_flush(cx) {
                    Poll::Ready(Err(error)) => Poll::Ready(Err(Fault { stage: Stage::Write, error })),
                    Poll::Ready(Ok(())) | Poll::Pending => Poll::Pending,
                },
                After::End => Poll::Ready(Ok(Chunk::End)),
                After::Failed(error) => Poll::Ready(Err(Fault { stage: Stage::Read, error })),
            }
        })
    }

    fn count(&mut self, bytes: usize, host: &mut impl Host) {
        self.total += bytes as u64;
        self.unreported += bytes as u64;
        if self.unreported >= REPORT_EVERY {
            self.report(host);
        }
    }

    pub(super) fn report(&mut self, host: &mut impl Host) {
        if self.unreported > 0 {
            host.moved(self.to, self.unreported);
            self.unreported = 0;
        }
    }

    #[cfg(test)]
    pub(super) const fn is_bulk(&self) -> bool {
        self.pipe.is_some()
    }

    pub(super) const fn total(&self) -> u64 {
        self.total
    }

    /// The end was read and passed on.
    pub(super) const fn is_closed(&self) -> bool {
        matches!(self.state, State::Closed)
    }

    /// Nothing more will be moved.
    pub(super) const fn is_over(&self) -> bool {
        matches!(self.state, State::Closed | State::Failed(_) | State::Over)
    }

    pub(super) const fn fault(&self) -> Option<&Fault> {
        match &self.state {
            State::Failed(fault) => Some(fault),
            _ => None,
        }
    }

    pub(super) fn take_fault(&mut self) -> Option<Fault> {
        if !matches!(self.state, State::Failed(_)) {
            return None;
        }
        match std::mem::replace(&mut self.state, State::Over) {
            State::Failed(fault) => Some(fault),
            _ => None,
        }
    }
}

enum Chunk {
    Moved,
    End,
    Shut,
}

/// What comes after the bytes that were read.
enum After {
    /// Perhaps more at once.
    More,
    /// Nothing now; a wake-up is armed.
    Wait,
    End,
    Failed(io::Error),
}

/// Reads until there is no more or the buffer is full. After a short read tokio knows that a socket is empty, or at
/// its end, so asking again costs no call.
fn poll_read<R: Stream>(cx: &mut Context<'_>, from: &mut R, buffer: &mut ReadBuf<'_>) -> After {
    loop {
        let before = buffer.filled().len();
        match Pin::new(&mut *from).poll_read(cx, buffer) {
            Poll::Pending => return After::Wait,
            Poll::Ready(Err(error)) => return After::Failed(error),
            Poll::Ready(Ok(())) if buffer.filled().len() == before => return After::End,
            Poll::Ready(Ok(())) if buffer.remaining() == 0 => return After::More,
            Poll::Ready(Ok(())) => {}
        }
    }
}

fn poll_write<W: AsyncWrite + Unpin>(
    cx: &mut Context<'_>,
    to: &mut W,
    bytes: &[u8],
) -> Poll<Result<usize, Fault>> {
    Poll::Ready(written(ready!(Pin::new(to).poll_write(cx, bytes))))
}

/// Writes what the end of the stream follows at once: the kernel waits for it, to send both together.
fn poll_send_before_end(cx: &mut Context<'_>, to: &TcpStream, bytes: &[u8]) -> Poll<Result<usize, Fault>> {
    loop {
        if let Err(error) = ready!(to.poll_write_ready(cx)) {
            return Poll::Ready(written(Err(error)));
        }
        match to.try_io(Interest::WRITABLE, || socket::send_before_end(to, bytes)) {
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => {}
            result => return Poll::Ready(written(result)),
        }
    }
}

fn written(result: io::Result<usize>) -> Result<usize, Fault> {
    match result {
        Ok(0) => Err(Fault { stage: Stage::Write, error: io::ErrorKind::WriteZero.into() }),
        Ok(n) => Ok(n),
        Err(error) => Err(Fault { stage: Stage::Write, error }),
    }
}
