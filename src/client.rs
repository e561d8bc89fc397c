//! The client's side of a session: a TCP connection, in plain text or with TLS ended here.

use std::io;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};

use rustls::ServerConfig;
use tokio::io::{AsyncRead, AsyncWrite, AsyncWriteExt, ReadBuf};
use tokio::net::TcpStream;
use tokio_rustls::TlsAcceptor;
use tokio_rustls::server::TlsStream;

use crate::splice::Stream;

/// A client's connection.
#[derive(Debug)]
pub(crate) enum Client {
    Plain(TcpStream),
    /// Boxed: a session in plain text shall not pay for it.
    Tls(Box<TlsStream<TcpStream>>),
    /// Lost in a handshake.
    Lost,
}

impl Client {
    /// The socket below; `None` when it is lost.
    pub(crate) fn tcp(&self) -> Option<&TcpStream> {
        match self {
            Client::Plain(stream) => Some(stream),
            Client::Tls(stream) => Some(stream.get_ref().0),
            Client::Lost => None,
        }
    }

    /// Whether what is read was encrypted on the way.
    pub(crate) const fn is_encrypted(&self) -> bool {
        matches!(self, Client::Tls(_))
    }

    /// Whether the client offered our protocol by name (ALPN).
    pub(crate) fn named_protocol(&self) -> bool {
        match self {
            Client::Tls(stream) => stream.get_ref().1.alpn_protocol().is_some(),
            Client::Plain(_) | Client::Lost => false,
        }
    }

    /// Sends all of it, now.
    pub(crate) async fn send(&mut self, bytes: &[u8]) -> io::Result<()> {
        self.write_all(bytes).await?;
        self.flush().await
    }

    /// Shakes hands with a client in plain text; one that fails is lost.
    pub(crate) async fn encrypt(&mut self, config: Arc<ServerConfig>) -> io::Result<()> {
        match std::mem::replace(self, Client::Lost) {
            Client::Plain(stream) => {
                let stream = TlsAcceptor::from(config).accept(stream).await?;
                *self = Client::Tls(Box::new(stream));
                Ok(())
            }
            other => {
                *self = other;
                Err(io::ErrorKind::AlreadyExists.into())
            }
        }
    }
}

fn lost<T>() -> Poll<io::Result<T>> {
    Poll::Ready(Err(io::ErrorKind::NotConnected.into()))
}

impl AsyncRead for Client {
    fn poll_read(self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        match self.get_mut() {
            Client::Plain(stream) => Pin::new(stream).poll_read(cx, buf),
            Client::Tls(stream) => match Pin::new(stream).poll_read(cx, buf) {
                // Many clients close without TLS's goodbye; PostgreSQL's protocol has one of its own.
                Poll::Ready(Err(error)) if error.kind() == io::ErrorKind::UnexpectedEof => {
                    Poll::Ready(Ok(()))
                }
                read => read,
            },
            Client::Lost => lost(),
        }
    }
}

impl AsyncWrite for Client {
    fn poll_write(self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &[u8]) -> Poll<io::Result<usize>> {
        match self.get_mut() {
            Client::Plain(stream) => Pin::new(stream).poll_write(cx, buf),
            Client::Tls(stream) => Pin::new(stream).poll_write(cx, buf),
            Client::Lost => lost(),
        }
    }

    fn poll_flush(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        match self.get_mut() {
            Client::Plain(stream) => Pin::new(stream).poll_flush(cx),
            Client::Tls(stream) => Pin::new(stream).poll_flush(cx),
            Client::Lost => lost(),
        }
    }

    fn poll_shutdown(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        match self.get_mut() {
            Client::Plain(stream) => Pin::new(stream).poll_shutdown(cx),
            Client::Tls(stream) => Pin::new(stream).poll_shutdown(cx),
            Client::Lost => lost(),
        }
    }
}

impl Stream for Client {
    fn socket(&self) -> Option<&TcpStream> {
        match self {
            Client::Plain(stream) => Some(stream),
            Client::Tls(_) | Client::Lost => None,
        }
    }
}
