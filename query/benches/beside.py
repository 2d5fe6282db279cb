#!/usr/bin/env python3
"""The same four questions to weir-query, to DuckDB, and to jq and grep, over the same files, in one run.

    cargo bench -p weir-query --bench questions -- --records 50000000 --archive /var/tmp/archive
    python3 -m venv venv && venv/bin/pip install duckdb
    venv/bin/python query/benches/beside.py --archive /var/tmp/archive --weir-query target/release/weir-query [--lines 1000000]

Each engine answers each question --runs times, one after the other in turn, with the files in the system's cache; it prints the median in
ms, and whether the answers are the same. weir-query is a new process each time (it reads the manifest, and writes the access log);
DuckDB is one process whose views name all files. jq and grep read --lines JSON lines, as many as the archive's first files hold; their
times are for so many only, which the output says.
"""

import argparse
import csv
import io
import json
import pathlib
import statistics
import subprocess
import tempfile
import time

import duckdb

QUESTIONS = {
    "bytes by account and day": (
        "SELECT account, CAST(\"at\" AS DATE) AS day, sum(sent_wire_bytes) AS sent FROM requests GROUP BY account, CAST(\"at\" AS DATE)",
        ["jq", "-c", "[.account, .at[0:10], .sent_wire_bytes]"],
    ),
    "sessions of an account from some countries": (
        "SELECT session_id FROM sessions WHERE account = 'account-3' AND country IN ('FR', 'IN', 'BR')",
        None,
    ),
    "distinct addresses by account": (
        "SELECT account, count(DISTINCT client_ip) AS addresses FROM sessions GROUP BY account",
        None,
    ),
    "one request by id": ("SELECT path FROM requests WHERE request_id = {id}", ["grep", "{hex}"]),
}


def timed(ask, runs):
    times, answer = [], None
    for _ in range(runs):
        begun = time.perf_counter()
        answer = ask()
        times.append((time.perf_counter() - begun) * 1000)
    return statistics.median(times), answer


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--archive", required=True, type=pathlib.Path)
    parser.add_argument("--weir-query", required=True)
    parser.add_argument("--runs", type=int, default=5)
    parser.add_argument("--lines", type=int, default=0)
    args = parser.parse_args()
    work = pathlib.Path(tempfile.mkdtemp())

    duck = duckdb.connect()
    duck.execute("SET threads = 2; SET TimeZone = 'UTC'")
    for table in ("requests", "sessions"):
        duck.execute(f"CREATE VIEW {table} AS SELECT * FROM read_parquet('{args.archive}/{table}/*/*/*.parquet', hive_partitioning = false)")
    rows = duck.execute("SELECT count(*) FROM requests").fetchall()[0][0]
    found = duck.execute(f"SELECT request_id FROM requests OFFSET {rows // 2} LIMIT 1").fetchall()[0][0]
    lines = work / "requests.jsonl"
    if args.lines:
        columns = "* REPLACE (lower(hex(request_id)) AS request_id, lower(hex(session_id)) AS session_id, lower(hex(client_ip)) AS client_ip)"
        duck.execute(f"COPY (SELECT {columns} FROM requests LIMIT {args.lines}) TO '{lines}' (FORMAT json)")

    def weir(sql):
        command = [args.weir_query, "query", "--archive", str(args.archive), "--access-log", str(work / "access.jsonl")]
        command += ["--format", "csv", "--rows-max", "10000000", sql]
        out = subprocess.run(command, capture_output=True, text=True, check=True).stdout
        return sorted(tuple(row) for row in list(csv.reader(io.StringIO(out)))[1:])

    def duckdb_rows(sql):
        def text(value):
            return value.hex() if isinstance(value, bytes) else str(value)

        return sorted(tuple(text(value) for value in row) for row in duck.execute(sql).fetchall())

    for name, (sql, tool) in QUESTIONS.items():
        ours = sql.replace("{id}", f"x'{found.hex()}'")
        theirs = sql.replace("{id}", "unhex('" + found.hex() + "')")
        weir_ms, weir_answer = timed(lambda: weir(ours), args.runs)
        duck_ms, duck_answer = timed(lambda: duckdb_rows(theirs), args.runs)
        line = {"question": name, "weir_ms": round(weir_ms, 1), "duckdb_ms": round(duck_ms, 1), "same": weir_answer == duck_answer, "rows": len(weir_answer)}
        if tool and args.lines:
            command = [part.replace("{hex}", found.hex()) for part in tool] + [str(lines)]
            tool_ms, _ = timed(lambda: subprocess.run(command, capture_output=True).returncode, 1)
            line[f"{tool[0]}_ms_of_{args.lines}"] = round(tool_ms, 1)
        print(json.dumps(line))


if __name__ == "__main__":
    main()
