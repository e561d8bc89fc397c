//! Asks the local server again and again, beside the loop.

use std::convert::Infallible;
use std::sync::Arc;
use std::time::Duration;

use tokio::sync::{Notify, mpsc, watch};
use tokio::time::sleep;

use crate::event::Event;
use crate::postgres::Instance;
use crate::postgres::probe::Probe;

/// Time between two questions: a candidate's position is never older than this when the race begins.
pub const ASK_EVERY: Duration = Duration::from_millis(250);

/// Asks while `wanted` is true; at once when `hurry` is notified.
pub async fn ask_for_ever(
    instance: Instance,
    mut wanted: watch::Receiver<bool>,
    hurry: Arc<Notify>,
    events: mpsc::UnboundedSender<Event>,
) -> Infallible {
    let mut probe = Probe::default();
    loop {
        if wanted.wait_for(|w| *w).await.is_err() {
            return std::future::pending().await;
        }
        let answer = probe.ask(&instance).await;
        // The loop is gone only when the agent ends.
        let _ = events.send(Event::Probed(Box::new(answer)));
        tokio::select! {
            () = sleep(ASK_EVERY) => {}
            () = hurry.notified() => {}
        }
    }
}
