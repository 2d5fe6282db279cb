"""HTTP/2 floods: each is cut off or bounded, and an innocent client is served meanwhile.

h2_floods.py FLOOD PORT     (what the checks start as attackers; prints what became of it as JSON)
"""

import json
import pathlib
import re
import socket
import statistics
import subprocess
import sys
import threading
import time

from h2_wire import *
from rig import HERE, Listener

SECONDS = 2.0
CONNECTIONS = 4
GROWTH_MAX_MIB = 96
GET = block(request())
POST = block(request(b"POST", b"/digest"))


def odd_ids():
    return iter(range(1, 1 << 30, 2))


# Each flood yields bytes to send, for ever; its name is the function's.


def rapid_reset():
    ids = odd_ids()
    while True:
        yield b"".join(frame(HEADERS, END_STREAM | END_HEADERS, i, GET) + frame(RST_STREAM, 0, i, u32(CANCEL)) for i, _ in zip(ids, range(100)))


def made_you_reset():
    """The server is made to reset: an increment of 0 on each stream."""
    ids = odd_ids()
    while True:
        yield b"".join(frame(HEADERS, END_STREAM | END_HEADERS, i, GET) + frame(WINDOW_UPDATE, 0, i, u32(0)) for i, _ in zip(ids, range(50)))


def continuations():
    yield frame(HEADERS, END_STREAM, 1, GET)
    while True:
        yield b"".join(frame(CONTINUATION, 0, 1, literal(b"x-%d" % n, b"y" * 200)) for n in range(50))


def empty_continuations():
    yield frame(HEADERS, END_STREAM, 1, GET)
    while True:
        yield frame(CONTINUATION, 0, 1) * 200


def empty_data():
    yield frame(HEADERS, END_HEADERS, 1, POST)
    while True:
        yield frame(DATA, 0, 1) * 500


def settings_flood():
    while True:
        yield settings() * 300


def pings():
    while True:
        yield frame(PING, 0, 0, b"12345678") * 300


def priorities():
    while True:
        yield b"".join(frame(PRIORITY, 0, i, u32(0) + b"\x10") for i in range(1, 601, 2))


def header_bomb():
    """One entry of 4 KB in the dynamic table, then references to it, one byte each."""
    ids = odd_ids()
    yield frame(HEADERS, END_STREAM | END_HEADERS, next(ids), GET + literal(b"a", b"b" * 3900, 0x40))
    while True:
        yield frame(HEADERS, END_STREAM | END_HEADERS, next(ids), GET + b"\xbe" * 12000)


def zero_window():
    """Large answers are asked for and never taken."""
    yield settings(initial_window_size=0)
    ids = odd_ids()
    big = block(request(path=b"/bytes/10000000"))
    while True:
        yield b"".join(frame(HEADERS, END_STREAM | END_HEADERS, i, big) for i, _ in zip(ids, range(20)))
        time.sleep(0.02)


def never_reads():
    """Answers are asked for with open windows, and never read from the socket."""
    yield settings(initial_window_size=0x7FFFFFFF) + frame(WINDOW_UPDATE, 0, 0, u32(0x7FFF0000))
    big = block(request(path=b"/bytes/10000000"))
    yield b"".join(frame(HEADERS, END_STREAM | END_HEADERS, i, big) for i in range(1, 21, 2))
    while True:
        time.sleep(0.2)
        yield b""


def slow_headers():
    """A header block that never ends, a field at a time."""
    yield frame(HEADERS, END_STREAM, 1, GET)
    while True:
        yield frame(CONTINUATION, 0, 1, literal(b"x", b"y"))
        time.sleep(0.2)


FLOODS = [
    rapid_reset,
    made_you_reset,
    continuations,
    empty_continuations,
    empty_data,
    settings_flood,
    pings,
    priorities,
    header_bomb,
    zero_window,
    never_reads,
    slow_headers,
]
# These hold what they were given and ask for no more: it is enough that they are bounded.
BOUNDED = {"zero_window", "never_reads"}


def attack(name, port):
    """Runs the flood on several connections at once, anew where one is cut."""
    flood, counts, lock = globals()[name], {"sent_bytes": 0, "connections": 0, "cut": 0}, threading.Lock()
    end = time.monotonic() + SECONDS

    def one():
        while time.monotonic() < end:
            sock = None
            try:
                sock = socket.create_connection(("127.0.0.1", port), 5)
                counts["connections"] += 1
                if name != "never_reads":
                    threading.Thread(target=drain, args=(sock,), daemon=True).start()
                sock.sendall(PREFACE + settings() + frame(SETTINGS, ACK, 0))
                sock.settimeout(2)
                for data in flood():
                    if time.monotonic() > end:
                        return sock.close()
                    sock.sendall(data)
                    counts["sent_bytes"] += len(data)
            except TimeoutError:
                pass
            except OSError:
                with lock:
                    counts["cut"] += 1
                time.sleep(0.01)
            finally:
                if sock:
                    sock.close()

    threads = [threading.Thread(target=one, daemon=True) for _ in range(CONNECTIONS)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(SECONDS + 3)
    print(json.dumps(counts), flush=True)


def drain(sock):
    try:
        while sock.recv(1 << 16):
            pass
    except OSError:
        pass


def slow_h1(port, end, counts):
    """300 connections that send a header a byte at a time."""
    socks = [socket.create_connection(("127.0.0.1", port), 5) for _ in range(300)]
    counts["connections"] = len(socks)
    text = b"GET / HTTP/1.1\r\nX-Slow: " + b"y" * 1000
    at = 0
    while time.monotonic() < end and socks:
        for sock in socks[:]:
            try:
                sock.sendall(text[at : at + 1])
            except OSError:
                counts["cut"] += 1
                socks.remove(sock)
        at += 1
        time.sleep(0.1)
    for sock in socks:
        sock.close()


class Innocent:
    """Asks for a small answer again and again, each time on a new connection, h2 and h1 in turn."""

    def __init__(self, port):
        self.port, self.times_s, self.errors, self.ended = port, [], [], threading.Event()
        self.thread = threading.Thread(target=self.run)
        self.thread.start()

    def run(self):
        while not self.ended.is_set():
            for ask in (self.h2, self.h1):
                began = time.monotonic()
                try:
                    ask()
                    self.times_s.append(time.monotonic() - began)
                except Exception as error:
                    self.errors.append(f"{ask.__name__}: {type(error).__name__} {error}")
            time.sleep(0.02)

    def h2(self):
        peer = Peer(self.port, False)
        peer.send(frame(HEADERS, END_STREAM | END_HEADERS, 1, GET))
        answered = peer.wait(lambda: peer.answered(1), 5)
        peer.close()
        if not answered:
            raise OSError(f"not answered: {peer.told()}")

    def h1(self):
        with socket.create_connection(("127.0.0.1", self.port), 5) as sock:
            sock.sendall(b"GET /hello HTTP/1.1\r\nHost: a.test\r\nConnection: close\r\n\r\n")
            got = b""
            while piece := sock.recv(1 << 16):
                got += piece
        if not got.startswith(b"HTTP/1.1 200"):
            raise OSError(f"answered {got[:60]!r}")

    def end(self):
        self.ended.set()
        self.thread.join(10)


def resident_mib(pid):
    return int(re.search(r"VmRSS:\s+(\d+)", pathlib.Path(f"/proc/{pid}/status").read_text())[1]) / 1024


def checks(rig):
    # header_read_timeout_ms is short so that slow headers are cut within the check's time
    rig.start_weir({"plain": Listener(rig.start_origin())}, limits="header_read_timeout_ms = 1200")
    port = rig.ports["plain"]
    for flood in FLOODS:
        under(
            rig,
            flood.__name__,
            lambda name=flood.__name__: json.loads(
                subprocess.run([sys.executable, HERE / "h2_floods.py", name, str(port)], capture_output=True, timeout=15).stdout
            ),
        )

    def slowloris():
        counts = {"cut": 0}
        slow_h1(port, time.monotonic() + SECONDS + 1, counts)
        return counts

    under(rig, "slow_h1", slowloris)


def under(rig, name, attacker):
    """Runs the attacker beside an innocent client and judges both."""
    score, pid = rig.score, rig.weir.pid
    if rig.weir.poll() is not None:
        return score.check(name, False, "weir is not running any more")
    before = peak = resident_mib(pid)
    innocent, result = Innocent(rig.ports["plain"]), {}
    thread = threading.Thread(target=lambda: result.update(attacker()))
    thread.start()
    while thread.is_alive():
        time.sleep(0.1)
        if rig.weir.poll() is None:
            peak = max(peak, resident_mib(pid))
    innocent.end()
    times = innocent.times_s or [99]
    score.check(f"{name}: weir survives", rig.weir.poll() is None, f"it ended with {rig.weir.returncode}")
    score.check(
        f"{name}: an innocent client is served",
        not innocent.errors and len(times) >= 10 and statistics.median(times) < 0.3 and max(times) < 2,
        f"{len(times)} answers, median {statistics.median(times):.3f} s, slowest {max(times):.3f} s, {len(innocent.errors)} errors {innocent.errors[:2]}",
    )
    score.check(f"{name}: memory stays bounded", peak - before < GROWTH_MAX_MIB, f"{before:.0f} MiB became {peak:.0f} MiB")
    if name not in BOUNDED:
        score.check(f"{name}: is cut off", result.get("cut", 0) > 0, result)


if __name__ == "__main__":
    attack(sys.argv[1], int(sys.argv[2]))
