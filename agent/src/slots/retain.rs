//! How long the slots of members that are gone are kept: `retain_slots` of the key `status`.

use std::collections::BTreeMap;
use std::time::Duration;

use pgvane_cluster::clock::Tick;
use pgvane_cluster::ids::NodeName;
use pgvane_cluster::view::ClusterView;

use super::names::slot_name;

/// When the members of the slots were last seen, by the leader.
#[derive(Clone, Debug, Default)]
pub struct Retention {
    seen: BTreeMap<String, Tick>,
    /// Whether the names that the leader before kept were taken over.
    took_over: bool,
}

impl Retention {
    /// Notes the members of `view` at `now`, and forgets those that were last seen longer than `keep_for` ago. A new
    /// leader takes over the names of the one before, whose members it may never have seen: their time begins then.
    pub fn note(&mut self, now: Tick, view: &ClusterView, me: &NodeName, keep_for: Duration) {
        if !std::mem::replace(&mut self.took_over, true) {
            let before = view.status.iter().flat_map(|s| s.retain_slots.iter().flatten());
            self.seen.extend(before.map(|name| (name.clone(), now)));
        }
        let streaming = view.members.iter().filter(|(name, m)| *name != me && !m.record.tags.no_stream());
        self.seen.extend(streaming.map(|(name, _)| (slot_name(name), now)));
        // Our own comes from the leader before.
        self.seen.remove(&slot_name(me));
        self.seen.retain(|_, seen| now.since(*seen) < keep_for);
    }

    /// Forgets everything: another leads.
    pub fn clear(&mut self) {
        *self = Retention::default();
    }

    /// The names that are still kept, sorted.
    pub fn names(&self) -> impl Iterator<Item = &String> {
        self.seen.keys()
    }
}

#[cfg(test)]
mod tests {
    use pgvane_cluster::records::{MemberRecord, MemberRole, MemberState, StatusRecord, Tags};
    use pgvane_cluster::view::Member;

    use super::*;

    fn view(members: &[&str], retained: &[&str]) -> ClusterView {
        let mut view = ClusterView::default();
        for name in members {
            let mut record = MemberRecord::new(MemberState::Running, MemberRole::Replica);
            if name.starts_with("archive") {
                record.tags = Tags([("nostream".to_owned(), true.into())].into());
            }
            view.members.insert((*name).into(), Member { record, lease: None });
        }
        let retain_slots = Some(retained.iter().map(|n| (*n).to_owned()).collect());
        view.status = Some(StatusRecord { retain_slots, ..StatusRecord::default() });
        view
    }

    #[test]
    fn a_member_that_is_gone_is_kept_for_a_while() {
        let (mut retention, keep_for, me) = (Retention::default(), Duration::from_mins(1), "me".into());
        let t = Tick::from_millis;
        retention.note(t(0), &view(&["me", "PG-2", "pg3", "archive"], &[]), &me, keep_for);
        assert_eq!(retention.names().collect::<Vec<_>>(), ["pg3", "pg_2"]);
        retention.note(t(30_000), &view(&["me", "pg3"], &["pg_2", "pg3"]), &me, keep_for);
        assert_eq!(retention.names().collect::<Vec<_>>(), ["pg3", "pg_2"]);
        // What the key says by now is our own word, and does not make it younger.
        retention.note(t(60_000), &view(&["me", "pg3"], &["pg_2", "pg3"]), &me, keep_for);
        assert_eq!(retention.names().collect::<Vec<_>>(), ["pg3"]);
        retention.note(t(60_001), &view(&["me", "pg3"], &["pg_2", "pg3"]), &me, keep_for);
        assert_eq!(retention.names().collect::<Vec<_>>(), ["pg3"]);
    }

    #[test]
    fn a_new_leader_keeps_what_the_one_before_kept() {
        let (mut retention, keep_for, me) = (Retention::default(), Duration::from_mins(1), "me".into());
        let t = Tick::from_millis;
        retention.note(t(0), &view(&["me"], &["me", "gone"]), &me, keep_for);
        assert_eq!(retention.names().collect::<Vec<_>>(), ["gone"]);
        retention.note(t(59_000), &view(&["me"], &[]), &me, keep_for);
        assert_eq!(retention.names().count(), 1);
        retention.note(t(60_000), &view(&["me"], &[]), &me, keep_for);
        assert_eq!(retention.names().count(), 0);
        retention.clear();
        retention.note(t(60_001), &view(&["me"], &["again"]), &me, keep_for);
        assert_eq!(retention.names().collect::<Vec<_>>(), ["again"]);
    }
}
