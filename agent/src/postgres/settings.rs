//! PostgreSQL's configuration files: rendered purely, written atomically, Patroni's names kept so that a node
//! can go back to it.

use std::collections::BTreeMap;
use std::fs::{self, File};
use std::io::{self, Write};
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};

use pgvane_cluster::settings::{PostgresqlSettings, StandbyCluster, is_own_recovery_parameter};

use super::files::{self, Files};
use super::{Instance, PostgresError, patience, standby_names};
use crate::config::{HostPort, Role};

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

/// Targets of recovery: a standby has none, whatever the operator's base file says.
const TARGETS: [&str; 5] = [
    "recovery_target",
    "recovery_target_lsn",
    "recovery_target_name",
    "recovery_target_time",
    "recovery_target_xid",
];

/// Whom a standby follows.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct Following {
    /// The upstream; `None` follows nobody.
    pub upstream: Option<HostPort>,
    /// The slot on the upstream, where slots are used.
    pub slot: Option<String>,
    /// Whether it tells its upstream what its oldest snapshot and its slots need.
    pub feedback: bool,
    /// What the leader of a standby cluster follows, instead of an upstream.
    pub remote: Option<StandbyCluster>,
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
    if !Files::are_in_place(instance) {
        values.insert("config_file", Files::of(instance).conf.display().to_string());
    }
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
            || is_own_recovery_parameter(name)
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
    let base = match &instance.custom_conf {
        Some(file) => file.display().to_string(),
        None => format!("{}.base.conf", instance.config_base_name),
    };
    let mut text = format!(
        "# Written by the agent; what is changed here is lost. Change the dynamic configuration instead\n\
         # (pgvanectl edit-config), or {base} for settings of this node alone.\n\
         include {}\n\n",
        quote(&base)
    );
    let mut parameters = BTreeMap::from([
        ("wal_keep_size".to_owned(), "128MB".to_owned()),
        // A standby that lost its upstream looks for the new one at once.
        ("wal_retrieve_retry_interval".to_owned(), "500ms".to_owned()),
    ]);
    if let Some(dir) = &instance.socket_dir {
        parameters.insert("unix_socket_directories".to_owned(), dir.display().to_string());
    }
    if !Files::are_in_place(instance) {
        let files = Files::of(instance);
        parameters.insert("hba_file".to_owned(), files.hba.display().to_string());
        parameters.insert("ident_file".to_owned(), files.ident.display().to_string());
    }
    parameters.extend(ordinary.clone());
    text.push_str(&lines(&parameters));
    if let Some(following) = following {
        text.push_str("\nrecovery_target_timeline = 'latest'\n");
        for name in TARGETS {
            text.push_str(&format!("{name} = ''\n"));
        }
        let remote = following.remote.as_ref().and_then(|remote| remote_conninfo(instance, remote));
        if let Some(conninfo) = remote.or(following.upstream.as_ref().map(|up| conninfo(instance, up))) {
            text.push_str(&format!("primary_conninfo = {}\n", quote(&conninfo)));
        }
        if following.feedback {
            text.push_str("hot_standby_feedback = 'on'\n");
        }
        let remote_slot = following.remote.as_ref().and_then(|remote| remote.primary_slot_name.as_ref());
        if let Some(slot) = remote_slot.or(following.slot.as_ref()) {
            text.push_str(&format!("primary_slot_name = {}\n", quote(slot)));
        }
    }
    text
}

/// The connection string of a standby; its password stands in the password file.
pub fn conninfo(instance: &Instance, upstream: &HostPort) -> String {
    let mut more = vec![("application_name", instance.member.as_str().to_owned())];
    more.extend(patience::of_standby());
    connection_string(instance, &instance.replication, upstream, &more)
}

/// The connection string of a standby leader; `None` where WAL comes by archive alone.
fn remote_conninfo(instance: &Instance, remote: &StandbyCluster) -> Option<String> {
    let server = remote_address(remote)?;
    let mut more = vec![
        // A member of the remote cluster may have our name, and commits there may wait for it (trap 7).
        ("application_name", format!("{}@{}", instance.member, instance.scope)),
    ];
    more.extend(patience::of_standby());
    if let Some(ports) = remote.port.as_ref().filter(|ports| ports.contains(',')) {
        more.push(("port", ports.clone()));
    }
    if server.host.contains(',') {
        more.push(("target_session_attrs", "read-write".to_owned()));
    }
    Some(connection_string(instance, &instance.replication, &server, &more))
}

/// Where a standby cluster's leader gets its WAL; the port is 0 where there are several.
pub fn remote_address(remote: &StandbyCluster) -> Option<HostPort> {
    if remote.host.is_none() && remote.port.is_none() {
        return None;
    }
    let port = remote.port.as_deref().map_or(5432, |port| port.trim().parse().unwrap_or(0));
    Some(HostPort { host: remote.host.clone().unwrap_or_else(|| "localhost".to_owned()), port })
}

/// Each server of a standby cluster's section by itself.
pub fn remote_servers(remote: &StandbyCluster) -> Vec<HostPort> {
    let hosts: Vec<&str> = remote.host.as_deref().unwrap_or("localhost").split(',').map(str::trim).collect();
    let ports: Vec<&str> = remote.port.as_deref().unwrap_or("5432").split(',').map(str::trim).collect();
    let port = |n: usize| ports.get(n).or(ports.first()).and_then(|port| port.parse().ok());
    let servers = hosts.iter().enumerate().filter_map(|(n, host)| Some(((*host).to_owned(), port(n)?)));
    servers.map(|(host, port)| HostPort { host, port }).collect()
}

/// A connection string of libpq for `role` at `server`, with what the role's settings ask for. The password stands
/// in the password file.
pub fn connection_string(
    instance: &Instance,
    role: &Role,
    server: &HostPort,
    more: &[(&str, String)],
) -> String {
    let mut pairs: Vec<(&str, String)> = vec![
        ("user", role.username.clone()),
        ("passfile", instance.pgpass.display().to_string()),
        ("host", server.host.clone()),
        ("port", server.port.to_string()),
    ];
    if !role.connection.contains_key("sslmode") {
        pairs.push(("sslmode", "prefer".to_owned()));
    }
    if let Some(name) = &instance.krbsrvname {
        pairs.push(("krbsrvname", name.clone()));
    }
    pairs.extend(role.connection.iter().map(|(key, value)| (key.as_str(), value.clone())));
    pairs.extend_from_slice(more);
    let pair = |(key, value): &(&str, String)| format!("{key}={}", quote_conninfo(value));
    pairs.iter().map(pair).collect::<Vec<_>>().join(" ")
}

/// [`connection_string`] for a program's command line, which everybody can read: what is secret in it stands in a
/// service file (`PGSERVICEFILE`).
pub fn tool_connection(instance: &Instance, role: &Role, server: &HostPort, application: &str) -> String {
    let mut shown = role.clone();
    let mut more = vec![("application_name", application.to_owned())];
    more.extend(patience::of_program());
    if shown.connection.remove(SECRET).is_some() {
        more.push(("service", service_name(role)));
    }
    connection_string(instance, &shown, server, &more)
}

/// The parameter of a connection that nobody else may see; the password itself has a file of its own.
const SECRET: &str = "sslpassword";

/// The service file of programs that are run for the agent.
pub fn service_file(instance: &Instance) -> PathBuf {
    super::data_dir::with_suffix(&instance.pgpass, "service")
}

/// Whether any role has something to keep in the service file.
pub fn has_services(instance: &Instance) -> bool {
    roles(instance).iter().any(|role| role.connection.contains_key(SECRET))
}

fn service_name(role: &Role) -> String {
    format!("pgvane_{}", role.username)
}

fn services(instance: &Instance) -> String {
    let secret = |role: &&Role| {
        let value = role.connection.get(SECRET)?;
        Some(format!("[{}]\n{SECRET}={value}\n", service_name(role)))
    };
    roles(instance).iter().filter_map(secret).collect()
}

fn roles(instance: &Instance) -> [&Role; 3] {
    [&instance.replication, &instance.rewind, &instance.superuser]
}

/// Lines of a configuration file.
pub(super) fn lines(parameters: &BTreeMap<String, String>) -> String {
    parameters.iter().map(|(name, value)| format!("{name} = {}\n", quote(value))).collect()
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
    for role in roles(instance) {
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
    let wanted = ordinary(instance, dynamic);
    let mut recovery = following.map(|_| recovery(instance, dynamic)).unwrap_or_default();
    if let Some(remote) = following.and_then(|following| following.remote.as_ref()) {
        let theirs = [
            ("restore_command", &remote.restore_command),
            ("archive_cleanup_command", &remote.archive_cleanup_command),
            ("recovery_min_apply_delay", &remote.recovery_min_apply_delay),
        ];
        let given = theirs.into_iter().filter_map(|(name, value)| Some((name.to_owned(), value.clone()?)));
        recovery.extend(given);
    }
    let all = wanted.iter().chain(&recovery).map(|(name, value)| (name.clone(), value.clone())).collect();
    let writing = instance.standby_names.write(&Files::of(instance).conf);
    let mut accepted = instance.vetted.accepted(instance, &all);
    let recovery = accepted.extract_if(.., |name, _| recovery.contains_key(name)).collect();
    if let Some(names) = writing.held() {
        accepted.insert(standby_names::NAME.to_owned(), names.to_owned());
    }
    let text = postgresql_conf(instance, &accepted, following) + &lines(&recovery);
    let mut changed = write_files(instance, dynamic, &text)?;
    let signal = instance.data_dir.join("standby.signal");
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
    if following.is_some() {
        files::sanitize_auto_conf(instance)?;
    }
    if changed {
        files::save(instance)?;
    }
    Ok(changed)
}

/// Writes the configuration files with `conf` as the generated one; answers whether anything changed.
pub(super) fn write_files(
    instance: &Instance,
    dynamic: &PostgresqlSettings,
    conf: &str,
) -> Result<bool, PostgresError> {
    let files = Files::of(instance);
    files::keep_base(instance)?;
    let mut changed = replace(&files.conf, conf, 0o600)?;
    // Where the server reads another file it is the operator's.
    let is_ours = |parameter: &str| {
        !instance.parameters.contains_key(parameter) && !dynamic.parameters.contains_key(parameter)
    };
    for (file, parameter, local, of_cluster) in [
        (&files.hba, "hba_file", &instance.pg_hba, &dynamic.pg_hba),
        (&files.ident, "ident_file", &instance.pg_ident, &dynamic.pg_ident),
    ] {
        let lines = of_cluster.as_ref().filter(|_| local.is_empty()).unwrap_or(local);
        if !lines.is_empty() && is_ours(parameter) {
            changed |= replace(file, format!("{}\n", lines.join("\n")), 0o600)?;
        }
    }
    write_pgpass(instance)?;
    Ok(changed)
}

/// Whether a standby here can fetch WAL from an archive.
pub fn restores(instance: &Instance, dynamic: &PostgresqlSettings) -> bool {
    let set =
        |all: &BTreeMap<String, String>| all.get("restore_command").is_some_and(|c| !c.trim().is_empty());
    set(&recovery(instance, dynamic)) || set(&ordinary(instance, dynamic))
}

/// The recovery parameters that an operator set and that are not ours; local ones win.
fn recovery(instance: &Instance, dynamic: &PostgresqlSettings) -> BTreeMap<String, String> {
    let all = dynamic.recovery_conf.iter().chain(&instance.recovery_conf);
    // Words of recovery.conf that no server of today knows.
    let gone = |name: &str| ["standby_mode", "trigger_file", "promote_trigger_file"].contains(&name);
    let mine = all.filter(|(name, _)| !is_own_recovery_parameter(name) && !gone(name));
    mine.map(|(name, value)| (name.clone(), value.clone())).collect()
}

/// Writes the password file alone, for tools that run before there is a data directory.
pub fn write_pgpass(instance: &Instance) -> Result<(), PostgresError> {
    replace(&instance.pgpass, pgpass(instance), 0o600)?;
    if has_services(instance) {
        replace(&service_file(instance), services(instance), 0o600)?;
    }
    Ok(())
}

/// Replaces a file in one step, durably; answers whether it was different.
pub(crate) fn replace(path: &Path, text: impl AsRef<[u8]>, mode: u32) -> Result<bool, PostgresError> {
    let text = text.as_ref();
    if fs::read(path).is_ok_and(|old| old == text) {
        return Ok(false);
    }
    let attempt = || -> io::Result<()> {
        let mut name = path.as_os_str().to_owned();
        name.push(".new");
        let fresh = Path::new(&name);
        let mut file = File::options().create(true).truncate(true).write(true).mode(mode).open(fresh)?;
        file.write_all(text)?;
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
            standby_names: standby_names::HeldNames::default(),
            initdb: vec![],
            users: vec![],
            post_bootstrap: None,
            bootstrap_method: crate::config::BootstrapMethod::Initdb,
            bootstrap_pg_hba: vec![],
            pg_ident: vec![],
            recovery_conf: BTreeMap::new(),
            config_dir: None,
            config_base_name: "postgresql".to_owned(),
            custom_conf: None,
            bin_names: BTreeMap::new(),
            use_unix_socket_repl: false,
            krbsrvname: None,
            replica_methods: vec![crate::config::ReplicaMethod::basebackup()],
            basebackup: vec![],
            rewind_options: vec![],
            pre_promote: None,
            before_stop: None,
            pg_ctl_timeout: std::time::Duration::from_mins(1),
            on_divergence: crate::postgres::instance::OnDivergence::default(),
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
            ..Following::default()
        };
        let conf = postgresql_conf(&i, &ordinary(&i, &d), Some(&following));
        assert!(conf.contains("log_line_prefix = 'it''s %m'"), "{conf}");
        assert!(!conf.contains("evil"), "{conf}");
        assert!(conf.contains("host=''::1''") && conf.contains("application_name=''pg-1''"), "{conf}");
        assert!(conf.contains("primary_slot_name = 'pg_1'"), "{conf}");
    }

    #[test]
    fn connections_are_as_the_role_wants_them() {
        let mut i = instance(Path::new("/x"));
        assert!(conninfo(&i, &i.connect_address).contains("sslmode='prefer'"));
        let connection = [("sslmode", "verify-full"), ("sslrootcert", "/etc/ca it's.pem")];
        i.replication.connection = connection.map(|(k, v)| (k.to_owned(), v.to_owned())).into();
        i.krbsrvname = Some("pg".to_owned());
        let info = conninfo(&i, &i.connect_address);
        for expected in ["sslmode='verify-full'", "sslrootcert='/etc/ca it\\'s.pem'", "krbsrvname='pg'"] {
            assert!(info.contains(expected), "{expected} in {info}");
        }
        assert!(!info.contains("prefer"), "{info}");
        // Command lines are everybody's to read.
        i.replication.connection.insert("sslpassword".to_owned(), "s3cret".to_owned());
        let shown = tool_connection(&i, &i.replication, &i.connect_address, "a");
        assert!(shown.contains("service='pgvane_rep'") && !shown.contains("s3cret"), "{shown}");
        for patience in ["keepalives_idle='5'", "tcp_user_timeout='11000'"] {
            assert!(shown.contains(patience), "{patience} in {shown}");
        }
        assert_eq!(services(&i), "[pgvane_rep]\nsslpassword=s3cret\n");
    }

    #[test]
    fn recovery_parameters_are_a_standbys_and_the_local_ones_win() {
        let dir = tempfile::tempdir().expect("a temporary directory");
        let mut i = instance(dir.path());
        fs::create_dir(&i.data_dir).expect("creates");
        let mut d = dynamic(&[]);
        let map = |pairs: &[(&str, &str)]| -> BTreeMap<String, String> {
            pairs.iter().map(|(k, v)| ((*k).to_owned(), (*v).to_owned())).collect()
        };
        d.recovery_conf = map(&[("restore_command", "cp a %f"), ("recovery_min_apply_delay", "1min")]);
        i.recovery_conf =
            map(&[("restore_command", "cp b %f"), ("recovery_target_time", "now"), ("standby_mode", "on")]);
        let nobody = Following::default();
        write(&i, &d, Some(&nobody)).expect("writes");
        let conf = fs::read_to_string(i.data_dir.join("postgresql.conf")).expect("reads");
        for expected in [
            "restore_command = 'cp b %f'",
            "recovery_min_apply_delay = '1min'",
            "recovery_target_time = ''\n",
        ] {
            assert!(conf.contains(expected), "{expected} in {conf}");
        }
        assert!(!conf.contains("standby_mode"), "{conf}");
        write(&i, &d, None).expect("writes");
        let conf = fs::read_to_string(i.data_dir.join("postgresql.conf")).expect("reads");
        assert!(!conf.contains("restore_command"), "{conf}");
    }

    #[test]
    fn files_lie_where_the_operator_wants_them() {
        let dir = tempfile::tempdir().expect("a temporary directory");
        let mut i = instance(dir.path());
        let etc = dir.path().join("etc");
        for d in [&i.data_dir, &etc] {
            fs::create_dir(d).expect("creates");
        }
        fs::write(i.data_dir.join("postgresql.conf"), "# initdb's\n").expect("writes");
        i.config_dir = Some(etc.clone());
        i.config_base_name = "main".to_owned();
        i.pg_hba = vec!["local all all peer".to_owned()];
        i.pg_ident = vec!["m a b".to_owned()];
        write(&i, &dynamic(&[]), None).expect("writes");
        let read = |path: std::path::PathBuf| fs::read_to_string(path).expect("reads");
        let conf = read(etc.join("main.conf"));
        let hba_file = format!("hba_file = '{}'", etc.join("pg_hba.conf").display());
        assert!(conf.contains("include 'main.base.conf'") && conf.contains(&hba_file), "{conf}");
        assert_eq!(read(etc.join("main.base.conf")), "# initdb's\n");
        assert_eq!(read(etc.join("pg_ident.conf")), "m a b\n");
        assert_eq!(read(i.data_dir.join("pg_hba.conf.backup")), "local all all peer\n");
        let args = arguments(&i, &dynamic(&[]), &[]).join(" ");
        assert!(args.contains(&format!("config_file={}", etc.join("main.conf").display())), "{args}");

        i.custom_conf = Some("/etc/pg/custom.conf".into());
        i.parameters.insert("hba_file".to_owned(), "/etc/pg/hba".to_owned());
        i.pg_hba = vec!["local all all trust".to_owned()];
        write(&i, &dynamic(&[]), None).expect("writes");
        let conf = read(etc.join("main.conf"));
        assert!(
            conf.contains("include '/etc/pg/custom.conf'") && conf.contains("hba_file = '/etc/pg/hba'"),
            "{conf}"
        );
        assert_eq!(read(etc.join("pg_hba.conf")), "local all all peer\n", "the server reads the operator's");
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
        let nobody = Following::default();
        assert!(write(&i, &dynamic(&[]), Some(&nobody)).expect("writes"));
        assert!(!write(&i, &dynamic(&[]), Some(&nobody)).expect("writes"));
        assert!(i.data_dir.join("standby.signal").exists());
        assert!(write(&i, &dynamic(&[]), None).expect("writes"));
        assert!(!i.data_dir.join("standby.signal").exists());
        let base = fs::read_to_string(i.data_dir.join("postgresql.base.conf")).expect("reads");
        assert_eq!(base, "# initdb's\n");
    }
}
