//! The status page: what it is served with, its stream of events, and what a browser makes of it.

mod proxy_support;

use std::net::SocketAddr;

use pgvane_cluster::records::{MemberRole, MemberState};
use proxy_support::browser::Browser;
use proxy_support::client::Client;
use proxy_support::server::{Manner, Server};
use proxy_support::{Cluster, Proxy, listener, primary, record, replica, served, soon};
use serde_json::Value;
use tokio::io::{AsyncBufReadExt, AsyncReadExt, AsyncWriteExt, BufReader, Lines};
use tokio::net::TcpStream;
use xtask::install::{InstallError, chromium};

const TOKEN: &str = "correct horse battery staple";

/// A proxy for writes and reads whose operator has a token.
fn operated(cluster: &Cluster) -> Proxy {
    let token = format!("token = \"{TOKEN}\"\n");
    Proxy::start(cluster, "", &[token, listener("primary", ""), listener("replica", "")])
}

/// Asks and answers with the connection; HTTP/1.0, so that what follows the head is the body itself.
async fn ask(admin: SocketAddr, method: &str, path: &str, header: &str) -> BufReader<TcpStream> {
    let mut stream = TcpStream::connect(admin).await.expect("the admin port answers");
    let request = format!("{method} {path} HTTP/1.0\r\nHost: x\r\n{header}\r\n");
    stream.write_all(request.as_bytes()).await.expect("write");
    BufReader::new(stream)
}

/// Status, head in lower case, body.
async fn whole(admin: SocketAddr, method: &str, path: &str, header: &str) -> (u16, String, String) {
    let mut answer = String::new();
    let mut stream = ask(admin, method, path, header).await;
    soon("an answer", stream.read_to_string(&mut answer)).await.expect("read");
    let (head, body) = answer.split_once("\r\n\r\n").expect("a whole answer");
    let status = head.split(' ').nth(1).and_then(|code| code.parse().ok()).expect("a status");
    (status, head.to_lowercase(), body.to_owned())
}

/// A stream of `/events`.
struct Events(Lines<BufReader<TcpStream>>);

impl Events {
    /// Opens one, or answers with the status.
    async fn open(proxy: &Proxy) -> Result<Events, String> {
        let mut lines = ask(proxy.admin, "GET", "/events", "").await.lines();
        let status = soon("a status", lines.next_line()).await.expect("read").expect("a status");
        if !status.contains("200") {
            return Err(status);
        }
        while !soon("a header", lines.next_line()).await.expect("read").expect("a header").is_empty() {}
        Ok(Events(lines))
    }

    /// The next document; `None` at the end.
    async fn next(&mut self) -> Option<Value> {
        loop {
            let line = soon("an event", self.0.next_line()).await.expect("read")?;
            if let Some(data) = line.strip_prefix("data: ") {
                return Some(serde_json::from_str(data).expect("JSON"));
            }
        }
    }

    async fn until(&mut self, what: &str, holds: impl Fn(&Value) -> bool) -> Value {
        soon(what, async {
            loop {
                let document = self.next().await.expect("the stream goes on");
                if holds(&document) {
                    return document;
                }
            }
        })
        .await
    }
}

#[tokio::test]
async fn a_browser_may_run_nothing_but_what_comes_from_here() {
    let (cluster, _server) = served().await;
    let proxy = Proxy::for_writes(&cluster, "");
    for (path, kind) in [
        ("/", "text/html"),
        ("/status", "text/html"),
        ("/page.css", "text/css"),
        ("/page.js", "text/javascript"),
        ("/icon.svg", "image/svg+xml"),
    ] {
        let (status, head, body) = whole(proxy.admin, "GET", path, "").await;
        assert_eq!(status, 200, "{path}");
        assert!(!body.is_empty(), "{path}");
        for header in [
            &format!("content-type: {kind}"),
            "content-security-policy: default-src 'none'; script-src 'self'; style-src 'self';",
            "frame-ancestors 'none'",
            "x-content-type-options: nosniff",
            "referrer-policy: no-referrer",
        ] {
            assert!(head.contains(header), "{path}: {header}\n{head}");
        }
        // The policy would stop it, and the page be broken.
        for inline in ["style=\"", "onclick=\"", "<style", "http://", "https://"] {
            let ours = body.replace("http://www.w3.org/2000/svg", "");
            assert!(!ours.contains(inline), "{path}: {inline}");
        }
    }
    assert_eq!(whole(proxy.admin, "POST", "/", "").await.0, 405);
}

#[tokio::test]
async fn the_stream_tells_what_is_and_what_changes() {
    let (cluster, _one) = served().await;
    let two = Server::start("pg2", Manner::Serve).await;
    cluster.member("pg2", &replica(two.address)).await;
    let proxy = operated(&cluster);
    proxy.until_serving().await;
    let (mut session, _) = Client::enter(proxy.addresses[0]).await;
    session.echo(b"twelve bytes").await;

    let mut events = Events::open(&proxy).await.expect("a stream");
    let first = events.next().await.expect("an event at once");
    assert_eq!(first["clusters"][0]["primary"]["name"], "pg1");
    assert_eq!((&first["takes_commands"], &first["ready"]), (&true.into(), &true.into()));
    let listener = &first["listeners"][0];
    assert_eq!((&listener["sessions"], &listener["sessions_total"]), (&1.into(), &1.into()));
    let served = &first["timeline"][0];
    assert_eq!((&served["what"], &served["target"]), (&"primary_serves".into(), &"pg1".into()));
    assert_eq!((&served["cluster"], &served["outage_ms"]), (&"main".into(), &Value::Null));

    drop(session);
    let counted =
        events.until("a session that ended", |d| d["listeners"][0]["ends"] != serde_json::json!({})).await;
    assert_eq!(counted["listeners"][0]["ends"]["client_closed"], 1);
    assert!(counted["listeners"][0]["to_server_bytes"].as_u64() >= Some(12), "{counted}");

    cluster.nobody_leads().await;
    let missing = events.until("no primary", |d| d["clusters"][0]["primary"].is_null()).await;
    let timeline = missing["timeline"].as_array().expect("a list");
    let last = timeline.last().expect("an entry");
    assert_eq!((&last["what"], &last["why"]), (&"no_primary".into(), &"nobody holds the leader key".into()));

    cluster.member("pg2", &primary(two.address)).await;
    let epoch = cluster.lead("pg2").await;
    let moved = events.until("the next primary", |d| d["clusters"][0]["primary"]["name"] == "pg2").await;
    let last = moved["timeline"].as_array().and_then(|t| t.last()).expect("an entry");
    assert_eq!((&last["target"], &last["epoch"]), (&"pg2".into(), &epoch.0.into()));
    assert_eq!(last["outage_ms"], moved["clusters"][0]["last_outage_ms"]);
    assert!(last["outage_ms"].is_u64(), "{last}");
    assert_eq!(proxy.topology().await["timeline"], moved["timeline"]);
}

#[tokio::test]
async fn streams_are_limited_and_a_place_is_given_back() {
    let (cluster, _server) = served().await;
    let proxy = Proxy::for_writes(&cluster, "");
    let mut open = vec![];
    for _ in 0..32 {
        let mut events = Events::open(&proxy).await.expect("one of 32");
        events.next().await.expect("an event at once");
        open.push(events);
    }
    let refused = Events::open(&proxy).await.err().expect("one too many");
    assert!(refused.contains("503"), "{refused}");
    assert_eq!(proxy.get("/livez").await.0, 200, "other pages are not affected");
    open.pop();
    soon("a free place", async {
        while Events::open(&proxy).await.is_err() {
            tokio::task::yield_now().await;
        }
    })
    .await;
}

#[tokio::test]
async fn a_stream_ends_with_the_proxy_and_does_not_hold_it_up() {
    let (cluster, _server) = served().await;
    let mut proxy = Proxy::for_writes(&cluster, "");
    let mut events = Events::open(&proxy).await.expect("a stream");
    events.next().await.expect("an event at once");
    let (session, _) = Client::enter(proxy.addresses[0]).await;
    proxy.shutdown.drain.cancel();
    events.until("the phase", |d| d["phase"] == "draining").await;
    drop(session);
    soon("the end of the stream", async { while events.next().await.is_some() {} }).await;
    soon("the proxy ends", &mut proxy.ended).await.expect("it does not panic").expect("it started");
}

#[tokio::test]
async fn who_changes_something_needs_the_token() {
    let (cluster, _server) = served().await;
    let drain = "/clusters/main/targets/pg1/drain";
    let closed = Proxy::for_writes(&cluster, "");
    closed.until_serving().await;
    let (status, _, why) = whole(closed.admin, "POST", drain, "Authorization: Bearer x\r\n").await;
    assert_eq!(status, 403, "{why}");
    assert_eq!(closed.topology().await["takes_commands"], false);

    let proxy = operated(&cluster);
    proxy.until_serving().await;
    let mut events = Events::open(&proxy).await.expect("a stream");
    for header in ["", "Authorization: Bearer wrong\r\n", "Authorization: Basic correct\r\n"] {
        assert_eq!(whole(proxy.admin, "POST", drain, header).await.0, 401, "{header}");
        assert_eq!(whole(proxy.admin, "GET", "/sessions", header).await.0, 401, "{header}");
    }
    assert_eq!(proxy.topology().await["clusters"][0]["members"][0]["admission"], "enabled");

    let right = format!("Authorization: Bearer {TOKEN}\r\n");
    let (status, _, text) = whole(proxy.admin, "POST", drain, &right).await;
    assert_eq!((status, text.as_str()), (200, "pg1 is draining; sessions that go on: 0\n"));
    let set = events
        .until("the order in the stream", |d| d["clusters"][0]["members"][0]["admission"] == "draining")
        .await;
    let last = set["timeline"].as_array().and_then(|t| t.last()).expect("an entry");
    assert_eq!((&last["what"], &last["target"]), (&"set_by_operator".into(), &"pg1".into()));
    assert_eq!(last["admission"], "draining");
}

/// What a server may send between two messages of its own, so that a cut session can be told why.
const MESSAGE: &[u8] = b"C\0\0\0\x08ok!\0";

/// A member whose name would be run by a page that trusts etcd.
const NASTY: &str = "<img src=x onerror=alert(1)>";

#[tokio::test]
async fn a_browser_shows_it_and_its_buttons_work() {
    let program = match chromium() {
        Ok(program) => program,
        Err(why @ (InstallError::NotAllowed { .. } | InstallError::Failed { .. })) => {
            eprintln!("not looked at with a browser: {why}");
            return;
        }
        Err(error) => panic!("{error}"),
    };
    let (cluster, _one) = served().await;
    let two = Server::start("pg2", Manner::Serve).await;
    cluster.member("pg2", &replica(two.address)).await;
    cluster.member("pg3", &record(two.address, MemberRole::Replica, MemberState::StartFailed)).await;
    cluster.member(NASTY, &record(two.address, MemberRole::Replica, MemberState::Starting)).await;
    cluster.raw_member("pg9", "{").await;
    let mut proxy = operated(&cluster);
    proxy.until_serving().await;
    let (mut writer, _) = Client::enter(proxy.addresses[0]).await;
    let (mut reader, _) = Client::enter(proxy.addresses[1]).await;
    reader.echo(MESSAGE).await;

    let mut browser = Browser::open(&program, &format!("http://{}/", proxy.admin)).await;
    browser.resize(1280, 900, "light").await;
    browser.until("document.querySelector('.serving')?.textContent.startsWith('pg1 serves at')").await;
    browser.until("document.querySelector('#ready').textContent === 'ready'").await;
    browser.until(&format!("{} === 'replica'", field(PG2, "role"))).await;
    browser.until(&format!("{} === {NASTY:?}", field(1, "name"))).await;
    assert_eq!(browser.eval("document.querySelectorAll('main img').length").await, 0);
    // A role is no failure.
    let colours =
        browser.eval("[...document.querySelectorAll('[data-f=role]')].map((r) => r.className).join()").await;
    assert!(!colours.as_str().unwrap_or_default().contains("bad"), "{colours}");

    drained_with_the_token(&mut browser).await;
    reader.echo(MESSAGE).await;
    disabled_after_a_question(&mut browser, &mut reader).await;
    killed_from_the_table(&mut browser, &mut writer).await;
    fits(&mut browser).await;
    cluster.nobody_leads().await;
    browser
        .until("document.querySelector('.serving').textContent.startsWith('No primary: nobody holds')")
        .await;
    browser.until("document.querySelector('.timeline .bad') !== null").await;
    cluster.proxy_side.set_available(false);
    browser.until("document.querySelector('[data-f=store]').textContent === 'etcd down'").await;
    browser.resize(1280, 900, "light").await;
    browser.eval("scrollTo(0, 0)").await;
    browser.picture("no-primary").await;

    proxy.shutdown.drain.cancel();
    soon("the proxy ends", &mut proxy.ended).await.expect("it does not panic").expect("it started");
    browser.until("document.querySelector('#lost').textContent.startsWith('No answer since ')").await;
    browser.picture("lost").await;
    assert_eq!(browser.complaints, Vec::<String>::new());
    browser.close().await;
}

/// The text of a field of the member in this row, in JavaScript.
fn field(row: usize, name: &str) -> String {
    format!("document.querySelector({:?})?.textContent", in_row(row, &format!("[data-f={name}]")))
}

fn in_row(row: usize, selector: &str) -> String {
    format!("[data-f=members] tr:nth-child({row}) {selector}")
}

/// Where a member is in the table: they are in the order of their names, and `<` comes before `p`.
const PG2: usize = 3;

async fn drained_with_the_token(browser: &mut Browser) {
    browser.click(&in_row(PG2, "[data-do=drain]")).await;
    for (token, then) in [
        (
            "not the right one",
            "document.querySelector('#token-why').textContent === 'this needs the token of [admin]'",
        ),
        (TOKEN, "document.querySelector('#said').textContent === 'pg2 is draining; sessions that go on: 1'"),
    ] {
        browser.until("document.querySelector('#token-dialog').open").await;
        browser.type_in(token).await;
        browser.picture("token").await;
        browser.click("#token-form [type=submit]").await;
        browser.until(then).await;
    }
    browser.until(&format!("{} === 'draining'", field(PG2, "admission"))).await;
    browser.until(&format!("{} === 'no: draining'", field(PG2, "reads"))).await;
    browser
        .until("document.querySelector('#timeline').textContent.includes('pg2 draining by an operator')")
        .await;
    let kept = browser.eval("[localStorage.length, document.cookie, sessionStorage.length]").await;
    assert_eq!(kept, serde_json::json!([0, "", 1]), "the token is kept in the tab only");
}

async fn disabled_after_a_question(browser: &mut Browser, reader: &mut Client) {
    let disable = in_row(PG2, "[data-do=disable]");
    browser.click(&disable).await;
    browser.until("document.querySelector('#confirm-dialog').open").await;
    browser.picture("confirm").await;
    browser.click("#confirm-form [data-close]").await;
    browser.until("!document.querySelector('#confirm-dialog').open").await;
    reader.echo(MESSAGE).await;
    browser.click(&disable).await;
    browser.until("document.querySelector('#confirm-dialog').open").await;
    browser.click("#confirm-form [type=submit]").await;
    browser.until(&format!("{} === 'disabled'", field(PG2, "admission"))).await;
    assert!(reader.is_cut().await.contains("an operator has disabled pg2"));
    browser.click(&in_row(PG2, "[data-do=enable]")).await;
    browser.until(&format!("{} === 'enabled'", field(PG2, "admission"))).await;
}

async fn killed_from_the_table(browser: &mut Browser, writer: &mut Client) {
    browser.click("#sessions-load").await;
    browser.until("document.querySelector('#sessions [data-f=target]')?.textContent === 'pg1'").await;
    browser.picture("sessions").await;
    browser.click("#sessions .danger").await;
    browser.until("document.querySelector('#confirm-dialog').open").await;
    browser.click("#confirm-form [type=submit]").await;
    writer.is_cut().await;
    browser.until("document.querySelector('#said').textContent.endsWith(' is ended')").await;
}

/// Nothing sticks out to the side, on a desk and on a small phone.
async fn fits(browser: &mut Browser) {
    for (width, height, scheme) in
        [(1280, 900, "light"), (390, 844, "dark"), (360, 640, "light"), (1280, 900, "dark")]
    {
        browser.resize(width, height, scheme).await;
        let wide = browser.eval("document.documentElement.scrollWidth").await;
        assert!(wide.as_u64() <= Some(u64::from(width)), "{wide} of {width}");
        browser.eval("scrollTo(0, 0)").await;
        browser.picture(&format!("{width}-{scheme}")).await;
        browser.eval("scrollTo(0, document.body.scrollHeight)").await;
        browser.picture(&format!("{width}-{scheme}-end")).await;
    }
}
