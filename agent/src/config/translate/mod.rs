//! A patroni.yml written as an agent.toml that means the same, and what became of each of its settings.
//!
//! Nothing is looked up: the files and programs that the settings name are those of another host, maybe.

mod fates;
mod native;
#[cfg(test)]
mod tests;

use std::net::SocketAddr;
use std::path::Path;

use pgvane_cluster::settings::ClusterSettings;
use pgvane_cluster::settings_file::{self, SettingsError, Source, Syntax};

use super::check::{self, Check, Checked, Dialect, Problem};
use super::raw::RawConfig;
use super::sources::Sources;
use super::{Config, Environment, yaml};
use crate::reload::differences;

/// An agent.toml and how it came to be.
#[derive(Debug)]
pub struct Translated {
    /// Its text. It holds passwords.
    pub toml: String,
    /// What it says.
    pub config: Config,
    /// What became of every setting of the patroni.yml, in the order of that file.
    pub settings: Vec<Setting>,
}

/// What became of one setting.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Setting {
    /// `file:line`, or the variable that said it.
    pub place: String,
    /// Its name. Values that may be secret are not in it.
    pub name: String,
    /// What became of it.
    pub fate: Fate,
}

/// What may become of a setting.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Fate {
    /// It means the same under this key.
    Carried(String),
    /// Something else stands for it.
    Changed {
        /// Under which key.
        to: String,
        /// How, and why.
        why: String,
    },
    /// Nothing stands for it.
    Left {
        /// Why.
        why: String,
    },
}

/// Writes the `text` of `file`, a patroni.yml with the variables of its `environment`, as an agent.toml. Relative
/// paths are taken from `base` and become absolute.
pub fn translate(
    text: &str,
    file: &str,
    base: &Path,
    environment: &Environment,
) -> Result<Translated, SettingsError> {
    let mut sources = Sources::default();
    let source = Source::new(file, text, Syntax::Yaml);
    translated(source, base, environment, &mut sources).map_err(|problem| sources.error(problem))
}

fn translated(
    source: Source,
    base: &Path,
    environment: &Environment,
    sources: &mut Sources,
) -> Checked<Translated> {
    let file = source.file().to_owned();
    let document = yaml::read(vec![source], environment, sources)?;
    let leaves = document.leaves();
    let (to_check, mut remarks) = document.clone().agent()?;
    let mut cx = Check::new(Dialect::Patroni, base, anywhere).elsewhere();
    let meant = check::check(to_check, &mut cx)?;
    remarks.append(&mut cx.remarks);
    let (raw, _) = document.agent()?;
    let methods = fates::Methods::of(&raw);
    let native = native::table(raw, &remarks, base)?;
    let toml = native::print(&native.table)?;
    let config = read_again(&toml, base)?;
    let mut settings = fates::of(&leaves, &remarks, &native.table, &methods, sources);
    settings.extend(fates::of_no_line(&file, &remarks));
    settings.extend(native.written_out.iter().map(|key| fates::written_out(key)));
    settings.extend(still_different(&meant, &config).iter().map(|key| fates::default_of_ours(key)));
    Ok(Translated { toml, config, settings })
}

/// Every name may be listened on where the settings are used.
#[expect(clippy::unnecessary_wraps, reason = "others may not know a name")]
fn anywhere(_: &str, port: u16) -> Option<SocketAddr> {
    Some(([0, 0, 0, 0], port).into())
}

/// What was written, as the agent will read it.
fn read_again(toml: &str, base: &Path) -> Checked<Config> {
    let problem =
        |text: String| Problem { at: None, text: format!("it cannot be said in agent.toml: {text}") };
    let loaded = settings_file::parse::<RawConfig>("agent.toml", toml).map_err(|e| problem(e.to_string()))?;
    let mut cx = Check::new(Dialect::Native, base, anywhere).elsewhere();
    check::check(loaded.value, &mut cx).map_err(|found| problem(found.text))
}

/// Settings that do not mean the same, by name.
fn still_different(meant: &Config, written: &Config) -> Vec<String> {
    let mut meant = meant.clone();
    let settings = |config: &Config| ClusterSettings::from_json(&config.bootstrap.dcs).0;
    if settings(&meant) == settings(written) {
        // Other words for the same.
        meant.bootstrap.dcs = written.bootstrap.dcs.clone();
    }
    differences(&meant, written)
}
