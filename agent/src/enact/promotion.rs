//! What comes before a promotion: the watchdog, then the operator's own check (contract 3.5).

use pgvane_cluster::clock::Tick;
use pgvane_cluster::ids::Epoch;
use pgvane_cluster::store::Store;
use tokio::sync::watch;
use tokio::time::sleep;
use tracing::{info, warn};

use super::{Context, Order, Right};
use crate::decide::Outcome;
use crate::decide::world::Slot;
use crate::event::Event;
use crate::{script, watchdog};

/// Does it. `Ok`: until when the promotion may be begun; else what the effect came to.
pub(super) async fn prepare<S: Store>(
    ctx: &Context<S>,
    order: &Order,
    epoch: Epoch,
) -> Result<Option<Tick>, Vec<Outcome>> {
    arm_watchdog(ctx, order).await?;
    let mut right = ctx.right.subscribe();
    let Some(command) = &ctx.instance.pre_promote else { return Ok(order.right_until) };
    info!(command = command.text, "running pre_promote");
    tokio::select! {
        biased;
        () = lost(&mut right, Some(epoch)) => {
            warn!("the right to lead ended before pre_promote did; not promoting");
            return Err(vec![]);
        }
        done = script::run(command, &[], &[]) => if let Err(error) = done {
            warn!(%error, "pre_promote failed; not promoting");
            return Err(vec![Outcome::PrePromoteFailed, Outcome::Done(Slot::Postgres)]);
        }
    }
    // The lease was renewed while it ran.
    let newest = *right.borrow();
    Ok(newest.filter(|right| right.epoch == epoch).map(|right| right.until).or(order.right_until))
}

/// Arms the watchdog, where there is one. `Err`: it is required and cannot be; the loop hears of it.
pub(super) async fn arm_watchdog<S: Store>(ctx: &Context<S>, order: &Order) -> Result<(), Vec<Outcome>> {
    if order.settings.pause {
        return Ok(());
    }
    let settings = ctx.watchdog.settings();
    let answer = match watchdog::plan(settings, &order.timing, order.settings.loop_wait) {
        Ok(plan) => ctx.watchdog.arm(plan).await,
        Err(why) => Err(why),
    };
    let refused = answer.is_err() && ctx.watchdog.is_required();
    ctx.report(Event::WatchdogArmed(answer));
    if refused { Err(vec![Outcome::Failed(Slot::Postgres)]) } else { Ok(()) }
}

/// Returns once the right to lead (of `epoch`, where given) is over, or so late that a stop must begin.
pub(super) async fn lost(right: &mut watch::Receiver<Option<Right>>, epoch: Option<Epoch>) {
    loop {
        let current = *right.borrow_and_update();
        let Some(current) = current.filter(|right| epoch.is_none_or(|epoch| right.epoch == epoch)) else {
            return;
        };
        let left = Tick::now().until(current.step_down_at);
        if left.is_zero() {
            return;
        }
        tokio::select! {
            () = sleep(left) => {}
            // The loop lives as long as the agent.
            _ = right.changed() => {}
        }
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use tokio::time::timeout;

    use super::*;

    fn right(epoch: i64, millis: u64) -> Right {
        let step_down_at = Tick::now() + Duration::from_millis(millis);
        Right { epoch: Epoch(epoch), step_down_at, until: step_down_at }
    }

    async fn is_lost(right: &mut watch::Receiver<Option<Right>>) -> bool {
        timeout(Duration::from_millis(100), lost(right, Some(Epoch(4)))).await.is_ok()
    }

    #[tokio::test]
    async fn a_right_lasts_as_long_as_it_is_renewed() {
        let (renew, mut seen) = watch::channel(Some(right(4, 60_000)));
        assert!(!is_lost(&mut seen).await);
        renew.send_replace(Some(right(4, 5)));
        assert!(is_lost(&mut seen).await, "it was not renewed in time");
        renew.send_replace(Some(right(5, 60_000)));
        assert!(is_lost(&mut seen).await, "it is another reign");
        renew.send_replace(None);
        assert!(is_lost(&mut seen).await);
        renew.send_replace(Some(right(4, 5)));
        let renewing = async {
            sleep(Duration::from_millis(1)).await;
            renew.send_replace(Some(right(4, 60_000)));
        };
        let (lost, ()) = tokio::join!(is_lost(&mut seen), renewing);
        assert!(!lost);
    }
}
