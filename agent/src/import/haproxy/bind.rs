//! `bind`: where a proxy listens.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};

use super::Wrong;
use super::sections::Line;
use super::server::split_port;

/// Finds the addresses of a host name.
pub(crate) type Resolve<'a> = &'a dyn Fn(&str) -> Vec<IpAddr>;

/// One `bind` line.
#[derive(Clone, Debug, Default)]
pub(crate) struct Bind {
    pub(crate) line: usize,
    /// As pgvane writes them.
    pub(crate) listen: Vec<String>,
    /// Addresses that pgvane cannot listen on, and why.
    pub(crate) left: Vec<(String, &'static str)>,
    pub(crate) accept_proxy: bool,
    /// Permissions of its Unix sockets.
    pub(crate) mode: Option<String>,
    pub(crate) ssl: bool,
    pub(crate) crt: Option<String>,
    pub(crate) ca_file: Option<String>,
    pub(crate) verify: Option<String>,
    pub(crate) min_version: Option<String>,
    pub(crate) user_timeout: Option<String>,
}

/// Words of `bind` that stand alone; every other one has a value.
pub(crate) const FLAGS: &[&str] = &[
    "ssl",
    "accept-proxy",
    "transparent",
    "defer-accept",
    "tfo",
    "v4v6",
    "v6only",
    "strict-sni",
    "prefer-client-ciphers",
    "no-sslv3",
    "no-tlsv10",
    "no-tlsv11",
    "no-tlsv12",
    "no-tlsv13",
    "force-tlsv12",
    "force-tlsv13",
    "no-tls-tickets",
    "generate-certificates",
    "allow-0rtt",
    "accept-netscaler-cip",
    "no-alpn",
    "force-sslv3",
    "force-tlsv10",
    "force-tlsv11",
    "no-ca-names",
    "quic-force-retry",
];

/// The widest range of ports that is followed.
const MOST_PORTS: u32 = 1000;

impl Bind {
    /// Reads the line from the word at `first`, which holds addresses.
    pub(super) fn read(line: &Line, first: usize, resolve: Resolve<'_>) -> Result<Bind, Wrong> {
        let mut bind = Bind { line: line.number, ..Bind::default() };
        let Some(addresses) = line.words.get(first) else {
            let word = &line.words[0];
            return Err(Wrong::at(
                line.number,
                word,
                "bind without an address",
                "such as *:5432 or 10.0.0.1:5432",
            ));
        };
        let parameters: Vec<(&str, &str)> = super::parameters(&line.words[first + 1..], FLAGS);
        for (name, value) in &parameters {
            let value = || Some((*value).to_owned());
            match *name {
                "accept-proxy" => bind.accept_proxy = true,
                "mode" => bind.mode = value(),
                "ssl" => bind.ssl = true,
                "crt" | "default-crt" => bind.crt = bind.crt.take().or_else(value),
                "ca-file" => bind.ca_file = value(),
                "verify" => bind.verify = value(),
                "ssl-min-ver" => bind.min_version = value(),
                "tcp-ut" => bind.user_timeout = value(),
                _ => {}
            }
        }
        let only_v6 = parameters.iter().any(|(name, _)| *name == "v6only");
        for address in addresses.text.split(',') {
            bind.add(address, only_v6, line, resolve)?;
        }
        Ok(bind)
    }

    fn add(&mut self, address: &str, only_v6: bool, line: &Line, resolve: Resolve<'_>) -> Result<(), Wrong> {
        if let Some(path) =
            address.strip_prefix("unix@").or_else(|| address.starts_with('/').then_some(address))
        {
            self.listen.push(format!("unix:{path}"));
            return Ok(());
        }
        let (address, only_v4) = match address.split_once('@') {
            Some(("ipv4" | "tcp4" | "tcp", rest)) => (rest, true),
            Some(("ipv6" | "tcp6", rest)) => (rest, false),
            Some(_) => {
                let why = "pgvane listens on TCP and on Unix sockets; systemd may hand it sockets over (pgvane.socket)";
                self.left.push((address.to_owned(), why));
                return Ok(());
            }
            None => (address, false),
        };
        let wrong = || {
            let word = &line.words[1.min(line.words.len() - 1)];
            let allowed = "ADDRESS:PORT or ADDRESS:FIRST-LAST such as *:5432, 10.0.0.1:5000-5001, [::]:5432";
            Wrong::at(line.number, word, format!("{address:?} is no address to listen on"), allowed)
        };
        let (host, ports) = split_port(address).ok_or_else(wrong)?;
        let (low, high) = ports.split_once('-').unwrap_or((ports, ports));
        let port = |text: &str| text.parse::<u16>().ok().filter(|port| *port != 0);
        let (Some(low), Some(high)) = (port(low), port(high)) else { return Err(wrong()) };
        if high < low || u32::from(high - low) >= MOST_PORTS {
            return Err(wrong());
        }
        let mut hosts: Vec<IpAddr> = match host {
            "" | "*" | "0.0.0.0" => vec![Ipv4Addr::UNSPECIFIED.into()],
            "localhost" => vec![Ipv4Addr::LOCALHOST.into()],
            host => match host.parse() {
                Ok(ip) => vec![ip],
                Err(_) => resolve(host),
            },
        };
        // Linux takes IPv4 on such a socket too, unless it is told not to.
        if hosts == [IpAddr::V6(Ipv6Addr::UNSPECIFIED)] && !only_v6 && !only_v4 {
            hosts.insert(0, Ipv4Addr::UNSPECIFIED.into());
        }
        if hosts.is_empty() {
            self.left.push((address.to_owned(), "the name is not known here; write its address"));
        }
        for port in low..=high {
            self.listen.extend(hosts.iter().map(|ip| SocketAddr::new(*ip, port).to_string()));
        }
        Ok(())
    }
}
