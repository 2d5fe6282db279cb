"""The edges of HTTP/1 that client programs do not reach: old versions, half-closes, bodies that go wrong half-way, answers
that come early, proxies in front, tunnels by CONNECT, and a drain in the middle of it all."""

import os
import re
import signal
import socket
import struct
import time

from h2_wire import *
from rig import Listener

HOST = b"Host: a.test\r\n"
CLOSE = b"Connection: close\r\n"
CHUNKED = b"Transfer-Encoding: chunked\r\n"
CHUNK = b"5\r\nhello\r\n"
V2_LOCAL = b"\r\n\r\n\0\r\nQUIT\n\x20\x00" + struct.pack(">H", 0)


def talk(port, *pieces, half_close=False, seconds=1.0):
    """(what came, how it ended: FIN, RST, or open after `seconds` of silence)"""
    with socket.create_connection(("127.0.0.1", port)) as sock:
        sock.settimeout(seconds)
        for at, piece in enumerate(pieces):
            time.sleep(0.05 if at else 0)
            sock.sendall(piece)
        if half_close:
            sock.shutdown(socket.SHUT_WR)
        got = b""
        try:
            while piece := sock.recv(1 << 16):
                got += piece
            return got, "FIN"
        except TimeoutError:
            return got, "open"
        except ConnectionResetError:
            return got, "RST"


def get(path, *fields, version=b"1.1"):
    return b"GET " + path + b" HTTP/" + version + b"\r\n" + HOST + b"".join(fields) + b"\r\n"


def post(path, *fields):
    return b"POST " + path + b" HTTP/1.1\r\n" + HOST + b"".join(fields) + b"\r\n"


def statuses(got):
    return [int(code) for code in re.findall(rb"HTTP/1\.[01] (\d\d\d) ", got)]


def checks(rig):
    origin = rig.start_origin()
    rig.start_weir(
        {
            "plain": Listener(origin, more='account = "plain-account"'),
            "behind": Listener(origin, more='proxy_protocol = "required"\naccount = "behind-account"'),
            "connect": Listener(origin, more="allow_connect = true"),
            "tls": Listener(origin, tls=True),
            "raw-to-tls": Listener(kind="tcp", via="tls"),
        },
        limits="header_read_timeout_ms = 1000",
    )
    old_versions(rig)
    refused_half_way(rig)
    early_and_late(rig)
    in_front_and_behind(rig)
    drain(rig)
    records(rig)


def old_versions(rig):
    score, port = rig.score, rig.ports["plain"]
    got, end = talk(port, b"GET /digest HTTP/1.0\r\n\r\n")
    score.check("HTTP/1.0 without Host: the origin gets one", statuses(got) == [200] and b'"host"' in got.lower() and end == "FIN", got[-300:])
    got, end = talk(port, get(b"/hello", b"Connection: keep-alive\r\n", version=b"1.0") * 2)
    score.check("HTTP/1.0 keep-alive is kept where the length is known", statuses(got) == [200, 200] and end == "open", (got, end))
    for path in (b"/chunked/30", b"/until-close/30"):
        got, end = talk(port, get(path, b"Connection: keep-alive\r\n", version=b"1.0"))
        good = statuses(got) == [200] and end == "FIN" and b"keep-alive" not in got and b"chunked" not in got.split(b"\r\n\r\n")[0]
        score.check(f"HTTP/1.0 {path.decode()}: no chunks, no promise, the end is the end", good and len(got.split(b"\r\n\r\n", 1)[1]) == 30, (got, end))
    got, end = talk(port, get(b"/early", version=b"1.0"))
    score.equal("HTTP/1.0 gets no informational response", statuses(got), [200])
    got, end = talk(port, b"GET /\r\n")
    score.equal("HTTP/0.9 is refused", (statuses(got), end), ([400], "FIN"))


def refused_half_way(rig):
    """What breaks the grammar after the forwarding has begun."""
    score, port = rig.score, rig.ports["plain"]
    for name, last in {
        "a chunk size that is none": b"zz\r\nhello\r\n0\r\n\r\n",
        "a bare LF after a chunk size": b"5\nhello\r\n0\r\n\r\n",
        "a chunk longer than it says": b"5\r\nhelloX\r\n0\r\n\r\n",
        "a trailer that frames": b"0\r\nContent-Length: 5\r\n\r\n",
        "a trailer with a space before the colon": b"0\r\nX-T : 5\r\n\r\n",
    }.items():
        got, end = talk(port, post(b"/digest", CHUNKED) + CHUNK, last + get(b"/smuggled"))
        score.equal(f"{name}: 400 and the end", (statuses(got), end), ([400], "FIN"))
        got, end = talk(port, post(b"/echo", CHUNKED) + CHUNK, last + get(b"/smuggled"))
        good = len(statuses(got)) == 1 and end != "open" and not got.endswith(b"0\r\n\r\n")
        score.check(f"{name}, the answer under way: cut, not passed off as whole", good, (got, end))
    got, end = talk(port, post(b"/digest", b"Content-Length: 3000000\r\n", CHUNKED) + b"x" * 3000000)
    score.equal("a refused upload reads its 400, not a reset", (statuses(got), end), ([400], "FIN"))
    got, end = talk(port, post(b"/refuse", b"Content-Length: 3000000\r\n") + b"x" * 3000000)
    score.check("an upload that the origin refuses early reads why", statuses(got) == [417], (got, end))


def early_and_late(rig):
    score, port = rig.score, rig.ports["plain"]
    got, end = talk(port, get(b"/early") * 3)
    score.equal("103 before each of three pipelined answers", statuses(got), [103, 200] * 3)
    got, end = talk(port, post(b"/digest", b"Expect: 100-continue\r\n", b"Content-Length: 5\r\n"), b"hello")
    score.equal("100 (Continue), then the answer", statuses(got), [100, 200])
    got, end = talk(port, post(b"/digest", b"Expect: miracles\r\n", b"Content-Length: 5\r\n") + b"hello")
    score.equal("any other expectation: 417", statuses(got), [417])
    got, end = talk(port, get(b"/hello"), half_close=True)
    score.equal("a client that half-closes gets its answer", (statuses(got), end), ([200], "FIN"))
    got, end = talk(port, post(b"/digest", b"Content-Length: 10\r\n") + b"hello", half_close=True)
    score.equal("a body cut short by the client is no request", (statuses(got), end), ([400], "FIN"))
    got, end = talk(port, b"GET /hello HTTP/1.1\r\nHos", seconds=3)
    score.equal("half a head: 408 in time", (statuses(got), end), ([408], "FIN"))
    got, end = talk(port, get(b"/cut/chunked"))
    score.check("an origin's cut chunks end without the last one", end == "FIN" and not got.endswith(b"0\r\n\r\n"), got[-30:])
    got, end = talk(port, get(b"/hello", b"Connection: Upgrade, HTTP2-Settings\r\nUpgrade: h2c\r\nHTTP2-Settings: AAMAAABk\r\n"))
    score.equal("Upgrade to h2c is passed over", statuses(got), [200])
    for name, head, status in (
        ("a header of 200 KB", get(b"/hello", b"X: " + b"y" * 200000 + b"\r\n"), 431),
        ("200 fields", get(b"/hello", b"".join(b"X-%d: y\r\n" % n for n in range(200))), 431),
        ("a target of 20 KB", get(b"/" + b"y" * 20000), 414),
    ):
        got, end = talk(port, head)
        score.equal(f"{name}: {status}", (statuses(got), end), ([status], "FIN"))


def in_front_and_behind(rig):
    """PROXY headers, CONNECT, and raw TCP to an origin with TLS that also speaks HTTP/2."""
    score = rig.score
    got, _ = talk(rig.ports["behind"], V2_LOCAL + get(b"/hello", CLOSE))
    score.equal("a PROXY LOCAL connection is served", statuses(got), [200])
    got, _ = talk(rig.ports["behind"], b"PROXY TCP4 9.8.7.6 1.2.3.4 1111 80\r\n" + get(b"/digest", CLOSE))
    score.check("who the PROXY header names is told to the origin", b'"x-forwarded-for", "9.8.7.6"' in got, got[-400:])
    got, end = talk(rig.ports["behind"], get(b"/hello"))
    score.check("no PROXY header where one is required: no answer", got == b"" and end != "open", (got, end))
    got, end = talk(rig.ports["connect"], b"CONNECT a.test:443 HTTP/1.1\r\nHost: a.test:443\r\n\r\n" + get(b"/hello", CLOSE))
    score.equal("CONNECT where it is allowed: a tunnel", (statuses(got), end), ([200, 200], "FIN"))
    peer = Peer(rig.ports["connect"], False)
    peer.send(frame(HEADERS, END_HEADERS, 1, block([(b":method", b"CONNECT"), (b":authority", b"a.test:443")])))
    peer.send(frame(DATA, 0, 1, get(b"/hello", CLOSE)))
    tunnelled = lambda: b"".join(p for k, _, s, p in peer.frames if k == DATA and s == 1)
    score.check("CONNECT over HTTP/2: a stream that is a tunnel", peer.wait(lambda: b"hello from the origin" in tunnelled(), 2), peer.told())
    score.check("its stream ends with the origin's side, the connection does not", not peer.closed and not peer.has(GOAWAY), peer.told())
    peer.close()
    got, end = talk(rig.ports["raw-to-tls"], get(b"/hello", CLOSE))
    score.equal("raw TCP to an origin over TLS offers it no protocol", (statuses(got), end), ([200], "FIN"))


def drain(rig):
    """SIGTERM while a request is half sent over each version, and a tunnel is open."""
    score, port = rig.score, rig.ports["plain"]
    upload = socket.create_connection(("127.0.0.1", port))
    upload.sendall(post(b"/digest", b"Content-Length: 10\r\n") + b"hello")
    tunnel = socket.create_connection(("127.0.0.1", port))
    tunnel.sendall(get(b"/x", b"Connection: Upgrade\r\nUpgrade: raw\r\n"))
    tunnel.settimeout(3)
    upload.settimeout(3)
    tunnel.recv(999)
    peer = Peer(port, False)
    peer.send(frame(HEADERS, END_HEADERS, 1, block(request(b"POST", b"/digest"))) + frame(DATA, 0, 1, b"hello"))
    time.sleep(0.3)
    os.kill(rig.weir.pid, signal.SIGTERM)
    time.sleep(0.5)
    upload.sendall(b"world")
    got = b""
    while piece := upload.recv(1 << 16):
        got += piece
    score.check("drain: the answer says that it is the last", statuses(got) == [200] and b"connection: close" in got.lower(), got[:300])
    peer.send(frame(DATA, END_STREAM, 1, b"world"))
    score.check("drain: the stream is answered, after GOAWAY", peer.wait(lambda: peer.answered(1) and peer.has(GOAWAY), 3), peer.told())
    tunnel.sendall(b"still there")
    score.equal("drain: the tunnel goes on", tunnel.recv(99), b"still there")
    for end in (upload, tunnel, peer):
        end.close()


def records(rig):
    """What weir wrote down of it; the rig looks at the sums."""
    score = rig.score
    rig.weir_ended = True
    score.equal("drain: weir ends with 0", rig.weir.wait(15), 0)
    closed = [r for r in rig.records() if r.get("phase") == "close"]
    requests = [r for r in closed if r["kind"] == "request"]
    accounts = {r.get("account") for r in requests if r.get("listener") == "plain"}
    score.equal("every request is its listener's account's", accounts, {"plain-account"})
    score.equal("every request knows its protocol", {r.get("protocol") for r in requests} - {"h1", "h2", "connect", "raw", "ws"}, set())
    behind = [r for r in closed if r.get("listener") == "behind"]
    checks_of_its_own = [r for r in behind if r.get("reason") == "health_check"]
    good = len(checks_of_its_own) == 2 and all(r["account"] == "unattributed" and not r.get("billable") for r in checks_of_its_own)
    score.check("PROXY LOCAL: session and request are nobody's and not billed", good, behind)
    named = [r for r in behind if r.get("client_ip") == "9.8.7.6"]
    score.check("the client that a PROXY header names is billed", len(named) == 2 and all(r["account"] == "behind-account" for r in named), named)
