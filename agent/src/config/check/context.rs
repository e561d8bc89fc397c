//! What every check works with: in which form the settings were written, where its relative paths begin, what was
//! found odd.

use std::borrow::Cow;
use std::net::SocketAddr;
use std::ops::Range;
use std::path::{Path, PathBuf};

use pgvane_cluster::settings_file::Spanned;

/// In which form settings were written. Their meaning is the same; names and some defaults are not.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(in crate::config) enum Dialect {
    /// agent.toml.
    Native,
    /// patroni.yml.
    Patroni,
}

/// Finds the address of a host name that is to be listened on.
pub(in crate::config) type Resolve = fn(&str, u16) -> Option<SocketAddr>;

/// What is wrong, and where in the text.
#[derive(Debug)]
pub(in crate::config) struct Problem {
    pub(in crate::config) at: Option<Range<usize>>,
    pub(in crate::config) text: String,
}

/// What is odd without being wrong, and where.
#[derive(Clone, Debug)]
pub(in crate::config) struct Remark {
    pub(in crate::config) at: Option<Range<usize>>,
    pub(in crate::config) text: String,
}

pub(in crate::config) type Checked<T> = Result<T, Problem>;

/// What every check works with.
pub(in crate::config) struct Check<'a> {
    dialect: Dialect,
    base: &'a Path,
    resolve: Resolve,
    /// Whether the settings are for this host, whose files can be looked at.
    here: bool,
    pub(in crate::config) remarks: Vec<Remark>,
}

impl Check<'_> {
    /// Relative paths are taken from `base`, the directory of the file.
    pub(in crate::config) fn new(dialect: Dialect, base: &Path, resolve: Resolve) -> Check<'_> {
        Check { dialect, base, resolve, here: true, remarks: vec![] }
    }

    /// For settings of another host: no file they name is looked for on this one.
    pub(in crate::config) fn elsewhere(self) -> Self {
        Check { here: false, ..self }
    }

    /// Whether the files that settings name can be looked at.
    pub(super) fn is_here(&self) -> bool {
        self.here
    }

    pub(in crate::config) fn is_patroni(&self) -> bool {
        match self.dialect {
            Dialect::Native => false,
            Dialect::Patroni => true,
        }
    }

    /// A key as the operator has written it.
    pub(in crate::config) fn key<'k>(&self, native: &'k str) -> Cow<'k, str> {
        match self.dialect {
            Dialect::Native => Cow::Borrowed(native),
            Dialect::Patroni => patroni_key(native),
        }
    }

    pub(in crate::config) fn path(&self, path: &Spanned<PathBuf>) -> PathBuf {
        self.base.join(path.get_ref())
    }

    pub(super) fn resolve(&self, host: &str, port: u16) -> Option<SocketAddr> {
        (self.resolve)(host, port)
    }

    /// A value that is refused; `key` is its native name.
    pub(super) fn wrong<T, V>(&self, value: &Spanned<V>, key: &str, text: impl AsRef<str>) -> Checked<T> {
        let text = format!("{}: {}", self.key(key), text.as_ref());
        Err(Problem { at: Some(value.span()), text })
    }

    /// A value that Patroni would pass over with a message, and that a file of our own must not have.
    pub(super) fn leave_out<V>(&mut self, value: &Spanned<V>, key: &str, text: &str) -> Checked<()> {
        match self.dialect {
            Dialect::Native => self.wrong(value, key, text),
            Dialect::Patroni => {
                let text = format!("{}: {text}; it is ignored", self.key(key));
                self.remarks.push(Remark { at: Some(value.span()), text });
                Ok(())
            }
        }
    }

    /// A file that must be there for us to read.
    pub(super) fn readable(&self, file: &Spanned<PathBuf>, key: &str) -> Checked<PathBuf> {
        let path = self.path(file);
        if !self.here {
            return Ok(path);
        }
        match std::fs::File::open(&path) {
            Ok(_) => Ok(path),
            Err(e) => self.wrong(file, key, format!("{}: {e}", path.display())),
        }
    }
}

/// A value that is refused, with a text that names its key.
pub(super) fn refuse<T, V>(value: &Spanned<V>, text: impl Into<String>) -> Checked<T> {
    Err(Problem { at: Some(value.span()), text: text.into() })
}

/// Something that is not there and must be.
pub(super) fn missing<T>(text: impl Into<String>) -> Checked<T> {
    Err(Problem { at: None, text: text.into() })
}

/// Native keys that are called otherwise in patroni.yml.
const RENAMED: &[(&str, &str)] = &[
    ("etcd.endpoints", "etcd3.hosts"),
    ("etcd.discover", "etcd3.use_proxies"),
    ("bootstrap.allowed", "bootstrap"),
    ("ctl.cafile", "ctl.cacert"),
    ("postgresql.replica_methods", "postgresql.create_replica_methods"),
    ("postgresql.rewind_options", "postgresql.rewind"),
    ("restapi.login", "restapi.authentication"),
    ("ctl.login", "ctl.authentication"),
    ("log.line_format", "log.format"),
    ("log.format", "log.type"),
    ("log.date_format", "log.dateformat"),
    ("log.deduplicate_heartbeats", "log.deduplicate_heartbeat_logs"),
];

/// How native keys begin that stand in another section of patroni.yml.
const MOVED: &[(&str, &str)] = &[
    ("etcd.", "etcd3."),
    ("restapi.username", "restapi.authentication.username"),
    ("restapi.password", "restapi.authentication.password"),
    ("ctl.username", "ctl.authentication.username"),
    ("ctl.password", "ctl.authentication.password"),
    ("postgresql.superuser.", "postgresql.authentication.superuser."),
    ("postgresql.replication.", "postgresql.authentication.replication."),
    ("postgresql.rewind.", "postgresql.authentication.rewind."),
    ("postgresql.bin_names.", "postgresql.bin_name."),
    ("timing.", "pgvane.timing."),
    ("guard.", "pgvane.guard."),
];

/// What a native key is called in patroni.yml.
pub(in crate::config) fn patroni_key(native: &str) -> Cow<'_, str> {
    if let Some((_, patroni)) = RENAMED.iter().find(|(key, _)| *key == native) {
        return Cow::Borrowed(patroni);
    }
    match MOVED.iter().find_map(|(from, to)| Some((to, native.strip_prefix(from)?))) {
        Some((to, rest)) => Cow::Owned(format!("{to}{rest}")),
        None => Cow::Borrowed(native),
    }
}

/// What a key of patroni.yml is called in agent.toml.
pub(in crate::config) fn native_key(patroni: &str) -> Cow<'_, str> {
    if let Some((native, _)) = RENAMED.iter().find(|(_, key)| *key == patroni) {
        return Cow::Borrowed(native);
    }
    match MOVED.iter().find_map(|(to, from)| Some((to, patroni.strip_prefix(from)?))) {
        Some((to, rest)) => Cow::Owned(format!("{to}{rest}")),
        None => Cow::Borrowed(patroni),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn keys_are_called_as_they_were_written() {
        for (native, patroni) in [
            ("etcd.endpoints", "etcd3.hosts"),
            ("etcd.cert", "etcd3.cert"),
            ("restapi.username", "restapi.authentication.username"),
            ("postgresql.superuser.password", "postgresql.authentication.superuser.password"),
            ("postgresql.rewind_options", "postgresql.rewind"),
            ("restapi.login", "restapi.authentication"),
            ("ctl.login", "ctl.authentication"),
            ("guard.socket", "pgvane.guard.socket"),
            ("restapi.listen", "restapi.listen"),
        ] {
            assert_eq!(patroni_key(native), patroni);
            assert_eq!(native_key(patroni), native);
        }
    }
}
