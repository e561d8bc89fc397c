//! PostgreSQL's protocol as far as the first packet of each side goes; everything later is bytes.
//!
//! Pure: bytes in, values out, no sockets. It knows no topology and never sees a query.

/// Longest startup packet PostgreSQL accepts, in bytes (`MAX_STARTUP_PACKET_LENGTH`).
pub const MAX_FIRST_PACKET: usize = 10_000;

/// Longest first server message that is read whole to look for an SQLSTATE, in bytes. A longer one is passed
/// on unread: an error that says "not now" is far shorter.
pub const MAX_FIRST_ANSWER: usize = 8_192;

/// "cannot connect now": starting up, shutting down or in recovery. Clients may try again.
pub const CANNOT_CONNECT_NOW: &str = "57P03";

/// What a server that goes down says to those it was just letting in: "admin shutdown", "crash shutdown".
const GOING_DOWN: [&str; 2] = [ADMIN_SHUTDOWN, "57P02"];

/// "admin shutdown": the session is over through no fault of its own, and may be opened again.
pub const ADMIN_SHUTDOWN: &str = "57P01";

/// "too many connections".
pub const TOO_MANY_CONNECTIONS: &str = "53300";

/// "protocol violation".
pub const PROTOCOL_VIOLATION: &str = "08P01";

/// "invalid authorization specification": what a server says to a client from where, or as which, it takes nobody.
pub const NOT_ALLOWED: &str = "28000";

const SSL_REQUEST: u32 = 80_877_103;
/// The request for TLS, whole ("SSLRequest").
pub(crate) const SSL_REQUEST_PACKET: [u8; 8] = [0, 0, 0, 8, 0x04, 0xd2, 0x16, 0x2f];

const GSSENC_REQUEST: u32 = 80_877_104;
const CANCEL_REQUEST: u32 = 80_877_102;
/// The first byte of a TLS handshake record, sent by `sslnegotiation=direct`.
pub(crate) const TLS_HANDSHAKE: u8 = 0x16;

/// What the first packet of a client asks for.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum FirstPacket {
    /// A session in plain text.
    Startup,
    /// TLS, when the server agrees (one byte answers).
    SslRequest,
    /// GSSAPI encryption, when the server agrees (one byte answers).
    GssEncRequest,
    /// The running query of another session shall be cancelled; nothing answers.
    Cancel,
    /// TLS at once, without asking; opaque from here on.
    DirectTls,
}

/// How far a first packet has come.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum FirstRead {
    /// More bytes are needed to go on.
    NeedMore,
    /// The packet is whole; it has this many bytes.
    Whole(FirstPacket, usize),
    /// This is not PostgreSQL's protocol, or an unknown version of it.
    Malformed(&'static str),
}

/// Looks at the bytes a client has sent so far.
pub fn first_packet(bytes: &[u8]) -> FirstRead {
    if bytes.first() == Some(&TLS_HANDSHAKE) {
        return FirstRead::Whole(FirstPacket::DirectTls, bytes.len());
    }
    let Some(length) = be_u32(bytes, 0) else { return FirstRead::NeedMore };
    let length = length as usize;
    if !(8..=MAX_FIRST_PACKET).contains(&length) {
        return FirstRead::Malformed("the first packet has an impossible length");
    }
    let Some(code) = be_u32(bytes, 4) else { return FirstRead::NeedMore };
    let fixed = |packet, size| {
        if length == size { Ok(packet) } else { Err("a request packet has a wrong length") }
    };
    let packet = match code {
        SSL_REQUEST => fixed(FirstPacket::SslRequest, 8),
        GSSENC_REQUEST => fixed(FirstPacket::GssEncRequest, 8),
        // Protocol 3.2 allows cancel keys of 4 to 256 bytes.
        CANCEL_REQUEST if (16..=268).contains(&length) => Ok(FirstPacket::Cancel),
        CANCEL_REQUEST => Err("a cancel request has a wrong length"),
        // Minor versions are the server's business: it negotiates them.
        _ if code >> 16 == 3 => Ok(FirstPacket::Startup),
        _ => Err("the first packet asks for an unknown protocol version"),
    };
    match packet {
        Err(why) => FirstRead::Malformed(why),
        Ok(_) if bytes.len() < length => FirstRead::NeedMore,
        Ok(packet) => FirstRead::Whole(packet, length),
    }
}

/// How far the server's first message has come.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum FirstAnswer {
    /// More bytes are needed to tell.
    NeedMore,
    /// The server cannot take connections now (57P03), or is going down: nothing of this needs to reach the
    /// client. The text is the server's message.
    NotNow(String),
    /// Anything else: pass it on.
    PassOn,
}

/// Looks at the bytes a server has sent so far in answer to a startup packet.
///
/// A server that trusts the client sends `AuthenticationOk` together with what follows, so that message is
/// looked past: a server that goes down at this moment can still be kept from the client.
pub fn first_answer(bytes: &[u8]) -> FirstAnswer {
    const AUTHENTICATION_OK: &[u8] = b"R\0\0\0\x08\0\0\0\0";
    let bytes = bytes.strip_prefix(AUTHENTICATION_OK).unwrap_or(bytes);
    let Some(&kind) = bytes.first() else { return FirstAnswer::NeedMore };
    if kind == b'R' && AUTHENTICATION_OK.starts_with(bytes) {
        return FirstAnswer::NeedMore;
    }
    if kind != b'E' {
        return FirstAnswer::PassOn;
    }
    let Some(length) = be_u32(bytes, 1) else { return FirstAnswer::NeedMore };
    let whole = (length as usize).saturating_add(1);
    if !(5..=MAX_FIRST_ANSWER).contains(&whole) {
        return FirstAnswer::PassOn;
    }
    let Some(message) = bytes.get(5..whole) else { return FirstAnswer::NeedMore };
    let code = error_field(message, b'C').and_then(|code| std::str::from_utf8(code).ok()).unwrap_or_default();
    if code == CANNOT_CONNECT_NOW || GOING_DOWN.contains(&code) {
        let text = error_field(message, b'M').unwrap_or_default();
        FirstAnswer::NotNow(String::from_utf8_lossy(text).into_owned())
    } else {
        FirstAnswer::PassOn
    }
}

/// Follows a server's stream from message to message, so that something can be said between two of them.
///
/// A message is a type byte and a length that counts itself (protocol section "Messages").
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Framing {
    /// Within a header, of which this many bytes have been seen, the length among them as far as it goes.
    Header {
        /// 0 to 4; 0 is between two messages.
        seen: u8,
        /// The length's bytes so far.
        length: u32,
    },
    /// Within a body that has this many more bytes.
    Body(u32),
    /// Nobody knows: bytes went by unseen, or are no messages.
    Lost,
}

impl Framing {
    /// Before the first message.
    pub const START: Framing = Framing::Header { seen: 0, length: 0 };

    /// Whether the stream is between two messages.
    pub const fn is_between(self) -> bool {
        matches!(self, Framing::Header { seen: 0, .. })
    }

    /// After a header with this length.
    const fn before_body(length: u32) -> Framing {
        match length.checked_sub(4) {
            None => Framing::Lost,
            Some(0) => Framing::START,
            Some(body) => Framing::Body(body),
        }
    }

    /// Where the stream is after these bytes.
    #[must_use]
    pub fn after(mut self, mut bytes: &[u8]) -> Framing {
        loop {
            self = match self {
                Framing::Lost => return Framing::Lost,
                Framing::Body(left) => {
                    let here = u32::try_from(bytes.len()).unwrap_or(u32::MAX).min(left);
                    bytes = &bytes[here as usize..];
                    if here < left {
                        return Framing::Body(left - here);
                    }
                    Framing::START
                }
                // Most headers come whole.
                Framing::Header { seen: 0, .. } if bytes.len() >= 5 => {
                    let length = be_u32(bytes, 1).unwrap_or(0);
                    bytes = &bytes[5..];
                    Framing::before_body(length)
                }
                Framing::Header { seen, length } => {
                    let Some((first, rest)) = bytes.split_first() else { return self };
                    bytes = rest;
                    match seen {
                        0 => Framing::Header { seen: 1, length: 0 },
                        1..4 => Framing::Header { seen: seen + 1, length: length << 8 | u32::from(*first) },
                        _ => Framing::before_body(length << 8 | u32::from(*first)),
                    }
                }
            };
        }
    }
}

/// One field of an `ErrorResponse` body: a type byte, text, a zero byte, again and again.
fn error_field(body: &[u8], field: u8) -> Option<&[u8]> {
    body.split(|b| *b == 0)
        .find_map(|part| part.split_first().filter(|(kind, _)| **kind == field))
        .map(|(_, v)| v)
}

/// An `ErrorResponse` with severity FATAL, as a server sends it before it closes.
pub fn fatal(sqlstate: &str, message: &str) -> Vec<u8> {
    let mut body = Vec::with_capacity(message.len() + 48);
    for (field, text) in [(b'S', "FATAL"), (b'V', "FATAL"), (b'C', sqlstate), (b'M', message)] {
        body.push(field);
        body.extend(text.bytes().filter(|b| *b != 0));
        body.push(0);
    }
    body.push(0);
    let mut packet = vec![b'E'];
    packet.extend(u32::try_from(body.len() + 4).unwrap_or(u32::MAX).to_be_bytes());
    packet.append(&mut body);
    packet
}

fn be_u32(bytes: &[u8], at: usize) -> Option<u32> {
    Some(u32::from_be_bytes(bytes.get(at..at + 4)?.try_into().ok()?))
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn packet(code: u32, rest: &[u8]) -> Vec<u8> {
        let length = u32::try_from(rest.len() + 8).expect("a short packet");
        [&length.to_be_bytes()[..], &code.to_be_bytes(), rest].concat()
    }

    #[test]
    fn every_kind_of_first_packet() {
        let cases = [
            (packet(196_608, b"user\0app\0\0"), FirstPacket::Startup),
            (packet(196_610, b"user\0app\0\0"), FirstPacket::Startup),
            (packet(SSL_REQUEST, b""), FirstPacket::SslRequest),
            (packet(GSSENC_REQUEST, b""), FirstPacket::GssEncRequest),
            (packet(CANCEL_REQUEST, &[0; 8]), FirstPacket::Cancel),
            (packet(CANCEL_REQUEST, &[0; 36]), FirstPacket::Cancel),
            (vec![0x16, 3, 1], FirstPacket::DirectTls),
        ];
        for (bytes, expected) in cases {
            assert_eq!(first_packet(&bytes), FirstRead::Whole(expected, bytes.len()), "{bytes:?}");
        }
    }

    #[test]
    fn a_packet_in_pieces_asks_for_the_rest() {
        let whole = packet(196_608, b"user\0app\0\0");
        for end in 0..whole.len() {
            assert_eq!(first_packet(&whole[..end]), FirstRead::NeedMore, "{end} bytes");
        }
        let more = [&whole[..], b"early"].concat();
        assert_eq!(first_packet(&more), FirstRead::Whole(FirstPacket::Startup, whole.len()));
    }

    #[test]
    fn what_is_not_postgresql_is_refused() {
        let long = u32::try_from(MAX_FIRST_PACKET + 1).expect("small").to_be_bytes();
        for bad in [
            b"GET / HTTP/1.1\r\n".to_vec(),
            [&long[..], &[0, 3, 0, 0]].concat(),
            packet(131_072, b"x"),
            packet(SSL_REQUEST, b"x"),
            packet(CANCEL_REQUEST, b"x"),
            vec![0, 0, 0, 7],
        ] {
            assert!(matches!(first_packet(&bad), FirstRead::Malformed(_)), "{bad:?}");
        }
    }

    #[test]
    fn only_cannot_connect_now_is_kept_from_the_client() {
        let starting = fatal(CANNOT_CONNECT_NOW, "the database system is starting up");
        for end in 0..starting.len() {
            assert_eq!(first_answer(&starting[..end]), FirstAnswer::NeedMore, "{end} bytes");
        }
        let said = FirstAnswer::NotNow("the database system is starting up".to_owned());
        assert_eq!(first_answer(&starting), said);
        assert_eq!(first_answer(&fatal("28P01", "57P03")), FirstAnswer::PassOn);
        assert_eq!(first_answer(b"R\0\0\0\x0a\0\0\0\x0a"), FirstAnswer::PassOn);
        assert_eq!(first_answer(b"E\xff\xff\xff\xff"), FirstAnswer::PassOn);
    }

    #[test]
    fn a_server_that_goes_down_while_it_lets_a_client_in() {
        let ok = b"R\0\0\0\x08\0\0\0\0";
        for end in 0..=ok.len() {
            assert_eq!(first_answer(&ok[..end]), FirstAnswer::NeedMore, "{end} bytes");
        }
        let down = [&ok[..], &fatal("57P01", "terminating connection")].concat();
        assert_eq!(first_answer(&down), FirstAnswer::NotNow("terminating connection".to_owned()));
        assert_eq!(first_answer(&[&ok[..], b"S"].concat()), FirstAnswer::PassOn);
        assert_eq!(
            first_answer(&[&ok[..], &fatal("3D000", "no such database")].concat()),
            FirstAnswer::PassOn
        );
    }

    #[test]
    fn a_fatal_message_is_framed_as_servers_do() {
        let bytes = fatal("57P03", "wait");
        assert_eq!(bytes, b"E\0\0\0\x20SFATAL\0VFATAL\0C57P03\0Mwait\0\0");
        assert_eq!(be_u32(&bytes, 1), Some(u32::try_from(bytes.len() - 1).expect("short")));
    }

    #[test]
    fn what_is_no_message_loses_the_thread() {
        assert_eq!(Framing::START.after(b"Z\0\0\0\x03"), Framing::Lost);
        assert_eq!(Framing::Lost.after(b"Z\0\0\0\x05I"), Framing::Lost);
    }

    proptest! {
        #[test]
        fn framing_knows_every_place_between_two_messages(
            bodies in proptest::collection::vec(proptest::collection::vec(any::<u8>(), 0..40), 0..20),
            cuts in proptest::collection::vec(1_usize..60, 1..40),
        ) {
            let mut stream = vec![];
            let mut between = vec![0];
            for body in &bodies {
                let length = u32::try_from(body.len() + 4).expect("short");
                stream.extend([&[b'D'][..], &length.to_be_bytes(), body].concat());
                between.push(stream.len());
            }
            let (mut framing, mut at) = (Framing::START, 0);
            for cut in cuts.iter().cycle() {
                prop_assert_eq!(framing.is_between(), between.contains(&at), "at {}", at);
                if at == stream.len() {
                    break;
                }
                let end = (at + cut).min(stream.len());
                framing = framing.after(&stream[at..end]);
                at = end;
            }
        }

        #[test]
        fn no_bytes_panic(bytes in proptest::collection::vec(any::<u8>(), 0..400)) {
            let _ = first_packet(&bytes);
            let _ = first_answer(&bytes);
        }

        #[test]
        fn no_startup_packet_panics(
            code in any::<u32>(),
            length in any::<u32>(),
            rest in proptest::collection::vec(any::<u8>(), 0..300),
        ) {
            let bytes = [&length.to_be_bytes()[..], &code.to_be_bytes(), &rest].concat();
            if let FirstRead::Whole(_, size) = first_packet(&bytes) {
                prop_assert!(size <= bytes.len());
            }
        }

        #[test]
        fn our_own_errors_are_read_back(message in "[^\\x00]{0,200}") {
            let said = FirstAnswer::NotNow(message.clone());
            prop_assert_eq!(first_answer(&fatal(CANNOT_CONNECT_NOW, &message)), said);
        }
    }
}
