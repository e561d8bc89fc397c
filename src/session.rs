//! One client from accept to close: open, splice, account. The only place that ends a session.

use std::future::poll_fn;
use std::io;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::Duration;

use futures_util::FutureExt;
use pgvane_cluster::clock::Tick;
use tokio::io::AsyncWriteExt;
use tokio::time::{Sleep, sleep, timeout};
use tracing::{debug, info};

use crate::close::{CloseReason, Side};
use crate::conn::{Accepted, Conn};
use crate::cut::Made;
use crate::listen::{Port, Room};
use crate::metrics::ListenerMetrics;
use crate::open::{Opened, Opening, Server, decline_encryption};
use crate::pgwire::{self, Framing};
use crate::refusal::{Refusal, TurnedAway};
use crate::roster::{EndWait, Enrolled, Ticket};
use crate::splice::{Duplex, Event, Host};
use crate::topology::{OnNode, Reign, Target};
use crate::workers::OnWorker;

/// Time a client has to close after its server has closed and everything was delivered. PostgreSQL never
/// half-closes, so there is nothing left to wait for but the client's own goodbye.
const GOODBYE: Duration = Duration::from_secs(5);

/// Time to put an error message into the socket of a client that is turned away.
const LAST_WORDS: Duration = Duration::from_secs(1);

/// How a session ended.
#[derive(Debug)]
struct Ended {
    reason: CloseReason,
    error: Option<String>,
    target: Option<(String, Option<i64>)>,
    to_client: u64,
    to_server: u64,
}

impl Ended {
    /// The kernel has no room to watch the client's socket.
    fn unserved(error: &io::Error) -> Ended {
        let reason = CloseReason::of_error(Side::Client, error);
        Ended { reason, error: Some(error.to_string()), target: None, to_client: 0, to_server: 0 }
    }
}

/// Serves one accepted client to its end.
///
/// Not an `async fn`: that would keep room for each argument twice, in every session.
pub(crate) fn serve(
    ticket: Enrolled,
    client: Accepted,
    mut room: Room,
    on_worker: OnWorker,
) -> impl Future<Output = ()> + Send {
    let guard = ticket.port.metrics.session();
    async move {
        let ended = run(&ticket, client, &mut room).await.unwrap_or_else(|ended| ended);
        drop((guard, room));
        ticket.port.metrics.ended(ended.reason);
        report(&ticket, &ended);
        drop(on_worker);
    }
}

/// Turns away a client for whom there is no session left, unless it only wants to cancel a query.
pub(crate) async fn turn_away(ticket: Ticket, client: Accepted, why: TurnedAway) {
    let ended = match Conn::try_from(client) {
        Ok(mut client) => {
            let refusal = timeout(LAST_WORDS, Opening::new(&ticket, &mut client).turn_away(why)).await;
            refuse(client, refusal.unwrap_or_else(|_| Refusal::silent(why.reason()))).await
        }
        Err(error) => Ended::unserved(&error),
    };
    ticket.port.metrics.ended(ended.reason);
    report(&ticket, &ended);
}

/// A session that is open.
struct Live {
    client: Conn,
    server: Conn,
    duplex: Duplex,
    target: Arc<Target>,
    /// Where in its stream of messages the server has been heard.
    framing: Framing,
    _on_node: OnNode,
}

/// Opens a session and serves it; an error is the end of one that could not be opened.
async fn run(ticket: &Ticket, client: Accepted, room: &mut Room) -> Result<Ended, Ended> {
    // What happens before a session, or seldom, is boxed: its states are gone, and not merely unused, meanwhile.
    let mut live = Box::pin(open(ticket, client, room)).await?;
    let (reason, error) = splice(ticket, &mut live).await;
    Ok(live.end(&ticket.port, reason, error))
}

async fn open(ticket: &Ticket, client: Accepted, room: &mut Room) -> Result<Live, Ended> {
    let mut client = Conn::try_from(client).map_err(|error| Ended::unserved(&error))?;
    let opened = Opening::new(ticket, &mut client).open(room).await;
    match opened {
        Ok(Opened { server, to_client, to_server, is_legible }) => {
            let Server { conn: server, target, on_node } = server;
            ticket.opened(&target);
            let duplex = Duplex::with_pending(to_client, to_server);
            let framing = if is_legible { Framing::START } else { Framing::Lost };
            Ok(Live { client, server, duplex, target, framing, _on_node: on_node })
        }
        Err(refusal) => Err(refuse(client, refusal).await),
    }
}

impl Live {
    fn end(mut self, port: &Port, reason: CloseReason, error: Option<String>) -> Ended {
        let reign = self.target.reign.as_deref();
        self.duplex.settle(&mut SessionHost { reign, metrics: &port.metrics, framing: &mut self.framing });
        match reason {
            CloseReason::ClientClosed | CloseReason::ServerClosed => {}
            // A reset is passed on as a reset.
            CloseReason::ServerReset | CloseReason::ServerTimedOut => {
                self.client.reset_on_close();
            }
            // The server shall drop its backend at once, whatever it was doing for a client it has lost.
            _ => self.server.reset_on_close(),
        }
        let (to_client, to_server) = self.duplex.totals();
        let target = Some((self.target.name.to_string(), reign.map(|reign| reign.epoch().0)));
        let why = self.why_cut(port, reason);
        drop(self.server);
        if let Some(why) = why {
            self.client.send_last(&pgwire::fatal(pgwire::ADMIN_SHUTDOWN, &why));
        }
        Ended { reason, error, target, to_client, to_server }
    }

    /// What a client that is cut can be told; nothing within a message, which it would take for a part of it.
    fn why_cut(&self, port: &Port, reason: CloseReason) -> Option<String> {
        let (cluster, name) = (&port.settings.cluster, &self.target.name);
        let why = match reason {
            CloseReason::EpochEnded => format!("{name} is not the primary any more"),
            CloseReason::StoreLost => format!("nobody can prove any more that {name} is the primary"),
            CloseReason::Drained => "the proxy is stopping".to_owned(),
            CloseReason::Killed => "an operator has ended this session".to_owned(),
            CloseReason::TargetDisabled => format!("an operator has disabled {name}"),
            _ => return None,
        };
        self.framing.is_between().then(|| format!("pgvane: cluster {cluster}: {why}; connect again"))
    }
}

/// What a session is to its splice: the reign says whether bytes may pass.
struct SessionHost<'a> {
    reign: Option<&'a Reign>,
    metrics: &'a ListenerMetrics,
    framing: &'a mut Framing,
}

impl Host for SessionHost<'_> {
    fn may_forward(&self) -> bool {
        self.reign.is_none_or(|reign| reign.is_open(Tick::now()))
    }

    fn moved(&mut self, side: Side, bytes: u64) {
        self.metrics.moved(side, bytes);
    }

    fn wrote(&mut self, side: Side, bytes: Option<&[u8]>) {
        if side == Side::Client {
            *self.framing = bytes.map_or(Framing::Lost, |bytes| self.framing.after(bytes));
        }
    }
}

/// Moves bytes until one side is done or the session is cut.
async fn splice(ticket: &Ticket, live: &mut Live) -> (CloseReason, Option<String>) {
    let Live { client, server, duplex, target, framing, .. } = live;
    let reign = target.reign.as_deref();
    let mut host = SessionHost { reign, metrics: &ticket.port.metrics, framing };
    let mut cuts = Cuts::new(ticket, reign);
    let mut goodbye: Option<Pin<Box<Sleep>>> = None;
    loop {
        let event = tokio::select! {
            biased;
            reason = poll_fn(|cx| cuts.poll(cx)) => return (reason, None),
            event = poll_fn(|cx| duplex.poll(cx, client, server, &mut host)) => event,
            () = due(&mut goodbye) => Event::Closed(Side::Server),
        };
        match event {
            Event::Shut => {
                let opened = Box::pin(async {
                    if let Some(reign) = reign {
                        reign.opened().await;
                    }
                });
                tokio::select! {
                    biased;
                    reason = poll_fn(|cx| cuts.poll(cx)) => return (reason, None),
                    () = opened => {}
                }
            }
            Event::HalfClosed(Side::Client) => {}
            Event::HalfClosed(Side::Server) => goodbye = Some(Box::pin(sleep(GOODBYE))),
            Event::Closed(Side::Client) => return (CloseReason::ClientClosed, None),
            Event::Closed(Side::Server) => return (CloseReason::ServerClosed, None),
            Event::Failed(side, error) => {
                return (CloseReason::of_error(side, &error), Some(error.to_string()));
            }
        }
    }
}

async fn due(timer: &mut Option<Pin<Box<Sleep>>>) {
    match timer {
        Some(timer) => timer.await,
        None => std::future::pending().await,
    }
}

/// What ends a session whatever its bytes do.
struct Cuts<'a> {
    reign: Option<(&'a Reign, Made<'a>)>,
    ticket: &'a Ticket,
    end: EndWait,
}

impl<'a> Cuts<'a> {
    fn new(ticket: &'a Ticket, reign: Option<&'a Reign>) -> Cuts<'a> {
        Cuts { reign: reign.map(|reign| (reign, reign.cut())), ticket, end: EndWait::default() }
    }

    fn poll(&mut self, cx: &mut Context<'_>) -> Poll<CloseReason> {
        if let Some((reign, made)) = &mut self.reign
            && made.poll_unpin(cx).is_ready()
        {
            return Poll::Ready(reign.reason());
        }
        self.end.poll(self.ticket, cx)
    }
}

/// Says why, where there is something to say, and closes.
async fn refuse(mut client: Conn, refusal: Refusal) -> Ended {
    let mut to_client = 0;
    if let Some((sqlstate, text)) = &refusal.message {
        let message = pgwire::fatal(sqlstate, &format!("pgvane: {text}"));
        let told = timeout(LAST_WORDS, async {
            if refusal.asked_for_encryption {
                decline_encryption(&mut client).await?;
            }
            client.send(&message).await?;
            if client.is_encrypted() { client.shutdown().await } else { Ok(()) }
        });
        if let Ok(Ok(())) = told.await {
            to_client = message.len() as u64;
            client.discard();
        }
    }
    let error = refusal.message.map(|(_, text)| text);
    Ended { reason: refusal.reason, error, target: None, to_client, to_server: 0 }
}

fn report(ticket: &Ticket, ended: &Ended) {
    let settings = &ticket.port.settings;
    let (target, epoch) = match &ended.target {
        Some((name, epoch)) => (Some(name.as_str()), *epoch),
        None => (None, None),
    };
    macro_rules! line {
        ($level:ident) => {
            $level!(
                session = ticket.number,
                client = %ticket.client(),
                listener = settings.name,
                cluster = settings.cluster,
                target,
                epoch,
                reason = ended.reason.label(),
                error = ended.error,
                duration_ms = u64::try_from(ticket.started.elapsed().as_millis()).unwrap_or(u64::MAX),
                to_client = ended.to_client,
                to_server = ended.to_server,
                "session ended"
            )
        };
    }
    if ended.reason.is_normal() {
        line!(debug);
    } else {
        line!(info);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Thousands of sessions are open and idle; what each holds is this, twice a socket's registration, and the
    /// kernel's part.
    #[test]
    fn an_open_session_is_small() {
        fn size<A, B, C, D, R>(_: fn(A, B, C, D) -> R) -> usize {
            std::mem::size_of::<R>()
        }
        assert!(size(serve) <= 640, "{} bytes", size(serve));
        assert!(std::mem::size_of::<Ticket>() <= 144, "{} bytes", std::mem::size_of::<Ticket>());
    }
}
