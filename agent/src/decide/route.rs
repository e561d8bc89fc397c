//! From whom a member takes its WAL: the tag `replicatefrom` and what becomes of it (contract 8.7).

use pgvane_cluster::ids::NodeName;
use pgvane_cluster::records::Tags;
use pgvane_cluster::view::ClusterView;

/// The member that `name` asks to take its WAL from, where that leads somewhere: another member, and a way to the
/// leader that does not come back. `None`: the leader.
pub fn upstream_of(view: &ClusterView, name: &NodeName) -> Option<NodeName> {
    wanted(view, name, &view.members.get(name)?.record.tags)
}

/// The same for a member with these tags, whose record may not show them yet.
pub fn wanted(view: &ClusterView, name: &NodeName, tags: &Tags) -> Option<NodeName> {
    let leads = |name: &NodeName| view.leader.as_ref().is_some_and(|key| key.name == *name);
    let asked = tags.replicate_from().filter(|asked| asked != name && view.members.contains_key(asked))?;
    let mut seen = vec![name.clone()];
    let mut next = asked.clone();
    loop {
        if seen.contains(&next) {
            // Whoever they are, they would wait for each other.
            return None;
        }
        let record = &view.members.get(&next)?.record;
        if leads(&next) {
            return Some(asked);
        }
        if record.tags.no_stream() {
            return Some(asked);
        }
        match record.tags.replicate_from().filter(|further| view.members.contains_key(further)) {
            Some(further) if further != next => {
                seen.push(next);
                next = further;
            }
            Some(_) | None => return Some(asked),
        }
    }
}

/// All members whose WAL comes to `name` one after the other, the nearest first; without the leader where nobody is
/// asked for.
pub fn upstreams(view: &ClusterView, name: &NodeName) -> Vec<NodeName> {
    let mut all = Vec::new();
    let mut next = upstream_of(view, name);
    while let Some(upstream) = next.filter(|upstream| !all.contains(upstream)) {
        next = upstream_of(view, &upstream);
        all.push(upstream);
    }
    all
}

/// Whether WAL comes to this node, or to one that it comes from, by archive only.
pub fn is_off_stream(view: &ClusterView, name: &NodeName, tags: &Tags) -> bool {
    let off = |name: &NodeName| view.members.get(name).is_some_and(|m| m.record.tags.no_stream());
    let first = wanted(view, name, tags);
    let further = first.iter().flat_map(|first| upstreams(view, first));
    tags.no_stream() || first.iter().cloned().chain(further).any(|upstream| off(&upstream))
}

#[cfg(test)]
mod tests {
    use pgvane_cluster::ids::Epoch;
    use pgvane_cluster::records::{MemberRecord, MemberRole, MemberState};
    use pgvane_cluster::view::{LeaderKey, Member};

    use super::*;

    fn view(members: &[(&str, &str)]) -> ClusterView {
        let mut view = ClusterView {
            leader: Some(LeaderKey { name: "a".into(), epoch: Epoch(1), lease: None }),
            ..ClusterView::default()
        };
        for (name, from) in members {
            let mut record = MemberRecord::new(MemberState::Running, MemberRole::Replica);
            let tag = match *from {
                "nostream" => ("nostream", true.into()),
                from => ("replicatefrom", from.into()),
            };
            record.tags = Tags([(tag.0.to_owned(), tag.1)].into());
            view.members.insert((*name).into(), Member { record, lease: None });
        }
        view
    }

    fn upstream(members: &[(&str, &str)], name: &str) -> Option<String> {
        upstream_of(&view(members), &name.into()).map(|n| n.to_string())
    }

    #[test]
    fn the_tag_is_followed_where_it_leads_somewhere() {
        let b = Some("b".to_owned());
        assert_eq!(upstream(&[("a", ""), ("b", ""), ("c", "b")], "c"), b);
        assert_eq!(upstream(&[("a", ""), ("b", "a"), ("c", "b")], "c"), b);
        assert_eq!(upstream(&[("a", ""), ("b", "gone"), ("c", "b")], "c"), b);
        // The leader's own tag counts for nothing while it leads.
        assert_eq!(upstream(&[("a", "c"), ("b", "a"), ("c", "b")], "c"), b);
        for nowhere in ["", "gone", "c"] {
            assert_eq!(upstream(&[("a", ""), ("b", ""), ("c", nowhere)], "c"), None, "{nowhere}");
        }
        // Two that wait for each other, and one behind them.
        assert_eq!(upstream(&[("a", ""), ("b", "c"), ("c", "b")], "c"), None);
        assert_eq!(upstream(&[("a", ""), ("b", "c"), ("c", "b")], "b"), None);
        assert_eq!(upstream(&[("a", ""), ("b", "c"), ("c", "b"), ("d", "c")], "d"), None);
        assert_eq!(upstream(&[("a", ""), ("b", "b"), ("c", "b")], "c"), b);
    }

    #[test]
    fn the_way_of_the_wal_and_what_is_beside_it() {
        let v = view(&[("a", ""), ("b", "a"), ("c", "b"), ("d", "nostream"), ("e", "d")]);
        let names =
            |name: &str| upstreams(&v, &name.into()).iter().map(ToString::to_string).collect::<Vec<_>>();
        assert_eq!(names("c"), ["b", "a"]);
        assert_eq!(names("a"), Vec::<String>::new());
        let off = |name: &str| is_off_stream(&v, &name.into(), &v.members[&NodeName::from(name)].record.tags);
        assert_eq!(["a", "b", "c", "d", "e"].map(off), [false, false, false, true, true]);
    }
}
