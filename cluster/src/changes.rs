//! Why leadership went from one member to the next, and for how long nobody accepted writes meanwhile.
//!
//! Nobody knows both alone. Who gives leadership up says why, and for how long it has not accepted writes, under
//! `pgvane/farewell`; who takes it over adds what it saw itself and keeps the list under `pgvane/changes`, beside
//! Patroni's `history`, which has no room for it. Lengths of time are told, never instants: clocks of two machines
//! are not compared.

use std::time::Duration;

use serde::{Deserialize, Serialize};

use crate::ids::{Epoch, Lsn, NodeName, Timeline};
use crate::records::{HistoryEntry, HistoryRecord, RecordError, words};

/// How many changes are kept where `max_timelines_history` keeps more.
pub const KEPT: usize = 100;

words! {
    /// Why a leader leads no more.
    Cause {
        /// An operator's switchover.
        Switchover = "switchover",
        /// An operator's failover.
        Failover = "failover",
        /// Its agent was told to stop.
        AgentStopped = "agent_stopped",
        /// Its PostgreSQL ended unasked, and a synchronous standby held everything that was acknowledged.
        PostgresCrashed = "postgres_crashed",
        /// Its PostgreSQL did not run again within `primary_start_timeout`.
        StartTimeout = "start_timeout",
        /// Its PostgreSQL did not come up after a restart.
        RestartFailed = "restart_failed",
        /// Its PostgreSQL ended again and again while it started.
        StartFailed = "start_failed",
        /// It gave its key back for another reason, which it told.
        GaveUp = "gave_up",
        /// Its guard found PostgreSQL ended, with nobody to lead on, and gave the lease back.
        Guard = "guard",
        /// Its lease ended, and it said nothing.
        LeaseEnded = "lease_ended",
        /// Its key went while its lease lived.
        KeyDeleted = "key_deleted",
    }
}

impl Cause {
    /// What an operator is told.
    pub fn explain(&self) -> &str {
        match self {
            Cause::Switchover => "switchover by the operator",
            Cause::Failover => "failover by the operator",
            Cause::AgentStopped => "the leader's agent was stopped",
            Cause::PostgresCrashed => "PostgreSQL crashed; a standby held everything acknowledged",
            Cause::StartTimeout => "PostgreSQL did not run again within primary_start_timeout",
            Cause::RestartFailed => "PostgreSQL did not come up after a restart",
            Cause::StartFailed => "PostgreSQL ended again and again while it started",
            Cause::GaveUp => "the leader gave its key back",
            Cause::Guard => "PostgreSQL had ended and no agent led on; the guard gave the lease back",
            Cause::LeaseEnded => "the leader's lease ended",
            Cause::KeyDeleted => "the leader key was deleted",
            Cause::Other(word) => word,
        }
    }
}

/// `pgvane/farewell`: the last words of the last leader that had any.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct Farewell {
    /// The reign that it ends.
    pub epoch: Epoch,
    /// Why.
    pub cause: Cause,
    /// More, for an operator.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub detail: Option<String>,
    /// For how long its server has not accepted connections, by its own clock; absent where it does not know.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub down_ms: Option<u64>,
}

/// One change of leader.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct Change {
    /// The timeline that ended, as in `history`.
    pub timeline: Timeline,
    /// Where the next one begins, as in `history`.
    pub switch_lsn: Lsn,
    /// Who led before, where it is known.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub from: Option<NodeName>,
    /// Why that one leads no more, where it is known.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub cause: Option<Cause>,
    /// More, for an operator.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub detail: Option<String>,
    /// For how long its server had not accepted connections when it gave the key up, as it said itself.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub down_ms: Option<u64>,
    /// For how long the next leader had seen its stream from it ended when the key went.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub unfed_ms: Option<u64>,
    /// From when the next leader saw the key gone to the end of its promotion.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub leaderless_ms: Option<u64>,
}

/// Where the measurement of an outage begins. It always ends with the promotion.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Since {
    /// The old primary accepted no connections any more: nothing is missing.
    PrimaryStopped,
    /// The next leader's stream from the old primary had ended: whether that still served others is unknown.
    StreamEnded,
    /// The leader key was gone: since when nobody served before is unknown.
    KeyGone,
}

impl Since {
    /// What an operator is told.
    pub fn explain(self) -> &'static str {
        match self {
            Since::PrimaryStopped => "the old primary stopped",
            Since::StreamEnded => "replication from it ended",
            Since::KeyGone => "its leader key went",
        }
    }
}

impl Change {
    /// For how long nobody served, as far as it was measured.
    pub fn outage(&self) -> Option<(Duration, Since)> {
        let leaderless = Duration::from_millis(self.leaderless_ms?);
        let (before, since) = match (self.down_ms, self.unfed_ms) {
            (Some(down), _) => (down, Since::PrimaryStopped),
            (None, Some(unfed)) => (unfed, Since::StreamEnded),
            (None, None) => (0, Since::KeyGone),
        };
        Some((leaderless.saturating_add(Duration::from_millis(before)), since))
    }

    /// Whether this is the change that began the timeline after that of `entry`.
    pub fn is_of(&self, entry: &HistoryEntry) -> bool {
        self.timeline == entry.timeline && self.switch_lsn == entry.switch_lsn
    }
}

/// `pgvane/changes`: the changes of leader, oldest first.
#[derive(Clone, PartialEq, Eq, Debug, Default, Serialize, Deserialize)]
#[serde(transparent)]
pub struct Changes(pub Vec<Change>);

impl Changes {
    /// The list with `change` added: of the changes that `history` still has the last [`KEPT`].
    #[must_use]
    pub fn with(&self, change: Change, history: &HistoryRecord) -> Changes {
        let is_other = |known: &&Change| {
            (known.timeline, known.switch_lsn) != (change.timeline, change.switch_lsn)
                && history.0.iter().any(|entry| known.is_of(entry))
        };
        let mut list: Vec<Change> = self.0.iter().filter(is_other).cloned().collect();
        list.push(change);
        list.drain(..list.len().saturating_sub(KEPT));
        Changes(list)
    }

    /// The change that began the timeline after that of `entry`.
    pub fn of(&self, entry: &HistoryEntry) -> Option<&Change> {
        self.0.iter().find(|change| change.is_of(entry))
    }

    /// Reads the list.
    ///
    /// # Errors
    /// When it is no such list.
    pub fn parse(bytes: &[u8]) -> Result<Changes, RecordError> {
        Ok(serde_json::from_slice(bytes)?)
    }

    /// Compact JSON.
    pub fn to_json(&self) -> Vec<u8> {
        // Lists of numbers and text always serialize.
        serde_json::to_vec(self).unwrap_or_default()
    }
}

impl Farewell {
    /// Reads the record.
    ///
    /// # Errors
    /// When it is no such object.
    pub fn parse(bytes: &[u8]) -> Result<Farewell, RecordError> {
        Ok(serde_json::from_slice(bytes)?)
    }

    /// Compact JSON.
    pub fn to_json(&self) -> Vec<u8> {
        // Numbers and text always serialize.
        serde_json::to_vec(self).unwrap_or_default()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn entry(timeline: u32) -> HistoryEntry {
        HistoryEntry {
            timeline: Timeline(timeline),
            switch_lsn: Lsn(u64::from(timeline) * 100),
            reason: String::new(),
            timestamp: None,
            new_leader: None,
        }
    }

    fn change(timeline: u32) -> Change {
        let HistoryEntry { timeline, switch_lsn, .. } = entry(timeline);
        Change {
            timeline,
            switch_lsn,
            from: Some("a".into()),
            cause: Some(Cause::Switchover),
            detail: None,
            down_ms: None,
            unfed_ms: None,
            leaderless_ms: Some(20),
        }
    }

    fn history(timelines: std::ops::RangeInclusive<u32>) -> HistoryRecord {
        HistoryRecord(timelines.map(entry).collect())
    }

    #[test]
    fn the_list_is_that_of_the_history_and_bounded() {
        let list = (1..=3).fold(Changes::default(), |list, t| list.with(change(t), &history(1..=t)));
        assert_eq!(list.0.len(), 3);
        assert_eq!(list.of(&entry(2)), Some(&change(2)));
        assert_eq!(list.of(&HistoryEntry { switch_lsn: Lsn(1), ..entry(2) }), None, "another's timeline 2");
        // What the history has dropped, or never had, goes.
        let trimmed = list.with(change(4), &history(3..=4));
        assert_eq!(trimmed.0, [change(3), change(4)]);
        // Written once more it replaces itself.
        let again = Change { cause: None, ..change(4) };
        assert_eq!(trimmed.with(again.clone(), &history(3..=4)).0, [change(3), again]);
        let many = (1..=150).fold(Changes::default(), |list, t| list.with(change(t), &history(1..=t)));
        assert_eq!((many.0.len(), many.0[0].timeline), (KEPT, Timeline(51)));
        assert!(many.to_json().len() < 32 * 1024, "{} bytes", many.to_json().len());
    }

    #[test]
    fn an_outage_says_where_it_was_measured_from() {
        let ms = Duration::from_millis;
        let outage = |down_ms, unfed_ms, leaderless_ms| {
            Change { down_ms, unfed_ms, leaderless_ms, ..change(1) }.outage()
        };
        assert_eq!(outage(Some(30), None, Some(20)), Some((ms(50), Since::PrimaryStopped)));
        assert_eq!(outage(Some(30), Some(900), Some(20)), Some((ms(50), Since::PrimaryStopped)));
        assert_eq!(outage(None, Some(900), Some(20)), Some((ms(920), Since::StreamEnded)));
        assert_eq!(outage(None, None, Some(20)), Some((ms(20), Since::KeyGone)));
        assert_eq!(outage(Some(30), Some(900), None), None);
        assert_eq!(outage(Some(u64::MAX), None, Some(u64::MAX)).map(|o| o.1), Some(Since::PrimaryStopped));
    }

    #[test]
    fn records_are_read_as_they_are_written_and_later_words_are_kept() {
        let json = r#"[{"timeline":1,"switch_lsn":100,"from":"a","cause":"switchover","leaderless_ms":20}]"#;
        assert_eq!(String::from_utf8(Changes(vec![change(1)]).to_json()).expect("text"), json);
        assert_eq!(Changes::parse(json.as_bytes()), Ok(Changes(vec![change(1)])));
        assert!(Changes::parse(b"{}").is_err());
        let json = r#"{"epoch":7,"cause":"meteor","down_ms":5,"later":1}"#;
        let farewell = Farewell::parse(json.as_bytes()).expect("reads");
        assert_eq!((farewell.cause.explain(), farewell.down_ms), ("meteor", Some(5)));
        assert_eq!(Farewell::parse(&farewell.to_json()), Ok(farewell));
        assert!(Farewell::parse(b"[]").is_err());
    }
}
