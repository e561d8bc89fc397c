//! TLS that ends here: of clients (`terminate`), and to servers (`originate`). Sockets are `conn`'s business.

mod originate;
mod terminate;

use std::fmt;
use std::path::Path;
use std::sync::Arc;

use rustls::crypto::{CryptoProvider, aws_lc_rs};
use rustls::pki_types::pem::{self, PemObject};
use rustls::pki_types::{CertificateDer, PrivateKeyDer};
use rustls::{RootCertStore, SupportedProtocolVersion};

pub use self::originate::{Originate, Verify};
pub(crate) use self::originate::{load as load_originate, load_for_rest};
pub use self::terminate::{Identity, Named, Terminate};
pub(crate) use self::terminate::{Shown, load as load_terminate};

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

impl MinVersion {
    fn versions(self) -> &'static [&'static SupportedProtocolVersion] {
        static BOTH: [&SupportedProtocolVersion; 2] = [&rustls::version::TLS13, &rustls::version::TLS12];
        match self {
            MinVersion::Tls12 => &BOTH,
            MinVersion::Tls13 => &BOTH[..1],
        }
    }
}

/// Which file is at fault.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Part {
    Cert,
    Key,
    ClientCa,
    /// The certificate of this entry of `sni`.
    SniCert(usize),
    /// Its key.
    SniKey(usize),
    ServerCa,
    ServerCert,
    ServerKey,
}

/// Why TLS cannot be spoken with these files.
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

fn provider() -> Arc<CryptoProvider> {
    Arc::new(aws_lc_rs::default_provider())
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

fn private_key(part: Part, file: &Path) -> Result<PrivateKeyDer<'static>, TlsError> {
    PrivateKeyDer::from_pem_file(file).map_err(|e| TlsError::new(part, file, pem_error(e)))
}

fn authorities(part: Part, file: &Path) -> Result<Arc<RootCertStore>, TlsError> {
    let mut roots = RootCertStore::empty();
    for certificate in certificates(part, file)? {
        roots.add(certificate).map_err(|e| TlsError::new(part, file, e))?;
    }
    Ok(Arc::new(roots))
}

fn pem_error(error: pem::Error) -> String {
    match error {
        pem::Error::Io(error) => error.to_string(),
        pem::Error::NoItemsFound => "there is no private key in it (PEM, without a passphrase)".to_owned(),
        other => format!("not PEM: {other}"),
    }
}
