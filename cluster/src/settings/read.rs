//! Tolerant reading of the document: a wrong value keeps its default and is reported.

use std::time::Duration;

use serde_json::{Map, Value};

use crate::units;

/// A value in the dynamic configuration that was passed over; its default is in force.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct SettingWarning {
    /// Dotted path of the key.
    pub key: String,
    /// What was wrong, what is allowed, what is used instead.
    pub message: String,
}

pub(super) struct Reader<'a> {
    pub(super) map: &'a Map<String, Value>,
    pub(super) path: &'a str,
    pub(super) warnings: &'a mut Vec<SettingWarning>,
}

impl Reader<'_> {
    pub(super) fn take<T>(
        &mut self,
        keys: &[&str],
        allowed: &str,
        parse: impl Fn(&Value) -> Option<T>,
    ) -> Option<T> {
        let (key, value) =
            keys.iter().find_map(|k| self.map.get(*k).filter(|v| !v.is_null()).map(|v| (*k, v)))?;
        let parsed = parse(value);
        if parsed.is_none() {
            self.warnings.push(SettingWarning {
                key: format!("{}{key}", self.path),
                message: format!("{value} is not {allowed}; the default is used"),
            });
        }
        parsed
    }

    pub(super) fn seconds(&mut self, keys: &[&str], into: &mut Duration) {
        let parsed =
            self.take(keys, "a number of seconds or text such as \"30s\", up to \"36525d\"", |v| match v {
                Value::Number(n) => units::duration_from_secs(n.as_f64()?),
                Value::String(s) => units::parse_duration(s, Duration::from_secs(1)),
                _ => None,
            });
        *into = parsed.unwrap_or(*into);
    }

    pub(super) fn bytes(&mut self, key: &str, into: &mut u64) {
        let parsed = self.take(&[key], "a number of bytes or text such as \"1MB\"", |v| match v {
            Value::Number(n) => n.as_u64(),
            Value::String(s) => units::parse_size(s),
            _ => None,
        });
        *into = parsed.unwrap_or(*into);
    }

    pub(super) fn flag(&mut self, key: &str, into: &mut bool) {
        let parsed = self.take(&[key], "on or off", as_bool);
        *into = parsed.unwrap_or(*into);
    }
}

pub(super) fn as_bool(v: &Value) -> Option<bool> {
    match v {
        Value::Bool(b) => Some(*b),
        Value::String(s) => units::parse_bool(s),
        Value::Number(n) => n.as_u64().filter(|n| *n < 2).map(|n| n == 1),
        _ => None,
    }
}

/// A scalar as PostgreSQL's configuration file wants it; objects and arrays are not settings.
pub(super) fn parameter_text(v: &Value) -> Option<String> {
    match v {
        Value::Bool(b) => Some(if *b { "on" } else { "off" }.to_owned()),
        Value::Number(n) => Some(n.to_string()),
        Value::String(s) => Some(s.clone()),
        _ => None,
    }
}

/// A whole number, also as text.
pub(super) fn whole_number(v: &Value) -> Option<u64> {
    match v {
        Value::Number(n) => n.as_u64(),
        Value::String(s) => s.trim().parse().ok(),
        _ => None,
    }
}

/// A number of bytes that bounds something; zero stands for no bound, which negative numbers also mean.
pub(super) fn limit(v: &Value) -> Option<u64> {
    let negative = |n: i64| (n < 0).then_some(0);
    match v {
        Value::Number(n) => n.as_u64().or_else(|| n.as_i64().and_then(negative)),
        Value::String(s) => units::parse_size(s).or_else(|| s.trim().parse().ok().and_then(negative)),
        _ => None,
    }
}

/// A list of texts.
pub(super) fn texts(v: &Value) -> Option<Vec<String>> {
    v.as_array()?.iter().map(|l| l.as_str().map(str::to_owned)).collect()
}
