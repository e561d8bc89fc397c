//! Files of pg_wal: which holds what, where a record ends, and whether two servers have the same bytes.

use std::fs::{self, File};
use std::io;
use std::os::unix::fs::FileExt;
use std::path::Path;

use pgvane_cluster::ids::{Lsn, Timeline};
use tokio_postgres::Client;

use super::lineage::Content;
use super::rewind::LeaderHistory;

/// Bytes of a page of WAL in every build that is shipped (`wal_block_size`).
const PAGE: u64 = 8192;

/// Bytes of a page's header, and of the first one's in a segment (`XLogPageHeaderData`, `XLogLongPageHeaderData`).
const HEADER: u64 = 24;
const LONG_HEADER: u64 = 40;

/// Records begin at multiples of this (`MAXALIGN`).
const ALIGN: u64 = 8;

/// A place in the WAL.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Place {
    /// On which timeline.
    pub timeline: Timeline,
    /// Where: the end of a record.
    pub at: Lsn,
}

/// How WAL is cut into files.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Segments {
    /// Bytes of a file.
    size: u64,
}

impl Segments {
    /// As the files in `pg_wal` are; `None` where there is none.
    pub fn of(pg_wal: &Path) -> Option<Segments> {
        let files = fs::read_dir(pg_wal).ok()?.filter_map(Result::ok);
        let segment = files.into_iter().find(|e| e.file_name().to_str().is_some_and(is_segment))?;
        let size = segment.metadata().ok()?.len();
        size.is_power_of_two().then_some(Segments { size })
    }

    /// The file with the byte at `at`.
    pub fn file(self, timeline: Timeline, at: Lsn) -> String {
        let (number, each) = (at.0 / self.size, (1 << 32) / self.size);
        format!("{:08X}{:08X}{:08X}", timeline.0, number / each, number % each)
    }

    /// The timeline of a file of pg_wal: a segment, whole or partial, or a history.
    pub fn timeline_of(name: &str) -> Option<Timeline> {
        let stem = name.strip_suffix(".partial").unwrap_or(name);
        let is_history = name.strip_suffix(".history").is_some_and(|stem| is_hex(stem, 8));
        let number = (is_segment(stem) || is_history).then(|| name.get(..8))??;
        u32::from_str_radix(number, 16).ok().map(Timeline)
    }

    /// The newest timeline that `pg_wal` has WAL of.
    pub fn newest_timeline(pg_wal: &Path) -> Option<Timeline> {
        let files = fs::read_dir(pg_wal).ok()?.filter_map(|e| e.ok()?.file_name().into_string().ok());
        files.filter(|name| is_segment(name)).filter_map(|name| Segments::timeline_of(&name)).max()
    }

    /// The last bytes before `at`, at most a page of them, all in one file: where they begin and how many.
    fn before(self, at: Lsn) -> Option<(Lsn, u64)> {
        let last = at.0.checked_sub(1)?;
        let begin = at.0.saturating_sub(PAGE).max(last - last % self.size);
        Some((Lsn(begin), at.0 - begin))
    }

    /// Where the record ends that begins at `at`, when it says that it is `length` bytes long.
    fn end_of_record(self, at: Lsn, length: u64) -> Lsn {
        let (mut at, mut left) = (at.0, length);
        loop {
            let room = PAGE - at % PAGE;
            if left <= room {
                return Lsn(at + left.next_multiple_of(ALIGN).min(room));
            }
            left -= room;
            at += room;
            at += if at.is_multiple_of(self.size) { LONG_HEADER } else { HEADER };
        }
    }
}

fn is_hex(text: &str, length: usize) -> bool {
    text.len() == length && text.bytes().all(|b| b.is_ascii_digit() || (b'A'..=b'F').contains(&b))
}

fn is_segment(name: &str) -> bool {
    is_hex(name, 24)
}

/// Where the record ends that begins at `at`; `None` where its file is gone.
pub fn end_of_record(pg_wal: &Path, timeline: Timeline, at: Lsn) -> Option<Lsn> {
    let segments = Segments::of(pg_wal)?;
    let bytes = read(pg_wal, segments, timeline, at, 4).ok()?;
    let length = u32::from_le_bytes(bytes.try_into().ok()?);
    (length > 0).then(|| segments.end_of_record(at, length.into()))
}

/// Whether `pg_wal` has the file with the byte at `at`, on whichever timeline.
pub fn has(pg_wal: &Path, at: Lsn) -> bool {
    let Some(segments) = Segments::of(pg_wal) else { return false };
    let wanted = segments.file(Timeline(1), at);
    let Ok(files) = fs::read_dir(pg_wal) else { return false };
    let mut names =
        files.filter_map(|e| e.ok()?.file_name().into_string().ok()).filter(|name| is_segment(name));
    names.any(|name| name[8..] == wanted[8..])
}

fn read(pg_wal: &Path, segments: Segments, timeline: Timeline, at: Lsn, length: u64) -> io::Result<Vec<u8>> {
    let mut bytes = vec![0; usize::try_from(length).unwrap_or(0)];
    let file = File::open(pg_wal.join(segments.file(timeline, at)))?;
    file.read_exact_at(&mut bytes, at.0 % segments.size)?;
    Ok(bytes)
}

/// Compares the last bytes before `place` here with those of the server behind `source`. With its `history`, where it
/// is on a later timeline: what lies beyond the end of ours there is not compared.
pub async fn compare(
    pg_wal: &Path,
    source: &Client,
    place: Place,
    history: Option<&LeaderHistory>,
) -> Content {
    let end = history.and_then(|h| h.end_of(place.timeline)).map_or(place.at, |end| end.min(place.at));
    let Some(segments) = Segments::of(pg_wal) else { return Content::Unknown };
    let Some((begin, length)) = segments.before(end) else { return Content::Unknown };
    let Ok(ours) = read(pg_wal, segments, place.timeline, begin, length) else { return Content::Unknown };
    let wanted = i64::try_from(begin.0 % segments.size).unwrap_or(0);
    for name in names(segments, place.timeline, begin, history) {
        let path = format!("pg_wal/{name}");
        let sql = "SELECT pg_read_binary_file($1, $2, $3, true)";
        let length = i64::try_from(length).unwrap_or(0);
        match source.query_one(sql, &[&path, &wanted, &length]).await {
            Ok(row) => match row.get::<_, Option<Vec<u8>>>(0) {
                Some(theirs) if theirs == ours => return Content::Same,
                Some(_) => return Content::Differs,
                None => {}
            },
            Err(error) => {
                tracing::warn!(%error, "the WAL of the two servers cannot be compared");
                return Content::Unknown;
            }
        }
    }
    Content::Unknown
}

/// The files that may hold WAL of `timeline` at `at`: its own, and those of later timelines that begin in the same
/// file, into which it was copied.
fn names(segments: Segments, timeline: Timeline, at: Lsn, history: Option<&LeaderHistory>) -> Vec<String> {
    let own = segments.file(timeline, at);
    let mut names = vec![own.clone(), format!("{own}.partial")];
    if let Some(history) = history {
        for ended in history.ended.iter().filter(|e| e.timeline >= timeline) {
            if ended.switch_lsn.0 / segments.size != at.0 / segments.size {
                break;
            }
            let after = |e: &&pgvane_cluster::records::HistoryEntry| e.timeline > ended.timeline;
            let next = history.ended.iter().find(after).map_or(history.timeline, |e| e.timeline);
            names.push(segments.file(next, at));
        }
    }
    names
}

#[cfg(test)]
mod tests {
    use pgvane_cluster::records::HistoryEntry;

    use super::*;

    const MB: u64 = 1 << 20;

    #[test]
    fn files_are_named_as_postgresql_names_them() {
        let (small, large) = (Segments { size: 16 * MB }, Segments { size: 1 << 30 });
        assert_eq!(small.file(Timeline(1), Lsn(0x0300_0028)), "000000010000000000000003");
        assert_eq!(small.file(Timeline(10), Lsn(0x1_FF00_0000)), "0000000A00000001000000FF");
        assert_eq!(large.file(Timeline(1), Lsn(0x1_FF00_0000)), "000000010000000100000003");
        for (name, timeline) in [
            ("000000020000000000000003", Some(2)),
            ("0000000A0000000000000003.partial", Some(10)),
            ("00000003.history", Some(3)),
            ("000000010000000000000003.00000028.backup", None),
            ("archive_status", None),
            ("00000001.partial", None),
        ] {
            assert_eq!(Segments::timeline_of(name), timeline.map(Timeline), "{name}");
        }
    }

    #[test]
    fn records_end_where_the_next_may_begin() {
        let s = Segments { size: 16 * MB };
        // A shutdown checkpoint of PostgreSQL 15, as pg_waldump tells it.
        assert_eq!(s.end_of_record(Lsn(0x0300_0028), 114), Lsn(0x0300_00A0));
        // Up to the end of the page, across it, and into the next file.
        assert_eq!(s.end_of_record(Lsn(PAGE - 120), 114), Lsn(PAGE));
        assert_eq!(s.end_of_record(Lsn(PAGE - 8), 114), Lsn(PAGE + 24 + 112));
        assert_eq!(s.end_of_record(Lsn(16 * MB - 16), 114), Lsn(16 * MB + 40 + 104));
    }

    #[test]
    fn the_bytes_before_a_place_lie_in_one_file() {
        let s = Segments { size: 16 * MB };
        assert_eq!(s.before(Lsn(0)), None);
        assert_eq!(s.before(Lsn(16 * MB)), Some((Lsn(16 * MB - PAGE), PAGE)));
        assert_eq!(s.before(Lsn(16 * MB + 40)), Some((Lsn(16 * MB), 40)));
        assert_eq!(s.before(Lsn(16 * MB + 3 * PAGE)), Some((Lsn(16 * MB + 2 * PAGE), PAGE)));
    }

    #[test]
    fn wal_of_an_ended_timeline_is_also_where_the_next_one_begins() {
        let s = Segments { size: 16 * MB };
        let ended = |timeline, at| HistoryEntry {
            timeline: Timeline(timeline),
            switch_lsn: Lsn(at),
            reason: String::new(),
            timestamp: None,
            new_leader: None,
        };
        let history = LeaderHistory {
            timeline: Timeline(4),
            checkpointed: Timeline(4),
            ended: vec![ended(1, 20 * MB), ended(2, 21 * MB), ended(3, 40 * MB)],
        };
        let names = |timeline, at| names(s, Timeline(timeline), Lsn(at), Some(&history));
        let files = |timelines: &[u32], segment| -> Vec<String> {
            let name = |t: &u32| format!("{t:08X}00000000{segment:08X}");
            let own = name(&timelines[0]);
            [own.clone(), format!("{own}.partial")]
                .into_iter()
                .chain(timelines[1..].iter().map(name))
                .collect()
        };
        assert_eq!(names(1, 20 * MB - 1), files(&[1, 2, 3], 1));
        assert_eq!(names(3, 40 * MB - 1), files(&[3, 4], 2));
        assert_eq!(names(1, 5), files(&[1], 0));
        assert_eq!(names(4, 50 * MB), files(&[4], 3));
    }
}
