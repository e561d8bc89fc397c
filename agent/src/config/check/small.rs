//! The sections that are a few words each: tags, timing, watchdog.

use std::time::Duration;

use pgvane_cluster::records::Tags;
use pgvane_cluster::settings_file::Spanned;
use pgvane_cluster::units;
use serde_json::Value;

use super::super::raw::{RawTiming, RawValues, RawWatchdog};
use super::super::{Watchdog, WatchdogMode};
use super::restapi::one_of;
use super::{Check, Checked};
use crate::timing::{MAX_CLOCK_DRIFT_PPM, TimingOverrides};

pub(super) fn tags(raw: &RawValues, cx: &Check<'_>) -> Checked<Tags> {
    let mut tags = Tags::default();
    for (name, value) in raw {
        let json = value.get_ref();
        let (fits, expected) = match name.as_str() {
            "nofailover" | "noloadbalance" | "clonefrom" | "nosync" | "nostream" => {
                (json.is_boolean(), "true or false")
            }
            "failover_priority" | "sync_priority" => (json.is_i64(), "a whole number"),
            "replicatefrom" => (json.is_string(), "the name of a member"),
            // Objects and lists of a patroni.yml are published as they are.
            _ => (cx.is_patroni() || !json.is_object() && !json.is_array(), "text, a number, true or false"),
        };
        if !fits {
            return cx.wrong(value, &format!("tags.{name}"), format!("{expected} is expected, not {json}"));
        }
        tags.0.insert(name.clone(), json.clone());
    }
    // A flag that is off is not published (contract 1.1), unless it says so beside a priority, which it beats.
    let beside = |name: &str| match name {
        "nofailover" => raw.contains_key("failover_priority"),
        "nosync" => raw.contains_key("sync_priority"),
        _ => false,
    };
    let flags = ["nofailover", "noloadbalance", "clonefrom", "nosync", "nostream"];
    tags.0.retain(|name, value| {
        !flags.contains(&name.as_str()) || *value != Value::Bool(false) || beside(name)
    });
    Ok(tags)
}

pub(super) fn timing(raw: &RawTiming, cx: &Check<'_>) -> Checked<TimingOverrides> {
    let least = Duration::from_millis(10);
    for (name, span) in [
        ("renew_interval", &raw.renew_interval),
        ("stop_budget", &raw.stop_budget),
        ("guard_budget", &raw.guard_budget),
    ] {
        if let Some(span) = span
            && span.get_ref().0 < least
        {
            return cx.wrong(span, &format!("timing.{name}"), "at least 10ms is needed");
        }
    }
    if let Some(ppm) = &raw.clock_drift_ppm
        && *ppm.get_ref() > MAX_CLOCK_DRIFT_PPM
    {
        let why = format!("at most {MAX_CLOCK_DRIFT_PPM} is allowed");
        return cx.wrong(ppm, "timing.clock_drift_ppm", why);
    }
    Ok(TimingOverrides {
        renew_interval: raw.renew_interval.as_ref().map(|s| s.get_ref().0),
        stop_budget: raw.stop_budget.as_ref().map(|s| s.get_ref().0),
        guard_budget: raw.guard_budget.as_ref().map(|s| s.get_ref().0),
        clock_drift_ppm: raw.clock_drift_ppm.as_ref().map(|p| *p.get_ref()),
    })
}

pub(super) fn watchdog(raw: RawWatchdog, cx: &Check<'_>) -> Checked<Watchdog> {
    let default = Watchdog::default();
    let modes: &[(&str, WatchdogMode)] = &[
        ("off", WatchdogMode::Off),
        ("automatic", WatchdogMode::Automatic),
        ("required", WatchdogMode::Required),
        // Patroni's other words.
        ("auto", WatchdogMode::Automatic),
        ("require", WatchdogMode::Required),
        ("disabled", WatchdogMode::Off),
        ("disable", WatchdogMode::Off),
        ("false", WatchdogMode::Off),
        ("no", WatchdogMode::Off),
    ];
    let allowed = if cx.is_patroni() { modes } else { &modes[..3] };
    let mode = match &raw.mode {
        Some(_) => one_of(raw.mode.as_ref(), "watchdog.mode", allowed, cx)?,
        None if cx.is_patroni() => WatchdogMode::Automatic,
        None => default.mode,
    };
    let safety_margin = match &raw.safety_margin {
        None => default.safety_margin,
        Some(value) => margin(value, cx)?,
    };
    let drivers = [("default", false), ("testing", true)];
    Ok(Watchdog {
        mode,
        device: raw.device.map_or(default.device, |path| cx.path(&path)),
        safety_margin,
        testing: one_of(raw.driver.as_ref(), "watchdog.driver", &drivers, cx)?,
    })
}

/// -1 means half of the lease time.
fn margin(raw: &Spanned<Value>, cx: &Check<'_>) -> Checked<Option<Duration>> {
    let seconds = match raw.get_ref() {
        Value::Number(n) if n.as_i64() == Some(-1) => return Ok(None),
        Value::Number(n) => n.as_f64().and_then(units::duration_from_secs),
        Value::String(text) if text.trim() == "-1" => return Ok(None),
        Value::String(text) => units::parse_duration(text, Duration::from_secs(1)),
        Value::Null | Value::Bool(_) | Value::Array(_) | Value::Object(_) => None,
    };
    match seconds {
        Some(seconds) => Ok(Some(seconds)),
        None => {
            let why =
                format!("{} is neither seconds such as 5 or \"5s\", nor -1 for half of ttl", raw.get_ref());
            cx.wrong(raw, "watchdog.safety_margin", why)
        }
    }
}
