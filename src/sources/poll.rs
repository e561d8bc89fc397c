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

    /// Completes when there is reason to ask before it is time: the member has ended a connection that was kept.
    fn lost(&mut self) -> impl Future<Output = ()> + Send {
        std::future::pending()
    }

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
        let next = Tick::now() + rhythm.interval;
        if !ask(index, &mut member, rhythm, &tell).await {
            return;
        }
        let early = tokio::select! {
            () = due(next, &hurry) => false,
            () = member.lost() => true,
        };
        // Once per interval: a member that ends every connection is not asked all the time.
        if early {
            if !ask(index, &mut member, rhythm, &tell).await {
                return;
            }
            due(next, &hurry).await;
        }
    }
}

/// Asks once and tells what came of it; `false`: nobody wants to know.
async fn ask<A: Ask>(index: usize, member: &mut A, rhythm: Rhythm, tell: &mpsc::Sender<Heard>) -> bool {
    let sent = Tick::now();
    let answer = timeout(rhythm.timeout, member.ask()).await;
    let answer = answer.unwrap_or_else(|_| Err(format!("no answer within {:?}", rhythm.timeout).into()));
    if tell.send(Heard { index, sent, answer }).await.is_err() {
        return false;
    }
    // What is late here is tried again next time.
    let _ = timeout(rhythm.timeout, member.afterwards()).await;
    true
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

#[cfg(test)]
mod tests {
    use std::num::NonZeroU32;

    use pgvane_cluster::records::{MemberRecord, MemberRole, MemberState};

    use super::super::census::Report;
    use super::*;
    use crate::topology::rise_fall::Limits;

    /// Bound on every wait: only a broken poll reaches it.
    const SOON: Duration = Duration::from_secs(20);

    /// A primary that answers at once, or never.
    struct Fake {
        answers: bool,
        asked: watch::Sender<u32>,
        lost: Arc<Notify>,
    }

    impl Fake {
        fn new(answers: bool) -> Fake {
            Fake { answers, asked: watch::Sender::new(0), lost: Arc::default() }
        }
    }

    impl Ask for Fake {
        async fn ask(&mut self) -> Answer {
            self.asked.send_modify(|n| *n += 1);
            if !self.answers {
                std::future::pending::<()>().await;
            }
            let record = MemberRecord::new(MemberState::Running, MemberRole::Primary);
            Ok(Report { name: "pg1".into(), record, leads: true, is_sync: false, identity: None })
        }

        async fn lost(&mut self) {
            self.lost.notified().await;
        }
    }

    fn start(
        members: Vec<Fake>,
        interval: Duration,
        limit: Duration,
    ) -> (Source, tokio::task::JoinHandle<()>) {
        let limits = Limits { rise: NonZeroU32::MIN, fall: NonZeroU32::MIN };
        let members = members.into_iter().map(|fake| ("label".into(), fake)).collect();
        let rhythm = Rhythm { interval, timeout: limit, limits };
        let (source, task) = poll(members, Origin::Probe(interval), rhythm, true);
        (source, tokio::spawn(task))
    }

    #[tokio::test]
    async fn a_member_that_keeps_silent_delays_no_other() {
        let (quick, slow) = (Fake::new(true), Fake::new(false));
        let (mut asked, hung) = (quick.asked.subscribe(), slow.asked.subscribe());
        let (source, task) = start(vec![quick, slow], Duration::from_millis(5), Duration::from_hours(1));
        timeout(SOON, asked.wait_for(|n| *n >= 5)).await.expect("asked").expect("polled");
        assert_eq!(*hung.borrow(), 1, "no second question before the first is answered");
        assert!(source.observations.borrow().view.is_none(), "one has not had its say");
        task.abort();
    }

    #[tokio::test]
    async fn who_ends_a_connection_is_asked_at_once_but_not_for_ever() {
        let fake = Fake::new(true);
        let (mut asked, lost) = (fake.asked.subscribe(), Arc::clone(&fake.lost));
        let (mut source, task) = start(vec![fake], Duration::from_hours(1), SOON);
        let seen = source.observations.wait_for(|seen| seen.view.is_some());
        timeout(SOON, seen).await.expect("told").expect("polled");
        lost.notify_one();
        timeout(SOON, asked.wait_for(|n| *n == 2)).await.expect("asked").expect("polled");
        timeout(SOON, async {
            while (source.stats)().reads < 2 {
                tokio::task::yield_now().await;
            }
        })
        .await
        .expect("counted");
        lost.notify_one();
        for _ in 0..100 {
            tokio::task::yield_now().await;
        }
        assert_eq!(*asked.borrow(), 2);
        task.abort();
    }

    #[tokio::test]
    async fn silence_is_told_with_its_length() {
        let (mut source, task) =
            start(vec![Fake::new(false)], Duration::from_millis(5), Duration::from_millis(5));
        let told = |seen: &Observation| matches!(&seen.contact, Contact::Down { why, .. } if why == "label: no answer within 5ms");
        timeout(SOON, source.observations.wait_for(told)).await.expect("told").expect("polled");
        assert!((source.stats)().failures > 0);
        task.abort();
    }
}
