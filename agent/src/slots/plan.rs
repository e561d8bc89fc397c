//! What is to be done so that a node has the slots it should have, and no others.

use std::collections::BTreeSet;

use pgvane_cluster::ids::Lsn;
use pgvane_cluster::settings::SlotMatcher;

use super::wanted::{Slot, Wanted};

/// A slot that exists; temporary ones are nobody's business.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct Existing {
    /// Its name.
    pub name: String,
    /// Database and plugin of a logical one.
    pub logical: Option<(String, String)>,
    /// Whether somebody uses it.
    pub active: bool,
    /// The WAL it keeps from.
    pub restart: Option<Lsn>,
    /// Logical: what its subscriber has confirmed.
    pub confirmed: Option<Lsn>,
    /// Whether it holds back vacuum.
    pub holds_rows: bool,
    /// Logical: the oldest transaction whose catalog rows it needs.
    pub catalog_xmin: Option<u32>,
    /// Whether the WAL or the rows it needs are gone.
    pub invalid: bool,
    /// Kept in step by PostgreSQL itself (version 17 and later).
    pub own_failover: bool,
}

/// Where the node stands.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Stand<'a> {
    /// Whether it is a primary; a standby leader is none.
    pub primary: bool,
    /// Standby: what it has replayed.
    pub replayed: Option<Lsn>,
    /// Whether the cluster has a leader.
    pub led: bool,
    /// Whether nothing may be dropped.
    pub paused: bool,
    /// Slots that are nobody's here to drop.
    pub ignored: &'a [SlotMatcher],
}

/// One step.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Step {
    /// Create a physical slot.
    Create(String),
    /// Create a logical slot.
    CreateLogical {
        /// Its name.
        name: String,
        /// Its database.
        database: String,
        /// Its output plugin.
        plugin: String,
    },
    /// Drop it, for the reason given.
    Drop(String, &'static str),
    /// Keep no more WAL than from here.
    Advance(String, Lsn),
    /// The same for a logical slot, which takes a connection to its database.
    AdvanceLogical {
        /// Its name.
        name: String,
        /// Its database.
        database: String,
        /// How far.
        to: Lsn,
    },
}

/// What is to be done.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct Plan {
    /// At once.
    pub steps: Vec<Step>,
    /// Logical slots of the primary that this standby should hold and does not; to be copied while it is stopped.
    pub to_copy: BTreeSet<String>,
}

/// Compares what there is with what there should be.
pub fn plan(wanted: &Wanted, existing: &[Existing], stand: Stand<'_>) -> Plan {
    let mut plan = Plan::default();
    for slot in existing.iter().filter(|slot| !slot.own_failover && !slot.active && !stand.paused) {
        if let Some(why) = misfit(wanted.get(&slot.name), slot, stand) {
            plan.steps.push(Step::Drop(slot.name.clone(), why));
        }
    }
    for (name, slot) in wanted {
        let there = existing.iter().find(|existing| existing.name == *name);
        match there {
            // What is dropped is made anew the next time.
            Some(there) if plan.drops(name) || there.own_failover => {}
            Some(there) => plan.steps.extend(advance(slot, there, stand)),
            None => plan.make(name, slot, stand),
        }
    }
    plan
}

impl Plan {
    fn drops(&self, name: &str) -> bool {
        self.steps.iter().any(|step| matches!(step, Step::Drop(dropped, _) if dropped == name))
    }

    fn make(&mut self, name: &str, slot: &Slot, stand: Stand<'_>) {
        match slot {
            Slot::Physical { create: true, .. } => self.steps.push(Step::Create(name.to_owned())),
            Slot::Logical { database, plugin, .. } if stand.primary => {
                let (name, database, plugin) = (name.to_owned(), database.clone(), plugin.clone());
                self.steps.push(Step::CreateLogical { name, database, plugin });
            }
            // The primary's must be there to be copied.
            Slot::Logical { place: Some(_), .. } => {
                self.to_copy.insert(name.to_owned());
            }
            Slot::Physical { create: false, .. } | Slot::Logical { place: None, .. } => {}
        }
    }
}

/// Why a slot that nobody uses is to be dropped.
fn misfit(wanted: Option<&Slot>, slot: &Existing, stand: Stand<'_>) -> Option<&'static str> {
    let logical = slot.logical.as_ref().map(|(database, plugin)| (database.as_str(), plugin.as_str()));
    match wanted {
        None if stand.ignored.iter().any(|matcher| matcher.matches(&slot.name, logical)) => None,
        None => Some("nobody wants it"),
        Some(Slot::Physical { .. }) if logical.is_some() => Some("it is logical and should be physical"),
        Some(Slot::Logical { database, plugin, .. }) if logical != Some((database, plugin)) => {
            Some("it is of another kind, database or plugin")
        }
        // A new one would begin here and pass over in silence what its subscriber never got: that is for an operator
        // to say, who drops it.
        Some(Slot::Logical { .. }) if slot.invalid && stand.primary => None,
        Some(_) if slot.invalid => Some("what it needs is gone"),
        Some(Slot::Physical { .. }) if slot.restart.is_none() => Some("it keeps no WAL"),
        Some(Slot::Physical { active: Some(false), .. }) if slot.holds_rows && stand.led => {
            Some("it holds back vacuum for a member that does not stream from here")
        }
        Some(Slot::Physical { .. } | Slot::Logical { .. }) => None,
    }
}

fn advance(slot: &Slot, there: &Existing, stand: Stand<'_>) -> Option<Step> {
    let name = there.name.clone();
    match slot {
        Slot::Physical { place, .. } => {
            let to = place.filter(|to| there.restart.is_some_and(|restart| restart < *to))?;
            (!there.active).then_some(Step::Advance(name, to))
        }
        // Never past our own replay: what was not replayed here cannot be decoded here.
        Slot::Logical { database, place, .. } if !stand.primary => {
            let to = (*place)?.min(stand.replayed?);
            let behind = there.confirmed.is_some_and(|confirmed| confirmed < to);
            (behind && !there.active).then(|| Step::AdvanceLogical { name, database: database.clone(), to })
        }
        Slot::Logical { .. } => None,
    }
}

/// Whether a logical slot that was copied can be relied on (contract 8.5): the catalog rows it needs have been kept
/// all the time. `primary` and `standby`: the slot's `catalog_xmin` there and here; `ours`: that of the physical slot
/// by which this standby streams, which holds what this standby asked to be kept.
pub fn is_proven(primary: u32, ours: Option<u32>, standby: u32) -> bool {
    // Numbers of transactions go round.
    let not_after = |a: u32, b: u32| b.wrapping_sub(a) < 1 << 31;
    ours.is_some_and(|ours| not_after(primary, ours) && not_after(ours, standby))
}

#[cfg(test)]
mod tests {
    use super::*;

    const PRIMARY: Stand<'_> =
        Stand { primary: true, replayed: None, led: true, paused: false, ignored: &[] };
    const STANDBY: Stand<'_> = Stand { primary: false, replayed: Some(Lsn(50)), ..PRIMARY };

    fn physical(active: Option<bool>, place: Option<u64>) -> Slot {
        Slot::Physical { active, place: place.map(Lsn), create: true }
    }

    fn logical(place: Option<u64>) -> Slot {
        Slot::Logical { database: "d".to_owned(), plugin: "p".to_owned(), place: place.map(Lsn) }
    }

    fn wanted(slot: Slot) -> Wanted {
        [("s".to_owned(), slot)].into()
    }

    fn existing(change: impl FnOnce(&mut Existing)) -> Existing {
        let mut slot = Existing { name: "s".to_owned(), restart: Some(Lsn(5)), ..Existing::default() };
        change(&mut slot);
        slot
    }

    fn is_logical(slot: &mut Existing) {
        slot.logical = Some(("d".to_owned(), "p".to_owned()));
        slot.confirmed = Some(Lsn(7));
    }

    fn steps(wanted: &Wanted, existing: &[Existing], stand: Stand<'_>) -> Vec<Step> {
        plan(wanted, existing, stand).steps
    }

    fn dropped(wanted: &Wanted, slot: Existing, stand: Stand<'_>) -> bool {
        matches!(&steps(wanted, &[slot], stand)[..], [Step::Drop(..)])
    }

    #[test]
    fn what_is_missing_is_made() {
        let create = Step::Create("s".to_owned());
        assert_eq!(steps(&wanted(physical(Some(true), None)), &[], STANDBY), [create]);
        let parted = Slot::Physical { active: Some(true), place: None, create: false };
        assert_eq!(steps(&wanted(parted), &[], STANDBY), []);
        let (name, database, plugin) = ("s".to_owned(), "d".to_owned(), "p".to_owned());
        let create = Step::CreateLogical { name, database, plugin };
        assert_eq!(steps(&wanted(logical(None)), &[], PRIMARY), [create]);
        let copied = plan(&wanted(logical(Some(9))), &[], STANDBY);
        assert_eq!((copied.steps, copied.to_copy), (vec![], ["s".to_owned()].into()));
        assert_eq!(plan(&wanted(logical(None)), &[], STANDBY), Plan::default());
    }

    #[test]
    fn what_nobody_wants_is_dropped_unless_it_is_used_or_spared() {
        let none = Wanted::new();
        assert!(dropped(&none, existing(|_| ()), PRIMARY));
        assert!(dropped(&none, existing(is_logical), STANDBY));
        assert!(!dropped(&none, existing(|s| s.active = true), PRIMARY));
        assert!(!dropped(&none, existing(|s| s.own_failover = true), PRIMARY));
        assert!(!dropped(&none, existing(|_| ()), Stand { paused: true, ..PRIMARY }));
        let ignored = [SlotMatcher { kind: Some("logical".to_owned()), ..SlotMatcher::default() }];
        let stand = Stand { ignored: &ignored, ..PRIMARY };
        assert!(!dropped(&none, existing(is_logical), stand));
        assert!(dropped(&none, existing(|_| ()), stand));
    }

    #[test]
    fn what_cannot_be_used_is_dropped_to_be_made_anew() {
        let member = wanted(physical(Some(true), None));
        assert!(!dropped(&member, existing(|_| ()), PRIMARY));
        assert!(dropped(&member, existing(is_logical), PRIMARY));
        assert!(dropped(&member, existing(|s| s.invalid = true), PRIMARY));
        assert!(dropped(&member, existing(|s| s.restart = None), PRIMARY));
        let slot = wanted(logical(Some(9)));
        assert!(dropped(&slot, existing(|_| ()), STANDBY));
        assert!(dropped(&slot, existing(|s| s.logical = Some(("e".to_owned(), "p".to_owned()))), STANDBY));
        let lost = existing(|s| {
            is_logical(s);
            s.invalid = true;
        });
        assert_eq!(
            steps(&slot, std::slice::from_ref(&lost), PRIMARY),
            [],
            "its subscriber is told by an error"
        );
        let plan = plan(&slot, &[lost], STANDBY);
        assert!(matches!(&plan.steps[..], [Step::Drop(..)]) && plan.to_copy.is_empty(), "{plan:?}");
    }

    /// Trap 11: it would stop vacuum in the whole cluster.
    #[test]
    fn an_unused_slot_holds_back_vacuum_only_for_a_member_that_streams_from_here() {
        let holds = || existing(|s| s.holds_rows = true);
        assert!(dropped(&wanted(physical(Some(false), None)), holds(), STANDBY));
        assert!(!dropped(&wanted(physical(Some(true), None)), holds(), STANDBY));
        assert!(!dropped(&wanted(physical(None, None)), holds(), PRIMARY));
        let leaderless = Stand { led: false, ..STANDBY };
        assert!(!dropped(&wanted(physical(Some(false), None)), holds(), leaderless));
    }

    #[test]
    fn unused_slots_are_moved_forward_and_never_back() {
        let advance = |to| vec![Step::Advance("s".to_owned(), Lsn(to))];
        let slot = |place| wanted(physical(Some(false), place));
        assert_eq!(steps(&slot(Some(9)), &[existing(|_| ())], STANDBY), advance(9));
        assert_eq!(steps(&slot(Some(9)), &[existing(|s| s.active = true)], STANDBY), []);
        assert_eq!(steps(&slot(Some(5)), &[existing(|_| ())], STANDBY), []);
        assert_eq!(steps(&slot(None), &[existing(|_| ())], STANDBY), []);
    }

    #[test]
    fn logical_slots_are_moved_no_further_than_this_standby_has_replayed() {
        let to =
            |to| vec![Step::AdvanceLogical { name: "s".to_owned(), database: "d".to_owned(), to: Lsn(to) }];
        let there = || [existing(is_logical)];
        assert_eq!(steps(&wanted(logical(Some(9))), &there(), STANDBY), to(9));
        assert_eq!(steps(&wanted(logical(Some(90))), &there(), STANDBY), to(50));
        assert_eq!(steps(&wanted(logical(Some(90))), &there(), Stand { replayed: None, ..STANDBY }), []);
        assert_eq!(steps(&wanted(logical(Some(7))), &there(), STANDBY), []);
        assert_eq!(steps(&wanted(logical(Some(90))), &there(), PRIMARY), []);
    }

    #[test]
    fn a_copy_is_proven_once_its_rows_were_kept_all_the_time() {
        assert!(is_proven(10, Some(10), 10));
        assert!(is_proven(10, Some(11), 12));
        assert!(!is_proven(10, None, 12), "the primary was not told yet");
        assert!(!is_proven(12, Some(11), 13), "the primary's may have let go of rows before it was told");
        assert!(!is_proven(10, Some(13), 12), "the primary keeps less than is needed here");
        assert!(is_proven(u32::MAX - 1, Some(3), 5), "the numbers went round");
    }
}
