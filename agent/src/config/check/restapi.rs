//! `[restapi]` and `[ctl]`.

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::path::PathBuf;

use hyper::header::{HeaderName, HeaderValue};
use pgvane_cluster::settings_file::Spanned;

use super::super::default;
use super::super::raw::{RawCtl, RawRestapi};
use super::super::{Access, Ctl, HostPort, Login, Restapi, ServerTls, ServerTokens, VerifyClient};
use super::address::{connect_address, is_host_or_network, named_port, to_listen_on};
use super::context::{missing, refuse};
use super::etcd::login;
use super::{Check, Checked};
use crate::config::Secret;

pub(super) fn check(raw: RawRestapi, cx: &Check<'_>) -> Checked<Restapi> {
    let listen = match &raw.listen {
        None => {
            let (ip, port) = default::REST_ADDRESS;
            SocketAddr::from((ip, named_port(raw.connect_address.as_ref()).unwrap_or(port)))
        }
        Some(text) => match to_listen_on(text.get_ref(), cx) {
            Some(address) => address,
            None => {
                let why = format!("{:?} is not ADDRESS:PORT such as \"0.0.0.0:8008\"", text.get_ref());
                return cx.wrong(text, "restapi.listen", why);
            }
        },
    };
    let fallback = (!listen.ip().is_unspecified())
        .then(|| HostPort { host: listen.ip().to_string(), port: listen.port() });
    let verify_client = one_of(
        raw.verify_client.as_ref(),
        "restapi.verify_client",
        &[
            ("none", VerifyClient::None),
            ("optional", VerifyClient::Optional),
            ("required", VerifyClient::Required),
        ],
        cx,
    )?;
    Ok(Restapi {
        listen,
        connect_address: connect_address(raw.connect_address, fallback, "restapi", listen.port(), cx)?,
        login: login(raw.username, raw.password, "restapi", cx)?,
        tls: tls(raw.certfile, raw.keyfile, raw.keyfile_password, raw.cafile.as_ref(), verify_client, cx)?,
        access: Access {
            allowlist: allowlist(raw.allowlist.unwrap_or_default(), cx)?,
            include_members: raw.allowlist_include_members.is_some_and(Spanned::into_inner),
        },
        http_extra_headers: headers(raw.http_extra_headers, "restapi.http_extra_headers", cx)?,
        https_extra_headers: headers(raw.https_extra_headers, "restapi.https_extra_headers", cx)?,
        server_tokens: one_of(
            raw.server_tokens.as_ref(),
            "restapi.server_tokens",
            &[
                ("original", ServerTokens::Original),
                ("productonly", ServerTokens::ProductOnly),
                ("minimal", ServerTokens::Minimal),
            ],
            cx,
        )?,
    })
}

/// The value of a word, in any case; the default where there is none.
pub(super) fn one_of<T: Copy + Default>(
    raw: Option<&Spanned<String>>,
    key: &str,
    words: &[(&str, T)],
    cx: &Check<'_>,
) -> Checked<T> {
    let Some(text) = raw else { return Ok(T::default()) };
    let found = words.iter().find(|(word, _)| word.eq_ignore_ascii_case(text.get_ref()));
    match found {
        Some((_, value)) => Ok(*value),
        None => {
            let allowed: Vec<&str> = words.iter().map(|(word, _)| *word).collect();
            cx.wrong(text, key, format!("{:?} is not one of {}", text.get_ref(), allowed.join(", ")))
        }
    }
}

fn tls(
    certfile: Option<Spanned<PathBuf>>,
    keyfile: Option<Spanned<PathBuf>>,
    keyfile_password: Option<Spanned<Secret>>,
    cafile: Option<&Spanned<PathBuf>>,
    verify_client: VerifyClient,
    cx: &Check<'_>,
) -> Checked<Option<ServerTls>> {
    let cafile = match cafile {
        Some(file) => Some(cx.readable(file, "restapi.cafile")?),
        None => None,
    };
    let Some(certfile) = certfile else {
        return match keyfile {
            Some(keyfile) => refuse(&keyfile, "restapi.keyfile needs restapi.certfile"),
            None if verify_client != VerifyClient::None => missing(
                "restapi.verify_client needs restapi.certfile: without TLS nobody shows a certificate",
            ),
            None => Ok(None),
        };
    };
    if verify_client != VerifyClient::None && cafile.is_none() {
        let text = "restapi.verify_client needs restapi.cafile: the certificates that sign those of clients";
        return refuse(&certfile, text);
    }
    let cert = cx.readable(&certfile, "restapi.certfile")?;
    let key = match &keyfile {
        Some(file) => cx.readable(file, "restapi.keyfile")?,
        None => cert.clone(),
    };
    Ok(Some(ServerTls {
        certfile: cert,
        keyfile: key,
        keyfile_password: keyfile_password.map(Spanned::into_inner),
        cafile,
        verify_client,
    }))
}

fn allowlist(raw: Vec<Spanned<String>>, cx: &Check<'_>) -> Checked<Vec<String>> {
    let mut list = Vec::new();
    for entry in raw {
        if !is_host_or_network(entry.get_ref()) {
            let why = format!(
                "{:?} is not a host name, an address or a network such as \"10.0.0.0/8\"",
                entry.get_ref()
            );
            return cx.wrong(&entry, "restapi.allowlist", why);
        }
        list.push(entry.into_inner());
    }
    Ok(list)
}

fn headers(
    raw: BTreeMap<String, Spanned<String>>,
    key: &str,
    cx: &Check<'_>,
) -> Checked<Vec<(String, String)>> {
    let mut headers = Vec::new();
    for (name, value) in raw {
        if name.parse::<HeaderName>().is_err() || value.get_ref().parse::<HeaderValue>().is_err() {
            return cx.wrong(&value, key, format!("{name:?} with this value is not an HTTP header"));
        }
        headers.push((name, value.into_inner()));
    }
    Ok(headers)
}

/// What is not set falls back to what our own API expects (contract section 5).
pub(super) fn ctl(raw: RawCtl, restapi: &Restapi, cx: &Check<'_>) -> Checked<Ctl> {
    let cafile = restapi.tls.as_ref().and_then(|tls| tls.cafile.clone());
    ctl_beside(raw, restapi.login.clone(), cafile, cx)
}

/// The same for a tool, which needs nothing else of `restapi`.
pub(super) fn ctl_of_a_tool(restapi: RawRestapi, raw: RawCtl, cx: &Check<'_>) -> Checked<Ctl> {
    let login = login(restapi.username, restapi.password, "restapi", cx)?;
    let cafile = match &restapi.cafile {
        Some(file) if raw.cafile.is_none() => Some(cx.readable(file, "restapi.cafile")?),
        Some(_) | None => None,
    };
    ctl_beside(raw, login, cafile, cx)
}

fn ctl_beside(
    raw: RawCtl,
    login_of_api: Option<Login>,
    cafile_of_api: Option<PathBuf>,
    cx: &Check<'_>,
) -> Checked<Ctl> {
    let cafile = match &raw.cafile {
        Some(file) => Some(cx.readable(file, "ctl.cafile")?),
        None => cafile_of_api,
    };
    let client_cert = match (&raw.certfile, &raw.keyfile) {
        (Some(cert), key) => {
            let cert = cx.readable(cert, "ctl.certfile")?;
            let key = match key {
                Some(key) => cx.readable(key, "ctl.keyfile")?,
                None => cert.clone(),
            };
            Some((cert, key))
        }
        (None, Some(key)) => return refuse(key, "ctl.keyfile needs ctl.certfile"),
        (None, None) => None,
    };
    Ok(Ctl {
        login: login(raw.username, raw.password, "ctl", cx)?.or(login_of_api),
        insecure: raw.insecure.is_some_and(Spanned::into_inner),
        cafile,
        client_cert,
        keyfile_password: raw.keyfile_password.map(Spanned::into_inner),
    })
}
