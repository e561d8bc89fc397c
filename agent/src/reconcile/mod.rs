//! The loop: await a cause, observe, decide, enact. It owns all state; everything else is a task that reports.
//!
//! Nothing in a turn waits for a disk, a socket or PostgreSQL: the pulse that the lease renewal depends on
//! would stop with it.

mod consent;
mod guarding;
mod news;
mod settings;
mod shown;

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use pgvane_cluster::changes::Farewell;
use pgvane_cluster::clock::Tick;
use pgvane_cluster::follow::{Contact, Observation};
use pgvane_cluster::ids::NodeName;
use pgvane_cluster::records::{MemberState, NativeMember, Tags};
use pgvane_cluster::reigns::Descent;
use pgvane_cluster::settings::ClusterSettings;
use pgvane_cluster::store::Store;
use tokio::sync::{Notify, mpsc, watch};
use tracing::info;

use self::guarding::Guarding;
pub use self::guarding::{deadline_is_in_force, guard_reached};
use crate::api::{self, ApiSnapshot, Command};
use crate::callbacks::{self, Told};
use crate::config::{Config, LogFormat};
use crate::decide::announce::Identity;
use crate::decide::memory::{Memory, Vouch};
use crate::decide::schedule::Wall;
use crate::decide::sync;
use crate::decide::vacancy;
use crate::decide::world::{Abilities, Dcs, OwnLease, Peers, World};
use crate::decide::{Action, Decision, Reason, StopMode, decide};
use crate::effects::Effects;
use crate::enact::{Context, Order, Right};
use crate::event::Event;
use crate::guard::client::{Found, GuardOptions};
use crate::keepalive::{LeaseNews, Pulse};
use crate::keeper::Keeper;
use crate::namesake::Namesake;
use crate::operator::Operator;
use crate::postgres::Instance;
use crate::publish::{Fullness, Publisher};
use crate::reload::{Reloader, Reloading};
use crate::server::ServerState;
use crate::telemetry;
use crate::telemetry::patroni::{self, Narrator, Scene};
use crate::timing::{Timing, TimingOverrides};
use crate::walsenders::Walsenders;
use crate::watchdog::{self, Step, Watch};

/// The least time between two turns, so that a decision that wants to be taken again at once cannot spin.
const SHORTEST_TURN: Duration = Duration::from_millis(1);

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
    guarding: Guarding,
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
            guarding: Guarding::new(start.guard, start.guard_options),
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
            if let Some(authority) = self.observe(now).authority() {
                self.guarding.extend(&authority, &self.ctx.events);
            }
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
        let guard = self.guarding.state(&self.ctx.me, self.lease, dcs.last_view());
        let local = self.server.local(guard, self.effects.ongoing());
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
            Action::ArmGuard { epoch } => world.authority().and_then(|authority| {
                let deadline = (authority.guard_deadline, &world.timing);
                self.guarding.arming(&self.ctx, self.lease, epoch, deadline)
            }),
            Action::TakeOverKey => self.guarding.arming_to_move(&self.ctx, self.lease, &world.timing),
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
            guard: self.guarding.client(),
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

    /// Waits until something happened, then takes in everything that did.
    async fn await_cause(&mut self, limit: Duration) {
        tokio::select! {
            () = tokio::time::sleep(limit) => {}
            // The follower lives as long as the agent.
            _ = self.sources.observation.changed() => {}
            Some(news) = self.sources.lease.recv() => self.lease_news(news),
            Some(event) = self.sources.events.recv() => self.event(event),
            Some(event) = self.guarding.event() => self.guarding.told(event, &self.ctx.events),
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

    /// A decision that waits for what the server will say soon asks for it.
    fn hurry(&self, decision: &Decision, world: &World) {
        let waits = matches!(decision.reason, Reason::StandbysCatchUp(_) | Reason::NobodyConfirms(_));
        if waits && world.local.sql.as_ref().is_some_and(|sql| sync::is_old(world.now, sql)) {
            self.sinks.hurry.notify_one();
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
}

fn wall_seconds() -> i64 {
    jiff::Timestamp::now().as_second()
}
