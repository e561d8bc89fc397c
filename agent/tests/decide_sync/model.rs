//! A store, four servers and the leader's agent, reduced to what synchronous replication depends on.
//!
//! WAL is a number. A walsender confirms by the value of `synchronous_standby_names` that it has read itself; after a
//! reload it first works off the replies that it holds in its hands. Backends wait once the checkpointer has read
//! that there is somebody to wait for.

use std::sync::Arc;

use pgvane_agent::decide::action::{Action, Decision};
use pgvane_agent::decide::candidate::{self, Verdict};
use pgvane_agent::decide::decide;
use pgvane_agent::decide::memory::{Memory, Outcome};
use pgvane_agent::decide::sync::choose::{Confirms, Replication, Standby, SyncState};
use pgvane_agent::decide::sync::machine::{Held, is_covered};
use pgvane_agent::decide::sync::names::{Method, PLACEHOLDER, StandbyNames};
use pgvane_agent::decide::sync::{InForce, Over};
use pgvane_agent::decide::world::{Dcs, Guard, LocalRole, Ongoing, OwnLease, Peer, Peers, Slot, World};
use pgvane_cluster::ids::{Epoch, Lsn, NodeName, Revision, Timeline};
use pgvane_cluster::records::{MemberState, SyncRecord, Tags};
use pgvane_cluster::settings::{ClusterSettings, SynchronousMode};
use pgvane_cluster::view::{ClusterView, Versioned};
use proptest::collection::vec;
use proptest::prelude::*;
use proptest::sample::select;

use crate::decide_support::{self, LEASE, NOW, TTL, ms, standby_sql};

const NODES: usize = 4;

/// Something that happens.
#[derive(Clone, Debug)]
pub(crate) enum Op {
    /// A client commits.
    Commit,
    /// A standby takes all that the primary has, and tells.
    Receive(usize),
    /// A walsender does what it has to do next.
    Walsender(usize),
    /// The checkpointer reads its configuration.
    Checkpointer,
    /// A standby ends.
    Die(usize),
    /// It comes back and connects.
    Return(usize),
    /// Its tag changes.
    NoSync(usize, bool),
    /// The dynamic configuration changes.
    Settings(SynchronousMode, bool, u32),
    /// The agent's loop turns, or its effect goes on: 0 well, other numbers with some failure.
    Agent(u8),
    /// The agent is killed and another one started.
    AgentDies,
    /// A write without an answer happens, or never will.
    Late(bool),
    /// The primary is gone; of those that reach each other (a mask) one may take over.
    Failover(u8, u8),
}

pub(crate) fn ops() -> impl Strategy<Value = Vec<Op>> {
    let node = 0..NODES;
    let mode =
        select(vec![SynchronousMode::On, SynchronousMode::On, SynchronousMode::Quorum, SynchronousMode::Off]);
    let op = prop_oneof![
        4 => Just(Op::Commit),
        6 => node.clone().prop_map(Op::Receive),
        4 => node.clone().prop_map(Op::Walsender),
        1 => Just(Op::Checkpointer),
        2 => node.clone().prop_map(Op::Die),
        3 => node.clone().prop_map(Op::Return),
        1 => (node, any::<bool>()).prop_map(|(n, on)| Op::NoSync(n, on)),
        1 => (mode, any::<bool>(), 1_u32..4).prop_map(|(mode, strict, count)| Op::Settings(mode, strict, count)),
        12 => prop_oneof![6 => Just(0_u8), 1 => 1_u8..5].prop_map(Op::Agent),
        1 => Just(Op::AgentDies),
        2 => any::<bool>().prop_map(Op::Late),
        1 => (any::<u8>(), any::<u8>()).prop_map(|(mask, standing)| Op::Failover(mask, standing)),
    ];
    vec(op, 0..160)
}

#[derive(Clone, Debug)]
struct Node {
    up: bool,
    no_sync: bool,
    /// What it has, on disk.
    flushed: u64,
    /// Its walsender, while it is connected.
    walsender: Option<Walsender>,
}

#[derive(Clone, Debug)]
struct Walsender {
    /// The value it has read.
    names: String,
    /// The replies it was in the middle of when it was told to read the next value.
    in_hand: Option<Vec<u64>>,
    /// Replies that have arrived.
    replies: Vec<u64>,
    /// What the last reply it took said.
    confirmed: u64,
}

#[derive(Clone, Debug)]
struct Write {
    epoch: i64,
    over: Over,
    record: Option<SyncRecord>,
}

#[derive(Clone, Debug)]
enum Effect {
    Write(Write),
    Set { names: Option<String>, epoch: Option<Epoch>, prove: bool, phase: u8 },
}

/// The whole.
#[derive(Clone, Debug)]
pub(crate) struct Model {
    clock: u64,
    revision: i64,
    epoch: i64,
    leader: usize,
    serving: bool,
    sync: Option<(SyncRecord, i64)>,
    late: Vec<Write>,
    settings: ClusterSettings,
    nodes: Vec<Node>,
    file: String,
    in_force: String,
    checkpointer: String,
    head: u64,
    acknowledged: u64,
    memory: Memory,
    effect: Option<Effect>,
}

fn name(n: usize) -> NodeName {
    NodeName::new(format!("pg{}", n + 1))
}

fn place(name: &str) -> usize {
    name[2..].parse::<usize>().expect("a node's name") - 1
}

impl Model {
    /// pg2 leads and serves, synchronous mode was just switched on.
    pub(crate) fn new() -> Model {
        let node = Node { up: true, no_sync: false, flushed: 10, walsender: None };
        let mut model = Model {
            clock: 0,
            revision: 100,
            epoch: 40,
            leader: 1,
            serving: true,
            sync: None,
            late: vec![],
            settings: ClusterSettings {
                ttl: TTL,
                synchronous_mode: SynchronousMode::On,
                ..ClusterSettings::default()
            },
            nodes: vec![node; NODES],
            file: String::new(),
            in_force: String::new(),
            checkpointer: String::new(),
            head: 10,
            acknowledged: 10,
            memory: Memory::default(),
            effect: None,
        };
        (0..NODES).for_each(|n| model.play(&Op::Return(n)));
        model
    }

    pub(crate) fn play(&mut self, op: &Op) {
        match op {
            Op::Commit => self.commit(),
            Op::Receive(n) => {
                let (n, head) = (*n, self.head);
                let node = &mut self.nodes[n];
                if let Some(walsender) = node.walsender.as_mut().filter(|_| self.serving && n != self.leader)
                {
                    node.flushed = head;
                    walsender.replies.push(head);
                }
            }
            Op::Walsender(n) => self.walsender(*n),
            Op::Checkpointer => self.checkpointer(),
            Op::Die(n) if *n != self.leader => {
                self.nodes[*n].up = false;
                self.nodes[*n].walsender = None;
            }
            Op::Return(n) if *n != self.leader => self.connect(*n),
            Op::Die(_) | Op::Return(_) => {}
            Op::NoSync(n, on) => self.nodes[*n].no_sync = *on,
            Op::Settings(mode, strict, count) => {
                self.settings.synchronous_mode = *mode;
                self.settings.synchronous_mode_strict = *strict;
                self.settings.synchronous_node_count = *count;
            }
            Op::Agent(how) => self.agent(*how),
            Op::AgentDies => {
                if let Some(Effect::Write(write)) = self.effect.take() {
                    self.late.push(write);
                }
                self.memory = Memory::default();
            }
            Op::Late(happens) => {
                if let Some(write) = self.late.pop().filter(|_| *happens) {
                    self.apply(&write);
                }
            }
            Op::Failover(mask, standing) => self.failover(*mask, *standing),
        }
    }

    fn connect(&mut self, n: usize) {
        self.nodes[n].up = true;
        if self.serving && self.nodes[n].walsender.is_none() {
            // What it has beyond the primary's history is rewound first.
            self.nodes[n].flushed = self.nodes[n].flushed.min(self.head);
            let names = self.in_force.clone();
            self.nodes[n].walsender = Some(Walsender { names, in_hand: None, replies: vec![], confirmed: 0 });
        }
    }

    fn commit(&mut self) {
        if self.serving {
            self.head += 1;
            if !StandbyNames::parse(&self.checkpointer).waits() {
                self.acknowledged = self.head;
            }
        }
    }

    fn checkpointer(&mut self) {
        self.checkpointer.clone_from(&self.in_force);
        if self.serving && !StandbyNames::parse(&self.checkpointer).waits() {
            // Whoever waits is woken.
            self.acknowledged = self.head;
        }
    }

    /// A walsender takes the reply in its hands, or reads the configuration, or takes the next reply.
    fn walsender(&mut self, n: usize) {
        let in_force = self.in_force.clone();
        let Some(walsender) = self.nodes[n].walsender.as_mut() else { return };
        let reply = match &mut walsender.in_hand {
            Some(held) if !held.is_empty() => Some(held.remove(0)),
            Some(_) => {
                walsender.in_hand = None;
                walsender.names = in_force;
                return;
            }
            None if walsender.replies.is_empty() => None,
            None => Some(walsender.replies.remove(0)),
        };
        if let Some(reply) = reply {
            walsender.confirmed = walsender.confirmed.max(reply);
            self.release(n);
        }
    }

    /// The walsender of `n` lets go whom its own value says are confirmed.
    fn release(&mut self, n: usize) {
        let names = StandbyNames::parse(&self.nodes[n].walsender.as_ref().expect("it replied").names);
        if !names.waits() {
            return;
        }
        // A walsender says itself whether it counts, by the value that it has read.
        let counts = |m: usize| {
            let walsender = self.nodes[m].walsender.as_ref()?;
            let own = StandbyNames::parse(&walsender.names);
            let at = own.of.iter().position(|listed| listed == name(m).as_str())?;
            Some((at, m, walsender.confirmed))
        };
        let mut there: Vec<_> = (0..NODES).filter(|m| *m != self.leader).filter_map(counts).collect();
        there.sort_unstable();
        if there.len() < names.needed {
            return;
        }
        let upto = match names.method {
            Method::First => {
                let first = &there[..names.needed];
                first.iter().any(|(_, m, _)| *m == n).then(|| first.iter().map(|(.., at)| *at).min())
            }
            Method::Any => {
                let mut places: Vec<u64> = there.iter().map(|(.., at)| *at).collect();
                places.sort_unstable_by(|a, b| b.cmp(a));
                Some(places.get(names.needed - 1).copied())
            }
        };
        if let Some(Some(upto)) = upto {
            self.acknowledged = self.acknowledged.max(upto);
        }
    }

    // The store.

    fn apply(&mut self, write: &Write) -> Option<Revision> {
        let found = self.sync.as_ref().map(|(_, revision)| *revision);
        let holds = match write.over {
            Over::Nothing => found.is_none(),
            Over::Revision(revision) => found == Some(revision.0),
            Over::Garbage => true,
        };
        if !holds || write.epoch != self.epoch {
            return None;
        }
        self.revision += 1;
        self.sync = write.record.clone().map(|record| (record, self.revision));
        Some(Revision(self.revision))
    }

    // The agent.

    fn view(&self) -> ClusterView {
        let mut view = decide_support::view();
        view.revision = Revision(self.revision);
        let template = view.members[&NodeName::from("pg2")].clone();
        for (n, node) in self.nodes.iter().enumerate() {
            let mut member = template.clone();
            member.record.state = if node.up { MemberState::Running } else { MemberState::Stopped };
            if node.no_sync {
                member.record.tags = Tags([("nosync".to_owned(), true.into())].into());
            }
            view.members.insert(name(n), member);
        }
        view.sync =
            self.sync.clone().map(|(value, revision)| Versioned { value, mod_revision: Revision(revision) });
        view.failsafe = None;
        view.status = None;
        view
    }

    fn world(&self) -> World {
        let mut world = decide_support::leading();
        let now = NOW + ms(self.clock * 11_000);
        world.now = now;
        world.me = name(self.leader);
        world.settings = self.settings.clone();
        world.lease = OwnLease::Held { id: LEASE, sent_at: now - ms(100), ttl: TTL };
        world.memory = self.memory.clone();
        world.memory.last_leader = Some(name(self.leader));
        let mut view = self.view();
        decide_support::lead(&mut view, name(self.leader).as_str(), LEASE);
        if let Some(key) = view.leader.as_mut() {
            key.epoch = Epoch(self.epoch);
        }
        world.dcs = Dcs::Known(Arc::new(view));
        world.local.guard = Guard::Armed { epoch: Epoch(self.epoch) };
        world.local.role = if self.serving { LocalRole::Primary } else { LocalRole::Standby };
        let mut sql = if self.serving { decide_support::primary_sql() } else { standby_sql() };
        sql.asked_at = now;
        sql.position = Lsn(self.head);
        sql.replication = self.replication();
        world.local.sql = Some(sql);
        match &self.effect {
            Some(Effect::Write(_)) => {
                world.local.ongoing.insert(Slot::SyncKey, Ongoing { what: "write_sync_key", since: now });
            }
            Some(Effect::Set { .. }) => {
                world
                    .local
                    .ongoing
                    .insert(Slot::StandbyNames, Ongoing { what: "set_standby_names", since: now });
            }
            None => {}
        }
        world
    }

    fn replication(&self) -> Replication {
        let asked = StandbyNames::parse(&self.in_force);
        let standbys = self.nodes.iter().enumerate().filter_map(|(n, node)| {
            let walsender = node.walsender.as_ref()?;
            let listed = StandbyNames::parse(&walsender.names).of.contains(name(n).as_str());
            let sync = match asked.method {
                _ if !listed || !asked.waits() => SyncState::Async,
                Method::First => SyncState::Sync,
                Method::Any => SyncState::Quorum,
            };
            let at = Lsn(walsender.confirmed);
            let name = name(n).as_str().to_owned();
            Some(Standby { name, streaming: true, sync, write: at, flush: at, replay: at })
        });
        Replication { names: self.in_force.clone(), confirms: Confirms::Flush, standbys: standbys.collect() }
    }

    fn agent(&mut self, how: u8) {
        self.clock += 1;
        match self.effect.take() {
            None => drop(self.decide()),
            Some(Effect::Write(write)) => self.written(&write, how),
            Some(Effect::Set { names, epoch, prove, phase }) => self.set(names, epoch, prove, phase, how),
        }
    }

    fn decide(&mut self) -> Decision {
        let world = self.world();
        let decision = decide(&world);
        self.memory.begin(world.now, &decision.action);
        match &decision.action {
            Action::WriteSyncKey { epoch, record, over } => {
                let write = Write { epoch: epoch.0, over: *over, record: Some(record.clone()) };
                self.effect = Some(Effect::Write(write));
            }
            Action::DeleteSyncKey { epoch, revision } => {
                let write = Write { epoch: epoch.0, over: Over::Revision(*revision), record: None };
                self.effect = Some(Effect::Write(write));
            }
            Action::SetStandbyNames { names, epoch, prove } => {
                let (names, epoch, prove) = (names.clone(), *epoch, *prove);
                self.effect = Some(Effect::Set { names, epoch, prove, phase: 0 });
            }
            Action::Promote { .. } => self.promote(),
            // The settings changed under its feet: somebody else may lead, by the same rule.
            Action::Release { .. } if !self.serving => self.elect(u8::MAX, 0),
            Action::Wait => {}
            other => panic!("a leader that does {other:?} in {world:#?}"),
        }
        decision
    }

    fn absorb(&mut self, outcomes: &[Outcome]) {
        let now = NOW + ms(self.clock * 11_000);
        for outcome in outcomes {
            self.memory.absorb(now, outcome);
        }
    }

    fn written(&mut self, write: &Write, how: u8) {
        let outcomes = match how {
            // No answer; it happens now, later or never.
            1 | 2 => {
                if how == 1 {
                    self.apply(write);
                } else {
                    self.late.push(write.clone());
                }
                vec![Outcome::Failed(Slot::SyncKey)]
            }
            _ => match (self.apply(write), &write.record) {
                (Some(revision), Some(_)) => {
                    let epoch = Epoch(write.epoch);
                    vec![Outcome::SyncKeyWritten { epoch, revision }, Outcome::Done(Slot::SyncKey)]
                }
                (Some(_), None) => vec![Outcome::Done(Slot::SyncKey)],
                (None, _) => vec![Outcome::Failed(Slot::SyncKey)],
            },
        };
        self.absorb(&outcomes);
    }

    /// The file is written; the postmaster reads it and tells all; the checkpointer was seen to have read it; the
    /// position is noted. It may end without success after each.
    fn set(&mut self, names: Option<String>, epoch: Option<Epoch>, prove: bool, phase: u8, how: u8) {
        if how == 1 {
            return self.absorb(&[Outcome::StandbyNamesUnknown, Outcome::Failed(Slot::StandbyNames)]);
        }
        match phase {
            0 => self.file = names.clone().unwrap_or_default(),
            1 => {
                self.in_force.clone_from(&self.file);
                for walsender in self.nodes.iter_mut().filter_map(|n| n.walsender.as_mut()) {
                    let mut held = walsender.in_hand.take().unwrap_or_default();
                    held.append(&mut walsender.replies);
                    walsender.in_hand = Some(held);
                }
            }
            2 if prove => self.checkpointer(),
            2 => {}
            _ => {
                let noted = epoch.filter(|_| self.serving).map(|epoch| (epoch, Lsn(self.head)));
                let set = Outcome::StandbyNamesSet(InForce { names, noted });
                return self.absorb(&[set, Outcome::Done(Slot::StandbyNames)]);
            }
        }
        self.effect = Some(Effect::Set { names, epoch, prove, phase: phase + 1 });
    }

    fn promote(&mut self) {
        self.serving = true;
        self.checkpointer();
        for node in &mut self.nodes {
            node.flushed = node.flushed.min(self.head);
        }
    }

    // The race.

    /// The world of `n` while nobody leads and it reaches those of `mask`.
    fn racer(&self, n: usize, mask: u8) -> World {
        let mut world = decide_support::leaderless();
        world.me = name(n);
        world.settings = self.settings.clone();
        // Long enough for everybody to give up waiting for those ahead.
        world.memory.leaderless_since = Some(world.now - ms(5000));
        world.memory.last_leader = Some(name(self.leader));
        let mut view = self.view();
        view.leader = None;
        world.dcs = Dcs::Known(Arc::new(view));
        let sql = world.local.sql.as_mut().expect("answers");
        sql.position = Lsn(self.nodes[n].flushed);
        let reached = (0..NODES).filter(|m| *m != n && mask & (1 << m) != 0);
        let answer = |m: usize| Peer::Answered {
            is_primary: false,
            running: true,
            timeline: Some(Timeline(1)),
            position: Lsn(self.nodes[m].flushed),
            fresh: true,
            tags: Tags::default(),
        };
        let answers = reached.map(|m| (name(m), answer(m))).collect();
        world.peers = Peers { asked_at: world.now - ms(100), answers };
        world
    }

    fn may_win(&self, n: usize, mask: u8) -> bool {
        let world = self.racer(n, mask);
        candidate::judge(&world, world.dcs.last_view().expect("known")) == Verdict::Campaign
    }

    /// Nobody may win who lacks an acknowledged commit, whomever it reaches.
    pub(crate) fn check_race(&self) -> Result<(), String> {
        if !self.is_bound() {
            return Ok(());
        }
        let mut nodes = self.clone();
        // The former leader has what it wrote.
        nodes.nodes[self.leader].flushed = self.head;
        for n in 0..NODES {
            for mask in 0..1 << NODES {
                if nodes.nodes[n].flushed < self.acknowledged && nodes.may_win(n, mask) {
                    return Err(format!("{} may win with {mask:b} and lacks a commit: {self:#?}", name(n)));
                }
            }
        }
        Ok(())
    }

    /// Whether anything is promised at this moment.
    fn is_bound(&self) -> bool {
        let leads = self.sync.as_ref().is_some_and(|(record, _)| record.leader == Some(name(self.leader)));
        self.settings.synchronous_mode.is_on() && self.serving && leads
    }

    /// Of the voters at most `quorum` lack an acknowledged commit; and what may be acknowledged next is covered.
    pub(crate) fn check(&self) -> Result<(), String> {
        if !self.is_bound() {
            return Ok(());
        }
        let Some((record, _)) = &self.sync else { return Ok(()) };
        let held = Held::of(record);
        let lacks = |voter: &&str| self.nodes[place(voter)].flushed < self.acknowledged;
        let lacking = held.voters.iter().filter(lacks).count();
        if lacking > held.quorum {
            return Err(format!("{lacking} of {held:?} lack a commit: {self:#?}"));
        }
        if !is_covered(&StandbyNames::parse(&self.in_force), &held) {
            return Err(format!("{} does not cover {held:?}: {self:#?}", self.in_force));
        }
        if self.settings.synchronous_mode == SynchronousMode::On && held.voters.contains(PLACEHOLDER) {
            return Err(format!("{held:?}"));
        }
        Ok(())
    }

    /// What was acknowledged by mistake, for the test of the test.
    pub(crate) fn acknowledge_unconfirmed(&mut self) {
        self.acknowledged = self.head;
    }

    fn failover(&mut self, mask: u8, standing: u8) {
        if self.is_bound() && self.effect.is_none() {
            self.elect(mask, standing);
        }
    }

    fn elect(&mut self, mask: u8, standing: u8) {
        self.nodes[self.leader].flushed = self.head;
        self.nodes[self.leader].up = mask & (1 << self.leader) != 0;
        let up = (0..NODES).filter(|n| self.nodes[*n].up).fold(0, |mask, n| mask | 1 << n);
        let Some(winner) = (0..NODES).find(|n| self.nodes[*n].up && self.may_win(*n, mask & up)) else {
            return;
        };
        self.nodes.iter_mut().for_each(|node| node.walsender = None);
        self.revision += 1;
        self.epoch = self.revision;
        self.serving = false;
        self.head = self.nodes[winner].flushed;
        assert!(self.head >= self.acknowledged, "the check of the race is later than the race: {self:#?}");
        self.leader = winner;
        self.memory = Memory::default();
        // What its server was told while it was a standby, lately or long ago.
        self.in_force = match standing % 4 {
            0 => String::new(),
            1 => PLACEHOLDER.to_owned(),
            2 => "ANY 1 (pg1,pg3,pg4)".to_owned(),
            _ => "pg3".to_owned(),
        };
        self.file.clone_from(&self.in_force);
    }

    /// No more faults: everything that is to be comes to be.
    pub(crate) fn heal(&mut self) -> Result<(), String> {
        self.late.clear();
        for _ in 0..120 {
            (0..NODES).for_each(|n| self.play(&Op::Return(n)));
            (0..NODES).for_each(|n| self.play(&Op::Receive(n)));
            for _ in 0..12 {
                (0..NODES).for_each(|n| self.walsender(n));
            }
            self.checkpointer();
            self.agent(0);
            self.check()?;
        }
        // All that work must have come to an end.
        self.clock += 1;
        self.effect = None;
        let decision = self.decide();
        let record = self.sync.as_ref().map(|(record, _)| record.clone());
        let told = || format!("{decision:?}, {record:?}, {:?} in {self:#?}", self.in_force);
        if decision.action != Action::Wait || !self.serving {
            return Err(format!("it does not settle: {}", told()));
        }
        let able = (0..NODES).filter(|n| *n != self.leader && !self.nodes[*n].no_sync).count();
        let count = usize::try_from(self.settings.synchronous_node_count).expect("small").min(able);
        let in_force = StandbyNames::parse(&self.in_force);
        let is_right = match (self.settings.synchronous_mode, &record) {
            (SynchronousMode::Off, None) => !in_force.waits(),
            (SynchronousMode::Off, Some(_)) | (_, None) => false,
            // Strict mode keeps whom it had.
            (_, Some(_)) if able == 0 && self.settings.synchronous_mode_strict => in_force.waits(),
            (SynchronousMode::On, Some(record)) => {
                let held = Held::of(record);
                held.voters.len() == count
                    && held.quorum == 0
                    && held.voters == in_force.of
                    && in_force.guarantee() == count
            }
            (SynchronousMode::Quorum, Some(record)) => {
                let held = Held::of(record);
                held.voters.len() == able
                    && held.quorum == able - count
                    && held.voters == in_force.of
                    && (in_force.guarantee() == count || able == 0)
            }
        };
        if is_right { self.check_race() } else { Err(format!("it settles on something else: {}", told())) }
    }
}
