//! What agent and guard say to each other: one JSON object per line over a Unix stream socket.
//!
//! Both ends are the same program, but an agent may adopt the guard of an older version of itself: fields are
//! only ever added, unknown ones are ignored. Instants are nanoseconds of `CLOCK_BOOTTIME`, which all processes
//! of one boot share.

use std::path::PathBuf;

use pgvane_cluster::store::etcd::{EtcdOptions, EtcdTls};
use serde::{Deserialize, Serialize};

use super::core::Phase;

/// The longest line either side takes; a longer one ends the connection.
pub const MAX_LINE: usize = 64 * 1024;

/// A question of the agent, answered by the [`Answer`] of the same number.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct Question {
    /// Chosen by the agent.
    pub seq: u64,
    /// The wish.
    pub ask: Ask,
}

/// What the agent wants.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Ask {
    /// "I am the agent now": the newest connection that says so is.
    Hello,
    /// Only tell the state; the connection does not become the agent's.
    Status,
    /// Watch over this reign.
    Arm(Box<ArmRequest>),
    /// The lease was renewed.
    Extend {
        /// The lease.
        lease: i64,
        /// The new deadline.
        deadline: u64,
    },
    /// PostgreSQL is stopped or cannot accept writes.
    Disarm,
}

/// A reign to watch over.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct ArmRequest {
    /// The reign.
    pub epoch: i64,
    /// The lease that backs it.
    pub lease: i64,
    /// The time it is granted for, in milliseconds.
    pub ttl_ms: u64,
    /// When PostgreSQL must be stopped.
    pub deadline: u64,
    /// How long after that the last process must be dead, in milliseconds.
    pub budget_ms: u64,
    /// The postmaster, when it runs.
    #[serde(default)]
    pub postmaster: Option<i32>,
    /// Where the lease can be revoked.
    pub store: StoreAccess,
    /// What to say before that.
    #[serde(default)]
    pub parting: Option<Parting>,
}

/// Last words of a reign, for people: written only while the leader key is still that of the reign, and given up
/// where the store does not take them.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct Parting {
    /// The leader key.
    pub leader_key: String,
    /// What it holds.
    pub leader: String,
    /// Where they are written.
    pub key: String,
    /// The words.
    pub words: String,
}

/// How to reach the store. Passwords travel only over the socket of mode 0600.
#[derive(Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
pub struct StoreAccess {
    /// `http(s)://host:port` of each etcd member.
    pub endpoints: Vec<String>,
    /// CA certificate file.
    #[serde(default)]
    pub cacert: Option<PathBuf>,
    /// Client certificate file.
    #[serde(default)]
    pub cert: Option<PathBuf>,
    /// Its key file.
    #[serde(default)]
    pub key: Option<PathBuf>,
    /// User name.
    #[serde(default)]
    pub username: Option<String>,
    /// Password.
    #[serde(default)]
    pub password: Option<String>,
}

impl StoreAccess {
    /// The same in the store's own terms.
    pub fn etcd_options(&self) -> EtcdOptions {
        let tls = EtcdTls {
            ca: self.cacert.clone(),
            identity: self.cert.clone().zip(self.key.clone()),
            server_name: None,
        };
        EtcdOptions {
            tls: self.endpoints.iter().any(|e| e.starts_with("https:")).then_some(tls),
            user: self.username.clone().zip(self.password.clone()),
            ..EtcdOptions::new(self.endpoints.clone())
        }
    }
}

impl std::fmt::Debug for StoreAccess {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("StoreAccess").field("endpoints", &self.endpoints).finish_non_exhaustive()
    }
}

/// A line from the guard.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Line {
    /// The answer to a question.
    Answer(Answer),
    /// Something the guard did by itself.
    Note(Report),
}

/// The answer to one question.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct Answer {
    /// The question's number.
    pub seq: u64,
    /// Why the wish was not granted; absent when it was.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub refused: Option<String>,
    /// The state after it.
    pub report: Report,
}

/// What the guard is and does.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct Report {
    /// The guard's process.
    pub pid: u32,
    /// Its version.
    pub version: String,
    /// The data directory it watches over.
    pub data_dir: PathBuf,
    /// What it is doing.
    pub doing: Doing,
    /// The reign it watches or watched.
    #[serde(default)]
    pub epoch: Option<i64>,
    /// The lease that backs or backed it.
    #[serde(default)]
    pub lease: Option<i64>,
    /// The deadline.
    #[serde(default)]
    pub deadline: Option<u64>,
    /// The last lease it gave back or began to; it must never back a reign again.
    #[serde(default)]
    pub spent_lease: Option<i64>,
}

/// What a guard is doing, in one word.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Doing {
    /// Nothing: this node is not primary.
    Idle,
    /// Holding a deadline.
    Armed,
    /// Stopping PostgreSQL.
    Stopping,
    /// PostgreSQL is stopped and may not run until the agent disarms or arms under another lease.
    Fenced,
}

impl From<Phase> for Doing {
    fn from(phase: Phase) -> Doing {
        match phase {
            Phase::Idle => Doing::Idle,
            Phase::Armed { .. } => Doing::Armed,
            Phase::Stopping { .. } | Phase::Killing { .. } => Doing::Stopping,
            Phase::Fenced { .. } => Doing::Fenced,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn questions_are_one_line_and_survive_fields_of_later_versions() {
        let question = Question { seq: 3, ask: Ask::Extend { lease: 9, deadline: 17 } };
        let text = serde_json::to_string(&question).expect("serializes");
        assert_eq!(text, r#"{"seq":3,"ask":{"extend":{"lease":9,"deadline":17}}}"#);
        let later = r#"{"seq":3,"ask":{"extend":{"lease":9,"deadline":17,"why":"x"}},"more":1}"#;
        assert_eq!(serde_json::from_str::<Question>(later).expect("reads"), question);
        let hello: Question = serde_json::from_str(r#"{"seq":1,"ask":"hello"}"#).expect("reads");
        assert_eq!(hello.ask, Ask::Hello);
    }

    #[test]
    fn debug_output_never_shows_a_password() {
        let access = StoreAccess { password: Some("hunter2".to_owned()), ..StoreAccess::default() };
        assert!(!format!("{access:?}").contains("hunter2"));
    }
}
