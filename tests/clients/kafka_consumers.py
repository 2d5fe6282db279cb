"""What weir sends to Kafka, read by others: confluent-kafka with the published .proto, kcat, Kafka's own console consumer."""

import collections
import importlib
import json
import shutil
import subprocess
import sys
import time

from broker import ROOT, apache_kafka, consume
from rig import Listener, number

TOPIC = "foreign"
REQUESTS = 40
# What a number of the .proto is called in `weir events --json`.
KINDS = {1: "session", 2: "request", 3: "node", 4: "gap"}


def checks(rig):
    with apache_kafka(rig) as (servers, kafka):
        if not servers:
            return
        origin = rig.start_origin()
        forms = {"batch": "", "lone": 'layout = "record"\nformat = "json"\n'}
        for name, form in forms.items():
            sink = f'kind = "kafka"\nbootstrap_servers = "{servers}"\ntopic = "{TOPIC}-{name}"\n[sink.kafka]\npartitions = 1\nreplication = 1\n{form}'
            shutil.rmtree(rig.folder / "state", ignore_errors=True)
            rig.start_weir({"web": Listener(origin)}, sink=sink)
            for n in range(REQUESTS):
                subprocess.run(["curl", "-s", "-o", rig.folder / "got", f"http://127.0.0.1:{rig.ports['web']}/{n}"], check=True)
            expected = journal(rig)
            rig.weir.terminate()
            rig.score.equal(f"{name}: weir ends well", rig.weir.wait(30), 0)
            rig.weir_ended = True
            consumers = {"batch": [python_protobuf, kcat_headers, java_headers], "lone": [python_cloud_events]}
            for consumer in consumers[name]:
                rig.score.attempt(f"{name}: {consumer.__name__}", consumer, rig, servers, f"{TOPIC}-{name}", expected, kafka)


def journal(rig):
    """The journal's records by place, once every request is among them."""
    deadline = time.monotonic() + 20
    while True:
        records = {(r["epoch"], r["shard"], r["seq"]): r for r in rig.records()}
        if sum(r["kind"] == "request" and r["phase"] == "close" for r in records.values()) >= REQUESTS:
            return records
        assert time.monotonic() < deadline, f"{len(records)} records and not {REQUESTS} requests"
        time.sleep(0.1)


def gapless(places):
    """Each (epoch, shard) from 0, every seq once."""
    chains = collections.defaultdict(list)
    for epoch, shard, seq in places:
        chains[epoch, shard].append(seq)
    for chain, seqs in chains.items():
        assert seqs == list(range(len(seqs))), f"{chain}: {seqs}"


def python_protobuf(rig, servers, topic, expected, _kafka):
    """The types are generated from the published .proto by protoc; every value equals what `weir events` prints."""
    proto = ROOT / "proto"
    out = rig.folder / "python"
    out.mkdir(exist_ok=True)
    subprocess.run([sys.executable, "-m", "grpc_tools.protoc", f"-I{proto}", f"--python_out={out}", "weir/usage/v1/usage.proto"], check=True)
    sys.path.insert(0, str(out))
    usage = importlib.import_module("weir.usage.v1.usage_pb2")
    places = []
    for message in consume(servers, topic):
        headers = dict(message.headers())
        assert headers["weir-schema"] == b"weir.usage.v1.UsageBatch", headers
        batch = usage.UsageBatch.FromString(message.value())
        assert message.key() == f"{batch.node}/{batch.shard}".encode()
        assert batch.count == len(batch.records)
        assert headers["weir-seq"] == f"{batch.first_seq}-{batch.first_seq + batch.count - 1}".encode()
        for seq, record in enumerate(batch.records, batch.first_seq):
            place = (batch.epoch, batch.shard, seq)
            places.append(place)
            if place in expected:
                same(record, expected[place])
    gapless(places)
    assert set(expected) <= set(places), set(expected) - set(places)


def same(record, printed):
    assert KINDS[record.kind] == printed["kind"], printed
    for name in ("received_app_bytes", "sent_app_bytes", "total_sent_wire_bytes", "total_sent_acked_bytes", "status", "at", "started_at"):
        assert getattr(record, name) == number(printed, name), (name, printed)
    for name in ("account", "host", "method", "path", "listener"):
        assert getattr(record, name) == (printed.get(name) or ""), (name, printed)


def python_cloud_events(_rig, servers, topic, expected, _kafka):
    places, ids = [], set()
    for message in consume(servers, topic):
        event = json.loads(message.value())
        assert event["specversion"] == "1.0" and event["type"] and event["source"].startswith("/weir/"), event
        assert (event["source"], event["id"]) not in ids, f"twice: {event}"
        ids.add((event["source"], event["id"]))
        data = event["data"]
        place = (data["epoch"], data["shard"], data["seq"])
        places.append(place)
        if place in expected:
            assert data == expected[place], (data, expected[place])
    gapless(places)
    assert set(expected) <= set(places)


def seqs_of(lines, expected):
    """Ranges of `weir-seq` and the shard in the key, as a consumer prints them: together they hold what is expected."""
    found = collections.Counter()
    for headers, key in lines:
        fields = dict(pair.split("=" if "=" in pair else ":", 1) for pair in headers.split(","))
        assert fields["weir-schema"] == "weir.usage.v1.UsageBatch", headers
        first, last = map(int, fields["weir-seq"].split("-"))
        found.update((int(key.rsplit("/", 1)[1]), seq) for seq in range(first, last + 1))
    assert max(found.values()) == 1, "a record came twice"
    assert {(shard, seq) for _, shard, seq in expected} <= set(found), "records are missing"


def kcat_headers(rig, servers, topic, expected, _kafka):
    if not shutil.which("kcat"):
        return rig.score.skip("kcat", "not on this machine")
    command = ["kcat", "-C", "-q", "-e", "-b", servers, "-t", topic, "-f", "%h|%k\n"]
    output = subprocess.run(command, capture_output=True, timeout=30, check=True).stdout.decode()
    seqs_of([line.split("|") for line in output.splitlines()], expected)


def java_headers(_rig, _servers, topic, expected, kafka):
    done = kafka("consume", topic, "--timeout-ms", 8000, "--property", "print.value=false", "--property", "key.separator=|", seconds=60)
    lines = [line.split("|")[:2] for line in done.stdout.decode().splitlines() if line.startswith("weir-schema")]
    assert lines, done.stderr[-500:]
    seqs_of([(headers, key) for headers, key in lines], expected)
