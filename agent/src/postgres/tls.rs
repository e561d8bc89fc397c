//! Our own connections to servers, with TLS as a role's `sslmode` asks for it.
//!
//! The words are libpq's. Where none is set a connection goes without TLS and falls back to it where the server
//! lets nobody in otherwise: most are local and asked for often.

use std::collections::BTreeMap;
use std::io;
use std::path::PathBuf;
use std::sync::Arc;

use pgvane_cluster::certificate::chain;
use pgvane_cluster::trust::AnyName;
use rustls::ClientConfig;
use rustls::client::WebPkiServerVerifier;
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{PrivateKeyDer, ServerName};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio_postgres::config::{ChannelBinding, Host, SslMode};
use tokio_postgres::error::SqlState;
use tokio_postgres::{Client, Config, NoTls};
use tokio_postgres_rustls::MakeRustlsConnect;
use tokio_rustls::TlsConnector;

use crate::config::Role;
use crate::tls::{authorities, provider};

/// PostgreSQL's request for TLS (documentation, "Message Formats", SSLRequest).
pub const SSL_REQUEST: [u8; 8] = [0, 0, 0, 8, 0x04, 0xd2, 0x16, 0x2f];

/// Why there is no connection.
#[derive(Debug, thiserror::Error)]
pub enum ConnectError {
    /// The role's settings cannot be followed; the text names the one.
    #[error("{0}")]
    Settings(String),
    /// The server, or the way to it.
    #[error(transparent)]
    Postgres(#[from] tokio_postgres::Error),
}

/// When TLS is spoken.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum When {
    Never,
    IfNotLetInOtherwise,
    IfTheServerCan,
    Always,
}

fn when(connection: &BTreeMap<String, String>) -> Result<When, String> {
    match connection.get("sslmode").map(String::as_str) {
        None | Some("allow") => Ok(When::IfNotLetInOtherwise),
        Some("disable") => Ok(When::Never),
        Some("prefer") => Ok(When::IfTheServerCan),
        Some("require" | "verify-ca" | "verify-full") => Ok(When::Always),
        Some(other) => Err(format!(
            "sslmode {other:?} is not one of disable, allow, prefer, require, verify-ca, verify-full"
        )),
    }
}

/// Connects as `config` says with the TLS that `role` asks for. The connection's driver ends with the client.
pub async fn connect(config: &Config, role: &Role) -> Result<Client, ConnectError> {
    let mut config = config.clone();
    match role.connection.get("channel_binding").map(String::as_str) {
        Some("disable") => config.channel_binding(ChannelBinding::Disable),
        Some("require") => config.channel_binding(ChannelBinding::Require),
        Some(_) | None => &mut config,
    };
    let over_tcp = config.get_hosts().iter().any(|host| matches!(host, Host::Tcp(_)));
    let when = if over_tcp { when(&role.connection).map_err(ConnectError::Settings)? } else { When::Never };
    match when {
        When::Never => plain(&config).await,
        When::IfNotLetInOtherwise => match plain(&config).await {
            Err(ConnectError::Postgres(error)) if is_refusal(&error) => {
                config.ssl_mode(SslMode::Require);
                // Where there is no TLS either, the first refusal says more.
                encrypted(&config, role).await.map_err(|_| ConnectError::Postgres(error))
            }
            answer => answer,
        },
        When::IfTheServerCan => {
            config.ssl_mode(SslMode::Prefer);
            encrypted(&config, role).await
        }
        When::Always => {
            config.ssl_mode(SslMode::Require);
            encrypted(&config, role).await
        }
    }
}

/// Whether the server's pg_hba.conf lets nobody in this way (SQLSTATE 28000).
fn is_refusal(error: &tokio_postgres::Error) -> bool {
    error.code() == Some(&SqlState::INVALID_AUTHORIZATION_SPECIFICATION)
}

async fn plain(config: &Config) -> Result<Client, ConnectError> {
    let (client, driver) = config.connect(NoTls).await?;
    tokio::spawn(async move {
        // The client sees the same error.
        let _ = driver.await;
    });
    Ok(client)
}

async fn encrypted(config: &Config, role: &Role) -> Result<Client, ConnectError> {
    let tls = client_config(&role.connection).map_err(ConnectError::Settings)?;
    let (client, driver) = config.connect(MakeRustlsConnect::new(tls)).await?;
    tokio::spawn(async move {
        let _ = driver.await;
    });
    Ok(client)
}

/// Bytes both ways, encrypted or not.
pub(super) trait Stream: tokio::io::AsyncRead + tokio::io::AsyncWrite + Unpin + Send {}

impl<S: tokio::io::AsyncRead + tokio::io::AsyncWrite + Unpin + Send> Stream for S {}

/// A stream to `host` on which the startup packet may be sent, for those who speak the protocol themselves. `again`:
/// without TLS the server let nobody in.
pub(super) async fn stream(host: &str, port: u16, role: &Role, again: bool) -> io::Result<Box<dyn Stream>> {
    let mut tcp = TcpStream::connect((host, port)).await?;
    let when = when(&role.connection).map_err(io::Error::other)?;
    match (when, again) {
        (When::Never, _) | (When::IfNotLetInOtherwise, false) => return Ok(Box::new(tcp)),
        (When::IfNotLetInOtherwise, true) | (When::IfTheServerCan | When::Always, _) => {}
    }
    tcp.write_all(&SSL_REQUEST).await?;
    match (tcp.read_u8().await?, when) {
        (b'S', _) => {
            let config = client_config(&role.connection).map_err(io::Error::other)?;
            let name = ServerName::try_from(host.to_owned()).map_err(io::Error::other)?;
            Ok(Box::new(TlsConnector::from(Arc::new(config)).connect(name, tcp).await?))
        }
        (_, When::IfTheServerCan) => Ok(Box::new(tcp)),
        (_, When::Never | When::IfNotLetInOtherwise | When::Always) => {
            Err(io::Error::other("the server does not speak TLS"))
        }
    }
}

/// What `sslmode`, `sslrootcert`, `sslcert` and `sslkey` ask for.
fn client_config(connection: &BTreeMap<String, String>) -> Result<ClientConfig, String> {
    let provider = provider();
    let file = |key: &str| connection.get(key).filter(|f| !f.is_empty()).map(PathBuf::from);
    let mode = connection.get("sslmode").map_or("", String::as_str);
    let roots = file("sslrootcert");
    let by_ca = match (&roots, mode) {
        (None, "verify-ca" | "verify-full") => {
            return Err(format!("sslmode {mode} needs sslrootcert, the certificates that sign servers'"));
        }
        (None, _) => None,
        (Some(file), _) => {
            let roots = authorities(file).map_err(|e| format!("sslrootcert {e}"))?;
            let verifier = WebPkiServerVerifier::builder_with_provider(roots, Arc::clone(&provider)).build();
            Some(verifier.map_err(|e| format!("sslrootcert {}: {e}", file.display()))?)
        }
    };
    let config = ClientConfig::builder_with_provider(Arc::clone(&provider))
        .with_safe_default_protocol_versions()
        .map_err(|e| e.to_string())?;
    let config = match by_ca {
        Some(verifier) if mode == "verify-full" => config.with_webpki_verifier(verifier),
        by_ca => {
            let lenient = AnyName { by_ca, provider };
            config.dangerous().with_custom_certificate_verifier(Arc::new(lenient))
        }
    };
    let mut config = match (file("sslcert"), file("sslkey")) {
        (Some(cert), Some(key)) => {
            let wrong = |e: String| format!("sslcert {}, sslkey {}: {e}", cert.display(), key.display());
            let chain = chain(&cert).map_err(wrong)?;
            let private = PrivateKeyDer::from_pem_file(&key).map_err(|e| wrong(e.to_string()))?;
            config.with_client_auth_cert(chain, private).map_err(|e| wrong(e.to_string()))?
        }
        (None, None) => config.with_no_client_auth(),
        (Some(_), None) | (None, Some(_)) => return Err("sslcert and sslkey go together".to_owned()),
    };
    config.alpn_protocols = vec![b"postgresql".to_vec()];
    Ok(config)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn connection(pairs: &[(&str, &str)]) -> BTreeMap<String, String> {
        pairs.iter().map(|(k, v)| ((*k).to_owned(), (*v).to_owned())).collect()
    }

    #[test]
    fn the_words_are_libpqs() {
        let word = |mode: &str| when(&connection(&[("sslmode", mode)]));
        assert_eq!(when(&connection(&[])), Ok(When::IfNotLetInOtherwise));
        assert_eq!(word("disable"), Ok(When::Never));
        assert_eq!(word("prefer"), Ok(When::IfTheServerCan));
        for mode in ["require", "verify-ca", "verify-full"] {
            assert_eq!(word(mode), Ok(When::Always));
        }
        assert!(word("requires").expect_err("no such word").contains("\"requires\""));
    }

    #[test]
    fn what_cannot_be_checked_is_no_connection() {
        let error = client_config(&connection(&[("sslmode", "verify-full")])).expect_err("nobody to trust");
        assert!(error.contains("sslrootcert"), "{error}");
        let error = client_config(&connection(&[("sslrootcert", "/nowhere/ca.pem")])).expect_err("no file");
        assert!(error.starts_with("sslrootcert /nowhere/ca.pem: "), "{error}");
        let error = client_config(&connection(&[("sslcert", "/x")])).expect_err("no key");
        assert!(error.contains("go together"), "{error}");
        client_config(&connection(&[("sslmode", "require")])).expect("checks nothing, encrypts");
    }
}
