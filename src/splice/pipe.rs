//! Bulk bytes from socket to socket through a pipe, without a copy through this process (splice(2)).
//!
//! It pays for itself only while large amounts flow, so a direction takes a pipe after consecutive full reads and
//! gives it back when reads become small. Pipes are pooled per worker thread; a pipe is given back only when it is
//! empty, so bytes of one session can never reach another.

use std::cell::RefCell;
use std::io;
use std::os::fd::OwnedFd;
use std::task::{Context, Poll, ready};

use rustix::pipe::{PipeFlags, SpliceFlags, fcntl_setpipe_size, pipe_with, splice};
use tokio::io::Interest;
use tokio::net::TcpStream;

/// Wanted size of a pipe. A refusal (the user's pipe limit) leaves the kernel's default.
const SIZE: usize = 1024 * 1024;

/// Idle pipes kept per worker thread.
const POOLED: usize = 16;

thread_local! {
    static POOL: RefCell<Vec<Pipe>> = const { RefCell::new(Vec::new()) };
}

/// A pipe and what is in it.
#[derive(Debug)]
pub(super) struct Pipe {
    read: OwnedFd,
    write: OwnedFd,
    filled: usize,
}

impl Pipe {
    /// One from the pool, or a new one; `None` when the kernel has none to give.
    pub(super) fn take() -> Option<Pipe> {
        POOL.with_borrow_mut(Vec::pop).or_else(|| {
            let (read, write) = pipe_with(PipeFlags::CLOEXEC | PipeFlags::NONBLOCK).ok()?;
            // A smaller one works too, only not as well.
            let _ = fcntl_setpipe_size(&write, SIZE);
            Some(Pipe { read, write, filled: 0 })
        })
    }

    /// Back to the pool, if it is empty and there is room.
    pub(super) fn give_back(self) {
        if self.filled == 0 {
            POOL.with_borrow_mut(|pool| {
                if pool.len() < POOLED {
                    pool.push(self);
                }
            });
        }
    }

    pub(super) const fn is_empty(&self) -> bool {
        self.filled == 0
    }

    /// Moves what `from` has into the empty pipe; 0: its end.
    pub(super) fn poll_fill(&mut self, cx: &mut Context<'_>, from: &TcpStream) -> Poll<io::Result<usize>> {
        debug_assert!(self.is_empty(), "a full pipe and an empty socket cannot be told apart");
        loop {
            ready!(from.poll_read_ready(cx))?;
            let moved = from.try_io(Interest::READABLE, || pass(from, &self.write, SIZE));
            match moved {
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => {}
                Ok(n) => {
                    self.filled = n;
                    return Poll::Ready(Ok(n));
                }
                Err(error) => return Poll::Ready(Err(error)),
            }
        }
    }

    /// Moves from the pipe into `to` what it takes.
    pub(super) fn poll_drain(&mut self, cx: &mut Context<'_>, to: &TcpStream) -> Poll<io::Result<usize>> {
        loop {
            ready!(to.poll_write_ready(cx))?;
            let moved = to.try_io(Interest::WRITABLE, || pass(&self.read, to, self.filled));
            match moved {
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => {}
                Ok(n) => {
                    self.filled -= n;
                    return Poll::Ready(Ok(n));
                }
                Err(error) => return Poll::Ready(Err(error)),
            }
        }
    }
}

fn pass(from: impl std::os::fd::AsFd, to: impl std::os::fd::AsFd, limit: usize) -> io::Result<usize> {
    Ok(splice(from, None, to, None, limit, SpliceFlags::MOVE | SpliceFlags::NONBLOCK)?)
}
