//! What a patroni.yml means, what is said of it, what beats it.

use std::path::Path;
use std::time::Duration;

use proptest::prelude::*;
use serde_json::json;

use crate::config::{
    BootstrapMethod, Config, Environment, Line, LogField, LogFormat, Piece, Secret, VerifyClient,
    WatchdogMode, parse_yaml,
};
use crate::timing::DEFAULT_CLOCK_DRIFT_PPM;

const SEED: &str = include_str!("../../../tests/fixtures/patroni.yml");

const SMALL: &str = "scope: demo\nname: pg1\netcd3: {hosts: '10.0.0.1:2379'}\n\
                     restapi: {listen: '10.0.0.1:8008'}\n\
                     postgresql: {listen: '10.0.0.1:5432', data_dir: /nowhere/data}\n";

fn environment(variables: &[(&str, &str)]) -> Environment {
    Environment::of(variables.iter().map(|(name, value)| ((*name).to_owned(), (*value).to_owned())))
}

fn read_with(text: &str, variables: &[(&str, &str)]) -> Result<(Config, String), String> {
    let read = parse_yaml(text, "patroni.yml", Path::new("/etc"), &environment(variables));
    read.map(|loaded| (loaded.config, loaded.warnings.join("\n"))).map_err(|e| e.to_string())
}

fn read(text: &str) -> (Config, String) {
    read_with(text, &[]).unwrap_or_else(|e| panic!("{e}"))
}

fn refused(text: &str) -> String {
    read_with(text, &[]).map(|(config, _)| format!("{config:?}")).expect_err(text)
}

/// The seed with a directory of programs that is there.
fn seed() -> (tempfile::TempDir, String) {
    let dir = tempfile::tempdir().expect("a directory");
    std::fs::write(dir.path().join("postgres"), "").expect("writes");
    let text = SEED.replace("/usr/pgsql-15/bin", &dir.path().display().to_string());
    (dir, text)
}

#[test]
fn the_file_that_people_run_today_is_enough() {
    let (_dir, text) = seed();
    let (c, warnings) = read(&text);
    assert_eq!((c.scope.as_str(), c.namespace.as_str()), ("postgres-cluster", "service"));
    let endpoints = ["http://192.168.1.10:2379", "http://192.168.1.11:2379", "http://192.168.1.12:2379"];
    assert_eq!(c.etcd.endpoints, endpoints);
    assert_eq!(c.conn_url(), "postgres://192.168.1.20:5432/postgres");
    assert_eq!(c.api_url(), "http://192.168.1.20:8008/patroni");
    assert_eq!(c.restapi.listen.to_string(), "0.0.0.0:8008");
    let pg = &c.postgresql;
    assert_eq!((pg.listen_addresses.as_str(), pg.port), ("0.0.0.0", 5432));
    assert_eq!(pg.pgpass, Path::new("/tmp/pgpass0"));
    let names = [&pg.superuser, &pg.replication, &pg.rewind].map(|role| role.username.as_str());
    assert_eq!(names, ["postgres", "replicator", "rewind_user"]);
    assert_eq!(pg.rewind.password.as_ref().map(Secret::expose), Some("rewind-pass-2025"));
    assert_eq!(pg.parameters["shared_buffers"], "4GB");
    assert_eq!(pg.parameters["effective_cache_size"], "12GB");
    assert_eq!(pg.parameters["random_page_cost"], "1.1");
    assert!(!pg.parameters.contains_key("max_connections"));
    assert!(pg.pg_hba.is_empty(), "initdb's file is left alone");
    let dcs = json!({
        "ttl": 30, "loop_wait": 10, "retry_timeout": 10, "maximum_lag_on_failover": 1_048_576,
        "postgresql": {"use_pg_rewind": true, "use_slots": true},
    });
    assert_eq!(c.bootstrap.dcs, dcs);
    assert_eq!(c.bootstrap.initdb, ["--encoding=UTF8", "--locale=en_US.UTF-8", "--data-checksums"]);
    assert_eq!(c.bootstrap.pg_hba.len(), 3);
    let users: Vec<_> = c.bootstrap.users.iter().map(|u| (u.name.as_str(), u.options.join(" "))).collect();
    assert_eq!(users, [("app_user", String::new()), ("rewind_user", "CREATEROLE REPLICATION".to_owned())]);
    assert_eq!(json!(c.tags.0), json!({"clonefrom": true}));
    assert_eq!(c.watchdog.mode, WatchdogMode::Automatic);
    assert_eq!(c.log.format, LogFormat::Patroni);
    // Each of these is ignored, or means something else than it did, and is named with its line.
    for expected in [
        "patroni.yml:2: ttl is ignored: it belongs to the dynamic configuration",
        "retry_timeout is ignored",
        "maximum_lag_on_failover is ignored",
        "patroni.yml:24: postgresql.parameters.wal_level: only the dynamic configuration may set it",
        "postgresql.parameters.max_connections: only",
        "postgresql.parameters.wal_keep_size: only",
        "postgresql.rewind.password is no option and ignored",
        "etcd is, to Patroni, etcd's API v2; this agent speaks v3",
        "restapi.metrics is ignored: metrics are always served, at /metrics",
        "name is not set; this host's name",
    ] {
        assert!(warnings.contains(expected), "{expected} is not in\n{warnings}");
    }
    assert_eq!(warnings.lines().count(), 14, "{warnings}");
    for text in [warnings, format!("{c:?}")] {
        assert!(!text.contains("pass-2025"), "{text}");
    }
}

#[test]
fn patronis_defaults_hold() {
    let (c, warnings) = read(SMALL);
    assert_eq!(warnings, "");
    assert_eq!(c.bootstrap.dcs, json!({}));
    assert!(!c.bootstrap.allowed, "without the section nothing is begun");
    assert!(c.bootstrap.initdb.is_empty());
    assert_eq!(c.watchdog.safety_margin, Some(Duration::from_secs(5)));
    assert_eq!(c.timing.clock_drift_ppm, None);
    assert_eq!(c.log.line, Line::usual());
    assert_eq!(c.postgresql.superuser.password, None);
    let (with, _) = read(&format!("{SMALL}bootstrap:\n  dcs:\n"));
    assert!(with.bootstrap.allowed);
}

/// A value for most of what there is.
const EVERY_SECTION: &str = r#"
scope: demo
namespace: /db/
name: pg1
etcd3:
  url: https://root:hunter2@etcd1:2379
  cacert: ca.pem
  cert: cert.pem
restapi:
  listen: '*:8008'
  connect_address: pg1:8008
  auth: 'admin:hunter2'
  certfile: cert.pem
  cafile: ca.pem
  verify_client: optional
  allowlist: [10.0.0.0/8, monitor]
  allowlist_include_members: yes
  ciphers: HIGH
  server_tokens: productonly
  http_extra_headers: {X-Frame: DENY, X-N: 1}
ctl: {insecure: on, cacert: ca.pem}
postgresql:
  listen: 127.0.0.1,10.0.0.1
  connect_address: 10.0.0.1
  proxy_address: 10.0.0.1:6432
  data_dir: data
  use_unix_socket: on
  authentication:
    superuser: {username: admin, password: hunter2, sslmode: verify-ca, sslpasword: hunter2}
    replication: {username: rep, password: 12345}
  parameters:
    unix_socket_directories: '@x, /run/pg ,/tmp'
    autovacuum: off
    log_line_prefix: '%m '
    archive_mode:
  create_replica_methods: [pgbackrest, wal_e, basebackup]
  pgbackrest: {command: pgbackrest --delta restore, keep_data: true, no_params: true, stanza: main}
  basebackup: [verbose, {max-rate: '"100M"'}]
  callbacks: {on_start: /bin/cb 'a b', on_stop: }
  pg_ctl_timeout: 90
  remove_data_directory_on_diverged_timelines: true
  recovery_conf: {restore_command: cp, recovery_target_timeline: latest}
  bin_name: {pg_ctl: pg_ctl-15}
  use_slots: true
bootstrap:
  method: restore
  restore: {command: /bin/restore, deep: true, recovery_conf: {recovery_target_action: promote}}
  post_init: /bin/post
  dcs: {slots: {a: {type: physical}}, synchronous_mode: on}
  users: {app: }
tags: {nofailover: 'no', failover_priority: '3', replicatefrom: 7, dc: east, odd: }
watchdog: {mode: off, driver: testing, safety_margin: -1}
log: {level: WARNING, type: json, format: [message, {asctime: time}], static_fields: {app: pg},
      loggers: {patroni: DEBUG, urllib3: ERROR}, traceback_level: DEBUG}
pgvane: {guard: {socket: /run/g.sock}, timing: {guard_budget: 200ms, clock_drift_ppm: 10000}}
"#;

#[test]
fn every_section_is_read() {
    let dir = tempfile::tempdir().expect("a directory");
    for file in ["cert.pem", "ca.pem"] {
        std::fs::write(dir.path().join(file), "").expect("writes");
    }
    let loaded = parse_yaml(EVERY_SECTION, "patroni.yml", dir.path(), &environment(&[]));
    let loaded = loaded.unwrap_or_else(|e| panic!("{e}"));
    let (c, warnings) = (loaded.config, loaded.warnings.join("\n"));
    assert_eq!(c.keyspace().prefix(), "/db/demo/");
    assert_eq!(c.etcd.endpoints, ["https://etcd1:2379"]);
    assert_eq!(c.etcd.login.as_ref().map(|l| l.username.as_str()), Some("root"));
    assert_eq!(c.etcd.client_cert.as_ref().map(|(cert, key)| cert == key), Some(true));
    assert_eq!(c.restapi.login.as_ref().map(|l| l.password.expose()), Some("hunter2"));
    assert_eq!(c.restapi.tls.as_ref().map(|t| t.verify_client), Some(VerifyClient::Optional));
    assert_eq!(c.restapi.http_extra_headers[1], ("X-N".to_owned(), "1".to_owned()));
    assert_eq!((c.ctl.login == c.restapi.login, c.ctl.insecure), (true, true));
    let pg = &c.postgresql;
    assert_eq!((pg.listen_addresses.as_str(), pg.port), ("127.0.0.1,10.0.0.1", 5432));
    assert_eq!(pg.socket_dir.as_deref(), Some(Path::new("/run/pg")));
    assert_eq!(pg.superuser.connection["sslmode"], "verify-ca");
    assert_eq!(pg.rewind, pg.superuser);
    assert_eq!(pg.replication.password.as_ref().map(Secret::expose), Some("12345"));
    assert_eq!(
        (pg.parameters["autovacuum"].as_str(), pg.parameters["log_line_prefix"].as_str()),
        ("off", "%m ")
    );
    let methods: Vec<_> = pg.replica_methods.iter().map(|m| m.name.as_str()).collect();
    assert_eq!(methods, ["pgbackrest", "wal_e", "basebackup"]);
    assert_eq!(pg.replica_methods[0].parameters, [("stanza".to_owned(), "main".to_owned())]);
    assert_eq!(pg.replica_methods[1].command.as_ref().map(|c| c.text.as_str()), Some("wal_e"));
    assert_eq!(pg.basebackup, ["--verbose", "--max-rate=100M"]);
    assert_eq!(pg.callbacks.on_start.as_ref().map(|s| s.words.len()), Some(2));
    assert_eq!((pg.callbacks.on_stop.is_none(), pg.pg_ctl_timeout.as_secs()), (true, 90));
    assert_eq!(pg.recovery_conf.keys().collect::<Vec<_>>(), ["restore_command"]);
    assert_eq!(pg.bin_names["pg_ctl"], "pg_ctl-15");
    let BootstrapMethod::Custom { parameters, recovery_conf, .. } = &c.bootstrap.method else {
        panic!("{:?}", c.bootstrap.method)
    };
    assert_eq!(parameters, &[("deep".to_owned(), "True".to_owned())]);
    assert_eq!(recovery_conf["recovery_target_action"], "promote");
    assert_eq!(c.bootstrap.post_bootstrap.as_deref(), Some("/bin/post"));
    assert_eq!(c.bootstrap.dcs["synchronous_mode"], json!(true));
    assert_eq!(
        json!(c.tags.0),
        json!({
            "nofailover": false, "failover_priority": 3, "replicatefrom": "7", "dc": "east",
        })
    );
    assert_eq!(
        (c.watchdog.mode, c.watchdog.safety_margin, c.watchdog.testing),
        (WatchdogMode::Off, None, true)
    );
    assert_eq!(c.log.level, "warn,pgvane_agent=debug");
    let Line::Json { fields, static_fields } = &c.log.line else { panic!("{:?}", c.log.line) };
    assert_eq!(fields[1], (LogField::Asctime, "time".to_owned()));
    assert_eq!(static_fields["app"], json!("pg"));
    assert_eq!(c.guard.socket, Path::new("/run/g.sock"));
    assert_eq!(c.timing.clock_drift_ppm, Some(DEFAULT_CLOCK_DRIFT_PPM));
    for expected in [
        "patroni.yml:18: restapi.ciphers is ignored",
        "postgresql.authentication.superuser.sslpasword is unknown and ignored; did you mean postgresql.authentication.superuser.sslpassword?",
        "postgresql.use_slots is ignored",
        "postgresql.recovery_conf.recovery_target_timeline: the agent gives it itself; it is ignored",
        "postgresql.parameters.archive_mode: it has no value; it is ignored",
        "log.loggers.urllib3 is ignored",
        "log.traceback_level is ignored",
    ] {
        assert!(warnings.contains(expected), "{expected} is not in\n{warnings}");
    }
    assert_eq!(warnings.lines().count(), 7, "{warnings}");
    assert!(!format!("{warnings}{c:?}").contains("hunter2"));
}

#[test]
fn wrong_values_point_at_their_place() {
    let text = "scope: demo\nname: pg1\nrestapi:\n  listen: everywhere\n";
    assert_eq!(
        refused(&format!("{text}etcd3: {{host: a}}\npostgresql: {{data_dir: /x/y, connect_address: h}}")),
        "patroni.yml:4:11: restapi.listen: \"everywhere\" is not ADDRESS:PORT such as \"0.0.0.0:8008\"\n  |\n\
         4 |   listen: everywhere\n  |           ^^^^^^^^^^"
    );
    for (old, new, expected) in [
        ("scope: demo", "scop: demo", "patroni.yml: scope is needed"),
        ("data_dir: /nowhere/data", "", "patroni.yml:5:13: postgresql.data_dir is needed"),
        (
            "etcd3: {hosts: '10.0.0.1:2379'}",
            "consul: {host: a}",
            "consul: this agent keeps the cluster in etcd",
        ),
        ("hosts: '10.0.0.1:2379'", "srv: example.org", "etcd3.srv: etcd is not looked up in DNS here"),
        (
            "hosts: '10.0.0.1:2379'",
            "hosts: 'a b'",
            "etcd3.hosts: \"http://a b:2379\" is not http(s)://host:port",
        ),
        ("name: pg1", "name: [pg1]", "patroni.yml:2:7: name: text is expected, not a list"),
        ("name: pg1", "name: a/b", "patroni.yml:2:7: name: \"a/b\" is not a member name"),
        (
            "name: pg1",
            "name: pg1\ntags: {nofailover: maybe}",
            "tags.nofailover: true or false is expected, not \"maybe\"",
        ),
        ("name: pg1", "name: pg1\ntags: 5", "tags: a section with keys is expected, not a single value"),
        (
            "name: pg1",
            "name: pg1\nbootstrap: {dcs: {ttl: soon}}",
            "patroni.yml:3:24: bootstrap.dcs.ttl: \"soon\" is not",
        ),
        (
            "name: pg1",
            "name: pg1\nbootstrap: {method: x}",
            "bootstrap.x.command is needed by bootstrap.method",
        ),
        (
            "name: pg1",
            "name: pg1\nbootstrap: {users: {a: {options: [root]}}}",
            "bootstrap.users.a.options: \"root\" is not one of",
        ),
        ("name: pg1", "name: pg1\nlog: {level: LOUD=x=y}", "log.level"),
        ("name: pg1", "name: pg1\nlog: {type: xml}", "log.type: \"xml\" is not one of plain, json"),
        ("name: pg1", "name: pg1\ncitus: {group: 0}", "citus: this agent does not run members of Citus"),
        ("name: pg1", "name: pg1\npgvane: {guard: {socket: [1]}}", "pgvane.guard.socket: text is expected"),
        ("listen: '10.0.0.1:5432'", "listen: ':5432'", "postgresql.listen"),
        (
            "listen: '10.0.0.1:8008'",
            "listen: '10.0.0.1:8008', authentication: {username: a}",
            "restapi.authentication.username needs restapi.authentication.password",
        ),
        (
            "data_dir:",
            "use_unix_socket: maybe, data_dir:",
            "postgresql.use_unix_socket: on or off is expected, not \"maybe\"",
        ),
        ("data_dir:", "pg_ctl_timeout: soon, data_dir:", "a number of seconds, or a time such as"),
        (
            "data_dir:",
            "authentication: {superuser: {password: [hunter2]}}, data_dir:",
            "password: text is expected",
        ),
    ] {
        let text = SMALL.replacen(old, new, 1);
        assert_ne!(text, SMALL, "{old}");
        let message = refused(&text);
        assert!(message.contains(expected), "{new}: {message}");
        assert!(!message.contains("hunter2"), "{message}");
    }
}

#[test]
fn what_is_no_yaml_says_where_and_shows_no_password() {
    for (text, expected) in [
        ("a: 1\n  b: 2\n", "patroni.yml:2:4: this is not YAML: mapping values are not allowed"),
        ("password: 'hunter2\nb: 2\n", "patroni.yml:1:11: this is not YAML: unclosed quote"),
        ("password: 12\n  hunter2: x\n", "patroni.yml:2:"),
        ("a: {password: hunter2\n", "patroni.yml:1:4: this is not YAML"),
        ("- scope\n", "patroni.yml:1:1: the file holds a list"),
        ("just text", "the file holds a single value"),
        ("a: *nowhere\n", "unknown anchor"),
        ("a: 1\n---\nb: 2\n", "multiple YAML documents"),
        ("", "patroni.yml: postgresql.data_dir is needed"),
    ] {
        let message = refused(text);
        assert!(message.contains(expected), "{text:?}: {message}");
        assert!(!message.contains("hunter2"), "{message}");
    }
}

#[test]
fn keys_that_nobody_knows_are_named() {
    let text = SMALL.replacen("restapi: {", "restapi: {lisen: x, ", 1);
    let (_, warnings) = read(&format!("{text}scope: other\nwhatever: {{a: 1}}\nloop_wait: 10\n"));
    assert_eq!(
        warnings.lines().collect::<Vec<_>>(),
        [
            "patroni.yml:1: scope is ignored: it is there again, and the last one counts",
            "patroni.yml:4: restapi.lisen is unknown and ignored; did you mean restapi.listen?",
            "patroni.yml:7: whatever is unknown and ignored",
            "patroni.yml:8: loop_wait is ignored: it belongs to the dynamic configuration: bootstrap.dcs for a \
             new cluster, edit-config later",
        ]
    );
}

#[test]
fn anchors_and_merge_keys_are_followed() {
    let text = SMALL.replacen("name: pg1", "name: pg1\nx: &role {username: u, password: hunter2}", 1);
    let text = text.replacen(
        "data_dir:",
        "authentication: {superuser: {<<: *role, username: v}, replication: *role}, data_dir:",
        1,
    );
    let (c, _) = read(&text);
    assert_eq!(c.postgresql.superuser.username, "v");
    assert_eq!(c.postgresql.superuser.password, c.postgresql.replication.password);
}

#[test]
fn variables_beat_the_file_and_are_named_in_errors() {
    let variables = [
        ("PATRONI_SCOPE", "other"),
        ("PATRONI_NAME", "pg9"),
        ("PATRONI_ETCD3_HOSTS", "a:2379,'b:2379'"),
        ("PATRONI_ETCD3_PROTOCOL", "https"),
        ("PATRONI_RESTAPI_LISTEN", "127.0.0.1:9009"),
        ("PATRONI_RESTAPI_USERNAME", "admin"),
        ("PATRONI_RESTAPI_PASSWORD", "hunter2"),
        ("PATRONI_RESTAPI_ALLOWLIST", "10.0.0.1, mon"),
        ("PATRONI_RESTAPI_HTTP_EXTRA_HEADERS", "X-A: b"),
        ("PATRONI_SUPERUSER_USERNAME", "boss"),
        ("PATRONI_SUPERUSER_PASSWORD", "hunter2"),
        ("PATRONI_SUPERUSER_SSLMODE", "require"),
        ("PATRONI_REPLICATION_PASSWORD", "hunter2"),
        ("PATRONI_REWIND_USERNAME", "rw"),
        ("PATRONI_POSTGRESQL_CONNECT_ADDRESS", "pg9:5432"),
        ("PATRONI_POSTGRESQL_BIN_PG_CTL", "pg_ctl-15"),
        ("PATRONI_LOGLEVEL", "ERROR"),
        ("PATRONI_LOG_LEVEL", "DEBUG"),
        ("PATRONI_LOG_FORMAT", "%(message)s"),
        ("PATRONI_LOG_LOGGERS", "pgvane_agent: INFO"),
        ("PATRONI_CTL_INSECURE", "on"),
        ("PATRONI_ZOOKEEPER_HOSTS", "a"),
        ("PATRONI_EMPTY", ""),
    ];
    let (c, warnings) = read_with(SMALL, &variables).expect("valid");
    assert_eq!((c.scope.as_str(), c.name.as_str()), ("other", "pg9"));
    assert_eq!(c.etcd.endpoints, ["https://a:2379", "https://b:2379"]);
    assert_eq!(c.restapi.listen.port(), 9009);
    assert_eq!(c.restapi.access.allowlist, ["10.0.0.1", "mon"]);
    assert_eq!(c.restapi.http_extra_headers, [("X-A".to_owned(), "b".to_owned())]);
    assert_eq!(c.postgresql.superuser.connection["sslmode"], "require");
    assert_eq!(c.postgresql.rewind.username, "rw");
    assert_eq!(c.conn_url(), "postgres://pg9:5432/postgres");
    assert_eq!(c.log.level, "debug,pgvane_agent=info");
    let message = Piece::Field { field: LogField::Message, width: 0, left: false };
    assert_eq!(c.log.line, Line::Plain(vec![message]));
    assert!(c.ctl.insecure);
    assert_eq!(warnings, "PATRONI_ZOOKEEPER_HOSTS: it is unknown and ignored");
    assert!(!format!("{c:?}").contains("hunter2"));

    for (name, value, expected) in [
        ("PATRONI_RESTAPI_LISTEN", "x", "PATRONI_RESTAPI_LISTEN: restapi.listen: \"x\" is not ADDRESS:PORT"),
        ("PATRONI_CTL_INSECURE", "x", "PATRONI_CTL_INSECURE: ctl.insecure: on or off is expected"),
        ("PATRONI_ETCD3_HOSTS", "[a", "PATRONI_ETCD3_HOSTS: this is not YAML"),
        ("PATRONI_LOG_LEVEL", "a=b=c", "PATRONI_LOG_LEVEL: log.level"),
    ] {
        let message = read_with(SMALL, &[(name, value)]).expect_err(name);
        assert!(message.starts_with(expected), "{message}");
    }
}

#[test]
fn several_files_are_merged_in_their_order() {
    let dir = tempfile::tempdir().expect("a directory");
    let write = |name: &str, text: &str| std::fs::write(dir.path().join(name), text).expect("writes");
    write("10-base.yml", &format!("{SMALL}tags: {{nosync: true, dc: a}}\nlog: {{level: DEBUG}}\n"));
    write("20-more.yaml", "tags: {nosync: null, dc: b}\nlog:\n");
    write("30-nothing.yml", "# nothing\n");
    write("ignored.txt", "scope: [");
    let origin = crate::config::Origin::of(Some(dir.path()));
    let loaded = crate::config::read(&origin, &environment(&[("PATRONI_SCOPE", "env")])).expect("valid");
    assert_eq!(json!(loaded.config.tags.0), json!({"dc": "b"}));
    assert_eq!((loaded.config.log.level.as_str(), loaded.config.scope.as_str()), ("info", "env"));
    write("40-wrong.yml", "watchdog: {mode: sometimes}\n");
    let message = crate::config::read(&origin, &environment(&[])).expect_err("refused").to_string();
    assert!(message.contains("40-wrong.yml:1:18: watchdog.mode: \"sometimes\" is not one of"), "{message}");
}

#[test]
fn the_environment_alone_is_enough() {
    let document = [("PATRONI_CONFIGURATION", SMALL), ("PATRONI_NAME", "pg2")];
    let origin = crate::config::Origin::of(None);
    let loaded = crate::config::read(&origin, &environment(&document)).expect("valid");
    assert_eq!((loaded.config.name.as_str(), loaded.warnings.len()), ("pg2", 0));
    let bad = [("PATRONI_CONFIGURATION", "scope: demo\nname: [x]\n")];
    let message = crate::config::read(&origin, &environment(&bad)).expect_err("refused").to_string();
    assert!(message.starts_with("PATRONI_CONFIGURATION:2:7: name: text is expected"), "{message}");
    let single = [
        ("PATRONI_NAME", "pg2"),
        ("PATRONI_SCOPE", "demo"),
        ("PATRONI_ETCD3_HOST", "10.0.0.1"),
        ("PATRONI_RESTAPI_LISTEN", "127.0.0.1:8008"),
        ("PATRONI_POSTGRESQL_LISTEN", "127.0.0.1:5432"),
        ("PATRONI_POSTGRESQL_DATA_DIR", "/nowhere/data"),
    ];
    let loaded = crate::config::read(&origin, &environment(&single)).expect("valid");
    assert_eq!(loaded.config.etcd.endpoints, ["http://10.0.0.1:2379"]);
    let message = crate::config::read(&origin, &environment(&[])).expect_err("refused").to_string();
    assert!(message.contains("there are no settings"), "{message}");
}

proptest! {
    /// Bytes that were lost, doubled or changed make errors, never panics.
    #[test]
    fn damage_never_panics(
        at in 0_usize..SEED.len(),
        length in 0_usize..40,
        put in "[a-z:\\[\\]{}&*!|>'\"%@`#, \n\t0-9-]{0,6}",
    ) {
        let mut bytes = SEED.as_bytes().to_vec();
        let end = (at + length).min(bytes.len());
        bytes.splice(at..end, put.into_bytes());
        let text = String::from_utf8_lossy(&bytes);
        let read = parse_yaml(&text, "patroni.yml", Path::new("/etc"), &Environment::default());
        if let Err(error) = read {
            prop_assert!(error.to_string().starts_with("patroni.yml"), "{}", error);
        }
    }

    #[test]
    fn no_text_panics(text in "[a-z\\[\\]:\"'{},.0-9&*|>#\n\tü -]{0,80}") {
        let _ = parse_yaml(&text, "f", Path::new("/"), &Environment::default()).map_err(|e| e.to_string());
    }
}
