//! Whether to vouch for a leader that cannot reach the store (contract 3.7). Keeps S1: who vouches does not race.

use std::fmt;

use pgvane_cluster::ids::NodeName;

use super::action::Action;
use super::lease::{renewal_is_late, store_is_away};
use super::world::{Slot, World};

/// Why we do not vouch.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Refusal {
    /// We could accept writes ourselves.
    IAmPrimary,
    /// We are asking the store for the key at this moment.
    IAmCampaigning,
    /// The store answers here: a leader that is cut off alone must let the others go on.
    StoreAnswersHere,
    /// We vouched for somebody else.
    VouchedFor(NodeName),
    /// The last leader we saw is somebody else.
    AnotherLeads(NodeName),
    /// failsafe_mode is off.
    ModeIsOff,
}

impl fmt::Display for Refusal {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Refusal::IAmPrimary => f.write_str("this node runs as a primary"),
            Refusal::IAmCampaigning => f.write_str("this node is campaigning"),
            Refusal::StoreAnswersHere => f.write_str("the store answers this node"),
            Refusal::VouchedFor(other) => write!(f, "this node vouched for {other}"),
            Refusal::AnotherLeads(other) => write!(f, "{other} leads as far as this node knows"),
            Refusal::ModeIsOff => f.write_str("failsafe_mode is off"),
        }
    }
}

/// Whether this node vouches for `leader`. On `Ok` the caller promises ([`super::Memory::promise`]), makes
/// the promise durable, and only then answers.
pub fn judge(world: &World, leader: &NodeName) -> Result<(), Refusal> {
    if !world.settings.failsafe_mode {
        return Err(Refusal::ModeIsOff);
    }
    // One that is about to is one: its start or promotion will not ask again.
    let becomes_primary = world
        .local
        .ongoing
        .get(&Slot::Postgres)
        .is_some_and(|o| ["promote", Action::StartPrimary.label()].contains(&o.what));
    if world.may_write() || becomes_primary {
        return Err(Refusal::IAmPrimary);
    }
    let campaigning = world
        .local
        .ongoing
        .get(&Slot::Store)
        .is_some_and(|o| [Action::Campaign.label(), Action::TakeOverKey.label()].contains(&o.what));
    if campaigning {
        return Err(Refusal::IAmCampaigning);
    }
    if !store_is_away(world) && !renewal_is_late(world) {
        return Err(Refusal::StoreAnswersHere);
    }
    if let Some(vouch) = world.memory.vouch.as_ref().filter(|v| v.leader != *leader && v.until > world.now) {
        return Err(Refusal::VouchedFor(vouch.leader.clone()));
    }
    match world.dcs.last_view().and_then(|v| v.leader.as_ref()) {
        Some(key) if key.name != *leader => Err(Refusal::AnotherLeads(key.name.clone())),
        Some(_) | None => Ok(()),
    }
}
