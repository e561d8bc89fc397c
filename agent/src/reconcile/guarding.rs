//! The guard as the loop knows it: what it holds, and how its deadline follows the lease.

use std::time::Duration;

use pgvane_cluster::changes::{Cause, Farewell};
use pgvane_cluster::clock::Tick;
use pgvane_cluster::ids::{Epoch, LeaseId, NodeName};
use pgvane_cluster::keyspace::Key;
use pgvane_cluster::store::Store;
use pgvane_cluster::view::ClusterView;
use tokio::sync::mpsc;
use tracing::{error, info, warn};

use crate::decide::lease::Authority;
use crate::decide::world::{Guard, OwnLease};
use crate::enact::Context;
use crate::event::Event;
use crate::guard::client::{
    Arming, Doing, Found, GuardClient, GuardError, GuardEvent, GuardOptions, Parting, Report,
};
use crate::timing::Timing;

/// Between two tries to start a guard.
const RETRY: Duration = Duration::from_millis(200);

/// The guard of this node.
pub(super) struct Guarding {
    state: Guard,
    /// The lease whose deadline it holds.
    lease: Option<LeaseId>,
    /// The last deadline given to it.
    sent: Tick,
    client: Option<GuardClient>,
    events: mpsc::Receiver<GuardEvent>,
    options: GuardOptions,
}

impl Guarding {
    /// The guard as it was found; `options` start another.
    pub(super) fn new(found: Found, options: GuardOptions) -> Guarding {
        let Found { client, events, report } = found;
        let state = match (report.doing, report.epoch) {
            (Doing::Armed, Some(epoch)) => Guard::Armed { epoch: Epoch(epoch) },
            (doing, _) => guard_reached(doing),
        };
        Guarding {
            state,
            lease: report.lease.map(LeaseId),
            sent: Tick::from_nanos(report.deadline.unwrap_or(0)),
            client: Some(client),
            events,
            options,
        }
    }

    /// What it is worth to a node that renews `own`. A guard armed under another lease holds a deadline that no
    /// renewal of ours moves. It is in force all the same while the leader key is still under that lease: until a
    /// changed ttl's new lease has taken the key over, the old deadline is the one that bounds our reign.
    pub(super) fn state(&self, me: &NodeName, own: OwnLease, view: Option<&ClusterView>) -> Guard {
        let key = view.and_then(|view| view.leader.as_ref());
        let key_lease = key.filter(|key| key.name == *me).and_then(|key| key.lease);
        match self.state {
            Guard::Armed { .. } if !deadline_is_in_force(self.lease, own, key_lease) => Guard::Outdated,
            state => state,
        }
    }

    /// The handle, while it answers.
    pub(super) fn client(&self) -> Option<GuardClient> {
        self.client.clone()
    }

    /// What it is to hold for the lease `own`.
    pub(super) fn arming<S: Store>(
        &self,
        ctx: &Context<S>,
        own: OwnLease,
        epoch: Epoch,
        (deadline, timing): (Tick, &Timing),
    ) -> Option<(GuardClient, Arming)> {
        let OwnLease::Held { id, ttl, .. } = own else { return None };
        let last_words = Farewell { epoch, cause: Cause::Guard, detail: None, down_ms: None };
        let arming = Arming {
            epoch,
            lease: id,
            ttl,
            deadline,
            budget: timing.guard_budget,
            postmaster: None,
            store: ctx.store_access.borrow().clone(),
            parting: Some(Parting {
                leader_key: ctx.space.path(&Key::Leader),
                leader: ctx.me.to_string(),
                key: ctx.space.path(&Key::Farewell),
                words: String::from_utf8_lossy(&last_words.to_json()).into_owned(),
            }),
        };
        Some((self.client()?, arming))
    }

    /// What it must hold before the leader key moves from the lease of its deadline to `own`: a deadline that lies
    /// before the end of both.
    pub(super) fn arming_to_move<S: Store>(
        &self,
        ctx: &Context<S>,
        own: OwnLease,
        timing: &Timing,
    ) -> Option<(GuardClient, Arming)> {
        let Guard::Armed { epoch } = self.state else { return None };
        let OwnLease::Held { id, sent_at, ttl } = own else { return None };
        if self.lease == Some(id) {
            return None;
        }
        let deadline = timing.guard_deadline(sent_at, ttl).min(self.sent);
        self.arming(ctx, own, epoch, (deadline, timing))
    }

    /// Moves its deadline forward after a renewal.
    pub(super) fn extend(&mut self, authority: &Authority, events: &mpsc::UnboundedSender<Event>) {
        let (Some(lease), Guard::Armed { epoch }) = (self.lease, self.state) else { return };
        if epoch != authority.epoch || authority.guard_deadline <= self.sent {
            return;
        }
        self.sent = authority.guard_deadline;
        let Some(client) = self.client() else { return };
        let (events, deadline) = (events.clone(), self.sent);
        tokio::spawn(async move {
            if let Err(error) = client.extend(lease, deadline).await {
                warn!(%error, "the guard's deadline was not moved");
                if let GuardError::Gone(why) = error {
                    let _ = events.send(Event::GuardGone(why));
                }
            }
        });
    }

    /// It holds `deadline` for the reign `epoch` under `lease`.
    pub(super) fn armed(&mut self, epoch: Epoch, lease: LeaseId, deadline: Tick) {
        self.state = Guard::Armed { epoch };
        self.lease = Some(lease);
        self.sent = deadline;
    }

    /// It was disarmed.
    pub(super) fn idle(&mut self) {
        self.state = Guard::Idle;
    }

    /// It watched a postmaster that is gone; for the next one it is armed again.
    pub(super) fn postmaster_ended(&mut self) {
        if let Guard::Armed { .. } = self.state {
            self.state = Guard::Outdated;
        }
    }

    /// What it tells by itself; `None` once it is gone.
    pub(super) async fn event(&mut self) -> Option<GuardEvent> {
        self.events.recv().await
    }

    /// Takes in what it told.
    pub(super) fn told(&mut self, event: GuardEvent, events: &mpsc::UnboundedSender<Event>) {
        match event {
            GuardEvent::Acted(Report { doing, .. }) => {
                warn!(?doing, "the guard acted");
                self.state = guard_reached(Doing::Stopping);
            }
            GuardEvent::Gone(why) => self.gone(&why, events),
        }
    }

    /// Nothing holds the deadline now: another guard is started at once. Until it is armed, decisions see an
    /// absent guard and promote nothing.
    pub(super) fn gone(&mut self, why: &str, events: &mpsc::UnboundedSender<Event>) {
        if self.client.take().is_none() {
            return;
        }
        error!(why, "the guard is gone; starting another");
        self.state = Guard::Absent;
        let (options, events) = (self.options.clone(), events.clone());
        tokio::spawn(async move {
            loop {
                match GuardClient::start(&options).await {
                    Ok(found) => {
                        let _ = events.send(Event::GuardBack(Box::new(found)));
                        return;
                    }
                    Err(error) => {
                        error!(%error, "no guard");
                        tokio::time::sleep(RETRY).await;
                    }
                }
            }
        });
    }

    /// Another one answers.
    pub(super) fn back(&mut self, found: Found) {
        info!(pid = found.report.pid, "a guard answers");
        self.state = guard_reached(found.report.doing);
        self.client = Some(found.client);
        self.events = found.events;
    }
}

/// What a guard that was reached anew, or that acted, is to us. One that stops PostgreSQL raises a fence next and
/// kills whatever starts in the data directory, until it is disarmed or armed again.
pub fn guard_reached(doing: Doing) -> Guard {
    match doing {
        // Reaching a fenced guard takes its fence down.
        Doing::Idle | Doing::Fenced => Guard::Idle,
        Doing::Armed | Doing::Stopping => Guard::Outdated,
    }
}

/// Whether the guard's deadline under `guarded` bounds this node's reign: `own` is the lease it renews, `key` the
/// one its leader key is under.
pub fn deadline_is_in_force(guarded: Option<LeaseId>, own: OwnLease, key: Option<LeaseId>) -> bool {
    match own {
        OwnLease::Held { id, .. } => guarded == Some(id) || (guarded.is_some() && guarded == key),
        OwnLease::None => true,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_new_lease_does_not_unguard_a_key_that_is_still_under_the_old_one() {
        let (old, new) = (Some(LeaseId(1)), Some(LeaseId(2)));
        let own = OwnLease::Held { id: LeaseId(2), sent_at: Tick::ZERO, ttl: Duration::from_secs(10) };
        assert!(deadline_is_in_force(new, own, new));
        assert!(deadline_is_in_force(old, own, old), "the ttl changed and the key has not moved yet");
        assert!(!deadline_is_in_force(old, own, new), "the key has moved");
        assert!(!deadline_is_in_force(old, own, None), "nobody leads, or somebody else does");
        assert!(!deadline_is_in_force(None, own, None));
        assert!(deadline_is_in_force(old, OwnLease::None, None));
    }
}
