-- The ledger's tables, in the SQL that SQLite and PostgreSQL share. Times are µs since the Unix epoch, hours the first µs of a UTC
-- hour. Bytes that are not text stand as hexadecimal digits.

-- Where reading goes on: the first position of each part of each source whose records are not in the tables below.
CREATE TABLE sources (
    source TEXT NOT NULL,
    part TEXT NOT NULL,
    next_position BIGINT NOT NULL,
    PRIMARY KEY (source, part)
);

-- One row for each (node, epoch, shard): what came of it. `state` is the verifier's; `revision` fences off who did not see the last change.
CREATE TABLE streams (
    node TEXT NOT NULL,
    epoch BIGINT NOT NULL,
    shard BIGINT NOT NULL,
    revision BIGINT NOT NULL,
    next_seq BIGINT NOT NULL,
    last_at BIGINT NOT NULL,
    is_complete BIGINT NOT NULL,
    links_broken BIGINT NOT NULL,
    records BIGINT NOT NULL,
    duplicates BIGINT NOT NULL,
    state TEXT NOT NULL,
    PRIMARY KEY (node, epoch, shard)
);

-- Seqs that did not come: exact ranges, and between which times their records were written.
CREATE TABLE gaps (
    node TEXT NOT NULL,
    epoch BIGINT NOT NULL,
    shard BIGINT NOT NULL,
    first_seq BIGINT NOT NULL,
    next_seq BIGINT NOT NULL,
    cause TEXT NOT NULL,
    from_us BIGINT NOT NULL,
    to_us BIGINT NOT NULL,
    PRIMARY KEY (node, epoch, shard, first_seq)
);

-- Sessions and requests that are open, or of which a record is missing. `missing_…`: what later totals say that no record brought.
CREATE TABLE items (
    id TEXT NOT NULL PRIMARY KEY,
    node TEXT NOT NULL,
    epoch BIGINT NOT NULL,
    shard BIGINT NOT NULL,
    account TEXT NOT NULL,
    missing_received_bytes BIGINT NOT NULL,
    missing_sent_bytes BIGINT NOT NULL,
    missing_acked_bytes BIGINT NOT NULL,
    state TEXT NOT NULL
);

-- What usage is told apart by. `corrects`: the sealed period that a late record belongs to, else empty.
CREATE TABLE series (
    id BIGINT NOT NULL PRIMARY KEY,
    kind TEXT NOT NULL,
    account TEXT NOT NULL,
    endpoint TEXT NOT NULL,
    host TEXT NOT NULL,
    protocol TEXT NOT NULL,
    country TEXT NOT NULL,
    status_class BIGINT NOT NULL,
    billable BIGINT NOT NULL,
    reason TEXT NOT NULL,
    corrects TEXT NOT NULL
);
CREATE INDEX series_account ON series (account);

-- Usage by series and hour. Every meter is a formula over these columns.
CREATE TABLE usage (
    series BIGINT NOT NULL,
    hour BIGINT NOT NULL,
    received_body_bytes BIGINT NOT NULL,
    received_app_bytes BIGINT NOT NULL,
    received_wire_bytes BIGINT NOT NULL,
    sent_body_bytes BIGINT NOT NULL,
    sent_app_bytes BIGINT NOT NULL,
    sent_wire_bytes BIGINT NOT NULL,
    sent_acked_bytes BIGINT NOT NULL,
    upstream_sent_bytes BIGINT NOT NULL,
    upstream_received_bytes BIGINT NOT NULL,
    requests BIGINT NOT NULL,
    sessions BIGINT NOT NULL,
    session_us BIGINT NOT NULL,
    records BIGINT NOT NULL,
    fingerprint_0 BIGINT NOT NULL,
    fingerprint_1 BIGINT NOT NULL,
    fingerprint_2 BIGINT NOT NULL,
    fingerprint_3 BIGINT NOT NULL,
    PRIMARY KEY (series, hour)
);

-- What could not be read, as it came.
CREATE TABLE quarantine (
    source TEXT NOT NULL,
    part TEXT NOT NULL,
    position BIGINT NOT NULL,
    at BIGINT NOT NULL,
    reason TEXT NOT NULL,
    bytes TEXT NOT NULL,
    PRIMARY KEY (source, part, position)
);

-- Sealed periods, in order, and what they came to. Never changed.
CREATE TABLE periods (
    period TEXT NOT NULL PRIMARY KEY,
    from_us BIGINT NOT NULL,
    to_us BIGINT NOT NULL,
    sealed_at BIGINT NOT NULL,
    actor TEXT NOT NULL,
    holes TEXT NOT NULL
);
CREATE TABLE sealed_usage (
    period TEXT NOT NULL,
    account TEXT NOT NULL,
    meter TEXT NOT NULL,
    amount BIGINT NOT NULL,
    PRIMARY KEY (period, account, meter)
);

-- One row: a batch that begins a stream and a seal take turns by it.
CREATE TABLE fence (
    id BIGINT NOT NULL PRIMARY KEY,
    seals BIGINT NOT NULL,
    streams BIGINT NOT NULL
);
INSERT INTO fence (id, seals, streams) VALUES (1, 0, 0);
