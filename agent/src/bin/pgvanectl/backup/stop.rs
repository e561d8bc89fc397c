//! An operator, or systemd, who does not want to wait for the end.

use tokio::signal::unix::{SignalKind, signal};
use tokio::sync::watch;

use crate::Failed;

/// Whether SIGINT, SIGTERM or SIGHUP came.
#[derive(Clone)]
pub(crate) struct Stop(watch::Receiver<bool>);

impl Stop {
    /// From now on they do not end this process any more.
    pub(crate) fn on_signals() -> Result<Stop, Failed> {
        let mut int = signal(SignalKind::interrupt())?;
        let mut term = signal(SignalKind::terminate())?;
        let mut hup = signal(SignalKind::hangup())?;
        let (came, wanted) = watch::channel(false);
        tokio::spawn(async move {
            tokio::select! {
                _ = int.recv() => {}
                _ = term.recv() => {}
                _ = hup.recv() => {}
            }
            came.send_replace(true);
            // Whoever asks must not take our end for an answer.
            came.closed().await;
        });
        Ok(Stop(wanted))
    }

    /// Whether one came.
    pub(crate) fn is_wanted(&self) -> bool {
        *self.0.borrow()
    }

    /// Waits for one.
    pub(crate) async fn wanted(&mut self) {
        if self.0.wait_for(|wanted| *wanted).await.is_err() {
            std::future::pending::<()>().await;
        }
    }
}
