//! Asks every member once per interval, and publishes what is known after each answer: a slow member delays
//! nobody's news but its own.

use std::future::Future;
use std::sync::Arc;
use std::time::Duration;

use futures_util::future::join_all;
use pgvane_cluster::clock::Tick;
use pgvane_cluster::follow::{Contact, FollowStats, Observation};
use pgvane_cluster::ids::NodeName;
use tokio::sync::{Notify, mpsc, watch};
use tokio::time::{sleep, timeout};

use super::Rhythm;
use super::census::{Answer, Census, Rules};
use crate::topology::feed::Source;
use crate::topology::origin::Origin;

/// Somebody who can be asked.
pub trait Ask: Send {
    /// Asks once. Dropped when the answer takes too long; what is kept between questions must survive that.
    fn ask(&mut self) -> impl Future<Output = Answer> + Send;

    /// Does what need not be done before the answer is known; bounded as a question is.
    fn afterwards(&mut self) -> impl Future<Output = ()> + Send {
        async {}
    }
}

/// What one question led to.
struct Heard {
    index: usize,
    sent: Tick,
    answer: Answer,
}

/// A source that asks `members`, and the task that does it: its owner spawns the task and ends it by dropping it.
pub fn poll<A: Ask + 'static>(
    members: Vec<(NodeName, A)>,
    origin: Origin,
    rhythm: Rhythm,
    claims_are_locked: bool,
) -> (Source, impl Future<Output = ()> + Send + use<A>) {
    let contact = Contact::Down { since: Tick::now(), why: "not asked yet".to_owned() };
    let first = Observation { view: None, confirmed_at: Tick::ZERO, contact, leader_lease: None };
    let (publish, observations) = watch::channel(first);
    let (count, counted) = watch::channel(FollowStats::default());
    let hurry = Arc::new(Notify::new());
    let source = Source {
        origin,
        observations,
        stats: Box::new(move || *counted.borrow()),
        refresh: {
            let hurry = Arc::clone(&hurry);
            Box::new(move || hurry.notify_waiters())
        },
    };
    let rules = Rules { limits: rhythm.limits, proof: rhythm.proof(), claims_are_locked };
    let census = Census::new(members.iter().map(|(label, _)| label.clone()), rules);
    let task = async move {
        let (tell, heard) = mpsc::channel(members.len().max(1));
        let asking = members
            .into_iter()
            .enumerate()
            .map(|(index, (_, member))| keep_asking(index, member, rhythm, tell.clone(), Arc::clone(&hurry)));
        tokio::join!(join_all(asking), keep_telling(census, heard, publish, count));
    };
    (source, task)
}

async fn keep_asking<A: Ask>(
    index: usize,
    mut member: A,
    rhythm: Rhythm,
    tell: mpsc::Sender<Heard>,
    hurry: Arc<Notify>,
) {
    loop {
        let sent = Tick::now();
        let answer = timeout(rhythm.timeout, member.ask()).await;
        let answer = answer.unwrap_or_else(|_| Err(format!("no answer within {:?}", rhythm.timeout)));
        if tell.send(Heard { index, sent, answer }).await.is_err() {
            return;
        }
        // What is late here is tried again next time.
        let _ = timeout(rhythm.timeout, member.afterwards()).await;
        due(sent + rhythm.interval, &hurry).await;
    }
}

/// Waits until `next`. Timers stand still while a machine sleeps; who is in a hurry after that makes us look at
/// the clock that does not.
async fn due(next: Tick, hurry: &Notify) {
    loop {
        let hurried = hurry.notified();
        let left = Tick::now().until(next);
        if left.is_zero() {
            return;
        }
        tokio::select! {
            () = sleep(left + Duration::from_nanos(1)) => {}
            () = hurried => {}
        }
    }
}

async fn keep_telling(
    mut census: Census,
    mut heard: mpsc::Receiver<Heard>,
    publish: watch::Sender<Observation>,
    count: watch::Sender<FollowStats>,
) {
    let mut revision = None;
    while let Some(Heard { index, sent, answer }) = heard.recv().await {
        let answered = answer.is_ok();
        let observation = census.hear(index, sent, answer);
        let now = observation.view.as_ref().map(|view| view.revision);
        count.send_modify(|stats| {
            stats.reads += u64::from(answered);
            stats.failures += u64::from(!answered);
            stats.events += u64::from(now != revision);
        });
        revision = now;
        publish.send_replace(observation);
    }
}
