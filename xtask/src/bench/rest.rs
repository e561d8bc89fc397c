//! The REST address of an agent, as far as a health check asks: am I the primary?

use std::io::{Read, Write};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;
use std::time::Duration;

/// A thread that answers until this is dropped.
#[derive(Debug)]
pub(super) struct Rest {
    address: SocketAddr,
    shared: Arc<Shared>,
}

#[derive(Debug, Default)]
struct Shared {
    is_primary: AtomicBool,
    is_over: AtomicBool,
}

impl Rest {
    pub(super) fn start(is_primary: bool) -> Result<Rest, String> {
        let listener = TcpListener::bind("127.0.0.1:0").map_err(|e| format!("no port for REST: {e}"))?;
        let address = listener.local_addr().map_err(|e| e.to_string())?;
        let shared = Arc::new(Shared { is_primary: is_primary.into(), is_over: false.into() });
        let theirs = Arc::clone(&shared);
        thread::spawn(move || {
            for stream in listener.incoming() {
                if theirs.is_over.load(Ordering::Relaxed) {
                    return;
                }
                // Who goes away without reading will ask again.
                let _ = stream.and_then(|stream| answer(stream, theirs.is_primary.load(Ordering::Relaxed)));
            }
        });
        Ok(Rest { address, shared })
    }

    pub(super) fn address(&self) -> SocketAddr {
        self.address
    }

    pub(super) fn set_primary(&self, is_primary: bool) {
        self.shared.is_primary.store(is_primary, Ordering::Relaxed);
    }
}

impl Drop for Rest {
    fn drop(&mut self) {
        self.shared.is_over.store(true, Ordering::Relaxed);
        // Wakes the thread.
        let _ = TcpStream::connect(self.address);
    }
}

fn answer(mut stream: TcpStream, is_primary: bool) -> std::io::Result<()> {
    stream.set_read_timeout(Some(Duration::from_secs(1)))?;
    let _ = stream.read(&mut [0; 1024])?;
    let status = if is_primary { "200 OK" } else { "503 Service Unavailable" };
    write!(stream, "HTTP/1.0 {status}\r\nContent-Length: 0\r\nConnection: close\r\n\r\n")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_answer_follows_the_role() {
        let rest = Rest::start(true).expect("starts");
        let ask = || {
            let mut stream = TcpStream::connect(rest.address()).expect("connects");
            stream.write_all(b"OPTIONS /primary HTTP/1.0\r\n\r\n").expect("writes");
            let mut text = String::new();
            stream.read_to_string(&mut text).expect("an answer");
            text
        };
        assert!(ask().starts_with("HTTP/1.0 200"));
        rest.set_primary(false);
        assert!(ask().starts_with("HTTP/1.0 503"));
    }
}
