//! A node's other daemon: Patroni itself, with the same name, data directory, ports and passwords as our agent.

use std::ffi::OsString;
use std::fs;
use std::io;
use std::path::{Path, PathBuf};

use super::home::Home;
use super::node::NodeOptions;
use super::{CLIENT_ROLE, PlaygroundError, SCOPE};
use crate::install;

/// What installed it and does not run it.
const TOOLS: [&str; 4] = ["pip", "setuptools", "pkg_resources", "_distutils_hack"];

/// A copy that the servers' user can reach. That its interpreter lies in the playground's directory also tells
/// the janitor whose processes these are.
#[derive(Clone, Debug)]
pub(super) struct Patroni {
    python: PathBuf,
    home: PathBuf,
    packages: PathBuf,
}

impl Patroni {
    pub(super) fn copy(
        home: &Home,
        installed: &install::patroni::Patroni,
    ) -> Result<Patroni, PlaygroundError> {
        let python = home.program(Path::new("patroni-python"));
        let packages = home.dir().join("bin/patroni-packages");
        fs::copy(&installed.python, &python)
            .and_then(|_| copy_tree(&installed.packages, &packages))
            .map_err(PlaygroundError::io("cannot copy Patroni"))?;
        Ok(Patroni { python, home: installed.home.clone(), packages })
    }

    pub(super) fn program(&self) -> &Path {
        &self.python
    }

    pub(super) fn args(settings: &Path) -> [OsString; 3] {
        ["-m".into(), "patroni".into(), settings.into()]
    }

    pub(super) fn environment(&self) -> [(&'static str, OsString); 4] {
        [
            ("PYTHONHOME", self.home.clone().into()),
            ("PYTHONPATH", self.packages.clone().into()),
            // Owned by another user than the one who runs it.
            ("PYTHONDONTWRITEBYTECODE", "1".into()),
            ("PYTHONUNBUFFERED", "1".into()),
        ]
    }
}

fn copy_tree(from: &Path, to: &Path) -> io::Result<()> {
    fs::create_dir(to)?;
    for entry in fs::read_dir(from)? {
        let entry = entry?;
        let name = entry.file_name();
        if TOOLS.iter().any(|tool| name.to_string_lossy().starts_with(tool)) {
            continue;
        }
        if entry.file_type()?.is_dir() {
            copy_tree(&entry.path(), &to.join(name))?;
        } else {
            fs::copy(entry.path(), to.join(name))?;
        }
    }
    Ok(())
}

/// The node's `patroni.yml`: what `agent.toml` says, in Patroni's words.
pub(super) fn settings(options: &NodeOptions, dir: &Path) -> String {
    let NodeOptions { name, etcd, rest, rest_shown, postgres, .. } = options;
    let etcd = etcd.yaml();
    let NodeOptions { superuser_password, replication_password, ttl, loop_wait, retry_timeout, .. } = options;
    let NodeOptions { max_connections, login, .. } = options;
    let (bin_dir, dir) = (options.bin_dir.display(), dir.display());
    let login = login.as_ref().map_or(String::new(), |(user, password)| {
        format!("  authentication:\n    username: {user}\n    password: {password}\n")
    });
    format!(
        "name: {name}
scope: {SCOPE}

etcd3:
{etcd}
restapi:
  listen: {rest}
  connect_address: {rest_shown}
{login}
bootstrap:
  dcs:
    ttl: {ttl}
    loop_wait: {loop_wait}
    retry_timeout: {retry_timeout}
    postgresql:
      use_pg_rewind: true
      parameters:
        max_connections: {max_connections}
  initdb:
    - encoding: UTF8
    - data-checksums

postgresql:
  listen: {postgres}
  connect_address: {postgres}
  data_dir: {dir}/data
  bin_dir: {bin_dir}
  pgpass: {dir}/pgpass
  authentication:
    superuser:
      username: postgres
      password: {superuser_password}
    replication:
      username: replicator
      password: {replication_password}
  pg_hba:
    - host all {CLIENT_ROLE} 127.0.0.1/32 trust
    - host all all 127.0.0.1/32 scram-sha-256
    - host replication all 127.0.0.1/32 scram-sha-256
  parameters:
    shared_buffers: 16MB
    max_wal_size: 256MB
    dynamic_shared_memory_type: mmap
    unix_socket_directories: ''
"
    )
}

/// The same where the passwords of roles come through the environment.
pub(super) fn without_passwords(settings: &str) -> String {
    settings
        .lines()
        .filter(|line| !line.starts_with("      password:"))
        .map(|line| format!("{line}\n"))
        .collect()
}
