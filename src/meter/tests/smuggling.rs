//! Requests that two parsers may read differently, and legal ones that look odd: the guard must tell them apart.

use super::*;
use Violation::*;

/// Plays a request stream whole and in pieces; the guard's word must be the same.
#[track_caller]
fn check(request: &[u8], expected: Option<Violation>) {
    for pieces in [&[][..], &[1], &[5, 3]] {
        let recorder = play_h1(&vec![received(request)], pieces);
        let shown = request.escape_ascii();
        assert_eq!(recorder.violation(), expected, "{shown}");
        assert_eq!(recorder.told.contains(&Told::Lost(Direction::Received)), expected.is_some(), "{shown}");
    }
}

/// A whole request with these field lines (without the last CRLF) and this after the head.
fn with_fields(fields: &[u8], after: &[u8]) -> Vec<u8> {
    [b"POST /p HTTP/1.1\r\nHost: a.test\r\n", fields, b"\r\n\r\n", after].concat()
}

const CHUNKED: &[u8] = b"5\r\nhello\r\n0\r\n\r\n";

#[test]
fn legal_requests_pass() {
    for (line_and_fields, after) in [
        ("GET /p HTTP/1.1\r\nHost: a.test\r\n", ""),
        ("POST /p HTTP/1.1\r\nHost: a.test\r\nContent-Length: 5\r\n", "hello"),
        ("POST /p HTTP/1.1\r\nHost: a.test\r\nTransfer-Encoding: chunked\r\n", "5\r\nhello\r\n0\r\n\r\n"),
        ("POST /p HTTP/1.1\r\nHost: a.test\r\ntransfer-ENCODING: Chunked\r\n", "5\r\nhello\r\n0\r\n\r\n"),
        ("POST /p HTTP/1.1\r\nHost: a.test\r\nTransfer-Encoding: chunked\r\n", "5;a=b\r\nhello\r\n0\r\n\r\n"),
        ("POST /p HTTP/1.1\r\nHost: a.test\r\nTransfer-Encoding: chunked\r\n", "5;a=\"b c\"\r\nhello\r\n0;x=y\r\n\r\n"),
        ("POST /p HTTP/1.1\r\nHost: a.test\r\nTransfer-Encoding: chunked\r\n", "5\r\nhello\r\n000\r\nX-T: 1\r\n\r\n"),
        ("POST /p HTTP/1.1\r\nHost: a.test\r\nContent-Length: 0\r\n", ""),
        ("GET /p HTTP/1.1\r\nHost: a.test\r\nContent-Length: 5\r\n", "hello"),
        ("GET /p HTTP/1.0\r\nHost: a.test\r\n", ""),
        ("GET /p HTTP/1.0\r\n", ""),
        ("GET /p HTTP/1.1\r\nHost: a.test\r\nX-A:\t v \t\r\nX-B:\r\n", ""),
        ("GET /p HTTP/1.1\r\nHost: a.test\r\nX-A: café\r\n", ""),
        ("GET http://a.test/p HTTP/1.1\r\nHost: a.test\r\n", ""),
        ("GET HTTPS://a.test:443?q HTTP/1.1\r\nHost: a.test:443\r\n", ""),
        ("OPTIONS * HTTP/1.1\r\nHost: a.test\r\n", ""),
        ("CONNECT [::1]:443 HTTP/1.1\r\nHost: [::1]:443\r\n", ""),
        ("\r\nGET /a|b/{c}?\"d\" HTTP/1.1\r\nHost: a_b.test:\r\n", ""),
        ("POST /p HTTP/1.1\r\nHost: a.test\r\nContent-Length: 5\r\nExpect: 100-continue\r\n", "hello"),
        ("GET /p HTTP/1.1\r\nHost: a.test\r\nConnection: close, X-Forwarded-For\r\nTE: trailers\r\n", ""),
    ] {
        check(format!("{line_and_fields}\r\n{after}").as_bytes(), None);
    }
}

#[test]
fn framing_that_two_parsers_may_read_differently_is_refused() {
    for (fields, expected) in [
        (&b"Content-Length: 6\r\nTransfer-Encoding: chunked"[..], ClAndTe),
        (b"Transfer-Encoding: chunked\r\nContent-Length: 6", ClAndTe),
        (b"Transfer-Encoding: chunked \r\nContent-Length: 6", ClAndTe),
        (b"Content-Length: 5\r\nContent-Length: 5", DuplicateContentLength),
        (b"Content-Length: 5\r\ncontent-length: 0", DuplicateContentLength),
        (b"Content-Length: +5", BadContentLength),
        (b"Content-Length: -0", BadContentLength),
        (b"Content-Length: 5 5", BadContentLength),
        (b"Content-Length: 0x5", BadContentLength),
        (b"Content-Length: 5, 5", BadContentLength),
        (b"Content-Length: 5_0", BadContentLength),
        (b"Content-Length:", BadContentLength),
        (b"Content-Length: \xd9\xa5", BadContentLength),
        (b"Content-Length: 18446744073709551621", BadContentLength),
        (b"Content-Length: 0000000000000000005", BadContentLength),
        (b"Content-Length: 5\x0b", BadHeaderValue),
        (b"Content-Length: 5\x00", BadHeaderValue),
        (b"Content-Length: 5\r\n ", ObsFold),
        (b"Content-Length : 5", SpaceBeforeColon),
        (b"Content_Length: 5", UnderscoreFraming),
        (b"Transfer_Encoding: chunked", UnderscoreFraming),
        (b"Transfer-Encoding: xchunked", BadTransferEncoding),
        (b"Transfer-Encoding: \"chunked\"", BadTransferEncoding),
        (b"Transfer-Encoding: chunked,", BadTransferEncoding),
        (b"Transfer-Encoding: ,chunked", BadTransferEncoding),
        (b"Transfer-Encoding: chunked;q=1", BadTransferEncoding),
        (b"Transfer-Encoding: identity", BadTransferEncoding),
        (b"Transfer-Encoding: gzip, chunked", BadTransferEncoding),
        (b"Transfer-Encoding: chunked, chunked", BadTransferEncoding),
        (b"Transfer-Encoding:", BadTransferEncoding),
        (b"Transfer-Encoding: chunked\r\nTransfer-Encoding: chunked", BadTransferEncoding),
        (b"Transfer-Encoding: cow\r\nTransfer-Encoding: chunked", BadTransferEncoding),
        (b"Transfer-Encoding: chun\xe2\x84\xaaed", BadTransferEncoding),
        (b"Transfer-Encoding: \xa0chunked", BadTransferEncoding),
        (b"Transfer-Encoding:\x0bchunked", BadHeaderValue),
        (b"Transfer-Encoding: chunked\x00", BadHeaderValue),
        (b"Transfer-Encoding: chunked\r", BareCr),
        (b"Transfer-Encoding:\r\n chunked", BadTransferEncoding),
        (b"Transfer-Encoding : chunked", SpaceBeforeColon),
        (b"Transfer-Encoding\t: chunked", SpaceBeforeColon),
        (b"Transfer-Encoding\x00: chunked", BadHeaderName),
        (b"Transfer Encoding: chunked", BadHeaderName),
        (b"Transfer-Encoding chunked", BadHeaderName),
        (b"\x00Transfer-Encoding: chunked", BadHeaderName),
        (b"X: X\nTransfer-Encoding: chunked", BareLf),
        (b"X: X\rTransfer-Encoding: chunked", BareCr),
        (b"X: y\r\n Transfer-Encoding: chunked", ObsFold),
        (b"Connection: close, Content-Length\r\nContent-Length: 5", ConnectionNamesFraming),
        (b"Connection: transfer-encoding", ConnectionNamesFraming),
        (b"Connection: host", ConnectionNamesFraming),
    ] {
        check(&with_fields(fields, CHUNKED), Some(expected));
    }
    check(b"POST /p HTTP/1.0\r\nTransfer-Encoding: chunked\r\n\r\n", Some(TeOnHttp10));
}

#[test]
fn field_lines_out_of_the_grammar_are_refused() {
    for (fields, expected) in [
        (&b"bad header"[..], BadHeaderName),
        (b": v", BadHeaderName),
        (b"X A: v", BadHeaderName),
        (b"X\xff: v", BadHeaderName),
        (b"X(A): v", BadHeaderName),
        (b"X-A : v", SpaceBeforeColon),
        (b"X-A: v\r\n w", ObsFold),
        (b"\tX-A: v", ObsFold),
        (b"X-A: v\x00w", BadHeaderValue),
        (b"X-A: v\x01", BadHeaderValue),
        (b"X-A: v\x7f", BadHeaderValue),
        (b"X-A: v\rw", BareCr),
        (b"X-A: v\r", BareCr),
        (b"X-A: v\nY-B: w", BareLf),
        (b"X\nA: v", BareLf),
        (b"X-A: v\r\n\n", BareLf),
    ] {
        check(&with_fields(fields, b""), Some(expected));
    }
    check(b"GET / HTTP/1.1\r\n Host: a\r\n\r\n", Some(ObsFold));
}

#[test]
fn chunks_out_of_the_grammar_are_refused() {
    let zeros = [&b"0".repeat(40)[..], CHUNKED].concat();
    let huge_extension = [b"5;", &b"a".repeat(20000)[..], b"\r\nhello\r\n0\r\n\r\n"].concat();
    for (body, expected) in [
        (&b"0x5\r\nhello\r\n0\r\n\r\n"[..], BadChunk),
        (b"+5\r\nhello\r\n0\r\n\r\n", BadChunk),
        (b"-5\r\nhello\r\n0\r\n\r\n", BadChunk),
        (b" 5\r\nhello\r\n0\r\n\r\n", BadChunk),
        (b"5 \r\nhello\r\n0\r\n\r\n", BadChunk),
        (b"5\nhello\r\n0\r\n\r\n", BadChunk),
        (b"5\r\nhello\n0\r\n\r\n", BadChunk),
        (b"5\r\nhello\r\n0\n\r\n", BadChunk),
        (b"5\r\nhello\r\n0\r\n\n", BareLf),
        (b"5\rhello\r\n0\r\n\r\n", BadChunk),
        (b"5\r\nhello0\r\n\r\n", BadChunk),
        (b"5\r\nhelloXX\r\n0\r\n\r\n", BadChunk),
        (b"10000000000000005\r\nhello", BadChunk),
        (b"8000000000000000\r\nhello", BadChunk),
        (&zeros, BadChunk),
        (&huge_extension, BadChunk),
        (b"\r\nhello\r\n0\r\n\r\n", BadChunk),
        (b"g\r\nhello\r\n0\r\n\r\n", BadChunk),
        (b"0_5\r\nhello\r\n0\r\n\r\n", BadChunk),
        (b"5,5\r\nhello\r\n0\r\n\r\n", BadChunk),
        (b"2;\nxx\r\n4c\r\n0\r\n\r\n", BadChunk),
        (b"5;a\rb\r\nhello\r\n0\r\n\r\n", BadChunk),
        (b"5;\x00\r\nhello\r\n0\r\n\r\n", BadChunk),
        (b"5;a=\"\r\n\"\r\nhello\r\n0\r\n\r\n", BadChunk),
        (b"0\r\nContent-Length: 99\r\n\r\n", BadTrailer),
        (b"0\r\nTransfer_Encoding: chunked\r\n\r\n", BadTrailer),
        (b"0\r\nHost: evil.test\r\n\r\n", BadTrailer),
        (b"0\r\nX-Forwarded-For: 6.6.6.6\r\n\r\n", BadTrailer),
        (b"0\r\nbad header\r\n\r\n", BadTrailer),
        (b"0\r\nGET /smuggled HTTP/1.1\r\n\r\n", BadTrailer),
        (b"0\r\nX: y\n\r\n", BareLf),
        (b"0\r\nX: y\rz\r\n\r\n", BareCr),
    ] {
        check(&with_fields(b"Transfer-Encoding: chunked", body), Some(expected));
    }
}

#[test]
fn request_lines_out_of_the_grammar_are_refused() {
    for line in [
        &b"GET  /p HTTP/1.1"[..],
        b"GET\t/p\tHTTP/1.1",
        b"GET /p HTTP/1.1 ",
        b"GET /p",
        b"GET /p HTTP/1.2",
        b"GET /p HTTP/0.9",
        b"PRI * HTTP/2.0",
        b"GET /p HTTP/1.1x",
        b"GET /p HTTP/01.1",
        b"GET /p http/1.1",
        b"GET /p HTTP/",
        b"GET /p HTTP/1.1 HTTP/1.1",
        b" GET /p HTTP/1.1",
        b"GE:T /p HTTP/1.1",
        b"G\x00T /p HTTP/1.1",
        b"GET /p\x00 HTTP/1.1",
        b"GET /p\x7f HTTP/1.1",
        b"GET /p\xff HTTP/1.1",
        b"GET /p q HTTP/1.1",
        b"GET /p#x HTTP/1.1",
        b"GET p HTTP/1.1",
        b"GET * HTTP/1.1",
        b"GET  HTTP/1.1",
        b"GET http://a.test@evil.test/ HTTP/1.1",
        b"GET ftp://a.test/ HTTP/1.1",
        b"GET http:///p HTTP/1.1",
        b"CONNECT /p HTTP/1.1",
        b"CONNECT a.test HTTP/1.1",
        b"GET a.test:80 HTTP/1.1",
        b"\x00GET /p HTTP/1.1",
    ] {
        check(&[line, b"\r\nHost: a.test\r\n\r\n"].concat(), Some(BadRequestLine));
    }
    check(b"GET /p HTTP/1.1\nHost: a.test\r\n\r\n", Some(BareLf));
    check(b"GET /p HTTP/1.1\rHost: a.test\r\n\r\n", Some(BareCr));
    check(b"\nGET /p HTTP/1.1\r\nHost: a.test\r\n\r\n", Some(BareLf));
    check(b"\rGET /p HTTP/1.1\r\nHost: a.test\r\n\r\n", Some(BareCr));
}

#[test]
fn one_good_host_is_needed() {
    for host in [
        "",
        "Host: a.test\r\nHost: evil.test\r\n",
        "Host: a.test\r\nhost: a.test\r\n",
        "Host:\r\n",
        "Host: a.test/x\r\n",
        "Host: a.test@evil\r\n",
        "Host: a.test evil\r\n",
        "Host: a.test, evil.test\r\n",
        "Host: a.test:80a\r\n",
        "Host: a.test:99999\r\n",
        "Host: \"a\"\r\n",
        "Host: http://a.test\r\n",
        "Host: [::1\r\n",
        "Host: [::g]\r\n",
        "Host: [::1]x\r\n",
        "Host: café\r\n",
        "Host: :80\r\n",
    ] {
        check(format!("GET / HTTP/1.1\r\n{host}\r\n").as_bytes(), Some(BadHost));
    }
}
