//! Actions become effects. Each is a future of its own that reports through events and ends in outcomes.

mod asking;
mod before_stop;
pub mod callbacks;
mod copy_slots;
pub mod members;
pub mod postmaster;
mod promotion;
mod rejoin;
pub mod server;
pub mod store;
pub mod sync;
pub mod upstream;

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::Duration;

use pgvane_cluster::changes::Farewell;
use pgvane_cluster::clock::Tick;
use pgvane_cluster::follow::Observation;
use pgvane_cluster::ids::{Epoch, LeaseId, NodeName};
use pgvane_cluster::keyspace::Keyspace;
use pgvane_cluster::records::{MemberRecord, StatusRecord};
use pgvane_cluster::settings::ClusterSettings;
use pgvane_cluster::store::{Compare, Store, TxnOutcome};
use pgvane_cluster::view::ClusterView;
use serde_json::Value;
use tokio::sync::{mpsc, watch};

use crate::decide::Outcome;
use crate::decide::action::Action;
use crate::decide::lease::Authority;
use crate::decide::vacancy::Vacancy;
use crate::decide::world::Slot;
use crate::event::Event;
use crate::guard::client::{Arming, GuardClient, StoreAccess};
use crate::known_config::KnownConfig;
use crate::peers::Caller;
use crate::postgres::Instance;
use crate::timing::Timing;
use crate::watchdog::Watchdog;

/// How long a write of ours may take to come back through the watch.
const SEEN_WITHIN: Duration = Duration::from_millis(500);

/// How long the watch needs to show what a transaction of ours was too late for.
const MET_WITHIN: Duration = Duration::from_millis(20);

/// What every effect may use.
pub struct Context<S> {
    /// This node.
    pub me: NodeName,
    /// The cluster's keys.
    pub space: Keyspace,
    /// The store.
    pub store: Arc<S>,
    /// The local PostgreSQL.
    pub instance: Instance,
    /// The first dynamic configuration of a new cluster.
    pub first_config: Value,
    /// The dynamic configuration as it was last read.
    pub known_config: Arc<KnownConfig>,
    /// What the store shows: an effect on it ends when its write is seen.
    pub observation: watch::Receiver<Observation>,
    /// Where effects report.
    pub events: mpsc::UnboundedSender<Event>,
    /// How other members are asked.
    pub caller: Arc<Caller>,
    /// How the guard reaches the store to give the lease back.
    pub store_access: watch::Receiver<StoreAccess>,
    /// The member record as last written.
    pub published: watch::Sender<Option<MemberRecord>>,
    /// This node's right to lead, as of the loop's last turn: for effects that take longer than a lease.
    pub right: watch::Sender<Option<Right>>,
    /// The operator's callbacks.
    pub callbacks: Arc<callbacks::Runner>,
    /// The kernel's watchdog.
    pub watchdog: Arc<Watchdog>,
}

/// A right to lead.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Right {
    /// The reign.
    pub epoch: Epoch,
    /// When a clean stop must begin.
    pub step_down_at: Tick,
    /// When it ends.
    pub until: Tick,
}

impl From<Authority> for Right {
    fn from(authority: Authority) -> Right {
        Right {
            epoch: authority.epoch,
            step_down_at: authority.step_down_at,
            until: authority.guard_deadline,
        }
    }
}

/// What one effect works with: the world as it was decided on.
#[derive(Clone)]
pub struct Order {
    /// The step.
    pub action: Action,
    /// The dynamic configuration.
    pub settings: ClusterSettings,
    /// The deadlines.
    pub timing: Timing,
    /// The newest view.
    pub view: Option<Arc<ClusterView>>,
    /// Our lease.
    pub lease: Option<LeaseId>,
    /// Our member record, for writes that carry it.
    pub record: MemberRecord,
    /// Until when the right to lead that this was decided on lasts; `None` where there is none.
    pub right_until: Option<Tick>,
    /// For [`Action::ArmGuard`], and for [`Action::TakeOverKey`] while a deadline is held: the guard and what it is
    /// to hold, in which reign.
    pub arming: Option<(GuardClient, Arming)>,
    /// The guard, for [`Action::DisarmGuard`].
    pub guard: Option<GuardClient>,
    /// For [`Action::Campaign`]: what must be true of the rule it was decided by.
    pub raced_on: Option<Compare>,
    /// Logical replication slots that were copied and may lack what they need.
    pub unproven: BTreeSet<String>,
    /// For [`Action::AskFailsafe`]: who must vouch, name to API address; `None` where there is no list.
    pub voters: Option<BTreeMap<NodeName, String>>,
    /// For [`Action::Release`]: why.
    pub farewell: Option<Farewell>,
    /// For [`Action::Promote`]: whose reign ended before ours.
    pub vacancy: Option<Vacancy>,
}

impl<S: Store> Context<S> {
    /// Carries out one step.
    pub async fn perform(self: Arc<Self>, order: Order) -> Vec<Outcome> {
        let ctx = &*self;
        match &order.action {
            Action::Wait | Action::Exit | Action::Halt => vec![],
            Action::RaceInitialize => store::race_initialize(ctx).await,
            Action::SetInitialize { system_identifier } => {
                store::set_initialize(ctx, system_identifier).await
            }
            Action::WriteConfig => {
                let known = ctx.known_config.document();
                store::write_config(ctx, known.as_ref().unwrap_or(&ctx.first_config)).await
            }
            Action::Campaign => match order.lease {
                Some(lease) => store::campaign(ctx, lease, order.raced_on).await,
                None => vec![Outcome::Failed(Slot::Store)],
            },
            Action::TakeOverKey => match order.lease {
                Some(lease) if members::arm_first(ctx, order.arming).await => {
                    store::take_over_key(ctx, lease).await
                }
                Some(_) | None => vec![Outcome::Failed(Slot::Store)],
            },
            Action::Release { epoch, optime } => {
                let before = order.view.as_ref().and_then(|v| v.status.clone()).unwrap_or_default();
                let status = optime.map(|optime| StatusRecord { optime, ..before });
                let stopped = order.lease.map(|lease| (order.record.clone(), lease));
                store::release(ctx, *epoch, status, stopped, order.farewell.as_ref()).await
            }
            Action::ClearRequest { revision } => store::clear_request(ctx, *revision).await,
            Action::RequestNow { revision } => {
                let pending = order.view.as_ref().and_then(|v| v.failover.as_ref());
                let request = pending.filter(|f| f.mod_revision == *revision).map(|f| &f.value);
                store::request_now(ctx, *revision, request).await
            }
            Action::WriteSyncKey { epoch, record, over } => sync::write_key(ctx, *epoch, record, *over).await,
            Action::DeleteSyncKey { epoch, revision } => sync::delete_key(ctx, *epoch, *revision).await,
            Action::SetStandbyNames { names, epoch, prove } => {
                sync::set_names(ctx, &order.settings.postgresql, names.as_deref(), *epoch, *prove).await
            }
            Action::ArmGuard { epoch } => members::arm(ctx, *epoch, order.arming).await,
            Action::DisarmGuard => members::disarm(ctx, order.guard).await,
            Action::PollPeers => members::poll(ctx, order.view.as_deref()).await,
            Action::AskFailsafe { epoch } => members::ask_failsafe(ctx, *epoch, &order).await,
            Action::Bootstrap => server::bootstrap(ctx, &order).await,
            Action::Clone { from } => server::clone(ctx, &order, Some(from)).await,
            Action::CloneAlone => server::clone(ctx, &order, None).await,
            Action::StartPrimary => server::start_primary(ctx, &order).await,
            Action::StartStandby { upstream } => server::start_standby(ctx, &order, upstream.as_ref()).await,
            Action::Rejoin { leader } => rejoin::rejoin(ctx, &order, leader).await,
            Action::CopySlots { leader, upstream, names } => {
                copy_slots::copy_slots(ctx, &order, leader, upstream, names).await
            }
            Action::Follow { upstream } => rejoin::follow(ctx, &order, upstream).await,
            Action::Promote { epoch } => server::promote(Arc::clone(&self), &order, *epoch).await,
            Action::Checkpoint { request } => server::checkpoint(ctx, *request).await,
            Action::StopToHandOver { request } => server::stop_to_hand_over(ctx, &order, *request).await,
            Action::StopToRestart { id } => server::stop_to_restart(ctx, &order, *id).await,
            Action::Stop { how } => server::stop(ctx, &order, *how).await,
        }
    }

    /// Waits until the view shows a transaction of ours, so that the next decision is not made from the world
    /// before it. Bounded: the view may be far behind, and decisions are safe on any view. A transaction that
    /// wrote nothing has no revision of its own to wait for; what it met is on its way.
    pub async fn seen(&self, txn: TxnOutcome) {
        if !txn.succeeded {
            tokio::time::sleep(MET_WITHIN).await;
            return;
        }
        let mut observation = self.observation.clone();
        let reached = observation.wait_for(|o| o.view.as_ref().is_some_and(|v| v.revision >= txn.revision));
        let _ = tokio::time::timeout(SEEN_WITHIN, reached).await;
    }

    /// Reports something; the loop is gone only when the agent ends.
    pub fn report(&self, event: Event) {
        let _ = self.events.send(event);
    }
}
