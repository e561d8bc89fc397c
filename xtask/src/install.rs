//! Finds PostgreSQL, etcd, the proxies to compare with, a browser, Prometheus and pgBackRest on this machine, and installs
//! what is missing with its package manager.

use std::env;
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::sync::{Mutex, PoisonError};

use rustix::process::geteuid;

use crate::playground::account::Account;

pub mod patroni;
pub mod versions;

/// Names another `etcd` than the one that is found.
pub const ETCD: &str = "PGVANE_ETCD";

/// Names the directory of another PostgreSQL's programs than the one that is found.
pub const POSTGRES: &str = "PGVANE_POSTGRES";

/// The servers' programs.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Servers {
    /// `etcd` itself.
    pub etcd: PathBuf,
    /// The directory with `postgres`, `initdb` and the rest.
    pub postgres: PathBuf,
}

/// Prometheus's programs.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Prometheus {
    /// The server.
    pub server: PathBuf,
    /// What checks its files.
    pub promtool: PathBuf,
}

/// Why the servers cannot be had.
#[derive(Debug, thiserror::Error)]
pub enum InstallError {
    /// We may not, or do not know how to.
    #[error("{missing} missing and cannot be installed from here ({why}). Install {packages} and try again.")]
    NotAllowed {
        /// What is missing, with its verb.
        missing: String,
        /// Why not.
        why: &'static str,
        /// What to install.
        packages: String,
    },
    /// The package manager failed.
    #[error("installing {packages} failed: {why}")]
    Failed {
        /// What was to be installed.
        packages: String,
        /// What happened.
        why: String,
    },
    /// It reported success and the programs are still not there.
    #[error("{0} cannot be found although the packages are installed")]
    StillMissing(String),
    /// The environment names programs that are not there.
    #[error("{variable}={}: {wanted} is not there; name another, or unset it", path.display())]
    Misnamed {
        /// The variable.
        variable: &'static str,
        /// What it says.
        path: PathBuf,
        /// What is looked for.
        wanted: &'static str,
    },
}

/// Something to install, and how it is called in Debian and Ubuntu.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Part {
    Postgres,
    Etcd,
    Etcdctl,
    Python,
    Haproxy,
    Nginx,
    Pgbouncer,
    Chromium,
    Namespaces,
    Faketime,
    Prometheus,
    Keepalived,
    Pgbackrest,
}

impl Part {
    fn name(self) -> &'static str {
        match self {
            Part::Postgres => "PostgreSQL",
            Part::Etcd => "etcd",
            Part::Etcdctl => "etcdctl",
            Part::Python => "Python with venv",
            Part::Haproxy => "HAProxy",
            Part::Nginx => "nginx with its stream module",
            Part::Pgbouncer => "PgBouncer",
            Part::Chromium => "Chromium",
            Part::Namespaces => "nftables and iproute2",
            Part::Faketime => "libfaketime",
            Part::Prometheus => "Prometheus with promtool",
            Part::Keepalived => "Keepalived and curl",
            Part::Pgbackrest => "pgBackRest",
        }
    }

    fn packages(self) -> &'static [&'static str] {
        match self {
            Part::Postgres => &["postgresql"],
            Part::Etcd => &["etcd-server"],
            Part::Etcdctl => &["etcd-client"],
            Part::Python => &["python3-venv"],
            Part::Haproxy => &["haproxy"],
            Part::Nginx => &["nginx", "libnginx-mod-stream"],
            Part::Pgbouncer => &["pgbouncer"],
            // Without a font it shows no text.
            Part::Chromium => &["chromium", "fonts-liberation"],
            Part::Namespaces => &["iproute2", "nftables", "util-linux", "mount", "e2fsprogs"],
            Part::Faketime => &["libfaketime"],
            Part::Prometheus => &["prometheus"],
            // The check script asks with curl.
            Part::Keepalived => &["keepalived", "curl"],
            Part::Pgbackrest => &["pgbackrest"],
        }
    }
}

/// The servers: those that the environment names ([`ETCD`], [`POSTGRES`]), or those of this machine; what is missing is
/// installed first. Says on standard error what it does.
pub fn servers() -> Result<Servers, InstallError> {
    named(ETCD, "that program", Path::is_file)?;
    named(
        POSTGRES,
        "a directory with postgres, initdb, pg_basebackup, pg_controldata and pg_rewind",
        is_complete,
    )?;
    let missing = [(Part::Postgres, postgres().is_none()), (Part::Etcd, etcd().is_none())];
    install(&missing.into_iter().filter_map(|(part, gone)| gone.then_some(part)).collect::<Vec<_>>())?;
    found()
}

/// The servers, if they are there already.
fn found() -> Result<Servers, InstallError> {
    let missing = |part: Part| InstallError::StillMissing(part.name().to_owned());
    Ok(Servers {
        etcd: etcd().ok_or_else(|| missing(Part::Etcd))?,
        postgres: postgres().ok_or_else(|| missing(Part::Postgres))?,
    })
}

/// What the environment names, if it does.
fn named(
    variable: &'static str,
    wanted: &'static str,
    is_there: impl Fn(&Path) -> bool,
) -> Result<Option<PathBuf>, InstallError> {
    let Some(path) = env::var_os(variable).map(PathBuf::from) else { return Ok(None) };
    if is_there(&path) { Ok(Some(path)) } else { Err(InstallError::Misnamed { variable, path, wanted }) }
}

/// The tool of etcd's operators: the one beside the etcd that the environment names, or this machine's.
pub fn etcdctl() -> Result<PathBuf, InstallError> {
    let beside = env::var_os(ETCD).map(|etcd| Path::new(&etcd).with_file_name("etcdctl"));
    match beside.filter(|path| path.is_file()) {
        Some(found) => Ok(found),
        None => program(Part::Etcdctl, "etcdctl", || true),
    }
}

/// A Python that can make virtual environments and that the servers' user may run: the tests run Patroni in one.
pub fn python() -> Result<PathBuf, InstallError> {
    let account = Account::for_servers();
    let works = |python: &Path| {
        let mut probe = Command::new(python);
        probe.args(["-c", "import venv, ensurepip"]).stdout(Stdio::null()).stderr(Stdio::null());
        if let Some(account) = &account {
            probe.uid(account.uid).gid(account.gid).current_dir("/");
        }
        probe.status().is_ok_and(|status| status.success())
    };
    let find = || {
        let candidates = on_path("python3").into_iter().chain([PathBuf::from("/usr/bin/python3")]);
        candidates.into_iter().find(|python| works(python))
    };
    if let Some(python) = find() {
        return Ok(python);
    }
    install(&[Part::Python])?;
    find().ok_or_else(|| InstallError::StillMissing(Part::Python.name().to_owned()))
}

/// Where nginx finds its modules, by distribution.
const NGINX_MODULES: &[&str] =
    &["/usr/lib/nginx/modules", "/usr/share/nginx/modules", "/usr/lib64/nginx/modules"];

/// HAProxy, to be measured against.
pub fn haproxy() -> Result<PathBuf, InstallError> {
    program(Part::Haproxy, "haproxy", || true)
}

/// PgBouncer, to be measured against.
pub fn pgbouncer() -> Result<PathBuf, InstallError> {
    program(Part::Pgbouncer, "pgbouncer", || true)
}

/// nginx, to be measured against.
pub fn nginx() -> Result<PathBuf, InstallError> {
    program(Part::Nginx, "nginx", || nginx_stream_module().is_some())
}

/// A browser: the tests look at the status page with it.
pub fn chromium() -> Result<PathBuf, InstallError> {
    program(Part::Chromium, "chromium", || true)
}

/// Prometheus: the tests ask it what it makes of our metrics, alerts and dashboard.
pub fn prometheus() -> Result<Prometheus, InstallError> {
    let server = program(Part::Prometheus, "prometheus", || found_anywhere("promtool").is_some())?;
    let missing = || InstallError::StillMissing(Part::Prometheus.name().to_owned());
    Ok(Prometheus { server, promtool: found_anywhere("promtool").ok_or_else(missing)? })
}

/// Keepalived, which moves the address of a pair of proxies.
pub fn keepalived() -> Result<PathBuf, InstallError> {
    program(Part::Keepalived, "keepalived", || found_anywhere("curl").is_some())
}

/// pgBackRest: the tests make replicas and clusters with it.
pub fn pgbackrest() -> Result<PathBuf, InstallError> {
    program(Part::Pgbackrest, "pgbackrest", || true)
}

/// What makes and cuts networks and disks for drills: all of it, or an error.
pub fn namespace_tools() -> Result<(), InstallError> {
    let tools = ["ip", "tc", "nft", "nsenter", "mount", "umount", "mkfs.ext4", "fsfreeze"];
    let are_there = || tools.iter().all(|tool| found_anywhere(tool).is_some());
    if !are_there() {
        install(&[Part::Namespaces])?;
    }
    if are_there() { Ok(()) } else { Err(InstallError::StillMissing(Part::Namespaces.name().to_owned())) }
}

/// The library that tells a program another time of day.
pub fn faketime() -> Result<PathBuf, InstallError> {
    let find = || {
        let dirs = std::fs::read_dir("/usr/lib").into_iter().flatten().flatten();
        dirs.map(|dir| dir.path().join("faketime/libfaketimeMT.so.1")).find(|path| path.is_file())
    };
    if let Some(found) = find() {
        return Ok(found);
    }
    install(&[Part::Faketime])?;
    find().ok_or_else(|| InstallError::StillMissing(Part::Faketime.name().to_owned()))
}

/// nginx's stream module, where it is a file of its own.
pub fn nginx_stream_module() -> Option<PathBuf> {
    NGINX_MODULES.iter().map(|dir| Path::new(dir).join("ngx_stream_module.so")).find(|path| path.is_file())
}

fn program(part: Part, program: &str, is_complete: impl Fn() -> bool) -> Result<PathBuf, InstallError> {
    // Of tests that run side by side one installs, and the others find.
    static ONE_AT_A_TIME: Mutex<()> = Mutex::new(());
    let _turn = ONE_AT_A_TIME.lock().unwrap_or_else(PoisonError::into_inner);
    if let Some(found) = found_anywhere(program).filter(|_| is_complete()) {
        return Ok(found);
    }
    install(&[part])?;
    found_anywhere(program).ok_or_else(|| InstallError::StillMissing(part.name().to_owned()))
}

/// Debian has some programs where only root's PATH leads.
fn found_anywhere(program: &str) -> Option<PathBuf> {
    on_path(program).or_else(|| Some(Path::new("/usr/sbin").join(program)).filter(|path| path.is_file()))
}

fn etcd() -> Option<PathBuf> {
    env::var_os(ETCD)
        .map(PathBuf::from)
        .or_else(|| on_path("etcd"))
        .or_else(|| Some(PathBuf::from("/usr/local/bin/etcd")).filter(|p| p.is_file()))
}

/// The PostgreSQL that the environment names, else the newest of the distribution's layout, else the one in PATH.
fn postgres() -> Option<PathBuf> {
    if let Some(named) = env::var_os(POSTGRES) {
        return Some(named.into());
    }
    let versions = std::fs::read_dir("/usr/lib/postgresql").into_iter().flatten().flatten();
    let newest = versions
        .filter_map(|v| Some((v.file_name().to_str()?.parse::<u32>().ok()?, v.path().join("bin"))))
        .filter(|(_, bin)| is_complete(bin))
        .max();
    newest.map(|(_, bin)| bin).or_else(|| {
        let program = on_path("postgres")?.canonicalize().ok()?;
        program.parent().map(Path::to_owned).filter(|bin| is_complete(bin))
    })
}

fn is_complete(bin: &Path) -> bool {
    ["postgres", "initdb", "pg_basebackup", "pg_controldata", "pg_rewind"]
        .iter()
        .all(|p| bin.join(p).is_file())
}

fn on_path(program: &str) -> Option<PathBuf> {
    env::split_paths(&env::var_os("PATH")?).map(|dir| dir.join(program)).find(|path| path.is_file())
}

/// Services of packages that were just installed must not start: the playground runs its own, and a cluster
/// that nobody asked for would take port 5432. Both settings are put back afterwards.
const INSTALL: &str = r#"
set -eu
policy=/usr/sbin/policy-rc.d
create=/etc/postgresql-common/createcluster.conf
mine=
cleanup() { [ -z "$mine" ] || rm -f "$policy"; [ ! -e "$create.pgvane" ] || mv "$create.pgvane" "$create"; }
trap cleanup EXIT
if [ ! -e "$policy" ]; then mine=1; printf '#!/bin/sh\nexit 101\n' >"$policy"; chmod 755 "$policy"; fi
export DEBIAN_FRONTEND=noninteractive
apt-get update -qq
case " $* " in *" postgresql "*)
    apt-get install -y -qq --no-install-recommends postgresql-common
    if [ -e "$create" ]; then
        cp -p "$create" "$create.pgvane"
        sed -i '/^ *create_main_cluster/d' "$create"
        echo 'create_main_cluster = false' >>"$create"
    fi;;
esac
apt-get install -y -qq --no-install-recommends "$@"
"#;

fn install(parts: &[Part]) -> Result<(), InstallError> {
    if parts.is_empty() {
        return Ok(());
    }
    let names: Vec<_> = parts.iter().map(|p| p.name()).collect();
    let packages: Vec<_> = parts.iter().flat_map(|p| p.packages()).copied().collect();
    let refused = |why| InstallError::NotAllowed {
        missing: format!("{} {}", names.join(" and "), if names.len() == 1 { "is" } else { "are" }),
        why,
        packages: packages.join(" and "),
    };
    if on_path("apt-get").is_none() {
        return Err(refused("no apt-get: only Debian's and Ubuntu's package manager is known"));
    }
    let mut command = if geteuid().is_root() {
        Command::new("sh")
    } else if may_sudo() {
        let mut sudo = Command::new("sudo");
        sudo.args(["-n", "sh"]);
        sudo
    } else {
        return Err(refused("this user is not root and may not sudo without a password"));
    };
    eprintln!("{} not found: installing {} with apt-get", names.join(" and "), packages.join(" and "));
    command.args(["-c", INSTALL, "install"]).args(&packages);
    // The package manager's chatter goes where ours goes: standard output may be somebody's JSON.
    command.stdin(Stdio::null()).stdout(std::io::stderr());
    let failed = |why| InstallError::Failed { packages: packages.join(" and "), why };
    let status = command.status().map_err(|e| failed(e.to_string()))?;
    if status.success() { Ok(()) } else { Err(failed(format!("apt-get ended with {status}"))) }
}

fn may_sudo() -> bool {
    let mut probe = Command::new("sudo");
    probe.args(["-n", "true"]).stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null());
    probe.status().is_ok_and(|status| status.success())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_message_names_everything_at_once() {
        let error = InstallError::NotAllowed {
            missing: "PostgreSQL and etcd are".to_owned(),
            why: "this user is not root",
            packages: "postgresql and etcd-server".to_owned(),
        };
        assert_eq!(
            error.to_string(),
            "PostgreSQL and etcd are missing and cannot be installed from here (this user is not root). \
             Install postgresql and etcd-server and try again."
        );
    }

    #[test]
    fn half_an_installation_is_none() {
        let dir = tempfile::tempdir().expect("a temporary directory");
        std::fs::write(dir.path().join("postgres"), "").expect("writes");
        assert!(!is_complete(dir.path()));
    }
}
