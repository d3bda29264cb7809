-- A restore of this database that was begun and has not ended: no service starts on it. phase: 0 importing, 1 folding.
CREATE TABLE restore (
    one       boolean     PRIMARY KEY DEFAULT true CHECK (one),
    phase     smallint    NOT NULL DEFAULT 0,
    begun_at  timestamptz NOT NULL DEFAULT now()
);

-- How far the service's own topic has been imported, and the last event of each partition.
CREATE TABLE restore_partitions (
    partition     int    PRIMARY KEY,
    first_offset  bigint NOT NULL,
    next_offset   bigint NOT NULL,
    end_offset    bigint NOT NULL,
    last_offset   bigint,
    last_position bigint
);
