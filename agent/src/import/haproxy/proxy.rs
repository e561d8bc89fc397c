//! What each `frontend`, `backend` and `listen` does, its `defaults` included.

use std::collections::BTreeMap;

use super::Wrong;
use super::bind::{Bind, Resolve};
use super::check::Health;
use super::sections::{Kind, Line, Section};
use super::server::Server;

/// A proxy of HAProxy.
#[derive(Clone, Debug)]
pub(crate) struct Proxy {
    /// Which of the sections it is.
    pub(crate) section: usize,
    pub(crate) kind: Kind,
    pub(crate) name: String,
    pub(crate) speaks_http: bool,
    pub(crate) binds: Vec<Bind>,
    pub(crate) servers: Vec<Server>,
    pub(crate) health: Health,
    pub(crate) balance: Option<String>,
    pub(crate) maxconn: Option<u64>,
    /// Times by name: `connect`, `queue`, `check` and the others.
    pub(crate) timeouts: BTreeMap<String, String>,
    pub(crate) default_backend: Option<String>,
    pub(crate) use_backends: Vec<UseBackend>,
    /// Names of acls that hold while few servers are up (`nbsrv`).
    pub(crate) few_servers: Vec<String>,
    /// Names of acls about the client's address, and its networks.
    pub(crate) sources: BTreeMap<String, Vec<String>>,
    pub(crate) allow: Vec<String>,
    pub(crate) deny: Vec<String>,
    /// Lines about clients that were understood: their numbers.
    pub(crate) admitted: Vec<usize>,
    /// From whom a PROXY header is expected.
    pub(crate) expects_proxy_from: Vec<String>,
    pub(crate) has_stats: bool,
    pub(crate) stats_need_login: bool,
    pub(crate) tcp: Tcp,
}

/// Socket options.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub(crate) struct Tcp {
    pub(crate) idle: Option<String>,
    pub(crate) interval: Option<String>,
    pub(crate) count: Option<String>,
}

/// `use_backend`.
#[derive(Clone, Debug)]
pub(crate) struct UseBackend {
    pub(crate) line: usize,
    pub(crate) backend: String,
    pub(crate) condition: Condition,
}

/// When another backend is used.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Condition {
    Always,
    /// While few servers are up.
    FewServers,
    Other,
}

/// All proxies, in the order of their sections.
pub(crate) fn proxies(sections: &[Section], resolve: Resolve<'_>) -> Result<Vec<Proxy>, Wrong> {
    let mut proxies = Vec::new();
    for (index, section) in sections.iter().enumerate() {
        if matches!(section.kind, Kind::Frontend | Kind::Backend | Kind::Listen) {
            proxies.push(proxy(sections, index, resolve)?);
        }
    }
    Ok(proxies)
}

/// The lines of a section with those of its defaults before them.
fn lines<'a>(sections: &'a [Section], section: &'a Section) -> Vec<&'a Line> {
    let mut chain = vec![section];
    let mut above = section.defaults;
    // Defaults name only those above them, so that this ends.
    while let Some(defaults) = above.and_then(|index| sections.get(index)) {
        chain.push(defaults);
        above = defaults.defaults;
    }
    chain.into_iter().rev().flat_map(|section| &section.lines).collect()
}

fn proxy(sections: &[Section], index: usize, resolve: Resolve<'_>) -> Result<Proxy, Wrong> {
    let section = &sections[index];
    let mut proxy = Proxy {
        section: index,
        kind: section.kind,
        name: section.name().to_owned(),
        speaks_http: false,
        binds: vec![],
        servers: vec![],
        health: Health::default(),
        balance: None,
        maxconn: None,
        timeouts: BTreeMap::new(),
        default_backend: None,
        use_backends: vec![],
        few_servers: vec![],
        sources: BTreeMap::new(),
        allow: vec![],
        deny: vec![],
        admitted: vec![],
        expects_proxy_from: vec![],
        has_stats: false,
        stats_need_login: false,
        tcp: Tcp::default(),
    };
    // Old files have the address behind the name.
    if section.head.words.get(2).is_some_and(|word| word.text.contains(':')) {
        proxy.binds.push(Bind::read(&section.head, 2, resolve)?);
    }
    let mut defaults = Server::default();
    for line in lines(sections, section) {
        proxy.health.apply(line);
        match line.word(0) {
            "bind" => proxy.binds.push(Bind::read(line, 1, resolve)?),
            "default-server" => defaults.apply(line, 1)?,
            "server" | "server-template" => proxy.servers.push(Server::read(line, &defaults)?),
            _ => proxy.apply(line)?,
        }
    }
    Ok(proxy)
}

impl Proxy {
    fn apply(&mut self, line: &Line) -> Result<(), Wrong> {
        let value = || Some(line.word(1).to_owned());
        match line.word(0) {
            "mode" => self.speaks_http = line.word(1) != "tcp",
            "balance" => self.balance = value(),
            "maxconn" => self.maxconn = Some(whole(line)?),
            "timeout" => {
                self.timeouts.insert(line.word(1).to_owned(), line.word(2).to_owned());
            }
            "default_backend" => self.default_backend = value(),
            "use_backend" => self.use_backends.push(UseBackend {
                line: line.number,
                backend: line.word(1).to_owned(),
                condition: self.condition(line),
            }),
            "acl" => self.acl(line),
            "tcp-request" => self.tcp_request(line),
            "stats" if self.kind != Kind::Backend => {
                self.has_stats = true;
                self.stats_need_login |= ["auth", "http-request", "admin"].contains(&line.word(1));
            }
            "clitcpka-idle" | "srvtcpka-idle" => self.tcp.idle = value(),
            "clitcpka-intvl" | "srvtcpka-intvl" => self.tcp.interval = value(),
            "clitcpka-cnt" | "srvtcpka-cnt" => self.tcp.count = value(),
            _ => {}
        }
        Ok(())
    }

    fn acl(&mut self, line: &Line) {
        let (name, criterion) = (line.word(1), line.word(2));
        if criterion.starts_with("nbsrv") {
            self.few_servers.push(name.to_owned());
        } else if criterion == "src" {
            let networks = networks(line.words.iter().skip(3).map(|word| word.text.as_str()));
            // The same name again adds to it.
            self.sources.entry(name.to_owned()).or_default().extend(networks.unwrap_or_default());
        }
    }

    fn condition(&self, line: &Line) -> Condition {
        let words: Vec<&str> = line.words.iter().skip(2).map(|word| word.text.as_str()).collect();
        match words.as_slice() {
            [] => Condition::Always,
            ["if", name] if self.few_servers.iter().any(|known| known == name) => Condition::FewServers,
            ["if", "{", criterion, ..] if criterion.starts_with("nbsrv") => Condition::FewServers,
            _ => Condition::Other,
        }
    }

    /// Who may connect, where it is said by address alone.
    fn tcp_request(&mut self, line: &Line) {
        let words: Vec<&str> = line.words.iter().skip(1).map(|word| word.text.as_str()).collect();
        let (action, condition) = match words.as_slice() {
            ["connection" | "content" | "session", action, rest @ ..] => (*action, rest),
            _ => return,
        };
        let (header, condition) = match condition {
            ["layer4", rest @ ..] if action == "expect-proxy" => (true, rest),
            rest => (false, rest),
        };
        let Some((word, condition)) = condition.split_first() else { return };
        let (inner, not) = match condition {
            ["!", rest @ ..] => (rest.to_vec(), true),
            [first, rest @ ..] if first.starts_with('!') => {
                let first = &first[1..];
                let words = (!first.is_empty()).then_some(first).into_iter().chain(rest.iter().copied());
                (words.collect(), true)
            }
            rest => (rest.to_vec(), false),
        };
        let holds = match *word {
            "if" => !not,
            "unless" => not,
            _ => return,
        };
        let networks = match inner.as_slice() {
            ["{", "src", networks @ .., "}"] => self::networks(networks.iter().copied()),
            [name] => self.sources.get(*name).cloned().filter(|networks| !networks.is_empty()),
            _ => None,
        };
        let Some(networks) = networks else { return };
        match (action, holds) {
            ("expect-proxy", true) if header => self.expects_proxy_from.extend(networks),
            ("reject", true) => self.deny.extend(networks),
            // A second one would narrow the first down, which a list cannot.
            ("reject", false) if self.allow.is_empty() => self.allow = networks,
            _ => return,
        }
        self.admitted.push(line.number);
    }

    /// Servers that take sessions.
    pub(crate) fn serving(&self) -> impl Iterator<Item = &Server> {
        self.servers.iter().filter(|server| !server.disabled && !server.host.is_empty())
    }
}

/// Networks, when all of the words are some.
fn networks<'a>(words: impl Iterator<Item = &'a str>) -> Option<Vec<String>> {
    let is_one =
        |word: &str| word.parse::<ipnet::IpNet>().is_ok() || word.parse::<std::net::IpAddr>().is_ok();
    let words: Vec<&str> = words.collect();
    (!words.is_empty() && words.iter().all(|word| is_one(word)))
        .then(|| words.into_iter().map(str::to_owned).collect())
}

fn whole(line: &Line) -> Result<u64, Wrong> {
    line.word(1).parse().map_err(|_| {
        let word = line.words.get(1).unwrap_or(&line.words[0]);
        Wrong::at(line.number, word, format!("{} {:?}", line.word(0), line.word(1)), "a whole number")
    })
}
