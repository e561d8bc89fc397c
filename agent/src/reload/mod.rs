//! Settings read again (SIGHUP, POST `/reload`): wholly or not at all. A file that is wrong leaves everything as it is
//! and is counted; what a running agent cannot change keeps its old value and is named.

mod change;

use std::sync::Arc;
use std::time::Duration;

use pgvane_cluster::store::Store;
use sd_notify::NotifyState;
use tokio::sync::mpsc;
use tracing::{error, info, warn};

pub use self::change::{Change, differences};
use crate::config::{self, Config, Environment, Origin};
use crate::enact::Context;
use crate::event::Event;
use crate::parts::Parts;
use crate::telemetry::Telemetry;
use crate::timing::Timing;
use crate::watchdog::Watchdog;

/// Where the settings come from, and the log, which is told of them first.
#[derive(Debug)]
pub struct Reloader {
    origin: Origin,
    environment: Environment,
    telemetry: Telemetry,
}

/// Settings that can come into force.
#[derive(Debug)]
pub struct Reloaded {
    /// All of them.
    pub config: Config,
    /// What is made from them.
    pub parts: Parts,
}

/// How often settings were read again.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct Counts {
    /// How often they were taken.
    pub taken: u64,
    /// How often something in them was wrong.
    pub failed: u64,
}

impl Reloader {
    /// `environment`: as it was when the program started; nobody can change it from outside.
    pub fn new(origin: Origin, environment: Environment, telemetry: Telemetry) -> Reloader {
        Reloader { origin, environment, telemetry }
    }

    /// Reads the settings and makes what is made from them; the log already follows them then. Blocking.
    fn read(&self, old: &Config, ttl: Duration) -> Result<Reloaded, String> {
        let loaded = config::read(&self.origin, &self.environment).map_err(|e| brief(&e.to_string()))?;
        let Change { config, changed, kept } = Change::between(old, loaded.config);
        Timing::derive(ttl, &config.timing).map_err(|e| format!("timing: {e}"))?;
        let parts = Parts::of(&config)?;
        self.telemetry.apply(&config.log)?;
        for warning in loaded.warnings {
            warn!("{warning}");
        }
        if !kept.is_empty() {
            let settings = self.named(&kept);
            warn!(
                settings,
                "changed, but taken only when the agent is restarted; the old values stay in force"
            );
        }
        if changed.is_empty() {
            info!("No local configuration items changed.");
        } else {
            info!(changed = self.named(&changed), "the settings were read again");
        }
        Ok(Reloaded { config, parts })
    }

    /// Names as they stand in the file.
    fn named(&self, native: &[String]) -> String {
        native.iter().map(|name| self.origin.key(name)).collect::<Vec<_>>().join(", ")
    }
}

/// An error on one line, without the picture of the place.
fn brief(error: &str) -> String {
    error.lines().next().unwrap_or_default().to_owned()
}

/// The loop's side of it: one reading at a time.
#[derive(Debug)]
pub struct Reloading {
    reloader: Arc<Reloader>,
    under_way: bool,
    again: bool,
    /// How it went so far.
    pub counts: Counts,
}

impl Reloading {
    /// None yet.
    pub fn new(reloader: Arc<Reloader>) -> Reloading {
        Reloading { reloader, under_way: false, again: false, counts: Counts::default() }
    }

    /// Has the settings read, off the runtime's threads; the end comes as an event. While one reading goes on, the
    /// next waits for its end: the file may have changed meanwhile.
    pub fn begin(&mut self, old: &Arc<Config>, ttl: Duration, events: &mpsc::UnboundedSender<Event>) {
        if self.under_way {
            self.again = true;
            return;
        }
        (self.under_way, self.again) = (true, false);
        info!("reading the settings again");
        // systemd (Type=notify-reload) counts from this instant.
        let clock = NotifyState::monotonic_usec_now().ok();
        let _ = sd_notify::notify(&[NotifyState::Reloading].into_iter().chain(clock).collect::<Vec<_>>());
        let (reloader, old, events) = (Arc::clone(&self.reloader), Arc::clone(old), events.clone());
        tokio::task::spawn_blocking(move || {
            let result = reloader.read(&old, ttl);
            // The loop is gone only when the agent ends.
            let _ = events.send(Event::Reloaded(Box::new(result)));
        });
    }

    /// Notes the end of a reading; what is to come into force.
    pub fn ended(&mut self, result: Result<Reloaded, String>) -> Option<Reloaded> {
        self.under_way = false;
        let taken = match result {
            Ok(reloaded) => {
                self.counts.taken += 1;
                Some(reloaded)
            }
            Err(why) => {
                self.counts.failed += 1;
                error!("the settings are wrong, and the last good ones stay in force: {why}");
                None
            }
        };
        let _ = sd_notify::notify(&[NotifyState::Ready]);
        taken
    }

    /// Whether another reading was asked for meanwhile.
    pub fn is_wanted_again(&self) -> bool {
        self.again && !self.under_way
    }
}

/// What effects use from now on. Callbacks and the watchdog go on: the former with other commands, the latter anew
/// where its settings are others.
pub fn context<S: Store>(ctx: &Context<S>, old: &Config, new: &Config, parts: &Parts) -> Context<S> {
    ctx.callbacks.replace(new.postgresql.callbacks.clone());
    let watchdog = if old.watchdog == new.watchdog {
        Arc::clone(&ctx.watchdog)
    } else {
        Arc::new(Watchdog::replacing(new.watchdog.clone(), Arc::clone(&ctx.watchdog)))
    };
    Context {
        me: ctx.me.clone(),
        space: ctx.space.clone(),
        store: Arc::clone(&ctx.store),
        instance: parts.instance.clone(),
        first_config: new.bootstrap.dcs.clone(),
        known_config: Arc::clone(&ctx.known_config),
        observation: ctx.observation.clone(),
        events: ctx.events.clone(),
        caller: Arc::clone(&parts.caller),
        store_access: ctx.store_access.clone(),
        published: ctx.published.clone(),
        right: ctx.right.clone(),
        callbacks: Arc::clone(&ctx.callbacks),
        watchdog,
    }
}
