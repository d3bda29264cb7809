-- What payments knows of each order's money, folded from its stream. Rebuilt from events at any time; decides nothing.
CREATE TABLE payments (
    order_id       text PRIMARY KEY,
    -- The gateway's, once it has given one.
    payment_id     text,
    status         text NOT NULL,
    -- Null where the stream tells no amount: declined at once, or cancelled before the order was seen.
    amount_minor   bigint CHECK (amount_minor >= 0),
    currency       text,
    captured_minor bigint NOT NULL CHECK (captured_minor BETWEEN 0 AND coalesce(amount_minor, 0)),
    refunded_minor bigint NOT NULL CHECK (refunded_minor BETWEEN 0 AND captured_minor),
    -- Why it was declined, or why the last step failed.
    reason         text,
    -- Tries of an open intent so far, and when the next one is due.
    tries          int NOT NULL,
    next_try_at    timestamptz,
    -- Of the stream, and when its last event occurred.
    version        bigint NOT NULL,
    updated_at     timestamptz NOT NULL
-- A payment's row is written two or three times: room for that beside it keeps the index out of it.
) WITH (fillfactor = 70);
