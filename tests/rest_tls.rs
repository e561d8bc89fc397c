//! Agents that speak to each other over TLS only, with certificates, a password and an allowlist: who may change things
//! may, nobody else, and what the members' safety rests on (positions in the race, consent without etcd) works over it.

mod cluster_support;

use std::fs;
use std::time::{Duration, Instant};

use hyper::Method;
use pgvane_agent::config::{Ctl, Login, Secret};
use pgvane_agent::peers::{Answer, Caller};
use serde_json::{Value, json};
use xtask::playground::Playground;
use xtask::programs;

use self::cluster_support::writer::{Habit, Writer};
use self::cluster_support::{SOON, add_proxy, cluster, one_more_port, rows, until};
use xtask::playground::certificates::{Authority, Signed};

const TTL_S: u32 = 5;
const NAMES: [&str; 3] = ["pg1", "pg2", "pg3"];
const PASSWORD: &str = "only members know";

/// The settings of TLS and access, in place of the plain ones.
fn secured(settings: &str, dir: &str) -> String {
    let rest = format!(
        "[restapi]\nusername = \"operator\"\npassword = \"{PASSWORD}\"\ncertfile = \"{dir}/member.crt\"\n\
         keyfile = \"{dir}/member.key\"\ncafile = \"{dir}/ca.crt\"\nverify_client = \"optional\"\n\
         allowlist = [\"localhost\", \"192.0.2.0/24\"]\nhttps_extra_headers = {{ X-Members = \"only\" }}\n"
    );
    let ctl = format!(
        "\n[ctl]\ncafile = \"{dir}/ca.crt\"\ncertfile = \"{dir}/member.crt\"\nkeyfile = \"{dir}/member.key\"\n"
    );
    format!("{}{ctl}", settings.replacen("[restapi]\n", &rest, 1))
}

/// Asks agents over TLS, with a certificate or without one, with the password or without it.
struct Caller3 {
    member: Caller,
    nameless: Caller,
    guessing: Caller,
}

impl Caller3 {
    fn new(playground: &Playground) -> Caller3 {
        let path = |name: &str| playground.dir().join(name);
        let login =
            |password: &str| Login { username: "operator".to_owned(), password: Secret::new(password) };
        let ctl = |login, client_cert| {
            Caller::new(&Ctl {
                login: Some(login),
                cafile: Some(path("ca.crt")),
                client_cert,
                ..Ctl::default()
            })
        };
        let own = || Some((path("member.crt"), path("member.key")));
        Caller3 {
            member: ctl(login(PASSWORD), own()),
            nameless: ctl(login(PASSWORD), None),
            guessing: ctl(login("a guess"), own()),
        }
    }
}

async fn ask(
    playground: &Playground,
    caller: &Caller,
    name: &str,
    (method, path, body): (Method, &str, Option<Value>),
) -> Result<Answer, String> {
    let url = format!("https://{}{path}", playground.node(name).rest());
    let asked = tokio::time::timeout(SOON, caller.request(method, &url, body.as_ref())).await;
    asked.expect("an answer in time")
}

/// What a member says of the cluster, once all answer over TLS.
async fn seen(playground: &Playground, caller: &Caller) -> Value {
    let answer = ask(playground, caller, "pg1", (Method::GET, "/cluster", None)).await;
    answer.ok().and_then(|answer| serde_json::from_slice(&answer.body).ok()).unwrap_or_default()
}

/// Waits until this member leads, the others stream, and all say that they speak TLS.
async fn until_led_by(playground: &Playground, caller: &Caller, leader: &str) {
    until(playground, &format!("{leader} leads over TLS"), async || {
        let cluster = seen(playground, caller).await;
        let members = cluster["members"].as_array().cloned().unwrap_or_default();
        let is_well = |m: &Value| {
            let leads = m["name"] == leader;
            let (role, state) = if leads { ("leader", "running") } else { ("replica", "streaming") };
            m["role"] == role
                && m["state"] == state
                && m["api_url"].as_str().is_some_and(|url| url.starts_with("https://"))
        };
        members.len() == NAMES.len() && members.iter().all(is_well)
    })
    .await;
}

/// What the others show is looked at where they show it, and their names are nobody's.
async fn certificates_are_looked_at(p: &Playground, dir: &str) {
    let mut doctor = tokio::process::Command::new(programs::built().expect("built").ctl);
    doctor.arg("-c").arg(p.node("pg1").config()).args(["doctor", "-f", "tsv"]).env_remove("PGVANECTL_CONFIG");
    let said = tokio::time::timeout(SOON, doctor.output()).await.expect("ends").expect("starts").stdout;
    let said = String::from_utf8_lossy(&said).into_owned();
    for line in [
        format!("ok\trestapi.certfile {dir}/member.crt\texpires in "),
        format!("ok\trestapi.cafile {dir}/ca.crt\texpires in "),
        format!("warning\tname in restapi.certfile {dir}/member.crt\tit is not for 127."),
        "ok\tcertificate of pg2's REST API\texpires in ".to_owned(),
        "warning\tname in certificate of pg3's REST API\tit is not for 127.".to_owned(),
        "ok\tour REST API, from pg2\thttps://".to_owned(),
    ] {
        assert!(said.lines().any(|shown| shown.starts_with(&line)), "{line:?} is not in:\n{said}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn members_trust_each_other_over_tls_and_nobody_else() {
    let mut playground = cluster(3, TTL_S, vec![]).await;
    let authority = Authority::new("members");
    // The name that it is for is nobody's: members are known by who signed them.
    let Signed { certificate, key } = authority.sign("elsewhere.example");
    let dir = playground.dir().display().to_string();
    for (file, text) in
        [("ca.crt", authority.certificate()), ("member.crt", certificate), ("member.key", key)]
    {
        playground.write(file, &text).expect("writes");
    }
    for name in NAMES {
        let config = playground.node(name).config();
        let settings = fs::read_to_string(&config).expect("its settings");
        fs::write(&config, secured(&settings, &dir)).expect("writes");
        playground.node_mut(name).kill_agent(SOON).await;
        playground.restart_agent(name).expect("starts");
    }
    let p = &playground;
    let callers = Caller3::new(p);
    until_led_by(p, &callers.member, "pg1").await;

    certificates_are_looked_at(p, &dir).await;

    // Reads are everybody's; changes want the certificate first and then the password.
    let reload = || (Method::POST, "/reload", None);
    let health = || (Method::GET, "/primary", None);
    for (caller, status, text) in [
        (&callers.member, 202, "reload scheduled"),
        (&callers.nameless, 403, "client certificate required"),
        (&callers.guessing, 401, "not authenticated"),
    ] {
        assert_eq!(ask(p, caller, "pg1", health()).await.expect("answers").status.as_u16(), 200);
        let answer = ask(p, caller, "pg1", reload()).await.expect("answers");
        assert_eq!((answer.status.as_u16(), answer.text().as_str()), (status, text));
    }
    let url = format!("http://{}/primary", p.node("pg1").rest());
    assert!(Caller::plain().request(Method::GET, &url, None).await.is_err(), "plain HTTP is not spoken");

    // A planned change asks the candidates where they are, the race asks all.
    let body = Some(json!({"leader": "pg1", "candidate": "pg2"}));
    let answer = ask(p, &callers.member, "pg1", (Method::POST, "/switchover", body)).await.expect("answers");
    assert_eq!(answer.text(), "Successfully switched over to \"pg2\"", "{}", p.log_tails(60));
    until_led_by(p, &callers.member, "pg2").await;

    // Without etcd the leader stays as long as all vouch, which each of them is asked over TLS.
    // So are proxies that know whom to trust: one that goes by etcd, and one that asks the members in any case.
    let etcd = p.etcd.client();
    let trust = |cluster: &str| {
        let files =
            format!("cacert = \"{dir}/ca.crt\"\ncert = \"{dir}/member.crt\"\nkey = \"{dir}/member.key\"");
        format!("[cluster.{cluster}.agents]\nverify = \"ca\"\n{files}\n")
    };
    let urls: Vec<String> = NAMES.map(|name| format!("\"https://{}\"", p.node(name).rest())).into();
    let asked = format!("[cluster.asked.patroni_rest]\nmembers = [{}]\n{}", urls.join(", "), trust("asked"));
    let (by_asking, section) = one_more_port("asking", "role = \"primary\"\ncluster = \"asked\"");
    let trusting = add_proxy(&mut playground, etcd, &trust("demo"), &format!("{section}\n{asked}"));
    let other = add_proxy(&mut playground, etcd, "", "");
    let port = |place: usize| playground.proxies[place].options().primary;
    let writers = [port(trusting), by_asking, port(other), playground.node("pg2").postgres()];
    let writers = writers.map(|server| Writer::start(server, Habit::Keeps));
    for writer in &writers {
        until(&playground, "a write", async || !writer.journal().writes.is_empty()).await;
    }
    let began = Instant::now();
    playground.etcd.kill().await;
    tokio::time::sleep(Duration::from_secs(u64::from(TTL_S) * 3)).await;
    let late = Instant::now();
    let [by_vouching, by_asking, unvouched, writer] = &writers;
    for writer in [by_vouching, by_asking, writer] {
        until(&playground, "writes without etcd", async || writer.journal().acknowledged_since(late)).await;
    }
    // Who does not know whom to trust had no proof, and cut its session.
    assert!(!unvouched.journal().failures.is_empty() && !unvouched.journal().acknowledged_since(late));
    let patroni = ask(&playground, &callers.member, "pg2", (Method::GET, "/patroni", None)).await;
    let patroni = patroni.expect("answers");
    let body: Value = serde_json::from_slice(&patroni.body).expect("JSON");
    assert_eq!(body["failsafe_mode_is_active"], true, "{body}\n{}", playground.log_tails(60));
    // One that starts again gives leases their whole time anew: nobody loses the key.
    playground.restart_etcd().expect("starts");
    until_led_by(&playground, &callers.member, "pg2").await;
    for writer in [by_vouching, by_asking, writer] {
        let failures = writer.journal().failures.clone();
        let failed: Vec<_> = failures.iter().filter(|failure| failure.at > began).collect();
        assert!(failed.is_empty(), "{failed:?}\n{}", playground.log_tails(60));
    }

    // A leader that dies with its agent is followed by one that asked the others over TLS.
    playground.node_mut("pg2").kill_agent(SOON).await;
    playground.node("pg2").kill_postmaster();
    let p = &playground;
    until(p, "another leads", async || {
        let cluster = seen(p, &callers.member).await;
        let members = cluster["members"].as_array().cloned().unwrap_or_default();
        members.iter().any(|m| m["role"] == "leader" && m["state"] == "running" && m["name"] != "pg2")
    })
    .await;
    playground.restart_agent("pg2").expect("starts");
    let cluster = seen(&playground, &callers.member).await;
    let members = cluster["members"].as_array().cloned().unwrap_or_default();
    let leader = members.iter().find(|m| m["role"] == "leader").and_then(|m| m["name"].as_str());
    let leader = leader.unwrap_or_else(|| panic!("no leader in {cluster}")).to_owned();
    until_led_by(&playground, &callers.member, &leader).await;
    assert!(!rows(playground.node(&leader).postgres()).await.is_empty(), "its table is there");
}
