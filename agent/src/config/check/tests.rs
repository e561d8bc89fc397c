//! Files that work, files that do not, and what is said of them.

use std::path::Path;

use pgvane_cluster::settings::ClusterSettings;

use super::postgresql::find_bin_dir;
use super::*;
use crate::config::{BootstrapMethod, Line, LogFormat, VerifyClient, WatchdogMode, parse};
use crate::timing::Timing;

const SMALL: &str = r#"
name = "pg1"
scope = "demo"
[etcd]
endpoints = ["127.0.0.1:2379", "https://etcd2:2379/"]
[restapi]
connect_address = "10.0.0.1:8008"
[postgresql]
data_dir = "data"
connect_address = "10.0.0.1"
superuser.password = "s"
replication.password = "r"
"#;

/// What `SMALL` does not say, in native words.
const EVERYTHING: &str = r#"
name = "pg1"
scope = "demo"
etcd.endpoints = ["127.0.0.1:2379"]

[restapi]
connect_address = "10.0.0.1:8008"
username = "admin"
password = "p"
certfile = "cert.pem"
cafile = "ca.pem"
keyfile_password = "k"
verify_client = "Optional"
allowlist = ["10.0.0.0/8", "mon", "::1"]
allowlist_include_members = true
server_tokens = "minimal"
http_extra_headers.X-A = "b"

[ctl]
insecure = true

[postgresql]
data_dir = "data"
connect_address = "10.0.0.1"
proxy_address = "10.0.0.1:6432"
superuser.password = "s"
replication.password = "r"
rewind = { username = "rw", sslmode = "require", sslpassword = "hunter2" }
config_base_name = "pg"
basebackup = ["max-rate=1M", "--verbose"]
pre_promote = "/bin/fence 'a b'"
pg_ctl_timeout = "2min"
use_pg_rewind = true
callbacks.on_start = "/bin/cb"
recovery_conf.restore_command = "cp"

[[postgresql.replica_methods]]
name = "pgbackrest"
command = "pgbackrest restore"
keep_data = true
parameters.stanza = "main"

[[postgresql.replica_methods]]
name = "basebackup"

[watchdog]
mode = "required"
safety_margin = -1
driver = "testing"

[bootstrap.method]
name = "restore"
command = "/bin/restore"
recovery_conf.recovery_target_time = "x"
parameters.deep = true

[log]
format = "patroni"
level = "WARNING"
line_format = "%(levelname)-8s %(message)s"
"#;

fn read(text: &str) -> Result<Config, String> {
    parse(text, "agent.toml", Path::new("/etc/pgvane")).map_err(|e| e.to_string())
}

/// `SMALL` with `line` added to `section`, which must exist.
fn with(section: &str, line: &str) -> String {
    SMALL.replacen(section, &format!("{section}\n{line}"), 1)
}

#[test]
fn what_others_connect_to_is_listened_on() {
    let moved = SMALL.replace("10.0.0.1:8008", "10.0.0.1:9008");
    let moved = moved.replace("connect_address = \"10.0.0.1\"", "connect_address = \"10.0.0.1:6432\"");
    let c = read(&moved).expect("valid");
    assert_eq!(c.restapi.listen.to_string(), "0.0.0.0:9008");
    assert_eq!((c.postgresql.listen_addresses.as_str(), c.postgresql.port), ("*", 6432));
    let c = read(&moved.replacen("connect_address", "listen = \"127.0.0.1:8008\"\nconnect_address", 1));
    assert_eq!(c.expect("valid").restapi.listen.to_string(), "127.0.0.1:8008", "a port that is mapped");
    let c = read(SMALL).expect("valid");
    assert_eq!((c.restapi.listen.port(), c.postgresql.port), (8008, 5432));
}

#[test]
fn a_small_file_is_enough() {
    let c = read(SMALL).expect("valid");
    assert_eq!(c.namespace, "service");
    assert_eq!(c.keyspace().prefix(), "/service/demo/");
    assert_eq!(c.etcd.endpoints, ["http://127.0.0.1:2379", "https://etcd2:2379"]);
    assert_eq!(c.postgresql.data_dir, Path::new("/etc/pgvane/data"));
    assert_eq!(c.guard.socket, Path::new("/etc/pgvane/data.guard.sock"));
    assert_eq!(c.api_url(), "http://10.0.0.1:8008/patroni");
    assert_eq!(c.conn_url(), "postgres://10.0.0.1:5432/postgres");
    assert_eq!(c.postgresql.superuser.username, "postgres");
    assert_eq!(c.postgresql.rewind, c.postgresql.superuser);
    assert_eq!(c.bootstrap.dcs["ttl"], 10);
    assert_eq!(c.bootstrap.dcs["failsafe_mode"], true);
    assert!(!format!("{c:?}").contains("\"s\""), "a password is shown");
}

#[test]
fn errors_point_at_the_line() {
    let text = with("[restapi]", "listen = \"everywhere\"");
    assert_eq!(
        read(&text).expect_err("must be refused"),
        "agent.toml:7:10: restapi.listen: \"everywhere\" is not ADDRESS:PORT such as \"0.0.0.0:8008\"\n  |\n\
         7 | listen = \"everywhere\"\n  |          ^^^^^^^^^^^^"
    );
}

#[test]
fn what_cannot_work_is_refused_by_key() {
    let refused = [
        ("name = \"pg1\"", "nmae = 1", "nmae"),
        ("[etcd]", "cert = \"c.pem\"", "etcd.cert needs etcd.key"),
        ("[etcd]", "cacert = \"absent.pem\"", "etcd.cacert: /etc/pgvane/absent.pem: No such file"),
        ("[etcd]", "username = \"root\"", "etcd.username needs etcd.password"),
        ("[restapi]", "password = \"x\"", "restapi.password needs restapi.username"),
        ("[postgresql]", "listen = \"*\"", "postgresql.listen"),
        ("[postgresql]", "parameters.max_connections = 5", "must be the same on all members"),
        ("[postgresql]", "parameters.work_mem = [1]", "postgresql.parameters.work_mem"),
        ("[postgresql]", "pg_hba = []", "without a line nobody could connect"),
        ("[postgresql]", "bin_dir = \"/nowhere\"", "there is no postgres in /nowhere"),
        ("[postgresql]", "basebackup = [\"pgdata=/x\"]", "postgresql.basebackup: \"pgdata=/x\" is set by"),
        (
            "[postgresql]",
            "superuser.sslmode = \"maybe\"",
            "postgresql.superuser.sslmode: \"maybe\" is not one of",
        ),
        ("[postgresql]", "config_base_name = \"a/b\"", "a file's name without directory"),
        ("[postgresql]", "parameters.\"a b\" = 1", "a parameter's name has letters"),
        ("[restapi]", "allowlist = [\"10.0.0.0/33\"]", "restapi.allowlist: \"10.0.0.0/33\" is not"),
        ("[restapi]", "verify_client = \"required\"", "restapi.verify_client needs restapi.certfile"),
        ("[restapi]", "server_tokens = \"x\"", "not one of original, productonly, minimal"),
        ("[restapi]", "http_extra_headers.\"a b\" = \"x\"", "is not an HTTP header"),
    ];
    for (section, line, expected) in refused {
        let message = read(&with(section, line)).expect_err(line);
        assert!(message.contains(expected), "{line}: {message}");
        assert!(message.starts_with("agent.toml:"), "{line}: {message}");
        assert!(!message.contains("hunter2"), "{message}");
    }
    let appended = [
        ("[postgresql.callbacks]\non_start = \"'\"", "postgresql.callbacks.on_start: \"'\" is not a command"),
        ("[postgresql.callbacks]\non_strat = \"x\"", "did you mean `on_start`?"),
        ("[postgresql.bin_names]\npsql = \"x\"", "postgresql.bin_names.psql: there is no such program"),
        ("[postgresql.recovery_conf]\nprimary_conninfo = \"x\"", "the agent gives it itself"),
        ("[[postgresql.replica_methods]]\nname = \"basebackup\"\ncommand = \"x\"", "basebackup is built in"),
        ("[bootstrap.method]\nname = \"restore\"", "the key `command` is missing in [bootstrap.method]"),
        ("[ctl]\nkeyfile = \"k.pem\"", "ctl.keyfile needs ctl.certfile"),
        (
            "[watchdog]\nmode = \"sometimes\"",
            "watchdog.mode: \"sometimes\" is not one of off, automatic, required",
        ),
        ("[watchdog]\nsafety_margin = -2", "watchdog.safety_margin: -2 is neither"),
        ("[log]\ndir = \"/nowhere\"", "log.dir: /nowhere is not a directory"),
        ("[log]\nline_format = \"100%\"", "log.line_format: \"100%\" has a %"),
        ("[log]\nline_format = \"%(threadName)s\"", "%(threadName)s is not known"),
        ("[log]\ndate_format = \"%!\"", "is not a format of strftime"),
        ("[log]\nstatic_fields.a = 1", "only lines of JSON have such fields"),
        ("[tags]\nnofailover = \"maybe\"", "tags.nofailover: true or false is expected"),
        ("[tags]\nfailover_priority = 1.5", "a whole number is expected"),
        ("[timing]\nguard_budget = \"soon\"", "a duration such as"),
        ("[timing]\nrenew_interval = 9223372036854775807", "up to \"36525d\""),
        ("[timing]\nstop_budget = 0", "at least 10ms"),
        ("[timing]\nstop_budget = \"9s\"", "ttl 10s is too short"),
        ("[timing]\nclock_drift_ppm = 900000", "at most 500000"),
        ("[log]\nformat = \"xml\"", "not one of text, json"),
        ("[log]\nlevel = \"a=b=c\"", "log.level"),
        ("[bootstrap]\npreset = \"turbo\"", "not one of fast, normal, safe, wide"),
        ("[bootstrap]\ndcs.ttl = 1", "bootstrap.dcs.ttl"),
        ("[bootstrap]\ninitdb = [\"pgdata=/x\"]", "set by the agent itself"),
        ("[bootstrap.users.app]\noptions = [\"root\"]", "not one of SUPERUSER"),
        ("[guard]\nsocket = \"/LONG\"", "a Unix socket path has at most 107"),
    ];
    for (text, expected) in appended {
        let text = text.replace("LONG", &"x".repeat(120));
        let message = read(&format!("{SMALL}{text}")).expect_err(&text);
        assert!(message.contains(expected), "{text}: {message}");
    }
}

#[test]
fn every_setting_has_a_native_form() {
    let dir = tempfile::tempdir().expect("a directory");
    for file in ["cert.pem", "ca.pem"] {
        std::fs::write(dir.path().join(file), "").expect("writes");
    }
    let c = parse(EVERYTHING, "agent.toml", dir.path()).unwrap_or_else(|e| panic!("{e}"));
    let tls = c.restapi.tls.as_ref().expect("TLS");
    assert_eq!((tls.verify_client, &tls.keyfile), (VerifyClient::Optional, &dir.path().join("cert.pem")));
    assert_eq!((c.restapi.access.allowlist.len(), c.restapi.access.include_members), (3, true));
    assert_eq!(c.api_url(), "https://10.0.0.1:8008/patroni");
    // The tools fall back to what the API expects.
    assert_eq!(c.ctl.login, c.restapi.login);
    assert_eq!(c.ctl.cafile, tls.cafile);
    assert!(c.ctl.insecure);
    let pg = &c.postgresql;
    assert_eq!(pg.proxy_address.as_ref().map(|a| a.port), Some(6432));
    assert_eq!((pg.rewind.username.as_str(), pg.rewind.connection["sslmode"].as_str()), ("rw", "require"));
    assert_eq!(pg.basebackup, ["--max-rate=1M", "--verbose"]);
    assert_eq!(
        pg.pre_promote.as_ref().map(|s| s.words.clone()),
        Some(vec!["/bin/fence".into(), "a b".into()])
    );
    assert_eq!(pg.pg_ctl_timeout, std::time::Duration::from_mins(2));
    let names: Vec<_> = pg.replica_methods.iter().map(|m| (m.name.as_str(), m.keep_data)).collect();
    assert_eq!(names, [("pgbackrest", true), ("basebackup", false)]);
    assert_eq!(pg.replica_methods[0].parameters, [("stanza".to_owned(), "main".to_owned())]);
    assert_eq!((c.watchdog.mode, c.watchdog.safety_margin), (WatchdogMode::Required, None));
    assert!(matches!(&c.bootstrap.method, BootstrapMethod::Custom { name, .. } if name == "restore"));
    assert_eq!((c.log.format, c.log.level.as_str()), (LogFormat::Patroni, "warn"));
    assert!(matches!(&c.log.line, Line::Plain(pieces) if pieces.len() == 3));
    assert!(!format!("{c:?}").contains("hunter2"));
}

#[test]
fn addresses_that_others_cannot_reach_are_not_published() {
    let secret = SMALL.replace("127.0.0.1:2379", "http://root:hunter2@x");
    let message = read(&secret).expect_err("refused");
    assert!(message.contains("etcd.endpoints: \"http://***@x\" is not"), "{message}");
    assert!(!message.contains("hunter2"), "{message}");
    let unreachable = SMALL.replace("connect_address = \"10.0.0.1\"", "connect_address = \"0.0.0.0:5432\"");
    assert!(read(&unreachable).expect_err("refused").contains("that others can reach"));
    let absent = SMALL.replace("connect_address = \"10.0.0.1\"\n", "");
    assert!(read(&absent).expect_err("refused").contains("postgresql.connect_address is needed"));
    let one = SMALL.replace("connect_address = \"10.0.0.1\"", "listen = \"[fd00::1]:5433\"");
    assert_eq!(read(&one).expect("valid").conn_url(), "postgres://[fd00::1]:5433/postgres");
}

#[test]
fn passwords_may_be_left_out_only_with_a_pg_hba_of_ones_own() {
    let without = SMALL.replace("superuser.password = \"s\"\n", "");
    assert!(read(&without).expect_err("refused").contains("superuser.password"));
    let trusting = with("[postgresql]", "pg_hba = [\"local all all trust\"]")
        .replace("superuser.password = \"s\"\n", "");
    assert_eq!(read(&trusting).expect("valid").postgresql.superuser.password, None);
}

#[test]
fn a_preset_is_a_base_that_dcs_changes() {
    let c =
        read(&format!("{SMALL}[bootstrap]\npreset = \"fast\"\ndcs.failsafe_mode = false")).expect("valid");
    assert_eq!(c.bootstrap.dcs["ttl"], 3);
    assert_eq!(c.bootstrap.dcs["failsafe_mode"], false);
}

#[test]
fn every_preset_keeps_its_own_inequality_and_patronis_timing_rule() {
    for (name, preset) in Preset::ALL {
        let (settings, warnings) = ClusterSettings::from_json(&preset.document());
        assert_eq!(warnings, vec![], "{name}");
        Timing::derive(settings.ttl, &TimingOverrides::default()).expect(name);
        assert!(settings.loop_wait + 2 * settings.retry_timeout <= settings.ttl, "{name}");
    }
}

#[test]
fn the_server_programs_follow_the_version_of_the_data() {
    let root = tempfile::tempdir().expect("a directory");
    for version in ["9", "14", "15"] {
        let bin = root.path().join(version).join("bin");
        std::fs::create_dir_all(&bin).expect("creates");
        std::fs::write(bin.join("postgres"), "").expect("writes");
    }
    let data = root.path().join("data");
    assert_eq!(find_bin_dir(&data, root.path(), "postgres"), Some(root.path().join("15/bin")));
    std::fs::create_dir(&data).expect("creates");
    std::fs::write(data.join("PG_VERSION"), "14\n").expect("writes");
    assert_eq!(find_bin_dir(&data, root.path(), "postgres"), Some(root.path().join("14/bin")));
}
