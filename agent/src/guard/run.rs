//! The guard's loop: one thread, one `poll`. It feeds [`super::core`] and carries out what that orders.
//!
//! Nothing here may block: sockets are non-blocking, the log has a thread of its own, the network too, and the
//! only files touched while armed are those of /proc.

use std::fs::File;
use std::io::{self, Read, Write};
use std::num::NonZeroI32;
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::PathBuf;
use std::sync::mpsc::{Receiver, Sender, channel};
use std::time::Duration;

use pgvane_cluster::clock::Tick;
use pgvane_cluster::ids::{Epoch, LeaseId};
use rustix::event::{PollFd, PollFlags, poll};
use rustix::fs::{FlockOperation, flock};
use rustix::process::{Pid, PidfdFlags, pidfd_open};
use rustix::time::{
    Itimerspec, TimerfdClockId, TimerfdFlags, TimerfdTimerFlags, Timespec, timerfd_create, timerfd_settime,
};

use super::core::{Command, Event, Phase, Refusal, Server, State, Watch, step};
use super::log::Log;
use super::protocol::{
    Answer, ArmRequest, Ask, Doing, Line, MAX_LINE, Parting, Question, Report, StoreAccess,
};
use super::revoke;
use super::server::{Postmaster, stop_immediate};
use crate::postgres::process::kill_everything;

/// The longest the loop sleeps while it holds or acts on a deadline: the timer alone should do, and a second
/// way to wake costs nothing.
const GLANCE_EVERY: Duration = Duration::from_millis(100);

/// How long one sweep may wait for the processes it killed.
const SWEEP_PATIENCE: Duration = Duration::from_millis(15);

/// Connections kept at a time; the agent needs one.
const MAX_CONNECTIONS: usize = 8;

struct Connection {
    socket: UnixStream,
    read: Vec<u8>,
    peer: Pid,
    closed: bool,
}

/// The agent: its process, and its connection while it has one.
struct Agent {
    pid: Pid,
    pidfd: OwnedFd,
    connection: Option<usize>,
}

/// Everything the loop owns.
pub(super) struct Guard {
    state: State,
    data_dir: PathBuf,
    listener: UnixListener,
    connections: Vec<Option<Connection>>,
    agent: Option<Agent>,
    postmaster: Option<Postmaster>,
    store: StoreAccess,
    parting: Option<Parting>,
    timer: OwnedFd,
    wake_read: UnixStream,
    wake_write: UnixStream,
    answers: (Sender<revoke::Answer>, Receiver<revoke::Answer>),
    data_lock: Option<File>,
    log: Log,
    exiting: bool,
}

/// What became readable.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Source {
    Timer,
    Wake,
    Agent,
    Postmaster,
    Connection(usize),
    Listener,
}

impl Guard {
    pub(super) fn new(listener: UnixListener, data_dir: PathBuf, log: Log) -> io::Result<Guard> {
        listener.set_nonblocking(true)?;
        let (wake_read, wake_write) = UnixStream::pair()?;
        wake_read.set_nonblocking(true)?;
        wake_write.set_nonblocking(true)?;
        // On CLOCK_BOOTTIME the timer is due at once when a machine wakes after its deadline.
        let flags = TimerfdFlags::NONBLOCK | TimerfdFlags::CLOEXEC;
        Ok(Guard {
            state: State::new(Tick::now()),
            data_dir,
            listener,
            connections: (0..MAX_CONNECTIONS).map(|_| None).collect(),
            agent: None,
            postmaster: None,
            store: StoreAccess::default(),
            parting: None,
            timer: timerfd_create(TimerfdClockId::Boottime, flags)?,
            wake_read,
            wake_write,
            answers: channel(),
            data_lock: None,
            log,
            exiting: false,
        })
    }

    /// Works until there is nothing left to guard.
    pub(super) fn run(mut self) {
        while !self.exiting {
            let ready = match self.wait() {
                Ok(ready) => ready,
                Err(e) => {
                    // Out of memory or descriptors: the deadline still holds, at the pace of the sleep.
                    self.log.say(format_args!("poll: {e}"));
                    std::thread::sleep(Duration::from_millis(10));
                    vec![Source::Timer]
                }
            };
            self.feed(Event::Tick);
            for source in ready {
                self.handle(source);
            }
            self.look_for_server();
        }
    }

    fn wait(&mut self) -> io::Result<Vec<Source>> {
        let wake_at = self.state.wake_at();
        let at = wake_at.unwrap_or(Tick::ZERO);
        // A zero time would disarm the timer; one nanosecond after boot is as good as now.
        let spec = Itimerspec {
            it_interval: Timespec::default(),
            it_value: if wake_at.is_some() { timespec(at.as_nanos().max(1)) } else { Timespec::default() },
        };
        timerfd_settime(&self.timer, TimerfdTimerFlags::ABSTIME, &spec)?;
        let glance = match self.state.phase {
            Phase::Idle => None,
            _ => Some(timespec(u64::try_from(GLANCE_EVERY.as_nanos()).unwrap_or(u64::MAX))),
        };

        let mut sources = vec![Source::Timer, Source::Wake];
        let mut fds = vec![readable(&self.timer), readable(&self.wake_read)];
        if let Some(agent) = &self.agent {
            sources.push(Source::Agent);
            fds.push(readable(&agent.pidfd));
        }
        if let Some(postmaster) = &self.postmaster {
            sources.push(Source::Postmaster);
            fds.push(PollFd::from_borrowed_fd(postmaster.fd(), PollFlags::IN));
        }
        for (index, connection) in self.connections.iter().enumerate() {
            if let Some(connection) = connection {
                sources.push(Source::Connection(index));
                fds.push(readable(&connection.socket));
            }
        }
        sources.push(Source::Listener);
        fds.push(readable(&self.listener));

        match poll(&mut fds, glance.as_ref()) {
            Ok(_) | Err(rustix::io::Errno::INTR) => {}
            Err(e) => return Err(e.into()),
        }
        let ready = sources.iter().zip(&fds).filter(|(_, fd)| !fd.revents().is_empty());
        Ok(ready.map(|(source, _)| *source).collect())
    }

    fn handle(&mut self, source: Source) {
        match source {
            Source::Timer => {}
            Source::Wake => {
                let mut bytes = [0; 16];
                while self.wake_read.read(&mut bytes).is_ok_and(|n| n > 0) {}
                while let Ok(answer) = self.answers.1.try_recv() {
                    self.revoke_answered(answer);
                }
            }
            Source::Agent => {
                if let Some(agent) = self.agent.take() {
                    self.log.say(format_args!("the agent (process {}) ended", agent.pid.as_raw_nonzero()));
                    self.feed(Event::AgentGone);
                }
            }
            Source::Postmaster => {
                self.postmaster = None;
                self.log.say("the postmaster ended");
                self.feed(Event::PostgresGone);
            }
            Source::Connection(index) => self.read_from(index),
            Source::Listener => self.accept(),
        }
    }

    /// Feeds one event and carries out what follows from it.
    fn feed(&mut self, event: Event) -> Option<Refusal> {
        let before = Doing::from(self.state.phase);
        let (mut command, refusal) = step(&mut self.state, event, Tick::now());
        while let Some(outcome) = self.enact(command) {
            command = step(&mut self.state, outcome, Tick::now()).0;
        }
        let after = Doing::from(self.state.phase);
        if before != after {
            self.log.say(format_args!("{before:?} -> {after:?} ({:?})", self.state.watch()));
            if matches!(after, Doing::Stopping | Doing::Fenced) {
                self.tell_agent(&Line::Note(self.report()));
            }
            if after == Doing::Idle {
                self.postmaster = None;
                self.data_lock = None;
            }
        }
        refusal
    }

    /// Carries out a command; what it found at once is the next event.
    fn enact(&mut self, command: Command) -> Option<Event> {
        match command {
            Command::Nothing => None,
            Command::StopImmediate => {
                stop_immediate(self.postmaster.as_ref(), &self.data_dir);
                None
            }
            Command::KillAll => match kill_everything(&self.data_dir, Tick::now() + SWEEP_PATIENCE) {
                Ok(()) => Some(Event::ProcessesGone),
                Err(left) => {
                    self.log.say(format_args!("not dead yet: {left}"));
                    Some(Event::ProcessesLeft)
                }
            },
            Command::RevokeLease(lease) => {
                self.log.say(format_args!("no process is left; revoking lease {}", lease.0));
                let epoch = self.state.watch().map(|watch| watch.epoch);
                let parting = self.parting.clone().zip(epoch);
                revoke::start(self.store.clone(), lease, parting, &self.answers.0, &self.wake_write);
                None
            }
            Command::Exit => {
                self.exiting = true;
                None
            }
        }
    }

    fn revoke_answered(&mut self, answer: revoke::Answer) {
        match answer.result {
            Ok(()) => {
                self.log.say(format_args!("lease {} is revoked", answer.lease.0));
                self.feed(Event::Revoked(answer.lease));
            }
            Err(why) => {
                self.log.say(format_args!("lease {} could not be revoked: {why}", answer.lease.0));
                self.feed(Event::RevokeFailed(answer.lease));
            }
        }
    }

    fn look_for_server(&mut self) {
        if let Phase::Armed { server: Server::Awaited, .. } = self.state.phase
            && self.postmaster.is_none()
            && let Some(postmaster) = Postmaster::find(&self.data_dir)
        {
            self.postmaster = Some(postmaster);
            self.feed(Event::PostgresFound);
        }
    }

    fn accept(&mut self) {
        while let Ok((socket, _)) = self.listener.accept() {
            let Ok(peer) = rustix::net::sockopt::socket_peercred(&socket) else { continue };
            if peer.uid != rustix::process::geteuid() || socket.set_nonblocking(true).is_err() {
                self.log.say(format_args!("refused a connection of user {}", peer.uid.as_raw()));
                continue;
            }
            let connection = Connection { socket, read: Vec::new(), peer: peer.pid, closed: false };
            match self.connections.iter_mut().find(|c| c.is_none()) {
                Some(free) => *free = Some(connection),
                None => self.log.say("refused a connection: too many"),
            }
        }
    }

    fn read_from(&mut self, index: usize) {
        // Taken out while it is worked on, so that answering may change the other connections.
        let Some(mut connection) = self.connections[index].take() else { return };
        let mut chunk = [0; 4096];
        loop {
            match connection.socket.read(&mut chunk) {
                Ok(0) => connection.closed = true,
                Ok(n) => {
                    connection.read.extend_from_slice(&chunk[..n]);
                    self.answer_lines(index, &mut connection);
                    if connection.read.len() > MAX_LINE {
                        self.log.say("closed a connection: its line is too long");
                        connection.closed = true;
                    }
                }
                Err(e) if e.kind() == io::ErrorKind::WouldBlock => break,
                Err(e) if e.kind() == io::ErrorKind::Interrupted => {}
                Err(_) => connection.closed = true,
            }
            if connection.closed {
                break;
            }
        }
        if !connection.closed {
            self.connections[index] = Some(connection);
        } else if let Some(agent) = &mut self.agent
            && agent.connection == Some(index)
        {
            agent.connection = None;
            // While a deadline is held, only the death of its process says that the agent is gone.
            if self.state.phase == Phase::Idle {
                self.agent = None;
                self.feed(Event::AgentGone);
            }
        }
    }

    fn answer_lines(&mut self, index: usize, connection: &mut Connection) {
        while let Some(end) = connection.read.iter().position(|b| *b == b'\n') {
            let line: Vec<u8> = connection.read.drain(..=end).collect();
            match serde_json::from_slice::<Question>(&line) {
                Ok(question) => {
                    let refused = self.answer(index, connection.peer, question.ask).err();
                    let answer = Answer { seq: question.seq, refused, report: self.report() };
                    connection.closed |= !send(&mut connection.socket, &Line::Answer(answer));
                }
                Err(e) => {
                    self.log.say(format_args!("closed a connection: {e}"));
                    connection.closed = true;
                }
            }
        }
    }

    fn answer(&mut self, index: usize, peer: Pid, ask: Ask) -> Result<(), String> {
        let is_agent = self.agent.as_ref().is_some_and(|a| a.connection == Some(index));
        let event = match ask {
            Ask::Status => return Ok(()),
            Ask::Hello => return self.adopt(index, peer),
            _ if !is_agent => return Err("say hello first: another connection is the agent's".to_owned()),
            Ask::Arm(request) => self.prepare_to_arm(*request)?,
            Ask::Extend { lease, deadline } => {
                Event::Extend { lease: LeaseId(lease), deadline: Tick::from_nanos(deadline) }
            }
            Ask::Disarm => Event::Disarm,
        };
        self.feed(event).map_or(Ok(()), |refusal| Err(refusal.to_string()))
    }

    fn adopt(&mut self, index: usize, peer: Pid) -> Result<(), String> {
        let pidfd = pidfd_open(peer, PidfdFlags::empty())
            .map_err(|e| format!("process {} cannot be watched: {e}", peer.as_raw_nonzero()))?;
        let before = self.agent.replace(Agent { pid: peer, pidfd, connection: Some(index) });
        if let Some(old) = before.and_then(|a| a.connection).filter(|old| *old != index) {
            self.connections[old] = None;
        }
        self.log.say(format_args!("process {} is the agent now", peer.as_raw_nonzero()));
        self.feed(Event::AgentPresent);
        Ok(())
    }

    /// What must be ready before the deadline counts: the directory, its lock, its server.
    fn prepare_to_arm(&mut self, request: ArmRequest) -> Result<Event, String> {
        if Doing::from(self.state.phase) == Doing::Stopping {
            return Err(Refusal::Stopped.to_string());
        }
        let lock = File::open(&self.data_dir).and_then(|dir| {
            let real = self.data_dir.canonicalize()?;
            Ok((dir, real))
        });
        let (dir, real) = lock.map_err(|e| format!("{}: {e}", self.data_dir.display()))?;
        if self.data_lock.is_none() {
            // Some network file systems cannot lock a directory; only a lock somebody holds is a reason to refuse.
            if flock(&dir, FlockOperation::NonBlockingLockExclusive) == Err(rustix::io::Errno::WOULDBLOCK) {
                return Err(format!("another guard watches over {}", self.data_dir.display()));
            }
            self.data_lock = Some(dir);
        }
        self.data_dir = real;
        self.store = request.store;
        self.parting = request.parting;
        let mut server = Server::Awaited;
        self.postmaster = None;
        if let Some(pid) = request.postmaster.and_then(NonZeroI32::new) {
            self.postmaster = Pid::from_raw(pid.get()).and_then(|pid| Postmaster::watch(pid).ok());
            server = if self.postmaster.is_some() { Server::Alive } else { Server::Gone };
        }
        Ok(Event::Arm {
            watch: Watch {
                epoch: Epoch(request.epoch),
                lease: LeaseId(request.lease),
                ttl: Duration::from_millis(request.ttl_ms),
                deadline: Tick::from_nanos(request.deadline),
                budget: Duration::from_millis(request.budget_ms),
            },
            server,
        })
    }

    fn tell_agent(&mut self, line: &Line) {
        let index = self.agent.as_ref().and_then(|a| a.connection);
        if let Some(connection) = index.and_then(|i| self.connections[i].as_mut()) {
            // A frozen agent does not read; it will ask when it wakes.
            let _ = send(&mut connection.socket, line);
        }
    }

    fn report(&self) -> Report {
        let watch = self.state.watch();
        Report {
            pid: std::process::id(),
            version: env!("CARGO_PKG_VERSION").to_owned(),
            data_dir: self.data_dir.clone(),
            doing: Doing::from(self.state.phase),
            epoch: watch.map(|w| w.epoch.0),
            lease: watch.map(|w| w.lease.0),
            deadline: watch.map(|w| w.deadline.as_nanos()),
            spent_lease: self.state.spent.map(|l| l.0),
        }
    }
}

/// Whether the whole line went out; half a line would garble all that follow.
fn send(socket: &mut UnixStream, line: &Line) -> bool {
    let Ok(mut text) = serde_json::to_vec(line) else { return false };
    text.push(b'\n');
    socket.write(&text).is_ok_and(|n| n == text.len())
}

fn readable<Fd: AsFd>(fd: &Fd) -> PollFd<'_> {
    PollFd::new(fd, PollFlags::IN)
}

fn timespec(nanos: u64) -> Timespec {
    // Both parts fit: seconds of a u64 of nanoseconds are below 2^35.
    Timespec {
        tv_sec: i64::try_from(nanos / 1_000_000_000).unwrap_or(i64::MAX),
        tv_nsec: i64::try_from(nanos % 1_000_000_000).unwrap_or(0),
    }
}
