//! Which backups are too many.

use std::time::Duration;

use jiff::Timestamp;

use super::record::Record;

/// How much is kept.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Default)]
pub struct Keep {
    /// So many of the newest.
    pub count: Option<usize>,
    /// Whatever is younger than so many days.
    pub days: Option<u32>,
}

/// The backups that may go, oldest first. With both rules one goes only where both let it go. The newest always stays,
/// and so does whatever is of another cluster than it.
pub fn superfluous<'a>(backups: &'a [Record], keep: Keep, now: Timestamp) -> Vec<&'a Record> {
    let Some(newest) = backups.iter().max_by_key(|record| record.finished) else { return vec![] };
    let identity = |record: &Record| (record.scope.clone(), record.system_identifier.clone());
    let mut own: Vec<&Record> = backups.iter().filter(|r| identity(r) == identity(newest)).collect();
    own.sort_by_key(|record| std::cmp::Reverse(record.finished));
    let goes = |(place, record): &(usize, &'a Record)| {
        let surplus = keep.count.map(|count| *place >= count);
        let old = keep.days.map(|days| {
            let age = now.duration_since(record.finished).unsigned_abs();
            now > record.finished && age > Duration::from_hours(24) * days
        });
        *place > 0 && [surplus, old].iter().flatten().count() > 0 && ![surplus, old].contains(&Some(false))
    };
    let mut gone: Vec<_> = own.into_iter().enumerate().filter(goes).map(|(_, record)| record).collect();
    gone.reverse();
    gone
}

#[cfg(test)]
mod tests {
    use super::super::record::tests::record;
    use super::*;

    fn gone(backups: &[Record], count: Option<usize>, days: Option<u32>) -> Vec<&str> {
        let now = "2026-01-10T00:00:00Z".parse().expect("a time");
        superfluous(backups, Keep { count, days }, now).iter().map(|r| r.name.as_str()).collect()
    }

    #[test]
    fn by_count_by_days_or_by_both() {
        let day = |day: u32| record(&format!("d{day}"), &format!("2026-01-{day:02}T12:00:00Z"));
        let backups = [day(9), day(1), day(5), day(8)];
        assert_eq!(gone(&backups, None, None), Vec::<&str>::new());
        assert_eq!(gone(&backups, Some(2), None), ["d1", "d5"]);
        assert_eq!(gone(&backups, None, Some(3)), ["d1", "d5"]);
        assert_eq!(gone(&backups, Some(3), Some(3)), ["d1"], "d5 is old, but one of three");
        assert_eq!(gone(&backups, Some(1), Some(3)), ["d1", "d5"], "d8 is surplus, but young");
    }

    #[test]
    fn the_newest_stays_whatever_its_age_and_so_does_what_is_anothers() {
        let old = |name: &str, day: u32| record(name, &format!("2020-01-{day:02}T00:00:00Z"));
        assert_eq!(gone(&[old("a", 1), old("b", 2)], Some(1), Some(1)), ["a"]);
        assert_eq!(gone(&[old("b", 2)], None, Some(1)), Vec::<&str>::new());
        let other = Record { scope: "other".to_owned(), ..old("c", 1) };
        let before = Record { system_identifier: "41".to_owned(), ..old("d", 1) };
        assert_eq!(gone(&[other, before, old("b", 2)], Some(1), None), Vec::<&str>::new());
        assert_eq!(gone(&[], Some(1), None), Vec::<&str>::new());
    }
}
