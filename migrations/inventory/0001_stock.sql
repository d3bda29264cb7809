-- How much there is of each SKU now. Decisions are taken on these rows, locked; the constraints are the last guard.
CREATE TABLE stock (
    -- Bytewise order, so that locking and paging agree everywhere.
    sku              text COLLATE "C" PRIMARY KEY,
    name             text NOT NULL,
    unit_price_minor bigint NOT NULL CHECK (unit_price_minor >= 0),
    on_hand          bigint NOT NULL,
    reserved         bigint NOT NULL,
    CHECK (on_hand >= reserved AND reserved >= 0)
-- A popular SKU's row is rewritten by every batch: room beside it keeps the index out of it.
) WITH (fillfactor = 50);

-- Every change of every level, append only: its sum up to a moment is the level as of then, and its sums by kind are the
-- ledger that an audit compares with the levels.
CREATE TABLE stock_movements (
    sku            text COLLATE "C" NOT NULL,
    -- Of the event, in this service's event store.
    occurred_at    timestamptz NOT NULL,
    position       bigint NOT NULL,
    kind           text NOT NULL
        CHECK (kind IN ('reserved', 'committed', 'released', 'returned', 'adjusted', 'received')),
    on_hand_delta  bigint NOT NULL,
    reserved_delta bigint NOT NULL,
    -- An event moves a SKU once. The deltas lie in the index, so that a sum never visits the table.
    PRIMARY KEY (sku, occurred_at, position) INCLUDE (on_hand_delta, reserved_delta)
);

-- Which receipts have been counted. Kept as long as the events, so that a receipt counts once however late it is repeated;
-- in a table, because a stream that remembered them all would grow without bound in memory.
CREATE TABLE receipts (
    sku        text COLLATE "C" NOT NULL,
    receipt_id text NOT NULL,
    quantity   bigint NOT NULL CHECK (quantity > 0),
    PRIMARY KEY (sku, receipt_id)
);
