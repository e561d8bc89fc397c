//! A client that speaks the first words of PostgreSQL's protocol.

use std::io;
use std::net::SocketAddr;

use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};
use tokio::net::TcpStream;

use super::soon;

pub(crate) const SSL_REQUEST: u32 = 80_877_103;
pub(crate) const GSSENC_REQUEST: u32 = 80_877_104;
pub(crate) const CANCEL_REQUEST: u32 = 80_877_102;

/// How a server met it.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(crate) enum Welcome {
    /// Let in by the server of this name.
    In(String),
    /// SQLSTATE and message.
    Error(String, String),
    /// Closed or reset without a message.
    Nothing,
}

pub(crate) struct Client<S = TcpStream>(pub(crate) S);

/// A packet without a type byte, as the first ones are.
pub(crate) fn packet(code: u32, rest: &[u8]) -> Vec<u8> {
    let length = u32::try_from(rest.len() + 8).expect("short");
    [&length.to_be_bytes()[..], &code.to_be_bytes(), rest].concat()
}

impl Client {
    pub(crate) async fn connect(address: SocketAddr) -> Client {
        Client(soon("a TCP connection", TcpStream::connect(address)).await.expect("the proxy accepts"))
    }

    /// Connects and is let in; answers by whom.
    pub(crate) async fn enter(address: SocketAddr) -> (Client, String) {
        let mut client = Client::connect(address).await;
        let name = client.be_let_in().await;
        (client, name)
    }
}

impl<S: AsyncRead + AsyncWrite + Unpin> Client<S> {
    /// Says hello and is let in; answers by whom.
    pub(crate) async fn be_let_in(&mut self) -> String {
        self.say_hello().await;
        match self.welcome().await {
            Welcome::In(name) => name,
            other => panic!("not let in: {other:?}"),
        }
    }

    pub(crate) async fn send(&mut self, bytes: &[u8]) {
        soon("room to write", self.0.write_all(bytes)).await.expect("write");
        soon("room to write", self.0.flush()).await.expect("write");
    }

    pub(crate) async fn say_hello(&mut self) {
        self.send(&packet(196_608, b"user\0app\0database\0app\0\0")).await;
    }

    /// Asks for encryption; answers the byte.
    pub(crate) async fn ask_for(&mut self, code: u32) -> u8 {
        self.send(&packet(code, b"")).await;
        soon("a yes or no to encryption", self.0.read_u8()).await.expect("a byte")
    }

    /// Reads until it is let in or not.
    pub(crate) async fn welcome(&mut self) -> Welcome {
        soon("an answer to the startup packet", self.read_welcome()).await.unwrap_or(Welcome::Nothing)
    }

    async fn read_welcome(&mut self) -> io::Result<Welcome> {
        let mut name = String::new();
        loop {
            let kind = self.0.read_u8().await?;
            let length = self.0.read_u32().await? as usize;
            let mut body = vec![0; length.saturating_sub(4)];
            self.0.read_exact(&mut body).await?;
            match kind {
                b'S' => {
                    let text = String::from_utf8_lossy(&body).into_owned();
                    text.split('\0').nth(1).unwrap_or_default().clone_into(&mut name);
                }
                b'Z' => return Ok(Welcome::In(name)),
                b'E' => {
                    let text = String::from_utf8_lossy(&body).into_owned();
                    let field = |kind| {
                        text.split('\0').find_map(|f| f.strip_prefix(kind)).unwrap_or_default().to_owned()
                    };
                    return Ok(Welcome::Error(field('C'), field('M')));
                }
                _ => {}
            }
        }
    }

    /// Is told that its session is over and why, and closed; answers what it is told.
    pub(crate) async fn is_cut(&mut self) -> String {
        match self.welcome().await {
            Welcome::Error(code, text) if code == "57P01" => {
                assert_eq!(self.rest().await, b"");
                text
            }
            other => panic!("not told that it is cut: {other:?}"),
        }
    }

    /// Sends bytes and expects them back.
    pub(crate) async fn echo(&mut self, bytes: &[u8]) {
        let mut back = vec![0; bytes.len()];
        let (mut read, mut write) = tokio::io::split(&mut self.0);
        let there_and_back = async {
            let there = async {
                write.write_all(bytes).await?;
                write.flush().await
            };
            tokio::try_join!(there, read.read_exact(&mut back))
        };
        soon("an echo", there_and_back).await.expect("it comes back");
        assert!(back == bytes, "the echo differs");
    }

    /// Reads to the end; answers what came before it.
    pub(crate) async fn rest(&mut self) -> Vec<u8> {
        let mut rest = vec![];
        // A reset ends it as well as a close does.
        let _ = soon("the end of the connection", self.0.read_to_end(&mut rest)).await;
        rest
    }
}
