//! What the members said of themselves -> a [`ClusterView`]. Pure; time is a parameter.
//!
//! The leader is the member that claims to be it on the highest timeline. What speaks against a claim, two on one
//! timeline above all, leaves nobody to lead and is told in the view. Silence speaks neither for nor against
//! anybody: a silent leader stays named, and its proof runs out.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use pgvane_cluster::clock::Tick;
use pgvane_cluster::follow::{Contact, Observation};
use pgvane_cluster::ids::{Epoch, NodeName, Revision, Timeline};
use pgvane_cluster::records::{MemberRecord, MemberRole, MemberState, SyncRecord};
use pgvane_cluster::settings::ClusterSettings;
use pgvane_cluster::view::{ClusterView, ConfigDocument, LeaderKey, Member, Unled, Versioned};
use serde_json::Value;

use crate::topology::rise_fall::{Limits, RiseFall};

/// Epochs of one timeline: the first is the timeline times this.
const PER_TIMELINE: i64 = 1000;

/// What one member says.
#[derive(Clone, PartialEq, Debug)]
pub struct Report {
    /// Its name.
    pub name: NodeName,
    /// What a member of Patroni would write of itself.
    pub record: MemberRecord,
    /// Whether it claims to lead.
    pub leads: bool,
    /// Whether commits wait for it.
    pub is_sync: bool,
    /// The system identifier of its data, where told.
    pub identity: Option<String>,
}

/// Why there is no report, in words.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum NoReport {
    /// Nothing is known of the member but that it was not heard.
    Silent(String),
    /// Its PostgreSQL is proven to take no sessions now.
    Gone(String),
}

impl From<String> for NoReport {
    fn from(why: String) -> NoReport {
        NoReport::Silent(why)
    }
}

impl From<&str> for NoReport {
    fn from(why: &str) -> NoReport {
        NoReport::Silent(why.to_owned())
    }
}

/// A report, or why there is none.
pub type Answer = Result<Report, NoReport>;

/// What a census goes by.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Rules {
    /// When members count as up or down.
    pub limits: Limits,
    /// How long the leader is believed after its last answer.
    pub proof: Duration,
    /// Whether a claim rests on a lock that the members share. One that does not is refused on an older timeline
    /// than any that was seen: a primary that was left behind claims to lead for ever.
    pub claims_are_locked: bool,
}

/// The lease time that makes the judgement of freshness believe a leader for `proof`: it keeps a tenth off.
pub fn ttl(proof: Duration) -> Duration {
    proof * 10 / 9
}

/// All that was said so far.
#[derive(Debug)]
pub struct Census {
    rules: Rules,
    members: Vec<Known>,
    /// The system identifier of the first leader.
    identity: Option<String>,
    newest: Timeline,
    reign: Option<Reign>,
    last_epoch: Epoch,
    view: Arc<ClusterView>,
}

/// One member as it is known.
#[derive(Debug)]
struct Known {
    /// What it is called until it tells its name.
    label: NodeName,
    /// `None` before it was first asked.
    counter: Option<RiseFall>,
    report: Option<Report>,
    /// When it was asked what it last answered.
    asked_at: Tick,
    /// Since when it is silent, and why.
    silent: Option<(Tick, String)>,
}

#[derive(Debug)]
struct Reign {
    name: NodeName,
    timeline: Option<Timeline>,
    epoch: Epoch,
}

impl Known {
    fn is_up(&self) -> bool {
        self.counter.is_some_and(|counter| counter.is_up())
    }

    fn is_stranger(&self, identity: Option<&String>) -> bool {
        let own = self.report.as_ref().and_then(|report| report.identity.as_ref());
        own.zip(identity).is_some_and(|(own, identity)| own != identity)
    }

    fn name(&self) -> &NodeName {
        self.report.as_ref().map_or(&self.label, |report| &report.name)
    }

    fn timeline(&self) -> Option<Timeline> {
        self.report.as_ref().and_then(|report| report.record.timeline)
    }

    /// Its record, or what is to be said in its place.
    fn record(&self, identity: Option<&String>) -> MemberRecord {
        let Some(report) = &self.report else {
            return MemberRecord::new(self.silence(), MemberRole::Other("unknown".to_owned()));
        };
        let mut record = report.record.clone();
        if !self.is_up() {
            record.state = self.silence();
        } else if self.is_stranger(identity) {
            record.state = MemberState::Other("a server of another cluster".to_owned());
        }
        record
    }

    fn silence(&self) -> MemberState {
        MemberState::Other(match &self.silent {
            Some((_, why)) => format!("silent ({why})"),
            None => "answering again".to_owned(),
        })
    }
}

impl Census {
    /// A census of members that are known by these labels.
    pub fn new(labels: impl IntoIterator<Item = NodeName>, rules: Rules) -> Census {
        let known = |label| Known { label, counter: None, report: None, asked_at: Tick::ZERO, silent: None };
        Census {
            rules,
            members: labels.into_iter().map(known).collect(),
            identity: None,
            newest: Timeline(0),
            reign: None,
            last_epoch: Epoch(0),
            view: Arc::new(ClusterView::default()),
        }
    }

    /// Takes what the member at `index` answered to the question sent at `sent`; answers what is known now.
    pub fn hear(&mut self, index: usize, sent: Tick, answer: Answer) -> Observation {
        if let Some(known) = self.members.get_mut(index) {
            let success = answer.is_ok();
            match &mut known.counter {
                Some(counter) => _ = counter.note(success),
                // The first result alone says whether it is up.
                none => *none = Some(RiseFall::new(self.rules.limits, success)),
            }
            match answer {
                Ok(mut report) => {
                    report.record.timeline = report.record.timeline.or(known.timeline());
                    known.report = Some(report);
                    known.asked_at = sent;
                    known.silent = None;
                }
                Err(why) => {
                    if let (NoReport::Gone(_), Some(counter)) = (&why, &mut known.counter) {
                        counter.note_end();
                    }
                    let since = known.silent.take().map_or(sent, |(since, _)| since);
                    let (NoReport::Silent(why) | NoReport::Gone(why)) = why;
                    known.silent = Some((since, why));
                }
            }
        }
        self.observe()
    }

    fn observe(&mut self) -> Observation {
        let contact = self.contact();
        // Nobody is picked before everybody had the chance to say that it is another.
        let complete = self.members.iter().all(|known| known.counter.is_some());
        if !complete || self.members.iter().all(|known| known.report.is_none()) {
            return Observation { view: None, confirmed_at: Tick::ZERO, contact, leader_lease: None };
        }
        let seen = self.members.iter().filter(|k| k.is_up() && !k.is_stranger(self.identity.as_ref()));
        let newest = seen.filter_map(Known::timeline).max();
        let leader = self.elect(newest);
        if !matches!(leader, Err(Unled::Strangers(_))) {
            self.newest = self.newest.max(newest.unwrap_or_default());
        }
        let leading = leader.as_ref().ok().map(|index| &self.members[*index]);
        let confirmed_at = match leading {
            Some(known) => known.asked_at,
            None => self.members.iter().map(|known| known.asked_at).max().unwrap_or_default(),
        };
        let (leader, unled) = match leader {
            Ok(index) => (Some(self.crown(index)), None),
            Err(why) => {
                self.reign = None;
                (None, Some(why))
            }
        };
        self.view = self.view_of(leader, unled);
        Observation { view: Some(Arc::clone(&self.view)), confirmed_at, contact, leader_lease: None }
    }

    fn contact(&self) -> Contact {
        let mut silent = Vec::new();
        for known in &self.members {
            match &known.silent {
                Some(silence) => silent.push((known.name(), silence)),
                None if known.counter.is_none() => {}
                None => return Contact::Up,
            }
        }
        match silent.iter().map(|(_, (since, _))| *since).max() {
            Some(since) => {
                let why = silent.iter().map(|(name, (_, why))| format!("{name}: {why}"));
                Contact::Down { since, why: why.collect::<Vec<_>>().join("; ") }
            }
            None => Contact::Up,
        }
    }

    /// Who leads, as an index; `newest` is the newest timeline that anybody is on now.
    fn elect(&self, newest: Option<Timeline>) -> Result<usize, Unled> {
        self.check_identities()?;
        let newest = self.newest.max(newest.unwrap_or_default());
        let identity = self.identity.as_ref();
        let claims = |known: &Known| known.report.as_ref().is_some_and(|report| report.leads);
        let live = |known: &Known| known.is_up() && claims(known) && !known.is_stranger(identity);
        let highest = self.members.iter().filter(|known| live(known)).map(Known::timeline).max();
        let outdated = |timeline: &Option<Timeline>| {
            !self.rules.claims_are_locked && timeline.is_none_or(|timeline| timeline < newest)
        };
        if let Some(highest) = highest.filter(|highest| !outdated(highest)) {
            let at_top = |known: &&Known| live(known) && known.timeline() == highest;
            let mut names: Vec<_> = self.members.iter().filter(at_top).map(|k| k.name().clone()).collect();
            names.sort_unstable();
            // One member may be listed under two addresses.
            names.dedup();
            if names.len() > 1 {
                return Err(Unled::Disputed(names, highest.unwrap_or_default()));
            }
            if let Some(index) = self.members.iter().position(|known| at_top(&known)) {
                return Ok(index);
            }
        }
        // Nobody has taken the place of a leader that fell silent.
        let missing = |known: &Known| {
            let reign = self.reign.as_ref().filter(|reign| reign.name == *known.name());
            reign.is_some() && !known.is_up() && claims(known)
        };
        if let Some(index) = self.members.iter().position(missing) {
            return Ok(index);
        }
        match (self.members.iter().find(|known| live(known)), highest) {
            (Some(known), Some(highest)) => Err(Unled::Outdated {
                claimant: known.name().clone(),
                timeline: highest.unwrap_or_default(),
                newest,
            }),
            _ => Err(Unled::NoClaim),
        }
    }

    /// Before the first leader nobody can say which of two clusters is meant.
    fn check_identities(&self) -> Result<(), Unled> {
        if self.identity.is_some() {
            return Ok(());
        }
        let up = self.members.iter().filter(|known| known.is_up());
        let told =
            up.filter_map(|known| Some((known.name().clone(), known.report.as_ref()?.identity.clone()?)));
        let told: Vec<_> = told.collect();
        let differ = told.iter().any(|(_, identity)| *identity != told[0].1);
        if differ { Err(Unled::Strangers(told)) } else { Ok(()) }
    }

    /// The leader key of the member at `index`: another epoch whenever the leader or its timeline is another.
    fn crown(&mut self, index: usize) -> LeaderKey {
        let known = &self.members[index];
        let (name, timeline) = (known.name().clone(), known.timeline());
        if self.identity.is_none() {
            self.identity = known.report.as_ref().and_then(|report| report.identity.clone());
        }
        let goes_on = self.reign.as_ref().filter(|r| r.name == name && r.timeline == timeline);
        let epoch = match goes_on {
            Some(reign) => reign.epoch,
            None => {
                let first = i64::from(timeline.unwrap_or_default().0) * PER_TIMELINE;
                Epoch(first.max(self.last_epoch.0 + 1))
            }
        };
        self.last_epoch = epoch;
        self.reign = Some(Reign { name: name.clone(), timeline, epoch });
        LeaderKey { name, epoch, lease: None }
    }

    fn view_of(&self, leader: Option<LeaderKey>, unled: Option<Unled>) -> Arc<ClusterView> {
        let settings = ClusterSettings { ttl: ttl(self.rules.proof), ..ClusterSettings::default() };
        let config = ConfigDocument { json: Value::Null, settings };
        let view = ClusterView {
            revision: self.view.revision,
            initialize: self.identity.clone(),
            config: Some(Versioned { value: config, mod_revision: Revision(0) }),
            sync: self.sync(leader.as_ref()),
            leader,
            unled,
            newest_epoch: self.last_epoch,
            members: self.records(),
            ..ClusterView::default()
        };
        if view == *self.view {
            return Arc::clone(&self.view);
        }
        Arc::new(ClusterView { revision: Revision(view.revision.0 + 1), ..view })
    }

    fn records(&self) -> BTreeMap<NodeName, Member> {
        let mut records = BTreeMap::new();
        for known in &self.members {
            // Of a member that is listed twice, the address that answers counts.
            if known.is_up() || !records.contains_key(known.name()) {
                let record = known.record(self.identity.as_ref());
                records.insert(known.name().clone(), Member { record, lease: None });
            }
        }
        records
    }

    fn sync(&self, leader: Option<&LeaderKey>) -> Option<Versioned<SyncRecord>> {
        let is_sync = |known: &&Known| known.is_up() && known.report.as_ref().is_some_and(|r| r.is_sync);
        let names: Vec<_> = self.members.iter().filter(is_sync).map(|known| known.name().as_str()).collect();
        let value = SyncRecord {
            leader: leader.map(|leader| leader.name.clone()),
            sync_standby: Some(names.join(",")).filter(|names| !names.is_empty()),
            ..SyncRecord::default()
        };
        value.sync_standby.is_some().then_some(Versioned { value, mod_revision: Revision(0) })
    }
}

#[cfg(test)]
#[path = "census_tests.rs"]
mod tests;
