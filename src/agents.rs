//! Connections to agents' REST APIs: plain, or over TLS where the URL says so.

use std::io;
use std::sync::Arc;

use rustls::ClientConfig;
use rustls::pki_types::ServerName;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::TcpStream;
use tokio_rustls::TlsConnector;

use crate::topology::Address;

/// Where an agent's REST API is.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Debug)]
pub struct Api {
    /// Host and port.
    pub address: Address,
    /// Whether it speaks TLS.
    pub tls: bool,
}

/// Whom the agents of a cluster are trusted by, and what they are shown; `None`: those that speak TLS are not asked.
pub(crate) type Trust = Option<Arc<ClientConfig>>;

/// Said of an agent that speaks TLS where nothing says whom to trust.
pub(crate) const UNTRUSTED: &str =
    "its agent speaks TLS, and no section `agents` of the cluster says whom to trust";

/// A connection.
pub(crate) trait Stream: AsyncRead + AsyncWrite + Send + Unpin {}

impl<T: AsyncRead + AsyncWrite + Send + Unpin> Stream for T {}

/// Connects. Bounded by whoever awaits it.
pub(crate) async fn connect(api: &Api, trust: &Trust) -> io::Result<Box<dyn Stream>> {
    let (host, port) = &api.address;
    let tcp = TcpStream::connect((host.as_str(), *port)).await?;
    if !api.tls {
        return Ok(Box::new(tcp));
    }
    let config = trust.as_ref().ok_or_else(|| io::Error::other(UNTRUSTED))?;
    let name = ServerName::try_from(host.clone()).map_err(io::Error::other)?;
    Ok(Box::new(TlsConnector::from(Arc::clone(config)).connect(name, tcp).await?))
}
