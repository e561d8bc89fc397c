//! The only file that spells a key (contract section 1).

use crate::ids::NodeName;

/// A key under a cluster's prefix, in Patroni's etcd version 3 layout.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub enum Key {
    /// `initialize`: empty while bootstrap runs, then the system identifier.
    Initialize,
    /// `bootstrap`: who created `initialize` empty; ours alone, written and deleted together with it.
    Bootstrap,
    /// `config`: the dynamic configuration.
    Config,
    /// `leader`: the name of the leader, under its lease.
    Leader,
    /// `members/<name>`: one member's record, under its lease.
    Member(NodeName),
    /// `status`: the leader's WAL position and the slots.
    Status,
    /// `optime/leader`: the legacy form of `status`.
    OptimeLeader,
    /// `history`: the timelines so far.
    History,
    /// `failover`: the operator's pending request.
    Failover,
    /// `sync`: who must confirm a commit.
    Sync,
    /// `failsafe`: who must vouch for the leader when the store is gone.
    Failsafe,
    /// `pgvane/reigns`: who began the timelines of the leader. Patroni ignores it.
    Reigns,
    /// `pgvane/farewell`: why the last leader gave leadership up. Patroni ignores it.
    Farewell,
    /// `pgvane/changes`: the changes of leader, beside `history`. Patroni ignores it.
    Changes,
}

/// The prefix of one cluster: `/{namespace}/{scope}/`.
#[derive(Clone, PartialEq, Eq, Hash, Debug)]
pub struct Keyspace {
    prefix: String,
}

impl Keyspace {
    /// The prefix for `namespace` (default `service`; slashes at its ends and runs of them collapse) and
    /// `scope`.
    pub fn new(namespace: &str, scope: &str) -> Keyspace {
        let mut prefix = String::from("/");
        for part in namespace.split('/').chain(scope.split('/')).filter(|p| !p.is_empty()) {
            prefix.push_str(part);
            prefix.push('/');
        }
        Keyspace { prefix }
    }

    /// The prefix, with a slash at both ends.
    pub fn prefix(&self) -> &str {
        &self.prefix
    }

    /// The full text of `key`.
    pub fn path(&self, key: &Key) -> String {
        let p = &self.prefix;
        match key {
            Key::Initialize => format!("{p}initialize"),
            Key::Bootstrap => format!("{p}bootstrap"),
            Key::Config => format!("{p}config"),
            Key::Leader => format!("{p}leader"),
            Key::Member(name) => format!("{p}members/{name}"),
            Key::Status => format!("{p}status"),
            Key::OptimeLeader => format!("{p}optime/leader"),
            Key::History => format!("{p}history"),
            Key::Failover => format!("{p}failover"),
            Key::Sync => format!("{p}sync"),
            Key::Failsafe => format!("{p}failsafe"),
            Key::Reigns => format!("{p}pgvane/reigns"),
            Key::Farewell => format!("{p}pgvane/farewell"),
            Key::Changes => format!("{p}pgvane/changes"),
        }
    }

    /// What `path` names under this prefix; `None` for keys of other clusters and keys that are not ours
    /// (Citus groups among them).
    pub fn parse(&self, path: &[u8]) -> Option<Key> {
        let rest = std::str::from_utf8(path).ok()?.strip_prefix(&self.prefix)?;
        Some(match rest {
            "initialize" => Key::Initialize,
            "bootstrap" => Key::Bootstrap,
            "config" => Key::Config,
            "leader" => Key::Leader,
            "status" => Key::Status,
            "optime/leader" => Key::OptimeLeader,
            "history" => Key::History,
            "failover" => Key::Failover,
            "sync" => Key::Sync,
            "failsafe" => Key::Failsafe,
            "pgvane/reigns" => Key::Reigns,
            "pgvane/farewell" => Key::Farewell,
            "pgvane/changes" => Key::Changes,
            other => {
                let name = other.strip_prefix("members/")?;
                if name.is_empty() || name.contains('/') {
                    return None;
                }
                Key::Member(NodeName::new(name))
            }
        })
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn any_key() -> impl Strategy<Value = Key> {
        prop_oneof![
            Just(Key::Initialize),
            Just(Key::Bootstrap),
            Just(Key::Config),
            Just(Key::Leader),
            Just(Key::Status),
            Just(Key::OptimeLeader),
            Just(Key::History),
            Just(Key::Failover),
            Just(Key::Sync),
            Just(Key::Failsafe),
            Just(Key::Reigns),
            Just(Key::Farewell),
            Just(Key::Changes),
            "[^/]{1,20}".prop_map(|n| Key::Member(NodeName::new(n))),
        ]
    }

    proptest! {
        #[test]
        fn every_key_survives_the_round_trip(ns in "[a-z/]{0,12}", scope in "[a-z0-9-]{1,12}", key in any_key()) {
            let space = Keyspace::new(&ns, &scope);
            prop_assert_eq!(space.parse(space.path(&key).as_bytes()), Some(key));
        }

        #[test]
        fn no_bytes_panic(path in proptest::collection::vec(any::<u8>(), 0..60)) {
            let _ = Keyspace::new("service", "demo").parse(&path);
        }
    }

    #[test]
    fn slashes_collapse_and_foreign_keys_are_not_ours() {
        let space = Keyspace::new("//service//ha/", "demo");
        assert_eq!(space.prefix(), "/service/ha/demo/");
        for foreign in
            ["/service/ha/demo/0/leader", "/service/ha/demo2/leader", "/service/ha/demo/members/a/b"]
        {
            assert_eq!(space.parse(foreign.as_bytes()), None, "{foreign}");
        }
    }
}
