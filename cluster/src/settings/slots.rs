//! Permanent and ignored replication slots (contract section 4).

use std::collections::BTreeMap;

use serde_json::{Map, Value};

use super::read::Reader;

/// A slot that exists on every member that may lead.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct PermanentSlot {
    /// What it keeps WAL for.
    pub kind: SlotKind,
    /// In which kind of cluster it exists.
    pub on: SlotsOn,
}

/// What a slot keeps WAL for.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum SlotKind {
    /// A standby or a receiver of WAL.
    Physical,
    /// A subscriber.
    Logical {
        /// The database it decodes.
        database: String,
        /// The output plugin.
        plugin: String,
    },
}

/// `cluster_type`: in which kind of cluster a slot exists.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum SlotsOn {
    /// In both.
    Any,
    /// In one with a primary of its own.
    Primary,
    /// In a standby cluster.
    Standby,
}

/// A slot is ignored when every field that is given agrees.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct SlotMatcher {
    /// Its name.
    pub name: Option<String>,
    /// `physical` or `logical`.
    pub kind: Option<String>,
    /// Its database.
    pub database: Option<String>,
    /// Its output plugin.
    pub plugin: Option<String>,
}

impl SlotMatcher {
    /// Whether a slot is one of those meant; `logical` tells database and plugin.
    pub fn matches(&self, name: &str, logical: Option<(&str, &str)>) -> bool {
        let agrees = |wanted: &Option<String>, is: Option<&str>| {
            wanted.as_deref().is_none_or(|wanted| is == Some(wanted))
        };
        agrees(&self.name, Some(name))
            && agrees(&self.kind, Some(if logical.is_some() { "logical" } else { "physical" }))
            && agrees(&self.database, logical.map(|(database, _)| database))
            && agrees(&self.plugin, logical.map(|(_, plugin)| plugin))
    }
}

/// Whether PostgreSQL takes `name` for a slot.
fn is_name(name: &str) -> bool {
    (1..=63).contains(&name.len())
        && name.bytes().all(|b| b.is_ascii_lowercase() || b.is_ascii_digit() || b == b'_')
}

pub(super) fn permanent(r: &mut Reader<'_>) -> BTreeMap<String, PermanentSlot> {
    let keys = ["slots", "permanent_slots", "permanent_replication_slots"];
    let allowed = "an object of slots: [a-z0-9_]{1,63} to {type, database, plugin, cluster_type}; \
                   a logical one needs database and plugin";
    r.take(&keys, allowed, |v| {
        v.as_object()?.iter().map(|(name, v)| Some((name.clone(), slot(name, v)?))).collect()
    })
    .unwrap_or_default()
}

fn slot(name: &str, value: &Value) -> Option<PermanentSlot> {
    if !is_name(name) {
        return None;
    }
    let empty = Map::new();
    let map = match value {
        Value::Null => &empty,
        Value::Object(map) => map,
        _ => return None,
    };
    let text = |key: &str| map.get(key).and_then(Value::as_str);
    let kind = match text("type") {
        None if map.contains_key("type") => return None,
        None | Some("physical") => SlotKind::Physical,
        Some("logical") => {
            SlotKind::Logical { database: text("database")?.to_owned(), plugin: text("plugin")?.to_owned() }
        }
        Some(_) => return None,
    };
    let on = match text("cluster_type") {
        None => SlotsOn::Any,
        Some("primary") => SlotsOn::Primary,
        Some("standby") => SlotsOn::Standby,
        Some(_) => return None,
    };
    Some(PermanentSlot { kind, on })
}

pub(super) fn ignored(r: &mut Reader<'_>) -> Vec<SlotMatcher> {
    let allowed = "a list of {name, type, database, plugin}, at least one of them each";
    r.take(&["ignore_slots"], allowed, |v| v.as_array()?.iter().map(matcher).collect()).unwrap_or_default()
}

fn matcher(value: &Value) -> Option<SlotMatcher> {
    let map = value.as_object()?;
    let text = |key: &str| map.get(key).and_then(Value::as_str).map(str::to_owned);
    let matcher = SlotMatcher {
        name: text("name"),
        kind: text("type"),
        database: text("database"),
        plugin: text("plugin"),
    };
    // One that names nothing would protect every slot there is.
    (matcher != SlotMatcher::default()).then_some(matcher)
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::super::ClusterSettings;
    use super::*;

    #[test]
    fn slots_are_read_and_matched() {
        let (s, warnings) = ClusterSettings::from_json(&json!({
            "permanent_slots": {"p": null, "l": {"type": "logical", "database": "d", "plugin": "pgoutput"},
                "s": {"cluster_type": "standby"}},
            "ignore_slots": [{"name": "x"}, {"type": "logical", "database": "d"}],
        }));
        assert_eq!(warnings, []);
        assert_eq!(s.slots["p"], PermanentSlot { kind: SlotKind::Physical, on: SlotsOn::Any });
        assert_eq!(s.slots["s"].on, SlotsOn::Standby);
        assert!(matches!(&s.slots["l"].kind, SlotKind::Logical { plugin, .. } if plugin == "pgoutput"));
        let ignored = |name: &str, logical| s.ignore_slots.iter().any(|m| m.matches(name, logical));
        assert!(ignored("x", None) && ignored("y", Some(("d", "p"))));
        assert!(!ignored("y", None) && !ignored("y", Some(("e", "p"))));
    }

    #[test]
    fn slots_that_cannot_be_are_named() {
        for bad in [
            json!({"slots": {"Upper": {}}}),
            json!({"slots": {"l": {"type": "logical", "database": "d"}}}),
            json!({"slots": {"l": {"type": "other"}}}),
            json!({"ignore_slots": [{}]}),
        ] {
            let (s, warnings) = ClusterSettings::from_json(&bad);
            assert_eq!(warnings.len(), 1, "{bad}");
            assert!(s.slots.is_empty() && s.ignore_slots.is_empty(), "{bad}");
        }
    }
}
