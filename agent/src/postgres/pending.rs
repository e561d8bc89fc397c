//! Settings that wait for a restart of the server, with the value it has and the one it would get (contract 8.11).
//!
//! The server tells it of what its files say. What stands on its command line it does not know better: that is
//! compared here, and shows also where a standby had to be started with the larger values of its primary.

use std::collections::BTreeMap;

use pgvane_cluster::settings::PostgresqlSettings;
use pgvane_cluster::units::parse_bool;
use serde::{Deserialize, Serialize};

use super::{Instance, settings};

/// A setting as the running server has it: a row of pg_settings.
#[derive(Clone, PartialEq, Eq, Debug, Deserialize)]
pub struct Held {
    /// Its name.
    pub name: String,
    /// Its value as people read it.
    pub shown: String,
    /// Its value in `unit`.
    pub setting: String,
    /// What numbers count, such as `8kB`.
    pub unit: Option<String>,
    /// Whether its files say something else.
    pub pending: bool,
}

/// What a restart would change of one setting.
#[derive(Clone, PartialEq, Eq, Debug, Serialize)]
pub struct Change {
    /// The value it has.
    pub old_value: String,
    /// The value it would get; `?` where that is not known.
    pub new_value: String,
}

/// Followed by servers that recover; what they are given is the agent's business and needs no restart by hand.
fn is_for_recovery(name: &str) -> bool {
    let others = [
        "archive_cleanup_command",
        "hot_standby",
        "primary_conninfo",
        "primary_slot_name",
        "promote_trigger_file",
        "recovery_end_command",
        "recovery_min_apply_delay",
        "restore_command",
    ];
    name.starts_with("recovery_target") || others.contains(&name)
}

/// What a restart of the server would change, by setting.
pub fn changes(held: &[Held], instance: &Instance, dynamic: &PostgresqlSettings) -> BTreeMap<String, Change> {
    let controlled = settings::controlled(dynamic);
    let change = |held: &Held| {
        let wanted = controlled.get(held.name.as_str());
        let new_value = match wanted {
            Some(wanted) if is_same(&held.setting, wanted) => return None,
            Some(wanted) => human(wanted, held.unit.as_deref()),
            None if !held.pending || is_for_recovery(&held.name) => return None,
            None => {
                let own = instance.parameters.get(&held.name);
                let given = own.or_else(|| dynamic.parameters.get(&held.name));
                given.map_or_else(|| "?".to_owned(), |value| human(value, held.unit.as_deref()))
            }
        };
        Some((held.name.clone(), Change { old_value: held.shown.clone(), new_value }))
    };
    held.iter().filter_map(change).collect()
}

/// Whether a value means what the server has.
fn is_same(setting: &str, wanted: &str) -> bool {
    // The name it had before version 9.6, which Patroni still writes.
    let wanted = if wanted == "hot_standby" { "replica" } else { wanted };
    match (setting.parse::<i64>(), wanted.parse::<i64>(), parse_bool(setting), parse_bool(wanted)) {
        (Ok(a), Ok(b), ..) => a == b,
        (_, _, Some(a), Some(b)) => a == b,
        _ => setting.eq_ignore_ascii_case(wanted),
    }
}

/// A bare number with its unit, as large a one as leaves it whole; anything else as it is.
fn human(value: &str, unit: Option<&str>) -> String {
    let Some((number, unit)) = value.trim().parse::<u64>().ok().zip(unit) else { return value.to_owned() };
    let digits = unit.len() - unit.trim_start_matches(|c: char| c.is_ascii_digit()).len();
    let times = unit[..digits].parse().unwrap_or(1);
    let steps: &[(&str, u64)] = match &unit[digits..] {
        "B" => &[("B", 1024), ("kB", 1024), ("MB", 1024), ("GB", 1024), ("TB", 0)],
        "kB" => &[("kB", 1024), ("MB", 1024), ("GB", 1024), ("TB", 0)],
        "MB" => &[("MB", 1024), ("GB", 1024), ("TB", 0)],
        "ms" => &[("ms", 1000), ("s", 60), ("min", 60), ("h", 24), ("d", 0)],
        "s" => &[("s", 60), ("min", 60), ("h", 24), ("d", 0)],
        "min" => &[("min", 60), ("h", 24), ("d", 0)],
        _ => return value.to_owned(),
    };
    let Some(mut number) = number.checked_mul(times) else { return value.to_owned() };
    let mut shown = steps.first().map_or("", |(name, _)| name);
    for pair in steps.windows(2) {
        let (per, next) = (pair[0].1, pair[1].0);
        if number == 0 || !number.is_multiple_of(per) {
            break;
        }
        (number, shown) = (number / per, next);
    }
    if number == 0 { "0".to_owned() } else { format!("{number}{shown}") }
}

#[cfg(test)]
mod tests {
    use std::path::Path;

    use pgvane_cluster::settings::ClusterSettings;

    use super::*;

    fn held(name: &str, setting: &str, unit: Option<&str>, pending: bool) -> Held {
        let shown = human(setting, unit);
        Held {
            name: name.to_owned(),
            shown,
            setting: setting.to_owned(),
            unit: unit.map(str::to_owned),
            pending,
        }
    }

    fn found(held: &[Held], dynamic: &[(&str, &str)]) -> Vec<(String, String, String)> {
        let instance = settings::tests::instance(Path::new("/x"));
        let mut settings = ClusterSettings::default().postgresql;
        settings.parameters = dynamic.iter().map(|(k, v)| ((*k).to_owned(), (*v).to_owned())).collect();
        let changes = changes(held, &instance, &settings);
        changes.into_iter().map(|(name, c)| (name, c.old_value, c.new_value)).collect()
    }

    fn change(name: &str, old: &str, new: &str) -> (String, String, String) {
        (name.to_owned(), old.to_owned(), new.to_owned())
    }

    #[test]
    fn the_command_line_is_compared_with_what_is_wanted() {
        // What the file of initdb says about it does not count.
        let server = [
            held("max_connections", "200", None, true),
            held("wal_level", "replica", None, false),
            held("wal_log_hints", "on", None, false),
        ];
        assert_eq!(found(&server, &[("max_connections", "200"), ("wal_level", "hot_standby")]), []);
        // A standby that was given the larger value of its primary, or one that is to get more.
        let expected = [change("max_connections", "200", "100"), change("wal_level", "replica", "logical")];
        assert_eq!(found(&server, &[("wal_level", "logical"), ("wal_log_hints", "yes")]), expected);
        // What is not allowed is not what it would get.
        assert_eq!(found(&server, &[("max_connections", "5")]), [change("max_connections", "200", "100")]);
    }

    #[test]
    fn files_are_what_the_server_itself_compares() {
        let server = [
            held("shared_buffers", "2048", Some("8kB"), true),
            held("huge_pages", "try", None, true),
            held("wal_buffers", "512", Some("8kB"), false),
            held("recovery_target_time", "", None, true),
            held("hot_standby", "on", None, true),
        ];
        let expected = [change("huge_pages", "try", "?"), change("shared_buffers", "16MB", "32MB")];
        assert_eq!(found(&server, &[("shared_buffers", "4096")]), expected);
        let expected = [change("huge_pages", "try", "off"), change("shared_buffers", "16MB", "0.5GB")];
        assert_eq!(found(&server, &[("shared_buffers", "0.5GB"), ("huge_pages", "off")]), expected);
    }

    #[test]
    fn numbers_are_shown_with_the_largest_unit_that_leaves_them_whole() {
        for (value, unit, shown) in [
            ("16384", Some("8kB"), "128MB"),
            ("3", Some("8kB"), "24kB"),
            ("300", Some("s"), "5min"),
            ("86400000", Some("ms"), "1d"),
            ("1500", Some("ms"), "1500ms"),
            ("16777216", Some("B"), "16MB"),
            ("1024", Some("MB"), "1GB"),
            ("0", Some("kB"), "0"),
            ("100", None, "100"),
            ("64MB", Some("8kB"), "64MB"),
            ("-1", Some("8kB"), "-1"),
        ] {
            assert_eq!(human(value, unit), shown, "{value} {unit:?}");
        }
    }
}
