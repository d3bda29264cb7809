-- The read model of orders: one row an order, written in the transaction of the events it is folded from.
--
-- A row changes only when its order's status does: an answer that is merely written down costs no update here. All of a
-- row follows from the events, whatever batches they came in, so a rebuild from the log gives the same rows.
CREATE TABLE orders (
    order_id     uuid        PRIMARY KEY,
    customer_id  text        NOT NULL,
    currency     text        NOT NULL,
    total_minor  bigint      NOT NULL,
    reference    text,
    placed_at    timestamptz NOT NULL,
    status       text        NOT NULL,
    -- Since when it has this status.
    since        timestamptz NOT NULL,
    -- Why it was cancelled.
    reason       text,
    -- What went wrong, while it is stuck.
    stuck_reason text,
    -- By when the status must change; null once it need not change by itself.
    due_at       timestamptz
);

-- One index for every listing: those of one status, and, merged from the few there are, those of all.
CREATE INDEX orders_by_status ON orders (status, placed_at DESC, order_id DESC);
