//! Whether to vouch for a leader that cannot reach the store (contract 3.7). Keeps S1: who vouches does not race.

use std::collections::BTreeMap;
use std::fmt;

use pgvane_cluster::ids::{Epoch, NodeName};
use pgvane_cluster::records::FailsafeRecord;
use pgvane_cluster::view::ClusterView;

use super::action::{self, Action};
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

/// Who must vouch for this node while it leads: all that the failsafe list in the store may name. A write of the
/// list may have been done although its answer, or the news of it, never came; whoever it names may campaign,
/// so a name counts from before the list is written until another list without it was seen.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct Voters {
    /// The reign that the lists were written in; a write of ours cannot happen in a later one.
    epoch: Option<Epoch>,
    /// The last list that was written.
    last: Option<FailsafeRecord>,
    /// All names written since a list was last seen that was the last one written.
    unsettled: BTreeMap<NodeName, String>,
}

impl Voters {
    /// `list` is about to be written in our reign `epoch`.
    pub fn write(&mut self, epoch: Epoch, list: &FailsafeRecord) {
        if self.epoch != Some(epoch) {
            *self = Voters { epoch: Some(epoch), ..Voters::default() };
        }
        self.unsettled.extend(list.0.clone());
        self.last = Some(list.clone());
    }

    /// The store shows `view`, and no write of ours is under way.
    pub fn see(&mut self, view: &ClusterView) {
        if view.leader.as_ref().map(|key| key.epoch) != self.epoch || view.failsafe == self.last {
            self.unsettled.clear();
        }
    }

    /// Whom to ask, beside ourselves; `None`: the list as seen is no ground for a consent.
    pub fn to_ask(&self, me: &NodeName, seen: Option<&FailsafeRecord>) -> Option<BTreeMap<NodeName, String>> {
        // Nobody is kept from the race by an empty list.
        let seen = seen.filter(|list| !list.0.is_empty())?;
        let mut all = self.unsettled.clone();
        all.extend(seen.0.clone());
        all.remove(me);
        Some(all)
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
        .is_some_and(|o| [action::PROMOTE, Action::StartPrimary.label()].contains(&o.what));
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

#[cfg(test)]
mod tests {
    use pgvane_cluster::view::LeaderKey;

    use super::*;

    const EPOCH: Epoch = Epoch(40);

    fn list(names: &[&str]) -> FailsafeRecord {
        FailsafeRecord(
            names.iter().map(|n| (NodeName::from(*n), format!("http://{n}:8008/patroni"))).collect(),
        )
    }

    fn view(epoch: Epoch, names: &[&str]) -> ClusterView {
        let leader = Some(LeaderKey { name: "pg1".into(), epoch, lease: None });
        ClusterView { leader, failsafe: Some(list(names)), ..ClusterView::default() }
    }

    fn asked(voters: &Voters, seen: &ClusterView) -> Vec<String> {
        let asked = voters.to_ask(&"pg1".into(), seen.failsafe.as_ref()).expect("there is a list");
        asked.into_keys().map(|name| name.to_string()).collect()
    }

    #[test]
    fn whoever_a_written_list_may_name_is_asked() {
        let mut voters = Voters::default();
        let before = view(EPOCH, &["pg1", "pg3"]);
        voters.see(&before);
        assert_eq!(asked(&voters, &before), ["pg3"]);
        voters.write(EPOCH, &list(&["pg1", "pg2", "pg3"]));
        assert_eq!(asked(&voters, &before), ["pg2", "pg3"], "the write may have been done");
        voters.see(&before);
        assert_eq!(asked(&voters, &before), ["pg2", "pg3"], "the news of it may be on its way");
        voters.write(EPOCH, &list(&["pg1", "pg3"]));
        voters.see(&before);
        assert_eq!(asked(&voters, &before), ["pg3"], "the last list written is the one seen");
    }

    #[test]
    fn lists_of_an_earlier_reign_are_over() {
        let mut voters = Voters::default();
        voters.write(EPOCH, &list(&["pg1", "pg2"]));
        let later = view(Epoch(41), &["pg1", "pg3"]);
        voters.see(&later);
        assert_eq!(asked(&voters, &later), ["pg3"]);
    }

    #[test]
    fn an_empty_list_binds_nobody() {
        let voters = Voters::default();
        assert_eq!(voters.to_ask(&"pg1".into(), Some(&list(&[]))), None);
        assert_eq!(voters.to_ask(&"pg1".into(), None), None);
        assert_eq!(voters.to_ask(&"pg1".into(), Some(&list(&["pg1"]))), Some(BTreeMap::new()));
    }
}
