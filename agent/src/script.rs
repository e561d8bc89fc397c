//! Commands of the operator's. Each runs in a process group of its own, so that it can be ended with everything it
//! started, and with the agent's environment less what only the agent should see. What it prints goes where the
//! agent's own output goes.

use std::ffi::{OsStr, OsString};
use std::io;
use std::os::unix::ffi::OsStrExt;
use std::process::{ExitStatus, Stdio};

use rustix::process::{Pid, Signal, kill_process_group};
use tokio::process::{Child, Command};

use crate::config::Script;

/// Why a command did not do its work.
#[derive(Debug, thiserror::Error)]
pub enum ScriptError {
    /// It could not be run.
    #[error("{0:?} cannot be run: {1}")]
    NotRun(String, #[source] io::Error),
    /// It ended with another code than 0.
    #[error("{0:?} ended with {1}")]
    Ended(String, ExitStatus),
}

/// A command under way. Dropping it ends its process and everything in its group.
#[derive(Debug)]
pub struct Running {
    child: Child,
    group: Option<Pid>,
}

impl Running {
    /// Starts `script` with further `arguments` and `env`.
    pub fn start(
        script: &Script,
        arguments: &[String],
        env: &[(&str, OsString)],
    ) -> Result<Running, ScriptError> {
        let not_run = |error| ScriptError::NotRun(script.text.clone(), error);
        let (program, words) =
            script.words.split_first().ok_or_else(|| not_run(io::ErrorKind::InvalidInput.into()))?;
        let mut command = Command::new(program);
        command.args(words).args(arguments).stdin(Stdio::null()).process_group(0);
        for name in std::env::vars_os().map(|(name, _)| name).filter(|name| is_hidden(name)) {
            command.env_remove(name);
        }
        command.envs(env.iter().map(|(name, value)| (name, value)));
        let child = command.spawn().map_err(not_run)?;
        // Its group has its number for as long as it is not reaped, which only `wait` does.
        let group = child.id().and_then(|id| i32::try_from(id).ok()).and_then(Pid::from_raw);
        Ok(Running { child, group })
    }

    /// Lets it run on when this is dropped.
    pub fn let_go(&mut self) {
        self.group = None;
    }

    /// Waits until it has ended. What it left running in the background goes on.
    pub async fn ended(&mut self) -> io::Result<ExitStatus> {
        let status = self.child.wait().await;
        self.group = None;
        status
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        if let Some(group) = self.group {
            // Gone already is as good as killed.
            let _ = kill_process_group(group, Signal::KILL);
        }
    }
}

/// Runs `script` to its end. Whoever drops the future ends the command.
pub async fn run(script: &Script, arguments: &[String], env: &[(&str, OsString)]) -> Result<(), ScriptError> {
    let mut running = Running::start(script, arguments, env)?;
    let status = running.ended().await.map_err(|e| ScriptError::NotRun(script.text.clone(), e))?;
    if status.success() { Ok(()) } else { Err(ScriptError::Ended(script.text.clone(), status)) }
}

/// Variables that are the agent's alone: settings (passwords among them) and its way to the service manager.
fn is_hidden(name: &OsStr) -> bool {
    name.as_bytes().starts_with(b"PATRONI_") || name == "NOTIFY_SOCKET"
}

#[cfg(test)]
pub(crate) mod tests {
    use std::time::Duration;

    use tokio::time::timeout;

    use super::*;

    /// A shell that runs `text`, with what follows as its arguments.
    pub(crate) fn shell(text: &str) -> Script {
        let words = ["sh", "-c", text, "script"].map(str::to_owned).to_vec();
        Script { text: text.to_owned(), words }
    }

    #[test]
    fn settings_in_the_environment_are_the_agents_alone() {
        assert!(
            is_hidden(OsStr::new("PATRONI_SUPERUSER_PASSWORD")) && is_hidden(OsStr::new("NOTIFY_SOCKET"))
        );
        assert!(!is_hidden(OsStr::new("PATH")) && !is_hidden(OsStr::new("MY_PATRONI_X")));
    }

    #[tokio::test]
    async fn arguments_environment_and_exit_codes() {
        let (args, env) = (["a b".to_owned(), "c".to_owned()], [("EXTRA", OsString::from("x y"))]);
        run(&shell(r#"test "$1" = "a b" -a "$2" = c -a "$EXTRA" = "x y""#), &args, &env)
            .await
            .expect("ends well");
        let error = run(&shell("exit 3"), &[], &[]).await.expect_err("ends with 3");
        assert_eq!(error.to_string(), "\"exit 3\" ended with exit status: 3");
        let nowhere = Script { text: "x y".to_owned(), words: vec!["/nowhere/x".to_owned()] };
        let error = run(&nowhere, &[], &[]).await.expect_err("there is no such program");
        assert!(error.to_string().starts_with("\"x y\" cannot be run: No such file"), "{error}");
    }

    #[tokio::test]
    async fn whoever_is_dropped_takes_its_children_along() {
        let dir = tempfile::tempdir().expect("a directory");
        let (fifo, pid) = (dir.path().join("fifo"), dir.path().join("pid"));
        rustix::fs::mknodat(rustix::fs::CWD, &fifo, rustix::fs::FileType::Fifo, rustix::fs::Mode::RWXU, 0)
            .expect("a pipe");
        // The grandchild holds the pipe open; its end is the end of the file.
        let text =
            format!("sh -c 'echo $$ >{1}; exec sleep 1000' >{0} & wait", fifo.display(), pid.display());
        let running = Running::start(&shell(&text), &[], &[]).expect("starts");
        let end = tokio::task::spawn_blocking(move || std::fs::read(fifo));
        while !pid.exists() {
            tokio::time::sleep(Duration::from_millis(2)).await;
        }
        drop(running);
        let read = timeout(Duration::from_secs(10), end).await.expect("the grandchild ends");
        assert_eq!(read.expect("no panic").expect("reads"), b"");
    }
}
