//! Both over in-memory streams (every interleaving of small buffers) and over real sockets (resets).

use std::cell::{Cell, RefCell};
use std::future::poll_fn;
use std::time::Duration;

use proptest::prelude::*;
use tokio::io::{AsyncReadExt, AsyncWriteExt, DuplexStream, duplex};
use tokio::net::{TcpListener, TcpStream};
use tokio::time::timeout;

use super::*;

/// Bound on every wait: only a broken pump reaches it.
const SOON: Duration = Duration::from_secs(20);

struct TestHost {
    shut: Cell<bool>,
    moved: Cell<(u64, u64)>,
    /// What was said to have been written to the client; `None` once something went by unseen.
    to_client: RefCell<Option<Vec<u8>>>,
}

impl Default for TestHost {
    fn default() -> TestHost {
        TestHost { shut: Cell::default(), moved: Cell::default(), to_client: RefCell::new(Some(vec![])) }
    }
}

impl Host for &TestHost {
    fn may_forward(&self) -> bool {
        !self.shut.get()
    }

    fn moved(&mut self, side: Side, bytes: u64) {
        let (client, server) = self.moved.get();
        self.moved.set(match side {
            Side::Client => (client + bytes, server),
            Side::Server => (client, server + bytes),
        });
    }

    fn wrote(&mut self, side: Side, bytes: Option<&[u8]>) {
        if side == Side::Client {
            let mut seen = self.to_client.borrow_mut();
            match (bytes, &mut *seen) {
                (Some(bytes), Some(seen)) => seen.extend_from_slice(bytes),
                _ => *seen = None,
            }
        }
    }
}

impl Stream for DuplexStream {
    fn socket(&self) -> Option<&TcpStream> {
        None
    }
}

/// Pumps to the end and closes both, as a session does.
async fn run(mut client: impl Stream, mut server: impl Stream, host: &TestHost) -> (Event, (u64, u64)) {
    let mut pump = Duplex::default();
    loop {
        let event = poll_fn(|cx| pump.poll(cx, &mut client, &mut server, &mut &*host)).await;
        if !matches!(event, Event::HalfClosed(_)) {
            pump.settle(&mut &*host);
            return (event, pump.totals());
        }
    }
}

async fn tcp_pair() -> (TcpStream, TcpStream) {
    let listener = TcpListener::bind("127.0.0.1:0").await.expect("bind");
    let near = TcpStream::connect(listener.local_addr().expect("address")).await.expect("connect");
    let (far, _) = listener.accept().await.expect("accept");
    (near, far)
}

fn reset_on_drop(stream: &TcpStream) {
    socket2::SockRef::from(stream).set_linger(Some(Duration::ZERO)).expect("linger");
}

/// Writes `data` in chunks of the given sizes, then closes its writing half.
async fn send(stream: &mut tokio::io::WriteHalf<DuplexStream>, data: &[u8], chunk: usize) {
    for part in data.chunks(chunk) {
        stream.write_all(part).await.expect("the pump reads");
    }
    stream.shutdown().await.expect("shutdown");
}

fn both_ways(up: &[u8], down: &[u8], pipe: usize, chunk: usize) {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_time().build().expect("runtime");
    runtime.block_on(async {
        let (client, client_far) = duplex(pipe);
        let (server, server_far) = duplex(pipe);
        let (mut client_read, mut client_write) = tokio::io::split(client);
        let (mut server_read, mut server_write) = tokio::io::split(server);
        let (mut at_client, mut at_server) = (vec![], vec![]);
        let host = TestHost::default();
        let all = async {
            tokio::join!(
                run(client_far, server_far, &host),
                send(&mut client_write, up, chunk),
                send(&mut server_write, down, chunk),
                client_read.read_to_end(&mut at_client),
                server_read.read_to_end(&mut at_server),
            )
            .0
        };
        let (event, totals) = timeout(SOON, all).await.expect("the pump ends");
        assert!(matches!(event, Event::Closed(_)), "{event:?}");
        assert!(at_server == up && at_client == down, "bytes changed on the way");
        assert_eq!(totals, (down.len() as u64, up.len() as u64));
        assert_eq!(host.moved.get(), totals, "the counters hear of every byte");
        assert!(
            host.to_client.take().is_some_and(|told| told == down),
            "the host hears of every byte in order"
        );
    });
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(64))]

    #[test]
    fn bytes_arrive_intact_both_ways(
        up in proptest::collection::vec(any::<u8>(), 0..20_000),
        down in proptest::collection::vec(any::<u8>(), 0..20_000),
        pipe in 1_usize..5_000,
        chunk in 1_usize..5_000,
    ) {
        both_ways(&up, &down, pipe, chunk);
    }
}

#[test]
fn large_streams_through_a_small_pipe() {
    let up = noise(3_000_000);
    both_ways(&up, &up[..1_500_000], 70_000, 99_999);
}

/// Sends bursts, each after a pause that lets the pump run dry: large ones, then many small ones.
async fn send_bursts(stream: &mut (impl AsyncWrite + Unpin), data: &[u8], bursts: &[usize]) {
    let mut rest = data;
    for size in bursts.iter().cycle() {
        if rest.is_empty() {
            break;
        }
        let (burst, after) = rest.split_at((*size).clamp(1, rest.len()));
        stream.write_all(burst).await.expect("the pump reads");
        tokio::task::yield_now().await;
        rest = after;
    }
    stream.shutdown().await.expect("shutdown");
}

/// Reads to the end, `few` bytes at a time, and gives way after each `pause` bytes.
async fn read_slowly(stream: &mut (impl AsyncRead + Unpin), few: usize, pause: usize) -> Vec<u8> {
    let (mut got, mut buffer, mut since) = (vec![], vec![0; few], 0);
    while let n @ 1.. = stream.read(&mut buffer).await.expect("read") {
        got.extend_from_slice(&buffer[..n]);
        since += n;
        if since >= pause {
            since = 0;
            tokio::task::yield_now().await;
        }
    }
    got
}

/// Over real sockets, where bulk goes through pipes: both ways, switching to and fro. Answers how often a
/// direction was seen to be bulk.
fn over_sockets(up: &[u8], down: &[u8], bursts: &[usize], few: usize, pause: usize) -> usize {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().expect("runtime");
    runtime.block_on(async {
        let (client, mut client_far) = tcp_pair().await;
        let (mut server_far, server) = tcp_pair().await;
        let (mut client_read, mut client_write) = client.into_split();
        let (mut server_read, mut server_write) = server.into_split();
        let host = TestHost::default();
        let mut pump = Duplex::default();
        let mut bulk = 0;
        let moving = async {
            let event = loop {
                let event = poll_fn(|cx| {
                    let polled = pump.poll(cx, &mut client_far, &mut server_far, &mut &host);
                    bulk += usize::from(pump.to_server.is_bulk()) + usize::from(pump.to_client.is_bulk());
                    polled
                });
                match event.await {
                    Event::HalfClosed(_) => {}
                    event => break event,
                }
            };
            pump.settle(&mut &host);
            drop((client_far, server_far));
            (event, pump.totals())
        };
        let all = async {
            tokio::join!(
                moving,
                send_bursts(&mut client_write, up, bursts),
                send_bursts(&mut server_write, down, bursts),
                read_slowly(&mut client_read, few, pause),
                read_slowly(&mut server_read, few, pause),
            )
        };
        let ((event, totals), (), (), at_client, at_server) =
            timeout(SOON, all).await.expect("the pump ends");
        assert!(matches!(event, Event::Closed(_)), "{event:?}");
        assert!(at_server == up && at_client == down, "bytes changed on the way");
        assert_eq!(totals, (down.len() as u64, up.len() as u64));
        assert_eq!(host.moved.get(), totals, "the counters hear of every byte");
        assert!(host.to_client.take().is_none_or(|told| told == down), "nothing goes by that is not told");
        bulk
    })
}

fn noise(len: usize) -> Vec<u8> {
    (0..u32::try_from(len).expect("small")).map(|n| (n.wrapping_mul(2_654_435_761) >> 24) as u8).collect()
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(24))]

    #[test]
    fn nothing_is_lost_between_copying_and_piping(
        up in 0_usize..6_000_000,
        down in 0_usize..6_000_000,
        bursts in proptest::collection::vec(prop_oneof![1_usize..300, 1_usize..70_000, 500_000_usize..3_000_000], 1..12),
        few in prop_oneof![1_000_usize..5_000, 60_000_usize..300_000],
        pause in 1_usize..500_000,
    ) {
        // Megabytes in messages of a few bytes would only take long.
        let most = bursts.iter().sum::<usize>() * 300;
        over_sockets(&noise(up.min(most)), &noise(down.min(most)), &bursts, few, pause);
    }
}

#[test]
fn bulk_goes_through_a_pipe() {
    let data = noise(20_000_000);
    assert!(over_sockets(&data, &data[..100], &[4_000_000], 300_000, 300_000) > 0, "no pipe was ever used");
}

#[tokio::test]
async fn half_close_is_passed_on_and_the_answer_still_arrives() {
    let (mut client, client_far) = tcp_pair().await;
    let (server_far, mut server) = tcp_pair().await;
    let peers = async {
        client.write_all(b"question").await.expect("write");
        client.shutdown().await.expect("shutdown");
        let mut question = vec![];
        server.read_to_end(&mut question).await.expect("the end of the question arrives");
        assert_eq!(question, b"question");
        server.write_all(b"answer").await.expect("write");
        drop(server);
        let mut answer = vec![];
        client.read_to_end(&mut answer).await.expect("read");
        assert_eq!(answer, b"answer");
    };
    let host = TestHost::default();
    let both = async { tokio::join!(run(client_far, server_far, &host), peers) };
    let ((event, _), ()) = timeout(SOON, both).await.expect("ends");
    assert!(matches!(event, Event::Closed(Side::Client)), "{event:?}");
}

#[tokio::test]
async fn a_reset_names_its_side() {
    for side in [Side::Client, Side::Server] {
        let (client, client_far) = tcp_pair().await;
        let (server_far, server) = tcp_pair().await;
        let (broken, kept) = if side == Side::Client { (client, server) } else { (server, client) };
        reset_on_drop(&broken);
        drop(broken);
        let host = TestHost::default();
        let (event, _) = timeout(SOON, run(client_far, server_far, &host)).await.expect("ends");
        assert!(matches!(event, Event::Failed(s, _) if s == side), "{side:?}: {event:?}");
        drop(kept);
    }
}

/// A server that says why and closes must be heard, even when the client was just writing to it.
#[tokio::test]
async fn last_words_of_a_server_that_resets_are_delivered() {
    let (mut client, client_far) = tcp_pair().await;
    let (mut server_far, mut server) = tcp_pair().await;
    server.write_all(b"FATAL: goodbye").await.expect("write");
    // Unread bytes at close make the kernel send a reset.
    server_far.write_all(b"unread").await.expect("write");
    server.readable().await.expect("readable");
    drop(server);
    let words = async {
        client.write_all(&vec![7; 300_000]).await.ok();
        let mut heard = vec![];
        client.read_to_end(&mut heard).await.ok();
        heard
    };
    let host = TestHost::default();
    let pump = run(client_far, server_far, &host);
    let ((event, totals), heard) = timeout(SOON, async { tokio::join!(pump, words) }).await.expect("ends");
    // Whether the kernel tells of the reset in the write or lets the read end in order is its choice.
    assert!(matches!(event, Event::Failed(Side::Server, _) | Event::Closed(Side::Server)), "{event:?}");
    assert_eq!(heard, b"FATAL: goodbye");
    assert_eq!(totals.0, 14);
}

#[tokio::test]
async fn a_slow_reader_holds_back_the_writer_and_loses_nothing() {
    let (mut client, mut client_far) = duplex(1_000);
    let (mut server_far, mut server) = duplex(1_000);
    let data: Vec<u8> = (0..=250).cycle().take(100_000).collect();
    let host = TestHost::default();
    let reader = async {
        let mut got = vec![];
        let mut few = [0; 7];
        while let n @ 1.. = client.read(&mut few).await.expect("read") {
            got.extend_from_slice(&few[..n]);
            tokio::task::yield_now().await;
        }
        got
    };
    let writer = async {
        server.write_all(&data).await.expect("write");
        server.shutdown().await.expect("shutdown");
    };
    let pump = async {
        let mut pump = Duplex::default();
        // The client stays: the end of the server is as far as this goes.
        let event = poll_fn(|cx| pump.poll(cx, &mut client_far, &mut server_far, &mut &host)).await;
        assert!(matches!(event, Event::HalfClosed(Side::Server)), "{event:?}");
    };
    let all = async { tokio::join!(pump, writer, reader).2 };
    let got = timeout(SOON, all).await.expect("ends");
    assert!(got == data, "{} of {} bytes arrived intact", got.len(), data.len());
}

#[tokio::test]
async fn nothing_passes_a_shut_gate_and_nothing_is_lost_behind_it() {
    let (mut client, mut client_far) = duplex(100);
    let (mut server_far, mut server) = duplex(100);
    let host = TestHost::default();
    client.write_all(b"insert").await.expect("write");
    host.shut.set(true);
    let mut pump = Duplex::default();
    let event = poll_fn(|cx| pump.poll(cx, &mut client_far, &mut server_far, &mut &host)).await;
    assert!(matches!(event, Event::Shut), "{event:?}");
    assert_eq!(pump.totals(), (0, 0));
    host.shut.set(false);
    drop(client);
    let mut arrived = vec![];
    let rest = async {
        tokio::join!(run(client_far, server_far, &host), async {
            server.read_to_end(&mut arrived).await.expect("read");
            drop(server);
        })
    };
    timeout(SOON, rest).await.expect("ends");
    assert_eq!(arrived, b"insert");
}

/// An idle session must not hold a buffer.
#[test]
fn an_idle_duplex_is_small() {
    assert!(size_of::<Duplex>() <= 192, "{} bytes", size_of::<Duplex>());
}
