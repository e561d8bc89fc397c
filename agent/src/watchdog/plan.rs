//! What the watchdog is armed with, and when it is wanted. Pure.

use std::time::Duration;

use pgvane_cluster::clock::Tick;

use crate::config::Watchdog as Settings;
use crate::decide::action;
use crate::decide::action::Action;
use crate::decide::world::{Slot, World};
use crate::timing::Timing;

/// How the watchdog is armed.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Plan {
    /// The time from when it is told that all is well until it fires, in whole seconds.
    pub timeout: Duration,
}

/// How it should be.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Wanted {
    /// Disarmed: nothing here accepts writes or is about to, or an operator is at work.
    Off,
    /// As it is: the server may accept writes, and nothing proves that it may.
    AsItIs,
    /// Armed, and told that all is well, for the right to lead lasts until then.
    Armed {
        /// When the lease, or the word of the others, surely ends.
        until: Tick,
    },
}

/// The time that `settings` leave it under the lease time in force; or why there is none.
pub fn plan(settings: &Settings, timing: &Timing, loop_wait: Duration) -> Result<Plan, String> {
    let ttl = timing.ttl;
    let wanted = settings.safety_margin.map_or(ttl / 2, |margin| ttl.saturating_sub(margin));
    let timeout = Duration::from_secs(wanted.as_secs());
    let least = loop_wait.max(timing.renew_interval * 2);
    if timeout < least || timeout.is_zero() {
        return Err(format!(
            "watchdog.safety_margin leaves it {timeout:?} of ttl {ttl:?}, and it has to last longer than the time between \
             two words to it, up to {least:?}: raise ttl or lower watchdog.safety_margin"
        ));
    }
    let most = ttl.saturating_sub(timing.margin(ttl) + timing.request_slack);
    if timeout > most {
        return Err(format!(
            "watchdog.safety_margin is too small: of ttl {ttl:?} the watchdog may use {most:?}, and would use {timeout:?}"
        ));
    }
    Ok(Plan { timeout })
}

/// How it should be in `world`.
pub fn wanted(world: &World) -> Wanted {
    let becomes = [action::PROMOTE, Action::StartPrimary.label()];
    let about_to = world.local.ongoing.get(&Slot::Postgres).is_some_and(|o| becomes.contains(&o.what));
    if world.settings.pause || (!world.may_write() && !about_to) {
        return Wanted::Off;
    }
    match world.authority() {
        Some(authority) => Wanted::Armed { until: authority.guard_deadline + world.timing.guard_budget },
        None => Wanted::AsItIs,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::timing::TimingOverrides;

    fn planned(ttl: u64, margin: Option<u64>, loop_wait: u64) -> Result<u64, String> {
        let settings = Settings { safety_margin: margin.map(Duration::from_secs), ..Settings::default() };
        let timing = Timing::derive(Duration::from_secs(ttl), &TimingOverrides::default()).expect("it fits");
        plan(&settings, &timing, Duration::from_secs(loop_wait)).map(|plan| plan.timeout.as_secs())
    }

    #[test]
    fn its_time_is_the_leases_less_the_margin() {
        assert_eq!(planned(30, Some(5), 10), Ok(25));
        assert_eq!(planned(30, None, 10), Ok(15));
        assert_eq!(planned(3, Some(1), 1), Ok(2));
    }

    #[test]
    fn a_time_that_would_fire_wrongly_or_too_late_is_refused_with_the_numbers() {
        let error = planned(20, None, 11).expect_err("shorter than the loop");
        assert!(error.contains("10s of ttl 20s") && error.contains("up to 11s"), "{error}");
        let error = planned(3, Some(5), 1).expect_err("nothing left");
        assert!(error.contains("0ns of ttl 3s"), "{error}");
        let error = planned(30, Some(0), 10).expect_err("it would outlive the lease");
        assert!(error.contains("too small"), "{error}");
    }
}
