//! What people ran before: a patroni.yml and a haproxy.cfg become an agent.toml and a proxy.toml, and every setting
//! of the two is accounted for.
//!
//! Pure but for names that a `bind` may hold: what is read and written is the caller's business.

mod account;
mod haproxy;
mod plan;
mod proxy_toml;
#[cfg(test)]
mod tests;

use std::net::IpAddr;
use std::path::Path;

use pgvane_cluster::settings_file::SettingsError;

use self::haproxy::{Kind, Section};
use crate::config::{Config, Environment, Setting, translate};

/// A file that is to be imported.
#[derive(Clone, Copy, Debug)]
pub struct Input<'a> {
    /// Its name, for messages.
    pub file: &'a str,
    /// What it says.
    pub text: &'a str,
}

/// What the files refer to beside themselves.
pub struct Surroundings<'a> {
    /// Where relative paths of the patroni.yml begin.
    pub base: &'a Path,
    /// Patroni's variables.
    pub environment: &'a Environment,
    /// Any variable, for haproxy.cfg.
    pub variable: &'a dyn Fn(&str) -> Option<String>,
    /// The addresses of a host name; none where it is not known.
    pub resolve: &'a dyn Fn(&str) -> Vec<IpAddr>,
}

/// What became of the files.
#[derive(Debug)]
pub struct Imported {
    /// The text of an agent.toml, where there was a patroni.yml. It holds passwords.
    pub agent: Option<String>,
    /// The text of a proxy.toml, where there was a haproxy.cfg. It may hold etcd's password.
    pub proxy: Option<String>,
    /// What became of every setting.
    pub settings: Vec<Setting>,
}

/// Why files cannot be imported.
#[derive(Debug, thiserror::Error)]
pub enum ImportError {
    /// The patroni.yml.
    #[error("{0}")]
    Patroni(#[from] SettingsError),
    /// The haproxy.cfg: file, line, column, what was seen, what is allowed.
    #[error("{0}")]
    Haproxy(String),
}

/// Imports one of the two files, or both.
pub fn import(
    patroni: Option<Input<'_>>,
    haproxy: Option<Input<'_>>,
    surroundings: &Surroundings<'_>,
) -> Result<Imported, ImportError> {
    let mut imported = Imported { agent: None, proxy: None, settings: vec![] };
    let mut config = None;
    if let Some(Input { file, text }) = patroni {
        let translated = translate(text, file, surroundings.base, surroundings.environment)?;
        imported.agent = Some(translated.toml);
        imported.settings = translated.settings;
        config = Some(translated.config);
    }
    if let Some(input) = haproxy {
        let (text, settings) = proxy(input, config.as_ref(), surroundings).map_err(ImportError::Haproxy)?;
        imported.proxy = Some(text);
        imported.settings.extend(settings);
    }
    Ok(imported)
}

fn proxy(
    Input { file, text }: Input<'_>,
    config: Option<&Config>,
    surroundings: &Surroundings<'_>,
) -> Result<(String, Vec<Setting>), String> {
    let placed = |wrong: haproxy::Wrong| format!("{file}:{wrong}");
    let sections = haproxy::parse(text, surroundings.variable).map_err(placed)?;
    let proxies = haproxy::proxies(&sections, surroundings.resolve).map_err(placed)?;
    let plan = plan::plan(&proxies, maxconn(&sections), config);
    if plan.listeners.is_empty() {
        let parts = proxies.iter().zip(&plan.parts);
        let whys: Vec<String> = parts.filter_map(|(proxy, part)| why_none(proxy, part)).collect();
        let seen = if whys.is_empty() { "no frontend and no listen".to_owned() } else { whys.join("; ") };
        return Err(format!(
            "{file}: nothing in it leads clients to PostgreSQL: {seen}; needed: a `listen`, or a `frontend` with its \
             backend, in TCP mode, with servers whose checks tell their role (option httpchk GET /primary, option \
             pgsql-check, ...)"
        ));
    }
    let settings = account::account(file, &sections, &proxies, &plan);
    Ok((proxy_toml::text(&plan), settings))
}

fn why_none(proxy: &haproxy::Proxy, part: &plan::Part) -> Option<String> {
    match part {
        plan::Part::None(why) => Some(format!("{} ({why})", proxy.name)),
        plan::Part::Stats => Some(format!("{} (statistics)", proxy.name)),
        plan::Part::Listener(_) => None,
    }
}

/// The limit of the whole process.
fn maxconn(sections: &[Section]) -> Option<u64> {
    let lines =
        sections.iter().filter(|section| section.kind == Kind::Global).flat_map(|section| &section.lines);
    lines.filter(|line| line.word(0) == "maxconn").find_map(|line| line.word(1).parse().ok())
}
