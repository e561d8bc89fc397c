//! Places that are counted: taken one by one, up to a limit that may be another one each time, and given back.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

/// How many are taken.
#[derive(Debug, Default)]
pub(crate) struct Seats(AtomicUsize);

/// One of them, until it is dropped.
#[derive(Debug)]
pub(crate) struct Seat(Arc<Seats>);

impl Seats {
    /// Takes one unless `limit` are taken.
    pub(crate) fn take(self: &Arc<Seats>, limit: usize) -> Option<Seat> {
        let one_more = |taken| (taken < limit).then_some(taken + 1);
        self.0.fetch_update(Ordering::Relaxed, Ordering::Relaxed, one_more).ok()?;
        Some(Seat(Arc::clone(self)))
    }

    pub(crate) fn taken(&self) -> usize {
        self.0.load(Ordering::Relaxed)
    }
}

impl Drop for Seat {
    fn drop(&mut self) {
        self.0.0.fetch_sub(1, Ordering::Relaxed);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_limit_may_fall_below_what_is_taken() {
        let seats = Arc::new(Seats::default());
        let (one, two) = (seats.take(2), seats.take(2));
        assert!(one.is_some() && two.is_some() && seats.take(2).is_none());
        assert!(seats.take(3).is_some(), "and is given back at once");
        assert!(seats.take(1).is_none());
        drop(one);
        assert!(seats.take(1).is_none());
        drop(two);
        assert_eq!(seats.taken(), 0);
        assert!(seats.take(1).is_some());
    }
}
