//! `RawConfig` -> [`Config`]: fills defaults, refuses what cannot work, says where and why.

use std::collections::BTreeMap;
use std::net::{IpAddr, SocketAddr};
use std::ops::Range;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::time::Duration;

use pgvane_cluster::ids::NodeName;
use pgvane_cluster::records::Tags;
use pgvane_cluster::settings::{ClusterSettings, merge_patch};
use pgvane_cluster::settings_file::{self, Secret, SettingsError};
use serde_json::{Value, json};
use toml::Spanned;

use super::raw::{RawBootstrap, RawConfig, RawEtcd, RawLog, RawPostgresql, RawRestapi, RawRole, RawTiming};
use super::{
    Access, Bootstrap, BootstrapMethod, Callbacks, Config, Ctl, Etcd, Guard, HostPort, Log, LogFormat, Login,
    NewUser, Postgresql, ReplicaMethod, Restapi, Role, ServerTokens, Watchdog,
};
use crate::guard::{check_socket_path, default_socket};
use crate::timing::{MAX_CLOCK_DRIFT_PPM, Timing, TimingOverrides};

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

/// initdb options that are the agent's own business (contract 8.1).
const FORBIDDEN_INITDB: &[&str] = &["pgdata", "nosync", "no-sync", "pwfile", "sync-only", "version"];

const ROLE_OPTIONS: &[&str] = &[
    "SUPERUSER",
    "NOSUPERUSER",
    "CREATEDB",
    "NOCREATEDB",
    "CREATEROLE",
    "NOCREATEROLE",
    "INHERIT",
    "NOINHERIT",
    "LOGIN",
    "NOLOGIN",
    "REPLICATION",
    "NOREPLICATION",
    "BYPASSRLS",
    "NOBYPASSRLS",
];

/// A named set of deadlines for a new cluster.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Preset {
    /// ttl 3 s: for a steady network and fast disks.
    Fast,
    /// ttl 10 s.
    Normal,
    /// ttl 30 s: Patroni's default.
    Safe,
    /// ttl 60 s: for sites far apart.
    Wide,
}

impl Preset {
    /// All of them, by name.
    pub const ALL: [(&'static str, Preset); 4] =
        [("fast", Preset::Fast), ("normal", Preset::Normal), ("safe", Preset::Safe), ("wide", Preset::Wide)];

    /// The dynamic configuration it stands for. `loop_wait` and `retry_timeout` are what Patroni members and
    /// tools read; pgvane's own deadlines derive from `ttl` alone.
    pub fn document(self) -> Value {
        let (ttl, loop_wait, retry_timeout) = match self {
            Preset::Fast => (3, 1, 1),
            Preset::Normal => (10, 2, 4),
            Preset::Safe => (30, 10, 10),
            Preset::Wide => (60, 20, 20),
        };
        json!({
            "ttl": ttl,
            "loop_wait": loop_wait,
            "retry_timeout": retry_timeout,
            "maximum_lag_on_failover": 1_048_576,
            "failsafe_mode": true,
            "postgresql": {
                "use_pg_rewind": true,
                "use_slots": true,
                "remove_data_directory_on_rewind_failure": true,
                "remove_data_directory_on_diverged_timelines": true,
            },
        })
    }
}

/// A file that was read.
#[derive(Debug)]
pub struct Loaded {
    /// The settings.
    pub config: Config,
    /// What an operator should know although it works.
    pub warnings: Vec<String>,
}

/// Reads and checks the file at `path`.
pub fn load(path: &Path) -> Result<Loaded, SettingsError> {
    let file = settings_file::load(path)?;
    // Reading the file worked, so the working directory is known.
    let absolute = std::path::absolute(path).unwrap_or_else(|_| path.to_owned());
    let config = check_file(file, absolute.parent().unwrap_or(Path::new("/")))?;
    let mode = std::fs::metadata(path).map_or(0, |m| m.permissions().mode());
    let warnings = permission_warning(&config, mode).map(|w| format!("{}: {w}", path.display()));
    Ok(Loaded { config, warnings: warnings.into_iter().collect() })
}

/// Checks the `text` of `file`. Relative paths in it are taken from `base`.
pub fn parse(text: &str, file: &str, base: &Path) -> Result<Config, SettingsError> {
    check_file(settings_file::parse(file, text)?, base)
}

fn check_file(file: settings_file::Loaded<RawConfig>, base: &Path) -> Result<Config, SettingsError> {
    check(file.value, base).map_err(|problem| match problem.at {
        Some(at) => file.source.error_at(at, problem.text, None),
        None => file.source.error(problem.text, None),
    })
}

fn permission_warning(config: &Config, mode: u32) -> Option<String> {
    let pg = &config.postgresql;
    let has_secret = [&pg.superuser, &pg.replication, &pg.rewind].iter().any(|r| r.password.is_some())
        || config.etcd.login.is_some()
        || config.restapi.login.is_some();
    (has_secret && mode & 0o077 != 0)
        .then(|| format!("holds passwords and its mode is {:04o}; chmod 600 keeps others out", mode & 0o7777))
}

/// What is wrong, and where in the text.
#[derive(Debug)]
pub(super) struct Problem {
    pub(super) at: Option<Range<usize>>,
    pub(super) text: String,
}

type Checked<T> = Result<T, Problem>;

fn wrong<T, V>(value: &Spanned<V>, text: impl Into<String>) -> Checked<T> {
    Err(Problem { at: Some(value.span()), text: text.into() })
}

fn missing<T>(text: impl Into<String>) -> Checked<T> {
    Err(Problem { at: None, text: text.into() })
}

/// Checks a whole file. Relative paths are taken from `base`, the directory of the file.
pub(super) fn check(raw: RawConfig, base: &Path) -> Checked<Config> {
    if !NodeName::is_valid(raw.name.get_ref()) {
        return wrong(
            &raw.name,
            format!(
                "name: {:?} is not a member name: it must not be empty, hold a slash or a control character, or be Patroni's placeholder",
                raw.name.get_ref()
            ),
        );
    }
    if raw.scope.get_ref().trim_matches('/').is_empty() {
        return wrong(&raw.scope, "scope: the cluster needs a name");
    }
    let postgresql = postgresql(raw.postgresql, base)?;
    let timing = timing(&raw.timing)?;
    let socket = match raw.guard.socket {
        Some(path) => {
            let resolved = base.join(path.get_ref());
            if let Err(text) = check_socket_path(&resolved) {
                return wrong(&path, format!("guard.socket: {text}"));
            }
            resolved
        }
        None => {
            let socket = default_socket(&postgresql.data_dir);
            if let Err(text) = check_socket_path(&socket) {
                return missing(format!("{text}; set guard.socket"));
            }
            socket
        }
    };
    let restapi = restapi(raw.restapi)?;
    Ok(Config {
        name: NodeName::new(raw.name.into_inner()),
        scope: raw.scope.into_inner(),
        namespace: raw.namespace.map_or_else(|| "service".to_owned(), Spanned::into_inner),
        etcd: etcd(raw.etcd, base)?,
        ctl: Ctl { login: restapi.login.clone(), ..Ctl::default() },
        restapi,
        bootstrap: bootstrap(raw.bootstrap, &timing)?,
        tags: tags(&raw.tags)?,
        postgresql,
        timing,
        guard: Guard { socket, log: raw.guard.log.map(|p| base.join(p.into_inner())) },
        watchdog: Watchdog::default(),
        log: log(raw.log)?,
    })
}

fn etcd(raw: RawEtcd, base: &Path) -> Checked<Etcd> {
    if raw.endpoints.get_ref().is_empty() {
        return wrong(
            &raw.endpoints,
            "etcd.endpoints: at least one is needed, such as \"http://127.0.0.1:2379\"",
        );
    }
    let scheme = if raw.cacert.is_some() || raw.cert.is_some() { "https" } else { "http" };
    let mut endpoints = Vec::new();
    for endpoint in raw.endpoints.get_ref() {
        match etcd_url(endpoint.get_ref(), scheme) {
            Some(url) => endpoints.push(url),
            None => {
                return wrong(
                    endpoint,
                    format!("etcd.endpoints: {:?} is not http(s)://host:port", endpoint.get_ref()),
                );
            }
        }
    }
    match (&raw.cert, &raw.key) {
        (Some(cert), None) => return wrong(cert, "etcd.cert needs etcd.key"),
        (None, Some(key)) => return wrong(key, "etcd.key needs etcd.cert"),
        (Some(_), Some(_)) | (None, None) => {}
    }
    for (file, what) in [(&raw.cacert, "cacert"), (&raw.cert, "cert"), (&raw.key, "key")] {
        if let Some(file) = file
            && let Err(e) = std::fs::File::open(base.join(file.get_ref()))
        {
            return wrong(file, format!("etcd.{what}: {}: {e}", base.join(file.get_ref()).display()));
        }
    }
    Ok(Etcd {
        endpoints,
        cacert: raw.cacert.map(|p| base.join(p.into_inner())),
        client_cert: raw
            .cert
            .zip(raw.key)
            .map(|(c, k)| (base.join(c.into_inner()), base.join(k.into_inner()))),
        login: login(raw.username, raw.password, "etcd")?,
    })
}

/// An etcd endpoint as a URL: `scheme` where it names none; `None` where it is not an address with a port.
pub fn etcd_url(endpoint: &str, scheme: &str) -> Option<String> {
    let text = endpoint.trim_end_matches('/');
    let url = if text.contains("://") { text.to_owned() } else { format!("{scheme}://{text}") };
    let authority = url.strip_prefix("http://").or_else(|| url.strip_prefix("https://"))?;
    host_port(authority).ok()?;
    Some(url)
}

fn login(
    username: Option<Spanned<String>>,
    password: Option<Spanned<Secret>>,
    section: &str,
) -> Checked<Option<Login>> {
    match (username, password) {
        (Some(username), Some(password)) => {
            Ok(Some(Login { username: username.into_inner(), password: password.into_inner() }))
        }
        (Some(username), None) => wrong(&username, format!("{section}.username needs {section}.password")),
        (None, Some(password)) => wrong(&password, format!("{section}.password needs {section}.username")),
        (None, None) => Ok(None),
    }
}

fn restapi(raw: RawRestapi) -> Checked<Restapi> {
    let listen = match &raw.listen {
        None => SocketAddr::from(([0, 0, 0, 0], 8008)),
        Some(text) => match text.get_ref().parse() {
            Ok(address) => address,
            Err(_) => {
                return wrong(
                    text,
                    format!(
                        "restapi.listen: {:?} is not ADDRESS:PORT such as \"0.0.0.0:8008\"",
                        text.get_ref()
                    ),
                );
            }
        },
    };
    let fallback = (!listen.ip().is_unspecified())
        .then(|| HostPort { host: listen.ip().to_string(), port: listen.port() });
    Ok(Restapi {
        listen,
        connect_address: connect_address(raw.connect_address, fallback, "restapi", listen.port())?,
        login: login(raw.username, raw.password, "restapi")?,
        tls: None,
        access: Access::default(),
        http_extra_headers: vec![],
        https_extra_headers: vec![],
        server_tokens: ServerTokens::default(),
    })
}

/// `connect_address` of a section: as written, else the one address listened on, else an error.
fn connect_address(
    raw: Option<Spanned<String>>,
    fallback: Option<HostPort>,
    section: &str,
    port: u16,
) -> Checked<HostPort> {
    match (raw, fallback) {
        (Some(text), _) => {
            let full = if host_port(text.get_ref()).is_err() {
                format!("{}:{port}", text.get_ref())
            } else {
                text.get_ref().clone()
            };
            match host_port(&full) {
                Ok(address) if !is_wildcard(&address.host) => Ok(address),
                _ => wrong(
                    &text,
                    format!(
                        "{section}.connect_address: {:?} is not HOST:PORT that others can reach",
                        text.get_ref()
                    ),
                ),
            }
        }
        (None, Some(address)) => Ok(address),
        (None, None) => missing(format!(
            "{section}.connect_address is needed: {section}.listen does not name one address that others can reach"
        )),
    }
}

fn is_wildcard(host: &str) -> bool {
    host == "*" || host.parse::<IpAddr>().is_ok_and(|ip| ip.is_unspecified())
}

fn host_port(text: &str) -> Result<HostPort, ()> {
    let (host, port) = text.rsplit_once(':').ok_or(())?;
    let port = port.parse().map_err(|_| ())?;
    let host = match host.strip_prefix('[') {
        Some(v6) => v6.strip_suffix(']').filter(|v6| v6.parse::<IpAddr>().is_ok()).ok_or(())?,
        None => host,
    };
    let plain = |c: char| !c.is_whitespace() && !"/@[]?#".contains(c);
    if host.is_empty() || !host.chars().all(plain) || port == 0 {
        return Err(());
    }
    Ok(HostPort { host: host.to_owned(), port })
}

fn postgresql(raw: RawPostgresql, base: &Path) -> Checked<Postgresql> {
    let data_dir = base.join(raw.data_dir.get_ref());
    if data_dir.file_name().is_none() {
        return wrong(&raw.data_dir, "postgresql.data_dir: a directory of its own is needed, not /");
    }
    let (listen_addresses, port) = listen(raw.listen.as_ref())?;
    let single = (!listen_addresses.contains(',') && !is_wildcard(&listen_addresses))
        .then(|| HostPort { host: listen_addresses.clone(), port });
    let superuser = role(raw.superuser, "postgres");
    let replication = role(raw.replication, "replicator");
    let rewind = raw.rewind.map_or_else(|| superuser.clone(), |r| role(r, &superuser.username));
    let pg_hba = match raw.pg_hba {
        Some(lines) if lines.get_ref().is_empty() => {
            return wrong(
                &lines,
                "postgresql.pg_hba: without a line nobody could connect; leave the key out for the default",
            );
        }
        Some(lines) => lines.into_inner(),
        None if superuser.password.is_none() || replication.password.is_none() => {
            return missing(
                "postgresql.superuser.password and postgresql.replication.password are needed, because the \
                 default pg_hba lets nobody in without one; or set postgresql.pg_hba",
            );
        }
        None => default_pg_hba(),
    };
    let bin_dir = match raw.bin_dir {
        Some(dir) => {
            let resolved = base.join(dir.get_ref());
            if !resolved.join("postgres").is_file() {
                return wrong(
                    &dir,
                    format!("postgresql.bin_dir: there is no postgres in {}", resolved.display()),
                );
            }
            resolved
        }
        None => match find_bin_dir(&data_dir, Path::new("/usr/lib/postgresql")) {
            Some(dir) => dir,
            None => {
                return missing(
                    "postgresql.bin_dir is needed: no postgres in /usr/lib/postgresql/*/bin or on PATH",
                );
            }
        },
    };
    let pgpass = raw.pgpass.map_or_else(|| beside(&data_dir, "pgpass"), |p| base.join(p.into_inner()));
    Ok(Postgresql {
        connect_address: connect_address(raw.connect_address, single, "postgresql", port)?,
        listen_addresses,
        port,
        bin_dir,
        database: raw.database.unwrap_or_else(|| "postgres".to_owned()),
        superuser,
        replication,
        rewind,
        pgpass,
        socket_dir: raw.use_unix_socket.map(|p| base.join(p.into_inner())),
        parameters: parameters(&raw.parameters)?,
        pg_hba,
        data_dir,
        pg_ident: vec![],
        recovery_conf: BTreeMap::new(),
        proxy_address: None,
        config_dir: None,
        bin_names: BTreeMap::new(),
        config_base_name: "postgresql".to_owned(),
        custom_conf: None,
        use_unix_socket_repl: false,
        krbsrvname: None,
        replica_methods: vec![ReplicaMethod::basebackup()],
        basebackup: vec![],
        callbacks: Callbacks::default(),
        pre_promote: None,
        before_stop: None,
        pg_ctl_timeout: Duration::from_mins(1),
        use_pg_rewind: None,
        remove_data_directory_on_rewind_failure: None,
        remove_data_directory_on_diverged_timelines: None,
        rewind_options: vec![],
    })
}

fn beside(data_dir: &Path, extension: &str) -> PathBuf {
    let name = data_dir.file_name().unwrap_or_default().to_string_lossy();
    data_dir.with_file_name(format!("{name}.{extension}"))
}

/// Everybody with a password, from anywhere; who should be let in more narrowly is the operator's to say.
fn default_pg_hba() -> Vec<String> {
    [
        "local all all scram-sha-256",
        "host all all all scram-sha-256",
        "host replication all all scram-sha-256",
    ]
    .map(str::to_owned)
    .to_vec()
}

fn listen(raw: Option<&Spanned<String>>) -> Checked<(String, u16)> {
    let Some(text) = raw else { return Ok(("*".to_owned(), 5432)) };
    let bad = || {
        wrong(
            text,
            format!(
                "postgresql.listen: {:?} is not ADDRESS[,ADDRESS]:PORT such as \"*:5432\"",
                text.get_ref()
            ),
        )
    };
    let (Some((hosts, port)), false) = (text.get_ref().rsplit_once(':'), text.get_ref().contains(' ')) else {
        return bad();
    };
    let Ok(port) = port.parse::<u16>() else { return bad() };
    let hosts: Vec<&str> =
        hosts.split(',').map(|h| h.trim_start_matches('[').trim_end_matches(']')).collect();
    if port == 0 || hosts.iter().any(|h| h.is_empty()) {
        return bad();
    }
    Ok((hosts.join(","), port))
}

fn role(raw: RawRole, default_name: &str) -> Role {
    Role {
        username: raw.username.map_or_else(|| default_name.to_owned(), Spanned::into_inner),
        password: raw.password,
        connection: BTreeMap::new(),
    }
}

fn parameters(raw: &BTreeMap<String, Spanned<toml::Value>>) -> Checked<BTreeMap<String, String>> {
    let mut parameters = BTreeMap::new();
    for (name, value) in raw {
        if CONTROLLED_PARAMETERS.contains(&name.to_ascii_lowercase().as_str()) {
            return wrong(
                value,
                format!(
                    "postgresql.parameters.{name} must be the same on all members: set it with \
                     `pgvanectl edit-config`, or under bootstrap.dcs for a new cluster"
                ),
            );
        }
        let text = match value.get_ref() {
            toml::Value::String(s) => s.clone(),
            toml::Value::Boolean(b) => if *b { "on" } else { "off" }.to_owned(),
            toml::Value::Integer(n) => n.to_string(),
            toml::Value::Float(n) => n.to_string(),
            toml::Value::Array(_) | toml::Value::Table(_) | toml::Value::Datetime(_) => {
                return wrong(
                    value,
                    format!("postgresql.parameters.{name}: text, a number, true or false is expected"),
                );
            }
        };
        parameters.insert(name.clone(), text);
    }
    Ok(parameters)
}

/// Where the server programs are: of the version of the data directory where it has one, else the newest
/// under `root`, else what PATH finds.
fn find_bin_dir(data_dir: &Path, root: &Path) -> Option<PathBuf> {
    let has_server = |dir: &PathBuf| dir.join("postgres").is_file();
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

fn bootstrap(raw: RawBootstrap, timing: &TimingOverrides) -> Checked<Bootstrap> {
    let preset = match &raw.preset {
        None => Preset::Normal,
        Some(name) => match Preset::ALL.iter().find(|(n, _)| n == name.get_ref()) {
            Some((_, preset)) => *preset,
            None => {
                let names = Preset::ALL.map(|(n, _)| n).join(", ");
                return wrong(name, format!("bootstrap.preset: {:?} is not one of {names}", name.get_ref()));
            }
        },
    };
    let mut dcs = preset.document();
    let at = raw.dcs.as_ref().map(Spanned::span).or_else(|| raw.preset.as_ref().map(Spanned::span));
    if let Some(table) = &raw.dcs {
        match serde_json::to_value(table.get_ref()) {
            Ok(patch) => merge_patch(&mut dcs, &patch),
            Err(e) => return wrong(table, format!("bootstrap.dcs: {e}")),
        }
    }
    let (settings, warnings) = ClusterSettings::from_json(&dcs);
    if let Some(w) = warnings.first() {
        return Err(Problem { at, text: format!("bootstrap.dcs.{}: {}", w.key, w.message) });
    }
    if let Err(e) = Timing::derive(settings.ttl, timing) {
        return Err(Problem { at, text: format!("bootstrap.dcs.ttl: {e}") });
    }
    let initdb = raw.initdb.map_or_else(
        || Ok(vec!["--data-checksums".to_owned(), "--encoding=UTF8".to_owned()]),
        |o| initdb(&o),
    )?;
    let mut users = Vec::new();
    for (name, user) in raw.users {
        let mut options = Vec::new();
        for option in &user.options {
            let upper = option.get_ref().to_ascii_uppercase();
            if !ROLE_OPTIONS.contains(&upper.as_str()) {
                let allowed = ROLE_OPTIONS.join(", ");
                return wrong(
                    option,
                    format!("bootstrap.users.{name}: {:?} is not one of {allowed}", option.get_ref()),
                );
            }
            options.push(upper);
        }
        users.push(NewUser { name, password: user.password, options });
    }
    Ok(Bootstrap {
        dcs,
        initdb,
        users,
        post_bootstrap: raw.post_bootstrap.map(Spanned::into_inner),
        method: BootstrapMethod::Initdb,
        pg_hba: vec![],
    })
}

fn initdb(raw: &[Spanned<String>]) -> Checked<Vec<String>> {
    let mut options = Vec::new();
    for option in raw {
        let text = option.get_ref().trim_start_matches('-');
        let name = text.split('=').next().unwrap_or(text);
        if name.is_empty() || FORBIDDEN_INITDB.contains(&name) {
            return wrong(
                option,
                format!("bootstrap.initdb: {text:?} is set by the agent itself or means nothing"),
            );
        }
        options.push(format!("--{text}"));
    }
    Ok(options)
}

fn tags(raw: &BTreeMap<String, Spanned<toml::Value>>) -> Checked<Tags> {
    let mut tags = Tags::default();
    for (name, value) in raw {
        let json = serde_json::to_value(value.get_ref());
        let json = json.or_else(|e| wrong(value, format!("tags.{name}: {e}")))?;
        let (fits, expected) = match name.as_str() {
            "nofailover" | "noloadbalance" | "clonefrom" | "nosync" | "nostream" => {
                (json.is_boolean(), "true or false")
            }
            "failover_priority" | "sync_priority" => (json.is_i64(), "a whole number"),
            "replicatefrom" => (json.is_string(), "the name of a member"),
            _ => (!json.is_object() && !json.is_array(), "text, a number, true or false"),
        };
        if !fits {
            return wrong(value, format!("tags.{name}: {expected} is expected, not {json}"));
        }
        tags.0.insert(name.clone(), json);
    }
    Ok(tags)
}

fn timing(raw: &RawTiming) -> Checked<TimingOverrides> {
    let least = Duration::from_millis(10);
    for (name, span) in [
        ("renew_interval", &raw.renew_interval),
        ("stop_budget", &raw.stop_budget),
        ("guard_budget", &raw.guard_budget),
    ] {
        if let Some(span) = span
            && span.get_ref().0 < least
        {
            return wrong(span, format!("timing.{name}: at least 10ms is needed"));
        }
    }
    if let Some(ppm) = &raw.clock_drift_ppm
        && *ppm.get_ref() > MAX_CLOCK_DRIFT_PPM
    {
        return wrong(ppm, format!("timing.clock_drift_ppm: at most {MAX_CLOCK_DRIFT_PPM} is allowed"));
    }
    Ok(TimingOverrides {
        renew_interval: raw.renew_interval.as_ref().map(|s| s.get_ref().0),
        stop_budget: raw.stop_budget.as_ref().map(|s| s.get_ref().0),
        guard_budget: raw.guard_budget.as_ref().map(|s| s.get_ref().0),
        clock_drift_ppm: raw.clock_drift_ppm.as_ref().map(|p| *p.get_ref()),
    })
}

fn log(raw: RawLog) -> Checked<Log> {
    let format = match raw.format {
        None => LogFormat::Text,
        Some(text) => match text.get_ref().as_str() {
            "text" => LogFormat::Text,
            "json" => LogFormat::Json,
            other => return wrong(&text, format!("log.format: {other:?} is not one of text, json")),
        },
    };
    let level = match raw.level {
        None => "info".to_owned(),
        Some(text) => match text.get_ref().parse::<tracing_subscriber::filter::EnvFilter>() {
            Ok(_) => text.into_inner(),
            Err(e) => {
                return wrong(
                    &text,
                    format!(
                        "log.level: {:?} is neither a level (error, warn, info, debug, trace) nor directives: {e}",
                        text.get_ref()
                    ),
                );
            }
        },
    };
    Ok(Log { format, level })
}

#[cfg(test)]
#[path = "check_tests.rs"]
mod tests;
