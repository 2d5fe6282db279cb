"""config/clickhouse on the real ClickHouse engine (chdb-core; from 26.3 on its Kafka engine refuses to start): the same totals as `weir ledger`, from the same topic of a real broker.

Every message is in the topic twice, beside one that is none.
"""

import collections
import contextlib
import json
import re
import shutil
import signal
import sqlite3
import subprocess
import time

from broker import ROOT, apache_kafka, consume
from rig import Listener

TOPIC = "usage"
# A meter of the ledger → what it is in config/clickhouse. (What `weir usage` calls requests and sessions has no filter but billable.)
METERS = {
    "egress_bytes": "sent_acked_bytes",
    "ingress_bytes": "received_wire_bytes",
    "requests": "requests",
    "sessions": "sessions",
}
SECONDS = 60


def checks(rig):
    with apache_kafka(rig) as (servers, _):
        if not servers:
            return
        origin = rig.start_origin()
        sink = f'kind = "kafka"\nbootstrap_servers = "{servers}"\ntopic = "{TOPIC}"\n[sink.kafka]\npartitions = 1\nreplication = 1\nbatch_records_max = 20'
        listeners = {
            "web": Listener(origin, more='account = "acme"\nendpoint = "web"'),
            "secure": Listener(origin, tls=True, more='account = "bolt"\nendpoint = "secure"'),
            "raw": Listener(origin, kind="tcp", more='account = "acme"\nendpoint = "raw"'),
        }
        rig.start_weir(listeners, sink=sink)
        drive(rig)
        rig.weir.send_signal(signal.SIGTERM)
        rig.score.equal("weir ends well", rig.weir.wait(30), 0)
        rig.weir_ended = True
        messages = consume(servers, TOPIC)
        rig.score.check("the topic has several batches", len(messages) > 3, len(messages))
        send_again(servers, messages)
        end = 2 * len(messages) + 1
        ledger = by_ledger(rig, end)
        clickhouse = ClickHouse(rig, servers)
        try:
            clickhouse.await_records(len(rig.records()))
            compare(rig, ledger, clickhouse, end)
        finally:
            clickhouse.close()


def drive(rig):
    """Small, large, chunked, refused, aborted, several on a connection, over TLS, HTTP/2 and raw TCP."""
    web, secure, raw = (rig.ports[name] for name in ("web", "secure", "raw"))
    plain, tls, tcp = f"http://127.0.0.1:{web}", f"https://127.0.0.1:{secure}", f"http://127.0.0.1:{raw}"
    curl = ["curl", "-s", "-k", "-o", "/dev/null"]
    upload = rig.folder / "upload"
    upload.write_bytes(b"u" * 300_000)
    for base in (plain, tls, tcp):
        for path in ("hello", "bytes/200000", "chunked/70000", "status/404", "status/503"):
            subprocess.run([*curl, f"{base}/{path}"], check=True)
        subprocess.run([*curl, f"{base}/a", *several(f"{base}/b", f"{base}/c")], check=True)
        subprocess.run([*curl, "-T", upload, f"{base}/digest"], check=True)
        subprocess.run([*curl, "--limit-rate", "300k", "--max-time", "1", f"{base}/bytes/9000000"])
    subprocess.run([*curl, "--http2", f"{tls}/0", *several(f"{tls}/1", f"{tls}/2")], check=True)
    if shutil.which("h2load"):
        subprocess.run(["h2load", "-n", "300", "-c", "3", "-m", "10", f"{tls}/hello"], check=True, capture_output=True)
        subprocess.run(["h2load", "--h1", "-n", "300", "-c", "3", f"{plain}/hello"], check=True, capture_output=True)


def several(*addresses):
    return [argument for address in addresses for argument in ("-o", "/dev/null", address)]


def send_again(servers, messages):
    """Every message once more, in another order of batches, and one that is none."""
    from confluent_kafka import Producer

    producer = Producer({"bootstrap.servers": servers})
    for message in reversed(messages):
        producer.produce(TOPIC, value=message.value(), key=message.key(), headers=message.headers(), partition=0)
    producer.produce(TOPIC, value=b"\xffthis is no batch", key=b"x", partition=0)
    assert producer.flush(30) == 0, "the broker did not take everything"


def by_ledger(rig, end):
    """Billable amounts as `weir usage` prints them, meter → account → amount, once the ledger has read the topic to this offset."""
    config, database = rig.folder / "weir.toml", rig.folder / "state/ledger.db"
    ledger = rig.start(rig.binary, "ledger", "--config", config)
    until = time.monotonic() + SECONDS
    while True:
        try:
            with contextlib.closing(sqlite3.connect(f"file:{database}?mode=ro", uri=True)) as store:
                [(position,)] = store.execute("SELECT max(next_position) FROM sources")
        except sqlite3.OperationalError:
            position = None  # there is no store yet
        if position == end:
            break
        assert time.monotonic() < until, f"the ledger is at {position} of {end}"
        time.sleep(0.2)
    ledger.send_signal(signal.SIGTERM)
    rig.score.equal("weir ledger ends well", ledger.wait(20), 0)
    printed = subprocess.run([rig.binary, "usage", "--config", config, "--by", "account", "--json"], capture_output=True, check=True, timeout=30)
    *lines, last = map(json.loads, printed.stdout.splitlines())
    rig.score.equal("the ledger misses nothing", last["missing_records"], 0)
    return {meter: {line["account"]: line[meter] for line in lines if line[meter]} for meter in METERS}


class ClickHouse:
    """The tables of config/clickhouse in a ClickHouse of our own."""

    def __init__(self, rig, servers):
        from chdb import session

        self.session = session.Session(str(rig.folder / "clickhouse"))
        text = (ROOT / "config/clickhouse/weir.sql").read_text()
        # What the file tells its reader to put there.
        for name, old, new in (
            ("brokers", "'127.0.0.1:9092'", f"'{servers}'"),
            ("topic", "'weir.usage'", f"'{TOPIC}'"),
            ("schema", "'weir/usage/v1/usage.proto:", f"'{ROOT}/proto/weir/usage/v1/usage.proto:"),
        ):
            rig.score.equal(f"the file names {name} once", text.count(old), 1)
            text = text.replace(old, new)
        for statement in re.sub(r"--.*", "", text).split(";"):
            if statement.strip():
                self.session.query(statement)

    def rows(self, sql):
        return [json.loads(line) for line in str(self.session.query(sql, "JSONEachRow")).splitlines()]

    def await_records(self, expected):
        until = time.monotonic() + SECONDS
        while True:
            [found] = self.rows("SELECT toInt32(count()) AS n, toInt32((SELECT count() FROM weir.quarantine)) AS q FROM weir.records FINAL")
            if found["n"] >= expected and found["q"]:
                return
            assert time.monotonic() < until, f"{found} and not {expected} records"
            time.sleep(0.5)

    def close(self):
        # Before the broker: the reader of the topic would wait for it.
        for name in ("quarantine_from_topic", "records_from_topic", "topic"):
            self.session.query(f"DROP TABLE IF EXISTS weir.{name}")
        self.session.close()


def compare(rig, ledger, clickhouse, end):
    score = rig.score
    score.equal("no gap", clickhouse.rows("SELECT * FROM weir.gaps"), [])
    quarantined = clickhouse.rows("SELECT toInt32(offset) AS offset FROM weir.quarantine FINAL")
    score.equal("what is no message is quarantined, behind everything else", quarantined, [{"offset": end - 1}])
    for meter, column in METERS.items():
        rows = clickhouse.rows(f"SELECT account, toString(sum({column})) AS amount FROM weir.billed WHERE billable GROUP BY account HAVING sum({column}) != 0")
        found = {row["account"]: int(row["amount"]) for row in rows}
        score.check(f"{meter}: there is some", sum(found.values()) > 10, found)
        score.equal(f"{meter} by account equals the ledger's", found, ledger[meter])
    sessions = collections.Counter()
    for record in rig.records():
        if record["kind"] == "session":
            sessions[record["account"]] += int(record.get("received_wire_bytes") or 0)
    rows = clickhouse.rows("SELECT account, toString(sum(received_wire_bytes)) AS amount FROM weir.billed GROUP BY account")
    score.equal("shares sum up to the sessions", {row["account"]: int(row["amount"]) for row in rows}, dict(sessions))
