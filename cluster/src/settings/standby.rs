//! `standby_cluster`: the cluster as a whole follows another (contract sections 4 and 8.7).

use schemars::JsonSchema;
use serde_json::{Map, Value};

use super::read::{Reader, SettingWarning, texts};
use super::shape::Text;

/// What a standby cluster follows. At least one of `host`, `port` and `restore_command` is set.
#[derive(Clone, PartialEq, Eq, Debug, Default, JsonSchema)]
#[schemars(default)]
pub struct StandbyCluster {
    /// The host, or several with commas between them.
    pub host: Option<String>,
    /// Its port, or several with commas between them.
    #[schemars(with = "Text")]
    pub port: Option<String>,
    /// The slot on it.
    pub primary_slot_name: Option<String>,
    /// How the standby leader is created, in order.
    pub create_replica_methods: Option<Vec<String>>,
    /// `restore_command` of the standby leader.
    pub restore_command: Option<String>,
    /// `archive_cleanup_command` of the standby leader.
    pub archive_cleanup_command: Option<String>,
    /// `recovery_min_apply_delay` of the standby leader, as text.
    #[schemars(with = "Text")]
    pub recovery_min_apply_delay: Option<String>,
}

fn text(v: &Value) -> Option<String> {
    match v {
        Value::String(s) => Some(s.clone()),
        Value::Number(n) => Some(n.to_string()),
        _ => None,
    }
}

pub(super) fn read(
    document: &Map<String, Value>,
    warnings: &mut Vec<SettingWarning>,
) -> Option<StandbyCluster> {
    let map = document.get("standby_cluster")?.as_object()?;
    let mut r = Reader { map, path: "standby_cluster.", warnings };
    let mut take = |key: &str| r.take(&[key], "text", text);
    let section = StandbyCluster {
        host: take("host"),
        port: take("port"),
        primary_slot_name: take("primary_slot_name"),
        restore_command: take("restore_command"),
        archive_cleanup_command: take("archive_cleanup_command"),
        recovery_min_apply_delay: take("recovery_min_apply_delay"),
        create_replica_methods: r.take(&["create_replica_methods"], "a list of methods", texts),
    };
    (section.host.is_some() || section.port.is_some() || section.restore_command.is_some()).then_some(section)
}
