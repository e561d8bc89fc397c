//! Questions to another server, and copies of it: it may be dead, or accept connections and never answer.

use std::future::Future;

use pgvane_cluster::follow::Observation;
use pgvane_cluster::ids::{Epoch, NodeName};
use pgvane_cluster::store::Store;
use pgvane_cluster::view::ClusterView;
use tokio::sync::watch;

use super::{Context, Order};
use crate::decide::world::Upstream;
use crate::postgres::PostgresError;

/// Asks for as long as the reign lasts that `order` was decided in. The next leader may be this node: its promotion
/// would wait for a server that is gone.
pub(super) fn within_reign<S: Store, T>(
    ctx: &Context<S>,
    order: &Order,
    question: impl Future<Output = Result<T, PostgresError>>,
) -> impl Future<Output = Result<T, PostgresError>> {
    let reign = epoch(order.view.as_deref());
    unless(seen(ctx.observation.clone(), move |view| epoch(view) != reign), question)
}

/// Copies `from` until another member leads, where it was the leader: see [`another_leads`].
pub(super) fn until_another_leads<S: Store, T>(
    ctx: &Context<S>,
    order: &Order,
    from: Option<&Upstream>,
    copy: impl Future<Output = Result<T, PostgresError>>,
) -> impl Future<Output = Result<T, PostgresError>> {
    unless(another_leads(ctx, order, from), copy)
}

/// Completes when another member leads than `from`, which led when `order` was decided: its server has stopped by then, or
/// is out of reach, and a copy of the next one can begin. While nobody leads nothing is over, for an outage of etcd is no
/// reason to lose hours of work. Never, where `from` is nobody, did not lead, or is of another cluster.
pub(super) fn another_leads<S: Store>(
    ctx: &Context<S>,
    order: &Order,
    from: Option<&Upstream>,
) -> impl Future<Output = ()> {
    let is_ours = order.settings.standby_cluster.is_none();
    let led = order
        .view
        .as_deref()
        .and_then(leader)
        .filter(|name| is_ours && from.is_some_and(|from| from.name == **name));
    let led = led.cloned();
    seen(ctx.observation.clone(), move |view| led.as_ref().is_some_and(|led| leads_another(view, led)))
}

fn leads_another(view: Option<&ClusterView>, led: &NodeName) -> bool {
    view.and_then(leader).is_some_and(|now| now != led)
}

fn leader(view: &ClusterView) -> Option<&NodeName> {
    view.leader.as_ref().map(|key| &key.name)
}

/// Does `work` unless `over` comes first. Not an `async fn`, and boxed: what works for long is large.
fn unless<T>(
    over: impl Future<Output = ()>,
    work: impl Future<Output = Result<T, PostgresError>>,
) -> impl Future<Output = Result<T, PostgresError>> {
    let work = Box::pin(work);
    async move {
        tokio::select! {
            answer = work => answer,
            () = over => Err(PostgresError::ReignOver),
        }
    }
}

/// Waits until the view is so.
async fn seen(
    mut observation: watch::Receiver<Observation>,
    mut is_so: impl FnMut(Option<&ClusterView>) -> bool,
) {
    if observation.wait_for(|now| is_so(now.view.as_deref())).await.is_err() {
        // The follower lives as long as the agent.
        std::future::pending::<()>().await;
    }
}

fn epoch(view: Option<&ClusterView>) -> Option<Epoch> {
    view.and_then(|view| view.leader.as_ref()).map(|key| key.epoch)
}

#[cfg(test)]
mod tests {
    use std::future::{pending, ready};
    use std::sync::Arc;
    use std::time::Duration;

    use pgvane_cluster::clock::Tick;
    use pgvane_cluster::follow::Contact;
    use tokio::time::timeout;

    use super::*;
    use crate::api::fixture;

    fn led_by(name: Option<&str>) -> Observation {
        let keys: Vec<_> = name.map(|name| ("leader", name)).into_iter().collect();
        Observation {
            view: Some(Arc::new(fixture::view(&keys))),
            confirmed_at: Tick::ZERO,
            contact: Contact::Up,
            leader_lease: None,
        }
    }

    #[tokio::test]
    async fn a_server_that_never_answers_is_asked_until_the_leader_changes() {
        let (store, observation) = watch::channel(led_by(Some("a")));
        let reign = epoch(store.borrow().view.as_deref());
        assert!(reign.is_some());
        let is_over = move |view: Option<&ClusterView>| epoch(view) != reign;
        let answered = unless(seen(observation.clone(), is_over), ready(Ok(7))).await;
        assert_eq!(answered.expect("in time"), 7);
        let over = seen(observation.clone(), is_over);
        let asking = tokio::spawn(unless(over, pending::<Result<(), _>>()));
        store.send_replace(led_by(Some("a")));
        tokio::task::yield_now().await;
        assert!(!asking.is_finished(), "the same reign, seen again");
        store.send_replace(led_by(None));
        let over = timeout(Duration::from_secs(5), asking).await.expect("in time").expect("no panic");
        assert!(matches!(over, Err(PostgresError::ReignOver)), "{over:?}");
    }

    #[tokio::test]
    async fn a_copy_goes_on_until_another_member_leads() {
        let (store, observation) = watch::channel(led_by(Some("a")));
        let over = seen(observation, |view| leads_another(view, &"a".into()));
        let copying = tokio::spawn(unless(over, pending::<Result<(), _>>()));
        for leader in [None, Some("a")] {
            store.send_replace(led_by(leader));
            tokio::task::yield_now().await;
            assert!(!copying.is_finished(), "{leader:?}");
        }
        store.send_replace(led_by(Some("b")));
        let over = timeout(Duration::from_secs(5), copying).await.expect("in time").expect("no panic");
        assert!(matches!(over, Err(PostgresError::ReignOver)), "{over:?}");
    }
}
