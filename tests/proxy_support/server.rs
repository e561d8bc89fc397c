//! A server that speaks the first words of PostgreSQL's protocol and then echoes.

use std::net::SocketAddr;
use std::sync::{Arc, Mutex};

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::{mpsc, watch};
use tokio::task::JoinHandle;
use xtask::playground::ports::Ports;

use super::soon;

/// How it meets a connection.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Manner {
    /// Lets the client in, says its name, echoes.
    Serve,
    /// Says 57P03.
    NotNow,
    /// Says `AuthenticationOk` and then 57P01.
    GoesDown,
    /// Closes without a word.
    HangsUp,
    /// Accepts and says nothing.
    Silent,
    /// Says yes to encryption; what follows is opaque and echoed.
    Tls,
}

/// What it saw.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(crate) enum Seen {
    /// A client was let in.
    LetIn,
    /// A cancel request with this key.
    Cancel(Vec<u8>),
    /// A client that was let in ended in order.
    Closed,
    /// A client that was let in was reset.
    Reset,
}

pub(crate) struct Server {
    pub(crate) address: SocketAddr,
    manner: watch::Sender<Manner>,
    /// Connections met so far.
    pub(crate) met: watch::Receiver<u64>,
    seen: mpsc::UnboundedReceiver<Seen>,
    accepting: JoinHandle<()>,
}

impl Drop for Server {
    fn drop(&mut self) {
        self.accepting.abort();
    }
}

impl Server {
    pub(crate) async fn start(name: &str, manner: Manner) -> Server {
        // It may end and come back there.
        Server::start_at(name, manner, Ports::new().free().expect("a port")).await
    }

    pub(crate) async fn start_at(name: &str, manner: Manner, address: SocketAddr) -> Server {
        let listener = TcpListener::bind(address).await.expect("bind");
        let address = listener.local_addr().expect("bound");
        let (manner, manner_rx) = watch::channel(manner);
        let (met_tx, met) = watch::channel(0);
        let (tell, seen) = mpsc::unbounded_channel();
        let name = name.to_owned();
        let accepting = tokio::spawn(async move {
            let kept = Arc::new(Mutex::new(Vec::new()));
            loop {
                let (stream, _) = listener.accept().await.expect("accept");
                let manner = *manner_rx.borrow();
                met_tx.send_modify(|n| *n += 1);
                tokio::spawn(meet(stream, manner, name.clone(), tell.clone(), Arc::clone(&kept)));
            }
        });
        Server { address, manner, met, seen, accepting }
    }

    pub(crate) fn behave(&self, manner: Manner) {
        self.manner.send_replace(manner);
    }

    /// Waits until it has met `count` connections.
    pub(crate) async fn until_met(&mut self, count: u64) {
        soon("a connection to the server", self.met.wait_for(|n| *n >= count)).await.expect("it accepts");
    }

    /// The next thing it saw.
    pub(crate) async fn sees(&mut self) -> Seen {
        soon("something the server sees", self.seen.recv()).await.expect("it accepts")
    }

    /// Stops listening; its port refuses from now on.
    pub(crate) async fn leave(mut self) -> SocketAddr {
        self.accepting.abort();
        let _ = (&mut self.accepting).await;
        self.address
    }
}

async fn packet(stream: &mut TcpStream) -> Option<(u32, Vec<u8>)> {
    let length = stream.read_u32().await.ok()?;
    let mut rest = vec![0; (length as usize).checked_sub(4)?];
    stream.read_exact(&mut rest).await.ok()?;
    let code = u32::from_be_bytes(rest.get(..4)?.try_into().ok()?);
    Some((code, rest[4..].to_vec()))
}

async fn meet(
    mut stream: TcpStream,
    manner: Manner,
    name: String,
    tell: mpsc::UnboundedSender<Seen>,
    kept: Arc<Mutex<Vec<TcpStream>>>,
) {
    match manner {
        Manner::HangsUp => return,
        Manner::Silent => {
            kept.lock().expect("nobody panics with it").push(stream);
            return;
        }
        Manner::Serve | Manner::NotNow | Manner::GoesDown | Manner::Tls => {}
    }
    loop {
        let Some((code, rest)) = packet(&mut stream).await else { return };
        match code {
            80_877_103 | 80_877_104 if manner == Manner::Tls => {
                stream.write_all(b"S").await.expect("write");
                break;
            }
            80_877_103 | 80_877_104 => stream.write_all(b"N").await.expect("write"),
            80_877_102 => {
                tell.send(Seen::Cancel(rest)).ok();
                return;
            }
            _ => {
                let answer = match manner {
                    Manner::NotNow => pgvane::pgwire::fatal("57P03", "the database system is starting up"),
                    Manner::GoesDown => {
                        [&b"R\0\0\0\x08\0\0\0\0"[..], &pgvane::pgwire::fatal("57P01", "going down")].concat()
                    }
                    _ => let_in(&name),
                };
                if stream.write_all(&answer).await.is_err()
                    || matches!(manner, Manner::NotNow | Manner::GoesDown)
                {
                    return;
                }
                break;
            }
        }
    }
    tell.send(Seen::LetIn).ok();
    let mut bytes = vec![0; 65_536];
    loop {
        match stream.read(&mut bytes).await {
            Ok(0) => {
                tell.send(Seen::Closed).ok();
                return;
            }
            Ok(n) => {
                if stream.write_all(&bytes[..n]).await.is_err() {
                    tell.send(Seen::Reset).ok();
                    return;
                }
            }
            Err(_) => {
                tell.send(Seen::Reset).ok();
                return;
            }
        }
    }
}

/// `AuthenticationOk`, a parameter with the server's name, `ReadyForQuery`.
fn let_in(name: &str) -> Vec<u8> {
    let mut bytes = b"R\0\0\0\x08\0\0\0\0".to_vec();
    let parameter = format!("server\0{name}\0");
    bytes.push(b'S');
    bytes.extend(u32::try_from(parameter.len() + 4).expect("short").to_be_bytes());
    bytes.extend(parameter.as_bytes());
    bytes.extend(b"Z\0\0\0\x05I");
    bytes
}
