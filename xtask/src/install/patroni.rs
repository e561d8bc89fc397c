//! Patroni as it is published: the daemon that tests run beside our agents, and its operator's tool.

use std::ffi::OsStr;
use std::fs::{self, File};
use std::path::{Path, PathBuf};
use std::process::Command;

use rustix::fs::{FlockOperation, flock};

use super::{InstallError, python};
use crate::programs::Programs;

/// The release whose layout and REST API the agent speaks.
pub const VERSION: &str = "4.1.4";

/// With its etcd client, and a driver that needs no compiler.
fn packages() -> [String; 2] {
    [format!("patroni[etcd3]=={VERSION}"), "psycopg2-binary".to_owned()]
}

/// Where it lies.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Patroni {
    /// `patronictl`.
    pub ctl: PathBuf,
    /// The interpreter itself, which the servers' user may run.
    pub python: PathBuf,
    /// Where the interpreter finds its own library.
    pub home: PathBuf,
    /// The packages.
    pub packages: PathBuf,
}

/// Patroni in a virtual environment beside the programs, made once from PyPI.
pub fn patroni(programs: &Programs) -> Result<Patroni, InstallError> {
    let beside = programs.xtask.parent().unwrap_or(Path::new("."));
    let name = format!("patroni-{VERSION}");
    let (venv, lock) = (beside.join(&name), beside.join(format!("{name}.lock")));
    let io = |error: std::io::Error| failed(format!("{}: {error}", venv.display()));
    // Held until the file is closed: of tests that run side by side one installs.
    let lock = File::create(lock).map_err(io)?;
    flock(&lock, FlockOperation::LockExclusive).map_err(|error| io(error.into()))?;
    let complete = venv.join("complete");
    if !complete.exists() {
        let install = ["install", "--quiet", "--disable-pip-version-check"].map(str::to_owned);
        run(&python()?, ["-m".as_ref(), "venv".as_ref(), "--clear".as_ref(), venv.as_os_str()])?;
        run(&venv.join("bin/pip"), install.into_iter().chain(packages()))?;
        fs::write(complete, "").map_err(io)?;
    }
    let python = venv.join("bin/python3");
    let told = run(
        &python,
        ["-c", "import sys, sysconfig; print(sys.base_prefix); print(sysconfig.get_path('purelib'))"],
    )?;
    let mut lines = told.lines().map(PathBuf::from);
    let (Some(home), Some(packages)) = (lines.next(), lines.next()) else {
        return Err(failed(format!("{} does not tell its directories", python.display())));
    };
    Ok(Patroni {
        ctl: venv.join("bin/patronictl"),
        python: python.canonicalize().map_err(io)?,
        home,
        packages,
    })
}

fn failed(why: String) -> InstallError {
    InstallError::Failed { packages: packages().join(" and "), why }
}

/// What the program printed.
fn run<A: AsRef<OsStr>>(program: &Path, args: impl IntoIterator<Item = A>) -> Result<String, InstallError> {
    let output = Command::new(program)
        .args(args)
        .output()
        .map_err(|error| failed(format!("{}: {error}", program.display())))?;
    if output.status.success() {
        return Ok(String::from_utf8_lossy(&output.stdout).into_owned());
    }
    let said = String::from_utf8_lossy(&output.stderr).into_owned();
    Err(failed(format!("{} ended with {}: {said}", program.display(), output.status)))
}
