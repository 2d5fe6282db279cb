-- Usage in ClickHouse, for who outgrows one database: weir's topic → `records` (each record once) → `billed` (who pays for which byte).
--
-- Put your brokers and topic below, copy proto/ into ClickHouse's format_schema_path, then: clickhouse-client --multiquery < weir.sql
--
-- Needs layout = "batch" and format = "protobuf" in [sink.kafka] (the defaults).
--
-- Exactly once: ClickHouse reads Kafka at least once, and weir may send a record again. Both come with the same (node, epoch, shard,
-- seq), which is the table's key: read `records` with FINAL, as the views do, and every record is there once.
-- Complete: `gaps` names the seqs that are missing. An invoice needs it to be empty; the ledger (`weir ledger`) is still what seals a
-- month, corrects a sealed one, and sizes a gap. These views say the same as `weir usage` where nothing is missing.

CREATE DATABASE IF NOT EXISTS weir;

-- The topic. One row is one message: a batch of consecutive records of one shard.
CREATE TABLE weir.topic
(
    node String,
    epoch Int64,
    shard Int32,
    first_seq Int64,
    count Int32,
    records Nested
    (
        kind LowCardinality(String),
        phase LowCardinality(String),
        session_id String,
        request_id String,
        account String,
        endpoint String,
        started_at Int64,
        at Int64,
        status Int32,
        end LowCardinality(String),
        billable UInt8,
        reason LowCardinality(String),
        protocol String,
        listener String,
        host String,
        method String,
        path String,
        client_ip String,
        country String,
        asn Int64,
        received_body_bytes Int64,
        received_app_bytes Int64,
        received_wire_bytes Int64,
        sent_body_bytes Int64,
        sent_app_bytes Int64,
        sent_wire_bytes Int64,
        sent_acked_bytes Int64,
        upstream_sent_bytes Int64,
        upstream_received_bytes Int64,
        audit String,
        uncertain_bytes Int64,
        folded Int64,
        requests Int64,
        gap_epoch Int64,
        gap_shard Int32,
        gap_first_seq Int64,
        gap_next_seq Int64
    )
)
ENGINE = Kafka
SETTINGS kafka_broker_list = '127.0.0.1:9092',
         kafka_topic_list = 'weir.usage',
         kafka_group_name = 'clickhouse',
         kafka_format = 'ProtobufSingle',
         kafka_schema = 'weir/usage/v1/usage.proto:UsageBatch',
         kafka_handle_error_mode = 'stream',
         kafka_num_consumers = 1;

-- What cannot be read, as it came: it must be looked at, and what it held is a gap.
CREATE TABLE weir.quarantine
(
    topic LowCardinality(String),
    partition UInt64,
    offset UInt64,
    reason String,
    message String
)
ENGINE = ReplacingMergeTree
ORDER BY (topic, partition, offset);

CREATE MATERIALIZED VIEW weir.quarantine_from_topic TO weir.quarantine AS
SELECT _topic AS topic, _partition AS partition, _offset AS offset, _error AS reason, _raw_message AS message
FROM weir.topic
WHERE length(_error) > 0;

-- Every record once. A record that comes again has the same key and the same content; `at` is part of both, so it has the same month.
CREATE TABLE weir.records
(
    node LowCardinality(String),
    epoch Int64,
    shard Int32,
    seq Int64,
    kind LowCardinality(String),
    phase LowCardinality(String),
    session_id String,
    request_id String,
    account LowCardinality(String),
    endpoint LowCardinality(String),
    started_at DateTime64(6, 'UTC'),
    at DateTime64(6, 'UTC'),
    status Int32,
    end LowCardinality(String),
    billable Bool,
    reason LowCardinality(String),
    protocol LowCardinality(String),
    listener LowCardinality(String),
    host LowCardinality(String),
    method LowCardinality(String),
    path String,
    client_ip String,
    country LowCardinality(String),
    asn Int64,
    received_body_bytes Int64,
    received_app_bytes Int64,
    received_wire_bytes Int64,
    sent_body_bytes Int64,
    sent_app_bytes Int64,
    sent_wire_bytes Int64,
    sent_acked_bytes Int64,
    upstream_sent_bytes Int64,
    upstream_received_bytes Int64,
    audit String,
    uncertain_bytes Int64,
    folded Int64,
    requests Int64,
    gap_epoch Int64,
    gap_shard Int32,
    gap_first_seq Int64,
    gap_next_seq Int64
)
ENGINE = ReplacingMergeTree
PARTITION BY toYYYYMM(at)
ORDER BY (node, epoch, shard, seq);

CREATE MATERIALIZED VIEW weir.records_from_topic TO weir.records AS
SELECT
    node,
    epoch,
    shard,
    first_seq + index - 1 AS seq,
    lower(replaceOne(r.kind, 'KIND_', '')) AS kind,
    lower(replaceOne(r.phase, 'PHASE_', '')) AS phase,
    hex(r.session_id) AS session_id,
    hex(r.request_id) AS request_id,
    if(r.account = '', 'unattributed', r.account) AS account,
    r.endpoint AS endpoint,
    fromUnixTimestamp64Micro(r.started_at, 'UTC') AS started_at,
    fromUnixTimestamp64Micro(r.at, 'UTC') AS at,
    r.status AS status,
    lower(replaceOne(replaceOne(r.end, 'END_UNSPECIFIED', ''), 'END_', '')) AS end,
    r.billable AS billable,
    lower(replaceOne(replaceOne(r.reason, 'REASON_UNSPECIFIED', ''), 'REASON_', '')) AS reason,
    r.protocol AS protocol,
    r.listener AS listener,
    r.host AS host,
    r.method AS method,
    r.path AS path,
    -- 4 or 16 bytes; none where the privacy mode keeps none
    multiIf(length(r.client_ip) = 4, IPv4NumToString(reinterpretAsUInt32(reverse(r.client_ip))),
            length(r.client_ip) = 16, IPv6NumToString(toFixedString(r.client_ip, 16)), '') AS client_ip,
    r.country AS country,
    r.asn AS asn,
    r.received_body_bytes AS received_body_bytes,
    r.received_app_bytes AS received_app_bytes,
    r.received_wire_bytes AS received_wire_bytes,
    r.sent_body_bytes AS sent_body_bytes,
    r.sent_app_bytes AS sent_app_bytes,
    r.sent_wire_bytes AS sent_wire_bytes,
    r.sent_acked_bytes AS sent_acked_bytes,
    r.upstream_sent_bytes AS upstream_sent_bytes,
    r.upstream_received_bytes AS upstream_received_bytes,
    r.audit AS audit,
    r.uncertain_bytes AS uncertain_bytes,
    r.folded AS folded,
    r.requests AS requests,
    r.gap_epoch AS gap_epoch,
    r.gap_shard AS gap_shard,
    r.gap_first_seq AS gap_first_seq,
    r.gap_next_seq AS gap_next_seq
FROM weir.topic
ARRAY JOIN records AS r, arrayEnumerate(records.kind) AS index
WHERE length(_error) = 0;

-- Seqs that did not come, below the highest of their shard. Empty: everything up to there is in `records`.
CREATE VIEW weir.gaps AS
SELECT node, epoch, shard, before + 1 AS first_seq, seq AS next_seq
FROM
(
    SELECT node, epoch, shard, seq,
           lagInFrame(seq, 1, toInt64(-1)) OVER (PARTITION BY node, epoch, shard ORDER BY seq ROWS BETWEEN UNBOUNDED PRECEDING AND CURRENT ROW) AS before
    FROM (SELECT node, epoch, shard, seq FROM weir.records FINAL)
)
WHERE seq > before + 1;

-- Up to when each shard has said that everything came: the time of its latest record.
CREATE VIEW weir.watermarks AS
SELECT node, epoch, shard, max(seq) AS last_seq, max(at) AS last_at, max(kind = 'node' AND phase = 'close') AS is_complete
FROM weir.records FINAL
GROUP BY node, epoch, shard;

-- Who pays for which byte, one row for each record that brought some. A request's record bills the request. A session's record
-- bills what the session moved beyond the requests recorded since its record before (TLS, HTTP/2 frames; all of raw TCP).
CREATE VIEW weir.shares AS
SELECT
    kind, account, endpoint, protocol, country, toStartOfHour(at) AS hour, billable, reason, node, epoch, shard, seq, session_id, status,
    host, phase, requests AS session_requests, closes,
    if(kind = 'request', received_body_bytes, received_body_bytes - of_requests.1) AS received_body_bytes,
    if(kind = 'request', received_app_bytes, received_app_bytes - of_requests.2) AS received_app_bytes,
    if(kind = 'request', received_wire_bytes, received_wire_bytes - of_requests.3) AS received_wire_bytes,
    if(kind = 'request', sent_body_bytes, sent_body_bytes - of_requests.4) AS sent_body_bytes,
    if(kind = 'request', sent_app_bytes, sent_app_bytes - of_requests.5) AS sent_app_bytes,
    if(kind = 'request', sent_wire_bytes, sent_wire_bytes - of_requests.6) AS sent_wire_bytes,
    if(kind = 'request', sent_acked_bytes, sent_acked_bytes - of_requests.7) AS sent_acked_bytes,
    if(kind = 'request' AND phase = 'close', greatest(folded, 1), 0) AS requests,
    toInt64(kind = 'session' AND phase = 'close') AS sessions
FROM
(
    SELECT
        *,
        (
            sumIf(received_body_bytes, kind = 'request') OVER covered,
            sumIf(received_app_bytes, kind = 'request') OVER covered,
            sumIf(received_wire_bytes, kind = 'request') OVER covered,
            sumIf(sent_body_bytes, kind = 'request') OVER covered,
            sumIf(sent_app_bytes, kind = 'request') OVER covered,
            sumIf(sent_wire_bytes, kind = 'request') OVER covered,
            sumIf(sent_acked_bytes, kind = 'request') OVER covered
        ) AS of_requests,
        countIf(kind = 'request' AND phase = 'close') OVER (PARTITION BY node, epoch, shard, session_id) AS closes
    FROM
    (
        SELECT
            *,
            -- the session's record that covers this one
            minIf(seq, kind = 'session') OVER (PARTITION BY node, epoch, shard, session_id ORDER BY seq ROWS BETWEEN CURRENT ROW AND UNBOUNDED FOLLOWING) AS covered_by
        FROM weir.records FINAL
        WHERE kind IN ('request', 'session')
    )
    WINDOW covered AS (PARTITION BY node, epoch, shard, session_id, covered_by)
);

-- The sums of it. A session that began more requests than have a record of their own (folded, lost) is not billed for what it moved
-- beyond them: reason `unitemised`.
CREATE VIEW weir.billed AS
SELECT
    account, endpoint, protocol, country, hour, kind, host, intDiv(status, 100) AS status_class,
    billable AND NOT is_unitemised AS billable,
    if(is_unitemised AND billable, 'unitemised', reason) AS reason,
    sum(received_body_bytes) AS received_body_bytes,
    sum(received_app_bytes) AS received_app_bytes,
    sum(received_wire_bytes) AS received_wire_bytes,
    sum(sent_body_bytes) AS sent_body_bytes,
    sum(sent_app_bytes) AS sent_app_bytes,
    sum(sent_wire_bytes) AS sent_wire_bytes,
    sum(sent_acked_bytes) AS sent_acked_bytes,
    sum(requests) AS requests,
    sum(sessions) AS sessions
FROM
(
    SELECT
        *,
        kind = 'session' AND max(kind = 'session' AND phase = 'close' AND session_requests > closes) OVER (PARTITION BY node, epoch, shard, session_id) AS is_unitemised
    FROM weir.shares
)
GROUP BY account, endpoint, protocol, country, hour, kind, host, status_class, billable, reason;
