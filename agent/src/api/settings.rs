//! What the REST API is told by the settings file, ready to be used. Replaced as a whole when the file is read again.

use std::sync::Arc;

use hyper::HeaderMap;
use hyper::header::{HeaderName, HeaderValue, SERVER};

use super::access::Doorkeeper;
use crate::config::{Access, Login, Restapi, ServerTokens, VerifyClient};
use crate::peers::Caller;
use crate::timing::TimingOverrides;
use crate::tls::{self, Shown, Watched};

/// The product's name in the `Server` header.
const PRODUCT: &str = "pgvane-agent";

/// The settings in force. What a connection began with it keeps.
#[derive(Debug)]
pub struct Settings {
    pub(super) tls: Option<Arc<Watched<Shown>>>,
    pub(super) doorkeeper: Doorkeeper,
    /// Added to every answer.
    pub(super) headers: HeaderMap,
    /// What replaces that of the API from now on.
    pub(super) means: Option<Means>,
}

/// What answers are made with.
#[derive(Clone, Debug)]
pub(super) struct Means {
    /// How candidates are asked.
    pub(super) caller: Arc<Caller>,
    /// Deadlines set by hand.
    pub(super) timing: TimingOverrides,
}

impl Settings {
    /// Those of the file. The error names what cannot be used: a certificate, a header.
    pub fn new(restapi: &Restapi) -> Result<Settings, String> {
        let tls = restapi.tls.as_ref().map(tls::server).transpose()?;
        let wants_certificate = restapi.tls.as_ref().is_some_and(|t| t.verify_client != VerifyClient::None);
        let doorkeeper = Doorkeeper::new(&restapi.access, wants_certificate, restapi.login.clone());
        let over_tls = restapi.https_extra_headers.iter().filter(|_| tls.is_some());
        let mut headers = HeaderMap::new();
        for (name, value) in restapi.http_extra_headers.iter().chain(over_tls) {
            let (name, value) = header(name, value)?;
            headers.insert(name, value);
        }
        let server = match restapi.server_tokens {
            ServerTokens::Original => Some(format!("{PRODUCT}/{}", env!("CARGO_PKG_VERSION"))),
            ServerTokens::ProductOnly => Some(PRODUCT.to_owned()),
            ServerTokens::Minimal => None,
        };
        if let Some(server) = server.and_then(|text| HeaderValue::try_from(text).ok()) {
            headers.entry(SERVER).or_insert(server);
        }
        Ok(Settings { tls, doorkeeper, headers, means: None })
    }

    /// The same, with how candidates are asked and what deadlines are set by hand.
    #[must_use]
    pub fn with(self, caller: Arc<Caller>, timing: TimingOverrides) -> Settings {
        Settings { means: Some(Means { caller, timing }), ..self }
    }

    /// Plain HTTP for everybody who has the login, where one is asked for.
    pub fn plain(login: Option<Login>) -> Settings {
        let doorkeeper = Doorkeeper::new(&Access::default(), false, login);
        Settings { tls: None, doorkeeper, headers: HeaderMap::new(), means: None }
    }
}

fn header(name: &str, value: &str) -> Result<(HeaderName, HeaderValue), String> {
    let wrong = |what: &str| format!("restapi.http_extra_headers: {name:?}: {value:?} is not {what} of HTTP");
    let header = HeaderName::try_from(name).map_err(|_| wrong("a header"))?;
    Ok((header, HeaderValue::try_from(value).map_err(|_| wrong("a header's value"))?))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::HostPort;

    fn restapi(tokens: ServerTokens, http: &[(&str, &str)], https: &[(&str, &str)]) -> Restapi {
        let own = |pairs: &[(&str, &str)]| {
            pairs.iter().map(|(n, v)| ((*n).to_owned(), (*v).to_owned())).collect::<Vec<_>>()
        };
        Restapi {
            listen: ([127, 0, 0, 1], 0).into(),
            connect_address: HostPort { host: "a".to_owned(), port: 1 },
            login: None,
            tls: None,
            access: Access::default(),
            http_extra_headers: own(http),
            https_extra_headers: own(https),
            server_tokens: tokens,
        }
    }

    #[test]
    fn headers_are_added_and_those_of_tls_only_there() {
        let shown = |restapi: &Restapi| {
            let headers = Settings::new(restapi).expect("good").headers;
            let mut all: Vec<String> =
                headers.iter().map(|(n, v)| format!("{n}: {}", v.to_str().expect("text"))).collect();
            all.sort();
            all
        };
        let version = env!("CARGO_PKG_VERSION");
        let given = restapi(ServerTokens::Original, &[("X-Frame-Options", "DENY")], &[("X-Tls", "1")]);
        assert_eq!(
            shown(&given),
            [format!("server: pgvane-agent/{version}"), "x-frame-options: DENY".to_owned()]
        );
        assert_eq!(shown(&restapi(ServerTokens::ProductOnly, &[], &[])), ["server: pgvane-agent"]);
        assert_eq!(shown(&restapi(ServerTokens::Minimal, &[], &[])), Vec::<String>::new());
        let why = Settings::new(&restapi(ServerTokens::Minimal, &[("a b", "c")], &[])).expect_err("refused");
        assert!(why.contains("\"a b\": \"c\" is not a header of HTTP"), "{why}");
    }
}
