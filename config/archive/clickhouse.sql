-- The archive in ClickHouse, on a disk that it can read: clickhouse-client --multiquery < clickhouse.sql. clickhouse-s3.sql has the
-- tables for S3.
--
-- Put your archive and the list of its files below: weir archive files --config weir.toml > /var/lib/weir/archive.files

CREATE DATABASE IF NOT EXISTS weir_archive;

CREATE OR REPLACE VIEW weir_archive.files AS
SELECT line AS path FROM file('/var/lib/weir/archive.files', LineAsString);

-- A folder holds more than the archive: for an hour, files that others have replaced. `_path` is looked at before a file is opened.
CREATE OR REPLACE VIEW weir_archive.requests AS
SELECT * FROM file('/var/lib/weir/archive/requests/*/*/*.parquet', Parquet)
WHERE extract(_path, 'requests/hour=.*') IN (SELECT path FROM weir_archive.files);

CREATE OR REPLACE VIEW weir_archive.sessions AS
SELECT * FROM file('/var/lib/weir/archive/sessions/*/*/*.parquet', Parquet)
WHERE extract(_path, 'sessions/hour=.*') IN (SELECT path FROM weir_archive.files);

-- question: bytes by account and day
SELECT account, toDate(at, 'UTC') AS day, sum(received_wire_bytes) AS received_bytes, sum(sent_wire_bytes) AS sent_bytes
FROM weir_archive.sessions GROUP BY account, day;

-- question: distinct addresses by account and day
SELECT account, toDate(at, 'UTC') AS day, uniqExact(coalesce(client_ip, client_ip_sealed)) AS addresses
FROM weir_archive.sessions GROUP BY account, day;

-- question: where data went
SELECT country, region, endpoint, uniqExact(session_id) AS sessions, sum(received_wire_bytes) AS received_bytes,
       sum(sent_wire_bytes) AS sent_bytes
FROM weir_archive.sessions GROUP BY country, region, endpoint;

-- question: one request by id
SELECT account, host, path, status, sent_app_bytes FROM weir_archive.requests
WHERE request_id = unhex('0192f1c2a4e35d0c9b1a7f3e00000001');
