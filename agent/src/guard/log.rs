//! Standard error that never blocks its writer: lines pass through a bounded queue to a thread of their own,
//! and are dropped when the reader of the log (a hung disk, a stopped journal) does not take them.

use std::io::Write;
use std::sync::mpsc::{SyncSender, sync_channel};

/// Where the guard tells what it does.
#[derive(Clone)]
pub(super) struct Log {
    queue: Option<SyncSender<String>>,
}

impl Log {
    /// Starts the writing thread; without one (no memory, no threads left) the guard works on in silence.
    pub(super) fn start() -> Log {
        let (queue, lines) = sync_channel::<String>(256);
        let writer = std::thread::Builder::new().name("guard-log".to_owned()).stack_size(64 * 1024);
        let started = writer.spawn(move || {
            for line in lines {
                // A log that cannot be written is nobody's reason to stop guarding.
                let _ = writeln!(std::io::stderr(), "{line}");
            }
        });
        Log { queue: started.is_ok().then_some(queue) }
    }

    /// Queues one line.
    pub(super) fn say(&self, text: impl std::fmt::Display) {
        if let Some(queue) = &self.queue {
            // The time in the agent's form: both write to one log.
            let now = jiff::Timestamp::now().strftime("%Y-%m-%dT%H:%M:%S.%6fZ");
            let _ = queue.try_send(format!("{now}  INFO guard[{}]: {text}", std::process::id()));
        }
    }
}
