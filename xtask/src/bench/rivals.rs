//! The other proxies of this machine: found, or installed from the distribution's packages.

use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use super::options::{Options, Peer};
use crate::install::{self, InstallError};

/// Names a newer HAProxy than the distribution's.
const HAPROXY: &str = "HAPROXY_BIN";

/// Names another build of pgvane.
const BASE: &str = "PGVANE_BASE";

/// Where their programs lie; `None` for who is not wanted or cannot be had.
#[derive(Debug, Default)]
pub(super) struct Rivals {
    pub(super) haproxy: Option<PathBuf>,
    pub(super) nginx: Option<Nginx>,
    pub(super) pgbouncer: Option<PathBuf>,
    pub(super) base: Option<PathBuf>,
}

/// nginx and its stream module, where that is a file of its own.
#[derive(Debug)]
pub(super) struct Nginx {
    pub(super) program: PathBuf,
    pub(super) module: Option<PathBuf>,
}

impl Rivals {
    /// Finds who is wanted; also says who is left out and why.
    pub(super) fn gather(options: &Options) -> (Rivals, Vec<String>) {
        let mut left_out = Vec::new();
        let mut note = |peer: Peer, found: Result<PathBuf, String>| {
            found.map_err(|why| left_out.push(format!("{} is left out: {why}", peer.name()))).ok()
        };
        let mut rivals = Rivals::default();
        if options.wants(Peer::Haproxy) || options.wants(Peer::HaproxySplice) {
            rivals.haproxy = note(Peer::Haproxy, haproxy());
        }
        if options.wants(Peer::Nginx) {
            let program = note(Peer::Nginx, told(install::nginx()));
            rivals.nginx = program.map(|program| Nginx { program, module: install::nginx_stream_module() });
        }
        if options.wants(Peer::Pgbouncer) {
            rivals.pgbouncer = note(Peer::Pgbouncer, told(install::pgbouncer()));
        }
        if let Some(base) = std::env::var_os(BASE).filter(|_| options.wants(Peer::PgvaneBase)) {
            rivals.base = note(Peer::PgvaneBase, named(BASE, base.into()));
        }
        (rivals, left_out)
    }

    pub(super) fn has(&self, peer: Peer) -> bool {
        match peer {
            Peer::Direct | Peer::Pgvane => true,
            Peer::Haproxy | Peer::HaproxySplice => self.haproxy.is_some(),
            Peer::Nginx => self.nginx.is_some(),
            Peer::Pgbouncer => self.pgbouncer.is_some(),
            Peer::PgvaneBase => self.base.is_some(),
        }
    }

    pub(super) fn programs(&self) -> impl Iterator<Item = &Path> {
        let nginx = self.nginx.as_ref().map(|nginx| &nginx.program);
        [self.haproxy.as_ref(), nginx, self.pgbouncer.as_ref(), self.base.as_ref()]
            .into_iter()
            .flatten()
            .map(PathBuf::as_path)
    }
}

/// The one that the user names, else the system's.
fn haproxy() -> Result<PathBuf, String> {
    match std::env::var_os(HAPROXY) {
        Some(path) => named(HAPROXY, path.into()),
        None => told(install::haproxy()),
    }
}

fn named(variable: &str, path: PathBuf) -> Result<PathBuf, String> {
    if path.is_file() {
        Ok(path)
    } else {
        Err(format!("{variable} names {}, which is no file", path.display()))
    }
}

fn told(found: Result<PathBuf, InstallError>) -> Result<PathBuf, String> {
    found.map_err(|e| e.to_string())
}

/// What a program says of its version: the first line, wherever it is written to.
pub(super) fn version(program: &Path, flag: &str) -> String {
    let output = Command::new(program).arg(flag).stdin(Stdio::null()).output();
    let Ok(output) = output else { return "unknown".to_owned() };
    let text = [output.stdout, output.stderr].concat();
    String::from_utf8_lossy(&text).lines().next().unwrap_or("unknown").trim().to_owned()
}
