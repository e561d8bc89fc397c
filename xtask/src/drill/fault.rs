//! What can be done to a cluster in a network of its own; plain data.

use std::fmt;
use std::time::Duration;

use clap::ValueEnum;
use serde::Serialize;

/// One kind of fault.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug, Serialize, ValueEnum)]
#[serde(rename_all = "kebab-case")]
pub enum Kind {
    /// The operator asks for another leader.
    Switchover,
    /// A node's agent is stopped as a service manager would, and started again.
    StopAgent,
    /// A node's agent is killed; PostgreSQL and guard live.
    KillAgent,
    /// A node's postmaster is killed; its agent lives.
    KillPostgres,
    /// Both are killed; the machine lives.
    KillBoth,
    /// A node's power fails: silence, and nothing runs any more.
    KillNode,
    /// A node's cable is pulled.
    UnplugNode,
    /// A node's agent is stopped by SIGSTOP.
    FreezeAgent,
    /// All processes of a node's PostgreSQL are.
    FreezePostgres,
    /// A node's guard is.
    FreezeGuard,
    /// A proxy is.
    FreezeProxy,
    /// A member of etcd is.
    FreezeEtcd,
    /// A proxy is killed, and started again.
    KillProxy,
    /// A member of etcd is killed.
    KillEtcd,
    /// All but one of etcd's members are killed: nothing can be written or surely read.
    LoseEtcd,
    /// Between a node and etcd, all its members or one.
    CutNodeEtcd,
    /// Between a node and all other nodes.
    CutNodes,
    /// Between a proxy and etcd, all its members or one.
    CutProxyEtcd,
    /// Between a proxy and the primary.
    CutProxyNode,
    /// Between a member of etcd and the others; its clients still reach it.
    CutEtcdPeers,
    /// The line of a node is slow and loses packets.
    SlowNode,
    /// The line of a member of etcd is.
    SlowEtcd,
    /// A node's disk stands still most of the time, in short turns.
    SlowDisk,
    /// A node's disk does not answer.
    StallDisk,
    /// The primary's disk is full.
    FullDisk,
    /// A node's time of day jumps.
    JumpClock,
}

/// Who can be hit.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Aim {
    /// A PostgreSQL node.
    Node,
    /// The one that leads.
    Primary,
    /// A member of etcd.
    Etcd,
    /// A proxy.
    Proxy,
    /// The node that has a clock of its own.
    Clock,
}

/// What of a part a fault takes hold of: two at once cannot be told apart, or undo each other.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Grip {
    Agent,
    Guard,
    Postgres,
    /// All of them.
    Machine,
    Process,
    Line,
    Disk,
    Clock,
    Nothing,
}

impl Kind {
    /// All of them.
    pub const ALL: &'static [Kind] = &[
        Kind::Switchover,
        Kind::StopAgent,
        Kind::KillAgent,
        Kind::KillPostgres,
        Kind::KillBoth,
        Kind::KillNode,
        Kind::UnplugNode,
        Kind::FreezeAgent,
        Kind::FreezePostgres,
        Kind::FreezeGuard,
        Kind::FreezeProxy,
        Kind::FreezeEtcd,
        Kind::KillProxy,
        Kind::KillEtcd,
        Kind::LoseEtcd,
        Kind::CutNodeEtcd,
        Kind::CutNodes,
        Kind::CutProxyEtcd,
        Kind::CutProxyNode,
        Kind::CutEtcdPeers,
        Kind::SlowNode,
        Kind::SlowEtcd,
        Kind::SlowDisk,
        Kind::StallDisk,
        Kind::FullDisk,
        Kind::JumpClock,
    ];

    /// Who can be hit.
    pub fn aim(self) -> Aim {
        match self {
            Kind::StopAgent
            | Kind::KillAgent
            | Kind::KillPostgres
            | Kind::KillBoth
            | Kind::KillNode
            | Kind::UnplugNode
            | Kind::FreezeAgent
            | Kind::FreezePostgres
            | Kind::CutNodeEtcd
            | Kind::CutNodes
            | Kind::SlowNode
            | Kind::SlowDisk
            | Kind::StallDisk => Aim::Node,
            // A guard runs only while its node is primary.
            Kind::Switchover | Kind::FreezeGuard | Kind::FullDisk => Aim::Primary,
            Kind::FreezeEtcd | Kind::KillEtcd | Kind::LoseEtcd | Kind::CutEtcdPeers | Kind::SlowEtcd => {
                Aim::Etcd
            }
            Kind::FreezeProxy | Kind::KillProxy | Kind::CutProxyEtcd | Kind::CutProxyNode => Aim::Proxy,
            Kind::JumpClock => Aim::Clock,
        }
    }

    fn grip(self) -> Grip {
        match self {
            Kind::StopAgent | Kind::KillAgent | Kind::FreezeAgent => Grip::Agent,
            Kind::FreezeGuard => Grip::Guard,
            Kind::KillPostgres | Kind::FreezePostgres => Grip::Postgres,
            Kind::KillBoth | Kind::KillNode => Grip::Machine,
            Kind::FreezeProxy | Kind::FreezeEtcd | Kind::KillProxy | Kind::KillEtcd | Kind::LoseEtcd => {
                Grip::Process
            }
            Kind::UnplugNode
            | Kind::CutNodeEtcd
            | Kind::CutNodes
            | Kind::CutProxyEtcd
            | Kind::CutProxyNode
            | Kind::CutEtcdPeers
            | Kind::SlowNode
            | Kind::SlowEtcd => Grip::Line,
            Kind::SlowDisk | Kind::StallDisk | Kind::FullDisk => Grip::Disk,
            Kind::JumpClock => Grip::Clock,
            Kind::Switchover => Grip::Nothing,
        }
    }

    /// Whether it cannot be done to the part that `other` is being done to.
    ///
    /// A guard that is frozen is one line of defence less; that its agent or its machine fails too within seconds is
    /// one failure more than the agent claims to stand without a hardware watchdog.
    pub fn clashes_with(self, other: Kind) -> bool {
        let (ours, theirs) = (self.grip(), other.grip());
        let is_either = |grip| ours == grip || theirs == grip;
        let bears_company = is_either(Grip::Clock) || is_either(Grip::Nothing);
        ours == theirs || is_either(Grip::Machine) || (is_either(Grip::Guard) && !bears_company)
    }

    /// Whether, done to the primary, it may end its reign without a clean hand-over: without synchronous mode what the
    /// next primary had not received yet is lost then.
    pub fn may_lose_rows(self) -> bool {
        match self {
            Kind::KillAgent
            | Kind::KillPostgres
            | Kind::KillBoth
            | Kind::KillNode
            | Kind::UnplugNode
            | Kind::FreezeAgent
            | Kind::FreezePostgres
            | Kind::FreezeGuard
            | Kind::CutNodeEtcd
            | Kind::SlowNode
            | Kind::SlowDisk
            | Kind::StallDisk
            | Kind::FullDisk => true,
            // Nobody else becomes primary, or it hands over cleanly.
            Kind::Switchover
            | Kind::StopAgent
            | Kind::FreezeProxy
            | Kind::FreezeEtcd
            | Kind::KillProxy
            | Kind::KillEtcd
            | Kind::LoseEtcd
            | Kind::CutNodes
            | Kind::CutProxyEtcd
            | Kind::CutProxyNode
            | Kind::CutEtcdPeers
            | Kind::SlowEtcd
            | Kind::JumpClock => false,
        }
    }

    /// Whether it may keep nodes or etcd from one another, so that another fault beside it ends a reign uncleanly.
    pub fn divides(self) -> bool {
        match self.grip() {
            Grip::Line | Grip::Machine => true,
            Grip::Process => self.aim() == Aim::Etcd,
            Grip::Agent | Grip::Guard | Grip::Postgres | Grip::Disk | Grip::Clock | Grip::Nothing => false,
        }
    }

    /// Whether it needs disks of the nodes' own.
    pub fn needs_disk(self) -> bool {
        self.grip() == Grip::Disk
    }
}

impl fmt::Display for Kind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let value = self.to_possible_value();
        f.pad(value.as_ref().map_or("", |value| value.get_name()))
    }
}

/// Which packets a cut drops.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum Direction {
    /// What the victim sends.
    Out,
    /// What is sent to it.
    In,
    /// Both.
    Both,
}

/// Who is hit, as far as it can be said before.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Victim {
    /// The node that leads, or the member of etcd that does.
    Leader,
    /// Another one: this one in the order of their names.
    Other(usize),
    /// This one of all.
    Number(usize),
}

/// A fault to come.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Fault {
    /// What is done.
    pub kind: Kind,
    /// To whom.
    pub victim: Victim,
    /// Which packets, where it is a cut.
    pub direction: Direction,
    /// Whether a cut from etcd is from all its members, or from one.
    pub whole: bool,
    /// How far a clock jumps, in seconds.
    pub jump_s: i64,
    /// When, after the incident began.
    pub after: Duration,
    /// How long until it is undone.
    pub hold: Duration,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn all_kinds_are_listed_and_have_names() {
        assert_eq!(Kind::ALL, Kind::value_variants());
        assert_eq!(Kind::CutNodeEtcd.to_string(), "cut-node-etcd");
    }

    #[test]
    fn what_takes_away_both_lines_of_defence_is_not_done_at_once() {
        for other in [Kind::FreezeAgent, Kind::KillAgent, Kind::KillNode, Kind::StallDisk, Kind::UnplugNode] {
            assert!(
                Kind::FreezeGuard.clashes_with(other) && other.clashes_with(Kind::FreezeGuard),
                "{other}"
            );
        }
        assert!(!Kind::FreezeGuard.clashes_with(Kind::JumpClock));
        assert!(!Kind::FreezeAgent.clashes_with(Kind::UnplugNode));
        assert!(Kind::SlowNode.clashes_with(Kind::UnplugNode));
    }
}
