//! TLS of clients: which certificate we show, whom we let in.

use std::path::PathBuf;
use std::sync::Arc;

use pgvane_cluster::certificate;
use rustls::ServerConfig;
use rustls::server::{ClientHello, NoServerSessionStorage, ResolvesServerCert, WebPkiClientVerifier};
use rustls::sign::CertifiedKey;

use super::{ALPN, MinVersion, Part, TlsError, authorities, certificates, private_key, provider};

/// A certificate and its key.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Identity {
    /// The certificate and those that lead to its root, PEM.
    pub cert: PathBuf,
    /// Its private key, PEM.
    pub key: PathBuf,
}

/// The certificate for clients that ask for one of these names (SNI, RFC 6066 section 3).
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Named {
    /// Host names in lower case; `*.` at the start stands for one label.
    pub names: Vec<String>,
    /// What they are shown.
    pub identity: Identity,
}

/// How a listener ends its clients' TLS.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Terminate {
    /// What clients are shown that ask for no name, or for none of `sni`.
    pub identity: Identity,
    /// What others are shown.
    pub sni: Vec<Named>,
    /// Certificates that sign clients'; where given, every client over TLS must show one.
    pub client_ca: Option<PathBuf>,
    /// The oldest version that is spoken.
    pub min_version: MinVersion,
    /// Whether sessions in plain text are turned away.
    pub required: bool,
}

/// A certificate that clients are shown.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Debug)]
pub(crate) struct Shown {
    /// Its file.
    pub(crate) file: PathBuf,
    /// When the first of the certificates in it ends, in seconds since 1970.
    pub(crate) ends: i64,
}

/// What clients meet.
#[derive(Debug)]
pub(crate) struct Terminating {
    pub(crate) config: Arc<ServerConfig>,
    pub(crate) shown: Vec<Shown>,
}

/// Reads the files and checks that they belong together.
pub(crate) fn load(settings: &Terminate) -> Result<Terminating, TlsError> {
    let default = identity(&settings.identity, Part::Cert, Part::Key)?;
    let of_sni = settings.sni.iter().enumerate();
    let of_sni = of_sni.map(|(n, named)| identity(&named.identity, Part::SniCert(n), Part::SniKey(n)));
    let of_sni: Vec<_> = of_sni.collect::<Result<_, _>>()?;
    let identities = std::iter::once((&settings.identity, &default))
        .chain(settings.sni.iter().map(|named| &named.identity).zip(&of_sni));
    let shown = identities.filter_map(|(identity, pair)| {
        let ends = certificate::first_end(&pair.cert)?;
        Some(Shown { file: identity.cert.clone(), ends })
    });
    let shown = shown.collect();
    let by_name = settings.sni.iter().zip(&of_sni);
    let by_name =
        by_name.flat_map(|(named, pair)| named.names.iter().map(|name| (name.clone(), Arc::clone(pair))));
    let by_name = by_name.collect();
    let builder = ServerConfig::builder_with_provider(provider())
        .with_protocol_versions(settings.min_version.versions())
        .map_err(|e| TlsError::new(Part::Cert, &settings.identity.cert, e))?;
    let builder = match &settings.client_ca {
        None => builder.with_no_client_auth(),
        Some(file) => {
            let roots = authorities(Part::ClientCa, file)?;
            let verifier = WebPkiClientVerifier::builder_with_provider(roots, provider()).build();
            builder.with_client_cert_verifier(verifier.map_err(|e| TlsError::new(Part::ClientCa, file, e))?)
        }
    };
    let mut config = builder.with_cert_resolver(Arc::new(Certificates { default, by_name }));
    config.alpn_protocols = vec![ALPN.to_vec()];
    // As PostgreSQL has it: its clients do not resume sessions, so remembering them would be wasted.
    config.session_storage = Arc::new(NoServerSessionStorage {});
    config.send_tls13_tickets = 0;
    Ok(Terminating { config: Arc::new(config), shown })
}

fn identity(identity: &Identity, cert: Part, key: Part) -> Result<Arc<CertifiedKey>, TlsError> {
    let Identity { cert: cert_file, key: key_file } = identity;
    let chain = certificates(cert, cert_file)?;
    let private = private_key(key, key_file)?;
    let pair = CertifiedKey::from_der(chain, private, &provider()).map_err(|e| match e {
        rustls::Error::InconsistentKeys(_) => {
            TlsError::new(key, key_file, format!("this is not the key of {}", cert_file.display()))
        }
        other => TlsError::new(cert, cert_file, other),
    })?;
    Ok(Arc::new(pair))
}

/// Chooses by the name a client asks for.
#[derive(Debug)]
struct Certificates {
    default: Arc<CertifiedKey>,
    by_name: Vec<(String, Arc<CertifiedKey>)>,
}

impl ResolvesServerCert for Certificates {
    fn resolve(&self, hello: ClientHello<'_>) -> Option<Arc<CertifiedKey>> {
        let named = hello.server_name().and_then(|name| {
            let name = name.to_ascii_lowercase();
            self.by_name.iter().find(|(pattern, _)| matches(pattern, &name))
        });
        Some(Arc::clone(named.map_or(&self.default, |(_, key)| key)))
    }
}

/// Whether `pattern` names `name`, both in lower case.
fn matches(pattern: &str, name: &str) -> bool {
    match pattern.strip_prefix("*.") {
        Some(parent) => name.split_once('.').is_some_and(|(label, rest)| !label.is_empty() && rest == parent),
        None => pattern == name,
    }
}

#[cfg(test)]
mod tests {
    use super::matches;

    #[test]
    fn a_star_stands_for_one_label() {
        assert!(matches("db.example.com", "db.example.com") && matches("*.example.com", "db.example.com"));
        for name in ["example.com", "a.b.example.com", ".example.com", "db.example.org"] {
            assert!(!matches("*.example.com", name), "{name}");
        }
    }
}
