//! One packet to a server, and its first answer.

use tokio::io::AsyncReadExt;

use crate::conn::Conn;
use crate::metrics::ConnectFailure;
use crate::pgwire::{self, FirstAnswer};

/// What a server is expected to answer with.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Expect {
    /// A message, looked at before it is passed on.
    Message,
    /// One byte, or bytes that cannot be read.
    Anything,
}

/// How far one server got with the client's packet.
pub(super) enum Asked {
    Answer(Vec<u8>),
    NotYet(ConnectFailure, String),
}

/// Sends the client's packet and waits for the first answer.
pub(super) async fn exchange(server: &mut Conn, packet: &[u8], expect: Expect) -> Asked {
    let no_answer = |why: String| Asked::NotYet(ConnectFailure::NoAnswer, why);
    if let Err(error) = server.send(packet).await {
        return no_answer(error.to_string());
    }
    let mut answer = Vec::with_capacity(1024);
    loop {
        match server.read_buf(&mut answer).await {
            Ok(0) => return no_answer("closed the connection without an answer".to_owned()),
            Err(error) => return no_answer(error.to_string()),
            Ok(_) if expect == Expect::Anything => return Asked::Answer(answer),
            Ok(_) => match pgwire::first_answer(&answer) {
                FirstAnswer::NeedMore => {}
                FirstAnswer::NotNow(said) => {
                    return Asked::NotYet(ConnectFailure::NotNow, format!("it says: {said}"));
                }
                FirstAnswer::PassOn => return Asked::Answer(answer),
            },
        }
    }
}
