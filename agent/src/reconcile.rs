//! The loop: await a cause, observe, decide, enact. It owns all state; everything else is a task that reports.
//!
//! Nothing in a turn waits for a disk, a socket or PostgreSQL: the pulse that the lease renewal depends on
//! would stop with it.

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use pgvane_cluster::changes::{Cause, Farewell};
use pgvane_cluster::clock::Tick;
use pgvane_cluster::follow::{Contact, Observation};
use pgvane_cluster::ids::{Epoch, LeaseId, NodeName};
use pgvane_cluster::keyspace::Key;
use pgvane_cluster::records::{MemberRecord, MemberState, NativeMember, Tags};
use pgvane_cluster::reigns::Descent;
use pgvane_cluster::settings::{ClusterSettings, PATRONI_MIN_TTL};
use pgvane_cluster::store::Store;
use tokio::sync::{Notify, mpsc, oneshot, watch};
use tracing::{debug, error, info, warn};

use crate::api::{self, ApiSnapshot, Command, FailsafeAnswer, FailsafeAsk, Operations};
use crate::callbacks::{self, Told};
use crate::config::{Config, LogFormat};
use crate::decide::action;
use crate::decide::announce::{self, Identity};
use crate::decide::consent::{self, Refusal};
use crate::decide::lease::renewal_is_late;
use crate::decide::memory::{Memory, Vouch};
use crate::decide::restart::Facts;
use crate::decide::schedule::Wall;
use crate::decide::sync;
use crate::decide::vacancy;
use crate::decide::world::{Abilities, DataDir, Dcs, Guard, OwnLease, Peers, Process, Slot, World};
use crate::decide::{Action, Decision, Outcome, Reason, StopMode, decide};
use crate::effects::Effects;
use crate::enact::{self, Context, Order, Right};
use crate::event::{Event, ServerEvent};
use crate::guard::client::{
    Arming, Doing, Found, GuardClient, GuardError, GuardEvent, GuardOptions, Parting, Report,
};
use crate::keepalive::{LeaseNews, Pulse};
use crate::keeper::Keeper;
use crate::namesake::Namesake;
use crate::operator::Operator;
use crate::postgres::Instance;
use crate::publish::{Fullness, Publisher};
use crate::reload::{self, Reloaded, Reloader, Reloading};
use crate::server::ServerState;
use crate::telemetry;
use crate::telemetry::patroni::{self, Narrator, Scene};
use crate::timing::{Timing, TimingOverrides};
use crate::vouch;
use crate::walsenders::Walsenders;
use crate::watchdog::{self, Step, Watch};

/// The least time between two turns, so that a decision that wants to be taken again at once cannot spin.
const SHORTEST_TURN: Duration = Duration::from_millis(1);

/// How long the store may take to show that it answers while a leader waits for our word. Patroni waits for 2 s.
const STORE_ANSWERS_WITHIN: Duration = Duration::from_secs(1);

/// Why the loop ended.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Ended {
    /// It was told to stop and has nothing left to do.
    Stopped,
    /// It was told to leave PostgreSQL, the guard and the lease to the next agent.
    Detached,
    /// Only an operator can resolve this; nothing was touched.
    Halted(String),
    /// It could not do what it was for; another start may.
    Failed(String),
}

/// What a signal asks for.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Wish {
    /// Hand over, stop PostgreSQL, end.
    Stop,
    /// End and leave everything running.
    Detach,
    /// Read the settings again.
    Reload,
}

/// Where news come from.
pub struct Sources {
    /// The cluster, from the store.
    pub observation: watch::Receiver<Observation>,
    /// The lease.
    pub lease: mpsc::UnboundedReceiver<LeaseNews>,
    /// Effects, PostgreSQL, the guard.
    pub events: mpsc::UnboundedReceiver<Event>,
    /// The REST API.
    pub commands: mpsc::Receiver<Command>,
    /// Signals.
    pub wishes: mpsc::Receiver<Wish>,
}

/// Where news go.
pub struct Sinks {
    /// The deadlines in force, for the lease task.
    pub timing: watch::Sender<Timing>,
    /// What the API answers from.
    pub api: watch::Sender<Arc<ApiSnapshot>>,
    /// Proof of life, for the lease task.
    pub pulse: Arc<Pulse>,
    /// Whether the server is to be asked, for the prober.
    pub probe: watch::Sender<bool>,
    /// Ask the server at once.
    pub hurry: Arc<Notify>,
    /// How the server is reached, for the prober.
    pub instance: watch::Sender<Arc<Instance>>,
    /// What the API is told.
    pub rest: watch::Sender<Arc<api::Settings>>,
}

/// What the loop starts with.
pub struct Start {
    /// A predecessor's lease that may still live.
    pub lease: OwnLease,
    /// A promise that still holds.
    pub vouch: Option<Vouch>,
    /// What is known of the timelines of our data.
    pub descent: Descent,
    /// The server as it was found.
    pub server: ServerState,
    /// The guard as it was found.
    pub guard: Found,
    /// How to start another.
    pub guard_options: GuardOptions,
    /// The dynamic configuration as it was last read, until the store answers.
    pub settings: ClusterSettings,
    /// The deadlines to begin with.
    pub first_timing: Timing,
    /// Where our promise is kept.
    pub vouch_file: PathBuf,
    /// Whether another member of our name lives.
    pub namesake: Namesake,
    /// Where the settings come from.
    pub reloader: Arc<Reloader>,
    /// The settings.
    pub config: Arc<Config>,
}

/// The agent's one owner of state.
pub struct Reconciler<S: Store> {
    ctx: Arc<Context<S>>,
    identity: Identity,
    sources: Sources,
    sinks: Sinks,
    effects: Effects,
    publisher: Publisher,
    fullness: Fullness,
    keeper: Keeper,
    walsenders: Walsenders,
    server: ServerState,
    lease: OwnLease,
    peers: Peers,
    memory: Memory,
    guard: Guard,
    guard_lease: Option<LeaseId>,
    guard_client: Option<GuardClient>,
    guard_events: mpsc::Receiver<GuardEvent>,
    guard_options: GuardOptions,
    /// The last deadline given to the guard.
    guard_sent: Tick,
    stop_mode: StopMode,
    settings: ClusterSettings,
    tags: Tags,
    overrides: TimingOverrides,
    timing: Timing,
    refused_ttl: Option<Duration>,
    vouch_file: PathBuf,
    operator: Operator,
    namesake: Namesake,
    renewals_late: u64,
    renewal_is_late: bool,
    detach: bool,
    last: Option<(&'static str, Reason)>,
    counts: BTreeMap<&'static str, u64>,
    turns: u64,
    dcs_last_seen: i64,
    told: Told,
    watch: Watch,
    config: Arc<Config>,
    reload: Reloading,
    narrator: Narrator,
    /// When the store was last asked in vain, beside what follows it.
    store_silent_at: Option<Tick>,
    /// What was said when a reign was last given up.
    farewell: Option<Farewell>,
}

impl<S: Store> Reconciler<S> {
    /// A loop that has not turned yet.
    pub fn new(
        ctx: Arc<Context<S>>,
        identity: Identity,
        sources: Sources,
        sinks: Sinks,
        start: Start,
    ) -> Reconciler<S> {
        let memory = Memory { vouch: start.vouch, descent: start.descent, ..Memory::default() };
        let guard = match (start.guard.report.doing, start.guard.report.epoch) {
            (Doing::Armed, Some(epoch)) => Guard::Armed { epoch: Epoch(epoch) },
            (doing, _) => guard_reached(doing),
        };
        Reconciler {
            effects: Effects::new(ctx.events.clone()),
            identity,
            sources,
            sinks,
            publisher: Publisher::default(),
            fullness: Fullness::default(),
            server: start.server,
            lease: start.lease,
            peers: Peers::default(),
            memory,
            guard,
            guard_lease: start.guard.report.lease.map(LeaseId),
            guard_client: Some(start.guard.client),
            guard_events: start.guard.events,
            guard_options: start.guard_options,
            guard_sent: Tick::from_nanos(start.guard.report.deadline.unwrap_or(0)),
            stop_mode: StopMode::Fast,
            settings: start.settings,
            tags: start.config.tags.clone(),
            overrides: start.config.timing,
            timing: start.first_timing,
            refused_ttl: None,
            vouch_file: start.vouch_file,
            operator: Operator::default(),
            namesake: start.namesake,
            renewals_late: 0,
            renewal_is_late: false,
            detach: false,
            last: None,
            keeper: Keeper::default(),
            walsenders: Walsenders::default(),
            counts: BTreeMap::new(),
            turns: 0,
            dcs_last_seen: 0,
            told: Told::default(),
            watch: Watch::default(),
            config: start.config,
            reload: Reloading::new(start.reloader),
            narrator: Narrator::default(),
            store_silent_at: None,
            farewell: None,
            ctx,
        }
    }

    /// Turns until the agent ends; what effects used last is left.
    pub async fn run(mut self) -> (Ended, Arc<Context<S>>) {
        let ended = self.turn_to_the_end().await;
        (ended, self.ctx)
    }

    async fn turn_to_the_end(&mut self) -> Ended {
        loop {
            let now = Tick::now();
            self.sinks.pulse.beat(now);
            if self.detach {
                return Ended::Detached;
            }
            if let Some(why) = self.namesake.found() {
                return Ended::Halted(why.to_owned());
            }
            self.take_settings();
            self.attend(now);
            let world = self.observe(now);
            let decision = decide(&world);
            self.tell(&world, &decision);
            self.look_after(&world);
            self.hurry(&decision, &world);
            if let Some(ended) = self.enact(&world, &decision) {
                return ended;
            }
            self.announce(now);
            self.extend_guard(now);
            let wake = decision.wake_at.max(now + SHORTEST_TURN);
            self.await_cause(now.until(wake)).await;
        }
    }

    /// The world as it is now.
    fn observe(&mut self, now: Tick) -> World {
        let observation = self.sources.observation.borrow_and_update().clone();
        let silent_at = self.store_silent_at.filter(|at| *at > observation.confirmed_at);
        let dcs = match (&observation.contact, observation.view) {
            // What the store says of our name may be another's.
            (Contact::Up, Some(view)) if !self.namesake.admits(&view, self.lease, &self.ctx.events) => {
                Dcs::Unknown { since: now, last: None }
            }
            (Contact::Up, last) if let Some(since) = silent_at => Dcs::Unknown { since, last },
            (Contact::Up, Some(view)) => {
                self.dcs_last_seen = wall_seconds();
                Dcs::Known(view)
            }
            (Contact::Up, None) => Dcs::Unknown { since: now, last: None },
            (Contact::Down { since, .. }, last) => Dcs::Unknown { since: *since, last },
        };
        let local = self.server.local(self.effective_guard(&dcs), self.effects.ongoing());
        let led = self.memory.leaderless_since.is_none();
        self.memory.note(now, &dcs, &local, &self.ctx.me);
        if led && self.memory.leaderless_since.is_some() {
            // The race is run on positions of now.
            self.sinks.hurry.notify_one();
        }
        World {
            now,
            me: self.ctx.me.clone(),
            dcs,
            lease: self.lease,
            local,
            peers: self.peers.clone(),
            memory: self.memory.clone(),
            settings: self.settings.clone(),
            tags: self.tags.clone(),
            timing: self.timing_in_force(),
            abilities: self.abilities(now),
        }
    }

    fn abilities(&self, now: Tick) -> Abilities {
        let dog = &self.ctx.watchdog;
        let plan = watchdog::plan(dog.settings(), &self.timing, self.settings.loop_wait);
        let usable = dog.is_usable() && !self.watch.is_refused(now) && plan.is_ok();
        Abilities {
            begins_nothing: !self.config.bootstrap.allowed,
            clones_alone: self.ctx.instance.replica_methods.iter().any(|method| method.no_leader),
            watchdog_failed: dog.is_required() && !usable,
        }
    }

    /// What follows from the world besides the decision: effects learn of our right to lead, operators of what
    /// happened, and the watchdog that all is well.
    fn look_after(&mut self, world: &World) {
        self.ctx.right.send_replace(world.authority().map(Right::from));
        if let Some(due) = self.told.next(&callbacks::Seen::of(world), callbacks::is_restarting(world)) {
            self.ctx.callbacks.run(&due);
        }
        let dog = &self.ctx.watchdog;
        // A server that becomes primary is armed for by its effect, which waits for it.
        let plan = watchdog::plan(dog.settings(), &world.timing, world.settings.loop_wait);
        let plan = plan.ok().filter(|_| world.may_write());
        match self.watch.step(world.now, watchdog::wanted(world), plan) {
            Step::Nothing => {}
            Step::Arm(plan) => {
                let ctx = Arc::clone(&self.ctx);
                tokio::spawn(async move {
                    let answer = ctx.watchdog.arm(plan).await;
                    ctx.report(Event::WatchdogArmed(answer));
                });
            }
            Step::Ping(until) => dog.ping(until),
            Step::Disarm => dog.disarm(),
        }
    }

    /// The deadlines of the lease we hold. A longer ttl counts once a lease is granted for it: its budgets would
    /// make the renewal of a shorter lease look late.
    fn timing_in_force(&self) -> Timing {
        match self.lease {
            OwnLease::Held { ttl, .. } if ttl < self.timing.ttl => {
                Timing::derive(ttl, &self.overrides).unwrap_or(self.timing)
            }
            OwnLease::Held { .. } | OwnLease::None => self.timing,
        }
    }

    /// A guard armed under another lease than ours holds a deadline that no renewal of ours moves. It is in force
    /// all the same while the leader key is still under that lease: until a changed ttl's new lease has taken
    /// the key over, the old deadline is the one that bounds our reign.
    fn effective_guard(&self, dcs: &Dcs) -> Guard {
        let key = dcs.last_view().and_then(|view| view.leader.as_ref());
        let key_lease = key.filter(|key| key.name == self.ctx.me).and_then(|key| key.lease);
        match self.guard {
            Guard::Armed { .. } if !deadline_is_in_force(self.guard_lease, self.lease, key_lease) => {
                Guard::Outdated
            }
            guard => guard,
        }
    }

    /// Takes the dynamic configuration and derives the deadlines. A lease time that leaves no room for them is
    /// refused and the last one stays.
    fn take_settings(&mut self) {
        let Some(view) = self.sources.observation.borrow().view.clone() else { return };
        let Some(config) = &view.config else {
            if self.ctx.known_config.document().is_none() {
                // The cluster begins with these: whether it is a standby cluster decides how.
                (self.settings, _) = ClusterSettings::from_json(&self.ctx.first_config);
            }
            return;
        };
        let changed = self.settings != config.value.settings;
        self.settings = config.value.settings.clone();
        let floor = if view.has_patroni_member() { PATRONI_MIN_TTL } else { Duration::ZERO };
        let ttl = self.settings.ttl.max(floor);
        if ttl != self.timing.ttl && self.refused_ttl != Some(ttl) {
            match Timing::derive(ttl, &self.overrides) {
                Ok(timing) => {
                    info!(ttl = ?ttl, renew_interval = ?timing.renew_interval, "deadlines derived");
                    self.timing = timing;
                    self.refused_ttl = None;
                    self.sinks.timing.send_replace(timing);
                }
                Err(refused) => {
                    error!(%refused, "the ttl of the dynamic configuration is refused; the last one stays");
                    self.refused_ttl = Some(ttl);
                }
            }
        }
        if changed {
            self.keeper.settings_changed();
        }
    }

    /// A change of step or reason is one line; a repeated one is silent.
    fn tell(&mut self, world: &World, decision: &Decision) {
        self.turns += 1;
        let label = decision.action.label();
        *self.counts.entry(label).or_default() += 1;
        let key = (label, decision.reason.clone());
        // Waiting for an effect says nothing new, nor does what follows it if it is the same step again.
        if !matches!(decision.reason, Reason::Busy(_)) && self.last.as_ref() != Some(&key) {
            info!(target: telemetry::DECIDED, action = label, reason = %decision.reason, "decided");
            self.last = Some(key);
        }
        if self.config.log.format == LogFormat::Patroni {
            let every = (!self.config.log.deduplicate_heartbeats).then_some(self.settings.loop_wait);
            patroni::tell(self.narrator.decided(&Scene::of(world), decision, world.now, every));
        }
    }

    /// Starts what was decided.
    fn enact(&mut self, world: &World, decision: &Decision) -> Option<Ended> {
        match &decision.action {
            Action::Exit if decision.reason == Reason::BootstrapFailed => {
                return Some(Ended::Failed(decision.reason.to_string()));
            }
            Action::Exit => return Some(Ended::Stopped),
            Action::Halt => return Some(Ended::Halted(decision.reason.to_string())),
            _ => {}
        }
        self.memory.begin(world.now, &decision.action);
        let slot = decision.action.slot()?;
        if let Action::Stop { how } = decision.action {
            // A stop under way goes on, unless a harder one is wanted.
            if self.effects.what(slot) == Some(decision.action.label()) && self.stop_mode >= how {
                return None;
            }
            self.stop_mode = how;
        }
        let arming = match decision.action {
            Action::ArmGuard { epoch } => {
                world.authority().and_then(|a| self.arming(world, epoch, a.guard_deadline))
            }
            Action::TakeOverKey => self.arming_to_move(world),
            _ => None,
        };
        let lease = match self.lease {
            OwnLease::Held { id, .. } => Some(id),
            OwnLease::None => None,
        };
        let mut record = self.record(world);
        if let Action::Release { .. } = decision.action {
            record.pgvane = record.pgvane.map(|n| NativeMember { serving_epoch: None, ..n });
        }
        let farewell = self.farewell(world, decision);
        let order = Order {
            action: decision.action.clone(),
            settings: self.settings.clone(),
            timing: self.timing,
            view: self.sources.observation.borrow().view.clone(),
            lease,
            record,
            right_until: world.authority().map(|authority| authority.guard_deadline),
            arming,
            guard: self.guard_client.clone(),
            raced_on: sync::raced_on(world, &self.ctx.space),
            voters: self.voters(world),
            farewell,
            vacancy: self.memory.witness.vacancy.clone(),
            unproven: world.memory.unproven_slots.clone(),
        };
        let effect = Arc::clone(&self.ctx).perform(order);
        self.effects.start(slot, decision.action.label(), world.now, effect);
        None
    }

    /// What is said when the reign is given up. Said again, where the store did not answer, it is still the same.
    fn farewell(&mut self, world: &World, decision: &Decision) -> Option<Farewell> {
        let Action::Release { epoch, .. } = decision.action else { return None };
        let said = self.farewell.take().filter(|said| said.epoch == epoch);
        let now = vacancy::farewell(world, epoch, &decision.reason);
        let said = said.map_or_else(|| now.clone(), |said| Farewell { down_ms: now.down_ms, ..said });
        self.farewell = Some(said.clone());
        Some(said)
    }

    /// Whom a question for consent goes to.
    fn voters(&self, world: &World) -> Option<BTreeMap<NodeName, String>> {
        let seen = world.dcs.last_view().and_then(|view| view.failsafe.as_ref());
        self.keeper.voters().to_ask(&self.ctx.me, seen)
    }

    /// What the guard is to hold for our lease.
    fn arming(&self, world: &World, epoch: Epoch, deadline: Tick) -> Option<(GuardClient, Arming)> {
        let OwnLease::Held { id, ttl, .. } = self.lease else { return None };
        let last_words = Farewell { epoch, cause: Cause::Guard, detail: None, down_ms: None };
        let arming = Arming {
            epoch,
            lease: id,
            ttl,
            deadline,
            budget: world.timing.guard_budget,
            postmaster: None,
            store: self.ctx.store_access.borrow().clone(),
            parting: Some(Parting {
                leader_key: self.ctx.space.path(&Key::Leader),
                leader: self.ctx.me.to_string(),
                key: self.ctx.space.path(&Key::Farewell),
                words: String::from_utf8_lossy(&last_words.to_json()).into_owned(),
            }),
        };
        Some((self.guard_client.clone()?, arming))
    }

    /// What the guard must hold before the leader key moves from the lease of its deadline to ours: a deadline
    /// that lies before the end of both.
    fn arming_to_move(&self, world: &World) -> Option<(GuardClient, Arming)> {
        let Guard::Armed { epoch } = self.guard else { return None };
        let OwnLease::Held { id, sent_at, ttl } = self.lease else { return None };
        if self.guard_lease == Some(id) {
            return None;
        }
        self.arming(world, epoch, world.timing.guard_deadline(sent_at, ttl).min(self.guard_sent))
    }

    /// Moves the guard's deadline forward with every renewal.
    fn extend_guard(&mut self, now: Tick) {
        let world = self.observe(now);
        let (Some(authority), Some(lease), Guard::Armed { epoch }) =
            (world.authority(), self.guard_lease, self.guard)
        else {
            return;
        };
        if epoch != authority.epoch || authority.guard_deadline <= self.guard_sent {
            return;
        }
        self.guard_sent = authority.guard_deadline;
        let Some(client) = self.guard_client.clone() else { return };
        let events = self.ctx.events.clone();
        tokio::spawn(async move {
            if let Err(error) = client.extend(lease, authority.guard_deadline).await {
                warn!(%error, "the guard's deadline was not moved");
                if let GuardError::Gone(why) = error {
                    let _ = events.send(Event::GuardGone(why));
                }
            }
        });
    }

    /// Writes the keys this node owns, and shows itself to the API.
    fn announce(&mut self, now: Tick) {
        let world = self.observe(now);
        let record = self.record(&world);
        let (known, held) = (matches!(world.dcs, Dcs::Known(_)), matches!(self.lease, OwnLease::Held { .. }));
        let late = known && held && renewal_is_late(&world);
        self.renewals_late += u64::from(late && !self.renewal_is_late);
        self.renewal_is_late = late;
        if let (OwnLease::Held { id, .. }, Dcs::Known(view)) = (self.lease, &world.dcs)
            && self.operator.has_adopted()
        {
            let shown = view.members.get(&self.ctx.me);
            if shown.is_none_or(|m| m.lease != Some(id)) && self.publisher.is_settled(now) {
                self.publisher.forget();
            }
            if self.publisher.due(now, &record, id) {
                let (ctx, record) = (Arc::clone(&self.ctx), record.clone());
                tokio::spawn(async move {
                    let result = enact::store::publish(&ctx, &record, id).await;
                    let result = result.map(|()| (record, id));
                    ctx.report(Event::Published(Box::new(result)));
                });
            }
        }
        self.keeper.turn(&self.ctx, &world, self.server.view.as_ref());
        if let Some(config) = world.dcs.last_view().and_then(|view| view.config.as_ref()) {
            let settled = matches!(world.local.data, DataDir::Present(_)) && world.free(Slot::Postgres);
            self.ctx.known_config.note(&config.value.json, settled);
        }
        let snapshot = self.snapshot(&world, &record);
        self.sinks.api.send_replace(Arc::new(snapshot));
    }

    fn snapshot(&self, world: &World, record: &MemberRecord) -> ApiSnapshot {
        let authority = world.authority();
        ApiSnapshot {
            name: self.ctx.me.clone(),
            scope: self.ctx.instance.scope.clone(),
            tags: self.tags.clone(),
            observation: self.sources.observation.borrow().clone(),
            leader_until: authority.map(|a| a.guard_deadline),
            renewed_at: match self.lease {
                OwnLease::Held { sent_at, .. } => Some(sent_at),
                OwnLease::None => None,
            },
            local: self.server.api(record),
            failsafe_active: authority.is_some_and(|a| a.by_consent),
            pending_restart: record.pending_restart_reason.clone(),
            operations: Operations {
                scheduled_restart: record.scheduled_restart.clone(),
                guard_armed: matches!(world.local.guard, Guard::Armed { .. }),
                renewals_late: self.renewals_late,
                store_is_full: self.fullness.lasts(),
                store_refusals: self.fullness.refusals(),
                reloads: self.reload.counts,
            },
            watchdog_failed: world.abilities.watchdog_failed,
            turned_at: world.now,
            ttl: self.timing.ttl,
            dcs_last_seen: self.dcs_last_seen,
            turns: self.turns,
            decisions: self.counts.clone(),
        }
    }

    /// Waits until something happened, then takes in everything that did.
    async fn await_cause(&mut self, limit: Duration) {
        tokio::select! {
            () = tokio::time::sleep(limit) => {}
            // The follower lives as long as the agent.
            _ = self.sources.observation.changed() => {}
            Some(news) = self.sources.lease.recv() => self.lease_news(news),
            Some(event) = self.sources.events.recv() => self.event(event),
            Some(event) = self.guard_events.recv() => self.guard_event(event),
            Some(command) = self.sources.commands.recv() => self.command(command),
            Some(wish) = self.sources.wishes.recv() => self.wish(wish),
        }
        while let Ok(news) = self.sources.lease.try_recv() {
            self.lease_news(news);
        }
        while let Ok(event) = self.sources.events.try_recv() {
            self.event(event);
        }
    }

    fn lease_news(&mut self, news: LeaseNews) {
        self.lease = match news {
            LeaseNews::Is(lease) => lease,
            LeaseNews::Gone => OwnLease::None,
        };
    }

    fn event(&mut self, event: Event) {
        let now = Tick::now();
        match event {
            Event::EffectEnded { slot, number, outcomes } => {
                if self.effects.ended(slot, number) {
                    for outcome in &outcomes {
                        self.memory.absorb(now, outcome);
                        if let Outcome::Rejoined(answer) = outcome {
                            self.operator.rejoined(&mut self.memory, answer.clone());
                        }
                    }
                    patroni::tell(self.narrator.ended(slot, &outcomes));
                    self.sinks.hurry.notify_one();
                }
            }
            Event::Server(change) => self.server_changed(now, &change),
            Event::Data(data) => self.server.data = data,
            Event::Descent(descent) => self.memory.descent = descent,
            Event::Probed(answer) => {
                let promoting = self.effects.what(Slot::Postgres) == Some(action::PROMOTE);
                self.server.probed(*answer, promoting);
                self.watch_walsenders();
            }
            Event::Peers(peers) => self.peers = peers,
            Event::GuardArmed { epoch, lease, deadline } => {
                self.guard = Guard::Armed { epoch };
                self.guard_lease = Some(lease);
                self.guard_sent = deadline;
            }
            Event::GuardIdle => self.guard = Guard::Idle,
            Event::Meanwhile(outcome) => self.memory.absorb(now, &outcome),
            Event::WatchdogArmed(answer) => self.watch.armed(now, &answer),
            Event::LeaseSpent(lease) => self.sinks.pulse.spend(lease),
            Event::Namesake(found) => self.namesake.ended(found),
            Event::GuardGone(why) => self.guard_gone(&why),
            Event::StoreSilent { asked_at, ask, reply } => {
                self.store_silent_at = Some(asked_at);
                self.vouch_for(ask, reply, Some(asked_at));
            }
            Event::GuardBack(found) => self.guard_back(*found),
            Event::Reloaded(result) => self.reloaded(*result),
            Event::Published(result) => {
                if let Err(error) = &*result {
                    debug!(%error, "the member record was not written");
                }
                self.fullness.note(now, &result);
                self.ctx.published.send_replace(result.as_ref().as_ref().ok().map(|(r, _)| r.clone()));
                self.publisher.ended(now, *result);
            }
        }
        self.sinks.probe.send_if_modified(|wanted| {
            let want = matches!(self.server.process, Process::Running | Process::Starting { .. });
            std::mem::replace(wanted, want) != want
        });
    }

    /// While commits wait for standbys, the end of one is an event.
    fn watch_walsenders(&mut self) {
        let waits = self.settings.synchronous_mode.is_on();
        match self.server.view.as_ref().filter(|view| waits && !view.in_recovery) {
            Some(view) => self.walsenders.watch(&view.replication, &self.sinks.hurry),
            None => self.walsenders.forget(),
        }
    }

    /// A decision that waits for what the server will say soon asks for it.
    fn hurry(&self, decision: &Decision, world: &World) {
        let waits = matches!(decision.reason, Reason::StandbysCatchUp(_) | Reason::NobodyConfirms(_));
        if waits && world.local.sql.as_ref().is_some_and(|sql| sync::is_old(world.now, sql)) {
            self.sinks.hurry.notify_one();
        }
    }

    fn server_changed(&mut self, now: Tick, change: &ServerEvent) {
        if let ServerEvent::Spawned { postmaster, .. } = change {
            watch_server(&self.ctx, postmaster);
        }
        if let ServerEvent::Stopping = change {
            self.told.stopping();
        }
        let ended = self.server.absorb(now, change);
        if ended && matches!(self.guard, Guard::Armed { .. }) {
            // It watched the postmaster that is gone; for the next one it is armed again.
            self.guard = Guard::Outdated;
        }
        let expected = self.effects.what(Slot::Postgres).is_some_and(|what| !SERVING.contains(&what));
        if ended && !expected {
            warn!("PostgreSQL ended unasked");
            self.memory.absorb(now, &Outcome::PostgresEnded);
        }
    }

    fn guard_event(&mut self, event: GuardEvent) {
        match event {
            GuardEvent::Acted(Report { doing, .. }) => {
                warn!(?doing, "the guard acted");
                self.guard = guard_reached(Doing::Stopping);
            }
            GuardEvent::Gone(why) => self.guard_gone(&why),
        }
    }

    /// Nothing holds the deadline now: another guard is started at once. Until it is armed, decisions see an
    /// absent guard and promote nothing.
    fn guard_gone(&mut self, why: &str) {
        if self.guard_client.take().is_none() {
            return;
        }
        error!(why, "the guard is gone; starting another");
        self.guard = Guard::Absent;
        let (options, events) = (self.guard_options.clone(), self.ctx.events.clone());
        tokio::spawn(async move {
            loop {
                match GuardClient::start(&options).await {
                    Ok(found) => {
                        let _ = events.send(Event::GuardBack(Box::new(found)));
                        return;
                    }
                    Err(error) => {
                        error!(%error, "no guard");
                        tokio::time::sleep(Duration::from_millis(200)).await;
                    }
                }
            }
        });
    }

    fn guard_back(&mut self, found: Found) {
        info!(pid = found.report.pid, "a guard answers");
        self.guard = guard_reached(found.report.doing);
        self.guard_client = Some(found.client);
        self.guard_events = found.events;
    }

    fn command(&mut self, command: Command) {
        match command {
            Command::Failsafe { ask, reply } => self.vouch_for(ask, reply, None),
            Command::Reload => self.read_settings_again(),
            Command::Wake => {}
            Command::Refresh => self.sinks.hurry.notify_one(),
            Command::Restart { ask, reply } => {
                let world = self.observe(Tick::now());
                let facts = self.facts(&world);
                self.operator.restart(&mut self.memory, &world, &facts, ask, reply);
            }
            Command::Unschedule { reply } => {
                let was = self.memory.scheduled_restart.take();
                let _ = reply.send(was.is_some());
            }
            Command::Rewind { reply } => {
                let world = self.observe(Tick::now());
                self.operator.rewind(&mut self.memory, &world, reply);
            }
            Command::Reinitialize { force, from_leader, reply } => {
                let world = self.observe(Tick::now());
                let judged = self.operator.reinitialize(&mut self.memory, &world, force, from_leader);
                let _ = reply.send(judged);
            }
        }
    }

    /// Reads the wall clock, and takes the steps of operators' wishes that are due.
    fn attend(&mut self, now: Tick) {
        self.memory.wall = Some(Wall { at: now, millis: jiff::Timestamp::now().as_millisecond() });
        let idle = self.memory.restart.is_none() && self.memory.scheduled_restart.is_none();
        if self.operator.has_adopted() && self.operator.is_idle() && idle {
            return;
        }
        let world = self.observe(now);
        self.operator.adopt(&mut self.memory, &world);
        let facts = self.facts(&world);
        let settled = self.ctx.published.borrow().as_ref().is_none_or(|r| r.state == MemberState::Running)
            || !matches!(world.dcs, Dcs::Known(_));
        self.operator.turn(&mut self.memory, &world, &facts, settled);
    }

    fn facts(&self, world: &World) -> Facts {
        let pending = self.server.pending_restart(&self.ctx.instance, &self.settings.postgresql);
        self.server.facts(&announce::role(world), pending.is_some())
    }

    /// Our member record: what decisions know, and what only the server does.
    fn record(&self, world: &World) -> MemberRecord {
        let mut record = announce::member(world, &self.identity);
        record.pending_restart_reason =
            self.server.pending_restart(&self.ctx.instance, &self.settings.postgresql);
        record.pending_restart = record.pending_restart_reason.is_some().then_some(true);
        let in_recovery = world.local.sql.as_ref().is_some_and(|sql| sql.in_recovery);
        record.replication_state = self.server.replication_state().filter(|_| in_recovery).map(str::to_owned);
        record
    }

    fn read_settings_again(&mut self) {
        self.reload.begin(&self.config, self.timing.ttl, &self.ctx.events);
    }

    /// Takes settings that were read again: all of them, or none.
    fn reloaded(&mut self, result: Result<Reloaded, String>) {
        if let Some(reloaded) = self.reload.ended(result) {
            self.take(reloaded);
        }
        if self.reload.is_wanted_again() {
            self.read_settings_again();
        }
    }

    fn take(&mut self, reloaded: Reloaded) {
        let Reloaded { config, parts } = reloaded;
        // Effects under way keep what they began with.
        self.ctx = Arc::new(reload::context(&self.ctx, &self.config, &config, &parts));
        if self.config.watchdog != config.watchdog {
            self.watch = Watch::default();
        }
        self.identity = parts.identity;
        self.tags = config.tags.clone();
        if self.overrides != config.timing {
            self.overrides = config.timing;
            match Timing::derive(self.timing.ttl, &self.overrides) {
                Ok(timing) => {
                    self.timing = timing;
                    self.sinks.timing.send_replace(timing);
                }
                // The lease time has changed since they were read.
                Err(refused) => {
                    error!(%refused, "the deadlines of the settings are refused; the last ones stay");
                }
            }
        }
        self.sinks.instance.send_replace(Arc::new(parts.instance));
        self.sinks.rest.send_replace(parts.rest);
        // PostgreSQL's files follow at the next occasion.
        self.keeper.settings_changed();
        self.config = Arc::new(config);
    }

    /// Judges whether to vouch. The promise holds from this instant; it is answered once it is durable.
    ///
    /// A leader with less patience than ours may know before us that the store is away, and one refusal ends its
    /// reign. So the store is asked before it is said to answer here, unless it was: `asked_at`.
    fn vouch_for(
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
                    Ok(()) => drop(reply.send(FailsafeAnswer::Accepted { position })),
                    Err(error) => error!(%error, "our promise could not be kept on disk; it is not given"),
                });
            }
            Err(Refusal::StoreAnswersHere) if asked_at.is_none() => self.ask_store(ask, reply),
            Err(refusal) => {
                info!(leader = %ask.name, %refusal, "we do not vouch");
                match refusal {
                    Refusal::IAmPrimary => drop(reply.send(FailsafeAnswer::RunningPrimary)),
                    Refusal::ModeIsOff => drop(reply.send(FailsafeAnswer::Disabled)),
                    // An unanswered question counts as no.
                    Refusal::IAmCampaigning
                    | Refusal::StoreAnswersHere
                    | Refusal::VouchedFor(_)
                    | Refusal::AnotherLeads(_) => drop(reply),
                }
            }
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
                // An unanswered question counts as no.
                Ok(Ok(_)) => {
                    info!(leader = %ask.name, refusal = %Refusal::StoreAnswersHere, "we do not vouch");
                }
                Ok(Err(_)) | Err(_) => ctx.report(Event::StoreSilent { asked_at, ask, reply }),
            }
        });
    }

    fn wish(&mut self, wish: Wish) {
        match wish {
            Wish::Stop => {
                info!("stopping");
                self.memory.shutdown = true;
            }
            Wish::Detach => {
                info!("leaving PostgreSQL, the guard and the lease to the next agent");
                self.detach = true;
            }
            Wish::Reload => self.read_settings_again(),
        }
    }
}

/// Labels of effects during which the server is supposed to serve: an end of it is a crash.
pub const SERVING: [&str; 3] = [action::PROMOTE, action::CHECKPOINT, action::FOLLOW];

/// Reports the end of a postmaster, with the data directory looked at first.
pub fn watch_server<S: Store>(ctx: &Arc<Context<S>>, postmaster: &crate::postgres::process::Postmaster) {
    let Ok(postmaster) = postmaster.try_clone() else { return };
    let ctx = Arc::clone(ctx);
    tokio::spawn(async move {
        if let Err(error) = postmaster.ended().await {
            error!(%error, "the postmaster cannot be watched");
            return;
        }
        // Orphans of a killed postmaster may still confirm commits: the server is gone when they are.
        let dir = ctx.instance.data_dir.clone();
        while let Err(error) = crate::postgres::process::sweep(dir.clone(), Duration::from_secs(5)).await {
            error!(%error, "the server's processes do not end");
        }
        ctx.report(Event::Data(enact::server::look(&ctx.instance).await));
        ctx.report(Event::Server(ServerEvent::Gone { pid: postmaster.pid() }));
    });
}

/// What a guard that was reached anew, or that acted, is to us. One that stops PostgreSQL raises a fence next and
/// kills whatever starts in the data directory, until it is disarmed or armed again.
pub fn guard_reached(doing: Doing) -> Guard {
    match doing {
        // Reaching a fenced guard takes its fence down.
        Doing::Idle | Doing::Fenced => Guard::Idle,
        Doing::Armed | Doing::Stopping => Guard::Outdated,
    }
}

/// Whether the guard's deadline under `guarded` bounds this node's reign: `own` is the lease it renews, `key` the
/// one its leader key is under.
pub fn deadline_is_in_force(guarded: Option<LeaseId>, own: OwnLease, key: Option<LeaseId>) -> bool {
    match own {
        OwnLease::Held { id, .. } => guarded == Some(id) || (guarded.is_some() && guarded == key),
        OwnLease::None => true,
    }
}

fn wall_seconds() -> i64 {
    jiff::Timestamp::now().as_second()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_new_lease_does_not_unguard_a_key_that_is_still_under_the_old_one() {
        let (old, new) = (Some(LeaseId(1)), Some(LeaseId(2)));
        let own = OwnLease::Held { id: LeaseId(2), sent_at: Tick::ZERO, ttl: Duration::from_secs(10) };
        assert!(deadline_is_in_force(new, own, new));
        assert!(deadline_is_in_force(old, own, old), "the ttl changed and the key has not moved yet");
        assert!(!deadline_is_in_force(old, own, new), "the key has moved");
        assert!(!deadline_is_in_force(old, own, None), "nobody leads, or somebody else does");
        assert!(!deadline_is_in_force(None, own, None));
        assert!(deadline_is_in_force(old, OwnLease::None, None));
    }
}
