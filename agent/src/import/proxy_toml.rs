//! The plan as the text of a proxy.toml.

use std::fmt::Write as _;

use pgvane_cluster::units::show_duration;
use toml::Value;

use super::haproxy::{Role, Tcp, time};
use super::plan::{Cluster, Listener, Plan, Polled, Source, Tls, Trust};
use crate::config::{Config, Ctl};

/// The role that asks PostgreSQL where nobody names one.
pub(super) const PROBE_USER: &str = "pgvane";

/// The text.
pub(super) fn text(plan: &Plan) -> String {
    let mut file = File(
        "# Made from a haproxy.cfg by `pgvanectl import`. Check it: pgvane --check proxy.toml\n".to_owned(),
    );
    file.section("admin");
    if !plan.admin.is_empty() {
        file.list("listen", &plan.admin);
    }
    file.say("socket", "/run/pgvane/admin.sock");
    tcp(&mut file, &plan.tcp, plan.user_timeout.as_deref());
    for one in &plan.clusters {
        cluster(&mut file, one);
    }
    for listener in &plan.listeners {
        let cluster = plan.clusters.get(listener.cluster).map_or("", |cluster| &cluster.name);
        self::listener(&mut file, listener, cluster);
    }
    file.0
}

/// Text that grows key by key.
struct File(String);

impl File {
    fn line(&mut self, text: &str) {
        self.0.push_str(text);
        self.0.push('\n');
    }

    fn section(&mut self, name: &str) {
        self.line(&format!("\n[{name}]"));
    }

    fn put(&mut self, key: &str, value: &Value) {
        // Writing to a text does not fail.
        let _ = writeln!(self.0, "{key} = {value}");
    }

    fn say(&mut self, key: &str, text: &str) {
        self.put(key, &Value::String(text.to_owned()));
    }

    fn list(&mut self, key: &str, texts: &[String]) {
        self.put(key, &Value::Array(texts.iter().cloned().map(Value::String).collect()));
    }

    fn maybe(&mut self, key: &str, text: Option<&str>) {
        if let Some(text) = text {
            self.say(key, text);
        }
    }

    fn number(&mut self, key: &str, number: Option<u64>) {
        // Beyond what TOML can say nothing is a limit.
        if let Some(number) = number.and_then(|number| i64::try_from(number).ok()) {
            self.put(key, &Value::Integer(number));
        }
    }
}

fn tcp(file: &mut File, tcp: &Tcp, user_timeout: Option<&str>) {
    let seconds = |text: &Option<String>| {
        let time = text.as_deref().and_then(keepalive)?;
        (time.subsec_nanos() == 0 && time.as_secs() > 0).then(|| show_duration(time))
    };
    let (idle, interval) = (seconds(&tcp.idle), seconds(&tcp.interval));
    let count =
        tcp.count.as_ref().and_then(|count| count.parse::<u64>().ok()).filter(|n| (1..=127).contains(n));
    let user_timeout = user_timeout.and_then(time).map(show_duration);
    if idle.is_none() && interval.is_none() && count.is_none() && user_timeout.is_none() {
        return;
    }
    file.section("tcp");
    file.maybe("keepalive_idle", idle.as_deref());
    file.maybe("keepalive_interval", interval.as_deref());
    file.number("keepalive_count", count);
    file.maybe("user_timeout", user_timeout.as_deref());
}

/// A bare number of these counts seconds, unlike HAProxy's other times.
pub(super) fn keepalive(text: &str) -> Option<std::time::Duration> {
    match text.parse() {
        Ok(seconds) => Some(std::time::Duration::from_secs(seconds)),
        Err(_) => time(text),
    }
}

/// The name of a section of this cluster: it may hold a dot.
fn path(cluster: &str) -> String {
    if cluster.contains('.') {
        format!("cluster.{}", Value::String(cluster.to_owned()))
    } else {
        format!("cluster.{cluster}")
    }
}

fn cluster(file: &mut File, cluster: &Cluster) {
    let path = path(&cluster.name);
    match &cluster.source {
        Source::Etcd(config) => etcd(file, &path, &cluster.name, config),
        Source::Rest(polled) => {
            file.section(&format!("{path}.patroni_rest"));
            file.list("members", &polled.members);
            rhythm(file, polled);
            if let Some(trust) = &polled.agents {
                file.section(&format!("{path}.agents"));
                agents(file, trust);
            }
        }
        Source::Probe { polled, user } => {
            file.section(&format!("{path}.probe"));
            file.list("servers", &polled.members);
            file.say("user", user.as_deref().unwrap_or(PROBE_USER));
            rhythm(file, polled);
        }
    }
}

fn rhythm(file: &mut File, polled: &Polled) {
    file.maybe("interval", polled.interval.as_deref());
    file.maybe("timeout", polled.timeout.as_deref());
    file.number("rise", polled.rise.map(u64::from));
    file.number("fall", polled.fall.map(u64::from));
}

fn agents(file: &mut File, trust: &Trust) {
    file.say("verify", trust.verify);
    file.maybe("cacert", trust.ca.as_deref());
    file.maybe("cert", trust.cert.as_deref());
    file.maybe("key", trust.cert.as_deref());
}

fn etcd(file: &mut File, path: &str, name: &str, config: &Config) {
    let has_namespace = config.namespace.trim_matches('/') != "service";
    if name != config.scope || has_namespace {
        file.section(path);
    }
    if name != config.scope {
        file.say("scope", &config.scope);
    }
    if has_namespace {
        file.say("namespace", &config.namespace);
    }
    file.section(&format!("{path}.etcd"));
    let etcd = &config.etcd;
    file.list("endpoints", &etcd.endpoints);
    if let Some(login) = &etcd.login {
        file.say("username", &login.username);
        file.say("password", login.password.expose());
    }
    let shown = |path: &std::path::PathBuf| path.display().to_string();
    file.maybe("cacert", etcd.cacert.as_ref().map(shown).as_deref());
    if let Some((cert, key)) = &etcd.client_cert {
        file.say("cert", &shown(cert));
        file.say("key", &shown(key));
    }
    if config.restapi.tls.is_some()
        && let Some(trust) = trust_of(&config.ctl)
    {
        file.section(&format!("{path}.agents"));
        agents(file, &trust);
    }
}

/// How other members' APIs are trusted, where it is said.
fn trust_of(ctl: &Ctl) -> Option<Trust> {
    let ca = ctl.cafile.as_ref().map(|path| path.display().to_string());
    match (ctl.insecure, ca) {
        (true, _) => Some(Trust { verify: "none", ca: None, cert: None }),
        (false, Some(ca)) => Some(Trust { verify: "full", ca: Some(ca), cert: None }),
        (false, None) => None,
    }
}

fn listener(file: &mut File, listener: &Listener, cluster: &str) {
    file.line("\n[[listener]]");
    file.say("name", &listener.name);
    file.say("cluster", cluster);
    file.say("role", listener.role.word());
    file.list("listen", &listener.listen);
    file.maybe("unix_mode", listener.unix_mode.as_deref());
    if listener.role != Role::Primary {
        file.maybe("balance", listener.balance);
    }
    file.maybe("fallback", listener.falls_back.then_some("primary"));
    file.maybe("max_lag", listener.max_lag.as_deref());
    file.number("max_sessions", listener.max_sessions);
    file.number("max_sessions_per_target", listener.max_sessions_per_target);
    file.maybe("queue_timeout", listener.queue_timeout.as_deref());
    file.maybe("connect_timeout", listener.connect_timeout.as_deref());
    for (key, networks) in [
        ("allow", &listener.allow),
        ("deny", &listener.deny),
        ("proxy_protocol_from", &listener.proxy_protocol_from),
    ] {
        if !networks.is_empty() {
            file.list(key, networks);
        }
    }
    if listener.sends_proxy {
        file.put("send_proxy_protocol", &Value::Boolean(true));
    }
    if let Some(tls) = &listener.tls {
        self::tls(file, tls);
    }
}

fn tls(file: &mut File, tls: &Tls) {
    file.section("listener.tls");
    file.say("mode", if tls.servers.is_some() { "reencrypt" } else { "terminate" });
    // HAProxy's file holds both.
    file.say("cert", &tls.cert);
    file.say("key", &tls.cert);
    file.maybe("client_ca", tls.client_ca.as_deref());
    file.maybe("min_version", tls.min_version);
    file.put("required", &Value::Boolean(true));
    if let Some(trust) = &tls.servers {
        file.say("server_verify", trust.verify);
        file.maybe("server_ca", trust.ca.as_deref());
        file.maybe("server_cert", trust.cert.as_deref());
        file.maybe("server_key", trust.cert.as_deref());
    }
}
