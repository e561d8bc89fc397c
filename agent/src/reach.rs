//! Whether a member's REST API and PostgreSQL can be reached from this host: asked here, or of another member's agent
//! (`GET /reach?member=NAME`), for what one host reaches another may not.

use std::fmt::Write as _;
use std::io;
use std::time::Duration;

use hyper::Method;
use pgvane_cluster::ids::NodeName;
use pgvane_cluster::records::{MemberRecord, host_port};
use serde::{Deserialize, Serialize};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::time::timeout;

use crate::peers::{Caller, at};
use crate::postgres::tls::SSL_REQUEST;

/// How long each of the two may take to answer.
pub const WITHIN: Duration = Duration::from_secs(3);

/// What came of trying both.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct Reach {
    /// Who was to be reached.
    pub member: NodeName,
    /// Its REST API.
    pub rest: Attempt,
    /// Its PostgreSQL.
    pub postgresql: Attempt,
}

/// What came of trying one.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct Attempt {
    /// The address, as the member publishes it; empty where it publishes none.
    pub at: String,
    /// Why it was not reached; absent where it was.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub error: Option<String>,
}

impl Attempt {
    async fn of(address: Option<&str>, trying: impl AsyncFnOnce(&str) -> Result<(), String>) -> Attempt {
        let Some(address) = address else {
            return Attempt { at: String::new(), error: Some("its record names none".to_owned()) };
        };
        let tried = timeout(WITHIN, trying(address)).await;
        let tried = tried.unwrap_or_else(|_| Err(format!("no answer within {} s", WITHIN.as_secs())));
        Attempt { at: address.to_owned(), error: tried.err() }
    }
}

/// Tries both addresses of a member's record. Nobody logs in anywhere.
pub async fn reach(caller: &Caller, member: &NodeName, record: &MemberRecord) -> Reach {
    let rest = Attempt::of(record.api_url.as_deref(), async |url| {
        // That it answers is what counts: how well it is, is told elsewhere.
        caller.request(Method::GET, &at(url, "/liveness"), None).await.map(drop)
    });
    let postgresql = Attempt::of(record.conn_url.as_deref(), async |url| {
        let address = host_port(url, 5432).ok_or("not an address of PostgreSQL")?;
        is_postgres(&address).await.map_err(|e| e.to_string())
    });
    let (rest, postgresql) = tokio::join!(rest, postgresql);
    Reach { member: member.clone(), rest, postgresql }
}

/// Asks for TLS: PostgreSQL answers that in one letter, whoever asks.
async fn is_postgres((host, port): &(String, u16)) -> io::Result<()> {
    let mut stream = TcpStream::connect((host.as_str(), *port)).await?;
    stream.write_all(&SSL_REQUEST).await?;
    match stream.read_u8().await? {
        b'S' | b'N' => Ok(()),
        // What it says in place of an answer is an error, such as "too many clients".
        b'E' => Err(io::Error::other("PostgreSQL answers, and takes no connection")),
        _ => Err(io::Error::other("what answers there is not PostgreSQL")),
    }
}

/// The path by which an agent is asked to try `member`.
pub fn path(member: &NodeName) -> String {
    let mut path = "/reach?member=".to_owned();
    for byte in member.as_str().bytes() {
        if byte.is_ascii_alphanumeric() || b"-._~".contains(&byte) {
            path.push(byte.into());
        } else {
            // Writing to a String cannot fail.
            let _ = write!(path, "%{byte:02X}");
        }
    }
    path
}

#[cfg(test)]
mod tests {
    use pgvane_cluster::records::{MemberRole, MemberState};
    use tokio::net::TcpListener;

    use super::*;

    /// Something that answers the first packet with this.
    async fn answering(with: &'static [u8]) -> String {
        let listener = TcpListener::bind("127.0.0.1:0").await.expect("a free port");
        let address = listener.local_addr().expect("bound");
        tokio::spawn(async move {
            let (mut client, _) = listener.accept().await.expect("a client");
            let mut packet = [0; 8];
            client.read_exact(&mut packet).await.expect("a packet");
            client.write_all(with).await.expect("answers");
        });
        format!("postgres://{address}/postgres")
    }

    async fn tried(conn_url: Option<String>) -> Reach {
        let record =
            MemberRecord { conn_url, ..MemberRecord::new(MemberState::Running, MemberRole::Replica) };
        reach(&Caller::plain(), &"pg1".into(), &record).await
    }

    #[tokio::test]
    async fn what_answers_as_postgresql_does_is_reached() {
        for (answer, error) in [
            (&b"N"[..], None),
            (b"S", None),
            (b"E", Some("PostgreSQL answers, and takes no connection")),
            (b"HTTP/1.1 400", Some("what answers there is not PostgreSQL")),
        ] {
            let reached = tried(Some(answering(answer).await)).await;
            assert_eq!(reached.postgresql.error.as_deref(), error, "{answer:?}");
        }
        let reached = tried(None).await;
        assert_eq!(reached.postgresql.error.as_deref(), Some("its record names none"));
        assert_eq!(reached.rest.error.as_deref(), Some("its record names none"));
        let free = TcpListener::bind("127.0.0.1:0").await.expect("a free port").local_addr().expect("bound");
        let reached = tried(Some(format!("postgres://{free}/x"))).await;
        assert!(reached.postgresql.error.is_some_and(|why| why.contains("refused")));
    }

    #[test]
    fn names_are_written_as_queries_have_them() {
        assert_eq!(path(&"pg-1.example".into()), "/reach?member=pg-1.example");
        assert_eq!(path(&"a b&c".into()), "/reach?member=a%20b%26c");
    }
}
