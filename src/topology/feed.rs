//! The task that turns observations of the store into pictures, and ends reigns. Only it publishes; only it
//! cancels. It publishes first, so that a session that is cut and comes back finds the new picture.

use std::collections::BTreeMap;
use std::future::Future;
use std::pin::Pin;
use std::sync::Arc;
use std::time::Duration;

use pgvane_cluster::clock::Tick;
use pgvane_cluster::follow::{Contact, FollowStats, Follower, Observation};
use pgvane_cluster::ids::{Epoch, NodeName, Revision};
use pgvane_cluster::view::ClusterView;
use tokio::sync::{Notify, watch};
use tokio_util::sync::CancellationToken;
use tracing::{info, warn};

use super::derive::{MemberPlan, Plan, PrimaryPlan, derive};
use super::freshness::{Evidence, Judgement, OnStoreLoss, Policy, Standing, judge};
use super::origin::Origin;
use super::succession::succeed;
use super::timeline::{Timeline, What};
use super::vouch::{self, Answer};
use super::{Admission, NoPrimary, Node, Reign, Target, Topology, TopologyRx};
use crate::agents::Trust;
use crate::close::CloseReason;
use crate::metrics::ClusterMetrics;

/// Longest time between two turns: ages are refreshed, and a clock that jumped while the machine slept is
/// noticed.
const TICK: Duration = Duration::from_secs(1);

/// A turn later than this after it was due means that the process did not run.
const FROZEN: Duration = Duration::from_millis(500);

/// Time between two questions to a leader's agent.
const ASK_EVERY: Duration = Duration::from_secs(1);

type Asking = Pin<Box<dyn Future<Output = (Tick, NodeName, Epoch, Answer)> + Send>>;

/// Least time between two requests for a read out of turn.
const REFRESH_EVERY: Duration = Duration::from_millis(100);

/// Where observations come from: a [`Follower`], a poll of the members, or a test.
pub struct Source {
    /// What tells of the cluster.
    pub origin: Origin,
    /// What is known of the cluster.
    pub observations: watch::Receiver<Observation>,
    /// What was counted so far.
    pub stats: Box<dyn Fn() -> FollowStats + Send + Sync>,
    /// Asks for a read at once.
    pub refresh: Box<dyn Fn() + Send + Sync>,
}

/// The task behind a source; it never ends by itself.
pub type Driving = Pin<Box<dyn Future<Output = ()> + Send>>;

impl From<Follower> for Source {
    fn from(follower: Follower) -> Source {
        let counted = follower.clone();
        Source {
            origin: Origin::Etcd,
            observations: follower.observation(),
            stats: Box::new(move || counted.stats()),
            refresh: Box::new(move || follower.refresh()),
        }
    }
}

/// What one feed needs.
pub struct FeedInput {
    /// The cluster's name in the settings.
    pub cluster: Arc<str>,
    /// What to do past the deadline.
    pub on_store_loss: OnStoreLoss,
    /// What is known of the cluster.
    pub source: Source,
    /// Whom its agents are trusted by.
    pub agents: Trust,
    /// Where to count.
    pub metrics: Arc<ClusterMetrics>,
    /// Where to note what happens.
    pub timeline: Arc<Timeline>,
}

/// The picture before the first observation, and the task that keeps it current until `stop`.
pub fn feed(input: FeedInput, stop: CancellationToken) -> (TopologyRx, impl Future<Output = ()> + Send) {
    let now = Tick::now();
    let empty = Topology {
        cluster: Arc::clone(&input.cluster),
        origin: input.source.origin,
        revision: Revision::default(),
        leader: None,
        primary: Err(NoPrimary::StoreNeverAnswered),
        replicas: vec![],
        members: vec![],
        standing: Standing::NeverSeen,
        on_store_loss: input.on_store_loss,
        confirmed_at: Tick::ZERO,
        store_down: None,
        missing_since: Some(now),
        last_outage: None,
        has_served: false,
        nodes: BTreeMap::new(),
        malformed: vec![],
    };
    let (publish, rx) = watch::channel(Arc::new(empty));
    let reconsider = Arc::new(Notify::new());
    let feed = Feed {
        input,
        publish,
        reconsider: Arc::clone(&reconsider),
        nodes: BTreeMap::new(),
        reign: None,
        newest: Epoch(0),
        evidence: Evidence::default(),
        evidence_of: None,
        next_ask: Tick::ZERO,
        next_refresh: Tick::ZERO,
        last_answer: None,
        lost_at: None,
        served: None,
        due: now + TICK,
        counted: FollowStats::default(),
    };
    (TopologyRx { pictures: rx, reconsider }, feed.run(stop))
}

struct Feed {
    input: FeedInput,
    publish: watch::Sender<Arc<Topology>>,
    reconsider: Arc<Notify>,
    nodes: BTreeMap<NodeName, Arc<Node>>,
    /// The reign that sessions may be on: begun when its leader first served, kept until it ends.
    reign: Option<(NodeName, Arc<Reign>)>,
    newest: Epoch,
    evidence: Evidence,
    /// Whose agent `evidence` quotes.
    evidence_of: Option<(NodeName, Epoch)>,
    next_ask: Tick,
    next_refresh: Tick,
    last_answer: Option<Answer>,
    /// When the last primary that served was lost, while nobody serves.
    lost_at: Option<Tick>,
    /// Who serves, as it was last counted.
    served: Option<(NodeName, Option<i64>)>,
    /// When the next turn is due.
    due: Tick,
    counted: FollowStats,
}

impl Feed {
    async fn run(mut self, stop: CancellationToken) {
        let mut asking: Option<Asking> = None;
        loop {
            let now = Tick::now();
            let observation = self.input.source.observations.borrow_and_update().clone();
            let judgement = self.turn(&observation, now);
            if judgement.ask && asking.is_none() && now >= self.next_ask {
                asking = self.question(&observation, now);
            }
            if judgement.refresh && now >= self.next_refresh {
                self.next_refresh = now + REFRESH_EVERY;
                (self.input.source.refresh)();
            }
            self.due = now + TICK;
            for earlier in judgement.wake_at.into_iter().chain((judgement.ask).then_some(self.next_ask)) {
                if earlier > now {
                    self.due = self.due.min(earlier);
                }
            }
            // A nanosecond more, so that a timer that rounds down does not wake before the deadline.
            let wait = now.until(self.due) + Duration::from_nanos(1);
            let answer = async {
                match &mut asking {
                    Some(asking) => asking.await,
                    None => std::future::pending().await,
                }
            };
            tokio::select! {
                () = stop.cancelled() => return,
                changed = self.input.source.observations.changed() => {
                    if changed.is_err() {
                        return;
                    }
                }
                (sent, name, epoch, answer) = answer => {
                    asking = None;
                    self.heard(sent, &(name, epoch), answer);
                }
                () = self.reconsider.notified() => {}
                () = tokio::time::sleep(wait) => {}
            }
        }
    }

    /// One turn: judge, derive, publish, then end what has ended.
    fn turn(&mut self, observation: &Observation, now: Tick) -> Judgement {
        let before = Arc::clone(&self.publish.borrow());
        let view = observation.view.as_deref();
        let leader = view.and_then(|v| v.leader.as_ref()).map(|l| (l.name.clone(), l.epoch));
        self.newest = self.newest.max(leader.as_ref().map_or(self.newest, |(_, epoch)| *epoch));
        let judgement = self.judge(observation, leader.as_ref(), now);
        let plan = derive(view, judgement.standing, self.newest);
        let ended = succeed(&mut self.reign, &plan, leader.as_ref(), judgement);
        let topology = self.picture(plan, observation, view, judgement.standing, &before, now);
        self.tell(&before, &topology);
        self.count(&topology, now);
        self.publish.send_replace(Arc::new(topology));
        if let Some((reign, reason)) = ended {
            match reason {
                CloseReason::StoreLost => self.input.metrics.store_lost.increment(1),
                _ => self.input.metrics.epoch_ended.increment(1),
            }
            reign.end(reason);
        }
        judgement
    }

    fn judge(
        &mut self,
        observation: &Observation,
        leader: Option<&(NodeName, Epoch)>,
        now: Tick,
    ) -> Judgement {
        if now > self.due + FROZEN {
            let late = now.since(self.due);
            warn!(cluster = %self.input.cluster, ?late, "the proxy did not run for a while");
            self.evidence.resumed_at = Some(now);
        }
        if self.evidence_of.as_ref() != leader {
            self.evidence_of = leader.cloned();
            self.evidence = Evidence { resumed_at: self.evidence.resumed_at, ..Evidence::default() };
            self.next_ask = now;
            self.last_answer = None;
        }
        let settings = observation.view.as_ref().map(|v| v.settings()).unwrap_or_default();
        self.evidence.confirmed_at = observation.view.as_ref().map(|_| observation.confirmed_at);
        self.evidence.lease_until = observation.view.as_ref().map(|_| {
            observation
                .leader_lease
                .map_or(observation.confirmed_at + settings.ttl, |lease| lease.lives_until)
        });
        let policy = Policy { on_store_loss: self.input.on_store_loss, ttl: settings.ttl };
        let down = matches!(observation.contact, Contact::Down { .. });
        self.evidence.note_expiry(&policy, now);
        let mut judgement = judge(&self.evidence, &policy, down, now);
        if leader.is_none() {
            // Nobody leads: there is no lease to outlive and nobody to ask.
            judgement = Judgement { wake_at: None, ask: false, refresh: false, ..judgement };
        }
        judgement
    }

    fn picture(
        &mut self,
        plan: Plan,
        observation: &Observation,
        view: Option<&ClusterView>,
        standing: Standing,
        before: &Topology,
        now: Tick,
    ) -> Topology {
        self.nodes.retain(|name, node| {
            node.sessions() > 0
                || node.admission() != Admission::Enabled
                || plan.members.iter().any(|m| m.name == *name)
        });
        for member in &plan.members {
            self.node(&member.name);
        }
        let primary = plan.primary.map(|primary| self.primary_target(primary));
        let replicas: Vec<_> = plan.members.iter().filter_map(|member| self.replica_target(member)).collect();
        let mut last_outage = before.last_outage;
        match (&before.primary, &primary) {
            (Ok(_), Err(_)) => self.lost_at = Some(now),
            (Err(_), Ok(_)) => {
                if let Some(lost_at) = self.lost_at.take() {
                    last_outage = Some(now.since(lost_at));
                }
            }
            (Ok(old), Ok(new)) if epoch_of(old) != epoch_of(new) => last_outage = Some(Duration::ZERO),
            _ => {}
        }
        Topology {
            cluster: Arc::clone(&self.input.cluster),
            origin: self.input.source.origin,
            revision: plan.revision,
            leader: plan.leader,
            missing_since: primary.is_err().then(|| before.missing_since.unwrap_or(now)),
            has_served: before.has_served || primary.is_ok(),
            nodes: self.nodes.clone(),
            primary,
            replicas,
            members: plan.members,
            standing,
            on_store_loss: self.input.on_store_loss,
            confirmed_at: observation.confirmed_at,
            store_down: match &observation.contact {
                Contact::Up => None,
                Contact::Down { since, why } => Some((*since, why.clone())),
            },
            last_outage,
            malformed: view.map(|v| v.malformed.clone().into_iter().collect()).unwrap_or_default(),
        }
    }

    fn primary_target(&mut self, primary: PrimaryPlan) -> Arc<Target> {
        let node = self.node(&primary.name);
        let reign = self.reign.as_ref().map(|(_, reign)| Arc::clone(reign));
        Arc::new(Target {
            name: primary.name,
            address: primary.address,
            reign,
            lag: None,
            is_sync: false,
            node,
        })
    }

    fn replica_target(&mut self, member: &MemberPlan) -> Option<Arc<Target>> {
        member.reads.as_ref().ok()?;
        let address = member.address.clone()?;
        let node = self.node(&member.name);
        let (name, lag, is_sync) = (member.name.clone(), member.lag, member.is_sync);
        Some(Arc::new(Target { name, address, reign: None, lag, is_sync, node }))
    }

    fn node(&mut self, name: &NodeName) -> Arc<Node> {
        Arc::clone(self.nodes.entry(name.clone()).or_default())
    }

    /// Logs and notes what changed; a repeated turn is silent.
    fn tell(&self, before: &Topology, after: &Topology) {
        let cluster = &*self.input.cluster;
        // The follower tells of a store that falls silent later; that it never spoke matters only to us.
        if let (Standing::NeverSeen, Some((_, why))) = (after.standing, &after.store_down)
            && before.store_down.as_ref().is_some_and(|(_, w)| w != why)
        {
            let who = after.origin.who();
            warn!(cluster, why, "{who} has not answered yet; trying again");
        }
        match (&before.primary, &after.primary) {
            (Ok(old), Ok(new)) if epoch_of(old) == epoch_of(new) && old.address == new.address => {}
            (Err(old), Err(new)) if old == new => {}
            (old, Ok(new)) => {
                let (host, port) = &new.address;
                // A primary that only moved to another address ended no outage.
                let is_new = old.as_ref().ok().is_none_or(|old| epoch_of(old) != epoch_of(new));
                let outage_ms = after
                    .last_outage
                    .filter(|_| is_new)
                    .map(|d| u64::try_from(d.as_millis()).unwrap_or(u64::MAX));
                let epoch = epoch_of(new);
                info!(cluster, target = %new.name, host, port, epoch, outage_ms, "primary serves");
                let what = What::PrimaryServes { target: new.name.to_string(), epoch, outage_ms };
                self.input.timeline.note(cluster, what);
            }
            (_, Err(why)) => {
                warn!(cluster, %why, "no primary takes new sessions");
                self.input.timeline.note(cluster, What::NoPrimary { why: why.to_string() });
            }
        }
        if before.standing != after.standing {
            info!(cluster, standing = after.standing.label(), "proof of the leader changed");
        }
        for member in &after.members {
            let old = before.members.iter().find(|m| m.name == member.name);
            match (&member.reads, old.map(|m| &m.reads)) {
                (Ok(()), Some(Ok(()))) => {}
                (Ok(()), _) => info!(cluster, target = %member.name, "takes reads"),
                (Err(why), Some(Ok(()))) => info!(cluster, target = %member.name, %why, "takes no reads"),
                (Err(_), _) => {}
            }
        }
        for gone in before.members.iter().filter(|m| m.reads.is_ok()) {
            if !after.members.iter().any(|m| m.name == gone.name) {
                info!(cluster, target = %gone.name, why = "its member record is gone", "takes no reads");
            }
        }
    }

    fn count(&mut self, topology: &Topology, now: Tick) {
        let m = &self.input.metrics;
        m.serving.set(u8::from(topology.primary.is_ok()));
        m.stands(topology.standing);
        let serves = topology.primary.as_ref().ok().map(|primary| (primary.name.clone(), epoch_of(primary)));
        if serves != self.served {
            m.serves_from_now(serves.is_some());
            self.served = serves;
        }
        m.store_up.set(u8::from(topology.standing != Standing::NeverSeen && topology.store_down.is_none()));
        #[expect(clippy::cast_precision_loss, reason = "Prometheus counts in floats")]
        {
            m.replicas.set(topology.replicas.len() as f64);
            m.malformed.set(topology.malformed.len() as f64);
            m.epoch.set(self.newest.0 as f64);
            m.revision.set(topology.revision.0 as f64);
        }
        if topology.standing != Standing::NeverSeen {
            m.age.set(now.since(topology.confirmed_at).as_secs_f64());
        }
        m.last_outage.set(topology.last_outage.unwrap_or_default().as_secs_f64());
        let (seen, counted) = ((self.input.source.stats)(), self.counted);
        m.reads.increment(seen.reads - counted.reads);
        m.watches.increment(seen.watches - counted.watches);
        m.events.increment(seen.events - counted.events);
        m.missed.increment(seen.missed - counted.missed);
        m.store_failures.increment(seen.failures - counted.failures);
        self.counted = seen;
    }

    fn question(&mut self, observation: &Observation, now: Tick) -> Option<Asking> {
        let view = observation.view.as_ref()?;
        let leader = view.leader.as_ref()?;
        self.next_ask = now + ASK_EVERY;
        let agent = view.leader_member().ok_or_else(|| "it has no member record".to_owned());
        let (name, epoch) = (leader.name.clone(), leader.epoch);
        let trust = self.input.agents.clone();
        match agent.and_then(|member| vouch::agent_of(&member.record, &trust)) {
            Ok(api) => {
                let policy = Policy { on_store_loss: self.input.on_store_loss, ttl: view.settings().ttl };
                let limit = policy.ask_lead();
                Some(Box::pin(async move { (now, name, epoch, vouch::ask(api, trust, limit).await) }))
            }
            Err(why) => {
                self.heard(now, &(name, epoch), Answer::Silent(why));
                None
            }
        }
    }

    /// Takes an agent's answer as evidence, unless the leader has changed since it was asked.
    fn heard(&mut self, sent: Tick, about: &(NodeName, Epoch), answer: Answer) {
        if self.evidence_of.as_ref() != Some(about) {
            return;
        }
        match answer {
            Answer::Yes => self.evidence.vouched_at = Some(sent),
            Answer::No(_) => self.evidence.refused_at = Some(sent),
            Answer::Silent(_) => {}
        }
        if self.last_answer.as_ref() != Some(&answer) {
            info!(cluster = %self.input.cluster, target = %about.0, epoch = about.1.0, ?answer,
                "asked the leader's agent whether it leads");
            self.last_answer = Some(answer);
        }
    }
}

fn epoch_of(target: &Target) -> Option<i64> {
    target.reign.as_ref().map(|reign| reign.epoch().0)
}

#[cfg(test)]
#[path = "feed_tests.rs"]
mod tests;
