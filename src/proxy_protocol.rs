//! The PROXY protocol, versions 1 and 2: who the client behind another proxy is
//! (HAProxy's `doc/proxy-protocol.txt`; section numbers below are its).
//!
//! Pure: bytes in, values out, no sockets. Whom to believe is the caller's business.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};

/// Longest line of version 1, in bytes, its CRLF included (2.1).
pub const MAX_V1: usize = 107;

/// Longest header of version 2 that is read, in bytes. Addresses take 232 at most; the rest is for what other
/// proxies add (TLS details, an authority, an id), of which the protocol itself would allow 64 KiB.
pub const MAX_V2: usize = 4_096;

const V1_START: &[u8] = b"PROXY ";
const V2_SIGNATURE: &[u8] = b"\r\n\r\n\0\r\nQUIT\n";
/// Bytes of version 2 before the addresses.
const V2_FIXED: usize = 16;
const V2_LOCAL: u8 = 0x20;
const V2_PROXY: u8 = 0x21;
const TCP4: u8 = 0x11;
const TCP6: u8 = 0x21;

/// How far a header has come.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum HeaderRead {
    /// More bytes are needed to go on.
    NeedMore,
    /// The header is whole.
    Whole {
        /// Where the client connects from; an IPv4 address in IPv6 form is given as IPv4. `None` where the header
        /// names no TCP client: version 1 UNKNOWN, version 2 LOCAL, and all but TCP over IPv4 and IPv6. The
        /// connection's own address counts then.
        source: Option<SocketAddr>,
        /// Bytes of the header; the client's own follow.
        size: usize,
    },
    /// This is no such header; the connection has to be closed.
    Malformed(&'static str),
}

/// Looks at the bytes a connection has brought so far.
///
/// What follows the addresses in version 2 (TLVs) is skipped, a checksum among it too.
pub fn header(bytes: &[u8]) -> HeaderRead {
    if begins(bytes, V2_SIGNATURE) {
        v2_header(bytes)
    } else if begins(bytes, V1_START) {
        v1_header(bytes)
    } else {
        HeaderRead::Malformed("the connection does not begin with a PROXY protocol header")
    }
}

/// Whether `bytes` begin with `start`, as far as there are any.
fn begins(bytes: &[u8], start: &[u8]) -> bool {
    bytes.iter().zip(start).all(|(seen, wanted)| seen == wanted)
}

fn v1_header(bytes: &[u8]) -> HeaderRead {
    let line = &bytes[..bytes.len().min(MAX_V1)];
    // Neither of the two may end the line alone, nor stand within it.
    match line.iter().position(|b| matches!(b, b'\r' | b'\n')) {
        Some(end) if line[end..].starts_with(b"\r\n") => match v1_source(&line[..end]) {
            Ok(source) => HeaderRead::Whole { source, size: end + 2 },
            Err(why) => HeaderRead::Malformed(why),
        },
        Some(end) if line[end] == b'\n' || bytes.len() > end + 1 => {
            HeaderRead::Malformed("the PROXY line does not end in CRLF")
        }
        None if bytes.len() >= MAX_V1 => HeaderRead::Malformed("the PROXY line is too long"),
        _ => HeaderRead::NeedMore,
    }
}

/// The source that a line without its CRLF names.
fn v1_source(line: &[u8]) -> Result<Option<SocketAddr>, &'static str> {
    let text = std::str::from_utf8(line).ok().filter(|text| text.is_ascii());
    let text = text.ok_or("the PROXY line is not ASCII")?;
    let words: Vec<&str> = text.split(' ').collect();
    let (source, destination) = match words[..] {
        // What follows UNKNOWN must be ignored, whatever it is.
        [_, "UNKNOWN", ..] => return Ok(None),
        [_, "TCP4", source, destination, _, _] => (v1_ip::<Ipv4Addr>(source), v1_ip::<Ipv4Addr>(destination)),
        [_, "TCP6", source, destination, _, _] => (v1_ip::<Ipv6Addr>(source), v1_ip::<Ipv6Addr>(destination)),
        [_, "TCP4" | "TCP6", ..] => return Err("the PROXY line has not two addresses and two ports"),
        _ => return Err("the PROXY line names neither TCP4 nor TCP6 nor UNKNOWN"),
    };
    let (Some(source), Some(_)) = (source, destination) else {
        return Err("the PROXY line has an address that is none of its family");
    };
    let (Some(port), Some(_)) = (v1_port(words[4]), v1_port(words[5])) else {
        return Err("the PROXY line has a port that is not 0 to 65535");
    };
    Ok(Some(SocketAddr::new(source.to_canonical(), port)))
}

/// The standard library refuses leading zeros in IPv4 addresses, as the protocol does.
fn v1_ip<T: std::str::FromStr + Into<IpAddr>>(text: &str) -> Option<IpAddr> {
    text.parse::<T>().ok().map(Into::into)
}

/// A port without sign and leading zeros.
fn v1_port(text: &str) -> Option<u16> {
    let plain = text.bytes().all(|b| b.is_ascii_digit()) && (text == "0" || !text.starts_with('0'));
    text.parse().ok().filter(|_| plain)
}

fn v2_header(bytes: &[u8]) -> HeaderRead {
    let Some(&command) = bytes.get(12) else { return HeaderRead::NeedMore };
    if !matches!(command, V2_LOCAL | V2_PROXY) {
        return HeaderRead::Malformed("the PROXY header has an unknown version or command");
    }
    let Some(&family) = bytes.get(13) else { return HeaderRead::NeedMore };
    // The family of LOCAL is ignored, and whatever stands in the place of addresses.
    let addresses = match (command, family >> 4) {
        (V2_LOCAL, _) | (_, 0) => 0,
        (_, 1) => 12,
        (_, 2) => 36,
        (_, 3) => 216,
        _ => return HeaderRead::Malformed("the PROXY header has an unknown address family"),
    };
    if command == V2_PROXY && family & 0xf > 2 {
        return HeaderRead::Malformed("the PROXY header has an unknown transport");
    }
    let Some(length) = bytes.get(14..V2_FIXED) else { return HeaderRead::NeedMore };
    let size = length.iter().fold(0, |size, b| size << 8 | usize::from(*b)) + V2_FIXED;
    if size > MAX_V2 {
        return HeaderRead::Malformed("the PROXY header is too long");
    }
    if size < V2_FIXED + addresses {
        return HeaderRead::Malformed("the PROXY header is too short for its addresses");
    }
    let Some(body) = bytes.get(V2_FIXED..size) else { return HeaderRead::NeedMore };
    let source = match (command, family) {
        (V2_PROXY, TCP4) => v2_source::<4>(body),
        (V2_PROXY, TCP6) => v2_source::<16>(body),
        _ => None,
    };
    HeaderRead::Whole { source, size }
}

/// Two addresses of `N` bytes, then two ports.
fn v2_source<const N: usize>(body: &[u8]) -> Option<SocketAddr>
where
    IpAddr: From<[u8; N]>,
{
    let address: [u8; N] = body.first_chunk().copied()?;
    let port = body.get(2 * N..)?.first_chunk().copied()?;
    Some(SocketAddr::new(IpAddr::from(address).to_canonical(), u16::from_be_bytes(port)))
}

/// The header of version 2 that says that a client at `source` has connected to `destination`.
///
/// Without a source (a client on a Unix socket) it is LOCAL: the connection's own address counts. Where one of
/// the two is IPv4 and the other IPv6, the first is written in IPv6 form; a destination that is not known is the
/// family's unspecified address.
pub fn v2(source: Option<SocketAddr>, destination: Option<SocketAddr>) -> Vec<u8> {
    let mut bytes = V2_SIGNATURE.to_vec();
    let Some(source) = source else {
        bytes.extend([V2_LOCAL, 0, 0, 0]);
        return bytes;
    };
    let ip = source.ip().to_canonical();
    let unspecified = if ip.is_ipv4() { Ipv4Addr::UNSPECIFIED.into() } else { Ipv6Addr::UNSPECIFIED.into() };
    let (to, to_port) = destination.map_or((unspecified, 0), |d| (d.ip().to_canonical(), d.port()));
    bytes.push(V2_PROXY);
    if let (IpAddr::V4(from), IpAddr::V4(to)) = (ip, to) {
        bytes.extend([TCP4, 0, 12]);
        bytes.extend([from.octets(), to.octets()].as_flattened());
    } else {
        bytes.extend([TCP6, 0, 36]);
        bytes.extend([v6_form(ip).octets(), v6_form(to).octets()].as_flattened());
    }
    bytes.extend([source.port().to_be_bytes(), to_port.to_be_bytes()].as_flattened());
    bytes
}

fn v6_form(ip: IpAddr) -> Ipv6Addr {
    match ip {
        IpAddr::V4(v4) => v4.to_ipv6_mapped(),
        IpAddr::V6(v6) => v6,
    }
}

#[cfg(test)]
mod tests;
