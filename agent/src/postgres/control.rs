//! Start, stop, promote. A started postmaster is detached: it outlives the agent.

use std::fs::File;
use std::os::unix::process::CommandExt;
use std::process::Stdio;
use std::time::Duration;

use pgvane_cluster::clock::Tick;
use pgvane_cluster::ids::Lsn;
use rustix::process::Signal;
use tokio::time::{sleep, timeout};

use super::controldata::ControlData;
use super::instance::tail;
use super::probe::{self, Probe, ProbeError};
use super::process::{self, Postmaster};
use super::{Instance, PostgresError};

/// Pause between two attempts to connect to a server that starts; grows with the time it takes, for each attempt
/// is a line in the server's log.
const LOOK_FIRST: Duration = Duration::from_millis(5);
const LOOK_LAST: Duration = Duration::from_millis(250);

/// Pause between two looks at a promotion.
const LOOK_AGAIN: Duration = Duration::from_millis(2);

/// How long processes that outlived their postmaster get to vanish after SIGKILL.
const SWEEP_LIMIT: Duration = Duration::from_secs(5);

/// How often pg_control is read while a stop drags on.
const CONTROL_EVERY: Duration = Duration::from_millis(50);

/// How to stop.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Shutdown {
    /// Clients are cut, WAL is shipped to the standbys, a checkpoint is written (SIGINT).
    Fast,
    /// At once, without a checkpoint (SIGQUIT).
    Immediate,
}

/// What a stop came to.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Stopped {
    /// What pg_control says after it.
    pub control: ControlData,
}

impl Stopped {
    /// The position of the shutdown checkpoint, when the stop was clean.
    pub fn shutdown_lsn(&self) -> Option<Lsn> {
        self.control.is_clean().then_some(self.control.checkpoint)
    }
}

/// Whether what was decided may still be done: an agent that was stopped on the way must not, when it goes on,
/// make a primary of this server in a reign that is over.
fn in_time(until: Option<Tick>) -> Result<(), PostgresError> {
    if until.is_some_and(|until| Tick::now() >= until) {
        return Err(PostgresError::Other("the right to lead ended before it could be used".to_owned()));
    }
    Ok(())
}

/// Starts the server with `arguments` (`-c name=value`) and returns at once; not at all past `until`.
pub async fn start(
    instance: &Instance,
    arguments: &[String],
    until: Option<Tick>,
) -> Result<Postmaster, PostgresError> {
    // An orphan backend of a dead postmaster would keep the new one from starting, and may still confirm.
    process::sweep(instance.data_dir.clone(), SWEEP_LIMIT)
        .await
        .map_err(|e| PostgresError::Other(e.to_string()))?;
    let log_file = instance.log_file();
    let open = || File::options().create(true).append(true).open(&log_file);
    let what = format!("{} cannot be opened", log_file.display());
    let log = open().map_err(PostgresError::io(what))?;
    let errors = log.try_clone().map_err(PostgresError::io("the server's log"))?;
    let mut command = std::process::Command::new(instance.program("postgres"));
    command
        .arg("-D")
        .arg(&instance.data_dir)
        .args(arguments)
        .env("LC_ALL", std::env::var("LC_ALL").or_else(|_| std::env::var("LANG")).unwrap_or("C".to_owned()))
        .env_remove("NOTIFY_SOCKET")
        .stdin(Stdio::null())
        .stdout(log)
        .stderr(errors)
        .process_group(0);
    let program = instance.program("postgres");
    in_time(until)?;
    let mut child = command
        .spawn()
        .map_err(PostgresError::io(format!("{} cannot be run; is bin_dir right?", program.display())))?;
    let postmaster = Postmaster::watch(child.id()).map_err(PostgresError::io("the new postmaster"))?;
    // Reaps it when it ends, whoever else watches it.
    std::thread::Builder::new()
        .name("reap-postmaster".to_owned())
        .spawn(move || drop(child.wait()))
        .map_err(PostgresError::io("a thread that waits for the postmaster"))?;
    Ok(postmaster)
}

/// Waits until the server accepts connections; `true` when it is in recovery.
pub async fn wait_ready(instance: &Instance, postmaster: &Postmaster) -> Result<bool, PostgresError> {
    let began = Tick::now();
    let connects = async {
        loop {
            match probe::connect(instance).await {
                Ok(client) => {
                    let row = client.query_one("SELECT pg_is_in_recovery()", &[]).await?;
                    return Ok(row.get(0));
                }
                Err(ProbeError::NotYet(_) | ProbeError::Refused(_) | ProbeError::TimedOut(_)) => {}
                Err(ProbeError::Other(why)) => {
                    tracing::debug!(why, "the starting server cannot be asked yet");
                }
            }
            sleep((Tick::now().since(began) / 20).clamp(LOOK_FIRST, LOOK_LAST)).await;
        }
    };
    let ready = tokio::select! {
        ready = connects => ready,
        _ = postmaster.ended() => Err(PostgresError::DidNotStart(log_tail(instance))),
    };
    if !process::belongs(postmaster.raw(), &instance.data_dir) && ready.is_ok() {
        // Nobody would find it, neither the guard nor the next agent.
        let _ = postmaster.signal(Signal::QUIT);
        let program = instance.program("postgres");
        let text = format!("the server that {} runs must be called postgres", program.display());
        return Err(PostgresError::Other(text));
    }
    ready
}

/// The end of the server's log.
pub fn log_tail(instance: &Instance) -> String {
    std::fs::read_to_string(instance.log_file()).map(|log| tail(&log, 12)).unwrap_or_default()
}

/// Stops the server and proves that nothing of it is left. A stop that takes longer than `limit` is made
/// harder: immediate, then SIGKILL.
///
/// A fast stop counts as done when pg_control says so, even while an archiver lingers; what is left then is
/// killed, for it must not keep the key.
pub async fn stop(
    instance: &Instance,
    postmaster: &Postmaster,
    how: Shutdown,
    limit: Duration,
) -> Result<Stopped, PostgresError> {
    let deadline = Tick::now() + limit;
    let signal = match how {
        Shutdown::Fast => Signal::INT,
        Shutdown::Immediate => Signal::QUIT,
    };
    postmaster.signal(signal).map_err(PostgresError::io("the postmaster cannot be told to stop"))?;
    loop {
        let left = Tick::now().until(deadline);
        if timeout(CONTROL_EVERY.min(left), postmaster.ended()).await.is_ok() {
            break;
        }
        if how == Shutdown::Fast
            && ControlData::read(instance).await.is_ok_and(|control| control.is_clean())
            && timeout(Duration::from_millis(500), postmaster.ended()).await.is_err()
        {
            break;
        }
        if left.is_zero() {
            let _ = postmaster.signal(Signal::QUIT);
            let _ = timeout(Duration::from_millis(300), postmaster.ended()).await;
            break;
        }
    }
    process::sweep(instance.data_dir.clone(), SWEEP_LIMIT)
        .await
        .map_err(|e| PostgresError::Other(e.to_string()))?;
    Ok(Stopped { control: ControlData::read(instance).await? })
}

/// Promotes the standby, not past `until`, and waits until it accepts writes; the connection that saw it.
pub async fn promote(
    instance: &Instance,
    limit: Duration,
    until: Option<Tick>,
) -> Result<Probe, PostgresError> {
    let client = probe::connect(instance).await.map_err(|e| PostgresError::Sql(e.to_string()))?;
    in_time(until)?;
    client.batch_execute("SELECT pg_promote(false)").await?;
    let done = async {
        loop {
            let row = client.query_one("SELECT pg_is_in_recovery()", &[]).await?;
            if !row.get::<_, bool>(0) {
                return Ok(());
            }
            sleep(LOOK_AGAIN).await;
        }
    };
    timeout(limit, done).await.unwrap_or(Err(PostgresError::TimedOut("the promotion")))?;
    Ok(Probe::with(client))
}

/// Writes a checkpoint.
pub async fn checkpoint(instance: &Instance) -> Result<(), PostgresError> {
    let client = probe::connect(instance).await.map_err(|e| PostgresError::Sql(e.to_string()))?;
    client.batch_execute("SET statement_timeout = 0").await?;
    client.batch_execute("CHECKPOINT").await?;
    Ok(())
}

/// Makes the server read its configuration again.
pub fn reload(postmaster: &Postmaster) -> Result<(), PostgresError> {
    postmaster.signal(Signal::HUP).map_err(PostgresError::io("the postmaster cannot be told to reload"))
}
