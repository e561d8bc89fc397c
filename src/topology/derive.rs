//! `ClusterView` + standing of the leader -> who takes sessions, and why the others do not. Pure.

use std::fmt;

use pgvane_cluster::ids::{Epoch, Lsn, NodeName, Revision};
use pgvane_cluster::records::{MemberRecord, MemberRole, MemberState};
use pgvane_cluster::view::{ClusterView, Unled};

use super::freshness::Standing;

/// How far a replica that does not say it streams may be behind, in bytes: one WAL segment. It covers the
/// moments around a failover, when nobody streams; one that is cut off falls behind further.
const UNPROVEN_LAG_LIMIT: u64 = 16 << 20;

/// Host (name or address) and port.
pub type Address = (String, u16);

/// Who takes sessions at one revision.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Plan {
    /// The revision it was derived from.
    pub revision: Revision,
    /// The leader key.
    pub leader: Option<(NodeName, Epoch)>,
    /// The primary for new sessions.
    pub primary: Result<PrimaryPlan, NoPrimary>,
    /// All members, by name.
    pub members: Vec<MemberPlan>,
}

/// Where writes go.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct PrimaryPlan {
    /// Who serves.
    pub name: NodeName,
    /// Where.
    pub address: Address,
    /// In which reign.
    pub epoch: Epoch,
}

/// One member as a target for reads.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct MemberPlan {
    /// Who.
    pub name: NodeName,
    /// What it says it is.
    pub role: MemberRole,
    /// What it says it is doing.
    pub state: MemberState,
    /// Where PostgreSQL listens, when the record says so.
    pub address: Option<Address>,
    /// Bytes of WAL it has to replay to reach the leader's last known position. Both are samples.
    pub lag: Option<u64>,
    /// Whether it is a synchronous standby by the `sync` key (contract 1.5).
    pub is_sync: bool,
    /// Whether new read sessions may go to it as a replica.
    pub reads: Result<(), NotReadable>,
}

/// Why nobody takes writes.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum NoPrimary {
    /// The source has not answered since the proxy started.
    StoreNeverAnswered,
    /// The source does not answer and nobody vouches for the last leader.
    StoreLost(NodeName),
    /// The proxy was frozen and has no new proof yet.
    Suspended,
    /// The leader key is free.
    NoLeader,
    /// Everybody was asked, and nobody can be believed to lead.
    Unled(Unled),
    /// The leader key names a member without a readable record.
    NoRecord(NodeName),
    /// The leader's record says it does not serve: not yet, or no longer.
    NotServing(NodeName, MemberRole, MemberState),
    /// The leader's record is of an earlier reign.
    OtherEpoch(NodeName, Epoch),
    /// The leader's record has no usable `conn_url`.
    NoAddress(NodeName),
    /// The store shows an older reign than one seen before: it was restored from a backup, or replaced.
    EpochWentBack {
        /// What it shows.
        shown: Epoch,
        /// What was seen before.
        seen: Epoch,
    },
}

impl fmt::Display for NoPrimary {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            NoPrimary::StoreNeverAnswered => {
                f.write_str("nobody has told of the cluster since the proxy started")
            }
            NoPrimary::StoreLost(name) => {
                write!(f, "nobody proves any more that the last leader {name} leads")
            }
            NoPrimary::Suspended => f.write_str("the proxy was frozen and is asking who leads"),
            NoPrimary::NoLeader => f.write_str("nobody holds the leader key"),
            NoPrimary::Unled(why) => unled(why, f),
            NoPrimary::NoRecord(name) => write!(f, "the leader {name} has no readable member record"),
            NoPrimary::NotServing(name, role, state) => {
                write!(f, "the leader {name} does not serve: its role is {role}, its state {state}")
            }
            NoPrimary::OtherEpoch(name, epoch) => {
                write!(f, "the leader {name} does not serve yet: its record is of epoch {epoch}")
            }
            NoPrimary::NoAddress(name) => write!(f, "the record of the leader {name} has no usable conn_url"),
            NoPrimary::EpochWentBack { shown, seen } => write!(
                f,
                "etcd shows epoch {shown} after {seen} was seen; if it was restored, restart the proxy"
            ),
        }
    }
}

fn unled(why: &Unled, f: &mut fmt::Formatter<'_>) -> fmt::Result {
    match why {
        Unled::NoClaim => f.write_str("no member says that it is the primary"),
        Unled::Disputed(names, timeline) => {
            let names = join(names.iter());
            write!(f, "{names} all say that they are the primary, on the same timeline {timeline}")
        }
        Unled::Outdated { claimant, timeline, newest } => write!(
            f,
            "{claimant} says that it is the primary on timeline {timeline}, but timeline {newest} was seen; if that \
             one was given up, restart the proxy"
        ),
        Unled::Strangers(all) => {
            let all = join(all.iter().map(|(name, id)| format!("{name} ({id})")));
            write!(f, "these are servers of different clusters, by their system identifiers: {all}")
        }
    }
}

fn join(words: impl Iterator<Item = impl fmt::Display>) -> String {
    words.map(|word| word.to_string()).collect::<Vec<_>>().join(", ")
}

/// Why a member takes no reads as a replica.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum NotReadable {
    /// Its role is another.
    Role(MemberRole),
    /// It does not run.
    State(MemberState),
    /// Its operator said no.
    NoLoadBalance,
    /// It does not stream and is this many bytes behind.
    NotStreaming(u64),
    /// Its record has no usable `conn_url`.
    NoAddress,
}

impl fmt::Display for NotReadable {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            NotReadable::Role(role) => write!(f, "role {role}"),
            NotReadable::State(state) => write!(f, "state {state}"),
            NotReadable::NoLoadBalance => f.write_str("tag noloadbalance"),
            NotReadable::NotStreaming(lag) => write!(f, "does not stream and is {lag} bytes behind"),
            NotReadable::NoAddress => f.write_str("no usable conn_url"),
        }
    }
}

/// Derives the plan. `newest` is the highest epoch this proxy has ever seen in this cluster (S4).
pub fn derive(view: Option<&ClusterView>, standing: Standing, newest: Epoch) -> Plan {
    let Some(view) = view else {
        let primary = Err(NoPrimary::StoreNeverAnswered);
        return Plan { revision: Revision(0), leader: None, primary, members: vec![] };
    };
    Plan {
        revision: view.revision,
        leader: view.leader.as_ref().map(|l| (l.name.clone(), l.epoch)),
        primary: primary(view, standing, newest),
        members: members(view),
    }
}

fn primary(view: &ClusterView, standing: Standing, newest: Epoch) -> Result<PrimaryPlan, NoPrimary> {
    let leader = view
        .leader
        .as_ref()
        .ok_or_else(|| view.unled.clone().map_or(NoPrimary::NoLeader, NoPrimary::Unled))?;
    let name = || leader.name.clone();
    if leader.epoch < newest {
        return Err(NoPrimary::EpochWentBack { shown: leader.epoch, seen: newest });
    }
    match standing {
        Standing::NeverSeen => return Err(NoPrimary::StoreNeverAnswered),
        Standing::Lost => return Err(NoPrimary::StoreLost(name())),
        Standing::Suspended => return Err(NoPrimary::Suspended),
        Standing::Proven | Standing::Vouched => {}
    }
    let record = &view.leader_member().ok_or_else(|| NoPrimary::NoRecord(name()))?.record;
    if !record.is_serving_primary() {
        return Err(NoPrimary::NotServing(name(), record.role.clone(), record.state.clone()));
    }
    let serving = record.pgvane.as_ref().and_then(|native| native.serving_epoch).map(Epoch);
    if let Some(other) = serving.filter(|serving| *serving != leader.epoch) {
        return Err(NoPrimary::OtherEpoch(name(), other));
    }
    let address = record.postgres_address().ok_or_else(|| NoPrimary::NoAddress(name()))?;
    Ok(PrimaryPlan { name: name(), address, epoch: leader.epoch })
}

fn members(view: &ClusterView) -> Vec<MemberPlan> {
    let head = leader_position(view);
    let plan = |(name, member): (&NodeName, &pgvane_cluster::view::Member)| {
        let record = &member.record;
        let lag = head.zip(record.replay_lsn).map(|(head, replayed)| head.bytes_since(replayed));
        MemberPlan {
            name: name.clone(),
            role: record.role.clone(),
            state: record.state.clone(),
            address: record.postgres_address(),
            lag,
            is_sync: is_sync(view, name),
            reads: readable(record, lag),
        }
    };
    view.members.iter().map(plan).collect()
}

fn is_sync(view: &ClusterView, name: &NodeName) -> bool {
    view.sync.as_ref().is_some_and(|key| key.value.has_standby(name))
}

/// The leader's last known position: the later of what it wrote to `status` and to its own record.
fn leader_position(view: &ClusterView) -> Option<Lsn> {
    let status = view.status.as_ref().map(|s| s.optime).filter(|lsn| *lsn > Lsn(0));
    let own = view.leader_member().and_then(|m| m.record.xlog_location);
    status.max(own)
}

fn readable(record: &MemberRecord, lag: Option<u64>) -> Result<(), NotReadable> {
    if record.role != MemberRole::Replica {
        return Err(NotReadable::Role(record.role.clone()));
    }
    if record.state != MemberState::Running {
        return Err(NotReadable::State(record.state.clone()));
    }
    if record.tags.no_load_balance() {
        return Err(NotReadable::NoLoadBalance);
    }
    if record.postgres_address().is_none() {
        return Err(NotReadable::NoAddress);
    }
    let streams = record.replication_state.as_deref() == Some("streaming");
    match lag {
        Some(lag) if !streams && lag > UNPROVEN_LAG_LIMIT => Err(NotReadable::NotStreaming(lag)),
        // Old versions publish neither a state nor positions; what nothing speaks against is accepted.
        _ => Ok(()),
    }
}

#[cfg(test)]
mod tests {
    use pgvane_cluster::ids::Timeline;
    use pgvane_cluster::records::{NativeMember, StatusRecord, SyncRecord, Tags};
    use pgvane_cluster::view::{LeaderKey, Member, Versioned};

    use super::*;

    const EPOCH: Epoch = Epoch(40);

    fn record(state: MemberState, role: MemberRole, port: u16) -> MemberRecord {
        let conn_url = Some(format!("postgres://10.0.0.1:{port}/postgres"));
        MemberRecord { conn_url, ..MemberRecord::new(state, role) }
    }

    /// pg1 leads and serves, pg2 and pg3 stream.
    fn base() -> ClusterView {
        let mut view = ClusterView { revision: Revision(50), ..ClusterView::default() };
        view.leader = Some(LeaderKey { name: "pg1".into(), epoch: EPOCH, lease: None });
        view.status = Some(StatusRecord { optime: Lsn(1 << 30), ..StatusRecord::default() });
        put(&mut view, "pg1", record(MemberState::Running, MemberRole::Primary, 5001));
        for (name, port) in [("pg2", 5002), ("pg3", 5003)] {
            let mut replica = record(MemberState::Running, MemberRole::Replica, port);
            replica.replication_state = Some("streaming".to_owned());
            replica.replay_lsn = Some(Lsn(1 << 30));
            put(&mut view, name, replica);
        }
        view
    }

    fn put(view: &mut ClusterView, name: &str, record: MemberRecord) {
        view.members.insert(name.into(), Member { record, lease: None });
    }

    fn edit(view: &mut ClusterView, name: &str, change: impl FnOnce(&mut MemberRecord)) {
        change(&mut view.members.get_mut(&NodeName::from(name)).expect("a member of the base view").record);
    }

    fn plan(view: &ClusterView) -> Plan {
        derive(Some(view), Standing::Proven, EPOCH)
    }

    fn readers(view: &ClusterView) -> Vec<String> {
        plan(view).members.into_iter().filter(|m| m.reads.is_ok()).map(|m| m.name.to_string()).collect()
    }

    #[test]
    fn synchronous_standbys_are_those_of_the_key() {
        let mut view = base();
        let value = SyncRecord::parse(br#"{"leader":"pg1","sync_standby":"PG3"}"#).expect("reads");
        view.sync = Some(Versioned { value, mod_revision: Revision(1) });
        let plan = derive(Some(&view), Standing::Proven, EPOCH);
        assert_eq!(plan.members.iter().map(|m| m.is_sync).collect::<Vec<_>>(), [false, false, true]);
    }

    #[test]
    fn the_serving_leader_takes_writes_and_the_streaming_replicas_take_reads() {
        let view = base();
        let expected =
            PrimaryPlan { name: "pg1".into(), address: ("10.0.0.1".to_owned(), 5001), epoch: EPOCH };
        assert_eq!(plan(&view).primary, Ok(expected));
        assert_eq!(readers(&view), ["pg2", "pg3"]);
    }

    #[test]
    fn holding_the_key_is_not_serving() {
        for (role, state) in [
            (MemberRole::Replica, MemberState::Running),
            (MemberRole::Promoted, MemberState::Running),
            (MemberRole::Primary, MemberState::Starting),
            (MemberRole::Primary, MemberState::Stopping),
            (MemberRole::Primary, MemberState::Crashed),
            (MemberRole::Demoted, MemberState::Stopped),
            (MemberRole::StandbyLeader, MemberState::Running),
        ] {
            let mut view = base();
            edit(&mut view, "pg1", |r| (r.role, r.state) = (role.clone(), state.clone()));
            assert_eq!(plan(&view).primary, Err(NoPrimary::NotServing("pg1".into(), role, state)));
        }
    }

    #[test]
    fn a_native_record_of_another_reign_does_not_serve() {
        let mut view = base();
        let native = |epoch| Some(NativeMember { serving_epoch: epoch, ..NativeMember::default() });
        edit(&mut view, "pg1", |r| r.pgvane = native(Some(39)));
        assert_eq!(plan(&view).primary, Err(NoPrimary::OtherEpoch("pg1".into(), Epoch(39))));
        edit(&mut view, "pg1", |r| r.pgvane = native(Some(40)));
        assert!(plan(&view).primary.is_ok());
    }

    #[test]
    fn nobody_is_picked_without_the_key() {
        let mut view = base();
        view.leader = None;
        assert_eq!(plan(&view).primary, Err(NoPrimary::NoLeader));
        view.leader = Some(LeaderKey { name: "pg9".into(), epoch: EPOCH, lease: None });
        assert_eq!(plan(&view).primary, Err(NoPrimary::NoRecord("pg9".into())));
        assert_eq!(derive(None, Standing::Proven, EPOCH).primary, Err(NoPrimary::StoreNeverAnswered));
    }

    #[test]
    fn without_a_leader_key_the_members_say_why_nobody_leads() {
        let mut view = base();
        view.leader = None;
        let outdated = Unled::Outdated { claimant: "pg1".into(), timeline: Timeline(3), newest: Timeline(4) };
        for (why, text) in [
            (Unled::NoClaim, "no member says that it is the primary"),
            (
                Unled::Disputed(vec!["pg1".into(), "pg2".into()], Timeline(3)),
                "pg1, pg2 all say that they are the primary, on the same timeline 3",
            ),
            (
                outdated,
                "pg1 says that it is the primary on timeline 3, but timeline 4 was seen; if that one was given up, \
                 restart the proxy",
            ),
            (
                Unled::Strangers(vec![("pg1".into(), "7".to_owned()), ("pg2".into(), "8".to_owned())]),
                "these are servers of different clusters, by their system identifiers: pg1 (7), pg2 (8)",
            ),
        ] {
            view.unled = Some(why.clone());
            let told = plan(&view).primary.expect_err("nobody leads");
            assert_eq!((told.to_string().as_str(), told), (text, NoPrimary::Unled(why)));
        }
    }

    #[test]
    fn a_record_without_an_address_takes_nothing() {
        let mut view = base();
        for name in ["pg1", "pg2"] {
            edit(&mut view, name, |r| r.conn_url = Some("postgres://".to_owned()));
        }
        assert_eq!(plan(&view).primary, Err(NoPrimary::NoAddress("pg1".into())));
        assert_eq!(readers(&view), ["pg3"]);
    }

    #[test]
    fn epochs_never_go_back() {
        let plan = derive(Some(&base()), Standing::Proven, Epoch(41));
        assert_eq!(plan.primary, Err(NoPrimary::EpochWentBack { shown: EPOCH, seen: Epoch(41) }));
    }

    #[test]
    fn only_a_proven_leader_takes_writes_but_reads_go_on() {
        for (standing, routes) in [
            (Standing::NeverSeen, false),
            (Standing::Proven, true),
            (Standing::Vouched, true),
            (Standing::Suspended, false),
            (Standing::Lost, false),
        ] {
            let plan = derive(Some(&base()), standing, EPOCH);
            assert_eq!(plan.primary.is_ok(), routes, "{standing:?}");
            assert_eq!(plan.members.iter().filter(|m| m.reads.is_ok()).count(), 2, "{standing:?}");
        }
    }

    #[test]
    fn what_keeps_a_member_from_reads() {
        let mut view = base();
        edit(&mut view, "pg2", |r| r.state = MemberState::Starting);
        edit(&mut view, "pg3", |r| {
            r.tags = Tags([("noloadbalance".to_owned(), true.into())].into());
        });
        let reads: Vec<_> = plan(&view).members.into_iter().map(|m| m.reads).collect();
        assert_eq!(
            reads,
            [
                Err(NotReadable::Role(MemberRole::Primary)),
                Err(NotReadable::State(MemberState::Starting)),
                Err(NotReadable::NoLoadBalance),
            ]
        );
    }

    #[test]
    fn who_does_not_stream_must_be_close() {
        let mut view = base();
        let close = Lsn((1 << 30) - UNPROVEN_LAG_LIMIT);
        for state in [None, Some("in archive recovery".to_owned())] {
            edit(&mut view, "pg2", |r| (r.replication_state, r.replay_lsn) = (state.clone(), Some(close)));
            assert_eq!(readers(&view), ["pg2", "pg3"], "{state:?}");
            edit(&mut view, "pg2", |r| r.replay_lsn = Some(Lsn(close.0 - 1)));
            assert_eq!(readers(&view), ["pg3"], "{state:?}");
            edit(&mut view, "pg2", |r| r.replay_lsn = None);
            assert_eq!(readers(&view), ["pg2", "pg3"], "{state:?}");
        }
    }

    #[test]
    fn lag_counts_from_the_later_of_the_two_positions_of_the_leader() {
        let mut view = base();
        edit(&mut view, "pg1", |r| r.xlog_location = Some(Lsn((1 << 30) + 500)));
        assert_eq!(plan(&view).members[1].lag, Some(500));
        view.status = None;
        assert_eq!(plan(&view).members[1].lag, Some(500));
    }
}
