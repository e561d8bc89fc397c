//! The clients of a drill: some that write through the proxies, some that read, and one per server that asks it whether
//! it accepts writes.

use std::net::SocketAddr;
use std::path::Path;
use std::sync::atomic::{AtomicI64, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use tokio::task::JoinSet;
use tokio::time::{MissedTickBehavior, interval, sleep, timeout};
use tokio_postgres::{Client, Config, NoTls, Row, SimpleQueryMessage, Statement};
use tokio_util::sync::CancellationToken;

use super::ledger::{Ledger, Write};
use super::reigns::Moment;
use crate::playground::network::enter;
use crate::playground::{CLIENT_ROLE, Playground, PlaygroundError};

/// Makes the writers' table, or empties it.
pub(super) const TABLE: &str = "CREATE TABLE IF NOT EXISTS writes (id bigint PRIMARY KEY, at timestamptz DEFAULT now()); TRUNCATE writes;";

/// Where the rows of the next clients begin, and how many numbers they have.
static NUMBERS: AtomicI64 = AtomicI64::new(1);
const NUMBERS_EACH: i64 = 1_000_000_000;

/// What the table holds, from a number on.
pub(super) const SURVIVORS: &str = "SELECT id FROM writes WHERE id >= $1";

/// Who does the write, on which timeline, and when.
const WRITE: &str = "INSERT INTO writes (id) VALUES ($1) RETURNING host(inet_server_addr()), inet_server_port(), \
                     left(pg_walfile_name(pg_current_wal_lsn()), 8), \
                     (extract(epoch FROM clock_timestamp()) * 1000000)::bigint";

/// Time between two writes of a client.
const WRITE_EVERY: Duration = Duration::from_millis(5);

/// Time between two reads.
const READ_EVERY: Duration = Duration::from_millis(20);

/// Time between two questions to one server.
const ASK_EVERY: Duration = Duration::from_millis(5);

/// How long a server may take to say whether it accepts writes.
const ANSWER_WITHIN: Duration = Duration::from_millis(200);

/// How long a client waits for an answer before it looks for another server, as applications do.
const PATIENCE: Duration = Duration::from_secs(20);

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
    /// Servers by address: their names.
    names: Vec<(SocketAddr, String)>,
    sessions: AtomicU64,
    /// The number of the next row; several clients share it.
    next: AtomicI64,
}

impl Shared {
    fn ledger(&self) -> MutexGuard<'_, Ledger> {
        self.ledger.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Who takes part.
#[derive(Clone, Copy, Debug)]
pub struct Crowd {
    /// Proxies with clients, from the first one on.
    pub proxies: usize,
    /// Writers at each of them.
    pub writers: usize,
    /// Time between two writes of one.
    pub write_every: Duration,
}

impl Default for Crowd {
    fn default() -> Crowd {
        Crowd { proxies: 1, writers: 1, write_every: WRITE_EVERY }
    }
}

/// Running clients; dropping them ends them.
#[derive(Debug)]
pub struct Clients {
    shared: Arc<Shared>,
    tasks: JoinSet<()>,
    /// By number of the client: the number of its proxy.
    proxies: Vec<usize>,
    /// Ends what runs on threads of its own.
    end: CancellationToken,
}

impl Drop for Clients {
    fn drop(&mut self) {
        self.end.cancel();
    }
}

impl Clients {
    /// Starts one writer and one reader at the first proxy, and who asks every server.
    ///
    /// # Panics
    /// If the playground has no proxy.
    pub fn start(playground: &Playground) -> Clients {
        Clients::start_crowd(playground, Crowd::default()).expect("no thread is needed on loopback")
    }

    /// Starts so many. Servers with a network of their own are asked from inside it, so that nothing that is done to
    /// the network keeps a primary from being seen.
    pub fn start_crowd(playground: &Playground, crowd: Crowd) -> Result<Clients, PlaygroundError> {
        let names = playground.nodes.iter().map(|node| (node.postgres(), node.name.clone())).collect();
        // A statement of clients that were stopped may still wait for the table, and write to what is theirs now.
        let next = AtomicI64::new(NUMBERS.fetch_add(NUMBERS_EACH, Ordering::Relaxed));
        let shared = Arc::new(Shared { names, next, ..Shared::default() });
        let end = CancellationToken::new();
        let mut clients = Clients { shared, tasks: JoinSet::new(), proxies: Vec::new(), end };
        for (number, proxy) in playground.proxies.iter().take(crowd.proxies).enumerate() {
            for _ in 0..crowd.writers {
                let client = clients.proxies.len();
                let (config, shared) = (config(proxy.options().primary), Arc::clone(&clients.shared));
                clients.tasks.spawn(write(config, client, crowd.write_every, shared));
                clients.proxies.push(number);
            }
            clients.tasks.spawn(read(config(proxy.options().replica), Arc::clone(&clients.shared)));
        }
        for node in &playground.nodes {
            let asker = probe(node.name.clone(), config(node.postgres()), Arc::clone(&clients.shared));
            match node.place().namespace() {
                None => drop(clients.tasks.spawn(asker)),
                Some(namespace) => clients.ask_inside(namespace, asker)?,
            }
        }
        Ok(clients)
    }

    /// Starts one more writer, at an address that moves between hosts; answers its number. It counts to no proxy.
    pub fn also_write(&mut self, server: SocketAddr, write_every: Duration) -> usize {
        let client = self.proxies.len();
        let mut config = config(server);
        // As clients of such an address must: who waits for an answer sends nothing, and so learns of no move.
        config.keepalives_idle(Duration::from_secs(1)).keepalives_interval(Duration::from_secs(1));
        self.tasks.spawn(write(config, client, write_every, Arc::clone(&self.shared)));
        client
    }

    fn ask_inside(
        &self,
        namespace: &Path,
        asker: impl Future<Output = ()> + Send + 'static,
    ) -> Result<(), PlaygroundError> {
        let end = self.end.clone();
        let thread = enter::inside(namespace, move || {
            let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
            if let Ok(runtime) = runtime {
                runtime.block_on(end.run_until_cancelled(asker));
            }
        });
        thread.map(drop).map_err(PlaygroundError::io(format!("cannot ask in {}", namespace.display())))
    }

    /// Writes acknowledged so far.
    #[expect(clippy::cast_possible_truncation, reason = "fewer than memory has bytes")]
    pub fn acknowledged(&self) -> usize {
        self.shared.ledger().acknowledged() as usize
    }

    /// Sessions that the writers have opened so far.
    pub fn sessions(&self) -> u64 {
        self.shared.sessions.load(Ordering::Acquire)
    }

    /// By number of the writer: the number of its proxy.
    pub fn proxies(&self) -> &[usize] {
        &self.proxies
    }

    /// Looks at what they saw so far.
    pub fn look<T>(&self, at: impl FnOnce(&Ledger) -> T) -> T {
        at(&self.shared.ledger())
    }

    /// Ends them and answers what they saw.
    pub async fn stop(mut self) -> Ledger {
        self.end.cancel();
        self.tasks.shutdown().await;
        std::mem::take(&mut *self.shared.ledger())
    }
}

/// Writes for ever, each row in a transaction of its own. A connection that was closed while idle is replaced without
/// an error, as a pool would.
async fn write(config: Config, number: usize, pause: Duration, shared: Arc<Shared>) {
    let mut every = interval(pause);
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
        let insert = match timeout(PATIENCE, client.prepare(WRITE)).await {
            Ok(Ok(insert)) => insert,
            Ok(Err(error)) => {
                shared.ledger().write_failed(&error);
                continue;
            }
            Err(_) => {
                shared.ledger().write_hung();
                continue;
            }
        };
        shared.sessions.fetch_add(1, Ordering::AcqRel);
        loop {
            every.tick().await;
            if client.is_closed() || !insert_once(&client, &insert, number, &shared).await {
                break;
            }
        }
    }
}

/// Writes one row; whether it was acknowledged.
async fn insert_once(client: &Client, insert: &Statement, number: usize, shared: &Shared) -> bool {
    let (id, asked) = (shared.next.fetch_add(1, Ordering::Relaxed), Instant::now());
    let answer = timeout(PATIENCE, client.query_one(insert, &[&id])).await;
    let at = Instant::now();
    match answer {
        Ok(Ok(row)) => {
            let (name, timeline, done_us) = told(&row, shared);
            let mut ledger = shared.ledger();
            let server = ledger.server(&name);
            let done = Moment::of_answer(asked, at, age(done_us));
            // It was done at the earliest when the server looked at its clock, and before we knew.
            let done = Moment { from: done.from, to: at };
            ledger.acknowledge(Write { id, client: number, done, at, server, timeline });
            true
        }
        Ok(Err(error)) => {
            shared.ledger().write_failed(&error);
            false
        }
        Err(_) => {
            shared.ledger().write_hung();
            false
        }
    }
}

/// Who did a write, on which timeline, and when by its clock.
fn told(row: &Row, shared: &Shared) -> (String, u32, i64) {
    let (host, port): (Option<String>, Option<i32>) = (row.get(0), row.get(1));
    let address = || Some(SocketAddr::new(host?.parse().ok()?, u16::try_from(port?).ok()?));
    let address = address();
    let known = address.and_then(|address| shared.names.iter().find(|(at, _)| *at == address));
    let name = known.map_or_else(|| format!("{address:?}"), |(_, name)| name.clone());
    let timeline: Option<String> = row.get(2);
    let timeline = timeline.and_then(|digits| u32::from_str_radix(&digits, 16).ok());
    (name, timeline.unwrap_or_default(), row.get(3))
}

/// How long ago that was, by the machine's clock; `None`: not yet.
fn age(us: i64) -> Option<Duration> {
    let at = UNIX_EPOCH + Duration::from_micros(u64::try_from(us).ok()?);
    SystemTime::now().duration_since(at).ok()
}

/// Reads for ever, each time on a new connection.
async fn read(config: Config, shared: Arc<Shared>) {
    let mut every = interval(READ_EVERY);
    every.set_missed_tick_behavior(MissedTickBehavior::Delay);
    loop {
        every.tick().await;
        match timeout(PATIENCE, read_once(&config)).await {
            Ok(Ok(())) => shared.ledger().read_done(Instant::now()),
            Ok(Err(error)) => shared.ledger().read_failed(&error),
            Err(_) => shared.ledger().read_hung(),
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
    let server = shared.ledger().server(&name);
    loop {
        let connected = timeout(ANSWER_WITHIN, config.connect(NoTls)).await;
        if let Ok(Ok((client, connection))) = connected {
            let _connection = Aborted(tokio::spawn(connection));
            while ask(server, &client, &shared).await {
                sleep(ASK_EVERY).await;
            }
        }
        sleep(ASK_EVERY).await;
    }
}

/// Whether the server answered.
async fn ask(server: usize, client: &Client, shared: &Shared) -> bool {
    // The server tells the instant itself: our own clock would add the time that the answer lay waiting for us.
    let question = "SELECT pg_is_in_recovery() OR current_setting('transaction_read_only')::bool, \
                    (extract(epoch FROM clock_timestamp()) * 1000000)::bigint";
    let asked = Instant::now();
    let answer = timeout(ANSWER_WITHIN, client.simple_query(question)).await;
    let Ok(Ok(messages)) = answer else { return false };
    let row = messages.iter().find_map(|message| match message {
        SimpleQueryMessage::Row(row) => Some(row),
        _ => None,
    });
    let Some(at_us) = row.and_then(|row| row.get(1)?.parse().ok()) else { return false };
    let accepts_writes = row.is_some_and(|row| row.get(0) == Some("f"));
    let at = Moment::of_answer(asked, Instant::now(), age(at_us));
    shared.ledger().reigns.note(server, accepts_writes, at);
    true
}

/// A task that ends with its owner.
struct Aborted(tokio::task::JoinHandle<Result<(), tokio_postgres::Error>>);

impl Drop for Aborted {
    fn drop(&mut self) {
        self.0.abort();
    }
}
