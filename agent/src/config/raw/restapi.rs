//! `[restapi]` and `[ctl]`.

use std::collections::BTreeMap;
use std::path::PathBuf;

use pgvane_cluster::settings_file::Secret;
use serde::{Deserialize, Serialize};
use toml::Spanned;

use super::exposed_at;

#[derive(Deserialize, Serialize, Default)]
#[serde(deny_unknown_fields)]
pub(in crate::config) struct RawRestapi {
    pub(in crate::config) listen: Option<Spanned<String>>,
    pub(in crate::config) connect_address: Option<Spanned<String>>,
    pub(in crate::config) username: Option<Spanned<String>>,
    #[serde(serialize_with = "exposed_at")]
    pub(in crate::config) password: Option<Spanned<Secret>>,
    pub(in crate::config) certfile: Option<Spanned<PathBuf>>,
    pub(in crate::config) keyfile: Option<Spanned<PathBuf>>,
    #[serde(serialize_with = "exposed_at")]
    pub(in crate::config) keyfile_password: Option<Spanned<Secret>>,
    pub(in crate::config) cafile: Option<Spanned<PathBuf>>,
    pub(in crate::config) verify_client: Option<Spanned<String>>,
    pub(in crate::config) allowlist: Option<Vec<Spanned<String>>>,
    pub(in crate::config) allowlist_include_members: Option<Spanned<bool>>,
    #[serde(default)]
    pub(in crate::config) http_extra_headers: BTreeMap<String, Spanned<String>>,
    #[serde(default)]
    pub(in crate::config) https_extra_headers: BTreeMap<String, Spanned<String>>,
    pub(in crate::config) server_tokens: Option<Spanned<String>>,
}

#[derive(Deserialize, Serialize, Default)]
#[serde(deny_unknown_fields)]
pub(in crate::config) struct RawCtl {
    pub(in crate::config) username: Option<Spanned<String>>,
    #[serde(serialize_with = "exposed_at")]
    pub(in crate::config) password: Option<Spanned<Secret>>,
    pub(in crate::config) insecure: Option<Spanned<bool>>,
    pub(in crate::config) cafile: Option<Spanned<PathBuf>>,
    pub(in crate::config) certfile: Option<Spanned<PathBuf>>,
    pub(in crate::config) keyfile: Option<Spanned<PathBuf>>,
    #[serde(serialize_with = "exposed_at")]
    pub(in crate::config) keyfile_password: Option<Spanned<Secret>>,
}
