#!/usr/bin/env python3
"""The archive in Spark.

    weir archive files --config weir.toml > archive.files
    spark-submit config/archive/spark.py /var/lib/weir/archive archive.files                # every question below
    spark-submit config/archive/spark.py s3a://bucket/folder archive.files "bytes by account and day"

`tables` is all that a notebook needs. A session's time zone decides what a day is: `session` sets UTC.
"""

import pathlib
import sys

QUESTIONS = {
    "bytes by account and day": """
        SELECT account, date_trunc('day', at) AS day, sum(received_wire_bytes) AS received_bytes, sum(sent_wire_bytes) AS sent_bytes
        FROM sessions GROUP BY account, date_trunc('day', at)""",
    "distinct addresses by account and day": """
        SELECT account, date_trunc('day', at) AS day, count(DISTINCT coalesce(client_ip, client_ip_sealed)) AS addresses
        FROM sessions GROUP BY account, date_trunc('day', at)""",
    "where data went": """
        SELECT country, region, endpoint, count(DISTINCT session_id) AS sessions, sum(received_wire_bytes) AS received_bytes,
               sum(sent_wire_bytes) AS sent_bytes
        FROM sessions GROUP BY country, region, endpoint""",
    "one request by id": """
        SELECT account, host, path, status, sent_app_bytes FROM requests
        WHERE request_id = X'0192f1c2a4e35d0c9b1a7f3e00000001'""",
}


def session(builder):
    """A session in which days are UTC's."""
    return builder.config("spark.sql.session.timeZone", "UTC").getOrCreate()


def tables(spark, archive, files):
    """Makes `requests` and `sessions` of an archive, whose files a list names: a folder holds more than what is the archive."""
    for table in ("requests", "sessions"):
        paths = [f"{archive}/{path}" for path in files if path.startswith(f"{table}/")]
        spark.read.parquet(*paths).createOrReplaceTempView(table)


def main():
    from pyspark.sql import SparkSession

    archive, files, *wanted = sys.argv[1:]
    spark = session(SparkSession.builder.appName("weir"))
    tables(spark, archive, pathlib.Path(files).read_text().splitlines())
    for name in wanted or QUESTIONS:
        print(name)
        spark.sql(QUESTIONS[name]).show(100, truncate=False)


if __name__ == "__main__":
    main()
