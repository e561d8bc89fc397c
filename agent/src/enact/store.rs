//! Effects on the store: each one transaction, run once, never repeated on a guess.

use pgvane_cluster::changes::Farewell;
use pgvane_cluster::ids::{Epoch, LeaseId, Revision};
use pgvane_cluster::keyspace::Key;
use pgvane_cluster::records::{FailoverRecord, MemberRecord, StatusRecord};
use pgvane_cluster::store::{Compare, Store, StoreError, Txn, TxnOutcome, Write};
use serde_json::Value;
use tracing::{info, warn};

use super::Context;
use crate::decide::Outcome;
use crate::decide::world::Slot;

/// Creates `initialize`, empty, with our name beside it: the winner may bootstrap.
pub async fn race_initialize<S: Store>(ctx: &Context<S>) -> Vec<Outcome> {
    let key = ctx.space.path(&Key::Initialize);
    let when = vec![Compare::Absent(key.clone())];
    let claim = Write::Put(ctx.space.path(&Key::Bootstrap), me(ctx), None);
    let txn = Txn { when, then: vec![Write::Put(key, vec![], None), claim] };
    ended(ctx, "initialize", ctx.store.txn(txn).await).await
}

/// Gives `initialize` back after a bootstrap that failed, so that another node may try (contract 8.1). The revision
/// from which on it is known to be given back; without an answer the next decision sees whether it is.
pub async fn give_up_initialize<S: Store>(ctx: &Context<S>) -> Option<Revision> {
    let (key, claim) = (ctx.space.path(&Key::Initialize), ctx.space.path(&Key::Bootstrap));
    let when = vec![Compare::ValueIs(key.clone(), vec![]), Compare::ValueIs(claim.clone(), me(ctx))];
    let then = vec![Write::Delete(key), Write::Delete(claim)];
    match ctx.store.txn(Txn { when, then }).await {
        Ok(outcome) => Some(outcome.revision),
        Err(error) => {
            warn!(%error, "the initialize key of a failed bootstrap could not be deleted");
            None
        }
    }
}

/// Writes the system identifier where `initialize` is missing, or empty by our own claim or while we lead.
pub async fn set_initialize<S: Store>(ctx: &Context<S>, identifier: &str) -> Vec<Outcome> {
    let (key, claim) = (ctx.space.path(&Key::Initialize), ctx.space.path(&Key::Bootstrap));
    let empty = || Compare::ValueIs(key.clone(), vec![]);
    for when in [
        vec![empty(), Compare::ValueIs(claim.clone(), me(ctx))],
        vec![empty(), Compare::ValueIs(ctx.space.path(&Key::Leader), me(ctx))],
        vec![Compare::Absent(key.clone())],
    ] {
        let put = Write::Put(key.clone(), identifier.as_bytes().to_vec(), None);
        match ctx.store.txn(Txn { when, then: vec![put, Write::Delete(claim.clone())] }).await {
            Ok(outcome) if outcome.succeeded => {
                ctx.seen(outcome).await;
                break;
            }
            Ok(_) => {}
            Err(error) => return failed("initialize", &error),
        }
    }
    vec![Outcome::Done(Slot::Store)]
}

fn me<S: Store>(ctx: &Context<S>) -> Vec<u8> {
    ctx.me.as_str().as_bytes().to_vec()
}

/// Writes the dynamic configuration where there is none.
pub async fn write_config<S: Store>(ctx: &Context<S>, document: &Value) -> Vec<Outcome> {
    let key = ctx.space.path(&Key::Config);
    let value = document.to_string().into_bytes();
    let txn = Txn { when: vec![Compare::Absent(key.clone())], then: vec![Write::Put(key, value, None)] };
    ended(ctx, "config", ctx.store.txn(txn).await).await
}

/// Creates the leader key under our lease, if nobody holds it and what the race was run on (`on`) is still so.
pub async fn campaign<S: Store>(ctx: &Context<S>, lease: LeaseId, on: Option<Compare>) -> Vec<Outcome> {
    let key = ctx.space.path(&Key::Leader);
    let value = ctx.me.as_str().as_bytes().to_vec();
    let when = [Compare::Absent(key.clone())].into_iter().chain(on).collect();
    let txn = Txn { when, then: vec![Write::Put(key, value, Some(lease))] };
    match ctx.store.txn(txn).await {
        Ok(outcome) => {
            info!(won = outcome.succeeded, revision = %outcome.revision, "campaigned for the leader key");
            ctx.seen(outcome).await;
            vec![Outcome::Done(Slot::Store)]
        }
        Err(error) => failed("leader", &error),
    }
}

/// Puts the leader key that carries our name under our lease.
pub async fn take_over_key<S: Store>(ctx: &Context<S>, lease: LeaseId) -> Vec<Outcome> {
    let key = ctx.space.path(&Key::Leader);
    let value = ctx.me.as_str().as_bytes().to_vec();
    let txn = Txn {
        when: vec![Compare::ValueIs(key.clone(), value.clone())],
        then: vec![Write::Put(key, value, Some(lease))],
    };
    ended(ctx, "leader", ctx.store.txn(txn).await).await
}

/// Deletes the leader key of `epoch`; with it, in one step, what the next leader needs to know: where our WAL
/// ended and that we have stopped; and, for people, why.
pub async fn release<S: Store>(
    ctx: &Context<S>,
    epoch: Epoch,
    status: Option<StatusRecord>,
    stopped: Option<(MemberRecord, LeaseId)>,
    farewell: Option<&Farewell>,
) -> Vec<Outcome> {
    let leader = ctx.space.path(&Key::Leader);
    let mut then = Vec::new();
    if let Some(status) = status {
        then.push(Write::Put(ctx.space.path(&Key::Status), status.to_json(), None));
    }
    if let Some((record, lease)) = stopped {
        then.push(Write::Put(ctx.space.path(&Key::Member(ctx.me.clone())), record.to_json(), Some(lease)));
    }
    if let Some(farewell) = farewell {
        then.push(Write::Put(ctx.space.path(&Key::Farewell), farewell.to_json(), None));
    }
    then.push(Write::Delete(leader.clone()));
    let when = vec![
        Compare::ValueIs(leader.clone(), ctx.me.as_str().as_bytes().to_vec()),
        Compare::CreateRevisionIs(leader, Revision(epoch.0)),
    ];
    match ctx.store.txn(Txn { when, then }).await {
        // A failed comparison means that the key of that reign is gone already.
        Ok(outcome) => {
            info!(%epoch, deleted = outcome.succeeded, "released the leader key");
            ctx.seen(outcome).await;
            vec![Outcome::Released, Outcome::Done(Slot::Store)]
        }
        Err(error) => failed("leader", &error),
    }
}

/// Clears the operator's request of `revision`; a newer one is left alone.
pub async fn clear_request<S: Store>(ctx: &Context<S>, revision: Revision) -> Vec<Outcome> {
    let key = ctx.space.path(&Key::Failover);
    let txn = Txn {
        when: vec![Compare::ModRevisionIs(key.clone(), revision)],
        then: vec![Write::Put(key, FailoverRecord::default().to_json(), None)],
    };
    match ctx.store.txn(txn).await {
        Ok(outcome) => {
            ctx.seen(outcome).await;
            vec![Outcome::RequestCleared, Outcome::Done(Slot::Store)]
        }
        Err(error) => failed("failover", &error),
    }
}

/// Makes the scheduled request of `revision` one for now; a newer one is left alone.
pub async fn request_now<S: Store>(
    ctx: &Context<S>,
    revision: Revision,
    request: Option<&FailoverRecord>,
) -> Vec<Outcome> {
    let Some(request) = request else { return vec![Outcome::Failed(Slot::Store)] };
    let key = ctx.space.path(&Key::Failover);
    let now = FailoverRecord { scheduled_at: None, ..request.clone() };
    let txn = Txn {
        when: vec![Compare::ModRevisionIs(key.clone(), revision)],
        then: vec![Write::Put(key, now.to_json(), None)],
    };
    ended(ctx, "failover", ctx.store.txn(txn).await).await
}

/// Writes our member record under our lease.
pub async fn publish<S: Store>(
    ctx: &Context<S>,
    record: &MemberRecord,
    lease: LeaseId,
) -> Result<(), StoreError> {
    let key = ctx.space.path(&Key::Member(ctx.me.clone()));
    ctx.store.txn(Txn::put(key, record.to_json(), Some(lease))).await.map(drop)
}

/// Writes a leader's key (`status`, `failsafe`, `history`), only while the leader key is still that of `epoch`:
/// these keys have no lease, and the last writer would win.
pub async fn write_as_leader<S: Store>(
    ctx: &Context<S>,
    epoch: Epoch,
    key: Key,
    value: Vec<u8>,
) -> Result<(), StoreError> {
    write_all_as_leader(ctx, epoch, [(key, value)]).await
}

/// Writes several at once, or none.
pub async fn write_all_as_leader<S: Store>(
    ctx: &Context<S>,
    epoch: Epoch,
    pairs: impl IntoIterator<Item = (Key, Vec<u8>)>,
) -> Result<(), StoreError> {
    let put = |(key, value)| Write::Put(ctx.space.path(&key), value, None);
    let then = pairs.into_iter().map(put).collect();
    ctx.store.txn(Txn { when: reign(ctx, epoch), then }).await.map(drop)
}

/// That the leader key is still ours, of `epoch`.
pub(super) fn reign<S: Store>(ctx: &Context<S>, epoch: Epoch) -> Vec<Compare> {
    let leader = ctx.space.path(&Key::Leader);
    vec![
        Compare::ValueIs(leader.clone(), ctx.me.as_str().as_bytes().to_vec()),
        Compare::CreateRevisionIs(leader, Revision(epoch.0)),
    ]
}

async fn ended<S: Store>(
    ctx: &Context<S>,
    key: &'static str,
    result: Result<TxnOutcome, StoreError>,
) -> Vec<Outcome> {
    match result {
        Ok(outcome) => {
            ctx.seen(outcome).await;
            vec![Outcome::Done(Slot::Store)]
        }
        Err(error) => failed(key, &error),
    }
}

fn failed(key: &'static str, error: &StoreError) -> Vec<Outcome> {
    warn!(key, %error, "a write to the store has no known outcome");
    vec![Outcome::Failed(Slot::Store)]
}
