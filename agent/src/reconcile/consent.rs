//! Our word for another leader while etcd is away (failsafe, contract 3.7).

use std::sync::Arc;
use std::time::Duration;

use pgvane_cluster::clock::Tick;
use pgvane_cluster::store::Store;
use tokio::sync::oneshot;
use tracing::{error, info};

use super::Reconciler;
use crate::api::{FailsafeAnswer, FailsafeAsk};
use crate::decide::consent::{self, Refusal};
use crate::event::Event;
use crate::vouch;

/// How long the store may take to show that it answers while a leader waits for our word. Patroni waits for 2 s.
const STORE_ANSWERS_WITHIN: Duration = Duration::from_secs(1);

impl<S: Store> Reconciler<S> {
    /// Judges whether to vouch. The promise holds from this instant; it is answered once it is durable.
    ///
    /// A leader with less patience than ours may know before us that the store is away, and one refusal ends its
    /// reign. So the store is asked before it is said to answer here, unless it was: `asked_at`.
    pub(super) fn vouch_for(
        &mut self,
        ask: FailsafeAsk,
        reply: oneshot::Sender<FailsafeAnswer>,
        asked_at: Option<Tick>,
    ) {
        let now = Tick::now();
        let world = self.observe(now);
        match consent::judge(&world, &ask.name) {
            Ok(()) => {
                let ttl = ask.promise_for(self.timing.ttl);
                let vouch = self.memory.promise(now, ask.name.clone(), ttl).clone();
                let ttl = now.until(vouch.until);
                let position = world.local.sql.as_ref().map(|s| s.position).unwrap_or_default();
                let file = self.vouch_file.clone();
                tokio::task::spawn_blocking(move || match vouch::save(&file, &vouch, ttl) {
                    // Dropped by an asker that no longer waits: it does not count on us then.
                    Ok(()) => drop(reply.send(Ok(position))),
                    Err(error) => error!(%error, "our promise could not be kept on disk; it is not given"),
                });
            }
            Err(Refusal::StoreAnswersHere) if asked_at.is_none() => self.ask_store(ask, reply),
            Err(refusal) => refuse(&ask, reply, refusal),
        }
    }

    /// Whether the store really answers here.
    fn ask_store(&self, ask: FailsafeAsk, reply: oneshot::Sender<FailsafeAnswer>) {
        let ctx = Arc::clone(&self.ctx);
        tokio::spawn(async move {
            let asked_at = Tick::now();
            let answer =
                tokio::time::timeout(STORE_ANSWERS_WITHIN, ctx.store.snapshot(ctx.space.prefix())).await;
            match answer {
                Ok(Ok(_)) => refuse(&ask, reply, Refusal::StoreAnswersHere),
                Ok(Err(_)) | Err(_) => ctx.report(Event::StoreSilent { asked_at, ask, reply }),
            }
        });
    }
}

fn refuse(ask: &FailsafeAsk, reply: oneshot::Sender<FailsafeAnswer>, refusal: Refusal) {
    info!(leader = %ask.name, %refusal, "we do not vouch");
    // Whoever waits no longer does not count on us either.
    drop(reply.send(Err(refusal)));
}
