//! A client that speaks PostgreSQL's protocol byte by byte, over whatever carries bytes.

use std::io;

use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};
use xtask::playground::CLIENT_ROLE;

/// The request for TLS, whole ("SSLRequest").
pub(crate) const SSL_REQUEST: [u8; 8] = [0, 0, 0, 8, 0x04, 0xd2, 0x16, 0x2f];

/// The startup packet of the role of clients, in version 3.0.
pub(crate) fn startup() -> Vec<u8> {
    let body = format!("user\0{CLIENT_ROLE}\0database\0postgres\0\0");
    let length = u32::try_from(body.len() + 8).expect("short");
    [&length.to_be_bytes()[..], &196_608_u32.to_be_bytes(), body.as_bytes()].concat()
}

/// A statement as a simple query.
pub(crate) fn query(sql: &str) -> Vec<u8> {
    let length = u32::try_from(sql.len() + 5).expect("short");
    [b"Q", &length.to_be_bytes()[..], sql.as_bytes(), b"\0"].concat()
}

/// Reads messages up to one of this kind; answers its body. An error that was not asked for is one here as well.
pub(crate) async fn until(stream: &mut (impl AsyncRead + Unpin), wanted: u8) -> io::Result<Vec<u8>> {
    loop {
        let kind = stream.read_u8().await?;
        let length = stream.read_u32().await? as usize;
        let mut body = vec![0; length.saturating_sub(4)];
        stream.read_exact(&mut body).await?;
        if kind == wanted {
            return Ok(body);
        }
        if kind == b'E' {
            return Err(io::Error::other(String::from_utf8_lossy(&body).replace('\0', " ")));
        }
    }
}

/// Opens a session and has it select one value, which is answered.
pub(crate) async fn select(
    stream: &mut (impl AsyncRead + AsyncWrite + Unpin),
    sql: &str,
) -> io::Result<String> {
    stream.write_all(&startup()).await?;
    stream.flush().await?;
    until(stream, b'Z').await?;
    stream.write_all(&query(sql)).await?;
    stream.flush().await?;
    let row = until(stream, b'D').await?;
    until(stream, b'Z').await?;
    // The number of columns, then the length of the first one.
    Ok(String::from_utf8_lossy(row.get(6..).unwrap_or_default()).into_owned())
}
