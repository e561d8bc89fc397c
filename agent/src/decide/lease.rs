//! Until when this node may lead. Keeps S1 and S3: the only arithmetic on lease deadlines in decisions.

use pgvane_cluster::clock::Tick;
use pgvane_cluster::ids::Epoch;

use super::world::{Dcs, Holder, OwnLease, World};

/// The right to lead, with its end.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Authority {
    /// The reign it belongs to.
    pub epoch: Epoch,
    /// When a clean stop must begin.
    pub step_down_at: Tick,
    /// When the guard stops PostgreSQL.
    pub guard_deadline: Tick,
    /// Whether it rests on the other members' word alone, the lease being too old.
    pub by_consent: bool,
}

impl Authority {
    /// The right of this node in `world`: the leader key under our own lease (in the newest view, which may
    /// be old while the store is away), for as long as the lease surely lives; or the word of every member
    /// of the failsafe list, for as long as they promised. A reign that we gave up has none: its key may be gone
    /// although the view does not show it yet.
    pub fn of(world: &World) -> Option<Authority> {
        let view = world.dcs.last_view()?;
        let by_lease = match (world.holder(view), world.lease) {
            (Holder::Me(key), OwnLease::Held { sent_at, ttl, .. }) if !world.memory.gave_up(key.epoch) => {
                Some(Authority {
                    epoch: key.epoch,
                    step_down_at: world.timing.step_down_at(sent_at, ttl),
                    guard_deadline: world.timing.guard_deadline(sent_at, ttl),
                    by_consent: false,
                })
            }
            (Holder::Me(_) | Holder::MyName(_) | Holder::Nobody | Holder::Other(_), _) => None,
        };
        let promised = world.memory.consent.filter(|consent| !world.memory.gave_up(consent.epoch));
        let by_consent = promised.filter(|consent| match world.holder(view) {
            // A key of somebody else ends every promise that was made to us.
            Holder::Other(_) => false,
            // One for an earlier reign says nothing of this one.
            Holder::Me(key) | Holder::MyName(key) => key.epoch == consent.epoch,
            Holder::Nobody => true,
        });
        let by_consent = by_consent.map(|consent| Authority {
            epoch: consent.epoch,
            step_down_at: world.timing.step_down_at(consent.asked_at, consent.ttl),
            guard_deadline: world.timing.guard_deadline(consent.asked_at, consent.ttl),
            by_consent: true,
        });
        match (by_lease, by_consent) {
            (Some(lease), Some(consent)) if consent.guard_deadline > lease.guard_deadline => Some(consent),
            (Some(lease), _) => Some(lease),
            (None, consent) => consent,
        }
        .filter(|authority| world.now < authority.guard_deadline)
    }

    /// Whether a clean stop should have begun.
    pub fn is_late(&self, now: Tick) -> bool {
        now >= self.step_down_at
    }
}

/// Whether the lease was renewed recently enough that nothing needs to be done about it.
pub fn renewal_is_late(world: &World) -> bool {
    match world.lease {
        OwnLease::None => true,
        OwnLease::Held { sent_at, ttl, .. } => {
            world.now.since(sent_at) > world.timing.interval_of(ttl) * 3 / 2
        }
    }
}

/// Whether the store is away.
pub fn store_is_away(world: &World) -> bool {
    matches!(world.dcs, Dcs::Unknown { .. })
}
