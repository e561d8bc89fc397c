//! Where the truth about a cluster comes from.

use std::time::Duration;

/// What tells of a cluster.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Origin {
    /// A watch of Patroni's keys, confirmed by reads.
    Etcd,
    /// Every member's own Patroni, asked once per interval.
    PatroniRest(Duration),
    /// Every PostgreSQL server itself, asked once per interval.
    Probe(Duration),
}

impl Origin {
    /// The section in the settings file and the word in `/topology`.
    pub const fn label(self) -> &'static str {
        match self {
            Origin::Etcd => "etcd",
            Origin::PatroniRest(_) => "patroni_rest",
            Origin::Probe(_) => "probe",
        }
    }

    /// Who does not answer, when nobody does.
    pub const fn who(self) -> &'static str {
        match self {
            Origin::Etcd => "etcd",
            Origin::PatroniRest(_) => "Patroni",
            Origin::Probe(_) => "PostgreSQL",
        }
    }

    /// Time between two questions; `None` where changes are told as they happen.
    pub const fn polls_every(self) -> Option<Duration> {
        match self {
            Origin::Etcd => None,
            Origin::PatroniRest(every) | Origin::Probe(every) => Some(every),
        }
    }
}
