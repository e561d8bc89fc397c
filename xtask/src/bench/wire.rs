//! As much of PostgreSQL's protocol as connecting takes, from the client's side.

use std::io::{self, Error, ErrorKind, Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::time::Duration;

use rustls::{ClientConnection, StreamOwned};

use super::encryption::Encryption;

/// Bounds each step of a client, so that a proxy that hangs fails its workload and nothing else.
pub(super) const PATIENCE: Duration = Duration::from_secs(10);

/// The role of all clients.
pub(super) const ROLE: &str = "bench";

/// Protocol 3.0.
pub(super) const PROTOCOL: u32 = 0x0003_0000;

/// What a client sends before it closes.
pub(super) const TERMINATE: [u8; 5] = [b'X', 0, 0, 0, 4];

/// An open session and the process id that its server gave.
#[derive(Debug)]
pub(super) struct Opened {
    pub(super) stream: TcpStream,
    pub(super) server: u32,
}

/// Connects and waits until the server is ready for queries.
pub(super) fn open(address: SocketAddr, database: &str) -> io::Result<Opened> {
    let mut stream = connect(address)?;
    let server = enter(&mut stream, database)?;
    Ok(Opened { stream, server })
}

/// The same over TLS, which begins at once: a proxy that knows no PostgreSQL could not be asked first.
pub(super) fn open_encrypted(
    address: SocketAddr,
    database: &str,
    encryption: &Encryption,
) -> io::Result<StreamOwned<ClientConnection, TcpStream>> {
    let mut stream = StreamOwned::new(encryption.client()?, connect(address)?);
    enter(&mut stream, database)?;
    Ok(stream)
}

fn connect(address: SocketAddr) -> io::Result<TcpStream> {
    let stream = TcpStream::connect_timeout(&address, PATIENCE)?;
    stream.set_nodelay(true)?;
    stream.set_read_timeout(Some(PATIENCE))?;
    stream.set_write_timeout(Some(PATIENCE))?;
    Ok(stream)
}

/// Says hello and waits until the server is ready; returns the process id it gave.
fn enter(stream: &mut (impl Read + Write), database: &str) -> io::Result<u32> {
    stream.write_all(&startup(database))?;
    stream.flush()?;
    until_ready(stream)
}

fn startup(database: &str) -> Vec<u8> {
    let mut packet = vec![0; 4];
    packet.extend(PROTOCOL.to_be_bytes());
    for text in ["user", ROLE, "database", database, ""] {
        packet.extend(text.as_bytes());
        packet.push(0);
    }
    let length = u32::try_from(packet.len()).unwrap_or_default();
    packet[..4].copy_from_slice(&length.to_be_bytes());
    packet
}

/// Reads messages up to ReadyForQuery; returns the process id of BackendKeyData.
fn until_ready(stream: &mut impl Read) -> io::Result<u32> {
    let mut server = 0;
    let mut seen = Vec::with_capacity(512);
    let mut chunk = [0; 512];
    loop {
        while let Some((kind, body, length)) = message(&seen) {
            match kind {
                b'Z' => return Ok(server),
                b'K' => server = number(body).unwrap_or_default(),
                b'E' => return Err(Error::other(error_text(body))),
                b'R' if number(body) != Some(0) => return Err(Error::other("asks for a password")),
                _ => {}
            }
            seen.drain(..length);
        }
        match stream.read(&mut chunk)? {
            0 => return Err(ErrorKind::UnexpectedEof.into()),
            read => seen.extend_from_slice(&chunk[..read]),
        }
    }
}

/// The first whole message: its kind, its body, its whole length.
fn message(bytes: &[u8]) -> Option<(u8, &[u8], usize)> {
    let length = usize::try_from(number(bytes.get(1..)?)?).ok()? + 1;
    Some((bytes[0], bytes.get(5..length)?, length))
}

pub(super) fn number(bytes: &[u8]) -> Option<u32> {
    Some(u32::from_be_bytes(bytes.first_chunk::<4>().copied()?))
}

/// The `M` field of an ErrorResponse.
fn error_text(body: &[u8]) -> String {
    let mut fields = body.split(|byte| *byte == 0);
    let text = fields.find_map(|field| field.strip_prefix(b"M"));
    String::from_utf8_lossy(text.unwrap_or(b"an error without a message")).into_owned()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_startup_packet_counts_itself() {
        let packet = startup("idle");
        assert_eq!(number(&packet), u32::try_from(packet.len()).ok());
        assert!(packet.ends_with(b"database\0idle\0\0"));
    }

    #[test]
    fn a_message_is_whole_or_not_there() {
        let bytes = [b'Z', 0, 0, 0, 5, b'I', b'S'];
        assert_eq!(message(&bytes), Some((b'Z', &b"I"[..], 6)));
        assert_eq!(message(&bytes[..5]), None);
        assert_eq!(message(&bytes[..3]), None);
    }

    #[test]
    fn an_error_is_told_by_its_message() {
        assert_eq!(error_text(b"SFATAL\0C57P03\0Mnobody serves\0\0"), "nobody serves");
    }
}
