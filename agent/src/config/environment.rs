//! The variables of the environment that Patroni is told by: `PATRONI_*`.

use std::collections::BTreeMap;
use std::fmt;

use pgvane_cluster::settings_file::is_secret;

/// What all of them begin with.
const PREFIX: &str = "PATRONI_";

/// The variables, by their names without the prefix.
#[derive(Clone, PartialEq, Eq, Default)]
pub struct Environment(BTreeMap<String, String>);

impl Environment {
    /// Those of this process.
    pub fn of_process() -> Environment {
        let text = |(name, value): (std::ffi::OsString, std::ffi::OsString)| {
            Some((name.into_string().ok()?, value.into_string().ok()?))
        };
        Environment::of(std::env::vars_os().filter_map(text))
    }

    /// Those among `variables`; empty ones say nothing.
    pub fn of(variables: impl IntoIterator<Item = (String, String)>) -> Environment {
        let ours = |(name, value): (String, String)| {
            let name = name.strip_prefix(PREFIX)?.to_owned();
            (!value.is_empty()).then_some((name, value))
        };
        Environment(variables.into_iter().filter_map(ours).collect())
    }

    /// Whether there is none.
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// Their full names.
    pub fn names(&self) -> impl Iterator<Item = String> {
        self.0.keys().map(|name| format!("{PREFIX}{name}"))
    }

    /// The value of the one of this name, which is said without the prefix.
    pub(super) fn get(&self, name: &str) -> Option<&str> {
        self.0.get(name).map(String::as_str)
    }

    /// Name without the prefix, and value.
    pub(super) fn iter(&self) -> impl Iterator<Item = (&str, &str)> {
        self.0.iter().map(|(name, value)| (name.as_str(), value.as_str()))
    }

    /// Full name of a variable.
    pub(super) fn full_name(name: &str) -> String {
        format!("{PREFIX}{name}")
    }

    /// All of them as text that [`Environment::read`] takes.
    pub fn written(&self) -> Vec<u8> {
        let pair = |(name, value): (&String, &String)| format!("{name}={value}\0");
        self.0.iter().map(pair).collect::<String>().into_bytes()
    }

    /// What [`Environment::written`] wrote.
    pub fn read(written: &[u8]) -> Environment {
        let text = String::from_utf8_lossy(written);
        let pair = |pair: &str| pair.split_once('=').map(|(name, value)| (name.to_owned(), value.to_owned()));
        Environment(text.split('\0').filter_map(pair).collect())
    }
}

impl fmt::Debug for Environment {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let shown = |(name, value): (&'_ String, &'_ String)| {
            (name.clone(), if is_secret(name) { "***".to_owned() } else { value.clone() })
        };
        f.debug_map().entries(self.0.iter().map(shown)).finish()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn values_survive_the_way_to_the_next_process_and_secrets_are_not_shown() {
        let variables = [
            ("PATRONI_SCOPE", "a=b\nc"),
            ("PATRONI_SUPERUSER_PASSWORD", "hunter2"),
            ("PATRONI_NAME", ""),
            ("PGPASSWORD", "x"),
        ];
        let given = Environment::of(variables.map(|(name, value)| (name.to_owned(), value.to_owned())));
        assert_eq!(Environment::read(&given.written()), given);
        assert_eq!(given.names().collect::<Vec<_>>(), ["PATRONI_SCOPE", "PATRONI_SUPERUSER_PASSWORD"]);
        assert_eq!(given.get("SCOPE"), Some("a=b\nc"));
        assert!(!format!("{given:?}").contains("hunter2"));
    }
}
