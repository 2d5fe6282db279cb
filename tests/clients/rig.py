"""The rig: starts the origin and weir, keeps the score, and holds weir's own numbers against its invariants at the end."""

import collections
import concurrent.futures
import json
import os
import pathlib
import shutil
import signal
import socket
import subprocess
import sys
import time
from dataclasses import dataclass

HERE = pathlib.Path(__file__).parent
# Of each family; --verbose shows all.
FAILURES_SHOWN_MAX = 40
BOTH_WAYS = ("received", "sent")


@dataclass
class Listener:
    """A listener of weir and the one server behind it."""

    upstream: int = 0
    kind: str = "http"
    tls: bool = False
    protocol: str = "auto"
    # Instead of `upstream`: another listener of the same weir, spoken to over verified TLS.
    via: str = ""
    # More lines of the listener's table.
    more: str = ""


class OutOfTime(BaseException):
    """The family's time is up. Not an Exception: no check may take it for its own failure."""


class Score:
    """What passed and failed in one family of checks."""

    def __init__(self, family, verbose=False):
        self.family, self.verbose = family, verbose
        self.passed = self.failed = self.skipped = self.explained = 0

    def check(self, name, good, why="", explanation=""):
        """Counts one check. A failure with an explanation is listed and not held against weir."""
        if good:
            self.passed += 1
            if self.verbose:
                print(f"  ok    {self.family}: {name}", flush=True)
        elif explanation:
            self.explained += 1
            print(f"  why   {self.family}: {name}: {why} — {explanation}", flush=True)
        else:
            self.failed += 1
            if self.failed <= FAILURES_SHOWN_MAX or self.verbose:
                print(f"  FAIL  {self.family}: {name}: {str(why)[:600]}", flush=True)
        return good

    def equal(self, name, got, expected):
        return self.check(name, got == expected, f"got {got!r:.200}, expected {expected!r:.200}")

    def attempt(self, name, action, *arguments):
        """Runs a check that may raise; what it raises is its failure, None and True are success."""
        try:
            result = action(*arguments)
        except Exception as error:
            return self.check(name, False, f"{type(error).__name__}: {error}")
        return self.check(name, result in (None, True), result)

    def skip(self, name, why):
        self.skipped += 1
        print(f"  skip  {self.family}: {name}: {why}", flush=True)


def in_parallel(threads, action, items):
    """Each item with its result and None, or None and its exception, in order; nobody is waited for when the time is up."""
    pool = concurrent.futures.ThreadPoolExecutor(threads)
    try:
        for item, future in [(item, pool.submit(action, item)) for item in items]:
            try:
                yield item, future.result(), None
            except Exception as error:
                yield item, None, error
    finally:
        pool.shutdown(wait=False, cancel_futures=True)


def free_ports(count):
    sockets = [socket.create_server(("127.0.0.1", 0)) for _ in range(count)]
    ports = [s.getsockname()[1] for s in sockets]
    for s in sockets:
        s.close()
    return ports


def await_port(port, process, seconds=15):
    deadline = time.monotonic() + seconds
    while time.monotonic() < deadline:
        if process.poll() is not None:
            raise RuntimeError(f"{process.args[0]} ended with {process.returncode} before it listened")
        try:
            socket.create_connection(("127.0.0.1", port), 1).close()
            return
        except OSError:
            time.sleep(0.05)
    raise RuntimeError(f"{process.args[0]} does not listen on {port} after {seconds} s")


class Rig:
    """One family's origin, certificate, and weir; all of it ends with `close`."""

    def __init__(self, binary, folder, score, full=False):
        self.binary, self.score, self.full = str(binary), score, full
        self.folder = pathlib.Path(folder)
        shutil.rmtree(self.folder, ignore_errors=True)
        self.folder.mkdir(parents=True)
        self.processes, self.weir, self.ports = [], None, {}
        # A check has ended weir itself.
        self.weir_ended = False
        self.certificate, self.key = self.folder / "certificate.pem", self.folder / "key.pem"
        names = "subjectAltName=DNS:localhost,DNS:a.test,IP:127.0.0.1"
        command = "openssl req -x509 -newkey ec -pkeyopt ec_paramgen_curve:prime256v1 -nodes -days 30 -subj /CN=localhost".split()
        # not an authority: clients that verify strictly take no authority's certificate for a server's
        leaf = "basicConstraints=critical,CA:FALSE"
        subprocess.run([*command, "-addext", names, "-addext", leaf, "-keyout", self.key, "-out", self.certificate], check=True, capture_output=True)

    def start(self, *command, **options):
        log = open(self.folder / f"{pathlib.Path(command[0]).name}.log", "ab")
        process = subprocess.Popen([str(c) for c in command], stdout=log, stderr=log, start_new_session=True, **options)
        self.processes.append(process)
        return process

    def start_origin(self):
        """Starts the strict origin and returns its port."""
        [port] = free_ports(1)
        await_port(port, self.start(sys.executable, HERE / "origin.py", port))
        return port

    def start_weir(self, listeners, limits="", sink=""):
        """Runs weir with these listeners by name, and lines of `[sink]`. Their ports are then in `self.ports`."""
        *ports, admin = free_ports(len(listeners) + 1)
        self.ports = dict(zip(listeners, ports))
        text = f'state_dir = "{self.folder}/state"\ncheckpoint_interval_ms = 1000\n[admin]\nlisten = "127.0.0.1:{admin}"\n[limits]\ndrain_timeout_ms = 5000\n{limits}\n[sink]\n{sink}\n'
        for name, listener in listeners.items():
            text += f'\n[[listeners]]\nname = "{name}"\nlisten = "127.0.0.1:{self.ports[name]}"\nkind = "{listener.kind}"\nupstream = "to-{name}"\n'
            if listener.more:
                text += listener.more + "\n"
            if listener.tls:
                text += f'tls = {{ certificate = "{self.certificate}", key = "{self.key}" }}\n'
            server = f"https://localhost:{self.ports[listener.via]}" if listener.via else f"127.0.0.1:{listener.upstream}"
            text += f'[[upstreams]]\nname = "to-{name}"\nservers = ["{server}"]\nprotocol = "{listener.protocol}"\n'
            if listener.via:
                text += f'tls = {{ ca = "{self.certificate}" }}\n'
        config = self.folder / "weir.toml"
        config.write_text(text)
        self.weir = self.start(self.binary, "run", "--config", config)
        for port in self.ports.values():
            await_port(port, self.weir)

    def finish(self):
        """Ends weir the polite way, then checks every number it has written down."""
        if self.weir is None:
            return
        alive = self.weir.poll() is None
        self.score.check("weir still runs after the checks", alive or self.weir_ended, f"it ended with {self.weir.returncode}, see {self.folder}")
        if alive:
            self.weir.send_signal(signal.SIGTERM)
            try:
                self.score.equal("weir ends with 0 on SIGTERM", self.weir.wait(20), 0)
            except subprocess.TimeoutExpired:
                self.score.check("weir ends within 20 s on SIGTERM", False, "it did not")
        try:
            self.check_records(self.records())
        except (OSError, ValueError, subprocess.SubprocessError) as error:
            self.score.check("weir events answers", False, error)

    def records(self):
        command = [self.binary, "events", "--state", self.folder / "state", "--json"]
        done = subprocess.run(command, capture_output=True, timeout=60)
        if done.returncode:
            raise OSError(done.stderr.decode(errors="replace")[-300:])
        return [json.loads(line) for line in done.stdout.splitlines() if line.strip()]

    def check_records(self, records):
        """The invariants of the record, over everything the family has done."""
        score = self.score
        if not score.check("weir has records", records, "no record at all"):
            return
        gaps, chains = [], collections.defaultdict(list)
        by_session = collections.defaultdict(lambda: {"session": [], "request": []})
        for record in records:
            chains[record["node"], record["epoch"], record["shard"]].append(number(record, "seq"))
            if record["kind"] in ("session", "request"):
                by_session[record["session_id"]][record["kind"]].append(record)
        for chain, seqs in chains.items():
            if sorted(seqs) != list(range(min(seqs), min(seqs) + len(seqs))):
                gaps.append(chain)
        score.check(f"seq is gapless over {len(records)} records", not gaps, gaps)
        complaints = collections.defaultdict(list)
        for session_id, kinds in by_session.items():
            closes = [r for r in kinds["session"] if r["phase"] == "close"]
            if len(closes) != 1:
                complaints["every session closes once"].append(f"{session_id} closes {len(closes)} times")
                continue
            [close] = closes
            if close.get("audit") != "ok":
                complaints["every session's audit is ok"].append(f"{session_id} {close.get('listener')}: {close.get('audit')}")
            requests = collections.Counter(r["request_id"] for r in kinds["request"] if r["phase"] == "close")
            unclosed = {r["request_id"] for r in kinds["request"]} - set(requests)
            if unclosed or any(n != 1 for n in requests.values()):
                complaints["every request closes once"].append(f"{session_id}: open {unclosed}, {requests.most_common(1)}")
            for way in BOTH_WAYS:
                of_requests = sum(number(r, f"total_{way}_app_bytes") for r in kinds["request"] if r["phase"] == "close")
                of_session = number(close, f"total_{way}_app_bytes")
                if of_requests > of_session:
                    complaints["requests' app bytes fit into their session's"].append(f"{session_id} {way}: {of_requests} > {of_session}")
                deltas = sum(number(r, f"{way}_app_bytes") for r in kinds["session"])
                if deltas != of_session:
                    complaints["deltas sum up to the total"].append(f"{session_id} {way}: {deltas} != {of_session}")
        for name in (
            "every session closes once",
            "every session's audit is ok",
            "every request closes once",
            "requests' app bytes fit into their session's",
            "deltas sum up to the total",
        ):
            found = complaints[name]
            score.check(f"{name} ({len(by_session)} sessions)", not found, f"{len(found)} of {len(by_session)}: {found[:3]}")

    def close(self):
        for process in self.processes:
            if process.poll() is None:
                os.killpg(process.pid, signal.SIGKILL)
            process.wait()


def number(record, name):
    """A count of a record; absent means 0, and 64-bit numbers may be printed as strings."""
    return int(record.get(name) or 0)


def session_totals(records, listener, column):
    """Sum of one column over the closed sessions of a listener."""
    return sum(number(r, f"total_{column}") for r in records if r["kind"] == "session" and r["phase"] == "close" and r.get("listener") == listener)
