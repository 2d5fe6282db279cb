"""schemathesis against the ledger's API: everything that openapi.json allows, and much that it does not."""

import os
import pathlib
import re
import subprocess
import sys
import time

from rig import Listener

# What is not true of this API on purpose. An empty value asks for nothing, as a form's empty field does; a GET with a body is a GET.
EXCLUDED = "negative_data_rejection,positive_data_acceptance"


def checks(rig):
    origin = rig.start_origin()
    rig.start_weir({"acme": Listener(origin, more='account = "acme"'), "globex": Listener(origin, more='account = "globex"')})
    config = rig.folder / "weir.toml"
    for name, port in rig.ports.items():
        for _ in range(20):
            subprocess.run(["curl", "-s", "-o", "/dev/null", "-H", f"host: {name}.example", f"http://127.0.0.1:{port}/"], timeout=20)
    key = rig.folder / "portal.key"
    issue = [rig.binary, "token", "issue", "--key", key]
    subprocess.run([rig.binary, "token", "key", key], check=True, capture_output=True)
    portal = f'[portal]\nlisten = "127.0.0.1:0"\npublic_keys = ["{key}.pub"]\nrequests_per_minute_max = 1000000\n'
    ledger_config = rig.folder / "ledger.toml"
    ledger_config.write_text(config.read_text() + "\n" + portal)
    ledger = rig.start(rig.binary, "ledger", "--config", ledger_config)
    url = address(rig, ledger)
    tokens = {
        "customer": subprocess.run([*issue, "--account", "acme"], check=True, capture_output=True, text=True).stdout.strip(),
        "operator": subprocess.run([*issue, "--scope", "admin"], check=True, capture_output=True, text=True).stdout.strip(),
    }
    schemathesis = pathlib.Path(sys.executable).parent / "schemathesis"
    for name, token in tokens.items():
        command = [schemathesis, "run", f"{url}/openapi.json", "--header", f"Authorization: Bearer {token}", "--phases", "examples,coverage,fuzzing"]
        command += ["--checks", "all", "--exclude-checks", EXCLUDED, "--max-examples", "60", "--seed", "7", "--continue-on-failure", "--no-color"]
        done = subprocess.run([str(c) for c in command], capture_output=True, text=True, cwd=rig.folder, timeout=500, env={**os.environ, "PYTHONUTF8": "1"})
        (rig.folder / f"schemathesis-{name}.log").write_text(done.stdout + done.stderr)
        failed = done.stdout[done.stdout.find("= FAILURES") :] if "= FAILURES" in done.stdout else done.stdout[-1500:] + done.stderr[-500:]
        rig.score.check(f"schemathesis as {name}", done.returncode == 0, failed)
        ran = re.search(r"(\d+) generated", done.stdout)
        rig.score.check(f"schemathesis as {name} asked a lot", ran is not None and int(ran.group(1)) > 500, done.stdout[-300:])
    rig.score.check("the ledger still runs", ledger.poll() is None)
    ledger.terminate()
    rig.score.equal("the ledger ends with 0", ledger.wait(20), 0)


def address(rig, ledger):
    """Where its log says that it listens."""
    log = rig.folder / f"{pathlib.Path(rig.binary).name}.log"
    for _ in range(300):
        found = re.search(r"the portal listens.*?(http://127\.0\.0\.1:\d+)", log.read_text(errors="replace") if log.exists() else "")
        if found:
            return found.group(1)
        if ledger.poll() is not None:
            break
        time.sleep(0.1)
    raise RuntimeError("the portal does not listen")
