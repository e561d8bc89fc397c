//! Times as operators write them.

use jiff::civil::{DateTime, Time};
use jiff::tz::TimeZone;
use jiff::{Timestamp, ZonedDateTime};

use crate::{Failed, fail};

/// Reads a time in the future: with a zone (`2027-01-01T03:00:00Z`), without one in this host's zone
/// (`2027-01-01 03:00`), or the next such time of the day (`03:00`); as text with a zone, the form agents take.
/// `now` is `None`.
pub(crate) fn parse(text: &str, now: &ZonedDateTime) -> Result<Option<String>, Failed> {
    let text = text.trim();
    if text.eq_ignore_ascii_case("now") {
        return Ok(None);
    }
    let Some(at) = instant(text, now) else {
        return fail(format!(
            "{text:?} is not a time: write 2027-01-01T03:00:00Z, \"2027-01-01 03:00\" or 03:00 in this host's time, or now"
        ));
    };
    if at <= now.timestamp() {
        return fail(format!("{text:?} has passed"));
    }
    Ok(Some(at.strftime("%Y-%m-%dT%H:%M:%S+00:00").to_string()))
}

/// The same, in the past too; `None`: it is no time.
pub(crate) fn instant(text: &str, now: &ZonedDateTime) -> Option<Timestamp> {
    if let Ok(at) = text.parse::<Timestamp>() {
        return Some(at);
    }
    let zone: &TimeZone = now.time_zone();
    if let Ok(time) = text.parse::<Time>()
        // It would take the time out of a date as well.
        && text.contains(':')
        && !text.contains('-')
    {
        let today = now.date().to_datetime(time).to_zoned_datetime(zone.clone()).ok()?;
        let next = if today > *now {
            today
        } else {
            now.date().tomorrow().ok()?.to_datetime(time).to_zoned_datetime(zone.clone()).ok()?
        };
        return Some(next.timestamp());
    }
    Some(text.parse::<DateTime>().ok()?.to_zoned_datetime(zone.clone()).ok()?.timestamp())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn times_with_and_without_zone_and_of_the_day() {
        let now: ZonedDateTime = "2026-11-26T12:00:00+01:00[Europe/Paris]".parse().expect("a time");
        let read = |text: &str| parse(text, &now).map_err(|Failed(why)| why);
        assert_eq!(read("now"), Ok(None));
        for (text, utc) in [
            ("2027-01-01T03:00:00Z", "2027-01-01T03:00:00+00:00"),
            ("2027-01-01T03:00:00+02:00", "2027-01-01T01:00:00+00:00"),
            ("2027-01-01 03:00", "2027-01-01T02:00:00+00:00"),
            ("13:00", "2026-11-26T12:00:00+00:00"),
            ("03:00", "2026-11-27T02:00:00+00:00"),
        ] {
            assert_eq!(read(text), Ok(Some(utc.to_owned())), "{text}");
        }
        assert_eq!(read("2026-11-26T10:00:00Z"), Err("\"2026-11-26T10:00:00Z\" has passed".to_owned()));
        for bad in ["", "soon", "25:00", "2026-13-01T00:00Z", "7"] {
            assert!(read(bad).expect_err("refused").contains("is not a time"), "{bad}");
        }
    }
}
