-- The archive in DuckDB: duckdb -init config/archive/duckdb.sql. For S3 put INSTALL httpfs; LOAD httpfs; and a secret before it.
--
-- Put your archive and the list of its files below: weir archive files --config weir.toml > /var/lib/weir/archive.files
SET VARIABLE archive = '/var/lib/weir/archive';
SET VARIABLE files = '/var/lib/weir/archive.files';

SET TimeZone = 'UTC';

CREATE TEMP MACRO files_of(wanted) AS
(
    SELECT list(getvariable('archive') || '/' || path)
    FROM read_csv(getvariable('files'), header = false, columns = {'path': 'VARCHAR'})
    WHERE starts_with(path, wanted || '/')
);
SET VARIABLE requests = files_of('requests');
SET VARIABLE sessions = files_of('sessions');

CREATE TEMP VIEW requests AS SELECT * FROM read_parquet(getvariable('requests'), hive_partitioning = false);
CREATE TEMP VIEW sessions AS SELECT * FROM read_parquet(getvariable('sessions'), hive_partitioning = false);

-- question: bytes by account and day
SELECT account, "at"::DATE AS day, sum(received_wire_bytes)::BIGINT AS received_bytes, sum(sent_wire_bytes)::BIGINT AS sent_bytes
FROM sessions GROUP BY account, "at"::DATE;

-- question: distinct addresses by account and day
SELECT account, "at"::DATE AS day, count(DISTINCT coalesce(client_ip, client_ip_sealed)) AS addresses
FROM sessions GROUP BY account, "at"::DATE;

-- question: where data went
SELECT country, region, endpoint, count(DISTINCT session_id) AS sessions, sum(received_wire_bytes)::BIGINT AS received_bytes,
       sum(sent_wire_bytes)::BIGINT AS sent_bytes
FROM sessions GROUP BY country, region, endpoint;

-- question: one request by id
SELECT account, host, path, status, sent_app_bytes FROM requests
WHERE request_id = unhex('0192f1c2a4e35d0c9b1a7f3e00000001');
