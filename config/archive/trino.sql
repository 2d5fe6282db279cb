-- The archive in Trino, on S3 through its Hive connector. NOT TESTED: no test of this project runs Trino; the statements follow its
-- documentation. The same questions are tested on DuckDB, ClickHouse and Spark (tests/clients/archive_readers.py).
--
-- Needs a catalog `hive` with hive.non-managed-table-writes-enabled = true, hive.recursive-directories = true and hive.parquet.time-zone = UTC.
-- Put your bucket and folder below, and the list beside the archive, where nothing else is:
--   weir archive files --config weir.toml | aws s3 cp - s3://bucket/folder-files/files.csv

CREATE SCHEMA IF NOT EXISTS hive.weir;

CREATE TABLE hive.weir.files (path varchar)
WITH (external_location = 's3://bucket/folder-files/', format = 'CSV');

-- Columns are found by name in each file: only those that are asked about need to be here. Trino reads ids and addresses as varbinary.
CREATE TABLE hive.weir.all_requests
(
    account varchar, endpoint varchar, session_id varbinary, request_id varbinary, host varchar, method varchar, path varchar,
    status integer, country varchar, region varchar, "at" timestamp(6), received_app_bytes bigint, sent_app_bytes bigint
)
WITH (external_location = 's3://bucket/folder/requests/', format = 'PARQUET');

CREATE TABLE hive.weir.all_sessions
(
    account varchar, endpoint varchar, session_id varbinary, client_ip varbinary, client_ip_sealed varbinary, country varchar,
    region varchar, "at" timestamp(6), received_wire_bytes bigint, sent_wire_bytes bigint
)
WITH (external_location = 's3://bucket/folder/sessions/', format = 'PARQUET');

-- A folder holds more than the archive: for an hour, files that others have replaced.
CREATE VIEW hive.weir.requests AS SELECT * FROM hive.weir.all_requests
WHERE regexp_extract("$path", 'requests/hour=.*') IN (SELECT path FROM hive.weir.files);

CREATE VIEW hive.weir.sessions AS SELECT * FROM hive.weir.all_sessions
WHERE regexp_extract("$path", 'sessions/hour=.*') IN (SELECT path FROM hive.weir.files);

-- question: bytes by account and day
SELECT account, date_trunc('day', "at") AS day, sum(received_wire_bytes) AS received_bytes, sum(sent_wire_bytes) AS sent_bytes
FROM hive.weir.sessions GROUP BY account, date_trunc('day', "at");

-- question: distinct addresses by account and day
SELECT account, date_trunc('day', "at") AS day, count(DISTINCT coalesce(client_ip, client_ip_sealed)) AS addresses
FROM hive.weir.sessions GROUP BY account, date_trunc('day', "at");

-- question: where data went
SELECT country, region, endpoint, count(DISTINCT session_id) AS sessions, sum(received_wire_bytes) AS received_bytes,
       sum(sent_wire_bytes) AS sent_bytes
FROM hive.weir.sessions GROUP BY country, region, endpoint;

-- question: one request by id
SELECT account, host, path, status, sent_app_bytes FROM hive.weir.requests
WHERE request_id = X'0192f1c2a4e35d0c9b1a7f3e00000001';
