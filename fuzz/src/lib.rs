//! What must hold for any bytes, one function per fuzz target. `tests/fuzz_corpus.rs` of the main workspace runs
//! the same functions on the corpora, and on damaged copies of them, with every `cargo test`.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt::Debug;
use std::net::SocketAddr;
use std::path::Path;

use pgvane::endpoint::Endpoint;
use pgvane::pgwire::{self, FirstAnswer, FirstPacket, FirstRead, Framing};
use pgvane::proxy_protocol::{self, HeaderRead};
use pgvane_agent::config::{Environment, parse_yaml};
use pgvane_agent::reload::Change;
use pgvane_agent::timing::{Timing, TimingOverrides};
use pgvane_cluster::clock::Tick;
use pgvane_cluster::fold;
use pgvane_cluster::ids::{NodeName, Revision};
use pgvane_cluster::keyspace::Keyspace;
use pgvane_cluster::records::{
    FailoverRecord, FailsafeRecord, HistoryRecord, MemberRecord, RecordError, StatusRecord, SyncRecord,
};
use pgvane_cluster::settings::{ClusterSettings, MIN_TTL, merge_patch};
use pgvane_cluster::settings_file::SettingsError;
use pgvane_cluster::store::{KeyEvent, KeyValue, Snapshot};
use pgvane_cluster::view::ClusterView;
use serde_json::Value;

/// Where to cut bytes in two: everywhere in the first 80 bytes, which hold every header, then here and there.
fn cuts(bytes: &[u8]) -> impl Iterator<Item = (&[u8], &[u8])> {
    let far = [bytes.len() / 2, bytes.len().saturating_sub(2), bytes.len().saturating_sub(1)];
    (0..bytes.len().min(80)).chain(far).map(|at| bytes.split_at(at))
}

/// The first packet of a client, the first answer of a server, and the stream of messages that follows.
pub fn pgwire(bytes: &[u8]) {
    first_packet(bytes);
    first_answer(bytes);
    framing(bytes);
}

/// What was decided on fewer bytes stays decided, and nothing is read beyond them.
fn first_packet(bytes: &[u8]) {
    let read = pgwire::first_packet(bytes);
    if let FirstRead::Whole(_, size) = read {
        assert!((1..=bytes.len()).contains(&size), "{size} of {}", bytes.len());
    }
    if matches!(read, FirstRead::Whole(FirstPacket::DirectTls, _)) {
        return;
    }
    for (early, _) in cuts(bytes) {
        let seen = pgwire::first_packet(early);
        assert!(seen == FirstRead::NeedMore || seen == read, "{seen:?}, then {read:?}");
    }
}

fn first_answer(bytes: &[u8]) {
    let answer = pgwire::first_answer(bytes);
    for (early, _) in cuts(bytes) {
        let seen = pgwire::first_answer(early);
        assert!(seen == FirstAnswer::NeedMore || seen == answer, "{seen:?}, then {answer:?}");
    }
    if let FirstAnswer::NotNow(text) = answer {
        let written = pgwire::fatal(pgwire::CANNOT_CONNECT_NOW, &text);
        // Bytes that are no text take three each when they are written again.
        if written.len() <= pgwire::MAX_FIRST_ANSWER {
            assert_eq!(pgwire::first_answer(&written), FirstAnswer::NotNow(text));
        }
    }
}

/// However the bytes come, they leave the stream at the same place, which is the one that counting finds.
fn framing(bytes: &[u8]) {
    let whole = Framing::START.after(bytes);
    let single = bytes.iter().fold(Framing::START, |framing, byte| framing.after(&[*byte]));
    assert_eq!(single, whole, "byte by byte");
    for (early, late) in cuts(bytes) {
        assert_eq!(Framing::START.after(early).after(late), whole, "cut after {} bytes", early.len());
    }
    assert_eq!(whole.is_between(), ends_between_messages(bytes));
}

fn ends_between_messages(mut bytes: &[u8]) -> bool {
    while let Some((header, body)) = bytes.split_first_chunk::<5>() {
        let length = u32::from_be_bytes([header[1], header[2], header[3], header[4]]) as usize;
        match length.checked_sub(4).and_then(|length| body.get(length..)) {
            Some(rest) => bytes = rest,
            None => return false,
        }
    }
    bytes.is_empty()
}

/// A header says the same with and without what follows, is never whole a byte earlier, and its source survives
/// being passed on.
pub fn proxy_protocol(bytes: &[u8]) {
    let read = proxy_protocol::header(bytes);
    for (early, _) in cuts(bytes) {
        let seen = proxy_protocol::header(early);
        assert!(seen == HeaderRead::NeedMore || seen == read, "{seen:?}, then {read:?}");
    }
    let HeaderRead::Whole { source, size } = read else { return };
    assert!(size <= bytes.len(), "{size} of {}", bytes.len());
    assert_eq!(proxy_protocol::header(&bytes[..size]), read);
    assert_eq!(proxy_protocol::header(&bytes[..size - 1]), HeaderRead::NeedMore);
    for destination in [None, source, Some(SocketAddr::from(([10, 0, 0, 1], 5432)))] {
        let written = proxy_protocol::v2(source, destination);
        let size = written.len();
        assert_eq!(proxy_protocol::header(&written), HeaderRead::Whole { source, size });
    }
}

const FILE: &str = "fuzz.toml";

/// Every error names the file, and a line that is there.
fn refusal(text: &str, error: &SettingsError) {
    let shown = error.to_string();
    let place = match error.line() {
        None => format!("{FILE}: "),
        Some(line) => {
            assert!((1..=text.split('\n').count()).contains(&line), "line {line} of {text:?}");
            format!("{FILE}:{line}:")
        }
    };
    assert!(shown.starts_with(&place), "{shown}");
}

/// proxy.toml: what is taken can be run.
pub fn proxy_toml(bytes: &[u8]) {
    let Ok(text) = std::str::from_utf8(bytes) else { return };
    let config = match pgvane::config::parse(FILE, text) {
        Ok(config) => config,
        Err(error) => return refusal(text, &error),
    };
    assert!(!config.clusters.is_empty() && config.workers > 0);
    let (mut names, mut addresses) = (BTreeSet::new(), BTreeSet::new());
    for listener in &config.listeners {
        assert!(config.clusters.contains_key(&listener.cluster), "{}", listener.cluster);
        assert!(names.insert(&listener.name), "two are named {}", listener.name);
        assert!(!listener.listen.is_empty() && listener.max_sessions > 0, "{}", listener.name);
    }
    for address in config.listeners.iter().flat_map(|l| &l.listen).filter(|at| !is_any_port(at)) {
        assert!(addresses.insert(address), "{address} twice");
    }
}

/// Whether the kernel chooses the port, another one each time.
fn is_any_port(at: &Endpoint) -> bool {
    matches!(at, Endpoint::Tcp(address) if address.port() == 0)
}

/// agent.toml: what is taken can be run.
pub fn agent_toml(bytes: &[u8]) {
    let Ok(text) = std::str::from_utf8(bytes) else { return };
    let config = match pgvane_agent::config::parse(text, FILE, Path::new("/nonexistent")) {
        Ok(config) => config,
        Err(error) => return refusal(text, &error),
    };
    assert!(NodeName::is_valid(config.name.as_str()));
    assert!(config.postgresql.data_dir.is_absolute() && !config.etcd.endpoints.is_empty());
    let (settings, warnings) = ClusterSettings::from_json(&config.bootstrap.dcs);
    assert_eq!(warnings, []);
    Timing::derive(settings.ttl, &config.timing).expect("deadlines that were checked");
}

/// patroni.yml: what is taken can be run, and says the same when it is read again. After the first line of three dots,
/// lines `NAME=VALUE` are variables of the environment.
pub fn patroni_yml(bytes: &[u8]) {
    let Ok(text) = std::str::from_utf8(bytes) else { return };
    let (text, variables) = text.split_once("\n...\n").unwrap_or((text, ""));
    let pair = |line: &str| line.split_once('=').map(|(name, value)| (name.to_owned(), value.to_owned()));
    let environment = Environment::of(variables.lines().filter_map(pair));
    let loaded = match parse_yaml(text, FILE, Path::new("/nonexistent"), &environment) {
        Ok(loaded) => loaded,
        Err(error) if error.to_string().starts_with("PATRONI_") => return,
        Err(error) => return refusal(text, &error),
    };
    let config = loaded.config;
    assert!(NodeName::is_valid(config.name.as_str()));
    assert!(config.postgresql.data_dir.is_absolute() && !config.etcd.endpoints.is_empty());
    let (settings, warnings) = ClusterSettings::from_json(&config.bootstrap.dcs);
    assert_eq!(warnings, []);
    Timing::derive(settings.ttl, &config.timing).expect("deadlines that were checked");
    let again = parse_yaml(text, FILE, Path::new("/nonexistent"), &environment).expect("it was taken before");
    assert_eq!(Change::between(&config, again.config).changed, Vec::<String>::new());
}

/// The values of etcd's keys, and the view that they add up to.
///
/// Each line is a change: `KEY VALUE` puts, `+KEY VALUE` puts at the revision of the line before, `-KEY` deletes.
/// Each value is read as every record too.
pub fn records(bytes: &[u8]) {
    let space = Keyspace::new("service", "fuzz");
    let mut store = Store::default();
    for line in bytes.split(|b| *b == b'\n') {
        let (key, value) = match line.iter().position(|b| *b == b' ') {
            Some(at) => (&line[..at], &line[at + 1..]),
            None => (line, &b""[..]),
        };
        decoders(value);
        match key.split_first() {
            Some((b'-', key)) => store.delete(&path(&space, key)),
            Some((b'+', key)) => store.put(&path(&space, key), value, true),
            _ => store.put(&path(&space, key), value, false),
        }
        if let Some(key) = space.parse(&path(&space, key)) {
            assert_eq!(space.parse(space.path(&key).as_bytes()), Some(key));
        }
    }
    store.check(&space);
}

fn path(space: &Keyspace, key: &[u8]) -> Vec<u8> {
    [space.prefix().as_bytes(), key].concat()
}

/// What is read, written and read again is the same.
fn decoders(value: &[u8]) {
    survives(value, FailoverRecord::parse, FailoverRecord::to_json);
    survives(value, FailsafeRecord::parse, FailsafeRecord::to_json);
    survives(value, StatusRecord::parse, StatusRecord::to_json);
    survives(value, SyncRecord::parse, SyncRecord::to_json);
    survives(value, HistoryRecord::parse, HistoryRecord::to_json);
    let _ = HistoryRecord::parse(value).map(|history| history.cluster_timeline());
    if let Ok(member) = MemberRecord::parse(value) {
        let _ = member.api_address();
        assert!(member.postgres_address().is_none_or(|(host, _)| !host.is_empty()));
        assert_eq!(member.tags.may_lead(), member.tags.failover_priority() > 0);
        // serde_json may read a fraction's last bit differently the second time.
        if serde_json::to_value(&member).is_ok_and(|json| !has_fraction(&json)) {
            survives(value, MemberRecord::parse, MemberRecord::to_json);
        }
    }
    if let Ok(document) = serde_json::from_slice::<Value>(value) {
        settings(&document);
    }
}

fn survives<T: PartialEq + Debug>(
    value: &[u8],
    parse: fn(&[u8]) -> Result<T, RecordError>,
    write: fn(&T) -> Vec<u8>,
) {
    if let Ok(record) = parse(value) {
        let written = write(&record);
        assert_eq!(parse(&written), Ok(record), "{}", String::from_utf8_lossy(&written));
    }
}

fn has_fraction(json: &Value) -> bool {
    match json {
        Value::Number(number) => number.is_f64(),
        Value::Array(items) => items.iter().any(has_fraction),
        Value::Object(fields) => fields.values().any(has_fraction),
        _ => false,
    }
}

/// The dynamic configuration: no value is too odd for deadlines to be derived from it, and patching twice is
/// patching once.
fn settings(document: &Value) {
    let (settings, warnings) = ClusterSettings::from_json(document);
    assert!(settings.ttl >= MIN_TTL);
    assert!(warnings.iter().all(|w| !w.key.is_empty() && !w.message.is_empty()));
    let _ = Timing::derive(settings.ttl, &TimingOverrides::default()).map_err(|e| e.to_string());
    // As the health checks count.
    let _ = settings.ttl * 2 + settings.loop_wait;

    let mut once = serde_json::json!({"ttl": 30, "postgresql": {"parameters": {"work_mem": "4MB"}}});
    merge_patch(&mut once, document);
    let mut twice = once.clone();
    merge_patch(&mut twice, document);
    assert_eq!(once, twice);
}

/// The keys as etcd holds them, and every change that led there.
#[derive(Default)]
struct Store {
    keys: BTreeMap<Vec<u8>, KeyValue>,
    events: Vec<KeyEvent>,
}

impl Store {
    fn revision(&self) -> Revision {
        self.events.last().map_or(Revision(0), KeyEvent::revision)
    }

    /// A transaction may write a key once.
    fn next(&self, key: &[u8], joins: bool) -> Revision {
        let last = self.revision();
        let written = |event: &KeyEvent| event.revision() == last && event.key() == key;
        if joins && last > Revision(0) && !self.events.iter().rev().any(written) {
            last
        } else {
            Revision(last.0 + 1)
        }
    }

    fn put(&mut self, key: &[u8], value: &[u8], joins: bool) {
        let revision = self.next(key, joins);
        let kv = KeyValue {
            key: key.to_vec(),
            value: value.to_vec(),
            create_revision: self.keys.get(key).map_or(revision, |kv| kv.create_revision),
            mod_revision: revision,
            lease: None,
        };
        self.keys.insert(key.to_vec(), kv.clone());
        self.events.push(KeyEvent::Put(kv));
    }

    fn delete(&mut self, key: &[u8]) {
        if self.keys.remove(key).is_some() {
            self.events.push(KeyEvent::Delete { key: key.to_vec(), revision: self.next(key, false) });
        }
    }

    /// Changes one revision at a time, all at once, and a snapshot of where they end show the same; changes that
    /// were seen change nothing; reigns only grow.
    fn check(&self, space: &Keyspace) {
        let mut view = ClusterView::default();
        for batch in self.events.chunk_by(|a, b| a.revision() == b.revision()) {
            let newest = view.newest_epoch;
            fold::apply_all(&mut view, space, batch);
            assert_eq!(view.revision, batch[0].revision());
            assert!(view.newest_epoch >= newest);
            assert!(view.leader.as_ref().is_none_or(|leader| leader.epoch == view.newest_epoch));
        }
        let mut at_once = ClusterView::default();
        fold::apply_all(&mut at_once, space, &self.events);
        assert_eq!(at_once, view);
        fold::apply_all(&mut at_once, space, &self.events);
        assert_eq!(at_once, view);
        let keys = self.keys.values().cloned().collect();
        let snapshot = Snapshot { revision: self.revision(), keys, asked_at: Tick::ZERO, era: 0 };
        assert_eq!(fold::from_snapshot(space, &snapshot, Some(&view)), view);
        assert!(view.malformed.keys().all(|key| space.parse(key.as_bytes()).is_some()));
    }
}
