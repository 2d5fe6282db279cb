-- Nodes of which nothing more will come, although records of theirs are missing: who says so, and why. Added to, never changed.
CREATE TABLE lost_nodes (
    node TEXT NOT NULL,
    until BIGINT NOT NULL,
    at BIGINT NOT NULL,
    actor TEXT NOT NULL,
    reason TEXT NOT NULL,
    PRIMARY KEY (node, until)
);
