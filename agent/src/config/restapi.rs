//! The REST API: where it listens, who may change things through it, how that of others is reached.

use std::net::SocketAddr;
use std::path::PathBuf;

use super::{HostPort, Login, Secret};

/// The REST API.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Restapi {
    /// Where it listens.
    pub listen: SocketAddr,
    /// Where the others reach it.
    pub connect_address: HostPort,
    /// Who may change things; anybody where absent.
    pub login: Option<Login>,
    /// TLS; plain HTTP where absent.
    pub tls: Option<ServerTls>,
    /// From where things may be changed.
    pub access: Access,
    /// Headers added to every answer.
    pub http_extra_headers: Vec<(String, String)>,
    /// Headers added to answers over TLS; they win over the others.
    pub https_extra_headers: Vec<(String, String)>,
    /// What the `Server` header tells.
    pub server_tokens: ServerTokens,
}

/// TLS of the REST API. The files are read again when they change.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct ServerTls {
    /// Our certificate, with the chain.
    pub certfile: PathBuf,
    /// Its key; may be in the same file.
    pub keyfile: PathBuf,
    /// Opens an encrypted key.
    pub keyfile_password: Option<Secret>,
    /// Who signs clients' certificates.
    pub cafile: Option<PathBuf>,
    /// Who must show a certificate.
    pub verify_client: VerifyClient,
}

/// Who must show a client certificate (contract section 6).
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub enum VerifyClient {
    /// Nobody.
    #[default]
    None,
    /// Whoever wants to change something.
    Optional,
    /// Everybody.
    Required,
}

/// From where things may be changed; from anywhere where the list is empty and members are not included.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct Access {
    /// Host names, addresses and networks.
    pub allowlist: Vec<String>,
    /// Whether the addresses of all members count as listed.
    pub include_members: bool,
}

/// What the `Server` header tells.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub enum ServerTokens {
    /// Product and version.
    #[default]
    Original,
    /// The product.
    ProductOnly,
    /// As little as there is.
    Minimal,
}

/// How to reach the REST API of others: as an operator's tool, and from member to member. Falls back to what the
/// own API expects (contract section 5).
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct Ctl {
    /// The login sent with unsafe calls.
    pub login: Option<Login>,
    /// Whether certificates are not verified at all.
    pub insecure: bool,
    /// Who signs the others' certificates.
    pub cafile: Option<PathBuf>,
    /// Our certificate and its key.
    pub client_cert: Option<(PathBuf, PathBuf)>,
    /// Opens an encrypted key.
    pub keyfile_password: Option<Secret>,
}
