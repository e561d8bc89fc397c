//! Finding a server: choosing, trying the next one, holding the client while there is none, queueing it while all are
//! full.

use std::future::pending;
use std::sync::Arc;
use std::time::{Duration, Instant};

use futures_util::future::select_all;
use pgvane_cluster::clock::Tick;
use pgvane_cluster::units::show_duration;
use tokio::time::{sleep, sleep_until};

use super::reach::reach;
use super::{Opening, Server};
use crate::close::CloseReason;
use crate::metrics::{ConnectFailure, HoldGuard};
use crate::pgwire;
use crate::refusal::Refusal;
use crate::roster::Stage;
use crate::route::{self, Choice, Nobody, Role};
use crate::seats::Seat;
use crate::topology::origin::Origin;
use crate::topology::{NoPrimary, OnNode, Queueing, Target, Topology};

/// First pause before a server that refused is asked again; grows by half up to [`PAUSE_MAX`]. A new picture
/// of the cluster ends every pause, so this only covers what the store has not told yet.
pub(super) const PAUSE_FIRST: Duration = Duration::from_millis(10);
const PAUSE_MAX: Duration = Duration::from_millis(250);

/// A wait for somebody to serve.
pub(super) struct Hold {
    _seat: Seat,
    _guard: HoldGuard,
}

/// A wait for a server to have room.
pub(super) struct Queue {
    _place: Queueing,
    since: Instant,
}

impl Opening<'_> {
    /// Connects to the target of the moment; waits while there is none.
    pub(super) async fn connect(&mut self) -> Result<Server, Refusal> {
        let rules = self.port.settings.rules;
        loop {
            let topology = self.topology.see();
            let is_waiting = self.queue.is_some();
            let now = Tick::now();
            let target = match route::choose(rules, &topology, self.cursor, &self.tried, is_waiting, now) {
                Choice::Target(target) => target,
                Choice::Full(targets) => {
                    self.queue(&topology, &targets).await?;
                    continue;
                }
                Choice::Nobody => {
                    self.queue = None;
                    self.wait(&topology).await?;
                    continue;
                }
            };
            let failed_before = self.failures.iter().any(|(name, _)| *name == target.name);
            if failed_before && !target.node.may_probe(Tick::now()) {
                self.tried.push(target.name.clone());
                continue;
            }
            // Before it is dialled, so that many who come at once do not exceed the limit together.
            let Some(on_node) = OnNode::claim(&target, rules.max_sessions_per_target) else { continue };
            self.queue = None;
            let began = Instant::now();
            let reaching = reach(self.ticket, self.client, &target);
            match self.unless_over(Some(&target), reaching).await? {
                None => {}
                Some(Ok(conn)) => {
                    self.port.metrics.connected(began.elapsed());
                    // S5: the picture may have changed while we connected.
                    if route::still_takes(&self.topology.current(), &target) {
                        return Ok(Server { conn, target, on_node });
                    }
                    conn.reset_on_close();
                }
                Some(Err(error)) => self.failed(&target, error.cause(), error.to_string()),
            }
        }
    }

    /// Notes a failure: this target is not tried again before the next pause, and others avoid it a while.
    pub(super) fn failed(&mut self, target: &Target, cause: ConnectFailure, why: String) {
        self.port.metrics.connect_failed(cause);
        tracing::debug!(listener = self.port.settings.name, target = %target.name, %why, "server not opened");
        target.node.shun(Tick::now());
        self.failures.retain(|(name, _)| *name != target.name);
        self.failures.push((target.name.clone(), why));
        self.tried.push(target.name.clone());
    }

    /// Holds the client until the picture changes, or until it is time to ask those that failed again.
    async fn wait(&mut self, topology: &Topology) -> Result<(), Refusal> {
        self.be_held(|opening| opening.why(topology))?;
        let mut news = self.topology.clone();
        let work = async {
            if self.tried.is_empty() {
                news.changed().await;
                return true;
            }
            tokio::select! {
                () = news.changed() => true,
                () = self.recovery(topology) => true,
                () = sleep(self.pause) => false,
            }
        };
        let changed = self.unless_over(None, work).await? == Some(true);
        self.pause = if changed { PAUSE_FIRST } else { (self.pause * 3 / 2).min(PAUSE_MAX) };
        self.tried.clear();
        Ok(())
    }

    /// Queues the client until one of `full` has room or the picture changes.
    async fn queue(&mut self, topology: &Topology, full: &[Arc<Target>]) -> Result<(), Refusal> {
        let limit = self.port.settings.rules.max_sessions_per_target.unwrap_or_default();
        let why = || {
            format!(
                "cluster {}: every server for this session has its limit of {limit} sessions \
                 (max_sessions_per_target)",
                topology.cluster
            )
        };
        let was_queued = self.queue.is_some();
        self.be_held(|_| why())?;
        let since = self.queue.take().map_or_else(Instant::now, |queue| queue.since);
        self.queue = Some(Queue { _place: Queueing::at(full), since });
        if !was_queued {
            // Somebody may have left before we were in the queue.
            return Ok(());
        }
        let patience = self.port.settings.queue_timeout;
        let mut news = self.topology.clone();
        let freed = select_all(full.iter().map(|target| Box::pin(target.node.freed())));
        let work = async {
            tokio::select! {
                _ = freed => true,
                () = news.changed() => true,
                () = sleep_until((since + patience).into()) => false,
            }
        };
        if self.unless_over(None, work).await? == Some(false) {
            let text = format!("{}; gave up after {}", why(), show_duration(patience));
            return Err(Refusal::with(CloseReason::QueueTimeout, pgwire::TOO_MANY_CONNECTIONS, text));
        }
        self.tried.clear();
        Ok(())
    }

    /// Counts the client among those that wait, or turns it away.
    fn be_held(&mut self, why: impl FnOnce(&Self) -> String) -> Result<(), Refusal> {
        if self.hold.is_some() {
            return Ok(());
        }
        let limit = self.port.settings.hold_limit;
        let Some(seat) = self.port.counts.held.take(limit) else {
            let text = format!("{}; {limit} connections are waiting already", why(self));
            return Err(Refusal::with(CloseReason::HoldLimit, pgwire::CANNOT_CONNECT_NOW, text));
        };
        self.hold = Some(Hold { _seat: seat, _guard: self.port.metrics.hold() });
        self.ticket.enter(Stage::Held);
        Ok(())
    }

    /// Waits until one of the targets that failed answers somebody else.
    async fn recovery(&self, topology: &Topology) {
        let targets = topology.replicas.iter().chain(&topology.primary);
        let failed = targets.filter(|t| self.tried.contains(&t.name));
        let recoveries: Vec<_> = failed.map(|t| Box::pin(t.node.recovered())).collect();
        if recoveries.is_empty() {
            pending::<()>().await;
        }
        select_all(recoveries).await;
    }

    pub(super) fn timed_out(&self) -> Refusal {
        let topology = self.topology.current();
        let waited = show_duration(self.port.settings.hold_timeout);
        let text = format!("{}; gave up after {waited}", self.why(&topology));
        Refusal::with(CloseReason::HoldTimeout, pgwire::CANNOT_CONNECT_NOW, text)
    }

    /// Which cluster, why nobody takes this client, since when.
    fn why(&self, topology: &Topology) -> String {
        let (rules, now) = (self.port.settings.rules, Tick::now());
        let choice = route::choose(rules, topology, self.cursor, &[], true, now);
        let nobody = match choice {
            Choice::Target(_) | Choice::Full(_) => Nobody::Unreachable(self.failures.clone()),
            Choice::Nobody => route::why_nobody(rules, topology),
        };
        let since = match (rules.role, topology.missing_since) {
            (Role::Primary, Some(since)) => format!(" (for {:.1} s)", now.since(since).as_secs_f64()),
            _ => String::new(),
        };
        // The lease may run out before a question to etcd has timed out; a polled source is many, of whom some answer.
        let is_silent = topology.origin == Origin::Etcd || topology.store_down.is_some();
        let silent = match &topology.primary {
            Err(NoPrimary::StoreLost(_)) if is_silent => {
                format!("; {} does not answer", topology.origin.who())
            }
            _ => String::new(),
        };
        format!("cluster {}: {nobody}{silent}{since}", topology.cluster)
    }
}
