//! `[etcd]`.

use pgvane_cluster::settings_file::{Spanned, without_user_info};

use super::super::raw::RawEtcd;
use super::super::{Etcd, Login};
use super::context::refuse;
use super::{Check, Checked, etcd_url};
use crate::config::Secret;

pub(super) fn check(raw: RawEtcd, cx: &Check<'_>) -> Checked<Etcd> {
    if raw.endpoints.get_ref().is_empty() {
        let text = "at least one is needed, such as \"http://127.0.0.1:2379\"";
        return cx.wrong(&raw.endpoints, "etcd.endpoints", text);
    }
    let scheme = if raw.cacert.is_some() || raw.cert.is_some() { "https" } else { "http" };
    let mut endpoints = Vec::new();
    for endpoint in raw.endpoints.get_ref() {
        match etcd_url(endpoint.get_ref(), scheme) {
            Some(url) => endpoints.push(url),
            None => {
                let seen = without_user_info(endpoint.get_ref());
                let text = format!("{seen:?} is not http(s)://host:port");
                return cx.wrong(endpoint, "etcd.endpoints", text);
            }
        }
    }
    let (cert, key) = (cx.key("etcd.cert"), cx.key("etcd.key"));
    match (&raw.cert, &raw.key) {
        (Some(_), None) if cx.is_patroni() => {}
        (Some(file), None) => return refuse(file, format!("{cert} needs {key}")),
        (None, Some(file)) => return refuse(file, format!("{key} needs {cert}")),
        (Some(_), Some(_)) | (None, None) => {}
    }
    let readable = |file: &Option<Spanned<_>>, key: &str| match file {
        Some(file) => cx.readable(file, key).map(Some),
        None => Ok(None),
    };
    let cacert = readable(&raw.cacert, "etcd.cacert")?;
    let cert = readable(&raw.cert, "etcd.cert")?;
    // The key may stand in the certificate's file.
    let key = readable(&raw.key, "etcd.key")?.or_else(|| cert.clone());
    Ok(Etcd {
        endpoints,
        cacert,
        client_cert: cert.zip(key),
        login: login(raw.username, raw.password, "etcd", cx)?,
        discover: raw.discover,
    })
}

/// A user name and its password: both or none.
pub(super) fn login(
    username: Option<Spanned<String>>,
    password: Option<Spanned<Secret>>,
    section: &str,
    cx: &Check<'_>,
) -> Checked<Option<Login>> {
    let (user_key, password_key) = (format!("{section}.username"), format!("{section}.password"));
    let needs = |one: &str, other: &str| format!("{} needs {}", cx.key(one), cx.key(other));
    match (username, password) {
        (Some(username), Some(password)) => {
            Ok(Some(Login { username: username.into_inner(), password: password.into_inner() }))
        }
        (Some(username), None) => refuse(&username, needs(&user_key, &password_key)),
        (None, Some(password)) => refuse(&password, needs(&password_key, &user_key)),
        (None, None) => Ok(None),
    }
}
