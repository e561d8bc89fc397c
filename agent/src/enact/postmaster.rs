//! The end of a postmaster, as an event.

use std::sync::Arc;
use std::time::Duration;

use pgvane_cluster::store::Store;
use tracing::error;

use super::{Context, server};
use crate::event::{Event, ServerEvent};
use crate::postgres::process::{self, Postmaster};

/// Reports the end of a postmaster, with the data directory looked at first.
pub fn watch<S: Store>(ctx: &Arc<Context<S>>, postmaster: &Postmaster) {
    let Ok(postmaster) = postmaster.try_clone() else { return };
    let ctx = Arc::clone(ctx);
    tokio::spawn(async move {
        if let Err(error) = postmaster.ended().await {
            error!(%error, "the postmaster cannot be watched");
            return;
        }
        // Orphans of a killed postmaster may still confirm commits: the server is gone when they are.
        let dir = ctx.instance.data_dir.clone();
        while let Err(error) = process::sweep(dir.clone(), Duration::from_secs(5)).await {
            error!(%error, "the server's processes do not end");
        }
        ctx.report(Event::Data(server::look(&ctx.instance).await));
        ctx.report(Event::Server(ServerEvent::Gone { pid: postmaster.pid() }));
    });
}
