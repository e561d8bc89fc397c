//! Connections of the REST API: a bounded number, each a task of its own. A TLS handshake that drags on, a client
//! that says nothing or reads nothing ends after its time and holds up nobody meanwhile.

use std::convert::Infallible;
use std::future::Future;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper_util::rt::{TokioIo, TokioTimer};
use pgvane_cluster::store::Store;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::{TcpListener, TcpStream};
use tokio::time::{sleep, timeout};
use tokio_rustls::TlsAcceptor;
use tracing::{debug, warn};

use super::access::Client;
use super::places::{Place, Places};
use super::serve::Api;

/// How long a TLS handshake may take.
const HANDSHAKE_WITHIN: Duration = Duration::from_secs(5);

/// How long a client may take to say what it wants, also for the next time.
const ASK_WITHIN: Duration = Duration::from_secs(10);

/// How long what was sent may stay unread or unconfirmed.
const READ_WITHIN: Duration = Duration::from_secs(20);

/// Pause after a connection could not be accepted: there are no descriptors left, most likely.
const ACCEPT_AGAIN: Duration = Duration::from_millis(50);

/// Answers on `listener` until `shutdown`.
pub async fn serve<S: Store>(
    listener: TcpListener,
    api: Api<S>,
    shutdown: impl Future<Output = ()> + Send + 'static,
) -> std::io::Result<()> {
    let (api, places) = (Arc::new(api), Arc::new(Places::default()));
    tokio::pin!(shutdown);
    loop {
        let accepted = tokio::select! {
            () = &mut shutdown => return Ok(()),
            accepted = listener.accept() => accepted,
        };
        match accepted {
            Ok((stream, from)) => match places.take(from.ip()) {
                Some(place) => drop(tokio::spawn(connection(Arc::clone(&api), stream, from, place))),
                None => debug!(%from, "there are too many connections to the REST API"),
            },
            Err(error) => {
                warn!(%error, "a connection to the REST API was not accepted");
                sleep(ACCEPT_AGAIN).await;
            }
        }
    }
}

async fn connection<S: Store>(api: Arc<Api<S>>, stream: TcpStream, from: SocketAddr, _place: Place) {
    // Answers are small and wait for nobody.
    let _ = stream.set_nodelay(true);
    let patience = u32::try_from(READ_WITHIN.as_millis()).unwrap_or(u32::MAX);
    let _ = rustix::net::sockopt::set_tcp_user_timeout(&stream, patience);
    let tls = api.settings.borrow().tls.clone();
    let address = from.ip();
    let Some(tls) = tls else {
        return answer(api, stream, Client { address, certificate: false }).await;
    };
    let acceptor = TlsAcceptor::from(Arc::clone(&tls.current().await.config));
    match timeout(HANDSHAKE_WITHIN, acceptor.accept(stream)).await {
        Ok(Ok(stream)) => {
            let certificate = stream.get_ref().1.peer_certificates().is_some_and(|chain| !chain.is_empty());
            answer(api, stream, Client { address, certificate }).await;
        }
        Ok(Err(error)) => debug!(%from, %error, "no TLS with a client of the REST API"),
        Err(_) => debug!(%from, "a client of the REST API did not finish its TLS handshake"),
    }
}

async fn answer<S: Store, T>(api: Arc<Api<S>>, stream: T, client: Client)
where
    T: AsyncRead + AsyncWrite + Unpin + Send + 'static,
{
    let service = service_fn(move |request| {
        let api = Arc::clone(&api);
        async move { Ok::<_, Infallible>(api.answer(client, request).await) }
    });
    let served = http1::Builder::new()
        .timer(TokioTimer::new())
        .header_read_timeout(ASK_WITHIN)
        .serve_connection(TokioIo::new(stream), service);
    if let Err(error) = served.await {
        debug!(client = %client.address, %error, "a connection to the REST API ended");
    }
}
