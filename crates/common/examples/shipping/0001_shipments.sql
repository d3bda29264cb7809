-- What leaves when, folded from the streams. Rebuilt from events at any time; decides nothing.
CREATE TABLE shipments (
    order_id   text PRIMARY KEY,
    ship_by    date        NOT NULL,
    planned_at timestamptz NOT NULL
);
