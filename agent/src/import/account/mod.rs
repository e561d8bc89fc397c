//! What became of every setting of a haproxy.cfg.

mod anywhere;
mod shown;

use self::anywhere::{BY_SYSTEMD, NO_EQUIVALENT, POLLING, common, global};
use self::shown::{named, shown};
use super::haproxy::{
    BIND_FLAGS, Condition, Health, Kind, Proxy, Role, SERVER_FLAGS, Section, Word, parameters, time,
};
use super::plan::{Cluster, Listener, Part, Plan, Source, by_section};
use super::proxy_toml::PROBE_USER;
use crate::config::{Fate, Setting};

/// One line for each setting, in the order of the file.
pub(super) fn account(file: &str, sections: &[Section], proxies: &[Proxy], plan: &Plan) -> Vec<Setting> {
    let mut book = Book { file, plan, settings: vec![] };
    let of_section = by_section(proxies);
    for (index, section) in sections.iter().enumerate() {
        let title = section.title();
        let proxy = of_section.get(&index).map(|place| (&proxies[*place], &plan.parts[*place]));
        book.head(section, &title, proxy);
        for line in &section.lines {
            let about = About { title: &title, line: line.number, words: &line.words };
            match (section.kind, proxy) {
                (Kind::Global, _) => book.put(&about, &shown(&line.words), global(&line.words)),
                (Kind::Other, _) => {
                    let why = "pgvane needs no such section";
                    book.put(&about, &shown(&line.words), left(why));
                }
                (Kind::Defaults, _) | (_, None) => book.defaults(&about),
                (_, Some((_, Part::None(why)))) => book.put(&about, &shown(&line.words), left(*why)),
                (_, Some((proxy, Part::Stats))) => book.stats(&about, proxy),
                (_, Some((proxy, Part::Listener(place)))) => {
                    book.served(&about, proxy, &plan.listeners[*place]);
                }
            }
        }
    }
    book.additions();
    book.settings
}

/// The line that a setting stands in.
struct About<'a> {
    title: &'a str,
    line: usize,
    words: &'a [Word],
}

impl About<'_> {
    fn word(&self, index: usize) -> &str {
        self.words.get(index).map_or("", |word| word.text.as_str())
    }
}

struct Book<'a> {
    file: &'a str,
    plan: &'a Plan,
    settings: Vec<Setting>,
}

fn left(why: impl Into<String>) -> Fate {
    Fate::Left { why: why.into() }
}

fn carried(to: impl Into<String>) -> Fate {
    Fate::Carried(to.into())
}

fn changed(to: impl Into<String>, why: impl Into<String>) -> Fate {
    Fate::Changed { to: to.into(), why: why.into() }
}

impl Book<'_> {
    fn put(&mut self, about: &About<'_>, what: &str, fate: Fate) {
        let name = if what.is_empty() { about.title.to_owned() } else { format!("{}: {what}", about.title) };
        self.settings.push(Setting { place: format!("{}:{}", self.file, about.line), name, fate });
    }

    /// The line that begins a section.
    fn head(&mut self, section: &Section, title: &str, proxy: Option<(&Proxy, &Part)>) {
        let about = About { title, line: section.head.number, words: &section.head.words };
        let fate = match proxy {
            None => return,
            Some((_, Part::None(why))) => left(*why),
            Some((_, Part::Stats)) => {
                changed("admin.listen", "pgvane has a status page and /metrics of its own")
            }
            Some((_, Part::Listener(place))) => {
                let listener = &self.plan.listeners[*place];
                let to = format!("{}.role = {:?}", key(listener, ""), listener.role.word());
                match listener.but {
                    Some(but) => changed(to, but),
                    None => carried(to),
                }
            }
        };
        self.put(&about, "", fate);
        if let Some((proxy, Part::Listener(place))) = proxy {
            let listener = &self.plan.listeners[*place];
            for bind in proxy.binds.iter().filter(|bind| bind.line == section.head.number) {
                self.put(
                    &about,
                    "address",
                    carried(format!("{}.listen = {:?}", key(listener, ""), bind.listen)),
                );
            }
        }
    }

    /// `defaults`: what it says goes into the listeners that have it.
    fn defaults(&mut self, about: &About<'_>) {
        let fate = match (about.word(0), about.word(1)) {
            ("maxconn", _) => {
                changed("listener.max_sessions", "who comes after gets the error 53300 at once")
            }
            ("timeout", "connect") => carried("listener.connect_timeout"),
            ("timeout", "check") if self.asks_sooner() => carried("cluster.NAME.patroni_rest.timeout"),
            ("timeout", "queue") => carried("listener.queue_timeout, where servers have a maxconn"),
            ("balance", "roundrobin" | "static-rr" | "leastconn") => {
                carried("listener.balance, of those for replicas")
            }
            ("option", "httpchk" | "pgsql-check" | "tcp-check") | ("http-check" | "tcp-check", _) => {
                carried("listener.role, of those whose servers have it")
            }
            ("default-server", _) => return self.default_server(about, None),
            _ => common(about.words, None),
        };
        self.put(about, &shown(about.words), fate);
    }

    fn stats(&mut self, about: &About<'_>, proxy: &Proxy) {
        let fate = match (about.word(0), about.word(1)) {
            ("bind", _) => {
                let why = "the status page is open to whoever reaches it, so it is kept on this host alone";
                let to = format!("admin.listen = {:?}", self.plan.admin);
                if self.plan.admin.is_empty() {
                    left("a listener has this address; the status page is at its usual place, 127.0.0.1:8009")
                } else if proxy.stats_need_login {
                    changed(to, why)
                } else {
                    carried(to)
                }
            }
            ("stats", "auth" | "admin" | "http-request") => left(
                "reading needs no login; [admin] token lets people change something, and is yours to set",
            ),
            ("stats", "enable" | "uri") => {
                changed("admin.listen", "the page is at /, /metrics and /topology beside it")
            }
            ("http-request", "use-service") => {
                changed("admin.listen", "Prometheus finds pgvane's metrics at /metrics")
            }
            ("server" | "default-server", _) => {
                left("the members' REST APIs are reached at the members themselves")
            }
            _ => left("the status page needs no such setting"),
        };
        self.put(about, &shown(about.words), fate);
    }

    fn served(&mut self, about: &About<'_>, proxy: &Proxy, listener: &Listener) {
        let to = |name: &str| key(listener, name);
        let fate = match (about.word(0), about.word(1)) {
            ("bind", _) => return self.bind(about, proxy, listener),
            ("server" | "server-template", _) => return self.server(about, proxy, listener),
            ("default-server", _) => return self.default_server(about, Some(listener)),
            ("balance", _) if listener.role == Role::Primary => {
                left("there is one primary: nothing is to be balanced")
            }
            ("balance", algorithm) => match listener.balance {
                Some(_) if ["roundrobin", "leastconn"].contains(&algorithm) => carried(to("balance")),
                Some(_) => changed(to("balance"), "weights never change here"),
                None => {
                    left("pgvane shares out in turn, by sessions or by lag; in turn unless told otherwise")
                }
            },
            ("maxconn", _) => changed(to("max_sessions"), "who comes after gets the error 53300 at once"),
            ("timeout", "connect") => carried(to("connect_timeout")),
            ("timeout", "queue") if listener.queue_timeout.is_some() => carried(to("queue_timeout")),
            ("timeout", "check") => match self.polled(listener) {
                Some(polled) if polled.timeout.is_some() => carried(self.source(listener, "timeout")),
                Some(_) => left("pgvane waits 1s for an answer, which is no longer"),
                None => left(POLLING),
            },
            ("option", "httpchk" | "pgsql-check" | "tcp-check") | ("http-check" | "tcp-check", _) => {
                check(proxy, listener)
            }
            ("acl", _)
                if listener.falls_back && proxy.few_servers.iter().any(|name| name == about.word(1)) =>
            {
                carried(to("fallback"))
            }
            ("acl", name) if proxy.sources.contains_key(name) => {
                left("its networks are put in where it is used")
            }
            ("use_backend", _) => {
                let used = proxy.use_backends.iter().find(|used| used.line == about.line);
                match used.map(|used| used.condition) {
                    Some(Condition::FewServers) if listener.falls_back => carried(to("fallback")),
                    Some(Condition::Always) => carried(to("role")),
                    _ => {
                        left("a listener has one role; give what the condition tells apart a port of its own")
                    }
                }
            }
            ("default_backend", _) => carried(to("role")),
            ("tcp-request", _) if proxy.admitted.contains(&about.line) => {
                carried(format!("{}, deny or proxy_protocol_from", to("allow")))
            }
            ("tcp-request", "inspect-delay") => left("startup_timeout bounds the first packet"),
            ("tcp-request", _) => left(
                "NOT carried: if it keeps clients out, write allow, deny or max_sessions_per_address yourself",
            ),
            _ => common(about.words, Some(listener)),
        };
        self.put(about, &shown(about.words), fate);
    }

    fn bind(&mut self, about: &About<'_>, proxy: &Proxy, listener: &Listener) {
        let Some(bind) = proxy.binds.iter().find(|bind| bind.line == about.line) else { return };
        // Addresses that clients come by in other ways are listeners of their own.
        let own = self.plan.listeners.iter().filter(|other| other.frontend == listener.frontend);
        let mut own = own.filter(|other| bind.listen.iter().any(|place| other.listen.contains(place)));
        let listener = own.next().unwrap_or(listener);
        let what = format!("bind {}", about.word(1));
        let taken: Vec<&String> =
            bind.listen.iter().filter(|place| listener.listen.contains(place)).collect();
        let to = format!("{} = {taken:?}", key(listener, "listen"));
        let is_dual =
            taken.len() == 2 && bind.listen[0].starts_with("0.0.0.0:") && bind.listen[1].starts_with("[::]:");
        match (taken.is_empty(), is_dual) {
            (true, _) if bind.left.is_empty() => {
                self.put(about, &what, left("another listener has the address already"));
            }
            (true, _) => {}
            (false, true) => self.put(about, &what, changed(to, "an IPv6 socket of pgvane takes IPv6 only")),
            (false, false) => self.put(about, &what, carried(to)),
        }
        for (address, why) in &bind.left {
            self.put(about, &format!("bind {address}"), left(*why));
        }
        for (name, value) in parameters(about.words.get(2..).unwrap_or_default(), BIND_FLAGS) {
            let tls = |name: &str| format!("{}.{name}", key(listener, "tls"));
            let has_tls = listener.tls.is_some();
            let fate = match name {
                "v4v6" | "v6only" => carried(key(listener, "listen")),
                "accept-proxy" => changed(
                    key(listener, "proxy_protocol_from"),
                    "it believes everybody, as HAProxy did: name the proxies before it",
                ),
                "mode" if listener.unix_mode.is_some() => carried(key(listener, "unix_mode")),
                "ssl" if has_tls => changed(
                    tls("mode"),
                    "clients may also ask for TLS as PostgreSQL's do (SSLRequest), which HAProxy cannot",
                ),
                "ssl" => left("TLS needs a file with certificate and key (crt)"),
                "crt" if has_tls => carried(format!("{} and key", tls("cert"))),
                "ca-file" | "verify" if has_tls => {
                    match listener.tls.as_ref().and_then(|t| t.client_ca.as_ref()) {
                        Some(_) => carried(tls("client_ca")),
                        None => left("no client has to show a certificate"),
                    }
                }
                "ssl-min-ver" if listener.tls.as_ref().is_some_and(|t| t.min_version.is_some()) => {
                    carried(tls("min_version"))
                }
                "ssl-min-ver" => left("TLS 1.2 is the oldest that is spoken"),
                "tcp-ut" => carried("tcp.user_timeout"),
                "user" | "group" | "uid" | "gid" => left(BY_SYSTEMD),
                "process" | "thread" | "shards" => left("a session stays on the thread that had the fewest"),
                _ => left(NO_EQUIVALENT),
            };
            let is_plain = ["mode", "ssl-min-ver", "tcp-ut", "verify"].contains(&name);
            let what = if is_plain { format!("bind {name} {value}") } else { format!("bind {name}") };
            self.put(about, &what, fate);
        }
    }

    fn server(&mut self, about: &About<'_>, proxy: &Proxy, listener: &Listener) {
        let Some(server) = proxy.servers.iter().find(|server| server.line == about.line) else { return };
        let at = if server.is_template { 3 } else { 2 };
        let what = format!("{} {}", about.word(0), server.name);
        let pooler = "sessions go where the member says that its PostgreSQL is, past what listens at this port: put a \
                      pooler before pgvane, or use a [cluster.NAME.probe] with these servers";
        let is_pooler = server.port.is_some_and(|port| port == 6432);
        let source = self.plan.clusters.get(listener.cluster).map(|cluster| &cluster.source);
        let fate = match source {
            _ if server.host.is_empty() => left("pgvane reaches servers by TCP"),
            _ if server.disabled => {
                left("it is disabled; `pgvanectl proxy disable` does it while pgvane runs")
            }
            Some(Source::Etcd(_)) if is_pooler => changed("the members in etcd", pooler),
            Some(Source::Etcd(_)) => left("etcd tells who the members are and where"),
            Some(Source::Rest(_)) if !server.check => left("it is not checked, so nothing tells its role"),
            _ if server.is_template => changed(
                self.source(listener, "members or servers"),
                "EDIT IT: one name stands for several servers here; list each by a name of its own",
            ),
            Some(Source::Rest(_)) if is_pooler => changed(self.source(listener, "members"), pooler),
            Some(Source::Rest(_)) => carried(self.source(listener, "members")),
            Some(Source::Probe { .. }) | None => carried(self.source(listener, "servers")),
        };
        self.put(about, &format!("{what} {}", about.word(at)), fate);
        for (name, value) in parameters(about.words.get(at + 1..).unwrap_or_default(), SERVER_FLAGS) {
            let fate = self.parameter(name, value, Some(listener));
            self.put(about, &named(&what, name, value), fate);
        }
    }

    fn default_server(&mut self, about: &About<'_>, listener: Option<&Listener>) {
        for (name, value) in parameters(about.words.get(1..).unwrap_or_default(), SERVER_FLAGS) {
            let fate = self.parameter(name, value, listener);
            self.put(about, &named("default-server", name, value), fate);
        }
    }

    /// A parameter of `server`; of `defaults` where no listener is given.
    fn parameter(&self, name: &str, value: &str, listener: Option<&Listener>) -> Fate {
        let polled = listener.and_then(|listener| self.polled(listener));
        let source =
            |key: &str| listener.map_or_else(|| key.to_owned(), |listener| self.source(listener, key));
        let is_etcd = match listener {
            Some(_) => polled.is_none(),
            None => self.plan.clusters.iter().all(|cluster| matches!(cluster.source, Source::Etcd(_))),
        };
        let of_listener = |name: &str| listener.map_or_else(|| format!("listener.{name}"), |l| key(l, name));
        match name {
            "check" | "port" | "addr" | "rise" | "fall" | "inter" if is_etcd => left(POLLING),
            "check" | "port" | "addr" => carried(source("members")),
            "check-ssl" if is_etcd => left("the members' records in etcd say whether their API speaks TLS"),
            "check-ssl" => carried(format!("{} and agents", source("members"))),
            "verify" | "ca-file" | "crt" | "verifyhost" | "sni" | "check-sni" => {
                match polled.is_some_and(|polled| polled.agents.is_some()) {
                    true => carried(format!(
                        "cluster.{}.agents",
                        listener.map_or("NAME", |l| self.cluster_name(l))
                    )),
                    false if listener.is_some_and(has_server_tls) => {
                        carried(format!("{}.server_ca", of_listener("tls")))
                    }
                    false => left("TLS is passed through: the client checks the server's certificate itself"),
                }
            }
            "rise" | "fall" => carried(source(name)),
            "inter" => match time(value) {
                Some(every) if every < std::time::Duration::from_secs(1) && !every.is_zero() => {
                    carried(source("interval"))
                }
                _ => left(
                    "pgvane asks each member once a second for all listeners, which finds a change sooner",
                ),
            },
            "fastinter" | "downinter" => left("a member is asked at the same pace, whatever it said last"),
            "maxconn" => changed(
                of_listener("max_sessions_per_target"),
                "the smallest of its servers' counts for all; sessions of other listeners on a server count too",
            ),
            "on-marked-down" if value == "shutdown-sessions" => {
                left("pgvane always does so: the sessions of an ended reign are cut at once")
            }
            "on-marked-up" | "on-marked-down" => left("sessions on a primary end with its reign, always"),
            "backup" => left("the role decides who serves; the order of the servers means nothing"),
            "disabled" => left("`pgvanectl proxy disable` does it while pgvane runs"),
            "send-proxy-v2" => carried(of_listener("send_proxy_protocol")),
            "send-proxy" | "send-proxy-v2-ssl" | "send-proxy-v2-ssl-cn" => changed(
                of_listener("send_proxy_protocol"),
                "the header is of version 2, without what TLS told",
            ),
            "ssl" if listener.is_some_and(has_server_tls) => carried(format!("{}.mode", of_listener("tls"))),
            "ssl" => left(
                "TLS of clients is passed through; a listener that ends it may begin it anew (reencrypt)",
            ),
            "weight" => left("servers take turns alike; balance = \"lag_weighted\" gives those behind fewer"),
            "tcp-ut" => left("tcp.user_timeout is for all servers; it is 20s unless set"),
            "resolvers" | "init-addr" | "resolve-prefer" | "resolve-net" | "resolve-opts" => {
                left("names are looked up by this host's resolver whenever a server is dialled")
            }
            _ => left(NO_EQUIVALENT),
        }
    }

    /// What was asked for by nobody, and has to be known.
    fn additions(&mut self) {
        for cluster in &self.plan.clusters {
            let name = &cluster.name;
            match &cluster.source {
                Source::Probe { user, .. } => {
                    let user = user.as_deref().unwrap_or(PROBE_USER);
                    let why = format!(
                        "PostgreSQL is asked itself: the role {user:?} must be let in from here (a member of \
                         pg_monitor, best; `password` where pg_hba.conf asks for one)"
                    );
                    self.add(format!("cluster.{name}.probe.user"), why);
                }
                Source::Rest(polled) if polled.members.iter().any(|url| !url.ends_with(":8008")) => {
                    let why =
                        "what answers there has to be Patroni's REST API: /primary and /cluster are asked";
                    self.add(format!("cluster.{name}.patroni_rest.members"), why.to_owned());
                }
                Source::Etcd(config) if config.etcd.cacert.is_some() || config.etcd.client_cert.is_some() => {
                    let why = "these files have to be readable on the host of the proxy too";
                    self.add(format!("cluster.{name}.etcd"), why.to_owned());
                }
                Source::Rest(_) | Source::Etcd(_) => {}
            }
            if let Source::Etcd(config) = &cluster.source
                && config.restapi.tls.is_some()
            {
                let why = "the agents' API speaks TLS; without a CA (ctl.cacert) nobody is asked while etcd is silent";
                self.add(format!("cluster.{name}.agents"), why.to_owned());
            }
        }
    }

    fn add(&mut self, key: String, why: String) {
        let fate = Fate::Changed { to: key.clone(), why };
        self.settings.push(Setting { place: "proxy.toml".to_owned(), name: key, fate });
    }

    fn polled(&self, listener: &Listener) -> Option<&super::plan::Polled> {
        match &self.plan.clusters.get(listener.cluster)?.source {
            Source::Etcd(_) => None,
            Source::Rest(polled) | Source::Probe { polled, .. } => Some(polled),
        }
    }

    /// Whether some cluster's members are given less time for an answer than usual.
    fn asks_sooner(&self) -> bool {
        self.plan.clusters.iter().any(|cluster| match &cluster.source {
            Source::Etcd(_) => false,
            Source::Rest(polled) | Source::Probe { polled, .. } => polled.timeout.is_some(),
        })
    }

    fn cluster_name(&self, listener: &Listener) -> &str {
        self.plan.clusters.get(listener.cluster).map_or("", |cluster| &cluster.name)
    }

    /// A key of the section that tells of a listener's cluster.
    fn source(&self, listener: &Listener, key: &str) -> String {
        let section = |cluster: &Cluster| match cluster.source {
            Source::Etcd(_) => "etcd",
            Source::Rest(_) => "patroni_rest",
            Source::Probe { .. } => "probe",
        };
        let section = self.plan.clusters.get(listener.cluster).map_or("", section);
        let key = match (section, key) {
            ("probe", "members" | "members or servers") => "servers",
            ("patroni_rest", "members or servers") => "members",
            (_, key) => key,
        };
        format!("cluster.{}.{section}.{key}", self.cluster_name(listener))
    }
}

/// Where the checks of a backend went: into the role.
fn check(proxy: &Proxy, listener: &Listener) -> Fate {
    let role = key(listener, "role");
    if proxy.servers.is_empty() {
        return left("the servers are another section's");
    }
    let to = match (&listener.max_lag, listener.falls_back) {
        (Some(_), _) => format!("{role} and max_lag"),
        (None, true) => format!("{role} and fallback"),
        (None, false) => role,
    };
    match (listener.but, &proxy.health) {
        (Some(but), _) => changed(to, but),
        (None, Health::Http(_) | Health::Recovery { .. } | Health::Pgsql { .. } | Health::Connect) => {
            carried(to)
        }
        (None, Health::Foreign(_)) => left(NO_EQUIVALENT),
    }
}

fn has_server_tls(listener: &Listener) -> bool {
    listener.tls.as_ref().is_some_and(|tls| tls.servers.is_some())
}

/// A key of a listener, which is called by its name.
fn key(listener: &Listener, name: &str) -> String {
    let listener = format!("listener {:?}", listener.name);
    if name.is_empty() { listener } else { format!("{listener}.{name}") }
}
