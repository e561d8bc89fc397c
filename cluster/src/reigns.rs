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

/// What a server knows of the timelines of its own data.
#[derive(Clone, PartialEq, Eq, Debug, Default, Serialize, Deserialize)]
pub struct Descent {
    /// Who began them.
    #[serde(rename = "timelines")]
    pub known: Reigns,
    /// Whom it followed: from which timeline on, and in which reign. A timeline that came to it while it followed a
    /// reign was begun in that reign or before, whoever tells of it later.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub followed: BTreeMap<Timeline, Epoch>,
}

/// How many of those that were followed are remembered.
const REMEMBERED: usize = 8;

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

impl Descent {
    /// Compares a server with these data, that is on timeline `at`, with one that has `other`.
    pub fn compare(&self, at: Timeline, other: &Reigns) -> Lineage {
        let is_other = |timeline: &Timeline, theirs: &Reign| match self.known.0.get(timeline) {
            Some(ours) => ours != theirs,
            None => self.latest(*timeline).is_some_and(|latest| theirs.epoch > latest),
        };
        if let Some((timeline, _)) =
            other.0.range(..=at).find(|(timeline, theirs)| is_other(timeline, theirs))
        {
            return Lineage::Parted(*timeline);
        }
        let is_known = self.known.0.contains_key(&at) && other.0.contains_key(&at);
        if at <= Timeline(1) || is_known { Lineage::Same } else { Lineage::Unknown }
    }

    /// The last reign that a timeline which nothing else is known of can have begun in.
    fn latest(&self, timeline: Timeline) -> Option<Epoch> {
        self.followed.range(..timeline).next_back().map(|(_, epoch)| *epoch)
    }

    /// The same once the server, on timeline `at`, follows the reign of `epoch`.
    #[must_use]
    pub fn following(&self, at: Timeline, epoch: Epoch) -> Descent {
        let mut followed: BTreeMap<_, _> = self.followed.range(..at).map(|(t, e)| (*t, *e)).collect();
        followed.insert(at, epoch);
        while followed.len() > REMEMBERED {
            followed.pop_first();
        }
        Descent { known: self.known.up_to(at), followed }
    }
}

impl Reigns {
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
            let ours = Descent { known: ours, ..Descent::default() };
            assert_eq!(ours.compare(Timeline(at), &a), expected, "{ours:?} at {at}");
        }
    }

    #[test]
    fn what_came_while_a_reign_was_followed_was_not_begun_later() {
        let theirs = reigns(&[(2, 10, "a"), (3, 20, "b")]);
        let ours = Descent { known: reigns(&[(2, 10, "a")]), ..Descent::default() };
        assert_eq!(ours.compare(Timeline(3), &theirs), Lineage::Unknown);
        // On timeline 2 it followed the reign before, and then had a timeline 3.
        let before = ours.following(Timeline(2), Epoch(15));
        assert_eq!(before.compare(Timeline(3), &theirs), Lineage::Parted(Timeline(3)));
        assert_eq!(before.compare(Timeline(2), &theirs), Lineage::Same);
        // Following another now does not change whose that timeline 3 was.
        let after = before.following(Timeline(3), Epoch(20));
        assert_eq!(after.compare(Timeline(3), &theirs), Lineage::Parted(Timeline(3)));
        // It was still on timeline 2 when it followed the reign that began timeline 3.
        let with = before.following(Timeline(2), Epoch(20));
        assert_eq!(with.compare(Timeline(3), &theirs), Lineage::Unknown);
        assert_eq!(
            with.following(Timeline(1), Epoch(21)),
            Descent::default().following(Timeline(1), Epoch(21))
        );
        let many = (1..20).fold(ours, |ours, t| ours.following(Timeline(t), Epoch(t.into())));
        assert_eq!(many.followed.len(), REMEMBERED);
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
