//! Logical slots for a standby (contract 8.5): their state on the primary's disk, written to ours while we are
//! stopped. There is no other way into a server in recovery.

use std::collections::BTreeSet;

use pgvane_cluster::store::Store;
use tracing::{info, warn};

use super::asking::within_reign;
use super::server::{address, ended, find, start_following, stop_and_report};
use super::{Context, Order};
use crate::decide::Outcome;
use crate::decide::world::Upstream;
use crate::event::Event;
use crate::postgres::control::Shutdown;
use crate::postgres::slots::Copied;
use crate::postgres::{PostgresError, rewind, slots, wal};

/// Copies the slots `names` from the primary `leader`, and goes on as a standby of `upstream`.
pub(super) async fn copy_slots<S: Store>(
    ctx: &Context<S>,
    order: &Order,
    leader: &Upstream,
    upstream: &Upstream,
    names: &BTreeSet<String>,
) -> Vec<Outcome> {
    let done = copy(ctx, order, leader, upstream, names).await;
    // Whatever came of it is looked at anew before it is done again.
    ctx.report(Event::Meanwhile(Outcome::Slots { to_copy: BTreeSet::new(), unproven: names.clone() }));
    ended(ctx, "copying slots", done).await
}

async fn states<S: Store>(
    ctx: &Context<S>,
    leader: &Upstream,
    names: &BTreeSet<String>,
) -> Result<Vec<Copied>, PostgresError> {
    let client = rewind::connect(&ctx.instance, &address(leader)).await?;
    slots::states(&client, names).await
}

async fn copy<S: Store>(
    ctx: &Context<S>,
    order: &Order,
    leader: &Upstream,
    upstream: &Upstream,
    names: &BTreeSet<String>,
) -> Result<(), PostgresError> {
    let pg_wal = ctx.instance.data_dir.join("pg_wal");
    let mut copies = within_reign(ctx, order, states(ctx, leader, names)).await?;
    copies.retain(|copy| wal::has(&pg_wal, copy.restart));
    if copies.is_empty() {
        return Ok(());
    }
    let shown = copies.iter().map(|copy| copy.name.as_str()).collect::<Vec<_>>().join(", ");
    info!(slots = shown, "restarting PostgreSQL to copy logical slots of the primary");
    if let Some(postmaster) = find(&ctx.instance.data_dir)? {
        stop_and_report(ctx, &postmaster, Shutdown::Fast, ctx.instance.pg_ctl_timeout).await?;
    }
    for slot in &copies {
        if let Err(error) = slots::write(&ctx.instance.data_dir, slot) {
            warn!(slot = slot.name, %error, "a logical slot was not copied");
        }
    }
    start_following(ctx, order, Some(upstream)).await
}
