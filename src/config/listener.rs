//! `[[listener]]`, checked.

use std::collections::BTreeMap;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use ipnet::IpNet;
use pgvane_cluster::settings_file::{Spanned, nearest};

use super::check::positive;
use super::default::{
    ANSWER_TIMEOUT, CONNECT_TIMEOUT, HOLD_LIMIT, HOLD_TIMEOUT, MAX_SESSIONS, STARTUP_TIMEOUT, UNIX_MODE,
};
use super::problem::Problem;
use super::raw::{RawBalance, RawFallback, RawListener, RawRole};
use super::tls::{Tls, check_tls};
use super::{Cluster, Listener, ProxyProtocol};
use crate::access::Networks;
use crate::endpoint::Endpoint;
use crate::route::{Balance, Role, Rules};

const EXAMPLE: &str =
    "allowed: such as \"0.0.0.0:5432\", \"[::]:5432\" or \"unix:/run/pgvane/.s.PGSQL.5432\"";

pub(super) fn check_listeners(
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
        rules: Rules {
            role,
            balance: Balance::default(),
            fall_back_to_primary: false,
            max_lag: None,
            max_sessions_per_target: None,
        },
        listen: [(Ipv4Addr::UNSPECIFIED, port).into(), (Ipv6Addr::UNSPECIFIED, port).into()]
            .map(Endpoint::Tcp)
            .to_vec(),
        unix_mode: UNIX_MODE,
        max_sessions: MAX_SESSIONS,
        max_sessions_per_address: None,
        networks: Networks::default(),
        proxy_protocol: ProxyProtocol::default(),
        hold_limit: HOLD_LIMIT,
        hold_timeout: HOLD_TIMEOUT,
        connect_timeout: CONNECT_TIMEOUT,
        answer_timeout: ANSWER_TIMEOUT,
        startup_timeout: STARTUP_TIMEOUT,
        queue_timeout: HOLD_TIMEOUT,
        tls: None,
        server_tls: None,
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
        return Err(Problem::at(&raw.listen, "there must be at least one address").help(EXAMPLE));
    }
    let hold_timeout = positive(raw.hold_timeout.as_ref(), HOLD_TIMEOUT)?;
    let Tls { clients, servers } = check_tls(raw.tls)?;
    Ok(Listener {
        name: raw.name.map_or_else(|| role.label().to_owned(), Spanned::into_inner),
        cluster,
        rules: Rules {
            role,
            balance,
            fall_back_to_primary,
            max_lag: raw.max_lag.map(|size| size.0),
            max_sessions_per_target: at_least_one(raw.max_sessions_per_target.as_ref())?,
        },
        listen: raw.listen.get_ref().iter().map(endpoint).collect::<Result<_, _>>()?,
        unix_mode: unix_mode(raw.unix_mode.as_ref())?,
        max_sessions: at_least_one(raw.max_sessions.as_ref())?.unwrap_or(MAX_SESSIONS),
        max_sessions_per_address: at_least_one(raw.max_sessions_per_address.as_ref())?,
        networks: Networks { allow: networks(raw.allow.as_deref())?, deny: networks(raw.deny.as_deref())? },
        proxy_protocol: ProxyProtocol {
            from: networks(raw.proxy_protocol_from.as_deref())?,
            send: raw.send_proxy_protocol.unwrap_or(false),
        },
        hold_limit: raw.hold_limit.unwrap_or(HOLD_LIMIT),
        hold_timeout,
        queue_timeout: positive(raw.queue_timeout.as_ref(), hold_timeout)?,
        connect_timeout: positive(raw.connect_timeout.as_ref(), CONNECT_TIMEOUT)?,
        answer_timeout: positive(raw.answer_timeout.as_ref(), ANSWER_TIMEOUT)?,
        startup_timeout: positive(raw.startup_timeout.as_ref(), STARTUP_TIMEOUT)?,
        tls: clients,
        server_tls: servers,
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

/// A limit that lets somebody through.
fn at_least_one(given: Option<&Spanned<usize>>) -> Result<Option<usize>, Problem> {
    match given {
        Some(limit) if *limit.get_ref() == 0 => {
            Err(Problem::at(limit, "0 is not allowed").help("allowed: 1 and more"))
        }
        given => Ok(given.map(|limit| *limit.get_ref())),
    }
}

/// Permissions in octal, as chmod takes them.
fn unix_mode(given: Option<&Spanned<String>>) -> Result<u32, Problem> {
    let Some(text) = given else { return Ok(UNIX_MODE) };
    let mode = u32::from_str_radix(text.get_ref(), 8).ok().filter(|mode| *mode <= 0o777);
    mode.ok_or_else(|| {
        Problem::at(text, format!("{:?} are no permissions", text.get_ref()))
            .help("allowed: \"0700\" to \"0777\", in octal")
    })
}

/// Where a listener may listen.
pub(super) fn endpoint(text: &Spanned<String>) -> Result<Endpoint, Problem> {
    text.get_ref().parse().map_err(|_| {
        Problem::at(text, format!("{:?} is not an address and a port", text.get_ref())).help(EXAMPLE)
    })
}
