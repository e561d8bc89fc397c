//! What happened, over a run or many: proof that they were about something.

use std::collections::BTreeMap;
use std::fmt::Write;

use crate::runtime::MS;
use crate::trap::{self, Harm};

macro_rules! counts {
    ($($name:ident),+ $(,)?) => {
        /// How often what the product can do was done.
        #[derive(Clone, Copy, PartialEq, Eq, Default, Debug)]
        pub(crate) struct Counts {
            $(pub(crate) $name: u64,)+
        }

        impl Counts {
            fn each(&self) -> impl Iterator<Item = (&'static str, u64)> {
                [$((stringify!($name), self.$name)),+].into_iter()
            }

            /// Counts another run in.
            fn add(&mut self, more: &Counts) {
                $(self.$name += more.$name;)+
            }
        }
    };
}

counts! {
    turns,
    proxy_turns,
    campaigns,
    promotions,
    take_overs,
    releases,
    hand_overs,
    consents,
    clones,
    rewinds,
    guard_stops,
    revocations,
    restarts,
    commits,
    sessions,
    outages,
}

/// Where agents were struck between two steps, and how often: effect, step, harm.
pub(crate) type Struck = BTreeMap<(&'static str, u32, Harm), u64>;

/// All that is told of many runs.
#[derive(Clone, PartialEq, Eq, Default, Debug)]
pub(crate) struct Summary {
    pub(crate) runs: u64,
    pub(crate) count: Counts,
    /// Faults and operators' commands, by their words.
    pub(crate) faults: BTreeMap<&'static str, u64>,
    pub(crate) struck: Struck,
    /// Simulated nanoseconds, all and without a server that accepts writes.
    pub(crate) time: u64,
    pub(crate) without_primary: u64,
    /// The longest time from the end of all faults until all was well.
    pub(crate) recovery: u64,
}

impl Summary {
    /// Counts more in.
    pub(crate) fn add(&mut self, more: &Summary) {
        self.runs += more.runs;
        self.count.add(&more.count);
        for (word, count) in &more.faults {
            *self.faults.entry(word).or_default() += count;
        }
        for (place, count) in &more.struck {
            *self.struck.entry(*place).or_default() += count;
        }
        self.time += more.time;
        self.without_primary += more.without_primary;
        self.recovery = self.recovery.max(more.recovery);
    }

    /// Everything that the product can do was done, and every effect was struck, not once only.
    pub(crate) fn assert_eventful(&self) {
        for (what, count) in self.count.each() {
            assert!(count >= self.runs / 20, "hardly any {what}: {self}");
        }
        for label in trap::labels() {
            let count: u64 =
                self.struck.iter().filter(|((l, ..), _)| *l == label).map(|(_, count)| count).sum();
            assert!(count >= self.runs / 20_000, "nobody was struck at {label}: {self}");
        }
    }
}

impl std::fmt::Display for Summary {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let hours = self.time / MS / 1000 / 3600;
        let without = self.without_primary * 100 / self.time.max(1);
        writeln!(
            f,
            "{} runs, {hours} hours of simulated time, {without} % of it without a primary",
            self.runs
        )?;
        let list = |each: &mut dyn Iterator<Item = (&'static str, u64)>| {
            let mut text = String::new();
            for (word, count) in each {
                let separator = if text.is_empty() { "" } else { ", " };
                let _ = write!(text, "{separator}{count} {}", word.replace('_', " "));
            }
            text
        };
        writeln!(f, "did: {}", list(&mut self.count.each()))?;
        writeln!(f, "met: {}", list(&mut self.faults.iter().map(|(w, c)| (*w, *c))))?;
        let mut struck: BTreeMap<&'static str, (u64, u32)> = BTreeMap::new();
        for ((label, step, _), count) in &self.struck {
            let (all, steps) = struck.entry(label).or_default();
            *all += count;
            *steps = (*steps).max(step + 1);
        }
        let struck: Vec<String> =
            struck.iter().map(|(label, (all, steps))| format!("{all} {label} (1-{steps})")).collect();
        writeln!(f, "struck between steps: {}", struck.join(", "))?;
        write!(f, "the slowest was well {} ms after everything was healed", self.recovery / MS)
    }
}
