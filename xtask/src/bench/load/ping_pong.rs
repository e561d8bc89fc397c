//! Small messages there and back, one under way per session.

use std::io::{self, ErrorKind, Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::os::fd::OwnedFd;
use std::time::{Duration, Instant};

use rustix::event::epoll::{self, EventData, EventFlags};

use super::super::figures::{
    MACHINE_PER_ROUND_TRIP, P50, P99, P999, PROXY_PER_ROUND_TRIP, ROUND_TRIPS, Sample, float, quantile,
};
use super::super::meter::Meter;
use super::super::stub::wait;
use super::super::wire;
use super::{Phase, blocking, window};

/// A short query's size, and a short answer's.
const MESSAGE: usize = 100;

/// Threads of clients: as many as pgbench gets.
const THREADS: usize = 2;

/// Room for latencies, so that it need not grow while it is measured.
const EXPECTED_PER_SECOND: u64 = 200_000;

const MICROS: f64 = 1e6;

pub(in super::super) async fn run(
    address: SocketAddr,
    meter: Meter,
    sessions: usize,
    length: Duration,
) -> Result<Sample, String> {
    let measured = blocking(move || {
        let mut shares: Vec<Vec<TcpStream>> = (0..THREADS.min(sessions)).map(|_| Vec::new()).collect();
        for number in 0..sessions {
            let place = number % shares.len();
            shares[place].push(wire::open(address, "echo")?.stream);
        }
        let clients = shares.into_iter().map(|share| Client::new(share, length));
        let clients = clients.map(|client| Ok(move |phase: &Phase| client?.play(phase)));
        window(meter, length, clients.collect::<io::Result<Vec<_>>>()?)
    })
    .await?;
    let mut nanos = measured.results.concat();
    nanos.sort_unstable();
    if nanos.is_empty() {
        return Err("no message came back".to_owned());
    }
    let trips = float(nanos.len() as u64);
    let mut sample = vec![(ROUND_TRIPS, trips / measured.seconds)];
    sample.extend(
        [(P50, 0.5), (P99, 0.99), (P999, 0.999)].map(|(f, share)| (f, quantile(&nanos, share) / 1e3)),
    );
    sample.extend(measured.spent.proxy.map(|cpu| (PROXY_PER_ROUND_TRIP, cpu * MICROS / trips)));
    sample.push((MACHINE_PER_ROUND_TRIP, measured.spent.machine * MICROS / trips));
    Ok(sample)
}

/// A session, when its message left and how much of the answer is still to come.
struct Session {
    stream: TcpStream,
    sent: Instant,
    missing: usize,
}

/// One thread's sessions.
struct Client {
    sessions: Vec<Session>,
    epoll: OwnedFd,
    nanos: Vec<u32>,
}

impl Client {
    fn new(streams: Vec<TcpStream>, length: Duration) -> io::Result<Client> {
        let epoll = epoll::create(epoll::CreateFlags::CLOEXEC)?;
        let mut sessions = Vec::new();
        for (token, stream) in (0..).zip(streams) {
            epoll::add(&epoll, &stream, EventData::new_u64(token), EventFlags::IN)?;
            sessions.push(Session { stream, sent: Instant::now(), missing: 0 });
        }
        let room = usize::try_from(length.as_secs() * EXPECTED_PER_SECOND).unwrap_or_default();
        Ok(Client { sessions, epoll, nanos: Vec::with_capacity(room) })
    }

    /// Returns the latencies in nanoseconds.
    fn play(mut self, phase: &Phase) -> io::Result<Vec<u32>> {
        self.sessions.iter_mut().try_for_each(Session::send)?;
        let mut events = Vec::with_capacity(self.sessions.len());
        while !phase.is_over() {
            events.clear();
            wait(&self.epoll, &mut events)?;
            for event in &events {
                let token = usize::try_from(event.data.u64()).map_err(io::Error::other)?;
                let session = &mut self.sessions[token];
                if session.hear()? {
                    if phase.counts() {
                        let took = session.sent.elapsed().as_nanos();
                        self.nanos.push(u32::try_from(took).unwrap_or(u32::MAX));
                    }
                    session.send()?;
                }
            }
        }
        Ok(self.nanos)
    }
}

impl Session {
    fn send(&mut self) -> io::Result<()> {
        (self.sent, self.missing) = (Instant::now(), MESSAGE);
        self.stream.write_all(&[b'Q'; MESSAGE])
    }

    /// Whether the whole answer is there. There is something to read, so this does not block.
    fn hear(&mut self) -> io::Result<bool> {
        let read = self.stream.read(&mut [0; MESSAGE])?;
        if read == 0 {
            return Err(ErrorKind::UnexpectedEof.into());
        }
        self.missing = self.missing.saturating_sub(read);
        Ok(self.missing == 0)
    }
}
