//! Files as people have them, what they become, and that nothing is lost from the report.

use std::collections::BTreeSet;
use std::path::Path;

use proptest::prelude::*;
use proptest::sample::Index;

use super::*;
use crate::config::Fate;

/// A haproxy.cfg and the proxy.toml that is expected of it.
macro_rules! fixtures {
    ($($name:literal),+ $(,)?) => {
        [$((
            $name,
            include_str!(concat!("../../tests/fixtures/haproxy/", $name, ".cfg")),
            include_str!(concat!("../../tests/fixtures/haproxy/", $name, ".toml")),
        )),+]
    };
}

const FIXTURES: [(&str, &str, &str); 12] = fixtures![
    "seed",
    "patroni_template",
    "frontends",
    "sync_async",
    "two_clusters",
    "pg_auto_failover",
    "repmgr",
    "stolon",
    "pgbouncer",
    "kubernetes",
    "tls",
    "mixed_services",
];

const PATRONI: &str = include_str!("../../tests/fixtures/patroni.yml");

fn run(patroni: Option<&str>, haproxy: Option<&str>) -> Result<Imported, String> {
    let surroundings = Surroundings {
        base: Path::new("/etc/patroni"),
        environment: &Environment::default(),
        variable: &|_| None,
        resolve: &|_| vec![],
    };
    let input = |file: &'static str, text| Input { file, text };
    let patroni = patroni.map(|text| input("patroni.yml", text));
    let haproxy = haproxy.map(|text| input("haproxy.cfg", text));
    import(patroni, haproxy, &surroundings).map_err(|e| e.to_string())
}

fn made(text: &str) -> Imported {
    run(None, Some(text)).unwrap_or_else(|e| panic!("{e}"))
}

fn fixture(name: &str) -> &'static str {
    FIXTURES.iter().find(|(known, ..)| *known == name).expect("a fixture").1
}

/// What became of a setting, by its name.
fn fate<'a>(imported: &'a Imported, name: &str) -> &'a Fate {
    let found = imported.settings.iter().find(|setting| setting.name == name);
    &found.unwrap_or_else(|| panic!("{name} is not in the report: {:#?}", imported.settings)).fate
}

fn is_left(fate: &Fate, part: &str) -> bool {
    matches!(fate, Fate::Left { why } if why.contains(part))
}

fn is_changed(fate: &Fate, part: &str) -> bool {
    matches!(fate, Fate::Changed { why, .. } if why.contains(part))
}

#[test]
fn each_file_becomes_what_is_expected() {
    for (name, text, expected) in FIXTURES {
        let imported = made(text);
        assert_eq!(imported.proxy.as_deref(), Some(expected), "{name}");
        assert_eq!(imported.agent, None);
    }
}

#[test]
fn every_line_is_in_the_report() {
    for (name, text, _) in FIXTURES {
        let placed = |setting: &Setting| setting.place.strip_prefix("haproxy.cfg:")?.parse::<usize>().ok();
        let told: BTreeSet<usize> = made(text).settings.iter().filter_map(placed).collect();
        for section in haproxy::parse(text, &|_| None).expect("reads") {
            for line in &section.lines {
                assert!(told.contains(&line.number), "{name}:{}: {}", line.number, line.word(0));
            }
        }
    }
}

#[test]
fn no_secret_is_told() {
    for (name, text, _) in FIXTURES {
        let told = format!("{:?}", made(text).settings);
        for secret in ["admin-pass-2025", "s3cret", "c2VjcmV0"] {
            assert!(!told.contains(secret), "{name} tells {secret}");
        }
    }
}

#[test]
fn with_patroni_etcd_is_followed_instead_of_polling() {
    let imported = run(Some(PATRONI), Some(fixture("seed"))).expect("imports");
    let proxy: toml::Table = imported.proxy.as_deref().expect("a proxy.toml").parse().expect("is TOML");
    let cluster = proxy["cluster"]["postgres-cluster"].as_table().expect("a cluster");
    assert_eq!(cluster.keys().collect::<Vec<_>>(), ["etcd"]);
    let endpoints = cluster["etcd"]["endpoints"].as_array().expect("a list");
    assert_eq!(endpoints.len(), 3);
    assert!(imported.agent.as_deref().is_some_and(|agent| agent.contains("rep-pass-2025")));
    assert!(is_left(fate(&imported, "listen postgres-write: default-server inter 3s"), "etcd tells"));
    assert!(is_left(fate(&imported, "listen postgres-write: server pg1 192.168.1.20:5432"), "etcd tells"));
    assert_eq!(fate(&imported, "scope"), &Fate::Carried("scope".to_owned()));
}

#[test]
fn a_patroni_yml_alone_makes_no_proxy_toml() {
    let imported = run(Some(PATRONI), None).expect("imports");
    assert!(imported.agent.is_some() && imported.proxy.is_none());
}

/// The cluster of the patroni.yml is the one whose servers it names; the other one is polled.
#[test]
fn only_the_own_cluster_is_found_in_etcd() {
    let text = "defaults\n mode tcp\n option httpchk GET /primary\nlisten other\n bind *:5000\n server x 10.0.0.9:5432 \
                check port 8008\nlisten own\n bind *:5001\n server pg1 192.168.1.20:5432 check port 8008\n";
    let proxy = run(Some(PATRONI), Some(text)).expect("imports").proxy.expect("a proxy.toml");
    let proxy: toml::Table = proxy.parse().expect("is TOML");
    let listeners = proxy["listener"].as_array().expect("listeners");
    let clusters: Vec<_> = listeners.iter().map(|listener| listener["cluster"].as_str()).collect();
    assert_eq!(clusters, [Some("main"), Some("postgres-cluster")]);
    assert!(proxy["cluster"]["main"].get("patroni_rest").is_some());
    assert!(proxy["cluster"]["postgres-cluster"].get("etcd").is_some());
}

#[test]
fn what_differs_is_said_and_why() {
    let seed = made(fixture("seed"));
    assert!(is_left(fate(&seed, "defaults: timeout client 1m"), "idle sessions"));
    assert!(is_left(fate(&seed, "listen postgres-read: server pg1 backup"), "role decides"));
    assert!(is_changed(fate(&seed, "global: maxconn 4000"), "53300"));
    assert!(is_changed(fate(&seed, "listen patroni-api: bind"), "this host alone"));
    assert!(is_left(fate(&seed, "listen patroni-api: stats auth"), "token"));
    let pooler = made(fixture("pgbouncer"));
    assert!(is_changed(fate(&pooler, "listen pgbouncer-rw: server db1 10.3.0.1:6432"), "past what listens"));
    assert!(is_changed(fate(&pooler, "listen pgbouncer-rw: server db1 maxconn 500"), "smallest"));
    let frontends = made(fixture("frontends"));
    let fallback = Fate::Carried("listener \"pg_read\".fallback".to_owned());
    assert_eq!(fate(&frontends, "frontend pg_read: use_backend pg_primary"), &fallback);
    let tls = made(fixture("tls"));
    assert!(is_left(fate(&tls, "listen pg-tls: bind abns@pg"), "Unix sockets"));
    let named = |setting: &&Setting| setting.name == "listen pg-tls: tcp-request connection";
    let requests: Vec<&Setting> = tls.settings.iter().filter(named).collect();
    assert_eq!(requests.iter().filter(|s| matches!(s.fate, Fate::Carried(_))).count(), 2);
    assert_eq!(requests.iter().filter(|s| is_left(&s.fate, "NOT carried")).count(), 2);
    let mixed = made(fixture("mixed_services"));
    assert!(is_left(fate(&mixed, "listen pg-patroni-text: frobnicate"), "no such setting"));
    assert!(is_left(fate(&mixed, "listen redis"), "PostgreSQL"));
    assert!(is_left(fate(&mixed, "frontend pg-by-port"), "conditions"));
    let sync = made(fixture("sync_async"));
    assert!(is_left(fate(&sync, "listen standby_leader"), "standby cluster"));
    assert!(is_changed(fate(&sync, "listen async"), "tags"));
    let kubernetes = made(fixture("kubernetes"));
    let template = "backend pg-rw: server-template pg- patroni.db.svc.cluster.local:5432";
    assert!(is_changed(fate(&kubernetes, template), "EDIT IT"));
    let asked = made(fixture("pg_auto_failover"));
    assert!(is_changed(fate(&asked, "cluster.main.probe.user"), "\"haproxy\""));
}

#[test]
fn wrong_files_are_refused_with_place_sight_and_what_is_allowed() {
    for (text, place, seen, allowed) in [
        ("listen a\n bind 'x\n", "haproxy.cfg:2:7: ", "not closed", "a '"),
        ("listen a\n bind *:x\n", "haproxy.cfg:2:7: ", "*:x", "*:5432"),
        ("listen a\n bind *:70000\n", "haproxy.cfg:2:7: ", "*:70000", "*:5432"),
        ("listen a\n bind *:9-1\n", "haproxy.cfg:2:7: ", "*:9-1", "FIRST-LAST"),
        ("listen a\n bind\n", "haproxy.cfg:2:2: ", "without an address", "*:5432"),
        ("listen a\n server x\n", "haproxy.cfg:2:2: ", "without a name", "ADDRESS:PORT"),
        ("listen a\n server x 10.0.0.1:none\n", "haproxy.cfg:2:11: ", "10.0.0.1:none", "ADDRESS:PORT"),
        ("listen a\n server x h:1 rise soon\n", "haproxy.cfg:2:15: ", "soon", "whole number"),
        ("listen a\n server x h:1 check port 0x\n", "haproxy.cfg:2:21: ", "0x", "1 to 65535"),
        ("listen a\n maxconn many\n", "haproxy.cfg:2:10: ", "many", "whole number"),
        ("bind *:1\n", "haproxy.cfg:1:1: ", "before any section", "listen"),
        ("listen a\n mode http\n bind *:80\n", "haproxy.cfg: ", "speaks HTTP", "option httpchk"),
        ("global\n", "haproxy.cfg: ", "no frontend", "frontend"),
    ] {
        let error = run(None, Some(text)).map(|made| made.proxy).expect_err(text);
        assert!(error.starts_with(place), "{text}: {error}");
        assert!(error.contains(seen) && error.contains(allowed), "{text}: {error}");
    }
}

/// A piece of one file put over a place in another.
fn damaged() -> impl Strategy<Value = String> {
    let files: Vec<String> = FIXTURES.iter().map(|(_, text, _)| (*text).to_owned()).collect();
    let file = proptest::sample::select(files);
    (file.clone(), file, any::<[Index; 4]>()).prop_map(|(base, other, places)| {
        let chars = |text: &str| text.chars().collect::<Vec<_>>();
        let (mut base, other) = (chars(&base), chars(&other));
        let range = |a: &Index, b: &Index, length: usize| {
            let (a, b) = (a.index(length + 1), b.index(length + 1));
            a.min(b)..a.max(b)
        };
        let piece = other[range(&places[0], &places[1], other.len())].to_vec();
        base.splice(range(&places[2], &places[3], base.len()), piece);
        base.into_iter().collect()
    })
}

/// Words that mean something, in any order.
fn words() -> impl Strategy<Value = String> {
    let word = proptest::sample::select(vec![
        "global",
        "defaults",
        "listen",
        "frontend",
        "backend",
        "\n",
        "\n ",
        "from",
        "a",
        "bind",
        "*:1",
        ":::2",
        "v6only",
        "server",
        "server-template",
        "10.0.0.1:5432",
        "[::1]:1",
        "unix@/x",
        "check",
        "port",
        "8008",
        "default-server",
        "option",
        "httpchk",
        "GET",
        "/replica?lag=1MB",
        "pgsql-check",
        "user",
        "tcp-check",
        "expect",
        "binary",
        "66",
        "http-check",
        "!",
        "status",
        "503",
        "timeout",
        "connect",
        "5s",
        "maxconn",
        "1",
        "balance",
        "leastconn",
        "stats",
        "mode",
        "http",
        "tcp",
        "acl",
        "src",
        "::/0",
        "tcp-request",
        "connection",
        "reject",
        "unless",
        "if",
        "{",
        "}",
        "!a",
        "use_backend",
        "default_backend",
        "nbsrv(a)",
        "ssl",
        "crt",
        "ca-file",
        "accept-proxy",
        "send-proxy",
        "\"",
        "'",
        "\\",
        "#",
        "$",
        "${",
        "}",
        "\\x2",
        "é",
    ]);
    proptest::collection::vec(word, 0..80).prop_map(|words| words.join(" "))
}

/// Whatever is made is TOML.
fn is_sound(text: &str) {
    if let Ok(made) = run(None, Some(text)) {
        let proxy = made.proxy.expect("a proxy.toml");
        assert!(proxy.parse::<toml::Table>().is_ok(), "{text}\n---\n{proxy}");
        assert!(!made.settings.is_empty());
    }
}

proptest! {
    #[test]
    fn no_text_is_too_odd(text in "\\PC*|(?s).{0,400}") {
        is_sound(&text);
        let _ = run(Some(&text), None);
    }

    #[test]
    fn no_damaged_file_is(text in damaged()) {
        is_sound(&text);
    }

    #[test]
    fn no_order_of_words_is(text in words()) {
        is_sound(&text);
    }
}

#[test]
fn the_status_page_never_takes_a_port_of_clients() {
    let text = "defaults\n mode tcp\nlisten pg\n bind 10.0.0.1:8009\n server a 10.0.0.2:5432 check\n";
    let proxy = made(text).proxy.expect("a proxy.toml");
    assert!(proxy.contains("listen = [\"127.0.0.1:8010\"]"), "{proxy}");
}
