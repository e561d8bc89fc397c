//! `[listener.tls]`, checked: the files are read, so that a bad one is told with its line.

use std::path::PathBuf;

use toml::Spanned;

use super::problem::Problem;
use super::raw::{RawTls, RawTlsMode, RawTlsVersion};
use crate::tls::{self, MinVersion, Part, Terminate};

/// What the section asks for; `None` passes clients' TLS on to the servers.
pub(super) fn check_tls(raw: Option<RawTls>) -> Result<Option<Terminate>, Problem> {
    let Some(raw) = raw else { return Ok(None) };
    if *raw.mode.get_ref() == RawTlsMode::Passthrough {
        let given = [raw.cert.map(|v| v.span()), raw.key.map(|v| v.span()), raw.client_ca.map(|v| v.span())];
        let more = [raw.min_version.map(|v| v.span()), raw.required.map(|v| v.span())];
        return match given.into_iter().chain(more).flatten().next() {
            Some(at) => Err(Problem {
                at: Some(at),
                text: "this is of no use with mode = \"passthrough\"".to_owned(),
                help: Some(
                    "the servers' own certificates are shown; allowed with mode = \"terminate\"".to_owned(),
                ),
            }),
            None => Ok(None),
        };
    }
    let needed = |file: &Option<Spanned<PathBuf>>, name: &str| {
        let missing = || {
            Problem::at(&raw.mode, format!("mode = \"terminate\" needs `{name}`"))
                .help("write `cert` and `key`, the paths of PEM files")
        };
        file.as_ref().map(|file| file.get_ref().clone()).ok_or_else(missing)
    };
    let terminate = Terminate {
        cert: needed(&raw.cert, "cert")?,
        key: needed(&raw.key, "key")?,
        client_ca: raw.client_ca.as_ref().map(|file| file.get_ref().clone()),
        min_version: match raw.min_version.as_ref().map(Spanned::get_ref) {
            Some(RawTlsVersion::Tls13) => MinVersion::Tls13,
            Some(RawTlsVersion::Tls12) | None => MinVersion::Tls12,
        },
        required: raw.required.as_ref().is_some_and(|required| *required.get_ref()),
    };
    match tls::load(&terminate) {
        Ok(_) => Ok(Some(terminate)),
        Err(error) => {
            let at = match error.part {
                Part::Cert => &raw.cert,
                Part::Key => &raw.key,
                Part::ClientCa => &raw.client_ca,
            };
            let at = at.as_ref().map_or_else(|| raw.mode.span(), Spanned::span);
            Err(Problem { at: Some(at), text: error.to_string(), help: None })
        }
    }
}
