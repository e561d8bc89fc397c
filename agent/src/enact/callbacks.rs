//! Runs the operator's callbacks beside everything else: nothing ever waits for one.

use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use pgvane_cluster::records::MemberRole;
use tokio::task::JoinHandle;
use tokio::time::timeout;
use tracing::{info, warn};

use crate::callbacks::{Callback, Due};
use crate::config::{Callbacks, Script};
use crate::script::Running;

/// The callbacks of one node. At most one runs, and one more for reloads: a new one ends the one before it.
#[derive(Debug)]
pub struct Runner {
    commands: Mutex<Callbacks>,
    scope: String,
    changes: Mutex<Option<JoinHandle<()>>>,
    reloads: Mutex<Option<JoinHandle<()>>>,
    /// Whether what runs goes on when the agent ends.
    left: Arc<AtomicBool>,
}

impl Runner {
    /// Callbacks of the cluster `scope`.
    pub fn new(commands: Callbacks, scope: String) -> Runner {
        let commands = Mutex::new(commands);
        Runner { commands, scope, changes: Mutex::default(), reloads: Mutex::default(), left: Arc::default() }
    }

    /// Runs other commands from here on; one that runs goes on.
    pub fn replace(&self, commands: Callbacks) {
        *self.commands.lock().unwrap_or_else(PoisonError::into_inner) = commands;
    }

    /// Starts the command for what is due, if there is one.
    pub fn run(&self, due: &Due) {
        let commands = self.commands.lock().unwrap_or_else(PoisonError::into_inner).clone();
        let (slot, command) = match due.callback {
            Callback::OnStart => (&self.changes, commands.on_start),
            Callback::OnStop => (&self.changes, commands.on_stop),
            Callback::OnRestart => (&self.changes, commands.on_restart),
            Callback::OnReload => (&self.reloads, commands.on_reload),
            Callback::OnRoleChange => (&self.changes, commands.on_role_change),
        };
        let Some(command) = command else { return };
        let name = due.callback.name();
        let arguments = [name.to_owned(), due.role.as_str().to_owned(), self.scope.clone()];
        info!(callback = name, role = due.role.as_str(), command = command.text, "running a callback");
        let mut slot = slot.lock().unwrap_or_else(PoisonError::into_inner);
        let before = slot.take().filter(|before| !before.is_finished());
        if let Some(before) = &before {
            warn!(callback = name, "the callback before this one still ran; it was ended");
            before.abort();
        }
        let left = Arc::clone(&self.left);
        *slot = Some(tokio::spawn(async move {
            if let Some(before) = before {
                // Dropped and with it its processes.
                let _ = before.await;
            }
            to_its_end(name, &command, &arguments, left).await;
        }));
    }

    /// The server read its configuration again.
    pub fn reloaded(&self, role: MemberRole) {
        self.run(&Due { callback: Callback::OnReload, role });
    }

    /// Waits a while for what runs; then it is left to itself.
    pub async fn finish(&self, limit: Duration) {
        for slot in [&self.changes, &self.reloads] {
            let running = slot.lock().unwrap_or_else(PoisonError::into_inner).take();
            if let Some(mut running) = running
                && timeout(limit, &mut running).await.is_err()
            {
                info!("a callback still runs; it is left to itself");
            }
        }
        self.left.store(true, Ordering::Release);
    }
}

/// A callback that is ended when it is dropped, unless it is left to itself.
struct Held {
    running: Running,
    left: Arc<AtomicBool>,
}

impl Drop for Held {
    fn drop(&mut self) {
        if self.left.load(Ordering::Acquire) {
            self.running.let_go();
        }
    }
}

async fn to_its_end(name: &str, command: &Script, arguments: &[String], left: Arc<AtomicBool>) {
    match Running::start(command, arguments, &[]).map(|running| Held { running, left }) {
        Ok(mut held) => match held.running.ended().await {
            Ok(status) if status.success() => {}
            Ok(status) => warn!(callback = name, %status, "a callback failed"),
            Err(error) => warn!(callback = name, %error, "a callback was lost sight of"),
        },
        Err(error) => warn!(callback = name, %error, "a callback was not run"),
    }
}

#[cfg(test)]
mod tests {
    use std::path::Path;

    use super::*;
    use crate::script::tests::shell;

    fn runner(dir: &Path, on_stop: &str) -> Runner {
        let notes = format!("echo $* >>{}", dir.join("log").display());
        let commands = Callbacks {
            on_start: Some(shell(&notes)),
            on_stop: Some(shell(on_stop)),
            on_reload: Some(shell(&notes)),
            ..Callbacks::default()
        };
        Runner::new(commands, "demo".to_owned())
    }

    fn due(callback: Callback) -> Due {
        Due { callback, role: MemberRole::Replica }
    }

    #[tokio::test]
    async fn a_callback_is_told_what_happened_and_missing_ones_are_passed_over() {
        let dir = tempfile::tempdir().expect("a directory");
        let runner = runner(dir.path(), "exit 3");
        runner.run(&due(Callback::OnRoleChange));
        runner.run(&due(Callback::OnStart));
        runner.finish(Duration::from_secs(20)).await;
        runner.run(&due(Callback::OnStop));
        runner.finish(Duration::from_secs(20)).await;
        let log = std::fs::read_to_string(dir.path().join("log")).expect("reads");
        assert_eq!(log, "on_start replica demo\n");
    }

    #[tokio::test]
    async fn a_new_one_ends_the_one_before_it_but_reloads_have_a_place_of_their_own() {
        let dir = tempfile::tempdir().expect("a directory");
        let pid = dir.path().join("pid");
        let runner =
            runner(dir.path(), &format!("echo $$ >{0}.new; mv {0}.new {0}; sleep 1000", pid.display()));
        runner.run(&due(Callback::OnStop));
        while !pid.exists() {
            tokio::time::sleep(Duration::from_millis(2)).await;
        }
        runner.reloaded(MemberRole::Primary);
        let reloaded = runner.reloads.lock().expect("not poisoned").take().expect("runs");
        reloaded.await.expect("no panic");
        let runs = || runner.changes.lock().expect("not poisoned").as_ref().is_some_and(|t| !t.is_finished());
        assert!(runs(), "a reload does not end it");
        runner.run(&due(Callback::OnStart));
        runner.finish(Duration::from_secs(20)).await;
        let log = std::fs::read_to_string(dir.path().join("log")).expect("reads");
        assert_eq!(log, "on_reload primary demo\non_start replica demo\n");
        let pid = std::fs::read_to_string(pid).expect("reads");
        // Killed it was; how soon the kernel is done with it is the machine's affair.
        let began = std::time::Instant::now();
        loop {
            let stat = std::fs::read_to_string(format!("/proc/{}/stat", pid.trim())).unwrap_or_default();
            if stat.is_empty() || stat.contains(") Z ") {
                break;
            }
            assert!(began.elapsed() < Duration::from_secs(20), "it still runs: {stat}");
            tokio::time::sleep(Duration::from_millis(2)).await;
        }
    }
}
