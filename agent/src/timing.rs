//! Every deadline the agent lives by, derived from the lease time. Pure.
//!
//! All instants count from when the last good renewal was *sent*: the store restarts the lease when the request
//! arrives, so it can only hold the lease longer than this file believes.
//!
//! ```text
//! sent ──── renew_interval ──── ... ──── step_down_at ── guard_deadline ── lease_safe_until ──── lease ends
//!                                         └ stop_budget ─┘└ guard_budget ─┘└ margin ──────────────┘
//! ```

use std::fmt;
use std::time::Duration;

use pgvane_cluster::clock::Tick;
use pgvane_cluster::units::show_duration;

/// How far the rates of two clocks may differ unless told otherwise, in parts per million.
pub const DEFAULT_CLOCK_DRIFT_PPM: u32 = 10_000;

/// The largest rate difference that may be stated: a clock off by half keeps no time.
pub const MAX_CLOCK_DRIFT_PPM: u32 = 500_000;

/// Margin beside the drift: timer granularity and the store's own rounding.
const FIXED_MARGIN: Duration = Duration::from_millis(50);

/// Time the guard has to end every PostgreSQL process unless told otherwise.
pub const DEFAULT_GUARD_BUDGET: Duration = Duration::from_millis(300);

/// Values an operator set instead of the derived ones.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct TimingOverrides {
    /// Time between renewals.
    pub renew_interval: Option<Duration>,
    /// Time for a clean stop before the guard acts.
    pub stop_budget: Option<Duration>,
    /// Time the guard has to end every PostgreSQL process.
    pub guard_budget: Option<Duration>,
    /// Bound on the difference of clock rates between this node and the store, in parts per million.
    pub clock_drift_ppm: Option<u32>,
}

/// The deadlines in force for one lease time.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Timing {
    /// The lease time they were derived for.
    pub ttl: Duration,
    /// Time between renewals.
    pub renew_interval: Duration,
    /// How long one renewal may take before the next attempt must not be spoiled by it.
    pub request_slack: Duration,
    /// Time for a clean stop before the guard acts.
    pub stop_budget: Duration,
    /// Time the guard has to end every PostgreSQL process.
    pub guard_budget: Duration,
    /// Bound on the difference of clock rates, in parts per million.
    pub clock_drift_ppm: u32,
}

/// The lease time leaves no room for what must happen within it.
#[derive(Clone, PartialEq, Eq, Debug, thiserror::Error)]
pub struct TimingError {
    /// The deadlines that do not fit.
    pub timing: Timing,
}

impl fmt::Display for TimingError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let t = &self.timing;
        write!(
            f,
            "ttl {} is too short: it must exceed 2 * renew_interval {} + request slack {} + stop_budget {} \
             + guard_budget {} + margin {} = {}; raise ttl or lower one of them",
            show_duration(t.ttl),
            show_duration(t.renew_interval),
            show_duration(t.request_slack),
            show_duration(t.stop_budget),
            show_duration(t.guard_budget),
            show_duration(t.margin(t.ttl)),
            show_duration(t.needed()),
        )
    }
}

impl Timing {
    /// The deadlines for `ttl`. Refused when one missed renewal, a clean stop, the guard's work and the margin
    /// do not fit in it.
    pub fn derive(ttl: Duration, set: &TimingOverrides) -> Result<Timing, TimingError> {
        let timing = Timing {
            ttl,
            renew_interval: set.renew_interval.unwrap_or_else(|| share(ttl).max(Duration::from_millis(250))),
            request_slack: (ttl / 10).clamp(Duration::from_millis(100), Duration::from_secs(2)),
            stop_budget: set.stop_budget.unwrap_or_else(|| share(ttl).max(Duration::from_millis(200))),
            guard_budget: set.guard_budget.unwrap_or(DEFAULT_GUARD_BUDGET),
            clock_drift_ppm: set.clock_drift_ppm.unwrap_or(DEFAULT_CLOCK_DRIFT_PPM),
        };
        if ttl > timing.needed() { Ok(timing) } else { Err(TimingError { timing }) }
    }

    /// The deadlines of a lease that was granted for `ttl`. A longer lease time counts once a lease is granted for
    /// it: its budgets would make the renewal of a shorter lease look late. A shorter one counts at once.
    #[must_use]
    pub fn of_lease(&self, ttl: Duration, set: &TimingOverrides) -> Timing {
        if ttl < self.ttl { Timing::derive(ttl, set).unwrap_or(*self) } else { *self }
    }

    /// The time between renewals of a lease that was granted for `ttl`. One that is longer than these deadlines was
    /// renewed as seldom as its own allowed, until it is replaced.
    pub fn interval_of(&self, ttl: Duration) -> Duration {
        if ttl > self.ttl { self.renew_interval.max(share(ttl)) } else { self.renew_interval }
    }

    /// What must fit within the lease time.
    fn needed(&self) -> Duration {
        self.renew_interval * 2
            + self.request_slack
            + self.stop_budget
            + self.guard_budget
            + self.margin(self.ttl)
    }

    /// What is taken off a lease of `ttl` because clocks run at different rates and timers are late.
    pub fn margin(&self, ttl: Duration) -> Duration {
        let drift = ttl.as_nanos() * u128::from(self.clock_drift_ppm) / 1_000_000;
        Duration::from_nanos(u64::try_from(drift).unwrap_or(u64::MAX)).saturating_add(FIXED_MARGIN)
    }

    /// Until when a lease renewed by a request sent at `sent_at` and granted for `ttl` surely lives.
    pub fn lease_safe_until(&self, sent_at: Tick, ttl: Duration) -> Tick {
        sent_at + ttl.saturating_sub(self.margin(ttl))
    }

    /// When the guard must begin to stop PostgreSQL hard.
    pub fn guard_deadline(&self, sent_at: Tick, ttl: Duration) -> Tick {
        before(self.lease_safe_until(sent_at, ttl), self.guard_budget, sent_at)
    }

    /// When the agent must begin to stop PostgreSQL cleanly.
    pub fn step_down_at(&self, sent_at: Tick, ttl: Duration) -> Tick {
        before(self.guard_deadline(sent_at, ttl), self.stop_budget, sent_at)
    }
}

/// The part of a lease that one renewal, or a clean stop, gets.
fn share(ttl: Duration) -> Duration {
    (ttl / 6).min(Duration::from_secs(5))
}

/// `span` before `instant`, but never before `floor`: a granted time shorter than the budgets ends at once.
fn before(instant: Tick, span: Duration, floor: Tick) -> Tick {
    (instant - span).max(floor)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const MS: Duration = Duration::from_millis(1);

    fn derive(ttl: Duration) -> Timing {
        Timing::derive(ttl, &TimingOverrides::default()).expect("fits")
    }

    #[test]
    fn three_seconds_in_numbers() {
        let t = derive(3000 * MS);
        assert_eq!((t.renew_interval, t.stop_budget, t.guard_budget), (500 * MS, 500 * MS, 300 * MS));
        let sent = Tick::from_millis(10_000);
        assert_eq!(t.lease_safe_until(sent, t.ttl), Tick::from_millis(12_920));
        assert_eq!(t.guard_deadline(sent, t.ttl), Tick::from_millis(12_620));
        assert_eq!(t.step_down_at(sent, t.ttl), Tick::from_millis(12_120));
    }

    #[test]
    fn a_lease_of_another_ttl_is_not_late_before_its_time() {
        let (short, long, none) = (derive(12_000 * MS), derive(30_000 * MS), TimingOverrides::default());
        assert_eq!(long.of_lease(short.ttl, &none), short);
        assert_eq!(short.of_lease(long.ttl, &none), short);
        assert_eq!(short.of_lease(100 * MS, &none), short, "no room for any deadline");
        assert_eq!(short.interval_of(short.ttl), 2000 * MS);
        assert_eq!(short.interval_of(long.ttl), 5000 * MS);
        assert_eq!(long.interval_of(short.ttl), 5000 * MS);
    }

    #[test]
    fn long_leases_are_clamped() {
        let t = derive(60_000 * MS);
        assert_eq!((t.renew_interval, t.stop_budget), (5000 * MS, 5000 * MS));
    }

    #[test]
    fn what_does_not_fit_is_refused_with_its_numbers() {
        let set = TimingOverrides { stop_budget: Some(2000 * MS), ..TimingOverrides::default() };
        let message = Timing::derive(3000 * MS, &set).expect_err("too short").to_string();
        assert_eq!(
            message,
            "ttl 3s is too short: it must exceed 2 * renew_interval 500ms + request slack 300ms + stop_budget 2s \
             + guard_budget 300ms + margin 80ms = 3.68s; raise ttl or lower one of them"
        );
    }

    #[test]
    fn a_grant_shorter_than_the_budgets_ends_when_it_began() {
        let t = derive(3000 * MS);
        let sent = Tick::from_millis(500);
        assert_eq!(t.step_down_at(sent, 100 * MS), sent);
        assert_eq!(t.guard_deadline(sent, 100 * MS), sent);
    }

    proptest! {
        #[test]
        fn every_lease_time_allowed_fits(ttl_ms in 2000_u64..600_000) {
            prop_assert!(Timing::derive(Duration::from_millis(ttl_ms), &TimingOverrides::default()).is_ok());
        }

        /// The order of the deadlines, room for one missed renewal, and the drift: a lease of `ttl` by a clock
        /// that runs fast by the stated bound has not ended when ours says it is surely alive.
        #[test]
        fn deadlines_are_ordered_and_safe(
            ttl_ms in 2000_u64..120_000,
            renew in proptest::option::of(50_u64..20_000),
            stop in proptest::option::of(50_u64..20_000),
            guard in proptest::option::of(50_u64..5_000),
            drift in 0_u32..MAX_CLOCK_DRIFT_PPM,
            sent_ms in 0_u64..1_000_000,
        ) {
            let ttl = Duration::from_millis(ttl_ms);
            let set = TimingOverrides {
                renew_interval: renew.map(Duration::from_millis),
                stop_budget: stop.map(Duration::from_millis),
                guard_budget: guard.map(Duration::from_millis),
                clock_drift_ppm: Some(drift),
            };
            let sent = Tick::from_millis(sent_ms);
            if let Ok(t) = Timing::derive(ttl, &set) {
                let (down, deadline, safe) =
                    (t.step_down_at(sent, ttl), t.guard_deadline(sent, ttl), t.lease_safe_until(sent, ttl));
                prop_assert!(sent + t.renew_interval * 2 + t.request_slack <= down);
                prop_assert_eq!(down + t.stop_budget, deadline);
                prop_assert_eq!(deadline + t.guard_budget, safe);
                let fast = safe.since(sent).as_secs_f64() * (1.0 + f64::from(drift) / 1e6);
                prop_assert!(fast < ttl.as_secs_f64());
            }
        }
    }
}
