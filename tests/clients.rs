//! Real clients through the real proxy to real PostgreSQL: what they do works, and what they are told is shown.

mod cluster_support;

use std::fmt::Write as _;
use std::future::poll_fn;
use std::os::unix::fs::PermissionsExt;

use cluster_support::tools::{Dialogue, complained, fed, printed, psql, tool};
use cluster_support::writer::config;
use cluster_support::{
    SOON, add_proxy, cluster, healthy, small, switchover, topology, until, until_standing,
};
use rustix::process::{Pid, Signal, kill_process};
use tokio::time::timeout;
use tokio_postgres::{AsyncMessage, NoTls};
use xtask::playground::certificates::Authority;
use xtask::playground::{CLIENT_ROLE, Playground};

/// How libpq reaches the port for writes of the proxy at this place.
fn through(playground: &Playground, proxy: usize) -> String {
    let port = playground.proxies[proxy].options().primary.port();
    format!("host=localhost hostaddr=127.0.0.1 port={port} user={CLIENT_ROLE} dbname=postgres")
}

/// The same as superuser, with `more`.
fn as_superuser(playground: &Playground, proxy: usize, more: &str) -> String {
    let config = playground.node("pg1").superuser();
    let password = String::from_utf8_lossy(config.get_password().expect("a password")).into_owned();
    through(playground, proxy).replace(CLIENT_ROLE, "postgres") + &format!(" password={password} {more}")
}

#[tokio::test(flavor = "multi_thread")]
async fn libpq_queries_and_copies() {
    let playground = small().await;
    let proxy = through(&playground, 0);
    assert_eq!(printed(psql(&proxy, &["-c", "SELECT 'simple', 6 * 7"])).await, "simple|42\n");
    for args in [
        &["-i", "-s", "1"][..],
        &["-M", "prepared", "-c", "4", "-t", "50"],
        &["-M", "extended", "-C", "-t", "20"],
    ] {
        let said = printed(tool("pgbench", &[args, &["-n", &proxy]].concat())).await;
        let done = args[0] == "-i" || said.contains("number of failed transactions: 0 (0.000%)");
        assert!(done, "{said}");
    }
    let counted = printed(psql(&proxy, &["-c", "SELECT count(*) FROM pgbench_history"])).await;
    assert_eq!(counted, "220\n", "4 clients of 50 and one of 20");

    // 20 MB there and back, in lines that differ.
    let mut lines = String::new();
    for n in 0_u64..200_000 {
        let noise = n.wrapping_mul(0x9E37_79B9_7F4A_7C15);
        writeln!(lines, "{n}\t{noise:045}{noise:045}").expect("a string");
    }
    assert!(lines.len() > 19_000_000, "{}", lines.len());
    printed(psql(&proxy, &["-c", "CREATE TABLE big (n bigint, noise text)"])).await;
    fed(psql(&proxy, &["-c", "COPY big FROM STDIN"]), lines.as_bytes()).await;
    let back = printed(psql(&proxy, &["-c", "COPY (SELECT * FROM big ORDER BY n) TO STDOUT"])).await;
    assert!(back == lines, "{} bytes there, {} back", lines.len(), back.len());
}

#[tokio::test(flavor = "multi_thread")]
async fn notifications_and_replication_pass() {
    let playground = small().await;
    let address = playground.proxies[0].options().primary;
    let (listener, mut connection) = config(address).connect(NoTls).await.expect("a session");
    let heard = tokio::spawn(async move {
        loop {
            match poll_fn(|cx| connection.poll_message(cx)).await {
                Some(Ok(AsyncMessage::Notification(note))) => {
                    return (note.channel().to_owned(), note.payload().to_owned());
                }
                Some(Ok(_)) => {}
                other => panic!("the session ended: {other:?}"),
            }
        }
    });
    listener.batch_execute("LISTEN news").await.expect("listens");
    let (speaker, connection) = config(address).connect(NoTls).await.expect("another session");
    let driver = tokio::spawn(connection);
    let notify = speaker.prepare("SELECT pg_notify('news', $1)").await.expect("prepares");
    speaker.query(&notify, &[&"hear, hear"]).await.expect("notifies");
    let heard = timeout(SOON, heard).await.expect("is notified").expect("no panic");
    assert_eq!(heard, ("news".to_owned(), "hear, hear".to_owned()));

    let logical = as_superuser(&playground, 0, "replication=database");
    let system = printed(psql(&logical, &["-c", "IDENTIFY_SYSTEM"])).await;
    assert_eq!(system.split('|').count(), 4, "{system}");
    // WAL is streamed from here on until a megabyte more was written.
    let sql = as_superuser(&playground, 0, "");
    let end = printed(psql(&sql, &["-c", "SELECT pg_current_wal_lsn() + 1048576"])).await;
    let (wal, physical) =
        (tempfile::tempdir().expect("a directory"), as_superuser(&playground, 0, "replication=true"));
    let dir = wal.path().display().to_string();
    let receive = tool("pg_receivewal", &["-D", &dir, "--no-loop", "--endpos", end.trim(), "-d", &physical]);
    let receiving = tokio::spawn(printed(receive));
    let write = "INSERT INTO writes SELECT generate_series(1, 40000)";
    speaker.batch_execute(write).await.expect("writes");
    receiving.await.expect("WAL is received");
    driver.abort();
    let size = std::fs::read_dir(wal.path()).expect("the directory").count();
    assert_ne!(size, 0, "no WAL was written down");
}

/// What the servers here are called.
const NAMES: [&str; 3] = ["localhost", "127.0.0.1", "named.test"];

/// Whether the server itself sees encryption.
const SEES_TLS: &str = "SELECT ssl FROM pg_stat_ssl WHERE pid = pg_backend_pid()";

#[tokio::test(flavor = "multi_thread")]
async fn libpq_trusts_the_proxy_where_tls_ends_and_the_server_where_it_passes() {
    let mut playground = small().await;
    let (our_ca, strange_ca) = (Authority::new("ours"), Authority::new("another"));
    let ours = our_ca.sign_all(&NAMES);
    let file = |name: &str, text: &str| playground.write(name, text).expect("writes").display().to_string();
    let (ca, other_ca) =
        (file("ca.crt", &our_ca.certificate()), file("other.crt", &strange_ca.certificate()));
    let (certificate, key) = (file("tls.crt", &ours.certificate), file("tls.key", &ours.key));
    let section =
        format!("[listener.tls]\nmode = \"terminate\"\ncert = \"{certificate}\"\nkey = \"{key}\"\n");
    let etcd = playground.etcd.client();
    let ends_tls = add_proxy(&mut playground, etcd, "", &section);
    healthy(&mut playground).await;

    let verified =
        |ca: &str| format!("{} sslmode=verify-full sslrootcert={ca}", through(&playground, ends_tls));
    let shown = printed(psql(&verified(&ca), &["-c", SEES_TLS, "-c", "\\conninfo"])).await;
    assert!(shown.starts_with("f\n") && shown.contains("SSL connection (protocol: TLSv1.3"), "{shown}");
    let why = complained(psql(&verified(&other_ca), &["-c", "SELECT 1"])).await;
    assert!(why.contains("certificate verify failed"), "{why}");
    let elsewhere = verified(&ca).replace("host=localhost", "host=elsewhere.test");
    let why = complained(psql(&elsewhere, &["-c", "SELECT 1"])).await;
    assert!(why.contains("does not match host name \"elsewhere.test\""), "{why}");

    // Passed through: first the server has no TLS, then it has, and its certificate is the one that is seen.
    let required = through(&playground, 0) + " sslmode=require";
    let why = complained(psql(&required, &["-c", "SELECT 1"])).await;
    assert!(why.contains("server does not support SSL, but SSL was required"), "{why}");
    turn_on_tls(&playground, &certificate, &key).await;
    assert_eq!(printed(psql(&required, &["-c", SEES_TLS])).await, "t\n");
    let verified = required.replace("sslmode=require", &format!("sslmode=verify-full sslrootcert={ca}"));
    assert_eq!(printed(psql(&verified, &["-c", SEES_TLS])).await, "t\n");
}

/// Has the server take TLS with this certificate.
async fn turn_on_tls(playground: &Playground, certificate: &str, key: &str) {
    let superuser = as_superuser(playground, 0, "");
    for change in [
        format!("ALTER SYSTEM SET ssl_cert_file = '{certificate}'"),
        format!("ALTER SYSTEM SET ssl_key_file = '{key}'"),
        "ALTER SYSTEM SET ssl = on".to_owned(),
        "SELECT pg_reload_conf()".to_owned(),
    ] {
        printed(psql(&superuser, &["-c", &change])).await;
    }
    let is_on = async || printed(psql(&superuser, &["-c", "SHOW ssl"])).await == "on\n";
    until(playground, "the server has TLS", is_on).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn tls_goes_on_to_servers_that_can_be_trusted() {
    let mut playground = small().await;
    let (our_ca, strange_ca) = (Authority::new("ours"), Authority::new("another"));
    let (ours, strange) = (our_ca.sign_all(&NAMES), strange_ca.sign_all(&NAMES));
    let file = |name: &str, text: &str| playground.write(name, text).expect("writes").display().to_string();
    let (ca, other_ca) =
        (file("ca.crt", &our_ca.certificate()), file("other.crt", &strange_ca.certificate()));
    let (certificate, key) = (file("tls.crt", &ours.certificate), file("tls.key", &ours.key));
    let (other, other_key) =
        (file("other.tls.crt", &strange.certificate), file("other.tls.key", &strange.key));
    let section = |more: &str| {
        format!(
            "hold_timeout = \"1s\"\n[listener.tls]\nmode = \"reencrypt\"\ncert = \"{certificate}\"\nkey = \"{key}\"\n{more}\n"
        )
    };
    let sni = format!("sni = [{{ names = [\"named.test\"], cert = \"{other}\", key = \"{other_key}\" }}]");
    let etcd = playground.etcd.client();
    let trusts = add_proxy(&mut playground, etcd, "", &section(&format!("server_ca = \"{ca}\"\n{sni}")));
    let doubts = add_proxy(&mut playground, etcd, "", &section(&format!("server_ca = \"{other_ca}\"")));
    let does_not_ask = add_proxy(&mut playground, etcd, "", &section("server_verify = \"none\""));
    healthy(&mut playground).await;

    // The server has no TLS yet: nothing may go to it.
    let why = complained(psql(&through(&playground, trusts), &["-c", "SELECT 1"])).await;
    assert!(why.contains("FATAL:  pgvane: cluster demo: pg1: it does not offer TLS"), "{why}");
    turn_on_tls(&playground, &certificate, &key).await;

    let verified = |proxy: usize, ca: &str| {
        format!("{} sslmode=verify-full sslrootcert={ca}", through(&playground, proxy))
    };
    assert_eq!(printed(psql(&verified(trusts, &ca), &["-c", SEES_TLS])).await, "t\n");
    let plain = through(&playground, trusts) + " sslmode=disable";
    assert_eq!(printed(psql(&plain, &["-c", SEES_TLS])).await, "t\n", "the client's plain text too");
    let said = printed(tool("pgbench", &["-i", "-s", "1", "-n", "-q", &verified(trusts, &ca)])).await;
    assert_eq!(said, "", "bulk passes");
    assert_eq!(printed(psql(&verified(does_not_ask, &ca), &["-c", SEES_TLS])).await, "t\n");
    let why = complained(psql(&verified(doubts, &ca), &["-c", "SELECT 1"])).await;
    assert!(why.contains("pg1: TLS: invalid peer certificate: UnknownIssuer"), "{why}");

    // Another certificate for who asks for another name.
    let named = verified(trusts, &other_ca).replace("host=localhost", "host=named.test");
    assert_eq!(printed(psql(&named, &["-c", SEES_TLS])).await, "t\n");

    // Ctrl-C: over TLS to the server as well.
    let sleeping = psql(&verified(trusts, &ca), &["-c", "SELECT pg_sleep(300)"]).spawn().expect("starts");
    let is_asleep = async || {
        let asked = "SELECT count(*) FROM pg_stat_activity WHERE query = 'SELECT pg_sleep(300)'";
        printed(psql(&as_superuser(&playground, 0, ""), &["-c", asked])).await == "1\n"
    };
    until(&playground, "the query runs", is_asleep).await;
    let pid = sleeping.id().and_then(|id| Pid::from_raw(i32::try_from(id).ok()?)).expect("it runs");
    kill_process(pid, Signal::INT).expect("it runs");
    let output = timeout(SOON, sleeping.wait_with_output()).await.expect("ends").expect("can be waited for");
    let why = String::from_utf8_lossy(&output.stderr).into_owned();
    assert!(why.contains("57014: canceling statement due to user request"), "{why}");
}

#[tokio::test(flavor = "multi_thread")]
async fn psql_comes_by_a_unix_socket() {
    let mut playground = small().await;
    let dir = tempfile::tempdir().expect("a directory");
    // Whoever the servers run as.
    std::fs::set_permissions(dir.path(), std::fs::Permissions::from_mode(0o777)).expect("ours");
    let path = dir.path().join(".s.PGSQL.5432");
    let section = format!(
        "[[listener]]\nname = \"local\"\nrole = \"primary\"\nlisten = [\"unix:{}\"]\n",
        path.display()
    );
    let etcd = playground.etcd.client();
    add_proxy(&mut playground, etcd, "", &section);
    healthy(&mut playground).await;
    let local = format!("host={} port=5432 user={CLIENT_ROLE} dbname=postgres", dir.path().display());
    assert_eq!(printed(psql(&local, &["-c", "SELECT 6 * 7"])).await, "42\n");
    let said = printed(tool("pgbench", &["-i", "-s", "1", "-n", "-q", &local])).await;
    assert_eq!(said, "", "bulk passes");
    let said = printed(tool("pgbench", &["-n", "-S", "-C", "-c", "2", "-t", "20", &local])).await;
    assert!(said.contains("number of failed transactions: 0 (0.000%)"), "{said}");
}

#[tokio::test(flavor = "multi_thread")]
async fn psql_waits_for_a_primary_or_is_told_why_there_is_none() {
    let mut playground = cluster(1, 3, vec![]).await;
    let etcd = playground.etcd.client();
    let patient = add_proxy(&mut playground, etcd, "", "");
    let hasty = add_proxy(&mut playground, etcd, "on_store_loss = \"fence\"", "hold_timeout = \"700ms\"");
    healthy(&mut playground).await;

    // A session that the proxy cuts: psql hears it with the next statement.
    let session = Dialogue::open(&through(&playground, hasty)).await;
    playground.etcd.signal(Signal::STOP);
    until_standing(&playground, hasty, "lost").await;
    let told = session.last("SELECT 'too late';").await;
    let cut = "FATAL:  57P01: pgvane: cluster demo: nobody can prove any more that pg1 is the primary; connect again";
    assert!(told.contains(cut), "{told}");
    playground.etcd.signal(Signal::CONT);
    healthy(&mut playground).await;

    assert!(playground.node_mut("pg1").stop_agent(SOON).await, "the agent stops");
    let why = complained(psql(&through(&playground, hasty), &["-c", "SELECT 1"])).await;
    let parts =
        ["FATAL:  pgvane: cluster demo: nobody holds the leader key", " (for ", " s); gave up after 700ms"];
    assert!(parts.iter().all(|part| why.contains(part)), "{why}");
    let waiting = tokio::spawn(printed(psql(&through(&playground, patient), &["-c", "SELECT 'served'"])));
    until(&playground, "psql is held", async || {
        topology(&playground, patient).await["listeners"][0]["held"] == 1
    })
    .await;
    playground.restart_agent("pg1").expect("the agent starts");
    let served = timeout(SOON, waiting).await;
    let served = served.unwrap_or_else(|_| panic!("psql waits\n{}", playground.log_tails(60)));
    assert_eq!(served.expect("no panic"), "served\n");
}

#[tokio::test(flavor = "multi_thread")]
async fn psql_is_told_of_a_switchover() {
    let mut playground = cluster(2, 10, vec![]).await;
    let etcd = playground.etcd.client();
    add_proxy(&mut playground, etcd, "", "");
    healthy(&mut playground).await;
    let session = Dialogue::open(&through(&playground, 0)).await;
    switchover(&playground, "pg1").await;
    let told = session.last("SELECT 'too late';").await;
    assert!(told.contains("FATAL:  57P01: "), "{told}");
    let port = playground.node("pg2").postgres().port();
    let answered = printed(psql(&through(&playground, 0), &["-c", "SELECT inet_server_port()"])).await;
    assert_eq!(answered, format!("{port}\n"));
}
