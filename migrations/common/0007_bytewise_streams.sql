-- A stream's name is bytes to us, not words of some language: in bytewise order its index is built and searched faster, and
-- does not break when the C library's rules of a language change. The table is not written anew; its index is, and nobody
-- writes meanwhile. Whoever owns or may read the view that is in the way does so afterwards.
DO $$
DECLARE
    granted text[] := ARRAY(
        SELECT format('GRANT %s ON outbox TO %s%s', privilege_type,
                      CASE grantee WHEN 0 THEN 'PUBLIC' ELSE grantee::regrole::text END,
                      CASE WHEN is_grantable THEN ' WITH GRANT OPTION' ELSE '' END)
        FROM pg_class, aclexplode(relacl) WHERE pg_class.oid = 'outbox'::regclass AND grantee <> relowner);
    owner text := (SELECT relowner::regrole::text FROM pg_class WHERE oid = 'outbox'::regclass);
    statement text;
BEGIN
    DROP VIEW outbox;
    ALTER TABLE events ALTER COLUMN stream_id TYPE text COLLATE "C";
    CREATE VIEW outbox AS
    SELECT id, split_part(type, '.', 1) AS aggregatetype, stream_id AS aggregateid, type, payload, position, occurred_at
    FROM events;
    FOREACH statement IN ARRAY granted LOOP
        EXECUTE statement;
    END LOOP;
    EXECUTE format('ALTER VIEW outbox OWNER TO %s', owner);
END $$;
