//! What the proxy does per message, per connection and per change of the cluster, without the kernel.
//!
//! `cargo bench -p pgvane` measures; `cargo test` runs each once.

use std::io;
use std::pin::Pin;
use std::task::{Context, Poll, Waker};

use divan::counter::BytesCount;
use divan::{Bencher, black_box};
use pgvane::close::Side;
use pgvane::pgwire::{Framing, first_answer, first_packet};
use pgvane::splice::{Duplex, Host, Stream};
use pgvane::topology::derive::derive;
use pgvane::topology::freshness::Standing;
use pgvane_cluster::clock::Tick;
use pgvane_cluster::fold::{apply_all, from_snapshot};
use pgvane_cluster::ids::{Epoch, LeaseId, Revision};
use pgvane_cluster::keyspace::Keyspace;
use pgvane_cluster::store::{KeyEvent, KeyValue, Snapshot};
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::net::TcpStream;

fn main() {
    divan::main();
}

/// A stream that has one message to read and takes all that is written.
struct Scripted {
    message: Vec<u8>,
    is_read: bool,
    written: usize,
}

impl Scripted {
    fn with(message: Vec<u8>) -> Scripted {
        Scripted { is_read: message.is_empty(), message, written: 0 }
    }
}

impl AsyncRead for Scripted {
    fn poll_read(
        mut self: Pin<&mut Self>,
        _: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        if std::mem::replace(&mut self.is_read, true) {
            return Poll::Pending;
        }
        buffer.put_slice(&self.message);
        Poll::Ready(Ok(()))
    }
}

impl AsyncWrite for Scripted {
    fn poll_write(mut self: Pin<&mut Self>, _: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        self.written += bytes.len();
        Poll::Ready(Ok(bytes.len()))
    }

    fn poll_flush(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        Poll::Ready(Ok(()))
    }

    fn poll_shutdown(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        Poll::Ready(Ok(()))
    }
}

impl Stream for Scripted {
    fn socket(&self) -> Option<&TcpStream> {
        None
    }
}

struct Open;

impl Host for Open {
    fn may_forward(&self) -> bool {
        true
    }

    fn moved(&mut self, _: Side, _: u64) {}

    fn wrote(&mut self, _: Side, bytes: Option<&[u8]>) {
        black_box(bytes);
    }
}

/// One wake-up of a session: a message from the client, nothing from the server.
#[divan::bench(args = [100, 4_096, 60_000])]
fn pump(bencher: Bencher, size: usize) {
    let mut client = Scripted::with(vec![7; size]);
    let mut server = Scripted::with(vec![]);
    let mut duplex = Duplex::default();
    let mut cx = Context::from_waker(Waker::noop());
    bencher.counter(BytesCount::new(size)).bench_local(|| {
        client.is_read = false;
        assert!(duplex.poll(&mut cx, &mut client, &mut server, &mut Open).is_pending());
    });
    assert!(server.written > 0 && server.written.is_multiple_of(size));
}

/// A result of ten rows in one chunk, as the framing of every chunk to a client is followed.
#[divan::bench]
fn framing_of_a_result() -> bool {
    const ROW: &[u8] = b"D\0\0\0\x1a\0\x02\0\0\0\x04abcd\0\0\0\x08abcdefgh";
    const END: &[u8] = b"C\0\0\0\x0eSELECT 10\0Z\0\0\0\x05I";
    let result = [&ROW.repeat(10)[..], END].concat();
    Framing::START.after(black_box(&result)).is_between()
}

#[divan::bench]
fn first_packet_of_a_client() -> bool {
    const STARTUP: &[u8] = b"\0\0\0\x3a\0\x03\0\0user\0application\0database\0orders\0client_encoding\0\0";
    matches!(first_packet(black_box(STARTUP)), pgvane::pgwire::FirstRead::Whole(..))
}

#[divan::bench]
fn first_answer_of_a_server() -> bool {
    const SASL: &[u8] = b"R\0\0\0\x17\0\0\0\x0aSCRAM-SHA-256\0\0";
    first_answer(black_box(SASL)) == pgvane::pgwire::FirstAnswer::PassOn
}

/// The keys of a cluster of `members`, the first of which leads.
fn snapshot(members: usize) -> (Keyspace, Snapshot) {
    let space = Keyspace::new("service", "main");
    let revision = Revision(1_000);
    let key = |name: String, value: String| KeyValue {
        key: format!("{}{name}", space.prefix()).into_bytes(),
        value: value.into_bytes(),
        create_revision: revision,
        mod_revision: revision,
        lease: Some(LeaseId(7)),
    };
    let member = |number: usize| {
        let role = if number == 0 { "primary" } else { "replica" };
        let value = format!(
            r#"{{"conn_url":"postgres://10.0.0.{number}:5432/postgres","api_url":"http://10.0.0.{number}:8008/patroni","state":"running","role":"{role}","version":"4.1.4","xlog_location":83886080,"timeline":1,"replication_state":"streaming"}}"#
        );
        key(format!("members/pg{number}"), value)
    };
    let mut keys: Vec<_> = (0..members).map(member).collect();
    keys.push(key("config".to_owned(), r#"{"ttl":30,"loop_wait":10,"retry_timeout":10}"#.to_owned()));
    keys.push(key("leader".to_owned(), "pg0".to_owned()));
    keys.push(key("status".to_owned(), r#"{"optime":83886080}"#.to_owned()));
    keys.sort_by(|a, b| a.key.cmp(&b.key));
    (space, Snapshot { revision, keys, asked_at: Tick::ZERO, era: 1 })
}

#[divan::bench(args = [3, 10])]
fn fold_of_all_keys(bencher: Bencher, members: usize) {
    let (space, snapshot) = snapshot(members);
    bencher.bench_local(|| from_snapshot(&space, black_box(&snapshot), None));
}

#[divan::bench(args = [3, 10])]
fn fold_of_one_event(bencher: Bencher, members: usize) {
    let (space, snapshot) = snapshot(members);
    let view = from_snapshot(&space, &snapshot, None);
    let mut changed =
        snapshot.keys.iter().find(|kv| kv.key.ends_with(b"members/pg1")).expect("a member").clone();
    changed.mod_revision = Revision(1_001);
    let event = [KeyEvent::Put(changed)];
    bencher.with_inputs(|| view.clone()).bench_local_refs(|view| apply_all(view, &space, black_box(&event)));
}

#[divan::bench(args = [3, 10])]
fn derive_of_a_picture(bencher: Bencher, members: usize) {
    let (space, snapshot) = snapshot(members);
    let view = from_snapshot(&space, &snapshot, None);
    let plan = derive(Some(&view), Standing::Proven, Epoch(1_000));
    assert!(plan.primary.is_ok() && plan.members.len() == members, "{plan:?}");
    bencher.bench_local(|| derive(black_box(Some(&view)), Standing::Proven, Epoch(1_000)));
}
