//! Following the cluster in the store, for commands that wait for something or show what happens.

use std::sync::Arc;
use std::time::Duration;

use pgvane_cluster::follow::{self, FollowOptions, Observation};
use pgvane_cluster::store::etcd::EtcdStore;
use pgvane_cluster::view::ClusterView;
use tokio::sync::watch;
use tokio::task::AbortHandle;

use crate::target::Target;
use crate::{Failed, fail};

/// A follower of the cluster; it ends when it is dropped.
pub(crate) struct Following {
    seen: watch::Receiver<Observation>,
    task: AbortHandle,
}

impl Drop for Following {
    fn drop(&mut self) {
        self.task.abort();
    }
}

impl Following {
    /// Begins to follow.
    pub(crate) fn begin(target: &Target) -> Following {
        let options = FollowOptions {
            reread_every: Duration::from_secs(5),
            retry_first: Duration::from_millis(100),
            retry_max: Duration::from_secs(2),
            ask_leader_lease: false,
        };
        let store = Arc::new(EtcdStore::new(target.options.clone()));
        let (follower, task) = follow::follow(store, target.space.clone(), options);
        Following { seen: follower.observation(), task: tokio::spawn(task).abort_handle() }
    }

    /// The next thing that is known.
    pub(crate) async fn next(&mut self) -> Result<Observation, Failed> {
        match self.seen.changed().await {
            Ok(()) => Ok(self.seen.borrow_and_update().clone()),
            Err(_) => fail("the store is not followed any more"),
        }
    }

    /// Waits until `done` says what came of it, at most `limit`; `None`: it said nothing.
    pub(crate) async fn until<T>(
        &mut self,
        limit: Duration,
        mut done: impl FnMut(&ClusterView) -> Option<T>,
    ) -> Result<Option<T>, Failed> {
        let wait = async {
            loop {
                let seen = self.seen.borrow_and_update().view.clone();
                if let Some(end) = seen.as_deref().and_then(&mut done) {
                    return Ok(end);
                }
                if self.seen.changed().await.is_err() {
                    return fail("the store is not followed any more");
                }
            }
        };
        match tokio::time::timeout(limit, wait).await {
            Ok(end) => end.map(Some),
            Err(_) => Ok(None),
        }
    }
}
