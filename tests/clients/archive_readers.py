"""The archive's Parquet in programs that know nothing of weir: DuckDB, ClickHouse (chdb), pandas over pyarrow, Spark. Each opens every
column of every table, and says the same sums as the records, and the same as `weir usage`."""

import collections
import json
import shutil
import subprocess

from rig import Listener

COLUMNS = ("received_wire_bytes", "sent_app_bytes", "sent_acked_bytes")
# Of 16 bytes each, without a logical type.
BINARY = {"session_id", "request_id", "client_ip", "client_ip_sealed", "peer_ip", "peer_ip_sealed"}


def checks(rig):
    origin = rig.start_origin()
    archive = rig.folder / "archive"
    rig.start_weir({"raw": Listener(origin, kind="tcp", more='account = "bolt"'), "web": Listener(origin, more='account = "acme"')})
    for path in ("hello", "bytes/200000", "chunked/70000", "status/404", "status/503"):
        for port in rig.ports.values():
            subprocess.run(["curl", "-s", "-o", "/dev/null", f"http://127.0.0.1:{port}/{path}"], check=True, timeout=20)
    config = rig.folder / "archive.toml"
    config.write_text((rig.folder / "weir.toml").read_text() + f'\n[archive]\nplace = "{archive}"\nbuckets = 2\n')
    for attempt in range(2):
        done = subprocess.run([rig.binary, "archive", "run", "--once", "--config", config], capture_output=True, text=True, timeout=60)
        rig.score.equal(f"archived, run {attempt + 1}", done.returncode, 0)
    verified = subprocess.run([rig.binary, "archive", "verify", "--json", "--config", config], capture_output=True, text=True, timeout=60)
    proof = json.loads(verified.stdout)
    rig.score.equal("verify finds nothing wrong", (verified.returncode, proof["wrong"]), (0, []))
    files = {table: sorted(str(path) for path in (archive / table).rglob("*.parquet")) for table in ("requests", "sessions", "nodes")}
    expected = truth(rig, files)
    for name, reader in (("duckdb", by_duckdb), ("chdb", by_chdb), ("pandas", by_pandas), ("spark", by_spark)):
        if name == "spark" and not shutil.which("java"):
            rig.score.skip("spark", "there is no java")
            continue
        for table in ("requests", "sessions"):
            found = reader(rig, table, files[table])
            rig.score.equal(f"{name}: {table} by account", found, expected[table])


def truth(rig, files):
    """Table → account → sums, of as many records as there are rows by now."""
    import pyarrow.parquet

    rows = {table: {place for path in paths for place in places(pyarrow.parquet.read_table(path, partitioning=None))} for table, paths in files.items()}
    expected = {}
    for table, kind in (("requests", "request"), ("sessions", "session")):
        sums = collections.defaultdict(lambda: [0] * len(COLUMNS))
        count = 0
        for record in rig.records():
            if record["kind"] == kind and (record["node"], record["epoch"], record["shard"], record["seq"]) in rows[table]:
                count += 1
                sums[record["account"]] = [sum(pair) for pair in zip(sums[record["account"]], (record[column] for column in COLUMNS))]
        rig.score.check(f"{table}: there are some", count >= 5, count)
        rig.score.equal(f"{table}: each row is a record", count, len(rows[table]))
        expected[table] = dict(sums)
    return expected


def places(table):
    return zip(*(table.column(name).to_pylist() for name in ("node", "epoch", "shard", "seq")))


def by_duckdb(rig, table, paths):
    import duckdb

    types = {row[0]: row[1] for row in duckdb.sql(f"DESCRIBE SELECT * FROM read_parquet({paths!r})").fetchall()}
    check_types(rig, "duckdb", types, {"BIGINT", "INTEGER", "VARCHAR", "BLOB", "BOOLEAN", "TIMESTAMP WITH TIME ZONE", "VARCHAR[]"})
    rig.score.equal("duckdb: ids are bytes", {types[name] for name in BINARY & set(types)}, {"BLOB"})
    duckdb.sql(f"CREATE OR REPLACE TEMP TABLE all_rows AS SELECT * FROM read_parquet({paths!r})")
    sums = ", ".join(f"sum({column})::BIGINT" for column in COLUMNS)
    rows = duckdb.sql(f"SELECT account, {sums} FROM read_parquet({paths!r}) GROUP BY account").fetchall()
    return {row[0]: list(row[1:]) for row in rows}


def check_types(rig, name, types, allowed):
    strange = {column: kind for column, kind in types.items() if kind not in allowed}
    rig.score.equal(f"{name}: every column has a plain type", strange, {})


def by_chdb(rig, table, paths):
    import chdb

    # Its braces take no whole paths.
    source = "(" + " UNION ALL ".join(f"SELECT * FROM file('{path}', Parquet)" for path in paths) + ")"
    chdb.query(f"SELECT * FROM {source}", "JSONEachRow")
    sums = ", ".join(f"toString(sum({column})) AS {column}" for column in COLUMNS)
    rows = [json.loads(line) for line in str(chdb.query(f"SELECT account, {sums} FROM {source} GROUP BY account", "JSONEachRow")).splitlines()]
    return {row["account"]: [int(row[column]) for column in COLUMNS] for row in rows}


def by_pandas(rig, table, paths):
    import pandas

    frame = pandas.concat(pandas.read_parquet(path, partitioning=None) for path in paths)
    rig.score.check("pandas: ids are 16 bytes", all(len(id) == 16 for id in frame["session_id"].dropna()))
    rig.score.equal("pandas: times are in UTC", str(frame["at"].dt.tz), "UTC")
    sums = frame.assign(account=frame["account"].astype(str)).groupby("account")[list(COLUMNS)].sum()
    return {account: [int(value) for value in row] for account, row in zip(sums.index, sums.to_numpy())}


def by_spark(rig, table, paths):
    from pyspark.sql import SparkSession

    spark = SparkSession.builder.master("local[1]").config("spark.ui.enabled", "false").config("spark.sql.session.timeZone", "UTC").getOrCreate()
    frame = spark.read.parquet(*paths)
    types = dict(frame.dtypes)
    check_types(rig, "spark", types, {"bigint", "int", "string", "binary", "boolean", "timestamp", "array<string>"})
    frame.collect()
    sums = frame.groupBy("account").sum(*COLUMNS).collect()
    return {row[0]: list(row[1:]) for row in sums}
