use super::*;

fn map(fields: &[(&str, &str)]) -> HeaderMap {
    let mut headers = HeaderMap::new();
    for (name, value) in fields {
        headers.append(HeaderName::try_from(*name).unwrap(), HeaderValue::try_from(*value).unwrap());
    }
    headers
}

fn check(fields: &[(&str, &str)], kept: Kept, expected: &[(&str, &str)]) {
    let mut headers = map(fields);
    remove_hop_by_hop(&mut headers, kept);
    assert_eq!(headers, map(expected), "{fields:?}");
}

#[test]
fn fields_of_the_connection_do_not_pass() {
    let plain = &[("host", "a.test"), ("accept", "*/*"), ("trailer", "x-t")];
    check(plain, Kept::default(), plain);
    check(
        &[
            ("connection", "close, X-A"),
            ("connection", "x-b , keep-alive"),
            ("x-a", "1"),
            ("x-b", "2"),
            ("x-b", "3"),
            ("x-c", "4"),
            ("keep-alive", "timeout=5"),
            ("proxy-connection", "keep-alive"),
            ("upgrade", "foo"),
            ("transfer-encoding", "chunked"),
            ("http2-settings", "AAA"),
            ("proxy-authorization", "Basic x"),
            ("proxy-authenticate", "Basic"),
            ("proxy-authentication-info", "x"),
        ],
        Kept::default(),
        &[("x-c", "4")],
    );
}

#[test]
fn connection_cannot_remove_what_frames_routes_or_identifies() {
    let protected = [
        ("host", "a.test"),
        ("content-length", "5"),
        ("x-forwarded-for", "1.1.1.1"),
        ("x-forwarded-anything", "1"),
        ("forwarded", "for=1.1.1.1"),
        ("x-real-ip", "1.1.1.1"),
        ("trailer", "x-t"),
        ("te", "trailers"),
    ];
    let names = protected.map(|(name, _)| name).join(", ") + ", bad name, , \u{7f}";
    let mut fields = protected.to_vec();
    let names = names.replace('\u{7f}', "?");
    fields.push(("connection", &names));
    check(&fields, Kept::default(), &protected);
}

#[test]
fn of_te_only_trailers_passes() {
    check(&[("te", "trailers")], Kept::default(), &[("te", "trailers")]);
    check(&[("te", "gzip;q=0.5, Trailers"), ("connection", "TE")], Kept::default(), &[("te", "trailers")]);
    check(&[("te", "gzip")], Kept::default(), &[]);
}

#[test]
fn what_is_kept_passes() {
    let upgrade = Kept { upgrade: true, ..Kept::default() };
    check(
        &[("connection", "keep-alive, Upgrade, x-a"), ("upgrade", "websocket"), ("x-a", "1")],
        upgrade,
        &[("connection", "upgrade"), ("upgrade", "websocket")],
    );
    check(&[("connection", "upgrade")], upgrade, &[]);
    let fields = &[("proxy-authorization", "Basic x"), ("proxy-authenticate", "Basic")];
    check(fields, Kept { proxy_authentication: true, ..Kept::default() }, fields);
}

#[test]
fn a_tunnel_is_asked_for_plainly_or_not_at_all() {
    let asks = |fields: &[(&str, &str)], version| upgrade_protocol(&map(fields), version).is_some();
    let websocket = &[("connection", "keep-alive, Upgrade"), ("upgrade", "websocket")];
    assert!(asks(websocket, Version::HTTP_11));
    assert!(!asks(websocket, Version::HTTP_10));
    assert!(!asks(websocket, Version::HTTP_2));
    assert!(asks(&[websocket[0], websocket[1], ("content-length", "0")], Version::HTTP_11));
    for refused in [
        &[("upgrade", "websocket")][..],
        &[("connection", "upgrade")],
        &[websocket[0], ("upgrade", "H2C")],
        &[websocket[0], ("upgrade", "websocket, h2c-14")],
        &[websocket[0], ("upgrade", "")],
        &[websocket[0], websocket[1], ("upgrade", "foo")],
        &[websocket[0], websocket[1], ("content-length", "10")],
        &[websocket[0], websocket[1], ("transfer-encoding", "chunked")],
    ] {
        assert!(!asks(refused, Version::HTTP_11), "{refused:?}");
    }
}

#[test]
fn cookies_become_one_field() {
    let mut headers = map(&[("cookie", "a=1"), ("x", "y"), ("cookie", "b=2")]);
    join_cookies(&mut headers);
    assert_eq!(headers, map(&[("cookie", "a=1; b=2"), ("x", "y")]));
    join_cookies(&mut headers);
    assert_eq!(headers, map(&[("cookie", "a=1; b=2"), ("x", "y")]));
}

#[test]
fn trailers_that_frame_route_or_authenticate_are_refused() {
    let good = [("grpc-status", "0"), ("x-t", "1"), ("etag", "x"), ("server-timing", "a"), ("digest", "x")];
    assert_eq!(check_trailers(&map(&good)), Ok(()));
    for name in [
        "content-length",
        "transfer-encoding",
        "transfer_encoding",
        "host",
        "authorization",
        "cookie",
        "x-forwarded-for",
        "x_forwarded_for",
        "forwarded",
        "trailer",
        "content-encoding",
        "connection",
        "set-cookie",
    ] {
        assert_eq!(check_trailers(&map(&[("x-t", "1"), (name, "1")])), Err(Refusal::TrailerField), "{name}");
    }
    let mut trailers = map(&[("x-t", "1"), ("host", "a"), ("host", "b"), ("content-length", "9")]);
    assert_eq!(remove_refused_trailers(&mut trailers), 3);
    assert_eq!(trailers, map(&[("x-t", "1")]));
}
