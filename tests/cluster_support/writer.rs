//! A client that writes through a proxy and keeps a journal of which server acknowledged what, and how its sessions
//! ended.

use std::net::SocketAddr;
use std::sync::atomic::{AtomicI64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use tokio::task::JoinSet;
use tokio_postgres::{Client, Config, Error, NoTls, Statement};
use xtask::playground::CLIENT_ROLE;

/// Time between two writes, and before a new session after one that failed.
const PAUSE: Duration = Duration::from_millis(10);

/// Who answers a write, and when by the clock of the machine that all run on.
const WRITE: &str = "INSERT INTO writes (id) VALUES ($1) RETURNING inet_server_port(), \
                     (extract(epoch FROM clock_timestamp()) * 1000000)::bigint";

/// Rows are told apart over all writers of this process.
static NEXT: AtomicI64 = AtomicI64::new(1);

/// A write that was acknowledged.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Write {
    pub(crate) id: i64,
    /// The port of the server that did it.
    pub(crate) server: u16,
    /// When the server did it, in microseconds since 1970.
    pub(crate) done_us: i64,
    pub(crate) sent: Instant,
    /// The number of the session.
    pub(crate) session: usize,
}

/// Something that went wrong.
#[derive(Clone, Debug)]
pub(crate) struct Failure {
    pub(crate) at: Instant,
    /// SQLSTATE, where a server or the proxy gave one.
    pub(crate) code: String,
    pub(crate) text: String,
}

/// What a writer saw.
#[derive(Clone, Debug, Default)]
pub(crate) struct Journal {
    pub(crate) writes: Vec<Write>,
    pub(crate) failures: Vec<Failure>,
    /// Sessions opened.
    pub(crate) sessions: usize,
}

impl Journal {
    /// Whether a write that was sent later than `since` was acknowledged.
    pub(crate) fn acknowledged_since(&self, since: Instant) -> bool {
        self.writes.last().is_some_and(|write| write.sent > since)
    }

    /// The first failure with this SQLSTATE later than `since`.
    pub(crate) fn failed_with(&self, code: &str, since: Instant) -> Option<Failure> {
        self.failures.iter().find(|failure| failure.code == code && failure.at > since).cloned()
    }
}

/// How a writer uses sessions.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Habit {
    /// One session for all writes, a new one only when it has ended.
    Keeps,
    /// A new session for each write.
    Renews,
}

/// A writer at work; dropping it ends it.
pub(crate) struct Writer {
    journal: Arc<Mutex<Journal>>,
    _task: JoinSet<()>,
}

impl Writer {
    pub(crate) fn start(server: SocketAddr, habit: Habit) -> Writer {
        let journal = Arc::new(Mutex::new(Journal::default()));
        let mut task = JoinSet::new();
        task.spawn(write(config(server), habit, Arc::clone(&journal)));
        Writer { journal, _task: task }
    }

    pub(crate) fn journal(&self) -> MutexGuard<'_, Journal> {
        lock(&self.journal)
    }
}

/// How clients connect to `server`.
pub(crate) fn config(server: SocketAddr) -> Config {
    let mut config = Config::new();
    config.host(server.ip().to_string()).port(server.port()).user(CLIENT_ROLE).dbname("postgres");
    config
}

fn lock(journal: &Mutex<Journal>) -> MutexGuard<'_, Journal> {
    journal.lock().unwrap_or_else(PoisonError::into_inner)
}

fn note(journal: &Mutex<Journal>, error: &Error) {
    let (code, text) = match error.as_db_error() {
        Some(told) => (told.code().code().to_owned(), told.message().to_owned()),
        None => (String::new(), error.to_string()),
    };
    lock(journal).failures.push(Failure { at: Instant::now(), code, text });
}

async fn write(config: Config, habit: Habit, journal: Arc<Mutex<Journal>>) {
    loop {
        if let Err(error) = session(&config, habit, &journal).await {
            note(&journal, &error);
        }
        tokio::time::sleep(PAUSE).await;
    }
}

/// One session, to its end.
async fn session(config: &Config, habit: Habit, journal: &Arc<Mutex<Journal>>) -> Result<(), Error> {
    let (client, connection) = config.connect(NoTls).await?;
    let mut driver = JoinSet::new();
    let heard = Arc::clone(journal);
    // What is said between two statements is heard by nobody else.
    driver.spawn(async move {
        if let Err(error) = connection.await {
            note(&heard, &error);
        }
    });
    let statement = client.prepare(WRITE).await?;
    let number = {
        let mut journal = lock(journal);
        journal.sessions += 1;
        journal.sessions
    };
    while !client.is_closed() {
        match one(&client, &statement, number).await {
            Ok(write) => lock(journal).writes.push(write),
            // A refusal that leaves the session open must be seen to end by itself.
            Err(error) => note(journal, &error),
        }
        if habit == Habit::Renews {
            break;
        }
        tokio::time::sleep(PAUSE).await;
    }
    Ok(())
}

async fn one(client: &Client, statement: &Statement, session: usize) -> Result<Write, Error> {
    let (id, sent) = (NEXT.fetch_add(1, Ordering::Relaxed), Instant::now());
    let row = client.query_one(statement, &[&id]).await?;
    let port: i32 = row.get(0);
    let server = u16::try_from(port).expect("a port");
    Ok(Write { id, server, done_us: row.get(1), sent, session })
}
