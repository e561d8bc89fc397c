//! What happened to the clusters last, for whoever looks later: a bounded list in memory, for people only.

use std::collections::VecDeque;
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::SystemTime;

use serde::Serialize;

use super::Admission;

/// How many entries are kept: enough for a bad night, little enough to be read and sent whole.
const KEPT: usize = 50;

/// The last entries of one proxy, all its clusters together.
#[derive(Debug, Default)]
pub struct Timeline(Mutex<Log>);

#[derive(Debug, Default)]
struct Log {
    entries: VecDeque<Entry>,
    noted: u64,
}

/// Something that happened.
#[derive(Clone, PartialEq, Eq, Debug, Serialize)]
pub struct Entry {
    /// Counts from 1, so that a gap shows.
    pub number: u64,
    /// When, by the wall clock: milliseconds since 1970.
    pub at_ms: u64,
    /// To which cluster.
    pub cluster: String,
    /// What.
    #[serde(flatten)]
    pub what: What,
}

/// What can happen.
#[derive(Clone, PartialEq, Eq, Debug, Serialize)]
#[serde(tag = "what", rename_all = "snake_case")]
pub enum What {
    /// New sessions go to this primary from now on.
    PrimaryServes {
        /// Who.
        target: String,
        /// In which reign.
        epoch: Option<i64>,
        /// How long nobody served before; `None` for the first one.
        outage_ms: Option<u64>,
    },
    /// New sessions that need a primary are held.
    NoPrimary {
        /// Why.
        why: String,
    },
    /// An operator has set what a node may take.
    SetByOperator {
        /// Which node.
        target: String,
        /// To what.
        admission: Admission,
    },
}

impl Timeline {
    /// Adds that this happened now; the oldest entry goes when there are too many.
    pub fn note(&self, cluster: &str, what: What) {
        let at_ms = milliseconds(SystemTime::now());
        let mut log = self.log();
        log.noted += 1;
        let entry = Entry { number: log.noted, at_ms, cluster: cluster.to_owned(), what };
        if log.entries.len() == KEPT {
            log.entries.pop_front();
        }
        log.entries.push_back(entry);
    }

    /// All that are kept, the oldest first.
    pub fn entries(&self) -> Vec<Entry> {
        self.log().entries.iter().cloned().collect()
    }

    /// A panic while it was held cannot have left the list half-changed.
    fn log(&self) -> MutexGuard<'_, Log> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Since 1970; 0 for a clock that was never set.
pub(crate) fn milliseconds(time: SystemTime) -> u64 {
    let since = time.duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default();
    u64::try_from(since.as_millis()).unwrap_or(u64::MAX)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_last_ones_are_kept_in_order() {
        let timeline = Timeline::default();
        for number in 0..KEPT + 3 {
            timeline.note("main", What::NoPrimary { why: number.to_string() });
        }
        let entries = timeline.entries();
        let numbers: Vec<_> = entries.iter().map(|entry| entry.number).collect();
        assert_eq!(numbers, (4..=KEPT as u64 + 3).collect::<Vec<_>>());
        assert_eq!(entries[0].what, What::NoPrimary { why: "3".to_owned() });
    }

    #[test]
    fn an_entry_is_one_flat_object() {
        let timeline = Timeline::default();
        let what = What::PrimaryServes { target: "pg2".to_owned(), epoch: Some(7), outage_ms: Some(129) };
        timeline.note("main", what);
        timeline
            .note("main", What::SetByOperator { target: "pg1".to_owned(), admission: Admission::Draining });
        let entries = serde_json::to_value(timeline.entries()).expect("JSON");
        assert_eq!(entries[0]["what"], "primary_serves");
        assert_eq!((&entries[0]["target"], &entries[0]["outage_ms"]), (&"pg2".into(), &129.into()));
        assert_eq!((&entries[1]["cluster"], &entries[1]["admission"]), (&"main".into(), &"draining".into()));
    }
}
