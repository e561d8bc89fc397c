//! The only file that reads a clock for decisions: monotonic time that also counts while a machine sleeps.

use std::fmt;
use std::ops::{Add, Sub};
use std::time::Duration;

/// An instant on `CLOCK_BOOTTIME`, in nanoseconds since boot.
///
/// `CLOCK_BOOTTIME` goes on counting while the machine (or VM) is suspended, so a lease deadline that passed
/// during a suspend is seen as passed at wake-up. All processes of one boot share it, which is what lets the
/// agent hand a deadline to its guard process.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Default)]
pub struct Tick(u64);

impl Tick {
    /// The instant of boot; earlier than every real one.
    pub const ZERO: Tick = Tick(0);

    /// Reads `CLOCK_BOOTTIME`.
    pub fn now() -> Tick {
        let t = rustix::time::clock_gettime(rustix::time::ClockId::Boottime);
        Tick(u64::try_from(t.tv_sec).unwrap_or(0) * 1_000_000_000 + u64::try_from(t.tv_nsec).unwrap_or(0))
    }

    /// An instant `nanos` nanoseconds after boot.
    pub const fn from_nanos(nanos: u64) -> Tick {
        Tick(nanos)
    }

    /// An instant `millis` milliseconds after boot.
    pub const fn from_millis(millis: u64) -> Tick {
        Tick(millis * 1_000_000)
    }

    /// Nanoseconds since boot.
    pub const fn as_nanos(self) -> u64 {
        self.0
    }

    /// Time from `earlier` to `self`; zero when `earlier` is later.
    pub const fn since(self, earlier: Tick) -> Duration {
        Duration::from_nanos(self.0.saturating_sub(earlier.0))
    }

    /// Time from `self` until `later`; zero when it has passed.
    pub const fn until(self, later: Tick) -> Duration {
        later.since(self)
    }
}

impl Add<Duration> for Tick {
    type Output = Tick;

    fn add(self, d: Duration) -> Tick {
        Tick(self.0.saturating_add(u64::try_from(d.as_nanos()).unwrap_or(u64::MAX)))
    }
}

impl Sub<Duration> for Tick {
    type Output = Tick;

    fn sub(self, d: Duration) -> Tick {
        Tick(self.0.saturating_sub(u64::try_from(d.as_nanos()).unwrap_or(u64::MAX)))
    }
}

impl fmt::Debug for Tick {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}.{:03}s", self.0 / 1_000_000_000, self.0 / 1_000_000 % 1000)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn arithmetic_saturates() {
        assert_eq!(Tick::ZERO - Duration::from_secs(1), Tick::ZERO);
        assert_eq!(Tick::from_millis(5).since(Tick::from_millis(9)), Duration::ZERO);
        assert_eq!(Tick::from_millis(5).until(Tick::from_millis(9)), Duration::from_millis(4));
    }

    #[test]
    fn the_clock_moves_forward() {
        let a = Tick::now();
        assert!(a > Tick::ZERO);
        assert!(Tick::now() >= a);
    }
}
