//! A time that an operator sets something for. The texts are those that patronictl shows its user.

use hyper::StatusCode;
use jiff::Timestamp;
use jiff::civil::DateTime;
use serde_json::Value;

use super::answer::Refused;

/// Reads the time of `action` (contract 6.4): in the future of `now` and with a zone. Answers it in UTC, in the form
/// of the store.
pub(super) fn parse(given: &Value, action: &str, now: Timestamp) -> Result<String, Refused> {
    let unreadable = || {
        let text =
            "Unable to parse scheduled timestamp. It should be in an unambiguous format, e.g. ISO 8601";
        Refused::new(StatusCode::UNPROCESSABLE_ENTITY, text)
    };
    let text = given.as_str().map(str::trim).ok_or_else(unreadable)?;
    let at: Timestamp = match text.parse() {
        Ok(at) => at,
        Err(_) if text.parse::<DateTime>().is_ok() => {
            let text = format!("Timezone information is mandatory for the scheduled {action}");
            return Err(Refused::new(StatusCode::BAD_REQUEST, text));
        }
        Err(_) => return Err(unreadable()),
    };
    if at < now {
        let text = format!("Cannot schedule {action} in the past");
        return Err(Refused::new(StatusCode::UNPROCESSABLE_ENTITY, text));
    }
    Ok(at.strftime("%Y-%m-%dT%H:%M:%S%.f+00:00").to_string())
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn times_in_the_future_with_a_zone() {
        let now = "2026-11-25T10:00:00Z".parse().expect("a time");
        for (given, expected) in [
            (json!("2026-11-25T12:30:00+02:00"), Ok("2026-11-25T10:30:00+00:00")),
            (json!("2026-11-25 10:00:00.250000+00:00"), Ok("2026-11-25T10:00:00.25+00:00")),
            (
                json!("2026-11-25T10:30"),
                Err((400, "Timezone information is mandatory for the scheduled restart")),
            ),
            (json!("2026-11-25T09:59:59Z"), Err((422, "Cannot schedule restart in the past"))),
            (json!("at noon"), Err((422, "Unable to parse scheduled timestamp."))),
            (json!(5), Err((422, "Unable to parse scheduled timestamp."))),
        ] {
            let parsed = parse(&given, "restart", now);
            match (expected, parsed) {
                (Ok(at), parsed) => assert_eq!(parsed, Ok(at.to_owned()), "{given}"),
                (Err((status, text)), Err(Refused(found, why))) => {
                    assert_eq!(found.as_u16(), status, "{given}");
                    assert!(why.starts_with(text), "{why}");
                }
                (Err(_), Ok(at)) => panic!("{given} was taken as {at}"),
            }
        }
    }
}
