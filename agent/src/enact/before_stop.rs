//! The operator's command before a stop (contract 3.6, step 4). It may take its time while nothing is at stake, and
//! never delays a stop past the lease.

use pgvane_cluster::store::Store;
use tokio::time::sleep;
use tracing::{info, warn};

use super::{Context, promotion};
use crate::script;

/// Runs it, where there is one. What it comes to changes nothing.
pub(super) async fn run<S: Store>(ctx: &Context<S>) {
    let Some(command) = &ctx.instance.before_stop else { return };
    let mut right = ctx.right.subscribe();
    // A standby has no lease to lose.
    let leads = right.borrow().is_some();
    let out_of_time = async {
        if leads {
            promotion::lost(&mut right, None).await;
        } else {
            std::future::pending::<()>().await;
        }
    };
    info!(command = command.text, "running before_stop");
    tokio::select! {
        biased;
        () = out_of_time => warn!("before_stop is given up: PostgreSQL must stop now"),
        done = script::run(command, &[], &[]) => if let Err(error) = done {
            warn!(%error, "before_stop failed");
        },
        () = sleep(ctx.instance.pg_ctl_timeout) => {
            warn!(limit = ?ctx.instance.pg_ctl_timeout, "before_stop is given up (pg_ctl_timeout)");
        }
    }
}
