//! One direction of a session: read, write, remember only what did not fit.

use std::cell::RefCell;
use std::io;
use std::pin::Pin;
use std::task::{Context, Poll, ready};

use tokio::io::{AsyncWrite, ReadBuf};
use tokio::net::TcpStream;

use super::pipe::Pipe;
use super::{Host, Stream};
use crate::close::Side;

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

/// Only moves forward: Running, Closing, Closed; or Failed from any.
#[derive(Debug)]
enum State {
    Running,
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
    /// Read but not written; empty unless the writer is slower than the reader.
    leftover: Vec<u8>,
    written: usize,
    total: u64,
    unreported: u64,
    /// Present while the direction is bulk.
    pipe: Option<Box<Pipe>>,
    /// Consecutive full reads without a pipe, or small ones with it.
    streak: u8,
}

impl Direction {
    pub(super) fn new(to: Side, leftover: Vec<u8>) -> Direction {
        Direction {
            to,
            state: State::Running,
            leftover,
            written: 0,
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
        host: &impl Host,
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
        host: &impl Host,
    ) -> Poll<Result<Chunk, Fault>>
    where
        R: Stream,
        W: Stream,
    {
        if self.pipe.is_none() && self.streak >= BULK_AFTER && self.leftover.is_empty() {
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
        host: &impl Host,
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

    /// Reads one chunk and writes it. Never returns `Pending` with bytes in the shared buffer.
    fn poll_chunk<R, W>(
        &mut self,
        cx: &mut Context<'_>,
        from: &mut R,
        to: &mut W,
        host: &impl Host,
    ) -> Poll<Result<Chunk, Fault>>
    where
        R: Stream,
        W: Stream,
    {
        while self.written < self.leftover.len() {
            if !host.may_forward() {
                return Poll::Ready(Ok(Chunk::Shut));
            }
            let n = ready!(poll_write(cx, to, &self.leftover[self.written..]))?;
            self.written += n;
            self.count(n, host);
        }
        if !self.leftover.is_empty() {
            self.leftover = Vec::new();
            self.written = 0;
        }
        if !host.may_forward() {
            return Poll::Ready(Ok(Chunk::Shut));
        }
        SCRATCH.with_borrow_mut(|scratch| {
            let mut buffer = ReadBuf::new(scratch);
            let Poll::Ready(read) = Pin::new(from).poll_read(cx, &mut buffer) else {
                // What the writer keeps back must be on its way before we sleep.
                return match Pin::new(to).poll_flush(cx) {
                    Poll::Ready(Err(error)) => Poll::Ready(Err(Fault { stage: Stage::Write, error })),
                    Poll::Ready(Ok(())) | Poll::Pending => Poll::Pending,
                };
            };
            read.map_err(|error| Fault { stage: Stage::Read, error })?;
            let bytes = buffer.filled();
            if bytes.is_empty() {
                return Poll::Ready(Ok(Chunk::End));
            }
            self.streak = if bytes.len() == CHUNK { self.streak.saturating_add(1) } else { 0 };
            let mut sent = 0;
            while sent < bytes.len() {
                match poll_write(cx, to, &bytes[sent..]) {
                    Poll::Ready(n) => {
                        let n = n?;
                        sent += n;
                        self.count(n, host);
                    }
                    Poll::Pending => {
                        self.leftover = bytes[sent..].to_vec();
                        return Poll::Pending;
                    }
                }
            }
            Poll::Ready(Ok(Chunk::Moved))
        })
    }

    fn count(&mut self, bytes: usize, host: &impl Host) {
        self.total += bytes as u64;
        self.unreported += bytes as u64;
        if self.unreported >= REPORT_EVERY {
            self.report(host);
        }
    }

    pub(super) fn report(&mut self, host: &impl Host) {
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

fn poll_write<W: AsyncWrite + Unpin>(
    cx: &mut Context<'_>,
    to: &mut W,
    bytes: &[u8],
) -> Poll<Result<usize, Fault>> {
    Poll::Ready(match ready!(Pin::new(to).poll_write(cx, bytes)) {
        Ok(0) => Err(Fault { stage: Stage::Write, error: io::ErrorKind::WriteZero.into() }),
        Ok(n) => Ok(n),
        Err(error) => Err(Fault { stage: Stage::Write, error }),
    })
}
