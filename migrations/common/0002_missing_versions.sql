-- Versions of the key's stream that have not arrived although later ones have: the records of those later versions wait
-- for them, among the retries of the key. Ranges, because one hole can be of any size.
ALTER TABLE parked_keys ADD COLUMN missing int8multirange NOT NULL DEFAULT '{}';
