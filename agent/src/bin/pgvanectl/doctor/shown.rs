//! The certificates that servers really show, which need not be those in the files.

use std::io;
use std::sync::Arc;
use std::time::Duration;

use pgvane_cluster::trust::AnyName;
use rustls::ClientConfig;
use rustls::crypto::aws_lc_rs;
use rustls::pki_types::{CertificateDer, ServerName};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::time::timeout;
use tokio_rustls::TlsConnector;

use pgvane_agent::postgres::tls::SSL_REQUEST;

/// How long a server may take for its handshake.
const WITHIN: Duration = Duration::from_secs(3);

/// What is spoken before TLS begins.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Before {
    /// Nothing.
    Nothing,
    /// PostgreSQL is asked whether it can.
    Asking,
}

/// The chain that is shown at an address; `None`: the server does not speak TLS. Nothing of it is verified, and nobody
/// logs in.
pub(super) async fn chain(
    (host, port): &(String, u16),
    before: Before,
) -> Result<Option<Vec<CertificateDer<'static>>>, String> {
    let shaking = handshake(host, *port, before);
    match timeout(WITHIN, shaking).await {
        Ok(shown) => shown.map_err(|e| e.to_string()),
        Err(_) => Err(format!("no answer within {} s", WITHIN.as_secs())),
    }
}

async fn handshake(
    host: &str,
    port: u16,
    before: Before,
) -> io::Result<Option<Vec<CertificateDer<'static>>>> {
    let mut stream = TcpStream::connect((host, port)).await?;
    if before == Before::Asking {
        stream.write_all(&SSL_REQUEST).await?;
        if stream.read_u8().await? != b'S' {
            return Ok(None);
        }
    }
    let provider = Arc::new(aws_lc_rs::default_provider());
    let everybody = AnyName { by_ca: None, provider: Arc::clone(&provider) };
    let mut config = ClientConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()
        .map_err(io::Error::other)?
        .dangerous()
        .with_custom_certificate_verifier(Arc::new(everybody))
        .with_no_client_auth();
    if before == Before::Asking {
        config.alpn_protocols = vec![b"postgresql".to_vec()];
    }
    let name = ServerName::try_from(host.to_owned()).map_err(io::Error::other)?;
    let stream = TlsConnector::from(Arc::new(config)).connect(name, stream).await?;
    let shown = stream.get_ref().1.peer_certificates().unwrap_or_default();
    Ok(Some(shown.iter().map(|der| der.clone().into_owned()).collect()))
}
