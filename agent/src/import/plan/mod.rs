//! What a haproxy.cfg means for pgvane: clusters, listeners, and what each of its proxies became.

mod clusters;
mod roles;

use self::clusters::{clusters, trust};
use self::roles::role;
use std::collections::{BTreeMap, BTreeSet};
use std::net::{Ipv4Addr, SocketAddr};

use pgvane_cluster::units::show_duration;

use super::haproxy::{Bind, Condition, Kind, Proxy, Role, Tcp, time};
use crate::config::Config;

/// A proxy.toml before it is text.
#[derive(Debug, Default)]
pub(super) struct Plan {
    /// `[admin] listen`; its default where HAProxy has no page of statistics.
    pub(super) admin: Vec<String>,
    pub(super) tcp: Tcp,
    pub(super) user_timeout: Option<String>,
    pub(super) clusters: Vec<Cluster>,
    pub(super) listeners: Vec<Listener>,
    /// What each proxy became, by its place among the proxies.
    pub(super) parts: Vec<Part>,
}

/// What a proxy of HAProxy became.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(super) enum Part {
    /// A listener, by its place in the plan; a backend may be that of several.
    Listener(usize),
    /// The status page.
    Stats,
    /// Nothing, and why.
    None(&'static str),
}

/// A cluster and who tells of it.
#[derive(Debug)]
pub(super) struct Cluster {
    pub(super) name: String,
    pub(super) source: Source,
}

/// Who tells of a cluster.
#[derive(Debug)]
pub(super) enum Source {
    /// etcd, as the patroni.yml has it.
    Etcd(Box<Config>),
    Rest(Polled),
    Probe {
        polled: Polled,
        user: Option<String>,
    },
}

/// Who is asked, and how often.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub(super) struct Polled {
    /// URLs of REST APIs, or hosts with ports.
    pub(super) members: Vec<String>,
    /// Set only where it is shorter than pgvane's own.
    pub(super) interval: Option<String>,
    pub(super) timeout: Option<String>,
    pub(super) rise: Option<u32>,
    pub(super) fall: Option<u32>,
    /// How REST APIs behind TLS are trusted.
    pub(super) agents: Option<Trust>,
}

/// Whose certificates are taken.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(super) struct Trust {
    pub(super) verify: &'static str,
    pub(super) ca: Option<String>,
    /// Our certificate, with its key in the same file.
    pub(super) cert: Option<String>,
}

/// A listener.
#[derive(Debug)]
pub(super) struct Listener {
    pub(super) name: String,
    pub(super) cluster: usize,
    pub(super) role: Role,
    pub(super) falls_back: bool,
    pub(super) max_lag: Option<String>,
    /// What is not quite the same about the role.
    pub(super) but: Option<&'static str>,
    pub(super) listen: Vec<String>,
    pub(super) unix_mode: Option<String>,
    pub(super) balance: Option<&'static str>,
    pub(super) max_sessions: Option<u64>,
    pub(super) max_sessions_per_target: Option<u64>,
    pub(super) queue_timeout: Option<String>,
    pub(super) connect_timeout: Option<String>,
    pub(super) allow: Vec<String>,
    pub(super) deny: Vec<String>,
    pub(super) proxy_protocol_from: Vec<String>,
    pub(super) sends_proxy: bool,
    pub(super) tls: Option<Tls>,
    /// The proxy that has the addresses.
    pub(super) frontend: usize,
}

/// `[listener.tls]`.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(super) struct Tls {
    pub(super) cert: String,
    pub(super) client_ca: Option<String>,
    pub(super) min_version: Option<&'static str>,
    /// How servers are trusted, where they are spoken to by TLS.
    pub(super) servers: Option<Trust>,
}

/// Where the status page is unless it is told otherwise.
const ADMIN_PORT: u16 = 8009;

/// Makes the plan. `maxconn` is that of the whole process.
pub(super) fn plan(proxies: &[Proxy], maxconn: Option<u64>, patroni: Option<&Config>) -> Plan {
    let mut plan =
        Plan { parts: vec![Part::None("no frontend leads to it"); proxies.len()], ..Plan::default() };
    let mut served = Vec::new();
    for (index, proxy) in proxies.iter().enumerate() {
        if proxy.kind == Kind::Backend {
            continue;
        }
        plan.user_timeout =
            plan.user_timeout.take().or_else(|| proxy.binds.iter().find_map(|b| b.user_timeout.clone()));
        match intent(proxies, index) {
            Ok(intent) => served.push((index, intent)),
            Err(part) => plan.parts[index] = part,
        }
    }
    let clusters = clusters(proxies, &served, patroni);
    let mut taken = BTreeSet::new();
    for (index, intent) in served {
        let cluster =
            clusters.iter().position(|(backends, _)| backends.contains(&intent.backend)).unwrap_or(0);
        let first = plan.listeners.len();
        for binds in alike(&proxies[index].binds) {
            let mut listener = listener(proxies, index, &intent, cluster, &binds, maxconn);
            // pgvane refuses a place that is there twice.
            listener.listen.retain(|place| taken.insert(place.clone()));
            if !listener.listen.is_empty() {
                listener.name = free_name(&plan.listeners, &listener.name);
                plan.listeners.push(listener);
            }
        }
        if plan.listeners.len() == first {
            plan.parts[index] = Part::None("it listens nowhere where pgvane could");
            continue;
        }
        plan.parts[index] = Part::Listener(first);
        if proxies[intent.backend].kind == Kind::Backend {
            plan.parts[intent.backend] = Part::Listener(first);
        }
        for shared in fallback_backends(proxies, index, intent.backend) {
            if matches!(plan.parts[shared], Part::None(_)) {
                plan.parts[shared] = Part::Listener(first);
            }
        }
        merge_tcp(&mut plan.tcp, &proxies[index].tcp);
        merge_tcp(&mut plan.tcp, &proxies[intent.backend].tcp);
    }
    plan.clusters = clusters.into_iter().map(|(_, cluster)| cluster).collect();
    plan.admin = admin(proxies, &plan.parts, &taken);
    plan
}

/// What a frontend is for, before it is known of which cluster.
struct Intent {
    backend: usize,
    role: Role,
    with_primary: bool,
    max_lag: Option<String>,
    but: Option<&'static str>,
}

/// The backend of a frontend: itself where it is both.
fn backend_of(proxies: &[Proxy], index: usize) -> Option<usize> {
    let proxy = &proxies[index];
    let always = proxy.use_backends.iter().find(|used| used.condition == Condition::Always);
    let named = always.map(|used| &used.backend).or(proxy.default_backend.as_ref());
    match named {
        Some(name) => proxies.iter().position(|p| p.kind != Kind::Frontend && p.name == *name),
        None => (proxy.kind == Kind::Listen).then_some(index),
    }
}

/// Backends that a frontend uses while few servers of its own are up.
fn fallback_backends(proxies: &[Proxy], index: usize, backend: usize) -> Vec<usize> {
    let used = proxies[index].use_backends.iter().filter(|used| used.condition == Condition::FewServers);
    let found = used
        .filter_map(|used| proxies.iter().position(|p| p.kind != Kind::Frontend && p.name == used.backend));
    found.filter(|found| *found != backend).collect()
}

fn intent(proxies: &[Proxy], index: usize) -> Result<Intent, Part> {
    let proxy = &proxies[index];
    if proxy.has_stats && proxy.speaks_http {
        return Err(Part::Stats);
    }
    if proxy.speaks_http {
        return Err(Part::None("it speaks HTTP, not PostgreSQL"));
    }
    let Some(backend) = backend_of(proxies, index) else {
        let why = "which servers it leads to depends on conditions; pgvane has one role per listener";
        return Err(Part::None(if proxy.use_backends.is_empty() { "it leads to no servers" } else { why }));
    };
    let found = &proxies[backend];
    if found.serving().next().is_none() {
        return Err(Part::None("it has no server that can be reached by TCP"));
    }
    let mut intent = role(found, proxy).map_err(Part::None)?;
    intent.backend = backend;
    let to_primary = fallback_backends(proxies, index, backend).into_iter();
    intent.with_primary |= to_primary
        .filter_map(|other| role(&proxies[other], proxy).ok())
        .any(|other| other.role == Role::Primary);
    intent.with_primary &= intent.role.is_for_replicas();
    Ok(intent)
}

/// The `bind` lines in groups whose clients come in the same way: all of a listener's do.
fn alike(binds: &[Bind]) -> Vec<Vec<&Bind>> {
    let way =
        |bind: &Bind| (bind.ssl, bind.crt.clone(), bind.ca_file.clone(), bind.accept_proxy, unix_mode(bind));
    let mut groups: Vec<Vec<&Bind>> = Vec::new();
    for bind in binds {
        match groups.iter_mut().find(|group| group.iter().all(|other| way(other) == way(bind))) {
            Some(group) => group.push(bind),
            None => groups.push(vec![bind]),
        }
    }
    groups
}

fn listener(
    proxies: &[Proxy],
    index: usize,
    intent: &Intent,
    cluster: usize,
    binds: &[&Bind],
    maxconn: Option<u64>,
) -> Listener {
    let (front, back) = (&proxies[index], &proxies[intent.backend]);
    let limits: BTreeSet<u64> =
        back.serving().filter_map(|server| server.maxconn).filter(|n| *n > 0).collect();
    let duration = |name: &str| {
        back.timeouts.get(name).and_then(|text| time(text)).filter(|t| !t.is_zero()).map(show_duration)
    };
    let per_target = limits.first().copied();
    let balance = match back.balance.as_deref() {
        Some("leastconn") => Some("least_connections"),
        Some("roundrobin" | "static-rr") => Some("round_robin"),
        _ => None,
    };
    let expects = binds.iter().any(|bind| bind.accept_proxy);
    Listener {
        name: front.name.clone(),
        cluster,
        role: intent.role,
        falls_back: intent.with_primary,
        max_lag: intent.max_lag.clone(),
        but: intent.but,
        listen: binds.iter().flat_map(|bind| bind.listen.iter().cloned()).collect(),
        unix_mode: binds.iter().find_map(|bind| unix_mode(bind)),
        balance: balance.filter(|_| intent.role != Role::Primary),
        max_sessions: front.maxconn.or(maxconn).filter(|limit| *limit > 0),
        max_sessions_per_target: per_target,
        queue_timeout: per_target.and_then(|_| duration("queue")),
        connect_timeout: duration("connect"),
        allow: front.allow.clone(),
        deny: front.deny.clone(),
        proxy_protocol_from: match (&front.expects_proxy_from, expects) {
            (_, true) => vec!["0.0.0.0/0".to_owned(), "::/0".to_owned()],
            (named, false) => named.clone(),
        },
        sends_proxy: back.serving().any(|server| server.sends_proxy),
        tls: tls(binds, back),
        frontend: index,
    }
}

/// Permissions as pgvane takes them, where there is a Unix socket.
fn unix_mode(bind: &Bind) -> Option<String> {
    let has_socket = bind.listen.iter().any(|place| place.starts_with("unix:"));
    let mode = bind.mode.as_ref().filter(|_| has_socket)?;
    u32::from_str_radix(mode, 8).ok().filter(|mode| *mode <= 0o777).map(|mode| format!("{mode:04o}"))
}

fn tls(binds: &[&Bind], back: &Proxy) -> Option<Tls> {
    let bind = binds.iter().find(|bind| bind.ssl)?;
    Some(Tls {
        cert: bind.crt.clone()?,
        client_ca: bind.ca_file.clone().filter(|_| bind.verify.as_deref() == Some("required")),
        min_version: match bind.min_version.as_deref() {
            Some("TLSv1.3") => Some("1.3"),
            Some("TLSv1.2") => Some("1.2"),
            _ => None,
        },
        servers: back.serving().find(|server| server.ssl).map(trust),
    })
}

fn free_name(listeners: &[Listener], wish: &str) -> String {
    let mut name = wish.to_owned();
    let mut n = 1;
    while listeners.iter().any(|listener| listener.name == name) {
        n += 1;
        name = format!("{wish}-{n}");
    }
    name
}

fn merge_tcp(into: &mut Tcp, from: &Tcp) {
    let keep = |into: &mut Option<String>, from: &Option<String>| {
        if into.is_none() {
            into.clone_from(from);
        }
    };
    keep(&mut into.idle, &from.idle);
    keep(&mut into.interval, &from.interval);
    keep(&mut into.count, &from.count);
}

/// Where the status page is: where HAProxy's was, but on this host alone where that one asked who is there.
fn admin(proxies: &[Proxy], parts: &[Part], listened: &BTreeSet<String>) -> Vec<String> {
    let port = |place: &String| place.parse::<SocketAddr>().ok().map(|address| address.port());
    let taken: BTreeSet<u16> = listened.iter().filter_map(port).collect();
    let mut places: Vec<String> = Vec::new();
    for (proxy, _) in proxies.iter().zip(parts).filter(|(_, part)| **part == Part::Stats) {
        for place in proxy.binds.iter().flat_map(|bind| &bind.listen) {
            let Ok(address) = place.parse::<SocketAddr>() else { continue };
            let local = SocketAddr::from((Ipv4Addr::LOCALHOST, address.port()));
            let place = if proxy.stats_need_login { local } else { address }.to_string();
            if !places.contains(&place) && !taken.contains(&address.port()) {
                places.push(place);
            }
        }
    }
    // Its usual port may be a listener's.
    if places.is_empty() && taken.contains(&ADMIN_PORT) {
        let free = (ADMIN_PORT..=u16::MAX).find(|port| !taken.contains(port));
        places.extend(free.map(|port| SocketAddr::from((Ipv4Addr::LOCALHOST, port)).to_string()));
    }
    places
}

/// Proxies by their section.
pub(super) fn by_section(proxies: &[Proxy]) -> BTreeMap<usize, usize> {
    proxies.iter().enumerate().map(|(index, proxy)| (proxy.section, index)).collect()
}
