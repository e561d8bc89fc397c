//! `[postgresql]`.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use pgvane_cluster::settings::is_own_recovery_parameter;
use pgvane_cluster::settings_file::Spanned;

use super::super::default;
use super::super::raw::{RawCallbacks, RawPostgresql, RawReplicaMethod, RawRole, RawValues};
use super::super::{Callbacks, HostPort, Postgresql, ReplicaMethod, Role};
use super::address::{connect_address, is_wildcard, named_port, reachable};
use super::commands::{self, arguments, optional_script, options, script};
use super::context::{missing, refuse};
use super::{Check, Checked};

/// Parameters that only the dynamic configuration may set, because standbys depend on the primary's values
/// (contract section 4), and those the agent derives.
pub const CONTROLLED_PARAMETERS: &[&str] = &[
    "cluster_name",
    "hot_standby",
    "listen_addresses",
    "max_connections",
    "max_locks_per_transaction",
    "max_prepared_transactions",
    "max_replication_slots",
    "max_wal_senders",
    "max_worker_processes",
    "port",
    "track_commit_timestamp",
    "wal_keep_segments",
    "wal_keep_size",
    "wal_level",
    "wal_log_hints",
];

/// Programs of PostgreSQL that may go by another name.
const PROGRAMS: &[&str] =
    &["initdb", "pg_basebackup", "pg_controldata", "pg_ctl", "pg_isready", "pg_rewind", "postgres"];

/// Options of pg_basebackup that are the agent's own business (contract 8.2).
const FORBIDDEN_BASEBACKUP: &[&str] = &[
    "pgdata",
    "format",
    "wal-method",
    "xlog-method",
    "gzip",
    "version",
    "dbname",
    "host",
    "port",
    "username",
    "password",
];

/// Options of pg_rewind that are the agent's own business.
const FORBIDDEN_REWIND: &[&str] =
    &["target-pgdata", "source-pgdata", "source-server", "dry-run", "version", "no-ensure-shutdown"];

pub(super) fn check(raw: RawPostgresql, cx: &mut Check<'_>) -> Checked<Postgresql> {
    let data_dir = cx.path(&raw.data_dir);
    if data_dir.file_name().is_none() {
        return cx.wrong(&raw.data_dir, "postgresql.data_dir", "a directory of its own is needed, not /");
    }
    let (listen_addresses, port) = listen(raw.listen.as_ref(), raw.connect_address.as_ref(), cx)?;
    let single = (!listen_addresses.contains(',') && !is_wildcard(&listen_addresses))
        .then(|| HostPort { host: listen_addresses.clone(), port });
    let superuser = role(raw.superuser, "superuser", default::SUPERUSER, cx)?;
    let replication = role(raw.replication, "replication", default::REPLICATION, cx)?;
    let rewind = match raw.rewind {
        Some(rewind) => role(rewind, "rewind", &superuser.username, cx)?,
        None => superuser.clone(),
    };
    let bin_names = bin_names(raw.bin_names, cx)?;
    let server = bin_names.get("postgres").map_or("postgres", String::as_str);
    let bin_dir = bin_dir(raw.bin_dir, &data_dir, server, cx)?;
    let proxy_address = match &raw.proxy_address {
        Some(text) => Some(reachable(text, "postgresql.proxy_address", port, cx)?),
        None => None,
    };
    Ok(Postgresql {
        connect_address: connect_address(raw.connect_address, single, "postgresql", port, cx)?,
        listen_addresses,
        port,
        bin_dir,
        database: raw.database.unwrap_or_else(|| default::DATABASE.to_owned()),
        pg_hba: pg_hba(
            raw.pg_hba,
            raw.keep_pg_hba,
            superuser.password.is_some() && replication.password.is_some(),
            cx,
        )?,
        superuser,
        replication,
        rewind,
        pgpass: raw.pgpass.map_or_else(|| default_pgpass(&data_dir, cx), |p| cx.path(&p)),
        socket_dir: raw.use_unix_socket.map(|p| cx.path(&p)),
        parameters: parameters(&raw.parameters, cx)?,
        pg_ident: raw.pg_ident,
        recovery_conf: recovery_conf(&raw.recovery_conf, "postgresql.recovery_conf", cx)?,
        proxy_address,
        config_dir: raw.config_dir.map(|p| cx.path(&p)),
        bin_names,
        config_base_name: config_base_name(raw.config_base_name, cx)?,
        custom_conf: raw.custom_conf.map(|p| cx.path(&p)),
        use_unix_socket_repl: raw.use_unix_socket_repl.unwrap_or(false),
        krbsrvname: raw.krbsrvname,
        replica_methods: replica_methods(raw.replica_methods, cx)?,
        basebackup: options(&raw.basebackup, "postgresql.basebackup", FORBIDDEN_BASEBACKUP, cx)?,
        callbacks: callbacks(raw.callbacks, cx)?,
        pre_promote: optional_script(raw.pre_promote, "postgresql.pre_promote", cx)?,
        before_stop: optional_script(raw.before_stop, "postgresql.before_stop", cx)?,
        pg_ctl_timeout: raw.pg_ctl_timeout.map_or(default::PG_CTL_TIMEOUT, |limit| limit.get_ref().0),
        use_pg_rewind: raw.use_pg_rewind,
        remove_data_directory_on_rewind_failure: raw.remove_data_directory_on_rewind_failure,
        remove_data_directory_on_diverged_timelines: raw.remove_data_directory_on_diverged_timelines,
        rewind_options: options(&raw.rewind_options, "postgresql.rewind_options", FORBIDDEN_REWIND, cx)?,
        data_dir,
    })
}

fn beside(data_dir: &Path, extension: &str) -> PathBuf {
    let name = data_dir.file_name().unwrap_or_default().to_string_lossy();
    data_dir.with_file_name(format!("{name}.{extension}"))
}

/// Patroni keeps it in the home directory, where people's own tools may have come to find it.
fn default_pgpass(data_dir: &Path, cx: &Check<'_>) -> PathBuf {
    let home = std::env::var_os("HOME").map(PathBuf::from).filter(|home| cx.is_patroni() && home.is_dir());
    home.map_or_else(|| beside(data_dir, "pgpass"), |home| home.join("pgpass"))
}

/// The lines of pg_hba.conf. A patroni.yml without them leaves initdb's file alone, as it always did.
fn pg_hba(
    raw: Option<Spanned<Vec<String>>>,
    keep: Option<bool>,
    passwords: bool,
    cx: &Check<'_>,
) -> Checked<Vec<String>> {
    let keep = keep.unwrap_or(cx.is_patroni());
    match raw {
        Some(lines) if keep && !cx.is_patroni() => {
            let why = "postgresql.keep_pg_hba leaves the file as it is; leave one of the two out";
            cx.wrong(&lines, "postgresql.pg_hba", why)
        }
        Some(lines) if lines.get_ref().is_empty() => cx.wrong(
            &lines,
            "postgresql.pg_hba",
            "without a line nobody could connect; leave the key out for the default",
        ),
        Some(lines) => Ok(lines.into_inner()),
        None if keep => Ok(vec![]),
        None if !passwords => missing(
            "postgresql.superuser.password and postgresql.replication.password are needed, because the \
             default pg_hba lets nobody in without one; or set postgresql.pg_hba, or postgresql.keep_pg_hba",
        ),
        None => Ok(default::PG_HBA.map(str::to_owned).to_vec()),
    }
}

fn listen(
    raw: Option<&Spanned<String>>,
    connect_address: Option<&Spanned<String>>,
    cx: &Check<'_>,
) -> Checked<(String, u16)> {
    let Some(text) = raw else {
        let port = named_port(connect_address).unwrap_or(default::PORT);
        return Ok((default::LISTEN_ADDRESSES.to_owned(), port));
    };
    let written = text.get_ref().as_str();
    let bad = || {
        let why = format!("{written:?} is not ADDRESS[,ADDRESS]:PORT such as \"*:5432\"");
        cx.wrong(text, "postgresql.listen", why)
    };
    let (hosts, port) = match written.rsplit_once(':') {
        Some((hosts, port)) if !port.ends_with(']') => (hosts, port.parse::<u16>().ok()),
        // Patroni takes addresses alone.
        _ if cx.is_patroni() => (written, Some(default::PORT)),
        _ => return bad(),
    };
    let Some(port) = port.filter(|port| *port != 0) else { return bad() };
    let hosts: Vec<&str> =
        hosts.split(',').map(|h| h.trim().trim_start_matches('[').trim_end_matches(']')).collect();
    if hosts.iter().any(|h| h.is_empty() || h.contains(char::is_whitespace)) {
        return bad();
    }
    Ok((hosts.join(","), port))
}

/// A parameter of libpq: its name, its value, and the words that it may be, where they are known.
type Word<'a> = (&'static str, &'a Option<Spanned<String>>, &'static [&'static str]);

pub(super) fn role(raw: RawRole, section: &str, default_name: &str, cx: &Check<'_>) -> Checked<Role> {
    let mut connection = BTreeMap::new();
    let words: [Word<'_>; 9] = [
        ("sslmode", &raw.sslmode, &["disable", "allow", "prefer", "require", "verify-ca", "verify-full"]),
        ("sslcert", &raw.sslcert, &[]),
        ("sslkey", &raw.sslkey, &[]),
        ("sslrootcert", &raw.sslrootcert, &[]),
        ("sslcrl", &raw.sslcrl, &[]),
        ("sslcrldir", &raw.sslcrldir, &[]),
        ("gssencmode", &raw.gssencmode, &["disable", "prefer", "require"]),
        ("channel_binding", &raw.channel_binding, &["disable", "prefer", "require"]),
        ("sslnegotiation", &raw.sslnegotiation, &["postgres", "direct"]),
    ];
    for (name, value, allowed) in words {
        let Some(value) = value else { continue };
        if !allowed.is_empty() && !allowed.contains(&value.get_ref().as_str()) {
            let why = format!("{:?} is not one of {}", value.get_ref(), allowed.join(", "));
            return cx.wrong(value, &format!("postgresql.{section}.{name}"), why);
        }
        connection.insert(name.to_owned(), value.get_ref().clone());
    }
    if let Some(password) = raw.sslpassword {
        connection.insert("sslpassword".to_owned(), password.get_ref().expose().to_owned());
    }
    Ok(Role {
        username: raw.username.map_or_else(|| default_name.to_owned(), Spanned::into_inner),
        password: raw.password,
        connection,
    })
}

fn bin_names(
    raw: BTreeMap<String, Spanned<String>>,
    cx: &mut Check<'_>,
) -> Checked<BTreeMap<String, String>> {
    let mut names = BTreeMap::new();
    for (program, name) in raw {
        let key = format!("postgresql.bin_names.{program}");
        if !PROGRAMS.contains(&program.as_str()) {
            let text = format!("there is no such program; known: {}", PROGRAMS.join(", "));
            cx.leave_out(&name, &key, &text)?;
            continue;
        }
        if name.get_ref().is_empty() {
            return cx.wrong(&name, &key, "a program's name is expected");
        }
        names.insert(program, name.into_inner());
    }
    Ok(names)
}

fn bin_dir(raw: Option<Spanned<PathBuf>>, data_dir: &Path, server: &str, cx: &Check<'_>) -> Checked<PathBuf> {
    if let Some(dir) = raw {
        let resolved = cx.path(&dir);
        if cx.is_here() && !resolved.join(server).is_file() {
            let why = format!("there is no {server} in {}", resolved.display());
            return cx.wrong(&dir, "postgresql.bin_dir", why);
        }
        return Ok(resolved);
    }
    match find_bin_dir(data_dir, Path::new("/usr/lib/postgresql"), server) {
        Some(dir) => Ok(dir),
        // Found where the settings are used.
        None if !cx.is_here() => Ok(PathBuf::new()),
        None => missing(format!(
            "postgresql.bin_dir is needed: no {server} in /usr/lib/postgresql/*/bin or on PATH"
        )),
    }
}

/// Where the server programs are: of the version of the data directory where it has one, else the newest
/// under `root`, else what PATH finds.
pub(super) fn find_bin_dir(data_dir: &Path, root: &Path, server: &str) -> Option<PathBuf> {
    let has_server = |dir: &PathBuf| dir.join(server).is_file();
    if let Ok(version) = std::fs::read_to_string(data_dir.join("PG_VERSION")) {
        let dir = root.join(version.trim()).join("bin");
        if has_server(&dir) {
            return Some(dir);
        }
    }
    let versions = std::fs::read_dir(root).into_iter().flatten().flatten();
    let newest = versions
        .filter_map(|v| Some((v.file_name().to_str()?.parse::<u32>().ok()?, v.path().join("bin"))))
        .filter(|(_, dir)| has_server(dir))
        .max();
    newest.map(|(_, dir)| dir).or_else(|| {
        let path = std::env::var_os("PATH")?;
        std::env::split_paths(&path).find(has_server)
    })
}

fn config_base_name(raw: Option<Spanned<String>>, cx: &Check<'_>) -> Checked<String> {
    match raw {
        None => Ok(default::CONFIG_BASE_NAME.to_owned()),
        Some(name) if name.get_ref().is_empty() || name.get_ref().contains('/') => {
            cx.wrong(&name, "postgresql.config_base_name", "a file's name without directory is expected")
        }
        Some(name) => Ok(name.into_inner()),
    }
}

/// Whether the generated file may have a line for it.
fn is_parameter_name(name: &str) -> bool {
    !name.is_empty() && name.chars().all(|c| c.is_ascii_alphanumeric() || "_.$".contains(c))
}

fn parameters(raw: &RawValues, cx: &mut Check<'_>) -> Checked<BTreeMap<String, String>> {
    let mut parameters = BTreeMap::new();
    for (name, value) in raw {
        let key = format!("postgresql.parameters.{name}");
        if CONTROLLED_PARAMETERS.contains(&name.to_ascii_lowercase().as_str()) {
            if cx.is_patroni() {
                let text = "only the dynamic configuration may set it (bootstrap.dcs, edit-config)";
                cx.leave_out(value, &key, text)?;
                continue;
            }
            let text = format!(
                "{key} must be the same on all members: set it with `pgvanectl edit-config`, or under \
                 bootstrap.dcs for a new cluster"
            );
            return refuse(value, text);
        }
        if !is_parameter_name(name) {
            return cx.wrong(value, &key, "a parameter's name has letters, digits, `_`, `.` and `$` only");
        }
        match commands::text(value.get_ref()) {
            Some(text) => {
                parameters.insert(name.clone(), text);
            }
            None if value.get_ref().is_null() => cx.leave_out(value, &key, "it has no value")?,
            None => return cx.wrong(value, &key, "text, a number, true or false is expected"),
        }
    }
    Ok(parameters)
}

/// Recovery parameters; those that the agent gives are left out.
pub(super) fn recovery_conf(
    raw: &RawValues,
    key: &str,
    cx: &mut Check<'_>,
) -> Checked<BTreeMap<String, String>> {
    let mut parameters = recovery_parameters(raw, key, cx)?;
    for (name, value) in raw.iter().filter(|(name, _)| is_own_recovery_parameter(name)) {
        cx.leave_out(value, &format!("{key}.{name}"), "the agent gives it itself")?;
        parameters.remove(name);
    }
    Ok(parameters)
}

/// Recovery parameters of a restore, which may have a target.
pub(super) fn recovery_parameters(
    raw: &RawValues,
    key: &str,
    cx: &Check<'_>,
) -> Checked<BTreeMap<String, String>> {
    let mut parameters = BTreeMap::new();
    for (name, value) in raw {
        let key = format!("{key}.{name}");
        if !is_parameter_name(name) {
            return cx.wrong(value, &key, "a parameter's name has letters, digits, `_`, `.` and `$` only");
        }
        match commands::text(value.get_ref()) {
            Some(text) => parameters.insert(name.clone(), text),
            None => return cx.wrong(value, &key, "text, a number, true or false is expected"),
        };
    }
    Ok(parameters)
}

fn replica_methods(raw: Option<Vec<RawReplicaMethod>>, cx: &Check<'_>) -> Checked<Vec<ReplicaMethod>> {
    let mut methods = Vec::new();
    for method in raw.unwrap_or_default() {
        let key = "postgresql.replica_methods";
        let name = method.name.get_ref().clone();
        if name.is_empty() {
            return cx.wrong(&method.name, key, "a method needs a name");
        }
        if name == "basebackup" {
            if let Some(command) = &method.command {
                return cx.wrong(command, key, "basebackup is built in; its options go under basebackup");
            }
            methods.push(ReplicaMethod::basebackup());
            continue;
        }
        // As Patroni has it, a method without a command is one itself.
        let command = script(method.command.as_ref().unwrap_or(&method.name), key, cx)?;
        methods.push(ReplicaMethod {
            command: Some(command),
            keep_data: method.keep_data,
            no_params: method.no_params,
            no_leader: method.no_leader,
            parameters: arguments(method.parameters, &format!("postgresql.{name}"), cx)?,
            name,
        });
    }
    Ok(if methods.is_empty() { vec![ReplicaMethod::basebackup()] } else { methods })
}

fn callbacks(raw: RawCallbacks, cx: &Check<'_>) -> Checked<Callbacks> {
    Ok(Callbacks {
        on_start: optional_script(raw.on_start, "postgresql.callbacks.on_start", cx)?,
        on_stop: optional_script(raw.on_stop, "postgresql.callbacks.on_stop", cx)?,
        on_restart: optional_script(raw.on_restart, "postgresql.callbacks.on_restart", cx)?,
        on_reload: optional_script(raw.on_reload, "postgresql.callbacks.on_reload", cx)?,
        on_role_change: optional_script(raw.on_role_change, "postgresql.callbacks.on_role_change", cx)?,
    })
}
