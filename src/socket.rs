//! Socket options: how connections are kept honest, and how they are ended hard.

use std::fs::Permissions;
use std::io;
use std::net::{SocketAddr, TcpListener};
use std::os::unix::fs::{FileTypeExt, PermissionsExt};
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::Path;
use std::time::Duration;

use rustix::net::SendFlags;
use socket2::{Domain, Protocol, SockAddr, SockRef, Socket, TcpKeepalive, Type};
use tokio::net::{TcpSocket, TcpStream};

use crate::config::Tcp;

/// Connections the kernel keeps ready to be accepted; it lowers this to `net.core.somaxconn`.
const BACKLOG: i32 = 4096;

/// Binds and listens. IPv6 sockets are IPv6 only, so that `0.0.0.0:5432` and `[::]:5432` can both be bound.
/// Accepted sockets inherit the options of `tcp`: set once here, they cost nothing per connection.
pub(crate) fn listen(address: SocketAddr, tcp: &Tcp) -> io::Result<TcpListener> {
    let socket = Socket::new(Domain::for_address(address), Type::STREAM, Some(Protocol::TCP))?;
    if address.is_ipv6() {
        socket.set_only_v6(true)?;
    }
    // A restart must not wait for connections of its predecessor in TIME_WAIT.
    socket.set_reuse_address(true)?;
    socket.set_nonblocking(true)?;
    set_options(&SockRef::from(&socket), tcp)?;
    socket.bind(&address.into())?;
    socket.listen(BACKLOG)?;
    Ok(socket.into())
}

/// The same at a path, with these permissions. A socket that nobody listens on any more is replaced.
pub(crate) fn listen_at(path: &Path, mode: u32) -> io::Result<UnixListener> {
    let bind = || {
        let socket = Socket::new(Domain::UNIX, Type::STREAM, None)?;
        socket.set_nonblocking(true)?;
        socket.bind(&SockAddr::unix(path)?)?;
        Ok::<_, io::Error>(socket)
    };
    let socket = match bind() {
        Err(error) if error.kind() == io::ErrorKind::AddrInUse && is_abandoned(path) => {
            std::fs::remove_file(path)?;
            bind()?
        }
        bound => bound?,
    };
    // Before it listens: nobody connects while the permissions are others.
    std::fs::set_permissions(path, Permissions::from_mode(mode))?;
    socket.listen(BACKLOG)?;
    Ok(socket.into())
}

/// Whether a path is a socket on which nobody listens.
fn is_abandoned(path: &Path) -> bool {
    std::fs::symlink_metadata(path).is_ok_and(|file| file.file_type().is_socket())
        && UnixStream::connect(path).is_err_and(|error| error.kind() == io::ErrorKind::ConnectionRefused)
}

/// Whether a bind failed because the kernel has no IPv6 at all.
pub(crate) fn lacks_v6(error: &io::Error) -> bool {
    error.raw_os_error() == Some(rustix::io::Errno::AFNOSUPPORT.raw_os_error())
}

/// Sets the options of a connection to a server, before it is made.
pub(crate) fn tune(socket: &TcpSocket, tcp: &Tcp) -> io::Result<()> {
    // The client's packet follows at once and acknowledges the server's answer: one packet less.
    rustix::net::sockopt::set_tcp_quickack(socket, false)?;
    set_options(&SockRef::from(socket), tcp)
}

pub(crate) fn set_options(socket: &SockRef<'_>, tcp: &Tcp) -> io::Result<()> {
    socket.set_tcp_nodelay(true)?;
    let keepalive = TcpKeepalive::new()
        .with_time(tcp.keepalive_idle)
        .with_interval(tcp.keepalive_interval)
        .with_retries(tcp.keepalive_count);
    socket.set_tcp_keepalive(&keepalive)?;
    socket.set_tcp_user_timeout(Some(tcp.user_timeout).filter(|t| !t.is_zero()))
}

/// Sends what the end of the stream follows at once, as far as there is room: the kernel waits for the end, to send
/// both together.
pub(crate) fn send_before_end(stream: &TcpStream, bytes: &[u8]) -> io::Result<usize> {
    let flags = SendFlags::MORE | SendFlags::NOSIGNAL | SendFlags::DONTWAIT;
    Ok(rustix::net::send(stream, bytes, flags)?)
}

/// Makes the close that follows a reset: the peer hears at once, and nothing lingers in its kernel or ours.
pub(crate) fn reset_on_close(stream: &TcpStream) {
    // A socket that is gone already needs no reset.
    let _ = SockRef::from(stream).set_linger(Some(Duration::ZERO));
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::acceptor::Acceptor;
    use crate::conn::Conn;

    const TCP: Tcp = Tcp {
        keepalive_idle: Duration::from_secs(11),
        keepalive_interval: Duration::from_secs(5),
        keepalive_count: 4,
        user_timeout: Duration::from_secs(21),
    };

    #[tokio::test]
    async fn both_families_share_a_port() {
        let v4 = listen("0.0.0.0:0".parse().expect("an address"), &TCP).expect("IPv4");
        let port = v4.local_addr().expect("bound").port();
        match listen(SocketAddr::new(std::net::Ipv6Addr::UNSPECIFIED.into(), port), &TCP) {
            Ok(v6) => assert_eq!(v6.local_addr().expect("bound").port(), port),
            // A machine without IPv6 cannot show it; any other failure is one.
            Err(error) => assert!(lacks_v6(&error), "{error}"),
        }
    }

    #[tokio::test]
    async fn options_are_in_force_on_both_sides() {
        let listener = listen("127.0.0.1:0".parse().expect("an address"), &TCP).expect("bind");
        let dialled = TcpSocket::new_v4().expect("a socket");
        tune(&dialled, &TCP).expect("options");
        let dialled = dialled.connect(listener.local_addr().expect("bound")).await.expect("connect");
        let acceptor = Acceptor::new(crate::endpoint::Socket::Tcp(listener)).expect("registers");
        let (accepted, _) = acceptor.accept().await.expect("accepts");
        let Conn::Tcp(accepted) = Conn::try_from(accepted).expect("registers") else { panic!("not TCP") };
        for stream in [dialled, accepted] {
            let socket = SockRef::from(&stream);
            assert!(socket.tcp_nodelay().expect("readable") && socket.keepalive().expect("readable"));
            assert_eq!(socket.tcp_keepalive_time().expect("readable"), TCP.keepalive_idle);
            assert_eq!(socket.tcp_keepalive_interval().expect("readable"), TCP.keepalive_interval);
            assert_eq!(socket.tcp_keepalive_retries().expect("readable"), 4);
            assert_eq!(socket.tcp_user_timeout().expect("readable"), Some(TCP.user_timeout));
        }
    }

    #[test]
    fn a_path_is_taken_over_only_when_nobody_listens_there() {
        let dir = tempfile::tempdir().expect("a directory");
        let path = dir.path().join("s");
        let first = listen_at(&path, 0o640).expect("a free path");
        let mode = std::fs::metadata(&path).expect("it is there").permissions().mode();
        assert_eq!(mode & 0o777, 0o640);
        let error = listen_at(&path, 0o640).expect_err("somebody listens");
        assert_eq!(error.kind(), io::ErrorKind::AddrInUse);
        drop(first);
        drop(listen_at(&path, 0o640).expect("left behind"));
        std::fs::remove_file(&path).expect("it is there");
        std::fs::write(&path, "precious").expect("write");
        listen_at(&path, 0o640).expect_err("no socket");
        assert_eq!(std::fs::read_to_string(&path).expect("untouched"), "precious");
    }
}
