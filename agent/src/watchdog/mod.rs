//! The kernel's watchdog (contract 8.11): a last line of defence that resets the machine when neither the agent nor
//! its guard could end a primary in time.
//!
//! It is armed before the server may become a primary. It is told that all is well only with a right to lead that
//! outlasts the time it then has, looked at in the instant before it is told. It is disarmed once no process of the
//! server is left, or the server has said that it is in recovery (trap 9). An agent that is killed leaves it armed:
//! the next one has its time to take over.

mod device;
mod plan;
mod worker;

use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, mpsc};
use std::time::Duration;

use pgvane_cluster::clock::Tick;
use tokio::sync::oneshot;
use tracing::error;

pub use self::plan::{Plan, Wanted, plan, wanted};
use self::worker::Order;
use crate::config::{Watchdog as Settings, WatchdogMode};

/// How long a refusal keeps the node from leading before the device is tried again.
const REFUSAL_HOLDS: Duration = Duration::from_secs(10);

/// How long the thread may take to answer when the agent ends.
const FINISH_WITHIN: Duration = Duration::from_secs(1);

/// The watchdog of this node, and its thread.
#[derive(Debug)]
pub struct Watchdog {
    settings: Settings,
    orders: Option<mpsc::Sender<Order>>,
    usable: Arc<AtomicBool>,
}

/// What the loop remembers of the watchdog.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct Watch {
    /// How it was armed.
    armed: Option<Plan>,
    /// Whether it is being armed.
    arming: bool,
    /// The end of the right to lead that it was last told of.
    told: Tick,
    /// When it last could not be armed.
    refused_at: Option<Tick>,
}

/// What the loop has to do.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Step {
    /// Nothing.
    Nothing,
    /// Arm it, or arm it anew.
    Arm(Plan),
    /// Tell it that all is well, for as long as this right lasts.
    Ping(Tick),
    /// Disarm it.
    Disarm,
}

impl Watch {
    /// What to do now that `wanted` is so. `plan`: how it is to be armed from here; `None`: not from here.
    pub fn step(&mut self, now: Tick, wanted: Wanted, plan: Option<Plan>) -> Step {
        let until = match wanted {
            Wanted::Off if self.armed.take().is_some() => return Step::Disarm,
            Wanted::Off | Wanted::AsItIs => return Step::Nothing,
            Wanted::Armed { until } => until,
        };
        if let Some(plan) = plan
            && self.armed != Some(plan)
            && !self.arming
            && !self.is_refused(now)
        {
            self.arming = true;
            return Step::Arm(plan);
        }
        if self.armed.is_some() && until > self.told {
            self.told = until;
            return Step::Ping(until);
        }
        Step::Nothing
    }

    /// Notes that it was armed, or why not.
    pub fn armed(&mut self, now: Tick, answer: &Result<Plan, String>) {
        self.arming = false;
        match answer {
            Ok(plan) => (self.armed, self.refused_at) = (Some(*plan), None),
            Err(_) => self.refused_at = Some(now),
        }
    }

    /// Whether it could not be armed a moment ago.
    pub fn is_refused(&self, now: Tick) -> bool {
        self.refused_at.is_some_and(|at| now.since(at) < REFUSAL_HOLDS)
    }
}

impl Watchdog {
    /// The watchdog of these settings; nothing is touched before it is armed.
    pub fn new(settings: Settings) -> Watchdog {
        Watchdog::after(settings, None)
    }

    /// The same in place of `before`, which is disarmed first: both may be of one device.
    pub fn replacing(settings: Settings, before: Arc<Watchdog>) -> Watchdog {
        Watchdog::after(settings, Some(before))
    }

    fn after(settings: Settings, before: Option<Arc<Watchdog>>) -> Watchdog {
        let usable = Arc::new(AtomicBool::new(true));
        if let Some(before) = &before {
            before.disarm();
        }
        let orders = match settings.mode {
            WatchdogMode::Off => None,
            WatchdogMode::Automatic | WatchdogMode::Required => {
                let started = worker::start(settings.clone(), Arc::clone(&usable), before);
                started.map_err(|error| error!(%error, "no thread for the watchdog")).ok()
            }
        };
        if orders.is_none() {
            usable.store(settings.mode == WatchdogMode::Off, Ordering::Release);
        }
        Watchdog { settings, orders, usable }
    }

    /// Its settings.
    pub fn settings(&self) -> &Settings {
        &self.settings
    }

    /// Whether a node without a usable one may not lead.
    pub fn is_required(&self) -> bool {
        self.settings.mode == WatchdogMode::Required
    }

    /// Whether the device looked usable a moment ago.
    pub fn is_usable(&self) -> bool {
        self.usable.load(Ordering::Acquire)
    }

    /// Arms it. `Ok`: it runs from now on. Where none is used that is at once.
    pub async fn arm(&self, plan: Plan) -> Result<Plan, String> {
        let Some(orders) = &self.orders else {
            return if self.is_required() { Err("it has no thread".to_owned()) } else { Ok(plan) };
        };
        let (reply, answer) = oneshot::channel();
        let gone = || "its thread is gone".to_owned();
        orders.send(Order::Arm { plan, reply }).map_err(|_| gone())?;
        answer.await.map_err(|_| gone())?.map(|()| plan)
    }

    /// Tells it that all is well, unless the right that lasts until `until` ends before the watchdog's time would.
    pub fn ping(&self, until: Tick) {
        self.order(Order::Ping { until });
    }

    /// Disarms it.
    pub fn disarm(&self) {
        self.order(Order::Disarm);
    }

    /// Waits until what was ordered is done.
    pub async fn finish(&self) {
        let (reply, done) = oneshot::channel();
        self.order(Order::Answer { reply });
        // It takes no time; where the thread is gone there is nothing to wait for.
        let _ = tokio::time::timeout(FINISH_WITHIN, done).await;
    }

    /// Waits for the same on a thread of its own.
    fn wait_until_done(&self) {
        let (reply, done) = oneshot::channel();
        self.order(Order::Answer { reply });
        // A thread that is gone has let go of the device.
        let _ = done.blocking_recv();
    }

    fn order(&self, order: Order) {
        if let Some(orders) = &self.orders {
            // A thread that is gone was told of when it ended; the device fires.
            let _ = orders.send(order);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const PLAN: Plan = Plan { timeout: Duration::from_secs(25) };
    const T: Tick = Tick::from_millis(100_000);

    fn armed_until(seconds: u64) -> Wanted {
        Wanted::Armed { until: T + Duration::from_secs(seconds) }
    }

    #[test]
    fn it_is_armed_once_pinged_with_every_new_right_and_disarmed_once() {
        let mut watch = Watch::default();
        assert_eq!(watch.step(T, Wanted::Off, Some(PLAN)), Step::Nothing);
        assert_eq!(watch.step(T, armed_until(29), Some(PLAN)), Step::Arm(PLAN));
        assert_eq!(watch.step(T, armed_until(29), Some(PLAN)), Step::Nothing, "it is being armed");
        watch.armed(T, &Ok(PLAN));
        assert_eq!(watch.step(T, armed_until(29), Some(PLAN)), Step::Ping(T + Duration::from_secs(29)));
        assert_eq!(watch.step(T, armed_until(29), Some(PLAN)), Step::Nothing, "no new proof");
        assert_eq!(watch.step(T, Wanted::AsItIs, Some(PLAN)), Step::Nothing);
        assert_eq!(watch.step(T, armed_until(31), None), Step::Ping(T + Duration::from_secs(31)));
        let longer = Plan { timeout: Duration::from_secs(55) };
        assert_eq!(watch.step(T, armed_until(61), Some(longer)), Step::Arm(longer), "the lease time changed");
        watch.armed(T, &Ok(longer));
        assert_eq!(watch.step(T, Wanted::Off, Some(longer)), Step::Disarm);
        assert_eq!(watch.step(T, Wanted::Off, Some(longer)), Step::Nothing);
    }

    #[test]
    fn a_refusal_is_not_tried_again_at_once() {
        let mut watch = Watch::default();
        assert_eq!(watch.step(T, armed_until(29), Some(PLAN)), Step::Arm(PLAN));
        watch.armed(T, &Err("no device".to_owned()));
        assert!(watch.is_refused(T + Duration::from_secs(9)));
        assert_eq!(watch.step(T + Duration::from_secs(9), armed_until(29), Some(PLAN)), Step::Nothing);
        let later = T + REFUSAL_HOLDS;
        assert!(!watch.is_refused(later));
        assert_eq!(watch.step(later, armed_until(39), Some(PLAN)), Step::Arm(PLAN));
        assert_eq!(watch.step(later, armed_until(39), None), Step::Nothing, "no time that fits");
    }
}
