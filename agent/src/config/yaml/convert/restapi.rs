//! `restapi` and `ctl`.

use pgvane_cluster::settings_file::Spanned;

use super::super::section::{Remarks, Section};
use crate::config::Secret;
use crate::config::check::Checked;
use crate::config::raw::{RawCtl, RawRestapi};

type Login = (Option<Spanned<String>>, Option<Spanned<Secret>>);

pub(super) fn convert(mut section: Section, remarks: &mut Remarks) -> Checked<RawRestapi> {
    let (username, password) = login(&mut section, remarks)?;
    section.pass_over(&["ciphers"], "TLS is not OpenSSL's here; its own choice of ciphers is used", remarks);
    section.pass_over(&["request_queue_size", "thread_pool_size"], "this API has no such queue", remarks);
    section.pass_over(&["metrics"], "metrics are always served, at /metrics", remarks);
    let raw = RawRestapi {
        listen: section.text("listen")?,
        connect_address: section.text("connect_address")?,
        username,
        password,
        certfile: section.file("certfile")?,
        keyfile: section.file("keyfile")?,
        keyfile_password: section.secret("keyfile_password")?,
        cafile: section.file("cafile")?,
        verify_client: section.text("verify_client")?,
        allowlist: section.texts("allowlist")?.map(Spanned::into_inner),
        allowlist_include_members: section.flag("allowlist_include_members")?,
        http_extra_headers: section.section("http_extra_headers")?.words()?,
        https_extra_headers: section.section("https_extra_headers")?.words()?,
        server_tokens: section.text("server_tokens")?,
    };
    section.finish(remarks);
    Ok(raw)
}

pub(super) fn ctl(mut section: Section, remarks: &mut Remarks) -> Checked<RawCtl> {
    let (username, password) = login(&mut section, remarks)?;
    let raw = RawCtl {
        username,
        password,
        insecure: section.flag("insecure")?,
        cafile: section.file("cacert")?,
        certfile: section.file("certfile")?,
        keyfile: section.file("keyfile")?,
        keyfile_password: section.secret("keyfile_password")?,
    };
    section.finish(remarks);
    Ok(raw)
}

/// `authentication`, or the short `auth: user:password`.
fn login(section: &mut Section, remarks: &mut Remarks) -> Checked<Login> {
    let short = section.secret("auth")?;
    let mut long = section.section("authentication")?;
    let login = (long.text("username")?, long.secret("password")?);
    long.finish(remarks);
    match short {
        Some(short) if login.0.is_none() => {
            let text = short.get_ref().expose();
            let (user, password) = text.split_once(':').unwrap_or((text, ""));
            let at = short.span();
            Ok((
                Some(Spanned::new(at.clone(), user.to_owned())),
                Some(Spanned::new(at, Secret::new(password))),
            ))
        }
        Some(_) | None => Ok(login),
    }
}
