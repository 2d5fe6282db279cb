"""Request smuggling: what two HTTP parsers could read differently must not pass through weir.

Each payload goes to weir on a connection of its own, with a recording origin behind. The verdict is
  refused      nothing complete reached the origin,
  clean        what reached it reads one way only, by `strict_http`,
  or a fault   named by the reader; `hidden request` when the origin saw more requests than the client got answers,
               `extra answer` when it is the other way round.
Refused and clean are both safe; LEGAL payloads must pass clean, with every request answered.
"""

import re
import socket
import threading
import time

from h2_wire import DATA, END_HEADERS, END_STREAM, HEADERS, RST_STREAM, Peer, block, frame
from rig import Listener, in_parallel
from strict_http import CUT, read_requests

LANES = 6
IDLE_S = 0.25
HOST = b"Host: a.test\r\n"
HIDDEN = b"GET /hidden HTTP/1.1\r\nHost: a.test\r\n\r\n"
HELLO = b"5\r\nhello\r\n0\r\n\r\n"
CHUNKED = b"Transfer-Encoding: chunked\r\n"


def message(fields=b"", body=b"", line=b"POST /p HTTP/1.1", host=HOST):
    return line + b"\r\n" + host + fields + b"\r\n" + body


def get(fields=b"", line=b"GET /p HTTP/1.1", host=HOST):
    return message(fields, b"", line, host)


def with_length(size):
    return b"Content-Length: %d\r\n" % size


# Name → (payload, requests that must be answered).
LEGAL = {
    "GET": (get(), 1),
    "POST with a length": (message(with_length(5), b"hello"), 1),
    "POST in chunks": (message(CHUNKED, HELLO), 1),
    "coding in odd case": (message(b"transfer-ENCODING: Chunked\r\n", HELLO), 1),
    "chunk extension": (message(CHUNKED, b"5;a=b\r\nhello\r\n0\r\n\r\n"), 1),
    "quoted chunk extension": (message(CHUNKED, b'5;a="b c"\r\nhello\r\n0\r\n\r\n'), 1),
    "trailers": (message(CHUNKED, b"5\r\nhello\r\n0\r\nX-T: 1\r\n\r\n"), 1),
    "three in a pipeline": (get() + message(with_length(5), b"hello") + get(), 3),
    "length 0": (message(with_length(0)), 1),
    "GET with a body": (message(with_length(5), b"hello", b"GET /p HTTP/1.1"), 1),
    "HTTP/1.0": (get(line=b"GET /p HTTP/1.0"), 1),
    "blanks around a value": (get(b"X-A:\t v \t\r\n"), 1),
    "UTF-8 in a value": (get("X-A: café\r\n".encode()), 1),
    "absolute form": (get(line=b"GET http://a.test/p HTTP/1.1"), 1),
    "an empty line first": (b"\r\n" + get(), 1),
    "Expect": (message(with_length(5) + b"Expect: 100-continue\r\n", b"hello"), 1),
}


def attacks():
    """(name, payload) of everything that may pass only in one unambiguous form, or not at all."""
    for group in (two_framings, coding_in_disguise, coding_alone, lengths, chunks, request_lines, hosts, fields, upgrades_and_versions):
        for name, payload in group():
            yield f"{group.__name__.replace('_', ' ')}: {name}", payload


def two_framings():
    length, coding = with_length(6), CHUNKED
    for name, pair in (("length, coding", length + coding), ("coding, length", coding + length)):
        yield name, message(pair, b"0\r\n\r\nG")
        yield f"{name}, HTTP/1.0", message(pair, b"0\r\n\r\nG", b"POST /p HTTP/1.0")
        yield f"{name}, a whole request behind", message(pair.replace(b"6", b"%d" % (5 + len(HIDDEN))), b"0\r\n\r\n" + HIDDEN)
    yield "length ends inside the first chunk", message(coding + with_length(4), b"%x\r\n" % len(HIDDEN) + HIDDEN + b"\r\n0\r\n\r\n")
    yield "length and coding named as hop-by-hop", message(coding + length + b"Connection: content-length\r\n", b"0\r\n\r\nG")


ODD_BYTES = [0, 1, 4, 8, 9, 0xA, 0xB, 0xC, 0xD, 0x1F, 0x20, 0x7F, 0x85, 0xA0, 0xFF]
BAD_CODINGS = {
    "of another name": b"xchunked",
    "with a tail": b"chunkedx",
    "in double quotes": b'"chunked"',
    "in single quotes": b"'chunked'",
    "and a comma": b"chunked,",
    "after a comma": b",chunked",
    "with a parameter": b"chunked;q=1",
    "identity": b"identity",
    "after identity": b"identity, chunked",
    "before identity": b"chunked, identity",
    "twice": b"chunked, chunked",
    "after gzip": b"gzip, chunked",
    "before gzip": b"chunked, gzip",
    "empty": b"",
    "with a Kelvin sign": "chun\u212aed".encode(),
    "after a no-break space": "\u00a0chunked".encode(),
    "folded": b"\r\n chunked",
    "folded by a tab": b"\r\n\tchunked",
    "with NUL": b"chunked\0",
    "with a vertical tab": b"\x0bchunked",
}


def coding_in_disguise():
    """A length covers everything; a second parser that sees the coding finds the hidden request."""
    body = b"0\r\n\r\n" + HIDDEN
    disguise = lambda field: message(field + b"\r\n" + with_length(len(body)), body)
    for value in ODD_BYTES:
        byte = bytes([value])
        yield f"{value:#04x} before the value", disguise(b"Transfer-Encoding:" + byte + b"chunked")
        yield f"{value:#04x} after the value", disguise(b"Transfer-Encoding: chunked" + byte)
        yield f"{value:#04x} after the name", disguise(b"Transfer-Encoding" + byte + b": chunked")
        yield f"{value:#04x} before the name", disguise(byte + b"Transfer-Encoding: chunked")
        yield f"{value:#04x} in the name", disguise(b"Transfer" + byte + b"Encoding: chunked")
        yield f"{value:#04x} as a line end before it", disguise(b"X: x" + byte + b"Transfer-Encoding: chunked")
        yield f"{value:#04x} as a line end after it", disguise(b"Transfer-Encoding: chunked" + byte + b"X: x")
        yield f"CR and {value:#04x} before it", disguise(b"X: x\r" + byte + b"Transfer-Encoding: chunked")
    for name, value in BAD_CODINGS.items():
        yield name, disguise(b"Transfer-Encoding: " + value)
    for first, second in ((b"chunked", b"cow"), (b"cow", b"chunked"), (b"chunked", b"identity"), (b"identity", b"chunked"), (b"chunked", b"chunked")):
        yield f"two fields, {first.decode()} and {second.decode()}", disguise(b"Transfer-Encoding: " + first + b"\r\nTransfer-Encoding: " + second)
    for name, field in {
        "underscore": b"Transfer_Encoding: chunked",
        "no colon": b"Transfer-Encoding chunked",
        "equals sign": b"Transfer-Encoding= chunked",
        "folded into another": b"X: y\r\n Transfer-Encoding: chunked",
        "beside TE": b"TE: chunked\r\nTransfer-Encoding : chunked",
        "Content-Encoding": b"Content-Encoding: chunked",
    }.items():
        yield name, disguise(field)


def coding_alone():
    for name, value in BAD_CODINGS.items():
        yield name, message(b"Transfer-Encoding: " + value + b"\r\n", HELLO + HIDDEN)
    yield "blank before the colon", message(b"Transfer-Encoding : chunked\r\n", HELLO + HIDDEN)
    yield "two fields", message(CHUNKED * 2, HELLO + HIDDEN)
    yield "two fields, the other unknown", message(CHUNKED + b"Transfer-Encoding: cow\r\n", HELLO + HIDDEN)


def lengths():
    values = {
        "plus": b"+5",
        "minus": b"-5",
        "minus zero": b"-0",
        "blank inside": b"5 5",
        "tab inside": b"5\t5",
        "hexadecimal": b"0x5",
        "list of equals": b"5, 5",
        "list": b"5, 6",
        "comma first": b",5",
        "semicolon": b"5;",
        "leading zero": b"05",
        "point": b"5.0",
        "exponent": b"5e0",
        "empty": b"",
        "NUL": b"5\0",
        "vertical tab": b"5\x0b",
        "Arabic digit": "٥".encode(),
        "beyond 64 bits": b"18446744073709551621",
        "below 64 bits": b"-18446744073709551611",
        "quoted": b'"5"',
        "underscore": b"5_0",
        "a word": b"five",
        "a letter behind": b"5a",
        "folded": b"5\r\n ",
        "folded digits": b"\r\n 5",
        "300 zeros": b"0" * 300 + b"5",
        "0xff behind": b"5\xff",
    }
    for name, value in values.items():
        yield name, message(b"Content-Length: " + value + b"\r\n", b"hello" + HIDDEN)
    yield "two equal", message(with_length(5) * 2, b"hello")
    yield "5 and 0", message(with_length(5) + with_length(0), b"hello" + HIDDEN)
    yield "0 and more", message(with_length(0) + with_length(len(HIDDEN)), HIDDEN)
    yield "two in different case", message(with_length(5) + b"content-length: 0\r\n", b"hello" + HIDDEN)
    yield "blank before the colon", message(b"Content-Length : 5\r\n", b"hello" + HIDDEN)
    yield "underscore in the name", message(b"Content_Length: %d\r\n" % len(HIDDEN), HIDDEN)
    yield "named as hop-by-hop", message(b"Connection: content-length\r\n" + with_length(len(HIDDEN)), HIDDEN)
    for method in (b"GET", b"HEAD", b"OPTIONS", b"DELETE", b"PUT", b"FOO"):
        yield f"{method.decode()} with a body", message(with_length(5), b"hello" + HIDDEN, method + b" /p HTTP/1.1")


def chunks():
    end = b"\r\nhello\r\n0\r\n\r\n"
    for name, size in {
        "0x": b"0x5",
        "plus": b"+5",
        "minus": b"-5",
        "blank before": b" 5",
        "blank behind": b"5 ",
        "tab behind": b"5\t",
        "40 zeros": b"0" * 40 + b"5",
        "9000 zeros": b"0" * 9000 + b"5",
        "beyond 64 bits": b"10000000000000005",
        "beyond 32 bits": b"100000005",
        "empty": b"",
        "a letter": b"g",
        "underscore": b"0_5",
        "comma": b"5,5",
        "0xff": b"\xff",
        "NUL": b"5\0",
    }.items():
        yield f"size: {name}", message(CHUNKED, size + end + HIDDEN)
    for name, extension in {
        "line feed": b";a\nhello",
        "line feed, hiding": b";\nxx\r\n4c",
        "carriage return": b";a\rb",
        "NUL": b";\0",
        "line feed in quotes": b';a="\n"',
        "CRLF in quotes": b';a="\r\n"',
        "20000 bytes": b";" + b"a" * 20000,
    }.items():
        yield f"extension: {name}", message(CHUNKED, b"5" + extension + end + HIDDEN)
    bodies = {
        "line feed after the size": b"5\nhello\r\n0\r\n\r\n",
        "line feed after the data": b"5\r\nhello\n0\r\n\r\n",
        "line feed after the last size": b"5\r\nhello\r\n0\n\r\n",
        "line feed at the end": b"5\r\nhello\r\n0\r\n\n",
        "carriage return after the size": b"5\rhello\r\n0\r\n\r\n",
        "nothing after the data": b"5\r\nhello0\r\n\r\n",
        "more data than said": b"5\r\nhelloXX\r\n0\r\n\r\n",
        "two bytes for the line end": b"5\r\nhelloXY0\r\n\r\n",
        "last size 000": b"5\r\nhello\r\n000\r\n\r\n",
        "last size with extension": b"5\r\nhello\r\n0;x=y\r\n\r\n",
        "last size 0x0": b"5\r\nhello\r\n0x0\r\n\r\n",
        "last size -0": b"5\r\nhello\r\n-0\r\n\r\n",
    }
    for name, body in bodies.items():
        yield name, message(CHUNKED, body + HIDDEN)
    trailers = {
        "length": b"Content-Length: 99",
        "coding": b"Transfer-Encoding: chunked",
        "host": b"Host: evil.test",
        "line feed": b"X: y\n",
        "no colon": b"bad field",
        "a request": b"GET /hidden HTTP/1.1",
        "X-Forwarded-For": b"X-Forwarded-For: 6.6.6.6",
        "folded": b"X: y\r\n z",
        "blank before the colon": b"X : y",
        "NUL": b"X: \0",
    }
    for name, trailer in trailers.items():
        yield f"trailer: {name}", message(CHUNKED, b"5\r\nhello\r\n0\r\n" + trailer + b"\r\n\r\n" + HIDDEN)
    for method in (b"GET", b"HEAD"):
        yield f"{method.decode()} in chunks", message(CHUNKED, HELLO + HIDDEN, method + b" /p HTTP/1.1")


def request_lines():
    versions = {
        "HTTP/1.2": b"HTTP/1.2",
        "HTTP/0.9": b"HTTP/0.9",
        "HTTP/2.0": b"HTTP/2.0",
        "HTTP/1.1x": b"HTTP/1.1x",
        "HTTP/01.1": b"HTTP/01.1",
        "lower case": b"http/1.1",
        "HTTP/1.10": b"HTTP/1.10",
        "no number": b"HTTP/",
        "two of them": b"HTTP/1.1 HTTP/1.1",
        "a blank behind": b"HTTP/1.1 ",
    }
    for name, version in versions.items():
        yield f"version: {name}", get(line=b"GET /p " + version)
    targets = {
        "NUL": b"/p\0",
        "control byte": b"/p\x01",
        "DEL": b"/p\x7f",
        "0xff": b"/p\xff",
        "blank": b"/p q",
        "fragment": b"/p#x",
        "no slash": b"p",
        "star": b"*",
        "empty": b"",
        "another host": b"http://evil.test/p",
        "userinfo": b"http://a.test@evil.test/",
        "ftp": b"ftp://a.test/",
        "two slashes": b"//evil.test/p",
        "dots": b"/a/../../admin",
        "backslashes": b"/a\\..\\admin",
        "authority": b"a.test:80",
        "70000 bytes": b"/" + b"a" * 70000,
        "tab": b"/p\tq",
        "absolute, blank host": b"http:///p",
        "absolute, bad port": b"http://a.test:8x/p",
    }
    for name, target in targets.items():
        yield f"target: {name}", get(line=b"GET " + target + b" HTTP/1.1")
    for name, method in {
        "colon": b"GE:T",
        "slash": b"G/T",
        "NUL": b"G\0T",
        "lower case": b"get",
        "blank first": b" GET",
        "0xff": b"G\xffT",
        "empty": b"",
    }.items():
        yield f"method: {name}", get(line=method + b" /p HTTP/1.1")
    for name, line in {
        "two blanks": b"GET  /p HTTP/1.1",
        "tabs": b"GET\t/p\tHTTP/1.1",
        "no version": b"GET /p",
        "CONNECT": b"CONNECT a.test:443 HTTP/1.1",
        "CONNECT to a path": b"CONNECT /p HTTP/1.1",
        "TRACE": b"TRACE /p HTTP/1.1",
        "PRI": b"PRI * HTTP/2.0",
    }.items():
        yield name, get(line=line)
    for name, start in {"five empty lines": b"\r\n" * 5, "line feed": b"\n", "carriage return": b"\r", "NUL": b"\0"}.items():
        yield f"{name} first", start + get()
    for name, line_end in {"line feed": b"\n", "carriage return": b"\r"}.items():
        yield f"ended by a {name}", b"GET /p HTTP/1.1" + line_end + HOST + b"\r\n"


def hosts():
    values = {
        "empty": b"",
        "a path": b"a.test/x",
        "userinfo": b"a.test@evil",
        "a blank": b"a.test evil",
        "a comma": b"a.test, evil.test",
        "folded": b"\r\n a.test",
        "NUL": b"a.test\0evil",
        "bad port": b"a.test:80a",
        "large port": b"a.test:99999",
        "control byte": b"a\x01b",
        "quotes": b'"a"',
        "a scheme": b"http://a.test",
        "open bracket": b"[::1",
    }
    for name, value in values.items():
        yield name, get(host=b"Host: " + value + b"\r\n")
    yield "none", get(host=b"")
    yield "two", get(host=b"Host: a.test\r\nHost: evil.test\r\n")
    yield "two equal", get(host=HOST * 2)
    yield "blank before the colon", get(host=b"Host : a.test\r\n")
    yield "folded into another", get(host=b"X: y\r\n Host: evil.test\r\n" + HOST)
    yield "named as hop-by-hop", get(b"Connection: host\r\n")


def fields():
    lines = {
        "no colon": b"bad field",
        "no name": b": v",
        "blank in the name": b"X A: v",
        "blank before the colon": b"X-A : v",
        "folded": b"X-A: v\r\n w",
        "parenthesis in the name": b"X(A): v",
        "0xff in the name": b"X\xff: v",
        "NUL in the name": b"X\0: v",
        "line feed in the name": b"X\nA: v",
        "NUL": b"X-A: v\0w",
        "carriage return": b"X-A: v\rw",
        "line feed": b"X-A: v\nY-B: w",
        "control byte": b"X-A: v\x01",
        "DEL": b"X-A: v\x7f",
        "CR CR LF": b"X-A: v\r",
        "200000 bytes": b"X-A: " + b"v" * 200000,
        "2000 of them": b"\r\n".join(b"X-%d: v" % n for n in range(2000)),
        "X-Forwarded-For as hop-by-hop": b"Connection: close, X-Forwarded-For\r\nX-Forwarded-For: 1.2.3.4",
        "TE": b"TE: trailers",
        "Proxy-Connection": b"Proxy-Connection: keep-alive",
        "Keep-Alive": b"Keep-Alive: timeout=5\r\nConnection: keep-alive",
    }
    for name, line in lines.items():
        yield name, get(line + b"\r\n")
    yield "folded first line", get(b" X-A: v\r\n", host=b"")
    yield "an end by line feed", get(b"X-A: v\r\n\n" + HIDDEN)
    yield "coding as hop-by-hop", message(b"Connection: transfer-encoding\r\n" + CHUNKED, HELLO)
    for name, expect in {"a list": b"100-continue, x", "a word first": b"y 100-continue", "upper case": b"100-CONTINUE", "another": b"200-ok"}.items():
        yield f"Expect: {name}", message(with_length(5) + b"Expect: " + expect + b"\r\n", b"hello" + HIDDEN)
    yield "Expect with both framings", message(b"Expect: 100-continue\r\n" + CHUNKED + with_length(4), b"0\r\n\r\n" + HIDDEN)


def upgrades_and_versions():
    upgrade = lambda to, more=b"": b"Upgrade: " + to + b"\r\nConnection: Upgrade\r\n" + more
    key = b"Sec-WebSocket-Version: 13\r\nSec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n"
    yield "upgrade with a request behind", get(upgrade(b"foo")) + HIDDEN
    yield "WebSocket with a request behind", get(upgrade(b"websocket", key)) + HIDDEN
    yield "WebSocket of a bad version", get(upgrade(b"websocket", b"Sec-WebSocket-Version: 777\r\n")) + HIDDEN
    yield "h2c", get(b"Upgrade: h2c\r\nConnection: Upgrade, HTTP2-Settings\r\nHTTP2-Settings: AAMAAABkAARAAAAAAAIAAAAA\r\n")
    yield "upgrade with a body", message(upgrade(b"foo") + with_length(5), b"hello" + HIDDEN)
    yield "upgrade without Connection", get(b"Upgrade: foo\r\n") + HIDDEN
    old = b"POST /p HTTP/1.0"
    yield "HTTP/1.0 in chunks", message(CHUNKED, HELLO + HIDDEN, old)
    yield "HTTP/1.0 in chunks, kept alive", message(b"Connection: keep-alive\r\n" + CHUNKED, HELLO + HIDDEN, old)
    yield (
        "HTTP/1.0 list of codings",
        message(b"Connection: keep-alive\r\nTransfer-Encoding: identity, chunked\r\n" + with_length(29), b"0\r\n\r\n" + HIDDEN, old),
    )
    yield "HTTP/1.0 POST without a length", message(b"", HIDDEN, old)
    yield "HTTP/1.0 POST without a length, kept alive", message(b"Connection: keep-alive\r\n", HIDDEN, old)
    yield "HTTP/1.0 pipeline", get(b"Connection: keep-alive\r\n", b"GET /p HTTP/1.0") + HIDDEN


def pseudo(**changed):
    """The pseudo-headers of a POST, some changed, None leaving one out."""
    usual = {"method": b"POST", "scheme": b"https", "authority": b"a.test", "path": b"/p"} | changed
    return [(b":" + name.encode(), value) for name, value in usual.items() if value is not None]


H2_LEGAL = {
    "GET": (pseudo(method=b"GET"), None, None),
    "POST": (pseudo(), b"hello", None),
    "POST with a length": (pseudo() + [(b"content-length", b"5")], b"hello", None),
    "trailers": (pseudo(), b"hello", [(b"x-t", b"1")]),
}


def downgrades():
    """(name, (fields, body, trailers)) of HTTP/2 requests that would do harm when written as HTTP/1.1."""
    plus = lambda *fields: (pseudo() + list(fields), b"hello", None)
    changed = lambda **values: (pseudo(**values), b"hello", None)
    yield "length shorter than the body", (pseudo() + [(b"content-length", b"0")], HIDDEN, None)
    yield "length longer than the body", (pseudo() + [(b"content-length", b"50")], b"hello", None)
    yield "length without a body", (pseudo(method=b"GET") + [(b"content-length", b"5")], None, None)
    yield "two lengths", plus((b"content-length", b"5"), (b"content-length", b"0"))
    for value in (b"+5", b"5, 5", b"-1", b"18446744073709551621", b"5 ", b"", b"0x5"):
        yield f"length {value!r}", plus((b"content-length", value))
    for name in (b"transfer-encoding", b"transfer-encoding ", b"Transfer-Encoding", b"transfer_encoding"):
        yield f"coding as {name!r}", (pseudo() + [(name, b"chunked")], b"0\r\n\r\n" + HIDDEN, None)
    yield "coding and length", (pseudo() + [(b"transfer-encoding", b"chunked"), (b"content-length", b"5")], b"0\r\n\r\n", None)
    values = {
        "CR LF": b"x\r\nTransfer-Encoding: chunked",
        "LF": b"x\nTransfer-Encoding: chunked",
        "CR": b"x\rTransfer-Encoding: chunked",
        "NUL": b"x\0y",
        "a request": b"x\r\n\r\n" + HIDDEN,
        "blank first": b" x",
        "blank last": b"x ",
        "control byte": b"x\x01",
        "DEL": b"x\x7f",
    }
    for field in (b"x-a", b"host", b"cookie"):
        for name, value in values.items():
            yield f"{name} in {field.decode()}", plus((field, value))
    for name in (b"x-a: v\r\nTransfer-Encoding: chunked\r\nx", b"x\ny", b"x:y", b"x y", b"", b"X-A", b"x\0", b"x\xff", b"x(a)", b":x-a", b"x\t", b"x\r"):
        yield f"field name {name[:12]!r}", plus((name, b"v"))
    for path in (
        b"/p HTTP/1.1\r\nHost: evil\r\nX: ",
        b"/p HTTP/1.1 x",
        b"/p\nX: y",
        b"/p\0",
        b"",
        b"p",
        b"http://evil.test/p",
        b"/p#x",
        b"/\xff",
        b"*",
        b"/p\tx",
        b"/p\x01",
        b"//evil.test/p",
    ):
        yield f"path {path[:20]!r}", changed(path=path)
    for method in (b"POST /x HTTP/1.1\r\nHost: a\r\n\r\nGET", b"GET /hidden", b"post", b"", b"P\x01", b"CONNECT", b"GET\t"):
        yield f"method {method[:12]!r}", changed(method=method)
    for authority in (b"a.test\r\nX: y", b"a.test evil", b"u@a.test", b"a.test/x", b"", b"a.test,evil", b"a\0", b"a.test:80x"):
        yield f"authority {authority!r}", changed(authority=authority)
    for scheme in (b"http\r\nX: y", b"javascript", b"http://evil/?", b""):
        yield f"scheme {scheme!r}", changed(scheme=scheme)
    yield "host is another than the authority", plus((b"host", b"evil.test"))
    yield "two hosts and an authority", plus((b"host", b"a.test"), (b"host", b"evil.test"))
    yield "two hosts, no authority", (pseudo(authority=None) + [(b"host", b"a.test"), (b"host", b"evil")], b"hello", None)
    for name in (b":authority", b":path", b":method", b":scheme"):
        yield f"two {name.decode()}", plus((name, b"/evil"))
    yield "pseudo-header after a field", (pseudo()[:1] + [(b"x-a", b"v")] + pseudo()[1:], b"hello", None)
    yield "unknown pseudo-header", ([(b":foo", b"x")] + pseudo(), b"hello", None)
    yield "status in a request", ([(b":status", b"200")] + pseudo(), b"hello", None)
    yield "protocol without CONNECT", ([(b":protocol", b"websocket")] + pseudo(), b"hello", None)
    for name, value in (
        (b"connection", b"close"),
        (b"keep-alive", b"x"),
        (b"proxy-connection", b"x"),
        (b"upgrade", b"foo"),
        (b"te", b"gzip"),
        (b"http2-settings", b"AAA"),
    ):
        yield f"connection field {name.decode()}", plus((name, value))
    for name, trailer in {
        "pseudo-header": (b":path", b"/evil"),
        "length": (b"content-length", b"99"),
        "coding": (b"transfer-encoding", b"chunked"),
        "host": (b"host", b"evil.test"),
        "CR LF": (b"x", b"y\r\nz: w"),
        "upper case": (b"X-T", b"1"),
    }.items():
        yield f"trailer: {name}", (pseudo(), b"hello", [trailer])


class Recorder:
    """An origin that keeps every byte of the current payload and answers each request it can read."""

    def __init__(self):
        self.listener = socket.create_server(("127.0.0.1", 0), backlog=128)
        self.port = self.listener.getsockname()[1]
        self.lock, self.epoch, self.connections, self.heard_at = threading.Lock(), 0, {}, 0.0
        threading.Thread(target=self.accept, daemon=True).start()

    def accept(self):
        while True:
            sock, _ = self.listener.accept()
            threading.Thread(target=self.serve, args=(sock,), daemon=True).start()

    def begin(self):
        """Forgets what was heard: connections may be kept from payload to payload."""
        with self.lock:
            self.epoch, self.connections, self.heard_at = self.epoch + 1, {}, 0.0

    def serve(self, sock):
        epoch, answered = -1, 0
        try:
            while piece := sock.recv(1 << 16):
                with self.lock:
                    if epoch != self.epoch:
                        epoch, answered = self.epoch, 0
                    heard = self.connections[sock] = self.connections.get(sock, b"") + piece
                    self.heard_at = time.monotonic()
                requests, _ = read_requests(heard)
                if requests and not requests[-1].complete and requests[-1].first("expect"):
                    sock.sendall(b"HTTP/1.1 100 Continue\r\n\r\n")
                for request in [r for r in requests if r.complete][answered:]:
                    body = b"" if request.method == "HEAD" else b"ok"
                    sock.sendall(b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\n" + body)
                    answered += 1
        except OSError:
            pass
        finally:
            sock.close()

    def verdict(self, answers):
        """(safe verdict or what is wrong, complete requests); `answers`: final answers and good ones among them."""
        with self.lock:
            heard = list(self.connections.values())
        complete, faults = 0, set()
        for data in heard:
            requests, found = read_requests(data)
            complete += sum(r.complete for r in requests)
            faults |= set(found)
        finals, good = answers
        faults.discard(CUT)
        if complete > finals and complete > 1:
            return f"hidden request: {heard}"[:400], complete
        if faults:
            return f"{', '.join(sorted(faults))}: {heard}"[:400], complete
        if good > complete:
            return "extra answer", complete
        return ("clean" if complete else "refused"), complete


def talk(port, payload, recorder):
    """Sends, reads until the end or silence on both sides; returns (final answers, answers 200 or 101)."""
    got, last, start = b"", time.monotonic(), time.monotonic()
    try:
        with socket.create_connection(("127.0.0.1", port), 5) as sock:
            sock.settimeout(2)
            try:
                sock.sendall(payload)
            except OSError:
                pass
            sock.settimeout(0.05)
            while time.monotonic() - max(last, recorder.heard_at) < IDLE_S and time.monotonic() - start < 6:
                try:
                    piece = sock.recv(1 << 16)
                except TimeoutError:
                    continue
                if not piece:
                    break
                got, last = got + piece, time.monotonic()
    except OSError:
        pass
    codes = [int(code) for code in re.findall(rb"HTTP/1\.[01] (\d{3})", got)]
    return sum(c >= 200 or c == 101 for c in codes), sum(c in (200, 101) for c in codes)


def talk_h2(port, recorder, fields, body, trailers):
    peer = Peer(port, False)
    data = frame(HEADERS, END_HEADERS | (END_STREAM if body is None else 0), 1, block(fields))
    if body is not None:
        data += frame(DATA, 0 if trailers else END_STREAM, 1, body)
    if trailers:
        data += frame(HEADERS, END_HEADERS | END_STREAM, 1, block(trailers))
    peer.send(data)
    peer.wait(lambda: peer.closed or peer.answered(1) or peer.has(RST_STREAM, 1), 3)
    time.sleep(0.03)
    peer.close()
    status = peer.statuses.get(1)
    return (1 if status else 0), (1 if status == 200 else 0)


def checks(rig):
    recorders = [Recorder() for _ in range(LANES)]
    rig.start_weir({f"lane-{n}": Listener(recorder.port) for n, recorder in enumerate(recorders)})
    jobs = [(f"legal: {name}", talk, (payload,), count) for name, (payload, count) in LEGAL.items()]
    jobs += [(name, talk, (payload,), None) for name, payload in attacks()]
    jobs += [(f"legal over h2: {name}", talk_h2, parts, 1) for name, parts in H2_LEGAL.items()]
    jobs += [(f"h2 to h1: {name}", talk_h2, parts, None) for name, parts in downgrades()]
    assert len({name for name, *_ in jobs}) == len(jobs)

    def lane(number):
        recorder, port = recorders[number], rig.ports[f"lane-{number}"]
        for name, how, parts, must_answer in jobs[number::LANES]:
            recorder.begin()
            answers = how(port, *parts, recorder) if how is talk else how(port, recorder, *parts)
            verdict, complete = recorder.verdict(answers)
            if must_answer is not None:
                rig.score.check(
                    name,
                    (verdict, complete, answers) == ("clean", must_answer, (must_answer, must_answer)),
                    f"{verdict}, {complete} at the origin, answers {answers}",
                )
                continue
            safe = verdict in ("clean", "refused")
            if name.endswith(("shorter than the body", "longer than the body", "length without a body")) and answers[1]:
                safe, verdict = False, "a length that is not the body's was accepted"
            rig.score.check(name, safe, verdict)

    for _, _, error in in_parallel(LANES, lane, range(LANES)):
        if error:
            raise error
