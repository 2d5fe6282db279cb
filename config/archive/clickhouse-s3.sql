-- The archive in ClickHouse, on S3 or what speaks like it: the tables of clickhouse.sql, of which the questions go on to be asked.
--
-- Put your bucket, folder and keys below (leave the keys out where ClickHouse has a role), and in the directory that ClickHouse reads
-- files from the list: weir archive files --config weir.toml > /var/lib/weir/archive.files

CREATE DATABASE IF NOT EXISTS weir_archive;

CREATE OR REPLACE VIEW weir_archive.files AS
SELECT line AS path FROM file('/var/lib/weir/archive.files', LineAsString);

CREATE OR REPLACE VIEW weir_archive.requests AS
SELECT * FROM s3('https://bucket.s3.eu-central-1.amazonaws.com/folder/requests/*/*/*.parquet', 'KEY', 'SECRET', Parquet)
WHERE extract(_path, 'requests/hour=.*') IN (SELECT path FROM weir_archive.files);

CREATE OR REPLACE VIEW weir_archive.sessions AS
SELECT * FROM s3('https://bucket.s3.eu-central-1.amazonaws.com/folder/sessions/*/*/*.parquet', 'KEY', 'SECRET', Parquet)
WHERE extract(_path, 'sessions/hour=.*') IN (SELECT path FROM weir_archive.files);
