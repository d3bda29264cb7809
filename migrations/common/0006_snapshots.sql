-- What a long stream folded to at a version, so that loading it need not begin at its beginning. `fold` is a hash of the code
-- that folded: what another code folded is ignored, and overwritten when the stream goes on.
CREATE TABLE snapshots (
    stream_id text   PRIMARY KEY,
    version   bigint NOT NULL CHECK (version > 0),
    fold      bigint NOT NULL,
    state     bytea  NOT NULL
);
