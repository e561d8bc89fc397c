//! Which backends belong to one cluster, and who tells of it.

use std::collections::BTreeSet;
use std::time::Duration;

use pgvane_cluster::units::show_duration;

use super::super::haproxy::{Health, Proxy, Server, Verify, time};
use super::{Cluster, Intent, Polled, Source, Trust};
use crate::config::Config;

/// How often pgvane asks unless it is told otherwise.
const INTERVAL: Duration = Duration::from_secs(1);

/// Hosts with their ports.
type Places<'a> = BTreeSet<(&'a str, Option<u16>)>;

/// Clusters and the backends that belong to each: those that have a server in common.
pub(super) fn clusters(
    proxies: &[Proxy],
    served: &[(usize, Intent)],
    patroni: Option<&Config>,
) -> Vec<(BTreeSet<usize>, Cluster)> {
    // By where they are checked too: a pooler before a server has another port, and the same REST API.
    let hosts = |backend: usize| -> Places<'_> {
        let places = |server: &'_ Server| [server.port, server.check_port.or(server.port)];
        let serving = proxies[backend].serving();
        serving.flat_map(|server| places(server).map(|port| (server.host.as_str(), port))).collect()
    };
    let mut groups: Vec<(BTreeSet<usize>, Places<'_>)> = Vec::new();
    for (_, intent) in served {
        let mut backends = BTreeSet::from([intent.backend]);
        let mut places = hosts(intent.backend);
        // Whatever shares a server with it is of the same cluster.
        groups.retain(|(others, their_places)| {
            let is_apart = places.is_disjoint(their_places);
            if !is_apart {
                backends.extend(others);
                places.extend(their_places);
            }
            is_apart
        });
        groups.push((backends, places));
    }
    groups.sort_by_key(|(backends, _)| backends.first().copied());
    let of_patroni = patroni.and_then(|config| {
        let host = config.postgresql.connect_address.host.as_str();
        let known = groups.iter().position(|(_, places)| places.iter().any(|(name, _)| *name == host));
        known.or((groups.len() == 1).then_some(0)).map(|group| (group, config))
    });
    let mut names = BTreeSet::new();
    let mut found = Vec::new();
    for (index, (backends, _)) in groups.into_iter().enumerate() {
        let (wish, source) = match of_patroni {
            Some((group, config)) if group == index => {
                (cluster_name(&config.scope), Source::Etcd(Box::new(config.clone())))
            }
            _ => ("main".to_owned(), polled(proxies, &backends)),
        };
        let mut name = wish.clone();
        let mut n = 1;
        while names.contains(&name) {
            n += 1;
            name = format!("{wish}{n}");
        }
        names.insert(name.clone());
        found.push((backends, Cluster { name, source }));
    }
    found
}

/// A scope as the name of a section.
fn cluster_name(scope: &str) -> String {
    let name: String =
        scope.chars().map(|c| if c.is_ascii_alphanumeric() || "-_.".contains(c) { c } else { '-' }).collect();
    if name.is_empty() { "main".to_owned() } else { name }
}

/// Whom to ask where there is no etcd: REST APIs where they are checked by HTTP, else the servers themselves.
fn polled(proxies: &[Proxy], backends: &BTreeSet<usize>) -> Source {
    let by_http = |backend: &&usize| {
        let proxy = &proxies[**backend];
        matches!(proxy.health, Health::Http(_)) && proxy.serving().any(|server| server.check)
    };
    let asked: Vec<&Proxy> = backends.iter().filter(by_http).map(|backend| &proxies[*backend]).collect();
    if !asked.is_empty() {
        let mut polled = rhythm(&asked);
        let checked = || asked.iter().flat_map(|proxy| proxy.serving()).filter(|server| server.check);
        for server in checked() {
            let url = rest_url(server);
            if !polled.members.contains(&url) {
                polled.members.push(url);
            }
        }
        polled.agents = checked().find(|server| server.check_ssl).map(trust);
        return Source::Rest(polled);
    }
    let asked: Vec<&Proxy> = backends.iter().map(|backend| &proxies[*backend]).collect();
    let mut polled = rhythm(&asked);
    for server in asked.iter().flat_map(|proxy| proxy.serving()) {
        let place = join(&server.host, server.port.unwrap_or(5432));
        if !polled.members.contains(&place) {
            polled.members.push(place);
        }
    }
    let user = asked.iter().find_map(|proxy| match &proxy.health {
        Health::Pgsql { user } => user.clone(),
        _ => None,
    });
    Source::Probe { polled, user }
}

fn join(host: &str, port: u16) -> String {
    if host.contains(':') { format!("[{host}]:{port}") } else { format!("{host}:{port}") }
}

/// Where a server is checked by HTTP.
fn rest_url(server: &Server) -> String {
    let scheme = if server.check_ssl { "https" } else { "http" };
    let host = server.check_host.as_deref().unwrap_or(&server.host);
    format!("{scheme}://{}", join(host, server.check_port.or(server.port).unwrap_or(8008)))
}

/// HAProxy checks a name only where it is told one.
pub(super) fn trust(server: &Server) -> Trust {
    let verify = match (server.verify, &server.ca_file) {
        (Verify::None, _) | (Verify::Required, None) => "none",
        (Verify::Required, Some(_)) if server.verifies_name => "full",
        (Verify::Required, Some(_)) => "ca",
    };
    let ca = server.ca_file.clone().filter(|_| verify != "none");
    Trust { verify, ca, cert: server.crt.clone() }
}

/// How often the strictest of the servers is asked.
fn rhythm(asked: &[&Proxy]) -> Polled {
    let servers = || asked.iter().flat_map(|proxy| proxy.serving()).filter(|server| server.check);
    let shorter =
        |text: Option<&String>| text.and_then(|t| time(t)).filter(|t| !t.is_zero() && *t < INTERVAL);
    let limit = |count: u32| (1..=100).contains(&count);
    Polled {
        members: vec![],
        interval: servers().filter_map(|s| shorter(s.inter.as_ref())).min().map(show_duration),
        timeout: asked
            .iter()
            .filter_map(|proxy| shorter(proxy.timeouts.get("check")))
            .min()
            .map(show_duration),
        rise: servers().filter_map(|server| server.rise).max().filter(|count| limit(*count)),
        fall: servers().filter_map(|server| server.fall).max().filter(|count| limit(*count)),
        agents: None,
    }
}
