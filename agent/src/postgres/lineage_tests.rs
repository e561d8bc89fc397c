//! What leads back to the leader, case by case.

use pgvane_cluster::ids::Epoch;
use pgvane_cluster::reigns::Reign;

use super::Content::{Differs, Same, Unknown};
use super::*;

const STANDBY: &str = "shut down in recovery";
const PRIMARY: &str = "shut down";
const CRASHED: &str = "in production";

fn entry(timeline: u32, at: u64) -> HistoryEntry {
    HistoryEntry {
        timeline: Timeline(timeline),
        switch_lsn: Lsn(at),
        reason: String::new(),
        timestamp: None,
        new_leader: None,
    }
}

/// A history by the ends of its timelines, the first one's first.
fn ended(ends: &[u64]) -> Vec<HistoryEntry> {
    (1..).zip(ends).map(|(timeline, at)| entry(timeline, *at)).collect()
}

/// Timelines from the second on, by the epochs that they began in.
fn reigns(epochs: &[i64]) -> Reigns {
    let reign = |epoch: &i64| Reign { epoch: Epoch(*epoch), leader: "pg".into() };
    Reigns((2..).map(Timeline).zip(epochs.iter().map(reign)).collect())
}

fn descent(epochs: &[i64]) -> Descent {
    Descent { known: reigns(epochs), ..Descent::default() }
}

fn ours(state: &str, at: u64, ends: &[u64], known: &[i64]) -> Ours {
    let (standby, timeline) =
        (state.ends_with("recovery"), Timeline(1 + u32::try_from(ends.len()).expect("few")));
    Ours {
        is_copy: false,
        control: ControlData {
            system_identifier: "7".to_owned(),
            state: state.to_owned(),
            checkpoint: Lsn(at),
            timeline,
            min_recovery: Lsn(if standby { at } else { 0 }),
            min_recovery_timeline: if standby { timeline } else { Timeline(0) },
            checksums: true,
            wal_log_hints: true,
            floors: vec![],
        },
        checkpoint_end: (!standby).then_some(Lsn(at + 120)),
        ended: Some(ended(ends)),
        descent: descent(known),
    }
}

fn leader(ends: &[u64]) -> LeaderHistory {
    let timeline = Timeline(1 + u32::try_from(ends.len()).expect("few"));
    LeaderHistory { timeline, checkpointed: timeline, ended: ended(ends) }
}

#[derive(Debug, PartialEq, Eq)]
enum Is {
    Follow,
    Rewind,
    Clone,
}

fn course(ours: &Ours, leader: &LeaderHistory, theirs: Option<&[i64]>, content: Content) -> Is {
    match judge(ours, leader, theirs.map(reigns).as_ref(), content) {
        Course::Follow => Is::Follow,
        Course::Rewind => Is::Rewind,
        Course::Clone(why) => {
            assert!(why.contains("pg_rewind"), "{why}");
            Is::Clone
        }
    }
}

#[test]
fn on_one_line_the_end_of_our_wal_decides() {
    for (what, ours, leader, theirs, expected) in [
        ("one line", ours(STANDBY, 200, &[100], &[10]), leader(&[100]), &[10][..], Is::Follow),
        ("behind", ours(STANDBY, 200, &[100], &[10]), leader(&[100, 300]), &[10, 20], Is::Follow),
        ("past the end", ours(STANDBY, 301, &[100], &[10]), leader(&[100, 300]), &[10, 20], Is::Rewind),
        ("before the list", ours(STANDBY, 90, &[], &[]), leader(&[100]), &[10], Is::Follow),
        ("never heard of", ours(STANDBY, 50, &[20, 30, 40], &[]), leader(&[20, 30]), &[10, 20], Is::Rewind),
        // A clean former primary has nothing after its last record, and the leader must not have had less.
        ("handed over", ours(PRIMARY, 180, &[100], &[10]), leader(&[100, 300]), &[10, 20], Is::Follow),
        ("not received", ours(PRIMARY, 181, &[100], &[10]), leader(&[100, 300]), &[10, 20], Is::Rewind),
        ("more there", ours(PRIMARY, 150, &[100], &[10]), leader(&[100, 300]), &[10, 20], Is::Rewind),
        ("crashed", ours(CRASHED, 50, &[], &[]), leader(&[100]), &[10], Is::Rewind),
    ] {
        assert_eq!(course(&ours, &leader, Some(theirs), Unknown), expected, "{what}");
    }
}

#[test]
fn one_number_begun_twice_is_seen_by_the_list_and_mostly_by_nothing_else() {
    for (what, ours, leader, theirs, expected) in [
        ("twice", ours(STANDBY, 200, &[100], &[10]), leader(&[100]), &[11][..], Is::Clone),
        ("twice, then on", ours(STANDBY, 200, &[100], &[10]), leader(&[100, 300]), &[11, 20], Is::Clone),
        ("a crashed primary", ours(CRASHED, 200, &[100], &[10]), leader(&[100]), &[11], Is::Clone),
        ("a clean one", ours(PRIMARY, 180, &[100], &[10]), leader(&[100, 300]), &[11, 20], Is::Clone),
        // Begun at another place, pg_rewind sees it, unless both are on that number now.
        ("elsewhere", ours(CRASHED, 200, &[90], &[10]), leader(&[100, 300]), &[11, 20], Is::Rewind),
        ("elsewhere, same", ours(CRASHED, 200, &[90], &[10]), leader(&[100]), &[11], Is::Clone),
    ] {
        assert_eq!(course(&ours, &leader, Some(theirs), Same), expected, "{what}");
    }
}

#[test]
fn without_lists_the_history_files_tell_and_then_the_wal() {
    for (what, ours, leader, theirs, content, expected) in [
        ("other ends", ours(STANDBY, 200, &[90], &[]), leader(&[100]), None, Unknown, Is::Clone),
        (
            "other ends, then on",
            ours(STANDBY, 200, &[90], &[]),
            leader(&[100, 300]),
            None,
            Unknown,
            Is::Rewind,
        ),
        (
            "other WAL",
            ours(STANDBY, 200, &[100], &[]),
            leader(&[100, 300]),
            Some(&[10, 20][..]),
            Differs,
            Is::Clone,
        ),
        ("other WAL, Patroni's", ours(STANDBY, 200, &[100], &[]), leader(&[100]), None, Differs, Is::Clone),
        ("same WAL", ours(STANDBY, 200, &[100], &[]), leader(&[100, 300]), Some(&[10, 20]), Same, Is::Follow),
        ("no WAL left", ours(STANDBY, 200, &[100], &[]), leader(&[100, 300]), None, Unknown, Is::Follow),
        ("two primaries", ours(CRASHED, 200, &[100], &[]), leader(&[100]), None, Same, Is::Clone),
        ("from the start", ours(CRASHED, 200, &[], &[]), leader(&[]), Some(&[]), Unknown, Is::Clone),
        ("not to be seen", ours(PRIMARY, 200, &[100], &[]), leader(&[100]), None, Unknown, Is::Clone),
        ("a copy goes on", ours(PRIMARY, 200, &[100], &[]), leader(&[100]), None, Same, Is::Follow),
    ] {
        assert_eq!(course(&ours, &leader, theirs, content), expected, "{what}");
    }
}

#[test]
fn a_timeline_that_came_before_the_leaders_began_is_another() {
    let mut here = ours(STANDBY, 200, &[100], &[]);
    here.descent = here.descent.following(Timeline(1), Epoch(9));
    assert_eq!(course(&here, &leader(&[100]), Some(&[10]), Same), Is::Clone);
    here.descent = here.descent.following(Timeline(1), Epoch(10));
    assert_eq!(course(&here, &leader(&[100]), Some(&[10]), Same), Is::Follow);
}

#[test]
fn without_a_history_file_nothing_is_left_to_pg_rewind() {
    let mut here = ours(CRASHED, 200, &[90], &[10]);
    let there = leader(&[100, 300]);
    assert_eq!(course(&here, &there, Some(&[11, 20]), Unknown), Is::Rewind);
    here.ended = None;
    assert_eq!(course(&here, &there, Some(&[11, 20]), Unknown), Is::Clone);
}

#[test]
fn the_wal_is_looked_at_where_nothing_else_tells() {
    let needs =
        |ours: &Ours, leader, theirs: Option<&[i64]>| ours.needs_a_look(theirs.map(reigns).as_ref(), &leader);
    assert!(needs(&ours(STANDBY, 200, &[100], &[]), leader(&[100]), Some(&[10])));
    assert!(needs(&ours(STANDBY, 200, &[100], &[10]), leader(&[100]), None));
    assert!(!needs(&ours(STANDBY, 200, &[100], &[10]), leader(&[100]), Some(&[10])));
    assert!(!needs(&ours(STANDBY, 200, &[], &[]), leader(&[]), None));
    assert!(needs(&ours(PRIMARY, 200, &[], &[]), leader(&[]), Some(&[])));
}

#[test]
fn wal_of_a_timeline_that_was_not_the_leaders_is_not_replayed() {
    let names: Vec<String> = [
        "000000010000000000000003",
        "00000002.history",
        "000000020000000000000003",
        "000000020000000000000004.partial",
        "00000003.history",
        "archive_status",
    ]
    .map(str::to_owned)
    .into();
    let mut here = ours(STANDBY, 90, &[], &[]);
    assert_eq!(foreign_files(&names, &here, &reigns(&[11])), names[1..5]);
    here.descent = descent(&[11]);
    assert_eq!(foreign_files(&names, &here, &reigns(&[11])), names[4..5]);
    here.descent = descent(&[10]);
    assert_eq!(foreign_files(&names, &here, &reigns(&[11])), names[1..5]);
}

#[test]
fn a_place_is_the_end_of_the_last_record_that_is_surely_ours() {
    let place = |at| Place { timeline: Timeline(2), at: Lsn(at) };
    assert_eq!(ours(STANDBY, 200, &[100], &[]).place(), place(200));
    assert_eq!(ours(CRASHED, 200, &[100], &[]).place(), place(320));
}

#[test]
fn a_copy_that_was_never_started_was_no_primary_here() {
    let primary = ours("in production", 100, &[], &[]);
    assert!(matches!(judge(&primary, &leader(&[]), None, Content::Unknown), Course::Clone(_)));
    let copy = Ours { is_copy: true, ..primary };
    assert_eq!(judge(&copy, &leader(&[]), None, Content::Unknown), Course::Follow);
}
