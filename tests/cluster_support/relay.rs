//! A TCP relay on a port of its own that can be cut, so that one side loses a server that all others still reach.

use std::net::SocketAddr;

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::tcp::{OwnedReadHalf, OwnedWriteHalf};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::watch;
use tokio::task::JoinSet;
use xtask::playground::ports::Ports;

/// What the relay does with bytes and connections.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Manner {
    /// Passes them on.
    Pass,
    /// Takes connections and bytes and passes nothing on; what is under way arrives when it passes again.
    Swallow,
    /// Closes what is open and refuses the rest.
    Refuse,
}

/// A relay; dropping it ends it.
pub(crate) struct Relay {
    pub(crate) address: SocketAddr,
    manner: watch::Sender<Manner>,
    server: watch::Sender<Option<SocketAddr>>,
    _task: JoinSet<()>,
}

impl Relay {
    /// A relay that holds on to connections until it is told where its server is.
    pub(crate) async fn start() -> Relay {
        let address = Ports::new().free().expect("a port");
        let listener = TcpListener::bind(address).await.expect("the port is free");
        let (manner, on_manner) = watch::channel(Manner::Pass);
        let (server, on_server) = watch::channel(None);
        let mut task = JoinSet::new();
        task.spawn(serve(listener, on_manner, on_server));
        Relay { address, manner, server, _task: task }
    }

    /// A relay to `server`.
    pub(crate) async fn to(server: SocketAddr) -> Relay {
        let relay = Relay::start().await;
        relay.leads_to(server);
        relay
    }

    /// Names the server.
    pub(crate) fn leads_to(&self, server: SocketAddr) {
        self.server.send_replace(Some(server));
    }

    /// From now on.
    pub(crate) fn turn(&self, manner: Manner) {
        self.manner.send_replace(manner);
    }
}

async fn serve(
    listener: TcpListener,
    manner: watch::Receiver<Manner>,
    server: watch::Receiver<Option<SocketAddr>>,
) {
    let mut turned = manner.clone();
    let address = listener.local_addr().expect("bound");
    let mut listener = Some(listener);
    let mut open = JoinSet::new();
    loop {
        let accepting = match listener.take() {
            Some(listener) => listener,
            None => TcpListener::bind(address).await.expect("nobody else takes the port"),
        };
        loop {
            tokio::select! {
                biased;
                refuse = turned.wait_for(|m| *m == Manner::Refuse) => match refuse {
                    Ok(_) => break,
                    Err(_) => return,
                },
                accepted = accepting.accept() => {
                    let (client, _) = accepted.expect("accept");
                    open.spawn(carry(client, manner.clone(), server.clone()));
                }
                Some(_) = open.join_next() => {}
            }
        }
        drop(accepting);
        if turned.wait_for(|m| *m != Manner::Refuse).await.is_err() {
            return;
        }
    }
}

/// One connection, until it is over or refused.
async fn carry(
    client: TcpStream,
    manner: watch::Receiver<Manner>,
    mut server: watch::Receiver<Option<SocketAddr>>,
) {
    let mut refused = manner.clone();
    let work = async {
        passes(&mut manner.clone()).await?;
        let address = (*server.wait_for(Option::is_some).await.ok()?)?;
        let server = TcpStream::connect(address).await.ok()?;
        let (from_client, to_client) = client.into_split();
        let (from_server, to_server) = server.into_split();
        tokio::join!(
            one_way(from_client, to_server, manner.clone()),
            one_way(from_server, to_client, manner)
        );
        Some(())
    };
    tokio::select! {
        _ = refused.wait_for(|m| *m == Manner::Refuse) => {}
        _ = work => {}
    }
}

/// Waits until bytes may pass; `None`: the relay is gone.
async fn passes(manner: &mut watch::Receiver<Manner>) -> Option<()> {
    manner.wait_for(|m| *m == Manner::Pass).await.ok().map(drop)
}

async fn one_way(mut from: OwnedReadHalf, mut to: OwnedWriteHalf, mut manner: watch::Receiver<Manner>) {
    let mut buffer = vec![0; 16 << 10];
    while let Ok(count @ 1..) = from.read(&mut buffer).await {
        if passes(&mut manner).await.is_none() || to.write_all(&buffer[..count]).await.is_err() {
            return;
        }
    }
    if passes(&mut manner).await.is_some() {
        to.shutdown().await.ok();
    }
}
