"""curl, nghttp and h2load: HTTP/1.0, 1.1, h2c and h2 over TLS, both ways, small and large."""

import hashlib
import json
import os
import re
import shutil
import socket
import subprocess
import time
from dataclasses import dataclass

from origin import pattern
from rig import Listener, session_totals

MIB = 1 << 20


@dataclass
class Answer:
    """What curl says of its last transfer, and the bytes of all of them."""

    exit: int
    status: int
    version: str
    head: str
    body: bytes
    errors: str
    connects: list
    request_bytes: int
    response_bytes: int

    @property
    def json(self):
        return json.loads(self.body)

    def header(self, name):
        return [line.split(":", 1)[1].strip() for line in self.head.splitlines() if line.lower().startswith(name + ":")]


def url(rig, listener, path):
    return f"{'https' if 'tls' in listener else 'http'}://localhost:{rig.ports[listener]}{path}"


WRITE_OUT = "%{stderr}@@%{http_code} %{http_version} %{num_connects} %{size_request} %{size_upload} %{size_header} %{size_download}\n"


class Curl:
    def __init__(self, rig):
        self.rig = rig
        self.bodies = rig.folder / "bodies"
        self.bodies.mkdir()
        # curl's own sums of what a plain HTTP/1.1 listener must have seen
        self.sent = self.received = 0

    def __call__(self, listener, *paths, options=(), stdin=None, count=True):
        if listener == "plain" and not count:
            listener = "uncounted"  # curl cannot say how many bytes chunk framing and trailers took
        base = url(self.rig, listener, "")
        head, body = self.bodies / "head", self.bodies / "body"
        for file in (head, body):
            file.unlink(missing_ok=True)
        command = ["curl", "-sS", "-4", "-m", "30", "--noproxy", "*", "--cacert", str(self.rig.certificate), "-D", str(head), "-w", WRITE_OUT, *options]
        for path in paths:
            command += [base + path, "-o", str(body)]
        done = subprocess.run(command, input=stdin, capture_output=True)
        errors = done.stderr.decode(errors="replace")
        lines = [line.split() for line in re.findall(r"@@(.*)", errors)]
        status, version = (int(lines[-1][0]), lines[-1][1]) if lines else (0, "")
        sums = [sum(int(line[i]) for line in lines) for i in range(3, 7)] if lines else [0] * 4
        if listener == "plain":
            self.sent += sums[0] + sums[1]
            self.received += sums[2] + sums[3]
        read = lambda file: file.read_bytes() if file.exists() else b""
        return Answer(
            done.returncode,
            status,
            version,
            read(head).decode("latin-1"),
            read(body),
            errors,
            [int(line[2]) for line in lines],
            sums[0] + sums[1],
            sums[2] + sums[3],
        )


def checks(rig):
    origin = rig.start_origin()
    names = ("plain", "h2c", "tls", "tls-h2", "uncounted", "raw", "load-h1", "load-h2c", "load-tls")
    chain = {"chain": Listener(via="tls"), "chain-h1": Listener(via="tls", protocol="h1")}
    rig.start_weir({name: Listener(origin, tls="tls" in name) for name in names} | chain)
    curl = Curl(rig)
    versions = {"plain": ["--http1.1"], "tls": ["--http1.1"], "h2c": ["--http2-prior-knowledge"], "tls-h2": ["--http2"]}
    for listener, options in versions.items():
        each_version(rig.score, curl, listener, options)
    only_h1(rig.score, curl)
    over_tls(rig.score, curl)
    raw_h1(rig)
    records = []
    rig.score.attempt("weir's records can be read while it runs", lambda: records.extend(wait_for_sessions(rig, "plain")))
    if records:
        totals = session_totals(records, "plain", "received_app_bytes"), session_totals(records, "plain", "sent_app_bytes")
        rig.score.equal("what curl counted over plain HTTP/1.1 equals weir's session totals", (curl.sent, curl.received), totals)
    nghttp(rig)
    h2load(rig)


def wait_for_sessions(rig, listener, seconds=8):
    """The records once every session of the listener is closed; a close may wait for the client's acknowledgement."""
    deadline = time.monotonic() + seconds
    while True:
        records = rig.records()
        opened = {r["session_id"] for r in records if r.get("listener") == listener and r["kind"] == "session"}
        closed = {r["session_id"] for r in records if r.get("listener") == listener and r["kind"] == "session" and r["phase"] == "close"}
        if opened == closed or time.monotonic() > deadline:
            return records
        time.sleep(0.3)


def each_version(score, curl, listener, options):
    """What must hold whichever version carries it."""
    version = "2" if options[0].startswith("--http2") else "1.1"
    say = lambda text: f"curl {listener}: {text}"

    def get(*paths, more=(), **rest):
        return curl(listener, *paths, options=[*options, *more], **rest)

    answer = get("/hello")
    score.equal(say("GET"), (answer.status, answer.version, answer.body), (200, version, b"hello from the origin\n"))
    # curl 7.88 fails by itself (16) at the second request of a prior-knowledge connection: nghttp does that part for h2c
    reuses = listener != "h2c"
    second = lambda *paths: paths if reuses else paths[:1]
    connects = lambda *wanted: list(wanted) if reuses else [1]
    answer = get(*second("/bytes/30", "/bytes/20", "/bytes/30"))
    score.equal(say("three requests on one connection"), (answer.connects, answer.body), (connects(1, 0, 0), pattern(30)))
    answer = get(*second("/bytes/1000", "/hello"), more=["-I"])
    score.equal(
        say("HEAD keeps the length, sends no body, and leaves the connection usable"),
        (answer.header("content-length")[0], answer.connects),
        ("1000", connects(1, 0)),
    )
    answer = get(*second("/chunked/1000", "/hello"), more=["-I"])
    score.equal(say("HEAD of a chunked resource"), (answer.exit, answer.connects), (0, connects(1, 0)))
    for status in (204, 304):
        answer = get(*second(f"/status/{status}", "/hello"))
        score.equal(
            say(f"{status} has no body and leaves the connection usable"),
            (answer.exit, answer.connects, answer.body),
            (0, connects(1, 0), b"hello from the origin\n" if reuses else b""),
        )
    for status in (301, 404, 418, 500, 503):
        answer = get(f"/status/{status}")
        score.equal(say(f"the origin's {status} passes"), (answer.status, answer.body), (status, b"status %d\n" % status))
    answer = get("/bytes/100000", more=["-r", "500-1499"])
    score.equal(say("range"), (answer.status, answer.body, answer.header("content-range")), (206, pattern(100000)[500:1500], ["bytes 500-1499/100000"]))
    answer = get(f"/bytes/{32 * MIB}")
    score.check(say("32 MiB download"), answer.body == pattern(32 * MIB), f"exit {answer.exit}, {len(answer.body)} bytes, {answer.errors}")
    upload = pattern(16 * MIB + 3)
    digest = hashlib.sha256(upload).hexdigest()
    answer = get("/digest", more=["--data-binary", "@-", "-H", "Expect:"], stdin=upload)
    score.check(say("16 MiB upload with a length"), answer.exit == 0 and answer.json["sha256"] == digest, answer.errors)
    answer = get("/digest", more=["-T", "-", "-H", "Expect:"], stdin=upload[:MIB], count=False)
    score.check(say("1 MiB upload of unknown length"), answer.exit == 0 and answer.json["sha256"] == hashlib.sha256(upload[:MIB]).hexdigest(), answer.errors)
    answer = get("/echo", more=["--data-binary", "@-", "-H", "Expect:"], stdin=upload[:MIB], count=False)
    score.check(say("1 MiB both ways at once"), answer.body == upload[:MIB], f"{len(answer.body)} bytes, {answer.errors}")
    answer = get("/digest", more=["--data-binary", "", "-X", "PUT"])
    score.equal(say("empty PUT"), (answer.json["method"], answer.json["length"]), ("PUT", 0))
    for method in ("DELETE", "OPTIONS", "PATCH", "PROPFIND"):
        score.equal(say(method), get("/digest", more=["-X", method]).json["method"], method)
    # Over HTTP/1.1 trailers go to who says that it takes them (RFC 9110 §6.5.1); others get the body without.
    answer = get("/chunked/200000", more=["-H", "TE: trailers"], count=False)
    checksum = hashlib.sha256(pattern(200000)).hexdigest()
    score.equal(say("chunked response with a trailer"), (answer.body == pattern(200000), answer.header("x-check")), (True, [checksum]))
    answer = get("/until-close/50000", count=False)
    score.equal(say("response that ends with the origin's connection"), (answer.exit, len(answer.body)), (0, 50000))
    answer = get("/early")
    score.check(say("103 early hints come first"), re.match(r"HTTP/\S+ 103\b", answer.head) and answer.header("link"), answer.head)
    answer = get("/cut/length", count=False)
    score.check(say("a response cut short is not passed off as whole"), answer.exit in (18, 92, 56, 55), f"exit {answer.exit}, {len(answer.body)} bytes")
    answer = get("/cut/chunked", count=False)
    score.check(
        say("a chunked response cut short is not passed off as whole"), answer.exit in (18, 92, 56, 55), f"exit {answer.exit}, {len(answer.body)} bytes"
    )
    answer = get("/digest?a=b%20c&d=%2F..%2F", more=["--path-as-is", "-H", "X-Empty;", "-H", "X-Two: 1", "-H", "X-Two: 2", "-H", "Accept:", "-A", "agent/1"])
    seen = answer.json
    values = lambda name: [v for k, v in seen["headers"] if k.lower() == name]
    score.equal(say("the target arrives as sent"), seen["target"], "/digest?a=b%20c&d=%2F..%2F")
    score.equal(say("headers arrive as sent"), (values("x-empty"), values("user-agent"), ", ".join(values("x-two"))), ([""], ["agent/1"], "1, 2"))
    score.equal(say("host arrives"), values("host"), [f"localhost:{curl.rig.ports[listener]}"])
    score.check(say("the client's address is told to the origin"), values("x-forwarded-for") == ["127.0.0.1"] or values("forwarded"), seen["headers"])
    answer = get("/digest", more=["-b", "a=1; b=2; c=3"])
    score.equal(say("cookies arrive in one line"), [v for k, v in answer.json["headers"] if k.lower() == "cookie"], ["a=1; b=2; c=3"])
    many = [f"X-Field-{n}: {'v' * 50}" for n in range(60)]
    answer = get("/digest?" + "q" * 5000, more=[o for line in many for o in ("-H", line)])
    score.equal(say("60 headers and a long target"), sum(k.lower().startswith("x-field-") for k, _ in answer.json["headers"]), 60)
    began = time.monotonic()
    command = ["curl", "-sSN", "-4", "-m", "20", "--noproxy", "*", "--cacert", str(curl.rig.certificate), *options]
    with subprocess.Popen([*command, url(curl.rig, "uncounted" if listener == "plain" else listener, "/drip")], stdout=subprocess.PIPE) as process:
        first = process.stdout.readline()
        after = time.monotonic() - began
        rest = process.stdout.read()
    score.check(
        say("an event stream is passed on piece by piece"), first == b"data: 0\n" and b"data: 4" in rest and after < 0.8, f"{first} after {after:.2f} s"
    )


def only_h1(score, curl):
    """Points of HTTP/1.x alone, over the plain listener."""
    answer = curl("plain", "/bytes/5000", options=["--http1.0"])
    score.equal("curl HTTP/1.0", (answer.status, answer.body), (200, pattern(5000)))
    answer = curl("plain", "/chunked/5000", options=["--http1.0"], count=False)
    score.equal("curl HTTP/1.0 gets a chunked resource unchunked", (answer.body == pattern(5000), answer.header("transfer-encoding")), (True, []))
    answer = curl("plain", "/hello", "/hello", options=["--http1.0", "-H", "Connection: keep-alive"])
    score.equal("curl HTTP/1.0 keep-alive", (answer.status, answer.body), (200, b"hello from the origin\n"))
    answer = curl("plain", "/hello", options=["--http1.1", "-H", "Connection: close"])
    score.equal("curl Connection: close is answered so", [v.lower() for v in answer.header("connection")], ["close"])
    body = pattern(2 * MIB)
    answer = curl("plain", "/digest", options=["--http1.1", "--data-binary", "@-", "-H", "Expect: 100-continue", "--expect100-timeout", "20"], stdin=body)
    score.check("curl 100-continue is passed on", re.match(r"HTTP/1.1 100\b", answer.head) and answer.json["length"] == len(body), answer.head)
    answer = curl(
        "plain", "/refuse", options=["--http1.1", "--data-binary", "@-", "-H", "Expect: 100-continue", "--expect100-timeout", "20"], stdin=body, count=False
    )
    score.equal("curl 100-continue refused by the origin", answer.status, 417)
    answer = curl(
        "plain",
        "/digest",
        options=[
            "--http1.1",
            "-H",
            "Connection: x-hop, close",
            "-H",
            "X-Hop: 1",
            "-H",
            "Keep-Alive: timeout=3",
            "-H",
            "TE: gzip",
            "-H",
            "Proxy-Connection: keep-alive",
        ],
    )
    seen = {k.lower() for k, _ in answer.json["headers"]}
    score.check("hop-by-hop fields stay with weir", not seen & {"x-hop", "keep-alive", "proxy-connection"}, seen)


def over_tls(score, curl):
    """weir to an upstream over TLS: what ALPN agrees on (HTTP/2), and HTTP/1.1."""
    for listener in ("chain", "chain-h1"):
        body = pattern(MIB)
        for options in (["--http1.1"], ["--http2-prior-knowledge"]):
            name = f"curl {options[0]} to weir to weir over TLS ({listener})"
            answer = curl(listener, "/digest", options=[*options, "-T", "-", "-H", "Expect:"], stdin=body)
            score.check(f"{name}: upload", answer.exit == 0 and answer.json["sha256"] == hashlib.sha256(body).hexdigest(), answer.errors)
            answer = curl(listener, "/chunked/200000", options=[*options, "-H", "TE: trailers"])
            score.equal(
                f"{name}: download and trailer",
                (answer.body == pattern(200000), answer.header("x-check")),
                (True, [hashlib.sha256(pattern(200000)).hexdigest()]),
            )


def raw_h1(rig):
    """What curl cannot send: request trailers, pipelining, a body in single bytes, Upgrade of another protocol."""

    def talk(data, piece=None, until=b""):
        with socket.create_connection(("127.0.0.1", rig.ports["raw"]), 10) as sock:
            sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            for at in range(0, len(data), piece or len(data)):
                sock.sendall(data[at : at + (piece or len(data))])
                if piece:
                    time.sleep(0.001)
            got = b""
            while more := sock.recv(1 << 16):
                got += more
                if until and until in got:
                    break
            return got

    host, close = b"Host: a.test\r\n", b"Connection: close\r\n"
    trailers = b"POST /digest HTTP/1.1\r\n" + host + close + b"Transfer-Encoding: chunked\r\nTrailer: X-T\r\n\r\n3\r\nabc\r\n0\r\nX-T: yes\r\n\r\n"
    got = talk(trailers)
    rig.score.check("request trailers reach the origin", b'["X-T", "yes"]' in got or b'["x-t", "yes"]' in got, got[-300:])
    got = talk(trailers, piece=1)
    rig.score.check("a request in single bytes is understood", b'"length": 3' in got, got[-300:])
    pipeline = b"".join(b"GET /bytes/%d HTTP/1.1\r\n" % n + host + (close if n == 9 else b"") + b"\r\n" for n in range(10))
    got = talk(pipeline)
    rig.score.equal("ten pipelined requests are answered in order", [int(n) for n in re.findall(rb"(?i)content-length: (\d+)", got)], list(range(10)))
    upgrade = b"GET /x HTTP/1.1\r\n" + host + b"Connection: Upgrade\r\nUpgrade: raw\r\n\r\n"
    got = talk(upgrade + b"early\0bytes", until=b"early\0bytes")
    rig.score.check("Upgrade of any protocol becomes a tunnel", got.startswith(b"HTTP/1.1 101") and got.endswith(b"early\0bytes"), got)
    got = talk(b"CONNECT a.test:443 HTTP/1.1\r\nHost: a.test:443\r\n\r\n", until=b"\r\n\r\n")
    rig.score.check("plain CONNECT is refused", re.match(rb"HTTP/1.1 4\d\d", got) or re.match(rb"HTTP/1.1 501", got), got[:100])


def nghttp(rig):
    if not shutil.which("nghttp"):
        return rig.score.skip("nghttp", "not installed")

    def run(listener, *options, paths=("/hello",)):
        return subprocess.run(
            ["nghttp", "-t", "20s", *options, *(url(rig, listener, path) for path in paths)],
            capture_output=True,
            env={**os.environ, "SSL_CERT_FILE": str(rig.certificate)},
        )

    upload = rig.folder / "upload"
    upload.write_bytes(pattern(MIB))
    for listener in ("h2c", "tls-h2"):
        done = run(listener, paths=[f"/bytes/{n * 1000}" for n in range(1, 31)])
        rig.score.equal(f"nghttp {listener}: 30 streams on one connection", len(done.stdout), sum(n * 1000 for n in range(1, 31)))
        done = run(listener, "-d", str(upload), "--no-content-length", "--trailer", "x-late: yes", paths=["/digest"])
        seen = json.loads(done.stdout or b"{}")
        rig.score.check(
            f"nghttp {listener}: upload with a trailer",
            seen.get("length") == MIB and ["x-late", "yes"] in [[k.lower(), v] for k, v in seen.get("trailers", [])],
            str(seen)[:300] or done.stderr,
        )
        done = run(listener, "-nv", "-w", "10", "-W", "10", paths=[f"/bytes/{MIB}"])
        rig.score.check(f"nghttp {listener}: 1 MiB through windows of 1 KiB", done.stdout.count(b"recv DATA") > 900, done.stdout[-200:])
        done = run(listener, "-nv", "-c", "0", paths=["/bytes/1", "/bytes/2"])
        rig.score.check(f"nghttp {listener}: header table of size 0", done.stdout.count(b":status: 200") >= 2, done.stdout[-300:])
        done = run(listener, "-nv", "-b", "200", paths=["/chunked/5000"])
        rig.score.check(f"nghttp {listener}: padding both ways, trailers down", b"x-check: " in done.stdout, done.stdout[-300:])


def h2load(rig):
    if not shutil.which("h2load"):
        return rig.score.skip("h2load", "not installed")
    plans = {"load-h1": ["--h1"], "load-h2c": ["-m", "10"], "load-tls": ["-m", "10"]}
    counted = {}
    for listener, options in plans.items():
        done = subprocess.run(
            ["h2load", "-n", "2000", "-c", "10", "-t", "1", *options, url(rig, listener, "/bytes/3000")], capture_output=True, text=True, timeout=60
        )
        found = re.search(r"requests: 2000 total, 2000 started, 2000 done, 2000 succeeded, 0 failed", done.stdout)
        rig.score.check(f"h2load {listener}: 2000 requests, none failed", found, done.stdout[-600:])
        traffic = re.search(r"traffic: \S+ \((\d+)\) total", done.stdout)
        counted[listener] = int(traffic[1]) if traffic else -1
    for listener, theirs in counted.items():
        totals = []
        if rig.score.attempt(
            f"h2load {listener}: weir's records", lambda: totals.append(session_totals(wait_for_sessions(rig, listener), listener, "sent_app_bytes"))
        ):
            # h2load stops reading at its last response: what weir says after that (GOAWAY, SETTINGS) is not in its count
            slack = 0 if listener == "load-h1" else 10 * 100
            rig.score.check(f"h2load {listener}: its count equals weir's", 0 <= totals[0] - theirs <= slack, f"h2load read {theirs}, weir sent {totals[0]}")
