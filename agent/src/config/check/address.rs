//! Addresses: of etcd, of what others connect to, of what is listened on.

use std::net::{IpAddr, SocketAddr};

use pgvane_cluster::settings_file::Spanned;

use super::super::HostPort;
use super::context::missing;
use super::{Check, Checked};

/// An etcd endpoint as a URL: `scheme` where it names none; `None` where it is not an address with a port.
pub fn etcd_url(endpoint: &str, scheme: &str) -> Option<String> {
    let text = endpoint.trim_end_matches('/');
    let url = if text.contains("://") { text.to_owned() } else { format!("{scheme}://{text}") };
    let authority = url.strip_prefix("http://").or_else(|| url.strip_prefix("https://"))?;
    host_port(authority)?;
    Some(url)
}

/// `host:port`, an IPv6 host in brackets.
pub(super) fn host_port(text: &str) -> Option<HostPort> {
    let (host, port) = text.rsplit_once(':')?;
    let port = port.parse().ok()?;
    let host = match host.strip_prefix('[') {
        Some(v6) => v6.strip_suffix(']').filter(|v6| v6.parse::<IpAddr>().is_ok())?,
        None => host,
    };
    let plain = |c: char| !c.is_whitespace() && !"/@[]?#".contains(c);
    if host.is_empty() || !host.chars().all(plain) || port == 0 {
        return None;
    }
    Some(HostPort { host: host.to_owned(), port })
}

/// `connect_address` of a section: as written, else the one address listened on, else an error.
pub(super) fn connect_address(
    raw: Option<Spanned<String>>,
    fallback: Option<HostPort>,
    section: &str,
    port: u16,
    cx: &Check<'_>,
) -> Checked<HostPort> {
    match (raw, fallback) {
        (Some(text), _) => reachable(&text, &format!("{section}.connect_address"), port, cx),
        (None, Some(address)) => Ok(address),
        (None, None) => missing(format!(
            "{section}.connect_address is needed: {section}.listen does not name one address that others can reach"
        )),
    }
}

/// The port that `connect_address` names: what is listened on where nothing else is said.
pub(super) fn named_port(connect_address: Option<&Spanned<String>>) -> Option<u16> {
    host_port(connect_address?.get_ref()).map(|address| address.port)
}

/// An address that others are told of; `port` where it names none.
pub(super) fn reachable(text: &Spanned<String>, key: &str, port: u16, cx: &Check<'_>) -> Checked<HostPort> {
    let written = text.get_ref();
    let address = host_port(written).or_else(|| host_port(&format!("{written}:{port}")));
    match address.filter(|address| !is_wildcard(&address.host)) {
        Some(address) => Ok(address),
        None => cx.wrong(text, key, format!("{written:?} is not HOST:PORT that others can reach")),
    }
}

pub(super) fn is_wildcard(host: &str) -> bool {
    host == "*" || host.parse::<IpAddr>().is_ok_and(|ip| ip.is_unspecified())
}

/// An address to listen on: a literal one, `*` or a host name, with a port.
pub(super) fn to_listen_on(text: &str, cx: &Check<'_>) -> Option<SocketAddr> {
    if let Ok(address) = text.parse() {
        return Some(address);
    }
    let HostPort { host, port } = host_port(text)?;
    match host.as_str() {
        "*" => Some(SocketAddr::from(([0, 0, 0, 0], port))),
        "localhost" => Some(SocketAddr::from(([127, 0, 0, 1], port))),
        // Said without brackets.
        v6 if v6.parse::<IpAddr>().is_ok() => v6.parse().ok().map(|ip: IpAddr| SocketAddr::new(ip, port)),
        name => cx.resolve(name, port),
    }
}

/// A host name, an address, or a network such as `10.0.0.0/8`.
pub(super) fn is_host_or_network(text: &str) -> bool {
    match text.split_once('/') {
        Some((ip, bits)) => match (ip.parse::<IpAddr>(), bits.parse::<u8>()) {
            (Ok(IpAddr::V4(_)), Ok(bits)) => bits <= 32,
            (Ok(IpAddr::V6(_)), Ok(bits)) => bits <= 128,
            _ => false,
        },
        None => !text.is_empty() && text.chars().all(|c| c.is_ascii_alphanumeric() || "-_.:".contains(c)),
    }
}
