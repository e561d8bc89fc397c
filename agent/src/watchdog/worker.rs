//! The thread that holds the device: nothing else waits for it, and it waits for nothing else.

use std::io;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, mpsc};
use std::time::Duration;

use pgvane_cluster::clock::Tick;
use rustix::fs::{Access, access};
use tokio::sync::oneshot;
use tracing::{error, info, warn};

use super::device::Device;
use super::{Plan, Watchdog};
use crate::config::{Watchdog as Settings, WatchdogMode};

/// Time between two looks at a device that is not in use.
const LOOK_EVERY: Duration = Duration::from_secs(1);

/// What the thread is told.
#[derive(Debug)]
pub(super) enum Order {
    Arm { plan: Plan, reply: oneshot::Sender<Result<(), String>> },
    Ping { until: Tick },
    Disarm,
    Answer { reply: oneshot::Sender<()> },
}

/// Starts the thread. It begins once `before` has done what it was told, and ends, and leaves the device as it is,
/// when nobody can give it orders any more.
pub(super) fn start(
    settings: Settings,
    usable: Arc<AtomicBool>,
    before: Option<Arc<Watchdog>>,
) -> io::Result<mpsc::Sender<Order>> {
    let (orders, incoming) = mpsc::channel();
    let worker = Worker { settings, usable, armed: None, refused: None };
    std::thread::Builder::new().name("watchdog".to_owned()).spawn(move || {
        if let Some(before) = before {
            before.wait_until_done();
        }
        worker.work(&incoming);
    })?;
    Ok(orders)
}

struct Worker {
    settings: Settings,
    usable: Arc<AtomicBool>,
    armed: Option<(Device, Plan)>,
    /// Why it could not be armed last.
    refused: Option<String>,
}

impl Worker {
    fn work(mut self, orders: &mpsc::Receiver<Order>) {
        self.look();
        loop {
            match orders.recv_timeout(LOOK_EVERY) {
                Ok(Order::Arm { plan, reply }) => {
                    let done = self.arm(plan);
                    self.tell(&done);
                    // Who does not wait any more sees it in the next turn.
                    let _ = reply.send(done);
                }
                Ok(Order::Ping { until }) => self.ping(until),
                Ok(Order::Disarm) => self.disarm(),
                Ok(Order::Answer { reply }) => drop(reply.send(())),
                Err(mpsc::RecvTimeoutError::Timeout) => self.look(),
                Err(mpsc::RecvTimeoutError::Disconnected) => return,
            }
        }
    }

    /// A refusal is told once for as long as it is the same.
    fn tell(&mut self, done: &Result<(), String>) {
        let why = done.as_ref().err();
        if let Some(why) = why.filter(|why| self.refused.as_ref() != Some(why)) {
            let required = self.settings.mode == WatchdogMode::Required;
            warn!(device = %self.settings.device.display(), why, required, "the watchdog cannot be used");
        }
        self.refused = why.cloned();
    }

    /// Whether the device could be opened: opening it would arm it.
    fn look(&self) {
        let usable = self.armed.is_some() || access(&self.settings.device, Access::WRITE_OK).is_ok();
        if self.usable.swap(usable, Ordering::AcqRel) && !usable {
            warn!(device = %self.settings.device.display(), "the watchdog's device cannot be written to");
        }
    }

    fn arm(&mut self, plan: Plan) -> Result<(), String> {
        let mut device = match self.armed.take() {
            Some((device, _)) => device,
            None => Device::open(&self.settings.device, self.settings.testing).map_err(|e| e.to_string())?,
        };
        let taken = match device.set_timeout(plan.timeout) {
            Ok(taken) => taken,
            Err(e) => {
                let why = format!("its time cannot be set: {e}");
                return Err(Worker::give_up(device, why));
            }
        };
        if taken != plan.timeout {
            let why = format!("it takes {taken:?} instead of {:?}", plan.timeout);
            return Err(Worker::give_up(device, why));
        }
        if let Err(e) = device.ping() {
            let why = format!("it cannot be written to: {e}");
            return Err(Worker::give_up(device, why));
        }
        info!(device = %self.settings.device.display(), timeout = ?plan.timeout, "the watchdog is armed");
        self.armed = Some((device, plan));
        Ok(())
    }

    fn give_up(device: Device, why: String) -> String {
        match device.close() {
            Ok(()) => why,
            Err(e) => format!("{why}; and it cannot be disarmed: {e}"),
        }
    }

    fn ping(&mut self, until: Tick) {
        let Some((device, plan)) = &mut self.armed else { return };
        // Looked at here and now: an order may have waited while the machine slept.
        if Tick::now() + plan.timeout > until {
            warn!("the right to lead ends before the watchdog's time would; it is not told that all is well");
            return;
        }
        if let Err(error) = device.ping() {
            error!(%error, "the watchdog cannot be told that all is well");
        }
    }

    fn disarm(&mut self) {
        let Some((device, _)) = self.armed.take() else { return };
        match device.close() {
            Ok(()) => info!(device = %self.settings.device.display(), "the watchdog is disarmed"),
            Err(error) => error!(%error, "the watchdog cannot be disarmed"),
        }
    }
}

#[cfg(test)]
mod tests {
    use std::io::Read;
    use std::path::PathBuf;

    use super::*;
    use crate::watchdog::Watchdog;

    const PLAN: Plan = Plan { timeout: Duration::from_secs(25) };

    fn settings(device: PathBuf) -> Settings {
        Settings { mode: WatchdogMode::Required, device, testing: true, ..Settings::default() }
    }

    fn pipe(dir: &std::path::Path) -> PathBuf {
        use rustix::fs::{CWD, FileType, Mode, mknodat};
        let path = dir.join("watchdog");
        mknodat(CWD, &path, FileType::Fifo, Mode::RUSR | Mode::WUSR, 0).expect("a pipe");
        path
    }

    /// Reads the pipe to its end, from when it is opened.
    fn read(path: PathBuf) -> std::thread::JoinHandle<String> {
        std::thread::spawn(move || {
            let mut text = String::new();
            std::fs::File::open(path).expect("opens").read_to_string(&mut text).expect("reads");
            text
        })
    }

    async fn armed(dog: &Watchdog) {
        // The reader may not have opened it yet.
        while let Err(why) = dog.arm(PLAN).await {
            assert!(why.contains("No such device"), "{why}");
            tokio::time::sleep(Duration::from_millis(2)).await;
        }
    }

    #[tokio::test]
    async fn a_pipe_sees_what_a_watchdog_would_be_told() {
        let dir = tempfile::tempdir().expect("a directory");
        let path = pipe(dir.path());
        let dog = Watchdog::new(settings(path.clone()));
        let error = dog.arm(PLAN).await.expect_err("nobody reads");
        assert!(error.contains("No such device"), "{error}");
        let reader = read(path);
        armed(&dog).await;
        let long = Tick::now() + Duration::from_mins(1);
        dog.ping(long);
        dog.ping(Tick::now() + PLAN.timeout - Duration::from_millis(1));
        dog.ping(long);
        dog.disarm();
        dog.disarm();
        dog.ping(long);
        let told = tokio::task::spawn_blocking(|| reader.join()).await.expect("no panic").expect("reads");
        assert_eq!(told, "Ctimeout=25\n111V", "a right that ends too early is no proof");
    }

    #[tokio::test]
    async fn an_agent_that_ends_leaves_it_armed() {
        let dir = tempfile::tempdir().expect("a directory");
        let path = pipe(dir.path());
        let reader = read(path.clone());
        let dog = Watchdog::new(settings(path));
        armed(&dog).await;
        drop(dog);
        let told = tokio::task::spawn_blocking(|| reader.join()).await.expect("no panic").expect("reads");
        assert_eq!(told, "Ctimeout=25\n1");
    }

    #[tokio::test]
    async fn a_device_that_is_missing_is_seen_and_one_that_is_none_is_refused() {
        let missing = Watchdog::new(settings("/nowhere/watchdog".into()));
        assert!(missing.arm(PLAN).await.expect_err("there is none").contains("No such file"));
        let started = std::time::Instant::now();
        while missing.is_usable() {
            assert!(started.elapsed() < Duration::from_secs(20), "it is not noticed");
            tokio::time::sleep(Duration::from_millis(2)).await;
        }
        let null = Settings { testing: false, ..settings("/dev/null".into()) };
        let error = Watchdog::new(null).arm(PLAN).await.expect_err("takes no time");
        assert!(error.starts_with("its time cannot be set"), "{error}");
        let off = Watchdog::new(Settings::default());
        assert!(off.is_usable() && !off.is_required());
        off.arm(PLAN).await.expect("nothing to arm");
    }
}
