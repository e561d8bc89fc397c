//! Which effects run: at most one per slot, each a task whose end comes back as an event.

use std::collections::BTreeMap;
use std::future::Future;

use pgvane_cluster::clock::Tick;
use tokio::sync::mpsc;
use tokio::task::AbortHandle;

use crate::decide::Outcome;
use crate::decide::world::{Ongoing, Slot};
use crate::event::Event;

/// The effects under way.
#[derive(Debug)]
pub struct Effects {
    running: BTreeMap<Slot, Running>,
    started: u64,
    events: mpsc::UnboundedSender<Event>,
}

#[derive(Debug)]
struct Running {
    ongoing: Ongoing,
    number: u64,
    abort: AbortHandle,
}

impl Effects {
    /// None yet; ends are sent to `events`.
    pub fn new(events: mpsc::UnboundedSender<Event>) -> Effects {
        Effects { running: BTreeMap::new(), started: 0, events }
    }

    /// Starts an effect, ending the one in its slot: whoever starts one knows that the slot is free, or that
    /// what runs there must stop.
    pub fn start<F>(&mut self, slot: Slot, what: &'static str, now: Tick, effect: F)
    where
        F: Future<Output = Vec<Outcome>> + Send + 'static,
    {
        self.started += 1;
        let number = self.started;
        let events = self.events.clone();
        let task = tokio::spawn(async move {
            let outcomes = effect.await;
            // The receiver is gone only when the agent ends.
            let _ = events.send(Event::EffectEnded { slot, number, outcomes });
        });
        let running = Running { ongoing: Ongoing { what, since: now }, number, abort: task.abort_handle() };
        if let Some(before) = self.running.insert(slot, running) {
            before.abort.abort();
        }
    }

    /// Notes the end of an effect; `false` for one that was replaced meanwhile, whose outcome no longer counts.
    pub fn ended(&mut self, slot: Slot, number: u64) -> bool {
        let current = self.running.get(&slot).is_some_and(|r| r.number == number);
        if current {
            self.running.remove(&slot);
        }
        current
    }

    /// What runs, for the next decision.
    pub fn ongoing(&self) -> BTreeMap<Slot, Ongoing> {
        self.running.iter().map(|(slot, r)| (*slot, r.ongoing)).collect()
    }

    /// What runs in `slot`.
    pub fn what(&self, slot: Slot) -> Option<&'static str> {
        self.running.get(&slot).map(|r| r.ongoing.what)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn a_replaced_effect_is_ended_and_its_outcome_ignored() {
        let (sender, mut events) = mpsc::unbounded_channel();
        let mut effects = Effects::new(sender);
        effects.start(Slot::Postgres, "clone", Tick::ZERO, std::future::pending());
        effects.start(Slot::Postgres, "stop", Tick::ZERO, async { vec![Outcome::Done(Slot::Postgres)] });
        assert_eq!(effects.what(Slot::Postgres), Some("stop"));
        let Some(Event::EffectEnded { slot, number, .. }) = events.recv().await else {
            panic!("the effect must end")
        };
        assert!(!effects.ended(slot, number - 1));
        assert!(effects.ended(slot, number));
        assert!(effects.ongoing().is_empty());
    }
}
