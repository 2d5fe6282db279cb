"""Headless Chromium through the TLS listener: a page with its parts, uploads, downloads, and WebSockets; the dumped DOM tells."""

import html
import json
import re
import shutil
import subprocess

from browser_page import IMAGES
from cdp import QUIET
from rig import Listener

FLAGS = [
    *QUIET,
    "--disable-quic",
    "--ignore-certificate-errors",
    "--host-resolver-rules=MAP * ~NOTFOUND, EXCLUDE localhost",
    "--timeout=40000",
    "--dump-dom",
]


def checks(rig):
    chromium = shutil.which("chromium") or shutil.which("google-chrome")
    if not chromium:
        return rig.score.skip("the page", "no Chromium on this machine")
    # an origin for each visit: its /hold waits once
    rig.start_weir({name: Listener(rig.start_origin(), tls=True) for name in ("h2", "h1")})
    visit(rig, chromium, "h2", "h2", [])
    visit(rig, chromium, "h1", "http/1.1", ["--disable-http2"])


def visit(rig, chromium, listener, protocol, flags):
    score = rig.score
    profile = rig.folder / f"profile-{listener}"
    process = subprocess.Popen(
        [chromium, *FLAGS, *flags, f"--user-data-dir={profile}", f"https://localhost:{rig.ports[listener]}/page"],
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
        start_new_session=True,
    )
    rig.processes.append(process)
    try:
        dom = process.communicate(timeout=45)[0].decode(errors="replace")
    except subprocess.TimeoutExpired:
        return score.check(f"{protocol}: the browser ends", False, "not within 45 s")
    finally:
        shutil.rmtree(profile, ignore_errors=True)
    found = re.search(r'<pre id="result">(.*?)</pre>', dom, re.S)
    try:
        result = json.loads(html.unescape(found[1]))
    except (TypeError, ValueError):
        return score.check(f"{protocol}: the page reports", False, dom[:300])
    expected = {
        "images": IMAGES,
        "style": "17px",
        "protocol": protocol,
        "upload": True,
        "streamed": True,
        "download": 3000000,
        "aborted": "AbortError",
        "socket": ["h\u00e9llo", True, 200000, 4001, True],
        "closed": [4321, "as you wish"],
    }
    if protocol == "http/1.1":
        del expected["streamed"]  # Chromium streams an upload over HTTP/2 alone
    for name, value in expected.items():
        score.equal(f"{protocol}: {name}", result.get(name), value)
    score.check(f"{protocol}: a streamed response arrives in pieces", result.get("reads", 0) >= 4, result)
    score.equal(f"{protocol}: no error", result.get("error"), None)
