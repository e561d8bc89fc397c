//! The way of the ports from one process to the next, over the admin socket, so that a new version starts without a
//! moment in which nobody listens.
//!
//! The newcomer says its hello; it gets a document (its length in 4 bytes first) that names the sockets, and the
//! sockets themselves (SCM_RIGHTS, unix(7)). Both accept then. When the newcomer serves it says so, with one byte; the
//! predecessor stops accepting, answers with one byte, and drains. A newcomer that dies before leaves the predecessor
//! as it was.
//!
//! Blocking, for a thread of its own; every wait is bounded.

use std::io::{self, ErrorKind, IoSlice, IoSliceMut, Read, Write};
use std::mem::MaybeUninit;
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::net::UnixStream;
use std::path::Path;
use std::time::Duration;

use rustix::net::{
    RecvAncillaryBuffer, RecvAncillaryMessage, RecvFlags, SendAncillaryBuffer, SendAncillaryMessage,
    SendFlags, recvmsg, sendmsg, sockopt,
};
use serde::{Deserialize, Serialize};

use crate::endpoint::{Endpoint, Socket};
use crate::topology::Admission;

/// What a newcomer says first. No HTTP request begins so.
pub(crate) const HELLO: &[u8] = b"PGVANE-TAKE-OVER 1\n";

/// The newcomer serves.
const SERVES: u8 = b'R';

/// The predecessor accepts no more.
const GONE: u8 = b'G';

/// Bound on each wait but the one for the newcomer to serve.
const PATIENCE: Duration = Duration::from_secs(5);

/// Bound on the wait for the newcomer to serve: it may have to wait for the store.
const UNTIL_IT_SERVES: Duration = Duration::from_mins(1);

/// Sockets sent at a time; the kernel takes 253 (SCM_MAX_FD).
const AT_ONCE: usize = 64;

/// Longest document, in bytes.
const MAX_DOCUMENT: u32 = 1 << 20;

/// What goes with the sockets.
#[derive(Clone, PartialEq, Eq, Debug, Default, Serialize, Deserialize)]
pub(crate) struct Offer {
    /// Who hands over, for the log.
    pub(crate) version: String,
    pub(crate) pid: u32,
    /// Where each socket listens, as the settings write it.
    endpoints: Vec<String>,
    /// What operators have set aside.
    #[serde(default)]
    pub(crate) set_aside: Vec<SetAside>,
}

/// One target that an operator has set aside.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub(crate) struct SetAside {
    pub(crate) cluster: String,
    pub(crate) target: String,
    pub(crate) admission: Admission,
}

impl Offer {
    pub(crate) fn new(set_aside: Vec<SetAside>) -> Offer {
        let version = env!("CARGO_PKG_VERSION").to_owned();
        Offer { version, pid: std::process::id(), endpoints: vec![], set_aside }
    }
}

/// The process whose sockets we have; it goes on until it hears that we serve.
#[derive(Debug)]
pub struct Predecessor {
    stream: UnixStream,
    pub(crate) offer: Offer,
}

impl Predecessor {
    /// Says that we serve, and waits until nobody else accepts.
    pub(crate) fn relieve(mut self) -> io::Result<()> {
        self.stream.write_all(&[SERVES])?;
        let mut answer = [0];
        self.stream.read_exact(&mut answer)?;
        if answer == [GONE] { Ok(()) } else { Err(invalid("it answered something else")) }
    }
}

fn invalid(why: &str) -> io::Error {
    io::Error::new(ErrorKind::InvalidData, why)
}

/// Sockets that were passed on, by where they listen as the settings write it.
pub type Passed = Vec<(Endpoint, OwnedFd)>;

/// Asks whoever listens on the admin socket at `path` for its sockets. `None`: nobody does.
pub fn take_over(path: &Path) -> io::Result<Option<(Predecessor, Passed)>> {
    let mut stream = match UnixStream::connect(path) {
        Ok(stream) => stream,
        Err(error) if matches!(error.kind(), ErrorKind::NotFound | ErrorKind::ConnectionRefused) => {
            return Ok(None);
        }
        Err(error) => return Err(error),
    };
    stream.set_read_timeout(Some(PATIENCE))?;
    stream.set_write_timeout(Some(PATIENCE))?;
    stream.write_all(HELLO)?;
    let mut length = [0; 4];
    stream.read_exact(&mut length)?;
    let length = u32::from_be_bytes(length);
    if length > MAX_DOCUMENT {
        return Err(invalid("it does not hand over sockets"));
    }
    let mut document = vec![0; length as usize];
    stream.read_exact(&mut document)?;
    let offer: Offer = serde_json::from_slice(&document)?;
    let mut sockets = Vec::new();
    while sockets.len() < offer.endpoints.len() {
        receive(&stream, &mut sockets)?;
    }
    let endpoint = |text: &String| text.parse().map_err(|_| invalid("an endpoint that cannot be read"));
    let endpoints: Vec<Endpoint> = offer.endpoints.iter().map(endpoint).collect::<Result<_, _>>()?;
    Ok(Some((Predecessor { stream, offer }, endpoints.into_iter().zip(sockets).collect())))
}

/// One byte and the sockets that come with it.
fn receive(stream: &UnixStream, sockets: &mut Vec<OwnedFd>) -> io::Result<()> {
    let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(AT_ONCE))];
    let mut ancillary = RecvAncillaryBuffer::new(&mut space);
    let mut byte = [0];
    let slices = &mut [IoSliceMut::new(&mut byte)];
    let got = recvmsg(stream, slices, &mut ancillary, RecvFlags::CMSG_CLOEXEC)?;
    let before = sockets.len();
    for message in ancillary.drain() {
        if let RecvAncillaryMessage::ScmRights(descriptors) = message {
            sockets.extend(descriptors);
        }
    }
    if got.bytes == 0 || sockets.len() == before {
        return Err(ErrorKind::UnexpectedEof.into());
    }
    Ok(())
}

/// What is handed over, and how the predecessor is told to let go.
pub(crate) struct HandOver {
    pub(crate) offer: Offer,
    pub(crate) sockets: Vec<(Endpoint, Socket)>,
}

/// A newcomer that serves, and waits to hear that nobody else accepts.
#[derive(Debug)]
pub(crate) struct Successor {
    stream: UnixStream,
    /// Its process.
    pub(crate) pid: i32,
}

impl Successor {
    /// Says that we accept no more.
    pub(crate) fn let_go(mut self) {
        // One that has died since is seen by whoever watches over it.
        let _ = self.stream.write_all(&[GONE]);
    }
}

/// Hands over to who is at the other end, which has said its hello; returns when it serves.
pub(crate) fn hand_over(mut stream: UnixStream, mut this: HandOver) -> io::Result<Successor> {
    stream.set_nonblocking(false)?;
    stream.set_read_timeout(Some(UNTIL_IT_SERVES))?;
    stream.set_write_timeout(Some(PATIENCE))?;
    let mut hello = [0; HELLO.len()];
    stream.read_exact(&mut hello)?;
    this.offer.endpoints = this.sockets.iter().map(|(endpoint, _)| endpoint.to_string()).collect();
    let document = serde_json::to_vec(&this.offer)?;
    let length = u32::try_from(document.len()).map_err(io::Error::other)?;
    stream.write_all(&[&length.to_be_bytes()[..], &document].concat())?;
    for sockets in this.sockets.chunks(AT_ONCE) {
        let descriptors: Vec<_> = sockets.iter().map(|(_, socket)| socket.as_fd()).collect();
        let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(AT_ONCE))];
        let mut ancillary = SendAncillaryBuffer::new(&mut space);
        if !ancillary.push(SendAncillaryMessage::ScmRights(&descriptors)) {
            return Err(io::Error::other("the sockets do not fit into one message"));
        }
        sendmsg(&stream, &[IoSlice::new(b"S")], &mut ancillary, SendFlags::NOSIGNAL)?;
    }
    let mut answer = [0];
    stream.read_exact(&mut answer)?;
    if answer != [SERVES] {
        return Err(invalid("it answered something else"));
    }
    let pid = sockopt::socket_peercred(&stream)?.pid.as_raw_nonzero().get();
    Ok(Successor { stream, pid })
}

#[cfg(test)]
mod tests {
    use std::net::TcpListener;
    use std::os::unix::net::UnixListener;
    use std::thread;

    use super::*;

    fn listening(count: usize) -> Vec<(Endpoint, Socket)> {
        let one = |_| {
            let listener = TcpListener::bind("127.0.0.1:0").expect("a port");
            (Endpoint::Tcp(listener.local_addr().expect("bound")), Socket::Tcp(listener))
        };
        (0..count).map(one).collect()
    }

    #[test]
    fn sockets_pass_and_the_predecessor_hears_that_they_are_served() {
        let dir = tempfile::tempdir().expect("a directory");
        let path = dir.path().join("admin.sock");
        let listener = UnixListener::bind(&path).expect("a free path");
        let sockets = listening(AT_ONCE + 3);
        let endpoints: Vec<_> = sockets.iter().map(|(endpoint, _)| endpoint.clone()).collect();
        let set_aside =
            vec![SetAside { cluster: "main".into(), target: "pg2".into(), admission: Admission::Draining }];
        let offer = Offer::new(set_aside.clone());
        let old = thread::spawn(move || {
            let (stream, _) = listener.accept().expect("a newcomer");
            let successor = hand_over(stream, HandOver { offer, sockets }).expect("it serves");
            assert_eq!(successor.pid, i32::try_from(std::process::id()).expect("a pid"));
            successor.let_go();
        });
        let (predecessor, taken) = take_over(&path).expect("handed over").expect("somebody listens");
        assert_eq!(predecessor.offer.set_aside, set_aside);
        for ((endpoint, fd), wanted) in taken.into_iter().zip(endpoints) {
            assert_eq!(endpoint, wanted);
            let listener = TcpListener::from(fd);
            assert_eq!(Endpoint::Tcp(listener.local_addr().expect("bound")), wanted, "it is that socket");
        }
        predecessor.relieve().expect("the predecessor lets go");
        old.join().expect("does not panic");
    }

    #[test]
    fn a_newcomer_that_dies_changes_nothing_and_nobody_is_not_an_error() {
        let dir = tempfile::tempdir().expect("a directory");
        let path = dir.path().join("admin.sock");
        assert!(take_over(&path).expect("no error").is_none());
        let listener = UnixListener::bind(&path).expect("a free path");
        let old = thread::spawn(move || {
            let (stream, _) = listener.accept().expect("a newcomer");
            hand_over(stream, HandOver { offer: Offer::new(vec![]), sockets: listening(1) })
        });
        drop(take_over(&path).expect("handed over"));
        old.join().expect("does not panic").expect_err("it never served");
        assert!(take_over(&path).expect("no error").is_none(), "nobody listens any more");
    }
}
