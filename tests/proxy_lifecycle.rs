//! Start, stop and the pages operators look at; the program's exit codes.

mod proxy_support;

use std::fmt::Write as _;
use std::process::{Command, Stdio};
use std::time::Duration;

use proxy_support::client::Client;
use proxy_support::{Proxy, listener, served, soon};
use rustix::process::{Pid, Signal, kill_process};
use tokio::io::{AsyncBufReadExt, BufReader};
use tokio::net::{TcpListener, TcpStream};

#[tokio::test]
async fn a_drain_lets_sessions_finish_and_takes_no_new_ones() {
    let (cluster, _server) = served().await;
    let mut proxy = Proxy::for_writes(&cluster, "");
    let (mut session, _) = Client::enter(proxy.addresses[0]).await;
    proxy.shutdown.drain.cancel();
    soon("the port closes", async {
        while TcpStream::connect(proxy.addresses[0]).await.is_ok() {
            tokio::task::yield_now().await;
        }
    })
    .await;
    let (status, why) = proxy.get("/readyz").await;
    assert_eq!((status, why.as_str()), (503, "the proxy is draining\n"));
    session.echo(b"finish").await;
    assert!(!proxy.ended.is_finished());
    drop(session);
    soon("the proxy ends with its last session", &mut proxy.ended)
        .await
        .expect("it does not panic")
        .expect("it started");
}

#[tokio::test]
async fn who_waits_for_bad_news_has_them_at_once() {
    let (cluster, _server) = served().await;
    let proxy = Proxy::for_writes(&cluster, "");
    proxy.until_serving().await;
    assert_eq!(proxy.get("/readyz?wait=30ms").await, (200, "ready\n".to_owned()));
    assert_eq!(proxy.get("/livez?wait=30ms").await, (200, "alive\n".to_owned()));
    for wrong in ["/readyz?wait=soon", "/livez?wait=-1", "/readyz?hold=1s"] {
        assert_eq!(proxy.get(wrong).await.0, 400, "{wrong}");
    }
    // Longer than anything here may take.
    let told = proxy.get("/readyz?wait=50s");
    let drained = async {
        // Let the question come first; the answer is the same if it does not.
        tokio::time::sleep(Duration::from_millis(50)).await;
        proxy.shutdown.drain.cancel();
    };
    let (told, ()) = soon("the answer", async { tokio::join!(told, drained) }).await;
    assert_eq!(told, (503, "the proxy is draining\n".to_owned()));
}

#[tokio::test]
async fn what_outlives_the_drain_time_is_cut() {
    let (cluster, _server) = served().await;
    let drain = "[drain]\nnotice = \"1ms\"\ntimeout = \"50ms\"\n";
    let mut proxy = Proxy::start(&cluster, "", &[format!("{drain}{}", listener("primary", ""))]);
    let (mut session, _) = Client::enter(proxy.addresses[0]).await;
    proxy.shutdown.drain.cancel();
    assert!(session.is_cut().await.contains("the proxy is stopping"));
    soon("the proxy ends", &mut proxy.ended).await.expect("it does not panic").expect("it started");
}

#[tokio::test]
async fn being_told_twice_ends_at_once() {
    let (cluster, _server) = served().await;
    let mut proxy = Proxy::for_writes(&cluster, "");
    let (mut session, _) = Client::enter(proxy.addresses[0]).await;
    proxy.shutdown.drain.cancel();
    proxy.shutdown.now.cancel();
    assert!(session.is_cut().await.contains("the proxy is stopping"));
    soon("the proxy ends", &mut proxy.ended).await.expect("it does not panic").expect("it started");
}

#[tokio::test]
async fn the_pages_say_what_is() {
    let (cluster, server) = served().await;
    let proxy = Proxy::for_writes(&cluster, "");
    let (_session, _) = Client::enter(proxy.addresses[0]).await;
    assert_eq!(proxy.get("/livez").await, (200, "alive\n".to_owned()));
    assert_eq!(proxy.get("/readyz").await, (200, "ready\n".to_owned()));
    assert_eq!(proxy.get("/nothing").await.0, 404);
    let topology = proxy.topology().await;
    let main = &topology["clusters"][0];
    assert_eq!(main["primary"]["name"], "pg1");
    assert_eq!(main["primary"]["port"], server.address.port());
    assert_eq!(main["members"][0]["sessions"], 1);
    assert_eq!((&main["standing"], &main["on_store_loss"]), (&"proven".into(), &"hold".into()));
    assert_eq!(topology["listeners"][0]["sessions"], 1);
    for (series, value) in [
        ("pgvane_ready", 1.0),
        ("pgvane_sessions{listener=\"primary\"}", 1.0),
        ("pgvane_sessions_total{listener=\"primary\"}", 1.0),
        ("pgvane_serving{cluster=\"main\"}", 1.0),
        ("pgvane_store_up{cluster=\"main\"}", 1.0),
        ("pgvane_connect_seconds_count{listener=\"primary\"}", 1.0),
        ("pgvane_session_ends_total{listener=\"primary\",reason=\"epoch_ended\"}", 0.0),
    ] {
        assert!((proxy.metric(series).await - value).abs() < f64::EPSILON, "{series}");
    }
}

fn settings(dir: &tempfile::TempDir, text: &str) -> std::path::PathBuf {
    let path = dir.path().join("proxy.toml");
    std::fs::write(&path, text).expect("write");
    path
}

fn pgvane() -> Command {
    Command::new(env!("CARGO_BIN_EXE_pgvane"))
}

#[test]
fn a_wrong_file_ends_with_64_and_says_where() {
    let dir = tempfile::tempdir().expect("a directory");
    let good = "[cluster.main.etcd]\nendpoints = [\"http://127.0.0.1:1\"]\n";
    for (text, code, part) in [
        (good.to_owned(), 0, "proxy.toml: valid"),
        (format!("{good}endpoint = 3\n"), 64, "proxy.toml:3:1: unknown key `endpoint`"),
        ("[cluster".to_owned(), 64, "proxy.toml:1:"),
    ] {
        let output = pgvane().arg("--check").arg(settings(&dir, &text)).output().expect("it runs");
        let said = String::from_utf8_lossy(&output.stderr);
        assert_eq!(output.status.code(), Some(code), "{text}\n{said}");
        assert!(said.contains(part), "{text}\n{said}");
    }
    let output = pgvane().arg(dir.path().join("missing.toml")).output().expect("it runs");
    assert_eq!(output.status.code(), Some(64));
    assert!(String::from_utf8_lossy(&output.stderr).contains("there is no such file"));
}

#[tokio::test]
async fn a_port_that_is_taken_is_one_clear_message() {
    let taken = TcpListener::bind("127.0.0.1:0").await.expect("bind");
    let address = taken.local_addr().expect("bound");
    let dir = tempfile::tempdir().expect("a directory");
    let mut text = "[cluster.main.etcd]\nendpoints = [\"http://127.0.0.1:1\"]\n".to_owned();
    writeln!(text, "[[listener]]\nrole = \"primary\"\nlisten = [\"{address}\"]").expect("a string grows");
    let output = pgvane().arg(settings(&dir, &text)).output().expect("it runs");
    assert_eq!(output.status.code(), Some(1));
    let said = String::from_utf8_lossy(&output.stderr);
    let last = said.lines().last().unwrap_or_default();
    let expected = format!("pgvane: cannot listen on {address} (listener primary): Address already in use");
    assert!(last.starts_with(&expected), "{said}");
}

#[tokio::test]
async fn sigterm_drains_and_ends_with_0() {
    let dir = tempfile::tempdir().expect("a directory");
    let text = "[log]\nformat = \"json\"\n[admin]\nlisten = [\"127.0.0.1:0\"]\n\
                [cluster.main.etcd]\nendpoints = [\"http://127.0.0.1:1\"]\n\
                [[listener]]\nrole = \"primary\"\nlisten = [\"127.0.0.1:0\"]\nhold_timeout = \"1min\"\n";
    let mut child = tokio::process::Command::new(env!("CARGO_BIN_EXE_pgvane"))
        .arg(settings(&dir, text))
        .stderr(Stdio::piped())
        .kill_on_drop(true)
        .spawn()
        .expect("it runs");
    let mut lines = BufReader::new(child.stderr.take().expect("piped")).lines();
    let mut log = vec![];
    // "etcd has not answered yet" also shows that a store that is not there at the start ends nothing.
    soon("the warning about etcd", async {
        while !log.iter().any(|l: &String| l.contains("etcd has not answered yet")) {
            log.push(lines.next_line().await.expect("read").expect("it runs"));
        }
    })
    .await;
    for line in &log {
        serde_json::from_str::<serde_json::Value>(line).unwrap_or_else(|e| panic!("{e}: {line}"));
    }
    let pid = child.id().and_then(|id| Pid::from_raw(i32::try_from(id).ok()?)).expect("it runs");
    kill_process(pid, Signal::TERM).expect("a signal");
    let status = soon("its end", tokio::time::timeout(Duration::from_secs(15), child.wait())).await;
    assert_eq!(status.expect("in time").expect("waited").code(), Some(0));
}
