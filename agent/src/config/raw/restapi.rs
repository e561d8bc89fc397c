//! `[restapi]` and `[ctl]`.

use std::collections::BTreeMap;
use std::path::PathBuf;

use pgvane_cluster::settings_file::{Secret, Spanned};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::super::default;
use super::exposed_at;

/// The REST API: health checks, the other agents, pgvanectl, patronictl. The files of certificates are read again when
/// they change.
#[derive(Deserialize, Serialize, Default, JsonSchema)]
#[serde(deny_unknown_fields)]
pub(in crate::config) struct RawRestapi {
    /// Its address and port.
    #[schemars(extend(
        "x-default" = format!(
            "`{}:` and the port that `connect_address` names, else {}",
            std::net::IpAddr::from(default::REST_ADDRESS.0), default::REST_ADDRESS.1
        ),
        "x-restart" = true
    ))]
    pub(in crate::config) listen: Option<Spanned<String>>,
    /// Where the others reach it. Needed unless `listen` names one address.
    #[schemars(extend("x-default" = "`listen`, where that is one address"))]
    pub(in crate::config) connect_address: Option<Spanned<String>>,
    /// Who may change things (Basic authentication); anybody unless set. The same on all nodes of the cluster.
    pub(in crate::config) username: Option<Spanned<String>>,
    /// Password of `username`.
    #[serde(serialize_with = "exposed_at")]
    #[schemars(with = "Option<Secret>")]
    pub(in crate::config) password: Option<Spanned<Secret>>,
    /// Our certificate with its chain, PEM: turns TLS on.
    pub(in crate::config) certfile: Option<Spanned<PathBuf>>,
    /// Its key.
    #[schemars(extend("x-default" = "in `certfile`"))]
    pub(in crate::config) keyfile: Option<Spanned<PathBuf>>,
    /// Password of an encrypted key.
    #[serde(serialize_with = "exposed_at")]
    #[schemars(with = "Option<Secret>")]
    pub(in crate::config) keyfile_password: Option<Spanned<Secret>>,
    /// Certificates that sign those of clients.
    pub(in crate::config) cafile: Option<Spanned<PathBuf>>,
    /// Who must show a certificate: nobody; `optional`: whoever wants to change something; `required`: everybody.
    /// Needs `certfile` and `cafile`.
    #[schemars(extend("enum" = ["none", "optional", "required"], "default" = "none"))]
    pub(in crate::config) verify_client: Option<Spanned<String>>,
    /// From where things may be changed: host names, addresses, networks. From anywhere where the list is empty and
    /// members are not included.
    #[schemars(extend("default" = []))]
    pub(in crate::config) allowlist: Option<Vec<Spanned<String>>>,
    /// Whether the members of the cluster are on the list.
    #[schemars(extend("default" = false))]
    pub(in crate::config) allowlist_include_members: Option<Spanned<bool>>,
    /// Headers added to every answer.
    #[serde(default)]
    pub(in crate::config) http_extra_headers: BTreeMap<String, Spanned<String>>,
    /// Headers added to answers over TLS.
    #[serde(default)]
    pub(in crate::config) https_extra_headers: BTreeMap<String, Spanned<String>>,
    /// What the Server header tells.
    #[schemars(extend("enum" = ["original", "productonly", "minimal"], "default" = "original"))]
    pub(in crate::config) server_tokens: Option<Spanned<String>>,
}

/// How other members' REST APIs are reached, by the agent and by pgvanectl.
#[derive(Deserialize, Serialize, Default, JsonSchema)]
#[serde(deny_unknown_fields)]
pub(in crate::config) struct RawCtl {
    /// User of Basic authentication.
    #[schemars(extend("x-default" = "`restapi.username`"))]
    pub(in crate::config) username: Option<Spanned<String>>,
    /// Password of `username`.
    #[serde(serialize_with = "exposed_at")]
    #[schemars(with = "Option<Secret>", extend("x-default" = "`restapi.password`"))]
    pub(in crate::config) password: Option<Spanned<Secret>>,
    /// Whether certificates of the others are not checked.
    #[schemars(extend("default" = false))]
    pub(in crate::config) insecure: Option<Spanned<bool>>,
    /// Certificates that sign the others'.
    #[schemars(extend("x-default" = "`restapi.cafile`"))]
    pub(in crate::config) cafile: Option<Spanned<PathBuf>>,
    /// Our certificate, where the others ask for one.
    pub(in crate::config) certfile: Option<Spanned<PathBuf>>,
    /// Its key.
    #[schemars(extend("x-default" = "in `certfile`"))]
    pub(in crate::config) keyfile: Option<Spanned<PathBuf>>,
    /// Password of an encrypted key.
    #[serde(serialize_with = "exposed_at")]
    #[schemars(with = "Option<Secret>")]
    pub(in crate::config) keyfile_password: Option<Spanned<Secret>>,
}
