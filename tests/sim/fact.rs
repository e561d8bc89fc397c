//! The event log: what is told of a run, one fact per line.

use std::fmt;

use pgvane_agent::decide::Reason;
use pgvane_agent::decide::world::Slot;
use pgvane_agent::guard::client::Doing;
use pgvane_cluster::records::MemberRecord;
use pgvane_cluster::view::ClusterView;

use crate::etcd::node_of;
use crate::network::MAX_NODES;
use crate::postgres::host;
use crate::schedule::Fault;
use crate::wal::Wal;

/// What a proxy's view shows.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(crate) struct Shown {
    pub(crate) leader: Option<(usize, i64)>,
    /// Whether the leader's record says it serves, and of no other reign.
    pub(crate) serves: bool,
}

impl Shown {
    pub(crate) fn of(view: Option<&ClusterView>) -> Shown {
        let leader = view.and_then(|v| v.leader.as_ref());
        let record = view.and_then(ClusterView::leader_member).map(|m| &m.record);
        let epoch = record.and_then(|r| r.pgvane.as_ref()).and_then(|p| p.serving_epoch);
        Shown {
            leader: leader.map(|l| (node_of(l.name.as_str()), l.epoch.0)),
            serves: record.is_some_and(MemberRecord::is_serving_primary)
                && epoch.is_none_or(|epoch| Some(epoch) == leader.map(|l| l.epoch.0)),
        }
    }
}

/// One line of the event log.
#[derive(Clone, Debug)]
pub(crate) enum Fact {
    Begins(Fault),
    Ends(Fault),
    Healed,
    AgentStarts {
        node: usize,
    },
    Decided {
        node: usize,
        action: &'static str,
        reason: Reason,
    },
    EffectFailed {
        node: usize,
        slot: Slot,
    },
    Key {
        leader: Option<(usize, i64)>,
        lease: i64,
    },
    LeaseExpired {
        lease: i64,
    },
    LeaseRevoked {
        node: usize,
        lease: i64,
    },
    Started {
        node: usize,
        as_primary: bool,
    },
    /// `pg_promote`, or a start as primary.
    Promote {
        node: usize,
        restart: bool,
    },
    Writable {
        node: usize,
        on: bool,
        wal: Wal,
    },
    /// Whether the operator wants commits to wait.
    Synchronous {
        on: bool,
    },
    /// An operator asked for this member whatever it lacks.
    InsistedOn {
        node: usize,
    },
    Gone {
        node: usize,
    },
    ForeignWal {
        node: usize,
        from: usize,
    },
    /// Its data were made anew.
    Cloned {
        node: usize,
    },
    Guard {
        node: usize,
        doing: Doing,
    },
    Suspended {
        node: usize,
        on: bool,
    },
    Vouched {
        node: usize,
        leader: usize,
        until: u64,
    },
    Consented {
        node: usize,
        epoch: i64,
        until: u64,
        listed: [bool; MAX_NODES],
    },
    ProxyFrozen {
        proxy: usize,
        on: bool,
    },
    ProxySees {
        proxy: usize,
        shown: Shown,
    },
    ProxyReign {
        proxy: usize,
        epoch: i64,
    },
    SessionOpens {
        proxy: usize,
        node: usize,
        epoch: i64,
    },
    SessionOpened {
        proxy: usize,
        id: u64,
        node: usize,
        epoch: i64,
    },
    SessionClosed {
        proxy: usize,
        id: u64,
    },
    Committed {
        node: usize,
        branch: u64,
        end: u64,
    },
    Acknowledged {
        proxy: usize,
        node: usize,
        branch: u64,
        end: u64,
        /// Whether standbys had to confirm it.
        promised: bool,
    },
}

impl Fact {
    /// Whether it is worth a line: some facts only feed the checker.
    pub(crate) fn is_shown(&self) -> bool {
        !matches!(
            self,
            Fact::ProxyReign { .. }
                | Fact::Committed { .. }
                | Fact::Acknowledged { .. }
                | Fact::SessionOpens { .. }
        )
    }
}

impl fmt::Display for Fact {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Fact::Begins(fault) => write!(f, "FAULT  begins {fault:?}"),
            Fact::Ends(fault) => write!(f, "FAULT  ends   {fault:?}"),
            Fact::Healed => write!(f, "HEALED"),
            Fact::AgentStarts { node } => write!(f, "{}    agent starts", host(*node)),
            Fact::Decided { node, action, reason } => {
                write!(f, "{}    decides {action}: {reason}", host(*node))
            }
            Fact::EffectFailed { node, slot } => write!(f, "{}    an effect failed: {slot:?}", host(*node)),
            Fact::Key { leader: Some((node, epoch)), lease } => {
                write!(f, "etcd   leader {} epoch {epoch} lease {lease}", host(*node))
            }
            Fact::Key { leader: None, .. } => write!(f, "etcd   no leader"),
            Fact::LeaseExpired { lease } => write!(f, "etcd   lease {lease} expired"),
            Fact::LeaseRevoked { node, lease } => write!(f, "{}    guard revoked lease {lease}", host(*node)),
            Fact::Started { node, as_primary } => {
                write!(
                    f,
                    "{}    postgres starts as {}",
                    host(*node),
                    if *as_primary { "primary" } else { "standby" }
                )
            }
            Fact::Promote { node, restart: false } => write!(f, "{}    pg_promote", host(*node)),
            Fact::Promote { node, .. } => write!(f, "{}    start as primary", host(*node)),
            Fact::Writable { node, on, wal } => {
                let does = if *on { "ACCEPTS" } else { "ends" };
                let Wal { timeline, branch, end, .. } = wal;
                write!(f, "{}    postgres {does} writes, timeline {timeline}, at {branch}/{end}", host(*node))
            }
            Fact::Synchronous { on } => write!(f, "synchronous mode {}", if *on { "on" } else { "off" }),
            Fact::InsistedOn { node } => write!(f, "an operator insists on {}", host(*node)),
            Fact::Gone { node } => write!(f, "{}    postgres is gone", host(*node)),
            Fact::ForeignWal { node, from } => {
                write!(f, "{}    takes WAL of another history from {}", host(*node), host(*from))
            }
            Fact::Cloned { node } => write!(f, "{}    is cloned", host(*node)),
            Fact::Guard { node, doing } => write!(f, "{}    guard {doing:?}", host(*node)),
            Fact::Suspended { node, on } => {
                write!(f, "{}    machine {}", host(*node), if *on { "suspended" } else { "runs again" })
            }
            Fact::Vouched { node, leader, until } => {
                write!(f, "{}    vouches for {} until {:.3}", host(*node), host(*leader), seconds(*until))
            }
            Fact::Consented { node, epoch, until, .. } => {
                write!(f, "{}    all vouch, epoch {epoch} until {:.3}", host(*node), seconds(*until))
            }
            Fact::ProxyFrozen { proxy, on } => {
                write!(f, "proxy{proxy} {}", if *on { "frozen" } else { "runs again" })
            }
            Fact::ProxySees { proxy, shown } => match shown.leader {
                Some((node, epoch)) => {
                    let serves = if shown.serves { "serves" } else { "does not serve" };
                    write!(f, "proxy{proxy} sees {} epoch {epoch}, which {serves}", host(node))
                }
                None => write!(f, "proxy{proxy} sees no leader"),
            },
            Fact::ProxyReign { proxy, epoch } => write!(f, "proxy{proxy} reign {epoch}"),
            Fact::SessionOpens { proxy, node, epoch } => {
                write!(f, "proxy{proxy} dials {} epoch {epoch}", host(*node))
            }
            Fact::SessionOpened { proxy, id, node, epoch } => {
                write!(f, "proxy{proxy} session {id} on {} epoch {epoch}", host(*node))
            }
            Fact::SessionClosed { proxy, id } => write!(f, "proxy{proxy} session {id} closed"),
            Fact::Committed { node, branch, end } => write!(f, "{}    commit {branch}/{end}", host(*node)),
            Fact::Acknowledged { proxy, branch, end, promised, .. } => {
                let how = if *promised { ", promised" } else { "" };
                write!(f, "proxy{proxy} commit {branch}/{end} told{how}")
            }
        }
    }
}

/// True time for people.
pub(crate) fn seconds(t: u64) -> f64 {
    std::time::Duration::from_nanos(t).as_secs_f64()
}
