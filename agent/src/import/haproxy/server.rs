//! `server`, `default-server`, `server-template`.

use super::Wrong;
use super::sections::Line;
use super::words::Word;

/// How a certificate is checked.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub(crate) enum Verify {
    /// As HAProxy does unless told otherwise.
    #[default]
    Required,
    None,
}

/// A server of a backend, with what `default-server` said before it.
#[derive(Clone, Debug, Default)]
pub(crate) struct Server {
    pub(crate) line: usize,
    pub(crate) name: String,
    /// Empty for a Unix socket.
    pub(crate) host: String,
    pub(crate) port: Option<u16>,
    /// Whether it stands for several that a name of DNS leads to.
    pub(crate) is_template: bool,
    pub(crate) check: bool,
    pub(crate) check_host: Option<String>,
    pub(crate) check_port: Option<u16>,
    pub(crate) check_ssl: bool,
    pub(crate) inter: Option<String>,
    pub(crate) rise: Option<u32>,
    pub(crate) fall: Option<u32>,
    pub(crate) maxconn: Option<u64>,
    pub(crate) backup: bool,
    pub(crate) disabled: bool,
    pub(crate) cuts_when_down: bool,
    pub(crate) sends_proxy: bool,
    pub(crate) ssl: bool,
    pub(crate) verify: Verify,
    pub(crate) verifies_name: bool,
    pub(crate) ca_file: Option<String>,
    pub(crate) crt: Option<String>,
}

/// Words of `server` that stand alone; every other one has a value.
pub(crate) const FLAGS: &[&str] = &[
    "check",
    "no-check",
    "backup",
    "no-backup",
    "disabled",
    "enabled",
    "non-stick",
    "stick",
    "send-proxy",
    "no-send-proxy",
    "send-proxy-v2",
    "no-send-proxy-v2",
    "send-proxy-v2-ssl",
    "send-proxy-v2-ssl-cn",
    "check-send-proxy",
    "no-check-send-proxy",
    "check-ssl",
    "no-check-ssl",
    "ssl",
    "no-ssl",
    "agent-check",
    "no-agent-check",
    "tfo",
    "allow-0rtt",
    "ssl-reuse",
    "no-ssl-reuse",
    "check-via-socks4",
    "no-tls-tickets",
    "tls-tickets",
    "force-tlsv10",
    "force-tlsv11",
    "force-tlsv12",
    "force-tlsv13",
    "force-sslv3",
    "no-sslv3",
    "no-tlsv10",
    "no-tlsv11",
    "no-tlsv12",
    "no-tlsv13",
    "no-verifyhost",
    "renegotiate",
    "no-renegotiate",
];

/// Names with their values, which are empty for `flags`.
pub(crate) fn parameters<'a>(words: &'a [Word], flags: &[&str]) -> Vec<(&'a str, &'a str)> {
    let mut found = Vec::new();
    let mut words = words.iter();
    while let Some(word) = words.next() {
        let value =
            if flags.contains(&word.text.as_str()) { "" } else { words.next().map_or("", |w| &w.text) };
        found.push((word.text.as_str(), value));
    }
    found
}

/// Host, without brackets, and what follows the last colon. IPv6 needs no brackets here.
pub(super) fn split_port(address: &str) -> Option<(&str, &str)> {
    let (host, port) = address.rsplit_once(':')?;
    let bare = host.strip_prefix('[').and_then(|host| host.strip_suffix(']')).unwrap_or(host);
    (!port.is_empty() && !port.contains(']')).then_some((bare, port))
}

impl Server {
    /// Takes over what a line says; the words before `first` are not parameters.
    pub(super) fn apply(&mut self, line: &Line, first: usize) -> Result<(), Wrong> {
        for (name, value) in parameters(line.words.get(first..).unwrap_or_default(), FLAGS) {
            let wrong = |allowed: &str| {
                let word = line.words.iter().find(|word| word.text == name).unwrap_or(&line.words[0]);
                Wrong::at(line.number, word, format!("{name} {value:?}"), allowed)
            };
            let number = || value.parse::<u32>().map_err(|_| wrong("a whole number"));
            match name {
                "check" => self.check = true,
                "no-check" => self.check = false,
                "addr" => self.check_host = Some(value.to_owned()),
                "port" => {
                    self.check_port = Some(value.parse().map_err(|_| wrong("a port, 1 to 65535"))?);
                }
                "check-ssl" => self.check_ssl = true,
                "no-check-ssl" => self.check_ssl = false,
                "inter" => self.inter = Some(value.to_owned()),
                "rise" => self.rise = Some(number()?),
                "fall" => self.fall = Some(number()?),
                "maxconn" => self.maxconn = Some(u64::from(number()?)),
                "backup" => self.backup = true,
                "no-backup" => self.backup = false,
                "disabled" => self.disabled = true,
                "enabled" => self.disabled = false,
                "on-marked-down" => self.cuts_when_down = value == "shutdown-sessions",
                "send-proxy" | "send-proxy-v2" | "send-proxy-v2-ssl" | "send-proxy-v2-ssl-cn" => {
                    self.sends_proxy = true;
                }
                "no-send-proxy" | "no-send-proxy-v2" => self.sends_proxy = false,
                "ssl" => self.ssl = true,
                "no-ssl" => self.ssl = false,
                "verify" => self.verify = if value == "none" { Verify::None } else { Verify::Required },
                "verifyhost" | "sni" | "check-sni" => self.verifies_name = true,
                "ca-file" => self.ca_file = Some(value.to_owned()),
                "crt" => self.crt = Some(value.to_owned()),
                _ => {}
            }
        }
        Ok(())
    }

    /// `server NAME ADDRESS ...` or `server-template PREFIX COUNT ADDRESS ...`, on top of `defaults`.
    pub(super) fn read(line: &Line, defaults: &Server) -> Result<Server, Wrong> {
        let is_template = line.word(0) == "server-template";
        let at = if is_template { 3 } else { 2 };
        let Some(address) = line.words.get(at) else {
            let seen = format!("{} without a name and an address", line.word(0));
            return Err(Wrong::at(line.number, &line.words[0], seen, "server NAME ADDRESS:PORT"));
        };
        let mut server =
            Server { line: line.number, name: line.word(1).to_owned(), is_template, ..defaults.clone() };
        (server.host, server.port) = place(&address.text).ok_or_else(|| {
            let seen = format!("{:?} is no address of a server", address.text);
            Wrong::at(line.number, address, seen, "ADDRESS:PORT such as 10.0.0.1:5432, ADDRESS, unix@/PATH")
        })?;
        server.apply(line, at + 1)?;
        Ok(server)
    }
}

/// Host and port of a server's address; no host for a Unix socket.
fn place(text: &str) -> Option<(String, Option<u16>)> {
    if text.starts_with('/') {
        return Some((String::new(), None));
    }
    let text = match text.split_once('@') {
        Some(("ipv4" | "ipv6" | "tcp" | "tcp4" | "tcp6", rest)) => rest,
        Some(_) => return Some((String::new(), None)),
        None => text,
    };
    let (host, port) = match split_port(text) {
        // A relative port (`+1`, `-1`) is none that a member has.
        Some((host, port)) => (host, Some(port.parse::<u16>().ok().filter(|port| *port != 0)?)),
        None => (text.trim_end_matches(':'), None),
    };
    let plain = |c: char| c.is_ascii_alphanumeric() || ".-_:%".contains(c);
    (!host.is_empty() && host.chars().all(plain)).then(|| (host.to_owned(), port))
}
