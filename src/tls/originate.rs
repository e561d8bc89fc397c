//! TLS to servers: whom we trust, which certificate we show.

use std::path::PathBuf;
use std::sync::Arc;

use rustls::client::WebPkiServerVerifier;
use rustls::client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier};
use rustls::crypto::{CryptoProvider, verify_tls12_signature, verify_tls13_signature};
use rustls::pki_types::{CertificateDer, ServerName, UnixTime};
use rustls::{CertificateError, ClientConfig, DigitallySignedStruct, Error, SignatureScheme};

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
            let lenient = Lenient { by_ca, provider };
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

/// Checks less than [`Verify::Full`]: not the name, or nothing but that the server has the key of what it shows.
#[derive(Debug)]
struct Lenient {
    by_ca: Option<Arc<WebPkiServerVerifier>>,
    provider: Arc<CryptoProvider>,
}

impl ServerCertVerifier for Lenient {
    fn verify_server_cert(
        &self,
        certificate: &CertificateDer<'_>,
        intermediates: &[CertificateDer<'_>],
        name: &ServerName<'_>,
        ocsp: &[u8],
        now: UnixTime,
    ) -> Result<ServerCertVerified, Error> {
        let Some(by_ca) = &self.by_ca else { return Ok(ServerCertVerified::assertion()) };
        match by_ca.verify_server_cert(certificate, intermediates, name, ocsp, now) {
            // The name is looked at last, when all the rest is good.
            Err(Error::InvalidCertificate(
                CertificateError::NotValidForName | CertificateError::NotValidForNameContext { .. },
            )) => Ok(ServerCertVerified::assertion()),
            verdict => verdict,
        }
    }

    fn verify_tls12_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signature: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        let algorithms = &self.provider.signature_verification_algorithms;
        verify_tls12_signature(message, certificate, signature, algorithms)
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signature: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        let algorithms = &self.provider.signature_verification_algorithms;
        verify_tls13_signature(message, certificate, signature, algorithms)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.provider.signature_verification_algorithms.supported_schemes()
    }
}
