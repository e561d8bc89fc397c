//! Which member a backup is taken from.

use pgvane_cluster::ids::NodeName;
use pgvane_cluster::records::MemberState;
use pgvane_cluster::view::ClusterView;

/// A replica that streams on the leader's timeline, unless it is further behind than a failover would accept: one that
/// is tagged `clonefrom` before others, then the one that has replayed most; without any, the leader. `noloadbalance`
/// says nothing here: it keeps readers away. `None`: nobody serves.
pub fn choose(view: &ClusterView) -> Option<&NodeName> {
    let leader = view.leader.as_ref().map(|leader| &leader.name);
    let led = view.leader_member().map(|member| &member.record);
    let at =
        view.status.as_ref().map(|status| status.optime).max(led.and_then(|record| record.xlog_location));
    let limit = view.settings().maximum_lag_on_failover;
    let replicas = view.members.iter().filter_map(|(name, member)| {
        let record = &member.record;
        let behind = at?.bytes_since(record.replay_lsn.or(record.xlog_location)?);
        let is_healthy = Some(name) != leader
            && record.state == MemberState::Running
            && record.replication_state.as_deref() == Some("streaming")
            && record.timeline == led?.timeline
            && behind <= limit;
        is_healthy.then_some((!record.tags.clone_from(), behind, name))
    });
    let best = replicas.min().map(|(.., name)| name);
    best.or_else(|| {
        leader.filter(|_| led.is_some_and(pgvane_cluster::records::MemberRecord::is_serving_leader))
    })
}

#[cfg(test)]
mod tests {
    use pgvane_cluster::ids::{Epoch, Lsn, Timeline};
    use pgvane_cluster::records::{MemberRecord, MemberRole};
    use pgvane_cluster::view::{LeaderKey, Member};
    use serde_json::json;

    use super::*;

    fn replica(behind: u64) -> MemberRecord {
        MemberRecord {
            replication_state: Some("streaming".to_owned()),
            timeline: Some(Timeline(2)),
            xlog_location: Some(Lsn(5_000_000)),
            replay_lsn: Some(Lsn(5_000_000 - behind)),
            ..MemberRecord::new(MemberState::Running, MemberRole::Replica)
        }
    }

    fn chosen(members: &[(&str, MemberRecord)]) -> Option<String> {
        let primary = MemberRecord {
            timeline: Some(Timeline(2)),
            xlog_location: Some(Lsn(5_000_000)),
            ..MemberRecord::new(MemberState::Running, MemberRole::Primary)
        };
        let all = [vec![("pg1", primary)], members.to_vec()].concat();
        let members =
            all.into_iter().map(|(name, record)| (name.into(), Member { record, lease: None })).collect();
        let leader = Some(LeaderKey { name: "pg1".into(), epoch: Epoch(1), lease: None });
        choose(&ClusterView { members, leader, ..ClusterView::default() }).map(ToString::to_string)
    }

    #[test]
    fn the_replica_that_is_least_behind_unless_one_is_meant_for_copies() {
        let mut meant = replica(500);
        meant.tags.0.insert("clonefrom".to_owned(), json!(true));
        let mut spared = replica(5);
        spared.tags.0.insert("noloadbalance".to_owned(), json!(true));
        assert_eq!(chosen(&[("a", replica(100)), ("b", spared.clone())]).as_deref(), Some("b"));
        assert_eq!(chosen(&[("a", meant), ("b", spared)]).as_deref(), Some("a"));
    }

    #[test]
    fn a_replica_that_is_not_well_is_passed_over_for_the_primary() {
        let stopped = MemberRecord { state: MemberState::Stopped, ..replica(0) };
        let archive =
            MemberRecord { replication_state: Some("in archive recovery".to_owned()), ..replica(0) };
        let elsewhere = MemberRecord { timeline: Some(Timeline(1)), ..replica(0) };
        for bad in [stopped, archive, elsewhere, replica(2_000_000)] {
            assert_eq!(chosen(&[("a", bad.clone())]).as_deref(), Some("pg1"), "{bad:?}");
        }
        assert_eq!(choose(&ClusterView::default()), None);
    }
}
