//! The dynamic configuration (`config`, contract section 4), read tolerantly into typed values.

mod read;
mod shape;
mod slots;
mod standby;

use std::collections::BTreeMap;
use std::time::Duration;

use schemars::JsonSchema;
use serde_json::{Map, Value};

pub use self::read::SettingWarning;
use self::read::{Reader, as_bool, parameter_text, texts};
use self::shape::{Bytes, Count, Flag, Matchers, Mode, Parameters, Seconds, Slots};
pub use self::slots::{PermanentSlot, SlotKind, SlotMatcher, SlotsOn};
pub use self::standby::StandbyCluster;
use crate::units;

/// Smallest lease time etcd itself keeps with its default election timeout.
pub const MIN_TTL: Duration = Duration::from_secs(2);

/// Smallest lease time while a Patroni daemon is a member: Patroni raises less to this.
pub const PATRONI_MIN_TTL: Duration = Duration::from_secs(20);

/// The dynamic configuration: what the cluster as a whole is told, in etcd, with defaults filled in.
///
/// Read tolerantly: a wrong value is reported and its default is in force; keys that are not known are other tools'.
#[derive(Clone, PartialEq, Debug, JsonSchema)]
#[schemars(default)]
pub struct ClusterSettings {
    /// Lease time of the leader and member keys: how long a machine that died may hold the leadership. 2 s and more;
    /// 20 s where a Patroni daemon is a member.
    #[schemars(with = "Seconds", extend("default" = ClusterSettings::default().ttl.as_secs()))]
    pub ttl: Duration,
    /// The slow tick, a safety net only.
    #[schemars(with = "Seconds", extend("default" = ClusterSettings::default().loop_wait.as_secs()))]
    pub loop_wait: Duration,
    /// Patroni's deadline for retries; kept for its members.
    #[schemars(with = "Seconds", extend("default" = ClusterSettings::default().retry_timeout.as_secs()))]
    pub retry_timeout: Duration,
    /// How many bytes a candidate may be behind the last known position of the leader.
    #[schemars(with = "Bytes")]
    pub maximum_lag_on_failover: u64,
    /// Whether candidates on an older timeline than the cluster's are refused.
    #[schemars(with = "Flag")]
    pub check_timeline: bool,
    /// How long a crashed primary may take to come back before others may lead; 0: fail over at once.
    #[schemars(with = "Seconds", extend("default" = ClusterSettings::default().primary_start_timeout.as_secs()))]
    pub primary_start_timeout: Duration,
    /// How long a stop of the primary may take in synchronous mode before it is made harder; 0: no bound.
    #[schemars(with = "Seconds", extend("default" = ClusterSettings::default().primary_stop_timeout.as_secs()))]
    pub primary_stop_timeout: Duration,
    /// How long candidates wait for WAL that is still being received; 0: not at all.
    #[schemars(with = "Seconds", extend("default" = ClusterSettings::default().primary_race_backoff.as_secs()))]
    pub primary_race_backoff: Duration,
    /// Whether nothing may be started, stopped, promoted or demoted by itself. `pgvanectl pause` sets it.
    #[schemars(with = "Flag")]
    pub pause: bool,
    /// Whether members vouch for the leader while the store is gone.
    #[schemars(with = "Flag")]
    pub failsafe_mode: bool,
    /// Whether commits wait for standbys: not at all, for those that are named, or for as many of all as are asked
    /// for.
    #[schemars(with = "Mode", extend("default" = "off"))]
    pub synchronous_mode: SynchronousMode,
    /// Whether commits wait even while no standby could confirm them.
    #[schemars(with = "Flag")]
    pub synchronous_mode_strict: bool,
    /// How many standbys commits wait for, at least 1.
    #[schemars(with = "Count")]
    pub synchronous_node_count: u32,
    /// A synchronous standby further behind than this many bytes is replaced; -1: never.
    #[schemars(with = "Bytes", extend("default" = -1))]
    pub maximum_lag_on_syncnode: Option<u64>,
    /// How long a member's slot outlives its record.
    #[schemars(with = "Seconds", extend("default" = ClusterSettings::default().member_slots_ttl.as_secs()))]
    pub member_slots_ttl: Duration,
    /// Entries kept in `history`; 0 keeps all.
    #[schemars(with = "Count")]
    pub max_timelines_history: usize,
    /// Slots that exist on every member that may lead, by name: `type` (`physical`, `logical`), `database` and
    /// `plugin` of a logical one, `cluster_type`.
    #[schemars(with = "Slots")]
    pub slots: BTreeMap<String, PermanentSlot>,
    /// Slots that are nobody's here to drop: lists of `name`, `type`, `database`, `plugin`, all of which must agree.
    #[schemars(with = "Matchers")]
    pub ignore_slots: Vec<SlotMatcher>,
    /// What this cluster follows as a whole; without it, it has a primary of its own.
    pub standby_cluster: Option<StandbyCluster>,
    /// PostgreSQL on all members.
    pub postgresql: PostgresqlSettings,
}

/// PostgreSQL on all members.
#[derive(Clone, PartialEq, Debug, JsonSchema)]
#[schemars(default)]
pub struct PostgresqlSettings {
    /// Whether members get replication slots.
    #[schemars(with = "Flag")]
    pub use_slots: bool,
    /// Whether a diverged member is rewound rather than cloned again.
    #[schemars(with = "Flag")]
    pub use_pg_rewind: bool,
    /// Whether a rewind that failed ends in a new clone.
    #[schemars(with = "Flag")]
    pub remove_data_directory_on_rewind_failure: bool,
    /// Whether a diverged member that cannot be rewound is cloned again.
    #[schemars(with = "Flag")]
    pub remove_data_directory_on_diverged_timelines: bool,
    /// PostgreSQL's parameters.
    #[schemars(with = "Parameters")]
    pub parameters: BTreeMap<String, String>,
    /// Lines that replace `pg_hba.conf`, where given.
    pub pg_hba: Option<Vec<String>>,
    /// Lines that replace `pg_ident.conf`, where given.
    pub pg_ident: Option<Vec<String>>,
    /// Recovery parameters, without those that are the agent's own.
    #[schemars(with = "Parameters")]
    pub recovery_conf: BTreeMap<String, String>,
}

/// Whether commits wait for standbys (contract 8.8).
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub enum SynchronousMode {
    /// They do not.
    #[default]
    Off,
    /// For those that are named.
    On,
    /// For as many of all as are asked for.
    Quorum,
}

impl SynchronousMode {
    /// Whether commits wait at all.
    pub fn is_on(self) -> bool {
        self != SynchronousMode::Off
    }
}

/// Recovery parameters that the agent gives: in `recovery_conf` and `parameters` they are passed over (contract
/// section 4).
pub fn is_own_recovery_parameter(name: &str) -> bool {
    name.starts_with("recovery_target") || ["primary_conninfo", "primary_slot_name"].contains(&name)
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
            synchronous_mode: SynchronousMode::Off,
            synchronous_mode_strict: false,
            synchronous_node_count: 1,
            maximum_lag_on_syncnode: None,
            primary_stop_timeout: Duration::ZERO,
            primary_race_backoff: Duration::ZERO,
            member_slots_ttl: Duration::from_mins(30),
            max_timelines_history: 0,
            slots: BTreeMap::new(),
            ignore_slots: vec![],
            standby_cluster: None,
            postgresql: PostgresqlSettings::default(),
        }
    }
}

impl Default for PostgresqlSettings {
    fn default() -> PostgresqlSettings {
        PostgresqlSettings {
            use_slots: true,
            use_pg_rewind: false,
            remove_data_directory_on_rewind_failure: false,
            remove_data_directory_on_diverged_timelines: false,
            parameters: BTreeMap::new(),
            pg_hba: None,
            pg_ident: None,
            recovery_conf: BTreeMap::new(),
        }
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
        r.seconds(&["primary_stop_timeout", "master_stop_timeout"], &mut settings.primary_stop_timeout);
        r.seconds(&["primary_race_backoff"], &mut settings.primary_race_backoff);
        r.seconds(&["member_slots_ttl"], &mut settings.member_slots_ttl);
        r.bytes("maximum_lag_on_failover", &mut settings.maximum_lag_on_failover);
        r.flag("check_timeline", &mut settings.check_timeline);
        r.flag("pause", &mut settings.pause);
        r.flag("failsafe_mode", &mut settings.failsafe_mode);
        let mode = r.take(&["synchronous_mode"], "on, off or quorum", |v| match v.as_str() {
            Some(text) if text.eq_ignore_ascii_case("quorum") => Some(SynchronousMode::Quorum),
            Some(_) | None => {
                as_bool(v).map(|on| if on { SynchronousMode::On } else { SynchronousMode::Off })
            }
        });
        settings.synchronous_mode = mode.unwrap_or_default();
        r.flag("synchronous_mode_strict", &mut settings.synchronous_mode_strict);
        let count = r.take(&["synchronous_node_count"], "a whole number from 1", |v| {
            read::whole_number(v).and_then(|n| u32::try_from(n).ok()).filter(|n| *n > 0)
        });
        settings.synchronous_node_count = count.unwrap_or(1);
        let lag = r.take(&["maximum_lag_on_syncnode"], "a number of bytes, or -1 for none", read::limit);
        settings.maximum_lag_on_syncnode = lag.filter(|bytes| *bytes > 0);
        let entries = r.take(&["max_timelines_history"], "a whole number", |v| {
            read::whole_number(v).and_then(|n| usize::try_from(n).ok())
        });
        settings.max_timelines_history = entries.unwrap_or(0);
        settings.slots = slots::permanent(&mut r);
        settings.ignore_slots = slots::ignored(&mut r);
        settings.standby_cluster = standby::read(map, &mut warnings);
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
        self.pg_hba = r.take(&["pg_hba"], "a list of lines", texts);
        self.pg_ident = r.take(&["pg_ident"], "a list of lines", texts);
        self.parameters = parameters(section, "parameters", warnings);
        self.recovery_conf = parameters(section, "recovery_conf", warnings);
        self.recovery_conf.retain(|name, _| !is_own_recovery_parameter(name));
    }
}

/// The parameters in a subsection, as text.
fn parameters(
    section: &Map<String, Value>,
    key: &str,
    warnings: &mut Vec<SettingWarning>,
) -> BTreeMap<String, String> {
    let Some(Value::Object(map)) = section.get(key) else { return BTreeMap::new() };
    let path = format!("postgresql.{key}.");
    let mut r = Reader { map, path: &path, warnings };
    let read =
        |name: &String| Some((name.clone(), r.take(&[name], "text, a number, on or off", parameter_text)?));
    map.keys().filter_map(read).collect()
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
        assert!(s.pause && s.postgresql.use_pg_rewind);
        assert_eq!(s.synchronous_mode, SynchronousMode::Quorum);
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
