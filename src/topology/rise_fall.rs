//! Whether somebody who is asked again and again counts as up: one lost answer is no outage, and one lucky
//! answer is no recovery. Pure; what was heard is all it knows.

use std::num::NonZeroU32;

/// How many equal results in a row change the verdict.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Limits {
    /// Successes that bring somebody up who was down.
    pub rise: NonZeroU32,
    /// Failures that take somebody down who was up.
    pub fall: NonZeroU32,
}

/// The verdict on one who is asked, and the results in a row that speak against it.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct RiseFall {
    limits: Limits,
    up: bool,
    against: u32,
}

impl RiseFall {
    /// Begins with the verdict `up`.
    pub fn new(limits: Limits, up: bool) -> RiseFall {
        RiseFall { limits, up, against: 0 }
    }

    /// The verdict.
    pub fn is_up(&self) -> bool {
        self.up
    }

    /// Notes one result; answers the verdict that it leads to.
    pub fn note(&mut self, success: bool) -> bool {
        let needed = if self.up { self.limits.fall } else { self.limits.rise };
        self.against = if success == self.up { 0 } else { self.against + 1 };
        if self.against >= needed.get() {
            self.up = success;
            self.against = 0;
        }
        self.up
    }

    /// Notes what is more than one failure among others: proof that it is down.
    pub fn note_end(&mut self) {
        self.up = false;
        self.against = 0;
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn limits(rise: u32, fall: u32) -> Limits {
        let at_least_one = |n| NonZeroU32::new(n).expect("not zero");
        Limits { rise: at_least_one(rise), fall: at_least_one(fall) }
    }

    fn verdicts(mut counter: RiseFall, results: &[bool]) -> Vec<bool> {
        results.iter().map(|success| counter.note(*success)).collect()
    }

    #[test]
    fn it_falls_after_as_many_failures_in_a_row_and_not_before() {
        let counter = RiseFall::new(limits(1, 3), true);
        let results = [false, false, true, false, false, false, false];
        assert_eq!(verdicts(counter, &results), [true, true, true, true, true, false, false]);
    }

    #[test]
    fn it_rises_after_as_many_successes_in_a_row_and_not_before() {
        let counter = RiseFall::new(limits(2, 3), false);
        assert_eq!(verdicts(counter, &[true, false, true, true, false]), [false, false, false, true, true]);
        assert_eq!(verdicts(RiseFall::new(limits(1, 1), false), &[true, false]), [true, false]);
    }

    #[test]
    fn proof_takes_it_down_at_once_and_its_return_is_counted() {
        let mut counter = RiseFall::new(limits(2, 3), true);
        counter.note_end();
        assert!(!counter.is_up());
        assert_eq!(verdicts(counter, &[true, true]), [false, true]);
        counter.note(true);
        counter.note_end();
        assert_eq!(verdicts(counter, &[true, true]), [false, true], "what came before does not count");
    }

    proptest! {
        /// The verdict is the last result that came as often in a row as its limit asks for, while the verdict was
        /// the other; without one it is the first verdict.
        #[test]
        fn the_verdict_follows_runs(
            rise in 1_u32..5, fall in 1_u32..5, first in any::<bool>(),
            results in proptest::collection::vec(any::<bool>(), 0..60),
        ) {
            let mut counter = RiseFall::new(limits(rise, fall), first);
            let (mut run, mut last) = (0, None);
            let mut before = first;
            for success in results {
                run = if last == Some(success) { run + 1 } else { 1 };
                last = Some(success);
                let now = counter.note(success);
                prop_assert_eq!(now, counter.is_up());
                if now != before {
                    prop_assert_eq!(now, success, "only a result of its own kind changes the verdict");
                }
                // A run that began under the same verdict reaches its limit exactly when the verdict changes.
                let needed = if success { rise } else { fall };
                if run >= needed {
                    prop_assert_eq!(now, success);
                } else {
                    prop_assert_eq!(now, before);
                }
                before = now;
            }
        }
    }
}
