//! What a fault really costs: for how long no leader served, as the store tells, and what the cluster wrote down.

use std::time::Duration;

use pgvane_cluster::clock::Tick;
use pgvane_cluster::follow::Contact;
use pgvane_cluster::view::ClusterView;

use crate::following::Following;
use crate::history;
use crate::leader::stage;
use crate::target::Target;
use crate::{Failed, say};

/// One outage so far.
#[derive(Default)]
struct Outage {
    /// Since when nobody serves.
    since: Option<Tick>,
    /// All that ended.
    ended: Vec<Duration>,
}

impl Outage {
    /// The time that has just ended, if one has.
    fn see(&mut self, serves: bool, now: Tick) -> Option<Duration> {
        if !serves {
            self.since.get_or_insert(now);
            return None;
        }
        let took = now.since(self.since.take()?);
        self.ended.push(took);
        Some(took)
    }
}

/// Follows the cluster until it is as whole as it was, after an outage; at most for `limit`.
pub(super) async fn run(target: &Target, limit: Duration) -> Result<(), Failed> {
    let before = target.view().await?;
    let (began, whole) = (Tick::now(), streaming(&before));
    let mut following = Following::begin(target);
    let (mut outage, mut last) = (Outage::default(), stage(&before));
    say(&format!("Following {} for {} s at most: {last}\n", target.scope, limit.as_secs()))?;
    let follow = async {
        loop {
            let seen = following.next().await?;
            let now = Tick::now();
            let at = now.since(began).as_secs_f64();
            let is_reached = matches!(seen.contact, Contact::Up);
            let Some(view) = &seen.view else { continue };
            let stage = if is_reached { stage(view) } else { "the store does not answer".to_owned() };
            if stage != last {
                say(&format!("{at:>7.2} s  {stage}\n"))?;
                last = stage;
            }
            // A store that is away says nothing about who serves.
            if !is_reached {
                continue;
            }
            let serves = view.leader_member().is_some_and(|member| member.record.is_serving_leader());
            if let Some(took) = outage.see(serves, now) {
                say(&format!("{at:>7.2} s  no leader had served for {:.2} s\n", took.as_secs_f64()))?;
            }
            if !outage.ended.is_empty() && serves && streaming(view) >= whole {
                return Ok::<(), Failed>(());
            }
        }
    };
    let in_time = tokio::time::timeout(limit, follow).await;
    let after = target.view().await?;
    let text = verdict(&outage, in_time.is_ok(), whole, streaming(&after), limit);
    if let Ok(followed) = in_time {
        followed?;
    }
    say(&text)?;
    history::latest(&before, &after)
}

/// Replicas that stream.
fn streaming(view: &ClusterView) -> usize {
    let streams = |state: &Option<String>| state.as_deref() == Some("streaming");
    view.members.values().filter(|member| streams(&member.record.replication_state)).count()
}

fn verdict(outage: &Outage, whole: bool, before: usize, after: usize, limit: Duration) -> String {
    let longest = outage.ended.iter().max().map(Duration::as_secs_f64);
    let replicas = if whole {
        "as many replicas stream as before".to_owned()
    } else {
        format!("{after} replicas stream, {before} did before")
    };
    match (longest, outage.since) {
        (_, Some(_)) => format!("After {} s nobody serves; {replicas}.\n", limit.as_secs()),
        (Some(longest), None) => {
            format!("Longest time without a leader that serves: {longest:.2} s; {replicas}.\n")
        }
        (None, None) => {
            format!("In {} s there was always a leader that served; {replicas}.\n", limit.as_secs())
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_outage_is_from_the_first_word_of_it_to_the_first_word_of_its_end() {
        let start = Tick::now();
        let at = |ms| start + Duration::from_millis(ms);
        let mut outage = Outage::default();
        assert_eq!(outage.see(true, at(0)), None);
        assert_eq!(outage.see(false, at(100)), None);
        assert_eq!(outage.see(false, at(200)), None);
        assert_eq!(outage.see(true, at(350)), Some(Duration::from_millis(250)));
        assert_eq!(outage.see(true, at(400)), None);
        let limit = Duration::from_secs(9);
        assert!(verdict(&outage, true, 2, 2, limit).contains("serves: 0.25 s; as many"));
        outage.see(false, at(500));
        assert!(
            verdict(&outage, false, 2, 1, limit).starts_with("After 9 s nobody serves; 1 replicas stream, 2")
        );
        assert!(verdict(&Outage::default(), false, 2, 2, limit).starts_with("In 9 s there was always"));
    }
}
