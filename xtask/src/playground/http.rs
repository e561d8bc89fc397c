//! Plain HTTP to agents and proxies on loopback.

use std::net::SocketAddr;
use std::time::Duration;

use http_body_util::{BodyExt, Full};
use hyper::body::Bytes;
use hyper::{Method, Request, StatusCode};
use hyper_util::rt::TokioIo;
use serde::de::DeserializeOwned;
use tokio::net::TcpStream;
use tokio::time::timeout;

/// Why there is no answer.
#[derive(Debug, thiserror::Error)]
pub enum HttpError {
    /// Nothing within the limit.
    #[error("no answer within {} ms", .0.as_millis())]
    Silent(Duration),
    /// The connection failed.
    #[error("{0}")]
    Broken(String),
    /// An answer that is not what was asked for.
    #[error("{0}")]
    Odd(String),
}

fn broken(error: impl std::fmt::Display) -> HttpError {
    HttpError::Broken(error.to_string())
}

/// One request on a connection of its own.
pub async fn request(
    method: Method,
    server: SocketAddr,
    path: &str,
    body: String,
    limit: Duration,
) -> Result<(StatusCode, Bytes), HttpError> {
    let exchange = async {
        let stream = TcpStream::connect(server).await.map_err(broken)?;
        let handshake = hyper::client::conn::http1::handshake(TokioIo::new(stream)).await;
        let (mut sender, connection) = handshake.map_err(broken)?;
        let request = Request::builder()
            .method(method)
            .uri(path)
            .header("host", server.to_string())
            .header("content-type", "application/json")
            .header("connection", "close")
            .body(Full::new(Bytes::from(body)))
            .map_err(broken)?;
        let answer = async {
            let answer = sender.send_request(request).await.map_err(broken)?;
            let status = answer.status();
            Ok((status, answer.into_body().collect().await.map_err(broken)?.to_bytes()))
        };
        // Driven here rather than in a task: what is given up at the limit ends at the limit.
        let driven = async {
            let _ = connection.await;
            std::future::pending().await
        };
        tokio::select! {
            biased;
            answer = answer => answer,
            never = driven => never,
        }
    };
    timeout(limit, exchange).await.map_err(|_| HttpError::Silent(limit))?
}

/// A JSON document, whatever the status says: a health check's body is worth reading when it says 503.
pub async fn get<T: DeserializeOwned>(
    server: SocketAddr,
    path: &str,
    limit: Duration,
) -> Result<T, HttpError> {
    let (_, body) = request(Method::GET, server, path, String::new(), limit).await?;
    serde_json::from_slice(&body).map_err(|e| HttpError::Odd(format!("{path}: {e}")))
}
