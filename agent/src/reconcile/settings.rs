//! Settings that change while the agent runs: the cluster's dynamic configuration, and its own that are read again.

use std::sync::Arc;
use std::time::Duration;

use pgvane_cluster::settings::{ClusterSettings, PATRONI_MIN_TTL};
use pgvane_cluster::store::Store;
use tracing::{error, info};

use super::Reconciler;
use crate::decide::world::OwnLease;
use crate::reload::{self, Reloaded};
use crate::timing::Timing;
use crate::watchdog::Watch;

impl<S: Store> Reconciler<S> {
    /// The deadlines of the lease we hold.
    pub(super) fn timing_in_force(&self) -> Timing {
        match self.lease {
            OwnLease::Held { ttl, .. } => self.timing.of_lease(ttl, &self.overrides),
            OwnLease::None => self.timing,
        }
    }

    /// Takes the dynamic configuration and derives the deadlines. A lease time that leaves no room for them is
    /// refused and the last one stays.
    pub(super) fn take_settings(&mut self) {
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

    pub(super) fn read_settings_again(&mut self) {
        self.reload.begin(&self.config, self.timing.ttl, &self.ctx.events);
    }

    /// Takes settings that were read again: all of them, or none.
    pub(super) fn reloaded(&mut self, result: Result<Reloaded, String>) {
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
}
