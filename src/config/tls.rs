//! `[listener.tls]`, checked: the files are read, so that a bad one is told with its line.

use std::ops::Range;
use std::path::PathBuf;

use pgvane_cluster::settings_file::Spanned;

use super::problem::Problem;
use super::raw::{RawSni, RawTls, RawTlsMode, RawTlsVersion, RawVerify};
use crate::tls::{self, Identity, MinVersion, Named, Originate, Part, Terminate, TlsError, Verify};

/// What a listener does with TLS; nothing of either where it is passed on.
#[derive(Default)]
pub(super) struct Tls {
    pub(super) clients: Option<Terminate>,
    pub(super) servers: Option<Originate>,
}

/// What the section asks for.
pub(super) fn check_tls(raw: Option<RawTls>) -> Result<Tls, Problem> {
    let Some(raw) = raw else { return Ok(Tls::default()) };
    let mode = *raw.mode.get_ref();
    if mode == RawTlsMode::Passthrough {
        refuse_given(&of_clients(&raw), "passthrough", "terminate")?;
    }
    if mode != RawTlsMode::Reencrypt {
        refuse_given(&of_servers(&raw), "terminate", "reencrypt")?;
    }
    let clients = (mode != RawTlsMode::Passthrough).then(|| terminate(&raw)).transpose()?;
    let servers = (mode == RawTlsMode::Reencrypt).then(|| originate(&raw)).transpose()?;
    if let Some(clients) = &clients {
        tls::load_terminate(clients).map_err(|error| at_fault(&raw, &error))?;
    }
    if let Some(servers) = &servers {
        tls::load_originate(servers).map_err(|error| at_fault(&raw, &error))?;
    }
    Ok(Tls { clients, servers })
}

fn span<T>(given: Option<&Spanned<T>>) -> Option<Range<usize>> {
    given.map(Spanned::span)
}

/// Keys about clients' TLS, where they are given.
fn of_clients(raw: &RawTls) -> Vec<Range<usize>> {
    let sni = raw.sni.iter().flatten().map(|named| named.names.span()).next();
    let files = [span(raw.cert.as_ref()), span(raw.key.as_ref()), span(raw.client_ca.as_ref())];
    let more = [span(raw.min_version.as_ref()), span(raw.required.as_ref()), sni];
    files.into_iter().chain(more).flatten().collect()
}

/// Keys about servers' TLS, where they are given.
fn of_servers(raw: &RawTls) -> Vec<Range<usize>> {
    let files = [span(raw.server_ca.as_ref()), span(raw.server_cert.as_ref()), span(raw.server_key.as_ref())];
    files.into_iter().chain([span(raw.server_verify.as_ref())]).flatten().collect()
}

fn refuse_given(given: &[Range<usize>], mode: &str, of_use_with: &str) -> Result<(), Problem> {
    let Some(at) = given.first() else { return Ok(()) };
    Err(Problem {
        at: Some(at.clone()),
        text: format!("this is of no use with mode = \"{mode}\""),
        help: Some(format!("allowed with mode = \"{of_use_with}\"")),
    })
}

fn min_version(raw: &RawTls) -> MinVersion {
    match raw.min_version.as_ref().map(Spanned::get_ref) {
        Some(RawTlsVersion::Tls13) => MinVersion::Tls13,
        Some(RawTlsVersion::Tls12) | None => MinVersion::Tls12,
    }
}

fn terminate(raw: &RawTls) -> Result<Terminate, Problem> {
    let needed = |file: &Option<Spanned<PathBuf>>, name: &str| {
        let missing = || {
            Problem::at(&raw.mode, format!("a mode in which clients' TLS ends here needs `{name}`"))
                .help("write `cert` and `key`, the paths of PEM files")
        };
        file.as_ref().map(|file| file.get_ref().clone()).ok_or_else(missing)
    };
    Ok(Terminate {
        identity: Identity { cert: needed(&raw.cert, "cert")?, key: needed(&raw.key, "key")? },
        sni: raw.sni.iter().flatten().map(named).collect::<Result<_, _>>()?,
        client_ca: raw.client_ca.as_ref().map(|file| file.get_ref().clone()),
        min_version: min_version(raw),
        required: raw.required.as_ref().is_some_and(|required| *required.get_ref()),
    })
}

fn named(raw: &RawSni) -> Result<Named, Problem> {
    if raw.names.get_ref().is_empty() {
        return Err(Problem::at(&raw.names, "there must be at least one name").help(NAMES));
    }
    let name = |text: &Spanned<String>| {
        let host = text.get_ref().strip_prefix("*.").unwrap_or(text.get_ref());
        let sound = |label: &str| {
            !label.is_empty() && label.chars().all(|c| c.is_ascii_alphanumeric() || "-_".contains(c))
        };
        if !host.split('.').all(sound) {
            return Err(Problem::at(text, format!("{:?} is not a host's name", text.get_ref())).help(NAMES));
        }
        Ok(text.get_ref().to_ascii_lowercase())
    };
    Ok(Named {
        names: raw.names.get_ref().iter().map(name).collect::<Result<_, _>>()?,
        identity: Identity { cert: raw.cert.get_ref().clone(), key: raw.key.get_ref().clone() },
    })
}

const NAMES: &str = "allowed: such as \"db.example.com\" or \"*.example.com\"";

/// A file named by the settings, if it is.
type File = Option<Spanned<PathBuf>>;

/// Why what is to be verified does not fit the CA certificate that is given.
pub(super) enum Misfit {
    /// There is one, and nothing is verified.
    OfNoUse,
    /// There is none.
    Missing,
}

/// What a peer's certificate is verified against.
pub(super) fn verify(how: Option<&Spanned<RawVerify>>, ca: &File) -> Result<Verify, Misfit> {
    let ca = ca.as_ref().map(|file| file.get_ref().clone());
    match (how.map_or(RawVerify::Full, |how| *how.get_ref()), ca) {
        (RawVerify::Full, Some(ca)) => Ok(Verify::Full(ca)),
        (RawVerify::Ca, Some(ca)) => Ok(Verify::Ca(ca)),
        (RawVerify::None, None) => Ok(Verify::Nothing),
        (RawVerify::None, Some(_)) => Err(Misfit::OfNoUse),
        (RawVerify::Full | RawVerify::Ca, None) => Err(Misfit::Missing),
    }
}

/// What we show peers. The error is the file that has no other beside it.
pub(super) fn identity<'f>(cert: &'f File, key: &'f File) -> Result<Option<Identity>, &'f Spanned<PathBuf>> {
    match (cert, key) {
        (Some(cert), Some(key)) => {
            Ok(Some(Identity { cert: cert.get_ref().clone(), key: key.get_ref().clone() }))
        }
        (None, None) => Ok(None),
        (Some(alone), None) | (None, Some(alone)) => Err(alone),
    }
}

fn originate(raw: &RawTls) -> Result<Originate, Problem> {
    let verify = match verify(raw.server_verify.as_ref(), &raw.server_ca) {
        Ok(verify) => verify,
        Err(Misfit::OfNoUse) => {
            let at = span(raw.server_ca.as_ref());
            let text = "nothing is checked against this with server_verify = \"none\"".to_owned();
            return Err(Problem { at, text, help: Some("allowed: \"full\", \"ca\"".to_owned()) });
        }
        Err(Misfit::Missing) => {
            return Err(Problem::at(
                &raw.mode,
                "servers' certificates cannot be checked without `server_ca`",
            )
            .help("write `server_ca`, the path of a PEM file, or server_verify = \"none\""));
        }
    };
    let identity = identity(&raw.server_cert, &raw.server_key).map_err(|alone| {
        let text = match &raw.server_cert {
            Some(_) => "server_cert needs server_key beside it",
            None => "server_key needs server_cert beside it",
        };
        Problem::at(alone, text)
    })?;
    Ok(Originate { verify, identity, min_version: min_version(raw) })
}

/// The line of the file that is wrong.
fn at_fault(raw: &RawTls, error: &TlsError) -> Problem {
    let sni = |index: usize| raw.sni.iter().flatten().nth(index);
    let at = match error.part {
        Part::Cert => span(raw.cert.as_ref()),
        Part::Key => span(raw.key.as_ref()),
        Part::ClientCa => span(raw.client_ca.as_ref()),
        Part::SniCert(index) => sni(index).map(|named| named.cert.span()),
        Part::SniKey(index) => sni(index).map(|named| named.key.span()),
        Part::ServerCa => span(raw.server_ca.as_ref()),
        Part::ServerCert => span(raw.server_cert.as_ref()),
        Part::ServerKey => span(raw.server_key.as_ref()),
    };
    Problem { at: at.or_else(|| Some(raw.mode.span())), text: error.to_string(), help: None }
}
