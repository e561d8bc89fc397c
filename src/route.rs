//! Which target a new session goes to. Pure: the picture, the listener's rules and a cursor decide.

use std::fmt;
use std::sync::Arc;

use pgvane_cluster::clock::Tick;
use pgvane_cluster::ids::NodeName;

use crate::topology::{Admission, NoPrimary, Target, Topology};

/// What a listener is for.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Role {
    /// The serving leader.
    Primary,
    /// Replicas, one after the other.
    Replica,
    /// Synchronous standbys.
    Sync,
    /// Replicas that are no synchronous standbys.
    Async,
    /// Replicas and the primary, one after the other.
    Any,
}

impl Role {
    /// Whether it is for reads on replicas, so that it needs no primary.
    pub const fn is_for_replicas(self) -> bool {
        matches!(self, Role::Replica | Role::Sync | Role::Async)
    }

    /// Whether a replica may serve it.
    fn takes(self, replica: &Target) -> bool {
        match self {
            Role::Primary => false,
            Role::Replica | Role::Any => true,
            Role::Sync => replica.is_sync,
            Role::Async => !replica.is_sync,
        }
    }

    /// The word in the settings, logs and metrics.
    pub const fn label(self) -> &'static str {
        match self {
            Role::Primary => "primary",
            Role::Replica => "replica",
            Role::Sync => "sync",
            Role::Async => "async",
            Role::Any => "any",
        }
    }
}

/// How sessions are shared out among several targets.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub enum Balance {
    /// To each in turn.
    #[default]
    RoundRobin,
    /// To the one that has the fewest of ours, in turn among equals.
    LeastConnections,
    /// The same, but what is behind gets fewer: a MiB behind counts as twice the sessions, two as thrice.
    LagWeighted,
}

/// What a target is behind that does not say it, to [`Balance::LagWeighted`].
const UNKNOWN_LAG: u64 = 16 << 20;

impl Balance {
    /// The lower, the sooner `target` is chosen; among equals it is their turn.
    fn burden(self, target: &Target) -> u128 {
        let sessions = target.node.sessions() as u128;
        match self {
            Balance::RoundRobin => 0,
            Balance::LeastConnections => sessions,
            Balance::LagWeighted => {
                let lag = if target.reign.is_some() { 0 } else { target.lag.unwrap_or(UNKNOWN_LAG) };
                (sessions + 1) * ((1 << 20) + u128::from(lag))
            }
        }
    }
}

/// How a listener chooses.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Rules {
    /// What it is for.
    pub role: Role,
    /// How it shares out.
    pub balance: Balance,
    /// Whether reads go to the primary when no replica takes them.
    pub fall_back_to_primary: bool,
    /// New sessions avoid replicas that are known to be more bytes behind than this.
    pub max_lag: Option<u64>,
    /// Most sessions on one target, those of other listeners of this proxy included.
    pub max_sessions_per_target: Option<usize>,
}

/// Whom a session may go to.
#[derive(Clone, Debug)]
pub enum Choice {
    /// To this one.
    Target(Arc<Target>),
    /// To one of these, when it has room.
    Full(Vec<Arc<Target>>),
    /// All that qualify were tried.
    Nobody,
}

/// Chooses for the `cursor`-th session. Nodes that refused a moment ago come after those that did not; those that
/// are full are left to the sessions that wait for them, of which this one may be one.
pub fn choose(
    rules: Rules,
    topology: &Topology,
    cursor: usize,
    tried: &[NodeName],
    is_waiting: bool,
    now: Tick,
) -> Choice {
    let fits = |t: &&Arc<Target>| !tried.contains(&t.name) && is_admitted(t);
    let primary = topology.primary.as_ref().ok().filter(fits);
    let mut candidates: Vec<&Arc<Target>> = match rules.role {
        Role::Primary => vec![],
        Role::Replica | Role::Sync | Role::Async | Role::Any => {
            let replicas = topology.replicas.iter();
            replicas.filter(|t| rules.role.takes(t) && within_lag(rules, t)).filter(fits).collect()
        }
    };
    let falls_back = candidates.is_empty() && rules.fall_back_to_primary;
    if !rules.role.is_for_replicas() || falls_back {
        candidates.extend(primary);
    }
    if candidates.is_empty() {
        return Choice::Nobody;
    }
    let count = candidates.len();
    candidates.rotate_left(cursor % count);
    let has_room = |t: &&&Arc<Target>| !t.node.is_full(rules.max_sessions_per_target, is_waiting);
    // The first of the least.
    let best = candidates.iter().filter(has_room);
    match best.min_by_key(|t| (t.node.is_shunned(now) || !t.node.answers(), rules.balance.burden(t))) {
        Some(target) => Choice::Target(Arc::clone(target)),
        None => Choice::Full(candidates.into_iter().cloned().collect()),
    }
}

/// Whether the operator lets it take new sessions.
fn is_admitted(target: &Target) -> bool {
    target.node.admission() == Admission::Enabled
}

fn within_lag(rules: Rules, target: &Target) -> bool {
    rules.max_lag.is_none_or(|limit| target.lag.is_none_or(|lag| lag <= limit))
}

/// Whether `target`, chosen from an earlier picture, still takes new sessions in this one (S5).
pub fn still_takes(topology: &Topology, target: &Target) -> bool {
    if !is_admitted(target) {
        return false;
    }
    match &target.reign {
        // The same reign object: a reign that ended and began again is another one.
        Some(reign) => {
            let current = topology.primary.as_ref().ok().and_then(|p| p.reign.as_ref());
            current.is_some_and(|current| Arc::ptr_eq(current, reign)) && reign.is_open(Tick::now())
        }
        None => topology.replicas.iter().any(|t| t.name == target.name && t.address == target.address),
    }
}

/// All servers a cancel request may belong to: who gave out the key is not known here, and a server that did
/// not ignores it.
pub fn all_for_cancel(rules: Rules, topology: &Topology) -> Vec<Arc<Target>> {
    let mut targets: Vec<_> = match rules.role {
        Role::Primary => vec![],
        // All: who was a synchronous standby when the session began may be none now.
        Role::Replica | Role::Sync | Role::Async | Role::Any => topology.replicas.clone(),
    };
    if !rules.role.is_for_replicas() || rules.fall_back_to_primary {
        targets.extend(topology.primary.as_ref().ok().cloned());
    }
    targets
}

/// Why nobody takes sessions of a listener.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Nobody {
    /// No primary.
    Primary(NoPrimary),
    /// The primary, which the operator has set aside.
    SetAside(NodeName, Admission),
    /// No replica; per member the reason.
    Replica(Vec<(NodeName, String)>),
    /// Somebody should, but could not be reached; per target the error.
    Unreachable(Vec<(NodeName, String)>),
}

impl fmt::Display for Nobody {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let list = |f: &mut fmt::Formatter<'_>, whom: &[(NodeName, String)]| {
            for (index, (name, why)) in whom.iter().enumerate() {
                write!(f, "{}{name}: {why}", if index == 0 { "" } else { ", " })?;
            }
            Ok(())
        };
        match self {
            Nobody::Primary(why) => why.fmt(f),
            Nobody::SetAside(name, admission) => {
                write!(f, "the primary {name} is {} by an operator", admission.label())
            }
            Nobody::Replica(members) if members.is_empty() => f.write_str("the cluster has no members"),
            Nobody::Replica(members) => {
                f.write_str("no replica takes sessions (")?;
                list(f, members)?;
                f.write_str(")")
            }
            Nobody::Unreachable(targets) if targets.is_empty() => f.write_str("no server has answered yet"),
            Nobody::Unreachable(targets) => list(f, targets),
        }
    }
}

/// Why [`choose`] found nobody at all.
pub fn why_nobody(rules: Rules, topology: &Topology) -> Nobody {
    let no_primary = topology.primary.as_ref().err();
    if let (Role::Primary, Ok(primary)) = (rules.role, &topology.primary) {
        return Nobody::SetAside(primary.name.clone(), primary.node.admission());
    }
    match (rules.role, no_primary) {
        (Role::Primary, Some(why)) => return Nobody::Primary(why.clone()),
        (_, Some(NoPrimary::StoreNeverAnswered)) => return Nobody::Primary(NoPrimary::StoreNeverAnswered),
        _ => {}
    }
    let why = |name: &NodeName| {
        let target = topology.replicas.iter().find(|t| t.name == *name);
        if let Some(target) = target.filter(|target| !is_admitted(target)) {
            return format!("is {} by an operator", target.node.admission().label());
        }
        if let Some(target) = target.filter(|target| !rules.role.takes(target)) {
            return format!("is {} synchronous standby", if target.is_sync { "a" } else { "no" });
        }
        match (target.and_then(|t| t.lag), rules.max_lag) {
            (Some(lag), Some(limit)) => format!("{lag} bytes behind, more than max_lag = {limit}"),
            _ => "takes sessions".to_owned(),
        }
    };
    let members = topology.members.iter().map(|m| {
        let reason = m.reads.as_ref().map_or_else(ToString::to_string, |()| why(&m.name));
        (m.name.clone(), reason)
    });
    Nobody::Replica(members.collect())
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use proptest::prelude::*;

    use super::*;
    use crate::topology::fixture::{primary, replica, topology};
    use crate::topology::{OnNode, Queueing};

    const READS: Rules = Rules {
        role: Role::Replica,
        balance: Balance::RoundRobin,
        fall_back_to_primary: false,
        max_lag: None,
        max_sessions_per_target: None,
    };
    const WRITES: Rules = Rules { role: Role::Primary, ..READS };

    fn three() -> Topology {
        topology(Some(primary("a", 7)), vec![replica("b", Some(10)), replica("c", Some(2_000))])
    }

    fn picks(rules: Rules, topology: &Topology, tried: &[&str]) -> Vec<String> {
        let tried: Vec<NodeName> = tried.iter().map(|n| NodeName::from(*n)).collect();
        let pick = |cursor| match choose(rules, topology, cursor, &tried, false, Tick::now()) {
            Choice::Target(target) => target.name.to_string(),
            Choice::Full(targets) => format!("full {}", targets.len()),
            Choice::Nobody => "-".to_owned(),
        };
        (0..4).map(pick).collect()
    }

    #[test]
    fn roles() {
        let t = three();
        assert_eq!(picks(WRITES, &t, &[]), ["a"; 4]);
        assert_eq!(picks(READS, &t, &[]), ["b", "c", "b", "c"]);
        assert_eq!(picks(Rules { role: Role::Any, ..READS }, &t, &[]), ["b", "c", "a", "b"]);
    }

    #[test]
    fn synchronous_standbys_and_the_others() {
        let mut t = three();
        t.replicas[0] = Arc::new(Target { is_sync: true, ..unshared(&t.replicas[0]) });
        let (sync, others) = (Rules { role: Role::Sync, ..READS }, Rules { role: Role::Async, ..READS });
        assert_eq!(picks(sync, &t, &[]), ["b"; 4]);
        assert_eq!(picks(others, &t, &[]), ["c"; 4]);
        assert_eq!(picks(Rules { fall_back_to_primary: true, ..sync }, &t, &["b"]), ["a"; 4]);
        assert_eq!(all_for_cancel(sync, &t).len(), 2, "it may have been another one before");
    }

    fn unshared(target: &Target) -> Target {
        let Target { name, address, reign, lag, is_sync, node } = target;
        Target {
            name: name.clone(),
            address: address.clone(),
            reign: reign.clone(),
            lag: *lag,
            is_sync: *is_sync,
            node: Arc::clone(node),
        }
    }

    #[test]
    fn each_target_is_tried_once_and_the_primary_is_the_last_resort() {
        let t = three();
        assert_eq!(picks(READS, &t, &["b"]), ["c"; 4]);
        assert_eq!(picks(READS, &t, &["b", "c"]), ["-"; 4]);
        let falls_back = Rules { fall_back_to_primary: true, ..READS };
        assert_eq!(picks(falls_back, &t, &["b"]), ["c"; 4]);
        assert_eq!(picks(falls_back, &t, &["b", "c"]), ["a"; 4]);
        assert_eq!(picks(falls_back, &t, &["a", "b", "c"]), ["-"; 4]);
        assert_eq!(picks(WRITES, &t, &["a"]), ["-"; 4]);
    }

    #[test]
    fn lag_keeps_new_sessions_away_only_when_it_is_known() {
        let mut t = three();
        let limited = Rules { max_lag: Some(1_000), ..READS };
        assert_eq!(picks(limited, &t, &[]), ["b"; 4]);
        t.replicas = vec![replica("d", None)];
        assert_eq!(picks(limited, &t, &[]), ["d"; 4]);
    }

    #[test]
    fn who_refused_a_moment_ago_comes_last() {
        let t = three();
        let now = Tick::now();
        t.replicas[0].node.shun(now);
        assert_eq!(picks(READS, &t, &[]), ["c"; 4]);
        t.replicas[1].node.shun(now);
        assert_eq!(picks(READS, &t, &[]), ["b", "c", "b", "c"], "nobody else");
        let later = now + Duration::from_secs(2);
        assert!(!t.replicas[0].node.is_shunned(later));
        t.replicas[0].node.welcome();
        assert_eq!(picks(READS, &t, &[]), ["b"; 4]);
    }

    #[test]
    fn who_does_not_answer_checks_comes_last() {
        let t = three();
        t.replicas[0].node.set_answers(false);
        assert_eq!(picks(READS, &t, &[]), ["c"; 4]);
        assert_eq!(picks(READS, &t, &["c"]), ["b"; 4], "nobody else: checks may be wrong");
        t.replicas[0].node.set_answers(true);
        assert_eq!(picks(READS, &t, &[]), ["b", "c", "b", "c"]);
    }

    /// Opens `count` sessions one after the other and says how many each target got.
    fn spread(rules: Rules, topology: &Topology, count: usize) -> Vec<(String, usize)> {
        let mut open = vec![];
        for cursor in 0..count {
            let Choice::Target(target) = choose(rules, topology, cursor, &[], false, Tick::now()) else {
                panic!("nobody")
            };
            open.extend(OnNode::claim(&target, None));
        }
        topology.replicas.iter().map(|t| (t.name.to_string(), t.node.sessions())).collect()
    }

    #[test]
    fn the_fewest_sessions_come_first() {
        let t = three();
        let rules = Rules { balance: Balance::LeastConnections, ..READS };
        let busy: Vec<_> = (0..10).map(|_| OnNode::claim(&t.replicas[0], None)).collect();
        assert_eq!(picks(rules, &t, &[]), ["c"; 4]);
        t.replicas[1].node.shun(Tick::now());
        assert_eq!(picks(rules, &t, &[]), ["b"; 4], "one that refuses is not idle");
        drop(busy);
        t.replicas[1].node.welcome();
        assert_eq!(spread(rules, &t, 9), [("b".to_owned(), 5), ("c".to_owned(), 4)]);
    }

    #[test]
    fn who_is_behind_gets_fewer() {
        let lags = vec![replica("b", Some(0)), replica("c", Some(3 << 20)), replica("d", None)];
        let t = topology(Some(primary("a", 7)), lags);
        let rules = Rules { balance: Balance::LagWeighted, ..READS };
        let got = spread(rules, &t, 100);
        assert!(got[0].1 > 3 * got[1].1 && got[1].1 > 2 * got[2].1 && got[2].1 > 0, "{got:?}");
    }

    proptest! {
        /// Whatever the balance, who is chosen qualifies, was not tried, and is shunned only if all are.
        #[test]
        fn balance_breaks_no_rule(
            nodes in proptest::collection::vec((0_usize..4, proptest::option::of(0_u64..5_000_000), any::<bool>(), any::<bool>()), 1..6),
            balance in prop_oneof![Just(Balance::RoundRobin), Just(Balance::LeastConnections), Just(Balance::LagWeighted)],
            cursor in 0_usize..20,
            limit in proptest::option::of(0_u64..5_000_000),
            per_target in proptest::option::of(1_usize..4),
        ) {
            let now = Tick::now();
            let mut open = vec![];
            let mut tried = vec![];
            let replicas: Vec<_> = nodes.iter().enumerate().map(|(n, (sessions, lag, shunned, was_tried))| {
                let target = replica(&format!("r{n}"), *lag);
                open.extend((0..*sessions).filter_map(|_| OnNode::claim(&target, None)));
                if *shunned {
                    target.node.shun(now);
                }
                if *was_tried {
                    tried.push(target.name.clone());
                }
                target
            }).collect();
            let t = topology(None, replicas);
            let rules = Rules { balance, max_lag: limit, max_sessions_per_target: per_target, ..READS };
            let fits = |t: &&Arc<Target>| within_lag(rules, t) && !tried.contains(&t.name);
            let has_room = |t: &&Arc<Target>| per_target.is_none_or(|limit| t.node.sessions() < limit);
            match choose(rules, &t, cursor, &tried, false, now) {
                Choice::Nobody => prop_assert_eq!(t.replicas.iter().filter(fits).count(), 0),
                Choice::Full(full) => {
                    prop_assert_eq!(t.replicas.iter().filter(fits).count(), full.len());
                    prop_assert!(!full.iter().any(|t| has_room(&t)));
                }
                Choice::Target(chosen) => {
                    prop_assert!(fits(&&chosen) && has_room(&&chosen));
                    let mut others = t.replicas.iter().filter(fits).filter(has_room);
                    prop_assert!(!(chosen.node.is_shunned(now) && others.any(|t| !t.node.is_shunned(now))));
                }
            }
        }
    }

    #[test]
    fn who_is_set_aside_takes_nobody_new() {
        let t = three();
        let b = Arc::clone(&t.replicas[0]);
        b.node.admit(Admission::Draining);
        assert_eq!(picks(READS, &t, &[]), ["c"; 4]);
        assert!(!still_takes(&t, &b), "though it was chosen before");
        t.replicas[1].node.admit(Admission::Disabled);
        assert_eq!(picks(READS, &t, &[]), ["-"; 4]);
        assert_eq!(picks(Rules { fall_back_to_primary: true, ..READS }, &t, &[]), ["a"; 4]);
        let primary = t.primary.as_ref().expect("serves");
        primary.node.admit(Admission::Draining);
        assert_eq!(picks(WRITES, &t, &[]), ["-"; 4]);
        assert_eq!(why_nobody(WRITES, &t).to_string(), "the primary a is draining by an operator");
        primary.node.admit(Admission::Enabled);
        assert_eq!(picks(WRITES, &t, &[]), ["a"; 4]);
        assert_eq!(all_for_cancel(READS, &t).len(), 2, "running queries may still be cancelled");
    }

    #[tokio::test]
    async fn who_waits_for_a_full_target_goes_before_who_comes_later() {
        let t = three();
        let rules = Rules { max_sessions_per_target: Some(1), ..READS };
        let [b, c] = [0, 1].map(|index| OnNode::claim(&t.replicas[index], Some(1)).expect("room"));
        assert!(OnNode::claim(&t.replicas[0], Some(1)).is_none());
        assert_eq!(picks(rules, &t, &[]), ["full 2"; 4]);
        let queueing = Queueing::at(&t.replicas);
        drop(b);
        t.replicas[0].node.freed().await;
        assert_eq!(picks(rules, &t, &[]), ["full 2"; 4], "for one who comes now");
        let choice = choose(rules, &t, 0, &[], true, Tick::now());
        assert!(matches!(choice, Choice::Target(target) if target.name.as_str() == "b"));
        drop(queueing);
        assert_eq!(picks(rules, &t, &[]), ["b"; 4]);
        drop(c);
    }

    #[test]
    fn a_target_of_an_older_picture_is_checked_again() {
        let before = three();
        let (a, b) = (before.primary.clone().expect("serves"), Arc::clone(&before.replicas[0]));
        assert!(still_takes(&before, &a) && still_takes(&before, &b));
        let mut after = topology(None, vec![replica("b", None)]);
        assert!(!still_takes(&after, &a));
        assert!(still_takes(&after, &b), "the same node at the same address");
        after.primary = Ok(primary("a", 7));
        assert!(!still_takes(&after, &a), "the same node in another reign");
        after.replicas.clear();
        assert!(!still_takes(&after, &b));
    }

    #[test]
    fn cancel_requests_go_wherever_the_session_may_be() {
        let t = three();
        let names = |rules| all_for_cancel(rules, &t).iter().map(|t| t.name.to_string()).collect::<Vec<_>>();
        assert_eq!(names(WRITES), ["a"]);
        assert_eq!(names(READS), ["b", "c"]);
        assert_eq!(names(Rules { fall_back_to_primary: true, ..READS }), ["b", "c", "a"]);
    }

    #[test]
    fn reasons_read_as_sentences() {
        let t = topology(None, vec![]);
        assert_eq!(why_nobody(WRITES, &t).to_string(), "nobody holds the leader key");
        assert_eq!(why_nobody(READS, &t).to_string(), "the cluster has no members");
    }
}
