//! Where settings come from: agent.toml, a patroni.yml or a directory of such, or the environment alone.

use std::borrow::Cow;
use std::net::{SocketAddr, ToSocketAddrs};
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};

use pgvane_cluster::settings_file::{self, SettingsError, Source, Syntax};

use super::check::{self, Check, Dialect, Resolve, patroni_key};
use super::environment::Environment;
use super::raw::RawConfig;
use super::sources::Sources;
use super::yaml::{self, Document};
use super::{Config, Ctl, Etcd, Role};
use crate::timing::TimingOverrides;

/// Where an agent's settings come from.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Origin {
    /// agent.toml.
    Toml(PathBuf),
    /// patroni.yml, or a directory of such files.
    Yaml(PathBuf),
    /// `PATRONI_*` variables alone.
    Environment,
}

impl Origin {
    /// What a path on the command line means: its ending tells.
    pub fn of(path: Option<&Path>) -> Origin {
        match path {
            None => Origin::Environment,
            Some(path) if is_yaml(path) || path.is_dir() => Origin::Yaml(path.to_owned()),
            Some(path) => Origin::Toml(path.to_owned()),
        }
    }

    /// What a setting, said by its native name, is called there.
    pub fn key<'a>(&self, native: &'a str) -> Cow<'a, str> {
        match self {
            Origin::Toml(_) => Cow::Borrowed(native),
            Origin::Yaml(_) | Origin::Environment => patroni_key(native),
        }
    }
}

impl std::fmt::Display for Origin {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Origin::Toml(path) | Origin::Yaml(path) => write!(f, "{}", path.display()),
            Origin::Environment => f.write_str("the environment"),
        }
    }
}

fn is_yaml(path: &Path) -> bool {
    path.extension().is_some_and(|e| e.eq_ignore_ascii_case("yml") || e.eq_ignore_ascii_case("yaml"))
}

/// Settings that were read.
#[derive(Debug)]
pub struct Loaded {
    /// The settings.
    pub config: Config,
    /// What an operator should know although it works.
    pub warnings: Vec<String>,
}

/// Reads and checks what `origin` says. `environment` counts with YAML, whose values it replaces.
pub fn read(origin: &Origin, environment: &Environment) -> Result<Loaded, SettingsError> {
    match origin {
        Origin::Toml(path) => {
            let file = settings_file::load(path)?;
            let mut loaded = check_toml(file, &directory_of(path), by_name)?;
            warn_of_permissions(&mut loaded, std::slice::from_ref(path));
            Ok(loaded)
        }
        Origin::Yaml(path) => {
            let files = yaml_files(path)?;
            let texts = files.iter().map(|file| Ok(source(file, settings_file::read(file)?)));
            let texts = texts.collect::<Result<Vec<_>, SettingsError>>()?;
            let mut loaded = check_yaml(texts, environment, &directory_of(path), by_name)?;
            if environment.get("CONFIGURATION").is_some() {
                loaded.warnings.push("PATRONI_CONFIGURATION is ignored: a file is given".to_owned());
            }
            warn_of_permissions(&mut loaded, &files);
            Ok(loaded)
        }
        Origin::Environment => {
            if environment.is_empty() {
                let text = "there are no settings: name a file, or set PATRONI_* variables";
                return Err(Source::new("pgvane-agent", "", Syntax::Yaml).error(text, None));
            }
            let here = std::env::current_dir().unwrap_or_else(|_| PathBuf::from("/"));
            check_yaml(whole_document(environment), environment, &here, by_name)
        }
    }
}

/// Reads and checks the file at `path` with the environment of this process.
pub fn load(path: &Path) -> Result<Loaded, SettingsError> {
    read(&Origin::of(Some(path)), &Environment::of_process())
}

/// The JSON schema of an agent.toml.
pub fn schema() -> serde_json::Value {
    settings_file::document::<RawConfig>("agent.toml: the settings of pgvane-agent")
}

/// Checks the `text` of `file`, an agent.toml. Relative paths in it are taken from `base`. Nothing is looked up.
pub fn parse(text: &str, file: &str, base: &Path) -> Result<Config, SettingsError> {
    Ok(check_toml(settings_file::parse(file, text)?, base, by_number)?.config)
}

/// Checks the `text` of `file`, a patroni.yml, and what the environment makes of it. Nothing is looked up.
pub fn parse_yaml(
    text: &str,
    file: &str,
    base: &Path,
    environment: &Environment,
) -> Result<Loaded, SettingsError> {
    check_yaml(vec![Source::new(file, text, Syntax::Yaml)], environment, base, by_number)
}

/// How an operator's tool reaches a cluster.
#[derive(Debug)]
pub struct Reach {
    /// The cluster, where it is named.
    pub scope: Option<String>,
    /// The part of the key space it lives in.
    pub namespace: String,
    /// etcd, where it is said.
    pub etcd: Option<Etcd>,
    /// The REST API of members.
    pub ctl: Ctl,
    /// Deadlines set by hand on this node.
    pub timing: TimingOverrides,
    /// Who may ask PostgreSQL, where an agent's settings tell.
    pub superuser: Option<Role>,
    /// Who may copy it, where an agent's settings tell.
    pub replication: Option<Role>,
    /// Where PostgreSQL's programs are, where that is said.
    pub bin_dir: Option<PathBuf>,
}

/// Reads what an operator's tool needs of an agent's settings, or of the small file that patronictl has.
pub fn reach(path: &Path) -> Result<Reach, SettingsError> {
    if let Origin::Toml(path) = Origin::of(Some(path)) {
        let config = load(&path)?.config;
        return Ok(Reach {
            scope: Some(config.scope),
            namespace: config.namespace,
            etcd: Some(config.etcd),
            ctl: config.ctl,
            timing: config.timing,
            superuser: Some(config.postgresql.superuser),
            replication: Some(config.postgresql.replication),
            bin_dir: Some(config.postgresql.bin_dir),
        });
    }
    let mut texts = Vec::new();
    for file in yaml_files(path)? {
        let text = settings_file::read(&file)?;
        texts.push(source(&file, text));
    }
    let base = directory_of(path);
    let mut sources = Sources::default();
    let mut cx = Check::new(Dialect::Patroni, &base, by_name);
    yaml::read(texts, &Environment::of_process(), &mut sources)
        .and_then(Document::reach)
        .and_then(|raw| check::reach(raw, &mut cx))
        .map_err(|problem| sources.error(problem))
}

fn source(path: &Path, text: String) -> Source {
    Source::new(path.display().to_string(), text, Syntax::Yaml)
}

fn directory_of(path: &Path) -> PathBuf {
    // Reading it worked, or is about to fail with a better message.
    let absolute = std::path::absolute(path).unwrap_or_else(|_| path.to_owned());
    if absolute.is_dir() { absolute } else { absolute.parent().unwrap_or(Path::new("/")).to_owned() }
}

/// The file itself, or those of a directory in the order of their names.
fn yaml_files(path: &Path) -> Result<Vec<PathBuf>, SettingsError> {
    if !path.is_dir() {
        return Ok(vec![path.to_owned()]);
    }
    let whole = |text: String| Source::new(path.display().to_string(), "", Syntax::Yaml).error(text, None);
    let entries = std::fs::read_dir(path).map_err(|e| whole(format!("the directory cannot be read: {e}")))?;
    let mut files: Vec<PathBuf> =
        entries.flatten().map(|entry| entry.path()).filter(|path| is_yaml(path) && path.is_file()).collect();
    files.sort();
    if files.is_empty() { Err(whole("there is no *.yml or *.yaml in it".to_owned())) } else { Ok(files) }
}

/// The document that one variable holds.
fn whole_document(environment: &Environment) -> Vec<Source> {
    let text = environment.get("CONFIGURATION");
    text.map(|text| Source::new("PATRONI_CONFIGURATION", text, Syntax::Yaml)).into_iter().collect()
}

fn check_toml(
    file: settings_file::Loaded<RawConfig>,
    base: &Path,
    resolve: Resolve,
) -> Result<Loaded, SettingsError> {
    let mut sources = Sources::default();
    sources.add_file(file.source);
    let mut cx = Check::new(Dialect::Native, base, resolve);
    let config = check::check(file.value, &mut cx).map_err(|problem| sources.error(problem))?;
    Ok(Loaded { config, warnings: cx.remarks.iter().map(|remark| sources.remark(remark)).collect() })
}

fn check_yaml(
    texts: Vec<Source>,
    environment: &Environment,
    base: &Path,
    resolve: Resolve,
) -> Result<Loaded, SettingsError> {
    let mut sources = Sources::default();
    let mut cx = Check::new(Dialect::Patroni, base, resolve);
    let checked = yaml::read(texts, environment, &mut sources).and_then(Document::agent).and_then(
        |(raw, mut remarks)| {
            let config = check::check(raw, &mut cx)?;
            remarks.append(&mut cx.remarks);
            // In the order in which they are read by whoever corrects the file.
            remarks.sort_by_key(|remark| remark.at.as_ref().map(|at| at.start));
            Ok((config, remarks))
        },
    );
    let (config, remarks) = checked.map_err(|problem| sources.error(problem))?;
    Ok(Loaded { config, warnings: remarks.iter().map(|remark| sources.remark(remark)).collect() })
}

/// Asks the resolver of this host.
fn by_name(host: &str, port: u16) -> Option<SocketAddr> {
    (host, port).to_socket_addrs().ok()?.next()
}

/// Knows no name.
fn by_number(_: &str, _: u16) -> Option<SocketAddr> {
    None
}

fn warn_of_permissions(loaded: &mut Loaded, files: &[PathBuf]) {
    for file in files {
        let mode = std::fs::metadata(file).map_or(0, |m| m.permissions().mode());
        let warning = permission_warning(&loaded.config, mode);
        loaded.warnings.extend(warning.map(|w| format!("{}: {w}", file.display())));
    }
}

fn permission_warning(config: &Config, mode: u32) -> Option<String> {
    let pg = &config.postgresql;
    let has_secret = [&pg.superuser, &pg.replication, &pg.rewind].iter().any(|r| r.password.is_some())
        || config.etcd.login.is_some()
        || config.restapi.login.is_some();
    (has_secret && mode & 0o077 != 0)
        .then(|| format!("holds passwords and its mode is {:04o}; chmod 600 keeps others out", mode & 0o7777))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn readable_passwords_are_warned_about() {
        let text = include_str!("../../agent.toml.example");
        let config = parse(text, "agent.toml", Path::new("/etc/pgvane")).expect("valid");
        assert_eq!(permission_warning(&config, 0o100_600), None);
        let warning = permission_warning(&config, 0o100_644).expect("a warning");
        assert_eq!(warning, "holds passwords and its mode is 0644; chmod 600 keeps others out");
    }
}
