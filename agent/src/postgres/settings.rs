//! PostgreSQL's configuration files: rendered purely, written atomically, Patroni's names kept so that a node
//! can go back to it.

use std::collections::BTreeMap;
use std::fs::{self, File};
use std::io::{self, Write};
use std::os::unix::fs::OpenOptionsExt;
use std::path::Path;

use pgvane_cluster::settings::PostgresqlSettings;

use super::{Instance, PostgresError};
use crate::config::HostPort;

/// Settings that only the dynamic configuration may change; they go on the command line, where ALTER SYSTEM
/// cannot override them (contract section 4): name, default, and the least number where there is one.
const CONTROLLED: [(&str, &str, Option<u64>); 9] = [
    ("max_connections", "100", Some(25)),
    ("max_locks_per_transaction", "64", Some(32)),
    ("max_worker_processes", "8", Some(2)),
    ("max_prepared_transactions", "0", Some(0)),
    ("wal_level", "replica", None),
    ("track_commit_timestamp", "off", None),
    ("max_wal_senders", "10", Some(3)),
    ("max_replication_slots", "10", Some(4)),
    ("wal_log_hints", "on", None),
];

/// Settings that are ours alone.
const OURS: [&str; 4] = ["listen_addresses", "port", "cluster_name", "hot_standby"];

/// Settings of a standby that recovery reads; never taken from parameters.
const RECOVERY: [&str; 3] = ["primary_conninfo", "primary_slot_name", "recovery_target_timeline"];

/// Whom a standby follows.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Following {
    /// The upstream; `None` follows nobody.
    pub upstream: Option<HostPort>,
    /// The slot on the upstream, where slots are used.
    pub slot: Option<String>,
}

/// What the settings that only the dynamic configuration may change are to be.
pub fn controlled(dynamic: &PostgresqlSettings) -> BTreeMap<&'static str, String> {
    let value = |(name, default, least): (&'static str, &str, Option<u64>)| {
        let wanted = dynamic.parameters.get(name).filter(|v| is_allowed(name, v, least));
        (name, wanted.cloned().unwrap_or_else(|| default.to_owned()))
    };
    CONTROLLED.map(value).into()
}

/// `-c name=value` for the server's command line. `floors`: what a standby must not have lower.
pub fn arguments(
    instance: &Instance,
    dynamic: &PostgresqlSettings,
    floors: &[(&'static str, u64)],
) -> Vec<String> {
    let mut values: BTreeMap<&str, String> = BTreeMap::new();
    for (name, mut value) in controlled(dynamic) {
        let floor = floors.iter().find(|(n, _)| *n == name).map(|(_, floor)| *floor);
        if let (Some(floor), Ok(number)) = (floor, value.parse::<u64>()) {
            value = number.max(floor).to_string();
        }
        values.insert(name, value);
    }
    values.insert("listen_addresses", instance.listen_addresses.clone());
    values.insert("port", instance.port.to_string());
    values.insert("cluster_name", instance.scope.clone());
    values.insert("hot_standby", "on".to_owned());
    values.into_iter().flat_map(|(name, value)| ["-c".to_owned(), format!("{name}={value}")]).collect()
}

fn is_allowed(name: &str, value: &str, least: Option<u64>) -> bool {
    match (name, least) {
        (_, Some(least)) => value.trim().parse::<u64>().is_ok_and(|n| n >= least),
        ("wal_level", None) => ["hot_standby", "replica", "logical"].contains(&value),
        (_, None) => pgvane_cluster::units::parse_bool(value).is_some(),
    }
}

/// The parameters that an operator set and that are neither ours nor recovery's; local ones win.
pub fn ordinary(instance: &Instance, dynamic: &PostgresqlSettings) -> BTreeMap<String, String> {
    let all = dynamic.parameters.iter().chain(&instance.parameters);
    let elsewhere = |name: &str| {
        OURS.contains(&name)
            || RECOVERY.contains(&name)
            || name.starts_with("recovery_target")
            || CONTROLLED.iter().any(|(controlled, ..)| *controlled == name)
    };
    all.filter(|(name, _)| !elsewhere(name)).map(|(name, value)| (name.clone(), value.clone())).collect()
}

/// The generated postgresql.conf: the base file, then our parameters and `ordinary` ones, then recovery
/// settings.
pub fn postgresql_conf(
    instance: &Instance,
    ordinary: &BTreeMap<String, String>,
    following: Option<&Following>,
) -> String {
    let mut text = String::from(
        "# Written by the agent; what is changed here is lost. Change the dynamic configuration instead\n\
         # (pgvanectl edit-config), or postgresql.base.conf for settings of this node alone.\n\
         include 'postgresql.base.conf'\n\n",
    );
    let mut parameters = BTreeMap::from([
        ("wal_keep_size".to_owned(), "128MB".to_owned()),
        // A standby that lost its upstream looks for the new one at once.
        ("wal_retrieve_retry_interval".to_owned(), "500ms".to_owned()),
    ]);
    if let Some(dir) = &instance.socket_dir {
        parameters.insert("unix_socket_directories".to_owned(), dir.display().to_string());
    }
    parameters.extend(ordinary.clone());
    for (name, value) in &parameters {
        text.push_str(&format!("{name} = {}\n", quote(value)));
    }
    if let Some(following) = following {
        text.push_str("\nrecovery_target_timeline = 'latest'\n");
        if let Some(upstream) = &following.upstream {
            text.push_str(&format!("primary_conninfo = {}\n", quote(&conninfo(instance, upstream))));
        }
        if let Some(slot) = &following.slot {
            text.push_str(&format!("primary_slot_name = {}\n", quote(slot)));
        }
    }
    text
}

/// The connection string of a standby; its password stands in the password file.
pub fn conninfo(instance: &Instance, upstream: &HostPort) -> String {
    [
        ("user", instance.replication.username.as_str()),
        ("passfile", &instance.pgpass.display().to_string()),
        ("host", &upstream.host),
        ("port", &upstream.port.to_string()),
        ("sslmode", "prefer"),
        ("application_name", instance.member.as_str()),
        // A dead upstream is noticed without waiting for the kernel's two hours.
        ("keepalives_idle", "5"),
        ("keepalives_interval", "2"),
        ("keepalives_count", "3"),
    ]
    .iter()
    .map(|(key, value)| format!("{key}={}", quote_conninfo(value)))
    .collect::<Vec<_>>()
    .join(" ")
}

fn quote_conninfo(value: &str) -> String {
    format!("'{}'", value.replace('\\', "\\\\").replace('\'', "\\'"))
}

/// A value as postgresql.conf wants it.
pub(super) fn quote(value: &str) -> String {
    format!("'{}'", value.replace('\\', "\\\\").replace('\'', "''"))
}

/// The password file: one line a role that has a password.
pub fn pgpass(instance: &Instance) -> String {
    let escape = |text: &str| text.replace('\\', "\\\\").replace(':', "\\:");
    let mut lines = Vec::new();
    for role in [&instance.replication, &instance.rewind, &instance.superuser] {
        if let Some(password) = &role.password {
            let line = format!("*:*:*:{}:{}\n", escape(&role.username), escape(password.expose()));
            if !lines.contains(&line) {
                lines.push(line);
            }
        }
    }
    lines.concat()
}

/// Writes the configuration files; answers whether anything changed. `following`: `None` for a primary.
pub fn write(
    instance: &Instance,
    dynamic: &PostgresqlSettings,
    following: Option<&Following>,
) -> Result<bool, PostgresError> {
    let dir = &instance.data_dir;
    let base = dir.join("postgresql.base.conf");
    let conf = dir.join("postgresql.conf");
    if !base.exists() {
        fs::copy(&conf, &base).map_err(PostgresError::io(format!("{}", base.display())))?;
    }
    let accepted = instance.vetted.accepted(instance, &ordinary(instance, dynamic));
    let mut changed = replace(&conf, &postgresql_conf(instance, &accepted, following), 0o600)?;
    let hba = dynamic.pg_hba.as_ref().filter(|_| instance.pg_hba.is_empty()).unwrap_or(&instance.pg_hba);
    if !hba.is_empty() {
        changed |= replace(&dir.join("pg_hba.conf"), &format!("{}\n", hba.join("\n")), 0o600)?;
    }
    write_pgpass(instance)?;
    let signal = dir.join("standby.signal");
    match following {
        Some(_) if !signal.exists() => {
            replace(&signal, "", 0o600)?;
            changed = true;
        }
        None if signal.exists() => {
            fs::remove_file(&signal).map_err(PostgresError::io(format!("{}", signal.display())))?;
            changed = true;
        }
        Some(_) | None => {}
    }
    Ok(changed)
}

/// Writes the password file alone, for tools that run before there is a data directory.
pub fn write_pgpass(instance: &Instance) -> Result<(), PostgresError> {
    replace(&instance.pgpass, &pgpass(instance), 0o600).map(drop)
}

/// Replaces a file in one step, durably; answers whether it was different.
pub(crate) fn replace(path: &Path, text: &str, mode: u32) -> Result<bool, PostgresError> {
    if fs::read_to_string(path).is_ok_and(|old| old == text) && path.exists() {
        return Ok(false);
    }
    let attempt = || -> io::Result<()> {
        let mut name = path.as_os_str().to_owned();
        name.push(".new");
        let fresh = Path::new(&name);
        let mut file = File::options().create(true).truncate(true).write(true).mode(mode).open(fresh)?;
        file.write_all(text.as_bytes())?;
        file.sync_all()?;
        fs::rename(fresh, path)?;
        File::open(path.parent().unwrap_or(Path::new(".")))?.sync_all()
    };
    attempt().map_err(PostgresError::io(format!("{}", path.display())))?;
    Ok(true)
}

#[cfg(test)]
pub(super) mod tests {
    use super::*;
    use crate::config::{Role, Secret};

    pub(in crate::postgres) fn instance(dir: &Path) -> Instance {
        let role = |name: &str, password: Option<&str>| Role {
            username: name.to_owned(),
            password: password.map(Secret::new),
            connection: BTreeMap::new(),
        };
        Instance {
            member: "pg-1".into(),
            scope: "demo".to_owned(),
            data_dir: dir.join("data"),
            bin_dir: "/usr/lib/postgresql/15/bin".into(),
            listen_addresses: "127.0.0.1".to_owned(),
            port: 5433,
            connect_address: HostPort { host: "127.0.0.1".to_owned(), port: 5433 },
            database: "postgres".to_owned(),
            superuser: role("postgres", None),
            replication: role("rep", Some("p:w'd\\")),
            rewind: role("rewind", None),
            pgpass: dir.join("pgpass"),
            socket_dir: Some(dir.to_owned()),
            parameters: BTreeMap::new(),
            pg_hba: vec![],
            vetted: super::super::vetted::Vetted::default(),
            initdb: vec![],
            users: vec![],
            post_bootstrap: None,
        }
    }

    fn dynamic(parameters: &[(&str, &str)]) -> PostgresqlSettings {
        let mut settings = pgvane_cluster::settings::ClusterSettings::default().postgresql;
        let own = |(k, v): &(&str, &str)| ((*k).to_owned(), (*v).to_owned());
        settings.parameters = parameters.iter().map(own).collect();
        settings
    }

    #[test]
    fn controlled_settings_go_to_the_command_line_within_their_bounds() {
        let i = instance(Path::new("/x"));
        let d = dynamic(&[("max_connections", "10"), ("max_wal_senders", "20"), ("wal_level", "minimal")]);
        let args = arguments(&i, &d, &[("max_worker_processes", 16)]).join(" ");
        for expected in
            ["max_connections=100", "max_wal_senders=20", "wal_level=replica", "max_worker_processes=16"]
        {
            assert!(args.contains(expected), "{expected} in {args}");
        }
        assert!(!postgresql_conf(&i, &ordinary(&i, &d), None).contains("max_wal_senders"));
    }

    #[test]
    fn values_are_quoted_and_recovery_is_ours() {
        let i = instance(Path::new("/x"));
        let d = dynamic(&[("log_line_prefix", "it's %m"), ("primary_conninfo", "host=evil")]);
        let following = Following {
            upstream: Some(HostPort { host: "::1".to_owned(), port: 5434 }),
            slot: Some("pg_1".to_owned()),
        };
        let conf = postgresql_conf(&i, &ordinary(&i, &d), Some(&following));
        assert!(conf.contains("log_line_prefix = 'it''s %m'"), "{conf}");
        assert!(!conf.contains("evil"), "{conf}");
        assert!(conf.contains("host=''::1''") && conf.contains("application_name=''pg-1''"), "{conf}");
        assert!(conf.contains("primary_slot_name = 'pg_1'"), "{conf}");
    }

    #[test]
    fn passwords_stand_in_the_password_file_only() {
        let i = instance(Path::new("/x"));
        assert_eq!(pgpass(&i), "*:*:*:rep:p\\:w'd\\\\\n");
        assert!(!conninfo(&i, &i.connect_address).contains("p:w"));
        assert!(!format!("{i:?}").contains("p:w"));
    }

    #[test]
    fn writing_twice_changes_nothing_and_a_primary_has_no_signal() {
        let dir = tempfile::tempdir().expect("a temporary directory");
        let i = instance(dir.path());
        fs::create_dir(&i.data_dir).expect("creates");
        fs::write(i.data_dir.join("postgresql.conf"), "# initdb's\n").expect("writes");
        let nobody = Following { upstream: None, slot: None };
        assert!(write(&i, &dynamic(&[]), Some(&nobody)).expect("writes"));
        assert!(!write(&i, &dynamic(&[]), Some(&nobody)).expect("writes"));
        assert!(i.data_dir.join("standby.signal").exists());
        assert!(write(&i, &dynamic(&[]), None).expect("writes"));
        assert!(!i.data_dir.join("standby.signal").exists());
        let base = fs::read_to_string(i.data_dir.join("postgresql.base.conf")).expect("reads");
        assert_eq!(base, "# initdb's\n");
    }
}
