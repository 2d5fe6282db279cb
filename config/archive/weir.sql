-- The questions that the other files here ask of their engines, as `weir query` is asked; a test holds the answers against one another.
-- Put an id of your own into the last.

-- question: bytes by account and day
SELECT account, date_trunc('day', at) AS day, sum(received_wire_bytes) AS received_bytes, sum(sent_wire_bytes) AS sent_bytes
FROM sessions GROUP BY account, date_trunc('day', at);

-- question: distinct addresses by account and day
SELECT account, date_trunc('day', at) AS day, count(DISTINCT coalesce(client_ip, client_ip_sealed)) AS addresses
FROM sessions GROUP BY account, date_trunc('day', at);

-- question: where data went
SELECT country, region, endpoint, count(DISTINCT session_id) AS sessions, sum(received_wire_bytes) AS received_bytes,
       sum(sent_wire_bytes) AS sent_bytes
FROM sessions GROUP BY country, region, endpoint;

-- question: one request by id
SELECT account, host, path, status, sent_app_bytes FROM requests
WHERE request_id = x'0192f1c2a4e35d0c9b1a7f3e00000001';
