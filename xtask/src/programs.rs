//! The programs of this workspace: built by cargo, found beside whoever asks.

use std::env;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

/// Where the programs lie.
#[derive(Clone, Debug)]
pub struct Programs {
    /// This package's own program, for the janitor.
    pub xtask: PathBuf,
    /// The agent.
    pub agent: PathBuf,
    /// The proxy.
    pub proxy: PathBuf,
    /// The operator's tool.
    pub ctl: PathBuf,
}

/// The programs cannot be had.
#[derive(Debug, thiserror::Error)]
#[error("{0}")]
pub struct BuildError(String);

/// Builds everything and answers where it lies. Cargo shows its progress on standard error.
pub fn build() -> Result<Programs, BuildError> {
    let mut cargo = cargo();
    cargo.args(["build", "--locked", "--package", "pgvane", "--package", "pgvane-agent", "--bins"]);
    let status = cargo.status().map_err(|e| BuildError(format!("cargo: {e}")))?;
    if !status.success() {
        return Err(BuildError("the programs do not build; see above".to_owned()));
    }
    built()
}

/// Builds the proxy as it is shipped and answers where it lies.
pub fn build_for_release() -> Result<PathBuf, BuildError> {
    let mut cargo = cargo();
    cargo.args(["build", "--locked", "--release", "--package", "pgvane", "--bins"]);
    cargo.arg("--message-format=json-render-diagnostics").stdout(Stdio::piped()).stderr(Stdio::inherit());
    let output = cargo.output().map_err(|e| BuildError(format!("cargo: {e}")))?;
    if !output.status.success() {
        return Err(BuildError("pgvane does not build for release; see above".to_owned()));
    }
    let messages = output.stdout.split(|byte| *byte == b'\n');
    let mut programs = messages.filter_map(|line| {
        let message: serde_json::Value = serde_json::from_slice(line).ok()?;
        (message["target"]["name"] == "pgvane").then(|| message["executable"].as_str().map(PathBuf::from))?
    });
    programs.next().ok_or_else(|| BuildError("cargo does not say where it put pgvane".to_owned()))
}

/// Cargo, as it was called.
pub(crate) fn cargo() -> Command {
    let mut cargo = Command::new(env::var_os("CARGO").unwrap_or_else(|| "cargo".into()));
    cargo.current_dir(root()).stdin(Stdio::null()).stdout(std::io::stderr());
    cargo
}

/// The checkout.
pub(crate) fn root() -> PathBuf {
    // This package lies one level below it.
    Path::new(env!("CARGO_MANIFEST_DIR")).parent().map_or_else(PathBuf::new, Path::to_owned)
}

/// The programs that were built before a test was started (`cargo xtask test` sees to it): in `target/PROFILE`,
/// where we lie ourselves; tests lie one level deeper.
pub fn built() -> Result<Programs, BuildError> {
    let us = env::current_exe().map_err(|e| BuildError(format!("this program's path: {e}")))?;
    let dir = us.ancestors().skip(1).find(|dir| dir.join("pgvane-agent").is_file());
    let dir = dir.ok_or_else(|| {
        BuildError(format!("no pgvane-agent beside {}: run `cargo build --workspace` first", us.display()))
    })?;
    let program = |name: &str| {
        let path = dir.join(name);
        if path.is_file() { Ok(path) } else { Err(BuildError(format!("{} is missing", path.display()))) }
    };
    Ok(Programs {
        xtask: program("xtask")?,
        agent: program("pgvane-agent")?,
        proxy: program("pgvane")?,
        ctl: program("pgvanectl")?,
    })
}
