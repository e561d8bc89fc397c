//! Answers, and those that are not the plain case: a status with a text for people.

use bytes::Bytes;
use http_body_util::Full;
use hyper::header::{CONTENT_TYPE, HeaderValue, WWW_AUTHENTICATE};
use hyper::{Response, StatusCode};
use pgvane_cluster::store::StoreError;
use serde_json::Value;

use super::body::spaced;

/// An answer as it is sent.
pub(super) type Reply = Response<Full<Bytes>>;

/// A status and its text: how every wish that is not granted ends.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(super) struct Refused(pub(super) StatusCode, pub(super) String);

impl Refused {
    pub(super) fn new(status: StatusCode, text: impl Into<String>) -> Refused {
        Refused(status, text.into())
    }

    pub(super) fn into_reply(self) -> Reply {
        let mut answer = text(self.0, self.1);
        if self.0 == StatusCode::UNAUTHORIZED {
            let realm = HeaderValue::from_static("Basic realm=\"pgvane-agent\"");
            answer.headers_mut().insert(WWW_AUTHENTICATE, realm);
        }
        answer
    }
}

impl From<StoreError> for Refused {
    fn from(e: StoreError) -> Refused {
        Refused(StatusCode::SERVICE_UNAVAILABLE, e.to_string())
    }
}

/// Plain text.
pub(super) fn text(status: StatusCode, text: impl Into<String>) -> Reply {
    with_type(status, "text/plain; charset=utf-8", text.into())
}

/// JSON the way Patroni spaces it.
pub(super) fn json(status: StatusCode, value: &Value) -> Reply {
    with_type(status, "application/json", spaced(value))
}

/// A status and nothing else.
pub(super) fn bare(status: StatusCode) -> Reply {
    let mut reply = Response::new(Full::default());
    *reply.status_mut() = status;
    reply
}

fn with_type(status: StatusCode, kind: &'static str, body: String) -> Reply {
    let mut reply = Response::new(Full::from(body));
    *reply.status_mut() = status;
    reply.headers_mut().insert(CONTENT_TYPE, HeaderValue::from_static(kind));
    reply
}
