//! Certificates: those in the files that agent.toml names, and those that etcd, the members' REST APIs and their
//! PostgreSQL show. How long they count, for which host they are, whose key lies beside them and who may read it.

use std::collections::BTreeSet;
use std::fs;
use std::os::unix::fs::{MetadataExt, PermissionsExt};
use std::path::{Path, PathBuf};
use std::time::Duration;

use pgvane_agent::config::{Config, Secret};
use pgvane_agent::tls::belong_together;
use pgvane_cluster::certificate::{Certificate, chain};
use pgvane_cluster::records::host_port;
use pgvane_cluster::view::ClusterView;
use rustls::client::verify_server_name;
use rustls::pki_types::{CertificateDer, ServerName, UnixTime};
use rustls::server::ParsedCertificate;

use super::finding::{Finding, Level};
use super::host::judge_mode;
use super::shown::{self, Before};

/// When a certificate is looked at, and how long before its end it is told of.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) struct Limits {
    pub(super) now: UnixTime,
    pub(super) warning: Duration,
    pub(super) critical: Duration,
}

/// A certificate of ours, as the settings name it.
struct Own<'a> {
    /// The setting.
    key: &'static str,
    cert: PathBuf,
    private: PathBuf,
    password: Option<&'a Secret>,
    /// By which host others verify it, where they do.
    host: Option<&'a str>,
}

/// Looks at the files that the settings name; at each of them once.
pub(super) fn files(config: &Config, limits: Limits) -> Vec<Finding> {
    let mut seen = BTreeSet::new();
    let mut findings = Vec::new();
    for own in own(config).into_iter().filter(|own| seen.insert(own.cert.clone())) {
        let what = format!("{} {}", own.key, own.cert.display());
        match chain(&own.cert) {
            Ok(chain) => {
                findings.push(time(what.clone(), &chain, limits));
                findings.extend(own.host.and_then(|host| name(&what, &chain, host, Level::Warning)));
                findings.extend(key(&own));
            }
            Err(why) => findings.push(unreadable(what, why)),
        }
    }
    for (key, file) in authorities(config).into_iter().filter(|(_, file)| seen.insert(file.clone())) {
        let what = format!("{key} {}", file.display());
        findings.push(match chain(&file) {
            Ok(all) => bundle(what, &all, limits),
            Err(why) => unreadable(what, why),
        });
    }
    findings
}

fn unreadable(what: String, why: String) -> Finding {
    Finding::critical(what, why, "run this as the user that the agent runs as, and name a PEM file")
}

fn own(config: &Config) -> Vec<Own<'_>> {
    let mut all = Vec::new();
    if let Some(tls) = &config.restapi.tls {
        all.push(Own {
            key: "restapi.certfile",
            cert: tls.certfile.clone(),
            private: tls.keyfile.clone(),
            password: tls.keyfile_password.as_ref(),
            host: Some(&config.restapi.connect_address.host),
        });
    }
    let clients = [
        ("ctl.certfile", &config.ctl.client_cert, config.ctl.keyfile_password.as_ref()),
        ("etcd.cert", &config.etcd.client_cert, None),
    ];
    for (key, pair, password) in clients {
        all.extend(pair.iter().map(|(cert, private)| Own {
            key,
            cert: cert.clone(),
            private: private.clone(),
            password,
            host: None,
        }));
    }
    let postgresql = &config.postgresql;
    for role in [&postgresql.superuser, &postgresql.replication, &postgresql.rewind] {
        let file = |key: &str| role.connection.get(key).filter(|f| !f.is_empty()).map(PathBuf::from);
        if let (Some(cert), Some(private)) = (file("sslcert"), file("sslkey")) {
            all.push(Own { key: "sslcert", cert, private, password: None, host: None });
        }
    }
    all
}

fn authorities(config: &Config) -> Vec<(&'static str, PathBuf)> {
    let of_api = config.restapi.tls.iter().filter_map(|tls| tls.cafile.clone());
    let mut all: Vec<_> = of_api.map(|file| ("restapi.cafile", file)).collect();
    all.extend(config.ctl.cafile.clone().map(|file| ("ctl.cafile", file)));
    all.extend(config.etcd.cacert.clone().map(|file| ("etcd.cacert", file)));
    let postgresql = &config.postgresql;
    for role in [&postgresql.superuser, &postgresql.replication, &postgresql.rewind] {
        let file = role.connection.get("sslrootcert").filter(|file| !file.is_empty() && *file != "system");
        all.extend(file.map(|file| ("sslrootcert", file.into())));
    }
    all
}

/// Who is asked for a certificate, and how bad it is that it is not for the host that was connected to.
struct Asked {
    what: String,
    address: Option<(String, u16)>,
    before: Before,
    of_name: Level,
}

/// What etcd's endpoints show. Whoever connects verifies their names.
pub(super) async fn of_etcd(config: &Config, limits: Limits) -> Vec<Finding> {
    let mut findings = Vec::new();
    for url in config.etcd.endpoints.iter().filter(|url| url.starts_with("https://")) {
        let what = format!("certificate of etcd {url}");
        let asked =
            Asked { what, address: host_port(url, 2379), before: Before::Nothing, of_name: Level::Critical };
        findings.extend(of_server(asked, limits).await);
    }
    findings
}

/// What the other members' REST APIs show, and the PostgreSQL of all members.
pub(super) async fn of_members(config: &Config, view: &ClusterView, limits: Limits) -> Vec<Finding> {
    let sslmode = config.postgresql.replication.connection.get("sslmode").map(String::as_str);
    let of_postgres = if sslmode == Some("verify-full") { Level::Critical } else { Level::Warning };
    let mut findings = Vec::new();
    for (member, of) in &view.members {
        let url = of.record.api_url.as_deref().filter(|url| url.starts_with("https://"));
        let rest = Asked {
            what: format!("certificate of {member}'s REST API"),
            // Ours is in a file that was looked at.
            address: url.filter(|_| *member != config.name).and_then(|url| host_port(url, 443)),
            before: Before::Nothing,
            // Members know each other by who signed, not by name.
            of_name: Level::Warning,
        };
        let postgres = Asked {
            what: format!("certificate of {member}'s PostgreSQL"),
            address: of.record.postgres_address(),
            before: Before::Asking,
            of_name: of_postgres,
        };
        for asked in [rest, postgres] {
            findings.extend(of_server(asked, limits).await);
        }
    }
    findings
}

async fn of_server(asked: Asked, limits: Limits) -> Vec<Finding> {
    let Asked { what, address: Some(address), before, of_name } = asked else { return vec![] };
    match shown::chain(&address, before).await {
        // Without TLS there is none.
        Ok(None) => vec![],
        Err(why) => vec![Finding::warning(what, why, "see that it runs, and speaks TLS at this address")],
        Ok(Some(chain)) => {
            let in_time = time(what.clone(), &chain, limits);
            [in_time].into_iter().chain(name(&what, &chain, &address.0, of_name)).collect()
        }
    }
}

/// How the time of one certificate is.
fn level(certificate: &Certificate, limits: Limits) -> Level {
    if certificate.concern(limits.now, limits.critical).is_some() {
        Level::Critical
    } else if certificate.concern(limits.now, limits.warning).is_some() {
        Level::Warning
    } else {
        Level::Good
    }
}

fn read(chain: &[CertificateDer<'_>]) -> Result<Vec<Certificate>, String> {
    chain.iter().map(Certificate::of).collect()
}

/// The time of a certificate with those that lead to its root: the worst of them counts, and of these the first to end.
fn time(what: String, chain: &[CertificateDer<'_>], limits: Limits) -> Finding {
    let read = match read(chain) {
        Ok(read) => read,
        Err(why) => return unreadable(what, why),
    };
    let worst = read.iter().min_by_key(|one| (std::cmp::Reverse(level(one, limits)), one.not_after));
    let Some(worst) = worst else { return unreadable(what, "there is none".to_owned()) };
    let whose = if read.first() == Some(worst) { String::new() } else { format!("{} ", worst.subject) };
    judged(what, level(worst, limits), format!("{whose}{}", worst.told(limits.now)))
}

fn judged(what: String, level: Level, found: String) -> Finding {
    match level {
        Level::Good => Finding::good(what, found),
        Level::Warning => Finding::warning(what, found, "renew it in time"),
        Level::Critical => {
            Finding::critical(what, found, "renew it: whoever verifies it refuses it outside of its time")
        }
    }
}

/// The time of those whose signatures count. One among several that is over breaks nothing by itself.
fn bundle(what: String, all: &[CertificateDer<'_>], limits: Limits) -> Finding {
    let read = match read(all) {
        Ok(read) => read,
        Err(why) => return unreadable(what, why),
    };
    let best = read.iter().map(|one| level(one, limits)).min().unwrap_or(Level::Good);
    if read.len() == 1 || best != Level::Good {
        let last = read.iter().max_by_key(|one| one.not_after);
        let told = last.map(|one| one.told(limits.now).to_string()).unwrap_or_default();
        return judged(what, best, told);
    }
    let bad: Vec<_> = read.iter().filter(|one| level(one, limits) != Level::Good).collect();
    let Some(first) = bad.first() else {
        return Finding::good(what, format!("{} certificates, none ends soon", read.len()));
    };
    let found =
        format!("{} of {} certificates; {} {}", bad.len(), read.len(), first.subject, first.told(limits.now));
    // A host's own collection always has some.
    if read.len() > 20 {
        return Finding::good(what, found);
    }
    Finding::warning(what, found, "see that nothing is signed by it any more")
}

/// Whether a certificate is for `host`; nothing is told where it is. `level` is how bad it is where it is not.
fn name(what: &str, chain: &[CertificateDer<'_>], host: &str, level: Level) -> Option<Finding> {
    let wanted = ServerName::try_from(host).ok()?;
    let parsed = ParsedCertificate::try_from(chain.first()?).ok()?;
    let why = verify_server_name(&parsed, &wanted).err()?;
    let found = format!("it is not for {host}: {why}");
    let advice = "name the host or address that is connected to in its subjectAltName";
    let what = format!("name in {what}");
    Some(match level {
        Level::Critical => Finding::critical(what, found, advice),
        Level::Good | Level::Warning => Finding::warning(
            what,
            found,
            format!("{advice}: who verifies names (sslmode verify-full, curl) refuses it"),
        ),
    })
}

/// Whether the key is that of the certificate, and who may read it.
fn key(own: &Own<'_>) -> Vec<Finding> {
    let what = format!("key {}", own.private.display());
    let mut findings = Vec::new();
    if let Err(why) = belong_together(&own.cert, &own.private, own.password) {
        findings.push(Finding::critical(
            what,
            why,
            "put the key beside the certificate that it was made for",
        ));
    }
    findings.extend(permissions(&own.private));
    findings
}

fn permissions(key: &Path) -> Option<Finding> {
    let metadata = fs::metadata(key).ok()?;
    // Root may lend one to a group, as PostgreSQL and Debian's ssl-cert have it.
    let forbidden = if metadata.uid() == 0 { 0o037 } else { 0o077 };
    Some(judge_mode(
        format!("permissions of {}", key.display()),
        metadata.permissions().mode() & 0o777,
        forbidden,
    ))
}

#[cfg(test)]
#[path = "certificates_tests.rs"]
mod tests;
