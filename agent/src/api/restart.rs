//! The body of POST `/restart` (contract 6.1). The texts are those that patronictl shows its user.

use hyper::StatusCode;
use jiff::Timestamp;
use pgvane_cluster::units;
use serde_json::{Map, Value};
use std::time::Duration;

use super::answer::Refused;
use super::schedule;
use super::snapshot::RestartAsk;
use crate::decide::restart::version_number;

/// Reads and checks it. `paused`: nothing can be scheduled then.
pub(super) fn parse(body: &Map<String, Value>, now: Timestamp, paused: bool) -> Result<RestartAsk, Refused> {
    let bad = |text: String| Refused::new(StatusCode::BAD_REQUEST, text);
    if paused && body.contains_key("schedule") {
        let text = "Can't schedule restart in the paused state";
        return Err(Refused::new(StatusCode::INTERNAL_SERVER_ERROR, text));
    }
    let mut ask = RestartAsk::default();
    for (key, value) in body {
        let text = || value.as_str().unwrap_or_default().to_owned();
        match key.as_str() {
            "schedule" => ask.schedule = Some(schedule::parse(value, "restart", now)?),
            "role" => {
                if !["primary", "standby_leader", "replica"].contains(&text().as_str()) {
                    let wrong = "PostgreSQL role should be either primary, standby_leader, or replica";
                    return Err(bad(wrong.to_owned()));
                }
                ask.filters.role = Some(text());
            }
            "postgres_version" => {
                if version_number(&text()).is_none() {
                    return Err(bad(format!("Invalid PostgreSQL version {value}: X.Y or X.Y.Z is accepted")));
                }
                ask.filters.postgres_version = Some(text());
            }
            "timeout" => {
                let wrong = || bad("Timeout should be a positive number of seconds".to_owned());
                ask.timeout = Some(seconds(value).filter(|n| *n > 0).ok_or_else(wrong)?);
            }
            // Patroni looks only for the key.
            "restart_pending" => ask.filters.restart_pending = Some(true),
            other => return Err(bad(format!("Unknown filter for the scheduled restart: {other}"))),
        }
    }
    Ok(ask)
}

fn seconds(value: &Value) -> Option<u64> {
    match value {
        Value::Number(n) => n.as_u64(),
        Value::String(text) => units::parse_duration(text, Duration::from_secs(1)).map(|d| d.as_secs()),
        Value::Null | Value::Bool(_) | Value::Array(_) | Value::Object(_) => None,
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;
    use crate::decide::restart::Filters;

    fn read(body: &Value, paused: bool) -> Result<RestartAsk, (u16, String)> {
        let now = "2026-11-25T10:00:00Z".parse().expect("a time");
        let body = body.as_object().expect("an object");
        parse(body, now, paused).map_err(|Refused(status, text)| (status.as_u16(), text))
    }

    #[test]
    fn all_that_may_be_said() {
        assert_eq!(read(&json!({}), true), Ok(RestartAsk::default()));
        let all = json!({"schedule": "2026-11-25T11:00:00Z", "role": "replica", "postgres_version": "15.8",
            "timeout": "1min", "restart_pending": true});
        let filters = Filters {
            role: Some("replica".to_owned()),
            postgres_version: Some("15.8".to_owned()),
            restart_pending: Some(true),
        };
        let schedule = Some("2026-11-25T11:00:00+00:00".to_owned());
        assert_eq!(read(&all, false), Ok(RestartAsk { schedule, filters, timeout: Some(60) }));
        assert_eq!(read(&json!({"timeout": 5}), false).map(|ask| ask.timeout), Ok(Some(5)));
    }

    #[test]
    fn what_is_wrong_is_said_in_patronis_words() {
        for (body, paused, status, text) in [
            (json!({"schedule": "soon"}), true, 500, "Can't schedule restart in the paused state"),
            (json!({"schedule": "soon"}), false, 422, "Unable to parse scheduled timestamp."),
            (json!({"schedule": "2027-01-01"}), false, 400, "Timezone information is mandatory"),
            (json!({"role": "master"}), false, 400, "PostgreSQL role should be either"),
            (json!({"role": 5}), false, 400, "PostgreSQL role should be either"),
            (json!({"postgres_version": "15"}), false, 400, "Invalid PostgreSQL version"),
            (json!({"timeout": 0}), false, 400, "Timeout should be a positive number of seconds"),
            (json!({"timeout": "long"}), false, 400, "Timeout should be a positive number of seconds"),
            (json!({"now": true}), false, 400, "Unknown filter for the scheduled restart: now"),
        ] {
            let (found, why) = read(&body, paused).expect_err("refused");
            assert!(found == status && why.starts_with(text), "{body}: {found} {why}");
        }
    }
}
