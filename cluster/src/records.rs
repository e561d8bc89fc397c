//! The values behind the keys: Patroni's JSON, typed (contract sections 1.1 to 1.6).
//!
//! Reading is tolerant (unknown fields are ignored, numbers may be strings); writing is compact JSON with the
//! field names other members expect.

use std::collections::BTreeMap;

use serde::{Deserialize, Deserializer, Serialize};
use serde_json::Value;

use crate::ids::{Lsn, NodeName, Timeline};

/// A value in the store that could not be read.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{0}")]
pub struct RecordError(pub String);

impl From<serde_json::Error> for RecordError {
    fn from(e: serde_json::Error) -> RecordError {
        RecordError(e.to_string())
    }
}

/// A closed set of words with a place for those another version may add.
macro_rules! words {
    ($(#[$doc:meta])* $name:ident { $($(#[$vdoc:meta])* $variant:ident = $text:literal $(| $alias:literal)*),+ $(,)? }) => {
        $(#[$doc])*
        #[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Debug, Serialize, Deserialize)]
        #[serde(from = "String", into = "String")]
        pub enum $name {
            $($(#[$vdoc])* $variant,)+
            /// A word this version does not know; kept as it was read.
            Other(String),
        }

        impl $name {
            /// The word on the wire.
            pub fn as_str(&self) -> &str {
                match self {
                    $($name::$variant => $text,)+
                    $name::Other(text) => text,
                }
            }
        }

        impl From<String> for $name {
            fn from(text: String) -> $name {
                match text.as_str() {
                    $($text $(| $alias)* => $name::$variant,)+
                    _ => $name::Other(text),
                }
            }
        }

        impl From<$name> for String {
            fn from(word: $name) -> String {
                word.as_str().to_owned()
            }
        }

        impl std::fmt::Display for $name {
            fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
                f.pad(self.as_str())
            }
        }
    };
}

pub(crate) use words;

words! {
    /// What a member is (contract 1.1).
    MemberRole {
        /// Accepts writes. `master` is what versions before 4 wrote.
        Primary = "primary" | "master",
        /// Follows another server.
        Replica = "replica",
        /// Leads a standby cluster.
        StandbyLeader = "standby_leader",
        /// Promotion was signalled and has not finished.
        Promoted = "promoted",
        /// Was leader; is shutting down, or down.
        Demoted = "demoted",
        /// Has no data directory yet.
        Uninitialized = "uninitialized",
    }
}

words! {
    /// What a member's PostgreSQL is doing (contract 1.1).
    MemberState {
        /// initdb runs.
        Initializing = "initializing new cluster",
        /// initdb failed.
        InitdbFailed = "initdb failed",
        /// A custom bootstrap method runs.
        CustomBootstrap = "running custom bootstrap script",
        /// A custom bootstrap method failed.
        CustomBootstrapFailed = "custom bootstrap failed",
        /// The data directory is being cloned.
        CreatingReplica = "creating replica",
        /// Accepts connections.
        Running = "running",
        /// Started, does not accept connections yet.
        Starting = "starting",
        /// Started after a custom bootstrap.
        StartingAfterCustomBootstrap = "starting after custom bootstrap",
        /// Did not come up.
        StartFailed = "start failed",
        /// Restarts.
        Restarting = "restarting",
        /// Did not come up after a restart.
        RestartFailed = "restart failed",
        /// Shuts down.
        Stopping = "stopping",
        /// Was stopped cleanly.
        Stopped = "stopped",
        /// Could not be stopped.
        StopFailed = "stop failed",
        /// Ended without being asked to.
        Crashed = "crashed",
    }
}

impl MemberState {
    /// The number that `/metrics` shows for the state (contract 1.1); -1 for an unknown word.
    pub fn number(&self) -> i8 {
        match self {
            MemberState::Initializing => 0,
            MemberState::InitdbFailed => 1,
            MemberState::CustomBootstrap => 2,
            MemberState::CustomBootstrapFailed => 3,
            MemberState::CreatingReplica => 4,
            MemberState::Running => 5,
            MemberState::Starting => 6,
            MemberState::StartingAfterCustomBootstrap => 7,
            MemberState::StartFailed => 8,
            MemberState::Restarting => 9,
            MemberState::RestartFailed => 10,
            MemberState::Stopping => 11,
            MemberState::Stopped => 12,
            MemberState::StopFailed => 13,
            MemberState::Crashed => 14,
            MemberState::Other(_) => -1,
        }
    }
}

/// A member's tags (contract section 5), typed where they decide something.
#[derive(Clone, PartialEq, Eq, Debug, Default, Serialize, Deserialize)]
#[serde(transparent)]
pub struct Tags(pub BTreeMap<String, Value>);

impl Tags {
    fn truthy(&self, tag: &str) -> Option<bool> {
        match self.0.get(tag)? {
            Value::Bool(b) => Some(*b),
            Value::String(s) => crate::units::parse_bool(s),
            Value::Number(n) => n.as_i64().map(|n| n != 0),
            _ => None,
        }
    }

    fn number(&self, tag: &str) -> Option<i64> {
        match self.0.get(tag)? {
            Value::Number(n) => n.as_i64(),
            Value::String(s) => s.trim().parse().ok(),
            _ => None,
        }
    }

    /// Priority in the leader race: `nofailover` beats `failover_priority`; 1 unless set; 0 or less means the
    /// member never leads.
    pub fn failover_priority(&self) -> i64 {
        match self.truthy("nofailover") {
            Some(true) => 0,
            Some(false) => 1.max(self.number("failover_priority").unwrap_or(1)),
            None => self.number("failover_priority").unwrap_or(1),
        }
    }

    /// Whether the member may become leader.
    pub fn may_lead(&self) -> bool {
        self.failover_priority() > 0
    }

    /// Preference as a synchronous standby: `nosync` beats `sync_priority`; 1 unless set; 0 or less means that no
    /// commit waits for the member.
    pub fn sync_priority(&self) -> i64 {
        match self.truthy("nosync") {
            Some(true) => 0,
            Some(false) => 1.max(self.number("sync_priority").unwrap_or(1)),
            None => self.number("sync_priority").unwrap_or(1),
        }
    }

    /// Whether commits may wait for the member.
    pub fn may_confirm(&self) -> bool {
        self.sync_priority() > 0
    }

    /// Whether new read sessions must avoid the member.
    pub fn no_load_balance(&self) -> bool {
        self.truthy("noloadbalance") == Some(true)
    }

    /// Whether new members may be cloned from this one.
    pub fn clone_from(&self) -> bool {
        self.truthy("clonefrom") == Some(true)
    }

    /// Whether the member must not stream (archive only).
    pub fn no_stream(&self) -> bool {
        self.truthy("nostream") == Some(true)
    }

    /// The member to replicate from, where set.
    pub fn replicate_from(&self) -> Option<NodeName> {
        self.0.get("replicatefrom")?.as_str().filter(|s| !s.is_empty()).map(NodeName::from)
    }
}

/// `members/<name>`: what one member says of itself (contract 1.1).
#[derive(Clone, PartialEq, Debug, Serialize, Deserialize)]
pub struct MemberRecord {
    /// `postgres://host:port/database`, without credentials.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub conn_url: Option<String>,
    /// `http(s)://host:port/patroni`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub api_url: Option<String>,
    /// Address of a pooler on the node, in the form of `conn_url`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub proxy_url: Option<String>,
    /// What PostgreSQL is doing.
    pub state: MemberState,
    /// What the member is.
    pub role: MemberRole,
    /// A dotted version that Patroni compares; see [`PATRONI_VERSION`].
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub version: Option<String>,
    /// `Some(false)` while pg_control does not show the new timeline yet: not a safe rewind source.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub checkpoint_after_promote: Option<bool>,
    /// Effective tags.
    #[serde(default, skip_serializing_if = "tags_are_empty")]
    pub tags: Tags,
    /// Whether PostgreSQL must be restarted for a setting.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub pending_restart: Option<bool>,
    /// Why: setting name to `{old_value, new_value}`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub pending_restart_reason: Option<Value>,
    /// Primary: flushed WAL; standby: the larger of received and replayed.
    #[serde(default, skip_serializing_if = "Option::is_none", deserialize_with = "lenient_lsn")]
    pub xlog_location: Option<Lsn>,
    /// Standby: received and flushed WAL.
    #[serde(default, skip_serializing_if = "Option::is_none", deserialize_with = "lenient_lsn")]
    pub receive_lsn: Option<Lsn>,
    /// Standby: replayed WAL.
    #[serde(default, skip_serializing_if = "Option::is_none", deserialize_with = "lenient_lsn")]
    pub replay_lsn: Option<Lsn>,
    /// Standby: `streaming` or `in archive recovery`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub replication_state: Option<String>,
    /// The timeline the member is on.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub timeline: Option<Timeline>,
    /// A scheduled restart, as Patroni writes it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub scheduled_restart: Option<Value>,
    /// Whether the agent has seen pause.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub pause: Option<bool>,
    /// What pgvane agents add; Patroni ignores it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub pgvane: Option<NativeMember>,
}

/// The version pgvane agents publish to Patroni members, which parse it (contract 1.1, trap 18): the release
/// whose layout and REST API we speak. Our own version stands in [`NativeMember`].
pub const PATRONI_VERSION: &str = "4.1.4";

/// The part of a member record that only pgvane writes and reads.
#[derive(Clone, PartialEq, Eq, Debug, Default, Serialize, Deserialize)]
pub struct NativeMember {
    /// The agent's own version.
    pub version: String,
    /// Set while the member serves as primary: the create revision of its leader key.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub serving_epoch: Option<i64>,
    /// The promotion that began the timeline the member is on, where it is known.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub reign: Option<crate::reigns::Reign>,
}

fn tags_are_empty(tags: &Tags) -> bool {
    tags.0.is_empty()
}

fn lenient_lsn<'de, D: Deserializer<'de>>(d: D) -> Result<Option<Lsn>, D::Error> {
    match Option::<Value>::deserialize(d)? {
        None | Some(Value::Null) => Ok(None),
        Some(v) => int_or_text(&v).map(|n| Some(Lsn(n))).ok_or_else(|| {
            serde::de::Error::custom(format!("a WAL position must be a whole number, not {v}"))
        }),
    }
}

fn int_or_text(v: &Value) -> Option<u64> {
    match v {
        Value::Number(n) => n.as_u64(),
        Value::String(s) => s.trim().parse().ok(),
        _ => None,
    }
}

impl MemberRecord {
    /// Reads a member record; also the bare URL that very old versions wrote, whose `application_name`
    /// argument is the API address.
    pub fn parse(bytes: &[u8]) -> Result<MemberRecord, RecordError> {
        let text = std::str::from_utf8(bytes).map_err(|e| RecordError(e.to_string()))?;
        if text.starts_with("postgres") {
            return Ok(MemberRecord::from_bare_url(text));
        }
        Ok(serde_json::from_str(text)?)
    }

    fn from_bare_url(url: &str) -> MemberRecord {
        let (conn, query) = url.split_once('?').unwrap_or((url, ""));
        let api = query.split('&').find_map(|kv| kv.strip_prefix("application_name="));
        MemberRecord {
            conn_url: Some(conn.to_owned()),
            api_url: api.map(str::to_owned),
            ..MemberRecord::new(MemberState::Running, MemberRole::Replica)
        }
    }

    /// A record that says nothing but its state and role.
    pub fn new(state: MemberState, role: MemberRole) -> MemberRecord {
        MemberRecord {
            conn_url: None,
            api_url: None,
            proxy_url: None,
            state,
            role,
            version: None,
            checkpoint_after_promote: None,
            tags: Tags::default(),
            pending_restart: None,
            pending_restart_reason: None,
            xlog_location: None,
            receive_lsn: None,
            replay_lsn: None,
            replication_state: None,
            timeline: None,
            scheduled_restart: None,
            pause: None,
            pgvane: None,
        }
    }

    /// Compact JSON, as Patroni writes it.
    pub fn to_json(&self) -> Vec<u8> {
        to_json(self)
    }

    /// Host and port of PostgreSQL from `conn_url`; the port is 5432 unless given, IPv6 brackets are removed.
    pub fn postgres_address(&self) -> Option<(String, u16)> {
        host_port(self.conn_url.as_deref()?, 5432)
    }

    /// Host and port of the REST API from `api_url`.
    pub fn api_address(&self) -> Option<(String, u16)> {
        let url = self.api_url.as_deref()?;
        host_port(url, if url.starts_with("https:") { 443 } else { 80 })
    }

    /// Whether a proxy may send writes here, given that the member holds the leader key.
    pub fn is_serving_primary(&self) -> bool {
        self.role == MemberRole::Primary && self.state == MemberState::Running
    }

    /// Whether the member, given that it holds the leader key, does what its cluster needs of a leader.
    pub fn is_serving_leader(&self) -> bool {
        let leads = [MemberRole::Primary, MemberRole::StandbyLeader].contains(&self.role);
        leads && self.state == MemberState::Running
    }

    /// Whether the agent behind the record is pgvane's.
    pub fn is_native(&self) -> bool {
        self.pgvane.is_some()
    }
}

/// Host and port of a URL; the scheme may be missing, user, path and IPv6 brackets are left out.
pub fn host_port(url: &str, default_port: u16) -> Option<(String, u16)> {
    let rest = url.split_once(':').and_then(|(_, rest)| rest.strip_prefix("//")).unwrap_or(url);
    let authority = rest.split(['/', '?']).next()?;
    let authority = authority.rsplit_once('@').map_or(authority, |(_, a)| a);
    let (host, port) = if let Some(v6) = authority.strip_prefix('[') {
        let (host, rest) = v6.split_once(']')?;
        (host, rest.strip_prefix(':'))
    } else {
        match authority.rsplit_once(':') {
            Some((host, port)) => (host, Some(port)),
            None => (authority, None),
        }
    };
    if host.is_empty() {
        return None;
    }
    let port = match port {
        Some(text) => text.parse().ok()?,
        None => default_port,
    };
    Some((host.to_owned(), port))
}

/// `status`: how far the leader's WAL has come (contract 1.2).
#[derive(Clone, PartialEq, Eq, Debug, Default, Serialize)]
pub struct StatusRecord {
    /// The leader's WAL position when it last wrote the key; the shutdown position after a clean release.
    pub optime: Lsn,
    /// Slot name to position; absent means unchanged.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub slots: Option<BTreeMap<String, Lsn>>,
    /// Member slots still retained, sorted; absent means unchanged.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub retain_slots: Option<Vec<String>>,
}

impl StatusRecord {
    /// Reads the object, a bare integer, or an object whose parts are JSON in strings.
    pub fn parse(bytes: &[u8]) -> Result<StatusRecord, RecordError> {
        let value: Value = serde_json::from_slice(bytes)?;
        if let Some(optime) = int_or_text(&value) {
            return Ok(StatusRecord { optime: Lsn(optime), ..StatusRecord::default() });
        }
        let Value::Object(map) = value else {
            return Err(RecordError(format!("status must be an object or a number, not {value}")));
        };
        let optime = match map.get("optime") {
            None | Some(Value::Null) => Lsn(0),
            Some(v) => Lsn(int_or_text(v).ok_or_else(|| RecordError(format!("optime {v} is not a number")))?),
        };
        let slots = map.get("slots").map(unwrap_json_text).and_then(|v| {
            let pairs = v.as_object()?.iter();
            Some(pairs.filter_map(|(k, v)| Some((k.clone(), Lsn(int_or_text(v)?)))).collect())
        });
        let retain_slots = map
            .get("retain_slots")
            .map(unwrap_json_text)
            .and_then(|v| Some(v.as_array()?.iter().filter_map(|s| s.as_str().map(str::to_owned)).collect()));
        Ok(StatusRecord { optime, slots, retain_slots })
    }

    /// Compact JSON.
    pub fn to_json(&self) -> Vec<u8> {
        to_json(self)
    }
}

fn unwrap_json_text(v: &Value) -> Value {
    match v {
        Value::String(s) => serde_json::from_str(s).unwrap_or(Value::Null),
        other => other.clone(),
    }
}

/// One line of `history` (contract 1.3): a timeline that ended.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct HistoryEntry {
    /// The timeline that ended.
    pub timeline: Timeline,
    /// Where the next one begins.
    pub switch_lsn: Lsn,
    /// Why, as PostgreSQL's history file says.
    pub reason: String,
    /// When (ISO 8601), where known.
    pub timestamp: Option<String>,
    /// Who led the next one, where known.
    pub new_leader: Option<NodeName>,
}

/// `history`: the timelines so far, oldest first (contract 1.3).
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct HistoryRecord(pub Vec<HistoryEntry>);

impl HistoryRecord {
    /// Reads the array of arrays; lines of another shape are an error.
    pub fn parse(bytes: &[u8]) -> Result<HistoryRecord, RecordError> {
        let lines: Vec<Vec<Value>> = serde_json::from_slice(bytes)?;
        lines.iter().map(|line| Self::entry(line)).collect::<Result<_, _>>().map(HistoryRecord)
    }

    fn entry(line: &[Value]) -> Result<HistoryEntry, RecordError> {
        let bad = || RecordError(format!("history line {} has another shape", Value::from(line.to_vec())));
        let [timeline, lsn, reason, rest @ ..] = line else { return Err(bad()) };
        let text = |v: Option<&Value>| v.and_then(Value::as_str).map(str::to_owned);
        Ok(HistoryEntry {
            timeline: Timeline(int_or_text(timeline).and_then(|n| u32::try_from(n).ok()).ok_or_else(bad)?),
            switch_lsn: Lsn(int_or_text(lsn).ok_or_else(bad)?),
            reason: reason.as_str().ok_or_else(bad)?.to_owned(),
            timestamp: text(rest.first()),
            new_leader: text(rest.get(1)).map(NodeName::new),
        })
    }

    /// Compact JSON.
    pub fn to_json(&self) -> Vec<u8> {
        let lines: Vec<Vec<Value>> = self
            .0
            .iter()
            .map(|e| {
                let mut line = vec![e.timeline.0.into(), e.switch_lsn.0.into(), e.reason.clone().into()];
                // A leader keeps its place behind a time that is not known.
                if e.timestamp.is_some() || e.new_leader.is_some() {
                    line.push(e.timestamp.clone().into());
                    line.extend(e.new_leader.iter().map(|n| n.as_str().into()));
                }
                line
            })
            .collect();
        to_json(&lines)
    }

    /// The cluster timeline: one more than the last that ended; 1 when none has.
    pub fn cluster_timeline(&self) -> Timeline {
        Timeline(self.0.last().map_or(1, |e| e.timeline.0.saturating_add(1)))
    }
}

/// `failover`: an operator's pending request (contract 1.4). An empty object means none.
#[derive(Clone, PartialEq, Eq, Debug, Default, Serialize, Deserialize)]
pub struct FailoverRecord {
    /// Present for a switchover: who leads now.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub leader: Option<NodeName>,
    /// The wanted candidate.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub member: Option<NodeName>,
    /// When (ISO 8601 with zone); only with `leader`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub scheduled_at: Option<String>,
}

impl FailoverRecord {
    /// Reads the object or the legacy text `leader:candidate`.
    pub fn parse(bytes: &[u8]) -> Result<FailoverRecord, RecordError> {
        let text = std::str::from_utf8(bytes).map_err(|e| RecordError(e.to_string()))?.trim();
        let mut record: FailoverRecord = if text.is_empty() {
            FailoverRecord::default()
        } else if text.starts_with('{') {
            serde_json::from_str(text)?
        } else if let Some((leader, member)) = text.split_once(':') {
            FailoverRecord { leader: Some(leader.into()), member: Some(member.into()), scheduled_at: None }
        } else {
            return Err(RecordError(format!("`{text}` is neither an object nor leader:candidate")));
        };
        record.leader = record.leader.filter(|n| !n.as_str().is_empty());
        record.member = record.member.filter(|n| !n.as_str().is_empty());
        Ok(record)
    }

    /// Whether nothing is asked for.
    pub fn is_empty(&self) -> bool {
        self.leader.is_none() && self.member.is_none()
    }

    /// Compact JSON; `{}` when nothing is asked for.
    pub fn to_json(&self) -> Vec<u8> {
        to_json(self)
    }
}

/// `sync`: who must confirm a commit (contract 1.5).
#[derive(Clone, PartialEq, Eq, Debug, Default, Serialize, Deserialize)]
pub struct SyncRecord {
    /// The leader whose rule this is; the record counts only when it is set.
    pub leader: Option<NodeName>,
    /// Votes a racer must collect; 0 outside quorum mode.
    #[serde(default)]
    pub quorum: u32,
    /// Comma separated, sorted.
    pub sync_standby: Option<String>,
}

impl SyncRecord {
    /// Reads the object.
    pub fn parse(bytes: &[u8]) -> Result<SyncRecord, RecordError> {
        Ok(serde_json::from_slice(bytes)?)
    }

    /// The standbys that must confirm.
    pub fn standbys(&self) -> impl Iterator<Item = &str> {
        self.sync_standby.as_deref().unwrap_or("").split(',').map(str::trim).filter(|s| !s.is_empty())
    }

    /// Whether `name` is one of [`standbys`](Self::standbys); names compare without case, as in PostgreSQL.
    pub fn has_standby(&self, name: &NodeName) -> bool {
        self.standbys().any(|standby| standby.eq_ignore_ascii_case(name.as_str()))
    }

    /// Whether `name` is the leader or a standby of the record; names compare without case, as in PostgreSQL.
    pub fn names(&self, name: &NodeName) -> bool {
        let leads = self.leader.as_ref().is_some_and(|l| l.as_str().eq_ignore_ascii_case(name.as_str()));
        leads || self.has_standby(name)
    }

    /// Compact JSON.
    pub fn to_json(&self) -> Vec<u8> {
        to_json(self)
    }
}

/// `failsafe`: member name to API address (contract 1.6).
#[derive(Clone, PartialEq, Eq, Debug, Default, Serialize, Deserialize)]
#[serde(transparent)]
pub struct FailsafeRecord(pub BTreeMap<NodeName, String>);

impl FailsafeRecord {
    /// Reads the object.
    pub fn parse(bytes: &[u8]) -> Result<FailsafeRecord, RecordError> {
        Ok(serde_json::from_slice(bytes)?)
    }

    /// Compact JSON.
    pub fn to_json(&self) -> Vec<u8> {
        to_json(self)
    }
}

fn to_json<T: Serialize>(value: &T) -> Vec<u8> {
    // Maps with text keys and plain fields cannot fail to serialize.
    serde_json::to_vec(value).unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_patroni_member_is_read_whole() {
        let json = br#"{"conn_url":"postgres://[::1]:5433/postgres","api_url":"http://10.0.0.1:8008/patroni",
            "state":"running","role":"master","version":"3.0.1","xlog_location":67108864,"timeline":3,
            "tags":{"nofailover":"on","failover_priority":5},"future":{"a":1}}"#;
        let m = MemberRecord::parse(json).expect("reads");
        assert!(m.is_serving_primary());
        assert_eq!(m.postgres_address(), Some(("::1".to_owned(), 5433)));
        assert_eq!(m.api_address(), Some(("10.0.0.1".to_owned(), 8008)));
        assert_eq!(m.xlog_location, Some(Lsn(67_108_864)));
        assert!(!m.tags.may_lead());
    }

    #[test]
    fn malformed_members_are_errors() {
        for bad in
            [&b"{"[..], b"[]", b"{\"state\":\"running\"}", b"{\"state\":5,\"role\":\"primary\"}", b"\xff\xfe"]
        {
            assert!(MemberRecord::parse(bad).is_err(), "{}", String::from_utf8_lossy(bad));
        }
    }

    #[test]
    fn bare_urls_of_old_versions() {
        let m = MemberRecord::parse(b"postgres://a:5432/postgres?application_name=http://a:8008/patroni")
            .expect("reads");
        assert_eq!(m.postgres_address(), Some(("a".to_owned(), 5432)));
        assert_eq!(m.api_address(), Some(("a".to_owned(), 8008)));
    }

    #[test]
    fn written_members_are_compact_and_read_back() {
        let mut m = MemberRecord::new(MemberState::Running, MemberRole::Replica);
        m.receive_lsn = Some(Lsn(5));
        let json = m.to_json();
        assert_eq!(json, br#"{"state":"running","role":"replica","receive_lsn":5}"#);
        assert_eq!(MemberRecord::parse(&json), Ok(m));
    }

    #[test]
    fn status_in_its_three_shapes() {
        assert_eq!(StatusRecord::parse(b"42").map(|s| s.optime), Ok(Lsn(42)));
        let s =
            StatusRecord::parse(br#"{"optime":7,"slots":"{\"a\":1}","retain_slots":["b"]}"#).expect("reads");
        assert_eq!(s.slots.expect("slots")["a"], Lsn(1));
        assert_eq!(s.retain_slots, Some(vec!["b".to_owned()]));
        assert!(StatusRecord::parse(b"[]").is_err());
    }

    #[test]
    fn failover_requests() {
        assert!(FailoverRecord::parse(b"{}").expect("reads").is_empty());
        assert!(FailoverRecord::parse(br#"{"leader":"","member":""}"#).expect("reads").is_empty());
        let legacy = FailoverRecord::parse(b"a:b").expect("reads");
        assert_eq!((legacy.leader, legacy.member), (Some("a".into()), Some("b".into())));
        assert!(FailoverRecord::parse(b"nonsense").is_err());
        assert_eq!(FailoverRecord::default().to_json(), b"{}");
    }

    #[test]
    fn history_round_trip_and_cluster_timeline() {
        let json = br#"[[1,67108864,"no recovery target specified"],[2,83886080,"x","2026-01-01T00:00:00+00:00","b"]]"#;
        let h = HistoryRecord::parse(json).expect("reads");
        assert_eq!(h.cluster_timeline(), Timeline(3));
        assert_eq!(h.to_json(), json);
        assert_eq!(HistoryRecord::default().cluster_timeline(), Timeline(1));
    }

    #[test]
    fn odd_history_lines_are_kept_whole() {
        let json = br#"[[4294967295,1,"x",null,"b"]]"#;
        let h = HistoryRecord::parse(json).expect("reads");
        assert_eq!(h.to_json(), json);
        assert_eq!(h.cluster_timeline(), Timeline(u32::MAX));
    }

    #[test]
    fn sync_names_ignore_case() {
        let s = SyncRecord::parse(br#"{"leader":"A","sync_standby":"b,C"}"#).expect("reads");
        assert!(s.names(&"a".into()) && s.names(&"c".into()) && !s.names(&"d".into()));
        assert!(s.has_standby(&"c".into()) && !s.has_standby(&"a".into()));
    }
}
