//! `[cluster.NAME]` and the section that says who tells of it, checked.

use std::collections::BTreeSet;
use std::fs::File;
use std::num::NonZeroU32;
use std::ops::Range;

use pgvane_cluster::records::host_port;
use pgvane_cluster::settings_file::{Interval, Spanned};

use super::check::positive;
use super::default;
use super::problem::Problem;
use super::raw::{
    RawAgents, RawChecks, RawCluster, RawEtcd, RawOnStoreLoss, RawPatroniRest, RawProbe, RawWhen,
};
use super::tls::{self as tls_keys, Misfit};
use super::{Checks, Cluster, Etcd, PatroniRest, Probe, Source, When};
use crate::agents::Api;
use crate::sources::Rhythm;
use crate::sources::probe::Login;
use crate::tls::{self, MinVersion, Originate, Part};
use crate::topology::Address;
use crate::topology::freshness::OnStoreLoss;
use crate::topology::rise_fall::Limits;

pub(super) const MOST_IN_A_ROW: u32 = 100;
const SECTIONS: &str = "allowed: one of the sections etcd, patroni_rest and probe";

/// Keys of the cluster's section that are about etcd.
struct Keys {
    scope: Option<Spanned<String>>,
    namespace: Option<Spanned<String>>,
    reread_interval: Option<Spanned<Interval>>,
}

impl Keys {
    /// The first of them that is given.
    fn given(&self) -> Option<(&'static str, Range<usize>)> {
        let scope = self.scope.as_ref().map(|key| ("scope", key.span()));
        let namespace = self.namespace.as_ref().map(|key| ("namespace", key.span()));
        let reread = self.reread_interval.as_ref().map(|key| ("reread_interval", key.span()));
        scope.or(namespace).or(reread)
    }
}

pub(super) fn check_cluster(name: &Spanned<String>, raw: RawCluster) -> Result<Cluster, Problem> {
    if !name.get_ref().chars().all(|c| c.is_ascii_alphanumeric() || "-_.".contains(c)) {
        return Err(Problem::at(name, format!("{:?} cannot name a cluster", name.get_ref()))
            .help("allowed: letters, digits, - _ and ."));
    }
    if let Some(scope) = raw.scope.as_ref().filter(|s| s.get_ref().is_empty()) {
        return Err(Problem::at(scope, "the scope is empty"));
    }
    let agents = raw.agents.as_ref().map(check_agents).transpose()?;
    let keys = Keys { scope: raw.scope, namespace: raw.namespace, reread_interval: raw.reread_interval };
    let source = match (raw.etcd, raw.patroni_rest, raw.probe) {
        (Some(etcd), None, None) => {
            let on_store_loss = match raw.on_store_loss.as_ref().map(Spanned::get_ref) {
                Some(RawOnStoreLoss::Fence) => OnStoreLoss::Fence,
                Some(RawOnStoreLoss::Hold) | None => OnStoreLoss::Hold,
            };
            let checks = check_checks(raw.checks.map(Spanned::into_inner))?;
            return Ok(Cluster {
                source: Source::Etcd(check_etcd(name, keys, etcd)?),
                on_store_loss,
                checks,
                agents,
            });
        }
        (None, Some(rest), None) => Source::PatroniRest(check_patroni_rest(rest, agents.is_some())?),
        (None, None, Some(probe)) => Source::Probe(check_probe(probe)?),
        (None, None, None) => {
            let text = format!("nothing says who tells of the cluster {:?}", name.get_ref());
            let help = format!("write [cluster.{}.etcd] with its endpoints; {SECTIONS}", name.get_ref());
            return Err(Problem::at(name, text).help(help));
        }
        (Some(_), Some(second), _) => return Err(one_too_many("patroni_rest", second.span())),
        (_, _, Some(second)) => return Err(one_too_many("probe", second.span())),
    };
    if let Some((key, at)) = keys.given() {
        return Err(Problem {
            at: Some(at),
            text: format!("{key} is for clusters with an etcd section"),
            help: Some("the members themselves are asked here; leave it out".to_owned()),
        });
    }
    if let Some(policy) = &raw.on_store_loss {
        return Err(Problem::at(policy, "on_store_loss is for clusters with an etcd section").help(
            "here the primary's own answers are its proof, and its sessions are cut when it keeps silent; leave it out",
        ));
    }
    if let Some(checks) = &raw.checks {
        return Err(Problem::at(checks, "checks are for clusters with an etcd section")
            .help("the members themselves are asked here, at all times; leave it out"));
    }
    if let (Source::Probe(_), Some(agents)) = (&source, &raw.agents) {
        return Err(Problem::at(agents, "no agent is asked here")
            .help("agents are of clusters with an etcd or a patroni_rest section; leave it out"));
    }
    // To ask the primary once more, as "hold" does, would be the question that it does not answer.
    Ok(Cluster { source, on_store_loss: OnStoreLoss::Fence, checks: None, agents })
}

fn check_checks(raw: Option<RawChecks>) -> Result<Option<Checks>, Problem> {
    let raw = raw.unwrap_or_default();
    let rhythm =
        check_rhythm(raw.interval.as_ref(), raw.timeout.as_ref(), raw.rise.as_ref(), raw.fall.as_ref())?;
    let when = match raw.when {
        Some(RawWhen::Never) => return Ok(None),
        Some(RawWhen::Always) => When::Always,
        Some(RawWhen::StoreDown) | None => When::StoreDown,
    };
    Ok(Some(Checks { when, rhythm }))
}

fn one_too_many(section: &str, at: Range<usize>) -> Problem {
    let text = format!("{section} is one too many to tell of this cluster");
    Problem { at: Some(at), text, help: Some(SECTIONS.to_owned()) }
}

/// Whom agents that speak TLS are trusted by: the files are read, so that a bad one is told with its line.
fn check_agents(section: &Spanned<RawAgents>) -> Result<Originate, Problem> {
    let raw = section.get_ref();
    let verify = match tls_keys::verify(raw.verify.as_ref(), &raw.cacert) {
        Ok(verify) => verify,
        Err(Misfit::OfNoUse) => {
            let at = raw.cacert.as_ref().map(Spanned::span);
            let text = "this is of no use with verify = \"none\"".to_owned();
            return Err(Problem { at, text, help: None });
        }
        Err(Misfit::Missing) => {
            return Err(Problem::at(section, "nothing says whom to trust")
                .help("write `cacert`, the path of a PEM file, or verify = \"none\""));
        }
    };
    let identity = tls_keys::identity(&raw.cert, &raw.key).map_err(|alone| {
        Problem::at(alone, "`cert` and `key` belong together").help("write both or neither")
    })?;
    let agents = Originate { verify, identity, min_version: MinVersion::Tls12 };
    match tls::load_for_rest(&agents) {
        Ok(_) => Ok(agents),
        Err(error) => {
            let file = match error.part {
                Part::ServerCert => &raw.cert,
                Part::ServerKey => &raw.key,
                _ => &raw.cacert,
            };
            let at = file.as_ref().map_or_else(|| section.span(), Spanned::span);
            Err(Problem { at: Some(at), text: error.to_string(), help: None })
        }
    }
}

fn check_patroni_rest(rest: Spanned<RawPatroniRest>, trusts: bool) -> Result<PatroniRest, Problem> {
    const EXAMPLE: &str = "allowed: such as \"http://10.0.0.1:8008\"";
    let raw = rest.into_inner();
    if raw.members.get_ref().is_empty() {
        return Err(Problem::at(&raw.members, "there must be at least one member").help(EXAMPLE));
    }
    let member = |url: &Spanned<String>| {
        let text = url.get_ref().trim_end_matches('/');
        let secure = text.strip_prefix("https://");
        if secure.is_some() && !trusts {
            let problem = Problem::at(url, "nothing says whom to trust as a REST API behind TLS");
            return Err(problem.help("write the cluster's section `agents` with its `cacert`"));
        }
        let address = sound_address(secure.or_else(|| text.strip_prefix("http://")).unwrap_or(text));
        let api = address.map(|address| Api { address, tls: secure.is_some() });
        api.ok_or_else(|| {
            Problem::at(url, format!("{:?} is not the URL of a REST API", url.get_ref())).help(EXAMPLE)
        })
    };
    let members = distinct(raw.members.get_ref(), member)?;
    let rhythm =
        check_rhythm(raw.interval.as_ref(), raw.timeout.as_ref(), raw.rise.as_ref(), raw.fall.as_ref())?;
    Ok(PatroniRest { members, rhythm })
}

fn check_probe(probe: Spanned<RawProbe>) -> Result<Probe, Problem> {
    const EXAMPLE: &str = "allowed: such as \"10.0.0.1:5432\"";
    let raw = probe.into_inner();
    if raw.servers.get_ref().is_empty() {
        return Err(Problem::at(&raw.servers, "there must be at least one server").help(EXAMPLE));
    }
    let server = |text: &Spanned<String>| {
        sound_address(text.get_ref()).ok_or_else(|| {
            Problem::at(text, format!("{:?} is not a host and a port", text.get_ref())).help(EXAMPLE)
        })
    };
    let servers = distinct(raw.servers.get_ref(), server)?;
    if raw.user.get_ref().is_empty() {
        return Err(Problem::at(&raw.user, "the user has no name")
            .help("allowed: a role that may log in to all servers, best a member of pg_monitor"));
    }
    let rhythm =
        check_rhythm(raw.interval.as_ref(), raw.timeout.as_ref(), raw.rise.as_ref(), raw.fall.as_ref())?;
    let login = Login {
        user: raw.user.into_inner(),
        password: raw.password,
        database: raw.database.unwrap_or_else(|| default::DATABASE.to_owned()),
    };
    Ok(Probe { servers, login, rhythm })
}

/// Host and port, both given, and nothing beside them.
fn sound_address(text: &str) -> Option<Address> {
    let plain = |c: char| !c.is_whitespace() && !"/@?#".contains(c);
    let (host, _) = text.rsplit_once(':')?;
    // An IPv6 address has brackets, so that its end and the port can be told apart.
    let host_is_whole = !host.contains(':') || (host.starts_with('[') && host.ends_with(']'));
    let sound = text.chars().all(plain) && host_is_whole;
    host_port(text, 0).filter(|(_, port)| sound && *port != 0)
}

/// All of them, when none is there twice.
fn distinct<T: Clone + Ord>(
    all: &[Spanned<String>],
    read: impl Fn(&Spanned<String>) -> Result<T, Problem>,
) -> Result<Vec<T>, Problem> {
    let mut seen = BTreeSet::new();
    let one = |text: &Spanned<String>| {
        let address = read(text)?;
        if !seen.insert(address.clone()) {
            return Err(Problem::at(text, format!("{:?} is listed twice", text.get_ref())));
        }
        Ok(address)
    };
    all.iter().map(one).collect()
}

fn check_rhythm(
    interval: Option<&Spanned<Interval>>,
    timeout: Option<&Spanned<Interval>>,
    rise: Option<&Spanned<u32>>,
    fall: Option<&Spanned<u32>>,
) -> Result<Rhythm, Problem> {
    let count = |given: Option<&Spanned<u32>>, default: u32| {
        let count = given.map_or(default, |given| *given.get_ref());
        let known = NonZeroU32::new(count).filter(|count| count.get() <= MOST_IN_A_ROW);
        match (known, given) {
            (Some(count), _) => Ok(count),
            (None, Some(given)) => Err(Problem::at(given, format!("{count} is not allowed"))
                .help(format!("allowed: 1 to {MOST_IN_A_ROW}"))),
            (None, None) => Ok(NonZeroU32::MIN),
        }
    };
    Ok(Rhythm {
        interval: positive(interval, default::CHECK_INTERVAL)?,
        timeout: positive(timeout, default::CHECK_TIMEOUT)?,
        limits: Limits { rise: count(rise, default::RISE)?, fall: count(fall, default::FALL)? },
    })
}

fn check_etcd(name: &Spanned<String>, keys: Keys, etcd: Spanned<RawEtcd>) -> Result<Etcd, Problem> {
    const EXAMPLE: &str = "allowed: such as \"http://10.0.0.1:2379\"";
    let raw = etcd.into_inner();
    if raw.endpoints.get_ref().is_empty() {
        return Err(Problem::at(&raw.endpoints, "there must be at least one endpoint").help(EXAMPLE));
    }
    let endpoint = |url: Spanned<String>| {
        let text = url.get_ref().trim_end_matches('/');
        let address = text.strip_prefix("http://").or_else(|| text.strip_prefix("https://")).unwrap_or(text);
        let plain = |c: char| !c.is_whitespace() && !"/@?#".contains(c);
        let sound = address.rsplit_once(':').is_some_and(|(host, port)| {
            !host.is_empty() && host.chars().all(plain) && port.parse().is_ok_and(|port: u16| port != 0)
        });
        if !sound {
            let text = format!("{:?} is not the URL of an etcd member", url.get_ref());
            return Err(Problem::at(&url, text).help(EXAMPLE));
        }
        Ok(text.to_owned())
    };
    let endpoints = raw.endpoints.into_inner().into_iter().map(endpoint).collect::<Result<_, _>>()?;
    for file in [&raw.cacert, &raw.cert, &raw.key].into_iter().flatten() {
        if let Err(error) = File::open(file.get_ref()) {
            return Err(Problem::at(file, format!("{}: {error}", file.get_ref().display())));
        }
    }
    let login = match (raw.username, raw.password) {
        (Some(user), Some(password)) => Some((user.into_inner(), password.into_inner())),
        (Some(user), None) => return Err(Problem::at(&user, "a username needs a password beside it")),
        (None, Some(password)) => {
            return Err(Problem::at(&password, "a password needs a username beside it"));
        }
        (None, None) => None,
    };
    let identity = match (raw.cert, raw.key) {
        (Some(cert), Some(key)) => Some((cert.into_inner(), key.into_inner())),
        (Some(cert), None) => return Err(Problem::at(&cert, "a cert needs a key beside it")),
        (None, Some(key)) => return Err(Problem::at(&key, "a key needs a cert beside it")),
        (None, None) => None,
    };
    Ok(Etcd {
        namespace: keys.namespace.map_or_else(|| default::NAMESPACE.to_owned(), Spanned::into_inner),
        scope: keys.scope.map_or_else(|| name.get_ref().clone(), Spanned::into_inner),
        endpoints,
        login,
        cacert: raw.cacert.map(Spanned::into_inner),
        identity,
        reread_interval: positive(keys.reread_interval.as_ref(), default::REREAD_INTERVAL)?,
    })
}
