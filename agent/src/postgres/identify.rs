//! `IDENTIFY_SYSTEM`: the only way a server in recovery tells which timeline it replays.
//!
//! SQL shows a standby's timeline only through a connected WAL receiver, and pg_control shows it late. A standby
//! of a dead primary has neither, and it is just then that its timeline decides whether it may lead. The
//! replication protocol needs a startup parameter that the SQL client does not send, so this file speaks the
//! few messages itself (PostgreSQL documentation, "Streaming Replication Protocol").

use std::io;
use std::ops::Range;

use bytes::BytesMut;
use fallible_iterator::FallibleIterator;
use pgvane_cluster::ids::Timeline;
use postgres_protocol::authentication::md5_hash;
use postgres_protocol::authentication::sasl::{ChannelBinding, SCRAM_SHA_256, ScramSha256};
use postgres_protocol::message::backend::{DataRowBody, ErrorResponseBody, Message};
use postgres_protocol::message::frontend;
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};
use tokio::net::UnixStream;

use super::{Instance, tls};
use crate::config::Role;

/// The timeline that the local server replays (a standby) or writes (a primary).
pub async fn timeline(instance: &Instance) -> io::Result<Timeline> {
    let role = &instance.replication;
    if let Some(dir) = instance.socket_dir.as_ref().filter(|_| instance.use_unix_socket_repl) {
        let socket = dir.join(format!(".s.PGSQL.{}", instance.port));
        return ask(UnixStream::connect(socket).await?, role).await;
    }
    timeline_at(role, instance.local_host(), instance.port).await
}

/// The timeline of the server there, as `role`, which may replicate from it.
pub async fn timeline_at(role: &Role, host: &str, port: u16) -> io::Result<Timeline> {
    match ask(tls::stream(host, port, role, false).await?, role).await {
        // Without TLS nobody is let in, perhaps.
        Err(refused) if refused.kind() == io::ErrorKind::PermissionDenied => {
            match tls::stream(host, port, role, true).await {
                Ok(stream) => ask(stream, role).await,
                Err(_) => Err(refused),
            }
        }
        answer => answer,
    }
}

struct Conversation<S> {
    stream: S,
    inbox: BytesMut,
}

impl<S: AsyncRead + AsyncWrite + Unpin> Conversation<S> {
    async fn say(&mut self, message: impl FnOnce(&mut BytesMut) -> io::Result<()>) -> io::Result<()> {
        let mut outbox = BytesMut::new();
        message(&mut outbox)?;
        self.stream.write_all(&outbox).await
    }

    /// The next message; an error of the server's becomes ours.
    async fn hear(&mut self) -> io::Result<Message> {
        loop {
            match Message::parse(&mut self.inbox)? {
                Some(Message::ErrorResponse(body)) => return Err(refusal(&body)),
                Some(message) => return Ok(message),
                None if self.stream.read_buf(&mut self.inbox).await? == 0 => {
                    return Err(io::ErrorKind::UnexpectedEof.into());
                }
                None => {}
            }
        }
    }

    async fn log_in(&mut self, role: &Role) -> io::Result<()> {
        let parameters = [("user", role.username.as_str()), ("replication", "true")];
        self.say(|out| frontend::startup_message(parameters, out)).await?;
        let password = role.password.as_ref().map_or("", |p| p.expose()).as_bytes();
        loop {
            match self.hear().await? {
                Message::AuthenticationOk => return Ok(()),
                Message::AuthenticationCleartextPassword => {
                    self.say(|out| frontend::password_message(password, out)).await?;
                }
                Message::AuthenticationMd5Password(body) => {
                    let hash = md5_hash(role.username.as_bytes(), password, body.salt());
                    self.say(|out| frontend::password_message(hash.as_bytes(), out)).await?;
                }
                Message::AuthenticationSasl(_) => self.scram(password).await?,
                _ => return Err(unexpected("the server wants an authentication that is not supported")),
            }
        }
    }

    async fn scram(&mut self, password: &[u8]) -> io::Result<()> {
        let mut scram = ScramSha256::new(password, ChannelBinding::unsupported());
        self.say(|out| frontend::sasl_initial_response(SCRAM_SHA_256, scram.message(), out)).await?;
        let Message::AuthenticationSaslContinue(body) = self.hear().await? else {
            return Err(unexpected("no SASL challenge"));
        };
        scram.update(body.data())?;
        self.say(|out| frontend::sasl_response(scram.message(), out)).await?;
        let Message::AuthenticationSaslFinal(body) = self.hear().await? else {
            return Err(unexpected("no end of SASL"));
        };
        scram.finish(body.data())
    }
}

async fn ask<S: AsyncRead + AsyncWrite + Unpin>(stream: S, role: &Role) -> io::Result<Timeline> {
    let mut talk = Conversation { stream, inbox: BytesMut::new() };
    talk.log_in(role).await?;
    talk.say(|out| frontend::query("IDENTIFY_SYSTEM", out)).await?;
    loop {
        // Parameters, the end of the login and the row's description come first.
        if let Message::DataRow(row) = talk.hear().await? {
            let column = second_column(&row)?.and_then(|range| row.buffer().get(range));
            let number = column.and_then(|c| std::str::from_utf8(c).ok()?.parse().ok());
            return number.map(Timeline).ok_or_else(|| unexpected("no timeline in the answer"));
        }
    }
}

/// systemid, timeline, xlogpos, dbname.
fn second_column(row: &DataRowBody) -> io::Result<Option<Range<usize>>> {
    let mut columns = row.ranges();
    columns.next()?;
    Ok(columns.next()?.flatten())
}

/// An error of the server's; `PermissionDenied` where pg_hba.conf lets nobody in this way.
fn refusal(error: &ErrorResponseBody) -> io::Error {
    let (mut text, mut kind) = ("an error without a message".to_owned(), io::ErrorKind::Other);
    let mut fields = error.fields();
    while let Ok(Some(field)) = fields.next() {
        match (field.type_(), field.value_bytes()) {
            (b'M', message) => text = String::from_utf8_lossy(message).into_owned(),
            (b'C', b"28000") => kind = io::ErrorKind::PermissionDenied,
            _ => {}
        }
    }
    io::Error::new(kind, text)
}

fn unexpected(what: &'static str) -> io::Error {
    io::Error::new(io::ErrorKind::InvalidData, what)
}
