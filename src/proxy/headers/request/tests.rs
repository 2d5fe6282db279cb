use http::HeaderName;
use proptest::prelude::*;

use super::*;

const H1: Version = Version::HTTP_11;
const H2: Version = Version::HTTP_2;

fn parts(method: &str, target: &str, fields: &[(&str, &str)]) -> Parts {
    let request = http::Request::builder().method(method).uri(target).body(()).unwrap();
    let mut parts = request.into_parts().0;
    for (name, value) in fields {
        // As the engine does after its own check: what our check sees must not depend on what the type refuses.
        let value = HeaderValue::from_str(value).unwrap();
        parts.headers.append(HeaderName::try_from(*name).unwrap(), value);
    }
    parts
}

fn check(version: Version, method: &str, target: &str, fields: &[(&str, &str)], expected: Result<(), Refusal>) {
    let parts = parts(method, target, fields);
    assert_eq!(check_request(&parts, version), expected, "{version:?} {method} {target} {fields:?}");
}

fn check_field(version: Version, field: (&str, &str), expected: Result<(), Refusal>) {
    check(
        version,
        "POST",
        if version == H2 { "https://a.test/p" } else { "/p" },
        &[("host", "a.test"), field],
        expected,
    );
}

#[test]
fn ordinary_requests_pass() {
    for field in [
        ("content-length", "5"),
        ("content-length", "0"),
        ("x-a", "caf\u{e9}"),
        ("x-a", ""),
        ("x-a", "a\tb"),
        ("te", "trailers"),
        ("expect", "100-Continue"),
        ("cookie", "a=b; c=\"d\""),
        ("x_a", "1"),
    ] {
        check_field(H1, field, Ok(()));
        check_field(H2, field, Ok(()));
    }
    check_field(H1, ("transfer-encoding", "Chunked"), Ok(()));
    check_field(H1, ("connection", "keep-alive"), Ok(()));
    check_field(H1, ("te", "gzip"), Ok(()));
    check(Version::HTTP_10, "GET", "/", &[("expect", "anything")], Ok(()));
    check(H2, "GET", "https://a.test/p", &[], Ok(()));
    check(H2, "GET", "/p", &[("host", "a.test")], Ok(()));
}

#[test]
fn framing_has_one_reading() {
    for value in [
        "",
        "+5",
        "-5",
        "5 5",
        "0x5",
        "5, 5",
        "5;",
        "5.0",
        "five",
        "5a",
        ",5",
        "5\t5",
        "9999999999999999999",
        "5_0",
        "\u{665}",
    ] {
        check_field(H1, ("content-length", value), Err(Refusal::ContentLength));
        check_field(H2, ("content-length", value), Err(Refusal::ContentLength));
    }
    let length = ("content-length", "5");
    let coding = ("transfer-encoding", "chunked");
    let host = ("host", "a.test");
    check(H1, "POST", "/p", &[host, length, length], Err(Refusal::ContentLength));
    check(H1, "POST", "/p", &[host, length, coding], Err(Refusal::TwoFramings));
    check(H1, "POST", "/p", &[host, coding, coding], Err(Refusal::TransferEncoding));
    check(Version::HTTP_10, "POST", "/p", &[host, coding], Err(Refusal::TransferEncoding));
    for value in [
        "xchunked",
        "chunkedx",
        "\"chunked\"",
        "chunked,",
        "gzip, chunked",
        "identity",
        "",
        "chunked, chunked",
        "chunked;q=1",
    ] {
        check_field(H1, ("transfer-encoding", value), Err(Refusal::TransferEncoding));
    }
    for version in [H1, H2] {
        check_field(version, ("content_length", "5"), Err(Refusal::FramingImitation));
        check_field(version, ("transfer_encoding", "chunked"), Err(Refusal::FramingImitation));
    }
}

#[test]
fn h2_requests_carry_no_fields_of_the_connection() {
    for name in ["connection", "keep-alive", "proxy-connection", "transfer-encoding", "upgrade"] {
        check_field(H2, (name, "x"), Err(Refusal::ConnectionField));
    }
    check_field(H2, ("te", "gzip"), Err(Refusal::Te));
    check_field(H2, ("te", "trailers, gzip"), Err(Refusal::Te));
    for value in [" x", "x ", "\tx", "x\t", " "] {
        check_field(H2, ("x-a", value), Err(Refusal::OuterSpace));
        check_field(H2, ("cookie", value), Err(Refusal::OuterSpace));
    }
}

#[test]
fn control_bytes_are_found_wherever_they_stand() {
    for byte in 0..=255_u8 {
        let expected = (byte < 0x20 && byte != b'\t') || byte == 0x7f;
        for at in [0, 7, 15, 16, 33, 63] {
            let mut value = [b'a'; 64];
            value[at] = byte;
            assert_eq!(has_control_byte(&value), expected, "{byte:#04x} at {at}");
        }
    }
}

#[test]
fn there_is_one_host_and_it_is_a_host() {
    for host in ["a.test", "A-b_c.test.", "a.test:80", "127.0.0.1:65535", "[::1]", "[2001:db8::1]:443", "localhost"] {
        check(H1, "GET", "/", &[("host", host)], Ok(()));
        check(H2, "GET", "/", &[("host", host)], Ok(()));
    }
    for host in [
        "a.test/x",
        "a.test@evil",
        "u:p@a.test",
        "a.test evil",
        "a.test, evil.test",
        "a.test:80a",
        "a.test:99999",
        "a.test:",
        "a.test:000080",
        "\"a\"",
        "http://a.test",
        "[::1",
        "[::1]x",
        "[::1]:",
        "[]",
        "[a]",
        "::1",
        ":80",
        "a:b:c",
        "caf\u{e9}.test",
        "a.test?x",
        "a.test#x",
        "a%00.test",
        "a\\b",
        "[fe80::1%25eth0]",
    ] {
        check(H1, "GET", "/", &[("host", host)], Err(Refusal::HostSyntax));
    }
    check(H1, "GET", "/", &[("host", &"a".repeat(256))], Err(Refusal::HostSyntax));
    check(H1, "GET", "/", &[("host", "a.test"), ("host", "a.test")], Err(Refusal::HostRepeated));
    check(H1, "GET", "/", &[("host", "")], Err(Refusal::HostMissing));
    check(H1, "GET", "/", &[], Err(Refusal::HostMissing));
    check(H1, "GET", "http://a.test/", &[], Err(Refusal::HostMissing));
    check(H2, "GET", "/", &[], Err(Refusal::HostMissing));
    check(Version::HTTP_10, "GET", "/", &[], Ok(()));
    check(H2, "GET", "https://a.test/", &[("host", "A.test")], Ok(()));
    check(H2, "GET", "https://a.test/", &[("host", "evil.test")], Err(Refusal::HostDiffers));
    check(H2, "GET", "https://a.test/", &[("host", "a.test"), ("host", "evil.test")], Err(Refusal::HostRepeated));
    check(H2, "GET", "https://u@a.test/", &[], Err(Refusal::HostSyntax));
    check(H1, "GET", "http://a.test@evil.test/", &[("host", "a.test")], Err(Refusal::HostSyntax));
}

#[test]
fn targets_have_the_form_of_their_method() {
    let host = &[("host", "a.test")];
    for (method, target) in [
        ("GET", "/"),
        ("GET", "/p?q=/?&[x]"),
        ("GET", "//evil.test/p"),
        ("GET", "/a/../b"),
        ("GET", "/a\\b"),
        ("OPTIONS", "*"),
        ("GET", "http://a.test/p"),
        ("GET", "HTTPS://other.test:8443?q"),
        ("GET", "http://a.test"),
        ("TRACE", "/p"),
        ("CONNECT", "a.test:443"),
        ("CONNECT", "[::1]:443"),
        ("post", "/p"),
    ] {
        check(H1, method, target, host, Ok(()));
    }
    for (method, target) in [
        ("GET", "*"),
        ("GET", "p"),
        ("GET", "a.test:80"),
        ("GET", "/p\u{e9}"),
        ("GET", "/?\u{e9}"),
        ("CONNECT", "/p"),
        ("CONNECT", "a.test"),
        ("CONNECT", "http://a.test:80/"),
    ] {
        check(H1, method, target, host, Err(Refusal::Target));
    }
    check(H1, "GET", "ftp://a.test/", host, Err(Refusal::SchemeName));
    check(H2, "GET", "javascript://a.test/", host, Err(Refusal::SchemeName));
    check(H2, "GET", "https://a.test?q", host, Err(Refusal::Target));
    check(H2, "CONNECT", "a.test:443", &[], Ok(()));
    check(H2, "CONNECT", "https://a.test/chat", &[], Ok(()));
    check(H2, "CONNECT", "/p", host, Err(Refusal::Target));
    check(H2, "GET", "a.test:80", &[], Err(Refusal::Target));
}

#[test]
fn expectations_other_than_continue_are_417() {
    for value in ["200-ok", "100-continue, x", "y 100-continue", ""] {
        check_field(H1, ("expect", value), Err(Refusal::Expectation));
        check_field(H2, ("expect", value), Err(Refusal::Expectation));
    }
    assert_eq!(Refusal::Expectation.status(), 417);
    assert_eq!(Refusal::HostMissing.status(), 400);
}

#[test]
fn every_request_goes_up_in_one_form() {
    for (method, target, host, expected_target, expected_host) in [
        ("GET", "/p?q", Some("a.test"), "/p?q", "a.test"),
        ("GET", "http://b.test/p?q", Some("a.test"), "/p?q", "b.test"),
        ("GET", "https://b.test:8443", None, "/", "b.test:8443"),
        ("GET", "http://b.test?q", Some("a.test"), "/?q", "b.test"),
        ("GET", "http://a.test/", Some("A.Test"), "/", "A.Test"),
        ("OPTIONS", "*", Some("a.test"), "*", "a.test"),
        ("CONNECT", "b.test:443", Some("a.test"), "b.test:443", "b.test:443"),
    ] {
        let fields: Vec<_> = host.iter().map(|host| ("host", *host)).collect();
        let mut parts = parts(method, target, &fields);
        assert_eq!(normalise_request(&mut parts), Ok(()));
        assert_eq!(parts.uri.to_string(), expected_target);
        let hosts: Vec<_> = parts.headers.get_all(HOST).iter().collect();
        assert_eq!(hosts, [expected_host]);
    }
}

/// Time of the usual request; a number for people, printed by `cargo test --release -- --nocapture usual`.
#[test]
fn the_usual_request_is_cheap() {
    let fields = [
        ("host", "www.example.com"),
        ("connection", "keep-alive"),
        ("content-length", "0"),
        (
            "user-agent",
            "Mozilla/5.0 (X11; Linux x86_64) AppleWebKit/537.36 (KHTML, like Gecko) Chrome/140.0 Safari/537.36",
        ),
        ("accept", "text/html,application/xhtml+xml,application/xml;q=0.9,*/*;q=0.8"),
        ("accept-encoding", "gzip, br"),
        ("accept-language", "en-GB,en;q=0.9"),
        ("referer", "https://www.example.com/a/b"),
        ("cookie", "session=0123456789abcdef"),
        ("x-trace", "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01"),
    ];
    let mut parts = parts("GET", "/a/path?with=query", &fields);
    let rounds = 10_000_u32;
    let (mut checked, mut removed) = (std::time::Duration::MAX, std::time::Duration::MAX);
    for _ in 0..5 {
        let start = std::time::Instant::now();
        for _ in 0..rounds {
            assert_eq!(check_request(std::hint::black_box(&parts), H1), Ok(()));
        }
        checked = checked.min(start.elapsed() / rounds);
        let start = std::time::Instant::now();
        for _ in 0..rounds {
            crate::proxy::headers::remove_hop_by_hop(std::hint::black_box(&mut parts.headers), Default::default());
            parts.headers.insert(http::header::CONNECTION, HeaderValue::from_static("keep-alive"));
        }
        removed = removed.min(start.elapsed() / rounds);
    }
    println!("check_request {checked:?}, remove_hop_by_hop with putting Connection back {removed:?}");
}

proptest! {
    #[test]
    fn a_host_that_passes_holds_no_separator(host in proptest::collection::vec(any::<u8>(), 0..20)) {
        if is_host(&host) {
            prop_assert!(host.iter().all(|byte| byte.is_ascii_alphanumeric() || b".-_:[]".contains(byte)));
        }
    }

    #[test]
    fn what_passes_is_normalised_to_a_request_that_passes_again(
        method in prop_oneof![Just("GET"), Just("OPTIONS"), Just("CONNECT"), Just("POST")],
        target in "(http://|https://|ftp://)?[a-z:/?*.@\\[\\]]{0,12}",
        host in proptest::option::of("[a-z.:@]{0,6}"),
        h2: bool,
    ) {
        let version = if h2 { H2 } else { H1 };
        let Ok(request) = http::Request::builder().method(method).uri(target).body(()) else { return Ok(()) };
        let mut parts = request.into_parts().0;
        if let Some(host) = host {
            parts.headers.insert(HOST, HeaderValue::from_str(&host).unwrap());
        }
        if check_request(&parts, version).is_ok() {
            prop_assert_eq!(normalise_request(&mut parts), Ok(()));
            let extended_connect = h2 && parts.method == Method::CONNECT && parts.uri.authority().is_none();
            prop_assert!(extended_connect || check_request(&parts, version).is_ok(), "{:?}", parts);
            prop_assert!(parts.headers.contains_key(HOST));
        }
    }
}
