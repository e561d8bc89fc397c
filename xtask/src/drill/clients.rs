//! The clients of a drill: one that writes through the proxy, one that reads, and one per server that asks it
//! whether it accepts writes.

use std::net::SocketAddr;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use tokio::task::JoinSet;
use tokio::time::{MissedTickBehavior, interval, sleep, timeout};
use tokio_postgres::{Client, Config, NoTls, SimpleQueryMessage};

use super::ledger::Ledger;
use crate::playground::{CLIENT_ROLE, Playground};

/// Makes the writer's table, or empties it.
pub(super) const TABLE: &str = "CREATE TABLE IF NOT EXISTS writes (id bigint PRIMARY KEY, at timestamptz DEFAULT now()); TRUNCATE writes;";

/// What the table holds.
pub(super) const SURVIVORS: &str = "SELECT id FROM writes";

/// Time between two writes.
const WRITE_EVERY: Duration = Duration::from_millis(5);

/// Time between two reads.
const READ_EVERY: Duration = Duration::from_millis(20);

/// Time between two questions to one server.
const ASK_EVERY: Duration = Duration::from_millis(5);

/// How long a server may take to say whether it accepts writes.
const ANSWER_WITHIN: Duration = Duration::from_millis(200);

/// How a client connects to `server`.
pub(super) fn config(server: SocketAddr) -> Config {
    let mut config = Config::new();
    config.host(server.ip().to_string()).port(server.port()).user(CLIENT_ROLE).dbname("postgres");
    config.connect_timeout(Duration::from_secs(5)).application_name("drill");
    config
}

#[derive(Debug, Default)]
struct Shared {
    ledger: Mutex<Ledger>,
    sessions: AtomicU64,
}

impl Shared {
    fn ledger(&self) -> MutexGuard<'_, Ledger> {
        self.ledger.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Running clients; dropping them ends them.
#[derive(Debug)]
pub struct Clients {
    shared: Arc<Shared>,
    tasks: JoinSet<()>,
}

impl Clients {
    /// Starts them: through the first proxy, and directly at every server.
    ///
    /// # Panics
    /// If the playground has no proxy.
    pub fn start(playground: &Playground) -> Clients {
        let shared = Arc::new(Shared::default());
        let mut tasks = JoinSet::new();
        let proxy = playground.proxies[0].options();
        tasks.spawn(write(config(proxy.primary), Arc::clone(&shared)));
        tasks.spawn(read(config(proxy.replica), Arc::clone(&shared)));
        for node in &playground.nodes {
            tasks.spawn(probe(node.name.clone(), config(node.postgres()), Arc::clone(&shared)));
        }
        Clients { shared, tasks }
    }

    /// Writes acknowledged so far.
    #[expect(clippy::cast_possible_truncation, reason = "fewer than memory has bytes")]
    pub fn acknowledged(&self) -> usize {
        self.shared.ledger().acknowledged() as usize
    }

    /// Sessions that the writer has opened so far.
    pub fn sessions(&self) -> u64 {
        self.shared.sessions.load(Ordering::Acquire)
    }

    /// Looks at what they saw so far.
    pub fn look<T>(&self, at: impl FnOnce(&Ledger) -> T) -> T {
        at(&self.shared.ledger())
    }

    /// Ends them and answers what they saw.
    pub async fn stop(mut self) -> Ledger {
        self.tasks.shutdown().await;
        std::mem::take(&mut *self.shared.ledger())
    }
}

/// Writes for ever, each row in a transaction of its own. A connection that was closed while idle is replaced
/// without an error, as a pool would.
async fn write(config: Config, shared: Arc<Shared>) {
    let mut id = 0;
    let mut every = interval(WRITE_EVERY);
    every.set_missed_tick_behavior(MissedTickBehavior::Delay);
    let mut failures = 0;
    loop {
        let (client, connection) = match config.connect(NoTls).await {
            Ok(connected) => connected,
            Err(error) => {
                shared.ledger().connect_failed(&error);
                failures += 1;
                // The first tries follow at once; a server that is gone for good is not hammered.
                sleep(Duration::from_millis(if failures < 5 { 1 } else { 50 })).await;
                continue;
            }
        };
        failures = 0;
        let _connection = Aborted(tokio::spawn(connection));
        let insert = match client.prepare("INSERT INTO writes (id) VALUES ($1)").await {
            Ok(insert) => insert,
            Err(error) => {
                shared.ledger().write_failed(&error);
                continue;
            }
        };
        shared.sessions.fetch_add(1, Ordering::AcqRel);
        loop {
            every.tick().await;
            if client.is_closed() {
                break;
            }
            id += 1;
            match client.execute(&insert, &[&id]).await {
                Ok(_) => shared.ledger().acknowledge(id, Instant::now()),
                Err(error) => {
                    shared.ledger().write_failed(&error);
                    break;
                }
            }
        }
    }
}

/// Reads for ever, each time on a new connection.
async fn read(config: Config, shared: Arc<Shared>) {
    let mut every = interval(READ_EVERY);
    every.set_missed_tick_behavior(MissedTickBehavior::Delay);
    loop {
        every.tick().await;
        match read_once(&config).await {
            Ok(()) => shared.ledger().reads += 1,
            Err(error) => shared.ledger().read_failed(&error),
        }
    }
}

/// One read on a connection of its own.
pub(super) async fn read_once(config: &Config) -> Result<(), tokio_postgres::Error> {
    let (client, connection) = config.connect(NoTls).await?;
    let _connection = Aborted(tokio::spawn(connection));
    client.simple_query("SELECT count(*) FROM (SELECT FROM writes LIMIT 10) AS sample").await.map(drop)
}

/// Asks one server for ever whether it accepts writes.
async fn probe(name: String, config: Config, shared: Arc<Shared>) {
    loop {
        let connected = timeout(ANSWER_WITHIN, config.connect(NoTls)).await;
        if let Ok(Ok((client, connection))) = connected {
            let _connection = Aborted(tokio::spawn(connection));
            while ask(&name, &client, &shared).await {
                sleep(ASK_EVERY).await;
            }
        }
        sleep(ASK_EVERY).await;
    }
}

/// Whether the server answered.
async fn ask(name: &str, client: &Client, shared: &Shared) -> bool {
    // The server tells the instant itself: all run on one machine, and our own clock would add the time that
    // the answer lay waiting for us.
    let question = "SELECT pg_is_in_recovery(), (extract(epoch FROM clock_timestamp()) * 1000000)::bigint";
    let answer = timeout(ANSWER_WITHIN, client.simple_query(question)).await;
    let Ok(Ok(messages)) = answer else { return false };
    let row = messages.iter().find_map(|message| match message {
        SimpleQueryMessage::Row(row) => Some(row),
        _ => None,
    });
    let Some(at) = row.and_then(|row| row.get(1)?.parse().ok()) else { return false };
    let in_recovery = row.is_some_and(|row| row.get(0) == Some("t"));
    shared.ledger().primary(name, !in_recovery, at);
    true
}

/// A task that ends with its owner.
struct Aborted(tokio::task::JoinHandle<Result<(), tokio_postgres::Error>>);

impl Drop for Aborted {
    fn drop(&mut self) {
        self.0.abort();
    }
}
