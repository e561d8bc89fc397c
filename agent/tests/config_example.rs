//! agent.toml.example is read by the program itself, says the defaults it claims, and documents every key.

use std::collections::BTreeSet;
use std::path::Path;

use pgvane_agent::config::{Config, parse, schema};
use pgvane_agent::reload::Change;
use serde_json::Value;

const EXAMPLE: &str = include_str!("../agent.toml.example");

/// Whether a commented line is a setting or a table rather than prose: `#key = ...`, `#[table]`, `#  "item",`.
fn is_commented_setting(line: &str) -> bool {
    // `#:schema` is for editors.
    line.strip_prefix('#')
        .is_some_and(|rest| !rest.is_empty() && !rest.starts_with([' ', ':']) || rest.starts_with("  \""))
}

/// The example with the commented settings that `keep` chooses put into force.
fn uncommented(keep: impl Fn(&str) -> bool) -> String {
    let lines = EXAMPLE.lines().map(|l| if is_commented_setting(l) && keep(l) { &l[1..] } else { l });
    lines.map(|l| format!("{l}\n")).collect()
}

fn read(text: &str) -> Config {
    match parse(text, "agent.toml.example", Path::new("/etc/pgvane")) {
        Ok(config) => config,
        Err(e) => panic!("{e}"),
    }
}

#[test]
fn it_works_as_it_is() {
    let config = read(EXAMPLE);
    assert_eq!(config.name.as_str(), "pg1");
    assert_eq!(config.keyspace().prefix(), "/service/demo/");
}

#[test]
fn commented_defaults_are_the_defaults() {
    // These show an example because they have no default, or one that depends on the machine.
    let examples = [
        "#cacert",
        "#cert",
        "#key",
        "#username",
        "#password",
        "#cafile",
        "#certfile",
        "#keyfile",
        "#http_extra_headers",
        "#https_extra_headers",
        "#bin_dir",
        "#proxy_address",
        "#use_unix_socket =",
        "#config_dir",
        "#custom_conf",
        "#krbsrvname",
        "#use_pg_rewind",
        "#remove_data_directory",
        "#basebackup",
        "#rewind_options",
        "#pre_promote",
        "#before_stop",
        "#[postgresql.rewind]",
        "#ssl",
        "#gssencmode",
        "#channel_binding",
        "#work_mem",
        "#restore_command",
        "#pg_ctl =",
        "#on_",
        "#[[postgresql.replica_methods]]",
        "#name",
        "#command",
        "#keep_data",
        "#no_params",
        "#no_leader",
        "#parameters",
        "#post_bootstrap",
        "#[bootstrap.method]",
        "#keep_existing_recovery_conf",
        "#recovery_conf",
        "#[bootstrap.users.app]",
        "#options",
        "#nofailover",
        "#failover_priority",
        "#noloadbalance",
        "#clonefrom",
        "#nosync",
        "#replicatefrom",
        "#renew_interval",
        "#stop_budget",
        "#guard_budget",
        "#clock_drift_ppm",
        "#socket",
        "#log",
        "#date_format",
        "#static_fields",
        "#dir",
        "#file_num",
        "#file_size",
        "#mode = \"0640\"",
    ];
    for example in examples {
        assert!(EXAMPLE.lines().any(|l| l.starts_with(example)), "{example} is not in the file any more");
    }
    let explicit = uncommented(|line| !examples.iter().any(|e| line.starts_with(e)));
    assert_eq!(read(&explicit), read(EXAMPLE));
}

/// The example with every line in force, and all it names in a directory that is answered too.
fn whole() -> (tempfile::TempDir, Config) {
    // A directory with a `postgres` and certificates makes every line valid at once.
    let dir = tempfile::tempdir().expect("a directory");
    let files = ["postgres", "etcd-ca.pem", "etcd-client.pem", "etcd-client.key", "rest.pem", "rest.key"];
    for file in files.into_iter().chain(["rest-ca.pem", "operator.pem", "operator.key"]) {
        std::fs::write(dir.path().join(file), "").expect("writes");
    }
    let here = dir.path().display().to_string();
    let all = uncommented(|_| true).replace("/usr/lib/postgresql/15/bin", &here);
    let all = all.replace("/etc/pgvane", &here).replace("/var/log/pgvane", &here);
    // Fields of its own has only a line of JSON, which is the other format.
    let all = all.replace("format = \"text\"", "format = \"patroni-json\"");
    let config = read(&all);
    (dir, config)
}

#[test]
fn every_key_it_shows_is_known() {
    let (_dir, config) = whole();
    assert_eq!(config.bootstrap.users[0].name, "app");
    assert_eq!(config.timing.clock_drift_ppm, Some(pgvane_agent::timing::DEFAULT_CLOCK_DRIFT_PPM));
    assert_eq!(config.guard.socket, Path::new("/run/pgvane/guard.sock"));
    // Those that are off are not published, but for the one beside a priority.
    assert_eq!(config.tags.0.len(), 3);
    assert_eq!(config.postgresql.replica_methods.len(), 2);
    assert!(config.restapi.tls.is_some() && config.log.file.is_some());
}

/// The keys that the schema marks as needing a restart, as `section.key`.
fn marked(root: &Value, schema: &Value, path: &str, all: bool, into: &mut BTreeSet<String>) {
    let is_marked = |schema: &Value| schema["x-restart"] == true;
    let all = all || is_marked(schema);
    for (name, property) in schema["properties"].as_object().into_iter().flatten() {
        let reference = property["$ref"].as_str().or_else(|| property["allOf"][0]["$ref"].as_str());
        let path = format!("{path}{name}");
        match reference.and_then(|reference| reference.rsplit('/').next()) {
            Some(name) => marked(root, &root["definitions"][name], &format!("{path}."), all, into),
            None if all || is_marked(property) => {
                into.insert(path);
            }
            None => {}
        }
    }
}

/// Everything is changed at once: what a running agent keeps as it was is what the reference says needs a restart.
#[test]
fn what_needs_a_restart_is_what_is_kept() {
    let before = "name = 'other'\nscope = 'other'\nnamespace = 'other'\netcd.endpoints = ['h:1']\netcd.discover = true\n\
                  restapi = { listen = '127.0.0.1:1', connect_address = 'h:2' }\n[postgresql]\ndata_dir = 'other'\n\
                  listen = '*:1'\nconnect_address = 'h:3'\nconfig_base_name = 'other'\nsuperuser.password = 'p'\n\
                  replication.password = 'p'\n";
    let (_dir, after) = whole();
    let change = Change::between(&read(before), after);
    let kept: BTreeSet<String> = change.kept.into_iter().collect();
    let schema = schema();
    let mut needs_restart = BTreeSet::new();
    marked(&schema, &schema, "", false, &mut needs_restart);
    // It is told by the certificate beside it.
    needs_restart.remove("etcd.key");
    assert_eq!(kept, needs_restart);
    assert!(change.changed.len() > 50, "{:?}", change.changed);
}
