//! Small typed names and numbers, so that a timeline can never be passed for a revision.

use std::fmt;
use std::str::FromStr;

use serde::{Deserialize, Serialize};

/// The name of a cluster member, unique within its cluster (Patroni's `name`).
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Debug, Serialize, Deserialize)]
#[serde(transparent)]
pub struct NodeName(String);

impl NodeName {
    /// Any non-empty text without a slash is a name; the caller's configuration check refuses the rest.
    pub fn new(name: impl Into<String>) -> NodeName {
        NodeName(name.into())
    }

    /// The name as text.
    pub fn as_str(&self) -> &str {
        &self.0
    }

    /// Whether `name` may be used as a member name: not empty, no slash, no control character, and not the
    /// placeholder that Patroni reserves for strict synchronous mode.
    pub fn is_valid(name: &str) -> bool {
        !name.is_empty()
            && !name.contains('/')
            && !name.chars().any(char::is_control)
            && name != "__patroni_strict_sync_replica_placeholder__"
    }
}

impl fmt::Display for NodeName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(&self.0)
    }
}

impl From<&str> for NodeName {
    fn from(s: &str) -> NodeName {
        NodeName(s.to_owned())
    }
}

/// A position in the write-ahead log: an absolute byte offset.
///
/// In etcd and REST bodies it is a decimal integer; operators read it as two hexadecimal halves (`0/3000148`).
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Default, Serialize, Deserialize)]
#[serde(transparent)]
pub struct Lsn(pub u64);

impl Lsn {
    /// Bytes from `earlier` to `self`; zero when `earlier` is ahead.
    pub const fn bytes_since(self, earlier: Lsn) -> u64 {
        self.0.saturating_sub(earlier.0)
    }
}

impl fmt::Display for Lsn {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(&format!("{:X}/{:X}", self.0 >> 32, self.0 & 0xffff_ffff))
    }
}

impl fmt::Debug for Lsn {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{self}")
    }
}

/// The text was not `X/X` in hexadecimal.
#[derive(Debug, PartialEq, Eq, thiserror::Error)]
#[error("`{0}` is not a WAL position such as 0/3000148")]
pub struct LsnParseError(String);

impl FromStr for Lsn {
    type Err = LsnParseError;

    fn from_str(s: &str) -> Result<Lsn, LsnParseError> {
        let bad = || LsnParseError(s.to_owned());
        let (high, low) = s.trim().split_once('/').ok_or_else(bad)?;
        let high = u32::from_str_radix(high, 16).map_err(|_| bad())?;
        let low = u32::from_str_radix(low, 16).map_err(|_| bad())?;
        Ok(Lsn(u64::from(high) << 32 | u64::from(low)))
    }
}

/// A PostgreSQL timeline; each promotion begins a higher one.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug, Default, Serialize, Deserialize)]
#[serde(transparent)]
pub struct Timeline(pub u32);

impl fmt::Display for Timeline {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

/// A store-wide etcd revision.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug, Default, Serialize, Deserialize)]
#[serde(transparent)]
pub struct Revision(pub i64);

impl fmt::Display for Revision {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

/// One reign of a leader: the create revision of the leader key. Epochs only grow.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug, Default, Serialize, Deserialize)]
#[serde(transparent)]
pub struct Epoch(pub i64);

impl fmt::Display for Epoch {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

/// An etcd lease.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug, Serialize, Deserialize)]
#[serde(transparent)]
pub struct LeaseId(pub i64);

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lsn_text_and_number() {
        let lsn: Lsn = "16/B374D848".parse().expect("a valid position");
        assert_eq!(lsn, Lsn(0x16_B374_D848));
        assert_eq!(lsn.to_string(), "16/B374D848");
        assert!("16B374D848".parse::<Lsn>().is_err());
        assert!("0/FFFFFFFFF".parse::<Lsn>().is_err());
    }

    #[test]
    fn names() {
        assert!(NodeName::is_valid("pg-1.example"));
        for bad in ["", "a/b", "a\nb", "__patroni_strict_sync_replica_placeholder__"] {
            assert!(!NodeName::is_valid(bad), "{bad:?}");
        }
    }
}
