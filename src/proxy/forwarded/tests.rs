use proptest::prelude::*;

use super::*;

fn networks() -> Vec<IpNet> {
    ["10.0.0.0/8", "fd00::/8"].map(|network| network.parse().unwrap()).to_vec()
}

fn fields(name: &HeaderName, lines: &[&str]) -> HeaderMap {
    let mut headers = HeaderMap::new();
    for line in lines {
        headers.append(name.clone(), HeaderValue::from_bytes(line.as_bytes()).unwrap());
    }
    headers
}

fn check(header: ForwardedHeader, lines: &[&str], expected: &str) {
    let name = if header == ForwardedHeader::Forwarded { FORWARDED } else { X_FORWARDED_FOR };
    let client = client_address("10.0.0.1:99".parse().unwrap(), &fields(&name, lines), header, &networks());
    let port = client.port.map(|port| format!(" {port}")).unwrap_or_default();
    assert_eq!(format!("{}{port}", client.ip), expected, "{lines:?}");
}

#[test]
fn the_rightmost_untrusted_address_is_the_client() {
    let xff = ForwardedHeader::XForwardedFor;
    for (lines, expected) in [
        (&["1.1.1.1"][..], "1.1.1.1"),
        (&["6.6.6.6, 1.1.1.1"], "1.1.1.1"),
        (&["6.6.6.6, 1.1.1.1, 10.9.9.9,10.8.8.8"], "1.1.1.1"),
        (&["6.6.6.6", "1.1.1.1, 10.9.9.9"], "1.1.1.1"),
        (&["10.2.2.2, 10.3.3.3"], "10.2.2.2"),
        (&["1.1.1.1:5000"], "1.1.1.1 5000"),
        (&["2001:db8::1"], "2001:db8::1"),
        (&["[2001:db8::1]:443, fd00::1"], "2001:db8::1 443"),
        (&["[2001:db8::1]"], "2001:db8::1"),
        (&["::ffff:1.1.1.1"], "1.1.1.1"),
        (&["6.6.6.6, ::ffff:10.0.0.7"], "6.6.6.6"),
        // What cannot be read ends the list.
        (&["1.1.1.1, unknown"], "10.0.0.1 99"),
        (&["1.1.1.1, unknown, 10.3.3.3"], "10.3.3.3"),
        (&["1.1.1.1,"], "10.0.0.1 99"),
        (&[""], "10.0.0.1 99"),
        (&["junk, 1.1.1.1"], "1.1.1.1"),
        (&["1.1.1.1 10.0.0.1"], "10.0.0.1 99"),
        (&["caf\u{e9}", "10.4.4.4"], "10.4.4.4"),
        (&[], "10.0.0.1 99"),
    ] {
        check(xff, lines, expected);
    }
}

#[test]
fn forwarded_elements_are_read_alike() {
    for (lines, expected) in [
        (&["for=1.1.1.1"][..], "1.1.1.1"),
        (&["For=\"[2001:db8::1]:4711\";proto=https"], "2001:db8::1 4711"),
        (&["for=6.6.6.6, proto=http;by=10.0.0.1;FOR=1.1.1.1 , for=10.9.9.9"], "1.1.1.1"),
        (&["for=6.6.6.6", "for=\"1.1.1.1:80\""], "1.1.1.1 80"),
        (&["host=\"a,b;for=6.6.6.6\";for=1.1.1.1"], "1.1.1.1"),
        (&["for=1.1.1.1, for=_hidden"], "10.0.0.1 99"),
        (&["for=1.1.1.1, for=unknown, for=10.2.2.2"], "10.2.2.2"),
        (&["for=1.1.1.1, proto=http"], "10.0.0.1 99"),
        (&["for=1.1.1.1;for=2.2.2.2"], "10.0.0.1 99"),
        (&["for=\"6.6.6.6, for=1.1.1.1"], "10.0.0.1 99"),
        (&["for=\"x, for=\"[2001:db8::1]\""], "10.0.0.1 99"),
        (&["for=1.1.1.1,"], "10.0.0.1 99"),
        (&["for=1.1.1.1 junk"], "10.0.0.1 99"),
        (&["for=\"1.1.1.\\1\""], "10.0.0.1 99"),
    ] {
        check(ForwardedHeader::Forwarded, lines, expected);
    }
}

#[test]
fn an_untrusted_peer_is_the_client_whatever_it_says() {
    let headers = fields(&X_FORWARDED_FOR, &["1.1.1.1"]);
    let peer: SocketAddr = "[::ffff:9.9.9.9]:7".parse().unwrap();
    let expected = ClientAddress { ip: "9.9.9.9".parse().unwrap(), port: Some(7) };
    assert_eq!(client_address(peer, &headers, ForwardedHeader::XForwardedFor, &networks()), expected);
    let trusted: SocketAddr = "10.0.0.1:7".parse().unwrap();
    assert_eq!(client_address(trusted, &headers, ForwardedHeader::Off, &networks()).ip, trusted.ip());
    assert_eq!(client_address(trusted, &headers, ForwardedHeader::Forwarded, &networks()).ip, trusted.ip());
}

fn sent_up(headers: &[(&str, &str)], trusted: bool, forwarded: ForwardedPolicy) -> Vec<String> {
    let mut map = HeaderMap::new();
    for (name, value) in headers {
        map.append(HeaderName::try_from(*name).unwrap(), HeaderValue::try_from(*value).unwrap());
    }
    let host = HeaderValue::from_static("a.test");
    let peer = HeaderValue::from_static("10.0.0.1");
    let hop = Hop { peer: &peer, trusted, tls: true, host: Some(&host), forwarded };
    set_forwarded(&mut map, &hop);
    let mut lines: Vec<_> = map.iter().map(|(name, value)| format!("{name}: {}", value.to_str().unwrap())).collect();
    lines.sort();
    lines
}

const CLAIMS: &[(&str, &str)] = &[
    ("x-forwarded-for", "6.6.6.6"),
    ("x-forwarded-for", "7.7.7.7"),
    ("x_forwarded_for", "6.6.6.6"),
    ("x-forwarded_for", "6.6.6.6"),
    ("x-forwarded-proto", "gopher"),
    ("x-forwarded-host", "evil.test"),
    ("x-real-ip", "6.6.6.6"),
    ("forwarded", "for=6.6.6.6"),
    ("x-other", "kept"),
];

#[test]
fn an_untrusted_peers_claims_are_replaced() {
    let base = ["x-forwarded-for: 10.0.0.1", "x-forwarded-host: a.test", "x-forwarded-proto: https", "x-other: kept"];
    assert_eq!(sent_up(CLAIMS, false, ForwardedPolicy::Untouched), base);
    let own = "forwarded: for=10.0.0.1;host=\"a.test\";proto=https";
    assert_eq!(sent_up(CLAIMS, false, ForwardedPolicy::Append)[0], own);
    assert_eq!(sent_up(&[], false, ForwardedPolicy::Untouched), base[..3]);
}

#[test]
fn a_trusted_peers_claims_are_continued() {
    let lines = sent_up(CLAIMS, true, ForwardedPolicy::Append);
    for expected in [
        "forwarded: for=6.6.6.6, for=10.0.0.1;host=\"a.test\";proto=https",
        "x-forwarded-for: 6.6.6.6, 7.7.7.7, 10.0.0.1",
        "x-forwarded-proto: gopher",
        "x-forwarded-host: evil.test",
        "x-real-ip: 6.6.6.6",
    ] {
        assert!(lines.iter().any(|line| line == expected), "{expected} in {lines:?}");
    }
    assert!(sent_up(CLAIMS, true, ForwardedPolicy::Untouched).contains(&"forwarded: for=6.6.6.6".to_owned()));
}

proptest! {
    #[test]
    fn what_the_client_wrote_never_decides(claim in "[ -~]{0,60}", header: bool) {
        let lines = [claim.as_str(), "1.1.1.1, 10.2.2.2"];
        check(ForwardedHeader::XForwardedFor, &lines, "1.1.1.1");
        let lines = [claim.as_str(), "for=1.1.1.1, for=10.2.2.2"];
        check(ForwardedHeader::Forwarded, &lines, "1.1.1.1");
        // Appended to the client's own line, it is either found or nothing is believed.
        let joined = if header { format!("{claim}, 1.1.1.1") } else { format!("{claim}, for=1.1.1.1") };
        let (kind, name) = if header {
            (ForwardedHeader::XForwardedFor, X_FORWARDED_FOR)
        } else {
            (ForwardedHeader::Forwarded, FORWARDED)
        };
        let client = client_address("10.0.0.1:99".parse().unwrap(), &fields(&name, &[&joined]), kind, &networks());
        prop_assert!(["1.1.1.1", "10.0.0.1"].contains(&client.ip.to_string().as_str()), "{} from {joined}", client.ip);
    }

    #[test]
    fn arbitrary_lines_never_panic(line in proptest::collection::vec(32_u8..=255, 0..60)) {
        let Ok(value) = HeaderValue::from_bytes(&line) else { return Ok(()) };
        for (kind, name) in [(ForwardedHeader::XForwardedFor, X_FORWARDED_FOR), (ForwardedHeader::Forwarded, FORWARDED)] {
            let headers = HeaderMap::from_iter([(name, value.clone())]);
            client_address("10.0.0.1:99".parse().unwrap(), &headers, kind, &networks());
        }
    }
}
