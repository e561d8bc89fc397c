//! One side's connection: TCP or a Unix socket in plain text, or TCP with TLS that ends here.

use std::io;
use std::net::Shutdown;
use std::os::unix::net::UnixStream as StdUnixStream;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};

use futures_util::FutureExt;
use rustix::net::RecvFlags;
use rustls::pki_types::ServerName;
use rustls::{ClientConfig, ServerConfig};
use socket2::SockRef;
use tokio::io::{AsyncRead, AsyncWrite, AsyncWriteExt, Interest, ReadBuf};
use tokio::net::{TcpStream, UnixStream};
use tokio_rustls::{TlsAcceptor, TlsConnector, TlsStream};

use crate::socket;
use crate::splice::Stream;

/// Most reads, of 4 KiB, of what nobody will read.
const DISCARDS: usize = 64;

/// A connection that was accepted and belongs to no runtime yet.
#[derive(Debug)]
pub(crate) enum Accepted {
    Tcp(std::net::TcpStream),
    Unix(StdUnixStream),
}

/// A connection of a client or to a server.
#[derive(Debug)]
pub(crate) enum Conn {
    Tcp(TcpStream),
    Unix(UnixStream),
    /// Boxed: a session in plain text shall not pay for it.
    Tls(Box<TlsStream<TcpStream>>),
    /// Lost in a handshake.
    Lost,
}

impl TryFrom<Accepted> for Conn {
    type Error = io::Error;

    /// Must be called within the runtime that is to serve it.
    fn try_from(accepted: Accepted) -> io::Result<Conn> {
        Ok(match accepted {
            Accepted::Tcp(stream) => Conn::Tcp(TcpStream::from_std(stream)?),
            Accepted::Unix(stream) => Conn::Unix(UnixStream::from_std(stream)?),
        })
    }
}

impl Conn {
    /// The TCP socket at the bottom; `None` where there is none.
    pub(crate) fn tcp(&self) -> Option<&TcpStream> {
        match self {
            Conn::Tcp(stream) => Some(stream),
            Conn::Tls(stream) => Some(stream.get_ref().0),
            Conn::Unix(_) | Conn::Lost => None,
        }
    }

    /// Whether what is read was encrypted on the way.
    pub(crate) const fn is_encrypted(&self) -> bool {
        matches!(self, Conn::Tls(_))
    }

    /// Whether it never leaves this machine.
    pub(crate) const fn is_local(&self) -> bool {
        matches!(self, Conn::Unix(_))
    }

    /// Whether the other side offered our protocol by name (ALPN).
    pub(crate) fn named_protocol(&self) -> bool {
        match self {
            Conn::Tls(stream) => stream.get_ref().1.alpn_protocol().is_some(),
            Conn::Tcp(_) | Conn::Unix(_) | Conn::Lost => false,
        }
    }

    /// Waits for bytes on the socket below and leaves them there; 0 is the end.
    pub(crate) async fn peek(&self, bytes: &mut [u8]) -> io::Result<usize> {
        match (self, self.tcp()) {
            (_, Some(stream)) => stream.peek(bytes).await,
            (Conn::Unix(stream), _) => {
                let look = || Ok(rustix::net::recv(stream, &mut *bytes, RecvFlags::PEEK)?.1);
                stream.async_io(Interest::READABLE, look).await
            }
            _ => Ok(0),
        }
    }

    /// Sends all of it, now.
    pub(crate) async fn send(&mut self, bytes: &[u8]) -> io::Result<()> {
        self.write_all(bytes).await?;
        self.flush().await
    }

    /// Sends what fits now, and the end, as the close that follows must not wait: thousands may have to hear it.
    pub(crate) fn send_last(&mut self, bytes: &[u8]) {
        if let Conn::Tcp(socket) = self {
            let _ = socket::send_before_end(socket, bytes);
            // Not left to the close: a close that finds unread bytes throws away what was not sent.
            let _ = SockRef::from(&*socket).shutdown(Shutdown::Write);
        } else {
            let _ = self.send(bytes).now_or_never();
            let _ = self.shutdown().now_or_never();
        }
        self.discard();
    }

    /// Reads what has come and nobody will read: it would turn the close into a reset, which may overtake what was
    /// sent before it. Of one who goes on sending, no more than a socket holds.
    pub(crate) fn discard(&self) {
        let mut bytes = [0; 4096];
        for _ in 0..DISCARDS {
            // The kernel is asked, for the runtime may not know yet of what has just come.
            let read = match (self, self.tcp()) {
                (_, Some(socket)) => rustix::net::recv(socket, &mut bytes, RecvFlags::DONTWAIT),
                (Conn::Unix(socket), _) => rustix::net::recv(socket, &mut bytes, RecvFlags::DONTWAIT),
                _ => return,
            };
            if !read.is_ok_and(|(n, _)| n > 0) {
                return;
            }
        }
    }

    /// Makes the close that follows a reset, where there is such a thing.
    pub(crate) fn reset_on_close(&self) {
        self.tcp().into_iter().for_each(socket::reset_on_close);
    }

    /// Shakes hands with a client in plain text; one that fails is lost.
    pub(crate) async fn accept_tls(&mut self, config: Arc<ServerConfig>) -> io::Result<()> {
        let stream = TlsAcceptor::from(config).accept(self.take_tcp()?).await?;
        *self = Conn::Tls(Box::new(stream.into()));
        Ok(())
    }

    /// Shakes hands with a server that has agreed to; one that fails is lost.
    pub(crate) async fn connect_tls(
        &mut self,
        config: Arc<ClientConfig>,
        name: ServerName<'static>,
    ) -> io::Result<()> {
        let stream = TlsConnector::from(config).connect(name, self.take_tcp()?).await?;
        *self = Conn::Tls(Box::new(stream.into()));
        Ok(())
    }

    fn take_tcp(&mut self) -> io::Result<TcpStream> {
        match std::mem::replace(self, Conn::Lost) {
            Conn::Tcp(stream) => Ok(stream),
            other => {
                *self = other;
                Err(io::Error::new(io::ErrorKind::Unsupported, "TLS needs TCP in plain text below it"))
            }
        }
    }
}

fn lost<T>() -> Poll<io::Result<T>> {
    Poll::Ready(Err(io::ErrorKind::NotConnected.into()))
}

impl AsyncRead for Conn {
    fn poll_read(self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        match self.get_mut() {
            Conn::Tcp(stream) => Pin::new(stream).poll_read(cx, buf),
            Conn::Unix(stream) => Pin::new(stream).poll_read(cx, buf),
            Conn::Tls(stream) => match Pin::new(stream).poll_read(cx, buf) {
                // Many close without TLS's goodbye; PostgreSQL's protocol has one of its own.
                Poll::Ready(Err(error)) if error.kind() == io::ErrorKind::UnexpectedEof => {
                    Poll::Ready(Ok(()))
                }
                read => read,
            },
            Conn::Lost => lost(),
        }
    }
}

impl AsyncWrite for Conn {
    fn poll_write(self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &[u8]) -> Poll<io::Result<usize>> {
        match self.get_mut() {
            Conn::Tcp(stream) => Pin::new(stream).poll_write(cx, buf),
            Conn::Unix(stream) => Pin::new(stream).poll_write(cx, buf),
            Conn::Tls(stream) => Pin::new(stream).poll_write(cx, buf),
            Conn::Lost => lost(),
        }
    }

    fn poll_flush(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        match self.get_mut() {
            Conn::Tcp(stream) => Pin::new(stream).poll_flush(cx),
            Conn::Unix(stream) => Pin::new(stream).poll_flush(cx),
            Conn::Tls(stream) => Pin::new(stream).poll_flush(cx),
            Conn::Lost => lost(),
        }
    }

    fn poll_shutdown(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        match self.get_mut() {
            Conn::Tcp(stream) => Pin::new(stream).poll_shutdown(cx),
            Conn::Unix(stream) => Pin::new(stream).poll_shutdown(cx),
            Conn::Tls(stream) => Pin::new(stream).poll_shutdown(cx),
            Conn::Lost => lost(),
        }
    }
}

impl Stream for Conn {
    fn socket(&self) -> Option<&TcpStream> {
        match self {
            Conn::Tcp(stream) => Some(stream),
            Conn::Unix(_) | Conn::Tls(_) | Conn::Lost => None,
        }
    }
}

#[cfg(test)]
mod tests {
    use std::io::{Read, Write};
    use std::net::{TcpListener, TcpStream as Client};

    use super::*;

    /// A client in the middle of its work when its session is cut: what it sends reaches the kernel, and the runtime
    /// has had no turn to hear of it.
    #[tokio::test]
    async fn the_last_words_arrive_whatever_the_client_has_just_sent() {
        let listener = TcpListener::bind("127.0.0.1:0").expect("a port");
        let mut client = Client::connect(listener.local_addr().expect("bound")).expect("connect");
        let (accepted, _) = listener.accept().expect("accept");
        accepted.set_nonblocking(true).expect("an option");
        let mut conn = Conn::try_from(Accepted::Tcp(accepted)).expect("registers");
        client.write_all(&[b'Q'; 10_000]).expect("there is room");
        conn.send_last(b"why");
        drop(conn);
        let mut heard = vec![];
        client.read_to_end(&mut heard).expect("an end, and no reset");
        assert_eq!(heard, b"why");
    }
}
