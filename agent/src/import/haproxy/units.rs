//! Numbers with units as HAProxy reads them.

use std::time::Duration;

/// A time: a bare number counts milliseconds.
pub(crate) fn time(text: &str) -> Option<Duration> {
    let end = text.find(|c: char| !c.is_ascii_digit()).unwrap_or(text.len());
    let number: u64 = text[..end].parse().ok()?;
    let unit = match &text[end..] {
        "us" => return Some(Duration::from_micros(number)),
        "" | "ms" => 1,
        "s" => 1000,
        "m" => 60_000,
        "h" => 3_600_000,
        "d" => 86_400_000,
        _ => return None,
    };
    number.checked_mul(unit).map(Duration::from_millis)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn times() {
        let ms = Duration::from_millis;
        for (text, expected) in [
            ("3s", Some(ms(3000))),
            ("500", Some(ms(500))),
            ("2m", Some(ms(120_000))),
            ("100ms", Some(ms(100))),
            ("s", None),
            ("3 s", None),
            ("99999999999999999999d", None),
        ] {
            assert_eq!(time(text), expected, "{text}");
        }
    }
}
