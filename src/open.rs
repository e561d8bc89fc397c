//! From an accepted client to a server that has answered it: first packet, hold, dial, first answer.
//!
//! Until the server's first answer nothing has been sent to the client, so everything before it may be
//! tried again elsewhere: a refused connect, a server that says 57P03, one that closes without a word. What
//! cannot be had within the hold time ends in a PostgreSQL error that says why.

use std::io;
use std::sync::Arc;
use std::time::{Duration, Instant};

use pgvane_cluster::clock::Tick;
use pgvane_cluster::ids::NodeName;
use pgvane_cluster::units::show_duration;
use rustls::ServerConfig;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::time::{sleep, sleep_until, timeout};

use crate::client::Client;
use crate::close::CloseReason;
use crate::dial::dial;
use crate::listen::Port;
use crate::metrics::{ConnectFailure, HoldGuard};
use crate::pgwire::{self, FirstAnswer, FirstPacket, FirstRead};
use crate::refusal::{Refusal, TurnedAway};
use crate::route::{self, Nobody, Role};
use crate::seats::Seat;
use crate::socket;
use crate::topology::{OnNode, Target, Topology, TopologyRx};

/// First pause before a server that refused is asked again; grows by half up to [`PAUSE_MAX`]. A new picture
/// of the cluster ends every pause, so this only covers what the store has not told yet.
const PAUSE_FIRST: Duration = Duration::from_millis(10);
const PAUSE_MAX: Duration = Duration::from_millis(250);

/// A server connection and the target it belongs to.
#[derive(Debug)]
pub(crate) struct Server {
    pub(crate) stream: TcpStream,
    pub(crate) target: Arc<Target>,
    pub(crate) on_node: OnNode,
}

/// A client and a server that may now be joined.
#[derive(Debug)]
pub(crate) struct Opened {
    pub(crate) server: Server,
    /// What the server has said and the client has not heard.
    pub(crate) to_client: Vec<u8>,
    /// What the client has said and the server has not heard.
    pub(crate) to_server: Vec<u8>,
    /// Whether the server's messages can be told apart: not where client and server have encryption of their own.
    pub(crate) is_legible: bool,
}

/// What a server is expected to answer with.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Expect {
    /// A message, looked at before it is passed on.
    Message,
    /// One byte, or bytes that cannot be read.
    Anything,
}

/// How far one server got with the client's packet.
enum Asked {
    Answer(Vec<u8>),
    NotYet(ConnectFailure, String),
}

/// A wait for somebody to serve.
struct Hold {
    _seat: Seat,
    _guard: HoldGuard,
}

/// The opening of one session.
pub(crate) struct Opening<'a> {
    port: &'a Port,
    client: &'a mut Client,
    topology: TopologyRx,
    cursor: usize,
    /// Targets that failed since the last pause.
    tried: Vec<NodeName>,
    /// The last error of each target.
    failures: Vec<(NodeName, String)>,
    hold: Option<Hold>,
    started: Instant,
    pause: Duration,
}

impl<'a> Opening<'a> {
    pub(crate) fn new(port: &'a Port, client: &'a mut Client) -> Opening<'a> {
        Opening {
            port,
            client,
            topology: port.topology.clone(),
            cursor: port.next_cursor(),
            tried: vec![],
            failures: vec![],
            hold: None,
            started: Instant::now(),
            pause: PAUSE_FIRST,
        }
    }

    /// Reads the client's first packet, or its first after a "no" to encryption, and finds a server for it.
    pub(crate) async fn open(&mut self) -> Result<Opened, Refusal> {
        let mut inbox = Vec::with_capacity(512);
        let mut server = None;
        self.end_tls(&mut inbox).await?;
        loop {
            let (kind, size) = self.first_packet(&mut inbox).await?;
            let expect = match kind {
                FirstPacket::Cancel => return Err(self.cancel(&inbox[..size]).await),
                FirstPacket::Startup => Expect::Message,
                FirstPacket::SslRequest | FirstPacket::GssEncRequest | FirstPacket::DirectTls => {
                    Expect::Anything
                }
            };
            let asked_for_encryption = wants_encryption(kind);
            let asked = self.ask(server.take(), &inbox[..size], expect).await;
            let (asked, answer) = asked.map_err(|refusal| Refusal { asked_for_encryption, ..refusal })?;
            let to_server = inbox.split_off(size);
            if !(asked_for_encryption && answer == b"N") {
                let is_legible = kind == FirstPacket::Startup;
                return Ok(Opened { server: asked, to_client: answer, to_server, is_legible });
            }
            // The client will go on in plain text, so its startup packet can be read, and held, like any.
            self.say(&answer).await?;
            inbox = to_server;
            server = Some(asked);
        }
    }

    /// For a client there is no session for: passes a cancel request on, where it may connect at all, and turns
    /// everything else away.
    pub(crate) async fn turn_away(&mut self, why: TurnedAway) -> Refusal {
        let mut inbox = Vec::with_capacity(512);
        if let Err(refusal) = self.end_tls(&mut inbox).await {
            return refusal;
        }
        match self.first_packet(&mut inbox).await {
            Ok((FirstPacket::Cancel, size)) if why != TurnedAway::NotAllowed => {
                self.cancel(&inbox[..size]).await
            }
            Ok((kind, _)) => {
                let asked_for_encryption = wants_encryption(kind);
                Refusal { asked_for_encryption, ..why.refusal(&self.port.settings) }
            }
            Err(refusal) => refusal,
        }
    }

    /// Where TLS ends here, shakes hands with a client that wants it. What is read of one that does not stays in
    /// the inbox.
    async fn end_tls(&mut self, inbox: &mut Vec<u8>) -> Result<(), Refusal> {
        let Some(tls) = &self.port.tls else { return Ok(()) };
        if self.starts_with_tls().await? {
            self.shake_hands(Arc::clone(tls)).await?;
            // Otherwise bytes of another protocol could be brought here by a client that is tricked (CVE-2021-3618).
            return if self.client.named_protocol() {
                Ok(())
            } else {
                Err(Refusal::violation("TLS without asking first must name its protocol by ALPN: postgresql"))
            };
        }
        loop {
            let (kind, size) = self.first_packet(inbox).await?;
            match kind {
                // What follows the question in plain text is not from the one who will shake hands (CVE-2021-23222).
                FirstPacket::SslRequest if inbox.len() > size => {
                    return Err(Refusal::violation("more follows the request for TLS than the request"));
                }
                FirstPacket::SslRequest => {
                    inbox.clear();
                    self.say(b"S").await?;
                    return self.shake_hands(Arc::clone(tls)).await;
                }
                FirstPacket::GssEncRequest => {
                    inbox.drain(..size);
                    self.say(b"N").await?;
                }
                FirstPacket::Startup if self.port.tls_is_required() => {
                    let text = format!("listener {} takes sessions over TLS only", self.port.settings.name);
                    return Err(Refusal::with(CloseReason::TlsRequired, pgwire::NOT_ALLOWED, text));
                }
                FirstPacket::Startup | FirstPacket::Cancel | FirstPacket::DirectTls => return Ok(()),
            }
        }
    }

    /// Whether the client's first byte is TLS's; it is left where it is.
    async fn starts_with_tls(&self) -> Result<bool, Refusal> {
        let mut first = [0];
        let peek = async {
            match self.client.tcp() {
                Some(client) => client.peek(&mut first).await.unwrap_or(0),
                None => 0,
            }
        };
        match within(self.port, peek).await? {
            0 => Err(Refusal::silent(CloseReason::ClientLeftEarly)),
            _ => Ok(first[0] == pgwire::TLS_HANDSHAKE),
        }
    }

    async fn shake_hands(&mut self, tls: Arc<ServerConfig>) -> Result<(), Refusal> {
        let (port, client) = (self.port, &mut *self.client);
        let done = within(port, client.encrypt(tls)).await?;
        done.map_err(|error| {
            tracing::debug!(listener = port.settings.name, %error, "TLS handshake failed");
            Refusal::silent(CloseReason::TlsFailed)
        })
    }

    /// Reads until a whole first packet is there, within the time for it.
    async fn first_packet(&mut self, inbox: &mut Vec<u8>) -> Result<(FirstPacket, usize), Refusal> {
        let (port, client) = (self.port, &mut *self.client);
        let (kind, size) = within(port, read_first(client, inbox)).await??;
        let nested = wants_encryption(kind) || kind == FirstPacket::DirectTls;
        if self.client.is_encrypted() && nested {
            return Err(Refusal::violation("encryption is asked for within TLS"));
        }
        Ok((kind, size))
    }

    /// Sends the packet to a server that answers it, starting with the one at hand.
    async fn ask(
        &mut self,
        at_hand: Option<Server>,
        packet: &[u8],
        expect: Expect,
    ) -> Result<(Server, Vec<u8>), Refusal> {
        self.started = Instant::now();
        self.pause = PAUSE_FIRST;
        self.tried.clear();
        self.failures.clear();
        let current = self.topology.current();
        let mut at_hand = at_hand.filter(|server| route::still_takes(&current, &server.target));
        loop {
            let mut server = match at_hand.take() {
                Some(server) => server,
                None => self.connect().await?,
            };
            let limit = match server.target.reign {
                // Another try would not find another primary; its reign's end and the hold time bound this.
                Some(_) => self.port.settings.hold_timeout,
                None => self.port.settings.answer_timeout,
            };
            let stream = &mut server.stream;
            let work = async move {
                let asked = timeout(limit, exchange(stream, packet, expect)).await;
                asked.unwrap_or_else(|_| {
                    Asked::NotYet(
                        ConnectFailure::NoAnswer,
                        format!("no answer within {}", show_duration(limit)),
                    )
                })
            };
            match self.unless_over(Some(&server.target), work).await? {
                None => {}
                Some(Asked::Answer(answer)) => {
                    server.target.node.welcome();
                    self.hold = None;
                    return Ok((server, answer));
                }
                Some(Asked::NotYet(cause, why)) => {
                    socket::reset_on_close(&server.stream);
                    self.failed(&server.target, cause, why);
                }
            }
        }
    }

    /// Connects to the target of the moment; holds while there is none.
    async fn connect(&mut self) -> Result<Server, Refusal> {
        let rules = self.port.settings.rules;
        loop {
            let topology = self.topology.see();
            let Some(target) = route::choose(rules, &topology, self.cursor, &self.tried, Tick::now()) else {
                self.wait(&topology).await?;
                continue;
            };
            let failed_before = self.failures.iter().any(|(name, _)| *name == target.name);
            if failed_before && !target.node.may_probe(Tick::now()) {
                self.tried.push(target.name.clone());
                continue;
            }
            let began = Instant::now();
            let dialling = dial(&target.address, &self.port.tcp, self.port.settings.connect_timeout);
            match self.unless_over(Some(&target), dialling).await? {
                None => {}
                Some(Ok(stream)) => {
                    self.port.metrics.connected(began.elapsed());
                    // S5: the picture may have changed while we connected.
                    if route::still_takes(&self.topology.current(), &target) {
                        let on_node = OnNode::new(&target);
                        return Ok(Server { stream, target, on_node });
                    }
                    socket::reset_on_close(&stream);
                }
                Some(Err(error)) => self.failed(&target, error.cause(), error.to_string()),
            }
        }
    }

    /// Notes a failure: this target is not tried again before the next pause, and others avoid it a while.
    fn failed(&mut self, target: &Target, cause: ConnectFailure, why: String) {
        self.port.metrics.connect_failed(cause);
        tracing::debug!(listener = self.port.settings.name, target = %target.name, %why, "server not opened");
        target.node.shun(Tick::now());
        self.failures.retain(|(name, _)| *name != target.name);
        self.failures.push((target.name.clone(), why));
        self.tried.push(target.name.clone());
    }

    /// Holds the client until the picture changes, or until it is time to ask those that failed again.
    async fn wait(&mut self, topology: &Topology) -> Result<(), Refusal> {
        if self.hold.is_none() {
            let limit = self.port.settings.hold_limit;
            let Some(seat) = self.port.counts.held.take(limit) else {
                let text = format!("{}; {limit} connections are waiting already", self.why(topology));
                return Err(Refusal::with(CloseReason::HoldLimit, pgwire::CANNOT_CONNECT_NOW, text));
            };
            self.hold = Some(Hold { _seat: seat, _guard: self.port.metrics.hold() });
        }
        let mut news = self.topology.clone();
        let work = async {
            if self.tried.is_empty() {
                news.changed().await;
                return true;
            }
            tokio::select! {
                () = news.changed() => true,
                () = self.recovery(topology) => true,
                () = sleep(self.pause) => false,
            }
        };
        let changed = self.unless_over(None, work).await? == Some(true);
        self.pause = if changed { PAUSE_FIRST } else { (self.pause * 3 / 2).min(PAUSE_MAX) };
        self.tried.clear();
        Ok(())
    }

    /// Waits until one of the targets that failed answers somebody else.
    async fn recovery(&self, topology: &Topology) {
        let targets = topology.replicas.iter().chain(&topology.primary);
        let failed = targets.filter(|t| self.tried.contains(&t.name));
        let recoveries: Vec<_> = failed.map(|t| Box::pin(t.node.recovered())).collect();
        if recoveries.is_empty() {
            std::future::pending::<()>().await;
        }
        futures_util::future::select_all(recoveries).await;
    }

    /// Does `work` unless the client leaves, the hold time is over, the proxy stops (all of which end the
    /// opening), or the target's reign ends (`None`: look again).
    async fn unless_over<T>(
        &self,
        target: Option<&Target>,
        work: impl Future<Output = T>,
    ) -> Result<Option<T>, Refusal> {
        let reign_ended = async {
            match target.and_then(|t| t.reign.as_ref()) {
                Some(reign) => reign.ended().await,
                None => std::future::pending().await,
            }
        };
        let deadline = self.started + self.port.settings.hold_timeout;
        tokio::select! {
            biased;
            () = self.port.cut.made() => Err(stopping(self.port)),
            _ = reign_ended => Ok(None),
            result = work => Ok(Some(result)),
            () = client_left(self.client.tcp()) => Err(Refusal::silent(CloseReason::ClientLeftEarly)),
            () = sleep_until(deadline.into()) => Err(self.timed_out()),
        }
    }

    fn timed_out(&self) -> Refusal {
        let topology = self.topology.current();
        let waited = show_duration(self.port.settings.hold_timeout);
        let text = format!("{}; gave up after {waited}", self.why(&topology));
        Refusal::with(CloseReason::HoldTimeout, pgwire::CANNOT_CONNECT_NOW, text)
    }

    /// Which cluster, why nobody takes this client, since when.
    fn why(&self, topology: &Topology) -> String {
        let rules = self.port.settings.rules;
        let somebody = route::choose(rules, topology, self.cursor, &[], Tick::now()).is_some();
        let nobody = if somebody {
            Nobody::Unreachable(self.failures.clone())
        } else {
            route::why_nobody(rules, topology)
        };
        let since = match (rules.role, topology.missing_since) {
            (Role::Primary, Some(since)) => {
                format!(" (for {:.1} s)", Tick::now().since(since).as_secs_f64())
            }
            _ => String::new(),
        };
        format!("cluster {}: {nobody}{since}", topology.cluster)
    }

    async fn say(&mut self, bytes: &[u8]) -> Result<(), Refusal> {
        let written = timeout(self.port.settings.startup_timeout, self.client.send(bytes)).await;
        written.ok().and_then(Result::ok).ok_or(Refusal::silent(CloseReason::ClientLeftEarly))
    }

    /// Passes a cancel request to every server it may belong to and waits until they have closed, as libpq
    /// waits for us.
    async fn cancel(&self, packet: &[u8]) -> Refusal {
        let targets = route::all_for_cancel(self.port.settings.rules, &self.topology.current());
        let limit = self.port.settings.connect_timeout;
        let each = targets.iter().map(async |target| {
            let mut stream = dial(&target.address, &self.port.tcp, limit).await.ok()?;
            stream.write_all(packet).await.ok()?;
            let closed = async { while stream.read(&mut [0; 64]).await.is_ok_and(|n| n > 0) {} };
            timeout(limit, closed).await.ok()
        });
        let delivered = futures_util::future::join_all(each).await.iter().any(Option::is_some);
        Refusal::silent(if delivered { CloseReason::CancelForwarded } else { CloseReason::CancelUnrouted })
    }
}

/// Does what a client has the time of its first packet for.
async fn within<T>(port: &Port, work: impl Future<Output = T>) -> Result<T, Refusal> {
    tokio::select! {
        done = work => Ok(done),
        () = sleep(port.settings.startup_timeout) => Err(Refusal::silent(CloseReason::FirstPacketTimeout)),
        () = port.cut.made() => Err(stopping(port)),
    }
}

fn stopping(port: &Port) -> Refusal {
    let text = format!("listener {}: the proxy is stopping", port.settings.name);
    Refusal::with(CloseReason::Drained, pgwire::CANNOT_CONNECT_NOW, text)
}

const fn wants_encryption(kind: FirstPacket) -> bool {
    matches!(kind, FirstPacket::SslRequest | FirstPacket::GssEncRequest)
}

/// Reads until a whole first packet is there; answers its kind and size.
async fn read_first(client: &mut Client, inbox: &mut Vec<u8>) -> Result<(FirstPacket, usize), Refusal> {
    loop {
        match pgwire::first_packet(inbox) {
            FirstRead::Whole(kind, size) => return Ok((kind, size)),
            FirstRead::Malformed(why) => return Err(Refusal::violation(why)),
            FirstRead::NeedMore => match client.read_buf(inbox).await {
                Ok(0) | Err(_) => return Err(Refusal::silent(CloseReason::ClientLeftEarly)),
                Ok(_) => {}
            },
        }
    }
}

/// Says no to encryption until the client goes on without it, so that an error can be told in the plain:
/// libpq does not show an error that comes in place of the yes or no (CVE-2024-10977). A client that insists
/// on encryption leaves.
pub(crate) async fn decline_encryption(client: &mut Client) -> io::Result<()> {
    loop {
        client.send(b"N").await?;
        let mut inbox = Vec::with_capacity(512);
        match read_first(client, &mut inbox).await {
            Ok((kind, _)) if wants_encryption(kind) => {}
            Ok(_) => return Ok(()),
            Err(_) => return Err(io::ErrorKind::ConnectionAborted.into()),
        }
    }
}

/// Sends the client's packet and waits for the first answer.
async fn exchange(server: &mut TcpStream, packet: &[u8], expect: Expect) -> Asked {
    let no_answer = |why: String| Asked::NotYet(ConnectFailure::NoAnswer, why);
    if let Err(error) = server.write_all(packet).await {
        return no_answer(error.to_string());
    }
    let mut answer = Vec::with_capacity(1024);
    loop {
        match server.read_buf(&mut answer).await {
            Ok(0) => return no_answer("closed the connection without an answer".to_owned()),
            Err(error) => return no_answer(error.to_string()),
            Ok(_) if expect == Expect::Anything => return Asked::Answer(answer),
            Ok(_) => match pgwire::first_answer(&answer) {
                FirstAnswer::NeedMore => {}
                FirstAnswer::NotNow(said) => {
                    return Asked::NotYet(ConnectFailure::NotNow, format!("it says: {said}"));
                }
                FirstAnswer::PassOn => return Asked::Answer(answer),
            },
        }
    }
}

/// Completes when the client closed or broke. A client that talks before it was answered is not watched
/// further; the hold time bounds it.
async fn client_left(client: Option<&TcpStream>) {
    let Some(client) = client else { return };
    if let Ok(1..) = client.peek(&mut [0; 1]).await {
        std::future::pending::<()>().await;
    }
}
