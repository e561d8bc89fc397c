//! Standard error that never blocks its writer: lines pass through a bounded queue to a thread of their own,
//! and are dropped when the reader of the log (a hung disk, a stopped journal) does not take them.

use std::io::Write;
use std::sync::mpsc::{SyncSender, sync_channel};

use jiff::Timestamp;
use jiff::tz::TimeZone;

/// Where the guard tells what it does.
#[derive(Clone)]
pub(super) struct Log {
    queue: Option<SyncSender<String>>,
    /// For Patroni's form of a line, whose time is local. Looked up once: later, a hung disk must not hang the guard.
    zone: Option<TimeZone>,
}

impl Log {
    /// Starts the writing thread; without one (no memory, no threads left) the guard works on in silence. `patroni`:
    /// lines have Patroni's form.
    pub(super) fn start(patroni: bool) -> Log {
        let (queue, lines) = sync_channel::<String>(256);
        let writer = std::thread::Builder::new().name("guard-log".to_owned()).stack_size(64 * 1024);
        let started = writer.spawn(move || {
            for line in lines {
                // A log that cannot be written is nobody's reason to stop guarding.
                let _ = writeln!(std::io::stderr(), "{line}");
            }
        });
        Log { queue: started.is_ok().then_some(queue), zone: patroni.then(TimeZone::system) }
    }

    /// Queues one line.
    pub(super) fn say(&self, text: impl std::fmt::Display) {
        if let Some(queue) = &self.queue {
            // In the agent's form: both write to one log.
            let (now, pid) = (Timestamp::now(), std::process::id());
            let line = match &self.zone {
                None => format!("{}  INFO guard[{pid}]: {text}", now.strftime("%Y-%m-%dT%H:%M:%S.%6fZ")),
                Some(zone) => {
                    let local = now.to_zoned_datetime(zone.clone());
                    let millis = local.subsec_nanosecond() / 1_000_000;
                    let time = local.strftime("%Y-%m-%d %H:%M:%S");
                    format!("{time},{millis:03} INFO: guard[{pid}]: {text}")
                }
            };
            let _ = queue.try_send(line);
        }
    }
}
