-- PostgreSQL alone: what grows with time lies in one partition for each UTC month, so that a month that is to be forgotten goes as a
-- table goes, and what is new stays small. What was there is carried over. Before 2020 and from 2100 on there is one partition each:
-- clocks may say anything.

ALTER TABLE usage RENAME TO usage_whole;
ALTER TABLE usage_whole RENAME CONSTRAINT usage_pkey TO usage_whole_pkey;
CREATE TABLE usage (LIKE usage_whole, PRIMARY KEY (series, hour)) PARTITION BY RANGE (hour);

ALTER TABLE blocks RENAME TO blocks_whole;
ALTER TABLE blocks_whole RENAME CONSTRAINT blocks_pkey TO blocks_whole_pkey;
DROP INDEX blocks_last_at;
CREATE TABLE blocks (LIKE blocks_whole, PRIMARY KEY (id, last_at)) PARTITION BY RANGE (last_at);
CREATE INDEX blocks_last_at ON blocks (last_at, id);

ALTER TABLE block_accounts RENAME TO block_accounts_whole;
ALTER TABLE block_accounts_whole RENAME CONSTRAINT block_accounts_pkey TO block_accounts_whole_pkey;
CREATE TABLE block_accounts (LIKE block_accounts_whole, PRIMARY KEY (account, last_at, block)) PARTITION BY RANGE (last_at);

ALTER TABLE access RENAME TO access_whole;
DROP INDEX access_at;
CREATE TABLE access (LIKE access_whole) PARTITION BY RANGE (at);
CREATE INDEX access_at ON access (at);

DO $$
DECLARE
    parted RECORD;
    month TIMESTAMP;
    first_us CONSTANT BIGINT := 1577836800000000;
    last_us CONSTANT BIGINT := 4102444800000000;
BEGIN
    FOR parted IN
        SELECT * FROM (VALUES ('usage', 'hour'), ('blocks', 'last_at'), ('block_accounts', 'last_at'), ('access', 'at')) AS t (name, time)
    LOOP
        EXECUTE format('CREATE TABLE %I PARTITION OF %I FOR VALUES FROM (MINVALUE) TO (%s)', parted.name || '_early', parted.name, first_us);
        EXECUTE format('CREATE TABLE %I PARTITION OF %I FOR VALUES FROM (%s) TO (MAXVALUE)', parted.name || '_late', parted.name, last_us);
        FOR month IN EXECUTE format(
            'SELECT DISTINCT date_trunc(''month'', to_timestamp(%1$I / 1000000) AT TIME ZONE ''UTC'') FROM %2$I WHERE %1$I >= %3$s AND %1$I < %4$s',
            parted.time, parted.name || '_whole', first_us, last_us
        ) LOOP
            EXECUTE format(
                'CREATE TABLE %I PARTITION OF %I FOR VALUES FROM (%s) TO (%s)',
                parted.name || to_char(month, '"_"YYYYMM'), parted.name,
                (extract(epoch FROM month) * 1000000)::BIGINT, (extract(epoch FROM month + INTERVAL '1 month') * 1000000)::BIGINT
            );
        END LOOP;
        EXECUTE format('INSERT INTO %I SELECT * FROM %I', parted.name, parted.name || '_whole');
        EXECUTE format('DROP TABLE %I', parted.name || '_whole');
    END LOOP;
END
$$;
