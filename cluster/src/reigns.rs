//! Who began which timeline: what tells two timelines of one number apart.
//!
//! PostgreSQL numbers timelines, and two promotions that never heard of each other take the same number. So each
//! promotion is told by the reign it happened in and by the member that did it. A member keeps the list of its own
//! data; the leader publishes its list under `pgvane/reigns`, which Patroni ignores.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

use crate::ids::{Epoch, NodeName, Timeline};
use crate::records::RecordError;

/// The promotion that began a timeline.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Debug, Serialize, Deserialize)]
pub struct Reign {
    /// The reign it happened in.
    pub epoch: Epoch,
    /// Who was promoted.
    pub leader: NodeName,
}

impl std::fmt::Display for Reign {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{} in reign {}", self.leader, self.epoch)
    }
}

/// The timelines of one server's data with the promotions that began them, as far as they are known. The first
/// timeline has none: the system identifier tells whose it is.
#[derive(Clone, PartialEq, Eq, Debug, Default, Serialize, Deserialize)]
#[serde(transparent)]
pub struct Reigns(pub BTreeMap<Timeline, Reign>);

/// How the data of one server relate to another's, by their lists.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Lineage {
    /// They are on the same line.
    Same,
    /// They parted: this timeline was begun by two different promotions.
    Parted(Timeline),
    /// The lists do not tell.
    Unknown,
}

impl Reigns {
    /// Compares a server with this list, that is on timeline `at`, with one that has `other`.
    pub fn compare(&self, at: Timeline, other: &Reigns) -> Lineage {
        let up_to = self.0.range(..=at);
        let mut both = up_to.filter_map(|(timeline, ours)| Some((timeline, ours, other.0.get(timeline)?)));
        if let Some((timeline, ..)) = both.clone().find(|(_, ours, theirs)| ours != theirs) {
            return Lineage::Parted(*timeline);
        }
        if at <= Timeline(1) || both.any(|(timeline, ..)| *timeline == at) {
            Lineage::Same
        } else {
            Lineage::Unknown
        }
    }

    /// The part of the list up to timeline `at`.
    #[must_use]
    pub fn up_to(&self, at: Timeline) -> Reigns {
        Reigns(self.0.range(..=at).map(|(timeline, reign)| (*timeline, reign.clone())).collect())
    }
}

/// `pgvane/reigns`: the leader's list.
#[derive(Clone, PartialEq, Eq, Debug, Default, Serialize, Deserialize)]
pub struct PublishedReigns {
    /// The reign it was written in. It says nothing about the timelines of a later leader.
    pub epoch: Epoch,
    /// The list.
    pub timelines: Reigns,
}

impl PublishedReigns {
    /// Reads the record.
    ///
    /// # Errors
    /// When it is no such object.
    pub fn parse(bytes: &[u8]) -> Result<PublishedReigns, RecordError> {
        Ok(serde_json::from_slice(bytes)?)
    }

    /// Compact JSON.
    pub fn to_json(&self) -> Vec<u8> {
        // Maps of numbers and text always serialize.
        serde_json::to_vec(self).unwrap_or_default()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn reigns(list: &[(u32, i64, &str)]) -> Reigns {
        let one = |(timeline, epoch, leader): &(u32, i64, &str)| {
            (Timeline(*timeline), Reign { epoch: Epoch(*epoch), leader: NodeName::from(*leader) })
        };
        Reigns(list.iter().map(one).collect())
    }

    #[test]
    fn one_number_begun_twice_is_two_timelines() {
        let a = reigns(&[(2, 10, "a"), (3, 20, "b")]);
        for (ours, at, expected) in [
            (reigns(&[]), 1, Lineage::Same),
            (reigns(&[]), 3, Lineage::Unknown),
            (reigns(&[(2, 10, "a")]), 2, Lineage::Same),
            (reigns(&[(2, 10, "a")]), 3, Lineage::Unknown),
            (reigns(&[(2, 11, "a")]), 2, Lineage::Parted(Timeline(2))),
            // A store that was made anew counts its revisions anew.
            (reigns(&[(2, 10, "c")]), 2, Lineage::Parted(Timeline(2))),
            (reigns(&[(2, 11, "a"), (3, 20, "b")]), 3, Lineage::Parted(Timeline(2))),
            // What was learned of a timeline that the data are not on says nothing of them.
            (reigns(&[(2, 10, "a"), (3, 21, "b")]), 2, Lineage::Same),
            (reigns(&[(3, 20, "b")]), 3, Lineage::Same),
            (reigns(&[(2, 10, "a"), (4, 30, "a")]), 4, Lineage::Unknown),
        ] {
            assert_eq!(ours.compare(Timeline(at), &a), expected, "{ours:?} at {at}");
        }
    }

    #[test]
    fn the_record_is_read_as_it_is_written() {
        let record = PublishedReigns { epoch: Epoch(30), timelines: reigns(&[(2, 10, "a")]) };
        let json = r#"{"epoch":30,"timelines":{"2":{"epoch":10,"leader":"a"}}}"#;
        assert_eq!(String::from_utf8(record.to_json()).expect("text"), json);
        assert_eq!(PublishedReigns::parse(json.as_bytes()), Ok(record));
        assert!(PublishedReigns::parse(b"[]").is_err());
    }
}
