//! Asks a leader's own agent whether it leads: `GET /primary` (contract section 6.1), status line only.
//!
//! Patroni answers in HTTP/1.0 style, without lengths and sometimes without headers, so nothing beyond the
//! status line is read. An agent behind TLS that nothing says whether to trust counts as silent.

use std::time::Duration;

use pgvane_cluster::records::MemberRecord;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::time::timeout;

use crate::agents::{Api, Trust, UNTRUSTED, connect};

/// What an agent said.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(super) enum Answer {
    /// It leads.
    Yes,
    /// It does not: this status.
    No(u16),
    /// Nothing that can be read as either.
    Silent(String),
}

/// The agent of the member behind `record`.
pub(super) fn agent_of(record: &MemberRecord, trust: &Trust) -> Result<Api, String> {
    let tls = record.api_url.as_deref().is_some_and(|url| url.starts_with("https:"));
    if tls && trust.is_none() {
        return Err(UNTRUSTED.to_owned());
    }
    let address = record.api_address().ok_or("its record has no usable api_url")?;
    Ok(Api { address, tls })
}

/// Asks; answers within `limit`.
pub(super) async fn ask(api: Api, trust: Trust, limit: Duration) -> Answer {
    match timeout(limit, status(&api, &trust)).await {
        Ok(Ok(200)) => Answer::Yes,
        Ok(Ok(status)) => Answer::No(status),
        Ok(Err(error)) => Answer::Silent(error.to_string()),
        Err(_) => Answer::Silent(format!("no answer within {limit:?}")),
    }
}

async fn status(api: &Api, trust: &Trust) -> std::io::Result<u16> {
    let (host, port) = &api.address;
    let mut stream = connect(api, trust).await?;
    let host = if host.contains(':') { format!("[{host}]") } else { host.clone() };
    let request = format!("GET /primary HTTP/1.0\r\nHost: {host}:{port}\r\nUser-Agent: pgvane\r\n\r\n");
    stream.write_all(request.as_bytes()).await?;
    let mut line = Vec::with_capacity(128);
    while !line.contains(&b'\n') && line.len() < 1024 {
        if stream.read_buf(&mut line).await? == 0 {
            break;
        }
    }
    status_of(&line).ok_or_else(|| std::io::Error::other("the answer is not HTTP"))
}

/// The status code of `HTTP/x.y CODE ...`.
fn status_of(line: &[u8]) -> Option<u16> {
    let line = line.split(|b| *b == b'\n').next()?;
    let text = std::str::from_utf8(line).ok()?;
    let mut words = text.split_ascii_whitespace();
    words.next()?.strip_prefix("HTTP/")?;
    words.next()?.parse().ok().filter(|code| (100..600).contains(code))
}

#[cfg(test)]
mod tests {
    use pgvane_cluster::records::{MemberRole, MemberState};
    use tokio::net::TcpListener;

    use super::*;

    fn plain(port: u16) -> Api {
        Api { address: ("127.0.0.1".to_owned(), port), tls: false }
    }

    async fn answer_with(text: &'static str) -> Answer {
        let listener = TcpListener::bind("127.0.0.1:0").await.expect("bind");
        let port = listener.local_addr().expect("address").port();
        let agent = async {
            let (mut stream, _) = listener.accept().await.expect("accept");
            let mut request = vec![];
            while !request.ends_with(b"\r\n\r\n") {
                assert_ne!(stream.read_buf(&mut request).await.expect("read"), 0, "a whole request");
            }
            assert!(request.starts_with(b"GET /primary HTTP/1."), "{request:?}");
            stream.write_all(text.as_bytes()).await.expect("write");
        };
        let question = ask(plain(port), None, Duration::from_secs(20));
        tokio::join!(question, agent).0
    }

    #[tokio::test]
    async fn the_status_line_decides() {
        assert_eq!(answer_with("HTTP/1.0 200 OK\r\n\r\n").await, Answer::Yes);
        assert_eq!(answer_with("HTTP/1.1 503 Service Unavailable\r\nServer: x\r\n").await, Answer::No(503));
        assert!(matches!(answer_with("SSH-2.0-x\r\n").await, Answer::Silent(_)));
        assert!(matches!(answer_with("").await, Answer::Silent(_)));
    }

    #[tokio::test]
    async fn an_agent_that_accepts_and_says_nothing_is_silent() {
        let listener = TcpListener::bind("127.0.0.1:0").await.expect("bind");
        let port = listener.local_addr().expect("address").port();
        let answer = ask(plain(port), None, Duration::from_millis(20)).await;
        assert!(matches!(answer, Answer::Silent(_)), "{answer:?}");
    }

    #[test]
    fn agents_behind_tls_are_asked_where_it_is_said_whom_to_trust() {
        let trust = crate::tls::load_for_rest(&crate::tls::Originate {
            verify: crate::tls::Verify::Nothing,
            identity: None,
            min_version: crate::tls::MinVersion::Tls12,
        });
        let trust = Some(trust.expect("no files"));
        let with = |url: &str, trust: &Trust| {
            let api_url = Some(url.to_owned());
            let record =
                MemberRecord { api_url, ..MemberRecord::new(MemberState::Running, MemberRole::Primary) };
            agent_of(&record, trust)
        };
        let api = |tls| Api { address: ("10.0.0.1".to_owned(), 8008), tls };
        let (http, https) = ("http://10.0.0.1:8008/patroni", "https://10.0.0.1:8008/patroni");
        assert_eq!((with(http, &None), with(http, &trust)), (Ok(api(false)), Ok(api(false))));
        assert_eq!((with(https, &None), with(https, &trust)), (Err(UNTRUSTED.to_owned()), Ok(api(true))));
    }
}
