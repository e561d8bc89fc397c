//! Where a process runs: in this program's own network, or in a namespace with an address of its own.

use std::ffi::{OsStr, OsString};
use std::path::{Path, PathBuf};

use tokio::process::Command;

use super::account::Account;

/// Where a process runs, and what is put into its environment. By default: here, and nothing.
#[derive(Clone, Debug, Default)]
pub struct Place {
    namespace: Option<PathBuf>,
    environment: Vec<(&'static str, OsString)>,
    as_root: bool,
}

impl Place {
    /// In the network namespace that this file names.
    pub(crate) fn in_namespace(namespace: PathBuf) -> Place {
        Place { namespace: Some(namespace), ..Place::default() }
    }

    /// The same place, where what is started stays root, as what changes addresses must.
    #[must_use]
    pub(super) fn kept_by_root(mut self) -> Place {
        self.as_root = true;
        self
    }

    /// The same place, with this in the environment of what is started.
    #[must_use]
    pub(crate) fn with_environment(mut self, environment: Vec<(&'static str, OsString)>) -> Place {
        self.environment.extend(environment);
        self
    }

    /// The file that names the network namespace; `None`: this program's own.
    pub fn namespace(&self) -> Option<&Path> {
        self.namespace.as_deref()
    }

    pub(super) fn has_environment(&self) -> bool {
        !self.environment.is_empty()
    }

    /// A command that starts `program` here as `account`, and becomes it: its process id is the program's.
    pub(super) fn command(&self, program: &Path, account: Option<&Account>) -> Command {
        let account = account.filter(|_| !self.as_root);
        let mut words = Vec::new();
        if let Some(namespace) = &self.namespace {
            words.extend([OsString::from("nsenter"), joined("--net=", namespace)]);
            if let Some(Account { uid, gid, .. }) = account {
                // Only root may enter; so who enters changes to the account itself.
                words.extend(["--setuid".into(), uid.to_string().into(), "--setgid".into()]);
                words.push(gid.to_string().into());
            }
            words.push("--".into());
        }
        if self.has_environment() {
            // By `env`, so that it reaches the program and not those who only bring it here.
            words.push("env".into());
            words.extend(self.environment.iter().map(|(key, value)| joined(&format!("{key}="), value)));
        }
        words.push(program.into());
        let mut command = Command::new(&words[0]);
        command.args(&words[1..]);
        if let (None, Some(Account { uid, gid, .. })) = (&self.namespace, account) {
            command.uid(*uid).gid(*gid);
        }
        command
    }
}

fn joined(key: &str, value: impl AsRef<OsStr>) -> OsString {
    let mut pair = OsString::from(key);
    pair.push(value);
    pair
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_place_is_entered_before_the_account_is_taken_and_the_environment_set() {
        let account = Account { name: "postgres".to_owned(), uid: 101, gid: 104 };
        let place = Place::in_namespace("/run/netns/x".into())
            .with_environment(vec![("LD_PRELOAD", OsString::from("/lib/y.so"))]);
        let command = place.command(Path::new("/bin/etcd"), Some(&account));
        let shown = format!("{:?}", command.as_std());
        let expected = r#""nsenter" "--net=/run/netns/x" "--setuid" "101" "--setgid" "104" "--" "env" "LD_PRELOAD=/lib/y.so" "/bin/etcd""#;
        assert_eq!(shown, expected);
        assert_eq!(
            format!("{:?}", Place::default().command(Path::new("/bin/etcd"), None).as_std()),
            r#""/bin/etcd""#
        );
    }
}
