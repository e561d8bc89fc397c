//! The status page: files of the binary, with headers that let a browser run nothing else.

use axum::Router;
use axum::http::HeaderName;
use axum::http::header::{
    CACHE_CONTROL, CONTENT_SECURITY_POLICY, CONTENT_TYPE, REFERRER_POLICY, X_CONTENT_TYPE_OPTIONS,
};
use axum::routing::get;

/// Only what comes from here, and nothing inline: names on the page come from etcd.
const POLICY: &str = "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self'; connect-src 'self'; \
                      base-uri 'none'; form-action 'none'; frame-ancestors 'none'; require-trusted-types-for 'script'";

type Page = ([(HeaderName, &'static str); 5], &'static str);

fn file(kind: &'static str, text: &'static str) -> Page {
    let headers = [
        (CONTENT_TYPE, kind),
        (CONTENT_SECURITY_POLICY, POLICY),
        (X_CONTENT_TYPE_OPTIONS, "nosniff"),
        (REFERRER_POLICY, "no-referrer"),
        // The next version of the proxy brings its own.
        (CACHE_CONTROL, "no-cache"),
    ];
    (headers, text)
}

/// The page and what belongs to it.
pub(super) fn routes<S: Clone + Send + Sync + 'static>() -> Router<S> {
    let html = async || file("text/html; charset=utf-8", include_str!("page/index.html"));
    let css = async || file("text/css; charset=utf-8", include_str!("page/page.css"));
    let js = async || file("text/javascript; charset=utf-8", include_str!("page/page.js"));
    let icon = async || file("image/svg+xml", include_str!("page/icon.svg"));
    Router::new()
        .route("/", get(html))
        .route("/status", get(html))
        .route("/page.css", get(css))
        .route("/page.js", get(js))
        .route("/icon.svg", get(icon))
}
