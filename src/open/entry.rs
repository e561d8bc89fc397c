//! The client's side of the opening: who it says it is, TLS that ends here, its first packet.

use std::io;
use std::net::SocketAddr;
use std::sync::Arc;

use rustls::ServerConfig;
use tokio::io::AsyncReadExt;
use tokio::time::{sleep, timeout};

use super::{Opening, ending, wants_encryption};
use crate::close::CloseReason;
use crate::conn::Conn;
use crate::pgwire::{self, FirstPacket, FirstRead};
use crate::proxy_protocol::{self, HeaderRead};
use crate::refusal::Refusal;
use crate::roster::Ticket;

impl Opening<'_> {
    /// Reads the PROXY header of a peer that sends one; answers whose address counts: the client's, or the peer's own
    /// where the header names nobody.
    pub(super) async fn be_told_source(&mut self) -> Result<Option<SocketAddr>, Refusal> {
        if !self.port.is_told_by(self.ticket.peer) {
            return Ok(None);
        }
        let client = &mut *self.client;
        let source = within(self.ticket, read_header(client)).await??;
        if let Some(source) = source {
            self.ticket.announce(source);
        }
        Ok(source.or(self.ticket.peer.address()))
    }

    /// Where TLS ends here, shakes hands with a client that wants it. What is read of one that does not stays in
    /// the inbox.
    pub(super) async fn end_tls(&mut self, inbox: &mut Vec<u8>) -> Result<(), Refusal> {
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
                FirstPacket::SslRequest if !self.client.is_local() => {
                    inbox.clear();
                    self.say(b"S").await?;
                    return self.shake_hands(Arc::clone(tls)).await;
                }
                // As PostgreSQL: no TLS by a Unix socket.
                FirstPacket::SslRequest | FirstPacket::GssEncRequest => {
                    inbox.drain(..size);
                    self.say(b"N").await?;
                }
                FirstPacket::Startup if self.port.tls_is_required() && !self.client.is_local() => {
                    let text = format!("listener {} takes sessions over TLS only", self.port.settings.name);
                    return Err(Refusal::with(CloseReason::TlsRequired, pgwire::NOT_ALLOWED, text));
                }
                FirstPacket::Startup | FirstPacket::Cancel | FirstPacket::DirectTls => return Ok(()),
            }
        }
    }

    /// Whether the client's first byte is TLS's; it is left where it is.
    async fn starts_with_tls(&self) -> Result<bool, Refusal> {
        if self.client.is_local() {
            return Ok(false);
        }
        let mut first = [0];
        match within(self.ticket, self.client.peek(&mut first)).await? {
            Ok(1..) => Ok(first[0] == pgwire::TLS_HANDSHAKE),
            Ok(0) | Err(_) => Err(Refusal::silent(CloseReason::ClientLeftEarly)),
        }
    }

    async fn shake_hands(&mut self, tls: Arc<ServerConfig>) -> Result<(), Refusal> {
        let (port, client) = (self.port, &mut *self.client);
        let done = within(self.ticket, client.accept_tls(tls)).await;
        port.metrics.client_handshake(matches!(done, Ok(Ok(()))));
        done?.map_err(|error| {
            tracing::debug!(listener = port.settings.name, %error, "TLS handshake failed");
            Refusal::silent(CloseReason::TlsFailed)
        })
    }

    /// Reads until a whole first packet is there, within the time for it.
    pub(super) async fn first_packet(
        &mut self,
        inbox: &mut Vec<u8>,
    ) -> Result<(FirstPacket, usize), Refusal> {
        let client = &mut *self.client;
        let (kind, size) = within(self.ticket, read_first(client, inbox)).await??;
        let nested = wants_encryption(kind) || kind == FirstPacket::DirectTls;
        if self.client.is_encrypted() && nested {
            return Err(Refusal::violation("encryption is asked for within TLS"));
        }
        Ok((kind, size))
    }

    pub(super) async fn say(&mut self, bytes: &[u8]) -> Result<(), Refusal> {
        let written = timeout(self.port.settings.startup_timeout, self.client.send(bytes)).await;
        written.ok().and_then(Result::ok).ok_or(Refusal::silent(CloseReason::ClientLeftEarly))
    }
}

/// Does what a client has the time of its first packet for.
async fn within<T>(ticket: &Ticket, work: impl Future<Output = T>) -> Result<T, Refusal> {
    let limit = ticket.port.settings.startup_timeout;
    tokio::select! {
        done = work => Ok(done),
        () = sleep(limit) => Err(Refusal::silent(CloseReason::FirstPacketTimeout)),
        reason = ticket.ended() => Err(ending(&ticket.port, reason)),
    }
}

/// Reads until a whole first packet is there; answers its kind and size.
async fn read_first(client: &mut Conn, inbox: &mut Vec<u8>) -> Result<(FirstPacket, usize), Refusal> {
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

/// Reads a PROXY header, and nothing that follows it: that may be the start of a TLS handshake.
async fn read_header(client: &mut Conn) -> Result<Option<SocketAddr>, Refusal> {
    let left = || Refusal::silent(CloseReason::ClientLeftEarly);
    let mut bytes = Vec::with_capacity(256);
    let mut next = [0; 1024];
    loop {
        let come = client.peek(&mut next).await.ok().filter(|come| *come > 0).ok_or_else(left)?;
        let before = bytes.len();
        bytes.extend(&next[..come]);
        let read = proxy_protocol::header(&bytes);
        let mine = match read {
            HeaderRead::Whole { size, .. } => size - before,
            HeaderRead::NeedMore | HeaderRead::Malformed(_) => come,
        };
        client.read_exact(&mut next[..mine]).await.map_err(|_| left())?;
        match read {
            HeaderRead::Whole { source, .. } => return Ok(source),
            HeaderRead::NeedMore => {}
            HeaderRead::Malformed(why) => {
                let text = format!("the PROXY header that is expected from this address: {why}");
                return Err(Refusal::with(CloseReason::ProxyHeader, pgwire::PROTOCOL_VIOLATION, text));
            }
        }
    }
}

/// Says no to encryption until the client goes on without it, so that an error can be told in the plain:
/// libpq does not show an error that comes in place of the yes or no (CVE-2024-10977). A client that insists
/// on encryption leaves.
pub(crate) async fn decline_encryption(client: &mut Conn) -> io::Result<()> {
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
