//! Effects on the other members and on the guard: questions with one short deadline for all.

use std::time::Duration;

use pgvane_cluster::clock::Tick;
use pgvane_cluster::ids::{Epoch, NodeName};
use pgvane_cluster::records::Tags;
use pgvane_cluster::store::Store;
use pgvane_cluster::view::ClusterView;
use tracing::{info, warn};

use super::{Context, Order};
use crate::api::FailsafeAsk;
use crate::decide::Outcome;
use crate::decide::memory::Consent;
use crate::decide::world::{Peer, Peers, Slot};
use crate::event::Event;
use crate::guard::client::{Arming, GuardClient};
use crate::peers::{PeerAnswer, at};

/// How long the others get to tell their positions. Whoever leads decides on what came in by then.
const POLL_LIMIT: Duration = Duration::from_millis(250);

/// The same where Patroni daemons are among them, which ask their server first and answer several at a time slowly.
/// Shorter than answers may be old when a node campaigns on them.
const PATRONI_POLL_LIMIT: Duration = Duration::from_millis(700);

/// How long the others get to vouch.
const VOUCH_LIMIT: Duration = Duration::from_millis(800);

/// Asks every other member where it is.
pub(super) async fn poll<S: Store>(ctx: &Context<S>, view: Option<&ClusterView>) -> Vec<Outcome> {
    let asked_at = Tick::now();
    let targets: Vec<(NodeName, String)> = view
        .iter()
        .flat_map(|v| v.members.iter())
        .filter(|(name, _)| **name != ctx.me)
        .filter_map(|(name, m)| Some((name.clone(), at(m.record.api_url.as_ref()?, "/patroni?fresh"))))
        .collect();
    let slow = view.is_some_and(ClusterView::has_patroni_member);
    let limit = if slow { PATRONI_POLL_LIMIT } else { POLL_LIMIT };
    let answers = ctx.caller.ask_all(&targets, limit).await;
    let answers = answers.into_iter().map(|(name, answer)| (name, peer(answer))).collect();
    ctx.report(Event::Peers(Peers { asked_at, answers }));
    vec![Outcome::Done(Slot::Peers)]
}

fn peer(answer: PeerAnswer) -> Peer {
    match answer {
        PeerAnswer::Unreachable(_) => Peer::Unreachable,
        PeerAnswer::Answered(status) => Peer::Answered {
            is_primary: status.is_primary,
            running: status.running,
            timeline: status.timeline,
            position: status.position,
            fresh: !status.stale,
            tags: if status.watchdog_failed { barred(status.tags) } else { status.tags },
        },
    }
}

/// A member whose watchdog is required and broken leads as little as one whose tags say so.
fn barred(mut tags: Tags) -> Tags {
    tags.0.insert("nofailover".to_owned(), true.into());
    tags
}

/// Asks every other member that the failsafe list may name to vouch. One that does not is enough to refuse.
pub(super) async fn ask_failsafe<S: Store>(ctx: &Context<S>, epoch: Epoch, order: &Order) -> Vec<Outcome> {
    let Some(targets) = &order.voters else {
        return vec![Outcome::NotConsented, Outcome::Done(Slot::Failsafe)];
    };
    let ask = FailsafeAsk {
        name: ctx.me.clone(),
        conn_url: order.record.conn_url.clone().unwrap_or_default(),
        api_url: order.record.api_url.clone().unwrap_or_default(),
        slots: None,
        ttl_ms: u64::try_from(order.timing.ttl.as_millis()).ok(),
    };
    let asked_at = Tick::now();
    let refusals = ctx.caller.vouch_all(targets, &ask, VOUCH_LIMIT).await;
    if refusals.is_empty() {
        info!(members = targets.len(), "all members vouch for us while the store is away");
        let consent = Consent { asked_at, ttl: order.timing.ttl, epoch };
        return vec![Outcome::Consented(consent), Outcome::Done(Slot::Failsafe)];
    }
    warn!(?refusals, "not every member vouches for us");
    vec![Outcome::NotConsented, Outcome::Done(Slot::Failsafe)]
}

/// Gives the guard our deadline.
pub(super) async fn arm<S: Store>(
    ctx: &Context<S>,
    epoch: Epoch,
    arming: Option<(GuardClient, Arming)>,
) -> Vec<Outcome> {
    let Some((guard, arming)) = arming else { return vec![Outcome::Failed(Slot::Guard)] };
    let (lease, deadline) = (arming.lease, arming.deadline);
    match guard.arm(arming).await {
        Ok(()) => {
            ctx.report(Event::GuardArmed { epoch, lease, deadline });
            vec![Outcome::Done(Slot::Guard)]
        }
        Err(error) => {
            warn!(%error, "the guard was not armed");
            if guard.report().await.is_ok_and(|report| report.spent_lease == Some(lease.0)) {
                ctx.report(Event::LeaseSpent(lease));
            }
            vec![Outcome::Failed(Slot::Guard)]
        }
    }
}

/// Before the leader key moves to another lease the guard must not hold a deadline that this one may not reach.
/// Whether the key may move: nothing is to be armed, or it was.
pub(super) async fn arm_first<S: Store>(ctx: &Context<S>, arming: Option<(GuardClient, Arming)>) -> bool {
    let Some((guard, arming)) = arming else { return true };
    let epoch = arming.epoch;
    arm(ctx, epoch, Some((guard, arming))).await.contains(&Outcome::Done(Slot::Guard))
}

/// Takes the deadline from the guard.
pub(super) async fn disarm<S: Store>(ctx: &Context<S>, guard: Option<GuardClient>) -> Vec<Outcome> {
    let Some(guard) = guard else { return vec![Outcome::Failed(Slot::Guard)] };
    match guard.disarm().await {
        Ok(()) => {
            ctx.report(Event::GuardIdle);
            vec![Outcome::Done(Slot::Guard)]
        }
        Err(error) => {
            warn!(%error, "the guard was not disarmed");
            vec![Outcome::Failed(Slot::Guard)]
        }
    }
}
