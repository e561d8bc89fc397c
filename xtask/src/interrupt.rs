//! Ctrl-C and the like.

use tokio::signal::unix::{SignalKind, signal};

/// Ends when the user or the system wants us to.
pub(crate) async fn told_to_stop() {
    let wait = |kind| async move {
        match signal(kind) {
            Ok(mut stream) => drop(stream.recv().await),
            Err(_) => std::future::pending().await,
        }
    };
    tokio::select! {
        () = wait(SignalKind::interrupt()) => {}
        () = wait(SignalKind::terminate()) => {}
        () = wait(SignalKind::hangup()) => {}
    }
}
