use std::sync::Arc;

use proptest::prelude::*;
use rustls::pki_types::ServerName;

use super::*;

/// What a real client sends first.
fn real_hello(host: &'static str, alpn: &[&[u8]]) -> Vec<u8> {
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let builder = rustls::ClientConfig::builder_with_provider(provider).with_safe_default_protocol_versions().unwrap();
    let mut config = builder.with_root_certificates(rustls::RootCertStore::empty()).with_no_client_auth();
    config.alpn_protocols = alpn.iter().map(|protocol| protocol.to_vec()).collect();
    let name = ServerName::try_from(host).unwrap();
    let mut connection = rustls::ClientConnection::new(Arc::new(config), name).unwrap();
    let mut bytes = Vec::new();
    connection.write_tls(&mut bytes).unwrap();
    bytes
}

fn with_length(length_bytes: usize, content: &[u8]) -> Vec<u8> {
    let length = u32::try_from(content.len()).unwrap().to_be_bytes();
    [&length[4 - length_bytes..], content].concat()
}

fn extension(kind: u16, content: &[u8]) -> Vec<u8> {
    [kind.to_be_bytes().to_vec(), with_length(2, content)].concat()
}

fn server_name(name: &[u8]) -> Vec<u8> {
    extension(0, &with_length(2, &[vec![0], with_length(2, name)].concat()))
}

fn alpn(protocols: &[&[u8]]) -> Vec<u8> {
    let list: Vec<u8> = protocols.iter().flat_map(|protocol| with_length(1, protocol)).collect();
    extension(16, &with_length(2, &list))
}

/// A handshake message with these extensions.
fn message(extensions: &[u8]) -> Vec<u8> {
    let body = [&[3, 3][..], &[7; 32], &[0], &[0, 2, 0x13, 0x01], &[1, 0], &with_length(2, extensions)].concat();
    [vec![1], with_length(3, &body)].concat()
}

/// The message in records of at most `size` bytes of payload.
fn records(message: &[u8], size: usize) -> Vec<u8> {
    message.chunks(size).flat_map(|part| [vec![22, 3, 1], with_length(2, part)].concat()).collect()
}

fn check(received: &[u8], expected: &Hello) {
    assert_eq!(&parse(received), expected, "{}", received.escape_ascii());
    decided_once(received);
}

/// Every prefix is undecided or already says what the whole says.
fn decided_once(received: &[u8]) {
    let whole = parse(received);
    for length in 0..received.len() {
        let prefix = parse(&received[..length]);
        assert!(prefix == Hello::Incomplete || prefix == whole, "{length} bytes of {}", received.escape_ascii());
    }
}

fn hello(server_name: Option<&str>, alpn: &[&[u8]]) -> Hello {
    let alpn = alpn.iter().map(|protocol| protocol.to_vec()).collect();
    Hello::Hello { server_name: server_name.map(str::to_owned), alpn }
}

#[test]
fn a_real_client_is_understood_at_its_last_byte_and_not_before() {
    let bytes = real_hello("Shop.Example.com", &[b"h2", b"http/1.1"]);
    check(&bytes, &hello(Some("shop.example.com"), &[b"h2", b"http/1.1"]));
    assert_eq!(parse(&bytes[..bytes.len() - 1]), Hello::Incomplete);
    check(&real_hello("127.0.0.1", &[]), &hello(None, &[]));
}

#[test]
fn a_hello_split_over_records_is_the_same_hello() {
    let message = message(&[server_name(b"a.test"), alpn(&[b"h2"])].concat());
    for size in [1, 2, 3, 4, 5, 17, 40, 1000] {
        let mut bytes = records(&message, size);
        check(&bytes, &hello(Some("a.test"), &[b"h2"]));
        bytes.extend_from_slice(b"anything");
        check(&bytes, &hello(Some("a.test"), &[b"h2"]));
    }
}

#[test]
fn names_are_made_canonical_and_doubtful_ones_refused() {
    let named = |name: &[u8]| records(&message(&server_name(name)), 1000);
    check(&named(b"A_b-1.TEST."), &hello(Some("a_b-1.test"), &[]));
    for name in
        [&b""[..], b".", b"a.test\0.evil", b"a test", b"a.test\r\n", b"*.test", b"caf\xc3\xa9", b"[::1]", &[b'a'; 256]]
    {
        check(&named(name), &Hello::NotTls);
    }
}

#[test]
fn malformed_hellos_are_not_tls() {
    let two_names = [vec![0], with_length(2, b"a"), vec![0], with_length(2, b"b")].concat();
    for extensions in [
        [server_name(b"a.test"), server_name(b"b.test")].concat(),
        [alpn(&[b"h2"]), alpn(&[b"h2"])].concat(),
        extension(0, &with_length(2, &two_names)),
        extension(0, &with_length(2, &[1, 0, 1, b'a'])),
        extension(0, &[0, 9, 0, 0, 1, b'a']),
        extension(0, &[]),
        extension(16, &[]),
        alpn(&[]),
        alpn(&[b""]),
        vec![0, 0, 0, 9, 1],
    ] {
        check(&records(&message(&extensions), 1000), &Hello::NotTls);
    }
    for start in [
        &b"GET /"[..],
        b"\x15",
        b"\x16\x02",
        b"\x16\x03\x01\x00\x00",
        b"\x16\x03\x01\x40\x01",
        b"\x16\x03\x01\x00\x05\x02",
        b"\x80\x2e\x01",
    ] {
        check(start, &Hello::NotTls);
        assert_eq!(
            parse(&start[..start.len() - 1]),
            if start.starts_with(b"\x16") { Hello::Incomplete } else { parse(&start[..start.len() - 1]) }
        );
    }
}

#[test]
fn a_hello_without_extensions_has_no_name() {
    let body = [&[3, 1][..], &[7; 32], &[0], &[0, 2, 0, 0x2f], &[1, 0]].concat();
    check(&records(&[vec![1], with_length(3, &body)].concat(), 1000), &hello(None, &[]));
}

#[test]
fn the_longest_hello_is_read_and_a_longer_one_refused_at_its_header() {
    let empty = message(&[]).len() + RECORD_HEADER_BYTES + 4;
    let longest = message(&extension(21, &vec![0; HELLO_BYTES_MAX - empty]));
    assert_eq!(parse(&records(&longest, RECORD_BYTES_MAX)), hello(None, &[]));
    // The same hello in two records is five bytes too long.
    assert_eq!(parse(&records(&longest, 10_000)), Hello::NotTls);
    let longer = message(&extension(21, &vec![0; HELLO_BYTES_MAX - empty + 1]));
    assert_eq!(parse(&records(&longer, RECORD_BYTES_MAX)[..9]), Hello::NotTls);
}

proptest! {
    #[test]
    fn an_answer_never_changes_with_more_bytes(
        mut extensions in proptest::collection::vec(any::<u8>(), 0..40),
        named: bool,
        size in 1_usize..80,
        damage in proptest::option::of((0_usize..120, any::<u8>())),
    ) {
        if named {
            extensions = [server_name(b"a.test"), alpn(&[b"h2", b"http/1.1"])].concat();
        }
        let mut bytes = records(&message(&extensions), size);
        if let Some((at, value)) = damage {
            let at = at % bytes.len();
            bytes[at] = value;
        }
        decided_once(&bytes);
    }

    #[test]
    fn arbitrary_bytes_never_panic(bytes in proptest::collection::vec(any::<u8>(), 0..200)) {
        decided_once(&bytes);
        decided_once(&[&[22, 3, 1, 0, 150, 1][..], &bytes].concat());
    }
}
