"""The archive's Parquet in programs that know nothing of weir: DuckDB, ClickHouse (chdb), pandas over pyarrow, Spark. Each opens every
column of every table, and says the same sums as the records. Then the recipes of config/archive, as they are there: each engine's answers are
those of `weir query`, also on S3 (moto), and although the folders hold a file that is not the archive's."""

import collections
import importlib.util
import json
import os
import pathlib
import shutil
import subprocess
import sys

from rig import Listener, await_port, free_ports

RECIPES = pathlib.Path(__file__).resolve().parents[2] / "config/archive"

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
    recipes(rig, config, archive, files)


def truth(rig, files):
    """Table → account → sums, of as many records as there are rows by now."""
    import pyarrow.parquet

    rows = {table: {place for path in paths for place in rows_of(pyarrow.parquet.read_table(path, partitioning=None))} for table, paths in files.items()}
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


def rows_of(table):
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


def recipes(rig, config, archive, files):
    """The files of config/archive, with this archive in them."""
    listed = rig.folder / "archive.files"
    listed.write_bytes(weir(rig, "archive", "files", "--config", config))
    names = listed.read_text().splitlines()
    found = {str(pathlib.Path(path).relative_to(archive)) for paths in files.values() for path in paths}
    rig.score.equal("weir archive files names every file there is", set(names), found)
    # As one that has been replaced: whoever takes all that is there counts its rows twice.
    for name in names:
        shutil.copy(archive / name, (archive / name).with_name("replaced.parquet"))
    [id] = [record["request_id"] for record in rig.records() if record["kind"] == "request" and record["path"] == "/status/404"]
    expected = by_weir_query(rig, config, id)
    for name, answers in (("duckdb.sql", ask_duckdb), ("clickhouse.sql", ask_clickhouse), ("spark.py", ask_spark)):
        if name == "spark.py" and not shutil.which("java"):
            rig.score.skip(name, "there is no java")
            continue
        compare(rig, name, answers(rig, archive, listed, id), expected)
    on_s3(rig, config, id, expected)


def weir(rig, *arguments, **environment):
    command = [rig.binary, *map(str, arguments)]
    return subprocess.run(command, capture_output=True, check=True, timeout=120, env={**os.environ, **environment}).stdout


def compare(rig, name, answers, expected):
    for question, rows in answers.items():
        if expected is not None:
            rig.score.equal(f"{name}: {question}, as weir query says", rows, expected[question])
        rig.score.check(f"{name}: {question}: there is something", rows, rows)
    if expected is not None:
        rig.score.equal(f"{name}: every question", set(answers), set(expected))


def recipe(name, **replaced):
    """A file of SQL: what comes before its questions, and each question by name; what its reader should put there is put there."""
    text = (RECIPES / name).read_text()
    for old, new in replaced.values():
        assert old in text, f"{name} does not say {old}"
        text = text.replace(old, str(new))
    text = "\n".join(line for line in text.splitlines() if not line.startswith("--") or line.startswith("-- question: "))
    tables, *questions = text.split("-- question: ")
    questions = dict(question.split("\n", 1) for question in questions)
    return [statement for statement in tables.split(";") if statement.strip()], {name: sql.strip().rstrip(";") for name, sql in questions.items()}


def places(archive, listed):
    """What every recipe has of its reader's."""
    return {"files": ("/var/lib/weir/archive.files", listed), "archive": ("/var/lib/weir/archive", archive)}


def example(id):
    return {"id": ("0192f1c2a4e35d0c9b1a7f3e00000001", id)}


def plain(rows):
    """Rows of any engine: days as days, numbers as digits, in one order."""
    return sorted(tuple(str(value)[:10] if is_day(value) else str(value) for value in row) for row in rows)


def is_day(value):
    return hasattr(value, "isoformat") or isinstance(value, str) and value.endswith("T00:00:00Z")


def by_weir_query(rig, config, id, **environment):
    if not pathlib.Path(rig.binary).with_name("weir-query").exists():
        rig.score.skip("weir query", "there is no weir-query: cargo build -p weir-query")
        return None
    tables, questions = recipe("weir.sql", **example(id))
    assert not tables, "weir query has its tables"
    answers = {}
    for name, sql in questions.items():
        answer = json.loads(weir(rig, "query", "--config", config, "--format", "json", sql, **environment))
        answers[name] = plain(row.values() for row in answer["rows"])
    return answers


def ask_duckdb(rig, archive, listed, id):
    import duckdb

    tables, questions = recipe("duckdb.sql", **places(archive, listed), **example(id))
    connection = duckdb.connect()
    for statement in tables:
        connection.execute(statement)
    return {name: plain(connection.execute(sql).fetchall()) for name, sql in questions.items()}


def ask_clickhouse(rig, archive, listed, id):
    tables, questions = recipe("clickhouse.sql", **places(archive, listed), **example(id))
    return clickhouse(rig, "on-disk", tables, questions)


def clickhouse(rig, name, tables, questions):
    from chdb import session

    engine = session.Session(str(rig.folder / f"clickhouse-{name}"))
    try:
        for statement in tables:
            engine.query(statement)
        rows = {name: str(engine.query(sql, "JSONCompactEachRow")).splitlines() for name, sql in questions.items()}
    finally:
        engine.close()
    return {name: plain(json.loads(line) for line in lines) for name, lines in rows.items()}


def ask_spark(rig, archive, listed, id):
    from pyspark.sql import SparkSession

    spec = importlib.util.spec_from_file_location("recipe_spark", RECIPES / "spark.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    spark = module.session(SparkSession.builder.master("local[1]").config("spark.ui.enabled", "false"))
    module.tables(spark, archive, listed.read_text().splitlines())
    [(old, new)] = example(id).values()
    return {name: plain(spark.sql(sql.replace(old, new)).collect()) for name, sql in module.QUESTIONS.items()}


def on_s3(rig, config, id, expected):
    """The same records, archived on S3 and asked there."""
    [port] = free_ports(1)
    await_port(port, rig.start(pathlib.Path(sys.executable).with_name("moto_server"), "-H", "127.0.0.1", "-p", port), 60)
    endpoint, keys = f"http://127.0.0.1:{port}", {"AWS_ACCESS_KEY_ID": "KEY", "AWS_SECRET_ACCESS_KEY": "SECRET"}
    subprocess.run(["curl", "-sf", "-X", "PUT", f"{endpoint}/traffic"], check=True, timeout=20)
    config_s3 = rig.folder / "archive-s3.toml"
    text = config.read_text().split("[archive]")[0]
    config_s3.write_text(f'{text}[archive]\nplace = "s3://traffic/weir"\nbuckets = 2\nendpoint = "{endpoint}"\nregion = "us-east-1"\n')
    weir(rig, "archive", "run", "--once", "--config", config_s3, **keys)
    listed = rig.folder / "archive-s3.files"
    listed.write_bytes(weir(rig, "archive", "files", "--config", config_s3, **keys))
    if expected is not None:
        rig.score.equal("weir query on S3", by_weir_query(rig, config_s3, id, **keys), expected)
    bucket = ("https://bucket.s3.eu-central-1.amazonaws.com/folder/", f"{endpoint}/traffic/weir/")
    tables, _ = recipe("clickhouse-s3.sql", bucket=bucket, files=("/var/lib/weir/archive.files", listed))
    _, questions = recipe("clickhouse.sql", **example(id))
    compare(rig, "clickhouse-s3.sql", clickhouse(rig, "s3", tables, questions), expected)
