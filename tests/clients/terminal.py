"""`weir usage` in a pseudo-terminal: wide, narrow, without UTF-8, and not in a terminal at all."""

import fcntl
import os
import pty
import select
import struct
import subprocess
import termios
import time

from rig import Listener

BLOCKS = set("▁▂▃▄▅▆▇█▏▎▍▌▋▊▉")


def checks(rig):
    origin = rig.start_origin()
    rig.start_weir({name: Listener(origin, more=f'account = "{name}"') for name in ("acme", "globex")})
    for n, (name, port) in enumerate(rig.ports.items()):
        for _ in range(9 * n + 3):
            subprocess.run(["curl", "-s", "-o", "/dev/null", "-H", f"host: {name}.example", f"http://127.0.0.1:{port}/"], timeout=20)
    usage = [rig.binary, "usage", "--config", rig.folder / "weir.toml"]
    # Closes are recorded a moment after the client has gone.
    for _ in range(100):
        subprocess.run([rig.binary, "ledger", "--once", "--config", rig.folder / "weir.toml"], check=True, capture_output=True)
        if "15" in subprocess.run([*usage, "--meter", "requests"], check=True, capture_output=True, text=True).stdout:
            break
        time.sleep(0.1)
    for hours in ("2026-01-05T07", "2026-01-05T09"):
        correct = [rig.binary, "correct", "add", "egress_bytes=250000", "--account", "acme", "--at", f"{hours}:00:00Z", "--reason", "a chart needs hours"]
        subprocess.run([*correct, "--config", rig.folder / "weir.toml"], check=True, capture_output=True)
    early = [*usage, "--to", "2026-02-01"]
    for name, command, columns, environment in [
        ("wide", early, 140, {"LC_ALL": "C.UTF-8"}),
        ("of a phone", early, 34, {"LC_ALL": "C.UTF-8"}),
        ("tiny", early, 20, {"LC_ALL": "C.UTF-8"}),
        ("without UTF-8", early, 140, {"LC_ALL": "C"}),
        ("dumb", early, 140, {"LC_ALL": "C.UTF-8", "TERM": "dumb"}),
        ("by account", [*usage, "--by", "account"], 140, {"LC_ALL": "C.UTF-8"}),
        ("by account, without UTF-8", [*usage, "--by", "account"], 140, {"LANG": "de_DE.ISO-8859-1"}),
        ("by account on a phone", [*usage, "--by", "account"], 34, {}),
    ]:
        status, text = in_terminal(command, columns, environment)
        (rig.folder / f"terminal-{name.replace(' ', '-')}.txt").write_text(text)
        lines = text.splitlines()
        numbers_fit = max(columns, 34)
        rig.score.equal(f"{name}: ends with 0", status, 0)
        rig.score.check(f"{name}: no control sequence", "\x1b" not in text, text)
        # What is there to be read is not cut; charts are never wider than the terminal.
        drawn = [line for line in lines if set(line) & BLOCKS or "#" in line]
        rig.score.check(f"{name}: no chart is wider than the terminal", all(len(line) <= columns for line in drawn), text)
        table = lines[: next((n for n, line in enumerate(lines) if not line), len(lines))]
        rig.score.check(f"{name}: figures do not wrap", all(len(line) <= numbers_fit for line in table), text)
        is_plain = "UTF-8" in name or name == "dumb"
        rig.score.check(f"{name}: characters", text.isascii() if is_plain else True, text)
        is_drawn = "phone" not in name or "by" not in name
        rig.score.check(f"{name}: a chart", bool(drawn) == is_drawn, text)
        if command is early:
            rig.score.check(f"{name}: says when", "2026-01-05T07Z" in text and "2026-01-05T09Z" in text, text)
            rig.score.check(f"{name}: says how much", "500,000" in text and "250,000" in text, text)
    plain = subprocess.run(early, check=True, capture_output=True, text=True).stdout
    rig.score.check("no terminal: no chart", not set(plain) & BLOCKS and "#" not in plain and "500,000" in plain, plain)


def in_terminal(command, columns, environment):
    """Status and what the terminal was sent."""
    ours, theirs = pty.openpty()
    fcntl.ioctl(theirs, termios.TIOCSWINSZ, struct.pack("HHHH", 24, columns, 0, 0))
    kept = {name: value for name, value in os.environ.items() if name not in ("LANG", "LC_ALL", "LC_CTYPE", "TERM")}
    process = subprocess.Popen([str(c) for c in command], stdin=theirs, stdout=theirs, stderr=theirs, env={**kept, "TERM": "xterm", **environment})
    os.close(theirs)
    sent = b""
    while True:
        ready, _, _ = select.select([ours], [], [], 20)
        try:
            piece = os.read(ours, 65536) if ready else b""
        except OSError:  # the other end has closed
            piece = b""
        if not piece:
            break
        sent += piece
    os.close(ours)
    return process.wait(20), sent.decode().replace("\r\n", "\n")
