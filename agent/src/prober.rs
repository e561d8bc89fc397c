//! Asks the local server again and again, beside the loop.

use std::convert::Infallible;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use pgvane_cluster::clock::Tick;
use tokio::sync::{Notify, mpsc, watch};
use tokio::time::sleep;
use tracing::warn;

use crate::decide::world::DataDir;
use crate::event::Event;
use crate::postgres::Instance;
use crate::postgres::probe::Probe;
use crate::postgres::unanswered::Unanswered;

/// Time between two questions: a candidate's position is never older than this when the race begins.
pub const ASK_EVERY: Duration = Duration::from_millis(250);

/// Whether there is no data directory any more, or nothing in it.
async fn is_gone(dir: &Path) -> bool {
    match tokio::fs::read_dir(dir).await {
        Ok(mut entries) => entries.next_entry().await.is_ok_and(|entry| entry.is_none()),
        Err(error) => error.kind() == std::io::ErrorKind::NotFound,
    }
}

/// Asks while `wanted` is true; at once when `hurry` is notified. Whom and as whom is always the newest of `instances`.
pub async fn ask_for_ever(
    mut instances: watch::Receiver<Arc<Instance>>,
    mut wanted: watch::Receiver<bool>,
    hurry: Arc<Notify>,
    events: mpsc::UnboundedSender<Event>,
) -> Infallible {
    let mut probe = Probe::default();
    let mut unanswered = Unanswered::default();
    let mut instance = Arc::clone(&instances.borrow_and_update());
    loop {
        if !*wanted.borrow() {
            unanswered = Unanswered::default();
        }
        if wanted.wait_for(|w| *w).await.is_err() {
            return std::future::pending().await;
        }
        if instances.has_changed().unwrap_or(false) {
            instance = Arc::clone(&instances.borrow_and_update());
            // Its connection was made as somebody else, maybe.
            probe = Probe::default();
        }
        if is_gone(&instance.data_dir).await {
            // The server would go on for a while, and take writes that are nowhere.
            let _ = events.send(Event::Data(DataDir::Absent));
        }
        let answer = probe.ask(&instance).await;
        if unanswered.note(Tick::now(), answer.as_ref().err())
            && let Err(error) = &answer
        {
            warn!(%error, "PostgreSQL is there and cannot be asked");
        }
        // The loop is gone only when the agent ends.
        let _ = events.send(Event::Probed(Box::new(answer)));
        tokio::select! {
            () = sleep(ASK_EVERY) => {}
            () = hurry.notified() => {}
        }
    }
}
