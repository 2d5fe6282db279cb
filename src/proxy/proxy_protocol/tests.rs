use proptest::prelude::*;

use super::*;

fn check(input: &[u8], expected: Result<Parsed, ProxyError>) {
    assert_eq!(parse(input), expected, "{}", input.escape_ascii());
    decided_once(input);
}

/// Every prefix is undecided or already says what the whole says.
fn decided_once(input: &[u8]) {
    let whole = parse(input);
    for length in 0..input.len() {
        let prefix = parse(&input[..length]);
        assert!(prefix == Ok(Parsed::Incomplete) || prefix == whole, "{length} bytes of {}", input.escape_ascii());
    }
}

fn addressed(version: ProxyVersion, source: &str, destination: &str) -> ProxyHeader {
    ProxyHeader {
        version,
        local: false,
        source: Some(source.parse().unwrap()),
        destination: Some(destination.parse().unwrap()),
        authority: None,
        unique_id: None,
        fields: vec![],
    }
}

fn nameless(version: ProxyVersion, local: bool) -> ProxyHeader {
    ProxyHeader { version, local, source: None, destination: None, authority: None, unique_id: None, fields: vec![] }
}

fn v2(command: u8, family: u8, content: &[u8]) -> Vec<u8> {
    let mut block = V2_SIGNATURE.to_vec();
    block.extend_from_slice(&[command, family]);
    block.extend_from_slice(&u16::try_from(content.len()).unwrap().to_be_bytes());
    block.extend_from_slice(content);
    block
}

const V4: &[u8] = &[10, 0, 0, 1, 10, 0, 0, 2, 0x1f, 0x90, 0, 80];

#[test]
fn v1_lines_are_read_to_their_last_byte() {
    let tcp4 = b"PROXY TCP4 192.0.2.1 198.51.100.2 56324 443\r\n";
    let header = addressed(ProxyVersion::V1, "192.0.2.1:56324", "198.51.100.2:443");
    check(tcp4, Ok(Parsed::Header { header: header.clone(), bytes: tcp4.len() }));
    check(&[tcp4, &b"GET / HTTP/1.1\r\n"[..]].concat(), Ok(Parsed::Header { header, bytes: tcp4.len() }));

    let tcp6 = b"PROXY TCP6 2001:db8::1 ::ffff:10.0.0.1 0 65535\r\n";
    let header = addressed(ProxyVersion::V1, "[2001:db8::1]:0", "10.0.0.1:65535");
    check(tcp6, Ok(Parsed::Header { header, bytes: tcp6.len() }));

    let longest = b"PROXY UNKNOWN ffff:ffff:ffff:ffff:ffff:ffff:ffff:ffff ffff:ffff:ffff:ffff:ffff:ffff:ffff:ffff 65535 65535\r\n";
    assert_eq!(longest.len(), V1_BYTES_MAX);
    for line in [&b"PROXY UNKNOWN\r\n"[..], b"PROXY UNKNOWN any thing  at all\r\n", longest] {
        check(line, Ok(Parsed::Header { header: nameless(ProxyVersion::V1, false), bytes: line.len() }));
    }
}

#[test]
fn v1_lines_that_break_the_format_are_refused() {
    for line in [
        "PROXY \r\n",
        "PROXY TCP5 ",
        "PROXY tcp4 ",
        "PROXY  TCP4 ",
        "PROXY UNKNOWNX",
        "PROXY TCP4 1.1.1.1 2.2.2.2 1 2\n",
        "PROXY TCP4 1.1.1.1 2.2.2.2 1 2\rX",
        "PROXY TCP4 1.1.1.1\t2.2.2.2 1 2\r\n",
        "PROXY TCP4 1.1.1.1 2.2.2.2 1\r\n",
        "PROXY TCP4 1.1.1.1 2.2.2.2 1 2 3\r\n",
        "PROXY TCP4\r\n",
    ] {
        check(line.as_bytes(), Err(ProxyError::V1Line));
    }
    for line in [
        "PROXY TCP4 ::1 ::1 1 2\r\n",
        "PROXY TCP6 1.1.1.1 2.2.2.2 1 2\r\n",
        "PROXY TCP4 1.1.1.1 2.2.2.2 65536 2\r\n",
        "PROXY TCP4 1.1.1.1 2.2.2.2 01 2\r\n",
        "PROXY TCP4 1.1.1.1 2.2.2.2 +1 2\r\n",
        "PROXY TCP4 1.1.1.1 2.2.2.2 -1 2\r\n",
        "PROXY TCP4 01.1.1.1 2.2.2.2 1 2\r\n",
        "PROXY TCP4  2.2.2.2 1 2\r\n",
        "PROXY TCP6 fe80::1%eth0 ::1 1 2\r\n",
        "PROXY TCP4 1.1.1.1 2.2.2.2 1 \r\n",
    ] {
        check(line.as_bytes(), Err(ProxyError::V1Address));
    }
    check(&[b"PROXY UNKNOWN ".to_vec(), vec![b'x'; 200]].concat(), Err(ProxyError::V1TooLong));
}

#[test]
fn anything_else_is_known_at_its_first_differing_byte() {
    for input in [&b"G"[..], b"\x16", b"PR ", b"PROXI", b"PRI", b"\r\n\r\n\x01", b"\r\n\r\n\0\r\nQUIT\r"] {
        check(input, Ok(Parsed::NotProxy));
        assert_eq!(parse(&input[..input.len() - 1]), Ok(Parsed::Incomplete), "{}", input.escape_ascii());
    }
}

#[test]
fn v2_blocks_are_read() {
    let header = addressed(ProxyVersion::V2, "10.0.0.1:8080", "10.0.0.2:80");
    let block = v2(0x21, 0x11, V4);
    check(&block, Ok(Parsed::Header { header: header.clone(), bytes: 28 }));
    check(&[&block[..], b"rest"].concat(), Ok(Parsed::Header { header, bytes: 28 }));
    // LOCAL discards everything, even what would be malformed.
    for content in [&b""[..], V4, b"\x03\x00"] {
        let bytes = 16 + content.len();
        check(&v2(0x20, 0xff, content), Ok(Parsed::Header { header: nameless(ProxyVersion::V2, true), bytes }));
    }
    for (family, content) in
        [(0x00, vec![]), (0x00, vec![1, 2, 3]), (0x31, vec![0; 216]), (0x12, V4.to_vec()), (0x22, vec![0; 36])]
    {
        let bytes = 16 + content.len();
        check(&v2(0x21, family, &content), Ok(Parsed::Header { header: nameless(ProxyVersion::V2, false), bytes }));
    }
}

#[test]
fn v2_fields_are_kept_or_skipped() {
    let fields = [&[0x02, 0, 6][..], b"a.test", &[0x05, 0, 2, 9, 9], &[0x04, 0, 1, 0], &[0xea, 0, 3, 1, 2, 3]].concat();
    let mut header = addressed(ProxyVersion::V2, "10.0.0.1:8080", "10.0.0.2:80");
    header.authority = Some("a.test".into());
    header.unique_id = Some(vec![9, 9]);
    header.fields = vec![(0xea, vec![1, 2, 3])];
    let block = v2(0x21, 0x11, &[V4, &fields].concat());
    check(&block, Ok(Parsed::Header { header, bytes: block.len() }));
}

#[test]
fn v2_checksum_is_verified() {
    let mut block = v2(0x21, 0x11, &[V4, &[0x03, 0, 4, 0, 0, 0, 0], &[0x04, 0, 1, 7]].concat());
    let checksum = crc32c::crc32c(&block).to_be_bytes();
    block[31..35].copy_from_slice(&checksum);
    let header = addressed(ProxyVersion::V2, "10.0.0.1:8080", "10.0.0.2:80");
    check(&block, Ok(Parsed::Header { header, bytes: block.len() }));
    for at in 16..block.len() {
        let mut damaged = block.clone();
        damaged[at] ^= 0x10;
        assert!(parse(&damaged).is_err() || !(16..28).contains(&at), "damage at {at} was not noticed");
    }
}

#[test]
fn v2_blocks_that_break_the_format_are_refused() {
    check(&v2(0x11, 0x11, V4), Err(ProxyError::V2Command(0x11)));
    check(&v2(0x22, 0x11, V4), Err(ProxyError::V2Command(0x22)));
    check(&v2(0x21, 0x41, V4), Err(ProxyError::V2Family(0x41)));
    check(&v2(0x21, 0x13, V4), Err(ProxyError::V2Family(0x13)));
    check(&v2(0x21, 0x11, &V4[..11]), Err(ProxyError::V2Short));
    check(&v2(0x21, 0x21, V4), Err(ProxyError::V2Short));
    check(&v2(0x21, 0x11, &vec![0; HEADER_BYTES_MAX - 15]), Err(ProxyError::V2TooLong(HEADER_BYTES_MAX + 1)));
    for (kind, field) in [
        (0x04, &[0x04][..]),
        (0x04, &[0x04, 0]),
        (0x04, &[0x04, 0, 2, 0]),
        (0x03, &[0x03, 0, 3, 0, 0, 0]),
        (0x02, &[0x02, 0, 1, 0xff]),
        (0x02, &[0x02, 0, 0, 0x02, 0, 0]),
        (0x05, &[0x05, 0, 0, 0x05, 0, 0]),
    ] {
        check(&v2(0x21, 0x11, &[V4, field].concat()), Err(ProxyError::V2Field(kind)));
    }
    let long_id = [&[0x05, 0, 129][..], &[0; 129]].concat();
    check(&v2(0x21, 0x11, &[V4, &long_id].concat()), Err(ProxyError::V2Field(0x05)));
    check(&v2(0x21, 0x11, &[V4, &[0x03, 0, 4, 1, 2, 3, 4]].concat()), Err(ProxyError::V2Checksum));
}

fn near_headers() -> impl Strategy<Value = Vec<u8>> {
    let raw = proptest::collection::vec(any::<u8>(), 0..64);
    let start = prop_oneof![
        Just(Vec::new()),
        Just(b"PROXY ".to_vec()),
        Just(b"PROXY TCP4 ".to_vec()),
        Just(b"PROXY TCP6 ::1 ::1 ".to_vec()),
        Just(v2(0x21, 0x11, V4)[..15].to_vec()),
        Just(v2(0x21, 0x11, &[V4, &[0; 9]].concat())[..28].to_vec()),
    ];
    let text = "[0-9a-f:. ]{0,60}\r\n".prop_map(String::into_bytes);
    (start, prop_oneof![raw, text]).prop_map(|(start, rest)| [start, rest].concat())
}

proptest! {
    #[test]
    fn an_answer_never_changes_with_more_bytes(input in near_headers()) {
        decided_once(&input);
    }

    #[test]
    fn what_is_written_is_read_back(source: (IpAddr, u16), destination: (IpAddr, u16)) {
        let (source, destination) = (SocketAddr::from(source), SocketAddr::from(destination));
        let canonical = |address: SocketAddr| SocketAddr::new(address.ip().to_canonical(), address.port());
        for encoded in [encode_v1(source, destination), encode_v2(source, destination)] {
            decided_once(&encoded);
            let Ok(Parsed::Header { header, bytes }) = parse(&encoded) else { panic!("{}", encoded.escape_ascii()) };
            prop_assert_eq!(bytes, encoded.len());
            prop_assert_eq!(header.source, Some(canonical(source)));
            prop_assert_eq!(header.destination, Some(canonical(destination)));
        }
    }
}
