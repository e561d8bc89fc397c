//! The sources of truth beside etcd: the members themselves are asked, once per interval for all listeners.
//!
//! `poll` asks and publishes, `census` makes a view of what was said (pure), [`rest`] and [`probe`] know how
//! one member is asked. What comes out is what a follower of etcd would say, so that nothing behind it differs.
//!
//! There is no lease here: a primary is proven by its own answers, and for [`Rhythm::proof`] after the last one.

pub mod census;
pub mod poll;
pub mod probe;
pub mod rest;

use std::time::Duration;

use pgvane_cluster::ids::NodeName;

use self::poll::poll;
use self::probe::ProbedServer;
use self::rest::RestMember;
use crate::agents::{Api, Trust};
use crate::config;
use crate::topology::Address;
use crate::topology::feed::{Driving, Source};
use crate::topology::origin::Origin;
use crate::topology::rise_fall::Limits;

/// How often members are asked and how much silence is borne.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Rhythm {
    /// Time between two questions to one member.
    pub interval: Duration,
    /// Longest wait for one answer.
    pub timeout: Duration,
    /// How many answers, or silences, in a row make a member count as up, or down.
    pub limits: Limits,
}

impl Rhythm {
    /// How long after it was last asked with success a primary may be believed. It has counted as down by then,
    /// so that new sessions wait before open ones are cut.
    pub fn proof(&self) -> Duration {
        // Who keeps silent until the timeout is asked again no sooner.
        let period = self.interval.max(self.timeout);
        period * self.limits.fall.get() + self.timeout + period / 2
    }
}

/// A source that asks the members' REST APIs, and the task that does it.
pub fn ask_patroni(settings: &config::PatroniRest, trust: &Trust) -> (Source, Driving) {
    let rhythm = settings.rhythm;
    let member =
        |api: &Api| (label(&api.address), RestMember::new(api.clone(), trust.clone(), rhythm.timeout));
    let members = settings.members.iter().map(member).collect();
    // Patroni's lock is one for all of them; what a member says of it is what counts.
    let (source, task) = poll(members, Origin::PatroniRest(rhythm.interval), rhythm, true);
    (source, Box::pin(task))
}

/// A source that asks PostgreSQL servers, and the task that does it.
pub fn ask_postgres(settings: &config::Probe) -> (Source, Driving) {
    let rhythm = settings.rhythm;
    let server = |at: &Address| (label(at), ProbedServer::new(at.clone(), &settings.login, rhythm.timeout));
    let servers = settings.servers.iter().map(server).collect();
    let (source, task) = poll(servers, Origin::Probe(rhythm.interval), rhythm, false);
    (source, Box::pin(task))
}

/// What somebody is called who has not told a name.
fn label((host, port): &Address) -> NodeName {
    NodeName::new(if host.contains(':') { format!("[{host}]:{port}") } else { format!("{host}:{port}") })
}

/// A PostgreSQL address in the form of member records.
fn url(address: &Address) -> String {
    format!("postgres://{}/", label(address))
}

#[cfg(test)]
mod tests {
    use std::num::NonZeroU32;

    use pgvane_cluster::clock::Tick;
    use proptest::prelude::*;

    use super::*;
    use crate::topology::freshness::{OnStoreLoss, Policy};

    proptest! {
        /// The last of the failures that take a primary down is known before the proof ends.
        #[test]
        fn a_primary_is_down_before_it_is_lost(
            interval in 1_u64..60_000, timeout in 1_u64..60_000, fall in 1_u32..20,
        ) {
            let (interval, timeout) = (Duration::from_millis(interval), Duration::from_millis(timeout));
            let fall = NonZeroU32::new(fall).expect("not zero");
            let rhythm = Rhythm { interval, timeout, limits: Limits { rise: NonZeroU32::MIN, fall } };
            let known = interval.max(timeout) * fall.get() + timeout;
            let policy = Policy { on_store_loss: OnStoreLoss::Fence, ttl: census::ttl(rhythm.proof()) };
            let ends = (Tick::ZERO + policy.ttl - policy.margin()).since(Tick::ZERO);
            prop_assert!(known < ends, "{:?} {:?}", known, ends);
            prop_assert!(ends.abs_diff(rhythm.proof()) < Duration::from_millis(1));
        }
    }
}
