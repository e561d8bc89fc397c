//! Waiting for something that the pages show to change.

use std::future::pending;

use futures_util::future::select_all;
use tokio::sync::watch;

use super::Admin;
use crate::shutdown::Phase;
use crate::topology::TopologyRx;

/// What one reader of the pages has seen so far.
pub(super) struct News {
    clusters: Vec<TopologyRx>,
    phase: watch::Receiver<Phase>,
}

impl News {
    /// A reader that has seen nothing.
    pub(super) fn of(admin: &Admin) -> News {
        News { clusters: admin.clusters.values().cloned().collect(), phase: admin.phase.clone() }
    }

    /// Takes all that is there now as seen. To be called before it is looked at: what comes between is shown twice
    /// rather than late.
    pub(super) fn see(&mut self) {
        self.phase.mark_unchanged();
        for cluster in &mut self.clusters {
            cluster.see();
        }
    }

    /// Returns when there is something that was not seen.
    pub(super) async fn come(&mut self) {
        let mut pictures: Vec<_> =
            self.clusters.iter_mut().map(|cluster| Box::pin(cluster.changed())).collect();
        let picture = async {
            if pictures.is_empty() {
                pending::<()>().await;
            }
            select_all(&mut pictures).await;
        };
        let phase = async {
            if self.phase.changed().await.is_err() {
                pending::<()>().await;
            }
        };
        tokio::select! {
            () = picture => {}
            () = phase => {}
        }
    }
}
