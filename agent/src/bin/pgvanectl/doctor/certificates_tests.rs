//! Certificates that are expired, end soon, do not count yet, are for another host or have another's key.

use std::collections::BTreeMap;

use pgvane_agent::config;
use rcgen::{CertificateParams, DistinguishedName, DnType, KeyPair, date_time_ymd};

use super::*;

const DAY: u64 = 24 * 3600;
/// 2026-03-01 and 2026-05-30, seconds since 1970.
const BEGIN: u64 = 1_772_323_200;
const END: u64 = 1_780_099_200;

fn limits(now: u64) -> Limits {
    Limits {
        now: UnixTime::since_unix_epoch(Duration::from_secs(now)),
        warning: Duration::from_secs(30 * DAY),
        critical: Duration::from_secs(7 * DAY),
    }
}

/// One for `host` that counts from 2026-03-01 to 2026-05-30, or to the end of `year`.
fn signed(host: &str, year: Option<i32>, key: &KeyPair) -> rcgen::Certificate {
    let mut params = CertificateParams::new(vec![host.to_owned()]).expect("a name");
    params.distinguished_name = DistinguishedName::new();
    params.distinguished_name.push(DnType::CommonName, host);
    params.not_before = date_time_ymd(2026, 3, 1);
    params.not_after = year.map_or(date_time_ymd(2026, 5, 30), |year| date_time_ymd(year, 12, 31));
    params.self_signed(key).expect("signs")
}

fn der(host: &str, year: Option<i32>) -> CertificateDer<'static> {
    signed(host, year, &KeyPair::generate().expect("a key")).der().clone()
}

fn told(now: u64) -> (Level, String) {
    let finding = time("x".to_owned(), &[der("a", None), der("ca", Some(2040))], limits(now));
    assert_eq!(finding.level == Level::Good, finding.advice.is_empty(), "{finding:?}");
    (finding.level, finding.found)
}

#[test]
fn time_is_judged_by_how_much_is_left() {
    for (now, level, found) in [
        (BEGIN - 1, Level::Critical, "not valid before 2026-03-01 00:00:00 UTC"),
        (BEGIN, Level::Good, "expires in 90 days, on 2026-05-30"),
        (END - 29 * DAY, Level::Warning, "expires in 29 days, on 2026-05-30"),
        (END - 6 * DAY, Level::Critical, "expires in 6 days, on 2026-05-30"),
        (END + 3 * DAY, Level::Critical, "expired 3 days ago, on 2026-05-30"),
    ] {
        assert_eq!(told(now), (level, found.to_owned()));
    }
    // What leads to the root counts as well, and is named.
    let chain = [der("a", Some(2040)), der("between", None)];
    let finding = time("x".to_owned(), &chain, limits(END + DAY));
    assert_eq!(
        (finding.level, finding.found.as_str()),
        (Level::Critical, "CN=between expired 24 hours ago, on 2026-05-30")
    );
    let garbage = time("x".to_owned(), &[CertificateDer::from(vec![0x30])], limits(BEGIN));
    assert_eq!(garbage.level, Level::Critical);
}

#[test]
fn one_of_several_authorities_may_be_over() {
    let judged = |all: &[CertificateDer<'_>]| bundle("x".to_owned(), all, limits(END + 3 * DAY)).level;
    assert_eq!(judged(&[der("old", None)]), Level::Critical);
    assert_eq!(judged(&[der("old", None), der("new", Some(2040))]), Level::Warning);
    assert_eq!(judged(&[der("old", None), der("older", None)]), Level::Critical);
    assert_eq!(judged(&[der("new", Some(2040))]), Level::Good);
    let mut system: Vec<_> = (0..20).map(|_| der("new", Some(2040))).collect();
    system.push(der("old", None));
    assert_eq!(judged(&system), Level::Good, "a host's own collection");
}

#[test]
fn another_host_is_told_of() {
    let chain = [der("db.example.com", None)];
    assert_eq!(name("x", &chain, "db.example.com", Level::Critical), None);
    let finding = name("x", &chain, "10.0.0.1", Level::Critical).expect("another");
    assert_eq!(finding.level, Level::Critical);
    assert!(finding.found.starts_with("it is not for 10.0.0.1: "), "{finding:?}");
    assert_eq!(name("x", &chain, "pg1", Level::Warning).map(|finding| finding.level), Some(Level::Warning));
    assert_eq!(name("x", &[der("10.0.0.1", None)], "10.0.0.1", Level::Critical), None);
}

#[test]
fn every_file_of_the_settings_is_looked_at_once() {
    let dir = tempfile::tempdir().expect("a directory");
    let write = |name: &str, text: &str, mode: u32| {
        let path = dir.path().join(name);
        fs::write(&path, text).expect("writes");
        fs::set_permissions(&path, fs::Permissions::from_mode(mode)).expect("its owner may");
        path.display().to_string()
    };
    let (own, other) = (KeyPair::generate().expect("a key"), KeyPair::generate().expect("a key"));
    let cert = write("own.crt", &signed("pg1", None, &own).pem(), 0o644);
    let key = write("own.key", &own.serialize_pem(), 0o600);
    let wrong = write("wrong.key", &other.serialize_pem(), 0o644);
    let client = write("client.crt", &signed("x", Some(2040), &own).pem(), 0o644);
    let ca = write("ca.crt", &signed("ca", None, &other).pem(), 0o644);
    fs::write(dir.path().join("postgres"), "").expect("writes");
    let settings = format!(
        "name = \"pg1\"\nscope = \"demo\"\n\
         [etcd]\nendpoints = [\"https://127.0.0.1:2379\"]\ncacert = {ca:?}\ncert = {client:?}\nkey = {wrong:?}\n\
         [restapi]\nconnect_address = \"pg1:8008\"\ncertfile = {cert:?}\nkeyfile = {key:?}\ncafile = {ca:?}\n\
         [postgresql]\ndata_dir = \"/nowhere/data\"\nbin_dir = {:?}\nconnect_address = \"pg1:5432\"\n\
         [postgresql.superuser]\nusername = \"postgres\"\npassword = \"s\"\n\
         [postgresql.replication]\nusername = \"r\"\npassword = \"r\"\nsslrootcert = \"/nowhere/ca.pem\"\n",
        dir.path()
    );
    let config =
        config::parse(&settings, "agent.toml", dir.path()).unwrap_or_else(|e| panic!("{e}\n{settings}"));
    let found = files(&config, limits(END - 10 * DAY));
    let levels: BTreeMap<&str, Level> = found.iter().map(|f| (f.what.as_str(), f.level)).collect();
    assert_eq!(levels.len(), found.len(), "each once: {found:#?}");
    let wanted = BTreeMap::from([
        (format!("restapi.certfile {cert}"), Level::Warning),
        (format!("permissions of {key}"), Level::Good),
        (format!("etcd.cert {client}"), Level::Good),
        (format!("key {wrong}"), Level::Critical),
        (format!("permissions of {wrong}"), Level::Critical),
        (format!("restapi.cafile {ca}"), Level::Warning),
        ("sslrootcert /nowhere/ca.pem".to_owned(), Level::Critical),
    ]);
    let wanted: BTreeMap<&str, Level> = wanted.iter().map(|(what, level)| (what.as_str(), *level)).collect();
    assert_eq!(levels, wanted, "{found:#?}");
}
