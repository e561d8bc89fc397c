//! TLS between clients and the peer: a certificate for all peers, and clients that trust it.

use std::fs;
use std::io;
use std::path::PathBuf;
use std::sync::Arc;

use rustls::crypto::aws_lc_rs::{self, kx_group};
use rustls::pki_types::{CertificateDer, ServerName};
use rustls::{ClientConfig, ClientConnection, RootCertStore};

use super::stage::Stage;

/// The name in the certificate.
const NAME: &str = "localhost";

/// The certificate, for whoever ends TLS.
#[derive(Clone, Debug)]
pub(super) struct Certificate {
    pub(super) cert: PathBuf,
    pub(super) key: PathBuf,
    /// Both in one file, as HAProxy wants them.
    pub(super) both: PathBuf,
}

/// What a client needs to know.
#[derive(Clone, Debug)]
pub(super) struct Encryption(Arc<ClientConfig>);

/// Makes a certificate (ECDSA P-256) and writes it down.
pub(super) fn make(stage: &mut Stage) -> Result<(Certificate, Encryption), String> {
    let made = rcgen::generate_simple_self_signed([NAME.to_owned()]).map_err(|e| e.to_string())?;
    let (cert, key) = (made.cert.pem(), made.signing_key.serialize_pem());
    let both = format!("{cert}{key}");
    let mut write = |kind: &str, text: &str| stage.write(kind, text).map(PathBuf::from);
    let certificate =
        Certificate { cert: write("cert", &cert)?, key: write("key", &key)?, both: write("both", &both)? };
    // PgBouncer refuses a key that others may read; the account of the servers owns it.
    restrict(&certificate.key)?;
    let encryption = Encryption::trusting(made.cert.der()).map_err(|e| e.to_string())?;
    Ok((certificate, encryption))
}

fn restrict(file: &PathBuf) -> Result<(), String> {
    use std::os::unix::fs::PermissionsExt;
    fs::set_permissions(file, fs::Permissions::from_mode(0o600))
        .map_err(|e| format!("{}: {e}", file.display()))
}

impl Encryption {
    fn trusting(certificate: &CertificateDer<'static>) -> Result<Encryption, rustls::Error> {
        let mut roots = RootCertStore::empty();
        roots.add(certificate.clone())?;
        // The exchange that all peers know: some would take another one that costs more with clients that offer it.
        let provider = rustls::crypto::CryptoProvider {
            kx_groups: vec![kx_group::X25519],
            ..aws_lc_rs::default_provider()
        };
        let mut config = ClientConfig::builder_with_provider(Arc::new(provider))
            .with_safe_default_protocol_versions()?
            .with_root_certificates(roots)
            .with_no_client_auth();
        config.alpn_protocols = vec![b"postgresql".to_vec()];
        // Every handshake shall be a whole one.
        config.resumption = rustls::client::Resumption::disabled();
        Ok(Encryption(Arc::new(config)))
    }

    /// A connection that has not shaken hands yet.
    pub(super) fn client(&self) -> io::Result<ClientConnection> {
        let name = ServerName::try_from(NAME).map_err(io::Error::other)?;
        ClientConnection::new(Arc::clone(&self.0), name).map_err(io::Error::other)
    }
}
