//! The Unix socket: the same HTTP for those who may write to it, and the way of the ports to the next process.

use std::io;
use std::sync::Arc;
use std::time::Duration;

use axum::Router;
use hyper::server::conn::http1;
use hyper_util::rt::TokioIo;
use hyper_util::service::TowerToHyperService;
use tokio::net::{UnixListener, UnixStream};
use tokio::time::{sleep, timeout};
use tokio_util::sync::CancellationToken;
use tracing::{debug, warn};

use super::{Admin, guarded_routes, open_routes};
use crate::control::Request;
use crate::takeover;

/// Time to say what a connection is for.
const FIRST_WORD: Duration = Duration::from_secs(10);

/// Pause after an accept that failed for want of descriptors.
const BACKOFF: Duration = Duration::from_millis(100);

/// Answers on the Unix socket until `stop`.
pub(super) async fn serve(admin: Arc<Admin>, listener: UnixListener, stop: CancellationToken) {
    let routes = open_routes().merge(guarded_routes()).with_state(Arc::clone(&admin));
    loop {
        let accepted = tokio::select! {
            accepted = listener.accept() => accepted,
            () = stop.cancelled() => return,
        };
        match accepted {
            Ok((stream, _)) => {
                let serving = meet(Arc::clone(&admin), stream, routes.clone());
                // Not ended with the accepting: who asked for an upgrade hears how it went from us.
                tokio::spawn(async {
                    if let Err(error) = serving.await {
                        debug!(%error, "a connection to the admin socket ended");
                    }
                });
            }
            Err(error) => {
                warn!(%error, "the admin socket cannot be accepted from");
                sleep(BACKOFF).await;
            }
        }
    }
}

async fn meet(admin: Arc<Admin>, stream: UnixStream, routes: Router) -> io::Result<()> {
    let first = timeout(FIRST_WORD, first_word(&stream)).await??;
    if first == takeover::HELLO {
        let stream = stream.into_std()?;
        admin.control.send(Request::HandOver(stream)).await.map_err(io::Error::other)?;
        return Ok(());
    }
    let service = TowerToHyperService::new(routes);
    http1::Builder::new().serve_connection(TokioIo::new(stream), service).await.map_err(io::Error::other)
}

/// As many of the first bytes as tell HTTP from a request to hand over; they are left where they are.
async fn first_word(stream: &UnixStream) -> io::Result<Vec<u8>> {
    let mut bytes = [0; takeover::HELLO.len()];
    loop {
        let come = stream
            .async_io(tokio::io::Interest::READABLE, || {
                Ok(rustix::net::recv(stream, &mut bytes, rustix::net::RecvFlags::PEEK)?.1)
            })
            .await?;
        let whole = come == bytes.len() || !takeover::HELLO.starts_with(&bytes[..come]);
        if come == 0 || whole {
            return Ok(bytes[..come].to_vec());
        }
        // It is sent in one piece, so this hardly ever happens.
        sleep(Duration::from_millis(1)).await;
    }
}
