//! Effects of synchronous replication: the key `sync` under our reign, and the server's setting seen in force.

use pgvane_cluster::ids::{Epoch, Revision};
use pgvane_cluster::keyspace::Key;
use pgvane_cluster::records::SyncRecord;
use pgvane_cluster::settings::PostgresqlSettings;
use pgvane_cluster::store::{Compare, Store, Txn, Write};
use tracing::{error, info, warn};

use super::{Context, Order, store};
use crate::decide::Outcome;
use crate::decide::sync::{InForce, Over, names_to_start};
use crate::decide::world::Slot;
use crate::postgres::{PostgresError, standby_names};

/// Writes `sync`, if it still is what is replaced and we still lead.
pub(super) async fn write_key<S: Store>(
    ctx: &Context<S>,
    epoch: Epoch,
    record: &SyncRecord,
    over: Over,
) -> Vec<Outcome> {
    let key = ctx.space.path(&Key::Sync);
    let mut when = store::reign(ctx, epoch);
    match over {
        Over::Nothing => when.push(Compare::Absent(key.clone())),
        Over::Revision(revision) => when.push(Compare::ModRevisionIs(key.clone(), revision)),
        Over::Garbage => {}
    }
    let done = change(ctx, Txn { when, then: vec![Write::Put(key, record.to_json(), None)] }).await;
    if let Some(revision) = done {
        let standbys = record.sync_standby.as_deref().unwrap_or("");
        info!(standbys, quorum = record.quorum, %revision, "who may lead next");
        return vec![Outcome::SyncKeyWritten { epoch, revision }, Outcome::Done(Slot::SyncKey)];
    }
    vec![Outcome::Failed(Slot::SyncKey)]
}

/// Deletes `sync`, if it still is what was judged and we still lead.
pub(super) async fn delete_key<S: Store>(ctx: &Context<S>, epoch: Epoch, revision: Revision) -> Vec<Outcome> {
    let key = ctx.space.path(&Key::Sync);
    let mut when = store::reign(ctx, epoch);
    when.push(Compare::ModRevisionIs(key.clone(), revision));
    if change(ctx, Txn { when, then: vec![Write::Delete(key)] }).await.is_some() {
        info!("synchronous mode has ended");
        return vec![Outcome::Done(Slot::SyncKey)];
    }
    vec![Outcome::Failed(Slot::SyncKey)]
}

/// Runs a change of `sync`; its revision when it was made.
async fn change<S: Store>(ctx: &Context<S>, txn: Txn) -> Option<Revision> {
    match ctx.store.txn(txn).await {
        Ok(outcome) => {
            ctx.seen(outcome).await;
            if !outcome.succeeded {
                warn!("the sync key changed meanwhile, or we lead no more");
            }
            outcome.succeeded.then_some(outcome.revision)
        }
        Err(error) => {
            warn!(key = "sync", %error, "a write to the store has no known outcome");
            None
        }
    }
}

/// Sets `synchronous_standby_names` and waits until all of the server has it in force.
pub(super) async fn set_names<S: Store>(
    ctx: &Context<S>,
    dynamic: &PostgresqlSettings,
    names: Option<&str>,
    epoch: Option<Epoch>,
    prove: bool,
) -> Vec<Outcome> {
    let set = async {
        standby_names::hold(&ctx.instance, dynamic, names)?;
        standby_names::put_in_force(&ctx.instance, names, prove).await
    };
    match set.await {
        Ok(flushed) => {
            match names {
                Some(names) => info!(names, "commits wait for these standbys"),
                None => info!("whom commits wait for is the parameters' again"),
            }
            let noted = epoch.zip(flushed);
            let value = InForce { names: names.map(str::to_owned), noted };
            vec![Outcome::StandbyNamesSet(value), Outcome::Done(Slot::StandbyNames)]
        }
        Err(error) => {
            error!(names, %error, "synchronous_standby_names was not set");
            vec![Outcome::StandbyNamesUnknown, Outcome::Failed(Slot::StandbyNames)]
        }
    }
}

/// The configuration of a server that is about to be started as a primary has the value that its first commit
/// must find.
pub(super) fn before_start<S: Store>(ctx: &Context<S>, order: &Order) -> Result<(), PostgresError> {
    let Some(view) = &order.view else { return Ok(()) };
    let now = standby_names::configured(&ctx.instance);
    let names = names_to_start(view, &ctx.me, &order.settings, &now);
    standby_names::hold(&ctx.instance, &order.settings.postgresql, names.as_deref()).map(drop)
}
