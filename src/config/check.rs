//! `RawConfig` -> [`Config`]: fills defaults, refuses what cannot work, says where and why.

use std::collections::{BTreeMap, BTreeSet};
use std::net::{Ipv4Addr, SocketAddr};
use std::path::Path;
use std::time::Duration;

use pgvane_cluster::settings_file::{self, Interval, Loaded, SettingsError, Spanned};

use super::cluster::check_cluster;
use super::default;
use super::listener::{check_listeners, endpoint};
use super::problem::Problem;
use super::raw::{RawAdmin, RawConfig, RawLog, RawLogFormat, RawTcp};
use super::{Admin, Config, Drain, Log, LogFormat, Tcp};
use crate::endpoint::Endpoint;
use crate::telemetry;

const SECOND: Duration = Duration::from_secs(1);
pub(super) const MAX_WORKERS: usize = 1024;
pub(super) const MIN_TOKEN: usize = 16;

/// Reads and checks the file at `path`.
pub fn load(path: &Path) -> Result<Config, SettingsError> {
    settings_file::load(path).and_then(checked)
}

/// Checks the `text` of `file`.
pub fn parse(file: &str, text: &str) -> Result<Config, SettingsError> {
    settings_file::parse(file, text).and_then(checked)
}

/// The JSON schema of the file.
pub fn schema() -> serde_json::Value {
    settings_file::document::<RawConfig>("proxy.toml: the settings of pgvane")
}

fn checked(loaded: Loaded<RawConfig>) -> Result<Config, SettingsError> {
    let source = loaded.source;
    check(loaded.value).map_err(|problem| match problem.at {
        Some(at) => source.error_at(at, problem.text, problem.help),
        None => source.error(problem.text, problem.help),
    })
}

fn check(raw: RawConfig) -> Result<Config, Problem> {
    let mut clusters = BTreeMap::new();
    for (name, cluster) in raw.cluster {
        let cluster = check_cluster(&name, cluster)?;
        clusters.insert(name.into_inner(), cluster);
    }
    if clusters.is_empty() {
        return Err(
            Problem::of_file("no cluster is named").help("write [cluster.main.etcd] with its endpoints")
        );
    }
    let listened = raw.listener.iter().flatten().map(|l| l.listen.get_ref().as_slice());
    check_distinct(listened.chain(raw.admin.listen.as_deref()).flatten())?;
    Ok(Config {
        log: check_log(raw.log)?,
        admin: check_admin(raw.admin)?,
        workers: check_workers(raw.process.workers.as_ref())?,
        drain: Drain {
            notice: or(raw.drain.notice, default::DRAIN_NOTICE),
            timeout: or(raw.drain.timeout, default::DRAIN_TIMEOUT),
            handed_over: or(raw.drain.handed_over, default::DRAIN_HANDED_OVER),
        },
        tcp: check_tcp(&raw.tcp)?,
        listeners: check_listeners(raw.listener, &clusters)?,
        clusters,
    })
}

fn check_admin(raw: RawAdmin) -> Result<Admin, Problem> {
    if let Some(path) = raw.socket.as_ref().filter(|path| !path.get_ref().is_absolute()) {
        return Err(Problem::at(path, format!("{} is not an absolute path", path.get_ref().display()))
            .help("allowed: such as \"/run/pgvane/admin.sock\""));
    }
    if let Some(token) = raw.token.as_ref().filter(|token| token.get_ref().expose().len() < MIN_TOKEN) {
        return Err(Problem::at(token, "the token is too short to keep anybody out")
            .help(format!("allowed: {MIN_TOKEN} characters and more")));
    }
    Ok(Admin {
        listen: match &raw.listen {
            Some(addresses) => addresses.iter().map(address).collect::<Result<_, _>>()?,
            None => vec![(Ipv4Addr::LOCALHOST, default::ADMIN_PORT).into()],
        },
        ready_grace: or(raw.ready_grace, default::READY_GRACE),
        socket: raw.socket.map(Spanned::into_inner),
        token: raw.token.map(Spanned::into_inner),
    })
}

/// As many as the machine has cores for us, unless given.
fn check_workers(given: Option<&Spanned<usize>>) -> Result<usize, Problem> {
    match given {
        Some(count) if !(1..=MAX_WORKERS).contains(count.get_ref()) => {
            Err(Problem::at(count, format!("there cannot be {} workers", count.get_ref()))
                .help(format!("allowed: 1 to {MAX_WORKERS}")))
        }
        Some(count) => Ok(*count.get_ref()),
        None => Ok(std::thread::available_parallelism().map_or(1, std::num::NonZero::get)),
    }
}

fn or(given: Option<Interval>, default: Duration) -> Duration {
    given.map_or(default, |interval| interval.0)
}

/// A duration that must not be zero.
pub(super) fn positive(given: Option<&Spanned<Interval>>, default: Duration) -> Result<Duration, Problem> {
    match given {
        Some(interval) if interval.get_ref().0.is_zero() => {
            Err(Problem::at(interval, "this must be longer than zero"))
        }
        Some(interval) => Ok(interval.get_ref().0),
        None => Ok(default),
    }
}

fn address(text: &Spanned<String>) -> Result<SocketAddr, Problem> {
    text.get_ref().parse().map_err(|_| {
        Problem::at(text, format!("{:?} is not an address and a port", text.get_ref()))
            .help("allowed: such as \"0.0.0.0:8009\" or \"[::]:8009\"")
    })
}

/// The same place twice would only be found when it is bound. Port 0 is another port each time.
fn check_distinct<'a>(all: impl Iterator<Item = &'a Spanned<String>>) -> Result<(), Problem> {
    let mut seen = BTreeSet::new();
    for text in all {
        let endpoint = endpoint(text)?;
        let is_any = matches!(&endpoint, Endpoint::Tcp(address) if address.port() == 0);
        if !is_any && !seen.insert(endpoint) {
            return Err(Problem::at(text, format!("{} is listened on twice", text.get_ref())));
        }
    }
    Ok(())
}

fn check_log(raw: RawLog) -> Result<Log, Problem> {
    let format = match raw.format {
        Some(RawLogFormat::Json) => LogFormat::Json,
        Some(RawLogFormat::Text) | None => LogFormat::Text,
    };
    let level = match raw.level {
        Some(level) if !telemetry::level_is_valid(level.get_ref()) => {
            return Err(Problem::at(&level, format!("{:?} is not a log level", level.get_ref()))
                .help("allowed: error, warn, info, debug, trace, or directives such as info,pgvane=debug"));
        }
        Some(level) => level.into_inner(),
        None => default::LOG_LEVEL.to_owned(),
    };
    Ok(Log { format, level })
}

fn check_tcp(raw: &RawTcp) -> Result<Tcp, Problem> {
    // The kernel counts keepalive times in whole seconds.
    let whole = |given: Option<&Spanned<Interval>>, default: Duration| match given {
        Some(time) if time.get_ref().0 < SECOND || time.get_ref().0.subsec_nanos() != 0 => {
            Err(Problem::at(time, format!("{} is not allowed", time.get_ref()))
                .help("allowed: whole seconds from 1s"))
        }
        Some(time) => Ok(time.get_ref().0),
        None => Ok(default),
    };
    let keepalive_count = match &raw.keepalive_count {
        Some(count) if !(1..=127).contains(count.get_ref()) => {
            return Err(
                Problem::at(count, format!("{} is not allowed", count.get_ref())).help("allowed: 1 to 127")
            );
        }
        Some(count) => *count.get_ref(),
        None => default::KEEPALIVE_COUNT,
    };
    Ok(Tcp {
        keepalive_idle: whole(raw.keepalive_idle.as_ref(), default::KEEPALIVE_IDLE)?,
        keepalive_interval: whole(raw.keepalive_interval.as_ref(), default::KEEPALIVE_INTERVAL)?,
        keepalive_count,
        user_timeout: or(raw.user_timeout, default::USER_TIMEOUT),
    })
}

#[cfg(test)]
#[path = "check_tests.rs"]
mod tests;
