//! Did our history part from the leader's, and which way leads back (contract 8.3)?
//!
//! Three things tell, the surest first: who began the timelines; where they ended, by the history files; and the WAL
//! itself. Numbers alone do not, and pg_rewind goes by numbers and by where they begin: it leaves a server as it is
//! that is on another timeline of the same number, and PostgreSQL streams on to it. Such data are cloned again.

use std::path::Path;

use pgvane_cluster::ids::{Lsn, Timeline};
use pgvane_cluster::records::HistoryEntry;
use pgvane_cluster::reigns::{Descent, Lineage, Reigns};

use super::controldata::ControlData;
use super::rewind::{self, LeaderHistory, Verdict};
use super::wal::{Place, Segments};
use crate::history;

/// What is known of a stopped server of ours.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Ours {
    /// pg_control.
    pub control: ControlData,
    /// Whether it is a copy that was never started: what pg_control says of its state is the source's.
    pub is_copy: bool,
    /// Where its last checkpoint record ends.
    pub checkpoint_end: Option<Lsn>,
    /// The timelines before its own, where their history file is there.
    pub ended: Option<Vec<HistoryEntry>>,
    /// What is known of them.
    pub descent: Descent,
}

/// Whether our WAL is the leader's where both have it.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Content {
    /// It is.
    Same,
    /// It is another.
    Differs,
    /// One of the two has it no more.
    Unknown,
}

/// What is to be done.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Course {
    /// Our WAL is part of the leader's history: follow it.
    Follow,
    /// It is not, and pg_rewind can tell.
    Rewind,
    /// It is not, and pg_rewind cannot tell; the text says why.
    Clone(String),
}

impl Ours {
    /// The timeline that the data are on.
    pub fn timeline(&self) -> Timeline {
        self.place().timeline
    }

    /// How far the data surely reach: WAL up to here is ours.
    pub fn place(&self) -> Place {
        let (timeline, at) = rewind::reached(&self.control);
        Place {
            timeline,
            at: if rewind::is_standby(&self.control) { at } else { self.checkpoint_end.unwrap_or(at) },
        }
    }

    /// Whether nothing but the WAL itself can tell if ours is the leader's.
    pub fn needs_a_look(&self, theirs: Option<&Reigns>, leader: &LeaderHistory) -> bool {
        let timeline = self.timeline();
        let lineage = theirs.map_or(Lineage::Unknown, |theirs| self.descent.compare(timeline, theirs));
        (timeline > Timeline(1) && lineage == Lineage::Unknown) || self.was_another_primary(leader)
    }

    /// Whether it was a primary on the very timeline that the leader is on, which nobody else can have begun.
    fn was_another_primary(&self, leader: &LeaderHistory) -> bool {
        self.timeline() == leader.timeline && !self.is_copy && !rewind::is_standby(&self.control)
    }
}

/// Judges what is to be done. `theirs`: the leader's list, where it keeps one; `content`: what a look at the WAL of
/// our timeline came to.
pub fn judge(ours: &Ours, leader: &LeaderHistory, theirs: Option<&Reigns>, content: Content) -> Course {
    let timeline = ours.timeline();
    let by_list = theirs.map_or(Lineage::Unknown, |theirs| ours.descent.compare(timeline, theirs));
    if let Lineage::Parted(at) = by_list {
        let begun = |list: &Reigns| list.0.get(&at).map_or("somebody else".to_owned(), ToString::to_string);
        let there = theirs.map(begun).unwrap_or_default();
        let why =
            format!("timeline {at} was begun by {} here and by {there} there", begun(&ours.descent.known));
        return parted(ours, leader, at, &why);
    }
    if let Some(at) = first_other_end(ours.ended.as_deref().unwrap_or_default(), &leader.ended) {
        let next = Timeline(at.0 + 1);
        let why = format!("timeline {at} ended at another place here than there");
        return parted(ours, leader, next, &why);
    }
    if by_list == Lineage::Unknown && content == Content::Differs {
        let why = format!("the WAL of timeline {timeline} is not the leader's");
        return parted(ours, leader, timeline, &why);
    }
    if ours.was_another_primary(leader) && (content != Content::Same || !ours.control.is_clean()) {
        let why = format!("both were primaries on timeline {timeline}");
        return parted(ours, leader, timeline, &why);
    }
    if let (Some(end), Some(switch)) = (clean_end(ours), leader.end_of(timeline)) {
        return if end == switch { Course::Follow } else { Course::Rewind };
    }
    match rewind::compare(&ours.control, leader) {
        Verdict::CanFollow => Course::Follow,
        Verdict::NeedsRewind => Course::Rewind,
    }
}

/// Where the WAL of a server ends that was shut down as a primary.
fn clean_end(ours: &Ours) -> Option<Lsn> {
    let was_primary = ours.control.is_clean() && !rewind::is_standby(&ours.control);
    ours.checkpoint_end.filter(|_| was_primary)
}

/// The first timeline that both list and that ended at different places.
fn first_other_end(ours: &[HistoryEntry], theirs: &[HistoryEntry]) -> Option<Timeline> {
    let end = |t: Timeline| theirs.iter().find(|e| e.timeline == t).map(|e| e.switch_lsn);
    ours.iter().find(|e| end(e.timeline).is_some_and(|there| there != e.switch_lsn)).map(|e| e.timeline)
}

/// The histories parted where timeline `at` began. pg_rewind finds that out if what it takes for the last common
/// timeline comes before.
fn parted(ours: &Ours, leader: &LeaderHistory, at: Timeline, why: &str) -> Course {
    match (&ours.ended, ours.timeline()) {
        (_, timeline) if timeline == leader.timeline => {}
        // Without our history file it cannot be foreseen what pg_rewind will do.
        (None, timeline) if timeline > Timeline(1) => {}
        (ended, timeline) => {
            let ours = begins(ended.as_deref().unwrap_or_default(), timeline);
            let theirs = begins(&leader.ended, leader.timeline);
            let common = ours.iter().zip(&theirs).take_while(|(a, b)| a == b).last();
            if common.is_some_and(|((timeline, _), _)| *timeline < at) {
                return Course::Rewind;
            }
        }
    }
    Course::Clone(format!("{why}, and pg_rewind does not tell timelines of one number apart"))
}

/// The timelines of a history with where each begins, as pg_rewind compares them.
fn begins(ended: &[HistoryEntry], last: Timeline) -> Vec<(Timeline, Lsn)> {
    let numbers = ended.iter().map(|e| e.timeline).chain([last]);
    numbers.zip([Lsn(0)].into_iter().chain(ended.iter().map(|e| e.switch_lsn))).collect()
}

/// The timelines before `timeline`, by its history file in a data directory; none before the first.
pub fn ended_before(data_dir: &Path, timeline: Timeline) -> Option<Vec<HistoryEntry>> {
    if timeline <= Timeline(1) {
        return Some(vec![]);
    }
    let file = data_dir.join(format!("pg_wal/{:08X}.history", timeline.0));
    std::fs::read_to_string(file).ok().map(|text| history::parse_file(&text))
}

/// Files of pg_wal that a standby about to follow must not replay: received on a timeline that the data have not
/// reached, and begun by somebody else than the leader's timeline of that number. Recovery would take them for the
/// leader's.
pub fn foreign_files(names: &[String], ours: &Ours, theirs: &Reigns) -> Vec<String> {
    let is_foreign = |name: &&String| {
        let timeline = Segments::timeline_of(name).filter(|t| *t > ours.timeline());
        timeline
            .is_some_and(|t| ours.descent.known.0.get(&t).is_none_or(|reign| theirs.0.get(&t) != Some(reign)))
    };
    names.iter().filter(is_foreign).cloned().collect()
}

#[cfg(test)]
#[path = "lineage_tests.rs"]
mod tests;
