//! A default that the reference tells is the one in force: to write it into a file changes nothing.

use std::path::Path;
use std::time::Duration;

use pgvane_agent::timing::Timing;
use serde_json::Value;
use toml::{Table, Value as Toml};

use super::reference::sections;

/// Files that settings may name: certificates, a directory of programs.
struct Host {
    dir: tempfile::TempDir,
}

impl Host {
    fn new() -> Host {
        let dir = tempfile::tempdir().expect("a directory");
        let certified =
            rcgen::generate_simple_self_signed(vec!["localhost".to_owned()]).expect("a certificate");
        let write = |file: &str, text: &str| std::fs::write(dir.path().join(file), text).expect("writes");
        write("a.crt", &certified.cert.pem());
        write("a.key", &certified.signing_key.serialize_pem());
        write("postgres", "");
        Host { dir }
    }

    /// `text` with `DIR` in it replaced.
    fn table(&self, text: &str) -> Table {
        let text = text.replace("DIR", &self.dir.path().display().to_string());
        text.parse().unwrap_or_else(|error| panic!("{error}\n{text}"))
    }
}

/// The table below `path`; the first of a list, whoever is called `NAME`.
fn below<'t>(table: &'t mut Table, path: &[String]) -> &'t mut Table {
    let Some((first, rest)) = path.split_first() else { return table };
    let next = if first == "NAME" {
        table.iter_mut().next().expect("there is one").1
    } else {
        table.entry(first.clone()).or_insert_with(|| Toml::Table(Table::new()))
    };
    match next {
        Toml::Table(table) => below(table, rest),
        Toml::Array(list) => below(list[0].as_table_mut().expect("a table"), rest),
        other => panic!("{first} is {other}"),
    }
}

/// Writes every default into the smallest file that its section may stand in, and reads both.
fn proven<T: PartialEq + std::fmt::Debug>(
    schema: &Value,
    smallest: impl Fn(&str) -> Table,
    read: impl Fn(&str) -> T,
) -> usize {
    let mut proven = 0;
    for section in sections(schema) {
        let path = section.path.join(".");
        let before = smallest(&path);
        for key in &section.keys {
            let Some(default) = &key.default else { continue };
            let mut with = before.clone();
            let value =
                Toml::try_from(default).unwrap_or_else(|error| panic!("{path}.{}: {error}", key.name));
            below(&mut with, &section.path).insert(key.name.clone(), value);
            let (before, with) = (before.to_string(), with.to_string());
            assert_eq!(read(&with), read(&before), "{path}.{} = {default}", key.name);
            proven += 1;
        }
    }
    proven
}

#[test]
fn those_of_proxy_toml_are_in_force() {
    const ETCD: &str = "[cluster.main.etcd]\nendpoints = ['http://h:1']\n";
    let host = Host::new();
    let smallest = |section: &str| {
        let text = match section {
            "cluster.NAME.patroni_rest" => "[cluster.main.patroni_rest]\nmembers = ['http://h:1']".to_owned(),
            "cluster.NAME.probe" => "[cluster.main.probe]\nservers = ['h:1']\nuser = 'u'".to_owned(),
            "cluster.NAME.agents" => format!("{ETCD}[cluster.main.agents]\ncacert = 'DIR/a.crt'"),
            "listener" => format!("{ETCD}[[listener]]\nrole = 'replica'\nlisten = ['127.0.0.1:1']"),
            "listener.tls" => format!(
                "{ETCD}[[listener]]\nrole = 'replica'\nlisten = ['127.0.0.1:1']\n[listener.tls]\nmode = 'reencrypt'\n\
                 cert = 'DIR/a.crt'\nkey = 'DIR/a.key'\nserver_ca = 'DIR/a.crt'"
            ),
            _ => ETCD.to_owned(),
        };
        host.table(&text)
    };
    let read = |text: &str| {
        pgvane::config::parse("proxy.toml", text).unwrap_or_else(|error| panic!("{error}\n{text}"))
    };
    let [(_, schema, ..), _] = super::files();
    let proven = proven(&schema, smallest, read);
    assert!(proven > 40, "{proven} defaults");
}

#[test]
fn those_of_agent_toml_are_in_force() {
    let host = Host::new();
    let smallest = |section: &str| {
        let more = match section {
            "log" => "[log]\ndir = 'DIR'",
            "bootstrap.users.NAME" => "[bootstrap.users.app]",
            "bootstrap.method" => "[bootstrap.method]\nname = 'm'\ncommand = 'c'",
            "postgresql.replica_methods" => "[[postgresql.replica_methods]]\nname = 'm'",
            _ => "",
        };
        host.table(&format!(
            "name = 'pg1'\nscope = 'demo'\netcd.endpoints = ['h:1']\nrestapi.connect_address = 'h:2'\n[postgresql]\n\
             data_dir = 'data'\nbin_dir = 'DIR'\nconnect_address = 'h:3'\nsuperuser.password = 'p'\n\
             replication.password = 'p'\n{more}"
        ))
    };
    let read = |text: &str| {
        let mut config = pgvane_agent::config::parse(text, "agent.toml", Path::new("/x"))
            .unwrap_or_else(|error| panic!("{error}\n{text}"));
        // What counts is what they come to.
        let timing = Timing::derive(Duration::from_secs(10), &std::mem::take(&mut config.timing));
        (config, timing.expect("fits"))
    };
    let [_, (_, schema, ..)] = super::files();
    let proven = proven(&schema, smallest, read);
    assert!(proven > 30, "{proven} defaults");
}
