//! Whom a standby of ours follows, as its configuration says it: the one place where that is made.

use pgvane_cluster::ids::NodeName;
use pgvane_cluster::records::Tags;
use pgvane_cluster::settings::ClusterSettings;
use pgvane_cluster::view::ClusterView;

use crate::config::HostPort;
use crate::postgres::settings::Following;
use crate::slots::names::slot_name;
use crate::slots::wanted::wants_feedback;

/// The configuration of a standby with these tags that is pointed at `upstream`.
pub fn following(
    view: Option<&ClusterView>,
    settings: &ClusterSettings,
    me: &NodeName,
    tags: &Tags,
    upstream: Option<HostPort>,
) -> Following {
    let feedback = view.is_some_and(|view| wants_feedback(view, settings, me, tags));
    if let Some(remote) = settings.standby_cluster.as_ref().filter(|_| leads(view, me)) {
        return Following { upstream: None, slot: None, feedback, remote: Some(remote.clone()) };
    }
    let upstream = upstream.filter(|_| !tags.no_stream());
    let slot = (settings.postgresql.use_slots && upstream.is_some()).then(|| slot_name(me));
    Following { upstream, slot, feedback, remote: None }
}

fn leads(view: Option<&ClusterView>, me: &NodeName) -> bool {
    view.and_then(|view| view.leader.as_ref()).is_some_and(|key| key.name == *me)
}
