//! All sessions of the proxy, as others see them: to be listed, and to be ended from outside.

use std::collections::HashMap;
use std::fmt;
use std::future::poll_fn;
use std::net::SocketAddr;
use std::sync::atomic::{AtomicU8, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, OnceLock, PoisonError};
use std::task::{Context, Poll};
use std::time::Instant;

use futures_util::task::AtomicWaker;

use crate::close::CloseReason;
use crate::endpoint::Peer;
use crate::listen::Port;
use crate::topology::{Node, Target};

/// Parts that are locked apart, so that workers seldom wait for each other.
const SHARDS: usize = 16;

/// Where a session is in its life.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
#[repr(u8)]
pub(crate) enum Stage {
    /// Its client has not been answered yet.
    Opening,
    /// It waits for somebody to serve.
    Held,
    /// It has a server.
    Open,
}

impl Stage {
    pub(crate) const fn label(self) -> &'static str {
        match self {
            Stage::Opening => "opening",
            Stage::Held => "held",
            Stage::Open => "open",
        }
    }
}

/// One session.
#[derive(Debug)]
pub(crate) struct Ticket {
    /// Tells it apart in the log and to the operator.
    pub(crate) number: u64,
    pub(crate) port: Arc<Port>,
    pub(crate) peer: Peer,
    pub(crate) started: Instant,
    /// What a PROXY header says of the client.
    announced: OnceLock<Box<SocketAddr>>,
    target: OnceLock<Arc<Target>>,
    stage: AtomicU8,
    /// One more than the index of the reason for which it is to end; 0: none.
    end: AtomicU8,
    waker: AtomicWaker,
}

impl Ticket {
    pub(crate) fn new(number: u64, port: Arc<Port>, peer: Peer) -> Ticket {
        Ticket {
            number,
            port,
            peer,
            started: Instant::now(),
            announced: OnceLock::new(),
            target: OnceLock::new(),
            stage: AtomicU8::new(Stage::Opening as u8),
            end: AtomicU8::new(0),
            waker: AtomicWaker::new(),
        }
    }

    /// Who the client is: what was announced goes before what was seen.
    pub(crate) fn client(&self) -> Peer {
        self.announced.get().map_or(self.peer, |announced| Peer::Remote(**announced))
    }

    pub(crate) fn announce(&self, source: SocketAddr) {
        self.announced.get_or_init(|| Box::new(source));
    }

    /// The server it has got.
    pub(crate) fn target(&self) -> Option<&Arc<Target>> {
        self.target.get()
    }

    /// It has got a server.
    pub(crate) fn opened(&self, target: &Arc<Target>) {
        self.target.get_or_init(|| Arc::clone(target));
        self.enter(Stage::Open);
    }

    pub(crate) fn enter(&self, stage: Stage) {
        self.stage.store(stage as u8, Ordering::Relaxed);
    }

    pub(crate) fn stage(&self) -> Stage {
        match self.stage.load(Ordering::Relaxed) {
            1 => Stage::Held,
            2 => Stage::Open,
            _ => Stage::Opening,
        }
    }

    /// Asks it to end. The first reason stays.
    pub(crate) fn end(&self, reason: CloseReason) {
        let index = u8::try_from(reason.index() + 1).unwrap_or(u8::MAX);
        if self.end.compare_exchange(0, index, Ordering::SeqCst, Ordering::SeqCst).is_ok() {
            self.waker.wake();
        }
    }

    fn ending(&self) -> Option<CloseReason> {
        let index = usize::from(self.end.load(Ordering::SeqCst)).checked_sub(1)?;
        CloseReason::ALL.get(index).copied()
    }

    /// Waits until it is asked to end. Only its own task may, and in one place at a time.
    pub(crate) async fn ended(&self) -> CloseReason {
        let mut wait = EndWait::default();
        poll_fn(|cx| wait.poll(self, cx)).await
    }
}

/// One wait for the end. It is polled for every chunk: after the first time, that is one load.
#[derive(Default)]
pub(crate) struct EndWait {
    is_registered: bool,
}

impl EndWait {
    pub(crate) fn poll(&mut self, ticket: &Ticket, cx: &mut Context<'_>) -> Poll<CloseReason> {
        // A task has one waker for all its life.
        if !std::mem::replace(&mut self.is_registered, true) {
            ticket.waker.register(cx.waker());
        }
        ticket.ending().map_or(Poll::Pending, Poll::Ready)
    }
}

/// All of them.
#[derive(Default)]
pub(crate) struct Roster {
    shards: [Mutex<Shard>; SHARDS],
}

#[derive(Default)]
struct Shard {
    open: HashMap<u64, Arc<Ticket>>,
    /// Why nobody may come any more.
    closed: Option<CloseReason>,
}

impl fmt::Debug for Roster {
    /// Tickets know their port, and ports the roster: this ends it.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Roster").finish_non_exhaustive()
    }
}

/// One of them, until it is dropped.
#[derive(Debug)]
pub(crate) struct Enrolled(Arc<Ticket>);

impl std::ops::Deref for Enrolled {
    type Target = Ticket;

    fn deref(&self) -> &Ticket {
        &self.0
    }
}

impl Drop for Enrolled {
    fn drop(&mut self) {
        self.0.port.roster.shard(self.0.number).open.remove(&self.0.number);
    }
}

impl Roster {
    /// A panic while it was held cannot have left the list half-changed.
    fn lock(shard: &Mutex<Shard>) -> MutexGuard<'_, Shard> {
        shard.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The part where a session of this number is.
    fn shard(&self, number: u64) -> MutexGuard<'_, Shard> {
        Roster::lock(&self.shards[usize::try_from(number).unwrap_or_default() % SHARDS])
    }

    /// Adds the ticket to the roster of its port.
    pub(crate) fn enrol(ticket: Ticket) -> Enrolled {
        let ticket = Arc::new(ticket);
        let mut shard = ticket.port.roster.shard(ticket.number);
        match shard.closed {
            Some(reason) => ticket.end(reason),
            None => {
                shard.open.insert(ticket.number, Arc::clone(&ticket));
            }
        }
        drop(shard);
        Enrolled(ticket)
    }

    /// All, by number.
    pub(crate) fn all(&self) -> Vec<Arc<Ticket>> {
        let shards = self.shards.iter();
        let mut all: Vec<_> =
            shards.flat_map(|shard| Roster::lock(shard).open.values().cloned().collect::<Vec<_>>()).collect();
        all.sort_unstable_by_key(|ticket| ticket.number);
        all
    }

    /// Asks one to end; whether there is such a one.
    pub(crate) fn end(&self, number: u64, reason: CloseReason) -> bool {
        let ticket = self.shard(number).open.get(&number).cloned();
        ticket.inspect(|ticket| ticket.end(reason)).is_some()
    }

    /// Asks all on this node to end; answers how many.
    pub(crate) fn end_on(&self, node: &Arc<Node>, reason: CloseReason) -> usize {
        let all = self.all();
        let on_it = all.iter().filter(|t| t.target().is_some_and(|target| Arc::ptr_eq(&target.node, node)));
        on_it.inspect(|ticket| ticket.end(reason)).count()
    }

    /// Asks all to end, and all that are still to come.
    pub(crate) fn close(&self, reason: CloseReason) {
        for shard in &self.shards {
            let mut shard = Roster::lock(shard);
            shard.closed = Some(reason);
            let open: Vec<_> = shard.open.values().cloned().collect();
            drop(shard);
            open.into_iter().for_each(|ticket| ticket.end(reason));
        }
    }
}
