//! From an accepted client to a server that has answered it: first packet, hold, dial, first answer.
//!
//! Until the server's first answer nothing has been sent to the client, so everything before it may be
//! tried again elsewhere: a refused connect, a server that says 57P03, one that closes without a word. What
//! cannot be had within the hold time ends in a PostgreSQL error that says why.

mod cancel;
mod entry;
mod exchange;
mod find;
mod reach;

use std::sync::Arc;
use std::time::{Duration, Instant};

use pgvane_cluster::ids::NodeName;
use pgvane_cluster::units::show_duration;
use tokio::time::timeout;

pub(crate) use self::entry::decline_encryption;
use self::exchange::{Asked, Expect, exchange};
use self::find::{Hold, PAUSE_FIRST, Queue};
use crate::close::CloseReason;
use crate::conn::Conn;
use crate::listen::{Port, Room};
use crate::metrics::ConnectFailure;
use crate::pgwire::FirstPacket;
use crate::refusal::{Refusal, TurnedAway};
use crate::roster::Ticket;
use crate::route;
use crate::topology::{OnNode, Target, TopologyRx};

/// A server connection and the target it belongs to.
#[derive(Debug)]
pub(crate) struct Server {
    pub(crate) conn: Conn,
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

/// The opening of one session.
pub(crate) struct Opening<'a> {
    ticket: &'a Ticket,
    port: &'a Port,
    client: &'a mut Conn,
    topology: TopologyRx,
    cursor: usize,
    /// Targets that failed since the last pause.
    tried: Vec<NodeName>,
    /// The last error of each target.
    failures: Vec<(NodeName, String)>,
    hold: Option<Hold>,
    queue: Option<Queue>,
    started: Instant,
    pause: Duration,
}

impl<'a> Opening<'a> {
    pub(crate) fn new(ticket: &'a Ticket, client: &'a mut Conn) -> Opening<'a> {
        let port = &*ticket.port;
        Opening {
            ticket,
            port,
            client,
            topology: port.topology.clone(),
            cursor: port.next_cursor(),
            tried: vec![],
            failures: vec![],
            hold: None,
            queue: None,
            started: Instant::now(),
            pause: PAUSE_FIRST,
        }
    }

    /// Reads the client's first packet, or its first after a "no" to encryption, and finds a server for it.
    pub(crate) async fn open(&mut self, room: &mut Room) -> Result<Opened, Refusal> {
        if let Some(source) = self.be_told_source().await?
            && let Err(why) = self.port.admit_told(room, source.ip())
        {
            return Err(self.turn_away_told(why).await);
        }
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
        match self.be_told_source().await {
            Ok(_) => self.turn_away_told(why).await,
            Err(refusal) => refusal,
        }
    }

    /// The same, when it is known who the client is.
    async fn turn_away_told(&mut self, why: TurnedAway) -> Refusal {
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
            let conn = &mut server.conn;
            let work = async move {
                let asked = timeout(limit, exchange(conn, packet, expect)).await;
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
                    server.conn.reset_on_close();
                    self.failed(&server.target, cause, why);
                }
            }
        }
    }

    /// Does `work` unless the client leaves, the hold time is over, the session is to end (all of which end the
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
            reason = self.ticket.ended() => Err(ending(self.port, reason)),
            _ = reign_ended => Ok(None),
            result = work => Ok(Some(result)),
            () = client_left(self.client) => Err(Refusal::silent(CloseReason::ClientLeftEarly)),
            () = tokio::time::sleep_until(deadline.into()) => Err(self.timed_out()),
        }
    }
}

/// What a client hears whose session is ended from outside before it is open.
fn ending(port: &Port, reason: CloseReason) -> Refusal {
    let why = match reason {
        CloseReason::Drained => "the proxy is stopping",
        _ => "an operator has ended this session",
    };
    let text = format!("listener {}: {why}", port.settings.name);
    Refusal::with(reason, crate::pgwire::CANNOT_CONNECT_NOW, text)
}

const fn wants_encryption(kind: FirstPacket) -> bool {
    matches!(kind, FirstPacket::SslRequest | FirstPacket::GssEncRequest)
}

/// Completes when the client closed or broke. A client that talks before it was answered is not watched
/// further; the hold time bounds it.
async fn client_left(client: &Conn) {
    if let Ok(1..) = client.peek(&mut [0; 1]).await {
        std::future::pending::<()>().await;
    }
}
