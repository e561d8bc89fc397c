//! Clients: each file makes one kind of load and says what came of it.

pub(super) mod bulk;
pub(super) mod churn;
pub(super) mod copy;
pub(super) mod leader;
pub(super) mod memory;
pub(super) mod pgbench;
pub(super) mod ping_pong;

use std::io;
use std::sync::atomic::{AtomicU8, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use super::meter::{Meter, Spent};

/// Load runs this long before anything counts.
const WARM_UP: Duration = Duration::from_millis(300);

/// How often the window looks whether a client has failed.
const GLANCE: Duration = Duration::from_millis(50);

const WARMING: u8 = 0;
const MEASURING: u8 = 1;
const OVER: u8 = 2;

/// Where in its life a measurement is; clients ask before each step.
#[derive(Debug)]
pub(super) struct Phase(AtomicU8);

impl Phase {
    pub(super) fn is_over(&self) -> bool {
        self.0.load(Ordering::Relaxed) == OVER
    }

    pub(super) fn counts(&self) -> bool {
        self.0.load(Ordering::Relaxed) == MEASURING
    }
}

/// What clients did within the window, and what that cost.
#[derive(Debug)]
pub(super) struct Window<T> {
    pub(super) results: Vec<T>,
    pub(super) seconds: f64,
    pub(super) spent: Spent,
}

/// Runs each client on a thread of its own: a warm-up, then `length` that counts.
pub(super) fn window<T: Send, C>(meter: Meter, length: Duration, clients: Vec<C>) -> io::Result<Window<T>>
where
    C: FnOnce(&Phase) -> io::Result<T> + Send,
{
    let phase = &Phase(AtomicU8::new(WARMING));
    thread::scope(|scope| {
        let threads: Vec<_> = clients.into_iter().map(|client| scope.spawn(move || client(phase))).collect();
        let failed = || threads.iter().any(thread::ScopedJoinHandle::is_finished);
        pass(WARM_UP, &failed);
        let (before, started) = (meter.read(), Instant::now());
        phase.0.store(MEASURING, Ordering::Relaxed);
        pass(length, &failed);
        phase.0.store(OVER, Ordering::Relaxed);
        let (after, seconds) = (meter.read(), started.elapsed().as_secs_f64());
        let results = threads.into_iter().map(|client| {
            client.join().unwrap_or_else(|_| Err(io::Error::other("a client's thread failed")))
        });
        Ok(Window { results: results.collect::<io::Result<_>>()?, seconds, spent: after.since(&before) })
    })
}

/// Waits; not to the end when a client has ended before its time.
fn pass(time: Duration, failed: &dyn Fn() -> bool) {
    let until = Instant::now() + time;
    while let Some(left) = until.checked_duration_since(Instant::now()).filter(|left| !left.is_zero()) {
        if failed() {
            return;
        }
        thread::sleep(left.min(GLANCE));
    }
}

/// Runs what blocks where it may, and names its error.
async fn blocking<T: Send + 'static>(
    work: impl FnOnce() -> io::Result<T> + Send + 'static,
) -> Result<T, String> {
    let done = tokio::task::spawn_blocking(work).await;
    done.map_err(|e| e.to_string())?.map_err(|e| e.to_string())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_the_window_counts() {
        let client = |phase: &Phase| {
            let mut counted = Duration::ZERO;
            let mut last = Instant::now();
            while !phase.is_over() {
                thread::sleep(Duration::from_millis(1));
                counted += if phase.counts() { last.elapsed() } else { Duration::ZERO };
                last = Instant::now();
            }
            Ok(counted)
        };
        let window =
            window(Meter::new(None), Duration::from_millis(100), vec![client, client]).expect("runs");
        assert!(window.seconds >= 0.1 && window.results.len() == 2);
        assert!(window.results.iter().all(|counted| *counted > Duration::ZERO && *counted < WARM_UP));
    }

    #[test]
    fn a_client_that_fails_ends_the_window() {
        let client = |_: &Phase| Err::<(), _>(io::Error::other("refused"));
        let started = Instant::now();
        let failed = window(Meter::new(None), Duration::from_mins(1), vec![client]);
        assert_eq!(failed.expect_err("an error").to_string(), "refused");
        assert!(started.elapsed() < Duration::from_secs(10));
    }
}
