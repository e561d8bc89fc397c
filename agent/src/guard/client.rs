//! The agent's end of the guard: start or adopt it, give it deadlines, notice when it dies.

use std::collections::HashMap;
use std::io;
use std::path::{Path, PathBuf};
use std::process::Stdio;
use std::time::Duration;

use pgvane_cluster::clock::Tick;
use pgvane_cluster::ids::{Epoch, LeaseId};
use tokio::io::{AsyncBufReadExt, AsyncWriteExt, BufReader, Lines};
use tokio::net::UnixStream;
use tokio::net::unix::{OwnedReadHalf, OwnedWriteHalf};
use tokio::process::Child;
use tokio::sync::{mpsc, oneshot};
use tokio::time::{Instant, sleep, timeout, timeout_at};

use super::protocol::{Answer, ArmRequest, Ask, Line, Question};
pub use super::protocol::{Doing, Parting, Report, StoreAccess};

/// How long a new guard may take until it answers.
const START_WITHIN: Duration = Duration::from_secs(3);

/// Pause between two attempts to reach a guard that is starting.
const KNOCK_EVERY: Duration = Duration::from_millis(5);

/// The least time between two starts of a guard that ends at once, each of which says why.
const SPAWN_EVERY: Duration = Duration::from_millis(200);

/// How to start and reach the guard of one data directory.
#[derive(Clone, Debug)]
pub struct GuardOptions {
    /// The program that has the `guard` subcommand: this one.
    pub program: PathBuf,
    /// Its socket; absolute.
    pub socket: PathBuf,
    /// The data directory; absolute. It need not exist before the guard is armed.
    pub data_dir: PathBuf,
    /// Where a guard started from here writes its log; the agent's standard error where absent.
    pub log: Option<PathBuf>,
    /// Whether the lines of that log have Patroni's form.
    pub patroni_lines: bool,
    /// How long an answer may take. A guard that does not answer counts as gone.
    pub answer_within: Duration,
}

/// A reign to watch over.
#[derive(Clone, Debug)]
pub struct Arming {
    /// The reign.
    pub epoch: Epoch,
    /// The lease that backs it.
    pub lease: LeaseId,
    /// The time the lease is granted for.
    pub ttl: Duration,
    /// When PostgreSQL must be stopped ([`crate::timing::Timing::guard_deadline`]).
    pub deadline: Tick,
    /// How long after that its last process must be dead.
    pub budget: Duration,
    /// The postmaster, when it runs; `None` before it is started.
    pub postmaster: Option<rustix::process::Pid>,
    /// Where the guard may revoke the lease.
    pub store: StoreAccess,
    /// What it says before that.
    pub parting: Option<Parting>,
}

/// What the guard told by itself.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum GuardEvent {
    /// It is stopping PostgreSQL, or has stopped it: see [`Report::doing`].
    Acted(Report),
    /// It is gone or does not answer. Nothing holds the deadline now: start another at once.
    Gone(String),
}

/// Why a wish came to nothing.
#[derive(Clone, PartialEq, Eq, Debug, thiserror::Error)]
pub enum GuardError {
    /// The guard said no.
    #[error("the guard refused: {0}")]
    Refused(String),
    /// The guard is gone, or did not answer in time.
    #[error("the guard is gone: {0}")]
    Gone(String),
    /// It could not be started.
    #[error("the guard could not be started: {0}")]
    NotStarted(String),
}

/// A connected guard. Clones share the connection.
#[derive(Clone, Debug)]
pub struct GuardClient {
    asks: mpsc::Sender<(Ask, oneshot::Sender<Result<Answer, String>>)>,
    answer_within: Duration,
}

/// What a guard was found with.
#[derive(Debug)]
pub struct Found {
    /// The handle.
    pub client: GuardClient,
    /// What it tells by itself; the last event is [`GuardEvent::Gone`].
    pub events: mpsc::Receiver<GuardEvent>,
    /// Its state when it was found. `doing` other than idle: it was adopted from an earlier agent.
    pub report: Report,
}

impl GuardClient {
    /// Adopts the guard that runs, or starts one. A guard found fenced is disarmed: this agent has just begun
    /// and has started nothing yet. The report is the one before that.
    pub async fn start(options: &GuardOptions) -> Result<Found, GuardError> {
        super::check_socket_path(&options.socket).map_err(GuardError::NotStarted)?;
        let by = Instant::now() + START_WITHIN;
        let mut child: Option<Child> = None;
        let mut next_spawn = Instant::now();
        let mut why = "it did not answer".to_owned();
        // A guard may be ending while we connect, or another may start while ours does: knock until one answers.
        while Instant::now() < by {
            match timeout_at(by, hello(&options.socket)).await {
                Ok(Ok((lines, write, report))) => {
                    let found = serve(options, lines, write, report, child.take());
                    if found.report.doing == Doing::Fenced {
                        found.client.disarm().await?;
                    }
                    return Ok(found);
                }
                Ok(Err(e)) => why = e.to_string(),
                Err(_) => break,
            }
            let running = match child.as_mut().map(Child::try_wait) {
                Some(Ok(None)) => true,
                Some(Ok(Some(status))) => {
                    why = format!("it ended with {status}");
                    false
                }
                Some(Err(_)) | None => false,
            };
            if !running && Instant::now() >= next_spawn {
                child = Some(spawn(options).map_err(|e| GuardError::NotStarted(e.to_string()))?);
                next_spawn = Instant::now() + SPAWN_EVERY;
            }
            sleep(KNOCK_EVERY).await;
        }
        Err(GuardError::NotStarted(format!("{}: {why}", options.socket.display())))
    }

    /// Gives the guard a reign to watch over. `Ok`: it does, from now on.
    pub async fn arm(&self, arming: Arming) -> Result<(), GuardError> {
        self.ask(Ask::Arm(Box::new(ArmRequest {
            epoch: arming.epoch.0,
            lease: arming.lease.0,
            ttl_ms: millis(arming.ttl),
            deadline: arming.deadline.as_nanos(),
            budget_ms: millis(arming.budget),
            postmaster: arming.postmaster.map(|pid| pid.as_raw_nonzero().get()),
            store: arming.store,
            parting: arming.parting,
        })))
        .await
        .map(drop)
    }

    /// Moves the deadline of `lease` forward.
    pub async fn extend(&self, lease: LeaseId, deadline: Tick) -> Result<(), GuardError> {
        self.ask(Ask::Extend { lease: lease.0, deadline: deadline.as_nanos() }).await.map(drop)
    }

    /// Takes the deadline from the guard. Only once PostgreSQL is stopped or cannot accept writes.
    pub async fn disarm(&self) -> Result<(), GuardError> {
        self.ask(Ask::Disarm).await.map(drop)
    }

    /// What the guard is doing.
    pub async fn report(&self) -> Result<Report, GuardError> {
        self.ask(Ask::Status).await
    }

    async fn ask(&self, ask: Ask) -> Result<Report, GuardError> {
        let gone = |why: &str| GuardError::Gone(why.to_owned());
        let (reply, answer) = oneshot::channel();
        let asked = async {
            self.asks.send((ask, reply)).await.map_err(|_| gone("its connection is closed"))?;
            answer.await.map_err(|_| gone("its connection is closed"))?.map_err(GuardError::Gone)
        };
        let answer =
            timeout(self.answer_within, asked).await.map_err(|_| gone("it did not answer in time"))??;
        match answer.refused {
            None => Ok(answer.report),
            Some(why) => Err(GuardError::Refused(why)),
        }
    }
}

fn millis(d: Duration) -> u64 {
    u64::try_from(d.as_millis()).unwrap_or(u64::MAX)
}

fn spawn(options: &GuardOptions) -> io::Result<Child> {
    let mut command = tokio::process::Command::new(&options.program);
    command.arg("guard").arg("--socket").arg(&options.socket).arg("--data-dir").arg(&options.data_dir);
    if options.patroni_lines {
        command.arg("--patroni-lines");
    }
    // Nothing of the agent's may keep it from being stopped, upgraded or unmounted.
    command.env_clear().current_dir("/").stdin(Stdio::null()).stdout(Stdio::null());
    if let Some(log) = &options.log {
        command.stderr(std::fs::File::options().create(true).append(true).open(log)?);
    }
    command.kill_on_drop(false).spawn()
}

type Connected = (Lines<BufReader<OwnedReadHalf>>, OwnedWriteHalf, Report);

async fn hello(socket: &Path) -> io::Result<Connected> {
    let (read, mut write) = UnixStream::connect(socket).await?.into_split();
    let mut lines = BufReader::new(read).lines();
    write.write_all(&encode(&Question { seq: 0, ask: Ask::Hello })).await?;
    let line = lines.next_line().await?.ok_or(io::ErrorKind::UnexpectedEof)?;
    match serde_json::from_str(&line)? {
        Line::Answer(Answer { refused: None, report, .. }) => Ok((lines, write, report)),
        Line::Answer(Answer { refused: Some(why), .. }) => Err(io::Error::other(why)),
        Line::Note(_) => Err(io::Error::other("it spoke before it was asked")),
    }
}

fn encode(question: &Question) -> Vec<u8> {
    // Plain fields and text keys cannot fail to serialize.
    let mut text = serde_json::to_vec(question).unwrap_or_default();
    text.push(b'\n');
    text
}

fn serve(
    options: &GuardOptions,
    lines: Lines<BufReader<OwnedReadHalf>>,
    write: OwnedWriteHalf,
    report: Report,
    child: Option<Child>,
) -> Found {
    let (asks, asked) = mpsc::channel(16);
    let (tell, events) = mpsc::channel(16);
    tokio::spawn(async move {
        let why = converse(lines, write, asked, &tell).await;
        let _ = tell.send(GuardEvent::Gone(why)).await;
        // Ours to reap, unless it is adopted by the next agent after us.
        if let Some(mut child) = child {
            let _ = child.wait().await;
        }
    });
    Found { client: GuardClient { asks, answer_within: options.answer_within }, events, report }
}

type Waiting = oneshot::Sender<Result<Answer, String>>;

/// Carries questions and answers until the connection ends; returns why it did.
async fn converse(
    mut lines: Lines<BufReader<OwnedReadHalf>>,
    mut write: OwnedWriteHalf,
    mut asked: mpsc::Receiver<(Ask, Waiting)>,
    tell: &mpsc::Sender<GuardEvent>,
) -> String {
    let mut waiting: HashMap<u64, Waiting> = HashMap::new();
    let mut seq = 0;
    let why = loop {
        tokio::select! {
            line = lines.next_line() => match line {
                Ok(Some(line)) => match serde_json::from_str(&line) {
                    Ok(Line::Answer(answer)) => {
                        if let Some(reply) = waiting.remove(&answer.seq) {
                            let _ = reply.send(Ok(answer));
                        }
                    }
                    // Whoever does not read its events learns the state from the next answer.
                    Ok(Line::Note(report)) => { let _ = tell.try_send(GuardEvent::Acted(report)); }
                    Err(e) => break format!("it sent what is not ours: {e}"),
                },
                Ok(None) => break "it closed the connection".to_owned(),
                Err(e) => break e.to_string(),
            },
            ask = asked.recv() => match ask {
                Some((ask, reply)) => {
                    seq += 1;
                    waiting.retain(|_, reply| !reply.is_closed());
                    waiting.insert(seq, reply);
                    if let Err(e) = write.write_all(&encode(&Question { seq, ask })).await {
                        break e.to_string();
                    }
                }
                None => break "this agent let it go".to_owned(),
            },
        }
    };
    for (_, reply) in waiting {
        let _ = reply.send(Err(why.clone()));
    }
    why
}
