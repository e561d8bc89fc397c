//! TLS to servers: whom we trust, which certificate we show.

use std::path::PathBuf;
use std::sync::Arc;

use pgvane_cluster::trust::AnyName;
use rustls::client::WebPkiServerVerifier;
use rustls::{ClientConfig, Error};

use super::{Identity, MinVersion, Part, TlsError, authorities, certificates, private_key, provider};

/// What of a server's certificate is checked; the words are libpq's `sslmode`.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Verify {
    /// That one of these has signed it, and that it names the host that was connected to (`verify-full`).
    Full(PathBuf),
    /// That one of these has signed it (`verify-ca`).
    Ca(PathBuf),
    /// Nothing (`require`): it keeps out who listens, not who answers in the server's place.
    Nothing,
}

/// How a listener speaks TLS with its servers.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Originate {
    /// What is checked.
    pub verify: Verify,
    /// Our certificate and key, for servers that ask for one.
    pub identity: Option<Identity>,
    /// The oldest version that is spoken.
    pub min_version: MinVersion,
}

/// The same for agents' REST APIs, to which PostgreSQL's name in ALPN would say nothing.
pub(crate) fn load_for_rest(settings: &Originate) -> Result<Arc<ClientConfig>, TlsError> {
    let mut config = Arc::unwrap_or_clone(load(settings)?);
    config.alpn_protocols = vec![];
    Ok(Arc::new(config))
}

/// Reads the files and checks that they belong together.
pub(crate) fn load(settings: &Originate) -> Result<Arc<ClientConfig>, TlsError> {
    let provider = provider();
    let (roots, names_host) = match &settings.verify {
        Verify::Full(file) => (Some(file), true),
        Verify::Ca(file) => (Some(file), false),
        Verify::Nothing => (None, false),
    };
    let by_ca = match roots {
        None => None,
        Some(file) => {
            let roots = authorities(Part::ServerCa, file)?;
            let verifier = WebPkiServerVerifier::builder_with_provider(roots, Arc::clone(&provider)).build();
            Some(verifier.map_err(|e| TlsError::new(Part::ServerCa, file, e))?)
        }
    };
    let config = ClientConfig::builder_with_provider(Arc::clone(&provider))
        .with_protocol_versions(settings.min_version.versions())
        .map_err(|e| TlsError { part: Part::ServerCa, why: e.to_string() })?;
    let config = match by_ca {
        Some(verifier) if names_host => config.with_webpki_verifier(verifier),
        by_ca => {
            let lenient = AnyName { by_ca, provider };
            config.dangerous().with_custom_certificate_verifier(Arc::new(lenient))
        }
    };
    let mut config = match &settings.identity {
        None => config.with_no_client_auth(),
        Some(Identity { cert, key }) => {
            let chain = certificates(Part::ServerCert, cert)?;
            let private = private_key(Part::ServerKey, key)?;
            config.with_client_auth_cert(chain, private).map_err(|e| match e {
                Error::InconsistentKeys(_) => {
                    let why = format!("this is not the key of {}", cert.display());
                    TlsError::new(Part::ServerKey, key, why)
                }
                other => TlsError::new(Part::ServerCert, cert, other),
            })?
        }
    };
    // Servers that know ALPN take it, the others pass over it.
    config.alpn_protocols = vec![super::ALPN.to_vec()];
    Ok(Arc::new(config))
}
