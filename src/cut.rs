//! One event that happens once and that thousands of sessions wait for, at a few bytes each.
//!
//! A session is polled for every chunk it moves; asking whether the event has happened is one atomic load then,
//! where general-purpose tokens take a lock. And those who wait are woken a few at a time, each by one before it:
//! a thousand sessions that are ready at once would keep everybody else, such as the clients that come back, from
//! having a turn.

use std::pin::Pin;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::task::{Context, Poll, Waker};

use slab::Slab;

/// How many are woken at a time.
const AT_ONCE: usize = 64;

/// The event.
#[derive(Debug, Default)]
pub(crate) struct Cut {
    is_made: AtomicBool,
    waiting: Mutex<Waiting>,
}

#[derive(Debug, Default)]
struct Waiting {
    wakers: Slab<Waker>,
    /// All before it have been woken.
    next: usize,
}

impl Waiting {
    fn pop(&mut self) -> Option<Waker> {
        while self.next < self.wakers.capacity() {
            let waker = self.wakers.try_remove(self.next);
            self.next += 1;
            if waker.is_some() {
                return waker;
            }
        }
        None
    }
}

impl Cut {
    /// Makes it: everybody who waits is woken, and who is not yet woken finds out when it is polled.
    pub(crate) fn make(&self) {
        let first: Vec<_> = {
            let mut waiting = self.lock();
            self.is_made.store(true, Ordering::SeqCst);
            std::iter::from_fn(|| waiting.pop()).take(AT_ONCE).collect()
        };
        first.into_iter().for_each(Waker::wake);
    }

    /// Wakes the next one.
    fn pass_on(&self) {
        let next = self.lock().pop();
        next.into_iter().for_each(Waker::wake);
    }

    /// Whether it has been made.
    pub(crate) fn is_made(&self) -> bool {
        self.is_made.load(Ordering::SeqCst)
    }

    /// Waits for it.
    pub(crate) fn made(&self) -> Made<'_> {
        Made { cut: self, seat: None }
    }

    /// A panic while it was held cannot have left the list half-changed.
    fn lock(&self) -> MutexGuard<'_, Waiting> {
        self.waiting.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Completes when the cut is made.
#[derive(Debug)]
pub(crate) struct Made<'a> {
    cut: &'a Cut,
    /// Our place in the list, and who is woken there.
    seat: Option<(usize, Waker)>,
}

impl Future for Made<'_> {
    type Output = ();

    fn poll(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<()> {
        if self.cut.is_made() {
            return Poll::Ready(());
        }
        if self.seat.as_ref().is_some_and(|(_, waker)| waker.will_wake(cx.waker())) {
            return Poll::Pending;
        }
        let cut = self.cut;
        let mut waiting = cut.lock();
        // Nobody is woken who comes after it was made.
        if cut.is_made() {
            return Poll::Ready(());
        }
        let waker = cx.waker().clone();
        let key = match self.seat.take() {
            Some((key, _)) => {
                waiting.wakers[key].clone_from(&waker);
                key
            }
            None => waiting.wakers.insert(waker.clone()),
        };
        self.seat = Some((key, waker));
        Poll::Pending
    }
}

impl Drop for Made<'_> {
    fn drop(&mut self) {
        let Some((key, _)) = self.seat.take() else { return };
        // Nobody takes a place once it is made, so a place that is empty was ours, and we were woken.
        let was_woken = self.cut.lock().wakers.try_remove(key).is_none();
        if was_woken {
            self.cut.pass_on();
        }
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;
    use std::time::Duration;

    use futures_util::FutureExt;
    use tokio::time::timeout;

    use super::*;

    #[tokio::test]
    async fn all_who_wait_hear_of_it_on_whichever_thread() {
        let cut = Arc::new(Cut::default());
        let waiting: Vec<_> = (0..100)
            .map(|_| {
                let cut = Arc::clone(&cut);
                std::thread::spawn(move || {
                    let runtime = tokio::runtime::Builder::new_current_thread().enable_time().build();
                    let wait = async { timeout(Duration::from_secs(20), cut.made()).await };
                    runtime.expect("a runtime").block_on(wait)
                })
            })
            .collect();
        while cut.lock().wakers.len() < 100 {
            std::thread::yield_now();
        }
        cut.make();
        assert!(waiting.into_iter().all(|thread| thread.join().is_ok_and(|heard| heard.is_ok())));
        assert!(cut.is_made() && cut.made().now_or_never().is_some());
    }

    #[tokio::test]
    async fn who_no_longer_waits_leaves_no_trace() {
        let cut = Cut::default();
        assert!(cut.made().now_or_never().is_none());
        assert!(cut.lock().wakers.is_empty());
        let mut early = std::pin::pin!(cut.made());
        assert!(early.as_mut().now_or_never().is_none());
        cut.make();
        assert!(cut.lock().wakers.is_empty());
    }

    #[tokio::test]
    async fn those_who_leave_instead_of_hearing_of_it_hold_up_nobody() {
        let cut = Cut::default();
        let mut waiting: Vec<_> = (0..3 * AT_ONCE).map(|_| Box::pin(cut.made())).collect();
        for made in &mut waiting {
            assert!(made.as_mut().now_or_never().is_none());
        }
        cut.make();
        assert_eq!(cut.lock().wakers.len(), 2 * AT_ONCE);
        // Some before their turn, some after it.
        drop(waiting.drain(AT_ONCE / 2..2 * AT_ONCE).collect::<Vec<_>>());
        let next = waiting.len() - AT_ONCE / 2;
        assert_eq!(cut.lock().wakers.len(), next - AT_ONCE / 2, "each that was woken and left woke another");
        drop(waiting);
        assert!(cut.lock().wakers.is_empty());
    }

    #[test]
    fn the_latest_waker_is_the_one_that_is_woken() {
        let cut = Cut::default();
        let (first, second) = (Arc::new(Count::default()), Arc::new(Count::default()));
        let mut made = Box::pin(cut.made());
        for count in [&first, &second] {
            let waker = Waker::from(Arc::clone(count));
            assert!(made.as_mut().poll(&mut Context::from_waker(&waker)).is_pending());
        }
        cut.make();
        let woken = |count: &Count| count.0.load(Ordering::SeqCst);
        assert_eq!((woken(&first), woken(&second)), (false, true));
    }

    #[derive(Default)]
    struct Count(AtomicBool);

    impl std::task::Wake for Count {
        fn wake(self: Arc<Self>) {
            self.0.store(true, Ordering::SeqCst);
        }
    }
}
