"""The archive in a bucket, as moto's server has it: written by archivers that are killed at any moment, by two at once, verified, joined,
erased; and the same as in a directory. A commit is a conditional put: of two archivers one makes each."""

import contextlib
import io
import itertools
import json
import os
import pathlib
import random
import subprocess
import sys
import time
import urllib.request

from rig import Listener, await_port, free_ports

KILLS = 8
BUCKET = "records"


def checks(rig):
    dice = random.Random(7)
    origin = rig.start_origin()
    rig.start_weir({"raw": Listener(origin, kind="tcp", more='account = "bolt"'), "web": Listener(origin, more='account = "acme"')})
    endpoint = start_server(rig)
    in_bucket = configured(rig, "bucket", f'"s3://{BUCKET}/weir"\nregion = "us-east-1"\nendpoint = "{endpoint}"')
    in_directory = configured(rig, "directory", f'"{rig.folder}/archive"')

    # Killed again and again, some time after it has committed; each goes on where the one before was.
    for _ in range(KILLS):
        before = committed(rig)
        archiver = rig.start(rig.binary, "archive", "run", "--config", in_bucket, env=environment())
        while committed(rig) == before and archiver.poll() is None:
            traffic(rig, 2)
        until = time.monotonic() + dice.uniform(0, 1.3)
        while time.monotonic() < until:
            traffic(rig, 1)
        archiver.kill()
        archiver.wait()
    status = weir(rig, in_bucket, "archive", "status", "--json")[1]
    rig.score.check("each has made commits", status["commits"] >= KILLS, status["commits"])

    # Two at once, one of which is killed: what one has committed the other does not.
    both = [rig.start(rig.binary, "archive", "run", "--config", in_bucket, env=environment()) for _ in range(2)]
    for _ in range(4):
        traffic(rig, 6)
        time.sleep(1)
    both[0].kill()
    traffic(rig, 6)
    time.sleep(2)
    rig.score.check("the other one goes on", both[1].poll() is None, "it ended")
    both[1].terminate()
    rig.score.equal("it ends with 0 on SIGTERM", both[1].wait(30), 0)

    rig.weir.terminate()
    rig.score.equal("weir ends with 0 on SIGTERM", rig.weir.wait(20), 0)
    rig.weir_ended = True
    for config in (in_bucket, in_directory):
        rig.score.equal("all is archived", weir(rig, config, "archive", "run", "--once")[0], 0)
    same(rig, in_bucket, in_directory, "archived")

    rig.score.equal("joined", [weir(rig, config, "archive", "compact")[0] for config in (in_bucket, in_directory)], [0, 0])
    same(rig, in_bucket, in_directory, "joined")

    # Killed while it erases, then done; the sums stay.
    for _ in range(3):
        eraser = rig.start(rig.binary, "erase", "--account", "acme", "--config", in_bucket, env=environment())
        time.sleep(dice.uniform(0.02, 0.4))
        eraser.kill()
        eraser.wait()
    erased = [weir(rig, config, "erase", "--account", "acme", "--json", "--actor", "me") for config in (in_bucket, in_directory)]
    rig.score.equal("erased", [code for code, _ in erased], [0, 0])
    again = [weir(rig, config, "erase", "--account", "acme", "--json", "--dry-run")[1] for config in (in_bucket, in_directory)]
    rows = [said["certificate"]["rows"] for said in again]
    rig.score.check("as many rows are theirs", rows[0] == rows[1] > 0, rows)
    same(rig, in_bucket, in_directory, "erased")
    check_emptied(rig, endpoint, in_bucket)


def start_server(rig):
    [port] = free_ports(1)
    # One request after the other: between looking whether a key is there and writing it, moto locks nothing.
    program = (
        "import sys; from moto.server import DomainDispatcherApplication, create_backend_app; from werkzeug.serving import run_simple; "
        "run_simple('127.0.0.1', int(sys.argv[1]), DomainDispatcherApplication(create_backend_app))"
    )
    server = rig.start(sys.executable, "-c", program, port)
    await_port(port, server, 60)
    endpoint = f"http://127.0.0.1:{port}"
    request = urllib.request.Request(f"{endpoint}/{BUCKET}", method="PUT")
    urllib.request.urlopen(request, timeout=20).close()
    return endpoint


def environment():
    return {**os.environ, "AWS_ACCESS_KEY_ID": "somebody", "AWS_SECRET_ACCESS_KEY": "secret"}


def configured(rig, name, place):
    """Keys of its own, and nothing of a ledger's: the two archives are held against each other."""
    config = rig.folder / f"{name}.toml"
    archive = f'[archive]\nplace = {place}\nkeys = "{rig.folder}/{name}-keys"\nbuckets = 2\ncommit_interval_s = 1\n'
    config.write_text((rig.folder / "weir.toml").read_text() + archive)
    return config


def traffic(rig, requests):
    for port, number in itertools.product(rig.ports.values(), range(requests)):
        subprocess.run(["curl", "-s", "-o", "/dev/null", f"http://127.0.0.1:{port}/bytes/{number * 7000}"], check=True, timeout=20)


def committed(rig):
    """How many commits archivers have told of."""
    return sum("archived" in line and "commit" in line for line in (rig.folder / f"{pathlib.Path(rig.binary).name}.log").open(errors="replace"))


def weir(rig, config, *arguments):
    """Its exit code, and what it said in JSON."""
    done = subprocess.run([rig.binary, *arguments, "--config", config], capture_output=True, text=True, timeout=120, env=environment())
    said = None
    with contextlib.suppress(ValueError):
        said = json.loads(done.stdout)
    if done.returncode and said is None:
        print(done.stderr[-600:], file=sys.stderr)
    return done.returncode, said


def same(rig, in_bucket, in_directory, when):
    """Nothing is wrong with either; both have every record, and the same sums."""
    proofs = []
    for config in (in_bucket, in_directory):
        code, proof = weir(rig, config, "archive", "verify", "--json")
        rig.score.equal(f"{when}: verify finds nothing wrong", (code, proof and proof["wrong"]), (0, []))
        proofs.append(proof or {})
    rows = len(rig.records())
    rig.score.equal(f"{when}: every record is a row", [proof.get("rows") for proof in proofs], [rows, rows])
    rig.score.equal(f"{when}: the sums are the same", proofs[0].get("sums"), proofs[1].get("sums"))
    rig.score.check(f"{when}: there are some", rows > 100 and any(proofs[0].get("sums", [])), rows)


def check_emptied(rig, endpoint, config):
    """What the manifest names says nothing of people in acme's rows."""
    import boto3
    import pyarrow.parquet

    notes = weir(rig, config, "archive", "verify", "--json")[1]["notes"]
    leftovers = {note.split()[0] for note in notes if "is named by no commit" in note}
    client = boto3.client("s3", endpoint_url=endpoint, region_name="us-east-1", aws_access_key_id="somebody", aws_secret_access_key="secret")
    theirs, words = 0, set()
    for page in client.get_paginator("list_objects_v2").paginate(Bucket=BUCKET, Prefix="weir/requests/"):
        for name in (found["Key"] for found in page["Contents"]):
            if name.removeprefix("weir/") in leftovers:
                continue
            table = pyarrow.parquet.read_table(io.BytesIO(client.get_object(Bucket=BUCKET, Key=name)["Body"].read()))
            for row in table.select(["account", "path", "client_ip", "client_ip_sealed", "client_port"]).to_pylist():
                if row.pop("account") == "acme":
                    theirs += 1
                    words.update(map(str, row.values()))
    rig.score.check("acme has rows", theirs > 50, theirs)
    rig.score.equal("nothing of theirs is left", words, {"", "None", "0"})
