//! How real clients come in: TLS by libpq and without asking first, limits, among hostile ones, and out of a hold.

mod cluster_support;

use std::net::SocketAddr;
use std::path::Path;
use std::sync::Arc;
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use cluster_support::raw::{self, SSL_REQUEST};
use cluster_support::tools::{Dialogue, complained, libpq, operate, printed, psql, tool};
use cluster_support::{SOON, cluster, metric, topology, until};
use rustix::process::Signal;
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, ServerName};
use rustls::{ClientConfig, RootCertStore};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::task::JoinSet;
use tokio::time::timeout;
use tokio_postgres::NoTls;
use tokio_rustls::TlsConnector;
use xtask::playground::Playground;
use xtask::playground::certificates::{Authority, Signed};
use xtask::programs;

/// One node that leads, and no proxy yet.
async fn small() -> Playground {
    cluster(1, 10, vec![]).await
}

/// Writes a file of the servers; answers where.
fn file(playground: &Playground, name: &str, text: &str) -> String {
    playground.write(name, text).expect("writes").display().to_string()
}

/// Writes a certificate and its key; answers the keys of a section that names them.
fn shown(playground: &Playground, name: &str, signed: &Signed) -> String {
    let certificate = file(playground, &format!("{name}.crt"), &signed.certificate);
    let key = file(playground, &format!("{name}.key"), &signed.key);
    format!("cert = \"{certificate}\"\nkey = \"{key}\"\n")
}

/// A proxy with a port for writes of each of these names and keys, besides the usual two.
async fn with_ports<const N: usize>(
    playground: &mut Playground,
    ports: [(&str, String); N],
) -> (usize, [SocketAddr; N]) {
    let ports = ports.map(|(name, keys)| (name, format!("role = \"primary\"\n{keys}")));
    cluster_support::with_ports(playground, ports).await
}

/// How many ends of sessions of this listener had this reason.
async fn ends(playground: &Playground, proxy: usize, listener: &str, reason: &str) -> usize {
    let series = format!("pgvane_session_ends_total{{listener=\"{listener}\",reason=\"{reason}\"}}");
    metric(playground, proxy, &series).await
}

#[tokio::test(flavor = "multi_thread")]
async fn libpq_has_to_come_by_tls_as_the_port_says() {
    let mut playground = small().await;
    let (ours, strange) = (Authority::new("ours"), Authority::new("another"));
    let ca = file(&playground, "ca.crt", &ours.certificate());
    let server = shown(&playground, "server", &ours.sign("localhost"));
    let terminate = |more: &str| format!("[listener.tls]\nmode = \"terminate\"\n{server}{more}\n");
    let (_, [asks, modern, required]) = with_ports(
        &mut playground,
        [
            ("asks", terminate(&format!("client_ca = \"{ca}\""))),
            ("modern", terminate("min_version = \"1.3\"")),
            ("required", terminate("required = true")),
        ],
    )
    .await;
    let verified =
        |port: SocketAddr, more: &str| format!("{} sslmode=verify-full sslrootcert={ca} {more}", libpq(port));

    let shows = |playground: &Playground, name: &str, signed: &Signed| {
        let certificate = file(playground, &format!("{name}.crt"), &signed.certificate);
        let key = file(playground, &format!("{name}.key"), &signed.key);
        format!("sslcert={certificate} sslkey={key}")
    };
    let good = shows(&playground, "client", &ours.sign("client"));
    assert_eq!(printed(psql(&verified(asks, &good), &["-c", "SELECT 1"])).await, "1\n");
    let why = complained(psql(&verified(asks, ""), &["-c", "SELECT 1"])).await;
    assert!(why.contains("certificate required"), "{why}");
    let bad = shows(&playground, "stranger", &strange.sign("client"));
    let why = complained(psql(&verified(asks, &bad), &["-c", "SELECT 1"])).await;
    assert!(why.contains("alert"), "{why}");

    let old = verified(modern, "ssl_max_protocol_version=TLSv1.2");
    let why = complained(psql(&old, &["-c", "SELECT 1"])).await;
    assert!(why.contains("protocol version"), "{why}");
    let info = printed(psql(&verified(modern, ""), &["-c", "\\conninfo"])).await;
    assert!(info.contains("TLSv1.3"), "{info}");
    let older = verified(required, "ssl_max_protocol_version=TLSv1.2");
    let info = printed(psql(&older, &["-c", "\\conninfo"])).await;
    assert!(info.contains("TLSv1.2"), "it is the port that refuses it: {info}");

    let plain = format!("{} sslmode=disable", libpq(required));
    let why = complained(psql(&plain, &["-c", "SELECT 1"])).await;
    let text = "FATAL:  pgvane: listener required takes sessions over TLS only";
    assert!(why.contains(text), "{why}");
    let code = tokio_postgres::connect(&plain, NoTls).await.err().and_then(|e| e.code().cloned());
    assert_eq!(code.as_ref().map(tokio_postgres::error::SqlState::code), Some("28000"));
    // libpq's own preference is TLS first.
    let preferred = printed(psql(&libpq(required), &["-c", "\\conninfo"])).await;
    assert!(preferred.contains("SSL connection"), "{preferred}");
}

#[tokio::test(flavor = "multi_thread")]
async fn certificates_are_replaced_under_open_sessions_by_good_ones_only() {
    let mut playground = small().await;
    let [first, second, third] = ["first", "second", "third"].map(Authority::new);
    let [first_ca, second_ca, third_ca] = [("1.ca", &first), ("2.ca", &second), ("3.ca", &third)]
        .map(|(name, authority)| file(&playground, name, &authority.certificate()));
    let section = shown(&playground, "server", &first.sign("localhost"));
    let section = format!("[listener.tls]\nmode = \"terminate\"\n{section}");
    let (proxy, [port]) = with_ports(&mut playground, [("tls", section)]).await;
    let verified = |ca: &str| format!("{} sslmode=verify-full sslrootcert={ca}", libpq(port));
    let passes = async |ca: &str| {
        let output = psql(&verified(ca), &["-c", "SELECT 1"]).output().await.expect("starts");
        output.status.success()
    };
    let mut session = Dialogue::open(&verified(&first_ca)).await;

    shown(&playground, "server", &second.sign("localhost"));
    assert!(passes(&first_ca).await, "the file alone changes nothing");
    playground.proxies[proxy].signal(Signal::HUP);
    until(&playground, "the new certificate is shown", async || passes(&second_ca).await).await;
    assert!(!passes(&first_ca).await, "the old one is not shown any more");
    session.say("SELECT 'still';").await;
    assert_eq!(session.line().await, "still\n");

    shown(&playground, "server", &third.sign("localhost"));
    let reload = async || operate(playground.proxies[proxy].socket(), &["reload"]).await;
    reload().await.expect("it is good");
    assert!(passes(&third_ca).await && !passes(&second_ca).await);

    let key = file(&playground, "server.key", &first.sign("localhost").key);
    let said = reload().await.expect_err("another key");
    assert!(said.contains(&key) && said.contains("this is not the key of"), "{said}");
    let certificate = file(&playground, "server.crt", "no certificate\n");
    let said = reload().await.expect_err("no certificate");
    assert!(said.contains(&certificate), "{said}");
    assert!(passes(&third_ca).await, "the last good one is still shown");
    session.say("SELECT 'still';").await;
    assert_eq!(session.line().await, "still\n");

    // One that is over is taken as it was asked for, and told of: in metrics, in the log, to who checks the settings.
    let ends = async || {
        let series =
            format!("pgvane_certificate_expiry_timestamp_seconds{{listener=\"tls\",file={certificate:?}}}");
        metric(&playground, proxy, &series).await
    };
    assert_eq!(ends().await, 67_090_118_400, "in the year 4096");
    shown(&playground, "server", &third.sign_until(&["localhost"], 2020));
    reload().await.expect("it can be read");
    assert_eq!(ends().await, 1_577_836_800, "in the year 2020");
    let settings = playground.proxies[proxy].file();
    let check = tokio::process::Command::new(programs::built().expect("built").proxy)
        .arg("--check")
        .arg(settings)
        .output()
        .await;
    let check = check.expect("starts");
    let said = String::from_utf8_lossy(&check.stderr).into_owned();
    let warning = format!("warning: listener tls: the certificate in {certificate} ");
    assert!(check.status.success() && said.contains(&warning) && said.contains(" expired "), "{said}");
    assert!(!said.contains("listener primary"), "no other is told of: {said}");
}

/// A handshake without asking first, as `sslnegotiation=direct` has it.
async fn direct_tls(port: SocketAddr, ca: &str) -> tokio_rustls::client::TlsStream<TcpStream> {
    let mut roots = RootCertStore::empty();
    roots.add(CertificateDer::from_pem_file(Path::new(ca)).expect("a certificate")).expect("a CA");
    let mut config = ClientConfig::builder().with_root_certificates(roots).with_no_client_auth();
    config.alpn_protocols = vec![b"postgresql".to_vec()];
    let stream = TcpStream::connect(port).await.expect("the proxy accepts");
    let name = ServerName::try_from("localhost").expect("a name");
    let stream = timeout(SOON, TlsConnector::from(Arc::new(config)).connect(name, stream)).await;
    let stream = stream.expect("a handshake").expect("the certificate is good");
    assert_eq!(stream.get_ref().1.alpn_protocol(), Some(&b"postgresql"[..]));
    stream
}

#[tokio::test(flavor = "multi_thread")]
async fn tls_without_asking_first_reaches_servers_that_do_not_know_it() {
    const SEES_TLS: &str = "SELECT ssl FROM pg_stat_ssl WHERE pid = pg_backend_pid()";
    let mut playground = small().await;
    let ours = Authority::new("ours");
    let ca = file(&playground, "ca.crt", &ours.certificate());
    let signed = ours.sign("127.0.0.1");
    let [certificate, key] = [("db.crt", &signed.certificate), ("db.key", &signed.key)]
        .map(|(name, text)| file(&playground, name, text));
    let (superuser, connection) =
        playground.node("pg1").superuser().connect(NoTls).await.expect("a superuser");
    let driver = tokio::spawn(connection);
    for change in [
        format!("ALTER SYSTEM SET ssl_cert_file = '{certificate}'"),
        format!("ALTER SYSTEM SET ssl_key_file = '{key}'"),
        "ALTER SYSTEM SET ssl = on".to_owned(),
        "SELECT pg_reload_conf()".to_owned(),
    ] {
        superuser.batch_execute(&change).await.expect("a change of settings");
    }
    driver.abort();
    let server = format!("{} sslmode=require", libpq(playground.node("pg1").postgres()));
    let has_tls = async || {
        psql(&server, &["-c", "SELECT 1"]).output().await.is_ok_and(|output| output.status.success())
    };
    until(&playground, "the server has TLS", has_tls).await;

    let ours = shown(&playground, "server", &ours.sign("localhost"));
    let section = |mode: &str, more: &str| format!("[listener.tls]\nmode = \"{mode}\"\n{ours}{more}");
    let reencrypt = section("reencrypt", &format!("server_ca = \"{ca}\"\n"));
    let (_, [ends, goes_on]) =
        with_ports(&mut playground, [("ends", section("terminate", "")), ("goes_on", reencrypt)]).await;
    for (port, sees) in [(ends, "f"), (goes_on, "t")] {
        for (sql, answer) in [("SELECT 1", "1"), (SEES_TLS, sees)] {
            let mut stream = direct_tls(port, &ca).await;
            let answered = timeout(SOON, raw::select(&mut stream, sql)).await.expect("an answer");
            assert_eq!(answered.expect("a row"), answer, "{sql}");
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn limits_hold_and_are_told() {
    let mut playground = small().await;
    let (proxy, [seats, address, target, impatient, denied, allowed]) = with_ports(
        &mut playground,
        [
            ("seats", "max_sessions = 1".to_owned()),
            ("address", "max_sessions_per_address = 1".to_owned()),
            ("target", "max_sessions_per_target = 2".to_owned()),
            ("impatient", "max_sessions_per_target = 1\nqueue_timeout = \"300ms\"".to_owned()),
            ("denied", "deny = [\"127.0.0.0/8\"]".to_owned()),
            ("allowed", "allow = [\"192.0.2.0/24\"]".to_owned()),
        ],
    )
    .await;
    let refused = async |port: SocketAddr| complained(psql(&libpq(port), &["-c", "SELECT 1"])).await;
    let code = async |port: SocketAddr| {
        let error = tokio_postgres::connect(&libpq(port), NoTls).await.err().expect("refused");
        error.code().map(|code| code.code().to_owned())
    };
    for (port, state, text) in [
        (denied, "28000", "listener denied takes nobody from this address (allow, deny)"),
        (allowed, "28000", "listener allowed takes nobody from this address (allow, deny)"),
    ] {
        let why = refused(port).await;
        assert!(why.contains(&format!("FATAL:  pgvane: {text}")), "{why}");
        assert_eq!(code(port).await.as_deref(), Some(state));
    }
    for (port, state, text) in [
        (seats, "53300", "listener seats has its limit of 1 sessions (max_sessions)"),
        (
            address,
            "53300",
            "this address has its limit of sessions on listener address (max_sessions_per_address)",
        ),
        (
            impatient,
            "53300",
            "cluster demo: every server for this session has its limit of 1 sessions \
             (max_sessions_per_target); gave up after 300ms",
        ),
    ] {
        let session = Dialogue::open(&libpq(port)).await;
        let why = refused(port).await;
        assert!(why.contains(&format!("FATAL:  pgvane: {text}")), "{why}");
        assert_eq!(code(port).await.as_deref(), Some(state));
        assert_eq!(session.complaint().await, "", "who is in is not touched");
        until(&playground, "the place is free", async || {
            let topology = topology(&playground, proxy).await;
            topology["clusters"][0]["members"][0]["sessions"] == 0
        })
        .await;
        assert_eq!(printed(psql(&libpq(port), &["-c", "SELECT 1"])).await, "1\n", "and is taken again");
    }
    eight_share_two_places(&playground, target).await;
}

/// pgbench with more clients than there are places: all have their turn, and the server never has more.
async fn eight_share_two_places(playground: &Playground, port: SocketAddr) {
    const COUNT: &str = "SELECT count(*) FROM pg_stat_activity WHERE application_name = 'pgbench'";
    let script = tempfile::NamedTempFile::new().expect("a file");
    std::fs::write(script.path(), "SELECT pg_sleep(0.005);\n").expect("writes");
    let script = script.path().display().to_string();
    let (watcher, connection) = playground.node("pg1").superuser().connect(NoTls).await.expect("a superuser");
    let driver = tokio::spawn(connection);
    let count = watcher.prepare(COUNT).await.expect("prepares");
    // A thread each: pgbench connects one after the other within a thread, and waits for it.
    let args = ["-n", "-C", "-c", "8", "-j", "8", "-t", "25", "-f", &script, &libpq(port)];
    let mut running = tokio::spawn(printed(tool("pgbench", &args)));
    let (mut looks, mut most) = (0, 0);
    let said = loop {
        tokio::select! {
            said = &mut running => break said.expect("no panic"),
            row = watcher.query_one(&count, &[]) => {
                most = most.max(row.expect("a count").get::<_, i64>(0));
                looks += 1;
            }
        }
    };
    driver.abort();
    assert!(said.contains("number of transactions actually processed: 200/200"), "{said}");
    assert!(said.contains("number of failed transactions: 0 (0.000%)"), "{said}");
    assert_eq!(most, 2, "the most sessions that were seen in {looks} looks");
}

/// How many of each kind come at the same time.
const CROWD: usize = 200;

/// What somebody sends who is no client of PostgreSQL.
#[derive(Clone, Copy, Debug)]
enum Hostile {
    /// A startup packet, byte by byte.
    Slow,
    /// The length of a startup packet that is too long, by a little or by a lot.
    Oversized,
    Http,
    /// Anything; never the start of TLS or of a packet that could be one.
    Noise,
    /// TLS that is none, half of it after asking.
    NoTls,
}

/// Numbers that look random, the same in every run.
fn noise(seed: usize) -> impl Iterator<Item = u8> {
    let mut state = (seed as u64 + 1).wrapping_mul(0x9E37_79B9_7F4A_7C15);
    std::iter::repeat_with(move || {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        state.to_be_bytes()[0]
    })
}

impl Hostile {
    /// Sends what it has, then waits to be closed.
    async fn come(self, port: SocketAddr, number: usize) {
        let mut stream = TcpStream::connect(port).await.expect("the proxy accepts");
        let bytes = match self {
            Hostile::Slow => {
                // Longer than it can be sent in the time there is.
                for byte in raw::startup() {
                    if stream.write_all(&[byte]).await.is_err() {
                        break;
                    }
                    tokio::time::sleep(Duration::from_millis(100)).await;
                }
                vec![]
            }
            Hostile::Oversized => {
                let length = u32::try_from(10_001 + number * number).expect("short");
                [&length.to_be_bytes()[..], &196_608_u32.to_be_bytes(), &[b'x'; 500]].concat()
            }
            Hostile::Http => b"GET / HTTP/1.1\r\nHost: localhost\r\n\r\n".to_vec(),
            Hostile::Noise => {
                let mut bytes: Vec<u8> = noise(number).take(1 + number * 5 + 7).collect();
                bytes[0] |= 0x40;
                bytes
            }
            Hostile::NoTls => {
                if number.is_multiple_of(2) {
                    stream.write_all(&SSL_REQUEST).await.expect("writes");
                    assert_eq!(stream.read_u8().await.expect("an answer"), b'S');
                }
                // A record with a ClientHello of an impossible length: of a possible one the rest is awaited.
                [0x16, 3, 1, 0, 104, 1, 0xff, 0xff, 0xff].into_iter().chain(noise(number).take(100)).collect()
            }
        };
        // Closed meanwhile is closed as well.
        let _ = stream.write_all(&bytes).await;
        let closed = timeout(SOON, stream.read_to_end(&mut vec![])).await;
        assert!(closed.is_ok(), "{self:?} {number} is not closed");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn clients_get_in_among_a_thousand_that_are_none() {
    let mut playground = small().await;
    let ours = Authority::new("ours");
    let section = shown(&playground, "server", &ours.sign("localhost"));
    let section = format!("startup_timeout = \"3s\"\n[listener.tls]\nmode = \"terminate\"\n{section}");
    let (proxy, [plain, tls]) =
        with_ports(&mut playground, [("plain", "startup_timeout = \"3s\"".to_owned()), ("tls", section)])
            .await;
    let mut crowd = JoinSet::new();
    for number in 0..CROWD {
        for kind in [Hostile::Slow, Hostile::Oversized, Hostile::Http, Hostile::Noise] {
            crowd.spawn(kind.come(plain, number));
        }
        crowd.spawn(Hostile::NoTls.come(tls, number));
    }
    let mut took = vec![];
    let encrypted = format!("{} sslmode=require", libpq(tls));
    for connection in [libpq(plain), encrypted].iter().cycle().take(10) {
        let began = Instant::now();
        assert_eq!(printed(psql(connection, &["-c", "SELECT 1"])).await, "1\n");
        took.push(began.elapsed());
    }
    assert!(!crowd.is_empty(), "they are still there");
    while let Some(ended) = crowd.join_next().await {
        ended.expect("no panic");
    }
    took.sort();
    eprintln!("psql among them took {:?} (median), {:?} (longest)", took[5], took[9]);
    assert!(took[5] < Duration::from_secs(1), "{took:?}");

    for (listener, reason, count) in [
        ("plain", "first_packet_timeout", CROWD),
        ("plain", "protocol_violation", 3 * CROWD),
        ("tls", "tls_failed", CROWD),
    ] {
        let what = format!("{count} ends of {listener} by {reason}");
        until(&playground, &what, async || ends(&playground, proxy, listener, reason).await == count).await;
    }
    assert_eq!(metric(&playground, proxy, "pgvane_sessions{").await, 0, "nobody is left");
    let log = playground.log(&playground.proxies[proxy].options().name);
    let told = log.lines().filter(|line| {
        line.contains("reason=\"protocol_violation\"") && line.contains("has an impossible length")
    });
    assert_eq!(told.count(), 3 * CROWD, "{}", playground.log_tails(20));
}

/// Microseconds since midnight, UTC.
fn time_of_day(at: SystemTime) -> u64 {
    let since = at.duration_since(UNIX_EPOCH).expect("after 1970");
    u64::try_from(since.as_micros() % 86_400_000_000).expect("a day")
}

/// When a line of the log was written, in microseconds since midnight: `2026-01-31T23:59:59.123456Z`.
fn written(line: &str) -> Option<u64> {
    let time = line.split_once('T')?.1.split_once('Z')?.0;
    let mut parts = time.split([':', '.']).map(|part| part.parse::<u64>().ok());
    let mut part = || parts.next().flatten();
    Some(((part()? * 60 + part()?) * 60 + part()?) * 1_000_000 + part()?)
}

#[tokio::test(flavor = "multi_thread")]
async fn held_clients_go_on_as_soon_as_a_primary_serves() {
    const HELD: usize = 20;
    let mut playground = small().await;
    let (proxy, []) = with_ports(&mut playground, []).await;
    let port = playground.proxies[proxy].options().primary;
    assert!(playground.node_mut("pg1").stop_agent(SOON).await, "the agent stops");
    let mut clients = JoinSet::new();
    for _ in 0..HELD {
        clients.spawn(async move {
            let mut stream = TcpStream::connect(port).await.expect("the proxy accepts");
            stream.write_all(&raw::startup()).await.expect("writes");
            timeout(SOON, raw::until(&mut stream, b'R')).await.expect("an answer").expect("is let in");
            let at = SystemTime::now();
            timeout(SOON, raw::until(&mut stream, b'Z')).await.expect("an answer").expect("a session");
            at
        });
    }
    until(&playground, "all are held", async || {
        topology(&playground, proxy).await["listeners"][0]["held"] == HELD
    })
    .await;
    playground.restart_agent("pg1").expect("the agent starts");
    let at = clients.join_all().await;
    let log = playground.log(&playground.proxies[proxy].options().name);
    let serves = log.lines().rfind(|line| line.contains("primary serves")).and_then(written);
    let serves = serves.unwrap_or_else(|| panic!("the log does not say that a primary serves\n{log}"));
    let after = |at: SystemTime| (time_of_day(at) + 86_400_000_000 - serves) % 86_400_000_000;
    let mut after: Vec<u64> = at.into_iter().map(after).collect();
    after.sort_unstable();
    let ms = |us: u64| Duration::from_micros(us).as_secs_f64() * 1000.0;
    let (median, last) = (ms(after[HELD / 2]), ms(after[HELD - 1]));
    eprintln!("held clients went on after {median:.1} ms (median), {last:.1} ms (last)");
    assert!(last < 1000.0, "{after:?}");
}
