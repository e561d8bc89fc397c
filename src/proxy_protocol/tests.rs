use proptest::prelude::*;

use super::*;

fn addr(text: &str) -> SocketAddr {
    text.parse().expect("an address and a port")
}

fn whole(source: Option<&str>, size: usize) -> HeaderRead {
    HeaderRead::Whole { source: source.map(addr), size }
}

/// A header of version 2 with this body.
fn binary(command: u8, family: u8, body: &[u8]) -> Vec<u8> {
    let length = u16::try_from(body.len()).expect("short").to_be_bytes();
    [V2_SIGNATURE, &[command, family], &length, body].concat()
}

/// The lines of the specification: its example and its longest (2.1).
#[test]
fn lines_that_are_right() {
    let v6 = "ffff:ffff:ffff:ffff:ffff:ffff:ffff:ffff";
    let cases = [
        ("PROXY TCP4 192.168.0.1 192.168.0.11 56324 443\r\n".to_owned(), 47, Some("192.168.0.1:56324")),
        (
            "PROXY TCP4 255.255.255.255 255.255.255.255 65535 65535\r\n".to_owned(),
            56,
            Some("255.255.255.255:65535"),
        ),
        (
            format!("PROXY TCP6 {v6} {v6} 65535 65535\r\n"),
            104,
            Some("[ffff:ffff:ffff:ffff:ffff:ffff:ffff:ffff]:65535"),
        ),
        ("PROXY UNKNOWN\r\n".to_owned(), 15, None),
        (format!("PROXY UNKNOWN {v6} {v6} 65535 65535\r\n"), 107, None),
        ("PROXY UNKNOWN  whatever there is, 1 2 3 4\r\n".to_owned(), 43, None),
        ("PROXY TCP6 2001:DB8::1 :: 0 1\r\n".to_owned(), 31, Some("[2001:db8::1]:0")),
        ("PROXY TCP6 ::ffff:10.1.2.3 ::1 9 1\r\n".to_owned(), 36, Some("10.1.2.3:9")),
    ];
    for (line, size, source) in cases {
        assert_eq!(header(line.as_bytes()), whole(source, size), "{line:?}");
        let more = format!("{line}\0\0\0\x08\x04\r\n");
        assert_eq!(header(more.as_bytes()), whole(source, size), "{more:?}");
    }
}

#[test]
fn lines_that_are_wrong() {
    for bad in [
        "GET / HTTP/1.1\r\n",
        "proxy TCP4 1.2.3.4 1.2.3.4 1 2\r\n",
        "PROXY  TCP4 1.2.3.4 1.2.3.4 1 2\r\n",
        "PROXY\r\n",
        "PROXY \r\n",
        "PROXY UNKNOWN2\r\n",
        "PROXY TCP5 1.2.3.4 1.2.3.4 1 2\r\n",
        "PROXY TCP4\r\n",
        "PROXY TCP4 1.2.3.4 1.2.3.4 1\r\n",
        "PROXY TCP4 1.2.3.4 1.2.3.4 1 2 3\r\n",
        "PROXY TCP4 1.2.3.4 1.2.3.4 1 2 \r\n",
        "PROXY TCP4 1.2.3.4  1.2.3.4 1 2\r\n",
        "PROXY TCP4 1.2.3 1.2.3.4 1 2\r\n",
        "PROXY TCP4 1.2.3.04 1.2.3.4 1 2\r\n",
        "PROXY TCP4 1.2.3.4 1.2.3.256 1 2\r\n",
        "PROXY TCP4 ::1 ::1 1 2\r\n",
        "PROXY TCP6 1.2.3.4 1.2.3.4 1 2\r\n",
        "PROXY TCP6 fe80::1%eth0 ::1 1 2\r\n",
        "PROXY TCP6 [::1] ::1 1 2\r\n",
        "PROXY TCP6 ::1::2 ::1 1 2\r\n",
        "PROXY TCP4 1.2.3.4 1.2.3.4 65536 2\r\n",
        "PROXY TCP4 1.2.3.4 1.2.3.4 1 65536\r\n",
        "PROXY TCP4 1.2.3.4 1.2.3.4 +1 2\r\n",
        "PROXY TCP4 1.2.3.4 1.2.3.4 01 2\r\n",
        "PROXY TCP4 1.2.3.4 1.2.3.4 1 00\r\n",
        "PROXY TCP4 1.2.3.4 1.2.3.4 -1 2\r\n",
        "PROXY TCP4 1.2.3.4 1.2.3.4  2\r\n",
        "PROXY TCP4 1.2.3.4 1.2.3.4 1 \u{0662}\r\n",
        "PROXY TCP4 1.2.3.4 1.2.3.4 1 2\n",
        "PROXY TCP4 1.2.3.4 1.2.3.4 1 2\rx",
        "PROXY UNKNOWN\n\r\n",
        "PROXY UNKNOWN \r \r\n",
    ] {
        assert!(matches!(header(bad.as_bytes()), HeaderRead::Malformed(_)), "{bad:?}");
    }
}

#[test]
fn a_line_ends_within_107_bytes() {
    let line = |length: usize| format!("PROXY UNKNOWN {}\r\n", "x".repeat(length - 16)).into_bytes();
    assert_eq!(header(&line(107)), whole(None, 107));
    assert!(matches!(header(&line(108)), HeaderRead::Malformed(_)));
    let endless = [V1_START, &[b'x'; 200]].concat();
    for seen in 0..endless.len() {
        let more = seen < MAX_V1;
        assert_eq!(header(&endless[..seen]) == HeaderRead::NeedMore, more, "{seen} bytes");
    }
}

#[test]
fn what_is_no_header_is_refused_at_its_first_wrong_byte() {
    for good in [V2_SIGNATURE, V1_START] {
        for at in 0..good.len() {
            let mut bytes = good[..=at].to_vec();
            assert_eq!(header(&bytes), HeaderRead::NeedMore, "{bytes:?}");
            bytes[at] ^= 0x80;
            assert!(matches!(header(&bytes), HeaderRead::Malformed(_)), "{bytes:?}");
        }
    }
}

#[test]
fn binary_headers_that_are_right() {
    let v4 = [127, 0, 0, 1, 192, 168, 0, 11, 0xdc, 0x04, 0x15, 0x38];
    let v6 = {
        let ips = ["2001:db8::1", "::1"].map(|ip| ip.parse::<Ipv6Addr>().expect("an address").octets());
        [ips.as_flattened(), &[0xdc, 0x04, 0x15, 0x38]].concat()
    };
    // As HAProxy sends a unique id, and something that is none of the registered types.
    let tlvs = [&[0x05, 0, 3, b'a', b'b', b'c'][..], &[0xea, 0, 0]].concat();
    let cases = [
        (binary(0x21, 0x11, &v4), Some("127.0.0.1:56324")),
        (binary(0x21, 0x11, &[&v4[..], &tlvs].concat()), Some("127.0.0.1:56324")),
        (binary(0x21, 0x21, &v6), Some("[2001:db8::1]:56324")),
        (binary(0x21, 0x21, &[&v6[..], &tlvs].concat()), Some("[2001:db8::1]:56324")),
        (binary(0x21, 0x31, &[b'/'; 216]), None),
        (binary(0x21, 0x00, &[]), None),
        (binary(0x21, 0x00, &tlvs), None),
        // Not TCP: the addresses are another protocol's.
        (binary(0x21, 0x12, &v4), None),
        (binary(0x21, 0x20, &v6), None),
        // A health check; its family and addresses mean nothing.
        (binary(0x20, 0x00, &[]), None),
        (binary(0x20, 0x11, &v4), None),
        (binary(0x20, 0x11, &[]), None),
        (binary(0x20, 0xff, &tlvs), None),
        (binary(0x20, 0x00, &[0; MAX_V2 - V2_FIXED]), None),
    ];
    for (bytes, source) in cases {
        assert_eq!(header(&bytes), whole(source, bytes.len()), "{bytes:?}");
        let more = [&bytes[..], b"\0\0\0\x08"].concat();
        assert_eq!(header(&more), whole(source, bytes.len()), "{bytes:?}");
        for end in 0..bytes.len() {
            assert_eq!(header(&bytes[..end]), HeaderRead::NeedMore, "{end} bytes of {bytes:?}");
        }
    }
}

#[test]
fn binary_headers_that_are_wrong() {
    let cases = [
        (binary(0x11, 0x11, &[0; 12]), "version"),
        (binary(0x31, 0x11, &[0; 12]), "version"),
        (binary(0x22, 0x11, &[0; 12]), "command"),
        (binary(0x21, 0x41, &[0; 12]), "family"),
        (binary(0x21, 0x13, &[0; 12]), "transport"),
        (binary(0x21, 0x11, &[0; 11]), "too short"),
        (binary(0x21, 0x21, &[0; 35]), "too short"),
        (binary(0x21, 0x31, &[0; 215]), "too short"),
        (binary(0x21, 0x11, &[0; MAX_V2 - V2_FIXED + 1]), "too long"),
        (binary(0x20, 0x00, &[0; MAX_V2 - V2_FIXED + 1]), "too long"),
    ];
    for (bytes, expected) in cases {
        // It can be told before its body is there.
        let read = header(&bytes[..V2_FIXED]);
        assert!(matches!(read, HeaderRead::Malformed(why) if why.contains(expected)), "{read:?} {bytes:?}");
        assert_eq!(header(&bytes), read);
    }
}

#[test]
fn headers_are_written_as_the_specification_says() {
    let v4 = v2(Some(addr("10.0.0.1:56324")), Some(addr("10.0.0.2:5432")));
    assert_eq!(v4, b"\r\n\r\n\0\r\nQUIT\n\x21\x11\x00\x0c\x0a\x00\x00\x01\x0a\x00\x00\x02\xdc\x04\x15\x38");
    assert_eq!(v2(None, Some(addr("10.0.0.2:5432"))), b"\r\n\r\n\0\r\nQUIT\n\x20\x00\x00\x00");
    // IPv4 clients of a socket that takes both kinds stay IPv4.
    let mapped = v2(Some(addr("[::ffff:10.0.0.1]:56324")), Some(addr("[::ffff:10.0.0.2]:5432")));
    assert_eq!(mapped, v4);
    let mixed = v2(Some(addr("10.0.0.1:1")), Some(addr("[2001:db8::2]:2")));
    let ips =
        ["::ffff:10.0.0.1", "2001:db8::2"].map(|ip| ip.parse::<Ipv6Addr>().expect("an address").octets());
    assert_eq!(mixed, binary(0x21, 0x21, &[ips.as_flattened(), &[0, 1, 0, 2]].concat()));
    let alone = v2(Some(addr("10.0.0.1:1")), None);
    assert_eq!(alone, binary(0x21, 0x11, &[10, 0, 0, 1, 0, 0, 0, 0, 0, 1, 0, 0]));
}

fn any_address() -> impl Strategy<Value = SocketAddr> {
    let ip = prop_oneof![
        any::<[u8; 4]>().prop_map(IpAddr::from),
        any::<[u8; 16]>().prop_map(IpAddr::from),
        any::<[u8; 4]>().prop_map(|v4| Ipv4Addr::from(v4).to_ipv6_mapped().into()),
    ];
    (ip, any::<u16>()).prop_map(SocketAddr::from)
}

fn any_header() -> impl Strategy<Value = (Option<SocketAddr>, Vec<u8>)> {
    let line = (any_address(), any_address()).prop_map(|(from, to)| {
        let v4 = from.is_ipv4() && to.is_ipv4();
        let ip = |a: SocketAddr| if v4 { a.ip().to_string() } else { v6_form(a.ip()).to_string() };
        let family = if v4 { "TCP4" } else { "TCP6" };
        let line = format!("PROXY {family} {} {} {} {}\r\n", ip(from), ip(to), from.port(), to.port());
        (Some(from), line.into_bytes())
    });
    let unknown = "[ -~]{0,91}".prop_map(|rest| {
        let rest = if rest.is_empty() { rest } else { format!(" {rest}") };
        (None, format!("PROXY UNKNOWN{rest}\r\n").into_bytes())
    });
    let tlvs = proptest::collection::vec(any::<u8>(), 0..300);
    let written = (proptest::option::of(any_address()), proptest::option::of(any_address()), tlvs);
    let written = written.prop_map(|(from, to, tlvs)| {
        let bytes = v2(from, to);
        (from, binary(bytes[12], bytes[13], &[&bytes[V2_FIXED..], &tlvs].concat()))
    });
    prop_oneof![line, unknown, written]
}

proptest! {
    #[test]
    fn what_is_written_is_read_back(
        source in proptest::option::of(any_address()),
        destination in proptest::option::of(any_address()),
        rest in proptest::collection::vec(any::<u8>(), 0..40),
    ) {
        let bytes = v2(source, destination);
        let source = source.map(|s| SocketAddr::new(s.ip().to_canonical(), s.port()));
        let size = bytes.len();
        prop_assert_eq!(header(&[bytes, rest].concat()), HeaderRead::Whole { source, size });
    }

    #[test]
    fn a_header_in_pieces_asks_for_the_rest((source, bytes) in any_header()) {
        for end in 0..bytes.len() {
            prop_assert_eq!(header(&bytes[..end]), HeaderRead::NeedMore, "{} bytes", end);
        }
        let source = source.map(|s| SocketAddr::new(s.ip().to_canonical(), s.port()));
        prop_assert_eq!(header(&bytes), HeaderRead::Whole { source, size: bytes.len() });
    }

    #[test]
    fn a_damaged_header_is_never_read_past_its_end(
        (_, mut bytes) in any_header(),
        damage in proptest::collection::vec((any::<proptest::sample::Index>(), any::<u8>()), 0..4),
        rest in proptest::collection::vec(any::<u8>(), 0..40),
    ) {
        for (at, byte) in damage {
            let at = at.index(bytes.len());
            bytes[at] = byte;
        }
        bytes.extend(rest);
        let read = header(&bytes);
        if let HeaderRead::Whole { size, .. } = read {
            prop_assert!(size <= bytes.len());
            prop_assert_eq!(header(&bytes[..size]), read);
            prop_assert_eq!(header(&bytes[..size - 1]), HeaderRead::NeedMore);
        }
    }

    #[test]
    fn no_bytes_panic(start in 0..3_usize, rest in proptest::collection::vec(any::<u8>(), 0..300)) {
        let bytes = [[&b""[..], V1_START, V2_SIGNATURE][start], &rest].concat();
        if let HeaderRead::Whole { size, .. } = header(&bytes) {
            prop_assert!(size <= bytes.len());
        }
    }
}
