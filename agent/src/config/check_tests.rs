//! Files that work, files that do not, and what is said of them.

use super::*;

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

fn read(text: &str) -> Result<Config, String> {
    parse(text, "agent.toml", Path::new("/etc/pgvane")).map_err(|e| e.to_string())
}

/// `SMALL` with `line` added to `section`, which must exist.
fn with(section: &str, line: &str) -> String {
    SMALL.replacen(section, &format!("{section}\n{line}"), 1)
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
    ];
    for (section, line, expected) in refused {
        let message = read(&with(section, line)).expect_err(line);
        assert!(message.contains(expected), "{line}: {message}");
        assert!(message.starts_with("agent.toml:"), "{line}: {message}");
    }
    let appended = [
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
fn addresses_that_others_cannot_reach_are_not_published() {
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
    assert_eq!(find_bin_dir(&data, root.path()), Some(root.path().join("15/bin")));
    std::fs::create_dir(&data).expect("creates");
    std::fs::write(data.join("PG_VERSION"), "14\n").expect("writes");
    assert_eq!(find_bin_dir(&data, root.path()), Some(root.path().join("14/bin")));
}

#[test]
fn readable_passwords_are_warned_about() {
    let config = read(SMALL).expect("valid");
    assert_eq!(permission_warning(&config, 0o100_600), None);
    let warning = permission_warning(&config, 0o100_644).expect("a warning");
    assert_eq!(warning, "holds passwords and its mode is 0644; chmod 600 keeps others out");
}
