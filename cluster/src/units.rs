//! Values with units as operators write them: `30s`, `1min`, `16MB`, `on`.

use std::time::Duration;

/// Longest duration that is taken, a hundred years: deadlines are sums of settings, and sums must not overflow.
pub const MAX_DURATION: Duration = Duration::from_hours(36_525 * 24);

/// Booleans as PostgreSQL and Patroni take them, in any case: on/true/yes/1 and off/false/no/0.
pub fn parse_bool(text: &str) -> Option<bool> {
    match text.trim().to_ascii_lowercase().as_str() {
        "on" | "true" | "yes" | "1" => Some(true),
        "off" | "false" | "no" | "0" => Some(false),
        _ => None,
    }
}

fn split_number(text: &str) -> Option<(f64, &str)> {
    let text = text.trim();
    let end = text.find(|c: char| !c.is_ascii_digit() && c != '.').unwrap_or(text.len());
    let number: f64 = text[..end].parse().ok()?;
    number.is_finite().then_some((number, text[end..].trim()))
}

/// A duration with a unit (`us`, `ms`, `s`, `min`, `h`, `d`); a bare number counts `default_unit`.
pub fn parse_duration(text: &str, default_unit: Duration) -> Option<Duration> {
    let (number, unit) = split_number(text)?;
    let unit = match unit {
        "" => default_unit,
        "us" => Duration::from_micros(1),
        "ms" => Duration::from_millis(1),
        "s" => Duration::from_secs(1),
        "min" | "m" => Duration::from_mins(1),
        "h" => Duration::from_hours(1),
        "d" => Duration::from_hours(24),
        _ => return None,
    };
    duration_from_secs(number * unit.as_secs_f64())
}

/// A duration of so many seconds, up to [`MAX_DURATION`].
pub fn duration_from_secs(seconds: f64) -> Option<Duration> {
    Duration::try_from_secs_f64(seconds).ok().filter(|d| *d <= MAX_DURATION)
}

/// A size in bytes with a unit (`B`, `kB`, `MB`, `GB`, `TB`, each 1024 times the one before, as in
/// PostgreSQL); a bare number counts bytes.
pub fn parse_size(text: &str) -> Option<u64> {
    let (number, unit) = split_number(text)?;
    let power = match unit.to_ascii_lowercase().as_str() {
        "" | "b" => 0,
        "kb" => 1,
        "mb" => 2,
        "gb" => 3,
        "tb" => 4,
        _ => return None,
    };
    let bytes = number * 1024_f64.powi(power);
    // Beyond 2^53 bytes a float is no longer exact, and nobody means it.
    #[expect(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "the range is checked")]
    (0.0..9.0e15).contains(&bytes).then_some(bytes as u64)
}

/// A duration in the shortest exact form, for messages: `250ms`, `3s`, `2.5s`.
pub fn show_duration(d: Duration) -> String {
    if d.is_zero() {
        "0s".to_owned()
    } else if d < Duration::from_secs(1) {
        format!("{}ms", d.as_secs_f64() * 1000.0)
    } else {
        format!("{}s", d.as_secs_f64())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn durations() {
        let s = Duration::from_secs(1);
        assert_eq!(parse_duration("3", s), Some(3 * s));
        assert_eq!(parse_duration("250ms", s), Some(Duration::from_millis(250)));
        assert_eq!(parse_duration("30min", s), Some(1800 * s));
        assert_eq!(parse_duration("1.5s", s), Some(Duration::from_millis(1500)));
        assert_eq!(parse_duration("36525d", s), Some(MAX_DURATION));
        for bad in ["", "s", "-3s", "3 weeks", "1e400s", "36526d", "18446744073709551615"] {
            assert_eq!(parse_duration(bad, s), None, "{bad}");
        }
        assert_eq!(show_duration(Duration::from_millis(250)), "250ms");
        assert_eq!(show_duration(Duration::from_millis(2500)), "2.5s");
    }

    #[test]
    fn sizes() {
        assert_eq!(parse_size("16MB"), Some(16 << 20));
        assert_eq!(parse_size("2 GB"), Some(2 << 30));
        assert_eq!(parse_size("1TB"), Some(1 << 40));
        assert_eq!(parse_size("8kB"), Some(8192));
        assert_eq!(parse_size("100"), Some(100));
        assert_eq!(parse_size("100 parsecs"), None);
    }
}
