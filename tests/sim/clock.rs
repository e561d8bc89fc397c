//! How true time looks from one machine.

use pgvane_cluster::clock::Tick;

/// How one machine sees time.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Clock {
    /// How much faster than true time it runs, in parts per million.
    pub(crate) ppm: i64,
    /// What `CLOCK_BOOTTIME` showed at true time zero.
    pub(crate) boot: i64,
    /// How long the machine was suspended: `CLOCK_MONOTONIC`, which timers run on, leaves that out.
    pub(crate) lost: u64,
}

fn signed(t: u64) -> i64 {
    i64::try_from(t).expect("a simulated time fits")
}

impl Clock {
    fn scale(self, t: u64) -> i64 {
        signed(t) + signed(t) / 1000 * self.ppm / 1000
    }

    /// `CLOCK_BOOTTIME` at true time `t`.
    pub(crate) fn boottime(self, t: u64) -> Tick {
        Tick::from_nanos(u64::try_from(self.boot + self.scale(t)).unwrap_or(0))
    }

    /// The true time at which `CLOCK_BOOTTIME` shows `tick`, or a moment later.
    pub(crate) fn true_time(self, tick: Tick) -> u64 {
        let local = i128::from(tick.as_nanos()) - i128::from(self.boot);
        let t = local * 1_000_000 / i128::from(1_000_000 + self.ppm) + 2_000;
        u64::try_from(t.max(0)).expect("a simulated time fits")
    }

    pub(crate) fn monotonic(self, t: u64) -> i64 {
        self.scale(t.saturating_sub(self.lost))
    }

    pub(crate) fn true_of_monotonic(self, at: i64) -> u64 {
        let t = i128::from(at) * 1_000_000 / i128::from(1_000_000 + self.ppm) + 2_000;
        u64::try_from(t.max(0)).expect("a simulated time fits") + self.lost
    }
}
