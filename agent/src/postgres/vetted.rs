//! Parameters that the server itself accepts: one wrong line, and it would refuse the whole file.
//!
//! A server that runs keeps its old settings then, the upstream to follow among them, and one that is stopped
//! does not start again: a slip in the cluster's configuration would take down every node. So the server's own
//! program reads the parameters first (`postgres -C`), and what it refuses is left out, with an error in the log.

use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::process::{Command, Stdio};
use std::sync::{Arc, Mutex, PoisonError};

use tracing::{error, warn};

use super::Instance;
use super::settings::quote;

/// Parameters by name.
pub type Parameters = BTreeMap<String, String>;

/// What was vetted last, and what was left of it: asked again only when something changes.
#[derive(Clone, Debug, Default)]
pub struct Vetted(Arc<Mutex<Option<(Parameters, Parameters)>>>);

impl Vetted {
    /// What the server accepts of `wanted`. Where its program cannot be asked, all of it.
    pub fn accepted(&self, instance: &Instance, wanted: &Parameters) -> Parameters {
        let mut last = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some((asked, accepted)) = &*last
            && asked == wanted
        {
            return accepted.clone();
        }
        let accepted = vet(instance, wanted.clone());
        *last = Some((wanted.clone(), accepted.clone()));
        accepted
    }
}

fn vet(instance: &Instance, mut parameters: Parameters) -> Parameters {
    // Each round leaves at least one out, so this ends.
    while !parameters.is_empty() {
        let said = match ask(instance, &parameters) {
            Ok(None) => return parameters,
            Ok(Some(said)) => said,
            Err(why) => {
                warn!(%why, "PostgreSQL's parameters could not be checked");
                return parameters;
            }
        };
        let refused: Vec<_> =
            refused(&said).into_iter().filter(|name| parameters.contains_key(name)).collect();
        if refused.is_empty() {
            warn!(said, "PostgreSQL refuses its parameters and does not say which");
            return parameters;
        }
        for name in refused {
            let value = parameters.remove(&name).unwrap_or_default();
            error!(name, value, "PostgreSQL refuses this parameter; it is left out until it is corrected");
        }
    }
    parameters
}

/// `None`: all is well; else what the server's program said.
fn ask(instance: &Instance, parameters: &Parameters) -> std::io::Result<Option<String>> {
    let mut text = String::new();
    for (name, value) in parameters {
        let _ = writeln!(text, "{name} = {}", quote(value));
    }
    // In the server's own directory: relative names in it mean what they will mean.
    let file =
        tempfile::Builder::new().prefix("pgvane-check-").suffix(".conf").tempfile_in(&instance.data_dir)?;
    std::fs::write(file.path(), text)?;
    let output = Command::new(instance.program("postgres"))
        .arg("-D")
        .arg(&instance.data_dir)
        .args(["-C", "shared_buffers", "-c"])
        .arg(format!("config_file={}", file.path().display()))
        .env("LC_ALL", "C")
        .env_remove("NOTIFY_SOCKET")
        .stdin(Stdio::null())
        .output()?;
    Ok((!output.status.success()).then(|| String::from_utf8_lossy(&output.stderr).into_owned()))
}

/// The parameters named in what the server's program printed.
fn refused(said: &str) -> Vec<String> {
    let named = said.lines().filter(|line| line.contains("LOG:") || line.contains("FATAL:"));
    named.filter_map(|line| Some(line.split_once("parameter \"")?.1.split_once('"')?.0.to_owned())).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn refused_parameters_are_named() {
        let said = "2026-01-01 GMT [1] LOG:  unrecognized configuration parameter \"nonsense\" in file \"/x\" line 1\n\
                    2026-01-01 GMT [1] LOG:  invalid value for parameter \"work_mem\": \"8XB\"\n\
                    2026-01-01 GMT [1] HINT:  Valid units for this parameter are \"B\", \"kB\", \"MB\", \"GB\", and \"TB\".\n\
                    2026-01-01 GMT [1] FATAL:  configuration file \"/x\" contains errors\n";
        assert_eq!(refused(said), ["nonsense", "work_mem"]);
        assert!(refused("postgres: could not access the server configuration file").is_empty());
    }
}
