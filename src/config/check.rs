//! `RawConfig` -> [`Config`]: fills defaults, refuses what cannot work, says where and why.

use std::collections::{BTreeMap, BTreeSet};
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::path::Path;
use std::time::Duration;

use ipnet::IpNet;
use pgvane_cluster::settings_file::{self, Interval, Loaded, SettingsError, nearest};
use toml::Spanned;

use super::cluster::check_cluster;
use super::problem::Problem;
use super::raw::{RawBalance, RawConfig, RawFallback, RawListener, RawLog, RawLogFormat, RawRole, RawTcp};
use super::tls::check_tls;
use super::{Admin, Cluster, Config, Drain, Listener, Log, LogFormat, Tcp};
use crate::access::Networks;
use crate::route::{Balance, Role, Rules};
use crate::telemetry;

const SECOND: Duration = Duration::from_secs(1);
const ADMIN_PORT: u16 = 8009;
const MAX_WORKERS: usize = 1024;
const MAX_SESSIONS: usize = 10_000;
const HOLD_LIMIT: usize = 5_000;
const HOLD_TIMEOUT: Duration = Duration::from_mins(1);
const CONNECT_TIMEOUT: Duration = SECOND;
const ANSWER_TIMEOUT: Duration = Duration::from_secs(3);
const STARTUP_TIMEOUT: Duration = Duration::from_secs(10);

/// Reads and checks the file at `path`.
pub fn load(path: &Path) -> Result<Config, SettingsError> {
    settings_file::load(path).and_then(checked)
}

/// Checks the `text` of `file`.
pub fn parse(file: &str, text: &str) -> Result<Config, SettingsError> {
    settings_file::parse(file, text).and_then(checked)
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
    let admin = raw.admin.listen.as_deref();
    let listened = raw.listener.iter().flatten().map(|l| l.listen.get_ref().as_slice());
    check_distinct(listened.chain(admin).flatten())?;
    Ok(Config {
        log: check_log(raw.log)?,
        admin: Admin {
            listen: match admin {
                Some(addresses) => addresses.iter().map(address).collect::<Result<_, _>>()?,
                None => vec![(Ipv4Addr::LOCALHOST, ADMIN_PORT).into()],
            },
            ready_grace: or(raw.admin.ready_grace, 30 * SECOND),
        },
        workers: check_workers(raw.process.workers.as_ref())?,
        drain: Drain {
            notice: or(raw.drain.notice, Duration::ZERO),
            timeout: or(raw.drain.timeout, 30 * SECOND),
        },
        tcp: check_tcp(&raw.tcp)?,
        listeners: check_listeners(raw.listener, &clusters)?,
        clusters,
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
            .help("allowed: such as \"0.0.0.0:5432\" or \"[::]:5432\"")
    })
}

/// The same address twice would only be found when it is bound. Port 0 is another port each time.
fn check_distinct<'a>(all: impl Iterator<Item = &'a Spanned<String>>) -> Result<(), Problem> {
    let mut seen = BTreeSet::new();
    for text in all {
        let address = address(text)?;
        if address.port() != 0 && !seen.insert(address) {
            return Err(Problem::at(text, format!("{address} is listened on twice")));
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
        None => "info".to_owned(),
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
        None => 3,
    };
    Ok(Tcp {
        keepalive_idle: whole(raw.keepalive_idle.as_ref(), 10 * SECOND)?,
        keepalive_interval: whole(raw.keepalive_interval.as_ref(), 5 * SECOND)?,
        keepalive_count,
        user_timeout: or(raw.user_timeout, 20 * SECOND),
    })
}

fn check_listeners(
    raw: Option<Vec<RawListener>>,
    clusters: &BTreeMap<String, Cluster>,
) -> Result<Vec<Listener>, Problem> {
    let Some(raw) = raw else {
        return default_listeners(clusters);
    };
    let mut listeners: Vec<Listener> = Vec::new();
    for one in raw {
        let at = one.name.as_ref().map_or_else(|| one.role.span(), Spanned::span);
        let listener = check_listener(one, clusters)?;
        if listeners.iter().any(|l| l.name == listener.name) {
            let text = format!("two listeners have the name {:?}", listener.name);
            let help = Some("`name` tells them apart; it is the role unless given".to_owned());
            return Err(Problem { at: Some(at), text, help });
        }
        listeners.push(listener);
    }
    Ok(listeners)
}

/// 5432 for the primary and 5433 for the replicas, IPv4 and IPv6.
fn default_listeners(clusters: &BTreeMap<String, Cluster>) -> Result<Vec<Listener>, Problem> {
    let Some(cluster) = only(clusters) else {
        return Err(Problem::of_file("there are several clusters and no [[listener]]")
            .help("[[listener]] sections say which port serves which cluster"));
    };
    let listener = |role: Role, port: u16| Listener {
        name: role.label().to_owned(),
        cluster: cluster.clone(),
        rules: Rules { role, balance: Balance::default(), fall_back_to_primary: false, max_lag: None },
        listen: vec![(Ipv4Addr::UNSPECIFIED, port).into(), (Ipv6Addr::UNSPECIFIED, port).into()],
        max_sessions: MAX_SESSIONS,
        max_sessions_per_address: None,
        networks: Networks::default(),
        hold_limit: HOLD_LIMIT,
        hold_timeout: HOLD_TIMEOUT,
        connect_timeout: CONNECT_TIMEOUT,
        answer_timeout: ANSWER_TIMEOUT,
        startup_timeout: STARTUP_TIMEOUT,
        tls: None,
    };
    Ok(vec![listener(Role::Primary, 5432), listener(Role::Replica, 5433)])
}

fn only(clusters: &BTreeMap<String, Cluster>) -> Option<&String> {
    let mut names = clusters.keys();
    names.next().filter(|_| names.next().is_none())
}

fn check_listener(raw: RawListener, clusters: &BTreeMap<String, Cluster>) -> Result<Listener, Problem> {
    let role = match raw.role.get_ref() {
        RawRole::Primary => Role::Primary,
        RawRole::Replica => Role::Replica,
        RawRole::Sync => Role::Sync,
        RawRole::Async => Role::Async,
        RawRole::Any => Role::Any,
    };
    let fall_back_to_primary = match &raw.fallback {
        Some(fallback) if !role.is_for_replicas() => {
            return Err(Problem::at(
                fallback,
                "fallback is for listeners with role = \"replica\", \"sync\" or \"async\"",
            ));
        }
        Some(fallback) => matches!(fallback.get_ref(), RawFallback::Primary),
        None => false,
    };
    let balance = match &raw.balance {
        Some(balance) if role == Role::Primary => {
            return Err(Problem::at(balance, "there is one primary, so there is nothing to balance")
                .help("balance is for listeners with role = \"replica\" or \"any\""));
        }
        Some(balance) => match balance.get_ref() {
            RawBalance::RoundRobin => Balance::RoundRobin,
            RawBalance::LeastConnections => Balance::LeastConnections,
            RawBalance::LagWeighted => Balance::LagWeighted,
        },
        None => Balance::default(),
    };
    let cluster = match (&raw.cluster, only(clusters)) {
        (Some(name), _) if clusters.contains_key(name.get_ref()) => name.get_ref().clone(),
        (Some(name), _) => {
            let known = clusters.keys().cloned().collect::<Vec<_>>().join(", ");
            let near = nearest(name.get_ref(), clusters.keys().map(String::as_str));
            let mean = near.map(|near| format!("did you mean `{near}`? ")).unwrap_or_default();
            return Err(Problem::at(name, format!("there is no cluster `{}`", name.get_ref()))
                .help(format!("{mean}allowed: {known}")));
        }
        (None, Some(only)) => only.clone(),
        (None, None) => {
            return Err(Problem::at(&raw.role, "this listener does not say which cluster it serves")
                .help("with several clusters, `cluster` names one"));
        }
    };
    if raw.listen.get_ref().is_empty() {
        return Err(Problem::at(&raw.listen, "there must be at least one address")
            .help("allowed: such as \"0.0.0.0:5432\" or \"[::]:5432\""));
    }
    let max_sessions = match &raw.max_sessions {
        Some(limit) if *limit.get_ref() == 0 => {
            return Err(Problem::at(limit, "0 is not allowed").help("allowed: 1 and more"));
        }
        Some(limit) => *limit.get_ref(),
        None => MAX_SESSIONS,
    };
    Ok(Listener {
        name: raw.name.map_or_else(|| role.label().to_owned(), Spanned::into_inner),
        cluster,
        rules: Rules { role, balance, fall_back_to_primary, max_lag: raw.max_lag.map(|size| size.0) },
        listen: raw.listen.get_ref().iter().map(address).collect::<Result<_, _>>()?,
        max_sessions,
        max_sessions_per_address: match &raw.max_sessions_per_address {
            Some(limit) if *limit.get_ref() == 0 => {
                return Err(Problem::at(limit, "0 is not allowed").help("allowed: 1 and more"));
            }
            limit => limit.as_ref().map(|limit| *limit.get_ref()),
        },
        networks: Networks { allow: networks(raw.allow.as_deref())?, deny: networks(raw.deny.as_deref())? },
        hold_limit: raw.hold_limit.unwrap_or(HOLD_LIMIT),
        hold_timeout: positive(raw.hold_timeout.as_ref(), HOLD_TIMEOUT)?,
        connect_timeout: positive(raw.connect_timeout.as_ref(), CONNECT_TIMEOUT)?,
        answer_timeout: positive(raw.answer_timeout.as_ref(), ANSWER_TIMEOUT)?,
        startup_timeout: positive(raw.startup_timeout.as_ref(), STARTUP_TIMEOUT)?,
        tls: check_tls(raw.tls)?,
    })
}

/// Networks in the notation of RFC 4632; an address alone is a network of one.
fn networks(given: Option<&[Spanned<String>]>) -> Result<Vec<IpNet>, Problem> {
    let network = |text: &Spanned<String>| {
        let written = text.get_ref();
        let parsed = written.parse().ok().or_else(|| Some(IpNet::from(written.parse::<IpAddr>().ok()?)));
        parsed.ok_or_else(|| {
            Problem::at(text, format!("{written:?} is not a network"))
                .help("allowed: such as \"10.0.0.0/8\", \"192.0.2.7\" or \"2001:db8::/32\"")
        })
    };
    given.into_iter().flatten().map(network).collect()
}

#[cfg(test)]
#[path = "check_tests.rs"]
mod tests;
