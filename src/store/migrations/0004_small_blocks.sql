-- Blocks that are joined into larger ones when their hour is over.
CREATE INDEX blocks_small ON blocks (last_at) WHERE records < 1000;
