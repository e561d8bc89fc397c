//! The threads that run sessions, each with a runtime of its own: all of a session's sockets, timers and wake-ups
//! stay on one thread, and nothing else runs there. A session is placed once, where the fewest are, and stays.

use std::io;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::thread;

use tokio::runtime::{Builder, Handle};
use tokio_util::sync::CancellationToken;

/// All workers of one proxy. They end when this is dropped.
#[derive(Debug)]
pub(crate) struct Workers {
    all: Vec<Worker>,
    next: AtomicUsize,
    stop: CancellationToken,
}

#[derive(Debug)]
struct Worker {
    handle: Handle,
    sessions: Arc<AtomicUsize>,
}

/// Counts one session on its worker until it is dropped.
#[derive(Debug)]
pub(crate) struct OnWorker(Arc<AtomicUsize>);

impl Drop for OnWorker {
    fn drop(&mut self) {
        self.0.fetch_sub(1, Ordering::Relaxed);
    }
}

impl Drop for Workers {
    fn drop(&mut self) {
        self.stop.cancel();
    }
}

impl Workers {
    /// Starts `count` threads, at least one.
    pub(crate) fn start(count: usize) -> io::Result<Workers> {
        let stop = CancellationToken::new();
        let workers = (0..count.max(1)).map(|number| Worker::start(number, stop.clone()));
        Ok(Workers { all: workers.collect::<io::Result<_>>()?, next: AtomicUsize::new(0), stop })
    }

    /// Where the next session goes: to the worker with the fewest, in turn among equals.
    pub(crate) fn place(&self) -> (&Handle, OnWorker) {
        let count = self.all.len();
        let first = self.next.fetch_add(1, Ordering::Relaxed) % count;
        let loads = self.all.iter().map(|worker| worker.sessions.load(Ordering::Relaxed));
        let worker = &self.all[least(loads, first)];
        worker.sessions.fetch_add(1, Ordering::Relaxed);
        (&worker.handle, OnWorker(Arc::clone(&worker.sessions)))
    }
}

impl Worker {
    fn start(number: usize, stop: CancellationToken) -> io::Result<Worker> {
        let runtime = Builder::new_current_thread().enable_all().build()?;
        let handle = runtime.handle().clone();
        thread::Builder::new().name(format!("worker-{number}")).spawn(move || {
            runtime.block_on(stop.cancelled());
            // A name that is still being looked up must not hold up the end.
            runtime.shutdown_background();
        })?;
        Ok(Worker { handle, sessions: Arc::default() })
    }
}

/// The index of the least of `loads`, the first one from `first` on among equals.
fn least(loads: impl ExactSizeIterator<Item = usize>, first: usize) -> usize {
    let count = loads.len();
    let place = |index: usize| (index + count - first) % count;
    loads.enumerate().min_by_key(|(index, load)| (*load, place(*index))).map_or(0, |(index, _)| index)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    proptest! {
        #[test]
        fn the_least_loaded_is_taken_in_turn(
            loads in proptest::collection::vec(0_usize..4, 1..9),
            first in 0_usize..9,
        ) {
            let first = first % loads.len();
            let chosen = least(loads.iter().copied(), first);
            let least = loads.iter().min().copied().unwrap_or(0);
            prop_assert_eq!(loads[chosen], least);
            // Nobody between the one whose turn it is and the one taken would have done.
            let passed = (0..loads.len()).map(|n| (first + n) % loads.len()).take_while(|i| *i != chosen);
            for index in passed {
                prop_assert!(loads[index] > least);
            }
        }
    }

    #[test]
    fn sessions_spread_evenly_and_leave_their_place() {
        let workers = Workers::start(3).expect("threads");
        let count = |w: &Workers| -> Vec<usize> {
            w.all.iter().map(|w| w.sessions.load(Ordering::Relaxed)).collect()
        };
        let seats: Vec<_> = (0..7).map(|_| workers.place().1).collect();
        let mut spread = count(&workers);
        spread.sort_unstable();
        assert_eq!(spread, [2, 2, 3]);
        drop(seats);
        assert_eq!(count(&workers), [0, 0, 0]);
    }

    #[tokio::test]
    async fn what_is_placed_runs_on_a_thread_of_its_own() {
        let workers = Workers::start(1).expect("threads");
        let (handle, _on_worker) = workers.place();
        let name = handle.spawn(async { thread::current().name().map(str::to_owned) }).await;
        assert_eq!(name.expect("does not panic").as_deref(), Some("worker-0"));
    }
}
