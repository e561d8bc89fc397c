//! The dynamic configuration (`config`, contract section 4), read tolerantly into typed values.

use std::collections::BTreeMap;
use std::time::Duration;

use serde_json::{Map, Value};

use crate::units;

/// Smallest lease time etcd itself keeps with its default election timeout.
pub const MIN_TTL: Duration = Duration::from_secs(2);

/// Smallest lease time while a Patroni daemon is a member: Patroni raises less to this.
pub const PATRONI_MIN_TTL: Duration = Duration::from_secs(20);

/// What the cluster as a whole has been told, with defaults filled in.
#[derive(Clone, PartialEq, Debug)]
pub struct ClusterSettings {
    /// Lease time of the leader and member keys.
    pub ttl: Duration,
    /// The slow tick, a safety net only.
    pub loop_wait: Duration,
    /// Patroni's deadline for retries; kept for its members.
    pub retry_timeout: Duration,
    /// How many bytes a candidate may be behind the last known position of the leader.
    pub maximum_lag_on_failover: u64,
    /// Whether candidates on an older timeline than the cluster's are refused.
    pub check_timeline: bool,
    /// How long a crashed primary may take to come back before others may lead; zero: fail over at once.
    pub primary_start_timeout: Duration,
    /// Whether nothing may be started, stopped, promoted or demoted by itself.
    pub pause: bool,
    /// Whether members vouch for the leader while the store is gone.
    pub failsafe_mode: bool,
    /// Whether commits wait for a standby.
    pub synchronous_mode: bool,
    /// How long a member's slot outlives its record.
    pub member_slots_ttl: Duration,
    /// Entries kept in `history`; 0 keeps all.
    pub max_timelines_history: usize,
    /// Whether this is a standby cluster (`standby_cluster` present and active).
    pub standby_cluster: bool,
    /// `postgresql.*`.
    pub postgresql: PostgresqlSettings,
}

/// The `postgresql` section of the dynamic configuration.
#[derive(Clone, PartialEq, Debug)]
pub struct PostgresqlSettings {
    /// Whether members get replication slots.
    pub use_slots: bool,
    /// Whether a diverged member is rewound rather than cloned again.
    pub use_pg_rewind: bool,
    /// Whether a rewind that failed ends in a new clone.
    pub remove_data_directory_on_rewind_failure: bool,
    /// Whether a diverged member that cannot be rewound is cloned again.
    pub remove_data_directory_on_diverged_timelines: bool,
    /// PostgreSQL parameters, as text.
    pub parameters: BTreeMap<String, String>,
    /// Lines that replace pg_hba.conf, where given.
    pub pg_hba: Option<Vec<String>>,
}

impl Default for ClusterSettings {
    fn default() -> ClusterSettings {
        ClusterSettings {
            ttl: Duration::from_secs(30),
            loop_wait: Duration::from_secs(10),
            retry_timeout: Duration::from_secs(10),
            maximum_lag_on_failover: 1_048_576,
            check_timeline: false,
            primary_start_timeout: Duration::from_mins(5),
            pause: false,
            failsafe_mode: false,
            synchronous_mode: false,
            member_slots_ttl: Duration::from_mins(30),
            max_timelines_history: 0,
            standby_cluster: false,
            postgresql: PostgresqlSettings {
                use_slots: true,
                use_pg_rewind: false,
                remove_data_directory_on_rewind_failure: false,
                remove_data_directory_on_diverged_timelines: false,
                parameters: BTreeMap::new(),
                pg_hba: None,
            },
        }
    }
}

/// A value in the dynamic configuration that was passed over; its default is in force.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct SettingWarning {
    /// Dotted path of the key.
    pub key: String,
    /// What was wrong, what is allowed, what is used instead.
    pub message: String,
}

struct Reader<'a> {
    map: &'a Map<String, Value>,
    path: &'a str,
    warnings: &'a mut Vec<SettingWarning>,
}

impl Reader<'_> {
    fn take<T>(&mut self, keys: &[&str], allowed: &str, parse: impl Fn(&Value) -> Option<T>) -> Option<T> {
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

    fn seconds(&mut self, keys: &[&str], into: &mut Duration) {
        let parsed =
            self.take(keys, "a number of seconds or text such as \"30s\", up to \"36525d\"", |v| match v {
                Value::Number(n) => units::duration_from_secs(n.as_f64()?),
                Value::String(s) => units::parse_duration(s, Duration::from_secs(1)),
                _ => None,
            });
        *into = parsed.unwrap_or(*into);
    }

    fn bytes(&mut self, key: &str, into: &mut u64) {
        let parsed = self.take(&[key], "a number of bytes or text such as \"1MB\"", |v| match v {
            Value::Number(n) => n.as_u64(),
            Value::String(s) => units::parse_size(s),
            _ => None,
        });
        *into = parsed.unwrap_or(*into);
    }

    fn flag(&mut self, key: &str, into: &mut bool) {
        let parsed = self.take(&[key], "on or off", as_bool);
        *into = parsed.unwrap_or(*into);
    }
}

fn as_bool(v: &Value) -> Option<bool> {
    match v {
        Value::Bool(b) => Some(*b),
        Value::String(s) => units::parse_bool(s),
        Value::Number(n) => n.as_u64().filter(|n| *n < 2).map(|n| n == 1),
        _ => None,
    }
}

/// A scalar as PostgreSQL's configuration file wants it; objects and arrays are not settings.
fn parameter_text(v: &Value) -> Option<String> {
    match v {
        Value::Bool(b) => Some(if *b { "on" } else { "off" }.to_owned()),
        Value::Number(n) => Some(n.to_string()),
        Value::String(s) => Some(s.clone()),
        _ => None,
    }
}

impl ClusterSettings {
    /// Reads the document. Wrong values keep their defaults and are reported; unknown keys are other tools'
    /// business and are ignored.
    pub fn from_json(document: &Value) -> (ClusterSettings, Vec<SettingWarning>) {
        let mut settings = ClusterSettings::default();
        let mut warnings = Vec::new();
        let Value::Object(map) = document else {
            let message = "the document is not an object; all defaults are used".to_owned();
            warnings.push(SettingWarning { key: "config".to_owned(), message });
            return (settings, warnings);
        };
        let mut r = Reader { map, path: "", warnings: &mut warnings };
        r.seconds(&["ttl"], &mut settings.ttl);
        r.seconds(&["loop_wait"], &mut settings.loop_wait);
        r.seconds(&["retry_timeout"], &mut settings.retry_timeout);
        r.seconds(&["primary_start_timeout", "master_start_timeout"], &mut settings.primary_start_timeout);
        r.seconds(&["member_slots_ttl"], &mut settings.member_slots_ttl);
        r.bytes("maximum_lag_on_failover", &mut settings.maximum_lag_on_failover);
        r.flag("check_timeline", &mut settings.check_timeline);
        r.flag("pause", &mut settings.pause);
        r.flag("failsafe_mode", &mut settings.failsafe_mode);
        let sync = r.take(&["synchronous_mode"], "on, off or quorum", |v| {
            if v.as_str().is_some_and(|s| s.eq_ignore_ascii_case("quorum")) { Some(true) } else { as_bool(v) }
        });
        settings.synchronous_mode = sync.unwrap_or(false);
        let entries = r.take(&["max_timelines_history"], "a whole number", |v| {
            v.as_u64().and_then(|n| usize::try_from(n).ok())
        });
        settings.max_timelines_history = entries.unwrap_or(0);
        settings.standby_cluster = map.get("standby_cluster").and_then(Value::as_object).is_some_and(|s| {
            ["host", "port", "restore_command"].iter().any(|k| s.get(*k).is_some_and(|v| !v.is_null()))
        });
        if settings.ttl < MIN_TTL {
            warnings.push(SettingWarning {
                key: "ttl".to_owned(),
                message: format!(
                    "{} is below etcd's own floor of 2s; that is used",
                    units::show_duration(settings.ttl)
                ),
            });
            settings.ttl = MIN_TTL;
        }
        if let Some(Value::Object(section)) = map.get("postgresql") {
            settings.postgresql.read(section, &mut warnings);
        }
        (settings, warnings)
    }
}

impl PostgresqlSettings {
    fn read(&mut self, section: &Map<String, Value>, warnings: &mut Vec<SettingWarning>) {
        let mut r = Reader { map: section, path: "postgresql.", warnings };
        r.flag("use_slots", &mut self.use_slots);
        r.flag("use_pg_rewind", &mut self.use_pg_rewind);
        let on_failure = &mut self.remove_data_directory_on_rewind_failure;
        r.flag("remove_data_directory_on_rewind_failure", on_failure);
        let on_diverged = &mut self.remove_data_directory_on_diverged_timelines;
        r.flag("remove_data_directory_on_diverged_timelines", on_diverged);
        self.pg_hba = r.take(&["pg_hba"], "a list of lines", |v| {
            v.as_array()?.iter().map(|l| l.as_str().map(str::to_owned)).collect()
        });
        if let Some(Value::Object(parameters)) = section.get("parameters") {
            let mut r = Reader { map: parameters, path: "postgresql.parameters.", warnings };
            for name in parameters.keys() {
                if let Some(text) = r.take(&[name], "text, a number, on or off", parameter_text) {
                    self.parameters.insert(name.clone(), text);
                }
            }
        }
    }
}

/// Applies a JSON merge patch as `PATCH /config` does: objects merge, `null` deletes, all else replaces.
pub fn merge_patch(document: &mut Value, patch: &Value) {
    let Value::Object(patch) = patch else {
        *document = patch.clone();
        return;
    };
    if !document.is_object() {
        *document = Value::Object(Map::new());
    }
    if let Value::Object(target) = document {
        for (key, value) in patch {
            if value.is_null() {
                target.remove(key);
            } else {
                merge_patch(target.entry(key.clone()).or_insert(Value::Null), value);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn patroni_documents_read_with_strings_and_units() {
        let (s, warnings) = ClusterSettings::from_json(&json!({
            "ttl": "20s", "loop_wait": 5, "maximum_lag_on_failover": "1MB", "pause": "on",
            "master_start_timeout": 0, "synchronous_mode": "quorum",
            "postgresql": {"use_pg_rewind": true, "parameters": {"max_connections": 200, "hot_standby": true}}
        }));
        assert_eq!(warnings, vec![]);
        assert_eq!(s.ttl, Duration::from_secs(20));
        assert_eq!(s.maximum_lag_on_failover, 1 << 20);
        assert!(s.pause && s.synchronous_mode && s.postgresql.use_pg_rewind);
        assert_eq!(s.primary_start_timeout, Duration::ZERO);
        assert_eq!(s.postgresql.parameters["max_connections"], "200");
        assert_eq!(s.postgresql.parameters["hot_standby"], "on");
    }

    #[test]
    fn wrong_values_keep_defaults_and_are_named() {
        let (s, warnings) = ClusterSettings::from_json(&json!({"ttl": "soon", "pause": [], "loop_wait": -3}));
        assert_eq!(s, ClusterSettings::default());
        let keys: Vec<_> = warnings.iter().map(|w| w.key.as_str()).collect();
        assert_eq!(keys, ["ttl", "loop_wait", "pause"]);
        assert_eq!(ClusterSettings::from_json(&json!([])).1.len(), 1);
    }

    #[test]
    fn nobody_means_a_thousand_years() {
        let document = json!({"ttl": 31_557_600_000_u64, "loop_wait": u64::MAX, "retry_timeout": "400000d"});
        let (s, warnings) = ClusterSettings::from_json(&document);
        assert_eq!((s, warnings.len()), (ClusterSettings::default(), 3));
    }

    #[test]
    fn merge_patch_follows_the_contract() {
        let mut doc = json!({"a": {"b": 1, "c": 2}, "d": [1, 2]});
        merge_patch(&mut doc, &json!({"a": {"b": null, "e": 3}, "d": [9], "x": {"y": null}}));
        assert_eq!(doc, json!({"a": {"c": 2, "e": 3}, "d": [9], "x": {}}));
    }
}
