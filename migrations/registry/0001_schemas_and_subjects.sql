-- A schema text, once for each id. One text has one id, unless an import gave it several.
CREATE TABLE registry_schemas (
    id int PRIMARY KEY CHECK (id >= 0),
    -- SHA-256 of text: texts may be longer than an index entry.
    hash bytea NOT NULL,
    text text NOT NULL
);
CREATE INDEX registry_schemas_hash ON registry_schemas (hash);

-- The versions of each subject. A softly deleted version keeps its number and its schema's id.
CREATE TABLE registry_versions (
    -- "C": subjects are listed in the order of their bytes, whatever the database's locale.
    subject text COLLATE "C" NOT NULL,
    version int NOT NULL CHECK (version > 0),
    schema_id int NOT NULL REFERENCES registry_schemas,
    deleted boolean NOT NULL DEFAULT false,
    PRIMARY KEY (subject, version)
);
CREATE INDEX registry_versions_schema_id ON registry_versions (schema_id);

-- What a subject sets for itself; the row without a subject is for all that set nothing.
CREATE TABLE registry_settings (
    subject text COLLATE "C" UNIQUE NULLS NOT DISTINCT,
    compatibility text CHECK (compatibility IN
        ('NONE', 'BACKWARD', 'BACKWARD_TRANSITIVE', 'FORWARD', 'FORWARD_TRANSITIVE', 'FULL', 'FULL_TRANSITIVE')),
    normalize boolean,
    mode text CHECK (mode IN ('READWRITE', 'READONLY', 'READONLY_OVERRIDE', 'IMPORT'))
);

-- The highest id ever given. Its row is also the lock under which everything is written, so that a schema registered
-- twice at once gets one id and the versions of a subject are contiguous.
CREATE TABLE registry_ids (
    only_row boolean PRIMARY KEY DEFAULT true CHECK (only_row),
    highest int NOT NULL
);
INSERT INTO registry_ids (highest) VALUES (0);
