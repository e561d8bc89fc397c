//! The leader changes while thousands of sessions are open: how soon is the last one cut, and how soon does
//! somebody who keeps trying get a session on the new leader.

use std::io::{self, ErrorKind, Read};
use std::net::{SocketAddr, TcpStream};
use std::os::fd::OwnedFd;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use rustix::event::Timespec;
use rustix::event::epoll::{self, EventData, EventFlags};
use tokio::task::{JoinHandle, spawn_blocking};

use super::super::figures::{FIRST_NEW, LAST_CUT, Sample};
use super::super::keys;
use super::super::line::Line;
use super::super::options::Peer;
use super::super::rest::Rest;
use super::super::settings::Checked;
use super::super::stage::Stage;
use super::super::wire;
use super::blocking;
use super::memory::{MANY, open};

/// How long a proxy may take to notice.
const NOTICED_WITHIN: Duration = Duration::from_secs(40);

/// Pause between two attempts of the client that keeps trying.
const RETRY: Duration = Duration::from_micros(200);

/// Attempts in a row that must reach the first server before it starts.
const SETTLED: u32 = 10;

/// What the stubs say as process ids.
const OLD: u32 = 1;
const NEW: u32 = 2;

/// pgvane is told by etcd, HAProxy finds out by its checks.
pub(in super::super) async fn run(stage: &mut Stage, peer: Peer) -> Result<Sample, String> {
    let (old, old_stub) = stage.stub(OLD).await?;
    let (new, new_stub) = stage.stub(NEW).await?;
    let sample = if peer.is_ours() {
        let line = Line::start(stage, peer, old, None).await?;
        let etcd = stage.etcd;
        let sample = watch(line.address, async || keys::lead(etcd, &[old, new], 1).await).await;
        line.stop().await;
        sample
    } else {
        let (before, after) = (Rest::start(true)?, Rest::start(false)?);
        let servers =
            [Checked { server: old, rest: before.address() }, Checked { server: new, rest: after.address() }];
        let line = Line::checked(stage, &servers).await?;
        let change = async || {
            before.set_primary(false);
            after.set_primary(true);
            Ok(())
        };
        let sample = watch(line.address, change).await;
        line.stop().await;
        sample
    };
    old_stub.stop().await;
    new_stub.stop().await;
    sample
}

async fn watch(
    address: SocketAddr,
    change: impl AsyncFnOnce() -> Result<(), String>,
) -> Result<Sample, String> {
    let sessions = blocking(move || {
        settle(address)?;
        open(address, MANY)
    })
    .await?;
    let given_up = Arc::new(AtomicBool::new(false));
    let cut = spawn_blocking(move || last_cut(sessions));
    let tried = spawn_blocking({
        let given_up = Arc::clone(&given_up);
        move || first_on_new(address, &given_up)
    });
    // The client is trying by now.
    tokio::time::sleep(Duration::from_millis(200)).await;
    let changed = change().await;
    let told = Instant::now();
    let outcome = async {
        changed?;
        let cut = finish(cut, "the old sessions are not all cut").await?;
        let tried = finish(tried, "nobody reaches the new leader").await?;
        Ok(vec![(LAST_CUT, millis(told, cut)), (FIRST_NEW, millis(told, tried))])
    };
    let outcome = outcome.await;
    given_up.store(true, Ordering::Relaxed);
    outcome
}

async fn finish(task: JoinHandle<io::Result<Instant>>, late: &str) -> Result<Instant, String> {
    let done = tokio::time::timeout(NOTICED_WITHIN, task).await.map_err(|_| late.to_owned())?;
    done.map_err(|e| e.to_string())?.map_err(|e| e.to_string())
}

/// Negative when a proxy was faster than etcd's answer to us.
fn millis(from: Instant, to: Instant) -> f64 {
    (to.saturating_duration_since(from).as_secs_f64() - from.saturating_duration_since(to).as_secs_f64())
        * 1e3
}

/// Waits until the proxy knows who leads.
fn settle(address: SocketAddr) -> io::Result<()> {
    let started = Instant::now();
    let mut in_a_row = 0;
    while in_a_row < SETTLED {
        let reached = wire::open(address, "idle").is_ok_and(|opened| opened.server == OLD);
        in_a_row = if reached { in_a_row + 1 } else { 0 };
        if started.elapsed() > NOTICED_WITHIN {
            return Err(io::Error::other("sessions do not reach the first leader"));
        }
        thread::sleep(Duration::from_millis(20));
    }
    Ok(())
}

/// When the last of `sessions` was found closed.
fn last_cut(mut sessions: Vec<TcpStream>) -> io::Result<Instant> {
    let epoll: OwnedFd = epoll::create(epoll::CreateFlags::CLOEXEC)?;
    for (token, session) in (0..).zip(&sessions) {
        session.set_nonblocking(true)?;
        epoll::add(&epoll, session, EventData::new_u64(token), EventFlags::IN)?;
    }
    let until = Instant::now() + NOTICED_WITHIN;
    let pause = Timespec { tv_sec: 1, tv_nsec: 0 };
    let mut events = Vec::with_capacity(sessions.len());
    let mut left = sessions.len();
    while left > 0 {
        if Instant::now() > until {
            return Err(io::Error::other(format!("{left} of {} old sessions are not cut", sessions.len())));
        }
        events.clear();
        epoll::wait(&epoll, rustix::buffer::spare_capacity(&mut events), Some(&pause))?;
        for event in &events {
            let token = usize::try_from(event.data.u64()).map_err(io::Error::other)?;
            if is_closed(&mut sessions[token]) {
                epoll::delete(&epoll, &sessions[token])?;
                left -= 1;
            }
        }
    }
    Ok(Instant::now())
}

/// Whether nothing will come any more; a last error message is read first.
fn is_closed(session: &mut TcpStream) -> bool {
    let mut bytes = [0; 512];
    loop {
        match session.read(&mut bytes) {
            Ok(0) => return true,
            Ok(_) => {}
            Err(error) => return error.kind() != ErrorKind::WouldBlock,
        }
    }
}

/// Opens sessions until one is on the new leader; returns when that was ready.
fn first_on_new(address: SocketAddr, given_up: &AtomicBool) -> io::Result<Instant> {
    while !given_up.load(Ordering::Relaxed) {
        if wire::open(address, "idle").is_ok_and(|opened| opened.server == NEW) {
            return Ok(Instant::now());
        }
        thread::sleep(RETRY);
    }
    Err(ErrorKind::TimedOut.into())
}
