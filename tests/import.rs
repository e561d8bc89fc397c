//! What `pgvanectl import` makes is accepted by the programs it is for, and means what the originals did.

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};

use pgvane::config::{self, Config, Source};
use pgvane::route::Role;
use pgvane_agent::config::{Environment, parse, parse_yaml};
use pgvane_agent::import::{Imported, Input, Surroundings, import};
use pgvane_agent::reload::differences;

fn fixtures() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("agent/tests/fixtures")
}

fn imported(patroni: Option<&str>, haproxy: Option<&str>) -> Imported {
    let surroundings = Surroundings {
        base: Path::new("/etc"),
        environment: &Environment::default(),
        variable: &|_| None,
        resolve: &|_| vec![],
    };
    let input = |file: &'static str, text| Input { file, text };
    let (patroni, haproxy) =
        (patroni.map(|t| input("patroni.yml", t)), haproxy.map(|t| input("haproxy.cfg", t)));
    import(patroni, haproxy, &surroundings).unwrap_or_else(|e| panic!("{e}"))
}

fn proxy(name: &str, text: &str) -> Config {
    config::parse("proxy.toml", text).unwrap_or_else(|e| panic!("{name}: {e}\n{text}"))
}

/// A certificate with its key in one file, as HAProxy has them.
fn certificate(dir: &Path) -> PathBuf {
    let made = rcgen::generate_simple_self_signed(["db.example.com".to_owned()]).expect("a certificate");
    let path = dir.join("both.pem");
    fs::write(&path, made.cert.pem() + &made.signing_key.serialize_pem()).expect("writes");
    path
}

#[test]
fn every_proxy_toml_is_accepted() {
    let dir = tempfile::tempdir().expect("a directory");
    let both = certificate(dir.path()).display().to_string();
    let mut seen = 0;
    for entry in fs::read_dir(fixtures().join("haproxy")).expect("lists") {
        let path = entry.expect("an entry").path();
        if path.extension().is_some_and(|extension| extension == "cfg") {
            let mut text = fs::read_to_string(&path).expect("reads");
            for file in ["pg.pem", "ca.pem", "client.pem"] {
                text = text.replace(&format!("/etc/haproxy/certs/{file}"), &both);
            }
            let made = imported(None, Some(&text)).proxy.expect("a proxy.toml");
            let config = proxy(&path.display().to_string(), &made);
            assert!(!config.listeners.is_empty());
            seen += 1;
        }
    }
    assert_eq!(seen, 12, "fixtures");
}

#[test]
fn the_files_people_run_today_mean_the_same() {
    let read = |name: &str| fs::read_to_string(fixtures().join(name)).expect("reads");
    let dir = tempfile::tempdir().expect("a directory");
    fs::write(dir.path().join("postgres"), "").expect("writes");
    let patroni = read("patroni.yml").replace("/usr/pgsql-15/bin", &dir.path().display().to_string());
    let made = imported(Some(&patroni), Some(&read("haproxy/seed.cfg")));

    let before = parse_yaml(&patroni, "patroni.yml", Path::new("/etc"), &Environment::default());
    let before = before.unwrap_or_else(|e| panic!("{e}")).config;
    let agent = made.agent.expect("an agent.toml");
    let after = parse(&agent, "agent.toml", Path::new("/etc")).unwrap_or_else(|e| panic!("{e}\n{agent}"));
    // The same in more words: what Patroni's defaults say is said.
    assert_eq!(differences(&before, &after), ["bootstrap.dcs"]);

    let config = proxy("seed", &made.proxy.expect("a proxy.toml"));
    let Source::Etcd(etcd) = &config.clusters["postgres-cluster"].source else { panic!("{config:?}") };
    assert_eq!((&etcd.endpoints, etcd.scope.as_str()), (&after.etcd.endpoints, "postgres-cluster"));
    let listeners: BTreeMap<&str, (Role, String, usize)> = config
        .listeners
        .iter()
        .map(|l| (l.name.as_str(), (l.rules.role, l.listen[0].to_string(), l.max_sessions)))
        .collect();
    let expected = [
        ("postgres-read", (Role::Replica, "0.0.0.0:5433".to_owned(), 3000)),
        ("postgres-write", (Role::Primary, "0.0.0.0:5432".to_owned(), 3000)),
    ];
    assert_eq!(listeners, BTreeMap::from(expected));
}
