//! Who may change things (contract section 6): from where, with which certificate, with which password.

use std::collections::HashMap;
use std::net::IpAddr;
use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use futures_util::future::join_all;
use hyper::header::AUTHORIZATION;
use hyper::{HeaderMap, StatusCode};
use ipnet::IpNet;
use pgvane_cluster::clock::Tick;
use pgvane_cluster::records::host_port;
use pgvane_cluster::view::ClusterView;
use tokio::net::lookup_host;
use tokio::time::timeout;

use super::answer::Refused;
use crate::config::{Access, Login};
use crate::peers::basic;

/// How long a host name of the list may take to be resolved, and how long what it was counts.
const RESOLVE_WITHIN: Duration = Duration::from_secs(1);
const RESOLVED_FOR: Duration = Duration::from_mins(1);

/// Who called.
#[derive(Clone, Copy, Debug)]
pub(super) struct Client {
    /// From where.
    pub(super) address: IpAddr,
    /// Whether it showed a certificate that we trust.
    pub(super) certificate: bool,
}

/// What is asked of who wants to change something.
#[derive(Debug)]
pub(super) struct Doorkeeper {
    networks: Vec<IpNet>,
    hosts: Vec<String>,
    include_members: bool,
    wants_certificate: bool,
    login: Option<Login>,
    resolved: Mutex<HashMap<String, (Tick, Vec<IpAddr>)>>,
}

/// Whether the addresses of members count as listed for a call.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Members {
    /// Where the settings say so.
    Count,
    /// In no case: a member must be heard whose record is gone (trap 15).
    DoNot,
}

impl Doorkeeper {
    pub(super) fn new(access: &Access, wants_certificate: bool, login: Option<Login>) -> Doorkeeper {
        let network = |entry: &String| {
            let host = || entry.parse::<IpAddr>().ok().map(IpNet::from);
            entry.parse::<IpNet>().ok().or_else(host)
        };
        let networks = access.allowlist.iter().filter_map(network).collect();
        let hosts = access.allowlist.iter().filter(|entry| network(entry).is_none()).cloned().collect();
        let include_members = access.include_members;
        Doorkeeper { networks, hosts, include_members, wants_certificate, login, resolved: Mutex::default() }
    }

    /// Lets a change through, or says why not.
    pub(super) async fn admit(
        &self,
        client: Client,
        headers: &HeaderMap,
        view: Option<&ClusterView>,
        members: Members,
    ) -> Result<(), Refused> {
        let members = self.include_members && members == Members::Count;
        let limited = members || !self.networks.is_empty() || !self.hosts.is_empty();
        if limited && !self.is_listed(client.address, view.filter(|_| members)).await {
            return Err(Refused::new(StatusCode::FORBIDDEN, "Access is denied"));
        }
        if self.wants_certificate && !client.certificate {
            return Err(Refused::new(StatusCode::FORBIDDEN, "client certificate required"));
        }
        let Some(login) = &self.login else { return Ok(()) };
        let unauthorized = |text| Err(Refused::new(StatusCode::UNAUTHORIZED, text));
        match headers.get(AUTHORIZATION) {
            None => unauthorized("no auth header received"),
            Some(given) if same(given.as_bytes(), basic(login).as_bytes()) => Ok(()),
            Some(_) => unauthorized("not authenticated"),
        }
    }

    /// Whether `address` is listed. Names are resolved only for who is not listed by number.
    async fn is_listed(&self, address: IpAddr, view: Option<&ClusterView>) -> bool {
        let address = address.to_canonical();
        if self.networks.iter().any(|network| network.contains(&address)) {
            return true;
        }
        let urls = view.iter().flat_map(|v| v.members.values()).filter_map(|m| m.record.api_url.as_deref());
        let of_members = urls.filter_map(|url| host_port(url, 0)).map(|(host, _)| host);
        let (mut numbers, mut names) = (Vec::new(), self.hosts.clone());
        for host in of_members {
            match host.parse::<IpAddr>() {
                Ok(number) => numbers.push(number.to_canonical()),
                Err(_) => names.push(host),
            }
        }
        if numbers.contains(&address) {
            return true;
        }
        let resolved = join_all(names.iter().map(|name| self.resolve(name))).await;
        resolved.into_iter().flatten().any(|found| found == address)
    }

    async fn resolve(&self, name: &str) -> Vec<IpAddr> {
        let now = Tick::now();
        let known = self.resolved.lock().unwrap_or_else(PoisonError::into_inner).get(name).cloned();
        if let Some((at, addresses)) = &known
            && now.since(*at) < RESOLVED_FOR
        {
            return addresses.clone();
        }
        let Ok(Ok(found)) = timeout(RESOLVE_WITHIN, lookup_host((name, 0))).await else {
            tracing::warn!(name, "a host of the REST API's allowlist cannot be resolved");
            // What it was is better than nothing.
            return known.map(|(_, addresses)| addresses).unwrap_or_default();
        };
        let addresses: Vec<IpAddr> = found.map(|a| a.ip().to_canonical()).collect();
        let mut resolved = self.resolved.lock().unwrap_or_else(PoisonError::into_inner);
        resolved.insert(name.to_owned(), (now, addresses.clone()));
        addresses
    }
}

/// Compares without telling by its duration where the texts differ.
fn same(a: &[u8], b: &[u8]) -> bool {
    a.len() == b.len() && a.iter().zip(b).fold(0, |differences, (x, y)| differences | (x ^ y)) == 0
}

#[cfg(test)]
mod tests {
    use super::super::fixture::{PAIR, view};
    use super::*;
    use crate::config::Secret;

    fn keeper(list: &[&str], include_members: bool) -> Doorkeeper {
        let allowlist = list.iter().map(|entry| (*entry).to_owned()).collect();
        Doorkeeper::new(&Access { allowlist, include_members }, false, None)
    }

    async fn lets_in(keeper: &Doorkeeper, from: &str, members: Members) -> bool {
        let client = Client { address: from.parse().expect("an address"), certificate: false };
        let view = view(PAIR);
        let verdict = keeper.admit(client, &HeaderMap::new(), Some(&view), members).await;
        if let Err(Refused(status, why)) = &verdict {
            assert_eq!((status.as_u16(), why.as_str()), (403, "Access is denied"));
        }
        verdict.is_ok()
    }

    #[tokio::test]
    async fn addresses_networks_names_and_members() {
        use Members::{Count, DoNot};
        // The members of the fixture are 10.0.0.1 and 10.0.0.2.
        for (list, include, from, members, expected) in [
            (&[][..], false, "192.0.2.1", Count, true),
            (&["192.0.2.0/24"], false, "192.0.2.1", Count, true),
            (&["192.0.2.0/24"], false, "::ffff:192.0.2.1", Count, true),
            (&["192.0.2.0/24"], false, "198.51.100.1", Count, false),
            (&["198.51.100.1", "2001:db8::/32"], false, "2001:db8::7", Count, true),
            (&["198.51.100.1"], false, "198.51.100.2", Count, false),
            (&["localhost"], false, "127.0.0.1", Count, true),
            (&["localhost"], false, "127.0.0.2", Count, false),
            (&["no such host"], false, "127.0.0.1", Count, false),
            (&[], true, "10.0.0.2", Count, true),
            (&[], true, "10.0.0.3", Count, false),
            // Without a list the members alone are none.
            (&[], true, "10.0.0.3", DoNot, true),
            (&["192.0.2.1"], true, "10.0.0.2", Count, true),
            (&["192.0.2.1"], true, "10.0.0.2", DoNot, false),
        ] {
            let verdict = lets_in(&keeper(list, include), from, members).await;
            assert_eq!(verdict, expected, "{list:?} {include} {from} {members:?}");
        }
    }

    #[tokio::test]
    async fn address_certificate_and_password_in_this_order() {
        let login = Login { username: "u".to_owned(), password: Secret::new("p") };
        let access = Access { allowlist: vec!["192.0.2.1".to_owned()], include_members: false };
        let keeper = Doorkeeper::new(&access, true, Some(login.clone()));
        let verdict = async |from: [u8; 4], certificate: bool, given: Option<String>| {
            let mut headers = HeaderMap::new();
            if let Some(given) = given {
                headers.insert(AUTHORIZATION, given.parse().expect("a header"));
            }
            let client = Client { address: from.into(), certificate };
            let verdict = keeper.admit(client, &headers, None, Members::Count).await;
            verdict.map_err(|Refused(status, why)| (status.as_u16(), why))
        };
        let refused = |status: u16, why: &str| Err((status, why.to_owned()));
        let good = Some(basic(&login));
        assert_eq!(verdict([10, 0, 0, 1], true, good.clone()).await, refused(403, "Access is denied"));
        let certificate = refused(403, "client certificate required");
        assert_eq!(verdict([192, 0, 2, 1], false, good.clone()).await, certificate);
        assert_eq!(verdict([192, 0, 2, 1], true, None).await, refused(401, "no auth header received"));
        let wrong = Some("Basic eDp5".to_owned());
        assert_eq!(verdict([192, 0, 2, 1], true, wrong).await, refused(401, "not authenticated"));
        assert_eq!(verdict([192, 0, 2, 1], true, good).await, Ok(()));
    }
}
