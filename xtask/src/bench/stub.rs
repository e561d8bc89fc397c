//! A server that speaks as much PostgreSQL as it takes to connect, and then is as fast as the kernel: with it,
//! what is measured is the proxy. Runs as a process of its own, so that its CPU time is apart from the clients'.
//!
//! One thread accepts, answers startup packets and keeps idle sessions; sessions that move data go to workers.

use std::collections::HashMap;
use std::io::{self, Read, Write};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::os::fd::OwnedFd;
use std::sync::{Arc, Mutex, PoisonError};
use std::thread;

use rustix::event::epoll::{self, EventData, EventFlags};

use super::wire;

/// The hidden subcommand's name.
pub const SUBCOMMAND: &str = "bench-stub";

/// Bytes moved by one call.
pub(super) const CHUNK: usize = 128 * 1024;

/// Calls made for one session before others get their turn.
const TURN: usize = 8;

/// Longest startup packet; ours are a tenth of it.
const STARTUP_LIMIT: usize = 1024;

/// Events taken at once.
const EVENTS: usize = 256;

/// The listener's token; guests count from 0.
const LISTENER: u64 = u64::MAX;

/// What a session does once it is open; the database's name says it.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Role {
    Echo,
    Out,
    In,
    Idle,
}

impl Role {
    fn of(database: &[u8]) -> Role {
        match database {
            b"echo" => Role::Echo,
            b"out" => Role::Out,
            b"in" => Role::In,
            _ => Role::Idle,
        }
    }
}

/// Serves until it is killed. `id` is what clients are told as process id.
pub fn serve(address: SocketAddr, id: u32) -> io::Result<()> {
    let listener = TcpListener::bind(address)?;
    listener.set_nonblocking(true)?;
    let cores = thread::available_parallelism()?.get();
    let workers: Vec<_> = (0..cores).map(|_| Worker::start()).collect::<io::Result<_>>()?;
    Lobby { listener, id, epoll: new_epoll()?, guests: HashMap::new(), next: 0, workers }.run()
}

fn new_epoll() -> io::Result<OwnedFd> {
    Ok(epoll::create(epoll::CreateFlags::CLOEXEC)?)
}

struct Guest {
    stream: TcpStream,
    /// The startup packet so far; holds nothing once it was answered.
    seen: Vec<u8>,
    is_open: bool,
}

enum Next {
    Stay,
    Leave,
    Work(Role),
}

struct Lobby {
    listener: TcpListener,
    id: u32,
    epoll: OwnedFd,
    guests: HashMap<u64, Guest>,
    next: u64,
    workers: Vec<Arc<Worker>>,
}

impl Lobby {
    fn run(mut self) -> io::Result<()> {
        epoll::add(&self.epoll, &self.listener, EventData::new_u64(LISTENER), EventFlags::IN)?;
        let mut events = Vec::with_capacity(EVENTS);
        loop {
            events.clear();
            wait(&self.epoll, &mut events)?;
            for event in &events {
                match event.data.u64() {
                    LISTENER => self.accept(),
                    token => self.hear(token),
                }
            }
        }
    }

    fn accept(&mut self) {
        // An error is that nobody waits, or that descriptors ran out; the clients will say so.
        while let Ok((stream, _)) = self.listener.accept() {
            let token = self.next;
            let prepared = stream.set_nonblocking(true).and_then(|()| stream.set_nodelay(true));
            let added = prepared.is_ok()
                && epoll::add(&self.epoll, &stream, EventData::new_u64(token), EventFlags::IN).is_ok();
            if added {
                self.next += 1;
                self.guests.insert(token, Guest { stream, seen: Vec::new(), is_open: false });
            }
        }
    }

    fn hear(&mut self, token: u64) {
        let Some(guest) = self.guests.get_mut(&token) else { return };
        match guest.hear(self.id) {
            Next::Stay => {}
            Next::Leave => drop(self.guests.remove(&token)),
            Next::Work(role) => {
                let Some(guest) = self.guests.remove(&token) else { return };
                let place = usize::try_from(token).unwrap_or(0) % self.workers.len();
                if epoll::delete(&self.epoll, &guest.stream).is_ok() {
                    self.workers[place].take(guest.stream, role);
                }
            }
        }
    }
}

impl Guest {
    fn hear(&mut self, id: u32) -> Next {
        let mut bytes = [0; STARTUP_LIMIT];
        match self.stream.read(&mut bytes) {
            Ok(0) => Next::Leave,
            Ok(_) if self.is_open => {
                if bytes[0] == wire::TERMINATE[0] {
                    Next::Leave
                } else {
                    Next::Stay
                }
            }
            Ok(read) => {
                self.seen.extend_from_slice(&bytes[..read]);
                self.answer(id)
            }
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => Next::Stay,
            Err(_) => Next::Leave,
        }
    }

    fn answer(&mut self, id: u32) -> Next {
        let Some(length) = wire::number(&self.seen) else { return Next::Stay };
        let length = usize::try_from(length).unwrap_or(usize::MAX);
        if !(8..=STARTUP_LIMIT).contains(&length) {
            return Next::Leave;
        }
        let Some(packet) = self.seen.get(4..length) else { return Next::Stay };
        if wire::number(packet) != Some(wire::PROTOCOL) {
            return Next::Leave;
        }
        let mut words = packet[4..].split(|byte| *byte == 0);
        let role =
            words.find(|word| *word == b"database").and_then(|_| words.next()).map_or(Role::Idle, Role::of);
        // A new socket takes these few bytes at once.
        if self.stream.write_all(&welcome(id)).is_err() {
            return Next::Leave;
        }
        self.seen = Vec::new();
        self.is_open = true;
        if role == Role::Idle { Next::Stay } else { Next::Work(role) }
    }
}

/// AuthenticationOk, BackendKeyData, ReadyForQuery.
fn welcome(id: u32) -> Vec<u8> {
    let mut bytes = vec![b'R', 0, 0, 0, 8, 0, 0, 0, 0, b'K', 0, 0, 0, 12];
    bytes.extend(id.to_be_bytes());
    bytes.extend([0, 0, 0, 1, b'Z', 0, 0, 0, 5, b'I']);
    bytes
}

type Session = Option<(TcpStream, Role)>;

/// A thread that moves data for some sessions. The lock is for handing them over; it is never waited for
/// while data moves.
struct Worker {
    epoll: OwnedFd,
    sessions: Mutex<Vec<Session>>,
}

impl Worker {
    fn start() -> io::Result<Arc<Worker>> {
        let worker = Arc::new(Worker { epoll: new_epoll()?, sessions: Mutex::default() });
        let this = Arc::clone(&worker);
        thread::Builder::new().name("stub".to_owned()).spawn(move || this.run())?;
        Ok(worker)
    }

    fn take(&self, stream: TcpStream, role: Role) {
        let mut sessions = self.sessions.lock().unwrap_or_else(PoisonError::into_inner);
        let token = EventData::new_u64(sessions.len() as u64);
        let interest = if role == Role::Out { EventFlags::OUT } else { EventFlags::IN };
        if epoll::add(&self.epoll, &stream, token, interest).is_ok() {
            sessions.push(Some((stream, role)));
        }
    }

    fn run(&self) {
        let mut events = Vec::with_capacity(EVENTS);
        let mut chunk = vec![0; CHUNK];
        loop {
            events.clear();
            if wait(&self.epoll, &mut events).is_err() {
                return;
            }
            let mut sessions = self.sessions.lock().unwrap_or_else(PoisonError::into_inner);
            for event in &events {
                let place = usize::try_from(event.data.u64()).ok().and_then(|at| sessions.get_mut(at));
                let Some(session) = place else { continue };
                if let Some((stream, role)) = session
                    && !turn(stream, *role, &mut chunk)
                {
                    *session = None;
                }
            }
        }
    }
}

/// One session's turn; `false`: it is over.
fn turn(stream: &mut TcpStream, role: Role, chunk: &mut [u8]) -> bool {
    for _ in 0..TURN {
        let moved = match role {
            Role::Out => stream.write(chunk),
            Role::In => stream.read(chunk),
            // One message at a time is under way, so there is room for the answer.
            _ => stream.read(chunk).and_then(|read| stream.write_all(&chunk[..read]).map(|()| read)),
        };
        match moved {
            Ok(0) => return false,
            // What is left wakes us again.
            Ok(_) if role == Role::Echo => return true,
            Ok(_) => {}
            Err(error) => return error.kind() == io::ErrorKind::WouldBlock,
        }
    }
    true
}

/// Waits for events, however often a signal interrupts.
pub(super) fn wait(epoll: &OwnedFd, events: &mut Vec<epoll::Event>) -> io::Result<()> {
    match epoll::wait(epoll, rustix::buffer::spare_capacity(events), None) {
        Ok(_) | Err(rustix::io::Errno::INTR) => Ok(()),
        Err(error) => Err(error.into()),
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    fn started() -> SocketAddr {
        let address = TcpListener::bind("127.0.0.1:0").and_then(|l| l.local_addr()).expect("a free port");
        thread::spawn(move || serve(address, 42));
        while TcpStream::connect(address).is_err() {
            thread::sleep(Duration::from_millis(5));
        }
        address
    }

    #[test]
    fn each_database_does_what_its_name_says() {
        let address = started();
        let mut echo = wire::open(address, "echo").expect("opens");
        assert_eq!(echo.server, 42);
        let mut answer = [0; 5];
        echo.stream.write_all(b"hello").expect("writes");
        echo.stream.read_exact(&mut answer).expect("an echo");
        assert_eq!(&answer, b"hello");

        let mut out = wire::open(address, "out").expect("opens");
        out.stream.read_exact(&mut vec![0; 3 * CHUNK]).expect("a stream");
        let mut sink = wire::open(address, "in").expect("opens");
        sink.stream.write_all(&vec![0; 20 * CHUNK]).expect("is discarded");
    }

    #[test]
    fn an_idle_session_ends_by_terminate() {
        let mut idle = wire::open(started(), "postgres").expect("opens");
        idle.stream.write_all(&wire::TERMINATE).expect("writes");
        assert_eq!(idle.stream.read(&mut [0; 8]).expect("a clean end"), 0);
    }
}
