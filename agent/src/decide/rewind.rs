//! An operator wants a member back behind its leader. What is done is what the agent does by itself anyway: stop,
//! compare histories, rewind or copy anew where they parted, follow. Here it is done at once, without the pauses after
//! failures, and whoever asked is told what came of it.

use pgvane_cluster::ids::NodeName;
use pgvane_cluster::reigns::Lineage;

use super::world::{Dcs, Holder, Process, World};
use super::{following, reign};

/// How a member stands to its leader.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Standing {
    /// The store does not answer.
    StoreAway,
    /// Pause is on.
    Paused,
    /// It leads.
    Leads,
    /// There is nobody to follow.
    NobodyServes,
    /// It streams from whom it should, and their histories are one.
    Follows(NodeName),
    /// It does not.
    Apart,
}

/// How this member stands.
pub fn standing(world: &World) -> Standing {
    let Dcs::Known(view) = &world.dcs else { return Standing::StoreAway };
    if world.settings.pause {
        return Standing::Paused;
    }
    let key = match world.holder(view) {
        Holder::Me(_) | Holder::MyName(_) => return Standing::Leads,
        Holder::Nobody => return Standing::NobodyServes,
        Holder::Other(key) => key,
    };
    if !view.leader_member().is_some_and(|leader| leader.record.is_serving_primary()) {
        return Standing::NobodyServes;
    }
    let (Some(sql), Some(upstream)) = (&world.local.sql, following::upstream_of(world, view)) else {
        return Standing::Apart;
    };
    let told = reign::word(&world.settings, view, key);
    let parted = matches!(reign::lineage(&world.memory.descent, sql.timeline, told), Lineage::Parted(_))
        || world.memory.parted == Some(key.epoch);
    let streams = world.local.process == Process::Running
        && sql.in_recovery
        && sql.streaming
        && sql.upstream == Some((upstream.host, upstream.port));
    if streams && !parted { Standing::Follows(upstream.name) } else { Standing::Apart }
}

/// What is to be said at once to whoever asks: nothing where the member stands apart, and something is to be done.
pub fn settled(standing: &Standing) -> Option<Result<String, String>> {
    Some(match standing {
        Standing::Follows(name) => Ok(format!("it streams from {name}; there is nothing to rewind")),
        Standing::StoreAway => Err("the store does not answer".to_owned()),
        Standing::Paused => Err("pause is on; resume first".to_owned()),
        Standing::Leads => Err("it leads; there is nobody to rewind to".to_owned()),
        Standing::NobodyServes => Err("nobody serves as primary; there is nobody to rewind to".to_owned()),
        Standing::Apart => return None,
    })
}
