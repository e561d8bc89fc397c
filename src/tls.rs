//! TLS of clients, ended here: which certificate we show, whom we let in. Sockets are `client`'s business.

use std::fmt;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use rustls::pki_types::pem::{self, PemObject};
use rustls::pki_types::{CertificateDer, PrivateKeyDer};
use rustls::server::{NoServerSessionStorage, WebPkiClientVerifier};
use rustls::{RootCertStore, ServerConfig, crypto::aws_lc_rs};

/// The protocol's name in ALPN, which a client that starts TLS without asking must offer (PostgreSQL 17,
/// `sslnegotiation=direct`).
pub(crate) const ALPN: &[u8] = b"postgresql";

/// The oldest version of TLS that is spoken.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum MinVersion {
    /// TLS 1.2 and 1.3.
    Tls12,
    /// TLS 1.3 only.
    Tls13,
}

/// How a listener ends its clients' TLS.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Terminate {
    /// Our certificate and those that lead to its root, PEM.
    pub cert: PathBuf,
    /// Its private key, PEM.
    pub key: PathBuf,
    /// Certificates that sign clients'; where given, every client over TLS must show one.
    pub client_ca: Option<PathBuf>,
    /// The oldest version that is spoken.
    pub min_version: MinVersion,
    /// Whether sessions in plain text are turned away.
    pub required: bool,
}

/// Which file is at fault.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Part {
    Cert,
    Key,
    ClientCa,
}

/// Why TLS cannot be offered with these files.
#[derive(Debug)]
pub(crate) struct TlsError {
    pub(crate) part: Part,
    why: String,
}

impl fmt::Display for TlsError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.why)
    }
}

impl std::error::Error for TlsError {}

impl TlsError {
    fn new(part: Part, file: &Path, why: impl fmt::Display) -> TlsError {
        TlsError { part, why: format!("{}: {why}", file.display()) }
    }
}

/// Reads the files and checks that they belong together.
pub(crate) fn load(settings: &Terminate) -> Result<Arc<ServerConfig>, TlsError> {
    let (cert, key) = (&settings.cert, &settings.key);
    let chain = certificates(Part::Cert, cert)?;
    let private =
        PrivateKeyDer::from_pem_file(key).map_err(|e| TlsError::new(Part::Key, key, pem_error(e)))?;
    let versions: &[_] = match settings.min_version {
        MinVersion::Tls12 => &[&rustls::version::TLS13, &rustls::version::TLS12],
        MinVersion::Tls13 => &[&rustls::version::TLS13],
    };
    let provider = Arc::new(aws_lc_rs::default_provider());
    let builder = ServerConfig::builder_with_provider(Arc::clone(&provider))
        .with_protocol_versions(versions)
        .map_err(|e| TlsError::new(Part::Cert, cert, e))?;
    let builder = match &settings.client_ca {
        None => builder.with_no_client_auth(),
        Some(file) => {
            let wrong = |e: &dyn fmt::Display| TlsError::new(Part::ClientCa, file, e);
            let mut roots = RootCertStore::empty();
            for certificate in certificates(Part::ClientCa, file)? {
                roots.add(certificate).map_err(|e| wrong(&e))?;
            }
            let verifier = WebPkiClientVerifier::builder_with_provider(Arc::new(roots), provider).build();
            builder.with_client_cert_verifier(verifier.map_err(|e| wrong(&e))?)
        }
    };
    let mut config = builder.with_single_cert(chain, private).map_err(|e| match e {
        rustls::Error::InconsistentKeys(_) => {
            TlsError::new(Part::Key, key, format!("this is not the key of {}", cert.display()))
        }
        other => TlsError::new(Part::Cert, cert, other),
    })?;
    config.alpn_protocols = vec![ALPN.to_vec()];
    // As PostgreSQL has it: its clients do not resume sessions, so remembering them would be wasted.
    config.session_storage = Arc::new(NoServerSessionStorage {});
    config.send_tls13_tickets = 0;
    Ok(Arc::new(config))
}

fn certificates(part: Part, file: &Path) -> Result<Vec<CertificateDer<'static>>, TlsError> {
    let wrong = |e| TlsError::new(part, file, pem_error(e));
    let found: Vec<_> =
        CertificateDer::pem_file_iter(file).map_err(wrong)?.collect::<Result<_, _>>().map_err(wrong)?;
    if found.is_empty() {
        return Err(TlsError::new(part, file, "there is no certificate in it (PEM)"));
    }
    Ok(found)
}

fn pem_error(error: pem::Error) -> String {
    match error {
        pem::Error::Io(error) => error.to_string(),
        pem::Error::NoItemsFound => "there is no private key in it (PEM, without a passphrase)".to_owned(),
        other => format!("not PEM: {other}"),
    }
}
