//! Answers that are not the plain case: a status with a text for people.

use axum::http::{HeaderValue, StatusCode, header};
use axum::response::{IntoResponse, Response};
use pgvane_cluster::store::StoreError;
use serde_json::Value;

use super::body::spaced;

/// A status and its text: how every wish that is not granted ends.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(super) struct Refused(pub(super) StatusCode, pub(super) String);

impl Refused {
    pub(super) fn new(status: StatusCode, text: impl Into<String>) -> Refused {
        Refused(status, text.into())
    }
}

impl From<StoreError> for Refused {
    fn from(e: StoreError) -> Refused {
        Refused(StatusCode::SERVICE_UNAVAILABLE, e.to_string())
    }
}

impl IntoResponse for Refused {
    fn into_response(self) -> Response {
        let mut answer = text(self.0, self.1);
        if self.0 == StatusCode::UNAUTHORIZED {
            let realm = HeaderValue::from_static("Basic realm=\"pgvane-agent\"");
            answer.headers_mut().insert(header::WWW_AUTHENTICATE, realm);
        }
        answer
    }
}

/// Plain text.
pub(super) fn text(status: StatusCode, text: impl Into<String>) -> Response {
    (status, [(header::CONTENT_TYPE, "text/plain; charset=utf-8")], text.into()).into_response()
}

/// JSON the way Patroni spaces it.
pub(super) fn json(status: StatusCode, value: &Value) -> Response {
    (status, [(header::CONTENT_TYPE, "application/json")], spaced(value)).into_response()
}
