"""The rows: what is asked of every proxy, and how the answer is measured and checked."""

import json
import re
import subprocess
import time
from dataclasses import dataclass

import machine
from proxies import LARGE_BODY_BYTES, SMALL_BODY, UPLOAD_BODY_BYTES

SMALL_BODY_BYTES = len(SMALL_BODY)
CIPHER = "TLS_AES_128_GCM_SHA256"
CALIBRATION_REQUESTS = 2000
# Bytes per request that a log may count beyond the body: heads, TLS records, frames.
OVERHEAD_BYTES_MAX = 2048
SETTLE_SECONDS = 0.05


@dataclass(frozen=True)
class Row:
    name: str
    title: str
    unit: str
    nanoseconds_per_unit: int
    listener: str  # http, tls or tcp
    generator: str  # h2load or load
    arguments: tuple
    path: str
    received_bytes: int  # body bytes per request from the client
    sent_bytes: int  # body bytes per request to the client
    target: float  # weir ÷ best peer, at most
    against: tuple = ()  # the peers that count; all if empty

    @property
    def log_path(self):
        return "-" if self.listener == "tcp" else self.path


def small(name, title, listener, generator, *arguments):
    path = f"/small/{name}"
    return Row(name, title, "µs/request", 1_000, listener, generator, arguments, path, 0, SMALL_BODY_BYTES, 1.0)


def large(name, title, listener, generator, target, *arguments, against=()):
    path = f"/large/{name}"
    unit = "ms/64 MiB"
    return Row(name, title, unit, 1_000_000, listener, generator, arguments, path, 0, LARGE_BODY_BYTES, target, against)


H2LOAD_TLS = (f"--tls13-ciphers={CIPHER}", "--groups=X25519")

ROWS = (
    small("small", "small keep-alive, h1, 32 connections", "http", "h2load", "--h1", "-c32"),
    small("tls", "small keep-alive, TLS h1, 32 connections", "tls", "h2load", "--h1", "-c32", *H2LOAD_TLS),
    small("h2", "small, TLS h2, 4 connections × 32 streams", "tls", "h2load", "-c4", "-m32", *H2LOAD_TLS),
    small("new", "new connection each, plain h1, 16 at a time", "http", "load", "get", "16", "--close"),
    Row("upload", "256 KiB upload, h1, 8 connections", "µs/request", 1_000, "http", "load", ("post", "8"),
        "/upload/upload", UPLOAD_BODY_BYTES, 0, 0.75),
    large("download", "64 MiB download, plain h1, 2 connections", "http", "load", 0.75, "get", "2"),
    large("tls-download", "64 MiB download, TLS h1, 2 connections", "tls", "h2load", 0.9, "--h1", "-c2", *H2LOAD_TLS),
    large("tcp", "64 MiB over raw TCP, 2 connections", "tcp", "load", 0.5, "get", "2", against=("haproxy",)),
)  # fmt: skip


class RowFailed(Exception):
    """The proxy did not do what the row asks; the text says what it did instead."""


@dataclass
class Load:
    """What a generator reports: requests that were answered in full and right, and how long it took."""

    requests: int
    seconds: float


class Runner:
    """Runs one row against one proxy for about `seconds`."""

    def __init__(self, load_binary, seconds):
        self.load_binary = load_binary
        self.seconds = seconds
        self.h2load_requests = {}  # (row, proxy) → requests that take about `seconds`
        self.proxy_ns = self.core_ns = self.wall_ns = 0  # over all measurements: the proxies', the core's, the clock's
        self.asked = {}  # (proxy, path) → requests asked in all, to hold against its log

    def prepare(self, row, proxy):
        """Checks one answer byte for byte's length, warms up and, for h2load, finds how many requests to ask for."""
        if row.generator == "h2load":
            count = CALIBRATION_REQUESTS if row.sent_bytes < LARGE_BODY_BYTES else 4
            load = self.h2load(row, proxy, count)
            per_round = int(load.requests / load.seconds * self.seconds)
            clients = int(next(one[2:] for one in row.arguments if one.startswith("-c")))
            self.h2load_requests[row.name, proxy.name] = max(per_round // clients, 2) * clients
        else:
            self.load(row, proxy, min(0.3, self.seconds))

    def measure(self, row, proxy):
        """CPU nanoseconds per request."""
        core_ns, wall_ns = machine.core_busy_ns(machine.PROXY_CORE), time.monotonic_ns()
        clock = machine.CpuClock(proxy.process.pid)
        if row.generator == "h2load":
            load = self.h2load(row, proxy, self.h2load_requests[row.name, proxy.name])
        else:
            load = self.load(row, proxy, self.seconds)
        # What is still to be done for these requests (last acknowledgements, closing) belongs to them.
        time.sleep(SETTLE_SECONDS)
        proxy_ns = clock.elapsed_ns()
        self.proxy_ns += proxy_ns
        self.core_ns += machine.core_busy_ns(machine.PROXY_CORE) - core_ns
        self.wall_ns += time.monotonic_ns() - wall_ns
        return proxy_ns / load.requests

    def disturbance(self):
        """The share of the proxies' core that others used meanwhile, 0 to 1."""
        return max(0.0, (self.core_ns - self.proxy_ns) / self.wall_ns) if self.wall_ns else 0.0

    def load(self, row, proxy, seconds):
        method, connections, *rest = row.arguments
        body_bytes = row.received_bytes or row.sent_bytes
        target = f"127.0.0.1:{proxy.port[row.listener]}"
        command = [self.load_binary, method, target, row.path, body_bytes, connections, seconds, *rest]
        report = json.loads(self.generate(command, seconds) or "{}")
        requests = report.get("requests", 0)
        if report.get("errors") != 0 or requests == 0:
            raise RowFailed(f"{report.get('errors')} errors, first: {report.get('first_error')}")
        if row.sent_bytes and report["body_bytes"] != requests * row.sent_bytes:
            raise RowFailed(f"{report['body_bytes']} body bytes in {requests} responses")
        self.count(row, proxy, requests)
        return Load(requests, report["seconds"])

    def h2load(self, row, proxy, requests):
        scheme = "https" if row.listener == "tls" else "http"
        url = f"{scheme}://127.0.0.1:{proxy.port[row.listener]}{row.path}"
        command = ["h2load", "-t1", f"-n{requests}", *row.arguments, url]
        output = self.generate(command, self.seconds)
        status = re.search(r"status codes: (\d+) 2xx", output)
        body = re.search(r"\((\d+)\) data", output)
        finished = re.search(r"finished in ([\d.]+)(us|ms|s)\b", output)
        if not (status and body and finished):
            raise RowFailed(f"h2load said: {output[-300:]!r}")
        if int(status.group(1)) != requests:
            raise RowFailed(f"{status.group(1)} of {requests} answers were 2xx")
        if int(body.group(1)) != requests * row.sent_bytes:
            raise RowFailed(f"{body.group(1)} body bytes in {requests} responses")
        if row.listener == "tls" and f"Cipher: {CIPHER}" not in output:
            raise RowFailed(f"cipher is not {CIPHER}")
        protocol = "http/1.1" if "--h1" in row.arguments else "h2"
        if f"Application protocol: {protocol}" not in output and row.listener == "tls":
            raise RowFailed(f"protocol is not {protocol}")
        self.count(row, proxy, requests)
        unit = {"us": 1e-6, "ms": 1e-3, "s": 1.0}[finished.group(2)]
        return Load(requests, max(float(finished.group(1)) * unit, 1e-6))

    def generate(self, command, seconds):
        """The generator's output; it shares a core with the origin and is given ten times its time."""
        command = machine.on_core(machine.ORIGIN_CORE, command)
        try:
            done = subprocess.run(command, capture_output=True, text=True, timeout=10 + 10 * seconds)
        except subprocess.TimeoutExpired:
            raise RowFailed("the load generator did not end in time") from None
        return done.stdout

    def count(self, row, proxy, requests):
        key = proxy.name, row.log_path
        self.asked[key] = self.asked.get(key, 0) + requests

    def check_log(self, row, proxy, counted):
        """Holds the proxy's own log against what was asked of it; raises if bytes or requests are missing."""
        asked = self.asked.get((proxy.name, row.log_path), 0)
        requests, received, sent = counted.get(row.log_path, (0, 0, 0))
        if row.listener != "tcp" and requests != asked:
            raise RowFailed(f"its log has {requests} of {asked} requests")
        for side, bytes_logged, body_bytes in (("received", received, row.received_bytes), ("sent", sent, row.sent_bytes)):
            low, high = asked * body_bytes, asked * (body_bytes * 1.01 + OVERHEAD_BYTES_MAX)
            if not low <= bytes_logged <= high:
                raise RowFailed(f"its log has {bytes_logged} bytes {side}, bodies were {low}")
