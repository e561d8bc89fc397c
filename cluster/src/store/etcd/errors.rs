//! What may be concluded from an error of the client library. Only what etcd says in so many words is proof
//! (contract trap 13).

use etcd_client::Error;

use crate::store::StoreError;

/// What etcd answers instead of doing what was asked.
const REFUSALS: &[&str] = &[
    "invalid auth token",
    "authentication failed",
    "permission denied",
    "user name is empty",
    "user name not found",
    "revision in header is old",
    "revision of auth store is old",
];

/// What etcd answers to a put or a grant while it has the alarm NOSPACE.
const NO_SPACE: &str = "database space exceeded";

/// The error of a call to `endpoint`.
pub(super) fn classify(endpoint: &str, error: &Error) -> StoreError {
    let text = error.to_string();
    let lower = text.to_ascii_lowercase();
    if lower.contains("requested lease not found") || is_renewal_refused(error) {
        StoreError::LeaseNotFound
    } else if lower.contains(NO_SPACE) {
        StoreError::Full(format!("{endpoint}: {text}"))
    } else if REFUSALS.iter().any(|r| lower.contains(r)) || lower.contains("invalid peer certificate") {
        StoreError::Denied(format!("{endpoint}: {text}"))
    } else {
        StoreError::Unavailable(format!("{endpoint}: {}", cause(error)))
    }
}

/// Whether the call surely changed nothing: it was never sent, or refused before it was carried out.
pub(super) fn did_nothing(error: &Error) -> bool {
    let Error::GRpcStatus(status) = error else {
        return matches!(error, Error::TransportError(_) | Error::InvalidUri(_) | Error::InvalidArgs(_));
    };
    // The library's type for a connection that could not be made, which it shows only here.
    format!("{status:?}").contains("ConnectError(")
        || REFUSALS.iter().any(|r| status.message().contains(r))
        || status.message() == "etcdserver: no leader"
}

/// Whether authentication is asked of an etcd that has it switched off.
pub(super) fn auth_is_off(error: &Error) -> bool {
    matches!(error, Error::GRpcStatus(status) if status.message().contains("authentication is not enabled"))
}

/// The library's own way to say that a first renewal was answered without time.
fn is_renewal_refused(error: &Error) -> bool {
    matches!(error, Error::LeaseKeepAliveError(text) if text == "lease not found")
}

/// The innermost cause, which is the one that says what happened ("Connection refused").
fn cause(error: &Error) -> String {
    let Error::GRpcStatus(status) = error else { return error.to_string() };
    let mut text = status.message().to_owned();
    let mut source = std::error::Error::source(status);
    while let Some(inner) = source {
        let inner_text = inner.to_string();
        if !inner_text.is_empty() && !text.contains(&inner_text) {
            text = format!("{text}: {inner_text}");
        }
        source = inner.source();
    }
    text
}

/// The error for a stream that ended where an answer was due.
pub(super) fn stream_ended() -> Error {
    Error::WatchError("the stream ended".to_owned())
}
