-- What the portal shows beside usage. BYTES is each database's own type of bytes.

-- Records of sessions and requests as they came, many in one row: `bytes` is zstd over length-delimited usage records that say their
-- own position. All of one block lie in one UTC hour. Written with the batch that brought them; deleted when they are old.
CREATE TABLE blocks (
    id TEXT NOT NULL PRIMARY KEY,
    first_at BIGINT NOT NULL,
    last_at BIGINT NOT NULL,
    records BIGINT NOT NULL,
    bytes BYTES NOT NULL
);
CREATE INDEX blocks_last_at ON blocks (last_at, id);

-- Whose records lie in which block.
CREATE TABLE block_accounts (
    account TEXT NOT NULL,
    last_at BIGINT NOT NULL,
    block TEXT NOT NULL,
    first_at BIGINT NOT NULL,
    PRIMARY KEY (account, last_at, block)
);

-- Who looked at what. Rows are added and, when they are old, deleted; none is changed.
CREATE TABLE access (
    at BIGINT NOT NULL,
    subject TEXT NOT NULL,
    scope TEXT NOT NULL,
    account TEXT NOT NULL,
    path TEXT NOT NULL,
    query TEXT NOT NULL,
    status BIGINT NOT NULL,
    row_count BIGINT NOT NULL
);
CREATE INDEX access_at ON access (at);
