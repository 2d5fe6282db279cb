-- Corrections by hand, and alerts.

-- The correction that a series belongs to; empty: it came of records.
ALTER TABLE series ADD COLUMN correction TEXT NOT NULL DEFAULT '';

-- Who corrected what, and why. Its amounts are usage of series that name it. Added to, never changed: undoing one is another one.
CREATE TABLE corrections (
    id TEXT NOT NULL PRIMARY KEY,
    number BIGINT NOT NULL,
    at BIGINT NOT NULL,
    actor TEXT NOT NULL,
    reason TEXT NOT NULL,
    what TEXT NOT NULL,
    undoes TEXT NOT NULL
);

-- A threshold of a budget that was passed: one row for each period, so that it fires once, whoever saw it first and however often
-- ledgers begin again. `next_at`: before this nobody else tries to deliver it.
CREATE TABLE alerts (
    account TEXT NOT NULL,
    meter TEXT NOT NULL,
    period TEXT NOT NULL,
    budget BIGINT NOT NULL,
    percent BIGINT NOT NULL,
    amount BIGINT NOT NULL,
    passed_at BIGINT NOT NULL,
    state TEXT NOT NULL,
    attempts BIGINT NOT NULL,
    next_at BIGINT NOT NULL,
    delivered_at BIGINT NOT NULL,
    problem TEXT NOT NULL,
    PRIMARY KEY (account, meter, period, budget, percent)
);
